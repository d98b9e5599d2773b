/*
 * NFS version 3: REMOVE, RMDIR, RENAME, LINK. Names are looked up beforehand only for what permissions need (who owns what is in a sticky directory); what
 * they are is decided under the locks. A name that isn't there gets its answer from the operation itself.
 */
#include <errno.h>

#include "nfsd-glue/nfs3_int.h"

/* NAME in DIR; *A is unset when it isn't there. A status. */
static int child_of(struct nfs3_req *q, uint64_t dir, const char *name, struct nfs3_attr *a)
{
	struct layer *l = nfs3_top(q);
	int r = l->ops->lookup(l, &q->c, dir, name, &a->a);

	a->set = !r;
	return r == -ENOENT ? S_OK : (int)nfs3_status_of(r);
}

static int may_remove(struct nfs3_req *q)
{
	struct layer *l = nfs3_top(q);
	struct nfs3_attr dir, child = { 0 };
	int st = nfs3_dir(q, q->obj.id, &dir, PERM_EXEC);

	if (!st)
		st = child_of(q, q->obj.id, q->a.name, &child);
	if (st || !child.set)
		return st;
	return (int)nfs3_status_of(perm_remove(l, &q->c, &dir.a, &child.a));
}

int nfs3_remove(struct nfs3_req *q)
{
	struct layer *l = nfs3_top(q);
	int st = nfs3_dots(q->a.name) ? S_INVAL : may_remove(q);

	if (st)
		return st;
	nfs3_arm(q, q->obj.id, 0);
	return nfs3_changed(q, l->ops->unlink(l, &q->c, q->obj.id, q->a.name));
}

int nfs3_rmdir(struct nfs3_req *q)
{
	struct layer *l = nfs3_top(q);

	if (nfs3_dots(q->a.name))
		return q->a.name[1] ? S_EXIST : S_INVAL;
	int st = may_remove(q);
	if (st)
		return st;
	nfs3_arm(q, q->obj.id, 0);
	return nfs3_changed(q, l->ops->rmdir(l, &q->c, q->obj.id, q->a.name));
}

static int may_rename(struct nfs3_req *q)
{
	struct nfs3_attr dir, newdir, from = { 0 }, to = { 0 };
	int st = nfs3_dir(q, q->obj.id, &dir, PERM_EXEC);

	if (!st)
		st = nfs3_dir(q, q->dir2.id, &newdir, PERM_EXEC);
	if (!st)
		st = child_of(q, q->obj.id, q->a.name, &from);
	if (!st)
		st = child_of(q, q->dir2.id, q->a.name2, &to);
	if (st || !from.set)
		return st;
	return (int)nfs3_status_of(perm_rename(nfs3_top(q), &q->c, &dir.a, &from.a, &newdir.a, to.set ? &to.a : NULL));
}

int nfs3_rename(struct nfs3_req *q)
{
	struct layer *l = nfs3_top(q);
	int st = nfs3_dots(q->a.name) || nfs3_dots(q->a.name2) ? S_INVAL : may_rename(q);

	if (st)
		return st;
	nfs3_arm(q, q->obj.id, q->dir2.id);
	return nfs3_changed(q, l->ops->rename(l, &q->c, q->obj.id, q->a.name, q->dir2.id, q->a.name2, 0));
}

int nfs3_link(struct nfs3_req *q)
{
	struct layer *l = nfs3_top(q);
	struct nfs3_attr dir;
	int st = nfs3_getattr(q, q->obj.id, NULL, &q->attr);

	if (!st)
		st = nfs3_dir(q, q->dir2.id, &dir, 0);
	if (st)
		return st;
	if (nfs3_dots(q->a.name))
		return S_EXIST;
	int r = perm_link(l, &q->c, &q->attr.a, &dir.a);
	if (r)
		return (int)nfs3_status_of(r);
	nfs3_arm(q, 0, q->dir2.id);
	return nfs3_changed(q, l->ops->link(l, &q->c, q->obj.id, q->dir2.id, q->a.name, NULL));
}
