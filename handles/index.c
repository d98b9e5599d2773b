/*
 * The index: what its callers see.
 *
 * An entry is looked for in the delta's active half, in its frozen half (while that is being folded), and in the
 * database; the first that knows the id is right. Every change goes to the active half: in place when the id has a record there,
 * else by a new record that holds the whole entry. So the change of one field that is made over and over, the ctime of a file being
 * written, costs a hash look-up and 40 bytes in memory.
 *
 * Ids hash to stripes. A stripe's mutex guards the chains of its ids in both halves, and its read transaction, which
 * is renewed for each look-up in the database: it takes no place in LMDB's table of readers while it is idle.
 * Inode numbers have stripes of their own. Who holds all stripes may exchange the halves: that is the whole cost of a
 * fold for the others. Its work, sorted by id, is then done in the folder's thread while calls go on.
 *
 * When the active half is full before the other is folded, changes that need a record wait. When folding fails (no
 * room in the state directory) they fail, each after one more attempt; changes in place go on.
 *
 * Inode numbers are used again by local file systems, so a mapping from one is a claim: the youngest put counts, removing
 * an entry removes only its own claim, and every answer is checked against the entry that it leads to.
 *
 * While a rebuild runs, "unknown" means "not yet": the caller waits until the walk finds the id or ends. What was
 * removed meanwhile is remembered (tombstones), so that a walk that saw it a moment before can't bring it back.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/log.h"
#include "handles/internal.h"

enum { FOLD_BATCH = 8192, INO_CANDIDATES = 6 };

struct index_tuning index_tuning = { .records = DELTA_RECORDS, .map_bytes = DB_MAP_BYTES };

/* ---- stripes ---- */

static struct stripe *id_stripe(struct index *ix, uint64_t id) { return &ix->ids[delta_hash(id) & (ID_STRIPES - 1)]; }
static struct stripe *ino_stripe(struct index *ix, uint64_t ino) { return &ix->inos[delta_hash(ino) & (INO_STRIPES - 1)]; }

static void lock_all(struct index *ix)
{
	for (unsigned i = 0; i < ID_STRIPES; i++)
		pthread_mutex_lock(&ix->ids[i].lock);
	for (unsigned i = 0; i < INO_STRIPES; i++)
		pthread_mutex_lock(&ix->inos[i].lock);
}

static void unlock_all(struct index *ix)
{
	for (unsigned i = 0; i < INO_STRIPES; i++)
		pthread_mutex_unlock(&ix->inos[i].lock);
	for (unsigned i = 0; i < ID_STRIPES; i++)
		pthread_mutex_unlock(&ix->ids[i].lock);
}

/* The stripe's read transaction, on the newest snapshot. Ended by mdb_txn_reset. */
static int stripe_txn(struct index *ix, struct stripe *s, MDB_txn **txn)
{
	int rc = s->txn ? mdb_txn_renew(s->txn) : mdb_txn_begin(ix->db.env, NULL, MDB_RDONLY, &s->txn);

	*txn = s->txn;
	return db_err(rc);
}

static int db_trouble(uint64_t id, int r)
{
	log_error("handles: index: entry %llx can't be read: %s; stop the daemon and remove the directory `index`, it will be rebuilt",
		  (unsigned long long)id, strerror(-r));
	return -EIO;
}

/* ---- look-up, with the stripe of the id held ---- */

/* -ESTALE: it was removed; -ENOENT: not known here. */
static int lookup_db(struct index *ix, struct stripe *s, uint64_t id, struct hentry *out)
{
	MDB_txn *txn;

	int r = stripe_txn(ix, s, &txn);
	if (r)
		return db_trouble(id, r);
	r = db_get(&ix->db, txn, id, out);
	if (r == -ENOENT && atomic_load_explicit(&ix->rebuilding, memory_order_relaxed) && db_has_tomb(&ix->db, txn, id))
		r = -ESTALE;
	mdb_txn_reset(txn);
	return r && r != -ENOENT && r != -ESTALE ? db_trouble(id, r) : r;
}

/* As lookup_db, in all levels. REC: the record in the active half, or DELTA_NONE. */
static int lookup(struct index *ix, struct stripe *s, uint64_t id, struct hentry *out, uint32_t *rec)
{
	*rec = half_find(ix->active, id);
	if (*rec != DELTA_NONE)
		return half_entry(ix->active, *rec, out) ? 0 : -ESTALE;
	if (ix->frozen) {
		uint32_t r = half_find(ix->frozen, id);
		if (r != DELTA_NONE)
			return half_entry(ix->frozen, r, out) ? 0 : -ESTALE;
	}
	return lookup_db(ix, s, id, out);
}

static int lookup_locked(struct index *ix, uint64_t id, struct hentry *out)
{
	struct stripe *s = id_stripe(ix, id);
	uint32_t rec;

	auto_lock(&s->lock);
	return lookup(ix, s, id, out, &rec);
}

/* ---- waiting for the walk ---- */

static void waiter_remove(struct index *ix, struct waiter *w)
{
	struct waiter **at = &ix->waiters;

	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	atomic_fetch_sub(&ix->nwaiting, 1);
}

/* Returns when the walk has found ID, or ended. */
static void wait_for_walk(struct index *ix, uint64_t id)
{
	struct waiter w = { .id = id };
	struct hentry e;

	pthread_mutex_lock(&ix->found_lock);
	w.next = ix->waiters;
	ix->waiters = &w;
	atomic_fetch_add(&ix->nwaiting, 1);
	pthread_mutex_unlock(&ix->found_lock);

	bool there = lookup_locked(ix, id, &e) != -ENOENT;	/* found just before we were listed */

	pthread_mutex_lock(&ix->found_lock);
	while (!there && !w.found && atomic_load(&ix->rebuilding))
		pthread_cond_wait(&ix->found, &ix->found_lock);
	waiter_remove(ix, &w);
	pthread_mutex_unlock(&ix->found_lock);
}

static void wake_waiters(struct index *ix, uint64_t id)
{
	if (!atomic_load(&ix->nwaiting))
		return;
	auto_lock(&ix->found_lock);
	for (struct waiter *w = ix->waiters; w; w = w->next)
		if (w->id == id)
			w->found = true;
	pthread_cond_broadcast(&ix->found);
}

/* ---- room in the active half ---- */

static void want_fold(struct index *ix)
{
	auto_lock(&ix->wait_lock);
	ix->wanted = true;
	pthread_cond_signal(&ix->work);
}

/* The half of generation GEN is full: waits until another one takes records. */
static int wait_for_room(struct index *ix, uint64_t gen)
{
	auto_lock(&ix->wait_lock);
	uint64_t seen = ix->folds;
	ix->wanted = true;
	pthread_cond_signal(&ix->work);
	while (ix->active_gen == gen && !(ix->folds != seen && ix->fold_err))
		pthread_cond_wait(&ix->done, &ix->wait_lock);
	return ix->active_gen == gen ? ix->fold_err : 0;
}

/* ---- changes ---- */

/* Appends E in the place of record OLD; with the stripe held. -ENOSPC: full. */
static int append(struct index *ix, const struct hentry *e, uint32_t flags, bool claim, uint32_t old)
{
	struct half *a = ix->active;
	uint32_t rec;

	int r = half_append(a, e, flags, claim, old, &rec);
	if (r)
		return r;
	if (old != DELTA_NONE && a->ino_in[old]) {
		struct stripe *s = ino_stripe(ix, a->rec[old].ino);
		auto_lock(&s->lock);
		half_ino_remove(a, old);
	}
	if (claim) {
		struct stripe *s = ino_stripe(ix, e->ino);
		auto_lock(&s->lock);
		half_ino_insert(a, rec);
	}
	if (rec == a->n - a->n / 4)
		want_fold(ix);
	return 0;
}

static struct delta_slot slot_of(const struct hentry *e, uint32_t flags)
{
	return (struct delta_slot){ .sec = e->ctime.tv_sec, .nsec = (uint32_t)e->ctime.tv_nsec, .flags = flags, .nsub = e->nsub };
}

static int put_locked(struct index *ix, const struct hentry *e)
{
	uint32_t rec = half_find(ix->active, e->id), flags = e->flags & ~DELTA_DELETED;

	if (rec == DELTA_NONE || !half_same_object(ix->active, rec, e) || (half_slot(ix->active, rec)->flags & DELTA_DELETED))
		return append(ix, e, flags, true, rec);
	struct delta_slot s = slot_of(e, flags);
	half_update(ix->active, rec, &s);
	return 0;
}

static int del_locked(struct index *ix, uint64_t id)
{
	struct half *a = ix->active;
	uint32_t rec = half_find(a, id);

	if (rec == DELTA_NONE)
		return append(ix, &(struct hentry){ .id = id }, DELTA_DELETED, false, DELTA_NONE);
	struct delta_slot s = *half_slot(a, rec);
	s.flags |= DELTA_DELETED;
	half_update(a, rec, &s);
	if (a->ino_in[rec]) {
		struct stripe *is = ino_stripe(ix, a->rec[rec].ino);
		auto_lock(&is->lock);
		half_ino_remove(a, rec);
	}
	return 0;
}

static bool time_valid(struct timespec t)
{
	return t.tv_nsec >= 0 && t.tv_nsec < 1000000000;
}

/* A change of one field. */
struct change_arg {
	enum { FIELD_CTIME, FIELD_NSUB, FIELD_FLAGS } field;
	struct timespec ctime;
	int delta;
	uint32_t set, clear;
};

static void slot_change(struct delta_slot *s, const struct change_arg *c)
{
	switch (c->field) {
	case FIELD_CTIME:
		s->sec = c->ctime.tv_sec;
		s->nsec = (uint32_t)c->ctime.tv_nsec;
		s->flags &= ~(uint32_t)HENTRY_CTIME_LOST;
		break;
	case FIELD_NSUB:
		s->nsub = c->delta < 0 && s->nsub < (uint32_t)-c->delta ? 0 : s->nsub + (uint32_t)c->delta;
		break;
	case FIELD_FLAGS:
		s->flags = (s->flags & ~(c->clear & ~DELTA_DELETED)) | (c->set & ~DELTA_DELETED);
		break;
	}
}

static int change_locked(struct index *ix, struct stripe *st, uint64_t id, const struct change_arg *c)
{
	struct delta_slot s;
	struct hentry e;
	uint32_t rec;

	rec = half_find(ix->active, id);
	if (rec != DELTA_NONE) {
		s = *half_slot(ix->active, rec);
		if (s.flags & DELTA_DELETED)
			return -ESTALE;
		slot_change(&s, c);
		half_update(ix->active, rec, &s);
		return 0;
	}
	int r = lookup(ix, st, id, &e, &rec);
	if (r)
		return r;
	s = slot_of(&e, e.flags);
	slot_change(&s, c);
	e.ctime = (struct timespec){ .tv_sec = s.sec, .tv_nsec = s.nsec };
	e.nsub = s.nsub;
	return append(ix, &e, s.flags, false, DELTA_NONE);
}

static int change(struct handles *h, uint64_t id, const struct change_arg *c)
{
	struct index *ix = &h->ix;
	struct stripe *s = id_stripe(ix, id);

	if (!id_valid(id))
		return -ESTALE;
	for (;;) {
		bool rebuilding = atomic_load(&ix->rebuilding);
		pthread_mutex_lock(&s->lock);
		int r = change_locked(ix, s, id, c);
		uint64_t gen = ix->active->gen;
		pthread_mutex_unlock(&s->lock);
		if (r == -ENOENT && rebuilding) {
			wait_for_walk(ix, id);
			continue;
		}
		if (r != -ENOSPC)
			return r == -ENOENT ? -ESTALE : r;
		r = wait_for_room(ix, gen);
		if (r)
			return r;
	}
}

int index_set_ctime(struct handles *h, uint64_t id, struct timespec ctime)
{
	if (!time_valid(ctime))
		return -EINVAL;
	return change(h, id, &(struct change_arg){ .field = FIELD_CTIME, .ctime = ctime });
}

int index_add_nsub(struct handles *h, uint64_t id, int delta)
{
	return change(h, id, &(struct change_arg){ .field = FIELD_NSUB, .delta = delta });
}

int index_set_flags(struct handles *h, uint64_t id, uint32_t set, uint32_t clear)
{
	return change(h, id, &(struct change_arg){ .field = FIELD_FLAGS, .set = set, .clear = clear });
}

int index_put(struct handles *h, const struct hentry *e)
{
	struct index *ix = &h->ix;
	struct stripe *s = id_stripe(ix, e->id);

	if (!id_valid(e->id) || e->lh.len > LOCAL_HANDLE_MAX || !time_valid(e->ctime))
		return -EINVAL;
	for (;;) {
		pthread_mutex_lock(&s->lock);
		int r = put_locked(ix, e);
		uint64_t gen = ix->active->gen;
		pthread_mutex_unlock(&s->lock);
		if (!r)
			wake_waiters(ix, e->id);
		if (r != -ENOSPC)
			return r;
		r = wait_for_room(ix, gen);
		if (r)
			return r;
	}
}

int index_del(struct handles *h, uint64_t id)
{
	struct index *ix = &h->ix;
	struct stripe *s = id_stripe(ix, id);

	if (!id_valid(id))
		return 0;
	for (;;) {
		pthread_mutex_lock(&s->lock);
		int r = del_locked(ix, id);
		uint64_t gen = ix->active->gen;
		pthread_mutex_unlock(&s->lock);
		if (!r)
			wake_waiters(ix, id);
		if (r != -ENOSPC)
			return r;
		r = wait_for_room(ix, gen);
		if (r)
			return r;
	}
}

int index_put_found(struct index *ix, const struct hentry *e)
{
	struct stripe *s = id_stripe(ix, e->id);
	struct hentry now;
	uint32_t rec;

	for (;;) {
		pthread_mutex_lock(&s->lock);
		int r = lookup(ix, s, e->id, &now, &rec);
		if (r == -ENOENT)
			r = append(ix, e, e->flags, true, DELTA_NONE);
		uint64_t gen = ix->active->gen;
		pthread_mutex_unlock(&s->lock);
		if (r == -ENOSPC) {
			r = wait_for_room(ix, gen);
			if (r)
				return r;
			continue;
		}
		wake_waiters(ix, e->id);
		return r == -ESTALE ? 0 : r;
	}
}

/* ---- reading ---- */

int index_get(struct handles *h, uint64_t id, struct hentry *out)
{
	struct index *ix = &h->ix;

	if (!id_valid(id))
		return -ESTALE;
	for (;;) {
		bool rebuilding = atomic_load(&ix->rebuilding);
		int r = lookup_locked(ix, id, out);
		if (r != -ENOENT)
			return r;
		if (!rebuilding)
			return -ESTALE;
		wait_for_walk(ix, id);
	}
}

static unsigned ino_candidates(const struct half *half, uint64_t ino, uint64_t *ids, unsigned n)
{
	uint32_t r = half->ino_head[delta_hash(ino) & (half->buckets - 1)];

	for (; r != DELTA_NONE && n < INO_CANDIDATES; r = half->ino_next[r])
		if (half->rec[r].ino == ino)
			ids[n++] = half->rec[r].id;
	return n;
}

/* The first of the candidates whose entry has this inode number. */
static int ino_verify(struct index *ix, uint64_t ino, const uint64_t *ids, unsigned n, uint64_t *id)
{
	struct hentry e;

	for (unsigned i = 0; i < n; i++) {
		if (lookup_locked(ix, ids[i], &e) || e.ino != ino)
			continue;
		*id = ids[i];
		return 0;
	}
	return -ENOENT;
}

int index_by_ino(struct handles *h, uint64_t ino, uint64_t *id)
{
	struct index *ix = &h->ix;
	struct stripe *s = ino_stripe(ix, ino);
	uint64_t ids[INO_CANDIDATES], last;
	MDB_txn *txn;

	pthread_mutex_lock(&s->lock);
	unsigned n = ino_candidates(ix->active, ino, ids, 0);
	if (ix->frozen)
		n = ino_candidates(ix->frozen, ino, ids, n);
	pthread_mutex_unlock(&s->lock);
	if (n && !ino_verify(ix, ino, ids, n, id))
		return 0;
	pthread_mutex_lock(&s->lock);
	int r = stripe_txn(ix, s, &txn);
	if (!r) {
		r = db_get_ino(&ix->db, txn, ino, &last);
		mdb_txn_reset(txn);
	}
	pthread_mutex_unlock(&s->lock);
	if (r)
		return r == -ENOENT ? r : -EIO;
	return ino_verify(ix, ino, &last, 1, id);
}

static int each_in(struct index *ix, MDB_txn *txn, uint64_t from, int (*fn)(void *arg, const struct hentry *e), void *arg)
{
	MDB_cursor *cur;
	MDB_val k = { sizeof from, &from }, v;
	MDB_cursor_op step = MDB_SET_RANGE;
	struct hentry e;
	int r = 0;

	int rc = mdb_cursor_open(txn, ix->db.by_id, &cur);
	if (rc)
		return db_err(rc);
	for (; !r && !(rc = mdb_cursor_get(cur, &k, &v, step)); step = MDB_NEXT) {
		uint64_t id;
		memcpy(&id, k.mv_data, sizeof id);
		r = db_decode(id, v, &e);
		if (!r)
			r = fn(arg, &e);
	}
	mdb_cursor_close(cur);
	return r || rc == MDB_NOTFOUND ? r : db_err(rc);
}

int index_each(struct handles *h, int (*fn)(void *arg, const struct hentry *e), void *arg)
{
	return index_each_from(h, 0, fn, arg);
}

int index_each_from(struct handles *h, uint64_t from, int (*fn)(void *arg, const struct hentry *e), void *arg)
{
	struct index *ix = &h->ix;
	MDB_txn *txn;

	int r = index_fold(ix);
	if (r)
		return r;
	pthread_rwlock_rdlock(&ix->each_lock);
	r = db_err(mdb_txn_begin(ix->db.env, NULL, MDB_RDONLY, &txn));
	if (!r) {
		r = each_in(ix, txn, from, fn, arg);
		mdb_txn_abort(txn);
	}
	pthread_rwlock_unlock(&ix->each_lock);
	return r;
}

uint64_t index_count(struct handles *h)
{
	struct index *ix = &h->ix;
	MDB_stat st = { 0 };
	MDB_txn *txn;

	index_fold(ix);		/* on failure the number is a little old */
	pthread_rwlock_rdlock(&ix->each_lock);
	if (!mdb_txn_begin(ix->db.env, NULL, MDB_RDONLY, &txn)) {
		mdb_stat(txn, ix->db.by_id, &st);
		mdb_txn_abort(txn);
	}
	pthread_rwlock_unlock(&ix->each_lock);
	return st.ms_entries;
}

/* ---- folding, with fold_lock held ---- */

struct fold_item { uint64_t id; uint32_t rec; };

static int item_cmp(const void *a, const void *b)
{
	const struct fold_item *x = a, *y = b;

	return x->id < y->id ? -1 : x->id > y->id;
}

/* The last record of each id of H, by id; owned by the caller. */
static int fold_items(const struct half *h, struct fold_item **out, size_t *n)
{
	struct fold_item *it = malloc((size_t)h->n * sizeof *it);

	*n = 0;
	*out = it;
	if (!it)
		return -ENOMEM;
	for (uint32_t b = 0; b < h->buckets; b++)
		for (uint32_t r = h->id_head[b]; r != DELTA_NONE; r = h->id_next[r])
			it[(*n)++] = (struct fold_item){ .id = h->rec[r].id, .rec = r };
	qsort(it, *n, sizeof *it, item_cmp);
	return 0;
}

static int fold_one(struct index *ix, const struct half *h, MDB_txn *txn, uint32_t rec)
{
	struct hentry e;

	if (half_entry(h, rec, &e))
		return db_put(&ix->db, txn, &e, h->rec[rec].claim);
	return db_del(&ix->db, txn, h->rec[rec].id, atomic_load(&ix->rebuilding));
}

/* One transaction; the LAST one makes the generation history. */
static int fold_batch(struct index *ix, const struct half *h, const struct fold_item *it, size_t n, bool last)
{
	MDB_txn *txn;

	int r = db_err(mdb_txn_begin(ix->db.env, NULL, 0, &txn));
	if (r)
		return r;
	for (size_t i = 0; i < n && !r; i++)
		r = fold_one(ix, h, txn, it[i].rec);
	if (!r && last)
		r = db_meta_put(&ix->db, txn, DB_FOLDED, h->gen);
	if (r) {
		mdb_txn_abort(txn);
		return r;
	}
	return db_err(mdb_txn_commit(txn));
}

static int grow(struct index *ix)
{
	size_t bytes = 0;

	pthread_rwlock_wrlock(&ix->each_lock);
	lock_all(ix);
	int r = db_grow(&ix->db, &bytes);
	unlock_all(ix);
	pthread_rwlock_unlock(&ix->each_lock);
	if (!r)
		log_info("handles: index: map: grown to %zu MiB", bytes >> 20);
	return r;
}

static int fold_half(struct index *ix, const struct half *h)
{
	auto_free struct fold_item *it = NULL;
	size_t n, done = 0;

	int r = fold_items(h, &it, &n);
	while (!r) {
		size_t step = n - done < FOLD_BATCH ? n - done : FOLD_BATCH;
		bool last = done + step == n;
		r = fold_batch(ix, h, it + done, step, last);
		if (r == -EXFULL) {
			r = grow(ix);
			continue;
		}
		done += step;
		if (last)
			break;
	}
	return r;
}

static void exchange_halves(struct index *ix)
{
	struct half *next = &ix->delta.half[ix->active == &ix->delta.half[0]];
	uint64_t gen = ix->active->gen + 1;

	assert(!ix->frozen);
	half_reset(next, gen);
	lock_all(ix);
	ix->frozen = ix->active;
	ix->active = next;
	unlock_all(ix);
	auto_lock(&ix->wait_lock);
	ix->active_gen = gen;
	ix->wanted = false;
	pthread_cond_broadcast(&ix->done);
}

static int fold_frozen(struct index *ix)
{
	int r = fold_half(ix, ix->frozen);

	if (r)
		return r;
	lock_all(ix);
	ix->frozen = NULL;
	unlock_all(ix);
	return 0;
}

static int fold_all(struct index *ix)
{
	int r = ix->frozen ? fold_frozen(ix) : 0;	/* left by an earlier failure */

	if (r || !atomic_load(&ix->active->used))
		return r;
	exchange_halves(ix);
	return fold_frozen(ix);
}

int index_fold(struct index *ix)
{
	auto_lock(&ix->fold_lock);
	int r = fold_all(ix);
	auto_lock(&ix->wait_lock);
	if (r && !ix->fold_err)
		log_error("handles: index: can't be written: %s; make room in the state directory", strerror(-r));
	ix->fold_err = r;
	ix->folds++;
	pthread_cond_broadcast(&ix->done);
	return r;
}

int index_sync(struct index *ix)
{
	auto_lock(&ix->fold_lock);
	return db_err(mdb_env_sync(ix->db.env, 1));
}

static void *folder(void *arg)
{
	struct index *ix = arg;

	for (;;) {
		pthread_mutex_lock(&ix->wait_lock);
		while (!ix->stop && !ix->wanted)
			pthread_cond_wait(&ix->work, &ix->wait_lock);
		bool stop = ix->stop;
		ix->wanted = false;
		pthread_mutex_unlock(&ix->wait_lock);
		if (stop)
			return NULL;
		index_fold(ix);
	}
}

int index_rebuilt(struct index *ix)
{
	pthread_mutex_lock(&ix->found_lock);
	atomic_store(&ix->rebuilding, false);
	pthread_cond_broadcast(&ix->found);
	pthread_mutex_unlock(&ix->found_lock);
	int r = index_fold(ix);
	auto_lock(&ix->fold_lock);
	if (!r)
		r = db_drop_tombs(&ix->db);
	return r == -EXFULL ? grow(ix) : r;	/* tombstones that stay are never asked for again */
}

/* ---- what is being changed on disk and here ---- */

unsigned index_unsteady(struct handles *h, uint64_t a, uint64_t b, uint64_t x)
{
	struct index *ix = &h->ix;

	pthread_mutex_lock(&ix->unsteady_lock);
	while (!ix->n_unsteady_free)
		pthread_cond_wait(&ix->unsteady_freed, &ix->unsteady_lock);
	unsigned token = ix->unsteady_free[--ix->n_unsteady_free];
	pthread_mutex_unlock(&ix->unsteady_lock);
	delta_unsteady_set(&ix->delta, token, a, b, x);
	return token;
}

void index_steady(struct handles *h, unsigned token)
{
	struct index *ix = &h->ix;

	assert(token < INDEX_UNSTEADY_MAX);
	delta_unsteady_set(&ix->delta, token, 0, 0, 0);
	auto_lock(&ix->unsteady_lock);
	assert(ix->n_unsteady_free < INDEX_UNSTEADY_MAX);
	ix->unsteady_free[ix->n_unsteady_free++] = token;
	pthread_cond_signal(&ix->unsteady_freed);
}

static int recount_one(struct handles *h, uint64_t id)
{
	struct hentry e;
	uint32_t n;

	int r = id ? index_get(h, id, &e) : -ESTALE;
	if (!r)
		r = walk_count(h, &e, &n);
	if (r)
		return r == -ESTALE ? 0 : r;
	if (n != e.nsub)
		log_info("handles: index: directory %llx: %u sub-directories, not %u", (unsigned long long)id, n, e.nsub);
	return n == e.nsub ? 0 : index_add_nsub(h, id, (int)(n - e.nsub));
}

/* Is E's object, which exists, in limbo under its id? */
static bool in_limbo(struct handles *h, const struct hentry *e)
{
	char name[64];
	struct stat st;

	snprintf(name, sizeof name, HIDDEN_DIR "/limbo/%016llx", (unsigned long long)e->id);
	return !fstatat(h->cfg.root_fd, name, &st, AT_SYMLINK_NOFOLLOW) && st.st_ino == e->ino;
}

/* ID may have lost its last name, or left limbo. */
static int settle_object(struct handles *h, uint64_t id)
{
	uint64_t marked = 0;
	struct hentry e;
	struct stat st;

	int r = id ? index_get(h, id, &e) : -ESTALE;
	if (r)
		return r == -ESTALE ? 0 : r;
	auto_fd int fd = local_handle_open(h, &e.lh, O_PATH | O_NOFOLLOW);
	if (fd < 0 && fd != -ESTALE)
		return fd;
	if (fd < 0 || fstat(fd, &st) || !st.st_nlink || mark_get(h, fd, &marked, NULL) || marked != id)
		return index_del(h, id);
	return e.flags & HENTRY_TMPFILE && !in_limbo(h, &e) ? index_set_flags(h, id, 0, HENTRY_TMPFILE) : 0;
}

int index_settle(struct handles *h)
{
	struct delta *d = &h->ix.delta;
	struct delta_unsteady u;

	for (unsigned i = 0; i < INDEX_UNSTEADY_MAX; i++) {
		if (!delta_unsteady_get(d, i, &u))
			continue;
		int r = settle_object(h, u.x);
		if (!r)
			r = recount_one(h, u.a);
		if (!r)
			r = recount_one(h, u.b);
		if (r)
			return r;
		delta_unsteady_set(d, i, 0, 0, 0);
	}
	return 0;
}

/* ---- life ---- */

static void locks_init(struct index *ix)
{
	pthread_mutex_init(&ix->unsteady_lock, NULL);
	pthread_cond_init(&ix->unsteady_freed, NULL);
	while (ix->n_unsteady_free < INDEX_UNSTEADY_MAX) {
		ix->unsteady_free[ix->n_unsteady_free] = ix->n_unsteady_free;
		ix->n_unsteady_free++;
	}
	for (unsigned i = 0; i < ID_STRIPES; i++)
		pthread_mutex_init(&ix->ids[i].lock, NULL);
	for (unsigned i = 0; i < INO_STRIPES; i++)
		pthread_mutex_init(&ix->inos[i].lock, NULL);
	pthread_mutex_init(&ix->fold_lock, NULL);
	pthread_rwlock_init(&ix->each_lock, NULL);
	pthread_mutex_init(&ix->wait_lock, NULL);
	pthread_cond_init(&ix->work, NULL);
	pthread_cond_init(&ix->done, NULL);
	pthread_mutex_init(&ix->found_lock, NULL);
	pthread_cond_init(&ix->found, NULL);
}

static void locks_destroy(struct index *ix)
{
	pthread_mutex_destroy(&ix->unsteady_lock);
	pthread_cond_destroy(&ix->unsteady_freed);
	for (unsigned i = 0; i < ID_STRIPES; i++)
		pthread_mutex_destroy(&ix->ids[i].lock);
	for (unsigned i = 0; i < INO_STRIPES; i++)
		pthread_mutex_destroy(&ix->inos[i].lock);
	pthread_mutex_destroy(&ix->fold_lock);
	pthread_rwlock_destroy(&ix->each_lock);
	pthread_mutex_destroy(&ix->wait_lock);
	pthread_cond_destroy(&ix->work);
	pthread_cond_destroy(&ix->done);
	pthread_mutex_destroy(&ix->found_lock);
	pthread_cond_destroy(&ix->found);
}

static int put_incarnation(struct index *ix)
{
	MDB_txn *txn;

	int r = db_err(mdb_txn_begin(ix->db.env, NULL, 0, &txn));
	if (r)
		return r;
	r = db_meta_put(&ix->db, txn, DB_INCARNATION, ix->delta.incarnation);
	if (r) {
		mdb_txn_abort(txn);
		return r;
	}
	return db_err(mdb_txn_commit(txn));
}

/* Folds what a killed process left in the delta. -EUCLEAN: delta and database don't belong together. */
static int replay(struct index *ix)
{
	uint64_t incarnation, folded, last = 0;
	struct half *half = ix->delta.half;

	int r = db_meta_get(&ix->db, DB_INCARNATION, &incarnation);
	if (!r)
		r = db_meta_get(&ix->db, DB_FOLDED, &folded);
	if (r)
		return r;
	if (incarnation != ix->delta.incarnation)
		return -EUCLEAN;
	uint64_t gen[2] = { half_newest_gen(&half[0]), half_newest_gen(&half[1]) };
	last = folded;
	for (unsigned turn = 0; turn < 2 && !r; turn++) {
		unsigned i = turn ? gen[0] <= gen[1] : gen[0] > gen[1];	/* the older one first */
		if (gen[i] <= folded)
			continue;
		uint32_t n = half_load(&half[i], gen[i]);
		log_info("handles: index: delta: %u records taken over", n);
		r = fold_half(ix, &half[i]);
		last = gen[i] > last ? gen[i] : last;
	}
	half_reset(&half[0], last + 1);
	while (!r && (r = db_bury(&ix->db)) == -EXFULL)
		r = grow(ix);
	return r;
}

/* Opens database and delta; what is there is used when USE, else removed first. */
static int files_open(struct index *ix, int dir_fd, bool use)
{
	int r = delta_open(&ix->delta, dir_fd, index_tuning.records, !use);
	if (r)
		return r;
	if (!use) {
		unlinkat(dir_fd, "data.mdb", 0);
		unlinkat(dir_fd, "lock.mdb", 0);
	}
	r = db_open(&ix->db, dir_fd, index_tuning.map_bytes);
	if (!r && !use)
		r = put_incarnation(ix);
	if (!r)
		r = replay(ix);
	if (r) {
		db_close(&ix->db);
		delta_close(&ix->delta);
	}
	return r;
}

int index_open(struct index *ix, int dir_fd, bool use)
{
	memset(ix, 0, sizeof *ix);
	locks_init(ix);
	int r = files_open(ix, dir_fd, use);
	if (r) {
		locks_destroy(ix);
		return r;
	}
	ix->active = &ix->delta.half[0];
	ix->active_gen = ix->active->gen;
	r = -pthread_create(&ix->folder, NULL, folder, ix);
	ix->folder_runs = !r;
	if (r)
		index_close(ix);
	return r;
}

static void stop_folder(struct index *ix)
{
	if (!ix->folder_runs)
		return;
	pthread_mutex_lock(&ix->wait_lock);
	ix->stop = true;
	pthread_cond_signal(&ix->work);
	pthread_mutex_unlock(&ix->wait_lock);
	pthread_join(ix->folder, NULL);
}

int index_close(struct index *ix)
{
	stop_folder(ix);
	int r = index_fold(ix);
	if (!r)
		r = index_sync(ix);
	for (unsigned i = 0; i < ID_STRIPES; i++)
		mdb_txn_abort(ix->ids[i].txn);		/* NULL is fine */
	for (unsigned i = 0; i < INO_STRIPES; i++)
		mdb_txn_abort(ix->inos[i].txn);
	db_close(&ix->db);
	delta_close(&ix->delta);
	locks_destroy(ix);
	return r;
}
