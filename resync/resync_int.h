/*
 * What both sides of a resync agree on: the contents of the OP_R_* statements, and the sums.
 *
 *   OP_R_ATTR   flags: the inode flags; blob: 16 bytes digest of the xattrs, then (symlinks) the target
 *   OP_R_CHECK  off: multiple of RESYNC_BLOCK; len <= RESYNC_CHUNK, up to the end of the file; blob: one XXH3-128 (canonical) per block;
 *               len 0: only the size is stated
 *   OP_R_DATA   data, or none: [off, off + len) is a hole, however long
 *   OP_R_END    flags: enum r_end
 *
 * Reports: DIRTY (id; id 0: everything), MISSING (parent, name, id; bits: S_IFMT type), XATTR (id), DATA (id, off: of the chunk, len, bits:
 * which of its blocks), ENDED (seq: of the OP_R_END; bits: 0 = done, 1 = something is dirty since the last probe).
 */
#ifndef RESYNC_RESYNC_INT_H
#define RESYNC_RESYNC_INT_H

#include "fs/layer.h"
#include "mirror/op.h"
#include "fs/observe.h"
#include "resync/resync.h"

enum {
	RESYNC_BLOCK = 64 << 10,
	RESYNC_CHUNK = 4 << 20,
	RESYNC_SUM_LEN = 16,
	RESYNC_CHUNK_BLOCKS = RESYNC_CHUNK / RESYNC_BLOCK,
	RESYNC_DIR_NAMES = 256,	/* entries of one OP_R_DIR, and */
	RESYNC_DIR_BYTES = 256 << 10,	/* bytes of them */
	RESYNC_XATTRS_BYTES = 256 << 10,	/* of one OP_R_XATTR; what is beyond follows as OP_SETXATTR */
};

enum r_end {
	R_END_PROBE = 0,	/* only answer: all reports of statements before this one are on their way before the answer */
	R_END_FINAL = 1,	/* when nothing became dirty since the last probe: clean up, make durable, strict from here on */
};

/* The names of the xattrs that are replicated, sorted: NAMES is the buffer (owned), NAME points into it. */
struct xattr_names { char *names; const char **name; size_t n; };
int resync_xattr_names(struct layer *l, struct call *c, uint64_t id, struct xattr_names *out);
void resync_xattr_names_free(struct xattr_names *x);
#define auto_xattr_names __attribute__((cleanup(resync_xattr_names_free)))

/* Digest of all xattrs of ID, names and values. C says whether ID is locked. */
int resync_xattr_digest(struct layer *l, struct call *c, uint64_t id, unsigned char out[RESYNC_SUM_LEN]);
/* The inode flags that all nodes can have; 0 for types without. */
int resync_flags(struct layer *l, struct call *c, uint64_t id, uint32_t mode, uint32_t *flags);
/* One sum per block of P; returns how many. */
unsigned resync_sums(const void *p, size_t len, unsigned char out[RESYNC_CHUNK_BLOCKS * RESYNC_SUM_LEN]);
/* Reads LEN bytes at OFF, or up to the end of the file: bytes read, or -errno. */
ssize_t resync_read(struct layer *l, struct call *c, struct file *f, void *buf, size_t len, uint64_t off);

/* A bounded set of ids with the order in which they came (open addressing, a ring of ids). Not thread-safe. */
struct idset {
	uint64_t *slot;		/* owned; 0 = empty, UINT64_MAX = deleted */
	uint64_t *ring;		/* owned */
	size_t cap, n, used, head, max;
};
int idset_init(struct idset *s, size_t max);
void idset_free(struct idset *s);
bool idset_has(const struct idset *s, uint64_t id);
/* 1 = added, 0 = was in it, -ENOSPC = full. */
int idset_add(struct idset *s, uint64_t id);
/* Takes the oldest; 0 when empty. */
uint64_t idset_pop(struct idset *s);
void idset_clear(struct idset *s);

#endif
