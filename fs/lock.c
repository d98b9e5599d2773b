/*
 * One mutex over everything: lock calls are rare beside reads and writes, and deadlock detection wants to see the whole table.
 *
 *   bucket[hash(id)] -> struct locked (one per object that has locks or waiters)
 *                          held: the locks, in no order. The fcntl locks of one owner on one object never overlap and two
 *                                that touch have different modes, so a single pass can merge, split and convert.
 *                          waits: requests in order of arrival
 *   by_ticket, by_owner: the same requests again, for lock_cancel and for deadlock detection
 *
 * Whoever takes something away (unlock, conversion, cancel) then runs wake(): each waiting request, oldest first, that meets no conflict any
 * more is granted; repeated until a pass grants nothing, because a grant may itself be a conversion that frees others. What was granted is
 * collected, and the callbacks run after the mutex was dropped.
 *
 * Memory: a change needs at most two new locks (the lock itself, and the right part of one that it splits). They are
 * allocated before anything is touched; a waiting request brings its two along, so that a grant cannot fail.
 */
#include "fs/lock.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "fs/base/cleanup.h"

enum { ID_BUCKETS = 1 << 16, WAIT_BUCKETS = 256, SPARES = 2 };

struct held {
	struct held *next;
	struct lock_owner o;
	struct lock_range r;
};

/* Locks that a change may use up; what is left is freed. */
struct spares { struct held *h[SPARES]; };

struct wait {
	struct wait *next;			/* of struct locked.waits; later of the list of granted ones */
	struct wait *ticket_next, *owner_next;
	struct wait *visit_next;		/* deadlock detection: the stack */
	uint64_t visited;			/* generation of the last walk that saw it */
	uint64_t ticket;
	struct locked *on;
	struct lock_owner o;
	struct lock_range r;
	struct spares spares;			/* owned */
	void (*granted)(void *arg, int err);
	void *arg;
	int err;				/* for the callback */
};

struct locked {
	struct locked *next;
	uint64_t id;
	struct held *held;			/* owned */
	struct wait *waits, **waits_end;	/* owned */
};

struct lock_table {
	pthread_mutex_t mu;			/* guards all below */
	_Atomic uint32_t n;			/* locks and requests; read without the mutex only to see whether there are any */
	uint64_t next_ticket;
	uint64_t walk;				/* generation of deadlock walks */
	struct locked *bucket[ID_BUCKETS];
	struct wait *by_ticket[WAIT_BUCKETS];
	struct wait *by_owner[WAIT_BUCKETS];
};

/* ---- small things ---- */

static uint64_t mix(uint64_t x)
{
	x ^= x >> 33;
	x *= 0xff51afd7ed558ccdULL;
	return x ^ (x >> 33);
}

static bool same_owner(struct lock_owner a, struct lock_owner b)
{
	return a.key == b.key && a.front == b.front && a.node == b.node;
}

static struct wait **owner_bucket(struct lock_table *t, struct lock_owner o)
{
	return &t->by_owner[mix(o.key ^ ((uint64_t)o.front << 56) ^ ((uint64_t)o.node << 40)) % WAIT_BUCKETS];
}

static bool overlap(const struct lock_range *a, const struct lock_range *b)
{
	return a->kind == b->kind && a->start <= b->end && b->start <= a->end;
}

/* Also when they only touch. */
static bool adjoin(const struct lock_range *a, const struct lock_range *b)
{
	return (a->end == UINT64_MAX || b->start <= a->end + 1) && (b->end == UINT64_MAX || a->start <= b->end + 1);
}

static bool conflicts(const struct held *h, struct lock_owner o, const struct lock_range *want)
{
	return overlap(&h->r, want) && (h->r.mode == LOCK_EXCLUSIVE || want->mode == LOCK_EXCLUSIVE) && !same_owner(h->o, o);
}

static struct held *conflict_of(const struct locked *on, struct lock_owner o, const struct lock_range *want)
{
	for (struct held *h = on->held; h; h = h->next)
		if (conflicts(h, o, want))
			return h;
	return NULL;
}

static int spares_fill(struct spares *s)
{
	for (unsigned i = 0; i < SPARES; i++)
		if (!s->h[i] && !(s->h[i] = malloc(sizeof *s->h[i])))
			return -ENOLCK;
	return 0;
}

static void spares_free(struct spares *s)
{
	for (unsigned i = 0; i < SPARES; i++)
		free(s->h[i]);
}

static struct held *spare_take(struct spares *s)
{
	unsigned i = s->h[0] ? 0 : 1;

	assert(s->h[i]);
	return steal_ptr(&s->h[i]);
}

/* ---- objects ---- */

static struct locked *find(struct lock_table *t, uint64_t id)
{
	struct locked *on = t->bucket[mix(id) % ID_BUCKETS];

	while (on && on->id != id)
		on = on->next;
	return on;
}

static struct locked *find_or_make(struct lock_table *t, uint64_t id)
{
	struct locked *on = find(t, id), **b = &t->bucket[mix(id) % ID_BUCKETS];

	if (on || !(on = calloc(1, sizeof *on)))
		return on;
	on->id = id;
	on->waits_end = &on->waits;
	on->next = *b;
	*b = on;
	return on;
}

static void forget_if_empty(struct lock_table *t, struct locked *on)
{
	struct locked **p = &t->bucket[mix(on->id) % ID_BUCKETS];

	if (on->held || on->waits)
		return;
	while (*p != on)
		p = &(*p)->next;
	*p = on->next;
	free(on);
}

/* ---- changing what is held ---- */

static void insert(struct lock_table *t, struct locked *on, struct held *h, struct lock_owner o, const struct lock_range *r)
{
	*h = (struct held){ .next = on->held, .o = o, .r = *r };
	on->held = h;
	atomic_fetch_add(&t->n, 1);
}

static void take_out(struct lock_table *t, struct held **p)
{
	struct held *h = *p;

	*p = h->next;
	free(h);
	atomic_fetch_sub(&t->n, 1);
}

/* Cuts [r->start, r->end] out of *P. True when *P is gone. */
static bool cut(struct lock_table *t, struct locked *on, struct held **p, const struct lock_range *r, struct spares *s)
{
	struct held *h = *p;
	bool left = h->r.start < r->start, right = h->r.end > r->end;

	if (!left && !right) {
		take_out(t, p);
		return true;
	}
	if (left && right) {
		struct lock_range tail = h->r;

		tail.start = r->end + 1;
		insert(t, on, spare_take(s), h->o, &tail);
	}
	if (left)
		h->r.end = r->start - 1;
	else
		h->r.start = r->end + 1;
	return false;
}

/* Frees what O holds within R. True when there was something. */
static bool cut_owner(struct lock_table *t, struct locked *on, struct lock_owner o, const struct lock_range *r, struct spares *s)
{
	bool any = false;

	for (struct held **p = &on->held; *p;) {
		struct held *h = *p;

		if (!same_owner(h->o, o) || !overlap(&h->r, r)) {
			p = &h->next;
			continue;
		}
		any = true;
		if (!cut(t, on, p, r, s))
			p = &h->next;		/* a tail that was split off went to the head: it needs no second look */
	}
	return any;
}

/* Takes R for O, with no conflict left: what O held there is replaced, and what touches with the same mode is merged. */
static void take(struct lock_table *t, struct locked *on, struct lock_owner o, const struct lock_range *r, struct spares *s)
{
	struct lock_range all = *r;

	for (struct held **p = &on->held; *p;) {
		struct held *h = *p;

		if (h->r.kind == r->kind && h->r.mode == r->mode && same_owner(h->o, o) && adjoin(&h->r, r)) {
			all.start = h->r.start < all.start ? h->r.start : all.start;
			all.end = h->r.end > all.end ? h->r.end : all.end;
			take_out(t, p);
		} else {
			p = &h->next;
		}
	}
	cut_owner(t, on, o, r, s);
	insert(t, on, spare_take(s), o, &all);
}

/* ---- waiting ---- */

static void unlink_wait(struct lock_table *t, struct wait *w)
{
	struct wait **p = &w->on->waits;

	while (*p != w)
		p = &(*p)->next;
	*p = w->next;
	if (w->on->waits_end == &w->next)
		w->on->waits_end = p;
	for (p = &t->by_ticket[w->ticket % WAIT_BUCKETS]; *p != w; p = &(*p)->ticket_next)
		;
	*p = w->ticket_next;
	for (p = owner_bucket(t, w->o); *p != w; p = &(*p)->owner_next)
		;
	*p = w->owner_next;
	w->next = NULL;
	atomic_fetch_sub(&t->n, 1);
}

static void wait_free(struct wait *w)
{
	spares_free(&w->spares);
	free(w);
}

/* Grants what can be granted on ON, appending to *DONE. */
static void wake(struct lock_table *t, struct locked *on, struct wait **done)
{
	struct wait *w, *next;
	bool again;

	while (*done)
		done = &(*done)->next;
	do {
		again = false;
		for (w = on->waits; w; w = next) {
			next = w->next;
			if (conflict_of(on, w->o, &w->r))
				continue;
			unlink_wait(t, w);
			take(t, on, w->o, &w->r, &w->spares);
			*done = w;
			done = &w->next;
			again = true;
		}
	} while (again && on->waits);
}

/* Runs the callbacks; the mutex is not held. */
static void finish(struct wait *done)
{
	while (done) {
		struct wait *w = done;

		done = w->next;
		w->granted(w->arg, w->err);
		wait_free(w);
	}
}

/* Pushes all requests of the owners that stand in the way of (O, R); true when WHO is one of these owners. */
static bool push_blockers(struct lock_table *t, struct lock_owner who, const struct locked *on, struct lock_owner o,
			  const struct lock_range *r, struct wait **stack)
{
	for (const struct held *h = on->held; h; h = h->next) {
		if (!conflicts(h, o, r))
			continue;
		if (same_owner(h->o, who))
			return true;
		for (struct wait *w = *owner_bucket(t, h->o); w; w = w->owner_next) {
			if (w->visited == t->walk || w->r.kind != LOCK_POSIX_RANGE || !same_owner(w->o, h->o))
				continue;
			w->visited = t->walk;
			w->visit_next = *stack;
			*stack = w;
		}
	}
	return false;
}

/* Would O, waiting for R on ON, close a circle? */
static bool would_deadlock(struct lock_table *t, const struct locked *on, struct lock_owner o, const struct lock_range *r)
{
	struct wait *stack = NULL;

	t->walk++;
	if (push_blockers(t, o, on, o, r, &stack))
		return true;
	while (stack) {
		struct wait *w = stack;

		stack = w->visit_next;
		if (push_blockers(t, o, w->on, w->o, &w->r, &stack))
			return true;
	}
	return false;
}

static int enqueue(struct lock_table *t, struct locked *on, struct lock_owner o, const struct lock_range *r, struct wait *w)
{
	struct wait **b;

	if (r->kind == LOCK_POSIX_RANGE && would_deadlock(t, on, o, r))
		return -EDEADLK;
	w->ticket = ++t->next_ticket;
	w->on = on;
	w->o = o;
	w->r = *r;
	*on->waits_end = w;
	on->waits_end = &w->next;
	b = &t->by_ticket[w->ticket % WAIT_BUCKETS];
	w->ticket_next = *b;
	*b = w;
	b = owner_bucket(t, o);
	w->owner_next = *b;
	*b = w;
	atomic_fetch_add(&t->n, 1);
	return -EINPROGRESS;
}

/* ---- the contract ---- */

int lock_table_new(struct lock_table **out)
{
	struct lock_table *t = calloc(1, sizeof *t);

	if (!t)
		return -ENOMEM;
	pthread_mutex_init(&t->mu, NULL);
	*out = t;
	return 0;
}

static void locked_free(struct locked *on)
{
	while (on->held) {
		struct held *h = on->held;

		on->held = h->next;
		free(h);
	}
	while (on->waits) {
		struct wait *w = on->waits;

		on->waits = w->next;
		wait_free(w);
	}
	free(on);
}

void lock_table_free(struct lock_table *t)
{
	if (!t)
		return;
	for (unsigned i = 0; i < ID_BUCKETS; i++) {
		while (t->bucket[i]) {
			struct locked *on = t->bucket[i];

			t->bucket[i] = on->next;
			locked_free(on);
		}
	}
	pthread_mutex_destroy(&t->mu);
	free(t);
}

int lock_test(struct lock_table *t, uint64_t id, struct lock_owner o, const struct lock_range *want, struct lock_range *found)
{
	const struct held *first = NULL;
	const struct locked *on;

	auto_lock(&t->mu);
	on = find(t, id);
	for (const struct held *h = on ? on->held : NULL; h; h = h->next)
		if (conflicts(h, o, want) && (!first || h->r.start < first->r.start))
			first = h;
	if (!first)
		return -ENOENT;
	*found = first->r;
	return 0;
}

/* Under the mutex. W (may be NULL: don't wait) is kept when -EINPROGRESS is returned. */
static int set_locked(struct lock_table *t, uint64_t id, struct lock_owner o, const struct lock_range *want, struct spares *s,
		      struct wait *w, struct wait **done)
{
	struct locked *on;
	bool gave_up = false;
	int r = 0;

	if (atomic_load(&t->n) + SPARES > LOCK_TABLE_MAX || !(on = find_or_make(t, id)))
		return -ENOLCK;
	if (want->kind == LOCK_WHOLE) {
		for (const struct held *h = on->held; h; h = h->next)
			if (h->r.kind == LOCK_WHOLE && h->r.mode == want->mode && same_owner(h->o, o))
				return 0;
		gave_up = cut_owner(t, on, o, want, s);
	}
	if (!conflict_of(on, o, want)) {
		take(t, on, o, want, s);
		gave_up = true;		/* a conversion may have weakened what was held */
	} else {
		r = w ? enqueue(t, on, o, want, w) : -EAGAIN;
	}
	if (gave_up)
		wake(t, on, done);
	forget_if_empty(t, on);
	return r;
}

int lock_set(struct lock_table *t, uint64_t id, struct lock_owner o, const struct lock_range *want)
{
	struct spares s = { 0 };
	struct wait *done = NULL;
	int r = spares_fill(&s);

	assert(want->start <= want->end);
	if (!r) {
		auto_lock(&t->mu);
		r = set_locked(t, id, o, want, &s, NULL, &done);
	}
	spares_free(&s);
	finish(done);
	return r;
}

int lock_set_wait(struct lock_table *t, uint64_t id, struct lock_owner o, const struct lock_range *want,
		  void (*granted)(void *arg, int err), void *arg, uint64_t *ticket)
{
	struct spares s = { 0 };
	struct wait *done = NULL, *w = calloc(1, sizeof *w);
	int r;

	assert(want->start <= want->end);
	*ticket = 0;
	if (!w)
		return -ENOLCK;
	w->granted = granted;
	w->arg = arg;
	r = spares_fill(&s);
	if (!r)
		r = spares_fill(&w->spares);
	if (!r) {
		auto_lock(&t->mu);
		r = set_locked(t, id, o, want, &s, w, &done);
		if (r == -EINPROGRESS)
			*ticket = w->ticket;
	}
	if (r != -EINPROGRESS)
		wait_free(w);
	spares_free(&s);
	finish(done);
	return r;
}

int lock_cancel(struct lock_table *t, uint64_t ticket)
{
	auto_lock(&t->mu);
	struct wait *w = t->by_ticket[ticket % WAIT_BUCKETS];
	struct locked *on;

	while (w && w->ticket != ticket)
		w = w->ticket_next;
	if (!w)
		return -ENOENT;
	on = w->on;
	unlink_wait(t, w);
	wait_free(w);
	forget_if_empty(t, on);
	return 0;
}

void lock_cancel_front(struct lock_table *t, uint32_t front, int err)
{
	struct wait *done = NULL, *w, *next;

	pthread_mutex_lock(&t->mu);
	for (unsigned i = 0; i < WAIT_BUCKETS; i++) {
		for (w = t->by_ticket[i]; w; w = next) {
			struct locked *on = w->on;

			next = w->ticket_next;
			if (w->o.front != front)
				continue;
			unlink_wait(t, w);
			w->err = err;
			w->next = done;
			done = w;
			forget_if_empty(t, on);
		}
	}
	pthread_mutex_unlock(&t->mu);
	finish(done);
}

static void clear_locked(struct lock_table *t, uint64_t id, struct lock_owner o, const struct lock_range *range, struct spares *s,
			 struct wait **done)
{
	struct locked *on = find(t, id);

	if (!on)
		return;
	if (cut_owner(t, on, o, range, s))
		wake(t, on, done);
	forget_if_empty(t, on);
}

int lock_clear(struct lock_table *t, uint64_t id, struct lock_owner o, const struct lock_range *range)
{
	struct spares s = { 0 };
	struct wait *done = NULL;
	int r;

	assert(range->start <= range->end);
	if (!atomic_load(&t->n))
		return 0;
	r = spares_fill(&s);
	if (!r) {
		auto_lock(&t->mu);
		clear_locked(t, id, o, range, &s, &done);
	}
	spares_free(&s);
	finish(done);
	return r;
}

void lock_drop_owner(struct lock_table *t, uint64_t id, struct lock_owner o, enum lock_kind kind)
{
	struct lock_range all = { .kind = kind, .start = 0, .end = UINT64_MAX };
	struct spares none = { 0 };
	struct wait *done = NULL;

	if (!atomic_load(&t->n))
		return;
	pthread_mutex_lock(&t->mu);
	clear_locked(t, id, o, &all, &none, &done);
	pthread_mutex_unlock(&t->mu);
	finish(done);
}

/* Under the mutex: all that FRONT's owners on NODE hold on ON. */
static void drop_front_on(struct lock_table *t, struct locked *on, uint32_t front, uint32_t node, struct wait **done)
{
	bool any = false;

	for (struct held **p = &on->held; *p;) {
		if ((*p)->o.front == front && (*p)->o.node == node) {
			take_out(t, p);
			any = true;
		} else {
			p = &(*p)->next;
		}
	}
	if (any)
		wake(t, on, done);
	forget_if_empty(t, on);
}

void lock_drop_front(struct lock_table *t, uint32_t front, uint32_t node)
{
	struct wait *done = NULL;
	struct locked *on, *next;

	pthread_mutex_lock(&t->mu);
	for (unsigned i = 0; i < ID_BUCKETS; i++)
		for (on = t->bucket[i]; on; on = next) {
			next = on->next;
			drop_front_on(t, on, front, node, &done);
		}
	pthread_mutex_unlock(&t->mu);
	finish(done);
}
