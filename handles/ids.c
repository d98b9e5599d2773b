/*
 * Ranges of ids.
 *
 * The record of what was taken, 104 bytes, little-endian:
 *
 *	u8  magic[8]	"TFIDS001"
 *	u64 seq		1, 2, 3, ...
 *	u8  uuid[16]	the volume
 *	u32 counter[16]	[n]: the highest range known to be taken by node n; [0] is 0
 *	u64 check	XXH3-64 of the 96 bytes before
 *
 * stands in two places: in the file `ids` of the state directory, where two slots (at 0 and 4096) are written in turn with
 * O_DSYNC, so that a torn write leaves the other; and as xattr IDS_XATTR on the backing root, followed by an fsync
 * of it. The highest value counts, wherever it stands: a counter that is too high wastes a range of 2^28, one that is too low
 * hands out an id twice. So a range is used only after both places hold it.
 *
 * When both are missing, and the volume isn't new, nobody here knows what was taken: ids_next fails with -ESTALE until a peer
 * has told (a counter of 0 tells nothing), or a person takes the risk (ids_skip).
 *
 * A peer that knows a higher counter of this node than the node itself has seen ids that this node handed out before it was
 * set back: the rest of the range in use may be among them, so it is dropped.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <xxhash.h>

#include "fs/base/cleanup.h"
#include "fs/base/log.h"
#include "handles/internal.h"

enum {
	IDS_BODY = 8 + 8 + UUID_LEN + 4 * (NODE_MAX + 1),
	IDS_BYTES = IDS_BODY + 8,
	IDS_SLOT = 4096,
};
static const char ids_magic[8] = { 'T', 'F', 'I', 'D', 'S', '0', '0', '1' };

struct ids_record {
	uint64_t seq;
	unsigned char uuid[UUID_LEN];
	uint64_t counters[NODE_MAX + 1];
};

/* 0, or -EBADMSG when B holds no whole record. */
static int record_decode(const unsigned char *b, size_t len, struct ids_record *r)
{
	char magic[8];

	if (len != IDS_BYTES)
		return -EBADMSG;
	struct dec d = dec_init(b, len);
	dec_raw(&d, magic, sizeof magic);
	r->seq = dec_u64(&d);
	dec_raw(&d, r->uuid, UUID_LEN);
	for (unsigned i = 0; i <= NODE_MAX; i++)
		r->counters[i] = dec_u32(&d);
	uint64_t check = dec_u64(&d);
	if (dec_end(&d) || memcmp(magic, ids_magic, sizeof magic) != 0 || check != XXH3_64bits(b, IDS_BODY))
		return -EBADMSG;
	return 0;
}

/* Writes both places. Called with the lock held, or before anyone else knows S. */
static int record_write(struct ids *s)
{
	struct enc e = { 0 };

	s->seq++;
	enc_raw(&e, ids_magic, sizeof ids_magic);
	enc_u64(&e, s->seq);
	enc_raw(&e, s->uuid, UUID_LEN);
	for (unsigned i = 0; i <= NODE_MAX; i++)
		enc_u32(&e, (uint32_t)s->counters[i]);
	if (!e.err)
		enc_u64(&e, XXH3_64bits(e.p, e.len));
	int r = e.err;
	if (!r && pwrite(s->fd, e.p, e.len, (off_t)(s->seq & 1) * IDS_SLOT) != (ssize_t)e.len)
		r = -EIO;
	if (!r && (fsetxattr(s->root_fd, IDS_XATTR, e.p, e.len, 0) || fsync(s->root_fd)))
		r = -errno;
	enc_free(&e);
	if (r)
		log_error("handles: ids: can't record a range: %s; nothing can be created until that works", strerror(-r));
	return r ? -EIO : 0;
}

/* Takes over what record B says; *FOUND when it is whole. */
static int merge(struct ids *s, const unsigned char *b, ssize_t len, bool *found)
{
	struct ids_record r;

	if (len < 0 || record_decode(b, (size_t)len, &r))
		return 0;
	if (memcmp(r.uuid, s->uuid, UUID_LEN) != 0)
		return -EXDEV;
	*found = true;
	if (r.seq > s->seq)
		s->seq = r.seq;
	for (unsigned i = 0; i <= NODE_MAX; i++)
		if (r.counters[i] > s->counters[i])
			s->counters[i] = r.counters[i];
	return 0;
}

static int load(struct ids *s, bool *found)
{
	unsigned char b[IDS_BYTES];
	int r = 0;

	for (unsigned i = 0; i < 2 && !r; i++) {
		ssize_t n = pread(s->fd, b, sizeof b, (off_t)i * IDS_SLOT);
		if (n < 0)
			return -errno;
		r = merge(s, b, n, found);
	}
	if (!r)
		r = merge(s, b, fgetxattr(s->root_fd, IDS_XATTR, b, sizeof b), found);
	return r;
}

int ids_open(struct ids *s, const struct handles_config *cfg, bool new_volume)
{
	bool found = false;

	memset(s, 0, sizeof *s);
	pthread_mutex_init(&s->lock, NULL);
	s->root_fd = cfg->root_fd;
	s->node = cfg->node;
	memcpy(s->uuid, cfg->uuid, UUID_LEN);
	s->fd = openat(cfg->state_fd, "ids", O_RDWR | O_CREAT | O_DSYNC | O_CLOEXEC, 0600);
	if (s->fd < 0)
		return -errno;
	int r = load(s, &found);
	if (!r && !found && new_volume) {
		r = record_write(s);
		if (!r && fsync(cfg->state_fd))
			r = -errno;
	}
	s->lost = !found && !new_volume;
	if (s->lost)
		log_error("handles: ids: the record of ids handed out is lost, in the state directory and in the backing "
			  "directory: a peer has to tell it");
	if (r)
		ids_close(s);
	return r;
}

void ids_close(struct ids *s)
{
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
	pthread_mutex_destroy(&s->lock);
}

static int take_range(struct ids *s)
{
	if (s->lost)
		return -ESTALE;
	if (s->counters[s->node] >= IDS_RANGES - 1)
		return -EIO;
	s->counters[s->node]++;		/* also when it can't be recorded: nobody may use it then */
	s->next = s->end = 0;
	int r = record_write(s);
	if (r)
		return r;
	s->next = (uint64_t)s->node << ID_NODE_SHIFT | s->counters[s->node] << ID_RANGE_BITS;
	s->end = s->next + (UINT64_C(1) << ID_RANGE_BITS);
	return 0;
}

int ids_next(struct handles *h, uint64_t *id)
{
	struct ids *s = &h->ids;

	auto_lock(&s->lock);
	if (s->next == s->end) {
		int r = take_range(s);
		if (r)
			return r;
	}
	*id = s->next++;
	return 0;
}

int ids_new_range(struct handles *h)
{
	auto_lock(&h->ids.lock);
	return take_range(&h->ids);
}

void ids_counters(struct handles *h, uint64_t out[NODE_MAX + 1])
{
	auto_lock(&h->ids.lock);
	memcpy(out, h->ids.counters, sizeof h->ids.counters);
}

int ids_learn(struct handles *h, const uint64_t counters[NODE_MAX + 1])
{
	struct ids *s = &h->ids;
	bool changed = false;

	for (unsigned i = 1; i <= NODE_MAX; i++)
		if (counters[i] >= IDS_RANGES)
			return -EINVAL;
	auto_lock(&s->lock);
	if (counters[s->node] > s->counters[s->node])
		s->next = s->end = 0;
	for (unsigned i = 1; i <= NODE_MAX; i++) {
		if (counters[i] <= s->counters[i])
			continue;
		s->counters[i] = counters[i];
		changed = true;
	}
	if (s->lost && !counters[s->node])
		return 0;	/* a record now would look as if our own counter were known */
	int r = changed ? record_write(s) : 0;
	if (!r)
		s->lost = false;
	return r;
}

int ids_skip(struct handles *h)
{
	struct ids *s = &h->ids;

	auto_lock(&s->lock);
	if (s->counters[s->node] + IDS_SKIP >= IDS_RANGES)
		return -EIO;
	s->counters[s->node] += IDS_SKIP;
	s->next = s->end = 0;
	int r = record_write(s);
	if (!r)
		s->lost = false;
	return r;
}
