/* Record marking: see the header. */
#include "nfsd-glue/rpc_record.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

#include "nfsd-glue/rpc.h"
#include "nfsd-glue/xdr.h"

enum { FIRST_CAP = 4 << 10 };

#define LAST_FRAGMENT UINT32_C(0x80000000)

void rpc_record_reset(struct rpc_record *r)
{
	blk_unref(r->blk);
	memset(r, 0, sizeof *r);
}

/* A mark is whole. */
static int begin_fragment(struct rpc_record *r, uint32_t mark)
{
	uint32_t len = mark & ~LAST_FRAGMENT;

	if (len == 0)
		return -EBADMSG;
	if (len > RPC_RECORD_MAX || r->len > RPC_RECORD_MAX - len || r->fragments == RECORD_FRAGMENTS_MAX)
		return -EMSGSIZE;
	r->fragments++;
	r->left = len;
	r->last = mark & LAST_FRAGMENT;
	return 0;
}

static int take_mark(struct rpc_record *r, const unsigned char *in, size_t n, size_t *used)
{
	while (r->nmark < RPC_MARK_LEN && *used < n)
		r->mark[r->nmark++] = in[(*used)++];
	return r->nmark == RPC_MARK_LEN ? begin_fragment(r, xdr_get32(r->mark)) : 0;
}

/* Room for N more bytes, of which all have come. */
static int grow(struct rpc_record *r, size_t n)
{
	size_t need = r->len + n, announced = r->len + r->left, cap;
	struct blk *b;

	if (r->blk && need <= r->blk->cap)
		return 0;
	cap = need < FIRST_CAP / 2 ? FIRST_CAP : 2 * need;
	if (cap > RPC_RECORD_MAX)
		cap = RPC_RECORD_MAX;
	if (r->last ? need >= RECORD_BIG_FROM || cap > announced : need >= RECORD_BIG_FROM && cap < announced)
		cap = announced;
	b = blk_new(cap);
	if (!b)
		return -ENOMEM;
	if (r->len)
		memcpy(b->data, r->blk->data, r->len);
	blk_unref(r->blk);
	r->blk = b;
	return 0;
}

static void end_fragment(struct rpc_record *r)
{
	r->nmark = 0;
	r->whole = r->last;
}

static int take_bytes(struct rpc_record *r, const unsigned char *in, size_t n)
{
	int err = grow(r, n);

	if (err)
		return err;
	memcpy(r->blk->data + r->len, in, n);
	rpc_record_placed(r, n);
	return 0;
}

/* The common case: nothing is pending, and the input holds the whole record in one fragment. */
static bool in_place(const struct rpc_record *r, const unsigned char *in, size_t n, size_t *used, const unsigned char **p, size_t *len)
{
	if (r->nmark || r->fragments || n < RPC_MARK_LEN)
		return false;
	uint32_t mark = xdr_get32(in), bytes = mark & ~LAST_FRAGMENT;
	if (mark <= LAST_FRAGMENT || bytes > n - RPC_MARK_LEN || bytes > RPC_RECORD_MAX || ((uintptr_t)in & 3))
		return false;
	*p = in + RPC_MARK_LEN;
	*len = bytes;
	*used = RPC_MARK_LEN + bytes;
	return true;
}

int rpc_record_take(struct rpc_record *r, const unsigned char *in, size_t n, size_t *used, const unsigned char **p, size_t *len)
{
	int err = 0;

	*used = 0;
	if (in_place(r, in, n, used, p, len))
		return 1;
	while (!r->whole && *used < n && !err) {
		if (r->nmark < RPC_MARK_LEN) {
			err = take_mark(r, in, n, used);
			continue;
		}
		size_t some = n - *used < r->left ? n - *used : r->left;
		err = take_bytes(r, in + *used, some);
		*used += some;
	}
	if (err || !r->whole)
		return err;
	*p = r->blk->data;
	*len = r->len;
	return 1;
}

size_t rpc_record_place(struct rpc_record *r, unsigned char **p)
{
	if (r->whole || r->nmark < RPC_MARK_LEN || r->len < RECORD_BIG_FROM || !r->blk || r->blk->cap - r->len < r->left)
		return 0;
	*p = r->blk->data + r->len;
	return r->left;
}

void rpc_record_placed(struct rpc_record *r, size_t n)
{
	assert(n <= r->left && r->len + n <= r->blk->cap);
	r->len += n;
	r->left -= (uint32_t)n;
	if (r->left == 0)
		end_fragment(r);
}
