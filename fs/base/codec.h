/*
 * Bounded little-endian codec, for everything on the wire and on disk.
 *
 * An encoder appends to a growing buffer; a decoder walks a borrowed one. Both keep a sticky
 * error: after the first failure every further call is a no-op that yields zeros, so that a
 * format is one straight run of calls and one test at its end.
 */
#ifndef FS_BASE_CODEC_H
#define FS_BASE_CODEC_H

#include <stddef.h>
#include <stdint.h>
#include <time.h>

struct enc {
	unsigned char *p;	/* owned; NULL until the first byte */
	size_t len, cap;
	int err;		/* 0 or -ENOMEM */
};

void enc_free(struct enc *e);
/* Forgets the contents, keeps the memory and clears the error. */
void enc_reset(struct enc *e);
void enc_u8(struct enc *e, uint8_t v);
void enc_u16(struct enc *e, uint16_t v);
void enc_u32(struct enc *e, uint32_t v);
void enc_u64(struct enc *e, uint64_t v);
void enc_time(struct enc *e, struct timespec t);		/* i64 seconds, u32 nanoseconds */
void enc_raw(struct enc *e, const void *p, size_t len);
void enc_bytes16(struct enc *e, const void *p, size_t len);	/* u16 length, bytes; len <= 65535 */
void enc_bytes32(struct enc *e, const void *p, size_t len);	/* u32 length, bytes */

struct dec {
	const unsigned char *p;	/* borrowed */
	size_t left;
	int err;		/* 0 or -EBADMSG */
};

static inline struct dec dec_init(const void *p, size_t len)
{
	return (struct dec){ .p = p, .left = len };
}
uint8_t dec_u8(struct dec *d);
uint16_t dec_u16(struct dec *d);
uint32_t dec_u32(struct dec *d);
uint64_t dec_u64(struct dec *d);
struct timespec dec_time(struct dec *d);			/* nanoseconds >= 10^9 are an error */
/* LEN bytes into OUT. */
void dec_raw(struct dec *d, void *out, size_t len);
/* A counted run of bytes: returns a pointer into the decoder's buffer and its length; longer than
 * MAX is an error (NULL, 0). */
const void *dec_bytes16(struct dec *d, size_t max, size_t *len);
const void *dec_bytes32(struct dec *d, size_t max, size_t *len);
/* 0 when all is decoded, nothing is left over and no error happened, else -EBADMSG. */
int dec_end(const struct dec *d);

#endif
