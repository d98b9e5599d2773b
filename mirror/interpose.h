/*
 * The interposing layer: local first. Take the objects' locks, apply below, put the op into the order, unlock; then wait as the
 * durability mode asks. On a standby every change is -EROFS.
 *
 * What is not streamed: ops on objects that have no name left (nlink 0 and not a tmpfile); reads. An operation that failed after it may
 * have had an effect is followed, under the same lock, by a request to have its objects stated again (restate).
 */
#ifndef MIRROR_INTERPOSE_H
#define MIRROR_INTERPOSE_H

#include "fs/layer.h"
#include "fs/objlock.h"
#include "fs/observe.h"
#include "handles/handles.h"
#include "mirror/queue.h"

enum durability { DURABILITY_ASYNC, DURABILITY_COMMIT, DURABILITY_SYNC };

struct interpose_config {
	struct layer *below;
	struct objlocks *locks;
	struct handles *handles;
	struct queue *queue;
	struct observers *observers;
	enum durability durability;
	uint32_t time_gran_ns;		/* granularity of the volume clock; 0 = 1 */
	/* Before the first change or acknowledgement of an epoch that is not open yet (interpose_want_epoch): opens it durably. 0 or -errno,
	 * which the caller gets; -EAGAIN: after interpose_hold only: when that is over. May block; no lock is held. */
	int (*open_epoch)(void *arg);
	/* The objects must be stated again to all peers, since the stream lacks what happened to them: from now on, until that is done,
	 * a barrier proves nothing for them. Under their locks; queues only. */
	void (*restate)(void *arg, const uint64_t *ids, unsigned n);
	/* Room on the standbys: the least free bytes and inodes of the sync set beyond queue and reserve. UINT64_MAX = no standby. */
	void (*room)(void *arg, uint64_t *bytes, uint64_t *inodes);
	/* A local flush failed: the node must stop acknowledging. */
	void (*flush_failed)(void *arg, uint64_t id, int err);
	void *arg;
};

struct interpose;
int interpose_new(const struct interpose_config *cfg, struct interpose **out);
void interpose_free(struct interpose *ip);
struct layer *interpose_layer(struct interpose *ip);

/* Starts as a standby (read-only). Becoming read-only waits until no change is under way; confirmations of earlier changes may still
 * be waited for then. */
void interpose_set_writable(struct interpose *ip, bool writable);
/* Changes that come from now on wait until interpose_set_writable; returns when none is under way. False: this node is read-only. */
bool interpose_hold(struct interpose *ip);
/* A read-only node that is about to be writable: the same until it is known. */
void interpose_hold_standby(struct interpose *ip);
/* While held: waits until nobody is left who waits for confirmations. 0 or -ETIMEDOUT (UNTIL: clock_mono). */
int interpose_wait_idle(struct interpose *ip, const struct timespec *until);
/* While read-only, with the queue stopped: waits until nobody is left who waits for confirmations of what was changed before. */
void interpose_wait_settled(struct interpose *ip);
/* Every change that is under way now has its op in the order when this returns; waits for no peer. */
void interpose_pass(struct interpose *ip);
/* The next change or acknowledgement calls open_epoch first. */
void interpose_want_epoch(struct interpose *ip);
/* Files open for writing now (demote refuses while there are some). Not those of ORIGIN_NFS, which keeps files open that nobody may be using; they must be released
 * with the same origin. */
uint64_t interpose_writers(struct interpose *ip);

/* The volume clock: max(local clock, last replicated), rounded down to the granularity; never goes back. */
struct timespec interpose_stamp(struct interpose *ip);
void interpose_clock_seen(struct interpose *ip, struct timespec t);

/* For resync on the primary: appends a statement that is right under the locks which the caller holds. */
int interpose_emit(struct interpose *ip, struct op *op, uint16_t peers, uint64_t *seq);

/* ---- an attachment that belongs to no change: an op of its own, in the same order ---- */

/* In steps, for callers whose own lock gives their records their order. _begin: waits until there is room for LEN bytes and the epoch is open, with no lock
 * held; 0 (then this node stays primary until _end, in the same thread, which must not start a change meanwhile), or -EROFS and the like: nothing is held.
 * _emit, as often as wanted: doesn't wait; may be called under a mutex that is taken after _begin (a leaf: the queue's comes below it). PEERS: bitmap,
 * 0xffff = all. An error (-ENOMEM, -ESHUTDOWN) means that no peer will have the record: undo what it says. _wait: with nothing held; until
 * the peers have received *SEQ, as the volume's durability asks for records; -EIO: nobody can tell whether they have. */
int interpose_attach_begin(struct interpose *ip, size_t len);
int interpose_attach_emit(struct interpose *ip, uint16_t kind, const void *data, uint32_t len, uint16_t peers, uint64_t *seq);
void interpose_attach_end(struct interpose *ip);
int interpose_attach_wait(struct interpose *ip, uint64_t seq);
/* All of that. WAIT: for the peers. */
int interpose_attach(struct interpose *ip, uint16_t kind, const void *data, uint32_t len, bool wait, uint64_t *seq);

struct interpose_stats {
	uint64_t ops, bytes, by_type[OP_TYPE_LAST + 1];
	uint64_t refused;		/* writes to files that were opened while this node was primary, and came when it no longer was */
};
void interpose_stats(struct interpose *ip, struct interpose_stats *out);

#endif
