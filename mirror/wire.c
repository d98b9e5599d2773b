/*
 * Frames and control messages: one encoder and one decoder per kind, found through a table. The decoders refuse everything that an honest
 * peer never sends: lengths, enumerations, node numbers, epochs, names, range counters, strings with a NUL in them. docs/protocol.md has the bytes.
 *
 * A newer release may say more of itself than this one understands: a hello ends with a counted run of bytes that is skipped here, and flag and
 * feature bits that are not known are ignored. Everything else changes with the version only.
 */
#include "mirror/wire.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#define XXH_STATIC_LINKING_ONLY		/* the state on the stack */
#include <xxhash.h>

#include "fs/base/cleanup.h"

enum { HELLO_EXTRA_MAX = 4096, COUNTER_MAX = 1 << (ID_NODE_SHIFT - ID_RANGE_BITS), ERR_MAX = 4095 };

/* ---- frames ---- */

static void header_fill(unsigned char out[FRAME_HEADER_LEN], const struct frame_header *h, uint64_t sum)
{
	const struct { uint64_t v; unsigned char at, len; } f[] = {
		{ FRAME_MAGIC, 0, 4 }, { FRAME_VERSION, 4, 1 }, { h->kind, 5, 1 }, { h->flags, 6, 2 }, { h->meta_len, 8, 4 },
		{ h->data_len, 12, 4 }, { h->raw_len, 16, 4 }, { 0, 20, 4 }, { h->seq, 24, 8 }, { sum, 32, 8 },
	};

	for (size_t i = 0; i < ARRAY_LEN(f); i++)
		for (unsigned b = 0; b < f[i].len; b++)
			out[f[i].at + b] = (unsigned char)(f[i].v >> (8 * b));
}

void frame_header_encode(unsigned char out[FRAME_HEADER_LEN], const struct frame_header *h)
{
	header_fill(out, h, h->sum);
}

static bool op_frame_ok(const struct frame_header *h)
{
	if (!h->meta_len || h->meta_len > OP_META_MAX || h->raw_len > OP_DATA_MAX || (h->flags & ~FRAME_ZSTD))
		return false;
	if (h->flags & FRAME_ZSTD)
		return h->data_len && h->data_len < h->raw_len;
	return h->data_len == h->raw_len;
}

static bool control_frame_ok(const struct frame_header *h)
{
	return h->kind >= FRAME_HELLO && h->kind <= FRAME_CONTROL_LAST && h->meta_len <= FRAME_CONTROL_META_MAX && !h->data_len && !h->raw_len &&
	       !h->flags && !h->seq;
}

int frame_header_decode(const unsigned char in[FRAME_HEADER_LEN], struct frame_header *h)
{
	struct dec d = dec_init(in, FRAME_HEADER_LEN);

	memset(h, 0, sizeof *h);
	if (dec_u32(&d) != FRAME_MAGIC)
		return -EBADMSG;
	if (dec_u8(&d) != FRAME_VERSION)
		return -EPROTONOSUPPORT;
	h->kind = dec_u8(&d);
	h->flags = dec_u16(&d);
	h->meta_len = dec_u32(&d);
	h->data_len = dec_u32(&d);
	h->raw_len = dec_u32(&d);
	uint32_t zero = dec_u32(&d);
	h->seq = dec_u64(&d);
	h->sum = dec_u64(&d);
	if (zero)
		return -EBADMSG;
	return (h->kind == FRAME_OP ? op_frame_ok(h) : control_frame_ok(h)) ? 0 : -EBADMSG;
}

uint64_t frame_checksum(const struct frame_header *h, const void *meta, const void *data)
{
	unsigned char head[FRAME_HEADER_LEN];
	XXH3_state_t s;

	header_fill(head, h, 0);
	XXH3_64bits_reset(&s);
	XXH3_64bits_update(&s, head, sizeof head);
	if (h->meta_len)
		XXH3_64bits_update(&s, meta, h->meta_len);
	if (h->data_len)
		XXH3_64bits_update(&s, data, h->data_len);
	return XXH3_64bits_digest(&s);
}

/* ---- parts of messages ---- */

static void bad_if(struct dec *d, bool bad)
{
	if (bad)
		d->err = -EBADMSG;
}

static void put_epoch(struct enc *e, struct epoch ep)
{
	enc_u64(e, ep.reign);
	enc_u64(e, ep.tag);
	enc_u8(e, ep.node);
}

static struct epoch get_epoch(struct dec *d, bool none_allowed)
{
	struct epoch ep = { 0 };

	ep.reign = dec_u64(d);
	ep.tag = dec_u64(d);
	ep.node = dec_u8(d);
	if (ep.reign)
		bad_if(d, ep.node < 1 || ep.node > NODE_MAX);
	else
		bad_if(d, !none_allowed || ep.node || ep.tag);
	return ep;
}

static uint8_t get_node(struct dec *d)
{
	uint8_t node = dec_u8(d);

	bad_if(d, node < 1 || node > NODE_MAX);
	return node;
}

static uint16_t get_set(struct dec *d)
{
	uint16_t set = dec_u16(d);

	bad_if(d, set & 1);
	return set;
}

/* -errno, as a positive number. */
static void put_err(struct enc *e, int32_t err)
{
	enc_u32(e, err > 0 || err < -ERR_MAX ? EIO : (uint32_t)-err);
}

static int32_t get_err(struct dec *d)
{
	uint32_t v = dec_u32(d);

	bad_if(d, v > ERR_MAX);
	return v > ERR_MAX ? -EBADMSG : -(int32_t)v;
}

static uint64_t get_token(struct dec *d)
{
	uint64_t token = dec_u64(d);

	bad_if(d, !token);
	return token;
}

static void put_string(struct enc *e, const char *s, size_t size) { enc_bytes16(e, s, strnlen(s, size - 1)); }

static void get_string(struct dec *d, char *out, size_t size)
{
	size_t len;
	const void *p = dec_bytes16(d, size - 1, &len);

	bad_if(d, len && memchr(p, 0, len));
	if (len)
		memcpy(out, p, len);
	out[len] = 0;
}

/* For people's eyes and logs: what is not printable is not shown. */
static void get_reason(struct dec *d, char *out, size_t size)
{
	get_string(d, out, size);
	for (char *c = out; *c; c++)
		if (*c < ' ' || *c > '~')
			*c = '?';
}

static void put_counters(struct enc *e, const uint64_t c[NODE_MAX + 1])
{
	for (unsigned n = 1; n <= NODE_MAX; n++)
		enc_u64(e, c[n]);
}

static void get_counters(struct dec *d, uint64_t c[NODE_MAX + 1])
{
	c[0] = 0;
	for (unsigned n = 1; n <= NODE_MAX; n++) {
		c[n] = dec_u64(d);
		bad_if(d, c[n] > COUNTER_MAX);
	}
}

static void put_limits(struct enc *e, const struct volume_limits *l)
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

static void get_limits(struct dec *d, struct volume_limits *l)
{
	l->time_min = (int64_t)dec_u64(d);
	l->time_max = (int64_t)dec_u64(d);
	l->time_gran_ns = dec_u32(d);
	l->xattr_value_max = dec_u32(d);
	l->xattr_total_max = dec_u32(d);
	l->symlink_max = dec_u32(d);
	l->link_max = dec_u32(d);
	l->size_max = dec_u64(d);
	bad_if(d, l->time_min > l->time_max || l->time_gran_ns > 1000000000);
}

/* ---- messages ---- */

static void put_hello(struct enc *e, const struct msg *m)
{
	const struct hello *h = &m->hello;

	assert(h->nlineage <= LINEAGE_MAX);
	enc_u8(e, h->kind);
	enc_u16(e, h->version_min);
	enc_u16(e, h->version_max);
	enc_u64(e, h->features);
	enc_raw(e, h->uuid, UUID_LEN);
	enc_u8(e, h->node);
	enc_u64(e, h->instance);
	enc_u64(e, h->incarnation);
	enc_u64(e, h->token);
	enc_u32(e, h->flags);
	put_epoch(e, h->epoch);
	enc_u64(e, h->lsn);
	enc_u64(e, h->from_instance);
	enc_u64(e, h->from_seq);
	enc_u16(e, h->sync_set);
	put_counters(e, h->counters);
	put_limits(e, &h->limits);
	enc_u64(e, h->free_bytes);
	enc_u64(e, h->free_inodes);
	enc_u8(e, (uint8_t)h->nlineage);
	for (uint32_t i = 0; i < h->nlineage; i++) {
		put_epoch(e, h->lineage[i].epoch);
		enc_u64(e, h->lineage[i].last_lsn);
	}
	enc_bytes16(e, NULL, 0);
}

static void get_lineage(struct dec *d, struct hello *h)
{
	h->nlineage = dec_u8(d);
	bad_if(d, h->nlineage > LINEAGE_MAX);
	if (d->err)
		h->nlineage = 0;
	for (uint32_t i = 0; i < h->nlineage; i++) {
		h->lineage[i].epoch = get_epoch(d, false);
		h->lineage[i].last_lsn = dec_u64(d);
	}
}

static void get_hello(struct dec *d, struct msg *m)
{
	struct hello *h = &m->hello;
	size_t extra;

	h->kind = dec_u8(d);
	h->version_min = dec_u16(d);
	h->version_max = dec_u16(d);
	h->features = dec_u64(d);
	dec_raw(d, h->uuid, UUID_LEN);
	h->node = get_node(d);
	h->instance = dec_u64(d);
	h->incarnation = dec_u64(d);
	h->token = dec_u64(d);
	h->flags = dec_u32(d);
	h->epoch = get_epoch(d, true);
	h->lsn = dec_u64(d);
	h->from_instance = dec_u64(d);
	h->from_seq = dec_u64(d);
	h->sync_set = get_set(d);
	get_counters(d, h->counters);
	get_limits(d, &h->limits);
	h->free_bytes = dec_u64(d);
	h->free_inodes = dec_u64(d);
	get_lineage(d, h);
	dec_bytes16(d, HELLO_EXTRA_MAX, &extra);
	bad_if(d, h->kind < HELLO_CONTROL || h->kind > HELLO_JOIN || h->version_min > h->version_max);
	bad_if(d, (h->kind == HELLO_STREAM) != (h->token != 0));
}

static void put_heartbeat(struct enc *e, const struct msg *m)
{
	enc_u32(e, m->heartbeat.flags);
	put_epoch(e, m->heartbeat.epoch);
	enc_u64(e, m->heartbeat.lsn);
	enc_u64(e, m->heartbeat.seq);
	enc_u64(e, m->heartbeat.free_bytes);
	enc_u64(e, m->heartbeat.free_inodes);
	enc_u64(e, m->heartbeat.sent_ns);
	enc_u64(e, m->heartbeat.echo_ns);
}

static void get_heartbeat(struct dec *d, struct msg *m)
{
	m->heartbeat.flags = dec_u32(d);
	m->heartbeat.epoch = get_epoch(d, true);
	m->heartbeat.lsn = dec_u64(d);
	m->heartbeat.seq = dec_u64(d);
	m->heartbeat.free_bytes = dec_u64(d);
	m->heartbeat.free_inodes = dec_u64(d);
	m->heartbeat.sent_ns = dec_u64(d);
	m->heartbeat.echo_ns = dec_u64(d);
}

static void put_ack(struct enc *e, const struct msg *m)
{
	enc_u64(e, m->ack.recv_seq);
	enc_u64(e, m->ack.applied_seq);
	enc_u64(e, m->ack.bytes);
}

static void get_ack(struct dec *d, struct msg *m)
{
	m->ack.recv_seq = dec_u64(d);
	m->ack.applied_seq = dec_u64(d);
	m->ack.bytes = dec_u64(d);
}

static void put_barrier(struct enc *e, const struct msg *m)
{
	enc_u64(e, m->barrier.seq);
	put_err(e, m->barrier.err);
}

static void get_barrier(struct dec *d, struct msg *m)
{
	m->barrier.seq = dec_u64(d);
	m->barrier.err = get_err(d);
}

static void put_open(struct enc *e, const struct msg *m)
{
	enc_u64(e, m->open.token);
	enc_u64(e, m->open.from_seq);
	enc_u8(e, m->open.mode);
	put_epoch(e, m->open.epoch);
	enc_u64(e, m->open.base_seq);
	enc_u8(e, m->open.keep_lost);
	enc_u64(e, m->open.at_instance);
	enc_u64(e, m->open.at_seq);
}

static void get_open(struct dec *d, struct msg *m)
{
	m->open.token = get_token(d);
	m->open.from_seq = dec_u64(d);
	m->open.mode = dec_u8(d);
	m->open.epoch = get_epoch(d, true);
	m->open.base_seq = dec_u64(d);
	uint8_t keep = dec_u8(d);
	m->open.keep_lost = keep;
	m->open.at_instance = dec_u64(d);
	m->open.at_seq = dec_u64(d);
	bad_if(d, keep > 1 || m->open.mode < OPEN_STREAM || m->open.mode > OPEN_FULL);
}

static void put_opened(struct enc *e, const struct msg *m)
{
	enc_u64(e, m->opened.token);
	put_err(e, m->opened.err);
	put_string(e, m->opened.reason, sizeof m->opened.reason);
}

static void get_opened(struct dec *d, struct msg *m)
{
	m->opened.token = get_token(d);
	m->opened.err = get_err(d);
	get_reason(d, m->opened.reason, sizeof m->opened.reason);
}

static void put_record(struct enc *e, const struct msg *m)
{
	enc_u64(e, m->record.id);
	enc_u16(e, m->record.sync_set);
	put_epoch(e, m->record.epoch);
	enc_u64(e, m->record.prev_lsn);
}

static void get_record(struct dec *d, struct msg *m)
{
	m->record.id = dec_u64(d);
	m->record.sync_set = get_set(d);
	m->record.epoch = get_epoch(d, true);
	m->record.prev_lsn = dec_u64(d);
}

static void put_done(struct enc *e, const struct msg *m)
{
	enc_u64(e, m->record_done.id);
	put_err(e, m->record_done.err);
}

static void get_done(struct dec *d, struct msg *m)
{
	m->record_done.id = dec_u64(d);
	m->record_done.err = get_err(d);
}

static void put_id(struct enc *e, const struct msg *m) { enc_u64(e, m->id); }
static void get_id(struct dec *d, struct msg *m) { m->id = dec_u64(d); }

static void put_switchover(struct enc *e, const struct msg *m)
{
	enc_u64(e, m->switchover.id);
	enc_u8(e, m->switchover.node);
}

static void get_switchover(struct dec *d, struct msg *m)
{
	m->switchover.id = dec_u64(d);
	m->switchover.node = dec_u8(d);
	bad_if(d, m->switchover.node > NODE_MAX);
}

static void put_switched(struct enc *e, const struct msg *m)
{
	enc_u64(e, m->switched.id);
	put_err(e, m->switched.err);
	put_string(e, m->switched.reason, sizeof m->switched.reason);
}

static void get_switched(struct dec *d, struct msg *m)
{
	m->switched.id = dec_u64(d);
	m->switched.err = get_err(d);
	get_reason(d, m->switched.reason, sizeof m->switched.reason);
}

static void put_state(struct enc *e, const struct msg *m)
{
	assert(m->state.len <= STATE_PART_MAX);
	enc_u64(e, m->state.id);
	enc_bytes32(e, m->state.data, m->state.len);
}

static void get_state(struct dec *d, struct msg *m)
{
	m->state.id = dec_u64(d);
	m->state.data = dec_bytes32(d, STATE_PART_MAX, &m->state.len);
}

static void put_goodbye(struct enc *e, const struct msg *m)
{
	enc_u8(e, m->goodbye.handover);
	put_string(e, m->goodbye.reason, sizeof m->goodbye.reason);
}

static void get_goodbye(struct dec *d, struct msg *m)
{
	m->goodbye.handover = dec_u8(d);
	get_reason(d, m->goodbye.reason, sizeof m->goodbye.reason);
	bad_if(d, m->goodbye.handover > 1);
}

static void put_report(struct enc *e, const struct msg *m)
{
	const struct report *r = &m->report;

	enc_u8(e, r->kind);
	enc_u64(e, r->seq);
	enc_u64(e, r->id);
	enc_u64(e, r->parent);
	put_string(e, r->name, sizeof r->name);
	enc_u64(e, r->off);
	enc_u64(e, r->len);
	enc_u64(e, r->bits);
}

static bool report_id_ok(uint64_t id) { return !id || id == HANDLE_LIMBO || id_valid(id); }

static bool report_ok(const struct report *r)
{
	if (r->kind < REPORT_DIRTY || r->kind > REPORT_ENDED || !strcmp(r->name, ".") || !strcmp(r->name, "..") || strchr(r->name, '/'))
		return false;
	if (r->kind != REPORT_ENDED && (!report_id_ok(r->id) || !report_id_ok(r->parent)))
		return false;
	return r->kind != REPORT_DATA || (r->off <= INT64_MAX && r->len <= INT64_MAX - r->off);
}

static void get_report(struct dec *d, struct msg *m)
{
	struct report *r = &m->report;

	r->kind = dec_u8(d);
	r->seq = dec_u64(d);
	r->id = dec_u64(d);
	r->parent = dec_u64(d);
	get_string(d, r->name, sizeof r->name);
	r->off = dec_u64(d);
	r->len = dec_u64(d);
	r->bits = dec_u64(d);
	bad_if(d, !report_ok(r));
}

static void put_join(struct enc *e, const struct msg *m)
{
	enc_u8(e, m->join.node);
	put_limits(e, &m->join.limits);
}

static void get_join(struct dec *d, struct msg *m)
{
	m->join.node = get_node(d);
	get_limits(d, &m->join.limits);
}

static void put_joined(struct enc *e, const struct msg *m)
{
	const struct joined_msg *j = &m->joined;

	put_err(e, j->err);
	put_string(e, j->reason, sizeof j->reason);
	enc_raw(e, j->uuid, UUID_LEN);
	enc_u32(e, j->generation);
	enc_raw(e, j->dir_key, sizeof j->dir_key);
	enc_raw(e, j->mac_key, sizeof j->mac_key);
	put_limits(e, &j->limits);
	enc_u16(e, j->members);
	put_counters(e, j->counters);
}

static void get_joined(struct dec *d, struct msg *m)
{
	struct joined_msg *j = &m->joined;

	j->err = get_err(d);
	get_reason(d, j->reason, sizeof j->reason);
	dec_raw(d, j->uuid, UUID_LEN);
	j->generation = dec_u32(d);
	dec_raw(d, j->dir_key, sizeof j->dir_key);
	dec_raw(d, j->mac_key, sizeof j->mac_key);
	get_limits(d, &j->limits);
	j->members = get_set(d);
	get_counters(d, j->counters);
	bad_if(d, !j->err && !j->generation);
}

static const struct {
	void (*put)(struct enc *e, const struct msg *m);
	void (*get)(struct dec *d, struct msg *m);
} codecs[FRAME_CONTROL_LAST + 1] = {
	[FRAME_HELLO] = { put_hello, get_hello }, [FRAME_HEARTBEAT] = { put_heartbeat, get_heartbeat }, [FRAME_ACK] = { put_ack, get_ack },
	[FRAME_BARRIER] = { put_barrier, get_barrier }, [FRAME_OPEN] = { put_open, get_open }, [FRAME_OPENED] = { put_opened, get_opened },
	[FRAME_OUTDATE] = { put_id, get_id }, [FRAME_OUTDATED] = { put_done, get_done }, [FRAME_RECORD] = { put_record, get_record },
	[FRAME_RECORDED] = { put_done, get_done }, [FRAME_LEVEL] = { put_id, get_id }, [FRAME_LEVELLED] = { put_done, get_done },
	[FRAME_GOODBYE] = { put_goodbye, get_goodbye }, [FRAME_REPORT] = { put_report, get_report }, [FRAME_JOIN] = { put_join, get_join },
	[FRAME_JOINED] = { put_joined, get_joined }, [FRAME_SWITCHOVER] = { put_switchover, get_switchover },
	[FRAME_SWITCHED] = { put_switched, get_switched }, [FRAME_TAKE_BACK] = { put_id, get_id }, [FRAME_TAKEN_BACK] = { put_done, get_done },
	[FRAME_STATE_ASK] = { put_id, get_id }, [FRAME_STATE] = { put_state, get_state },
};

int msg_encode(struct enc *e, const struct msg *m)
{
	assert(m->kind >= FRAME_HELLO && m->kind <= FRAME_CONTROL_LAST);
	codecs[m->kind].put(e, m);
	return e->err;
}

int msg_frame(struct enc *e, const struct msg *m)
{
	struct frame_header h = { .kind = m->kind };
	size_t at = e->len;

	enc_raw(e, (unsigned char[FRAME_HEADER_LEN]){ 0 }, FRAME_HEADER_LEN);
	if (msg_encode(e, m) < 0)
		return e->err;
	h.meta_len = (uint32_t)(e->len - at - FRAME_HEADER_LEN);
	assert(h.meta_len <= FRAME_CONTROL_META_MAX);
	h.sum = frame_checksum(&h, e->p + at + FRAME_HEADER_LEN, NULL);
	frame_header_encode(e->p + at, &h);
	return 0;
}

int msg_decode(uint8_t kind, const void *meta, size_t len, struct msg *m)
{
	struct dec d = dec_init(meta, len);

	memset(m, 0, sizeof *m);
	if (kind < FRAME_HELLO || kind > FRAME_CONTROL_LAST)
		return -EBADMSG;
	m->kind = kind;
	codecs[kind].get(&d, m);
	return dec_end(&d);
}
