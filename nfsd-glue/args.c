/* See args.h: one function per letter of a shape. */
#include "nfsd-glue/args.h"

#include <assert.h>
#include <errno.h>

#include "nfsd-glue/rpc.h"
#include "nfsd-glue/xdr.h"

enum { NS_PER_S = 1000000000 };
enum { CREATE_EXCLUSIVE = 2, STABLE_LAST = 2, TIME_CLIENT = 2, TYPE_FIRST = 1, TYPE_LAST = 7, TYPE_BLK = 3, TYPE_CHR = 4, TYPE_SOCK = 6, TYPE_FIFO = 7 };

/* A walk: where it is, and the first thing that was understood but can't be. */
struct walk {
	struct xdr_in x;
	int wrong;
};

static void wrong(struct walk *w, int err)
{
	if (!w->wrong)
		w->wrong = err;
}

static uint32_t choice(struct walk *w, uint32_t first, uint32_t last)
{
	uint32_t v = xdr_u32(&w->x);

	if (v < first || v > last)
		w->x.bad = true;
	return v;
}

static void opaque(struct walk *w, size_t max)
{
	uint32_t len;

	xdr_opaque(&w->x, max, &len);
}

/* A string that ends up as a C string: MAX bytes, none of them NUL, nor (a name) '/'. */
static void text(struct walk *w, size_t max, bool name)
{
	uint32_t len;
	const unsigned char *p = xdr_opaque(&w->x, RPC_RECORD_MAX, &len);

	if (!p)
		return;
	if (!len || memchr(p, 0, len) || (name && memchr(p, '/', len)))
		wrong(w, -EINVAL);
	else if (len > max)
		wrong(w, -ENAMETOOLONG);
}

/* string<1024>, without NUL. */
static void string(struct walk *w)
{
	uint32_t len;
	const unsigned char *p = xdr_opaque(&w->x, ARGS_STRING_MAX, &len);

	if (p && memchr(p, 0, len))
		wrong(w, -EINVAL);
}

static void time3(struct walk *w)
{
	xdr_u32(&w->x);
	if (xdr_u32(&w->x) >= NS_PER_S)
		wrong(w, -EINVAL);
}

static void sattr(struct walk *w)
{
	for (int i = 0; i < 3; i++)	/* mode, uid, gid */
		if (xdr_bool(&w->x))
			xdr_u32(&w->x);
	if (xdr_bool(&w->x))		/* size */
		xdr_u64(&w->x);
	for (int i = 0; i < 2; i++)	/* atime, mtime */
		if (choice(w, 0, TIME_CLIENT) == TIME_CLIENT)
			time3(w);
}

static void guard(struct walk *w)
{
	if (xdr_bool(&w->x))
		time3(w);
}

static void createhow(struct walk *w)
{
	if (choice(w, 0, CREATE_EXCLUSIVE) == CREATE_EXCLUSIVE)
		xdr_u64(&w->x);
	else
		sattr(w);
}

static void mknoddata(struct walk *w)
{
	uint32_t type = choice(w, TYPE_FIRST, TYPE_LAST);

	if (type == TYPE_BLK || type == TYPE_CHR || type == TYPE_SOCK || type == TYPE_FIFO)
		sattr(w);
	if (type == TYPE_BLK || type == TYPE_CHR)
		xdr_u64(&w->x);
}

static void write_rest(struct walk *w)
{
	uint32_t count = xdr_u32(&w->x), len;

	choice(w, 0, STABLE_LAST);
	xdr_opaque(&w->x, RPC_PAYLOAD_MAX, &len);
	if (len != count)
		w->x.bad = true;
}

static void part(struct walk *w, char letter)
{
	switch (letter) {
	case 'f': opaque(w, ARGS_FH_MAX); break;
	case 'n': text(w, ARGS_NAME_MAX, true); break;
	case 'p': text(w, ARGS_PATH_MAX, false); break;
	case 's': sattr(w); break;
	case 'g': guard(w); break;
	case 'c': createhow(w); break;
	case 'k': mknoddata(w); break;
	case 'w': write_rest(w); break;
	case 'b': xdr_bool(&w->x); break;
	case 'u': xdr_u32(&w->x); break;
	case 'U':
	case '8': xdr_take(&w->x, 8); break;
	case 'C': xdr_take(&w->x, 16); break;
	case 'o': opaque(w, ARGS_STRING_MAX); break;
	case 'd':
	case 'm': string(w); break;
	default: assert(false);	/* no letter of args.h */
	}
}

int args_check(const char *shape, const void *p, size_t len)
{
	struct walk w = { .x = xdr_in(p, len) };

	for (; *shape && !w.x.bad; shape++)
		part(&w, *shape);
	return xdr_done(&w.x) ? w.wrong : -EBADMSG;
}
