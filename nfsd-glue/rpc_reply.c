/*
 * Replies in the making. A reply begins in its thread's buffer, behind room for the record mark and the header; when it outgrows that, it moves to the heap.
 *
 *   [mark 4][accepted header 24][results ...]   p points to the results
 */
#include <assert.h>
#include <stdlib.h>

#include "nfsd-glue/rpc_int.h"

#define LAST_FRAGMENT UINT32_C(0x80000000)

void rpc_reply_init(struct rpc_reply *r, unsigned char *buf, size_t cap)
{
	assert(cap >= RPC_HEAD_LEN + 8);
	*r = (struct rpc_reply){ .p = buf + RPC_HEAD_LEN, .cap = cap - RPC_HEAD_LEN };
}

void rpc_reply_end(struct rpc_reply *r)
{
	blk_unref(r->data);
	r->data = NULL;
	free(r->heap);
	r->heap = NULL;
}

void rpc_reply_clear(struct rpc_reply *r)
{
	blk_unref(r->data);
	r->data = NULL;
	r->data_len = r->len = 0;
	r->full = false;
}

/* LEN more bytes don't fit. */
static bool grow(struct rpc_reply *r, size_t len)
{
	size_t need = r->len + len, cap = 2 * need < RPC_RECORD_MAX ? 2 * need : RPC_RECORD_MAX;
	unsigned char *heap;

	if (len > RPC_RECORD_MAX || need > RPC_RECORD_MAX - RPC_ACCEPTED_LEN)
		return false;
	heap = malloc(RPC_HEAD_LEN + cap);
	if (!heap)
		return false;
	memcpy(heap + RPC_HEAD_LEN, r->p, r->len);
	free(r->heap);
	r->heap = heap;
	r->p = heap + RPC_HEAD_LEN;
	r->cap = cap;
	return true;
}

unsigned char *rpc_reply_room(struct rpc_reply *r, size_t len)
{
	assert(!r->data);
	if (r->full || (len > r->cap - r->len && !grow(r, len))) {
		r->full = true;
		return NULL;
	}
	return r->p + r->len;
}

void rpc_reply_raw(struct rpc_reply *r, const void *p, size_t len)
{
	unsigned char *to = rpc_reply_room(r, len);

	if (!to || !len)
		return;
	memcpy(to, p, len);
	r->len += len;
}

void rpc_reply_opaque(struct rpc_reply *r, const void *p, size_t len)
{
	unsigned char *to;

	if (len > RPC_RECORD_MAX || !(to = rpc_reply_room(r, 4 + len + xdr_pad(len)))) {
		r->full = true;
		return;
	}
	xdr_put32(to, (uint32_t)len);
	if (len)
		memcpy(to + 4, p, len);
	memset(to + 4 + len, 0, xdr_pad(len));
	r->len += 4 + len + xdr_pad(len);
}

void rpc_reply_data(struct rpc_reply *r, struct blk *b, const void *p, size_t len)
{
	unsigned char *to = rpc_reply_room(r, 4);

	if (!to || len > RPC_RECORD_MAX - RPC_ACCEPTED_LEN - 8 || r->len > RPC_RECORD_MAX - RPC_ACCEPTED_LEN - 8 - len) {
		r->full = true;
		blk_unref(b);
		return;
	}
	xdr_put32(to, (uint32_t)len);
	r->len += 4;
	r->data = b;
	r->data_p = p;
	r->data_len = len;
}

size_t rpc_fault_record(unsigned char *out, uint32_t xid, const struct rpc_fault *f)
{
	size_t len = rpc_fault_encode(out + RPC_MARK_LEN, xid, f);

	xdr_put32(out, LAST_FRAGMENT | (uint32_t)len);
	return RPC_MARK_LEN + len;
}

static struct rpc_fault fault_of(const struct rpc_reply *r, enum rpc_verdict v)
{
	switch (v) {
	case RPC_PROC_UNAVAIL: return (struct rpc_fault){ .kind = RPC_FAULT_ACCEPT, .stat = RPC_ACCEPT_PROC_UNAVAIL };
	case RPC_GARBAGE_ARGS: return (struct rpc_fault){ .kind = RPC_FAULT_ACCEPT, .stat = RPC_ACCEPT_GARBAGE_ARGS };
	case RPC_AUTH_ERROR:
		return (struct rpc_fault){ .kind = RPC_FAULT_AUTH, .stat = r->auth_stat ? r->auth_stat : RPC_AUTHSTAT_TOOWEAK };
	default: return (struct rpc_fault){ .kind = RPC_FAULT_ACCEPT, .stat = RPC_ACCEPT_SYSTEM_ERR };
	}
}

bool rpc_conclude(struct rpc_reply *r, uint32_t xid, enum rpc_verdict v, struct rpc_out *o, bool *fault)
{
	*fault = false;
	if (v == RPC_DROP || v == RPC_LATER)
		return false;
	*o = (struct rpc_out){ .head = r->p - RPC_HEAD_LEN };
	if (v != RPC_REPLY || r->full) {
		struct rpc_fault f = fault_of(r, v);

		*fault = true;
		o->head_len = rpc_fault_record(o->head, xid, &f);
		return true;
	}
	o->head_len = RPC_HEAD_LEN + r->len;
	o->data = r->data_p;
	o->data_len = r->data ? r->data_len : 0;
	o->blk = r->data;
	xdr_put32(o->head, LAST_FRAGMENT | (uint32_t)(o->head_len - RPC_MARK_LEN + o->data_len + xdr_pad(o->data_len)));
	rpc_accepted_encode(o->head + RPC_MARK_LEN, xid);
	return true;
}
