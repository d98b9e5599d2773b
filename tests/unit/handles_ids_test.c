/* Ids are never used twice: over restarts, kills at any moment, lost records, and between nodes. */
#include <sys/mman.h>
#include <sys/xattr.h>

#include "tests/unit/child.h"
#include "tests/unit/handles_env.h"

static struct place P;

static void setup(void) { place_make(&P, place_base(), NULL); }
static void teardown(void) { place_drop(&P); }

START_TEST(consecutive_and_well_formed)
{
	struct handles *h = must_open(&P, false);
	uint64_t a, b;

	ck_assert_int_eq(ids_next(h, &a), 0);
	ck_assert_int_eq(ids_next(h, &b), 0);
	ck_assert(a == ((uint64_t)1 << 48 | 1 << 20));
	ck_assert(b == a + 1);
	ck_assert(id_valid(a));
	ck_assert(a >= (uint64_t)1 << 32 && a < (uint64_t)1 << 53);
	handles_close(h);
}
END_TEST

START_TEST(new_range_at_every_start)
{
	uint64_t last = 0, id;

	for (int i = 0; i < 10; i++) {
		struct handles *h = must_open(&P, false);
		ck_assert_int_eq(ids_next(h, &id), 0);
		ck_assert(id > last && id >> ID_RANGE_BITS != last >> ID_RANGE_BITS);
		last = id;
		ck_assert_int_eq(ids_new_range(h), 0);
		ck_assert_int_eq(ids_next(h, &id), 0);
		ck_assert(id >> ID_RANGE_BITS == (last >> ID_RANGE_BITS) + 1);
		last = id;
		handles_close(h);
	}
}
END_TEST

START_TEST(a_range_runs_out)
{
	struct handles *h = must_open(&P, false);
	uint64_t first, id = 0;

	ck_assert_int_eq(ids_next(h, &first), 0);
	for (uint64_t i = 1; i <= 1 << ID_RANGE_BITS; i++)
		ck_assert_int_eq(ids_next(h, &id), 0);
	ck_assert(id == first + (1 << ID_RANGE_BITS));
	handles_close(h);
}
END_TEST

START_TEST(killed_at_any_moment)
{
	enum { ROUNDS = 60 };
	_Atomic uint64_t *max = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	uint64_t seed = 42;

	for (int i = 0; i < ROUNDS; i++) {
		uint64_t before = max[0];
		pid_t pid = test_fork();
		if (!pid) {
			struct handles *h;
			uint64_t id;
			if (handles_open(&P.cfg, false, &h))
				_exit(1);
			for (;;) {
				if (ids_new_range(h) || ids_next(h, &id) || id <= before)
					_exit(2);
				if (id > max[0])
					max[0] = id;
				max[1]++;
			}
		}
		uint64_t until = max[1] + 1 + rnd(&seed) % 4;
		int status;
		while (max[1] < until && !waitpid(pid, &status, WNOHANG))
			usleep(100);
		usleep((unsigned)(rnd(&seed) % 2000));
		kill(pid, SIGKILL);
		ck_assert_int_eq(waitpid(pid, &status, 0), pid);
		ck_assert(WIFSIGNALED(status));
	}
	munmap((void *)max, 4096);
}
END_TEST

START_TEST(nodes_never_collide)
{
	struct place q;
	uint64_t a, b;

	place_make(&q, place_base(), NULL);
	q.cfg.node = 15;
	struct handles *h = must_open(&P, false), *g = must_open(&q, false);
	for (int i = 0; i < 100; i++) {
		ck_assert_int_eq(ids_next(h, &a), 0);
		ck_assert_int_eq(ids_next(g, &b), 0);
		ck_assert(a >> ID_NODE_SHIFT == 1 && b >> ID_NODE_SHIFT == 15 && id_valid(b));
	}
	handles_close(h);
	handles_close(g);
	place_drop(&q);
}
END_TEST

START_TEST(learning_only_raises)
{
	struct handles *h = must_open(&P, false);
	uint64_t c[NODE_MAX + 1] = { 0 }, got[NODE_MAX + 1], id;

	c[3] = 1000;
	c[1] = 50;
	ck_assert_int_eq(ids_next(h, &id), 0);
	ck_assert_int_eq(ids_learn(h, c), 0);
	ck_assert_int_eq(ids_next(h, &id), 0);
	ck_assert_msg((id >> ID_RANGE_BITS & 0xfffffff) == 51, "the rest of a range that may have been used before is dropped");
	c[3] = 10;
	c[1] = 0;
	ck_assert_int_eq(ids_learn(h, c), 0);
	handles_close(h);
	h = must_open(&P, false);
	ids_counters(h, got);
	ck_assert(got[3] == 1000 && got[1] == 51 && got[2] == 0);
	c[2] = (uint64_t)1 << 28;
	ck_assert_int_eq(ids_learn(h, c), -EINVAL);
	handles_close(h);
}
END_TEST

static void lose(bool file, bool xattr)
{
	if (file)
		ck_assert_int_eq(unlinkat(P.cfg.state_fd, "ids", 0), 0);
	if (xattr)
		ck_assert_int_eq(fremovexattr(P.cfg.root_fd, IDS_XATTR), 0);
}

static void used_volume(void)
{
	struct handles *h = must_open(&P, false);
	uint64_t id;

	make_root(h);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(ids_new_range(h), 0);
	ck_assert_int_eq(ids_next(h, &id), 0);
	ck_assert((id >> ID_RANGE_BITS & 0xfffffff) == 3);
	handles_close(h);
}

START_TEST(one_place_is_enough)
{
	uint64_t id;

	used_volume();
	for (int i = 0; i < 2; i++) {
		lose(i == 0, i == 1);
		struct handles *h = must_open(&P, false);
		ck_assert_int_eq(ids_next(h, &id), 0);
		ck_assert((id >> ID_RANGE_BITS & 0xfffffff) == 4 + (unsigned)i);
		handles_close(h);
	}
}
END_TEST

START_TEST(a_torn_slot_leaves_the_other)
{
	uint64_t id;

	used_volume();
	lose(false, true);
	int fd = openat(P.cfg.state_fd, "ids", O_RDWR);
	struct ids s;
	ck_assert_int_eq(ids_open(&s, &P.cfg, false), 0);
	ck_assert_int_eq(pwrite(fd, "torn", 4, (off_t)(s.seq & 1) * 4096 + 40), 4);	/* the newest one */
	ids_close(&s);
	close(fd);
	struct handles *h = must_open(&P, false);
	ck_assert_int_eq(ids_next(h, &id), 0);
	ck_assert((id >> ID_RANGE_BITS & 0xfffffff) == 3);	/* what wasn't recorded whole wasn't used */
	handles_close(h);
}
END_TEST

START_TEST(lost_record_stops_until_a_peer_tells)
{
	uint64_t c[NODE_MAX + 1] = { 0 }, id;

	used_volume();
	lose(true, true);
	struct handles *h = must_open(&P, false);
	ck_assert_int_eq(ids_next(h, &id), -ESTALE);
	ck_assert_int_eq(ids_new_range(h), -ESTALE);
	c[2] = 5;
	ck_assert_int_eq(ids_learn(h, c), 0);
	ck_assert_int_eq(ids_next(h, &id), -ESTALE);
	handles_close(h);
	h = must_open(&P, false);
	ck_assert_int_eq(ids_next(h, &id), -ESTALE);
	c[1] = 3;
	ck_assert_int_eq(ids_learn(h, c), 0);
	ck_assert_int_eq(ids_next(h, &id), 0);
	ck_assert((id >> ID_RANGE_BITS & 0xfffffff) == 4);
	handles_close(h);
}
END_TEST

START_TEST(lost_record_and_skip)
{
	uint64_t id;

	used_volume();
	lose(true, true);
	struct handles *h = must_open(&P, false);
	ck_assert_int_eq(ids_skip(h), 0);
	ck_assert_int_eq(ids_next(h, &id), 0);
	ck_assert((id >> ID_RANGE_BITS & 0xfffffff) == 4097);
	handles_close(h);
}
END_TEST

START_TEST(another_volumes_record_is_refused)
{
	struct handles *h = must_open(&P, false);

	handles_close(h);
	P.cfg.uuid[0] ^= 1;
	ck_assert_int_eq(handles_open(&P.cfg, false, &h), -EXDEV);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("handles ids");
	TCase *t = tcase_create("ids");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 20);
	tcase_add_test(t, consecutive_and_well_formed);
	tcase_add_test(t, new_range_at_every_start);
	tcase_add_test(t, a_range_runs_out);
	tcase_add_test(t, killed_at_any_moment);
	tcase_add_test(t, nodes_never_collide);
	tcase_add_test(t, learning_only_raises);
	tcase_add_test(t, one_place_is_enough);
	tcase_add_test(t, a_torn_slot_leaves_the_other);
	tcase_add_test(t, lost_record_stops_until_a_peer_tells);
	tcase_add_test(t, lost_record_and_skip);
	tcase_add_test(t, another_volumes_record_is_refused);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
