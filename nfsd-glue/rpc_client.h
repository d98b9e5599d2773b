/*
 * RPC client: small calls to others (NLM GRANTED callbacks, NSM notifications, rpcbind), made by a thread of its own.
 *
 * rpc_client_call() copies what it gets and returns at once. The thread works on up to RPC_CLIENT_ACTIVE calls at a time with non-blocking sockets, so that a
 * dead host holds up nobody else; further ones wait in a queue of RPC_CLIENT_QUEUE.
 *
 *   port 0 -> ask the host's rpcbind (PMAP GETPORT, by the same transport) -> call -> reply, or time-out -> again, TRIES times in all
 *
 * Each try has a socket of its own and the same xid (the other side may keep a duplicate cache).
 */
#ifndef NFSD_GLUE_RPC_CLIENT_H
#define NFSD_GLUE_RPC_CLIENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

enum { RPC_CLIENT_ARGS_MAX = 2304, RPC_CLIENT_REPLY_MAX = 8 << 10, RPC_CLIENT_ACTIVE = 64, RPC_CLIENT_QUEUE = 4096 };

struct rpc_client;

struct rpc_client_call {
	struct sockaddr_storage to;	/* port 0: rpcbind there knows */
	struct sockaddr_storage from;	/* address of ours to come from (the one the client knows); family 0: any. Its port is not looked at: a privileged one where allowed */
	bool udp;
	bool auth_none;			/* else AUTH_SYS as root */
	uint32_t prog, vers, proc;
	const void *args;		/* encoded; copied; RPC_CLIENT_ARGS_MAX */
	size_t args_len;
	unsigned timeout_ms;		/* of one try; 0: 5 s */
	unsigned tries;			/* 0: 1 */
	/* Called by the client's thread, exactly once for every call that was taken; must not block; may make further calls. ERR 0: RESULTS (borrowed) are what the
	 * procedure returned. -ETIMEDOUT, -ECONNREFUSED and the like, -ENOENT (rpcbind there doesn't know the program), rpc_reply_parse's errors, -ECANCELED
	 * (the client is being freed). May be NULL. */
	void (*done)(void *arg, int err, const unsigned char *results, size_t len);
	void *arg;
};

int rpc_client_new(struct rpc_client **out);
/* 0, -EAGAIN (the queue is full), -E2BIG, -ENOMEM, -ECANCELED. Any thread. */
int rpc_client_call(struct rpc_client *k, const struct rpc_client_call *call);
/* The same, and waits for the end: results are copied to OUT (CAP bytes), *LEN says how many. -EMSGSIZE when they don't fit. Not from a callback. */
int rpc_client_call_wait(struct rpc_client *k, const struct rpc_client_call *call, void *out, size_t cap, size_t *len);
/* Cancels everything, ends the thread. NULL is allowed. Not from a callback. */
void rpc_client_free(struct rpc_client *k);

#endif
