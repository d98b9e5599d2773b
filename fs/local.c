/*
 * The local layer: life, table of operations, descriptors.
 *
 * Everything is reached from three descriptors: the root's (opened by the daemon before anything is mounted over it), .tandemfs
 * and /proc/self/fd, through which an O_PATH descriptor is opened again for reading or changed by calls that know paths only. The process' umask must be
 * 0: the caller's is applied here, where a parent's default ACL is known.
 */
#include "fs/local_int.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <linux/openat2.h>

#ifdef SYS_fchmodat2
#define SYS_FCHMODAT2 SYS_fchmodat2
#else
#define SYS_FCHMODAT2 452	/* the same on all architectures but alpha */
#endif

int local_reopen(struct local *l, int fd, int flags)
{
	char n[16];
	snprintf(n, sizeof(n), "%d", fd);
	int r = openat(l->proc_fd, n, flags | O_CLOEXEC);
	if (r < 0 && (errno == EMFILE || errno == ENFILE) && obj_shrink(l))
		r = openat(l->proc_fd, n, flags | O_CLOEXEC);
	return r < 0 ? -errno : r;
}

int local_openat(struct local *l, int dirfd, const char *name, int flags, mode_t mode)
{
	struct open_how how = {
		.flags = (uint64_t)(unsigned)(flags | O_NOFOLLOW | O_CLOEXEC), .mode = mode, .resolve = RESOLVE_NO_XDEV,
	};
	long r = syscall(SYS_openat2, dirfd, name, &how, sizeof(how));
	if (r < 0 && (errno == EMFILE || errno == ENFILE) && obj_shrink(l))
		r = syscall(SYS_openat2, dirfd, name, &how, sizeof(how));
	return r < 0 ? -errno : (int)r;
}

int local_chmod(struct local *l, int fd, uint32_t mode)
{
	static _Atomic bool missing;	/* Linux < 6.6 */
	char n[16];
	if (!missing) {
		int r = (int)syscall(SYS_FCHMODAT2, fd, "", mode & 07777, AT_EMPTY_PATH);
		if (!r || errno != ENOSYS)
			return r;
		missing = true;
	}
	snprintf(n, sizeof(n), "%d", fd);
	return fchmodat(l->proc_fd, n, mode & 07777, 0);
}

int local_statx(int dirfd, const char *name, struct statx *stx)
{
	/* DONT_SYNC changes nothing for local file systems, and a dead NFS mount in the tree can't hold us up. */
	return TRY(statx(dirfd, name, AT_SYMLINK_NOFOLLOW | AT_EMPTY_PATH | AT_NO_AUTOMOUNT | AT_STATX_DONT_SYNC,
			 STATX_BASIC_STATS, stx));
}

static int local_statfs(struct layer *layer, struct call *c, struct statvfs *out)
{
	if (c->origin == ORIGIN_FUSE || c->origin == ORIGIN_NFS)	/* who removed something sees its space free */
		obj_linger_end(to_local(layer));
	int err = TRY(fstatvfs(to_local(layer)->cfg.root_fd, out));
	out->f_namemax = LAYER_NAME_MAX;
	return err;
}

int local_syncfs(struct layer *layer)
{
	return TRY(syncfs(to_local(layer)->cfg.root_fd));
}

static void local_destroy(struct layer *layer);

static const struct layer_ops local_ops = {
	.destroy = local_destroy,
	.lookup = local_lookup,
	.resolve = local_resolve,
	.create = local_create,
	.tmpfile = local_tmpfile,
	.unlink = local_unlink,
	.rmdir = local_rmdir,
	.rename = local_rename,
	.link = local_link,
	.forget = local_forget,
	.readlink = local_readlink,
	.getattr = local_getattr,
	.setattr = local_setattr,
	.access = local_access,
	.getxattr = local_getxattr,
	.listxattr = local_listxattr,
	.setxattr = local_setxattr,
	.removexattr = local_removexattr,
	.getflags = local_getflags,
	.setflags = local_setflags,
	.open = local_open,
	.release = local_release,
	.read = local_read,
	.write = local_write,
	.fsync = local_fsync,
	.fallocate = local_fallocate,
	.copy_range = local_copy_range,
	.lseek = local_lseek,
	.opendir = local_opendir,
	.readdir = local_readdir,
	.releasedir = local_releasedir,
	.statfs = local_statfs,
};

static void local_free(struct local *l)
{
	if (l->root)
		obj_put(l->root);
	if (l->limbo)
		obj_put(l->limbo);
	obj_cache_free(l);
	snap_cache_free(l);
	joints_free(l);
	self_free(&l->self);
	if (l->hidden_fd >= 0)
		close(l->hidden_fd);
	if (l->proc_fd >= 0)
		close(l->proc_fd);
	pthread_mutex_destroy(&l->adopt_lock);
	pthread_mutex_destroy(&l->creating_lock);
	pthread_cond_destroy(&l->creating_done);
	free(l);
}

static void local_destroy(struct layer *layer)
{
	local_free(to_local(layer));
}

/* The root has its mark and its index entry. */
static int ensure_root(struct local *l)
{
	struct hentry e = { 0 };
	uint64_t id = 0;
	int err = mark_get(l->cfg.handles, l->cfg.root_fd, &id, NULL);
	if (err == -EXDEV || (!err && id != HANDLE_ROOT))
		return -EXDEV;
	if (!err && !index_get(l->cfg.handles, HANDLE_ROOT, &e))
		return 0;
	struct statx stx;
	err = local_statx(l->cfg.root_fd, "", &stx);
	if (!err)
		err = mark_set(l->cfg.handles, l->cfg.root_fd, HANDLE_ROOT, &e);
	if (!err)
		err = local_count_subdirs(l, l->cfg.root_fd, true, &e.nsub);
	if (err)
		return err;
	e.type = S_IFDIR;
	e.ctime = local_clamp_time(l, (struct timespec){ stx.stx_ctime.tv_sec, stx.stx_ctime.tv_nsec });
	if (local_has_defacl(l->cfg.root_fd))
		e.flags |= HENTRY_DEFACL;
	return index_put(l->cfg.handles, &e);
}

/* A directory below DIRFD, made when missing. An O_RDONLY descriptor. */
static int ensure_dir(struct local *l, int dirfd, const char *name)
{
	if (mkdirat(dirfd, name, 0700) < 0 && errno != EEXIST)
		return -errno;
	return local_openat(l, dirfd, name, O_RDONLY | O_DIRECTORY, 0);
}

/* A permanent object: one reference, never idle. */
static int pin(struct local *l, uint64_t id, int dirfd, const char *name, struct obj **out)
{
	struct statx stx;
	auto_fd int fd = local_openat(l, dirfd, name, O_PATH | O_DIRECTORY, 0);
	if (fd < 0)
		return fd;
	int err = local_statx(fd, "", &stx);
	if (!err)
		err = obj_insert(l, id, fd, stx.stx_ino, S_IFDIR, local_has_defacl(fd) ? HENTRY_DEFACL : 0, out);
	if (!err)
		steal_fd(&fd);
	return err;
}

static int open_descriptors(struct local *l)
{
	struct statx stx;
	l->proc_fd = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (l->proc_fd < 0)
		return -errno;
	int err = local_statx(l->cfg.root_fd, "", &stx);
	if (err)
		return err;
	l->dev_major = stx.stx_dev_major;
	l->dev_minor = stx.stx_dev_minor;
	l->hidden_fd = ensure_dir(l, l->cfg.root_fd, HIDDEN_DIR);
	if (l->hidden_fd < 0)
		return l->hidden_fd;
	auto_fd int limbo = ensure_dir(l, l->hidden_fd, "limbo");
	if (limbo < 0)
		return limbo;
	err = ensure_root(l);
	if (!err)
		err = pin(l, HANDLE_ROOT, l->cfg.root_fd, ".", &l->root);
	return err ? err : pin(l, HANDLE_LIMBO, limbo, ".", &l->limbo);
}

static const struct volume_limits no_limits;

/* Idle descriptors: as many as wanted, but the rest of the process needs some too. */
static unsigned idle_bound(unsigned want)
{
	struct rlimit rl;
	bool few = !getrlimit(RLIMIT_NOFILE, &rl) && rl.rlim_cur / 4 < want;
	return (few ? (unsigned)(rl.rlim_cur / 4) : want) / OBJ_SHARDS + 1;
}

int local_new(const struct local_config *cfg, struct layer **out)
{
	struct local *l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->layer = (struct layer){ .ops = &local_ops, .name = "local" };
	l->cfg = *cfg;
	l->proc_fd = l->hidden_fd = -1;
	l->gen = handles_generation(cfg->handles);
	l->lim = cfg->limits ? cfg->limits : &no_limits;
	if (!l->cfg.dir_cache_bytes)
		l->cfg.dir_cache_bytes = DIR_CACHE_DEFAULT;
	if (!l->cfg.fd_cache)
		l->cfg.fd_cache = OBJ_CACHE_DEFAULT;
	l->idle_max = idle_bound(l->cfg.fd_cache);
	pthread_mutex_init(&l->adopt_lock, NULL);
	pthread_mutex_init(&l->creating_lock, NULL);
	pthread_cond_init(&l->creating_done, NULL);
	joints_init(l);
	l->one_journal = local_one_journal(cfg->root_fd);
	int err = obj_cache_init(l);
	if (!err)
		err = snap_cache_new(l);
	if (!err)
		err = self_init(&l->self);
	if (!err)
		err = open_descriptors(l);
	if (err) {
		local_free(l);
		return err;
	}
	*out = &l->layer;
	return 0;
}

uint64_t file_id(const struct file *f) { return f->id; }
int file_flags(const struct file *f) { return f->flags; }
