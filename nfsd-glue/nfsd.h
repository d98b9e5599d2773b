/*
 * The NFS server as a whole: NFS version 3, MOUNT, NLM and NSM over one RPC server, beside the FUSE front on the layer contract, with the state that
 * lets another node carry on. Built and driven by the daemon; off unless `[nfs] listen` is set.
 *
 *	new -> start (listens) -> role ... -> stop -> free
 *
 * Roles (nfsd_role), as the node's worker tells them:
 *	STANDBY		only reading: a change is ROFS
 *	CHANGING	the role is being taken or given up: a change waits a moment for the outcome, then is JUKEBOX; no lock is granted
 *	PRIMARY		a fresh write verifier; replay cache and locks in force
 * When the role was given up (CHANGING or PRIMARY -> STANDBY) all connections are cut off, and calls in flight are not answered: clients connect again and
 * send them again, to whoever has the address then. So a switchover costs them no JUKEBOX (a Linux client waits 5 s for one).
 */
#ifndef NFSD_GLUE_NFSD_H
#define NFSD_GLUE_NFSD_H

#include "fs/base/conf.h"
#include "fs/layer.h"
#include "fs/lock.h"
#include "fs/observe.h"
#include "mirror/apply.h"
#include "mirror/interpose.h"
#include "nfsd-glue/clients.h"
#include "nfsd-glue/exports.h"

enum nfsd_role { NFSD_STANDBY, NFSD_CHANGING, NFSD_PRIMARY };

/* All borrowed, longer than the server lives. */
struct nfsd_config {
	const struct volume_conf *conf;
	struct exports *exports;
	struct layer *top;
	struct lock_table *locks;
	struct observers *observers;
	struct interpose *ip;
	struct apply *apply;
	struct queue *queue;
	const struct volume_limits *limits;	/* for FSINFO and PATHCONF */
	unsigned char uuid[UUID_LEN];
	const unsigned char *mac_key;		/* at least WIREFH_KEY_LEN bytes */
	uint32_t generation;
	unsigned node;
	int state_dir_fd;
	void (*settle)(void *arg);		/* before the reply to a change: the kernel has dropped what it made stale. NULL = no mount */
	/* Before a change of contents: what programs changed through mappings in this range is written; LEN 0 = to the end. */
	void (*flush_range)(void *arg, uint64_t id, uint64_t off, uint64_t len);
	void *arg;
};

struct nfsd;
int nfsd_new(const struct nfsd_config *cfg, struct nfsd **out);
/* Listens: who connects waits until nfsd_start. Before the role may come, for a service address must not answer with refused connections. What went wrong is in the log. */
int nfsd_listen(struct nfsd *n);
/* Serves. What went wrong is in the log. */
int nfsd_start(struct nfsd *n);
/* Quick, but for PRIMARY -> STANDBY, which waits until the connections are cut. */
void nfsd_role(struct nfsd *n, enum nfsd_role role);
/* The stream's next ops are of an epoch of the node PRIMARY. */
void nfsd_following(struct nfsd *n, unsigned primary);
/* A local flush failed: what was written unstably may be lost, clients must write it again. */
void nfsd_flush_failed(struct nfsd *n);
/* The state for PEER, before it counts as level (replica.h). */
int nfsd_snapshot(struct nfsd *n, unsigned peer);
/* No call is answered any more when this returns; locks and state stay until nfsd_free. */
void nfsd_stop(struct nfsd *n);
void nfsd_free(struct nfsd *n);		/* NULL is fine */

struct nfsd_status {
	uint16_t port;
	unsigned connections, files;		/* open files kept */
	uint64_t clients, mounts, calls, refused_handles, replay_hits, replay_entries, locks;
	uint64_t grace_ms;			/* locks are only given back to who held them, for so long still */
	bool complete;				/* the replicated state is all there */
};
void nfsd_status(struct nfsd *n, struct nfsd_status *out);
struct clients *nfsd_clients(struct nfsd *n);
struct replica *nfsd_replica(struct nfsd *n);

#endif
