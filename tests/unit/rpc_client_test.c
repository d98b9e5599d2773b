/*
 * The RPC client and the registration with rpcbind keep their promises: every call ends exactly once, dead hosts hold up nobody, and what rpcbind has is what
 * is true. The other side is our own server, and a rpcbind made for the test.
 */
#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "nfsd-glue/rpc.h"
#include "nfsd-glue/rpc_client.h"
#include "nfsd-glue/rpcbind.h"

enum { LIMIT_MS = 20000, PROG = 100021, BIND_PROG = 100000, SLOTS = 32 };
enum { P_NULL, P_ECHO, P_DROP, P_WHO };

struct slot { uint32_t prog, vers, port; char netid[8]; };

struct env {
	struct rpc_server *s;
	uint16_t port, udp_port;
	_Atomic unsigned drops;
	pthread_mutex_t mu;
	struct slot slots[SLOTS];		/* mu */
	bool old;				/* speaks version 2 only */
};

static enum rpc_verdict handle(void *arg, struct rpc_call *c, struct rpc_reply *r)
{
	struct env *e = arg;

	switch (c->proc) {
	case P_ECHO: rpc_reply_raw(r, c->args, c->args_len); break;
	case P_DROP: atomic_fetch_add(&e->drops, 1); return RPC_DROP;
	case P_WHO:
		rpc_reply_u32(r, c->cred.flavor);
		rpc_reply_u32(r, ntohl(((const struct sockaddr_in *)c->peer)->sin_addr.s_addr));
		break;
	default: break;
	}
	return RPC_REPLY;
}

/* ---- a rpcbind ---- */

static struct slot *find(struct env *e, const struct slot *want)
{
	for (unsigned i = 0; i < SLOTS; i++)
		if (e->slots[i].port && e->slots[i].prog == want->prog && e->slots[i].vers == want->vers && strcmp(e->slots[i].netid, want->netid) == 0)
			return &e->slots[i];
	return NULL;
}

static bool set(struct env *e, const struct slot *want)
{
	struct slot *s = find(e, want);

	if (s)
		return s->port == want->port;
	for (unsigned i = 0; i < SLOTS; i++)
		if (!e->slots[i].port) {
			e->slots[i] = *want;
			return true;
		}
	return false;
}

static bool unset(struct env *e, const struct slot *want)
{
	struct slot *s = find(e, want);

	if (s)
		s->port = 0;
	return s != NULL;
}

static uint32_t change(struct env *e, uint32_t proc, const struct slot *w)
{
	auto_lock(&e->mu);
	const struct slot *s = find(e, w);

	switch (proc) {
	case 1: return set(e, w);
	case 2: return unset(e, w);
	default: return s ? s->port : 0;
	}
}

static enum rpc_verdict handle_pmap(void *arg, struct rpc_call *c, struct rpc_reply *r)
{
	struct xdr_in x = xdr_in(c->args, c->args_len);
	struct slot w = { .prog = xdr_u32(&x), .vers = xdr_u32(&x) };

	strcpy(w.netid, xdr_u32(&x) == IPPROTO_UDP ? "udp" : "tcp");
	w.port = xdr_u32(&x);
	if (!xdr_done(&x))
		return RPC_GARBAGE_ARGS;
	rpc_reply_u32(r, change(arg, c->proc, &w));
	return RPC_REPLY;
}

static enum rpc_verdict handle_rpcb(void *arg, struct rpc_call *c, struct rpc_reply *r)
{
	struct xdr_in x = xdr_in(c->args, c->args_len);
	struct slot w = { .prog = xdr_u32(&x), .vers = xdr_u32(&x) };
	uint32_t nid, addr, owner;
	const unsigned char *netid = xdr_opaque(&x, 7, &nid), *a = xdr_opaque(&x, 60, &addr);
	char uaddr[64] = "", *dot;

	xdr_opaque(&x, 60, &owner);
	if (!xdr_done(&x) || ntohs(((const struct sockaddr_in *)c->peer)->sin_port) >= 1024)
		return RPC_GARBAGE_ARGS;
	memcpy(w.netid, netid, nid);
	memcpy(uaddr, a, addr);
	dot = strrchr(uaddr, '.');
	w.port = (uint32_t)atoi(dot + 1);
	*dot = 0;
	w.port |= (uint32_t)atoi(strrchr(uaddr, '.') + 1) << 8;
	rpc_reply_u32(r, change(arg, c->proc, &w));
	return RPC_REPLY;
}

static struct env *env_new(bool old)
{
	struct env *e = calloc(1, sizeof *e);
	struct rpc_server_config f = { .loops = 2 };
	struct rpc_program p = { .prog = PROG, .vers_low = 4, .vers_high = 4, .nprocs = 4, .udp = true, .handle = handle, .arg = e },
			   pmap = { .prog = BIND_PROG, .vers_low = 2, .vers_high = 2, .nprocs = 4, .handle = handle_pmap, .arg = e },
			   rpcb = { .prog = BIND_PROG, .vers_low = 4, .vers_high = 4, .nprocs = 4, .handle = handle_rpcb, .arg = e };

	e->old = old;
	pthread_mutex_init(&e->mu, NULL);
	ck_assert_int_eq(rpc_server_new(&f, &e->s), 0);
	rpc_server_add_program(e->s, &p);
	rpc_server_add_program(e->s, &pmap);
	if (!old)
		rpc_server_add_program(e->s, &rpcb);
	ck_assert_int_eq(rpc_server_listen(e->s, "127.0.0.1:0", &e->port), 0);
	ck_assert_int_eq(rpc_server_listen_udp(e->s, "127.0.0.1:0", &e->udp_port), 0);
	ck_assert_int_eq(rpc_server_start(e->s), 0);
	return e;
}

static void env_free(struct env *e)
{
	rpc_server_free(e->s);
	free(e);
}

static struct sockaddr_storage at(uint32_t ip, uint16_t port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(ip), .sin_port = htons(port) };
	struct sockaddr_storage s = { 0 };

	memcpy(&s, &a, sizeof a);
	return s;
}

static struct rpc_client *client_new(void)
{
	struct rpc_client *k;

	ck_assert_int_eq(rpc_client_new(&k), 0);
	return k;
}

/* ---- the client ---- */

START_TEST(calls_by_tcp_and_udp)
{
	struct env *e = env_new(false);
	struct rpc_client *k = client_new();
	unsigned char args[RPC_CLIENT_ARGS_MAX], out[RPC_CLIENT_REPLY_MAX];
	size_t len;

	for (size_t i = 0; i < sizeof args; i++)
		args[i] = (unsigned char)(i * 5);
	for (int udp = 0; udp < 2; udp++) {
		struct rpc_client_call c = { .to = at(INADDR_LOOPBACK, udp ? e->udp_port : e->port), .udp = udp, .prog = PROG, .vers = 4, .proc = P_ECHO,
					     .args = args, .args_len = sizeof args, .timeout_ms = LIMIT_MS };
		ck_assert_int_eq(rpc_client_call_wait(k, &c, out, sizeof out, &len), 0);
		ck_assert_uint_eq(len, sizeof args);
		ck_assert_mem_eq(out, args, len);
		ck_assert_int_eq(rpc_client_call_wait(k, &c, out, 100, &len), -EMSGSIZE);
		c.args_len = 0;
		c.vers = 3;
		ck_assert_int_eq(rpc_client_call_wait(k, &c, out, sizeof out, &len), -EPROTONOSUPPORT);
		c.vers = 4;
		c.proc = P_WHO;
		c.from = at(INADDR_LOOPBACK + 4, 0);
		ck_assert_int_eq(rpc_client_call_wait(k, &c, out, sizeof out, &len), 0);
		ck_assert_uint_eq(xdr_get32(out), RPC_AUTH_SYS);
		ck_assert_uint_eq(xdr_get32(out + 4), INADDR_LOOPBACK + 4);
		c.auth_none = true;
		ck_assert_int_eq(rpc_client_call_wait(k, &c, out, sizeof out, &len), 0);
		ck_assert_uint_eq(xdr_get32(out), RPC_AUTH_NONE);
		c.args_len = RPC_CLIENT_ARGS_MAX + 1;
		ck_assert_int_eq(rpc_client_call_wait(k, &c, out, sizeof out, &len), -E2BIG);
	}
	rpc_client_free(k);
	env_free(e);
}
END_TEST

START_TEST(no_answer_means_as_many_tries_as_asked_for)
{
	struct env *e = env_new(false);
	struct rpc_client *k = client_new();
	size_t len;

	for (int udp = 0; udp < 2; udp++) {
		struct rpc_client_call c = { .to = at(INADDR_LOOPBACK, udp ? e->udp_port : e->port), .udp = udp, .prog = PROG, .vers = 4, .proc = P_DROP,
					     .timeout_ms = 200, .tries = 3 };
		atomic_store(&e->drops, 0);
		ck_assert_int_eq(rpc_client_call_wait(k, &c, NULL, 0, &len), -ETIMEDOUT);
		ck_assert_uint_le(atomic_load(&e->drops), 3);
		ck_assert_uint_ge(atomic_load(&e->drops), 1);
	}
	rpc_server_stop(e->s);
	for (int udp = 0; udp < 2; udp++) {
		struct rpc_client_call c = { .to = at(INADDR_LOOPBACK, udp ? e->udp_port : e->port), .udp = udp, .prog = PROG, .vers = 4, .timeout_ms = LIMIT_MS };
		ck_assert_int_eq(rpc_client_call_wait(k, &c, NULL, 0, &len), -ECONNREFUSED);
	}
	rpc_client_free(k);
	env_free(e);
}
END_TEST

struct tally { _Atomic unsigned ok, timed_out, canceled, other; };

static void count(void *arg, int err, const unsigned char *results, size_t len)
{
	struct tally *t = arg;

	(void)results;
	(void)len;
	atomic_fetch_add(err == 0 ? &t->ok : err == -ETIMEDOUT ? &t->timed_out : err == -ECANCELED ? &t->canceled : &t->other, 1);
}

START_TEST(dead_hosts_hold_up_nobody)
{
	enum { DEAD = RPC_CLIENT_ACTIVE / 2, N = 300 };
	struct env *e = env_new(false);
	struct rpc_client *k = client_new();
	struct tally t = { 0 };
	struct rpc_client_call c = { .to = at(INADDR_LOOPBACK, e->port), .prog = PROG, .vers = 4, .proc = P_DROP, .timeout_ms = LIMIT_MS * 10, .done = count,
				     .arg = &t };
	uint64_t end = clock_mono_ms() + LIMIT_MS;

	for (unsigned i = 0; i < DEAD; i++)
		ck_assert_int_eq(rpc_client_call(k, &c), 0);
	c.proc = P_NULL;
	for (unsigned i = 0; i < N; i++)
		ck_assert_int_eq(rpc_client_call(k, &c), 0);
	while (atomic_load(&t.ok) < N && clock_mono_ms() < end)
		poll(NULL, 0, 2);
	ck_assert_uint_eq(atomic_load(&t.ok), N);
	rpc_client_free(k);
	ck_assert_uint_eq(atomic_load(&t.canceled), DEAD);
	ck_assert_uint_eq(atomic_load(&t.other) + atomic_load(&t.timed_out), 0);
	env_free(e);
}
END_TEST

START_TEST(the_queue_is_bounded_and_all_of_it_ends)
{
	struct env *e = env_new(false);
	struct rpc_client *k = client_new();
	struct tally t = { 0 };
	struct rpc_client_call c = { .to = at(INADDR_LOOPBACK, e->port), .prog = PROG, .vers = 4, .proc = P_DROP, .timeout_ms = LIMIT_MS * 10, .done = count,
				     .arg = &t };
	unsigned n = 0;

	int r;

	while (!(r = rpc_client_call(k, &c)))	/* the client's thread may make room at any moment: what counts is the call that was refused */
		n++;
	ck_assert_int_eq(r, -EAGAIN);
	ck_assert_uint_le(n, RPC_CLIENT_QUEUE + RPC_CLIENT_ACTIVE);
	rpc_client_free(k);
	ck_assert_uint_eq(atomic_load(&t.canceled), n);
	env_free(e);
}
END_TEST

/* ---- rpcbind ---- */

static unsigned slots(struct env *e)
{
	auto_lock(&e->mu);
	unsigned n = 0;

	for (unsigned i = 0; i < SLOTS; i++)
		n += e->slots[i].port != 0;
	return n;
}

static uint32_t port_of(struct env *e, uint32_t prog, uint32_t vers, const char *netid)
{
	struct slot w = { .prog = prog, .vers = vers };

	strcpy(w.netid, netid);
	return change(e, 3, &w);
}

static const struct rpcbind_entry ours[] = { { 100003, 3, false, 2049 }, { 100005, 3, false, 2050 }, { 100024, 1, true, 2049 } };

static void registers(bool old)
{
	struct env *e = env_new(old);
	struct rpcbind *b;

	ck_assert_int_eq(rpcbind_new(ours, 3, e->port, false, &b), 0);
	ck_assert_uint_eq(rpcbind_wait(b, LIMIT_MS), 3);
	ck_assert_uint_eq(rpcbind_registered(b), 3);
	ck_assert_uint_eq(port_of(e, 100003, 3, "tcp"), 2049);
	ck_assert_uint_eq(port_of(e, 100005, 3, "tcp"), 2050);
	ck_assert_uint_eq(port_of(e, 100024, 1, "udp"), 2049);
	ck_assert_uint_eq(port_of(e, 100003, 3, "tcp6"), old ? 0 : 2049);
	rpcbind_free(b);
	ck_assert_uint_eq(slots(e), 0);
	env_free(e);
}

START_TEST(entries_come_and_go)
{
	registers(false);
}
END_TEST

START_TEST(entries_come_and_go_with_an_old_rpcbind)
{
	registers(true);
}
END_TEST

START_TEST(stale_entries_are_replaced_and_others_are_not)
{
	struct env *e = env_new(false);
	struct slot other = { .prog = 100003, .vers = 3, .port = e->port, .netid = "tcp" };	/* somebody answers there */
	struct slot stale = { .prog = 100005, .vers = 3, .port = 1, .netid = "tcp" };
	struct rpcbind *b;

	ck_assert(change(e, 1, &other));
	ck_assert(change(e, 1, &stale));
	ck_assert_int_eq(rpcbind_new(ours, 3, e->port, false, &b), 0);
	ck_assert_uint_eq(rpcbind_wait(b, LIMIT_MS), 2);
	ck_assert_uint_eq(port_of(e, 100003, 3, "tcp"), e->port);
	ck_assert_uint_eq(port_of(e, 100005, 3, "tcp"), 2050);
	rpcbind_free(b);
	ck_assert_uint_eq(slots(e), 1);
	env_free(e);
}
END_TEST

START_TEST(no_rpcbind_is_no_catastrophe)
{
	struct env *e = env_new(false);
	uint16_t port = e->port;
	struct rpcbind *b;

	rpc_server_stop(e->s);
	ck_assert_int_eq(rpcbind_new(ours, 3, port, true, &b), 0);
	ck_assert_uint_eq(rpcbind_wait(b, LIMIT_MS), 0);
	rpcbind_free(b);
	env_free(e);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("rpc client");
	TCase *c = tcase_create("all");

	tcase_add_test(c, calls_by_tcp_and_udp);
	tcase_add_test(c, no_answer_means_as_many_tries_as_asked_for);
	tcase_add_test(c, dead_hosts_hold_up_nobody);
	tcase_add_test(c, the_queue_is_bounded_and_all_of_it_ends);
	tcase_add_test(c, entries_come_and_go);
	tcase_add_test(c, entries_come_and_go_with_an_old_rpcbind);
	tcase_add_test(c, stale_entries_are_replaced_and_others_are_not);
	tcase_add_test(c, no_rpcbind_is_no_catastrophe);
	tcase_set_timeout(c, 120);
	suite_add_tcase(s, c);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
