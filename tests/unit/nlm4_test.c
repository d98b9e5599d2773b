/* NLM version 4: every procedure, its bytes, requests that wait and what may go wrong while they do, roles and grace. */
#include "nlm_env.h"

#define OWNER(n) .svid = (n), .oh = (n) == 1 ? "one" : (n) == 2 ? "two" : "three"

/* ---- bytes ---- */

static size_t unhex(const char *hex, unsigned char *out)
{
	size_t n = 0;
	unsigned v;

	for (; *hex; hex++)
		if (*hex != ' ') {
			ck_assert_int_eq(sscanf(hex, "%2x", &v), 1);
			out[n++] = (unsigned char)v;
			hex++;
		}
	return n;
}

static void is_hex(const unsigned char *p, size_t len, const char *hex)
{
	unsigned char want[4096];
	size_t n = unhex(hex, want);

	ck_assert_uint_eq(len, n);
	ck_assert_mem_eq(p, want, n);
}

static int decode(uint32_t proc, const char *hex, struct nlm4_args *a)
{
	static unsigned char buf[4096];

	return nlm4_args_decode(proc, buf, unhex(hex, buf), a);
}

#define COOKIE "00000004 deadbeef "
#define CALLER "00000002 63310000 "
#define FH     "00000003 01020300 "
#define OH     "00000005 61006200 63000000 "
#define SVID   "00000011 "
#define RANGE  "ffffffff fffffff0 00000000 00000010 "

START_TEST(golden_arguments)
{
	struct nlm4_args a;
	struct lock_range r;

	ck_assert_int_eq(decode(NLM4_LOCK, COOKIE "00000001 00000001 " CALLER FH OH SVID RANGE "00000001 80000001", &a), 0);
	ck_assert(a.block && a.exclusive && a.reclaim && a.state == INT32_MIN + 1);
	ck_assert_mem_eq(a.cookie.p, "\xde\xad\xbe\xef", 4);
	ck_assert_mem_eq(a.caller.p, "c1", 2);
	ck_assert(a.fh.len == 3 && a.oh.len == 5 && !memcmp(a.oh.p, "a\0b\0c", 5) && a.svid == 17);
	ck_assert_int_eq(nlm4_range(&a, &r), 0);
	ck_assert(r.start == UINT64_MAX - 15 && r.end == UINT64_MAX && r.mode == LOCK_EXCLUSIVE);
	ck_assert_int_eq(decode(NLM4_CANCEL, COOKIE "00000000 00000001 " CALLER FH OH SVID RANGE, &a), 0);
	ck_assert(!a.block && a.exclusive);
	ck_assert_int_eq(decode(NLM4_TEST, COOKIE "00000000 " CALLER FH OH SVID RANGE, &a), 0);
	ck_assert_int_eq(decode(NLM4_GRANTED_MSG, COOKIE "00000000 " CALLER FH OH SVID RANGE, &a), 0);
	ck_assert_int_eq(decode(NLM4_UNLOCK, COOKIE CALLER FH OH SVID RANGE, &a), 0);
	ck_assert_int_eq(decode(NLM4_SHARE, COOKIE CALLER FH OH "00000002 00000003 00000001", &a), 0);
	ck_assert(a.mode == 2 && a.access == 3 && a.reclaim);
	ck_assert_int_eq(decode(NLM4_FREE_ALL, CALLER "00000005", &a), 0);
	ck_assert(a.caller.len == 2 && a.state == 5);
}
END_TEST

START_TEST(arguments_that_lie)
{
	struct nlm4_args a;

	ck_assert_int_eq(decode(NLM4_UNLOCK, COOKIE CALLER FH OH SVID RANGE "00", &a), -EBADMSG);
	ck_assert_int_eq(decode(NLM4_UNLOCK, COOKIE CALLER FH OH SVID "ffffffff fffffff0 00000000 000000", &a), -EBADMSG);
	ck_assert_int_eq(decode(NLM4_UNLOCK, "00000401 00000000", &a), -EBADMSG);
	ck_assert_int_eq(decode(NLM4_UNLOCK, "ffffffff 00000000", &a), -EBADMSG);
	ck_assert_int_eq(decode(NLM4_UNLOCK, "7ffffffd 00000000", &a), -EBADMSG);
	ck_assert_int_eq(decode(NLM4_UNLOCK, "", &a), -EBADMSG);
	ck_assert_int_eq(decode(NLM4_LOCK, COOKIE "00000002 00000001 " CALLER FH OH SVID RANGE "00000001 80000001", &a), -EBADMSG);
	ck_assert_int_eq(decode(NLM4_SHARE, COOKIE CALLER FH OH "00000004 00000003 00000001", &a), -EBADMSG);
	ck_assert_int_eq(decode(NLM4_SHARE, COOKIE CALLER FH OH "00000003 00000004 00000001", &a), -EBADMSG);
	ck_assert_int_eq(decode(NLM4_NULL, "", &a), -EBADMSG);
	ck_assert_int_eq(decode(17, COOKIE, &a), -EBADMSG);
}
END_TEST

START_TEST(golden_answers)
{
	unsigned char buf[4096], cookie[] = { 0xde, 0xad, 0xbe, 0xef };
	const struct nlm4_bytes k = { cookie, 4 };
	const struct nlm4_holder h = { true, 17, { (const unsigned char *)"a\0b\0c", 5 }, 3, 0 };
	struct xdr_out x = xdr_out(buf, sizeof buf);

	nlm4_stat_encode(&x, k, NLM4_BLOCKED);
	is_hex(buf, x.len, COOKIE "00000003");
	x = xdr_out(buf, sizeof buf);
	nlm4_test_encode(&x, k, NLM4_GRANTED, NULL);
	is_hex(buf, x.len, COOKIE "00000000");
	x = xdr_out(buf, sizeof buf);
	nlm4_test_encode(&x, k, NLM4_DENIED, &h);
	is_hex(buf, x.len, COOKIE "00000001 00000001 " SVID OH "00000000 00000003 00000000 00000000");
	x = xdr_out(buf, sizeof buf);
	nlm4_share_encode(&x, k, NLM4_DENIED);
	is_hex(buf, x.len, COOKIE "00000001 00000000");
	x = xdr_out(buf, sizeof buf);
	const struct nlm4_args a = { .exclusive = true, .caller = { (const unsigned char *)"c1", 2 }, .fh = { (const unsigned char *)"\1\2\3", 3 },
				     .oh = h.oh, .svid = 17, .offset = UINT64_MAX - 15, .len = 16 };
	nlm4_granted_encode(&x, k, &a);
	is_hex(buf, x.len, COOKIE "00000001 " CALLER FH OH SVID RANGE);
}
END_TEST

START_TEST(golden_answers_of_the_program)
{
	ck_assert_uint_eq(LOCK(OWNER(1), .off = 10, .len = 5), NLM4_GRANTED);
	is_hex(reply.p, reply.len, "00000006 636f6f6b69650000 00000000");
	ck_assert_uint_eq(TEST_LOCK(OWNER(2), .off = 14), NLM4_DENIED);
	is_hex(reply.p, reply.len, "00000006 636f6f6b69650000 00000001 00000001 00000001 00000003 6f6e6500 00000000 0000000a 00000000 00000005");
	ck_assert_uint_eq(TEST_LOCK(OWNER(2), .off = 15), NLM4_GRANTED);
	is_hex(reply.p, reply.len, "00000006 636f6f6b69650000 00000000");
	ck_assert_uint_eq(SHARE(OWNER(2), .mode = 1, .access = 1), NLM4_GRANTED);
	is_hex(reply.p, reply.len, "00000006 636f6f6b69650000 00000000 00000000");
	ck_assert_int_eq(call_from("127.0.0.1", &program[0], NLM4_NULL, "", 0), RPC_REPLY);
	ck_assert_uint_eq(reply.len, 0);
	ck_assert_int_eq(call_from("127.0.0.1", &program[0], NLM4_NULL, "xxxx", 4), RPC_GARBAGE_ARGS);
	for (uint32_t proc = NLM4_TEST; proc < NLM4_PROCS; proc++)
		ck_assert_int_eq(call_from("127.0.0.1", &program[0], proc, "xxxx", 4), proc > 15 && proc < 20 ? RPC_PROC_UNAVAIL : RPC_GARBAGE_ARGS);
}
END_TEST

/* ---- locks ---- */

START_TEST(locks_exclude_and_are_released)
{
	ck_assert_uint_eq(LOCK(OWNER(1), .len = 10), NLM4_GRANTED);
	ck_assert_uint_eq(LOCK(OWNER(1), .len = 10), NLM4_GRANTED);		/* it has it */
	ck_assert_uint_eq(LOCK(OWNER(2), .off = 9), NLM4_DENIED);
	ck_assert_uint_eq(LOCK(OWNER(2), .off = 9, .file = FILE_B), NLM4_GRANTED);
	ck_assert_uint_eq(UNLOCK(OWNER(2)), NLM4_GRANTED);			/* not its own: nothing happens */
	ck_assert_uint_eq(LOCK(OWNER(2), .off = 9), NLM4_DENIED);
	ck_assert_uint_eq(UNLOCK(OWNER(1), .off = 5, .len = 5), NLM4_GRANTED);
	ck_assert_uint_eq(LOCK(OWNER(2), .off = 5), NLM4_GRANTED);
	ck_assert_uint_eq(LOCK(OWNER(2), .off = 4), NLM4_DENIED);
	ck_assert_uint_eq(LOCK(OWNER(3), .shared = true, .file = FILE_B, .len = 9), NLM4_GRANTED);
}
END_TEST

START_TEST(an_owner_is_host_svid_and_name)
{
	ck_assert_uint_eq(LOCK(.svid = 1, .oh = "x"), NLM4_GRANTED);
	ck_assert_uint_eq(LOCK(.svid = 2, .oh = "x"), NLM4_DENIED);
	ck_assert_uint_eq(LOCK(.svid = 1, .oh = "y"), NLM4_DENIED);
	ck_assert_uint_eq(LOCK(.svid = 1, .oh = "x", .name = "other"), NLM4_DENIED);
	ck_assert_uint_eq(LOCK(.svid = 1, .oh = "x", .from = "10.0.0.1"), NLM4_DENIED);	/* a stranger that calls itself the same */
	ck_assert_uint_eq(UNLOCK(.svid = 1, .oh = "x", .from = "10.0.0.1"), NLM4_GRANTED);
	ck_assert_uint_eq(LOCK(.svid = 2, .oh = "x"), NLM4_DENIED);
	ck_assert_uint_eq(stats().state.owners, 1);
	ck_assert_uint_eq(UNLOCK(.svid = 1, .oh = "x"), NLM4_GRANTED);
	ck_assert_uint_eq(stats().state.owners, 0);
	ck_assert_uint_eq(stats().state.locks, 0);
}
END_TEST

START_TEST(ranges_have_64_bits)
{
	ck_assert_uint_eq(LOCK(OWNER(1), .off = UINT64_MAX, .len = 1), NLM4_GRANTED);
	ck_assert_uint_eq(LOCK(OWNER(2), .off = UINT64_MAX, .len = 2), NLM4_FBIG);
	ck_assert_uint_eq(LOCK(OWNER(2), .off = 1, .len = UINT64_MAX), NLM4_DENIED);
	ck_assert_uint_eq(LOCK(OWNER(2), .off = 2, .len = UINT64_MAX), NLM4_FBIG);
	ck_assert_uint_eq(LOCK(OWNER(2), .off = 0, .len = UINT64_MAX), NLM4_GRANTED);
	ck_assert_uint_eq(TEST_LOCK(OWNER(3), .off = INT64_MAX), NLM4_DENIED);
	ck_assert_uint_eq(UNLOCK(OWNER(2), .off = 5, .len = UINT64_MAX), NLM4_FBIG);
}
END_TEST

START_TEST(what_may_not_be_locked)
{
	ck_assert_uint_eq(LOCK(OWNER(1), .file = FILE_DIR), NLM4_FAILED);
	ck_assert_uint_eq(LOCK(OWNER(1), .file = FILE_GONE), NLM4_STALE_FH);
	ck_assert_uint_eq(UNLOCK(OWNER(1), .file = FILE_GONE), NLM4_GRANTED);
	ck_assert_uint_eq(LOCK(OWNER(1), .from = "192.0.2.1"), NLM4_FAILED);	/* nothing is exported to it */
	ck_assert_uint_eq(LOCK(OWNER(1), .name = ""), NLM4_FAILED);
	ck_assert_uint_eq(stats().state.hosts, 0);
}
END_TEST

START_TEST(the_mount_and_nfs_see_each_other)
{
	const struct lock_owner me = { .front = ORIGIN_FUSE, .key = 5 };
	struct lock_range r = { .kind = LOCK_POSIX_RANGE, .mode = LOCK_EXCLUSIVE, .start = 3, .end = 7, .pid = 4711 }, f;

	ck_assert_int_eq(lock_set(locks, ID + FILE_A, me, &r), 0);
	ck_assert_uint_eq(LOCK(OWNER(1), .len = 4), NLM4_DENIED);
	ck_assert_uint_eq(TEST_LOCK(OWNER(1)), NLM4_DENIED);
	is_hex(reply.p, reply.len, "00000006 636f6f6b69650000 00000001 00000001 00001267 00000000 00000000 00000003 00000000 00000005");
	ck_assert_uint_eq(LOCK(OWNER(1), .len = 3), NLM4_GRANTED);
	r.start = 2;
	ck_assert_int_eq(lock_set(locks, ID + FILE_A, me, &r), -EAGAIN);
	ck_assert_int_eq(lock_test(locks, ID + FILE_A, me, &r, &f, NULL), 0);
	ck_assert_uint_eq(f.end, 2);
	ck_assert_uint_eq(LOCK(OWNER(2), .off = 7, .len = 1, .block = true), NLM4_BLOCKED);
	lock_drop_owner(locks, ID + FILE_A, me, LOCK_POSIX_RANGE);		/* the program closes the file */
	host_wait(&host.calls, 1);
	ck_assert_uint_eq(host.last.svid, 2);
}
END_TEST

/* ---- waiting ---- */

/* Owner 1 holds all of FILE_A, owner 2 waits for it. */
static void one_holds_two_waits(void)
{
	ck_assert_uint_eq(LOCK(OWNER(1)), NLM4_GRANTED);
	ck_assert_uint_eq(LOCK(OWNER(2), .off = 3, .len = 4, .block = true), NLM4_BLOCKED);
}

START_TEST(who_waits_is_called)
{
	one_holds_two_waits();
	ck_assert_uint_eq(UNLOCK(OWNER(1)), NLM4_GRANTED);
	host_wait(&host.calls, 1);
	pthread_mutex_lock(&host.mu);
	ck_assert(host.last.svid == 2 && host.last.exclusive && host.last.offset == 3 && host.last.len == 4);
	ck_assert_mem_eq(host.last.caller.p, "client", 6);
	ck_assert_mem_eq(host.last.oh.p, "two", 3);
	ck_assert_uint_eq(host.last.fh.len, WIREFH_SIZE);
	pthread_mutex_unlock(&host.mu);
	EVENTUALLY(!stats().nlm.blocks);
	ck_assert_uint_eq(LOCK(OWNER(1), .off = 3), NLM4_DENIED);
	ck_assert_uint_eq(host_count(&host.calls), 1);
}
END_TEST

START_TEST(lost_answers_are_asked_for_again)
{
	host.ignore = 3;
	one_holds_two_waits();
	ck_assert_uint_eq(UNLOCK(OWNER(1)), NLM4_GRANTED);
	host_wait(&host.calls, 4);
	EVENTUALLY(!stats().nlm.blocks);
	ck_assert_uint_eq(LOCK(OWNER(1), .off = 3), NLM4_DENIED);
}
END_TEST

/* The client took it; the answer was lost; it has forgotten that it waited. The lock is its. */
START_TEST(a_denial_after_a_lost_answer_frees_nothing)
{
	host.ignore = 1;
	host.answer = NLM4_DENIED;
	one_holds_two_waits();
	ck_assert_uint_eq(UNLOCK(OWNER(1)), NLM4_GRANTED);
	host_wait(&host.calls, 2);
	EVENTUALLY(!stats().nlm.blocks);
	ck_assert_uint_eq(LOCK(OWNER(1), .off = 3), NLM4_DENIED);
}
END_TEST

START_TEST(who_refuses_gets_nothing)
{
	host.answer = NLM4_DENIED;
	one_holds_two_waits();
	ck_assert_uint_eq(UNLOCK(OWNER(1)), NLM4_GRANTED);
	host_wait(&host.calls, 1);
	EVENTUALLY(!stats().nlm.blocks);
	ck_assert_uint_eq(LOCK(OWNER(1)), NLM4_GRANTED);
}
END_TEST

/* What the owner had before stays. */
START_TEST(a_refused_upgrade_leaves_the_read_lock)
{
	host.answer = NLM4_DENIED;
	ck_assert_uint_eq(LOCK(OWNER(1), .shared = true), NLM4_GRANTED);
	ck_assert_uint_eq(LOCK(OWNER(2), .shared = true), NLM4_GRANTED);
	ck_assert_uint_eq(LOCK(OWNER(2), .block = true), NLM4_BLOCKED);
	ck_assert_uint_eq(UNLOCK(OWNER(1)), NLM4_GRANTED);
	host_wait(&host.calls, 1);
	EVENTUALLY(!stats().nlm.blocks);
	ck_assert_uint_eq(LOCK(OWNER(1), .shared = true), NLM4_GRANTED);
	ck_assert_uint_eq(LOCK(OWNER(1)), NLM4_DENIED);
}
END_TEST

START_TEST(who_asks_again_keeps_its_place)
{
	server_end();
	call_ms = 60000;	/* the unanswered call lasts longer than the test */
	server_start();
	call_ms = 200;
	lockd_role(lockd, NLM4_PRIMARY, true);
	host.ignore = UINT32_MAX;
	one_holds_two_waits();
	ck_assert_uint_eq(LOCK(OWNER(3), .off = 3, .len = 4, .block = true), NLM4_BLOCKED);
	ck_assert_uint_eq(LOCK(OWNER(2), .off = 3, .len = 4, .block = true), NLM4_BLOCKED);
	ck_assert_uint_eq(stats().nlm.blocks, 2);
	ck_assert_uint_eq(UNLOCK(OWNER(1)), NLM4_GRANTED);
	host_wait(&host.calls, 1);
	pthread_mutex_lock(&host.mu);
	ck_assert_uint_eq(host.last.svid, 2);
	pthread_mutex_unlock(&host.mu);
	ck_assert_uint_eq(LOCK(OWNER(2), .off = 3, .len = 4, .block = true), NLM4_GRANTED);	/* that tells it: it isn't called any more */
	ck_assert_uint_eq(stats().nlm.blocks, 1);
	ck_assert_uint_eq(UNLOCK(OWNER(2)), NLM4_GRANTED);
	ck_assert_uint_eq(UNLOCK(OWNER(3)), NLM4_GRANTED);
	ck_assert_uint_eq(stats().nlm.blocks, 0);
	ck_assert_uint_eq(stats().state.locks, 0);
}
END_TEST

START_TEST(cancelled_while_it_waits)
{
	one_holds_two_waits();
	ck_assert_uint_eq(CANCEL(OWNER(2), .off = 3, .len = 5, .block = true), NLM4_DENIED);	/* not that one */
	ck_assert_uint_eq(CANCEL(OWNER(2), .off = 3, .len = 4, .block = true), NLM4_GRANTED);
	ck_assert_uint_eq(stats().nlm.blocks, 0);
	ck_assert_uint_eq(UNLOCK(OWNER(1)), NLM4_GRANTED);
	ck_assert_uint_eq(stats().state.locks, 0);
	ck_assert_uint_eq(CANCEL(OWNER(2), .off = 3, .len = 4, .block = true), NLM4_DENIED);
	ck_assert_uint_eq(host_count(&host.calls), 0);
}
END_TEST

START_TEST(cancelled_when_it_was_granted)
{
	host.ignore = UINT32_MAX;
	one_holds_two_waits();
	ck_assert_uint_eq(UNLOCK(OWNER(1)), NLM4_GRANTED);
	host_wait(&host.calls, 1);
	ck_assert_uint_eq(CANCEL(OWNER(2), .off = 3, .len = 4, .block = true), NLM4_GRANTED);
	ck_assert_uint_eq(stats().state.locks, 0);
	ck_assert_uint_eq(LOCK(OWNER(1)), NLM4_GRANTED);
}
END_TEST

/* Two threads: one unlocks, the other cancels what waits. Whatever happens first, nobody holds anything in the end, and what is locked afterwards stays. */
struct racer { pthread_barrier_t *b; uint32_t proc; struct ask a; uint32_t stat; };
static void *race(void *arg)
{
	struct racer *r = arg;
	struct sockaddr_storage peer = address("127.0.0.1", 900), local = address("127.0.0.1", 2049);
	unsigned char args[4096], buf[1024];
	static _Atomic uint32_t xid = 1 << 20;
	struct rpc_call c = { .xid = ++xid, .prog = NLM4_PROGRAM, .vers = 4, .proc = r->proc, .args = args, .args_len = ask_encode(r->proc, &r->a, args),
			      .peer = &peer, .local = &local, .cred = { .flavor = RPC_AUTH_SYS } };
	struct rpc_reply rep;

	rpc_reply_init(&rep, buf, sizeof buf);
	pthread_barrier_wait(r->b);
	ck_assert_int_eq(program[0].handle(program[0].arg, &c, &rep), RPC_REPLY);
	r->stat = xdr_get32(rep.p + 12);
	return NULL;
}

/* Peers take a moment to receive a record: between the lock table's grant and what is made of it. */
static int slow_begin(void *arg)
{
	(void)arg;
	return 0;
}

static int slow_record(void *arg, const struct lock_change *c, uint64_t *seq)
{
	(void)arg, (void)c;
	*seq = 1;
	return 0;
}

static int slow_end(void *arg, uint64_t seq, bool is_volume)
{
	(void)arg, (void)is_volume;
	if (seq)
		usleep(300);
	return 0;
}

static void peers_are_slow(void)
{
	lock_table_set_journal(locks, &(struct lock_journal){ slow_begin, slow_record, slow_end, NULL });
}

START_TEST(cancel_and_grant_race)
{
	host.answer = NLM4_DENIED;
	peers_are_slow();
	for (unsigned i = 0; i < 300; i++) {
		pthread_barrier_t b;
		pthread_t t[2];
		struct racer r[2] = { { &b, NLM4_UNLOCK, { OWNER(1) }, 0 }, { &b, NLM4_CANCEL, { OWNER(2), .off = 3, .len = 4, .block = true }, 0 } };

		one_holds_two_waits();
		pthread_barrier_init(&b, NULL, 2);
		for (unsigned k = 0; k < 2; k++)
			ck_assert_int_eq(pthread_create(&t[k], NULL, race, &r[k]), 0);
		for (unsigned k = 0; k < 2; k++)
			pthread_join(t[k], NULL);
		pthread_barrier_destroy(&b);
		ck_assert_uint_eq(LOCK(OWNER(2), .off = 3, .len = 4, .block = true), NLM4_GRANTED);
		EVENTUALLY(!stats().nlm.blocks);
		ck_assert_uint_eq(LOCK(OWNER(1)), NLM4_DENIED);
		ck_assert_uint_eq(UNLOCK(OWNER(2)), NLM4_GRANTED);
		ck_assert_uint_eq(stats().state.locks, 0);
	}
}
END_TEST

/* Two threads: one unlocks, the other asks again for what it waits for. Told by the answer, it has the lock, whatever becomes of a call; told to wait, it refuses the call. */
START_TEST(asking_again_and_grant_race)
{
	unsigned told = 0;

	host.answer = NLM4_DENIED;
	peers_are_slow();
	for (unsigned i = 0; i < 300; i++) {
		pthread_barrier_t b;
		pthread_t t[2];
		struct racer r[2] = { { &b, NLM4_UNLOCK, { OWNER(1) }, 0 }, { &b, NLM4_LOCK, { OWNER(2), .off = 3, .len = 4, .block = i % 2 }, 0 } };

		one_holds_two_waits();
		pthread_barrier_init(&b, NULL, 2);
		for (unsigned k = 0; k < 2; k++)
			ck_assert_int_eq(pthread_create(&t[k], NULL, race, &r[k]), 0);
		for (unsigned k = 0; k < 2; k++)
			pthread_join(t[k], NULL);
		pthread_barrier_destroy(&b);
		EVENTUALLY(!stats().nlm.blocks);
		bool has = r[1].stat == NLM4_GRANTED;
		told += has;
		ck_assert_uint_eq(LOCK(OWNER(1)), has ? NLM4_DENIED : NLM4_GRANTED);
		ck_assert_uint_eq(UNLOCK(OWNER(1)), NLM4_GRANTED);
		ck_assert_uint_eq(UNLOCK(OWNER(2)), NLM4_GRANTED);
		ck_assert_uint_eq(stats().state.locks, 0);
	}
	fprintf(stderr, "# told by the answer: %u of 300\n", told);
}
END_TEST

START_TEST(a_deadlock_is_said)
{
	ck_assert_uint_eq(LOCK(OWNER(1)), NLM4_GRANTED);
	ck_assert_uint_eq(LOCK(OWNER(2), .file = FILE_B), NLM4_GRANTED);
	ck_assert_uint_eq(LOCK(OWNER(1), .file = FILE_B, .block = true), NLM4_BLOCKED);
	ck_assert_uint_eq(LOCK(OWNER(2), .block = true), NLM4_DEADLCK);
	ck_assert_uint_eq(stats().nlm.blocks, 1);
}
END_TEST

START_TEST(waiting_is_bounded)
{
	unsigned n = 0;
	uint32_t st;

	ck_assert_uint_eq(LOCK(OWNER(1)), NLM4_GRANTED);
	while ((st = LOCK(.svid = 100 + n, .block = true)) == NLM4_BLOCKED)
		n++;
	ck_assert_uint_eq(st, NLM4_DENIED_NOLOCKS);
	ck_assert_uint_eq(n, NLM4_BLOCKS_EACH);
	ck_assert_uint_eq(LOCK(OWNER(2), .from = "10.0.0.1", .block = true), NLM4_BLOCKED);	/* others aren't affected */
}
END_TEST

START_TEST(ten_thousand_locks)
{
	enum { N = 10000 };

	for (unsigned i = 0; i < N; i++)
		ck_assert_uint_eq(LOCK(.svid = i % 50, .off = 2 * i, .len = 1), NLM4_GRANTED);
	ck_assert_uint_eq(stats().state.locks, N);
	ck_assert_uint_eq(stats().state.owners, 50);
	for (unsigned i = 0; i < N; i += 997) {
		ck_assert_uint_eq(LOCK(.svid = 77, .off = 2 * i, .len = 1), NLM4_DENIED);
		ck_assert_uint_eq(LOCK(.svid = 77, .off = 2 * i + 1, .len = 1), NLM4_GRANTED);
	}
	for (unsigned i = 0; i < 50; i++)
		ck_assert_uint_eq(UNLOCK(.svid = i), NLM4_GRANTED);
	ck_assert_uint_eq(UNLOCK(.svid = 77), NLM4_GRANTED);
	ck_assert_uint_eq(stats().state.locks, 0);
	ck_assert_uint_eq(stats().state.owners, 0);
}
END_TEST

/* Owners' names may be long: what they take is bounded, and who has gives back. */
START_TEST(owners_memory_is_bounded)
{
	enum { NAME_LEN = 1024, MOST = LOCK_HOST_OWNERS_BYTES / NAME_LEN };
	char oh[NAME_LEN + 1];
	uint32_t st = NLM4_GRANTED, n = 0;

	memset(oh, 'o', NAME_LEN);
	oh[NAME_LEN] = 0;
	for (; st == NLM4_GRANTED && n <= MOST; n++)
		st = LOCK(.svid = n, .oh = oh, .off = 2 * n, .len = 1);
	ck_assert_uint_eq(st, NLM4_DENIED_NOLOCKS);
	ck_assert_uint_gt(n, MOST / 2);
	ck_assert_uint_eq(LOCK(.name = "other", .off = 1, .len = 1), NLM4_GRANTED);
	ck_assert_uint_eq(UNLOCK(.oh = oh, .len = 1), NLM4_GRANTED);
	ck_assert_uint_eq(LOCK(.svid = n, .oh = oh, .len = 1), NLM4_GRANTED);
}
END_TEST

/* ---- retransmissions ---- */

START_TEST(a_late_unlock_does_not_free_a_later_lock)
{
	ck_assert_uint_eq(LOCK(OWNER(1)), NLM4_GRANTED);
	uint32_t xid = next_xid;
	ck_assert_uint_eq(UNLOCK(OWNER(1)), NLM4_GRANTED);
	ck_assert_uint_eq(LOCK(OWNER(1)), NLM4_GRANTED);
	next_xid = xid;
	ck_assert_uint_eq(UNLOCK(OWNER(1)), NLM4_GRANTED);		/* the same call again */
	next_xid = xid + 100;
	ck_assert_uint_eq(LOCK(OWNER(2)), NLM4_DENIED);
}
END_TEST

/* ---- asynchronous forms ---- */

START_TEST(messages_are_answered_by_messages)
{
	unsigned char args[4096];
	size_t len = ask_encode(NLM4_LOCK_MSG, &(struct ask){ OWNER(1) }, args);

	ck_assert_int_eq(call_from("127.0.0.1", &program[0], NLM4_LOCK_MSG, args, len), RPC_REPLY);
	ck_assert_uint_eq(reply.len, 0);
	host_wait(&host.res, 1);
	ck_assert(host.res_proc == NLM4_LOCK_RES && host.res_stat == NLM4_GRANTED);
	len = ask_encode(NLM4_TEST_MSG, &(struct ask){ OWNER(2) }, args);
	ck_assert_int_eq(call_from("127.0.0.1", &program[0], NLM4_TEST_MSG, args, len), RPC_REPLY);
	host_wait(&host.res, 2);
	ck_assert(host.res_proc == NLM4_TEST_RES && host.res_stat == NLM4_DENIED);
	len = ask_encode(NLM4_UNLOCK_MSG, &(struct ask){ OWNER(1) }, args);
	ck_assert_int_eq(call_from("127.0.0.1", &program[0], NLM4_UNLOCK_MSG, args, len), RPC_REPLY);
	host_wait(&host.res, 3);
	ck_assert(host.res_proc == NLM4_UNLOCK_RES && host.res_stat == NLM4_GRANTED);
	ck_assert_uint_eq(stats().state.locks, 0);
}
END_TEST

/* ---- shares ---- */

START_TEST(shares_deny_each_other)
{
	enum { DENY_NONE, DENY_READ, DENY_WRITE, DENY_BOTH, NONE = 0, READ, WRITE, BOTH };

	ck_assert_uint_eq(SHARE(OWNER(1), .mode = DENY_WRITE, .access = READ), NLM4_GRANTED);
	ck_assert_uint_eq(SHARE(OWNER(2), .mode = DENY_NONE, .access = WRITE), NLM4_DENIED);
	ck_assert_uint_eq(SHARE(OWNER(2), .mode = DENY_READ, .access = NONE), NLM4_DENIED);
	ck_assert_uint_eq(SHARE(OWNER(2), .mode = DENY_WRITE, .access = READ), NLM4_GRANTED);
	ck_assert_uint_eq(SHARE(OWNER(1), .mode = DENY_NONE, .access = BOTH), NLM4_DENIED);	/* keeps what it had */
	ck_assert_uint_eq(SHARE(OWNER(2), .mode = DENY_BOTH, .access = READ, .file = FILE_B), NLM4_GRANTED);
	ck_assert_uint_eq(UNSHARE(OWNER(2)), NLM4_GRANTED);
	ck_assert_uint_eq(UNSHARE(OWNER(2)), NLM4_GRANTED);
	ck_assert_uint_eq(SHARE(OWNER(1), .mode = DENY_NONE, .access = BOTH), NLM4_GRANTED);
	ck_assert_uint_eq(SHARE(OWNER(2), .mode = DENY_WRITE, .access = READ), NLM4_DENIED);
	ck_assert_uint_eq(stats().state.shares, 2);
	ck_assert_uint_eq(LOCK(OWNER(3)), NLM4_GRANTED);		/* locks don't care */
}
END_TEST

/* ---- the host's end ---- */

static void free_all(const char *from, const char *name)
{
	unsigned char args[64];
	struct xdr_out x = xdr_out(args, sizeof args);

	xdr_out_opaque(&x, name, strlen(name));
	xdr_out_u32(&x, 0);
	ck_assert_int_eq(call_from(from, &program[0], NLM4_FREE_ALL, args, x.len), RPC_REPLY);
	ck_assert_uint_eq(reply.len, 0);
}

START_TEST(free_all_is_for_ones_own)
{
	ck_assert_uint_eq(LOCK(OWNER(1)), NLM4_GRANTED);
	ck_assert_uint_eq(LOCK(OWNER(2), .block = true), NLM4_BLOCKED);
	ck_assert_uint_eq(LOCK(OWNER(3), .file = FILE_B), NLM4_GRANTED);
	ck_assert_uint_eq(SHARE(OWNER(1), .mode = 3, .access = 3), NLM4_GRANTED);
	ck_assert_uint_eq(LOCK(OWNER(3), .name = "second", .file = FILE_B, .shared = true), NLM4_DENIED);
	free_all("10.0.0.1", "client");
	ck_assert_uint_eq(stats().state.locks, 3);
	free_all("127.0.0.1", "client");
	ck_assert_uint_eq(stats().state.locks, 0);
	ck_assert_uint_eq(stats().state.shares, 0);
	ck_assert_uint_eq(stats().state.owners, 0);
	EVENTUALLY(!stats().nlm.blocks);
}
END_TEST

/* Whoever may run programs on a client host isn't the host. */
START_TEST(a_hosts_users_free_nothing_of_others)
{
	ck_assert_uint_eq(LOCK(OWNER(1)), NLM4_GRANTED);
	exports_make(true);
	from_port = 2000;
	free_all("127.0.0.1", "client");
	ck_assert_uint_eq(UNLOCK(OWNER(1)), NLM4_FAILED);
	ck_assert_uint_eq(CANCEL(OWNER(1)), NLM4_FAILED);
	ck_assert_uint_eq(UNSHARE(OWNER(1)), NLM4_FAILED);
	ck_assert_uint_eq(LOCK(OWNER(2), .file = FILE_B), NLM4_FAILED);
	ck_assert_uint_eq(TEST_LOCK(OWNER(2)), NLM4_FAILED);
	ck_assert_uint_eq(stats().state.locks, 1);
	from_port = 900;
	ck_assert_uint_eq(UNLOCK(OWNER(1)), NLM4_GRANTED);
	ck_assert_uint_eq(stats().state.locks, 0);
}
END_TEST

START_TEST(a_host_that_locks_in_a_new_life_has_lost_the_old_locks)
{
	ck_assert_uint_eq(LOCK(OWNER(1), .state = 3), NLM4_GRANTED);
	ck_assert_uint_eq(LOCK(OWNER(2), .state = 3), NLM4_DENIED);
	ck_assert_uint_eq(LOCK(OWNER(2), .state = 0), NLM4_DENIED);		/* says nothing about its life */
	ck_assert_uint_eq(LOCK(OWNER(2), .state = 5), NLM4_GRANTED);
	ck_assert_uint_eq(stats().state.locks, 1);
}
END_TEST

/* ---- roles and grace ---- */

START_TEST(a_standby_asks_to_wait)
{
	ck_assert_uint_eq(LOCK(OWNER(1)), NLM4_GRANTED);
	ck_assert_uint_eq(LOCK(OWNER(2), .block = true), NLM4_BLOCKED);
	lockd_role(lockd, NLM4_STANDBY, true);
	ck_assert_uint_eq(stats().nlm.blocks, 0);
	ck_assert_uint_eq(LOCK(OWNER(2)), NLM4_DENIED_GRACE_PERIOD);
	ck_assert_uint_eq(UNLOCK(OWNER(1)), NLM4_DENIED_GRACE_PERIOD);
	ck_assert_uint_eq(SHARE(OWNER(1)), NLM4_DENIED_GRACE_PERIOD);
	ck_assert_uint_eq(CANCEL(OWNER(1), .block = true), NLM4_DENIED_GRACE_PERIOD);
	ck_assert_uint_eq(TEST_LOCK(OWNER(2)), NLM4_DENIED);
	lockd_role(lockd, NLM4_PRIMARY, true);
	ck_assert_uint_eq(LOCK(OWNER(2)), NLM4_DENIED);			/* held without grace */
	ck_assert_uint_eq(UNLOCK(OWNER(1)), NLM4_GRANTED);
}
END_TEST

START_TEST(grace_is_for_reclaims)
{
	ck_assert_uint_eq(LOCK(OWNER(1)), NLM4_GRANTED);
	ck_assert_uint_eq(LOCK(OWNER(1), .reclaim = true), NLM4_GRANTED);	/* it has it */
	ck_assert_uint_eq(LOCK(OWNER(1), .reclaim = true, .file = FILE_B), NLM4_DENIED_GRACE_PERIOD);
	server_end();
	grace_ms = 1500;
	server_start();
	ck_assert_uint_eq(stats().state.hosts, 1);			/* from the durable list */
	lockd_role(lockd, NLM4_PRIMARY, false);
	ck_assert_uint_eq(LOCK(OWNER(2)), NLM4_DENIED_GRACE_PERIOD);
	ck_assert_uint_eq(SHARE(OWNER(2)), NLM4_DENIED_GRACE_PERIOD);
	ck_assert_uint_eq(TEST_LOCK(OWNER(2)), NLM4_DENIED_GRACE_PERIOD);
	ck_assert_uint_eq(LOCK(OWNER(1), .reclaim = true, .block = true), NLM4_GRANTED);
	ck_assert_uint_eq(LOCK(OWNER(2), .reclaim = true), NLM4_DENIED);
	host_wait(&host.notifies, 1);
	EVENTUALLY(LOCK(OWNER(2)) == NLM4_DENIED);
	ck_assert_uint_eq(LOCK(OWNER(2), .file = FILE_B), NLM4_GRANTED);
}
END_TEST

START_TEST(nobody_needs_grace_where_nobody_locked)
{
	server_end();
	server_start();
	lockd_role(lockd, NLM4_PRIMARY, false);
	ck_assert_uint_eq(LOCK(OWNER(2)), NLM4_GRANTED);
}
END_TEST

/* Calls wait while the role changes. */
static atomic_uint answers[16];

static void got(void *arg, int err, const unsigned char *results, size_t len)
{
	ck_assert_int_eq(err, 0);
	ck_assert_uint_eq(len, 16);
	atomic_store((atomic_uint *)arg, 1 + xdr_get32(results + 12));
}

START_TEST(calls_wait_for_the_role)
{
	struct rpc_server *s;
	uint16_t port;
	unsigned char args[4096];
	struct rpc_client *caller;

	ck_assert_int_eq(rpc_server_new(&(struct rpc_server_config){ .loops = 1 }, &s), 0);
	ck_assert_int_eq(rpc_server_add_program(s, &program[0]), 0);
	ck_assert_int_eq(rpc_server_listen(s, "127.0.0.1:0", &port), 0);
	ck_assert_int_eq(rpc_server_start(s), 0);
	ck_assert_int_eq(rpc_client_new(&caller), 0);
	lockd_role(lockd, NLM4_CHANGING, true);
	for (unsigned i = 0; i < 4; i++) {
		struct ask a = { .svid = i, .off = i, .len = 1 };
		struct rpc_client_call c = { .to = address("127.0.0.1", port), .prog = NLM4_PROGRAM, .vers = 4, .proc = NLM4_LOCK, .args = args,
					     .args_len = ask_encode(NLM4_LOCK, &a, args), .timeout_ms = 20000, .done = got, .arg = &answers[i] };
		ck_assert_int_eq(rpc_client_call(caller, &c), 0);
	}
	EVENTUALLY(stats().nlm.parked == 4);
	ck_assert_uint_eq(stats().state.locks, 0);
	lockd_role(lockd, NLM4_PRIMARY, true);
	for (unsigned i = 0; i < 4; i++)
		EVENTUALLY(atomic_load(&answers[i]));
	for (unsigned i = 0; i < 4; i++)
		ck_assert_uint_eq(atomic_load(&answers[i]), 1 + NLM4_GRANTED);
	ck_assert_uint_eq(stats().state.locks, 4);
	rpc_client_free(caller);
	rpc_server_free(s);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("nlm4");
	TCase *pure = tcase_create("messages"), *t = tcase_create("nlm4");
	SRunner *r = srunner_create(s);

	tcase_add_test(pure, golden_arguments);
	tcase_add_test(pure, arguments_that_lie);
	tcase_add_test(pure, golden_answers);
	suite_add_tcase(s, pure);
	tcase_add_checked_fixture(t, nlm_setup, nlm_teardown);
	tcase_set_timeout(t, 120);
	tcase_add_test(t, golden_answers_of_the_program);
	tcase_add_test(t, locks_exclude_and_are_released);
	tcase_add_test(t, an_owner_is_host_svid_and_name);
	tcase_add_test(t, ranges_have_64_bits);
	tcase_add_test(t, what_may_not_be_locked);
	tcase_add_test(t, the_mount_and_nfs_see_each_other);
	tcase_add_test(t, who_waits_is_called);
	tcase_add_test(t, lost_answers_are_asked_for_again);
	tcase_add_test(t, a_denial_after_a_lost_answer_frees_nothing);
	tcase_add_test(t, who_refuses_gets_nothing);
	tcase_add_test(t, a_refused_upgrade_leaves_the_read_lock);
	tcase_add_test(t, who_asks_again_keeps_its_place);
	tcase_add_test(t, cancelled_while_it_waits);
	tcase_add_test(t, cancelled_when_it_was_granted);
	tcase_add_test(t, cancel_and_grant_race);
	tcase_add_test(t, asking_again_and_grant_race);
	tcase_add_test(t, a_deadlock_is_said);
	tcase_add_test(t, waiting_is_bounded);
	tcase_add_test(t, ten_thousand_locks);
	tcase_add_test(t, owners_memory_is_bounded);
	tcase_add_test(t, a_late_unlock_does_not_free_a_later_lock);
	tcase_add_test(t, messages_are_answered_by_messages);
	tcase_add_test(t, shares_deny_each_other);
	tcase_add_test(t, free_all_is_for_ones_own);
	tcase_add_test(t, a_hosts_users_free_nothing_of_others);
	tcase_add_test(t, a_host_that_locks_in_a_new_life_has_lost_the_old_locks);
	tcase_add_test(t, a_standby_asks_to_wait);
	tcase_add_test(t, grace_is_for_reclaims);
	tcase_add_test(t, nobody_needs_grace_where_nobody_locked);
	tcase_add_test(t, calls_wait_for_the_role);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
