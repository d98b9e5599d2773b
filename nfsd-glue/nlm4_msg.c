#include "nfsd-glue/nlm4_msg.h"

#include <errno.h>

static struct nlm4_bytes get_bytes(struct xdr_in *x, size_t max)
{
	struct nlm4_bytes b;

	b.p = xdr_opaque(x, max, &b.len);
	return b;
}

/* nlm4_lock */
static void get_lock(struct xdr_in *x, struct nlm4_args *a)
{
	a->caller = get_bytes(x, NLM4_CALLER_MAX);
	a->fh = get_bytes(x, NLM4_OPAQUE_MAX);
	a->oh = get_bytes(x, NLM4_OPAQUE_MAX);
	a->svid = xdr_u32(x);
	a->offset = xdr_u64(x);
	a->len = xdr_u64(x);
}

static void get_share(struct xdr_in *x, struct nlm4_args *a)
{
	a->caller = get_bytes(x, NLM4_CALLER_MAX);
	a->fh = get_bytes(x, NLM4_OPAQUE_MAX);
	a->oh = get_bytes(x, NLM4_OPAQUE_MAX);
	a->mode = xdr_u32(x);
	a->access = xdr_u32(x);
	a->reclaim = xdr_bool(x);
	if (a->mode > 3 || a->access > 3)
		x->bad = true;
}

static void get_request(uint32_t proc, struct xdr_in *x, struct nlm4_args *a)
{
	a->cookie = get_bytes(x, NLM4_OPAQUE_MAX);
	switch (proc) {
	case NLM4_LOCK: case NLM4_LOCK_MSG: case NLM4_NM_LOCK:
		a->block = xdr_bool(x);
		a->exclusive = xdr_bool(x);
		get_lock(x, a);
		a->reclaim = xdr_bool(x);
		a->state = (int32_t)xdr_u32(x);
		break;
	case NLM4_CANCEL: case NLM4_CANCEL_MSG:
		a->block = xdr_bool(x);
		a->exclusive = xdr_bool(x);
		get_lock(x, a);
		break;
	case NLM4_TEST: case NLM4_TEST_MSG: case NLM4_GRANTED_CALL: case NLM4_GRANTED_MSG:
		a->exclusive = xdr_bool(x);
		get_lock(x, a);
		break;
	case NLM4_UNLOCK: case NLM4_UNLOCK_MSG:
		get_lock(x, a);
		break;
	case NLM4_SHARE: case NLM4_UNSHARE:
		get_share(x, a);
		break;
	default:
		x->bad = true;
	}
}

int nlm4_args_decode(uint32_t proc, const void *p, size_t len, struct nlm4_args *out)
{
	struct xdr_in x = xdr_in(p, len);

	*out = (struct nlm4_args){ 0 };
	if (proc == NLM4_FREE_ALL) {
		out->caller = get_bytes(&x, NLM4_CALLER_MAX);
		out->state = (int32_t)xdr_u32(&x);
	} else {
		get_request(proc, &x, out);
	}
	return xdr_done(&x) && out->fh.len <= NLM4_FH_MAX ? 0 : -EBADMSG;
}

int nlm4_res_decode(uint32_t proc, const void *p, size_t len, struct nlm4_bytes *cookie, uint32_t *stat)
{
	struct xdr_in x = xdr_in(p, len);

	*cookie = get_bytes(&x, NLM4_OPAQUE_MAX);
	*stat = xdr_u32(&x);
	if (proc == NLM4_TEST_RES && *stat == NLM4_DENIED) {
		xdr_bool(&x);
		xdr_u32(&x);
		get_bytes(&x, NLM4_OPAQUE_MAX);
		xdr_u64(&x);
		xdr_u64(&x);
	}
	return xdr_done(&x) ? 0 : -EBADMSG;
}

int nlm4_range(const struct nlm4_args *a, struct lock_range *out)
{
	*out = (struct lock_range){ .kind = LOCK_POSIX_RANGE, .mode = a->exclusive ? LOCK_EXCLUSIVE : LOCK_SHARED, .start = a->offset, .end = UINT64_MAX };
	if (!a->len)
		return 0;
	if (a->len - 1 > UINT64_MAX - a->offset)
		return -EFBIG;
	out->end = a->offset + (a->len - 1);
	return 0;
}

void nlm4_range_out(const struct lock_range *r, uint64_t *offset, uint64_t *len)
{
	*offset = r->start;
	*len = r->end == UINT64_MAX ? 0 : r->end - r->start + 1;
}

static void put_bytes(struct xdr_out *x, struct nlm4_bytes b) { xdr_out_opaque(x, b.p, b.len); }

void nlm4_stat_encode(struct xdr_out *x, struct nlm4_bytes cookie, enum nlm4_stat s)
{
	put_bytes(x, cookie);
	xdr_out_u32(x, s);
}

void nlm4_test_encode(struct xdr_out *x, struct nlm4_bytes cookie, enum nlm4_stat s, const struct nlm4_holder *h)
{
	nlm4_stat_encode(x, cookie, s);
	if (s != NLM4_DENIED)
		return;
	xdr_out_u32(x, h->exclusive);
	xdr_out_u32(x, h->svid);
	put_bytes(x, h->oh);
	xdr_out_u64(x, h->offset);
	xdr_out_u64(x, h->len);
}

void nlm4_share_encode(struct xdr_out *x, struct nlm4_bytes cookie, enum nlm4_stat s)
{
	nlm4_stat_encode(x, cookie, s);
	xdr_out_u32(x, 0);		/* sequence: nobody uses it */
}

void nlm4_granted_encode(struct xdr_out *x, struct nlm4_bytes cookie, const struct nlm4_args *a)
{
	put_bytes(x, cookie);
	xdr_out_u32(x, a->exclusive);
	put_bytes(x, a->caller);
	put_bytes(x, a->fh);
	put_bytes(x, a->oh);
	xdr_out_u32(x, a->svid);
	xdr_out_u64(x, a->offset);
	xdr_out_u64(x, a->len);
}
