/*
 * Links keep their promises: two nodes find each other whoever starts first, messages arrive in order, a silent or cut link is noticed in time and made
 * again, streams reach both ends, and strangers get nothing and change nothing.
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
#include "fs/base/log.h"
#include "mirror/link.h"

enum { LIMIT_MS = 15000, PEER_TIMEOUT_MS = 500 };

static const unsigned char key[CONN_KEY_LEN] = "this is the key of the volume..";
static const unsigned char other_key[CONN_KEY_LEN] = "this is some other volume's key";
static const unsigned char uuid[UUID_LEN] = { 1, 2, 3 };

/* ---- one node ---- */

struct end {
	pthread_mutex_t mu;		/* guards what follows */
	pthread_cond_t cond;
	_Atomic unsigned ups, downs, beats, messages, streams, joins;	/* also read without it */
	uint64_t last_seq;
	_Atomic bool disorder;
	bool hold;
	char why[REASON_MAX];
	struct hello hello;
	struct conn *stream;
	uint64_t token;
	struct msg last;
	unsigned node;
	char address[64];
	struct links *l;
	struct conn_security *s;
	struct links_config cfg;
};

static void tell(struct end *e)
{
	pthread_cond_broadcast(&e->cond);
	pthread_mutex_unlock(&e->mu);
}

static void on_self_hello(void *arg, struct hello *h)
{
	h->lsn = 100 + ((struct end *)arg)->node;
	h->nlineage = 1;
	h->lineage[0] = (struct lineage_entry){ { .reign = 1, .node = 1, .tag = 5 }, 7 };
}

static void on_self_heartbeat(void *arg, struct heartbeat *h) { h->lsn = ((struct end *)arg)->node; }

static void on_up(void *arg, unsigned peer, const struct hello *h)
{
	struct end *e = arg;

	pthread_mutex_lock(&e->mu);
	ck_assert_uint_eq(h->node, peer);
	e->ups++;
	e->hello = *h;
	e->last_seq = 0;
	tell(e);
}

static void on_down(void *arg, unsigned peer, const char *why)
{
	struct end *e = arg;

	(void)peer;
	pthread_mutex_lock(&e->mu);
	e->downs++;
	snprintf(e->why, sizeof e->why, "%s", why);
	tell(e);
}

static void on_message(void *arg, unsigned peer, const struct msg *m)
{
	struct end *e = arg;

	(void)peer;
	pthread_mutex_lock(&e->mu);
	while (e->hold)
		pthread_cond_wait(&e->cond, &e->mu);
	e->messages++;
	e->last = *m;
	if (m->kind == FRAME_ACK) {
		if (m->ack.recv_seq != e->last_seq + 1)
			e->disorder = true;
		e->last_seq = m->ack.recv_seq;
	}
	tell(e);
}

static void on_heartbeat(void *arg, unsigned peer, const struct heartbeat *h)
{
	struct end *e = arg;

	pthread_mutex_lock(&e->mu);
	e->beats++;
	if (h->lsn != peer)
		e->disorder = true;
	tell(e);
}

static void on_stream(void *arg, unsigned peer, uint64_t token, struct conn *c)
{
	struct end *e = arg;

	(void)peer;
	pthread_mutex_lock(&e->mu);
	conn_free(e->stream);
	e->stream = c;
	e->token = token;
	e->streams++;
	tell(e);
}

static void on_join(void *arg, const struct join_msg *j, struct joined_msg *a)
{
	struct end *e = arg;

	pthread_mutex_lock(&e->mu);
	e->joins++;
	memcpy(a->uuid, uuid, UUID_LEN);
	a->generation = 77;
	a->members = (uint16_t)(1 << j->node | 2);
	memset(a->mac_key, 9, sizeof a->mac_key);
	tell(e);
}

static bool in_time(struct end *e, struct timespec until)
{
	return pthread_cond_timedwait(&e->cond, &e->mu, &until) == 0;
}

/* Waits until COND of the end holds. */
#define AWAIT(e, condition) do { \
	struct timespec until_ = clock_mono_after_ms(LIMIT_MS); \
	pthread_mutex_lock(&(e)->mu); \
	while (!(condition) && in_time(e, until_)) \
		; \
	bool held_ = condition; \
	pthread_mutex_unlock(&(e)->mu); \
	ck_assert_msg(held_, "never: %s", #condition); \
} while (0)

/* An address that nobody else takes meanwhile: on a loopback host of this process, and no port that the kernel gives to who connects. */
static void address_new(char address[64])
{
	enum { FIRST_PORT = 7400 };
	static unsigned given;
	unsigned pid = (unsigned)getpid();

	snprintf(address, 64, "127.%u.%u.%u:%u", 64 + (pid >> 16 & 63), pid >> 8 & 255, pid & 255, FIRST_PORT + given++);
}

static void end_prepare(struct end *e, unsigned node, bool tls)
{
	memset(e, 0, sizeof *e);
	pthread_mutex_init(&e->mu, NULL);
	cond_init_mono(&e->cond);
	e->node = node;
	address_new(e->address);
	ck_assert_int_eq(conn_security_new(tls ? key : NULL, uuid, &e->s), 0);
	e->cfg = (struct links_config){ .node = node, .listen = e->address, .security = e->s, .instance = 1000 + node,
		.peer_timeout_ms = PEER_TIMEOUT_MS, .self_hello = on_self_hello, .self_heartbeat = on_self_heartbeat, .up = on_up,
		.down = on_down, .message = on_message, .heartbeat = on_heartbeat, .stream = on_stream, .join = on_join, .arg = e };
	memcpy(e->cfg.uuid, uuid, UUID_LEN);
}

static void end_knows(struct end *e, unsigned node, const char *address)
{
	e->cfg.peers[node] = (struct link_peer){ node, node == 1 ? "one" : "two", address };
}

static void end_start(struct end *e)
{
	ck_assert_int_eq(links_start(&e->cfg, &e->l), 0);
}

static void end_stop(struct end *e)
{
	links_stop(e->l);
	e->l = NULL;
	conn_free(e->stream);
	conn_security_free(e->s);
}

struct two { struct end one, two; };	/* two dials one */

static void two_prepare(struct two *t, bool tls)
{
	end_prepare(&t->one, 1, tls);
	end_prepare(&t->two, 2, tls);
	end_knows(&t->one, 2, t->two.address);
	end_knows(&t->two, 1, t->one.address);
}

static void two_up(struct two *t, bool tls)
{
	two_prepare(t, tls);
	end_start(&t->one);
	end_start(&t->two);
	AWAIT(&t->one, t->one.ups == 1);
	AWAIT(&t->two, t->two.ups == 1);
}

static void two_stop(struct two *t)
{
	end_stop(&t->two);
	end_stop(&t->one);
}

/* ---- the two of them ---- */

static uint64_t rtt(struct end *e)
{
	struct link_stats s;

	link_stats(e->l, 3 - e->node, &s);
	return s.rtt_ns ? s.rtt_ns : UINT64_MAX;
}

/* Both find the other near: the time between heartbeats (a fifth of the peers' timeout, split between the two) isn't counted, or one were beyond. */
static void near(struct two *t)
{
	enum { NEAR_NS = PEER_TIMEOUT_MS / 5 * 1000000 * 2 / 5 };
	uint64_t until = clock_mono_ms() + LIMIT_MS;

	while ((rtt(&t->one) >= NEAR_NS || rtt(&t->two) >= NEAR_NS) && clock_mono_ms() < until)
		poll(NULL, 0, 5);
	ck_assert_uint_lt(rtt(&t->one), NEAR_NS);
	ck_assert_uint_lt(rtt(&t->two), NEAR_NS);
}

START_TEST(test_up)
{
	struct two t;
	struct link_stats s;

	two_prepare(&t, _i & 1);
	end_start(_i & 2 ? &t.two : &t.one);		/* whoever starts first */
	end_start(_i & 2 ? &t.one : &t.two);
	AWAIT(&t.one, t.one.ups == 1 && t.one.beats >= 3);
	AWAIT(&t.two, t.two.ups == 1 && t.two.beats >= 3);
	ck_assert_uint_eq(t.one.hello.lsn, 102);
	ck_assert_uint_eq(t.two.hello.lsn, 101);
	ck_assert_uint_eq(t.one.hello.instance, 1002);
	ck_assert_uint_eq(t.one.hello.nlineage, 1);
	ck_assert(link_is_up(t.one.l, 2) && link_is_up(t.two.l, 1));
	ck_assert_uint_le(clock_mono_ms() - link_last_heard(t.one.l, 2), LIMIT_MS);
	link_stats(t.two.l, 1, &s);
	ck_assert_uint_gt(s.bytes_in, 0);
	near(&t);
	ck_assert(!t.one.disorder && !t.two.disorder && !t.one.downs);
	two_stop(&t);
}
END_TEST

/* More than an outbox holds are in flight at no time: the sender waits for the receiver every thousand. */
static void *send_many(void *arg)
{
	struct { struct end *from, *to; } *x = arg;

	for (uint64_t i = 1; i <= 10000; i++) {
		struct msg m = { .kind = FRAME_ACK, .ack = { i, i, i } };
		if (i % 1000 == 0)
			AWAIT(x->to, x->to->last_seq >= i - 1000);
		ck_assert_int_eq(link_send(x->from->l, x->to->node, &m), 0);
	}
	return NULL;
}

START_TEST(test_ten_thousand_messages)
{
	struct two t;
	pthread_t a, b;

	two_up(&t, _i);
	struct { struct end *from, *to; } there = { &t.one, &t.two }, back = { &t.two, &t.one };
	pthread_create(&a, NULL, send_many, &there);
	pthread_create(&b, NULL, send_many, &back);
	pthread_join(a, NULL);
	pthread_join(b, NULL);
	AWAIT(&t.one, t.one.messages == 10000);
	AWAIT(&t.two, t.two.messages == 10000);
	ck_assert(!t.one.disorder && !t.two.disorder);
	ck_assert_uint_eq(t.one.downs + t.two.downs, 0);
	two_stop(&t);
}
END_TEST

START_TEST(test_reset_and_again)
{
	struct two t;

	two_up(&t, _i);
	for (unsigned k = 1; k <= 3; k++) {
		struct end *e = k % 2 ? &t.one : &t.two;
		link_reset(e->l, 3 - e->node, "because");
		AWAIT(e, e->downs == k);
		ck_assert_str_eq(e->why, "because");
		AWAIT(&t.one, t.one.ups == k + 1 && t.one.downs == k);
		AWAIT(&t.two, t.two.ups == k + 1 && t.two.downs == k);
	}
	two_stop(&t);
}
END_TEST

START_TEST(test_peer_restarts)
{
	struct two t;
	struct end *e = _i ? &t.one : &t.two, *other = _i ? &t.two : &t.one;

	two_up(&t, true);
	links_stop(e->l);
	AWAIT(other, other->downs == 1);
	ck_assert(!link_is_up(other->l, e->node));
	ck_assert_int_eq(link_send(other->l, e->node, &(struct msg){ .kind = FRAME_OUTDATE }), -ENOTCONN);
	e->cfg.instance++;
	end_start(e);
	AWAIT(other, other->ups == 2);
	ck_assert_uint_eq(other->hello.instance, e->cfg.instance);
	two_stop(&t);
}
END_TEST

START_TEST(test_stop_delivers_goodbye)
{
	struct two t;
	struct msg m = { .kind = FRAME_GOODBYE, .goodbye = { .reason = "see you" } };

	two_up(&t, _i);
	ck_assert_int_eq(link_send(t.one.l, 2, &m), 0);
	links_stop(t.one.l);
	t.one.l = NULL;
	AWAIT(&t.two, t.two.downs == 1);
	ck_assert_uint_eq(t.two.messages, 1);
	ck_assert_str_eq(t.two.last.goodbye.reason, "see you");
	ck_assert_uint_eq(t.one.downs, 0);
	two_stop(&t);
}
END_TEST

static void hold(struct end *e, bool on)
{
	pthread_mutex_lock(&e->mu);
	e->hold = on;
	if (on)
		pthread_mutex_unlock(&e->mu);
	else
		tell(e);
}

/* A peer that reads nothing: the socket fills, then the outbox, and then the link is dropped. */
START_TEST(test_full_outbox_drops)
{
	enum { SOCKET_HOLDS = 1 << 20 };	/* messages, generously */
	struct two t;
	struct msg m = { .kind = FRAME_OUTDATE };
	unsigned n = 0;

	two_up(&t, true);
	hold(&t.one, true);
	hold(&t.two, true);
	ck_assert_int_eq(link_send(t.two.l, 1, &m), 0);		/* holds one's thread */
	ck_assert_int_eq(link_send(t.one.l, 2, &m), 0);		/* and two's */
	while (link_send(t.one.l, 2, &m) == 0 && n <= SOCKET_HOLDS)
		n++;
	ck_assert_uint_le(n, SOCKET_HOLDS);
	ck_assert_uint_ge(n, LINK_BACKLOG_MAX);
	hold(&t.one, false);
	hold(&t.two, false);
	AWAIT(&t.one, t.one.downs >= 1 && t.one.ups >= 2);
	two_stop(&t);
}
END_TEST

/* ---- streams ---- */

static void streams_meet(struct two *t, uint64_t token)
{
	char buf[6];

	AWAIT(&t->one, t->one.token == token);
	AWAIT(&t->two, t->two.token == token);
	ck_assert_int_eq(conn_writev(t->one.stream, &(struct iovec){ "hello", 6 }, 1, LIMIT_MS), 0);
	ck_assert_int_eq(conn_read(t->two.stream, buf, 6, LIMIT_MS), 0);
	ck_assert_str_eq(buf, "hello");
	ck_assert_int_eq(conn_writev(t->two.stream, &(struct iovec){ "there", 6 }, 1, LIMIT_MS), 0);
	ck_assert_int_eq(conn_read(t->one.stream, buf, 6, LIMIT_MS), 0);
	ck_assert_str_eq(buf, "there");
}

START_TEST(test_streams)
{
	struct two t;

	two_up(&t, _i);
	for (uint64_t token = 1; token <= 20; token++) {
		struct end *first = token % 2 ? &t.one : &t.two, *second = token % 2 ? &t.two : &t.one;
		ck_assert_int_eq(link_stream(first->l, second->node, token), 0);
		ck_assert_int_eq(link_stream(second->l, first->node, token), 0);
		streams_meet(&t, token);
	}
	ck_assert_uint_eq(t.one.downs + t.two.downs, 0);
	two_stop(&t);
}
END_TEST

/* Nobody expects it: the acceptor holds it for a while, then refuses; the dialler's link starts over. */
START_TEST(test_unknown_token)
{
	struct two t;
	struct link_stats s;

	two_up(&t, true);
	ck_assert_int_eq(link_stream(t.one.l, 2, 8), 0);	/* expected, but another */
	ck_assert_int_eq(link_stream(t.two.l, 1, 9), 0);
	AWAIT(&t.two, t.two.downs == 1);
	AWAIT(&t.two, t.two.ups == 2);
	ck_assert_uint_eq(t.one.streams + t.two.streams, 0);
	link_stats(t.one.l, 2, &s);
	ck_assert_uint_eq(s.refused, 1);
	two_stop(&t);
}
END_TEST

START_TEST(test_stop_ends_waiting_streams)
{
	struct two t;

	two_up(&t, true);
	ck_assert_int_eq(link_stream(t.two.l, 1, 9), 0);
	uint64_t start = clock_mono_ms();
	two_stop(&t);
	ck_assert_uint_lt(clock_mono_ms() - start, 4000);
}
END_TEST

/* ---- a link that can be cut ---- */

struct wire {
	char address[64], target[64];
	int lfd, stop[2];
	_Atomic bool silent;		/* nothing passes, nothing is closed */
	pthread_t t;
};

static bool pass(struct wire *w, int from, int to)
{
	char buf[4096];

	if (atomic_load(&w->silent))
		return true;
	ssize_t n = recv(from, buf, sizeof buf, 0);
	return n > 0 && send(to, buf, (size_t)n, MSG_NOSIGNAL) == n;
}

static void relay(struct wire *w, int a, int b)
{
	struct pollfd p[3] = { { a, POLLIN, 0 }, { b, POLLIN, 0 }, { w->stop[0], POLLIN, 0 } };

	for (;;) {
		bool silent = atomic_load(&w->silent);
		p[0].events = p[1].events = silent ? 0 : POLLIN;
		if (poll(p, 3, 20) < 0 || p[2].revents)
			return;
		if ((p[0].revents && !pass(w, a, b)) || (p[1].revents && !pass(w, b, a)))
			return;
		if ((p[0].revents | p[1].revents) & (POLLHUP | POLLERR))
			return;
	}
}

static int dial_raw(const char *address)
{
	struct sockaddr_in a = { .sin_family = AF_INET };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char host[64];

	snprintf(host, sizeof host, "%.*s", (int)strcspn(address, ":"), address);
	ck_assert_int_eq(inet_pton(AF_INET, host, &a.sin_addr), 1);
	a.sin_port = htons((uint16_t)atoi(strchr(address, ':') + 1));
	if (connect(fd, (struct sockaddr *)&a, sizeof a) == 0)
		return fd;
	close(fd);
	return -1;
}

/* One connection at a time is enough for a control link. */
static void *wire_main(void *arg)
{
	struct wire *w = arg;
	struct pollfd p[2] = { { w->lfd, POLLIN, 0 }, { w->stop[0], POLLIN, 0 } };

	for (;;) {
		if (poll(p, 2, -1) < 0 || p[1].revents)
			return NULL;
		auto_fd int a = accept(w->lfd, NULL, NULL);
		auto_fd int b = dial_raw(w->target);
		if (a >= 0 && b >= 0)
			relay(w, a, b);
	}
}

static void wire_start(struct wire *w, const char *target)
{
	memset(w, 0, sizeof *w);
	snprintf(w->target, sizeof w->target, "%s", target);
	address_new(w->address);
	w->lfd = conn_listen(w->address);
	ck_assert_int_ge(w->lfd, 0);
	ck_assert_int_eq(pipe(w->stop), 0);
	pthread_create(&w->t, NULL, wire_main, w);
}

static void wire_stop(struct wire *w)
{
	close(w->stop[1]);
	pthread_join(w->t, NULL);
	close(w->stop[0]);
	close(w->lfd);
}

START_TEST(test_silence_is_noticed)
{
	struct two t;
	struct wire w;

	two_prepare(&t, _i);
	wire_start(&w, t.one.address);
	end_knows(&t.two, 1, w.address);
	end_start(&t.one);
	end_start(&t.two);
	AWAIT(&t.two, t.two.beats >= 2);
	AWAIT(&t.one, t.one.beats >= 2);
	uint64_t start = clock_mono_ms();
	w.silent = true;
	AWAIT(&t.one, t.one.downs == 1);
	AWAIT(&t.two, t.two.downs == 1);
	uint64_t now = clock_mono_ms();
	printf("# silence noticed after %llu ms\n", (unsigned long long)(now - start));
	ck_assert_uint_gt(now - link_last_heard(t.one.l, 2), PEER_TIMEOUT_MS);
	ck_assert_uint_gt(now - link_last_heard(t.two.l, 1), PEER_TIMEOUT_MS);
	ck_assert_uint_le(now - start, 10 * PEER_TIMEOUT_MS);	/* a busy machine; 501 ms otherwise */
	w.silent = false;
	AWAIT(&t.one, t.one.ups == 2);
	AWAIT(&t.two, t.two.ups == 2);
	two_stop(&t);
	wire_stop(&w);
}
END_TEST

/* ---- strangers ---- */

/* What comes back until the end; the length. */
static size_t hear_all(int fd)
{
	char buf[4096];
	size_t len = 0;
	ssize_t n;
	struct timeval tv = { .tv_sec = LIMIT_MS / 1000 };

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof tv);
	while ((n = recv(fd, buf, sizeof buf, 0)) > 0)
		len += (size_t)n;
	ck_assert(n == 0 || errno == ECONNRESET);
	return len;
}

static uint64_t count(struct end *e, unsigned peer, bool malformed)
{
	struct link_stats s;

	link_stats(e->l, peer, &s);
	return malformed ? s.malformed : s.refused;
}

/* Waits until N strangers were counted. */
static void counted(struct end *e, uint64_t n)
{
	uint64_t until = clock_mono_ms() + LIMIT_MS;

	while (count(e, 0, false) + count(e, 0, true) < n && clock_mono_ms() < until)
		poll(NULL, 0, 5);
	ck_assert_uint_ge(count(e, 0, false) + count(e, 0, true), n);
}

static void good_hello(struct msg *m)
{
	memset(m, 0, sizeof *m);
	m->kind = FRAME_HELLO;
	m->hello = (struct hello){ .kind = HELLO_CONTROL, .version_min = 1, .version_max = 1, .node = 2, .instance = 5 };
	memcpy(m->hello.uuid, uuid, UUID_LEN);
}

/* Plain link: says M, hears nothing. Returns how often this was counted. */
static uint64_t say(struct end *e, const struct msg *m, unsigned counted_on, bool malformed)
{
	struct enc f = { 0 };
	uint64_t before = count(e, counted_on, malformed);
	auto_fd int fd = dial_raw(e->address);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(msg_frame(&f, m), 0);
	ck_assert_int_eq(send(fd, f.p, f.len, MSG_NOSIGNAL), (ssize_t)f.len);
	enc_free(&f);
	ck_assert_uint_eq(hear_all(fd), 0);
	return count(e, counted_on, malformed) - before;
}

START_TEST(test_wrong_hellos)
{
	struct two t;
	struct msg m;

	two_up(&t, false);
	good_hello(&m);
	m.hello.uuid[3] ^= 1;
	ck_assert_uint_eq(say(&t.one, &m, 0, false), 1);
	good_hello(&m);
	m.hello.version_min = m.hello.version_max = 2;
	ck_assert_uint_eq(say(&t.one, &m, 0, false), 1);
	good_hello(&m);
	m.hello.node = 3;				/* unknown */
	ck_assert_uint_eq(say(&t.one, &m, 0, false), 1);
	good_hello(&m);
	m.hello.node = 1;				/* its own number */
	ck_assert_uint_eq(say(&t.one, &m, 0, false), 1);
	good_hello(&m);					/* another instance of a node that is connected */
	ck_assert_uint_eq(say(&t.one, &m, 2, false), 1);
	good_hello(&m);
	m.hello.kind = HELLO_STREAM;			/* of another instance */
	m.hello.token = 4;
	ck_assert_uint_eq(say(&t.one, &m, 2, false), 1);
	good_hello(&m);
	m.hello.node = 1;				/* one must not dial two */
	ck_assert_uint_eq(say(&t.two, &m, 1, false), 1);
	good_hello(&m);
	m.kind = FRAME_GOODBYE;				/* no hello at all */
	memset(&m.goodbye, 0, sizeof m.goodbye);
	ck_assert_uint_eq(say(&t.one, &m, 0, true), 1);
	ck_assert_uint_eq(t.one.downs + t.two.downs + t.one.streams, 0);
	ck_assert_uint_eq(t.one.ups + t.two.ups, 2);
	two_stop(&t);
}
END_TEST

START_TEST(test_noise)
{
	struct two t;

	two_up(&t, _i);
	uint64_t before = count(&t.one, 0, false) + count(&t.one, 0, true);
	auto_fd int fd = dial_raw(t.one.address);
	ck_assert_int_eq(send(fd, "SSH-2.0-OpenSSH_9.2p1 Debian-2+deb12u3 and what else", 52, MSG_NOSIGNAL), 52);
	ck_assert_uint_le(hear_all(fd), _i ? 7 : 0);	/* a TLS alert */
	counted(&t.one, before + 1);
	ck_assert_uint_eq(count(&t.one, 0, false) + count(&t.one, 0, true), before + 1);
	ck_assert_uint_eq(t.one.downs, 0);
	two_stop(&t);
}
END_TEST

START_TEST(test_wrong_key)
{
	struct two t;

	two_prepare(&t, true);
	conn_security_free(t.two.s);
	ck_assert_int_eq(conn_security_new(other_key, uuid, &t.two.s), 0);
	t.two.cfg.security = t.two.s;
	end_start(&t.one);
	end_start(&t.two);
	counted(&t.one, 2);
	ck_assert_uint_eq(t.one.ups + t.two.ups, 0);
	two_stop(&t);
}
END_TEST

/* Milliseconds until two is up though many others have connected and say nothing; those are thrown out. */
static uint64_t up_beside_half_open(void)
{
	enum { MANY = 100 };
	struct two t;
	int fd[MANY];

	two_prepare(&t, true);
	end_start(&t.one);
	for (unsigned i = 0; i < MANY; i++)
		ck_assert_int_ge(fd[i] = dial_raw(t.one.address), 0);
	uint64_t start = clock_mono_ms();
	end_start(&t.two);
	AWAIT(&t.two, t.two.ups == 1);
	uint64_t took = clock_mono_ms() - start;
	printf("# up beside %d half-open connections after %llu ms\n", MANY, (unsigned long long)took);
	for (unsigned i = 0; i < MANY; i++) {
		ck_assert_uint_eq(hear_all(fd[i]), 0);
		close(fd[i]);
	}
	two_stop(&t);
	return took;
}

/* Who connects and says nothing keeps nobody out: not until he is thrown out for his silence, after 2 s. A busy machine may be as slow as that, but not
 * always. */
START_TEST(test_half_open)
{
	unsigned tries = 1;

	while (up_beside_half_open() >= 1900 && tries < 5)
		tries++;
	ck_assert_uint_lt(tries, 5);
}
END_TEST

/* On a link that is up, a message that has no business there ends it. */
START_TEST(test_malformed_on_control)
{
	struct end one;
	struct msg m;
	struct conn *c;

	end_prepare(&one, 1, true);
	end_knows(&one, 2, "127.0.0.1:1");
	end_start(&one);
	ck_assert_int_eq(conn_dial(one.s, one.address, NULL, LIMIT_MS, &c), 0);
	good_hello(&m);
	ck_assert_int_eq(msg_write(c, &m, LIMIT_MS), 0);
	AWAIT(&one, one.ups == 1);
	if (_i == 0)
		ck_assert_int_eq(msg_write(c, &m, LIMIT_MS), 0);	/* a second hello */
	else
		ck_assert_int_eq(conn_writev(c, &(struct iovec){ "what is this, in forty bytes and more...", 40 }, 1, LIMIT_MS), 0);
	AWAIT(&one, one.downs == 1);
	ck_assert_uint_eq(count(&one, 2, true), 1);
	ck_assert_uint_eq(one.messages, 0);
	conn_free(c);
	end_stop(&one);
}
END_TEST

/* ---- joining ---- */

START_TEST(test_join)
{
	struct end one;
	struct conn_security *s;
	struct hello h = { .version_min = 1, .version_max = 1, .node = 2, .instance = 5 };
	struct join_msg j = { .node = 2 };
	struct joined_msg answer;

	end_prepare(&one, 1, true);
	end_knows(&one, 2, "127.0.0.1:1");
	end_start(&one);
	ck_assert_int_eq(conn_security_new(key, (unsigned char[UUID_LEN]){ 0 }, &s), 0);
	ck_assert_int_eq(link_join(s, one.address, &h, &j, &answer), 0);
	ck_assert_uint_eq(answer.generation, 77);
	ck_assert_uint_eq(answer.members, 1 << 2 | 2);
	ck_assert_int_eq(memcmp(answer.uuid, uuid, UUID_LEN), 0);
	j.node = 3;					/* not what the hello says */
	ck_assert_int_lt(link_join(s, one.address, &h, &j, &answer), 0);
	conn_security_free(s);
	ck_assert_int_eq(conn_security_new(other_key, (unsigned char[UUID_LEN]){ 0 }, &s), 0);
	j.node = 2;
	ck_assert_int_lt(link_join(s, one.address, &h, &j, &answer), 0);
	ck_assert_uint_eq(one.joins, 1);
	conn_security_free(s);
	end_stop(&one);
}
END_TEST

START_TEST(test_address_in_use)
{
	struct end one;
	struct links *l;

	end_prepare(&one, 1, true);
	end_start(&one);
	ck_assert_int_eq(links_start(&one.cfg, &l), -EADDRINUSE);
	end_stop(&one);
}
END_TEST

/* A node without peers, or one that only dials. */
START_TEST(test_without_listening)
{
	struct two t;

	two_prepare(&t, true);
	t.two.cfg.listen = _i ? "" : NULL;
	end_start(&t.two);
	end_start(&t.one);
	AWAIT(&t.two, t.two.ups == 1);
	two_stop(&t);
	end_prepare(&t.one, 1, true);
	t.one.cfg.listen = "";
	end_start(&t.one);
	end_stop(&t.one);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("link");
	TCase *c = tcase_create("link");

	log_init("link_test", LOG_SINK_STDERR, getenv("VERBOSE") ? LOG_LVL_DEBUG : LOG_LVL_ERROR);
	tcase_set_timeout(c, 60);
	suite_add_tcase(s, c);
	tcase_add_loop_test(c, test_up, 0, 4);
	tcase_add_loop_test(c, test_ten_thousand_messages, 0, 2);
	tcase_add_loop_test(c, test_reset_and_again, 0, 2);
	tcase_add_loop_test(c, test_peer_restarts, 0, 2);
	tcase_add_loop_test(c, test_stop_delivers_goodbye, 0, 2);
	tcase_add_test(c, test_full_outbox_drops);
	tcase_add_loop_test(c, test_streams, 0, 2);
	tcase_add_test(c, test_unknown_token);
	tcase_add_test(c, test_stop_ends_waiting_streams);
	tcase_add_loop_test(c, test_silence_is_noticed, 0, 2);
	tcase_add_test(c, test_wrong_hellos);
	tcase_add_loop_test(c, test_noise, 0, 2);
	tcase_add_test(c, test_wrong_key);
	tcase_add_test(c, test_half_open);
	tcase_add_loop_test(c, test_malformed_on_control, 0, 2);
	tcase_add_test(c, test_join);
	tcase_add_test(c, test_address_in_use);
	tcase_add_loop_test(c, test_without_listening, 0, 2);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
