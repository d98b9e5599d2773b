/*
 * Locks of NFS clients as a whole: lock state, NLM and NSM put together in the right order. For whoever builds the server:
 *
 *	lockd_new -> lockd_programs, lockd_part (registered) -> lockd_role ... -> RPC server stopped -> lockd_stop -> RPC client freed -> lockd_free
 *	-> RPC server freed -> lock table freed
 */
#ifndef NFSD_GLUE_LOCKD_H
#define NFSD_GLUE_LOCKD_H

#include "nfsd-glue/nlm4.h"

struct lockd_config {
	struct nlm4_config nlm;		/* state, nsm: filled in here */
	struct interpose *ip;
	unsigned node;
	int state_dir_fd;		/* borrowed */
	struct nsm1_config nsm;		/* tests; client and state_dir_fd are filled in here */
};
struct lockd;
int lockd_new(const struct lockd_config *cfg, struct lockd **out);
/* Nothing is written or sent by itself any more. */
void lockd_stop(struct lockd *d);
void lockd_free(struct lockd *d);			/* NULL is fine */

enum { LOCKD_PROGRAMS = 2 };
void lockd_programs(struct lockd *d, struct rpc_program out[LOCKD_PROGRAMS]);
/* What to register as REPLICA_LOCK. */
void lockd_part(struct lockd *d, struct replica_part *out);
/* nlm4_role: doesn't wait for peers. */
void lockd_role(struct lockd *d, enum nlm4_role role, bool kept);

/* The stream's next ops are of an epoch of PRIMARY's. */
void lockd_following(struct lockd *d, unsigned primary);

struct lockd_stats { struct lockstate_stats state; struct nlm4_stats nlm; };
void lockd_stats(struct lockd *d, struct lockd_stats *out);

#endif
