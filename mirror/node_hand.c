/*
 * Giving the role up: the shell's part. What the core asks for may take long (write back, wait for standbys), so a thread of its own does it, the hander, one
 * job after the other: ACT_PREPARE, ACT_SHUT, ACT_MARK; it answers with EV_PREPARED, EV_SHUT, EV_MARKED. And what people ask for: demote, switchover, from
 * any node.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "mirror/node_int.h"

enum {
	CATCH_UP_MS = 10000,		/* changes go on meanwhile: for a standby that is far behind */
	CATCH_UP_ROUND_MS = 30, CATCH_UP_ROUNDS = 20,	/* near enough: what there was is applied so soon */
	MARK_WAIT_MS = 5000,		/* for those that are connected to apply the marker of a demotion */
	POLL_MS = 1,
	ASK_WAIT_MS = 30000,		/* for the primary's answer */
};

/* ---- the hander ---- */

static void nap(struct node *n)
{
	struct timespec until = clock_mono_after_ms(POLL_MS);
	auto_lock(&n->job_mu);
	pthread_cond_timedwait(&n->hand_cond, &n->job_mu, &until);
}

/* Peers in the ack set that stream and have not applied SEQ. */
static bool anybody_behind(struct node *n, uint64_t seq)
{
	uint16_t set = queue_ackset(n->cfg.queue);

	for (unsigned p = 1; p <= NODE_MAX; p++) {
		struct queue_peer_stat q;
		if (!(set & 1u << p))
			continue;
		queue_peer_stat(n->cfg.queue, p, &q);
		if (q.attached && q.applied_seq < seq)
			return true;
	}
	return false;
}

static void wait_applied(struct node *n, uint64_t seq, unsigned limit_ms)
{
	uint64_t end = clock_mono_ms() + limit_ms;

	while (anybody_behind(n, seq) && clock_mono_ms() < end && !atomic_load(&n->stopping))
		nap(n);
}

static void catch_up(struct node *n)
{
	uint64_t begin = clock_mono_ms();

	for (unsigned i = 0; i < CATCH_UP_ROUNDS && clock_mono_ms() - begin < CATCH_UP_MS && !atomic_load(&n->stopping); i++) {
		uint64_t round = clock_mono_ms();
		wait_applied(n, queue_last(n->cfg.queue), CATCH_UP_MS);
		if (clock_mono_ms() - round < CATCH_UP_ROUND_MS)
			return;
	}
}

static void prepare(struct node *n, const struct core_action *a)
{
	struct core_event e = { .type = EV_PREPARED, .ok = true, .seq = a->seq };

	if (n->frozen) {			/* what is not durable here can't be handed over as if it were */
		e.ok = false;
		e.text = "a flush failed here: promote another with --fenced, when this node is stopped";
	} else if (a->flag) {
		catch_up(n);
		if (n->cfg.write_back)
			n->cfg.write_back(n->cfg.role_arg);
		catch_up(n);
	} else if (n->cfg.write_back) {
		n->cfg.write_back(n->cfg.role_arg);
	}
	node_event(n, &e);
}

static bool statements_missing(struct node *n)
{
	for (unsigned p = 1; p <= NODE_MAX; p++)
		if ((queue_ackset(n->cfg.queue) & 1u << p) && n->resync.busy && n->resync.busy(n->resync.arg, p))
			return true;
	return false;
}

/* That everything is applied may be old news: one more op, and the sync set answers now. */
static int prove_alive(struct node *n, const struct timespec *until)
{
	struct op op = { .type = OP_NOP };
	uint64_t seq;

	if (!queue_has_peers(n->cfg.queue))
		return 0;
	int err = queue_append(n->cfg.queue, &op, 0xffff, &seq);
	return err ? err : queue_wait_until(n->cfg.queue, seq, CONFIRM_APPLIED, until);
}

/* All that this node has changed is with the sync set, and nobody waits for an acknowledgement any more. */
static int come_to_rest(struct node *n, const struct timespec *until)
{
	int err = interpose_hold(n->ip) ? interpose_wait_idle(n->ip, until) : -EROFS;

	while (!err && statements_missing(n)) {
		struct timespec now = clock_mono_after_ms(0);
		if (time_cmp(now, *until) > 0)
			return -ETIMEDOUT;
		nap(n);
	}
	return err ? err : prove_alive(n, until);
}

static void shut(struct node *n, const struct core_action *a)
{
	struct core_event e = { .type = EV_SHUT, .seq = a->seq };
	struct timespec until = clock_mono_after_ms((unsigned)a->from_seq);
	int err = n->frozen ? -EIO : come_to_rest(n, &until);

	e.ok = !err;
	e.text = err == -ETIMEDOUT ? "a standby did not apply everything in time" : err ? strerror(-err) : NULL;
	e.lsn = node_lsn(n);
	node_event(n, &e);
}

static void mark(struct node *n, const struct core_action *a)
{
	struct core_event e = { .type = EV_MARKED, .seq = a->seq };
	struct op op = { .type = OP_HANDOVER, .stamp = interpose_stamp(n->ip), .flags = a->peer, .lsn = a->seq };
	uint64_t seq;
	int err = statements_missing(n) ? -EAGAIN : queue_append(n->cfg.queue, &op, 0xffff, &seq);

	if (!err)
		atomic_store(&n->mark_seq, seq);
	if (!err && !a->peer) {
		wait_applied(n, seq, MARK_WAIT_MS);
		if (anybody_behind(n, seq))
			log_warn("node: not every standby has confirmed the handover: a promotion there may need --fenced");
	}
	e.ok = !err;
	node_event(n, &e);
}

void *node_hand_thread(void *arg)
{
	struct node *n = arg;

	pthread_mutex_lock(&n->job_mu);
	while (!atomic_load(&n->stopping)) {
		if (!n->hand_wanted) {
			pthread_cond_wait(&n->hand_cond, &n->job_mu);
			continue;
		}
		struct core_action a = n->hand_job;
		n->hand_wanted = false;
		pthread_mutex_unlock(&n->job_mu);
		if (a.type == ACT_PREPARE)
			prepare(n, &a);
		else if (a.type == ACT_SHUT)
			shut(n, &a);
		else
			mark(n, &a);
		pthread_mutex_lock(&n->job_mu);
	}
	pthread_mutex_unlock(&n->job_mu);
	return NULL;
}

void node_hand_job(struct node *n, const struct core_action *a)
{
	if (a->type == ACT_SHUT && !n->changing) {
		n->changing = true;
		node_tell_role(n, NODE_ROLE_CHANGING);
	}
	auto_lock(&n->job_mu);
	n->hand_job = *a;
	n->hand_wanted = true;
	pthread_cond_broadcast(&n->hand_cond);
}

/* ---- people ---- */

void node_handed(struct node *n, const struct core_action *a)
{
	auto_lock(&n->core_mu);
	if (n->hand_state != 1)
		return;
	n->hand_state = a->ok ? 2 : 3;
	snprintf(n->hand_text, sizeof n->hand_text, "%s", a->text);
	pthread_cond_broadcast(&n->core_changed);
}

/* Asks the core by E and waits for its answer. With core_mu held. */
static int hand_locked(struct node *n, struct core_event *e, char *text, size_t size)
{
	if (n->closed || n->hand_state == 1) {
		snprintf(text, size, n->closed ? "this daemon is being stopped" : "a change of role is under way: try again");
		return -EBUSY;
	}
	n->hand_state = 1;
	node_step_locked(n, e);
	while (n->hand_state == 1 && !n->closed)
		pthread_cond_wait(&n->core_changed, &n->core_mu);
	bool ok = n->hand_state == 2;
	snprintf(text, size, "%s", n->hand_state == 1 ? "this daemon is being stopped" : n->hand_text);
	n->hand_state = 0;
	return ok ? 0 : -EBUSY;
}

int node_give_up(struct node *n, bool stopping, char *text, size_t size)
{
	struct core_event e = { .type = EV_DEMOTE, .flag = stopping };
	auto_lock(&n->core_mu);

	for (uint64_t end = clock_mono_ms() + ASK_WAIT_MS; stopping && n->core.hand != HAND_NOT && clock_mono_ms() < end;) {
		struct timespec until = clock_mono_after_ms(NODE_TICK_MS);	/* one that is under way ends first */
		pthread_cond_timedwait(&n->core_changed, &n->core_mu, &until);
	}
	if (stopping && n->core.role != CORE_PRIMARY)
		return 0;
	return hand_locked(n, &e, text, size);
}

/* Who may be promoted after our handover: the members of the sync set. */
static void describe_successors(struct node *n, char *out, size_t size)
{
	auto_lock(&n->core_mu);
	unsigned found = 0;
	size_t len = (size_t)snprintf(out, size, "this node is standby now; ");

	for (unsigned p = 1; p <= NODE_MAX; p++) {
		if (p == n->cfg.core.node || !(n->core.rec.sync_set & 1u << p) || len >= size)
			continue;
		len += (size_t)snprintf(out + len, size - len, "%s%s", found++ ? ", " : "", node_name(n, p));
	}
	if (len < size)
		snprintf(out + len, size - len, found ? " %s everything: `tandemfs promote' there" :
			 "no other node was level: promote this one again, or let another become level first", found > 1 ? "have" : "has");
}

int node_demote(struct node *n, bool force, char *text, size_t size)
{
	pthread_mutex_lock(&n->core_mu);
	enum core_role role = n->core.role;
	bool busy = role == CORE_PRIMARY && !atomic_load(&n->serving);
	pthread_mutex_unlock(&n->core_mu);
	if (role == CORE_STANDBY) {
		snprintf(text, size, "this node is not primary: nothing to do");
		return 0;
	}
	if (busy || role != CORE_PRIMARY) {
		snprintf(text, size, "this node is changing its role already, or being stopped: try again");
		return -EBUSY;
	}
	uint64_t writers = interpose_writers(n->ip);
	if (writers && !force) {
		snprintf(text, size, "files are open for writing (%llu): close them, or take their next write's error with --force",
			 (unsigned long long)writers);
		return -EBUSY;
	}
	int err = node_give_up(n, false, text, size);
	if (!err)
		describe_successors(n, text, size);
	return err;
}

/* ---- switchover ---- */

static int switch_here(struct node *n, unsigned to, char *text, size_t size)
{
	struct core_event e = { .type = EV_SWITCHOVER, .node = to };
	uint64_t t0 = clock_mono_ms();
	char said[NODE_TEXT_MAX];
	auto_lock(&n->core_mu);
	int err = hand_locked(n, &e, said, sizeof said);

	if (err)
		snprintf(text, size, "%s", said);
	else
		snprintf(text, size, "%s (took %llu ms)", said, (unsigned long long)(clock_mono_ms() - t0));
	return err;
}

void node_switched(struct node *n, const struct switched_msg *m)
{
	auto_lock(&n->core_mu);
	if (!n->asked || m->id != n->asked || n->asked_state != 1)
		return;
	n->asked_state = m->err ? 3 : 2;
	snprintf(n->asked_text, sizeof n->asked_text, "%s", m->reason);
	pthread_cond_broadcast(&n->core_changed);
}

/* Has what was asked of OLD become true, whatever became of its answer? With core_mu. */
static bool another_reigns(const struct node *n, unsigned old, unsigned to)
{
	unsigned now = n->core.role == CORE_PRIMARY ? n->cfg.core.node : node_primary_heard(n);
	return now && now != old && (!to || now == to);
}

/* With core_mu held; the answer may be lost with the connection. */
static int ask_locked(struct node *n, unsigned primary, unsigned to, char *text, size_t size)
{
	struct msg m = { .kind = FRAME_SWITCHOVER, .switchover = { .id = state_random(), .node = (uint8_t)to } };
	uint64_t end = clock_mono_ms() + ASK_WAIT_MS;

	n->asked = m.switchover.id;
	n->asked_state = 1;
	int err = link_send(n->links, primary, &m);
	while (!err && n->asked_state == 1 && !n->closed && !another_reigns(n, primary, to) && clock_mono_ms() < end) {
		struct timespec until = clock_mono_after_ms(NODE_TICK_MS);
		pthread_cond_timedwait(&n->core_changed, &n->core_mu, &until);
	}
	bool reigns = another_reigns(n, primary, to), heard = n->asked_state != 1, ok = n->asked_state == 2;
	n->asked = 0;
	if (reigns || heard)
		snprintf(text, size, "%s", heard ? n->asked_text : "the role was handed over");
	else
		snprintf(text, size, "%s has not answered: `tandemfs status' says who is primary", node_name(n, primary));
	return reigns || ok ? 0 : -EBUSY;
}

int node_switchover(struct node *n, unsigned to, char *text, size_t size)
{
	pthread_mutex_lock(&n->core_mu);
	bool standby = n->core.role == CORE_STANDBY;
	unsigned primary = node_primary_heard(n);
	bool busy = n->asked || n->closed;
	pthread_mutex_unlock(&n->core_mu);
	if (!standby)
		return switch_here(n, to, text, size);
	if (!primary || busy) {
		snprintf(text, size, busy ? "a switchover has been asked for already" :
			 "no primary is heard here: `tandemfs promote' makes this node one, if there is none");
		return -EBUSY;
	}
	if (primary == to) {
		snprintf(text, size, "%s is primary already", node_name(n, to));
		return 0;
	}
	auto_lock(&n->core_mu);
	return ask_locked(n, primary, to, text, size);
}
