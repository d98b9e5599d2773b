/*
 * Statements about one object: attributes, xattrs, contents. Each compares first and changes only what differs.
 *
 * OP_R_ATTR makes the times exact; statements of contents keep the times that they find, since they follow it or repair what the ordinary ops
 * left behind. (So a data repair needs no second OP_R_ATTR.) OP_R_XATTR may change mode and times: an OP_R_ATTR follows it.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "resync/sink_int.h"

int sink_known(struct resync_sink *s, uint64_t id, struct attr *a)
{
	struct call c = sink_call((struct timespec){ 0 });
	int err = s->cfg.bottom->ops->getattr(s->cfg.bottom, &c, id, NULL, a);

	if (err == -ENOENT || err == -ESTALE) {
		index_del(s->cfg.handles, id);
		return -ESTALE;
	}
	return err;
}

/* ---- OP_R_ATTR ---- */

int sink_set_attr(struct resync_sink *s, uint64_t id, const struct attr *cur, const struct attr *want)
{
	struct setattr sa = { .mode = want->mode & 07777, .uid = want->uid, .gid = want->gid, .mtime = want->mtime, .ctime = want->ctime };

	if (cur->uid != want->uid)
		sa.valid |= SET_UID;
	if (cur->gid != want->gid)
		sa.valid |= SET_GID;
	if (!S_ISLNK(want->mode) && (cur->mode != want->mode || sa.valid))
		sa.valid |= SET_MODE;
	if (time_cmp(cur->mtime, want->mtime) != 0)
		sa.valid |= SET_MTIME;
	if (!sa.valid && time_cmp(cur->ctime, want->ctime) == 0)
		return 0;
	sa.valid |= SET_CTIME;
	struct call c = sink_call(want->ctime);
	struct attr after;
	s->changed = true;
	int err = s->cfg.bottom->ops->setattr(s->cfg.bottom, &c, id, NULL, &sa, &after);
	if (!err)
		sink_tell(s, CHANGE_ATTR, id, NULL, 0);
	return err;
}

static bool same_target(struct resync_sink *s, const struct op *op, const char *target, size_t len)
{
	struct call c = sink_call((struct timespec){ 0 });
	char now[LAYER_SYMLINK_MAX + 1];
	ssize_t n = s->cfg.bottom->ops->readlink(s->cfg.bottom, &c, op->id, now, sizeof now);

	return n >= 0 && (size_t)n == len && !memcmp(now, target, len);
}

/* Is what ID names here the same kind of thing? What can't be changed in place makes it another object. */
static bool same_kind(struct resync_sink *s, const struct op *op, const struct attr *cur, const char *target, size_t len)
{
	if ((cur->mode & S_IFMT) != (op->attr.mode & S_IFMT))
		return false;
	if (S_ISCHR(cur->mode) || S_ISBLK(cur->mode))
		return cur->rdev == op->attr.rdev;
	return !S_ISLNK(cur->mode) || same_target(s, op, target, len);
}

/* The object as it should be in kind, made when it isn't here. */
static int have(struct resync_sink *s, const struct op *op, const char *target, size_t len, struct attr *cur)
{
	int err = sink_known(s, op->id, cur);

	if (!err && same_kind(s, op, cur, target, len))
		return 0;
	if (!err) {
		log_warn("resync: %016llx: is another kind of object here: made again", (unsigned long long)op->id);
		if (op->id == HANDLE_ROOT)
			return -EUCLEAN;
		err = sink_forget(s, op->id);
	}
	if (err && err != -ESTALE)
		return err;
	err = sink_make_in_limbo(s, op->id, &op->attr, target);
	return err ? err : sink_known(s, op->id, cur);
}

/* Sub-directories are counted in the index. The entries were made equal just before, so a count that differs was wrong. */
static int match_count(struct resync_sink *s, const struct op *op, const struct attr *cur)
{
	if (!S_ISDIR(cur->mode) || cur->nlink == op->attr.nlink)
		return 0;
	sink_tell(s, CHANGE_ATTR, op->id, NULL, 0);
	return index_add_nsub(s->cfg.handles, op->id, (int)(op->attr.nlink - cur->nlink));
}

static int match_flags(struct resync_sink *s, const struct op *op)
{
	const uint32_t mask = FS_APPEND_FL | FS_IMMUTABLE_FL | FS_NODUMP_FL | FS_NOATIME_FL | FS_SYNC_FL;
	struct call c = sink_call(op->attr.ctime);
	uint32_t now = 0;
	int err = resync_flags(s->cfg.bottom, &c, op->id, op->attr.mode, &now);

	if (err || now == (op->flags & mask))
		return err;
	s->changed = true;
	err = s->cfg.bottom->ops->setflags(s->cfg.bottom, &c, op->id, op->flags & mask);
	if (!err)
		err = index_set_ctime(s->cfg.handles, op->id, op->attr.ctime);
	return err;
}

static int match_attr(struct resync_sink *s, const struct op *op, const struct attr *cur)
{
	unsigned char digest[RESYNC_SUM_LEN];
	struct call c = sink_call(op->attr.ctime);
	int err = sink_set_attr(s, op->id, cur, &op->attr);

	if (!err)
		err = match_count(s, op, cur);
	if (!err)
		err = match_flags(s, op);
	if (!err)
		err = resync_xattr_digest(s->cfg.bottom, &c, op->id, digest);
	if (!err && memcmp(digest, op->blob, RESYNC_SUM_LEN) != 0)
		sink_report(s, (struct report){ .kind = REPORT_XATTR, .id = op->id });
	return err;
}

int sink_attr(struct resync_sink *s, const struct op *op)
{
	char target[LAYER_SYMLINK_MAX + 1];
	struct attr cur;

	if (op->blob_len < RESYNC_SUM_LEN || op->blob_len - RESYNC_SUM_LEN > LAYER_SYMLINK_MAX)
		return -EBADMSG;
	size_t len = op->blob_len - RESYNC_SUM_LEN;
	if (S_ISLNK(op->attr.mode) != (len > 0))
		return -EBADMSG;
	memcpy(target, (const char *)op->blob + RESYNC_SUM_LEN, len);
	target[len] = 0;
	int err = have(s, op, target, len, &cur);
	return err ? err : match_attr(s, op, &cur);
}

/* ---- OP_R_XATTR ---- */

static bool listed(const struct op *op, const char *want)
{
	struct dec d = dec_init(op->xattrs, op->xattrs_len);
	char name[256];
	const void *value;
	size_t len;

	while (op_xattrs_next(&d, name, &value, &len))
		if (!strcmp(name, want))
			return true;
	return false;
}

static int remove_extra(struct resync_sink *s, struct call *c, const struct op *op)
{
	auto_xattr_names struct xattr_names x;
	int err = resync_xattr_names(s->cfg.bottom, c, op->id, &x);

	for (size_t i = 0; !err && i < x.n; i++) {
		if (listed(op, x.name[i]))
			continue;
		err = s->cfg.bottom->ops->removexattr(s->cfg.bottom, c, op->id, x.name[i]);
		err = err == -ENODATA ? 0 : err;
	}
	return err;
}

static int set_listed(struct resync_sink *s, struct call *c, const struct op *op)
{
	struct dec d = dec_init(op->xattrs, op->xattrs_len);
	auto_free void *now = malloc(LAYER_XATTR_MAX);
	char name[256];
	const void *value;
	size_t len;
	int err = now ? 0 : -ENOMEM;

	while (!err && op_xattrs_next(&d, name, &value, &len)) {
		ssize_t n = s->cfg.bottom->ops->getxattr(s->cfg.bottom, c, op->id, name, now, LAYER_XATTR_MAX);
		if (n < 0 || (size_t)n != len || memcmp(now, value, len) != 0)
			err = s->cfg.bottom->ops->setxattr(s->cfg.bottom, c, op->id, name, value, len, 0);
	}
	return err;
}

int sink_xattr(struct resync_sink *s, const struct op *op)
{
	struct attr cur;
	int err = sink_known(s, op->id, &cur);

	if (err)
		return err == -ESTALE ? 0 : err;
	struct call c = sink_call(cur.ctime);
	s->changed = true;
	err = remove_extra(s, &c, op);
	if (!err)
		err = set_listed(s, &c, op);
	sink_tell(s, CHANGE_ATTR, op->id, NULL, 0);
	return err;
}

/* ---- contents ---- */

/* Before the first change of a statement of contents. -ESTALE after the old version went away whole: it is stated again. */
static int about_to_change(struct resync_sink *s, uint64_t id, const struct attr *cur)
{
	s->changed = true;
	int err = sink_keep(s, id, cur->size);
	if (err == -ESTALE)
		sink_dirty(s, id);
	return err;
}

static int set_size(struct resync_sink *s, uint64_t id, uint64_t size)
{
	struct setattr sa = { .valid = SET_SIZE, .size = size };
	struct call c = sink_call((struct timespec){ 0 });
	struct attr after;

	return s->cfg.bottom->ops->setattr(s->cfg.bottom, &c, id, NULL, &sa, &after);
}

/* Puts back the times that the object had; tells who caches. */
static int settle(struct resync_sink *s, uint64_t id, const struct attr *before)
{
	struct attr now;
	int err = sink_known(s, id, &now);

	if (!err)
		err = sink_set_attr(s, id, &now, before);
	sink_tell(s, CHANGE_DATA, id, NULL, 0);
	return err;
}

static int match_size(struct resync_sink *s, const struct op *op, const struct attr *cur, bool *touched)
{
	if (cur->size == op->attr.size)
		return 0;
	int err = about_to_change(s, op->id, cur);
	if (err)
		return err;
	*touched = true;
	return set_size(s, op->id, op->attr.size);
}

static uint64_t compare_sums(const unsigned char *mine, const unsigned char *theirs, unsigned n)
{
	uint64_t bits = 0;

	for (unsigned i = 0; i < n; i++)
		if (memcmp(mine + i * RESYNC_SUM_LEN, theirs + i * RESYNC_SUM_LEN, RESYNC_SUM_LEN) != 0)
			bits |= (uint64_t)1 << i;
	return bits;
}

static int match_sums(struct resync_sink *s, const struct op *op)
{
	unsigned char sums[RESYNC_CHUNK_BLOCKS * RESYNC_SUM_LEN];
	struct call c = sink_call((struct timespec){ 0 });
	struct file *f;
	int err = s->cfg.bottom->ops->open(s->cfg.bottom, &c, op->id, O_RDONLY, &f);

	if (err)
		return err;
	ssize_t got = resync_read(s->cfg.bottom, &c, f, s->buf, op->len, op->off);
	s->cfg.bottom->ops->release(s->cfg.bottom, &c, f);
	unsigned want = (unsigned)(op->blob_len / RESYNC_SUM_LEN);
	uint64_t bits = want == 64 ? UINT64_MAX : ((uint64_t)1 << want) - 1;	/* unreadable here: all of it comes */
	if (got == (ssize_t)op->len) {
		resync_sums(s->buf, op->len, sums);
		bits = compare_sums(sums, op->blob, want);
	} else if (got < 0) {
		log_warn("resync: %016llx: can't be read here (%s): sent again", (unsigned long long)op->id, strerror((int)-got));
	}
	if (bits)
		sink_report(s, (struct report){ .kind = REPORT_DATA, .id = op->id, .off = op->off, .len = op->len, .bits = bits });
	return 0;
}

static bool check_fits(const struct op *op)
{
	return op->len <= RESYNC_CHUNK && op->off % RESYNC_BLOCK == 0 && op->off + op->len <= op->attr.size &&
	       op->blob_len == (op->len + RESYNC_BLOCK - 1) / RESYNC_BLOCK * RESYNC_SUM_LEN;
}

int sink_check(struct resync_sink *s, const struct op *op)
{
	bool touched = false;
	struct attr cur;

	if (!check_fits(op))
		return -EBADMSG;
	int err = sink_known(s, op->id, &cur);
	if (err || !S_ISREG(cur.mode))
		return err == -ESTALE ? 0 : err;
	err = match_size(s, op, &cur, &touched);
	if (!err && touched)
		err = settle(s, op->id, &cur);
	if (!err && op->len)
		err = match_sums(s, op);
	return err == -ESTALE ? 0 : err;
}

static int write_span(struct resync_sink *s, struct file *f, const char *p, size_t len, uint64_t off)
{
	struct call c = sink_call((struct timespec){ 0 });

	for (size_t at = 0; at < len;) {
		struct wdata d = { .p = p + at, .len = len - at < LAYER_IO_MAX ? len - at : LAYER_IO_MAX };
		ssize_t n = s->cfg.bottom->ops->write(s->cfg.bottom, &c, f, &d, off + at, 0, NULL);
		if (n <= 0)
			return n < 0 ? (int)n : -EIO;
		at += (size_t)n;
	}
	return 0;
}

/* A hole where data are. */
static int punch(struct resync_sink *s, struct file *f, uint64_t off, uint64_t len)
{
	struct call c = sink_call((struct timespec){ 0 });

	return s->cfg.bottom->ops->fallocate(s->cfg.bottom, &c, f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, off, len);
}

static bool is_hole(struct resync_sink *s, struct file *f, uint64_t off, uint64_t len)
{
	struct call c = sink_call((struct timespec){ 0 });
	int64_t at = s->cfg.bottom->ops->lseek(s->cfg.bottom, &c, f, off, SEEK_DATA);

	return at == -ENXIO || (at >= 0 && (uint64_t)at >= off + len);
}

enum { SPARSE_GRAIN = 4096 };

static bool is_zero(const char *p, size_t len)
{
	return !len || (!p[0] && !memcmp(p, p + 1, len - 1));
}

/* How far from P on pieces of SPARSE_GRAIN are all zero, or all not. */
static size_t span_of(const char *p, size_t len, bool *zero)
{
	size_t n = 0;

	*zero = is_zero(p, len < SPARSE_GRAIN ? len : SPARSE_GRAIN);
	do
		n += len - n < SPARSE_GRAIN ? len - n : SPARSE_GRAIN;
	while (n < len && is_zero(p + n, len - n < SPARSE_GRAIN ? len - n : SPARSE_GRAIN) == *zero);
	return n;
}

/* What comes as data may be mostly a hole there: blocks are sent whole. Zeroes are left, or made, a hole. */
static int write_sparse(struct resync_sink *s, struct file *f, const struct op *op)
{
	const char *p = op->data;
	int err = 0;

	for (size_t at = 0, n; !err && at < op->data_len; at += n) {
		bool zero;
		n = span_of(p + at, op->data_len - at, &zero);
		if (!zero)
			err = write_span(s, f, p + at, n, op->off + at);
		else if (!is_hole(s, f, op->off + at, n))
			err = punch(s, f, op->off + at, n);
	}
	return err;
}

static int put_data(struct resync_sink *s, const struct op *op, const struct attr *cur, bool *touched)
{
	struct call c = sink_call((struct timespec){ 0 });
	struct file *f;
	int err = match_size(s, op, cur, touched);

	if (err || !op->len)
		return err;
	err = s->cfg.bottom->ops->open(s->cfg.bottom, &c, op->id, O_RDWR, &f);
	if (err)
		return err;
	if (op->data_len || !is_hole(s, f, op->off, op->len)) {
		err = about_to_change(s, op->id, cur);
		*touched = true;
		if (!err)
			err = op->data_len ? write_sparse(s, f, op) : punch(s, f, op->off, op->len);
	}
	int err2 = s->cfg.bottom->ops->release(s->cfg.bottom, &c, f);
	return err ? err : err2;
}

int sink_data(struct resync_sink *s, const struct op *op)
{
	bool touched = false;
	struct attr cur;

	if (op->off + op->len > op->attr.size)
		return -EBADMSG;
	int err = sink_known(s, op->id, &cur);
	if (err || !S_ISREG(cur.mode))
		return err == -ESTALE ? 0 : err;
	err = put_data(s, op, &cur, &touched);
	if (!err && touched)
		err = settle(s, op->id, &cur);
	return err == -ESTALE ? 0 : err;
}
