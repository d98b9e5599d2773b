/*
 * The lock table's journal, owners' identities, and what other nodes hold. A second table that gets each noted change by lock_apply is equal to the first at any time, whatever
 * threads did; so is one that joins in the middle by lock_each.
 */
#include "fs/lock.h"

#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "fs/layer.h"

enum { OBJECTS = 5, OWNERS = 6, BYTES = 40, THREADS = 4, STEPS = 4000 };

static struct lock_table *t, *copy, *late;

/* ---- the journal ---- */

static atomic_int begin_err, record_err, end_err;
static _Atomic uint64_t noted, begun, ended, waited;
static _Thread_local bool within;
static atomic_bool follow_late;

static int j_begin(void *arg)
{
	(void)arg;
	ck_assert(!within);
	if (atomic_load(&begin_err))
		return atomic_load(&begin_err);
	within = true;
	atomic_fetch_add(&begun, 1);
	return 0;
}

static int j_record(void *arg, const struct lock_change *c, uint64_t *seq)
{
	(void)arg;
	ck_assert(within);
	if (atomic_load(&record_err))
		return atomic_load(&record_err);
	*seq = atomic_fetch_add(&noted, 1) + 1;
	ck_assert_int_eq(lock_apply(copy, c), 0);
	if (atomic_load(&follow_late))
		ck_assert_int_eq(lock_apply(late, c), 0);
	return 0;
}

static int j_end(void *arg, uint64_t seq, bool volume)
{
	(void)arg;
	(void)seq;
	ck_assert(within);
	within = false;
	atomic_fetch_add(&ended, 1);
	if (!volume)
		return 0;
	atomic_fetch_add(&waited, 1);
	return atomic_load(&end_err);
}

static void setup(void)
{
	ck_assert_int_eq(lock_table_new(&t), 0);
	ck_assert_int_eq(lock_table_new(&copy), 0);
	ck_assert_int_eq(lock_table_new(&late), 0);
	lock_table_set_journal(t, &(struct lock_journal){ j_begin, j_record, j_end, NULL });
}

static void teardown(void)
{
	ck_assert_uint_eq(atomic_load(&begun), atomic_load(&ended));
	lock_table_free(t);
	lock_table_free(copy);
	lock_table_free(late);
}

/* ---- owners ---- */

static atomic_int lives;
static void who_gone(struct lock_who *w)
{
	if (atomic_fetch_sub(&w->refs, 1) == 1)
		atomic_fetch_sub(&lives, 1);
}
static struct lock_who whos[OWNERS];

/* Even ones are NFS clients. */
static struct lock_owner own(unsigned k)
{
	if (k % 2)
		return (struct lock_owner){ .front = ORIGIN_FUSE, .key = k };
	return (struct lock_owner){ .front = ORIGIN_NFS, .node = LOCK_NODE_VOLUME, .key = k };
}

static struct lock_owner known(unsigned k)
{
	struct lock_owner o = own(k);

	if (!atomic_load(&whos[k].refs))
		atomic_fetch_add(&lives, 1);
	whos[k].put = who_gone;
	atomic_fetch_add(&whos[k].refs, 1);
	o.who = &whos[k];
	return o;
}

static struct lock_range rng(enum lock_mode m, uint64_t s, uint64_t e)
{
	return (struct lock_range){ .kind = LOCK_POSIX_RANGE, .mode = m, .start = s, .end = e };
}

static int set(unsigned k, uint64_t s, uint64_t e)
{
	struct lock_range r = rng(LOCK_EXCLUSIVE, s, e);
	return lock_set(t, 1, own(k), &r);
}

static int clear(unsigned k, uint64_t s, uint64_t e)
{
	struct lock_range r = rng(LOCK_EXCLUSIVE, s, e);
	return lock_clear(t, 1, own(k), &r);
}

/* ---- cases ---- */

START_TEST(an_identity_lives_as_long_as_its_locks)
{
	struct lock_owner o = known(2), holder;
	struct lock_range r = rng(LOCK_EXCLUSIVE, 0, 99), part = rng(LOCK_EXCLUSIVE, 10, 19), f;

	ck_assert_int_eq(lock_set(t, 1, o, &r), 0);
	who_gone(o.who);
	ck_assert_int_eq(atomic_load(&lives), 1);
	ck_assert_int_eq(lock_test(t, 1, own(4), &part, &f, &holder), 0);
	ck_assert_ptr_eq(holder.who, &whos[2]);
	ck_assert_int_eq(lock_clear(t, 1, own(2), &part), 0);		/* two pieces now */
	r.end = 9;
	ck_assert_int_eq(lock_clear(t, 1, own(2), &r), 0);
	who_gone(holder.who);
	ck_assert_int_eq(atomic_load(&lives), 1);
	ck_assert_int_eq(lock_test(t, 1, own(4), &part, &f, NULL), -ENOENT);
	r = rng(LOCK_EXCLUSIVE, 0, UINT64_MAX);
	ck_assert_int_eq(lock_clear(t, 1, own(2), &r), 0);
	lock_table_free(copy);
	ck_assert_int_eq(atomic_load(&lives), 0);
	ck_assert_int_eq(lock_table_new(&copy), 0);
}
END_TEST

START_TEST(what_one_holds)
{
	struct lock_range a = rng(LOCK_EXCLUSIVE, 0, 9), b = rng(LOCK_SHARED, 10, 19), all = rng(LOCK_SHARED, 0, 19);

	ck_assert_int_eq(lock_set(t, 1, own(2), &a), 0);
	ck_assert_int_eq(lock_set(t, 1, own(2), &b), 0);
	ck_assert_uint_eq(lock_holds(t, 1, own(2), &all), 1u << LOCK_EXCLUSIVE | 1u << LOCK_SHARED);
	ck_assert_uint_eq(lock_holds(t, 1, own(4), &all), 0);
	ck_assert(lock_covers(t, 1, own(2), &all));
	all.mode = LOCK_EXCLUSIVE;
	ck_assert(!lock_covers(t, 1, own(2), &all));
	all = rng(LOCK_SHARED, 5, 20);
	ck_assert(!lock_covers(t, 1, own(2), &all));
}
END_TEST

START_TEST(what_cant_be_recorded_is_the_volumes_to_refuse)
{
	atomic_store(&begin_err, -EROFS);
	ck_assert_int_eq(set(2, 0, 9), -EROFS);
	ck_assert_int_eq(set(1, 0, 9), 0);		/* a program on a standby's mount */
	ck_assert_int_eq(clear(2, 0, 9), -EROFS);
	ck_assert_int_eq(clear(1, 0, 9), 0);
	atomic_store(&begin_err, 0);
	atomic_store(&record_err, -ENOMEM);
	ck_assert_int_eq(set(2, 0, 9), -ENOMEM);
	ck_assert_uint_eq(lock_count(t), 0);
	atomic_store(&record_err, 0);
	ck_assert_int_eq(set(2, 0, 9), 0);
	ck_assert_int_eq(set(1, 20, 29), 0);
	atomic_store(&record_err, -ENOMEM);
	ck_assert_int_eq(clear(2, 0, 9), -ENOMEM);
	ck_assert_int_eq(clear(1, 20, 29), 0);		/* a close can't fail */
	ck_assert_uint_eq(lock_count(t), 1);
	atomic_store(&record_err, 0);
	atomic_store(&end_err, -EIO);
	ck_assert_int_eq(clear(2, 0, 9), -EIO);		/* nobody knows whether the peers have it */
	ck_assert_int_eq(set(1, 0, 9), 0);
}
END_TEST

static atomic_int granted_n, granted_err;
static void granted(void *arg, int err)
{
	(void)arg;
	ck_assert(!within);
	atomic_store(&granted_err, err);
	atomic_fetch_add(&granted_n, 1);
}

START_TEST(grants_are_noted_and_waited_for)
{
	struct lock_range r = rng(LOCK_EXCLUSIVE, 0, 9);
	uint64_t ticket;

	ck_assert_int_eq(set(1, 0, 9), 0);
	ck_assert_int_eq(lock_set_wait(t, 1, own(2), &r, granted, NULL, &ticket), -EINPROGRESS);
	atomic_store(&begin_err, -EROFS);
	ck_assert_int_eq(clear(1, 0, 4), 0);
	ck_assert_int_eq(clear(1, 5, 9), 0);		/* it could have it now, but not on a standby */
	ck_assert_int_eq(atomic_load(&granted_n), 0);
	atomic_store(&begin_err, 0);
	ck_assert_int_eq(set(3, 0, 9), 0);
	uint64_t before = atomic_load(&waited);
	atomic_store(&end_err, -EIO);
	ck_assert_int_eq(clear(3, 0, 9), 0);		/* the program that gave it up has no part in that error */
	ck_assert_int_eq(atomic_load(&granted_n), 1);
	ck_assert_int_eq(atomic_load(&granted_err), -EIO);
	ck_assert_uint_eq(atomic_load(&waited), before + 1);
}
END_TEST

START_TEST(waiting_for_one_object_is_bounded)
{
	struct lock_range r = rng(LOCK_EXCLUSIVE, 0, 9);
	uint64_t ticket;

	ck_assert_int_eq(set(1, 0, 9), 0);
	for (unsigned i = 0; i < LOCK_OBJECT_WAITS_MAX; i++)
		ck_assert_int_eq(lock_set_wait(t, 1, own(2 + 2 * i), &r, granted, NULL, &ticket), -EINPROGRESS);
	ck_assert_int_eq(lock_set_wait(t, 1, own(2 + 2 * LOCK_OBJECT_WAITS_MAX), &r, granted, NULL, &ticket), -ENOLCK);
	ck_assert_int_eq(lock_set_wait(t, 1, own(3), &r, granted, NULL, &ticket), -EINPROGRESS);	/* a local program */
	ck_assert_int_eq(lock_cancel(t, ticket), 0);
	lock_cancel_front(t, ORIGIN_NFS, -EINTR);
	ck_assert_int_eq(lock_set_wait(t, 1, own(2), &r, granted, NULL, &ticket), -EINPROGRESS);
}
END_TEST

static bool is_own(void *arg, const struct lock_owner *o) { return o->key == *(const uint64_t *)arg; }

START_TEST(one_owner_is_dropped_with_all_that_waits)
{
	struct lock_range r = rng(LOCK_EXCLUSIVE, 0, 9);
	uint64_t ticket, two = 2;

	for (uint64_t id = 1; id < 100; id++)
		ck_assert_int_eq(lock_set(t, id, own(2), &r), 0);
	ck_assert_int_eq(lock_set(t, 200, own(4), &r), 0);
	ck_assert_int_eq(lock_set_wait(t, 200, own(2), &r, granted, NULL, &ticket), -EINPROGRESS);
	atomic_store(&begin_err, -EROFS);
	ck_assert_int_eq(lock_drop_matching(t, is_own, &two, -ECANCELED, true), -EROFS);
	ck_assert_uint_eq(lock_count(t), 101);
	atomic_store(&begin_err, 0);
	ck_assert_int_eq(lock_drop_matching(t, is_own, &two, -ECANCELED, true), 0);
	ck_assert_int_eq(atomic_load(&granted_err), -ECANCELED);
	ck_assert_uint_eq(lock_count(t), 1);
	ck_assert_uint_eq(lock_count(copy), 1);
}
END_TEST

/* What comes from elsewhere is in the way of local programs, and wakes them when it goes. */
START_TEST(others_locks_count)
{
	struct lock_change c = { .set = true, .id = 1, .o = { .front = ORIGIN_FUSE, .node = 3, .key = 9 }, .r = rng(LOCK_EXCLUSIVE, 0, 9) };
	struct lock_range r = rng(LOCK_EXCLUSIVE, 5, 5);
	uint64_t ticket;

	atomic_store(&begin_err, -EROFS);
	ck_assert_int_eq(set(1, 3, 3), 0);
	ck_assert_int_eq(lock_apply(t, &c), 0);			/* whatever is held here */
	ck_assert_int_eq(set(3, 4, 4), -EAGAIN);
	ck_assert_int_eq(lock_set_wait(t, 1, own(3), &r, granted, NULL, &ticket), -EINPROGRESS);
	c.set = false;
	ck_assert_int_eq(lock_apply(t, &c), 0);
	ck_assert_int_eq(atomic_load(&granted_n), 1);
	ck_assert_uint_eq(lock_count(t), 2);
}
END_TEST

/* ---- the copy ---- */

static int cmp_lines(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

struct lines { char *l[4096]; unsigned n; };

static int add_line(void *arg, const struct lock_change *c)
{
	struct lines *x = arg;

	if (!c)
		return 0;
	ck_assert_uint_lt(x->n, ARRAY_LEN(x->l));
	ck_assert_int_gt(asprintf(&x->l[x->n++], "%llu %u %u %llu %d %d %llu %llu", (unsigned long long)c->id, c->o.front, c->o.node, (unsigned long long)c->o.key,
				  c->r.kind, c->r.mode, (unsigned long long)c->r.start, (unsigned long long)c->r.end), 0);
	return 0;
}

static void collect(struct lock_table *from, struct lines *x)
{
	uint64_t pos = 0;

	x->n = 0;
	do
		ck_assert_int_eq(lock_each(from, &pos, 3, add_line, x), 0);
	while (pos);
	qsort(x->l, x->n, sizeof x->l[0], cmp_lines);
}

static void equal(struct lock_table *a, struct lock_table *b)
{
	static struct lines x, y;

	collect(a, &x);
	collect(b, &y);
	ck_assert_uint_eq(x.n, y.n);
	for (unsigned i = 0; i < x.n; i++) {
		ck_assert_str_eq(x.l[i], y.l[i]);
		free(x.l[i]);
		free(y.l[i]);
	}
}

static atomic_int answers;
static void answered(void *arg, int err)
{
	(void)arg;
	(void)err;
	atomic_fetch_add(&answers, 1);
}

static unsigned roll(unsigned *seed) { return (unsigned)rand_r(seed); }

static void step(unsigned *seed)
{
	struct lock_owner o = own(roll(seed) % OWNERS);
	uint64_t id = roll(seed) % OBJECTS, a = roll(seed) % BYTES, b = a + roll(seed) % 8, ticket;
	struct lock_range r = rng(roll(seed) % 2 ? LOCK_SHARED : LOCK_EXCLUSIVE, a, b);
	struct lock_range w = { .kind = LOCK_WHOLE, .mode = r.mode, .end = UINT64_MAX };

	switch (roll(seed) % 10) {
	case 0: lock_drop_owner(t, id, o, LOCK_POSIX_RANGE); break;
	case 1: case 2: lock_clear(t, id, o, &r); break;
	case 3:
		if (lock_set_wait(t, id, o, &r, answered, NULL, &ticket) == -EINPROGRESS && roll(seed) % 2)
			lock_cancel(t, ticket);
		break;
	case 4:
		if (o.front == ORIGIN_FUSE)
			lock_set(t, id, o, &w);
		break;
	case 5: lock_drop_owner(t, id, o, LOCK_WHOLE); break;
	case 6:
		if (!(roll(seed) % 20))
			lock_drop_matching(t, is_own, &(uint64_t){ o.key }, -EINTR, true);
		break;
	default: lock_set(t, id, o, &r);
	}
}

static void *actor(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	for (unsigned i = 0; i < STEPS; i++)
		step(&seed);
	return NULL;
}

/* As a snapshot is made: what is read and what is noted meanwhile have one order. */
static int join_in(void *arg, const struct lock_change *c)
{
	(void)arg;
	return c ? lock_apply(late, c) : 0;
}

START_TEST(a_copy_is_always_equal)
{
	pthread_t th[THREADS];
	uint64_t pos = 0;

	for (uintptr_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&th[i], NULL, actor, (void *)(i + 1 + 10 * (uintptr_t)_i)), 0);
	while (atomic_load(&noted) < STEPS / 4)
		;
	atomic_store(&follow_late, true);		/* the begin marker */
	do
		ck_assert_int_eq(lock_each(t, &pos, 3, join_in, NULL), 0);
	while (pos);
	for (int i = 0; i < THREADS; i++)
		pthread_join(th[i], NULL);
	lock_cancel_front(t, ORIGIN_FUSE, -EINTR);
	lock_cancel_front(t, ORIGIN_NFS, -EINTR);
	equal(t, copy);
	equal(t, late);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("lock_journal");
	TCase *c = tcase_create("lock_journal");
	SRunner *sr;
	int failed;

	tcase_add_checked_fixture(c, setup, teardown);
	tcase_set_timeout(c, 120);
	tcase_add_test(c, an_identity_lives_as_long_as_its_locks);
	tcase_add_test(c, what_one_holds);
	tcase_add_test(c, what_cant_be_recorded_is_the_volumes_to_refuse);
	tcase_add_test(c, grants_are_noted_and_waited_for);
	tcase_add_test(c, waiting_for_one_object_is_bounded);
	tcase_add_test(c, one_owner_is_dropped_with_all_that_waits);
	tcase_add_test(c, others_locks_count);
	tcase_add_loop_test(c, a_copy_is_always_equal, 0, 10);
	suite_add_tcase(s, c);
	sr = srunner_create(s);
	srunner_run_all(sr, CK_ENV);
	failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? 1 : 0;
}
