/*
 * Blocks and their data are two allocations, so that the data stay page-aligned. A short free
 * list keeps up to BLK_CACHE_MAX blocks of the few sizes that the fronts ask for again and again
 * (a FUSE request, an NFS WRITE's record, a READ's data); everything else goes back to malloc.
 * When the list is full, a block of a size that isn't asked for any more makes room in its turn.
 */
#include "fs/base/blk.h"

#include <pthread.h>
#include <stdlib.h>

#include "fs/base/cleanup.h"

enum { BLK_ALIGN = 4096, BLK_CACHE_MAX = 64, BLK_CACHE_MIN_CAP = 64 << 10 };

static pthread_mutex_t cache_mu = PTHREAD_MUTEX_INITIALIZER;	/* guards cache, ncache, turn */
static struct blk *cache[BLK_CACHE_MAX];
static unsigned ncache, turn;

static struct blk *cache_take(size_t cap)
{
	auto_lock(&cache_mu);
	for (unsigned i = ncache; i-- > 0;) {
		struct blk *b = cache[i];

		if (b->cap != cap)
			continue;
		cache[i] = cache[--ncache];
		return b;
	}
	return NULL;
}

/* Returns what is to be freed: a block that B takes the place of, B itself, or nothing. */
static struct blk *cache_give(struct blk *b)
{
	auto_lock(&cache_mu);
	if (ncache < BLK_CACHE_MAX) {
		cache[ncache++] = b;
		return NULL;
	}
	struct blk **at = &cache[turn++ % BLK_CACHE_MAX], *old = *at;
	if (old->cap == b->cap)
		return b;
	*at = b;
	return old;
}

struct blk *blk_new(size_t cap)
{
	struct blk *b;

	cap = (cap + BLK_ALIGN - 1) & ~(size_t)(BLK_ALIGN - 1);
	if (cap >= BLK_CACHE_MIN_CAP && (b = cache_take(cap))) {
		atomic_store(&b->refs, 1);
		return b;
	}
	b = malloc(sizeof *b);
	if (!b)
		return NULL;
	b->data = aligned_alloc(BLK_ALIGN, cap ? cap : BLK_ALIGN);
	if (!b->data) {
		free(b);
		return NULL;
	}
	b->cap = cap;
	atomic_init(&b->refs, 1);
	return b;
}

struct blk *blk_ref(struct blk *b)
{
	atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
	return b;
}

void blk_unref(struct blk *b)
{
	if (!b || atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) != 1)
		return;
	if (b->cap >= BLK_CACHE_MIN_CAP)
		b = cache_give(b);
	if (!b)
		return;
	free(b->data);
	free(b);
}
