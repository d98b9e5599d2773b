#include "fs/base/codec.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

void enc_free(struct enc *e)
{
	free(e->p);
	memset(e, 0, sizeof *e);
}

void enc_reset(struct enc *e)
{
	e->len = 0;
	e->err = 0;
}

static unsigned char *enc_room(struct enc *e, size_t n)
{
	if (e->err)
		return NULL;
	if (e->cap - e->len < n) {
		size_t cap = e->cap ? e->cap : 128;
		while (cap - e->len < n)
			cap *= 2;
		unsigned char *p = realloc(e->p, cap);
		if (!p) {
			e->err = -ENOMEM;
			return NULL;
		}
		e->p = p;
		e->cap = cap;
	}
	unsigned char *at = e->p + e->len;
	e->len += n;
	return at;
}

static void enc_le(struct enc *e, uint64_t v, size_t n)
{
	unsigned char *p = enc_room(e, n);
	for (size_t i = 0; p && i < n; i++, v >>= 8)
		p[i] = (unsigned char)v;
}

void enc_u8(struct enc *e, uint8_t v) { enc_le(e, v, 1); }
void enc_u16(struct enc *e, uint16_t v) { enc_le(e, v, 2); }
void enc_u32(struct enc *e, uint32_t v) { enc_le(e, v, 4); }
void enc_u64(struct enc *e, uint64_t v) { enc_le(e, v, 8); }

void enc_time(struct enc *e, struct timespec t)
{
	enc_u64(e, (uint64_t)t.tv_sec);
	enc_u32(e, (uint32_t)t.tv_nsec);
}

void enc_raw(struct enc *e, const void *src, size_t len)
{
	unsigned char *p = enc_room(e, len);
	if (p && len)
		memcpy(p, src, len);
}

void enc_bytes16(struct enc *e, const void *src, size_t len)
{
	assert(len <= UINT16_MAX);
	enc_u16(e, (uint16_t)len);
	enc_raw(e, src, len);
}

void enc_bytes32(struct enc *e, const void *src, size_t len)
{
	assert(len <= UINT32_MAX);
	enc_u32(e, (uint32_t)len);
	enc_raw(e, src, len);
}

static const unsigned char *dec_take(struct dec *d, size_t n)
{
	if (d->err || d->left < n) {
		d->err = -EBADMSG;
		return NULL;
	}
	const unsigned char *p = d->p;
	d->p += n;
	d->left -= n;
	return p;
}

static uint64_t dec_le(struct dec *d, size_t n)
{
	const unsigned char *p = dec_take(d, n);
	uint64_t v = 0;
	for (size_t i = n; p && i-- > 0;)
		v = v << 8 | p[i];
	return v;
}

uint8_t dec_u8(struct dec *d) { return (uint8_t)dec_le(d, 1); }
uint16_t dec_u16(struct dec *d) { return (uint16_t)dec_le(d, 2); }
uint32_t dec_u32(struct dec *d) { return (uint32_t)dec_le(d, 4); }
uint64_t dec_u64(struct dec *d) { return dec_le(d, 8); }

struct timespec dec_time(struct dec *d)
{
	struct timespec t = { .tv_sec = (time_t)dec_u64(d) };
	uint32_t ns = dec_u32(d);
	if (ns >= 1000000000u) {
		d->err = -EBADMSG;
		ns = 0;
	}
	t.tv_nsec = (long)ns;
	return t;
}

void dec_raw(struct dec *d, void *out, size_t len)
{
	const unsigned char *p = dec_take(d, len);
	if (p && len)
		memcpy(out, p, len);
	else
		memset(out, 0, len);
}

static const void *dec_counted(struct dec *d, size_t n, size_t max, size_t *len)
{
	*len = 0;
	if (!d->err && n > max)
		d->err = -EBADMSG;
	const void *p = dec_take(d, n);
	if (p)
		*len = n;
	return p;
}

const void *dec_bytes16(struct dec *d, size_t max, size_t *len)
{
	return dec_counted(d, dec_u16(d), max, len);
}

const void *dec_bytes32(struct dec *d, size_t max, size_t *len)
{
	return dec_counted(d, dec_u32(d), max, len);
}

int dec_end(const struct dec *d)
{
	return d->err || d->left ? -EBADMSG : 0;
}
