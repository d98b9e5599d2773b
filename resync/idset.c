/*
 * A bounded set of ids that remembers in which order they came. Linear probing over a table of twice the maximum; a popped id leaves a
 * tombstone, and the table is rebuilt from the ring when tombstones have used it up.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "resync/resync_int.h"

static const uint64_t GONE = UINT64_MAX;

int idset_init(struct idset *s, size_t max)
{
	memset(s, 0, sizeof *s);
	s->max = max;
	for (s->cap = 64; s->cap < 2 * max; s->cap *= 2)
		;
	s->slot = calloc(s->cap, sizeof *s->slot);
	s->ring = calloc(max, sizeof *s->ring);
	if (s->slot && s->ring)
		return 0;
	idset_free(s);
	return -ENOMEM;
}

void idset_free(struct idset *s)
{
	free(s->slot);
	free(s->ring);
	memset(s, 0, sizeof *s);
}

/* Slot of ID, or the empty one where it would go. */
static size_t find(const struct idset *s, uint64_t id)
{
	uint64_t h = id * 0x9e3779b97f4a7c15u;
	size_t i = (size_t)(h >> 20) & (s->cap - 1);

	while (s->slot[i] && s->slot[i] != id)
		i = (i + 1) & (s->cap - 1);
	return i;
}

bool idset_has(const struct idset *s, uint64_t id)
{
	return s->n && s->slot[find(s, id)] == id;
}

static void rebuild(struct idset *s)
{
	memset(s->slot, 0, s->cap * sizeof *s->slot);
	for (size_t i = 0; i < s->n; i++) {
		uint64_t id = s->ring[(s->head + i) % s->max];
		s->slot[find(s, id)] = id;
	}
	s->used = s->n;
}

int idset_add(struct idset *s, uint64_t id)
{
	if (s->used >= s->cap - s->cap / 4)
		rebuild(s);
	size_t i = find(s, id);
	if (s->slot[i] == id)
		return 0;
	if (s->n == s->max)
		return -ENOSPC;
	s->slot[i] = id;
	s->ring[(s->head + s->n++) % s->max] = id;
	s->used++;
	return 1;
}

uint64_t idset_pop(struct idset *s)
{
	if (!s->n)
		return 0;
	uint64_t id = s->ring[s->head];
	s->head = (s->head + 1) % s->max;
	s->n--;
	s->slot[find(s, id)] = GONE;
	return id;
}

void idset_clear(struct idset *s)
{
	s->n = s->used = s->head = 0;
	memset(s->slot, 0, s->cap * sizeof *s->slot);
}
