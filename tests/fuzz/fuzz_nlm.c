/*
 * NLM's arguments, and the records of locks that peers send. Input: u8 what (0…31: arguments of that procedure; 32…63: a *_RES of procedure 32 less; else a record),
 * then the bytes. Everything that a decoded message points to can be read; ranges come back as they were; an accepted record is encoded to the same bytes.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "nfsd-glue/lockrec.h"
#include "nfsd-glue/nlm4_msg.h"

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t size);

static unsigned touch(struct nlm4_bytes b)
{
	unsigned sum = 0;

	for (uint32_t i = 0; i < b.len; i++)
		sum += b.p[i];
	return sum;
}

static void arguments(uint32_t proc, const unsigned char *p, size_t len)
{
	static volatile unsigned sum;
	unsigned char out[NLM4_GRANTED_MAX];
	struct xdr_out x = xdr_out(out, sizeof out);
	struct lock_range r;
	struct nlm4_args a;
	uint64_t off, n;

	if (nlm4_args_decode(proc, p, len, &a))
		return;
	sum = touch(a.cookie) + touch(a.caller) + touch(a.fh) + touch(a.oh);
	if (a.fh.len > NLM4_FH_MAX || a.oh.len > LOCK_OH_MAX || a.mode > 3 || a.access > 3)
		abort();
	nlm4_granted_encode(&x, (struct nlm4_bytes){ (const unsigned char *)"12345678", 8 }, &a);
	if (x.full)
		abort();
	if (nlm4_range(&a, &r))
		return;
	nlm4_range_out(&r, &off, &n);
	if (r.start > r.end || off != a.offset || (n != a.len && r.end != UINT64_MAX))
		abort();
}

static void record(const unsigned char *p, size_t len)
{
	struct enc e = { 0 };
	struct lockrec r;

	if (lockrec_decode(p, len, &r))
		return;
	lockrec_encode(&e, &r);
	if (e.err || e.len != len || memcmp(e.p, p, len) != 0 || len > LOCKREC_MAX)
		abort();
	enc_free(&e);
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t size)
{
	struct nlm4_bytes cookie;
	uint32_t stat;

	if (!size)
		return 0;
	unsigned char *tight = malloc(size > 1 ? size - 1 : 1);	/* reading on is caught */
	memcpy(tight, in + 1, size - 1);
	if (in[0] < 32)
		arguments(in[0], tight, size - 1);
	else if (in[0] < 64 && !nlm4_res_decode(in[0] - 32u, tight, size - 1, &cookie, &stat))
		touch(cookie);
	else if (in[0] >= 64)
		record(tight, size - 1);
	free(tight);
	return 0;
}
