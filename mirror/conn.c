/*
 * A connection is a non-blocking socket, an eventfd that says "end", and (with TLS) an SSL object under a mutex.
 *
 * OpenSSL allows one call at a time on an SSL. So its calls never block, each moves one record at most, and the mutex is held for that call only; waiting is done
 * outside, in poll, on the socket and on the eventfd, which stays readable for ever once conn_shutdown() has written to it.
 *
 *   reader:  rbuf  takes what the socket has, so that small frames don't cost a system call each; big data go past it, into their block
 *   writer:  wbuf  gathers small frames (frame_write's MORE); big data go past it, straight from the caller's memory
 *
 * Each belongs to the one thread that reads or writes; only the SSL is shared. A failed write leaves a torn frame: werr sticks.
 */
#include "mirror/conn.h"

#include <assert.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <openssl/err.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zstd.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "mirror/tls.h"

enum {
	RBUF_LEN = FRAME_HEADER_LEN + FRAME_CONTROL_META_MAX,	/* holds any control message */
	WBUF_LEN = 64 << 10,
	DIRECT_MIN = 32 << 10,		/* data from this size on are not copied */
	LISTEN_BACKLOG = 64,
	KEEPALIVE_IDLE_S = 10, KEEPALIVE_INTERVAL_S = 5, KEEPALIVE_COUNT = 3,
	USER_TIMEOUT_MS = 30000,	/* a peer that acknowledges nothing; far above every timeout of the protocol */
	SQUEEZE_MIN = 4 << 10,		/* data below are never compressed; the size of the sample */
	SQUEEZE_LEVEL = 1,
};

struct conn {
	int fd, end_fd;			/* owned */
	int watch_fd;			/* borrowed, -1 = none */
	_Atomic bool ended;
	SSL *ssl;			/* owned, NULL = no TLS; calls under ssl_mu */
	pthread_mutex_t ssl_mu;
	_Atomic uint64_t in, out;
	char peer[CONN_NAME_MAX];
	/* the reader's */
	unsigned char *rbuf;		/* owned */
	size_t rpos, rend;		/* unread: rbuf[rpos..rend) */
	struct enc rpack;		/* compressed data of one frame */
	/* the writer's */
	unsigned char *wbuf;		/* owned */
	size_t wlen;
	int werr;
	bool compress;
	ZSTD_CCtx *cctx;		/* owned, NULL until needed */
	struct enc wpack;
	struct enc wmeta;
};

/* ---- waiting ---- */

static uint64_t deadline_of(unsigned timeout_ms)
{
	return timeout_ms ? clock_mono_ms() + timeout_ms : UINT64_MAX;
}

static int poll_ms(uint64_t deadline)
{
	if (deadline == UINT64_MAX)
		return -1;
	uint64_t now = clock_mono_ms();
	uint64_t left = deadline > now ? deadline - now : 0;
	return left > INT32_MAX ? INT32_MAX : (int)left;
}

/* Waits for EVENTS on the socket. 0, -ETIMEDOUT, -ECONNABORTED. */
static int wait_io(struct conn *c, short events, uint64_t deadline)
{
	struct pollfd p[3] = { { c->fd, events, 0 }, { c->end_fd, POLLIN, 0 }, { c->watch_fd, POLLIN, 0 } };

	for (;;) {
		int n = poll(p, 3, poll_ms(deadline));
		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0 && (p[1].revents || p[2].revents))
			return -ECONNABORTED;
		if (n > 0)
			return 0;
		if (n == 0)
			return -ETIMEDOUT;
	}
}

int conn_wait(struct conn *c, int wake_fd, unsigned timeout_ms)
{
	struct pollfd p[4] = { { c->fd, POLLIN, 0 }, { c->end_fd, POLLIN, 0 }, { c->watch_fd, POLLIN, 0 }, { wake_fd, POLLIN, 0 } };
	int n = poll(p, 4, timeout_ms > INT32_MAX ? INT32_MAX : (int)timeout_ms);

	if (n < 0)
		return errno == EINTR ? 0 : -errno;
	if (p[1].revents || p[2].revents)
		return -ECONNABORTED;
	return (p[0].revents ? CONN_READABLE : 0) | (p[3].revents ? CONN_WOKEN : 0);
}

/* ---- one call that never blocks: > 0 bytes, -EAGAIN (WANT says for what), -ECONNRESET, -ECONNABORTED, -EPROTO ---- */

static int sock_error(void)
{
	return errno == EAGAIN || errno == EINTR ? -EAGAIN : -ECONNRESET;
}

/* What a failed SSL call means. Under ssl_mu, in the thread that made it. */
static int ssl_result(struct conn *c, int r, short *want)
{
	int e = SSL_get_error(c->ssl, r);

	ERR_clear_error();
	switch (e) {
	case SSL_ERROR_WANT_READ: *want = POLLIN; return -EAGAIN;
	case SSL_ERROR_WANT_WRITE: *want = POLLOUT; return -EAGAIN;
	case SSL_ERROR_SSL: return -EPROTO;
	default: return -ECONNRESET;
	}
}

static ssize_t ssl_recv(struct conn *c, void *buf, size_t len, short *want)
{
	auto_lock(&c->ssl_mu);
	size_t n;

	ERR_clear_error();
	int r = SSL_read_ex(c->ssl, buf, len, &n);
	return r == 1 ? (ssize_t)n : ssl_result(c, r, want);
}

static ssize_t ssl_send(struct conn *c, const void *buf, size_t len, short *want)
{
	auto_lock(&c->ssl_mu);
	size_t n;

	ERR_clear_error();
	int r = SSL_write_ex(c->ssl, buf, len < TLS_RECORD_MAX ? len : TLS_RECORD_MAX, &n);
	return r == 1 ? (ssize_t)n : ssl_result(c, r, want);
}

static ssize_t plain_recv(struct conn *c, void *buf, size_t len)
{
	ssize_t n = recv(c->fd, buf, len, MSG_DONTWAIT);

	return n > 0 ? n : n == 0 ? -ECONNRESET : sock_error();
}

static ssize_t plain_send(struct conn *c, const struct iovec *iov, size_t niov)
{
	struct msghdr m = { .msg_iov = (struct iovec *)iov, .msg_iovlen = niov };
	ssize_t n = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);

	return n >= 0 ? n : sock_error();
}

static ssize_t recv_some(struct conn *c, void *buf, size_t len, short *want)
{
	*want = POLLIN;
	if (atomic_load(&c->ended))
		return -ECONNABORTED;
	ssize_t n = c->ssl ? ssl_recv(c, buf, len, want) : plain_recv(c, buf, len);
	if (n > 0)
		atomic_fetch_add_explicit(&c->in, (uint64_t)n, memory_order_relaxed);
	return n;
}

static ssize_t send_some(struct conn *c, const struct iovec *iov, size_t niov, short *want)
{
	*want = POLLOUT;
	if (atomic_load(&c->ended))
		return -ECONNABORTED;
	ssize_t n = c->ssl ? ssl_send(c, iov->iov_base, iov->iov_len, want) : plain_send(c, iov, niov);
	if (n > 0)
		atomic_fetch_add_explicit(&c->out, (uint64_t)n, memory_order_relaxed);
	return n;
}

/* ---- reading ---- */

static size_t rbuf_take(struct conn *c, void *buf, size_t len)
{
	size_t n = c->rend - c->rpos < len ? c->rend - c->rpos : len;

	memcpy(buf, c->rbuf + c->rpos, n);
	c->rpos += n;
	return n;
}

/* More bytes behind those in rbuf, without waiting. */
static int rbuf_fill(struct conn *c, short *want)
{
	if (c->rpos) {
		memmove(c->rbuf, c->rbuf + c->rpos, c->rend - c->rpos);
		c->rend -= c->rpos;
		c->rpos = 0;
	}
	assert(c->rend < RBUF_LEN);
	ssize_t n = recv_some(c, c->rbuf + c->rend, RBUF_LEN - c->rend, want);
	if (n < 0)
		return (int)n;
	c->rend += (size_t)n;
	return 0;
}

static int read_until(struct conn *c, void *buf, size_t len, uint64_t deadline)
{
	unsigned char *at = buf;
	short want;

	while (len) {
		size_t got = rbuf_take(c, at, len);
		ssize_t r = 0;
		if (!got && len >= DIRECT_MIN) {
			r = recv_some(c, at, len, &want);
			got = r > 0 ? (size_t)r : 0;
		} else if (!got) {
			r = rbuf_fill(c, &want);
		}
		if (r == -EAGAIN)
			r = wait_io(c, want, deadline);
		if (r < 0)
			return (int)r;
		at += got;
		len -= got;
	}
	return 0;
}

int conn_read(struct conn *c, void *buf, size_t len, unsigned timeout_ms)
{
	return read_until(c, buf, len, deadline_of(timeout_ms));
}

/* ---- writing ---- */

static void iov_skip(struct iovec **iov, size_t *niov, size_t n)
{
	while (*niov && n >= (*iov)->iov_len) {
		n -= (*iov)->iov_len;
		(*iov)++;
		(*niov)--;
	}
	if (n && *niov) {
		(*iov)->iov_base = (char *)(*iov)->iov_base + n;
		(*iov)->iov_len -= n;
	}
}

/* All of IOV, which is used up. */
static int write_until(struct conn *c, struct iovec *iov, size_t niov, uint64_t deadline)
{
	short want;

	iov_skip(&iov, &niov, 0);
	while (niov && !c->werr) {
		ssize_t r = send_some(c, iov, niov, &want);
		if (r > 0) {
			iov_skip(&iov, &niov, (size_t)r);
			continue;
		}
		if (r == -EAGAIN)
			r = wait_io(c, want, deadline);
		if (r < 0)
			c->werr = (int)r;
	}
	return c->werr;
}

static int flush_until(struct conn *c, uint64_t deadline)
{
	struct iovec v = { c->wbuf, c->wlen };

	c->wlen = 0;
	return write_until(c, &v, 1, deadline);
}

/* Behind what waits in wbuf. */
static int put_small(struct conn *c, const unsigned char *p, size_t len, uint64_t deadline)
{
	while (len) {
		size_t n = WBUF_LEN - c->wlen < len ? WBUF_LEN - c->wlen : len;
		memcpy(c->wbuf + c->wlen, p, n);
		c->wlen += n;
		p += n;
		len -= n;
		if (c->wlen == WBUF_LEN && flush_until(c, deadline) < 0)
			return c->werr;
	}
	return c->werr;
}

/* Without copying: with TLS only as much is copied as fills up the record that wbuf begins. */
static int put_big(struct conn *c, const unsigned char *p, size_t len, uint64_t deadline)
{
	size_t fill = c->ssl && c->wlen % TLS_RECORD_MAX ? TLS_RECORD_MAX - c->wlen % TLS_RECORD_MAX : 0;

	if (put_small(c, p, fill, deadline) < 0)
		return c->werr;
	struct iovec v[2] = { { c->wbuf, c->wlen }, { (void *)(p + fill), len - fill } };
	c->wlen = 0;
	return write_until(c, v, 2, deadline);
}

static int put(struct conn *c, const void *p, size_t len, uint64_t deadline)
{
	return len < DIRECT_MIN ? put_small(c, p, len, deadline) : put_big(c, p, len, deadline);
}

int conn_writev(struct conn *c, const struct iovec *iov, int n, unsigned timeout_ms)
{
	uint64_t deadline = deadline_of(timeout_ms);

	for (int i = 0; i < n; i++)
		if (put(c, iov[i].iov_base, iov[i].iov_len, deadline) < 0)
			return c->werr;
	return flush_until(c, deadline);
}

/* ---- frames ---- */

static unsigned char *pack_room(struct enc *e, size_t len)
{
	if (e->cap < len) {
		unsigned char *p = realloc(e->p, len);
		if (!p)
			return NULL;
		e->p = p;
		e->cap = len;
	}
	return e->p;
}

static size_t squeeze_into(struct conn *c, const void *data, size_t len)
{
	size_t bound = ZSTD_compressBound(len);

	if (!c->cctx && !(c->cctx = ZSTD_createCCtx()))
		return len;
	if (!pack_room(&c->wpack, bound))
		return len;
	size_t n = ZSTD_compressCCtx(c->cctx, c->wpack.p, bound, data, len, SQUEEZE_LEVEL);
	return ZSTD_isError(n) ? len : n;
}

/* The data as they go out: compressed when a sample shrinks by an eighth at least and the whole does too. */
static const void *squeeze(struct conn *c, struct frame_header *h, const void *data)
{
	if (!c->compress || h->raw_len < SQUEEZE_MIN || squeeze_into(c, data, SQUEEZE_MIN) > SQUEEZE_MIN / 8 * 7)
		return data;
	size_t n = squeeze_into(c, data, h->raw_len);
	if (n > h->raw_len / 8 * 7)
		return data;
	h->flags = FRAME_ZSTD;
	h->data_len = (uint32_t)n;
	return c->wpack.p;
}

int frame_write(struct conn *c, struct frame_header *h, const void *meta, const void *data, bool more, unsigned timeout_ms)
{
	uint64_t deadline = deadline_of(timeout_ms);
	unsigned char head[FRAME_HEADER_LEN];

	assert(h->data_len <= OP_DATA_MAX && h->meta_len <= OP_META_MAX);
	h->flags = 0;
	h->raw_len = h->data_len;
	data = squeeze(c, h, data);
	h->sum = frame_checksum(h, meta, data);
	frame_header_encode(head, h);
	if (put(c, head, sizeof head, deadline) < 0 || put(c, meta, h->meta_len, deadline) < 0 || put(c, data, h->data_len, deadline) < 0)
		return c->werr;
	return more ? 0 : flush_until(c, deadline);
}

static int unsqueeze(struct conn *c, const struct frame_header *h, void *out)
{
	size_t n = ZSTD_decompress(out, h->raw_len, c->rpack.p, h->data_len);

	return !ZSTD_isError(n) && n == h->raw_len ? 0 : -EBADMSG;
}

/* Meta and data of H into B: data first, so that they are aligned. */
static int read_body(struct conn *c, struct frame_header *h, struct blk *b, size_t meta_at, uint64_t deadline)
{
	bool packed = h->flags & FRAME_ZSTD;
	unsigned char *data = packed ? pack_room(&c->rpack, h->data_len) : b->data;

	if (!data)
		return -ENOMEM;
	int r = read_until(c, b->data + meta_at, h->meta_len, deadline);
	if (!r)
		r = read_until(c, data, h->data_len, deadline);
	if (r < 0)
		return r;
	if (frame_checksum(h, b->data + meta_at, data) != h->sum)
		return -EBADMSG;
	return packed ? unsqueeze(c, h, b->data) : 0;
}

int frame_read(struct conn *c, struct frame_header *h, struct blk **blk, const void **meta, const void **data, unsigned timeout_ms)
{
	uint64_t deadline = deadline_of(timeout_ms);
	unsigned char head[FRAME_HEADER_LEN];
	int r = read_until(c, head, sizeof head, deadline);

	if (r < 0 || (r = frame_header_decode(head, h)) < 0)
		return r;
	size_t meta_at = ((size_t)h->raw_len + 7) & ~(size_t)7;
	auto_blk struct blk *b = blk_new(meta_at + h->meta_len);
	if (!b)
		return -ENOMEM;
	r = read_body(c, h, b, meta_at, deadline);
	if (r < 0)
		return r;
	h->data_len = h->raw_len;
	*meta = b->data + meta_at;
	*data = h->raw_len ? b->data : NULL;
	*blk = steal_ptr(&b);
	return 0;
}

/* ---- control messages ---- */

int msg_write(struct conn *c, const struct msg *m, unsigned timeout_ms)
{
	enc_reset(&c->wmeta);
	int r = msg_frame(&c->wmeta, m);
	if (r < 0)
		return r;
	return conn_writev(c, &(struct iovec){ c->wmeta.p, c->wmeta.len }, 1, timeout_ms);
}

/* The first message in rbuf, if it is whole. */
static int msg_parse(struct conn *c, struct msg *m)
{
	const unsigned char *at = c->rbuf + c->rpos;
	size_t have = c->rend - c->rpos;
	struct frame_header h;

	if (have < FRAME_HEADER_LEN)
		return -EAGAIN;
	int r = frame_header_decode(at, &h);
	if (r < 0)
		return r;
	if (h.kind == FRAME_OP)
		return -EBADMSG;
	if (have - FRAME_HEADER_LEN < h.meta_len)
		return -EAGAIN;
	if (frame_checksum(&h, at + FRAME_HEADER_LEN, NULL) != h.sum)
		return -EBADMSG;
	c->rpos += FRAME_HEADER_LEN + h.meta_len;
	return msg_decode(h.kind, at + FRAME_HEADER_LEN, h.meta_len, m);
}

static int msg_step(struct conn *c, struct msg *m, short *want)
{
	for (;;) {
		int r = msg_parse(c, m);
		if (r == -EAGAIN)
			r = rbuf_fill(c, want);
		else
			return r;
		if (r < 0)
			return r;
	}
}

int msg_try_read(struct conn *c, struct msg *m)
{
	short want;

	return msg_step(c, m, &want);
}

int msg_read(struct conn *c, struct msg *m, unsigned timeout_ms)
{
	uint64_t deadline = deadline_of(timeout_ms);
	short want;

	for (;;) {
		int r = msg_step(c, m, &want);
		if (r == -EAGAIN)
			r = wait_io(c, want, deadline);
		else
			return r;
		if (r < 0)
			return r;
	}
}

/* ---- life ---- */

static void socket_options(int fd)
{
	const struct { int level, name, value; } o[] = {
		{ IPPROTO_TCP, TCP_NODELAY, 1 }, { SOL_SOCKET, SO_KEEPALIVE, 1 }, { IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_IDLE_S },
		{ IPPROTO_TCP, TCP_KEEPINTVL, KEEPALIVE_INTERVAL_S }, { IPPROTO_TCP, TCP_KEEPCNT, KEEPALIVE_COUNT },
		{ IPPROTO_TCP, TCP_USER_TIMEOUT, USER_TIMEOUT_MS },
	};

	for (size_t i = 0; i < ARRAY_LEN(o); i++)
		setsockopt(fd, o[i].level, o[i].name, &o[i].value, sizeof o[i].value);	/* each only helps: not TCP in tests */
}

void conn_name(int fd, char out[CONN_NAME_MAX])
{
	struct sockaddr_storage a;
	socklen_t len = sizeof a;
	char host[CONN_NAME_MAX - 12], port[8];		/* numeric, with room for a scope */

	if (getpeername(fd, (struct sockaddr *)&a, &len) < 0 ||
	    getnameinfo((struct sockaddr *)&a, len, host, sizeof host, port, sizeof port, NI_NUMERICHOST | NI_NUMERICSERV) != 0)
		snprintf(out, CONN_NAME_MAX, "unknown address");
	else
		snprintf(out, CONN_NAME_MAX, strchr(host, ':') ? "[%s]:%s" : "%s:%s", host, port);
}

/* Takes FD over, also on error: NULL = no memory or descriptors. */
static struct conn *conn_new(struct conn_security *s, int fd, bool server, int watch_fd)
{
	struct conn *c = calloc(1, sizeof *c);

	if (!c) {
		close(fd);
		return NULL;
	}
	c->fd = fd;
	c->watch_fd = watch_fd;
	c->end_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	pthread_mutex_init(&c->ssl_mu, NULL);
	c->rbuf = malloc(RBUF_LEN);
	c->wbuf = malloc(WBUF_LEN);
	if (tls_wanted(s))
		c->ssl = tls_new(s, fd, server);
	if (c->end_fd < 0 || !c->rbuf || !c->wbuf || (tls_wanted(s) && !c->ssl)) {
		conn_free(c);
		return NULL;
	}
	socket_options(fd);
	conn_name(fd, c->peer);
	return c;
}

static int handshake(struct conn *c, uint64_t deadline)
{
	short want = 0;

	while (c->ssl) {
		pthread_mutex_lock(&c->ssl_mu);
		ERR_clear_error();
		int r = SSL_do_handshake(c->ssl);
		int err = r == 1 ? 0 : ssl_result(c, r, &want);
		pthread_mutex_unlock(&c->ssl_mu);
		if (err == -EAGAIN)
			err = wait_io(c, want, deadline);
		if (r == 1)
			return tls_trusted(c->ssl) ? 0 : -EPROTO;
		if (err < 0)
			return err;
	}
	return 0;
}

static int conn_make(struct conn_security *s, int fd, bool server, int watch_fd, uint64_t deadline, struct conn **out)
{
	struct conn *c = conn_new(s, fd, server, watch_fd);

	if (!c)
		return -ENOMEM;
	int r = handshake(c, deadline);
	if (r < 0) {
		conn_free(c);
		return r;
	}
	*out = c;
	return 0;
}

int conn_accept_watch(struct conn_security *s, int fd, unsigned timeout_ms, int watch_fd, struct conn **out)
{
	return conn_make(s, fd, true, watch_fd, deadline_of(timeout_ms), out);
}

int conn_accept(struct conn_security *s, int fd, unsigned timeout_ms, struct conn **out)
{
	return conn_accept_watch(s, fd, timeout_ms, -1, out);
}

void conn_unwatch(struct conn *c)
{
	c->watch_fd = -1;
}

void conn_set_compress(struct conn *c, bool on)
{
	c->compress = on;
}

void conn_shutdown(struct conn *c)
{
	atomic_store(&c->ended, true);
	if (eventfd_write(c->end_fd, 1) < 0)
		assert(errno == EAGAIN);	/* readable already */
	shutdown(c->fd, SHUT_RDWR);
}

void conn_finish(struct conn *c, unsigned timeout_ms)
{
	uint64_t deadline = deadline_of(timeout_ms ? timeout_ms : 1);
	unsigned char sink[4096];

	if (flush_until(c, deadline) < 0)
		return;
	shutdown(c->fd, SHUT_WR);
	for (;;) {
		ssize_t n = recv(c->fd, sink, sizeof sink, MSG_DONTWAIT);
		if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR) || (n < 0 && wait_io(c, POLLIN, deadline) < 0))
			return;
	}
}

void conn_free(struct conn *c)
{
	if (!c)
		return;
	SSL_free(c->ssl);
	close(c->fd);
	if (c->end_fd >= 0)
		close(c->end_fd);
	pthread_mutex_destroy(&c->ssl_mu);
	ZSTD_freeCCtx(c->cctx);
	enc_free(&c->rpack);
	enc_free(&c->wpack);
	enc_free(&c->wmeta);
	free(c->rbuf);
	free(c->wbuf);
	free(c);
}

const char *conn_peer(const struct conn *c) { return c->peer; }
bool conn_writable(const struct conn *c)
{
	struct pollfd fd = { c->fd, POLLOUT, 0 };
	return poll(&fd, 1, 0) == 1 && fd.revents == POLLOUT;
}

uint64_t conn_bytes_in(const struct conn *c) { return atomic_load_explicit(&c->in, memory_order_relaxed); }
uint64_t conn_bytes_out(const struct conn *c) { return atomic_load_explicit(&c->out, memory_order_relaxed); }

/* ---- addresses ---- */

/* "host:port" or "[v6]:port" to a list that the caller frees. */
static int resolve(const char *address, int flags, struct addrinfo **out)
{
	const char *colon = strrchr(address, ':');
	char host[NI_MAXHOST];
	const char *from = address;
	size_t len = colon ? (size_t)(colon - address) : 0;

	if (!colon || !len || !colon[1])
		return -EINVAL;
	if (address[0] == '[') {
		if (len < 3 || colon[-1] != ']')
			return -EINVAL;
		from++;
		len -= 2;
	}
	if (len >= sizeof host)
		return -EINVAL;
	memcpy(host, from, len);
	host[len] = 0;
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = flags };
	int r = getaddrinfo(host, colon + 1, &hints, out);
	if (r == EAI_MEMORY)
		return -ENOMEM;
	return r ? -EADDRNOTAVAIL : 0;
}

static int new_socket(const struct addrinfo *a)
{
	int fd = socket(a->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	return fd < 0 ? -errno : fd;
}

int conn_listen(const char *address)
{
	struct addrinfo *a;
	int r = resolve(address, AI_PASSIVE, &a);

	if (r < 0)
		return r;
	auto_fd int fd = new_socket(a);
	if (fd >= 0) {
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &(int){ 1 }, sizeof(int));
		if (bind(fd, a->ai_addr, a->ai_addrlen) < 0 || listen(fd, LISTEN_BACKLOG) < 0)
			r = -errno;
	}
	freeaddrinfo(a);
	if (fd < 0)
		return fd;
	return r < 0 ? r : steal_fd(&fd);
}

static int bind_from(int fd, const char *from)
{
	struct addrinfo *a;
	int r = from ? resolve(from, AI_PASSIVE, &a) : 0;

	if (!from || r < 0)
		return r;
	if (bind(fd, a->ai_addr, a->ai_addrlen) < 0)
		r = -errno;
	freeaddrinfo(a);
	return r;
}

static int wait_connected(int fd, int watch_fd, uint64_t deadline)
{
	struct pollfd p[2] = { { fd, POLLOUT, 0 }, { watch_fd, POLLIN, 0 } };
	int n, err = 0;
	socklen_t len = sizeof err;

	do
		n = poll(p, 2, poll_ms(deadline));
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n ? -errno : -ETIMEDOUT;
	if (p[1].revents)
		return -ECONNABORTED;
	getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len);
	return -err;
}

/* On one host a connection to a port that nobody listens on can meet itself, and would then hold the port. */
static bool met_itself(int fd)
{
	struct sockaddr_storage here, there;
	socklen_t here_len = sizeof here, there_len = sizeof there;

	memset(&here, 0, sizeof here);
	memset(&there, 0, sizeof there);
	return getsockname(fd, (struct sockaddr *)&here, &here_len) == 0 && getpeername(fd, (struct sockaddr *)&there, &there_len) == 0 &&
	       here_len == there_len && memcmp(&here, &there, here_len) == 0;
}

static int connect_one(const struct addrinfo *a, const char *from, int watch_fd, uint64_t deadline)
{
	auto_fd int fd = new_socket(a);

	if (fd < 0)
		return fd;
	int r = bind_from(fd, from);
	if (r < 0)
		return r;
	if (connect(fd, a->ai_addr, a->ai_addrlen) < 0) {
		r = errno == EINPROGRESS || errno == EINTR ? wait_connected(fd, watch_fd, deadline) : -errno;
		if (r < 0)
			return r;
	}
	return met_itself(fd) ? -ECONNREFUSED : steal_fd(&fd);
}

int conn_dial_watch(struct conn_security *s, const char *address, const char *from, unsigned timeout_ms, int watch_fd, struct conn **out)
{
	uint64_t deadline = deadline_of(timeout_ms);
	struct addrinfo *list;
	int fd = resolve(address, 0, &list);

	if (fd < 0)
		return fd;
	fd = -EADDRNOTAVAIL;
	for (const struct addrinfo *a = list; a && fd < 0 && fd != -ETIMEDOUT && fd != -ECONNABORTED; a = a->ai_next)
		fd = connect_one(a, from, watch_fd, deadline);
	freeaddrinfo(list);
	return fd < 0 ? fd : conn_make(s, fd, false, watch_fd, deadline, out);
}

int conn_dial(struct conn_security *s, const char *address, const char *from, unsigned timeout_ms, struct conn **out)
{
	return conn_dial_watch(s, address, from, timeout_ms, -1, out);
}
