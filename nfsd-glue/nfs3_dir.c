/*
 * NFS version 3: READDIR and READDIRPLUS.
 *
 * Cookies are the layers' positions, which are the same on every node and stay valid whatever comes and goes; the cookie verifier is a constant, so that
 * a listing goes on on another node. An entry of READDIRPLUS is what its name means now; one whose name is gone meanwhile is left out.
 *
 * Limits, as the RFC has them: of READDIR `count` and of READDIRPLUS `maxcount` bounds the whole READDIR3resok; `dircount` bounds the entries without
 * attributes and handles. Not even one entry fits: TOOSMALL.
 */
#include <errno.h>

#include "nfsd-glue/nfs3_int.h"

enum {
	LIST_FIXED = 4 + NFS3_FATTR + 8 + 4 + 4,	/* directory's attributes, verifier, no more entries, eof */
	LIST_END = 4 + 4,
	ENTRY_PLUS_MAX = 4 + NFS3_FATTR + 4 + 4 + WIREFH_SIZE,
	GROW = 16 << 10,
	POS_DOTDOT = 2,
};

struct listing {
	struct nfs3_req *q;
	struct attr dotdot;		/* of a sub-directory export's directories */
	bool plus, fixed_dotdot;
	uint32_t n;
	size_t left, dir_left;		/* of maxcount (or count), of dircount */
	bool full, no_memory;
};

/* Room for one more entry in the reply; the space for the end of the list stays. */
static struct xdr_out entry_room(struct listing *ls, size_t size)
{
	struct rpc_reply *r = ls->q->rr;
	size_t want = size + LIST_END;
	unsigned char *p;

	if (r->cap - r->len < want && want < GROW && ls->left > GROW)
		want = GROW;
	p = rpc_reply_room(r, want);
	return xdr_out(p, p ? size : 0);
}

static void put_entry(struct listing *ls, const struct dirent_info *e, uint64_t id, const struct attr *a)
{
	struct nfs3 *s = ls->q->s;
	size_t len = strlen(e->name);
	size_t dir_size = 8 + 4 + len + xdr_pad(len) + 8;
	size_t size = 4 + dir_size + (ls->plus ? ENTRY_PLUS_MAX : 0);

	if (size > ls->left || (ls->plus && dir_size > ls->dir_left)) {
		ls->full = true;
		return;
	}
	struct xdr_out x = entry_room(ls, size);
	xdr_out_u32(&x, 1);
	xdr_out_u64(&x, id);
	xdr_out_opaque(&x, e->name, len);
	xdr_out_u64(&x, e->pos);
	if (ls->plus) {
		xdr_out_u32(&x, 1);
		nfs3_out_fattr(s, &x, a);
		xdr_out_u32(&x, 1);
		nfs3_out_fh(s, &x, ls->q->obj.export_id, a);
	}
	if (x.full) {
		ls->full = ls->no_memory = true;
		return;
	}
	rpc_reply_used(ls->q->rr, x.len);
	ls->left -= size;
	ls->dir_left -= ls->plus ? dir_size : 0;
	ls->n++;
}

/* What entry E is. False: gone meanwhile. */
static bool entry_attr(struct listing *ls, const struct dirent_info *e, struct attr *a)
{
	struct nfs3_req *q = ls->q;
	struct layer *l = nfs3_top(q);

	if (!strcmp(e->name, ".")) {
		*a = q->attr.a;
		return true;
	}
	if (!strcmp(e->name, "..")) {
		if (ls->fixed_dotdot)
			*a = ls->dotdot;
		else if (l->ops->getattr(l, &q->c, e->id, NULL, a))
			*a = q->attr.a;
		return true;
	}
	return !l->ops->lookup(l, &q->c, q->obj.id, e->name, a) && a->nlink;
}

static int list_one(void *arg, const struct dirent_info *e)
{
	struct listing *ls = arg;
	struct attr a;
	uint64_t id = e->id;

	if (ls->plus) {
		if (ls->left < 4 + 8 + 4 + 4 + 8 + ENTRY_PLUS_MAX) {	/* not worth a look */
			ls->full = true;
			return 1;
		}
		if (!entry_attr(ls, e, &a))
			return 0;
		id = a.id;
	} else if (ls->fixed_dotdot && !strcmp(e->name, "..")) {
		id = ls->dotdot.id;
	}
	put_entry(ls, e, id, &a);
	return ls->full;
}

static int begin(struct nfs3_req *q, struct listing *ls)
{
	struct nfs3 *s = q->s;
	int st = nfs3_dir(q, q->obj.id, &q->attr, PERM_READ);

	if (st)
		return st;
	if (q->a.offset && q->a.verf && q->a.verf != s->cookie_verf)
		return S_BAD_COOKIE;
	if (q->a.count < LIST_FIXED)
		return S_TOOSMALL;
	ls->left = (q->a.count < NFS3_FSINFO_IO ? q->a.count : NFS3_FSINFO_IO) - LIST_FIXED;
	ls->dir_left = q->a.dircount;
	if (!q->rights.whole && q->a.offset < POS_DOTDOT) {
		int r = exports_dotdot(s->cfg.exports, &q->rights, nfs3_top(q), &q->c, q->obj.id, &ls->dotdot);
		if (r)			/* not below the export any more: nothing outside is shown */
			ls->dotdot = q->attr.a;
		ls->fixed_dotdot = true;
	}
	struct xdr_out x = xdr_out(rpc_reply_room(q->rr, 4 + LIST_FIXED), 4 + LIST_FIXED);
	if (!x.p)
		return S_JUKEBOX;
	xdr_out_u32(&x, S_OK);
	nfs3_out_attr(s, &x, &q->attr);
	xdr_out_u64(&x, s->cookie_verf);
	rpc_reply_used(q->rr, x.len);
	return S_OK;
}

static int list(struct nfs3_req *q, struct listing *ls)
{
	struct layer *l = nfs3_top(q);
	struct dir *d;
	int r;

	if (q->a.offset > INT64_MAX)	/* behind every entry */
		return 0;
	r = l->ops->opendir(l, &q->c, q->obj.id, &d);
	if (r)
		return r;
	r = l->ops->readdir(l, &q->c, d, q->a.offset, list_one, ls);
	l->ops->releasedir(l, &q->c, d);
	return r;
}

static int readdir3(struct nfs3_req *q, bool plus)
{
	struct listing ls = { .q = q, .plus = plus };
	int st = begin(q, &ls);

	if (st)
		return st;
	int r = list(q, &ls);
	if (ls.no_memory && !ls.n)
		r = -ENOMEM;
	if (r)
		return (int)nfs3_status_of(r);
	if (ls.full && !ls.n)
		return S_TOOSMALL;
	rpc_reply_u32(q->rr, 0);
	rpc_reply_u32(q->rr, !ls.full);
	return S_OK;
}

int nfs3_readdir(struct nfs3_req *q) { return readdir3(q, false); }
int nfs3_readdirplus(struct nfs3_req *q) { return readdir3(q, true); }
