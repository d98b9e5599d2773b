/* NSM: notifications both ways, the durable list, and what strangers may not. */
#include "nlm_env.h"

#include <sys/stat.h>

static enum rpc_verdict nsm(const char *from, uint32_t proc, const struct xdr_out *x) { return call_from(from, &program[1], proc, x->p, x->len); }

static void notify(const char *from, const char *name, int32_t state)
{
	unsigned char args[2048];
	struct xdr_out x = xdr_out(args, sizeof args);

	xdr_out_opaque(&x, name, strlen(name));
	xdr_out_u32(&x, (uint32_t)state);
	ck_assert_int_eq(nsm(from, 6, &x), RPC_REPLY);
	ck_assert_uint_eq(reply.len, 0);
}

static void lock_something(int32_t state)
{
	ck_assert_uint_eq(LOCK(.svid = 1, .state = state), NLM4_GRANTED);
	ck_assert_uint_eq(SHARE(.svid = 1, .mode = 3, .access = 3), NLM4_GRANTED);
}

/* A change that the monitor's thread makes after what we want it not to do. */
static void let_it_work(void)
{
	ck_assert_uint_eq(LOCK(.name = "marker", .svid = 9, .file = FILE_B, .state = 1), NLM4_GRANTED);
	notify("127.0.0.1", "marker", 3);
	EVENTUALLY(LOCK(.name = "looker", .svid = 9, .file = FILE_B) == NLM4_GRANTED);
	ck_assert_uint_eq(UNLOCK(.name = "looker", .svid = 9, .file = FILE_B), NLM4_GRANTED);
}

START_TEST(a_host_that_started_anew_has_no_locks)
{
	lock_something(3);
	notify("127.0.0.1", "client", 5);
	EVENTUALLY(!stats().state.locks && !stats().state.shares);
	/* The same message again, late, frees nothing of the new life. */
	lock_something(5);
	notify("127.0.0.1", "client", 5);
	let_it_work();
	ck_assert_uint_eq(stats().state.locks, 1);
	notify("127.0.0.1", "client", 7);
	EVENTUALLY(!stats().state.locks);
}
END_TEST

START_TEST(names_may_be_short_or_whole)
{
	lock_something(0);
	notify("127.0.0.1", "CLIENT.example.org", 5);
	EVENTUALLY(!stats().state.locks);
	ck_assert_uint_eq(LOCK(.svid = 1, .name = "c.example.org"), NLM4_GRANTED);
	notify("127.0.0.1", "c", 5);
	EVENTUALLY(!stats().state.locks);
}
END_TEST

START_TEST(strangers_free_nothing)
{
	lock_something(3);
	notify("10.0.0.1", "client", 5);
	notify("127.0.0.1", "clien", 5);
	notify("127.0.0.1", "client2", 5);
	notify("127.0.0.1", "", 5);
	exports_make(true);
	from_port = 2000;		/* a user's program there */
	notify("127.0.0.1", "client", 5);
	from_port = 900;
	let_it_work();
	ck_assert_uint_eq(stats().state.locks, 1);
	ck_assert_uint_eq(stats().state.shares, 1);
}
END_TEST

START_TEST(only_a_primary_listens)
{
	unsigned char args[64];
	struct xdr_out x = xdr_out(args, sizeof args);

	lock_something(3);
	lockd_role(lockd, NLM4_CHANGING, true);
	xdr_out_opaque(&x, "client", 6);
	xdr_out_u32(&x, 5);
	ck_assert_int_eq(nsm("127.0.0.1", 6, &x), RPC_DROP);		/* it sends it again */
	lockd_role(lockd, NLM4_PRIMARY, true);
	ck_assert_int_eq(nsm("127.0.0.1", 6, &x), RPC_REPLY);
	EVENTUALLY(!stats().state.locks);
}
END_TEST

START_TEST(the_other_procedures)
{
	unsigned char args[256] = { 0 };
	struct xdr_out none = xdr_out(args, sizeof args), name = none, my = none, mon = none;

	ck_assert_int_eq(nsm("127.0.0.1", 0, &none), RPC_REPLY);
	xdr_out_opaque(&name, "x", 1);
	ck_assert_int_eq(nsm("127.0.0.1", 1, &name), RPC_REPLY);	/* STAT: SUCC and our number */
	ck_assert_uint_eq(reply.len, 8);
	ck_assert_uint_eq(xdr_get32(reply.p), 0);
	uint32_t number = xdr_get32(reply.p + 4);
	ck_assert_uint_eq(number & 1, 1);
	xdr_out_opaque(&my, "x", 1);
	for (int i = 0; i < 3; i++)
		xdr_out_u32(&my, 1);
	ck_assert_int_eq(nsm("127.0.0.1", 4, &my), RPC_REPLY);		/* UNMON_ALL */
	ck_assert_uint_eq(xdr_get32(reply.p), number);
	xdr_out_opaque(&mon, "host", 4);
	xdr_out_opaque(&mon, "x", 1);
	for (int i = 0; i < 3; i++)
		xdr_out_u32(&mon, 1);
	ck_assert_int_eq(nsm("127.0.0.1", 3, &mon), RPC_REPLY);		/* UNMON */
	ck_assert_uint_eq(xdr_get32(reply.p), number);
	for (int i = 0; i < 4; i++)
		xdr_out_u32(&mon, 0);
	ck_assert_int_eq(nsm("127.0.0.1", 2, &mon), RPC_REPLY);		/* MON: refused */
	ck_assert_uint_eq(reply.len, 8);
	ck_assert_uint_eq(xdr_get32(reply.p), 1);
	for (uint32_t proc = 0; proc < NSM_PROCS; proc++)
		ck_assert_int_eq(call_from("127.0.0.1", &program[1], proc, "xx", 2), RPC_GARBAGE_ARGS);
}
END_TEST

START_TEST(hosts_are_told_of_lost_locks)
{
	char name[65] = "";

	lock_something(3);
	gethostname(name, sizeof name - 1);
	server_end();
	server_start();
	lockd_role(lockd, NLM4_PRIMARY, false);
	host_wait(&host.notifies, 2);			/* by the address that it called, and by our name */
	pthread_mutex_lock(&host.mu);
	int32_t number = host.number;
	ck_assert_int_eq(number & 1, 1);
	ck_assert(!strcmp(host.mon_name, "127.0.0.1") || !strcmp(host.mon_name, name));
	pthread_mutex_unlock(&host.mu);
	/* Root here may ask for it; nobody else. A reclaim of what is held is granted then. */
	ck_assert_int_eq(call_from("10.0.0.1", &program[1], 5, "", 0), RPC_REPLY);
	ck_assert_int_eq(call_from("127.0.0.1", &program[1], 5, "", 0), RPC_REPLY);
	host_wait(&host.notifies, 4);
	ck_assert_int_gt(host.number, number);
	ck_assert_uint_eq(LOCK(.svid = 1, .reclaim = true, .state = 3), NLM4_GRANTED);
}
END_TEST

static void damage(off_t at)
{
	int fd = openat(dir_fd, "nsm", O_RDWR);
	char c;

	ck_assert_int_eq(pread(fd, &c, 1, at), 1);
	c ^= 1;
	ck_assert_int_eq(pwrite(fd, &c, 1, at), 1);
	close(fd);
}

START_TEST(the_list_is_durable)
{
	struct stat st;

	for (unsigned i = 0; i < 20; i++) {
		char from[16], name[16];
		snprintf(from, sizeof from, "10.0.0.%u", i + 1);
		snprintf(name, sizeof name, "host%u", i);
		ck_assert_uint_eq(LOCK(.svid = 1, .name = name, .from = from, .off = i, .len = 1), NLM4_GRANTED);
		ck_assert_int_eq(fstatat(dir_fd, "nsm", &st, 0), 0);
		ck_assert_int_gt(st.st_size, 20 + i * 40);	/* it is written when the answer goes out */
	}
	server_end();
	server_start();
	ck_assert_uint_eq(stats().state.hosts, 20);
	server_end();
	damage(30);
	server_start();
	ck_assert_uint_eq(stats().state.hosts, 0);
	lockd_role(lockd, NLM4_PRIMARY, false);
	ck_assert_uint_eq(LOCK(.svid = 1), NLM4_DENIED_GRACE_PERIOD);		/* somebody may have had locks */
}
END_TEST

START_TEST(one_address_has_few_names)
{
	char name[16];

	for (unsigned i = 0; i < LOCK_HOSTS_EACH; i++) {
		snprintf(name, sizeof name, "host%u", i);
		ck_assert_uint_eq(LOCK(.svid = 1, .name = name, .off = i, .len = 1), NLM4_GRANTED);
	}
	ck_assert_uint_eq(LOCK(.svid = 1, .name = "one more", .off = 1000), NLM4_DENIED_NOLOCKS);
	ck_assert_uint_eq(LOCK(.svid = 1, .name = "one more", .off = 1000, .len = 1, .from = "10.0.0.1"), NLM4_GRANTED);
	ck_assert_uint_eq(UNLOCK(.svid = 1, .name = "host7"), NLM4_GRANTED);
	ck_assert_uint_eq(LOCK(.svid = 1, .name = "one more", .off = 1001), NLM4_GRANTED);
	ck_assert_uint_eq(stats().state.hosts, LOCK_HOSTS_EACH + 1);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("nsm1");
	TCase *t = tcase_create("nsm1");
	SRunner *r = srunner_create(s);

	tcase_add_checked_fixture(t, nlm_setup, nlm_teardown);
	tcase_set_timeout(t, 120);
	tcase_add_test(t, a_host_that_started_anew_has_no_locks);
	tcase_add_test(t, names_may_be_short_or_whole);
	tcase_add_test(t, strangers_free_nothing);
	tcase_add_test(t, only_a_primary_listens);
	tcase_add_test(t, the_other_procedures);
	tcase_add_test(t, hosts_are_told_of_lost_locks);
	tcase_add_test(t, the_list_is_durable);
	tcase_add_test(t, one_address_has_few_names);
	suite_add_tcase(s, t);
	srunner_run_all(r, CK_NORMAL);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
