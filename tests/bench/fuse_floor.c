/*
 * fuse_floor - a bare pass-through FUSE mount: the floor that `make bench` compares with. A measuring instrument, not a file system to use.
 *
 *   fuse_floor MOUNTPOINT DIR [timeout=SECONDS]
 *
 * The same libfuse and the same session options as the product: long timeouts, kept caches, readdirplus, FUSE_HANDLE_KILLPRIV_V2 (so that
 * a write needs no getxattr), FLUSH answered (it is what releases fcntl locks at close). It does for each operation the fewest system
 * calls that can do it: O_PATH descriptors held per known inode, no index, no marks, no mirror. In the foreground until unmounted.
 */
#define FUSE_USE_VERSION 312
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

/* What libfuse 3.14 doesn't know: the INIT reply is patched on its way to the kernel. */
struct init_in_header { uint32_t len, opcode; uint64_t unique; };
struct out_header { uint32_t len; int32_t error; uint64_t unique; };
struct init_out { uint32_t major, minor, max_readahead, flags; };
enum { OP_INIT = 26 };
#define KILLPRIV_V2 (1u << 28)

struct inode { struct inode *next; ino_t ino; dev_t dev; int fd; uint64_t nlookup; };
enum { BUCKETS = 65536, LOCKS = 256, THREADS = 8 };
static struct inode *table[BUCKETS], root;
static pthread_mutex_t locks[LOCKS];
static double timeout = 86400;

static unsigned bucket(ino_t ino, dev_t dev)
{
	return (unsigned)((ino * 2654435761u) ^ dev) & (BUCKETS - 1);
}

static struct inode *inode_of(fuse_ino_t n)
{
	return n == FUSE_ROOT_ID ? &root : (struct inode *)(uintptr_t)n;
}

static int fd_of(fuse_ino_t n)
{
	return inode_of(n)->fd;
}

static void floor_init(void *u, struct fuse_conn_info *c)
{
	(void)u;
	c->want &= ~(unsigned)(FUSE_CAP_SPLICE_READ | FUSE_CAP_SPLICE_WRITE | FUSE_CAP_SPLICE_MOVE | FUSE_CAP_NO_OPENDIR_SUPPORT);
	c->max_write = 1 << 20;
}

static int find(fuse_ino_t parent, const char *name, struct fuse_entry_param *e)
{
	memset(e, 0, sizeof *e);
	e->attr_timeout = e->entry_timeout = timeout;
	int fd = openat(fd_of(parent), name, O_PATH | O_NOFOLLOW | O_CLOEXEC);

	if (fd < 0)
		return errno;
	if (fstatat(fd, "", &e->attr, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW)) {
		int r = errno;

		close(fd);
		return r;
	}
	unsigned h = bucket(e->attr.st_ino, e->attr.st_dev);
	struct inode *i;

	pthread_mutex_lock(&locks[h % LOCKS]);
	for (i = table[h]; i; i = i->next)
		if (i->ino == e->attr.st_ino && i->dev == e->attr.st_dev)
			break;
	if (i) {
		i->nlookup++;
		close(fd);
	} else {
		i = calloc(1, sizeof *i);
		*i = (struct inode){ table[h], e->attr.st_ino, e->attr.st_dev, fd, 1 };
		table[h] = i;
	}
	pthread_mutex_unlock(&locks[h % LOCKS]);
	e->ino = (uintptr_t)i;
	return 0;
}

static void entry(fuse_req_t r, fuse_ino_t p, const char *name, int error)
{
	struct fuse_entry_param e;

	if (error)
		fuse_reply_err(r, errno);
	else if ((error = find(p, name, &e)))
		fuse_reply_err(r, error);
	else
		fuse_reply_entry(r, &e);
}

static void floor_lookup(fuse_req_t r, fuse_ino_t p, const char *name)
{
	struct fuse_entry_param e;
	int err = find(p, name, &e);

	if (err == ENOENT)
		e.ino = 0;
	if (err && err != ENOENT)
		fuse_reply_err(r, err);
	else
		fuse_reply_entry(r, &e);
}

static void forget(fuse_ino_t n, uint64_t count)
{
	struct inode *i = inode_of(n), **pp;

	if (i == &root)
		return;
	unsigned h = bucket(i->ino, i->dev);

	pthread_mutex_lock(&locks[h % LOCKS]);
	i->nlookup -= count;
	if (i->nlookup) {
		i = NULL;
	} else {
		for (pp = &table[h]; *pp != i; pp = &(*pp)->next)
			;
		*pp = i->next;
	}
	pthread_mutex_unlock(&locks[h % LOCKS]);
	if (i)
		close(i->fd);
	free(i);
}

static void floor_forget(fuse_req_t r, fuse_ino_t n, uint64_t count)
{
	forget(n, count);
	fuse_reply_none(r);
}

static void floor_forget_multi(fuse_req_t r, size_t count, struct fuse_forget_data *f)
{
	for (size_t i = 0; i < count; i++)
		forget(f[i].ino, f[i].nlookup);
	fuse_reply_none(r);
}

static void floor_getattr(fuse_req_t r, fuse_ino_t n, struct fuse_file_info *fi)
{
	struct stat st;

	(void)fi;
	if (fstatat(fd_of(n), "", &st, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW))
		fuse_reply_err(r, errno);
	else
		fuse_reply_attr(r, &st, timeout);
}

static int set_times(fuse_ino_t n, const char *proc, const struct stat *a, int valid)
{
	struct timespec t[2] = { { 0, UTIME_OMIT }, { 0, UTIME_OMIT } };

	if (valid & FUSE_SET_ATTR_ATIME_NOW)
		t[0].tv_nsec = UTIME_NOW;
	else if (valid & FUSE_SET_ATTR_ATIME)
		t[0] = a->st_atim;
	if (valid & FUSE_SET_ATTR_MTIME_NOW)
		t[1].tv_nsec = UTIME_NOW;
	else if (valid & FUSE_SET_ATTR_MTIME)
		t[1] = a->st_mtim;
	(void)proc;
	return utimensat(fd_of(n), "", t, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
}

static void floor_setattr(fuse_req_t r, fuse_ino_t n, struct stat *a, int valid, struct fuse_file_info *fi)
{
	char p[64];
	int e = 0;

	snprintf(p, sizeof p, "/proc/self/fd/%d", fd_of(n));
	if (valid & FUSE_SET_ATTR_MODE)
		e = chmod(p, a->st_mode);
	if (!e && (valid & (FUSE_SET_ATTR_UID | FUSE_SET_ATTR_GID)))
		e = fchownat(fd_of(n), "", valid & FUSE_SET_ATTR_UID ? a->st_uid : (uid_t)-1,
			     valid & FUSE_SET_ATTR_GID ? a->st_gid : (gid_t)-1, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW);
	if (!e && (valid & FUSE_SET_ATTR_SIZE))
		e = fi ? ftruncate((int)fi->fh, a->st_size) : truncate(p, a->st_size);
	if (!e && (valid & (FUSE_SET_ATTR_ATIME | FUSE_SET_ATTR_MTIME)))
		e = set_times(n, p, a, valid);
	if (e)
		fuse_reply_err(r, errno);
	else
		floor_getattr(r, n, fi);
}

static void floor_readlink(fuse_req_t r, fuse_ino_t n)
{
	char b[4097];
	ssize_t k = readlinkat(fd_of(n), "", b, 4096);

	if (k < 0) {
		fuse_reply_err(r, errno);
	} else {
		b[k] = 0;
		fuse_reply_readlink(r, b);
	}
}

/* Creations run as the caller: raw calls, since they concern this thread only. */
static void take_creds(fuse_req_t r)
{
	const struct fuse_ctx *c = fuse_req_ctx(r);

	if (c->gid)
		syscall(SYS_setresgid, -1, c->gid, -1);
	if (c->uid)
		syscall(SYS_setresuid, -1, c->uid, -1);
}

static void drop_creds(fuse_req_t r)
{
	const struct fuse_ctx *c = fuse_req_ctx(r);
	int e = errno;

	if (c->uid)
		syscall(SYS_setresuid, -1, 0, -1);
	if (c->gid)
		syscall(SYS_setresgid, -1, 0, -1);
	errno = e;
}

static void floor_mknod(fuse_req_t r, fuse_ino_t p, const char *n, mode_t m, dev_t d)
{
	take_creds(r);
	int e = mknodat(fd_of(p), n, m, d);

	drop_creds(r);
	entry(r, p, n, e);
}

static void floor_mkdir(fuse_req_t r, fuse_ino_t p, const char *n, mode_t m)
{
	take_creds(r);
	int e = mkdirat(fd_of(p), n, m);

	drop_creds(r);
	entry(r, p, n, e);
}

static void floor_symlink(fuse_req_t r, const char *target, fuse_ino_t p, const char *n)
{
	take_creds(r);
	int e = symlinkat(target, fd_of(p), n);

	drop_creds(r);
	entry(r, p, n, e);
}

static void floor_link(fuse_req_t r, fuse_ino_t i, fuse_ino_t p, const char *n)
{
	char b[64];

	snprintf(b, sizeof b, "/proc/self/fd/%d", fd_of(i));
	entry(r, p, n, linkat(AT_FDCWD, b, fd_of(p), n, AT_SYMLINK_FOLLOW));
}

static void floor_unlink(fuse_req_t r, fuse_ino_t p, const char *n)
{
	fuse_reply_err(r, unlinkat(fd_of(p), n, 0) ? errno : 0);
}

static void floor_rmdir(fuse_req_t r, fuse_ino_t p, const char *n)
{
	fuse_reply_err(r, unlinkat(fd_of(p), n, AT_REMOVEDIR) ? errno : 0);
}

static void floor_rename(fuse_req_t r, fuse_ino_t p, const char *n, fuse_ino_t q, const char *m, unsigned f)
{
	fuse_reply_err(r, renameat2(fd_of(p), n, fd_of(q), m, f) ? errno : 0);
}

static void floor_open(fuse_req_t r, fuse_ino_t n, struct fuse_file_info *fi)
{
	char p[64];

	snprintf(p, sizeof p, "/proc/self/fd/%d", fd_of(n));
	int fd = open(p, (fi->flags & ~(O_NOFOLLOW | O_APPEND | O_DIRECT)) | O_CLOEXEC);

	if (fd < 0) {
		fuse_reply_err(r, errno);
		return;
	}
	fi->fh = (uint64_t)fd;
	fi->keep_cache = 1;
	fuse_reply_open(r, fi);
}

static void floor_create(fuse_req_t r, fuse_ino_t p, const char *n, mode_t m, struct fuse_file_info *fi)
{
	struct fuse_entry_param e;

	take_creds(r);
	int fd = openat(fd_of(p), n, (fi->flags & ~(O_NOFOLLOW | O_APPEND | O_DIRECT)) | O_CREAT | O_CLOEXEC, m);

	drop_creds(r);
	if (fd < 0) {
		fuse_reply_err(r, errno);
		return;
	}
	int err = find(p, n, &e);

	if (err) {
		close(fd);
		fuse_reply_err(r, err);
		return;
	}
	fi->fh = (uint64_t)fd;
	fi->keep_cache = 1;
	fuse_reply_create(r, &e, fi);
}

static void floor_release(fuse_req_t r, fuse_ino_t n, struct fuse_file_info *fi)
{
	(void)n;
	close((int)fi->fh);
	fuse_reply_err(r, 0);
}

static void floor_flush(fuse_req_t r, fuse_ino_t n, struct fuse_file_info *fi)
{
	(void)n;
	(void)fi;
	fuse_reply_err(r, 0);
}

static void floor_fsync(fuse_req_t r, fuse_ino_t n, int datasync, struct fuse_file_info *fi)
{
	(void)n;
	fuse_reply_err(r, (datasync ? fdatasync((int)fi->fh) : fsync((int)fi->fh)) ? errno : 0);
}

static void floor_read(fuse_req_t r, fuse_ino_t n, size_t size, off_t off, struct fuse_file_info *fi)
{
	static _Thread_local char *buf;
	static _Thread_local size_t len;

	(void)n;
	if (len < size) {
		free(buf);
		buf = aligned_alloc(4096, (size + 4095) & ~4095ul);
		len = size;
	}
	ssize_t k = pread((int)fi->fh, buf, size, off);

	if (k < 0)
		fuse_reply_err(r, errno);
	else
		fuse_reply_buf(r, buf, (size_t)k);
}

static void floor_write(fuse_req_t r, fuse_ino_t n, const char *b, size_t size, off_t off, struct fuse_file_info *fi)
{
	ssize_t k = pwrite((int)fi->fh, b, size, off);

	(void)n;
	if (k < 0)
		fuse_reply_err(r, errno);
	else
		fuse_reply_write(r, (size_t)k);
}

struct dir { DIR *d; struct dirent *e; off_t off; };

static void floor_opendir(fuse_req_t r, fuse_ino_t n, struct fuse_file_info *fi)
{
	int fd = openat(fd_of(n), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct dir *d = calloc(1, sizeof *d);

	d->d = fdopendir(fd);
	fi->fh = (uintptr_t)d;
	fuse_reply_open(r, fi);
}

static int is_dots(const char *n)
{
	return n[0] == '.' && (!n[1] || (n[1] == '.' && !n[2]));
}

/* One entry into P; its size, more than ROOM when it didn't fit, 0 when the object has vanished. */
static size_t add_entry(fuse_req_t r, fuse_ino_t n, const struct dirent *de, char *p, size_t room, int plus)
{
	struct fuse_entry_param e = { .attr = { .st_ino = de->d_ino, .st_mode = (mode_t)DTTOIF(de->d_type) } };
	int looked = 0;

	if (!plus)
		return fuse_add_direntry(r, p, room, de->d_name, &e.attr, de->d_off);
	if (!is_dots(de->d_name)) {
		if (find(n, de->d_name, &e))
			return 0;
		looked = 1;
	}
	size_t k = fuse_add_direntry_plus(r, p, room, de->d_name, &e, de->d_off);

	if (k > room && looked)
		forget(e.ino, 1);
	return k;
}

static void list(fuse_req_t r, fuse_ino_t n, size_t size, off_t off, struct fuse_file_info *fi, int plus)
{
	struct dir *d = (struct dir *)(uintptr_t)fi->fh;
	char *b = malloc(size), *p = b;
	size_t room = size;

	if (off != d->off) {
		seekdir(d->d, off);
		d->e = NULL;
		d->off = off;
	}
	while (d->e || (d->e = readdir(d->d))) {
		size_t k = add_entry(r, n, d->e, p, room, plus);

		if (k > room)
			break;
		p += k;
		room -= k;
		d->off = d->e->d_off;
		d->e = NULL;
	}
	fuse_reply_buf(r, b, size - room);
	free(b);
}

static void floor_readdir(fuse_req_t r, fuse_ino_t n, size_t s, off_t off, struct fuse_file_info *fi)
{
	list(r, n, s, off, fi, 0);
}

static void floor_readdirplus(fuse_req_t r, fuse_ino_t n, size_t s, off_t off, struct fuse_file_info *fi)
{
	list(r, n, s, off, fi, 1);
}

static void floor_releasedir(fuse_req_t r, fuse_ino_t n, struct fuse_file_info *fi)
{
	struct dir *d = (struct dir *)(uintptr_t)fi->fh;

	(void)n;
	closedir(d->d);
	free(d);
	fuse_reply_err(r, 0);
}

static void floor_statfs(fuse_req_t r, fuse_ino_t n)
{
	struct statvfs s;

	if (fstatvfs(fd_of(n), &s))
		fuse_reply_err(r, errno);
	else
		fuse_reply_statfs(r, &s);
}

static void floor_fallocate(fuse_req_t r, fuse_ino_t n, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
	(void)n;
	fuse_reply_err(r, fallocate((int)fi->fh, mode, off, len) ? errno : 0);
}

static const struct fuse_lowlevel_ops ops = {
	.init = floor_init, .lookup = floor_lookup, .forget = floor_forget, .forget_multi = floor_forget_multi, .getattr = floor_getattr,
	.setattr = floor_setattr, .readlink = floor_readlink, .mknod = floor_mknod, .mkdir = floor_mkdir, .symlink = floor_symlink,
	.link = floor_link, .unlink = floor_unlink, .rmdir = floor_rmdir, .rename = floor_rename, .open = floor_open, .create = floor_create,
	.release = floor_release, .flush = floor_flush, .fsync = floor_fsync, .read = floor_read, .write = floor_write,
	.opendir = floor_opendir, .readdir = floor_readdir, .readdirplus = floor_readdirplus, .releasedir = floor_releasedir,
	.statfs = floor_statfs, .fallocate = floor_fallocate,
};

static uint64_t init_unique;

static ssize_t io_read(int fd, void *b, size_t n, void *u)
{
	ssize_t k = read(fd, b, n);
	const struct init_in_header *h = b;

	(void)u;
	if (k >= (ssize_t)sizeof *h && h->opcode == OP_INIT)
		init_unique = h->unique;
	return k;
}

static ssize_t io_writev(int fd, struct iovec *v, int c, void *u)
{
	const struct out_header *h = v[0].iov_base;

	(void)u;
	if (init_unique && h->unique == init_unique && c >= 2) {
		((struct init_out *)v[1].iov_base)->flags |= KILLPRIV_V2;
		init_unique = 0;
	}
	return writev(fd, v, c);
}

static int serve(const char *mount_point)
{
	static const struct fuse_custom_io io = { .writev = io_writev, .read = io_read };
	char *argv[] = { "fuse_floor", NULL }, m[256];
	struct fuse_args a = FUSE_ARGS_INIT(1, argv);
	struct fuse_session *se = fuse_session_new(&a, &ops, sizeof ops, NULL);
	int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC), rc;

	snprintf(m, sizeof m, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", fd);
	if (!se || fd < 0 || mount("fuse_floor", mount_point, "fuse.fuse_floor", MS_NOSUID | MS_NODEV, m) ||
	    fuse_session_custom_io(se, &io, fd)) {
		perror(mount_point);
		return 1;
	}
	struct fuse_loop_config *c = fuse_loop_cfg_create();

	fuse_loop_cfg_set_clone_fd(c, 0);
	fuse_loop_cfg_set_max_threads(c, THREADS);
	fuse_loop_cfg_set_idle_threads(c, THREADS);
	fuse_set_signal_handlers(se);
	rc = fuse_session_loop_mt(se, c);
	umount2(mount_point, MNT_DETACH);
	return rc != 0;
}

int main(int argc, char **argv)
{
	struct rlimit rl = { 1 << 20, 1 << 20 };
	struct stat st;

	if (argc < 3) {
		fputs("usage: fuse_floor MOUNTPOINT DIR [timeout=SECONDS]\n", stderr);
		return 2;
	}
	if (argc > 3)
		timeout = strtod(strchr(argv[3], '=') ? strchr(argv[3], '=') + 1 : "0", NULL);
	setrlimit(RLIMIT_NOFILE, &rl);
	umask(0);
	for (int i = 0; i < LOCKS; i++)
		pthread_mutex_init(&locks[i], NULL);
	root.fd = open(argv[2], O_PATH | O_CLOEXEC);
	if (root.fd < 0 || fstat(root.fd, &st)) {
		perror(argv[2]);
		return 1;
	}
	root.ino = st.st_ino;
	root.dev = st.st_dev;
	return serve(argv[1]);
}
