/*
 * RPC messages and record marking keep their promises: the bytes are RFC 5531's, whatever is wrong with a header gets the right refusal, and a stream gives the same records
 * however it is torn, within bounds.
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nfsd-glue/rpc.h"
#include "nfsd-glue/rpc_record.h"

enum { BUF = 4096 };

/* A call with parts that a test can spoil. */
struct spoilt {
	uint32_t type, rpcvers, flavor, cred_len, machine_len, uid, gid, ngroups, verf_flavor, verf_len;
	bool long_cred;				/* says cred_len although the body is as always */
};

static const struct spoilt good = { .rpcvers = 2, .flavor = RPC_AUTH_SYS, .machine_len = 5, .uid = 1000, .gid = 100, .ngroups = 3 };

static size_t build(const struct spoilt *s, unsigned char *buf)
{
	struct xdr_out x = xdr_out(buf, BUF), body;
	unsigned char cred[BUF];

	body = xdr_out(cred, BUF / 2);
	xdr_out_u32(&body, 0x12345678);
	xdr_out_opaque(&body, "a machine with a name that is as long as anybody could wish for, and a lot longer than that: "
			      "a machine with a name that is as long as anybody could wish for, and a lot longer than that: "
			      "a machine with a name that is as long as anybody could wish for, and a lot longer than that: ", s->machine_len);
	xdr_out_u32(&body, s->uid);
	xdr_out_u32(&body, s->gid);
	xdr_out_u32(&body, s->ngroups);
	for (unsigned i = 0; i < s->ngroups && i < 20; i++)
		xdr_out_u32(&body, 10 + i);
	xdr_out_u32(&x, 77);
	xdr_out_u32(&x, s->type);
	xdr_out_u32(&x, s->rpcvers);
	xdr_out_u32(&x, 100003);
	xdr_out_u32(&x, 3);
	xdr_out_u32(&x, 1);
	xdr_out_u32(&x, s->flavor);
	if (s->long_cred) {
		xdr_out_u32(&x, s->cred_len);
		memcpy(xdr_room(&x, body.len), cred, body.len);
	} else {
		xdr_out_opaque(&x, cred, s->flavor == RPC_AUTH_NONE ? s->cred_len : body.len);
	}
	xdr_out_u32(&x, s->verf_flavor);
	xdr_out_opaque(&x, cred, s->verf_len);
	return x.len;
}

static struct rpc_fault fault_of(const struct spoilt *s)
{
	unsigned char buf[BUF];
	size_t len = build(s, buf);
	struct rpc_header h;
	struct rpc_fault f;

	ck_assert_int_eq(rpc_header_parse(buf, len, &h, &f), 0);
	ck_assert_uint_eq(h.xid, 77);
	return f;
}

static void auth_fault(struct spoilt s, uint32_t why)
{
	struct rpc_fault f = fault_of(&s);

	ck_assert_int_eq(f.kind, RPC_FAULT_AUTH);
	ck_assert_uint_eq(f.stat, why);
}

START_TEST(a_call_is_understood)
{
	struct spoilt s = good;
	unsigned char buf[BUF];
	struct rpc_header h;
	struct rpc_fault f;

	s.ngroups = 16;
	size_t len = build(&s, buf);
	ck_assert_int_eq(rpc_header_parse(buf, len + 100, &h, &f), 0);
	ck_assert_int_eq(f.kind, RPC_FAULT_NONE);
	ck_assert_uint_eq(h.prog, 100003);
	ck_assert_uint_eq(h.vers, 3);
	ck_assert_uint_eq(h.proc, 1);
	ck_assert_uint_eq(h.cred.uid, 1000);
	ck_assert_uint_eq(h.cred.gid, 100);
	ck_assert_uint_eq(h.cred.ngroups, 16);
	ck_assert_uint_eq(h.cred.groups[15], 25);
	ck_assert_uint_eq(h.cred.machine_len, 5);
	ck_assert_mem_eq(h.cred.machine, "a mac", 5);
	ck_assert_uint_eq(h.header_len, len);
}
END_TEST

START_TEST(bad_credentials_are_told_apart)
{
	struct spoilt s;
	static const uint32_t long_ones[] = { 401, 0x7fffffff, 0x80000000, 0xfffffffc, 0xffffffff };

	for (unsigned i = 0; i < sizeof long_ones / sizeof *long_ones; i++) {
		s = good, s.long_cred = true, s.cred_len = long_ones[i];
		auth_fault(s, RPC_AUTHSTAT_BADCRED);
		s = good, s.flavor = RPC_AUTH_NONE, s.long_cred = true, s.cred_len = long_ones[i];
		auth_fault(s, RPC_AUTHSTAT_BADCRED);
	}
	s = good, s.ngroups = 17, auth_fault(s, RPC_AUTHSTAT_BADCRED);
	s = good, s.ngroups = 0xffffffff, auth_fault(s, RPC_AUTHSTAT_BADCRED);
	s = good, s.ngroups = 0x40000001, auth_fault(s, RPC_AUTHSTAT_BADCRED);
	s = good, s.machine_len = 256, auth_fault(s, RPC_AUTHSTAT_BADCRED);
	s = good, s.uid = UINT32_MAX, auth_fault(s, RPC_AUTHSTAT_BADCRED);
	s = good, s.gid = UINT32_MAX, auth_fault(s, RPC_AUTHSTAT_BADCRED);
	s = good, s.flavor = RPC_AUTH_NONE, s.cred_len = 4, auth_fault(s, RPC_AUTHSTAT_BADCRED);
	s = good, s.flavor = 6, auth_fault(s, RPC_AUTHSTAT_REJECTEDCRED);
	s = good, s.flavor = 0xffffffff, auth_fault(s, RPC_AUTHSTAT_REJECTEDCRED);
	s = good, s.verf_flavor = 1, auth_fault(s, RPC_AUTHSTAT_BADVERF);
	s = good, s.verf_len = 4, auth_fault(s, RPC_AUTHSTAT_BADVERF);
	s = good, s.machine_len = 255;
	ck_assert_int_eq(fault_of(&s).kind, RPC_FAULT_NONE);
	s = good, s.flavor = RPC_AUTH_NONE, s.cred_len = 0;
	ck_assert_int_eq(fault_of(&s).kind, RPC_FAULT_NONE);
	s = good, s.rpcvers = 3;
	ck_assert_int_eq(fault_of(&s).kind, RPC_FAULT_RPC_MISMATCH);
}
END_TEST

/* Every shorter one, in memory of exactly that length. */
START_TEST(torn_calls_are_refused)
{
	unsigned char buf[BUF];
	size_t len = build(&good, buf);
	struct rpc_header h;
	struct rpc_fault f;

	for (size_t n = 0; n < len; n++) {
		unsigned char *tight = malloc(n ? n : 1);
		memcpy(tight, buf, n);
		int r = rpc_header_parse(tight, n, &h, &f);
		if (n < 8)
			ck_assert_int_eq(r, -EBADMSG);
		else if (n < 24)
			ck_assert(r == 0 && f.kind == RPC_FAULT_ACCEPT && f.stat == RPC_ACCEPT_GARBAGE_ARGS);
		else
			ck_assert(r == 0 && f.kind == RPC_FAULT_AUTH);
		free(tight);
	}
	struct spoilt s = good;
	s.type = 1;
	len = build(&s, buf);
	ck_assert_int_eq(rpc_header_parse(buf, len, &h, &f), -EBADMSG);
}
END_TEST

static void fault_is(struct rpc_fault f, const char *golden)
{
	unsigned char out[RPC_FAULT_MAX];
	char hex[2 * RPC_FAULT_MAX + 1];
	size_t len = rpc_fault_encode(out, 0x01020304, &f);

	for (size_t i = 0; i < len; i++)
		sprintf(hex + 2 * i, "%02x", out[i]);
	ck_assert_str_eq(hex, golden);
}

START_TEST(refusals_have_the_bytes_of_the_rfc)
{
	fault_is((struct rpc_fault){ .kind = RPC_FAULT_RPC_MISMATCH }, "010203040000000100000001000000000000000200000002");
	fault_is((struct rpc_fault){ .kind = RPC_FAULT_AUTH, .stat = RPC_AUTHSTAT_TOOWEAK }, "0102030400000001000000010000000100000005");
	fault_is((struct rpc_fault){ .kind = RPC_FAULT_ACCEPT, .stat = RPC_ACCEPT_PROG_UNAVAIL }, "010203040000000100000000000000000000000000000001");
	fault_is((struct rpc_fault){ .kind = RPC_FAULT_ACCEPT, .stat = RPC_ACCEPT_PROG_MISMATCH, .low = 3, .high = 4 },
		 "0102030400000001000000000000000000000000000000020000000300000004");
	fault_is((struct rpc_fault){ .kind = RPC_FAULT_ACCEPT, .stat = RPC_ACCEPT_PROC_UNAVAIL }, "010203040000000100000000000000000000000000000003");
	fault_is((struct rpc_fault){ .kind = RPC_FAULT_ACCEPT, .stat = RPC_ACCEPT_GARBAGE_ARGS }, "010203040000000100000000000000000000000000000004");
	fault_is((struct rpc_fault){ .kind = RPC_FAULT_ACCEPT, .stat = RPC_ACCEPT_SYSTEM_ERR }, "010203040000000100000000000000000000000000000005");
}
END_TEST

START_TEST(our_calls_are_understood_and_replies_too)
{
	unsigned char buf[512];
	struct rpc_cred cred = { .flavor = RPC_AUTH_SYS, .uid = 5, .gid = 6, .ngroups = 2, .groups = { 7, 8 }, .machine = "host", .machine_len = 4 };
	struct rpc_header h;
	struct rpc_fault f;
	size_t len = rpc_call_encode(buf, sizeof buf, 9, 100021, 4, 10, &cred), at;

	ck_assert_int_eq(rpc_header_parse(buf, len, &h, &f), 0);
	ck_assert_int_eq(f.kind, RPC_FAULT_NONE);
	ck_assert(h.xid == 9 && h.prog == 100021 && h.vers == 4 && h.proc == 10 && h.cred.uid == 5 && h.cred.ngroups == 2 && h.cred.groups[1] == 8);
	ck_assert_uint_eq(h.header_len, len);
	ck_assert_uint_eq(rpc_call_encode(buf, len - 1, 9, 100021, 4, 10, &cred), 0);

	rpc_accepted_encode(buf, 9);
	ck_assert_int_eq(rpc_reply_parse(buf, RPC_ACCEPTED_LEN + 8, 9, &at), 0);
	ck_assert_uint_eq(at, RPC_ACCEPTED_LEN);
	ck_assert_int_eq(rpc_reply_parse(buf, RPC_ACCEPTED_LEN, 10, &at), -EBADMSG);
	for (size_t n = 0; n < RPC_ACCEPTED_LEN; n++)
		ck_assert_int_eq(rpc_reply_parse(buf, n, 9, &at), -EBADMSG);
	len = rpc_fault_encode(buf, 9, &(struct rpc_fault){ .kind = RPC_FAULT_AUTH, .stat = 1 });
	ck_assert_int_eq(rpc_reply_parse(buf, len, 9, &at), -EACCES);
	len = rpc_fault_encode(buf, 9, &(struct rpc_fault){ .kind = RPC_FAULT_ACCEPT, .stat = RPC_ACCEPT_PROG_MISMATCH });
	ck_assert_int_eq(rpc_reply_parse(buf, len, 9, &at), -EPROTONOSUPPORT);
	len = rpc_fault_encode(buf, 9, &(struct rpc_fault){ .kind = RPC_FAULT_ACCEPT, .stat = RPC_ACCEPT_SYSTEM_ERR });
	ck_assert_int_eq(rpc_reply_parse(buf, len, 9, &at), -EIO);
}
END_TEST

/* ---- records ---- */

struct stream { unsigned char *p; size_t len; };

static void fragment(struct stream *s, size_t len, bool last, unsigned char fill)
{
	xdr_put32(s->p + s->len, (last ? UINT32_C(0x80000000) : 0) | (uint32_t)len);
	for (size_t i = 0; i < len; i++)
		s->p[s->len + 4 + i] = (unsigned char)(fill + i);
	s->len += 4 + len;
}

/* Feeds S in pieces of STEP bytes; TAKEN records come out, whose lengths and sums are checked. */
static void feed(const struct stream *s, size_t step, bool by_place)
{
	static const size_t want[] = { 1, 40, 3, 30000, 70000, 5001 };
	struct rpc_record r = { 0 };
	unsigned n = 0;

	for (size_t pos = 0; pos < s->len;) {
		size_t some = s->len - pos < step ? s->len - pos : step, used, len;
		const unsigned char *p;
		unsigned char *place;
		size_t room = by_place ? rpc_record_place(&r, &place) : 0;

		if (room) {
			some = some < room ? some : room;
			memcpy(place, s->p + pos, some);
			rpc_record_placed(&r, some);
			pos += some;
			some = 0;
		}
		int k = rpc_record_take(&r, s->p + pos, some, &used, &p, &len);
		ck_assert_int_ge(k, 0);
		pos += used;
		if (!k)
			continue;
		ck_assert_uint_lt(n, 6);
		ck_assert_uint_eq(len, want[n]);
		ck_assert_uint_eq((uintptr_t)p & 3, 0);
		for (size_t i = 0, base = 0; n != 2 && i < len; i++, base++) {
			base = n == 5 && i == 5000 ? 0 : base;
			ck_assert_uint_eq(p[i], (unsigned char)(n + base));
		}
		n++;
		rpc_record_reset(&r);
		ck_assert(!rpc_record_begun(&r));
	}
	ck_assert_uint_eq(n, 6);
	rpc_record_reset(&r);
}

START_TEST(records_are_the_same_however_they_are_torn)
{
	struct stream s = { .p = malloc(1 << 20) };

	fragment(&s, 1, true, 0);
	fragment(&s, 40, true, 1);
	fragment(&s, 1, false, 0);
	fragment(&s, 1, false, 0);
	fragment(&s, 1, true, 0);
	fragment(&s, 30000, true, 3);
	fragment(&s, 70000, true, 4);
	fragment(&s, 5000, false, 5);
	fragment(&s, 1, true, 5);
	for (size_t step = 1; step < 200000; step = step * 3 / 2 + 1) {
		feed(&s, step, false);
		feed(&s, step, true);
	}
	free(s.p);
}
END_TEST

static int give(struct rpc_record *r, uint32_t mark, size_t bytes)
{
	static unsigned char zeros[RPC_RECORD_MAX + 8];
	unsigned char m[4];
	const unsigned char *p;
	size_t used, len;

	xdr_put32(m, mark);
	int k = rpc_record_take(r, m, 4, &used, &p, &len);
	return k || !bytes ? k : rpc_record_take(r, zeros, bytes, &used, &p, &len);
}

START_TEST(records_are_bounded)
{
	static const uint32_t bad[] = { 0, 0x80000000, RPC_RECORD_MAX + 1, 0x80000000 | (RPC_RECORD_MAX + 1), 0x7fffffff, 0xffffffff, 0xfffffffc };
	struct rpc_record r = { 0 };

	for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
		ck_assert_int_lt(give(&r, bad[i], 0), 0);
		rpc_record_reset(&r);
	}
	ck_assert_int_eq(give(&r, 0x80000000 | RPC_RECORD_MAX, RPC_RECORD_MAX), 1);
	rpc_record_reset(&r);
	/* in two fragments: one byte too many */
	ck_assert_int_eq(give(&r, RPC_RECORD_MAX, RPC_RECORD_MAX), 0);
	ck_assert_int_eq(give(&r, 0x80000001, 1), -EMSGSIZE);
	rpc_record_reset(&r);
	/* endless tiny fragments */
	int k = 0;
	unsigned n = 0;
	while (k == 0 && n < 100000) {
		k = give(&r, 1, 1);
		n++;
	}
	ck_assert_int_eq(k, -EMSGSIZE);
	ck_assert_uint_eq(n, RECORD_FRAGMENTS_MAX + 1);
	rpc_record_reset(&r);
}
END_TEST

START_TEST(announcing_costs_nothing)
{
	struct rpc_record r = { 0 };

	ck_assert_int_eq(give(&r, 0x80000000 | RPC_RECORD_MAX, 0), 0);
	ck_assert_ptr_null(r.blk);
	rpc_record_reset(&r);
	ck_assert_int_eq(give(&r, 0x80000000 | RPC_RECORD_MAX, 100), 0);
	ck_assert_uint_le(r.blk->cap, 8192);
	rpc_record_reset(&r);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("rpc messages");
	TCase *c = tcase_create("all");

	tcase_add_test(c, a_call_is_understood);
	tcase_add_test(c, bad_credentials_are_told_apart);
	tcase_add_test(c, torn_calls_are_refused);
	tcase_add_test(c, refusals_have_the_bytes_of_the_rfc);
	tcase_add_test(c, our_calls_are_understood_and_replies_too);
	tcase_add_test(c, records_are_the_same_however_they_are_torn);
	tcase_add_test(c, records_are_bounded);
	tcase_add_test(c, announcing_costs_nothing);
	tcase_set_timeout(c, 60);
	suite_add_tcase(s, c);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
