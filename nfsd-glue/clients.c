/*
 * The table: items of two kinds (connection, mount) in one hash, and a ring per kind of those that are there, oldest first.
 *
 *	there      in its ring; peers may not have been told yet
 *	pending    in the list of what peers have to be told: that it is there, or, when they know it and it is gone, that it is gone
 *	gone       only in the hash, until that is told; an item that no peer knows goes at once
 *
 * Bytes of a record: u8 version, then changes, each
 *	u8 what    1 connected, 2 disconnected: 16 + u16 the client's address and port, 16 + u16 the server's
 *	           3 mounted, 4 unmounted: 16 address, u16 length, path
 */
#include "nfsd-glue/clients.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/codec.h"
#include "fs/base/log.h"

enum kind { CONN, MOUNT, KINDS };
enum { HASH = 4096, CHANGE_MAX = 1 + 2 * 18 + 2 + CLIENTS_PATH_MAX };

struct item {
	enum kind kind;
	struct item *hnext, *pnext;
	struct item *prev, *next;	/* in its kind's ring; NULL = gone */
	struct client_addr peer, local;	/* LOCAL: connections only */
	unsigned live;			/* connections to this daemon with these addresses */
	bool told, pending;
	char text[];			/* path; connections: empty */
};

struct clients {
	struct clients_config cfg;
	pthread_mutex_t order;		/* held while records and chunks enter the order; before mu */
	pthread_mutex_t mu;		/* guards all below; a leaf */
	pthread_cond_t cond;
	struct item *hash[HASH];
	struct item ring[KINDS];	/* next = the oldest */
	unsigned n[KINDS];
	struct item *pending, **pending_end;
	unsigned npending;
	uint64_t promoted_ms;		/* connections of the server before age since then; 0 = they don't */
	bool stop, started;
	pthread_t thread;
};

/* ---- addresses ---- */

void client_addr_from(struct client_addr *out, const struct sockaddr_storage *sa)
{
	*out = (struct client_addr){ 0 };
	replay_addr(out->addr, sa);
	if (sa->ss_family == AF_INET6) {
		const struct sockaddr_in6 *s = (const void *)sa;
		out->port = ntohs(s->sin6_port);
		out->scope = s->sin6_scope_id;
	} else if (sa->ss_family == AF_INET) {
		out->port = ntohs(((const struct sockaddr_in *)(const void *)sa)->sin_port);
	}
}

socklen_t client_addr_to(const struct client_addr *a, struct sockaddr_storage *sa)
{
	memset(sa, 0, sizeof *sa);
	if (IN6_IS_ADDR_V4MAPPED((const struct in6_addr *)(const void *)a->addr)) {
		struct sockaddr_in *s = (void *)sa;
		s->sin_family = AF_INET;
		s->sin_port = htons(a->port);
		memcpy(&s->sin_addr, a->addr + 12, 4);
		return sizeof *s;
	}
	struct sockaddr_in6 *s = (void *)sa;
	s->sin6_family = AF_INET6;
	s->sin6_port = htons(a->port);
	s->sin6_scope_id = a->scope;
	memcpy(&s->sin6_addr, a->addr, 16);
	return sizeof *s;
}

/* ---- the table; mu is held ---- */

static bool same_host(const struct client_addr *a, const struct client_addr *b) { return !memcmp(a->addr, b->addr, sizeof a->addr); }

/* A connection is known by its four numbers, a mount by client and path. */
static bool same(const struct item *i, enum kind kind, const struct client_addr *peer, const struct client_addr *local, const char *text)
{
	if (i->kind != kind || !same_host(&i->peer, peer))
		return false;
	if (kind == MOUNT)
		return !strcmp(i->text, text);
	return i->peer.port == peer->port && same_host(&i->local, local) && i->local.port == local->port;
}

static struct item **find(struct clients *t, enum kind kind, const struct client_addr *peer, const struct client_addr *local, const char *text)
{
	uint64_t h = XXH3_64bits_withSeed(text, strlen(text), kind == CONN ? peer->port : 1u << 16);

	h = XXH3_64bits_withSeed(peer->addr, sizeof peer->addr, h);
	struct item **i = &t->hash[h % HASH];
	while (*i && !same(*i, kind, peer, local, text))
		i = &(*i)->hnext;
	return i;
}

static bool is_there(const struct item *i) { return i->next != NULL; }

static void ring_remove(struct clients *t, struct item *i)
{
	i->prev->next = i->next;
	i->next->prev = i->prev;
	i->prev = i->next = NULL;
	t->n[i->kind]--;
}

static void ring_add(struct clients *t, struct item *i)
{
	i->next = &t->ring[i->kind];
	i->prev = i->next->prev;
	i->prev->next = i->next->prev = i;
	t->n[i->kind]++;
}

static void forget(struct clients *t, struct item *i)
{
	struct item **at = find(t, i->kind, &i->peer, &i->local, i->text);

	assert(*at == i && !i->pending);
	*at = i->hnext;
	free(i);
}

/* Peers have to be told what became of I. True: they will be. */
static bool tell(struct clients *t, struct item *i)
{
	if (i->pending)
		return true;
	if (t->npending >= CLIENTS_PENDING_MAX)
		return false;
	i->pending = true;
	i->pnext = NULL;
	*t->pending_end = i;
	t->pending_end = &i->pnext;
	if (!t->npending++)
		pthread_cond_signal(&t->cond);
	return true;
}

/* I is gone; TELL: peers don't know yet. */
static void item_remove(struct clients *t, struct item *i, bool telling)
{
	if (is_there(i))
		ring_remove(t, i);
	if (!i->pending && (!i->told || !telling || !tell(t, i)))
		forget(t, i);
}

static struct item *oldest_of_others(struct clients *t)
{
	for (struct item *i = t->ring[CONN].next; i != &t->ring[CONN]; i = i->next)
		if (!i->live)
			return i;
	return NULL;
}

/* Room for one more of KIND of PEER: the oldest goes. False: there is none. */
static bool make_room(struct clients *t, enum kind kind, const struct client_addr *peer)
{
	static const unsigned max[KINDS] = { CLIENTS_CONNS_MAX, CLIENTS_MOUNTS_MAX };
	struct item *own = NULL, *old = t->ring[kind].next;
	unsigned n = 0;

	for (struct item *i = t->ring[MOUNT].next; kind == MOUNT && i != &t->ring[MOUNT]; i = i->next)
		if (same_host(&i->peer, peer) && !n++)
			own = i;
	if (own && n >= CLIENTS_MOUNTS_EACH)
		old = own;
	else if (t->n[kind] < max[kind])
		return true;
	if (kind == CONN && !(old = oldest_of_others(t)))
		return false;
	item_remove(t, old, true);
	return true;
}

/* The item, there. NULL: no room, no memory. *FRESH: it wasn't. */
static struct item *item_add(struct clients *t, enum kind kind, const struct client_addr *peer, const struct client_addr *local, const char *text,
			     bool *fresh)
{
	struct item *i = *find(t, kind, peer, local, text);

	*fresh = !i || !is_there(i);
	if (!*fresh)
		return i;
	if (!make_room(t, kind, peer))
		return NULL;
	i = *find(t, kind, peer, local, text);		/* what made room may have been a neighbour */
	if (!i) {
		i = calloc(1, sizeof *i + strlen(text) + 1);
		if (!i)
			return NULL;
		i->kind = kind;
		i->local = *local;
		memcpy(i->text, text, strlen(text) + 1);
		i->peer = *peer;
		*find(t, kind, peer, local, text) = i;
	}
	i->peer = *peer;
	ring_add(t, i);
	return i;
}

/* ---- records ---- */

static size_t put_addr(unsigned char *p, const struct client_addr *a, bool port)
{
	memcpy(p, a->addr, 16);
	if (!port)
		return 16;
	p[16] = (unsigned char)a->port;
	p[17] = (unsigned char)(a->port >> 8);
	return 18;
}

/* What became of I; the length. */
static size_t put_change(unsigned char out[CHANGE_MAX], const struct item *i)
{
	size_t n = 0, text = strlen(i->text);

	out[n++] = (unsigned char)(1 + 2 * i->kind + !is_there(i));
	n += put_addr(out + n, &i->peer, i->kind != MOUNT);
	if (i->kind == CONN)
		return n + put_addr(out + n, &i->local, true);
	out[n++] = (unsigned char)text;
	out[n++] = (unsigned char)(text >> 8);
	memcpy(out + n, i->text, text);
	return n + text;
}

/* A record in the making. */
struct batch { size_t len; unsigned char p[REPLICA_RECORD_MAX]; };

static bool batch_full(const struct batch *b) { return b->len + CHANGE_MAX > sizeof b->p; }
static void batch_reset(struct batch *b)
{
	b->p[0] = REPLICA_VERSION;
	b->len = 1;
}
static void batch_add(struct batch *b, const struct item *i) { b->len += put_change(b->p + b->len, i); }

/* Takes pending changes into B until it is full. */
static void take_pending(struct clients *t, struct batch *b)
{
	auto_lock(&t->mu);

	batch_reset(b);
	while (t->pending && !batch_full(b)) {
		struct item *i = t->pending;
		t->pending = i->pnext;
		if (!t->pending)
			t->pending_end = &t->pending;
		t->npending--;
		i->pending = false;
		if (is_there(i) || i->told)
			batch_add(b, i);
		i->told = is_there(i);
		if (!is_there(i))
			forget(t, i);
	}
}

void clients_flush(struct clients *t)
{
	auto_free struct batch *b = malloc(sizeof *b);
	auto_lock(&t->order);

	if (!b)
		return;
	for (;;) {
		take_pending(t, b);
		if (b->len == 1)
			return;
		int err = t->cfg.emit(t->cfg.arg, b->p, b->len);
		if (err && err != -EROFS)
			log_debug("clients: a record is not told: %s", strerror(-err));
	}
}

/* All of the table, with order and mu held. */
static int put_all(struct clients *t, struct batch *b, struct replica_out *out)
{
	int err = 0;

	batch_reset(b);
	for (unsigned k = 0; k < KINDS; k++)
		for (struct item *i = t->ring[k].next; i != &t->ring[k] && !err; i = i->next) {
			batch_add(b, i);
			i->told = true;
			if (!batch_full(b))
				continue;
			err = replica_put(out, b->p, b->len);
			batch_reset(b);
		}
	return err || b->len == 1 ? err : replica_put(out, b->p, b->len);
}

static int part_each(void *arg, struct replica_out *out)
{
	struct clients *t = arg;
	auto_free struct batch *b = malloc(sizeof *b);
	auto_lock(&t->order);
	auto_lock(&t->mu);

	if (!b)
		return -ENOMEM;
	int err = put_all(t, b, out);
	return err ? err : replica_flush(out);
}

/* ---- what peers tell ---- */

static void get_addr(struct dec *d, struct client_addr *a, bool port)
{
	dec_raw(d, a->addr, 16);
	a->port = port ? dec_u16(d) : 0;
}

/* Without NUL; terminated in OUT. */
static void get_path(struct dec *d, char *out)
{
	size_t len;
	const void *p = dec_bytes16(d, CLIENTS_PATH_MAX, &len);

	if (!d->err && (!len || memchr(p, 0, len)))
		d->err = -EBADMSG;
	if (!d->err)
		memcpy(out, p, len);
	out[d->err ? 0 : len] = 0;
}

static void get_change(struct clients *t, struct dec *d)
{
	struct client_addr peer = { 0 }, local = { 0 };
	char text[CLIENTS_PATH_MAX + 1] = "";
	uint8_t what = dec_u8(d);
	bool fresh;

	if (what < 1 || what > 2 * KINDS) {
		d->err = -EBADMSG;
		return;
	}
	enum kind kind = (enum kind)((what - 1) / 2);
	get_addr(d, &peer, kind != MOUNT);
	if (kind == CONN)
		get_addr(d, &local, true);
	else
		get_path(d, text);
	if (d->err)
		return;
	struct item *i = what % 2 ? item_add(t, kind, &peer, &local, text, &fresh) : *find(t, kind, &peer, &local, text);
	if (!(what % 2) && i && is_there(i) && !i->live)
		item_remove(t, i, false);
}

static int part_apply(void *arg, const void *data, size_t len, bool merge)
{
	struct clients *t = arg;
	struct dec d = dec_init(data, len);
	auto_lock(&t->mu);

	(void)merge;	/* chunks and records are in one order: what a chunk says is so */
	if (dec_u8(&d) != REPLICA_VERSION)
		return -EBADMSG;
	while (d.left && !d.err)
		get_change(t, &d);
	return dec_end(&d);
}

static void part_clear(void *arg)
{
	struct clients *t = arg;
	auto_lock(&t->mu);

	t->promoted_ms = 0;
	for (unsigned k = 0; k < KINDS; k++)
		for (struct item *i = t->ring[k].next, *next; i != &t->ring[k]; i = next) {
			next = i->next;
			if (!i->live)
				item_remove(t, i, false);
		}
}

static void part_promoted(void *arg)
{
	struct clients *t = arg;
	auto_lock(&t->mu);

	t->promoted_ms = clock_mono_ms();
	pthread_cond_signal(&t->cond);
}

void clients_part(struct clients *t, struct replica_part *out)
{
	*out = (struct replica_part){ .apply = part_apply, .clear = part_clear, .each = part_each, .promoted = part_promoted, .arg = t };
}

/* ---- connections ---- */

void clients_connected(struct clients *t, const struct sockaddr_storage *peer, const struct sockaddr_storage *local)
{
	struct client_addr p, l;
	bool fresh;

	client_addr_from(&p, peer);
	client_addr_from(&l, local);
	auto_lock(&t->mu);
	struct item *i = item_add(t, CONN, &p, &l, "", &fresh);
	if (i && !i->live++)
		tell(t, i);
}

void clients_disconnected(struct clients *t, const struct sockaddr_storage *peer, const struct sockaddr_storage *local)
{
	struct client_addr p, l;

	client_addr_from(&p, peer);
	client_addr_from(&l, local);
	auto_lock(&t->mu);
	struct item *i = *find(t, CONN, &p, &l, "");
	if (i && i->live && !--i->live)
		item_remove(t, i, true);
}

/* Copies of all of KIND, owned by the caller; *N. NULL: none, no memory. */
static struct item **copy_all(struct clients *t, enum kind kind, unsigned *n)
{
	auto_lock(&t->mu);
	struct item **all = calloc(t->n[kind] + 1, sizeof *all);

	*n = 0;
	for (struct item *i = t->ring[kind].next; all && i != &t->ring[kind]; i = i->next) {
		size_t len = sizeof *i + strlen(i->text) + 1;
		if ((all[*n] = malloc(len)))
			memcpy(all[(*n)++], i, len);
	}
	return all;
}

void clients_each(struct clients *t, void (*fn)(void *arg, const struct client_conn *c), void *arg)
{
	unsigned n;
	auto_free struct item **all = copy_all(t, CONN, &n);

	for (unsigned k = 0; k < n; k++) {
		fn(arg, &(struct client_conn){ all[k]->peer, all[k]->local, all[k]->live != 0 });
		free(all[k]);
	}
}

/* ---- mounts ---- */

void clients_mounted(struct clients *t, const struct sockaddr_storage *peer, const char *path)
{
	static const struct client_addr none;
	struct client_addr p;
	bool fresh;

	if (!*path || strlen(path) > CLIENTS_PATH_MAX)
		return;
	client_addr_from(&p, peer);
	p.port = 0;
	auto_lock(&t->mu);
	struct item *i = item_add(t, MOUNT, &p, &none, path, &fresh);
	if (i && fresh)
		tell(t, i);
}

void clients_unmounted(struct clients *t, const struct sockaddr_storage *peer, const char *path)
{
	struct client_addr p;

	client_addr_from(&p, peer);
	auto_lock(&t->mu);
	for (struct item *i = t->ring[MOUNT].next, *next; i != &t->ring[MOUNT]; i = next) {
		next = i->next;
		if (same_host(&i->peer, &p) && (!path || !strcmp(i->text, path)))
			item_remove(t, i, true);
	}
}

void clients_each_mount(struct clients *t, void (*fn)(void *arg, const struct client_addr *peer, const char *path), void *arg)
{
	unsigned n;
	auto_free struct item **all = copy_all(t, MOUNT, &n);

	for (unsigned k = 0; k < n; k++) {
		fn(arg, &all[k]->peer, all[k]->text);
		free(all[k]);
	}
}

void clients_stats(struct clients *t, struct clients_stats *out)
{
	auto_lock(&t->mu);
	*out = (struct clients_stats){ .conns = t->n[CONN], .mounts = t->n[MOUNT] };
	for (struct item *i = t->ring[CONN].next; i != &t->ring[CONN]; i = i->next)
		out->ours += i->live != 0;
}

/* ---- the thread that tells ---- */

/* Clients have come back by now, or never will. mu is held. */
static void age(struct clients *t)
{
	if (!t->promoted_ms || clock_mono_ms() < t->promoted_ms + CLIENTS_AGE_MS)
		return;
	t->promoted_ms = 0;
	for (struct item *i = t->ring[CONN].next, *next; i != &t->ring[CONN]; i = next) {
		next = i->next;
		if (!i->live)
			item_remove(t, i, true);
	}
}

static void wait_for_work(struct clients *t)
{
	auto_lock(&t->mu);

	while (!t->stop && !t->npending) {
		struct timespec until = clock_mono_after_ms(CLIENTS_AGE_MS / 10);
		if (t->promoted_ms)
			pthread_cond_timedwait(&t->cond, &t->mu, &until);
		else
			pthread_cond_wait(&t->cond, &t->mu);
		age(t);
	}
	struct timespec until = clock_mono_after_ms(CLIENTS_DELAY_MS);
	while (!t->stop && pthread_cond_timedwait(&t->cond, &t->mu, &until) != ETIMEDOUT)
		;
}

static bool stopped(struct clients *t)
{
	auto_lock(&t->mu);
	return t->stop;
}

static void *thread(void *arg)
{
	struct clients *t = arg;

	while (!stopped(t)) {
		wait_for_work(t);
		clients_flush(t);
	}
	return NULL;
}

/* ---- life ---- */

int clients_new(const struct clients_config *cfg, struct clients **out)
{
	struct clients *t = calloc(1, sizeof *t);

	if (!t)
		return -ENOMEM;
	t->cfg = *cfg;
	t->pending_end = &t->pending;
	for (unsigned k = 0; k < KINDS; k++)
		t->ring[k].prev = t->ring[k].next = &t->ring[k];
	pthread_mutex_init(&t->order, NULL);
	pthread_mutex_init(&t->mu, NULL);
	cond_init_mono(&t->cond);
	t->started = pthread_create(&t->thread, NULL, thread, t) == 0;
	if (!t->started) {
		clients_free(t);
		return -EAGAIN;
	}
	*out = t;
	return 0;
}

void clients_free(struct clients *t)
{
	if (!t)
		return;
	pthread_mutex_lock(&t->mu);
	t->stop = true;
	pthread_cond_broadcast(&t->cond);
	pthread_mutex_unlock(&t->mu);
	if (t->started)
		pthread_join(t->thread, NULL);
	for (unsigned h = 0; h < HASH; h++)
		for (struct item *i = t->hash[h], *next; i; i = next) {
			next = i->hnext;
			free(i);
		}
	pthread_cond_destroy(&t->cond);
	pthread_mutex_destroy(&t->mu);
	pthread_mutex_destroy(&t->order);
	free(t);
}
