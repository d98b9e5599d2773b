/*
 * Hosts hang in a hash by address (several may have one), owners in a hash by their identity. `mu` guards both, and is held while a host's record is emitted,
 * so that hosts' records have the order of their changes. An identity is immutable; the last reference to it drops under mu, so that finding and dropping
 * can't cross.
 *
 * A host that started anew: `anew_mu` is held while its old locks are dropped, and its new number is stored afterwards. A request of its new life compares the number first,
 * waits for that, and so can't lose a lock that it has just got.
 *
 * Whoever emits a host's record has called interpose_attach_begin before mu (it may wait), and waits for the peers after mu.
 */
#include "nfsd-glue/lockstate.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "fs/base/cleanup.h"
#include "fs/base/log.h"
#include "fs/layer.h"

enum { HOST_BUCKETS = 1024, OWNER_BUCKETS = 1 << 16, EACH_MAX = 256, ERRNO_TAKEN_AWAY = -EINTR };

struct lockstate {
	struct lockstate_config cfg;
	struct shares *shares;		/* owned */
	pthread_mutex_t anew_mu;	/* one host's old life is dropped at a time; before the tables' mutexes */
	pthread_mutex_t mu;		/* guards all below; a leaf but for the queue */
	uint64_t next_key;
	uint32_t nhosts, nowners;
	size_t owners_bytes;
	struct lock_host *host[HOST_BUCKETS];		/* owned, */
	struct lock_ident *owner[OWNER_BUCKETS];	/* counted */
	_Atomic uint64_t applied, malformed;
};

/* ---- owners ---- */

static struct lock_ident **owner_bucket(struct lockstate *s, const struct lock_host *h, uint32_t svid, const void *oh, size_t len)
{
	uint64_t seed = (uint64_t)(uintptr_t)h ^ (uint64_t)svid << 32;

	return &s->owner[XXH3_64bits_withSeed(oh, len, seed) % OWNER_BUCKETS];
}

static void host_unref(struct lock_host *h) { h->refs--; }

static uint32_t ident_size(size_t oh_len) { return (uint32_t)(sizeof(struct lock_ident) + oh_len); }

/* lock_who.put */
static void ident_put(struct lock_who *w)
{
	struct lock_ident *i = (struct lock_ident *)(void *)w, **p;
	struct lockstate *s = i->of;

	auto_lock(&s->mu);
	if (atomic_fetch_sub(&w->refs, 1) > 1)
		return;
	for (p = owner_bucket(s, i->host, i->svid, i->oh, i->oh_len); *p != i; p = &(*p)->next)
		;
	*p = i->next;
	i->host->owners--;
	i->host->owners_bytes -= ident_size(i->oh_len);
	s->owners_bytes -= ident_size(i->oh_len);
	host_unref(i->host);
	s->nowners--;
	free(i);
}

static struct lock_ident *ident_find(struct lockstate *s, const struct lock_host *h, uint32_t svid, const void *oh, size_t len)
{
	struct lock_ident *i = *owner_bucket(s, h, svid, oh, len);

	while (i && (i->host != h || i->svid != svid || i->oh_len != len || (len && memcmp(i->oh, oh, len))))
		i = i->next;
	return i;
}

static struct lock_ident *ident_make(struct lockstate *s, struct lock_host *h, uint32_t svid, const void *oh, size_t len)
{
	struct lock_ident **b = owner_bucket(s, h, svid, oh, len), *i;

	uint32_t size = ident_size(len);

	if (h->owners >= LOCK_HOST_OWNERS_MAX || h->owners_bytes + size > LOCK_HOST_OWNERS_BYTES || s->owners_bytes + size > LOCK_OWNERS_BYTES)
		return NULL;
	if (!(i = malloc(size)))
		return NULL;
	*i = (struct lock_ident){ .who.put = ident_put, .of = s, .key = ++s->next_key, .host = h, .svid = svid, .oh_len = (uint32_t)len, .next = *b };
	if (len)
		memcpy(i->oh, oh, len);
	*b = i;
	h->owners++;
	h->owners_bytes += size;
	s->owners_bytes += size;
	h->refs++;
	s->nowners++;
	return i;
}

/* Under mu. */
static int owner_of(struct lockstate *s, struct lock_host *h, uint32_t svid, const void *oh, size_t len, bool create, struct lock_owner *out)
{
	struct lock_ident *i = ident_find(s, h, svid, oh, len);

	if (!i && !create)
		return -ENOENT;
	if (!i && !(i = ident_make(s, h, svid, oh, len)))
		return -ENOLCK;
	atomic_fetch_add(&i->who.refs, 1);
	*out = (struct lock_owner){ .front = ORIGIN_NFS, .node = LOCK_NODE_VOLUME, .key = i->key, .who = &i->who };
	return 0;
}

int lockstate_owner(struct lockstate *s, struct lock_host *h, uint32_t svid, const void *oh, size_t oh_len, bool create, struct lock_owner *out)
{
	auto_lock(&s->mu);
	return owner_of(s, h, svid, oh, oh_len, create, out);
}

/* ---- records ---- */

static void record_host(struct lockrec *r, const struct lock_host *h)
{
	r->kind = LOCKREC_HOST;
	memcpy(r->addr, h->addr, sizeof r->addr);
	memcpy(r->local, h->local, sizeof r->local);
	memcpy(r->name, h->name, sizeof r->name);
	r->state = h->state;
}

static void record_ident(struct lockrec *r, const struct lock_who *w)
{
	const struct lock_ident *i = (const struct lock_ident *)(const void *)w;

	r->svid = i->svid;
	r->oh = i->oh;
	r->oh_len = (uint16_t)i->oh_len;
	memcpy(r->addr, i->host->addr, sizeof r->addr);
	memcpy(r->name, i->host->name, sizeof r->name);
}

static void record_lock(const struct lockstate *s, struct lockrec *r, const struct lock_change *c)
{
	r->kind = LOCKREC_LOCK;
	r->set = c->set;
	r->node = c->o.node ? c->o.node : s->cfg.node;
	r->r = c->r;
	r->id = c->id;
	r->key = c->o.key;
	if (c->o.node == LOCK_NODE_VOLUME)
		record_ident(r, c->o.who);
}

static void record_share(struct lockrec *r, const struct share *sh, bool set)
{
	r->kind = LOCKREC_SHARE;
	r->set = set;
	r->access = sh->access;
	r->deny = sh->deny;
	r->id = sh->id;
	record_ident(r, sh->who);
}

/* Between interpose_attach_begin and _end. */
static int emit(struct lockstate *s, const struct lockrec *r, uint64_t *seq)
{
	struct enc e = { 0 };

	if (!s->cfg.ip)
		return 0;
	lockrec_encode(&e, r);
	int err = e.err ? e.err : interpose_attach_emit(s->cfg.ip, REPLICA_LOCK, e.p, (uint32_t)e.len, 0xffff, seq);
	enc_free(&e);
	return err;
}

static int begin(void *arg)
{
	struct lockstate *s = arg;

	return s->cfg.ip ? interpose_attach_begin(s->cfg.ip, LOCKREC_MAX) : 0;
}

static int end(void *arg, uint64_t seq, bool volume)
{
	struct lockstate *s = arg;

	if (!s->cfg.ip)
		return 0;
	interpose_attach_end(s->cfg.ip);
	return volume && seq ? interpose_attach_wait(s->cfg.ip, seq) : 0;
}

static int record(void *arg, const struct lock_change *c, uint64_t *seq)
{
	struct lockrec r = { 0 };

	record_lock(arg, &r, c);
	return emit(arg, &r, seq);
}

static int share_record(void *arg, const struct share *sh, bool set, uint64_t *seq)
{
	struct lockrec r = { 0 };

	record_share(&r, sh, set);
	return emit(arg, &r, seq);
}

int lockstate_share(struct lockstate *s, const struct share *sh, bool set)
{
	uint64_t seq = 0;
	int r = begin(s), err;

	if (r)
		return r;
	r = set ? shares_set(s->shares, sh, &seq) : shares_clear(s->shares, sh->id, sh->key, &seq);
	err = end(s, seq, true);
	return r ? r : err;
}

/* ---- hosts ---- */

static struct lock_host **host_bucket(struct lockstate *s, const unsigned char addr[16])
{
	return &s->host[XXH3_64bits(addr, 16) % HOST_BUCKETS];
}

static struct lock_host *host_find(struct lockstate *s, const char *name, const unsigned char addr[16])
{
	struct lock_host *h = *host_bucket(s, addr);

	while (h && (memcmp(h->addr, addr, 16) || strcmp(h->name, name)))
		h = h->next;
	return h;
}

static void hosts_changed(struct lockstate *s)
{
	if (s->cfg.hosts_changed)
		s->cfg.hosts_changed(s->cfg.arg);
}

static void host_remove(struct lockstate *s, struct lock_host *h)
{
	struct lock_host **p = host_bucket(s, h->addr);

	while (*p != h)
		p = &(*p)->next;
	*p = h->next;
	s->nhosts--;
	free(h);
}

/* Takes H away when it has no owners and nobody uses it. SEQ NULL: nothing is recorded. */
static bool host_gives_way(struct lockstate *s, struct lock_host *h, uint64_t *seq)
{
	struct lockrec r = { .set = false };

	if (h->refs)
		return false;
	record_host(&r, h);
	if (seq && emit(s, &r, seq))
		return false;
	host_remove(s, h);
	return true;
}

/* Makes room for one more name of ADDR's. */
static bool address_room(struct lockstate *s, const unsigned char addr[16], uint64_t *seq)
{
	struct lock_host *idle = NULL;
	unsigned n = 0;

	for (struct lock_host *h = *host_bucket(s, addr); h; h = h->next)
		if (!memcmp(h->addr, addr, 16)) {
			n++;
			idle = h->refs ? idle : h;
		}
	return n < LOCK_HOSTS_EACH || (idle && host_gives_way(s, idle, seq));
}

/* Makes room for one more. */
static bool host_room(struct lockstate *s, const unsigned char addr[16], uint64_t *seq)
{
	if (!address_room(s, addr, seq))
		return false;
	if (s->nhosts < LOCK_HOSTS_MAX)
		return true;
	for (unsigned i = 0; i < HOST_BUCKETS; i++)
		for (struct lock_host *h = s->host[i]; h; h = h->next)
			if (host_gives_way(s, h, seq))
				return true;
	return false;
}

static struct lock_host *host_make(struct lockstate *s, const char *name, const unsigned char addr[16], uint64_t *seq)
{
	struct lock_host **b = host_bucket(s, addr), *h;

	if (!host_room(s, addr, seq) || !(h = calloc(1, sizeof *h)))
		return NULL;
	memcpy(h->name, name, strnlen(name, LOCK_NAME_MAX));
	memcpy(h->addr, addr, sizeof h->addr);
	h->next = *b;
	*b = h;
	s->nhosts++;
	return h;
}

/* What is known and what a request says: is H's present life the same? */
static bool same_life(const struct lock_host *h, int32_t state) { return !state || !h->state || h->state == state; }

static bool nothing_new(const struct lock_host *h, bool local, int32_t state)
{
	static const unsigned char none[16];

	return (!state || h->state == state) && (!local || memcmp(h->local, none, sizeof none));
}

/* The host as asked for, made or updated, and recorded. SAME_LIFE is known. */
static int host_update(struct lockstate *s, const char *name, const unsigned char addr[16], const unsigned char *local, int32_t state, struct lock_host **out)
{
	uint64_t seq = 0;
	int err = begin(s);

	if (err)
		return err;
	pthread_mutex_lock(&s->mu);
	struct lock_host *h = host_find(s, name, addr);
	bool made = !h;
	if (!h && !(h = host_make(s, name, addr, &seq)))
		err = -ENOLCK;
	if (!err) {
		struct lockrec r = { .set = true };

		if (local)
			memcpy(h->local, local, sizeof h->local);
		if (state)
			h->state = state;
		record_host(&r, h);
		err = emit(s, &r, &seq);
	}
	if (err && made && h)
		host_remove(s, h);
	if (!err) {
		h->refs++;
		*out = h;
		hosts_changed(s);
	}
	pthread_mutex_unlock(&s->mu);
	int e = end(s, seq, true);
	if (!err && e)
		lockstate_host_put(s, *out);
	return err ? err : e;
}

static bool is_host_owner(void *arg, const struct lock_owner *o)
{
	return o->node == LOCK_NODE_VOLUME && o->who && lock_ident_of(o)->host == arg;
}

static bool is_host_share(void *arg, const struct share *sh) { return ((const struct lock_ident *)(const void *)sh->who)->host == arg; }

static int drop_of_host(struct lockstate *s, struct lock_host *h)
{
	int err = lock_drop_matching(s->cfg.locks, is_host_owner, h, ERRNO_TAKEN_AWAY, true), e;
	uint64_t seq = 0;

	if (!err)
		err = begin(s);
	if (err)
		return err;
	err = shares_drop(s->shares, is_host_share, h, &seq);
	e = end(s, seq, true);
	return err ? err : e;
}

/* Under anew_mu. What H held in its old life is dropped; then STATE is its life's number. */
static int start_anew(struct lockstate *s, struct lock_host *h, int32_t state)
{
	struct lock_host *same;
	int err = drop_of_host(s, h);

	if (err || !state)
		return err;
	log_info("nlm: host %s: it has started anew: its locks are freed", h->name);
	err = host_update(s, h->name, h->addr, NULL, state, &same);
	if (!err)
		lockstate_host_put(s, same);
	return err;
}

/* The life that a request is of is not the one that is known. */
static int other_life(struct lockstate *s, struct lock_host *h, int32_t state)
{
	auto_lock(&s->anew_mu);
	pthread_mutex_lock(&s->mu);
	bool done = same_life(h, state);
	pthread_mutex_unlock(&s->mu);
	return done ? 0 : start_anew(s, h, state);
}

int lockstate_host(struct lockstate *s, const char *name, const struct sockaddr_storage *peer, const struct sockaddr_storage *local, int32_t state,
		   struct lock_host **out)
{
	unsigned char addr[16], ours[16];
	bool known = false, same = false;
	struct lock_host *h;

	replay_addr(addr, peer);
	if (local)
		replay_addr(ours, local);
	pthread_mutex_lock(&s->mu);
	h = host_find(s, name, addr);
	if (h) {
		known = nothing_new(h, local, state);
		same = same_life(h, state);
		h->refs++;
	}
	pthread_mutex_unlock(&s->mu);
	*out = h;
	if (known)
		return 0;
	if (h && !same) {
		int err = other_life(s, h, state);
		if (err)
			lockstate_host_put(s, h);
		return err;
	}
	int err = host_update(s, name, addr, local ? ours : NULL, state, out);
	if (h)
		lockstate_host_put(s, h);	/* host_update has taken a reference of its own */
	return err;
}

int lockstate_find_host(struct lockstate *s, const char *name, const struct sockaddr_storage *peer, struct lock_host **out)
{
	unsigned char addr[16];

	replay_addr(addr, peer);
	auto_lock(&s->mu);
	*out = host_find(s, name, addr);
	if (!*out)
		return -ENOENT;
	(*out)->refs++;
	return 0;
}

int32_t lockstate_host_life(struct lockstate *s, const struct lock_host *h)
{
	auto_lock(&s->mu);
	return h->state;
}

void lockstate_host_ref(struct lockstate *s, struct lock_host *h)
{
	auto_lock(&s->mu);
	h->refs++;
}

void lockstate_host_put(struct lockstate *s, struct lock_host *h)
{
	auto_lock(&s->mu);
	host_unref(h);
}

/* Equal, or one is the other up to its first dot. */
static bool name_matches(const char *a, const char *b)
{
	size_t la = strlen(a), lb = strlen(b), n = la < lb ? la : lb;

	return !strncasecmp(a, b, n) && (la == lb || (la > lb ? a[n] : b[n]) == '.') && (la == lb || !memchr(a, '.', n));
}

enum { GONE_MAX = 64 };

/* References to the hosts that a notification is about and that aren't of the life STATE yet. */
static unsigned hosts_named(struct lockstate *s, const char *name, const unsigned char addr[16], int32_t state, struct lock_host *out[GONE_MAX], unsigned *n)
{
	unsigned all = 0;

	*n = 0;
	auto_lock(&s->mu);
	for (struct lock_host *h = *host_bucket(s, addr); h && *n < GONE_MAX; h = h->next) {
		if (memcmp(h->addr, addr, 16) || !name_matches(h->name, name))
			continue;
		all++;
		if (state && h->state == state)
			continue;
		h->refs++;
		out[(*n)++] = h;
	}
	return all;
}

bool lockstate_knows(struct lockstate *s, const char *name, const struct sockaddr_storage *peer)
{
	unsigned char addr[16];
	bool known = false;

	replay_addr(addr, peer);
	auto_lock(&s->mu);
	for (const struct lock_host *h = *host_bucket(s, addr); h && !known; h = h->next)
		known = !memcmp(h->addr, addr, 16) && name_matches(h->name, name);
	return known;
}

int lockstate_host_gone(struct lockstate *s, const char *name, const struct sockaddr_storage *peer, int32_t state)
{
	struct lock_host *h[GONE_MAX];
	unsigned char addr[16];
	unsigned n;
	int err = 0;

	replay_addr(addr, peer);
	auto_lock(&s->anew_mu);
	unsigned all = hosts_named(s, name, addr, state, h, &n);
	for (unsigned i = 0; i < n; i++) {
		if (!err)
			err = start_anew(s, h[i], state);
		lockstate_host_put(s, h[i]);
	}
	return err ? err : (int)all;
}

int lockstate_each_host(struct lockstate *s, void (*fn)(void *arg, const struct lock_host *h), void *arg)
{
	auto_free struct lock_host *all = NULL;
	uint32_t n = 0;

	pthread_mutex_lock(&s->mu);
	all = calloc(s->nhosts + 1, sizeof *all);
	for (unsigned i = 0; all && i < HOST_BUCKETS; i++)
		for (const struct lock_host *h = s->host[i]; h; h = h->next, n++) {
			memcpy(all[n].name, h->name, sizeof h->name);
			memcpy(all[n].addr, h->addr, sizeof h->addr);
			memcpy(all[n].local, h->local, sizeof h->local);
			all[n].state = h->state;
		}
	pthread_mutex_unlock(&s->mu);
	if (!all)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++)
		fn(arg, &all[i]);
	return 0;
}

/* Under mu. A host as another node, or the durable list, says it is. */
static struct lock_host *host_known(struct lockstate *s, const char *name, const unsigned char addr[16])
{
	struct lock_host *h = host_find(s, name, addr);

	return h ? h : host_make(s, name, addr, NULL);
}

int lockstate_restore_host(struct lockstate *s, const struct lock_host *from)
{
	auto_lock(&s->mu);
	struct lock_host *h = host_known(s, from->name, from->addr);
	if (!h)
		return -ENOLCK;
	memcpy(h->local, from->local, sizeof h->local);
	h->state = from->state;
	return 0;
}

/* ---- the standby ---- */

/* A reference to the owner in R. */
static int owner_in(struct lockstate *s, const struct lockrec *r, struct lock_owner *o)
{
	auto_lock(&s->mu);
	struct lock_host *h = host_known(s, r->name, r->addr);
	return h ? owner_of(s, h, r->svid, r->oh, r->oh_len, true, o) : -ENOMEM;
}

static int apply_lock(struct lockstate *s, const struct lockrec *r)
{
	struct lock_change c = { .set = r->set, .id = r->id, .r = r->r };
	int err = 0;

	if (r->node == s->cfg.node)
		return 0;		/* of programs on this node's mount in a former life of this daemon */
	if (r->node == LOCK_NODE_VOLUME)
		err = owner_in(s, r, &c.o);
	else
		c.o = (struct lock_owner){ .front = ORIGIN_FUSE, .node = r->node, .key = r->key };
	if (!err)
		err = lock_apply(s->cfg.locks, &c);
	lock_who_put(c.o.who);
	return err ? -ENOMEM : 0;
}

static int apply_share(struct lockstate *s, const struct lockrec *r)
{
	struct lock_owner o = { 0 };
	int err = owner_in(s, r, &o);

	if (!err) {
		struct share sh = { .id = r->id, .key = o.key, .who = o.who, .access = r->access, .deny = r->deny };
		err = shares_apply(s->shares, &sh, r->set);
	}
	lock_who_put(o.who);
	return err ? -ENOMEM : 0;
}

static int apply_host(struct lockstate *s, const struct lockrec *r)
{
	auto_lock(&s->mu);
	struct lock_host *h = r->set ? host_known(s, r->name, r->addr) : host_find(s, r->name, r->addr);

	if (r->set && !h)
		return -ENOMEM;
	if (r->set) {
		memcpy(h->local, r->local, sizeof h->local);
		h->state = r->state;
	} else if (h && !h->refs) {
		host_remove(s, h);
	}
	hosts_changed(s);
	return 0;
}

/* Chunks of a snapshot are emitted under the mutexes of the tables: they are records like others. */
static int part_apply(void *arg, const void *data, size_t len, bool merge)
{
	struct lockstate *s = arg;
	struct lockrec r;
	int err = lockrec_decode(data, len, &r);

	(void)merge;
	if (!err)
		err = r.kind == LOCKREC_LOCK ? apply_lock(s, &r) : r.kind == LOCKREC_SHARE ? apply_share(s, &r) : apply_host(s, &r);
	atomic_fetch_add(err ? &s->malformed : &s->applied, 1);
	return err;
}

static bool is_foreign(void *arg, const struct lock_owner *o)
{
	(void)arg;
	return o->node != 0;
}

static bool every_share(void *arg, const struct share *sh)
{
	(void)arg;
	(void)sh;
	return true;
}

/* Hosts stay: one too many is told of lost locks in vain. */
static void part_clear(void *arg)
{
	struct lockstate *s = arg;

	lock_drop_matching(s->cfg.locks, is_foreign, NULL, ERRNO_TAKEN_AWAY, false);
	shares_drop(s->shares, every_share, NULL, NULL);
}

struct listing { struct lockstate *s; struct replica_out *out; };

static int put(struct replica_out *out, const struct lockrec *r)
{
	struct enc e = { 0 };

	lockrec_encode(&e, r);
	int err = e.err ? e.err : replica_put(out, e.p, e.len);
	enc_free(&e);
	return err;
}

static int put_lock(void *arg, const struct lock_change *c)
{
	struct listing *l = arg;
	struct lockrec r = { 0 };

	if (!c)
		return replica_flush(l->out);
	if (c->o.node && c->o.node != LOCK_NODE_VOLUME)
		return 0;
	record_lock(l->s, &r, c);
	return put(l->out, &r);
}

static int put_share(void *arg, const struct share *sh)
{
	struct listing *l = arg;
	struct lockrec r = { 0 };

	if (!sh)
		return replica_flush(l->out);
	record_share(&r, sh, true);
	return put(l->out, &r);
}

static int put_hosts(struct lockstate *s, struct replica_out *out)
{
	int err = 0;

	auto_lock(&s->mu);
	for (unsigned i = 0; i < HOST_BUCKETS; i++)
		for (const struct lock_host *h = s->host[i]; h && !err; h = h->next) {
			struct lockrec r = { .set = true };

			record_host(&r, h);
			err = put(out, &r);
		}
	return err ? err : replica_flush(out);
}

static int part_each(void *arg, struct replica_out *out)
{
	struct listing l = { arg, out };
	uint64_t pos = 0;
	int err = put_hosts(l.s, out);

	do {
		if (!err)
			err = replica_pause(out);
		if (!err)
			err = lock_each(l.s->cfg.locks, &pos, EACH_MAX, put_lock, &l);
	} while (!err && pos);
	if (!err)
		err = replica_pause(out);
	return err ? err : shares_each(l.s->shares, put_share, &l);
}

void lockstate_part(struct lockstate *s, struct replica_part *out)
{
	*out = (struct replica_part){ .apply = part_apply, .clear = part_clear, .each = part_each, .arg = s };
}

/* ---- roles ---- */

static bool is_other_nodes(void *arg, const struct lock_owner *o)
{
	(void)arg;
	return o->node != 0 && o->node != LOCK_NODE_VOLUME;
}

void lockstate_promoted(struct lockstate *s)
{
	lock_drop_matching(s->cfg.locks, is_other_nodes, NULL, ERRNO_TAKEN_AWAY, false);
}

static bool is_third_nodes(void *arg, const struct lock_owner *o)
{
	return is_other_nodes(NULL, o) && o->node != *(const unsigned *)arg;
}

void lockstate_following(struct lockstate *s, unsigned primary)
{
	lock_drop_matching(s->cfg.locks, is_third_nodes, &primary, ERRNO_TAKEN_AWAY, false);
}

/* ---- life ---- */

int lockstate_new(const struct lockstate_config *cfg, struct lockstate **out)
{
	struct lockstate *s = calloc(1, sizeof *s);

	if (!s || shares_new(share_record, s, &s->shares)) {
		free(s);
		return -ENOMEM;
	}
	s->cfg = *cfg;
	pthread_mutex_init(&s->mu, NULL);
	pthread_mutex_init(&s->anew_mu, NULL);
	lock_table_set_journal(cfg->locks, &(struct lock_journal){ begin, record, end, s });
	*out = s;
	return 0;
}

void lockstate_free(struct lockstate *s)
{
	if (!s)
		return;
	lock_table_set_journal(s->cfg.locks, NULL);
	lock_cancel_front(s->cfg.locks, ORIGIN_NFS, -ECANCELED);
	part_clear(s);
	shares_free(s->shares);
	for (unsigned i = 0; i < HOST_BUCKETS; i++)
		while (s->host[i])
			host_remove(s, s->host[i]);
	pthread_mutex_destroy(&s->anew_mu);
	pthread_mutex_destroy(&s->mu);
	free(s);
}

void lockstate_stats(struct lockstate *s, struct lockstate_stats *out)
{
	*out = (struct lockstate_stats){ .locks = lock_count(s->cfg.locks), .shares = shares_count(s->shares), .applied = atomic_load(&s->applied),
					 .malformed = atomic_load(&s->malformed) };
	auto_lock(&s->mu);
	out->hosts = s->nhosts;
	out->owners = s->nowners;
}
