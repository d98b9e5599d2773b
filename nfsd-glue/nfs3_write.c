/* NFS version 3: SETATTR, WRITE, COMMIT. */
#include <errno.h>

#include "nfsd-glue/nfs3_int.h"

enum { SHARE_MIN = 64 << 10 };		/* shorter data are copied by whoever wants to keep them: they would pin a whole block */

int nfs3_setattr(struct nfs3_req *q)
{
	struct layer *l = nfs3_top(q);
	struct setattr *s = &q->a.set;
	int st = nfs3_getattr(q, q->obj.id, NULL, &q->attr);
	int r = st ? 0 : perm_setattr(l, &q->c, &q->attr.a, s);

	if (st || r)
		return st ? st : (int)nfs3_status_of(r);
	if (s->valid & SET_SIZE)
		nfs3_flush_range(q, q->obj.id, s->size, 0);
	nfs3_arm(q, q->obj.id, 0);
	q->after_sets_post = true;
	return nfs3_changed(q, l->ops->setattr(l, &q->c, q->obj.id, NULL, s, NULL));
}

static ssize_t write_file(struct nfs3_req *q, struct nfile *n)
{
	struct layer *l = nfs3_top(q);
	bool unstable = q->a.stable == NFS3_UNSTABLE;
	struct wdata d = { .p = q->a.data, .len = q->a.count, .owner = q->a.count >= SHARE_MIN ? q->rc->owner : NULL };

	nfs3_arm(q, q->obj.id, 0);
	q->after_sets_post = true;
	q->file = nfile_file(n);
	q->c.stable = !unstable;
	q->verf = nfs3_verf(q->s);	/* before: what a failed flush loses from here on has another one */
	if (unstable)
		nfile_wrote(n);
	return l->ops->write(l, &q->c, q->file, &d, q->a.offset, perm_write_flags(&q->c), NULL);
}

int nfs3_write(struct nfs3_req *q)
{
	struct nfile *n;
	int st, r;

	if (q->a.offset > (uint64_t)INT64_MAX - q->a.count)
		return S_FBIG;
	r = files_get(q->s->files, q->obj.id, true, &n);
	if (r)
		return r == -EROFS ? nfs3_changed(q, r) : (int)nfs3_status_of(r == -ENXIO ? -EINVAL : r);
	st = nfs3_may(q, q->obj.id, nfile_file(n), &q->attr, PERM_WRITE | PERM_OWNER);
	if (!st) {
		nfs3_flush_range(q, q->obj.id, q->a.offset, q->a.count);
		st = nfs3_changed(q, write_file(q, n));
	}
	q->file = NULL;
	files_put(q->s->files, n);
	return st;
}

static int sync_file(struct nfs3_req *q, struct nfile *n)
{
	struct layer *l = nfs3_top(q);
	struct file *f = n ? nfile_file(n) : NULL;

	if (n)
		nfile_syncing(n);
	int r = l->ops->fsync(l, &q->c, q->obj.id, f, true);
	if (r && r != -EROFS && r != -ESTALE)
		nfs3_flush_failed(q->s);
	return r;
}

int nfs3_commit(struct nfs3_req *q)
{
	int st = nfs3_getattr(q, q->obj.id, NULL, &q->attr);

	if (st)
		return st;
	if (!S_ISREG(q->attr.a.mode))
		return S_ISDIR(q->attr.a.mode) ? S_ISDIR : S_INVAL;
	if (!q->rights.writable)
		return S_ROFS;
	st = nfs3_may(q, q->obj.id, NULL, &q->attr, PERM_WRITE | PERM_OWNER);
	if (st)
		return st;
	q->pre[0] = q->attr;
	struct nfile *n = files_find_written(q->s->files, q->obj.id);
	int r = sync_file(q, n);
	nfs3_getattr(q, q->obj.id, n ? nfile_file(n) : NULL, &q->post[0]);
	if (n)
		files_put(q->s->files, n);
	q->verf = nfs3_verf(q->s);	/* after: what was lost before this flush could say so has another one */
	return r < 0 ? nfs3_changed(q, r) : S_OK;
}
