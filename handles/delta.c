/*
 * The delta: what changed since the last fold, in the file `delta` beside the database, mapped MAP_SHARED. What a killed
 * process has stored there is in the page cache and stays.
 *
 * The file is a header page and two halves of equally many records of 192 bytes (struct delta_record), all in host byte order:
 *
 *	u8  magic[8]		"TFDLT002"
 *	u32 endian		0x01020304
 *	u32 records		of one half
 *	u64 incarnation		random; the same number stands in the database, or the two don't belong together
 *	u64 check		XXH3-64 of the 24 bytes before
 *
 * From byte 512 of the header page on there are 112 slots of 32 bytes (u64 a, b, x, check): directories whose number of
 * sub-directories is being changed, and an object that may lose its last name or leaves limbo. A change on disk and the index' record
 * of it aren't one step; at what a killed process leaves here the next one looks again.
 *
 * One half takes records while the other is folded into the database. Every use of a half has a *generation*, one higher than the
 * last of either; a fold writes its generation into the database in its last transaction. So records of generations up to that
 * are history, and at most two generations above it are alive: no half needs a state of its own.
 *
 * A record describes one id completely. What an object is (inode, handle, type) is written once; what changes often (ctime,
 * flags, sub-directories, being deleted) stands in two slots of which the one that is not valid now is overwritten, with a
 * higher sequence number and a checksum. When the process dies between two stores, either the old slot or the new one is valid.
 * Checksums are seeded with generation and place, so nothing left over from an earlier use can pass. Of several valid records
 * of one id in a half the last one counts.
 *
 * In memory: two chained hash tables per half, id -> record and inode number -> record. Chains hold only the last record of an id;
 * inode chains only records that are not deleted.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <unistd.h>
#include <xxhash.h>

#include "fs/base/cleanup.h"
#include "handles/internal.h"

enum { DELTA_HEADER_BODY = 24 };
static const char delta_magic[8] = { 'T', 'F', 'D', 'L', 'T', '0', '0', '2' };
#define DELTA_ENDIAN UINT32_C(0x01020304)

struct delta_header {
	char magic[8];
	uint32_t endian, records;
	uint64_t incarnation;
	uint64_t check;
};

/* ---- records ---- */

static uint64_t record_check(const struct half *h, uint32_t r)
{
	return XXH3_64bits_withSeed(&h->rec[r], offsetof(struct delta_record, check), r);
}

static uint64_t slot_check(const struct half *h, uint32_t r, const struct delta_slot *s)
{
	return XXH3_64bits_withSeed(s, offsetof(struct delta_slot, check), h->gen << 20 ^ r);
}

static bool slot_valid(const struct half *h, uint32_t r, const struct delta_slot *s)
{
	return s->check == slot_check(h, r, s);
}

/* The current slot of R, or -1. Only for records that nobody changes. */
static int slot_current(const struct half *h, uint32_t r)
{
	const struct delta_slot *s = h->rec[r].slot;
	bool v0 = slot_valid(h, r, &s[0]), v1 = slot_valid(h, r, &s[1]);

	if (v0 && v1)
		return s[1].seq > s[0].seq;
	return v0 ? 0 : v1 ? 1 : -1;
}

/* While the process lives, sequence numbers tell: a half that is in use holds no other slots than those written by it. */
const struct delta_slot *half_slot(const struct half *h, uint32_t r)
{
	const struct delta_slot *s = h->rec[r].slot;

	return &s[s[1].seq > s[0].seq];
}

static void slot_write(struct half *h, uint32_t r, unsigned which, const struct delta_slot *s, uint64_t seq)
{
	struct delta_slot n = { .sec = s->sec, .nsec = s->nsec, .flags = s->flags, .nsub = s->nsub, .seq = seq };

	n.check = slot_check(h, r, &n);
	h->rec[r].slot[which] = n;
}

void half_update(struct half *h, uint32_t r, const struct delta_slot *s)
{
	const struct delta_slot *now = half_slot(h, r);

	slot_write(h, r, now == &h->rec[r].slot[0], s, now->seq + 1);
}

bool half_entry(const struct half *h, uint32_t r, struct hentry *out)
{
	const struct delta_record *c = &h->rec[r];
	const struct delta_slot *s = half_slot(h, r);

	if (s->flags & DELTA_DELETED)
		return false;
	out->id = c->id;
	out->ino = c->ino;
	out->type = c->type;
	out->ctime = (struct timespec){ .tv_sec = s->sec, .tv_nsec = s->nsec };
	out->flags = s->flags;
	out->nsub = s->nsub;
	out->lh.len = c->lh_len;
	out->lh.type = c->lh_type;
	memcpy(out->lh.bytes, c->lh, sizeof c->lh);
	return true;
}

bool half_same_object(const struct half *h, uint32_t r, const struct hentry *e)
{
	const struct delta_record *c = &h->rec[r];

	return c->claim && c->ino == e->ino && c->type == e->type && c->lh_type == e->lh.type && c->lh_len == e->lh.len &&
	       !memcmp(c->lh, e->lh.bytes, e->lh.len);
}

/* ---- chains ---- */

static uint32_t *id_bucket(const struct half *h, uint64_t id) { return &h->id_head[delta_hash(id) & (h->buckets - 1)]; }
static uint32_t *ino_bucket(const struct half *h, uint64_t ino) { return &h->ino_head[delta_hash(ino) & (h->buckets - 1)]; }

uint32_t half_find(const struct half *h, uint64_t id)
{
	uint32_t r = *id_bucket(h, id);

	while (r != DELTA_NONE && h->rec[r].id != id)
		r = h->id_next[r];
	return r;
}

/* Record R takes the place of OLD in the chain of its id, or becomes its head. */
static void id_link(struct half *h, uint32_t r, uint32_t old)
{
	uint32_t *at = id_bucket(h, h->rec[r].id);

	while (old != DELTA_NONE && *at != old)
		at = &h->id_next[*at];
	h->id_next[r] = old == DELTA_NONE ? *at : h->id_next[old];
	*at = r;
}

void half_ino_insert(struct half *h, uint32_t r)
{
	uint32_t *head = ino_bucket(h, h->rec[r].ino);

	assert(!h->ino_in[r]);
	h->ino_next[r] = *head;
	*head = r;
	h->ino_in[r] = true;
}

void half_ino_remove(struct half *h, uint32_t r)
{
	uint32_t *at = ino_bucket(h, h->rec[r].ino);

	assert(h->ino_in[r]);
	while (*at != r)
		at = &h->ino_next[*at];
	*at = h->ino_next[r];
	h->ino_in[r] = false;
}

static void record_fill(struct half *h, uint32_t r, const struct hentry *e, bool claim)
{
	struct delta_record *c = &h->rec[r];

	memset(c, 0, sizeof *c);
	c->id = e->id;
	c->ino = e->ino;
	c->type = e->type;
	c->lh_type = e->lh.type;
	c->lh_len = e->lh.len;
	c->claim = claim;
	memcpy(c->lh, e->lh.bytes, e->lh.len);
	c->gen = h->gen;
}

int half_append(struct half *h, const struct hentry *e, uint32_t flags, bool claim, uint32_t old, uint32_t *out)
{
	struct delta_slot s = { .sec = e->ctime.tv_sec, .nsec = (uint32_t)e->ctime.tv_nsec, .flags = flags, .nsub = e->nsub };

	assert(e->lh.len <= LOCAL_HANDLE_MAX);
	if (atomic_load_explicit(&h->used, memory_order_relaxed) >= h->n)
		return -ENOSPC;
	uint32_t r = atomic_fetch_add(&h->used, 1);
	if (r >= h->n)
		return -ENOSPC;
	record_fill(h, r, e, claim);
	slot_write(h, r, 0, &s, 1);
	atomic_signal_fence(memory_order_seq_cst);
	h->rec[r].check = record_check(h, r);
	id_link(h, r, old);
	*out = r;
	return 0;
}

void half_reset(struct half *h, uint64_t gen)
{
	memset(h->id_head, 0xff, h->buckets * sizeof *h->id_head);
	memset(h->ino_head, 0xff, h->buckets * sizeof *h->ino_head);
	memset(h->ino_in, 0, h->n * sizeof *h->ino_in);
	atomic_store(&h->used, 0);
	h->gen = gen;
}

/* Is record R whole, and of this generation? Makes its current slot the one that half_slot finds. */
static bool record_load(struct half *h, uint32_t r)
{
	struct delta_record *c = &h->rec[r];

	if (c->gen != h->gen || c->check != record_check(h, r) || c->lh_len > LOCAL_HANDLE_MAX)
		return false;
	int cur = slot_current(h, r);
	if (cur < 0)
		return false;
	if (half_slot(h, r) != &c->slot[cur])
		c->slot[!cur].seq = 0;	/* torn: its sequence number means nothing */
	return true;
}

uint32_t half_load(struct half *h, uint64_t gen)
{
	uint32_t live = 0;

	half_reset(h, gen);
	atomic_store(&h->used, h->n);
	for (uint32_t r = 0; r < h->n; r++) {
		if (!record_load(h, r))
			continue;
		id_link(h, r, half_find(h, h->rec[r].id));
		live++;
	}
	return live;
}

uint64_t half_newest_gen(const struct half *h)
{
	uint64_t gen = 0;

	for (uint32_t r = 0; r < h->n; r++)
		if (h->rec[r].gen > gen && h->rec[r].check == record_check(h, r))
			gen = h->rec[r].gen;
	return gen;
}

/* ---- unsteady objects ---- */

static uint64_t unsteady_check(const struct delta *d, uint64_t a, uint64_t b, uint64_t x)
{
	return XXH3_64bits_withSeed((uint64_t[]){ a, b, x }, 24, d->incarnation) | 1;
}

void delta_unsteady_set(struct delta *d, unsigned i, uint64_t a, uint64_t b, uint64_t x)
{
	volatile struct delta_unsteady *u = &d->unsteady[i];

	u->check = 0;
	u->a = a;
	u->b = b;
	u->x = x;
	u->check = a || b || x ? unsteady_check(d, a, b, x) : 0;
}

bool delta_unsteady_get(const struct delta *d, unsigned i, struct delta_unsteady *out)
{
	*out = d->unsteady[i];
	return out->check && out->check == unsteady_check(d, out->a, out->b, out->x);
}

/* ---- the file ---- */

static int half_init(struct half *h, struct delta_record *rec, uint32_t n)
{
	h->rec = rec;
	h->n = n;
	h->buckets = ID_STRIPES;
	while (h->buckets < n * 2)
		h->buckets *= 2;
	h->id_head = malloc(h->buckets * sizeof *h->id_head);
	h->ino_head = malloc(h->buckets * sizeof *h->ino_head);
	h->id_next = malloc(n * sizeof *h->id_next);
	h->ino_next = malloc(n * sizeof *h->ino_next);
	h->ino_in = malloc(n * sizeof *h->ino_in);
	if (!h->id_head || !h->ino_head || !h->id_next || !h->ino_next || !h->ino_in)
		return -ENOMEM;
	half_reset(h, 0);
	return 0;
}

static void half_free(struct half *h)
{
	free(h->id_head);
	free(h->ino_head);
	free(h->id_next);
	free(h->ino_next);
	free(h->ino_in);
}

/* Is the file behind D one that can be used with RECORDS per half? Fills the incarnation. */
static bool header_read(struct delta *d, uint32_t records)
{
	struct delta_header hd;
	struct stat st;

	if (fstat(d->fd, &st) || (size_t)st.st_size != d->map_bytes)
		return false;
	if (pread(d->fd, &hd, sizeof hd, 0) != (ssize_t)sizeof hd)
		return false;
	if (memcmp(hd.magic, delta_magic, sizeof hd.magic) != 0 || hd.endian != DELTA_ENDIAN || hd.records != records)
		return false;
	d->incarnation = hd.incarnation;
	return hd.check == XXH3_64bits(&hd, DELTA_HEADER_BODY);
}

/* Empties the file, takes all its room (a store into a mapping can't report ENOSPC) and writes the header last. */
static int header_make(struct delta *d, uint32_t records)
{
	struct delta_header hd = { .endian = DELTA_ENDIAN, .records = records };

	memcpy(hd.magic, delta_magic, sizeof hd.magic);
	if (getrandom(&d->incarnation, sizeof d->incarnation, 0) != (ssize_t)sizeof d->incarnation)
		return -EIO;
	hd.incarnation = d->incarnation |= 1;	/* never 0 */
	hd.check = XXH3_64bits(&hd, DELTA_HEADER_BODY);
	if (ftruncate(d->fd, 0))
		return -errno;
	int r = posix_fallocate(d->fd, 0, (off_t)d->map_bytes);
	if (r)
		return -r;
	return pwrite(d->fd, &hd, sizeof hd, 0) == (ssize_t)sizeof hd ? 0 : -EIO;
}

static int delta_map(struct delta *d, uint32_t records)
{
	void *p = mmap(NULL, d->map_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, d->fd, 0);

	if (p == MAP_FAILED)
		return -errno;
	d->map = p;
	d->unsteady = (void *)(d->map + DELTA_UNSTEADY_AT);
	struct delta_record *rec = (void *)(d->map + DELTA_HEADER_BYTES);
	int r = half_init(&d->half[0], rec, records);
	return r ? r : half_init(&d->half[1], rec + records, records);
}

int delta_open(struct delta *d, int dir_fd, uint32_t records, bool fresh)
{
	int r = 0;

	memset(d, 0, sizeof *d);
	assert(records >= DELTA_RECORDS_MIN && records <= 1 << 20);
	d->map_bytes = DELTA_HEADER_BYTES + 2 * (size_t)records * sizeof(struct delta_record);
	d->fd = openat(dir_fd, "delta", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (d->fd < 0)
		return -errno;
	if (flock(d->fd, LOCK_EX | LOCK_NB))
		r = errno == EWOULDBLOCK ? -EBUSY : -errno;
	if (!r && fresh)
		r = header_make(d, records);
	else if (!r && !header_read(d, records))
		r = -EUCLEAN;
	if (!r)
		r = delta_map(d, records);
	if (r)
		delta_close(d);
	return r;
}

void delta_close(struct delta *d)
{
	half_free(&d->half[0]);
	half_free(&d->half[1]);
	if (d->map)
		munmap(d->map, d->map_bytes);
	if (d->fd >= 0)
		close(d->fd);
	d->map = NULL;
	d->fd = -1;
}
