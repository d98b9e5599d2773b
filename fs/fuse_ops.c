/*
 * One handler per FUSE operation: parse what libfuse handed over, call the top layer, answer. No state but open files.
 *
 * Of note:
 *  - A CREATE whose name is there already answers ESTALE: the kernel believed that the name was free and has checked nothing about the file; ESTALE makes it look
 *    the name up again and then open the file the ordinary way, with its permission checks. With O_EXCL it is EEXIST.
 *  - An open with O_TRUNC truncates here (ATOMIC_O_TRUNC), which saves a round trip.
 *  - O_DIRECT is the kernel's business: it goes past its page cache, coherently, and the file below is read and written through that machine's cache.
 *  - O_SYNC and O_DSYNC: the kernel sends FSYNC after the write (for O_DIRECT too, as long as no file is opened with FOPEN_DIRECT_IO).
 *  - A SETATTR that sets nothing is what is left of chown(-1, -1), and of the kernel's own "clear setuid and setgid" before fallocate and copy_file_range. It
 *    clears them for the owner and root only, or everybody could; for other writers the fallocate and the copy do it. (So that chown by a stranger, of a file
 *    with setuid, answers 0 and changes nothing, where Linux says EPERM: the two requests look the same.)
 *  - What is removed lingers until the kernel forgets it (FORGET): a path walk that found it may be about to ask for it by id, and must get what it
 *    would get of a local file system, not ESTALE.
 *  - An answer to an open that nobody waits for any more (-ENOENT) closes the file again.
 *  - ENOSYS would make the kernel give an operation up for good: it never leaves here.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>

#include "fs/base/cleanup.h"
#include "fs/fuse_front.h"
#include "handles/handles.h"

/* What of the caller's open flags concerns the layers. */
enum { OPEN_FLAGS = O_ACCMODE | O_APPEND | O_NOATIME };

/* ---- calls and answers ---- */

void fuse_reply(fuse_req_t req, int err)
{
	fuse_reply_err(req, err == -ENOSYS ? EOPNOTSUPP : -err);
}

void fuse_call_of(fuse_req_t req, struct call *c)
{
	const struct fuse_ctx *x = fuse_req_ctx(req);

	*c = (struct call){ .origin = ORIGIN_FUSE, .uid = x->uid, .gid = x->gid, .pid = x->pid, .umask = x->umask };
}

unsigned char *fuse_out(void)
{
	if (!fuse_self->out)
		fuse_self->out = aligned_alloc(4096, LAYER_IO_MAX);
	return fuse_self->out;
}

static struct layer *top_of(fuse_req_t req) { return front_of(req)->cfg.top; }

/* Starts a handler: the front, its top layer and the call. */
#define BEGIN(req) \
	struct fuse_front *f = front_of(req); \
	struct layer *l = f->cfg.top; \
	struct call c; \
	(void)f, (void)l; \
	fuse_call_of(req, &c)

static bool name_ok(fuse_req_t req, const char *name)
{
	if (strnlen(name, LAYER_NAME_MAX + 1) <= LAYER_NAME_MAX)
		return true;
	fuse_reply(req, -ENAMETOOLONG);
	return false;
}

static void stat_of(const struct attr *a, struct stat *st)
{
	*st = (struct stat){ .st_ino = a->id, .st_mode = a->mode, .st_nlink = a->nlink, .st_uid = a->uid, .st_gid = a->gid, .st_rdev = a->rdev,
			     .st_size = (off_t)a->size, .st_blksize = 4096, .st_blocks = (blkcnt_t)a->blocks, .st_atim = a->atime,
			     .st_mtim = a->mtime, .st_ctim = a->ctime };
}

/* For an answer: the kernel knows the object from then on. */
static void entry_of(struct fuse_front *f, const struct attr *a, struct fuse_entry_param *e)
{
	fuse_know(f, a->id);
	*e = (struct fuse_entry_param){ .ino = a->id, .generation = a->id == HANDLE_ROOT ? 0 : f->cfg.generation,
					.attr_timeout = f->attr_timeout, .entry_timeout = f->entry_timeout };
	stat_of(a, &e->attr);
}

static void reply_entry(fuse_req_t req, int err, const struct attr *a)
{
	struct fuse_entry_param e;

	if (err) {
		fuse_reply(req, err);
		return;
	}
	struct fuse_front *f = front_of(req);
	entry_of(f, a, &e);
	if (fuse_reply_entry(req, &e) == -ENOENT)
		fuse_unknow(f, a->id, 1);
}

static void reply_attr(fuse_req_t req, int err, const struct attr *a)
{
	struct stat st;

	if (err) {
		fuse_reply(req, err);
		return;
	}
	stat_of(a, &st);
	fuse_reply_attr(req, &st, front_of(req)->attr_timeout);
}

static void reply_count(fuse_req_t req, ssize_t n)
{
	if (n < 0)
		fuse_reply(req, (int)n);
	else
		fuse_reply_write(req, (size_t)n);
}

/* ---- the connection ---- */

static void op_init(void *front, struct fuse_conn_info *conn)
{
	static const unsigned want = FUSE_CAP_EXPORT_SUPPORT | FUSE_CAP_POSIX_ACL | FUSE_CAP_DONT_MASK | FUSE_CAP_CACHE_SYMLINKS |
				     FUSE_CAP_ATOMIC_O_TRUNC | FUSE_CAP_PARALLEL_DIROPS | FUSE_CAP_READDIRPLUS | FUSE_CAP_READDIRPLUS_AUTO |
				     FUSE_CAP_IOCTL_DIR | FUSE_CAP_FLOCK_LOCKS | FUSE_CAP_POSIX_LOCKS | FUSE_CAP_ASYNC_READ | FUSE_CAP_ASYNC_DIO |
				     FUSE_CAP_AUTO_INVAL_DATA;

	(void)front;
	conn->want = conn->capable & want;
	conn->max_write = LAYER_IO_MAX;
}

/* ---- names ---- */

static bool is_dots(const char *name)
{
	return !strcmp(name, ".") || !strcmp(name, "..");
}

static void op_lookup(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	struct fuse_entry_param absent = { 0 };
	struct attr a;
	int r;

	BEGIN(req);
	if (!name_ok(req, name))
		return;
	r = l->ops->lookup(l, &c, parent, name, &a);
	if (r != -ENOENT || is_dots(name)) {
		reply_entry(req, r, &a);
		return;
	}
	absent.entry_timeout = f->entry_timeout;
	fuse_reply_entry(req, &absent);
}

static void op_forget(fuse_req_t req, fuse_ino_t ino, uint64_t n)
{
	struct fuse_front *f = front_of(req);

	fuse_unknow(f, ino, n);
	f->cfg.top->ops->forget(f->cfg.top, ino);
	fuse_reply_none(req);
}

static void op_forget_multi(fuse_req_t req, size_t n, struct fuse_forget_data *forgets)
{
	struct fuse_front *f = front_of(req);

	for (size_t i = 0; i < n; i++) {
		fuse_unknow(f, forgets[i].ino, forgets[i].nlookup);
		f->cfg.top->ops->forget(f->cfg.top, forgets[i].ino);
	}
	fuse_reply_none(req);
}

static void make(fuse_req_t req, fuse_ino_t parent, const char *name, const struct create *cr)
{
	struct attr a;

	BEGIN(req);
	if (name_ok(req, name))
		reply_entry(req, l->ops->create(l, &c, parent, name, cr, 0, &a, NULL), &a);
}

static void op_mknod(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	make(req, parent, name, &(struct create){ .mode = mode, .rdev = rdev });
}

static void op_mkdir(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode)
{
	make(req, parent, name, &(struct create){ .mode = S_IFDIR | (mode & 07777) });
}

static void op_symlink(fuse_req_t req, const char *target, fuse_ino_t parent, const char *name)
{
	if (strlen(target) > LAYER_SYMLINK_MAX)
		fuse_reply(req, -ENAMETOOLONG);
	else
		make(req, parent, name, &(struct create){ .mode = S_IFLNK | 0777, .target = target });
}

static void op_link(fuse_req_t req, fuse_ino_t ino, fuse_ino_t parent, const char *name)
{
	struct attr a;

	BEGIN(req);
	if (name_ok(req, name))
		reply_entry(req, l->ops->link(l, &c, ino, parent, name, &a), &a);
}

static void op_unlink(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	BEGIN(req);
	c.linger = true;
	if (name_ok(req, name))
		fuse_reply(req, l->ops->unlink(l, &c, parent, name));
}

static void op_rmdir(fuse_req_t req, fuse_ino_t parent, const char *name)
{
	BEGIN(req);
	c.linger = true;
	if (name_ok(req, name))
		fuse_reply(req, l->ops->rmdir(l, &c, parent, name));
}

static void op_rename(fuse_req_t req, fuse_ino_t parent, const char *name, fuse_ino_t newparent, const char *newname, unsigned flags)
{
	BEGIN(req);
	c.linger = true;
	if (!name_ok(req, name) || !name_ok(req, newname))
		return;
	if (flags & ~(unsigned)(RENAME_NOREPLACE | RENAME_EXCHANGE))
		fuse_reply(req, -EINVAL);
	else
		fuse_reply(req, l->ops->rename(l, &c, parent, name, newparent, newname, flags));
}

static void op_readlink(fuse_req_t req, fuse_ino_t ino)
{
	char target[LAYER_SYMLINK_MAX + 1];
	ssize_t n;

	BEGIN(req);
	n = l->ops->readlink(l, &c, ino, target, sizeof target - 1);
	if (n < 0) {
		fuse_reply(req, (int)n);
		return;
	}
	target[n] = '\0';
	fuse_reply_readlink(req, target);
}

/* ---- attributes ---- */

static void op_getattr(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct attr a;

	BEGIN(req);
	reply_attr(req, l->ops->getattr(l, &c, ino, fi ? fh_of(fi)->file : NULL, &a), &a);
}

static uint32_t setattr_valid(int to_set)
{
	static const struct { int fuse; uint32_t valid; } map[] = {
		{ FUSE_SET_ATTR_MODE, SET_MODE }, { FUSE_SET_ATTR_UID, SET_UID }, { FUSE_SET_ATTR_GID, SET_GID },
		{ FUSE_SET_ATTR_SIZE, SET_SIZE }, { FUSE_SET_ATTR_ATIME, SET_ATIME }, { FUSE_SET_ATTR_MTIME, SET_MTIME },
		{ FUSE_SET_ATTR_ATIME_NOW, SET_ATIME_NOW }, { FUSE_SET_ATTR_MTIME_NOW, SET_MTIME_NOW },
	};
	uint32_t v = 0;

	for (unsigned i = 0; i < ARRAY_LEN(map); i++)
		if (to_set & map[i].fuse)
			v |= map[i].valid;
	/* "Now" comes together with the plain flag; the layers want one of them. */
	if (v & SET_ATIME_NOW)
		v &= ~(uint32_t)SET_ATIME;
	if (v & SET_MTIME_NOW)
		v &= ~(uint32_t)SET_MTIME;
	return v;
}

static bool owns(struct layer *l, struct call *c, uint64_t id)
{
	struct attr a;

	return !c->uid || (!l->ops->getattr(l, c, id, NULL, &a) && a.uid == c->uid);
}

static void op_setattr(fuse_req_t req, fuse_ino_t ino, struct stat *st, int to_set, struct fuse_file_info *fi)
{
	struct setattr s = { .valid = setattr_valid(to_set), .mode = st->st_mode & 07777, .uid = st->st_uid, .gid = st->st_gid,
			     .size = (uint64_t)st->st_size, .atime = st->st_atim, .mtime = st->st_mtim };
	struct attr a;

	BEGIN(req);
	if (fuse_self->kill_priv || (!s.valid && owns(l, &c, ino)))
		s.valid |= SET_KILL_PRIV;
	reply_attr(req, l->ops->setattr(l, &c, ino, fi ? fh_of(fi)->file : NULL, &s, &a), &a);
}

/* Clears setuid and setgid after a change of H's contents whose request doesn't say so. Root (CAP_FSETID) keeps them. */
static void kill_priv(struct layer *l, struct call *c, struct fh *h)
{
	struct setattr s = { .valid = SET_KILL_PRIV };
	struct attr a;

	if (c->uid && !l->ops->getattr(l, c, file_id(h->file), h->file, &a) && (a.mode & (S_ISUID | S_ISGID)))
		l->ops->setattr(l, c, file_id(h->file), h->file, &s, &a);
}

/* ---- extended attributes (SETXATTR: fuse_raw.c) ---- */

static void reply_xattr(fuse_req_t req, ssize_t n, size_t asked, const void *value)
{
	if (n < 0)
		fuse_reply(req, (int)n);
	else if (!asked)
		fuse_reply_xattr(req, (size_t)n);
	else
		fuse_reply_buf(req, value, (size_t)n);
}

static void op_getxattr(fuse_req_t req, fuse_ino_t ino, const char *name, size_t size)
{
	unsigned char *out = size ? fuse_out() : NULL;
	size_t room = size < LAYER_XATTR_MAX ? size : LAYER_XATTR_MAX;

	BEGIN(req);
	if (size && !out)
		fuse_reply(req, -ENOMEM);
	else
		reply_xattr(req, l->ops->getxattr(l, &c, ino, name, out, room), size, out);
}

static void op_listxattr(fuse_req_t req, fuse_ino_t ino, size_t size)
{
	unsigned char *out = size ? fuse_out() : NULL;
	size_t room = size < LAYER_IO_MAX ? size : LAYER_IO_MAX;

	BEGIN(req);
	if (size && !out)
		fuse_reply(req, -ENOMEM);
	else
		reply_xattr(req, l->ops->listxattr(l, &c, ino, (char *)out, room), size, out);
}

static void op_removexattr(fuse_req_t req, fuse_ino_t ino, const char *name)
{
	BEGIN(req);
	fuse_reply(req, l->ops->removexattr(l, &c, ino, name));
}

/* ---- open files ---- */

static bool is_writer(const struct fh *h) { return h->file && (file_flags(h->file) & O_ACCMODE) != O_RDONLY; }

static int fh_new(struct fuse_front *f, struct file *file, struct dir *dir, struct fuse_file_info *fi)
{
	struct fh *h = calloc(1, sizeof *h);

	if (!h)
		return -ENOMEM;
	h->file = file;
	h->dir = dir;
	pthread_mutex_lock(&f->open_mu);
	h->next = f->open;
	h->prev = &f->open;
	if (h->next)
		h->next->prev = &h->next;
	f->open = h;
	pthread_mutex_unlock(&f->open_mu);
	if (is_writer(h))
		atomic_fetch_add(fuse_writers(f, file_id(file)), 1);
	fi->fh = (uintptr_t)h;
	return 0;
}

static int fh_close(struct fuse_front *f, struct call *c, struct fh *h)
{
	struct layer *l = f->cfg.top;
	int r;

	pthread_mutex_lock(&f->open_mu);
	*h->prev = h->next;
	if (h->next)
		h->next->prev = h->prev;
	pthread_mutex_unlock(&f->open_mu);
	if (is_writer(h))
		atomic_fetch_sub(fuse_writers(f, file_id(h->file)), 1);
	r = h->dir ? l->ops->releasedir(l, c, h->dir) : l->ops->release(l, c, h->file);
	free(h);
	return r;
}

void fuse_close_all(struct fuse_front *f)
{
	struct call c = { .origin = ORIGIN_FUSE };

	while (f->open) {
		free(f->open->owners);
		fh_close(f, &c, f->open);
	}
}

static int open_truncate(struct layer *l, struct call *c, uint64_t id, struct file *file)
{
	struct setattr s = { .valid = SET_SIZE | (fuse_self->kill_priv ? SET_KILL_PRIV : 0) };
	struct attr a;

	return l->ops->setattr(l, c, id, file, &s, &a);
}

static void op_open(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct file *file;
	int r;

	BEGIN(req);
	r = l->ops->open(l, &c, ino, fi->flags & OPEN_FLAGS, &file);
	if (r) {
		fuse_reply(req, r);
		return;
	}
	if (fi->flags & O_TRUNC)
		r = open_truncate(l, &c, ino, file);
	if (!r)
		r = fh_new(f, file, NULL, fi);
	fi->keep_cache = 1;
	if (r) {
		l->ops->release(l, &c, file);
		fuse_reply(req, r);
	} else if (fuse_reply_open(req, fi) == -ENOENT) {
		fh_close(f, &c, fh_of(fi));
	}
}

static void op_create(fuse_req_t req, fuse_ino_t parent, const char *name, mode_t mode, struct fuse_file_info *fi)
{
	struct create cr = { .mode = S_IFREG | (mode & 07777) };
	bool tmp = fuse_self->tmpfile;
	struct fuse_entry_param e;
	struct file *file;
	struct attr a;
	int r;

	BEGIN(req);
	if (!name_ok(req, name))
		return;
	r = tmp ? l->ops->tmpfile(l, &c, parent, &cr, fi->flags & OPEN_FLAGS, &a, &file) :
		  l->ops->create(l, &c, parent, name, &cr, fi->flags & OPEN_FLAGS, &a, &file);
	if (r) {
		fuse_reply(req, r == -EEXIST && !(fi->flags & O_EXCL) ? -ESTALE : r);
		return;
	}
	r = fh_new(f, file, NULL, fi);
	fi->keep_cache = 1;
	if (r) {
		l->ops->release(l, &c, file);
		fuse_reply(req, r);
		return;
	}
	entry_of(f, &a, &e);
	if (fuse_reply_create(req, &e, fi) == -ENOENT) {
		fuse_unknow(f, a.id, 1);
		fh_close(f, &c, fh_of(fi));
	}
}

static void op_flush(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	fuse_locks_flush(front_of(req), ino, fi);
	fuse_reply(req, 0);
}

static void op_release(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	BEGIN(req);
	fuse_locks_release(f, ino, fi);
	fh_close(f, &c, fh_of(fi));
	fuse_reply(req, 0);
}

static void op_read(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	unsigned char *out = fuse_out();
	ssize_t n;

	BEGIN(req);
	(void)ino;
	if (size > LAYER_IO_MAX)
		size = LAYER_IO_MAX;
	n = out ? l->ops->read(l, &c, fh_of(fi)->file, out, size, (uint64_t)off) : -ENOMEM;
	if (n < 0)
		fuse_reply(req, (int)n);
	else
		fuse_reply_buf(req, (char *)out, (size_t)n);
}

static void op_write(fuse_req_t req, fuse_ino_t ino, const char *buf, size_t size, off_t off, struct fuse_file_info *fi)
{
	struct wdata d = { .p = buf, .len = size, .owner = size >= FUSE_SHARE_MIN ? fuse_self->blk : NULL };
	unsigned flags = fuse_self->kill_priv ? WRITE_KILL_PRIV : 0;

	BEGIN(req);
	(void)ino;
	/* Pages of a mapping (writepage) lie where they lie, whoever maps the file. */
	if ((fi->flags & O_APPEND) && !fi->writepage)
		flags |= WRITE_APPEND;
	reply_count(req, l->ops->write(l, &c, fh_of(fi)->file, &d, (uint64_t)off, flags, NULL));
}

static void op_fsync(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	BEGIN(req);
	fuse_reply(req, l->ops->fsync(l, &c, ino, fi ? fh_of(fi)->file : NULL, datasync));
}

static void op_fallocate(fuse_req_t req, fuse_ino_t ino, int mode, off_t off, off_t len, struct fuse_file_info *fi)
{
	int r;

	BEGIN(req);
	(void)ino;
	r = l->ops->fallocate(l, &c, fh_of(fi)->file, mode, (uint64_t)off, (uint64_t)len);
	if (!r)
		kill_priv(l, &c, fh_of(fi));
	fuse_reply(req, r);
}

static void op_copy_range(fuse_req_t req, fuse_ino_t ino_in, off_t off_in, struct fuse_file_info *in, fuse_ino_t ino_out, off_t off_out,
			  struct fuse_file_info *out, size_t len, int flags)
{
	ssize_t n;

	BEGIN(req);
	(void)ino_in, (void)ino_out;
	if (flags) {
		fuse_reply(req, -EINVAL);
		return;
	}
	n = l->ops->copy_range(l, &c, fh_of(in)->file, (uint64_t)off_in, fh_of(out)->file, (uint64_t)off_out, len);
	if (n > 0)
		kill_priv(l, &c, fh_of(out));
	reply_count(req, n);
}

static void op_lseek(fuse_req_t req, fuse_ino_t ino, off_t off, int whence, struct fuse_file_info *fi)
{
	int64_t at;

	BEGIN(req);
	(void)ino;
	at = l->ops->lseek(l, &c, fh_of(fi)->file, (uint64_t)off, whence);
	if (at < 0)
		fuse_reply(req, (int)at);
	else
		fuse_reply_lseek(req, at);
}

/* ---- directories ---- */

static void op_opendir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	struct dir *d;
	int r;

	BEGIN(req);
	r = l->ops->opendir(l, &c, ino, &d);
	if (!r && (r = fh_new(f, NULL, d, fi)))
		l->ops->releasedir(l, &c, d);
	if (r)
		fuse_reply(req, r);
	else if (fuse_reply_open(req, fi) == -ENOENT)
		fh_close(f, &c, fh_of(fi));
}

static void op_releasedir(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi)
{
	BEGIN(req);
	(void)ino;
	fuse_reply(req, fh_close(f, &c, fh_of(fi)));
}

static void op_fsyncdir(fuse_req_t req, fuse_ino_t ino, int datasync, struct fuse_file_info *fi)
{
	BEGIN(req);
	(void)fi;
	fuse_reply(req, l->ops->fsync(l, &c, ino, NULL, datasync));
}

/* A listing on its way into the reply buffer. */
struct listing {
	fuse_req_t req;
	uint64_t dir;
	char *buf;
	size_t used, size;
};

static int list_plain(void *arg, const struct dirent_info *e)
{
	struct listing *ls = arg;
	struct stat st = { .st_ino = e->id, .st_mode = e->type };
	size_t n = fuse_add_direntry(ls->req, ls->buf + ls->used, ls->size - ls->used, e->name, &st, (off_t)e->pos);

	if (n > ls->size - ls->used)
		return 1;
	ls->used += n;
	return 0;
}

/* The entry with its attributes: what the name means now, for the listing may be older. When it is gone meanwhile, without. */
static int list_plus(void *arg, const struct dirent_info *e)
{
	struct listing *ls = arg;
	struct fuse_entry_param p = { .attr = { .st_ino = e->id, .st_mode = e->type } };
	struct attr a;
	size_t n, left = ls->size - ls->used;

	/* Does it fit? Then it is worth a lookup. */
	n = fuse_add_direntry_plus(ls->req, NULL, 0, e->name, &p, (off_t)e->pos);
	if (n > left)
		return 1;
	if (!is_dots(e->name)) {
		struct layer *l = top_of(ls->req);
		struct call c;

		fuse_call_of(ls->req, &c);
		if (!l->ops->lookup(l, &c, ls->dir, e->name, &a))
			entry_of(front_of(ls->req), &a, &p);
	}
	ls->used += fuse_add_direntry_plus(ls->req, ls->buf + ls->used, left, e->name, &p, (off_t)e->pos);
	return 0;
}

static void list(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi, readdir_fn fn)
{
	struct listing ls = { .req = req, .dir = ino, .buf = (char *)fuse_out(), .size = size < LAYER_IO_MAX ? size : LAYER_IO_MAX };
	int r;

	BEGIN(req);
	r = ls.buf ? l->ops->readdir(l, &c, fh_of(fi)->dir, (uint64_t)off, fn, &ls) : -ENOMEM;
	if (r < 0 && !ls.used)
		fuse_reply(req, r);
	else
		fuse_reply_buf(req, ls.buf, ls.used);
}

static void op_readdir(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	list(req, ino, size, off, fi, list_plain);
}

static void op_readdirplus(fuse_req_t req, fuse_ino_t ino, size_t size, off_t off, struct fuse_file_info *fi)
{
	list(req, ino, size, off, fi, list_plus);
}

/* ---- the rest ---- */

static void op_statfs(fuse_req_t req, fuse_ino_t ino)
{
	struct statvfs st;
	int r;

	BEGIN(req);
	(void)ino;
	r = l->ops->statfs(l, &c, &st);
	if (r)
		fuse_reply(req, r);
	else
		fuse_reply_statfs(req, &st);
}

/* FS_IOC_*FLAGS bits and their FS_IOC_FS*XATTR twins. */
static const struct { uint32_t flag, xflag; } xflags[] = {
	{ FS_SYNC_FL, FS_XFLAG_SYNC }, { FS_IMMUTABLE_FL, FS_XFLAG_IMMUTABLE }, { FS_APPEND_FL, FS_XFLAG_APPEND },
	{ FS_NODUMP_FL, FS_XFLAG_NODUMP }, { FS_NOATIME_FL, FS_XFLAG_NOATIME },
};

static int set_xflags(struct layer *l, struct call *c, uint64_t id, const struct fsxattr *x)
{
	uint32_t flags, all = 0;
	int r = l->ops->getflags(l, c, id, &flags);

	if (r)
		return r;
	for (unsigned i = 0; i < ARRAY_LEN(xflags); i++) {
		all |= xflags[i].xflag;
		flags = x->fsx_xflags & xflags[i].xflag ? flags | xflags[i].flag : flags & ~xflags[i].flag;
	}
	if ((x->fsx_xflags & ~all) || x->fsx_extsize || x->fsx_projid || x->fsx_cowextsize)
		return -EOPNOTSUPP;
	return l->ops->setflags(l, c, id, flags);
}

static void reply_ioctl(fuse_req_t req, int err, const void *out, size_t len)
{
	if (err)
		fuse_reply(req, err);
	else
		fuse_reply_ioctl(req, 0, out, len);
}

static void op_ioctl(fuse_req_t req, fuse_ino_t ino, unsigned cmd, void *arg, struct fuse_file_info *fi, unsigned flags, const void *in,
		     size_t in_len, size_t out_len)
{
	struct fsxattr x = { 0 };
	uint32_t fl = 0;
	int r;

	BEGIN(req);
	(void)arg, (void)fi, (void)flags;
	if (cmd == FS_IOC_GETFLAGS && out_len >= sizeof fl) {
		r = l->ops->getflags(l, &c, ino, &fl);
		reply_ioctl(req, r, &fl, sizeof fl);
	} else if (cmd == FS_IOC_SETFLAGS && in_len >= sizeof fl) {
		memcpy(&fl, in, sizeof fl);
		reply_ioctl(req, l->ops->setflags(l, &c, ino, fl), NULL, 0);
	} else if (cmd == FS_IOC_FSGETXATTR && out_len >= sizeof x) {
		r = l->ops->getflags(l, &c, ino, &fl);
		for (unsigned i = 0; i < ARRAY_LEN(xflags); i++)
			x.fsx_xflags |= fl & xflags[i].flag ? xflags[i].xflag : 0;
		reply_ioctl(req, r, &x, sizeof x);
	} else if (cmd == FS_IOC_FSSETXATTR && in_len >= sizeof x) {
		memcpy(&x, in, sizeof x);
		reply_ioctl(req, set_xflags(l, &c, ino, &x), NULL, 0);
	} else {
		fuse_reply(req, -ENOTTY);
	}
}

const struct fuse_lowlevel_ops fuse_ops = {
	.init = op_init, .lookup = op_lookup, .forget = op_forget, .forget_multi = op_forget_multi, .getattr = op_getattr, .setattr = op_setattr,
	.readlink = op_readlink, .mknod = op_mknod, .mkdir = op_mkdir, .unlink = op_unlink, .rmdir = op_rmdir, .symlink = op_symlink,
	.rename = op_rename, .link = op_link, .open = op_open, .read = op_read, .write = op_write, .flush = op_flush, .release = op_release,
	.fsync = op_fsync, .opendir = op_opendir, .readdir = op_readdir, .readdirplus = op_readdirplus, .releasedir = op_releasedir,
	.fsyncdir = op_fsyncdir, .statfs = op_statfs, .getxattr = op_getxattr, .listxattr = op_listxattr, .removexattr = op_removexattr,
	.create = op_create, .getlk = fuse_op_getlk, .setlk = fuse_op_setlk, .flock = fuse_op_flock, .ioctl = op_ioctl,
	.fallocate = op_fallocate, .copy_file_range = op_copy_range, .lseek = op_lseek,
};
