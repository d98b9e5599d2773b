/*
 * Resync: makes a standby level by comparing everything, while the volume is written to.
 *
 * No second protocol: what the primary sends are *statements* (OP_R_*) in the same ordered stream as all other ops, made under the same
 * object locks, so each is exact at its place in the order. While it runs the standby applies ordinary ops tolerantly: what does not fit is skipped
 * and its objects are reported dirty. So a round is:
 *
 *   OP_R_BEGIN                 the standby records that it is inconsistent
 *   for each object, in the order of ids (not of the tree: ids don't move when something is renamed meanwhile):
 *     directories: OP_R_DIR (range of positions: names, ids, types)   the standby makes its entries equal: what is there and not listed goes to
 *                              limbo (or loses that name); what is listed and known under its id is moved or linked there; what is unknown
 *                              is made empty and reported MISSING (-> OP_R_PLACE for what can't be made empty)
 *     all: OP_R_ATTR           all attributes, digest of xattrs (differs: reported -> OP_R_XATTR). An unknown object is made in limbo
 *     regular files: OP_R_CHECK per chunk (XXH3-128 of its 64 KiB blocks; differing blocks are reported -> OP_R_DATA)
 *   what the room above has to say beside the tree (resync_config.snapshot: the NFS server's state)
 *   everything reported dirty, again and again until nothing is
 *   OP_R_END (probe, then final)   the standby deletes what stayed in limbo, makes everything durable, clears "inconsistent", answers ENDED
 *
 * Objects are compared by id: a renamed directory of a million files costs one placement. Holes are stated as holes. Only differing
 * blocks cross the wire. At most 4 MiB or one range of names is looked at under an object's lock.
 */
#ifndef RESYNC_RESYNC_H
#define RESYNC_RESYNC_H

#include "fs/local.h"
#include "mirror/apply.h"
#include "mirror/interpose.h"

/* ---- the primary's side ---- */
struct resync;
struct resync_config {
	unsigned peer;			/* whom to make level */
	bool full;			/* compare everything, then call done; */
	bool state;			/* or only send what the peer needs beside the tree (snapshot), then call done; else the peer is level already: only stand by for
					   restate */
	struct layer *local;		/* the layer below the mirroring one */
	struct layer *bottom;		/* the local layer itself */
	struct objlocks *locks;
	struct handles *handles;
	struct interpose *ip;
	struct queue *queue;
	/* Ended: 0 when the peer has answered ENDED without error, else why not. From the engine's thread, so it must not call resync_stop().
	 * Called again, with an error, when a restatement on the level peer fails: it doesn't count as level any more. */
	void (*done)(void *arg, unsigned peer, int err);
	void *arg;
	/* What the peer needs beside the tree, emitted for it alone: after the scan and before the final OP_R_END, so that no peer that has answered that, or whose
	 * stream goes on from there, lacks it. From the engine's thread; may wait for room in the queue. 0, or the error with which the round ends. NULL = nothing. */
	int (*snapshot)(void *arg, unsigned peer);
	void *snapshot_arg;
};
struct resync_progress { uint64_t objects, bytes_checked, bytes_sent, dirty; bool running; };

/* Starts the engine's thread. The stream to the peer is open already. */
int resync_start(const struct resync_config *cfg, struct resync **out);
/* A report of the peer, of any kind (from link's thread: queues only). Bounded: when too much is dirty the round starts again. */
void resync_report(struct resync *r, const struct report *rep);
/* Objects that must be stated again (also after the end, on a level peer: then only these). Queues only. */
void resync_restate(struct resync *r, const uint64_t *ids, unsigned n);
void resync_progress(struct resync *r, struct resync_progress *out);
/* Is anything on its way to a level peer: restatements, or answers to its reports? */
bool resync_busy(struct resync *r);
/* Stops the engine and frees it; DONE is not called any more. Where the engine may be waiting for queue room, the queue must be stopped or the
 * peer detached before. */
void resync_stop(struct resync *r);

/* ---- the standby's side: handlers for OP_R_* ---- */
struct resync_sink;
struct resync_sink_config {
	struct layer *bottom;
	struct handles *handles;
	/* Records "inconsistent" durably (true before the first statement is applied; false after everything is durable). */
	int (*set_inconsistent)(void *arg, bool inconsistent);
	void *arg;
};
int resync_sink_new(const struct resync_sink_config *cfg, struct resync_sink **out);
void resync_sink_free(struct resync_sink *s);
/* Registers itself for OP_R_BEGIN..OP_R_END. */
void resync_sink_register(struct resync_sink *s, struct apply *a);
/* Before OP_R_BEGIN: keep every version that the comparison replaces or deletes, whole, in .tandemfs/lost/SESSION/. NULL = don't. */
int resync_sink_keep_lost(struct resync_sink *s, const char *session);

#endif
