/*
 * What the primary says of one object: reads it below the mirroring layer, under the object's locks, and puts the statement into the order
 * before they are dropped. Room in the queue is waited for before they are taken.
 *
 *   directory   OP_R_DIR per range of positions, OP_R_ATTR with the last one (the entries' changes disturb its times on the peer)
 *   file        OP_R_ATTR and the first chunk together, then chunk by chunk up to the size that it had at first (what was appended since
 *               is in the stream). A chunk is OP_R_CHECK; a long hole is stated as such, whatever its length
 *   others      OP_R_ATTR
 *   O_TMPFILE   OP_R_PLACE in limbo, then as a file
 *
 * An object that is gone, or has no name left, is skipped: its parent's statement covers it.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "resync/source_int.h"

enum { HOLE_MIN = 1 << 20 };	/* shorter holes are compared as zeros */

static struct call locked_call(void)
{
	return (struct call){ .origin = ORIGIN_RESYNC, .locked = true };
}

static bool is_gone(int err)
{
	return err == -ESTALE || err == -ENOENT;
}

static int admit(struct resync *r, size_t bytes)
{
	return queue_admit_statement(r->cfg.queue, bytes);
}

/* Under the lock. -ESTALE: not to be stated. TMP: it lives in limbo. */
static int look(struct resync *r, uint64_t id, struct attr *a, bool *tmp)
{
	struct hentry he;
	struct call c = locked_call();
	int err = index_get(r->cfg.handles, id, &he);

	if (!err)
		err = r->cfg.local->ops->getattr(r->cfg.local, &c, id, NULL, a);
	if (err)
		return is_gone(err) ? -ESTALE : err;
	*tmp = he.flags & HENTRY_TMPFILE;
	return a->nlink || *tmp ? 0 : -ESTALE;
}

/* Appends the target of symlink ID to the blob. */
static int add_target(struct resync *r, uint64_t id)
{
	struct call c = locked_call();
	char target[LAYER_SYMLINK_MAX + 1];
	ssize_t n = r->cfg.local->ops->readlink(r->cfg.local, &c, id, target, sizeof target);

	if (n < 0)
		return (int)n;
	enc_raw(&r->enc, target, (size_t)n);
	return 0;
}

static int emit_attr(struct resync *r, uint64_t id, const struct attr *a)
{
	struct op op = { .type = OP_R_ATTR, .id = id, .attr = *a };
	struct call c = locked_call();
	unsigned char digest[RESYNC_SUM_LEN];
	int err = resync_xattr_digest(r->cfg.local, &c, id, digest);

	if (!err)
		err = resync_flags(r->cfg.local, &c, id, a->mode, &op.flags);
	enc_reset(&r->enc);
	enc_raw(&r->enc, digest, sizeof digest);
	if (!err && S_ISLNK(a->mode))
		err = add_target(r, id);
	if (!err)
		err = r->enc.err;
	op.blob = r->enc.p;
	op.blob_len = r->enc.len;
	return err ? err : source_emit(r, &op, 0);
}

static int emit_place(struct resync *r, uint64_t id, const struct attr *a, uint64_t parent, const char *name)
{
	struct op op = { .type = OP_R_PLACE, .id = id, .parent = parent, .name = name, .attr = *a };

	enc_reset(&r->enc);
	int err = S_ISLNK(a->mode) ? add_target(r, id) : 0;
	op.blob = r->enc.p;
	op.blob_len = r->enc.len;
	return err ? err : source_emit(r, &op, 0);
}

/* ---- files ---- */

static int emit_check(struct resync *r, uint64_t id, uint64_t size, uint64_t off, size_t len)
{
	unsigned char sums[RESYNC_CHUNK_BLOCKS * RESYNC_SUM_LEN];
	unsigned n = resync_sums(r->buf, len, sums);
	struct op op = { .type = OP_R_CHECK, .id = id, .attr.size = size, .off = off, .len = len, .blob = sums,
			 .blob_len = n * RESYNC_SUM_LEN };
	int err = source_emit(r, &op, n / 16);

	auto_lock(&r->mu);
	r->progress.bytes_checked += len;
	return err;
}

static int emit_hole(struct resync *r, uint64_t id, uint64_t size, uint64_t off, uint64_t len)
{
	struct op op = { .type = OP_R_DATA, .id = id, .attr.size = size, .off = off, .len = len };

	return source_emit(r, &op, 0);
}

/* Where the data begin at or behind OFF, SIZE when there are none. */
static int64_t data_from(struct layer *l, struct call *c, struct file *f, uint64_t off, uint64_t size)
{
	int64_t at = l->ops->lseek(l, c, f, off, SEEK_DATA);

	if (at == -ENXIO)
		return (int64_t)size;
	return at < 0 || (uint64_t)at < size ? at : (int64_t)size;
}

/* States what is at *OFF: a hole, or a chunk; moves *OFF behind it. */
static int state_piece(struct resync *r, struct call *c, struct file *f, uint64_t id, uint64_t size, uint64_t *off)
{
	int64_t data = data_from(r->cfg.local, c, f, *off, size);

	if (data < 0)
		return (int)data;
	uint64_t hole_end = (uint64_t)data == size ? size : (uint64_t)data & ~(uint64_t)(RESYNC_BLOCK - 1);
	if (hole_end > *off && (hole_end - *off >= HOLE_MIN || hole_end == size)) {
		int err = emit_hole(r, id, size, *off, hole_end - *off);
		*off = hole_end;
		return err;
	}
	size_t len = size - *off < RESYNC_CHUNK ? (size_t)(size - *off) : RESYNC_CHUNK;
	ssize_t n = resync_read(r->cfg.local, c, f, r->buf, len, *off);
	if (n != (ssize_t)len)
		return n < 0 ? (int)n : -EIO;
	int err = emit_check(r, id, size, *off, len);
	*off += len;
	return err;
}

/* Under the lock. */
static int state_chunk(struct resync *r, uint64_t id, uint64_t size, uint64_t *off)
{
	struct call c = locked_call();
	struct file *f;

	if (*off >= size)
		return emit_check(r, id, size, 0, 0);
	int err = r->cfg.local->ops->open(r->cfg.local, &c, id, O_RDONLY, &f);
	if (err)
		return err;
	err = state_piece(r, &c, f, id, size, off);
	r->cfg.local->ops->release(r->cfg.local, &c, f);
	return err;
}

static int state_file_start(struct resync *r, uint64_t id, uint64_t *off, uint64_t *end)
{
	auto_objguard struct objguard g = { 0 };
	struct attr a;
	bool tmp;

	objlock_ids(r->cfg.locks, &g, &id, 1);
	int err = look(r, id, &a, &tmp);
	if (!err && tmp)
		err = emit_place(r, id, &a, HANDLE_LIMBO, "");
	if (!err)
		err = emit_attr(r, id, &a);
	*end = err ? 0 : a.size;
	return err ? err : state_chunk(r, id, a.size, off);
}

static int state_file_more(struct resync *r, uint64_t id, uint64_t *off)
{
	auto_objguard struct objguard g = { 0 };
	struct attr a;
	bool tmp;

	objlock_ids(r->cfg.locks, &g, &id, 1);
	int err = look(r, id, &a, &tmp);
	if (!err && *off >= a.size)
		err = -ESTALE;	/* truncated meanwhile, which is in the stream */
	return err ? err : state_chunk(r, id, a.size, off);
}

static int state_file(struct resync *r, uint64_t id)
{
	uint64_t off = 0, end = 0;
	int err = admit(r, 16384);

	if (!err)
		err = state_file_start(r, id, &off, &end);
	while (!err && off < end) {
		err = source_breathe(r);
		if (!err)
			err = admit(r, 4096);
		if (!err)
			err = state_file_more(r, id, &off);
	}
	return err;
}

/* ---- directories ---- */

struct range { struct enc *e; unsigned n; uint64_t last; bool more; };

static int add_entry(void *arg, const struct dirent_info *d)
{
	struct range *g = arg;

	if (strcmp(d->name, ".") != 0 && strcmp(d->name, "..") != 0 && id_valid(d->id)) {
		if (g->n == RESYNC_DIR_NAMES || g->e->len >= RESYNC_DIR_BYTES) {
			g->more = true;
			return 1;
		}
		op_entries_add(g->e, d->id, d->type & S_IFMT, d->name);
		g->n++;
	}
	g->last = d->pos;
	return 0;
}

/* Under the lock: the entries behind *POS. */
static int state_range(struct resync *r, uint64_t id, uint64_t *pos, bool *more)
{
	struct range g = { .e = &r->enc, .last = *pos };
	struct layer *l = r->cfg.local;
	struct call c = locked_call();
	struct dir *d;
	int err = l->ops->opendir(l, &c, id, &d);

	if (err)
		return err;
	enc_reset(&r->enc);
	err = l->ops->readdir(l, &c, d, *pos, add_entry, &g);
	l->ops->releasedir(l, &c, d);
	if (err < 0 || r->enc.err)
		return err < 0 ? err : r->enc.err;
	struct op op = { .type = OP_R_DIR, .id = id, .off = *pos ? *pos + 1 : 0, .off2 = g.more ? g.last + 1 : UINT64_MAX,
			 .blob = r->enc.p, .blob_len = r->enc.len };
	*pos = g.last;
	*more = g.more;
	return source_emit(r, &op, g.n);
}

static int state_dir_some(struct resync *r, uint64_t id, uint64_t *pos, bool *more)
{
	auto_objguard struct objguard g = { 0 };
	struct attr a;
	bool tmp;

	objlock_ids(r->cfg.locks, &g, &id, 1);
	int err = look(r, id, &a, &tmp);
	if (!err)
		err = state_range(r, id, pos, more);
	return err || *more ? err : emit_attr(r, id, &a);
}

static int state_dir(struct resync *r, uint64_t id)
{
	uint64_t pos = 0;
	bool more = true;
	int err = 0;

	while (!err && more) {
		err = pos ? source_breathe(r) : 0;
		if (!err)
			err = admit(r, 2 * RESYNC_DIR_BYTES);
		if (!err)
			err = state_dir_some(r, id, &pos, &more);
	}
	return err;
}

/* ---- others ---- */

static int state_plain(struct resync *r, uint64_t id)
{
	int err = admit(r, 8192);

	if (err)
		return err;
	auto_objguard struct objguard g = { 0 };
	struct attr a;
	bool tmp;
	objlock_ids(r->cfg.locks, &g, &id, 1);
	err = look(r, id, &a, &tmp);
	return err ? err : emit_attr(r, id, &a);
}

int state_object(struct resync *r, uint64_t id)
{
	struct hentry he;
	int err = index_get(r->cfg.handles, id, &he);

	if (!err)
		err = S_ISDIR(he.type) ? state_dir(r, id) : S_ISREG(he.type) ? state_file(r, id) : state_plain(r, id);
	return is_gone(err) ? 0 : err;
}

/* ---- answers to reports ---- */

int state_missing(struct resync *r, const struct task *t)
{
	int err = admit(r, 16384);

	if (err)
		return err;
	auto_objguard struct objguard g = { 0 };
	uint64_t ids[] = { t->parent, t->id }, now;
	uint32_t type;
	struct attr a;
	bool tmp;
	objlock_ids(r->cfg.locks, &g, ids, 2);
	err = r->cfg.local->ops->resolve(r->cfg.local, t->parent, t->name, &now, &type);
	if (!err && now != t->id)
		return 0;
	if (!err)
		err = look(r, t->id, &a, &tmp);
	if (!err)
		err = emit_place(r, t->id, &a, t->parent, t->name);
	if (!err)
		err = emit_attr(r, t->id, &a);
	return is_gone(err) || err == -ENOTDIR ? 0 : err;
}

static int emit_setxattr(struct resync *r, uint64_t id, const struct attr *a, const char *name, const void *value, size_t len)
{
	struct op op = { .type = OP_SETXATTR, .id = id, .attr = *a, .stamp = a->ctime, .name = name, .blob = value, .blob_len = len };

	return source_emit(r, &op, 1);
}

/* All of them: as many as fit into one statement, the others as ordinary ops behind it. */
static int emit_xattrs(struct resync *r, uint64_t id, const struct attr *a)
{
	struct call c = locked_call();
	auto_xattr_names struct xattr_names x;
	auto_free char *value = malloc(LAYER_XATTR_MAX);
	int err = resync_xattr_names(r->cfg.local, &c, id, &x);
	size_t i = 0;

	if (!value)
		err = -ENOMEM;
	enc_reset(&r->enc);
	for (; !err && i < x.n && i < OP_XATTRS_MAX && r->enc.len < RESYNC_XATTRS_BYTES; i++) {
		ssize_t n = r->cfg.local->ops->getxattr(r->cfg.local, &c, id, x.name[i], value, LAYER_XATTR_MAX);
		if (n >= 0)
			op_xattrs_add(&r->enc, x.name[i], value, (size_t)n);
		else if (n != -ENODATA)
			err = (int)n;
	}
	struct op op = { .type = OP_R_XATTR, .id = id, .xattrs = r->enc.p, .xattrs_len = r->enc.len };
	if (!err)
		err = r->enc.err ? r->enc.err : source_emit(r, &op, 0);
	for (; !err && i < x.n; i++) {
		ssize_t n = r->cfg.local->ops->getxattr(r->cfg.local, &c, id, x.name[i], value, LAYER_XATTR_MAX);
		err = n >= 0 ? emit_setxattr(r, id, a, x.name[i], value, (size_t)n) : n == -ENODATA ? 0 : (int)n;
	}
	return err;
}

int state_xattrs(struct resync *r, uint64_t id)
{
	int err = admit(r, 2 * RESYNC_XATTRS_BYTES);

	if (err)
		return err;
	auto_objguard struct objguard g = { 0 };
	struct attr a;
	bool tmp;
	objlock_ids(r->cfg.locks, &g, &id, 1);
	err = look(r, id, &a, &tmp);
	if (!err)
		err = emit_xattrs(r, id, &a);
	if (!err)
		err = emit_attr(r, id, &a);
	return is_gone(err) ? 0 : err;
}

static int emit_bytes(struct resync *r, struct call *c, struct file *f, uint64_t id, uint64_t size, uint64_t off, size_t len)
{
	auto_blk struct blk *b = blk_new(len);

	if (!b)
		return -ENOMEM;
	ssize_t n = resync_read(r->cfg.local, c, f, b->data, len, off);
	if (n != (ssize_t)len)
		return n < 0 ? (int)n : -EIO;
	struct op op = { .type = OP_R_DATA, .id = id, .attr.size = size, .off = off, .len = len, .data = b->data, .data_len = len,
			 .data_owner = b };
	return source_emit(r, &op, 0);
}

/* [OFF, END), block by block where holes begin and end. */
static int emit_run(struct resync *r, struct call *c, struct file *f, uint64_t id, uint64_t size, uint64_t off, uint64_t end)
{
	struct layer *l = r->cfg.local;
	int err = 0;

	while (!err && off < end) {
		int64_t data = data_from(l, c, f, off, size);
		if (data < 0)
			return (int)data;
		uint64_t hole_end = (uint64_t)data >= end ? end : (uint64_t)data & ~(uint64_t)(RESYNC_BLOCK - 1);
		if (hole_end > off) {
			err = emit_hole(r, id, size, off, hole_end - off);
			off = hole_end;
			continue;
		}
		int64_t hole = l->ops->lseek(l, c, f, off, SEEK_HOLE);
		if (hole < 0)
			return (int)hole;
		uint64_t stop = ((uint64_t)hole + RESYNC_BLOCK - 1) & ~(uint64_t)(RESYNC_BLOCK - 1);
		if (stop > end || stop <= off)
			stop = end;
		err = emit_bytes(r, c, f, id, size, off, (size_t)(stop - off));
		off = stop;
	}
	return err;
}

/* The blocks of the chunk at OFF that BITS names, neighbours together. */
static int emit_blocks(struct resync *r, struct call *c, struct file *f, uint64_t id, uint64_t size, uint64_t off, uint64_t bits)
{
	int err = 0;

	for (unsigned i = 0; i < RESYNC_CHUNK_BLOCKS && !err; i++) {
		unsigned n = i;
		while (n < RESYNC_CHUNK_BLOCKS && (bits >> n & 1))
			n++;
		uint64_t from = off + (uint64_t)i * RESYNC_BLOCK, to = off + (uint64_t)n * RESYNC_BLOCK;
		if (n == i || from >= size)
			continue;
		err = emit_run(r, c, f, id, size, from, to < size ? to : size);
		i = n;
	}
	return err;
}

int state_data(struct resync *r, uint64_t id, uint64_t off, uint64_t bits)
{
	int err = off % RESYNC_BLOCK || off > INT64_MAX - RESYNC_CHUNK ? -EBADMSG : admit(r, RESYNC_CHUNK + 16384);

	if (err)
		return err;
	auto_objguard struct objguard g = { 0 };
	struct call c = locked_call();
	struct file *f;
	struct attr a;
	bool tmp;
	objlock_ids(r->cfg.locks, &g, &id, 1);
	err = look(r, id, &a, &tmp);
	if (!err && !S_ISREG(a.mode))
		err = -EBADMSG;
	if (!err)
		err = r->cfg.local->ops->open(r->cfg.local, &c, id, O_RDONLY, &f);
	if (err)
		return is_gone(err) ? 0 : err;
	err = emit_blocks(r, &c, f, id, a.size, off, bits);
	r->cfg.local->ops->release(r->cfg.local, &c, f);
	return err;
}
