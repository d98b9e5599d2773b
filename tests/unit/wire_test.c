/*
 * Frames and control messages: what goes in comes out; nothing cut, changed or impossible gets through; the bytes stay those of docs/protocol.md.
 */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "mirror/wire.h"
#include "tests/unit/golden.h"

/* ---- one message of each kind, every field with a value of its own ---- */

static struct volume_limits some_limits(void)
{
	return (struct volume_limits){ .time_min = -(1ll << 31), .time_max = 1ll << 34, .time_gran_ns = 100, .xattr_value_max = 1, .xattr_total_max = 2,
				       .symlink_max = 3, .link_max = 4, .size_max = 5 };
}

static void fill_hello(struct hello *h)
{
	*h = (struct hello){ .kind = HELLO_CONTROL, .version_min = 1, .version_max = 2, .features = 3, .node = 4, .instance = 5, .incarnation = 6,
			     .flags = NODE_NEW | NODE_TAIL, .epoch = { .reign = 7, .node = 8, .tag = 9 }, .lsn = 10, .from_instance = 11, .from_seq = 12,
			     .sync_set = 0xfffe, .limits = some_limits(), .free_bytes = 13, .free_inodes = 14, .nlineage = LINEAGE_MAX };
	memset(h->uuid, 0xab, UUID_LEN);
	for (unsigned n = 1; n <= NODE_MAX; n++)
		h->counters[n] = 1000 + n;
	for (unsigned i = 0; i < LINEAGE_MAX; i++)
		h->lineage[i] = (struct lineage_entry){ { .reign = i + 1, .node = (uint8_t)(1 + i % NODE_MAX), .tag = i * 77 }, i * 1000 };
	h->lineage[LINEAGE_MAX - 1].last_lsn = UINT64_MAX;
}

static void fill_joined(struct joined_msg *j)
{
	*j = (struct joined_msg){ .err = -EEXIST, .generation = 2, .limits = some_limits(), .members = 6 };
	strcpy(j->reason, "there is one already");
	memset(j->uuid, 1, sizeof j->uuid);
	memset(j->dir_key, 2, sizeof j->dir_key);
	memset(j->mac_key, 3, sizeof j->mac_key);
	for (unsigned n = 1; n <= NODE_MAX; n++)
		j->counters[n] = n;
}

static void fill_report(struct report *r)
{
	*r = (struct report){ .kind = REPORT_MISSING, .seq = 1, .id = 1ull << 48, .parent = HANDLE_ROOT, .off = 2, .len = 3, .bits = 4 };
	memset(r->name, 'n', 255);
}

static void fill(struct msg *m, uint8_t kind)
{
	struct epoch ep = { .reign = 1, .node = 2, .tag = 3 };

	memset(m, 0, sizeof *m);
	m->kind = kind;
	switch (kind) {
	case FRAME_HELLO: fill_hello(&m->hello); break;
	case FRAME_HEARTBEAT: m->heartbeat = (struct heartbeat){ NODE_LEVEL, ep, 4, 5, 6, 7, 8, 9 }; break;
	case FRAME_ACK: m->ack = (struct ack){ 1, 2, 3 }; break;
	case FRAME_BARRIER: m->barrier = (struct barrier){ 1, -EIO }; break;
	case FRAME_OPEN: m->open = (struct open_msg){ 1, 2, OPEN_FULL, ep, 4, true, 5, 6 }; break;
	case FRAME_OPENED: m->opened = (struct opened_msg){ 1, -EBUSY, "busy" }; break;
	case FRAME_RECORD: m->record = (struct record_msg){ 1, 6, ep, 4 }; break;
	case FRAME_GOODBYE: m->goodbye = (struct goodbye){ 1, "it was nice" }; break;
	case FRAME_REPORT: fill_report(&m->report); break;
	case FRAME_JOIN: m->join = (struct join_msg){ 3, some_limits() }; break;
	case FRAME_JOINED: fill_joined(&m->joined); break;
	case FRAME_SWITCHOVER: m->switchover = (struct switchover_msg){ 3, 2 }; break;
	case FRAME_SWITCHED: m->switched = (struct switched_msg){ 3, -EPERM, "not now" }; break;
	case FRAME_OUTDATE: case FRAME_LEVEL: case FRAME_TAKE_BACK: case FRAME_STATE_ASK: m->id = 77; break;
	case FRAME_STATE: m->state = (struct state_msg){ 6, "a chunk", 7 }; break;
	default: m->record_done = (struct record_done){ 5, -EROFS }; break;
	}
}

static int decode_tight(uint8_t kind, const unsigned char *p, size_t len, struct msg *m)
{
	static unsigned char kept[STATE_PART_MAX];
	unsigned char *tight = malloc(len ? len : 1);

	memcpy(tight, p, len);
	int r = msg_decode(kind, tight, len, m);
	if (!r && kind == FRAME_STATE) {		/* borrowed from the frame */
		ck_assert_uint_le(m->state.len, sizeof kept);
		memcpy(kept, m->state.data, m->state.len);
		m->state.data = kept;
	}
	free(tight);
	return r;
}

/* By their bytes: structs have holes. */
static bool same_msg(const struct msg *a, const struct msg *b)
{
	struct enc ea = { 0 }, eb = { 0 };

	ck_assert_int_eq(msg_encode(&ea, a), 0);
	ck_assert_int_eq(msg_encode(&eb, b), 0);
	bool same = a->kind == b->kind && ea.len == eb.len && (!ea.len || !memcmp(ea.p, eb.p, ea.len));
	enc_free(&ea);
	enc_free(&eb);
	return same;
}

START_TEST(test_round_trip)
{
	struct msg m, got;
	struct enc e = { 0 };

	fill(&m, (uint8_t)_i);
	ck_assert_int_eq(msg_encode(&e, &m), 0);
	ck_assert_uint_le(e.len, FRAME_CONTROL_META_MAX);
	ck_assert_int_eq(decode_tight((uint8_t)_i, e.p, e.len, &got), 0);
	ck_assert(same_msg(&got, &m));
	enc_free(&e);
}
END_TEST

/* And not only by the same mistake twice. */
START_TEST(test_fields)
{
	struct msg m, got;
	struct enc e = { 0 };

	fill(&m, FRAME_HELLO);
	msg_encode(&e, &m);
	ck_assert_int_eq(msg_decode(FRAME_HELLO, e.p, e.len, &got), 0);
	ck_assert_uint_eq(got.hello.counters[NODE_MAX], 1000 + NODE_MAX);
	ck_assert_int_eq(got.hello.limits.time_min, -(1ll << 31));
	ck_assert_uint_eq(got.hello.limits.size_max, 5);
	ck_assert_uint_eq(got.hello.free_inodes, 14);
	ck_assert_uint_eq(got.hello.lineage[LINEAGE_MAX - 1].last_lsn, UINT64_MAX);
	ck_assert_uint_eq(got.hello.lineage[3].epoch.tag, 3 * 77);
	enc_reset(&e);
	fill(&m, FRAME_OPENED);
	msg_encode(&e, &m);
	ck_assert_int_eq(msg_decode(FRAME_OPENED, e.p, e.len, &got), 0);
	ck_assert_str_eq(got.opened.reason, "busy");
	ck_assert_int_eq(got.opened.err, -EBUSY);
	enc_free(&e);
}
END_TEST

START_TEST(test_truncated_and_changed)
{
	struct msg m, got;
	struct enc e = { 0 };

	fill(&m, (uint8_t)_i);
	ck_assert_int_eq(msg_encode(&e, &m), 0);
	for (size_t n = 0; n < e.len; n++)
		ck_assert_int_eq(decode_tight((uint8_t)_i, e.p, n, &got), -EBADMSG);
	enc_u8(&e, 0);
	ck_assert_int_eq(decode_tight((uint8_t)_i, e.p, e.len, &got), -EBADMSG);
	e.len--;
	for (size_t n = 0; n < e.len; n++)
		for (unsigned bit = 0; bit < 8; bit++) {
			e.p[n] ^= (unsigned char)(1u << bit);
			decode_tight((uint8_t)_i, e.p, e.len, &got);
			e.p[n] ^= (unsigned char)(1u << bit);
		}
	enc_free(&e);
}
END_TEST

/* ---- impossible messages ---- */

static int decoded(const struct msg *m)
{
	struct msg got;
	struct enc e = { 0 };

	ck_assert_int_eq(msg_encode(&e, m), 0);
	int r = msg_decode(m->kind, e.p, e.len, &got);
	enc_free(&e);
	return r;
}

#define REFUSED(frame, change) do { \
	struct msg m; \
	fill(&m, frame); \
	ck_assert_int_eq(decoded(&m), 0); \
	change; \
	ck_assert_msg(decoded(&m) == -EBADMSG, "%s is accepted", #change); \
} while (0)

START_TEST(test_impossible_hello)
{
	REFUSED(FRAME_HELLO, m.hello.kind = 0);
	REFUSED(FRAME_HELLO, m.hello.kind = 4);
	REFUSED(FRAME_HELLO, m.hello.version_min = 3);
	REFUSED(FRAME_HELLO, m.hello.node = 0);
	REFUSED(FRAME_HELLO, m.hello.node = 16);
	REFUSED(FRAME_HELLO, m.hello.epoch.node = 16);
	REFUSED(FRAME_HELLO, m.hello.epoch.reign = 0);
	REFUSED(FRAME_HELLO, m.hello.sync_set = 1);
	REFUSED(FRAME_HELLO, m.hello.counters[3] = 1ull << 29);
	REFUSED(FRAME_HELLO, m.hello.limits.time_min = INT64_MAX);
	REFUSED(FRAME_HELLO, m.hello.limits.time_gran_ns = 1000000001);
	REFUSED(FRAME_HELLO, m.hello.lineage[5].epoch.reign = 0);
	REFUSED(FRAME_HELLO, m.hello.token = 1);
	REFUSED(FRAME_HELLO, m.hello.kind = HELLO_STREAM);
}
END_TEST

START_TEST(test_impossible_rest)
{
	REFUSED(FRAME_HEARTBEAT, m.heartbeat.epoch.node = 0);
	REFUSED(FRAME_OPEN, m.open.token = 0);
	REFUSED(FRAME_OPEN, m.open.mode = 3);
	REFUSED(FRAME_OPENED, m.opened.token = 0);
	REFUSED(FRAME_RECORD, m.record.sync_set = 3);
	REFUSED(FRAME_GOODBYE, m.goodbye.handover = 2);
	REFUSED(FRAME_SWITCHOVER, m.switchover.node = NODE_MAX + 1);
	REFUSED(FRAME_REPORT, m.report.kind = 0);
	REFUSED(FRAME_REPORT, m.report.kind = 9);
	REFUSED(FRAME_REPORT, strcpy(m.report.name, ".."));
	REFUSED(FRAME_REPORT, strcpy(m.report.name, "a/b"));
	REFUSED(FRAME_REPORT, m.report.id = 7);
	REFUSED(FRAME_REPORT, (m.report.kind = REPORT_DATA, m.report.off = INT64_MAX));
	REFUSED(FRAME_JOIN, m.join.node = 16);
	REFUSED(FRAME_JOINED, (m.joined.err = 0, m.joined.generation = 0));
	REFUSED(FRAME_JOINED, m.joined.members = 1);
}
END_TEST

/* An error that is none doesn't pass for success. */
START_TEST(test_odd_errors)
{
	struct msg m, got;
	struct enc e = { 0 };

	fill(&m, FRAME_BARRIER);
	m.barrier.err = 5;
	ck_assert_int_eq(msg_encode(&e, &m), 0);
	ck_assert_int_eq(msg_decode(FRAME_BARRIER, e.p, e.len, &got), 0);
	ck_assert_int_eq(got.barrier.err, -EIO);
	memset(e.p + 8, 0xff, 4);
	ck_assert_int_eq(msg_decode(FRAME_BARRIER, e.p, e.len, &got), -EBADMSG);
	enc_free(&e);
}
END_TEST

/* A newer release says more at the hello's end. */
START_TEST(test_longer_hello)
{
	struct msg m, got;
	struct enc e = { 0 };

	fill(&m, FRAME_HELLO);
	ck_assert_int_eq(msg_encode(&e, &m), 0);
	e.p[e.len - 2] = 3;
	enc_raw(&e, "new", 3);
	ck_assert_int_eq(msg_decode(FRAME_HELLO, e.p, e.len, &got), 0);
	ck_assert(same_msg(&got, &m));
	enc_free(&e);
}
END_TEST

START_TEST(test_unknown_kinds)
{
	struct msg got;

	for (unsigned k = 0; k < 256; k++)
		if (k < FRAME_HELLO || k > FRAME_CONTROL_LAST)
			ck_assert_int_eq(msg_decode((uint8_t)k, "", 0, &got), -EBADMSG);
}
END_TEST

/* ---- headers ---- */

static int header_decoded(const struct frame_header *h)
{
	unsigned char raw[FRAME_HEADER_LEN];
	struct frame_header got;

	frame_header_encode(raw, h);
	int r = frame_header_decode(raw, &got);
	if (!r)
		ck_assert(got.kind == h->kind && got.flags == h->flags && got.meta_len == h->meta_len && got.data_len == h->data_len &&
			  got.raw_len == h->raw_len && got.seq == h->seq && got.sum == h->sum);
	return r;
}

START_TEST(test_headers)
{
	static const struct { struct frame_header h; int want; } t[] = {
		{ { FRAME_OP, 0, 1, 0, 0, 0, 0 }, 0 },
		{ { FRAME_OP, 0, OP_META_MAX, OP_DATA_MAX, OP_DATA_MAX, UINT64_MAX, UINT64_MAX }, 0 },
		{ { FRAME_OP, FRAME_ZSTD, 10, 5, 100, 1, 2 }, 0 },
		{ { FRAME_OP, 0, OP_META_MAX + 1, 0, 0, 0, 0 }, -EBADMSG },
		{ { FRAME_OP, 0, 1, OP_DATA_MAX + 1, OP_DATA_MAX + 1, 0, 0 }, -EBADMSG },
		{ { FRAME_OP, FRAME_ZSTD, 1, 5, OP_DATA_MAX + 1, 0, 0 }, -EBADMSG },
		{ { FRAME_OP, FRAME_ZSTD, 1, 5, 5, 0, 0 }, -EBADMSG },
		{ { FRAME_OP, FRAME_ZSTD, 1, 0, 5, 0, 0 }, -EBADMSG },
		{ { FRAME_OP, 0, 1, 5, 6, 0, 0 }, -EBADMSG },
		{ { FRAME_OP, 2, 1, 5, 5, 0, 0 }, -EBADMSG },
		{ { FRAME_OP, 0, 0, 0, 0, 0, 0 }, -EBADMSG },
		{ { FRAME_HELLO, 0, FRAME_CONTROL_META_MAX, 0, 0, 0, 0 }, 0 },
		{ { FRAME_HELLO, 0, FRAME_CONTROL_META_MAX + 1, 0, 0, 0, 0 }, -EBADMSG },
		{ { FRAME_ACK, 0, 24, 1, 1, 0, 0 }, -EBADMSG },
		{ { FRAME_ACK, 0, 24, 0, 0, 1, 0 }, -EBADMSG },
		{ { FRAME_ACK, FRAME_ZSTD, 24, 0, 0, 0, 0 }, -EBADMSG },
		{ { 0, 0, 24, 0, 0, 0, 0 }, -EBADMSG }, { { FRAME_CONTROL_LAST + 1, 0, 24, 0, 0, 0, 0 }, -EBADMSG },
		{ { FRAME_OP + 1, 0, 24, 0, 0, 0, 0 }, -EBADMSG }, { { 255, 0, 24, 0, 0, 0, 0 }, -EBADMSG },
	};

	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		ck_assert_msg(header_decoded(&t[i].h) == t[i].want, "header %zu", i);
}
END_TEST

START_TEST(test_header_bytes)
{
	unsigned char raw[FRAME_HEADER_LEN];
	struct frame_header h = { .kind = FRAME_ACK, .meta_len = 24 }, got;

	frame_header_encode(raw, &h);
	for (unsigned i = 0; i < 4; i++) {
		raw[i] ^= 1;
		ck_assert_int_eq(frame_header_decode(raw, &got), -EBADMSG);
		raw[i] ^= 1;
	}
	raw[4] = 2;
	ck_assert_int_eq(frame_header_decode(raw, &got), -EPROTONOSUPPORT);
	raw[4] = 1;
	raw[23] = 1;
	ck_assert_int_eq(frame_header_decode(raw, &got), -EBADMSG);
}
END_TEST

/* Every bit of header, meta and data counts in the checksum. */
START_TEST(test_checksum)
{
	struct frame_header h = { .kind = FRAME_OP, .meta_len = 4, .data_len = 4, .raw_len = 4, .seq = 9 };
	uint64_t sum = frame_checksum(&h, "meta", "data");

	ck_assert_uint_ne(sum, frame_checksum(&h, "mete", "data"));
	ck_assert_uint_ne(sum, frame_checksum(&h, "meta", "date"));
	h.seq++;
	ck_assert_uint_ne(sum, frame_checksum(&h, "meta", "data"));
	h.seq--;
	h.sum = 1;
	ck_assert_uint_eq(sum, frame_checksum(&h, "meta", "data"));
	h.flags = FRAME_ZSTD;
	ck_assert_uint_ne(sum, frame_checksum(&h, "meta", "data"));
}
END_TEST

/* ---- docs/protocol.md shows these bytes ---- */

static void expect_hex(const struct msg *m, const char *golden)
{
	struct enc e = { 0 };

	ck_assert_int_eq(msg_frame(&e, m), 0);
	golden_same(e.p, e.len, golden);
	enc_free(&e);
}

START_TEST(test_golden_heartbeat)
{
	struct msg m = { .kind = FRAME_HEARTBEAT, .heartbeat = { .flags = NODE_PRIMARY, .epoch = { .reign = 2, .node = 1, .tag = 0x1122334455667788 },
		.lsn = 41, .seq = 42, .free_bytes = 1 << 30, .free_inodes = 1 << 20, .sent_ns = 1000000000, .echo_ns = 999000000 } };

	expect_hex(&m,
		"54444d31 01 02 0000 45000000 00000000 00000000 00000000 0000000000000000 94ac5b4a8b7462a2 01000000 "
		"0200000000000000 8877665544332211 01 2900000000000000 2a00000000000000 0000004000000000 "
		"0000100000000000 00ca9a3b00000000 c0878b3b00000000");
}
END_TEST

START_TEST(test_golden_hello)
{
	struct msg m = { .kind = FRAME_HELLO, .hello = { .kind = HELLO_CONTROL, .version_min = 1, .version_max = 1, .node = 2, .instance = 0x0102030405060708,
		.incarnation = 7, .flags = NODE_LEVEL, .epoch = { .reign = 2, .node = 1, .tag = 0x1122334455667788 }, .lsn = 41, .from_instance = 9,
		.from_seq = 42, .sync_set = 6, .free_bytes = 1 << 30, .free_inodes = 1 << 20, .nlineage = 1,
		.lineage = { { { .reign = 2, .node = 1, .tag = 0x1122334455667788 }, UINT64_MAX } } } };

	memcpy(m.hello.uuid, "0123456789abcdef", UUID_LEN);
	m.hello.counters[1] = 3;
	expect_hex(&m,
		"54444d31 01 01 0000 35010000 00000000 00000000 00000000 0000000000000000 ba1a8d97a3e6ea11 01 0100 "
		"0100 0000000000000000 30313233343536373839616263646566 02 0807060504030201 0700000000000000 "
		"0000000000000000 40000000 0200000000000000 8877665544332211 01 2900000000000000 0900000000000000 "
		"2a00000000000000 0600 0300000000000000 0000000000000000 0000000000000000 0000000000000000 "
		"0000000000000000 0000000000000000 0000000000000000 0000000000000000 0000000000000000 "
		"0000000000000000 0000000000000000 0000000000000000 0000000000000000 0000000000000000 "
		"0000000000000000 0000000000000000 0000000000000000 00000000 00000000 00000000 00000000 00000000 "
		"0000000000000000 0000004000000000 0000100000000000 01 0200000000000000 8877665544332211 01 "
		"ffffffffffffffff 0000");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("wire");
	TCase *c = tcase_create("wire");

	suite_add_tcase(s, c);
	tcase_add_loop_test(c, test_round_trip, FRAME_HELLO, FRAME_CONTROL_LAST + 1);
	tcase_add_loop_test(c, test_truncated_and_changed, FRAME_HELLO, FRAME_CONTROL_LAST + 1);
	tcase_add_test(c, test_fields);
	tcase_add_test(c, test_impossible_hello);
	tcase_add_test(c, test_impossible_rest);
	tcase_add_test(c, test_odd_errors);
	tcase_add_test(c, test_longer_hello);
	tcase_add_test(c, test_unknown_kinds);
	tcase_add_test(c, test_headers);
	tcase_add_test(c, test_header_bytes);
	tcase_add_test(c, test_checksum);
	tcase_add_test(c, test_golden_heartbeat);
	tcase_add_test(c, test_golden_hello);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
