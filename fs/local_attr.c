/*
 * Attributes: what the backing file system says, merged with what the index says (ctime, sub-directories, flags), so that they are the
 * same on every node; stamps; setattr; inode flags.
 *
 * mtime is set on the backing object, ctime in the index (no file system lets one set it). Both come from the call's stamp,
 * clamped to the volume's range and rounded down to its granularity before they are used, so that nodes cannot differ.
 *
 * Immutable and append-only flags: what the kernel refuses to an application it refuses here (-EPERM), but the time stamps of a
 * change that it allowed (an append), and what apply and resync do, must go through: the flags are lifted for that moment.
 */
#include "fs/local_int.h"

#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>

#include "fs/base/clock.h"

/* ---- flags in the way ---- */

static const uint32_t flags_in_the_way = FS_IMMUTABLE_FL | FS_APPEND_FL;

static void lift_one(struct lifted *lf, uint64_t id)
{
	auto_obj struct obj *o = NULL;
	uint32_t flags = 0;
	if (!id || obj_get(lf->l, id, &o) || (o->type != S_IFREG && o->type != S_IFDIR))
		return;
	auto_fd int fd = local_reopen(lf->l, o->fd, O_RDONLY | O_NONBLOCK);
	if (fd < 0 || ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0 || !(flags & flags_in_the_way))
		return;
	uint32_t without = flags & ~flags_in_the_way;
	if (ioctl(fd, FS_IOC_SETFLAGS, &without) < 0)
		return;
	lf->flags[lf->n] = flags;
	lf->fd[lf->n++] = steal_fd(&fd);
}

bool local_lift(struct lifted *lf)
{
	if (!lf->allowed || lf->n)
		return false;
	for (unsigned i = 0; i < ARRAY_LEN(lf->id); i++)
		lift_one(lf, lf->id[i]);
	return lf->n > 0;
}

bool local_again(struct lifted *lf, int err)
{
	if (err == -EPERM)
		return local_lift(lf);
	if (!no_space(err) || lf->freed)
		return false;
	lf->freed = true;
	return obj_linger_end(lf->l);
}

void local_unlift(struct lifted *lf)
{
	while (lf->n) {
		lf->n--;
		if (ioctl(lf->fd[lf->n], FS_IOC_SETFLAGS, &lf->flags[lf->n]) < 0)
			log_error("local: flags %x of an object could not be restored: %s", lf->flags[lf->n], strerror(errno));
		close(lf->fd[lf->n]);
	}
}

/* ---- times ---- */

struct timespec local_clamp_time(const struct local *l, struct timespec t)
{
	const struct volume_limits *m = l->lim;
	if (m->time_min != m->time_max && t.tv_sec < m->time_min)
		return (struct timespec){ .tv_sec = m->time_min };
	if (m->time_min != m->time_max && t.tv_sec >= m->time_max)
		return (struct timespec){ .tv_sec = m->time_max };
	if (m->time_gran_ns > 1)
		t.tv_nsec -= t.tv_nsec % m->time_gran_ns;
	return t;
}

struct timespec local_stamp(const struct local *l, const struct call *c)
{
	bool given = c->stamp.tv_sec || c->stamp.tv_nsec;
	return local_clamp_time(l, given ? c->stamp : clock_wall());
}

static int set_times(struct local *l, struct obj *o, int fd, struct timespec atime, struct timespec mtime)
{
	const struct timespec ts[2] = { atime, mtime };
	auto_lifted struct lifted lf = { .l = l, .allowed = true, .id = { o->id } };
	if (fd >= 0)
		return TRY_LIFT(&lf, futimens(fd, ts));
	return TRY_LIFT(&lf, utimensat(o->fd, "", ts, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW));
}

int local_set_mtime(struct local *l, struct obj *o, int fd, struct timespec t)
{
	return set_times(l, o, fd, (struct timespec){ .tv_nsec = UTIME_OMIT }, t);
}

int local_set_ctime(struct local *l, uint64_t id, struct timespec t)
{
	return id == HANDLE_LIMBO ? 0 : index_set_ctime(l->cfg.handles, id, t);
}

int local_add_nsub(struct local *l, uint64_t dir, int delta)
{
	return dir == HANDLE_LIMBO || !delta ? 0 : index_add_nsub(l->cfg.handles, dir, delta);
}

int local_dir_touched(struct local *l, struct obj *p, struct timespec t)
{
	snap_drop(l, p->id);
	if (p->id == HANDLE_LIMBO)
		return 0;
	int err = local_set_mtime(l, p, -1, t);
	int err2 = local_set_ctime(l, p->id, t);
	return err ? err : err2;
}

/* ---- attributes ---- */

static struct timespec from_statx(struct statx_timestamp t)
{
	return (struct timespec){ .tv_sec = t.tv_sec, .tv_nsec = t.tv_nsec };
}

void local_attr_fill(const struct local *l, const struct statx *stx, const struct hentry *e, struct attr *out)
{
	bool dir = S_ISDIR(stx->stx_mode);
	*out = (struct attr){
		.id = e->id,
		.gen = e->id == HANDLE_ROOT ? 0 : l->gen,
		.mode = stx->stx_mode,
		.nlink = dir && stx->stx_nlink ? 2 + e->nsub : stx->stx_nlink,
		.uid = stx->stx_uid,
		.gid = stx->stx_gid,
		.rdev = makedev(stx->stx_rdev_major, stx->stx_rdev_minor),
		.size = dir ? LAYER_DIR_SIZE : stx->stx_size,
		.blocks = stx->stx_blocks,
		.atime = from_statx(stx->stx_atime),
		.mtime = from_statx(stx->stx_mtime),
		.ctime = e->ctime,
	};
	if (e->flags & HENTRY_TMPFILE)
		out->nlink = 0;
}

int local_attr_of(struct local *l, struct obj *o, int fd, struct attr *out)
{
	struct statx stx;
	struct hentry e = { .id = o->id };
	int err = local_statx(fd >= 0 ? fd : o->fd, "", &stx);
	if (!err && o->id == HANDLE_LIMBO)
		e.ctime = from_statx(stx.stx_ctime);
	else if (!err)
		err = index_get(l->cfg.handles, o->id, &e);
	if (!err)
		local_attr_fill(l, &stx, &e, out);
	return err;
}

int local_getattr(struct layer *layer, struct call *c, uint64_t id, struct file *f, struct attr *out)
{
	struct local *l = to_local(layer);
	(void)c;
	if (f)
		return local_attr_of(l, f->o, f->fd, out);
	auto_obj struct obj *o = NULL;
	int err = obj_get(l, id, &o);
	if (err)
		return err;
	err = local_attr_of(l, o, -1, out);
	out->no_acl = o->acl == OBJ_ACL_NONE;	/* after the rest: the mode is from before any ACL, then */
	return err;
}

/* ---- setattr ---- */

/* As the kernel: setuid goes, setgid when the group may execute or the caller is neither in it nor root. */
int local_kill_priv(struct lifted *lf, const struct call *c, struct obj *o, uint32_t mode, uint32_t gid, bool *killed)
{
	uint32_t left = mode & ~(uint32_t)S_ISUID;
	if ((mode & S_ISGID) && ((mode & S_IXGRP) || (c->uid && !local_in_group(c, gid))))
		left &= ~(uint32_t)S_ISGID;
	if (o->type == S_IFDIR || left == mode)
		return 0;
	int err = TRY_LIFT(lf, local_chmod(lf->l, o->fd, left));
	*killed = !err;
	return err;
}

/* A file that has that size already stays untouched (some file systems would set its mtime), unless it is open: ftruncate(2). */
static int set_size(struct lifted *lf, struct obj *o, const struct file *f, const struct statx *now, uint64_t size)
{
	if (o->type == S_IFDIR)
		return -EISDIR;
	if (o->type != S_IFREG)
		return -EINVAL;
	if (!f && now->stx_size == size && !(now->stx_attributes & (STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND)))
		return 0;
	if (f && (f->flags & O_ACCMODE) != O_RDONLY)
		return TRY_LIFT(lf, ftruncate(f->fd, (off_t)size));
	struct fd_path p = fd_path(o->fd);
	return TRY_LIFT(lf, truncate(p.s, (off_t)size));
}

static int set_owner(struct lifted *lf, struct obj *o, const struct setattr *s)
{
	uid_t uid = s->valid & SET_UID ? s->uid : (uid_t)-1;
	gid_t gid = s->valid & SET_GID ? s->gid : (gid_t)-1;
	return TRY_LIFT(lf, fchownat(o->fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW));
}

static int set_mode(struct lifted *lf, struct obj *o, uint32_t mode)
{
	if (o->type == S_IFLNK)
		return (mode & 07777) == 0777 ? 0 : -EOPNOTSUPP;
	return TRY_LIFT(lf, local_chmod(lf->l, o->fd, mode));
}

/* atime and mtime as asked; mtime of a file whose size was set is the stamp. */
static int set_asked_times(struct lifted *lf, struct obj *o, const struct setattr *s, struct timespec stamp, bool resized)
{
	struct timespec ts[2] = { { .tv_nsec = UTIME_OMIT }, { .tv_nsec = UTIME_OMIT } };
	if (s->valid & (SET_ATIME | SET_ATIME_NOW))
		ts[0] = s->valid & SET_ATIME_NOW ? stamp : local_clamp_time(lf->l, s->atime);
	if (s->valid & SET_MTIME)
		ts[1] = local_clamp_time(lf->l, s->mtime);
	if ((s->valid & SET_MTIME_NOW) || (resized && !(s->valid & SET_MTIME)))
		ts[1] = stamp;
	if (ts[0].tv_nsec == UTIME_OMIT && ts[1].tv_nsec == UTIME_OMIT)
		return 0;
	if (resized)	/* the size is set already: its time must follow, flags or not */
		return set_times(lf->l, o, -1, ts[0], ts[1]);
	return TRY_LIFT(lf, utimensat(o->fd, "", ts, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW));
}

/* All parts in turn. *DID: something was changed. */
static int set_parts(struct local *l, struct call *c, struct obj *o, const struct file *f, const struct setattr *s, bool *did)
{
	struct statx stx;
	auto_lifted struct lifted lf = lift_init(l, c, o->id, 0);
	struct timespec stamp = local_stamp(l, c);
	int err = local_statx(o->fd, "", &stx);
	bool resized = s->valid & SET_SIZE && (f || stx.stx_size != s->size);
	/* To set nothing (chown with -1, -1) counts as a change. */
	bool touched = resized || s->valid & ~(unsigned)(SET_SIZE | SET_KILL_PRIV) || !(s->valid & ~(unsigned)SET_KILL_PRIV);
	uint32_t gid = stx.stx_gid;
	if (!err && s->valid & SET_SIZE && !(err = set_size(&lf, o, f, &stx, s->size)))
		*did |= resized;
	if (!err && s->valid & (SET_UID | SET_GID) && !(err = set_owner(&lf, o, s)))
		*did = true;
	if (!err && s->valid & SET_KILL_PRIV && !(s->valid & SET_MODE)) {
		err = local_statx(o->fd, "", &stx);
		if (!err)
			err = local_kill_priv(&lf, c, o, stx.stx_mode, gid, &touched);
		*did |= touched;
	}
	if (!err && s->valid & SET_MODE && !(err = set_mode(&lf, o, s->mode)))
		*did = true;
	if (!err)
		err = set_asked_times(&lf, o, s, stamp, resized);
	if (!err && touched)
		err = local_set_ctime(l, o->id, s->valid & SET_CTIME ? local_clamp_time(l, s->ctime) : stamp);
	return err;
}

int local_setattr(struct layer *layer, struct call *c, uint64_t id, struct file *f, const struct setattr *s, struct attr *out)
{
	struct local *l = to_local(layer);
	auto_objguard struct objguard g = { 0 };
	auto_obj struct obj *found = NULL;
	struct attr attr;
	bool did = false;
	if (s->valid & SET_SIZE && (s->size > INT64_MAX || (l->lim->size_max && s->size > l->lim->size_max)))
		return -EFBIG;
	if (!c->locked)
		objlock_ids(l->cfg.locks, &g, &id, 1);
	int err = f ? 0 : obj_get(l, id, &found);
	struct obj *o = f ? f->o : found;
	if (!err)
		err = set_parts(l, c, o, f, s, &did);
	if (!err)
		err = local_attr_of(l, o, f ? f->fd : -1, &attr);
	if (err && c->effect)
		c->effect->changed |= did;
	if (err)
		return err;
	if (c->effect)
		c->effect->attr = attr;
	if (out)
		*out = attr;
	return 0;
}

/* ---- inode flags ---- */

/* What ext4, xfs, btrfs and tmpfs all can, or refuse themselves. */
static const uint32_t flags_common = FS_IMMUTABLE_FL | FS_APPEND_FL | FS_NODUMP_FL | FS_NOATIME_FL | FS_SYNC_FL;

/* An O_RDONLY descriptor of ID for ioctls; -ENOTTY for what has none. */
static int open_for_flags(struct local *l, uint64_t id, struct obj **o)
{
	int err = obj_get(l, id, o);
	if (err)
		return err;
	if ((*o)->type != S_IFREG && (*o)->type != S_IFDIR)
		return -ENOTTY;
	return local_reopen(l, (*o)->fd, O_RDONLY | O_NONBLOCK);
}

int local_getflags(struct layer *layer, struct call *c, uint64_t id, uint32_t *flags)
{
	auto_obj struct obj *o = NULL;
	(void)c;
	auto_fd int fd = open_for_flags(to_local(layer), id, &o);
	if (fd < 0)
		return fd;
	int err = TRY(ioctl(fd, FS_IOC_GETFLAGS, flags));
	*flags &= flags_common;
	return err;
}

int local_drop_inherited_flags(int fd)
{
	uint32_t flags = 0;
	if (ioctl(fd, FS_IOC_GETFLAGS, &flags) < 0)
		return errno == ENOTTY || errno == EOPNOTSUPP ? 0 : -errno;
	if (!(flags & flags_common))
		return 0;
	flags &= ~flags_common;
	return TRY(ioctl(fd, FS_IOC_SETFLAGS, &flags));
}

int local_setflags(struct layer *layer, struct call *c, uint64_t id, uint32_t flags)
{
	struct local *l = to_local(layer);
	auto_objguard struct objguard g = { 0 };
	auto_obj struct obj *o = NULL;
	uint32_t now = 0;
	if (flags & ~flags_common)
		return -EOPNOTSUPP;
	if (!c->locked)
		objlock_ids(l->cfg.locks, &g, &id, 1);
	auto_fd int fd = open_for_flags(l, id, &o);
	if (fd < 0)
		return fd;
	int err = TRY(ioctl(fd, FS_IOC_GETFLAGS, &now));
	now = (now & ~flags_common) | flags;
	if (!err)
		err = TRY(ioctl(fd, FS_IOC_SETFLAGS, &now));
	if (err)
		return err;
	err = local_set_ctime(l, id, local_stamp(l, c));
	if (!err && c->effect)
		err = local_attr_of(l, o, -1, &c->effect->attr);
	if (err && c->effect)
		c->effect->changed = true;
	return err;
}
