/*
 * The primary's engine: one thread per peer that is to be made level.
 *
 * A round scans the handle index in the order of ids and states every object once; then whatever was reported dirty, until nothing is. Why ids
 * and not a walk of the tree: a walk loses what is renamed from where it has not been to where it was already. An id never changes, so each
 * object that exists when the round begins is stated at some moment of it, and what is created later is streamed. It needs no memory
 * but a cursor, and objects lie on disk roughly in the order of their ids.
 *
 * A statement is made under the object's locks and is exact at its place in the order; from there on ordinary ops keep the object equal, or the
 * peer reports it dirty. What is reported while it still lies ahead of the scan needs no note: the scan will come by.
 *
 *   flow      Every PROBE_COST names, objects or MiB an OP_R_END "probe" is sent; the peer's answer means that all reports of what was sent
 *             before it are here. At most PROBES_MAX are unanswered, which bounds the reports under way, and so the memory.
 *   reports   become tasks (answered first: they are what the peer waits for) or dirty ids. resync_report() only queues.
 *   overflow  of either: forget them all, start the round again with OP_R_BEGIN.
 *   pass      state what is dirty, probe, state what is reported until that is answered.
 *   end       a pass in which nothing was to be done after the probe -> final. The peer refuses the final if something became dirty there
 *             since that probe; then it goes on. Otherwise it is level from that op on.
 *   pushing   What doesn't fit there spoils more: a rename that can't be applied leaves two names wrong, and each op that meets one of them until its
 *             directory is stated again may leave another. When the peer is some thousand ops behind, and few names are changed all the time, more
 *             are spoilt than are mended, and there is no end. So from the FREE_PASSES-th pass on writers wait (queue_restrain) until the peer is
 *             nearly up to date, ever nearer; then they are held for a moment (queue_hold), in which all is stated undisturbed. When that was too short,
 *             they have a rest, and the same comes again with a longer hold and a longer rest: a peer that never becomes level takes an
 *             ever smaller part of their time. From the final on they are free.
 *
 * After the end the thread lives on for restatements, each batch of which ends in the same way. An overflow then can't be mended
 * quietly, since the peer counts as level: done() is called again, with -EOVERFLOW, and the owner has to drop the peer.
 *
 * Lock order: an object's locks are never taken with MU held, and MU is only held for a few instructions.
 */
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "resync/source_int.h"

/* ---- sending ---- */

int source_emit(struct resync *r, struct op *op, unsigned cost)
{
	uint64_t seq = 0;
	int err = interpose_emit(r->cfg.ip, op, (uint16_t)(1u << r->cfg.peer), &seq);

	if (err)
		return err;
	r->cost += 1 + cost;
	r->stated = true;
	auto_lock(&r->mu);
	r->progress.bytes_sent += op->data_len;
	return 0;
}

/* The answer may be here before the op's seq is noted: ended() leaves the newest that was answered. */
static int emit_end(struct resync *r, enum r_end how)
{
	struct op op = { .type = OP_R_END, .flags = how };
	uint64_t seq = 0;
	int err = queue_admit_statement(r->cfg.queue, 256);

	if (err)
		return err;
	r->cost = 0;
	err = interpose_emit(r->cfg.ip, &op, (uint16_t)(1u << r->cfg.peer), &seq);
	if (err)
		return err;
	auto_lock(&r->mu);
	assert(r->nprobes < PROBES_MAX);
	r->asked = seq;
	if (seq > r->answered)
		r->probe[r->nprobes++] = seq;
	return 0;
}

/* ---- reports ---- */

static int cmp_id(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return x < y ? -1 : x > y;
}

/* Will the scan come by ID? Not certain while its next ids are being read. */
static bool ahead(const struct resync *r, uint64_t id)
{
	if (!r->scanning || r->fetching || id <= r->at || id == HANDLE_ROOT)
		return false;
	if (!r->nscan || id > r->scan[r->nscan - 1])
		return true;
	return bsearch(&id, r->scan, r->nscan, sizeof id, cmp_id) != NULL;
}

/* Was all of ID stated after SEQ already? */
static bool stated_since(const struct resync *r, uint64_t id, uint64_t seq)
{
	return seq && r->said[id % SAID_MAX].id == id && r->said[id % SAID_MAX].seq >= seq;
}

static void note_stating(struct resync *r, uint64_t id)
{
	uint64_t last = queue_last(r->cfg.queue);

	auto_lock(&r->mu);
	r->said[id % SAID_MAX].id = id;
	r->said[id % SAID_MAX].seq = last;
}

static void add_dirty(struct resync *r, uint64_t id)
{
	if (!id)
		r->overflow = true;
	else if (id_valid(id) && !ahead(r, id) && idset_add(&r->dirty, id) == -ENOSPC)
		r->overflow = true;
}

static void add_task(struct resync *r, const struct report *rep)
{
	size_t len = rep->kind == REPORT_MISSING ? strlen(rep->name) : 0;
	struct task *t = r->ntasks < TASKS_MAX ? malloc(sizeof *t + len + 1) : NULL;

	if (!t) {
		r->overflow = true;
		return;
	}
	*t = (struct task){ .kind = rep->kind, .id = rep->id, .parent = rep->parent, .off = rep->off, .bits = rep->bits };
	memcpy(t->name, rep->name, len);
	t->name[len] = 0;
	*r->tasks_end = t;
	r->tasks_end = &t->next;
	r->ntasks++;
}

/* Can it be right, from an honest peer? */
static bool plausible(const struct report *rep)
{
	if (rep->kind == REPORT_DIRTY || rep->kind == REPORT_ENDED)
		return true;
	if (!id_valid(rep->id))
		return false;
	return rep->kind != REPORT_MISSING || (id_valid(rep->parent) && rep->name[0] && !strchr(rep->name, '/') &&
					       strcmp(rep->name, ".") != 0 && strcmp(rep->name, "..") != 0);
}

static void ended(struct resync *r, const struct report *rep)
{
	unsigned i = 0;

	while (i < r->nprobes && r->probe[i] <= rep->seq)
		i++;
	memmove(r->probe, r->probe + i, (r->nprobes - i) * sizeof *r->probe);
	r->nprobes -= i;
	r->answered = rep->seq;
	r->refused = rep->bits != 0;
}

void resync_report(struct resync *r, const struct report *rep)
{
	if (!plausible(rep)) {
		log_warn("resync: node %u: an impossible report of kind %u is ignored", r->cfg.peer, rep->kind);
		return;
	}
	auto_lock(&r->mu);
	switch (rep->kind) {
	case REPORT_DIRTY:
		if (!stated_since(r, rep->id, rep->seq))
			add_dirty(r, rep->id);
		break;
	case REPORT_MISSING:
		if (rep->bits != S_IFREG && rep->bits != S_IFDIR)
			add_task(r, rep);
		else if (!stated_since(r, rep->id, rep->seq))
			add_dirty(r, rep->id);
		break;
	case REPORT_XATTR:
	case REPORT_DATA: add_task(r, rep); break;
	case REPORT_ENDED: ended(r, rep); break;
	default: break;
	}
	pthread_cond_broadcast(&r->cond);
}

void resync_restate(struct resync *r, const uint64_t *ids, unsigned n)
{
	auto_lock(&r->mu);
	for (unsigned i = 0; i < n; i++)
		if (ids[i])
			add_dirty(r, ids[i]);
	pthread_cond_broadcast(&r->cond);
}

static struct task *take_task(struct resync *r)
{
	auto_lock(&r->mu);
	struct task *t = r->tasks;
	if (t) {
		r->tasks = t->next;
		r->ntasks--;
		if (!r->tasks)
			r->tasks_end = &r->tasks;
	}
	return t;
}

static void drop_tasks(struct resync *r)
{
	for (struct task *t = r->tasks, *next; t; t = next) {
		next = t->next;
		free(t);
	}
	r->tasks = NULL;
	r->tasks_end = &r->tasks;
	r->ntasks = 0;
}

/* A digest that differs again and again can't be mended by sending the same xattrs: say so instead of going round for ever. */
static bool hopeless(struct resync *r, uint64_t id)
{
	__typeof__(r->fixes[0]) *f = &r->fixes[id % ARRAY_LEN(r->fixes)];

	if (f->id != id) {
		f->id = id;
		f->n = 0;
	}
	return ++f->n > FIXES_MAX;
}

static int answer(struct resync *r, const struct task *t)
{
	switch (t->kind) {
	case REPORT_MISSING: return state_missing(r, t);
	case REPORT_DATA: return state_data(r, t->id, t->off, t->bits);
	default: break;
	}
	if (hopeless(r, t->id)) {
		log_error("resync: %016llx: extended attributes stay different on node %u after %d attempts", (unsigned long long)t->id,
			  r->cfg.peer, FIXES_MAX);
		return -EUCLEAN;
	}
	return state_xattrs(r, t->id);
}

static int answer_all(struct resync *r)
{
	struct task *t;
	int err = 0;

	while (!err && (t = take_task(r))) {
		err = answer(r, t);
		free(t);
	}
	return err;
}

/* ---- waiting ---- */

/* Under MU. */
static int must_leave(const struct resync *r)
{
	return r->stop ? -ESHUTDOWN : r->overflow ? -EOVERFLOW : 0;
}

/* Answers reports until at most N probes are unanswered. */
static int wait_probes(struct resync *r, unsigned n)
{
	for (;;) {
		int err = answer_all(r);
		if (err)
			return err;
		auto_lock(&r->mu);
		while (!must_leave(r) && !r->tasks && r->nprobes > n)
			pthread_cond_wait(&r->cond, &r->mu);
		if (must_leave(r))
			return must_leave(r);
		if (!r->tasks)
			return 0;
	}
}

int source_breathe(struct resync *r)
{
	int err = wait_probes(r, PROBES_MAX - 1);

	if (!err && r->cost >= PROBE_COST)
		err = emit_end(r, R_END_PROBE);
	return err;
}

/* ---- a round ---- */

struct fetch { uint64_t *ids; size_t n; };

static int fetch_one(void *arg, const struct hentry *e)
{
	struct fetch *f = arg;

	if (e->id == HANDLE_ROOT || !id_valid(e->id))
		return 0;
	f->ids[f->n++] = e->id;
	return f->n == SCAN_IDS;
}

/* The next ids of the index. 0 with nscan 0: that was the last. */
static int fetch(struct resync *r)
{
	uint64_t *ids = malloc(SCAN_IDS * sizeof *ids);
	struct fetch f = { .ids = ids };

	if (!ids)
		return -ENOMEM;
	pthread_mutex_lock(&r->mu);
	r->fetching = true;
	pthread_mutex_unlock(&r->mu);
	int err = index_each_from(r->cfg.handles, r->at + 1, fetch_one, &f);
	auto_lock(&r->mu);
	free(r->scan);
	r->scan = ids;
	r->nscan = f.n;
	r->iscan = 0;
	r->fetching = false;
	if (!f.n)
		r->scanning = false;
	return err < 0 ? err : 0;
}

static uint64_t next_id(struct resync *r)
{
	auto_lock(&r->mu);
	if (r->iscan == r->nscan)
		return 0;
	r->progress.objects++;
	return r->at = r->scan[r->iscan++];
}

static int state_one(struct resync *r, uint64_t id)
{
	int err = source_breathe(r);

	note_stating(r, id);
	return err ? err : state_object(r, id);
}

static int scan(struct resync *r)
{
	int err = state_one(r, HANDLE_ROOT);

	r->at = HANDLE_ROOT;
	while (!err && !(err = fetch(r)) && r->nscan)
		for (uint64_t id; !err && (id = next_id(r));)
			err = state_one(r, id);
	return err;
}

static uint64_t take_dirty(struct resync *r)
{
	auto_lock(&r->mu);
	uint64_t id = idset_pop(&r->dirty);
	r->progress.dirty = r->dirty.n;
	return id;
}

static bool idle(struct resync *r)
{
	auto_lock(&r->mu);
	return !r->tasks && !r->dirty.n;
}

/* What is dirty now. */
static int drain(struct resync *r)
{
	pthread_mutex_lock(&r->mu);
	size_t n = r->dirty.n;
	pthread_mutex_unlock(&r->mu);
	int err = 0;

	for (uint64_t id; !err && n-- && (id = take_dirty(r));)
		err = state_one(r, id);
	return err ? err : answer_all(r);
}

static int ask(struct resync *r, enum r_end how)
{
	int err = wait_probes(r, PROBES_MAX - 1);

	if (!err)
		err = emit_end(r, how);
	r->stated = false;
	return err;
}

/* Until something is reported, or ASKED is answered (1). */
static int wait_reports(struct resync *r)
{
	auto_lock(&r->mu);
	while (!must_leave(r) && !r->tasks && !r->dirty.n && r->answered < r->asked)
		pthread_cond_wait(&r->cond, &r->mu);
	return must_leave(r) ? must_leave(r) : r->answered >= r->asked;
}

/* Sends a probe and states what is reported until it is answered: when nothing was, that is all. */
static int probe(struct resync *r)
{
	int err = ask(r, R_END_PROBE);
	const uint64_t asked = r->asked;

	for (int answered = 0; !err; ) {
		answered = wait_reports(r);
		if (answered)
			return answered < 0 ? answered : answer_all(r);
		uint64_t id;
		err = answer_all(r);
		if (!err && (id = take_dirty(r)))
			err = state_one(r, id);
		r->asked = asked;	/* a probe of the flow control isn't waited for */
	}
	return err;
}

/* Writers have waited, and still it isn't level: they are free for ever longer before they wait again. */
static void rest(struct resync *r, uint64_t now)
{
	struct push *p = &r->push;

	log_warn("resync: node %u: still not level after all writers waited for %u ms: they go on, and wait again in %u s at the earliest", r->cfg.peer,
		 p->hold_ms, p->rest_ms / 1000);
	p->behind = RESTRAINT_MAX;
	p->hold_end = 0;
	p->rest_end = now + p->rest_ms;
	p->hold_ms = p->hold_ms * 2 < HOLD_MAX_MS ? p->hold_ms * 2 : HOLD_MAX_MS;
	p->rest_ms = p->rest_ms * 2 < REST_MAX_MS ? p->rest_ms * 2 : REST_MAX_MS;
}

static void hold(struct resync *r, uint64_t now)
{
	struct push *p = &r->push;
	uint64_t not_for_ms = queue_hold(r->cfg.queue, r->cfg.peer, p->hold_ms);

	if (not_for_ms) {
		p->behind = RESTRAINT_MAX;
		p->rest_end = now + not_for_ms;
	} else {
		p->hold_end = now + p->hold_ms;
	}
}

/* The next pass is made with more force. Restrained writers go on as fast as the peer does, or half as fast; held ones not at all. */
static void push(struct resync *r)
{
	struct push *p = &r->push;
	uint64_t now = clock_mono_ms();

	if (++p->passes < FREE_PASSES || now < p->hold_end || now < p->rest_end)
		return;
	if (p->hold_end)
		rest(r, now);
	else if (p->behind > RESTRAINT_MIN)
		p->behind /= 4;
	if (!p->behind) {
		log_info("resync: node %u: too much changes meanwhile to come to an end: writers wait for it from now on", r->cfg.peer);
		p->behind = RESTRAINT_MAX;
	}
	if (p->behind == RESTRAINT_MIN)
		hold(r, now);
	if (!p->hold_end)
		queue_restrain(r->cfg.queue, r->cfg.peer, p->behind);
}

static void release(struct resync *r)
{
	queue_restrain(r->cfg.queue, r->cfg.peer, UINT64_MAX);
	r->push.hold_end = 0;
}

/* 0: answered, perhaps refused. Writers go on meanwhile: making all durable there takes its time. */
static int conclude(struct resync *r)
{
	int err = ask(r, R_END_FINAL);

	release(r);
	return err ? err : wait_probes(r, 0);
}

/* 0: the peer has said that it is level. */
static int come_level(struct resync *r)
{
	for (;; push(r)) {
		int err = drain(r);
		if (!err)
			err = probe(r);
		if (err)
			return err;
		if (r->stated || !idle(r))
			continue;
		err = conclude(r);
		if (err)
			return err;
		auto_lock(&r->mu);
		if (!r->refused)
			return 0;
	}
}

/* Everything dirty, and the end. */
static int finish(struct resync *r)
{
	r->push = (struct push){ .hold_ms = HOLD_MS, .rest_ms = REST_MS };
	int err = come_level(r);
	release(r);
	return err;
}

static int begin(struct resync *r)
{
	struct op op = { .type = OP_R_BEGIN };
	int err = queue_admit_statement(r->cfg.queue, 256);

	if (err)
		return err;
	memset(r->fixes, 0, sizeof r->fixes);
	r->cost = 0;
	pthread_mutex_lock(&r->mu);
	r->overflow = false;
	idset_clear(&r->dirty);
	drop_tasks(r);
	r->scanning = true;
	r->at = 0;
	r->nscan = r->iscan = 0;
	r->progress.objects = r->progress.dirty = 0;
	r->progress.running = true;
	pthread_mutex_unlock(&r->mu);
	return interpose_emit(r->cfg.ip, &op, (uint16_t)(1u << r->cfg.peer), &(uint64_t){ 0 });
}

/* A scan of an index that is still being rebuilt would miss what the rebuild finds later. */
static int wait_index(struct resync *r)
{
	auto_lock(&r->mu);
	while (!r->stop && handles_rebuilding(r->cfg.handles, NULL)) {
		struct timespec t = clock_mono_after_ms(50);
		pthread_cond_timedwait(&r->cond, &r->mu, &t);
	}
	return r->stop ? -ESHUTDOWN : 0;
}

/* Once: what changes from there on is streamed. */
static int snapshot(struct resync *r)
{
	int err = r->snapshot_sent || !r->cfg.snapshot ? 0 : r->cfg.snapshot(r->cfg.snapshot_arg, r->cfg.peer);

	r->snapshot_sent = !err;
	return err;
}

static int whole_round(struct resync *r)
{
	int err = wait_index(r);

	for (;;) {
		if (!err)
			err = begin(r);
		if (!err)
			err = scan(r);
		if (!err)
			err = snapshot(r);
		if (!err)
			err = finish(r);
		if (err != -EOVERFLOW)
			return err;
		log_warn("resync: node %u: too much changed meanwhile: comparing everything again", r->cfg.peer);
		err = 0;
	}
}

/* The peer's tree is equal already. */
static int state_round(struct resync *r)
{
	int err = snapshot(r);
	return err ? err : finish(r);
}

/* The peer is level: only what is asked for. */
static int serve(struct resync *r)
{
	for (;;) {
		pthread_mutex_lock(&r->mu);
		while (!must_leave(r) && !r->tasks && !r->dirty.n)
			pthread_cond_wait(&r->cond, &r->mu);
		int err = must_leave(r);
		r->serving = true;
		pthread_mutex_unlock(&r->mu);
		if (!err)
			err = finish(r);
		pthread_mutex_lock(&r->mu);
		r->serving = false;
		pthread_mutex_unlock(&r->mu);
		if (err)
			return err;
	}
}

static void *engine(void *arg)
{
	struct resync *r = arg;
	int err = 0;

	if (r->cfg.full || r->cfg.state) {
		err = r->cfg.full ? whole_round(r) : state_round(r);
		pthread_mutex_lock(&r->mu);
		r->progress.running = r->scanning = false;
		pthread_mutex_unlock(&r->mu);
		if (err != -ESHUTDOWN)
			r->cfg.done(r->cfg.arg, r->cfg.peer, err);
	}
	if (err)
		return NULL;
	err = serve(r);
	if (err != -ESHUTDOWN)
		r->cfg.done(r->cfg.arg, r->cfg.peer, err);
	return NULL;
}

/* ---- life ---- */

static void destroy(struct resync *r)
{
	drop_tasks(r);
	idset_free(&r->dirty);
	enc_free(&r->enc);
	free(r->buf);
	free(r->scan);
	pthread_cond_destroy(&r->cond);
	pthread_mutex_destroy(&r->mu);
	free(r);
}

int resync_start(const struct resync_config *cfg, struct resync **out)
{
	struct resync *r = calloc(1, sizeof *r);

	if (!r)
		return -ENOMEM;
	r->cfg = *cfg;
	r->tasks_end = &r->tasks;
	r->progress.running = cfg->full;
	pthread_mutex_init(&r->mu, NULL);
	cond_init_mono(&r->cond);
	r->buf = malloc(RESYNC_CHUNK);
	int err = r->buf ? idset_init(&r->dirty, DIRTY_MAX) : -ENOMEM;
	if (!err)
		err = -pthread_create(&r->thread, NULL, engine, r);
	if (err) {
		destroy(r);
		return err;
	}
	*out = r;
	return 0;
}

bool resync_busy(struct resync *r)
{
	auto_lock(&r->mu);
	return r->serving || r->tasks || r->dirty.n;
}

void resync_progress(struct resync *r, struct resync_progress *out)
{
	auto_lock(&r->mu);
	*out = r->progress;
}

void resync_stop(struct resync *r)
{
	pthread_mutex_lock(&r->mu);
	r->stop = true;
	pthread_cond_broadcast(&r->cond);
	pthread_mutex_unlock(&r->mu);
	pthread_join(r->thread, NULL);
	destroy(r);
}
