/*
 * Errors below the mirroring layer and below apply: nodes stay equal, or every object that differs was asked to be stated again (or reported
 * dirty by the standby). Failed flushes: nothing is acknowledged.
 */
#include "fs/fault.h"
#include "pair_random.h"

static struct pair p;
static const char *rules_a, *rules_b;
static struct layer *fault_a, *fault_b;

static struct layer *faulty(struct layer *below, const char *text)
{
	struct fault_rules *r;
	struct layer *l;
	char err[200];

	ck_assert_msg(!fault_parse(text, &r, err, sizeof err), "%s", err);
	ck_assert_int_eq(fault_new(below, r, &l), 0);
	return l;
}

static struct layer *below_a(struct layer *l) { return fault_a = rules_a ? faulty(l, rules_a) : l; }
static struct layer *below_b(struct layer *l) { return fault_b = rules_b ? faulty(l, rules_b) : l; }

static void start(const char *a, const char *b)
{
	rules_a = a;
	rules_b = b;
	pair_below_a = below_a;
	pair_below_b = below_b;
	pair_start(&p);
}

static void stop(void)
{
	pair_stop(&p);
	if (rules_a)
		fault_a->ops->destroy(fault_a);
	if (rules_b)
		fault_b->ops->destroy(fault_b);
}

#define CHANGES "op=create|tmpfile|unlink|rmdir|rename|link|setattr|setxattr|removexattr|setflags|write|fallocate|copy_range"

START_TEST(a_refused_call_changes_nothing)
{
	start(CHANGES ",every=7,error=EDQUOT", NULL);
	random_run(&p, 4, 3000, clock_mono_ns());
	ck_assert_int_eq(pair_settle(&p), 0);
	ck_assert_uint_gt(fault_fired(fault_a), 100);
	ck_assert_uint_eq(atomic_load(&p.nrestated), 0);
	ck_assert_uint_eq(pair_compare(&p, NULL), 0);
	stop();
}
END_TEST

START_TEST(short_writes_are_streamed_as_they_happened)
{
	start("op=write|copy_range,every=3,short=100", "op=write|copy_range,every=2,short=77");
	random_run(&p, 4, 2000, clock_mono_ns());
	ck_assert_int_eq(pair_settle(&p), 0);
	ck_assert_uint_gt(fault_fired(fault_a), 50);
	ck_assert_uint_gt(fault_fired(fault_b), 50);
	ck_assert_uint_eq(atomic_load(&p.nrestated), 0);
	ck_assert_uint_eq(pair_compare(&p, NULL), 0);
	stop();
}
END_TEST

START_TEST(done_but_failed_is_restated)
{
	unsigned excuses;

	start(CHANGES ",every=40,error=EIO,after", NULL);
	apply_set_tolerant(p.ap, true);
	random_run(&p, 4, 3000, clock_mono_ns());
	ck_assert_int_eq(pair_settle(&p), 0);
	ck_assert_uint_gt(fault_fired(fault_a), 50);
	ck_assert_uint_gt(atomic_load(&p.nrestated), 50);
	ck_assert_uint_eq(pair_compare_excused(&p, &excuses), 0);
	fprintf(stderr, "# %u differences, all known\n", excuses);
	stop();
}
END_TEST

START_TEST(a_standby_without_space_stops)
{
	struct file *f;

	start(NULL, "op=write,nth=3,error=ENOSPC");
	ck_assert_int_eq(t_make(&p, HANDLE_ROOT, "f", S_IFREG | 0644, NULL, &f), 0);
	for (unsigned i = 0; i < 5; i++)
		ck_assert_int_eq(t_write(&p, f, "x", 1, i), 1);
	ck_assert_int_eq(pair_settle(&p), -ENOSPC);
	ck_assert_uint_eq(fault_fired(fault_b), 1);
	struct call c = user();
	struct attr a;
	ck_assert_int_eq(p.b.local->ops->getattr(p.b.local, &c, file_id(f), NULL, &a), 0);
	ck_assert_uint_eq(a.size, 2);	/* nothing after the op that failed */
	t_close(&p, f);
	stop();
}
END_TEST

START_TEST(a_failed_flush_here_acknowledges_nothing)
{
	struct file *f;
	struct call c = user();

	start("op=fsync,nth=2,error=EIO", NULL);
	ck_assert_int_eq(t_make(&p, HANDLE_ROOT, "f", S_IFREG | 0644, NULL, &f), 0);
	ck_assert_int_eq(t_fsync(&p, f), 0);
	ck_assert_int_eq(t_write(&p, f, "x", 1, 0), 1);
	ck_assert_int_eq(t_fsync(&p, f), -EIO);
	ck_assert_int_eq(p.flush_failures, 1);
	queue_freeze(p.q, false);
	c.stable = true;
	const struct wdata d = { .p = "y", .len = 1 };
	ck_assert_int_eq(p.top->ops->write(p.top, &c, f, &d, 0, 0, NULL), 1);
	t_close(&p, f);
	stop();
}
END_TEST

static void *one_fsync(void *arg) { return (void *)(intptr_t)t_fsync(&p, arg); }

START_TEST(a_failed_flush_there_acknowledges_nothing)
{
	struct file *f;
	pthread_t t;
	void *r;
	struct timespec until = clock_wall();

	start(NULL, "op=fsync,nth=2,error=EIO");
	ck_assert_int_eq(t_make(&p, HANDLE_ROOT, "f", S_IFREG | 0644, NULL, &f), 0);
	ck_assert_int_eq(t_write(&p, f, "x", 1, 0), 1);
	ck_assert_int_eq(t_fsync(&p, f), 0);
	ck_assert_int_eq(t_write(&p, f, "y", 1, 0), 1);
	pthread_create(&t, NULL, one_fsync, f);
	until.tv_sec += 1;
	ck_assert_int_eq(pthread_timedjoin_np(t, &r, &until), ETIMEDOUT);
	queue_set_ackset(p.q, 0);	/* the core has recorded that it is outdated */
	ck_assert_int_eq(pthread_join(t, &r), 0);
	ck_assert_ptr_null(r);
	ck_assert_int_eq(t_write(&p, f, "z", 1, 0), 1);
	pair_settle(&p);
	while (!atomic_load(&p.apply_err))	/* an op that comes now is refused there */
		pair_settle(&p);
	ck_assert_int_eq(p.apply_err, -EIO);
	t_close(&p, f);
	stop();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("pair_fault");
	TCase *t = tcase_create("pair_fault");

	log_init("pair_fault_test", LOG_SINK_SYSLOG, LOG_LVL_ERROR);
	tcase_add_unchecked_fixture(t, pair_mount, pair_unmount);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, a_refused_call_changes_nothing);
	tcase_add_test(t, short_writes_are_streamed_as_they_happened);
	tcase_add_test(t, done_but_failed_is_restated);
	tcase_add_test(t, a_standby_without_space_stops);
	tcase_add_test(t, a_failed_flush_here_acknowledges_nothing);
	tcase_add_test(t, a_failed_flush_there_acknowledges_nothing);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
