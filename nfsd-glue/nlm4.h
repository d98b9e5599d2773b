/*
 * NLM version 4 (X/Open XNFS, RFC 1813 II): byte-range locks and shares of NFSv3 clients, in the lock table that the mount uses too (fs/lock.h). Version 4 only: that
 * is what NFSv3 clients speak (versions 1 and 3 have 32-bit ranges and belong to NFSv2).
 *
 * A blocking request that can't be granted is answered BLOCKED and becomes a `block`: it waits in the lock table and holds no thread. When it is granted, the
 * client's own NLM is called (GRANTED, at the port that the client's rpcbind says, from the address that the client called) until it answers:
 *
 *	LOCK(block) -> WAITING --granted--> CALLING --answer GRANTED, or the client's LOCK again, or UNLOCK--> (gone; the lock stays)
 *	                  |                    |----answer DENIED to the only call------------------------> unlocked
 *	               CANCEL                  '----CANCEL------------------------------------------------> unlocked
 *	                  '---> (gone)
 *
 * An answer DENIED after more than one call says nothing: the first may have been accepted, and its answer lost. Then the lock stays: a client that didn't want it any
 * more says so by CANCEL or UNLOCK. A client that asks again for what it waits for keeps its place; for what it was granted it gets GRANTED. "Unlocked" gives
 * back what the grant took, not what the owner held before.
 *
 * Roles. PRIMARY: as above; every grant and release is in the stream, and received by the sync set as `durability` asks, before the client hears of it.
 * CHANGING: requests wait, PARK_MAX of them for PARK_MS at most, and are then carried out, or answered DENIED_GRACE_PERIOD. STANDBY: TEST is answered from what the stream
 * said; everything else is DENIED_GRACE_PERIOD: a Linux client then waits 5 s and asks again, for as long as it takes, without an error to its program (ROFS
 * would be one). So a client that locks through a standby waits until the node is promoted, or the address has moved; to read from a standby mount with `nolock`.
 * Requests that wait when the role goes are forgotten; clients ask again (Linux: every 30 s).
 *
 * Grace: only after a promotion or start that could not know the locks (nlm4_role's KEPT false). All hosts are told by NSM, and for grace_ms only reclaims are granted.
 * A reclaim of a lock that is held already by its owner is granted at any time, any other outside of grace is DENIED_GRACE_PERIOD. Programs on the mount are not held up by grace.
 */
#ifndef NFSD_GLUE_NLM4_H
#define NFSD_GLUE_NLM4_H

#include "fs/layer.h"
#include "handles/wirefh.h"
#include "nfsd-glue/exports.h"
#include "nfsd-glue/lockstate.h"
#include "nfsd-glue/nsm1.h"
#include "nfsd-glue/replay.h"
#include "nfsd-glue/rpc.h"
#include "nfsd-glue/rpc_client.h"

enum { NLM4_PROGRAM = 100021, NLM4_VERSION = 4, NLM4_PROCS = 24 };
enum {
	NLM4_BLOCKS_MAX = 1 << 16,	/* requests that wait, */
	NLM4_BLOCKS_EACH = 1024,	/* of one host; more get DENIED_NOLOCKS */
	NLM4_PARK_MAX = 512,
	NLM4_PARK_MS = 3000,
	NLM4_CALL_MS = 3000,		/* GRANTED is called again after this much, then twice as much, up to */
	NLM4_CALL_MAX_MS = 60000,
};

enum nlm4_role { NLM4_STANDBY, NLM4_CHANGING, NLM4_PRIMARY };

struct nlm4_config {
	struct layer *top;
	struct lock_table *locks;
	struct lockstate *state;
	struct nsm1 *nsm;
	struct exports *exports;
	struct wirefh_codec *handles;
	struct replay *replay;		/* a retransmitted UNLOCK must not undo a later LOCK; answers stay on this node. May be NULL */
	struct rpc_client *client;
	uint32_t generation;		/* of the volume's objects but the root */
	unsigned grace_ms;
	unsigned call_ms;		/* 0 = NLM4_CALL_MS; tests: also how long one call may take */
	uint16_t client_port;		/* of clients' NLM; 0: their rpcbind knows (tests) */
};
struct nlm4;
int nlm4_new(const struct nlm4_config *cfg, struct nlm4 **out);	/* starts its thread; STANDBY */
/* The RPC server has stopped (and is freed afterwards: calls that wait are answered here), the RPC client is freed. */
void nlm4_free(struct nlm4 *n);
void nlm4_program(struct nlm4 *n, struct rpc_program *out);
/* From the node's worker; doesn't wait for peers. KEPT (for PRIMARY): the locks are known: no grace. */
void nlm4_role(struct nlm4 *n, enum nlm4_role role, bool kept);

struct nlm4_stats { uint64_t locks_granted, locks_denied, blocked, callbacks, callbacks_failed, blocks, parked; uint64_t grace_left_ms; };
void nlm4_stats(struct nlm4 *n, struct nlm4_stats *out);

#endif
