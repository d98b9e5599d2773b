/*
 * RPC server: ONC RPC over TCP (and UDP for small things), bounded in everything.
 *
 * Programs are registered with a handler each; the server takes records off connections, checks the header, answers what is wrong with it, and calls
 * the handler with the arguments. Nothing is assumed of the other side: see "Bounds".
 *
 *   loop threads   each with its own epoll and its share of the connections: read, parse, run fast procedures, send a batch's answers in one call
 *   pool           threads started on demand (RPC_POOL_MAX), for procedures that may wait; an answer goes out from whatever thread made it
 *
 * So a slow call never holds up a fast one of the same connection, and answers come in any order.
 *
 * Speed of a procedure, said by its program for every call:
 *   RPC_FAST   never waits: it is run by the loop at once, args lie in the loop's buffer (owner NULL)
 *   RPC_DISK   may wait for a disk
 *   RPC_PEER   may wait for another node, so possibly long: such calls never take the last quarter of the pool
 *
 * Handlers: run without any lock of the server's held, several at a time, also of one connection. They fill the reply by the rpc_reply_*() functions and
 * return a verdict. What they got is valid until they return (or, for RPC_LATER, until rpc_later_send). Handlers may keep references of c->owner.
 *
 * Bounds (each has its constant in rpc.c): a record has RPC_RECORD_MAX bytes at most and finishes in time; a connection has so many calls and bytes in flight
 * and so many bytes of answers queued, above which nothing more is read from it; connections are limited, and when the table is full the longest idle one of the
 * address that has most is closed; all incomplete records together, all calls in flight, and all queued answers have a budget: the connection that has stalled
 * for the longest is closed to make room. An idle connection holds a few hundred bytes.
 */
#ifndef NFSD_GLUE_RPC_H
#define NFSD_GLUE_RPC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include "fs/base/blk.h"
#include "nfsd-glue/rpc_msg.h"
#include "nfsd-glue/xdr.h"

enum {
	RPC_PAYLOAD_MAX = 1 << 20,			/* the largest READ, WRITE, READDIR */
	RPC_RECORD_MAX = RPC_PAYLOAD_MAX + (64 << 10),	/* either direction, without record marks */
	RPC_SCRATCH_LEN = 16 << 10,
	RPC_POOL_MAX = 64,
};

struct rpc_server;
struct rpc_conn;

enum rpc_speed { RPC_FAST, RPC_DISK, RPC_PEER };

enum rpc_verdict {
	RPC_REPLY,			/* what is in the reply */
	RPC_DROP,			/* say nothing */
	RPC_LATER,			/* rpc_later_new() was called; its owner answers */
	RPC_PROC_UNAVAIL,
	RPC_GARBAGE_ARGS,
	RPC_SYSTEM_ERR,
	RPC_AUTH_ERROR,			/* which one: reply's auth_stat; TOOWEAK when it says nothing */
};

struct rpc_call {
	uint32_t xid, prog, vers, proc;
	struct rpc_cred cred;
	const unsigned char *args;	/* 4-byte aligned */
	size_t args_len;		/* RPC_RECORD_MAX at most; any value, a multiple of 4 or not */
	struct blk *owner;		/* borrowed; args lie in it. NULL for small records (take a copy then) */
	const struct sockaddr_storage *peer;	/* the client; an IPv4 one is AF_INET also on an IPv6 socket */
	const struct sockaddr_storage *local;	/* the address and port of ours that it called */
	struct rpc_conn *conn;		/* NULL: by UDP */
	void *scratch;			/* RPC_SCRATCH_LEN bytes for the handler, 16-byte aligned; unset contents; gone when it returns */
};

/* The results of a procedure (what follows the accepted header), in the making: bytes in network order, and at the very end perhaps data that lie
 * in a block. Too much of it, or no memory: `full` sticks, and SYSTEM_ERR is answered. */
struct rpc_reply {
	unsigned char *p;		/* p[0..len): so far. May move when more is appended */
	size_t len, cap;
	bool full;
	uint32_t auth_stat;		/* for RPC_AUTH_ERROR */
	struct blk *data;		/* owned reference, or NULL */
	const unsigned char *data_p;
	size_t data_len;
	unsigned char *heap;		/* private: owned, NULL while p lies in a thread's buffer */
};

/* Makes room for at least LEN more bytes behind p[len], contiguous: returns the place (also kept by r->p + r->len), NULL when that would be too much. Use it for
 * encoders that want flat memory (room = r->cap - r->len), then say how many were used. */
unsigned char *rpc_reply_room(struct rpc_reply *r, size_t len);
static inline void rpc_reply_used(struct rpc_reply *r, size_t len) { r->len += len; }
/* LEN bytes as they are. */
void rpc_reply_raw(struct rpc_reply *r, const void *p, size_t len);
/* opaque<> or string<>: length, bytes, padding. */
void rpc_reply_opaque(struct rpc_reply *r, const void *p, size_t len);
/* opaque<> as the last thing of all: LEN bytes at P, which lie in B. Takes one reference of B over, also when it fails. Not copied. */
void rpc_reply_data(struct rpc_reply *r, struct blk *b, const void *p, size_t len);
/* Forgets what is there. */
void rpc_reply_clear(struct rpc_reply *r);

static inline void rpc_reply_u32(struct rpc_reply *r, uint32_t v)
{
	unsigned char *p = rpc_reply_room(r, 4);

	if (p) {
		xdr_put32(p, v);
		r->len += 4;
	}
}

static inline void rpc_reply_u64(struct rpc_reply *r, uint64_t v)
{
	rpc_reply_u32(r, (uint32_t)(v >> 32));
	rpc_reply_u32(r, (uint32_t)v);
}

/* Answering later, from any thread. The handler calls rpc_later_new (NULL: no memory, or a datagram: answer something else) and returns RPC_LATER; the copy of the
 * call in it lives until rpc_later_send, which consumes L, also when the connection is gone meanwhile. Everyone must be sent before rpc_server_free returns. */
struct rpc_later;
struct rpc_later *rpc_later_new(struct rpc_call *c);
struct rpc_call *rpc_later_call(struct rpc_later *l);
struct rpc_reply *rpc_later_reply(struct rpc_later *l);
void rpc_later_send(struct rpc_later *l, enum rpc_verdict v);
/* Instead: the call was not executed, and its connection is closed: the client connects again and sends again what has no answer. */
void rpc_later_hang_up(struct rpc_later *l);

struct rpc_program {
	uint32_t prog, vers_low, vers_high;	/* several entries with one prog are all right; ranges don't overlap */
	unsigned nprocs;			/* procedures at or above are PROC_UNAVAIL */
	bool udp;				/* is served by UDP, too (the handler runs in the listener's thread, whatever its speed) */
	enum rpc_verdict (*handle)(void *arg, struct rpc_call *c, struct rpc_reply *r);
	enum rpc_speed (*speed)(void *arg, const struct rpc_call *c);	/* NULL: all RPC_FAST */
	void *arg;
};

struct rpc_server_config {
	unsigned loops;				/* threads; 0: as many as CPUs, 8 at most */
	unsigned max_connections;		/* 0: 4096; less when RLIMIT_NOFILE doesn't allow it */
	/* Called by loop threads, also by those who call abort_connections and stop; must not block, nor call the server. Every connected one is followed by
	 * its disconnected, in this order. May be NULL. */
	void (*connected)(void *arg, const struct sockaddr_storage *peer, const struct sockaddr_storage *local);
	void (*disconnected)(void *arg, const struct sockaddr_storage *peer, const struct sockaddr_storage *local);
	void *arg;
	unsigned record_timeout_ms;		/* a record must be whole after that (and more if it is long); first record too. 0: 30 s */
	unsigned stall_timeout_ms;		/* a client that takes no byte of its answers for so long is cut off. 0: 60 s */
};

int rpc_server_new(const struct rpc_server_config *config, struct rpc_server **out);
/* Before start. The contents of P are copied. */
int rpc_server_add_program(struct rpc_server *s, const struct rpc_program *p);
/* "host:port", "[v6]:port"; ":port", "port" or "[::]:port" (any address, v6 and v4); port 0: one that is free. The address need not be there yet. More than once,
 * before or after start. UDP: the same for datagrams. Returns 0 and the port in *PORT (may be NULL), or -errno. */
int rpc_server_listen(struct rpc_server *s, const char *address, uint16_t *port);
int rpc_server_listen_udp(struct rpc_server *s, const char *address, uint16_t *port);
int rpc_server_start(struct rpc_server *s);
/* Cuts off every connection to LOCAL (address only; the port isn't compared; NULL: all) by a reset, at once: when this returns, nothing that is still in flight
 * will be answered on them. Any thread but a handler's. */
void rpc_server_abort_connections(struct rpc_server *s, const struct sockaddr *local);
/* Ends accepting and reading, waits for the handlers that run, lets calls that haven't begun drop, closes all connections. Not from a handler. Twice is fine. */
void rpc_server_stop(struct rpc_server *s);
/* Stops, waits for everyone's rpc_later_send, frees. NULL is allowed. */
void rpc_server_free(struct rpc_server *s);

struct rpc_server_stats {
	uint64_t calls, slow_calls, faults;	/* faults: calls answered with a refusal of the RPC layer */
	uint64_t accepted, refused, closed_bad, closed_slow;	/* connections: refused as too many; closed for nonsense; for stalling or to make room */
	unsigned connections, pool_threads;
	uint64_t partial_bytes, inflight_bytes, output_bytes;
};
void rpc_server_stats(struct rpc_server *s, struct rpc_server_stats *out);

#endif
