/*
 * Applying: one thread gives the ops one by one, in their order. Each is applied under its objects' locks:
 *
 *	names     what the name means now must be what it meant on the primary (the op has the id)
 *	change    through the layer below, as the call that made it there, but exact: ids, owners, modes, stamp from the op
 *	settle    attributes afterwards against the op's: what two local file systems may do differently (mode after a change of owner,
 *	          times) is set; what must come out equal (type, size, links, device) is compared
 *	tell      observers
 *
 * Outcomes: 0; a *resource* error (no space, I/O, memory: nothing can be said about the op, the stream ends and the standby leaves the sync
 * set); everything else is a *misfit*: strict mode calls that divergence (-EUCLEAN), tolerant mode reports the op's objects dirty and goes
 * on. A misfit that shows only after the change (settle) is no worse: those objects are compared, or the stream ends.
 *
 * Inode flags in the way are lifted by the local layer for our origin.
 */
#include "mirror/apply.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "mirror/apply_int.h"

/* ---- life ---- */

int apply_new(const struct apply_config *cfg, struct apply **out)
{
	struct apply *a = calloc(1, sizeof *a);
	int err;

	if (!a)
		return -ENOMEM;
	a->cfg = *cfg;
	err = files_start(a);
	if (err) {
		free(a);
		return err;
	}
	*out = a;
	return 0;
}

void apply_free(struct apply *a)
{
	if (!a)
		return;
	files_stop(a);
	free(a);
}

void apply_register(struct apply *a, unsigned first, unsigned last, apply_fn fn, void *arg)
{
	assert(first <= last && last <= OP_TYPE_LAST);
	for (unsigned t = first; t <= last; t++) {
		a->handler[t].fn = fn;
		a->handler[t].arg = arg;
	}
}

void apply_register_attach(struct apply *a, uint16_t kind, attach_fn fn, void *arg)
{
	assert(a->nattach < ATTACH_HANDLERS_MAX);
	a->attach[a->nattach].kind = kind;
	a->attach[a->nattach].fn = fn;
	a->attach[a->nattach++].arg = arg;
}

void apply_register_guard(struct apply *a, apply_guard_fn fn, void *arg)
{
	a->guard = fn;
	a->guard_arg = arg;
}

void apply_set_tolerant(struct apply *a, bool tolerant) { atomic_store(&a->tolerant, tolerant); }
bool apply_tolerant(const struct apply *a) { return atomic_load(&((struct apply *)(uintptr_t)a)->tolerant); }
const struct apply_config *apply_config_of(const struct apply *a) { return &a->cfg; }
void apply_drain(struct apply *a) { barriers_drain(a); }

/* ---- reports ---- */

void apply_report(struct apply *a, enum report_kind kind, uint64_t seq, uint64_t id)
{
	const struct report r = { .kind = (uint8_t)kind, .seq = seq, .id = id };

	if (kind == REPORT_DIRTY) {
		a->skipped++;
		if (id && a->told[id % TOLD_MAX] == id)
			return;
		a->told[id % TOLD_MAX] = id;
	}
	if (a->cfg.report)
		a->cfg.report(a->cfg.arg, &r);
}

void apply_stated(struct apply *a, uint64_t id)
{
	if (!id)
		memset(a->told, 0, sizeof a->told);
	else if (a->told[id % TOLD_MAX] == id)
		a->told[id % TOLD_MAX] = 0;
}

uint64_t apply_skipped(const struct apply *a) { return a->skipped; }

void apply_skip(struct apply *a, const struct op *op, uint64_t seq)
{
	const uint64_t ids[] = { op->parent, op->parent2, op->id, op->id2 };

	for (unsigned i = 0; i < ARRAY_LEN(ids); i++)
		if (id_valid(ids[i]))
			apply_report(a, REPORT_DIRTY, seq, ids[i]);
}

/* ---- steps of an op ---- */

void applying_call(struct applying *p)
{
	p->call = (struct call){ .origin = ORIGIN_APPLY, .uid = p->op->attr.uid, .gid = p->op->attr.gid, .locked = true,
				 .stamp = p->op->stamp, .new_id = p->op->id, .effect = &p->eff };
}

int applying_lock_entry(struct applying *p, uint64_t parent, const char *name, uint64_t extra)
{
	return objlock_entry(p->a->cfg.locks, &p->g, p->a->cfg.bottom, parent, name, extra);
}

void applying_lock_ids(struct applying *p, uint64_t id, uint64_t id2)
{
	objlock_ids(p->a->cfg.locks, &p->g, (uint64_t[]){ id, id2 }, 2);
}

void tell(struct applying *p, enum change_kind kind, uint64_t id, const char *name, uint64_t child, uint64_t off, uint64_t len)
{
	observers_tell(p->a->cfg.observers, &(struct change){ .kind = kind, .origin = ORIGIN_APPLY, .id = id, .name = name, .child = child,
							      .off = off, .len = len });
}

/* What must come out equal by itself. */
static bool same_kind(const struct attr *want, const struct attr *got)
{
	uint32_t type = want->mode & S_IFMT;

	if (type != (got->mode & S_IFMT) || want->nlink != got->nlink)
		return false;
	if ((type == S_IFREG || type == S_IFLNK) && want->size != got->size)
		return false;
	return (type != S_IFCHR && type != S_IFBLK) || want->rdev == got->rdev;
}

static uint32_t differing(const struct attr *want, const struct attr *got)
{
	uint32_t set = 0;

	if (want->uid != got->uid)
		set |= SET_UID;
	if (want->gid != got->gid)
		set |= SET_GID;
	if (want->mode != got->mode || (set && (want->mode & (S_ISUID | S_ISGID))))
		set |= SET_MODE;
	if (time_cmp(want->mtime, got->mtime))
		set |= SET_MTIME;
	if (set || time_cmp(want->ctime, got->ctime))
		set |= SET_CTIME;
	return S_ISLNK(want->mode) ? set & ~(uint32_t)SET_MODE : set;
}

int settle_attr(struct applying *p, uint64_t id)
{
	const struct attr *want = &p->op->attr, *got = &p->eff.attr;
	struct layer *l = p->a->cfg.local;
	uint32_t set = differing(want, got);
	bool same = same_kind(want, got);
	int err = 0;

	if (!same)
		log_warn("apply: %016llx: %s: mode %o, %u links, %llu bytes where the primary has %o, %u, %llu", (unsigned long long)id,
			 op_name(p->op->type), got->mode, got->nlink, (unsigned long long)got->size, want->mode, want->nlink,
			 (unsigned long long)want->size);
	p->settled = set;
	if (set) {
		const struct setattr s = { .valid = set, .mode = want->mode & 07777, .uid = want->uid, .gid = want->gid,
					   .mtime = want->mtime, .ctime = want->ctime };
		err = l->ops->setattr(l, &p->call, id, NULL, &s, NULL);
	}
	return err ? err : same ? 0 : -EUCLEAN;
}

/* ---- dispatch ---- */

static int apply_fsync(struct applying *p, uint64_t seq)
{
	barrier_start(p->a, p->op, seq);
	return 0;
}

static int apply_epoch(struct applying *p, uint64_t seq)
{
	const struct apply_config *cfg = &p->a->cfg;

	return cfg->epoch ? cfg->epoch(cfg->arg, p->op->epoch, seq, p->op->lsn) : 0;
}

static int dispatch(struct applying *p, uint64_t seq)
{
	const struct apply_config *cfg = &p->a->cfg;

	if (p->op->type != OP_FSYNC)
		files_changing(p->a, p->op);
	switch (p->op->type) {
	case OP_NOP: case OP_ATTACH: return 0;
	case OP_EPOCH: return apply_epoch(p, seq);
	case OP_CREATE: return apply_create(p);
	case OP_UNLINK: case OP_RMDIR: return apply_remove(p);
	case OP_RENAME: return apply_rename(p);
	case OP_LINK: return apply_link(p);
	case OP_SETATTR: return apply_setattr(p);
	case OP_WRITE: return apply_write(p);
	case OP_FALLOCATE: return apply_fallocate(p);
	case OP_COPY: return apply_copy(p);
	case OP_SETXATTR: case OP_REMOVEXATTR: return apply_xattr(p);
	case OP_SETFLAGS: return apply_setflags(p);
	case OP_FSYNC: return apply_fsync(p, seq);
	case OP_PURGE: return apply_purge(p);
	case OP_HANDOVER:
		if (cfg->handover)
			cfg->handover(cfg->arg, p->op->flags, p->op->lsn, seq);
		return 0;
	default: return -EBADMSG;
	}
}

/* Errors that say something about this node, not about the op. */
static bool is_resource(int err)
{
	switch (-err) {
	case ENOSPC: case EDQUOT: case EIO: case ENOMEM: case EMFILE: case ENFILE: case EROFS: case ENODEV: case ENXIO: case EBADMSG: case EINTR:
	case EAGAIN: case ETIMEDOUT: case ESHUTDOWN: return true;
	default: return false;
	}
}

static int outcome(struct applying *p, uint64_t seq, int err)
{
	const struct op *op = p->op;

	if (!err)
		return 0;
	if (!is_resource(err) && apply_tolerant(p->a)) {
		apply_skip(p->a, op, seq);
		return 0;
	}
	log_error("apply: %016llx: %s %s%s(seq %llu) can't be applied: %s", (unsigned long long)op->id, op_name(op->type), op->name ? op->name : "",
		  op->name ? " " : "", (unsigned long long)seq, strerror(-err));
	return is_resource(err) ? err : -EUCLEAN;
}

static void deliver(struct apply *a, const struct op *op, uint64_t seq)
{
	for (unsigned i = 0; i < a->nattach; i++)
		if (a->attach[i].kind == op->attach_kind)
			a->attach[i].fn(a->attach[i].arg, op->attach_kind, seq, op->attach, op->attach_len);
}

int apply_op(struct apply *a, const struct op *op, uint64_t seq)
{
	struct applying p = { .a = a, .op = op };
	int err = atomic_load(&a->flush_err);

	if (err)
		return err;
	if (op->type > OP_TYPE_LAST)
		return -EBADMSG;
	if (a->cfg.clock_seen && (op->stamp.tv_sec || op->stamp.tv_nsec))
		a->cfg.clock_seen(a->cfg.arg, op->stamp);
	if (a->handler[op->type].fn) {
		memset(a->made, 0, sizeof a->made);	/* it may change anything */
		err = a->handler[op->type].fn(a->handler[op->type].arg, a, op, seq);
	} else if (apply_tolerant(a) && a->guard && a->guard(a->guard_arg, op)) {
		apply_skip(a, op, seq);
	} else {
		applying_call(&p);
		err = dispatch(&p, seq);
		objlock_drop(&p.g);
		err = outcome(&p, seq, err);
	}
	if (!err && op->attach_len)
		deliver(a, op, seq);
	return err;
}
