/*
 * The standby's side: the handlers of OP_R_*, all in apply's one thread.
 *
 *   idle --OP_R_BEGIN--> round (inconsistent, durably; tolerant) --final OP_R_END, nothing dirty since the probe--> idle (consistent; strict)
 *
 * Statements are also accepted outside a round: single objects of a level standby stated again.
 *
 * The end, in this order: limbo is emptied (but for the primary's live O_TMPFILE files), everything is made durable, "inconsistent" is cleared, apply
 * becomes strict, ENDED is sent. A crash before the third step leaves the node inconsistent: the next comparison starts from the beginning and finds
 * nearly everything equal.
 *
 * So that this step is short, a thread of its own starts syncfs now and then while the round is on.
 *
 * keep_lost: before contents are replaced or cut, and when an object is about to be purged, its whole version goes to .tandemfs/lost/SESSION/ under the
 * path that it had. Done once per object, remembered in a bounded set; when that overflows, a version is kept twice rather than not at all.
 */
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "fs/base/log.h"
#include "resync/sink_int.h"

/* ---- telling ---- */

void sink_report(struct resync_sink *s, struct report rep)
{
	rep.seq = s->seq;
	if (rep.kind != REPORT_ENDED)
		s->reports++;
	s->ac->report(s->ac->arg, &rep);
}

void sink_dirty(struct resync_sink *s, uint64_t id)
{
	apply_report(s->a, REPORT_DIRTY, s->seq, id);
}

void sink_tell(struct resync_sink *s, enum change_kind kind, uint64_t id, const char *name, uint64_t child)
{
	struct change ch = { .kind = kind, .origin = ORIGIN_RESYNC, .id = id, .child = child, .name = name };

	observers_tell(s->ac->observers, &ch);
}

/* ---- lost versions ---- */

void sink_made(struct resync_sink *s, uint64_t id)
{
	if (!s->session)
		return;
	if (idset_add(&s->kept, id) == -ENOSPC) {
		idset_pop(&s->kept);
		idset_add(&s->kept, id);
	}
}

void sink_note_path(struct resync_sink *s, uint64_t id, uint64_t parent, const char *name)
{
	char path[4096 + 256];

	if (!s->session || !id || s->npaths == PATHS_MAX || local_path_of(s->cfg.bottom, parent, path, 4096))
		return;
	size_t len = strlen(path);
	snprintf(path + len, sizeof path - len, "%s%s", len && path[len - 1] != '/' ? "/" : "", name);
	char *copy = strdup(path);
	if (copy)
		s->paths[s->npaths++] = (struct old_path){ id, copy };
}

/* Where ID's old version goes. Newest note first: an object may have been moved aside twice. */
static void lost_path(struct resync_sink *s, uint64_t id, char path[4096])
{
	for (size_t i = s->npaths; i-- > 0;) {
		if (s->paths[i].id == id) {
			snprintf(path, 4096, "%s", s->paths[i].path);
			return;
		}
	}
	if (local_path_of(s->cfg.bottom, id, path, 4096) || strstr(path, HIDDEN_DIR))
		snprintf(path, 4096, "%016llx", (unsigned long long)id);
}

/* A path that is taken gets a suffix. */
static int keep_as(struct resync_sink *s, uint64_t id, const char *path)
{
	char numbered[4096 + 16];
	int err = local_keep_lost(s->cfg.bottom, id, s->session, path);

	for (unsigned i = 1; err == -EEXIST && i < 1000; i++) {
		snprintf(numbered, sizeof numbered, "%s.%u", path, i);
		err = local_keep_lost(s->cfg.bottom, id, s->session, numbered);
	}
	return err;
}

static int keep_version(struct resync_sink *s, uint64_t id)
{
	auto_free char *path = malloc(4096);

	if (!path)
		return -ENOMEM;
	lost_path(s, id, path);
	const char *relative = path;
	while (*relative == '/')
		relative++;
	int err = keep_as(s, id, relative);
	if (!err)
		log_info("resync: /%s: its version is kept in %s/lost/%s", relative, HIDDEN_DIR, s->session);
	return err;
}

int sink_keep(struct resync_sink *s, uint64_t id, uint64_t size)
{
	struct attr a;

	if (!s->session || !size || idset_has(&s->kept, id))
		return 0;
	int err = keep_version(s, id);
	if (err)
		return err;
	sink_made(s, id);
	return sink_known(s, id, &a);	/* from limbo it was moved, not copied */
}

static void forget_paths(struct resync_sink *s)
{
	while (s->npaths)
		free(s->paths[--s->npaths].path);
}

int resync_sink_keep_lost(struct resync_sink *s, const char *session)
{
	free(s->session);
	s->session = NULL;
	forget_paths(s);
	if (!session)
		return 0;
	if (!s->paths)
		s->paths = calloc(PATHS_MAX, sizeof *s->paths);
	if (!s->kept.max && idset_init(&s->kept, KEPT_MAX))
		return -ENOMEM;
	idset_clear(&s->kept);
	s->session = strdup(session);
	return s->session && s->paths ? 0 : -ENOMEM;
}

/* Does OP destroy contents or a name of an object whose version is not kept yet? Then its objects are stated instead, which keeps it. */
static bool destroys_unkept(void *arg, const struct op *op)
{
	struct resync_sink *s = arg;
	uint64_t id;

	if (!s->session)		/* ops may come before OP_R_BEGIN, too */
		return false;
	switch (op->type) {
	case OP_WRITE: case OP_FALLOCATE: case OP_UNLINK: case OP_RMDIR: id = op->id; break;
	case OP_COPY: id = op->id2; break;
	case OP_SETATTR: id = op->set & SET_SIZE ? op->id : 0; break;
	case OP_RENAME: id = op->flags & RENAME_EXCHANGE ? 0 : op->id2; break;
	default: return false;
	}
	struct hentry e;
	return id && !idset_has(&s->kept, id) && !index_get(s->cfg.handles, id, &e);
}

/* ---- limbo ---- */

struct limbo_ids { struct resync_sink *s; uint64_t id[1024]; size_t n; };

/* Entries that shall go, at most a batch. */
static int add_orphan(void *arg, uint64_t id)
{
	struct limbo_ids *b = arg;
	struct hentry he;

	bool tmp = !index_get(b->s->cfg.handles, id, &he) && (he.flags & HENTRY_TMPFILE);
	if (tmp && (!b->s->round || !idset_has(&b->s->tmp_old, id) || idset_has(&b->s->tmp_live, id)))
		return 0;
	b->id[b->n++] = id;
	return b->n == ARRAY_LEN(b->id);
}

/* A tree in lost/ loses its marks: names of files that are elsewhere too must not be in it. */
static int keep_orphan(struct resync_sink *s, uint64_t id)
{
	struct attr a;
	int err = sink_known(s, id, &a);

	if (!err && S_ISDIR(a.mode))
		err = sink_unlink_shared(s, id);
	return err ? err : keep_version(s, id);	/* moves it out of limbo */
}

int sink_purge(struct resync_sink *s, uint64_t id)
{
	int err = s->session && !idset_has(&s->kept, id) ? keep_orphan(s, id) : 0;

	if (!err || err == -ESTALE)
		err = local_limbo_purge(s->cfg.bottom, id);
	return err == -ENOENT || err == -ESTALE ? 0 : err;
}

static int empty_limbo(struct resync_sink *s)
{
	auto_free struct limbo_ids *b = malloc(sizeof *b);
	int err = b ? 0 : -ENOMEM;

	while (!err) {
		b->s = s;
		b->n = 0;
		err = local_limbo_each(s->cfg.bottom, add_orphan, b);
		if (err < 0 || !b->n)
			return err < 0 ? err : 0;
		err = 0;
		for (size_t i = 0; i < b->n && !err; i++)
			err = sink_purge(s, b->id[i]);
	}
	return err;
}

/* More than fit stay until a promotion purges what nobody has open. */
static int note_tmp(void *arg, uint64_t id)
{
	struct resync_sink *s = arg;
	struct hentry he;

	if (!index_get(s->cfg.handles, id, &he) && (he.flags & HENTRY_TMPFILE))
		idset_add(&s->tmp_old, id);
	return 0;
}

/* ---- the flusher ---- */

static void *flush(void *arg)
{
	struct resync_sink *s = arg;
	int err = local_syncfs(s->cfg.bottom);

	if (err)
		log_error("resync: syncfs: %s", strerror(-err));
	auto_lock(&s->mu);
	s->flushing = false;
	return NULL;
}

static void flusher_join(struct resync_sink *s)
{
	if (s->joinable)
		pthread_join(s->flusher, NULL);
	s->joinable = false;
}

/* One more, when none is at work. */
static bool flusher_claim(struct resync_sink *s)
{
	auto_lock(&s->mu);
	if (s->flushing)
		return false;
	return s->flushing = true;
}

static void flusher_kick(struct resync_sink *s)
{
	if (!s->changed || !flusher_claim(s))
		return;
	flusher_join(s);
	s->changed = false;
	s->joinable = !pthread_create(&s->flusher, NULL, flush, s);
	if (s->joinable)
		return;
	auto_lock(&s->mu);
	s->flushing = false;
}

/* ---- begin and end ---- */

static int begin(struct resync_sink *s, const struct op *op)
{
	(void)op;
	if (s->session && !s->kept.max)
		return -ENOMEM;		/* rather no comparison than lost versions */
	int err = s->cfg.set_inconsistent(s->cfg.arg, true);
	if (err)
		return err;
	apply_set_tolerant(s->a, true);
	if (!s->round && s->kept.max)
		idset_clear(&s->kept);
	s->round = true;
	idset_clear(&s->tmp_old);
	idset_clear(&s->tmp_live);
	err = local_limbo_each(s->cfg.bottom, note_tmp, s);
	return err < 0 ? err : 0;
}

/* What the primary has to hear of before the end counts: our reports, and what apply skipped. */
static uint64_t dirt(const struct resync_sink *s)
{
	return s->reports + apply_skipped(s->a);
}

static int make_durable(struct resync_sink *s)
{
	flusher_join(s);
	int err = local_syncfs(s->cfg.bottom);
	if (!err)
		err = handles_checkpoint(s->cfg.handles);
	if (!err)
		err = s->cfg.set_inconsistent(s->cfg.arg, false);
	if (err)
		return err;
	apply_set_tolerant(s->a, false);
	s->round = false;
	return 0;
}

static int finish(struct resync_sink *s)
{
	int err = s->round || s->evicted ? empty_limbo(s) : 0;

	s->evicted = false;
	forget_paths(s);
	if (!err && s->round)
		err = make_durable(s);
	return err;
}

static int end(struct resync_sink *s, const struct op *op)
{
	struct report rep = { .kind = REPORT_ENDED };
	int err = 0;

	if (op->flags == R_END_PROBE) {
		s->mark = dirt(s);
		flusher_kick(s);
	} else if (op->flags == R_END_FINAL) {
		rep.bits = dirt(s) != s->mark;
		err = rep.bits ? 0 : finish(s);
	} else {
		return -EBADMSG;
	}
	if (!err)
		sink_report(s, rep);
	return err;
}

/* ---- life ---- */

static int handle(void *arg, struct apply *a, const struct op *op, uint64_t seq)
{
	static int (*const fn[])(struct resync_sink *, const struct op *) = {
		[OP_R_BEGIN] = begin, [OP_R_DIR] = sink_dir, [OP_R_PLACE] = sink_place, [OP_R_ATTR] = sink_attr,
		[OP_R_XATTR] = sink_xattr, [OP_R_CHECK] = sink_check, [OP_R_DATA] = sink_data, [OP_R_END] = end,
	};
	struct resync_sink *s = arg;

	assert(op->type >= OP_R_BEGIN && op->type <= OP_R_END);
	s->a = a;
	s->ac = apply_config_of(a);
	s->seq = seq;
	if (op->type == OP_R_BEGIN || op->id)
		apply_stated(a, op->id);
	int err = fn[op->type](s, op);
	if (err)
		log_error("resync: %016llx: %s can't be applied: %s", (unsigned long long)op->id, op_name(op->type), strerror(-err));
	return err;
}

int resync_sink_new(const struct resync_sink_config *cfg, struct resync_sink **out)
{
	struct resync_sink *s = calloc(1, sizeof *s);

	if (!s)
		return -ENOMEM;
	s->cfg = *cfg;
	pthread_mutex_init(&s->mu, NULL);
	s->buf = malloc(RESYNC_CHUNK);
	if (!s->buf || idset_init(&s->tmp_old, TMPFILES_MAX) || idset_init(&s->tmp_live, TMPFILES_MAX)) {
		resync_sink_free(s);
		return -ENOMEM;
	}
	*out = s;
	return 0;
}

void resync_sink_free(struct resync_sink *s)
{
	if (!s)
		return;
	flusher_join(s);
	forget_paths(s);
	free(s->paths);
	free(s->session);
	free(s->buf);
	idset_free(&s->kept);
	idset_free(&s->tmp_old);
	idset_free(&s->tmp_live);
	pthread_mutex_destroy(&s->mu);
	free(s);
}

void resync_sink_register(struct resync_sink *s, struct apply *a)
{
	apply_register(a, OP_R_BEGIN, OP_R_END, handle, s);
	apply_register_guard(a, destroys_unkept, s);
}
