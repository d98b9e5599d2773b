/* Marks hold on every type of object and every local file system; copies and strangers are told apart. */
#include <stdarg.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/xattr.h>

#include "fs/base/log.h"
#include "tests/unit/handles_env.h"

static const struct { const char *name, *make; } Fs[] = {
	{ "ext4", "mkfs.ext4 -q -F" },
	{ "xfs", "mkfs.xfs -q -f" },
	{ "btrfs", "mkfs.btrfs -q -f" },
	{ "tmpfs", NULL },
};
enum { FS_COUNT = sizeof Fs / sizeof Fs[0], FS_MIB = 320 };

static char Dir[64], Mnt[96];
static struct place P;
static struct handles *H;
static bool Skipped;

__attribute__((format(printf, 1, 2))) static int run(const char *fmt, ...)
{
	char cmd[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof cmd, fmt, ap);
	va_end(ap);
	return system(cmd);
}

/* Mounts file system I; false, said loudly, when that can't be done here. */
static bool fs_up(int i)
{
	int r;

	strcpy(Dir, "/tmp/handles.mark.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(Dir));
	snprintf(Mnt, sizeof Mnt, "%s/mnt", Dir);
	mkdir(Mnt, 0755);
	if (!Fs[i].make)
		r = run("mount -t tmpfs -o size=64m none %s", Mnt);
	else
		r = run("truncate -s %dM %s/img && %s %s/img >/dev/null 2>&1 && mount -o loop %s/img %s", FS_MIB, Dir, Fs[i].make, Dir,
			Dir, Mnt);
	Skipped = r != 0;
	if (Skipped)
		fprintf(stderr, "# SKIP %s: can't be made or mounted here (not root?)\n", Fs[i].name);
	return !Skipped;
}

static void up(int i)
{
	if (!fs_up(i))
		return;
	char root[128];
	snprintf(root, sizeof root, "%s/root", Mnt);
	ck_assert_int_eq(mkdir(root, 0755), 0);
	place_make(&P, Dir, root);
	H = must_open(&P, false);
	make_root(H);
}

static void down(void)
{
	if (!Skipped) {
		handles_close(H);
		place_drop(&P);
		ck_assert_int_eq(umount(Mnt), 0);
	}
	place_rm(Dir);
}

static const char *const Names[] = { "file", "dir", "symlink", "dangling", "fifo", "socket", "chr", "blk", "hardlinked" };
enum { NAMES = sizeof Names / sizeof Names[0] };

static void make_objects(void)
{
	struct sockaddr_un sa = { .sun_family = AF_UNIX };
	int d = P.cfg.root_fd;

	close(openat(d, "file", O_CREAT | O_WRONLY, 0600));
	ck_assert(!mkdirat(d, "dir", 0700));
	ck_assert(!symlinkat("file", d, "symlink"));
	ck_assert(!symlinkat("/nowhere", d, "dangling"));
	ck_assert(!mkfifoat(d, "fifo", 0600));
	ck_assert(!mknodat(d, "chr", S_IFCHR | 0600, makedev(1, 3)));
	ck_assert(!mknodat(d, "blk", S_IFBLK | 0600, makedev(7, 200)));
	snprintf(sa.sun_path, sizeof sa.sun_path, "%s/root/socket", Mnt);
	int s = socket(AF_UNIX, SOCK_STREAM, 0);
	ck_assert(!bind(s, (struct sockaddr *)&sa, sizeof sa));
	close(s);
	close(openat(d, "hardlinked", O_CREAT | O_WRONLY, 0600));
	ck_assert(!linkat(d, "hardlinked", d, "second", 0));
}

static int opath(const char *name)
{
	int fd = openat(P.cfg.root_fd, name, O_PATH | O_NOFOLLOW);
	ck_assert_msg(fd >= 0, "%s: %s", name, strerror(errno));
	return fd;
}

START_TEST(every_type_on_every_file_system)
{
	uint64_t id[NAMES], got;
	struct local_handle lh;
	struct stat st;

	up(_i);
	if (Skipped)
		return down();
	make_objects();
	for (int k = 0; k < NAMES; k++) {
		struct hentry e = { 0 };
		int fd = opath(Names[k]);
		ck_assert_int_eq(mark_get(H, fd, &got, NULL), -ENODATA);
		ck_assert_int_eq(ids_next(H, &id[k]), 0);
		int r = mark_set(H, fd, id[k], &e);
		ck_assert_msg(!r, "%s on %s: %s", Names[k], Fs[_i].name, strerror(-r));
		ck_assert(!fstat(fd, &st) && e.ino == st.st_ino && e.id == id[k] && e.lh.len);
		ck_assert_int_eq(mark_get(H, fd, &got, &lh), 0);
		ck_assert(got == id[k] && lh.len == e.lh.len && !memcmp(lh.bytes, e.lh.bytes, lh.len));
		close(fd);
		fd = local_handle_open(H, &e.lh, O_PATH | O_NOFOLLOW);
		ck_assert_msg(fd >= 0, "%s on %s: open by handle: %s", Names[k], Fs[_i].name, strerror(-fd));
		ck_assert(!mark_get(H, fd, &got, NULL) && got == id[k]);
		close(fd);
	}
	int fd = opath("second");
	ck_assert(!mark_get(H, fd, &got, NULL) && got == id[NAMES - 1]);
	close(fd);
	fd = openat(P.cfg.root_fd, "file", O_RDONLY);
	ck_assert(!mark_get(H, fd, &got, NULL) && got == id[0]);
	ck_assert_int_eq(mark_remove(fd), 0);
	ck_assert_int_eq(mark_get(H, fd, &got, NULL), -ENODATA);
	ck_assert_int_eq(mark_remove(fd), 0);
	close(fd);
	down();
}
END_TEST

START_TEST(copies_and_strangers)
{
	struct hentry e = { 0 };
	uint64_t id, got;

	up(_i);
	if (Skipped)
		return down();
	make_objects();
	for (int k = 0; k < NAMES; k++) {
		int fd = opath(Names[k]);
		ck_assert_int_eq(ids_next(H, &id), 0);
		ck_assert_int_eq(mark_set(H, fd, id, &e), 0);
		close(fd);
	}
	ck_assert_int_eq(run("cd %s/root && mkdir copy && cp -a file dir symlink dangling fifo copy/", Mnt), 0);
	for (int k = 0; k < 5; k++) {
		char name[64];
		snprintf(name, sizeof name, "copy/%s", Names[k]);
		int fd = opath(name);
		ck_assert_msg(mark_get(H, fd, &got, NULL) == -ESTALE, "%s on %s", name, Fs[_i].name);
		close(fd);
	}
	int fd = opath("file");
	ck_assert_int_eq(renameat(P.cfg.root_fd, "file", P.cfg.root_fd, "copy/moved"), 0);
	ck_assert_int_eq(mark_get(H, fd, &got, NULL), 0);
	H->cfg.uuid[3] ^= 1;
	ck_assert_int_eq(mark_get(H, fd, &got, NULL), -EXDEV);
	H->cfg.uuid[3] ^= 1;
	char path[64];
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	static const char junk[300] = "junk";
	for (size_t n = 0; n <= sizeof junk; n += n < 40 ? 1 : 260) {
		ck_assert_int_eq(setxattr(path, MARK_XATTR, junk, n, 0), 0);
		ck_assert_int_eq(mark_get(H, fd, &got, NULL), -EXDEV);
	}
	/* the same inode number again is another object */
	ck_assert_int_eq(mark_set(H, fd, id, &e), 0);
	close(fd);
	ck_assert_int_eq(unlinkat(P.cfg.root_fd, "copy/moved", 0), 0);
	close(openat(P.cfg.root_fd, "again", O_CREAT | O_WRONLY, 0600));
	ck_assert_int_eq(local_handle_open(H, &e.lh, O_RDONLY), -ESTALE);
	down();
}
END_TEST

START_TEST(immutable_objects_get_marks_too)
{
	struct hentry e = { 0 };
	uint64_t id, got;

	up(_i);
	if (Skipped)
		return down();
	make_objects();
	ck_assert_int_eq(run("cd %s/root && chattr +i file && chattr +a dir", Mnt), 0);
	for (int k = 0; k < 2; k++) {
		int fd = opath(Names[k]);
		ck_assert_int_eq(ids_next(H, &id), 0);
		ck_assert_int_eq(mark_set(H, fd, id, &e), 0);
		ck_assert(!mark_get(H, fd, &got, NULL) && got == id);
		ck_assert_int_eq(mark_remove(fd), -EPERM);
		close(fd);
	}
	ck_assert_int_eq(run("cd %s/root && lsattr -d file | grep -q -- '^[^ ]*i' && lsattr -d dir | grep -q -- '^[^ ]*a'", Mnt), 0);
	ck_assert_int_eq(run("cd %s/root && chattr -i file && chattr -a dir", Mnt), 0);
	down();
}
END_TEST

/* Which handle xfs gives depends on a mount option; the mark must not. */
START_TEST(xfs_handles_of_both_forms)
{
	struct hentry e = { 0 };
	uint64_t id, got;

	up(1);
	if (Skipped)
		return down();
	close(openat(P.cfg.root_fd, "file", O_CREAT | O_WRONLY, 0600));
	int fd = opath("file");
	ck_assert_int_eq(ids_next(H, &id), 0);
	ck_assert_int_eq(mark_set(H, fd, id, &e), 0);
	close(fd);
	ck_assert_int_eq(index_put(H, &e), 0);
	handles_close(H);
	place_drop(&P);
	ck_assert_int_eq(umount(Mnt), 0);
	ck_assert_int_eq(run("mount -o loop,inode32 %s/img %s", Dir, Mnt), 0);
	char root[128];
	snprintf(root, sizeof root, "%s/root", Mnt);
	place_make(&P, Dir, root);
	H = must_open(&P, false);
	fd = opath("file");
	ck_assert_int_eq(mark_get(H, fd, &got, NULL), 0);
	ck_assert(got == id);
	close(fd);
	fd = local_handle_open(H, &e.lh, O_RDONLY);
	ck_assert_int_ge(fd, 0);
	close(fd);
	down();
}
END_TEST

/* A rebuild stays on its file system and walks below whatever is mounted over the root. */
START_TEST(rebuild_does_not_cross_mounts)
{
	struct hentry e;
	uint64_t in = 0;

	up(_i);
	if (Skipped)
		return down();
	int d = P.cfg.root_fd;
	ck_assert(!mkdirat(d, "a", 0755) && !mkdirat(d, "a/in", 0755) && !mkdirat(d, "m", 0755));
	for (int k = 0; k < 3; k++) {
		static const char *const names[] = { "a", "a/in", "m" };
		int fd = opath(names[k]);
		e = (struct hentry){ .type = S_IFDIR };
		ck_assert(!ids_next(H, &in) && !mark_set(H, fd, in, &e) && !index_put(H, &e));
		close(fd);
	}
	in--;
	ck_assert_int_eq(run("mount --bind %s/root/a %s/root/m && mount -t tmpfs none %s/root", Mnt, Mnt, Mnt), 0);
	handles_close(H);
	H = must_open(&P, true);
	ck_assert_int_eq(index_get(H, in, &e), 0);
	ck_assert_int_eq(index_get(H, HANDLE_ROOT, &e), 0);
	ck_assert_uint_eq(e.nsub, 1);	/* what is covered by a mount is a stranger */
	ck_assert_int_eq(run("umount %s/root && umount %s/root/m", Mnt, Mnt), 0);
	down();
}
END_TEST

START_TEST(hidden_names)
{
	ck_assert(xattr_hidden("trusted.tandemfs") && xattr_hidden("trusted.tandemfs.ids"));
	ck_assert(!xattr_hidden("trusted.tandem") && !xattr_hidden("user.tandemfs") && !xattr_hidden(""));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("handles mark");
	TCase *t = tcase_create("mark");

	log_init("handles_mark_test", LOG_SINK_STDERR, LOG_LVL_ERROR);
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, every_type_on_every_file_system, 0, FS_COUNT);
	tcase_add_loop_test(t, copies_and_strangers, 0, FS_COUNT);
	tcase_add_loop_test(t, immutable_objects_get_marks_too, 0, 3);
	tcase_add_test(t, xfs_handles_of_both_forms);
	tcase_add_loop_test(t, rebuild_does_not_cross_mounts, 0, 2);
	tcase_add_test(t, hidden_names);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
