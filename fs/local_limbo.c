/*
 * For apply and resync: limbo, where objects without a place stand under their ids, lost, where replaced versions are kept for people, and
 * descriptors and paths for reports.
 *
 * .tandemfs/limbo/0123456789abcdef    name = id in 16 hex digits
 * .tandemfs/lost/SESSION/PATH         without marks; a number is appended when the path is taken
 *
 * A file that has other names than the one taken from it needs no limbo: it is still there under them.
 */
#include "fs/local_int.h"

#include <dirent.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>

enum {
	PURGE_DEPTH_MAX = 4096,		/* directories within directories */
	LOST_TRIES_MAX = 10000,
	REWALK_MAX = 16,
};

static uint64_t limbo_id(const char *name)
{
	char *end;
	uint64_t id = strtoull(name, &end, 16);
	return strlen(name) == LIMBO_NAME_MAX - 1 && !*end && id_valid(id) ? id : 0;
}

/* ---- out of it ---- */

struct find_arg {
	uint64_t ino;
	char name[LAYER_NAME_MAX + 1];
};

static int find_one(void *arg, const char *name, uint64_t ino, unsigned char type)
{
	struct find_arg *a = arg;
	(void)type;
	if (ino != a->ino)
		return 0;
	snprintf(a->name, sizeof(a->name), "%s", name);
	return 1;
}

/* Directory O moves from where it is to NAME in P. */
static int move_dir(struct local *l, struct lifted *lf, struct obj *o, struct obj *p, const char *name, struct timespec stamp)
{
	struct find_arg a = { .ino = o->ino };
	auto_obj struct obj *from = NULL;
	uint64_t up;
	int err = local_parent_of(l, o, &up);
	if (!err)
		err = obj_get_dir(l, up, &from);
	if (!err)
		err = local_scan(l, from->fd, find_one, &a);
	if (err != 1)
		return err ? err : -ENOENT;
	auto_unsteady struct unsteady u = unsteady_begin(l, true, up, 0, 0);
	err = TRY_LIFT(lf, renameat2(from->fd, a.name, p->fd, name, RENAME_NOREPLACE));
	if (!err)
		err = local_dir_touched(l, from, stamp);
	return err ? err : local_add_nsub(l, up, -1);
}

static int place_locked(struct local *l, struct call *c, struct obj *o, struct obj *p, const char *name)
{
	char limbo[LIMBO_NAME_MAX];
	struct timespec stamp = local_stamp(l, c);
	auto_lifted struct lifted lf = { .l = l, .allowed = true, .id = { o->id, p->id } };
	if (local_hidden(p, name))
		return -EPERM;
	limbo_name(o->id, limbo);
	auto_unsteady struct unsteady u = unsteady_begin(l, o->type == S_IFDIR, p->id, 0, o->id);
	int err = TRY_LIFT(&lf, renameat2(l->limbo->fd, limbo, p->fd, name, RENAME_NOREPLACE));
	if (!err) {
		snap_drop(l, HANDLE_LIMBO);
		o->tmp = false;
		err = index_set_flags(l->cfg.handles, o->id, 0, HENTRY_TMPFILE);
	} else if (err == -ENOENT && o->type == S_IFDIR) {
		err = move_dir(l, &lf, o, p, name, stamp);
	} else if (err == -ENOENT) {
		err = TRY_LIFT(&lf, linkat(o->fd, "", p->fd, name, AT_EMPTY_PATH));
	}
	if (!err)
		err = local_dir_touched(l, p, stamp);
	if (!err && o->type == S_IFDIR)
		err = local_add_nsub(l, p->id, 1);
	return err ? err : local_set_ctime(l, o->id, stamp);
}

int local_place(struct layer *local, struct call *c, uint64_t id, uint64_t parent, const char *name)
{
	struct local *l = to_local(local);
	auto_objguard struct objguard g = { 0 };
	auto_obj struct obj *o = NULL, *p = NULL;
	if (!c->locked)
		objlock_ids(l->cfg.locks, &g, (uint64_t[]){ id, parent }, 2);
	int err = obj_get(l, id, &o);
	if (!err)
		err = obj_get_dir(l, parent, &p);
	return err ? err : place_locked(l, c, o, p, name);
}

int local_set_tmpfile(struct layer *local, uint64_t id, bool tmpfile)
{
	struct local *l = to_local(local);
	auto_obj struct obj *o = NULL;
	int err = obj_get(l, id, &o);
	if (!err)
		err = index_set_flags(l->cfg.handles, id, tmpfile ? HENTRY_TMPFILE : 0, tmpfile ? 0 : HENTRY_TMPFILE);
	if (!err)
		o->tmp = tmpfile;
	return err;
}

/* ---- removing and unmarking whole trees ---- */

struct tree {
	struct local *l;
	int fd;				/* the directory; O_PATH */
	bool remove;			/* else only marks and index entries go */
	unsigned depth;
};

/* The id that NAME in FD has, by its mark; 0 = none. */
static uint64_t marked_id(struct local *l, int fd)
{
	uint64_t id = 0;
	return mark_get(l->cfg.handles, fd, &id, NULL) ? 0 : id;
}

static int tree_entry(void *arg, const char *name, uint64_t ino, unsigned char type);

/* What is in the directory behind FD. */
static int tree_walk(struct local *l, int fd, bool remove, unsigned depth)
{
	struct tree t = { .l = l, .fd = fd, .remove = remove, .depth = depth };
	return depth > PURGE_DEPTH_MAX ? -ELOOP : local_scan(l, fd, tree_entry, &t);
}

static void clear_flags(struct local *l, int fd)
{
	uint32_t flags = 0;
	auto_fd int rd = local_reopen(l, fd, O_RDONLY | O_NONBLOCK);
	if (rd < 0 || ioctl(rd, FS_IOC_GETFLAGS, &flags) < 0 || !(flags & (FS_IMMUTABLE_FL | FS_APPEND_FL)))
		return;
	flags &= ~(uint32_t)(FS_IMMUTABLE_FL | FS_APPEND_FL);
	ioctl(rd, FS_IOC_SETFLAGS, &flags);
}

/* Object NAME in DIRFD, behind FD (O_PATH): with all that is in it. */
static int tree_object(struct local *l, int dirfd, const char *name, int fd, bool remove, unsigned depth)
{
	struct statx stx;
	int err = local_statx(fd, "", &stx);
	if (err)
		return err;
	uint64_t id = marked_id(l, fd);
	bool dir = S_ISDIR(stx.stx_mode), regular = S_ISREG(stx.stx_mode);
	if (remove && (dir || regular) && stx.stx_attributes & (STATX_ATTR_IMMUTABLE | STATX_ATTR_APPEND))
		clear_flags(l, fd);
	if (dir)
		err = tree_walk(l, fd, remove, depth + 1);
	auto_unsteady struct unsteady u = unsteady_begin(l, false, 0, 0, id);
	if (!err && remove)
		err = TRY(unlinkat(dirfd, name, dir ? AT_REMOVEDIR : 0));
	for (unsigned i = 0; err == -ENOTEMPTY && i < REWALK_MAX; i++) {	/* the listing skipped some while it shrank */
		err = tree_walk(l, fd, remove, depth + 1);
		if (!err)
			err = TRY(unlinkat(dirfd, name, AT_REMOVEDIR));
	}
	if (!err && !remove && id)
		err = mark_remove(fd);
	bool other_names = remove && !dir && stx.stx_nlink > 1;
	if (!err && id && !other_names)
		obj_drop(l, id);
	return err;
}

static int tree_entry(void *arg, const char *name, uint64_t ino, unsigned char type)
{
	struct tree *t = arg;
	(void)ino;
	(void)type;
	auto_fd int fd = local_openat(t->l, t->fd, name, O_PATH, 0);
	if (fd < 0)
		return fd == -ENOENT ? 0 : fd;
	return tree_object(t->l, t->fd, name, fd, t->remove, t->depth);
}

/* ---- purging ---- */

static int purge_name(struct local *l, const char *name)
{
	auto_fd int fd = local_openat(l, l->limbo->fd, name, O_PATH, 0);
	if (fd < 0)
		return fd;
	int err = tree_object(l, l->limbo->fd, name, fd, true, 0);
	snap_drop(l, HANDLE_LIMBO);
	return err;
}

int local_limbo_purge(struct layer *local, uint64_t id)
{
	struct local *l = to_local(local);
	char name[LIMBO_NAME_MAX];
	limbo_name(id, name);
	return purge_name(l, name);
}

/* Names in limbo, gathered before anything is done to them. */
struct gather {
	uint64_t *id;
	size_t n, cap;
};

static int gather_one(void *arg, const char *name, uint64_t ino, unsigned char type)
{
	struct gather *g = arg;
	uint64_t id = limbo_id(name);
	(void)ino;
	(void)type;
	if (!id)
		return 0;
	if (g->n == g->cap) {
		size_t cap = g->cap ? 2 * g->cap : 64;
		uint64_t *p = realloc(g->id, cap * sizeof(*p));
		if (!p)
			return -ENOMEM;
		g->id = p;
		g->cap = cap;
	}
	g->id[g->n++] = id;
	return 0;
}

int local_limbo_each(struct layer *local, int (*fn)(void *arg, uint64_t id), void *arg)
{
	struct local *l = to_local(local);
	struct gather g = { 0 };
	int err = local_scan(l, l->limbo->fd, gather_one, &g);
	for (size_t i = 0; !err && i < g.n; i++)
		err = fn(arg, g.id[i]);
	free(g.id);
	return err;
}

static int purge_each(void *arg, uint64_t id)
{
	int err = local_limbo_purge(arg, id);
	return err == -ENOENT ? 0 : err;
}

int local_limbo_purge_all(struct layer *local)
{
	return local_limbo_each(local, purge_each, local);
}

/* ---- lost ---- */

/* The directory below FD that DIRS (components separated by '/') names, made as needed. */
static int make_dirs(struct local *l, int fd, char *dirs)
{
	auto_fd int at = dup(fd);
	char *save = NULL;
	if (at < 0)
		return -errno;
	for (char *s = strtok_r(dirs, "/", &save); s; s = strtok_r(NULL, "/", &save)) {
		if (!strcmp(s, ".") || !strcmp(s, ".."))
			return -EINVAL;
		if (mkdirat(at, s, 0700) < 0 && errno != EEXIST)
			return -errno;
		int next = local_openat(l, at, s, O_RDONLY | O_DIRECTORY, 0);
		if (next < 0)
			return next;
		close(at);
		at = next;
	}
	return steal_fd(&at);
}

static int copy_data(int from, int to)
{
	if (!ioctl(to, FICLONE, from))
		return 0;
	struct stat st;
	if (fstat(from, &st) < 0 || ftruncate(to, st.st_size) < 0)
		return -errno;
	for (off_t at = 0; (at = lseek(from, at, SEEK_DATA)) >= 0;) {
		off_t end = lseek(from, at, SEEK_HOLE), out = at;
		while (at < end) {
			ssize_t n = copy_file_range(from, &at, to, &out, (size_t)(end - at), 0);
			if (n <= 0)
				return n ? -errno : 0;
		}
	}
	return errno == ENXIO ? 0 : -errno;
}

static int copy_xattrs(int from, int to)
{
	struct fd_path a = fd_path(from), b = fd_path(to);
	auto_free char *list = malloc(LAYER_XATTR_MAX), *value = malloc(LAYER_XATTR_MAX);
	if (!list || !value)
		return -ENOMEM;
	ssize_t len = listxattr(a.s, list, LAYER_XATTR_MAX);
	for (ssize_t at = 0; at < len; at += (ssize_t)strlen(list + at) + 1) {
		ssize_t n = xattr_hidden(list + at) ? -1 : getxattr(a.s, list + at, value, LAYER_XATTR_MAX);
		if (n >= 0 && setxattr(b.s, list + at, value, (size_t)n, 0) < 0)
			return -errno;
	}
	return 0;
}

/* A copy of file O as NAME in DIRFD (which must not be there). */
static int copy_file(struct local *l, const struct obj *o, int dirfd, const char *name)
{
	struct stat st;
	auto_fd int from = local_reopen(l, o->fd, O_RDONLY | O_NONBLOCK);
	if (from < 0)
		return from;
	auto_fd int to = openat(dirfd, name, O_CREAT | O_EXCL | O_RDWR | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (to < 0 || fstat(from, &st) < 0)
		return -errno;
	const struct timespec ts[2] = { st.st_atim, st.st_mtim };
	int err = copy_data(from, to);
	if (!err)
		err = copy_xattrs(from, to);
	if (!err)
		err = TRY(fchown(to, st.st_uid, st.st_gid));
	if (!err)
		err = TRY(fchmod(to, st.st_mode & 07777));
	if (!err)
		err = TRY(futimens(to, ts));
	if (err)
		unlinkat(dirfd, name, 0);
	return err;
}

/* Moves O out of limbo, or copies it, to NAME in DIRFD. */
static int keep_as(struct local *l, struct obj *o, int dirfd, const char *name)
{
	char limbo[LIMBO_NAME_MAX];
	limbo_name(o->id, limbo);
	auto_lifted struct lifted lf = { .l = l, .allowed = true, .id = { o->id } };
	int err = TRY_LIFT(&lf, renameat2(l->limbo->fd, limbo, dirfd, name, RENAME_NOREPLACE));
	if (err == -ENOENT)
		return o->type == S_IFREG ? copy_file(l, o, dirfd, name) : -EOPNOTSUPP;
	if (err)
		return err;
	snap_drop(l, HANDLE_LIMBO);
	err = o->type == S_IFDIR ? tree_walk(l, o->fd, false, 0) : 0;
	if (!err)
		err = mark_remove(o->fd);
	obj_drop(l, o->id);
	return err;
}

/* As NAME, or NAME.1, NAME.2, ... */
static int keep_somehow(struct local *l, struct obj *o, int dirfd, const char *name)
{
	char other[LAYER_NAME_MAX + 1];
	int err = keep_as(l, o, dirfd, name);
	for (int i = 1; err == -EEXIST && i < LOST_TRIES_MAX; i++) {
		snprintf(other, sizeof(other), "%.240s.%d", name, i);
		err = keep_as(l, o, dirfd, other);
	}
	return err;
}

int local_keep_lost(struct layer *local, uint64_t id, const char *session, const char *path)
{
	struct local *l = to_local(local);
	auto_obj struct obj *o = NULL;
	auto_free char *dirs = NULL;
	while (*path == '/')
		path++;
	if (asprintf(&dirs, "lost/%s/%s", session, path) < 0)
		return -ENOMEM;
	char *slash = strrchr(dirs, '/');
	const char *name = slash + 1;
	*slash = '\0';
	if (!*name || !strcmp(name, ".") || !strcmp(name, "..") || strlen(name) > LAYER_NAME_MAX)
		return -EINVAL;
	int err = obj_get(l, id, &o);
	if (err)
		return err;
	auto_fd int fd = make_dirs(l, l->hidden_fd, dirs);
	return fd < 0 ? fd : keep_somehow(l, o, fd, name);
}

/* ---- into limbo ---- */

/* NAME in P, if it exists at all, is nothing of ours and in the way. */
static int stranger_to_lost(struct local *l, struct obj *p, const char *name, struct timespec stamp)
{
	char dirs[] = "lost/strays", other[LAYER_NAME_MAX + 1];
	struct statx stx;
	int err = local_statx(p->fd, name, &stx);
	if (err)
		return err;
	auto_fd int fd = make_dirs(l, l->hidden_fd, dirs);
	if (fd < 0)
		return fd;
	err = TRY(renameat2(p->fd, name, fd, name, RENAME_NOREPLACE));
	for (int i = 1; err == -EEXIST && i < LOST_TRIES_MAX; i++) {
		snprintf(other, sizeof(other), "%.240s.%d", name, i);
		err = TRY(renameat2(p->fd, name, fd, other, RENAME_NOREPLACE));
	}
	if (err)
		return err;
	log_warn("local: %llx/%s: was not made by the volume: moved to " HIDDEN_DIR "/lost/strays", (unsigned long long)p->id, name);
	return local_dir_touched(l, p, stamp);
}

static int to_limbo_locked(struct local *l, struct call *c, struct obj *p, const char *name)
{
	struct statx stx;
	struct hentry e;
	char limbo[LIMBO_NAME_MAX];
	struct timespec stamp = local_stamp(l, c);
	int err = local_identify(l, p, name, &stx, &e);
	if (err == -ENOENT && !local_hidden(p, name))
		return stranger_to_lost(l, p, name, stamp);
	if (err)
		return err;
	limbo_name(e.id, limbo);
	auto_unsteady struct unsteady u = unsteady_begin(l, e.type == S_IFDIR, p->id, 0, 0);
	auto_lifted struct lifted lf = { .l = l, .allowed = true, .id = { p->id, e.id } };
	if (e.type != S_IFDIR && stx.stx_nlink > 1)
		err = TRY_LIFT(&lf, unlinkat(p->fd, name, 0));
	else
		err = TRY_LIFT(&lf, renameat2(p->fd, name, l->limbo->fd, limbo, RENAME_NOREPLACE));
	if (err)
		return err;
	snap_drop(l, HANDLE_LIMBO);
	err = local_dir_touched(l, p, stamp);
	if (!err && e.type == S_IFDIR)
		err = local_add_nsub(l, p->id, -1);
	return err ? err : local_set_ctime(l, e.id, stamp);
}

int local_to_limbo(struct layer *local, struct call *c, uint64_t parent, const char *name)
{
	struct local *l = to_local(local);
	auto_objguard struct objguard g = { 0 };
	auto_obj struct obj *p = NULL;
	int err = c->locked ? 0 : objlock_entry(l->cfg.locks, &g, local, parent, name, 0);
	if (!err)
		err = obj_get_dir(l, parent, &p);
	return err ? err : to_limbo_locked(l, c, p, name);
}

/* ---- descriptors and paths ---- */

int local_open_fd(struct layer *local, uint64_t id, int flags)
{
	struct local *l = to_local(local);
	auto_obj struct obj *o = NULL;
	int err = obj_get(l, id, &o);
	return err ? err : local_reopen(l, o->fd, flags);
}

/* What /proc says about FD. */
static ssize_t path_of_fd(int fd, char *buf, size_t size)
{
	struct fd_path p = fd_path(fd);
	ssize_t n = readlink(p.s, buf, size - 1);
	if (n < 0)
		return -errno;
	buf[n] = '\0';
	return n;
}

int local_path_of(struct layer *local, uint64_t id, char *buf, size_t size)
{
	struct local *l = to_local(local);
	auto_obj struct obj *o = NULL;
	char root[4096], path[4096];
	struct statx stx;
	int err = obj_get(l, id, &o);
	if (err)
		return err;
	ssize_t rn = path_of_fd(l->cfg.root_fd, root, sizeof(root)), n = path_of_fd(o->fd, path, sizeof(path));
	if (rn < 0 || n < 0)
		return -ENOENT;
	if (rn == 1)
		rn = 0;
	if (n < rn || memcmp(root, path, (size_t)rn) || (n > rn && path[rn] != '/'))
		return -ENOENT;
	const char *rel = n > rn ? path + rn + 1 : "";
	if (local_statx(l->cfg.root_fd, rel, &stx) || stx.stx_ino != o->ino)
		return -ENOENT;
	return (size_t)snprintf(buf, size, "/%s", rel) < size ? 0 : -ENAMETOOLONG;
}
