/*
 * The lock table: flock and fcntl (byte-range) locks of a volume, shared by FUSE and the NFS server. A lock belongs
 * to an owner: (front end, opaque 64-bit). A blocked request holds no thread: it is queued and its callback is called when the lock was
 * granted, from the thread whose release made it possible, with no lock of the table held.
 *
 * flock locks and fcntl locks don't see each other (as on Linux local file systems). Converting a flock lock gives the old one up first, as
 * flock(2) says. All functions are thread-safe; none blocks.
 */
#ifndef FS_LOCK_H
#define FS_LOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

/* Locks held and requests waiting in one table; more get -ENOLCK. */
enum { LOCK_TABLE_MAX = 1 << 20 };

enum lock_kind { LOCK_POSIX_RANGE, LOCK_WHOLE };	/* fcntl, flock */
enum lock_mode { LOCK_SHARED, LOCK_EXCLUSIVE };

struct lock_owner {
	uint32_t front;			/* enum call_origin */
	uint32_t node;			/* the node whose client holds it; 0 = this one */
	uint64_t key;			/* FUSE: lock_owner; NFS: hash of the caller's identity */
};
struct lock_range {
	enum lock_kind kind;
	enum lock_mode mode;
	uint64_t start, end;		/* inclusive; end UINT64_MAX = to the end of file; 0..UINT64_MAX for LOCK_WHOLE */
	pid_t pid;
};

struct lock_table;

int lock_table_new(struct lock_table **out);
/* Waiting requests are forgotten, their callbacks not called (see lock_cancel_front). */
void lock_table_free(struct lock_table *t);

/* The conflicting lock with the lowest start, into FOUND; 0 = found, -ENOENT = none. */
int lock_test(struct lock_table *t, uint64_t id, struct lock_owner o, const struct lock_range *want, struct lock_range *found);
/* Non-blocking: 0 or -EAGAIN; -ENOLCK when the table is full. Merges, splits and converts as fcntl(2) says. */
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

#endif
