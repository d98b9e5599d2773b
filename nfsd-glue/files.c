/* See files.h. A shard's entries hang in a hash by id and, while nobody uses them, in a list, the one used last in front. */
#include "nfsd-glue/files.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"

enum { SHARDS = 16, BUCKETS = 64, LOOK_MS = 1000 };

struct nfile {
	uint64_t id;
	bool write;
	struct file *file;		/* owned */
	_Atomic bool written;		/* since the last sync */
	/* the rest: guarded by the shard's lock */
	unsigned refs;
	bool hashed;
	bool doubt;			/* its object lost a name */
	uint64_t idle_ms;		/* since when nobody uses it */
	struct nfile *next;		/* in its bucket; in a list of those to be closed */
	struct nfile *prev_idle, *next_idle;
};

struct shard {
	pthread_mutex_t mu;
	struct nfile *bucket[BUCKETS];
	struct nfile idle;		/* ring */
	unsigned n;			/* hashed */
	uint64_t doubts;		/* names that objects of this shard have lost: counts */
	bool doubtful;			/* there may be an entry to be looked at */
};

struct files {
	struct layer *top;		/* borrowed */
	unsigned max;			/* per shard */
	struct shard shard[SHARDS];
	pthread_t thread;
	pthread_mutex_t mu;		/* guards the rest; a leaf */
	pthread_cond_t wake;
	bool stop, look, close_all;
};

static struct shard *shard_of(struct files *t, uint64_t id, unsigned *bucket)
{
	uint64_t h = id * 0x9e3779b97f4a7c15u;

	*bucket = (unsigned)(h >> 40) % BUCKETS;
	return &t->shard[(h >> 58) % SHARDS];
}

static struct nfile *find(const struct shard *s, unsigned bucket, uint64_t id, bool write)
{
	struct nfile *n = s->bucket[bucket];

	while (n && (n->id != id || (write && !n->write)))
		n = n->next;
	return n;
}

static void idle_remove(struct nfile *n)
{
	n->prev_idle->next_idle = n->next_idle;
	n->next_idle->prev_idle = n->prev_idle;
}

static void idle_add(struct shard *s, struct nfile *n)
{
	n->next_idle = s->idle.next_idle;
	n->prev_idle = &s->idle;
	n->next_idle->prev_idle = n;
	s->idle.next_idle = n;
	n->idle_ms = clock_mono_ms();
}

static void unhash(struct shard *s, unsigned bucket, struct nfile *n)
{
	struct nfile **p = &s->bucket[bucket];

	while (*p != n)
		p = &(*p)->next;
	*p = n->next;
	n->hashed = false;
	s->n--;
}

static void ref(struct nfile *n)
{
	if (!n->refs++ && n->hashed)
		idle_remove(n);
}

/* Nobody uses N any more and nobody can find it. */
static void close_file(struct files *t, struct nfile *n)
{
	struct call c = { .origin = ORIGIN_NFS };
	struct attr a;

	if (!n)
		return;
	if (atomic_load(&n->written) && !t->top->ops->getattr(t->top, &c, n->id, n->file, &a) && a.nlink)
		t->top->ops->fsync(t->top, &c, n->id, n->file, true);	/* who watches flushes hears of an error */
	t->top->ops->release(t->top, &c, n->file);
	free(n);
}

/* ---- users ---- */

/* Takes the entry idle for longest out of S when there are too many. */
static struct nfile *make_room(struct files *t, struct shard *s)
{
	struct nfile *n = s->idle.prev_idle;
	unsigned bucket;

	if (s->n < t->max || n == &s->idle)
		return NULL;
	idle_remove(n);
	shard_of(t, n->id, &bucket);
	unhash(s, bucket, n);
	return n;
}

static int open_new(struct files *t, uint64_t id, bool write, struct nfile **out)
{
	struct call c = { .origin = ORIGIN_NFS };
	struct nfile *n = calloc(1, sizeof *n);

	if (!n)
		return -ENOMEM;
	*n = (struct nfile){ .id = id, .write = write, .refs = 1 };
	int r = t->top->ops->open(t->top, &c, id, write ? O_RDWR : O_RDONLY, &n->file);
	if (r)
		free(n);
	else
		*out = n;
	return r;
}

int files_get(struct files *t, uint64_t id, bool write, struct nfile **out)
{
	struct nfile *n, *other, *evicted = NULL;
	unsigned bucket;
	struct shard *s = shard_of(t, id, &bucket);

	pthread_mutex_lock(&s->mu);
	n = find(s, bucket, id, write);
	if (n)
		ref(n);
	uint64_t doubts = s->doubts;
	pthread_mutex_unlock(&s->mu);
	if ((*out = n))
		return 0;
	int r = open_new(t, id, write, out);
	if (r)
		return r;
	n = *out;
	pthread_mutex_lock(&s->mu);
	other = find(s, bucket, id, write);
	if (other) {			/* somebody was quicker: his; ours is closed */
		ref(other);
		*out = other;
	} else if (s->doubts == doubts) {
		evicted = make_room(t, s);
		n->hashed = true;
		n->next = s->bucket[bucket];
		s->bucket[bucket] = n;
		s->n++;
	}				/* else it may be gone already: it is closed with its last use */
	pthread_mutex_unlock(&s->mu);
	close_file(t, other ? n : evicted);
	return 0;
}

struct nfile *files_find_written(struct files *t, uint64_t id)
{
	unsigned bucket;
	struct shard *s = shard_of(t, id, &bucket);

	auto_lock(&s->mu);
	struct nfile *n = find(s, bucket, id, true);
	if (n)
		ref(n);
	return n;
}

void files_put(struct files *t, struct nfile *n)
{
	unsigned bucket;
	struct shard *s = shard_of(t, n->id, &bucket);
	bool last;

	pthread_mutex_lock(&s->mu);
	last = !--n->refs && !n->hashed;
	if (!n->refs && n->hashed)
		idle_add(s, n);
	pthread_mutex_unlock(&s->mu);
	if (last)
		close_file(t, n);
}

struct file *nfile_file(const struct nfile *n) { return n->file; }
void nfile_wrote(struct nfile *n) { atomic_store(&n->written, true); }
void nfile_syncing(struct nfile *n) { atomic_store(&n->written, false); }

/* ---- objects that lose names ---- */

void files_observe(void *files, const struct change *c)
{
	struct files *t = files;
	unsigned bucket;
	bool found = false;

	if (c->kind != CHANGE_ENTRY || !c->child)
		return;
	struct shard *s = shard_of(t, c->child, &bucket);
	pthread_mutex_lock(&s->mu);
	s->doubts++;
	for (struct nfile *n = s->bucket[bucket]; n; n = n->next)
		if (n->id == c->child)
			n->doubt = found = true;
	s->doubtful |= found;
	pthread_mutex_unlock(&s->mu);
	if (!found)
		return;
	auto_lock(&t->mu);
	t->look = true;
	pthread_cond_signal(&t->wake);
}

/* An entry in doubt, with a reference. */
static struct nfile *next_doubtful(struct shard *s)
{
	auto_lock(&s->mu);
	for (unsigned b = 0; s->doubtful && b < BUCKETS; b++)
		for (struct nfile *n = s->bucket[b]; n; n = n->next)
			if (n->doubt) {
				n->doubt = false;
				ref(n);
				return n;
			}
	s->doubtful = false;
	return NULL;
}

static void look_at_doubtful(struct files *t, struct shard *s)
{
	struct nfile *n;

	while ((n = next_doubtful(s))) {
		struct call c = { .origin = ORIGIN_NFS };
		struct attr a;
		unsigned bucket;

		shard_of(t, n->id, &bucket);
		if (t->top->ops->getattr(t->top, &c, n->id, n->file, &a) || !a.nlink) {
			pthread_mutex_lock(&s->mu);
			if (n->hashed)
				unhash(s, bucket, n);
			pthread_mutex_unlock(&s->mu);
		}
		files_put(t, n);
	}
}

/* ---- the thread ---- */

/* Closes what has been idle since UNTIL or before. */
static void close_old(struct files *t, struct shard *s, uint64_t until)
{
	struct nfile *old = NULL, *n;
	unsigned bucket;

	pthread_mutex_lock(&s->mu);
	while ((n = s->idle.prev_idle) != &s->idle && n->idle_ms <= until) {
		idle_remove(n);
		shard_of(t, n->id, &bucket);
		unhash(s, bucket, n);
		n->next = old;
		old = n;
	}
	pthread_mutex_unlock(&s->mu);
	while ((n = old)) {
		old = n->next;
		close_file(t, n);
	}
}

void files_close_idle(struct files *t)
{
	auto_lock(&t->mu);
	t->look = true;
	t->close_all = true;
	pthread_cond_signal(&t->wake);
}

static void *files_main(void *arg)
{
	struct files *t = arg;

	pthread_mutex_lock(&t->mu);
	while (!t->stop) {
		struct timespec until = clock_mono_after_ms(LOOK_MS);

		if (!t->look)
			pthread_cond_timedwait(&t->wake, &t->mu, &until);
		bool all = t->close_all;
		t->look = t->close_all = false;
		pthread_mutex_unlock(&t->mu);
		uint64_t now = clock_mono_ms();
		for (unsigned i = 0; i < SHARDS; i++) {
			look_at_doubtful(t, &t->shard[i]);
			close_old(t, &t->shard[i], all ? UINT64_MAX : now > FILES_IDLE_MS ? now - FILES_IDLE_MS : 0);
		}
		pthread_mutex_lock(&t->mu);
	}
	pthread_mutex_unlock(&t->mu);
	return NULL;
}

unsigned files_count(struct files *t)
{
	unsigned n = 0;

	for (unsigned i = 0; i < SHARDS; i++) {
		auto_lock(&t->shard[i].mu);
		n += t->shard[i].n;
	}
	return n;
}

/* ---- life ---- */

int files_new(struct layer *top, unsigned max, struct files **out)
{
	struct files *t = calloc(1, sizeof *t);

	if (!t)
		return -ENOMEM;
	t->top = top;
	t->max = ((max ? max : FILES_MAX_DEFAULT) + SHARDS - 1) / SHARDS;
	for (unsigned i = 0; i < SHARDS; i++) {
		struct shard *s = &t->shard[i];
		pthread_mutex_init(&s->mu, NULL);
		s->idle.next_idle = s->idle.prev_idle = &s->idle;
	}
	pthread_mutex_init(&t->mu, NULL);
	cond_init_mono(&t->wake);
	int r = pthread_create(&t->thread, NULL, files_main, t);
	if (r) {
		free(t);
		return -r;
	}
	*out = t;
	return 0;
}

void files_free(struct files *t)
{
	if (!t)
		return;
	pthread_mutex_lock(&t->mu);
	t->stop = true;
	pthread_cond_signal(&t->wake);
	pthread_mutex_unlock(&t->mu);
	pthread_join(t->thread, NULL);
	for (unsigned i = 0; i < SHARDS; i++) {
		close_old(t, &t->shard[i], UINT64_MAX);
		pthread_mutex_destroy(&t->shard[i].mu);
	}
	pthread_cond_destroy(&t->wake);
	pthread_mutex_destroy(&t->mu);
	free(t);
}
