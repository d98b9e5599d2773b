/*
 * The process is killed between any two calls into the C library (system calls, and the locks around every change of the index) of any
 * operation; the next one opens the same directory and state. Then every name leads to an object, with the right link counts; nothing blocks a
 * name; every index entry has its object; and when all names are removed nothing is left.
 */
#include "tests/unit/child.h"
#include "handles/internal.h"
#include "tests/unit/local_env.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/wait.h>
#include <sys/xattr.h>

/* ---- dying on demand ---- */

static _Thread_local int die_in;	/* before the Nth call from now; 0 = never */

static void maybe_die(void)
{
	if (die_in && !--die_in)
		kill(getpid(), SIGKILL);
}

#define WRAP(name, params, args) \
	int name params; \
	int name params \
	{ \
		static int (*real) params; \
		if (!real) \
			*(void **)&real = dlsym(RTLD_NEXT, #name); \
		maybe_die(); \
		return real args; \
	}
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#pragma GCC diagnostic ignored "-Wnonnull-compare"
WRAP(mkdirat, (int fd, const char *n, mode_t m), (fd, n, m))
WRAP(mknodat, (int fd, const char *n, mode_t m, dev_t d), (fd, n, m, d))
WRAP(symlinkat, (const char *t, int fd, const char *n), (t, fd, n))
WRAP(fchownat, (int fd, const char *n, uid_t u, gid_t g, int f), (fd, n, u, g, f))
WRAP(fchmodat, (int fd, const char *n, mode_t m, int f), (fd, n, m, f))
WRAP(utimensat, (int fd, const char *n, const struct timespec t[2], int f), (fd, n, t, f))
WRAP(setxattr, (const char *p, const char *n, const void *v, size_t s, int f), (p, n, v, s, f))
WRAP(removexattr, (const char *p, const char *n), (p, n))
WRAP(linkat, (int a, const char *b, int c, const char *d, int f), (a, b, c, d, f))
WRAP(unlinkat, (int fd, const char *n, int f), (fd, n, f))
WRAP(renameat2, (int a, const char *b, int c, const char *d, unsigned f), (a, b, c, d, f))
WRAP(statx, (int fd, const char *restrict n, int f, unsigned m, struct statx *restrict s), (fd, n, f, m, s))
WRAP(close, (int fd), (fd))
/* Every change of the index takes a lock. */
int pthread_mutex_lock(pthread_mutex_t *m)
{
	static int (*real)(pthread_mutex_t *);
	if (!real)
		*(void **)&real = dlsym(RTLD_NEXT, "pthread_mutex_lock");
	maybe_die();
	return real(m);
}

/* ---- a tree, and what is done to it ---- */

struct tree { uint64_t d, e, f, sub, limbo; };

static struct tree build(struct env *e)
{
	struct tree t;
	struct call c = { .origin = ORIGIN_RESYNC };
	t.d = env_mk(e, HANDLE_ROOT, "d", S_IFDIR | 0755).id;
	t.e = env_mk(e, HANDLE_ROOT, "e", S_IFDIR | 0755).id;
	t.f = env_mk(e, t.d, "f", S_IFREG | 0644).id;
	t.sub = env_mk(e, t.d, "sub", S_IFDIR | 0755).id;
	env_mk(e, t.e, "g", S_IFREG | 0644);
	env_mk(e, t.e, "empty", S_IFDIR | 0755);
	uint64_t two = env_mk(e, t.e, "two", S_IFREG | 0644).id;
	ck_assert_int_eq(e->l->ops->link(e->l, CALL, two, t.d, "two", NULL), 0);
	t.limbo = env_mk(e, t.e, "later", S_IFDIR | 0755).id;
	env_mk(e, t.limbo, "in", S_IFREG | 0600);
	env_mk(e, t.limbo, "dir", S_IFDIR | 0700);
	ck_assert_int_eq(local_to_limbo(e->l, &c, t.e, "later"), 0);
	return t;
}

static int make_tmp(struct env *e, const struct tree *t, bool link)
{
	struct create reg = { .mode = S_IFREG | 0644 };
	struct file *f = NULL;
	struct attr a;
	int err = e->l->ops->tmpfile(e->l, CALL, t->d, &reg, O_RDWR, &a, &f);
	if (!err && link)
		err = e->l->ops->link(e->l, CALL, a.id, t->e, "named", NULL);
	return err ? err : e->l->ops->release(e->l, CALL, f);
}

static int unlink_open(struct env *e, const struct tree *t)
{
	struct file *f = env_open_file(e, t->f, O_RDWR);
	int err = e->l->ops->unlink(e->l, CALL, t->d, "f");
	return err ? err : e->l->ops->release(e->l, CALL, f);
}

static int op_run(struct env *e, const struct tree *t, unsigned op)
{
	struct layer *l = e->l;
	struct call c = env_call(), rs = { .origin = ORIGIN_RESYNC };
	struct create reg = { .mode = S_IFREG | 04755 }, dir = { .mode = S_IFDIR | 0755 }, lnk = { .mode = S_IFLNK, .target = "x" };
	switch (op) {
	case 0: return l->ops->create(l, &c, t->d, "new", &reg, 0, NULL, NULL);
	case 1: return l->ops->create(l, &c, t->d, "new", &dir, 0, NULL, NULL);
	case 2: return l->ops->create(l, &c, t->d, "new", &lnk, 0, NULL, NULL);
	case 3: return l->ops->unlink(l, &c, t->d, "f");
	case 4: return l->ops->unlink(l, &c, t->d, "two");
	case 5: return l->ops->rmdir(l, &c, t->d, "sub");
	case 6: return l->ops->rename(l, &c, t->d, "f", t->e, "g", 0);
	case 7: return l->ops->rename(l, &c, t->d, "sub", t->e, "empty", 0);
	case 8: return l->ops->rename(l, &c, t->d, "sub", t->e, "g", RENAME_EXCHANGE);
	case 9: return l->ops->rename(l, &c, t->d, "sub", t->e, "moved", 0);
	case 10: return l->ops->link(l, &c, t->f, t->e, "new", NULL);
	case 11: return make_tmp(e, t, false);
	case 12: return make_tmp(e, t, true);
	case 13: return unlink_open(e, t);
	case 14: return local_to_limbo(l, &rs, HANDLE_ROOT, "d");
	case 15: return local_place(l, &rs, t->limbo, t->d, "placed");
	case 16: return local_limbo_purge(l, t->limbo);
	case 17: return local_place(l, &rs, t->sub, t->e, "placed");
	default: return -1;
	}
}
enum { OPS = 18 };

/* Opens E, builds, restarts (so that everything is in the index' database and cold), and does OP, dying before call N. Status 0: lived. */
static int child(struct env *e, unsigned op, int n)
{
	fflush(NULL);
	pid_t pid = test_fork();
	if (!pid) {
		env_start(e, false);
		struct tree t = build(e);
		if (n & 1)
			env_restart(e, false);
		die_in = n;
		int err = op_run(e, &t, op);
		die_in = 0;
		ck_assert_msg(!err, "op %u: %s", op, strerror(-err));
		_exit(0);
	}
	int status;
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status) ? !WEXITSTATUS(status) : WTERMSIG(status) == SIGKILL);
	return WIFEXITED(status) ? 0 : SIGKILL;
}

/* ---- what must hold afterwards ---- */

struct look {
	struct env *e;
	unsigned op;
	int n;
	uint64_t dir;
	unsigned subdirs;
	bool remove;
};
#define HOLDS(k, cond) ck_assert_msg(cond, #cond ": op %u killed before call %d: %s", (k)->op, (k)->n, __func__)

static void look_at(const struct look *up, uint64_t dir);

static int look_at_entry(void *arg, const struct dirent_info *i)
{
	struct look *k = arg;
	struct layer *l = k->e->l;
	struct attr a = { 0 }, b = { 0 };
	struct file *f;
	if (!strcmp(i->name, ".") || !strcmp(i->name, ".."))
		return 0;
	HOLDS(k, !env_lookup(k->e, k->dir, i->name, &a));
	HOLDS(k, a.id == i->id);
	HOLDS(k, !l->ops->getattr(l, CALL, i->id, NULL, &b));
	HOLDS(k, a.nlink == b.nlink && a.nlink > 0);
	HOLDS(k, !env_lookup(k->e, a.id, ".", &b));
	if (S_ISREG(a.mode)) {
		HOLDS(k, !l->ops->open(l, CALL, a.id, O_RDONLY, &f));
		env_release(k->e, f);
	}
	k->subdirs += S_ISDIR(a.mode);
	if (S_ISDIR(a.mode))
		look_at(k, a.id);
	if (k->remove)
		HOLDS(k, !(S_ISDIR(a.mode) ? l->ops->rmdir : l->ops->unlink)(l, CALL, k->dir, i->name));
	return 0;
}

static void look_at(const struct look *up, uint64_t dir)
{
	struct look k = *up;
	struct layer *l = k.e->l;
	struct dir *d;
	k.dir = dir;
	k.subdirs = 0;
	HOLDS(&k, !l->ops->opendir(l, CALL, dir, &d));
	HOLDS(&k, !l->ops->readdir(l, CALL, d, 0, look_at_entry, &k));
	HOLDS(&k, !l->ops->releasedir(l, CALL, d));
	if (dir != HANDLE_LIMBO)
		HOLDS(&k, env_attr(k.e, dir).nlink == 2 + (k.remove ? 0 : k.subdirs));
}

/* An entry has its object. */
static int has_object(void *arg, const struct hentry *h)
{
	struct look *k = arg;
	uint64_t id = 0;
	auto_fd int fd = local_handle_open(k->e->h, &h->lh, O_PATH | O_NOFOLLOW);
	ck_assert_msg(fd >= 0 && !mark_get(k->e->h, fd, &id, NULL) && id == h->id, "op %u killed before call %d: entry %llx has no object",
		      k->op, k->n, (unsigned long long)h->id);
	return 0;
}

static void check_all(struct env *e, unsigned op, int n)
{
	struct look k = { .e = e, .op = op, .n = n };
	HOLDS(&k, !index_each(e->h, has_object, &k));
	look_at(&k, HANDLE_ROOT);
	HOLDS(&k, !index_each(e->h, has_object, &k));
	HOLDS(&k, !local_limbo_purge_all(e->l));
	k.remove = true;
	look_at(&k, HANDLE_ROOT);
	HOLDS(&k, index_count(e->h) == 1);
}

/* Like env_open, without starting anything in this process. */
static void prepare(struct env *e, int fs)
{
	env_open(e, fs);
	env_stop(e);
}

START_TEST(killed_between_any_two_calls)
{
	int step = _i == 2 || getenv("LONG") ? 1 : 5;	/* tmpfs is quick */
	for (unsigned op = 0; op < OPS; op++) {
		int died = SIGKILL;
		for (int n = 1; died; n += step) {
			struct env e;
			prepare(&e, _i);
			died = child(&e, op, n);
			env_start(&e, false);
			check_all(&e, op, n);
			env_close(&e);
			ck_assert_int_lt(n, 400);
		}
	}
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("local, killed");
	TCase *t = tcase_create("kill");
	tcase_set_timeout(t, 300);
	tcase_add_loop_test(t, killed_between_any_two_calls, 0, ENV_FS);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	index_tuning.records = 256;	/* quick to open */
	return env_setup() ? env_run(suite()) : EXIT_SUCCESS;
}
