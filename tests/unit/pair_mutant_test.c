/*
 * Mutants: the queue of this program swaps two neighbouring ops now and then, and acknowledges an fsync that no peer has made
 * durable. The tests of order and durability must notice; here that they do is what is tested.
 */
#define TANDEMFS_MUTANT_SWAP
#define TANDEMFS_MUTANT_EARLY_ACK
#include "mirror/queue.c"

#include "pair_random.h"

static struct pair p;

static void setup(void) { pair_start(&p); }
static void teardown(void) { pair_stop(&p); }

START_TEST(swapped_ops_are_noticed)
{
	random_run(&p, 4, 2000, 42);
	int err = pair_settle(&p);
	ck_assert(err == -EUCLEAN || pair_compare(&p, NULL) > 0);
}
END_TEST

START_TEST(an_early_acknowledgement_is_noticed)
{
	struct file *f;

	ck_assert_int_eq(t_make(&p, HANDLE_ROOT, "f", S_IFREG | 0644, NULL, &f), 0);
	atomic_store(&p.hold_barriers, true);
	ck_assert_int_eq(t_fsync(&p, f), 0);	/* with the true queue this would wait for ever: fsync_waits_for_the_peer */
	t_close(&p, f);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("pair_mutant");
	TCase *t = tcase_create("pair_mutant");

	log_init("pair_mutant_test", LOG_SINK_SYSLOG, LOG_LVL_ERROR);
	tcase_add_unchecked_fixture(t, pair_mount, pair_unmount);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, swapped_ops_are_noticed);
	tcase_add_test(t, an_early_acknowledgement_is_noticed);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
