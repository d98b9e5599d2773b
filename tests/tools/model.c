/*
 * model - random operations on two trees must have the same results.
 *
 *   model [-s SEED] [-j THREADS] [-n OPERATIONS] [-t SECONDS] A B     compare A (under test) with B (a plain directory)
 *   model [-s SEED] [-j THREADS] [-n OPERATIONS] [-t SECONDS] [-e] -r A    race: all threads in one directory, only A, nothing compared
 *
 * Each thread works in a subtree of its own (t0, t1, …); one operation in eight goes to `shared`, under a lock that spans the
 * operation on A and on B. Every operation is made on A, then with the same arguments on B; result, errno and what was read or
 * stat'ed must agree. Some operations run with the file-system uid of another user. Open files are kept across unlinks.
 * Racing, results are open, but an errno that no race explains (EIO, ENOSYS, …) is an error, unless -e says that faults are injected. When A dies (ENOTCONN), the run
 * ends with status 3. Otherwise 0 right, 1 wrong, 2 could not run. With equal seeds and one thread per subtree a run repeats.
 */
#include <dirent.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tests/tools/tool.h"

enum { HELD = 4, OUT = 8192, PATH_LEN = 128, OTHER_UID = 1234, OTHER_GID = 4321, DATA_MAX = 40000, HISTORY = 12 };

enum kind {
	K_CREATE, K_OPEN, K_CLOSE, K_WRITE, K_READ, K_FTRUNCATE, K_FALLOCATE, K_COPY, K_FSYNC, K_FSTAT, K_FCHMOD, K_TRUNCATE, K_UNLINK, K_MKDIR,
	K_RMDIR, K_RENAME, K_LINK, K_SYMLINK, K_READLINK, K_MKNOD, K_CHMOD, K_CHOWN, K_UTIMES, K_SETXATTR, K_GETXATTR, K_REMOVEXATTR,
	K_LISTXATTR, K_ACL, K_STAT, K_READDIR, K_TMPFILE, K_ACCESS, K_COUNT
};
static const struct { const char *name; unsigned weight; } kinds[K_COUNT] = {
	[K_CREATE] = { "create", 8 }, [K_OPEN] = { "open", 5 }, [K_CLOSE] = { "close", 3 }, [K_WRITE] = { "write", 8 }, [K_READ] = { "read", 5 },
	[K_FTRUNCATE] = { "ftruncate", 2 }, [K_FALLOCATE] = { "fallocate", 3 }, [K_COPY] = { "copy_file_range", 2 }, [K_FSYNC] = { "fsync", 1 },
	[K_FSTAT] = { "fstat", 3 }, [K_FCHMOD] = { "fchmod", 1 }, [K_TRUNCATE] = { "truncate", 2 }, [K_UNLINK] = { "unlink", 6 },
	[K_MKDIR] = { "mkdir", 7 }, [K_RMDIR] = { "rmdir", 4 }, [K_RENAME] = { "rename", 9 }, [K_LINK] = { "link", 4 },
	[K_SYMLINK] = { "symlink", 2 }, [K_READLINK] = { "readlink", 2 }, [K_MKNOD] = { "mknod", 2 }, [K_CHMOD] = { "chmod", 4 },
	[K_CHOWN] = { "chown", 3 }, [K_UTIMES] = { "utimensat", 2 }, [K_SETXATTR] = { "setxattr", 3 }, [K_GETXATTR] = { "getxattr", 2 },
	[K_REMOVEXATTR] = { "removexattr", 2 }, [K_LISTXATTR] = { "listxattr", 2 }, [K_ACL] = { "acl", 2 }, [K_STAT] = { "stat", 6 },
	[K_READDIR] = { "readdir", 3 }, [K_TMPFILE] = { "tmpfile", 2 }, [K_ACCESS] = { "faccessat", 1 },
};

/* One operation with all its arguments drawn, so that both sides get the same. */
struct op {
	enum kind kind;
	char a[PATH_LEN], b[PATH_LEN];
	unsigned held, held2;
	uint64_t x, y, z;		/* offsets, lengths, modes: as the kind needs */
	int flags;
	bool other;			/* as another user */
};

struct worker {
	pthread_t thread;
	unsigned lane;
	uint64_t rs, done;
	int held[2][HELD];
	bool shared;			/* the operation at hand is in `shared` */
	bool held_shared[HELD];		/* that open file is of `shared` */
	char out[2][OUT], history[HISTORY][320];
	unsigned char *data[2];
};

static struct {
	uint64_t seed, limit;
	double end;
	unsigned threads;
	bool race, faults;
	int root[2];
} run = { .seed = 1, .threads = 4, .limit = UINT64_MAX };
static pthread_mutex_t shared_lock = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool failed, interrupted;
static atomic_ulong total, refused;

/* -- drawing -- */

static void draw_path(struct worker *w, char *p)
{
	unsigned depth = 1 + (unsigned)rng_below(&w->rs, 3);
	int n = w->shared || run.race ? snprintf(p, PATH_LEN, "shared") : snprintf(p, PATH_LEN, "t%u", w->lane);

	for (unsigned i = 0; i < depth; i++)
		n += snprintf(p + n, (size_t)(PATH_LEN - n), "/%c%u", i + 1 < depth ? 'd' : "ddfg"[rng_below(&w->rs, 4)],
			      (unsigned)rng_below(&w->rs, i + 1 < depth ? 3 : 6));
	if (rng_below(&w->rs, 200) == 0)	/* a name that is too long */
		snprintf(p + n, (size_t)(PATH_LEN - n), "/../%s", "x/.");
}

static enum kind draw_kind(struct worker *w)
{
	unsigned sum = 0;

	for (int k = 0; k < K_COUNT; k++)
		sum += kinds[k].weight;
	unsigned at = (unsigned)rng_below(&w->rs, sum);

	for (int k = 0; k < K_COUNT; k++) {
		if (at < kinds[k].weight)
			return (enum kind)k;
		at -= kinds[k].weight;
	}
	return K_STAT;
}

static void draw(struct worker *w, struct op *o)
{
	w->shared = rng_below(&w->rs, 8) == 0;
	o->kind = draw_kind(w);
	draw_path(w, o->a);
	draw_path(w, o->b);
	o->held = (unsigned)rng_below(&w->rs, HELD);
	o->held2 = (unsigned)rng_below(&w->rs, HELD);
	o->x = rng_next(&w->rs);
	o->y = rng_next(&w->rs);
	o->z = rng_next(&w->rs);
	o->flags = (int)rng_below(&w->rs, 1 << 20);
	o->other = rng_below(&w->rs, 6) == 0;
}

/* -- what was seen, as text -- */

static void say(char *out, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void say(char *out, const char *fmt, ...)
{
	size_t n = strlen(out);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(out + n, OUT - n, fmt, ap);
	va_end(ap);
}

static void say_result(char *out, long r)
{
	if (r < 0)
		say(out, " %s", strerrorname_np(errno));
	else
		say(out, " %ld", r);
}

static void say_stat(char *out, const struct stat *st)
{
	say(out, " mode %o nlink %ju uid %u gid %u", st->st_mode, (uintmax_t)st->st_nlink, st->st_uid, st->st_gid);
	if (!S_ISDIR(st->st_mode))
		say(out, " size %jd", (intmax_t)st->st_size);
}

static uint64_t hash(const unsigned char *p, size_t n)
{
	uint64_t h = 1469598103934665603ull;

	for (size_t i = 0; i < n; i++)
		h = (h ^ p[i]) * 1099511628211ull;
	return h;
}

/* -- doing -- */

static int keep(struct worker *w, int side, unsigned slot, int fd)
{
	struct stat st;

	if (fd < 0)
		return fd;
	if (fstat(fd, &st) || !S_ISREG(st.st_mode)) {
		close(fd);
		return 0;
	}
	if (w->held[side][slot] >= 0)
		close(w->held[side][slot]);
	w->held[side][slot] = fd;
	w->held_shared[slot] = w->shared;
	return 0;
}

/* A mode drawn from X. Setgid without group execute is left out (in ACLs' masks too): whether a write clears it is decided by who asks in newer kernels, and a FUSE
 * daemon is not told. */
static mode_t mode_of(uint64_t x)
{
	mode_t m = (mode_t)(x & 07777);

	return m & S_ISGID ? m | S_IXGRP : m;
}

static long do_create(struct worker *w, int side, const struct op *o)
{
	static const int extra[] = { O_EXCL, 0, O_TRUNC, O_APPEND };
	int fd = openat(run.root[side], o->a, O_RDWR | O_CREAT | O_NONBLOCK | O_CLOEXEC | extra[o->x % 4], mode_of(o->y));

	return keep(w, side, o->held, fd);
}

static long do_open(struct worker *w, int side, const struct op *o)
{
	static const int mode[] = { O_RDONLY, O_WRONLY, O_RDWR, O_RDWR | O_TRUNC, O_RDONLY | O_NOFOLLOW, O_WRONLY | O_APPEND };
	int fd = openat(run.root[side], o->a, mode[o->x % 6] | O_NONBLOCK | O_CLOEXEC);

	return keep(w, side, o->held, fd);
}

static long do_write(struct worker *w, int side, const struct op *o)
{
	size_t len = o->y % (o->flags & 1 ? DATA_MAX : 600);

	for (size_t i = 0; i < len; i++)
		w->data[side][i] = (unsigned char)(o->z + i / 64);
	return pwrite(w->held[side][o->held], w->data[side], len, (off_t)(o->x % 100000));
}

static long do_read(struct worker *w, int side, const struct op *o)
{
	ssize_t n = pread(w->held[side][o->held], w->data[side], o->y % DATA_MAX, (off_t)(o->x % 100000));

	if (n >= 0)
		say(w->out[side], " hash %jx", (uintmax_t)hash(w->data[side], (size_t)n));
	return n;
}

static long do_fallocate(struct worker *w, int side, const struct op *o)
{
	static const int mode[] = { 0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
				    FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE };

	return fallocate(w->held[side][o->held], mode[o->z % 5], (off_t)(o->x % 100000), (off_t)(o->y % 50000));
}

static long do_copy(struct worker *w, int side, const struct op *o)
{
	off_t in = (off_t)(o->x % 100000), out = (off_t)(o->y % 100000);

	return copy_file_range(w->held[side][o->held], &in, w->held[side][o->held2], &out, o->z % 50000, 0);
}

static long do_rename(int side, const struct op *o)
{
	static const unsigned flags[] = { 0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE };

	return syscall(SYS_renameat2, run.root[side], o->a, run.root[side], o->b, flags[o->x % 5]);
}

static long do_readlink(struct worker *w, int side, const struct op *o)
{
	char t[256];
	ssize_t n = readlinkat(run.root[side], o->a, t, sizeof t - 1);

	if (n > 0)
		say(w->out[side], " %.*s", (int)n, t);
	return n;
}

static long do_mknod(int side, const struct op *o)
{
	static const mode_t type[] = { S_IFIFO, S_IFSOCK, S_IFREG };

	return mknodat(run.root[side], o->a, type[o->x % 3] | (mode_t)(o->y & 0777), 0);
}

static long do_chown(int side, const struct op *o)
{
	uid_t u = o->x % 3 == 0 ? (uid_t)-1 : o->x % 3 == 1 ? 0 : OTHER_UID;
	gid_t g = o->y % 3 == 0 ? (gid_t)-1 : o->y % 3 == 1 ? 0 : OTHER_GID;

	if (u == (uid_t)-1 && g == (gid_t)-1)
		g = 0;		/* chown to nobody: the kernel asks no FUSE daemon */
	return fchownat(run.root[side], o->a, u, g, AT_SYMLINK_NOFOLLOW);
}

static long do_utimes(struct worker *w, int side, const struct op *o)
{
	struct timespec t[2] = { { (time_t)(o->x % 2000000000), (long)(o->y % 1000000000) },
				 { (time_t)(o->z % 2000000000), (long)(o->x % 1000000000) } };
	struct stat st;
	int r = utimensat(run.root[side], o->a, t, AT_SYMLINK_NOFOLLOW);

	if (!r && !run.race && !fstatat(run.root[side], o->a, &st, AT_SYMLINK_NOFOLLOW))
		say(w->out[side], " mtime %jd.%ld", (intmax_t)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
	return r;
}

static const char *const xattr_names[] = { "user.a", "user.b", "trusted.c", "security.d", "bad" };

static char *proc_path(int side, const char *path, char *to)
{
	snprintf(to, PATH_LEN + 64, "/proc/self/fd/%d/%s", run.root[side], path);
	return to;
}

static long do_xattr(struct worker *w, int side, const struct op *o)
{
	char p[PATH_LEN + 64], v[512], list[4096];
	const char *name = xattr_names[o->x % 5];
	static const int flags[] = { 0, 0, XATTR_CREATE, XATTR_REPLACE };
	ssize_t n;

	proc_path(side, o->a, p);
	switch (o->kind) {
	case K_SETXATTR:
		memset(v, (int)('a' + o->z % 26), sizeof v);
		return lsetxattr(p, name, v, o->y % 200, flags[o->flags & 3]);
	case K_GETXATTR:
		n = lgetxattr(p, name, v, o->y % 2 ? sizeof v : 0);
		if (n > 0 && o->y % 2)
			say(w->out[side], " %c", v[0]);
		return n;
	case K_REMOVEXATTR:
		return lremovexattr(p, name);
	default:
		n = llistxattr(p, list, sizeof list);
		for (int i = 0; n > 0 && i < 4; i++)
			for (char *s = list; s < list + n; s += strlen(s) + 1)
				if (!strcmp(s, xattr_names[i]))
					say(w->out[side], " %s", s);
		return n < 0 ? n : 0;
	}
}

/* A POSIX ACL as the kernel takes it: version 2; user::, user:OTHER:, group::, mask::, other:: */
static long do_acl(struct worker *w, int side, const struct op *o)
{
	struct { uint32_t version; struct { uint16_t tag, perm; uint32_t id; } e[5]; } acl = { .version = 2, .e = {
		{ 1, (uint16_t)(o->x & 7), UINT32_MAX }, { 2, (uint16_t)(o->x >> 3 & 7), OTHER_UID }, { 4, (uint16_t)(o->x >> 6 & 7), UINT32_MAX },
		{ 16, (uint16_t)(o->x >> 9 & 7) | 1, UINT32_MAX }, { 32, (uint16_t)(o->x >> 12 & 7), UINT32_MAX } } };
	const char *name = o->y & 1 ? "system.posix_acl_access" : "system.posix_acl_default";
	char p[PATH_LEN + 64], back[256];
	long r;

	proc_path(side, o->a, p);
	if (o->y & 2)
		return lremovexattr(p, name);
	r = lsetxattr(p, name, &acl, sizeof acl, 0);
	if (!r && !run.race) {
		ssize_t n = lgetxattr(p, name, back, sizeof back);

		say(w->out[side], " %zd %jx", n, (uintmax_t)hash((unsigned char *)back, n > 0 ? (size_t)n : 0));
	}
	return r;
}

static long do_stat(struct worker *w, int side, const struct op *o)
{
	struct stat st;
	int r = o->kind == K_FSTAT ? fstat(w->held[side][o->held], &st) : fstatat(run.root[side], o->a, &st, AT_SYMLINK_NOFOLLOW);

	if (!r)
		say_stat(w->out[side], &st);
	return r;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static long do_readdir(struct worker *w, int side, const struct op *o)
{
	char dir[PATH_LEN], *names[64];
	size_t n = 0;
	struct dirent *e;

	snprintf(dir, sizeof dir, "%s", o->a);
	if (o->x % 2)
		*strrchr(dir, '/') = 0;
	int fd = openat(run.root[side], dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);

	if (!d)
		return -1;
	while ((e = readdir(d)) && n < 64)
		names[n++] = xasprintf("%s(%d)", e->d_name, e->d_type);
	closedir(d);
	qsort(names, n, sizeof *names, by_name);
	for (size_t i = 0; i < n; i++) {
		say(w->out[side], " %s", names[i]);
		free(names[i]);
	}
	return 0;
}

static long do_tmpfile(struct worker *w, int side, const struct op *o)
{
	char dir[PATH_LEN], p[64];
	long r = 0;

	snprintf(dir, sizeof dir, "%s", o->a);
	*strrchr(dir, '/') = 0;
	int fd = openat(run.root[side], dir, O_TMPFILE | O_RDWR | O_CLOEXEC, (mode_t)(o->y & 0777));

	if (fd < 0)
		return -1;
	if (write(fd, "temporary", 9) != 9)
		say(w->out[side], " short");
	snprintf(p, sizeof p, "/proc/self/fd/%d", fd);
	if (o->x % 3)
		r = linkat(AT_FDCWD, p, run.root[side], o->b, AT_SYMLINK_FOLLOW);
	if (r < 0)
		say(w->out[side], " link %s", strerrorname_np(errno));
	return keep(w, side, o->held, fd);
}

static long perform(struct worker *w, int side, const struct op *o)
{
	int root = run.root[side], held = w->held[side][o->held];

	switch (o->kind) {
	case K_CREATE: return do_create(w, side, o);
	case K_OPEN: return do_open(w, side, o);
	case K_CLOSE:
		w->held[side][o->held] = -1;
		return close(held);
	case K_WRITE: return do_write(w, side, o);
	case K_READ: return do_read(w, side, o);
	case K_FTRUNCATE: return ftruncate(held, (off_t)(o->x % 100000));
	case K_FALLOCATE: return do_fallocate(w, side, o);
	case K_COPY: return do_copy(w, side, o);
	case K_FSYNC: return o->x % 2 ? fsync(held) : fdatasync(held);
	case K_FCHMOD: return fchmod(held, mode_of(o->x));
	case K_TRUNCATE: return truncate(proc_path(side, o->a, (char[PATH_LEN + 64]){ 0 }), (off_t)(o->x % 100000));
	case K_UNLINK: return unlinkat(root, o->a, 0);
	case K_MKDIR: return mkdirat(root, o->a, mode_of(o->x) | (o->y % 4 ? 0755 : 0));
	case K_RMDIR: return unlinkat(root, o->a, AT_REMOVEDIR);
	case K_RENAME: return do_rename(side, o);
	case K_LINK: return linkat(root, o->a, root, o->b, 0);
	case K_SYMLINK: return symlinkat(strrchr(o->b, '/') + 1, root, o->a);
	case K_READLINK: return do_readlink(w, side, o);
	case K_MKNOD: return do_mknod(side, o);
	case K_CHMOD: return fchmodat(root, o->a, mode_of(o->x) | (o->y % 2 ? 0700 : 0), 0);
	case K_CHOWN: return do_chown(side, o);
	case K_UTIMES: return do_utimes(w, side, o);
	case K_SETXATTR: case K_GETXATTR: case K_REMOVEXATTR: case K_LISTXATTR: return do_xattr(w, side, o);
	case K_ACL: return do_acl(w, side, o);
	case K_STAT: case K_FSTAT: return do_stat(w, side, o);
	case K_READDIR: return do_readdir(w, side, o);
	case K_TMPFILE: return do_tmpfile(w, side, o);
	case K_ACCESS: return faccessat(root, o->a, (int)(o->x % 8), 0);
	case K_COUNT: break;
	}
	return 0;
}

/* What a change of contents did to the sizes, too: a wrong one is told at once. */
static void say_size(struct worker *w, int side, int fd)
{
	struct stat st;

	if (!run.race && !fstat(fd, &st))
		say(w->out[side], " size %jd", (intmax_t)st.st_size);
}

/* As the operation's user: raw calls, since they concern one thread only. */
static long perform_as(struct worker *w, int side, const struct op *o)
{
	long r;
	int e;

	if (o->other) {
		syscall(SYS_setfsgid, OTHER_GID);
		syscall(SYS_setfsuid, OTHER_UID);
	}
	r = perform(w, side, o);
	e = errno;
	if (o->kind >= K_WRITE && o->kind <= K_COPY) {
		say_size(w, side, w->held[side][o->held]);
		say_size(w, side, w->held[side][o->held2]);
	}
	if (o->other) {
		syscall(SYS_setfsuid, 0);
		syscall(SYS_setfsgid, 0);
	}
	errno = e;
	return r;
}

/* -- judging -- */

static void describe(char *to, size_t size, const struct worker *w, const struct op *o)
{
	snprintf(to, size, "#%ju %s %s %s held %u x %jx y %jx z %jx flags %x%s", (uintmax_t)w->done, kinds[o->kind].name, o->a, o->b, o->held,
		 (uintmax_t)o->x, (uintmax_t)o->y, (uintmax_t)o->z, (unsigned)o->flags, o->other ? " (other user)" : "");
}

static void report(const struct worker *w, const struct op *o)
{
	char line[320];

	atomic_store(&failed, true);
	describe(line, sizeof line, w, o);
	flockfile(stdout);
	printf("model: seed %ju, thread %u: %s\n", (uintmax_t)run.seed, w->lane, line);
	printf("  under test:%s\n", w->out[0]);
	if (!run.race)
		printf("  model:     %s\n", w->out[1]);
	for (unsigned i = 0; i < HISTORY; i++)
		printf("  before: %s\n", w->history[(w->done + i) % HISTORY]);
	funlockfile(stdout);
}

static bool raced_errno(int e)
{
	static const int fine[] = { ENOENT, EEXIST, ENOTDIR, EISDIR, ENOTEMPTY, EINVAL, ELOOP, EPERM, EACCES, ENODATA, EMLINK, ENXIO, EBADF,
				    EOPNOTSUPP, ENAMETOOLONG, ERANGE, EBUSY, ETXTBSY };

	for (size_t i = 0; i < sizeof fine / sizeof *fine; i++)
		if (fine[i] == e)
			return true;
	/* ESTALE: the kernel hears of an operation that was done and failed a moment after its caller */
	return run.faults && (e == ESTALE || e == EIO || e == ENOSPC || e == EDQUOT || e == EMFILE || e == ENOMEM);
}

static void step(struct worker *w, const struct op *o)
{
	int sides = run.race ? 1 : 2;
	bool lock = (w->shared || w->held_shared[o->held] || w->held_shared[o->held2]) && !run.race;

	if (lock)
		pthread_mutex_lock(&shared_lock);
	for (int i = 0; i < sides; i++) {
		w->out[i][0] = 0;
		long r = perform_as(w, i, o);
		int e = r < 0 ? errno : 0;

		errno = e;
		say_result(w->out[i], r);
		if (i == 0 && (e == ENOTCONN || e == ECONNABORTED)) {
			atomic_store(&interrupted, true);
			break;
		}
		if (i == 0 && e)
			atomic_fetch_add(&refused, 1);
		if (run.race && e && !raced_errno(e))
			report(w, o);
	}
	if (lock)
		pthread_mutex_unlock(&shared_lock);
	if (!run.race && !atomic_load(&interrupted) && strcmp(w->out[0], w->out[1]))
		report(w, o);
	describe(w->history[w->done % HISTORY], sizeof w->history[0], w, o);
	size_t n = strlen(w->history[w->done % HISTORY]);

	snprintf(w->history[w->done % HISTORY] + n, sizeof w->history[0] - n, "%.40s", w->out[0]);
}

static void *work(void *arg)
{
	struct worker *w = arg;
	struct op o;

	while (!atomic_load(&failed) && !atomic_load(&interrupted) && w->done < run.limit && (run.end <= 0 || now_s() < run.end)) {
		draw(w, &o);
		step(w, &o);
		w->done++;
	}
	for (int i = 0; i < 2; i++)
		for (int k = 0; k < HELD; k++)
			if (w->held[i][k] >= 0)
				close(w->held[i][k]);
	atomic_fetch_add(&total, w->done);
	return NULL;
}

/* Where errors are injected they may hit this, too: then it is tried again. */
static void make_root(int at, const char *name)
{
	for (unsigned tries = 0; mkdirat(at, name, 0777) && errno != EEXIST; tries++)
		if (!run.faults || tries == 100)
			die("%s", name);
}

static void make_roots(void)
{
	char name[16];

	for (int i = 0; i < (run.race ? 1 : 2); i++) {
		make_root(run.root[i], "shared");
		for (unsigned t = 0; t < run.threads && !run.race; t++) {
			snprintf(name, sizeof name, "t%u", t);
			make_root(run.root[i], name);
		}
	}
}

static void run_workers(void)
{
	struct worker *w = xcalloc(run.threads, sizeof *w);

	for (unsigned t = 0; t < run.threads; t++) {
		w[t].lane = t;
		w[t].rs = rng_seed(run.seed, t);
		memset(w[t].held, -1, sizeof w[t].held);
		for (int i = 0; i < 2; i++)
			w[t].data[i] = xmalloc(DATA_MAX);
		if (pthread_create(&w[t].thread, NULL, work, &w[t]))
			die("thread");
	}
	for (unsigned t = 0; t < run.threads; t++)
		pthread_join(w[t].thread, NULL);
}

int main(int argc, char **argv)
{
	double seconds = 0;
	int c;

	while ((c = getopt(argc, argv, "s:j:n:t:re")) != -1)
		switch (c) {
		case 's': run.seed = strtoull(optarg, NULL, 0); break;
		case 'j': run.threads = (unsigned)strtoul(optarg, NULL, 0); break;
		case 'n': run.limit = strtoull(optarg, NULL, 0); break;
		case 't': seconds = strtod(optarg, NULL); break;
		case 'r': run.race = true; break;
		case 'e': run.faults = true; break;
		default: return 2;
		}
	if (argc - optind != (run.race ? 1 : 2) || !run.threads || run.threads > 64)
		return fputs("usage: model [-s SEED] [-j THREADS] [-n OPERATIONS] [-t SECONDS] (A B | [-e] -r A)\n", stderr), 2;
	umask(022);
	for (int i = 0; i < argc - optind; i++)
		if ((run.root[i] = open(argv[optind + i], O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
			die("%s", argv[optind + i]);
	if (run.limit == UINT64_MAX && seconds <= 0)
		run.limit = 5000;
	make_roots();
	run.end = seconds > 0 ? now_s() + seconds : 0;
	run_workers();
	printf("model: seed %ju: %lu operations (%lu refused) in %u threads: %s\n", (uintmax_t)run.seed, atomic_load(&total),
	       atomic_load(&refused), run.threads, atomic_load(&failed) ? "WRONG" : atomic_load(&interrupted) ? "interrupted" : "all right");
	return atomic_load(&failed) ? 1 : atomic_load(&interrupted) ? 3 : 0;
}
