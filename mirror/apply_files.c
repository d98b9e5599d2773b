/*
 * Files of the applying side: a cache of open files of objects written lately, the workers that answer barriers, the flusher.
 *
 * A file stays open from its first write until it was flushed without error and is old: the kernel tells an error of writing back to those
 * who have the file open, once. When too many are open, the flusher takes the oldest half: one syncfs for all of them (many fsyncs of small
 * files would each cost a commit), then an fsync of each, which finds nothing to do and tells of errors, then they are closed. A full cache makes
 * applying wait for that. apply_drain, at the end of a stream, has all of them flushed and closed in the same way, in the background: the
 * node may be primary by then, and what users delete must not be kept by us.
 *
 * written and flushed count: a flush that began when written was W sets flushed to W, so a write during the flush keeps the file dirty.
 *
 * The first error is kept (flush_err): every later op and barrier fails with it; the standby has left the sync set and is inconsistent. Only a
 * comparison of everything clears it (apply_recover), which must read the disk: after a failed flush the kernel calls the pages clean that it could
 * not write, and their contents would compare equal.
 *
 * Threads: the applying one; nworkers for jobs; one flusher. Locks: files_mu and jobs_mu, leaves, never both, never across a call that
 * blocks.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "fs/base/log.h"
#include "mirror/apply_int.h"

static void flush_failed(struct apply *a, uint64_t id, int err)
{
	int none = 0;

	if (atomic_compare_exchange_strong(&a->flush_err, &none, err))
		log_error("apply: %016llx: flush: %s: nothing is promised by this node any more; check its disk, then resync", (unsigned long long)id,
			  strerror(-err));
}

/* ---- the cache ---- */

static struct afile **slot(struct apply *a, uint64_t id) { return &a->hash[(id * UINT64_C(0x9e3779b97f4a7c15)) >> 54]; }

static struct afile *find(struct apply *a, uint64_t id)
{
	struct afile *f = *slot(a, id);

	while (f && f->id != id)
		f = f->hnext;
	return f;
}

static void lru_remove(struct afile *f)
{
	f->prev->next = f->next;
	f->next->prev = f->prev;
}

static void lru_first(struct apply *a, struct afile *f)
{
	f->next = a->lru.next;
	f->prev = &a->lru;
	f->next->prev = f;
	a->lru.next = f;
}

static void cache_remove(struct apply *a, struct afile *f)
{
	struct afile **at = slot(a, f->id);

	while (*at != f)
		at = &(*at)->hnext;
	*at = f->hnext;
	lru_remove(f);
	f->cached = false;
	f->refs--;
	a->nfiles--;
}

static void close_file(struct apply *a, struct afile *f)
{
	struct layer *l = a->cfg.local;
	struct call c = { .origin = ORIGIN_APPLY };

	l->ops->release(l, &c, f->f);
	free(f);
}

void afile_put(struct apply *a, struct afile *f)
{
	pthread_mutex_lock(&a->files_mu);
	bool last = !--f->refs;
	pthread_mutex_unlock(&a->files_mu);
	if (last)
		close_file(a, f);
}

static struct afile *lookup_ref(struct apply *a, uint64_t id, bool use)
{
	auto_lock(&a->files_mu);
	struct afile *f = find(a, id);
	if (!f)
		return NULL;
	f->refs++;
	if (use) {
		lru_remove(f);
		lru_first(a, f);
	}
	return f;
}

/* A clean file that nobody uses, off the cache; NULL = none among the oldest. */
static struct afile *take_clean(struct apply *a)
{
	struct afile *f = a->lru.prev;

	for (unsigned i = 0; i < 8 && f != &a->lru; i++, f = f->prev)
		if (f->refs == 1 && f->written == f->flushed) {
			cache_remove(a, f);
			return f;
		}
	return NULL;
}

/* Room for one more: closes a clean one, or has the flusher make room. */
static void make_room(struct apply *a)
{
	struct afile *old = NULL;

	pthread_mutex_lock(&a->files_mu);
	if (a->nfiles >= FILES_HIGH)
		old = take_clean(a);
	if (a->nfiles >= FILES_HIGH) {
		a->flusher_wanted = true;
		pthread_cond_signal(&a->flusher_cond);
	}
	while (a->nfiles >= FILES_MAX && !atomic_load(&a->flush_err))
		pthread_cond_wait(&a->files_cond, &a->files_mu);
	pthread_mutex_unlock(&a->files_mu);
	if (old)
		close_file(a, old);
}

int afile_get(struct applying *p, uint64_t id, struct afile **out)
{
	struct apply *a = p->a;
	struct layer *l = a->cfg.local;
	struct afile *f = lookup_ref(a, id, true);

	if ((*out = f))
		return 0;
	make_room(a);
	f = calloc(1, sizeof *f);
	if (!f)
		return -ENOMEM;
	int err = l->ops->open(l, &p->call, id, O_RDWR, &f->f);
	if (err) {
		free(f);
		return err;
	}
	f->id = id;
	f->refs = 2;
	f->cached = true;
	auto_lock(&a->files_mu);
	f->hnext = *slot(a, id);
	*slot(a, id) = f;
	lru_first(a, f);
	a->nfiles++;
	*out = f;
	return 0;
}

void afile_forget(struct apply *a, uint64_t id)
{
	pthread_mutex_lock(&a->files_mu);
	struct afile *f = find(a, id);
	bool last = false;
	if (f) {
		cache_remove(a, f);
		last = !f->refs;
		pthread_cond_broadcast(&a->files_cond);
	}
	pthread_mutex_unlock(&a->files_mu);
	if (last)
		close_file(a, f);
}

/* ---- flushing ---- */

static uint64_t written_now(struct apply *a, const struct afile *f)
{
	auto_lock(&a->files_mu);
	return f->written;
}

static int flush_file(struct apply *a, struct afile *f, bool datasync)
{
	struct layer *l = a->cfg.local;
	struct call c = { .origin = ORIGIN_APPLY };
	uint64_t written = written_now(a, f);
	int err = l->ops->fsync(l, &c, f->id, f->f, datasync);

	if (err) {
		flush_failed(a, f->id, err);
		return err;
	}
	auto_lock(&a->files_mu);
	if (f->flushed < written)
		f->flushed = written;
	return 0;
}

/* Object ID, whatever it is; one that is gone needs no flush. */
static int flush_object(struct apply *a, uint64_t id, bool datasync)
{
	struct layer *l = a->cfg.local;
	struct call c = { .origin = ORIGIN_APPLY };
	struct afile *f = lookup_ref(a, id, false);

	if (f) {
		int err = flush_file(a, f, datasync);
		afile_put(a, f);
		return err;
	}
	int err = l->ops->fsync(l, &c, id, NULL, datasync);
	if (err == -ESTALE || err == -ENOENT)
		return 0;
	if (err)
		flush_failed(a, id, err);
	return err;
}

/* The oldest files, a reference each. */
static unsigned oldest(struct apply *a, struct afile **batch, unsigned max)
{
	unsigned n = 0;

	for (struct afile *f = a->lru.prev; f != &a->lru && n < max; f = f->prev) {
		f->refs++;
		batch[n++] = f;
	}
	return n;
}

/* After a flush: closes it when nobody has used it since. */
static void retire(struct apply *a, struct afile *f)
{
	pthread_mutex_lock(&a->files_mu);
	f->refs--;
	if (f->cached && f->refs == 1 && f->written == f->flushed)
		cache_remove(a, f);
	bool last = !f->refs;
	pthread_mutex_unlock(&a->files_mu);
	if (last)
		close_file(a, f);
}

static void flush_batch(struct apply *a, struct afile **batch, unsigned n)
{
	int err = local_syncfs(a->cfg.bottom);

	if (err)
		flush_failed(a, 0, err);
	for (unsigned i = 0; i < n; i++) {
		flush_file(a, batch[i], true);
		retire(a, batch[i]);
	}
	auto_lock(&a->files_mu);
	pthread_cond_broadcast(&a->files_cond);
}

static void *flusher_main(void *arg)
{
	struct apply *a = arg;
	struct afile *batch[FILES_BATCH];

	pthread_mutex_lock(&a->files_mu);
	while (!a->flusher_stop) {
		bool wanted = a->flusher_wanted || (a->flush_all && a->nfiles);
		if (!wanted || atomic_load(&a->flush_err)) {
			pthread_cond_broadcast(&a->files_cond);
			pthread_cond_wait(&a->flusher_cond, &a->files_mu);
			continue;
		}
		a->flusher_wanted = false;
		a->flush_all &= a->nfiles > FILES_BATCH;
		unsigned n = oldest(a, batch, FILES_BATCH);
		pthread_mutex_unlock(&a->files_mu);
		flush_batch(a, batch, n);
		pthread_mutex_lock(&a->files_mu);
	}
	pthread_mutex_unlock(&a->files_mu);
	return NULL;
}

bool apply_flush_failed(const struct apply *a) { return atomic_load(&a->flush_err); }

/* Every clean page of the machine: which files the failed flush was about nobody can say. */
static int drop_page_cache(void)
{
	auto_fd int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	return write(fd, "1", 1) == 1 ? 0 : -errno;
}

int apply_recover(struct apply *a)
{
	if (!apply_flush_failed(a))
		return 0;
	for (;;) {
		pthread_mutex_lock(&a->files_mu);
		struct afile *f = a->nfiles ? a->lru.prev : NULL;
		if (f)
			cache_remove(a, f);
		bool last = f && !f->refs;
		pthread_mutex_unlock(&a->files_mu);
		if (!f)
			break;
		if (last)
			close_file(a, f);
	}
	int err = drop_page_cache();
	if (err) {
		log_error("apply: the page cache can't be dropped after a failed flush: %s: restart this machine, then this node", strerror(-err));
		return err;
	}
	atomic_store(&a->flush_err, 0);
	log_warn("apply: after a failed flush: this node's data are read again from the disk and compared");
	return 0;
}

/* ---- jobs ---- */

static void run_barrier(struct apply *a, const struct job *j)
{
	int err = 0;

	for (unsigned i = 0; !err && i < ARRAY_LEN(j->id); i++)
		if (j->id[i])
			err = flush_object(a, j->id[i], j->datasync);
	if (!err)
		err = atomic_load(&a->flush_err);
	if (a->cfg.barrier_done)
		a->cfg.barrier_done(a->cfg.arg, j->seq, err);
}

/* Best effort: an error here shows again at the flush. */
static void run_writeback(struct apply *a, const struct job *j)
{
	auto_fd int fd = local_open_fd(a->cfg.bottom, j->id[0], O_RDONLY);

	if (fd >= 0 && sync_file_range(fd, 0, 0, SYNC_FILE_RANGE_WRITE) < 0)
		log_debug("apply: %016llx: writeback: %s", (unsigned long long)j->id[0], strerror(errno));
}

static void *worker_main(void *arg)
{
	struct apply *a = arg;

	pthread_mutex_lock(&a->jobs_mu);
	for (;;) {
		while (!a->njobs && !a->jobs_stop)
			pthread_cond_wait(&a->jobs_cond, &a->jobs_mu);
		if (!a->njobs)
			break;
		struct job j = a->jobs[a->head];
		a->head = (a->head + 1) % JOBS_MAX;
		a->njobs--;
		a->running++;
		pthread_mutex_unlock(&a->jobs_mu);
		if (j.kind == JOB_BARRIER)
			run_barrier(a, &j);
		else
			run_writeback(a, &j);
		pthread_mutex_lock(&a->jobs_mu);
		a->running--;
		pthread_cond_broadcast(&a->jobs_done);
	}
	pthread_mutex_unlock(&a->jobs_mu);
	return NULL;
}

static void job_add(struct apply *a, const struct job *j)
{
	auto_lock(&a->jobs_mu);
	while (a->njobs == JOBS_MAX) {
		if (j->kind == JOB_WRITEBACK)
			return;
		pthread_cond_wait(&a->jobs_done, &a->jobs_mu);
	}
	a->jobs[(a->head + a->njobs++) % JOBS_MAX] = *j;
	pthread_cond_signal(&a->jobs_cond);
}

void files_made(struct apply *a, const struct op *op)
{
	a->made[op->id % MADE_MAX].id = op->id;
	a->made[op->id % MADE_MAX].parent = op->parent;
}

void files_changing(struct apply *a, const struct op *op)
{
	const uint64_t ids[] = { op->id, op->id2 };

	for (unsigned i = 0; i < ARRAY_LEN(ids); i++)
		if (ids[i] && a->made[ids[i] % MADE_MAX].id == ids[i])
			a->made[ids[i] % MADE_MAX].id = 0;
}

void barrier_start(struct apply *a, const struct op *op, uint64_t seq)
{
	bool with_parent = op->id && op->parent && a->made[op->id % MADE_MAX].id == op->id && a->made[op->id % MADE_MAX].parent == op->parent;

	job_add(a, &(struct job){ .kind = JOB_BARRIER, .datasync = op->flags & OP_FSYNC_DATA, .seq = seq,
				  .id = { with_parent ? 0 : op->id, op->id2, op->parent } });
}

void barriers_drain(struct apply *a)
{
	pthread_mutex_lock(&a->jobs_mu);
	while (a->njobs || a->running)
		pthread_cond_wait(&a->jobs_done, &a->jobs_mu);
	pthread_mutex_unlock(&a->jobs_mu);
	auto_lock(&a->files_mu);
	a->flush_all = true;
	pthread_cond_signal(&a->flusher_cond);
}

void afile_dirty(struct apply *a, struct afile *f, uint64_t len)
{
	pthread_mutex_lock(&a->files_mu);
	f->written++;
	pthread_mutex_unlock(&a->files_mu);
	f->wb_bytes += len;
	if (f->wb_bytes < WRITEBACK_BYTES)
		return;
	f->wb_bytes = 0;
	job_add(a, &(struct job){ .kind = JOB_WRITEBACK, .id = { f->id } });
}

/* ---- life ---- */

static void stop_workers(struct apply *a)
{
	pthread_mutex_lock(&a->jobs_mu);
	a->jobs_stop = true;
	pthread_cond_broadcast(&a->jobs_cond);
	pthread_mutex_unlock(&a->jobs_mu);
	while (a->nworkers)
		pthread_join(a->worker[--a->nworkers], NULL);
}

static void stop_flusher(struct apply *a)
{
	pthread_mutex_lock(&a->files_mu);
	a->flusher_stop = true;
	pthread_cond_signal(&a->flusher_cond);
	pthread_mutex_unlock(&a->files_mu);
	pthread_join(a->flusher, NULL);
}

static void destroy(struct apply *a)
{
	pthread_mutex_destroy(&a->files_mu);
	pthread_mutex_destroy(&a->jobs_mu);
	pthread_cond_destroy(&a->files_cond);
	pthread_cond_destroy(&a->flusher_cond);
	pthread_cond_destroy(&a->jobs_cond);
	pthread_cond_destroy(&a->jobs_done);
}

int files_start(struct apply *a)
{
	unsigned want = a->cfg.fsync_workers ? a->cfg.fsync_workers : WORKERS_DEFAULT;

	pthread_mutex_init(&a->files_mu, NULL);
	pthread_mutex_init(&a->jobs_mu, NULL);
	pthread_cond_init(&a->files_cond, NULL);
	pthread_cond_init(&a->flusher_cond, NULL);
	pthread_cond_init(&a->jobs_cond, NULL);
	pthread_cond_init(&a->jobs_done, NULL);
	a->lru.next = a->lru.prev = &a->lru;
	int err = -pthread_create(&a->flusher, NULL, flusher_main, a);
	if (err) {
		destroy(a);
		return err;
	}
	for (; !err && a->nworkers < want && a->nworkers < WORKERS_MAX; a->nworkers += !err)
		err = -pthread_create(&a->worker[a->nworkers], NULL, worker_main, a);
	if (err) {
		stop_workers(a);
		stop_flusher(a);
		destroy(a);
	}
	return err;
}

/* Closing means flushing: what is still dirty goes out in batches. */
void files_stop(struct apply *a)
{
	struct afile *batch[FILES_BATCH];

	barriers_drain(a);
	stop_workers(a);
	stop_flusher(a);
	while (a->nfiles) {
		unsigned n = oldest(a, batch, FILES_BATCH);
		if (!atomic_load(&a->flush_err))
			flush_batch(a, batch, n);
		else
			for (unsigned i = 0; i < n; i++) {
				batch[i]->flushed = batch[i]->written;	/* lost already, and known to be */
				retire(a, batch[i]);
			}
	}
	destroy(a);
}
