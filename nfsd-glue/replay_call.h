/*
 * A call that comes to the duplicate request cache: what programs do first with one that must not be executed twice.
 */
#ifndef NFSD_REPLAY_CALL_H
#define NFSD_REPLAY_CALL_H

#include "nfsd-glue/replay.h"
#include "nfsd-glue/rpc.h"

/* Computes C's key, K. True: C is a retransmission, and *V what the handler returns: its answer is in R, or it waits for the first one's, or there
 * is none. False: it is new; as after REPLAY_NEW. */
bool replay_call(struct replay *t, struct rpc_call *c, struct rpc_reply *r, struct replay_key *k, enum rpc_verdict *v);

#endif
