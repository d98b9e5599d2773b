/*
 * The state of the room above (the NFS server's: node_above) from one node to another, outside any stream.
 *
 * A standby has it from the stream and from a comparison. A daemon that was restarted and is to be primary again without following anybody has nothing; its
 * standbys, which were level when it died, have it all. So a promotion, after draining and before the epoch is decided, asks those of them who are level still, one
 * after the other, until the state is complete: STATE_ASK, answered with STATE messages. The worker waits for them, each within peer_timeout (at least
 * WAIT_MIN_MS); when none answers the promotion goes on, and the room above knows that its state is not complete.
 *
 * The asked node's worker answers, from what it holds: nothing is being applied there, for nobody is primary.
 *
 * take_mu guards node.take: a leaf, held for a few instructions; the link's thread puts messages into the list, the worker takes them out. What a peer sends unasked is
 * ignored; what waits is bounded by TAKE_WAITING_MAX, the whole by TAKE_MAX_MS.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "mirror/node_int.h"

enum { WAIT_MIN_MS = 1000, TAKE_MAX_MS = 30000, TAKE_WAITING_MAX = 64 << 20, TAKE_CHECK_MS = 50 };

struct part { struct part *next; size_t len; unsigned char data[]; };

/* ---- taking ---- */

/* Does PEER hold the state that belongs to our data? */
static bool is_source(struct node *n, unsigned peer)
{
	const struct core_peer *p = &n->core.peer[peer];
	auto_lock(&n->core_mu);
	const struct hello *h = &p->hello;

	return p->connected && (h->features & FEATURE_STATE) && (h->flags & NODE_LEVEL) && !(h->flags & NODE_PRIMARY) &&
	       lineage_compare(n->core.rec.lineage, n->core.rec.nlineage, h->lineage, h->nlineage) == LINEAGE_SAME;
}

void take_heard(struct node *n, unsigned peer, const struct state_msg *m)
{
	struct part *p = malloc(sizeof *p + m->len);
	auto_lock(&n->take_mu);
	struct take *t = &n->take;

	if (!t->id || t->peer != peer || t->id != m->id || t->ended) {
		free(p);
		return;
	}
	if (!p || t->bytes + m->len > TAKE_WAITING_MAX) {
		free(p);
		t->ended = true;
		return;
	}
	p->next = NULL;
	p->len = m->len;
	if (m->len)
		memcpy(p->data, m->data, m->len);
	*t->last = p;
	t->last = &p->next;
	t->bytes += m->len;
	pthread_cond_signal(&n->take_cond);
}

/* The next message, owned by the caller; NULL: none will come. */
static struct part *take_next(struct node *n, unsigned peer)
{
	unsigned wait_ms = n->cfg.core.peer_timeout_ms > WAIT_MIN_MS ? n->cfg.core.peer_timeout_ms : WAIT_MIN_MS;
	uint64_t end = clock_mono_ms() + wait_ms;
	auto_lock(&n->take_mu);
	struct take *t = &n->take;

	while (!t->first && !t->ended && clock_mono_ms() < end && !atomic_load(&n->stopping) && link_is_up(n->links, peer)) {
		struct timespec until = clock_mono_after_ms(TAKE_CHECK_MS);
		pthread_cond_timedwait(&n->take_cond, &n->take_mu, &until);
	}
	struct part *p = t->first;
	if (!p)
		return NULL;
	t->first = p->next;
	if (!t->first)
		t->last = &t->first;
	t->bytes -= p->len;
	return p;
}

static uint64_t take_begin(struct node *n, unsigned peer)
{
	auto_lock(&n->take_mu);
	n->take = (struct take){ .peer = peer, .id = state_random(), .last = &n->take.first };
	return n->take.id;
}

static void take_end(struct node *n)
{
	auto_lock(&n->take_mu);
	for (struct part *p = n->take.first, *next; p; p = next) {
		next = p->next;
		free(p);
	}
	n->take = (struct take){ .last = &n->take.first };
}

/* 0: all of it is here. */
static int take_from(struct node *n, unsigned peer)
{
	struct msg m = { .kind = FRAME_STATE_ASK, .id = take_begin(n, peer) };
	uint64_t end = clock_mono_ms() + TAKE_MAX_MS;
	int err = link_send(n->links, peer, &m);

	while (!err && !n->cfg.above.complete(n->cfg.above.arg)) {
		auto_free struct part *p = take_next(n, peer);
		if (!p || clock_mono_ms() > end)
			err = -ETIMEDOUT;
		else if (!p->len)
			err = -ENODATA;
		else
			err = n->cfg.above.take(n->cfg.above.arg, p->data, p->len);
	}
	take_end(n);
	return err;
}

void take_state(struct node *n)
{
	bool asked = false;

	if (!n->cfg.above.take || n->cfg.above.complete(n->cfg.above.arg))
		return;
	for (unsigned p = 1; p <= NODE_MAX; p++) {
		if (p == n->cfg.core.node || !n->cfg.peers[p].name || !is_source(n, p))
			continue;
		int err = take_from(n, p);
		if (!err) {
			log_info("node: the state of NFS clients was taken from %s", n->cfg.peers[p].name);
			return;
		}
		asked = true;
		log_warn("node: the state of NFS clients can't be taken from %s: %s", n->cfg.peers[p].name, strerror(-err));
	}
	if (asked)
		log_warn("node: NFS clients' locks and the answers that they wait for may be lost");
}

/* ---- giving ---- */

void give_asked(struct node *n, unsigned peer, uint64_t id)
{
	auto_lock(&n->job_mu);
	n->give[peer] = id;
	n->give_due = true;
	pthread_cond_signal(&n->job_cond);
}

struct giving { struct node *n; unsigned peer; uint64_t id; };

static int give_part(void *arg, const void *data, size_t len)
{
	const struct giving *g = arg;
	struct msg m = { .kind = FRAME_STATE, .state = { .id = g->id, .data = data, .len = len } };

	return len > STATE_PART_MAX ? -E2BIG : link_send_wait(g->n->links, g->peer, &m);
}

/* Is what we hold what a primary ought to have? */
static bool may_give(struct node *n)
{
	auto_lock(&n->core_mu);
	return n->core.role == CORE_STANDBY && n->core.level && !n->core.rec.inconsistent;
}

static void give_state(struct giving *g)
{
	const struct node_above *a = &g->n->cfg.above;
	int err = 0;

	if (a->give && a->complete(a->arg) && may_give(g->n))
		err = a->give(a->arg, give_part, g);
	else
		err = give_part(g, NULL, 0);
	if (err)
		log_warn("node: the state of NFS clients could not be sent to node %u: %s", g->peer, strerror(-err));
}

void give_due(struct node *n)
{
	struct giving all[NODE_MAX + 1];
	unsigned k = 0;

	pthread_mutex_lock(&n->job_mu);
	n->give_due = false;
	for (unsigned p = 1; p <= NODE_MAX; p++) {
		if (n->give[p])
			all[k++] = (struct giving){ n, p, n->give[p] };
		n->give[p] = 0;
	}
	pthread_mutex_unlock(&n->job_mu);
	for (unsigned i = 0; i < k; i++)
		give_state(&all[i]);
}
