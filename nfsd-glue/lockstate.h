/*
 * The lock state of NFS clients, as all nodes have it: whose locks and shares they are, and their way into the ordered stream and out of it.
 *
 *	hosts    a client machine: the name that it calls itself (NLM's caller_name) and its address. Both count: nobody can name another's locks by its name
 *	owners   (host, svid, oh), NLM's whole identity of a lock's owner, found by hashing, compared by bytes. A number (lock_owner.key) stands for it in the lock table,
 *	         which holds references; an owner lives as long as one. Numbers are each node's own: records carry the identity
 *	journal  of the lock table, and of the shares: each change becomes a record (REPLICA_LOCK) under the mutex that guards the table, before it is made
 *	part     of replica.h: applies records, writes the snapshot
 *
 * Locks of programs on this node's mount are recorded, too, with this node as holder, so that they are in the way on other nodes; nobody waits for these records.
 * When another node is promoted, it drops them.
 *
 * A record of a host says the number by which NSM knows its present life (`state`); a host that comes with another one has started anew, and its locks are dropped.
 * Hosts are kept (durably, nsm1.h) beyond their locks, so that they can be told of a start that lost locks.
 *
 * Records (all little-endian, first byte REPLICA_VERSION, second the kind) are described in docs/protocol.md.
 *
 * Lock order: lock table's mutex or shares' mutex, then `mu` here, a leaf.
 */
#ifndef NFSD_GLUE_LOCKSTATE_H
#define NFSD_GLUE_LOCKSTATE_H

#include <sys/socket.h>

#include "fs/lock.h"
#include "mirror/interpose.h"
#include "nfsd-glue/lockrec.h"
#include "nfsd-glue/replica.h"
#include "nfsd-glue/shares.h"

enum {
	LOCK_HOSTS_MAX = 4096,		/* when full, one without owners makes room; */
	LOCK_HOSTS_EACH = 64,		/* so it does for the names of one address */
	LOCK_HOST_OWNERS_MAX = 1 << 16,	/* owners of one host, */
	LOCK_HOST_OWNERS_BYTES = 16 << 20,	/* their memory, */
	LOCK_OWNERS_BYTES = 128 << 20,	/* and that of all owners */
};

struct lockstate;
struct lock_host {
	char name[LOCK_NAME_MAX + 1];	/* this and ADDR never change */
	unsigned char addr[16];		/* IPv6, or IPv4 mapped */
	/* guarded by lockstate's mu */
	unsigned char local[16];	/* our address that it called first; 0 = not known */
	int32_t state;			/* NSM's number of its present life; 0 = not known */
	uint32_t owners, owners_bytes;
	uint32_t refs;			/* owners, and callers of lockstate_host */
	struct lock_host *next;
	uint32_t blocks;		/* NLM's own: requests that wait */
};
/* One owner: what lock_owner.who of an NFS client points to. Never changes. */
struct lock_ident {
	struct lock_who who;		/* must be first */
	struct lockstate *of;
	uint64_t key;
	struct lock_host *host;		/* a reference */
	uint32_t svid;
	uint32_t oh_len;
	struct lock_ident *next;	/* guarded by lockstate's mu */
	unsigned char oh[];
};

struct lockstate_config {
	struct lock_table *locks;
	struct interpose *ip;		/* NULL: nothing is recorded (tests) */
	unsigned node;			/* this one */
	/* A host came, changed or went: the durable list is to be written. Any thread, under `mu`: only signals. May be NULL. */
	void (*hosts_changed)(void *arg);
	void *arg;
};
/* Installs the journal of the lock table; lockstate_free takes it away (nobody may use the table then). */
int lockstate_new(const struct lockstate_config *cfg, struct lockstate **out);
void lockstate_free(struct lockstate *s);
void lockstate_part(struct lockstate *s, struct replica_part *out);

/* ---- hosts ---- */
/* The host that calls itself NAME from PEER, made when it isn't there: then it is recorded before this returns. STATE (0 = not said): another one than
 * known means that it has started anew: its locks and shares are dropped. LOCAL: our address that it called; may be NULL. OUT: a reference. 0; -ENOLCK: too
 * many; the journal's error (not primary). */
int lockstate_host(struct lockstate *s, const char *name, const struct sockaddr_storage *peer, const struct sockaddr_storage *local, int32_t state,
		   struct lock_host **out);
/* The same without making or changing anything: -ENOENT. */
int lockstate_find_host(struct lockstate *s, const char *name, const struct sockaddr_storage *peer, struct lock_host **out);
/* Its state now. */
int32_t lockstate_host_life(struct lockstate *s, const struct lock_host *h);
void lockstate_host_ref(struct lockstate *s, struct lock_host *h);
void lockstate_host_put(struct lockstate *s, struct lock_host *h);
/* SM_NOTIFY from PEER: NAME has started anew, with STATE. Drops locks and shares of PEER's hosts of that name (of which one may be the short form of the other:
 * up to the first dot), unless they are known to be of that life already. Returns how many hosts it concerned, or the journal's error. NLM's FREE_ALL: STATE 0 =
 * whatever it was. */
int lockstate_host_gone(struct lockstate *s, const char *name, const struct sockaddr_storage *peer, int32_t state);
/* Is there a host at PEER's address that lockstate_host_gone would be about? */
bool lockstate_knows(struct lockstate *s, const char *name, const struct sockaddr_storage *peer);
/* Copies of all hosts; FN without any lock held. -ENOMEM. */
int lockstate_each_host(struct lockstate *s, void (*fn)(void *arg, const struct lock_host *h), void *arg);
/* From the durable list, before anything runs. */
int lockstate_restore_host(struct lockstate *s, const struct lock_host *h);

/* ---- owners ---- */
/* The owner (H, SVID, OH), made when CREATE. A reference in OUT (out->who). 0; -ENOENT; -ENOLCK. */
int lockstate_owner(struct lockstate *s, struct lock_host *h, uint32_t svid, const void *oh, size_t oh_len, bool create, struct lock_owner *out);
/* NULL for owners that aren't NFS clients. */
static inline const struct lock_ident *lock_ident_of(const struct lock_owner *o) { return (const struct lock_ident *)(const void *)o->who; }
static inline void lock_who_put(struct lock_who *w)
{
	if (w)
		w->put(w);
}

/* ---- shares ---- */
/* As shares_set and shares_clear, with the record received by the peers as `durability` asks, or the journal's error. */
int lockstate_share(struct lockstate *s, const struct share *sh, bool set);

/* ---- roles ---- */
/* This node has become primary: what programs of other nodes' mounts held is dropped. */
void lockstate_promoted(struct lockstate *s);
/* Another node has become primary: what programs of other nodes' mounts than its held is dropped, as it did itself. */
void lockstate_following(struct lockstate *s, unsigned primary);

struct lockstate_stats { uint64_t locks, shares, hosts, owners, applied, malformed; };
void lockstate_stats(struct lockstate *s, struct lockstate_stats *out);

#endif
