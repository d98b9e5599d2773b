/*
 * The duplicate request cache: the first answer to a call that must not be made twice, to be repeated when the client retransmits the call, on this node
 * or, since answers are records in the ordered stream (nfsd-glue/replica.h), on the one that carries on.
 *
 * A call is known by its client's address (not the port: a client that reconnects has another), xid, program, version, procedure, the length of its arguments
 * and a checksum over them and the caller's uid and gid. What is kept is the bytes of the procedure's results: what follows the accepted header.
 *
 *	             begin: REPLAY_NEW          done                    sent
 *	  (absent) -------------------> RUNNING ------> RUNNING, known ------> DONE ---- ages, or is evicted ---> (absent)
 *	                    forget: (absent) <-------------'   \                 ^
 *	                                                        `- withhold      | reveal: this node is promoted
 *	                                                             `-----> WITHHELD
 *
 * RUNNING: a retransmission (REPLAY_RUNNING) may wait for the answer of the first (replay_wait): its client asks again because it has lost the connection that the
 * first one's answer goes to, and would ask a third time only after a minute, or never. The answer becomes known under the locks of the objects, before
 * its op enters the stream (call.after), but is repeated only once the first answer may go out: when its op is durable and confirmed as the
 * volume asks. WITHHELD: that never happened, the role or the disk was lost first. Nobody can say whether the change stays made, so a retransmission here is dropped; where the
 * change is made, its answer is. What a peer is told of (replay_apply) is DONE at once: a promotion makes it this node's answer.
 *
 * Bounds: one retransmission waits for each running call, the latest; REPLAY_BYTES_MAX over all entries with their headers; beyond it the oldest answers of clients that have more than their share (the bound divided by the
 * clients) go first, so that no client drives out another's. Entries that are older than REPLAY_AGE_MS go when their client's list is touched. A
 * running call is never evicted; the callers (the RPC server) bound how many there are. Without memory a call is executed and not remembered.
 *
 * Locks: a table of shards by client, each with a mutex that is a leaf: nothing is called and nothing else taken under it. Safe under object locks.
 */
#ifndef NFSD_REPLAY_H
#define NFSD_REPLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

enum {
	REPLAY_BYTES_MAX = 32 << 20,
	REPLAY_AGE_MS = 180000,		/* longer than any client waits before it retransmits (60 s) */
	REPLAY_REPLY_MAX = 2048,	/* bytes of one answer; longer ones are not remembered: those of READs, which may be made twice */
	REPLAY_SUM_PART = 4096,		/* of longer arguments so much of both ends is summed */
};

struct replay_key {
	unsigned char addr[16];		/* IPv6, or IPv4 mapped into it */
	uint32_t xid, prog, vers, proc, args_len;
	uint32_t zero;			/* no padding: keys are compared as bytes */
	uint64_t sum;
};
/* The address of PEER as keys have it (any other family: zeros). */
void replay_addr(unsigned char out[16], const struct sockaddr_storage *peer);
void replay_key_init(struct replay_key *k, const struct sockaddr_storage *peer, uint32_t xid, uint32_t prog, uint32_t vers, uint32_t proc, uid_t uid,
		     gid_t gid, const void *args, size_t args_len);

enum replay_verdict {
	REPLAY_NEW,			/* execute it; then exactly one of replay_sent, replay_forget and replay_withhold must follow */
	REPLAY_RUNNING,			/* being executed, or the answer is withheld: wait, or say nothing */
	REPLAY_DONE,			/* the answer is in OUT */
};

struct replay;
/* MAX_BYTES 0 = REPLAY_BYTES_MAX. */
int replay_new(size_t max_bytes, struct replay **out);
void replay_free(struct replay *t);

enum replay_verdict replay_begin(struct replay *t, const struct replay_key *k, unsigned char out[REPLAY_REPLY_MAX], size_t *len);

/* A retransmission that waits. ENDED is called once, without a lock held, by whoever ends the first call's execution, or the wait. */
enum replay_end {
	REPLAY_ANSWERED,		/* the answer is in BYTES, LEN, until ENDED returns */
	REPLAY_NO_TRACE,		/* the first one left none: this one is to be executed */
	REPLAY_SILENCE,			/* say nothing: the answer is withheld, or a later retransmission waits now */
};
struct replay_waiter {
	void (*ended)(struct replay_waiter *w, enum replay_end how, const void *bytes, size_t len);
};
/* After REPLAY_RUNNING. True: ENDED will be called, or was already. False: K is not being executed (any more), or its answer is withheld; W is the caller's. */
bool replay_wait(struct replay *t, const struct replay_key *k, struct replay_waiter *w);
/* The answer is known. In call.after, before the op enters the stream. Replaces an earlier one of this execution. */
void replay_done(struct replay *t, const struct replay_key *k, const void *bytes, size_t len);
/* The answer of replay_done may be given: repeat it from now on. Without one the call is forgotten. */
void replay_sent(struct replay *t, const struct replay_key *k);
/* The call leaves no trace: not primary, JUKEBOX. Not after replay_done() whose op has entered the order: the peers have the answer then, and the change is made.
 * What a peer told us of it stays. */
void replay_forget(struct replay *t, const struct replay_key *k);
/* The answer of replay_done may not be given: its change is made here, and can't be confirmed. */
void replay_withhold(struct replay *t, const struct replay_key *k);
/* This node is promoted: what it has done counts, and so do the answers that were withheld. */
void replay_reveal(struct replay *t);

/* A record of the stream: newer than what is there. */
void replay_apply(struct replay *t, const struct replay_key *k, const void *bytes, size_t len);
/* One of a snapshot: when it is absent. AGE_MS: since it was made. Of one client's the newest comes first (as replay_each gives them). */
void replay_merge(struct replay *t, const struct replay_key *k, const void *bytes, size_t len, uint32_t age_ms);
/* Forgets all that is not running. */
void replay_clear(struct replay *t);
/* FN for every known answer, under the lock of its shard: it must not call back. Nonzero ends it and is returned. IDLE (may be NULL): between two shards,
 * with no lock held. */
typedef int (*replay_fn)(void *arg, const struct replay_key *k, const void *bytes, size_t len, uint32_t age_ms);
int replay_each(struct replay *t, replay_fn fn, int (*idle)(void *arg), void *arg);

struct replay_stats { uint64_t entries, bytes, clients, hits, dropped, evicted, aged; };
void replay_stats(struct replay *t, struct replay_stats *out);
/* For tests: what to take for now, in ms of a monotonic clock; 0 = the real one. */
void replay_set_clock(struct replay *t, uint64_t now_ms);

#endif
