/*
 * Open files. A file's descriptor is O_RDONLY or O_RDWR; what else open(2) has (O_APPEND, O_DIRECT, O_SYNC, O_TRUNC) is not left
 * to it: appends say so per write, and truncation is done here, stamped.
 *
 * An open file counts as one open of its object, which keeps the object findable after its last name is gone. A nameless file (O_TMPFILE)
 * that nobody gave a name leaves limbo with its last open.
 */
#include "fs/local_int.h"

#include <linux/falloc.h>
#include <semaphore.h>

/* ---- open, release ---- */

int file_new(struct obj *o, int fd, int flags, struct file **out)
{
	struct file *f = malloc(sizeof(*f));
	if (!f)
		return -ENOMEM;
	*f = (struct file){ .id = o->id, .fd = fd, .flags = flags, .o = o };
	*out = f;
	return 0;
}

/* An append-only file can be opened for writing only so. O_SYNC is the callers' business: here it would flush under the object's lock. */
static int open_fd(struct local *l, struct call *c, struct obj *o, int flags)
{
	bool wr = (flags & O_ACCMODE) != O_RDONLY;
	int how = (wr ? O_RDWR : O_RDONLY) | O_NONBLOCK;
	int fd = local_reopen(l, o->fd, how);
	if (fd == -EPERM && wr && flags & O_APPEND)
		fd = local_reopen(l, o->fd, how | O_APPEND);
	if (fd != -EPERM)
		return fd;
	auto_lifted struct lifted lf = lift_init(l, c, o->id, 0);
	return local_lift(&lf) ? local_reopen(l, o->fd, how) : fd;
}

int local_open(struct layer *layer, struct call *c, uint64_t id, int flags, struct file **out)
{
	struct local *l = to_local(layer);
	auto_obj struct obj *o = NULL;
	int err = obj_get(l, id, &o);
	if (err)
		return err;
	if (o->type != S_IFREG)
		return o->type == S_IFDIR ? -EISDIR : o->type == S_IFLNK ? -ELOOP : -ENXIO;
	auto_fd int fd = open_fd(l, c, o, flags);
	if (fd < 0)
		return fd;
	err = obj_open(o);
	if (err)
		return err;
	err = file_new(o, fd, flags & ~(O_CREAT | O_EXCL | O_TRUNC), out);
	if (err) {
		obj_close(o);
		return err;
	}
	steal_fd(&fd);
	if (flags & O_TRUNC)
		err = local_setattr(layer, c, id, *out, &(struct setattr){ .valid = SET_SIZE }, NULL);
	if (err) {
		local_release(layer, c, *out);
		*out = NULL;
	}
	return err;
}

/* The last open of a nameless file ends: out of limbo with it, unless link() was quicker. */
static void release_tmp(struct local *l, struct call *c, struct obj *o)
{
	auto_objguard struct objguard g = { 0 };
	char name[LIMBO_NAME_MAX];
	bool others;
	if (!c->locked)
		objlock_ids(l->cfg.locks, &g, &o->id, 1);
	others = obj_is_open(o);
	if (others || !o->tmp)
		return;
	limbo_name(o->id, name);
	auto_unsteady struct unsteady u = unsteady_begin(l, false, 0, 0, o->id);
	if (unlinkat(l->limbo->fd, name, 0) < 0 && errno != ENOENT) {
		log_warn("local: limbo: %s: could not be removed: %s", name, strerror(errno));
		return;
	}
	snap_drop(l, HANDLE_LIMBO);
	obj_drop(l, o->id);
}

int local_release(struct layer *layer, struct call *c, struct file *f)
{
	struct local *l = to_local(layer);
	auto_obj struct obj *o = NULL;
	bool tmp = f->o->tmp && f->o->ours;
	if (tmp && obj_get(l, f->id, &o))
		tmp = false;
	close(f->fd);
	obj_close(f->o);
	free(f);
	if (tmp)
		release_tmp(l, c, o);
	return 0;
}

/* ---- data ---- */

ssize_t local_read(struct layer *layer, struct call *c, struct file *f, void *buf, size_t size, uint64_t off)
{
	(void)layer;
	(void)c;
	size_t done = 0;
	if (off > INT64_MAX)
		return -EINVAL;
	while (done < size) {
		ssize_t n = pread(f->fd, (char *)buf + done, size - done, (off_t)(off + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return done ? (ssize_t)done : -errno;
		if (!n)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

/* After a change of the contents of F: times, attributes. ATTR may be NULL. */
static int data_changed(struct local *l, struct call *c, struct file *f, struct attr *attr)
{
	struct timespec stamp = local_stamp(l, c);
	struct statx stx;
	int err = local_set_mtime(l, f->o, f->fd, stamp);
	if (!err)
		err = local_set_ctime(l, f->id, stamp);
	if (err || (!attr && !c->effect))
		return err;
	err = local_statx(f->fd, "", &stx);
	if (err)
		return err;
	struct hentry e = { .id = f->id, .ctime = stamp, .flags = f->o->tmp ? HENTRY_TMPFILE : 0 };
	struct attr a;
	local_attr_fill(l, &stx, &e, &a);
	if (attr)
		*attr = a;
	if (c->effect)
		c->effect->attr = a;
	return 0;
}

static int nothing_changed(struct local *l, struct call *c, struct file *f, struct attr *attr)
{
	struct attr a;
	int err = local_attr_of(l, f->o, f->fd, &a);
	if (!err && attr)
		*attr = a;
	if (!err && c->effect)
		c->effect->attr = a;
	return err;
}

/* Applies the volume's limit on sizes: *LEN is cut, or -EFBIG. */
static int check_range(const struct local *l, uint64_t off, size_t *len)
{
	uint64_t max = l->lim->size_max ? l->lim->size_max : INT64_MAX;
	if (off > INT64_MAX)
		return -EINVAL;
	if (off >= max)
		return *len ? -EFBIG : 0;
	if (*len > max - off)
		*len = max - off;
	return 0;
}

static ssize_t write_all(struct lifted *lf, int fd, const void *p, size_t len, uint64_t off)
{
	size_t done = 0;
	while (done < len) {
		ssize_t n = pwrite(fd, (const char *)p + done, len - done, (off_t)(off + done));
		if (n < 0 && (errno == EINTR || local_again(lf, -errno)))
			continue;
		if (n < 0)
			return done ? (ssize_t)done : -errno;
		if (!n)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

/* May a write that failed so have changed something? Not when the file system refused it. */
static bool refused(int err)
{
	return err == -EBADF || err == -EFBIG || err == -EPERM || err == -EINVAL || err == -ENOSPC || err == -EDQUOT || err == -EOPNOTSUPP;
}

static void failed(struct call *c, int err)
{
	if (c->effect && !refused(err))
		c->effect->changed = true;
}

ssize_t local_write(struct layer *layer, struct call *c, struct file *f, const struct wdata *d, uint64_t off, unsigned flags,
		    struct attr *attr)
{
	struct local *l = to_local(layer);
	auto_objguard struct objguard g = { 0 };
	auto_lifted struct lifted lf = lift_init(l, c, f->id, 0);
	struct statx stx = { 0 };
	size_t len = d->len;
	bool killed = false;
	int err = 0;
	if (!c->locked)
		objlock_ids(l->cfg.locks, &g, &f->id, 1);
	if (flags)
		err = local_statx(f->fd, "", &stx);
	if (!err && flags & WRITE_APPEND)
		off = stx.stx_size;
	if (!err)
		err = check_range(l, off, &len);
	if (!err && flags & WRITE_KILL_PRIV)
		err = local_kill_priv(&lf, c, f->o, stx.stx_mode, stx.stx_gid, &killed);
	if (err)
		return err;
	ssize_t n = write_all(&lf, f->fd, d->p, len, off);
	if (n < 0) {
		failed(c, (int)n);
		if (killed && c->effect)
			c->effect->changed = true;
		return n;
	}
	err = n || killed ? data_changed(l, c, f, attr) : nothing_changed(l, c, f, attr);
	if (err && c->effect)
		c->effect->changed = true;
	return err ? err : n;
}

/* ---- durability ---- */

static int flush_object(struct local *l, struct obj *o, bool datasync)
{
	auto_fd int fd = local_reopen(l, o->fd, O_RDONLY | O_NONBLOCK);
	if (fd < 0)
		return fd;
	return TRY(datasync ? fdatasync(fd) : fsync(fd));
}

void joints_init(struct local *l)
{
	for (unsigned i = 0; i < JOINTS; i++)
		pthread_mutex_init(&l->joint[i].mu, NULL);
}

void joints_free(struct local *l)
{
	for (unsigned i = 0; i < JOINTS; i++)
		pthread_mutex_destroy(&l->joint[i].mu);
}

/* One who waits for the next flush, or to be the one who makes it. */
struct flush_waiter {
	sem_t woken;			/* posted outside the lock: who wakes needs no lock then */
	bool leads;
	int err;
	struct flush_waiter *next;
};

/* Makes a flush of O for WAITERS, who came before it begins, and for the caller. */
static int flush_for_all(struct local *l, struct obj *o, struct flush_waiter *waiters)
{
	int err = flush_object(l, o, false);
	for (struct flush_waiter *w = waiters, *next; w; w = next) {
		next = w->next;		/* W is gone as soon as it knows */
		w->err = err;
		sem_post(&w->woken);
	}
	return err;
}

/* The flush in J has ended, or there was none: the first who waits makes the next. J is locked. */
static void flush_next(struct joint *j)
{
	struct flush_waiter *w = j->waiters;
	j->running = w != NULL;
	if (!w)
		return;
	j->waiters = w->next;
	w->leads = true;
	sem_post(&w->woken);
}

/* Directory O. Only a flush that begins from now on counts: one that runs may have begun before the caller's change. */
static int flush_joined(struct local *l, struct obj *o)
{
	struct joint *j = &l->joint[(o->id * 0x9e3779b97f4a7c15u) >> 58];
	struct flush_waiter w = { .leads = false }, *others;
	pthread_mutex_lock(&j->mu);
	if (j->running && j->id != o->id) {
		pthread_mutex_unlock(&j->mu);
		return flush_object(l, o, false);
	}
	if (j->running) {
		sem_init(&w.woken, 0, 0);
		w.next = j->waiters;
		j->waiters = &w;
		pthread_mutex_unlock(&j->mu);
		while (sem_wait(&w.woken) < 0)
			;
		sem_destroy(&w.woken);
		if (!w.leads)
			return w.err;
		pthread_mutex_lock(&j->mu);
	}
	j->running = true;
	j->id = o->id;
	others = j->waiters;
	j->waiters = NULL;
	pthread_mutex_unlock(&j->mu);
	int err = flush_for_all(l, o, others);
	pthread_mutex_lock(&j->mu);
	flush_next(j);
	pthread_mutex_unlock(&j->mu);
	return err;
}

int local_fsync(struct layer *layer, struct call *c, uint64_t id, struct file *f, bool datasync)
{
	struct local *l = to_local(layer);
	auto_obj struct obj *o = NULL;
	(void)c;
	if (f)
		return TRY(datasync ? fdatasync(f->fd) : fsync(f->fd));
	int err = obj_get(l, id, &o);
	if (err)
		return err;
	if (o->type != S_IFREG && o->type != S_IFDIR)	/* nothing that could be opened */
		return local_syncfs(layer);
	return o->type == S_IFDIR ? flush_joined(l, o) : flush_object(l, o, datasync);
}

/* ---- ranges ---- */

/* FALLOC_FL_ZERO_RANGE where it is missing (tmpfs): a hole, then space. */
static int zero_range(int fd, int mode, off_t off, off_t len)
{
	int keep = mode & FALLOC_FL_KEEP_SIZE;
	int err = TRY(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len));
	return err ? err : TRY(fallocate(fd, keep, off, len));
}

static int do_fallocate(struct lifted *lf, int fd, int mode, uint64_t off, uint64_t len)
{
	int err = TRY_LIFT(lf, fallocate(fd, mode, (off_t)off, (off_t)len));
	if (err == -EOPNOTSUPP && (mode & ~FALLOC_FL_KEEP_SIZE) == FALLOC_FL_ZERO_RANGE)
		return zero_range(fd, mode, (off_t)off, (off_t)len);
	return err;
}

int local_fallocate(struct layer *layer, struct call *c, struct file *f, int mode, uint64_t off, uint64_t len)
{
	struct local *l = to_local(layer);
	auto_objguard struct objguard g = { 0 };
	auto_lifted struct lifted lf = lift_init(l, c, f->id, 0);
	uint64_t max = l->lim->size_max ? l->lim->size_max : INT64_MAX;
	if (!len || off > INT64_MAX || len > INT64_MAX)
		return -EINVAL;
	if (off + len > max)
		return -EFBIG;
	if (!c->locked)
		objlock_ids(l->cfg.locks, &g, &f->id, 1);
	int err = do_fallocate(&lf, f->fd, mode, off, len);
	if (err) {
		if (c->effect && (err == -ENOSPC || err == -EINTR || !refused(err)))	/* part of it may be there */
			c->effect->changed = true;
		return err;
	}
	err = data_changed(l, c, f, NULL);
	if (err && c->effect)
		c->effect->changed = true;
	return err;
}

static ssize_t copy_all(struct lifted *lf, int in, uint64_t off_in, int out, uint64_t off_out, size_t len)
{
	off64_t a = (off64_t)off_in, b = (off64_t)off_out;
	size_t done = 0;
	while (done < len) {
		ssize_t n = copy_file_range(in, &a, out, &b, len - done, 0);
		if (n < 0 && (errno == EINTR || local_again(lf, -errno)))
			continue;
		if (n < 0)
			return done ? (ssize_t)done : -errno;
		if (!n)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

ssize_t local_copy_range(struct layer *layer, struct call *c, struct file *in, uint64_t off_in, struct file *out, uint64_t off_out,
			 size_t len)
{
	struct local *l = to_local(layer);
	auto_objguard struct objguard g = { 0 };
	auto_lifted struct lifted lf = lift_init(l, c, out->id, 0);
	if (off_in > INT64_MAX)
		return -EINVAL;
	int err = check_range(l, off_out, &len);
	if (err)
		return err;
	if (!c->locked)
		objlock_ids(l->cfg.locks, &g, (uint64_t[]){ in->id, out->id }, 2);
	ssize_t n = copy_all(&lf, in->fd, off_in, out->fd, off_out, len);
	if (n < 0)
		failed(c, (int)n);
	if (n <= 0)
		return n;
	err = data_changed(l, c, out, NULL);
	if (err && c->effect)
		c->effect->changed = true;
	return err ? err : n;
}

int64_t local_lseek(struct layer *layer, struct call *c, struct file *f, uint64_t off, int whence)
{
	(void)layer;
	(void)c;
	if (whence != SEEK_DATA && whence != SEEK_HOLE)
		return -EINVAL;
	if (off > INT64_MAX)
		return -ENXIO;
	off_t r = lseek(f->fd, (off_t)off, whence);
	return r < 0 ? -errno : r;
}
