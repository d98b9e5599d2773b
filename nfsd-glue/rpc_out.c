/*
 * Answers on their way out. Whoever has one sends it himself, from where it lies, when nobody else is sending on this connection and nothing is queued;
 * otherwise he leaves it in the queue, and the one who is sending takes it along, many in one system call. When the socket takes no more, the rest waits in the queue for the
 * loop to say that there is room.
 *
 * EPOLLOUT comes edge-triggered: an edge that falls while somebody is sending is kept in `again`.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "nfsd-glue/rpc_int.h"

enum { IOV_MANY = 64 };

struct rpc_chunk {
	struct rpc_chunk *next;
	const unsigned char *p;			/* what is left of it; in bytes[], or within blk */
	size_t len;
	size_t held;				/* memory that it keeps, until its last byte is gone: what counts */
	struct blk *blk;			/* owned reference, or NULL */
	unsigned char bytes[];
};

static const unsigned char zeros[4];

/* ---- the queue; all under out_mu ---- */

static struct rpc_chunk *chunk_new(const unsigned char *p, size_t len, struct blk *blk)
{
	struct rpc_chunk *k = malloc(sizeof *k + (blk ? 0 : len));

	if (!k)
		return NULL;
	*k = (struct rpc_chunk){ .p = p, .len = len, .held = sizeof *k + (blk ? blk->cap : len), .blk = blk ? blk_ref(blk) : NULL };
	if (!blk) {
		memcpy(k->bytes, p, len);
		k->p = k->bytes;
	}
	return k;
}

static void chunk_free(struct rpc_chunk *k)
{
	blk_unref(k->blk);
	free(k);
}

static void count(struct rpc_conn *c, ssize_t n)
{
	atomic_fetch_add(&c->out_bytes, (size_t)n);
	atomic_fetch_add(&c->s->output, (size_t)n);
}

static void drop_queue(struct rpc_conn *c)
{
	struct rpc_chunk *k;

	while ((k = c->out)) {
		c->out = k->next;
		count(c, -(ssize_t)k->held);
		chunk_free(k);
	}
	c->out_last = &c->out;
	atomic_store(&c->stalled_ms, 0);
}

/* Half an answer can't be taken back: without memory for the rest the connection is lost. */
static void lose(struct rpc_conn *c)
{
	c->dead = true;
	drop_queue(c);
	rpc_conn_abort(c);
}

/* Where a list of chunks is made: behind the queue, or before it (what is left of an answer that was being sent). */
struct pieces { struct rpc_chunk *first, **last; bool failed; };

static void piece(struct pieces *l, const unsigned char *p, size_t len, struct blk *blk, size_t *skip)
{
	struct rpc_chunk *k;

	if (*skip >= len) {
		*skip -= len;
		return;
	}
	k = chunk_new(p + *skip, len - *skip, blk);
	*skip = 0;
	if (!k) {
		l->failed = true;
		return;
	}
	*l->last = k;
	l->last = &k->next;
}

/* Queues all but the first SKIP bytes. */
static void enqueue(struct rpc_conn *c, const unsigned char *batch, size_t batch_len, const struct rpc_out *o, size_t skip, bool front)
{
	struct pieces l = { .last = &l.first };

	piece(&l, batch, batch_len, NULL, &skip);
	if (o) {
		piece(&l, o->head, o->head_len, NULL, &skip);
		piece(&l, o->data, o->data_len, o->blk, &skip);
		piece(&l, zeros, xdr_pad(o->data_len), NULL, &skip);
	}
	for (struct rpc_chunk *k = l.first; k; k = k->next)
		count(c, (ssize_t)k->held);
	if (!l.first)
		return;
	if (front) {
		*l.last = c->out;
		if (!c->out)
			c->out_last = l.last;
		c->out = l.first;
	} else {
		*c->out_last = l.first;
		c->out_last = l.last;
	}
	if (!atomic_load(&c->stalled_ms))
		atomic_store(&c->stalled_ms, clock_mono_ms());
	if (l.failed)
		lose(c);
}

/* The first N bytes of the queue are gone. */
static void consume(struct rpc_conn *c, size_t n)
{
	while (n) {
		struct rpc_chunk *k = c->out;

		if (n < k->len) {
			k->p += n;
			k->len -= n;
			break;
		}
		n -= k->len;
		c->out = k->next;
		if (!c->out)
			c->out_last = &c->out;
		count(c, -(ssize_t)k->held);
		chunk_free(k);
	}
	atomic_store(&c->stalled_ms, c->out ? clock_mono_ms() : 0);
}

/* ---- the socket ---- */

/* Bytes taken, 0 when none can be now, -1 when it is broken. */
static ssize_t send_some(const struct rpc_conn *c, struct iovec *iov, size_t n)
{
	struct msghdr m = { .msg_iov = iov, .msg_iovlen = n };

	for (;;) {
		ssize_t r = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (r >= 0)
			return r;
		if (errno != EINTR)
			return errno == EAGAIN || errno == ENOBUFS || errno == ENOMEM ? 0 : -1;
	}
}

/* Takes the right to send, so out_mu can be dropped. Chunks at the front of the queue stay there meanwhile: only the sender and lose() take them away, and lose() is
 * called by the sender or after an enqueue; so what is on its way is taken off the queue first. */
static size_t front_of(struct rpc_conn *c, struct iovec iov[IOV_MANY], struct pieces *taken)
{
	size_t n = 0;

	*taken = (struct pieces){ .first = c->out, .last = &taken->first };
	for (struct rpc_chunk *k = c->out; k && n < IOV_MANY; k = k->next) {
		iov[n++] = (struct iovec){ (void *)k->p, k->len };
		taken->last = &k->next;
	}
	c->out = *taken->last;
	if (!c->out)
		c->out_last = &c->out;
	*taken->last = NULL;
	return n;
}

static void put_back(struct rpc_conn *c, struct pieces *taken)
{
	if (!taken->first)
		return;
	*taken->last = c->out;
	if (!c->out)
		c->out_last = taken->last;
	c->out = taken->first;
}

/* Under out_mu and as the sender: sends the queue until it is empty or the socket full. */
static void drain(struct rpc_conn *c)
{
	struct iovec iov[IOV_MANY];
	struct pieces taken;

	while (c->out && !c->dead) {
		size_t n = front_of(c, iov, &taken);
		c->again = false;
		pthread_mutex_unlock(&c->out_mu);
		ssize_t sent = send_some(c, iov, n);
		pthread_mutex_lock(&c->out_mu);
		put_back(c, &taken);
		if (c->dead || sent < 0) {
			lose(c);
			return;
		}
		if (sent > 0)
			consume(c, (size_t)sent);
		else if (!c->again)
			return;
	}
}

/* Somebody may wait for the queue to be short again. */
static void relieved(struct rpc_conn *c)
{
	if (!(atomic_load(&c->waiting) & (WAIT_OUTPUT | WAIT_HELD)) || atomic_load(&c->out_bytes) > RPC_CONN_OUTPUT_MAX / 2)
		return;
	unsigned was = atomic_fetch_and(&c->waiting, ~(unsigned)(WAIT_OUTPUT | WAIT_HELD));
	if (was & WAIT_HELD)
		rpc_pool_resume(c);
	if (was & WAIT_OUTPUT)
		rpc_loop_wake(c->loop);
}

/* Under out_mu, as the sender: what nobody queued goes out from where it lies. */
static void send_direct(struct rpc_conn *c, const unsigned char *batch, size_t batch_len, const struct rpc_out *o)
{
	struct iovec iov[4];
	size_t n = 0, total = 0;

	if (batch_len)
		iov[n++] = (struct iovec){ (void *)batch, batch_len };
	if (o)
		iov[n++] = (struct iovec){ o->head, o->head_len };
	if (o && o->data_len)
		iov[n++] = (struct iovec){ (void *)o->data, o->data_len };
	if (o && xdr_pad(o->data_len))
		iov[n++] = (struct iovec){ (void *)zeros, xdr_pad(o->data_len) };
	for (size_t i = 0; i < n; i++)
		total += iov[i].iov_len;
	c->again = false;
	pthread_mutex_unlock(&c->out_mu);
	ssize_t sent = send_some(c, iov, n);
	pthread_mutex_lock(&c->out_mu);
	if (c->dead)
		return;
	if (sent < 0) {
		lose(c);
		return;
	}
	if ((size_t)sent < total)
		enqueue(c, batch, batch_len, o, (size_t)sent, true);
	if (sent || c->again)
		drain(c);
}

static void make_room(struct rpc_conn *c)
{
	size_t bytes = atomic_load(&c->s->output);

	if (bytes > RPC_OUTPUT_MAX)
		rpc_evict_output(c->s, clock_mono_ms(), bytes > 2 * (size_t)RPC_OUTPUT_MAX ? 0 : RPC_PATIENCE_MS);
}

void rpc_out_send(struct rpc_conn *c, const unsigned char *batch, size_t batch_len, const struct rpc_out *o)
{
	pthread_mutex_lock(&c->out_mu);
	if (!c->dead && (c->sending || c->out)) {
		enqueue(c, batch, batch_len, o, 0, false);
	} else if (!c->dead) {
		c->sending = true;
		send_direct(c, batch, batch_len, o);
		c->sending = false;
	}
	bool queued = c->out;
	pthread_mutex_unlock(&c->out_mu);
	if (queued)
		make_room(c);
	relieved(c);
}

void rpc_out_ready(struct rpc_conn *c)
{
	pthread_mutex_lock(&c->out_mu);
	c->again = true;
	if (!c->sending && c->out && !c->dead) {
		c->sending = true;
		drain(c);
		c->sending = false;
	}
	pthread_mutex_unlock(&c->out_mu);
	relieved(c);
}

void rpc_out_end(struct rpc_conn *c)
{
	auto_lock(&c->out_mu);
	c->dead = true;
	drop_queue(c);
}
