/*
 * The send queue: a ring of entries by seq, kept once for all peers.
 *
 *     first                         applied(p)        sent(p)          last
 *       |  kept for absent peers      |   on its way    |   not sent     |
 *
 * - Entry S lies in ring[S & (cap - 1)]; the ring grows by doubling (its slots are counted in the cost of the entries, so the
 *   bound of the queue bounds it too).
 * - A peer is *owed* entries from its first attach on. An entry leaves at the front when all owed peers have applied it; when the queue is
 *   over its bound also when all *attached* owed peers have: an absent one that wanted it isn't owed any longer (it needs a comparison).
 *   So while nobody is owed anything, an op only counts and is not even encoded.
 * - queue_admit waits while what the slowest attached peer still has to apply exceeds the bound. Statements get their turn among writers: they stand in line,
 *   and while the first waits for the room that it wants, writers bring no more than that (share). So each side has half of what comes free.
 * - A restrained peer makes writers wait while it is behind, but for half of what it applies (allow), and not when it applies nothing. A hold makes them
 *   wait in any case: it has an end, and then a rest that is HOLD_REST times as long, whoever wants the next one.
 * - Encoding, copying and freeing happen outside the mutex; under it are only a few stores, so that senders and
 *   changing threads hardly meet.
 *
 * Barriers (OP_FSYNC) have a record each, since answers may come before the caller, busy with its own flush, asks for them, and after the
 * entry has left the ring. Waiters are a list of stack objects, each with its condition: an acknowledgement wakes only those whom it
 * satisfies.
 *
 * Locks: mu guards everything in struct queue that isn't atomic. It is a leaf: nothing else is taken under it.
 */
#include "mirror/queue.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"

enum {
	RING_MIN = 256,
	SHARE_MIN = 2048,		/* shorter data are copied */
	SHARE_PART = 4,			/* and those that fill less than 1/SHARE_PART of their block */
	BARRIERS_MAX = 4096,		/* records of barriers nobody has asked for; the oldest is dropped beyond */
	BARRIER_HASH = 256,
	PEERS = NODE_MAX + 1,
	STATEMENT_PART = 8,		/* a statement waits for 1/STATEMENT_PART of the bound at most */
	ALLOW_MAX = 1 << 20,		/* what writers may bring at once of the half that is theirs */
	PATIENCE_MS = 1000,		/* so long writers wait for a restrained peer that applies nothing */
	HOLD_REST = 8,
	NS_PER_MS = 1000000,
};

/* What has been answered to one OP_FSYNC. */
struct barrier_rec {
	uint64_t seq;
	uint64_t born_ns;		/* the caller's own flush begins */
	uint16_t peers;			/* who got it */
	uint16_t done;			/* who made it durable */
	struct barrier_rec *next;	/* in its hash chain */
};

struct waiter {
	uint64_t seq;
	enum queue_confirm what;
	uint64_t since_ns;		/* it waits; for a barrier: the caller's own flush has ended */
	pthread_cond_t cond;
	bool woken;
	struct waiter *next, **prevp;
};

struct qpeer {
	bool attached, owed, sender_waits;
	uint64_t base;			/* where its stream began: it confirmed all before */
	uint64_t sent, recv, applied;
	uint64_t applied_end;		/* qentry.end of APPLIED */
	uint64_t behind_max;		/* while it is restrained: of queue_restrain, */
	uint64_t allow;			/* what writers may bring all the same, and */
	uint64_t progress_ns;		/* when it last applied something */
	pthread_cond_t cond;		/* its sender waits for entries */
};

struct queue {
	pthread_mutex_t mu;
	size_t max_bytes;
	struct qentry **ring;		/* owned; entries first..last hold one reference each */
	uint64_t cap;			/* power of two */
	uint64_t first, last;
	uint64_t end;			/* sum of all costs ever */
	uint64_t start_end;		/* the same before FIRST */
	struct qpeer peer[PEERS];
	uint16_t ackset;
	bool frozen, stopped;
	unsigned admit_waiters;
	uint64_t tickets, served;	/* statements that have stood in line, and how many of them don't any more */
	uint64_t share;			/* what writers may bring while statements stand in line */
	uint16_t restrained;		/* peers, attached ones, that queue_restrain is on for */
	unsigned holder;		/* the attached peer for which writers are held; 0 = they aren't */
	uint64_t hold_ns, hold_end_ns;	/* since when, until when */
	uint64_t rest_end_ns;		/* the next hold begins no earlier */
	pthread_cond_t admit;
	struct waiter *waiters;
	struct barrier_rec *barriers[BARRIER_HASH];
	unsigned nbarriers;
	uint64_t oldest_barrier;	/* none has a lower seq */
	_Atomic bool anyone_owed;	/* = some peer[].owed; written under mu */
	_Atomic uint16_t attached_or_acks;	/* attached peers and the ack set; written under mu */
};

static struct qentry *at(struct queue *q, uint64_t seq) { return q->ring[seq & (q->cap - 1)]; }

/* ---- life ---- */

int queue_new(size_t max_bytes, struct queue **out)
{
	struct queue *q = calloc(1, sizeof *q);

	if (!q)
		return -ENOMEM;
	q->ring = calloc(RING_MIN, sizeof(void *));
	if (!q->ring) {
		free(q);
		return -ENOMEM;
	}
	q->cap = RING_MIN;
	q->first = 1;
	q->max_bytes = max_bytes;
	pthread_mutex_init(&q->mu, NULL);
	cond_init_mono(&q->admit);
	for (unsigned p = 0; p < PEERS; p++)
		pthread_cond_init(&q->peer[p].cond, NULL);
	*out = q;
	return 0;
}

static void barriers_clear(struct queue *q)
{
	for (unsigned i = 0; i < BARRIER_HASH; i++) {
		struct barrier_rec *b;
		while ((b = q->barriers[i])) {
			q->barriers[i] = b->next;
			free(b);
		}
	}
	q->nbarriers = 0;
	q->oldest_barrier = 0;
}

static void drop_all(struct queue *q)
{
	for (; q->first <= q->last; q->first++)
		qentry_unref(at(q, q->first));
	q->start_end = q->end;
}

void queue_free(struct queue *q)
{
	if (!q)
		return;
	assert(!q->waiters && !q->admit_waiters);
	drop_all(q);
	barriers_clear(q);
	for (unsigned p = 0; p < PEERS; p++)
		pthread_cond_destroy(&q->peer[p].cond);
	pthread_cond_destroy(&q->admit);
	pthread_mutex_destroy(&q->mu);
	free(q->ring);
	free(q);
}

void qentry_unref(struct qentry *e)
{
	if (!e || atomic_fetch_sub_explicit(&e->refs, 1, memory_order_acq_rel) != 1)
		return;
	blk_unref(e->owner);
	free(e->meta);
	free(e);
}

/* ---- who is there ---- */

static void update_flags(struct queue *q)
{
	uint16_t mask = q->ackset;
	bool owed = false;

	for (unsigned p = 0; p < PEERS; p++) {
		owed |= q->peer[p].owed;
		if (q->peer[p].attached)
			mask = (uint16_t)(mask | 1u << p);
	}
	atomic_store(&q->anyone_owed, owed);
	atomic_store(&q->attached_or_acks, mask);
}

bool queue_has_peers(struct queue *q) { return atomic_load(&q->attached_or_acks) != 0; }

/* ---- trimming ---- */

/* The last seq that nobody of those who are owed (ABSENT: also the absent ones) needs. */
static uint64_t nobody_needs(const struct queue *q, bool absent)
{
	uint64_t s = q->last;

	for (unsigned p = 0; p < PEERS; p++) {
		const struct qpeer *w = &q->peer[p];
		if (w->owed && (absent || w->attached) && w->applied < s)
			s = w->applied;
	}
	return s;
}

/* Chain of entries to be freed outside the mutex: threaded through a field that has no other use any more. */
struct graveyard { struct qentry *head; };

static void bury(struct graveyard *y, struct qentry *e)
{
	/* only the queue's own reference may be thrown away late: the link must not disturb a sender that reads E */
	if (atomic_load_explicit(&e->refs, memory_order_acquire) != 1) {
		qentry_unref(e);
		return;
	}
	e->seq = (uint64_t)(uintptr_t)y->head;
	y->head = e;
}

static void graveyard_empty(struct graveyard *y)
{
	while (y->head) {
		struct qentry *e = y->head;
		y->head = (struct qentry *)(uintptr_t)e->seq;
		qentry_unref(e);
	}
}

static void drop_to(struct queue *q, uint64_t seq, struct graveyard *y)
{
	for (; q->first <= seq; q->first++) {
		struct qentry *e = at(q, q->first);
		q->start_end = e->end;
		bury(y, e);
	}
}

/* Absent peers whose next entry is gone aren't owed anything any more. */
static void forget_absent(struct queue *q)
{
	for (unsigned p = 0; p < PEERS; p++)
		if (q->peer[p].owed && !q->peer[p].attached && q->peer[p].applied + 1 < q->first)
			q->peer[p].owed = false;
	update_flags(q);
}

/* Frees what may go; with WANT more bytes in mind. */
static void trim(struct queue *q, size_t want, struct graveyard *y)
{
	uint64_t may;

	drop_to(q, nobody_needs(q, true), y);
	may = nobody_needs(q, false);
	if (q->first > may || q->end - q->start_end + want <= q->max_bytes)
		return;
	while (q->first <= may && q->end - q->start_end + want > q->max_bytes)
		drop_to(q, q->first, y);
	forget_absent(q);
	drop_to(q, nobody_needs(q, true), y);
}

static bool full(const struct queue *q, size_t want)
{
	uint64_t used = q->end - q->start_end;
	return used && used + want > q->max_bytes;
}

static void wake_admit(struct queue *q)
{
	if (q->admit_waiters)
		pthread_cond_broadcast(&q->admit);
}

/* ---- admission ---- */

/* Does a restrained peer make writers wait, or a hold? UNTIL_NS: that ends then at the latest. */
static bool restrained(const struct queue *q, uint64_t *until_ns)
{
	if (!q->restrained && !q->holder)
		return false;
	uint64_t now = clock_mono_ns();
	*until_ns = q->hold_end_ns;
	if (q->holder && now < *until_ns)
		return true;
	for (unsigned p = 0; q->restrained >> p; p++) {
		const struct qpeer *w = &q->peer[p];
		*until_ns = w->progress_ns + PATIENCE_MS * (uint64_t)NS_PER_MS;
		if ((q->restrained & 1u << p) && q->end - w->applied_end > w->behind_max && !w->allow && now < *until_ns)
			return true;
	}
	return false;
}

/* Must a writer wait? UNTIL_NS: so long without a word from anybody; 0 = without end. */
static bool refuses_writer(const struct queue *q, size_t bytes, uint64_t *until_ns)
{
	*until_ns = 0;
	return full(q, bytes) || (q->served != q->tickets && !q->share) || restrained(q, until_ns);
}

static void admit_wait(struct queue *q, uint64_t until_ns)
{
	const struct timespec until = { (time_t)(until_ns / 1000000000), (long)(until_ns % 1000000000) };

	q->admit_waiters++;
	if (until_ns)
		pthread_cond_timedwait(&q->admit, &q->mu, &until);
	else
		pthread_cond_wait(&q->admit, &q->mu);
	q->admit_waiters--;
}

static void admit_writer(struct queue *q, size_t bytes, struct graveyard *y)
{
	for (uint64_t until_ns; !q->stopped && refuses_writer(q, bytes, &until_ns);) {
		admit_wait(q, until_ns);
		trim(q, bytes, y);
	}
}

/* The statement stands in line from now on, with BYTES for writers meanwhile. */
static void line_up(struct queue *q, size_t bytes)
{
	size_t most = q->max_bytes / STATEMENT_PART;

	q->share = q->share + bytes < most ? q->share + bytes : most;
	wake_admit(q);
}

static void admit_statement(struct queue *q, size_t bytes, struct graveyard *y)
{
	if (q->served == q->tickets && !full(q, bytes))
		return;
	uint64_t before_us = q->tickets++;
	line_up(q, bytes);
	while (!q->stopped && (q->served < before_us || full(q, bytes))) {
		admit_wait(q, 0);
		trim(q, bytes, y);
	}
	if (++q->served == q->tickets)
		q->share = 0;
	wake_admit(q);
}

static int admit(struct queue *q, size_t bytes, void (*wait)(struct queue *, size_t, struct graveyard *))
{
	struct graveyard y = { NULL };

	if (!atomic_load_explicit(&q->anyone_owed, memory_order_relaxed))
		return 0;
	pthread_mutex_lock(&q->mu);
	if (full(q, bytes))
		trim(q, bytes, &y);
	wait(q, bytes, &y);
	int err = q->stopped ? -ESHUTDOWN : 0;
	pthread_mutex_unlock(&q->mu);
	graveyard_empty(&y);
	return err;
}

int queue_admit(struct queue *q, size_t bytes) { return admit(q, bytes, admit_writer); }

int queue_admit_statement(struct queue *q, size_t bytes)
{
	size_t most = q->max_bytes / STATEMENT_PART;
	return admit(q, bytes < most ? bytes : most, admit_statement);
}

/* What a writer brings takes from what writers may bring; a statement, which is for one peer, doesn't. */
static void charge(struct queue *q, const struct qentry *e)
{
	const size_t cost = e->peers == 0xffff ? e->cost : 0;

	q->share -= q->share < cost ? q->share : cost;
	for (unsigned p = 0; q->restrained >> p; p++) {
		struct qpeer *w = &q->peer[p];
		if (!(q->restrained & 1u << p))
			continue;
		w->allow -= w->allow < cost ? w->allow : cost;
		if (w->applied + 1 == e->seq)
			w->progress_ns = e->born_ns;	/* it had nothing to apply */
	}
}

/* PEER has applied BYTES more. */
static void allow(struct queue *q, unsigned peer, uint64_t bytes)
{
	struct qpeer *w = &q->peer[peer];

	if (!(q->restrained & 1u << peer))
		return;
	w->progress_ns = clock_mono_ns();
	w->allow = w->allow + bytes / 2 < ALLOW_MAX ? w->allow + bytes / 2 : ALLOW_MAX;
}

static void hold_end(struct queue *q)
{
	uint64_t now = clock_mono_ns(), end = now < q->hold_end_ns ? now : q->hold_end_ns;

	q->rest_end_ns = end + HOLD_REST * (end - q->hold_ns);
	q->holder = 0;
}

/* With mu. */
static void unrestrain(struct queue *q, unsigned peer)
{
	q->restrained = (uint16_t)(q->restrained & ~(1u << peer));
	if (q->holder == peer)
		hold_end(q);
}

void queue_restrain(struct queue *q, unsigned peer, uint64_t behind)
{
	struct qpeer *w = &q->peer[peer];

	assert(peer >= 1 && peer < PEERS);
	auto_lock(&q->mu);
	bool was = q->restrained & 1u << peer;
	unrestrain(q, peer);
	if (w->attached && behind != UINT64_MAX)
		q->restrained = (uint16_t)(q->restrained | 1u << peer);
	if (!was) {
		w->allow = 0;
		w->progress_ns = clock_mono_ns();
	}
	w->behind_max = behind;
	wake_admit(q);
}

uint64_t queue_hold(struct queue *q, unsigned peer, unsigned ms)
{
	uint64_t now = clock_mono_ns();

	assert(peer >= 1 && peer < PEERS);
	auto_lock(&q->mu);
	if (q->holder && now >= q->hold_end_ns)
		hold_end(q);
	uint64_t until = q->holder ? q->hold_end_ns : q->rest_end_ns;
	if (now < until)
		return (until - now + NS_PER_MS - 1) / NS_PER_MS;
	if (!q->peer[peer].attached)
		return 0;
	q->holder = peer;
	q->hold_ns = now;
	q->hold_end_ns = now + ms * (uint64_t)NS_PER_MS;
	return 0;
}

/* ---- appending ---- */

static bool worth_sharing(const struct op *op)
{
	return op->data_owner && op->data_len >= SHARE_MIN && op->data_len >= op->data_owner->cap / SHARE_PART;
}

static int entry_make(const struct op *op, uint16_t peers, struct qentry **out)
{
	struct qentry *e = calloc(1, sizeof *e);
	struct enc enc = { 0 };
	bool share = worth_sharing(op);

	if (!e)
		return -ENOMEM;
	int err = op_encode(&enc, op);
	size_t meta_len = enc.len;
	if (!err && op->data_len && !share) {
		enc_raw(&enc, op->data, op->data_len);
		err = enc.err;
	}
	if (err) {
		enc_free(&enc);
		free(e);
		return err;
	}
	atomic_init(&e->refs, 1);
	e->peers = peers;
	e->type = op->type;
	e->meta = enc.p;
	e->meta_len = meta_len;
	e->data_len = op->data_len;
	e->cost = sizeof *e + sizeof(void *) * 2 + enc.cap;
	if (share) {
		e->owner = blk_ref(op->data_owner);
		e->data = op->data;
		e->cost += e->owner->cap;
	} else if (op->data_len) {
		e->data = e->meta + meta_len;
	}
	*out = e;
	return 0;
}

static int ring_grow(struct queue *q)
{
	struct qentry **r = calloc(q->cap * 2, sizeof(void *));

	if (!r)
		return -ENOMEM;
	for (uint64_t s = q->first; s <= q->last; s++)
		r[s & (q->cap * 2 - 1)] = at(q, s);
	free(q->ring);
	q->ring = r;
	q->cap *= 2;
	return 0;
}

static struct barrier_rec **barrier_find(struct queue *q, uint64_t seq)
{
	struct barrier_rec **b = &q->barriers[seq % BARRIER_HASH];

	while (*b && (*b)->seq != seq)
		b = &(*b)->next;
	return b;
}

static void barrier_remove(struct queue *q, uint64_t seq)
{
	struct barrier_rec **b = barrier_find(q, seq), *gone = *b;

	if (!gone)
		return;
	*b = gone->next;
	q->nbarriers--;
	free(gone);
}

static bool waited_for(const struct queue *q, uint64_t seq)
{
	for (const struct waiter *w = q->waiters; w; w = w->next)
		if (w->seq == seq && w->what == CONFIRM_DURABLE)
			return true;
	return false;
}

static void barrier_add(struct queue *q, struct barrier_rec *b)
{
	if (!q->nbarriers)
		q->oldest_barrier = b->seq;
	for (; q->nbarriers >= BARRIERS_MAX && q->oldest_barrier < b->seq; q->oldest_barrier++)
		if (!waited_for(q, q->oldest_barrier))
			barrier_remove(q, q->oldest_barrier);
	b->next = q->barriers[b->seq % BARRIER_HASH];
	q->barriers[b->seq % BARRIER_HASH] = b;
	q->nbarriers++;
}

static void wake_senders(struct queue *q)
{
	for (unsigned p = 0; p < PEERS; p++)
		if (q->peer[p].sender_waits)
			pthread_cond_signal(&q->peer[p].cond);
}

/* Puts E (NULL: nobody wants it) into the order. */
static int put(struct queue *q, struct qentry *e, struct barrier_rec *b, uint64_t *seq)
{
	if (q->stopped)
		return -ESHUTDOWN;
	if (e && q->last + 1 - q->first == q->cap && ring_grow(q))
		return -ENOMEM;
	*seq = ++q->last;
	if (b) {
		b->seq = *seq;
		barrier_add(q, b);
	}
	if (!e) {
		q->first = q->last + 1;
		return 0;
	}
	e->seq = *seq;
	q->end += e->cost;
	e->end = q->end;
	charge(q, e);
	q->ring[*seq & (q->cap - 1)] = e;
	wake_senders(q);
	return 0;
}

static int append_entry(struct queue *q, const struct op *op, uint16_t peers, struct barrier_rec *b, uint64_t *seq)
{
	struct qentry *e;
	int err = entry_make(op, peers, &e);

	if (err)
		return err;
	e->born_ns = clock_mono_ns();
	pthread_mutex_lock(&q->mu);
	bool wanted = atomic_load_explicit(&q->anyone_owed, memory_order_relaxed);
	err = put(q, wanted ? e : NULL, b, seq);
	pthread_mutex_unlock(&q->mu);
	if (err || !wanted)
		qentry_unref(e);
	return err;
}

/* Counts an op that nobody wants. -EAGAIN: somebody does meanwhile. */
static int append_nothing(struct queue *q, struct barrier_rec *b, uint64_t *seq)
{
	auto_lock(&q->mu);
	if (atomic_load_explicit(&q->anyone_owed, memory_order_relaxed))
		return -EAGAIN;
	return put(q, NULL, b, seq);
}

int queue_append(struct queue *q, const struct op *op, uint16_t peers, uint64_t *seq)
{
	struct barrier_rec *b = NULL;
	int err = -EAGAIN;

	if (op->type == OP_FSYNC) {
		b = calloc(1, sizeof *b);
		if (!b)
			return -ENOMEM;
		b->peers = peers;
		b->born_ns = clock_mono_ns();
	}
	if (!atomic_load_explicit(&q->anyone_owed, memory_order_relaxed))
		err = append_nothing(q, b, seq);
	if (err == -EAGAIN)
		err = append_entry(q, op, peers, b, seq);
	if (err)
		free(b);
	return err;
}

uint64_t queue_last(struct queue *q)
{
	auto_lock(&q->mu);
	return q->last;
}

uint64_t queue_first(struct queue *q)
{
	auto_lock(&q->mu);
	return q->first;
}

/* ---- senders ---- */

int queue_attach(struct queue *q, unsigned peer, uint64_t from)
{
	struct qpeer *w = &q->peer[peer];

	assert(peer >= 1 && peer < PEERS);
	auto_lock(&q->mu);
	if (q->stopped)
		return -ESHUTDOWN;
	assert(!w->attached);
	if (from < q->first || from > q->last + 1)
		return -ESTALE;
	w->attached = w->owed = true;
	w->base = from;
	w->sent = w->recv = w->applied = from - 1;
	w->applied_end = from > q->first ? at(q, from - 1)->end : q->start_end;
	update_flags(q);
	for (struct waiter *i = q->waiters; i; i = i->next) {	/* some may have to repeat their barrier */
		i->woken = true;
		pthread_cond_signal(&i->cond);
	}
	return 0;
}

void queue_detach(struct queue *q, unsigned peer)
{
	struct qpeer *w = &q->peer[peer];

	assert(peer >= 1 && peer < PEERS);
	auto_lock(&q->mu);
	w->attached = false;
	unrestrain(q, peer);
	update_flags(q);
	pthread_cond_broadcast(&w->cond);
	pthread_cond_broadcast(&q->admit);
}

#ifdef TANDEMFS_MUTANT_SWAP
/* The mutant: now and then two neighbours change places. The order test must notice. */
static void mutant_swap(struct queue *q, struct qpeer *w)
{
	uint64_t s = w->sent + 1;
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_nsec += 2000000;
	if (t.tv_nsec >= 1000000000) {
		t.tv_sec++;
		t.tv_nsec -= 1000000000;
	}
	if (s % 31 == 0 && s == q->last && w->attached && !q->stopped) {
		w->sender_waits = true;
		pthread_cond_timedwait(&w->cond, &q->mu, &t);
		w->sender_waits = false;
	}
	if (s % 31 == 0 && s < q->last && s >= q->first && w->attached) {
		struct qentry *a = at(q, s), *b = at(q, s + 1), x = *a;
		if (a->type >= OP_R_BEGIN || b->type >= OP_R_BEGIN || a->type <= OP_EPOCH || b->type <= OP_EPOCH)
			return;
		a->peers = b->peers, a->type = b->type, a->meta = b->meta, a->meta_len = b->meta_len;
		a->data = b->data, a->data_len = b->data_len, a->owner = b->owner;
		b->peers = x.peers, b->type = x.type, b->meta = x.meta, b->meta_len = x.meta_len;
		b->data = x.data, b->data_len = x.data_len, b->owner = x.owner;
	}
}
#else
static void mutant_swap(struct queue *q, struct qpeer *w) { (void)q, (void)w; }
#endif

int queue_next(struct queue *q, unsigned peer, bool wait, struct qentry **out)
{
	struct qpeer *w = &q->peer[peer];

	auto_lock(&q->mu);
	while (!q->stopped && w->attached && w->sent >= q->last) {
		if (!wait)
			return -EAGAIN;
		w->sender_waits = true;
		pthread_cond_wait(&w->cond, &q->mu);
		w->sender_waits = false;
	}
	mutant_swap(q, w);
	if (q->stopped || !w->attached)
		return -ESHUTDOWN;
	assert(w->sent + 1 >= q->first);
	*out = at(q, ++w->sent);
	atomic_fetch_add_explicit(&(*out)->refs, 1, memory_order_relaxed);
	return 0;
}

/* ---- confirmations ---- */

/* 1 = all of the ack set have confirmed, 0 = not yet, or -errno. */
static int confirmed(struct queue *q, uint64_t seq, enum queue_confirm what)
{
	const struct barrier_rec *b = NULL;

	if (q->stopped)
		return -ESHUTDOWN;
	if (q->frozen)
		return -EIO;
	if (what == CONFIRM_DURABLE && !(b = *barrier_find(q, seq)))
		return -EAGAIN;
	for (unsigned p = 0; p < PEERS; p++) {
		const struct qpeer *w = &q->peer[p];
		if (!(q->ackset & 1u << p))
			continue;
		if (what == CONFIRM_RECEIVED && w->recv < seq)
			return 0;
		if (what == CONFIRM_APPLIED && w->applied < seq)
			return 0;
		if (what != CONFIRM_DURABLE || !(b->peers & 1u << p) || (b->done & 1u << p))
			continue;
		return seq < w->base ? -EAGAIN : 0;
	}
	return 1;
}

static void wake_waiters(struct queue *q)
{
	for (struct waiter *w = q->waiters; w; w = w->next)
		if (!w->woken && confirmed(q, w->seq, w->what)) {
			w->woken = true;
			pthread_cond_signal(&w->cond);
		}
}

void queue_acked(struct queue *q, unsigned peer, uint64_t recv_seq, uint64_t applied_seq)
{
	struct qpeer *w = &q->peer[peer];
	struct graveyard y = { NULL };

	assert(peer >= 1 && peer < PEERS);
	pthread_mutex_lock(&q->mu);
	/* what a peer says is input: nothing that was not sent, nothing backwards */
	if (recv_seq > w->sent)
		recv_seq = w->sent;
	if (applied_seq > recv_seq)
		applied_seq = recv_seq;
	if (w->attached) {
		if (recv_seq > w->recv)
			w->recv = recv_seq;
		if (applied_seq > w->applied) {
			uint64_t before = w->applied_end;
			w->applied = applied_seq;
			w->applied_end = applied_seq >= q->first ? at(q, applied_seq)->end : q->start_end;
			allow(q, peer, w->applied_end - before);
			trim(q, 0, &y);
			wake_admit(q);
		}
		wake_waiters(q);
	}
	pthread_mutex_unlock(&q->mu);
	graveyard_empty(&y);
}

void queue_barrier_done(struct queue *q, unsigned peer, uint64_t seq, int err)
{
	assert(peer >= 1 && peer < PEERS);
	auto_lock(&q->mu);
	struct barrier_rec *b = *barrier_find(q, seq);
	if (!b || err || !q->peer[peer].attached || seq > q->peer[peer].sent)
		return;
	b->done = (uint16_t)(b->done | 1u << peer);
	wake_waiters(q);
}

void queue_set_ackset(struct queue *q, uint16_t set)
{
	auto_lock(&q->mu);
	q->ackset = set;
	update_flags(q);
	wake_waiters(q);
}

uint16_t queue_ackset(struct queue *q)
{
	auto_lock(&q->mu);
	return q->ackset;
}

void queue_freeze(struct queue *q, bool frozen)
{
	auto_lock(&q->mu);
	q->frozen = frozen;
	wake_waiters(q);
}

/* Until W is woken. 0 or -ETIMEDOUT (UNTIL NULL: never). */
static int wait_on(struct queue *q, struct waiter *w, const struct timespec *until)
{
	int err = 0;

	cond_init_mono(&w->cond);
	w->next = q->waiters;
	w->prevp = &q->waiters;
	if (w->next)
		w->next->prevp = &w->next;
	q->waiters = w;
	w->woken = false;
	while (!w->woken && !err)
		err = until ? pthread_cond_timedwait(&w->cond, &q->mu, until) : pthread_cond_wait(&w->cond, &q->mu);
	*w->prevp = w->next;
	if (w->next)
		w->next->prevp = w->prevp;
	pthread_cond_destroy(&w->cond);
	return w->woken ? 0 : -err;
}

int queue_wait(struct queue *q, uint64_t seq, enum queue_confirm what) { return queue_wait_until(q, seq, what, NULL); }

int queue_wait_until(struct queue *q, uint64_t seq, enum queue_confirm what, const struct timespec *until)
{
	struct waiter w = { .seq = seq, .what = what, .since_ns = clock_mono_ns() };
	int r;

	auto_lock(&q->mu);
#ifdef TANDEMFS_MUTANT_EARLY_ACK
	if (what == CONFIRM_DURABLE) {	/* the mutant: acknowledges what no peer has made durable. The durability test must notice. */
		barrier_remove(q, seq);
		return q->stopped ? -ESHUTDOWN : 0;
	}
#endif
	while (!(r = confirmed(q, seq, what)) && !(r = wait_on(q, &w, until)))
		;
	if (what == CONFIRM_DURABLE)
		barrier_remove(q, seq);
	return r < 0 ? r : 0;
}

static bool overdue(struct queue *q, unsigned peer, const struct waiter *w, uint64_t now_ns, uint64_t limit_ns)
{
	const struct barrier_rec *b = w->what == CONFIRM_DURABLE ? *barrier_find(q, w->seq) : NULL;

	if (!b || !(b->peers & 1u << peer) || (b->done & 1u << peer) || now_ns < w->since_ns)
		return false;
	uint64_t own = 2 * (w->since_ns - b->born_ns);
	return now_ns - w->since_ns > (own > limit_ns ? own : limit_ns);
}

bool queue_barrier_overdue(struct queue *q, unsigned peer, uint64_t limit_ns)
{
	uint64_t now = clock_mono_ns();
	auto_lock(&q->mu);

	if (!(q->ackset & 1u << peer))
		return false;
	for (const struct waiter *w = q->waiters; w; w = w->next)
		if (overdue(q, peer, w, now, limit_ns))
			return true;
	return false;
}

void queue_forget(struct queue *q, uint64_t seq)
{
	auto_lock(&q->mu);
	barrier_remove(q, seq);
}

void queue_stop(struct queue *q)
{
	auto_lock(&q->mu);
	q->stopped = true;
	wake_waiters(q);
	pthread_cond_broadcast(&q->admit);
	for (unsigned p = 0; p < PEERS; p++)
		pthread_cond_broadcast(&q->peer[p].cond);
}

void queue_restart(struct queue *q)
{
	auto_lock(&q->mu);
	drop_all(q);
	barriers_clear(q);
	q->first = 1;
	q->last = 0;
	q->end = q->start_end = 0;
	q->stopped = false;
	q->restrained = 0;
	q->holder = 0;
	for (unsigned p = 0; p < PEERS; p++) {
		struct qpeer *w = &q->peer[p];
		w->attached = w->owed = false;
		w->base = w->sent = w->recv = w->applied = w->applied_end = 0;
		pthread_cond_broadcast(&w->cond);
	}
	update_flags(q);
}

/* ---- looking ---- */

void queue_peer_stat(struct queue *q, unsigned peer, struct queue_peer_stat *out)
{
	const struct qpeer *w = &q->peer[peer];

	assert(peer >= 1 && peer < PEERS);
	auto_lock(&q->mu);
	*out = (struct queue_peer_stat){ .sent_seq = w->sent, .recv_seq = w->recv, .applied_seq = w->applied, .attached = w->attached };
	if (!w->owed)
		return;
	out->bytes_behind = q->end - w->applied_end;
	if (w->applied < q->last && w->applied + 1 >= q->first)
		out->oldest_ns = at(q, w->applied + 1)->born_ns;
}

uint64_t queue_bytes(struct queue *q)
{
	auto_lock(&q->mu);
	return q->end - q->start_end;
}
