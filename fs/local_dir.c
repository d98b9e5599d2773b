/*
 * Listings. Order and positions of entries are the same on every node and need no agreement: the position of a name is a keyed hash of it
 * (XXH3 with a secret derived from the volume's readdir key), made positive (63 bits). The low byte of the hash is cleared
 * and ranks names whose other bits are equal, by name. Positions 0 (the start), 1 ("."), 2 ("..") and 3 are no hash.
 * The secret is derived here and not by the library's function for that, whose result has changed between its versions.
 *
 * A directory is read whole into a snapshot: an array of (position, id, offset of the name, type), sorted, and an arena of names.
 * Snapshots are shared by readers, counted, and kept in a cache that is bounded in bytes, the last used first. One that grows large lives in an unlinked file
 * below .tandemfs, mapped. An open directory keeps its own until it is read from position 0 again.
 *
 * A change of entries bumps the directory's version, then throws the cached snapshot away. Who builds one notes the version
 * before, and caches the result only when it is still the same. (cache.n counts those who cache before they look at the version, and is looked at
 * after the version was bumped: so a change needs no lock while no snapshot at all is cached.)
 *
 * Resuming at any position, also one whose entry is gone, is a binary search. So an entry that was there all the time is
 * listed exactly once, whatever comes and goes.
 */
#include "fs/local_int.h"

#include <assert.h>
#include <dirent.h>
#include <sys/mman.h>
#include <xxhash.h>

enum {
	POS_DOT = 1, POS_DOTDOT = 2, POS_RESERVED = 3,
	POS_SECRET_BYTES = 192,
	SNAP_BUCKETS = 256,
	ARENA_MIN = 4096,
	RANK_MAX = 255,
};

/* Memory that grows; when large, a mapped file. */
struct arena {
	unsigned char *p;
	size_t len, cap;
	int fd;				/* -1: ordinary memory */
};

struct snap_ent {
	uint64_t pos, id;
	uint32_t name;			/* offset in the arena of names */
	uint8_t type;			/* S_IFMT >> 12 */
};

struct snap {
	uint64_t dir;
	struct arena ents, names;
	size_t n;
	_Atomic unsigned refs;
	size_t cost;			/* bytes that it counts for in the cache */
	bool cached;			/* the rest: guarded by the cache's lock */
	struct snap *next;
	struct snap *prev_lru, *next_lru;
};

struct snap_cache {
	unsigned char secret[POS_SECRET_BYTES];
	pthread_mutex_t lock;
	struct snap *bucket[SNAP_BUCKETS];
	struct snap lru;		/* ring; the next is the one used last */
	size_t bytes;
	_Atomic unsigned n;		/* snapshots cached, or about to be */
};

struct dir {
	uint64_t id;
	struct obj *o;			/* counted as open */
	pthread_mutex_t lock;		/* guards snap */
	struct snap *snap;		/* a reference, or NULL */
};

uint64_t dir_id(const struct dir *d) { return d->id; }

/* ---- positions ---- */

static void derive_secret(const unsigned char key[16], unsigned char out[POS_SECRET_BYTES])
{
	for (unsigned i = 0; i < POS_SECRET_BYTES / 8; i++) {
		uint64_t v = XXH3_64bits_withSeed(key, 16, i);
		for (unsigned b = 0; b < 8; b++)
			out[8 * i + b] = (unsigned char)(v >> 8 * b);
	}
}

static uint64_t pos_of(const unsigned char secret[POS_SECRET_BYTES], const char *name)
{
	uint64_t h = XXH3_64bits_withSecret(name, strlen(name), secret, POS_SECRET_BYTES) & 0x7fffffffffffff00u;
	return h ? h : 0x100;
}

uint64_t local_name_pos(const unsigned char key[16], const char *name)
{
	unsigned char secret[POS_SECRET_BYTES];
	derive_secret(key, secret);
	return pos_of(secret, name);
}

/* ---- arenas ---- */

static void arena_free(struct arena *a)
{
	if (a->fd >= 0) {
		munmap(a->p, a->cap);
		close(a->fd);
	} else {
		free(a->p);
	}
}

/* Moves A into a mapped file of CAP bytes. The space is taken beforehand, so that no store into it can fail. */
static int arena_spill(struct local *l, struct arena *a, size_t cap)
{
	auto_fd int fd = a->fd >= 0 ? dup(a->fd) : openat(l->hidden_fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	int err = -posix_fallocate(fd, 0, (off_t)cap);
	if (err)
		return err;
	void *p = mmap(NULL, cap, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (p == MAP_FAILED)
		return -errno;
	if (a->fd < 0)
		memcpy(p, a->p, a->len);
	size_t len = a->len;
	arena_free(a);
	*a = (struct arena){ .p = p, .len = len, .cap = cap, .fd = steal_fd(&fd) };
	return 0;
}

static int arena_grow(struct local *l, struct arena *a, size_t more)
{
	size_t cap = a->cap ? a->cap * 2 : ARENA_MIN;
	while (cap < a->len + more)
		cap *= 2;
	if (a->fd >= 0 || cap > l->cfg.dir_cache_bytes / 2) {
		int err = arena_spill(l, a, cap);
		if (!err || a->fd >= 0)
			return err;
	}
	void *p = realloc(a->p, cap);	/* a full disk is no reason not to list */
	if (!p)
		return -ENOMEM;
	a->p = p;
	a->cap = cap;
	return 0;
}

static int arena_add(struct local *l, struct arena *a, const void *data, size_t len)
{
	int err = a->len + len > a->cap ? arena_grow(l, a, len) : 0;
	if (err)
		return err;
	memcpy(a->p + a->len, data, len);
	a->len += len;
	return 0;
}

/* ---- snapshots ---- */

static struct snap_ent *ents_of(const struct snap *s) { return (void *)s->ents.p; }
static const char *name_of(const struct snap *s, const struct snap_ent *e) { return (const char *)s->names.p + e->name; }

static void snap_put(struct snap *s)
{
	if (!s || atomic_fetch_sub(&s->refs, 1) != 1)
		return;
	arena_free(&s->ents);
	arena_free(&s->names);
	free(s);
}

static inline void cleanup_snap_(struct snap **s) { snap_put(*s); }
#define auto_snap __attribute__((cleanup(cleanup_snap_)))

struct build {
	struct local *l;
	struct obj *o;
	struct snap *s;
};

/* Is NAME, a directory whose inode is known, covered by a mount, or gone? */
static bool covered(struct build *b, const char *name)
{
	auto_fd int fd = local_openat(b->l, b->o->fd, name, O_PATH, 0);
	return fd == -EXDEV || fd == -ENOENT;
}

/* Id and type of an entry; 0 = not to be listed. */
static int identify_entry(struct build *b, const char *name, uint64_t ino, unsigned char dtype, uint64_t *id, uint32_t *type)
{
	struct statx stx;
	struct hentry e;
	*type = (uint32_t)DTTOIF(dtype);
	if (dtype != DT_UNKNOWN && !index_by_ino(b->l->cfg.handles, ino, id)) {
		if (dtype == DT_DIR && covered(b, name))
			*id = 0;
		return 0;
	}
	*id = 0;
	int err = local_identify(b->l, b->o, name, &stx, &e);
	if (err == -ENOENT || err == -EXDEV || err == -ESTALE)
		return 0;
	if (err)
		return err;
	*id = e.id;
	*type = e.type;
	return 0;
}

static int build_one(void *arg, const char *name, uint64_t ino, unsigned char dtype)
{
	struct build *b = arg;
	struct snap *s = b->s;
	uint64_t id = 0;
	uint32_t type;
	if (local_hidden(b->o, name))
		return 0;
	int err = identify_entry(b, name, ino, dtype, &id, &type);
	if (err || !id)
		return err;
	if (s->names.len > UINT32_MAX)
		return -EOVERFLOW;
	struct snap_ent e = { .pos = pos_of(b->l->snaps->secret, name), .id = id, .name = (uint32_t)s->names.len,
			      .type = (uint8_t)(type >> 12) };
	err = arena_add(b->l, &s->names, name, strlen(name) + 1);
	if (!err)
		err = arena_add(b->l, &s->ents, &e, sizeof(e));
	s->n += !err;
	return err;
}

static int compare(const void *a, const void *b, void *arg)
{
	const struct snap_ent *x = a, *y = b;
	const struct snap *s = arg;
	if (x->pos != y->pos)
		return x->pos < y->pos ? -1 : 1;
	return strcmp(name_of(s, x), name_of(s, y));
}

/* Sorts; drops what the file system listed twice while it was changing; ranks ties. */
static void arrange(struct snap *s)
{
	struct snap_ent *e = ents_of(s);
	size_t n = 0;
	uint64_t base = 0, rank = 0;
	if (!s->n)
		return;
	qsort_r(e, s->n, sizeof(*e), compare, s);
	for (size_t i = 0; i < s->n; i++) {
		if (n && e[i].pos == base && !strcmp(name_of(s, &e[i]), name_of(s, &e[n - 1])))
			continue;
		rank = e[i].pos == base ? rank + 1 : 0;
		base = e[i].pos;
		e[n] = e[i];
		e[n++].pos = base + (rank < RANK_MAX ? rank : RANK_MAX);
	}
	s->n = n;
}

static int snap_build(struct local *l, struct obj *o, struct snap **out)
{
	auto_snap struct snap *s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	*s = (struct snap){ .dir = o->id, .refs = 1, .ents.fd = -1, .names.fd = -1 };
	struct build b = { .l = l, .o = o, .s = s };
	int err = local_scan(l, o->fd, build_one, &b);
	if (err)
		return err;
	arrange(s);
	s->cost = sizeof(*s) + (s->ents.fd < 0 ? s->ents.cap : s->ents.cap / 16) + (s->names.fd < 0 ? s->names.cap : s->names.cap / 16);
	*out = steal_ptr(&s);
	return 0;
}

/* ---- the cache ---- */

int snap_cache_new(struct local *l)
{
	struct snap_cache *k = calloc(1, sizeof(*k));
	if (!k)
		return -ENOMEM;
	derive_secret(l->cfg.dir_key, k->secret);
	pthread_mutex_init(&k->lock, NULL);
	k->lru.next_lru = k->lru.prev_lru = &k->lru;
	l->snaps = k;
	return 0;
}

static struct snap **bucket_of(struct snap_cache *k, uint64_t dir)
{
	return &k->bucket[(dir * 0x9e3779b97f4a7c15u) >> 56];
}

static _Atomic uint64_t *version_of(struct local *l, uint64_t dir)
{
	return &l->dir_version[(dir ^ dir >> 20) % DIR_VERSIONS];
}

static void lru_add(struct snap_cache *k, struct snap *s)
{
	s->next_lru = k->lru.next_lru;
	s->prev_lru = &k->lru;
	s->next_lru->prev_lru = s;
	k->lru.next_lru = s;
}

static void lru_remove(struct snap *s)
{
	s->prev_lru->next_lru = s->next_lru;
	s->next_lru->prev_lru = s->prev_lru;
}

static struct snap *cache_find(struct snap_cache *k, uint64_t dir)
{
	struct snap *s = *bucket_of(k, dir);
	while (s && s->dir != dir)
		s = s->next;
	return s;
}

/* Takes S out of the cache; its reference is the caller's now. */
static void cache_remove(struct snap_cache *k, struct snap *s)
{
	struct snap **p = bucket_of(k, s->dir);
	while (*p != s)
		p = &(*p)->next;
	*p = s->next;
	lru_remove(s);
	s->cached = false;
	k->bytes -= s->cost;
	atomic_fetch_sub(&k->n, 1);
}

void snap_drop(struct local *l, uint64_t dir)
{
	struct snap_cache *k = l->snaps;
	atomic_fetch_add(version_of(l, dir), 1);
	if (!atomic_load(&k->n))
		return;
	pthread_mutex_lock(&k->lock);
	struct snap *s = cache_find(k, dir);
	if (s)
		cache_remove(k, s);
	pthread_mutex_unlock(&k->lock);
	snap_put(s);
}

/* Caches S unless its directory's version is no longer VERSION; makes room. */
static void cache_add(struct local *l, struct snap *s, uint64_t version)
{
	struct snap_cache *k = l->snaps;
	struct snap *out = NULL, *old;
	if (s->cost > l->cfg.dir_cache_bytes)
		return;
	pthread_mutex_lock(&k->lock);
	atomic_fetch_add(&k->n, 1);
	if (atomic_load(version_of(l, s->dir)) != version || cache_find(k, s->dir)) {
		atomic_fetch_sub(&k->n, 1);
	} else {
		atomic_fetch_add(&s->refs, 1);
		s->cached = true;
		s->next = *bucket_of(k, s->dir);
		*bucket_of(k, s->dir) = s;
		lru_add(k, s);
		k->bytes += s->cost;
	}
	while (k->bytes > l->cfg.dir_cache_bytes) {
		old = k->lru.prev_lru;
		cache_remove(k, old);
		old->next = out;
		out = old;
	}
	pthread_mutex_unlock(&k->lock);
	while ((old = out)) {
		out = old->next;
		snap_put(old);
	}
}

static struct snap *cache_get(struct snap_cache *k, uint64_t dir)
{
	auto_lock(&k->lock);
	struct snap *s = cache_find(k, dir);
	if (s) {
		atomic_fetch_add(&s->refs, 1);
		lru_remove(s);
		lru_add(k, s);
	}
	return s;
}

void snap_cache_free(struct local *l)
{
	struct snap_cache *k = l->snaps;
	if (!k)
		return;
	while (k->lru.next_lru != &k->lru) {
		struct snap *s = k->lru.next_lru;
		cache_remove(k, s);
		snap_put(s);
	}
	assert(!k->bytes);
	pthread_mutex_destroy(&k->lock);
	free(k);
}

static int snap_get(struct local *l, struct obj *o, struct snap **out)
{
	*out = cache_get(l->snaps, o->id);
	if (*out)
		return 0;
	uint64_t version = atomic_load(version_of(l, o->id));
	int err = snap_build(l, o, out);
	if (!err)
		cache_add(l, *out, version);
	return err;
}

/* ---- operations ---- */

int local_opendir(struct layer *layer, struct call *c, uint64_t id, struct dir **out)
{
	auto_obj struct obj *o = NULL;
	(void)c;
	int err = obj_get_dir(to_local(layer), id, &o);
	if (err)
		return err;
	auto_free struct dir *d = calloc(1, sizeof(*d));
	if (!d)
		return -ENOMEM;
	err = obj_open(o);
	if (err)
		return err;
	*d = (struct dir){ .id = id, .o = o };
	pthread_mutex_init(&d->lock, NULL);
	*out = steal_ptr(&d);
	return 0;
}

int local_releasedir(struct layer *layer, struct call *c, struct dir *d)
{
	(void)layer;
	(void)c;
	snap_put(d->snap);
	obj_close(d->o);
	pthread_mutex_destroy(&d->lock);
	free(d);
	return 0;
}

/* The snapshot that D is read from, with a reference; a new one at the start. */
static int dir_snap(struct local *l, struct dir *d, uint64_t pos, struct snap **out)
{
	auto_lock(&d->lock);
	if (!pos) {
		snap_put(d->snap);
		d->snap = NULL;
	}
	int err = d->snap ? 0 : snap_get(l, d->o, &d->snap);
	if (err)
		return err;
	atomic_fetch_add(&d->snap->refs, 1);
	*out = d->snap;
	return 0;
}

/* First entry behind POS. */
static size_t seek_pos(const struct snap *s, uint64_t pos)
{
	const struct snap_ent *e = ents_of(s);
	size_t lo = 0, hi = s->n;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		if (e[mid].pos <= pos)
			lo = mid + 1;
		else
			hi = mid;
	}
	return lo;
}

static int list_dots(struct local *l, struct dir *d, uint64_t pos, readdir_fn fn, void *arg, bool *stop)
{
	struct dirent_info e = { .name = ".", .id = d->id, .type = S_IFDIR, .pos = POS_DOT };
	if (pos < POS_DOT && fn(arg, &e)) {
		*stop = true;
		return 0;
	}
	if (pos >= POS_DOTDOT)
		return 0;
	e = (struct dirent_info){ .name = "..", .type = S_IFDIR, .pos = POS_DOTDOT };
	if (local_parent_of(l, d->o, &e.id))	/* removed meanwhile */
		e.id = d->id;
	*stop = fn(arg, &e);
	return 0;
}

int local_readdir(struct layer *layer, struct call *c, struct dir *d, uint64_t pos, readdir_fn fn, void *arg)
{
	struct local *l = to_local(layer);
	auto_snap struct snap *s = NULL;
	bool stop = false;
	(void)c;
	int err = dir_snap(l, d, pos, &s);
	if (!err)
		err = list_dots(l, d, pos, fn, arg, &stop);
	if (err || stop)
		return err;
	const struct snap_ent *e = ents_of(s);
	for (size_t i = seek_pos(s, pos > POS_RESERVED ? pos : POS_RESERVED); i < s->n; i++) {
		struct dirent_info info = { .name = name_of(s, &e[i]), .id = e[i].id, .type = (uint32_t)e[i].type << 12, .pos = e[i].pos };
		if (fn(arg, &info))
			break;
	}
	return 0;
}
