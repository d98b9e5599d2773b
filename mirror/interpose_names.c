/*
 * Changes of names: create, tmpfile, unlink, rmdir, rename, link.
 *
 * A new object's id is taken before the locks and locked with its parent: as soon as the layer below has made it others can find it, and what
 * they do to it must come after the creation in the order.
 *
 * What a creation inherits from its parent's default ACL is read back under the locks and travels with the op: the standby makes the object
 * exactly, without inheriting anything itself.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "mirror/interpose_int.h"

static const char *const acl_names[] = { "system.posix_acl_access", "system.posix_acl_default" };

/* What got a name is flushed with its directory. What can't be opened (a symlink, a device) is in the directory's own commit. */
static void txn_flush_child(struct txn *tx)
{
	if (S_ISREG(tx->eff.attr.mode) || S_ISDIR(tx->eff.attr.mode))
		tx->flush[0] = tx->eff.attr.id;
}

/* A file that was opened for the caller. */
static void opened(struct txn *tx, const struct file *f)
{
	if ((file_flags(f) & O_ACCMODE) != O_RDONLY && tx->c->origin != ORIGIN_NFS)
		atomic_fetch_add(&tx->ip->writers, 1);
}

/* The object was made, but the caller gets an error (nobody confirmed it): nothing is open for him. */
static void close_unconfirmed(struct txn *tx, struct layer *l, int r, struct file **out_file)
{
	if (r >= 0 || !out_file || !*out_file)
		return;
	ip_release(l, tx->c, *out_file);
	*out_file = NULL;
}

static int add_acl(struct txn *tx, const char *name, struct enc *list)
{
	struct layer *b = tx->ip->cfg.below;
	auto_free unsigned char *value = malloc(LAYER_XATTR_MAX);

	if (!value)
		return -ENOMEM;
	ssize_t n = b->ops->getxattr(b, &tx->call, tx->eff.attr.id, name, value, LAYER_XATTR_MAX);
	if (n == -ENODATA || n == -EOPNOTSUPP)
		return 0;
	if (n < 0)
		return (int)n;
	op_xattrs_add(list, name, value, (size_t)n);
	return list->err;
}

/* The op of a creation that succeeded. */
static void emit_created(struct txn *tx, uint64_t parent, const char *name, const struct create *cr)
{
	struct enc list = { 0 };
	int err = 0;

	for (unsigned i = 0; tx->eff.acl_inherited && !err && i < ARRAY_LEN(acl_names); i++)
		if (i == 0 || S_ISDIR(tx->eff.attr.mode))
			err = add_acl(tx, acl_names[i], &list);
	struct op op = { .type = OP_CREATE, .id = tx->eff.attr.id, .parent = parent, .name = name, .attr = tx->eff.attr, .xattrs = list.p,
			 .xattrs_len = list.len };
	if (S_ISLNK(tx->eff.attr.mode)) {
		op.blob = cr->target;
		op.blob_len = strlen(cr->target);
	}
	txn_emit(tx, &op);
	if (err)	/* the object is streamed without its ACLs: have it compared */
		txn_restate(tx, op.id, 0, 0, 0);
	enc_free(&list);
}

static int create_below(struct txn *tx, uint64_t parent, const char *name, const struct create *cr, int flags, struct attr *out,
			struct file **out_file)
{
	struct layer *b = tx->ip->cfg.below;

	if (tx->g.id)
		return -EEXIST;
	tx->call.new_id = tx->new_id;
	int r = b->ops->create(b, &tx->call, parent, name, cr, flags, out, out_file);
	txn_done(tx, r);
	if (r < 0) {
		if (out_file)
			*out_file = NULL;	/* whatever the layer below left there */
		txn_failed(tx, tx->new_id, 0, parent, 0);
		return r;
	}
	if (out_file && *out_file)
		opened(tx, *out_file);
	emit_created(tx, parent, name, cr);
	txn_flush_child(tx);
	tx->flush[2] = parent;
	tell_entry(tx, parent, name, 0);
	tell_attr(tx, parent);
	return r;
}

int ip_create(struct layer *l, struct call *c, uint64_t parent, const char *name, const struct create *cr, int flags, struct attr *out,
	      struct file **out_file)
{
	struct txn tx;
	int r = txn_begin(&tx, l, c, strlen(name) + (cr->target ? strlen(cr->target) : 0));

	if (out_file)
		*out_file = NULL;
	if (!r)
		r = txn_room(tx.ip, GROWTH_NAME, 1);
	if (!r)
		r = ids_next(tx.ip->cfg.handles, &tx.new_id);
	if (!r)
		r = txn_lock_entry(&tx, parent, name, tx.new_id);
	if (!r)
		r = create_below(&tx, parent, name, cr, flags & ~(O_CREAT | O_EXCL | O_TRUNC), out, out_file);
	r = txn_end(&tx, r, true);
	close_unconfirmed(&tx, l, r, out_file);
	return r;
}

static int tmpfile_below(struct txn *tx, uint64_t parent, const struct create *cr, int flags, struct attr *out, struct file **out_file)
{
	struct layer *b = tx->ip->cfg.below;
	char name[20];

	tx->call.new_id = tx->new_id;
	int r = tmp_add(tx->ip, tx->new_id);
	if (r)
		return r;
	r = b->ops->tmpfile(b, &tx->call, parent, cr, flags, out, out_file);
	txn_done(tx, r);
	if (r < 0) {
		*out_file = NULL;
		tmp_named(tx->ip, tx->new_id);
		txn_failed(tx, tx->new_id, 0, 0, 0);
		return r;
	}
	opened(tx, *out_file);
	snprintf(name, sizeof name, "%016llx", (unsigned long long)tx->new_id);
	emit_created(tx, HANDLE_LIMBO, name, cr);
	tx->flush[0] = tx->eff.attr.id;
	return r;
}

int ip_tmpfile(struct layer *l, struct call *c, uint64_t parent, const struct create *cr, int flags, struct attr *out, struct file **out_file)
{
	struct txn tx;
	int r = txn_begin(&tx, l, c, 0);

	*out_file = NULL;
	if (!r)
		r = txn_room(tx.ip, GROWTH_NAME, 1);
	if (!r)
		r = ids_next(tx.ip->cfg.handles, &tx.new_id);
	if (!r)
		r = txn_lock_ids(&tx, parent, tx.new_id);
	if (!r)
		r = tmpfile_below(&tx, parent, cr, flags & ~(O_CREAT | O_EXCL | O_TRUNC), out, out_file);
	r = txn_end(&tx, r, true);
	close_unconfirmed(&tx, l, r, out_file);
	return r;
}

static int remove_below(struct txn *tx, enum op_type type, uint64_t parent, const char *name)
{
	struct layer *b = tx->ip->cfg.below;
	uint64_t id = tx->g.id;
	int r = type == OP_RMDIR ? b->ops->rmdir(b, &tx->call, parent, name) : b->ops->unlink(b, &tx->call, parent, name);

	txn_done(tx, r);
	if (r < 0) {
		txn_failed(tx, id, 0, parent, 0);
		return r;
	}
	struct op op = { .type = (uint8_t)type, .id = id, .parent = parent, .name = name, .attr = { .nlink = tx->eff.attr.nlink } };
	txn_emit(tx, &op);
	tx->flush[2] = parent;
	tell_entry(tx, parent, name, id);
	tell_attr(tx, parent);
	tell_attr(tx, id);
	return 0;
}

static int remove_name(enum op_type type, struct layer *l, struct call *c, uint64_t parent, const char *name)
{
	struct txn tx;
	int r = txn_begin(&tx, l, c, strlen(name));

	if (!r)
		r = txn_lock_entry(&tx, parent, name, 0);
	if (!r)
		r = remove_below(&tx, type, parent, name);
	return txn_end(&tx, r, true);
}

int ip_unlink(struct layer *l, struct call *c, uint64_t parent, const char *name) { return remove_name(OP_UNLINK, l, c, parent, name); }
int ip_rmdir(struct layer *l, struct call *c, uint64_t parent, const char *name) { return remove_name(OP_RMDIR, l, c, parent, name); }

/* ---- rename ---- */

struct rename_args {
	uint64_t parent, newparent;
	const char *name, *newname;
	unsigned flags;
};

static void tell_renamed(struct txn *tx, const struct rename_args *a)
{
	tell_entry(tx, a->parent, a->name, tx->g.id);
	tell_entry(tx, a->newparent, a->newname, tx->g.id2);
	tell_attr(tx, a->parent);
	if (a->newparent != a->parent)
		tell_attr(tx, a->newparent);
	tell_attr(tx, tx->g.id);
	if (tx->g.id2)
		tell_attr(tx, tx->g.id2);
}

static int rename_below(struct txn *tx, const struct rename_args *a)
{
	struct layer *b = tx->ip->cfg.below;
	int r = b->ops->rename(b, &tx->call, a->parent, a->name, a->newparent, a->newname, a->flags);

	txn_done(tx, r);
	if (r < 0) {
		txn_failed(tx, tx->g.id, tx->g.id2, a->parent, a->newparent);
		return r;
	}
	struct op op = { .type = OP_RENAME, .id = tx->g.id, .id2 = tx->g.id2, .parent = a->parent, .name = a->name, .parent2 = a->newparent,
			 .name2 = a->newname, .flags = a->flags, .attr = { .nlink = tx->eff.replaced_nlink } };
	txn_emit(tx, &op);
	tx->flush[0] = a->newparent;
	tx->flush[2] = a->parent != a->newparent ? a->parent : 0;
	tell_renamed(tx, a);
	return 0;
}

int ip_rename(struct layer *l, struct call *c, uint64_t parent, const char *name, uint64_t newparent, const char *newname, unsigned flags)
{
	const struct rename_args a = { parent, newparent, name, newname, flags };
	struct txn tx;
	int r = txn_begin(&tx, l, c, strlen(name) + strlen(newname));

	if (!r)
		r = txn_room(tx.ip, GROWTH_NAME, 0);
	if (!r)
		r = objlock_rename(tx.ip->cfg.locks, &tx.g, tx.ip->cfg.below, parent, name, newparent, newname);
	tx.entry[0].parent = parent;
	tx.entry[0].name = name;
	tx.entry[1].parent = newparent;
	tx.entry[1].name = newname;
	if (!r) {
		txn_locked(&tx);
		r = rename_below(&tx, &a);
	}
	return txn_end(&tx, r, true);
}

/* ---- link ---- */

static int link_below(struct txn *tx, uint64_t id, uint64_t newparent, const char *newname, struct attr *out)
{
	struct layer *b = tx->ip->cfg.below;
	int r = b->ops->link(b, &tx->call, id, newparent, newname, out);

	txn_done(tx, r);
	if (r < 0) {
		txn_failed(tx, id, 0, newparent, 0);
		return r;
	}
	tmp_named(tx->ip, id);
	struct op op = { .type = OP_LINK, .id = id, .parent = newparent, .name = newname, .attr = tx->eff.attr };
	txn_emit(tx, &op);
	txn_flush_child(tx);
	tx->flush[2] = newparent;
	tell_entry(tx, newparent, newname, 0);
	tell_attr(tx, newparent);
	tell_attr(tx, id);
	return r;
}

int ip_link(struct layer *l, struct call *c, uint64_t id, uint64_t newparent, const char *newname, struct attr *out)
{
	struct txn tx;
	int r = txn_begin(&tx, l, c, strlen(newname));

	if (!r)
		r = txn_room(tx.ip, GROWTH_NAME, 0);
	if (!r)
		r = txn_lock_entry(&tx, newparent, newname, id);
	if (!r)
		r = link_below(&tx, id, newparent, newname, out);
	return txn_end(&tx, r, true);
}
