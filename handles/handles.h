/*
 * The common file handle: a 64-bit id, the same on every node, never used twice.
 *
 * An id stands in two places:
 *  - the *mark*, an xattr on the object itself (`trusted.tandemfs`): volume UUID, id, and a hash of the
 *    object's local handle, so that a copy or a restored file is recognised as a stranger;
 *  - the *index*, one per node: id -> local handle, inode number, ctime, flags, number of
 *    sub-directories; and local inode number -> id, so that readdir needs no getxattr per entry.
 *
 * The index is LMDB in the state directory, with a bounded delta on top in a MAP_SHARED file which
 * survives a killed process. It is valid after a clean stop or when the boot id is still the same;
 * otherwise it is rebuilt by walking the backing directory while the volume serves.
 *
 * Ids: bits 48..51 the node's number (1..15), bits 20..47 that node's range counter, bits 0..19
 * the place in the range: below 2^53, so that programs that hold inode numbers in doubles stay right.
 * A range is taken durably before its first id is used. Root is 1, generation 0; every other object
 * has the volume's one generation.
 *
 * Everything here is thread-safe unless said otherwise. Errors are -errno.
 */
#ifndef HANDLES_HANDLES_H
#define HANDLES_HANDLES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

enum {
	HANDLE_ROOT = 1,		/* the volume's root directory */
	HANDLE_LIMBO = 2,		/* .tandemfs/limbo: parent of objects that have no name; never a FUSE node */
	LOCAL_HANDLE_MAX = 64,		/* bytes of a local file handle that an entry reserves */
	NODE_MAX = 15,			/* node numbers are 1..NODE_MAX */
	UUID_LEN = 16,
	ID_RANGE_BITS = 20,
	ID_NODE_SHIFT = 48,
};
#define MARK_XATTR "trusted.tandemfs"	/* this name and everything that starts with it is hidden from users */
#define HIDDEN_DIR ".tandemfs"		/* in the backing root */

/* May ID ever name an ordinary object or the root? (Limbo is not one.) */
static inline bool id_valid(uint64_t id)
{
	unsigned node = (unsigned)(id >> ID_NODE_SHIFT);
	return id == HANDLE_ROOT || (node >= 1 && node <= NODE_MAX);
}

/* A local file handle, as name_to_handle_at gives it. */
struct local_handle {
	uint16_t len;			/* <= LOCAL_HANDLE_MAX */
	int32_t type;
	unsigned char bytes[LOCAL_HANDLE_MAX];
};

enum hentry_flags {
	HENTRY_TMPFILE = 1 << 0,	/* made by O_TMPFILE, lives in limbo until link(): nlink shows 0; a rebuild gives it to
					   every regular file in limbo that has no second name */
	HENTRY_DEFACL = 1 << 1,		/* a directory with a default ACL */
	HENTRY_CTIME_LOST = 1 << 2,	/* ctime was made up by a rebuild */
	HENTRY_DEAD = 1 << 3,		/* lost its last name while it was open or made to linger: the next handles_open drops it */
};

/* One entry of the index. */
struct hentry {
	uint64_t id;
	uint64_t ino;			/* local inode number */
	struct timespec ctime;		/* the volume's ctime of the object */
	uint32_t flags;			/* enum hentry_flags */
	uint32_t nsub;			/* directories: number of sub-directories (HIDDEN_DIR excluded; a rebuild counts
					   those that bear this volume's mark: adopting one adds it) */
	uint32_t type;			/* S_IFMT bits */
	struct local_handle lh;
};

struct handles;

struct handles_config {
	int state_fd;			/* the state directory; borrowed for the life of the object */
	int root_fd;			/* the backing directory's root, O_RDONLY|O_DIRECTORY, opened before anything is
					   mounted over it; borrowed */
	unsigned char uuid[UUID_LEN];	/* the volume */
	unsigned node;			/* this node's number, 1..NODE_MAX */
	uint32_t generation;		/* the volume's constant generation; not 0 */
};

/* ---- life ---- */

/* Opens (creating it when empty) the handle table. When the index is not valid (another boot after an
 * unclean stop, missing, or FORCE_REBUILD), a thread rebuilds it while calls are served: a lookup by id
 * that finds nothing waits until the walk found the id or ended. So that the walk can't miss what moves meanwhile, whoever moves an
 * object, or changes a directory, asks for it first (index_get), also for the parents. -EXDEV: the directory, or the state, belongs
 * to another volume; -ESTALE: the directory is a copy of a volume's; -EBUSY: another process has this table open. A root without
 * mark means a new volume: nothing is walked. */
int handles_open(const struct handles_config *cfg, bool force_rebuild, struct handles **out);
/* A clean stop: everything durable, the index marked valid. */
void handles_close(struct handles *h);
/* Makes the index durable up to now (a checkpoint). */
int handles_checkpoint(struct handles *h);
/* Is a rebuild running? DONE (may be NULL) gets the number of objects found so far. */
bool handles_rebuilding(struct handles *h, uint64_t *done);
uint32_t handles_generation(const struct handles *h);

/* ---- ids ---- */

/* A fresh id. Takes a new range durably when the current one is used up. -EIO when it can't be recorded;
 * -ESTALE when this node lost its counter and no peer has told it (see ids_learn / ids_skip). */
int ids_next(struct handles *h, uint64_t *id);
/* At every start as primary: the next id comes from a new range. */
int ids_new_range(struct handles *h);
/* The highest range counter known of each node (index = node number), to be told to every peer. */
void ids_counters(struct handles *h, uint64_t out[NODE_MAX + 1]);
/* What a peer said: counters never go down. Durable when it returns (but not while this node's own counter is lost and the peer
 * doesn't know it either). -EINVAL: impossible values. */
int ids_learn(struct handles *h, const uint64_t counters[NODE_MAX + 1]);
/* `--force` on a node that lost its counter: skip 4,096 ranges. */
int ids_skip(struct handles *h);

/* ---- index ---- */

/* -ESTALE: unknown (and no rebuild is running that might still find it). */
int index_get(struct handles *h, uint64_t id, struct hentry *out);
/* Inserts or replaces; also maintains ino -> id. */
int index_put(struct handles *h, const struct hentry *e);
/* Removes the entry of ID and its ino mapping; absent is no error. */
int index_del(struct handles *h, uint64_t id);
/* Local inode number -> id; -ENOENT when there is none. */
int index_by_ino(struct handles *h, uint64_t ino, uint64_t *id);
/* Changes one field of an existing entry (cheaper than get + put); -ESTALE as index_get. Setting ctime clears HENTRY_CTIME_LOST. */
int index_set_ctime(struct handles *h, uint64_t id, struct timespec ctime);
int index_add_nsub(struct handles *h, uint64_t id, int delta);
int index_set_flags(struct handles *h, uint64_t id, uint32_t set, uint32_t clear);
/* Around a change that adds, removes or moves a sub-directory of A or B, or that takes the last name of X or moves it out of limbo (0: none),
 * from before the change on disk until the index is right again. When the process is killed in between, the next handles_open
 * counts the sub-directories of both anew (those that bear a mark and are in the index), and drops the entry of X when the object
 * is gone, or HENTRY_TMPFILE when it isn't in limbo. Waits when INDEX_UNSTEADY_MAX such changes are under way. */
enum { INDEX_UNSTEADY_MAX = 112 };
unsigned index_unsteady(struct handles *h, uint64_t a, uint64_t b, uint64_t x);
void index_steady(struct handles *h, unsigned token);
/* Calls FN for every entry, in id order, from a consistent snapshot; stops at FN's first nonzero return and
 * returns it. FN may read the index, not change it. */
int index_each(struct handles *h, int (*fn)(void *arg, const struct hentry *e), void *arg);
/* The same, for ids from FROM on: to go on in short transactions. */
int index_each_from(struct handles *h, uint64_t from, int (*fn)(void *arg, const struct hentry *e), void *arg);
uint64_t index_count(struct handles *h);

/* ---- marks: FD may be O_PATH ---- */

/* Gives the object behind FD the mark of ID and fills LH and INO of OUT (id too; ctime, flags, nsub, type are the
 * caller's). Immutable and append-only flags are lifted for the moment. */
int mark_set(struct handles *h, int fd, uint64_t id, struct hentry *out);
/* Reads and checks the mark: its id. -ENODATA: unmarked; -EXDEV: marked for another volume; -ESTALE: a copy (the hash of
 * the local handle differs). LH (may be NULL) gets the object's local handle. */
int mark_get(struct handles *h, int fd, uint64_t *id, struct local_handle *lh);
int mark_remove(int fd);
/* name_to_handle_at for FD; -EOVERFLOW when it needs more than LOCAL_HANDLE_MAX bytes. */
int local_handle_of(int fd, struct local_handle *lh);
/* The same for NAME in DIRFD; a symbolic link isn't followed. */
int local_handle_at(int dirfd, const char *name, struct local_handle *lh);
/* Do A and B mean the same object? (xfs has two forms.) */
bool local_handle_same(const struct local_handle *a, const struct local_handle *b);
/* open_by_handle_at on the volume's backing file system; FLAGS as for open(2). Returns an fd or -errno (-ESTALE). */
int local_handle_open(struct handles *h, const struct local_handle *lh, int flags);
/* True for MARK_XATTR and every name that starts with it, and for what is a local file system's own (trusted.SGI_ACL_*). */
bool xattr_hidden(const char *name);

#endif
