/*
 * Inside the RPC server: what rpc.c (server, accepting, making room), rpc_loop.c (reading), rpc_pool.c (slow calls), rpc_out.c (answers) and rpc_udp.c share.
 *
 * A connection belongs to one loop: only that thread reads from it, and only that thread ends it (conn_close). Others who want it gone take its socket down
 * (conn_abort: the kernel sends a reset), and the loop sees that. The structure lives as long as somebody holds a reference: the loop, calls in the
 * pool, calls answered later. The descriptor is closed with the last one, so nobody ever writes to another connection's.
 *
 * Locks, each a leaf but for the first, which may be held while loop.mu is taken:
 *   server.accept_mu   accepting, the table of addresses, the listeners
 *   loop.mu            the loop's list of connections (changed by the acceptor and by the loop)
 *   pool.mu            queues of slow calls
 *   conn.out_mu        the connection's queue of answers; not held during system calls
 */
#ifndef NFSD_GLUE_RPC_INT_H
#define NFSD_GLUE_RPC_INT_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/uio.h>

#include "nfsd-glue/rpc.h"
#include "nfsd-glue/rpc_record.h"

enum {
	RPC_LOOPS_MAX = 8,
	RPC_PROGRAMS_MAX = 16,
	RPC_LISTENERS_MAX = 16,
	RPC_CONNECTIONS_DEFAULT = 4096,
	RPC_IN_LEN = 64 << 10,				/* read at once */
	RPC_BATCH_LEN = 256 << 10,			/* answers of one read, before they are sent */
	RPC_HEAD_LEN = RPC_MARK_LEN + RPC_ACCEPTED_LEN,	/* in front of every reply's p */
	RPC_REPLY_FIRST = 8 << 10,			/* a reply begins with that much room at least */
	RPC_TICK_MS = 1000,
	/* of one connection; above, nothing more is read from it */
	RPC_CONN_CALLS_MAX = 256,			/* in flight, in the pool or waiting for it */
	RPC_CONN_INFLIGHT_MAX = 16 << 20,		/* their bytes */
	RPC_CONN_OUTPUT_MAX = 4 << 20,			/* queued answers; above, no call of it is begun either */
	RPC_CONN_RUNNING_MAX = RPC_POOL_MAX / 2,
	/* of all together */
	RPC_PARTIAL_MAX = 64 << 20,			/* incomplete records and unread rests: above, those that have waited for long go; at twice that, any */
	RPC_INFLIGHT_MAX = 128 << 20,			/* above, nobody's slow calls are taken */
	RPC_OUTPUT_MAX = 64 << 20,			/* answers queued: the same as for incomplete records */
	RPC_PATIENCE_MS = 3000,				/* "for long" */
	RPC_BUSY_MS = 1000,				/* a connection that said something within this time isn't idle */
};

enum rpc_source_kind { SOURCE_WAKE, SOURCE_LISTENER, SOURCE_CONN };
/* What epoll's data.ptr points to: the first member of each. */
struct rpc_source { enum rpc_source_kind kind; };

struct rpc_job;

/* A connection's slow calls of one class. pool.mu. */
struct rpc_run {
	struct rpc_conn *c;
	struct rpc_run *next;			/* in pool.ready */
	bool queued;				/* is in pool.ready */
	struct rpc_job *first, **last;
};
enum { RUN_DISK, RUN_PEER, RUN_CLASSES };

/* Whoever sets one of these looks once more afterwards whether he must wait at all; whoever makes things better looks at them afterwards. */
enum {
	WAIT_OUTPUT = 1,			/* the loop reads on when less output is queued */
	WAIT_CALLS = 2,				/* the loop reads on when fewer calls are in flight */
	WAIT_HELD = 4,				/* the pool begins no call before less output is queued */
};

struct rpc_address;				/* a client's address, with the number of its connections; accept_mu */

struct rpc_chunk;				/* a piece of queued output */

struct rpc_conn {
	struct rpc_source source;
	_Atomic unsigned refs;
	int fd;					/* owned */
	struct rpc_server *s;
	struct rpc_loop *loop;
	struct rpc_address *address;		/* accept_mu */
	struct sockaddr_storage peer, local;
	struct rpc_conn *next, **prev;		/* loop.mu: all of the loop */

	/* the loop's own */
	struct rpc_conn *ready_next, **ready_prev;	/* in loop.ready or loop.paused; prev NULL: in neither */
	bool readable, ended;			/* more may be there; the other side has ended */
	bool paused;				/* not read from: too much in flight */
	struct rpc_record record;
	unsigned char *rest;			/* owned: input that was read and not looked at before a pause; NULL mostly */
	size_t rest_pos, rest_len;
	size_t partial;				/* bytes that it counts for in server.partial */

	/* read by whoever looks for a victim */
	_Atomic uint64_t last_ms;		/* last whole record, or the beginning */
	_Atomic uint64_t since_ms;		/* beginning of the incomplete record; 0: none */
	_Atomic bool spoke;			/* had a whole record */
	_Atomic bool doomed;			/* was chosen: reset, its loop will see */
	_Atomic uint64_t stalled_ms;		/* since when no byte of the queued output moves; 0: none is queued */

	/* slow calls */
	_Atomic unsigned calls;			/* in flight */
	_Atomic size_t inflight;		/* their bytes */
	_Atomic unsigned waiting;		/* a sum of WAIT_*: what to tell when there is less of it */
	struct rpc_run run[RUN_CLASSES];	/* pool.mu */
	unsigned running;			/* pool.mu */

	/* answers */
	pthread_mutex_t out_mu;
	bool sending;				/* out_mu: a thread is writing; the others queue */
	bool again;				/* out_mu: there is room in the socket since */
	bool dead;				/* out_mu: answers are thrown away */
	struct rpc_chunk *out, **out_last;	/* out_mu */
	_Atomic size_t out_bytes;		/* changed under out_mu */
};

struct rpc_listener {
	struct rpc_source source;
	int fd;					/* owned */
	bool udp;
	pthread_t thread;			/* UDP */
	bool running;
	struct rpc_server *s;
};

struct rpc_loop {
	struct rpc_source wake;
	struct rpc_server *s;
	int ep, wake_fd;			/* owned */
	pthread_t thread;
	bool running;
	pthread_mutex_t mu;
	struct rpc_conn *conns;			/* mu */
	struct rpc_conn *ready, *paused;	/* own: have input to look at; would have but for too much in flight */
	uint64_t now_ms, tick_ms, evict_ms;	/* own */
	unsigned char *in;			/* own: RPC_IN_LEN */
	unsigned char *batch;			/* own: RPC_BATCH_LEN */
	size_t batch_len;
	void *scratch;
	_Atomic uint64_t calls, faults;		/* written by the loop only */
};

struct rpc_pool {				/* all under mu */
	pthread_mutex_t mu;
	pthread_cond_t work, gone;		/* there is something to do, or the end; a thread has gone */
	struct rpc_run *ready[RUN_CLASSES], **ready_last[RUN_CLASSES];
	unsigned jobs;				/* waiting for a thread */
	unsigned threads, idle;
	unsigned running[RUN_CLASSES];
	unsigned turn;				/* the class to look at first */
	bool stopping;
	uint64_t calls, faults;
};

struct rpc_server {
	struct rpc_server_config config;
	unsigned max_connections;
	struct rpc_program programs[RPC_PROGRAMS_MAX];
	unsigned nprograms;
	struct rpc_loop loops[RPC_LOOPS_MAX];
	unsigned nloops, next_loop;
	struct rpc_pool pool;
	pthread_mutex_t accept_mu;
	struct rpc_listener listeners[RPC_LISTENERS_MAX];
	unsigned nlisteners;			/* accept_mu */
	struct rpc_address **addresses;		/* accept_mu: hash table */
	bool started, stopped;
	_Atomic bool stopping;
	_Atomic bool full;			/* accepting rests until the next tick: no descriptors left */
	int stop_fd;				/* eventfd, readable from the stop on: ends the UDP threads */
	_Atomic unsigned nconns;
	_Atomic size_t partial, inflight, output;	/* bytes, see the maxima */
	_Atomic bool starving;			/* a loop waits for inflight to fall */
	_Atomic uint64_t accepted, refused, closed_bad, closed_slow;
	pthread_mutex_t later_mu;
	pthread_cond_t later_none;
	unsigned laters;			/* later_mu: calls to be answered later */
};

/* ---- rpc.c ---- */
const struct rpc_program *rpc_find_program(const struct rpc_server *s, const struct rpc_header *h, struct rpc_fault *fault);
/* Accepts what waits at L. */
void rpc_accept(struct rpc_server *s, struct rpc_listener *l);
void rpc_listeners_resume(struct rpc_server *s);
/* The connection is no longer in its loop's list: tells the callback, drops the loop's reference. */
void rpc_conn_gone(struct rpc_conn *c);
struct rpc_conn *rpc_conn_get(struct rpc_conn *c);
void rpc_conn_put(struct rpc_conn *c);
/* Resets it; its loop will find out. Needs a reference or loop.mu. */
void rpc_conn_abort(struct rpc_conn *c);
/* Whether closing it lets what was written arrive, or resets it. */
void rpc_conn_linger(struct rpc_conn *c, bool orderly);
/* Closes the connection whose incomplete record (or queued output) has waited for the longest, if for MIN_MS at least. */
void rpc_evict_partial(struct rpc_server *s, uint64_t now_ms, uint64_t min_ms);
void rpc_evict_output(struct rpc_server *s, uint64_t now_ms, uint64_t min_ms);

/* ---- rpc_reply.c ---- */
/* Begins a reply in BUF[0..CAP), of which the first RPC_HEAD_LEN bytes are for the headers. */
void rpc_reply_init(struct rpc_reply *r, unsigned char *buf, size_t cap);
/* What goes out: HEAD (mark, header, results), then DATA with its padding. */
struct rpc_out { unsigned char *head; size_t head_len; const unsigned char *data; size_t data_len; struct blk *blk; };
/* Puts mark and header before the results, or a fault in their place. false: nothing is to be sent. *FAULT: it was one. */
bool rpc_conclude(struct rpc_reply *r, uint32_t xid, enum rpc_verdict v, struct rpc_out *o, bool *fault);
/* Frees what the reply owns. */
void rpc_reply_end(struct rpc_reply *r);
/* Writes mark and fault; returns the length. */
size_t rpc_fault_record(unsigned char *out, uint32_t xid, const struct rpc_fault *f);

/* ---- rpc_out.c ---- */
/* Sends, or queues what can't be sent now (BATCH_LEN bytes at BATCH first, then O, which may be NULL). Keeps references of its own, copies the rest. */
void rpc_out_send(struct rpc_conn *c, const unsigned char *batch, size_t batch_len, const struct rpc_out *o);
/* The socket takes bytes again. */
void rpc_out_ready(struct rpc_conn *c);
/* From now on answers are thrown away. */
void rpc_out_end(struct rpc_conn *c);

/* ---- rpc_loop.c ---- */
int rpc_loop_init(struct rpc_loop *l, struct rpc_server *s);
int rpc_loop_start(struct rpc_loop *l);
void rpc_loop_wake(struct rpc_loop *l);
int rpc_loop_add(struct rpc_loop *l, struct rpc_conn *c);
/* Ends all connections, when the thread is gone. */
void rpc_loop_close(struct rpc_loop *l);
void rpc_loop_free(struct rpc_loop *l);

/* ---- rpc_pool.c ---- */
void rpc_pool_init(struct rpc_pool *p);
int rpc_pool_start(struct rpc_server *s);
/* Queues a copy of C's call (record REC[0..LEN), in BLK if it isn't NULL, whose reference the job shares). 0 or -ENOMEM. */
int rpc_pool_submit(struct rpc_conn *c, const struct rpc_program *p, enum rpc_speed speed, const struct rpc_call *call, const unsigned char *rec, size_t len,
		    struct blk *blk);
/* Calls of C that were held back may run. */
void rpc_pool_resume(struct rpc_conn *c);
/* Throws C's calls that haven't begun away. */
void rpc_pool_purge(struct rpc_conn *c);
void rpc_pool_stop(struct rpc_server *s);
void rpc_pool_free(struct rpc_pool *p);

/* ---- rpc_udp.c ---- */
int rpc_udp_start(struct rpc_listener *l);

#endif
