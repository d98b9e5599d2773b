/*
 * Inside apply: what its files share.
 *
 *   apply.c         life, dispatch, outcome of an op (strict, tolerant), reports
 *   apply_names.c   ops that change names
 *   apply_objects.c ops that change objects by id
 *   apply_files.c   open files, barriers, writeback
 */
#ifndef MIRROR_APPLY_INT_H
#define MIRROR_APPLY_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "mirror/apply.h"

enum {
	ATTACH_HANDLERS_MAX = 8,
	TOLD_MAX = 4096,
	FILES_MAX = 512,		/* open files of objects written lately */
	FILES_HIGH = 384,		/* beyond so many the oldest are flushed and closed in the background */
	FILES_BATCH = 256,		/* how many at once */
	FILES_HASH = 1024,
	JOBS_MAX = 1024,		/* barriers waiting for a worker; more: applying waits */
	WORKERS_DEFAULT = 8,
	WORKERS_MAX = 64,
	MADE_MAX = 64,
	WRITEBACK_BYTES = 4 << 20,	/* after so many written bytes of one file, writeback is started */
};

/* A file that ops write to, open until it is flushed and not used any more. */
struct afile {
	uint64_t id;
	struct file *f;			/* owned */
	unsigned refs;			/* one is the cache's. This and what follows is guarded by apply.files_mu */
	uint64_t written, flushed;	/* counts of writes: dirty when they differ */
	bool cached;
	uint64_t wb_bytes;		/* written since writeback was started; the applying thread's */
	struct afile *hnext;
	struct afile *prev, *next;	/* by last use */
};

enum job_kind { JOB_BARRIER, JOB_WRITEBACK };
struct job { enum job_kind kind; bool datasync; uint64_t seq, id[3]; };

struct apply {
	struct apply_config cfg;
	_Atomic bool tolerant;
	uint64_t skipped;		/* objects reported dirty */
	uint64_t told[TOLD_MAX];	/* ids that are reported and not stated since, by id modulo; the applying thread's */
	struct { uint64_t id, parent; } made[MADE_MAX];	/* made lately, by id modulo, unchanged since, durable with their parents; the applying thread's */
	struct { apply_fn fn; void *arg; } handler[OP_TYPE_LAST + 1];
	struct { uint16_t kind; attach_fn fn; void *arg; } attach[ATTACH_HANDLERS_MAX];
	unsigned nattach;
	apply_guard_fn guard;
	void *guard_arg;
	_Atomic int flush_err;		/* the first flush error: from then on nothing is durable here */

	pthread_mutex_t files_mu;	/* guards all of the file cache; a leaf */
	pthread_cond_t files_cond;	/* some were closed */
	struct afile *hash[FILES_HASH];
	struct afile lru;		/* ring; next = used last */
	unsigned nfiles;
	bool flusher_wanted, flush_all, flusher_stop;
	pthread_cond_t flusher_cond;
	pthread_t flusher;

	pthread_mutex_t jobs_mu;	/* guards the ring of jobs; a leaf */
	pthread_cond_t jobs_cond, jobs_done;
	struct job jobs[JOBS_MAX];
	unsigned head, njobs, running, nworkers;
	bool jobs_stop;
	pthread_t worker[WORKERS_MAX];
};

/* One op being applied. */
struct applying {
	struct apply *a;
	const struct op *op;
	struct objguard g;
	struct effect eff;
	struct call call;
	bool settled;			/* settle_attr() had something to do */
};

/* The call for the layer below; UID and GID are the op's. */
void applying_call(struct applying *p);
/* Locks a name's entry. */
int applying_lock_entry(struct applying *p, uint64_t parent, const char *name, uint64_t extra);
void applying_lock_ids(struct applying *p, uint64_t id, uint64_t id2);
/* Makes what may differ legitimately equal to the op's attributes; -EUCLEAN when something else differs. */
int settle_attr(struct applying *p, uint64_t id);
void tell(struct applying *p, enum change_kind kind, uint64_t id, const char *name, uint64_t child, uint64_t off, uint64_t len);

int apply_create(struct applying *p);
int apply_remove(struct applying *p);
int apply_rename(struct applying *p);
int apply_link(struct applying *p);
int apply_purge(struct applying *p);

int apply_setattr(struct applying *p);
int apply_write(struct applying *p);
int apply_fallocate(struct applying *p);
int apply_copy(struct applying *p);
int apply_xattr(struct applying *p);
int apply_setflags(struct applying *p);

/* apply_files.c */
int files_start(struct apply *a);
void files_stop(struct apply *a);
/* The open file of ID, with a reference; opened when it isn't. */
int afile_get(struct applying *p, uint64_t id, struct afile **out);
void afile_put(struct apply *a, struct afile *f);
/* LEN bytes of F were changed. */
void afile_dirty(struct apply *a, struct afile *f, uint64_t len);
/* ID is gone: its file is closed without being flushed. */
void afile_forget(struct apply *a, uint64_t id);
/* The op made its object, which is durable when its parent is (effect.with_parent). */
void files_made(struct apply *a, const struct op *op);
/* Any op but the barriers: what it changes was perhaps just made. */
void files_changing(struct apply *a, const struct op *op);
/* Hands a barrier to the workers; waits when too many wait. */
void barrier_start(struct apply *a, const struct op *op, uint64_t seq);
void barriers_drain(struct apply *a);

#endif
