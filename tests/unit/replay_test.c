/* The duplicate request cache: the first answer, each time, for as long as there is room for it, and for every client its share. */
#include <arpa/inet.h>
#include <check.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "nfsd-glue/replay.h"

enum { NFS = 100003, CREATE = 8, START_MS = 1000000 };

static struct replay *t;
static unsigned char out[REPLAY_REPLY_MAX];
static size_t out_len;

static void setup_with(size_t max)
{
	ck_assert_int_eq(replay_new(max, &t), 0);
	replay_set_clock(t, START_MS);
}
static void setup(void) { setup_with(0); }
static void teardown(void) { replay_free(t); }

static struct sockaddr_storage v4(unsigned host, unsigned port)
{
	struct sockaddr_storage s = { .ss_family = AF_INET };
	struct sockaddr_in *in = (void *)&s;

	in->sin_addr.s_addr = htonl(0x0a000000 + host);
	in->sin_port = htons((uint16_t)port);
	return s;
}

static struct replay_key key(unsigned host, uint32_t xid, const char *args)
{
	struct sockaddr_storage peer = v4(host, 700);
	struct replay_key k;

	replay_key_init(&k, &peer, xid, NFS, 3, CREATE, 1000, 100, args, strlen(args));
	return k;
}

static enum replay_verdict begin(const struct replay_key *k)
{
	memset(out, 0xee, sizeof out);
	out_len = 12345;
	return replay_begin(t, k, out, &out_len);
}

static void answered(const struct replay_key *k, const char *answer)
{
	ck_assert_int_eq(begin(k), REPLAY_NEW);
	replay_done(t, k, answer, strlen(answer));
	replay_sent(t, k);
}

static void is_answer(const struct replay_key *k, const char *answer)
{
	ck_assert_int_eq(begin(k), REPLAY_DONE);
	ck_assert_uint_eq(out_len, strlen(answer));
	ck_assert_mem_eq(out, answer, out_len);
}

static struct replay_stats stats(void)
{
	struct replay_stats s;

	replay_stats(t, &s);
	return s;
}

/* ---- one call ---- */

START_TEST(first_answer_each_time)
{
	struct replay_key k = key(1, 7, "args");

	answered(&k, "first");
	is_answer(&k, "first");
	is_answer(&k, "first");
	ck_assert_uint_eq(stats().hits, 2);
	ck_assert_uint_eq(stats().entries, 1);
}
END_TEST

START_TEST(running_is_dropped)
{
	struct replay_key k = key(1, 7, "args");

	ck_assert_int_eq(begin(&k), REPLAY_NEW);
	ck_assert_int_eq(begin(&k), REPLAY_RUNNING);
	replay_done(t, &k, "known", 5);		/* but not durable yet */
	ck_assert_int_eq(begin(&k), REPLAY_RUNNING);
	ck_assert_uint_eq(stats().dropped, 2);
	replay_sent(t, &k);
	is_answer(&k, "known");
}
END_TEST

/* ---- retransmissions that wait ---- */

struct waiter { struct replay_waiter w; unsigned called; enum replay_end how; char bytes[16]; };

static void waiter_ended(struct replay_waiter *rw, enum replay_end how, const void *bytes, size_t len)
{
	struct waiter *w = (struct waiter *)rw;

	w->called++;
	w->how = how;
	snprintf(w->bytes, sizeof w->bytes, "%.*s", (int)len, (const char *)bytes);
}

static struct waiter waiter(void) { return (struct waiter){ .w = { waiter_ended } }; }

static void was_told(const struct waiter *w, enum replay_end how, const char *bytes)
{
	ck_assert_uint_eq(w->called, 1);
	ck_assert_int_eq(w->how, how);
	ck_assert_str_eq(w->bytes, bytes);
}

START_TEST(the_latest_retransmission_gets_the_answer)
{
	struct replay_key k = key(1, 7, "args");
	struct waiter a = waiter(), b = waiter(), c = waiter();

	ck_assert(!replay_wait(t, &k, &a.w));
	ck_assert_int_eq(begin(&k), REPLAY_NEW);
	ck_assert(replay_wait(t, &k, &a.w));
	replay_done(t, &k, "known", 5);
	ck_assert_uint_eq(a.called, 0);
	ck_assert(replay_wait(t, &k, &b.w));
	was_told(&a, REPLAY_SILENCE, "");
	ck_assert_uint_eq(b.called, 0);
	replay_sent(t, &k);
	was_told(&b, REPLAY_ANSWERED, "known");
	ck_assert(!replay_wait(t, &k, &c.w));
	is_answer(&k, "known");
	ck_assert_uint_eq(c.called, 0);
}
END_TEST

START_TEST(who_waits_hears_how_it_ended)
{
	struct replay_key k = key(1, 7, "args");
	struct waiter w;

	for (unsigned i = 0; i < 2; i++) {
		ck_assert_int_eq(begin(&k), REPLAY_NEW);
		w = waiter();
		ck_assert(replay_wait(t, &k, &w.w));
		if (i)
			replay_sent(t, &k);		/* without an answer */
		else
			replay_forget(t, &k);
		was_told(&w, REPLAY_NO_TRACE, "");
	}
	ck_assert_int_eq(begin(&k), REPLAY_NEW);
	w = waiter();
	ck_assert(replay_wait(t, &k, &w.w));
	replay_apply(t, &k, "told", 4);			/* a new primary has done it */
	was_told(&w, REPLAY_ANSWERED, "told");
	k = key(1, 8, "args");
	ck_assert_int_eq(begin(&k), REPLAY_NEW);
	w = waiter();
	ck_assert(replay_wait(t, &k, &w.w));
	replay_done(t, &k, "known", 5);
	replay_withhold(t, &k);
	was_told(&w, REPLAY_SILENCE, "");
	ck_assert(!replay_wait(t, &k, &w.w));
}
END_TEST

START_TEST(withheld_is_dropped_until_a_promotion)
{
	struct replay_key k = key(1, 7, "args"), l = key(1, 8, "args");

	ck_assert_int_eq(begin(&k), REPLAY_NEW);
	replay_done(t, &k, "known", 5);
	replay_withhold(t, &k);
	ck_assert_int_eq(begin(&k), REPLAY_RUNNING);
	replay_forget(t, &k);			/* nothing runs */
	ck_assert_int_eq(begin(&k), REPLAY_RUNNING);
	replay_reveal(t);
	is_answer(&k, "known");
	ck_assert_int_eq(begin(&l), REPLAY_NEW);
	replay_done(t, &l, "known", 5);
	replay_withhold(t, &l);
	replay_apply(t, &l, "told", 4);		/* a new primary knows */
	is_answer(&l, "told");
}
END_TEST

START_TEST(forgotten_is_new)
{
	struct replay_key k = key(1, 7, "args");

	ck_assert_int_eq(begin(&k), REPLAY_NEW);
	replay_forget(t, &k);
	ck_assert_int_eq(begin(&k), REPLAY_NEW);
	replay_sent(t, &k);			/* without an answer */
	ck_assert_int_eq(begin(&k), REPLAY_NEW);
	replay_forget(t, &k);
	ck_assert_uint_eq(stats().entries, 0);
	ck_assert_uint_eq(stats().bytes, 0);
	ck_assert_uint_eq(stats().clients, 0);
}
END_TEST

START_TEST(empty_and_longest_answers)
{
	struct replay_key k = key(1, 7, "a"), l = key(1, 8, "a"), m = key(1, 9, "a");
	char longest[REPLAY_REPLY_MAX + 1] = "", *p = memset(longest, 'x', sizeof longest);

	answered(&k, "");
	is_answer(&k, "");
	ck_assert_int_eq(begin(&l), REPLAY_NEW);
	replay_done(t, &l, p, REPLAY_REPLY_MAX);
	replay_sent(t, &l);
	ck_assert_int_eq(begin(&l), REPLAY_DONE);
	ck_assert_uint_eq(out_len, REPLAY_REPLY_MAX);
	ck_assert_int_eq(begin(&m), REPLAY_NEW);
	replay_done(t, &m, p, REPLAY_REPLY_MAX + 1);
	replay_sent(t, &m);
	ck_assert_int_eq(begin(&m), REPLAY_NEW);
	replay_forget(t, &m);
}
END_TEST

/* Each part of the key tells calls apart; the port does not. */
START_TEST(keys)
{
	struct sockaddr_storage a = v4(1, 700), b = v4(1, 900), c = v4(2, 700), six = { .ss_family = AF_INET6 };
	struct replay_key k[12];
	char args[9] = "argument", more[REPLAY_SUM_PART * 3] = "";

	replay_key_init(&k[0], &a, 1, 2, 3, 4, 5, 6, args, 8);
	replay_key_init(&k[1], &b, 1, 2, 3, 4, 5, 6, args, 8);
	ck_assert_mem_eq(&k[0], &k[1], sizeof k[0]);
	inet_pton(AF_INET6, "::ffff:10.0.0.1", &((struct sockaddr_in6 *)(void *)&six)->sin6_addr);
	replay_key_init(&k[1], &six, 1, 2, 3, 4, 5, 6, args, 8);
	ck_assert_mem_eq(&k[0], &k[1], sizeof k[0]);
	replay_key_init(&k[1], &c, 1, 2, 3, 4, 5, 6, args, 8);
	replay_key_init(&k[2], &a, 2, 2, 3, 4, 5, 6, args, 8);
	replay_key_init(&k[3], &a, 1, 3, 3, 4, 5, 6, args, 8);
	replay_key_init(&k[4], &a, 1, 2, 4, 4, 5, 6, args, 8);
	replay_key_init(&k[5], &a, 1, 2, 3, 5, 5, 6, args, 8);
	replay_key_init(&k[6], &a, 1, 2, 3, 4, 6, 6, args, 8);
	replay_key_init(&k[7], &a, 1, 2, 3, 4, 5, 7, args, 8);
	replay_key_init(&k[8], &a, 1, 2, 3, 4, 5, 6, args, 7);
	replay_key_init(&k[9], &a, 1, 2, 3, 4, 5, 6, more, sizeof more);
	more[0] = 1;
	replay_key_init(&k[10], &a, 1, 2, 3, 4, 5, 6, more, sizeof more);
	more[0] = 0, more[sizeof more - 1] = 1;
	replay_key_init(&k[11], &a, 1, 2, 3, 4, 5, 6, more, sizeof more);
	for (unsigned i = 0; i < ARRAY_LEN(k); i++)
		for (unsigned j = 0; j < i; j++)
			ck_assert_msg(memcmp(&k[i], &k[j], sizeof k[0]) != 0, "keys %u and %u", i, j);
}
END_TEST

/* ---- what peers tell ---- */

START_TEST(records_and_local_calls)
{
	struct replay_key k = key(1, 7, "args");

	replay_apply(t, &k, "peer", 4);
	is_answer(&k, "peer");
	replay_apply(t, &k, "newer", 5);
	is_answer(&k, "newer");
	replay_forget(t, &k);			/* of a call that runs here: none does */
	replay_sent(t, &k);
	is_answer(&k, "newer");

	/* a call that ran here when the role went away, and what the new primary made of it */
	struct replay_key l = key(1, 8, "args");
	ck_assert_int_eq(begin(&l), REPLAY_NEW);
	replay_apply(t, &l, "peer", 4);
	replay_forget(t, &l);
	is_answer(&l, "peer");
}
END_TEST

START_TEST(merging_a_snapshot)
{
	struct replay_key k = key(1, 7, "args"), l = key(1, 8, "args"), old = key(1, 9, "args");

	replay_apply(t, &k, "streamed", 8);
	replay_merge(t, &k, "snapshot", 8, 10);
	is_answer(&k, "streamed");
	replay_merge(t, &l, "snapshot", 8, 10);
	is_answer(&l, "snapshot");
	replay_merge(t, &old, "snapshot", 8, REPLAY_AGE_MS + 1);
	ck_assert_int_eq(begin(&old), REPLAY_NEW);
	replay_forget(t, &old);
	replay_clear(t);
	ck_assert_int_eq(begin(&k), REPLAY_NEW);
	replay_clear(t);			/* not what runs */
	ck_assert_int_eq(begin(&k), REPLAY_RUNNING);
	replay_forget(t, &k);
}
END_TEST

struct seen { unsigned n; uint32_t xid[64], age[64]; unsigned idle; };
static int see(void *arg, const struct replay_key *k, const void *bytes, size_t len, uint32_t age_ms)
{
	struct seen *s = arg;

	ck_assert_ptr_nonnull(bytes);
	ck_assert_uint_gt(len, 0);
	s->xid[s->n] = k->xid;
	s->age[s->n++] = age_ms;
	return 0;
}
static int idle(void *arg)
{
	((struct seen *)arg)->idle++;
	return 0;
}

/* Newest first, so that the receiver, who puts each behind the ones that it has, ends with the same order; and what is known but not given yet, too. */
START_TEST(a_snapshot_has_all_that_is_known)
{
	struct replay_key k[6];
	struct seen s = { 0 };
	struct replay *u;

	for (uint32_t i = 0; i < 6; i++) {
		k[i] = key(1, i + 1, "args");
		replay_set_clock(t, START_MS + i * 100);
		ck_assert_int_eq(begin(&k[i]), REPLAY_NEW);
		if (i < 5)
			replay_done(t, &k[i], "x", 1);
		if (i < 4)
			replay_sent(t, &k[i]);
	}
	ck_assert_int_eq(replay_each(t, see, idle, &s), 0);
	ck_assert_uint_eq(s.n, 5);
	ck_assert_uint_gt(s.idle, 1);
	for (unsigned i = 0; i < 5; i++) {
		ck_assert_uint_eq(s.xid[i], 5 - i);
		ck_assert_uint_eq(s.age[i], 100 + 100 * i);
	}
	ck_assert_int_eq(replay_new(0, &u), 0);
	replay_set_clock(u, 77777777);
	for (unsigned i = 0; i < s.n; i++)
		replay_merge(u, &k[s.xid[i] - 1], "x", 1, s.age[i]);
	struct seen again = { 0 };
	ck_assert_int_eq(replay_each(u, see, NULL, &again), 0);
	ck_assert_uint_eq(again.n, 5);
	ck_assert_mem_eq(again.xid, s.xid, sizeof s.xid);
	ck_assert_mem_eq(again.age, s.age, sizeof s.age);
	replay_free(u);
	for (unsigned i = 4; i < 6; i++)
		replay_forget(t, &k[i]);
}
END_TEST

/* ---- bounds ---- */

START_TEST(ages)
{
	struct replay_key k = key(1, 7, "args"), l = key(1, 8, "args");

	answered(&k, "old");
	replay_set_clock(t, START_MS + REPLAY_AGE_MS - 1);
	answered(&l, "young");
	is_answer(&k, "old");
	replay_set_clock(t, START_MS + REPLAY_AGE_MS + 1);
	ck_assert_int_eq(begin(&k), REPLAY_NEW);
	replay_forget(t, &k);
	is_answer(&l, "young");
	ck_assert_uint_eq(stats().aged, 1);
	ck_assert_int_ge(REPLAY_AGE_MS, 120000);
}
END_TEST

START_TEST(evicts_the_oldest)
{
	enum { MAX = 1 << 20, N = 20000 };

	teardown();
	setup_with(MAX);
	for (uint32_t i = 0; i < N; i++) {
		struct replay_key k = key(1, i, "args");
		answered(&k, "a hundred bytes, nearly: a hundred bytes, nearly: a hundred bytes, nearly: a hundred bytes, nearly");
		ck_assert_uint_le(stats().bytes, MAX);
	}
	struct replay_stats s = stats();
	ck_assert_uint_gt(s.bytes, MAX / 2);
	ck_assert_uint_eq(s.entries + s.evicted, N);
	/* what is there are the newest, without a gap */
	for (uint32_t i = 0; i < N; i++) {
		struct replay_key k = key(1, i, "args");
		enum replay_verdict v = begin(&k);
		if (v == REPLAY_NEW)
			replay_forget(t, &k);
		ck_assert_int_eq(v, i < N - s.entries ? REPLAY_NEW : REPLAY_DONE);
	}
}
END_TEST

/* One client's thousands don't drive out another's few, whichever shard they share. */
START_TEST(every_client_has_its_share)
{
	enum { MAX = 1 << 20, QUIET = 300, EACH = 4 };

	teardown();
	setup_with(MAX);
	for (unsigned c = 0; c < QUIET; c++)
		for (uint32_t i = 0; i < EACH; i++) {
			struct replay_key k = key(100 + c, i, "args");
			answered(&k, "quiet");
		}
	for (uint32_t i = 0; i < 50000; i++) {
		struct replay_key k = key(1, i, "args");
		answered(&k, "a loud client");
	}
	ck_assert_uint_le(stats().bytes, MAX);
	ck_assert_uint_gt(stats().evicted, 10000);
	for (unsigned c = 0; c < QUIET; c++)
		for (uint32_t i = 0; i < EACH; i++) {
			struct replay_key k = key(100 + c, i, "args");
			is_answer(&k, "quiet");
		}
}
END_TEST

/* Calls that run are never evicted, and go away without a trace. */
START_TEST(running_calls_stay)
{
	enum { MAX = 64 << 10, N = 1000 };

	teardown();
	setup_with(MAX);
	for (uint32_t i = 0; i < N; i++) {
		struct replay_key k = key(i % 7, i, "args");
		ck_assert_int_eq(begin(&k), REPLAY_NEW);
	}
	for (uint32_t i = 0; i < N; i++) {
		struct replay_key k = key(i % 7, i, "args");
		ck_assert_int_eq(begin(&k), REPLAY_RUNNING);
	}
	for (uint32_t i = 0; i < N; i++) {
		struct replay_key k = key(i % 7, i, "args");
		replay_done(t, &k, "x", 1);
		replay_sent(t, &k);
	}
	ck_assert_uint_le(stats().bytes, MAX);
	ck_assert_uint_gt(stats().entries, 0);
}
END_TEST

/* A peer may send as many records and clients as it likes. */
START_TEST(peers_are_bounded)
{
	enum { MAX = 256 << 10 };
	char big[REPLAY_REPLY_MAX] = "";

	teardown();
	setup_with(MAX);
	for (uint32_t i = 0; i < 20000; i++) {
		struct replay_key k = key(i, i, "args");
		if (i % 2)
			replay_apply(t, &k, big, i % sizeof big);
		else
			replay_merge(t, &k, big, i % sizeof big, i);
		ck_assert_uint_le(stats().bytes, MAX);
	}
	ck_assert_uint_gt(stats().entries, 10);
}
END_TEST

/* ---- many threads ---- */

enum { THREADS = 8, CALLS = 20000, KEYS = 500 };
static _Atomic unsigned executed[KEYS];

/* Everybody sends the same calls: each is executed once. */
static void *retransmit(void *arg)
{
	unsigned char mine[REPLAY_REPLY_MAX];
	size_t len;
	uint64_t x = (uint64_t)(uintptr_t)arg * 7919 + 1;

	for (unsigned i = 0; i < CALLS; i++) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		uint32_t n = (uint32_t)(x >> 33) % KEYS;
		struct replay_key k = key(n % 5, n, "args");
		switch (replay_begin(t, &k, mine, &len)) {
		case REPLAY_NEW:
			atomic_fetch_add(&executed[n], 1);
			replay_done(t, &k, &n, sizeof n);
			replay_sent(t, &k);
			break;
		case REPLAY_DONE:
			ck_assert_uint_eq(len, sizeof n);
			ck_assert_mem_eq(mine, &n, sizeof n);
			break;
		default: break;
		}
	}
	return NULL;
}

static int see_nothing(void *arg, const struct replay_key *k, const void *bytes, size_t len, uint32_t age_ms)
{
	(void)arg, (void)k, (void)bytes, (void)len, (void)age_ms;
	return 0;
}

static void *look(void *arg)
{
	for (unsigned i = 0; i < 300; i++)
		replay_each(t, see_nothing, NULL, arg);
	return NULL;
}

START_TEST(executed_once)
{
	pthread_t th[THREADS + 1];

	for (uintptr_t i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&th[i], NULL, retransmit, (void *)i), 0);
	ck_assert_int_eq(pthread_create(&th[THREADS], NULL, look, NULL), 0);
	for (unsigned i = 0; i < THREADS + 1; i++)
		pthread_join(th[i], NULL);
	for (unsigned i = 0; i < KEYS; i++)
		ck_assert_uint_eq(atomic_load(&executed[i]), 1);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("replay");
	TCase *c = tcase_create("replay");

	tcase_set_timeout(c, 60);
	tcase_add_checked_fixture(c, setup, teardown);
	tcase_add_test(c, the_latest_retransmission_gets_the_answer);
	tcase_add_test(c, who_waits_hears_how_it_ended);
	tcase_add_test(c, first_answer_each_time);
	tcase_add_test(c, running_is_dropped);
	tcase_add_test(c, withheld_is_dropped_until_a_promotion);
	tcase_add_test(c, forgotten_is_new);
	tcase_add_test(c, empty_and_longest_answers);
	tcase_add_test(c, keys);
	tcase_add_test(c, records_and_local_calls);
	tcase_add_test(c, merging_a_snapshot);
	tcase_add_test(c, a_snapshot_has_all_that_is_known);
	tcase_add_test(c, ages);
	tcase_add_test(c, evicts_the_oldest);
	tcase_add_test(c, every_client_has_its_share);
	tcase_add_test(c, running_calls_stay);
	tcase_add_test(c, peers_are_bounded);
	tcase_add_test(c, executed_once);
	suite_add_tcase(s, c);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
