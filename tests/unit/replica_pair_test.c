/*
 * The NFS server's state in the stream, over a pair: an answer is on the standby exactly when its op is, wherever the stream is cut; a snapshot taken while records
 * come loses nothing and brings nothing back. SEED=n repeats one run.
 */
#include <arpa/inet.h>

#include "nfsd-glue/clients.h"
#include "nfsd-glue/replica.h"
#include "pair.h"

enum { TOYS = 64, THREADS = 4 };

/* A part like the lock table: set and cleared, records under the mutex that guards it. */
struct toys { pthread_mutex_t mu; unsigned char set[TOYS]; };

/* One node's state. */
struct state { struct replay *replay; struct replica *r; struct clients *clients; struct toys toys; };

static struct pair p;
static struct state A, B;

/* ---- the toy ---- */

static int toy_apply(void *arg, const void *data, size_t len, bool merge)
{
	struct toys *t = arg;
	const unsigned char *d = data;

	(void)merge;
	if (len != 2 || d[0] >= TOYS || d[1] > 1)
		return -EBADMSG;
	auto_lock(&t->mu);
	t->set[d[0]] = d[1];
	return 0;
}

static void toy_clear(void *arg)
{
	struct toys *t = arg;
	auto_lock(&t->mu);
	memset(t->set, 0, sizeof t->set);
}

static _Atomic bool known, listed;	/* a slow change has its answer; a snapshot has read the answers */

static int toy_each(void *arg, struct replica_out *out)
{
	struct toys *t = arg;
	atomic_store(&listed, true);
	auto_lock(&t->mu);
	int err = 0;

	for (unsigned char i = 0; i < TOYS && !err; i++)
		if (t->set[i])
			err = replica_put(out, (unsigned char[]){ i, 1 }, 2);
	return err ? err : replica_flush(out);
}

/* As a lock is taken or released. */
static void toy_turn(unsigned char i)
{
	uint64_t seq;

	if (interpose_attach_begin(p.ip, 2))
		return;
	pthread_mutex_lock(&A.toys.mu);
	A.toys.set[i] = !A.toys.set[i];
	ck_assert_int_eq(interpose_attach_emit(p.ip, REPLICA_LOCK, (unsigned char[]){ i, A.toys.set[i] }, 2, 0xffff, &seq), 0);
	pthread_mutex_unlock(&A.toys.mu);
	interpose_attach_end(p.ip);
}

/* ---- both nodes ---- */

static int emit_client(void *arg, const void *data, size_t len)
{
	(void)arg;
	if (clock_mono_ns() & 64)
		usleep(300);		/* a snapshot could overtake it, were it not for the order */
	return interpose_attach(p.ip, REPLICA_CLIENT, data, (uint32_t)len, false, &(uint64_t){ 0 });
}
static int emit_nothing(void *arg, const void *data, size_t len)
{
	(void)arg, (void)data, (void)len;
	return -EROFS;
}

static void state_start(struct state *s, bool primary)
{
	const struct clients_config cc = { .emit = primary ? emit_client : emit_nothing };
	struct replica_part part, toy = { .apply = toy_apply, .clear = toy_clear, .each = toy_each, .arg = &s->toys };

	memset(&s->toys, 0, sizeof s->toys);
	pthread_mutex_init(&s->toys.mu, NULL);
	ck_assert_int_eq(replay_new(0, &s->replay), 0);
	const struct replica_config rc = { .ip = primary ? p.ip : NULL, .queue = p.q, .replay = s->replay };
	ck_assert_int_eq(replica_new(&rc, &s->r), 0);
	ck_assert_int_eq(clients_new(&cc, &s->clients), 0);
	clients_part(s->clients, &part);
	replica_register(s->r, REPLICA_CLIENT, &part);
	replica_register(s->r, REPLICA_LOCK, &toy);
}

static void state_stop(struct state *s)
{
	clients_free(s->clients);
	replica_free(s->r);
	replay_free(s->replay);
	pthread_mutex_destroy(&s->toys.mu);
}

/* A standby's daemon that was started anew: nothing of the state is there, and nothing comes yet. */
static void restart_standby(void)
{
	pair_unfollow(&p);
	state_stop(&B);
	apply_free(p.ap);
	const struct apply_config ac = { .local = p.b.local, .bottom = p.b.local, .locks = p.b.locks, .handles = p.b.h, .observers = &p.ob,
					 .barrier_done = pair_barrier_done, .report = pair_report, .arg = &p };
	ck_assert_int_eq(apply_new(&ac, &p.ap), 0);
	state_start(&B, false);
	replica_follow(B.r, p.ap);
}

/* From here on, wherever that is while others append. */
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
	state_start(&A, true);
	state_start(&B, false);
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

/* ---- calls ---- */

static struct sockaddr_storage host(unsigned n, unsigned port)
{
	struct sockaddr_storage s = { .ss_family = AF_INET };

	((struct sockaddr_in *)(void *)&s)->sin_addr.s_addr = htonl(0x0a000000 + n);
	((struct sockaddr_in *)(void *)&s)->sin_port = htons((uint16_t)port);
	return s;
}

static struct replay_key key(uint32_t xid)
{
	struct sockaddr_storage peer = host(xid % 3, 700);
	struct replay_key k;

	replay_key_init(&k, &peer, xid, 100003, 3, 8, 0, 0, &xid, sizeof xid);
	return k;
}

static bool has_answer(struct state *s, uint32_t xid)
{
	unsigned char out[REPLAY_REPLY_MAX];
	struct replay_key k = key(xid);
	size_t len;
	enum replay_verdict v = replay_begin(s->replay, &k, out, &len);

	if (v == REPLAY_NEW)
		replay_forget(s->replay, &k);
	else
		ck_assert(v == REPLAY_DONE && len == sizeof xid && !memcmp(out, &xid, sizeof xid));
	return v == REPLAY_DONE;
}

struct request { struct replay_key k; uint32_t xid; bool lazy; unsigned char record[REPLICA_REPLY_RECORD_MAX]; };

static void after(struct call *c, ssize_t r, const struct effect *e)
{
	struct request *q = c->hook_arg;

	(void)r, (void)e;
	replica_reply_attach(A.r, c, &q->k, &q->xid, sizeof q->xid, q->lazy, q->record);
}

/* Creates the file XID, once; the answer rides on the op. A second file of that name fails: the answer goes alone. */
static void create(uint32_t xid, uint32_t name)
{
	unsigned char out[REPLAY_REPLY_MAX];
	struct request q = { .k = key(xid), .xid = xid, .lazy = xid % 2 };
	struct create cr = { .mode = S_IFREG | 0644 };
	struct call c = user();
	struct attr a;
	char s[32];
	size_t len;

	if (replay_begin(A.replay, &q.k, out, &len) != REPLAY_NEW)
		return;
	snprintf(s, sizeof s, "f%u", name);
	c.after = after;
	c.hook_arg = &q;
	int r = p.top->ops->create(p.top, &c, HANDLE_ROOT, s, &cr, 0, &a, NULL);
	ck_assert(!r || r == -EEXIST);
	replay_sent(A.replay, &q.k);
}

static void answer_alone(uint32_t xid)
{
	unsigned char out[REPLAY_REPLY_MAX];
	struct replay_key k = key(xid);
	size_t len;

	if (replay_begin(A.replay, &k, out, &len) != REPLAY_NEW)
		return;
	ck_assert_int_eq(replica_reply_alone(A.r, &k, &xid, sizeof xid, xid % 2), 0);
	replay_sent(A.replay, &k);
}

/* ---- prefix ---- */

enum { FILES = 1500 };
static _Atomic bool running;
static _Atomic uint32_t next_xid;

static void *create_files(void *arg)
{
	(void)arg;
	for (uint32_t x; (x = atomic_fetch_add(&next_xid, 1)) < FILES;)
		create(x, x);
	return NULL;
}

/* The stream is cut anywhere: op applied <=> answer there. */
START_TEST(an_answer_is_there_exactly_when_its_op_is)
{
	uint64_t x = seed_of(_i);
	uint64_t cut = rnd(&x) % FILES;
	pthread_t t[THREADS];
	unsigned there = 0;

	atomic_store(&next_xid, 0);
	for (unsigned i = 0; i < THREADS; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, create_files, NULL), 0);
	while (atomic_load(&p.applied) < cut)
		usleep(50);
	pair_unfollow(&p);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	ck_assert_int_eq(atomic_load(&p.apply_err), 0);
	for (uint32_t i = 0; i < FILES; i++) {
		struct call c = user();
		struct attr a;
		char name[32];
		snprintf(name, sizeof name, "f%u", i);
		bool made = !p.b.local->ops->lookup(p.b.local, &c, HANDLE_ROOT, name, &a);
		ck_assert_msg(made == has_answer(&B, i), "file %u", i);
		ck_assert(has_answer(&A, i));
		there += made;
	}
	ck_assert_uint_ge(there, cut ? cut - 1 : 0);	/* the first op opens the epoch */
}
END_TEST

/* Failures are answers, too: they don't become successes when they are sent again. */
START_TEST(a_failure_is_streamed_alone)
{
	create(1, 1);
	create(2, 1);
	ck_assert_int_eq(pair_settle(&p), 0);
	ck_assert(has_answer(&B, 1) && has_answer(&B, 2));
	answer_alone(3);
	ck_assert(has_answer(&A, 3));
	ck_assert_int_eq(pair_settle(&p), 0);
	ck_assert(has_answer(&B, 3));
	interpose_set_writable(p.ip, false);
	struct replay_key k = key(4);
	unsigned char out[REPLAY_REPLY_MAX];
	size_t len;
	ck_assert_int_eq(replay_begin(A.replay, &k, out, &len), REPLAY_NEW);
	ck_assert_int_eq(replica_reply_alone(A.r, &k, "x", 1, false), -EROFS);
	ck_assert(!has_answer(&A, 4));
}
END_TEST

/* What can't be applied exactly while a comparison runs brings its answer all the same. */
START_TEST(tolerant_standbys_take_answers)
{
	apply_set_tolerant(p.ap, true);
	struct call c = { .origin = ORIGIN_INTERNAL };
	struct create cr = { .mode = S_IFDIR | 0755, .exact = true };
	struct attr a;
	ck_assert_int_eq(p.b.local->ops->create(p.b.local, &c, HANDLE_ROOT, "f7", &cr, 0, &a, NULL), 0);
	create(7, 7);
	ck_assert_int_eq(pair_settle(&p), 0);
	ck_assert_uint_gt(atomic_load(&p.nreports), 0);
	ck_assert(has_answer(&B, 7));
}
END_TEST

/* ---- snapshots ---- */

static _Atomic uint32_t xids;

static void connection(uint64_t *x, bool open[64])
{
	unsigned n = rnd(x) % 64;
	struct sockaddr_storage peer = host(n, 700 + n), local = host(99, 2049);
	char name[16];

	snprintf(name, sizeof name, "/%u", n);
	if (!open[n])
		clients_connected(A.clients, &peer, &local);
	else
		clients_disconnected(A.clients, &peer, &local);
	open[n] = !open[n];
	if (rnd(x) % 2)
		clients_mounted(A.clients, &peer, name);
	else
		clients_unmounted(A.clients, &peer, rnd(x) % 2 ? name : NULL);
	if (rnd(x) % 4 == 0)
		clients_flush(A.clients);
}

static void *change(void *arg)
{
	uint64_t x = (uint64_t)(uintptr_t)arg;
	bool open[64] = { false }, talks = x % THREADS == 0;

	while (atomic_load(&running))
		switch (rnd(&x) % 3) {
		case 0: answer_alone(atomic_fetch_add(&xids, 1)); break;
		case 1: toy_turn((unsigned char)(rnd(&x) % TOYS)); break;
		default:
			if (talks)
				connection(&x, open);
		}
	return NULL;
}

struct list { unsigned n; char line[1024][80]; };

static void list_text(void *arg, const struct client_addr *peer, const char *text)
{
	struct list *l = arg;
	snprintf(l->line[l->n++], sizeof l->line[0], "%u %u %.50s", peer->addr[15], peer->port, text);
}

static void list_conn(void *arg, const struct client_conn *c)
{
	struct list *l = arg;
	snprintf(l->line[l->n++], sizeof l->line[0], "%u %u %u %u", c->peer.addr[15], c->peer.port, c->local.addr[15], c->local.port);
}

static int cmp_line(const void *a, const void *b) { return strcmp(a, b); }

static void same_lists(struct list *x, struct list *y, const char *what)
{
	qsort(x->line, x->n, sizeof x->line[0], cmp_line);
	qsort(y->line, y->n, sizeof y->line[0], cmp_line);
	ck_assert_msg(x->n == y->n, "%s: %u and %u", what, x->n, y->n);
	for (unsigned i = 0; i < x->n; i++)
		ck_assert_str_eq(x->line[i], y->line[i]);
}

static void same_clients(void)
{
	static struct list x[2], y[2];

	memset(x, 0, sizeof x);
	memset(y, 0, sizeof y);
	clients_each(A.clients, list_conn, &x[0]);
	clients_each(B.clients, list_conn, &y[0]);
	clients_each_mount(A.clients, list_text, &x[1]);
	clients_each_mount(B.clients, list_text, &y[1]);
	same_lists(&x[0], &y[0], "connections");
	same_lists(&x[1], &y[1], "mounts");
}

static void same_state(uint32_t answers)
{
	clients_flush(A.clients);
	ck_assert_int_eq(pair_settle(&p), 0);
	ck_assert_mem_eq(A.toys.set, B.toys.set, TOYS);
	same_clients();
	for (uint32_t i = 0; i < answers; i++)
		ck_assert_msg(has_answer(&A, i) == has_answer(&B, i), "answer %u", i);
	struct replica_stats s;
	replica_stats(B.r, &s);
	ck_assert_uint_eq(s.malformed, 0);
}

/* The standby's daemon is started anew, again and again, at any moment. Here it meets no tree of its own to compare: all ops are records. */
START_TEST(a_snapshot_loses_nothing_and_brings_nothing_back)
{
	uint64_t x = seed_of(_i);
	pthread_t t[THREADS];

	atomic_store(&xids, 0);
	for (unsigned round = 0; round < 6; round++) {
		atomic_store(&running, true);
		for (uintptr_t i = 0; i < THREADS; i++)
			ck_assert_int_eq(pthread_create(&t[i], NULL, change, (void *)(uintptr_t)(rnd(&x) / THREADS * THREADS + i)), 0);
		usleep(rnd(&x) % 20000);
		restart_standby();
		ck_assert(!replica_complete(B.r));
		follow_now();
		if (rnd(&x) % 2)
			usleep(rnd(&x) % 5000);
		ck_assert_int_eq(replica_snapshot(A.r, PEER), 0);
		usleep(rnd(&x) % 5000);
		atomic_store(&running, false);
		for (unsigned i = 0; i < THREADS; i++)
			pthread_join(t[i], NULL);
		same_state(atomic_load(&xids));
		ck_assert(replica_complete(B.r));
	}
}
END_TEST

/* Larger than the queue: it waits for room, and the peer keeps up. */
START_TEST(a_snapshot_that_is_larger_than_the_queue)
{
	char big[REPLAY_REPLY_MAX];

	memset(big, 'b', sizeof big);
	for (uint32_t i = 0; i < 12000; i++) {
		struct replay_key k = key(i);
		replay_apply(A.replay, &k, big, sizeof big);
	}
	restart_standby();
	follow_now();
	ck_assert_int_eq(replica_snapshot(A.r, PEER), 0);
	ck_assert_int_eq(pair_settle(&p), 0);
	struct replay_stats a, b;
	replay_stats(A.replay, &a);
	replay_stats(B.replay, &b);
	ck_assert_uint_eq(a.entries, b.entries);
	ck_assert_uint_eq(a.bytes, b.bytes);
	ck_assert_uint_gt(a.bytes, 16 << 20);
	ck_assert(replica_complete(B.r));
}
END_TEST

/* A node that is asked for its state gives what it was given. */
static int hand_on(void *to, const void *data, size_t len) { return replica_take(to, data, len); }

static void after_slowly(struct call *c, ssize_t r, const struct effect *e)
{
	after(c, r, e);
	atomic_store(&known, true);
	for (int i = 0; i < 10000 && !atomic_load(&listed); i++)
		usleep(1000);
	usleep(20000);
}

static void *change_slowly(void *seq)
{
	struct request q = { .k = key(1), .xid = 1 };
	struct create cr = { .mode = S_IFREG | 0644 };
	struct call c = user();
	struct attr a;

	c.after = after_slowly;
	c.hook_arg = &q;
	ck_assert_int_eq(p.top->ops->create(p.top, &c, HANDLE_ROOT, "slow", &cr, 0, &a, NULL), 0);
	*(uint64_t *)seq = c.seq;
	return NULL;
}

/* Else a peer could be promoted that says of a change that it is made, and hasn't got it. */
START_TEST(an_answer_in_a_snapshot_has_its_op_before_the_end)
{
	unsigned char out[REPLAY_REPLY_MAX];
	struct replay_key k = key(1);
	uint64_t seq = 0;
	pthread_t t;
	size_t len;

	ck_assert_int_eq(replay_begin(A.replay, &k, out, &len), REPLAY_NEW);
	atomic_store(&known, false);
	ck_assert_int_eq(pthread_create(&t, NULL, change_slowly, &seq), 0);
	while (!atomic_load(&known))
		sched_yield();
	atomic_store(&listed, false);
	ck_assert_int_eq(replica_snapshot(A.r, PEER), 0);
	uint64_t end = queue_last(p.q);
	pthread_join(t, NULL);
	ck_assert_uint_lt(seq, end);
	replay_sent(A.replay, &k);
	ck_assert_int_eq(pair_settle(&p), 0);
	ck_assert(has_answer(&B, 1));
}
END_TEST

START_TEST(a_restarted_primary_takes_it_back)
{
	for (uint32_t i = 0; i < 500; i++)
		answer_alone(i);
	toy_turn(3);
	ck_assert_int_eq(pair_settle(&p), 0);
	struct state again;
	state_start(&again, false);
	ck_assert_int_eq(replica_give(B.r, hand_on, again.r), 0);
	ck_assert(replica_complete(again.r));
	for (uint32_t i = 0; i < 500; i++)
		ck_assert(has_answer(&again, i));
	ck_assert_mem_eq(A.toys.set, again.toys.set, TOYS);
	state_stop(&again);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("replica_pair");
	TCase *t = tcase_create("replica_pair");

	log_init("replica_pair_test", LOG_SINK_STDERR, LOG_LVL_ERROR);
	tcase_add_unchecked_fixture(t, pair_mount, pair_unmount);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, an_answer_is_there_exactly_when_its_op_is, 0, 4);
	tcase_add_test(t, a_failure_is_streamed_alone);
	tcase_add_test(t, tolerant_standbys_take_answers);
	tcase_add_loop_test(t, a_snapshot_loses_nothing_and_brings_nothing_back, 0, 6);
	tcase_add_test(t, a_snapshot_that_is_larger_than_the_queue);
	tcase_add_test(t, an_answer_in_a_snapshot_has_its_op_before_the_end);
	tcase_add_test(t, a_restarted_primary_takes_it_back);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
