/*
 * cmptree - compares two trees completely.
 *
 *   cmptree [--ino] [--ctime] [--order] [--holes[=BYTES]] [--no-times] [--backing] [--limit N] A B
 *
 * Walks both trees together, relative to directory fds, and prints one line per difference: PATH<TAB>WHAT<TAB>A's<TAB>B's.
 * Always compared: names, type, contents, size of files, mode, uid, gid, nlink, which names are links of one object, mtime with
 * nanoseconds, rdev, symlink targets, all xattrs (trusted.tandemfs* aside) and both POSIX ACLs, the portable inode flags.
 *   --ino      both are mounts of one volume: st_ino, d_ino (= st_ino), directory sizes are equal too
 *   --ctime    ctime too
 *   --order    directories list the same entries in the same order with the same d_off
 *   --holes[=BYTES]  where one has a hole of 4 KiB (aligned) the other has no data; up to BYTES of a file may differ: file systems don't agree
 *              on what preallocated, zeroed and mapped pages are
 *   --no-times mtime is not compared
 *   --backing  these are backing directories: `.tandemfs` and `lost+found` of the root, its nlink and mtime are ignored
 * Status: 0 equal, 1 different, 2 could not compare.
 *
 * Hard links: the inode numbers of A map to those of B one to one; the first pair of names decides, each later name must agree.
 */
#include <dirent.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/fs.h>
#include <stdbool.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tests/tools/tool.h"

enum { CHUNK = 256 << 10, GRAIN = 4096, XATTR_LIST = 65536, XATTR_VALUE = 65536 };

static struct {
	bool ino, ctime, order, holes, backing, no_times;
	unsigned long limit;
	off_t slack;
} opt = { .limit = 1000 };

static unsigned long differences, objects;
static char *chunk[2];

__attribute__((format(printf, 3, 4))) static void differ(const char *path, const char *what, const char *fmt, ...)
{
	va_list ap;

	if (++differences > opt.limit)
		return;
	printf("%s\t%s\t", path, what);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

/* -- which inode of one side is which of the other -- */

struct pair { ino_t from, to; bool used; };
struct pairs { struct pair *p; size_t n, cap; };
static struct pairs forth, back;

static struct pair *pairs_slot(struct pairs *t, ino_t from)
{
	size_t i = (size_t)((uint64_t)from * 0x9e3779b97f4a7c15ull >> 20) & (t->cap - 1);

	while (t->p[i].used && t->p[i].from != from)
		i = (i + 1) & (t->cap - 1);
	return &t->p[i];
}

/* The partner of FROM: TO when it has none yet. */
static ino_t pairs_meet(struct pairs *t, ino_t from, ino_t to)
{
	if (t->n * 2 >= t->cap) {
		struct pairs big = { .n = t->n, .cap = t->cap ? t->cap * 2 : 1024 };

		big.p = xcalloc(big.cap, sizeof *big.p);
		for (size_t i = 0; i < t->cap; i++)
			if (t->p[i].used)
				*pairs_slot(&big, t->p[i].from) = t->p[i];
		free(t->p);
		*t = big;
	}
	struct pair *s = pairs_slot(t, from);

	if (!s->used) {
		*s = (struct pair){ from, to, true };
		t->n++;
	}
	return s->to;
}

static void compare_links(const char *path, const struct stat *a, const struct stat *b)
{
	if (S_ISDIR(a->st_mode) || (a->st_nlink == 1 && b->st_nlink == 1))
		return;
	if (pairs_meet(&forth, a->st_ino, b->st_ino) != b->st_ino || pairs_meet(&back, b->st_ino, a->st_ino) != a->st_ino)
		differ(path, "links", "%ju\t%ju (not the same set of names)", (uintmax_t)a->st_ino, (uintmax_t)b->st_ino);
}

/* -- attributes -- */

static void compare_time(const char *path, const char *what, struct timespec a, struct timespec b)
{
	if (a.tv_sec != b.tv_sec || a.tv_nsec != b.tv_nsec)
		differ(path, what, "%jd.%09ld\t%jd.%09ld", (intmax_t)a.tv_sec, a.tv_nsec, (intmax_t)b.tv_sec, b.tv_nsec);
}

static void compare_stat(const char *path, const struct stat *a, const struct stat *b, bool root)
{
	bool dir = S_ISDIR(a->st_mode), device = S_ISCHR(a->st_mode) || S_ISBLK(a->st_mode), lax = root && opt.backing;

	if ((a->st_mode & 07777) != (b->st_mode & 07777))
		differ(path, "mode", "%04o\t%04o", a->st_mode & 07777, b->st_mode & 07777);
	if (a->st_uid != b->st_uid)
		differ(path, "uid", "%u\t%u", a->st_uid, b->st_uid);
	if (a->st_gid != b->st_gid)
		differ(path, "gid", "%u\t%u", a->st_gid, b->st_gid);
	if (!lax && a->st_nlink != b->st_nlink)
		differ(path, "nlink", "%ju\t%ju", (uintmax_t)a->st_nlink, (uintmax_t)b->st_nlink);
	if ((!dir || opt.ino) && a->st_size != b->st_size)
		differ(path, "size", "%jd\t%jd", (intmax_t)a->st_size, (intmax_t)b->st_size);
	if (device && a->st_rdev != b->st_rdev)
		differ(path, "rdev", "%u:%u\t%u:%u", major(a->st_rdev), minor(a->st_rdev), major(b->st_rdev), minor(b->st_rdev));
	if (!lax && !opt.no_times)
		compare_time(path, "mtime", a->st_mtim, b->st_mtim);
	if (opt.ctime)
		compare_time(path, "ctime", a->st_ctim, b->st_ctim);
	if (opt.ino && a->st_ino != b->st_ino)
		differ(path, "ino", "%ju\t%ju", (uintmax_t)a->st_ino, (uintmax_t)b->st_ino);
}

static void compare_symlink(const char *path, const int dir[2], const char *name)
{
	char t[2][8192];
	ssize_t n[2];

	for (int i = 0; i < 2; i++)
		if ((n[i] = readlinkat(dir[i], name, t[i], sizeof t[i] - 1)) < 0)
			die("%s: readlink of %c", path, 'A' + i);
		else
			t[i][n[i]] = 0;
	if (n[0] != n[1] || memcmp(t[0], t[1], (size_t)n[0]))
		differ(path, "target", "%s\t%s", t[0], t[1]);
}

/* -- xattrs -- */

/* Not data: our mark, and xfs's second view of the ACLs, which are compared themselves. */
static bool xattr_ours(const char *name)
{
	return !strncmp(name, "trusted.tandemfs", 16) || !strncmp(name, "trusted.SGI_ACL_", 16);
}

static bool list_has(const char *list, ssize_t n, const char *name)
{
	for (const char *p = list; p < list + n; p += strlen(p) + 1)
		if (!strcmp(p, name))
			return true;
	return false;
}

static void compare_xattr(const char *path, char *const proc[2], const char *name)
{
	static char v[2][XATTR_VALUE];
	ssize_t n[2];

	for (int i = 0; i < 2; i++) {
		n[i] = lgetxattr(proc[i], name, v[i], XATTR_VALUE);
		if (n[i] < 0 && errno != ENODATA && errno != EOPNOTSUPP)
			die("%s: getxattr %s of %c", path, name, 'A' + i);
	}
	if (n[0] < 0 && n[1] < 0)
		return;
	if (n[0] < 0 || n[1] < 0)
		differ(path, "xattr", "%s\t%s", n[0] < 0 ? "-" : name, n[1] < 0 ? "-" : name);
	else if (n[0] != n[1] || memcmp(v[0], v[1], (size_t)n[0]))
		differ(path, "xattr", "%s=%.*s (%zd bytes)\t%.*s (%zd bytes)", name, (int)n[0], v[0], n[0], (int)n[1], v[1], n[1]);
}

static void compare_xattrs(const char *path, const int dir[2], const char *name, bool symlink)
{
	static char list[2][XATTR_LIST];
	static const char *const acl[] = { "system.posix_acl_access", "system.posix_acl_default" };
	char *proc[2];
	ssize_t n[2];

	for (int i = 0; i < 2; i++) {
		proc[i] = xasprintf("/proc/self/fd/%d/%s", dir[i], name);
		n[i] = llistxattr(proc[i], list[i], XATTR_LIST);
		if (n[i] < 0 && errno == EOPNOTSUPP)
			n[i] = 0;
		if (n[i] < 0)
			die("%s: listxattr of %c", path, 'A' + i);
	}
	for (int i = 0; i < 2; i++)
		for (const char *p = list[i]; p < list[i] + n[i]; p += strlen(p) + 1) {
			if (xattr_ours(p))
				continue;
			if (!list_has(list[!i], n[!i], p))
				differ(path, "xattr", "%s\t%s", i ? "-" : p, i ? p : "-");
			else if (!i)
				compare_xattr(path, proc, p);
		}
	for (int i = 0; i < 2 && !symlink; i++)
		if (!list_has(list[0], n[0], acl[i]) && !list_has(list[1], n[1], acl[i]))
			compare_xattr(path, proc, acl[i]);
	free(proc[0]);
	free(proc[1]);
}

/* -- files -- */

static void compare_flags(const char *path, const int fd[2])
{
	const int portable = FS_APPEND_FL | FS_IMMUTABLE_FL | FS_NODUMP_FL | FS_NOATIME_FL | FS_SYNC_FL;
	int f[2] = { 0, 0 };

	for (int i = 0; i < 2; i++)
		if (ioctl(fd[i], FS_IOC_GETFLAGS, &f[i]) < 0) {
			if (errno != ENOTTY && errno != EOPNOTSUPP && errno != ENOSYS)
				die("%s: flags of %c", path, 'A' + i);
			return;
		}
	if ((f[0] & portable) != (f[1] & portable))
		differ(path, "flags", "%x\t%x", (unsigned)(f[0] & portable), (unsigned)(f[1] & portable));
}

static size_t read_full(const char *path, int fd, int side, off_t off)
{
	size_t got = 0;

	while (got < CHUNK) {
		ssize_t n = pread(fd, chunk[side] + got, CHUNK - got, off + (off_t)got);

		if (n < 0)
			die("%s: read of %c", path, 'A' + side);
		if (!n)
			break;
		got += (size_t)n;
	}
	return got;
}

static void compare_contents(const char *path, const int fd[2])
{
	for (off_t off = 0;; off += CHUNK) {
		size_t n[2] = { read_full(path, fd[0], 0, off), read_full(path, fd[1], 1, off) };
		size_t least = n[0] < n[1] ? n[0] : n[1], i = 0;

		while (i < least && chunk[0][i] == chunk[1][i])
			i++;
		if (i < least) {
			differ(path, "contents", "at %jd: %02x\t%02x", (intmax_t)off + (intmax_t)i, (unsigned char)chunk[0][i],
			       (unsigned char)chunk[1][i]);
			return;
		}
		if (n[0] != n[1]) {
			differ(path, "contents", "ends at %jd\t%jd", (intmax_t)off + (intmax_t)n[0], (intmax_t)off + (intmax_t)n[1]);
			return;
		}
		if (n[0] < CHUNK)
			return;
	}
}

/* Is there data at AT, a multiple of the grain, and how far does that state reach? Data are rounded outwards to the grain. */
static bool data_at(int fd, off_t at, off_t size, off_t *end)
{
	off_t data = lseek(fd, at, SEEK_DATA);

	if (data < 0 || data >= size) {
		*end = size;
		return false;
	}
	if (data / GRAIN * GRAIN > at) {
		*end = data / GRAIN * GRAIN;
		return false;
	}
	off_t hole = lseek(fd, data, SEEK_HOLE);

	*end = hole < 0 || hole >= size ? size : (hole + GRAIN - 1) / GRAIN * GRAIN;
	if (*end <= at)
		*end = at + GRAIN;
	return true;
}

static void compare_holes(const char *path, const int fd[2], off_t size)
{
	off_t first = -1, unlike = 0;

	for (off_t at = 0; at < size;) {
		off_t end[2], next;
		bool a = data_at(fd[0], at, size, &end[0]), b = data_at(fd[1], at, size, &end[1]);

		next = end[0] < end[1] ? end[0] : end[1];
		if (a != b) {
			if (first < 0)
				first = at;
			unlike += next - at;
		}
		at = next;
	}
	if (unlike > opt.slack)
		differ(path, "holes", "%jd bytes, the first at %jd", (intmax_t)unlike, (intmax_t)first);
}

static void compare_opened(const char *path, const int dir[2], const char *name, const struct stat st[2])
{
	int fd[2];

	for (int i = 0; i < 2; i++) {
		fd[i] = openat(dir[i], name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NOATIME | O_NONBLOCK);
		if (fd[i] < 0)
			die("%s: open of %c", path, 'A' + i);
	}
	compare_flags(path, fd);
	if (S_ISREG(st[0].st_mode)) {
		compare_contents(path, fd);
		if (opt.holes && st[0].st_size == st[1].st_size)
			compare_holes(path, fd, st[0].st_size);
	}
	close(fd[0]);
	close(fd[1]);
}

/* -- directories -- */

struct entry { char *name; ino_t ino; off_t off; unsigned char type; };
struct listing { struct entry *e; size_t n, cap; };

static bool skipped(const char *name, bool root)
{
	return root && opt.backing && (!strcmp(name, ".tandemfs") || !strcmp(name, "lost+found"));
}

static void list_dir(const char *path, int fd, bool root, struct listing *l)
{
	int copy = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = copy < 0 ? NULL : fdopendir(copy);
	struct dirent *e;

	if (!d)
		die("%s: opendir", path);
	for (errno = 0; (e = readdir(d)); errno = 0) {
		if (skipped(e->d_name, root))
			continue;
		if (l->n == l->cap) {
			l->cap = l->cap ? l->cap * 2 : 64;
			l->e = xrealloc(l->e, l->cap * sizeof *l->e);
		}
		l->e[l->n++] = (struct entry){ xstrdup(e->d_name), e->d_ino, e->d_off, e->d_type };
	}
	if (errno)
		die("%s: readdir", path);
	closedir(d);
}

static void free_listing(struct listing *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->e[i].name);
	free(l->e);
}

static void compare_order(const char *path, const struct listing l[2])
{
	size_t n = l[0].n < l[1].n ? l[0].n : l[1].n;

	if (l[0].n != l[1].n)
		differ(path, "order", "%zu entries\t%zu", l[0].n, l[1].n);
	for (size_t i = 0; i < n; i++) {
		const struct entry *a = &l[0].e[i], *b = &l[1].e[i];

		if (strcmp(a->name, b->name) || (i + 1 < n && a->off != b->off)) {
			differ(path, "order", "entry %zu: %s at %jd\t%s at %jd", i, a->name, (intmax_t)a->off, b->name, (intmax_t)b->off);
			return;
		}
		if (opt.ino && strcmp(a->name, "..") && a->ino != b->ino)
			differ(path, "d_ino", "%s: %ju\t%ju", a->name, (uintmax_t)a->ino, (uintmax_t)b->ino);
	}
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

static void compare_tree(const char *path, const int fd[2], bool root);

static void compare_object(const char *path, const int dir[2], const struct entry *const e[2], bool root)
{
	const char *name = e[0]->name;
	struct stat st[2];

	for (int i = 0; i < 2; i++)
		if (fstatat(dir[i], name, &st[i], AT_SYMLINK_NOFOLLOW))
			die("%s: stat of %c", path, 'A' + i);
	objects++;
	if ((st[0].st_mode & S_IFMT) != (st[1].st_mode & S_IFMT)) {
		differ(path, "type", "%o\t%o", st[0].st_mode & S_IFMT, st[1].st_mode & S_IFMT);
		return;
	}
	for (int i = 0; i < 2; i++)
		if (opt.ino && !root && e[i]->ino != st[i].st_ino)
			differ(path, "d_ino", "%c: %ju, st_ino %ju", 'A' + i, (uintmax_t)e[i]->ino, (uintmax_t)st[i].st_ino);
	for (int i = 0; i < 2; i++)
		if (!root && e[i]->type != DT_UNKNOWN && (mode_t)DTTOIF(e[i]->type) != (st[i].st_mode & S_IFMT))
			differ(path, "d_type", "%c: %u, mode %o", 'A' + i, e[i]->type, st[i].st_mode);
	compare_stat(path, &st[0], &st[1], root);
	compare_links(path, &st[0], &st[1]);
	compare_xattrs(path, dir, name, S_ISLNK(st[0].st_mode));
	if (S_ISLNK(st[0].st_mode))
		compare_symlink(path, dir, name);
	if (S_ISREG(st[0].st_mode) || S_ISDIR(st[0].st_mode))
		compare_opened(path, dir, name, st);
	if (!S_ISDIR(st[0].st_mode) || root)
		return;
	int fd[2];

	for (int i = 0; i < 2; i++)
		if ((fd[i] = openat(dir[i], name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) < 0)
			die("%s: open directory of %c", path, 'A' + i);
	compare_tree(path, fd, false);
	close(fd[0]);
	close(fd[1]);
}

static bool dots(const char *n)
{
	return !strcmp(n, ".") || !strcmp(n, "..");
}

/* Doubled names in one listing are a difference of their own. */
static void check_doubles(const char *path, const struct listing *l, int side)
{
	for (size_t i = 1; i < l->n; i++)
		if (!strcmp(l->e[i - 1].name, l->e[i].name))
			differ(path, "doubled", "%c: %s", 'A' + side, l->e[i].name);
}

static void compare_tree(const char *path, const int fd[2], bool root)
{
	struct listing l[2] = { { 0 }, { 0 } };

	for (int i = 0; i < 2; i++)
		list_dir(path, fd[i], root, &l[i]);
	if (opt.order)
		compare_order(path, l);
	for (int i = 0; i < 2; i++) {
		qsort(l[i].e, l[i].n, sizeof *l[i].e, by_name);
		check_doubles(path, &l[i], i);
	}
	for (size_t a = 0, b = 0; a < l[0].n || b < l[1].n;) {
		int c = a == l[0].n ? 1 : b == l[1].n ? -1 : strcmp(l[0].e[a].name, l[1].e[b].name);
		const struct entry *e[2] = { &l[0].e[a], &l[1].e[b] };
		char *sub = xasprintf("%s/%s", path, c <= 0 ? e[0]->name : e[1]->name);

		if (c < 0)
			differ(sub, "name", "there\t-");
		else if (c > 0)
			differ(sub, "name", "-\tthere");
		else if (!dots(e[0]->name))
			compare_object(sub, fd, e, false);
		a += c <= 0;
		b += c >= 0;
		free(sub);
	}
	free_listing(&l[0]);
	free_listing(&l[1]);
}

static const struct option options[] = {
	{ "ino", no_argument, NULL, 'i' }, { "ctime", no_argument, NULL, 'c' }, { "order", no_argument, NULL, 'o' },
	{ "holes", optional_argument, NULL, 'h' }, { "backing", no_argument, NULL, 'b' }, { "limit", required_argument, NULL, 'l' },
	{ "no-times", no_argument, NULL, 't' }, { NULL, 0, NULL, 0 },
};

static void usage(void)
{
	fputs("usage: cmptree [--ino] [--ctime] [--order] [--holes[=BYTES]] [--no-times] [--backing] [--limit N] A B\n", stderr);
	exit(2);
}

int main(int argc, char **argv)
{
	int c, fd[2];

	while ((c = getopt_long(argc, argv, "", options, NULL)) != -1)
		switch (c) {
		case 'i': opt.ino = true; break;
		case 'c': opt.ctime = true; break;
		case 'o': opt.order = true; break;
		case 'h':
			opt.holes = true;
			opt.slack = optarg ? strtol(optarg, NULL, 10) : 0;
			break;
		case 'b': opt.backing = true; break;
		case 't': opt.no_times = true; break;
		case 'l': opt.limit = strtoul(optarg, NULL, 10); break;
		default: usage();
		}
	if (argc - optind != 2)
		usage();
	for (int i = 0; i < 2; i++) {
		if ((fd[i] = open(argv[optind + i], O_RDONLY | O_DIRECTORY | O_CLOEXEC)) < 0)
			die("%s", argv[optind + i]);
		chunk[i] = xmalloc(CHUNK);
	}
	const struct entry here = { .name = (char[]){ "." } }, *both[2] = { &here, &here };

	compare_object(".", fd, both, true);
	compare_tree(".", fd, true);
	if (differences > opt.limit)
		printf("(%lu more)\n", differences - opt.limit);
	fprintf(stderr, "cmptree: %lu objects, %lu differences\n", objects, differences);
	return differences ? 1 : 0;
}
