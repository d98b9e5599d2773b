/*
 * Giving the role up in order: to nobody in particular (demote, a clean stop) or to one standby, which takes over by itself (switchover).
 *
 *   PRIMARY              role  what happens                                                                   when it fails
 *   HAND_PREPARING       PRIMARY  the standbys catch up, the mount's dirty pages are written back; changes go on     nothing was done
 *   HAND_SHUTTING        PRIMARY  changes wait; the sync set applies all that there are                              changes go on
 *   HAND_RECORDING       HANDING  "handed over" is recorded                                                          taken back; changes go on
 *   HAND_MARKED          HANDING  OP_HANDOVER is in the order, behind the last change                                see below
 *   STANDBY
 *
 * Up to HAND_RECORDING nobody else has heard of it. Once the marker is in the order its addressee may reign at any moment, and a primary that simply went on
 * beside it would acknowledge what the other lacks. So:
 *
 *   the addressee applies the marker while it is level and connected to us    it promotes itself; its reign's first message to us is OUTDATE: taken over. We are
 *                                                                             standby before we answer, and it acknowledges nothing before we have
 *   it can't or may not be promoted           it records that it does not hold the role, and says so (TAKEN_BACK): we go on, in the same reign
 *   it says nothing for HAND_PATIENCE_MS      it is asked (TAKE_BACK): the same answer, and the marker, if it still is on its way, is void; or EBUSY: it is at it
 *   the connection to it is lost              *doubt*: we are standby. When it is back it is asked: it reigns or has reigned: we follow; or it answers TAKEN_BACK:
 *                                             we are promoted again by ourselves. When it does not come back and there is a fence program, that stops it
 *                                             first. Without one a person decides: it may reign without our knowing
 *
 * A demotion has no addressee: when the marker is in the order, this node is standby, whoever heard of it.
 */
#include "mirror/core_int.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>

enum {
	SHUT_SWITCHOVER_MS = 3000,	/* changes wait no longer than this for a standby that has caught up before */
	SHUT_DEMOTE_MS = 20000,		/* for the sync set to shrink to those who answer, too */
	HAND_PATIENCE_MS = 2000,	/* for the addressee of a marker to reign */
	DOUBT_TIMEOUTS = 4,		/* peer_timeouts in doubt before the addressee is fenced: it may be fencing us */
};

/* ---- answers ---- */

static void tell_asker(struct step *s, bool ok, const char *text)
{
	struct core *c = s->c;

	if (!c->hand_asker) {
		core_act_text(s, ACT_HANDED, 0, text);
		s->out->a[s->out->n - 1].ok = ok;
		return;
	}
	if (!c->peer[c->hand_asker].connected)
		return;
	struct core_action *a = core_act(s, ACT_SEND, c->hand_asker);
	a->msg.kind = FRAME_SWITCHED;
	a->msg.switched = (struct switched_msg){ .id = c->hand_asked, .err = ok ? 0 : -EBUSY };
	snprintf(a->msg.switched.reason, sizeof a->msg.switched.reason, "%s", text);
}

void core_hand_ended(struct step *s, bool ok, const char *text)
{
	if (s->c->hand == HAND_NOT)
		return;
	s->c->hand = HAND_NOT;
	tell_asker(s, ok, text);
}

/* Standby, in order: a node that asked hears of it before its connection is dropped, a person here when it is true. */
static void leave(struct step *s, bool ok, const char *text, unsigned keep)
{
	struct core *c = s->c;

	if (c->hand_asker)
		tell_asker(s, ok, text);
	c->hand = HAND_NOT;
	core_become_standby(s, keep);
	if (!c->hand_asker)
		tell_asker(s, ok, text);
}

/* ---- beginning ---- */

static bool may_begin(struct step *s)
{
	struct core *c = s->c;

	if (c->role != CORE_PRIMARY)
		tell_asker(s, false, c->hand == HAND_NOT ? "this node is not primary" : "a change of role is under way: try again");
	else if (c->hand != HAND_NOT || c->stopping)
		tell_asker(s, false, c->stopping ? "the primary's daemon is being stopped" : "a change of role is under way: try again");
	else
		return true;
	return false;
}

static void begin(struct step *s, unsigned to, bool stop)
{
	struct core *c = s->c;

	c->hand = HAND_PREPARING;
	c->hand_to = to;
	c->hand_stop = stop;
	c->hand_number = s->e->random;
	struct core_action *a = core_act(s, ACT_PREPARE, 0);
	a->seq = c->hand_number;
	a->flag = to;
}

void core_demote(struct step *s)
{
	struct core *c = s->c;
	unsigned asker = c->hand_asker;

	c->hand_asker = 0;
	if (may_begin(s))
		begin(s, 0, s->e->flag);
	else if (c->hand != HAND_NOT)
		c->hand_asker = asker;
}

/* Whom a person means who names nobody. 0: WHY says why nobody. */
static unsigned level_one(const struct core *c, char *why, size_t size)
{
	unsigned found = 0;

	for (unsigned n = 1; n <= NODE_MAX; n++) {
		if (c->peer[n].state != PEER_LEVEL)
			continue;
		if (found) {
			snprintf(why, size, "%s and %s are level: say which of them shall be primary", core_name_of(c, found), core_name_of(c, n));
			return 0;
		}
		found = n;
	}
	if (!found)
		snprintf(why, size, "no standby is level: wait until `tandemfs status' on the primary says so");
	return found;
}

static bool may_take_over(const struct core *c, unsigned n, char *why, size_t size)
{
	if (n > NODE_MAX || !(c->cfg.peers & BIT(n)))
		snprintf(why, size, "there is no such node");
	else if (c->peer[n].state != PEER_LEVEL || c->peer[n].drop != DROP_NOT)
		snprintf(why, size, "%s is not level: wait until `tandemfs status' on the primary says so", core_name_of(c, n));
	else
		return true;
	return false;
}

void core_switchover(struct step *s)
{
	struct core *c = s->c;
	unsigned to = s->e->node, asker = c->hand_asker;
	uint64_t asked = c->hand_asked;
	char why[160];

	c->hand_asker = s->e->peer;
	c->hand_asked = s->e->seq;
	if (may_begin(s)) {
		if (to == c->cfg.node)
			tell_asker(s, true, "it is primary already");
		else if ((!to && !(to = level_one(c, why, sizeof why))) || !may_take_over(c, to, why, sizeof why))
			tell_asker(s, false, why);
		else
			begin(s, to, false);
	} else if (c->hand != HAND_NOT) {
		c->hand_asker = asker;
		c->hand_asked = asked;
	}
}

/* ---- up to the marker: the way back is open ---- */

static void fail(struct step *s, const char *why)
{
	struct core *c = s->c;
	char text[240];

	if (c->hand == HAND_SHUTTING)
		core_act(s, ACT_ADMIT, 0);
	snprintf(text, sizeof text, "%s: this node stays primary", why);
	core_say(s, LVL_WARN, "role: not given up: %s", text);
	core_hand_ended(s, false, text);
}

static void shut(struct step *s)
{
	struct core *c = s->c;
	unsigned limit = c->hand_to ? SHUT_SWITCHOVER_MS : SHUT_DEMOTE_MS;
	uint64_t gone = s->e->now_ms - c->hand_since_ms;

	if (gone >= limit) {
		fail(s, "the sync set did not come to rest");
		return;
	}
	struct core_action *a = core_act(s, ACT_SHUT, 0);
	a->seq = c->hand_number;
	a->from_seq = limit - gone;
}

void core_prepared(struct step *s)
{
	struct core *c = s->c;

	if (c->hand != HAND_PREPARING || c->role != CORE_PRIMARY || s->e->seq != c->hand_number)
		return;
	if (!s->e->ok) {
		fail(s, s->e->text);
		return;
	}
	c->hand = HAND_SHUTTING;
	c->hand_since_ms = s->e->now_ms;
	shut(s);
}

void core_shut(struct step *s)
{
	struct core *c = s->c;
	char why[160];

	if (c->hand != HAND_SHUTTING || c->role != CORE_PRIMARY || s->e->seq != c->hand_number)
		return;
	if (!s->e->ok) {
		fail(s, s->e->text);
		return;
	}
	if (c->hand_to && !may_take_over(c, c->hand_to, why, sizeof why)) {
		fail(s, why);
		return;
	}
	if (!core_settled(c)) {			/* an epoch may have been opened since: once more */
		shut(s);
		return;
	}
	c->role = CORE_HANDING;
	c->hand = HAND_RECORDING;
	c->rec.handed_over = true;
	if (!c->hand_stop)
		c->rec.primary = false;		/* a node that is only stopped may resume (start_as = last) */
	if (c->rec.nlineage)
		c->rec.lineage[c->rec.nlineage - 1].last_lsn = s->e->lsn;
	core_record(s, FOR_HAND);
}

/* Primary again, in the same reign. What happened to the peers meanwhile is made up for. */
static void revert(struct step *s, const char *why)
{
	struct core *c = s->c;
	char text[240];

	assert(c->role == CORE_HANDING);
	c->role = CORE_PRIMARY;
	c->rec.handed_over = false;
	c->rec.primary = true;
	if (c->rec.nlineage)
		c->rec.lineage[c->rec.nlineage - 1].last_lsn = UINT64_MAX;
	c->rec_pending &= ~(unsigned)FOR_HAND;
	c->rec_inflight &= ~(unsigned)FOR_HAND;
	core_record(s, FOR_NOTHING);
	core_act(s, ACT_ADMIT, 0);
	snprintf(text, sizeof text, "%s: this node stays primary", why);
	core_say(s, LVL_WARN, "role: not given up: %s", text);
	bool marked = c->hand == HAND_MARKED;
	core_hand_ended(s, false, text);
	for (unsigned n = 1; n <= NODE_MAX; n++) {
		struct core_peer *p = &c->peer[n];
		bool member = (core_members(c) | c->ackset) & BIT(n);
		p->progress_ms = s->e->now_ms;
		if ((p->state >= PEER_OPENING && p->state != PEER_LEVEL) || (member && p->state != PEER_LEVEL) || (marked && n == c->hand_to))
			core_peer_lost(s, n, "its stream was left alone during a handover that failed", false);
	}
}

void core_hand_recorded(struct step *s, bool ok)
{
	struct core *c = s->c;

	if (c->role != CORE_HANDING || c->hand != HAND_RECORDING)
		return;
	if (!ok) {
		revert(s, "it could not be recorded");
		return;
	}
	c->hand = HAND_MARKED;
	c->hand_since_ms = s->e->now_ms;
	core_act(s, ACT_MARK, c->hand_to)->seq = c->hand_number;
}

/* ---- the marker is in the order ---- */

void core_marked(struct step *s)
{
	struct core *c = s->c;

	if (c->role != CORE_HANDING || c->hand != HAND_MARKED || s->e->seq != c->hand_number)
		return;
	if (!s->e->ok) {
		revert(s, "the handover could not be put into the stream");
		return;
	}
	if (c->hand_to)
		return;				/* that it arrived is not enough: its addressee must reign */
	core_say(s, LVL_INFO, "role: this node is standby: its role was given up in order");
	leave(s, true, "this node is standby now", 0);
}

bool core_hand_taken(struct step *s, unsigned peer)
{
	struct core *c = s->c;
	char text[120];

	if (c->role != CORE_HANDING || c->hand != HAND_MARKED || c->hand_to != peer)
		return false;
	snprintf(text, sizeof text, "%s is primary, this node is standby", core_name_of(c, peer));
	core_say(s, LVL_INFO, "role: %s: its role was handed over", text);
	leave(s, true, text, peer);
	return true;
}

/* ---- doubt ---- */

static void doubt(struct step *s, unsigned n)
{
	struct core *c = s->c;
	char text[300];

	snprintf(text, sizeof text, "%s was lost while it took over: it may be primary, so this node is standby%s", core_name_of(c, n),
		 c->cfg.fence == FENCE_HOOK ? " until that is known, or it is fenced" :
		 ", and primary again by itself when it is back and is not; look there");
	core_say(s, LVL_ERROR, "role: %s", text);
	c->doubt_of = n;
	c->doubt_number = c->hand_number;
	c->doubt_since_ms = s->e->now_ms;
	leave(s, false, text, 0);
}

void core_hand_peer_down(struct step *s, unsigned peer)
{
	struct core *c = s->c;

	if (c->role != CORE_HANDING)
		return;
	if (c->peer[peer].state >= PEER_OPENING)
		core_act(s, ACT_CLOSE, peer);
	c->peer[peer].state = PEER_DOWN;
	if (peer != c->hand_to)
		return;
	if (c->hand == HAND_MARKED)
		doubt(s, peer);
	else
		revert(s, "its successor was lost");
}

static void ask_back(struct step *s, unsigned n, uint64_t number)
{
	core_send_id(s, n, FRAME_TAKE_BACK, number);
	s->c->doubt_asked_ms = s->e->now_ms;
}

void core_doubt_asks(struct step *s, unsigned n)
{
	struct core *c = s->c;

	for (unsigned p = 1; p <= NODE_MAX && c->doubt_of; p++) {
		enum lineage_relation r = core_relation(c, p);
		if (!c->peer[p].connected || (r != LINEAGE_BEHIND && !(p == c->doubt_of && r == LINEAGE_FORK)))
			continue;
		core_say(s, LVL_INFO, "role: %s: the handover was accepted", core_name_of(c, c->doubt_of));
		c->doubt_of = 0;
	}
	if (c->doubt_of && n == c->doubt_of)
		ask_back(s, n, c->doubt_number);
}

static void doubt_tick(struct step *s)
{
	struct core *c = s->c;
	unsigned n = c->doubt_of;

	if (c->peer[n].connected) {
		c->doubt_since_ms = s->e->now_ms;
		if (s->e->now_ms - c->doubt_asked_ms > RETRY_MS)
			ask_back(s, n, c->doubt_number);
		return;
	}
	if (c->cfg.fence != FENCE_HOOK || c->stopping || s->e->now_ms - c->doubt_since_ms < DOUBT_TIMEOUTS * (uint64_t)c->cfg.peer_timeout_ms)
		return;
	core_say(s, LVL_WARN, "role: %s has not come back: it is fenced before this node is primary again", core_name_of(c, n));
	c->doubt_since_ms = s->e->now_ms;
	core_promote_self(c);
	c->role = CORE_FENCING;
	c->fencing = n;
	core_fence(s, n, true);
}

void core_hand_tick(struct step *s)
{
	struct core *c = s->c;

	if (c->role == CORE_STANDBY && c->doubt_of)
		doubt_tick(s);
	if (c->role != CORE_HANDING || c->hand != HAND_MARKED || !c->hand_to || s->e->now_ms - c->hand_since_ms < HAND_PATIENCE_MS)
		return;
	c->hand_since_ms = s->e->now_ms;
	ask_back(s, c->hand_to, c->hand_number);
}

void core_msg_taken_back(struct step *s)
{
	struct core *c = s->c;
	unsigned n = s->e->peer;
	const struct record_done *r = &s->e->msg->record_done;

	if (r->err)
		return;				/* it is taking over: its reign will tell */
	if (c->role == CORE_HANDING && c->hand == HAND_MARKED && n == c->hand_to && r->id == c->hand_number) {
		revert(s, "the node that should take over declined: see its log");
		return;
	}
	if (c->role != CORE_STANDBY || n != c->doubt_of || r->id != c->doubt_number || c->following || c->stopping || c->rec.outdated ||
	    c->rec.inconsistent)
		return;
	c->doubt_of = 0;
	core_say(s, LVL_INFO, "role: %s has not taken over: this node is primary again", core_name_of(c, n));
	core_promote_self(c);
	core_drain(s);
}

/* ---- the other end ---- */

static void decline(struct step *s, unsigned n, uint64_t number)
{
	struct core *c = s->c;

	c->taken_back = number;
	c->rec.handed_over = false;
	if (c->peer[n].connected)
		core_answer(s, n, ANSWER_TAKEN_BACK, FRAME_TAKEN_BACK, number);
	else
		core_record(s, FOR_NOTHING);
}

void core_stream_handover(struct step *s)
{
	struct core *c = s->c;
	unsigned from = (unsigned)c->following;
	char buf[256];

	c->mark.instance = from ? c->peer[from].hello.instance : 0;
	c->mark.seq = s->e->lsn;
	if (s->e->node && (s->e->node != c->cfg.node || s->e->seq == c->taken_back))
		return;
	if (s->e->node && c->role == CORE_STANDBY && (!from || !c->peer[from].connected)) {
		c->taken_back = s->e->seq;	/* the old primary is in doubt already: it shall go on */
		return;
	}
	c->rec.handed_over = true;
	const char *no = s->e->node && c->role == CORE_STANDBY ? core_promotion_refusal(c, false, false, buf, sizeof buf) : NULL;
	if (no) {
		core_say(s, LVL_WARN, "role: %s hands its role to this node, which declines: %s", core_name_of(c, from), no);
		decline(s, from, s->e->seq);
	} else if (s->e->node && c->role == CORE_STANDBY) {
		core_say(s, LVL_INFO, "role: %s hands its role to this node", core_name_of(c, from));
		core_promote_self(c);
		core_drain(s);
		s->out->a[s->out->n - 1].flag = true;
	} else {
		core_record(s, FOR_NOTHING);
	}
}

void core_msg_take_back(struct step *s)
{
	struct core *c = s->c;

	if (c->role == CORE_STANDBY) {
		decline(s, s->e->peer, s->e->msg->id);
		return;
	}
	struct core_action *a = core_act(s, ACT_SEND, s->e->peer);
	a->msg.kind = FRAME_TAKEN_BACK;
	a->msg.record_done = (struct record_done){ s->e->msg->id, -EBUSY };
}
