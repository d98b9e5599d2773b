/* The fault layer: its language, and that it acts at the calls it was told to, over a layer that only counts. */
#include <check.h>
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "tests/unit/child.h"
#include "fs/base/clock.h"
#include "fs/fault.h"

static unsigned reached, released;
static size_t last_len;
static char a_file;

static int b_fsync(struct layer *l, struct call *c, uint64_t id, struct file *f, bool d)
{
	(void)l; (void)c; (void)id; (void)f; (void)d;
	reached++;
	return 0;
}
static ssize_t b_write(struct layer *l, struct call *c, struct file *f, const struct wdata *d, uint64_t off, unsigned flags, struct attr *a)
{
	(void)l; (void)c; (void)f; (void)off; (void)flags; (void)a;
	reached++;
	last_len = d->len;
	return (ssize_t)d->len;
}
static int b_open(struct layer *l, struct call *c, uint64_t id, int flags, struct file **out)
{
	(void)l; (void)c; (void)id; (void)flags;
	*out = (struct file *)&a_file;
	return 0;
}
static int b_release(struct layer *l, struct call *c, struct file *f)
{
	(void)l; (void)c; (void)f;
	released++;
	return 0;
}
static const struct layer_ops below_ops = { .fsync = b_fsync, .write = b_write, .open = b_open, .release = b_release };
static struct layer below = { .ops = &below_ops };

static struct layer *with(const char *rules)
{
	struct fault_rules *r;
	struct layer *l;
	char err[200] = "";
	ck_assert_msg(!fault_parse(rules, &r, err, sizeof(err)), "%s: %s", rules, err);
	ck_assert_int_eq(fault_new(&below, r, &l), 0);
	reached = released = 0;
	return l;
}

#define FSYNC(l) (l)->ops->fsync(l, &(struct call){ 0 }, 1, NULL, false)

START_TEST(bad_rules_are_explained)
{
	static const struct { const char *rule, *says; } bad[] = {
		{ "", "no rule" }, { ";;", "no rule" }, { "op=wrte,error=EIO", "wrte" }, { "op=write", "does nothing" },
		{ "op=write,error=EFOO", "EFOO" }, { "nth=0,error=EIO", "nth" }, { "nth=x,error=EIO", "nth" },
		{ "delay=50", "delay" }, { "delay=61s", "60s" }, { "prob=1.5,error=EIO", "prob" }, { "nth=1,every=2,error=EIO", "only one" },
		{ "colour=red,error=EIO", "colour" }, { "op=fsync,short=5", "short" }, { "delay=1ms,after", "after" }, { "bang", "bang" },
		{ "error=99999", "99999" }, { "nth=-1,error=EIO", "nth" }, { "op=,error=EIO", "op=" },
	};
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct fault_rules *r;
		char err[200] = "";
		ck_assert_msg(fault_parse(bad[i].rule, &r, err, sizeof(err)) == -EINVAL, "%s", bad[i].rule);
		ck_assert_msg(strstr(err, bad[i].says), "%s: %s", bad[i].rule, err);
	}
}
END_TEST

START_TEST(nth_every_limit)
{
	struct layer *l = with("op=fsync,nth=3,error=EIO");
	for (int i = 1; i <= 6; i++)
		ck_assert_int_eq(FSYNC(l), i == 3 ? -EIO : 0);
	ck_assert_uint_eq(reached, 5);
	ck_assert_uint_eq(fault_fired(l), 1);
	ck_assert_uint_eq(fault_calls(l), 6);
	l->ops->destroy(l);
	l = with(" op=write|fsync , every=2 , error=28 ; op=fsync,nth=1,error=EIO,after ");
	ck_assert_int_eq(FSYNC(l), -EIO);
	ck_assert_int_eq(FSYNC(l), -ENOSPC);
	ck_assert_uint_eq(reached, 1);
	l->ops->destroy(l);
	l = with("error=EIO,limit=2");
	for (int i = 1; i <= 5; i++)
		ck_assert_int_eq(FSYNC(l), i <= 2 ? -EIO : 0);
	l->ops->destroy(l);
}
END_TEST

START_TEST(short_after_and_effects)
{
	struct layer *l = with("short=512; op=open,error=EIO,after; op=fsync,error=EIO,after");
	struct effect ef = { 0 };
	struct call c = { .effect = &ef };
	struct file *f;
	ck_assert_int_eq(l->ops->write(l, &c, (struct file *)&a_file, &(struct wdata){ .p = "", .len = 1000 }, 0, 0, NULL), 512);
	ck_assert_uint_eq(last_len, 512);
	ck_assert(!ef.changed);
	ck_assert_int_eq(l->ops->open(l, &c, 1, 0, &f), -EIO);
	ck_assert_uint_eq(released, 1);
	ef.changed = false;
	ck_assert_int_eq(l->ops->fsync(l, &c, 1, NULL, false), -EIO);
	ck_assert_uint_eq(reached, 2);
	ck_assert(ef.changed);
	l->ops->destroy(l);
}
END_TEST

START_TEST(random_is_repeatable)
{
	char seq[2][201] = { { 0 } };
	for (int round = 0; round < 2; round++) {
		struct layer *l = with("prob=0.3,seed=7,error=EIO");
		for (int i = 0; i < 200; i++)
			seq[round][i] = FSYNC(l) ? 'x' : '.';
		ck_assert_uint_gt(fault_fired(l), 30);
		ck_assert_uint_lt(fault_fired(l), 100);
		l->ops->destroy(l);
	}
	ck_assert_str_eq(seq[0], seq[1]);
}
END_TEST

START_TEST(delay_and_crash)
{
	struct layer *l = with("delay=20ms");
	uint64_t t = clock_mono_ms();
	ck_assert_int_eq(FSYNC(l), 0);
	ck_assert_uint_ge(clock_mono_ms() - t, 19);
	l->ops->destroy(l);
	pid_t pid = test_fork();
	if (!pid) {
		l = with("op=fsync,nth=2,crash");
		FSYNC(l);
		FSYNC(l);
		_exit(0);
	}
	int st;
	ck_assert_int_eq(waitpid(pid, &st, 0), pid);
	ck_assert(WIFSIGNALED(st) && WTERMSIG(st) == SIGKILL);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("fault");
	TCase *t = tcase_create("fault");
	tcase_add_test(t, bad_rules_are_explained);
	tcase_add_test(t, nth_every_limit);
	tcase_add_test(t, short_after_and_effects);
	tcase_add_test(t, random_is_repeatable);
	tcase_add_test(t, delay_and_crash);
	suite_add_tcase(s, t);
	SRunner *sr = srunner_create(s);
	srunner_run_all(sr, CK_ENV);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
