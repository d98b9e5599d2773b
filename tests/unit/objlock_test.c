/* Object locks exclude, never deadlock, and what a guard says about names is true while it is held. */
#include "fs/objlock.h"

#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "fs/observe.h"

/* A layer that only resolves: DIRS directories with NAMES slots each, changed under the locks that are under test. */
enum { DIRS = 6, NAMES = 5, THREADS = 8, ROUNDS = 30000 };
#define DIR_ID(d) (100 + (uint64_t)(d))

struct slot { _Atomic uint64_t id; _Atomic uint32_t type; };
static struct slot Slots[DIRS][NAMES];
static _Atomic int Owner[DIRS + 4096];	/* by object: how many hold it */
static _Atomic int VolumeOwners;
static _Atomic uint64_t Resolved;

static int fake_resolve(struct layer *l, uint64_t parent, const char *name, uint64_t *id, uint32_t *type)
{
	(void)l;
	atomic_fetch_add(&Resolved, 1);
	if (parent < 100 || parent >= 100 + DIRS)
		return -ESTALE;
	struct slot *s = &Slots[parent - 100][name[0] - '0'];
	*id = s->id;
	*type = s->type;
	return *id ? 0 : -ENOENT;
}
static const struct layer_ops Ops = { .resolve = fake_resolve };
static struct layer Below = { .ops = &Ops, .name = "fake" };
static struct objlocks *T;

static void set_slot(int d, int n, uint64_t id, uint32_t type)
{
	Slots[d][n].id = id;
	Slots[d][n].type = type;
}

static void setup(void)
{
	ck_assert_int_eq(objlocks_new(&T), 0);
	memset(Slots, 0, sizeof Slots);
	for (int d = 0; d < DIRS; d++)
		for (int n = 0; n < NAMES; n++) {
			Slots[d][n].id = (n + d) % 3 ? (uint64_t)(1000 + d * NAMES + n) : 0;
			Slots[d][n].type = n % 2 ? S_IFDIR : S_IFREG;
		}
}
static void teardown(void) { objlocks_free(T); }

static _Atomic int *owner_of(uint64_t id) { return &Owner[id < 1000 ? id - 100 : id - 1000 + DIRS]; }
static void own(uint64_t id)
{
	if (id)
		ck_assert_int_eq(atomic_fetch_add(owner_of(id), 1), 0);
}
static void disown(uint64_t id)
{
	if (id)
		atomic_fetch_sub(owner_of(id), 1);
}

static uint64_t rnd(uint64_t *s)
{
	*s ^= *s << 13;
	*s ^= *s >> 7;
	*s ^= *s << 17;
	return *s;
}

/* Creates or removes what the name means. */
static void entry_step(uint64_t *s)
{
	int d = (int)(rnd(s) % DIRS), n = (int)(rnd(s) % NAMES);
	struct slot *sl = &Slots[d][n];
	char name[2] = { (char)('0' + n), 0 };
	auto_objguard struct objguard g;

	ck_assert_int_eq(objlock_entry(T, &g, &Below, DIR_ID(d), name, 0), 0);
	own(DIR_ID(d));
	own(g.id);
	ck_assert(sl->id == g.id && (!g.id || sl->type == g.type));
	disown(DIR_ID(d));
	disown(g.id);
}

static bool guard_sorted(const struct objguard *g)
{
	for (unsigned i = 1; i < g->n; i++)
		if (g->stripe[i - 1] >= g->stripe[i])
			return false;
	return true;
}

/* Exchanges two slots: ids never appear twice. */
static void rename_step(uint64_t *s)
{
	int d1 = (int)(rnd(s) % DIRS), d2 = (int)(rnd(s) % DIRS), n1 = (int)(rnd(s) % NAMES), n2 = (int)(rnd(s) % NAMES);
	struct slot *a = &Slots[d1][n1], *b = &Slots[d2][n2];
	char name1[2] = { (char)('0' + n1), 0 }, name2[2] = { (char)('0' + n2), 0 };
	auto_objguard struct objguard g;

	ck_assert_int_eq(objlock_rename(T, &g, &Below, DIR_ID(d1), name1, DIR_ID(d2), name2), 0);
	ck_assert(guard_sorted(&g));
	own(DIR_ID(d1));
	if (d2 != d1)
		own(DIR_ID(d2));
	own(g.id);
	if (g.id2 != g.id)
		own(g.id2);
	bool dir = (g.id && S_ISDIR(g.type)) || (g.id2 && S_ISDIR(g.type2));
	ck_assert(!(d1 != d2 && dir) || g.volume);
	if (g.volume)
		ck_assert_int_eq(atomic_fetch_add(&VolumeOwners, 1), 0);
	ck_assert(a->id == g.id && b->id == g.id2);
	a->id = g.id2;
	a->type = g.type2;
	b->id = g.id;
	b->type = g.type;
	if (g.volume)
		atomic_fetch_sub(&VolumeOwners, 1);
	disown(DIR_ID(d1));
	if (d2 != d1)
		disown(DIR_ID(d2));
	disown(g.id);
	if (g.id2 != g.id)
		disown(g.id2);
}

static void ids_step(uint64_t *s)
{
	uint64_t ids[OBJLOCK_MAX];
	struct objguard g;

	for (int i = 0; i < OBJLOCK_MAX; i++)
		ids[i] = rnd(s) % 4 ? 5000 + rnd(s) % 100000 : 0;
	objlock_ids(T, &g, ids, OBJLOCK_MAX);
	ck_assert(guard_sorted(&g));
	objlock_drop(&g);
	ck_assert_ptr_null(g.t);
	objlock_drop(&g);
}

static void *stress(void *arg)
{
	uint64_t s = (uint64_t)(uintptr_t)arg * 7919 + 1;

	for (int i = 0; i < ROUNDS; i++)
		switch (rnd(&s) % 3) {
		case 0: entry_step(&s); break;
		case 1: rename_step(&s); break;
		default: ids_step(&s); break;
		}
	return NULL;
}

START_TEST(eight_threads_neither_collide_nor_hang)
{
	pthread_t t[THREADS];

	for (uintptr_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, stress, (void *)(i + 1)), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	for (size_t i = 0; i < sizeof Owner / sizeof Owner[0]; i++)
		ck_assert_int_eq(Owner[i], 0);
}
END_TEST

START_TEST(one_lookup_in_the_usual_case)
{
	struct objguard g;
	uint64_t before = Resolved;
	int n = 0;

	for (int d = 0; d < DIRS; d++)
		for (int k = 0; k < NAMES; k++, n++) {
			ck_assert_int_eq(objlock_entry(T, &g, &Below, DIR_ID(d), (char[]){ (char)('0' + k), 0 }, 77), 0);
			objlock_drop(&g);
		}
	ck_assert_uint_eq(Resolved - before, (unsigned)n);
}
END_TEST

START_TEST(volume_mutex_only_for_directories_across_parents)
{
	struct objguard g;

	set_slot(0, 1, 1001, S_IFDIR);
	set_slot(0, 2, 1002, S_IFREG);
	set_slot(1, 1, 0, 0);
	set_slot(0, 4, 0, 0);
	set_slot(1, 3, 1003, S_IFDIR);
	static const struct { int p1, n1, p2, n2; bool volume; } c[] = {
		{ 0, 1, 1, 1, true }, { 0, 1, 0, 4, false }, { 0, 2, 1, 1, false }, { 0, 2, 1, 3, true }, { 0, 1, 1, 3, true },
	};
	for (size_t i = 0; i < sizeof c / sizeof c[0]; i++) {
		char a[2] = { (char)('0' + c[i].n1), 0 }, b[2] = { (char)('0' + c[i].n2), 0 };
		ck_assert_int_eq(objlock_rename(T, &g, &Below, DIR_ID(c[i].p1), a, DIR_ID(c[i].p2), b), 0);
		ck_assert(g.volume == c[i].volume);
		objlock_drop(&g);
	}
}
END_TEST

START_TEST(errors_hold_nothing)
{
	struct objguard g;

	ck_assert_int_eq(objlock_entry(T, &g, &Below, 7, "0", 0), -ESTALE);
	ck_assert_ptr_null(g.t);
	ck_assert_int_eq(objlock_rename(T, &g, &Below, DIR_ID(0), "0", 7, "0"), -ESTALE);
	ck_assert_ptr_null(g.t);
	ck_assert_int_eq(objlock_entry(T, &g, &Below, DIR_ID(0), "0", 0), 0);	/* no such entry is no error */
	ck_assert(g.id == 0 && g.n == 1);
	objlock_drop(&g);
}
END_TEST

START_TEST(same_name_twice)
{
	struct objguard g;

	ck_assert_int_eq(objlock_rename(T, &g, &Below, DIR_ID(0), "1", DIR_ID(0), "1"), 0);
	ck_assert(g.id == g.id2 && !g.volume);
	objlock_drop(&g);
}
END_TEST

static void count(void *arg, const struct change *c) { *(uint64_t *)arg += c->id; }

START_TEST(observers_are_all_told)
{
	struct observers os = { 0 };
	uint64_t sum[OBSERVERS_MAX] = { 0 };

	observers_tell(&os, &(struct change){ .id = 1 });
	observers_tell(NULL, &(struct change){ .id = 1 });
	for (int i = 0; i < OBSERVERS_MAX; i++)
		observers_add(&os, count, &sum[i]);
	observers_tell(&os, &(struct change){ .id = 5 });
	for (int i = 0; i < OBSERVERS_MAX; i++)
		ck_assert_uint_eq(sum[i], 5);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("objlock");
	TCase *t = tcase_create("objlock");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, eight_threads_neither_collide_nor_hang);
	tcase_add_test(t, one_lookup_in_the_usual_case);
	tcase_add_test(t, volume_mutex_only_for_directories_across_parents);
	tcase_add_test(t, errors_hold_nothing);
	tcase_add_test(t, same_name_twice);
	tcase_add_test(t, observers_are_all_told);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
