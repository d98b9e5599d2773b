/*
 * The RPC server keeps its promises: whatever comes on a connection gets the right error or an end, memory stays bounded, and the others don't notice. Slow
 * calls hold up no fast ones, nothing is lost when it is stopped under load, and an address can be given up with a reset.
 */
#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "nfsd-glue/rpc_int.h"

enum { LIMIT_MS = 30000, PROG = 100003, OTHER = 100005, MB = 1 << 20 };
enum { P_NULL, P_FAST, P_SUM, P_GATE_DISK, P_GATE_PEER, P_DATA, P_BIG, P_DROP, P_LATER, P_GARBAGE, P_AUTH, P_SYSTEM, P_TOO_BIG, P_UNAVAIL, P_COUNT };

/* ---- a server with procedures for tests ---- */

struct env {
	struct rpc_server *s;
	uint16_t port, udp_port;
	pthread_mutex_t mu;
	pthread_cond_t cond;
	bool open;				/* mu: calls at the gate go on */
	unsigned at_gate;			/* mu */
	struct rpc_later *later[64];		/* mu */
	unsigned nlater;			/* mu */
	_Atomic unsigned handled, connected, disconnected;
	_Atomic bool stopped, owner_missing;
	struct sockaddr_storage last_peer, last_local;	/* mu */
	bool udp_seen;				/* mu */
};

static uint32_t sum(const unsigned char *p, size_t len)
{
	uint32_t s = 1;

	for (size_t i = 0; i < len; i++)
		s = s * 31 + p[i];
	return s;
}

static void gate(struct env *e)
{
	auto_lock(&e->mu);

	e->at_gate++;
	pthread_cond_broadcast(&e->cond);
	while (!e->open)
		pthread_cond_wait(&e->cond, &e->mu);
	e->at_gate--;
}

static enum rpc_verdict data(const struct rpc_call *c, struct rpc_reply *r, size_t len)
{
	struct blk *b = blk_new(len);

	for (size_t i = 0; i < len; i++)
		b->data[i] = (unsigned char)(i * 7 + c->xid);
	rpc_reply_u32(r, 0);
	rpc_reply_data(r, b, b->data, len);
	return RPC_REPLY;
}

static enum rpc_verdict later(struct env *e, struct rpc_call *c)
{
	auto_lock(&e->mu);

	e->later[e->nlater] = rpc_later_new(c);
	ck_assert_ptr_nonnull(e->later[e->nlater]);
	e->nlater++;
	pthread_cond_broadcast(&e->cond);
	return RPC_LATER;
}

static void note_datagram(struct env *e, const struct rpc_call *c)
{
	auto_lock(&e->mu);

	e->udp_seen |= !c->conn;
	e->last_peer = *c->peer;
	e->last_local = *c->local;
}

static enum rpc_verdict handle(void *arg, struct rpc_call *c, struct rpc_reply *r)
{
	struct env *e = arg;

	ck_assert(!atomic_load(&e->stopped));
	ck_assert_uint_eq((uintptr_t)c->args & 3, 0);
	atomic_fetch_add(&e->handled, 1);
	switch (c->proc) {
	case P_NULL:
		if (!c->conn)
			note_datagram(e, c);
		return RPC_REPLY;
	case P_SUM:
		if (c->args_len > 64 << 10 && !c->owner)
			atomic_store(&e->owner_missing, true);
		if (c->owner)
			ck_assert(c->args >= c->owner->data && c->args + c->args_len <= c->owner->data + c->owner->cap);
		rpc_reply_u32(r, sum(c->args, c->args_len));
		return RPC_REPLY;
	case P_GATE_DISK:
	case P_GATE_PEER: gate(e); break;
	case P_DATA: return data(c, r, c->args_len >= 4 ? xdr_get32(c->args) : 0);
	case P_BIG:
		for (size_t i = 0; i < 50000; i++)
			rpc_reply_u32(r, (uint32_t)i);
		return RPC_REPLY;
	case P_DROP: return RPC_DROP;
	case P_LATER: return later(e, c);
	case P_GARBAGE: rpc_reply_u32(r, 1); return RPC_GARBAGE_ARGS;
	case P_AUTH: return RPC_AUTH_ERROR;
	case P_SYSTEM: return RPC_SYSTEM_ERR;
	case P_TOO_BIG:
		for (size_t i = 0; i < RPC_RECORD_MAX; i++)
			rpc_reply_u32(r, 1);
		return RPC_REPLY;
	case P_UNAVAIL: return RPC_PROC_UNAVAIL;
	default: break;
	}
	rpc_reply_u32(r, c->proc);
	return RPC_REPLY;
}

static enum rpc_speed speed(void *arg, const struct rpc_call *c)
{
	(void)arg;
	switch (c->proc) {
	case P_SUM:
	case P_GATE_DISK:
	case P_DATA: return RPC_DISK;
	case P_GATE_PEER: return RPC_PEER;
	default: return RPC_FAST;
	}
}

static void on_connected(void *arg, const struct sockaddr_storage *peer, const struct sockaddr_storage *local)
{
	struct env *e = arg;
	auto_lock(&e->mu);

	e->last_peer = *peer;
	e->last_local = *local;
	atomic_fetch_add(&e->connected, 1);
	pthread_cond_broadcast(&e->cond);
}

static void on_disconnected(void *arg, const struct sockaddr_storage *peer, const struct sockaddr_storage *local)
{
	struct env *e = arg;
	auto_lock(&e->mu);

	(void)peer;
	(void)local;
	atomic_fetch_add(&e->disconnected, 1);
	pthread_cond_broadcast(&e->cond);
}

static struct env *env_new(struct rpc_server_config f)
{
	struct env *e = calloc(1, sizeof *e);
	struct rpc_program p = { .prog = PROG, .vers_low = 3, .vers_high = 4, .nprocs = P_COUNT, .udp = true, .handle = handle, .speed = speed, .arg = e };

	pthread_mutex_init(&e->mu, NULL);
	pthread_cond_init(&e->cond, NULL);
	f.connected = on_connected;
	f.disconnected = on_disconnected;
	f.arg = e;
	ck_assert_int_eq(rpc_server_new(&f, &e->s), 0);
	ck_assert_int_eq(rpc_server_add_program(e->s, &p), 0);
	p.prog = OTHER;
	p.vers_high = 3;
	p.udp = false;
	ck_assert_int_eq(rpc_server_add_program(e->s, &p), 0);
	p.vers_low = p.vers_high = 1;
	ck_assert_int_eq(rpc_server_add_program(e->s, &p), 0);
	ck_assert_int_eq(rpc_server_listen(e->s, ":0", &e->port), 0);
	ck_assert_int_eq(rpc_server_listen_udp(e->s, ":0", &e->udp_port), 0);
	ck_assert_int_eq(rpc_server_start(e->s), 0);
	return e;
}

static void env_open(struct env *e)
{
	auto_lock(&e->mu);

	e->open = true;
	pthread_cond_broadcast(&e->cond);
}

static void env_free(struct env *e)
{
	env_open(e);
	rpc_server_stop(e->s);
	atomic_store(&e->stopped, true);
	for (unsigned i = 0; i < e->nlater; i++)
		rpc_later_send(e->later[i], RPC_REPLY);
	rpc_server_free(e->s);
	ck_assert_uint_eq(e->connected, e->disconnected);
	free(e);
}

/* Waits until a number that the server changes is at least N. */
static void wait_gate(struct env *e, unsigned n)
{
	auto_lock(&e->mu);
	while (e->at_gate < n)
		pthread_cond_wait(&e->cond, &e->mu);
}

#define WAIT_FOR(cond) do { \
	uint64_t end_ = clock_mono_ms() + LIMIT_MS; \
	while (!(cond)) { \
		ck_assert_msg(clock_mono_ms() < end_, "in vain: " #cond); \
		poll(NULL, 0, 2); \
	} \
} while (0)

static struct rpc_server_stats stats(struct env *e)
{
	struct rpc_server_stats st;

	rpc_server_stats(e->s, &st);
	return st;
}

/* ---- a client without mercy ---- */

static int dial(uint16_t port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(port) };
	struct timeval tv = { .tv_sec = LIMIT_MS / 1000 };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof tv);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	return fd;
}

static bool put(int fd, const void *p, size_t len)
{
	while (len) {
		ssize_t n = send(fd, p, len, MSG_NOSIGNAL);
		if (n <= 0)
			return false;
		p = (const char *)p + n;
		len -= (size_t)n;
	}
	return true;
}

static bool get(int fd, void *p, size_t len)
{
	while (len) {
		ssize_t n = recv(fd, p, len, 0);
		if (n <= 0)
			return false;
		p = (char *)p + n;
		len -= (size_t)n;
	}
	return true;
}

/* A call with its record mark; the arguments are ALEN bytes of a pattern, of which the first 4 are FIRST. */
static size_t make_call(unsigned char *buf, uint32_t xid, uint32_t prog, uint32_t vers, uint32_t proc, uint32_t first, size_t alen)
{
	struct rpc_cred cred = { .flavor = RPC_AUTH_SYS, .uid = 1, .gid = 2, .machine = "test", .machine_len = 4 };
	size_t len = rpc_call_encode(buf + 4, 256, xid, prog, vers, proc, &cred);

	for (size_t i = 0; i < alen; i++)
		buf[4 + len + i] = (unsigned char)(i * 13 + xid);
	if (alen >= 4)
		xdr_put32(buf + 4 + len, first);
	xdr_put32(buf, UINT32_C(0x80000000) | (uint32_t)(len + alen));
	return 4 + len + alen;
}

static bool call(int fd, uint32_t xid, uint32_t proc)
{
	unsigned char buf[512];

	return put(fd, buf, make_call(buf, xid, PROG, 3, proc, 0, 8));
}

/* A whole reply: returns its length (without the mark), 0 at an end. Owned by the caller. */
static size_t reply(int fd, unsigned char **out)
{
	unsigned char mark[4];

	*out = NULL;
	if (!get(fd, mark, 4))
		return 0;
	ck_assert_uint_eq(mark[0] & 0x80, 0x80);
	size_t len = xdr_get32(mark) & 0x7fffffff;
	ck_assert_uint_le(len, RPC_RECORD_MAX);
	*out = malloc(len);
	if (!get(fd, *out, len)) {
		free(*out);
		*out = NULL;
		return 0;
	}
	return len;
}

static uint32_t reply_xid(int fd)
{
	unsigned char *p;
	size_t len = reply(fd, &p);

	ck_assert_uint_ge(len, 20);
	uint32_t xid = xdr_get32(p);
	free(p);
	return xid;
}

static void works(struct env *e)
{
	int fd = dial(e->port);

	ck_assert(call(fd, 4711, P_FAST));
	ck_assert_uint_eq(reply_xid(fd), 4711);
	close(fd);
}

static void reply_is(int fd, const char *golden)
{
	unsigned char *p;
	size_t len = reply(fd, &p);
	char *hex = calloc(1, 2 * len + 1);

	for (size_t i = 0; i < len; i++)
		sprintf(hex + 2 * i, "%02x", p[i]);
	ck_assert_str_eq(hex, golden);
	free(hex);
	free(p);
}

static bool at_end(int fd)
{
	char b;

	ssize_t n = recv(fd, &b, 1, 0);
	return n == 0 || (n < 0 && errno == ECONNRESET);
}

/* ---- errors ---- */

START_TEST(each_refusal_and_the_connection_lives_on)
{
	struct env *e = env_new((struct rpc_server_config){ 0 });
	int fd = dial(e->port);
	unsigned char buf[512];
	static const struct { uint32_t prog, vers, proc; const char *golden; } t[] = {
		{ 100004, 3, 0, "000000010000000100000000000000000000000000000001" },
		{ PROG, 2, 0, "00000001000000010000000000000000000000000000000200000003" "00000004" },
		{ PROG, 0xffffffff, 0, "00000001000000010000000000000000000000000000000200000003" "00000004" },
		{ OTHER, 2, 0, "00000001000000010000000000000000000000000000000200000001" "00000003" },
		{ PROG, 3, P_COUNT, "000000010000000100000000000000000000000000000003" },
		{ PROG, 3, 0xffffffff, "000000010000000100000000000000000000000000000003" },
		{ PROG, 3, P_UNAVAIL, "000000010000000100000000000000000000000000000003" },
		{ PROG, 3, P_GARBAGE, "000000010000000100000000000000000000000000000004" },
		{ PROG, 3, P_SYSTEM, "000000010000000100000000000000000000000000000005" },
		{ PROG, 3, P_TOO_BIG, "000000010000000100000000000000000000000000000005" },
		{ PROG, 3, P_AUTH, "0000000100000001000000010000000100000005" },
		{ PROG, 3, P_NULL, "000000010000000100000000000000000000000000000000" },
		{ PROG, 4, P_FAST, "00000001000000010000000000000000000000000000000000000001" },
	};

	for (unsigned i = 0; i < ARRAY_LEN(t); i++) {
		ck_assert(put(fd, buf, make_call(buf, 1, t[i].prog, t[i].vers, t[i].proc, 0, 0)));
		reply_is(fd, t[i].golden);
	}
	size_t len = make_call(buf, 1, PROG, 3, 0, 0, 0);
	xdr_put32(buf + 12, 3);			/* RPC version */
	ck_assert(put(fd, buf, len));
	reply_is(fd, "000000010000000100000001000000000000000200000002");
	for (uint32_t big = 0x7fffffff; big; big = big == 0x7fffffff ? 0x80000000 : big == 0x80000000 ? 0xffffffff : 0) {
		len = make_call(buf, 1, PROG, 3, 0, 0, 0);
		xdr_put32(buf + 32, big);	/* length of the credential */
		ck_assert(put(fd, buf, len));
		reply_is(fd, "0000000100000001000000010000000100000001");
	}
	len = make_call(buf, 1, PROG, 3, 0, 0, 0);
	xdr_put32(buf + 28, 6);			/* flavor */
	ck_assert(put(fd, buf, len));
	reply_is(fd, "0000000100000001000000010000000100000002");
	close(fd);
	env_free(e);
}
END_TEST

START_TEST(nonsense_ends_the_connection_and_no_other)
{
	struct env *e = env_new((struct rpc_server_config){ 0 });
	int other = dial(e->port);
	static const uint32_t marks[] = { 0, 0x80000000, 0x7fffffff, 0xffffffff, 0x80000000 | (RPC_RECORD_MAX + 1), 0x80000004, 0x474554 };

	for (unsigned i = 0; i < ARRAY_LEN(marks); i++) {
		unsigned char buf[8] = { 0 };
		int fd = dial(e->port);
		xdr_put32(buf, marks[i]);
		put(fd, buf, 8);
		ck_assert(at_end(fd));
		close(fd);
	}
	/* a reply instead of a call; endless fragments of a byte */
	int fd = dial(e->port);
	unsigned char buf[512];
	size_t len = make_call(buf, 1, PROG, 3, 0, 0, 0);
	xdr_put32(buf + 8, 1);
	put(fd, buf, len);
	ck_assert(at_end(fd));
	close(fd);
	fd = dial(e->port);
	for (unsigned i = 0; i < 100000 && put(fd, "\0\0\0\1x", 5); i++)
		;
	ck_assert(at_end(fd));
	close(fd);
	WAIT_FOR(stats(e).closed_bad == ARRAY_LEN(marks) + 2);
	ck_assert(call(other, 5, P_FAST));
	ck_assert_uint_eq(reply_xid(other), 5);
	close(other);
	env_free(e);
}
END_TEST

/* Cut at every byte, in two and three fragments, byte by byte. */
START_TEST(torn_calls_are_put_together)
{
	struct env *e = env_new((struct rpc_server_config){ 0 });
	int fd = dial(e->port);
	unsigned char buf[2048], out[1024];
	size_t len = make_call(buf, 1, PROG, 3, P_SUM, 0, 20);
	uint32_t want = sum(buf + len - 20, 20);

	for (size_t cut = 1; cut < len - 4; cut++) {
		struct xdr_out x = xdr_out(out, sizeof out);
		unsigned char *p;
		size_t n;

		xdr_out_u32(&x, (uint32_t)cut);
		memcpy(xdr_room(&x, cut), buf + 4, cut);
		xdr_out_u32(&x, 0x80000000 | (uint32_t)(len - 4 - cut));
		memcpy(xdr_room(&x, len - 4 - cut), buf + 4 + cut, len - 4 - cut);
		for (size_t i = 0; i < x.len; i += cut % 7 + 1)
			ck_assert(put(fd, out + i, x.len - i < cut % 7 + 1 ? x.len - i : cut % 7 + 1));
		n = reply(fd, &p);
		ck_assert_uint_eq(n, RPC_ACCEPTED_LEN + 4);
		ck_assert_uint_eq(xdr_get32(p + RPC_ACCEPTED_LEN), want);
		free(p);
	}
	close(fd);
	env_free(e);
}
END_TEST

/* ---- many calls ---- */

struct sender { int fd; const unsigned char *p; size_t len; };

static void *send_main(void *arg)
{
	const struct sender *s = arg;

	put(s->fd, s->p, s->len);
	return NULL;
}

START_TEST(pipelined_calls_are_all_answered_once)
{
	enum { N = 20000 };
	struct env *e = env_new((struct rpc_server_config){ 0 });
	int fd = dial(e->port);
	unsigned char *buf = malloc((size_t)N * 256), *seen = calloc(1, N);
	struct sender s = { fd, buf, 0 };
	pthread_t t;

	for (uint32_t i = 0; i < N; i++)
		s.len += make_call(buf + s.len, i, PROG, 3, i % 5 == 0 ? P_SUM : i % 1001 == 3 ? P_BIG : P_FAST, 0, i % 50);
	pthread_create(&t, NULL, send_main, &s);
	for (unsigned i = 0; i < N; i++) {
		uint32_t xid = reply_xid(fd);
		ck_assert_uint_lt(xid, N);
		ck_assert(!seen[xid]);
		seen[xid] = 1;
	}
	pthread_join(t, NULL);
	ck_assert_uint_eq(atomic_load(&e->handled), N);
	free(buf);
	free(seen);
	close(fd);
	env_free(e);
}
END_TEST

START_TEST(big_records_come_whole_and_in_a_block)
{
	enum { N = 24 };
	struct env *e = env_new((struct rpc_server_config){ 0 });
	int fd = dial(e->port);
	unsigned char *buf = malloc((size_t)N * (MB + 256));
	struct sender s = { fd, buf, 0 };
	uint32_t want[N];
	pthread_t t;

	for (uint32_t i = 0; i < N; i++) {
		size_t alen = i % 3 ? MB - i : 100 * i, len = make_call(buf + s.len, i, PROG, 3, P_SUM, 0, alen);
		s.len += len;
		want[i] = sum(buf + s.len - alen, alen);
	}
	pthread_create(&t, NULL, send_main, &s);
	for (unsigned i = 0; i < N; i++) {
		unsigned char *p;
		ck_assert_uint_eq(reply(fd, &p), RPC_ACCEPTED_LEN + 4);
		ck_assert_uint_lt(xdr_get32(p), N);
		ck_assert_uint_eq(xdr_get32(p + RPC_ACCEPTED_LEN), want[xdr_get32(p)]);
		free(p);
	}
	pthread_join(t, NULL);
	ck_assert(!atomic_load(&e->owner_missing));
	free(buf);
	close(fd);
	env_free(e);
}
END_TEST

START_TEST(data_of_any_length_is_sent_from_its_block)
{
	struct env *e = env_new((struct rpc_server_config){ 0 });
	int fd = dial(e->port);
	static const uint32_t lens[] = { 0, 1, 2, 3, 4, 5, 4095, 65536, MB - 1, MB };
	unsigned char buf[512];

	for (uint32_t i = 0; i < ARRAY_LEN(lens); i++)
		ck_assert(put(fd, buf, make_call(buf, i, PROG, 3, P_DATA, lens[i], 4)));
	for (unsigned k = 0; k < ARRAY_LEN(lens); k++) {
		unsigned char *p;
		size_t len = reply(fd, &p);
		uint32_t xid = xdr_get32(p), n = lens[xid];

		ck_assert_uint_eq(len, RPC_ACCEPTED_LEN + 8 + n + xdr_pad(n));
		ck_assert_uint_eq(xdr_get32(p + RPC_ACCEPTED_LEN + 4), n);
		unsigned bad = 0;
		for (uint32_t i = 0; i < n; i++)
			bad += p[RPC_ACCEPTED_LEN + 8 + i] != (unsigned char)(i * 7 + xid);
		ck_assert_uint_eq(bad, 0);
		free(p);
	}
	close(fd);
	env_free(e);
}
END_TEST

START_TEST(slow_calls_hold_up_nobody)
{
	struct env *e = env_new((struct rpc_server_config){ 0 });
	int fd = dial(e->port), peers[4];

	ck_assert(call(fd, 1, P_GATE_DISK));
	ck_assert(call(fd, 2, P_FAST));
	ck_assert(call(fd, 3, P_SUM));
	ck_assert(call(fd, 4, P_DROP));
	uint32_t a = reply_xid(fd), b = reply_xid(fd);
	ck_assert(a + b == 5 && (a == 2 || a == 3));
	/* A standby is stuck: as many calls wait for it as the pool lets. Disks can still be read. */
	for (unsigned i = 0; i < 4; i++) {
		peers[i] = dial(e->port);
		for (uint32_t k = 0; k < 40; k++)
			ck_assert(call(peers[i], 100 + k, P_GATE_PEER));
	}
	wait_gate(e, 1 + RPC_POOL_MAX * 3 / 4);
	ck_assert(call(fd, 5, P_SUM));
	ck_assert_uint_eq(reply_xid(fd), 5);
	ck_assert_uint_eq(stats(e).pool_threads <= RPC_POOL_MAX, 1);
	env_open(e);
	for (unsigned i = 0; i < 4; i++) {
		for (uint32_t k = 0; k < 40; k++)
			reply_xid(peers[i]);
		close(peers[i]);
	}
	ck_assert_uint_eq(reply_xid(fd), 1);
	close(fd);
	env_free(e);
}
END_TEST

/* More calls than a connection may have in flight: it is paused, and goes on. */
START_TEST(calls_in_flight_are_bounded)
{
	enum { N = 3 * RPC_CONN_CALLS_MAX };
	struct env *e = env_new((struct rpc_server_config){ 0 });
	int fd = dial(e->port), other = dial(e->port);
	unsigned char *buf = malloc((size_t)N * 256);
	struct sender s = { fd, buf, 0 };
	pthread_t t;

	for (uint32_t i = 0; i < N; i++)
		s.len += make_call(buf + s.len, i, PROG, 3, P_GATE_DISK, 0, 100);
	pthread_create(&t, NULL, send_main, &s);
	wait_gate(e, RPC_CONN_RUNNING_MAX);
	ck_assert(call(other, 1, P_SUM));
	ck_assert_uint_eq(reply_xid(other), 1);
	WAIT_FOR(stats(e).calls >= RPC_CONN_CALLS_MAX);
	ck_assert_uint_le(stats(e).calls, RPC_CONN_CALLS_MAX + 2);
	env_open(e);
	for (unsigned i = 0; i < N; i++)
		reply_xid(fd);
	pthread_join(t, NULL);
	free(buf);
	close(fd);
	close(other);
	env_free(e);
}
END_TEST

/* ---- clients that don't behave ---- */

START_TEST(who_never_reads_is_held_and_then_cut_off)
{
	struct env *e = env_new((struct rpc_server_config){ .stall_timeout_ms = 1500 });
	int fd = dial(e->port);
	unsigned char buf[512];
	unsigned n = 0;

	for (struct pollfd p = { fd, POLLOUT, 0 }; n < 200000; n++) {
		if (poll(&p, 1, 300) != 1 || (p.revents & (POLLERR | POLLHUP)))
			break;
		if (send(fd, buf, make_call(buf, n, PROG, 3, n % 2 ? P_DATA : P_FAST, MB, 4), MSG_NOSIGNAL) <= 0)
			break;
		if (n % 64 == 0)
			ck_assert_uint_le(stats(e).output_bytes, RPC_CONN_OUTPUT_MAX + (RPC_CONN_RUNNING_MAX + 1) * (size_t)MB);
	}
	works(e);
	WAIT_FOR(stats(e).closed_slow == 1);
	WAIT_FOR(stats(e).connections == 0);
	WAIT_FOR(stats(e).output_bytes == 0 && stats(e).inflight_bytes == 0);
	close(fd);
	works(e);
	env_free(e);
}
END_TEST

START_TEST(who_never_reads_small_answers_is_held_too)
{
	struct env *e = env_new((struct rpc_server_config){ .stall_timeout_ms = 60000 });
	int fd = dial(e->port);
	unsigned char *buf = malloc(256 * 1024);
	size_t len = 0;
	uint32_t sent = 0;

	for (unsigned i = 0; i < 1024; i++)
		len += make_call(buf + len, i, PROG, 3, P_BIG, 0, 0);
	/* what is sent is sent in whole calls; then everything is read after all */
	for (struct pollfd p = { fd, POLLOUT, 0 }; poll(&p, 1, 300) == 1 && sent < 2048; sent += 64)
		ck_assert(put(fd, buf, len / 16));
	ck_assert_uint_le(stats(e).output_bytes, RPC_CONN_OUTPUT_MAX + 2 * MB);
	works(e);
	for (uint32_t i = 0; i < sent; i++)
		reply_xid(fd);
	free(buf);
	close(fd);
	env_free(e);
}
END_TEST

START_TEST(who_is_too_slow_is_cut_off)
{
	struct env *e = env_new((struct rpc_server_config){ .record_timeout_ms = 1200 });
	int silent = dial(e->port), half = dial(e->port), idle = dial(e->port);
	unsigned char buf[512];
	size_t len = make_call(buf, 1, PROG, 3, P_FAST, 0, 0);

	ck_assert(call(idle, 1, P_FAST));
	ck_assert_uint_eq(reply_xid(idle), 1);
	ck_assert(put(half, buf, len));
	ck_assert_uint_eq(reply_xid(half), 1);
	ck_assert(put(half, buf, len / 2));
	ck_assert(at_end(silent));
	ck_assert(at_end(half));
	WAIT_FOR(stats(e).partial_bytes == 0);
	/* An idle one that spoke before may stay. */
	ck_assert(call(idle, 2, P_FAST));
	ck_assert_uint_eq(reply_xid(idle), 2);
	close(silent);
	close(half);
	close(idle);
	env_free(e);
}
END_TEST

/* Many begin a record of a megabyte and stop: those that have waited for the longest make room, memory is bounded, the others are served. */
START_TEST(incomplete_records_are_bounded_together)
{
	enum { N = 400, BEGIN = 20 << 10 };
	struct env *e = env_new((struct rpc_server_config){ 0 });
	unsigned char *buf = malloc(MB + 512);
	int fd[N];

	make_call(buf, 1, PROG, 3, P_SUM, 0, MB);
	for (unsigned i = 0; i < N; i++) {
		fd[i] = dial(e->port);
		put(fd[i], buf, BEGIN);
		ck_assert_uint_le(stats(e).partial_bytes, 3 * (size_t)RPC_PARTIAL_MAX);	/* a loop may lag behind */
		if (i % 50 == 0)
			works(e);
	}
	WAIT_FOR(stats(e).partial_bytes + stats(e).closed_slow * (MB + 4096) >= N * (size_t)MB);
	WAIT_FOR(stats(e).partial_bytes <= 2 * (size_t)RPC_PARTIAL_MAX);
	ck_assert_uint_ge(stats(e).closed_slow, N / 2);
	works(e);
	for (unsigned i = 0; i < N; i++)
		close(fd[i]);
	WAIT_FOR(stats(e).connections == 0);
	WAIT_FOR(stats(e).partial_bytes == 0);
	free(buf);
	env_free(e);
}
END_TEST

static unsigned raise_files(unsigned want)
{
	struct rlimit rl;

	getrlimit(RLIMIT_NOFILE, &rl);
	rl.rlim_cur = rl.rlim_max < want ? rl.rlim_max : want;
	setrlimit(RLIMIT_NOFILE, &rl);
	return (unsigned)rl.rlim_cur;
}

START_TEST(ten_thousand_connections)
{
	enum { MAX = 2000 };
	unsigned files = raise_files(14000), n = files > 13000 ? 10000 : (files - 600) / 4 * 3;
	struct env *e = env_new((struct rpc_server_config){ .max_connections = files > 13000 ? MAX : n / 4 });
	unsigned max = files > 13000 ? MAX : n / 4;
	int busy = dial(e->port), *fd = calloc(n, sizeof *fd);
	uint32_t xid = 0;

	for (unsigned i = 0; i < n; i++) {
		fd[i] = dial(e->port);
		if (i % 20)
			continue;
		ck_assert(call(busy, ++xid, P_FAST));
		ck_assert_uint_eq(reply_xid(busy), xid);
		ck_assert_uint_le(stats(e).connections, max + max / 16 + 1);
	}
	works(e);
	WAIT_FOR(stats(e).accepted + stats(e).refused >= n);
	ck_assert(call(busy, ++xid, P_FAST));
	ck_assert_uint_eq(reply_xid(busy), xid);
	for (unsigned i = 0; i < n; i++)
		close(fd[i]);
	close(busy);
	WAIT_FOR(stats(e).connections == 0);
	works(e);
	free(fd);
	env_free(e);
}
END_TEST

/* ---- ends ---- */

struct load { struct env *e; _Atomic bool stop; _Atomic unsigned answers; };

static void *load_main(void *arg)
{
	struct load *l = arg;
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(l->e->port) };
	unsigned char buf[256 * 40], *p;
	size_t len = 0;

	for (uint32_t i = 0; i < 40; i++)
		len += make_call(buf + len, i, PROG, 3, i % 3 == 0 ? P_SUM : i % 11 == 1 ? P_DATA : P_FAST, 5000, 30);
	while (!atomic_load(&l->stop)) {
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		bool ok = connect(fd, (struct sockaddr *)&a, sizeof a) == 0;
		for (unsigned k = 0; ok && k < 100; k++) {
			ok = put(fd, buf, len);
			for (unsigned i = 0; ok && i < 40; i++) {
				ok = reply(fd, &p) != 0;
				free(p);
				atomic_fetch_add(&l->answers, ok);
			}
		}
		close(fd);
	}
	return NULL;
}

START_TEST(stopping_under_load)
{
	enum { CLIENTS = 6 };

	for (unsigned round = 0; round < 5; round++) {
		struct env *e = env_new((struct rpc_server_config){ 0 });
		struct load l = { .e = e };
		pthread_t t[CLIENTS];
		int gated = dial(e->port);

		for (unsigned i = 0; i < CLIENTS; i++)
			pthread_create(&t[i], NULL, load_main, &l);
		WAIT_FOR(atomic_load(&l.answers) > 500);
		if (round % 2)
			ck_assert(call(gated, 1, P_GATE_DISK)), wait_gate(e, 1), env_open(e);
		rpc_server_stop(e->s);
		atomic_store(&e->stopped, true);
		ck_assert_uint_eq(stats(e).connections, 0);
		ck_assert_uint_eq(stats(e).inflight_bytes, 0);
		ck_assert_uint_eq(stats(e).output_bytes, 0);
		ck_assert_uint_eq(stats(e).pool_threads, 0);
		atomic_store(&l.stop, true);
		for (unsigned i = 0; i < CLIENTS; i++)
			pthread_join(t[i], NULL);
		close(gated);
		env_free(e);
	}
}
END_TEST

/* A call that runs when the stop comes is still answered; one that hasn't begun is not run. */
START_TEST(a_running_call_is_answered_before_the_end)
{
	struct env *e = env_new((struct rpc_server_config){ 0 });
	int fd = dial(e->port);
	pthread_t t;

	ck_assert(call(fd, 1, P_GATE_DISK));
	wait_gate(e, 1);
	pthread_create(&t, NULL, (void *(*)(void *))(void *)rpc_server_stop, e->s);
	WAIT_FOR(atomic_load(&e->s->stopping));
	env_open(e);
	ck_assert_uint_eq(reply_xid(fd), 1);
	ck_assert(at_end(fd));
	pthread_join(t, NULL);
	close(fd);
	env_free(e);
}
END_TEST

START_TEST(an_address_is_given_up_with_a_reset)
{
	struct env *e = env_new((struct rpc_server_config){ 0 });
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) }, there = here;
	int fd = dial(e->port);
	char b;

	there.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1);
	ck_assert(call(fd, 1, P_FAST));
	ck_assert_uint_eq(reply_xid(fd), 1);
	rpc_server_abort_connections(e->s, (struct sockaddr *)&there);
	ck_assert(call(fd, 2, P_FAST));
	ck_assert_uint_eq(reply_xid(fd), 2);
	ck_assert(call(fd, 3, P_GATE_DISK));
	wait_gate(e, 1);
	rpc_server_abort_connections(e->s, (struct sockaddr *)&here);
	ck_assert_int_eq(recv(fd, &b, 1, MSG_DONTWAIT), -1);	/* at once, and no orderly end */
	ck_assert_int_eq(errno, ECONNRESET);
	WAIT_FOR(atomic_load(&e->disconnected) == 1);
	env_open(e);
	close(fd);
	works(e);
	env_free(e);
}
END_TEST

START_TEST(peers_are_told_of_by_their_plain_addresses)
{
	struct env *e = env_new((struct rpc_server_config){ 0 });
	struct sockaddr_in mine, *seen = (struct sockaddr_in *)&e->last_peer;
	socklen_t len = sizeof mine;
	int fd = dial(e->port);

	getsockname(fd, (struct sockaddr *)&mine, &len);
	WAIT_FOR(atomic_load(&e->connected) == 1);
	pthread_mutex_lock(&e->mu);
	ck_assert_int_eq(seen->sin_family, AF_INET);
	ck_assert_uint_eq(seen->sin_port, mine.sin_port);
	ck_assert_uint_eq(seen->sin_addr.s_addr, mine.sin_addr.s_addr);
	ck_assert_uint_eq(((struct sockaddr_in *)&e->last_local)->sin_port, htons(e->port));
	pthread_mutex_unlock(&e->mu);
	close(fd);
	WAIT_FOR(atomic_load(&e->disconnected) == 1);
	env_free(e);
}
END_TEST

START_TEST(answers_may_come_later)
{
	struct env *e = env_new((struct rpc_server_config){ 0 });
	int fd = dial(e->port), gone = dial(e->port);

	ck_assert(call(gone, 1, P_LATER));
	ck_assert(call(fd, 2, P_LATER));
	ck_assert(call(fd, 3, P_LATER));
	pthread_mutex_lock(&e->mu);
	while (e->nlater < 3)
		pthread_cond_wait(&e->cond, &e->mu);
	pthread_mutex_unlock(&e->mu);
	close(gone);
	WAIT_FOR(atomic_load(&e->disconnected) == 1);
	for (unsigned i = 0; i < 3; i++) {
		ck_assert_uint_eq(rpc_later_call(e->later[i])->args_len, 8);
		for (unsigned k = 0; k < 300; k++)
			rpc_reply_u32(rpc_later_reply(e->later[i]), k);
		rpc_later_send(e->later[i], rpc_later_call(e->later[i])->xid == 3 ? RPC_SYSTEM_ERR : RPC_REPLY);
	}
	e->nlater = 0;
	uint32_t a = reply_xid(fd), b = reply_xid(fd);
	ck_assert(a + b == 5);
	ck_assert(call(fd, 4, P_LATER));	/* answered after the end: by env_free */
	WAIT_FOR(atomic_load(&e->handled) == 4);
	close(fd);
	env_free(e);
}
END_TEST

START_TEST(datagrams_are_served)
{
	struct env *e = env_new((struct rpc_server_config){ 0 });
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK + 6), .sin_port = htons(e->udp_port) };
	struct timeval tv = { .tv_sec = LIMIT_MS / 1000 };
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	unsigned char buf[512], in[512];

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, sizeof a), 0);	/* takes answers from the address that was asked only */
	send(fd, "x", 1, 0);
	send(fd, buf, 0, 0);
	size_t len = make_call(buf, 7, PROG, 3, P_NULL, 0, 0);
	send(fd, buf + 4, len - 4, 0);
	ck_assert_int_eq(recv(fd, in, sizeof in, 0), RPC_ACCEPTED_LEN);
	ck_assert_uint_eq(xdr_get32(in), 7);
	ck_assert(e->udp_seen);
	ck_assert_int_eq(e->last_peer.ss_family, AF_INET);
	ck_assert_uint_eq(((struct sockaddr_in *)&e->last_local)->sin_addr.s_addr, a.sin_addr.s_addr);
	len = make_call(buf, 8, OTHER, 3, P_NULL, 0, 0);
	send(fd, buf + 4, len - 4, 0);
	ck_assert_int_eq(recv(fd, in, sizeof in, 0), RPC_ACCEPTED_LEN);
	ck_assert_uint_eq(xdr_get32(in + 20), RPC_ACCEPT_PROG_UNAVAIL);
	len = make_call(buf, 9, PROG, 3, P_BIG, 0, 0);
	send(fd, buf + 4, len - 4, 0);
	ck_assert_int_eq(recv(fd, in, sizeof in, 0), RPC_ACCEPTED_LEN);
	ck_assert_uint_eq(xdr_get32(in + 20), RPC_ACCEPT_SYSTEM_ERR);
	close(fd);
	env_free(e);
}
END_TEST

START_TEST(addresses_to_listen_at)
{
	struct env *e = env_new((struct rpc_server_config){ 0 });
	uint16_t port = 0;

	ck_assert_int_eq(rpc_server_listen(e->s, "127.0.0.1:0", &port), 0);
	ck_assert_uint_ne(port, 0);
	close(dial(port));
	ck_assert_int_eq(rpc_server_listen(e->s, "192.0.2.77:0", &port), 0);	/* not ours yet */
	ck_assert_int_lt(rpc_server_listen(e->s, "127.0.0.1:99999", &port), 0);
	ck_assert_int_lt(rpc_server_listen(e->s, "nonsense", &port), 0);
	env_free(e);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("rpc server");
	TCase *c = tcase_create("all");

	tcase_add_test(c, each_refusal_and_the_connection_lives_on);
	tcase_add_test(c, nonsense_ends_the_connection_and_no_other);
	tcase_add_test(c, torn_calls_are_put_together);
	tcase_add_test(c, pipelined_calls_are_all_answered_once);
	tcase_add_test(c, big_records_come_whole_and_in_a_block);
	tcase_add_test(c, data_of_any_length_is_sent_from_its_block);
	tcase_add_test(c, slow_calls_hold_up_nobody);
	tcase_add_test(c, calls_in_flight_are_bounded);
	tcase_add_test(c, who_never_reads_is_held_and_then_cut_off);
	tcase_add_test(c, who_never_reads_small_answers_is_held_too);
	tcase_add_test(c, who_is_too_slow_is_cut_off);
	tcase_add_test(c, incomplete_records_are_bounded_together);
	tcase_add_test(c, ten_thousand_connections);
	tcase_add_test(c, stopping_under_load);
	tcase_add_test(c, a_running_call_is_answered_before_the_end);
	tcase_add_test(c, an_address_is_given_up_with_a_reset);
	tcase_add_test(c, peers_are_told_of_by_their_plain_addresses);
	tcase_add_test(c, answers_may_come_later);
	tcase_add_test(c, datagrams_are_served);
	tcase_add_test(c, addresses_to_listen_at);
	tcase_set_timeout(c, 180);
	suite_add_tcase(s, c);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
