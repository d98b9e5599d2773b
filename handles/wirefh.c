/*
 * NFS file handles. The MAC is SipHash-2-4 (Aumasson, Bernstein): made for short messages under a secret key; 40 rounds of additions and rotations
 * for our 32 bytes, so that it costs a GETATTR next to nothing. A guess is right once in 2^64, and each is counted.
 */
#include "handles/wirefh.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

enum { MAC_AT = WIREFH_SIZE - 8, UUID_AT = 16 };

static uint64_t get64(const unsigned char *p)
{
	uint64_t v = 0;

	for (unsigned i = 0; i < 8; i++)
		v |= (uint64_t)p[i] << 8 * i;
	return v;
}

static void put(unsigned char *p, uint64_t v, unsigned bytes)
{
	for (unsigned i = 0; i < bytes; i++)
		p[i] = (unsigned char)(v >> 8 * i);
}

static uint64_t rotl(uint64_t x, unsigned n) { return x << n | x >> (64 - n); }

static void sip_rounds(uint64_t v[4], unsigned n)
{
	while (n--) {
		v[0] += v[1];
		v[1] = rotl(v[1], 13) ^ v[0];
		v[0] = rotl(v[0], 32);
		v[2] += v[3];
		v[3] = rotl(v[3], 16) ^ v[2];
		v[0] += v[3];
		v[3] = rotl(v[3], 21) ^ v[0];
		v[2] += v[1];
		v[1] = rotl(v[1], 17) ^ v[2];
		v[2] = rotl(v[2], 32);
	}
}

static void sip_word(uint64_t v[4], uint64_t m)
{
	v[3] ^= m;
	sip_rounds(v, 2);
	v[0] ^= m;
}

/* SipHash-2-4 of LEN bytes, a multiple of 8. */
static uint64_t siphash(const uint64_t key[2], const unsigned char *p, size_t len)
{
	uint64_t v[4] = { key[0] ^ 0x736f6d6570736575u, key[1] ^ 0x646f72616e646f6du, key[0] ^ 0x6c7967656e657261u, key[1] ^ 0x7465646279746573u };

	assert(len % 8 == 0);
	for (size_t i = 0; i < len; i += 8)
		sip_word(v, get64(p + i));
	sip_word(v, (uint64_t)len << 56);
	v[2] ^= 0xff;
	sip_rounds(v, 4);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

void wirefh_init(struct wirefh_codec *w, const unsigned char uuid[UUID_LEN], const unsigned char *mac_key)
{
	memset(w, 0, sizeof *w);
	memcpy(w->uuid, uuid, UUID_LEN);
	w->key[0] = get64(mac_key);
	w->key[1] = get64(mac_key + 8);
}

void wirefh_encode(const struct wirefh_codec *w, const struct wirefh *h, unsigned char out[WIREFH_SIZE])
{
	out[0] = WIREFH_VERSION;
	out[1] = 0;
	put(out + 2, h->export_id, 2);
	put(out + 4, h->gen, 4);
	put(out + 8, h->id, 8);
	memcpy(out + UUID_AT, w->uuid, UUID_LEN);
	put(out + MAC_AT, siphash(w->key, out, MAC_AT), 8);
}

static int refuse(_Atomic uint64_t *counter, int err)
{
	atomic_fetch_add_explicit(counter, 1, memory_order_relaxed);
	return err;
}

int wirefh_decode(struct wirefh_codec *w, const void *p, size_t len, struct wirefh *out)
{
	const unsigned char *b = p;

	if (len != WIREFH_SIZE || b[0] != WIREFH_VERSION || b[1])
		return refuse(&w->malformed, -EINVAL);
	if (memcmp(b + UUID_AT, w->uuid, UUID_LEN))
		return refuse(&w->foreign, -ESTALE);
	if (get64(b + MAC_AT) ^ siphash(w->key, b, MAC_AT))	/* one comparison of a word: nothing to time */
		return refuse(&w->forged, -EBADMSG);
	*out = (struct wirefh){ .export_id = (uint16_t)(b[2] | b[3] << 8), .gen = (uint32_t)(get64(b) >> 32), .id = get64(b + 8) };
	return 0;
}
