/* Retransmissions of running calls are answered later, by the thread that ends the first one. */
#include "nfsd-glue/replay_call.h"

#include <stdlib.h>

struct waiting {
	struct replay_waiter w;
	struct rpc_later *l;
};

static void first_ended(struct replay_waiter *w, enum replay_end how, const void *bytes, size_t len)
{
	struct waiting *p = (struct waiting *)w;

	if (how == REPLAY_NO_TRACE) {
		rpc_later_hang_up(p->l);
	} else {
		if (how == REPLAY_ANSWERED)
			rpc_reply_raw(rpc_later_reply(p->l), bytes, len);
		rpc_later_send(p->l, how == REPLAY_ANSWERED ? RPC_REPLY : RPC_DROP);
	}
	free(p);
}

/* Ended since it was found running, or withheld: it is looked up once more, for a call that will be answered later. */
static void look_again(struct replay *t, const struct replay_key *k, struct waiting *p)
{
	unsigned char old[REPLAY_REPLY_MAX];
	size_t len = 0;
	enum replay_verdict v = replay_begin(t, k, old, &len);

	if (v == REPLAY_NEW)
		replay_forget(t, k);
	first_ended(&p->w, v == REPLAY_NEW ? REPLAY_NO_TRACE : v == REPLAY_DONE ? REPLAY_ANSWERED : REPLAY_SILENCE, old, len);
}

/* By UDP, or without memory, a client hears nothing and asks again. */
static enum rpc_verdict wait_for_first(struct replay *t, const struct replay_key *k, struct rpc_call *c)
{
	struct waiting *p = malloc(sizeof *p);

	if (p)
		*p = (struct waiting){ { first_ended }, rpc_later_new(c) };
	if (!p || !p->l) {
		free(p);
		return RPC_DROP;
	}
	if (!replay_wait(t, k, &p->w))
		look_again(t, k, p);
	return RPC_LATER;
}

bool replay_call(struct replay *t, struct rpc_call *c, struct rpc_reply *r, struct replay_key *k, enum rpc_verdict *v)
{
	unsigned char old[REPLAY_REPLY_MAX];
	size_t len;

	replay_key_init(k, c->peer, c->xid, c->prog, c->vers, c->proc, c->cred.uid, c->cred.gid, c->args, c->args_len);
	switch (replay_begin(t, k, old, &len)) {
	case REPLAY_RUNNING:
		*v = wait_for_first(t, k, c);
		return true;
	case REPLAY_DONE:
		rpc_reply_raw(r, old, len);
		*v = RPC_REPLY;
		return true;
	default: return false;
	}
}
