/*
 * Record marking and call headers. Input: a byte that says how the stream is torn, then the stream. Whatever comes, records stay within their bounds, come out the same
 * however the stream is torn, and a header that is accepted is one that we would write.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "nfsd-glue/rpc.h"
#include "nfsd-glue/rpc_record.h"

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t size);

static uint64_t mix(uint64_t h, const unsigned char *p, size_t len)
{
	for (size_t i = 0; i < len; i++)
		h = (h ^ p[i]) * 0x100000001b3;
	return h;
}

static void again(const struct rpc_header *h, const unsigned char *rec)
{
	unsigned char out[RPC_AUTH_BODY_MAX + 64];
	size_t len = rpc_call_encode(out, sizeof out, h->xid, h->prog, h->vers, h->proc, &h->cred);

	if (len != h->header_len)
		abort();
	if (h->cred.flavor == RPC_AUTH_SYS)
		memcpy(out + 32, rec + 32, 4);		/* the stamp */
	/* the padding of the machine's name may hold anything */
	size_t pad = h->cred.flavor == RPC_AUTH_SYS ? xdr_pad(h->cred.machine_len) : 0, at = 40 + h->cred.machine_len;
	memcpy(out + at, rec + at, pad);
	if (memcmp(out, rec, len) != 0)
		abort();
}

static uint64_t record(uint64_t sum, const unsigned char *p, size_t len)
{
	struct rpc_header h;
	struct rpc_fault f;
	unsigned char out[RPC_FAULT_MAX], *tight = malloc(len ? len : 1);
	int r;

	memcpy(tight, p, len);
	r = rpc_header_parse(tight, len, &h, &f);
	if (len > RPC_RECORD_MAX || len == 0)
		abort();
	if (r == 0 && f.kind == RPC_FAULT_NONE) {
		if (h.header_len > len || h.header_len % 4 || h.cred.ngroups > RPC_GROUPS_MAX)
			abort();
		again(&h, tight);
	} else if (r == 0) {
		sum = mix(sum, out, rpc_fault_encode(out, h.xid, &f));
	}
	free(tight);
	return mix(sum, p, len);
}

/* Feeds the stream in pieces of STEP; the sum of all that comes out. */
static uint64_t feed(const uint8_t *in, size_t size, size_t step, bool by_place)
{
	struct rpc_record r = { 0 };
	uint64_t sum = 1;
	int k = 0;

	for (size_t pos = 0; pos < size && k >= 0;) {
		size_t n = size - pos < step ? size - pos : step, used, len;
		const unsigned char *p;
		unsigned char *place;
		size_t room = by_place ? rpc_record_place(&r, &place) : 0;

		if (room) {
			n = n < room ? n : room;
			memcpy(place, in + pos, n);
			rpc_record_placed(&r, n);
			pos += n;
			n = 0;
		}
		k = rpc_record_take(&r, in + pos, n, &used, &p, &len);
		pos += used;
		if (k != 1)
			continue;
		sum = record(sum, p, len);
		rpc_record_reset(&r);
	}
	rpc_record_reset(&r);
	return mix(sum, (unsigned char *)&k, sizeof k);
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t size)
{
	struct rpc_header h;
	struct rpc_fault f;
	size_t at;

	if (size < 1)
		return 0;
	size_t step = (size_t)in[0] + 1;
	uint64_t whole = feed(in + 1, size - 1, size, false);
	if (feed(in + 1, size - 1, step, false) != whole || feed(in + 1, size - 1, step, true) != whole || feed(in + 1, size - 1, size, true) != whole)
		abort();
	/* a header alone, and a reply to a call of ours */
	if (rpc_header_parse(in + 1, size - 1, &h, &f) == 0 && f.kind == RPC_FAULT_NONE)
		again(&h, in + 1);
	if (size > 5 && rpc_reply_parse(in + 1, size - 1, xdr_get32(in + 1), &at) == 0 && at > size - 1)
		abort();
	return 0;
}
