#include "nfsd-glue/lockrec.h"

#include <errno.h>
#include <string.h>

#include "nfsd-glue/replica.h"

enum { NODES_MAX = 15 };

static void put_name(struct enc *e, const struct lockrec *r)
{
	enc_raw(e, r->addr, sizeof r->addr);
	enc_bytes16(e, r->name, strlen(r->name));
}

static void put_identity(struct enc *e, const struct lockrec *r)
{
	enc_u32(e, r->svid);
	put_name(e, r);
	enc_bytes16(e, r->oh, r->oh_len);
}

static void put_lock(struct enc *e, const struct lockrec *r)
{
	enc_u8(e, (uint8_t)r->r.kind);
	enc_u8(e, (uint8_t)r->r.mode);
	enc_u16(e, (uint16_t)r->node);
	enc_u64(e, r->id);
	enc_u64(e, r->r.start);
	enc_u64(e, r->r.end);
	enc_u32(e, (uint32_t)r->r.pid);
	if (r->node == LOCK_NODE_VOLUME)
		put_identity(e, r);
	else
		enc_u64(e, r->key);
}

static void put_share(struct enc *e, const struct lockrec *r)
{
	enc_u8(e, r->access);
	enc_u8(e, r->deny);
	enc_u64(e, r->id);
	put_identity(e, r);
}

static void put_host(struct enc *e, const struct lockrec *r)
{
	enc_raw(e, r->local, sizeof r->local);
	enc_u32(e, (uint32_t)r->state);
	put_name(e, r);
}

void lockrec_encode(struct enc *e, const struct lockrec *r)
{
	enc_u8(e, REPLICA_VERSION);
	enc_u8(e, (uint8_t)r->kind);
	enc_u8(e, r->set);
	switch (r->kind) {
	case LOCKREC_LOCK: put_lock(e, r); break;
	case LOCKREC_SHARE: put_share(e, r); break;
	case LOCKREC_HOST: put_host(e, r); break;
	}
}

static bool get_name(struct dec *d, struct lockrec *out)
{
	size_t len;

	dec_raw(d, out->addr, sizeof out->addr);
	const char *name = dec_bytes16(d, LOCK_NAME_MAX, &len);
	if (d->err || !len || memchr(name, 0, len))
		return false;
	memcpy(out->name, name, len);
	return true;
}

static bool get_identity(struct dec *d, struct lockrec *out)
{
	size_t len;

	out->svid = dec_u32(d);
	if (!get_name(d, out))
		return false;
	out->oh = dec_bytes16(d, LOCK_OH_MAX, &len);
	out->oh_len = (uint16_t)len;
	return !d->err;
}

static bool get_lock(struct dec *d, struct lockrec *out)
{
	struct lock_range *r = &out->r;
	uint8_t kind = dec_u8(d), mode = dec_u8(d);

	out->node = dec_u16(d);
	out->id = dec_u64(d);
	r->start = dec_u64(d);
	r->end = dec_u64(d);
	r->pid = (pid_t)dec_u32(d);
	if (d->err || kind > LOCK_WHOLE || mode > LOCK_EXCLUSIVE || r->start > r->end)
		return false;
	r->kind = kind;
	r->mode = mode;
	if (r->kind == LOCK_WHOLE && (r->start || r->end != UINT64_MAX))
		return false;
	if (out->node == LOCK_NODE_VOLUME)
		return get_identity(d, out);
	out->key = dec_u64(d);
	return out->node >= 1 && out->node <= NODES_MAX;
}

static bool get_share(struct dec *d, struct lockrec *out)
{
	out->access = dec_u8(d);
	out->deny = dec_u8(d);
	out->id = dec_u64(d);
	return out->access <= 3 && out->deny <= 3 && get_identity(d, out);
}

static bool get_host(struct dec *d, struct lockrec *out)
{
	dec_raw(d, out->local, sizeof out->local);
	out->state = (int32_t)dec_u32(d);
	return get_name(d, out);
}

int lockrec_decode(const void *p, size_t len, struct lockrec *out)
{
	struct dec d = dec_init(p, len);
	uint8_t version = dec_u8(&d), kind = dec_u8(&d), set = dec_u8(&d);
	bool good = false;

	memset(out, 0, sizeof *out);
	if (d.err || version != REPLICA_VERSION || set > 1)
		return -EBADMSG;
	out->kind = kind;
	out->set = set;
	switch (kind) {
	case LOCKREC_LOCK: good = get_lock(&d, out); break;
	case LOCKREC_SHARE: good = get_share(&d, out); break;
	case LOCKREC_HOST: good = get_host(&d, out); break;
	}
	return good && !dec_end(&d) ? 0 : -EBADMSG;
}
