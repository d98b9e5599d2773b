/* Random operations from many threads: the standby equals the primary, in all that the identity contract names. */
#include "pair_random.h"

static struct pair p;

static void setup(void) { pair_start(&p); }
static void teardown(void) { pair_stop(&p); }

static uint64_t seed_of(int i)
{
	const char *s = getenv("SEED");

	return s ? strtoull(s, NULL, 0) : clock_mono_ns() + (uint64_t)i;
}

static void equal_after(unsigned threads, unsigned ops, uint64_t seed)
{
	size_t objects;

	ck_assert_uint_eq(random_run(&p, threads, ops, seed), 0);
	ck_assert_int_eq(pair_settle(&p), 0);
	ck_assert_uint_eq(atomic_load(&p.nrestated), 0);
	ck_assert_uint_eq(pair_compare(&p, &objects), 0);
	fprintf(stderr, "# %zu objects equal\n", objects);
}

START_TEST(one_thread) { equal_after(1, 3000, seed_of(_i)); }
END_TEST

START_TEST(eight_threads) { equal_after(8, 2500, seed_of(_i)); }
END_TEST

START_TEST(eight_threads_in_sync)
{
	pair_stop(&p);
	pair_durability = DURABILITY_SYNC;
	pair_start(&p);
	equal_after(8, 600, seed_of(_i));
}
END_TEST

/* After a failover the other file system is the primary's. */
static void mount_swapped(void)
{
	pair_mkfs_a = "mkfs.xfs -q -f";
	pair_mkfs_b = "mkfs.ext4 -q -F";
	pair_mount();
}

static void mount_btrfs(void)
{
	pair_mkfs_a = "mkfs.ext4 -q -F";
	pair_mkfs_b = ">/dev/null mkfs.btrfs -q -f";
	random_shifts = false;
	pair_mount();
}

static void add(Suite *s, const char *name, void (*mounts)(void))
{
	TCase *t = tcase_create(name);

	tcase_add_unchecked_fixture(t, mounts, pair_unmount);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 120);
	tcase_add_test(t, one_thread);
	tcase_add_test(t, eight_threads);
	tcase_add_test(t, eight_threads_in_sync);
	suite_add_tcase(s, t);
}

int main(void)
{
	Suite *s = suite_create("pair_random");

	log_init("pair_random_test", LOG_SINK_STDERR, LOG_LVL_WARN);
	add(s, "ext4 to xfs", pair_mount);
	add(s, "xfs to ext4", mount_swapped);
	add(s, "ext4 to btrfs", mount_btrfs);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
