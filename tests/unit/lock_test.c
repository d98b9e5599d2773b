/*
 * The lock table against a naive model: one cell per byte and owner, and a list of who waits. Plus the cases by name:
 * merging, splitting, conversion, deadlock, cancel, wakeups.
 */
#include "fs/lock.h"

#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "fs/layer.h"

static struct lock_table *t;

static void setup(void) { ck_assert_int_eq(lock_table_new(&t), 0); }
static void teardown(void) { lock_table_free(t); }

static struct lock_owner own(uint64_t k) { return (struct lock_owner){ .front = ORIGIN_FUSE, .key = k }; }
static struct lock_range rng(enum lock_mode m, uint64_t s, uint64_t e)
{
	return (struct lock_range){ .kind = LOCK_POSIX_RANGE, .mode = m, .start = s, .end = e, .pid = 1 };
}
static struct lock_range whole(enum lock_mode m)
{
	return (struct lock_range){ .kind = LOCK_WHOLE, .mode = m, .end = UINT64_MAX, .pid = 1 };
}
static int set(uint64_t k, struct lock_range r) { return lock_set(t, 7, own(k), &r); }
static void clear(uint64_t k, uint64_t s, uint64_t e)
{
	struct lock_range r = rng(LOCK_SHARED, s, e);

	ck_assert_int_eq(lock_clear(t, 7, own(k), &r), 0);
}
static int granted_n, granted_err;
static void granted(void *arg, int err)
{
	int *n = arg;

	(*n)++;
	granted_err = err;
}
static int wait_on(uint64_t id, uint64_t k, struct lock_range r, uint64_t *ticket)
{
	return lock_set_wait(t, id, own(k), &r, granted, &granted_n, ticket);
}

START_TEST(readers_share_writers_exclude)
{
	struct lock_range f, w = rng(LOCK_EXCLUSIVE, 5, 5);

	ck_assert_int_eq(set(1, rng(LOCK_SHARED, 0, 9)), 0);
	ck_assert_int_eq(set(2, rng(LOCK_SHARED, 5, 20)), 0);
	ck_assert_int_eq(set(3, rng(LOCK_EXCLUSIVE, 9, 9)), -EAGAIN);
	ck_assert_int_eq(lock_test(t, 7, own(3), &w, &f, NULL), 0);
	ck_assert_uint_eq(f.start, 0);
	ck_assert_uint_eq(f.end, 9);
	ck_assert_int_eq(lock_test(t, 8, own(3), &w, &f, NULL), -ENOENT);
	ck_assert_int_eq(set(3, rng(LOCK_EXCLUSIVE, 21, UINT64_MAX)), 0);
	ck_assert_int_eq(set(1, rng(LOCK_SHARED, UINT64_MAX, UINT64_MAX)), -EAGAIN);
}
END_TEST

START_TEST(own_ranges_merge_and_split)
{
	struct lock_range f, all = rng(LOCK_EXCLUSIVE, 0, UINT64_MAX);

	ck_assert_int_eq(set(1, rng(LOCK_EXCLUSIVE, 10, 19)), 0);
	ck_assert_int_eq(set(1, rng(LOCK_EXCLUSIVE, 20, 29)), 0);
	ck_assert_int_eq(lock_test(t, 7, own(2), &all, &f, NULL), 0);
	ck_assert_uint_eq(f.start, 10);
	ck_assert_uint_eq(f.end, 29);
	clear(1, 15, 24);
	ck_assert_int_eq(lock_test(t, 7, own(2), &all, &f, NULL), 0);
	ck_assert_uint_eq(f.end, 14);
	ck_assert_int_eq(set(2, rng(LOCK_EXCLUSIVE, 15, 24)), 0);
	ck_assert_int_eq(set(2, rng(LOCK_EXCLUSIVE, 25, 25)), -EAGAIN);
	/* A read lock in the middle of a write lock. */
	ck_assert_int_eq(set(1, rng(LOCK_SHARED, 11, 12)), 0);
	ck_assert_int_eq(set(3, rng(LOCK_SHARED, 11, 12)), 0);
	ck_assert_int_eq(set(3, rng(LOCK_SHARED, 10, 10)), -EAGAIN);
	ck_assert_int_eq(set(3, rng(LOCK_SHARED, 13, 13)), -EAGAIN);
}
END_TEST

START_TEST(flock_and_fcntl_do_not_meet)
{
	ck_assert_int_eq(set(1, whole(LOCK_EXCLUSIVE)), 0);
	ck_assert_int_eq(set(2, rng(LOCK_EXCLUSIVE, 0, UINT64_MAX)), 0);
	ck_assert_int_eq(set(2, whole(LOCK_SHARED)), -EAGAIN);
	lock_drop_owner(t, 7, own(1), LOCK_POSIX_RANGE);
	ck_assert_int_eq(set(2, whole(LOCK_SHARED)), -EAGAIN);
	lock_drop_owner(t, 7, own(1), LOCK_WHOLE);
	ck_assert_int_eq(set(2, whole(LOCK_SHARED)), 0);
}
END_TEST

START_TEST(flock_conversion_gives_up_first)
{
	uint64_t w;

	ck_assert_int_eq(set(1, whole(LOCK_SHARED)), 0);
	ck_assert_int_eq(set(2, whole(LOCK_SHARED)), 0);
	ck_assert_int_eq(set(1, whole(LOCK_EXCLUSIVE)), -EAGAIN);	/* and loses its read lock */
	ck_assert_int_eq(set(2, whole(LOCK_EXCLUSIVE)), 0);
	ck_assert_int_eq(wait_on(7, 1, whole(LOCK_SHARED), &w), -EINPROGRESS);
	ck_assert_int_eq(granted_n, 0);
	ck_assert_int_eq(set(2, whole(LOCK_SHARED)), 0);		/* the downgrade lets the reader in */
	ck_assert_int_eq(granted_n, 1);
}
END_TEST

START_TEST(waiters_are_woken_in_order)
{
	uint64_t a, b, c;
	int n[3] = { 0 };
	struct lock_range w = rng(LOCK_EXCLUSIVE, 0, 9), r = rng(LOCK_SHARED, 0, 9);

	ck_assert_int_eq(set(1, rng(LOCK_EXCLUSIVE, 0, 9)), 0);
	ck_assert_int_eq(lock_set_wait(t, 7, own(2), &r, granted, &n[0], &a), -EINPROGRESS);
	ck_assert_int_eq(lock_set_wait(t, 7, own(3), &w, granted, &n[1], &b), -EINPROGRESS);
	ck_assert_int_eq(lock_set_wait(t, 7, own(4), &r, granted, &n[2], &c), -EINPROGRESS);
	clear(1, 0, 4);
	ck_assert_int_eq(n[0] + n[1] + n[2], 0);
	clear(1, 5, 9);
	ck_assert_int_eq(n[0], 1);
	ck_assert_int_eq(n[1], 0);
	ck_assert_int_eq(n[2], 1);
	clear(2, 0, 9);
	lock_drop_owner(t, 7, own(4), LOCK_POSIX_RANGE);
	ck_assert_int_eq(n[1], 1);
	ck_assert_int_eq(lock_cancel(t, b), -ENOENT);
}
END_TEST

START_TEST(cancel_ends_waiting)
{
	uint64_t w;

	ck_assert_int_eq(set(1, rng(LOCK_EXCLUSIVE, 0, 9)), 0);
	ck_assert_int_eq(wait_on(7, 2, rng(LOCK_EXCLUSIVE, 5, 5), &w), -EINPROGRESS);
	ck_assert_int_eq(lock_cancel(t, w), 0);
	ck_assert_int_eq(lock_cancel(t, w), -ENOENT);
	clear(1, 0, 9);
	ck_assert_int_eq(granted_n, 0);
	ck_assert_int_eq(set(3, rng(LOCK_EXCLUSIVE, 5, 5)), 0);
	ck_assert_int_eq(wait_on(7, 2, rng(LOCK_EXCLUSIVE, 5, 5), &w), -EINPROGRESS);
	lock_cancel_front(t, ORIGIN_NFS, -EINTR);
	ck_assert_int_eq(granted_n, 0);
	lock_cancel_front(t, ORIGIN_FUSE, -EINTR);
	ck_assert_int_eq(granted_n, 1);
	ck_assert_int_eq(granted_err, -EINTR);
}
END_TEST

START_TEST(a_front_end_goes_away_whole)
{
	struct lock_owner nfs = { .front = ORIGIN_NFS, .key = 1 }, far = { .front = ORIGIN_NFS, .node = 2, .key = 1 };
	struct lock_range r = rng(LOCK_EXCLUSIVE, 0, 9), s = rng(LOCK_EXCLUSIVE, 20, 29);
	uint64_t w;

	ck_assert_int_eq(lock_set(t, 7, nfs, &r), 0);
	ck_assert_int_eq(lock_set(t, 7, far, &s), 0);
	ck_assert_int_eq(lock_set(t, 8, nfs, &r), 0);
	ck_assert_int_eq(wait_on(7, 1, r, &w), -EINPROGRESS);
	lock_drop_front(t, ORIGIN_NFS, 0);
	ck_assert_int_eq(granted_n, 1);
	ck_assert_int_eq(lock_set(t, 8, own(2), &r), 0);
	ck_assert_int_eq(lock_set(t, 7, own(2), &s), -EAGAIN);
}
END_TEST

START_TEST(circles_are_refused)
{
	uint64_t w;
	struct lock_range r = rng(LOCK_EXCLUSIVE, 0, 0);

	for (uint64_t i = 1; i <= 5; i++)
		ck_assert_int_eq(lock_set(t, 100 + i, own(i), &r), 0);
	for (uint64_t i = 1; i < 5; i++)
		ck_assert_int_eq(wait_on(101 + i, i, r, &w), -EINPROGRESS);
	ck_assert_int_eq(wait_on(101, 5, r, &w), -EDEADLK);
	ck_assert_int_eq(wait_on(103, 5, r, &w), -EDEADLK);
	/* Waiting behind the chain without closing it is fine. */
	ck_assert_int_eq(wait_on(101, 6, r, &w), -EINPROGRESS);
	/* flock locks are not looked at. */
	ck_assert_int_eq(set(1, whole(LOCK_EXCLUSIVE)), 0);
	ck_assert_int_eq(wait_on(7, 5, whole(LOCK_EXCLUSIVE), &w), -EINPROGRESS);
}
END_TEST

START_TEST(upgrade_of_two_readers_is_a_circle)
{
	uint64_t w;

	ck_assert_int_eq(set(1, rng(LOCK_SHARED, 0, 9)), 0);
	ck_assert_int_eq(set(2, rng(LOCK_SHARED, 0, 9)), 0);
	ck_assert_int_eq(wait_on(7, 1, rng(LOCK_EXCLUSIVE, 0, 9), &w), -EINPROGRESS);
	ck_assert_int_eq(wait_on(7, 2, rng(LOCK_EXCLUSIVE, 0, 9), &w), -EDEADLK);
	clear(2, 0, 9);
	ck_assert_int_eq(granted_n, 1);
}
END_TEST

START_TEST(a_full_table_says_so)
{
	for (uint64_t i = 0; i < LOCK_TABLE_MAX; i++) {
		int r = set(1, rng(LOCK_EXCLUSIVE, 2 * (i % 64), 2 * (i % 64)));

		ck_assert_int_eq(r, 0);
		if (i < 64)
			continue;
		break;
	}
	for (uint64_t i = 0; i < LOCK_TABLE_MAX; i++) {
		struct lock_range r = rng(LOCK_EXCLUSIVE, 0, 0);
		int e = lock_set(t, 1000 + i, own(1), &r);

		if (e) {
			ck_assert_int_eq(e, -ENOLCK);
			ck_assert_uint_ge(i, LOCK_TABLE_MAX - 100);
			return;
		}
	}
	ck_abort_msg("no bound");
}
END_TEST

/* ---- the model ---- */

enum { BYTES = 24, OWNERS = 5, WAITS = 64 };
struct model_wait { uint64_t ticket; uint64_t key; struct lock_range r; bool live; };
static signed char cell[OWNERS][BYTES];		/* -1 free, else enum lock_mode */
static struct model_wait mw[WAITS];
static unsigned nmw;
static bool told[WAITS];

static void told_cb(void *arg, int err) { ck_assert_int_eq(err, 0); *(bool *)arg = true; }

static bool model_free(uint64_t k, const struct lock_range *r)
{
	for (unsigned o = 0; o < OWNERS; o++)
		for (uint64_t b = r->start; b <= r->end; b++)
			if (o != k && cell[o][b] >= 0 && (cell[o][b] == LOCK_EXCLUSIVE || r->mode == LOCK_EXCLUSIVE))
				return false;
	return true;
}
static void model_take(uint64_t k, const struct lock_range *r, int v)
{
	memset(&cell[k][r->start], v, r->end - r->start + 1);
}
static void model_wake(void)
{
	bool again;

	do {
		again = false;
		for (unsigned i = 0; i < nmw; i++) {
			if (!mw[i].live || !model_free(mw[i].key, &mw[i].r))
				continue;
			model_take(mw[i].key, &mw[i].r, (int)mw[i].r.mode);
			mw[i].live = false;
			again = true;
		}
	} while (again);
}
/* Does K wait (through others) for WHO? */
static bool model_reaches(uint64_t who, uint64_t k, const struct lock_range *r, unsigned seen)
{
	for (unsigned o = 0; o < OWNERS; o++) {
		bool blocks = false;

		for (uint64_t b = r->start; b <= r->end; b++)
			blocks |= o != k && cell[o][b] >= 0 && (cell[o][b] == LOCK_EXCLUSIVE || r->mode == LOCK_EXCLUSIVE);
		if (!blocks)
			continue;
		if (o == who)
			return true;
		if (seen & (1u << o))
			continue;
		for (unsigned i = 0; i < nmw; i++)
			if (mw[i].live && mw[i].key == o && model_reaches(who, o, &mw[i].r, seen | (1u << o)))
				return true;
	}
	return false;
}
static void model_compare(void)
{
	struct lock_range f;

	for (unsigned i = 0; i < nmw; i++)
		ck_assert_int_eq(told[i], !mw[i].live && mw[i].ticket);
	for (uint64_t k = 0; k < OWNERS; k++) {
		for (uint64_t b = 0; b < BYTES; b++) {
			struct lock_range r = rng(LOCK_SHARED, b, b), w = rng(LOCK_EXCLUSIVE, b, b);

			ck_assert_int_eq(lock_test(t, 7, own(k), &r, &f, NULL) == -ENOENT, model_free(k, &r));
			ck_assert_int_eq(lock_test(t, 7, own(k), &w, &f, NULL) == -ENOENT, model_free(k, &w));
		}
	}
}
static void model_step_wait(uint64_t k, const struct lock_range *r)
{
	uint64_t ticket;
	int e, want = model_free(k, r) ? 0 : model_reaches(k, k, r, 0) ? -EDEADLK : -EINPROGRESS;

	if (nmw == WAITS)
		return;
	e = lock_set_wait(t, 7, own(k), r, told_cb, &told[nmw], &ticket);
	ck_assert_int_eq(e, want);
	if (want == 0)
		model_take(k, r, (int)r->mode);
	else if (want == -EINPROGRESS)
		mw[nmw++] = (struct model_wait){ .ticket = ticket, .key = k, .r = *r, .live = true };
}
static void model_step(void)
{
	uint64_t k = (uint64_t)rand() % OWNERS, s = (uint64_t)rand() % BYTES, e = s + (uint64_t)rand() % (BYTES - s);
	struct lock_range r = rng(rand() % 2 ? LOCK_SHARED : LOCK_EXCLUSIVE, s, e);
	unsigned i = nmw ? (unsigned)rand() % nmw : 0;

	switch (rand() % 8) {
	case 0: case 1: case 2:
		ck_assert_int_eq(set(k, r), model_free(k, &r) ? 0 : -EAGAIN);
		if (model_free(k, &r))
			model_take(k, &r, (int)r.mode);
		break;
	case 3: case 4:
		clear(k, s, e);
		model_take(k, &r, -1);
		break;
	case 5: case 6:
		model_step_wait(k, &r);
		break;
	default:
		if (!nmw)
			break;
		ck_assert_int_eq(lock_cancel(t, mw[i].ticket), mw[i].live ? 0 : -ENOENT);
		if (mw[i].live)
			mw[i].live = false, mw[i].ticket = 0;
	}
	model_wake();
}

START_TEST(random_histories_match_the_model)
{
	srand((unsigned)_i + 1);
	memset(cell, -1, sizeof cell);
	for (int n = 0; n < 2000; n++) {
		model_step();
		model_compare();
		if (nmw == WAITS) {
			for (uint64_t k = 0; k < OWNERS; k++)	/* let all go */
				for (int pass = 0; pass < WAITS; pass++) {
					lock_drop_owner(t, 7, own(k), LOCK_POSIX_RANGE);
					memset(cell[k], -1, BYTES);
					model_wake();
				}
			model_compare();
			for (unsigned i = 0; i < nmw; i++)
				if (mw[i].live)
					ck_assert_int_eq(lock_cancel(t, mw[i].ticket), 0);
			nmw = 0;
			memset(told, 0, sizeof told);
		}
	}
}
END_TEST

/* ---- threads ---- */

struct gate { pthread_mutex_t mu; pthread_cond_t cv; bool open; };
static _Atomic int inside, most;
static void gate_open(void *arg, int err)
{
	struct gate *g = arg;

	(void)err;
	pthread_mutex_lock(&g->mu);
	g->open = true;
	pthread_cond_signal(&g->cv);
	pthread_mutex_unlock(&g->mu);
}
static void *contender(void *arg)
{
	struct lock_range w = rng(LOCK_EXCLUSIVE, 3, 4);
	uint64_t key = (uint64_t)(uintptr_t)arg, ticket;

	for (int i = 0; i < 2000; i++) {
		struct gate g = { .mu = PTHREAD_MUTEX_INITIALIZER, .cv = PTHREAD_COND_INITIALIZER };

		if (lock_set_wait(t, 7, own(key), &w, gate_open, &g, &ticket) == -EINPROGRESS &&
		    (i % 7 || lock_cancel(t, ticket))) {
			pthread_mutex_lock(&g.mu);
			while (!g.open)
				pthread_cond_wait(&g.cv, &g.mu);
			pthread_mutex_unlock(&g.mu);
		} else if (i % 7 == 0) {
			lock_clear(t, 7, own(key), &w);		/* granted at once, or cancelled */
			continue;
		}
		if (atomic_fetch_add(&inside, 1) + 1 > atomic_load(&most))
			atomic_store(&most, atomic_load(&inside));
		atomic_fetch_sub(&inside, 1);
		lock_clear(t, 7, own(key), &w);
	}
	return NULL;
}

START_TEST(threads_exclude_each_other)
{
	pthread_t th[4];

	for (uintptr_t i = 0; i < 4; i++)
		ck_assert_int_eq(pthread_create(&th[i], NULL, contender, (void *)(i + 1)), 0);
	for (int i = 0; i < 4; i++)
		pthread_join(th[i], NULL);
	ck_assert_int_le(atomic_load(&most), 1);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("lock");
	TCase *c = tcase_create("lock");
	SRunner *sr;
	int failed;

	tcase_add_checked_fixture(c, setup, teardown);
	tcase_set_timeout(c, 60);
	tcase_add_test(c, readers_share_writers_exclude);
	tcase_add_test(c, own_ranges_merge_and_split);
	tcase_add_test(c, flock_and_fcntl_do_not_meet);
	tcase_add_test(c, flock_conversion_gives_up_first);
	tcase_add_test(c, waiters_are_woken_in_order);
	tcase_add_test(c, cancel_ends_waiting);
	tcase_add_test(c, a_front_end_goes_away_whole);
	tcase_add_test(c, circles_are_refused);
	tcase_add_test(c, upgrade_of_two_readers_is_a_circle);
	tcase_add_test(c, a_full_table_says_so);
	tcase_add_loop_test(c, random_histories_match_the_model, 0, 20);
	tcase_add_test(c, threads_exclude_each_other);
	suite_add_tcase(s, c);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_ENV);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? 1 : 0;
}
