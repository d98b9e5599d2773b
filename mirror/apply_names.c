/*
 * Applying changes of names.
 *
 * Tolerantly, an entry is only removed or replaced when that leaves the object with as many links as on the primary: otherwise the last
 * copy of something that has another name there could be deleted here. Skipped, it is restated, and goes to limbo.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "mirror/apply_int.h"

enum { LIMBO_NAME = 17 };	/* an id in hex, and NUL: the name of an object in limbo */

/* ---- create ---- */

static int add_xattrs(struct applying *p)
{
	struct layer *l = p->a->cfg.local;
	struct dec d = dec_init(p->op->xattrs, p->op->xattrs_len);
	char name[256];
	const void *value;
	size_t len;
	int err = 0;

	while (!err && op_xattrs_next(&d, name, &value, &len))
		err = l->ops->setxattr(l, &p->call, p->op->id, name, value, len, 0);
	return err;
}

static int make(struct applying *p)
{
	struct layer *l = p->a->cfg.local;
	const struct op *op = p->op;
	char target[LAYER_SYMLINK_MAX + 1];
	struct create cr = { .mode = op->attr.mode, .rdev = op->attr.rdev, .exact = true };
	const char *name = op->name;
	char limbo[LIMBO_NAME];

	if (op->parent == HANDLE_LIMBO) {
		snprintf(limbo, sizeof limbo, "%016llx", (unsigned long long)op->id);
		name = limbo;
	}
	if (S_ISLNK(op->attr.mode)) {
		if (op->blob_len > LAYER_SYMLINK_MAX)
			return -EBADMSG;
		memcpy(target, op->blob, op->blob_len);
		target[op->blob_len] = 0;
		cr.target = target;
	}
	return l->ops->create(l, &p->call, op->parent, name, &cr, 0, NULL, NULL);
}

int apply_create(struct applying *p)
{
	const struct op *op = p->op;
	int err = 0;

	if (op->parent == HANDLE_LIMBO)
		applying_lock_ids(p, op->id, 0);
	else
		err = applying_lock_entry(p, op->parent, op->name, op->id);
	if (err)
		return err;
	if (p->g.id)
		return -EEXIST;
	err = make(p);
	if (!err)
		err = add_xattrs(p);
	if (!err)
		err = settle_attr(p, op->id);
	if (op->parent == HANDLE_LIMBO)
		return err;
	if (!err && p->eff.with_parent && !op->xattrs_len && !p->settled)
		files_made(p->a, op);
	tell(p, CHANGE_ENTRY, op->parent, op->name, 0, 0, 0);
	tell(p, CHANGE_ATTR, op->parent, NULL, 0, 0, 0);
	return err;
}

/* ---- unlink, rmdir ---- */

/* In tolerant mode: will ID have LEFT links when it has lost one? */
static int would_leave(struct applying *p, uint64_t id, uint32_t left)
{
	struct layer *l = p->a->cfg.local;
	struct attr a;

	if (!apply_tolerant(p->a))
		return 0;
	int err = l->ops->getattr(l, &p->call, id, NULL, &a);
	if (err || S_ISDIR(a.mode))
		return err;
	return a.nlink == left + 1 ? 0 : -EUCLEAN;
}

int apply_remove(struct applying *p)
{
	struct layer *l = p->a->cfg.local;
	const struct op *op = p->op;
	bool dir = op->type == OP_RMDIR;
	int err = applying_lock_entry(p, op->parent, op->name, op->id);

	if (!err && p->g.id != op->id)
		err = p->g.id ? -EUCLEAN : -ENOENT;
	if (!err && !dir)
		err = would_leave(p, op->id, op->attr.nlink);
	if (!err)
		err = dir ? l->ops->rmdir(l, &p->call, op->parent, op->name) : l->ops->unlink(l, &p->call, op->parent, op->name);
	if (err)
		return err;
	if (!dir && !op->attr.nlink)
		afile_forget(p->a, op->id);
	tell(p, CHANGE_ENTRY, op->parent, op->name, op->id, 0, 0);
	tell(p, CHANGE_ATTR, op->parent, NULL, 0, 0, 0);
	tell(p, CHANGE_ATTR, op->id, NULL, 0, 0, 0);
	return !dir && p->eff.attr.nlink != op->attr.nlink ? -EUCLEAN : 0;
}

/* ---- rename ---- */

static void tell_renamed(struct applying *p)
{
	const struct op *op = p->op;

	tell(p, CHANGE_ENTRY, op->parent, op->name, op->id, 0, 0);
	tell(p, CHANGE_ENTRY, op->parent2, op->name2, op->id2, 0, 0);
	tell(p, CHANGE_ATTR, op->parent, NULL, 0, 0, 0);
	if (op->parent2 != op->parent)
		tell(p, CHANGE_ATTR, op->parent2, NULL, 0, 0, 0);
	tell(p, CHANGE_ATTR, op->id, NULL, 0, 0, 0);
	if (op->id2)
		tell(p, CHANGE_ATTR, op->id2, NULL, 0, 0, 0);
}

int apply_rename(struct applying *p)
{
	struct layer *l = p->a->cfg.local;
	const struct op *op = p->op;
	bool replaces = op->id2 && op->id2 != op->id && !op->flags;
	int err = objlock_rename(p->a->cfg.locks, &p->g, p->a->cfg.bottom, op->parent, op->name, op->parent2, op->name2);

	if (!err && (p->g.id != op->id || p->g.id2 != op->id2))
		err = -EUCLEAN;
	if (!err && replaces)
		err = would_leave(p, op->id2, op->attr.nlink);
	if (!err)
		err = l->ops->rename(l, &p->call, op->parent, op->name, op->parent2, op->name2, op->flags);
	if (err)
		return err;
	if (replaces && !op->attr.nlink)
		afile_forget(p->a, op->id2);
	tell_renamed(p);
	return replaces && !S_ISDIR(p->g.type2) && p->eff.replaced_nlink != op->attr.nlink ? -EUCLEAN : 0;
}

/* ---- link, purge ---- */

int apply_link(struct applying *p)
{
	struct layer *l = p->a->cfg.local;
	const struct op *op = p->op;
	int err = applying_lock_entry(p, op->parent, op->name, op->id);

	if (!err && p->g.id)
		err = -EEXIST;
	if (!err)
		err = l->ops->link(l, &p->call, op->id, op->parent, op->name, NULL);
	if (err)
		return err;
	err = settle_attr(p, op->id);
	tell(p, CHANGE_ENTRY, op->parent, op->name, 0, 0, 0);
	tell(p, CHANGE_ATTR, op->parent, NULL, 0, 0, 0);
	tell(p, CHANGE_ATTR, op->id, NULL, 0, 0, 0);
	return err;
}

/* That it is gone already is as good. */
int apply_purge(struct applying *p)
{
	afile_forget(p->a, p->op->id);
	applying_lock_ids(p, p->op->id, 0);
	int err = local_limbo_purge(p->a->cfg.bottom, p->op->id);
	return err == -ENOENT || err == -ESTALE ? 0 : err;
}
