/*
 * The standby's side: applies ops in their order to the layer below, with the ids and times that the primary chose.
 *
 * Strict (level): every op must find exactly what it expects; if not, the nodes have diverged: -EUCLEAN, the stream ends, the node is
 * inconsistent. Tolerant (while a comparison runs): what can't be applied exactly is not applied at all, and its objects are reported dirty, so that
 * the primary states them again.
 *
 * Barriers (OP_FSYNC) are handed to a pool of workers when all ops before them are applied; they fsync the objects outside all
 * locks, many at once, and the answer is sent when done. Applied writes start writeback.
 *
 * A change is told to the observers (kernel invalidation) after it was applied; nothing waits for them.
 *
 * ENOSPC, EDQUOT, EIO, ENOMEM here while the primary succeeded: the op can't be applied; the standby leaves the sync set (failed callback);
 * nothing later is applied.
 */
#ifndef MIRROR_APPLY_H
#define MIRROR_APPLY_H

#include "fs/layer.h"
#include "fs/objlock.h"
#include "fs/observe.h"
#include "handles/handles.h"
#include "mirror/op.h"
#include "mirror/wire.h"

struct apply;
typedef int (*apply_fn)(void *arg, struct apply *a, const struct op *op, uint64_t seq);
typedef void (*attach_fn)(void *arg, uint16_t kind, uint64_t seq, const void *data, size_t len);

struct apply_config {
	struct layer *local;		/* the layer below (fault or local) */
	struct layer *bottom;		/* the local layer itself, for local_place() and friends */
	struct objlocks *locks;
	struct handles *handles;
	struct observers *observers;
	unsigned fsync_workers;		/* 0 = 8 */
	void (*barrier_done)(void *arg, uint64_t seq, int err);		/* send FRAME_BARRIER; any thread */
	void (*report)(void *arg, const struct report *r);		/* send FRAME_REPORT */
	int (*epoch)(void *arg, struct epoch e, uint64_t seq, uint64_t prev_lsn);	/* OP_EPOCH: record it durably */
	void (*handover)(void *arg, unsigned to, uint64_t number, uint64_t seq);	/* OP_HANDOVER */
	void (*clock_seen)(void *arg, struct timespec t);
	void *arg;
};
int apply_new(const struct apply_config *cfg, struct apply **out);
void apply_free(struct apply *a);	/* waits for the workers, flushes what is still open: may take long */
/* Ops of types FIRST..LAST go to FN (resync's statements). Before the first op. */
void apply_register(struct apply *a, unsigned first, unsigned last, apply_fn fn, void *arg);
/* Asked before every ordinary op in tolerant mode: true = don't apply it, report its objects dirty (their versions must be kept first). */
typedef bool (*apply_guard_fn)(void *arg, const struct op *op);
void apply_register_guard(struct apply *a, apply_guard_fn fn, void *arg);
void apply_register_attach(struct apply *a, uint16_t kind, attach_fn fn, void *arg);

void apply_set_tolerant(struct apply *a, bool tolerant);
bool apply_tolerant(const struct apply *a);
/* One op; one thread. 0; -EBADMSG: can't be right, from any honest peer; -EUCLEAN: diverged; other: the local error. */
int apply_op(struct apply *a, const struct op *op, uint64_t seq);
/* Has a flush failed here? Then every op and barrier fails, until apply_recover. */
bool apply_flush_failed(const struct apply *a);
/* Before a comparison of everything, no stream being applied: forgets a failed flush, after dropping the page cache, so that the comparison sees what is on
 * the disk. */
int apply_recover(struct apply *a);
/* Waits until all barriers given to workers are answered. Files that ops had open are flushed and closed in the background from then on. */
void apply_drain(struct apply *a);

/* For resync's statements. */
const struct apply_config *apply_config_of(const struct apply *a);
void apply_report(struct apply *a, enum report_kind kind, uint64_t seq, uint64_t id);
/* How many objects were reported dirty so far: whether something was since a moment. The applying thread's. */
uint64_t apply_skipped(const struct apply *a);
/* ID is being stated (0: everything will be): from here on it is reported again. Until then one report that it is dirty is enough. */
void apply_stated(struct apply *a, uint64_t id);
/* Tolerant failure: reports the op's objects dirty. */
void apply_skip(struct apply *a, const struct op *op, uint64_t seq);

#endif
