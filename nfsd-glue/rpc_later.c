/* Calls that are answered later: a copy of the call with a reference of its connection, which counts as in flight until it is answered. */
#include <stdlib.h>

#include "fs/base/cleanup.h"
#include "nfsd-glue/rpc_int.h"

enum { LATER_BUF_LEN = 512 };

struct rpc_later {
	struct rpc_call call;
	struct rpc_reply reply;
	struct blk *blk;			/* owned: the arguments */
	unsigned char buf[LATER_BUF_LEN];
};

static void count(struct rpc_server *s, int n)
{
	auto_lock(&s->later_mu);

	s->laters += (unsigned)n;
	if (!s->laters)
		pthread_cond_broadcast(&s->later_none);
}

struct rpc_later *rpc_later_new(struct rpc_call *c)
{
	struct rpc_later *l = c->conn ? malloc(sizeof *l) : NULL;

	if (!l)
		return NULL;
	l->call = *c;
	l->call.scratch = NULL;
	l->call.cred.machine = NULL;
	l->call.cred.machine_len = 0;
	l->blk = c->owner ? blk_ref(c->owner) : blk_new(c->args_len);
	if (!l->blk) {
		free(l);
		return NULL;
	}
	if (!c->owner) {
		memcpy(l->blk->data, c->args, c->args_len);
		l->call.args = l->blk->data;
		l->call.owner = l->blk;
	}
	rpc_reply_init(&l->reply, l->buf, sizeof l->buf);
	rpc_conn_get(c->conn);
	atomic_fetch_add(&c->conn->calls, 1);
	count(c->conn->s, 1);
	return l;
}

struct rpc_call *rpc_later_call(struct rpc_later *l)
{
	return &l->call;
}

struct rpc_reply *rpc_later_reply(struct rpc_later *l)
{
	return &l->reply;
}

void rpc_later_send(struct rpc_later *l, enum rpc_verdict v)
{
	struct rpc_conn *c = l->call.conn;
	struct rpc_server *s = c->s;
	struct rpc_out o;
	bool fault;

	if (rpc_conclude(&l->reply, l->call.xid, v, &o, &fault))
		rpc_out_send(c, NULL, 0, &o);
	rpc_reply_end(&l->reply);
	blk_unref(l->blk);
	if (atomic_fetch_sub(&c->calls, 1) - 1 <= RPC_CONN_CALLS_MAX / 2 && (atomic_load(&c->waiting) & WAIT_CALLS)) {
		atomic_fetch_and(&c->waiting, ~(unsigned)WAIT_CALLS);
		rpc_loop_wake(c->loop);
	}
	rpc_conn_put(c);
	free(l);
	count(s, -1);
}

/* The loop sees the end, and closes. */
void rpc_later_hang_up(struct rpc_later *l)
{
	shutdown(l->call.conn->fd, SHUT_RDWR);
	rpc_later_send(l, RPC_DROP);
}
