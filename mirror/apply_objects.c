/* Applying changes of objects by id: attributes, xattrs, inode flags, contents. */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>

#include "fs/base/cleanup.h"
#include "mirror/apply_int.h"

enum { COPY_BUFFER = 1 << 20 };

/* ---- attributes ---- */

int apply_setattr(struct applying *p)
{
	struct layer *l = p->a->cfg.local;
	const struct op *op = p->op;
	const struct attr *a = &op->attr;
	struct setattr s = { .mode = a->mode & 07777, .uid = a->uid, .gid = a->gid, .size = a->size, .mtime = a->mtime, .ctime = a->ctime };

	s.valid = (op->set & (SET_MODE | SET_UID | SET_GID | SET_SIZE)) | SET_CTIME | SET_MTIME;
	if (S_ISLNK(a->mode))
		s.valid &= ~(uint32_t)SET_MODE;
	applying_lock_ids(p, op->id, 0);
	int err = l->ops->setattr(l, &p->call, op->id, NULL, &s, NULL);
	if (!err)
		err = settle_attr(p, op->id);
	if (op->set & SET_SIZE)
		tell(p, CHANGE_DATA, op->id, NULL, 0, a->size, 0);
	else
		tell(p, CHANGE_ATTR, op->id, NULL, 0, 0, 0);
	return err;
}

int apply_xattr(struct applying *p)
{
	struct layer *l = p->a->cfg.local;
	const struct op *op = p->op;
	int err;

	applying_lock_ids(p, op->id, 0);
	if (op->type == OP_SETXATTR)
		err = l->ops->setxattr(l, &p->call, op->id, op->name, op->blob, op->blob_len, 0);
	else
		err = l->ops->removexattr(l, &p->call, op->id, op->name);
	if (!err)
		err = settle_attr(p, op->id);
	tell(p, CHANGE_ATTR, op->id, NULL, 0, 0, 0);
	return err;
}

int apply_setflags(struct applying *p)
{
	struct layer *l = p->a->cfg.local;

	applying_lock_ids(p, p->op->id, 0);
	int err = l->ops->setflags(l, &p->call, p->op->id, p->op->flags);
	if (!err)
		err = settle_attr(p, p->op->id);
	tell(p, CHANGE_ATTR, p->op->id, NULL, 0, 0, 0);
	return err;
}

/* ---- contents ----
 *
 * Files are opened before the lock is taken: that may have to wait for the flusher. Nobody but this thread changes the tree meanwhile. */

/* All of LEN bytes. */
static int write_all(struct applying *p, struct file *f, const unsigned char *data, size_t len, uint64_t off)
{
	struct layer *l = p->a->cfg.local;

	while (len) {
		const struct wdata d = { .p = data, .len = len };
		ssize_t n = l->ops->write(l, &p->call, f, &d, off, 0, NULL);
		if (n <= 0)
			return n ? (int)n : -EIO;
		data += n;
		off += (uint64_t)n;
		len -= (size_t)n;
	}
	return 0;
}

int apply_write(struct applying *p)
{
	const struct op *op = p->op;
	struct afile *f;

	int err = afile_get(p, op->id, &f);
	if (err)
		return err;
	applying_lock_ids(p, op->id, 0);
	err = write_all(p, f->f, op->data, op->data_len, op->off);
	afile_dirty(p->a, f, op->data_len);
	if (!err)
		err = settle_attr(p, op->id);
	afile_put(p->a, f);
	tell(p, CHANGE_DATA, op->id, NULL, 0, op->off, op->data_len);
	return err;
}

int apply_fallocate(struct applying *p)
{
	struct layer *l = p->a->cfg.local;
	const struct op *op = p->op;
	bool shifts = op->flags & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE);
	struct afile *f;

	int err = afile_get(p, op->id, &f);
	if (err)
		return err;
	applying_lock_ids(p, op->id, 0);
	err = l->ops->fallocate(l, &p->call, f->f, (int)op->flags, op->off, op->len);
	afile_dirty(p->a, f, 0);
	if (!err)
		err = settle_attr(p, op->id);
	afile_put(p->a, f);
	tell(p, CHANGE_DATA, op->id, NULL, 0, op->off, shifts ? 0 : op->len);
	return err;
}

/* ---- copy ---- */

struct copying { struct file *in, *out; uint64_t off_in, off_out, left; };

/* Where the local file system can't share or copy by itself. */
static ssize_t copy_by_hand(struct applying *p, struct copying *c)
{
	struct layer *l = p->a->cfg.local;
	auto_free unsigned char *buf = malloc(COPY_BUFFER);

	if (!buf)
		return -ENOMEM;
	ssize_t n = l->ops->read(l, &p->call, c->in, buf, c->left < COPY_BUFFER ? c->left : COPY_BUFFER, c->off_in);
	if (n <= 0)
		return n;
	int err = write_all(p, c->out, buf, (size_t)n, c->off_out);
	return err ? err : n;
}

/* Until all is copied that the primary copied. */
static int copy_all(struct applying *p, struct copying *c)
{
	struct layer *l = p->a->cfg.local;

	while (c->left) {
		ssize_t n = l->ops->copy_range(l, &p->call, c->in, c->off_in, c->out, c->off_out, c->left);
		if (n == -EOPNOTSUPP || n == -EXDEV || n == -EINVAL || n == -ENOSYS)
			n = copy_by_hand(p, c);
		if (n <= 0)
			return n ? (int)n : -EUCLEAN;
		c->off_in += (uint64_t)n;
		c->off_out += (uint64_t)n;
		c->left -= (uint64_t)n;
	}
	return 0;
}

static int copy_opened(struct applying *p, struct file *in)
{
	const struct op *op = p->op;
	struct afile *out;
	int err = afile_get(p, op->id2, &out);

	if (err)
		return err;
	applying_lock_ids(p, op->id, op->id2);
	struct copying c = { in, out->f, op->off, op->off2, op->len };
	err = copy_all(p, &c);
	afile_dirty(p->a, out, op->len);
	if (!err)
		err = settle_attr(p, op->id2);
	afile_put(p->a, out);
	tell(p, CHANGE_DATA, op->id2, NULL, 0, op->off2, op->len);
	return err;
}

/* While a comparison runs the source may still be wrong here: the target is stated instead. */
int apply_copy(struct applying *p)
{
	struct layer *l = p->a->cfg.local;
	struct file *in;

	if (apply_tolerant(p->a))
		return -EUCLEAN;
	int err = l->ops->open(l, &p->call, p->op->id, O_RDONLY, &in);
	if (err)
		return err;
	err = copy_opened(p, in);
	int err2 = l->ops->release(l, &p->call, in);
	return err ? err : err2;
}
