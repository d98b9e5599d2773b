/* The local layer for apply and resync: limbo, placing, purging, lost; and what an operation leaves when one of its system calls fails. */
#include "tests/unit/local_env.h"

#include <dlfcn.h>
#include <sys/xattr.h>

/* ---- system calls that fail on demand ---- */

static _Thread_local int fail_in;	/* the Nth from now fails; 0 = none */
static _Thread_local bool failed_one;

static bool fails(void)
{
	if (!fail_in || --fail_in)
		return false;
	failed_one = true;
	errno = EIO;
	return true;
}

#define WRAP(name, params, args) \
	int name params; \
	int name params \
	{ \
		static int (*real) params; \
		if (!real) \
			*(void **)&real = dlsym(RTLD_NEXT, #name); \
		return fails() ? -1 : real args; \
	}
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#pragma GCC diagnostic ignored "-Wnonnull-compare"
WRAP(mkdirat, (int fd, const char *n, mode_t m), (fd, n, m))
WRAP(mknodat, (int fd, const char *n, mode_t m, dev_t d), (fd, n, m, d))
WRAP(symlinkat, (const char *t, int fd, const char *n), (t, fd, n))
WRAP(fchownat, (int fd, const char *n, uid_t u, gid_t g, int f), (fd, n, u, g, f))
WRAP(fchmodat, (int fd, const char *n, mode_t m, int f), (fd, n, m, f))
WRAP(utimensat, (int fd, const char *n, const struct timespec t[2], int f), (fd, n, t, f))
WRAP(futimens, (int fd, const struct timespec t[2]), (fd, t))
WRAP(setxattr, (const char *p, const char *n, const void *v, size_t s, int f), (p, n, v, s, f))
WRAP(removexattr, (const char *p, const char *n), (p, n))
WRAP(linkat, (int a, const char *b, int c, const char *d, int f), (a, b, c, d, f))
WRAP(unlinkat, (int fd, const char *n, int f), (fd, n, f))
WRAP(renameat2, (int a, const char *b, int c, const char *d, unsigned f), (a, b, c, d, f))
WRAP(statx, (int fd, const char *restrict n, int f, unsigned m, struct statx *restrict s), (fd, n, f, m, s))
WRAP(truncate, (const char *p, off_t n), (p, n))
WRAP(ftruncate, (int fd, off_t n), (fd, n))

/* ---- the whole state as text ---- */

struct dump {
	struct env *e;
	char *s;
	size_t n, cap;
	unsigned depth;
};

static void dump_dir(struct dump *d, uint64_t id);

static int dump_entry(void *arg, const struct dirent_info *i)
{
	struct dump *d = arg;
	struct attr a = { 0 };
	if (!strcmp(i->name, ".") || !strcmp(i->name, ".."))
		return 0;
	int err = d->e->l->ops->getattr(d->e->l, CALL, i->id, NULL, &a);
	d->n += (size_t)snprintf(d->s + d->n, d->cap - d->n, "%*s%s %d %llx %o %u %u:%u %llu m%ld.%ld c%ld.%ld\n", (int)d->depth, "", i->name, err,
				 (unsigned long long)i->id, a.mode, a.nlink, a.uid, a.gid, (unsigned long long)a.size, a.mtime.tv_sec,
				 a.mtime.tv_nsec, a.ctime.tv_sec, a.ctime.tv_nsec);
	ck_assert_uint_lt(d->n, d->cap - 300);
	if (S_ISDIR(a.mode))
		dump_dir(d, i->id);
	return 0;
}

static void dump_dir(struct dump *d, uint64_t id)
{
	struct dir *dir;
	d->depth++;
	ck_assert_int_eq(d->e->l->ops->opendir(d->e->l, CALL, id, &dir), 0);
	ck_assert_int_eq(d->e->l->ops->readdir(d->e->l, CALL, dir, 0, dump_entry, d), 0);
	ck_assert_int_eq(d->e->l->ops->releasedir(d->e->l, CALL, dir), 0);
	d->depth--;
}

static char *dump(struct env *e)
{
	struct dump d = { .e = e, .cap = 64 << 10 };
	d.s = calloc(1, d.cap);
	struct attr r = env_attr(e, HANDLE_ROOT);
	d.n = (size_t)snprintf(d.s, d.cap, "/ %u m%ld.%ld c%ld.%ld\n", r.nlink, r.mtime.tv_sec, r.mtime.tv_nsec, r.ctime.tv_sec, r.ctime.tv_nsec);
	dump_dir(&d, HANDLE_ROOT);
	d.n += (size_t)snprintf(d.s + d.n, d.cap - d.n, "limbo\n");
	dump_dir(&d, HANDLE_LIMBO);
	return d.s;
}

/* ---- every system call of every operation fails once ---- */

struct tree { uint64_t d, e, f, sub, tmp; };
static struct tree build(struct env *e)
{
	struct tree t;
	t.d = env_mk(e, HANDLE_ROOT, "d", S_IFDIR | 0755).id;
	t.e = env_mk(e, HANDLE_ROOT, "e", S_IFDIR | 02775).id;
	t.f = env_mk(e, t.d, "f", S_IFREG | 0644).id;
	t.sub = env_mk(e, t.d, "sub", S_IFDIR | 0755).id;
	env_mk(e, t.e, "g", S_IFREG | 0644);
	env_mk(e, t.e, "empty", S_IFDIR | 0755);
	return t;
}

static int op_run(struct env *e, const struct tree *t, unsigned op, struct call *c)
{
	struct layer *l = e->l;
	struct create reg = { .mode = S_IFREG | 04755 }, dir = { .mode = S_IFDIR | 0755 }, lnk = { .mode = S_IFLNK, .target = "x" };
	struct create fifo = { .mode = S_IFIFO | 0600, .exact = true };
	struct setattr s = { .valid = SET_MODE | SET_UID | SET_SIZE | SET_ATIME | SET_MTIME, .mode = 0600, .uid = 4, .size = 10 };
	struct file *f = NULL;
	int err;
	switch (op) {
	case 0: return l->ops->create(l, c, t->d, "new", &reg, 0, NULL, NULL);
	case 1: return l->ops->create(l, c, t->d, "new", &dir, 0, NULL, NULL);
	case 2: return l->ops->create(l, c, t->d, "new", &lnk, 0, NULL, NULL);
	case 3: return l->ops->create(l, c, t->d, "new", &fifo, 0, NULL, NULL);
	case 4:
		err = l->ops->create(l, c, t->e, "new", &reg, O_RDWR, NULL, &f);
		if (!err)
			env_release(e, f);
		return err;
	case 5: return l->ops->unlink(l, c, t->d, "f");
	case 6: return l->ops->rmdir(l, c, t->d, "sub");
	case 7: return l->ops->rename(l, c, t->d, "f", t->e, "g", 0);
	case 8: return l->ops->rename(l, c, t->d, "sub", t->e, "empty", 0);
	case 9: return l->ops->rename(l, c, t->d, "sub", t->e, "g", RENAME_EXCHANGE);
	case 10: return l->ops->link(l, c, t->f, t->e, "new", NULL);
	case 11: return l->ops->setattr(l, c, t->f, NULL, &s, NULL);
	case 12: return l->ops->setxattr(l, c, t->f, "user.a", "1", 1, 0);
	case 13: return l->ops->removexattr(l, c, t->f, "user.none") == -ENODATA ? 0 : -EIO;
	case 14:
		err = l->ops->tmpfile(l, c, t->d, &reg, O_RDWR, NULL, &f);
		if (!err)
			env_release(e, f);
		return err;
	case 15: return l->ops->create(l, c, HANDLE_LIMBO, "0001000000100009", &reg, 0, NULL, NULL);
	default: return -1;
	}
}
enum { OPS = 16 };

START_TEST(nth_system_call_fails)
{
	for (unsigned op = 0; op < OPS; op++) {
		bool more = true;
		for (int n = 1; more; n++) {
			struct env e;
			env_open(&e, _i);
			struct tree t = build(&e);
			struct effect ef = { 0 };
			struct call c = env_call();
			c.effect = &ef;
			char *before = dump(&e);
			uint64_t count = index_count(e.h);
			failed_one = false;
			fail_in = n;
			int err = op_run(&e, &t, op, &c);
			fail_in = 0;
			more = failed_one;
			char *after = dump(&e);
			if (err && !ef.changed && err != -EIO)
				ck_assert_msg(!err, "op %u call %d: error %d", op, n, err);
			if (err && !ef.changed) {
				ck_assert_msg(!strcmp(before, after), "op %u call %d: %d\n%s\nthen\n%s", op, n, err, before, after);
				ck_assert_uint_eq(index_count(e.h), count);
			}
			if (!err && !more && op != 13 && op != 14)
				ck_assert_msg(strcmp(before, after), "op %u: nothing happened", op);
			free(before);
			free(after);
			env_close(&e);
			ck_assert_int_lt(n, 60);
		}
	}
}
END_TEST

/* ---- limbo ---- */

static int count_ids(void *arg, uint64_t id)
{
	ck_assert(id_valid(id));
	++*(unsigned *)arg;
	return 0;
}

static unsigned in_limbo(struct env *e)
{
	unsigned n = 0;
	ck_assert_int_eq(local_limbo_each(e->l, count_ids, &n), 0);
	return n;
}

START_TEST(into_limbo_and_back)
{
	struct env e;
	struct attr a;
	env_open(&e, _i);
	struct tree t = build(&e);
	struct call c = { .origin = ORIGIN_RESYNC };
	ck_assert_int_eq(local_to_limbo(e.l, &c, t.d, "f"), 0);
	ck_assert_int_eq(local_to_limbo(e.l, &c, HANDLE_ROOT, "d"), 0);
	ck_assert_int_eq(local_to_limbo(e.l, &c, HANDLE_ROOT, "nope"), -ENOENT);
	ck_assert_uint_eq(in_limbo(&e), 2);
	ck_assert_uint_eq(env_attr(&e, HANDLE_ROOT).nlink, 3);
	ck_assert_uint_eq(env_attr(&e, t.f).nlink, 1);
	env_restart(&e, _i == 1);
	ck_assert_uint_eq(env_attr(&e, t.d).nlink, 3);
	ck_assert_int_eq(env_lookup(&e, t.d, "..", &a), -ESTALE);
	ck_assert_int_eq(e.l->ops->lookup(e.l, &c, t.d, "..", &a), 0);
	ck_assert_uint_eq(a.id, HANDLE_LIMBO);
	ck_assert_int_eq(local_place(e.l, &c, t.f, t.e, "g"), -EEXIST);
	ck_assert_int_eq(local_place(e.l, &c, t.f, t.e, "f"), 0);
	ck_assert_int_eq(local_place(e.l, &c, t.d, t.e, "d"), 0);
	ck_assert_uint_eq(in_limbo(&e), 0);
	ck_assert_uint_eq(env_attr(&e, t.e).nlink, 4);
	ck_assert_uint_eq(env_attr(&e, t.f).nlink, 1);
	/* a file that has a name gets another; one that lost one of two is still there */
	ck_assert_int_eq(local_place(e.l, &c, t.f, HANDLE_ROOT, "f2"), 0);
	ck_assert_uint_eq(env_attr(&e, t.f).nlink, 2);
	ck_assert_int_eq(local_to_limbo(e.l, &c, t.e, "f"), 0);
	ck_assert_uint_eq(in_limbo(&e), 0);
	ck_assert_uint_eq(env_attr(&e, t.f).nlink, 1);
	/* a directory moves from where it is */
	ck_assert_int_eq(local_place(e.l, &c, t.sub, HANDLE_ROOT, "moved"), 0);
	ck_assert_int_eq(env_lookup(&e, HANDLE_ROOT, "moved", &a), 0);
	ck_assert_uint_eq(a.id, t.sub);
	ck_assert_uint_eq(env_attr(&e, t.d).nlink, 2);
	ck_assert_uint_eq(env_attr(&e, HANDLE_ROOT).nlink, 4);
	ck_assert_int_eq(local_place(e.l, &c, t.e, t.d, "loop"), -EINVAL);
	char buf[300];
	ck_assert_int_eq(local_path_of(e.l, t.d, buf, sizeof(buf)), 0);
	ck_assert_str_eq(buf, "/e/d");
	ck_assert_int_eq(local_path_of(e.l, HANDLE_ROOT, buf, sizeof(buf)), 0);
	ck_assert_str_eq(buf, "/");
	auto_fd int fd = local_open_fd(e.l, t.f, O_RDONLY);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(local_syncfs(e.l), 0);
	env_close(&e);
}
END_TEST

START_TEST(tmpfiles_of_a_standby)
{
	struct env e;
	struct attr a;
	struct call c = { .origin = ORIGIN_APPLY, .uid = 3, .gid = 4 };
	struct create cr = { .mode = S_IFREG | 0640, .exact = true };
	env_open(&e, _i);
	ck_assert_int_eq(ids_next(e.h, &c.new_id), 0);
	ck_assert_int_eq(e.l->ops->tmpfile(e.l, &c, HANDLE_ROOT, &cr, 0, &a, NULL), 0);
	ck_assert_uint_eq(a.id, c.new_id);
	ck_assert_uint_eq(a.nlink, 0);
	ck_assert_uint_eq(in_limbo(&e), 1);
	env_restart(&e, _i == 1);
	ck_assert_uint_eq(env_attr(&e, a.id).nlink, 0);
	uint64_t id = c.new_id;
	c.new_id = 0;
	ck_assert_int_eq(e.l->ops->link(e.l, &c, id, HANDLE_ROOT, "named", &a), 0);
	ck_assert_uint_eq(a.nlink, 1);
	ck_assert_uint_eq(in_limbo(&e), 0);
	ck_assert_int_eq(ids_next(e.h, &c.new_id), 0);
	ck_assert_int_eq(e.l->ops->tmpfile(e.l, &c, HANDLE_ROOT, &cr, 0, &a, NULL), 0);
	ck_assert_int_eq(local_limbo_purge(e.l, a.id), 0);
	ck_assert_int_eq(e.l->ops->getattr(e.l, CALL, a.id, NULL, &a), -ESTALE);
	ck_assert_int_eq(local_limbo_purge(e.l, c.new_id), -ENOENT);
	env_close(&e);
}
END_TEST

START_TEST(purging_takes_everything)
{
	struct env e;
	struct attr a;
	struct call c = { .origin = ORIGIN_RESYNC };
	env_open(&e, _i);
	struct tree t = build(&e);
	struct attr deep = env_mk(&e, t.sub, "deep", S_IFDIR | 0755), x = env_mk(&e, deep.id, "x", S_IFREG | 0600);
	ck_assert_int_eq(e.l->ops->link(e.l, CALL, x.id, HANDLE_ROOT, "kept", NULL), 0);
	for (unsigned i = 0; i < 500; i++) {
		char name[16];
		snprintf(name, sizeof(name), "f%u", i);
		env_mk(&e, deep.id, name, S_IFREG | 0600);
	}
	if (_i < 2)
		ck_assert_int_eq(e.l->ops->setflags(e.l, CALL, deep.id, 0x10 /* immutable */), 0);
	ck_assert_int_eq(local_to_limbo(e.l, &c, HANDLE_ROOT, "d"), 0);
	ck_assert_int_eq(local_limbo_purge_all(e.l), 0);
	ck_assert_uint_eq(in_limbo(&e), 0);
	ck_assert_int_eq(e.l->ops->getattr(e.l, CALL, deep.id, NULL, &a), -ESTALE);
	ck_assert_uint_eq(env_attr(&e, x.id).nlink, 1);
	ck_assert_uint_eq(index_count(e.h), 5);	/* root, e, g, empty, kept */
	env_close(&e);
}
END_TEST

START_TEST(lost_is_kept_for_people)
{
	struct env e;
	struct attr a;
	struct call c = { .origin = ORIGIN_RESYNC };
	char buf[8];
	env_open(&e, _i);
	struct tree t = build(&e);
	struct file *f = env_open_file(&e, t.f, O_RDWR);
	ck_assert_int_eq(env_write(&e, f, "data", 4, 100000), 4);
	env_release(&e, f);
	ck_assert_int_eq(e.l->ops->setxattr(e.l, CALL, t.f, "trusted.x", "y", 1, 0), 0);
	ck_assert_int_eq(local_keep_lost(e.l, t.f, "s1", "/d/f"), 0);
	ck_assert_int_eq(local_keep_lost(e.l, t.f, "s1", "d/f"), 0);
	ck_assert_int_eq(local_keep_lost(e.l, t.f, "s1", "../../f"), -EINVAL);
	ck_assert_int_eq(local_keep_lost(e.l, t.f, "s1", "d/.."), -EINVAL);
	ck_assert_int_eq(env_sh("cmp %s/d/f %s/.tandemfs/lost/s1/d/f && cmp %s/d/f %s/.tandemfs/lost/s1/d/f.1", e.root, e.root, e.root, e.root), 0);
	char path[400];
	snprintf(path, sizeof(path), "%s/.tandemfs/lost/s1/d/f", e.root);
	ck_assert_int_eq(getxattr(path, "trusted.x", buf, 8), 1);
	ck_assert_int_eq(getxattr(path, "trusted.tandemfs", buf, 8), -1);
	ck_assert_uint_eq(env_attr(&e, t.f).nlink, 1);
	ck_assert_int_eq(local_to_limbo(e.l, &c, HANDLE_ROOT, "d"), 0);
	ck_assert_int_eq(local_keep_lost(e.l, t.d, "s1", "tree"), 0);
	ck_assert_int_eq(e.l->ops->getattr(e.l, CALL, t.f, NULL, &a), -ESTALE);
	ck_assert_int_eq(e.l->ops->getattr(e.l, CALL, t.d, NULL, &a), -ESTALE);
	snprintf(path, sizeof(path), "%s/.tandemfs/lost/s1/tree/f", e.root);
	ck_assert_int_eq(getxattr(path, "trusted.tandemfs", buf, 8), -1);
	ck_assert_int_eq(errno, ENODATA);
	ck_assert_uint_eq(in_limbo(&e), 0);
	env_close(&e);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("local_limbo");
	TCase *t = tcase_create("limbo");
	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, into_limbo_and_back, 0, ENV_FS);
	tcase_add_loop_test(t, tmpfiles_of_a_standby, 0, ENV_FS);
	tcase_add_loop_test(t, purging_takes_everything, 0, ENV_FS);
	tcase_add_loop_test(t, lost_is_kept_for_people, 0, ENV_FS);
	tcase_add_loop_test(t, nth_system_call_fails, 0, ENV_FS);
	suite_add_tcase(s, t);
	return env_setup() ? env_run(s) : EXIT_SUCCESS;
}
