/*
 * A loop: one thread, its epoll, its share of the connections.
 *
 * Events are edge-triggered; a connection that has input goes into the ready list and is visited in turn, one read each, so that a flood on one doesn't
 * starve the others. A visit: read into the loop's buffer (or, for a big record, straight into its block), take the records apart, run what is fast, hand
 * what is slow to the pool, send the batch of answers.
 *
 * A connection with too much in flight is paused: what was read stays in `rest`, nothing more is read, until the pool or the output says that it is better.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "nfsd-glue/rpc_int.h"

enum {
	EVENTS_MAX = 64,
	EVICT_PAUSE_MS = 20,		/* looking for a victim takes a while: not for every record */
	RECORD_RATE = 16 << 10,		/* bytes per second that a slow client must manage at least */
};

/* ---- the lists of ready and of paused ones: each is in one of them at most ---- */

static void list_add(struct rpc_conn **list, struct rpc_conn *c)
{
	if (c->ready_prev)
		return;
	c->ready_next = *list;
	c->ready_prev = list;
	if (*list)
		(*list)->ready_prev = &c->ready_next;
	*list = c;
}

static void list_remove(struct rpc_conn *c)
{
	if (!c->ready_prev)
		return;
	*c->ready_prev = c->ready_next;
	if (c->ready_next)
		c->ready_next->ready_prev = c->ready_prev;
	c->ready_prev = NULL;
}

/* ---- ending ---- */

static void set_partial(struct rpc_conn *c, size_t bytes)
{
	if (bytes == c->partial)
		return;
	atomic_fetch_add(&c->s->partial, bytes - c->partial);
	c->partial = bytes;
}

static void conn_close(struct rpc_loop *l, struct rpc_conn *c)
{
	list_remove(c);
	pthread_mutex_lock(&l->mu);
	*c->prev = c->next;
	if (c->next)
		c->next->prev = c->prev;
	pthread_mutex_unlock(&l->mu);
	epoll_ctl(l->ep, EPOLL_CTL_DEL, c->fd, NULL);
	rpc_out_end(c);
	rpc_pool_purge(c);
	rpc_conn_linger(c, true);
	shutdown(c->fd, SHUT_RDWR);
	rpc_record_reset(&c->record);
	free(c->rest);
	c->rest = NULL;
	set_partial(c, 0);
	rpc_conn_gone(c);
}

static void conn_close_bad(struct rpc_loop *l, struct rpc_conn *c)
{
	atomic_fetch_add_explicit(&l->s->closed_bad, 1, memory_order_relaxed);
	conn_close(l, c);
}

static void conn_close_slow(struct rpc_loop *l, struct rpc_conn *c)
{
	atomic_fetch_add_explicit(&l->s->closed_slow, 1, memory_order_relaxed);
	rpc_conn_abort(c);
	conn_close(l, c);
}

/* ---- one call ---- */

static void flush_batch(struct rpc_loop *l, struct rpc_conn *c, const struct rpc_out *o)
{
	if (l->batch_len || o)
		rpc_out_send(c, l->batch, l->batch_len, o);
	l->batch_len = 0;
}

static void count(_Atomic uint64_t *n)
{
	atomic_store_explicit(n, atomic_load_explicit(n, memory_order_relaxed) + 1, memory_order_relaxed);
}

static void answer_fault(struct rpc_loop *l, struct rpc_conn *c, uint32_t xid, const struct rpc_fault *f)
{
	if (RPC_BATCH_LEN - l->batch_len < RPC_MARK_LEN + RPC_FAULT_MAX)
		flush_batch(l, c, NULL);
	l->batch_len += rpc_fault_record(l->batch + l->batch_len, xid, f);
	count(&l->faults);
}

static void run_fast(struct rpc_loop *l, struct rpc_conn *c, const struct rpc_program *p, struct rpc_call *call)
{
	struct rpc_reply r;
	struct rpc_out o;
	bool fault;

	if (RPC_BATCH_LEN - l->batch_len < RPC_HEAD_LEN + RPC_REPLY_FIRST)
		flush_batch(l, c, NULL);
	rpc_reply_init(&r, l->batch + l->batch_len, RPC_BATCH_LEN - l->batch_len);
	call->scratch = l->scratch;
	enum rpc_verdict v = p->handle(p->arg, call, &r);
	if (rpc_conclude(&r, call->xid, v, &o, &fault)) {
		if (fault)
			count(&l->faults);
		if (!r.heap && !o.blk)
			l->batch_len += o.head_len;
		else
			flush_batch(l, c, &o);
	}
	rpc_reply_end(&r);
}

/* One record. 0 or -errno (give the connection up). */
static int handle_record(struct rpc_loop *l, struct rpc_conn *c, const unsigned char *rec, size_t len)
{
	struct rpc_header h;
	struct rpc_fault fault;
	const struct rpc_program *p;
	struct blk *blk = c->record.whole ? c->record.blk : NULL;
	int err = rpc_header_parse(rec, len, &h, &fault);

	if (err)
		return err;
	count(&l->calls);
	p = fault.kind == RPC_FAULT_NONE ? rpc_find_program(l->s, &h, &fault) : NULL;
	if (!p) {
		answer_fault(l, c, h.xid, &fault);
		return 0;
	}
	struct rpc_call call = { .xid = h.xid, .prog = h.prog, .vers = h.vers, .proc = h.proc, .cred = h.cred, .args = rec + h.header_len,
				 .args_len = len - h.header_len, .owner = blk, .peer = &c->peer, .local = &c->local, .conn = c };
	enum rpc_speed speed = p->speed ? p->speed(p->arg, &call) : RPC_FAST;
	if (speed == RPC_FAST) {
		run_fast(l, c, p, &call);
		return 0;
	}
	return rpc_pool_submit(c, p, speed, &call, rec, len, blk);
}

/* ---- how much is in flight ---- */

static unsigned must_wait(const struct rpc_conn *c)
{
	unsigned w = 0;

	if (atomic_load(&c->out_bytes) > RPC_CONN_OUTPUT_MAX)
		w |= WAIT_OUTPUT;
	if (atomic_load(&c->calls) >= RPC_CONN_CALLS_MAX || atomic_load(&c->inflight) >= RPC_CONN_INFLIGHT_MAX ||
	    atomic_load(&c->s->inflight) >= RPC_INFLIGHT_MAX)
		w |= WAIT_CALLS;
	return w;
}

static bool pause_if_needed(const struct rpc_loop *l, struct rpc_conn *c)
{
	unsigned w = must_wait(c);

	if (!w && !c->paused)
		return false;
	if (!w) {				/* it was, and time has passed that is not the client's fault */
		atomic_fetch_and(&c->waiting, ~(unsigned)(WAIT_OUTPUT | WAIT_CALLS));
		if (atomic_load(&c->since_ms))
			atomic_store(&c->since_ms, l->now_ms);
	} else {
		if (atomic_load(&c->s->inflight) >= RPC_INFLIGHT_MAX)
			atomic_store(&c->s->starving, true);
		atomic_fetch_or(&c->waiting, w);
		w = must_wait(c);
		if (!w)
			atomic_fetch_and(&c->waiting, ~(unsigned)(WAIT_OUTPUT | WAIT_CALLS));
	}
	c->paused = w != 0;
	return c->paused;
}

/* ---- bytes that came ---- */

static void note_record(struct rpc_loop *l, struct rpc_conn *c)
{
	atomic_store_explicit(&c->last_ms, l->now_ms, memory_order_relaxed);
	if (!atomic_load_explicit(&c->spoke, memory_order_relaxed))
		atomic_store_explicit(&c->spoke, true, memory_order_relaxed);
}

/* What is incomplete now, since when, and how much it takes. */
static void note_partial(struct rpc_loop *l, struct rpc_conn *c)
{
	bool begun = rpc_record_begun(&c->record);
	uint64_t since = atomic_load_explicit(&c->since_ms, memory_order_relaxed);

	if (!begun && since)
		atomic_store_explicit(&c->since_ms, 0, memory_order_relaxed);
	if (begun && !since)
		atomic_store_explicit(&c->since_ms, l->now_ms, memory_order_relaxed);
	set_partial(c, (c->record.blk ? c->record.blk->cap : 0) + (c->rest ? RPC_IN_LEN : 0));
}

/* Takes records from IN[0..N) until all is used or the connection is paused. Bytes used, or -errno. */
static ssize_t feed(struct rpc_loop *l, struct rpc_conn *c, const unsigned char *in, size_t n)
{
	const unsigned char *rec;
	size_t pos = 0, used, len;

	while (!pause_if_needed(l, c)) {
		int r = rpc_record_take(&c->record, in + pos, n - pos, &used, &rec, &len);
		if (r < 0)
			return r;
		pos += used;
		if (r == 0)
			break;
		note_record(l, c);
		atomic_store_explicit(&c->since_ms, 0, memory_order_relaxed);
		r = handle_record(l, c, rec, len);
		rpc_record_reset(&c->record);
		if (r)
			return r;
	}
	return (ssize_t)pos;
}

static int keep_rest(struct rpc_conn *c, const unsigned char *in, size_t n)
{
	if (!n)
		return 0;
	assert(!c->rest && n <= RPC_IN_LEN);
	c->rest = malloc(n);
	if (!c->rest)
		return -ENOMEM;
	memcpy(c->rest, in, n);
	c->rest_pos = 0;
	c->rest_len = n;
	return 0;
}

/* Input from before a pause. 0 or -errno. */
static int feed_rest(struct rpc_loop *l, struct rpc_conn *c)
{
	ssize_t used = feed(l, c, c->rest ? c->rest + c->rest_pos : l->in, c->rest ? c->rest_len - c->rest_pos : 0);

	if (used < 0)
		return (int)used;
	c->rest_pos += (size_t)used;
	if (c->rest && c->rest_pos == c->rest_len) {
		free(c->rest);
		c->rest = NULL;
		c->rest_pos = c->rest_len = 0;
	}
	return 0;
}

/* One read: *DIRECT bytes into the place of a big record, the others (returned) into the loop's buffer. -EAGAIN: nothing there; -ECONNRESET: the end. */
static ssize_t read_some(struct rpc_loop *l, struct rpc_conn *c, size_t *direct)
{
	unsigned char *place = NULL;
	size_t room = rpc_record_place(&c->record, &place);
	struct iovec iov[2] = { { place, room }, { l->in, RPC_IN_LEN } };
	struct msghdr m = { .msg_iov = room ? iov : iov + 1, .msg_iovlen = room ? 2 : 1 };
	ssize_t n;

	do
		n = recvmsg(c->fd, &m, MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return errno == EAGAIN ? -EAGAIN : -ECONNRESET;
	if (n == 0)
		return -ECONNRESET;
	if ((size_t)n < room + RPC_IN_LEN && !c->ended)
		c->readable = false;		/* the stream is empty; what comes next makes an edge */
	*direct = (size_t)n < room ? (size_t)n : room;
	return n - (ssize_t)*direct;
}

static int read_and_feed(struct rpc_loop *l, struct rpc_conn *c)
{
	size_t direct = 0;
	ssize_t n = read_some(l, c, &direct), used;

	if (n == -EAGAIN) {
		c->readable = false;
		return 0;
	}
	if (n < 0)
		return (int)n;
	if (direct)
		rpc_record_placed(&c->record, direct);
	used = feed(l, c, l->in, (size_t)n);
	return used < 0 ? (int)used : keep_rest(c, l->in + used, (size_t)(n - used));
}

static bool overfull(const struct rpc_loop *l)
{
	return atomic_load(&l->s->partial) > 2 * (size_t)RPC_PARTIAL_MAX;
}

static void make_room(struct rpc_loop *l)
{
	bool hard = overfull(l);

	if (atomic_load(&l->s->partial) <= RPC_PARTIAL_MAX || (!hard && l->now_ms - l->evict_ms < EVICT_PAUSE_MS))
		return;
	l->evict_ms = l->now_ms;
	rpc_evict_partial(l->s, l->now_ms, hard ? 0 : RPC_PATIENCE_MS);
}

/* Those who have to go are gone when their loops have looked: what was too much before is looked at again. */
static void make_more_room(struct rpc_loop *l)
{
	size_t bytes = atomic_load(&l->s->partial), limit = 2 * (size_t)RPC_PARTIAL_MAX;

	make_room(l);
	for (; bytes > limit + RPC_RECORD_MAX; bytes -= RPC_RECORD_MAX)
		rpc_evict_partial(l->s, l->now_ms, 0);
}

/* A connection's turn. */
static void visit(struct rpc_loop *l, struct rpc_conn *c)
{
	int err = feed_rest(l, c);

	if (!err && !c->paused && c->readable)
		err = read_and_feed(l, c);
	flush_batch(l, c, NULL);
	if (err == -ECONNRESET) {
		conn_close(l, c);
		return;
	}
	if (err) {
		conn_close_bad(l, c);
		return;
	}
	note_partial(l, c);
	if (c->paused || !c->readable)
		list_remove(c);
	if (c->paused)
		list_add(&l->paused, c);
	make_room(l);
}

/* ---- time ---- */

static bool too_slow(const struct rpc_loop *l, struct rpc_conn *c)
{
	const struct rpc_server_config *f = &l->s->config;
	uint64_t since = atomic_load(&c->since_ms), stalled = atomic_load(&c->stalled_ms);

	if (stalled && l->now_ms > stalled + f->stall_timeout_ms)
		return true;
	if (c->paused)
		return false;
	if (since && l->now_ms > since + f->record_timeout_ms + c->record.len * 1000 / RECORD_RATE)
		return true;
	return !atomic_load(&c->spoke) && l->now_ms > atomic_load(&c->last_ms) + f->record_timeout_ms;
}

static void resume_paused(struct rpc_loop *l)
{
	struct rpc_conn *c;

	while ((c = l->paused)) {
		list_remove(c);
		list_add(&l->ready, c);
	}
}

static void tick(struct rpc_loop *l)
{
	struct rpc_conn *c, *next;

	l->tick_ms = l->now_ms;
	pthread_mutex_lock(&l->mu);
	c = l->conns;
	pthread_mutex_unlock(&l->mu);
	for (; c; c = next) {			/* new ones are put in front; only this thread takes any away */
		next = c->next;
		if (too_slow(l, c))
			conn_close_slow(l, c);
		else if (atomic_load(&c->out_bytes))
			rpc_out_ready(c);
	}
	resume_paused(l);
	make_more_room(l);
	if (l == l->s->loops)
		rpc_listeners_resume(l->s);
}

/* ---- the thread ---- */

static void event(struct rpc_loop *l, const struct epoll_event *e)
{
	struct rpc_source *source = e->data.ptr;
	uint64_t n;

	switch (source->kind) {
	case SOURCE_WAKE:
		if (read(l->wake_fd, &n, sizeof n) > 0)
			resume_paused(l);
		break;
	case SOURCE_LISTENER: rpc_accept(l->s, (struct rpc_listener *)source); break;
	case SOURCE_CONN: {
		struct rpc_conn *c = (struct rpc_conn *)source;

		if ((e->events & EPOLLOUT) && atomic_load(&c->out_bytes))
			rpc_out_ready(c);
		if (e->events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR))
			c->ended = true;
		if (e->events & ~(uint32_t)EPOLLOUT)
			c->readable = true;
		if (c->readable)
			list_add(&l->ready, c);
		if ((e->events & (EPOLLHUP | EPOLLERR)) && (c->paused || atomic_load(&c->doomed)))
			conn_close(l, c);
		break;
	}
	}
}

static void *loop_main(void *arg)
{
	struct rpc_loop *l = arg;
	struct epoll_event ev[EVENTS_MAX];

	while (!atomic_load(&l->s->stopping)) {
		int n = epoll_wait(l->ep, ev, EVENTS_MAX, l->ready ? 0 : RPC_TICK_MS);
		l->now_ms = clock_mono_ms();
		for (int i = 0; i < n; i++)
			event(l, &ev[i]);
		for (struct rpc_conn *c = l->ready, *next; c; c = next) {
			next = c->ready_next;
			visit(l, c);
			if (overfull(l))
				break;		/* first see who was closed to make room */
		}
		if (l->now_ms - l->tick_ms >= RPC_TICK_MS)
			tick(l);
	}
	return NULL;
}

void rpc_loop_close(struct rpc_loop *l)
{
	while (l->conns) {
		rpc_conn_abort(l->conns); /* the service address may be gone already: see rpc_conn_linger */
		conn_close(l, l->conns);
	}
}

void rpc_loop_wake(struct rpc_loop *l)
{
	uint64_t one = 1;

	if (write(l->wake_fd, &one, sizeof one) < 0)
		assert(errno == EAGAIN);
}

int rpc_loop_add(struct rpc_loop *l, struct rpc_conn *c)
{
	struct epoll_event e = { .events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = &c->source };
	auto_lock(&l->mu);

	if (epoll_ctl(l->ep, EPOLL_CTL_ADD, c->fd, &e))
		return -errno;
	c->next = l->conns;
	c->prev = &l->conns;
	if (l->conns)
		l->conns->prev = &c->next;
	l->conns = c;
	return 0;
}

int rpc_loop_init(struct rpc_loop *l, struct rpc_server *s)
{
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = &l->wake };

	l->wake.kind = SOURCE_WAKE;
	l->s = s;
	pthread_mutex_init(&l->mu, NULL);
	l->ep = epoll_create1(EPOLL_CLOEXEC);
	l->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->ep < 0 || l->wake_fd < 0 || epoll_ctl(l->ep, EPOLL_CTL_ADD, l->wake_fd, &e))
		return -errno;
	l->in = aligned_alloc(64, RPC_IN_LEN);
	l->batch = aligned_alloc(64, RPC_BATCH_LEN);
	l->scratch = aligned_alloc(64, RPC_SCRATCH_LEN);
	return l->in && l->batch && l->scratch ? 0 : -ENOMEM;
}

int rpc_loop_start(struct rpc_loop *l)
{
	int err;

	l->now_ms = l->tick_ms = clock_mono_ms();
	err = pthread_create(&l->thread, NULL, loop_main, l);
	l->running = !err;
	return -err;
}

void rpc_loop_free(struct rpc_loop *l)
{
	if (l->ep >= 0)
		close(l->ep);
	if (l->wake_fd >= 0)
		close(l->wake_fd);
	free(l->in);
	free(l->batch);
	free(l->scratch);
	pthread_mutex_destroy(&l->mu);
}
