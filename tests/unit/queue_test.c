/* The send queue: order, bounds, who gets what, who has confirmed what. */
#include "mirror/queue.h"

#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/clock.h"

enum { LIMIT_MS = 5000, BOUND = 1 << 20 };

static struct queue *q;

static void setup(void) { ck_assert_int_eq(queue_new(BOUND, &q), 0); }
static void teardown(void)
{
	queue_stop(q);
	queue_free(q);
}

/* ---- helpers ---- */

static uint64_t put(const void *data, size_t len, struct blk *owner)
{
	static const struct attr a = { .mode = S_IFREG | 0644 };
	struct op op = { .type = OP_WRITE, .id = UINT64_C(1) << 48, .attr = a, .data = data, .data_len = len, .data_owner = owner };
	uint64_t seq = 0;

	ck_assert_int_eq(queue_append(q, &op, 0xffff, &seq), 0);
	return seq;
}

static uint64_t put_barrier(void)
{
	struct op op = { .type = OP_FSYNC, .id = UINT64_C(1) << 48 };
	uint64_t seq = 0;

	ck_assert_int_eq(queue_append(q, &op, 0xffff, &seq), 0);
	return seq;
}

static uint64_t next_seq(unsigned peer)
{
	struct qentry *e;

	if (queue_next(q, peer, false, &e))
		return 0;
	uint64_t seq = e->seq;
	qentry_unref(e);
	return seq;
}

static void send_all(unsigned peer)
{
	while (next_seq(peer))
		;
}

/* A call in a thread of its own: started, then joined with its result; done tells whether it has returned. */
struct async {
	pthread_t t;
	int (*fn)(struct async *);
	uint64_t seq;
	enum queue_confirm what;
	size_t bytes;
	unsigned peer;
	int r;
	_Atomic bool done;
};

static void *async_main(void *arg)
{
	struct async *a = arg;

	a->r = a->fn(a);
	atomic_store(&a->done, true);
	return NULL;
}

static void start(struct async *a, int (*fn)(struct async *))
{
	a->fn = fn;
	ck_assert_int_eq(pthread_create(&a->t, NULL, async_main, a), 0);
}

static int finish(struct async *a)
{
	struct timespec t = clock_wall();

	t.tv_sec += LIMIT_MS / 1000;
	ck_assert_int_eq(pthread_timedjoin_np(a->t, NULL, &t), 0);
	return a->r;
}

/* It has not returned; it is given a moment to do so wrongly. */
static void still_waits(struct async *a)
{
	struct timespec t = clock_wall();

	t.tv_nsec += 20000000;
	if (t.tv_nsec >= 1000000000) {
		t.tv_sec++;
		t.tv_nsec -= 1000000000;
	}
	ck_assert_int_eq(pthread_timedjoin_np(a->t, NULL, &t), ETIMEDOUT);
}

static int do_wait(struct async *a) { return queue_wait(q, a->seq, a->what); }
static int do_admit(struct async *a) { return queue_admit(q, a->bytes); }
static int do_admit_statement(struct async *a) { return queue_admit_statement(q, a->bytes); }
static int do_next(struct async *a)
{
	struct qentry *e;
	int r = queue_next(q, a->peer, true, &e);

	if (!r) {
		a->seq = e->seq;
		qentry_unref(e);
	}
	return r;
}

/* ---- order and contents ---- */

START_TEST(entries_come_in_order_with_their_bytes)
{
	struct blk *b = blk_new(8192);

	ck_assert_int_eq(queue_attach(q, 2, 1), 0);
	memset(b->data, 'x', 8192);
	ck_assert_uint_eq(put("abc", 3, NULL), 1);
	ck_assert_uint_eq(put(b->data, 8192, b), 2);
	ck_assert_uint_eq(put(b->data + 100, 10, b), 3);
	blk_unref(b);
	for (uint64_t s = 1; s <= 3; s++) {
		struct qentry *e;
		char scratch[512];
		struct op op;
		ck_assert_int_eq(queue_next(q, 2, false, &e), 0);
		ck_assert_uint_eq(e->seq, s);
		ck_assert_int_eq(op_decode(e->meta, e->meta_len, e->data, e->data_len, scratch, &op), 0);
		ck_assert_uint_eq(op.data_len, s == 1 ? 3 : s == 2 ? 8192 : 10);
		ck_assert_int_eq(((const char *)op.data)[0], s == 1 ? 'a' : 'x');
		ck_assert_int_eq(e->owner != NULL, s == 2);
		qentry_unref(e);
	}
	ck_assert_uint_eq(next_seq(2), 0);
}
END_TEST

START_TEST(nobody_there_costs_nothing_but_counts)
{
	for (uint64_t s = 1; s <= 1000; s++)
		ck_assert_uint_eq(put("a", 1, NULL), s);
	ck_assert_uint_eq(queue_last(q), 1000);
	ck_assert_uint_eq(queue_first(q), 1001);
	ck_assert_uint_eq(queue_bytes(q), 0);
	ck_assert_int_eq(queue_attach(q, 1, 1), -ESTALE);
	ck_assert_int_eq(queue_attach(q, 1, 1002), -ESTALE);
	ck_assert_int_eq(queue_attach(q, 1, 1001), 0);
	ck_assert_uint_eq(put("a", 1, NULL), 1001);
	ck_assert_uint_eq(next_seq(1), 1001);
}
END_TEST

START_TEST(a_sender_sleeps_until_there_is_something)
{
	struct async a = { .peer = 3 };

	ck_assert_int_eq(queue_attach(q, 3, 1), 0);
	start(&a, do_next);
	still_waits(&a);
	put("a", 1, NULL);
	ck_assert_int_eq(finish(&a), 0);
	ck_assert_uint_eq(a.seq, 1);
	a = (struct async){ .peer = 3 };
	start(&a, do_next);
	queue_detach(q, 3);
	ck_assert_int_eq(finish(&a), -ESHUTDOWN);
}
END_TEST

START_TEST(a_ring_that_grows_keeps_order)
{
	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	for (unsigned i = 0; i < 100; i++)
		put("a", 1, NULL);
	send_all(1);
	queue_acked(q, 1, 100, 100);
	for (unsigned i = 0; i < 2000; i++)
		put("a", 1, NULL);
	for (uint64_t s = 101; s <= 2100; s++)
		ck_assert_uint_eq(next_seq(1), s);
}
END_TEST

/* ---- what is kept ---- */

START_TEST(applied_by_all_is_freed)
{
	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	ck_assert_int_eq(queue_attach(q, 2, 1), 0);
	for (unsigned i = 0; i < 10; i++)
		put("a", 1, NULL);
	send_all(1);
	send_all(2);
	queue_acked(q, 1, 10, 10);
	ck_assert_uint_eq(queue_first(q), 1);
	queue_acked(q, 2, 10, 4);
	ck_assert_uint_eq(queue_first(q), 5);
	queue_acked(q, 2, 10, 10);
	ck_assert_uint_eq(queue_bytes(q), 0);
}
END_TEST

START_TEST(kept_for_an_absent_peer_up_to_the_bound)
{
	char big[4096] = { 0 };

	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	put("a", 1, NULL);
	ck_assert_uint_eq(next_seq(1), 1);
	queue_acked(q, 1, 1, 1);
	queue_detach(q, 1);
	put("b", 1, NULL);
	put("c", 1, NULL);
	ck_assert_int_eq(queue_attach(q, 1, 2), 0);	/* came back: nothing is missing */
	ck_assert_uint_eq(next_seq(1), 2);
	queue_detach(q, 1);
	for (unsigned i = 0; i < 400; i++) {		/* 1.6 MiB: beyond the bound */
		ck_assert_int_eq(queue_admit(q, sizeof big), 0);
		put(big, sizeof big, NULL);
	}
	ck_assert_uint_le(queue_bytes(q), BOUND + 8192);
	ck_assert_int_eq(queue_attach(q, 1, 2), -ESTALE);
	ck_assert_uint_eq(queue_bytes(q), 0);		/* and nobody else wants it */
	ck_assert_int_eq(queue_attach(q, 1, queue_last(q) + 1), 0);
}
END_TEST

START_TEST(an_absent_peer_does_not_hold_up_the_others)
{
	char big[4096] = { 0 };

	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	ck_assert_int_eq(queue_attach(q, 2, 1), 0);
	queue_detach(q, 2);
	for (unsigned i = 0; i < 1000; i++) {
		ck_assert_int_eq(queue_admit(q, sizeof big), 0);
		put(big, sizeof big, NULL);
		uint64_t s = next_seq(1);
		queue_acked(q, 1, s, s);
	}
	ck_assert_uint_le(queue_bytes(q), BOUND + 8192);
	ck_assert_int_eq(queue_attach(q, 2, 1), -ESTALE);
}
END_TEST

START_TEST(writers_wait_for_a_slow_peer)
{
	char big[65536] = { 0 };
	struct async a = { .bytes = sizeof big };

	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	while (queue_bytes(q) + sizeof big <= BOUND) {
		ck_assert_int_eq(queue_admit(q, sizeof big), 0);
		put(big, sizeof big, NULL);
	}
	send_all(1);
	queue_acked(q, 1, 3, 0);	/* received isn't applied */
	start(&a, do_admit);
	still_waits(&a);
	queue_acked(q, 1, 3, 3);
	ck_assert_int_eq(finish(&a), 0);
	while (queue_bytes(q) + sizeof big <= BOUND)
		put(big, sizeof big, NULL);
	a = (struct async){ .bytes = sizeof big };
	start(&a, do_admit);
	still_waits(&a);
	queue_detach(q, 1);		/* given up: nobody waits for it */
	ck_assert_int_eq(finish(&a), 0);
}
END_TEST

START_TEST(pinned_blocks_count)
{
	struct blk *b = blk_new(64 << 10);

	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	put(b->data, 20 << 10, b);
	ck_assert_uint_ge(queue_bytes(q), 64 << 10);
	ck_assert_uint_eq(atomic_load(&b->refs), 2);
	uint64_t before = queue_bytes(q);
	put(b->data, 4096, b);		/* a small part: copied */
	ck_assert_uint_eq(atomic_load(&b->refs), 2);
	ck_assert_uint_lt(queue_bytes(q) - before, 16384);
	send_all(1);
	queue_acked(q, 1, 2, 2);
	ck_assert_uint_eq(atomic_load(&b->refs), 1);
	blk_unref(b);
}
END_TEST

START_TEST(one_op_larger_than_the_bound_passes)
{
	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	ck_assert_int_eq(queue_admit(q, BOUND * 2), 0);
}
END_TEST

/* Up to the bound; what one entry costs. */
static size_t fill(const void *data, size_t len)
{
	put(data, len, NULL);
	size_t one = queue_bytes(q);
	while (queue_bytes(q) + one <= BOUND)
		put(data, len, NULL);
	send_all(1);
	return one;
}

START_TEST(a_statement_gets_its_room_among_writers)
{
	static const char big[40000];
	struct async s = { .bytes = BOUND / 8 }, w = { .bytes = sizeof big };

	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	size_t one = fill(big, sizeof big);
	uint64_t applied = 0;
	start(&s, do_admit_statement);
	still_waits(&s);
	for (size_t took = 0; took < BOUND / 8; took += one) {	/* a share of what comes free is for writers, */
		applied++;
		queue_acked(q, 1, applied, applied);
		ck_assert_int_eq(queue_admit(q, sizeof big), 0);
		put(big, sizeof big, NULL);
		send_all(1);
	}
	queue_acked(q, 1, applied + 1, applied + 1);	/* but no more */
	start(&w, do_admit);
	still_waits(&w);
	still_waits(&s);
	queue_acked(q, 1, applied + 6, applied + 6);
	ck_assert_int_eq(finish(&s), 0);
	ck_assert_int_eq(finish(&w), 0);
}
END_TEST

START_TEST(statements_stand_in_line)
{
	static const char big[40000];
	struct async s = { .bytes = 4 * BOUND }, small = { .bytes = 100 };

	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	fill(big, sizeof big);
	put(big, sizeof big, NULL);
	start(&s, do_admit_statement);
	still_waits(&s);
	start(&small, do_admit_statement);
	still_waits(&small);
	queue_acked(q, 1, 2, 2);	/* room for the second, but the first is to have it */
	still_waits(&small);
	still_waits(&s);
	queue_acked(q, 1, 9, 9);	/* not all the room that the first wants: more than the bound it never gets */
	ck_assert_int_eq(finish(&s), 0);
	ck_assert_int_eq(finish(&small), 0);
}
END_TEST

START_TEST(writers_stay_near_a_restrained_peer)
{
	struct async w = { .bytes = 100 };

	queue_restrain(q, 1, 0);	/* not there: nobody waits for it, nor when it comes */
	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	ck_assert_int_eq(queue_attach(q, 2, 1), 0);
	put("a", 1, NULL);
	ck_assert_int_eq(queue_admit(q, 100), 0);
	queue_restrain(q, 1, 0);
	start(&w, do_admit);
	still_waits(&w);
	ck_assert_int_eq(queue_admit_statement(q, 100), 0);
	send_all(1);
	queue_acked(q, 1, 1, 1);	/* the other may be as far behind as it likes */
	ck_assert_int_eq(finish(&w), 0);
	put("b", 1, NULL);
	put("c", 1, NULL);
	w = (struct async){ .bytes = 100 };
	start(&w, do_admit);
	still_waits(&w);
	queue_restrain(q, 1, 1 << 16);
	ck_assert_int_eq(finish(&w), 0);
	queue_restrain(q, 1, 0);
	w = (struct async){ .bytes = 100 };
	start(&w, do_admit);
	still_waits(&w);
	queue_detach(q, 1);
	ck_assert_int_eq(finish(&w), 0);
	ck_assert_int_eq(queue_attach(q, 1, 2), 0);
	ck_assert_int_eq(queue_admit(q, 100), 0);
}
END_TEST

START_TEST(half_of_what_a_restrained_peer_applies_is_for_writers)
{
	static const char big[10000];
	struct async w = { .bytes = 100 };

	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	for (unsigned i = 0; i < 40; i++)
		put(big, sizeof big, NULL);
	send_all(1);
	queue_restrain(q, 1, 0);
	start(&w, do_admit);
	still_waits(&w);
	queue_acked(q, 1, 8, 8);
	ck_assert_int_eq(finish(&w), 0);
	for (unsigned i = 0; i < 4; i++) {
		ck_assert_int_eq(queue_admit(q, 100), 0);
		put(big, sizeof big, NULL);
	}
	w = (struct async){ .bytes = 100 };
	start(&w, do_admit);
	still_waits(&w);
	queue_restrain(q, 1, UINT64_MAX);
	ck_assert_int_eq(finish(&w), 0);
}
END_TEST

START_TEST(nobody_waits_for_a_restrained_peer_that_applies_nothing)
{
	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	put("a", 1, NULL);
	queue_restrain(q, 1, 0);
	ck_assert_int_eq(queue_admit(q, 100), 0);
}
END_TEST

START_TEST(writers_are_held_for_a_while_at_most)
{
	struct async w = { .bytes = 100 };

	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	ck_assert_int_eq(queue_attach(q, 2, 1), 0);
	ck_assert_uint_eq(queue_hold(q, 1, 3600 * 1000), 0);
	start(&w, do_admit);
	still_waits(&w);
	ck_assert_int_eq(queue_admit_statement(q, 100), 0);
	queue_restrain(q, 2, UINT64_MAX);	/* another's */
	still_waits(&w);
	queue_restrain(q, 1, UINT64_MAX);
	ck_assert_int_eq(finish(&w), 0);
}
END_TEST

START_TEST(a_hold_is_followed_by_a_rest)
{
	enum { HOLD_MS = 300 };

	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	ck_assert_int_eq(queue_attach(q, 2, 1), 0);
	uint64_t began = clock_mono_ns();
	ck_assert_uint_eq(queue_hold(q, 1, HOLD_MS), 0);
	ck_assert_uint_gt(queue_hold(q, 2, 1), 0);
	ck_assert_int_eq(queue_admit(q, 100), 0);	/* and nobody says that it is over */
	ck_assert_uint_ge(clock_mono_ns() - began, HOLD_MS * UINT64_C(1000000));
	for (unsigned p = 1; p <= 2; p++) {
		uint64_t rest_ms = queue_hold(q, p, 1);	/* a test that is stopped for so long meanwhile proves nothing */
		ck_assert(rest_ms || clock_mono_ns() - began >= 9 * HOLD_MS * UINT64_C(1000000));
		ck_assert_uint_le(rest_ms, 8 * HOLD_MS);
	}
	queue_detach(q, 1);	/* nor does who comes again have another one */
	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	ck_assert(queue_hold(q, 1, 1) || clock_mono_ns() - began >= 9 * HOLD_MS * UINT64_C(1000000));
	for (uint64_t ms; (ms = queue_hold(q, 1, HOLD_MS));)
		nanosleep(&(struct timespec){ (time_t)(ms / 1000), (long)(ms % 1000) * 1000000 }, NULL);
	ck_assert_uint_ge(clock_mono_ns() - began, 9 * HOLD_MS * UINT64_C(1000000));
	queue_detach(q, 1);
	ck_assert_int_eq(queue_admit(q, 100), 0);
}
END_TEST

/* ---- confirmations ---- */

START_TEST(nobody_to_wait_for)
{
	ck_assert_int_eq(queue_wait(q, put("a", 1, NULL), CONFIRM_RECEIVED), 0);
	ck_assert_int_eq(queue_wait(q, put("a", 1, NULL), CONFIRM_APPLIED), 0);
	ck_assert_int_eq(queue_wait(q, put_barrier(), CONFIRM_DURABLE), 0);
}
END_TEST

START_TEST(received_applied_durable_are_three_things)
{
	struct async r = { .what = CONFIRM_RECEIVED }, p = { .what = CONFIRM_APPLIED }, d = { .what = CONFIRM_DURABLE };

	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	queue_set_ackset(q, 1 << 1);
	r.seq = p.seq = d.seq = put_barrier();
	send_all(1);
	start(&r, do_wait);
	start(&p, do_wait);
	start(&d, do_wait);
	still_waits(&r);
	queue_acked(q, 1, 1, 0);
	ck_assert_int_eq(finish(&r), 0);
	still_waits(&p);
	queue_acked(q, 1, 1, 1);
	ck_assert_int_eq(finish(&p), 0);
	still_waits(&d);
	queue_barrier_done(q, 1, 1, 0);
	ck_assert_int_eq(finish(&d), 0);
}
END_TEST

START_TEST(all_of_the_set_must_confirm)
{
	struct async a = { .what = CONFIRM_DURABLE };

	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	ck_assert_int_eq(queue_attach(q, 2, 1), 0);
	ck_assert_int_eq(queue_attach(q, 3, 1), 0);
	queue_set_ackset(q, 1 << 1 | 1 << 2);
	a.seq = put_barrier();
	for (unsigned p = 1; p <= 3; p++)
		send_all(p);
	queue_barrier_done(q, 2, a.seq, 0);	/* before anybody asks */
	queue_barrier_done(q, 3, a.seq, 0);
	start(&a, do_wait);
	still_waits(&a);
	queue_barrier_done(q, 1, a.seq, 0);
	ck_assert_int_eq(finish(&a), 0);
}
END_TEST

START_TEST(a_smaller_set_wakes_waiters)
{
	struct async a = { .what = CONFIRM_RECEIVED }, d = { .what = CONFIRM_DURABLE };

	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	queue_set_ackset(q, 1 << 1);
	a.seq = put("a", 1, NULL);
	d.seq = put_barrier();
	start(&a, do_wait);
	start(&d, do_wait);
	still_waits(&a);
	still_waits(&d);
	queue_detach(q, 1);
	still_waits(&a);		/* gone, but not given up yet */
	queue_set_ackset(q, 0);
	ck_assert_int_eq(finish(&a), 0);
	ck_assert_int_eq(finish(&d), 0);
}
END_TEST

START_TEST(a_failed_flush_confirms_nothing)
{
	struct async d = { .what = CONFIRM_DURABLE };

	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	queue_set_ackset(q, 1 << 1);
	d.seq = put_barrier();
	send_all(1);
	start(&d, do_wait);
	queue_barrier_done(q, 1, d.seq, -EIO);
	still_waits(&d);
	queue_set_ackset(q, 0);
	ck_assert_int_eq(finish(&d), 0);
}
END_TEST

/* A hung disk answers heartbeats and acknowledges what it applied: the barrier's own clock tells. */
START_TEST(a_barrier_without_answer_is_overdue)
{
	struct async d = { .what = CONFIRM_DURABLE };

	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	queue_set_ackset(q, 1 << 1);
	d.seq = put_barrier();
	send_all(1);
	queue_acked(q, 1, d.seq, d.seq);
	ck_assert(!queue_barrier_overdue(q, 1, 0));	/* the caller's own flush has not ended */
	start(&d, do_wait);
	still_waits(&d);
	ck_assert(!queue_barrier_overdue(q, 1, UINT64_C(3600) * 1000000000));
	for (uint64_t end = clock_mono_ms() + LIMIT_MS; !queue_barrier_overdue(q, 1, 1) && clock_mono_ms() < end;)
		sched_yield();
	ck_assert(queue_barrier_overdue(q, 1, 1));
	ck_assert(!queue_barrier_overdue(q, 2, 1));	/* nothing rests on it */
	queue_barrier_done(q, 1, d.seq, 0);
	ck_assert_int_eq(finish(&d), 0);
	ck_assert(!queue_barrier_overdue(q, 1, 0));
}
END_TEST

START_TEST(a_wait_may_have_a_limit)
{
	struct timespec until = clock_mono_after_ms(20);

	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	queue_set_ackset(q, 1 << 1);
	ck_assert_int_eq(queue_wait_until(q, put("a", 1, NULL), CONFIRM_APPLIED, &until), -ETIMEDOUT);
}
END_TEST

START_TEST(frozen_acknowledges_nothing)
{
	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	queue_set_ackset(q, 1 << 1);
	struct async a = { .what = CONFIRM_RECEIVED, .seq = put("a", 1, NULL) }, b = a;

	start(&a, do_wait);
	still_waits(&a);
	queue_freeze(q, true);
	ck_assert_int_eq(finish(&a), -EIO);
	start(&b, do_wait);
	ck_assert_int_eq(finish(&b), -EIO);
	queue_set_ackset(q, 0);
	queue_freeze(q, false);
	ck_assert_int_eq(queue_wait(q, b.seq, CONFIRM_RECEIVED), 0);
}
END_TEST

START_TEST(lies_are_not_believed)
{
	struct async a = { .what = CONFIRM_RECEIVED }, d = { .what = CONFIRM_DURABLE };

	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	queue_set_ackset(q, 1 << 1);
	a.seq = put("a", 1, NULL);
	d.seq = put_barrier();
	queue_acked(q, 1, UINT64_MAX, UINT64_MAX);	/* nothing was sent yet */
	queue_barrier_done(q, 1, d.seq, 0);
	start(&a, do_wait);
	start(&d, do_wait);
	still_waits(&a);
	still_waits(&d);
	ck_assert_uint_eq(queue_first(q), 1);
	send_all(1);
	queue_acked(q, 1, 2, 2);
	queue_barrier_done(q, 1, d.seq, 0);
	ck_assert_int_eq(finish(&a), 0);
	ck_assert_int_eq(finish(&d), 0);
}
END_TEST

START_TEST(back_behind_a_barrier_it_is_asked_again)
{
	struct async d = { .what = CONFIRM_DURABLE };

	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	queue_set_ackset(q, 1 << 1);
	d.seq = put_barrier();
	send_all(1);
	queue_acked(q, 1, 1, 1);
	start(&d, do_wait);
	still_waits(&d);
	queue_detach(q, 1);
	still_waits(&d);
	ck_assert_int_eq(queue_attach(q, 1, 2), 0);	/* it had applied it, but its answer was lost */
	ck_assert_int_eq(finish(&d), -EAGAIN);
	d = (struct async){ .what = CONFIRM_DURABLE, .seq = put_barrier() };
	send_all(1);
	queue_barrier_done(q, 1, d.seq, 0);
	start(&d, do_wait);
	ck_assert_int_eq(finish(&d), 0);
}
END_TEST

START_TEST(barriers_nobody_asks_for_are_bounded)
{
	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	queue_set_ackset(q, 1 << 1);
	uint64_t first = put_barrier();
	for (unsigned i = 0; i < 10000; i++) {
		uint64_t s = put_barrier();
		send_all(1);
		queue_acked(q, 1, s, s);
		queue_barrier_done(q, 1, s, 0);
		if (i % 2)
			queue_forget(q, s);
	}
	ck_assert_int_eq(queue_wait(q, first, CONFIRM_DURABLE), -EAGAIN);
}
END_TEST

/* ---- stop and restart ---- */

START_TEST(stop_wakes_all_and_restart_begins_anew)
{
	char big[65536] = { 0 };
	struct async w = { .what = CONFIRM_RECEIVED }, a = { .bytes = BOUND }, n = { .peer = 2 };
	struct op op = { .type = OP_NOP };
	uint64_t seq;

	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	queue_set_ackset(q, 1 << 1);
	w.seq = put(big, sizeof big, NULL);
	ck_assert_int_eq(queue_attach(q, 2, 2), 0);
	start(&w, do_wait);
	start(&a, do_admit);
	start(&n, do_next);
	still_waits(&n);
	queue_stop(q);
	ck_assert_int_eq(finish(&w), -ESHUTDOWN);
	ck_assert_int_eq(finish(&a), -ESHUTDOWN);
	ck_assert_int_eq(finish(&n), -ESHUTDOWN);
	ck_assert_int_eq(queue_append(q, &op, 0xffff, &seq), -ESHUTDOWN);
	ck_assert_int_eq(queue_wait(q, 1, CONFIRM_RECEIVED), -ESHUTDOWN);
	ck_assert_int_eq(queue_attach(q, 3, 1), -ESHUTDOWN);
	queue_restart(q);
	ck_assert_uint_eq(queue_last(q), 0);
	ck_assert_uint_eq(queue_bytes(q), 0);
	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	ck_assert_uint_eq(put("a", 1, NULL), 1);
	ck_assert_uint_eq(next_seq(1), 1);
}
END_TEST

START_TEST(numbers_for_status)
{
	struct queue_peer_stat s;

	ck_assert(!queue_has_peers(q));
	ck_assert_int_eq(queue_attach(q, 1, 1), 0);
	ck_assert(queue_has_peers(q));
	put("a", 1, NULL);
	put("b", 1, NULL);
	ck_assert_uint_eq(next_seq(1), 1);
	queue_acked(q, 1, 1, 1);
	queue_peer_stat(q, 1, &s);
	ck_assert(s.attached);
	ck_assert_uint_eq(s.sent_seq, 1);
	ck_assert_uint_eq(s.applied_seq, 1);
	ck_assert_uint_eq(s.bytes_behind, queue_bytes(q));
	ck_assert_uint_gt(s.oldest_ns, 0);
	send_all(1);
	queue_acked(q, 1, 2, 2);
	queue_peer_stat(q, 1, &s);
	ck_assert_uint_eq(s.bytes_behind, 0);
	ck_assert_uint_eq(s.oldest_ns, 0);
}
END_TEST

/* ---- many threads ---- */

enum { THREADS = 4, OPS = 20000 };

static int appender(struct async *a)
{
	char data[300] = { 0 };

	for (unsigned i = 0; i < OPS; i++) {
		if (queue_admit(q, sizeof data))
			return -1;
		uint64_t s = i % 64 ? put(data, i % sizeof data + 1, NULL) : put_barrier();
		if (i % 64 == 0 && queue_wait(q, s, CONFIRM_DURABLE))
			return -2;
	}
	(void)a;
	return 0;
}

/* Gets everything, in order, and confirms. */
static int receiver(struct async *a)
{
	struct qentry *e;
	uint64_t seq = 0;

	while (seq < (uint64_t)THREADS * OPS && !queue_next(q, a->peer, true, &e)) {
		if (e->seq != ++seq)
			return -1;
		uint8_t type = e->type;
		qentry_unref(e);
		if (type == OP_FSYNC || seq % 50 == 0)
			queue_acked(q, a->peer, seq, seq);
		if (type == OP_FSYNC)
			queue_barrier_done(q, a->peer, seq, 0);
	}
	return seq == (uint64_t)THREADS * OPS ? 0 : -2;
}

START_TEST(many_threads_one_order)
{
	struct async w[THREADS], r[2];

	memset(w, 0, sizeof w);
	memset(r, 0, sizeof r);
	queue_set_ackset(q, 1 << 1 | 1 << 2);
	for (unsigned p = 0; p < 2; p++) {
		ck_assert_int_eq(queue_attach(q, p + 1, 1), 0);
		r[p].peer = p + 1;
		start(&r[p], receiver);
	}
	for (unsigned i = 0; i < THREADS; i++)
		start(&w[i], appender);
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(w[i].t, NULL);
		ck_assert_int_eq(w[i].r, 0);
	}
	for (unsigned p = 0; p < 2; p++) {
		pthread_join(r[p].t, NULL);
		ck_assert_int_eq(r[p].r, 0);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("queue");
	TCase *t = tcase_create("queue");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, entries_come_in_order_with_their_bytes);
	tcase_add_test(t, nobody_there_costs_nothing_but_counts);
	tcase_add_test(t, a_sender_sleeps_until_there_is_something);
	tcase_add_test(t, a_ring_that_grows_keeps_order);
	tcase_add_test(t, applied_by_all_is_freed);
	tcase_add_test(t, kept_for_an_absent_peer_up_to_the_bound);
	tcase_add_test(t, an_absent_peer_does_not_hold_up_the_others);
	tcase_add_test(t, writers_wait_for_a_slow_peer);
	tcase_add_test(t, pinned_blocks_count);
	tcase_add_test(t, one_op_larger_than_the_bound_passes);
	tcase_add_test(t, a_statement_gets_its_room_among_writers);
	tcase_add_test(t, statements_stand_in_line);
	tcase_add_test(t, writers_stay_near_a_restrained_peer);
	tcase_add_test(t, half_of_what_a_restrained_peer_applies_is_for_writers);
	tcase_add_test(t, nobody_waits_for_a_restrained_peer_that_applies_nothing);
	tcase_add_test(t, writers_are_held_for_a_while_at_most);
	tcase_add_test(t, a_hold_is_followed_by_a_rest);
	tcase_add_test(t, nobody_to_wait_for);
	tcase_add_test(t, received_applied_durable_are_three_things);
	tcase_add_test(t, all_of_the_set_must_confirm);
	tcase_add_test(t, a_smaller_set_wakes_waiters);
	tcase_add_test(t, a_failed_flush_confirms_nothing);
	tcase_add_test(t, a_barrier_without_answer_is_overdue);
	tcase_add_test(t, a_wait_may_have_a_limit);
	tcase_add_test(t, frozen_acknowledges_nothing);
	tcase_add_test(t, lies_are_not_believed);
	tcase_add_test(t, back_behind_a_barrier_it_is_asked_again);
	tcase_add_test(t, barriers_nobody_asks_for_are_bounded);
	tcase_add_test(t, stop_wakes_all_and_restart_begins_anew);
	tcase_add_test(t, numbers_for_status);
	tcase_add_test(t, many_threads_one_order);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
