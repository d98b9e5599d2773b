/*
 * Objects by id: a cache of O_PATH descriptors, which makes hot objects cheap and keeps open ones findable.
 *
 * An id is turned into a descriptor through the index: its local handle is opened, and the mark on what was opened must name the same
 * id. The descriptor stays in the cache while it is used, then among the idle ones of its shard, of which a bounded number is kept,
 * those used last. An O_PATH descriptor pins its inode; so an object that loses its last name leaves the cache
 * at once, unless it is open: then it stays findable, dead, until the last open ends. Its index entry goes with the last reference: who works on
 * it by its id at that moment must not half fail.
 *
 * An object that is removed through FUSE lingers: until the kernel says that it has let go of it, or that is given up, it is as if one more had it
 * open. So who found it by its path before it was removed can still use it, as on any file system; by handle (lookup of ".") it is gone at once.
 *
 * A load runs without the shard's lock. Its object may lose its last name meanwhile; the shard counts such losses, and
 * a load that overlapped with one is done again.
 */
#include "fs/local_int.h"

#include <assert.h>

static struct obj_shard *shard_of(struct local *l, uint64_t id, unsigned *bucket)
{
	uint64_t h = id * 0x9e3779b97f4a7c15u;
	*bucket = (unsigned)(h >> 40) % OBJ_BUCKETS;
	return &l->shard[(h >> 58) % OBJ_SHARDS];
}

static struct obj *find(const struct obj_shard *s, unsigned bucket, uint64_t id)
{
	for (struct obj *o = s->bucket[bucket]; o; o = o->next)
		if (o->id == id)
			return o;
	return NULL;
}

static void idle_remove(struct obj_shard *s, struct obj *o)
{
	o->prev_idle->next_idle = o->next_idle;
	o->next_idle->prev_idle = o->prev_idle;
	o->prev_idle = o->next_idle = NULL;
	s->n_idle--;
}

static void idle_add(struct obj_shard *s, struct obj *o)
{
	o->next_idle = s->idle.next_idle;
	o->prev_idle = &s->idle;
	o->next_idle->prev_idle = o;
	s->idle.next_idle = o;
	s->n_idle++;
}

static void unhash(struct obj_shard *s, unsigned bucket, struct obj *o)
{
	struct obj **p = &s->bucket[bucket];
	while (*p != o)
		p = &(*p)->next;
	*p = o->next;
	o->hashed = false;
}

static void ref(struct obj_shard *s, struct obj *o)
{
	if (!o->refs++)
		idle_remove(s, o);
}

static void obj_free(struct obj *o)
{
	if (!o)
		return;
	close(o->fd);
	free(o);
}

int obj_cache_init(struct local *l)
{
	for (unsigned i = 0; i < OBJ_SHARDS; i++) {
		struct obj_shard *s = &l->shard[i];
		pthread_mutex_init(&s->lock, NULL);
		s->idle.next_idle = s->idle.prev_idle = &s->idle;
	}
	pthread_rwlockattr_t a;
	pthread_rwlockattr_init(&a);
	pthread_rwlockattr_setkind_np(&a, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&l->forgetting, &a);
	pthread_rwlockattr_destroy(&a);
	return 0;
}

/* Takes the idle object used longest ago out of S; NULL = none. S is locked. */
static struct obj *evict_one(struct local *l, struct obj_shard *s)
{
	struct obj *o = s->idle.prev_idle;
	unsigned bucket;
	if (o == &s->idle)
		return NULL;
	idle_remove(s, o);
	shard_of(l, o->id, &bucket);
	unhash(s, bucket, o);
	return o;
}

bool obj_shrink(struct local *l)
{
	bool any = false;
	for (unsigned i = 0; i < OBJ_SHARDS; i++) {
		struct obj *o;
		do {
			pthread_mutex_lock(&l->shard[i].lock);
			o = evict_one(l, &l->shard[i]);
			pthread_mutex_unlock(&l->shard[i].lock);
			obj_free(o);
			any |= o != NULL;
		} while (o);
	}
	return any;
}

void obj_cache_free(struct local *l)
{
	obj_linger_end(l);
	obj_shrink(l);
	for (unsigned i = 0; i < OBJ_SHARDS; i++)
		pthread_mutex_destroy(&l->shard[i].lock);
	pthread_rwlock_destroy(&l->forgetting);
}

static void entry_del(struct local *l, uint64_t id)
{
	int err = index_del(l->cfg.handles, id);
	if (err && err != -ESTALE)
		log_warn("local: object %llx: its index entry could not be removed", (unsigned long long)id);
}

void obj_put(struct obj *o)
{
	struct local *l = o->l;
	struct obj *gone = NULL;
	unsigned bucket;
	struct obj_shard *s = shard_of(l, o->id, &bucket);
	pthread_mutex_lock(&s->lock);
	assert(o->refs > 0);
	if (!--o->refs) {
		if (o->hashed) {
			idle_add(s, o);
			if (s->n_idle > l->idle_max)
				gone = evict_one(l, s);
		} else {
			gone = o;
		}
	}
	pthread_mutex_unlock(&s->lock);
	if (gone && gone->entry)
		entry_del(l, gone->id);
	obj_free(gone);
}

/* ---- loading ---- */

/* Opens ID by its handle and checks that it is what the index says. An O_PATH fd or -errno. */
static int load(struct local *l, uint64_t id, struct hentry *e, struct statx *stx)
{
	uint64_t marked = 0;
	int err = index_get(l->cfg.handles, id, e);
	if (err)
		return err;
	auto_fd int fd = local_handle_open(l->cfg.handles, &e->lh, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if ((fd == -EMFILE || fd == -ENFILE) && obj_shrink(l))
		fd = local_handle_open(l->cfg.handles, &e->lh, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return fd;
	err = mark_get(l->cfg.handles, fd, &marked, NULL);
	if (!err)
		err = local_statx(fd, "", stx);
	if (err == -ENODATA || err == -EXDEV)
		return -ESTALE;
	if (err)
		return err;
	if (marked != id || (stx->stx_mode & S_IFMT) != e->type || !stx->stx_nlink)
		return -ESTALE;
	return steal_fd(&fd);
}

static struct obj *obj_alloc(struct local *l, uint64_t id, int fd, uint64_t ino, uint32_t type, uint32_t flags)
{
	struct obj *o = calloc(1, sizeof(*o));
	if (!o)
		return NULL;
	*o = (struct obj){ .l = l, .id = id, .ino = ino, .type = type, .fd = fd, .refs = 1, .tmp = flags & HENTRY_TMPFILE,
			   .defacl = flags & HENTRY_DEFACL, .nocaps = flags & OBJ_NOCAPS };
	return o;
}

/* Puts NEW (one reference, the caller's) into the cache, or finds that another thread did: then NEW goes to *LOSER. S is locked. */
static struct obj *add(struct obj_shard *s, unsigned bucket, struct obj *new, struct obj **loser)
{
	struct obj *o = find(s, bucket, new->id);
	*loser = NULL;
	if (o) {
		ref(s, o);
		*loser = new;
		return o;
	}
	new->hashed = true;
	new->next = s->bucket[bucket];
	s->bucket[bucket] = new;
	return new;
}

int obj_insert(struct local *l, uint64_t id, int fd, uint64_t ino, uint32_t type, uint32_t flags, struct obj **out)
{
	unsigned bucket;
	struct obj_shard *s = shard_of(l, id, &bucket);
	struct obj *loser, *new = obj_alloc(l, id, fd, ino, type, flags);
	if (!new)
		return -ENOMEM;
	pthread_mutex_lock(&s->lock);
	*out = add(s, bucket, new, &loser);
	pthread_mutex_unlock(&s->lock);
	obj_free(loser);
	return 0;
}

bool obj_pinned(struct local *l, uint64_t id, uint64_t ino)
{
	unsigned bucket;
	struct obj_shard *s = shard_of(l, id, &bucket);
	pthread_mutex_lock(&s->lock);
	struct obj *o = find(s, bucket, id);
	bool pinned = o && o->ino == ino && !o->dead;
	pthread_mutex_unlock(&s->lock);
	return pinned;
}

/* The object from the cache, or NULL and the count of drops. */
static struct obj *get_cached(struct obj_shard *s, unsigned bucket, uint64_t id, uint64_t *drops)
{
	pthread_mutex_lock(&s->lock);
	struct obj *o = find(s, bucket, id);
	if (o)
		ref(s, o);
	*drops = s->drops;
	pthread_mutex_unlock(&s->lock);
	return o;
}

static int get_cold(struct local *l, struct obj_shard *s, unsigned bucket, uint64_t id, uint64_t drops, struct obj **out)
{
	struct hentry e;
	struct statx stx;
	auto_fd int fd = load(l, id, &e, &stx);
	if (fd < 0)
		return fd;
	uint32_t flags = (e.flags & HENTRY_TMPFILE) | (e.type == S_IFDIR && local_has_defacl(fd) ? HENTRY_DEFACL : 0);
	struct obj *loser = NULL, *new = obj_alloc(l, id, fd, stx.stx_ino, e.type, flags);
	if (!new)
		return -ENOMEM;
	steal_fd(&fd);
	pthread_mutex_lock(&s->lock);
	if (s->drops == drops)
		*out = add(s, bucket, new, &loser);
	else
		loser = new;
	bool again = s->drops != drops;
	pthread_mutex_unlock(&s->lock);
	obj_free(loser);
	return again ? -EAGAIN : 0;
}

int obj_get(struct local *l, uint64_t id, struct obj **out)
{
	unsigned bucket;
	struct obj_shard *s = shard_of(l, id, &bucket);
	uint64_t drops;
	int err;
	do {
		*out = get_cached(s, bucket, id, &drops);
		if (*out)
			return 0;
		err = id_valid(id) ? get_cold(l, s, bucket, id, drops, out) : -ESTALE;
	} while (err == -EAGAIN);
	if (err == -ESTALE)	/* it may have come into the cache, and lost its last name, meanwhile */
		*out = get_cached(s, bucket, id, &drops);
	return *out ? 0 : err;
}

int obj_get_dir(struct local *l, uint64_t id, struct obj **out)
{
	auto_obj struct obj *o = NULL;
	int err = obj_get(l, id, &o);
	if (err)
		return err;
	if (o->type != S_IFDIR)
		return -ENOTDIR;
	*out = steal_ptr(&o);
	return 0;
}

/* ---- death ---- */

void obj_drop(struct local *l, uint64_t id)
{
	unsigned bucket;
	struct obj *gone = NULL;
	struct obj_shard *s = shard_of(l, id, &bucket);
	pthread_mutex_lock(&s->lock);
	struct obj *o = find(s, bucket, id);
	bool open = o && o->opens;
	s->drops++;
	if (o) {
		o->dead = true;
		o->entry = open;
		if (!open)
			unhash(s, bucket, o);
		if (!o->refs) {
			idle_remove(s, o);
			gone = o;
		}
	}
	pthread_mutex_unlock(&s->lock);
	obj_free(gone);
	if (!open)
		entry_del(l, id);
	else if (index_set_flags(l->cfg.handles, id, HENTRY_DEAD, 0))
		log_warn("local: object %llx: its index entry could not be marked", (unsigned long long)id);
}

int obj_open(struct obj *o)
{
	unsigned bucket;
	struct obj_shard *s = shard_of(o->l, o->id, &bucket);
	pthread_mutex_lock(&s->lock);
	bool stale = !o->hashed || (o->dead && !o->opens);
	if (!stale) {
		o->opens++;
		o->refs++;
	}
	pthread_mutex_unlock(&s->lock);
	return stale ? -ESTALE : 0;
}

void obj_close(struct obj *o)
{
	unsigned bucket;
	struct local *l = o->l;
	struct obj_shard *s = shard_of(l, o->id, &bucket);
	pthread_mutex_lock(&s->lock);
	assert(o->opens > 0);
	if (!--o->opens && o->dead)
		unhash(s, bucket, o);
	pthread_mutex_unlock(&s->lock);
	obj_put(o);
}

bool obj_is_open(struct obj *o)
{
	unsigned bucket;
	struct obj_shard *s = shard_of(o->l, o->id, &bucket);
	pthread_mutex_lock(&s->lock);
	bool open = o->opens > 0;
	pthread_mutex_unlock(&s->lock);
	return open;
}

/* ---- lingering ---- */

void obj_linger(struct local *l, uint64_t id)
{
	unsigned bucket;
	auto_obj struct obj *o = NULL;
	struct obj_shard *s = shard_of(l, id, &bucket);
	if (obj_get(l, id, &o))
		return;
	pthread_mutex_lock(&s->lock);
	bool first = o->hashed && !o->lingers;
	if (first) {
		o->lingers = true;
		o->opens++;
		o->refs++;
		atomic_fetch_add(&l->lingering, 1);
	}
	pthread_mutex_unlock(&s->lock);
	uint64_t oldest = first ? atomic_exchange(&l->linger[atomic_fetch_add(&l->linger_next, 1) % LINGER_MAX], id) : 0;
	if (oldest)
		obj_forget(l, oldest);
}

void obj_forget(struct local *l, uint64_t id)
{
	unsigned bucket;
	struct obj_shard *s = shard_of(l, id, &bucket);
	if (!atomic_load(&l->lingering))
		return;
	pthread_rwlock_rdlock(&l->forgetting);
	pthread_mutex_lock(&s->lock);
	struct obj *o = find(s, bucket, id);
	if (o && o->lingers)
		o->lingers = false;
	else
		o = NULL;
	pthread_mutex_unlock(&s->lock);
	if (o) {
		obj_close(o);
		atomic_fetch_sub(&l->lingering, 1);
	}
	pthread_rwlock_unlock(&l->forgetting);
}

bool obj_linger_end(struct local *l)
{
	if (!atomic_load(&l->lingering))
		return false;
	for (unsigned i = 0; i < LINGER_MAX; i++) {
		uint64_t id = atomic_exchange(&l->linger[i], 0);
		if (id)
			obj_forget(l, id);
	}
	pthread_rwlock_wrlock(&l->forgetting);	/* until those that others are ending have ended, too */
	pthread_rwlock_unlock(&l->forgetting);
	return true;
}
