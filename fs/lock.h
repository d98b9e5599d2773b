/*
 * The lock table: flock and fcntl (byte-range) locks of a volume, shared by FUSE and the NFS server. A lock belongs
 * to an owner: (front end, opaque 64-bit). A blocked request holds no thread: it is queued and its callback is called when the lock was
 * granted, from the thread whose release made it possible, with no lock of the table held.
 *
 * flock locks and fcntl locks don't see each other (as on Linux local file systems). Converting a flock lock gives the old one up first, as
 * flock(2) says. All functions are thread-safe; none blocks on anything but the journal.
 *
 * Owners are those of this node's front ends, those of other nodes (known from the stream, so that they are in the way here too), and the volume's own: clients of
 * the NFS server, whichever node that is on. An owner whose identity is more than 64 bits has a lock_who behind its key.
 *
 * The journal (at most one) is asked before each change and told of it under the table's mutex, before it is made: what it puts into an order is the order of
 * the changes. Changes of owners of the volume happen only where they can be recorded; those of local programs happen anyway.
 */
#ifndef FS_LOCK_H
#define FS_LOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Locks held and requests waiting in one table, and on one object; more get -ENOLCK. */
enum { LOCK_TABLE_MAX = 1 << 20, LOCK_OBJECT_MAX = 1 << 16 };
/* Requests of the volume's clients that wait for one object: each release looks at them all. */
enum { LOCK_OBJECT_WAITS_MAX = 4096 };

enum lock_kind { LOCK_POSIX_RANGE, LOCK_WHOLE };	/* fcntl, flock */
enum lock_mode { LOCK_SHARED, LOCK_EXCLUSIVE };

/* Nodes are 1..15; 0 is this one. */
enum { LOCK_NODE_VOLUME = 0xffff };

/* An identity that its front end keeps, counted: the table holds a reference for each lock and waiting request. PUT drops one and frees the last; it is called
 * under the table's mutex, too. */
struct lock_who {
	_Atomic uint32_t refs;
	void (*put)(struct lock_who *w);
};
struct lock_owner {
	uint32_t front;			/* enum call_origin */
	uint32_t node;			/* the node whose client holds it; 0 = this one; LOCK_NODE_VOLUME: a client of the volume */
	uint64_t key;			/* FUSE: lock_owner; NFS: number of the identity. With front and node: who it is */
	struct lock_who *who;		/* borrowed for the call, or NULL */
};
struct lock_range {
	enum lock_kind kind;
	enum lock_mode mode;
	uint64_t start, end;		/* inclusive; end UINT64_MAX = to the end of file; 0..UINT64_MAX for LOCK_WHOLE */
	pid_t pid;
};

/* What happens to the table: O gets R on ID, or gives up what it holds there. */
struct lock_change {
	bool set;			/* else cleared */
	uint64_t id;
	struct lock_owner o;
	struct lock_range r;
};

struct lock_journal {
	/* Before a change, no lock held; may block. 0: what follows can be recorded, END will be called. -errno: it can't: owners of the volume get
	 * the error, and none of their requests is granted; others go on unrecorded. */
	int (*begin)(void *arg);
	/* Under the table's mutex, before the change is made; must not call the table. *SEQ: its place in the order. -errno: the change isn't made, but
	 * for what a local program gives up. */
	int (*record)(void *arg, const struct lock_change *c, uint64_t *seq);
	/* After BEGIN succeeded; no lock held. VOLUME: it is about owners of the volume, too; then it may block until all up to SEQ (0 = nothing was recorded) is as
	 * safe as they want it. Its error is returned to the caller and to those who were granted something: it is theirs, but don't tell their clients. */
	int (*end)(void *arg, uint64_t seq, bool volume);
	void *arg;
};

struct lock_table;

int lock_table_new(struct lock_table **out);
/* J is copied; NULL = none any more. While nobody uses the table. */
void lock_table_set_journal(struct lock_table *t, const struct lock_journal *j);
/* Waiting requests are forgotten, their callbacks not called (see lock_cancel_front). */
void lock_table_free(struct lock_table *t);

/* The conflicting lock with the lowest start, into FOUND, and whose it is into HOLDER (may be NULL; holder->who, when not NULL, is a reference that the
 * caller puts); 0 = found, -ENOENT = none. */
int lock_test(struct lock_table *t, uint64_t id, struct lock_owner o, const struct lock_range *want, struct lock_range *found,
	      struct lock_owner *holder);
/* What O holds within R: bits 1 << mode. */
unsigned lock_holds(struct lock_table *t, uint64_t id, struct lock_owner o, const struct lock_range *r);
/* Does O hold all of R, in its mode or a stronger one? */
bool lock_covers(struct lock_table *t, uint64_t id, struct lock_owner o, const struct lock_range *r);
/* Non-blocking: 0 or -EAGAIN; -ENOLCK when the table, or the object, is full. Merges, splits and converts as fcntl(2) says. With a journal also its
 * errors. */
int lock_set(struct lock_table *t, uint64_t id, struct lock_owner o, const struct lock_range *want);
/* Blocking: 0 = granted at once (GRANTED isn't called); -EINPROGRESS: queued, *TICKET (stored before GRANTED can run) names the request; tickets
 * are never used twice, so an old one is harmless. -EDEADLK (fcntl locks; the owner of a waiting request counts as blocked as a whole, as in Linux);
 * -ENOLCK. */
int lock_set_wait(struct lock_table *t, uint64_t id, struct lock_owner o, const struct lock_range *want,
		  void (*granted)(void *arg, int err), void *arg, uint64_t *ticket);
/* 0: it was still waiting and is gone, GRANTED won't be called; -ENOENT: it was granted or cancelled already. */
int lock_cancel(struct lock_table *t, uint64_t ticket);
/* Ends all waiting requests of a front end: GRANTED(arg, err) for each. */
void lock_cancel_front(struct lock_table *t, uint32_t front, int err);
/* Releases the part of RANGE that O holds (kind, start, end). -ENOLCK: no memory to split a lock; nothing changed. */
int lock_clear(struct lock_table *t, uint64_t id, struct lock_owner o, const struct lock_range *range);
/* Everything that O holds on ID of KIND (close, release). Cheap when nobody holds any lock. */
void lock_drop_owner(struct lock_table *t, uint64_t id, struct lock_owner o, enum lock_kind kind);
/* Everything that the owners of a front end on a node hold: the mount ended, the node is gone. */
void lock_drop_front(struct lock_table *t, uint32_t front, uint32_t node);
/* Everything that owners hold, or wait for, that MATCH says yes to (asked under the mutex; must not call the table). GRANTED(arg, ERR) for each request.
 * RECORDED: as a change by O's leave (journal), else silently: the journal's readers do the same by themselves. Returns the journal's error: then nothing was
 * dropped. */
int lock_drop_matching(struct lock_table *t, bool (*match)(void *arg, const struct lock_owner *o), void *arg, int err, bool recorded);

/* ---- what other nodes have, on one that follows, and for one that does ---- */
/* A change that a journal has recorded elsewhere: made without looking for conflicts, not recorded. -ENOLCK: no memory. */
int lock_apply(struct lock_table *t, const struct lock_change *c);
/* Lists locks from *POS on (0 = the start) as changes, about MAX of them, all in one go under the mutex; then FN(arg, NULL), still under it. FN's first nonzero ends it
 * and is returned. *POS: where to go on; 0 = that was all. Locks of one object are never split between two goes. FN must not call the table. */
int lock_each(struct lock_table *t, uint64_t *pos, unsigned max, int (*fn)(void *arg, const struct lock_change *c), void *arg);
/* Locks held and requests waiting now. */
uint32_t lock_count(struct lock_table *t);

#endif
