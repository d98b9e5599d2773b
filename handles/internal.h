/*
 * What the files of this room share. Nothing here is for others; handles.h is the contract.
 *
 *   handles.c  life: opening, the validity marker, closing
 *   ids.c      ranges of ids
 *   mark.c     the xattr on each object, local handles
 *   index.c    the index as its callers see it: look-ups, changes, folding the delta
 *   delta.c    one half of the delta: records in a mapped file, and the chains that find them
 *   db.c       the LMDB environment below the delta
 *   walk.c     the rebuild
 *
 * Locks, in the order in which they are taken:
 *   index.fold_lock > index.each_lock > index.ids[0..] > index.inos[0..] > index.wait_lock
 *   index.found_lock, index.unsteady_lock, walk.lock and ids.lock are leaves.
 */
#ifndef HANDLES_INTERNAL_H
#define HANDLES_INTERNAL_H

#include <lmdb.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "fs/base/codec.h"
#include "handles/handles.h"

/* ---- ids.c ---- */

enum { IDS_RANGES = 1 << (ID_NODE_SHIFT - ID_RANGE_BITS), IDS_SKIP = 4096 };
#define IDS_XATTR MARK_XATTR ".ids"

struct ids {
	pthread_mutex_t lock;		/* guards all below */
	int fd;				/* the file `ids`, O_DSYNC; owned */
	int root_fd;			/* borrowed */
	unsigned char uuid[UUID_LEN];
	unsigned node;
	uint64_t seq;			/* of the record written last */
	uint64_t counters[NODE_MAX + 1];
	bool lost;			/* this node's counter is unknown */
	uint64_t next, end;		/* what is left of the range taken; next == end: nothing */
};

/* Reads what is known. NEW_VOLUME: nothing being there is right. -EXDEV: the record of another volume. */
int ids_open(struct ids *s, const struct handles_config *cfg, bool new_volume);
void ids_close(struct ids *s);

/* ---- db.c ---- */

struct db {
	MDB_env *env;
	MDB_dbi by_id, by_ino, tombs, dead, meta;
};
#define DB_MAP_BYTES ((size_t)64 << 30)
enum { DB_READERS = 640, DB_ENTRY_MAX = 160 };

/* Opens (creating it) the environment in DIR_FD. */
int db_open(struct db *db, int dir_fd, size_t map_bytes);
void db_close(struct db *db);
/* LMDB's result as 0 or -errno; -ENOENT for "not found", -EXFULL (never leaves the room) for a full map. */
int db_err(int rc);
int db_get(struct db *db, MDB_txn *txn, uint64_t id, struct hentry *out);
int db_decode(uint64_t id, MDB_val v, struct hentry *out);
int db_get_ino(struct db *db, MDB_txn *txn, uint64_t ino, uint64_t *id);
/* Puts E; CLAIM: its inode number now means this id. */
int db_put(struct db *db, MDB_txn *txn, const struct hentry *e, bool claim);
/* Removes; TOMB: and remembers that it was removed, until db_drop_tombs. */
int db_del(struct db *db, MDB_txn *txn, uint64_t id, bool tomb);
bool db_has_tomb(struct db *db, MDB_txn *txn, uint64_t id);
int db_drop_tombs(struct db *db);
/* Removes the entries that have HENTRY_DEAD. */
int db_bury(struct db *db);
/* Numbers kept beside the entries; 0 when there is none. */
enum db_meta { DB_FORMAT = 1, DB_INCARNATION = 2, DB_FOLDED = 3 };
int db_meta_get(struct db *db, enum db_meta key, uint64_t *value);
int db_meta_put(struct db *db, MDB_txn *txn, enum db_meta key, uint64_t value);
/* Doubles the map; its new size. No transaction may be active in this process. */
int db_grow(struct db *db, size_t *bytes);

/* ---- delta.c ---- */

/* How many records a half has; tests make it smaller. */
enum { DELTA_RECORDS = 32768, DELTA_RECORDS_MIN = 64, ID_STRIPES = 32, INO_STRIPES = 16 };

/* The part of an entry that changes in place: two slots, the valid one with the higher sequence counts. */
struct delta_slot {
	int64_t sec;
	uint32_t nsec;
	uint32_t flags;			/* enum hentry_flags, DELTA_DELETED */
	uint32_t nsub;
	uint32_t pad;
	uint64_t seq;
	uint64_t check;			/* XXH3 of the above, seeded with record number and generation */
};
#define DELTA_DELETED (UINT32_C(1) << 31)

/* As mapped, in host byte order: the file is worth nothing after a reboot. */
struct delta_record {
	uint64_t gen;			/* of the half's use */
	uint64_t id, ino;
	uint32_t type;
	int32_t lh_type;
	uint16_t lh_len;
	uint16_t claim;			/* 1: the inode number means this id */
	uint32_t pad;
	unsigned char lh[LOCAL_HANDLE_MAX];
	uint64_t check;			/* XXH3 of the above, seeded with the record number */
	struct delta_slot slot[2];
};
_Static_assert(sizeof(struct delta_record) == 192, "a record of the delta has 192 bytes");

#define DELTA_NONE UINT32_MAX

struct half {
	struct delta_record *rec;	/* borrowed from the mapping */
	uint32_t n;			/* records */
	_Atomic uint32_t used;		/* records handed out; may run past n */
	uint64_t gen;
	uint32_t buckets;		/* a power of two, >= ID_STRIPES, INO_STRIPES */
	uint32_t *id_head, *id_next;	/* owned; guarded by the stripe of the id */
	uint32_t *ino_head, *ino_next;	/* owned; guarded by the stripe of the inode number */
	bool *ino_in;			/* is the record in an ino chain? guarded by the stripe of the id */
};

static inline uint32_t delta_hash(uint64_t key)
{
	return (uint32_t)((key * UINT64_C(0x9e3779b97f4a7c15)) >> 32);
}

/* Objects that are being changed on disk and in the index, which isn't one step; in the header page. */
struct delta_unsteady {
	uint64_t a, b;			/* directories whose number of sub-directories changes */
	uint64_t x;			/* what may lose its last name, or leaves limbo */
	uint64_t check;			/* XXH3 of the above, seeded with the incarnation; 0: free */
};
enum { DELTA_HEADER_BYTES = 4096, DELTA_UNSTEADY_AT = 512 };
_Static_assert(DELTA_UNSTEADY_AT + INDEX_UNSTEADY_MAX * sizeof(struct delta_unsteady) <= DELTA_HEADER_BYTES, "they fit");

struct delta {
	int fd;				/* owned, locked against a second opener */
	unsigned char *map;		/* owned */
	size_t map_bytes;
	uint64_t incarnation;		/* the index that this delta belongs to */
	struct half half[2];
	struct delta_unsteady *unsteady;	/* borrowed from the mapping */
};
/* Writes slot I, or frees it (all 0). */
void delta_unsteady_set(struct delta *d, unsigned i, uint64_t a, uint64_t b, uint64_t x);
/* Is slot I in use, whole? */
bool delta_unsteady_get(const struct delta *d, unsigned i, struct delta_unsteady *out);

/* Opens the delta file in DIR_FD (-EUCLEAN: not one that can be used) or, when FRESH, makes a new one. -EBUSY: somebody else has it. */
int delta_open(struct delta *d, int dir_fd, uint32_t records, bool fresh);
void delta_close(struct delta *d);
/* Empties the chains of H and gives it generation GEN. */
void half_reset(struct half *h, uint64_t gen);
/* Fills the chains of H from valid records of generation GEN; returns how many there were. */
uint32_t half_load(struct half *h, uint64_t gen);
/* The highest generation that a record of H may bear. */
uint64_t half_newest_gen(const struct half *h);

/* With the stripe of the id held: */
uint32_t half_find(const struct half *h, uint64_t id);
/* What record R says now: the entry, and false when it is deleted. */
bool half_entry(const struct half *h, uint32_t r, struct hentry *out);
void half_update(struct half *h, uint32_t r, const struct delta_slot *s);
const struct delta_slot *half_slot(const struct half *h, uint32_t r);
bool half_same_object(const struct half *h, uint32_t r, const struct hentry *e);
/* A new record for E (FLAGS of the first slot as given), in the place of record OLD (or DELTA_NONE). -ENOSPC: the half is full. */
int half_append(struct half *h, const struct hentry *e, uint32_t flags, bool claim, uint32_t old, uint32_t *out);
/* With the stripe of the inode number held too: */
void half_ino_insert(struct half *h, uint32_t r);
void half_ino_remove(struct half *h, uint32_t r);

/* ---- index.c ---- */

struct stripe {
	pthread_mutex_t lock;
	MDB_txn *txn;			/* a reset read transaction; owned; guarded by lock */
} __attribute__((aligned(64)));

struct waiter {
	uint64_t id;
	bool found;
	struct waiter *next;
};

struct index {
	struct db db;
	struct delta delta;
	struct stripe ids[ID_STRIPES], inos[INO_STRIPES];	/* together fewer than the 64 locks that TSan follows */
	struct half *active, *frozen;	/* changed with all stripes held; frozen NULL = everything else is in the database */

	pthread_mutex_t fold_lock;	/* one fold, one writer of the database at a time */
	pthread_rwlock_t each_lock;	/* read: a snapshot is open; write: the map is being resized */

	pthread_mutex_t wait_lock;	/* guards all below */
	pthread_cond_t work, done;	/* for the folder; for those who wait for room */
	bool stop, wanted;		/* wanted: a half is filling up, fold it */
	uint64_t folds;			/* attempts that ended */
	int fold_err;			/* of the last one */
	uint64_t active_gen;		/* as in active->gen */
	pthread_t folder;
	bool folder_runs;

	pthread_mutex_t unsteady_lock;	/* guards the free list; a leaf */
	pthread_cond_t unsteady_freed;
	unsigned unsteady_free[INDEX_UNSTEADY_MAX], n_unsteady_free;

	_Atomic bool rebuilding;
	_Atomic unsigned nwaiting;
	pthread_mutex_t found_lock;	/* guards waiters; a leaf */
	pthread_cond_t found;
	struct waiter *waiters;
};

/* What tests change before handles_open: small halves fold often, small maps grow. */
struct index_tuning {
	uint32_t records;
	size_t map_bytes;
};
extern struct index_tuning index_tuning;

/* DIR_FD: the sub-directory `index`. USE what is there, with -EUCLEAN when it can't be used (nothing is changed then), or empty it. */
int index_open(struct index *ix, int dir_fd, bool use);
/* Stops the folder, folds what is left and makes it durable. */
int index_close(struct index *ix);
/* Folds everything changed up to now into the database. */
int index_fold(struct index *ix);
int index_sync(struct index *ix);
/* The walk's put: only when nothing is known of the id. Wakes those who wait for it. */
int index_put_found(struct index *ix, const struct hentry *e);
/* After a kill: looks again at what was being changed. Before anybody else knows H. */
int index_settle(struct handles *h);
/* The walk ended. */
int index_rebuilt(struct index *ix);

/* ---- walk.c ---- */

struct walk;
/* Scans the root directory, puts its entry, and starts the threads. */
int walk_start(struct handles *h, struct walk **out);
uint64_t walk_found(struct walk *w);
/* Sub-directories of the directory of E that bear our mark and are in the index. -ESTALE: it is gone. */
int walk_count(struct handles *h, const struct hentry *e, uint32_t *nsub);
/* Stops, joins and frees. */
void walk_stop(struct walk *w);

/* ---- handles.c ---- */

struct handles {
	struct handles_config cfg;
	struct ids ids;
	struct index ix;
	int index_fd;			/* the directory `index`; owned */
	struct walk *walk;		/* owned; NULL when the index was valid */
	uint64_t root_hash;		/* of the root's local handle */
	_Atomic bool incomplete;	/* a walk ended with errors */
};

/* The walk's last call: what wasn't found isn't there; COMPLETE: there were no errors. */
void handles_rebuild_done(struct handles *h, bool complete);
/* XXH3 of a local handle, in the form that doesn't depend on mount options. */
uint64_t local_handle_hash(const struct local_handle *lh);
/* As local_handle_of, with the mount that it was reached through. */
int local_handle_and_mount(int fd, struct local_handle *lh, int *mount_id);

#endif
