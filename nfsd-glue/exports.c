/*
 * The export table.
 *
 * Readers and the one who reloads: a reader adds itself to a counter of the current phase, on a cache line that it shares with few others, loads the
 * table, looks, and takes itself out. The writer puts the new table in place, then twice: flips the phase and waits until the counters of the phase
 * before are zero. A reader that saw the old table had added itself before the exchange, to one phase or the other; one that comes
 * later sees the new table, whichever phase it had read. (All of these accesses are sequentially consistent; so does SRCU in Linux.) A reader holds nothing
 * that blocks: it copies what it wants, and calls no layer.
 */
#include "nfsd-glue/exports.h"

#include <assert.h>
#include <errno.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "handles/handles.h"

enum { STRIPES = 16, DOTDOT_MAX = 65536 /* directories between an object and its export */ };

struct table {
	unsigned n;
	struct conf_export e[CONF_EXPORTS_MAX];
};

struct stripe {
	_Alignas(64) _Atomic unsigned readers[2];	/* by phase */
};

struct exports {
	_Atomic(struct table *) table;	/* owned */
	_Atomic unsigned phase;
	pthread_mutex_t reload_mu;	/* one writer */
	struct stripe stripe[STRIPES];
};

/* ---- readers ---- */

struct reader {
	_Atomic unsigned *counter;
	const struct table *t;
};

static struct reader reader_enter(struct exports *x)
{
	static _Atomic unsigned threads;
	static _Thread_local unsigned mine;

	if (!mine)
		mine = atomic_fetch_add(&threads, 1) % STRIPES + 1;
	struct reader r = { .counter = &x->stripe[mine - 1].readers[atomic_load(&x->phase) & 1] };
	atomic_fetch_add(r.counter, 1);
	r.t = atomic_load(&x->table);
	return r;
}

static void reader_leave(struct reader *r) { atomic_fetch_sub(r->counter, 1); }
#define auto_reader __attribute__((cleanup(reader_leave)))

/* ---- life ---- */

static struct table *table_new(const struct volume_conf *conf)
{
	struct table *t = calloc(1, sizeof *t);

	assert(conf->nexports <= CONF_EXPORTS_MAX);
	if (!t)
		return NULL;
	t->n = conf->nexports;
	memcpy(t->e, conf->exports, t->n * sizeof t->e[0]);
	return t;
}

int exports_new(const struct volume_conf *conf, struct exports **out)
{
	struct exports *x = aligned_alloc(_Alignof(struct exports), sizeof *x);
	struct table *t = table_new(conf);

	if (!x || !t) {
		free(x);
		free(t);
		return -ENOMEM;
	}
	memset(x, 0, sizeof *x);
	atomic_init(&x->table, t);
	pthread_mutex_init(&x->reload_mu, NULL);
	*out = x;
	return 0;
}

void exports_free(struct exports *x)
{
	if (!x)
		return;
	free(atomic_load(&x->table));
	pthread_mutex_destroy(&x->reload_mu);
	free(x);
}

/* Waits until those who may see what was there before are gone. */
static void wait_for_readers(struct exports *x)
{
	for (unsigned i = 0; i < 2; i++) {
		unsigned old = atomic_fetch_xor(&x->phase, 1) & 1;
		for (unsigned s = 0; s < STRIPES; s++)
			while (atomic_load(&x->stripe[s].readers[old]))
				sched_yield();
	}
}

int exports_reload(struct exports *x, const struct volume_conf *conf)
{
	struct table *t = table_new(conf);

	if (!t)
		return -ENOMEM;
	auto_lock(&x->reload_mu);
	t = atomic_exchange(&x->table, t);
	wait_for_readers(x);
	free(t);
	return 0;
}

/* ---- rights ---- */

/* A client's address, IPv4 as ::ffff:a.b.c.d, and port. False: it has none. */
static bool client_of(const struct sockaddr_storage *ss, unsigned char addr[16], uint16_t *port)
{
	const struct sockaddr_in *v4 = (const void *)ss;
	const struct sockaddr_in6 *v6 = (const void *)ss;

	if (ss->ss_family == AF_INET6) {
		memcpy(addr, &v6->sin6_addr, 16);
		*port = ntohs(v6->sin6_port);
		return true;
	}
	if (ss->ss_family != AF_INET)
		return false;
	memset(addr, 0, 10);
	memset(addr + 10, 0xff, 2);
	memcpy(addr + 12, &v4->sin_addr, 4);
	*port = ntohs(v4->sin_port);
	return true;
}

static bool may_use(const struct conf_export *e, const struct sockaddr_storage *client)
{
	unsigned char addr[16];
	uint16_t port;

	if (!client_of(client, addr, &port) || (e->secure && port >= IPPORT_RESERVED))
		return false;
	for (unsigned i = 0; i < e->nnets; i++)
		if (conf_net_has(&e->nets[i], addr))
			return true;
	return false;
}

bool exports_speaks_for_host(struct exports *x, const struct sockaddr_storage *client)
{
	auto_reader struct reader r = reader_enter(x);
	unsigned char addr[16];
	uint16_t port;
	bool yes = client_of(client, addr, &port) && port < IPPORT_RESERVED;

	for (unsigned i = 0; !yes && i < r.t->n; i++)
		yes = may_use(&r.t->e[i], client);
	return yes;
}

static struct export_rights rights_of(const struct conf_export *e)
{
	return (struct export_rights){ .id = (uint16_t)e->id, .writable = e->access == CONF_ACCESS_RW, .whole = !e->path[1],
				       .squash = (uint8_t)e->squash, .anonuid = e->anonuid, .anongid = e->anongid };
}

static const struct conf_export *by_id(const struct table *t, uint16_t id)
{
	for (unsigned i = 0; i < t->n; i++)
		if (t->e[i].id == id)
			return &t->e[i];
	return NULL;
}

int exports_rights(struct exports *x, uint16_t id, const struct sockaddr_storage *client, struct export_rights *out)
{
	auto_reader struct reader r = reader_enter(x);
	const struct conf_export *e = by_id(r.t, id);

	if (!e)
		return -ESTALE;
	if (!may_use(e, client))
		return -EACCES;
	*out = rights_of(e);
	return 0;
}

/* Does PATH lie in DIR? *BELOW: where in PATH what is below DIR begins. */
static bool lies_in(const char *path, const char *dir, size_t *below)
{
	size_t len = dir[1] ? strlen(dir) : 0;

	if (strncmp(path, dir, len) || (path[len] && path[len] != '/'))
		return false;
	*below = len + (path[len] == '/');
	return true;
}

int exports_by_path(struct exports *x, const char *path, const struct sockaddr_storage *client, struct export_rights *out, size_t *below)
{
	auto_reader struct reader r = reader_enter(x);
	const struct conf_export *best = NULL;
	int err = -ENOENT;
	size_t at;

	for (unsigned i = 0; i < r.t->n; i++) {
		const struct conf_export *e = &r.t->e[i];
		if (!lies_in(path, e->path, &at))
			continue;
		if (!may_use(e, client)) {
			err = best ? 0 : -EACCES;
		} else if (!best || at >= *below) {
			best = e;
			*below = at;
			err = 0;
		}
	}
	if (best)
		*out = rights_of(best);
	return err;
}

static void squash_gid(gid_t *gid, const struct export_rights *r, bool root)
{
	if (*gid == (gid_t)-1 || (root && !*gid))
		*gid = r->anongid;
}

void exports_squash(const struct export_rights *r, bool anonymous, struct nfs_cred *cred)
{
	bool root = r->squash == CONF_SQUASH_ROOT;

	if (anonymous || r->squash == CONF_SQUASH_ALL) {
		*cred = (struct nfs_cred){ .uid = r->anonuid, .gid = r->anongid };
		return;
	}
	if (cred->uid == (uid_t)-1 || (root && !cred->uid))
		cred->uid = r->anonuid;
	squash_gid(&cred->gid, r, root);
	for (unsigned i = 0; i < cred->ngroups; i++)
		squash_gid(&cred->groups[i], r, root);
}

/* ---- the tree ---- */

int exports_walk(struct layer *top, uint64_t dir, const char *path, struct attr *out)
{
	struct call c = { .origin = ORIGIN_NFS };
	char name[LAYER_NAME_MAX + 1];
	uint32_t type = S_IFDIR;

	for (const char *p = path; *p; p += *p == '/') {
		size_t len = strcspn(p, "/");
		if (!len || (len <= 2 && !strncmp(p, "..", len)))
			return -EACCES;
		if (len > LAYER_NAME_MAX)
			return -ENAMETOOLONG;
		memcpy(name, p, len);
		name[len] = 0;
		p += len;
		int err = type == S_IFDIR ? top->ops->resolve(top, dir, name, &dir, &type) : -ENOTDIR;
		if (err)
			return err;
	}
	return top->ops->getattr(top, &c, dir, NULL, out);
}

int exports_root(struct exports *x, uint16_t id, struct layer *top, struct attr *out)
{
	char path[CONF_VALUE_MAX + 1];

	{
		auto_reader struct reader r = reader_enter(x);
		const struct conf_export *e = by_id(r.t, id);
		if (!e)
			return -ESTALE;
		memcpy(path, e->path, sizeof path);
	}
	int err = exports_walk(top, HANDLE_ROOT, path + 1, out);
	return err ? err : S_ISDIR(out->mode) ? 0 : -ENOTDIR;
}

/* Is directory DIR below ROOT? 0; -ESTALE: no. */
static int below_root(struct layer *top, struct call *c, uint64_t dir, uint64_t root)
{
	struct attr a;

	for (unsigned i = 0; i < DOTDOT_MAX; i++) {
		if (dir == root)
			return 0;
		int err = dir == HANDLE_ROOT ? -ESTALE : top->ops->lookup(top, c, dir, "..", &a);
		if (err)
			return err;
		dir = a.id;
	}
	return -ESTALE;
}

int exports_dotdot(struct exports *x, const struct export_rights *r, struct layer *top, struct call *c, uint64_t dir, struct attr *out)
{
	struct attr root;

	if (r->whole)
		return dir == HANDLE_ROOT ? top->ops->getattr(top, c, dir, NULL, out) : top->ops->lookup(top, c, dir, "..", out);
	int err = exports_root(x, r->id, top, &root);
	if (err)
		return err == -ENOENT || err == -ENOTDIR ? -ESTALE : err;
	if (dir == root.id) {
		*out = root;
		return 0;
	}
	if (dir == HANDLE_ROOT)
		return -ESTALE;
	err = top->ops->lookup(top, c, dir, "..", out);
	return err ? err : below_root(top, c, out->id, root.id);
}

/* ---- lists ---- */

int exports_each(struct exports *x, int (*fn)(void *arg, const struct conf_export *e), void *arg)
{
	auto_reader struct reader r = reader_enter(x);
	int stop = 0;

	for (unsigned i = 0; !stop && i < r.t->n; i++)
		stop = fn(arg, &r.t->e[i]);
	return stop;
}

unsigned exports_count(struct exports *x)
{
	auto_reader struct reader r = reader_enter(x);
	return r.t->n;
}
