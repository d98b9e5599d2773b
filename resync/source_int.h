/* The primary's side, between its files: the engine (source.c) and what it says of one object (state.c). */
#ifndef RESYNC_SOURCE_INT_H
#define RESYNC_SOURCE_INT_H

#include <pthread.h>

#include "resync/resync_int.h"

enum {
	DIRTY_MAX = 128 << 10,		/* objects to be stated again; more: the round starts again */
	TASKS_MAX = 128 << 10,		/* answers to reports */
	SCAN_IDS = 64 << 10,		/* ids read from the index at a time */
	PROBES_MAX = 4,			/* unanswered probes: flow control */
	PROBE_COST = 640,		/* names, objects, MiB stated between two probes. Four times this and a range of names stays below what
					   the control connection lets wait (LINK_BACKLOG_MAX) */
	SAID_MAX = 16 << 10,
	FIXES_MAX = 64,			/* xattr fixes of one object within a round before we give up */
	FREE_PASSES = 4,		/* before writers are restrained: to RESTRAINT_MAX bytes ahead of the peer, a quarter of that, …, RESTRAINT_MIN, when they */
	RESTRAINT_MAX = 1 << 20,	/* are held, too */
	RESTRAINT_MIN = 1 << 10,
	HOLD_MS = 1000,			/* so long; twice as long the next time */
	HOLD_MAX_MS = 8000,
	REST_MS = 8000,			/* when that was no use, writers are let near RESTRAINT_MAX for so long; twice as long the next time. (queue_hold has */
	REST_MAX_MS = 600000,		/* a bound of its own, for all engines together) */
};

/* How writers are kept from spoiling the end of a round. */
struct push {
	unsigned passes;		/* so far */
	uint64_t behind;		/* bytes; 0 = not restrained */
	uint64_t hold_end, rest_end;	/* clock_mono_ms; 0 = not held, no rest */
	unsigned hold_ms, rest_ms;	/* of the next hold, and of the rest behind it */
};

/* An answer to a report. */
struct task {
	struct task *next;
	uint8_t kind;			/* enum report_kind: REPORT_MISSING, REPORT_XATTR or REPORT_DATA */
	uint64_t id, parent, off, bits;
	char name[];			/* REPORT_MISSING */
};

struct resync {
	struct resync_config cfg;
	pthread_t thread;

	pthread_mutex_t mu;		/* guards all of this group */
	pthread_cond_t cond;		/* a report, a restatement, stop */
	bool stop, overflow;
	bool serving;			/* what a level peer asked for, or was to be restated, is being stated */
	struct idset dirty;
	struct task *tasks, **tasks_end;	/* owned */
	size_t ntasks;
	bool scanning, fetching;	/* a scan of the index is on; its next ids are being read */
	uint64_t at;			/* the scan's last id */
	uint64_t probe[PROBES_MAX];	/* seqs of unanswered OP_R_ENDs, oldest first */
	unsigned nprobes;
	uint64_t answered;		/* the newest OP_R_END that was answered, and */
	bool refused;			/* how: something is dirty there */
	struct resync_progress progress;

	/* the engine's own */
	uint64_t *scan;			/* SCAN_IDS ids, owned; read under MU by others, changed under it */
	size_t nscan, iscan;
	unsigned cost;			/* stated since the last OP_R_END */
	uint64_t asked;			/* seq of the last OP_R_END */
	bool stated;			/* something was, since ask() */
	struct push push;
	bool snapshot_sent;
	struct { uint64_t id; unsigned n; } fixes[256];
	/* When an object's last statement began: what was reported of it before that is answered. By id modulo; guarded by MU. */
	struct { uint64_t id, seq; } said[SAID_MAX];
	struct enc enc;			/* blobs and lists */
	unsigned char *buf;		/* RESYNC_CHUNK bytes, owned */
};

/* state.c: statements. 0 also when the object is gone; other errors end the round. They wait for queue room, never under a lock. */
int state_object(struct resync *r, uint64_t id);
int state_missing(struct resync *r, const struct task *t);
int state_xattrs(struct resync *r, uint64_t id);
int state_data(struct resync *r, uint64_t id, uint64_t off, uint64_t bits);

/* source.c, for state.c. Sends OP to the peer; COST beyond 1 for the op itself, in names or MiB. */
int source_emit(struct resync *r, struct op *op, unsigned cost);
/* Between two statements of one object, no lock held: answers reports, waits for the peer, tells when to stop (-ESHUTDOWN) or to begin
 * again (-EOVERFLOW). */
int source_breathe(struct resync *r);

#endif
