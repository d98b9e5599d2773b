/*
 * The rebuild: a walk of the backing directory that puts into the index whatever bears a mark of this volume.
 *
 * WALK_THREADS threads take directories from a stack (depth first keeps it short), open each by its local handle, and
 * look at every entry through an O_PATH descriptor. A directory enters the index when all its entries were seen, so that its
 * number of sub-directories is right from the first moment: whoever wants to change the directory asks the index for it first,
 * and waits. The root is counted before handles_open returns, because others hold its descriptor already.
 *
 * A directory that moves while it waits on the stack is found by its handle all the same; an object that moves was
 * asked for (index_get) by the one who moves it, so it was found before. What is unmarked, a copy, or another volume's, gets no entry, but
 * directories of that kind are walked: objects of ours may have been moved into them behind our back.
 *
 * Other mounts and subvolumes are not entered. Of .tandemfs only limbo is walked: a regular file there without a second name
 * counts as made by O_TMPFILE. ctime is not kept on the object: the local one serves, marked HENTRY_CTIME_LOST.
 *
 * A walk that met errors ends as well (those who wait get ESTALE for what it didn't find), but the index isn't called complete:
 * the next start walks again.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "handles/internal.h"

enum { WALK_THREADS = 4, WALK_RETRY_MS = 1000 };

enum job_kind { JOB_DIR, JOB_ROOT, JOB_LIMBO };
struct job {
	enum job_kind kind;
	struct hentry e;		/* of the directory; id 0: it gets no entry (here) */
};

struct walk {
	struct handles *h;		/* borrowed */
	dev_t dev;
	_Atomic uint64_t found, errors;
	_Atomic bool stop;

	pthread_mutex_t lock;		/* guards all below */
	pthread_cond_t more;
	struct job *jobs;		/* owned; a stack */
	size_t njobs, cap;
	unsigned busy;			/* threads that may still push */
	bool ended;

	pthread_t threads[WALK_THREADS];
	unsigned nthreads;
};

static void trouble(struct walk *w, const char *what, int r)
{
	atomic_fetch_add(&w->errors, 1);
	log_error("handles: rebuild: %s: %s", what, strerror(-r));
}

static int push(struct walk *w, enum job_kind kind, const struct hentry *e)
{
	auto_lock(&w->lock);
	if (w->njobs == w->cap) {
		size_t cap = w->cap ? w->cap * 2 : 256;
		struct job *p = realloc(w->jobs, cap * sizeof *p);
		if (!p)
			return -ENOMEM;
		w->jobs = p;
		w->cap = cap;
	}
	w->jobs[w->njobs++] = (struct job){ .kind = kind, .e = *e };
	pthread_cond_signal(&w->more);
	return 0;
}

static void put(struct walk *w, const struct hentry *e)
{
	int r;

	while ((r = index_put_found(&w->h->ix, e)) && !atomic_load(&w->stop)) {
		struct timespec at = clock_mono_after_ms(WALK_RETRY_MS);
		auto_lock(&w->lock);
		pthread_cond_timedwait(&w->more, &w->lock, &at);
	}
	if (!r)
		atomic_fetch_add(&w->found, 1);
}

/* ---- one entry of a directory ---- */

static int open_entry(int dfd, const char *name)
{
	struct open_how how = { .flags = O_PATH | O_NOFOLLOW | O_CLOEXEC, .resolve = RESOLVE_NO_XDEV };

	int fd = (int)syscall(SYS_openat2, dfd, name, &how, sizeof how);
	return fd < 0 ? -errno : fd;
}

static bool has_default_acl(int fd)
{
	char path[32];

	snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
	return getxattr(path, "system.posix_acl_default", NULL, 0) > 0;
}

/* Fills E for the object behind FD; id 0 when it bears no mark that counts. -EXDEV: another file system. */
static int inspect(struct walk *w, int fd, struct hentry *e, struct stat *st)
{
	*e = (struct hentry){ .flags = HENTRY_CTIME_LOST };
	if (fstat(fd, st))
		return -errno;
	if (st->st_dev != w->dev)
		return -EXDEV;
	e->ino = st->st_ino;
	e->type = st->st_mode & S_IFMT;
	e->ctime = st->st_ctim;
	int r = mark_get(w->h, fd, &e->id, &e->lh);
	if (r == -ENODATA || r == -EXDEV || r == -ESTALE) {
		e->id = 0;
		r = S_ISDIR(st->st_mode) ? local_handle_of(fd, &e->lh) : 0;
	}
	if (!r && S_ISDIR(st->st_mode) && has_default_acl(fd))
		e->flags |= HENTRY_DEFACL;
	return r;
}

static bool is_gone(int r)
{
	return r == -ENOENT || r == -ESTALE || r == -EXDEV;
}

/* A sub-directory of ours counts; anything else of ours gets its entry; directories are pushed. */
static int visit(struct walk *w, enum job_kind kind, int dfd, const char *name, uint32_t *nsub)
{
	struct hentry e;
	struct stat st;

	auto_fd int fd = open_entry(dfd, name);
	if (fd < 0)
		return fd;
	int r = inspect(w, fd, &e, &st);
	if (r)
		return r;
	if (S_ISDIR(st.st_mode)) {
		*nsub += e.id != 0;
		return push(w, JOB_DIR, &e);
	}
	if (kind == JOB_LIMBO && S_ISREG(st.st_mode) && st.st_nlink == 1)
		e.flags |= HENTRY_TMPFILE;
	if (e.id)
		put(w, &e);
	return 0;
}

static bool skipped(enum job_kind kind, const char *name)
{
	return !strcmp(name, ".") || !strcmp(name, "..") || (kind == JOB_ROOT && !strcmp(name, HIDDEN_DIR));
}

/* ---- directories ---- */

static int open_job(struct walk *w, const struct job *j)
{
	if (j->kind != JOB_ROOT)
		return local_handle_open(w->h, &j->e.lh, O_RDONLY | O_DIRECTORY | O_NOATIME);
	int fd = openat(w->h->cfg.root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int scan(struct walk *w, const struct job *j, uint32_t *nsub)
{
	struct dirent *de;

	int fd = open_job(w, j);
	if (fd < 0)
		return fd;
	DIR *d = fdopendir(fd);
	if (!d) {
		int r = -errno;
		close(fd);
		return r;
	}
	while (errno = 0, !atomic_load(&w->stop) && (de = readdir(d))) {
		int r = skipped(j->kind, de->d_name) ? 0 : visit(w, j->kind, dirfd(d), de->d_name, nsub);
		if (r && !is_gone(r))
			trouble(w, de->d_name, r);
	}
	int r = -errno;
	closedir(d);
	return atomic_load(&w->stop) ? 0 : r;
}

static void run_job(struct walk *w, struct job *j)
{
	uint32_t nsub = 0;

	int r = scan(w, j, &nsub);
	if (r && !is_gone(r))
		trouble(w, "a directory can't be read", r);
	if (!j->e.id || j->kind != JOB_DIR || is_gone(r) || atomic_load(&w->stop))
		return;
	j->e.nsub = nsub;
	put(w, &j->e);
}

/* Waits for a job; false when there will be none. *LAST: this thread was the one that saw the end. */
static bool pop(struct walk *w, struct job *j, bool *last)
{
	auto_lock(&w->lock);
	w->busy--;
	while (!w->njobs && w->busy && !atomic_load(&w->stop))
		pthread_cond_wait(&w->more, &w->lock);
	if (atomic_load(&w->stop))
		return false;
	if (!w->njobs) {
		*last = !w->ended;
		w->ended = true;
		pthread_cond_broadcast(&w->more);
		return false;
	}
	*j = w->jobs[--w->njobs];
	w->busy++;
	return true;
}

static void *walker(void *arg)
{
	struct walk *w = arg;
	struct job j;
	bool last = false;

	while (pop(w, &j, &last))
		run_job(w, &j);
	if (last)
		handles_rebuild_done(w->h, !atomic_load(&w->errors));
	return NULL;
}

/* ---- start and end ---- */

/* Is NAME in DFD a sub-directory of ours; with INDEXED: one that the index knows? */
static bool is_subdir(struct walk *w, int dfd, const char *name, bool indexed)
{
	struct hentry e, known;
	struct stat st;

	auto_fd int fd = open_entry(dfd, name);
	if (fd < 0 || inspect(w, fd, &e, &st) || !S_ISDIR(st.st_mode) || !e.id)
		return false;
	return !indexed || !index_get(w->h, e.id, &known);
}

/* Counts sub-directories of ours; nothing else is looked at. */
static int count(struct walk *w, const struct job *j, bool indexed, uint32_t *nsub)
{
	struct dirent *de;

	*nsub = 0;
	int dfd = open_job(w, j);
	if (dfd < 0)
		return dfd;
	DIR *d = fdopendir(dfd);
	if (!d) {
		int r = -errno;
		close(dfd);
		return r;
	}
	while (errno = 0, (de = readdir(d))) {
		if (skipped(j->kind, de->d_name) || (de->d_type != DT_DIR && de->d_type != DT_UNKNOWN))
			continue;
		*nsub += is_subdir(w, dirfd(d), de->d_name, indexed);
	}
	int r = -errno;
	closedir(d);
	return r;
}

int walk_count(struct handles *h, const struct hentry *e, uint32_t *nsub)
{
	struct job j = { .kind = e->id == HANDLE_ROOT ? JOB_ROOT : JOB_DIR, .e = *e };
	struct walk w = { .h = h };
	struct stat st;

	if (fstat(h->cfg.root_fd, &st))
		return -errno;
	w.dev = st.st_dev;
	return count(&w, &j, true, nsub);
}

static int begin(struct walk *w)
{
	struct hentry e, limbo;
	struct stat st;

	int root_fd = w->h->cfg.root_fd;
	if (fstat(root_fd, &st))
		return -errno;
	w->dev = st.st_dev;
	int r = inspect(w, root_fd, &e, &st);
	if (!r)
		r = count(w, &(struct job){ .kind = JOB_ROOT }, false, &e.nsub);
	if (!r && e.id == HANDLE_ROOT)
		put(w, &e);
	if (!r)
		r = push(w, JOB_ROOT, &e);
	auto_fd int fd = openat(root_fd, HIDDEN_DIR "/limbo", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (!r && fd >= 0 && !inspect(w, fd, &limbo, &st))
		r = push(w, JOB_LIMBO, &limbo);
	return r;
}

int walk_start(struct handles *h, struct walk **out)
{
	struct walk *w = calloc(1, sizeof *w);

	if (!w)
		return -ENOMEM;
	w->h = h;
	w->busy = WALK_THREADS;
	pthread_mutex_init(&w->lock, NULL);
	cond_init_mono(&w->more);
	int r = begin(w);
	while (!r && w->nthreads < WALK_THREADS) {
		r = -pthread_create(&w->threads[w->nthreads], NULL, walker, w);
		w->nthreads += !r;
	}
	if (r)
		walk_stop(w);
	else
		*out = w;
	return r;
}

uint64_t walk_found(struct walk *w)
{
	return atomic_load(&w->found);
}

void walk_stop(struct walk *w)
{
	pthread_mutex_lock(&w->lock);
	atomic_store(&w->stop, true);
	pthread_cond_broadcast(&w->more);
	pthread_mutex_unlock(&w->lock);
	for (unsigned i = 0; i < w->nthreads; i++)
		pthread_join(w->threads[i], NULL);
	pthread_mutex_destroy(&w->lock);
	pthread_cond_destroy(&w->more);
	free(w->jobs);
	free(w);
}
