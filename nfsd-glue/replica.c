/*
 * Records, snapshots, and who may be believed.
 *
 * Bytes (little-endian; docs/protocol.md):
 *	answer    u8 version, u32 age ms, 16 address, u32 xid, prog, vers, proc, length of the arguments, u64 checksum, u16 length, answer
 *	snapshot  u8 version, u8 what (1 begin, 2 chunk, 3 end), u64 its number, then
 *	          chunk: records, each u8 kind, u16 length, bytes;  end: u64 how many records there were
 *
 * A snapshot that was cut short, or one of whose records can't be right, leaves the state incomplete. The receiver's side is one thread at a time: the applier's, or
 * the node's worker before a promotion; `take_mu` says so to sanitizers and to what peers may try.
 */
#include "nfsd-glue/replica.h"

#include <assert.h>
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "fs/base/codec.h"
#include "fs/base/log.h"
#include "mirror/state.h"

enum snapshot_what { SNAPSHOT_BEGIN = 1, SNAPSHOT_CHUNK, SNAPSHOT_END };
enum { RECORD_HEAD = 3, OP_COST = 1024 };	/* of a record within a chunk; of an op in the queue beyond its attachment */

struct replica {
	struct replica_config cfg;
	struct replica_part part[REPLICA_KINDS];

	pthread_mutex_t take_mu;		/* guards the next three; before the parts' locks */
	uint64_t number, records;		/* of the snapshot being taken: 0 = none */
	bool damaged;				/* something of it was refused */
	_Atomic bool complete;
	_Atomic uint64_t applied, merged, malformed, sent, taken;
};

struct replica_out {
	struct replica *r;
	enum replica_kind kind;			/* of the part that writes */
	uint64_t number, records;
	int (*send)(void *to, const void *data, size_t len);
	int (*pause)(void *to);			/* NULL = none */
	void (*pass)(void *to);			/* NULL = none: no changes are under way */
	void *to;
	size_t len;				/* of buf; SNAPSHOT_HEAD when the chunk is empty */
	unsigned char buf[REPLICA_CHUNK_MAX];
};

/* ---- fixed-size encoding ---- */

static unsigned char *le(unsigned char *p, uint64_t v, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		*p++ = (unsigned char)(v >> 8 * i);
	return p;
}

static size_t head(unsigned char *buf, enum snapshot_what what, uint64_t number)
{
	unsigned char *p = le(buf, REPLICA_VERSION, 1);

	p = le(p, what, 1);
	p = le(p, number, 8);
	assert(p - buf == REPLICA_SNAPSHOT_HEAD);
	return (size_t)(p - buf);
}

/* ---- answers ---- */

size_t replica_reply_encode(unsigned char record[REPLICA_REPLY_RECORD_MAX], const struct replay_key *k, const void *bytes, size_t len, uint32_t age_ms)
{
	unsigned char *p = le(record, REPLICA_VERSION, 1);

	assert(len <= REPLAY_REPLY_MAX);
	p = le(p, age_ms, 4);
	memcpy(p, k->addr, sizeof k->addr);
	p = le(p + sizeof k->addr, k->xid, 4);
	p = le(p, k->prog, 4);
	p = le(p, k->vers, 4);
	p = le(p, k->proc, 4);
	p = le(p, k->args_len, 4);
	p = le(p, k->sum, 8);
	p = le(p, len, 2);
	assert(p - record == REPLICA_REPLY_HEAD);
	memcpy(p, bytes, len);
	return REPLICA_REPLY_HEAD + len;
}

static int reply_apply(void *arg, const void *data, size_t len, bool merge)
{
	struct replica *r = arg;
	struct dec d = dec_init(data, len);
	struct replay_key k = { 0 };
	size_t n;

	uint8_t version = dec_u8(&d);
	uint32_t age_ms = dec_u32(&d);
	dec_raw(&d, k.addr, sizeof k.addr);
	k.xid = dec_u32(&d);
	k.prog = dec_u32(&d);
	k.vers = dec_u32(&d);
	k.proc = dec_u32(&d);
	k.args_len = dec_u32(&d);
	k.sum = dec_u64(&d);
	const void *bytes = dec_bytes16(&d, REPLAY_REPLY_MAX, &n);
	if (dec_end(&d) || version != REPLICA_VERSION)
		return -EBADMSG;
	if (merge)
		replay_merge(r->cfg.replay, &k, bytes, n, age_ms);
	else
		replay_apply(r->cfg.replay, &k, bytes, n);
	return 0;
}

static void reply_clear(void *arg) { replay_clear(((struct replica *)arg)->cfg.replay); }

static int reply_put(void *arg, const struct replay_key *k, const void *bytes, size_t len, uint32_t age_ms)
{
	unsigned char record[REPLICA_REPLY_RECORD_MAX];
	size_t n = replica_reply_encode(record, k, bytes, len, age_ms);

	return replica_put(arg, record, n);
}

static int reply_idle(void *arg) { return replica_pause(arg); }

static int reply_each(void *arg, struct replica_out *out) { return replay_each(((struct replica *)arg)->cfg.replay, reply_put, reply_idle, out); }

void replica_reply_attach(struct replica *r, struct call *c, const struct replay_key *k, const void *bytes, size_t len, bool lazy,
			  unsigned char record[REPLICA_REPLY_RECORD_MAX])
{
	replay_done(r->cfg.replay, k, bytes, len);
	c->attach = record;
	c->attach_len = (uint32_t)replica_reply_encode(record, k, bytes, len, 0);
	c->attach_kind = REPLICA_REPLY;
	c->attach_lazy = lazy;
}

static int emit_reply(struct replica *r, const struct replay_key *k, const void *bytes, size_t len, bool wait)
{
	unsigned char record[REPLICA_REPLY_RECORD_MAX];
	size_t n = replica_reply_encode(record, k, bytes, len, 0);
	uint64_t seq = 0;
	int err = interpose_attach_begin(r->cfg.ip, n);

	if (err)
		return err;
	replay_done(r->cfg.replay, k, bytes, len);
	err = interpose_attach_emit(r->cfg.ip, REPLICA_REPLY, record, (uint32_t)n, 0xffff, &seq);
	interpose_attach_end(r->cfg.ip);
	return err || !wait ? err : interpose_attach_wait(r->cfg.ip, seq);
}

int replica_reply_alone(struct replica *r, const struct replay_key *k, const void *bytes, size_t len, bool lazy)
{
	int err = emit_reply(r, k, bytes, len, !lazy);

	if (err)
		replay_forget(r->cfg.replay, k);
	return err;
}

/* ---- writing a snapshot ---- */

int replica_flush(struct replica_out *out)
{
	size_t len = out->len;

	out->len = REPLICA_SNAPSHOT_HEAD;
	return len > REPLICA_SNAPSHOT_HEAD ? out->send(out->to, out->buf, len) : 0;
}

int replica_put(struct replica_out *out, const void *data, size_t len)
{
	assert(len && len <= REPLICA_RECORD_MAX);
	int err = out->len + RECORD_HEAD + len > sizeof out->buf ? replica_flush(out) : 0;

	if (err)
		return err;
	unsigned char *p = le(out->buf + out->len, out->kind, 1);
	p = le(p, len, 2);
	memcpy(p, data, len);
	out->len += RECORD_HEAD + len;
	out->records++;
	return 0;
}

int replica_pause(struct replica_out *out) { return out->pause ? out->pause(out->to) : 0; }

static int marker(struct replica_out *out, enum snapshot_what what)
{
	unsigned char m[REPLICA_SNAPSHOT_HEAD + 8];
	size_t len = head(m, what, out->number);

	if (what == SNAPSHOT_END) {
		le(m + len, out->records, 8);
		len += 8;
	}
	return out->send(out->to, m, len);
}

static int write_all(struct replica_out *out)
{
	struct replica *r = out->r;
	int err = replica_pause(out);

	if (!err)
		err = marker(out, SNAPSHOT_BEGIN);
	out->len = head(out->buf, SNAPSHOT_CHUNK, out->number);
	for (unsigned k = 1; k < REPLICA_KINDS && !err; k++) {
		if (!r->part[k].each)
			continue;
		out->kind = (enum replica_kind)k;
		err = r->part[k].each(r->part[k].arg, out);
		if (!err)
			err = replica_flush(out);
		if (!err)
			err = replica_pause(out);
	}
	if (!err && out->pass)
		out->pass(out->to);
	return err ? err : marker(out, SNAPSHOT_END);
}

static int write_snapshot(struct replica *r, int (*send)(void *, const void *, size_t), int (*pause)(void *), void (*pass)(void *), void *to)
{
	auto_free struct replica_out *out = malloc(sizeof *out);

	if (!out)
		return -ENOMEM;
	out->r = r;
	out->number = state_random();
	out->records = 0;
	out->send = send;
	out->pause = pause;
	out->pass = pass;
	out->to = to;
	return write_all(out);
}

struct to_peer { struct replica *r; unsigned peer; };

static int send_to_peer(void *arg, const void *data, size_t len)
{
	const struct to_peer *to = arg;
	struct op op = { .type = OP_ATTACH, .attach = data, .attach_len = (uint32_t)len, .attach_kind = REPLICA_SNAPSHOT };

	return interpose_emit(to->r->cfg.ip, &op, (uint16_t)(1u << to->peer), &(uint64_t){ 0 });
}

static int pause_for_peer(void *arg)
{
	const struct to_peer *to = arg;

	return queue_admit_statement(to->r->cfg.queue, REPLICA_CHUNK_MAX + OP_COST);
}

/* An answer is known before its op is in the order; a peer that has the one in its snapshot must not count before it has the other. */
static void pass_changes(void *arg) { interpose_pass(((const struct to_peer *)arg)->r->cfg.ip); }

int replica_snapshot(struct replica *r, unsigned peer)
{
	struct to_peer to = { r, peer };
	int err = write_snapshot(r, send_to_peer, pause_for_peer, pass_changes, &to);

	if (!err)
		atomic_fetch_add(&r->sent, 1);
	return err;
}

int replica_give(struct replica *r, int (*send)(void *to, const void *data, size_t len), void *to)
{
	return write_snapshot(r, send, NULL, NULL, to);
}

/* ---- taking ---- */

/* At the first, and at every power of two: a peer can't fill the log. */
static void refuse(struct replica *r, unsigned kind)
{
	uint64_t n = atomic_fetch_add(&r->malformed, 1) + 1;

	atomic_store(&r->complete, false);
	if (!(n & (n - 1)))
		log_error("replica: a record of kind %u that can't be right is ignored (%llu so far): do both nodes run the same release?", kind,
			  (unsigned long long)n);
}

static int apply_record(struct replica *r, unsigned kind, const void *data, size_t len, bool merge)
{
	const struct replica_part *p = kind && kind < REPLICA_KINDS ? &r->part[kind] : NULL;

	if (!p || !p->apply || !len || len > REPLICA_RECORD_MAX)
		return -EBADMSG;
	int err = p->apply(p->arg, data, len, merge);
	if (!err)
		atomic_fetch_add_explicit(merge ? &r->merged : &r->applied, 1, memory_order_relaxed);
	return err;
}

/* A record of the stream. */
static void on_record(void *arg, uint16_t kind, uint64_t seq, const void *data, size_t len)
{
	struct replica *r = arg;

	(void)seq;
	if (apply_record(r, kind, data, len, false))
		refuse(r, kind);
}

static int take_begin(struct replica *r, struct dec *d, uint64_t number)
{
	int err = number ? dec_end(d) : -EBADMSG;

	if (err)
		return err;
	atomic_store(&r->complete, false);
	r->number = number;
	r->records = 0;
	r->damaged = false;
	for (unsigned k = 1; k < REPLICA_KINDS; k++)
		if (r->part[k].clear)
			r->part[k].clear(r->part[k].arg);
	return 0;
}

static int take_chunk(struct replica *r, struct dec *d)
{
	while (d->left && !d->err) {
		size_t len;
		uint8_t kind = dec_u8(d);
		const void *data = dec_bytes16(d, REPLICA_RECORD_MAX, &len);
		if (d->err)
			return -EBADMSG;
		int err = apply_record(r, kind, data, len, true);
		if (err)
			return err;
		r->records++;
	}
	return d->err;
}

static int take_end(struct replica *r, struct dec *d)
{
	uint64_t records = dec_u64(d);

	if (dec_end(d) || records != r->records)
		return -EBADMSG;
	r->number = 0;
	if (!r->damaged) {
		atomic_store(&r->complete, true);
		atomic_fetch_add(&r->taken, 1);
	}
	return 0;
}

int replica_take(struct replica *r, const void *data, size_t len)
{
	auto_lock(&r->take_mu);
	struct dec d = dec_init(data, len);
	uint8_t version = dec_u8(&d), what = dec_u8(&d);
	uint64_t number = dec_u64(&d);
	int err = d.err || version != REPLICA_VERSION ? -EBADMSG : 0;

	if (!err && what == SNAPSHOT_BEGIN)
		err = take_begin(r, &d, number);
	else if (!err && (!r->number || number != r->number))
		err = -EBADMSG;
	else if (!err && what == SNAPSHOT_CHUNK)
		err = take_chunk(r, &d);
	else if (!err)
		err = what == SNAPSHOT_END ? take_end(r, &d) : -EBADMSG;
	if (err) {
		r->damaged = true;
		refuse(r, REPLICA_SNAPSHOT);
	}
	return err;
}

static void on_snapshot(void *arg, uint16_t kind, uint64_t seq, const void *data, size_t len)
{
	(void)kind, (void)seq;
	replica_take(arg, data, len);
}

bool replica_complete(const struct replica *r) { return atomic_load(&((struct replica *)(uintptr_t)r)->complete); }

bool replica_promoted(struct replica *r)
{
	for (unsigned k = 1; k < REPLICA_KINDS; k++)
		if (r->part[k].promoted)
			r->part[k].promoted(r->part[k].arg);
	return atomic_exchange(&r->complete, true);
}

/* ---- life ---- */

int replica_new(const struct replica_config *cfg, struct replica **out)
{
	struct replica *r = calloc(1, sizeof *r);

	if (!r)
		return -ENOMEM;
	r->cfg = *cfg;
	pthread_mutex_init(&r->take_mu, NULL);
	const struct replica_part replies = { .apply = reply_apply, .clear = reply_clear, .each = reply_each, .arg = r };
	replica_register(r, REPLICA_REPLY, &replies);
	*out = r;
	return 0;
}

void replica_free(struct replica *r)
{
	if (!r)
		return;
	pthread_mutex_destroy(&r->take_mu);
	free(r);
}

void replica_register(struct replica *r, enum replica_kind kind, const struct replica_part *part)
{
	assert(kind > 0 && kind < REPLICA_SNAPSHOT && !r->part[kind].apply);
	r->part[kind] = *part;
}

void replica_follow(struct replica *r, struct apply *a)
{
	for (unsigned k = 1; k < REPLICA_SNAPSHOT; k++)
		apply_register_attach(a, (uint16_t)k, on_record, r);
	apply_register_attach(a, REPLICA_SNAPSHOT, on_snapshot, r);
}

void replica_stats(struct replica *r, struct replica_stats *out)
{
	*out = (struct replica_stats){ .applied = atomic_load(&r->applied), .merged = atomic_load(&r->merged), .malformed = atomic_load(&r->malformed),
				       .snapshots_sent = atomic_load(&r->sent), .snapshots_taken = atomic_load(&r->taken),
				       .complete = atomic_load(&r->complete) };
}
