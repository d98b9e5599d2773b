/*
 * Hooks around a change, and records that ride on it or go alone: each hook runs once, under the locks, before the op's place is final; what it attaches
 * arrives with the op, or alone when there is none; who waits for what.
 */
#include "pair.h"

static struct pair p;

static void setup(void) { pair_start(&p); }
static void teardown(void) { pair_stop(&p); }

/* ---- what arrives on the standby ---- */

static struct { unsigned n; uint64_t seq; char text[64]; } got;

static void on_attach(void *arg, uint16_t kind, uint64_t seq, const void *data, size_t len)
{
	(void)arg;
	ck_assert_uint_eq(kind, 9);
	ck_assert_uint_lt(len, sizeof got.text);
	got.n++;
	got.seq = seq;
	memcpy(got.text, data, len);
	got.text[len] = 0;
}

/* ---- hooks ---- */

struct seen {
	unsigned before, after;
	ssize_t r;
	struct effect e;
	uint64_t dir;			/* looked at in both hooks; 0 = none */
	struct attr dir_before, dir_after;
	uint64_t last_before, last_after;	/* newest op in the stream */
	char reply[64];
	bool attach;
};

static void look(const struct seen *s, struct attr *out)
{
	struct call c = { .origin = ORIGIN_NFS };

	if (s->dir)
		ck_assert_int_eq(p.top->ops->getattr(p.top, &c, s->dir, NULL, out), 0);
}

static void before(struct call *c)
{
	struct seen *s = c->hook_arg;

	ck_assert_uint_eq(s->after, 0);
	s->before++;
	s->last_before = queue_last(p.q);
	look(s, &s->dir_before);
}

static void after(struct call *c, ssize_t r, const struct effect *e)
{
	struct seen *s = c->hook_arg;

	s->after++;
	s->r = r;
	s->e = *e;
	s->last_after = queue_last(p.q);
	look(s, &s->dir_after);
	if (!s->attach)
		return;
	c->attach_kind = 9;
	c->attach = s->reply;
	c->attach_len = (uint32_t)snprintf(s->reply, sizeof s->reply, "result %zd", r);
}

static struct call hooked(struct seen *s, uint64_t dir)
{
	struct call c = user();

	*s = (struct seen){ .dir = dir, .attach = true };
	c.origin = ORIGIN_NFS;
	c.before = before;
	c.after = after;
	c.hook_arg = s;
	got.n = 0;
	return c;
}

/* Both ran, once; the op came behind them with the result R attached. */
static void check_hooked(const struct seen *s, const struct call *c, ssize_t r)
{
	char want[64];

	ck_assert_uint_eq(s->before, 1);
	ck_assert_uint_eq(s->after, 1);
	ck_assert_int_eq(s->r, r);
	ck_assert_uint_eq(s->last_before, s->last_after);
	ck_assert_uint_gt(c->seq, s->last_after);
	ck_assert_int_eq(pair_settle(&p), 0);
	snprintf(want, sizeof want, "result %zd", r);
	ck_assert_uint_eq(got.n, 1);
	ck_assert_str_eq(got.text, want);
	ck_assert_uint_eq(got.seq, c->seq);
}

START_TEST(every_change_has_them)
{
	const struct create file = { .mode = S_IFREG | 0644 }, dir = { .mode = S_IFDIR | 0755 };
	const struct wdata d = { .p = "hello", .len = 5 };
	struct attr a;
	struct file *f, *g, *t;
	struct seen s;
	struct call c;

	apply_register_attach(p.ap, 9, on_attach, NULL);
	c = hooked(&s, HANDLE_ROOT);
	ck_assert_int_eq(p.top->ops->create(p.top, &c, HANDLE_ROOT, "f", &file, O_RDWR, &a, &f), 0);
	check_hooked(&s, &c, 0);
	ck_assert_uint_eq(s.e.attr.id, a.id);
	ck_assert(memcmp(&s.dir_before.mtime, &s.dir_after.mtime, sizeof s.dir_before.mtime) != 0);
	ck_assert_int_eq(s.dir_after.mtime.tv_nsec, a.ctime.tv_nsec);
	c = hooked(&s, HANDLE_ROOT);
	ck_assert_int_eq(p.top->ops->create(p.top, &c, HANDLE_ROOT, "d", &dir, 0, &a, NULL), 0);
	check_hooked(&s, &c, 0);
	ck_assert_uint_eq(s.dir_before.nlink + 1, s.dir_after.nlink);
	uint64_t sub = a.id;
	c = hooked(&s, 0);
	ck_assert_int_eq(p.top->ops->tmpfile(p.top, &c, HANDLE_ROOT, &file, O_RDWR, &a, &t), 0);
	check_hooked(&s, &c, 0);
	c = hooked(&s, file_id(f));
	ck_assert_int_eq(p.top->ops->write(p.top, &c, f, &d, 3, 0, NULL), 5);
	check_hooked(&s, &c, 5);
	ck_assert_uint_eq(s.e.attr.size, 8);
	ck_assert_uint_eq(s.dir_before.size, 0);
	ck_assert_uint_eq(s.dir_after.size, 8);
	c = hooked(&s, file_id(f));
	ck_assert_int_eq(p.top->ops->setattr(p.top, &c, file_id(f), NULL, &(struct setattr){ .valid = SET_MODE, .mode = 0600 }, NULL), 0);
	check_hooked(&s, &c, 0);
	ck_assert_uint_eq(s.e.attr.mode, S_IFREG | 0600);
	ck_assert_uint_eq(s.dir_before.mode, S_IFREG | 0644);
	c = hooked(&s, sub);
	ck_assert_int_eq(p.top->ops->link(p.top, &c, file_id(f), sub, "l", &a), 0);
	check_hooked(&s, &c, 0);
	ck_assert_uint_eq(s.e.attr.nlink, 2);
	c = hooked(&s, sub);
	ck_assert_int_eq(p.top->ops->rename(p.top, &c, HANDLE_ROOT, "f", sub, "g", 0), 0);
	check_hooked(&s, &c, 0);
	c = hooked(&s, 0);
	ck_assert_int_eq(p.top->ops->setxattr(p.top, &c, sub, "user.a", "b", 1, 0), 0);
	check_hooked(&s, &c, 0);
	c = hooked(&s, 0);
	ck_assert_int_eq(p.top->ops->removexattr(p.top, &c, sub, "user.a"), 0);
	check_hooked(&s, &c, 0);
	c = hooked(&s, 0);
	ck_assert_int_eq(p.top->ops->setflags(p.top, &c, sub, 0), 0);
	check_hooked(&s, &c, 0);
	c = hooked(&s, 0);
	ck_assert_int_eq(p.top->ops->fallocate(p.top, &c, f, 0, 0, 4096), 0);
	check_hooked(&s, &c, 0);
	ck_assert_uint_eq(s.e.attr.size, 4096);
	ck_assert_int_eq(t_make(&p, HANDLE_ROOT, "copy", S_IFREG | 0644, NULL, &g), 0);
	c = hooked(&s, 0);
	ck_assert_int_eq(p.top->ops->copy_range(p.top, &c, f, 0, g, 0, 8), 8);
	check_hooked(&s, &c, 8);
	c = hooked(&s, sub);
	ck_assert_int_eq(p.top->ops->unlink(p.top, &c, sub, "g"), 0);
	check_hooked(&s, &c, 0);
	ck_assert_uint_eq(s.e.attr.nlink, 1);
	ck_assert_int_eq(t_unlink(&p, sub, "l"), 0);
	c = hooked(&s, HANDLE_ROOT);
	ck_assert_int_eq(p.top->ops->rmdir(p.top, &c, HANDLE_ROOT, "d"), 0);
	check_hooked(&s, &c, 0);
	/* The open file has no name left: its change isn't streamed, the record is. */
	c = hooked(&s, 0);
	ck_assert_int_eq(p.top->ops->write(p.top, &c, f, &d, 0, 0, NULL), 5);
	check_hooked(&s, &c, 5);
	c = hooked(&s, 0);
	c.stable = true;	/* and the barrier is about an object that the peer hasn't got */
	ck_assert_int_eq(p.top->ops->write(p.top, &c, f, &d, 0, 0, NULL), 5);
	check_hooked(&s, &c, 5);
	t_close(&p, f);
	t_close(&p, g);
	t_close(&p, t);
	ck_assert_int_eq(pair_settle(&p), 0);
	ck_assert_uint_eq(pair_compare(&p, NULL), 0);
}
END_TEST

START_TEST(failures_have_them_too)
{
	const struct create file = { .mode = S_IFREG | 0644 };
	struct attr a;
	struct file *f;
	struct seen s;
	struct call c;

	apply_register_attach(p.ap, 9, on_attach, NULL);
	ck_assert_int_eq(t_make(&p, HANDLE_ROOT, "f", S_IFREG | 0644, NULL, &f), 0);
	c = hooked(&s, HANDLE_ROOT);
	ck_assert_int_eq(p.top->ops->create(p.top, &c, HANDLE_ROOT, "f", &file, 0, &a, NULL), -EEXIST);
	check_hooked(&s, &c, -EEXIST);
	c = hooked(&s, HANDLE_ROOT);
	ck_assert_int_eq(p.top->ops->unlink(p.top, &c, HANDLE_ROOT, "none"), -ENOENT);
	check_hooked(&s, &c, -ENOENT);
	c = hooked(&s, HANDLE_ROOT);
	ck_assert_int_eq(p.top->ops->rmdir(p.top, &c, HANDLE_ROOT, "f"), -ENOTDIR);
	check_hooked(&s, &c, -ENOTDIR);
	c = hooked(&s, HANDLE_ROOT);
	ck_assert_int_eq(p.top->ops->rename(p.top, &c, HANDLE_ROOT, "none", HANDLE_ROOT, "g", 0), -ENOENT);
	check_hooked(&s, &c, -ENOENT);
	/* A write that the file system refuses: the op that states what is there carries the record. */
	c = hooked(&s, 0);
	ck_assert_int_eq(p.top->ops->write(p.top, &c, f, &(struct wdata){ .p = "x", .len = 1 }, INT64_MAX, 0, NULL), -EFBIG);
	check_hooked(&s, &c, -EFBIG);
	t_close(&p, f);
	ck_assert_uint_eq(pair_compare(&p, NULL), 0);
}
END_TEST

START_TEST(without_locks_only_after)
{
	const struct create file = { .mode = S_IFREG | 0644 };
	struct attr a;
	struct seen s;
	struct call c = hooked(&s, 0);

	apply_register_attach(p.ap, 9, on_attach, NULL);
	atomic_store(&p.room_inodes, 0);	/* found out before any lock is taken */
	ck_assert_int_eq(p.top->ops->create(p.top, &c, HANDLE_ROOT, "f", &file, 0, &a, NULL), -ENOSPC);
	ck_assert_uint_eq(s.before, 0);
	ck_assert_uint_eq(s.after, 1);
	ck_assert_int_eq(s.r, -ENOSPC);
	ck_assert_int_eq(pair_settle(&p), 0);
	ck_assert_uint_eq(got.n, 1);
	c = hooked(&s, 0);
	ck_assert_int_eq(p.top->ops->unlink(p.top, &c, UINT64_C(1) << 50, "f"), -ESTALE);
	ck_assert_uint_eq(s.before, 0);
	ck_assert_uint_eq(s.after, 1);
	ck_assert_int_eq(s.r, -ESTALE);
}
END_TEST

START_TEST(a_node_that_is_not_primary_runs_none)
{
	struct seen s;
	struct call c = hooked(&s, 0);

	interpose_set_writable(p.ip, false);
	ck_assert_int_eq(p.top->ops->unlink(p.top, &c, HANDLE_ROOT, "f"), -EROFS);
	ck_assert_uint_eq(s.before + s.after, 0);
	ck_assert_uint_eq(c.seq, 0);
}
END_TEST

START_TEST(layers_below_never_see_them)
{
	struct seen s;
	struct call c = hooked(&s, 0);
	uint64_t id;

	s.attach = false;
	ck_assert_int_eq(t_make(&p, HANDLE_ROOT, "d", S_IFDIR | 0755, &id, NULL), 0);
	ck_assert_int_eq(p.a.local->ops->setattr(p.a.local, &c, id, NULL, &(struct setattr){ .valid = SET_MODE, .mode = 0700 }, NULL), 0);
	ck_assert_uint_eq(s.before + s.after, 0);
}
END_TEST

/* ---- the locks are held ---- */

static void *other_main(void *arg)
{
	uint64_t *seq = arg;
	struct call c = user();

	ck_assert_int_eq(p.top->ops->unlink(p.top, &c, HANDLE_ROOT, "f"), 0);
	*seq = c.seq;
	return NULL;
}

static struct { pthread_t t; uint64_t seq; } other;

static void after_with_other(struct call *c, ssize_t r, const struct effect *e)
{
	(void)c, (void)r, (void)e;
	ck_assert_int_eq(pthread_create(&other.t, NULL, other_main, &other.seq), 0);
	nanosleep(&(struct timespec){ .tv_nsec = 20000000 }, NULL);	/* it can't but wait; without the locks it would win here */
}

START_TEST(after_holds_the_locks)
{
	struct seen s;
	struct call c = hooked(&s, 0);
	uint64_t id;

	ck_assert_int_eq(t_make(&p, HANDLE_ROOT, "f", S_IFREG | 0644, &id, NULL), 0);
	c.after = after_with_other;
	ck_assert_int_eq(p.top->ops->setattr(p.top, &c, id, NULL, &(struct setattr){ .valid = SET_MODE, .mode = 0600 }, NULL), 0);
	pthread_join(other.t, NULL);
	ck_assert_uint_gt(other.seq, c.seq);
	ck_assert_int_eq(pair_settle(&p), 0);
}
END_TEST

/* ---- waiting ---- */

struct later { pthread_t t; bool lazy, record; _Atomic int r; };

static void *later_main(void *arg)
{
	struct later *l = arg;
	struct seen s;
	struct call c = hooked(&s, 0);
	uint64_t seq;

	c.attach_lazy = l->lazy;
	if (l->record)
		atomic_store(&l->r, interpose_attach(p.ip, 9, "lock", 4, true, &seq));
	else
		atomic_store(&l->r, p.top->ops->setattr(p.top, &c, HANDLE_ROOT, NULL, &(struct setattr){ .valid = SET_MODE, .mode = 0750 }, NULL));
	return NULL;
}

static bool joined(struct later *l, unsigned ms)
{
	struct timespec t = clock_wall();

	t.tv_nsec += (long)ms * 1000000;
	t.tv_sec += t.tv_nsec / 1000000000;
	t.tv_nsec %= 1000000000;
	return !pthread_timedjoin_np(l->t, NULL, &t);
}

/* The peer counts, but nobody reads for it. */
static void peer_is_silent(void)
{
	ck_assert_int_eq(pair_settle(&p), 0);
	pair_unfollow(&p);
	queue_set_ackset(p.q, 1 << PEER);
}

START_TEST(a_record_waits_for_the_peer_a_lazy_one_does_not)
{
	struct later l = { .lazy = true }, m = { .lazy = false }, n = { .record = true };

	apply_register_attach(p.ap, 9, on_attach, NULL);
	ck_assert_int_eq(t_make(&p, HANDLE_ROOT, "f", S_IFREG | 0644, NULL, NULL), 0);
	peer_is_silent();
	uint64_t from = queue_last(p.q) + 1;
	ck_assert_int_eq(pthread_create(&l.t, NULL, later_main, &l), 0);
	ck_assert(joined(&l, 30000));
	ck_assert_int_eq(l.r, 0);
	ck_assert_int_eq(pthread_create(&m.t, NULL, later_main, &m), 0);
	ck_assert(!joined(&m, 100));
	ck_assert_int_eq(pthread_create(&n.t, NULL, later_main, &n), 0);
	ck_assert(!joined(&n, 100));
	pair_follow(&p, from);
	ck_assert(joined(&m, 30000));
	ck_assert(joined(&n, 30000));
	ck_assert_int_eq(m.r, 0);
	ck_assert_int_eq(n.r, 0);
	ck_assert_int_eq(pair_settle(&p), 0);
}
END_TEST

/* ---- records alone ---- */

START_TEST(records_alone_have_their_place)
{
	uint64_t a, b, c;

	apply_register_attach(p.ap, 9, on_attach, NULL);
	ck_assert_int_eq(interpose_attach(p.ip, 9, "one", 3, true, &a), 0);
	ck_assert_int_eq(pair_settle(&p), 0);
	ck_assert_str_eq(got.text, "one");
	ck_assert_uint_eq(got.seq, a);
	ck_assert_int_eq(interpose_attach_begin(p.ip, 6), 0);
	ck_assert_int_eq(interpose_attach_emit(p.ip, 9, "two", 3, 0xffff, &b), 0);
	ck_assert_int_eq(interpose_attach_emit(p.ip, 9, "three", 5, 0xffff, &c), 0);
	interpose_attach_end(p.ip);
	ck_assert_uint_gt(b, a);
	ck_assert_uint_eq(c, b + 1);
	ck_assert_int_eq(interpose_attach_wait(p.ip, c), 0);
	ck_assert_int_eq(pair_settle(&p), 0);
	ck_assert_str_eq(got.text, "three");
}
END_TEST

START_TEST(records_need_the_role_and_an_epoch)
{
	uint64_t seq;

	ck_assert_int_eq(p.epoch_calls, 0);
	ck_assert_int_eq(interpose_attach(p.ip, 9, "x", 1, false, &seq), 0);
	ck_assert_int_eq(p.epoch_calls, 1);
	interpose_set_writable(p.ip, false);
	ck_assert_int_eq(interpose_attach(p.ip, 9, "x", 1, true, &seq), -EROFS);
	interpose_set_writable(p.ip, true);	/* the refused one held nothing */
	ck_assert_int_eq(pair_settle(&p), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("hook");
	TCase *t = tcase_create("hook");

	log_init("hook_test", LOG_SINK_STDERR, LOG_LVL_ERROR);
	tcase_add_unchecked_fixture(t, pair_mount, pair_unmount);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 120);
	tcase_add_test(t, every_change_has_them);
	tcase_add_test(t, failures_have_them_too);
	tcase_add_test(t, without_locks_only_after);
	tcase_add_test(t, a_node_that_is_not_primary_runs_none);
	tcase_add_test(t, layers_below_never_see_them);
	tcase_add_test(t, after_holds_the_locks);
	tcase_add_test(t, a_record_waits_for_the_peer_a_lazy_one_does_not);
	tcase_add_test(t, records_alone_have_their_place);
	tcase_add_test(t, records_need_the_role_and_an_epoch);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
