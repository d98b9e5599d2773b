/*
 * Invalidation: what others change (the standby's apply, the NFS server) the kernel must not go on believing. Changes are told under objects'
 * locks, and a notification may have to wait for a kernel lock whose holder waits for one of our replies; so the observer only copies the change into a
 * ring, and one thread notifies, holding nothing.
 *
 * The ring holds INVAL_RING bytes of records (header, name, padding to 8). When it is full the change is not queued and `lost` is set; then the thread, before
 * it goes on, has the kernel look up every entry again (NOTIFY_INC_EPOCH), which brings fresh attributes too; a kernel that can't do that (before 6.16) believes
 * stale entries until they time out, and the log says so. A file that is open meanwhile may show old attributes that long.
 *
 * What the NFS server changes its own thread notifies, when it settles: it waits for that anyway, and handing it to another thread and back would cost it half of its speed. Till
 * then the changes wait in a list of the thread's (`mine`); what doesn't fit there goes into the ring. In which order kernels hear of changes doesn't matter: they only forget.
 *
 * A lookup that read the old state cannot come after its own invalidation: the kernel holds the directory's lock over LOOKUP and takes it for an entry
 * notification; attributes carry a version.
 *
 * What the kernel doesn't know it needn't be told about: the front counts the entries that it gave and that weren't forgotten (fuse_front.known, by hash). An answer
 * that is being made may rest on the state before a change, so while one that gives entries is under way (fuse_front.giving) everything is told. The order of
 * looking matters: `giving` first. When it is 0, whoever read the old state has counted his entry already.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "fs/base/log.h"
#include "fs/fuse_front.h"

enum { INVAL_RING = 4 << 20 };

struct record {
	uint64_t id, off, len, child;
	uint32_t kind;
	uint32_t name_len;
};

struct inval {
	struct fuse_front *f;		/* borrowed */
	pthread_t thread;
	bool started;
	pthread_mutex_t mu;		/* guards all below */
	pthread_cond_t work;		/* there is something, or the end */
	pthread_cond_t settled;		/* done moved, or the end */
	bool running;			/* the mount is up: record changes */
	bool lost;
	uint64_t head, tail;		/* bytes ever put and taken; head - tail <= INVAL_RING */
	uint64_t done;			/* tail of the last record that was notified */
	uint64_t last_at;		/* where the last record that was put begins */
	struct record last;
	unsigned char *ring;		/* owned */
};

enum { MINE_MAX = 8, MINE_NAMES = 2 };

/* Changes of ORIGIN_NFS by this thread that the kernel has not been told yet. */
static _Thread_local struct {
	struct inval *v;		/* whose; borrowed, compared only, unless it is the one that settles */
	unsigned n, names;
	struct record r[MINE_MAX];
	char name[MINE_NAMES][LAYER_NAME_MAX + 1];	/* of the CHANGE_ENTRYs, in order */
} mine;

static size_t record_size(size_t name_len) { return sizeof(struct record) + ((name_len + 7) & ~(size_t)7); }

static void ring_put(struct inval *v, const void *p, size_t len)
{
	size_t at = v->head % INVAL_RING, first = INVAL_RING - at < len ? INVAL_RING - at : len;

	memcpy(v->ring + at, p, first);
	memcpy(v->ring, (const char *)p + first, len - first);
	v->head += len;
}

static void ring_get(struct inval *v, void *p, size_t len)
{
	size_t at = v->tail % INVAL_RING, first = INVAL_RING - at < len ? INVAL_RING - at : len;

	memcpy(p, v->ring + at, first);
	memcpy((char *)p + first, v->ring, len - first);
	v->tail += len;
}

/* Will a record that still waits bring about what CHANGE_ATTR of ID asks for? With mu held. */
static bool covered(const struct inval *v, uint64_t id)
{
	const struct record *l = &v->last;
	bool waits = v->head > v->last_at && v->tail <= v->last_at;

	return waits && ((l->kind != CHANGE_DATA && l->id == id) || (l->kind == CHANGE_ENTRY && l->child == id));
}

static bool mine_covered(uint64_t id)
{
	for (unsigned i = 0; i < mine.n; i++)
		if ((mine.r[i].kind != CHANGE_DATA && mine.r[i].id == id) || (mine.r[i].kind == CHANGE_ENTRY && mine.r[i].child == id))
			return true;
	return false;
}

/* False: it doesn't fit. */
static bool keep_mine(struct inval *v, const struct record *r, const char *name)
{
	if (!mine.n)
		mine.v = v;
	if (mine.v != v)
		return false;
	if (r->kind == CHANGE_ATTR && mine_covered(r->id))
		return true;
	if (mine.n == MINE_MAX || (r->kind == CHANGE_ENTRY && mine.names == MINE_NAMES))
		return false;
	mine.r[mine.n++] = *r;
	if (r->kind == CHANGE_ENTRY)
		memcpy(mine.name[mine.names++], name, r->name_len + 1);
	return true;
}

static bool unknown(struct fuse_front *f, const struct change *c)
{
	return !atomic_load(&f->giving) && !atomic_load(fuse_known(f, c->id)) &&
	       (c->kind != CHANGE_ENTRY || !c->child || !atomic_load(fuse_known(f, c->child)));
}

void inval_observe(void *inval, const struct change *c)
{
	struct inval *v = inval;
	size_t name_len = c->kind == CHANGE_ENTRY ? strlen(c->name) : 0;
	struct record r = { .id = c->id, .off = c->off, .len = c->len, .child = c->child, .kind = (uint32_t)c->kind,
			    .name_len = (uint32_t)name_len };
	static const char pad[8];

	if (c->origin == ORIGIN_FUSE)
		return;		/* through this very mount: the kernel knows */
	if (unknown(v->f, c) || (c->origin == ORIGIN_NFS && keep_mine(v, &r, c->name)))
		return;
	auto_lock(&v->mu);
	if (!v->running || (c->kind == CHANGE_ATTR && covered(v, c->id)))
		return;
	if (v->head - v->tail + record_size(name_len) > INVAL_RING) {
		v->lost = true;
		return;
	}
	v->last = r;
	v->last_at = v->head;
	ring_put(v, &r, sizeof r);
	if (name_len) {
		ring_put(v, c->name, name_len);
		ring_put(v, pad, record_size(name_len) - sizeof r - name_len);
	}
	pthread_cond_signal(&v->work);
}

/* ---- the thread ---- */

static void report(const char *what, uint64_t id, int r)
{
	/* -ENOENT: the kernel doesn't know it; the others: the mount is ending. */
	if (r && r != -ENOENT && r != -ENODEV && r != -ENOTCONN && r != -EBADF && r != -ENOTDIR)
		log_warn("fuse: %016llx: can't invalidate %s: %s", (unsigned long long)id, what, strerror(-r));
}

static void notify(struct inval *v, const struct record *r, const char *name)
{
	struct fuse_session *se = v->f->se;

	switch ((enum change_kind)r->kind) {
	case CHANGE_ATTR:
		report("attributes", r->id, fuse_lowlevel_notify_inval_inode(se, r->id, -1, 0));
		break;
	case CHANGE_DATA:
		report("data", r->id, fuse_lowlevel_notify_inval_inode(se, r->id, (off_t)r->off, (off_t)r->len));
		break;
	case CHANGE_ENTRY:
		report("an entry", r->id, fuse_lowlevel_notify_inval_entry(se, r->id, name, r->name_len));
		report("attributes", r->id, fuse_lowlevel_notify_inval_inode(se, r->id, -1, 0));
		if (r->child)
			report("attributes", r->child, fuse_lowlevel_notify_inval_inode(se, r->child, -1, 0));
		break;
	}
}

static void notify_mine(struct inval *v)
{
	unsigned names = 0;

	if (mine.v != v)
		return;
	for (unsigned i = 0; i < mine.n; i++)
		notify(v, &mine.r[i], mine.r[i].kind == CHANGE_ENTRY ? mine.name[names++] : NULL);
	mine.n = mine.names = 0;
}

static void make_up_for_lost(struct inval *v)
{
	int r = fuse_raw_inc_epoch(v->f);

	if (r)
		log_error("fuse: %s: too many changes at once: the kernel's caches may be stale for up to %.0f s; mount again to be sure: %s",
			  v->f->cfg.mount_point, v->f->entry_timeout, strerror(-r));
	else
		log_warn("fuse: %s: too many changes at once: the kernel looks everything up again", v->f->cfg.mount_point);
}

static void *inval_main(void *arg)
{
	struct inval *v = arg;
	char name[LAYER_NAME_MAX + 8 + 1];
	struct record r;
	uint64_t upto = 0;	/* those who settle are woken when all that was queued at a time is done, not by each of its records */

	pthread_mutex_lock(&v->mu);
	while (v->running) {
		bool lost = v->lost;

		if (v->tail == v->head && !lost) {
			pthread_cond_wait(&v->work, &v->mu);
			continue;
		}
		v->lost = false;
		if (lost) {
			pthread_mutex_unlock(&v->mu);
			make_up_for_lost(v);
			pthread_mutex_lock(&v->mu);
			continue;
		}
		if (v->tail == upto)
			upto = v->head;
		ring_get(v, &r, sizeof r);
		ring_get(v, name, record_size(r.name_len) - sizeof r);
		name[r.name_len] = '\0';
		pthread_mutex_unlock(&v->mu);
		notify(v, &r, name);
		pthread_mutex_lock(&v->mu);
		v->done = v->tail;
		if (v->done == upto)
			pthread_cond_broadcast(&v->settled);
	}
	pthread_mutex_unlock(&v->mu);
	return NULL;
}

/* ---- life ---- */

int inval_new(struct fuse_front *f, struct inval **out)
{
	struct inval *v = calloc(1, sizeof *v);

	if (!v || !(v->ring = malloc(INVAL_RING))) {
		free(v);
		return -ENOMEM;
	}
	v->f = f;
	pthread_mutex_init(&v->mu, NULL);
	pthread_cond_init(&v->work, NULL);
	pthread_cond_init(&v->settled, NULL);
	*out = v;
	return 0;
}

int inval_start(struct inval *v)
{
	int r;

	v->running = true;
	r = pthread_create(&v->thread, NULL, inval_main, v);
	if (r)
		v->running = false;
	v->started = !r;
	return -r;
}

void inval_stop(struct inval *v)
{
	if (!v->started)
		return;
	pthread_mutex_lock(&v->mu);
	v->running = false;
	pthread_cond_signal(&v->work);
	pthread_cond_broadcast(&v->settled);
	pthread_mutex_unlock(&v->mu);
	pthread_join(v->thread, NULL);
	v->started = false;
}

void inval_free(struct inval *v)
{
	if (!v)
		return;
	inval_stop(v);
	pthread_cond_destroy(&v->work);
	pthread_cond_destroy(&v->settled);
	pthread_mutex_destroy(&v->mu);
	free(v->ring);
	free(v);
}

/* The next file above AFTER that is open for writing; 0 = none. */
static uint64_t next_writable(struct fuse_front *f, uint64_t after)
{
	uint64_t next = 0;
	auto_lock(&f->open_mu);

	for (const struct fh *h = f->open; h; h = h->next) {
		if (!h->file || (file_flags(h->file) & O_ACCMODE) == O_RDONLY)
			continue;
		uint64_t id = file_id(h->file);
		if (id > after && (!next || id < next))
			next = id;
	}
	return next;
}

/* Invalidating pages makes the kernel write the dirty ones first. */
void fuse_front_write_back(struct fuse_front *f)
{
	uint64_t id = 0;

	while ((id = next_writable(f, id)))
		report("dirty pages", id, fuse_lowlevel_notify_inval_inode(f->se, id, 0, 0));
}

void inval_settle(struct inval *v)
{
	pthread_mutex_lock(&v->mu);
	uint64_t upto = v->head;
	bool running = v->running;
	pthread_mutex_unlock(&v->mu);
	if (running)
		notify_mine(v);
	else if (mine.v == v)
		mine.n = mine.names = 0;
	pthread_mutex_lock(&v->mu);
	while (v->running && v->done < upto)
		pthread_cond_wait(&v->settled, &v->mu);
	pthread_mutex_unlock(&v->mu);
}

/* The kernel launders dirty pages of the range (their contents come as WRITEs, served by other threads) before it drops them. */
void fuse_front_flush_range(struct fuse_front *f, uint64_t id, uint64_t off, uint64_t len)
{
	if (atomic_load(fuse_writers(f, id)) && off <= INT64_MAX)
		report("a range", id, fuse_lowlevel_notify_inval_inode(f->se, id, (off_t)off, len > INT64_MAX - off ? 0 : (off_t)len));
}
