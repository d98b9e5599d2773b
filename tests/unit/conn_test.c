/*
 * Connections keep their promises: frames arrive whole and in order or not at all, with TLS and without; who hasn't the key learns nothing, and who
 * listens on the link reads nothing; a blocked reader can always be woken.
 */
#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "mirror/conn.h"

enum { LIMIT_MS = 10000 };

static const unsigned char key_a[CONN_KEY_LEN] = "this is the key of the volume..";
static const unsigned char key_b[CONN_KEY_LEN] = "this is some other volume's key";
static const unsigned char uuid_a[UUID_LEN] = { 1, 2, 3 };
static const unsigned char uuid_b[UUID_LEN] = { 4, 5, 6 };

/* ---- two ends ---- */

static int listen_local(char address[64])
{
	struct sockaddr_in a;
	socklen_t len = sizeof a;
	int fd = conn_listen("127.0.0.1:0");

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(getsockname(fd, (struct sockaddr *)&a, &len), 0);
	snprintf(address, 64, "127.0.0.1:%u", ntohs(a.sin_port));
	return fd;
}

static int accept_blocking(int lfd)
{
	struct pollfd p = { lfd, POLLIN, 0 };

	ck_assert_int_eq(poll(&p, 1, LIMIT_MS), 1);
	int fd = accept4(lfd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	ck_assert_int_ge(fd, 0);
	return fd;
}

static int dial_raw(const char *address)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	a.sin_port = htons((uint16_t)atoi(strchr(address, ':') + 1));
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
	return fd;
}

struct dial { struct conn_security *s; char address[64]; struct conn *c; int r; pthread_t t; };

static void *dial_main(void *arg)
{
	struct dial *d = arg;

	d->r = conn_dial(d->s, d->address, NULL, LIMIT_MS, &d->c);
	return NULL;
}

struct pair { struct conn_security *sa, *sb; struct conn *a, *b; int ra, rb; };	/* a dialled, b accepted */

static void pair_new(struct pair *p, const unsigned char *ka, const unsigned char *kb, const unsigned char *ua, const unsigned char *ub)
{
	struct dial d = { 0 };

	memset(p, 0, sizeof *p);
	ck_assert_int_eq(conn_security_new(ka, ua, &p->sa), 0);
	ck_assert_int_eq(conn_security_new(kb, ub, &p->sb), 0);
	auto_fd int lfd = listen_local(d.address);
	d.s = p->sa;
	pthread_create(&d.t, NULL, dial_main, &d);
	p->rb = conn_accept(p->sb, accept_blocking(lfd), LIMIT_MS, &p->b);
	pthread_join(d.t, NULL);
	p->a = d.c;
	p->ra = d.r;
}

static void pair_up(struct pair *p, bool tls)
{
	const unsigned char *k = tls ? key_a : NULL;

	pair_new(p, k, k, uuid_a, uuid_a);
	ck_assert_int_eq(p->ra, 0);
	ck_assert_int_eq(p->rb, 0);
}

static void pair_free(struct pair *p)
{
	conn_free(p->a);
	conn_free(p->b);
	conn_security_free(p->sa);
	conn_security_free(p->sb);
}

/* ---- frames ---- */

static unsigned char *pattern(size_t len, unsigned seed, bool dull)
{
	unsigned char *p = malloc(len + 1);

	for (size_t i = 0; i < len; i++)
		p[i] = dull ? (unsigned char)("the same again "[i % 15]) : (unsigned char)((seed = seed * 1103515245 + 12345) >> 16);
	return p;
}

static const size_t sizes[] = { 0, 1, 100, 4095, 4096, 16383, 16384, 32767, 32768, 65536, 100000, 1 << 20, (1 << 20) + 1, OP_DATA_MAX };

struct sender { struct conn *c; unsigned rounds; bool dull; int r; };

static void *send_frames(void *arg)
{
	struct sender *s = arg;
	uint64_t seq = 0;

	for (unsigned round = 0; round < s->rounds && !s->r; round++)
		for (size_t i = 0; i < ARRAY_LEN(sizes) && !s->r; i++) {
			char meta[64];
			struct frame_header h = { .kind = FRAME_OP, .seq = ++seq, .data_len = (uint32_t)sizes[i] };
			auto_free unsigned char *data = pattern(sizes[i], (unsigned)seq, s->dull);
			h.meta_len = (uint32_t)snprintf(meta, sizeof meta, "meta %zu", i);
			s->r = frame_write(s->c, &h, meta, data, round % 2 && i % 3, LIMIT_MS);
		}
	struct frame_header end = { .kind = FRAME_OP, .seq = ++seq, .meta_len = 3 };
	if (!s->r)
		s->r = frame_write(s->c, &end, "end", NULL, false, LIMIT_MS);
	return NULL;
}

static void expect_frame(struct conn *c, uint64_t seq, const char *meta, const void *data, size_t len)
{
	struct frame_header h;
	struct blk *b;
	const void *m, *d;

	ck_assert_int_eq(frame_read(c, &h, &b, &m, &d, LIMIT_MS), 0);
	ck_assert_uint_eq(h.seq, seq);
	ck_assert_uint_eq(h.meta_len, strlen(meta));
	ck_assert_int_eq(memcmp(m, meta, h.meta_len), 0);
	ck_assert_uint_eq(h.data_len, len);
	ck_assert_int_eq(len ? memcmp(d, data, len) : d != NULL, 0);
	blk_unref(b);
}

static void receive_frames(struct conn *c, unsigned rounds, bool dull)
{
	uint64_t seq = 0;

	for (unsigned round = 0; round < rounds; round++)
		for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
			char meta[64];
			seq++;
			auto_free unsigned char *data = pattern(sizes[i], (unsigned)seq, dull);
			snprintf(meta, sizeof meta, "meta %zu", i);
			expect_frame(c, seq, meta, data, sizes[i]);
		}
	expect_frame(c, ++seq, "end", NULL, 0);
}

static void frames_arrive(bool tls, bool compress)
{
	struct pair p;
	pthread_t t;

	pair_up(&p, tls);
	struct sender s = { .c = p.a, .rounds = 4, .dull = compress };
	conn_set_compress(p.a, compress);
	pthread_create(&t, NULL, send_frames, &s);
	receive_frames(p.b, 4, compress);
	pthread_join(t, NULL);
	ck_assert_int_eq(s.r, 0);
	ck_assert_uint_eq(conn_bytes_out(p.a), conn_bytes_in(p.b));
	if (compress)
		ck_assert_uint_lt(conn_bytes_out(p.a), 4u << 20);
	pair_free(&p);
}

START_TEST(test_frames) { frames_arrive(_i & 1, _i & 2); } END_TEST

START_TEST(test_both_ways_at_once)
{
	struct pair p;
	pthread_t ta, tb;

	pair_up(&p, _i);
	struct sender sa = { .c = p.a, .rounds = 3 }, sb = { .c = p.b, .rounds = 3 };
	pthread_create(&ta, NULL, send_frames, &sa);
	pthread_create(&tb, NULL, send_frames, &sb);
	struct frame_header h;
	struct blk *blk;
	const void *m, *d;
	unsigned left = 2 * (3 * (unsigned)ARRAY_LEN(sizes) + 1);
	uint64_t want_a = 1, want_b = 1;
	while (left) {
		struct conn *c = want_a <= want_b ? p.a : p.b;
		uint64_t *want = c == p.a ? &want_a : &want_b;
		ck_assert_int_eq(frame_read(c, &h, &blk, &m, &d, LIMIT_MS), 0);
		ck_assert_uint_eq(h.seq, *want);
		(*want)++;
		blk_unref(blk);
		left--;
	}
	pthread_join(ta, NULL);
	pthread_join(tb, NULL);
	ck_assert_int_eq(sa.r | sb.r, 0);
	pair_free(&p);
}
END_TEST

/* ---- strangers ---- */

START_TEST(test_wrong_key)
{
	struct pair p;

	pair_new(&p, key_b, key_a, uuid_a, uuid_a);
	ck_assert_int_lt(p.ra, 0);
	ck_assert_int_lt(p.rb, 0);
	pair_free(&p);
}
END_TEST

START_TEST(test_wrong_uuid)
{
	struct pair p;

	pair_new(&p, key_a, key_a, uuid_b, uuid_a);
	ck_assert_int_lt(p.ra, 0);
	ck_assert_int_lt(p.rb, 0);
	pair_free(&p);
}
END_TEST

START_TEST(test_joiner_has_no_uuid)
{
	struct pair p;

	pair_new(&p, key_a, key_a, (unsigned char[UUID_LEN]){ 0 }, uuid_a);
	ck_assert_int_eq(p.ra, 0);
	ck_assert_int_eq(p.rb, 0);
	pair_free(&p);
	pair_new(&p, key_b, key_a, (unsigned char[UUID_LEN]){ 0 }, uuid_a);
	ck_assert_int_lt(p.ra, 0);
	ck_assert_int_lt(p.rb, 0);
	pair_free(&p);
}
END_TEST

static void *read_all(int fd, size_t *len)
{
	char *p = malloc(1 << 16);
	ssize_t n;

	*len = 0;
	while ((n = recv(fd, p + *len, (1u << 16) - *len, 0)) > 0)
		*len += (size_t)n;
	return p;
}

/* Who speaks no TLS, or has no key, gets an alert record at most. */
START_TEST(test_stranger_learns_nothing)
{
	struct conn_security *s;
	struct conn *c = NULL;
	char address[64];
	size_t len;

	ck_assert_int_eq(conn_security_new(key_a, uuid_a, &s), 0);
	auto_fd int lfd = listen_local(address);
	auto_fd int raw = dial_raw(address);
	ck_assert_int_eq(send(raw, "GET / HTTP/1.0\r\n\r\n", 18, 0), 18);
	ck_assert_int_eq(conn_accept(s, accept_blocking(lfd), LIMIT_MS, &c), -EPROTO);
	auto_free unsigned char *got = read_all(raw, &len);
	ck_assert_uint_le(len, 7);
	ck_assert(len == 0 || got[0] == 21);
	conn_security_free(s);
}
END_TEST

/* A server of TLS 1.3 that has a certificate and no key. */
static SSL_CTX *impostor(void)
{
	SSL_CTX *ctx = SSL_CTX_new(TLS_server_method());
	EVP_PKEY *pkey = EVP_EC_gen("P-256");
	X509 *cert = X509_new();

	ASN1_INTEGER_set(X509_get_serialNumber(cert), 1);
	X509_gmtime_adj(X509_getm_notBefore(cert), 0);
	X509_gmtime_adj(X509_getm_notAfter(cert), 3600);
	X509_set_pubkey(cert, pkey);
	ck_assert_int_gt(X509_sign(cert, pkey, EVP_sha256()), 0);
	ck_assert_int_eq(SSL_CTX_use_certificate(ctx, cert), 1);
	ck_assert_int_eq(SSL_CTX_use_PrivateKey(ctx, pkey), 1);
	X509_free(cert);
	EVP_PKEY_free(pkey);
	return ctx;
}

/* It can't talk a node into believing it, nor hear its hello. */
START_TEST(test_impostor_with_certificate)
{
	struct dial d = { 0 };
	char heard[16];

	signal(SIGPIPE, SIG_IGN);	/* for this server only: conn raises none */
	ck_assert_int_eq(conn_security_new(key_a, uuid_a, &d.s), 0);
	auto_fd int lfd = listen_local(d.address);
	pthread_create(&d.t, NULL, dial_main, &d);
	auto_fd int fd = accept_blocking(lfd);
	ck_assert_int_eq(fcntl(fd, F_SETFL, 0), 0);
	SSL_CTX *ctx = impostor();
	SSL *ssl = SSL_new(ctx);
	SSL_set_fd(ssl, fd);
	SSL_accept(ssl);
	ck_assert_int_le(SSL_read(ssl, heard, sizeof heard), 0);
	SSL_free(ssl);
	SSL_CTX_free(ctx);
	pthread_join(d.t, NULL);
	ck_assert_int_eq(d.r, -EPROTO);
	ck_assert_ptr_null(d.c);
	conn_security_free(d.s);
}
END_TEST

START_TEST(test_half_open_times_out)
{
	struct conn_security *s;
	struct conn *c = NULL;
	char address[64];

	ck_assert_int_eq(conn_security_new(key_a, uuid_a, &s), 0);
	auto_fd int lfd = listen_local(address);
	auto_fd int raw = dial_raw(address);
	ck_assert_int_eq(conn_accept(s, accept_blocking(lfd), 50, &c), -ETIMEDOUT);
	auto_fd int raw2 = dial_raw(address);
	auto_fd int watch = eventfd(1, 0);
	ck_assert_int_eq(conn_accept_watch(s, accept_blocking(lfd), LIMIT_MS, watch, &c), -ECONNABORTED);
	conn_security_free(s);
}
END_TEST

START_TEST(test_dial_fails_politely)
{
	struct conn_security *s;
	struct conn *c = NULL;
	char address[64];

	ck_assert_int_eq(conn_security_new(NULL, uuid_a, &s), 0);
	int lfd = listen_local(address);
	close(lfd);
	ck_assert_int_eq(conn_dial(s, address, NULL, LIMIT_MS, &c), -ECONNREFUSED);
	ck_assert_int_eq(conn_dial(s, "127.0.0.1", NULL, LIMIT_MS, &c), -EINVAL);
	ck_assert_int_eq(conn_dial(s, ":80", NULL, LIMIT_MS, &c), -EINVAL);
	ck_assert_int_eq(conn_dial(s, "[::1:80", NULL, LIMIT_MS, &c), -EINVAL);
	ck_assert_int_eq(conn_listen("nonsense"), -EINVAL);
	conn_security_free(s);
}
END_TEST

/* ---- a man in the middle ---- */

struct proxy { int from, to; _Atomic long flip; unsigned char *seen; _Atomic size_t nseen; size_t cap; pthread_t t; };

static void *pump(void *arg)
{
	struct proxy *x = arg;
	unsigned char buf[16384];
	ssize_t n;

	while ((n = recv(x->from, buf, sizeof buf, 0)) > 0) {
		size_t at = atomic_load(&x->nseen);
		long flip = atomic_load(&x->flip);
		if (flip >= (long)at && flip < (long)at + n)
			buf[flip - (long)at] ^= 0x10;
		if (at + (size_t)n <= x->cap)
			memcpy(x->seen + at, buf, (size_t)n);
		atomic_store(&x->nseen, at + (size_t)n);
		if (send(x->to, buf, (size_t)n, MSG_NOSIGNAL) != n)
			break;
	}
	shutdown(x->to, SHUT_WR);
	return NULL;
}

struct tapped { struct conn_security *s; struct conn *a, *b; struct proxy up, down; };

/* a -> proxy -> b, everything seen. */
static void tapped_up(struct tapped *t, bool tls)
{
	struct dial d = { 0 };
	char target[64];

	memset(t, 0, sizeof *t);
	t->up.cap = t->down.cap = 8 << 20;
	t->up.seen = malloc(t->up.cap);
	t->down.seen = malloc(t->down.cap);
	t->up.flip = t->down.flip = -1;
	ck_assert_int_eq(conn_security_new(tls ? key_a : NULL, uuid_a, &t->s), 0);
	auto_fd int lb = listen_local(target);
	auto_fd int lp = listen_local(d.address);
	d.s = t->s;
	pthread_create(&d.t, NULL, dial_main, &d);
	int client = accept_blocking(lp);
	ck_assert_int_eq(fcntl(client, F_SETFL, 0), 0);
	int server = dial_raw(target);
	t->up.from = t->down.to = client;
	t->up.to = t->down.from = server;
	pthread_create(&t->up.t, NULL, pump, &t->up);
	pthread_create(&t->down.t, NULL, pump, &t->down);
	ck_assert_int_eq(conn_accept(t->s, accept_blocking(lb), LIMIT_MS, &t->b), 0);
	pthread_join(d.t, NULL);
	ck_assert_int_eq(d.r, 0);
	t->a = d.c;
}

static void tapped_free(struct tapped *t)
{
	conn_free(t->a);
	conn_free(t->b);
	pthread_join(t->up.t, NULL);
	pthread_join(t->down.t, NULL);
	close(t->up.from);
	close(t->up.to);
	free(t->up.seen);
	free(t->down.seen);
	conn_security_free(t->s);
}

START_TEST(test_nothing_readable_on_the_link)
{
	struct tapped t;
	const char *name = "salaries-of-the-board.txt", *text = "nobody may know what stands in here";
	struct frame_header h = { .kind = FRAME_OP, .seq = 1, .meta_len = (uint32_t)strlen(name), .data_len = (uint32_t)strlen(text) };

	tapped_up(&t, _i);
	ck_assert_int_eq(frame_write(t.a, &h, name, text, false, LIMIT_MS), 0);
	expect_frame(t.b, 1, name, text, strlen(text));
	bool readable = memmem(t.up.seen, t.up.nseen, name, strlen(name)) || memmem(t.up.seen, t.up.nseen, text, strlen(text));
	ck_assert_int_eq(readable, !_i);		/* without TLS the tap must see it, or the test is blind */
	tapped_free(&t);
}
END_TEST

/* Whichever byte is changed on the way: no frame arrives, nothing crashes. */
START_TEST(test_changed_byte)
{
	struct tapped t;
	struct frame_header h = { .kind = FRAME_OP, .seq = 1, .meta_len = 4, .data_len = 4 };
	struct blk *b = NULL;
	const void *m, *d;

	tapped_up(&t, _i & 1);
	t.up.flip = (long)t.up.nseen + _i / 2;
	ck_assert_int_eq(frame_write(t.a, &h, "meta", "data", false, LIMIT_MS), 0);
	int r = frame_read(t.b, &h, &b, &m, &d, 300);
	ck_assert_msg(r == -EBADMSG || r == -EPROTO || r == -EPROTONOSUPPORT || r == -ETIMEDOUT, "%d", r);
	tapped_free(&t);
}
END_TEST

/* ---- bad frames ---- */

struct raw { struct conn_security *s; int fd; struct conn *c; };

static void raw_up(struct raw *r)
{
	char address[64];

	ck_assert_int_eq(conn_security_new(NULL, uuid_a, &r->s), 0);
	auto_fd int lfd = listen_local(address);
	r->fd = dial_raw(address);
	ck_assert_int_eq(conn_accept(r->s, accept_blocking(lfd), LIMIT_MS, &r->c), 0);
}

static void raw_free(struct raw *r)
{
	if (r->fd >= 0)
		close(r->fd);
	conn_free(r->c);
	conn_security_free(r->s);
}

static int try_frame(struct raw *r, unsigned timeout_ms)
{
	struct frame_header h;
	struct blk *b;
	const void *m, *d;
	int res = frame_read(r->c, &h, &b, &m, &d, timeout_ms);

	if (!res)
		blk_unref(b);
	return res;
}

static size_t good_frame(unsigned char out[FRAME_HEADER_LEN + 8])
{
	struct frame_header h = { .kind = FRAME_OP, .seq = 7, .meta_len = 4, .data_len = 4, .raw_len = 4 };

	memcpy(out + FRAME_HEADER_LEN, "metadata", 8);
	h.sum = frame_checksum(&h, "meta", "data");
	frame_header_encode(out, &h);
	return FRAME_HEADER_LEN + 8;
}

START_TEST(test_torn_frame)
{
	struct raw r;
	unsigned char f[FRAME_HEADER_LEN + 8];
	size_t len = good_frame(f);

	raw_up(&r);
	ck_assert_int_eq(send(r.fd, f, (size_t)_i, 0), _i);
	close(r.fd);
	r.fd = -1;
	ck_assert_int_eq(try_frame(&r, LIMIT_MS), (size_t)_i == len ? 0 : -ECONNRESET);
	raw_free(&r);
}
END_TEST

START_TEST(test_bad_checksum)
{
	struct raw r;
	unsigned char f[FRAME_HEADER_LEN + 8];
	size_t len = good_frame(f);

	raw_up(&r);
	f[len - 1] ^= 1;
	ck_assert_int_eq(send(r.fd, f, len, 0), (ssize_t)len);
	ck_assert_int_eq(try_frame(&r, LIMIT_MS), -EBADMSG);
	raw_free(&r);
}
END_TEST

START_TEST(test_frame_too_long)
{
	struct raw r;
	unsigned char f[FRAME_HEADER_LEN];
	struct frame_header h = { .kind = FRAME_OP, .seq = 7, .meta_len = 4, .data_len = OP_DATA_MAX + 1, .raw_len = OP_DATA_MAX + 1 };

	if (_i)
		h = (struct frame_header){ .kind = FRAME_OP, .meta_len = OP_META_MAX + 1 };
	raw_up(&r);
	frame_header_encode(f, &h);
	ck_assert_int_eq(send(r.fd, f, sizeof f, 0), (ssize_t)sizeof f);
	ck_assert_int_eq(try_frame(&r, LIMIT_MS), -EBADMSG);
	raw_free(&r);
}
END_TEST

/* Compressed data that are none, and some that are longer than announced. */
START_TEST(test_bad_compression)
{
	struct raw r;
	unsigned char f[FRAME_HEADER_LEN + 8];
	struct frame_header h = { .kind = FRAME_OP, .seq = 7, .meta_len = 4, .data_len = 4, .raw_len = 100, .flags = FRAME_ZSTD };

	memcpy(f + FRAME_HEADER_LEN, "metadata", 8);
	h.sum = frame_checksum(&h, "meta", "data");
	raw_up(&r);
	frame_header_encode(f, &h);
	ck_assert_int_eq(send(r.fd, f, sizeof f, 0), (ssize_t)sizeof f);
	ck_assert_int_eq(try_frame(&r, LIMIT_MS), -EBADMSG);
	raw_free(&r);
}
END_TEST

START_TEST(test_read_times_out)
{
	struct raw r;
	unsigned char f[FRAME_HEADER_LEN + 8];

	good_frame(f);
	raw_up(&r);
	ck_assert_int_eq(try_frame(&r, 20), -ETIMEDOUT);
	ck_assert_int_eq(send(r.fd, f, 20, 0), 20);
	ck_assert_int_eq(try_frame(&r, 20), -ETIMEDOUT);
	raw_free(&r);
}
END_TEST

/* ---- ends ---- */

static void *read_forever(void *arg)
{
	char buf[10];

	return (void *)(intptr_t)conn_read(arg, buf, sizeof buf, 0);
}

static void *write_forever(void *arg)
{
	auto_free unsigned char *data = pattern(1 << 20, 1, false);
	int r;

	do
		r = conn_writev(arg, &(struct iovec){ data, 1 << 20 }, 1, 0);
	while (!r);
	return (void *)(intptr_t)r;
}

START_TEST(test_shutdown_wakes)
{
	struct pair p;
	pthread_t reader, writer, late;
	void *r, *w, *l;

	pair_up(&p, _i);
	pthread_create(&reader, NULL, read_forever, p.a);
	pthread_create(&writer, NULL, write_forever, p.a);
	for (uint64_t was = 0, now; was != (now = conn_bytes_out(p.a)) || !now; was = now)	/* until the socket is full */
		usleep(20000);
	conn_shutdown(p.a);
	pthread_join(reader, &r);
	pthread_join(writer, &w);
	ck_assert_int_eq((int)(intptr_t)r, -ECONNABORTED);
	ck_assert_int_eq((int)(intptr_t)w, -ECONNABORTED);
	pthread_create(&late, NULL, read_forever, p.a);
	pthread_join(late, &l);
	ck_assert_int_eq((int)(intptr_t)l, -ECONNABORTED);
	pair_free(&p);
}
END_TEST

START_TEST(test_finish_delivers)
{
	struct pair p;
	struct msg m = { .kind = FRAME_GOODBYE }, got;

	pair_up(&p, _i);
	strcpy(m.goodbye.reason, "the end");
	ck_assert_int_eq(msg_write(p.b, &(struct msg){ .kind = FRAME_OUTDATE, .id = 1 }, LIMIT_MS), 0);	/* stays unread */
	ck_assert_int_eq(msg_write(p.a, &m, LIMIT_MS), 0);
	conn_finish(p.a, 50);
	conn_free(p.a);
	p.a = NULL;
	ck_assert_int_eq(msg_read(p.b, &got, LIMIT_MS), 0);
	ck_assert_str_eq(got.goodbye.reason, "the end");
	ck_assert_int_eq(msg_read(p.b, &got, LIMIT_MS), -ECONNRESET);
	pair_free(&p);
}
END_TEST

/* ---- messages ---- */

START_TEST(test_messages_without_waiting)
{
	struct pair p;
	struct msg got;

	pair_up(&p, _i);
	auto_fd int wake = eventfd(0, 0);
	ck_assert_int_eq(msg_try_read(p.b, &got), -EAGAIN);
	ck_assert_int_eq(conn_wait(p.b, wake, 0), 0);
	eventfd_write(wake, 1);
	ck_assert_int_eq(conn_wait(p.b, wake, LIMIT_MS), CONN_WOKEN);
	for (uint64_t i = 1; i <= 1000; i++)
		ck_assert_int_eq(msg_write(p.a, &(struct msg){ .kind = FRAME_ACK, .ack = { i, i, i } }, LIMIT_MS), 0);
	for (uint64_t i = 1; i <= 1000;) {
		int r = msg_try_read(p.b, &got);
		if (r == -EAGAIN) {
			ck_assert_int_gt(conn_wait(p.b, -1, LIMIT_MS), 0);
			continue;
		}
		ck_assert_int_eq(r, 0);
		ck_assert_uint_eq(got.ack.recv_seq, i++);
	}
	pair_free(&p);
}
END_TEST

START_TEST(test_op_is_no_message)
{
	struct pair p;
	struct msg got;
	struct frame_header h = { .kind = FRAME_OP, .seq = 1, .meta_len = 4 };

	pair_up(&p, false);
	ck_assert_int_eq(frame_write(p.a, &h, "meta", NULL, false, LIMIT_MS), 0);
	ck_assert_int_eq(msg_read(p.b, &got, LIMIT_MS), -EBADMSG);
	pair_free(&p);
}
END_TEST

/* ---- speed, printed ---- */

struct flood { struct conn *c; size_t size; unsigned n; };

static void *flood_main(void *arg)
{
	struct flood *f = arg;
	auto_free unsigned char *data = pattern(f->size, 1, false);

	for (unsigned i = 0; i < f->n; i++) {
		struct frame_header h = { .kind = FRAME_OP, .seq = i + 1, .meta_len = 100, .data_len = (uint32_t)f->size };
		if (frame_write(f->c, &h, pattern, data, i + 1 < f->n, LIMIT_MS) < 0)
			break;
	}
	return NULL;
}

START_TEST(test_speed)
{
	static const struct { size_t size; unsigned n; } what[] = { { 0, 40000 }, { 4096, 20000 }, { 128 << 10, 1000 }, { 1 << 20, 100 } };
	struct pair p;

	pair_up(&p, _i);
	for (size_t k = 0; k < ARRAY_LEN(what); k++) {
		struct flood f = { p.a, what[k].size, what[k].n };
		pthread_t t;
		uint64_t start = clock_mono_ns();
		pthread_create(&t, NULL, flood_main, &f);
		for (unsigned i = 0; i < f.n; i++) {
			struct frame_header h;
			struct blk *b;
			const void *m, *d;
			ck_assert_int_eq(frame_read(p.b, &h, &b, &m, &d, LIMIT_MS), 0);
			ck_assert_uint_eq(h.seq, i + 1);
			blk_unref(b);
		}
		pthread_join(t, NULL);
		double s = (double)(clock_mono_ns() - start) / 1e9;
		printf("# %s %7zu bytes: %8.0f frames/s %7.0f MB/s\n", _i ? "tls  " : "plain", f.size, f.n / s,
		       (double)f.n * (double)f.size / s / 1e6);
	}
	pair_free(&p);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("conn");
	TCase *c = tcase_create("conn");

	tcase_set_timeout(c, 60);
	suite_add_tcase(s, c);
	tcase_add_loop_test(c, test_frames, 0, 4);
	tcase_add_loop_test(c, test_both_ways_at_once, 0, 2);
	tcase_add_test(c, test_wrong_key);
	tcase_add_test(c, test_wrong_uuid);
	tcase_add_test(c, test_joiner_has_no_uuid);
	tcase_add_test(c, test_stranger_learns_nothing);
	tcase_add_test(c, test_impostor_with_certificate);
	tcase_add_test(c, test_half_open_times_out);
	tcase_add_test(c, test_dial_fails_politely);
	tcase_add_loop_test(c, test_nothing_readable_on_the_link, 0, 2);
	tcase_add_loop_test(c, test_changed_byte, 0, 2 * (FRAME_HEADER_LEN + 8));
	tcase_add_loop_test(c, test_torn_frame, 0, FRAME_HEADER_LEN + 8 + 1);
	tcase_add_test(c, test_bad_checksum);
	tcase_add_loop_test(c, test_frame_too_long, 0, 2);
	tcase_add_test(c, test_bad_compression);
	tcase_add_test(c, test_read_times_out);
	tcase_add_loop_test(c, test_shutdown_wakes, 0, 2);
	tcase_add_loop_test(c, test_finish_delivers, 0, 2);
	tcase_add_loop_test(c, test_messages_without_waiting, 0, 2);
	tcase_add_test(c, test_op_is_no_message);
	tcase_add_loop_test(c, test_speed, 0, 2);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
