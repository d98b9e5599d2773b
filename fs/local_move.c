/*
 * Names that go, come and change: unlink, rmdir, rename, link; readlink.
 *
 * What a name is gets decided under the locks, before the change; what the change makes of counts and times follows from that, so that nothing
 * has to be looked up again when the object may be gone. An object that lost its last name is given to obj_drop(); when the caller wants it to linger
 * (call.linger), obj_linger() is told before.
 */
#include "fs/local_int.h"

/* A name of a call, as it was under the locks. */
struct place {
	struct obj *p;			/* owned reference */
	const char *name;
	bool there;
	struct statx stx;
	struct hentry e;
};

static void place_end(struct place *pl) { cleanup_obj_(&pl->p); }
#define auto_place __attribute__((cleanup(place_end)))

static bool is_dir(const struct place *pl) { return pl->there && pl->e.type == S_IFDIR; }

/* Fills PL. A name that isn't there is no error. */
static int place_find(struct local *l, struct place *pl, uint64_t parent, const char *name)
{
	pl->name = name;
	int err = obj_get_dir(l, parent, &pl->p);
	if (!err)
		err = local_identify(l, pl->p, name, &pl->stx, &pl->e);
	pl->there = !err;
	return err == -ENOENT && pl->p ? 0 : err;
}

/* Links that are left when PL, one name of a non-directory, or the name of a directory, goes away. */
static uint32_t links_left(const struct place *pl)
{
	return is_dir(pl) || pl->e.flags & HENTRY_TMPFILE ? 0 : pl->stx.stx_nlink - 1;
}

/* What dies when PL goes away; 0 = nothing. */
static uint64_t dying(const struct place *pl)
{
	return pl->there && !links_left(pl) ? pl->e.id : 0;
}

/* PL is about to go away by call C, which may want it to linger. */
static void may_linger(struct local *l, const struct call *c, const struct place *pl)
{
	if (c->linger && dying(pl))
		obj_linger(l, pl->e.id);
}

/* It didn't go away. */
static int stays(struct local *l, const struct place *pl, int err)
{
	if (dying(pl))
		obj_forget(l, pl->e.id);
	return err;
}

/* After it went away: links left. */
static uint32_t lost_name(struct local *l, const struct place *pl, struct timespec stamp)
{
	uint32_t left = links_left(pl);
	if (!left)
		obj_drop(l, pl->e.id);
	int err = local_set_ctime(l, pl->e.id, stamp);
	if (err && err != -ESTALE)
		log_warn("local: object %llx: ctime could not be recorded: %s", (unsigned long long)pl->e.id, strerror(-err));
	return left;
}

static void done(struct call *c, int err)
{
	if (err && c->effect)
		c->effect->changed = true;
}

/* ---- unlink, rmdir ---- */

static int remove_name(struct layer *layer, struct call *c, uint64_t parent, const char *name, int how)
{
	struct local *l = to_local(layer);
	auto_objguard struct objguard g = { 0 };
	auto_place struct place pl = { 0 };
	struct timespec stamp = local_stamp(l, c);
	int err = c->locked ? 0 : objlock_entry(l->cfg.locks, &g, layer, parent, name, 0);
	if (!err)
		err = place_find(l, &pl, parent, name);
	if (!err && !pl.there)
		err = -ENOENT;
	if (!err && is_dir(&pl) != (how == AT_REMOVEDIR))
		err = is_dir(&pl) ? -EISDIR : -ENOTDIR;
	if (err)
		return err;
	auto_unsteady struct unsteady u = unsteady_begin(l, is_dir(&pl), parent, 0, dying(&pl));
	auto_lifted struct lifted lf = lift_init(l, c, parent, pl.e.id);
	may_linger(l, c, &pl);
	err = TRY_LIFT(&lf, unlinkat(pl.p->fd, name, how));
	if (err)
		return stays(l, &pl, err);
	uint32_t left = lost_name(l, &pl, stamp);
	err = local_dir_touched(l, pl.p, stamp);
	if (!err && how == AT_REMOVEDIR)
		err = local_add_nsub(l, parent, -1);
	if (c->effect) {
		pl.e.ctime = stamp;
		local_attr_fill(l, &pl.stx, &pl.e, &c->effect->attr);
		c->effect->attr.nlink = left;
	}
	done(c, err);
	return err;
}

int local_unlink(struct layer *layer, struct call *c, uint64_t parent, const char *name)
{
	return remove_name(layer, c, parent, name, 0);
}

int local_rmdir(struct layer *layer, struct call *c, uint64_t parent, const char *name)
{
	return remove_name(layer, c, parent, name, AT_REMOVEDIR);
}

/* ---- rename ---- */

/* What doesn't exist for callers can't be moved, replaced or made. */
static int rename_hidden(const struct place *from, const struct place *to, unsigned flags)
{
	if (local_hidden(from->p, from->name))
		return -ENOENT;
	if (local_hidden(to->p, to->name))
		return flags & RENAME_EXCHANGE ? -ENOENT : -EPERM;
	return 0;
}

/* Sub-directories of both parents after it. */
static int rename_counts(struct local *l, const struct place *from, const struct place *to, unsigned flags)
{
	int moved = is_dir(from), met = is_dir(to);
	int exchange = flags & RENAME_EXCHANGE ? 1 : 0;
	int err = local_add_nsub(l, from->p->id, exchange * met - moved);
	int err2 = local_add_nsub(l, to->p->id, moved - met);
	return err ? err : err2;
}

/* xfs touches mtime of a directory that was exchanged across parents; others don't. Nobody's contents have changed. */
static int keep_mtime(struct local *l, const struct place *pl)
{
	auto_obj struct obj *o = NULL;
	int err = is_dir(pl) ? obj_get(l, pl->e.id, &o) : 0;
	return err || !o ? err : local_set_mtime(l, o, -1, (struct timespec){ pl->stx.stx_mtime.tv_sec, pl->stx.stx_mtime.tv_nsec });
}

static int rename_done(struct local *l, struct call *c, struct place *from, struct place *to, unsigned flags)
{
	struct timespec stamp = local_stamp(l, c);
	uint32_t left = 0;
	if (to->there && !(flags & RENAME_EXCHANGE))
		left = lost_name(l, to, stamp);
	else if (to->there)
		left = is_dir(to) ? 2 + to->e.nsub : to->stx.stx_nlink;
	int err = local_set_ctime(l, from->e.id, stamp);
	if (!err && flags & RENAME_EXCHANGE)
		err = local_set_ctime(l, to->e.id, stamp);
	if (!err && flags & RENAME_EXCHANGE && from->p != to->p && !(err = keep_mtime(l, from)))
		err = keep_mtime(l, to);
	int err2 = rename_counts(l, from, to, flags);
	int err3 = local_dir_touched(l, from->p, stamp);
	int err4 = to->p == from->p ? 0 : local_dir_touched(l, to->p, stamp);
	if (c->effect) {
		from->e.ctime = stamp;
		local_attr_fill(l, &from->stx, &from->e, &c->effect->attr);
		c->effect->replaced = to->there ? to->e.id : 0;
		c->effect->replaced_nlink = left;
	}
	return err ? err : err2 ? err2 : err3 ? err3 : err4;
}

int local_rename(struct layer *layer, struct call *c, uint64_t parent, const char *name, uint64_t newparent, const char *newname,
		 unsigned flags)
{
	struct local *l = to_local(layer);
	auto_objguard struct objguard g = { 0 };
	auto_place struct place from = { 0 }, to = { 0 };
	if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE) || flags == (RENAME_NOREPLACE | RENAME_EXCHANGE))
		return -EINVAL;
	int err = c->locked ? 0 : objlock_rename(l->cfg.locks, &g, layer, parent, name, newparent, newname);
	if (!err)
		err = place_find(l, &from, parent, name);
	if (!err)
		err = place_find(l, &to, newparent, newname);
	if (!err)
		err = rename_hidden(&from, &to, flags);
	if (!err && (!from.there || (flags & RENAME_EXCHANGE && !to.there)))
		err = -ENOENT;
	if (!err && to.there && flags & RENAME_NOREPLACE)
		err = -EEXIST;
	if (err)
		return err;
	if (to.there && to.e.id == from.e.id) {	/* two names of one object: nothing happens */
		if (c->effect)
			local_attr_fill(l, &from.stx, &from.e, &c->effect->attr);
		return 0;
	}
	auto_unsteady struct unsteady u = unsteady_begin(l, is_dir(&from) || is_dir(&to), parent, newparent,
						      flags & RENAME_EXCHANGE ? 0 : dying(&to));
	auto_lifted struct lifted lf = lift_init(l, c, parent, newparent);
	lf.id[2] = from.e.id;
	lf.id[3] = to.there ? to.e.id : 0;
	if (!(flags & RENAME_EXCHANGE))
		may_linger(l, c, &to);
	err = TRY_LIFT(&lf, renameat2(from.p->fd, name, to.p->fd, newname, flags));
	if (err)
		return stays(l, &to, err);
	err = rename_done(l, c, &from, &to, flags);
	done(c, err);
	return err;
}

/* ---- link ---- */

static int link_tmp(struct local *l, struct obj *o, struct obj *p, const char *name)
{
	char limbo[LIMBO_NAME_MAX];
	limbo_name(o->id, limbo);
	auto_unsteady struct unsteady u = unsteady_begin(l, false, 0, 0, o->id);
	int err = TRY(renameat2(l->limbo->fd, limbo, p->fd, name, RENAME_NOREPLACE));
	if (err)
		return err;
	o->tmp = false;
	snap_drop(l, HANDLE_LIMBO);
	return index_set_flags(l->cfg.handles, o->id, 0, HENTRY_TMPFILE);
}

static int link_checked(struct local *l, struct call *c, struct obj *o, struct obj *p, const char *name)
{
	struct statx stx;
	struct hentry e;
	if (local_hidden(p, name))
		return -EPERM;
	if (o->type == S_IFDIR)
		return -EPERM;
	int err = index_get(l->cfg.handles, o->id, &e);
	if (!err && e.flags & HENTRY_TMPFILE)
		return link_tmp(l, o, p, name);
	if (!err)
		err = local_statx(o->fd, "", &stx);
	if (err)
		return err;
	if (!stx.stx_nlink)
		return -ENOENT;
	if (l->lim->link_max && stx.stx_nlink >= l->lim->link_max)
		return -EMLINK;
	auto_lifted struct lifted lf = lift_init(l, c, o->id, p->id);
	return TRY_LIFT(&lf, linkat(o->fd, "", p->fd, name, AT_EMPTY_PATH));
}

int local_link(struct layer *layer, struct call *c, uint64_t id, uint64_t newparent, const char *newname, struct attr *out)
{
	struct local *l = to_local(layer);
	auto_objguard struct objguard g = { 0 };
	auto_obj struct obj *o = NULL, *p = NULL;
	struct attr attr;
	struct timespec stamp = local_stamp(l, c);
	if (!c->locked)
		objlock_ids(l->cfg.locks, &g, (uint64_t[]){ id, newparent }, 2);
	int err = obj_get(l, id, &o);
	if (!err)
		err = obj_get_dir(l, newparent, &p);
	if (!err)
		err = link_checked(l, c, o, p, newname);
	if (err)
		return err;
	err = local_set_ctime(l, id, stamp);
	int err2 = local_dir_touched(l, p, stamp);
	if (!err && !err2)
		err = local_attr_of(l, o, -1, &attr);
	done(c, err ? err : err2);
	if (err || err2)
		return err ? err : err2;
	if (c->effect)
		c->effect->attr = attr;
	if (out)
		*out = attr;
	return 0;
}

void local_forget(struct layer *layer, uint64_t id)
{
	obj_forget(to_local(layer), id);
}

/* ---- readlink ---- */

ssize_t local_readlink(struct layer *layer, struct call *c, uint64_t id, char *buf, size_t size)
{
	auto_obj struct obj *o = NULL;
	(void)c;
	int err = obj_get(to_local(layer), id, &o);
	if (err)
		return err;
	if (o->type != S_IFLNK)
		return -EINVAL;
	ssize_t n = readlinkat(o->fd, "", buf, size);
	return n < 0 ? -errno : n;
}
