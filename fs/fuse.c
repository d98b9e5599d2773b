/*
 * The life of a mount: mounting by mount(2), the threads, the end.
 *
 * libfuse parses requests and formats replies; reading /dev/fuse is ours, because the receive buffer of a WRITE is a block that the send queues may keep,
 * and because some requests want rewriting before libfuse sees them (fuse_raw.c).
 *
 * Threads: each reads a request, works on it and answers it; there is no hand-over. When the last idle one takes a request another is started, up to the bound. They
 * end when the read says ENODEV: the kernel has let go of the mount. The last one to end tells `gone`, unless fuse_front_stop is at work.
 *
 * Caches: the kernel may keep attributes and entries (also absent ones) for an hour, because nothing changes behind its back without the observers hearing
 * of it (fuse_inval.c). The writeback cache stays off: it would hide writes from the mirror.
 */
#include "fs/fuse.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "fs/fuse_blk.h"
#include "fs/fuse_front.h"
#include "handles/handles.h"

#define FUSE_FS_TYPE "fuse.tandemfs"
#define FUSE_BLK_TYPE "fuseblk.tandemfs"
#define CUT_SIGNAL (SIGRTMIN + 7)
enum { LINGER_MS = 5000, CUT_AGAIN_MS = 50, BLK_SIZE = 4096 };

_Thread_local struct fuse_worker *fuse_self;

/* ---- threads ---- */

static void spawn(struct fuse_front *f);

static void process(struct fuse_worker *w, size_t len)
{
	struct fuse_buf b = { .size = len, .mem = w->blk->data };
	int r = fuse_raw_request(w, len);
	bool gives = !r && fuse_raw_gives_entries(w);

	if (gives)
		atomic_fetch_add(&w->f->giving, 1);
	if (r < 0)
		log_error("fuse: %s: the kernel sent a request that is none (%zu bytes)", w->f->cfg.mount_point, len);
	else if (!r)
		fuse_session_process_buf(w->f->se, &b);
	if (gives)
		atomic_fetch_sub(&w->f->giving, 1);
}

/* A queue keeps the block: take another. */
static void renew_block(struct fuse_worker *w)
{
	struct blk *b;

	if (atomic_load_explicit(&w->blk->refs, memory_order_acquire) == 1)
		return;
	while (!(b = blk_new(FUSE_BUF_SIZE)))
		nanosleep(&(struct timespec){ .tv_nsec = 10000000 }, NULL);	/* memory comes back when the queue drains */
	blk_unref(w->blk);
	w->blk = b;
}

/* Until the mount has ended. */
static void serve(struct fuse_worker *w)
{
	struct fuse_front *f = w->f;

	for (;;) {
		ssize_t n = read(f->dev_fd, w->blk->data, FUSE_BUF_SIZE);

		if (n < 0 && errno == EINTR && f->cut)
			return;
		if (n < 0 && (errno == EINTR || errno == EAGAIN || errno == ENOENT))
			continue;	/* ENOENT: its caller went away first */
		if (n < 0 && errno != ENODEV)
			log_error("fuse: %s: can't read requests: %s", f->cfg.mount_point, strerror(errno));
		if (n <= 0)
			return;
		if (atomic_fetch_sub(&f->idle, 1) == 1)
			spawn(f);
		process(w, (size_t)n);
		renew_block(w);
		atomic_fetch_add(&f->idle, 1);
	}
}

static void ended(struct fuse_front *f)
{
	bool tell;

	pthread_mutex_lock(&f->mu);
	f->live--;
	tell = !f->live && !f->stopping && !f->told_gone;
	f->told_gone |= tell;
	if (!f->live)
		pthread_cond_broadcast(&f->all_ended);
	pthread_mutex_unlock(&f->mu);
	if (!tell)
		return;
	lock_cancel_front(f->cfg.locks, ORIGIN_FUSE, -EINTR);
	log_info("fuse: %s: unmounted", f->cfg.mount_point);
	if (f->cfg.gone)
		f->cfg.gone(f->cfg.arg);
}

static void *worker_main(void *arg)
{
	struct fuse_worker w = { .f = arg, .blk = blk_new(FUSE_BUF_SIZE) };

	fuse_self = &w;
	if (w.blk)
		serve(&w);
	else
		log_error("fuse: %s: no memory for a thread", w.f->cfg.mount_point);
	fuse_self = NULL;
	blk_unref(w.blk);
	free(w.out);
	ended(w.f);
	return NULL;
}

static int spawn_locked(struct fuse_front *f)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	sigdelset(&all, CUT_SIGNAL);
	pthread_sigmask(SIG_BLOCK, &all, &old);
	r = pthread_create(&f->thread[f->nthreads], NULL, worker_main, f);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r)
		return -r;
	f->nthreads++;
	f->live++;
	atomic_fetch_add(&f->idle, 1);
	return 0;
}

/* One thread more, when the bound allows it; fewer are no failure. */
static void spawn(struct fuse_front *f)
{
	auto_lock(&f->mu);
	if (f->nthreads < f->cfg.threads && !f->stopping)
		spawn_locked(f);
}

/* ---- mount table ---- */

/* mountinfo writes blanks and backslashes in octal. */
static void unescape(char *s)
{
	char *d = s;

	for (; *s; s++, d++) {
		*d = *s;
		if (*s == '\\' && s[1] && s[2] && s[3]) {
			*d = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
			s += 3;
		}
	}
	*d = '\0';
}

/* The type of the topmost mount at PATH; "" = not a mount point. */
static int mount_type_at(const char *path, char *type, size_t size)
{
	FILE *fp = fopen("/proc/self/mountinfo", "re");
	char line[8192], point[PATH_MAX], *rest;

	if (!fp)
		return -errno;
	*type = '\0';
	while (fgets(line, sizeof line, fp)) {
		if (sscanf(line, "%*s %*s %*s %*s %4095s", point) != 1 || !(rest = strstr(line, " - ")))
			continue;
		unescape(point);
		if (strcmp(point, path) == 0)
			snprintf(type, size, "%.*s", (int)strcspn(rest + 3, " "), rest + 3);
	}
	fclose(fp);
	return 0;
}

/* As realpath(3), but of a mount point whose daemon may be dead: its last component is not looked at. */
static int resolve(const char *path, char out[PATH_MAX])
{
	auto_free char *dir = strdup(path);
	char *slash = dir ? strrchr(dir, '/') : NULL;
	size_t len;

	if (!dir)
		return -ENOMEM;
	if (realpath(path, out))
		return 0;
	if (errno != ENOTCONN || !slash || !slash[1])
		return -errno;
	*slash = '\0';
	if (!realpath(*dir ? dir : "/", out))
		return -errno;
	len = strlen(out);
	if (len + strlen(slash + 1) + 2 > PATH_MAX)
		return -ENAMETOOLONG;
	snprintf(out + len, PATH_MAX - len, "%s%s", len > 1 ? "/" : "", slash + 1);
	return 0;
}

/* Refuses a living mount of ours, removes dead ones. */
static int clear_mount_point(const char *path)
{
	char type[64];
	struct stat st;
	int r;

	for (int dead = 0; dead < 16; dead++) {
		r = mount_type_at(path, type, sizeof type);
		if (r || (strcmp(type, FUSE_FS_TYPE) && strcmp(type, FUSE_BLK_TYPE)))
			return r;
		if (stat(path, &st) == 0 || errno != ENOTCONN)
			return -EBUSY;
		log_warn("fuse: %s: unmounting what a killed daemon left", path);
		if (umount2(path, MNT_DETACH))
			return -errno;
	}
	return -EBUSY;
}

/* ---- life ---- */

static double timeout_of(double s)
{
	return s < 0 ? 0 : s == 0 ? FUSE_FRONT_TIMEOUT_S : s;
}

static ssize_t no_read(int fd, void *buf, size_t len, void *front)
{
	(void)fd, (void)buf, (void)len, (void)front;
	errno = ENOSYS;
	return -1;
}

static int session_new(struct fuse_front *f)
{
	static const struct fuse_custom_io io = { .writev = fuse_raw_writev, .read = no_read };
	char *argv[] = { (char *)"tandemfs", NULL };
	struct fuse_args args = FUSE_ARGS_INIT(1, argv);
	auto_fd int fd = open("/dev/fuse", O_RDWR | O_CLOEXEC);
	int r;

	if (fd < 0)
		return -errno;
	f->se = fuse_session_new(&args, &fuse_ops, sizeof fuse_ops, f);
	fuse_opt_free_args(&args);
	if (!f->se)
		return -ENOMEM;
	r = fuse_session_custom_io(f->se, &io, fd);
	if (!r)
		f->dev_fd = steal_fd(&fd);
	return r;
}

static void mutexes_init(struct fuse_front *f)
{
	pthread_mutexattr_t a;

	pthread_mutex_init(&f->mu, NULL);
	pthread_mutex_init(&f->open_mu, NULL);
	pthread_mutexattr_init(&a);
	pthread_mutexattr_settype(&a, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&f->wait_mu, &a);
	pthread_mutexattr_destroy(&a);
	cond_init_mono(&f->all_ended);
}

int fuse_front_new(const struct fuse_front_config *cfg, struct fuse_front **out)
{
	struct fuse_front *f = calloc(1, sizeof *f);
	int r;

	assert(cfg->top && cfg->locks && cfg->mount_point && cfg->volume);
	if (!f)
		return -ENOMEM;
	mutexes_init(f);
	f->cfg = *cfg;
	f->dev_fd = -1;
	f->cfg.mount_point = strdup(cfg->mount_point);
	f->cfg.volume = strdup(cfg->volume);
	f->cfg.blk_image = cfg->blk_image ? strdup(cfg->blk_image) : NULL;
	f->attr_timeout = timeout_of(cfg->attr_timeout_s);
	f->entry_timeout = timeout_of(cfg->entry_timeout_s);
	if (!f->cfg.threads)
		f->cfg.threads = FUSE_FRONT_THREADS;
	if (f->cfg.threads > FUSE_FRONT_THREADS_MAX)
		f->cfg.threads = FUSE_FRONT_THREADS_MAX;
	r = f->cfg.mount_point && f->cfg.volume && !f->cfg.blk_image == !cfg->blk_image ? inval_new(f, &f->inval) : -ENOMEM;
	if (r) {
		fuse_front_free(f);
		return r;
	}
	fuse_know(f, HANDLE_ROOT);
	if (cfg->observers)
		observers_add(cfg->observers, inval_observe, f->inval);
	*out = f;
	return 0;
}

/* The mount(2) itself. */
static int do_mount(struct fuse_front *f, const char *path)
{
	char opts[160], dev[32];
	auto_fd int dev_fd = -1;
	int n = snprintf(opts, sizeof opts, "fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", f->dev_fd);

	if (!f->cfg.blk_image)
		return mount(f->cfg.volume, path, FUSE_FS_TYPE, 0, opts) ? -errno : 0;
	int r = fuse_blk_attach(f->cfg.blk_image, f->cfg.uuid, dev, sizeof dev, &dev_fd);
	if (r) {
		log_error("fuse: %s can't be attached to a loop device: %s", f->cfg.blk_image, strerror(-r));
		return r;
	}
	snprintf(opts + n, sizeof opts - (size_t)n, ",blksize=%d", BLK_SIZE);
	return mount(dev, path, FUSE_BLK_TYPE, 0, opts) ? -errno : 0;
}

int fuse_front_mount(struct fuse_front *f)
{
	char path[PATH_MAX];
	int r = resolve(f->cfg.mount_point, path);

	if (!r)
		r = clear_mount_point(path);
	if (!r)
		r = session_new(f);
	if (r)
		return r;
	free((char *)f->cfg.mount_point);
	f->cfg.mount_point = strdup(path);
	if (!f->cfg.mount_point)
		return -ENOMEM;
	r = do_mount(f, path);
	f->mounted = !r;
	return r;
}

int fuse_front_run(struct fuse_front *f)
{
	int r = inval_start(f->inval);

	assert(f->mounted);
	if (!r) {
		auto_lock(&f->mu);
		r = spawn_locked(f);
	}
	if (r) {
		umount2(f->cfg.mount_point, MNT_DETACH);
		f->mounted = false;
		inval_stop(f->inval);
	}
	return r;
}

static bool all_ended(struct fuse_front *f)
{
	auto_lock(&f->mu);
	return !f->live;
}

static void cut_signal(int sig) { (void)sig; }

/* Waits until all threads have ended. The mount is gone from here; but a copy of it in another mount namespace keeps the file system alive,
 * perhaps for ever. Then the threads are called back from their reads, and what that namespace sees is a dead mount. */
static void wait_all_ended(struct fuse_front *f)
{
	struct sigaction sa = { .sa_handler = cut_signal };
	struct timespec until = clock_mono_after_ms(LINGER_MS);

	auto_lock(&f->mu);
	while (f->live && pthread_cond_timedwait(&f->all_ended, &f->mu, &until) == 0)
		;
	if (!f->live)
		return;
	log_warn("fuse: %s: unmounted, but another mount namespace still has it: cutting it off", f->cfg.mount_point);
	sigaction(CUT_SIGNAL, &sa, NULL);
	f->cut = true;
	while (f->live) {	/* a thread may be just before its read: call again */
		for (unsigned i = 0; i < f->nthreads; i++)
			pthread_kill(f->thread[i], CUT_SIGNAL);
		until = clock_mono_after_ms(CUT_AGAIN_MS);
		pthread_cond_timedwait(&f->all_ended, &f->mu, &until);
	}
}

static void set_stopping(struct fuse_front *f, bool stopping)
{
	auto_lock(&f->mu);
	f->stopping = stopping;
}

int fuse_front_stop(struct fuse_front *f, bool force)
{
	int r = 0;

	if (!f->mounted)
		return 0;
	set_stopping(f, true);
	pthread_mutex_lock(&f->mu);
	bool never_ran = !f->nthreads;		/* the start failed after the mount: nobody could hear the kernel let go */
	pthread_mutex_unlock(&f->mu);
	if ((never_ran || !all_ended(f)) && umount2(f->cfg.mount_point, force ? MNT_FORCE | MNT_DETACH : 0))
		r = -errno;
	if (r && (never_ran || !all_ended(f))) {
		set_stopping(f, false);
		return r;
	}
	wait_all_ended(f);
	for (unsigned i = 0; i < f->nthreads; i++)	/* no thread is started any more */
		pthread_join(f->thread[i], NULL);
	f->nthreads = 0;
	f->mounted = false;
	lock_cancel_front(f->cfg.locks, ORIGIN_FUSE, -EINTR);
	lock_drop_front(f->cfg.locks, ORIGIN_FUSE, 0);
	fuse_close_all(f);
	inval_stop(f->inval);
	return 0;
}

void fuse_front_free(struct fuse_front *f)
{
	if (!f)
		return;
	assert(!f->nthreads);
	if (f->mounted)
		umount2(f->cfg.mount_point, MNT_DETACH);	/* mounted, never run */
	inval_free(f->inval);
	if (f->se)
		fuse_session_destroy(f->se);
	pthread_mutex_destroy(&f->mu);
	pthread_mutex_destroy(&f->open_mu);
	pthread_cond_destroy(&f->all_ended);
	pthread_mutex_destroy(&f->wait_mu);
	free((char *)f->cfg.mount_point);
	free((char *)f->cfg.volume);
	free((char *)f->cfg.blk_image);
	free(f);
}

void fuse_front_settle(struct fuse_front *f)
{
	inval_settle(f->inval);
}
