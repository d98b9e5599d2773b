/* NFS version 3: procedures that only look: GETATTR LOOKUP ACCESS READLINK READ FSSTAT FSINFO PATHCONF. None of them allocates memory but READ, for what it reads. */
#include <errno.h>

#include "nfsd-glue/nfs3_int.h"

enum {
	READ_INLINE_MAX = 8 << 10,	/* what is read into the reply; more gets a block of its own */
	IO_MULTIPLE = 4096,
	DIR_PREFERRED = 64 << 10,
	PROPERTIES = 0x01 | 0x02 | 0x08 | 0x10,	/* LINK, SYMLINK, HOMOGENEOUS, CANSETTIME */
	LINK_MAX_DEFAULT = 65000,
};

int nfs3_null(struct nfs3_req *q)
{
	(void)q;
	return S_OK;
}

int nfs3_getattr_proc(struct nfs3_req *q) { return nfs3_getattr(q, q->obj.id, NULL, &q->attr); }

int nfs3_lookup(struct nfs3_req *q)
{
	struct layer *l = nfs3_top(q);
	const char *name = q->a.name;
	int st = nfs3_dir(q, q->obj.id, &q->post[0], PERM_EXEC);
	int r;

	if (st)
		return st;
	if (!strcmp(name, "..")) {
		r = exports_dotdot(q->s->cfg.exports, &q->rights, l, &q->c, q->obj.id, &q->attr.a);
	} else if (!strcmp(name, ".")) {
		q->attr = q->post[0];
		r = 0;
	} else {
		r = l->ops->lookup(l, &q->c, q->obj.id, name, &q->attr.a);
	}
	q->attr.set = !r;
	return (int)nfs3_status_of(r);
}

int nfs3_access(struct nfs3_req *q)
{
	int st = nfs3_getattr(q, q->obj.id, NULL, &q->attr);

	return st ? st : (int)nfs3_status_of(perm_access(nfs3_top(q), &q->c, &q->attr.a, q->rights.writable, q->a.count, &q->count));
}

/* ---- answers that are written straight into the reply ---- */

/* Status OK, and a post_op_attr of q->attr; TAIL more bytes are wanted behind it, contiguous. */
static struct xdr_out direct(struct nfs3_req *q, size_t tail)
{
	size_t size = 4 + 4 + NFS3_FATTR + tail;
	unsigned char *p = rpc_reply_room(q->rr, size);
	struct xdr_out x = xdr_out(p, p ? size : 0);

	xdr_out_u32(&x, S_OK);
	nfs3_out_attr(q->s, &x, &q->attr);
	return x;
}

static int direct_done(struct nfs3_req *q, const struct xdr_out *x)
{
	if (x->full)
		return S_JUKEBOX;	/* no memory */
	rpc_reply_used(q->rr, x->len);
	return S_OK;
}

int nfs3_readlink(struct nfs3_req *q)
{
	struct layer *l = nfs3_top(q);
	int st = nfs3_getattr(q, q->obj.id, NULL, &q->attr);

	if (st)
		return st;
	if (!S_ISLNK(q->attr.a.mode))
		return S_INVAL;
	ssize_t n = l->ops->readlink(l, &q->c, q->obj.id, q->a.target, sizeof q->a.target - 1);
	if (n < 0)
		return (int)nfs3_status_of(n);
	struct xdr_out x = direct(q, 4 + (size_t)n + xdr_pad((size_t)n));
	xdr_out_opaque(&x, q->a.target, (size_t)n);
	return direct_done(q, &x);
}

/* What stands before the data; attributes are those after reading. */
static int read_head(struct nfs3_req *q, struct file *f, size_t n)
{
	int st = nfs3_getattr(q, q->obj.id, f, &q->attr);

	if (st)
		return st;
	struct xdr_out x = direct(q, 8);
	xdr_out_u32(&x, (uint32_t)n);
	xdr_out_u32(&x, q->a.offset + n >= q->attr.a.size);
	return direct_done(q, &x);
}

static int read_inline(struct nfs3_req *q, struct file *f, size_t want)
{
	struct layer *l = nfs3_top(q);
	unsigned char data[READ_INLINE_MAX];
	ssize_t n = want ? l->ops->read(l, &q->c, f, data, want, q->a.offset) : 0;

	if (n < 0)
		return (int)nfs3_status_of(n);
	int st = read_head(q, f, (size_t)n);
	if (!st)
		rpc_reply_opaque(q->rr, data, (size_t)n);
	return st;
}

static int read_block(struct nfs3_req *q, struct file *f, size_t want)
{
	struct layer *l = nfs3_top(q);
	struct blk *b = blk_new(want);
	ssize_t n = b ? l->ops->read(l, &q->c, f, b->data, want, q->a.offset) : -ENOMEM;
	int st = n < 0 ? (int)nfs3_status_of(n) : read_head(q, f, (size_t)n);

	if (st)
		blk_unref(b);
	else
		rpc_reply_data(q->rr, b, b->data, (size_t)n);
	return st;
}

int nfs3_read(struct nfs3_req *q)
{
	size_t want = q->a.count < NFS3_FSINFO_IO ? q->a.count : NFS3_FSINFO_IO;
	struct nfile *n;
	int r = files_get(q->s->files, q->obj.id, false, &n);

	if (r)
		return (int)nfs3_status_of(r == -ENXIO ? -EINVAL : r);
	int st = nfs3_may(q, q->obj.id, nfile_file(n), &q->attr, PERM_READ | PERM_OWNER | PERM_READ_IF_EXEC);
	if (q->a.offset > (uint64_t)INT64_MAX - want)	/* behind the end of any file, or nearly so */
		want = q->a.offset > INT64_MAX ? 0 : (size_t)(INT64_MAX - q->a.offset);
	if (!st)
		st = want <= READ_INLINE_MAX ? read_inline(q, nfile_file(n), want) : read_block(q, nfile_file(n), want);
	files_put(q->s->files, n);
	return st;
}

/* ---- the file system ---- */

int nfs3_fsstat(struct nfs3_req *q)
{
	struct layer *l = nfs3_top(q);
	struct statvfs v;
	int st = nfs3_getattr(q, q->obj.id, NULL, &q->attr);
	int r = st ? 0 : l->ops->statfs(l, &q->c, &v);

	if (st || r)
		return st ? st : (int)nfs3_status_of(r);
	uint64_t unit = v.f_frsize ? v.f_frsize : v.f_bsize;
	struct xdr_out x = direct(q, 52);
	xdr_out_u64(&x, v.f_blocks * unit);
	xdr_out_u64(&x, v.f_bfree * unit);
	xdr_out_u64(&x, v.f_bavail * unit);
	xdr_out_u64(&x, v.f_files);
	xdr_out_u64(&x, v.f_ffree);
	xdr_out_u64(&x, v.f_favail);
	xdr_out_u32(&x, 0);		/* for how long this won't change: not known */
	return direct_done(q, &x);
}

int nfs3_fsinfo(struct nfs3_req *q)
{
	const struct volume_limits *lim = q->s->cfg.limits;
	uint32_t gran = lim->time_gran_ns ? lim->time_gran_ns : 1;
	int st = nfs3_getattr(q, q->obj.id, NULL, &q->attr);

	if (st)
		return st;
	struct xdr_out x = direct(q, 48);
	for (int i = 0; i < 2; i++) {	/* reading, writing: the most, preferred, multiple */
		xdr_out_u32(&x, NFS3_FSINFO_IO);
		xdr_out_u32(&x, NFS3_FSINFO_IO);
		xdr_out_u32(&x, IO_MULTIPLE);
	}
	xdr_out_u32(&x, DIR_PREFERRED);
	xdr_out_u64(&x, lim->size_max && lim->size_max < INT64_MAX ? lim->size_max : INT64_MAX);
	xdr_out_u32(&x, gran / 1000000000);
	xdr_out_u32(&x, gran % 1000000000);
	xdr_out_u32(&x, PROPERTIES);
	return direct_done(q, &x);
}

int nfs3_pathconf(struct nfs3_req *q)
{
	const struct volume_limits *lim = q->s->cfg.limits;
	int st = nfs3_getattr(q, q->obj.id, NULL, &q->attr);

	if (st)
		return st;
	struct xdr_out x = direct(q, 24);
	xdr_out_u32(&x, lim->link_max ? lim->link_max : LINK_MAX_DEFAULT);
	xdr_out_u32(&x, LAYER_NAME_MAX);
	xdr_out_u32(&x, true);		/* longer names are refused, */
	xdr_out_u32(&x, true);		/* chown is root's, */
	xdr_out_u32(&x, false);		/* case matters, */
	xdr_out_u32(&x, true);		/* and is kept */
	return direct_done(q, &x);
}
