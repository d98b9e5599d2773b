/*
 * The table. A client's answers lie in one shard, which its address chooses:
 *
 *	shard: mutex, hash of entries by key, hash of clients by address
 *	client: ring of its known answers, oldest first; bytes of all its entries
 *
 * Entries are counted with their headers. The total is one atomic number, compared with the bound after every addition, outside the shard's mutex; whoever finds it
 * exceeded goes round the shards (one at a time does) and drops, oldest first, what clients have beyond their share, until a sixteenth of the bound is
 * free. While the total is over the bound some client is over its share, so a round that frees nothing has met running calls only.
 */
#include "nfsd-glue/replay.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <xxhash.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"

enum { SHARDS = 64, CLIENT_HASH = 64, ENTRY_HASH_MIN = 64, ROUNDS_MAX = 2, SLACK_PART = 16 };

struct rclient;

struct entry {
	struct entry *hnext;
	struct entry *prev, *next;	/* in its client's ring, when it is in there */
	struct rclient *client;
	struct replay_key key;
	uint64_t born_ms;
	unsigned char *bytes;		/* owned; NULL until the answer is known */
	uint32_t len;
	bool running;
	bool withheld;			/* known, not running, and not to be given */
	struct replay_waiter *waiter;	/* of a running one; NULL mostly */
};

/* Somebody who is to be told how it ended, when no lock is held any more. Only w is set before there is somebody: BYTES are many. */
struct farewell {
	struct replay_waiter *w;
	enum replay_end how;
	size_t len;
	unsigned char bytes[REPLAY_REPLY_MAX];
};

struct rclient {
	struct rclient *hnext;
	unsigned char addr[16];
	struct entry ring;		/* known answers; ring.next = the oldest */
	uint64_t bytes, entries;
};

struct shard {
	pthread_mutex_t mu;		/* guards all below; a leaf */
	struct entry **hash;		/* owned; size is a power of two */
	size_t size, n;
	struct rclient *clients[CLIENT_HASH];
} __attribute__((aligned(64)));

struct replay {
	uint64_t max_bytes, seed;
	struct shard shard[SHARDS];
	pthread_mutex_t evict_mu;	/* one evicts; before any shard's */
	unsigned hand;			/* the shard where it goes on; guarded by evict_mu */
	_Atomic uint64_t bytes, entries, clients, hits, dropped, evicted, aged, clock_ms;
};

/* ---- keys ---- */

void replay_addr(unsigned char out[16], const struct sockaddr_storage *peer)
{
	memset(out, 0, 16);
	if (peer->ss_family == AF_INET6) {
		memcpy(out, &((const struct sockaddr_in6 *)(const void *)peer)->sin6_addr, 16);
	} else if (peer->ss_family == AF_INET) {
		out[10] = out[11] = 0xff;
		memcpy(out + 12, &((const struct sockaddr_in *)(const void *)peer)->sin_addr, 4);
	}
}

static uint64_t args_sum(uint64_t seed, const unsigned char *args, size_t len)
{
	if (len <= 2 * (size_t)REPLAY_SUM_PART)
		return XXH3_64bits_withSeed(args, len, seed);
	uint64_t head = XXH3_64bits_withSeed(args, REPLAY_SUM_PART, seed);
	return XXH3_64bits_withSeed(args + len - REPLAY_SUM_PART, REPLAY_SUM_PART, head);
}

void replay_key_init(struct replay_key *k, const struct sockaddr_storage *peer, uint32_t xid, uint32_t prog, uint32_t vers, uint32_t proc, uid_t uid,
		     gid_t gid, const void *args, size_t args_len)
{
	*k = (struct replay_key){ .xid = xid, .prog = prog, .vers = vers, .proc = proc, .args_len = (uint32_t)args_len,
				  .sum = args_sum((uint64_t)uid << 32 | gid, args, args_len) };
	replay_addr(k->addr, peer);
}

static struct shard *shard_of(struct replay *t, const struct replay_key *k)
{
	return &t->shard[XXH3_64bits_withSeed(k->addr, sizeof k->addr, t->seed) % SHARDS];
}

/* ---- time ---- */

static uint64_t now_ms(struct replay *t)
{
	uint64_t fixed = atomic_load_explicit(&t->clock_ms, memory_order_relaxed);
	return fixed ? fixed : clock_mono_ms();
}

void replay_set_clock(struct replay *t, uint64_t ms) { atomic_store(&t->clock_ms, ms); }

/* ---- a shard's tables; its mutex is held ---- */

static struct entry **find(struct replay *t, struct shard *s, const struct replay_key *k)
{
	struct entry **e = &s->hash[XXH3_64bits_withSeed(k, sizeof *k, t->seed) & (s->size - 1)];

	while (*e && memcmp(&(*e)->key, k, sizeof *k) != 0)
		e = &(*e)->hnext;
	return e;
}

/* More chains for more entries; without memory they get longer. */
static void hash_grow(struct replay *t, struct shard *s)
{
	struct entry **old = s->hash, **bigger = calloc(s->size * 2, sizeof(void *));
	size_t n = s->size;

	if (!bigger)
		return;
	s->hash = bigger;
	s->size = n * 2;
	for (size_t i = 0; i < n; i++)
		for (struct entry *e = old[i], *next; e; e = next) {
			struct entry **to = &s->hash[XXH3_64bits_withSeed(&e->key, sizeof e->key, t->seed) & (s->size - 1)];
			next = e->hnext;
			e->hnext = *to;
			*to = e;
		}
	free(old);
}

static struct rclient **client_find(struct replay *t, struct shard *s, const unsigned char addr[16])
{
	struct rclient **c = &s->clients[XXH3_64bits_withSeed(addr, 16, ~t->seed) % CLIENT_HASH];

	while (*c && memcmp((*c)->addr, addr, 16) != 0)
		c = &(*c)->hnext;
	return c;
}

static struct rclient *client_get(struct replay *t, struct shard *s, const unsigned char addr[16])
{
	struct rclient **at = client_find(t, s, addr), *c = *at;

	if (c)
		return c;
	c = calloc(1, sizeof *c);
	if (!c)
		return NULL;
	memcpy(c->addr, addr, 16);
	c->ring.prev = c->ring.next = &c->ring;
	*at = c;
	atomic_fetch_add(&t->clients, 1);
	return c;
}

static void client_put(struct replay *t, struct shard *s, struct rclient *c)
{
	struct rclient **at = client_find(t, s, c->addr);

	if (c->entries)
		return;
	*at = c->hnext;
	free(c);
	atomic_fetch_sub(&t->clients, 1);
}

static void count(struct replay *t, struct entry *e, int64_t bytes)
{
	e->client->bytes += (uint64_t)bytes;
	atomic_fetch_add(&t->bytes, (uint64_t)bytes);
}

static uint32_t age_of(const struct entry *e, uint64_t now)
{
	return now <= e->born_ms ? 0 : now - e->born_ms < UINT32_MAX ? (uint32_t)(now - e->born_ms) : UINT32_MAX;
}

static void ring_remove(struct entry *e)
{
	if (!e->next)
		return;
	e->prev->next = e->next;
	e->next->prev = e->prev;
	e->prev = e->next = NULL;
}

/* As its client's newest, or (OLDEST) oldest answer. */
static void ring_add(struct entry *e, bool oldest)
{
	struct entry *before = oldest ? e->client->ring.next : &e->client->ring;

	e->next = before;
	e->prev = before->prev;
	e->prev->next = e->next->prev = e;
}

static struct entry *entry_add(struct replay *t, struct shard *s, const struct replay_key *k)
{
	struct entry *e = calloc(1, sizeof *e);
	struct rclient *c = e ? client_get(t, s, k->addr) : NULL;

	if (!c) {
		free(e);
		return NULL;
	}
	if (s->n >= s->size * 2)
		hash_grow(t, s);
	e->key = *k;
	e->client = c;
	*find(t, s, k) = e;
	s->n++;
	c->entries++;
	atomic_fetch_add(&t->entries, 1);
	count(t, e, sizeof *e);
	return e;
}

/* The client may be gone with it. */
static void entry_drop(struct replay *t, struct shard *s, struct entry **at)
{
	struct entry *e = *at;
	struct rclient *c = e->client;

	*at = e->hnext;
	ring_remove(e);
	count(t, e, -(int64_t)(sizeof *e + e->len));
	s->n--;
	c->entries--;
	atomic_fetch_sub(&t->entries, 1);
	free(e->bytes);
	free(e);
	client_put(t, s, c);
}

/* Gives E the answer; false: no memory. */
static bool entry_answer(struct replay *t, struct entry *e, const void *bytes, size_t len, uint64_t born_ms)
{
	unsigned char *p = malloc(len ? len : 1);

	if (!p)
		return false;
	memcpy(p, bytes, len);
	free(e->bytes);
	count(t, e, (int64_t)len - (int64_t)e->len);
	e->bytes = p;
	e->len = (uint32_t)len;
	e->born_ms = born_ms;
	return true;
}

/* ---- what goes ---- */

/* Drops C's oldest answers: what is too old, and what goes beyond SHARE bytes while the table has more than TARGET. Running ones are in the ring only
 * when the answer may be given. True: C is gone. */
static bool client_trim(struct replay *t, struct shard *s, struct rclient *c, uint64_t now, uint64_t share, uint64_t target)
{
	while (c->ring.next != &c->ring) {
		struct entry *e = c->ring.next;
		bool old = age_of(e, now) > REPLAY_AGE_MS, last = c->entries == 1;
		if (!old && (c->bytes <= share || atomic_load(&t->bytes) <= target))
			return false;
		atomic_fetch_add(old ? &t->aged : &t->evicted, 1);
		entry_drop(t, s, find(t, s, &e->key));
		if (last)
			return true;
	}
	return false;
}

static void shard_trim(struct replay *t, struct shard *s, uint64_t share, uint64_t target)
{
	auto_lock(&s->mu);
	uint64_t now = now_ms(t);

	for (unsigned i = 0; i < CLIENT_HASH; i++)
		for (struct rclient *c = s->clients[i], *next; c; c = next) {
			next = c->hnext;
			client_trim(t, s, c, now, share, target);
		}
}

/* No shard's mutex is held. */
static void keep_bound(struct replay *t)
{
	uint64_t target = t->max_bytes - t->max_bytes / SLACK_PART;

	if (atomic_load(&t->bytes) <= t->max_bytes || pthread_mutex_trylock(&t->evict_mu))
		return;
	for (unsigned i = 0; i < SHARDS * ROUNDS_MAX && atomic_load(&t->bytes) > target; i++) {
		uint64_t n = atomic_load(&t->clients);
		shard_trim(t, &t->shard[t->hand++ % SHARDS], target / (n ? n : 1), target);
	}
	pthread_mutex_unlock(&t->evict_mu);
}

/* ---- the primary ---- */

enum replay_verdict replay_begin(struct replay *t, const struct replay_key *k, unsigned char out[REPLAY_REPLY_MAX], size_t *len)
{
	struct shard *s = shard_of(t, k);
	auto_lock(&s->mu);
	struct rclient *c = *client_find(t, s, k->addr);

	if (c)
		client_trim(t, s, c, now_ms(t), UINT64_MAX, UINT64_MAX);
	struct entry *e = *find(t, s, k);
	if (!e) {
		e = entry_add(t, s, k);
		if (e)
			e->running = true;
		return REPLAY_NEW;
	}
	if (e->running || e->withheld) {
		atomic_fetch_add(&t->dropped, 1);
		return REPLAY_RUNNING;
	}
	atomic_fetch_add(&t->hits, 1);
	memcpy(out, e->bytes, e->len);
	*len = e->len;
	return REPLAY_DONE;
}

void replay_done(struct replay *t, const struct replay_key *k, const void *bytes, size_t len)
{
	struct shard *s = shard_of(t, k);
	auto_lock(&s->mu);
	struct entry *e = *find(t, s, k);

	if (e && e->running && len <= REPLAY_REPLY_MAX)
		entry_answer(t, e, bytes, len, now_ms(t));
}

/* E runs no longer; under the shard's mutex. */
static void bid_farewell(struct entry *e, enum replay_end how, struct farewell *f)
{
	f->w = e->waiter;
	f->how = how;
	f->len = 0;
	e->waiter = NULL;
	if (!f->w || how != REPLAY_ANSWERED)
		return;
	f->len = e->len;
	memcpy(f->bytes, e->bytes, e->len);
}

static void farewell(struct farewell *f)
{
	if (f->w)
		f->w->ended(f->w, f->how, f->bytes, f->len);
}

bool replay_wait(struct replay *t, const struct replay_key *k, struct replay_waiter *w)
{
	struct shard *s = shard_of(t, k);

	pthread_mutex_lock(&s->mu);
	struct entry *e = *find(t, s, k);
	bool runs = e && e->running;
	struct farewell f;
	f.w = NULL;
	if (runs) {
		bid_farewell(e, REPLAY_SILENCE, &f);
		e->waiter = w;
	}
	pthread_mutex_unlock(&s->mu);
	farewell(&f);
	return runs;
}

static void ended(struct replay *t, const struct replay_key *k, bool withheld)
{
	struct shard *s = shard_of(t, k);
	struct farewell f;

	f.w = NULL;
	pthread_mutex_lock(&s->mu);
	struct entry **at = find(t, s, k), *e = *at;
	if (e && e->running && e->bytes) {
		e->running = false;
		e->withheld = withheld;
		ring_add(e, false);
		bid_farewell(e, withheld ? REPLAY_SILENCE : REPLAY_ANSWERED, &f);
	} else if (e && e->running) {
		bid_farewell(e, REPLAY_NO_TRACE, &f);
		entry_drop(t, s, at);
	}
	pthread_mutex_unlock(&s->mu);
	farewell(&f);
	keep_bound(t);
}

void replay_sent(struct replay *t, const struct replay_key *k) { ended(t, k, false); }
void replay_withhold(struct replay *t, const struct replay_key *k) { ended(t, k, true); }

void replay_reveal(struct replay *t)
{
	for (unsigned i = 0; i < SHARDS; i++) {
		struct shard *s = &t->shard[i];
		auto_lock(&s->mu);
		for (size_t b = 0; b < s->size; b++)
			for (struct entry *e = s->hash[b]; e; e = e->hnext)
				e->withheld = false;
	}
}

void replay_forget(struct replay *t, const struct replay_key *k)
{
	struct shard *s = shard_of(t, k);
	struct farewell f;

	f.w = NULL;
	pthread_mutex_lock(&s->mu);
	struct entry **at = find(t, s, k);
	if (*at && (*at)->running) {
		bid_farewell(*at, REPLAY_NO_TRACE, &f);
		entry_drop(t, s, at);
	}
	pthread_mutex_unlock(&s->mu);
	farewell(&f);
}

/* ---- what peers tell ---- */

static void put_locked(struct replay *t, struct shard *s, const struct replay_key *k, const void *bytes, size_t len, uint64_t age_ms, bool merge,
		       struct farewell *f)
{
	uint64_t now = now_ms(t), born = now > age_ms ? now - age_ms : 0;
	struct entry *e = *find(t, s, k);

	if (e && merge)
		return;
	if (!e && !(e = entry_add(t, s, k)))
		return;
	ring_remove(e);
	e->running = e->withheld = false;
	if (!entry_answer(t, e, bytes, len, born)) {
		bid_farewell(e, REPLAY_SILENCE, f);
		entry_drop(t, s, find(t, s, k));
		return;
	}
	bid_farewell(e, REPLAY_ANSWERED, f);
	ring_add(e, merge);
	client_trim(t, s, e->client, now, UINT64_MAX, UINT64_MAX);
}

static void put(struct replay *t, const struct replay_key *k, const void *bytes, size_t len, uint64_t age_ms, bool merge)
{
	struct shard *s = shard_of(t, k);
	struct farewell f;

	f.w = NULL;
	pthread_mutex_lock(&s->mu);
	put_locked(t, s, k, bytes, len, age_ms, merge, &f);
	pthread_mutex_unlock(&s->mu);
	farewell(&f);
	keep_bound(t);
}

void replay_apply(struct replay *t, const struct replay_key *k, const void *bytes, size_t len)
{
	assert(len <= REPLAY_REPLY_MAX);
	put(t, k, bytes, len, 0, false);
}

void replay_merge(struct replay *t, const struct replay_key *k, const void *bytes, size_t len, uint32_t age_ms)
{
	assert(len <= REPLAY_REPLY_MAX);
	if (age_ms > REPLAY_AGE_MS)
		return;
	put(t, k, bytes, len, age_ms, true);
}

static void shard_clear(struct replay *t, struct shard *s)
{
	auto_lock(&s->mu);

	for (size_t i = 0; i < s->size; i++)
		for (struct entry **at = &s->hash[i]; *at;)
			if ((*at)->running)
				at = &(*at)->hnext;
			else
				entry_drop(t, s, at);
}

void replay_clear(struct replay *t)
{
	for (unsigned i = 0; i < SHARDS; i++)
		shard_clear(t, &t->shard[i]);
}

/* Those whose answer isn't given yet are nobody's ring's: they are the newest. */
static int each_running(struct shard *s, uint64_t now, replay_fn fn, void *arg)
{
	int r = 0;

	for (size_t i = 0; i < s->size; i++)
		for (struct entry *e = s->hash[i]; e && !r; e = e->hnext)
			if (e->running && e->bytes)
				r = fn(arg, &e->key, e->bytes, e->len, age_of(e, now));
	return r;
}

static int each_of(struct rclient *c, uint64_t now, replay_fn fn, void *arg)
{
	int r = 0;

	for (struct entry *e = c->ring.prev; e != &c->ring && !r; e = e->prev)
		if (age_of(e, now) <= REPLAY_AGE_MS)
			r = fn(arg, &e->key, e->bytes, e->len, age_of(e, now));
	return r;
}

static int shard_each(struct replay *t, struct shard *s, replay_fn fn, void *arg)
{
	auto_lock(&s->mu);
	uint64_t now = now_ms(t);
	int r = each_running(s, now, fn, arg);

	for (unsigned i = 0; i < CLIENT_HASH; i++)
		for (struct rclient *c = s->clients[i]; c && !r; c = c->hnext)
			r = each_of(c, now, fn, arg);
	return r;
}

int replay_each(struct replay *t, replay_fn fn, int (*idle)(void *arg), void *arg)
{
	int r = 0;

	for (unsigned i = 0; i < SHARDS && !r; i++) {
		r = shard_each(t, &t->shard[i], fn, arg);
		if (!r && idle)
			r = idle(arg);
	}
	return r;
}

void replay_stats(struct replay *t, struct replay_stats *out)
{
	*out = (struct replay_stats){ .entries = atomic_load(&t->entries), .bytes = atomic_load(&t->bytes), .clients = atomic_load(&t->clients),
				      .hits = atomic_load(&t->hits), .dropped = atomic_load(&t->dropped), .evicted = atomic_load(&t->evicted),
				      .aged = atomic_load(&t->aged) };
}

/* ---- life ---- */

int replay_new(size_t max_bytes, struct replay **out)
{
	struct replay *t = aligned_alloc(64, sizeof *t);

	if (!t)
		return -ENOMEM;
	memset(t, 0, sizeof *t);
	t->max_bytes = max_bytes ? max_bytes : REPLAY_BYTES_MAX;
	if (getrandom(&t->seed, sizeof t->seed, 0) != (ssize_t)sizeof t->seed)
		t->seed = clock_mono_ns();
	pthread_mutex_init(&t->evict_mu, NULL);
	bool ok = true;
	for (unsigned i = 0; i < SHARDS; i++) {
		struct shard *s = &t->shard[i];
		pthread_mutex_init(&s->mu, NULL);
		s->size = ENTRY_HASH_MIN;
		s->hash = calloc(s->size, sizeof(void *));
		ok = ok && s->hash;
	}
	if (!ok) {
		replay_free(t);
		return -ENOMEM;
	}
	*out = t;
	return 0;
}

static void shard_free(struct replay *t, struct shard *s)
{
	for (size_t i = 0; s->hash && i < s->size; i++)
		while (s->hash[i])
			entry_drop(t, s, &s->hash[i]);
	free(s->hash);
	pthread_mutex_destroy(&s->mu);
}

void replay_free(struct replay *t)
{
	if (!t)
		return;
	for (unsigned i = 0; i < SHARDS; i++)
		shard_free(t, &t->shard[i]);
	pthread_mutex_destroy(&t->evict_mu);
	free(t);
}
