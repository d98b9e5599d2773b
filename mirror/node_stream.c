/*
 * Streams: the sender threads of a primary, the reader, applier and acknowledgement threads of a standby.
 *
 * Opening: the primary attaches to its queue (so that nothing is missed), sends OPEN; the standby accepts with OPENED, and both ask
 * their links for the stream connection of that token. A stream ends when its connection fails, its queue is detached, or somebody
 * closes it; whoever notices tells the core, which decides what follows.
 *
 * The reader takes whole, checked frames off the connection into a bounded list; the applier works it off. So what was received is on this node's
 * side when the primary dies, and a promotion applies it all first (drain).
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "mirror/node_int.h"

/* ---- sender ---- */

static int send_entry(struct sender *s, struct qentry *e, bool more)
{
	static const struct op nop = { .type = OP_NOP };
	struct frame_header h = { .kind = FRAME_OP, .seq = e->seq };
	int err;

	if (e->peers & 1u << s->peer) {
		h.meta_len = (uint32_t)e->meta_len;
		h.data_len = (uint32_t)e->data_len;
		return frame_write(s->conn, &h, e->meta, e->data, more, 0);
	}
	struct enc meta = { 0 };
	err = op_encode(&meta, &nop);
	h.meta_len = (uint32_t)meta.len;
	if (!err)
		err = frame_write(s->conn, &h, meta.p, NULL, more, 0);
	enc_free(&meta);
	return err;
}

/* Sends until the queue is detached or the connection fails. What is at hand goes out together. */
static int send_all(struct sender *s)
{
	struct qentry *e = NULL, *next;
	int err = 0;

	for (;;) {
		if (!e && (err = queue_next(s->n->cfg.queue, s->peer, true, &e)))
			return err;
		int more = queue_next(s->n->cfg.queue, s->peer, false, &next);
		if (more && more != -EAGAIN)
			next = NULL;
		err = send_entry(s, e, !more);
		qentry_unref(e);
		e = more ? NULL : next;
		if (err || (more && more != -EAGAIN)) {
			if (e)
				qentry_unref(e);
			return err ? err : more;
		}
	}
}

static void *sender_thread(void *arg)
{
	struct sender *s = arg;
	int err = send_all(s);

	pthread_mutex_lock(&s->n->stream_mu);
	bool closed = !s->running;		/* by us */
	pthread_mutex_unlock(&s->n->stream_mu);
	if (err != -ESHUTDOWN && !closed) {
		struct core_event e = { .type = EV_PEER_FAILED, .peer = s->peer, .text = "its stream broke" };
		node_event(s->n, &e);
	}
	return NULL;
}

void stream_open(struct node *n, const struct core_action *a)
{
	struct sender *s = &n->sender[a->peer];
	struct core_event refused = { .type = EV_OPEN_REFUSED, .peer = a->peer, .text = "the queue does not hold what it lacks" };
	uint64_t from = a->full ? queue_last(n->cfg.queue) : a->from_seq;
	int err = queue_attach(n->cfg.queue, a->peer, from + 1);

	while (a->full && err == -ESTALE) {
		from = queue_last(n->cfg.queue);
		err = queue_attach(n->cfg.queue, a->peer, from + 1);
	}
	if (err) {
		node_event(n, &refused);
		return;
	}
	struct msg m = { .kind = FRAME_OPEN };
	m.open = (struct open_msg){ .token = state_random(), .from_seq = from, .mode = a->full ? OPEN_FULL : OPEN_STREAM,
				    .base_seq = atomic_load(&n->base_seq), .keep_lost = a->keep_lost,
				    .at_instance = a->full ? 0 : a->instance, .at_seq = a->full ? 0 : a->seq };
	pthread_mutex_lock(&n->core_mu);
	m.open.epoch = state_epoch(&n->core.rec);
	pthread_mutex_unlock(&n->core_mu);
	pthread_mutex_lock(&n->stream_mu);
	s->n = n;
	s->peer = a->peer;
	s->token = m.open.token;
	pthread_mutex_unlock(&n->stream_mu);
	link_send(n->links, a->peer, &m);
}

void stream_close(struct node *n, unsigned peer)
{
	struct sender *s = &n->sender[peer];

	queue_detach(n->cfg.queue, peer);	/* first: it wakes whoever waits for room */
	pthread_mutex_lock(&n->stream_mu);
	s->token = 0;
	bool running = s->running;
	s->running = false;
	if (s->conn)
		conn_shutdown(s->conn);
	pthread_mutex_unlock(&n->stream_mu);
	n->resync.stop(n->resync.arg, peer);
	if (!running)
		return;
	pthread_join(s->thread, NULL);
	conn_free(s->conn);
	s->conn = NULL;
}

void node_stream_opened(struct node *n, unsigned peer, const struct opened_msg *m)
{
	struct core_event e = { .type = EV_OPEN_REFUSED, .peer = peer, .text = m->reason };

	pthread_mutex_lock(&n->stream_mu);
	bool ours = n->sender[peer].token == m->token && m->token;
	pthread_mutex_unlock(&n->stream_mu);
	if (!ours)
		return;
	if (m->err)
		node_event(n, &e);
	else
		link_stream(n->links, peer, m->token);
}

/* ---- standby: acknowledgements ----
 *
 * Nobody waits for that of a plain change: they go out together, ACK_DELAY_MS after the first at the latest, or when ACK_BYTES came in
 * (the primary's queue keeps what isn't acknowledged). What a caller of the primary waits for is acknowledged at once. Barriers have answers
 * of their own. */

void node_ack_poke(struct node *n, bool prompt)
{
	atomic_fetch_add(&n->ack_wanted, 1);
	if (!prompt && atomic_load(&n->ack_napping))
		return;		/* the thread looks at ack_wanted after it has cleared ack_napping */
	pthread_mutex_lock(&n->ack_mu);
	n->ack_prompt |= prompt;
	pthread_cond_signal(&n->ack_cond);
	pthread_mutex_unlock(&n->ack_mu);
}

static int answer_locked(struct node *n, const struct msg *m)
{
	return n->stream_peer ? link_send(n->links, n->stream_peer, m) : -ENOTCONN;
}

int stream_answer(struct node *n, const struct msg *m)
{
	auto_lock(&n->answer_mu);
	return answer_locked(n, m);
}

static bool ack_is_due(struct node *n)
{
	return atomic_load(&n->recv_bytes) - atomic_load(&n->acked_bytes) >= ACK_BYTES;
}

static void send_ack(struct node *n)
{
	struct msg m = { .kind = FRAME_ACK };
	auto_lock(&n->answer_mu);
	m.ack = (struct ack){ atomic_load(&n->recv_seq), atomic_load(&n->applied_seq), atomic_load(&n->recv_bytes) };
	atomic_store(&n->acked_bytes, m.ack.bytes);
	answer_locked(n, &m);
}

/* Lets more come in; with ack_mu held. */
static void ack_nap(struct node *n)
{
	struct timespec until = clock_mono_after_ms(ACK_DELAY_MS);

	atomic_store(&n->ack_napping, true);
	while (!atomic_load(&n->stopping) && !n->ack_prompt && pthread_cond_timedwait(&n->ack_cond, &n->ack_mu, &until) != ETIMEDOUT)
		;
	n->ack_prompt = false;
}

/* One acknowledgement at a time is under way; what comes meanwhile is in the next. */
void *node_ack_thread(void *arg)
{
	struct node *n = arg;
	uint64_t sent = 0;

	pthread_mutex_lock(&n->ack_mu);
	while (!atomic_load(&n->stopping)) {
		atomic_store(&n->ack_napping, false);
		if (atomic_load(&n->ack_wanted) == sent) {
			pthread_cond_wait(&n->ack_cond, &n->ack_mu);
			continue;
		}
		ack_nap(n);
		sent = atomic_load(&n->ack_wanted);
		pthread_mutex_unlock(&n->ack_mu);
		send_ack(n);
		pthread_mutex_lock(&n->ack_mu);
	}
	pthread_mutex_unlock(&n->ack_mu);
	return NULL;
}

/* ---- standby: reader and applier ---- */

static void received_free(struct received *r)
{
	blk_unref(r->blk);
	free(r);
}

static int list_push(struct receiver *r, struct received *f)
{
	auto_lock(&r->mu);
	while (r->bytes > RECV_LIST_BYTES_MAX && !r->abandoned)
		pthread_cond_wait(&r->changed, &r->mu);
	if (r->abandoned)
		return -ECONNABORTED;
	f->next = NULL;
	*r->last = f;
	r->last = &f->next;
	r->bytes += f->blk->cap;
	pthread_cond_broadcast(&r->changed);
	return 0;
}

/* The next frame, or NULL when there will be none. */
static struct received *list_pop(struct receiver *r, bool *more)
{
	auto_lock(&r->mu);
	while (!r->first && !r->eof && !r->abandoned)
		pthread_cond_wait(&r->changed, &r->mu);
	struct received *f = r->abandoned ? NULL : r->first;
	if (!f)
		return NULL;
	r->first = f->next;
	if (!r->first)
		r->last = &r->first;
	*more = r->first;
	r->bytes -= f->blk->cap;
	pthread_cond_broadcast(&r->changed);
	return f;
}

static int read_one(struct receiver *r)
{
	struct received *f = calloc(1, sizeof *f);
	struct node *n = r->n;

	if (!f)
		return -ENOMEM;
	int err = frame_read(r->conn, &f->h, &f->blk, &f->meta, &f->data, 0);
	if (!err && (f->h.kind != FRAME_OP || f->h.seq != r->expect)) {
		log_error("stream: node %u: frame %llu of kind %u where %llu was due: connection closed", r->peer,
			  (unsigned long long)f->h.seq, f->h.kind, (unsigned long long)r->expect);
		err = -EBADMSG;
	}
	uint64_t bytes = FRAME_HEADER_LEN + (uint64_t)f->h.meta_len + f->h.raw_len;
	bool awaited = n->cfg.prompt_acks || (!err && op_is_awaited(f->meta, f->h.meta_len));	/* F is the applier's soon */
	if (!err)
		err = list_push(r, f);
	if (err) {
		received_free(f);
		return err;
	}
	atomic_store(&n->recv_seq, r->expect++);
	atomic_fetch_add(&n->recv_bytes, bytes);
	node_ack_poke(n, awaited || ack_is_due(n));
	return 0;
}

static void *reader_thread(void *arg)
{
	struct receiver *r = arg;
	int err;

	while (!(err = read_one(r)))
		;
	log_debug("stream: node %u: reading ends: %s", r->peer, strerror(-err));
	pthread_mutex_lock(&r->mu);
	r->eof = true;
	bool expected = r->ending || r->abandoned;
	pthread_cond_broadcast(&r->changed);
	pthread_mutex_unlock(&r->mu);
	if (err == -EBADMSG && !expected)
		link_reset(r->n->links, r->peer, "its stream was malformed");
	return NULL;
}

static int apply_one(struct receiver *r, const struct received *f)
{
	char names[512];
	struct op op;
	int err = op_decode(f->meta, f->h.meta_len, f->data, f->h.raw_len, names, &op);

	if (err)
		return err;
	op.data_owner = f->blk;
	err = apply_op(r->n->apply, &op, f->h.seq);
	if (err)
		log_error("apply: op %llu (%s) of object %llu: %s", (unsigned long long)f->h.seq, op_name(op.type),
			  (unsigned long long)op.id, strerror(-err));
	return err;
}

/* A comparison makes this node the primary's copy: before the first op that is recorded, and our versions' fate decided. */
static int begin_full(struct receiver *r)
{
	char session[64];
	time_t now = time(NULL);
	struct tm tm;

	if (!r->full) {
		apply_set_tolerant(r->n->apply, false);
		return 0;
	}
	int err = node_set_inconsistent(r->n, true);
	if (!err)
		err = apply_recover(r->n->apply);
	localtime_r(&now, &tm);
	strftime(session, sizeof session, "%Y%m%d-%H%M%S", &tm);
	if (!err)
		err = r->n->resync.keep_lost(r->n->resync.arg, r->keep_lost ? session : NULL);
	apply_set_tolerant(r->n->apply, true);
	return err;
}

static void apply_failed(struct receiver *r, int err)
{
	struct core_event e = { .type = EV_DIVERGED, .flag = err == -EUCLEAN || apply_flush_failed(r->n->apply) };
	char text[120];

	snprintf(text, sizeof text, "%s", err == -EUCLEAN ? "this node's tree is not what the primary thinks" : strerror(-err));
	e.text = text;
	if (err != -ECONNABORTED)
		node_event(r->n, &e);
}

static void *applier_thread(void *arg)
{
	struct receiver *r = arg;
	struct received *f;
	bool more = false;
	int err = begin_full(r);

	while (!err && (f = list_pop(r, &more))) {
		err = apply_one(r, f);
		if (!err) {
			atomic_store(&r->n->applied_seq, f->h.seq);
			if (!more || f->h.seq % 64 == 0)
				node_ack_poke(r->n, op_is_awaited(f->meta, f->h.meta_len));
		}
		received_free(f);
	}
	if (err) {
		pthread_mutex_lock(&r->mu);
		r->abandoned = true;		/* nothing after the op that failed */
		pthread_cond_broadcast(&r->changed);
		pthread_mutex_unlock(&r->mu);
		apply_failed(r, err);
	}
	return NULL;
}

/* A stream goes on where we are, or not at all: no op is applied twice, none is left out. (What lay in the list when we said hello has been
 * applied meanwhile.) */
static bool stream_fits(struct node *n, const struct core_action *a)
{
	const struct open_msg *o = &a->msg.open;
	return atomic_load(&n->from_instance) == o->at_instance && atomic_load(&n->applied_seq) == o->at_seq;
}

/* While a comparison runs we hold nothing that a stream could go on from, whatever happens to the links. */
static void stream_position(struct node *n, const struct core_action *a)
{
	bool full = a->msg.open.mode == OPEN_FULL;
	auto_lock(&n->answer_mu);

	n->stream_peer = a->peer;
	atomic_store(&n->from_instance, full ? 0 : a->instance);
	atomic_store(&n->full_instance, full ? a->instance : 0);
	atomic_store(&n->recv_seq, a->msg.open.from_seq);
	atomic_store(&n->applied_seq, a->msg.open.from_seq);
	if (full)
		atomic_store(&n->base_seq, a->msg.open.base_seq);
}

void stream_follow(struct node *n, const struct core_action *a)
{
	struct msg m = { .kind = FRAME_OPENED, .opened = { .token = a->msg.open.token } };
	struct receiver *r = calloc(1, sizeof *r);

	stream_unfollow(n, false);
	if (r && a->msg.open.mode == OPEN_STREAM && !stream_fits(n, a)) {
		free(r);
		link_reset(n->links, a->peer, "more was applied here than it was told: hello again");
		return;
	}
	if (!r) {
		m.opened.err = -ENOMEM;
		link_send(n->links, a->peer, &m);
		return;
	}
	r->n = n;
	r->peer = a->peer;
	r->token = a->msg.open.token;
	r->full = a->msg.open.mode == OPEN_FULL;
	r->keep_lost = a->keep_lost;
	r->expect = a->msg.open.from_seq + 1;
	r->last = &r->first;
	pthread_mutex_init(&r->mu, NULL);
	cond_init_mono(&r->changed);
	stream_position(n, a);
	pthread_mutex_lock(&n->stream_mu);
	n->receiver = r;
	pthread_mutex_unlock(&n->stream_mu);
	if (!link_send(n->links, a->peer, &m))
		link_stream(n->links, a->peer, r->token);
}

static void receiver_free(struct receiver *r)
{
	while (r->first) {
		struct received *f = r->first;
		r->first = f->next;
		received_free(f);
	}
	conn_free(r->conn);
	pthread_mutex_destroy(&r->mu);
	pthread_cond_destroy(&r->changed);
	free(r);
}

/* When a primary dies, what it had sent may still be in the socket: the reader gets a moment to meet the end. */
static void let_reader_finish(struct receiver *r, bool complete)
{
	uint64_t end = clock_mono_ms() + DRAIN_MAX_MS, seen = 0;
	auto_lock(&r->mu);

	while (!complete && !r->eof && !r->abandoned && clock_mono_ms() < end) {
		struct timespec until = clock_mono_after_ms(DRAIN_QUIET_MS);
		uint64_t now = atomic_load(&r->n->recv_seq);
		if (pthread_cond_timedwait(&r->changed, &r->mu, &until) == ETIMEDOUT && now == seen)
			break;
		seen = now;
	}
	r->ending = true;
}

void stream_unfollow(struct node *n, bool complete)
{
	pthread_mutex_lock(&n->stream_mu);
	struct receiver *r = n->receiver;
	n->receiver = NULL;
	pthread_mutex_unlock(&n->stream_mu);
	if (!r)
		return;
	if (r->running) {
		let_reader_finish(r, complete);
		conn_shutdown(r->conn);
		pthread_join(r->reader, NULL);
		pthread_join(r->applier, NULL);
		apply_drain(n->apply);
	}
	pthread_mutex_lock(&n->answer_mu);
	n->stream_peer = 0;
	pthread_mutex_unlock(&n->answer_mu);
	receiver_free(r);
}

/* ---- a stream connection is there ---- */

static bool ready_to_send(struct node *n, unsigned peer, uint64_t token, struct conn *c)
{
	struct sender *s = &n->sender[peer];
	auto_lock(&n->stream_mu);

	if (!token || s->token != token || s->running)
		return false;
	s->conn = c;
	if (pthread_create(&s->thread, NULL, sender_thread, s)) {
		s->conn = NULL;
		return false;
	}
	s->running = true;
	return true;
}

static bool ready_to_receive(struct node *n, unsigned peer, uint64_t token, struct conn *c)
{
	auto_lock(&n->stream_mu);
	struct receiver *r = n->receiver;

	if (!r || r->peer != peer || r->token != token || r->running)
		return false;
	r->conn = c;
	if (pthread_create(&r->reader, NULL, reader_thread, r)) {
		r->conn = NULL;
		return false;
	}
	if (pthread_create(&r->applier, NULL, applier_thread, r)) {
		conn_shutdown(c);
		pthread_join(r->reader, NULL);
		r->conn = NULL;
		return false;
	}
	r->running = true;
	return true;
}

void node_stream_ready(void *arg, unsigned peer, uint64_t token, struct conn *c)
{
	struct node *n = arg;
	struct core_event e = { .type = EV_STREAM_UP, .peer = peer };

	if (ready_to_send(n, peer, token, c))
		node_event(n, &e);
	else if (!ready_to_receive(n, peer, token, c)) {
		conn_shutdown(c);
		conn_free(c);
	}
}
