/*
 * The interposing layer: life, the gate, the volume clock, and the steps that all changes share (interpose_int.h). The changes themselves are in
 * interpose_names.c and interpose_files.c; reading calls pass straight through.
 *
 * While the role is given up changes are *held*: who comes waits before the gate, without a lock, until the node is writable again or read-only.
 *
 * Order of locks: gate (shared), volume mutex, object stripes, then leaves (tmp_mu, the queue's mutex). Nothing that may block on a peer happens
 * under any of them: queue_admit and open_epoch come before the gate, flushing and waiting after it.
 *
 * What waits for what, after the change is made and unlocked (contract *Durability*):
 *
 *	                            async          commit             sync
 *	stable (NFS, O_SYNC)        flush here     flush + DURABLE    flush + DURABLE
 *	has an attachment           -              RECEIVED           RECEIVED        (attach_lazy: as if it had none)
 *	namespace, write            -              -                  RECEIVED; a namespace op without standby: flush here
 *
 * An acknowledgement needs an open epoch, too: when the ack set changed while we waited, the new epoch is opened before we return.
 *
 * The layer below gets a copy of the caller's call, so that nothing of ours (stamp, new id) is left in it.
 */
#include "mirror/interpose.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "mirror/interpose_int.h"

enum { NS_PER_S = 1000000000, SETTLED_POLL_US = 1000 };
static const int64_t CLOCK_MAX_S = INT64_C(9000000000);	/* beyond, a stamp doesn't fit into 63 bits of nanoseconds */

/* ---- the gate and the epoch ---- */

static void set_held(struct interpose *ip, bool held)
{
	auto_lock(&ip->hold_mu);
	atomic_store(&ip->held, held);
	pthread_cond_broadcast(&ip->hold_cond);
}

void interpose_set_writable(struct interpose *ip, bool writable)
{
	pthread_rwlock_wrlock(&ip->gate);
	ip->writable = writable;
	if (writable)
		atomic_store(&ip->refused_said, false);
	set_held(ip, false);
	pthread_rwlock_unlock(&ip->gate);
}

bool interpose_hold(struct interpose *ip)
{
	pthread_rwlock_wrlock(&ip->gate);
	bool writable = ip->writable;
	if (writable)
		set_held(ip, true);
	pthread_rwlock_unlock(&ip->gate);
	return writable;
}

void interpose_hold_standby(struct interpose *ip)
{
	pthread_rwlock_wrlock(&ip->gate);
	if (!ip->writable)
		set_held(ip, true);
	pthread_rwlock_unlock(&ip->gate);
}

int interpose_wait_idle(struct interpose *ip, const struct timespec *until)
{
	auto_lock(&ip->hold_mu);
	while (atomic_load(&ip->settling))
		if (pthread_cond_timedwait(&ip->hold_cond, &ip->hold_mu, until) == ETIMEDOUT)
			return -ETIMEDOUT;
	return 0;
}

void interpose_wait_settled(struct interpose *ip)
{
	while (atomic_load(&ip->settling))
		usleep(SETTLED_POLL_US);
}

static void wait_released(struct interpose *ip)
{
	auto_lock(&ip->hold_mu);
	while (atomic_load(&ip->held))
		pthread_cond_wait(&ip->hold_cond, &ip->hold_mu);
}

int gate_enter_waited(struct interpose *ip, bool *waited)
{
	for (*waited = false;; *waited = true) {
		pthread_rwlock_rdlock(&ip->gate);
		bool held = atomic_load(&ip->held);
		if (ip->writable && !held)
			return 0;
		pthread_rwlock_unlock(&ip->gate);
		if (!held)
			return -EROFS;
		wait_released(ip);
	}
}

int gate_enter(struct interpose *ip) { return gate_enter_waited(ip, &(bool){ false }); }

void interpose_pass(struct interpose *ip)
{
	pthread_rwlock_wrlock(&ip->gate);
	pthread_rwlock_unlock(&ip->gate);
}

void settling_begins(struct interpose *ip) { atomic_fetch_add(&ip->settling, 1); }

void settling_ends(struct interpose *ip)
{
	if (atomic_fetch_sub(&ip->settling, 1) != 1 || !atomic_load(&ip->held))
		return;
	auto_lock(&ip->hold_mu);
	pthread_cond_broadcast(&ip->hold_cond);
}

void interpose_want_epoch(struct interpose *ip) { atomic_fetch_add(&ip->epoch_wanted, 1); }

int epoch_ready(struct interpose *ip)
{
	if (atomic_load(&ip->epoch_open) == atomic_load(&ip->epoch_wanted))
		return 0;
	auto_lock(&ip->epoch_mu);
	while (atomic_load(&ip->epoch_open) != atomic_load(&ip->epoch_wanted)) {
		uint64_t want = atomic_load(&ip->epoch_wanted);
		int err = ip->cfg.open_epoch ? ip->cfg.open_epoch(ip->cfg.arg) : 0;
		if (err)
			return err;
		atomic_store(&ip->epoch_open, want);
	}
	return 0;
}

/* ---- the volume clock ---- */

static int64_t clock_raise(struct interpose *ip, int64_t ns)
{
	int64_t seen = atomic_load_explicit(&ip->clock_ns, memory_order_relaxed);

	while (seen < ns)
		if (atomic_compare_exchange_weak(&ip->clock_ns, &seen, ns))
			return ns;
	return seen;
}

struct timespec interpose_stamp(struct interpose *ip)
{
	struct timespec t = clock_wall();
	int64_t gran = ip->cfg.time_gran_ns ? ip->cfg.time_gran_ns : 1;
	int64_t ns = t.tv_sec < 0 ? 0 : t.tv_sec > CLOCK_MAX_S ? CLOCK_MAX_S * NS_PER_S : t.tv_sec * NS_PER_S + t.tv_nsec;

	ns = clock_raise(ip, ns - ns % gran);
	ns -= ns % gran;
	return (struct timespec){ .tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S };
}

void interpose_clock_seen(struct interpose *ip, struct timespec t)
{
	if (t.tv_sec >= 0 && t.tv_sec <= CLOCK_MAX_S)
		clock_raise(ip, t.tv_sec * NS_PER_S + t.tv_nsec);
}

/* ---- a change ---- */

int txn_room(const struct interpose *ip, uint64_t bytes, uint64_t inodes)
{
	uint64_t b = UINT64_MAX, i = UINT64_MAX;

	if (ip->cfg.room)
		ip->cfg.room(ip->cfg.arg, &b, &i);
	return b < bytes || i < inodes ? -ENOSPC : 0;
}

/* Before a change that brings BYTES: 0, then the gate is held; else the error. */
static int enter(struct interpose *ip, size_t bytes)
{
	int err;

	while ((err = epoch_ready(ip)) == -EAGAIN)
		wait_released(ip);
	if (!err)
		err = queue_admit(ip->cfg.queue, bytes + OP_OVERHEAD);
	if (err)
		return err == -ESHUTDOWN ? -EROFS : err;
	return gate_enter(ip);
}

/* What an attachment counts with; it may come only later, from the hook. */
static size_t attach_bytes(const struct call *c)
{
	return c->after && c->attach_len < LAYER_ATTACH_RESERVE ? LAYER_ATTACH_RESERVE : c->attach_len;
}

int txn_begin(struct txn *tx, struct layer *l, struct call *c, size_t bytes)
{
	struct interpose *ip = ip_of(l);

	*tx = (struct txn){ .ip = ip, .c = c };
	c->seq = 0;
	int err = enter(ip, bytes + attach_bytes(c));
	tx->gated = !err;
	return err;
}

void txn_locked(struct txn *tx)
{
	tx->call = *tx->c;
	tx->call.locked = true;
	tx->call.stamp = interpose_stamp(tx->ip);
	tx->call.effect = &tx->eff;
	tx->call.before = NULL;
	tx->call.after = NULL;
	if (tx->c->before)
		tx->c->before(tx->c);
}

void txn_done(struct txn *tx, ssize_t r)
{
	if (tx->c->after && !tx->done)
		tx->c->after(tx->c, r, &tx->eff);
	tx->done = true;
}

int txn_lock_ids(struct txn *tx, uint64_t id, uint64_t id2)
{
	objlock_ids(tx->ip->cfg.locks, &tx->g, (uint64_t[]){ id, id2 }, 2);
	txn_locked(tx);
	return 0;
}

int txn_lock_entry(struct txn *tx, uint64_t parent, const char *name, uint64_t extra)
{
	int err = objlock_entry(tx->ip->cfg.locks, &tx->g, tx->ip->cfg.below, parent, name, extra);

	tx->entry[0].parent = parent;
	tx->entry[0].name = name;
	if (!err)
		txn_locked(tx);
	return err;
}

/* Nobody knows what became of these objects: whoever caches them, the front end that called us too, has to look again. */
static void tell_unsure(struct txn *tx, const uint64_t *ids, unsigned n)
{
	const struct observers *os = tx->ip->cfg.observers;

	for (unsigned i = 0; i < n; i++)
		observers_tell(os, &(struct change){ .kind = CHANGE_DATA, .origin = ORIGIN_INTERNAL, .id = ids[i] });
	for (unsigned i = 0; i < ARRAY_LEN(tx->entry); i++)
		if (tx->entry[i].name)
			observers_tell(os, &(struct change){ .kind = CHANGE_ENTRY, .origin = ORIGIN_INTERNAL, .id = tx->entry[i].parent,
							     .name = tx->entry[i].name });
}

void txn_restate(struct txn *tx, uint64_t id, uint64_t id2, uint64_t parent, uint64_t parent2)
{
	const uint64_t all[] = { id, id2, parent, parent2 };
	uint64_t ids[ARRAY_LEN(all)];
	unsigned n = 0;

	for (unsigned i = 0; i < ARRAY_LEN(all); i++)
		if (id_valid(all[i]))
			ids[n++] = all[i];
	tell_unsure(tx, ids, n);
	if (n && tx->ip->cfg.restate)
		tx->ip->cfg.restate(tx->ip->cfg.arg, ids, n);
}

static void count(struct interpose *ip, const struct op *op)
{
	atomic_fetch_add_explicit(&ip->ops, 1, memory_order_relaxed);
	atomic_fetch_add_explicit(&ip->by_type[op->type], 1, memory_order_relaxed);
	if (op->data_len)
		atomic_fetch_add_explicit(&ip->bytes, op->data_len, memory_order_relaxed);
}

int interpose_emit(struct interpose *ip, struct op *op, uint16_t peers, uint64_t *seq)
{
	int err = queue_append(ip->cfg.queue, op, peers, seq);

	if (!err)
		count(ip, op);
	return err;
}

void txn_emit(struct txn *tx, struct op *op)
{
	struct interpose *ip = tx->ip;

	op->stamp = tx->call.stamp;
	op->attach = tx->c->attach;
	op->attach_len = tx->c->attach_len;
	op->attach_kind = tx->c->attach_kind;
	int err = interpose_emit(ip, op, 0xffff, &tx->c->seq);
	tx->emitted = true;
	if (!err)
		return;
	tx->err = -EIO;	/* what isn't in the order can't be promised */
	if (err == -ESHUTDOWN)
		return;
	log_error("mirror: %016llx: %s can't be streamed: %s: its objects will be compared", (unsigned long long)op->id, op_name(op->type),
		  strerror(-err));
	txn_restate(tx, op->id, op->id2, op->parent, op->parent2);
}

void txn_failed(struct txn *tx, uint64_t id, uint64_t id2, uint64_t parent, uint64_t parent2)
{
	if (tx->eff.changed)
		txn_restate(tx, id, id2, parent, parent2);
}

/* ---- durability ---- */

int barrier_append(struct interpose *ip, const uint64_t ids[FLUSH_MAX], bool datasync, uint64_t *seq)
{
	struct op op = { .type = OP_FSYNC, .id = ids[0], .id2 = ids[1], .parent = ids[2], .flags = datasync ? OP_FSYNC_DATA : 0 };

	*seq = 0;
	if (!queue_has_peers(ip->cfg.queue))
		return 0;
	int err = interpose_emit(ip, &op, 0xffff, seq);
	return err == -ESHUTDOWN ? -EIO : err;
}

/* Who waits for confirmations is waited for before the role is given up. */
static int epoch_ready_to_confirm(struct interpose *ip)
{
	int err = epoch_ready(ip);
	return err == -EAGAIN ? -EIO : err;
}

/* Waits for the peers and sees to it that the epoch in which we acknowledge is open. */
static int confirm(struct interpose *ip, uint64_t seq, enum queue_confirm what)
{
	int err = queue_wait(ip->cfg.queue, seq, what);

	if (!err)
		err = epoch_ready_to_confirm(ip);
	return err == -ESHUTDOWN ? -EIO : err;
}

/* As confirm() for a barrier; a peer that came back without having answered is asked again. */
static int confirm_barrier(struct interpose *ip, const uint64_t ids[FLUSH_MAX], bool datasync, uint64_t seq)
{
	for (;;) {
		int err = confirm(ip, seq, CONFIRM_DURABLE);
		if (err != -EAGAIN)
			return err;
		err = barrier_append(ip, ids, datasync, &seq);
		if (err)
			return err;
		if (!seq)
			return epoch_ready_to_confirm(ip);
	}
}

/* An object that is gone needs no flush. */
static int flush_id(struct interpose *ip, struct call *c, uint64_t id)
{
	struct layer *b = ip->cfg.below;
	int err = b->ops->fsync(b, c, id, NULL, false);

	return err == -ESTALE || err == -ENOENT ? 0 : err;
}

static int flush_here(struct interpose *ip, struct call *c, struct file *file, bool datasync, const uint64_t ids[FLUSH_MAX], bool with_parent)
{
	struct layer *b = ip->cfg.below;
	uint64_t id = file ? file_id(file) : 0;
	int err = file ? b->ops->fsync(b, c, id, file, datasync) : 0;

	for (unsigned i = with_parent; !err && i < FLUSH_MAX; i++)
		if (ids[i] && (!file || ids[i] != file_id(file)))
			err = flush_id(ip, c, id = ids[i]);
	if (err && ip->cfg.flush_failed)
		ip->cfg.flush_failed(ip->cfg.arg, id, err);
	return err;
}

int flush_and_confirm(struct interpose *ip, struct call *c, struct file *file, bool datasync, const uint64_t ids[FLUSH_MAX], bool with_parent,
		      uint64_t barrier)
{
	struct call lower = *c;
	lower.attach_len = 0;
	int err = flush_here(ip, &lower, file, datasync, ids, with_parent);

	if (err) {
		if (barrier)
			queue_forget(ip->cfg.queue, barrier);
		return err;
	}
	return barrier ? confirm_barrier(ip, ids, datasync, barrier) : epoch_ready_to_confirm(ip);
}

/* ---- the end of a change ---- */

static void emit_attachment(struct txn *tx)
{
	struct op op = { .type = OP_ATTACH };

	if (!tx->call.stamp.tv_sec)
		tx->call.stamp = interpose_stamp(tx->ip);
	txn_emit(tx, &op);
}

/* Nothing is held any more. */
static int settle(struct txn *tx, bool stable, bool namespace)
{
	struct interpose *ip = tx->ip;
	enum durability d = ip->cfg.durability;
	bool wait = tx->c->seq && (d == DURABILITY_SYNC || (d == DURABILITY_COMMIT && tx->c->attach_len && !tx->c->attach_lazy));
	int err;

	if (stable)
		return flush_and_confirm(ip, tx->c, tx->file, false, tx->flush, tx->eff.with_parent, tx->barrier);
	if (!wait)
		return 0;
	err = confirm(ip, tx->c->seq, CONFIRM_RECEIVED);
	if (err || !namespace || d != DURABILITY_SYNC || queue_ackset(ip->cfg.queue))
		return err;
	return flush_and_confirm(ip, tx->c, tx->file, false, tx->flush, tx->eff.with_parent, 0);
}

int txn_end(struct txn *tx, int r, bool namespace)
{
	struct interpose *ip = tx->ip;
	int err = 0;

	if (!tx->gated)
		return r;
	txn_done(tx, r);
	if (tx->c->attach_len && !tx->emitted)
		emit_attachment(tx);
	bool stable = tx->c->stable && r >= 0;
	if (stable && tx->emitted && !tx->err && ip->cfg.durability != DURABILITY_ASYNC)
		err = barrier_append(ip, tx->flush, false, &tx->barrier);
	objlock_drop(&tx->g);
	settling_begins(ip);
	pthread_rwlock_unlock(&ip->gate);
	tx->gated = false;
	if (!err)
		err = tx->err;
	if (!err && (tx->emitted || stable))
		err = settle(tx, stable, namespace && r >= 0);
	settling_ends(ip);
	return err ? err : r;
}

/* ---- attachments alone ---- */

int interpose_attach_begin(struct interpose *ip, size_t len) { return enter(ip, len); }
void interpose_attach_end(struct interpose *ip) { pthread_rwlock_unlock(&ip->gate); }

int interpose_attach_emit(struct interpose *ip, uint16_t kind, const void *data, uint32_t len, uint16_t peers, uint64_t *seq)
{
	struct op op = { .type = OP_ATTACH, .stamp = interpose_stamp(ip), .attach = data, .attach_len = len, .attach_kind = kind };

	return interpose_emit(ip, &op, peers, seq);
}

int interpose_attach_wait(struct interpose *ip, uint64_t seq)
{
	settling_begins(ip);
	int err = ip->cfg.durability == DURABILITY_ASYNC ? 0 : confirm(ip, seq, CONFIRM_RECEIVED);
	settling_ends(ip);
	return err;
}

int interpose_attach(struct interpose *ip, uint16_t kind, const void *data, uint32_t len, bool wait, uint64_t *seq)
{
	int err = interpose_attach_begin(ip, len);

	if (err)
		return err;
	err = interpose_attach_emit(ip, kind, data, len, 0xffff, seq);
	interpose_attach_end(ip);
	return err || !wait ? err : interpose_attach_wait(ip, *seq);
}

/* ---- observers ---- */

void tell_entry(struct txn *tx, uint64_t parent, const char *name, uint64_t child)
{
	observers_tell(tx->ip->cfg.observers, &(struct change){ .kind = CHANGE_ENTRY, .origin = tx->c->origin, .id = parent, .name = name,
								 .child = child });
}

void tell_attr(struct txn *tx, uint64_t id)
{
	observers_tell(tx->ip->cfg.observers, &(struct change){ .kind = CHANGE_ATTR, .origin = tx->c->origin, .id = id });
}

void tell_data(struct txn *tx, uint64_t id, uint64_t off, uint64_t len)
{
	observers_tell(tx->ip->cfg.observers, &(struct change){ .kind = CHANGE_DATA, .origin = tx->c->origin, .id = id, .off = off, .len = len });
}

/* ---- tmpfiles ---- */

static struct tmp **tmp_find(struct interpose *ip, uint64_t id)
{
	struct tmp **t = &ip->tmp[id % TMP_HASH];

	while (*t && (*t)->id != id)
		t = &(*t)->next;
	return t;
}

static void tmp_remove(struct interpose *ip, struct tmp **at)
{
	struct tmp *gone = *at;

	*at = gone->next;
	atomic_fetch_sub(&ip->ntmp, 1);
	free(gone);
}

int tmp_add(struct interpose *ip, uint64_t id)
{
	struct tmp *t = malloc(sizeof *t);

	if (!t)
		return -ENOMEM;
	auto_lock(&ip->tmp_mu);
	*t = (struct tmp){ .id = id, .opens = 1, .next = ip->tmp[id % TMP_HASH] };
	ip->tmp[id % TMP_HASH] = t;
	atomic_fetch_add(&ip->ntmp, 1);
	return 0;
}

bool tmp_has(struct interpose *ip, uint64_t id)
{
	if (!atomic_load(&ip->ntmp))
		return false;
	auto_lock(&ip->tmp_mu);
	return *tmp_find(ip, id) != NULL;
}

void tmp_opened(struct interpose *ip, uint64_t id)
{
	if (!atomic_load(&ip->ntmp))
		return;
	auto_lock(&ip->tmp_mu);
	struct tmp *t = *tmp_find(ip, id);
	if (t)
		t->opens++;
}

void tmp_named(struct interpose *ip, uint64_t id)
{
	if (!atomic_load(&ip->ntmp))
		return;
	auto_lock(&ip->tmp_mu);
	struct tmp **t = tmp_find(ip, id);
	if (*t)
		tmp_remove(ip, t);
}

bool tmp_closed(struct interpose *ip, uint64_t id)
{
	if (!atomic_load(&ip->ntmp))
		return false;
	auto_lock(&ip->tmp_mu);
	struct tmp **t = tmp_find(ip, id);
	if (!*t || --(*t)->opens)
		return false;
	tmp_remove(ip, t);
	return true;
}

/* ---- reading calls ---- */

static int ip_lookup(struct layer *l, struct call *c, uint64_t parent, const char *name, struct attr *out)
{
	return l->below->ops->lookup(l->below, c, parent, name, out);
}

static int ip_resolve(struct layer *l, uint64_t parent, const char *name, uint64_t *id, uint32_t *type)
{
	return l->below->ops->resolve(l->below, parent, name, id, type);
}

static ssize_t ip_readlink(struct layer *l, struct call *c, uint64_t id, char *buf, size_t size)
{
	return l->below->ops->readlink(l->below, c, id, buf, size);
}

static int ip_getattr(struct layer *l, struct call *c, uint64_t id, struct file *f, struct attr *out)
{
	return l->below->ops->getattr(l->below, c, id, f, out);
}

static int ip_access(struct layer *l, struct call *c, uint64_t id, unsigned want, unsigned *granted)
{
	return l->below->ops->access(l->below, c, id, want, granted);
}

static ssize_t ip_getxattr(struct layer *l, struct call *c, uint64_t id, const char *name, void *value, size_t size)
{
	return l->below->ops->getxattr(l->below, c, id, name, value, size);
}

static ssize_t ip_listxattr(struct layer *l, struct call *c, uint64_t id, char *list, size_t size)
{
	return l->below->ops->listxattr(l->below, c, id, list, size);
}

static int ip_getflags(struct layer *l, struct call *c, uint64_t id, uint32_t *flags)
{
	return l->below->ops->getflags(l->below, c, id, flags);
}

static ssize_t ip_read(struct layer *l, struct call *c, struct file *f, void *buf, size_t size, uint64_t off)
{
	return l->below->ops->read(l->below, c, f, buf, size, off);
}

static int64_t ip_lseek(struct layer *l, struct call *c, struct file *f, uint64_t off, int whence)
{
	return l->below->ops->lseek(l->below, c, f, off, whence);
}

static int ip_opendir(struct layer *l, struct call *c, uint64_t id, struct dir **out)
{
	return l->below->ops->opendir(l->below, c, id, out);
}

static int ip_readdir(struct layer *l, struct call *c, struct dir *d, uint64_t pos, readdir_fn fn, void *arg)
{
	return l->below->ops->readdir(l->below, c, d, pos, fn, arg);
}

static int ip_releasedir(struct layer *l, struct call *c, struct dir *d)
{
	return l->below->ops->releasedir(l->below, c, d);
}

/* What is free on the volume is free on all its nodes. */
static int ip_statfs(struct layer *l, struct call *c, struct statvfs *out)
{
	struct interpose *ip = ip_of(l);
	uint64_t bytes = UINT64_MAX, inodes = UINT64_MAX;
	int err = l->below->ops->statfs(l->below, c, out);

	if (err || !ip->cfg.room)
		return err;
	ip->cfg.room(ip->cfg.arg, &bytes, &inodes);
	uint64_t blocks = out->f_frsize ? bytes / out->f_frsize : 0;
	if (bytes != UINT64_MAX && blocks < out->f_bavail)
		out->f_bavail = blocks;
	if (bytes != UINT64_MAX && blocks < out->f_bfree)
		out->f_bfree = blocks;
	if (inodes < out->f_ffree)
		out->f_ffree = inodes;
	if (inodes < out->f_favail)
		out->f_favail = inodes;
	return 0;
}

static void ip_forget(struct layer *l, uint64_t id) { l->below->ops->forget(l->below, id); }

static void ip_destroy(struct layer *l) { interpose_free(ip_of(l)); }

static const struct layer_ops interpose_ops = {
	.destroy = ip_destroy, .lookup = ip_lookup, .resolve = ip_resolve, .create = ip_create, .tmpfile = ip_tmpfile, .unlink = ip_unlink,
	.rmdir = ip_rmdir, .rename = ip_rename, .link = ip_link, .forget = ip_forget, .readlink = ip_readlink, .getattr = ip_getattr,
	.setattr = ip_setattr, .access = ip_access,
	.getxattr = ip_getxattr, .listxattr = ip_listxattr, .setxattr = ip_setxattr, .removexattr = ip_removexattr,
	.getflags = ip_getflags, .setflags = ip_setflags, .open = ip_open, .release = ip_release, .read = ip_read, .write = ip_write,
	.fsync = ip_fsync, .fallocate = ip_fallocate, .copy_range = ip_copy_range, .lseek = ip_lseek, .opendir = ip_opendir,
	.readdir = ip_readdir, .releasedir = ip_releasedir, .statfs = ip_statfs,
};

/* ---- life ---- */

int interpose_new(const struct interpose_config *cfg, struct interpose **out)
{
	struct interpose *ip = calloc(1, sizeof *ip);
	pthread_rwlockattr_t a;

	if (!ip)
		return -ENOMEM;
	ip->cfg = *cfg;
	ip->layer = (struct layer){ .ops = &interpose_ops, .below = cfg->below, .name = "mirror" };
	pthread_rwlockattr_init(&a);
	pthread_rwlockattr_setkind_np(&a, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&ip->gate, &a);
	pthread_rwlockattr_destroy(&a);
	pthread_mutex_init(&ip->epoch_mu, NULL);
	pthread_mutex_init(&ip->hold_mu, NULL);
	cond_init_mono(&ip->hold_cond);
	pthread_mutex_init(&ip->tmp_mu, NULL);
	*out = ip;
	return 0;
}

void interpose_free(struct interpose *ip)
{
	if (!ip)
		return;
	for (unsigned i = 0; i < TMP_HASH; i++)
		while (ip->tmp[i])
			tmp_remove(ip, &ip->tmp[i]);
	pthread_mutex_destroy(&ip->tmp_mu);
	pthread_mutex_destroy(&ip->epoch_mu);
	pthread_mutex_destroy(&ip->hold_mu);
	pthread_cond_destroy(&ip->hold_cond);
	pthread_rwlock_destroy(&ip->gate);
	free(ip);
}

struct layer *interpose_layer(struct interpose *ip) { return &ip->layer; }
uint64_t interpose_writers(struct interpose *ip) { return atomic_load(&ip->writers); }

void interpose_stats(struct interpose *ip, struct interpose_stats *out)
{
	out->ops = atomic_load(&ip->ops);
	out->bytes = atomic_load(&ip->bytes);
	out->refused = atomic_load(&ip->refused);
	for (unsigned i = 0; i <= OP_TYPE_LAST; i++)
		out->by_type[i] = atomic_load(&ip->by_type[i]);
}
