/*
 * posix - each call's effects and errnos, seen natively first, then through the mount.
 *
 *   posix [-k SUBSTRING] [-q] NATIVE MOUNT
 *
 * A case is a function that makes calls in an empty directory and notes what it sees, one line per call: result or errno, then
 * mode, owner, links and size of what was touched, and which times moved. Most lines also say what POSIX or Linux wants.
 * Each case runs in a child under NATIVE, then in another under MOUNT; every line is a check: ok when the native line is as
 * wanted and the mount's is the same. A case marked BOTH runs as root and as an unprivileged user with a supplementary group; cases
 * about permissions run as root and change their effective user as they go. Prints TAP lines (-q: only the bad ones and a count).
 */
#include <dirent.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tests/tools/tool.h"

enum { USER = 6501, GROUP = 6502, OTHER = 6601 };

static FILE *out;
static bool native;

/* -- noting -- */

static void line_end(bool wanted, const char *want)
{
	if (!wanted)
		fprintf(out, "%s(wanted %s)", native ? "  UNWANTED " : "  ", want);
	fputc('\n', out);
}

/* WANT: 0 = success, an errno, -1 = whatever it is natively. */
static void note(const char *what, long r, int e, int want)
{
	fprintf(out, "%s: %s", what, r < 0 ? strerrorname_np(e) : "ok");
	line_end(native ? want == -1 || (r < 0 ? e : 0) == want : true, want > 0 ? strerrorname_np(want) : "ok");
}

static void note_value(const char *what, long long v)
{
	fprintf(out, "%s = %lld\n", what, v);
}

static void note_text(const char *what, const char *v)
{
	fprintf(out, "%s = %s\n", what, v);
}

#define OK(expr) do { errno = 0; long r_ = (long)(expr); note(#expr, r_, errno, 0); } while (0)
#define E(err, expr) do { errno = 0; long r_ = (long)(expr); note(#expr, r_, errno, err); } while (0)
#define ANY(expr) do { errno = 0; long r_ = (long)(expr); note(#expr, r_, errno, -1); } while (0)
#define V(expr) note_value(#expr, (long long)(expr))
#define S(path) note_stat(path)

static void note_stat(const char *path)
{
	struct stat st;

	if (lstat(path, &st)) {
		fprintf(out, "stat %s: %s\n", path, strerrorname_np(errno));
		return;
	}
	fprintf(out, "stat %s: mode %06o uid %u gid %u nlink %ju", path, st.st_mode, st.st_uid, st.st_gid, (uintmax_t)st.st_nlink);
	if (!S_ISDIR(st.st_mode))
		fprintf(out, " size %jd", (intmax_t)st.st_size);
	if (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode))
		fprintf(out, " rdev %u:%u", major(st.st_rdev), minor(st.st_rdev));
	fputc('\n', out);
}

/* -- times -- */

static bool later(struct timespec a, struct timespec b)
{
	return a.tv_sec != b.tv_sec ? a.tv_sec > b.tv_sec : a.tv_nsec > b.tv_nsec;
}

/* Until the clock that file systems stamp with has passed T. */
static void pass(struct timespec t)
{
	struct timespec now;

	do {
		clock_gettime(CLOCK_REALTIME_COARSE, &now);
		if (now.tv_sec + 2 < t.tv_sec)
			return;		/* set into the future by the case */
	} while (!later(now, t));
}

static struct stat watched[3];

static void before(const char *const *paths)
{
	for (int i = 0; i < 3 && paths[i]; i++) {
		if (lstat(paths[i], &watched[i]))
			memset(&watched[i], 0, sizeof watched[i]);
		pass(watched[i].st_ctim);
	}
}

static void after(const char *what, const char *const *paths, const char *const *want)
{
	for (int i = 0; i < 3 && paths[i]; i++) {
		struct stat st;
		char moved[4] = "", *p = moved;

		if (lstat(paths[i], &st)) {
			fprintf(out, "%s: times of %s: %s\n", what, paths[i], strerrorname_np(errno));
			continue;
		}
		if (later(st.st_mtim, watched[i].st_mtim) || later(watched[i].st_mtim, st.st_mtim))
			*p++ = 'm';
		if (later(st.st_ctim, watched[i].st_ctim) || later(watched[i].st_ctim, st.st_ctim))
			*p++ = 'c';
		fprintf(out, "%s: times of %s that moved: %s", what, paths[i], *moved ? moved : "none");
		line_end(!native || !want[i] || !strcmp(moved, want[i]), want[i] ? want[i] : "");
	}
}
#define PATHS(...) ((const char *const[4]){ __VA_ARGS__, NULL })
/* Which of mtime (m) and ctime (c) of each path move: MOVES("c", "f", "", ".", chmod("f", 0)) wants ctime of f and nothing of "." */
#define MOVES(w1, p1, w2, p2, expr) do { \
	before(PATHS(p1, p2)); \
	OK(expr); \
	after(#expr, PATHS(p1, p2), PATHS(w1, w2)); \
} while (0)

/* -- making -- */

static void mk(const char *path, mode_t mode)
{
	int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, "0123456789", 10) != 10 || fchmod(fd, mode) || close(fd))
		fprintf(out, "making %s: %s\n", path, strerrorname_np(errno));
}

static void mkd(const char *path, mode_t mode)
{
	if (mkdir(path, 0700) || chmod(path, mode))
		fprintf(out, "making %s: %s\n", path, strerrorname_np(errno));
}

static void become(uid_t u, gid_t g, gid_t group)
{
	if (seteuid(0) || setgroups(group ? 1 : 0, &group) || setegid(g) || seteuid(u))
		die("become %u", u);
}
#define ROOT() become(0, 0, 0)
#define AS(u, g, group) become(u, g, group)

static int opens(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC | O_NONBLOCK, 0644);

	if (fd >= 0)
		close(fd);
	return fd < 0 ? -1 : 0;
}

static int puts_at(const char *path, int flags, const char *s)
{
	int fd = open(path, flags | O_CLOEXEC), e;
	ssize_t n;

	if (fd < 0)
		return -1;
	n = write(fd, s, strlen(s));
	e = errno;
	close(fd);
	errno = e;
	return n < 0 ? -1 : (int)n;
}

static const char *longest(char c, size_t n)
{
	static char b[2][5000];
	static int i;

	i ^= 1;
	memset(b[i], c, n);
	b[i][n] = 0;
	return b[i];
}

static int ren(const char *a, const char *b, unsigned flags)
{
	return (int)syscall(SYS_renameat2, AT_FDCWD, a, AT_FDCWD, b, flags);
}

/* -- cases: opening and creating -- */

static void c_open_create(void)
{
	umask(022);
	MOVES("mc", ".", NULL, NULL, opens("f", O_CREAT | O_EXCL | O_RDWR));
	S("f");
	E(EEXIST, opens("f", O_CREAT | O_EXCL | O_RDWR));
	MOVES("", "f", "", ".", opens("f", O_CREAT | O_RDWR));
	MOVES("mc", "f", "", ".", opens("f", O_TRUNC | O_RDWR));
	OK(puts_at("f", O_WRONLY, "hello"));
	MOVES("mc", "f", "", ".", opens("f", O_TRUNC | O_RDWR));
	S("f");
	E(ENOENT, opens("none", O_RDONLY));
	E(ENOENT, opens("none/f", O_CREAT | O_RDWR));
	E(ENOTDIR, opens("f/x", O_CREAT | O_RDWR));
	E(ENOTDIR, opens("f/x", O_RDONLY));
	E(ENOTDIR, opens("f", O_RDONLY | O_DIRECTORY));
	E(EISDIR, opens(".", O_WRONLY));
	E(EISDIR, opens(".", O_RDWR));
	OK(mkdir("d", 0755));
	E(EISDIR, opens("d", O_RDWR | O_CREAT));
	E(EEXIST, opens("d", O_RDWR | O_CREAT | O_EXCL));
	E(ENOENT, opens("", O_RDONLY));
	E(EFAULT, open((char *)8, O_RDONLY));
	umask(0777);
	OK(opens("g", O_CREAT | O_RDWR));
	S("g");
	umask(0);
	V(open("f", O_RDONLY | O_CLOEXEC) >= 0);
}

static void c_open_links(void)
{
	OK(symlink("target", "s"));
	E(ENOENT, opens("s", O_RDONLY));
	E(EEXIST, opens("s", O_CREAT | O_EXCL | O_RDWR));
	E(ELOOP, opens("s", O_RDONLY | O_NOFOLLOW));
	OK(opens("s", O_CREAT | O_RDWR));
	S("target");
	S("s");
	OK(opens("s", O_RDONLY));
	E(ELOOP, opens("s", O_CREAT | O_RDWR | O_NOFOLLOW));
	OK(symlink("loop", "loop"));
	E(ELOOP, opens("loop", O_RDONLY));
	OK(symlink("b", "a"));
	OK(symlink("a", "b"));
	E(ELOOP, opens("a/x", O_RDONLY));
	OK(mkdir("d", 0755));
	OK(symlink("d", "sd"));
	E(ENOTDIR, opens("sd", O_RDONLY | O_NOFOLLOW | O_DIRECTORY));
	OK(opens("sd/x", O_CREAT | O_RDWR));
	S("d/x");
	OK(symlink("d/x/", "slash"));
	E(ENOTDIR, opens("slash", O_RDONLY));
}

static void c_names(void)
{
	char sub[600];

	OK(opens(longest('n', 255), O_CREAT | O_RDWR));
	E(ENAMETOOLONG, opens(longest('n', 256), O_CREAT | O_RDWR));
	E(ENAMETOOLONG, mkdir(longest('n', 256), 0755));
	E(ENAMETOOLONG, symlink("x", longest('n', 256)));
	E(ENAMETOOLONG, mkfifo(longest('n', 256), 0644));
	E(ENAMETOOLONG, unlink(longest('n', 256)));
	E(ENAMETOOLONG, rmdir(longest('n', 256)));
	E(ENAMETOOLONG, rename(longest('n', 255), longest('m', 256)));
	E(ENAMETOOLONG, link(longest('n', 255), longest('m', 256)));
	OK(rename(longest('n', 255), longest('m', 255)));
	snprintf(sub, sizeof sub, "%s/%s", longest('n', 256), "x");
	E(ENAMETOOLONG, opens(sub, O_RDONLY));
	E(ENAMETOOLONG, opens(longest('/', 4200), O_RDONLY));
	OK(opens("with space", O_CREAT | O_RDWR));
	OK(opens("new\nline", O_CREAT | O_RDWR));
	OK(opens("\xff\xfe not utf-8", O_CREAT | O_RDWR));
	OK(opens("\xc3\xa4\xe2\x82\xac", O_CREAT | O_RDWR));
	OK(opens("...", O_CREAT | O_RDWR));
	OK(opens("Case", O_CREAT | O_EXCL | O_RDWR));
	OK(opens("case", O_CREAT | O_EXCL | O_RDWR));
	S("with space");
	S("...");
	OK(unlink("new\nline"));
	OK(unlink("\xff\xfe not utf-8"));
	V(pathconf(".", _PC_NAME_MAX));
}

static void c_mkdir(void)
{
	umask(027);
	MOVES("mc", ".", NULL, NULL, mkdir("d", 0777));
	S("d");
	S(".");
	umask(0);
	E(EEXIST, mkdir("d", 0755));
	mk("f", 0644);
	E(EEXIST, mkdir("f", 0755));
	E(ENOTDIR, mkdir("f/d", 0755));
	E(ENOENT, mkdir("none/d", 0755));
	E(EEXIST, mkdir(".", 0755));
	E(EEXIST, mkdir("d/..", 0755));
	OK(symlink("none", "s"));
	E(EEXIST, mkdir("s", 0755));
	E(ENOENT, mkdir("s/x", 0755));
	MOVES("mc", "d", "", ".", mkdir("d/e", 07777));
	S("d/e");
	S("d");
	OK(mkdir("d/t/", 01700));
	S("d/t");
	S("d");
	E(ENOENT, mkdir("", 0755));
}

static void c_rmdir(void)
{
	OK(mkdir("d", 0755));
	OK(mkdir("d/e", 0755));
	S("d");
	E(ENOTEMPTY, rmdir("d"));
	MOVES("mc", "d", "", ".", rmdir("d/e"));
	S("d");
	MOVES("mc", ".", NULL, NULL, rmdir("d"));
	S(".");
	E(ENOENT, rmdir("d"));
	mk("f", 0644);
	E(ENOTDIR, rmdir("f"));
	E(ENOTDIR, rmdir("f/x"));
	OK(mkdir("g", 0755));
	E(EINVAL, rmdir("g/."));
	OK(mkdir("g/h", 0755));
	E(ENOTEMPTY, rmdir("g/h/.."));
	OK(symlink("g", "s"));
	E(ENOTDIR, rmdir("s"));
	E(ENOTDIR, rmdir("s/"));
	int fd = open("g/h", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	OK(rmdir("g/h"));
	E(ENOENT, mkdirat(fd, "x", 0755));
	E(ENOENT, openat(fd, "x", O_CREAT | O_RDWR, 0644));
	close(fd);
	S("g");
}

static void c_unlink(void)
{
	struct stat st;

	mk("f", 0644);
	OK(link("f", "g"));
	MOVES("c", "g", "mc", ".", unlink("f"));
	S("g");
	E(ENOENT, unlink("f"));
	E(ENOENT, unlink("none/f"));
	E(ENOTDIR, unlink("g/f"));
	OK(mkdir("d", 0755));
	E(EISDIR, unlink("d"));
	OK(symlink("g", "s"));
	OK(unlink("s"));
	OK(mkfifo("p", 0644));
	OK(unlink("p"));
	int fd = open("g", O_RDWR | O_CLOEXEC);

	OK(unlink("g"));
	V(fstat(fd, &st));
	V(st.st_nlink);
	V(st.st_size);
	V(pwrite(fd, "abc", 3, 20));
	V(fstat(fd, &st));
	V(st.st_size);
	OK(fchmod(fd, 0600));
	OK(ftruncate(fd, 5));
	V(fstat(fd, &st));
	V(st.st_size);
	V(st.st_mode);
	E(ENOENT, linkat(fd, "", AT_FDCWD, "back", AT_EMPTY_PATH));
	OK(fsync(fd));
	OK(fsetxattr(fd, "user.late", "x", 1, 0));
	close(fd);
	E(ENOENT, unlink("s/"));
}

static void c_link(void)
{
	mk("f", 0640);
	MOVES("c", "f", "mc", ".", link("f", "g"));
	S("f");
	S("g");
	E(EEXIST, link("f", "g"));
	E(ENOENT, link("none", "h"));
	E(ENOENT, link("f", "none/h"));
	E(ENOTDIR, link("f", "g/h"));
	OK(mkdir("d", 0755));
	E(EPERM, link("d", "e"));
	E(EEXIST, link("f", "d"));
	OK(link("f", "d/h"));
	S("d/h");
	OK(symlink("f", "s"));
	OK(link("s", "s2"));
	S("s2");
	S("s");
	OK(linkat(AT_FDCWD, "s", AT_FDCWD, "through", AT_SYMLINK_FOLLOW));
	S("through");
	OK(mkfifo("p", 0644));
	OK(link("p", "p2"));
	S("p");
	OK(puts_at("g", O_WRONLY, "via g"));
	S("d/h");
	OK(chmod("d/h", 0600));
	S("f");
	OK(unlink("f"));
	S("g");
}

static void c_symlink(void)
{
	char b[5000];

	MOVES("mc", ".", NULL, NULL, symlink("target", "s"));
	S("s");
	V(readlink("s", b, sizeof b));
	V(readlink("s", b, 3));
	E(EEXIST, symlink("x", "s"));
	E(ENOENT, symlink("x", "none/s"));
	E(ENOENT, symlink("", "e"));
	OK(symlink(longest('t', 1000), "long"));	/* xfs takes 1,023 bytes, so a volume with xfs does */
	V(readlink("long", b, sizeof b));
	S("long");
	E(ENAMETOOLONG, symlink(longest('t', 4096), "toolong"));
	mk("f", 0644);
	E(EINVAL, readlink("f", b, sizeof b));
	E(EINVAL, readlink("s", b, 0));
	E(ENOENT, readlink("none", b, sizeof b));
	E(ENOTDIR, readlink("f/s", b, sizeof b));
	OK(symlink("weird\ntarget\xff", "w"));
	V(readlink("w", b, sizeof b));
	OK(symlink("/", "abs"));
	S("abs");
}

static void c_mknod_all(void)
{
	umask(022);
	MOVES("mc", ".", NULL, NULL, mkfifo("p", 0666));
	S("p");
	OK(mknod("sock", S_IFSOCK | 0777, 0));
	S("sock");
	OK(mknod("f", S_IFREG | 0664, 0));
	S("f");
	E(EEXIST, mkfifo("p", 0644));
	E(ENOENT, mkfifo("none/p", 0644));
	E(ENOTDIR, mkfifo("f/p", 0644));
	E(EPERM, mknod("d", S_IFDIR | 0755, 0));
	int rd = open("p", O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	OK(opens("p", O_WRONLY));
	OK(puts_at("p", O_WRONLY, "through the pipe"));
	char b[32];

	V(read(rd, b, sizeof b));
	close(rd);
	E(ENXIO, opens("p", O_WRONLY));
	E(ENXIO, opens("sock", O_RDWR));
}

static void c_mknod_root(void)
{
	OK(mknod("c", S_IFCHR | 0640, makedev(1, 3)));
	S("c");
	OK(mknod("b", S_IFBLK | 0600, makedev(259, 1000)));
	S("b");
	OK(mknod("w", S_IFCHR, 0));
	S("w");
	OK(chmod("c", 0600));
	OK(chown("b", 3, 4));
	S("c");
	S("b");
	OK(rename("c", "c2"));
	OK(link("c2", "c3"));
	S("c3");
	AS(USER, USER, 0);
	E(EACCES, mknod("x", S_IFCHR | 0640, makedev(1, 3)));
	ROOT();
	OK(chmod(".", 0777));
	AS(USER, USER, 0);
	E(EPERM, mknod("x", S_IFCHR | 0640, makedev(1, 3)));
	ROOT();
}

static void c_bind(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX, .sun_path = "s" };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), other = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

	umask(022);
	OK(bind(fd, (struct sockaddr *)&a, sizeof a));
	S("s");
	OK(listen(fd, 1));
	OK(connect(other, (struct sockaddr *)&a, sizeof a));
	E(EADDRINUSE, bind(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), (struct sockaddr *)&a, sizeof a));
	OK(unlink("s"));
	E(ENOENT, connect(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), (struct sockaddr *)&a, sizeof a));
}

/* -- renaming -- */

static void c_rename_files(void)
{
	mk("a", 0644);
	MOVES("mc", ".", NULL, NULL, rename("a", "b"));
	S("b");
	E(ENOENT, rename("a", "c"));
	E(ENOENT, rename("b", "none/c"));
	E(ENOENT, rename("none/b", "c"));
	mk("c", 0600);
	OK(link("c", "c2"));
	MOVES("c", "c2", "mc", ".", rename("b", "c"));
	S("c");
	S("c2");
	OK(mkdir("d", 0755));
	E(EISDIR, rename("c", "d"));
	E(ENOTDIR, rename("d", "c"));
	E(ENOTDIR, rename("c/x", "y"));
	E(ENOTDIR, rename("c2", "c/x"));
	OK(rename("c", "d/c"));
	S("d/c");
	S("d");
	OK(link("c2", "c3"));
	OK(rename("c2", "c3"));
	S("c2");
	S("c3");
	OK(symlink("d", "s"));
	OK(rename("s", "t"));
	S("t");
	E(ENOTDIR, rename("c2", "t/"));
	OK(rename("t", "c2"));
	S("c2");
	E(EBUSY, rename(".", "x"));
	E(EBUSY, rename("d/.", "x"));
	E(EBUSY, rename("d", ".."));
	OK(rename("c3", "c3"));
}

static void c_rename_dirs(void)
{
	mkd("a", 0755);
	mkd("a/b", 0755);
	mkd("a/b/c", 0755);
	mk("a/b/f", 0644);
	E(EINVAL, rename("a", "a/b/x"));
	E(EINVAL, rename("a", "a/x"));
	E(ENOTEMPTY, rename("a/b/c", "a"));
	mkd("e", 0700);
	S("e");
	MOVES("mc", "a", "mc", ".", rename("a/b", "e"));
	S("a");
	S("e");
	S("e/c");
	S(".");
	mkd("full", 0755);
	mk("full/x", 0644);
	ANY(rename("e", "full"));	/* ENOTEMPTY, EEXIST on xfs */
	OK(rename("e/c", "a/c"));
	S("e");
	S("a");
	OK(rename("a/c", "./a/c"));
	mkd("g", 0755);
	int fd = open("g", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	OK(rename("e", "g/e"));
	OK(faccessat(fd, "e/f", R_OK, 0));
	OK(rename("g", "h"));
	OK(faccessat(fd, "e/f", R_OK, 0));
	OK(faccessat(fd, "../h/e/f", R_OK, 0));
	close(fd);
	S("h");
	S(".");
}

static void c_rename_flags(void)
{
	mk("a", 0644);
	mk("b", 0600);
	mkd("d", 0755);
	mkd("d/e", 0755);
	E(EEXIST, ren("a", "b", RENAME_NOREPLACE));
	OK(ren("a", "c", RENAME_NOREPLACE));
	E(ENOENT, ren("a", "x", RENAME_NOREPLACE));
	E(ENOENT, ren("b", "none", RENAME_EXCHANGE));
	MOVES("mc", ".", NULL, NULL, ren("b", "c", RENAME_EXCHANGE));
	S("b");
	S("c");
	MOVES("mc", ".", "mc", "d", ren("c", "d/e", RENAME_EXCHANGE));
	S("c");
	S("d/e");
	S("d");
	S(".");
	E(EINVAL, ren("d", "d/e", RENAME_EXCHANGE));
	E(EINVAL, ren("b", "c", RENAME_EXCHANGE | RENAME_NOREPLACE));
	E(EINVAL, ren("b", "c", 1 << 10));
	OK(ren("b", "b", RENAME_EXCHANGE));
	OK(ren("c", "d", RENAME_EXCHANGE));
	S("c");
	S("d");
}

/* -- attributes -- */

static void c_chmod(void)
{
	mk("f", 0644);
	mkd("d", 0755);
	MOVES("c", "f", "", ".", chmod("f", 0600));
	S("f");
	OK(chmod("f", 07777));
	S("f");
	OK(chmod("d", 03777));
	S("d");
	OK(chmod("f", 0));
	S("f");
	OK(chmod("f", 0644));
	OK(symlink("f", "s"));
	OK(chmod("s", 0640));
	S("f");
	S("s");
	E(ENOENT, chmod("none", 0644));
	E(ENOTDIR, chmod("f/x", 0644));
	E(ENOENT, chmod("", 0644));
	int fd = open("f", O_RDONLY | O_CLOEXEC);

	MOVES("c", "f", NULL, NULL, fchmod(fd, 0711));
	S("f");
	close(fd);
	E(EBADF, fchmod(fd, 0711));
	OK(mkfifo("p", 0644));
	OK(chmod("p", 0600));
	S("p");
	OK(fchmodat(AT_FDCWD, "d", 0500, 0));
	S("d");
	OK(chmod("d", 0700));
}

static void c_chmod_owner(void)
{
	mk("f", 0644);
	OK(chown("f", USER, GROUP));
	AS(OTHER, OTHER, 0);
	E(EPERM, chmod("f", 0600));
	AS(USER, USER, 0);
	OK(chmod("f", 02755));		/* not in the file's group: setgid is dropped */
	S("f");
	AS(USER, USER, GROUP);
	OK(chmod("f", 02755));
	S("f");
	OK(chmod("f", 06755));
	S("f");
	ROOT();
	mkd("locked", 0700);
	mk("locked/f", 0666);
	AS(USER, USER, 0);
	E(EACCES, chmod("locked/f", 0600));
	ANY(chmod("f", 01644));
	S("f");
	ROOT();
}

static void c_chown(void)
{
	mk("f", 06755);
	MOVES("c", "f", "", ".", chown("f", USER, GROUP));
	S("f");
	OK(chmod("f", 06755));
	OK(chown("f", -1u, OTHER));
	S("f");
	OK(chmod("f", 0755));
	MOVES(NULL, "f", NULL, NULL, chown("f", -1u, -1u));
	S("f");
	OK(chmod("f", 02644));		/* setgid without group execute: mandatory locking, stays */
	OK(chown("f", 7, 8));
	S("f");
	mkd("d", 06755);
	OK(chown("d", USER, GROUP));
	S("d");
	OK(symlink("f", "s"));
	OK(lchown("s", 11, 12));
	S("s");
	S("f");
	OK(chown("s", 21, 22));
	S("f");
	OK(symlink("none", "dangling"));
	E(ENOENT, chown("dangling", 1, 1));
	OK(lchown("dangling", 1, 1));
	E(ENOENT, chown("none", 1, 1));
	E(ENOTDIR, chown("f/x", 1, 1));
	OK(mkfifo("p", 0644));
	OK(chown("p", 4, 5));
	S("p");
	OK(chown("f", 4000000000u, 4000000001u));
	S("f");
}

static void c_chown_owner(void)
{
	mk("f", 06755);
	OK(chown("f", USER, USER));
	OK(chmod("f", 06755));
	AS(USER, USER, GROUP);
	E(EPERM, chown("f", OTHER, -1u));
	E(EPERM, chown("f", -1u, OTHER));
	S("f");
	OK(chown("f", -1u, GROUP));
	S("f");
	OK(chmod("f", 06755));
	OK(chown("f", USER, -1u));
	S("f");
	OK(chown("f", -1u, USER));
	AS(OTHER, OTHER, 0);
	E(EPERM, chown("f", -1u, OTHER));
	E(EPERM, chown("f", OTHER, -1u));
	ANY(chown("f", -1u, -1u));
	S("f");
	ROOT();
}

static void c_truncate(void)
{
	struct stat st;

	mk("f", 0644);
	MOVES("mc", "f", "", ".", truncate("f", 5));
	S("f");
	MOVES("mc", "f", "", ".", truncate("f", 100000));
	S("f");
	OK(truncate("f", 100000));	/* to its size: whether times move differs between file systems */
	E(EINVAL, truncate("f", -1));
	E(ENOENT, truncate("none", 0));
	E(EISDIR, truncate(".", 0));
	E(ENOTDIR, truncate("f/x", 0));
	OK(mkfifo("p", 0644));
	E(EINVAL, truncate("p", 0));
	int fd = open("f", O_RDWR | O_CLOEXEC), ro = open("f", O_RDONLY | O_CLOEXEC);

	MOVES("mc", "f", NULL, NULL, ftruncate(fd, 10));
	E(EINVAL, ftruncate(fd, -5));
	E(EINVAL, ftruncate(ro, 5));
	V(fstat(ro, &st));
	V(st.st_size);
	OK(ftruncate(fd, (off_t)1 << 40));
	S("f");
	OK(ftruncate(fd, 0));
	S("f");
	close(fd);
	close(ro);
}

static void c_setid_clearing(void)
{
	mk("f", 0644);
	OK(chown("f", USER, USER));
	OK(chmod("f", 06777));
	AS(OTHER, OTHER, 0);
	OK(puts_at("f", O_WRONLY, "x"));
	S("f");
	ROOT();
	OK(chmod("f", 06777));
	OK(puts_at("f", O_WRONLY, "x"));
	S("f");
	AS(OTHER, OTHER, 0);
	OK(truncate("f", 3));
	S("f");
	ROOT();
	OK(chmod("f", 06777));
	AS(OTHER, OTHER, 0);
	OK(opens("f", O_WRONLY | O_TRUNC));
	S("f");
	ROOT();
	OK(chmod("f", 02777));
	AS(OTHER, OTHER, 0);
	OK(puts_at("f", O_WRONLY, "y"));
	S("f");
	ROOT();
	OK(chmod("f", 06777));
	AS(OTHER, OTHER, 0);
	int fd = open("f", O_RDWR | O_CLOEXEC);

	OK(fallocate(fd, 0, 0, 8192));
	S("f");
	close(fd);
	ROOT();
	OK(chmod("f", 06777));
	AS(USER, USER, 0);
	OK(puts_at("f", O_WRONLY, "z"));
	S("f");
	ROOT();
}

static int set_times(const char *p, time_t a, long an, time_t m, long mn, int flags)
{
	struct timespec t[2] = { { a, an }, { m, mn } };

	return utimensat(AT_FDCWD, p, t, flags);
}

static void note_times(const char *p)
{
	struct stat st;

	if (lstat(p, &st))
		fprintf(out, "times %s: %s\n", p, strerrorname_np(errno));
	else
		fprintf(out, "times %s: atime %jd.%09ld mtime %jd.%09ld\n", p, (intmax_t)st.st_atim.tv_sec, st.st_atim.tv_nsec,
			(intmax_t)st.st_mtim.tv_sec, st.st_mtim.tv_nsec);
}

static void c_utimens(void)
{
	mk("f", 0644);
	mkd("d", 0755);
	OK(symlink("f", "s"));
	MOVES("mc", "f", "", ".", set_times("f", 1000000000, 123456789, 1100000000, 987654321, 0));
	note_times("f");
	OK(set_times("f", 5, 0, 0, UTIME_OMIT, 0));
	note_times("f");
	OK(set_times("f", 0, UTIME_OMIT, 7, 999999999, 0));
	note_times("f");
	MOVES(NULL, "f", NULL, NULL, set_times("f", 0, UTIME_OMIT, 0, UTIME_OMIT, 0));
	note_times("f");
	MOVES("mc", "f", NULL, NULL, set_times("f", 0, UTIME_OMIT, 0, UTIME_NOW, 0));
	E(EINVAL, set_times("f", 0, 1000000000, 0, 0, 0));
	E(ENOENT, set_times("none", 0, 0, 0, 0, 0));
	OK(set_times("s", 11, 1, 12, 2, AT_SYMLINK_NOFOLLOW));
	note_times("s");
	OK(set_times("s", 21, 1, 22, 2, 0));
	note_times("f");
	OK(set_times("d", 31, 1, 32, 2, 0));
	note_times("d");
	OK(set_times("f", 2000000000, 0, 2000000000, 1, 0));
	note_times("f");
	OK(set_times("f", -1000, 5, -2000, 6, 0));
	note_times("f");
	OK(mkfifo("p", 0644));
	OK(set_times("p", 41, 1, 42, 2, 0));
	note_times("p");
}

static void c_utimens_owner(void)
{
	mk("f", 0644);
	mk("w", 0666);
	AS(USER, USER, 0);
	E(EPERM, set_times("f", 1, 0, 2, 0, 0));
	E(EACCES, utimensat(AT_FDCWD, "f", NULL, 0));
	E(EPERM, set_times("w", 1, 0, 2, 0, 0));
	OK(utimensat(AT_FDCWD, "w", NULL, 0));
	OK(set_times("w", 0, UTIME_NOW, 0, UTIME_NOW, 0));
	E(EPERM, set_times("w", 0, UTIME_OMIT, 0, UTIME_NOW, 0));
	ROOT();
	OK(chown("f", USER, USER));
	OK(chmod("f", 0));
	AS(USER, USER, 0);
	OK(set_times("f", 1, 0, 2, 0, 0));
	note_times("f");
	ROOT();
}

/* -- who may -- */

static void c_permissions(void)
{
	static const mode_t modes[] = { 0000, 0100, 0200, 0400, 0600, 0010, 0020, 0040, 0060, 0001, 0002, 0004, 0006, 0777 };

	mkd("d", 0755);
	mk("d/f", 0644);
	OK(chown("d/f", USER, GROUP));
	for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
		fprintf(out, "mode %03o\n", modes[i]);
		if (chmod("d/f", modes[i]))
			die("chmod");
		AS(USER, USER, 0);
		ANY(opens("d/f", O_RDONLY));
		ANY(opens("d/f", O_RDWR));
		ANY(faccessat(AT_FDCWD, "d/f", X_OK, AT_EACCESS));
		AS(OTHER, OTHER, GROUP);
		ANY(opens("d/f", O_RDONLY));
		ANY(opens("d/f", O_WRONLY));
		AS(OTHER, OTHER, 0);
		ANY(opens("d/f", O_RDONLY));
		ANY(opens("d/f", O_WRONLY));
		ANY(faccessat(AT_FDCWD, "d/f", R_OK | X_OK, AT_EACCESS));
		ROOT();
		ANY(opens("d/f", O_RDWR));
		ANY(faccessat(AT_FDCWD, "d/f", X_OK, AT_EACCESS));
	}
}

static void c_dir_permissions(void)
{
	mkd("d", 0755);
	mk("d/f", 0666);
	mkd("d/e", 0777);
	AS(USER, USER, 0);
	E(EACCES, opens("d/new", O_CREAT | O_RDWR));
	E(EACCES, mkdir("d/new", 0755));
	E(EACCES, symlink("x", "d/new"));
	E(EACCES, mkfifo("d/new", 0644));
	E(EACCES, link("d/f", "d/g"));
	E(EACCES, unlink("d/f"));
	E(EACCES, rmdir("d/e"));
	E(EACCES, rename("d/f", "d/g"));
	OK(opens("d/f", O_RDWR));
	ROOT();
	OK(chmod("d", 0733));
	AS(USER, USER, 0);
	E(EACCES, opens("d", O_RDONLY | O_DIRECTORY));
	OK(opens("d/new", O_CREAT | O_RDWR));
	S("d/new");
	OK(opens("d/f", O_RDWR));
	OK(rename("d/f", "d/g"));
	OK(rmdir("d/e"));
	ROOT();
	OK(chmod("d", 0744));
	AS(USER, USER, 0);
	E(EACCES, opens("d/g", O_RDONLY));
	E(EACCES, faccessat(AT_FDCWD, "d/g", F_OK, AT_EACCESS));
	E(EACCES, opens("d/none", O_RDONLY));
	OK(opens("d", O_RDONLY | O_DIRECTORY));
	E(EACCES, chdir("d"));
	ROOT();
}

static void c_sticky(void)
{
	mkd("t", 01777);
	mk("t/roots", 0666);
	AS(USER, USER, 0);
	OK(opens("t/mine", O_CREAT | O_RDWR));
	OK(mkdir("t/dir", 0777));
	E(EPERM, unlink("t/roots"));
	E(EPERM, rename("t/roots", "t/x"));
	AS(OTHER, OTHER, 0);
	E(EPERM, unlink("t/mine"));
	E(EPERM, rmdir("t/dir"));
	E(EPERM, rename("t/mine", "t/x"));
	OK(opens("t/others", O_CREAT | O_RDWR));
	E(EPERM, rename("t/others", "t/mine"));
	E(EPERM, ren("t/others", "t/mine", RENAME_EXCHANGE));
	OK(unlink("t/others"));
	AS(USER, USER, 0);
	OK(unlink("t/mine"));
	OK(rmdir("t/dir"));
	ROOT();
	OK(chown("t", USER, USER));
	AS(USER, USER, 0);
	OK(unlink("t/roots"));
	ROOT();
	S("t");
}

static void c_setgid_dir(void)
{
	umask(022);
	mkd("d", 0777);
	OK(chown("d", 0, GROUP));
	OK(chmod("d", 02777));
	AS(USER, USER, 0);
	OK(opens("d/f", O_CREAT | O_RDWR));
	S("d/f");
	OK(mkdir("d/e", 0755));
	S("d/e");
	OK(mkfifo("d/p", 0644));
	S("d/p");
	OK(symlink("x", "d/s"));
	S("d/s");
	OK(mkdir("d/e/e", 0755));
	S("d/e/e");
	OK(close(open("d/gx", O_CREAT | O_RDWR | O_CLOEXEC, 02775)));	/* not in the group: no setgid bit */
	S("d/gx");
	OK(close(open("d/gnx", O_CREAT | O_RDWR | O_CLOEXEC, 02765)));
	S("d/gnx");
	AS(USER, USER, GROUP);
	OK(close(open("d/gy", O_CREAT | O_RDWR | O_CLOEXEC, 02775)));
	S("d/gy");
	ROOT();
	OK(close(open("d/gz", O_CREAT | O_RDWR | O_CLOEXEC, 06775)));
	S("d/gz");
}

static void c_groups(void)
{
	mkd("d", 0775);
	OK(chown("d", 0, GROUP));
	AS(USER, USER, GROUP);
	OK(opens("d/f", O_CREAT | O_RDWR));
	S("d/f");
	AS(USER, USER, 0);
	E(EACCES, opens("d/g", O_CREAT | O_RDWR));
	ROOT();
	mk("h", 0660);
	OK(chown("h", OTHER, GROUP));
	AS(USER, USER, GROUP);
	OK(puts_at("h", O_WRONLY, "grouped"));
	AS(USER, USER, 0);
	E(EACCES, puts_at("h", O_WRONLY, "not"));
	ROOT();
}

/* -- xattrs and ACLs -- */

static int set_acl(const char *p, const char *name, unsigned user, unsigned other_user, unsigned group, unsigned mask, unsigned other)
{
	struct { uint32_t version; struct { uint16_t tag, perm; uint32_t id; } e[5]; } a = { 2, {
		{ 1, (uint16_t)user, -1u }, { 2, (uint16_t)other_user, OTHER }, { 4, (uint16_t)group, -1u }, { 16, (uint16_t)mask, -1u },
		{ 32, (uint16_t)other, -1u } } };

	return setxattr(p, name, &a, sizeof a, 0);
}
#define ACCESS "system.posix_acl_access"
#define DEFAULT "system.posix_acl_default"

static void note_acl(const char *p, const char *name)
{
	struct { uint32_t version; struct { uint16_t tag, perm; uint32_t id; } e[16]; } a;
	ssize_t n = getxattr(p, name, &a, sizeof a);

	fprintf(out, "%s of %s:", name, p);
	if (n < 0)
		fprintf(out, " %s", strerrorname_np(errno));
	for (ssize_t i = 0; n >= 4 && i < (n - 4) / 8; i++)
		fprintf(out, " %u/%u/%d", a.e[i].tag, a.e[i].perm, (int)a.e[i].id);
	fputc('\n', out);
}

static void c_xattr(void)
{
	char v[70000] = "", list[4096];

	mk("f", 0644);
	mkd("d", 0755);
	MOVES("c", "f", "", ".", setxattr("f", "user.a", "value", 5, 0));
	V(getxattr("f", "user.a", v, sizeof v));
	note_text("value", v);
	V(getxattr("f", "user.a", NULL, 0));
	E(ERANGE, getxattr("f", "user.a", v, 3));
	E(EEXIST, setxattr("f", "user.a", "x", 1, XATTR_CREATE));
	E(ENODATA, setxattr("f", "user.b", "x", 1, XATTR_REPLACE));
	OK(setxattr("f", "user.a", "longer value", 12, XATTR_REPLACE));
	V(getxattr("f", "user.a", NULL, 0));
	OK(setxattr("f", "user.empty", "", 0, 0));
	V(getxattr("f", "user.empty", v, sizeof v));
	E(ENODATA, getxattr("f", "user.none", v, sizeof v));
	E(ENODATA, removexattr("f", "user.none"));
	V(listxattr("f", list, sizeof list) > 0);
	E(ERANGE, listxattr("f", list, 2));
	MOVES("c", "f", "", ".", removexattr("f", "user.a"));
	E(ENODATA, getxattr("f", "user.a", v, sizeof v));
	E(EOPNOTSUPP, setxattr("f", "nonsense", "x", 1, 0));
	E(EOPNOTSUPP, setxattr("f", "foo.bar", "x", 1, 0));
	E(EINVAL, setxattr("f", "user.", "x", 1, 0));
	E(ERANGE, setxattr("f", longest('u', 300), "x", 1, 0));
	E(E2BIG, setxattr("f", "user.big", v, sizeof v, 0));
	OK(setxattr("d", "user.a", "dir", 3, 0));
	V(getxattr("d", "user.a", v, sizeof v));
	OK(symlink("f", "s"));
	E(EPERM, lsetxattr("s", "user.a", "x", 1, 0));
	OK(mkfifo("p", 0644));
	E(EPERM, setxattr("p", "user.a", "x", 1, 0));
	E(ENOENT, setxattr("none", "user.a", "x", 1, 0));
	OK(setxattr("f", "user.3000", v, 3000, 0));
	V(getxattr("f", "user.3000", v, sizeof v));
}

static void c_xattr_trusted(void)
{
	char v[100] = "";

	mk("f", 0666);
	OK(symlink("f", "s"));
	OK(mkfifo("p", 0666));
	OK(setxattr("f", "trusted.a", "1", 1, 0));
	OK(lsetxattr("s", "trusted.a", "2", 1, 0));
	OK(setxattr("p", "trusted.a", "3", 1, 0));
	V(lgetxattr("s", "trusted.a", v, sizeof v));
	note_text("value", v);
	OK(setxattr("f", "security.test", "x", 1, 0));
	V(getxattr("f", "security.test", v, sizeof v));
	AS(USER, USER, 0);
	E(ENODATA, getxattr("f", "trusted.a", v, sizeof v));
	E(EPERM, setxattr("f", "trusted.a", "x", 1, 0));
	E(EPERM, setxattr("f", "security.test", "x", 1, 0));
	V(getxattr("f", "security.test", v, sizeof v));
	OK(setxattr("f", "user.mine", "x", 1, 0));
	ROOT();
	OK(chmod("f", 0644));
	AS(USER, USER, 0);
	E(EACCES, setxattr("f", "user.mine", "y", 1, 0));
	V(getxattr("f", "user.mine", v, sizeof v));
	ROOT();
	OK(chmod("f", 0600));
	AS(USER, USER, 0);
	E(EACCES, getxattr("f", "user.mine", v, sizeof v));
	ROOT();
}

static void c_acl(void)
{
	mk("f", 0640);
	note_acl("f", ACCESS);
	MOVES("c", "f", "", ".", set_acl("f", ACCESS, 6, 6, 4, 6, 0));
	S("f");
	note_acl("f", ACCESS);
	AS(OTHER, OTHER, 0);
	OK(opens("f", O_RDWR));
	AS(USER, USER, 0);
	E(EACCES, opens("f", O_RDONLY));
	E(EPERM, set_acl("f", ACCESS, 7, 7, 7, 7, 7));
	ROOT();
	OK(chmod("f", 0740));	/* the group bits are the mask now */
	S("f");
	note_acl("f", ACCESS);
	AS(OTHER, OTHER, 0);
	OK(opens("f", O_RDONLY));
	E(EACCES, opens("f", O_RDWR));
	ROOT();
	OK(removexattr("f", ACCESS));
	note_acl("f", ACCESS);
	S("f");
	AS(OTHER, OTHER, 0);
	E(EACCES, opens("f", O_RDONLY));
	ROOT();
	E(EACCES, set_acl("f", DEFAULT, 7, 7, 7, 7, 7));
	ANY(setxattr("f", ACCESS, "nonsense", 8, 0));
	E(EOPNOTSUPP, lsetxattr("f", "system.unknown", "x", 1, 0));
}

static void c_acl_default(void)
{
	umask(077);
	mkd("d", 0777);
	OK(set_acl("d", DEFAULT, 7, 5, 5, 7, 1));
	note_acl("d", DEFAULT);
	AS(USER, USER, 0);
	OK(close(open("d/f", O_CREAT | O_RDWR | O_CLOEXEC, 0666)));	/* the umask does not count under a default ACL */
	S("d/f");
	note_acl("d/f", ACCESS);
	OK(mkdir("d/e", 0777));
	S("d/e");
	note_acl("d/e", ACCESS);
	note_acl("d/e", DEFAULT);
	OK(mkfifo("d/p", 0666));
	S("d/p");
	OK(mknod("d/n", S_IFREG | 0640, 0));
	S("d/n");
	note_acl("d/n", ACCESS);
	OK(symlink("x", "d/s"));
	S("d/s");
	int fd = open("d", O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);

	if (fd >= 0) {
		char *p = xasprintf("/proc/self/fd/%d", fd);

		OK(linkat(AT_FDCWD, p, AT_FDCWD, "d/t", AT_SYMLINK_FOLLOW));
		close(fd);
		S("d/t");
	}
	ROOT();
	OK(removexattr("d", DEFAULT));
	AS(USER, USER, 0);
	OK(close(open("d/g", O_CREAT | O_RDWR | O_CLOEXEC, 0666)));
	S("d/g");
	ROOT();
}

/* -- data -- */

static void c_write_read(void)
{
	char b[64];
	int fd = open("f", O_CREAT | O_RDWR | O_CLOEXEC, 0644), ro = open("f", O_RDONLY | O_CLOEXEC), wo = open("f", O_WRONLY | O_CLOEXEC),
	    ap = open("f", O_WRONLY | O_APPEND | O_CLOEXEC);

	MOVES("mc", "f", "", ".", write(fd, "hello", 5));
	MOVES("", "f", "", ".", pread(ro, b, sizeof b, 0));
	MOVES("", "f", NULL, NULL, write(fd, "", 0));
	V(pread(fd, b, sizeof b, 0));
	V(pread(fd, b, sizeof b, 3));
	V(pread(fd, b, sizeof b, 5));
	V(pread(fd, b, sizeof b, 1000));
	E(EBADF, write(ro, "x", 1));
	E(EBADF, read(wo, b, 1));
	E(EINVAL, pwrite(fd, "x", 1, -1));
	E(EINVAL, pread(fd, b, 1, -1));
	V(write(ap, " world", 6));
	V(lseek(ap, 0, SEEK_CUR));
	V(pwrite(ap, "!", 1, 0));	/* O_APPEND wins over the offset (Linux) */
	S("f");
	V(pwrite(wo, "tail", 4, 100));
	S("f");
	V(pread(ro, b, 4, 96));
	V(b[0] | b[1] | b[2] | b[3]);
	E(EINVAL, lseek(fd, -1, SEEK_SET));
	V(lseek(fd, 0, SEEK_END));
	V(lseek(fd, 10000, SEEK_SET));
	V(read(fd, b, 1));
	int d = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	E(EISDIR, read(d, b, 1));
	E(EBADF, write(d, b, 1));
	OK(fsync(fd));
	OK(fdatasync(wo));
	OK(fsync(ro));
	OK(fsync(d));
	OK(syncfs(fd));
	OK(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED));
	V(pread(ro, b, sizeof b, 0));
	close(d);
}

static void c_limits(void)
{
	struct rlimit rl = { 4096, 4096 };
	int fd = open("f", O_CREAT | O_RDWR | O_CLOEXEC, 0644);

	signal(SIGXFSZ, SIG_IGN);
	OK(setrlimit(RLIMIT_FSIZE, &rl));
	V(pwrite(fd, longest('x', 4000), 4000, 0));
	V(pwrite(fd, longest('x', 4000), 4000, 4000));
	E(EFBIG, pwrite(fd, "x", 1, 4096));
	E(EFBIG, ftruncate(fd, 5000));
	E(EFBIG, fallocate(fd, 0, 0, 10000));
	S("f");
	close(fd);
}

static void c_fallocate(void)
{
	int fd = open("f", O_CREAT | O_RDWR | O_CLOEXEC, 0644), ro = open("f", O_RDONLY | O_CLOEXEC);
	char b[8] = "";

	MOVES("mc", "f", "", ".", fallocate(fd, 0, 0, 20000));
	S("f");
	OK(fallocate(fd, FALLOC_FL_KEEP_SIZE, 20000, 20000));
	S("f");
	V(pwrite(fd, longest('d', 4999), 4999, 4096));
	MOVES("mc", "f", NULL, NULL, fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 4096, 4096));
	S("f");
	V(pread(fd, b, 4, 4096));
	V(b[0]);
	V(pread(fd, b, 4, 8192));
	V(b[0]);
	OK(fallocate(fd, FALLOC_FL_ZERO_RANGE, 8192, 20000));
	S("f");
	V(pread(fd, b, 4, 8192));
	V(b[0]);
	OK(fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, 0, 100000));
	S("f");
	E(EINVAL, fallocate(fd, 0, 0, 0));
	E(EINVAL, fallocate(fd, 0, -1, 10));
	E(EOPNOTSUPP, fallocate(fd, FALLOC_FL_PUNCH_HOLE, 0, 4096));
	E(EBADF, fallocate(ro, 0, 0, 4096));
	E(EFBIG, fallocate(fd, 0, INT64_MAX - 10, 100));
	OK(posix_fallocate(fd, 0, 200000));
	S("f");
	int d = open(".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	ANY(fallocate(d, 0, 0, 10));
	close(d);
}

static void c_holes(void)
{
	int fd = open("f", O_CREAT | O_RDWR | O_CLOEXEC, 0644);

	OK(ftruncate(fd, 1 << 20));
	V(pwrite(fd, longest('x', 4096), 4096, 65536));
	V(pwrite(fd, longest('x', 4096), 4096, 524288));
	V(lseek(fd, 0, SEEK_DATA));
	V(lseek(fd, 65536, SEEK_HOLE));
	V(lseek(fd, 70000, SEEK_DATA));
	V(lseek(fd, 524288, SEEK_HOLE));
	E(ENXIO, lseek(fd, 600000, SEEK_DATA));
	E(ENXIO, lseek(fd, 1 << 20, SEEK_DATA));
	E(ENXIO, lseek(fd, 1 << 20, SEEK_HOLE));
	V(lseek(fd, 0, SEEK_HOLE));
	close(fd);
}

static void c_copy_range(void)
{
	char b[16] = "";
	int a = open("a", O_CREAT | O_RDWR | O_CLOEXEC, 0644), z = open("z", O_CREAT | O_RDWR | O_CLOEXEC, 0644),
	    ro = open("z", O_RDONLY | O_CLOEXEC), ap = open("z", O_WRONLY | O_APPEND | O_CLOEXEC);
	off_t in = 0, to = 100;

	V(pwrite(a, "0123456789", 10, 0));
	MOVES("mc", "z", "", "a", copy_file_range(a, &in, z, &to, 10, 0));
	V(in);
	V(to);
	S("z");
	in = 5;
	V(copy_file_range(a, &in, z, &to, 100, 0));
	S("z");
	in = 10;
	V(copy_file_range(a, &in, z, &to, 100, 0));
	in = 0;
	E(EBADF, copy_file_range(a, &in, ro, &to, 5, 0));
	E(EBADF, copy_file_range(a, &in, ap, &to, 5, 0));
	to = 2;
	E(EINVAL, copy_file_range(a, &in, a, &to, 5, 0));
	to = 20;
	V(copy_file_range(a, &in, a, &to, 5, 0));
	S("a");
	V(pread(a, b, 5, 20));
	note_text("copied", b);
	E(EINVAL, copy_file_range(a, &in, z, &to, 5, 1));
}

static void c_tmpfile(void)
{
	struct stat st;
	char *p;

	umask(022);
	mkd("d", 0755);
	before(PATHS("d"));
	int fd = open("d", O_TMPFILE | O_RDWR | O_CLOEXEC, 0666);

	V(fd >= 0);
	after("O_TMPFILE", PATHS("d"), PATHS(""));
	if (fd < 0)
		return;
	V(fstat(fd, &st));
	V(st.st_nlink);
	V(st.st_mode);
	V(st.st_uid);
	V(write(fd, "temporary", 9));
	p = xasprintf("/proc/self/fd/%d", fd);
	MOVES("mc", "d", NULL, NULL, linkat(AT_FDCWD, p, AT_FDCWD, "d/f", AT_SYMLINK_FOLLOW));
	S("d/f");
	OK(linkat(AT_FDCWD, p, AT_FDCWD, "d/g", AT_SYMLINK_FOLLOW));
	S("d/f");
	E(EEXIST, linkat(AT_FDCWD, p, AT_FDCWD, "d/g", AT_SYMLINK_FOLLOW));
	close(fd);
	fd = open("d", O_TMPFILE | O_RDWR | O_EXCL | O_CLOEXEC, 0666);
	V(fd >= 0);
	p = xasprintf("/proc/self/fd/%d", fd);
	E(ENOENT, linkat(AT_FDCWD, p, AT_FDCWD, "d/h", AT_SYMLINK_FOLLOW));
	close(fd);
	E(EINVAL, open("d", O_TMPFILE | O_RDONLY, 0666));
	E(ENOENT, open("none", O_TMPFILE | O_RDWR, 0666));
	E(ENOTDIR, open("d/f", O_TMPFILE | O_RDWR, 0666));
}

static void c_mmap(void)
{
	struct stat st;
	char b[8] = "";
	int fd = open("f", O_CREAT | O_RDWR | O_CLOEXEC, 0644), ro = open("f", O_RDONLY | O_CLOEXEC);

	OK(ftruncate(fd, 8192));
	char *p = mmap(NULL, 8192, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	V(p != MAP_FAILED);
	if (p == MAP_FAILED)
		return;
	memcpy(p + 100, "mapped", 7);
	V(pread(ro, b, 7, 100));
	note_text("read back", b);
	V(pwrite(fd, "wrote", 6, 4096));
	note_text("seen in the mapping", p + 4096);
	OK(msync(p, 8192, MS_SYNC));
	before(PATHS("f"));
	memcpy(p + 200, "again", 6);
	OK(msync(p, 8192, MS_SYNC));
	after("msync", PATHS("f"), PATHS("mc"));
	V(fstat(ro, &st));
	V(st.st_size);
	E(EACCES, mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, ro, 0) == MAP_FAILED ? -1 : 0);
	V(mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE, ro, 0) != MAP_FAILED);
	OK(munmap(p, 8192));
}

/* An OFD lock ends with the open file: FUSE tells the daemon that a moment after close(). */
static int ofd_lock_soon(int fd, short type)
{
	struct flock l = { .l_type = type, .l_whence = SEEK_SET };
	double end = now_s() + 5;

	while (fcntl(fd, F_OFD_SETLK, &l) < 0)
		if (errno != EAGAIN || now_s() > end)
			return -1;
	return 0;
}

static void c_locks(void)
{
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 10, .l_len = 10 }, q = l;
	int a = open("f", O_CREAT | O_RDWR | O_CLOEXEC, 0644), b = open("f", O_RDWR | O_CLOEXEC), status;

	OK(flock(a, LOCK_EX | LOCK_NB));
	E(EWOULDBLOCK, flock(b, LOCK_EX | LOCK_NB));
	E(EWOULDBLOCK, flock(b, LOCK_SH | LOCK_NB));
	OK(flock(a, LOCK_SH));
	OK(flock(b, LOCK_SH | LOCK_NB));
	OK(flock(a, LOCK_UN));
	OK(flock(b, LOCK_EX | LOCK_NB));
	OK(flock(b, LOCK_UN));
	OK(fcntl(a, F_SETLK, &l));
	pid_t child = fork();

	if (!child) {
		struct flock mine = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 15, .l_len = 10 };
		int r = fcntl(b, F_SETLK, &mine) < 0 ? errno : 0, free_range;

		mine.l_start = 20;
		free_range = fcntl(b, F_SETLK, &mine) < 0 ? errno : 0;
		_exit((r == EAGAIN || r == EACCES) && !free_range ? 0 : 1);
	}
	waitpid(child, &status, 0);
	V(WEXITSTATUS(status));
	child = fork();
	if (!child) {
		q.l_pid = 0;
		_exit(fcntl(b, F_GETLK, &q) < 0 || q.l_type != F_WRLCK || q.l_start != 10 || q.l_len != 10 || q.l_pid != getppid());
	}
	waitpid(child, &status, 0);
	V(WEXITSTATUS(status));
	OK(close(open("f", O_RDONLY | O_CLOEXEC)));	/* closing any descriptor drops the process's locks */
	child = fork();
	if (!child)
		_exit(fcntl(b, F_SETLK, &l) < 0);
	waitpid(child, &status, 0);
	V(WEXITSTATUS(status));
	OK(fcntl(a, F_OFD_SETLK, &(struct flock){ .l_type = F_WRLCK, .l_whence = SEEK_SET }));
	E(EAGAIN, fcntl(b, F_OFD_SETLK, &(struct flock){ .l_type = F_RDLCK, .l_whence = SEEK_SET }));
	close(a);
	OK(ofd_lock_soon(b, F_RDLCK));
}

static int set_flags(const char *p, int flags)
{
	int fd = open(p, O_RDONLY | O_CLOEXEC | O_NONBLOCK), r, e;

	if (fd < 0)
		return -1;
	r = ioctl(fd, FS_IOC_SETFLAGS, &flags);
	e = errno;
	close(fd);
	errno = e;
	return r;
}

static int get_flags(const char *p)
{
	int fd = open(p, O_RDONLY | O_CLOEXEC | O_NONBLOCK), flags = 0;

	if (fd < 0 || ioctl(fd, FS_IOC_GETFLAGS, &flags))
		flags = -errno;
	close(fd);
	return flags < 0 ? flags : flags & (FS_APPEND_FL | FS_IMMUTABLE_FL | FS_NODUMP_FL | FS_NOATIME_FL | FS_SYNC_FL);
}

static void c_flags(void)
{
	mk("f", 0644);
	mkd("d", 0755);
	mk("d/x", 0644);
	V(get_flags("f"));
	OK(set_flags("f", FS_IMMUTABLE_FL));
	V(get_flags("f"));
	E(EPERM, opens("f", O_WRONLY));
	E(EPERM, chmod("f", 0600));
	E(EPERM, unlink("f"));
	E(EPERM, rename("f", "g"));
	E(EPERM, link("f", "g"));
	E(EPERM, truncate("f", 0));
	E(EPERM, setxattr("f", "user.a", "x", 1, 0));
	OK(opens("f", O_RDONLY));
	OK(set_flags("f", FS_APPEND_FL));
	V(get_flags("f"));
	E(EPERM, opens("f", O_WRONLY));
	OK(puts_at("f", O_WRONLY | O_APPEND, "more"));
	E(EPERM, truncate("f", 0));
	E(EPERM, unlink("f"));
	OK(set_flags("f", FS_NODUMP_FL | FS_NOATIME_FL));
	V(get_flags("f"));
	OK(set_flags("d", FS_IMMUTABLE_FL));
	E(EPERM, opens("d/new", O_CREAT | O_RDWR));
	E(EPERM, unlink("d/x"));
	OK(puts_at("d/x", O_WRONLY, "still"));
	OK(set_flags("d", FS_APPEND_FL));
	OK(opens("d/new", O_CREAT | O_RDWR));
	E(EPERM, unlink("d/new"));
	OK(set_flags("d", 0));
	OK(unlink("d/new"));
	OK(set_flags("f", 0));
	OK(unlink("f"));
}

/* -- directories -- */

static int by_text(const void *a, const void *b)
{
	return strcmp(*(char *const *)a, *(char *const *)b);
}

static void note_listing(const char *path)
{
	char *names[512];
	size_t n = 0;
	DIR *d = opendir(path);
	struct dirent *e;

	if (!d) {
		fprintf(out, "listing %s: %s\n", path, strerrorname_np(errno));
		return;
	}
	while ((e = readdir(d)) && n < 512)
		names[n++] = xasprintf("%s/%u", e->d_name, e->d_type);
	closedir(d);
	qsort(names, n, sizeof *names, by_text);
	fprintf(out, "listing %s:", path);
	for (size_t i = 0; i < n; i++)
		fprintf(out, " %s", names[i]);
	fputc('\n', out);
}

static void c_readdir(void)
{
	struct stat st;
	struct dirent *e;
	unsigned n = 0, same = 0;

	mkd("d", 0755);
	note_listing("d");
	mk("d/f", 0644);
	mkd("d/e", 0755);
	OK(symlink("x", "d/s"));
	OK(mkfifo("d/p", 0644));
	OK(mknod("d/k", S_IFSOCK | 0644, 0));
	note_listing("d");
	MOVES("", "d", NULL, NULL, opens("d", O_RDONLY | O_DIRECTORY));
	OK(unlink("d/f"));
	OK(rename("d/s", "d/t"));
	note_listing("d");
	note_listing("d/t");
	note_listing("none");
	for (int i = 0; i < 300; i++)
		mk(xasprintf("d/e/file%d", i), 0644);
	DIR *d = opendir("d/e");

	while ((e = readdir(d)))
		if (e->d_name[0] != '.') {
			n++;
			same += !fstatat(dirfd(d), e->d_name, &st, AT_SYMLINK_NOFOLLOW) && st.st_ino == e->d_ino;
		}
	V(n);
	V(same);
	rewinddir(d);
	for (n = 0; (e = readdir(d));)	/* removing while listing */
		if (e->d_name[0] != '.')
			n += !unlinkat(dirfd(d), e->d_name, 0);
	V(n);
	rewinddir(d);
	for (n = 0; readdir(d); n++)
		;
	V(n);
	closedir(d);
	note_listing("d/e");
	OK(rmdir("d/e"));
}

static void c_dot(void)
{
	struct stat a, b;
	char cwd[PATH_MAX];

	mkd("d", 0755);
	mkd("d/e", 0755);
	V(stat(".", &a));
	V(stat("d/..", &b));
	V(a.st_ino == b.st_ino);
	V(stat("d/e/../..", &b));
	V(a.st_ino == b.st_ino);
	V(stat("d/./e/.", &b));
	V(S_ISDIR(b.st_mode));
	OK(chdir("d/e"));
	OK(rename("../e", "../f"));
	V(strlen(getcwd(cwd, sizeof cwd) ? strrchr(cwd, '/') : ""));
	note_text("cwd", strrchr(cwd, '/'));
	OK(rmdir("../f"));
	E(ENOENT, getcwd(cwd, sizeof cwd) ? 0 : -1);
	E(ENOENT, opens("x", O_CREAT | O_RDWR));
	E(ENOENT, opens("../../x", O_RDONLY) ? -1 : 0);
}

static void c_exec(void)
{
	int status, fd = open("x", O_CREAT | O_RDWR | O_CLOEXEC, 0755);
	const char *script = "#!/bin/sh\nexit 7\n";

	V(write(fd, script, strlen(script)));
	pid_t child = fork();

	if (!child) {
		execl("./x", "x", (char *)NULL);
		_exit(errno == ETXTBSY ? 26 : 99);
	}
	waitpid(child, &status, 0);
	V(WEXITSTATUS(status));
	close(fd);
	child = fork();
	if (!child) {
		execl("./x", "x", (char *)NULL);
		_exit(99);
	}
	waitpid(child, &status, 0);
	V(WEXITSTATUS(status));
	OK(chmod("x", 0644));
	E(EACCES, execl("./x", "x", (char *)NULL));
}

static void c_statvfs(void)
{
	struct statvfs v;

	V(statvfs(".", &v));
	V(v.f_namemax);
	V(v.f_blocks > 0);
	V(v.f_bavail <= v.f_bfree);
	V(v.f_ffree <= v.f_files);
	V((v.f_flag & ST_RDONLY) != 0);
}

static void c_open_modes(void)
{
	char b[4];
	int fd;

	mk("f", 0644);
	fd = open("f", O_PATH | O_CLOEXEC);
	V(fd >= 0);
	E(EBADF, read(fd, b, 1));
	E(EBADF, fchmod(fd, 0600));
	OK(fchownat(fd, "", -1u, -1u, AT_EMPTY_PATH));
	close(fd);
	fd = open("f", O_RDWR | O_SYNC | O_CLOEXEC);
	V(write(fd, "sync", 4));
	close(fd);
	fd = open("f", O_RDWR | O_DSYNC | O_APPEND | O_CLOEXEC);
	V(write(fd, "dsync", 5));
	V(fcntl(fd, F_GETFL) & (O_APPEND | O_ACCMODE));
	OK(fcntl(fd, F_SETFL, 0));
	V(pwrite(fd, "at 0", 4, 0));
	OK(fcntl(fd, F_SETFL, O_APPEND));
	V(pwrite(fd, "end", 3, 0));
	close(fd);
	S("f");
	fd = open("f", O_RDONLY | O_NOATIME | O_CLOEXEC);
	V(fd >= 0);
	V(pread(fd, b, 4, 0));
	close(fd);
	OK(opens("f", O_RDONLY | O_TRUNC));
	S("f");
	OK(chmod("f", 0));
	ANY(opens("f", O_RDONLY));
	int made = open("ro", O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0444);

	V(write(made, "through", 7));
	close(made);
	S("ro");
	ANY(opens("ro", O_WRONLY));
}

/* -- the frame -- */

enum { AS_ROOT = 1, AS_USER = 2, BOTH = 3 };
static const struct test_case { const char *name; void (*fn)(void); int who; } cases[] = {
	{ "open", c_open_create, BOTH }, { "open-links", c_open_links, BOTH }, { "open-modes", c_open_modes, BOTH }, { "names", c_names, BOTH },
	{ "mkdir", c_mkdir, BOTH }, { "rmdir", c_rmdir, BOTH }, { "unlink", c_unlink, BOTH }, { "link", c_link, BOTH },
	{ "symlink", c_symlink, BOTH }, { "mknod", c_mknod_all, BOTH }, { "devices", c_mknod_root, AS_ROOT }, { "bind", c_bind, BOTH },
	{ "rename-files", c_rename_files, BOTH }, { "rename-dirs", c_rename_dirs, BOTH }, { "rename-flags", c_rename_flags, BOTH },
	{ "chmod", c_chmod, BOTH }, { "chmod-owner", c_chmod_owner, AS_ROOT }, { "chown", c_chown, AS_ROOT },
	{ "chown-owner", c_chown_owner, AS_ROOT }, { "truncate", c_truncate, BOTH }, { "setid", c_setid_clearing, AS_ROOT },
	{ "utimens", c_utimens, BOTH }, { "utimens-owner", c_utimens_owner, AS_ROOT }, { "permissions", c_permissions, AS_ROOT },
	{ "dir-permissions", c_dir_permissions, AS_ROOT }, { "sticky", c_sticky, AS_ROOT }, { "setgid-dir", c_setgid_dir, AS_ROOT },
	{ "groups", c_groups, AS_ROOT }, { "xattr", c_xattr, BOTH }, { "xattr-trusted", c_xattr_trusted, AS_ROOT }, { "acl", c_acl, AS_ROOT },
	{ "acl-default", c_acl_default, AS_ROOT }, { "write-read", c_write_read, BOTH }, { "limits", c_limits, BOTH },
	{ "fallocate", c_fallocate, BOTH }, { "holes", c_holes, BOTH }, { "copy-range", c_copy_range, BOTH }, { "tmpfile", c_tmpfile, BOTH },
	{ "mmap", c_mmap, BOTH }, { "locks", c_locks, BOTH }, { "flags", c_flags, AS_ROOT }, { "readdir", c_readdir, BOTH },
	{ "dot", c_dot, BOTH }, { "exec", c_exec, BOTH }, { "statvfs", c_statvfs, BOTH },
};

static void run_child(const struct test_case *t, const char *dir, bool user, int fd)
{
	char *p = xasprintf("%s/%s%s", dir, t->name, user ? "-user" : "");
	gid_t group = GROUP;

	out = fdopen(fd, "w");
	umask(0);
	if (!out || mkdir(p, 0755) || chdir(p))
		die("%s", p);
	if (user && (chown(".", USER, USER) || setgroups(1, &group) || setgid(USER) || setuid(USER)))
		die("becoming a user");
	if (!user)
		ROOT();
	alarm(120);
	t->fn();
	fclose(out);
	_exit(0);
}

static char *run_case(const struct test_case *t, const char *dir, bool user, bool is_native)
{
	char *text = NULL;
	size_t size = 0;
	int fd[2], status, c;

	if (pipe(fd))
		die("pipe");
	fflush(stdout);
	pid_t pid = fork();

	if (pid < 0)
		die("fork");
	if (!pid) {
		close(fd[0]);
		native = is_native;
		run_child(t, dir, user, fd[1]);
	}
	close(fd[1]);
	FILE *in = fdopen(fd[0], "r"), *mem = open_memstream(&text, &size);

	while ((c = fgetc(in)) != EOF)
		fputc(c, mem);
	fclose(in);
	waitpid(pid, &status, 0);
	if (status)
		fprintf(mem, "the case ends well: status %x\n", status);
	fclose(mem);
	return text;
}

static unsigned long good, bad;
static bool quiet;

/* Control characters in names would break the TAP lines. */
static void clean(char *s)
{
	for (; *s; s++)
		if ((unsigned char)*s < ' ' || (unsigned char)*s >= 127 || *s == '#')
			*s = '?';
}

static void judge(const char *name, bool user, char *a, char *b)
{
	for (unsigned n = 1; a || b; n++) {
		char *x = a ? strsep(&a, "\n") : NULL, *y = b ? strsep(&b, "\n") : NULL;

		if ((!x || !*x) && (!y || !*y))
			continue;
		bool same = x && y && !strcmp(x, y), wanted = x && !strstr(x, "  UNWANTED ");

		if (x)
			clean(x);
		if (y)
			clean(y);
		good += same && wanted;
		bad += !(same && wanted);
		if (same && wanted && quiet)
			continue;
		printf("%s - posix %s%s %u: %.200s\n", same && wanted ? "ok" : "not ok", name, user ? " as a user" : "", n, x ? x : y);
		if (!same)
			printf("#   natively: %s\n#   mounted:  %s\n", x ? x : "(nothing)", y ? y : "(nothing)");
	}
}

int main(int argc, char **argv)
{
	const char *only = NULL;
	int c;

	while ((c = getopt(argc, argv, "k:q")) != -1)
		switch (c) {
		case 'k': only = optarg; break;
		case 'q': quiet = true; break;
		default: return 2;
		}
	if (argc - optind != 2)
		return fputs("usage: posix [-k SUBSTRING] [-q] NATIVE MOUNT\n", stderr), 2;
	for (int i = 0; i < 2; i++)
		argv[optind + i] = realpath(argv[optind + i], NULL) ?: (die("%s", argv[optind + i]), NULL);
	for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
		for (int user = 0; user < 2; user++) {
			if (!(cases[i].who & (user ? AS_USER : AS_ROOT)) || (only && !strstr(cases[i].name, only)))
				continue;
			char *a = run_case(&cases[i], argv[optind], user, true), *b = run_case(&cases[i], argv[optind + 1], user, false);

			judge(cases[i].name, user, a, b);
			free(a);
			free(b);
		}
	printf("# posix: %lu checks as wanted, %lu not\n", good, bad);
	return bad ? 1 : 0;
}
