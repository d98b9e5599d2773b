/*
 * The lock state of NFS clients over a pair: what the standby knows equals what the primary holds, by identity, whatever threads did; also when the standby joined in the
 * middle; a promotion keeps what clients of the volume hold and drops what programs on the other node's mount held. SEED=n repeats one run. And the bytes of the
 * records.
 */
#include <arpa/inet.h>

#include "golden.h"
#include "nfsd-glue/lockstate.h"
#include "pair.h"

enum { HOSTS = 3, THREADS = 4, STEPS = 1500, OBJECTS = 4 };

struct state { struct lock_table *locks; struct lockstate *s; struct replay *replay; struct replica *r; };
static struct pair p;
static struct state A, B;

static void state_start(struct state *s, unsigned node)
{
	struct replica_part part;

	ck_assert_int_eq(lock_table_new(&s->locks), 0);
	const struct lockstate_config lc = { .locks = s->locks, .ip = node == 1 ? p.ip : NULL, .node = node };
	ck_assert_int_eq(lockstate_new(&lc, &s->s), 0);
	ck_assert_int_eq(replay_new(0, &s->replay), 0);
	const struct replica_config rc = { .ip = node == 1 ? p.ip : NULL, .queue = p.q, .replay = s->replay };
	ck_assert_int_eq(replica_new(&rc, &s->r), 0);
	lockstate_part(s->s, &part);
	replica_register(s->r, REPLICA_LOCK, &part);
}

static void state_stop(struct state *s)
{
	replica_free(s->r);
	replay_free(s->replay);
	lock_drop_front(s->locks, ORIGIN_FUSE, 0);
	lockstate_free(s->s);
	ck_assert_uint_eq(lock_count(s->locks), 0);
	lock_table_free(s->locks);
}

static void follow_now(void)
{
	while (queue_attach(p.q, PEER, queue_last(p.q) + 1) == -ESTALE)
		;
	ck_assert_int_eq(pthread_create(&p.drain, NULL, pair_drain_main, &p), 0);
	p.draining = true;
	queue_set_ackset(p.q, 1 << PEER);
}

static void setup(void)
{
	pair_start(&p);
	state_start(&A, 1);
	state_start(&B, 2);
	pair_unfollow(&p);
	replica_follow(B.r, p.ap);
	follow_now();
}

static void teardown(void)
{
	pair_unfollow(&p);
	state_stop(&A);
	state_stop(&B);
	pair_stop(&p);
}

/* ---- who ---- */

static struct sockaddr_storage address(unsigned n)
{
	struct sockaddr_storage s = { .ss_family = AF_INET };

	((struct sockaddr_in *)(void *)&s)->sin_addr.s_addr = htonl(0x0a000000 + n);
	return s;
}

static struct lock_owner client_at(struct state *s, unsigned host, uint32_t svid, struct lock_host **h)
{
	struct sockaddr_storage peer = address(host), local = address(99);
	struct lock_owner o;

	ck_assert_int_eq(lockstate_host(s->s, host % 2 ? "odd" : "even", &peer, &local, 3, h), 0);
	ck_assert_int_eq(lockstate_owner(s->s, *h, svid, "o\0h", 3, true, &o), 0);
	return o;
}

static void client_end(struct state *s, struct lock_owner *o, struct lock_host *h)
{
	lock_who_put(o->who);
	lockstate_host_put(s->s, h);
}

/* ---- comparing ---- */

struct lines { char *l[8192]; unsigned n; unsigned self; };

static int add_lock(void *arg, const struct lock_change *c)
{
	struct lines *x = arg;
	char who[400];

	if (!c)
		return 0;
	const struct lock_ident *i = lock_ident_of(&c->o);
	if (i)
		snprintf(who, sizeof who, "%s %02x %u %u", i->host->name, i->host->addr[15], i->svid, i->oh_len);
	else
		snprintf(who, sizeof who, "program %llu of node %u", (unsigned long long)c->o.key, c->o.node ? c->o.node : x->self);
	ck_assert_uint_lt(x->n, ARRAY_LEN(x->l));
	ck_assert_int_gt(asprintf(&x->l[x->n++], "%llu %d %d %llu-%llu %s", (unsigned long long)c->id, c->r.kind, c->r.mode,
				  (unsigned long long)c->r.start, (unsigned long long)c->r.end, who), 0);
	return 0;
}

static void collect(struct state *s, unsigned self, struct lines *x)
{
	uint64_t pos = 0;

	x->n = 0;
	x->self = self;
	do
		ck_assert_int_eq(lock_each(s->locks, &pos, 100, add_lock, x), 0);
	while (pos);
	qsort(x->l, x->n, sizeof x->l[0], cmp_names);
}

static void equal(void)
{
	static struct lines x, y;
	struct lockstate_stats a, b;

	collect(&A, 1, &x);
	collect(&B, 2, &y);
	for (unsigned i = 0; i < x.n && i < y.n; i++)
		ck_assert_str_eq(x.l[i], y.l[i]);
	ck_assert_uint_eq(x.n, y.n);
	lockstate_stats(A.s, &a);
	lockstate_stats(B.s, &b);
	ck_assert_uint_eq(a.shares, b.shares);
	ck_assert_uint_eq(a.hosts, b.hosts);
	ck_assert_uint_eq(a.owners, b.owners);
	ck_assert_uint_eq(b.malformed, 0);
	for (unsigned i = 0; i < x.n; i++) {
		free(x.l[i]);
		free(y.l[i]);
	}
}

/* ---- what threads do ---- */

static uint64_t seed_of(int i)
{
	const char *s = getenv("SEED");
	uint64_t seed = s ? strtoull(s, NULL, 0) : clock_mono_ns() + (uint64_t)i;

	fprintf(stderr, "# SEED=%llu\n", (unsigned long long)seed);
	return seed;
}

static uint32_t rnd(uint64_t *x)
{
	*x = *x * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(*x >> 33);
}

static struct lock_range any_range(uint64_t *x)
{
	uint64_t a = rnd(x) % 60, b = a + rnd(x) % 9;

	return (struct lock_range){ .kind = LOCK_POSIX_RANGE, .mode = rnd(x) % 2 ? LOCK_SHARED : LOCK_EXCLUSIVE, .start = a, .end = rnd(x) % 30 ? b : UINT64_MAX };
}

static void program_step(uint64_t *x)
{
	struct lock_owner o = { .front = ORIGIN_FUSE, .key = 1 + rnd(x) % 3 };
	struct lock_range r = any_range(x);
	uint64_t id = 100 + rnd(x) % OBJECTS;

	if (rnd(x) % 3)
		lock_set(A.locks, id, o, &r);
	else if (rnd(x) % 2)
		lock_clear(A.locks, id, o, &r);
	else
		lock_drop_owner(A.locks, id, o, LOCK_POSIX_RANGE);
}

static void client_step(uint64_t *x)
{
	struct lock_host *h;
	unsigned host = rnd(x) % HOSTS;
	struct lock_owner o = client_at(&A, host, rnd(x) % 3, &h);
	struct lock_range r = any_range(x);
	struct sockaddr_storage peer = address(host);
	struct share s = { .id = 100 + rnd(x) % OBJECTS, .key = o.key, .who = o.who, .access = rnd(x) % 4, .deny = rnd(x) % 2 };

	switch (rnd(x) % 8) {
	case 0: lock_clear(A.locks, s.id, o, &r); break;
	case 1: ck_assert_int_eq(lockstate_share(A.s, &s, false), 0); break;
	case 2: lockstate_share(A.s, &s, true); break;
	case 3:
		if (!(rnd(x) % 16))
			ck_assert_int_ge(lockstate_host_gone(A.s, h->name, &peer, 0), 1);
		break;
	default: lock_set(A.locks, s.id, o, &r);
	}
	client_end(&A, &o, h);
}

static void *actor(void *arg)
{
	uint64_t x = *(uint64_t *)arg;

	for (unsigned i = 0; i < STEPS; i++) {
		if (rnd(&x) % 3)
			client_step(&x);
		else
			program_step(&x);
	}
	return NULL;
}

static void act(pthread_t t[THREADS], uint64_t seeds[THREADS], uint64_t seed)
{
	for (unsigned i = 0; i < THREADS; i++) {
		seeds[i] = seed + i * 7919;
		ck_assert_int_eq(pthread_create(&t[i], NULL, actor, &seeds[i]), 0);
	}
}

START_TEST(the_standby_knows_all)
{
	pthread_t t[THREADS];
	uint64_t seeds[THREADS];

	act(t, seeds, seed_of(_i));
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	ck_assert_int_eq(pair_settle(&p), 0);
	equal();
}
END_TEST

START_TEST(a_snapshot_under_load_is_exact)
{
	pthread_t t[THREADS];
	uint64_t seeds[THREADS];

	act(t, seeds, seed_of(_i));
	while (atomic_load(&p.applied) < STEPS / 2)
		usleep(100);
	for (unsigned i = 0; i < 3; i++) {
		ck_assert_int_eq(replica_snapshot(A.r, PEER), 0);
		usleep(1000);
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	ck_assert_int_eq(pair_settle(&p), 0);
	ck_assert(replica_complete(B.r));
	equal();
}
END_TEST

START_TEST(a_promotion_keeps_clients_locks)
{
	struct lock_range r = { .kind = LOCK_POSIX_RANGE, .mode = LOCK_EXCLUSIVE, .start = 5, .end = 9 };
	struct lock_range whole = { .kind = LOCK_WHOLE, .mode = LOCK_EXCLUSIVE, .end = UINT64_MAX };
	const struct lock_owner program = { .front = ORIGIN_FUSE, .key = 77 };
	struct lock_host *h, *h2;
	struct lock_owner o = client_at(&A, 1, 4, &h), same, other;

	ck_assert_int_eq(lock_set(A.locks, 100, o, &r), 0);
	ck_assert_int_eq(lock_set(A.locks, 101, program, &r), 0);
	ck_assert_int_eq(lock_set(A.locks, 101, program, &whole), 0);
	ck_assert_int_eq(pair_settle(&p), 0);
	/* A program on the standby: what the primary's programs hold is in its way. */
	ck_assert_int_eq(lock_set(B.locks, 101, program, &r), -EAGAIN);
	ck_assert_int_eq(lock_set(B.locks, 102, program, &r), 0);
	ck_assert_uint_eq(lock_count(B.locks), 4);
	lockstate_following(B.s, 1);
	ck_assert_uint_eq(lock_count(B.locks), 4);
	lockstate_promoted(B.s);
	ck_assert_uint_eq(lock_count(B.locks), 2);
	ck_assert_int_eq(lock_set(B.locks, 101, program, &r), 0);
	same = client_at(&B, 1, 4, &h2);
	other = client_at(&B, 1, 5, &h2);
	lockstate_host_put(B.s, h2);
	ck_assert_int_eq(lock_set(B.locks, 100, other, &r), -EAGAIN);
	ck_assert_int_eq(lock_set(B.locks, 100, same, &r), 0);
	ck_assert_int_eq(lock_clear(B.locks, 100, same, &r), 0);
	ck_assert_int_eq(lock_set(B.locks, 100, other, &r), 0);
	lock_who_put(other.who);
	client_end(&B, &same, h2);
	client_end(&A, &o, h);
}
END_TEST

/* A record is received by the sync set before lock_set returns. */
START_TEST(a_grant_waits_for_the_peers)
{
	struct lock_range r = { .kind = LOCK_POSIX_RANGE, .mode = LOCK_EXCLUSIVE, .start = 5, .end = 9 };
	struct lock_host *h;
	struct lock_owner o = client_at(&A, 1, 4, &h);

	pair_unfollow(&p);
	queue_freeze(p.q, true);
	ck_assert_int_eq(lock_set(A.locks, 100, o, &r), -EIO);		/* nobody can say whether they have it */
	ck_assert_int_eq(lock_set(A.locks, 101, (struct lock_owner){ .front = ORIGIN_FUSE, .key = 1 }, &r), 0);
	queue_freeze(p.q, false);
	interpose_set_writable(p.ip, false);
	r.start = 100;
	r.end = 200;
	ck_assert_int_eq(lock_set(A.locks, 100, o, &r), -EROFS);
	ck_assert_int_eq(lockstate_share(A.s, &(struct share){ .id = 100, .key = o.key, .who = o.who }, true), -EROFS);
	client_end(&A, &o, h);
}
END_TEST

/* ---- bounds ---- */

START_TEST(hosts_without_locks_make_room)
{
	struct lock_range r = { .kind = LOCK_POSIX_RANGE, .mode = LOCK_EXCLUSIVE };
	struct state s = { 0 };
	struct lockstate_stats st;

	ck_assert_int_eq(lock_table_new(&s.locks), 0);
	ck_assert_int_eq(lockstate_new(&(struct lockstate_config){ .locks = s.locks, .node = 1 }, &s.s), 0);
	for (unsigned i = 0; i < LOCK_HOSTS_MAX + 50; i++) {
		struct lock_host *h;
		struct lock_owner o = client_at(&s, i, 1, &h);
		r.start = r.end = i;
		ck_assert_int_eq(lock_set(s.locks, 100, o, &r), 0);
		if (i % 2)
			ck_assert_int_eq(lock_clear(s.locks, 100, o, &r), 0);
		client_end(&s, &o, h);
	}
	lockstate_stats(s.s, &st);
	ck_assert_uint_eq(st.hosts, LOCK_HOSTS_MAX);
	ck_assert_uint_eq(st.locks, LOCK_HOSTS_MAX / 2 + 25);
	ck_assert_uint_eq(st.owners, st.locks);
	lockstate_free(s.s);
	lock_table_free(s.locks);
}
END_TEST

/* ---- bytes ---- */

static void encodes(const struct lockrec *r, const char *golden)
{
	struct enc e = { 0 };
	struct lockrec back;

	lockrec_encode(&e, r);
	ck_assert_int_eq(e.err, 0);
	golden_same(e.p, e.len, golden);
	ck_assert_int_eq(lockrec_decode(e.p, e.len, &back), 0);
	for (size_t len = 0; len < e.len; len++)
		ck_assert_int_eq(lockrec_decode(e.p, len, &back), -EBADMSG);
	enc_free(&e);
}

START_TEST(golden_records)
{
	struct lockrec r = { .kind = LOCKREC_LOCK, .set = true, .node = LOCK_NODE_VOLUME, .id = 0x1000000000007, .svid = 17, .oh = "a\0b", .oh_len = 3, .name = "c1",
			     .addr = { [10] = 0xff, 0xff, 10, 0, 0, 1 }, .local = { [10] = 0xff, 0xff, 10, 0, 0, 9 }, .state = 5, .access = 1, .deny = 2,
			     .r = { .kind = LOCK_POSIX_RANGE, .mode = LOCK_EXCLUSIVE, .start = 16, .end = UINT64_MAX, .pid = 17 } };

	encodes(&r, "01 01 01 00 01 ffff 0700000000000100 1000000000000000 ffffffffffffffff 11000000"
		    "11000000 00000000000000000000ffff0a000001 0200 6331 0300 610062");
	r.set = false;
	r.node = 2;
	r.key = 0x4711;
	r.r.end = 31;
	encodes(&r, "01 01 00 00 01 0200 0700000000000100 1000000000000000 1f00000000000000 11000000 1147000000000000");
	r.set = true;
	r.kind = LOCKREC_SHARE;
	encodes(&r, "01 02 01 01 02 0700000000000100 11000000 00000000000000000000ffff0a000001 0200 6331 0300 610062");
	r.kind = LOCKREC_HOST;
	encodes(&r, "01 03 01 00000000000000000000ffff0a000009 05000000 00000000000000000000ffff0a000001 0200 6331");
}
END_TEST

START_TEST(records_that_lie)
{
	unsigned char good[] = { 1, 1, 0, 0, 1, 2, 0, 7, 0, 0, 0, 0, 0, 1, 0, 16, 0, 0, 0, 0, 0, 0, 0, 31, 0, 0, 0, 0, 0, 0, 0, 17, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0 };
	static const struct { unsigned at; unsigned char v; } bad[] = {
		{ 0, 2 }, { 1, 0 }, { 1, 4 }, { 2, 2 }, { 3, 2 }, { 3, 1 /* flock of a range */ }, { 4, 2 }, { 5, 0 }, { 5, 16 }, { 23, 15 /* ends before it begins */ },
	};
	struct lockrec r;

	ck_assert_int_eq(lockrec_decode(good, sizeof good, &r), 0);
	for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
		unsigned char was = good[bad[i].at];
		good[bad[i].at] = bad[i].v;
		ck_assert_msg(lockrec_decode(good, sizeof good, &r) == -EBADMSG, "byte %u", bad[i].at);
		good[bad[i].at] = was;
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("lockstate");
	TCase *pure = tcase_create("records"), *t = tcase_create("pair");
	SRunner *sr = srunner_create(s);

	tcase_add_test(pure, golden_records);
	tcase_add_test(pure, records_that_lie);
	tcase_add_test(pure, hosts_without_locks_make_room);
	tcase_set_timeout(pure, 120);
	suite_add_tcase(s, pure);
	if (geteuid()) {
		fprintf(stderr, "# SKIPPED: the pair: needs root\n");
	} else {
		tcase_add_unchecked_fixture(t, pair_mount, pair_unmount);
		tcase_add_checked_fixture(t, setup, teardown);
		tcase_set_timeout(t, 120);
		tcase_add_loop_test(t, the_standby_knows_all, 0, 3);
		tcase_add_loop_test(t, a_snapshot_under_load_is_exact, 0, 5);
		tcase_add_test(t, a_promotion_keeps_clients_locks);
		tcase_add_test(t, a_grant_waits_for_the_peers);
		suite_add_tcase(s, t);
	}
	srunner_run_all(sr, CK_ENV);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? 1 : 0;
}
