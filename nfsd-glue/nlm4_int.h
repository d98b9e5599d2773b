/*
 * Inside NLM: what its files share. nlm4.c has the procedures and the roles, nlm4_block.c the requests that wait and the calls to clients.
 *
 * A block is counted: one reference for being in the table, one while the lock table may call back, one while a call to the client
 * is under way. Its state is guarded by nlm4.mu, what identifies it never changes.
 */
#ifndef NFSD_GLUE_NLM4_INT_H
#define NFSD_GLUE_NLM4_INT_H

#include <pthread.h>

#include "nfsd-glue/nlm4.h"
#include "nfsd-glue/nlm4_msg.h"

enum {
	BLOCK_BUCKETS = 4096,
	NLM4_LINE_MS = 200,
	NLM4_AFTER_MS = 300000,		/* after a promotion: see block_cancel */
	NLM4_CALLS_MAX = 16,		/* of one GRANTED; then the client's own asking again has to do */
	COOKIE_LEN = 8,
};

enum block_state {
	BLOCK_QUEUING,			/* lock_set_wait is under way */
	BLOCK_WAITING,			/* in the lock table */
	BLOCK_GRANTED,			/* the client is to be told, or being told */
	BLOCK_UNDOING,			/* what the grant took is being given back; the owner's next LOCK or UNLOCK of the file waits for that */
	BLOCK_GONE,			/* settled: who still has a reference drops it; in the table only while the client is being called */
};

struct block {
	struct block *next, **prev;	/* of its bucket; by owner and file */
	struct block *due_next, **due_prev;	/* of fresh, due or undo; prev NULL = in none */
	struct nlm4 *n;
	unsigned refs;
	enum block_state state;
	bool cancelled;			/* while it couldn't be taken back: whoever finds it granted, undoes it */
	bool told;			/* the client knows that it has the lock */
	bool undo_runs;
	bool calling, unsure;		/* a call is under way; one may have arrived without an answer */
	unsigned calls;
	uint64_t number, ticket, call_at_ms;
	uint64_t id;			/* the file */
	struct lock_owner o;		/* with a reference */
	struct lock_host *host;		/* a reference */
	int32_t life;			/* the host's, when it asked */
	struct lock_range r;
	unsigned had;			/* lock_holds before */
	struct sockaddr_storage peer, local;
	size_t args_len;
	unsigned char args[];		/* of GRANTED */
};

struct parked {
	struct parked *next;
	struct rpc_later *later;
	uint64_t until_ms;
};

struct nlm4 {
	struct nlm4_config cfg;
	pthread_t thread;
	bool started;
	pthread_mutex_t mu;		/* guards all below; the lock table is not called under it, but host references are dropped */
	pthread_cond_t work, undone;
	bool stop;
	enum nlm4_role role;
	uint64_t grace_until_ms, promoted_ms;
	uint64_t next_number;
	unsigned nblocks, nparked;	/* blocks that exist, also those that only a callback still knows */
	struct block *bucket[BLOCK_BUCKETS];
	struct block *fresh, *due;	/* granted: to be called at once; later */
	uint64_t next_due_ms;		/* the earliest of due; UINT64_MAX = none */
	struct block *undo;		/* UNDOING, and nobody does it yet */
	struct parked *parked, **parked_end;
	struct nlm4_stats stats;
};

/* One request. */
struct nlm4_request {
	struct nlm4 *n;
	struct rpc_call *c;
	uint32_t proc;			/* the synchronous form */
	struct nlm4_args a;
	struct lock_range r;
	struct lock_host *host;		/* references */
	struct lock_owner o;
	uint64_t id;
};

/* ---- nlm4_block.c ---- */
/* Does Q's owner wait for the very range already? It keeps its place, and hears at the address that its client has now. */
bool block_waits(struct nlm4_request *q);
/* LOCK of Q, whose owner and file are known, that has to wait: the status. */
enum nlm4_stat block_lock(struct nlm4_request *q);
/* LOCK and UNLOCK begin with it: forgets what the client needn't be told any more: it has asked again (the very range), or unlocks (OVERLAP); and waits for
 * what is being undone. */
void block_settle(struct nlm4_request *q, bool overlap);
/* Q is to be answered GRANTED: nobody need be called for that any more, also when the grant is on its way only now. False: a call was refused meanwhile, and
 * what it was about has been given back: lock again. */
bool block_told(struct nlm4_request *q);
/* True when there was a request to cancel. After a promotion a grant of the former primary's whose client was not told yet can't be known any more; then what
 * the client cancels is unlocked. */
bool block_cancel(struct nlm4_request *q);
/* What the client answered to GRANTED, by GRANTED_RES. */
void block_answered(struct nlm4 *n, struct nlm4_bytes cookie, const struct sockaddr_storage *peer, uint32_t stat);
/* The role is gone: nobody waits any more. */
void block_forget_all(struct nlm4 *n);
void *nlm4_thread(void *nlm4);

/* ---- nlm4.c ---- */
enum nlm4_stat nlm4_stat_of(int err);
bool nlm4_parked_due(const struct nlm4 *n, uint64_t now_ms);
/* Carries a parked call out. */
void nlm4_resume(struct nlm4 *n, struct parked *p);

#endif
