/*
 * Object locks.
 *
 * An id hashes to one of OBJLOCK_STRIPES mutexes. A guard keeps the stripes that it holds sorted and distinct. Whoever
 * waits for a stripe holds only lower ones (and perhaps the volume mutex, which comes before all): no circle of waiters
 * can close. A stripe below one that is held already is only ever tried, never waited for.
 *
 * By name: the entries of a directory change only under the directory's lock, so the name is resolved while the parents
 * are held; what it names is then added when the order allows that, or when its stripe is free. Otherwise everything is
 * dropped, the stripes are taken afresh in order, with what was found as a guess, and the name is resolved again: it may
 * have changed in between. In the usual case one look-up is enough.
 *
 * A rename that turns out to move a directory across parents starts over in the same way, with the volume mutex. That
 * mutex stays held when the name has changed to something that doesn't need it: rare and harmless.
 */
#include "fs/objlock.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>

struct stripe {
	pthread_mutex_t m;		/* guards the objects whose ids hash to it */
} __attribute__((aligned(64)));

struct objlocks {
	struct stripe s[OBJLOCK_STRIPES];
	pthread_mutex_t volume;		/* orders renames of directories across parents; before any stripe */
};

int objlocks_new(struct objlocks **out)
{
	struct objlocks *t = aligned_alloc(64, sizeof *t);

	if (!t)
		return -ENOMEM;
	for (unsigned i = 0; i < OBJLOCK_STRIPES; i++)
		pthread_mutex_init(&t->s[i].m, NULL);
	pthread_mutex_init(&t->volume, NULL);
	*out = t;
	return 0;
}

void objlocks_free(struct objlocks *t)
{
	if (!t)
		return;
	for (unsigned i = 0; i < OBJLOCK_STRIPES; i++)
		pthread_mutex_destroy(&t->s[i].m);
	pthread_mutex_destroy(&t->volume);
	free(t);
}

static uint32_t stripe_of(uint64_t id)
{
	_Static_assert((OBJLOCK_STRIPES & (OBJLOCK_STRIPES - 1)) == 0, "a power of two");
	return (uint32_t)((id * UINT64_C(0x9e3779b97f4a7c15)) >> 32) & (OBJLOCK_STRIPES - 1);
}

/* Where stripe S stands in G, or would have to be put. */
static unsigned guard_slot(const struct objguard *g, uint32_t s)
{
	unsigned i = 0;

	while (i < g->n && g->stripe[i] < s)
		i++;
	return i;
}

static void guard_insert(struct objguard *g, unsigned at, uint32_t s)
{
	assert(g->n < OBJLOCK_MAX);
	for (unsigned i = g->n++; i > at; i--)
		g->stripe[i] = g->stripe[i - 1];
	g->stripe[at] = s;
}

void objlock_ids(struct objlocks *t, struct objguard *g, const uint64_t *ids, unsigned n)
{
	*g = (struct objguard){ .t = t };
	for (unsigned i = 0; i < n; i++) {
		uint32_t s = stripe_of(ids[i]);
		unsigned at = guard_slot(g, s);
		if (ids[i] && (at == g->n || g->stripe[at] != s))
			guard_insert(g, at, s);
	}
	for (unsigned i = 0; i < g->n; i++)
		pthread_mutex_lock(&t->s[g->stripe[i]].m);
}

static void drop_stripes(struct objguard *g)
{
	while (g->n)
		pthread_mutex_unlock(&g->t->s[g->stripe[--g->n]].m);
}

void objlock_drop(struct objguard *g)
{
	if (!g->t)
		return;
	drop_stripes(g);
	if (g->volume)
		pthread_mutex_unlock(&g->t->volume);
	g->volume = false;
	g->t = NULL;
}

/* Adds ID to what G holds; false when that would break the order and the stripe is taken. */
static bool guard_add(struct objguard *g, uint64_t id)
{
	uint32_t s = stripe_of(id);
	unsigned at = guard_slot(g, s);

	if (!id || (at < g->n && g->stripe[at] == s))
		return true;
	if (at == g->n)
		pthread_mutex_lock(&g->t->s[s].m);
	else if (pthread_mutex_trylock(&g->t->s[s].m))
		return false;
	guard_insert(g, at, s);
	return true;
}

static int resolve(struct layer *below, uint64_t parent, const char *name, uint64_t *id, uint32_t *type)
{
	*id = 0;
	*type = 0;
	int r = below->ops->resolve(below, parent, name, id, type);
	if (r < 0) {
		*id = 0;
		*type = 0;
	}
	return r == -ENOENT ? 0 : r;
}

int objlock_entry(struct objlocks *t, struct objguard *g, struct layer *below, uint64_t parent, const char *name, uint64_t extra)
{
	uint64_t guess = 0;

	for (;;) {
		objlock_ids(t, g, (uint64_t[]){ parent, extra, guess }, 3);
		int r = resolve(below, parent, name, &g->id, &g->type);
		if (!r && guard_add(g, g->id))
			return 0;
		objlock_drop(g);
		if (r)
			return r;
		guess = g->id;
	}
}

/* One attempt of objlock_rename; 1 = start over, with what G found as the guess. G keeps the volume mutex then. */
static int rename_once(struct objguard *g, struct layer *below, uint64_t p1, const char *n1, uint64_t p2, const char *n2)
{
	int r = resolve(below, p1, n1, &g->id, &g->type);

	if (!r)
		r = resolve(below, p2, n2, &g->id2, &g->type2);
	if (r)
		return r;
	if (p1 != p2 && !g->volume && (S_ISDIR(g->type) || S_ISDIR(g->type2))) {
		drop_stripes(g);
		pthread_mutex_lock(&g->t->volume);
		g->volume = true;
		return 1;
	}
	if (guard_add(g, g->id) && guard_add(g, g->id2))
		return 0;
	drop_stripes(g);
	return 1;
}

int objlock_rename(struct objlocks *t, struct objguard *g, struct layer *below, uint64_t p1, const char *n1, uint64_t p2,
		   const char *n2)
{
	uint64_t guess1 = 0, guess2 = 0;
	bool volume = false;

	for (;;) {
		objlock_ids(t, g, (uint64_t[]){ p1, p2, guess1, guess2 }, 4);
		g->volume = volume;
		int r = rename_once(g, below, p1, n1, p2, n2);
		if (r < 0)
			objlock_drop(g);
		if (r <= 0)
			return r;
		guess1 = g->id;
		guess2 = g->id2;
		volume = g->volume;
	}
}
