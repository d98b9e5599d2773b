/*
 * What a name is. One statx in the parent and two looks into the index answer for a known object; when it isn't in the cache of objects, its
 * handle is compared too, for inode numbers are used again, and objects may have come and gone behind our back. Everything
 * else (no index entry for the inode, or one that doesn't fit) is decided by the mark on the object:
 *
 *   marked for this volume, by handle too   its index entry is made again (ctime made up, HENTRY_CTIME_LOST)
 *   unmarked, foreign, copied               adopted: a fresh id, mark, index entry; where that is not allowed it does not exist
 *   on another mount or subvolume           a stranger: -EXDEV, logged once
 *
 * An object that is just being created has no mark yet either; local_creating_begin/end enclose that, and who meets an object
 * without an index entry waits until the creations that are under way in its directory have ended, and looks again. A creator waits for
 * nobody meanwhile, so that always ends.
 */
#include "fs/local_int.h"

#include <dirent.h>
#include <sys/syscall.h>
#include <sys/xattr.h>

bool local_hidden(const struct obj *p, const char *name)
{
	return p->id == HANDLE_ROOT && (!strcmp(name, HIDDEN_DIR) || !strcmp(name, "lost+found"));
}

/* ---- creations under way ---- */

static struct creating *creating_of(struct local *l, uint64_t parent)
{
	return &l->creating[(parent ^ parent >> 20) % CREATING_STRIPES];
}

void local_creating_begin(struct local *l, uint64_t parent)
{
	atomic_fetch_add(&creating_of(l, parent)->n, 1);
}

void local_creating_end(struct local *l, uint64_t parent)
{
	struct creating *k = creating_of(l, parent);
	if (atomic_fetch_sub(&k->n, 1) != 1)
		return;
	atomic_fetch_add(&k->rounds, 1);
	if (!atomic_load(&l->creating_waiters))
		return;
	auto_lock(&l->creating_lock);
	pthread_cond_broadcast(&l->creating_done);
}

/* Waits until the creations in PARENT that are under way have ended; true when there was one. */
static bool creating_wait(struct local *l, uint64_t parent)
{
	struct creating *k = creating_of(l, parent);
	uint64_t round = atomic_load(&k->rounds);
	if (!atomic_load(&k->n))
		return false;
	auto_lock(&l->creating_lock);
	atomic_fetch_add(&l->creating_waiters, 1);
	while (atomic_load(&k->rounds) == round)
		pthread_cond_wait(&l->creating_done, &l->creating_lock);
	atomic_fetch_sub(&l->creating_waiters, 1);
	return true;
}

/* ---- scanning ---- */

struct dirent64_raw {
	uint64_t ino;
	int64_t off;
	uint16_t len;
	unsigned char type;
	char name[];
};

static int scan_block(const char *buf, long n, int (*fn)(void *, const char *, uint64_t, unsigned char), void *arg)
{
	for (long at = 0; at < n;) {
		const struct dirent64_raw *d = (const void *)(buf + at);
		bool dots = d->name[0] == '.' && (!d->name[1] || (d->name[1] == '.' && !d->name[2]));
		int r = dots ? 0 : fn(arg, d->name, d->ino, d->type);
		if (r)
			return r;
		at += d->len;
	}
	return 0;
}

int local_scan(struct local *l, int fd, int (*fn)(void *arg, const char *name, uint64_t ino, unsigned char type), void *arg)
{
	enum { SCAN_BYTES = 128 << 10 };
	auto_free char *buf = malloc(SCAN_BYTES);
	auto_fd int dfd = local_reopen(l, fd, O_RDONLY | O_DIRECTORY);
	if (!buf)
		return -ENOMEM;
	if (dfd < 0)
		return dfd;
	for (;;) {
		long n = syscall(SYS_getdents64, dfd, buf, SCAN_BYTES);
		if (n < 0)
			return errno == ENOENT ? 0 : -errno;	/* a removed directory is empty */
		if (!n)
			return 0;
		int r = scan_block(buf, n, fn, arg);
		if (r)
			return r;
	}
}

struct count_arg {
	struct local *l;
	int fd;
	bool root;
	uint32_t n;
};

static int count_one(void *arg, const char *name, uint64_t ino, unsigned char type)
{
	struct count_arg *a = arg;
	uint64_t id;
	(void)ino;
	if ((type != DT_DIR && type != DT_UNKNOWN) || (a->root && !strcmp(name, HIDDEN_DIR)))
		return 0;
	auto_fd int fd = local_openat(a->l, a->fd, name, O_PATH | O_DIRECTORY, 0);
	if (fd >= 0 && !mark_get(a->l->cfg.handles, fd, &id, NULL))
		a->n++;
	return 0;
}

int local_count_subdirs(struct local *l, int dirfd, bool root, uint32_t *n)
{
	struct count_arg a = { .l = l, .fd = dirfd, .root = root };
	int err = local_scan(l, dirfd, count_one, &a);
	*n = a.n;
	return err;
}

bool local_has_defacl(int fd)
{
	ssize_t n = fgetxattr(fd, "system.posix_acl_default", NULL, 0);
	if (n >= 0 || errno != EBADF)
		return n > 0;
	struct fd_path p = fd_path(fd);
	return getxattr(p.s, "system.posix_acl_default", NULL, 0) > 0;
}

/* ---- adoption ---- */

static int stranger(struct local *l, const struct obj *p, const char *name)
{
	if (!atomic_exchange(&l->stranger_logged, true))
		log_warn("local: %llx/%s: another mount or subvolume below the backing directory: not part of the volume",
			 (unsigned long long)p->id, name);
	return -EXDEV;
}

/* Fills type, flags, sub-directories and ctime of E for the object behind FD. -ENOENT when it lost its last name. */
static int describe(struct local *l, int fd, struct statx *stx, struct hentry *e)
{
	int err = local_statx(fd, "", stx);
	if (err)
		return err;
	if (!stx->stx_nlink)
		return -ENOENT;
	e->ino = stx->stx_ino;
	e->type = stx->stx_mode & S_IFMT;
	e->ctime = local_clamp_time(l, (struct timespec){ stx->stx_ctime.tv_sec, stx->stx_ctime.tv_nsec });
	if (e->type != S_IFDIR)
		return 0;
	if (local_has_defacl(fd))
		e->flags |= HENTRY_DEFACL;
	return local_count_subdirs(l, fd, false, &e->nsub);
}

/* E enters the index, as an entry of P that nobody counted. */
static int enter(struct local *l, struct obj *p, const struct hentry *e)
{
	auto_unsteady struct unsteady u = unsteady_begin(l, e->type == S_IFDIR, p->id, 0, 0);
	int err = index_put(l->cfg.handles, e);
	snap_drop(l, p->id);
	return err || e->type != S_IFDIR ? err : local_add_nsub(l, p->id, 1);
}

/* The index entry of ID (a rebuild may have to find it first) fits the object behind FD. -ESTALE: there is none; -ENOENT: the object is gone. */
static int fits(struct local *l, int fd, uint64_t id, struct statx *stx, struct hentry *e)
{
	int err = index_get(l->cfg.handles, id, e);
	if (!err)
		err = local_statx(fd, "", stx);
	if (err)
		return err;
	if (e->ino != stx->stx_ino || e->type != (stx->stx_mode & S_IFMT))
		return -ESTALE;
	return stx->stx_nlink ? 0 : -ENOENT;
}

/* The object behind FD has the mark of ID but no index entry that fits. */
static int reindex(struct local *l, struct obj *p, int fd, uint64_t id, const struct local_handle *lh, struct statx *stx, struct hentry *e)
{
	int err = fits(l, fd, id, stx, e);
	if (err != -ESTALE)
		return err;
	*e = (struct hentry){ .id = id, .flags = HENTRY_CTIME_LOST, .lh = *lh };
	err = describe(l, fd, stx, e);
	return err ? err : enter(l, p, e);
}

/* The object behind FD, found as an entry of P, gets an id. */
static int adopt(struct local *l, struct obj *p, int fd, struct statx *stx, struct hentry *e)
{
	uint64_t id = 0;
	*e = (struct hentry){ 0 };
	int err = describe(l, fd, stx, e);
	if (!err)
		err = ids_next(l->cfg.handles, &id);
	if (!err)
		err = mark_set(l->cfg.handles, fd, id, e);
	return err ? err : enter(l, p, e);
}

static bool is_stranger_mark(int err) { return err == -ENODATA || err == -EXDEV || err == -ESTALE; }

/* By mark, under adopt_lock. *ADOPTED: it got a new id. */
static int by_mark(struct local *l, struct obj *p, int fd, bool may_adopt, struct statx *stx, struct hentry *e, bool *adopted)
{
	struct local_handle lh;
	uint64_t id = 0;
	auto_lock(&l->adopt_lock);
	int err = mark_get(l->cfg.handles, fd, &id, &lh);
	if (!err)
		return reindex(l, p, fd, id, &lh, stx, e);
	if (!is_stranger_mark(err))
		return err;
	if (!may_adopt)
		return -ENOENT;
	err = adopt(l, p, fd, stx, e);
	*adopted = !err;
	return err;
}

/* An entry that claims the inode number of the object behind FD, with another handle, speaks of one that is gone: out with it. */
static void forget_gone(struct local *l, int fd)
{
	struct statx stx;
	struct local_handle lh;
	struct hentry e;
	uint64_t id;
	if (local_statx(fd, "", &stx) || index_by_ino(l->cfg.handles, stx.stx_ino, &id) || index_get(l->cfg.handles, id, &e))
		return;
	if (e.ino != stx.stx_ino || id == HANDLE_ROOT || local_handle_of(fd, &lh) || local_handle_same(&lh, &e.lh))
		return;
	log_info("local: object %llx: is gone: its inode number has been used again", (unsigned long long)id);
	obj_drop(l, id);
}

/* -EAGAIN: it may have been in the making; look again. */
static int identify_slowly(struct local *l, struct obj *p, const char *name, struct statx *stx, struct hentry *e)
{
	bool adopted = false;
	uint64_t id;
	auto_fd int fd = local_openat(l, p->fd, name, O_PATH, 0);
	if (fd == -EXDEV)
		return stranger(l, p, name);
	if (fd < 0)
		return fd;
	if (creating_wait(l, p->id))
		return -EAGAIN;
	forget_gone(l, fd);
	if (!mark_get(l->cfg.handles, fd, &id, NULL)) {
		int ok = fits(l, fd, id, stx, e);	/* waits for a rebuild without holding up others */
		if (ok != -ESTALE)
			return ok;
	}
	bool may = p->id != HANDLE_LIMBO && (!l->cfg.may_adopt || l->cfg.may_adopt(l->cfg.arg));
	int err = by_mark(l, p, fd, may, stx, e, &adopted);
	if (adopted && l->cfg.adopted)
		l->cfg.adopted(l->cfg.arg, p->id, e->id);
	return err;
}

/* Is entry E about what NAME in P is now, and not about an earlier object with this inode number? */
static bool same_object(struct local *l, const struct obj *p, const char *name, const struct hentry *e)
{
	struct local_handle lh;
	return obj_pinned(l, e->id, e->ino) || (!local_handle_at(p->fd, name, &lh) && local_handle_same(&lh, &e->lh));
}

static int identify_once(struct local *l, struct obj *p, const char *name, struct statx *stx, struct hentry *e)
{
	uint64_t id = 0;
	int err = local_statx(p->fd, name, stx);
	if (err)
		return err;
	if (stx->stx_dev_major != l->dev_major || stx->stx_dev_minor != l->dev_minor || stx->stx_attributes & STATX_ATTR_MOUNT_ROOT)
		return stranger(l, p, name);
	if (!index_by_ino(l->cfg.handles, stx->stx_ino, &id) && !index_get(l->cfg.handles, id, e) && e->ino == stx->stx_ino &&
	    e->type == (stx->stx_mode & S_IFMT) && same_object(l, p, name, e))
		return 0;
	return identify_slowly(l, p, name, stx, e);
}

int local_identify(struct local *l, struct obj *p, const char *name, struct statx *stx, struct hentry *e)
{
	int err;
	if (local_hidden(p, name))
		return -ENOENT;
	do
		err = identify_once(l, p, name, stx, e);
	while (err == -EAGAIN);
	return err;
}

/* ---- lookup ---- */

/* The inode number that the directory's own entry ".." has; 0 = none found. */
static uint64_t dotdot_ino(struct local *l, int fd)
{
	char buf[4096];
	auto_fd int dfd = local_reopen(l, fd, O_RDONLY | O_DIRECTORY);
	long n = dfd < 0 ? -1 : syscall(SYS_getdents64, dfd, buf, sizeof(buf));
	for (long at = 0; at < n;) {
		const struct dirent64_raw *d = (const void *)(buf + at);
		if (!strcmp(d->name, ".."))
			return d->ino;
		at += d->len;
	}
	return 0;
}

int local_parent_of(struct local *l, struct obj *o, uint64_t *id)
{
	struct statx stx;
	*id = HANDLE_ROOT;
	if (o->id == HANDLE_ROOT)
		return 0;
	auto_fd int fd = local_openat(l, o->fd, "..", O_PATH | O_DIRECTORY, 0);
	if (fd == -EXDEV)	/* the parent is covered by a mount: the volume over its own root */
		return dotdot_ino(l, o->fd) == l->root->ino ? 0 : -ESTALE;
	if (fd < 0)
		return fd;
	int err = local_statx(fd, "", &stx);
	if (err)
		return err;
	if (stx.stx_ino == l->root->ino)
		return 0;
	*id = HANDLE_LIMBO;
	if (stx.stx_ino == l->limbo->ino)
		return 0;
	err = index_by_ino(l->cfg.handles, stx.stx_ino, id);
	return err == -ENOENT ? mark_get(l->cfg.handles, fd, id, NULL) : err;
}

static int lookup_dot(struct local *l, uint64_t id, struct attr *out)
{
	auto_obj struct obj *o = NULL;
	int err = obj_get(l, id, &o);
	if (!err)
		err = local_attr_of(l, o, -1, out);
	return err ? err : out->nlink ? 0 : -ESTALE;
}

/* Limbo is a parent for apply and resync only. */
static int lookup_dotdot(struct local *l, const struct call *c, uint64_t id, struct attr *out)
{
	auto_obj struct obj *o = NULL;
	uint64_t up = 0;
	int err = obj_get_dir(l, id, &o);
	if (!err)
		err = local_parent_of(l, o, &up);
	if (!err && up == HANDLE_LIMBO && (c->origin == ORIGIN_FUSE || c->origin == ORIGIN_NFS))
		err = -ESTALE;
	return err ? err : lookup_dot(l, up, out);
}

int local_lookup(struct layer *layer, struct call *c, uint64_t parent, const char *name, struct attr *out)
{
	struct local *l = to_local(layer);
	auto_obj struct obj *p = NULL;
	struct statx stx;
	struct hentry e;
	if (!strcmp(name, "."))
		return lookup_dot(l, parent, out);
	if (!strcmp(name, ".."))
		return lookup_dotdot(l, c, parent, out);
	int err = obj_get_dir(l, parent, &p);
	if (!err)
		err = local_identify(l, p, name, &stx, &e);
	if (!err)
		local_attr_fill(l, &stx, &e, out);
	return err;
}

int local_resolve(struct layer *layer, uint64_t parent, const char *name, uint64_t *id, uint32_t *type)
{
	struct local *l = to_local(layer);
	auto_obj struct obj *p = NULL;
	struct statx stx;
	struct hentry e;
	int err = obj_get_dir(l, parent, &p);
	if (!err)
		err = local_identify(l, p, name, &stx, &e);
	if (err)
		return err;
	*id = e.id;
	*type = e.type;
	return 0;
}
