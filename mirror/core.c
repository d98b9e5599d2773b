#include "mirror/core_int.h"

#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
	PATIENT_MS = 120000,		/* for a peer that is compared: the end of a comparison makes everything durable */
	LEVEL_MS = 30000,		/* for a peer to make all that it holds durable */
};
/* ---- small helpers ---- */

struct core_action *core_act(struct step *s, enum core_action_type type, unsigned peer)
{
	assert(s->out->n < CORE_ACTIONS_MAX);
	struct core_action *a = &s->out->a[s->out->n++];
	memset(a, 0, sizeof *a);
	a->type = type;
	a->peer = peer;
	return a;
}

void core_say(struct step *s, int level, const char *fmt, ...)
{
	struct core_action *a = core_act(s, ACT_LOG, 0);
	va_list ap;

	a->level = level;
	va_start(ap, fmt);
	vsnprintf(a->text, sizeof a->text, fmt, ap);
	va_end(ap);
}

void core_act_text(struct step *s, enum core_action_type type, unsigned peer, const char *text)
{
	snprintf(core_act(s, type, peer)->text, sizeof s->out->a[0].text, "%s", text);
}

void core_send_id(struct step *s, unsigned peer, uint8_t kind, uint64_t id)
{
	struct core_action *a = core_act(s, ACT_SEND, peer);
	a->msg.kind = kind;
	a->msg.id = id;
}

void core_reason(struct core_peer *p, const char *text)
{
	snprintf(p->reason, sizeof p->reason, "%s", text);
}

/* What people call node N. */
const char *core_name_of(const struct core *c, unsigned n)
{
	static const char *const numbered[NODE_MAX + 1] = {
		"node 0", "node 1", "node 2", "node 3", "node 4", "node 5", "node 6", "node 7",
		"node 8", "node 9", "node 10", "node 11", "node 12", "node 13", "node 14", "node 15",
	};
	return c->cfg.name[n] ? c->cfg.name[n] : numbered[n];
}

uint16_t core_members(const struct core *c) { return (uint16_t)(c->rec.sync_set & ~BIT(c->cfg.node)); }

void core_record(struct step *s, unsigned what)
{
	struct core *c = s->c;
	c->rec_pending |= what;
	if (c->recording || s->e->now_ms < c->rec_retry_ms)
		return;
	c->recording = true;
	c->rec_inflight = c->rec_pending;
	c->rec_pending = 0;
	for (unsigned i = 0; i < (NODE_MAX + 1) * ANSWER_KINDS; i++) {
		struct core_peer *p = &c->peer[i / ANSWER_KINDS];
		if (p->answer[i % ANSWER_KINDS].wait) {
			p->answer[i % ANSWER_KINDS].wait = false;
			p->answer[i % ANSWER_KINDS].inflight = true;
		}
	}
	core_act(s, ACT_RECORD, 0);
}

enum lineage_relation lineage_compare(const struct lineage_entry *ours, uint32_t n, const struct lineage_entry *theirs, uint32_t m)
{
	bool in_theirs = false, in_ours = false;

	if (!m)
		return n ? LINEAGE_NEW : LINEAGE_SAME;
	if (!n)
		return LINEAGE_BLANK;
	for (uint32_t i = 0; i < m; i++)
		in_theirs |= epoch_eq(ours[n - 1].epoch, theirs[i].epoch);
	for (uint32_t i = 0; i < n; i++)
		in_ours |= epoch_eq(theirs[m - 1].epoch, ours[i].epoch);
	if (in_theirs && in_ours)
		return LINEAGE_SAME;
	return in_theirs ? LINEAGE_BEHIND : in_ours ? LINEAGE_AHEAD : LINEAGE_FORK;
}

enum lineage_relation core_relation(const struct core *c, unsigned peer)
{
	const struct hello *h = &c->peer[peer].hello;
	return lineage_compare(c->rec.lineage, c->rec.nlineage, h->lineage, h->nlineage);
}

bool core_has_tail(const struct core *c)
{
	return c->role != CORE_PRIMARY && c->rec.was_primary && !c->rec.handed_over && c->rec.nlineage &&
	       state_epoch(&c->rec).node == c->cfg.node;
}

uint32_t core_flags(const struct core *c)
{
	return (c->role == CORE_PRIMARY ? NODE_PRIMARY : 0u) | (c->rec.outdated || c->presumed_outdated ? NODE_OUTDATED : 0u) |
	       (c->rec.inconsistent ? NODE_INCONSISTENT : 0u) | (c->unknown ? NODE_UNKNOWN : 0u) |
	       (c->rec.handed_over ? NODE_HANDED_OVER : 0u) | (c->rec.nlineage ? 0u : NODE_NEW) | (c->level ? NODE_LEVEL : 0u) |
	       (core_has_tail(c) ? NODE_TAIL : 0u) | (c->discard || c->rec.keep_lost ? NODE_DISCARD : 0u);
}

/* The connection ends; its next hello says where the peer stands. */
void core_hang_up(struct step *s, unsigned n, const char *why)
{
	struct core_peer *p = &s->c->peer[n];

	if (p->connected)
		core_act_text(s, ACT_RESET, n, why);
	p->connected = false;
	p->state = PEER_DOWN;
	p->want_level = p->counts = p->told_level = false;
}

void core_fence(struct step *s, unsigned n, bool stop)
{
	struct core_action *a = core_act(s, ACT_FENCE, n);

	a->seq = s->c->peer[n].fence = ++s->c->fences;
	a->flag = stop;
}

/* ---- the sync set: leaving ---- */

static void drop_fence(struct step *s, unsigned n)
{
	struct core_peer *p = &s->c->peer[n];
	p->since_ms = s->e->now_ms;
	if (s->c->cfg.fence == FENCE_HOOK) {
		p->drop = DROP_FENCING;
		core_fence(s, n, false);
		return;
	}
	s->c->rec.dropped[n] = DROPPED_RISK;
	p->drop = DROP_DONE;
	core_say(s, LVL_WARN, "peer: %s: left the sync set unfenced: fence_peer = none takes this risk: don't promote it while this node lives", core_name_of(s->c, n));
}

static void drop_begin(struct step *s, unsigned n)
{
	struct core_peer *p = &s->c->peer[n];
	if (p->drop != DROP_NOT)
		return;
	if (!p->connected) {
		drop_fence(s, n);
		return;
	}
	p->drop = DROP_ASKED;
	p->since_ms = s->e->now_ms;
	core_send_id(s, n, FRAME_OUTDATE, s->e->now_ms);
}

static void drop_settled(struct step *s, unsigned n, enum dropped_how how)
{
	s->c->rec.dropped[n] = (uint8_t)how;
	s->c->peer[n].drop = DROP_DONE;
}

/* The smaller set is durable wherever it has to be. */
static void shrink_finish(struct step *s)
{
	struct core *c = s->c;
	c->shrinking = false;
	c->ackset &= c->rec.sync_set;
	core_act(s, ACT_ACKSET, 0)->set = c->ackset;
	c->epoch_wanted = true;
	core_act(s, ACT_EPOCH_WANTED, 0);
	for (unsigned n = 1; n <= NODE_MAX; n++)
		if (c->peer[n].drop == DROP_DONE && !(c->rec.sync_set & BIT(n)))
			c->peer[n].drop = DROP_NOT;
}

static void tell_set(struct step *s, unsigned n, uint64_t id)
{
	struct core_action *a = core_act(s, ACT_SEND, n);
	a->msg.kind = FRAME_RECORD;
	a->msg.record = (struct record_msg){ .id = id, .sync_set = s->c->rec.sync_set, .epoch = state_epoch(&s->c->rec) };
}

static void shrink_check(struct step *s)
{
	struct core *c = s->c;
	uint16_t gone = 0;

	if (c->role != CORE_PRIMARY)
		return;
	if (c->shrinking && c->shrink_durable && !c->shrink_wait)
		shrink_finish(s);
	for (unsigned n = 1; n <= NODE_MAX; n++)
		if (c->peer[n].drop == DROP_DONE && (c->rec.sync_set & BIT(n)))
			gone |= BIT(n);
	if (c->shrinking || !gone)
		return;
	c->rec.sync_set &= (uint16_t)~gone;
	c->shrinking = true;
	c->shrink_durable = false;
	c->shrink_id = ++c->set_id;
	c->shrink_since_ms = s->e->now_ms;
	c->shrink_wait = 0;
	for (unsigned n = 1; n <= NODE_MAX; n++)
		if ((core_members(c) & BIT(n)) && c->peer[n].state == PEER_LEVEL && c->peer[n].drop == DROP_NOT) {
			c->shrink_wait |= BIT(n);
			tell_set(s, n, c->shrink_id);
		}
	core_record(s, FOR_SHRINK);
}

/* A peer that we stream to, or that is in the set, is not to be counted on any more. */
void core_peer_lost(struct step *s, unsigned n, const char *why, bool outdated)
{
	struct core *c = s->c;
	struct core_peer *p = &c->peer[n];

	if (p->state >= PEER_OPENING)
		core_act(s, ACT_CLOSE, n);
	if (p->state >= PEER_OPENING || (((core_members(c) | c->ackset) & BIT(n)) && p->drop == DROP_NOT))
		core_say(s, LVL_WARN, "peer: %s: given up: %s", core_name_of(s->c, n), why);
	p->state = p->connected ? PEER_READY : PEER_DOWN;
	p->want_level = p->counts = p->told_level = false;
	p->retry_ms = s->e->now_ms + RETRY_MS;
	c->shrink_wait &= (uint16_t)~BIT(n);
	c->grow_wait &= (uint16_t)~BIT(n);
	if (c->growing == n)
		c->growing = 0;
	core_reason(p, why);
	if ((core_members(c) | c->ackset) & BIT(n)) {
		if (outdated)
			drop_settled(s, n, DROPPED_OUTDATED);
		else
			drop_begin(s, n);
	}
	if (p->connected && p->drop != DROP_ASKED)
		core_hang_up(s, n, why);
	shrink_check(s);
}

/* ---- the sync set: joining ----
 *
 * One at a time, and not while a member is being left behind: every other member must know of the newcomer before the newcomer is told that it
 * is level, or one of them, promoted, would acknowledge without it.
 */

bool core_member_leaving(const struct core *c)
{
	for (unsigned n = 1; n <= NODE_MAX; n++)
		if ((core_members(c) & BIT(n)) && c->peer[n].drop != DROP_NOT)
			return true;
	return c->shrinking;
}

bool core_settled(const struct core *c) { return !core_member_leaving(c) && !c->growing && !c->epoch_asked; }

static void grow_check(struct step *s)
{
	struct core *c = s->c;
	unsigned n = 1;

	if (c->role != CORE_PRIMARY || c->growing || core_member_leaving(c))
		return;
	while (n <= NODE_MAX && (!c->peer[n].want_level || c->peer[n].drop != DROP_NOT))
		n++;
	if (n > NODE_MAX)
		return;
	c->growing = n;
	c->grow_durable = false;
	c->grow_since_ms = s->e->now_ms;
	c->peer[n].want_level = c->peer[n].counts = c->peer[n].told_level = false;
	c->peer[n].state = PEER_JOINING;
	c->rec.sync_set |= BIT(n);
	c->rec.dropped[n] = DROPPED_NOT;
	c->grow_id = ++c->set_id;
	c->grow_wait = 0;
	for (unsigned m = 1; m <= NODE_MAX; m++)
		if ((core_members(c) & BIT(m)) && m != n) {
			c->grow_wait |= BIT(m);
			tell_set(s, m, c->grow_id);
		}
	core_record(s, FOR_GROW);
}

/* The larger set is durable everywhere: the newcomer counts from now on. */
static void grow_try(struct step *s)
{
	struct core *c = s->c;
	unsigned n = c->growing;

	if (c->role != CORE_PRIMARY || !n || !c->grow_durable || c->grow_wait || core_member_leaving(c))
		return;
	c->growing = 0;
	c->ackset |= BIT(n);
	core_act(s, ACT_ACKSET, 0)->set = c->ackset;
	c->epoch_wanted = true;
	core_act(s, ACT_EPOCH_WANTED, 0);
}

/* What was acknowledged without the newcomer is in the order by now: it is not told that it is level before it has applied that. */
static void on_ackset(struct step *s)
{
	for (unsigned n = 1; n <= NODE_MAX; n++) {
		struct core_peer *p = &s->c->peer[n];
		if (p->state != PEER_JOINING || p->counts || !(s->c->ackset & s->e->seq & BIT(n)))
			continue;
		p->counts = true;
		p->level_target = s->e->queue_last;
	}
}

static void tell_level(struct step *s, unsigned n)
{
	struct core_peer *p = &s->c->peer[n];

	p->told_level = true;
	p->since_ms = s->e->now_ms;
	tell_set(s, n, 0);
	core_send_id(s, n, FRAME_LEVEL, s->e->now_ms);
}

/* ---- whom may we make follow us? ---- */

void core_become_standby(struct step *s, unsigned keep)
{
	struct core *c = s->c;
	core_hand_ended(s, false, "another node holds a newer epoch");
	c->role = CORE_STANDBY;
	c->ackset = 0;
	c->joint.instance = 0;
	c->shrinking = c->epoch_wanted = c->epoch_asked = false;
	c->growing = 0;
	c->level = false;
	core_act(s, ACT_BECOME_STANDBY, 0);
	for (unsigned n = 1; n <= NODE_MAX; n++) {
		struct core_peer *p = &c->peer[n];
		if (p->state >= PEER_OPENING)
			core_act(s, ACT_CLOSE, n);
		p->drop = DROP_NOT;
		if (n == keep && p->connected)
			p->state = PEER_READY;
		else
			core_hang_up(s, n, "this node's role changed");
	}
	c->rec_pending &= FOR_NOTHING | FOR_ANSWER;
	core_record(s, FOR_NOTHING);
}

static void refuse(struct step *s, unsigned n, const char *why)
{
	struct core_peer *p = &s->c->peer[n];
	if (p->state != PEER_REFUSED || strcmp(p->reason, why))
		core_say(s, LVL_ERROR, "peer: %s: not followed or led: %s", core_name_of(s->c, n), why);
	p->state = PEER_REFUSED;
	core_reason(p, why);
}

static bool fit_for_stream(const struct core_peer *p)
{
	return !p->no_stream && !(p->hello.flags & (NODE_INCONSISTENT | NODE_UNKNOWN | NODE_DISCARD | NODE_TAIL | NODE_NEW));
}

/* It followed the old primary, or was it, and holds exactly what we held when we took over: our order goes on from its last change. */
static bool joins(const struct step *s, const struct core_peer *p)
{
	const struct core *c = s->c;
	return fit_for_stream(p) && c->joint.instance && p->hello.from_instance == c->joint.instance && p->hello.from_seq == c->joint.seq;
}

static bool stream_will_do(const struct step *s, const struct core_peer *p)
{
	const struct hello *h = &p->hello;
	return fit_for_stream(p) && h->from_instance == s->e->instance && h->epoch.reign >= s->c->reign_first && h->from_seq + 1 >= s->e->queue_first && h->from_seq <= s->e->queue_last;
}

static void open_peer(struct step *s, unsigned n)
{
	struct core_peer *p = &s->c->peer[n];
	p->joins = joins(s, p);
	p->full = !p->joins && !stream_will_do(s, p);
	p->state = PEER_OPENING;
	p->since_ms = s->e->now_ms;
	p->reason[0] = 0;
	struct core_action *a = core_act(s, ACT_OPEN, n);
	a->full = p->full;
	a->from_seq = p->joins ? 0 : p->hello.from_seq;
	a->instance = p->hello.from_instance;
	a->seq = p->hello.from_seq;
	a->keep_lost = p->hello.flags & NODE_DISCARD;
}

/* A primary looks at a peer that has said hello. */
static void judge_peer(struct step *s, unsigned n)
{
	struct core *c = s->c;
	struct core_peer *p = &c->peer[n];
	bool gave_up = p->hello.flags & NODE_DISCARD;

	if (c->role != CORE_PRIMARY || !p->connected || p->state > PEER_REFUSED || s->e->now_ms < p->retry_ms || p->drop != DROP_NOT)
		return;
	enum lineage_relation r = core_relation(c, n);
	if (r == LINEAGE_BEHIND && !gave_up) {
		core_say(s, LVL_ERROR, "role: superseded: %s holds a newer epoch: this node is no longer primary; "
		    "look at both, then `tandemfs resync --discard-local' on the one that shall lose", core_name_of(c, n));
		c->rec.primary = false;
		core_become_standby(s, 0);
		return;
	}
	if (p->hello.flags & NODE_PRIMARY)
		refuse(s, n, r == LINEAGE_AHEAD ? "it takes itself for the primary still: it will step down" :
		       "split brain: both nodes are primary: demote one of them, then `tandemfs resync --discard-local' there");
	else if (r == LINEAGE_FORK && !gave_up)
		refuse(s, n, "split brain: each node has changes that the other lacks: `tandemfs resync --discard-local' on the one that shall lose");
	else if ((p->hello.flags & NODE_TAIL) && !gave_up)
		refuse(s, n, "it was primary and may hold changes that nobody received: `tandemfs resync --discard-local' there moves them to lost/");
	else
		open_peer(s, n);
}

/* ---- promotion ---- */

static bool others_answered(const struct core *c)
{
	for (unsigned n = 1; n <= NODE_MAX; n++) {
		if (!(core_members(c) & BIT(n)))
			continue;
		enum lineage_relation r = core_relation(c, n);
		if (!c->peer[n].connected || (c->peer[n].hello.flags & NODE_PRIMARY) || r == LINEAGE_BEHIND || r == LINEAGE_FORK)
			return false;
	}
	return true;
}

static bool dropped_safely(const struct core *c)
{
	for (unsigned n = 1; n <= NODE_MAX; n++)
		if ((c->cfg.peers & BIT(n)) && !(c->rec.sync_set & BIT(n)) && c->rec.dropped[n] == DROPPED_RISK)
			return false;
	return true;
}

unsigned core_live_primary(const struct core *c)
{
	for (unsigned n = 1; n <= NODE_MAX; n++)
		if (c->peer[n].connected && (c->peer[n].hello.flags & NODE_PRIMARY))
			return n;
	return 0;
}

/* A node that has an epoch which we lack, and has not given it up; 0 = none. *FORK: we have one that it lacks, too. */
static unsigned newer_epoch_seen(const struct core *c, bool *fork)
{
	for (unsigned n = 1; n <= NODE_MAX; n++) {
		if (!c->peer[n].answered || !c->rec.nlineage)
			continue;
		enum lineage_relation r = core_relation(c, n);
		*fork = r == LINEAGE_FORK;
		if (r == LINEAGE_BEHIND || (*fork && !(c->peer[n].hello.flags & NODE_DISCARD)))
			return n;
	}
	return 0;
}

const char *core_promotion_refusal(const struct core *c, bool fenced, bool force, char *buf, size_t size)
{
	unsigned lp = core_live_primary(c), newer;
	bool fork;

	if (c->stopping)
		return "this daemon is being stopped";
	if (c->role != CORE_STANDBY && c->role != CORE_PRIMARY)
		return "a change of role is under way";
	if (force || c->role == CORE_PRIMARY)
		return NULL;
	if (c->doubt_of) {
		snprintf(buf, size, "%s may have accepted this node's handover: this node is primary again by itself when %s is back and has not; "
			 "or take the loss with --force", core_name_of(c, c->doubt_of), core_name_of(c, c->doubt_of));
		return buf;
	}
	if (lp && (c->rec.inconsistent || c->rec.outdated)) {
		snprintf(buf, size, "%s is primary, and this node is %s: wait until `tandemfs status' here says OK, then `tandemfs switchover'; "
			 "or take the loss with --force", core_name_of(c, lp), c->rec.inconsistent ? "inconsistent" : "outdated");
		return buf;
	}
	if (c->rec.inconsistent)
		return "this node is inconsistent: a comparison has begun and not ended; let it end, or take the loss with --force";
	if (c->unknown)
		return "this node's data are unknown: the marks of state and data disagree (restored or rolled back?); promote another, or take the loss with --force";
	if (c->rec.outdated)
		return "this node is outdated: others hold acknowledged changes that it lacks; promote one of them, or take the loss with --force";
	if (!c->rec.nlineage) {
		if (lp) {
			snprintf(buf, size, "%s is primary: this node has not been made level yet; wait until `tandemfs status' says so", core_name_of(c, lp));
			return buf;
		}
		return NULL;
	}
	newer = newer_epoch_seen(c, &fork);
	if (newer) {
		snprintf(buf, size, fork ? "split brain: this node and %s each hold changes that the other lacks: "
			 "`tandemfs resync --discard-local' on the one that shall lose, then promote the other" :
			 "%s holds changes that this node lacks: promote %s, or take the loss with --force", core_name_of(c, newer), core_name_of(c, newer));
		return buf;
	}
	bool last_primary = c->rec.was_primary && !c->following && (!core_members(c) || others_answered(c));
	if (last_primary)
		return NULL;
	if (c->rec.was_primary)
		return "this node was the last primary, but not all nodes of its sync set have answered: one of them may have been promoted; "
		       "start them, or take the risk with --force";
	if (!c->level)
		return "this node is not known to be level: it may lack acknowledged changes; promote the last primary, or take the loss with --force";
	if (c->rec.handed_over || fenced)
		return NULL;
	if (c->cfg.fence == FENCE_HOOK)
		return NULL;
	if (lp) {
		snprintf(buf, size, "%s is primary and alive: `tandemfs switchover' (or stop it and say --fenced)", core_name_of(c, lp));
		return buf;
	}
	return "nobody has made sure that the old primary is stopped: stop it, then say --fenced (fence_peer = none)";
}

static uint64_t highest_reign(const struct core *c)
{
	uint64_t r = state_epoch(&c->rec).reign;
	for (unsigned n = 1; n <= NODE_MAX; n++)
		for (uint32_t i = 0; i < c->peer[n].hello.nlineage; i++)
			if (c->peer[n].hello.lineage[i].epoch.reign > r)
				r = c->peer[n].hello.lineage[i].epoch.reign;
	return r;
}

static void reign_begin(struct step *s)
{
	struct core *c = s->c;
	unsigned old = state_epoch(&c->rec).node;
	bool was_other = c->rec.nlineage && old != c->cfg.node;

	c->before = c->rec;
	state_push_epoch(&c->rec, (struct epoch){ .reign = highest_reign(c) + 1, .node = (uint8_t)c->cfg.node, .tag = s->e->random }, s->e->lsn);
	c->joint.instance = c->mark.instance && s->e->seq == c->mark.seq && !c->promote_force ? c->mark.instance : 0;
	c->joint.seq = c->mark.seq;
	c->mark.instance = 0;
	/* An old primary that handed over stays in the set until it is outdated: it might be promoted again at this very moment. */
	if (was_other && (c->promote_fenced || c->promote_force)) {
		c->rec.sync_set &= (uint16_t)~BIT(old);
		c->rec.dropped[old] = c->promote_fenced ? DROPPED_FENCED : DROPPED_RISK;
	}
	if (c->promote_fenced && c->doubt_of) {
		c->rec.sync_set &= (uint16_t)~BIT(c->doubt_of);
		c->rec.dropped[c->doubt_of] = DROPPED_FENCED;
	}
	if (c->promote_force)
		c->rec.sync_set = 0;
	c->rec.sync_set |= BIT(c->cfg.node);
	c->rec.was_primary = c->rec.primary = true;
	c->rec.handed_over = c->rec.outdated = c->rec.inconsistent = c->rec.keep_lost = false;
	c->unknown = c->discard = c->presumed_outdated = false;
	c->role = CORE_REIGN;
	c->following = 0;		/* what the old primary still says is nothing to us */
	c->settling = 0;
	c->doubt_of = 0;
	core_record(s, FOR_REIGN);
}

void core_drain(struct step *s)
{
	s->c->role = CORE_DRAINING;
	core_act(s, ACT_DRAIN, 0);
}

/* All that was received is applied, or it failed: then this node lacks what the old primary may have acknowledged on its word. */
static void on_drained(struct step *s)
{
	struct core *c = s->c;

	if (c->role != CORE_DRAINING)
		return;
	if ((!c->drain_failed && !c->rec.inconsistent) || c->promote_force) {
		reign_begin(s);
		return;
	}
	c->role = CORE_STANDBY;
	if (c->following)
		core_hang_up(s, (unsigned)c->following, "its stream was ended by a promotion that failed");
	c->following = 0;
	core_promoted(s, false, "what this node had received could not be applied: it lacks changes; promote another, or take the loss with --force");
}

static void answer_person(struct step *s, bool ok, const char *text)
{
	core_act_text(s, ACT_PROMOTED, 0, text);
	s->out->a[s->out->n - 1].ok = ok;
}

void core_promote_self(struct core *c)
{
	c->promote_self = true;
	c->promote_fenced = c->promote_force = c->drain_failed = false;
	c->promote_dead = 0;
}

void core_promoted(struct step *s, bool ok, const char *text)
{
	if (!s->c->promote_self) {
		answer_person(s, ok, text);
		return;
	}
	s->c->promote_self = false;
	core_say(s, ok ? LVL_INFO : LVL_WARN, "role: %s", text);
}

static void on_promote(struct step *s)
{
	struct core *c = s->c;
	char buf[256];
	const char *no = core_promotion_refusal(c, s->e->fenced, s->e->force, buf, sizeof buf);

	if (no || c->role == CORE_PRIMARY) {
		answer_person(s, !no, no ? no : "this node is primary already");
		return;
	}
	c->promote_self = c->drain_failed = false;
	c->promote_fenced = s->e->fenced;
	c->promote_force = s->e->force;
	c->promote_dead = s->e->fenced ? state_epoch(&c->rec).node : 0;
	unsigned old = state_epoch(&c->rec).node;
	bool needs_stop = c->cfg.fence == FENCE_HOOK && c->rec.nlineage && old != c->cfg.node && !c->rec.handed_over && !s->e->fenced && !s->e->force;
	if (!needs_stop) {
		core_drain(s);
		return;
	}
	c->role = CORE_FENCING;
	c->fencing = old;
	core_fence(s, old, true);
}

static void on_fenced(struct step *s)
{
	struct core *c = s->c;
	struct core_peer *p = &c->peer[s->e->peer];

	if (s->e->seq != p->fence)
		return;
	if (c->role == CORE_FENCING && s->e->peer == c->fencing) {
		if (s->e->ok) {
			c->promote_fenced = true;
			c->promote_dead = c->fencing;
			core_drain(s);
		} else {
			c->role = CORE_STANDBY;
			core_promoted(s, false, "the fence_peer hook could not stop the old primary: see its output in the log; nothing was changed");
		}
		return;
	}
	if (p->drop != DROP_FENCING)
		return;
	if (s->e->ok) {
		drop_settled(s, s->e->peer, DROPPED_FENCED);
	} else {
		core_say(s, LVL_ERROR, "peer: %s: fence_peer outdate failed: acknowledgements wait; trying again", core_name_of(s->c, s->e->peer));
		p->drop = DROP_RETRY;
		p->since_ms = s->e->now_ms;
	}
	shrink_check(s);
}

static void on_reign_recorded(struct step *s)
{
	struct core *c = s->c;
	char text[200];

	c->role = CORE_PRIMARY;
	c->level = false;
	c->following = 0;
	c->epoch_wanted = false;
	c->reign_first = state_epoch(&c->rec).reign;
	c->ackset = core_members(c);
	core_act(s, ACT_ACKSET, 0)->set = c->ackset;
	for (unsigned n = 1; n <= NODE_MAX; n++) {
		struct core_peer *p = &c->peer[n];
		if (core_members(c) & BIT(n))
			drop_begin(s, n);	/* it was level with the reign before; not with this one */
		p->state = p->connected ? PEER_READY : PEER_DOWN;	/* not what it was to a standby */
		if (p->drop != DROP_ASKED)
			core_hang_up(s, n, "this node's role changed");
		p->retry_ms = 0;
	}
	core_act(s, ACT_BECOME_PRIMARY, 0);
	snprintf(text, sizeof text, "this node is primary: reign %llu", (unsigned long long)state_epoch(&c->rec).reign);
	core_promoted(s, true, text);
	shrink_check(s);
}

/* start_as = last */
static void try_resume(struct step *s)
{
	struct core *c = s->c;
	bool fork;

	if (!c->cfg.start_last || c->role != CORE_STANDBY || c->doubt_of || !c->rec.primary || c->rec.inconsistent || c->unknown || c->rec.outdated || c->following ||
	    c->stopping)
		return;
	if (core_live_primary(c) || newer_epoch_seen(c, &fork) || !others_answered(c) || (!core_members(c) && !dropped_safely(c)))
		return;
	core_promote_self(c);
	core_drain(s);
}

/* ---- events: peers ---- */

static void presumption(struct core *c)
{
	if (c->presumed_outdated && others_answered(c))
		c->presumed_outdated = false;
}

static void on_peer_up(struct step *s)
{
	struct core *c = s->c;
	unsigned n = s->e->peer;
	struct core_peer *p = &c->peer[n];

	p->hello = *s->e->hello;
	p->connected = p->answered = true;
	p->heard_ms = p->progress_ms = s->e->now_ms;
	p->state = PEER_READY;
	p->reason[0] = 0;
	if (p->drop == DROP_RETRY) {
		p->drop = DROP_NOT;
		drop_begin(s, n);
	}
	if (c->role == CORE_PRIMARY) {
		judge_peer(s, n);
		return;
	}
	presumption(c);
	if (c->role == CORE_STANDBY && c->doubt_of)
		core_doubt_asks(s, n);
	enum lineage_relation r = core_relation(c, n);
	if ((p->hello.flags & NODE_PRIMARY) && !c->discard && !c->rec.keep_lost) {
		if (core_has_tail(c) && (r == LINEAGE_BEHIND || r == LINEAGE_SAME))
			refuse(s, n, "this node was primary and may hold changes that nobody received: `tandemfs resync --discard-local' here moves them to lost/ and follows");
		else if (r == LINEAGE_FORK)
			refuse(s, n, "split brain: each node has changes that the other lacks: `tandemfs resync --discard-local' on the one that shall lose");
	}
	try_resume(s);
}

static void on_peer_down(struct step *s)
{
	struct core *c = s->c;
	unsigned n = s->e->peer;
	struct core_peer *p = &c->peer[n];
	uint64_t retry_ms = p->connected ? s->e->now_ms + RETRY_MS : p->retry_ms;	/* no pause when we hung up ourselves, to hear where it stands */

	p->connected = false;
	if (p->drop == DROP_ASKED)
		drop_fence(s, n);
	if (c->role == CORE_PRIMARY)
		core_peer_lost(s, n, s->e->text ? s->e->text : "connection lost", false);
	p->retry_ms = retry_ms;
	core_hand_peer_down(s, n);
	p->state = PEER_DOWN;
	memset(p->answer, 0, sizeof p->answer);		/* to questions of a connection that is gone */
	if (c->following == (int)n) {
		c->following = 0;
		c->settling = 0;
		core_act(s, ACT_UNFOLLOW, n);
		core_say(s, LVL_WARN, "peer: %s: lost the primary: %s", core_name_of(s->c, n), s->e->text ? s->e->text : "connection lost");
	}
	shrink_check(s);
}

static void on_goodbye(struct step *s)
{
	struct core *c = s->c;
	if (c->role == CORE_PRIMARY) {
		core_say(s, LVL_INFO, "peer: %s: leaves in order", core_name_of(s->c, s->e->peer));
		core_peer_lost(s, s->e->peer, "it was stopped", s->e->flag);
	}
}

static void on_stream_up(struct step *s)
{
	struct core_peer *p = &s->c->peer[s->e->peer];
	if (p->state != PEER_OPENING)
		return;
	p->progress_ms = s->e->now_ms;
	p->progress = 0;
	p->applied_seq = 0;
	if (p->full) {
		p->state = PEER_COMPARING;
		core_act(s, ACT_COMPARE, s->e->peer)->full = true;
		core_say(s, LVL_INFO, "peer: %s: full comparison begins", core_name_of(s->c, s->e->peer));
	} else if (p->joins) {
		p->state = PEER_COMPARING;
		core_act(s, ACT_COMPARE, s->e->peer)->flag = true;
		core_say(s, LVL_INFO, "peer: %s: goes on from the handover", core_name_of(s->c, s->e->peer));
	} else {
		p->state = PEER_STREAMING;
		core_act(s, ACT_COMPARE, s->e->peer);
		p->stream_target = s->e->queue_last;
		core_say(s, LVL_INFO, "peer: %s: goes on from the queue", core_name_of(s->c, s->e->peer));
	}
}

static void on_compared(struct step *s)
{
	struct core_peer *p = &s->c->peer[s->e->peer];

	if (s->c->role != CORE_PRIMARY || p->state < PEER_OPENING)
		return;
	if (!s->e->ok) {			/* also of the engine that stands by for a level peer */
		p->no_stream = true;
		core_peer_lost(s, s->e->peer, s->e->text ? s->e->text : "the comparison failed", false);
		return;
	}
	if (p->state != PEER_COMPARING)
		return;
	if (p->full)
		core_say(s, LVL_INFO, "peer: %s: compared: equal", core_name_of(s->c, s->e->peer));
	p->no_stream = false;
	p->want_level = true;
	grow_check(s);
}

/* Something changed that could not be put into the order, and nobody was there to state it again: only a comparison finds it. One that
 * has been agreed and not begun will. */
static void on_unstated(struct step *s)
{
	struct core_peer *p = &s->c->peer[s->e->peer];

	if (s->c->role != CORE_PRIMARY || ((p->state == PEER_OPENING || p->state == PEER_COMPARING) && p->full))
		return;
	p->no_stream = true;
	if (p->state >= PEER_OPENING)
		core_peer_lost(s, s->e->peer, "it lacks changes that only a comparison finds", false);
}

static void on_levelled(struct step *s)
{
	struct core_peer *p = &s->c->peer[s->e->peer];
	if (p->state != PEER_JOINING || !p->told_level)
		return;
	if (s->e->msg->record_done.err) {
		core_peer_lost(s, s->e->peer, "it could not record that it is level", false);
		return;
	}
	p->state = PEER_LEVEL;
	core_say(s, LVL_INFO, "peer: %s: level: it is in the sync set", core_name_of(s->c, s->e->peer));
}

/* ---- events: a standby follows ---- */

static bool may_be_led_by(const struct core *c, unsigned n, const char **why)
{
	enum lineage_relation r = core_relation(c, n);
	bool gave_up = c->discard || c->rec.keep_lost;

	*why = NULL;
	if (c->stopping)
		*why = "this daemon is being stopped";
	else if (c->role != CORE_STANDBY)
		*why = "this node is primary, or about to be";
	else if (!(c->peer[n].hello.flags & NODE_PRIMARY) && r != LINEAGE_SAME && r != LINEAGE_BEHIND && r != LINEAGE_BLANK)
		*why = "it was not primary when it said hello";
	else if (core_has_tail(c) && !gave_up)
		*why = "this node may hold changes that nobody received: `tandemfs resync --discard-local' here";
	else if (r == LINEAGE_AHEAD && !gave_up)
		*why = "this node holds a newer epoch";
	else if (r == LINEAGE_FORK && !gave_up)
		*why = "split brain: each node has changes that the other lacks";
	return !*why;
}

static void on_msg_open(struct step *s)
{
	struct core *c = s->c;
	unsigned n = s->e->peer;
	const char *why;

	if (!may_be_led_by(c, n, &why)) {
		struct core_action *a = core_act(s, ACT_REFUSE, n);
		a->msg = *s->e->msg;
		snprintf(a->text, sizeof a->text, "%s", why);
		return;
	}
	if (c->following)
		core_act(s, ACT_UNFOLLOW, (unsigned)c->following);
	c->following = (int)n;
	c->level = false;
	c->settling = 0;
	c->doubt_of = 0;
	c->mark.instance = 0;
	c->rec.handed_over = false;
	c->open_epoch = s->e->msg->open.epoch;
	c->last_contact_ms = s->e->now_ms;
	c->peer[n].state = s->e->msg->open.mode == OPEN_FULL ? PEER_COMPARING : PEER_STREAMING;
	struct core_action *a = core_act(s, ACT_FOLLOW, n);
	a->msg = *s->e->msg;
	a->keep_lost = c->discard || c->rec.keep_lost;
	a->instance = c->peer[n].hello.instance;
}

void core_answer(struct step *s, unsigned n, enum answer_kind what, uint8_t kind, uint64_t id)
{
	struct core_peer *p = &s->c->peer[n];
	p->answer[what].kind = kind;
	p->answer[what].id = id;
	p->answer[what].inflight = false;	/* a newer one of its kind: the older one is not waited for any more */
	p->answer[what].wait = true;
	core_record(s, FOR_ANSWER);
}

/* LEVEL: all that we hold is made durable first; until that is done it may have become untrue. */
static void on_msg_level(struct step *s)
{
	struct core *c = s->c;
	unsigned n = s->e->peer;
	if (c->following != (int)n || c->rec.inconsistent || c->stopping) {
		core_say(s, LVL_WARN, "peer: %s: says that this node is level, which %s: ignored", core_name_of(c, n),
		    c->stopping ? "is being stopped" : c->rec.inconsistent ? "is inconsistent" : "does not follow it");
		return;
	}
	c->settling = ++c->settles;
	c->settle_id = s->e->msg->id;
	core_act(s, ACT_SETTLE, n)->seq = c->settling;
}

static void on_settled(struct step *s)
{
	struct core *c = s->c;
	unsigned n = (unsigned)c->following;

	if (!c->settling || s->e->seq != c->settling)
		return;
	c->settling = 0;
	if (!n || c->stopping || c->rec.inconsistent)
		return;
	if (!s->e->ok) {
		core_hang_up(s, n, "what it sent could not be made durable here");
		return;
	}
	c->level = true;
	c->rec.outdated = c->presumed_outdated = false;
	c->peer[n].state = PEER_LEVEL;
	core_say(s, LVL_INFO, "role: this node is level with %s", core_name_of(c, n));
	core_answer(s, n, ANSWER_LEVELLED, FRAME_LEVELLED, c->settle_id);
}

/* Another node reigns already and waits for our answer: the promotion that is under way here ends. Nothing is in its reign yet. */
static void yield_promotion(struct step *s, unsigned to)
{
	struct core *c = s->c;
	char text[160];

	if (c->role == CORE_REIGN) {
		c->before.limits = c->rec.limits;
		memcpy(c->before.marks, c->rec.marks, sizeof c->before.marks);
		c->rec = c->before;
		c->rec_pending &= ~(unsigned)FOR_REIGN;
		c->rec_inflight &= ~(unsigned)FOR_REIGN;
		core_act(s, ACT_NOT_TAKEN, 0);
	}
	c->role = CORE_STANDBY;
	if (c->following && c->following != (int)to)
		core_hang_up(s, (unsigned)c->following, "its stream was ended by a promotion that failed");
	c->following = 0;
	snprintf(text, sizeof text, "%s was promoted too, and is primary already", core_name_of(c, to));
	core_promoted(s, false, text);
}

/*
 * N, which asks us to be outdated, is primary. Two nodes may have been promoted at once, after a handover to nobody in particular: if neither gave way each would
 * take the other for lost, and without a fence both would go on. So a promotion ends, but not by the last words of a node that was stopped for
 * it, nor one that a person forces. Of two that reign already, and have asked each other, the one with the higher number gives way; nothing can have been
 * acknowledged in its reign, as the other was in its sync set and has not followed it.
 */
static void yield(struct step *s, unsigned n)
{
	struct core *c = s->c;

	if (c->role == CORE_PRIMARY && c->peer[n].drop == DROP_ASKED && (c->ackset & BIT(n)) && c->cfg.node > n) {
		core_say(s, LVL_ERROR, "role: %s was promoted at the same time: this node gives way", core_name_of(c, n));
		c->rec.primary = false;
		core_become_standby(s, n);
	} else if (c->role >= CORE_FENCING && c->role <= CORE_REIGN && !c->promote_force && n != c->promote_dead &&
		   !(c->role == CORE_FENCING && n == c->fencing)) {
		yield_promotion(s, n);
	}
}

static void on_msg_outdate(struct step *s)
{
	struct core *c = s->c;
	if (!core_hand_taken(s, s->e->peer))
		yield(s, s->e->peer);
	if (c->role != CORE_STANDBY) {
		core_say(s, LVL_WARN, "peer: %s: asks this node to be outdated, which is %s: ignored", core_name_of(s->c, s->e->peer), core_role_name(c->role));
		return;
	}
	c->rec.outdated = true;
	c->level = false;
	c->settling = 0;
	core_say(s, LVL_WARN, "role: this node is outdated: %s goes on without it", core_name_of(s->c, s->e->peer));
	core_answer(s, s->e->peer, ANSWER_OUTDATED, FRAME_OUTDATED, s->e->msg->id);
}

static void on_msg_record(struct step *s)
{
	struct core *c = s->c;
	if (c->following != (int)s->e->peer)
		return;
	c->rec.sync_set = s->e->msg->record.sync_set;
	core_answer(s, s->e->peer, ANSWER_RECORDED, FRAME_RECORDED, s->e->msg->record.id);
}

/* The primary's history: as of its hello, and the epoch that it has opened between that and the stream. */
static void adopt_lineage(struct core *c, const struct hello *h)
{
	c->rec.nlineage = h->nlineage;
	memcpy(c->rec.lineage, h->lineage, sizeof c->rec.lineage);
	if (c->open_epoch.reign && !epoch_eq(state_epoch(&c->rec), c->open_epoch))
		state_push_epoch(&c->rec, c->open_epoch, UINT64_MAX);
}

/* A comparison turns our data into the primary's: from its first statement on our history is the primary's, and we are inconsistent. */
static void on_comparing(struct step *s)
{
	struct core *c = s->c;
	if (s->e->flag) {
		if (c->following)
			adopt_lineage(c, &c->peer[c->following].hello);
		if (c->discard)
			c->rec.keep_lost = true;
		c->discard = false;
		c->rec.inconsistent = true;
		c->rec.was_primary = c->rec.primary = c->rec.handed_over = false;
	} else {
		c->rec.inconsistent = c->rec.keep_lost = false;
		c->unknown = false;
	}
	core_record(s, FOR_NOTHING);
}

static void on_stream_epoch(struct step *s)
{
	struct core *c = s->c;
	if (!epoch_eq(state_epoch(&c->rec), s->e->epoch))
		state_push_epoch(&c->rec, s->e->epoch, s->e->lsn);
	c->rec.was_primary = c->rec.primary = false;
	core_record(s, FOR_NOTHING);
}

/* ---- events: recording ---- */

/* The record under way is durable (OK): what it carried may be said; else it waits for the next one. */
static void recorded_answers(struct step *s, bool ok)
{
	for (unsigned n = 1; n <= NODE_MAX; n++)
		for (unsigned k = 0; k < ANSWER_KINDS; k++) {
			struct core_peer *p = &s->c->peer[n];
			if (!p->answer[k].inflight)
				continue;
			p->answer[k].inflight = false;
			p->answer[k].wait = !ok;
			if (!ok || !p->connected)
				continue;
			struct core_action *a = core_act(s, ACT_SEND, n);
			a->msg.kind = p->answer[k].kind;
			a->msg.record_done.id = p->answer[k].id;
		}
}

static void on_recorded(struct step *s)
{
	struct core *c = s->c;
	unsigned done = c->rec_inflight;

	c->recording = false;
	c->rec_inflight = 0;
	if (!s->e->ok) {
		c->rec_pending |= done;
		c->rec_retry_ms = s->e->now_ms + RETRY_MS;
		recorded_answers(s, false);
		core_hand_recorded(s, false);
		core_say(s, LVL_ERROR, "state: can't record: %s: decisions and acknowledgements that need it wait", s->e->text ? s->e->text : "error");
		return;
	}
	recorded_answers(s, true);
	if ((done & FOR_REIGN) && c->role == CORE_REIGN)
		on_reign_recorded(s);
	if ((done & FOR_SHRINK) && c->shrinking)
		c->shrink_durable = true;
	if ((done & FOR_GROW) && c->growing)
		c->grow_durable = true;
	if (done & FOR_HAND)
		core_hand_recorded(s, true);
	grow_try(s);
	if ((done & FOR_EPOCH) && c->role == CORE_PRIMARY) {
		c->epoch_wanted = c->epoch_asked = false;
		core_act(s, ACT_EPOCH_OPEN, 0);
	}
	shrink_check(s);
	if (c->rec_pending)
		core_record(s, 0);
}

static void on_msg_recorded(struct step *s)
{
	struct core *c = s->c;
	const struct record_done *r = &s->e->msg->record_done;

	if (r->err)
		return;
	if (c->shrinking && r->id == c->shrink_id)
		c->shrink_wait &= (uint16_t)~BIT(s->e->peer);
	if (c->growing && r->id == c->grow_id)
		c->grow_wait &= (uint16_t)~BIT(s->e->peer);
	shrink_check(s);
	grow_try(s);
}

static void on_want_epoch(struct step *s)
{
	struct core *c = s->c;
	if (c->role != CORE_PRIMARY || c->epoch_asked)
		return;
	if (!c->epoch_wanted) {
		core_act(s, ACT_EPOCH_OPEN, 0)->flag = true;		/* open already */
		return;
	}
	c->epoch_asked = true;
	state_push_epoch(&c->rec, (struct epoch){ .reign = highest_reign(c) + 1, .node = (uint8_t)c->cfg.node, .tag = s->e->random }, s->e->lsn);
	core_record(s, FOR_EPOCH);
}

/* ---- events: time ---- */

static void tick_drop(struct step *s, unsigned n)
{
	struct core *c = s->c;
	struct core_peer *p = &c->peer[n];
	uint64_t waited = s->e->now_ms - p->since_ms;

	if (p->drop == DROP_ASKED && waited > c->cfg.peer_timeout_ms) {
		drop_fence(s, n);
		core_hang_up(s, n, "it did not answer");
	} else if (p->drop == DROP_RETRY && waited > RETRY_MS) {
		drop_fence(s, n);
	}
	if (c->shrinking && (c->shrink_wait & BIT(n)) && s->e->now_ms - c->shrink_since_ms > c->cfg.peer_timeout_ms)
		core_peer_lost(s, n, "it did not confirm the smaller sync set in time", false);
	if (c->growing && (c->grow_wait & BIT(n)) && s->e->now_ms - c->grow_since_ms > c->cfg.peer_timeout_ms)
		core_peer_lost(s, n, "it did not confirm the larger sync set in time", false);
}

static void tick_primary(struct step *s, unsigned n)
{
	struct core *c = s->c;
	struct core_peer *p = &c->peer[n];
	unsigned limit = c->cfg.congestion_timeout_ms;

	p->applied_seq = s->e->applied_seq[n];
	p->outstanding = s->e->outstanding[n];
	if (p->progress != s->e->progress[n] || !p->outstanding) {
		p->progress = s->e->progress[n];
		p->progress_ms = s->e->now_ms;
	}
	if (p->state < PEER_JOINING && !s->e->queue_filling)
		limit = limit > PATIENT_MS ? limit : PATIENT_MS;	/* nothing rests on it, and nobody waits for it */
	if (p->state >= PEER_STREAMING && s->e->now_ms - p->progress_ms > limit)
		core_peer_lost(s, n, "it makes no progress (congestion_timeout)", false);
	else if (p->state >= PEER_JOINING && s->e->overdue && s->e->overdue[n])
		core_peer_lost(s, n, "it does not make durable what it applied (congestion_timeout)", false);
	else if (p->state == PEER_OPENING && s->e->now_ms - p->since_ms > 10 * (uint64_t)c->cfg.peer_timeout_ms)
		core_peer_lost(s, n, "its stream did not open in time", false);
	else if (p->state == PEER_JOINING && p->told_level && s->e->now_ms - p->since_ms > LEVEL_MS)
		core_peer_lost(s, n, "it did not answer that it is level", false);
	else if (p->state == PEER_JOINING && p->counts && !p->told_level && p->applied_seq >= p->level_target)
		tell_level(s, n);
	else if (p->state == PEER_STREAMING && p->applied_seq >= p->stream_target) {
		p->want_level = true;
		grow_check(s);
	} else if (p->state == PEER_READY)
		judge_peer(s, n);
}

static void on_tick(struct step *s)
{
	struct core *c = s->c;
	for (unsigned n = 1; n <= NODE_MAX; n++) {
		struct core_peer *p = &c->peer[n];
		if (!(c->cfg.peers & BIT(n)))
			continue;
		if (s->e->heard_ms[n] > p->heard_ms)
			p->heard_ms = s->e->heard_ms[n];
		if (c->following == (int)n)
			c->last_contact_ms = p->heard_ms;
		if (p->connected && s->e->now_ms > p->heard_ms + c->cfg.peer_timeout_ms) {
			struct core_event down = *s->e;
			down.peer = n;
			down.text = "silent for peer_timeout";
			core_act_text(s, ACT_RESET, n, down.text);
			on_peer_down(&(struct step){ c, &down, s->out });
		}
		tick_drop(s, n);
		if (c->role == CORE_PRIMARY)
			tick_primary(s, n);
	}
	core_hand_tick(s);
	shrink_check(s);
	grow_check(s);
	grow_try(s);
	try_resume(s);
	if (c->rec_pending)
		core_record(s, 0);
}

/* ---- events: people, and the rest ---- */

static void on_discard(struct step *s)
{
	struct core *c = s->c;
	if (c->role != CORE_STANDBY)
		return;
	c->discard = true;
	for (unsigned n = 1; n <= NODE_MAX; n++)
		core_hang_up(s, n, "this node gives its own versions up");
}

static void on_diverged(struct step *s)
{
	struct core *c = s->c;
	core_say(s, LVL_ERROR, "apply: the stream can't be applied: %s: this node leaves the sync set and will be compared", s->e->text ? s->e->text : "");
	if (c->role >= CORE_REIGN)
		return;
	c->level = false;
	c->settling = 0;
	c->rec.outdated = true;
	if (s->e->flag)
		c->rec.inconsistent = true;
	c->drain_failed = true;
	core_record(s, FOR_NOTHING);
	if (c->following) {
		unsigned n = (unsigned)c->following;
		c->following = 0;
		core_act(s, ACT_UNFOLLOW, n);
		core_hang_up(s, n, "the stream could not be applied here");
	}
}

static void on_open_refused(struct step *s)
{
	struct core_peer *p = &s->c->peer[s->e->peer];
	if (p->state != PEER_OPENING)
		return;
	core_act(s, ACT_CLOSE, s->e->peer);
	p->state = PEER_READY;
	p->retry_ms = s->e->now_ms + RETRY_MS;
	p->no_stream = true;
	core_reason(p, s->e->text ? s->e->text : "it refused");
	core_say(s, LVL_WARN, "peer: %s: does not follow: %s", core_name_of(s->c, s->e->peer), p->reason);
}

static void on_outdated(struct step *s)
{
	struct core_peer *p = &s->c->peer[s->e->peer];
	if (p->drop != DROP_ASKED || s->e->msg->record_done.err)
		return;
	drop_settled(s, s->e->peer, DROPPED_OUTDATED);
	core_hang_up(s, s->e->peer, "it is outdated; its next hello says where it stands");
	shrink_check(s);
}

static void on_start(struct step *s)
{
	struct core *c = s->c;
	c->presumed_outdated = c->rec.nlineage && core_members(c);
	if (c->rec.inconsistent)
		core_say(s, LVL_WARN, "role: this node is inconsistent: a comparison has begun and not ended; it waits for the primary");
	if (c->unknown)
		core_say(s, LVL_WARN, "role: this node's data are unknown: the marks of state and data disagree; it waits for a full comparison");
	try_resume(s);
}

void core_init(struct core *c, const struct core_config *cfg, const struct state *rec, bool unknown)
{
	memset(c, 0, sizeof *c);
	c->cfg = *cfg;
	c->rec = *rec;
	c->unknown = unknown;
}

void core_step(struct core *c, const struct core_event *e, struct core_actions *out)
{
	struct step s = { c, e, out };

	out->n = 0;
	switch (e->type) {
	case EV_START: on_start(&s); break;
	case EV_TICK: on_tick(&s); break;
	case EV_PEER_UP: on_peer_up(&s); break;
	case EV_PEER_DOWN: on_peer_down(&s); break;
	case EV_PEER_FAILED:
		if (c->role == CORE_PRIMARY)
			core_peer_lost(&s, e->peer, e->text, false);
		break;
	case EV_GOODBYE: on_goodbye(&s); break;
	case EV_STREAM_UP: on_stream_up(&s); break;
	case EV_OPEN_REFUSED: on_open_refused(&s); break;
	case EV_COMPARED: on_compared(&s); break;
	case EV_MSG_OPEN: on_msg_open(&s); break;
	case EV_MSG_OUTDATE: on_msg_outdate(&s); break;
	case EV_MSG_OUTDATED: on_outdated(&s); break;
	case EV_MSG_RECORD: on_msg_record(&s); break;
	case EV_MSG_RECORDED: on_msg_recorded(&s); break;
	case EV_MSG_LEVEL: on_msg_level(&s); break;
	case EV_MSG_LEVELLED: on_levelled(&s); break;
	case EV_RECORDED: on_recorded(&s); break;
	case EV_FENCED: on_fenced(&s); break;
	case EV_DRAINED: on_drained(&s); break;
	case EV_ACKSET: on_ackset(&s); break;
	case EV_SETTLED: on_settled(&s); break;
	case EV_UNSTATED: on_unstated(&s); break;
	case EV_WANT_EPOCH: on_want_epoch(&s); break;
	case EV_STREAM_EPOCH: on_stream_epoch(&s); break;
	case EV_STREAM_HANDOVER: core_stream_handover(&s); break;
	case EV_DIVERGED: on_diverged(&s); break;
	case EV_COMPARING: on_comparing(&s); break;
	case EV_PROMOTE: on_promote(&s); break;
	case EV_DEMOTE: core_demote(&s); break;
	case EV_SWITCHOVER: core_switchover(&s); break;
	case EV_PREPARED: core_prepared(&s); break;
	case EV_SHUT: core_shut(&s); break;
	case EV_MARKED: core_marked(&s); break;
	case EV_MSG_TAKE_BACK: core_msg_take_back(&s); break;
	case EV_MSG_TAKEN_BACK: core_msg_taken_back(&s); break;
	case EV_DISCARD: on_discard(&s); break;
	case EV_LIMITS: core_record(&s, FOR_NOTHING); break;
	case EV_STOPPING:
		c->stopping = true;
		c->settling = 0;
		/* The last primary, come back as a standby, stays the one to be promoted while nobody else reigns. */
		if (c->role == CORE_STANDBY && !c->rec.handed_over && (core_members(c) || c->level) && (!c->rec.was_primary || core_live_primary(c))) {
			c->rec.outdated = true;
			c->level = false;
		}
		core_record(&s, FOR_NOTHING);
		break;
	}
}

const char *core_role_name(enum core_role r)
{
	static const char *const names[] = { "standby", "fencing", "draining", "promoting", "primary", "handing over" };
	return names[r];
}

const char *peer_state_name(enum peer_state st)
{
	static const char *const names[] = { "down", "connected", "refused", "opening", "streaming", "comparing", "joining", "level" };
	return names[st];
}
