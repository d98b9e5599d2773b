#include "mirror/node.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "mirror/node_int.h"

enum {
	RECORD_WAIT_MS = 30000,
};

/* ---- events in, actions out ---- */

static void push_job(struct node *n, const struct core_action *a)
{
	struct job *j = malloc(sizeof *j);
	if (!j) {
		log_error("node: no memory for a decision: stopping at once so that nothing is acknowledged wrongly");
		abort();
	}
	j->next = NULL;
	j->a = *a;
	*n->jobs_last = j;
	n->jobs_last = &j->next;
	atomic_fetch_add(&n->njobs, 1);
	pthread_cond_signal(&n->job_cond);
}

static const char *peer_name(const struct node *n, unsigned peer)
{
	return peer && peer <= NODE_MAX && n->cfg.peers[peer].name ? n->cfg.peers[peer].name : "";
}

/* What a person or a cluster manager wants to hear of, for the state hook. */
static void tell_changes(struct node *n, const struct core *was, const struct core *is)
{
	if (was->role != is->role && (is->role == CORE_PRIMARY || is->role == CORE_STANDBY))
		hook_state(n, core_role_name(is->role), "");
	if (was->level != is->level && is->role == CORE_STANDBY)
		hook_state(n, is->level ? "level" : "not-level", "");
	for (unsigned p = 1; p <= NODE_MAX; p++) {
		bool a = was->peer[p].state == PEER_LEVEL, b = is->peer[p].state == PEER_LEVEL;
		if (a != b && is->role == CORE_PRIMARY)
			hook_state(n, b ? "peer-level" : "peer-lost", peer_name(n, p));
	}
}

/* With core_mu held. */
void node_step_locked(struct node *n, struct core_event *e)
{
	static _Thread_local struct core_actions out;
	static _Thread_local struct core was;

	e->now_ms = clock_mono_ms();
	e->random = state_random();
	e->instance = n->instance;
	e->queue_first = queue_first(n->cfg.queue);
	e->queue_last = queue_last(n->cfg.queue);
	bool telling = n->cfg.state_hook && e->type != EV_TICK;
	if (telling)
		was = n->core;
	core_step(&n->core, e, &out);
	pthread_mutex_lock(&n->job_mu);
	for (unsigned i = 0; i < out.n; i++) {
		if (out.a[i].type == ACT_RECORD) {
			n->record_wanted = true;
			pthread_cond_signal(&n->record_cond);
		} else {
			push_job(n, &out.a[i]);
		}
	}
	pthread_mutex_unlock(&n->job_mu);
	if (telling)
		tell_changes(n, &was, &n->core);
}

void node_event(struct node *n, struct core_event *e)
{
	auto_lock(&n->core_mu);
	node_step_locked(n, e);
}

int node_event_recorded(struct node *n, struct core_event *e)
{
	struct timespec until = clock_mono_after_ms(RECORD_WAIT_MS);
	auto_lock(&n->core_mu);
	uint64_t want = n->rec_started + 1;
	node_step_locked(n, e);
	while (n->rec_saved < want && !n->closed)
		if (pthread_cond_timedwait(&n->core_changed, &n->core_mu, &until) == ETIMEDOUT)
			return -ETIMEDOUT;
	return n->rec_saved < want ? -ESHUTDOWN : 0;
}

/* With core_mu held. */
static uint64_t lsn_locked(struct node *n)
{
	uint64_t base = atomic_load(&n->base_seq);
	uint64_t seq = n->core.role >= CORE_PRIMARY ? queue_last(n->cfg.queue) : atomic_load(&n->applied_seq);
	return seq > base ? seq - base : 0;
}

uint64_t node_lsn(struct node *n)
{
	auto_lock(&n->core_mu);
	return lsn_locked(n);
}

/* ---- the recorder: a thread of its own, because the worker may wait for threads that wait for a record ---- */

/* Marks of data that were unknown are made good when they no longer are, and not before: a restart must not hide it. */
static int save(struct node *n, bool mark, uint64_t lsn)
{
	return mark ? state_mark(n->cfg.state_file, &n->saving, lsn) : state_save(n->cfg.state_file, &n->saving);
}

static void do_record(struct node *n)
{
	struct core_event e = { .type = EV_RECORDED };

	pthread_mutex_lock(&n->core_mu);
	n->saving = n->core.rec;
	uint64_t gen = ++n->rec_started, lsn = lsn_locked(n);
	bool mark = n->mark_due && !n->core.unknown;
	pthread_mutex_unlock(&n->core_mu);
	int err = save(n, mark, lsn);
	auto_lock(&n->core_mu);
	if (!err) {
		n->rec_saved = gen;
		pthread_cond_broadcast(&n->core_changed);
	}
	if (!err && mark) {
		memcpy(n->core.rec.marks, n->saving.marks, sizeof n->core.rec.marks);
		n->mark_due = false;
	}
	e.ok = !err;
	e.text = err ? strerror(-err) : NULL;
	node_step_locked(n, &e);
}

static void *record_thread(void *arg)
{
	struct node *n = arg;

	pthread_mutex_lock(&n->job_mu);
	for (;;) {
		while (!n->record_wanted && !n->recorder_stop)
			pthread_cond_wait(&n->record_cond, &n->job_mu);
		if (!n->record_wanted)
			break;
		n->record_wanted = false;
		pthread_mutex_unlock(&n->job_mu);
		do_record(n);
		pthread_mutex_lock(&n->job_mu);
	}
	pthread_mutex_unlock(&n->job_mu);
	return NULL;
}

/* ---- the worker: actions, in order ---- */

static struct epoch current_epoch(struct node *n, uint64_t *prev_lsn)
{
	auto_lock(&n->core_mu);
	const struct state *s = &n->core.rec;
	*prev_lsn = s->nlineage > 1 ? s->lineage[s->nlineage - 2].last_lsn : 0;
	return state_epoch(s);
}

static int append_epoch(struct node *n)
{
	struct op op = { .type = OP_EPOCH };
	uint64_t seq;

	op.epoch = current_epoch(n, &op.lsn);
	op.stamp = interpose_stamp(n->ip);
	int err = queue_append(n->cfg.queue, &op, 0xffff, &seq);
	if (!err)
		atomic_store(&n->base_seq, seq);
	return err;
}

void node_tell_role(struct node *n, enum node_role_event e)
{
	if (n->cfg.role)
		n->cfg.role(n->cfg.role_arg, e);
}

/* Those who hold what we held at the handover may go on from it: our order is kept for them from its beginning. */
static void keep_for_peers(struct node *n)
{
	pthread_mutex_lock(&n->core_mu);
	bool joint = n->core.joint.instance;
	pthread_mutex_unlock(&n->core_mu);
	for (unsigned p = 1; p <= NODE_MAX && joint; p++) {
		if (!n->cfg.peers[p].name || p == n->cfg.core.node || queue_attach(n->cfg.queue, p, 1))
			continue;
		queue_detach(n->cfg.queue, p);
	}
}

static void do_become_primary(struct node *n)
{
	stream_unfollow(n, false);
	int err = ids_new_range(n->cfg.handles);
	if (err)
		log_error("handles: can't take a new range of ids: %s: creations will fail", strerror(-err));
	err = local_limbo_purge_all(n->cfg.bottom);
	if (err)
		log_warn("limbo: not emptied: %s", strerror(-err));
	queue_restart(n->cfg.queue);
	atomic_store(&n->mark_seq, 0);
	keep_for_peers(n);
	atomic_store(&n->from_instance, 0);
	atomic_store(&n->full_instance, 0);
	err = append_epoch(n);
	if (err)
		log_error("node: can't open the epoch: %s", strerror(-err));
	interpose_set_writable(n->ip, !err);
	atomic_store(&n->serving, true);
	node_tell_role(n, NODE_ROLE_PRIMARY);
	log_info("role: primary");
	hook_state(n, "serving", "");
}

static void epoch_answer(struct node *n, bool ok)
{
	auto_lock(&n->core_mu);
	n->epoch_waiting = false;
	n->epoch_ok = ok;
	pthread_cond_broadcast(&n->core_changed);
}

/* Who serves clients goes first: nobody shall see what comes of the rest. */
static void do_become_standby(struct node *n)
{
	n->changing = false;
	node_tell_role(n, NODE_ROLE_LEFT);
	atomic_store(&n->serving, false);
	queue_stop(n->cfg.queue);
	uint64_t mark = atomic_exchange(&n->mark_seq, 0);
	atomic_store(&n->applied_seq, mark ? mark : queue_last(n->cfg.queue));	/* what we hold: up to the handover, or nobody's stream */
	atomic_store(&n->from_instance, mark ? n->instance : 0);
	epoch_answer(n, false);
	interpose_set_writable(n->ip, false);
	log_info("role: standby");
}

static void do_admit(struct node *n)
{
	atomic_store(&n->mark_seq, 0);
	interpose_set_writable(n->ip, true);
	if (n->changing)
		node_tell_role(n, NODE_ROLE_KEPT);
	n->changing = false;
}

static void do_epoch_open(struct node *n, bool already)
{
	int err = already ? 0 : append_epoch(n);
	if (err)
		log_error("node: can't open the epoch: %s", strerror(-err));
	epoch_answer(n, !err);
}

static void do_not_taken(struct node *n)
{
	interpose_set_writable(n->ip, false);
	node_tell_role(n, NODE_ROLE_NOT_TAKEN);
}

/* A switchover takes no longer than who comes too early can wait. */
static void do_drain(struct node *n, bool complete)
{
	struct core_event e = { .type = EV_DRAINED };

	node_tell_role(n, complete ? NODE_ROLE_TAKING_OVER : NODE_ROLE_TAKING);
	if (complete)
		interpose_hold_standby(n->ip);
	stream_unfollow(n, complete);
	take_state(n);
	interpose_wait_settled(n->ip);		/* the new reign's numbers begin anew: an fsync of an older one must not take them for its own */
	e.lsn = node_lsn(n);
	e.seq = atomic_load(&n->applied_seq);
	pthread_mutex_lock(&n->core_mu);
	node_step_locked(n, &e);
	bool failed = n->core.role == CORE_STANDBY;
	pthread_mutex_unlock(&n->core_mu);
	if (failed)
		do_not_taken(n);
}

static void do_compare(struct node *n, const struct core_action *a)
{
	int err = n->resync.start(n->resync.arg, a->peer, a->full ? NODE_COMPARE_ALL : a->flag ? NODE_COMPARE_STATE : NODE_COMPARE_NOTHING);
	if (err)
		node_compared(n, a->peer, err);
}

static void do_send(struct node *n, const struct core_action *a)
{
	int err = link_send(n->links, a->peer, &a->msg);
	if (err)
		log_debug("link: node %u: not sent: %s", a->peer, strerror(-err));
}

static void do_promoted(struct node *n, const struct core_action *a)
{
	auto_lock(&n->core_mu);
	n->promote_state = a->ok ? 2 : 3;
	snprintf(n->promote_text, sizeof n->promote_text, "%s", a->text);
	pthread_cond_broadcast(&n->core_changed);
}

static void do_refuse(struct node *n, const struct core_action *a)
{
	struct msg m = { .kind = FRAME_OPENED, .opened = { .token = a->msg.open.token, .err = -EPERM } };
	snprintf(m.opened.reason, sizeof m.opened.reason, "%.*s", REASON_MAX - 1, a->text);
	link_send(n->links, a->peer, &m);
}

static void do_ackset(struct node *n, uint16_t set)
{
	struct core_event e = { .type = EV_ACKSET, .seq = set };
	queue_set_ackset(n->cfg.queue, set);
	node_event(n, &e);
}

static void do_settle(struct node *n, uint64_t number)
{
	auto_lock(&n->job_mu);
	n->settle_wanted = number;		/* an older one has been given up */
	pthread_cond_signal(&n->settle_cond);
}

static void run_action(struct node *n, const struct core_action *a)
{
	switch (a->type) {
	case ACT_LOG: log_line((enum log_level)a->level, "%s", a->text); break;
	case ACT_RECORD: break;		/* the recorder's */
	case ACT_SEND: do_send(n, a); break;
	case ACT_RESET: link_reset(n->links, a->peer, a->text); break;
	case ACT_OPEN: stream_open(n, a); break;
	case ACT_CLOSE: stream_close(n, a->peer); break;
	case ACT_COMPARE: do_compare(n, a); break;
	case ACT_FOLLOW: stream_follow(n, a); break;
	case ACT_REFUSE: do_refuse(n, a); break;
	case ACT_UNFOLLOW: stream_unfollow(n, false); break;
	case ACT_SETTLE: do_settle(n, a->seq); break;
	case ACT_FENCE: hook_fence(n, a->peer, a->seq, a->flag); break;
	case ACT_NOT_TAKEN: do_not_taken(n); break;
	case ACT_DRAIN: do_drain(n, a->flag); break;
	case ACT_ACKSET: do_ackset(n, a->set); break;
	case ACT_BECOME_PRIMARY: do_become_primary(n); break;
	case ACT_BECOME_STANDBY: do_become_standby(n); break;
	case ACT_ADMIT: do_admit(n); break;
	case ACT_PREPARE: case ACT_SHUT: case ACT_MARK: node_hand_job(n, a); break;
	case ACT_HANDED: node_handed(n, a); break;
	case ACT_EPOCH_OPEN: do_epoch_open(n, a->flag); break;
	case ACT_EPOCH_WANTED: interpose_want_epoch(n->ip); break;
	case ACT_PROMOTED: do_promoted(n, a); break;
	}
}

/* ---- the settler: makes all that was applied durable, which may take long ---- */

static void settle(struct node *n, uint64_t number)
{
	struct core_event e = { .type = EV_SETTLED, .seq = number };
	int err = local_syncfs(n->cfg.bottom);

	if (!err)
		err = handles_checkpoint(n->cfg.handles);
	if (err)
		log_error("node: can't make the volume durable: %s: this node does not become level", strerror(-err));
	e.ok = !err;
	node_event(n, &e);
}

static void *settle_thread(void *arg)
{
	struct node *n = arg;

	pthread_mutex_lock(&n->job_mu);
	while (!atomic_load(&n->stopping)) {
		uint64_t number = n->settle_wanted;
		if (!number) {
			pthread_cond_wait(&n->settle_cond, &n->job_mu);
			continue;
		}
		n->settle_wanted = 0;
		pthread_mutex_unlock(&n->job_mu);
		settle(n, number);
		pthread_mutex_lock(&n->job_mu);
	}
	pthread_mutex_unlock(&n->job_mu);
	return NULL;
}

static void *worker_thread(void *arg)
{
	struct node *n = arg;

	pthread_mutex_lock(&n->job_mu);
	for (;;) {
		while (!n->jobs && !n->give_due && !n->worker_stop)
			pthread_cond_wait(&n->job_cond, &n->job_mu);
		if (n->give_due) {
			pthread_mutex_unlock(&n->job_mu);
			give_due(n);
			pthread_mutex_lock(&n->job_mu);
			continue;
		}
		struct job *j = n->jobs;
		if (!j)
			break;
		n->jobs = j->next;
		atomic_fetch_sub(&n->njobs, 1);
		if (!n->jobs)
			n->jobs_last = &n->jobs;
		pthread_mutex_unlock(&n->job_mu);
		run_action(n, &j->a);
		free(j);
		pthread_mutex_lock(&n->job_mu);
	}
	pthread_mutex_unlock(&n->job_mu);
	return NULL;
}

/* ---- the ticker ---- */

static void look_at_room(struct node *n)
{
	struct statvfs v;
	struct call c = { .origin = ORIGIN_INTERNAL };
	if (n->cfg.bottom->ops->statfs(n->cfg.bottom, &c, &v))
		return;
	atomic_store(&n->free_bytes, (uint64_t)v.f_bavail * v.f_frsize);
	atomic_store(&n->free_inodes, v.f_favail);
}

static void tick(struct node *n)
{
	uint64_t heard[NODE_MAX + 1] = { 0 }, applied[NODE_MAX + 1] = { 0 }, progress[NODE_MAX + 1] = { 0 };
	bool outstanding[NODE_MAX + 1] = { false }, overdue[NODE_MAX + 1] = { false };
	struct core_event e = { .type = EV_TICK, .heard_ms = heard, .applied_seq = applied, .progress = progress,
				.outstanding = outstanding, .overdue = overdue };

	e.queue_filling = queue_bytes(n->cfg.queue) > n->cfg.queue_bytes / 4 * 3;

	for (unsigned p = 1; p <= NODE_MAX; p++) {
		if (!n->cfg.peers[p].name || p == n->cfg.core.node)
			continue;
		struct queue_peer_stat q;
		queue_peer_stat(n->cfg.queue, p, &q);
		heard[p] = link_last_heard(n->links, p);
		applied[p] = q.applied_seq;
		progress[p] = q.recv_seq + q.applied_seq + atomic_load(&n->barriers[p]);
		overdue[p] = queue_barrier_overdue(n->cfg.queue, p, (uint64_t)n->cfg.core.congestion_timeout_ms * 1000000);
		outstanding[p] = q.attached && (q.bytes_behind || q.applied_seq < queue_last(n->cfg.queue));
	}
	node_event(n, &e);
}

static void *tick_thread(void *arg)
{
	struct node *n = arg;
	unsigned k = 0;

	pthread_mutex_lock(&n->job_mu);
	while (!n->stopping) {
		struct timespec until = clock_mono_after_ms(NODE_TICK_MS);
		pthread_mutex_unlock(&n->job_mu);
		if (k++ % NODE_ROOM_TICKS == 0)
			look_at_room(n);
		tick(n);
		pthread_mutex_lock(&n->job_mu);
		while (!n->stopping && pthread_cond_timedwait(&n->tick_cond, &n->job_mu, &until) != ETIMEDOUT)
			;
	}
	pthread_mutex_unlock(&n->job_mu);
	return NULL;
}

/* ---- callbacks of the links ---- */

static void self_hello(void *arg, struct hello *h)
{
	struct node *n = arg;
	const struct state *s = &n->core.rec;
	bool inconsistent;

	pthread_mutex_lock(&n->core_mu);
	h->flags = core_flags(&n->core);
	h->features = FEATURE_STATE;
	h->incarnation = s->incarnation;
	h->epoch = state_epoch(s);
	h->sync_set = s->sync_set;
	h->limits = s->limits;
	h->nlineage = s->nlineage;
	memcpy(h->lineage, s->lineage, s->nlineage * sizeof h->lineage[0]);
	inconsistent = s->inconsistent;
	h->lsn = lsn_locked(n);
	pthread_mutex_unlock(&n->core_mu);
	h->from_instance = inconsistent ? 0 : atomic_load(&n->from_instance);
	h->from_seq = atomic_load(&n->applied_seq);
	h->free_bytes = atomic_load(&n->free_bytes);
	h->free_inodes = atomic_load(&n->free_inodes);
	ids_counters(n->cfg.handles, h->counters);
}

static void self_heartbeat(void *arg, struct heartbeat *h)
{
	struct node *n = arg;
	pthread_mutex_lock(&n->core_mu);
	h->flags = core_flags(&n->core);
	h->epoch = state_epoch(&n->core.rec);
	h->lsn = lsn_locked(n);
	pthread_mutex_unlock(&n->core_mu);
	h->seq = atomic_load(&n->applied_seq);
	h->free_bytes = atomic_load(&n->free_bytes);
	h->free_inodes = atomic_load(&n->free_inodes);
}

/* The volume can represent what all its nodes can: LIMITS of another node narrow ours. True: they have changed, and want recording. (A sync set
 * that relies on them is in the same record, or a later one.) */
static bool agree_limits(struct node *n, const struct volume_limits *limits)
{
	auto_lock(&n->core_mu);
	struct volume_limits was = n->core.rec.limits;

	volume_limits_intersect(&n->core.rec.limits, limits);
	if (volume_limits_eq(&was, &n->core.rec.limits))
		return false;
	*n->cfg.limits = n->core.rec.limits;
	log_info("volume: limits narrowed to what every node can represent");
	return true;
}

static void on_up(void *arg, unsigned peer, const struct hello *h)
{
	struct node *n = arg;
	struct core_event e = { .type = EV_PEER_UP, .peer = peer, .hello = h }, limits = { .type = EV_LIMITS };
	int err = ids_learn(n->cfg.handles, h->counters);
	if (err)
		log_error("handles: can't record the id ranges of node %u: %s", peer, strerror(-err));
	if (agree_limits(n, &h->limits))
		node_event(n, &limits);
	atomic_store(&n->peer_free_bytes[peer], h->free_bytes);
	atomic_store(&n->peer_free_inodes[peer], h->free_inodes);
	node_event(n, &e);
}

static void on_down(void *arg, unsigned peer, const char *why)
{
	struct core_event e = { .type = EV_PEER_DOWN, .peer = peer, .text = why };
	node_event(arg, &e);
}

/* A person may give a node's versions up while the connection is being made, when its hello is on the way already: without a new one both would
 * wait for ever. (The flag's end is no reason.) */
static bool gave_up_since(struct node *n, unsigned peer, uint32_t flags)
{
	const struct core_peer *p = &n->core.peer[peer];
	auto_lock(&n->core_mu);

	return p->connected && (flags & ~p->hello.flags & NODE_DISCARD);
}

static void on_heartbeat(void *arg, unsigned peer, const struct heartbeat *h)
{
	struct node *n = arg;
	if (gave_up_since(n, peer, h->flags))
		link_reset(n->links, peer, "it gave its own versions up after its hello");
	atomic_store(&n->peer_free_bytes[peer], h->free_bytes);
	atomic_store(&n->peer_free_inodes[peer], h->free_inodes);
}

static void on_barrier(struct node *n, unsigned peer, const struct barrier *b)
{
	queue_barrier_done(n->cfg.queue, peer, b->seq, b->err);
	atomic_fetch_add(&n->barriers[peer], 1);
	if (b->err) {
		struct core_event e = { .type = EV_PEER_FAILED, .peer = peer, .text = "it could not make changes durable: see its log" };
		node_event(n, &e);
	}
}

static void on_message(void *arg, unsigned peer, const struct msg *m)
{
	struct node *n = arg;
	struct core_event e = { .peer = peer, .msg = m };

	if (atomic_load(&n->njobs) > NODE_JOBS_MAX) {
		link_reset(n->links, peer, "it asks for more than can be done");
		return;
	}
	switch (m->kind) {
	case FRAME_ACK: queue_acked(n->cfg.queue, peer, m->ack.recv_seq, m->ack.applied_seq); return;
	case FRAME_BARRIER: on_barrier(n, peer, &m->barrier); return;
	case FRAME_REPORT: n->resync.report(n->resync.arg, peer, &m->report); return;
	case FRAME_OPENED: node_stream_opened(n, peer, &m->opened); return;
	case FRAME_STATE_ASK: give_asked(n, peer, m->id); return;
	case FRAME_STATE: take_heard(n, peer, &m->state); return;
	case FRAME_SWITCHED: node_switched(n, &m->switched); return;
	case FRAME_SWITCHOVER:
		e.type = EV_SWITCHOVER;
		e.node = m->switchover.node;
		e.seq = m->switchover.id;
		break;
	case FRAME_TAKE_BACK: e.type = EV_MSG_TAKE_BACK; break;
	case FRAME_TAKEN_BACK: e.type = EV_MSG_TAKEN_BACK; break;
	case FRAME_OPEN: e.type = EV_MSG_OPEN; break;
	case FRAME_OUTDATE: e.type = EV_MSG_OUTDATE; break;
	case FRAME_OUTDATED: e.type = EV_MSG_OUTDATED; break;
	case FRAME_RECORD: e.type = EV_MSG_RECORD; break;
	case FRAME_RECORDED: e.type = EV_MSG_RECORDED; break;
	case FRAME_LEVEL: e.type = EV_MSG_LEVEL; break;
	case FRAME_LEVELLED: e.type = EV_MSG_LEVELLED; break;
	case FRAME_GOODBYE:
		e.type = EV_GOODBYE;
		e.flag = true;
		e.ok = m->goodbye.handover;
		break;
	default: link_reset(n->links, peer, "it sent a message that has no meaning here"); return;
	}
	node_event(n, &e);
}

static void on_join(void *arg, const struct join_msg *j, struct joined_msg *out)
{
	struct node *n = arg;
	const struct state *s = &n->cfg.state;
	struct core_event limits = { .type = EV_LIMITS };

	memset(out, 0, sizeof *out);
	if (j->node == s->node || !n->cfg.peers[j->node].name) {
		out->err = -EINVAL;
		snprintf(out->reason, sizeof out->reason, "node number %u is not another node of this volume's configuration here", j->node);
		return;
	}
	if (agree_limits(n, &j->limits))
		out->err = node_event_recorded(n, &limits);
	if (out->err) {
		snprintf(out->reason, sizeof out->reason, "the narrower limits could not be recorded: %s", strerror(-out->err));
		return;
	}
	memcpy(out->uuid, s->uuid, UUID_LEN);
	out->generation = s->generation;
	memcpy(out->dir_key, s->dir_key, sizeof out->dir_key);
	memcpy(out->mac_key, s->mac_key, sizeof out->mac_key);
	pthread_mutex_lock(&n->core_mu);
	out->limits = n->core.rec.limits;
	pthread_mutex_unlock(&n->core_mu);
	ids_counters(n->cfg.handles, out->counters);
	log_info("node: node %u joins", j->node);
}

/* ---- callbacks of the rooms around ---- */

int node_open_epoch(void *arg)
{
	struct node *n = arg;
	struct core_event e = { .type = EV_WANT_EPOCH };
	auto_lock(&n->core_mu);

	if (n->core.role != CORE_PRIMARY)
		return n->core.role == CORE_HANDING ? -EAGAIN : -EROFS;
	e.lsn = lsn_locked(n);
	n->epoch_waiting = true;
	node_step_locked(n, &e);
	while (n->epoch_waiting && !n->closed)
		pthread_cond_wait(&n->core_changed, &n->core_mu);
	return !n->epoch_waiting && n->epoch_ok ? 0 : -EROFS;
}

void node_restate(void *arg, const uint64_t *ids, unsigned count)
{
	struct node *n = arg;
	for (unsigned p = 1; p <= NODE_MAX; p++)
		if (n->cfg.peers[p].name && p != n->cfg.core.node && !n->resync.restate(n->resync.arg, p, ids, count)) {
			struct core_event e = { .type = EV_UNSTATED, .peer = p };
			node_event(n, &e);
		}
}

void node_room(void *arg, uint64_t *bytes, uint64_t *inodes)
{
	struct node *n = arg;
	uint16_t set = queue_ackset(n->cfg.queue);

	*bytes = *inodes = UINT64_MAX;
	for (unsigned p = 1; p <= NODE_MAX && set; p++) {
		if (!(set & 1u << p))
			continue;
		struct queue_peer_stat q;
		queue_peer_stat(n->cfg.queue, p, &q);
		uint64_t b = atomic_load(&n->peer_free_bytes[p]), i = atomic_load(&n->peer_free_inodes[p]);
		uint64_t taken = q.bytes_behind + n->cfg.reserve_bytes;
		b = b > taken ? b - taken : 0;
		if (b < *bytes)
			*bytes = b;
		if (i < *inodes)
			*inodes = i;
	}
}

void node_flush_failed(void *arg, uint64_t id, int err)
{
	struct node *n = arg;
	log_error("node: object %llu: data could not be made durable here: %s: nothing is acknowledged any more; "
		  "check the disk, then restart this node or promote another", (unsigned long long)id, strerror(-err));
	atomic_store(&n->frozen, true);
	queue_freeze(n->cfg.queue, true);
	hook_state(n, "frozen", "");
}

void node_barrier_done(void *arg, uint64_t seq, int err)
{
	struct node *n = arg;
	struct msg m = { .kind = FRAME_BARRIER, .barrier = { .seq = seq, .err = err } };
	struct core_event failed = { .type = EV_DIVERGED, .flag = true, .text = "changes could not be made durable here" };

	stream_answer(n, &m);
	if (err)
		node_event(n, &failed);
}

void node_report(void *arg, const struct report *r)
{
	struct node *n = arg;
	struct msg m = { .kind = FRAME_REPORT, .report = *r };
	unsigned peer = n->stream_peer;		/* from its applier only, which ends before this changes */

	if (peer && link_send_wait(n->links, peer, &m))
		link_reset(n->links, peer, "a report could not be sent");
}

int node_stream_epoch(void *arg, struct epoch ep, uint64_t seq, uint64_t prev_lsn)
{
	struct node *n = arg;
	struct core_event e = { .type = EV_STREAM_EPOCH, .epoch = ep, .lsn = prev_lsn };
	uint64_t unused;
	bool another = current_epoch(n, &unused).node != ep.node;
	int err = node_event_recorded(n, &e);

	if (err)
		return err;
	atomic_store(&n->base_seq, seq);
	/* What the primary before had in limbo for its users is gone; so did the new one. (In a comparison its end sees to that.) */
	if (another && !apply_tolerant(n->apply) && (err = local_limbo_purge_all(n->cfg.bottom)))
		log_warn("limbo: not emptied: %s", strerror(-err));
	return 0;
}

void node_handover(void *arg, unsigned to, uint64_t number, uint64_t seq)
{
	struct core_event e = { .type = EV_STREAM_HANDOVER, .node = to, .seq = number, .lsn = seq };
	if (to)
		node_event(arg, &e);		/* it may begin a promotion, which waits for us; what that records is enough */
	else
		node_event_recorded(arg, &e);
}

int node_set_inconsistent(void *arg, bool inconsistent)
{
	struct node *n = arg;
	struct core_event e = { .type = EV_COMPARING, .flag = inconsistent };
	int err = node_event_recorded(n, &e);

	if (!err && !inconsistent)
		atomic_store(&n->from_instance, atomic_load(&n->full_instance));
	return err;
}

void node_compared(void *arg, unsigned peer, int err)
{
	char text[REASON_MAX];
	struct core_event e = { .type = EV_COMPARED, .peer = peer, .ok = !err, .text = text };
	snprintf(text, sizeof text, "the comparison failed: %s", strerror(-err));
	node_event(arg, &e);
}

bool node_may_adopt(void *arg)
{
	struct node *n = arg;
	auto_lock(&n->core_mu);
	return n->core.role == CORE_PRIMARY;
}

/* ---- people ---- */

const char *node_name(const struct node *n, unsigned p)
{
	return n->cfg.peers[p].name ? n->cfg.peers[p].name : "a node that is not configured";
}

unsigned node_primary_heard(const struct node *n)
{
	for (unsigned p = 1; p <= NODE_MAX; p++)
		if (n->core.peer[p].connected && (n->core.peer[p].hello.flags & NODE_PRIMARY))
			return p;
	return 0;
}

static void describe_knowledge(struct node *n, bool fenced, char *out, size_t size)
{
	uint64_t now = clock_mono_ms(), seen = n->core.last_contact_ms;
	unsigned alive = fenced && !n->core.rec.handed_over ? node_primary_heard(n) : 0;
	char contact[80];

	if (!n->core.rec.nlineage || (n->core.rec.was_primary && !n->core.rec.outdated)) {
		snprintf(out, size, "%s: nothing is missing", n->core.rec.nlineage ? "this node was the last primary" : "the volume is new");
		return;
	}
	if (seen)
		snprintf(contact, sizeof contact, "%llu.%03llu s ago", (unsigned long long)(now - seen) / 1000, (unsigned long long)(now - seen) % 1000);
	else
		snprintf(contact, sizeof contact, "never since this daemon started");
	snprintf(out, size, "last contact with the old primary: %s; last LSN applied here: %llu of reign %llu; %s%s%s%s", contact,
		 (unsigned long long)lsn_locked(n), (unsigned long long)state_epoch(&n->core.rec).reign,
		 n->core.rec.handed_over ? "the old primary handed over: nothing is missing" :
		 n->core.level ? "this node was level: no acknowledged change is missing, only what nobody was promised" :
		 "this node was not level: acknowledged changes may be missing",
		 alive ? "\nwarning: " : "", alive ? node_name(n, alive) : "",
		 alive ? " still answered as primary: make sure that it is stopped, or demote one of the two now" : "");
}

int node_promote(struct node *n, bool fenced, bool force, char *text, size_t size)
{
	struct core_event e = { .type = EV_PROMOTE, .fenced = fenced, .force = force };
	char known[NODE_TEXT_MAX];
	uint64_t t0 = clock_mono_ms();
	auto_lock(&n->core_mu);

	if (n->closed) {
		snprintf(text, size, "this daemon is being stopped");
		return -EBUSY;
	}
	if (n->promote_state == 1) {
		snprintf(text, size, "a promotion is under way");
		return -EBUSY;
	}
	describe_knowledge(n, fenced, known, sizeof known);
	bool was = n->core.role == CORE_PRIMARY;
	n->promote_state = 1;
	node_step_locked(n, &e);
	while (n->promote_state == 1 && !n->closed)
		pthread_cond_wait(&n->core_changed, &n->core_mu);
	if (n->promote_state == 1)
		snprintf(n->promote_text, sizeof n->promote_text, "this daemon is being stopped");
	bool ok = n->promote_state == 2;
	n->promote_state = 0;
	if (ok && !was)
		snprintf(text, size, "%s (took %llu ms)\n%s", n->promote_text, (unsigned long long)(clock_mono_ms() - t0), known);
	else
		snprintf(text, size, "%s", n->promote_text);
	return ok ? 0 : -EPERM;
}

int node_resync_local(struct node *n, bool discard, char *text, size_t size)
{
	struct core_event e = { .type = EV_DISCARD };
	auto_lock(&n->core_mu);

	if (n->core.role != CORE_STANDBY) {
		snprintf(text, size, "this node is primary: resync is for the node that shall follow");
		return -EPERM;
	}
	uint32_t flags = core_flags(&n->core);
	bool split = false;
	for (unsigned p = 1; p <= NODE_MAX; p++)
		split |= n->core.peer[p].state == PEER_REFUSED;
	if (!discard && ((flags & NODE_TAIL) || split)) {
		snprintf(text, size, "this node may hold changes that the others lack: `tandemfs resync --discard-local' moves them to .tandemfs/lost/ and follows");
		return -EPERM;
	}
	atomic_store(&n->from_instance, 0);
	atomic_store(&n->full_instance, 0);
	if (discard) {
		node_step_locked(n, &e);
	} else {
		for (unsigned p = 1; p <= NODE_MAX; p++)
			if (n->core.peer[p].connected)
				link_reset(n->links, p, "a full comparison is wanted");
	}
	snprintf(text, size, "%s%s", !discard ? "a full comparison was asked for: see `tandemfs status'" :
		 node_primary_heard(n) ? "this node follows the primary" : "no primary is heard: this node follows the next one",
		 discard ? "; versions that only it has are kept in .tandemfs/lost/ of its backing directory" : "");
	return 0;
}

/* ---- status ---- */

static void peer_status(struct node *n, unsigned p, struct node_peer_status *o)
{
	const struct core_peer *c = &n->core.peer[p];
	struct queue_peer_stat q;
	uint64_t heard = link_last_heard(n->links, p), now = clock_mono_ms();

	o->configured = true;
	o->connected = c->connected;
	o->state = c->state;
	o->in_sync_set = n->core.rec.sync_set & 1u << p;
	o->outdated = n->core.rec.dropped[p] == DROPPED_OUTDATED;
	o->dropped = (enum dropped_how)n->core.rec.dropped[p];
	o->flags = c->hello.flags;
	memcpy(o->reason, c->reason, sizeof o->reason);
	o->last_heard_ms = heard ? (int64_t)(now - heard) : -1;
	link_stats(n->links, p, &o->link);
	queue_peer_stat(n->cfg.queue, p, &q);
	if (!q.attached)
		return;
	o->lag_ops = queue_last(n->cfg.queue) - q.applied_seq;
	o->lag_bytes = q.bytes_behind;
	o->lag_ms = o->lag_ops && q.oldest_ns ? (clock_mono_ns() - q.oldest_ns) / 1000000 : 0;
}

void node_status(struct node *n, struct node_status *out)
{
	auto_lock(&n->core_mu);
	memset(out, 0, sizeof *out);
	out->role = n->core.role;
	out->flags = core_flags(&n->core);
	out->frozen = n->frozen;
	out->level = n->core.level;
	out->epoch = state_epoch(&n->core.rec);
	out->lsn = lsn_locked(n);
	out->sync_set = n->core.rec.sync_set;
	out->queue_bytes = queue_bytes(n->cfg.queue);
	out->following = (unsigned)n->core.following;
	out->doubt_of = n->core.doubt_of;
	link_stats(n->links, 0, &out->strangers);
	for (unsigned p = 1; p <= NODE_MAX; p++)
		if (n->cfg.peers[p].name && p != n->cfg.core.node)
			peer_status(n, p, &out->peer[p]);
}

/* ---- life ---- */

int node_new(const struct node_config *cfg, struct node **out)
{
	struct node *n = calloc(1, sizeof *n);
	if (!n)
		return -ENOMEM;
	n->cfg = *cfg;
	n->instance = state_random();
	n->jobs_last = &n->jobs;
	pthread_mutex_init(&n->core_mu, NULL);
	cond_init_mono(&n->core_changed);
	pthread_mutex_init(&n->job_mu, NULL);
	cond_init_mono(&n->job_cond);
	cond_init_mono(&n->tick_cond);
	cond_init_mono(&n->record_cond);
	cond_init_mono(&n->settle_cond);
	cond_init_mono(&n->hook_cond);
	cond_init_mono(&n->hand_cond);
	pthread_mutex_init(&n->answer_mu, NULL);
	pthread_mutex_init(&n->take_mu, NULL);
	cond_init_mono(&n->take_cond);
	n->take.last = &n->take.first;
	pthread_mutex_init(&n->stream_mu, NULL);
	pthread_mutex_init(&n->ack_mu, NULL);
	cond_init_mono(&n->ack_cond);
	core_init(&n->core, &cfg->core, &cfg->state, cfg->unknown);
	*out = n;
	return 0;
}

/* In this order; they end in the reverse one but for the recorder, which others wait for. */
static int start_threads(struct node *n)
{
	struct { pthread_t *t; void *(*run)(void *); } all[] = {
		{ &n->recorder, record_thread }, { &n->worker, worker_thread }, { &n->settler, settle_thread }, { &n->acker, node_ack_thread },
		{ &n->ticker, tick_thread }, { &n->hander, node_hand_thread },
	};
	for (; n->threads < ARRAY_LEN(all); n->threads++)
		if (pthread_create(all[n->threads].t, NULL, all[n->threads].run, n))
			return -EAGAIN;
	return 0;
}

static int start_links(struct node *n)
{
	struct links_config l = {
		.node = n->cfg.core.node, .listen = n->cfg.listen, .compress = n->cfg.compress, .security = n->cfg.security, .instance = n->instance,
		.peer_timeout_ms = n->cfg.core.peer_timeout_ms, .self_hello = self_hello, .self_heartbeat = self_heartbeat, .up = on_up,
		.down = on_down, .message = on_message, .heartbeat = on_heartbeat, .stream = node_stream_ready, .join = on_join, .arg = n,
	};
	memcpy(l.peers, n->cfg.peers, sizeof l.peers);
	memcpy(l.uuid, n->cfg.state.uuid, UUID_LEN);
	return links_start(&l, &n->links);
}

static void end_threads(struct node *n);

int node_start(struct node *n, struct interpose *ip, struct apply *apply, const struct node_resync *r)
{
	struct core_event e = { .type = EV_START };

	n->ip = ip;
	n->apply = apply;
	n->resync = *r;
	look_at_room(n);
	n->core.rec.clean = false;
	n->mark_due = n->core.unknown;
	int err = n->mark_due ? state_save(n->cfg.state_file, &n->core.rec) :
				state_mark(n->cfg.state_file, &n->core.rec, n->core.rec.marks[0].lsn);
	if (!err)
		err = start_links(n);
	if (!err)
		err = start_threads(n);
	if (err) {
		end_threads(n);
		return err;
	}
	node_event(n, &e);
	return 0;
}

static void say_goodbye(struct node *n, bool handover)
{
	struct msg m = { .kind = FRAME_GOODBYE, .goodbye = { .handover = handover, .reason = "stopped in order" } };
	for (unsigned p = 1; p <= NODE_MAX; p++)
		if (n->cfg.peers[p].name && p != n->cfg.core.node && link_is_up(n->links, p))
			link_send(n->links, p, &m);
}

static void join(struct node *n, unsigned number, pthread_t t)
{
	if (n->threads >= number)
		pthread_join(t, NULL);
}

/* Deciding ends with the worker; then nobody but us touches the streams. What they had received is applied, and may have to be recorded. */
static void end_threads(struct node *n)
{
	if (n->links)
		links_end(n->links);
	pthread_mutex_lock(&n->job_mu);
	atomic_store(&n->stopping, true);
	n->worker_stop = true;
	pthread_cond_broadcast(&n->tick_cond);
	pthread_cond_broadcast(&n->settle_cond);
	pthread_cond_broadcast(&n->hand_cond);
	pthread_cond_broadcast(&n->job_cond);
	pthread_mutex_unlock(&n->job_mu);
	node_ack_poke(n, true);
	join(n, 6, n->hander);
	join(n, 5, n->ticker);
	join(n, 4, n->acker);
	join(n, 3, n->settler);
	hooks_stop(n);
	join(n, 2, n->worker);
	for (unsigned p = 1; p <= NODE_MAX; p++)
		stream_close(n, p);
	stream_unfollow(n, false);
	pthread_mutex_lock(&n->job_mu);
	n->recorder_stop = true;
	pthread_cond_broadcast(&n->record_cond);
	pthread_mutex_unlock(&n->job_mu);
	join(n, 1, n->recorder);
	n->threads = 0;
	pthread_mutex_lock(&n->core_mu);
	n->closed = true;
	pthread_cond_broadcast(&n->core_changed);
	pthread_mutex_unlock(&n->core_mu);
}

void node_stop(struct node *n)
{
	struct core_event e = { .type = EV_STOPPING };
	char text[NODE_TEXT_MAX];
	bool handed = false;

	pthread_mutex_lock(&n->core_mu);
	bool primary = n->core.role == CORE_HANDING || (n->core.role == CORE_PRIMARY && atomic_load(&n->serving));
	pthread_mutex_unlock(&n->core_mu);
	if (primary && !(handed = node_give_up(n, true, text, sizeof text) == 0)) {
		log_error("node: the role could not be handed over: %s: a standby needs --fenced to be promoted", text);
		interpose_set_writable(n->ip, false);	/* nothing changes behind the mark that is written below, */
		queue_stop(n->cfg.queue);		/* and nobody waits for confirmations any more */
	}
	if (node_event_recorded(n, &e))
		log_error("node: can't record the stop: no goodbye, so that the others don't rely on it");
	else
		say_goodbye(n, handed);
	end_threads(n);
	pthread_mutex_lock(&n->core_mu);
	n->core.rec.clean = true;
	struct state last = n->core.rec;
	uint64_t lsn = lsn_locked(n);
	bool unknown = n->core.unknown;
	pthread_mutex_unlock(&n->core_mu);
	int err = unknown ? state_save(n->cfg.state_file, &last) : state_mark(n->cfg.state_file, &last, lsn);
	if (err)
		log_error("state: can't write the mark: %s", strerror(-err));
}

static void free_jobs(struct node *n)
{
	for (struct job *j = n->jobs, *next; j; j = next) {
		next = j->next;
		free(j);
	}
}

void node_free(struct node *n)
{
	if (!n)
		return;
	links_stop(n->links);
	free_jobs(n);
	pthread_mutex_destroy(&n->core_mu);
	pthread_mutex_destroy(&n->job_mu);
	pthread_mutex_destroy(&n->stream_mu);
	pthread_mutex_destroy(&n->ack_mu);
	pthread_cond_destroy(&n->core_changed);
	pthread_cond_destroy(&n->job_cond);
	pthread_cond_destroy(&n->tick_cond);
	pthread_cond_destroy(&n->record_cond);
	pthread_cond_destroy(&n->settle_cond);
	pthread_cond_destroy(&n->hook_cond);
	pthread_cond_destroy(&n->hand_cond);
	pthread_mutex_destroy(&n->answer_mu);
	pthread_mutex_destroy(&n->take_mu);
	pthread_cond_destroy(&n->take_cond);
	pthread_cond_destroy(&n->ack_cond);
	free(n);
}
