#include "mirror/state.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <xxhash.h>

#include "fs/base/cleanup.h"
#include "fs/base/codec.h"

#define STATE_FILE "state"
#define VOLUME_XATTR MARK_XATTR ".volume"

enum {
	STATE_MAGIC = 0x31535454,	/* "TTS1" */
	STATE_HEAD = 4 + 2 + 2 + 8 + 4 + 8,
	VOLUME_MARK_VERSION = 1,
};

struct state_file {
	int fd, root_fd;		/* fd is owned, root_fd borrowed */
	uint64_t seq;			/* of the newest slot; guarded by mu */
	pthread_mutex_t mu;
};

uint64_t state_random(void)
{
	uint64_t v = 0;
	while (!v)
		if (getrandom(&v, sizeof v, 0) != sizeof v)
			v = 0;
	return v;
}

static void random_fill(void *p, size_t len)
{
	unsigned char *b = p;
	for (size_t i = 0; i < len; i++)
		b[i] = (unsigned char)state_random();
}

/* ---- the record ---- */

static void enc_epoch(struct enc *e, struct epoch ep)
{
	enc_u64(e, ep.reign);
	enc_u8(e, ep.node);
	enc_u64(e, ep.tag);
}

static struct epoch dec_epoch(struct dec *d)
{
	struct epoch ep = { .reign = dec_u64(d) };
	ep.node = dec_u8(d);
	ep.tag = dec_u64(d);
	return ep;
}

static void enc_mark(struct enc *e, const struct data_mark *m)
{
	enc_u64(e, m->incarnation);
	enc_epoch(e, m->epoch);
	enc_u64(e, m->lsn);
	enc_u64(e, m->nonce);
}

static struct data_mark dec_mark(struct dec *d)
{
	struct data_mark m = { .incarnation = dec_u64(d) };
	m.epoch = dec_epoch(d);
	m.lsn = dec_u64(d);
	m.nonce = dec_u64(d);
	return m;
}

static void enc_limits(struct enc *e, const struct volume_limits *l)
{
	enc_u64(e, (uint64_t)l->time_min);
	enc_u64(e, (uint64_t)l->time_max);
	enc_u32(e, l->time_gran_ns);
	enc_u32(e, l->xattr_value_max);
	enc_u32(e, l->xattr_total_max);
	enc_u32(e, l->symlink_max);
	enc_u32(e, l->link_max);
	enc_u64(e, l->size_max);
}

static struct volume_limits dec_limits(struct dec *d)
{
	struct volume_limits l = { .time_min = (int64_t)dec_u64(d) };
	l.time_max = (int64_t)dec_u64(d);
	l.time_gran_ns = dec_u32(d);
	l.xattr_value_max = dec_u32(d);
	l.xattr_total_max = dec_u32(d);
	l.symlink_max = dec_u32(d);
	l.link_max = dec_u32(d);
	l.size_max = dec_u64(d);
	return l;
}

static void state_encode(struct enc *e, const struct state *s)
{
	enc_raw(e, s->uuid, UUID_LEN);
	enc_u8(e, s->node);
	enc_u32(e, s->generation);
	enc_raw(e, s->dir_key, sizeof s->dir_key);
	enc_raw(e, s->mac_key, sizeof s->mac_key);
	enc_limits(e, &s->limits);
	enc_u64(e, s->incarnation);
	enc_u8(e, (uint8_t)(s->was_primary | s->primary << 1 | s->outdated << 2 | s->inconsistent << 3 | s->handed_over << 4 | s->clean << 5 |
			    s->keep_lost << 6));
	enc_u16(e, s->sync_set);
	enc_raw(e, s->dropped, sizeof s->dropped);
	enc_u32(e, s->nlineage);
	for (uint32_t i = 0; i < s->nlineage; i++) {
		enc_epoch(e, s->lineage[i].epoch);
		enc_u64(e, s->lineage[i].last_lsn);
	}
	enc_mark(e, &s->marks[0]);
	enc_mark(e, &s->marks[1]);
}

static int state_decode(struct dec *d, struct state *s)
{
	memset(s, 0, sizeof *s);
	dec_raw(d, s->uuid, UUID_LEN);
	s->node = dec_u8(d);
	s->generation = dec_u32(d);
	dec_raw(d, s->dir_key, sizeof s->dir_key);
	dec_raw(d, s->mac_key, sizeof s->mac_key);
	s->limits = dec_limits(d);
	s->incarnation = dec_u64(d);
	uint8_t flags = dec_u8(d);
	s->was_primary = flags & 1;
	s->primary = flags >> 1 & 1;
	s->outdated = flags >> 2 & 1;
	s->inconsistent = flags >> 3 & 1;
	s->handed_over = flags >> 4 & 1;
	s->clean = flags >> 5 & 1;
	s->keep_lost = flags >> 6 & 1;
	s->sync_set = dec_u16(d);
	dec_raw(d, s->dropped, sizeof s->dropped);
	s->nlineage = dec_u32(d);
	if (s->nlineage > LINEAGE_MAX)
		return -EBADMSG;
	for (uint32_t i = 0; i < s->nlineage; i++) {
		s->lineage[i].epoch = dec_epoch(d);
		s->lineage[i].last_lsn = dec_u64(d);
	}
	s->marks[0] = dec_mark(d);
	s->marks[1] = dec_mark(d);
	if (dec_end(d) || s->node < 1 || s->node > NODE_MAX)
		return -EBADMSG;
	return 0;
}

/* ---- slots: magic, version, zero, sequence, length, XXH3-64 of sequence, length and record; record ---- */

static uint64_t slot_sum(uint64_t seq, const void *rec, size_t len)
{
	return XXH3_64bits_withSeed(rec, len, seq ^ (uint64_t)len << 32);
}

static int slot_write(int fd, uint64_t seq, const struct state *s)
{
	struct enc rec = { 0 }, e = { 0 };
	int err;

	state_encode(&rec, s);
	enc_u32(&e, STATE_MAGIC);
	enc_u16(&e, STATE_VERSION);
	enc_u16(&e, 0);
	enc_u64(&e, seq);
	enc_u32(&e, (uint32_t)rec.len);
	enc_u64(&e, slot_sum(seq, rec.p, rec.len));
	enc_raw(&e, rec.p, rec.len);
	err = rec.err ? rec.err : e.err;
	if (!err && e.len > STATE_SLOT)
		err = -EOVERFLOW;
	while (!err && e.len < STATE_SLOT)	/* whole slots: no byte of an older record stays behind */
		enc_u64(&e, 0);
	if (!err) {
		ssize_t n = pwrite(fd, e.p, STATE_SLOT, (off_t)(seq & 1) * STATE_SLOT);
		err = n < 0 ? -errno : n != STATE_SLOT ? -EIO : 0;
	}
	enc_free(&rec);
	enc_free(&e);
	return err;
}

/* 0, -ENODATA (nothing there), -EPROTONOSUPPORT, -EBADMSG. */
static int slot_read(int fd, unsigned slot, uint64_t *seq, struct state *s)
{
	unsigned char buf[STATE_SLOT];
	ssize_t n = pread(fd, buf, sizeof buf, (off_t)slot * STATE_SLOT);

	if (n < 0)
		return -errno;
	struct dec d = dec_init(buf, (size_t)n);
	uint32_t magic = dec_u32(&d);
	uint16_t version = dec_u16(&d);
	dec_u16(&d);
	*seq = dec_u64(&d);
	uint32_t len = dec_u32(&d);
	uint64_t sum = dec_u64(&d);
	if (d.err || !magic)
		return -ENODATA;
	if (magic != STATE_MAGIC)
		return -EBADMSG;
	if (version > STATE_VERSION)
		return -EPROTONOSUPPORT;
	if (len > d.left || slot_sum(*seq, d.p, len) != sum || (*seq & 1) != slot)
		return -EBADMSG;
	d.left = len;
	return state_decode(&d, s);
}

/* ---- the root's xattr: version, uuid, node, mark, XXH3-64 of all that ---- */

static int root_mark_write(int root_fd, const struct state *s)
{
	struct enc e = { 0 };
	enc_u8(&e, VOLUME_MARK_VERSION);
	enc_raw(&e, s->uuid, UUID_LEN);
	enc_u8(&e, s->node);
	enc_mark(&e, &s->marks[0]);
	enc_u64(&e, e.err ? 0 : XXH3_64bits(e.p, e.len));
	int err = e.err;
	if (!err && fsetxattr(root_fd, VOLUME_XATTR, e.p, e.len, 0))
		err = -errno;
	enc_free(&e);
	return err;
}

static int root_mark_read(int root_fd, unsigned char uuid[UUID_LEN], unsigned *node, struct data_mark *m)
{
	unsigned char buf[256];
	ssize_t n = fgetxattr(root_fd, VOLUME_XATTR, buf, sizeof buf);

	if (n < 0)
		return errno == EOPNOTSUPP ? -ENOTSUP : -errno;
	if (n < 9)
		return -EBADMSG;
	if (buf[0] > VOLUME_MARK_VERSION)
		return -EPROTONOSUPPORT;
	struct dec d = dec_init(buf, (size_t)n);
	dec_u8(&d);
	dec_raw(&d, uuid, UUID_LEN);
	*node = dec_u8(&d);
	*m = dec_mark(&d);
	uint64_t sum = dec_u64(&d);
	if (dec_end(&d) || sum != XXH3_64bits(buf, (size_t)n - 8))
		return -EBADMSG;
	return 0;
}

int state_root_owner(int root_fd, unsigned char uuid[UUID_LEN], unsigned *node)
{
	struct data_mark m;
	return root_mark_read(root_fd, uuid, node, &m);
}

/* ---- init ---- */

static int make_hidden_dirs(int root_fd)
{
	static const char *const dirs[] = { HIDDEN_DIR, HIDDEN_DIR "/limbo", HIDDEN_DIR "/lost" };
	for (size_t i = 0; i < ARRAY_LEN(dirs); i++)
		if (mkdirat(root_fd, dirs[i], 0700) && errno != EEXIST)
			return -errno;
	return 0;
}

static void fill_random(struct state *s)
{
	static const unsigned char none[UUID_LEN];
	if (!memcmp(s->uuid, none, UUID_LEN)) {
		random_fill(s->uuid, UUID_LEN);
		s->uuid[6] = (unsigned char)((s->uuid[6] & 0x0f) | 0x40);	/* RFC 4122, version 4 */
		s->uuid[8] = (unsigned char)((s->uuid[8] & 0x3f) | 0x80);
		random_fill(s->dir_key, sizeof s->dir_key);
		random_fill(s->mac_key, sizeof s->mac_key);
	}
	while (!s->generation)
		s->generation = (uint32_t)state_random() & 0x7fffffff;
	if (!s->incarnation)
		s->incarnation = state_random();
}

int state_create(int state_fd, int root_fd, struct state *s)
{
	unsigned char uuid[UUID_LEN];
	unsigned node;
	int err = state_root_owner(root_fd, uuid, &node);

	if (err != -ENODATA)
		return err ? err : -EEXIST;
	auto_fd int fd = openat(state_fd, STATE_FILE, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_DSYNC, 0600);
	if (fd < 0)
		return -errno;
	fill_random(s);
	s->marks[0] = (struct data_mark){ .incarnation = s->incarnation, .nonce = state_random() };
	s->clean = true;
	err = -posix_fallocate(fd, 0, 2 * STATE_SLOT);
	if (!err)
		err = slot_write(fd, 1, s);
	if (!err)
		err = make_hidden_dirs(root_fd);
	if (!err)
		err = root_mark_write(root_fd, s);
	if (!err && (fsync(fd) || fsync(root_fd) || fsync(state_fd)))
		err = -errno;
	if (err) {
		fremovexattr(root_fd, VOLUME_XATTR);
		unlinkat(state_fd, STATE_FILE, 0);
	}
	return err;
}

/* ---- life ---- */

static int load_newest(int fd, struct state *s, uint64_t *seq)
{
	struct state two[2];
	uint64_t seqs[2] = { 0, 0 };
	int err[2];

	for (unsigned i = 0; i < 2; i++) {
		err[i] = slot_read(fd, i, &seqs[i], &two[i]);
		if (err[i] == -EPROTONOSUPPORT)
			return err[i];
	}
	if (err[0] && err[1])
		return err[0] == -ENODATA && err[1] == -ENODATA ? -ENOENT : -EBADMSG;
	unsigned best = err[0] ? 1 : err[1] ? 0 : seqs[1] > seqs[0];
	*s = two[best];
	*seq = seqs[best];
	return 0;
}

static bool mark_eq(const struct data_mark *a, const struct data_mark *b)
{
	return a->incarnation == b->incarnation && a->nonce == b->nonce && a->lsn == b->lsn && epoch_eq(a->epoch, b->epoch);
}

int state_open(int state_fd, int root_fd, struct state *s, bool *unknown, struct state_file **out)
{
	unsigned char uuid[UUID_LEN];
	unsigned node;
	struct data_mark m;
	uint64_t seq;

	auto_fd int fd = openat(state_fd, STATE_FILE, O_RDWR | O_CLOEXEC | O_DSYNC);
	if (fd < 0)
		return -errno;
	int err = load_newest(fd, s, &seq);
	if (err)
		return err;
	err = root_mark_read(root_fd, uuid, &node, &m);
	if (err && err != -ENODATA && err != -EBADMSG)
		return err;
	if (!err && (memcmp(uuid, s->uuid, UUID_LEN) || node != s->node))
		return -EXDEV;
	*unknown = err || (!mark_eq(&m, &s->marks[0]) && !mark_eq(&m, &s->marks[1]));
	err = make_hidden_dirs(root_fd);
	if (err)
		return err;
	struct state_file *f = calloc(1, sizeof *f);
	if (!f)
		return -ENOMEM;
	f->fd = steal_fd(&fd);
	f->root_fd = root_fd;
	f->seq = seq;
	pthread_mutex_init(&f->mu, NULL);
	*out = f;
	return 0;
}

void state_close(struct state_file *f)
{
	if (!f)
		return;
	close(f->fd);
	pthread_mutex_destroy(&f->mu);
	free(f);
}

int state_save(struct state_file *f, const struct state *s)
{
	auto_lock(&f->mu);
	int err = slot_write(f->fd, f->seq + 1, s);
	if (!err)
		f->seq++;
	return err;
}

int state_mark(struct state_file *f, struct state *s, uint64_t lsn)
{
	s->marks[1] = s->marks[0];
	s->marks[0] = (struct data_mark){ .incarnation = s->incarnation, .lsn = lsn, .nonce = state_random(), .epoch = state_epoch(s) };
	int err = state_save(f, s);
	if (!err)
		err = root_mark_write(f->root_fd, s);
	if (!err && fsync(f->root_fd))
		err = -errno;
	return err;
}

void state_push_epoch(struct state *s, struct epoch e, uint64_t last_lsn)
{
	if (s->nlineage) {
		s->lineage[s->nlineage - 1].last_lsn = last_lsn;
		if (s->nlineage == LINEAGE_MAX) {
			memmove(s->lineage, s->lineage + 1, (LINEAGE_MAX - 1) * sizeof s->lineage[0]);
			s->nlineage--;
		}
	}
	s->lineage[s->nlineage++] = (struct lineage_entry){ .epoch = e, .last_lsn = UINT64_MAX };
}
