/*
 * XDR (RFC 4506) over flat memory, bounded, for what is written by hand: RPC headers, NLM, NSM, rpcbind. Everything is in network order and padded
 * to multiples of 4 bytes.
 *
 * Like fs/base/codec.h both directions keep a sticky error: after the first failure every further call is a no-op that yields zeros, and one test at
 * the end is enough.
 */
#ifndef NFSD_GLUE_XDR_H
#define NFSD_GLUE_XDR_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct xdr_in {
	const unsigned char *p;		/* borrowed */
	size_t left;
	bool bad;
};

struct xdr_out {
	unsigned char *p;		/* borrowed */
	size_t len, cap;
	bool full;
};

static inline size_t xdr_pad(size_t len)
{
	return -len & 3;
}

static inline uint32_t xdr_get32(const unsigned char *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline void xdr_put32(unsigned char *p, uint32_t v)
{
	p[0] = (unsigned char)(v >> 24);
	p[1] = (unsigned char)(v >> 16);
	p[2] = (unsigned char)(v >> 8);
	p[3] = (unsigned char)v;
}

/* ---- decoding ---- */

static inline struct xdr_in xdr_in(const void *p, size_t len)
{
	return (struct xdr_in){ .p = p, .left = len };
}

/* LEN bytes in place, without padding; NULL when they aren't there. */
static inline const unsigned char *xdr_take(struct xdr_in *x, size_t len)
{
	const unsigned char *p = x->p;

	if (x->bad || len > x->left) {
		x->bad = true;
		return NULL;
	}
	x->p += len;
	x->left -= len;
	return p;
}

static inline uint32_t xdr_u32(struct xdr_in *x)
{
	const unsigned char *p = xdr_take(x, 4);

	return p ? xdr_get32(p) : 0;
}

static inline uint64_t xdr_u64(struct xdr_in *x)
{
	uint64_t high = xdr_u32(x);

	return high << 32 | xdr_u32(x);
}

/* FALSE, TRUE, nothing else. */
static inline bool xdr_bool(struct xdr_in *x)
{
	uint32_t v = xdr_u32(x);

	if (v > 1)
		x->bad = true;
	return v == 1;
}

/* opaque<MAX> or string<MAX>: a pointer into the input, with the padding skipped; NULL (and *LEN 0) on errors. Padding may hold anything. */
static inline const unsigned char *xdr_opaque(struct xdr_in *x, size_t max, uint32_t *len)
{
	uint32_t n = xdr_u32(x);
	const unsigned char *p;

	*len = 0;
	if (x->bad || n > max || n > x->left || n + xdr_pad(n) > x->left) {
		x->bad = true;
		return NULL;
	}
	p = xdr_take(x, n + xdr_pad(n));
	*len = n;
	return p;
}

/* All read, nothing left over, no error? */
static inline bool xdr_done(const struct xdr_in *x)
{
	return !x->bad && x->left == 0;
}

/* ---- encoding into a buffer of the caller's ---- */

static inline struct xdr_out xdr_out(void *p, size_t cap)
{
	return (struct xdr_out){ .p = p, .cap = cap };
}

static inline unsigned char *xdr_room(struct xdr_out *x, size_t len)
{
	unsigned char *p = x->p + x->len;

	if (x->full || len > x->cap - x->len) {
		x->full = true;
		return NULL;
	}
	x->len += len;
	return p;
}

static inline void xdr_out_u32(struct xdr_out *x, uint32_t v)
{
	unsigned char *p = xdr_room(x, 4);

	if (p)
		xdr_put32(p, v);
}

static inline void xdr_out_u64(struct xdr_out *x, uint64_t v)
{
	xdr_out_u32(x, (uint32_t)(v >> 32));
	xdr_out_u32(x, (uint32_t)v);
}

/* opaque<> or string<>. */
static inline void xdr_out_opaque(struct xdr_out *x, const void *data, size_t len)
{
	unsigned char *p;

	xdr_out_u32(x, (uint32_t)len);
	p = xdr_room(x, len + xdr_pad(len));
	if (!p)
		return;
	if (len)
		memcpy(p, data, len);
	memset(p + len, 0, xdr_pad(len));
}

#endif
