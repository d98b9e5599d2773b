/*
 * Reference-counted memory blocks: what lets the bytes of a write be shared between the front
 * end that received them, the local write and the send queues, without copying.
 * Thread-safe; the contents must not change once a second reference exists.
 */
#ifndef FS_BASE_BLK_H
#define FS_BASE_BLK_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

struct blk {
	_Atomic uint32_t refs;
	size_t cap;			/* usable bytes at data */
	unsigned char *data;		/* page-aligned, owned */
};

/* A new block of at least CAP bytes with one reference, or NULL (no memory). Blocks of the same
 * size class are recycled through a bounded free list. */
struct blk *blk_new(size_t cap);
/* Adds a reference; returns B. */
struct blk *blk_ref(struct blk *b);
/* Drops a reference (B may be NULL); the last one frees the block. */
void blk_unref(struct blk *b);

static inline void cleanup_blk_(struct blk **b) { blk_unref(*b); }
#define auto_blk __attribute__((cleanup(cleanup_blk_)))

#endif
