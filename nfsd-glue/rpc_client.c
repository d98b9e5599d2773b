/*
 * The client's thread works on a table of active calls, each with a non-blocking socket; poll() says what can go on. What waits for a place in the table is a list.
 *
 *   call:  [ask the port] -> call -> end        each step: connect, send, receive; a deadline for every try
 *
 * A call that fails by a broken or refused connection waits for the end of its try before the next one, so that a host that comes up again has its chance.
 */
#include "nfsd-glue/rpc_client.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "nfsd-glue/rpc_msg.h"
#include "nfsd-glue/xdr.h"

enum {
	TIMEOUT_MS = 5000,
	OUT_LEN = RPC_MARK_LEN + 256 + RPC_CLIENT_ARGS_MAX,
	PRIVILEGED_LOW = 665, PRIVILEGED_HIGH = 1023,
	RPCBIND_PORT = 111, RPCBIND_PROG = 100000, PMAP_VERS = 2, PMAP_GETPORT = 3, RPCB_VERS = 4, RPCB_GETADDR = 3,
	UADDR_MAX = 128,
};

#define LAST_FRAGMENT UINT32_C(0x80000000)

struct request {
	struct request *next;
	struct rpc_client_call call;		/* args points to the copy below */
	unsigned char args[];
};

struct active {
	struct request *q;			/* owned; NULL: this place is free */
	int fd;					/* -1: the try has failed, it waits for its end */
	bool asking;				/* for the port */
	uint16_t port;				/* network order; 0: not known yet */
	uint32_t xid;
	unsigned tries_left;
	int err;				/* how this try failed */
	uint64_t deadline_ms;
	size_t out_len, out_pos, in_len;
	unsigned char out[OUT_LEN];
	unsigned char in[RPC_MARK_LEN + RPC_CLIENT_REPLY_MAX];
};

struct rpc_client {
	pthread_t thread;
	int wake_fd;				/* owned */
	pthread_mutex_t mu;
	struct request *first, **last;		/* mu */
	unsigned queued;			/* mu */
	bool stopping;				/* mu */
	uint32_t xid;				/* the thread's */
	struct active *active[RPC_CLIENT_ACTIVE];	/* the thread's; owned, NULL until needed */
};

/* ---- sockets ---- */

static void set_port(struct sockaddr_storage *a, uint16_t port)
{
	((struct sockaddr_in *)a)->sin_port = port;	/* the same place in sockaddr_in6 */
}

static uint16_t port_of(const struct sockaddr_storage *a)
{
	return ((const struct sockaddr_in *)a)->sin_port;
}

static socklen_t size_of(const struct sockaddr_storage *a)
{
	return a->ss_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
}

/* A privileged port where that is allowed and one is free, else any. */
static int bind_from(int fd, const struct rpc_client_call *c, unsigned seed)
{
	struct sockaddr_storage a = { .ss_family = c->to.ss_family };
	unsigned n = PRIVILEGED_HIGH - PRIVILEGED_LOW + 1;

	if (c->from.ss_family == c->to.ss_family)
		a = c->from;
	for (unsigned i = 0; i < n; i++) {
		set_port(&a, htons((uint16_t)(PRIVILEGED_LOW + (seed + i) % n)));
		if (bind(fd, (struct sockaddr *)&a, size_of(&a)) == 0)
			return 0;
		if (errno != EADDRINUSE)
			break;
	}
	set_port(&a, 0);
	return bind(fd, (struct sockaddr *)&a, size_of(&a)) ? -errno : 0;
}

static int dial(const struct active *a)
{
	const struct rpc_client_call *c = &a->q->call;
	const struct linger reset = { .l_onoff = 1 };
	struct sockaddr_storage to = c->to;
	auto_fd int fd = socket(to.ss_family, (c->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int err;

	if (fd < 0)
		return -errno;
	/* There are few privileged ports: none of them may lie in TIME_WAIT for a minute. When we close, we have what we wanted, or want it no more. */
	if (!c->udp)
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
	set_port(&to, a->asking ? htons(RPCBIND_PORT) : a->port);
	err = bind_from(fd, c, a->xid);
	if (err)
		return err;
	if (connect(fd, (struct sockaddr *)&to, size_of(&to)) && errno != EINPROGRESS)
		return -errno;
	return steal_fd(&fd);
}

/* ---- messages ---- */

/* What to ask rpcbind: PMAP for IPv4, version 4 for IPv6, which PMAP doesn't know. */
static size_t ask_encode(const struct rpc_client_call *c, unsigned char *out, size_t cap)
{
	struct xdr_out x = xdr_out(out, cap);
	bool six = c->to.ss_family == AF_INET6;
	const char *netid = c->udp ? "udp6" : "tcp6";

	xdr_out_u32(&x, c->prog);
	xdr_out_u32(&x, c->vers);
	if (six) {
		xdr_out_opaque(&x, netid, strlen(netid));
		xdr_out_opaque(&x, "", 0);
		xdr_out_opaque(&x, "", 0);
	} else {
		xdr_out_u32(&x, c->udp ? IPPROTO_UDP : IPPROTO_TCP);
		xdr_out_u32(&x, 0);
	}
	return x.len;
}

/* The universal address "h.h.h.h.p1.p2", "x:x::x.p1.p2"; the port in network order, 0 for nonsense. */
static uint16_t uaddr_port(const unsigned char *p, size_t len)
{
	char s[UADDR_MAX + 1], *dot;
	unsigned high, low;

	if (!p || len > UADDR_MAX)
		return 0;
	memcpy(s, p, len);
	s[len] = 0;
	dot = strrchr(s, '.');
	if (!dot)
		return 0;
	low = (unsigned)strtoul(dot + 1, NULL, 10);
	*dot = 0;
	dot = strrchr(s, '.');
	if (!dot)
		return 0;
	high = (unsigned)strtoul(dot + 1, NULL, 10);
	return high < 256 && low < 256 ? htons((uint16_t)(high << 8 | low)) : 0;
}

static uint16_t ask_decode(const struct rpc_client_call *c, const unsigned char *p, size_t len)
{
	struct xdr_in x = xdr_in(p, len);
	uint32_t n;

	if (c->to.ss_family == AF_INET6) {
		const unsigned char *s = xdr_opaque(&x, UADDR_MAX, &n);
		return uaddr_port(s, n);
	}
	n = xdr_u32(&x);
	return n <= UINT16_MAX ? htons((uint16_t)n) : 0;
}

static void encode(struct active *a)
{
	const struct rpc_client_call *c = &a->q->call;
	struct rpc_cred cred = { .flavor = c->auth_none || a->asking ? RPC_AUTH_NONE : RPC_AUTH_SYS };
	unsigned char *p = a->out + (c->udp ? 0 : RPC_MARK_LEN);
	bool six = c->to.ss_family == AF_INET6;
	size_t cap = OUT_LEN - RPC_MARK_LEN, len;

	if (a->asking) {
		len = rpc_call_encode(p, cap, a->xid, RPCBIND_PROG, six ? RPCB_VERS : PMAP_VERS, six ? RPCB_GETADDR : PMAP_GETPORT, &cred);
		len += ask_encode(c, p + len, cap - len);
	} else {
		len = rpc_call_encode(p, cap, a->xid, c->prog, c->vers, c->proc, &cred);
		assert(len && len + c->args_len <= cap);
		if (c->args_len)
			memcpy(p + len, c->args, c->args_len);
		len += c->args_len;
	}
	if (!c->udp)
		xdr_put32(a->out, LAST_FRAGMENT | (uint32_t)len);
	a->out_len = len + (size_t)(p - a->out);
}

/* ---- the steps of a call ---- */

static void drop_socket(struct active *a)
{
	if (a->fd >= 0)
		close(a->fd);
	a->fd = -1;
}

static void finish(struct active *a, int err, const unsigned char *results, size_t len)
{
	struct request *q = a->q;

	drop_socket(a);
	a->q = NULL;
	if (q->call.done)
		q->call.done(q->call.arg, err, results, len);
	free(q);
}

static void begin_step(struct active *a)
{
	drop_socket(a);
	a->asking = !a->port;
	a->out_pos = a->in_len = 0;
	encode(a);
	a->fd = dial(a);
	a->err = a->fd < 0 ? a->fd : -ETIMEDOUT;
}

static void begin_try(struct active *a)
{
	const struct rpc_client_call *c = &a->q->call;

	a->tries_left--;
	a->port = port_of(&c->to);		/* asked anew every time: a restarted service has another one */
	a->deadline_ms = clock_mono_ms() + (c->timeout_ms ? c->timeout_ms : TIMEOUT_MS);
	begin_step(a);
}

/* This try brought nothing. */
static void fail(struct active *a, int err)
{
	a->err = err;
	drop_socket(a);
	if (!a->tries_left)
		finish(a, err, NULL, 0);
}

static void answered(struct active *a, const unsigned char *p, size_t len)
{
	size_t at = 0;
	int err = rpc_reply_parse(p, len, a->xid, &at);

	if (err == -EBADMSG && a->q->call.udp)
		return;				/* somebody else's, or late: wait on */
	if (err) {
		finish(a, err, NULL, 0);
	} else if (!a->asking) {
		finish(a, 0, p + at, len - at);
	} else if ((a->port = ask_decode(&a->q->call, p + at, len - at))) {
		begin_step(a);
		if (a->fd < 0)
			fail(a, a->err);
	} else {
		fail(a, -ENOENT);
	}
}

static void send_more(struct active *a)
{
	ssize_t n = send(a->fd, a->out + a->out_pos, a->out_len - a->out_pos, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n >= 0)
		a->out_pos += (size_t)n;
	else if (errno != EAGAIN && errno != EINTR)
		fail(a, -errno);
}

static void receive_datagram(struct active *a)
{
	ssize_t n = recv(a->fd, a->in, sizeof a->in, MSG_DONTWAIT);

	if (n >= 0)
		answered(a, a->in, (size_t)n);
	else if (errno != EAGAIN && errno != EINTR)
		fail(a, -errno);
}

/* Answers of one fragment only: they are small, and nobody cuts small ones. */
static void receive_stream(struct active *a)
{
	ssize_t n = recv(a->fd, a->in + a->in_len, sizeof a->in - a->in_len, MSG_DONTWAIT);

	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		fail(a, n ? -errno : -ECONNRESET);
		return;
	}
	a->in_len += (size_t)n;
	if (a->in_len < RPC_MARK_LEN)
		return;
	uint32_t mark = xdr_get32(a->in), len = mark & ~LAST_FRAGMENT;
	if (!(mark & LAST_FRAGMENT) || len > RPC_CLIENT_REPLY_MAX)
		finish(a, -EBADMSG, NULL, 0);
	else if (a->in_len >= RPC_MARK_LEN + len)
		answered(a, a->in + RPC_MARK_LEN, len);
}

static void go_on(struct active *a)
{
	if (a->out_pos < a->out_len)
		send_more(a);
	else if (a->q->call.udp)
		receive_datagram(a);
	else
		receive_stream(a);
}

static void check_time(struct active *a, uint64_t now)
{
	if (now < a->deadline_ms)
		return;
	if (a->tries_left)
		begin_try(a);
	else
		finish(a, a->err, NULL, 0);
}

/* ---- the thread ---- */

static struct request *next_request(struct rpc_client *k)
{
	auto_lock(&k->mu);
	struct request *q = k->first;

	if (!q)
		return NULL;
	k->first = q->next;
	if (!k->first)
		k->last = &k->first;
	k->queued--;
	return q;
}

/* Fills free places from the queue. */
static void begin_some(struct rpc_client *k)
{
	for (unsigned i = 0; i < RPC_CLIENT_ACTIVE; i++) {
		struct active *a = k->active[i];
		struct request *q;

		if (a && a->q)
			continue;
		if (!a && !(a = k->active[i] = malloc(sizeof *a)))
			return;
		a->q = NULL;
		if (!(q = next_request(k)))
			return;
		a->q = q;
		a->fd = -1;
		a->xid = k->xid++;
		a->tries_left = q->call.tries ? q->call.tries : 1;
		begin_try(a);
		if (a->fd < 0)
			fail(a, a->err);
	}
}

static int wait_ms(const struct rpc_client *k, uint64_t now)
{
	uint64_t first = UINT64_MAX;

	for (unsigned i = 0; i < RPC_CLIENT_ACTIVE; i++)
		if (k->active[i] && k->active[i]->q && k->active[i]->deadline_ms < first)
			first = k->active[i]->deadline_ms;
	if (first == UINT64_MAX)
		return -1;
	return first > now ? (int)(first - now < INT32_MAX ? first - now : INT32_MAX) : 0;
}

static void turn(struct rpc_client *k)
{
	struct pollfd p[RPC_CLIENT_ACTIVE + 1];
	struct active *of[RPC_CLIENT_ACTIVE];
	unsigned n = 0;
	uint64_t got;

	for (unsigned i = 0; i < RPC_CLIENT_ACTIVE; i++) {
		struct active *a = k->active[i];

		if (!a || !a->q || a->fd < 0)
			continue;
		p[n] = (struct pollfd){ a->fd, a->out_pos < a->out_len ? POLLOUT : POLLIN, 0 };
		of[n++] = a;
	}
	p[n] = (struct pollfd){ k->wake_fd, POLLIN, 0 };
	poll(p, n + 1, wait_ms(k, clock_mono_ms()));
	if (p[n].revents && read(k->wake_fd, &got, sizeof got) < 0)
		assert(errno == EAGAIN || errno == EINTR);
	while (n-- > 0)
		if (p[n].revents)
			go_on(of[n]);
	for (unsigned i = 0; i < RPC_CLIENT_ACTIVE; i++)
		if (k->active[i] && k->active[i]->q)
			check_time(k->active[i], clock_mono_ms());
}

static bool stopping(struct rpc_client *k)
{
	auto_lock(&k->mu);
	return k->stopping;
}

static void *client_main(void *arg)
{
	struct rpc_client *k = arg;
	struct request *q;

	while (!stopping(k)) {
		begin_some(k);
		turn(k);
	}
	for (unsigned i = 0; i < RPC_CLIENT_ACTIVE; i++)
		if (k->active[i] && k->active[i]->q)
			finish(k->active[i], -ECANCELED, NULL, 0);
	while ((q = next_request(k))) {
		if (q->call.done)
			q->call.done(q->call.arg, -ECANCELED, NULL, 0);
		free(q);
	}
	return NULL;
}

/* ---- for the others ---- */

static void wake(const struct rpc_client *k)
{
	uint64_t one = 1;

	if (write(k->wake_fd, &one, sizeof one) < 0)
		assert(errno == EAGAIN || errno == EINTR);
}

static int put(struct rpc_client *k, struct request *q)
{
	auto_lock(&k->mu);

	if (k->stopping)
		return -ECANCELED;
	if (k->queued == RPC_CLIENT_QUEUE)
		return -EAGAIN;
	k->queued++;
	*k->last = q;
	k->last = &q->next;
	return 0;
}

int rpc_client_call(struct rpc_client *k, const struct rpc_client_call *call)
{
	struct request *q;
	int err;

	if (call->args_len > RPC_CLIENT_ARGS_MAX)
		return -E2BIG;
	q = malloc(sizeof *q + call->args_len);
	if (!q)
		return -ENOMEM;
	q->next = NULL;
	q->call = *call;
	q->call.args = q->args;
	if (call->args_len)
		memcpy(q->args, call->args, call->args_len);
	err = put(k, q);
	if (err)
		free(q);
	else
		wake(k);
	return err;
}

struct waiter { pthread_mutex_t mu; pthread_cond_t ended; bool over; int err; unsigned char *out; size_t cap, len; };

static void waiter_done(void *arg, int err, const unsigned char *results, size_t len)
{
	struct waiter *w = arg;
	auto_lock(&w->mu);

	w->err = !err && len > w->cap ? -EMSGSIZE : err;
	if (!w->err && len)
		memcpy(w->out, results, len);
	w->len = w->err ? 0 : len;
	w->over = true;
	pthread_cond_signal(&w->ended);
}

int rpc_client_call_wait(struct rpc_client *k, const struct rpc_client_call *call, void *out, size_t cap, size_t *len)
{
	struct waiter w = { .out = out, .cap = cap };
	struct rpc_client_call c = *call;
	int err;

	assert(!pthread_equal(pthread_self(), k->thread));
	pthread_mutex_init(&w.mu, NULL);
	pthread_cond_init(&w.ended, NULL);
	c.done = waiter_done;
	c.arg = &w;
	err = rpc_client_call(k, &c);
	pthread_mutex_lock(&w.mu);
	while (!err && !w.over)
		pthread_cond_wait(&w.ended, &w.mu);
	pthread_mutex_unlock(&w.mu);
	pthread_cond_destroy(&w.ended);
	pthread_mutex_destroy(&w.mu);
	*len = err ? 0 : w.len;
	return err ? err : w.err;
}

int rpc_client_new(struct rpc_client **out)
{
	struct rpc_client *k = calloc(1, sizeof *k);
	int err;

	if (!k)
		return -ENOMEM;
	k->last = &k->first;
	pthread_mutex_init(&k->mu, NULL);
	k->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (getrandom(&k->xid, sizeof k->xid, 0) < 0)
		k->xid = (uint32_t)clock_mono_ns();
	err = k->wake_fd < 0 ? errno : pthread_create(&k->thread, NULL, client_main, k);
	if (err) {
		if (k->wake_fd >= 0)
			close(k->wake_fd);
		free(k);
		return -err;
	}
	*out = k;
	return 0;
}

void rpc_client_free(struct rpc_client *k)
{
	if (!k)
		return;
	pthread_mutex_lock(&k->mu);
	k->stopping = true;
	pthread_mutex_unlock(&k->mu);
	wake(k);
	pthread_join(k->thread, NULL);
	for (unsigned i = 0; i < RPC_CLIENT_ACTIVE; i++)
		free(k->active[i]);
	close(k->wake_fd);
	pthread_mutex_destroy(&k->mu);
	free(k);
}
