/*
 * Creation. An object is made in its place, then dressed: owner, mode, ACLs, mark, times, index entry. Until that is done nobody may adopt
 * it (local_creating_begin/end); when it fails the object is removed again. After a crash in between it stands there unmarked: the
 * primary adopts it, and a repeated create with its id accepts it.
 *
 * A nameless file is made by O_TMPFILE in its parent (so that it inherits what a child does) and then linked into limbo under its
 * id, where it is found by handle and after a crash; HENTRY_TMPFILE says that no link count is to be shown.
 */
#include "fs/local_int.h"

#include <sys/sysmacros.h>
#include <sys/xattr.h>

/* A creation under way. */
struct making {
	struct local *l;
	struct call *c;
	struct obj *p;			/* borrowed */
	const char *name;		/* NULL: nameless */
	const struct create *cr;
	uint32_t type;
	uint64_t id;
	bool acl;			/* the parent's default ACL is inherited */
	bool existed;			/* left over from a crash: accepted */
	bool made;
	int fd;				/* O_PATH; owned */
	int rw;				/* of what was made: regular files O_RDWR, directories O_RDONLY, others -1; owned */
	struct statx stx;
	struct statx ps;		/* the parent, before */
	struct hentry e;
};

static void making_end(struct making *m)
{
	if (m->fd >= 0)
		close(m->fd);
	if (m->rw >= 0)
		close(m->rw);
}
#define auto_making __attribute__((cleanup(making_end)))

/* What system calls are made on: an O_PATH descriptor costs some of them a way through /proc. */
static int best_fd(const struct making *m) { return m->rw >= 0 ? m->rw : m->fd; }

static int check_create(const struct local *l, const struct obj *p, const char *name, const struct create *cr)
{
	size_t len = cr->target ? strlen(cr->target) : 0;
	if (name && local_hidden(p, name))
		return -EPERM;
	if (S_ISLNK(cr->mode) && (!cr->target || !len))
		return -ENOENT;
	if (S_ISLNK(cr->mode) && (len > LAYER_SYMLINK_MAX || (l->lim->symlink_max && len > l->lim->symlink_max)))
		return -ENAMETOOLONG;
	return 0;
}

/* ---- making ---- */

/* Opens the object that stands in the place of what is to be made. */
static int make_open(struct making *m)
{
	int fd = local_openat(m->l, m->p->fd, m->name, O_PATH, 0);
	if (fd < 0)
		return fd;
	m->fd = fd;
	int err = local_statx(fd, "", &m->stx);
	return err ? err : (m->stx.stx_mode & S_IFMT) == m->type ? 0 : -EEXIST;
}

static int make_regular(struct making *m, mode_t mode)
{
	int rw = m->name ? local_openat(m->l, m->p->fd, m->name, O_CREAT | O_EXCL | O_RDWR, mode)
			 : local_openat(m->l, m->p->fd, ".", O_TMPFILE | O_RDWR, mode);
	if (rw < 0)
		return rw;
	m->rw = rw;
	m->made = true;
	m->fd = m->name ? local_openat(m->l, m->p->fd, m->name, O_PATH, 0) : local_reopen(m->l, rw, O_PATH);
	return m->fd < 0 ? m->fd : local_statx(rw, "", &m->stx);
}

static int make_other(struct making *m, mode_t mode)
{
	int err;
	if (m->type == S_IFDIR)
		err = TRY(mkdirat(m->p->fd, m->name, mode));
	else if (m->type == S_IFLNK)
		err = TRY(symlinkat(m->cr->target, m->p->fd, m->name));
	else
		err = TRY(mknodat(m->p->fd, m->name, m->type | mode, (dev_t)m->cr->rdev));
	if (err)
		return err;
	m->made = true;
	err = make_open(m);
	if (err || m->type != S_IFDIR)
		return err;
	m->rw = local_openat(m->l, m->p->fd, m->name, O_RDONLY | O_DIRECTORY, 0);
	return m->rw < 0 ? m->rw : 0;
}

static int any_entry(void *arg, const char *name, uint64_t ino, unsigned char type)
{
	(void)arg;
	(void)name;
	(void)ino;
	(void)type;
	return 1;
}

/* Is what stands there as creation makes it? What has contents, other names or xattrs is somebody's. */
static bool as_made(struct making *m)
{
	char buf[LAYER_SYMLINK_MAX + 1], list[1024];
	const struct statx *s = &m->stx;
	struct fd_path p = fd_path(m->fd);
	ssize_t n = listxattr(p.s, list, sizeof(list));
	for (ssize_t at = 0; at < n; at += (ssize_t)strlen(list + at) + 1)
		if (strncmp(list + at, "system.", 7) && strncmp(list + at, "security.", 9))
			return false;
	if ((n < 0 && errno != EOPNOTSUPP) || (m->type != S_IFDIR && s->stx_nlink != 1))
		return false;
	switch (m->type) {
	case S_IFDIR:
		return !local_scan(m->l, m->fd, any_entry, NULL);
	case S_IFREG:
		return !s->stx_size;
	case S_IFLNK:
		n = readlinkat(m->fd, "", buf, sizeof(buf));
		return n >= 0 && (size_t)n == strlen(m->cr->target) && !memcmp(buf, m->cr->target, (size_t)n);
	case S_IFCHR:
	case S_IFBLK:
		return makedev(s->stx_rdev_major, s->stx_rdev_minor) == (dev_t)m->cr->rdev;
	default:
		return true;
	}
}

/* An unmarked object of that name and type, left by a crash between its creation and its mark, is what was to be created. */
static int accept_leftover(struct making *m)
{
	uint64_t id;
	int err = make_open(m);
	if (err)
		return err == -ENOENT || err == -EXDEV ? -EEXIST : err;
	err = mark_get(m->l->cfg.handles, m->fd, &id, NULL);
	if (err != -ENODATA || !as_made(m))
		return -EEXIST;
	m->existed = true;
	return 0;
}

static int make(struct making *m)
{
	mode_t mode = m->cr->mode & 07777;
	if (!m->acl && !m->cr->exact)
		mode &= ~m->c->umask;
	int err = m->type == S_IFREG ? make_regular(m, mode) : make_other(m, mode);
	if (err == -EEXIST && m->c->new_id && m->name && !m->made)
		return accept_leftover(m);
	return err;
}

/* ---- dressing ---- */

static int remove_acls(struct making *m)
{
	static const char *const names[] = { "system.posix_acl_access", "system.posix_acl_default" };
	struct fd_path p = fd_path(m->fd);
	for (unsigned i = 0; i < ARRAY_LEN(names); i++)
		if (removexattr(p.s, names[i]) < 0 && errno != ENODATA && errno != EOPNOTSUPP)
			return -errno;
	return 0;
}

/* Owner and mode. A change of owner costs a file its setuid and setgid bits: they are put back. */
static int set_owner_and_mode(struct making *m)
{
	const struct call *c = m->c;
	uint32_t mode = m->cr->exact ? m->cr->mode & 07777 : m->stx.stx_mode & 07777;
	gid_t gid = c->gid;
	int err = 0;
	if (!m->cr->exact && m->ps.stx_mode & S_ISGID)
		gid = m->ps.stx_gid;
	bool chowned = m->stx.stx_uid != c->uid || m->stx.stx_gid != gid;
	if (chowned)
		err = TRY(fchownat(best_fd(m), "", c->uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW));
	bool acls = m->cr->exact && (m->p->defacl || m->existed);
	if (!err && acls && m->type != S_IFLNK)
		err = remove_acls(m);
	bool differs = (chowned && mode & (S_ISUID | S_ISGID)) || mode != (m->stx.stx_mode & 07777u) || acls;
	if (!err && differs && m->type != S_IFLNK)
		err = TRY(local_chmod(m->l, best_fd(m), mode));
	return err;
}

/* Nameless: into limbo, under its id. */
static int enter_limbo(struct making *m)
{
	char name[LIMBO_NAME_MAX];
	limbo_name(m->id, name);
	int err = TRY(linkat(m->rw, "", m->l->limbo->fd, name, AT_EMPTY_PATH));
	if (!err)
		snap_drop(m->l, HANDLE_LIMBO);
	return err;
}

static int drop_flags(struct making *m)
{
	if (m->rw >= 0)
		return local_drop_inherited_flags(m->rw);
	if (m->type != S_IFDIR)
		return 0;	/* what a crash left: its flags are part of it by now */
	auto_fd int fd = local_reopen(m->l, m->fd, O_RDONLY);
	return fd < 0 ? fd : local_drop_inherited_flags(fd);
}

static int set_both_times(int fd, bool opath, struct timespec atime, struct timespec mtime)
{
	const struct timespec ts[2] = { atime, mtime };
	return TRY(opath ? utimensat(fd, "", ts, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) : futimens(fd, ts));
}

static int dress(struct making *m)
{
	struct local *l = m->l;
	struct timespec stamp = local_stamp(l, m->c);
	int err = drop_flags(m);
	if (!err)
		err = set_owner_and_mode(m);
	if (!err)
		err = mark_set(l->cfg.handles, best_fd(m), m->id, &m->e);
	if (!err)
		err = set_both_times(best_fd(m), m->rw < 0, stamp, m->cr->mtime ? local_clamp_time(l, *m->cr->mtime) : stamp);
	if (!err && !m->name)
		err = enter_limbo(m);
	if (err)
		return err;
	m->e.type = m->type;
	m->e.ctime = stamp;
	if (m->type == S_IFDIR && local_has_defacl(best_fd(m)))
		m->e.flags |= HENTRY_DEFACL;
	if (m->type == S_IFREG && (!m->name || m->p->id == HANDLE_LIMBO))
		m->e.flags |= HENTRY_TMPFILE;
	return index_put(l->cfg.handles, &m->e);
}

/* What failed half-way goes away again, and the parent's mtime with it. */
static void unmake(struct making *m)
{
	char limbo[LIMBO_NAME_MAX];
	limbo_name(m->id, limbo);
	int err = 0;
	if (m->existed || !m->made)
		return;
	if (!m->name)	/* the link may not have been made */
		unlinkat(m->l->limbo->fd, limbo, 0);
	else
		err = TRY(unlinkat(m->p->fd, m->name, m->type == S_IFDIR ? AT_REMOVEDIR : 0));
	if (!err && m->name)
		err = local_set_mtime(m->l, m->p, -1,
				      (struct timespec){ m->ps.stx_mtime.tv_sec, m->ps.stx_mtime.tv_nsec });
	if (err && m->c->effect)
		m->c->effect->changed = true;
	index_del(m->l->cfg.handles, m->id);
}

/* Attributes as they are now, through the descriptor that stays; it must be of what was made, whatever has become of the name. */
static int look_again(struct making *m)
{
	int err = local_statx(m->fd, "", &m->stx);
	if (err || m->stx.stx_ino == m->e.ino)
		return err;
	int fd = local_reopen(m->l, best_fd(m), O_PATH);
	if (fd < 0)
		return fd;
	close(m->fd);
	m->fd = fd;
	return local_statx(fd, "", &m->stx);
}

static int choose_id(struct making *m)
{
	auto_obj struct obj *o = NULL;
	if (!m->c->new_id)
		return ids_next(m->l->cfg.handles, &m->id);
	m->id = m->c->new_id;
	int err = obj_get(m->l, m->id, &o);
	return err == -ESTALE ? 0 : err ? err : -EEXIST;
}

/* Makes, dresses, and gives the object to the cache. An object left over from a crash could be adopted at the same moment. */
static int make_whole(struct making *m, struct obj **o)
{
	struct local *l = m->l;
	int err = choose_id(m);
	if (!err)
		err = local_statx(m->p->fd, "", &m->ps);
	if (err)
		return err;
	local_creating_begin(l, m->p->id);
	err = make(m);
	if (!err && m->existed) {
		auto_lock(&l->adopt_lock);
		uint64_t id;
		err = mark_get(l->cfg.handles, m->fd, &id, NULL) == -ENODATA ? dress(m) : -EEXIST;
	} else if (!err) {
		err = dress(m);
	}
	if (!err)
		err = look_again(m);
	if (!err)
		err = obj_insert(l, m->id, m->fd, m->e.ino, m->type, m->e.flags | (m->existed ? 0 : OBJ_NOCAPS), o);
	if (!err)
		steal_fd(&m->fd);
	if (err)
		unmake(m);
	local_creating_end(l, m->p->id);
	return err;
}

static int make_again(struct making *m, struct obj **o)
{
	making_end(m);
	*m = (struct making){ .l = m->l, .c = m->c, .p = m->p, .name = m->name, .cr = m->cr, .type = m->type, .acl = m->acl, .fd = -1, .rw = -1 };
	return make_whole(m, o);
}

/* ---- the operations ---- */

static int give_file(struct making *m, struct obj *o, int flags, struct file **out)
{
	int rw = m->rw;
	if (rw < 0)
		rw = local_reopen(m->l, o->fd, O_RDWR);
	if (rw < 0)
		return rw;
	int err = obj_open(o);
	if (!err && (err = file_new(o, rw, flags & ~(O_CREAT | O_EXCL | O_TRUNC), out)))
		obj_close(o);
	if (!err)
		m->rw = -1;
	else if (m->rw < 0)
		close(rw);
	return err;
}

/* The rest of a creation, after the object is there: nothing of it may hide that. */
static int finish(struct making *m, struct obj *o, int open_flags, struct attr *out, struct file **out_file)
{
	struct call *c = m->c;
	struct attr attr;
	int err = 0;
	if (m->name) {
		err = local_dir_touched(m->l, m->p, local_stamp(m->l, c));
		if (m->type == S_IFDIR && !err)
			err = local_add_nsub(m->l, m->p->id, 1);
	}
	local_attr_fill(m->l, &m->stx, &m->e, &attr);
	if (!err && out_file)
		err = give_file(m, o, open_flags, out_file);
	if (c->effect) {
		c->effect->attr = attr;
		c->effect->acl_inherited = m->acl;
		c->effect->with_parent = m->l->one_journal && m->name && !m->existed;
		c->effect->changed |= err != 0;
	}
	if (out)
		*out = attr;
	return err;
}

static int create_in(struct making *m, int open_flags, struct attr *out, struct file **out_file)
{
	auto_obj struct obj *o = NULL;
	m->type = m->cr->mode & S_IFMT;
	if (out_file && m->type != S_IFREG)
		return -EINVAL;
	int err = check_create(m->l, m->p, m->name, m->cr);
	m->acl = m->p->defacl && !m->cr->exact && m->type != S_IFLNK;
	auto_unsteady struct unsteady u = unsteady_begin(m->l, !err && m->type == S_IFDIR, m->p->id, 0, 0);
	if (!err)
		err = make_whole(m, &o);
	if (no_space(err) && obj_linger_end(m->l))
		err = make_again(m, &o);
	if (!err && !m->name)
		o->ours = true;
	return err ? err : finish(m, o, open_flags, out, out_file);
}

int local_create(struct layer *layer, struct call *c, uint64_t parent, const char *name, const struct create *cr, int open_flags,
		 struct attr *out, struct file **out_file)
{
	struct local *l = to_local(layer);
	auto_objguard struct objguard g = { 0 };
	auto_obj struct obj *p = NULL;
	if (!c->locked)
		objlock_ids(l->cfg.locks, &g, &parent, 1);
	int err = obj_get_dir(l, parent, &p);
	if (err)
		return err;
	auto_making struct making m = { .l = l, .c = c, .p = p, .name = name, .cr = cr, .fd = -1, .rw = -1 };
	return create_in(&m, open_flags, out, out_file);
}

int local_tmpfile(struct layer *layer, struct call *c, uint64_t parent, const struct create *cr, int open_flags, struct attr *out,
		  struct file **out_file)
{
	struct local *l = to_local(layer);
	auto_obj struct obj *p = NULL;
	if (!S_ISREG(cr->mode))
		return -EINVAL;
	int err = obj_get_dir(l, parent, &p);
	if (err)
		return err;
	auto_making struct making m = { .l = l, .c = c, .p = p, .cr = cr, .fd = -1, .rw = -1 };
	return create_in(&m, open_flags, out, out_file);
}
