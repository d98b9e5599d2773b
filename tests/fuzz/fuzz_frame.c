/*
 * Frame headers and control messages. Input: a header of 40 bytes, then meta. The checksum is not asked for here (it would keep the fuzzer out), the
 * header's other checks are. What is accepted is encoded and decoded again and must be the same.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "mirror/wire.h"

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t size);

static void header(const uint8_t *in, struct frame_header *h)
{
	unsigned char again[FRAME_HEADER_LEN];

	frame_header_encode(again, h);
	if (memcmp(again, in, sizeof again) != 0)
		abort();
	if (h->meta_len > OP_META_MAX || h->data_len > OP_DATA_MAX || h->raw_len > OP_DATA_MAX)
		abort();
}

/* Reasons are cleaned of what can't be shown. */
static int has_reason(uint8_t kind)
{
	return kind == FRAME_OPENED || kind == FRAME_GOODBYE || kind == FRAME_JOINED || kind == FRAME_SWITCHED;
}

static void message(uint8_t kind, const uint8_t *meta, size_t len)
{
	struct msg *m = malloc(sizeof *m);
	struct enc e = { 0 }, again = { 0 };

	if (msg_decode(kind, meta, len, m) == 0) {
		if (msg_encode(&e, m) != 0 || msg_decode(kind, e.p, e.len, m) != 0 || msg_encode(&again, m) != 0)
			abort();
		if (e.len != again.len || memcmp(e.p, again.p, e.len) != 0)
			abort();
		if (kind != FRAME_HELLO && e.len != len)	/* a hello may say more than we know */
			abort();
		if (kind != FRAME_HELLO && !has_reason(kind) && memcmp(e.p, meta, len) != 0)
			abort();
	}
	enc_free(&e);
	enc_free(&again);
	free(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t size)
{
	struct frame_header h;

	if (size < FRAME_HEADER_LEN)
		return 0;
	if (frame_header_decode(in, &h) == 0)
		header(in, &h);
	uint8_t *meta = malloc(size - FRAME_HEADER_LEN + 1), *tight;
	memcpy(meta, in + FRAME_HEADER_LEN, size - FRAME_HEADER_LEN);
	tight = realloc(meta, size > FRAME_HEADER_LEN ? size - FRAME_HEADER_LEN : 1);
	message(in[5], tight, size - FRAME_HEADER_LEN);
	free(tight);
	return 0;
}
