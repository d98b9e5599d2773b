/*
 * NSM version 1 (statd): who of the lock holders has started anew, both ways.
 *
 * From clients: SM_NOTIFY frees the locks of the host at the address that the message came from (TCP or UDP: clients use UDP; a
 * privileged port, unless the host may use an export that takes others), and of no other; a number
 * (`state`) says which life it is, so that a late or repeated message doesn't free what was locked since. SM_STAT says our number. SM_MON is refused, SM_UNMON and SM_UNMON_ALL
 * do nothing: this monitor serves its own NLM, which needs no calls for that. SM_SIMU_CRASH, from this machine's root only, sends the notifications.
 *
 * To clients: nsm1_notify tells all hosts of the list that locks were lost: their statd (port by their rpcbind; UDP, as statds want it) gets SM_NOTIFY with our new number,
 * under the name that they may know us by: the address that they called, and this host's name. Repeated until answered, NSM_TRIES times.
 *
 * Durable: `nsm` in the state directory, our number and the hosts (docs/formats.md), written by a thread of this module; the first lock of a host waits for it.
 */
#ifndef NFSD_GLUE_NSM1_H
#define NFSD_GLUE_NSM1_H

#include "nfsd-glue/exports.h"
#include "nfsd-glue/lockstate.h"
#include "nfsd-glue/rpc.h"
#include "nfsd-glue/rpc_client.h"

enum { NSM_PROGRAM = 100024, NSM_VERSION = 1, NSM_PROCS = 7, NSM_NAME_MAX = 1024, NSM_TRIES = 10, NSM_QUEUE_MAX = 256 };

struct nsm1_config {
	struct rpc_client *client;
	struct exports *exports;	/* borrowed: from which ports hosts may speak */
	int state_dir_fd;		/* borrowed */
	unsigned try_ms;		/* of one SM_NOTIFY; 0 = 5 s */
	uint16_t port;			/* of hosts' monitors; 0: their rpcbind knows (tests) */
};
struct nsm1;
int nsm1_new(const struct nsm1_config *cfg, struct nsm1 **out);
/* Reads the list, gives its hosts to the lock state S (borrowed), and starts the thread. A list that can't be read is reported and begun anew. */
int nsm1_start(struct nsm1 *n, struct lockstate *s);
/* Ends the thread; S is not used any more. Then the RPC client may be freed, and then this. */
void nsm1_stop(struct nsm1 *n);
void nsm1_free(struct nsm1 *n);
void nsm1_program(struct nsm1 *n, struct rpc_program *out);
/* Only a primary hears clients' notifications; others leave them unanswered. */
void nsm1_set_primary(struct nsm1 *n, bool primary);
/* lockstate_config.hosts_changed. */
void nsm1_hosts_changed(void *nsm1);
/* Waits until all changes so far are durable, or could not be made so (which is logged). */
void nsm1_sync(struct nsm1 *n);
/* There was a list that could not be read. */
bool nsm1_list_lost(struct nsm1 *n);
/* Our life's number becomes a new one, and every host is told; returns at once. */
void nsm1_notify(struct nsm1 *n);

#endif
