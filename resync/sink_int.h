/* The standby's side, between its files: life and ends (sink.c), names (sink_dir.c), objects (sink_obj.c). One thread: that of apply. */
#ifndef RESYNC_SINK_INT_H
#define RESYNC_SINK_INT_H

#include <pthread.h>

#include "resync/resync_int.h"

enum { KEPT_MAX = 256 << 10, PATHS_MAX = 16 << 10, TMPFILES_MAX = 16 << 10 };

/* Where an object that went to limbo was, for the names in lost/. */
struct old_path { uint64_t id; char *path; };

struct resync_sink {
	struct resync_sink_config cfg;
	struct apply *a;		/* borrowed; of the op in hand */
	const struct apply_config *ac;	/* and its configuration */
	uint64_t seq;			/* of the op in hand */
	bool round;			/* between OP_R_BEGIN and the final OP_R_END */
	bool changed;			/* something was changed since the flusher was last started */
	bool evicted;			/* something went to limbo since the last end */
	/* O_TMPFILE files that lay in limbo at OP_R_BEGIN, and those of them that the primary has still. */
	struct idset tmp_old, tmp_live;
	uint64_t reports, mark;		/* sent so far; and at the last probe */
	unsigned char *buf;		/* RESYNC_CHUNK bytes, owned */

	char *session;			/* owned; NULL = replaced versions are not kept */
	struct idset kept;		/* ids whose version is kept already, or was made by us */
	struct old_path *paths;		/* owned */
	size_t npaths;

	/* The flusher: starts writing back while the round is on, so that the end is short. */
	pthread_mutex_t mu;		/* guards flushing */
	pthread_t flusher;
	bool flushing;			/* it is at work */
	bool joinable;			/* it was started; apply's thread's */
};

/* sink.c */
void sink_report(struct resync_sink *s, struct report rep);
void sink_dirty(struct resync_sink *s, uint64_t id);
void sink_tell(struct resync_sink *s, enum change_kind kind, uint64_t id, const char *name, uint64_t child);
/* Before ID's contents are changed: its version is kept. The object may have been moved away: -ESTALE, make it again. */
int sink_keep(struct resync_sink *s, uint64_t id, uint64_t size);
void sink_made(struct resync_sink *s, uint64_t id);
/* Takes ID out of limbo for good: into lost/ when versions are kept. Not there: 0. */
int sink_purge(struct resync_sink *s, uint64_t id);
void sink_note_path(struct resync_sink *s, uint64_t id, uint64_t parent, const char *name);

/* A call of ours. STAMP: what the objects' times become where the call stamps. */
static inline struct call sink_call(struct timespec stamp)
{
	return (struct call){ .origin = ORIGIN_RESYNC, .stamp = stamp };
}
/* 0, or -ESTALE: no such object here (an index entry without an object is removed). */
int sink_known(struct resync_sink *s, uint64_t id, struct attr *a);

/* sink_dir.c */
int sink_dir(struct resync_sink *s, const struct op *op);
int sink_place(struct resync_sink *s, const struct op *op);
/* An object as OP's id, attr (type, mode, rdev) and TARGET say, in limbo. */
int sink_make_in_limbo(struct resync_sink *s, uint64_t id, const struct attr *a, const char *target);
/* Takes all names of ID away and removes it: it is not what it should be. */
int sink_forget(struct resync_sink *s, uint64_t id);

/* NAME in PARENT, which names ID here, shall not: unlinked, or (its last name, a directory) to limbo. */
int sink_evict(struct resync_sink *s, uint64_t parent, const char *name, uint64_t id);

/* sink_stray.c */
/* Moves what is in directory ID without being part of the volume to lost/strays. */
int sink_strays(struct resync_sink *s, uint64_t id);
/* Takes away those names below directory ROOT whose files have others. */
int sink_unlink_shared(struct resync_sink *s, uint64_t root);

/* sink_obj.c */
int sink_attr(struct resync_sink *s, const struct op *op);
int sink_xattr(struct resync_sink *s, const struct op *op);
int sink_check(struct resync_sink *s, const struct op *op);
int sink_data(struct resync_sink *s, const struct op *op);
/* Makes ID's attributes those of WANT where they differ from CUR. */
int sink_set_attr(struct resync_sink *s, uint64_t id, const struct attr *cur, const struct attr *want);

#endif
