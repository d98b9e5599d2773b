/*
 * Object locks: what gives conflicting operations their order. One mutex per stripe of ids; a guard takes the
 * stripes of all objects that an operation touches, in stripe order, so that no two operations wait for each other.
 * Operations on names resolve the name, lock, and resolve again: when it has changed meanwhile they start over.
 *
 * The volume mutex orders renames of directories across parents (two of them can conflict through an ancestor that
 * neither names). It is taken before any stripe.
 *
 * No lock is held across network I/O or fsync.
 */
#ifndef FS_OBJLOCK_H
#define FS_OBJLOCK_H

#include <stdbool.h>
#include <stdint.h>

#include "fs/layer.h"

enum { OBJLOCK_STRIPES = 4096, OBJLOCK_MAX = 6 };

struct objlocks;

/* What a guard holds, and what it found under the locks. */
struct objguard {
	struct objlocks *t;		/* NULL = holds nothing */
	bool volume;
	unsigned n;
	uint32_t stripe[OBJLOCK_MAX];	/* sorted, distinct */
	uint64_t id, id2;		/* by-name forms: ids that the names have now; 0 = no such entry */
	uint32_t type, type2;		/* S_IFMT bits */
};

int objlocks_new(struct objlocks **out);
void objlocks_free(struct objlocks *t);

/* Locks N ids (0 is skipped, repetitions are fine). */
void objlock_ids(struct objlocks *t, struct objguard *g, const uint64_t *ids, unsigned n);
/* Locks PARENT and the object that NAME in it names now (if any) and EXTRA (0 = none), asking BELOW. 0, or the error of resolve
 * other than -ENOENT (then nothing is held). */
int objlock_entry(struct objlocks *t, struct objguard *g, struct layer *below, uint64_t parent, const char *name, uint64_t extra);
/* Both parents and both children of a rename; the volume mutex when a directory moves across parents. */
int objlock_rename(struct objlocks *t, struct objguard *g, struct layer *below, uint64_t p1, const char *n1, uint64_t p2,
		   const char *n2);
void objlock_drop(struct objguard *g);
#define auto_objguard __attribute__((cleanup(objlock_drop)))

#endif
