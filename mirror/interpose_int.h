/*
 * Inside the interposing layer: what its files share. A change runs through
 *
 *	txn_begin    epoch open, room on the standbys, room in the queue; then the gate (is this node writable?)
 *	txn_lock_*   the objects' locks; fills the call for the layer below (stamp, effect); the caller's hook `before`
 *	(the call below)
 *	txn_done     the caller's hook `after`, which may add an attachment
 *	txn_emit     puts the op into the order
 *	txn_end      what only has an attachment gets an op too; a barrier when one is needed; unlock, leave the gate; flush here
 *	                and wait for the peers as the durability mode asks
 */
#ifndef MIRROR_INTERPOSE_INT_H
#define MIRROR_INTERPOSE_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "mirror/interpose.h"

enum { TMP_HASH = 64, FLUSH_MAX = 3, GROWTH_NAME = 4096, OP_OVERHEAD = 512 };

/* A file made by O_TMPFILE here that has no name yet. */
struct tmp {
	uint64_t id;
	uint64_t opens;
	struct tmp *next;
};

struct interpose {
	struct layer layer;			/* must be first */
	struct interpose_config cfg;
	pthread_rwlock_t gate;			/* shared by changes under way; guards writable; before any object lock */
	bool writable;
	pthread_mutex_t hold_mu;		/* a leaf */
	pthread_cond_t hold_cond;		/* held has ended; settling became 0 */
	_Atomic bool held;			/* changes wait; written with hold_mu */
	_Atomic uint64_t settling;		/* callers that have left the gate and wait for confirmations */
	pthread_mutex_t epoch_mu;		/* one opens the epoch; no other lock is held */
	_Atomic uint64_t epoch_wanted, epoch_open;	/* counts: equal = open */
	_Atomic int64_t clock_ns;		/* the newest stamp given or seen */
	_Atomic uint64_t writers;
	_Atomic uint64_t refused;		/* late writes, and */
	_Atomic bool refused_said;		/* whether the log knows of them, since this node was last primary */
	_Atomic uint64_t ops, bytes, by_type[OP_TYPE_LAST + 1];
	pthread_mutex_t tmp_mu;			/* guards tmp; a leaf */
	struct tmp *tmp[TMP_HASH];		/* owned */
	_Atomic uint64_t ntmp;
};

/* One change under way. */
struct txn {
	struct interpose *ip;
	struct call *c;				/* the caller's */
	struct call call;			/* for the layer below */
	struct effect eff;
	struct objguard g;
	uint64_t new_id;			/* creations */
	struct { uint64_t parent; const char *name; } entry[2];	/* the names that it is about; borrowed from the caller */
	bool gated, done, emitted;
	int err;				/* of the stream: what the caller has to get though the change was made */
	uint64_t barrier;			/* seq of an OP_FSYNC, 0 = none */
	struct file *file;			/* what has to be durable: this file, */
	uint64_t flush[FLUSH_MAX];		/* and/or these objects, flush[2] a directory */
};

static inline struct interpose *ip_of(struct layer *l) { return (struct interpose *)(void *)l; }

/* BYTES: of data and names, for the queue. 0, or the error: then nothing is held and txn_end() does nothing. */
int txn_begin(struct txn *tx, struct layer *l, struct call *c, size_t bytes);
/* Enters the gate, which it waits for while changes are held. 0, or -EROFS: this node is read-only, and the gate was not entered. */
int gate_enter(struct interpose *ip);
/* The same; WAITED: this node was primary when we came. */
int gate_enter_waited(struct interpose *ip, bool *waited);
/* Between these the caller, who has left the gate, waits for confirmations. The first one before it leaves. */
void settling_begins(struct interpose *ip);
void settling_ends(struct interpose *ip);
/* Fills tx->call; once the locks are held. */
void txn_locked(struct txn *tx);
int txn_lock_ids(struct txn *tx, uint64_t id, uint64_t id2);
int txn_lock_entry(struct txn *tx, uint64_t parent, const char *name, uint64_t extra);
/* -ENOSPC when the standbys haven't room for this much more. */
int txn_room(const struct interpose *ip, uint64_t bytes, uint64_t inodes);
/* The call below returned R: tells the caller's hook, once. Before anything is emitted. */
void txn_done(struct txn *tx, ssize_t r);
/* Puts OP, which lacks only stamp and attachment, into the order. */
void txn_emit(struct txn *tx, struct op *op);
/* Objects that have to be stated again (0 = none). */
void txn_restate(struct txn *tx, uint64_t id, uint64_t id2, uint64_t parent, uint64_t parent2);
/* The call below failed: when it changed something nevertheless, its objects are stated again. */
void txn_failed(struct txn *tx, uint64_t id, uint64_t id2, uint64_t parent, uint64_t parent2);
/* Ends the change; R is the outcome so far. NAMESPACE: `sync` waits for it. Returns R, or the error of flushing or confirming. */
int txn_end(struct txn *tx, int r, bool namespace);
/* Tells the observers. */
void tell_entry(struct txn *tx, uint64_t parent, const char *name, uint64_t child);
void tell_attr(struct txn *tx, uint64_t id);
void tell_data(struct txn *tx, uint64_t id, uint64_t off, uint64_t len);

/* Opens the epoch when one is wanted. */
int epoch_ready(struct interpose *ip);
/* Flushes FILE and IDS here while the peers do, and waits for them. WITH_PARENT: ids[0] was just made in ids[2], whose flush is enough here
 * (effect.with_parent). BARRIER: an OP_FSYNC of these objects, 0 = none. */
int flush_and_confirm(struct interpose *ip, struct call *c, struct file *file, bool datasync, const uint64_t ids[FLUSH_MAX], bool with_parent,
		      uint64_t barrier);
/* Appends an OP_FSYNC when there is somebody to answer it. *SEQ 0 = none. */
int barrier_append(struct interpose *ip, const uint64_t ids[FLUSH_MAX], bool datasync, uint64_t *seq);

/* Tmpfiles without a name. */
int tmp_add(struct interpose *ip, uint64_t id);
bool tmp_has(struct interpose *ip, uint64_t id);
void tmp_opened(struct interpose *ip, uint64_t id);
void tmp_named(struct interpose *ip, uint64_t id);
/* One open less; true when it was the last: the object is gone. */
bool tmp_closed(struct interpose *ip, uint64_t id);
/* Is the object with these attributes one that the peers have? */
static inline bool streamed(struct interpose *ip, const struct attr *a) { return a->nlink || tmp_has(ip, a->id); }

/* interpose_names.c */
int ip_create(struct layer *l, struct call *c, uint64_t parent, const char *name, const struct create *cr, int flags, struct attr *out,
	      struct file **out_file);
int ip_tmpfile(struct layer *l, struct call *c, uint64_t parent, const struct create *cr, int flags, struct attr *out, struct file **out_file);
int ip_unlink(struct layer *l, struct call *c, uint64_t parent, const char *name);
int ip_rmdir(struct layer *l, struct call *c, uint64_t parent, const char *name);
int ip_rename(struct layer *l, struct call *c, uint64_t parent, const char *name, uint64_t newparent, const char *newname, unsigned flags);
int ip_link(struct layer *l, struct call *c, uint64_t id, uint64_t newparent, const char *newname, struct attr *out);

/* interpose_files.c */
int ip_setattr(struct layer *l, struct call *c, uint64_t id, struct file *f, const struct setattr *s, struct attr *out);
int ip_setxattr(struct layer *l, struct call *c, uint64_t id, const char *name, const void *value, size_t size, int flags);
int ip_removexattr(struct layer *l, struct call *c, uint64_t id, const char *name);
int ip_setflags(struct layer *l, struct call *c, uint64_t id, uint32_t flags);
int ip_open(struct layer *l, struct call *c, uint64_t id, int flags, struct file **out);
int ip_release(struct layer *l, struct call *c, struct file *f);
ssize_t ip_write(struct layer *l, struct call *c, struct file *f, const struct wdata *d, uint64_t off, unsigned flags, struct attr *attr);
int ip_fsync(struct layer *l, struct call *c, uint64_t id, struct file *f, bool datasync);
int ip_fallocate(struct layer *l, struct call *c, struct file *f, int mode, uint64_t off, uint64_t len);
ssize_t ip_copy_range(struct layer *l, struct call *c, struct file *in, uint64_t off_in, struct file *out, uint64_t off_out, size_t len);

#endif
