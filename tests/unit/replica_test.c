/* The records of the NFS server's state: their bytes, what a receiver makes of them, snapshots, and what can't be right. */
#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/log.h"
#include "golden.h"
#include "nfsd-glue/clients.h"
#include "nfsd-glue/replica.h"

static struct replay *replay;
static struct replica *r;
static struct clients *clients;

/* What the client table emitted. */
static pthread_mutex_t emit_mu = PTHREAD_MUTEX_INITIALIZER;
static unsigned char emitted[1 << 20];
static size_t emitted_len[4096], nemitted, emitted_bytes;
static int emit_err;

static int emit(void *arg, const void *data, size_t len)
{
	(void)arg;
	auto_lock(&emit_mu);
	if (emit_err)
		return emit_err;
	ck_assert_uint_le(len, REPLICA_RECORD_MAX);
	ck_assert_uint_lt(nemitted, ARRAY_LEN(emitted_len));
	ck_assert_uint_le(emitted_bytes + len, sizeof emitted);
	memcpy(emitted + emitted_bytes, data, len);
	emitted_bytes += len;
	emitted_len[nemitted++] = len;
	return 0;
}

static void make(struct replay **t, struct replica **out, struct clients **c)
{
	const struct clients_config cc = { emit, NULL };
	struct replica_part part;

	ck_assert_int_eq(replay_new(0, t), 0);
	const struct replica_config rc = { .replay = *t };
	ck_assert_int_eq(replica_new(&rc, out), 0);
	ck_assert_int_eq(clients_new(&cc, c), 0);
	clients_part(*c, &part);
	replica_register(*out, REPLICA_CLIENT, &part);
}

static void unmake(struct replay *t, struct replica *u, struct clients *c)
{
	clients_free(c);
	replica_free(u);
	replay_free(t);
}

static void setup(void)
{
	nemitted = emitted_bytes = 0;
	emit_err = 0;
	make(&replay, &r, &clients);
}
static void teardown(void) { unmake(replay, r, clients); }

static struct sockaddr_storage addr(const char *host, unsigned port)
{
	struct sockaddr_storage s = { .ss_family = strchr(host, ':') ? AF_INET6 : AF_INET };

	if (s.ss_family == AF_INET) {
		((struct sockaddr_in *)(void *)&s)->sin_port = htons((uint16_t)port);
		ck_assert_int_eq(inet_pton(AF_INET, host, &((struct sockaddr_in *)(void *)&s)->sin_addr), 1);
	} else {
		((struct sockaddr_in6 *)(void *)&s)->sin6_port = htons((uint16_t)port);
		ck_assert_int_eq(inet_pton(AF_INET6, host, &((struct sockaddr_in6 *)(void *)&s)->sin6_addr), 1);
	}
	return s;
}

static struct replay_key key(uint32_t xid)
{
	struct sockaddr_storage peer = addr("10.0.0.1", 700);
	struct replay_key k;

	replay_key_init(&k, &peer, xid, 100003, 3, 8, 0, 0, "args", 4);
	k.sum = 0x123456789abcdef0;
	return k;
}

static void answer(struct replay *t, uint32_t xid, const char *bytes)
{
	struct replay_key k = key(xid);
	unsigned char out[REPLAY_REPLY_MAX];
	size_t len;

	ck_assert_int_eq(replay_begin(t, &k, out, &len), REPLAY_NEW);
	replay_done(t, &k, bytes, strlen(bytes));
	replay_sent(t, &k);
}

/* The answer to XID, or "" when there is none. */
static const char *answer_of(struct replay *t, uint32_t xid)
{
	static char out[REPLAY_REPLY_MAX + 1];
	struct replay_key k = key(xid);
	size_t len = 0;
	enum replay_verdict v = replay_begin(t, &k, (unsigned char *)out, &len);

	if (v == REPLAY_NEW)
		replay_forget(t, &k);
	out[len] = 0;
	return out;
}

/* ---- bytes ---- */

#define ADDR1 "00000000000000000000ffff0a000001"
#define ANSWER "01 00000000 " ADDR1 " 07000000 a3860100 03000000 08000000 04000000 f0debc9a78563412 0400 00000002"

START_TEST(golden_answer)
{
	unsigned char record[REPLICA_REPLY_RECORD_MAX];
	struct replay_key k = key(7);

	size_t len = replica_reply_encode(record, &k, "\0\0\0\2", 4, 0);
	golden_same(record, len, ANSWER);
}
END_TEST

struct stream { unsigned char p[4 << 20]; size_t at[1024], n; int fail_at; };
static struct stream stream;

static int keep(void *to, const void *data, size_t len)
{
	struct stream *s = to;

	ck_assert_uint_le(len, REPLICA_CHUNK_MAX);
	if (s->fail_at && (int)s->n == s->fail_at)
		return -ENOMEM;
	memcpy(s->p + s->at[s->n], data, len);
	s->at[s->n + 1] = s->at[s->n] + len;
	s->n++;
	return 0;
}

static void give(struct stream *s)
{
	memset(s, 0, sizeof *s);
	ck_assert_int_eq(replica_give(r, keep, s), 0);
}

static int take(struct replica *u, const struct stream *s, size_t part)
{
	return replica_take(u, s->p + s->at[part], s->at[part + 1] - s->at[part]);
}

START_TEST(golden_clients)
{
	struct sockaddr_storage peer = addr("10.0.0.1", 700), local = addr("10.0.0.9", 2049);

	clients_connected(clients, &peer, &local);
	clients_mounted(clients, &peer, "/v");
	give(&stream);
	ck_assert_uint_eq(stream.n, 3);
	size_t at = stream.at[1] + REPLICA_SNAPSHOT_HEAD + 3;
	golden_same(stream.p + at, stream.at[2] - at, "01 01 " ADDR1 " bc02 00000000000000000000ffff0a000009 0108"
		    " 03 " ADDR1 " 0200 2f76");
}
END_TEST

START_TEST(golden_snapshot)
{
	struct replay_key k = key(7);

	replay_set_clock(replay, 1000);
	replay_apply(replay, &k, "\0\0\0\2", 4);
	give(&stream);
	for (size_t i = 0; i < stream.n; i++)		/* its number is random */
		for (unsigned b = 0; b < 8; b++)
			stream.p[stream.at[i] + 2 + b] = (unsigned char)(8 - b);
	golden_same(stream.p, stream.at[stream.n], "01 01 0807060504030201 01 02 0807060504030201 01 3700 " ANSWER
		    " 01 03 0807060504030201 0100000000000000");
}
END_TEST

/* ---- giving and taking ---- */

static void count_conn(void *arg, const struct client_conn *c)
{
	unsigned *n = arg;
	struct sockaddr_storage s;

	ck_assert_uint_gt(client_addr_to(&c->peer, &s), 0);
	n[0]++;
	n[1] += c->ours;
}
static void count_text(void *arg, const struct client_addr *peer, const char *text)
{
	(void)peer;
	ck_assert_uint_gt(strlen(text), 0);
	++*(unsigned *)arg;
}

static void counts_are(struct clients *c, unsigned conns, unsigned ours, unsigned mounts)
{
	unsigned n[2] = { 0 }, m = 0;

	clients_each(c, count_conn, n);
	clients_each_mount(c, count_text, &m);
	ck_assert_uint_eq(n[0], conns);
	ck_assert_uint_eq(n[1], ours);
	ck_assert_uint_eq(m, mounts);
	struct clients_stats s;
	clients_stats(c, &s);
	ck_assert_uint_eq(s.conns, conns);
	ck_assert_uint_eq(s.ours, ours);
	ck_assert_uint_eq(s.mounts, mounts);
}

START_TEST(a_snapshot_makes_another_node_equal)
{
	struct replay *t2;
	struct replica *r2;
	struct clients *c2;
	char bytes[900] = "", path[CLIENTS_PATH_MAX + 1];

	for (unsigned i = 0; i < 500; i++) {
		struct sockaddr_storage peer = addr(i % 2 ? "10.1.2.3" : "fd00::7", i + 1), local = addr("10.0.0.9", 2049);
		memset(bytes, 'a' + (int)i % 26, sizeof bytes - 1);
		answer(replay, i, bytes + i % 800);
		clients_connected(clients, &peer, &local);
		snprintf(path, sizeof path, "/export/%0*u", (int)(i * 2 % 900) + 1, i);
		if (i < CLIENTS_MOUNTS_EACH)
			clients_mounted(clients, &peer, path);
	}
	give(&stream);
	ck_assert_uint_gt(stream.n, 6);
	make(&t2, &r2, &c2);
	answer(t2, 9999, "of an earlier life");
	ck_assert(!replica_complete(r2));
	for (size_t i = 0; i < stream.n; i++) {
		ck_assert(!replica_complete(r2));
		ck_assert_int_eq(take(r2, &stream, i), 0);
	}
	ck_assert(replica_complete(r2));
	counts_are(clients, 500, 500, CLIENTS_MOUNTS_EACH);
	counts_are(c2, 500, 0, CLIENTS_MOUNTS_EACH);
	for (unsigned i = 0; i < 500; i++) {
		auto_free char *want = strdup(answer_of(replay, i));
		ck_assert_str_eq(answer_of(t2, i), want);
		ck_assert_uint_gt(strlen(want), 0);
	}
	ck_assert_str_eq(answer_of(t2, 9999), "");
	ck_assert(replica_promoted(r2));
	unmake(t2, r2, c2);
}
END_TEST

START_TEST(a_snapshot_that_fails_says_so)
{
	memset(&stream, 0, sizeof stream);
	answer(replay, 1, "x");
	stream.fail_at = 1;
	ck_assert_int_eq(replica_give(r, keep, &stream), -ENOMEM);
	ck_assert_uint_eq(stream.n, 1);
}
END_TEST

/* Cut short, torn, or in another order: the state is not complete, and says so when this node is promoted. */
START_TEST(a_snapshot_that_is_cut_short)
{
	struct replay *t2;
	struct replica *r2;
	struct clients *c2;

	answer(replay, 1, "x");
	give(&stream);
	ck_assert_uint_eq(stream.n, 3);
	make(&t2, &r2, &c2);
	ck_assert_int_eq(take(r2, &stream, 1), -EBADMSG);	/* no begin */
	ck_assert_int_eq(take(r2, &stream, 0), 0);
	ck_assert_int_eq(take(r2, &stream, 2), -EBADMSG);	/* a record is missing */
	ck_assert(!replica_complete(r2));
	ck_assert_int_eq(take(r2, &stream, 0), 0);
	ck_assert_int_eq(take(r2, &stream, 1), 0);
	stream.p[stream.at[1] + 3] ^= 1;
	ck_assert_int_eq(take(r2, &stream, 1), -EBADMSG);	/* of another snapshot */
	ck_assert_int_eq(take(r2, &stream, 2), 0);
	ck_assert(!replica_complete(r2));			/* something of it was refused */
	ck_assert(!replica_promoted(r2));
	ck_assert(replica_complete(r2));			/* a primary's state is what it is */
	struct replica_stats s;
	replica_stats(r2, &s);
	ck_assert_uint_eq(s.malformed, 3);
	ck_assert_uint_eq(s.merged, 1);
	unmake(t2, r2, c2);
}
END_TEST

/* ---- what can't be right ---- */

static int feed(const char *hex)
{
	unsigned char p[4096];
	size_t n = 0;

	for (const char *h = hex; *h; h++) {
		unsigned v;
		if (*h == ' ')
			continue;
		ck_assert_int_eq(sscanf(h, "%2x", &v), 1);
		p[n++] = (unsigned char)v;
		h++;
	}
	return replica_take(r, p, n);
}

START_TEST(malformed)
{
#define NUMBER "0807060504030201"
	ck_assert_int_eq(feed(""), -EBADMSG);
	ck_assert_int_eq(feed("01"), -EBADMSG);
	ck_assert_int_eq(feed("01 01 " "0000000000000000"), -EBADMSG);
	ck_assert_int_eq(feed("02 01 " NUMBER), -EBADMSG);
	ck_assert_int_eq(feed("01 01 " NUMBER " 00"), -EBADMSG);
	static const char *const chunks[] = {
		"00", "01 3700", "01 0000", "01 0180", "04 0100 01", "ff 0100 01", "02 0100 01",	/* nobody registered for locks here */
		"01 0100 02", "01 3600 " ANSWER,
		"03 0100 02", "03 0200 0100", "03 0200 0105", "03 0200 0101",
		"03 1400 01 03 " ADDR1 " 0000", "03 1500 01 03 " ADDR1 " 0100 00", "03 1400 01 03 " ADDR1 " 0100",
		"03 1600 01 03 " ADDR1 " 0200 6100",
	};
	for (unsigned i = 0; i < ARRAY_LEN(chunks); i++) {
		char hex[512];
		ck_assert_int_eq(feed("01 01 " NUMBER), 0);
		snprintf(hex, sizeof hex, "01 02 " NUMBER " %s", chunks[i]);
		ck_assert_msg(feed(hex) == -EBADMSG, "chunk %u", i);
	}
	ck_assert_int_eq(feed("01 01 " NUMBER), 0);
	ck_assert_int_eq(feed("01 04 " NUMBER), -EBADMSG);
	ck_assert_int_eq(feed("01 00 " NUMBER), -EBADMSG);
	ck_assert_int_eq(feed("01 03 " NUMBER " 00"), -EBADMSG);
	ck_assert_int_eq(feed("01 01 " NUMBER), 0);
	ck_assert_int_eq(feed("01 02 " NUMBER " 01 3700 " ANSWER), 0);
	ck_assert_int_eq(feed("01 03 " NUMBER " 0100000000000000"), 0);
	ck_assert(replica_complete(r));
}
END_TEST

/* ---- clients ---- */

/* The records so far, in their order, on another node. */
static void replicate(struct clients *to)
{
	struct replica_part part;
	size_t at = 0;

	clients_part(to, &part);
	auto_lock(&emit_mu);
	for (size_t i = 0; i < nemitted; at += emitted_len[i++])
		ck_assert_int_eq(part.apply(part.arg, emitted + at, emitted_len[i], false), 0);
	nemitted = emitted_bytes = 0;
}

START_TEST(changes_cancel_out)
{
	struct sockaddr_storage peer = addr("10.0.0.1", 700), local = addr("10.0.0.9", 2049);

	for (unsigned i = 0; i < 1000; i++) {
		peer = addr("10.0.0.1", 1000 + i);
		clients_connected(clients, &peer, &local);
		clients_disconnected(clients, &peer, &local);
	}
	clients_flush(clients);
	ck_assert_uint_lt(emitted_bytes, 1000 * 37);	/* the thread that tells may have caught one now and then */
	struct clients_stats s;
	clients_stats(clients, &s);
	ck_assert_uint_eq(s.conns, 0);
}
END_TEST

START_TEST(clients_are_replicated)
{
	const struct clients_config cc = { emit, NULL };
	struct sockaddr_storage a = addr("10.0.0.1", 700), b = addr("fe80::1", 701), local = addr("10.0.0.9", 2049);
	struct clients *other;

	ck_assert_int_eq(clients_new(&cc, &other), 0);
	clients_connected(clients, &a, &local);
	clients_connected(clients, &b, &local);
	clients_mounted(clients, &a, "/one");
	clients_mounted(clients, &a, "/two");
	clients_mounted(clients, &a, "/two");
	clients_mounted(clients, &b, "/two");
	clients_flush(clients);
	replicate(other);
	counts_are(other, 2, 0, 3);
	clients_disconnected(clients, &b, &local);
	clients_unmounted(clients, &a, "/one");
	clients_unmounted(clients, &b, NULL);
	clients_flush(clients);
	replicate(other);
	counts_are(clients, 1, 1, 1);
	counts_are(other, 1, 0, 1);
	clients_free(other);
}
END_TEST

/* A server's own connections are nobody else's to remove. */
START_TEST(own_connections_stay)
{
	struct sockaddr_storage a = addr("10.0.0.1", 700), b = addr("10.0.0.1", 701), local = addr("10.0.0.9", 2049);
	const struct clients_config cc = { emit, NULL };
	struct replica_part part;
	struct clients *other;

	ck_assert_int_eq(clients_new(&cc, &other), 0);
	clients_connected(other, &a, &local);
	clients_flush(other);
	nemitted = emitted_bytes = 0;
	clients_connected(clients, &a, &local);
	clients_connected(clients, &b, &local);
	clients_flush(clients);
	replicate(other);
	counts_are(other, 2, 1, 0);
	clients_disconnected(clients, &a, &local);
	clients_flush(clients);
	replicate(other);
	counts_are(other, 2, 1, 0);
	clients_part(other, &part);
	part.clear(part.arg);
	counts_are(other, 1, 1, 0);
	clients_disconnected(other, &a, &local);
	counts_are(other, 0, 0, 0);
	clients_free(other);
}
END_TEST

/* The thread tells by itself. */
START_TEST(told_without_being_asked)
{
	struct sockaddr_storage a = addr("10.0.0.1", 700), local = addr("10.0.0.9", 2049);
	size_t n = 0;

	clients_connected(clients, &a, &local);
	while (!n) {
		usleep(1000);
		auto_lock(&emit_mu);
		n = nemitted;
	}
}
END_TEST

START_TEST(clients_are_bounded)
{
	const struct clients_config cc = { emit, NULL };
	struct sockaddr_storage a, local = addr("10.0.0.9", 2049);
	char text[64], host[32];
	struct clients *other;

	emit_err = -EROFS;
	ck_assert_int_eq(clients_new(&cc, &other), 0);
	for (unsigned i = 0; i < CLIENTS_CONNS_MAX + 100; i++) {
		snprintf(host, sizeof host, "10.%u.%u.1", i >> 8, i & 255);
		a = addr(host, 700);
		clients_connected(clients, &a, &local);
		for (unsigned m = 0; m < (i ? 1 : CLIENTS_MOUNTS_EACH + 9); m++) {
			snprintf(text, sizeof text, "/%u", m);
			clients_mounted(clients, &a, text);
		}
		if (!i)
			counts_are(clients, 1, 1, CLIENTS_MOUNTS_EACH);
	}
	counts_are(clients, CLIENTS_CONNS_MAX, CLIENTS_CONNS_MAX, CLIENTS_MOUNTS_MAX);
	/* connections of another server make room for our own */
	struct replica_part from, to;
	clients_part(clients, &from);
	clients_part(other, &to);
	give(&stream);
	struct replay *t2;
	struct replica *r2;
	ck_assert_int_eq(replay_new(0, &t2), 0);
	const struct replica_config rc = { .replay = t2 };
	ck_assert_int_eq(replica_new(&rc, &r2), 0);
	replica_register(r2, REPLICA_CLIENT, &to);
	for (size_t i = 0; i < stream.n; i++)
		ck_assert_int_eq(take(r2, &stream, i), 0);
	counts_are(other, CLIENTS_CONNS_MAX, 0, CLIENTS_MOUNTS_MAX);
	a = addr("10.255.0.1", 7);
	clients_connected(other, &a, &local);
	counts_are(other, CLIENTS_CONNS_MAX, 1, CLIENTS_MOUNTS_MAX);
	replica_free(r2);
	replay_free(t2);
	clients_free(other);
}
END_TEST

START_TEST(addresses_there_and_back)
{
	static const char *const hosts[] = { "10.1.2.3", "fd00::1:2", "::1" };

	for (unsigned i = 0; i < ARRAY_LEN(hosts); i++) {
		struct sockaddr_storage a = addr(hosts[i], 40000), b;
		struct client_addr c;
		client_addr_from(&c, &a);
		ck_assert_uint_eq(c.port, 40000);
		socklen_t len = client_addr_to(&c, &b);
		ck_assert_uint_eq(len, a.ss_family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
		ck_assert_mem_eq(&a, &b, len);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("replica");
	TCase *c = tcase_create("replica");

	log_init("replica_test", LOG_SINK_STDERR, LOG_LVL_ERROR);
	tcase_set_timeout(c, 60);
	tcase_add_checked_fixture(c, setup, teardown);
	tcase_add_test(c, golden_answer);
	tcase_add_test(c, golden_clients);
	tcase_add_test(c, golden_snapshot);
	tcase_add_test(c, a_snapshot_makes_another_node_equal);
	tcase_add_test(c, a_snapshot_that_fails_says_so);
	tcase_add_test(c, a_snapshot_that_is_cut_short);
	tcase_add_test(c, malformed);
	tcase_add_test(c, changes_cancel_out);
	tcase_add_test(c, clients_are_replicated);
	tcase_add_test(c, own_connections_stay);
	tcase_add_test(c, told_without_being_asked);
	tcase_add_test(c, clients_are_bounded);
	tcase_add_test(c, addresses_there_and_back);
	suite_add_tcase(s, c);
	SRunner *sr = srunner_create(s);
	srunner_run_all(sr, CK_ENV);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? 1 : 0;
}
