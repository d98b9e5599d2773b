/*
 * The FUSE front over the local layer, through real system calls. The daemon is a child process (a process that serves its own page faults can
 * lock up), told what to do over a socket; the tests are its users.
 */
#include "tests/unit/local_env.h"

#include <dirent.h>
#include <linux/fs.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <sys/time.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <sys/xattr.h>

#include "fs/fuse.h"

enum { EXT4, XFS };

/* What the daemon tells about the calls that it got; shared memory. */
struct spy {
	_Atomic unsigned fsyncs, shared_blocks, changed_blocks;
};

struct vol {
	struct env e;		/* paths; the rest lives in the daemon */
	char mnt[300];
	pid_t pid;
	int ctl;
	struct spy *spy;
};

/* ---- the daemon ---- */

static struct spy *spy;
static struct layer_ops spied;
static const struct layer_ops *real;
enum { KEPT = 24 };
static struct { struct blk *b; const void *p; size_t len; unsigned char *copy; } kept[KEPT];
static unsigned nkept;
static pthread_mutex_t kept_mu = PTHREAD_MUTEX_INITIALIZER;

static int spy_fsync(struct layer *l, struct call *c, uint64_t id, struct file *f, bool datasync)
{
	spy->fsyncs++;
	return real->fsync(l, c, id, f, datasync);
}

/* Keeps the blocks of large writes, as a send queue would. */
static ssize_t spy_write(struct layer *l, struct call *c, struct file *f, const struct wdata *d, uint64_t off, unsigned flags, struct attr *a)
{
	if (d->owner) {
		pthread_mutex_lock(&kept_mu);
		if (nkept < KEPT) {
			kept[nkept].b = blk_ref(d->owner);
			kept[nkept].p = d->p;
			kept[nkept].len = d->len;
			kept[nkept].copy = malloc(d->len);
			memcpy(kept[nkept++].copy, d->p, d->len);
			spy->shared_blocks++;
		}
		pthread_mutex_unlock(&kept_mu);
	}
	return real->write(l, c, f, d, off, flags, a);
}

static void look_at_kept(void)
{
	pthread_mutex_lock(&kept_mu);
	for (unsigned i = 0; i < nkept; i++) {
		spy->changed_blocks += memcmp(kept[i].p, kept[i].copy, kept[i].len) != 0;
		blk_unref(kept[i].b);
		free(kept[i].copy);
	}
	nkept = 0;
	pthread_mutex_unlock(&kept_mu);
}

/* What a standby's apply would do: "seen" appears, "gone" goes away, "data" gets other bytes and mode. */
static void change_behind(struct env *e, struct observers *os, struct fuse_front *f)
{
	struct call c = { .origin = ORIGIN_APPLY };
	struct create cr = { .mode = S_IFREG | 0600 };
	struct setattr s = { .valid = SET_MODE, .mode = 0640 };
	struct attr a, gone;
	struct file *file;

	e->l->ops->create(e->l, &c, HANDLE_ROOT, "seen", &cr, 0, &a, NULL);
	observers_tell(os, &(struct change){ .kind = CHANGE_ENTRY, .origin = ORIGIN_APPLY, .id = HANDLE_ROOT, .name = "seen" });
	e->l->ops->lookup(e->l, &c, HANDLE_ROOT, "gone", &gone);
	e->l->ops->unlink(e->l, &c, HANDLE_ROOT, "gone");
	observers_tell(os, &(struct change){ .kind = CHANGE_ENTRY, .origin = ORIGIN_APPLY, .id = HANDLE_ROOT, .name = "gone", .child = gone.id });
	e->l->ops->lookup(e->l, &c, HANDLE_ROOT, "data", &a);
	e->l->ops->open(e->l, &c, a.id, O_WRONLY, &file);
	e->l->ops->write(e->l, &c, file, &(struct wdata){ .p = "NEW", .len = 3 }, 0, 0, NULL);
	e->l->ops->release(e->l, &c, file);
	observers_tell(os, &(struct change){ .kind = CHANGE_DATA, .origin = ORIGIN_APPLY, .id = a.id, .off = 0, .len = 3 });
	e->l->ops->setattr(e->l, &c, a.id, NULL, &s, &a);
	observers_tell(os, &(struct change){ .kind = CHANGE_ATTR, .origin = ORIGIN_APPLY, .id = a.id });
	fuse_front_settle(f);
}

/* More changes than the ring holds, then a real one that finds no place. */
static void change_too_much(struct env *e, struct observers *os, struct fuse_front *f)
{
	struct call c = { .origin = ORIGIN_APPLY };

	e->l->ops->unlink(e->l, &c, HANDLE_ROOT, "victim");
	for (int i = 0; i < 300000; i++)
		observers_tell(os, &(struct change){ .kind = CHANGE_ENTRY, .origin = ORIGIN_APPLY, .id = HANDLE_ROOT, .name = "never there",
						     .child = 0xfff000000 + (uint64_t)i });
	fuse_front_settle(f);
}

static void say(int ctl, int r) { if (write(ctl, &r, sizeof r) != sizeof r) _exit(9); }
static int ctl_of_daemon;
static void gone(void *arg) { (void)arg; say(ctl_of_daemon, 4711); }

static void daemon_main(struct vol *v, int ctl)
{
	struct observers os = { 0 };
	struct lock_table *locks;
	struct fuse_front *f;
	struct fuse_front_config cfg = { .observers = &os, .mount_point = v->mnt, .volume = "unit", .generation = 77, .gone = gone };
	char cmd;
	int r;

	spy = v->spy;
	ctl_of_daemon = ctl;
	env_start(&v->e, false);
	real = v->e.l->ops;
	spied = *real;
	spied.fsync = spy_fsync;
	spied.write = spy_write;
	v->e.l->ops = &spied;
	ck_assert_int_eq(lock_table_new(&locks), 0);
	cfg.top = v->e.l;
	cfg.locks = locks;
	ck_assert_int_eq(fuse_front_new(&cfg, &f), 0);
	r = fuse_front_mount(f);
	if (!r)
		r = fuse_front_run(f);
	say(ctl, r);
	while (!r && read(ctl, &cmd, 1) == 1) {
		int answer = 0;

		if (cmd == 's' || cmd == 'f')
			answer = fuse_front_stop(f, cmd == 'f');
		else if (cmd == 'c')
			change_behind(&v->e, &os, f);
		else if (cmd == 'm')
			change_too_much(&v->e, &os, f);
		else if (cmd == 'k')
			look_at_kept();
		say(ctl, answer);
		if ((cmd == 's' || cmd == 'f') && !answer)
			break;
	}
	fuse_front_stop(f, true);
	look_at_kept();
	fuse_front_free(f);
	lock_table_free(locks);
	env_stop(&v->e);
	exit(0);
}

/* ---- its users ---- */

static int vol_start(struct vol *v)
{
	int sv[2], r = -1;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv), 0);
	v->pid = fork();
	if (!v->pid) {
		close(sv[0]);
		daemon_main(v, sv[1]);
	}
	close(sv[1]);
	v->ctl = sv[0];
	ck_assert_int_eq(read(v->ctl, &r, sizeof r), sizeof r);
	return r;
}

static int vol_tell(struct vol *v, char cmd)
{
	int r = -1;

	ck_assert_int_eq(write(v->ctl, &cmd, 1), 1);
	ck_assert_int_eq(read(v->ctl, &r, sizeof r), sizeof r);
	return r;
}

static void vol_wait(struct vol *v)
{
	int st;

	ck_assert_int_eq(waitpid(v->pid, &st, 0), v->pid);
	ck_assert_msg(WIFEXITED(st) && !WEXITSTATUS(st), "daemon ended with %x", (unsigned)st);
	close(v->ctl);
}

/* Whoever walks through all mounts just now (another namespace being made, df) keeps it busy for a moment. */
static void vol_stop(struct vol *v)
{
	int r = -EBUSY;

	ck_assert_int_eq(chdir("/"), 0);
	for (int i = 0; i < 300 && r == -EBUSY; i++)
		if ((r = vol_tell(v, 's')) == -EBUSY)
			poll(NULL, 0, 10);
	ck_assert_int_eq(r, 0);
	vol_wait(v);
}

static void vol_open(struct vol *v, int fs)
{
	*v = (struct vol){ .e.node = 1 };
	env_open(&v->e, fs);		/* makes the directories */
	env_stop(&v->e);
	snprintf(v->mnt, sizeof v->mnt, "%s.mnt", v->e.root);
	ck_assert_int_eq(mkdir(v->mnt, 0755), 0);
	v->spy = mmap(NULL, sizeof *v->spy, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ck_assert_int_eq(vol_start(v), 0);
	ck_assert_int_eq(chdir(v->mnt), 0);
}

static void vol_close(struct vol *v)
{
	vol_stop(v);
	munmap(v->spy, sizeof *v->spy);
	rmdir(v->mnt);
	env_sh("rm -rf %s %s", v->e.root, v->e.state);
}

static void put(const char *name, const char *text)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_TRUNC, 0644);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

static const char *get(const char *name)
{
	static char buf[4096];
	int fd = open(name, O_RDONLY);
	ssize_t n = read(fd, buf, sizeof buf - 1);

	ck_assert_int_ge(n, 0);
	buf[n] = '\0';
	close(fd);
	return buf;
}

static mode_t mode_of(const char *name)
{
	struct stat st;

	ck_assert_int_eq(stat(name, &st), 0);
	return st.st_mode & 07777;
}

/* Runs FN in a child, as user UID when not 0; its result. */
static int as(uid_t uid, int (*fn)(void))
{
	pid_t pid = fork();
	int st;

	if (!pid) {
		if (uid && (setgid(uid) || setuid(uid)))
			_exit(99);
		_exit(fn());
	}
	ck_assert_int_eq(waitpid(pid, &st, 0), pid);
	return WIFEXITED(st) ? WEXITSTATUS(st) : 100 + WTERMSIG(st);
}

START_TEST(files_and_directories)
{
	struct vol v;
	struct stat a, b;
	char long_name[260];

	vol_open(&v, _i);
	put("a", "hello");
	ck_assert_str_eq(get("a"), "hello");
	ck_assert_int_eq(link("a", "b"), 0);
	ck_assert_int_eq(mkdir("d", 0755), 0);
	ck_assert_int_eq(rename("a", "d/c"), 0);
	ck_assert_int_eq(stat("b", &a), 0);
	ck_assert_int_eq(stat("d/c", &b), 0);
	ck_assert_uint_eq(a.st_ino, b.st_ino);
	ck_assert_uint_eq(a.st_nlink, 2);
	ck_assert_int_eq(a.st_blksize, 4096);
	ck_assert_int_eq(symlink("d/c", "s"), 0);
	ck_assert_str_eq(get("s"), "hello");
	ck_assert_int_eq(unlink("b"), 0);
	ck_assert_int_eq(stat("d/c", &b), 0);
	ck_assert_uint_eq(b.st_nlink, 1);
	ck_assert_int_eq(stat(".", &a), 0);
	ck_assert_uint_eq(a.st_ino, HANDLE_ROOT);
	ck_assert_uint_eq(a.st_nlink, 3);
	ck_assert_int_eq(rmdir("d"), -1);
	ck_assert_int_eq(errno, ENOTEMPTY);
	memset(long_name, 'x', sizeof long_name);
	long_name[256] = '\0';
	ck_assert_int_eq(open(long_name, O_CREAT | O_WRONLY, 0644), -1);
	ck_assert_int_eq(errno, ENAMETOOLONG);
	long_name[255] = '\0';
	put(long_name, "long");
	ck_assert_int_eq(access(".tandemfs", F_OK), -1);
	ck_assert_int_eq(errno, ENOENT);
	vol_close(&v);
}
END_TEST

START_TEST(listings_agree_with_stat)
{
	struct vol v;
	struct stat st;
	struct dirent *e;
	unsigned n = 0;
	char name[32];

	vol_open(&v, _i);
	ck_assert_int_eq(mkdir("d", 0755), 0);
	ck_assert_int_eq(chdir("d"), 0);
	for (int i = 0; i < 2000; i++) {
		snprintf(name, sizeof name, "file-%d", i);
		put(name, "");
	}
	for (int round = 0; round < 2; round++) {	/* the second after the attributes were asked for: readdirplus */
		DIR *d = opendir(".");

		for (n = 0; (e = readdir(d)); n++) {
			ck_assert_int_eq(stat(e->d_name, &st), 0);
			if (strcmp(e->d_name, ".."))
				ck_assert_uint_eq(st.st_ino, e->d_ino);
		}
		closedir(d);
		ck_assert_uint_eq(n, 2002);
	}
	vol_close(&v);
}
END_TEST

START_TEST(tmpfile_gets_a_name)
{
	struct vol v;
	struct stat st;
	char path[64];
	int fd;

	vol_open(&v, _i);
	fd = open(".", O_TMPFILE | O_RDWR, 0640);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, "tmp", 3), 3);
	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert_uint_eq(st.st_nlink, 0);
	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	ck_assert_int_eq(linkat(AT_FDCWD, path, AT_FDCWD, "named", AT_SYMLINK_FOLLOW), 0);
	close(fd);
	ck_assert_str_eq(get("named"), "tmp");
	ck_assert_int_eq(stat("named", &st), 0);
	ck_assert_uint_eq(st.st_nlink, 1);
	ck_assert_uint_eq(st.st_mode & 07777, 0640);
	vol_close(&v);
}
END_TEST

START_TEST(unlinked_open_files_live_on)
{
	struct vol v;
	struct stat st;
	char buf[8] = "";
	int fd;

	vol_open(&v, _i);
	put("f", "still");
	fd = open("f", O_RDWR);
	ck_assert_int_eq(unlink("f"), 0);
	ck_assert_int_eq(pread(fd, buf, 5, 0), 5);
	ck_assert_str_eq(buf, "still");
	ck_assert_int_eq(pwrite(fd, "!", 1, 5), 1);
	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert_uint_eq(st.st_nlink, 0);
	ck_assert_int_eq(st.st_size, 6);
	ck_assert_int_eq(fchmod(fd, 0600), 0);
	ck_assert_int_eq(ftruncate(fd, 2), 0);
	close(fd);
	vol_close(&v);
}
END_TEST

START_TEST(append_goes_to_the_end)
{
	struct vol v;
	int a, b;

	vol_open(&v, _i);
	put("f", "");
	a = open("f", O_WRONLY | O_APPEND);
	b = open("f", O_WRONLY | O_APPEND);
	for (int i = 0; i < 5; i++) {
		ck_assert_int_eq(write(a, "a", 1), 1);
		ck_assert_int_eq(write(b, "b", 1), 1);
	}
	ck_assert_str_eq(get("f"), "ababababab");
	fcntl(a, F_SETFL, 0);
	ck_assert_int_eq(pwrite(a, "X", 1, 0), 1);
	ck_assert_str_eq(get("f"), "Xbabababab");
	close(a);
	close(b);
	vol_close(&v);
}
END_TEST

/* ---- setuid and setgid ---- */

static int user_writes(void) { int fd = open("f", O_WRONLY); return write(fd, "x", 1) != 1; }
static int user_truncates(void) { return truncate("f", 1) != 0; }
static int user_opens_trunc(void) { return open("f", O_WRONLY | O_TRUNC) < 0; }
static int user_allocates(void) { int fd = open("f", O_WRONLY); return fallocate(fd, 0, 0, 4096) != 0; }
static int user_chowns_nothing(void) { return chown("f", (uid_t)-1, (gid_t)-1); }
static int user_maps(void)
{
	int fd = open("f", O_RDWR);
	char *p = mmap(NULL, 1, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	*p = 'm';
	return msync(p, 1, MS_SYNC) || close(fd);
}

START_TEST(changes_by_users_clear_setuid)
{
	static int (*const changes[])(void) = { user_writes, user_truncates, user_opens_trunc, user_allocates };
	struct vol v;

	vol_open(&v, _i);
	for (unsigned i = 0; i < 4; i++) {
		put("f", "some text");
		ck_assert_int_eq(chmod("f", 06777), 0);
		ck_assert_uint_eq(mode_of("f"), 06777);
		ck_assert_int_eq(as(0, changes[i]), 0);
		ck_assert_uint_eq(mode_of("f"), 06777);
		ck_assert_int_eq(as(5000, changes[i]), 0);
		ck_assert_msg(mode_of("f") == 0777, "change %u leaves mode %o", i, mode_of("f"));
	}
	ck_assert_int_eq(chmod("f", 06777), 0);
	as(5000, user_chowns_nothing);
	ck_assert_uint_eq(mode_of("f"), 06777);		/* it isn't his */
	ck_assert_int_eq(chown("f", (uid_t)-1, (gid_t)-1), 0);
	ck_assert_uint_eq(mode_of("f"), 0777);
	ck_assert_int_eq(chmod("f", 06777), 0);
	ck_assert_int_eq(chown("f", 5000, 5000), 0);
	ck_assert_uint_eq(mode_of("f"), 0777);
	/* setgid without group execution stays when the writer is in the group. */
	ck_assert_int_eq(chmod("f", 02666), 0);
	ck_assert_int_eq(as(5000, user_writes), 0);
	ck_assert_uint_eq(mode_of("f"), 02666);
	ck_assert_int_eq(as(5001, user_writes), 0);
	ck_assert_uint_eq(mode_of("f"), 0666);
	put("f", "text");
	ck_assert_int_eq(as(0, user_maps), 0);
	ck_assert_str_eq(get("f"), "mext");
	vol_close(&v);
}
END_TEST

static int user_sets_acl(void)
{
	/* version 2; user::rwx, group::r-x, other::r-- */
	static const unsigned char acl[] = { 2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 4, 0, 5, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255 };

	return setxattr("f", "system.posix_acl_access", acl, sizeof acl, 0) ? errno : 0;
}

START_TEST(acl_by_an_outsider_clears_setgid)
{
	struct vol v;

	vol_open(&v, _i);
	put("f", "");
	ck_assert_int_eq(chown("f", 5000, 6000), 0);
	ck_assert_int_eq(chmod("f", 02755), 0);
	ck_assert_int_eq(as(5000, user_sets_acl), 0);
	ck_assert_uint_eq(mode_of("f"), 0754);
	vol_close(&v);
}
END_TEST

START_TEST(xattrs_of_all_sizes)
{
	static char value[65536], back[65536];
	size_t sizes[] = { 0, 1, 100, 3000, 20000, 65536 };
	char list[256];
	struct vol v;

	vol_open(&v, XFS);
	put("f", "");
	memset(value, 'v', sizeof value);
	for (unsigned i = 0; i < 6; i++) {
		ck_assert_int_eq(setxattr("f", "user.some-name", value, sizes[i], i ? XATTR_REPLACE : XATTR_CREATE), 0);
		ck_assert_int_eq(getxattr("f", "user.some-name", NULL, 0), (ssize_t)sizes[i]);
		ck_assert_int_eq(getxattr("f", "user.some-name", back, sizeof back), (ssize_t)sizes[i]);
		ck_assert_mem_eq(value, back, sizes[i]);
	}
	ck_assert_int_eq(getxattr("f", "user.some-name", back, 10), -1);
	ck_assert_int_eq(errno, ERANGE);
	ck_assert_int_eq(setxattr("f", "user.some-name", "", 0, XATTR_CREATE), -1);
	ck_assert_int_eq(errno, EEXIST);
	ck_assert_int_eq(listxattr("f", list, sizeof list), 15);
	ck_assert_str_eq(list, "user.some-name");
	ck_assert_int_eq(getxattr("f", MARK_XATTR, back, sizeof back), -1);
	ck_assert_int_eq(setxattr("f", MARK_XATTR, "x", 1, 0), -1);
	ck_assert_int_eq(removexattr("f", MARK_XATTR), -1);
	ck_assert_int_eq(removexattr("f", "user.some-name"), 0);
	ck_assert_int_eq(listxattr("f", list, sizeof list), 0);
	vol_close(&v);
}
END_TEST

START_TEST(inode_flags)
{
	struct vol v;
	struct fsxattr x;
	int fd, fl = 0;

	vol_open(&v, _i);
	put("f", "");
	fd = open("f", O_RDONLY);
	ck_assert_int_eq(ioctl(fd, FS_IOC_GETFLAGS, &fl), 0);
	fl |= FS_IMMUTABLE_FL;
	ck_assert_int_eq(ioctl(fd, FS_IOC_SETFLAGS, &fl), 0);
	ck_assert_int_eq(unlink("f"), -1);
	ck_assert_int_eq(errno, EPERM);
	ck_assert_int_eq(ioctl(fd, FS_IOC_FSGETXATTR, &x), 0);
	ck_assert_uint_ne(x.fsx_xflags & FS_XFLAG_IMMUTABLE, 0);
	x.fsx_xflags = (x.fsx_xflags & ~(unsigned)FS_XFLAG_IMMUTABLE) | FS_XFLAG_NODUMP;
	ck_assert_int_eq(ioctl(fd, FS_IOC_FSSETXATTR, &x), 0);
	ck_assert_int_eq(ioctl(fd, FS_IOC_GETFLAGS, &fl), 0);
	ck_assert_int_eq(fl & FS_IMMUTABLE_FL, 0);
	ck_assert_int_ne(fl & FS_NODUMP_FL, 0);
	ck_assert_int_eq(unlink("f"), 0);
	close(fd);
	vol_close(&v);
}
END_TEST

START_TEST(holes_and_copies)
{
	static char block[65536];
	struct vol v;
	int a, b;
	off_t ia = 0, ib = 65536;

	vol_open(&v, _i);
	memset(block, 'B', sizeof block);
	a = open("a", O_RDWR | O_CREAT, 0644);
	b = open("b", O_RDWR | O_CREAT, 0644);
	ck_assert_int_eq(pwrite(a, block, sizeof block, 1 << 20), sizeof block);
	ck_assert_int_eq(lseek(a, 0, SEEK_DATA), 1 << 20);
	ck_assert_int_eq(lseek(a, 1 << 20, SEEK_HOLE), (1 << 20) + 65536);
	ck_assert_int_eq(fallocate(a, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1 << 20, 65536), 0);
	ck_assert_int_eq(lseek(a, 0, SEEK_DATA), -1);
	ck_assert_int_eq(errno, ENXIO);
	ck_assert_int_eq(pwrite(a, block, sizeof block, 0), sizeof block);
	ck_assert_int_eq(copy_file_range(a, &ia, b, &ib, 65536, 0), 65536);
	ck_assert_int_eq(pread(b, block, 4096, 65536), 4096);
	ck_assert_int_eq(block[4095], 'B');
	close(a);
	close(b);
	vol_close(&v);
}
END_TEST

START_TEST(synchronous_writes_reach_fsync)
{
	static char page[4096] __attribute__((aligned(4096)));
	static const int flags[] = { O_SYNC, O_DSYNC, O_DSYNC | O_DIRECT, O_SYNC | O_DIRECT };
	struct vol v;

	vol_open(&v, EXT4);
	for (unsigned i = 0; i < 4; i++) {
		int fd = open("f", O_WRONLY | O_CREAT | flags[i], 0644);
		unsigned before = v.spy->fsyncs;

		ck_assert_int_ge(fd, 0);
		ck_assert_int_eq(pwrite(fd, page, sizeof page, 0), sizeof page);
		ck_assert_msg(v.spy->fsyncs == before + 1, "flags %o: %u fsyncs, before %u", (unsigned)flags[i], v.spy->fsyncs, before);
		close(fd);
	}
	int fd = open(".", O_RDONLY);
	unsigned before = v.spy->fsyncs;

	ck_assert_int_eq(fsync(fd), 0);
	ck_assert_uint_eq(v.spy->fsyncs, before + 1);
	close(fd);
	vol_close(&v);
}
END_TEST

START_TEST(direct_io_and_mappings_cohere)
{
	static char page[4096] __attribute__((aligned(4096)));
	struct vol v;
	int d, c;
	char *p;

	vol_open(&v, _i);
	c = open("f", O_RDWR | O_CREAT, 0644);
	ck_assert_int_eq(write(c, page, sizeof page), sizeof page);
	d = open("f", O_RDWR | O_DIRECT);
	p = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, d, 0);
	ck_assert(p != MAP_FAILED);
	p[7] = 'm';
	ck_assert_int_eq(msync(p, 4096, MS_SYNC), 0);
	ck_assert_int_eq(pread(d, page, sizeof page, 0), sizeof page);
	ck_assert_int_eq(page[7], 'm');
	page[8] = 'd';
	ck_assert_int_eq(pwrite(d, page, sizeof page, 0), sizeof page);
	ck_assert_int_eq(p[8], 'd');
	ck_assert_int_eq(pread(c, page, 1, 8), 1);
	ck_assert_int_eq(page[0], 'd');
	munmap(p, 4096);
	close(c);
	close(d);
	vol_close(&v);
}
END_TEST

/* Blocks that a queue holds on to are not written to again. */
START_TEST(kept_blocks_stay_as_they_were)
{
	static char mib[1 << 20], back[1 << 20];
	struct vol v;
	int fd;

	vol_open(&v, EXT4);
	fd = open("f", O_RDWR | O_CREAT, 0644);
	for (int i = 0; i < 2 * KEPT; i++) {
		memset(mib, i + 1, sizeof mib);
		ck_assert_int_eq(pwrite(fd, mib, sizeof mib, (off_t)i << 20), sizeof mib);
	}
	ck_assert_uint_eq(v.spy->shared_blocks, KEPT);
	ck_assert_int_eq(vol_tell(&v, 'k'), 0);
	ck_assert_uint_eq(v.spy->changed_blocks, 0);
	for (int i = 0; i < 2 * KEPT; i++) {
		memset(mib, i + 1, sizeof mib);
		ck_assert_int_eq(pread(fd, back, sizeof back, (off_t)i << 20), sizeof back);
		ck_assert_mem_eq(mib, back, sizeof mib);
	}
	close(fd);
	vol_close(&v);
}
END_TEST

/* ---- locks ---- */

static int lock_fd(int fd, int cmd, short type, off_t start, off_t len)
{
	struct flock fl = { .l_type = type, .l_whence = SEEK_SET, .l_start = start, .l_len = len };

	return fcntl(fd, cmd, &fl) ? errno : 0;
}
static int try_write_lock(void) { return lock_fd(open("f", O_RDWR), F_SETLK, F_WRLCK, 0, 10); }
static int try_flock(void) { return flock(open("f", O_RDWR), LOCK_EX | LOCK_NB) ? errno : 0; }

START_TEST(locks_are_kept_and_dropped)
{
	struct flock fl = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = 0, .l_len = 0 };
	struct vol v;
	int fd, other;

	vol_open(&v, EXT4);
	put("f", "0123456789");
	fd = open("f", O_RDWR);
	other = open("f", O_RDWR);
	ck_assert_int_eq(lock_fd(fd, F_SETLK, F_RDLCK, 5, 3), 0);
	ck_assert_int_eq(as(0, try_write_lock), EAGAIN);
	ck_assert_int_eq(lock_fd(fd, F_SETLK, F_UNLCK, 5, 3), 0);
	ck_assert_int_eq(as(0, try_write_lock), 0);
	ck_assert_int_eq(lock_fd(fd, F_SETLK, F_WRLCK, 0, 0), 0);
	ck_assert_int_eq(fcntl(other, F_GETLK, &fl), 0);
	ck_assert_int_eq(fl.l_type, F_UNLCK);		/* our own */
	close(other);					/* any close drops them */
	ck_assert_int_eq(as(0, try_write_lock), 0);
	/* Locks of the open file: other closes don't matter, its own does. */
	other = open("f", O_RDWR);
	ck_assert_int_eq(lock_fd(fd, F_OFD_SETLK, F_WRLCK, 0, 5), 0);
	fl = (struct flock){ .l_type = F_WRLCK };
	ck_assert_int_eq(fcntl(other, F_GETLK, &fl), 0);
	ck_assert_int_eq(fl.l_type, F_WRLCK);
	ck_assert_int_eq(fl.l_len, 5);
	close(other);
	ck_assert_int_eq(as(0, try_write_lock), EAGAIN);
	close(fd);
	for (int i = 0; i < 5000 && as(0, try_write_lock); i++)	/* RELEASE is asynchronous */
		sched_yield();
	ck_assert_int_eq(as(0, try_write_lock), 0);
	fd = open("f", O_RDONLY);
	ck_assert_int_eq(flock(fd, LOCK_SH), 0);
	ck_assert_int_eq(as(0, try_flock), EAGAIN);
	ck_assert_int_eq(as(0, try_write_lock), 0);
	ck_assert_int_eq(flock(fd, LOCK_UN), 0);
	ck_assert_int_eq(as(0, try_flock), 0);
	close(fd);
	vol_close(&v);
}
END_TEST

static int pipe_fd[2];
static void on_alarm(int sig) { (void)sig; }

/* Says that it is about to wait, waits for the lock, says so. */
static int waiter(int cmd)
{
	int fd = open("f", O_RDWR), r;

	if (write(pipe_fd[1], "w", 1) != 1)
		return 98;
	r = cmd < 0 ? (flock(fd, LOCK_EX) ? errno : 0) : lock_fd(fd, F_SETLKW, F_WRLCK, 0, 10);
	return r;
}
static int wait_posix(void) { return waiter(0); }
static int wait_flock(void) { return waiter(-1); }
static int wait_interrupted(void)
{
	struct sigaction sa = { .sa_handler = on_alarm };
	struct itimerval it = { .it_value.tv_usec = 200000 };

	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &it, NULL);
	return waiter(0);
}

static int spawn(int (*fn)(void), char *said)
{
	pid_t pid = fork();

	if (!pid)
		_exit(fn());
	ck_assert_int_eq(read(pipe_fd[0], said, 1), 1);
	return pid;
}
static int reap(pid_t pid)
{
	int st;

	ck_assert_int_eq(waitpid(pid, &st, 0), pid);
	return WIFEXITED(st) ? WEXITSTATUS(st) : 100 + WTERMSIG(st);
}

START_TEST(waiting_for_locks)
{
	static int (*const waiters[])(void) = { wait_posix, wait_flock };
	struct vol v;
	char said;
	pid_t p[20];

	vol_open(&v, EXT4);
	ck_assert_int_eq(pipe(pipe_fd), 0);
	put("f", "0123456789");
	for (int i = 0; i < 2; i++) {
		int fd = open("f", O_RDWR);

		ck_assert_int_eq(i ? flock(fd, LOCK_EX) : lock_fd(fd, F_SETLK, F_WRLCK, 0, 10), 0);
		/* More waiters than the front has threads, and it still serves. */
		for (int k = 0; k < 20; k++)
			p[k] = spawn(waiters[i], &said);
		put("other", "served");
		ck_assert_str_eq(get("other"), "served");
		if (i)
			flock(fd, LOCK_UN);
		else
			lock_fd(fd, F_SETLK, F_UNLCK, 0, 10);
		for (int k = 0; k < 20; k++)
			ck_assert_int_eq(reap(p[k]), 0);
		close(fd);
	}
	int fd = open("f", O_RDWR);

	ck_assert_int_eq(lock_fd(fd, F_SETLK, F_WRLCK, 0, 10), 0);
	ck_assert_int_eq(reap(spawn(wait_interrupted, &said)), EINTR);
	p[0] = spawn(wait_posix, &said);
	kill(p[0], SIGKILL);
	ck_assert_int_eq(reap(p[0]), 100 + SIGKILL);
	lock_fd(fd, F_SETLK, F_UNLCK, 0, 10);
	ck_assert_int_eq(as(0, try_write_lock), 0);
	close(fd);
	close(pipe_fd[0]);
	close(pipe_fd[1]);
	vol_close(&v);
}
END_TEST

/* ---- handles, caches, life ---- */

struct fhandle { struct file_handle h; unsigned char b[MAX_HANDLE_SZ]; };

START_TEST(handles_survive_a_cold_restart)
{
	struct fhandle h[3] = { 0 }, wrong;
	static const char *const names[] = { "d/e", "d/e/f", "d/s" };
	struct vol v;
	struct stat st;
	int mnt_id, dir;

	vol_open(&v, _i);
	ck_assert_int_eq(mkdir("d", 0755), 0);
	ck_assert_int_eq(mkdir("d/e", 0755), 0);
	put("d/e/f", "deep");
	ck_assert_int_eq(symlink("x", "d/s"), 0);
	for (int i = 0; i < 3; i++) {
		h[i].h.handle_bytes = MAX_HANDLE_SZ;
		ck_assert_int_eq(name_to_handle_at(AT_FDCWD, names[i], &h[i].h, &mnt_id, 0), 0);
		ck_assert_int_eq(stat(i == 2 ? "d" : names[i], &st), 0);
		uint32_t words[3];
		memcpy(words, h[i].h.f_handle, 12);
		if (i < 2)
			ck_assert_uint_eq(((uint64_t)words[0] << 32) | words[1], st.st_ino);
		ck_assert_uint_eq(words[2], 77);
	}
	ck_assert_int_eq(rename("d/e/f", "moved"), 0);
	vol_stop(&v);
	ck_assert_int_eq(vol_start(&v), 0);
	dir = open(v.mnt, O_RDONLY | O_DIRECTORY);
	for (int i = 0; i < 3; i++) {
		int fd = open_by_handle_at(dir, &h[i].h, O_PATH | O_NOFOLLOW);

		ck_assert_msg(fd >= 0, "%s: %s", names[i], strerror(errno));
		close(fd);
	}
	wrong = h[1];
	wrong.b[5] ^= 0x40;	/* an id that never was */
	ck_assert_int_eq(open_by_handle_at(dir, &wrong.h, O_PATH), -1);
	ck_assert_int_eq(errno, ESTALE);
	ck_assert_int_eq(chdir(v.mnt), 0);
	ck_assert_int_eq(unlink("moved"), 0);
	ck_assert_int_eq(open_by_handle_at(dir, &h[1].h, O_PATH), -1);
	ck_assert_int_eq(errno, ESTALE);
	close(dir);
	vol_close(&v);
}
END_TEST

START_TEST(changes_by_others_are_seen)
{
	struct vol v;
	struct stat st;
	int fd;

	vol_open(&v, _i);
	put("gone", "x");
	put("data", "old");
	ck_assert_int_eq(link("gone", "twin"), 0);
	ck_assert_int_eq(stat("seen", &st), -1);
	ck_assert_int_eq(stat("gone", &st), 0);
	fd = open("data", O_RDONLY);
	ck_assert_str_eq(get("data"), "old");
	ck_assert_int_eq(vol_tell(&v, 'c'), 0);
	ck_assert_int_eq(stat("seen", &st), 0);
	ck_assert_int_eq(stat("gone", &st), -1);
	ck_assert_int_eq(stat("twin", &st), 0);
	ck_assert_uint_eq(st.st_nlink, 1);
	ck_assert_str_eq(get("data"), "NEW");
	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0640);
	close(fd);
	vol_close(&v);
}
END_TEST

START_TEST(a_flood_of_changes_loses_none)
{
	struct vol v;
	struct stat st;
	struct utsname u;
	int major = 0, minor = 0;

	uname(&u);
	if (sscanf(u.release, "%d.%d", &major, &minor) == 2 && (major < 6 || (major == 6 && minor < 16)))
		return;		/* the kernel can't do that yet; the log says so */
	vol_open(&v, EXT4);
	put("victim", "");
	ck_assert_int_eq(stat("victim", &st), 0);
	ck_assert_int_eq(vol_tell(&v, 'm'), 0);
	ck_assert_int_eq(stat("victim", &st), -1);
	vol_close(&v);
}
END_TEST

START_TEST(mount_points_in_use_and_dead)
{
	struct vol v, w;
	int r, fd;

	vol_open(&v, EXT4);
	ck_assert_int_eq(chdir("/"), 0);
	w = v;
	env_open(&w.e, EXT4);
	env_stop(&w.e);
	ck_assert_int_eq(vol_start(&w), -EBUSY);	/* another daemon, the same mount point */
	vol_wait(&w);
	fd = open(v.mnt, O_RDONLY);
	ck_assert_int_eq(vol_tell(&v, 's'), -EBUSY);	/* in use: goes on */
	ck_assert_int_eq(chdir(v.mnt), 0);
	put("f", "on");
	ck_assert_int_eq(chdir("/"), 0);
	ck_assert_int_eq(vol_tell(&v, 'f'), 0);
	vol_wait(&v);
	close(fd);
	ck_assert_int_eq(vol_start(&v), 0);
	kill(v.pid, SIGKILL);
	waitpid(v.pid, &r, 0);
	close(v.ctl);
	ck_assert_int_eq(access(v.mnt, F_OK), -1);
	ck_assert_int_eq(errno, ENOTCONN);
	ck_assert_int_eq(vol_start(&v), 0);		/* and over the dead mount */
	ck_assert_int_eq(chdir(v.mnt), 0);
	ck_assert_str_eq(get("f"), "on");
	ck_assert_int_eq(chdir("/"), 0);
	ck_assert_int_eq(umount2(v.mnt, 0), 0);		/* umount(8) */
	ck_assert_int_eq(read(v.ctl, &r, sizeof r), sizeof r);
	ck_assert_int_eq(r, 4711);
	ck_assert_int_eq(vol_tell(&v, 's'), 0);
	vol_wait(&v);
}
END_TEST

/* Another mount namespace keeps a copy of the mount alive: the daemon ends all the same. */
START_TEST(a_copy_elsewhere_does_not_hold_the_stop)
{
	struct vol v;
	char said;
	pid_t pid;
	int r, hold[2];

	vol_open(&v, EXT4);
	ck_assert_int_eq(pipe(pipe_fd), 0);
	ck_assert_int_eq(pipe(hold), 0);
	pid = fork();
	if (!pid) {
		close(hold[1]);
		r = chdir("/") || unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) || write(pipe_fd[1], "u", 1) != 1;
		_exit(r || read(hold[0], &said, 1));
	}
	ck_assert_int_eq(read(pipe_fd[0], &said, 1), 1);
	vol_stop(&v);
	close(hold[0]);
	close(hold[1]);
	ck_assert_int_eq(reap(pid), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("fuse");
	TCase *c = tcase_create("fuse");

	if (access("/dev/fuse", R_OK | W_OK)) {
		printf("1..0 # SKIP no /dev/fuse\n");
		return 0;
	}
	if (!env_setup())
		return 0;
	tcase_set_timeout(c, 60);
	tcase_add_loop_test(c, files_and_directories, 0, 2);
	tcase_add_loop_test(c, listings_agree_with_stat, 0, 2);
	tcase_add_loop_test(c, tmpfile_gets_a_name, 0, 2);
	tcase_add_loop_test(c, unlinked_open_files_live_on, 0, 2);
	tcase_add_loop_test(c, append_goes_to_the_end, 0, 2);
	tcase_add_loop_test(c, changes_by_users_clear_setuid, 0, 2);
	tcase_add_loop_test(c, acl_by_an_outsider_clears_setgid, 0, 2);
	tcase_add_test(c, xattrs_of_all_sizes);
	tcase_add_loop_test(c, inode_flags, 0, 2);
	tcase_add_loop_test(c, holes_and_copies, 0, 2);
	tcase_add_test(c, synchronous_writes_reach_fsync);
	tcase_add_loop_test(c, direct_io_and_mappings_cohere, 0, 2);
	tcase_add_test(c, kept_blocks_stay_as_they_were);
	tcase_add_test(c, locks_are_kept_and_dropped);
	tcase_add_test(c, waiting_for_locks);
	tcase_add_loop_test(c, handles_survive_a_cold_restart, 0, 2);
	tcase_add_loop_test(c, changes_by_others_are_seen, 0, 2);
	tcase_add_test(c, a_flood_of_changes_loses_none);
	tcase_add_test(c, mount_points_in_use_and_dead);
	tcase_add_test(c, a_copy_elsewhere_does_not_hold_the_stop);
	suite_add_tcase(s, c);
	return env_run(s);
}
