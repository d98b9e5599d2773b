/*
 * Changes of objects by id: attributes, xattrs, flags, contents; open and release; fsync.
 *
 * An object that has no name left isn't streamed: nobody can find it on another node, and it is gone when its last user closes it. A
 * tmpfile is streamed, since it may get a name yet; when it is closed without one, a purge follows.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>

#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "mirror/interpose_int.h"

/* Emits OP, about the object of tx->eff.attr, when the peers have that. */
static void emit_object(struct txn *tx, struct op *op)
{
	op->attr = tx->eff.attr;
	if (streamed(tx->ip, &tx->eff.attr))
		txn_emit(tx, op);
	tx->flush[0] = tx->eff.attr.id;
}

/* Before a call that changes object ID: 0 or the error. */
static int begin_object(struct txn *tx, struct layer *l, struct call *c, uint64_t id, size_t bytes, uint64_t growth)
{
	int r = txn_begin(tx, l, c, bytes);

	if (!r && growth)
		r = txn_room(tx->ip, growth, 0);
	return r ? r : txn_lock_ids(tx, id, 0);
}

/* A change of contents failed. The local file system may have touched mtime and mode before it refused: they are stated. */
static void contents_failed(struct txn *tx, struct file *f)
{
	struct layer *b = tx->ip->cfg.below;
	uint64_t id = file_id(f);

	txn_failed(tx, id, 0, 0, 0);
	if (tx->eff.changed)
		return;
	if (b->ops->getattr(b, &tx->call, id, f, &tx->eff.attr))
		txn_restate(tx, id, 0, 0, 0);
	else
		emit_object(tx, &(struct op){ .type = OP_SETATTR, .id = id, .set = SET_MODE | SET_MTIME });
}

/* ---- attributes ---- */

/* Which attributes the op states. */
static uint32_t stated(uint32_t valid)
{
	uint32_t set = valid & (SET_MODE | SET_UID | SET_GID | SET_SIZE | SET_MTIME | SET_CTIME);

	if (valid & SET_MTIME_NOW)
		set |= SET_MTIME;
	if (valid & SET_KILL_PRIV)
		set |= SET_MODE;
	return set;
}

/* Is the object's ctime still what the caller saw? */
static int guarded(struct txn *tx, uint64_t id, struct file *f, struct timespec ctime)
{
	struct layer *b = tx->ip->cfg.below;
	struct attr a;
	int r = b->ops->getattr(b, &tx->call, id, f, &a);

	return r ? r : time_cmp(a.ctime, ctime) ? -ECANCELED : 0;
}

static int setattr_below(struct txn *tx, uint64_t id, struct file *f, const struct setattr *asked, struct attr *out)
{
	struct layer *b = tx->ip->cfg.below;
	struct setattr unguarded = *asked, *s = &unguarded;
	int r = s->valid & SET_GUARD ? guarded(tx, id, f, s->ctime) : 0;

	s->valid &= ~(uint32_t)SET_GUARD;
	if (!r)
		r = b->ops->setattr(b, &tx->call, id, f, s, out);
	txn_done(tx, r);
	if (r < 0) {
		txn_failed(tx, id, 0, 0, 0);
		return r;
	}
	emit_object(tx, &(struct op){ .type = OP_SETATTR, .id = id, .set = stated(s->valid) });
	if (s->valid & SET_SIZE)
		tell_data(tx, id, tx->eff.attr.size, 0);
	else
		tell_attr(tx, id);
	return r;
}

int ip_setattr(struct layer *l, struct call *c, uint64_t id, struct file *f, const struct setattr *s, struct attr *out)
{
	struct txn tx;
	int r = begin_object(&tx, l, c, id, 0, 0);

	if (!r)
		r = setattr_below(&tx, id, f, s, out);
	return txn_end(&tx, r, true);
}

static int xattr_below(struct txn *tx, uint64_t id, const char *name, const void *value, size_t size, int flags, bool removes)
{
	struct layer *b = tx->ip->cfg.below;
	int r = removes ? b->ops->removexattr(b, &tx->call, id, name) : b->ops->setxattr(b, &tx->call, id, name, value, size, flags);

	txn_done(tx, r);
	if (r < 0) {
		txn_failed(tx, id, 0, 0, 0);
		return r;
	}
	emit_object(tx, &(struct op){ .type = removes ? OP_REMOVEXATTR : OP_SETXATTR, .id = id, .name = name, .blob = value,
				      .blob_len = size });
	tell_attr(tx, id);
	return r;
}

int ip_setxattr(struct layer *l, struct call *c, uint64_t id, const char *name, const void *value, size_t size, int flags)
{
	struct txn tx;
	int r = begin_object(&tx, l, c, id, strlen(name) + size, GROWTH_NAME + size);

	if (!r)
		r = xattr_below(&tx, id, name, value, size, flags, false);
	return txn_end(&tx, r, true);
}

int ip_removexattr(struct layer *l, struct call *c, uint64_t id, const char *name)
{
	struct txn tx;
	int r = begin_object(&tx, l, c, id, strlen(name), 0);

	if (!r)
		r = xattr_below(&tx, id, name, NULL, 0, 0, true);
	return txn_end(&tx, r, true);
}

static int setflags_below(struct txn *tx, uint64_t id, uint32_t flags)
{
	struct layer *b = tx->ip->cfg.below;
	struct op op = { .type = OP_SETFLAGS, .id = id };
	int r = b->ops->setflags(b, &tx->call, id, flags);

	txn_done(tx, r);
	if (r < 0) {
		txn_failed(tx, id, 0, 0, 0);
		return r;
	}
	if (b->ops->getflags(b, &tx->call, id, &op.flags))
		op.flags = flags;
	emit_object(tx, &op);
	tell_attr(tx, id);
	return r;
}

int ip_setflags(struct layer *l, struct call *c, uint64_t id, uint32_t flags)
{
	struct txn tx;
	int r = begin_object(&tx, l, c, id, 0, 0);

	if (!r)
		r = setflags_below(&tx, id, flags);
	return txn_end(&tx, r, true);
}

/* ---- open and release ---- */

static bool writes(int flags) { return (flags & O_ACCMODE) != O_RDONLY; }

/* O_TRUNC is a change of its own: it is made through setattr, in the order. */
static int truncate_opened(struct layer *l, struct call *c, uint64_t id, struct file *f)
{
	struct setattr s = { .valid = SET_SIZE | SET_MTIME_NOW | SET_KILL_PRIV };
	struct attr a;

	return ip_setattr(l, c, id, f, &s, &a);
}

static int open_writer(struct interpose *ip, struct call *c, uint64_t id, int flags, struct file **out)
{
	int r = gate_enter(ip);

	if (r)
		return r;
	r = ip->cfg.below->ops->open(ip->cfg.below, c, id, flags, out);
	if (r >= 0 && c->origin != ORIGIN_NFS)
		atomic_fetch_add(&ip->writers, 1);
	pthread_rwlock_unlock(&ip->gate);
	return r;
}

int ip_open(struct layer *l, struct call *c, uint64_t id, int flags, struct file **out)
{
	struct interpose *ip = ip_of(l);
	int clean = flags & ~(O_CREAT | O_EXCL | O_TRUNC), r;

	if (writes(flags) || (flags & O_TRUNC))
		r = open_writer(ip, c, id, writes(flags) ? clean : (clean & ~O_ACCMODE) | O_RDWR, out);
	else
		r = l->below->ops->open(l->below, c, id, clean, out);
	if (r < 0)
		return r;
	tmp_opened(ip, id);
	if (flags & O_TRUNC)
		r = truncate_opened(l, c, id, *out);
	if (r < 0) {
		ip_release(l, c, *out);
		*out = NULL;
	}
	return r;
}

/* A tmpfile that never got a name is gone. On a node that isn't primary any more, the new primary sees to it. */
static void purge(struct interpose *ip, uint64_t id)
{
	struct op op = { .type = OP_PURGE, .id = id };
	uint64_t seq;

	if (gate_enter(ip))
		return;
	int err = interpose_emit(ip, &op, 0xffff, &seq);
	if (err && err != -ESHUTDOWN && ip->cfg.restate)
		ip->cfg.restate(ip->cfg.arg, &id, 1);
	pthread_rwlock_unlock(&ip->gate);
}

int ip_release(struct layer *l, struct call *c, struct file *f)
{
	struct interpose *ip = ip_of(l);
	uint64_t id = file_id(f);

	if (writes(file_flags(f)) && c->origin != ORIGIN_NFS)
		atomic_fetch_sub(&ip->writers, 1);
	int r = l->below->ops->release(l->below, c, f);
	if (tmp_closed(ip, id))
		purge(ip, id);
	return r;
}

/* ---- contents ---- */

static ssize_t write_below(struct txn *tx, struct file *f, const struct wdata *d, uint64_t off, unsigned flags, struct attr *attr)
{
	struct layer *b = tx->ip->cfg.below;
	uint64_t id = file_id(f);
	ssize_t n = b->ops->write(b, &tx->call, f, d, off, flags, attr);

	txn_done(tx, n);
	if (n < 0)
		contents_failed(tx, f);
	if (n <= 0)
		return n;
	if (flags & WRITE_APPEND)
		off = tx->eff.attr.size - (uint64_t)n;
	emit_object(tx, &(struct op){ .type = OP_WRITE, .id = id, .off = off, .data = d->p, .data_len = (size_t)n, .data_owner = d->owner });
	tx->file = f;
	tell_data(tx, id, off, (uint64_t)n);
	return n;
}

/* The standbys have no room for LEN more: only what doesn't make the file longer goes on. */
static int room_within(struct txn *tx, struct file *f, uint64_t off, size_t len, unsigned flags)
{
	struct layer *b = tx->ip->cfg.below;
	struct attr a;

	if (!txn_room(tx->ip, len, 0))
		return 0;
	if (flags & WRITE_APPEND)
		return -ENOSPC;
	int r = b->ops->getattr(b, &tx->call, file_id(f), f, &a);
	return r ? r : off + len > a.size ? -ENOSPC : 0;
}

/* The role went while the file was open, or its pages were dirty in the kernel's memory. */
static void late_write(struct interpose *ip, const struct file *f, const struct call *c)
{
	atomic_fetch_add(&ip->refused, 1);
	if (!atomic_exchange(&ip->refused_said, true))
		log_warn("mirror: %016llx: a write (process %d) is refused: this node is not primary any more: status counts them (refused_writes)",
			 (unsigned long long)file_id(f), (int)c->pid);
}

ssize_t ip_write(struct layer *l, struct call *c, struct file *f, const struct wdata *d, uint64_t off, unsigned flags, struct attr *attr)
{
	struct txn tx;
	ssize_t n = begin_object(&tx, l, c, file_id(f), d->len, 0);

	if (n == -EROFS)
		late_write(ip_of(l), f, c);
	if (!n)
		n = room_within(&tx, f, off, d->len, flags);
	if (!n)
		n = write_below(&tx, f, d, off, flags, attr);
	int err = txn_end(&tx, n < 0 ? (int)n : 0, false);
	return err ? err : n;
}

static int fallocate_below(struct txn *tx, struct file *f, int mode, uint64_t off, uint64_t len)
{
	struct layer *b = tx->ip->cfg.below;
	uint64_t id = file_id(f);
	int r = b->ops->fallocate(b, &tx->call, f, mode, off, len);

	txn_done(tx, r);
	if (r < 0) {
		contents_failed(tx, f);
		return r;
	}
	emit_object(tx, &(struct op){ .type = OP_FALLOCATE, .id = id, .flags = (uint32_t)mode, .off = off, .len = len });
	tx->file = f;
	tell_data(tx, id, off, mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE) ? 0 : len);
	return r;
}

int ip_fallocate(struct layer *l, struct call *c, struct file *f, int mode, uint64_t off, uint64_t len)
{
	struct txn tx;
	bool grows = !(mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_COLLAPSE_RANGE));
	int r = begin_object(&tx, l, c, file_id(f), 0, grows ? len : 0);

	if (!r)
		r = fallocate_below(&tx, f, mode, off, len);
	return txn_end(&tx, r, false);
}

struct copy_args {
	struct file *in, *out;
	uint64_t off_in, off_out;
	size_t len;
};

static ssize_t copy_below(struct txn *tx, const struct copy_args *a)
{
	struct layer *b = tx->ip->cfg.below;
	uint64_t from = file_id(a->in), to = file_id(a->out);
	struct attr src;
	int r = b->ops->getattr(b, &tx->call, from, a->in, &src);

	if (r)
		return r;
	if (!streamed(tx->ip, &src))	/* the peers don't have the source: the caller reads and writes instead */
		return -EOPNOTSUPP;
	ssize_t n = b->ops->copy_range(b, &tx->call, a->in, a->off_in, a->out, a->off_out, a->len);
	txn_done(tx, n);
	if (n <= 0) {
		contents_failed(tx, a->out);
		return n;
	}
	emit_object(tx, &(struct op){ .type = OP_COPY, .id = from, .id2 = to, .off = a->off_in, .off2 = a->off_out, .len = (uint64_t)n });
	tx->file = a->out;
	tell_data(tx, to, a->off_out, (uint64_t)n);
	return n;
}

ssize_t ip_copy_range(struct layer *l, struct call *c, struct file *in, uint64_t off_in, struct file *out, uint64_t off_out, size_t len)
{
	const struct copy_args a = { in, out, off_in, off_out, len };
	struct txn tx;
	ssize_t n = txn_begin(&tx, l, c, 0);

	if (!n)
		n = txn_room(tx.ip, len, 0);
	if (!n)
		n = txn_lock_ids(&tx, file_id(in), file_id(out));
	if (!n)
		n = copy_below(&tx, &a);
	int err = txn_end(&tx, n < 0 ? (int)n : 0, false);
	return err ? err : n;
}

/* ---- fsync ---- */

/* Does an fsync of this object concern the peers? An object without a name is this node's own affair. */
static bool concerns_peers(struct interpose *ip, struct call *c, uint64_t id, struct file *f)
{
	struct attr a;

	if (ip->cfg.durability == DURABILITY_ASYNC || !queue_has_peers(ip->cfg.queue))
		return false;
	return ip->cfg.below->ops->getattr(ip->cfg.below, c, id, f, &a) || streamed(ip, &a);
}

/* On a standby. What was changed while this node was primary: it can't promise any more that the others have it. LOST: the caller came to a primary. */
static int fsync_standby(struct interpose *ip, struct call *c, uint64_t id, struct file *f, bool datasync, bool lost)
{
	struct layer *b = ip->cfg.below;
	int err = b->ops->fsync(b, c, id, f, datasync);

	if (err && ip->cfg.flush_failed)
		ip->cfg.flush_failed(ip->cfg.arg, id, err);
	return err ? err : lost || c->origin == ORIGIN_NFS || (f && writes(file_flags(f))) ? -EROFS : 0;
}

int ip_fsync(struct layer *l, struct call *c, uint64_t id, struct file *f, bool datasync)
{
	struct interpose *ip = ip_of(l);
	uint64_t barrier = 0, ids[FLUSH_MAX] = { f ? file_id(f) : id };
	bool waited;
	int err;

	do {
		if (gate_enter_waited(ip, &waited))
			return fsync_standby(ip, c, ids[0], f, datasync, waited);
		pthread_rwlock_unlock(&ip->gate);
		err = epoch_ready(ip);
	} while (err == -EAGAIN);
	if (!err)
		err = gate_enter(ip);
	if (err)
		return err;
	if (concerns_peers(ip, c, ids[0], f))
		err = barrier_append(ip, ids, datasync, &barrier);
	settling_begins(ip);
	pthread_rwlock_unlock(&ip->gate);
	c->seq = barrier;
	if (!err)
		err = flush_and_confirm(ip, c, f, datasync, ids, false, barrier);
	settling_ends(ip);
	return err;
}
