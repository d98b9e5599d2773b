/*
 * Requests that wait, and telling their clients. The lock table and the RPC client call back from threads that must not block: they change a block's state and
 * wake the thread, which calls clients, undoes grants, and carries out calls that were parked.
 *
 *	QUEUING -> WAITING -> GRANTED (fresh -> called -> due -> fresh ...) -> GONE
 *	                         '--> UNDOING -> GONE
 */
#include "nfsd-glue/nlm4_int.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "nfsd-glue/clients.h"

/* ---- the table; all under mu ---- */

static struct block **bucket_of(struct nlm4 *n, uint64_t key, uint64_t id) { return &n->bucket[(key ^ id ^ id >> 32) % BLOCK_BUCKETS]; }

static void list_add(struct block **list, struct block *b)
{
	b->due_next = *list;
	b->due_prev = list;
	if (*list)
		(*list)->due_prev = &b->due_next;
	*list = b;
}

static void list_remove(struct block *b)
{
	if (!b->due_prev)
		return;
	*b->due_prev = b->due_next;
	if (b->due_next)
		b->due_next->due_prev = b->due_prev;
	b->due_prev = NULL;
}

static void unref(struct block *b)
{
	if (--b->refs)
		return;
	b->n->nblocks--;
	b->host->blocks--;
	lockstate_host_put(b->n->cfg.state, b->host);
	lock_who_put(b->o.who);
	free(b);
}

static void add(struct nlm4 *n, struct block *b)
{
	struct block **at = bucket_of(n, b->o.key, b->id);

	b->next = *at;
	b->prev = at;
	if (*at)
		(*at)->prev = &b->next;
	*at = b;
	b->refs++;
	n->stats.blocks++;
}

static void leave_table(struct block *b)
{
	*b->prev = b->next;
	if (b->next)
		b->next->prev = b->prev;
	unref(b);
}

/* Settled. While the client is being called it can still be found. */
static void retire(struct block *b)
{
	list_remove(b);
	b->state = BLOCK_GONE;
	b->n->stats.blocks--;
	if (!b->calling)
		leave_table(b);
}

static void undo_later(struct nlm4 *n, struct block *b)
{
	list_remove(b);
	b->state = BLOCK_UNDOING;
	list_add(&n->undo, b);
	pthread_cond_signal(&n->work);
}

static bool same_range(const struct lock_range *a, const struct lock_range *b) { return a->start == b->start && a->end == b->end && a->mode == b->mode; }

/* The block of Q's owner for Q's file and range. */
static struct block *find(const struct nlm4_request *q)
{
	struct block *b = *bucket_of(q->n, q->o.key, q->id);

	while (b && (b->state == BLOCK_GONE || b->o.key != q->o.key || b->id != q->id || !same_range(&b->r, &q->r)))
		b = b->next;
	return b;
}

/* Is Q's owner still being called about something of the file that is settled? */
static bool called_in_vain(const struct nlm4_request *q)
{
	const struct block *b = *bucket_of(q->n, q->o.key, q->id);

	while (b && (b->state != BLOCK_GONE || b->o.key != q->o.key || b->id != q->id))
		b = b->next;
	return b;
}

/* ---- undoing ---- */

/* No lock is held. */
static void undo(struct block *b)
{
	struct nlm4 *n = b->n;
	struct lock_range shared = b->r;
	int err = 0;

	shared.mode = LOCK_SHARED;
	if (lockstate_host_life(n->cfg.state, b->host) != b->life)
		return;			/* freed with all that its former life held */
	if (!b->had)
		err = lock_clear(n->cfg.locks, b->id, b->o, &b->r);
	else if (!(b->had & 1u << LOCK_EXCLUSIVE) && b->r.mode == LOCK_EXCLUSIVE)
		err = lock_set(n->cfg.locks, b->id, b->o, &shared);
	if (err)
		log_warn("nlm: host %s: a lock that it doesn't want any more can't be freed: %s", b->host->name, strerror(-err));
}

/* Under mu, which is dropped meanwhile. */
static void undo_now(struct nlm4 *n, struct block *b)
{
	list_remove(b);
	b->state = BLOCK_UNDOING;
	b->undo_runs = true;
	b->refs++;
	pthread_mutex_unlock(&n->mu);
	undo(b);
	pthread_mutex_lock(&n->mu);
	if (b->state != BLOCK_GONE)
		retire(b);
	unref(b);
	pthread_cond_broadcast(&n->undone);
}

/* Or one that was cancelled while its grant was on its way. */
static struct block *find_undoing(const struct nlm4_request *q)
{
	struct block *b = *bucket_of(q->n, q->o.key, q->id);

	while (b && (b->state == BLOCK_GONE || b->o.key != q->o.key || b->id != q->id || (b->state != BLOCK_UNDOING && !b->cancelled)))
		b = b->next;
	return b;
}

void block_settle(struct nlm4_request *q, bool overlap)
{
	struct nlm4 *n = q->n;
	struct block *b, *next;

	auto_lock(&n->mu);
	while ((b = find_undoing(q))) {
		if (b->undo_runs || b->state != BLOCK_UNDOING)
			pthread_cond_wait(&n->undone, &n->mu);
		else
			undo_now(n, b);
	}
	for (b = *bucket_of(n, q->o.key, q->id); b; b = next) {
		next = b->next;
		if (b->o.key != q->o.key || b->id != q->id || b->state != BLOCK_GRANTED)
			continue;
		if (overlap ? b->r.start <= q->r.end && q->r.start <= b->r.end : same_range(&b->r, &q->r))
			retire(b);
	}
}

/* ---- waiting ---- */

static void fresh(struct nlm4 *n, struct block *b)
{
	list_remove(b);
	list_add(&n->fresh, b);
	pthread_cond_signal(&n->work);
}

/* The lock table's callback. */
static void granted(void *arg, int err)
{
	struct block *b = arg;
	struct nlm4 *n = b->n;

	auto_lock(&n->mu);
	if (b->state == BLOCK_QUEUING || b->state == BLOCK_WAITING) {
		if (err) {
			retire(b);
		} else if (b->cancelled) {
			undo_later(n, b);
		} else if (b->told) {
			retire(b);
		} else {
			b->state = BLOCK_GRANTED;
			fresh(n, b);
		}
		pthread_cond_broadcast(&n->undone);
	}
	unref(b);
}

static struct block *make(struct nlm4_request *q)
{
	struct nlm4 *n = q->n;
	unsigned char args[NLM4_GRANTED_MAX], cookie[COOKIE_LEN];
	struct xdr_out x = xdr_out(args, sizeof args);
	uint64_t number;
	struct block *b;

	pthread_mutex_lock(&n->mu);
	bool room = n->nblocks < NLM4_BLOCKS_MAX && q->host->blocks < NLM4_BLOCKS_EACH;
	if (room) {
		n->nblocks++;
		q->host->blocks++;
	}
	number = ++n->next_number;
	pthread_mutex_unlock(&n->mu);
	memcpy(cookie, &number, sizeof cookie);
	nlm4_granted_encode(&x, (struct nlm4_bytes){ cookie, sizeof cookie }, &q->a);
	b = room && !x.full ? malloc(sizeof *b + x.len) : NULL;
	if (!b) {
		auto_lock(&n->mu);
		n->nblocks -= room;
		q->host->blocks -= room;
		return NULL;
	}
	*b = (struct block){ .n = n, .number = number, .id = q->id, .o = q->o, .host = q->host, .r = q->r, .peer = *q->c->peer, .local = *q->c->local,
			     .args_len = x.len };
	memcpy(b->args, args, x.len);
	atomic_fetch_add(&b->o.who->refs, 1);
	lockstate_host_ref(n->cfg.state, b->host);
	b->life = lockstate_host_life(n->cfg.state, b->host);
	b->had = lock_holds(n->cfg.locks, b->id, b->o, &b->r);
	return b;
}

/* Under mu. Is there one that waits already? It keeps its place, and hears at the address that its client has now. */
static bool waits_already(struct nlm4_request *q)
{
	struct block *b = find(q);

	if (!b || b->cancelled || b->told || (b->state != BLOCK_QUEUING && b->state != BLOCK_WAITING))
		return false;
	b->peer = *q->c->peer;
	b->local = *q->c->local;
	return true;
}

/* Puts B, which is new, into the table, unless there is its like: then it is freed. */
static bool enter(struct nlm4_request *q, struct block *b)
{
	auto_lock(&q->n->mu);
	bool there = waits_already(q);

	b->refs = there ? 1 : 2;	/* ours, and the lock table's */
	if (there)
		unref(b);
	else
		add(q->n, b);
	return !there;
}

/* B was queued: it may have been granted, cancelled or forgotten meanwhile. A status. */
static enum nlm4_stat queued(struct nlm4 *n, struct block *b)
{
	uint64_t ticket = b->ticket;

	pthread_mutex_lock(&n->mu);
	enum block_state s = b->state;
	bool unwanted = b->cancelled || b->told;
	if (s == BLOCK_QUEUING)
		b->state = BLOCK_WAITING;
	else if (s == BLOCK_GRANTED)
		retire(b);		/* this answer tells it */
	else if (s != BLOCK_GONE)
		s = BLOCK_WAITING;
	pthread_mutex_unlock(&n->mu);
	if (s == BLOCK_QUEUING && unwanted && !lock_cancel(n->cfg.locks, ticket))
		granted(b, -ECANCELED);
	return s == BLOCK_GRANTED ? NLM4_GRANTED : s == BLOCK_GONE ? NLM4_DENIED_GRACE_PERIOD : NLM4_BLOCKED;
}

/* A client that waits again would take a late GRANTED for its new request. False: there is one on its way, and it takes long. */
static bool line_is_free(struct nlm4_request *q)
{
	const struct timespec until = clock_mono_after_ms(NLM4_LINE_MS);
	int late = 0;

	while (called_in_vain(q) && !late)
		late = pthread_cond_timedwait(&q->n->undone, &q->n->mu, &until);
	return !called_in_vain(q);
}

bool block_waits(struct nlm4_request *q)
{
	auto_lock(&q->n->mu);
	return waits_already(q);
}

enum nlm4_stat block_lock(struct nlm4_request *q)
{
	struct nlm4 *n = q->n;
	struct block *b;

	pthread_mutex_lock(&n->mu);
	bool free_line = line_is_free(q);
	pthread_mutex_unlock(&n->mu);
	if (!free_line)
		return NLM4_BLOCKED;	/* it isn't queued: it will ask again */
	if (!(b = make(q)))
		return NLM4_DENIED_NOLOCKS;
	if (!enter(q, b))
		return NLM4_BLOCKED;
	int r = lock_set_wait(n->cfg.locks, b->id, b->o, &b->r, granted, b, &b->ticket);
	enum nlm4_stat st = r == -EINPROGRESS ? queued(n, b) : nlm4_stat_of(r);
	auto_lock(&n->mu);
	if (r != -EINPROGRESS) {
		retire(b);
		unref(b);		/* the table didn't take it */
	} else if (st == NLM4_BLOCKED) {
		n->stats.blocked++;
	}
	unref(b);
	return st;
}

/* Under mu, which is dropped meanwhile: takes B, WAITING, out of the lock table. False: its grant is on its way, or has come. The caller has a reference. */
static bool take_back(struct nlm4 *n, struct block *b)
{
	pthread_mutex_unlock(&n->mu);
	bool out = !lock_cancel(n->cfg.locks, b->ticket);
	pthread_mutex_lock(&n->mu);
	if (out) {
		if (b->state != BLOCK_GONE)
			retire(b);
		unref(b);		/* the lock table's */
	}
	return out;
}

/* Under mu, which may be dropped meanwhile. */
static void cancel_waiting(struct nlm4 *n, struct block *b)
{
	b->refs++;
	if (!take_back(n, b)) {
		if (b->state == BLOCK_GRANTED)
			undo_now(n, b);
		else
			b->cancelled = true;
	}
	unref(b);
}

/* Its client has refused the call. What isn't being undone yet stays; for the end of what is, this waits: then the lock is gone. */
static bool keep_undoing(struct nlm4 *n, struct block *b)
{
	if (!b->undo_runs) {
		retire(b);
		return true;
	}
	pthread_cond_wait(&n->undone, &n->mu);
	return false;
}

bool block_told(struct nlm4_request *q)
{
	struct nlm4 *n = q->n;

	auto_lock(&n->mu);
	struct block *b = find(q);
	if (!b)
		return true;
	bool kept = true;
	b->refs++;
	if (b->state == BLOCK_WAITING && take_back(n, b)) {
		unref(b);
		return true;
	}
	if (b->state == BLOCK_GRANTED)
		retire(b);
	else if (b->state == BLOCK_UNDOING)
		kept = keep_undoing(n, b);
	else if (b->state != BLOCK_GONE)
		b->told = true;
	unref(b);
	return kept;
}

/* See nlm4_int.h. */
static bool unlock_untold(struct nlm4_request *q)
{
	struct nlm4 *n = q->n;

	pthread_mutex_lock(&n->mu);
	bool recent = n->promoted_ms && clock_mono_ms() < n->promoted_ms + NLM4_AFTER_MS;
	pthread_mutex_unlock(&n->mu);
	if (!recent || !lock_covers(n->cfg.locks, q->id, q->o, &q->r))
		return false;
	return !lock_clear(n->cfg.locks, q->id, q->o, &q->r);
}

bool block_cancel(struct nlm4_request *q)
{
	struct nlm4 *n = q->n;

	pthread_mutex_lock(&n->mu);
	struct block *b = find(q);
	if (b && b->state == BLOCK_QUEUING)
		b->cancelled = true;
	else if (b && b->state == BLOCK_WAITING)
		cancel_waiting(n, b);
	else if (b && b->state == BLOCK_GRANTED)
		undo_now(n, b);
	pthread_mutex_unlock(&n->mu);
	return b || unlock_untold(q);
}

void block_forget_all(struct nlm4 *n)
{
	lock_cancel_front(n->cfg.locks, ORIGIN_NFS, -EROFS);
	auto_lock(&n->mu);
	for (unsigned i = 0; i < BLOCK_BUCKETS; i++)
		for (struct block *b = n->bucket[i], *next; b; b = next) {
			next = b->next;
			if (b->state == BLOCK_GRANTED || (b->state == BLOCK_UNDOING && !b->undo_runs))
				retire(b);
		}
}

/* ---- telling ---- */

static void call_again(struct nlm4 *n, struct block *b)
{
	unsigned ms = n->cfg.call_ms ? n->cfg.call_ms : NLM4_CALL_MS, shift = b->calls < 8 ? b->calls : 8;
	uint64_t wait = (uint64_t)ms << (shift ? shift - 1 : 0);

	n->stats.callbacks_failed++;
	if (b->calls >= NLM4_CALLS_MAX) {
		log_warn("nlm: host %s can't be told of a lock that it waited for: it has it when it asks again", b->host->name);
		retire(b);
		return;
	}
	list_remove(b);
	b->call_at_ms = clock_mono_ms() + (wait < NLM4_CALL_MAX_MS ? wait : NLM4_CALL_MAX_MS);
	list_add(&n->due, b);
	if (b->call_at_ms < n->next_due_ms) {
		n->next_due_ms = b->call_at_ms;
		pthread_cond_signal(&n->work);
	}
}

/* The client has said STAT to a call. */
static void settle_by(struct nlm4 *n, struct block *b, uint32_t stat)
{
	if (stat == NLM4_DENIED_GRACE_PERIOD)
		call_again(n, b);
	else if (stat == NLM4_GRANTED || b->unsure)
		retire(b);
	else
		undo_later(n, b);
}

/* Where nothing was listening, nothing was heard. */
static bool not_heard(int err) { return err == -ECONNREFUSED || err == -ENOENT || err == -EHOSTUNREACH || err == -ENETUNREACH || err == -EAGAIN; }

/* The RPC client's callback. */
static void answered(void *arg, int err, const unsigned char *results, size_t len)
{
	struct block *b = arg;
	struct nlm4 *n = b->n;
	struct nlm4_bytes cookie;
	uint32_t stat;

	if (!err && nlm4_res_decode(NLM4_GRANTED_RES, results, len, &cookie, &stat))
		err = -EBADMSG;
	auto_lock(&n->mu);
	b->calling = false;
	if (b->state == BLOCK_GONE) {
		leave_table(b);
		pthread_cond_broadcast(&n->undone);
	} else if (b->state == BLOCK_GRANTED) {
		if (!err) {
			settle_by(n, b, stat);
		} else {
			b->unsure |= !not_heard(err);
			call_again(n, b);
		}
	}
	unref(b);
}

/* Under mu, which is dropped meanwhile. */
static void call(struct nlm4 *n, struct block *b)
{
	struct rpc_client_call c = { .to = b->peer, .from = b->local, .prog = NLM4_PROGRAM, .vers = NLM4_VERSION, .proc = NLM4_GRANTED_CALL, .args = b->args,
				     .args_len = b->args_len, .timeout_ms = n->cfg.call_ms, .done = answered, .arg = b };
	struct client_addr to;

	client_addr_from(&to, &b->peer);
	to.port = n->cfg.client_port;
	client_addr_to(&to, &c.to);
	list_remove(b);
	b->calling = true;
	b->calls++;
	b->refs++;
	n->stats.callbacks++;
	pthread_mutex_unlock(&n->mu);
	int err = rpc_client_call(n->cfg.client, &c);
	if (err)
		answered(b, -EAGAIN, NULL, 0);
	pthread_mutex_lock(&n->mu);
}

void block_answered(struct nlm4 *n, struct nlm4_bytes cookie, const struct sockaddr_storage *peer, uint32_t stat)
{
	unsigned char addr[16];
	uint64_t number;

	if (cookie.len != sizeof number)
		return;
	memcpy(&number, cookie.p, sizeof number);
	replay_addr(addr, peer);
	auto_lock(&n->mu);
	for (unsigned i = 0; i < BLOCK_BUCKETS; i++)
		for (struct block *b = n->bucket[i]; b; b = b->next)
			if (b->number == number && b->state == BLOCK_GRANTED && !memcmp(b->host->addr, addr, sizeof addr)) {
				list_remove(b);
				settle_by(n, b, stat);
				return;
			}
}

/* ---- the thread ---- */

static void due_to_fresh(struct nlm4 *n, uint64_t now)
{
	n->next_due_ms = UINT64_MAX;
	for (struct block *b = n->due, *next; b; b = next) {
		next = b->due_next;
		if (b->call_at_ms <= now) {
			list_remove(b);
			list_add(&n->fresh, b);
		} else if (b->call_at_ms < n->next_due_ms) {
			n->next_due_ms = b->call_at_ms;
		}
	}
}

static struct parked *take_parked(struct nlm4 *n)
{
	struct parked *p = n->parked;

	n->parked = p->next;
	if (!n->parked)
		n->parked_end = &n->parked;
	n->nparked--;
	return p;
}

static void wait_for_work(struct nlm4 *n, uint64_t now)
{
	uint64_t until = n->next_due_ms;

	if (n->parked && n->parked->until_ms < until)
		until = n->parked->until_ms;
	if (until == UINT64_MAX) {
		pthread_cond_wait(&n->work, &n->mu);
	} else {
		struct timespec t = clock_mono_after_ms(until > now ? until - now : 0);
		pthread_cond_timedwait(&n->work, &n->mu, &t);
	}
}

void *nlm4_thread(void *arg)
{
	struct nlm4 *n = arg;

	auto_lock(&n->mu);
	while (!n->stop) {
		uint64_t now = clock_mono_ms();

		if (n->fresh) {
			call(n, n->fresh);
		} else if (n->undo) {
			undo_now(n, n->undo);
		} else if (nlm4_parked_due(n, now)) {
			struct parked *p = take_parked(n);
			pthread_mutex_unlock(&n->mu);
			nlm4_resume(n, p);
			pthread_mutex_lock(&n->mu);
		} else if (now >= n->next_due_ms) {
			due_to_fresh(n, now);
		} else {
			wait_for_work(n, now);
		}
	}
	return NULL;
}
