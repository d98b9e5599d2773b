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
 * A *section* is one call that may change something: the journal is asked before the mutex is taken and told after it was dropped (section_begin, section_end), and each
 * change is noted in between, before it is made. What can't be noted isn't made when it is the volume's: a request of an NFS client is granted only in a section
 * that the journal has opened; else it goes on waiting. (Who closed the journal ends these requests: lock_cancel_front.)
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
	uint32_t n, nwaits;			/* in both lists; in the second */
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
	struct lock_journal journal;		/* all NULL = none; set before use */
};

/* One call that may change something. */
struct section {
	bool open, refused;			/* the journal has taken it; it has not */
	bool volume;				/* something of the volume's was noted */
	uint64_t seq;				/* of the last note */
	struct wait *done;			/* taken out of the table; owned */
};

/* ---- small things ---- */

static bool of_volume(const struct lock_owner *o) { return o->node == LOCK_NODE_VOLUME; }

static void who_ref(const struct lock_owner *o)
{
	if (o->who)
		atomic_fetch_add(&o->who->refs, 1);
}

static void who_put(const struct lock_owner *o)
{
	if (o->who)
		o->who->put(o->who);
}

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

/* ---- the journal ---- */

/* What can't be recorded is refused to owners of the volume. */
static int section_begin(struct lock_table *t, struct section *s, const struct lock_owner *o)
{
	int err;

	*s = (struct section){ 0 };
	if (!t->journal.begin)
		return 0;
	err = t->journal.begin(t->journal.arg);
	s->open = !err;
	s->refused = err;
	return o && of_volume(o) ? err : 0;
}

static int note(struct lock_table *t, struct section *s, bool set, const struct locked *on, const struct lock_owner *o, const struct lock_range *r)
{
	struct lock_change c = { .set = set, .id = on->id, .o = *o, .r = *r };
	int err;

	if (s->refused)
		return of_volume(o) ? -EROFS : 0;
	if (!s->open)
		return 0;
	err = t->journal.record(t->journal.arg, &c, &s->seq);
	if (!err && of_volume(o))
		s->volume = true;
	return err;
}

/* Runs the callbacks; the mutex is not held. */
static void finish(struct wait *done);

/* Ends the section and tells those who waited. R: the call's result so far. */
static int section_end(struct lock_table *t, struct section *s, const struct lock_owner *o, int r)
{
	bool volume = s->volume || (o && of_volume(o));
	int err = s->open ? t->journal.end(t->journal.arg, s->seq, volume) : 0;

	for (struct wait *w = s->done; w && err; w = w->next)
		if (!w->err && of_volume(&w->o))
			w->err = err;
	finish(steal_ptr(&s->done));
	return err && o && of_volume(o) && r != -EINPROGRESS ? err : r;
}

/* ---- changing what is held ---- */

static void insert(struct lock_table *t, struct locked *on, struct held *h, struct lock_owner o, const struct lock_range *r)
{
	*h = (struct held){ .next = on->held, .o = o, .r = *r };
	who_ref(&o);
	on->held = h;
	on->n++;
	atomic_fetch_add(&t->n, 1);
}

static void take_out(struct lock_table *t, struct locked *on, struct held **p)
{
	struct held *h = *p;

	*p = h->next;
	who_put(&h->o);
	free(h);
	on->n--;
	atomic_fetch_sub(&t->n, 1);
}

/* Cuts [r->start, r->end] out of *P. True when *P is gone. */
static bool cut(struct lock_table *t, struct locked *on, struct held **p, const struct lock_range *r, struct spares *s)
{
	struct held *h = *p;
	bool left = h->r.start < r->start, right = h->r.end > r->end;

	if (!left && !right) {
		take_out(t, on, p);
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

static bool holds(const struct locked *on, struct lock_owner o, const struct lock_range *r)
{
	for (const struct held *h = on->held; h; h = h->next)
		if (same_owner(h->o, o) && overlap(&h->r, r))
			return true;
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
			take_out(t, on, p);
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
	w->on->n--;
	w->on->nwaits--;
	atomic_fetch_sub(&t->n, 1);
}

static void wait_free(struct wait *w)
{
	if (w->ticket)			/* it was queued */
		who_put(&w->o);
	spares_free(&w->spares);
	free(w);
}

/* Grants what can be granted on ON, and noted. */
static void wake(struct lock_table *t, struct section *s, struct locked *on)
{
	struct wait *w, *next, **done = &s->done;
	bool again;

	while (*done)
		done = &(*done)->next;
	do {
		again = false;
		for (w = on->waits; w; w = next) {
			next = w->next;
			if (conflict_of(on, w->o, &w->r) || note(t, s, true, on, &w->o, &w->r))
				continue;
			unlink_wait(t, w);
			take(t, on, w->o, &w->r, &w->spares);
			*done = w;
			done = &w->next;
			again = true;
		}
	} while (again && on->waits);
}

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

	if (of_volume(&o) && on->nwaits >= LOCK_OBJECT_WAITS_MAX)
		return -ENOLCK;
	if (r->kind == LOCK_POSIX_RANGE && would_deadlock(t, on, o, r))
		return -EDEADLK;
	w->ticket = ++t->next_ticket;
	w->on = on;
	w->o = o;
	who_ref(&o);
	w->r = *r;
	*on->waits_end = w;
	on->waits_end = &w->next;
	b = &t->by_ticket[w->ticket % WAIT_BUCKETS];
	w->ticket_next = *b;
	*b = w;
	b = owner_bucket(t, o);
	w->owner_next = *b;
	*b = w;
	on->n++;
	on->nwaits++;
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

void lock_table_set_journal(struct lock_table *t, const struct lock_journal *j)
{
	t->journal = j ? *j : (struct lock_journal){ 0 };
}

uint32_t lock_count(struct lock_table *t) { return atomic_load(&t->n); }

static void locked_free(struct locked *on)
{
	while (on->held) {
		struct held *h = on->held;

		on->held = h->next;
		who_put(&h->o);
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

int lock_test(struct lock_table *t, uint64_t id, struct lock_owner o, const struct lock_range *want, struct lock_range *found,
	      struct lock_owner *holder)
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
	if (holder) {
		*holder = first->o;
		who_ref(holder);
	}
	return 0;
}

unsigned lock_holds(struct lock_table *t, uint64_t id, struct lock_owner o, const struct lock_range *r)
{
	unsigned modes = 0;
	const struct locked *on;

	auto_lock(&t->mu);
	on = find(t, id);
	for (const struct held *h = on ? on->held : NULL; h; h = h->next)
		if (same_owner(h->o, o) && overlap(&h->r, r))
			modes |= 1u << h->r.mode;
	return modes;
}

/* The lock of O's on POS that is as strong as R. */
static const struct held *held_at(const struct locked *on, struct lock_owner o, const struct lock_range *r, uint64_t pos)
{
	const struct held *h = on ? on->held : NULL;

	while (h && (!same_owner(h->o, o) || h->r.kind != r->kind || h->r.mode < r->mode || h->r.start > pos || h->r.end < pos))
		h = h->next;
	return h;
}

bool lock_covers(struct lock_table *t, uint64_t id, struct lock_owner o, const struct lock_range *r)
{
	auto_lock(&t->mu);
	const struct locked *on = find(t, id);
	const struct held *h = held_at(on, o, r, r->start);

	while (h && h->r.end < r->end)
		h = held_at(on, o, r, h->r.end + 1);
	return h;
}

/* flock: gives up what O has, unless that is what it wants. 1: it has it; 0; the journal's error. */
static int give_up_first(struct lock_table *t, struct section *s, struct locked *on, struct lock_owner o, const struct lock_range *want,
			 struct spares *spares, bool *gave_up)
{
	for (const struct held *h = on->held; h; h = h->next)
		if (h->r.kind == LOCK_WHOLE && h->r.mode == want->mode && same_owner(h->o, o))
			return 1;
	if (!holds(on, o, want))
		return 0;
	int err = note(t, s, false, on, &o, want);
	if (!err)
		*gave_up = cut_owner(t, on, o, want, spares);
	return err;
}

/* Under the mutex. W (may be NULL: don't wait) is kept when -EINPROGRESS is returned. */
static int set_on(struct lock_table *t, struct section *s, struct locked *on, struct lock_owner o, const struct lock_range *want, struct spares *spares,
		  struct wait *w)
{
	bool gave_up = false;
	int r = want->kind == LOCK_WHOLE ? give_up_first(t, s, on, o, want, spares, &gave_up) : 0;

	if (r)
		return r > 0 ? 0 : r;
	if (conflict_of(on, o, want)) {
		r = w ? enqueue(t, on, o, want, w) : -EAGAIN;
	} else {
		r = note(t, s, true, on, &o, want);
		if (!r) {
			take(t, on, o, want, spares);
			gave_up = true;		/* a conversion may have weakened what was held */
		}
	}
	if (gave_up)
		wake(t, s, on);
	return r;
}

static int set_locked(struct lock_table *t, struct section *s, uint64_t id, struct lock_owner o, const struct lock_range *want, struct spares *spares,
		      struct wait *w)
{
	struct locked *on;
	int r = -ENOLCK;

	if (atomic_load(&t->n) + SPARES > LOCK_TABLE_MAX || !(on = find_or_make(t, id)))
		return -ENOLCK;
	if (on->n + SPARES <= LOCK_OBJECT_MAX)
		r = set_on(t, s, on, o, want, spares, w);
	forget_if_empty(t, on);
	return r;
}

/* W may be NULL; its ticket goes to *TICKET. */
static int set(struct lock_table *t, uint64_t id, struct lock_owner o, const struct lock_range *want, struct wait *w, uint64_t *ticket)
{
	struct spares spares = { 0 };
	struct section s;
	int r = spares_fill(&spares);

	assert(want->start <= want->end);
	if (!r)
		r = section_begin(t, &s, &o);
	if (r) {
		spares_free(&spares);
		return r;
	}
	pthread_mutex_lock(&t->mu);
	r = set_locked(t, &s, id, o, want, &spares, w);
	if (r == -EINPROGRESS)
		*ticket = w->ticket;
	pthread_mutex_unlock(&t->mu);
	spares_free(&spares);
	return section_end(t, &s, &o, r);
}

int lock_set(struct lock_table *t, uint64_t id, struct lock_owner o, const struct lock_range *want)
{
	return set(t, id, o, want, NULL, NULL);
}

int lock_set_wait(struct lock_table *t, uint64_t id, struct lock_owner o, const struct lock_range *want,
		  void (*granted)(void *arg, int err), void *arg, uint64_t *ticket)
{
	struct wait *w = calloc(1, sizeof *w);
	int r;

	*ticket = 0;
	if (!w)
		return -ENOLCK;
	w->granted = granted;
	w->arg = arg;
	r = spares_fill(&w->spares);
	if (!r)
		r = set(t, id, o, want, w, ticket);
	if (r != -EINPROGRESS)
		wait_free(w);
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

static int clear_locked(struct lock_table *t, struct section *s, uint64_t id, struct lock_owner o, const struct lock_range *range, struct spares *spares)
{
	struct locked *on = find(t, id);

	if (!on || !holds(on, o, range))
		return 0;
	int err = note(t, s, false, on, &o, range);
	if (err && of_volume(&o))
		return err;		/* what a local program gives up is gone, recorded or not */
	cut_owner(t, on, o, range, spares);
	wake(t, s, on);
	forget_if_empty(t, on);
	return 0;
}

static int clear(struct lock_table *t, uint64_t id, struct lock_owner o, const struct lock_range *range, struct spares *spares)
{
	struct section s;
	int r = section_begin(t, &s, &o);

	if (r)
		return r;
	pthread_mutex_lock(&t->mu);
	r = clear_locked(t, &s, id, o, range, spares);
	pthread_mutex_unlock(&t->mu);
	return section_end(t, &s, &o, r);
}

int lock_clear(struct lock_table *t, uint64_t id, struct lock_owner o, const struct lock_range *range)
{
	struct spares spares = { 0 };
	int r;

	assert(range->start <= range->end);
	if (!atomic_load(&t->n))
		return 0;
	r = spares_fill(&spares);
	if (!r)
		r = clear(t, id, o, range, &spares);
	spares_free(&spares);
	return r;
}

void lock_drop_owner(struct lock_table *t, uint64_t id, struct lock_owner o, enum lock_kind kind)
{
	struct lock_range all = { .kind = kind, .start = 0, .end = UINT64_MAX };
	struct spares none = { 0 };

	if (!atomic_load(&t->n))
		return;
	pthread_mutex_lock(&t->mu);	/* most closes are of files without locks: no section for them */
	const struct locked *on = find(t, id);
	bool any = on && holds(on, o, &all);
	pthread_mutex_unlock(&t->mu);
	if (any)
		clear(t, id, o, &all, &none);
}

/* ---- many at once ---- */

struct dropping {
	bool (*match)(void *arg, const struct lock_owner *o);
	void *arg;
	int err;				/* for requests */
};

static void drop_waits(struct lock_table *t, struct section *s, struct locked *on, const struct dropping *d)
{
	struct wait *w, *next;

	for (w = on->waits; w; w = next) {
		next = w->next;
		if (!d->match(d->arg, &w->o))
			continue;
		unlink_wait(t, w);
		w->err = d->err;
		w->next = s->done;
		s->done = w;
	}
}

static int drop_on(struct lock_table *t, struct section *s, struct locked *on, const struct dropping *d)
{
	bool any = false;
	int err = 0;

	drop_waits(t, s, on, d);
	for (struct held **p = &on->held; *p && !err;) {
		if (!d->match(d->arg, &(*p)->o)) {
			p = &(*p)->next;
			continue;
		}
		err = note(t, s, false, on, &(*p)->o, &(*p)->r);
		if (err && of_volume(&(*p)->o))
			break;
		err = 0;
		take_out(t, on, p);
		any = true;
	}
	if (any)
		wake(t, s, on);
	forget_if_empty(t, on);
	return err;
}

static int drop_all(struct lock_table *t, struct section *s, const struct dropping *d)
{
	struct locked *on, *next;
	int err = 0;

	for (unsigned i = 0; i < ID_BUCKETS && !err; i++)
		for (on = t->bucket[i]; on && !err; on = next) {
			next = on->next;
			err = drop_on(t, s, on, d);
		}
	return err;
}

int lock_drop_matching(struct lock_table *t, bool (*match)(void *arg, const struct lock_owner *o), void *arg, int err, bool recorded)
{
	const struct lock_owner volume = { .node = LOCK_NODE_VOLUME };
	struct dropping d = { match, arg, err };
	struct section s = { 0 };
	int r = recorded ? section_begin(t, &s, &volume) : 0;

	if (r)
		return r;
	pthread_mutex_lock(&t->mu);
	r = drop_all(t, &s, &d);
	pthread_mutex_unlock(&t->mu);
	return section_end(t, &s, recorded ? &volume : NULL, r);
}

static bool is_of_front(void *arg, const struct lock_owner *o)
{
	const struct lock_owner *want = arg;

	return o->front == want->front && o->node == want->node;
}

void lock_drop_front(struct lock_table *t, uint32_t front, uint32_t node)
{
	struct lock_owner want = { .front = front, .node = node };
	struct dropping d = { is_of_front, &want, -EINTR };
	struct section s;

	if (!atomic_load(&t->n) || section_begin(t, &s, &want))
		return;
	pthread_mutex_lock(&t->mu);
	drop_all(t, &s, &d);
	pthread_mutex_unlock(&t->mu);
	section_end(t, &s, &want, 0);
}

/* ---- other nodes' ---- */

int lock_apply(struct lock_table *t, const struct lock_change *c)
{
	struct spares spares = { 0 };
	struct section s = { .refused = t->journal.begin };	/* who follows records nothing: only local programs' requests can be granted */
	struct locked *on;
	int r = spares_fill(&spares);

	assert(c->r.start <= c->r.end);
	if (r)
		return r;
	pthread_mutex_lock(&t->mu);
	on = c->set ? find_or_make(t, c->id) : find(t, c->id);
	if (!on) {
		r = c->set ? -ENOLCK : 0;
	} else {
		if (c->set)
			take(t, on, c->o, &c->r, &spares);
		else
			cut_owner(t, on, c->o, &c->r, &spares);
		wake(t, &s, on);
		forget_if_empty(t, on);
	}
	pthread_mutex_unlock(&t->mu);
	spares_free(&spares);
	section_end(t, &s, NULL, 0);
	return r;
}

static int each_on(const struct locked *on, unsigned *n, int (*fn)(void *arg, const struct lock_change *c), void *arg)
{
	int r = 0;

	for (const struct held *h = on->held; h && !r; h = h->next, (*n)++)
		r = fn(arg, &(struct lock_change){ .set = true, .id = on->id, .o = h->o, .r = h->r });
	return r;
}

int lock_each(struct lock_table *t, uint64_t *pos, unsigned max, int (*fn)(void *arg, const struct lock_change *c), void *arg)
{
	unsigned n = 0;
	int r = 0;

	auto_lock(&t->mu);
	for (; *pos < ID_BUCKETS && n < max && !r; ++*pos)
		for (const struct locked *on = t->bucket[*pos]; on && !r; on = on->next)
			r = each_on(on, &n, fn, arg);
	if (!r)
		r = fn(arg, NULL);
	if (*pos == ID_BUCKETS)
		*pos = 0;
	return r;
}
