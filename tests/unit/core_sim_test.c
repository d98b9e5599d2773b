/*
 * The decision core under a simulated world: two to four nodes, their disks, links and streams, and people who promote, demote, switch over, cut,
 * crash and restart at random, all from one seed. Time, messages and records are the simulator's; the cores are the real ones.
 *
 * Promises:
 *  - an acknowledged operation is on every node that is promoted without force, whatever was cut or crashed before;
 *  - no operation is acknowledged by a node while another one has begun a newer reign;
 *  - when everything is healed, a primary comes to have all others level (nothing is stuck).
 *
 *  - and holds what the primary holds, op by op.
 *
 * In two of three worlds the fence is a power switch: `outdate` and `stop` kill the node, when they succeed. In the third there is none, and people
 * heed what they are told: don't promote a node that left the sync set unfenced. People say --fenced only of a node that is dead. Disks are slow and fail,
 * standbys hang, daemons are stopped in order, making everything durable takes long.
 * SEEDS=n runs so many (default 300), SEED=s one, with a trace when TRACE is set.
 */
#include <check.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "mirror/core.h"

enum { N_MAX = 4, HIST_MAX = 4096, MSGS_MAX = 4096, STEP_MS = 5, RUN_MS = 60000, HEAL_MS = 40000 };

struct sop { uint32_t id, to; uint64_t mark; struct epoch epoch; };	/* id 0: an epoch begins, or with MARK: a handover to node TO */
struct simmsg { bool used; unsigned from, to; uint64_t due, order; struct msg m; int what; };
struct sstream { bool open, full, comparing; unsigned to; uint64_t at; uint64_t compare_due, compare_upto, up_due; };
struct simnode {
	bool alive, primary, recording, forced;
	struct core c;
	struct state disk, snap;
	uint64_t rec_due, instance, from_instance, from_seq, born;
	struct sop hist[HIST_MAX];
	uint32_t len, reign_start;
	uint64_t stall_until;			/* its stream waits for a record */
	bool stream_epoch;
	uint16_t ackset;
	bool want_epoch;
	uint32_t acked;				/* prefix of hist that was acknowledged */
	struct sstream out[N_MAX + 1];		/* to peer */
	uint64_t fence_due[N_MAX + 1], fence_number[N_MAX + 1];
	uint64_t full_instance;			/* whose comparison is under way */
	uint64_t settle_due, settle_number, hang_until, die_due;
	bool shut;				/* admits no changes */
	uint32_t marked_at;			/* len behind our handover, 0 = none */
	uint64_t prepare_due, prepare_number, shut_until, shut_number, mark_until, mark_number;
	bool stopping, goodbye;			/* goodbye: with the record under way */
	bool fence_ok[N_MAX + 1];
	uint64_t heard[N_MAX + 1];
};
static struct {
	unsigned n;
	uint64_t now, rng, order;
	uint32_t next_op;
	struct simnode node[N_MAX + 1];
	bool cut[N_MAX + 1][N_MAX + 1], conn[N_MAX + 1][N_MAX + 1];
	uint64_t redial[N_MAX + 1][N_MAX + 1];
	struct simmsg msgs[MSGS_MAX];
	uint8_t acked[1 << 20];			/* by op id */
	bool healing, resting, trace, hook;
	char fault[400];
} W;
static struct { unsigned taken, taken_back, doubts, joined; } handovers;	/* in all worlds: markers whose addressee reigned; that it gave back; links lost at that moment; standbys that went on from them */

static uint64_t rnd(void)
{
	W.rng ^= W.rng << 13;
	W.rng ^= W.rng >> 7;
	W.rng ^= W.rng << 17;
	return W.rng;
}
static bool chance(unsigned per_million) { return rnd() % 1000000 < per_million; }

static void trace(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void trace(const char *fmt, ...)
{
	va_list ap;
	if (!W.trace)
		return;
	va_start(ap, fmt);
	printf("%7llu ", (unsigned long long)W.now);
	vprintf(fmt, ap);
	printf("\n");
	va_end(ap);
}

static void violation(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void violation(const char *fmt, ...)
{
	va_list ap;
	if (W.fault[0])
		return;
	va_start(ap, fmt);
	vsnprintf(W.fault, sizeof W.fault, fmt, ap);
	va_end(ap);
	trace("VIOLATION %s", W.fault);
}

static void event(unsigned i, struct core_event *e);

static void post(unsigned from, unsigned to, const struct msg *m)
{
	if (!W.conn[from][to])
		return;
	for (unsigned k = 0; k < MSGS_MAX; k++)
		if (!W.msgs[k].used) {
			W.msgs[k] = (struct simmsg){ .used = true, .from = from, .to = to, .due = W.now + 1 + rnd() % 4, .order = W.order++, .m = *m };
			return;
		}
	violation("too many messages");
}

static void disconnect(unsigned a, unsigned b, const char *why)
{
	if (!W.conn[a][b])
		return;
	W.conn[a][b] = W.conn[b][a] = false;
	W.redial[a][b] = W.redial[b][a] = W.now + 100 + rnd() % 100;
	for (unsigned k = 0; k < MSGS_MAX; k++)
		if (W.msgs[k].used && ((W.msgs[k].from == a && W.msgs[k].to == b) || (W.msgs[k].from == b && W.msgs[k].to == a)))
			W.msgs[k].used = false;
	W.node[a].out[b].open = W.node[b].out[a].open = false;
	W.node[a].out[b].up_due = W.node[b].out[a].up_due = 0;
	for (unsigned k = 0; k < 2; k++) {
		unsigned x = k ? b : a, y = k ? a : b;
		struct core_event e = { .type = EV_PEER_DOWN, .peer = y, .text = why };
		if (W.node[x].alive)
			event(x, &e);
	}
}

static void crash(unsigned i)
{
	struct simnode *s = &W.node[i];
	if (!s->alive)
		return;
	trace("node %u crashes", i);
	s->alive = s->primary = s->recording = s->stopping = s->goodbye = false;
	s->settle_due = s->die_due = s->hang_until = 0;
	s->shut = false;
	s->prepare_due = s->shut_until = s->mark_until = 0;
	memset(s->out, 0, sizeof s->out);
	memset(s->fence_due, 0, sizeof s->fence_due);
	for (unsigned j = 1; j <= W.n; j++)
		if (j != i)
			disconnect(i, j, "died");
}

static void start(unsigned i)
{
	struct simnode *s = &W.node[i];
	struct core_config cfg = { .node = i, .fence = W.hook ? FENCE_HOOK : FENCE_NONE, .start_last = i & 1, .peer_timeout_ms = 500,
				   .congestion_timeout_ms = 2000 };
	struct core_event e = { .type = EV_START };

	for (unsigned j = 1; j <= W.n; j++)
		if (j != i)
			cfg.peers |= (uint16_t)(1u << j);
	trace("node %u starts", i);
	s->alive = true;
	s->instance = rnd();
	s->from_instance = s->full_instance = s->stall_until = 0;
	s->ackset = 0;
	s->want_epoch = s->forced = false;
	s->born = W.now;
	core_init(&s->c, &cfg, &s->disk, false);
	event(i, &e);
}

static bool on_disk_everything_acked(const struct simnode *s, uint32_t *missing)
{
	static uint8_t have[1 << 20];
	memset(have, 0, W.next_op + 1);
	for (uint32_t k = 0; k < s->len; k++)
		have[s->hist[k].id] = 1;
	for (uint32_t id = 1; id < W.next_op; id++)
		if (W.acked[id] && !have[id]) {
			*missing = id;
			return false;
		}
	return true;
}

static void append(struct simnode *s, uint32_t id, struct epoch ep)
{
	if (s->len < HIST_MAX)
		s->hist[s->len++] = (struct sop){ .id = id, .epoch = ep };
}

/* Things go wrong at the worst moment. */
static void trouble(unsigned i, unsigned to)
{
	unsigned kind = (unsigned)(rnd() % 12);

	if (W.healing || !to)
		return;
	if (kind == 0)
		W.node[to].die_due = W.now + rnd() % 20;
	else if (kind == 1)
		W.node[i].die_due = W.now + rnd() % 20;
	else if (kind == 2)
		W.node[to].hang_until = W.now + 100 + rnd() % 4000;
	else if (kind <= 4)
		W.cut[i][to] = W.cut[to][i] = true;
	else if (kind == 5)
		disconnect(i, to, "reset");
}

static void act_mark(unsigned i, const struct core_action *a)
{
	struct simnode *s = &W.node[i];
	struct core_event e = { .type = EV_MARKED, .seq = a->seq };

	if (!W.healing && chance(30000)) {
		event(i, &e);			/* no memory */
		return;
	}
	append(s, 0, (struct epoch){ 0 });
	s->hist[s->len - 1].mark = a->seq;
	s->hist[s->len - 1].to = a->peer;
	s->marked_at = s->len;
	s->mark_until = W.now + 300 + rnd() % 300;
	s->mark_number = a->seq;
	trace("node %u: handover to %u", i, a->peer);
	trouble(i, a->peer);
}

static void act_open(unsigned i, const struct core_action *a)
{
	struct simnode *s = &W.node[i];
	struct msg m = { .kind = FRAME_OPEN };

	/* positions are places in the history here, not counted anew in each reign */
	uint64_t from = a->full ? s->len : a->instance == s->instance ? a->seq : s->reign_start - 1;
	m.open = (struct open_msg){ .at_instance = a->instance, .at_seq = a->seq, .from_seq = from, .mode = a->full ? OPEN_FULL : OPEN_STREAM,
				    .epoch = state_epoch(&s->c.rec) };
	s->out[a->peer] = (struct sstream){ .full = a->full, .at = m.open.from_seq };
	post(i, a->peer, &m);
}

static void act_follow(unsigned i, const struct core_action *a)
{
	struct simnode *s = &W.node[i];
	bool full = a->msg.open.mode == OPEN_FULL;

	if (!full && (s->from_instance != a->msg.open.at_instance || s->from_seq != a->msg.open.at_seq)) {
		disconnect(i, a->peer, "more was applied");
		return;
	}
	if (!full && s->len != a->msg.open.from_seq)
		violation("node %u holds %u ops where node %u goes on behind %llu", i, s->len, a->peer, (unsigned long long)a->msg.open.from_seq);
	s->from_instance = full ? 0 : a->instance;
	s->full_instance = full ? a->instance : 0;
	s->from_seq = a->msg.open.from_seq;
	W.node[a->peer].out[i].up_due = W.conn[i][a->peer] ? W.now + 1 + rnd() % 50 : 0;
}

static void act_become_primary(unsigned i)
{
	struct simnode *s = &W.node[i];
	uint32_t missing;

	trace("node %u becomes primary, reign %llu", i, (unsigned long long)state_epoch(&s->c.rec).reign);
	if (!s->forced && !on_disk_everything_acked(s, &missing))
		violation("node %u is promoted without op %u, which was acknowledged", i, missing);
	s->primary = true;
	s->want_epoch = false;
	handovers.taken += s->len && s->hist[s->len - 1].to == i;
	append(s, 0, state_epoch(&s->c.rec));
	s->reign_start = s->len;
	s->acked = s->len;
}

static void action(unsigned i, const struct core_action *a)
{
	struct simnode *s = &W.node[i];
	struct core_event e = { 0 };

	switch (a->type) {
	case ACT_LOG: trace("  %u: %s", i, a->text); break;
	case ACT_RECORD:
		s->recording = true;
		s->goodbye = s->stopping;
		s->snap = s->c.rec;
		s->rec_due = W.now + 1 + rnd() % 5 + (chance(20000) ? 300 : 0);
		break;
	case ACT_SEND: post(i, a->peer, &a->msg); break;
	case ACT_RESET: disconnect(i, a->peer, a->text); break;
	case ACT_OPEN: act_open(i, a); break;
	case ACT_CLOSE: s->out[a->peer].open = false, s->out[a->peer].up_due = 0; break;
	case ACT_COMPARE:
		if (!a->full && !a->flag)
			break;
		handovers.joined += !a->full;
		s->out[a->peer].compare_upto = s->len;
		s->out[a->peer].comparing = true;
		s->out[a->peer].compare_due = W.now + 20 + rnd() % 1000;
		break;
	case ACT_FOLLOW: act_follow(i, a); break;
	case ACT_REFUSE:
		e = (struct core_event){ .type = EV_OPEN_REFUSED, .peer = i, .text = a->text };
		event(a->peer, &e);
		break;
	case ACT_UNFOLLOW: W.node[a->peer].out[i].open = false, W.node[a->peer].out[i].up_due = 0; break;
	case ACT_SETTLE:
		s->settle_due = W.now + 1 + rnd() % 20 + (chance(100000) ? 1500 : 0);
		s->settle_number = a->seq;
		break;
	case ACT_ADMIT:
		s->shut = false;
		s->marked_at = 0;
		break;
	case ACT_PREPARE:
		s->prepare_due = W.now + 1 + rnd() % 30;
		s->prepare_number = a->seq;
		break;
	case ACT_SHUT:
		s->shut = true;
		s->shut_until = W.now + a->from_seq;
		s->shut_number = a->seq;
		break;
	case ACT_MARK: act_mark(i, a); break;
	case ACT_HANDED:
		trace("  %u: role given up: %d %s", i, a->ok, a->text);
		break;
	case ACT_FENCE:
		s->fence_number[a->peer] = a->seq;
		s->fence_due[a->peer] = W.now + 50 + rnd() % 300;
		s->fence_ok[a->peer] = !chance(200000);
		break;
	case ACT_DRAIN:
		for (unsigned j = 1; j <= W.n; j++)
			W.node[j].out[i].open = false, W.node[j].out[i].up_due = 0;
		e = (struct core_event){ .type = EV_DRAINED, .lsn = s->len, .seq = s->from_seq };
		event(i, &e);
		break;
	case ACT_ACKSET:
		s->ackset = a->set;
		e = (struct core_event){ .type = EV_ACKSET, .seq = a->set };
		event(i, &e);
		break;
	case ACT_BECOME_PRIMARY: act_become_primary(i); break;
	case ACT_BECOME_STANDBY:
		s->primary = s->shut = s->forced = false;
		s->from_instance = s->marked_at ? s->instance : 0;
		s->from_seq = s->marked_at;
		s->marked_at = 0;
		s->prepare_due = s->shut_until = s->mark_until = 0;
		break;
	case ACT_EPOCH_OPEN:
		if (!a->flag)
			append(s, 0, state_epoch(&s->c.rec));
		s->want_epoch = false;
		break;
	case ACT_NOT_TAKEN: s->forced = false; break;
	case ACT_EPOCH_WANTED: s->want_epoch = true; break;
	case ACT_PROMOTED: trace("  %u: promotion: %s", i, a->text); break;
	}
}

static void event(unsigned i, struct core_event *e)
{
	struct simnode *s = &W.node[i];
	struct core_actions *out;

	if (!s->alive || W.fault[0])
		return;
	out = malloc(sizeof *out);
	e->now_ms = W.now + 1000000;
	e->random = rnd();
	e->instance = s->instance;
	e->queue_first = s->reign_start;
	e->queue_last = s->len;
	unsigned doubted = s->c.doubt_of;
	core_step(&s->c, e, out);
	handovers.doubts += s->c.doubt_of && !doubted;
	for (unsigned k = 0; k < out->n && s->alive; k++)
		action(i, &out->a[k]);
	free(out);
}

/* ---- the world moves ---- */

static void make_hello(unsigned i, struct hello *h)
{
	struct simnode *s = &W.node[i];
	memset(h, 0, sizeof *h);
	h->flags = core_flags(&s->c);
	h->epoch = state_epoch(&s->c.rec);
	h->instance = s->instance;
	h->from_instance = s->from_instance;
	h->from_seq = s->from_seq;
	h->sync_set = s->c.rec.sync_set;
	h->nlineage = s->c.rec.nlineage;
	memcpy(h->lineage, s->c.rec.lineage, sizeof h->lineage);
}

static void move_links(void)
{
	for (unsigned a = 1; a <= W.n; a++)
		for (unsigned b = a + 1; b <= W.n; b++) {
			bool can = W.node[a].alive && W.node[b].alive && !W.cut[a][b];
			if (W.conn[a][b]) {
				if (can)
					W.node[a].heard[b] = W.node[b].heard[a] = W.now;
				continue;		/* a cut link is noticed by silence */
			}
			if (!can || W.now < W.redial[a][b])
				continue;
			static struct hello ha, hb;
			make_hello(a, &ha);
			make_hello(b, &hb);
			W.conn[a][b] = W.conn[b][a] = true;
			W.node[a].heard[b] = W.node[b].heard[a] = W.now;
			struct core_event ea = { .type = EV_PEER_UP, .peer = b, .hello = &hb }, eb = { .type = EV_PEER_UP, .peer = a, .hello = &ha };
			event(a, &ea);
			if (W.conn[a][b])
				event(b, &eb);
		}
}

static void deliver(struct simmsg *m)
{
	struct core_event e = { .peer = m->from, .msg = &m->m };
	switch (m->m.kind) {
	case FRAME_OPEN: e.type = EV_MSG_OPEN; break;
	case FRAME_OUTDATE: e.type = EV_MSG_OUTDATE; break;
	case FRAME_OUTDATED: e.type = EV_MSG_OUTDATED; break;
	case FRAME_RECORD: e.type = EV_MSG_RECORD; break;
	case FRAME_RECORDED: e.type = EV_MSG_RECORDED; break;
	case FRAME_LEVEL: e.type = EV_MSG_LEVEL; break;
	case FRAME_LEVELLED: e.type = EV_MSG_LEVELLED; break;
	case FRAME_GOODBYE: e.type = EV_GOODBYE; e.flag = true; break;
	case FRAME_TAKE_BACK: e.type = EV_MSG_TAKE_BACK; break;
	case FRAME_TAKEN_BACK:
		e.type = EV_MSG_TAKEN_BACK;
		handovers.taken_back += !m->m.record_done.err;
		break;
	default: return;
	}
	event(m->to, &e);
}

static void move_messages(void)
{
	for (;;) {
		struct simmsg *best = NULL;
		for (unsigned k = 0; k < MSGS_MAX; k++) {
			struct simmsg *m = &W.msgs[k];
			if (m->used && m->due <= W.now && !W.cut[m->from][m->to] && (!best || m->order < best->order))
				best = m;
		}
		if (!best)
			return;
		struct simmsg m = *best;
		best->used = false;
		deliver(&m);
	}
}

static void say_goodbye(unsigned i)
{
	struct msg m = { .kind = FRAME_GOODBYE };
	trace("node %u says goodbye", i);
	for (unsigned p = 1; p <= W.n; p++)
		if (p != i)
			post(i, p, &m);
	W.node[i].die_due = W.now + 20;
}

static void move_record(unsigned i)
{
	struct simnode *s = &W.node[i];
	bool ok = W.healing || !chance(30000), goodbye = s->goodbye;

	s->recording = s->goodbye = false;
	if (ok) {
		s->disk = s->snap;
		s->stall_until = 0;
	}
	struct core_event e = { .type = EV_RECORDED, .ok = ok };
	event(i, &e);
	if (ok && goodbye && s->alive)
		say_goodbye(i);
}

static void move_disk(unsigned i)
{
	struct simnode *s = &W.node[i];
	if (s->alive && s->recording && W.now >= s->rec_due)
		move_record(i);
	if (s->alive && s->settle_due && W.now >= s->settle_due) {
		s->settle_due = 0;
		struct core_event e = { .type = EV_SETTLED, .ok = W.healing || !chance(30000), .seq = s->settle_number };
		event(i, &e);
	}
	if (s->alive && s->die_due && W.now >= s->die_due)
		crash(i);
	for (unsigned p = 1; p <= W.n; p++)
		if (s->alive && s->fence_due[p] && W.now >= s->fence_due[p]) {
			s->fence_due[p] = 0;
			if (s->fence_ok[p])
				crash(p);
			struct core_event e = { .type = EV_FENCED, .peer = p, .ok = s->fence_ok[p], .seq = s->fence_number[p] };
			event(i, &e);
		}
}

/* The stream connection that was asked for is there: a comparison's first statement comes. */
static void stream_up(unsigned i, unsigned p)
{
	struct sstream *o = &W.node[i].out[p];

	o->up_due = 0;
	if (!W.conn[i][p] || !W.node[p].alive)
		return;
	if (o->full) {
		struct core_event e = { .type = EV_COMPARING, .flag = true };
		W.node[p].stall_until = UINT64_MAX;	/* until recorded */
		event(p, &e);
	}
	o->open = W.conn[i][p];
	struct core_event e = { .type = EV_STREAM_UP, .peer = p };
	event(i, &e);
}

static void move_stream(unsigned i, unsigned p)
{
	struct simnode *s = &W.node[i], *t = &W.node[p];
	struct sstream *o = &s->out[p];

	if (s->alive && o->up_due && W.now >= o->up_due && !W.cut[i][p])
		stream_up(i, p);
	if (!s->alive || !t->alive || !o->open || W.cut[i][p] || t->stall_until || t->hang_until > W.now)
		return;
	if (o->full && o->comparing && W.now >= o->compare_due) {
		o->comparing = o->full = false;
		memcpy(t->hist, s->hist, sizeof t->hist);
		t->len = s->len;
		o->at = t->from_seq = s->len;
		struct core_event e = { .type = EV_COMPARING, .flag = false };
		event(p, &e);
		t->from_instance = t->full_instance;
		struct core_event d = { .type = EV_COMPARED, .peer = p, .ok = true };
		event(i, &d);
		return;
	}
	if (o->full)
		return;
	if (o->comparing && W.now >= o->compare_due && o->at >= o->compare_upto) {
		struct core_event d = { .type = EV_COMPARED, .peer = p, .ok = true };
		o->comparing = false;
		event(i, &d);
	}
	for (unsigned k = 0; k < 3 && o->open && o->at < s->len && !t->stall_until; k++) {
		struct sop *op = &s->hist[o->at];
		t->len = (uint32_t)o->at;
		append(t, op->id, op->epoch);
		t->hist[t->len - 1] = *op;
		t->from_seq = ++o->at;
		if (op->mark) {
			struct core_event e = { .type = EV_STREAM_HANDOVER, .node = op->to, .seq = op->mark, .lsn = o->at };
			event(p, &e);
		} else if (!op->id) {
			struct core_event e = { .type = EV_STREAM_EPOCH, .epoch = op->epoch, .lsn = o->at };
			t->stall_until = UINT64_MAX;
			event(p, &e);
		}
	}
}

/* All that I acknowledged on is applied by the set. */
static bool set_has_all(unsigned i)
{
	struct simnode *s = &W.node[i];

	for (unsigned p = 1; p <= W.n; p++)
		if ((s->ackset & 1u << p) && (!s->out[p].open || s->out[p].full || s->out[p].at < s->len))
			return false;
	return true;
}

/* What the node's shell does while the role is given up. */
static void move_handover(unsigned i)
{
	struct simnode *s = &W.node[i];
	bool all = s->alive && set_has_all(i);

	if (s->alive && s->prepare_due && W.now >= s->prepare_due) {
		struct core_event e = { .type = EV_PREPARED, .ok = W.healing || !chance(30000), .seq = s->prepare_number, .text = "simulated" };
		s->prepare_due = 0;
		event(i, &e);
	}
	if (s->alive && s->shut_until && (all || W.now >= s->shut_until)) {
		struct core_event e = { .type = EV_SHUT, .ok = all, .seq = s->shut_number, .lsn = s->len, .text = "simulated" };
		s->shut_until = 0;
		event(i, &e);
	}
	if (s->alive && s->mark_until && (all || W.now >= s->mark_until)) {
		struct core_event e = { .type = EV_MARKED, .ok = true, .seq = s->mark_number };
		s->mark_until = 0;
		event(i, &e);
	}
}

static void acknowledge(unsigned i)
{
	struct simnode *s = &W.node[i];
	if (!s->alive || !s->primary || s->want_epoch)
		return;
	uint64_t upto = s->len;
	for (unsigned p = 1; p <= W.n; p++)
		if ((s->ackset & 1u << p) && s->out[p].at < upto)
			upto = s->out[p].open && !s->out[p].full ? s->out[p].at : s->acked;
	for (; s->acked < upto; s->acked++) {
		uint32_t id = s->hist[s->acked].id;
		if (!id)
			continue;
		W.acked[id] = 1;
		for (unsigned j = 1; j <= W.n; j++)
			if (j != i && W.node[j].alive && W.node[j].primary && !W.node[j].forced && !s->forced &&
			    state_epoch(&W.node[j].c.rec).reign > state_epoch(&s->c.rec).reign)
				violation("node %u acknowledges op %u while node %u reigns", i, id, j);
	}
}

static void work(unsigned i)
{
	struct simnode *s = &W.node[i];
	if (!s->alive || !s->primary || s->shut || W.resting || s->len >= HIST_MAX - 2 || chance(700000))
		return;
	if (s->want_epoch) {
		struct core_event e = { .type = EV_WANT_EPOCH, .lsn = s->len };
		event(i, &e);
		return;
	}
	append(s, W.next_op++, (struct epoch){ 0 });
}

static void tick(unsigned i)
{
	uint64_t heard[NODE_MAX + 1] = { 0 }, recv[NODE_MAX + 1] = { 0 }, progress[NODE_MAX + 1] = { 0 };
	bool outstanding[NODE_MAX + 1] = { 0 };
	struct simnode *s = &W.node[i];
	for (unsigned p = 1; p <= W.n; p++) {
		heard[p] = s->heard[p] + 1000000;
		recv[p] = s->out[p].open && !s->out[p].full ? s->out[p].at : 0;
		progress[p] = recv[p] + (s->out[p].full ? W.now : 0);
		outstanding[p] = s->out[p].open && recv[p] < s->len;
	}
	struct core_event e = { .type = EV_TICK, .heard_ms = heard, .applied_seq = recv, .progress = progress, .outstanding = outstanding };
	event(i, &e);
}

static bool any_primary(void)
{
	for (unsigned i = 1; i <= W.n; i++)
		if (W.node[i].alive && (W.node[i].primary || W.node[i].c.role != CORE_STANDBY))
			return true;
	return false;
}

/* Is it true that whoever may still acknowledge as primary is dead? The last primary may be one again any moment: by a promotion, or out of doubt. */
static bool truly_fenced(unsigned i)
{
	for (unsigned j = 1; j <= W.n; j++)
		if (j != i && W.node[j].alive && (W.node[j].primary || W.node[j].c.role != CORE_STANDBY || W.node[j].c.rec.was_primary))
			return false;
	return true;
}

/* J is being promoted, or asks I whether it may go on without it, and they don't hear each other. */
static bool not_heard(unsigned i, unsigned j)
{
	const struct simnode *s = &W.node[j];

	return s->alive && (W.cut[i][j] || !W.conn[i][j]) &&
	       ((s->c.role >= CORE_FENCING && s->c.role < CORE_PRIMARY) || (s->c.role == CORE_PRIMARY && s->c.peer[i].drop != DROP_NOT));
}

/* Without a fence a person has been told not to promote I: some node went on without it. And one who has just ordered the promotion of another waits for what comes of
 * it, at least while the link between them is down: two at once are right only for nodes that can tell each other. */
static bool at_risk(unsigned i)
{
	for (unsigned j = 1; j <= W.n && !W.hook; j++)
		if (j != i && (not_heard(i, j) || W.node[j].disk.dropped[i] == DROPPED_RISK || W.node[j].c.rec.dropped[i] == DROPPED_RISK))
			return true;
	return false;
}

static void promote(unsigned i, bool fenced, bool force)
{
	struct core_event e = { .type = EV_PROMOTE, .fenced = fenced, .force = force };
	if (!force && at_risk(i))
		return;
	trace("person promotes %u%s%s", i, fenced ? " --fenced" : "", force ? " --force" : "");
	if (W.node[i].alive && W.node[i].c.role == CORE_STANDBY)
		W.node[i].forced = force;
	event(i, &e);
}

static void demote(unsigned i)
{
	struct simnode *s = &W.node[i];
	struct core_event e = { .type = EV_DEMOTE };

	if (!s->alive || !s->primary)
		return;
	trace("person demotes %u", i);
	event(i, &e);
}

static void switch_over(unsigned i, unsigned to)
{
	struct simnode *s = &W.node[i];
	struct core_event e = { .type = EV_SWITCHOVER, .node = to };

	if (!s->alive || !s->primary)
		return;
	trace("person switches over from %u to %u", i, to);
	event(i, &e);
}

/* A clean stop; the primary gives its role up first. */
static void stop(unsigned i)
{
	struct core_event e = { .type = EV_STOPPING };
	struct simnode *s = &W.node[i];

	if (!s->alive || s->stopping || s->c.role != CORE_STANDBY)
		return;
	trace("node %u is stopped", i);
	s->stopping = true;
	event(i, &e);
}

static void people(void)
{
	unsigned i = 1 + (unsigned)(rnd() % W.n), j = 1 + (unsigned)(rnd() % W.n);

	if (chance(3000))
		crash(i);
	if (chance(6000) && !W.node[j].alive)
		start(j);
	if (chance(3000) && i != j) {
		W.cut[i][j] = W.cut[j][i] = !W.cut[i][j];
		trace("link %u-%u %s", i, j, W.cut[i][j] ? "cut" : "heals");
	}
	if (chance(5000))
		promote(j, truly_fenced(j), false);
	if (chance(1500))
		demote(i);
	if (chance(30000))
		switch_over(i, chance(500000) ? j : 0);
	if (chance(1500))
		stop(j);
	if (chance(2000))
		W.node[j].hang_until = W.now + 500 + rnd() % 4000;
	if (chance(1000) && W.node[i].alive) {
		struct core_event e = { .type = EV_DISCARD };
		event(i, &e);
	}
}

static void step(void)
{
	W.now += STEP_MS;
	if (!W.healing)
		people();
	move_links();
	move_messages();
	for (unsigned i = 1; i <= W.n; i++) {
		move_disk(i);
		for (unsigned p = 1; p <= W.n; p++)
			if (p != i)
				move_stream(i, p);
		work(i);
		move_handover(i);
		acknowledge(i);
		if (W.now % 20 == 0)
			tick(i);
	}
}

static bool all_level(void)
{
	unsigned prim = 0;
	for (unsigned i = 1; i <= W.n; i++)
		if (W.node[i].primary)
			prim = prim ? 99 : i;
	if (!prim || prim == 99)
		return false;
	for (unsigned i = 1; i <= W.n; i++)
		if (i != prim && W.node[prim].c.peer[i].state != PEER_LEVEL)
			return false;
	return true;
}

/* After all the trouble: everything works again, people do what the messages ask for; then all must become level. */
static void heal(void)
{
	uint64_t end = W.now + HEAL_MS, next = W.now + 3000;
	W.healing = true;
	memset(W.cut, 0, sizeof W.cut);
	for (unsigned i = 1; i <= W.n; i++) {
		W.node[i].hang_until = 0;
		if (!W.node[i].alive)
			start(i);
	}
	while (W.now < end && !all_level() && !W.fault[0]) {
		step();
		if (W.now < next)
			continue;
		next = W.now + 3000;
		for (unsigned i = 1; i <= W.n; i++)
			if (!W.node[i].alive)
				start(i);		/* fenced meanwhile */
		if (!any_primary()) {
			for (unsigned i = 1; i <= W.n && !any_primary(); i++)
				promote(i, true, false);
			for (unsigned i = 1; i <= W.n && !any_primary() && W.now > end - HEAL_MS / 2; i++)
				promote(i, true, true);
		}
		unsigned seen = 0;
		for (unsigned i = 1; i <= W.n; i++)
			if (W.node[i].primary && seen++)
				demote(i);
		for (unsigned i = 1; i <= W.n; i++)
			if (!W.node[i].primary && W.node[i].alive && any_primary()) {
				bool refused = false;
				for (unsigned p = 1; p <= W.n; p++)
					refused |= W.node[p].primary && W.node[p].c.peer[i].state == PEER_REFUSED;
				struct core_event e = { .type = EV_DISCARD };
				if (refused)
					event(i, &e);
			}
	}
	if (!W.fault[0] && !all_level())
		violation("not all level %d s after everything healed", HEAL_MS / 1000);
}

/* Nothing changes any more: level nodes hold the same. */
static void compare(void)
{
	unsigned prim = 0;

	W.resting = true;
	for (unsigned k = 0; k < 400 && !W.fault[0]; k++)
		step();
	for (unsigned i = 1; i <= W.n; i++)
		if (W.node[i].primary)
			prim = i;
	for (unsigned i = 1; i <= W.n && prim && !W.fault[0]; i++)
		if (i != prim && W.node[prim].c.peer[i].state == PEER_LEVEL &&
		    (W.node[i].len != W.node[prim].len || memcmp(W.node[i].hist, W.node[prim].hist, W.node[i].len * sizeof(struct sop))))
			violation("node %u is level with node %u, and is not equal", i, prim);
}

static bool run_seed(uint64_t seed)
{
	bool tr = getenv("TRACE");
	memset(&W, 0, sizeof W);
	W.trace = tr;
	W.rng = seed * 0x9E3779B97F4A7C15ull + 1;
	W.next_op = 1;
	W.now = 1000;
	for (int k = 0; k < 10; k++)
		rnd();
	W.n = 2 + (unsigned)(seed % 3);
	W.hook = seed / 3 % 3;
	for (unsigned i = 1; i <= W.n; i++) {
		W.node[i].disk.node = (uint8_t)i;
		if (i > 1)
			W.node[i].disk.inconsistent = true;	/* joined */
		start(i);
	}
	promote(1, false, false);
	while (W.now < RUN_MS && !W.fault[0])
		step();
	if (!W.fault[0])
		heal();
	if (!W.fault[0])
		compare();
	if (W.fault[0])
		fprintf(stderr, "seed %llu (%u nodes): %s\n", (unsigned long long)seed, W.n, W.fault);
	return !W.fault[0];
}

START_TEST(random_worlds)
{
	const char *one = getenv("SEED"), *many = getenv("SEEDS");
	uint64_t first = one ? strtoull(one, NULL, 10) : (uint64_t)time(NULL) * 1000, n = one ? 1 : many ? strtoull(many, NULL, 10) : 300;
	unsigned bad = 0;

	printf("# seeds %llu..%llu\n", (unsigned long long)first, (unsigned long long)(first + n - 1));
	for (uint64_t s = first; s < first + n; s++)
		bad += !run_seed(s);
	printf("# handovers: %u taken, %u taken back, %u doubts, %u joined\n", handovers.taken, handovers.taken_back, handovers.doubts, handovers.joined);
	ck_assert_msg(one || (handovers.taken && handovers.taken_back && handovers.doubts && handovers.joined), "the worlds saw no handover of each kind");
	ck_assert_msg(!bad, "%u of %llu worlds broke a promise", bad, (unsigned long long)n);
}
END_TEST

/* A core that counts nobody, and one that takes anybody, must be caught: the simulator is no rubber stamp. */
START_TEST(lineages)
{
	struct lineage_entry a[3] = { { { 1, 11, 1 }, 5 }, { { 2, 22, 1 }, 9 }, { { 3, 33, 2 }, UINT64_MAX } };
	struct lineage_entry fork[3] = { { { 1, 11, 1 }, 5 }, { { 2, 22, 1 }, 9 }, { { 3, 44, 1 }, UINT64_MAX } };
	ck_assert_int_eq(lineage_compare(a, 3, a, 3), LINEAGE_SAME);
	ck_assert_int_eq(lineage_compare(a, 2, a, 3), LINEAGE_BEHIND);
	ck_assert_int_eq(lineage_compare(a, 3, a, 2), LINEAGE_AHEAD);
	ck_assert_int_eq(lineage_compare(a, 3, fork, 3), LINEAGE_FORK);
	ck_assert_int_eq(lineage_compare(a, 3, fork, 0), LINEAGE_NEW);
	ck_assert_int_eq(lineage_compare(a, 0, fork, 3), LINEAGE_BLANK);
	ck_assert_int_eq(lineage_compare(a, 2, fork, 3), LINEAGE_BEHIND);
}
END_TEST

/* ---- single decisions ---- */

static struct core C;
static struct core_actions OUT;

static void tell(struct core_event e)
{
	e.now_ms = 1000;
	core_step(&C, &e, &OUT);
}

static const struct core_action *did(enum core_action_type t)
{
	for (unsigned k = 0; k < OUT.n; k++)
		if (OUT.a[k].type == t)
			return &OUT.a[k];
	return NULL;
}

static struct hello primary_hello(void)
{
	struct hello h = { .node = 1, .instance = 7, .flags = NODE_PRIMARY, .sync_set = 2, .epoch = { 1, 11, 1 }, .nlineage = 1 };
	h.lineage[0].epoch = h.epoch;
	return h;
}

static void open_from_primary(void)
{
	struct msg m = { .kind = FRAME_OPEN, .open = { .token = 1, .mode = OPEN_STREAM, .epoch = { 1, 11, 1 } } };
	tell((struct core_event){ .type = EV_MSG_OPEN, .peer = 1, .msg = &m });
	ck_assert_ptr_nonnull(did(ACT_FOLLOW));
}

static uint64_t level_from_primary(void)
{
	struct msg m = { .kind = FRAME_LEVEL, .id = 5 };
	tell((struct core_event){ .type = EV_MSG_LEVEL, .peer = 1, .msg = &m });
	ck_assert_ptr_nonnull(did(ACT_SETTLE));
	return did(ACT_SETTLE)->seq;
}

/* Node 2 follows node 1. */
static void standby(void)
{
	struct core_config cfg = { .node = 2, .peers = 1 << 1, .peer_timeout_ms = 500, .congestion_timeout_ms = 2000 };
	struct state st = { .node = 2, .sync_set = 2, .nlineage = 1, .lineage = { { { 1, 11, 1 }, UINT64_MAX } } };
	struct hello h = primary_hello();

	core_init(&C, &cfg, &st, false);
	tell((struct core_event){ .type = EV_START });
	tell((struct core_event){ .type = EV_PEER_UP, .peer = 1, .hello = &h });
	open_from_primary();
}

static void become_level(void)
{
	tell((struct core_event){ .type = EV_SETTLED, .ok = true, .seq = level_from_primary() });
	ck_assert(C.level);
}

START_TEST(a_promotion_whose_drain_fails_is_refused)
{
	standby();
	become_level();
	tell((struct core_event){ .type = EV_PROMOTE, .fenced = true });
	ck_assert_ptr_nonnull(did(ACT_DRAIN));
	tell((struct core_event){ .type = EV_DIVERGED, .text = "no space" });
	tell((struct core_event){ .type = EV_DRAINED });
	ck_assert_ptr_nonnull(did(ACT_PROMOTED));
	ck_assert(!did(ACT_PROMOTED)->ok);
	ck_assert_int_eq(C.role, CORE_STANDBY);
	ck_assert(C.rec.outdated);
}
END_TEST

START_TEST(level_is_an_answer_to_the_stream_that_it_was_said_of)
{
	standby();
	uint64_t old = level_from_primary();
	open_from_primary();			/* the stream began anew while what the old one had brought was made durable */
	tell((struct core_event){ .type = EV_SETTLED, .ok = true, .seq = old });
	ck_assert(!C.level);
	become_level();
}
END_TEST

START_TEST(nothing_is_levelled_followed_or_promoted_once_a_stop_has_begun)
{
	struct msg level = { .kind = FRAME_LEVEL, .id = 5 }, open = { .kind = FRAME_OPEN, .open = { .token = 1, .mode = OPEN_STREAM } };

	standby();
	become_level();
	tell((struct core_event){ .type = EV_STOPPING });
	ck_assert(C.rec.outdated);
	tell((struct core_event){ .type = EV_MSG_LEVEL, .peer = 1, .msg = &level });
	ck_assert(!did(ACT_SETTLE));
	tell((struct core_event){ .type = EV_MSG_OPEN, .peer = 1, .msg = &open });
	ck_assert(did(ACT_REFUSE) && !did(ACT_FOLLOW));
	tell((struct core_event){ .type = EV_PROMOTE, .fenced = true, .force = true });
	ck_assert(did(ACT_PROMOTED) && !did(ACT_PROMOTED)->ok);
	ck_assert(C.rec.outdated);
}
END_TEST

/* Node 2, level and handed the role by a demotion, is being promoted. Node 3, promoted at the same time, is quicker. */
static void promoted_beside_node_3(void)
{
	struct hello h = { .node = 3, .instance = 8, .sync_set = 14, .epoch = { 1, 11, 1 }, .nlineage = 1 };

	standby();
	C.cfg.peers = 1 << 1 | 1 << 3;
	C.rec.sync_set = 14;
	h.lineage[0].epoch = h.epoch;
	tell((struct core_event){ .type = EV_PEER_UP, .peer = 3, .hello = &h });
	become_level();
	tell((struct core_event){ .type = EV_RECORDED, .ok = true });
	tell((struct core_event){ .type = EV_STREAM_HANDOVER, .seq = 77 });
	tell((struct core_event){ .type = EV_RECORDED, .ok = true });
	tell((struct core_event){ .type = EV_PROMOTE });
	ck_assert_int_eq(C.role, CORE_DRAINING);
}

static void outdate_from(unsigned n)
{
	struct msg m = { .kind = FRAME_OUTDATE, .id = 9 };
	tell((struct core_event){ .type = EV_MSG_OUTDATE, .peer = n, .msg = &m });
}

/* It is outdated durably before it says so. */
static void gave_way(unsigned to)
{
	ck_assert_int_eq(C.role, CORE_STANDBY);
	ck_assert(C.rec.outdated && !C.level);
	while (C.recording && !did(ACT_SEND))
		tell((struct core_event){ .type = EV_RECORDED, .ok = true });
	ck_assert_ptr_nonnull(did(ACT_SEND));
	ck_assert_int_eq(did(ACT_SEND)->msg.kind, FRAME_OUTDATED);
	ck_assert_uint_eq(did(ACT_SEND)->peer, to);
}

START_TEST(a_promotion_ends_when_another_node_reigns_already)
{
	promoted_beside_node_3();
	outdate_from(3);
	ck_assert(did(ACT_PROMOTED) && !did(ACT_PROMOTED)->ok);
	gave_way(3);
	tell((struct core_event){ .type = EV_DRAINED });
	ck_assert_int_eq(C.role, CORE_STANDBY);
}
END_TEST

START_TEST(a_reign_that_is_being_recorded_ends_without_a_trace)
{
	promoted_beside_node_3();
	tell((struct core_event){ .type = EV_DRAINED });
	ck_assert_int_eq(C.role, CORE_REIGN);
	ck_assert_uint_eq(C.rec.nlineage, 2);
	outdate_from(3);
	ck_assert(did(ACT_NOT_TAKEN) && did(ACT_PROMOTED) && !did(ACT_PROMOTED)->ok);
	ck_assert_uint_eq(C.rec.nlineage, 1);
	ck_assert(!C.rec.primary && !C.rec.was_primary);
	tell((struct core_event){ .type = EV_RECORDED, .ok = true });	/* the reign's, too late */
	ck_assert(!did(ACT_BECOME_PRIMARY));
	gave_way(3);
}
END_TEST

static void reign(void)
{
	promoted_beside_node_3();
	tell((struct core_event){ .type = EV_DRAINED });
	tell((struct core_event){ .type = EV_RECORDED, .ok = true });
	ck_assert_int_eq(C.role, CORE_PRIMARY);
	ck_assert(C.peer[3].drop == DROP_ASKED && C.peer[1].drop == DROP_ASKED);
}

START_TEST(of_two_new_reigns_the_lower_number_stays)
{
	reign();
	outdate_from(3);
	ck_assert_int_eq(C.role, CORE_PRIMARY);
	outdate_from(1);
	ck_assert(did(ACT_BECOME_STANDBY));
	gave_way(1);
}
END_TEST

START_TEST(a_stopped_primarys_last_words_end_no_promotion)
{
	standby();
	become_level();
	tell((struct core_event){ .type = EV_PROMOTE, .fenced = true });
	outdate_from(1);
	ck_assert_int_eq(C.role, CORE_DRAINING);
	tell((struct core_event){ .type = EV_DRAINED });
	outdate_from(1);
	ck_assert_int_eq(C.role, CORE_REIGN);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("core_sim");
	TCase *t = tcase_create("worlds");
	tcase_set_timeout(t, 300);
	tcase_add_test(t, lineages);
	tcase_add_test(t, a_promotion_whose_drain_fails_is_refused);
	tcase_add_test(t, level_is_an_answer_to_the_stream_that_it_was_said_of);
	tcase_add_test(t, nothing_is_levelled_followed_or_promoted_once_a_stop_has_begun);
	tcase_add_test(t, a_promotion_ends_when_another_node_reigns_already);
	tcase_add_test(t, a_reign_that_is_being_recorded_ends_without_a_trace);
	tcase_add_test(t, of_two_new_reigns_the_lower_number_stays);
	tcase_add_test(t, a_stopped_primarys_last_words_end_no_promotion);
	tcase_add_test(t, random_worlds);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int bad = srunner_ntests_failed(r);
	srunner_free(r);
	return bad != 0;
}
