/* The index equals a plain model in memory: through folds, kills, restarts, growth; and a rebuild finds what bears a mark. */
#include <pthread.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/xattr.h>

#include "tests/unit/child.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "tests/unit/handles_env.h"

static struct place P;
static uint64_t Seed;

static void setup(void)
{
	const char *s = getenv("SEED");

	Seed = s ? strtoull(s, NULL, 0) : (uint64_t)getpid() << 20 ^ clock_mono_ns();
	Seed |= 1;
	place_make(&P, place_base(), NULL);
}
static void teardown(void) { place_drop(&P); }

/* ---- the model ---- */

enum { IDS = 4000 };
#define ID_BASE ((uint64_t)1 << 48)

struct model { struct hentry e[IDS]; bool live[IDS]; };

static struct hentry random_entry(unsigned i, uint64_t *s)
{
	struct hentry e = { .id = ID_BASE + i, .ino = 1000 + i + (rnd(s) % 3) * 100000, .type = S_IFREG };

	e.ctime = (struct timespec){ .tv_sec = (time_t)(rnd(s) % 2000000000), .tv_nsec = (long)(rnd(s) % 1000000000) };
	e.nsub = (uint32_t)(rnd(s) % 5);
	e.lh.len = rnd(s) % 2 ? 8 : 64;
	e.lh.type = (int32_t)(rnd(s) % 256);
	for (unsigned k = 0; k < e.lh.len; k++)
		e.lh.bytes[k] = (unsigned char)rnd(s);
	return e;
}

/* One step on both; each argument comes from S alone, so that a killed child's steps can be told again. */
static void step(struct handles *h, struct model *m, uint64_t *s)
{
	unsigned i = (unsigned)(rnd(s) % IDS);
	uint64_t id = ID_BASE + i;
	struct timespec t = { .tv_sec = (time_t)(rnd(s) % 2000000000), .tv_nsec = (long)(rnd(s) % 1000000000) };
	int what = (int)(rnd(s) % 20);
	struct hentry e = random_entry(i, s);
	int want = m->live[i] ? 0 : -ESTALE, r = want;

	if (what < 5) {
		r = h ? index_put(h, &e) : 0;
		want = 0;
		m->e[i] = e;
		m->live[i] = true;
	} else if (what < 8) {
		r = h ? index_del(h, id) : 0;
		want = 0;
		m->live[i] = false;
	} else if (what < 16) {
		r = h ? index_set_ctime(h, id, t) : want;
		m->e[i].ctime = t;
		m->e[i].flags &= ~(uint32_t)HENTRY_CTIME_LOST;
	} else if (what < 18) {
		r = h ? index_add_nsub(h, id, what == 16 ? 1 : -1) : want;
		m->e[i].nsub = what == 16 ? m->e[i].nsub + 1 : m->e[i].nsub ? m->e[i].nsub - 1 : 0;
	} else {
		r = h ? index_set_flags(h, id, HENTRY_DEFACL, HENTRY_TMPFILE) : want;
		m->e[i].flags |= HENTRY_DEFACL;
	}
	ck_assert_msg(r == want, "step %d on %u: %d, not %d", what, i, r, want);
}

static bool same(const struct hentry *a, const struct hentry *b)
{
	return a->id == b->id && a->ino == b->ino && !time_cmp(a->ctime, b->ctime) && a->flags == b->flags && a->nsub == b->nsub &&
	       a->type == b->type && a->lh.len == b->lh.len && a->lh.type == b->lh.type && !memcmp(a->lh.bytes, b->lh.bytes, a->lh.len);
}

struct each_arg { const struct model *m; unsigned n; uint64_t last; };
static int each_check(void *arg, const struct hentry *e)
{
	struct each_arg *a = arg;
	uint64_t i = e->id - ID_BASE;

	ck_assert(e->id > a->last && i < IDS && a->m->live[i] && same(e, &a->m->e[i]));
	a->last = e->id;
	a->n++;
	return 0;
}

static void compare(struct handles *h, const struct model *m)
{
	struct each_arg a = { .m = m };
	struct hentry e;
	unsigned live = 0;
	uint64_t id;

	for (unsigned i = 0; i < IDS; i++) {
		int r = index_get(h, ID_BASE + i, &e);
		ck_assert_msg(r == (m->live[i] ? 0 : -ESTALE), "id %u: %d, live %d, seed %llu", i, r, m->live[i], (unsigned long long)Seed);
		for (uint64_t k = 0; k < 3; k++) {
			uint64_t ino = 1000 + i + k * 100000;
			bool mine = m->live[i] && m->e[i].ino == ino;
			r = index_by_ino(h, ino, &id);
			ck_assert_msg(r == (mine ? 0 : -ENOENT), "ino of %u: %d", i, r);
			ck_assert(!mine || id == ID_BASE + i);
		}
		if (!m->live[i])
			continue;
		ck_assert_msg(same(&e, &m->e[i]), "id %u differs, seed %llu", i, (unsigned long long)Seed);
		live++;
	}
	ck_assert_int_eq(index_each(h, each_check, &a), 0);
	ck_assert_uint_eq(a.n, live);
	ck_assert_uint_eq(index_count(h), live);
}

/* ---- tests ---- */

START_TEST(random_steps_with_folds_and_restarts)
{
	struct model *m = calloc(1, sizeof *m);
	uint64_t s = Seed;

	index_tuning.records = 512;
	for (int round = 0; round < 5; round++) {
		struct handles *h = must_open(&P, false);
		ck_assert(!handles_rebuilding(h, NULL));
		compare(h, m);
		for (int i = 0; i < 30000; i++) {
			step(h, m, &s);
			if (i == 20000 && round % 2)
				ck_assert_int_eq(handles_checkpoint(h), 0);
		}
		compare(h, m);
		handles_close(h);
	}
	free(m);
}
END_TEST

/* The child tells how many steps it began; it is killed in the middle of one. Afterwards the index is the model after that many
 * steps, or after one fewer. */
START_TEST(killed_at_any_moment)
{
	enum { ROUNDS = 15 };
	struct model *m = calloc(1, sizeof *m), *n = malloc(sizeof *n);
	_Atomic uint64_t *begun = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t s = Seed, kill_seed = Seed ^ 0x5555;

	index_tuning.records = 1024;
	for (int round = 0; round < ROUNDS; round++) {
		begun[0] = 0;
		pid_t pid = test_fork();
		if (!pid) {
			struct handles *h;
			if (handles_open(&P.cfg, false, &h))
				_exit(1);
			compare(h, m);
			for (;;) {
				begun[0]++;
				step(h, m, &s);
			}
		}
		uint64_t until = 1 + rnd(&kill_seed) % 30000;
		int status;
		while (begun[0] < until && !waitpid(pid, &status, WNOHANG))
			usleep(200);
		kill(pid, SIGKILL);
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
		for (uint64_t i = 0; i + 1 < begun[0]; i++)
			step(NULL, m, &s);
		/* was the last one done? its id tells */
		uint64_t peek = s, after = s;
		unsigned id = (unsigned)(rnd(&peek) % IDS);
		memcpy(n, m, sizeof *n);
		step(NULL, n, &after);
		struct handles *h = must_open(&P, false);
		ck_assert(!handles_rebuilding(h, NULL));
		struct hentry e;
		int r = index_get(h, ID_BASE + id, &e);
		bool done = r == (n->live[id] ? 0 : -ESTALE) && (!n->live[id] || same(&e, &n->e[id]));
		if (done)
			memcpy(m, n, sizeof *n);
		s = after;
		compare(h, m);
		handles_close(h);
	}
	munmap((void *)begun, 4096);
	free(m);
	free(n);
}
END_TEST

struct load { struct handles *h; struct model *m; uint64_t seed; unsigned from, to; int steps; };

static void *load(void *arg)
{
	struct load *l = arg;
	uint64_t s = l->seed, id;
	struct hentry got;

	for (int k = 0; k < l->steps; k++) {
		unsigned i = l->from + (unsigned)(rnd(&s) % (l->to - l->from));
		struct hentry e = random_entry(i, &s);
		int what = (int)(rnd(&s) % 10), r = index_get(l->h, e.id, &got);
		ck_assert(r == (l->m->live[i] ? 0 : -ESTALE));
		ck_assert(r || same(&got, &l->m->e[i]));
		ck_assert(r || (!index_by_ino(l->h, got.ino, &id) && id == e.id));
		if (what < 4) {
			ck_assert_int_eq(index_put(l->h, &e), 0);
			l->m->e[i] = e;
			l->m->live[i] = true;
		} else if (what < 6) {
			ck_assert_int_eq(index_del(l->h, e.id), 0);
			l->m->live[i] = false;
		} else if (!r) {
			ck_assert_int_eq(index_set_ctime(l->h, e.id, e.ctime), 0);
			l->m->e[i].ctime = e.ctime;
		}
	}
	return NULL;
}

START_TEST(four_threads_while_it_folds)
{
	enum { THREADS = 4 };
	struct model *m = calloc(1, sizeof *m);
	struct load l[THREADS];
	pthread_t t[THREADS];

	index_tuning.records = 256;
	struct handles *h = must_open(&P, false);
	for (unsigned i = 0; i < THREADS; i++) {
		l[i] = (struct load){ h, m, Seed + 2 * i, i * (IDS / THREADS), (i + 1) * (IDS / THREADS), 30000 };
		ck_assert_int_eq(pthread_create(&t[i], NULL, load, &l[i]), 0);
	}
	for (int i = 0; i < 20; i++)
		ck_assert_int_eq(handles_checkpoint(h), 0);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	compare(h, m);
	handles_close(h);
	h = must_open(&P, false);
	compare(h, m);
	handles_close(h);
	free(m);
}
END_TEST

START_TEST(the_map_grows)
{
	uint64_t s = Seed;
	struct hentry e, got;

	index_tuning.records = 1024;
	index_tuning.map_bytes = 256 << 10;
	struct handles *h = must_open(&P, false);
	for (unsigned i = 0; i < 20000; i++) {
		e = random_entry(i, &s);
		ck_assert_int_eq(index_put(h, &e), 0);
	}
	ck_assert_int_eq(index_get(h, e.id, &got), 0);
	ck_assert(same(&e, &got));
	ck_assert_uint_eq(index_count(h), 20000);
	handles_close(h);
	h = must_open(&P, false);
	ck_assert(!handles_rebuilding(h, NULL));
	ck_assert_uint_eq(index_count(h), 20000);
	for (unsigned i = 20000; i < 30000; i++) {
		e = random_entry(i, &s);
		ck_assert_int_eq(index_put(h, &e), 0);
	}
	ck_assert_uint_eq(index_count(h), 30000);
	handles_close(h);
}
END_TEST

START_TEST(an_inode_number_used_again)
{
	struct hentry a = { .id = ID_BASE + 1, .ino = 5, .type = S_IFREG }, b = { .id = ID_BASE, .ino = 5, .type = S_IFREG };
	uint64_t id;

	struct handles *h = must_open(&P, false);
	for (int fold = 0; fold < 3; fold++) {
		ck_assert_int_eq(index_put(h, &a), 0);
		if (fold)
			ck_assert_int_eq(handles_checkpoint(h), 0);
		ck_assert_int_eq(index_put(h, &b), 0);
		ck_assert(!index_by_ino(h, 5, &id) && id == b.id);
		if (fold == 2)
			ck_assert_int_eq(handles_checkpoint(h), 0);
		ck_assert_int_eq(index_del(h, a.id), 0);
		ck_assert(!index_by_ino(h, 5, &id) && id == b.id);
		ck_assert_int_eq(handles_checkpoint(h), 0);
		ck_assert(!index_by_ino(h, 5, &id) && id == b.id);
		ck_assert_int_eq(index_del(h, b.id), 0);
		ck_assert_int_eq(index_by_ino(h, 5, &id), -ENOENT);
		ck_assert_int_eq(handles_checkpoint(h), 0);
		ck_assert_int_eq(index_by_ino(h, 5, &id), -ENOENT);
	}
	ck_assert_uint_eq(index_count(h), 0);
	handles_close(h);
}
END_TEST

/* No room in the state directory: what needs a record fails, what doesn't goes on, and nothing is lost once there is room. */
START_TEST(a_full_state_directory)
{
	struct model *m = calloc(1, sizeof *m);
	static char block[65536];
	char path[160];
	uint64_t s = Seed;
	int r = 0;

	snprintf(path, sizeof path, "%s/state", P.dir);
	if (mount("none", path, "tmpfs", 0, "size=2m")) {
		fprintf(stderr, "# SKIP: no tmpfs can be mounted here\n");
		free(m);
		return;
	}
	close(P.cfg.state_fd);
	P.cfg.state_fd = open(path, O_RDONLY | O_DIRECTORY);
	index_tuning.records = 256;
	struct handles *h = must_open(&P, false);
	int fill = openat(P.cfg.state_fd, "fill", O_CREAT | O_WRONLY, 0600);
	while (write(fill, block, sizeof block) > 0)
		;
	for (unsigned i = 0; i < IDS && !r; i++) {
		struct hentry e = random_entry(i, &s);
		r = index_put(h, &e);
		if (r)
			break;
		m->e[i] = e;
		m->live[i] = true;
	}
	ck_assert_int_eq(r, -ENOSPC);
	ck_assert_int_eq(handles_checkpoint(h), -ENOSPC);
	for (unsigned i = 0; i < IDS; i++) {
		struct hentry e;
		ck_assert_int_eq(index_get(h, ID_BASE + i, &e), m->live[i] ? 0 : -ESTALE);
		ck_assert(!m->live[i] || same(&e, &m->e[i]));
		if (m->live[i] && !index_set_ctime(h, e.id, (struct timespec){ .tv_sec = 5 }))
			m->e[i].ctime = (struct timespec){ .tv_sec = 5 };
	}
	ck_assert_int_eq(ftruncate(fill, 0), 0);
	close(fill);
	for (int i = 0; i < 5000; i++)
		step(h, m, &s);
	compare(h, m);
	handles_close(h);
	h = must_open(&P, false);
	compare(h, m);
	handles_close(h);
	close(P.cfg.state_fd);
	ck_assert_int_eq(umount(path), 0);
	P.cfg.state_fd = open(path, O_RDONLY | O_DIRECTORY);
	free(m);
}
END_TEST

START_TEST(bad_arguments)
{
	struct handles *h = must_open(&P, false), *g;
	struct hentry e = { .id = HANDLE_LIMBO };

	ck_assert_int_eq(index_get(h, 0, &e), -ESTALE);
	ck_assert_int_eq(index_get(h, HANDLE_LIMBO, &e), -ESTALE);
	ck_assert_int_eq(index_get(h, UINT64_MAX, &e), -ESTALE);
	e = (struct hentry){ .id = HANDLE_LIMBO };
	ck_assert_int_eq(index_put(h, &e), -EINVAL);
	e = (struct hentry){ .id = ID_BASE, .lh.len = LOCAL_HANDLE_MAX + 1 };
	ck_assert_int_eq(index_put(h, &e), -EINVAL);
	e = (struct hentry){ .id = ID_BASE, .ctime.tv_nsec = 1000000000 };
	ck_assert_int_eq(index_put(h, &e), -EINVAL);
	ck_assert_int_eq(index_set_ctime(h, ID_BASE, e.ctime), -EINVAL);
	ck_assert_int_eq(handles_open(&P.cfg, false, &g), -EBUSY);
	handles_close(h);
}
END_TEST

/* ---- the rebuild ---- */

enum { TREE_DIRS = 30, TREE_FILES = 20 };
static uint64_t DirId[TREE_DIRS], FileId[TREE_DIRS][TREE_FILES];

static uint64_t mark_at(struct handles *h, int dfd, const char *name, uint32_t type, uint32_t nsub)
{
	int fd = openat(dfd, name, O_PATH | O_NOFOLLOW);
	struct hentry e = { .type = type, .nsub = nsub };
	uint64_t id;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ids_next(h, &id), 0);
	ck_assert_int_eq(mark_set(h, fd, id, &e), 0);
	ck_assert_int_eq(index_put(h, &e), 0);
	ck_assert_int_eq(index_set_ctime(h, id, (struct timespec){ .tv_sec = 12345 }), 0);
	close(fd);
	return id;
}

/* Directory k+1 lies in directory k / 3; the root's own number of sub-directories is 3. */
static void make_tree(struct handles *h)
{
	char path[TREE_DIRS][64], name[96];

	make_root(h);
	for (int k = 0; k < TREE_DIRS; k++) {
		snprintf(path[k], sizeof path[k], "%.40s%sd%d", k < 3 ? "" : path[k / 3 - 1], k < 3 ? "" : "/", k);
		ck_assert_int_eq(mkdirat(P.cfg.root_fd, path[k], 0755), 0);
		uint32_t nsub = (k + 1) * 3 + 3 <= TREE_DIRS ? 3 : 0;
		DirId[k] = mark_at(h, P.cfg.root_fd, path[k], S_IFDIR, nsub);
		for (int f = 0; f < TREE_FILES; f++) {
			snprintf(name, sizeof name, "%.60s/f%d", path[k], f);
			int fd = openat(P.cfg.root_fd, name, O_CREAT | O_WRONLY, 0644);
			ck_assert_int_ge(fd, 0);
			close(fd);
			FileId[k][f] = mark_at(h, P.cfg.root_fd, name, S_IFREG, 0);
		}
	}
	ck_assert_int_eq(index_add_nsub(h, HANDLE_ROOT, 3), 0);
}

static void check_tree(struct handles *h, bool rebuilt)
{
	struct hentry e;
	uint64_t id;

	ck_assert_int_eq(index_get(h, HANDLE_ROOT, &e), 0);
	ck_assert_uint_eq(e.nsub, 3);
	for (int k = TREE_DIRS - 1; k >= 0; k--) {
		ck_assert_int_eq(index_get(h, DirId[k], &e), 0);
		ck_assert(e.type == S_IFDIR);
		ck_assert_msg(e.nsub == ((k + 1) * 3 + 3 <= TREE_DIRS ? 3u : 0u), "directory %d: %u", k, e.nsub);
		ck_assert(!!(e.flags & HENTRY_CTIME_LOST) == rebuilt);
		for (int f = 0; f < TREE_FILES; f++) {
			ck_assert_int_eq(index_get(h, FileId[k][f], &e), 0);
			ck_assert(e.type == S_IFREG);
			ck_assert(rebuilt ? e.ctime.tv_sec > 12345 : e.ctime.tv_sec == 12345);
			ck_assert(!index_by_ino(h, e.ino, &id) && id == e.id);
			int fd = local_handle_open(h, &e.lh, O_PATH);
			ck_assert_int_ge(fd, 0);
			ck_assert(!mark_get(h, fd, &id, NULL) && id == e.id);
			close(fd);
		}
	}
}

static void remove_index(void)
{
	for (const char *const *p = (const char *const[]){ "data.mdb", "lock.mdb", "delta", "valid", NULL }; *p; p++) {
		char path[64];
		snprintf(path, sizeof path, "index/%s", *p);
		ck_assert_int_eq(unlinkat(P.cfg.state_fd, path, 0), 0);
	}
}

static void wait_rebuilt(struct handles *h)
{
	for (int i = 0; handles_rebuilding(h, NULL); i++) {
		ck_assert_int_lt(i, 10000);
		usleep(1000);
	}
}

START_TEST(rebuild_finds_everything)
{
	struct handles *h = must_open(&P, false);
	uint64_t done;
	struct hentry e;

	make_tree(h);
	check_tree(h, false);
	handles_close(h);
	h = must_open(&P, false);
	check_tree(h, false);
	handles_close(h);

	remove_index();
	h = must_open(&P, false);
	check_tree(h, true);		/* each id waits for the walk */
	ck_assert_int_eq(index_get(h, ID_BASE + 12345678, &e), -ESTALE);
	wait_rebuilt(h);
	handles_rebuilding(h, &done);
	ck_assert_uint_eq(done, 1 + TREE_DIRS + TREE_DIRS * TREE_FILES);
	ck_assert_uint_eq(index_count(h), 1 + TREE_DIRS + TREE_DIRS * TREE_FILES);
	handles_close(h);
	h = must_open(&P, false);
	ck_assert(!handles_rebuilding(h, NULL));
	check_tree(h, true);
	handles_close(h);
	h = must_open(&P, true);
	check_tree(h, true);
	handles_close(h);
}
END_TEST

START_TEST(rebuild_after_another_boot)
{
	struct handles *h = must_open(&P, false);
	int status;

	make_tree(h);
	handles_close(h);
	pid_t pid = test_fork();
	if (!pid)
		_exit(handles_open(&P.cfg, false, &h) ? 1 : 0);	/* leaves it unclean */
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	h = must_open(&P, false);
	ck_assert(!handles_rebuilding(h, NULL));
	check_tree(h, false);
	handles_close(h);

	/* the marker of an unclean stop in another boot is just a damaged one here: its checksum covers the boot id */
	int fd = openat(P.cfg.state_fd, "index/valid", O_WRONLY);
	ck_assert_int_eq(pwrite(fd, "x", 1, 20), 1);
	close(fd);
	h = must_open(&P, false);
	check_tree(h, true);
	handles_close(h);
}
END_TEST

START_TEST(damaged_files_are_rebuilt)
{
	static const char *const names[] = { "index/data.mdb", "index/delta", "index/valid" };
	struct handles *h = must_open(&P, false);

	make_tree(h);
	handles_close(h);
	int fd = openat(P.cfg.state_fd, names[_i], O_WRONLY | O_TRUNC);
	ck_assert_int_eq(write(fd, "garbage garbage garbage garbage", 31), 31);
	close(fd);
	h = must_open(&P, false);
	check_tree(h, true);
	handles_close(h);
}
END_TEST

START_TEST(killed_in_a_rebuild_starts_over)
{
	struct handles *h = must_open(&P, false);
	int status;

	make_tree(h);
	handles_close(h);
	for (unsigned i = 0; i < 20; i++) {
		pid_t pid = test_fork();
		if (!pid) {
			if (handles_open(&P.cfg, true, &h))
				_exit(1);
			usleep(i * 200);
			kill(getpid(), SIGKILL);
		}
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		ck_assert(WIFSIGNALED(status));
		h = must_open(&P, false);
		check_tree(h, true);
		handles_close(h);
	}
}
END_TEST

START_TEST(strangers_stay_out_and_limbo_comes_in)
{
	struct handles *h = must_open(&P, false);
	struct hentry e;
	char cmd[512];

	make_tree(h);
	ck_assert_int_eq(mkdirat(P.cfg.root_fd, HIDDEN_DIR, 0700), 0);
	ck_assert_int_eq(mkdirat(P.cfg.root_fd, HIDDEN_DIR "/limbo", 0700), 0);
	ck_assert_int_eq(mkdirat(P.cfg.root_fd, HIDDEN_DIR "/lost", 0700), 0);
	int fd = openat(P.cfg.root_fd, HIDDEN_DIR "/limbo/x", O_CREAT | O_WRONLY, 0600);
	close(fd);
	uint64_t limbo = mark_at(h, P.cfg.root_fd, HIDDEN_DIR "/limbo/x", S_IFREG, 0);
	ck_assert_int_eq(mkdirat(P.cfg.root_fd, HIDDEN_DIR "/limbo/d", 0700), 0);
	uint64_t ldir = mark_at(h, P.cfg.root_fd, HIDDEN_DIR "/limbo/d", S_IFDIR, 1);
	ck_assert_int_eq(mkdirat(P.cfg.root_fd, HIDDEN_DIR "/limbo/d/e", 0700), 0);
	uint64_t linner = mark_at(h, P.cfg.root_fd, HIDDEN_DIR "/limbo/d/e", S_IFDIR, 0);
	fd = openat(P.cfg.root_fd, HIDDEN_DIR "/lost/y", O_CREAT | O_WRONLY, 0600);
	close(fd);
	uint64_t lost = mark_at(h, P.cfg.root_fd, HIDDEN_DIR "/lost/y", S_IFREG, 0);
	fd = openat(P.cfg.root_fd, "plain", O_CREAT | O_WRONLY, 0600);
	close(fd);
	/* a copy with all its xattrs, with a sub-directory and one of our objects moved into it behind our back */
	snprintf(cmd, sizeof cmd, "cd %s/root && cp -a d0 copy && mv d1/f0 copy/moved && ln d1/f1 d1/second", P.dir);
	ck_assert_int_eq(system(cmd), 0);
	uint64_t known = index_count(h);
	handles_close(h);

	h = must_open(&P, true);
	check_tree(h, true);
	ck_assert_int_eq(index_get(h, limbo, &e), 0);
	ck_assert(e.flags & HENTRY_TMPFILE);
	ck_assert_int_eq(index_get(h, ldir, &e), 0);
	ck_assert(e.nsub == 1 && !(e.flags & HENTRY_TMPFILE));
	ck_assert_int_eq(index_get(h, linner, &e), 0);
	ck_assert_int_eq(index_get(h, lost, &e), -ESTALE);
	ck_assert_uint_eq(index_count(h), known - 1);
	handles_close(h);
}
END_TEST

START_TEST(removed_during_a_rebuild_stays_removed)
{
	struct handles *h = must_open(&P, false);
	struct hentry e;

	index_tuning.records = 64;
	make_tree(h);
	handles_close(h);
	h = must_open(&P, true);
	for (int f = 0; f < TREE_FILES; f++)	/* the objects are still there for the walk to find */
		for (int k = 0; k < TREE_DIRS; k++)
			ck_assert_int_eq(index_del(h, FileId[k][f]), 0);
	wait_rebuilt(h);
	for (int k = 0; k < TREE_DIRS; k++) {
		ck_assert_int_eq(index_get(h, DirId[k], &e), 0);
		for (int f = 0; f < TREE_FILES; f++)
			ck_assert_int_eq(index_get(h, FileId[k][f], &e), -ESTALE);
	}
	handles_close(h);
	h = must_open(&P, false);
	ck_assert_uint_eq(index_count(h), 1 + TREE_DIRS);
	handles_close(h);
}
END_TEST

/* mkdir, rmdir and rename change the disk first and the count afterwards. */
START_TEST(killed_between_a_change_and_its_count)
{
	struct handles *h = must_open(&P, false);
	struct hentry e;
	int status;

	make_tree(h);
	handles_close(h);
	pid_t pid = test_fork();
	if (!pid) {
		if (handles_open(&P.cfg, false, &h))
			_exit(1);
		for (int i = 0; i < 3 * INDEX_UNSTEADY_MAX; i++)	/* those that ended leave nothing */
			index_steady(h, index_unsteady(h, DirId[5], 0, 0));
		index_add_nsub(h, DirId[5], 7);
		index_unsteady(h, HANDLE_ROOT, DirId[0], 0);
		if (renameat(P.cfg.root_fd, "d0/d3", P.cfg.root_fd, "d3") || unlinkat(P.cfg.root_fd, "d0/d4", AT_REMOVEDIR) != -1)
			_exit(2);
		index_unsteady(h, DirId[1], ID_BASE + 999999, 0);
		if (mkdirat(P.cfg.root_fd, "d1/new", 0755))		/* no mark, no entry: doesn't count */
			_exit(3);
		kill(getpid(), SIGKILL);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status));
	h = must_open(&P, false);
	ck_assert(!handles_rebuilding(h, NULL));
	ck_assert(!index_get(h, HANDLE_ROOT, &e) && e.nsub == 4);
	ck_assert(!index_get(h, DirId[0], &e) && e.nsub == 2);
	ck_assert(!index_get(h, DirId[1], &e) && e.nsub == 3);
	ck_assert(!index_get(h, DirId[5], &e) && e.nsub == 10);
	handles_close(h);
}
END_TEST

START_TEST(a_default_acl_is_seen_again)
{
	struct handles *h = must_open(&P, false);
	struct hentry e;
	char cmd[512];

	make_tree(h);
	snprintf(cmd, sizeof cmd, "setfacl -d -m u:1000:rwx %s/root/d2", P.dir);
	ck_assert_int_eq(system(cmd), 0);
	handles_close(h);
	h = must_open(&P, true);
	ck_assert_int_eq(index_get(h, DirId[2], &e), 0);
	ck_assert(e.flags & HENTRY_DEFACL);
	ck_assert_int_eq(index_get(h, DirId[1], &e), 0);
	ck_assert(!(e.flags & HENTRY_DEFACL));
	handles_close(h);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("handles index");
	TCase *t = tcase_create("index"), *w = tcase_create("rebuild");

	log_init("handles_index_test", LOG_SINK_STDERR, LOG_LVL_ERROR);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 120);
	tcase_add_test(t, random_steps_with_folds_and_restarts);
	tcase_add_test(t, killed_at_any_moment);
	tcase_add_test(t, four_threads_while_it_folds);
	tcase_add_test(t, the_map_grows);
	tcase_add_test(t, an_inode_number_used_again);
	tcase_add_test(t, a_full_state_directory);
	tcase_add_test(t, bad_arguments);
	suite_add_tcase(s, t);
	tcase_add_checked_fixture(w, setup, teardown);
	tcase_set_timeout(w, 120);
	tcase_add_test(w, rebuild_finds_everything);
	tcase_add_test(w, rebuild_after_another_boot);
	tcase_add_loop_test(w, damaged_files_are_rebuilt, 0, 3);
	tcase_add_test(w, killed_in_a_rebuild_starts_over);
	tcase_add_test(w, strangers_stay_out_and_limbo_comes_in);
	tcase_add_test(w, removed_during_a_rebuild_stays_removed);
	tcase_add_test(w, killed_between_a_change_and_its_count);
	tcase_add_test(w, a_default_acl_is_seen_again);
	suite_add_tcase(s, w);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
