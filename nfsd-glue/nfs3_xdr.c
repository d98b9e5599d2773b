/* Parts of NFS version 3's results. */
#include <sys/sysmacros.h>

#include "nfsd-glue/nfs3_int.h"

static uint32_t type_of(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR: return NFS3_DIR;
	case S_IFBLK: return NFS3_BLK;
	case S_IFCHR: return NFS3_CHR;
	case S_IFLNK: return NFS3_LNK;
	case S_IFSOCK: return NFS3_SOCK;
	case S_IFIFO: return NFS3_FIFO;
	default: return NFS3_REG;
	}
}

static unsigned char *put64(unsigned char *p, uint64_t v)
{
	xdr_put32(p, (uint32_t)(v >> 32));
	xdr_put32(p + 4, (uint32_t)v);
	return p + 8;
}

static unsigned char *put32(unsigned char *p, uint32_t v)
{
	xdr_put32(p, v);
	return p + 4;
}

/* NFS has 32 bits, unsigned, for the seconds. */
static unsigned char *put_time(unsigned char *p, struct timespec t)
{
	int64_t s = t.tv_sec < 0 ? 0 : t.tv_sec > UINT32_MAX ? UINT32_MAX : t.tv_sec;

	return put32(put32(p, (uint32_t)s), (uint32_t)t.tv_nsec);
}

static unsigned char *put_fattr(const struct nfs3 *s, unsigned char *p, const struct attr *a)
{
	bool device = S_ISCHR(a->mode) || S_ISBLK(a->mode);

	p = put32(p, type_of(a->mode));
	p = put32(p, a->mode & 07777);
	p = put32(p, a->nlink);
	p = put32(p, a->uid);
	p = put32(p, a->gid);
	p = put64(p, a->size);
	p = put64(p, a->blocks * 512);
	p = put32(p, device ? major((dev_t)a->rdev) : 0);
	p = put32(p, device ? minor((dev_t)a->rdev) : 0);
	p = put64(p, s->cfg.fsid);
	p = put64(p, a->id);
	p = put_time(p, a->atime);
	p = put_time(p, a->mtime);
	return put_time(p, a->ctime);
}

void nfs3_out_fattr(struct nfs3 *s, struct xdr_out *x, const struct attr *a)
{
	unsigned char *p = xdr_room(x, NFS3_FATTR);

	if (p)
		put_fattr(s, p, a);
}

void nfs3_out_attr(struct nfs3 *s, struct xdr_out *x, const struct nfs3_attr *a)
{
	xdr_out_u32(x, a->set);
	if (a->set)
		nfs3_out_fattr(s, x, &a->a);
}

void nfs3_out_wcc(struct nfs3 *s, struct xdr_out *x, const struct nfs3_attr *pre, const struct nfs3_attr *post)
{
	unsigned char *p;

	xdr_out_u32(x, pre->set);
	if (pre->set && (p = xdr_room(x, 24)))
		put_time(put_time(put64(p, pre->a.size), pre->a.mtime), pre->a.ctime);
	nfs3_out_attr(s, x, post);
}

void nfs3_out_fh(struct nfs3 *s, struct xdr_out *x, uint16_t export_id, const struct attr *a)
{
	const struct wirefh h = { .export_id = export_id, .gen = a->gen, .id = a->id };
	unsigned char *p = xdr_room(x, 4 + WIREFH_SIZE);

	if (!p)
		return;
	xdr_put32(p, WIREFH_SIZE);
	wirefh_encode(s->cfg.handles, &h, p + 4);
}
