/*
 * The codec of ops: what goes in comes out, for every type, with and without an attachment; nothing cut, changed or impossible gets through unnoticed
 * or does harm (the sanitizers watch); and the bytes stay those of docs/protocol.md.
 */
#include <check.h>
#include <errno.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "mirror/op.h"
#include "tests/unit/golden.h"

enum { ROUNDS = 400 };
#define ID(n) ((uint64_t)3 << ID_NODE_SHIFT | (uint64_t)(n))
#define HAS(type, f) (op_fields[type] & 1u << (f))

static uint64_t rnd_state;

static uint64_t rnd(uint64_t below)
{
	rnd_state = rnd_state * 6364136223846793005u + 1442695040888963407u;
	return (rnd_state >> 33 ^ rnd_state << 20) % below;
}

/* ---- random valid ops ---- */

struct made { struct op op; char name[256], name2[256]; struct enc xattrs, blob, data; unsigned char attach[300]; };

static void rnd_name(char out[256])
{
	size_t len = rnd(8) ? 1 + rnd(20) : 255;

	for (size_t i = 0; i < len; i++)
		do
			out[i] = (char)(1 + rnd(255));
		while (out[i] == '/' || out[i] == '.');
	out[len] = 0;
}

static uint64_t rnd_id(void) { return (1 + rnd(NODE_MAX)) << ID_NODE_SHIFT | rnd(1u << 31); }

static struct timespec rnd_time(void)
{
	return (struct timespec){ (time_t)rnd(1ull << 40) - (1ll << 39), (long)rnd(1000000000) };
}

static void rnd_attr(struct attr *a, uint32_t type)
{
	*a = (struct attr){ .mode = type | (uint32_t)rnd(010000), .nlink = (uint32_t)rnd(70000), .uid = (uint32_t)rnd(1u << 31),
			    .gid = (uint32_t)rnd(1u << 31), .rdev = rnd(1u << 31), .size = rnd(INT64_MAX), .mtime = rnd_time(), .ctime = rnd_time() };
}

static void rnd_bytes(struct enc *e, size_t len)
{
	for (size_t i = 0; i < len; i++)
		enc_u8(e, (uint8_t)(1 + rnd(255)));
}

static void rnd_xattrs(struct enc *e)
{
	char name[256];
	unsigned char value[100];

	for (uint64_t n = rnd(4); n; n--) {
		rnd_name(name);
		memset(value, (int)rnd(256), sizeof value);
		op_xattrs_add(e, name, value, rnd(sizeof value));
	}
}

static void rnd_entries(struct enc *e)
{
	static const uint32_t types[] = { S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK };
	char name[256];

	for (uint64_t n = rnd(5); n; n--) {
		rnd_name(name);
		op_entries_add(e, rnd_id(), types[rnd(ARRAY_LEN(types))], name);
	}
}

static uint32_t rnd_type(const struct op *op)
{
	static const uint32_t types[] = { S_IFREG, S_IFLNK, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK, S_IFDIR };

	switch (op->type) {
	case OP_CREATE: case OP_R_PLACE: case OP_R_ATTR: return types[rnd(7)];
	case OP_LINK: return types[rnd(6)];
	default: return S_IFREG;
	}
}

/* What only some types have. */
static void special(struct made *m)
{
	struct op *op = &m->op;

	switch (op->type) {
	case OP_CREATE:
	case OP_R_PLACE:
		if (S_ISLNK(op->attr.mode))
			rnd_bytes(&m->blob, 1 + rnd(300));
		if (S_ISREG(op->attr.mode) && rnd(2)) {
			op->parent = HANDLE_LIMBO;
			m->name[0] = 0;
		}
		break;
	case OP_RENAME: {
		static const uint32_t flags[] = { 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE };
		uint64_t k = rnd(4);
		op->flags = flags[k];
		op->id2 = k == 1 || k == 3 ? rnd_id() : 0;
		break;
	}
	case OP_SETATTR: op->set = (uint32_t)rnd(2) ? SET_MODE | SET_MTIME | SET_KILL_PRIV : SET_SIZE | SET_UID | SET_GID | SET_CTIME; break;
	case OP_FALLOCATE: op->flags = rnd(2) ? FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE : 0; break;
	case OP_FSYNC: op->id2 = rnd(2) ? rnd_id() : 0; op->parent = rnd(2) ? rnd_id() : 0; op->flags = (uint32_t)rnd(2); break;
	case OP_R_DIR: rnd_entries(&m->blob); op->off2 = rnd(2) ? UINT64_MAX : op->off + rnd(100); break;
	case OP_R_DATA: op->len = m->data.len ? m->data.len : rnd(1u << 20); break;
	case OP_HANDOVER: op->flags = (uint32_t)rnd(NODE_MAX + 1); break;
	case OP_R_END: op->flags = (uint32_t)rnd(2); break;
	case OP_SETXATTR: case OP_R_ATTR: case OP_R_CHECK: rnd_bytes(&m->blob, rnd(200)); break;
	default: break;
	}
}

static void make(struct made *m, uint8_t type)
{
	struct op *op = &m->op;

	memset(m, 0, sizeof *m);
	op->type = type;
	rnd_name(m->name);
	rnd_name(m->name2);
	op->stamp = rnd_time();
	op->id = rnd_id();
	op->parent = HAS(type, F_PARENT) ? HANDLE_ROOT : 0;
	op->parent2 = rnd_id();
	op->id2 = rnd_id();
	op->off = rnd(INT64_MAX / 2);
	op->off2 = rnd(INT64_MAX / 2);
	op->len = 1 + rnd(INT64_MAX / 2);
	op->lsn = rnd(UINT64_MAX);
	op->epoch = (struct epoch){ .reign = 1 + rnd(100), .tag = rnd(UINT64_MAX), .node = (uint8_t)(1 + rnd(NODE_MAX)) };
	rnd_attr(&op->attr, rnd_type(op));
	if (HAS(type, F_XATTRS))
		rnd_xattrs(&m->xattrs);
	if (HAS(type, F_DATA))
		rnd_bytes(&m->data, rnd(2) ? rnd(5000) : 0);
	special(m);
	op->name = m->name;
	op->name2 = m->name2;
	op->xattrs = m->xattrs.p;
	op->xattrs_len = m->xattrs.len;
	op->blob = m->blob.p;
	op->blob_len = m->blob.len;
	op->data = m->data.p;
	op->data_len = m->data.len;
	if (rnd(2) || type == OP_ATTACH) {
		op->attach_kind = (uint16_t)rnd(65536);
		op->attach = memset(m->attach, (int)rnd(256), sizeof m->attach);
		op->attach_len = (uint32_t)(1 + rnd(sizeof m->attach));
	}
}

static void unmake(struct made *m)
{
	enc_free(&m->xattrs);
	enc_free(&m->blob);
	enc_free(&m->data);
}

/* ---- the same? ---- */

static bool same_bytes(const void *a, size_t alen, const void *b, size_t blen) { return alen == blen && (!alen || !memcmp(a, b, alen)); }

static bool same_attr(const struct attr *a, const struct attr *b)
{
	return a->mode == b->mode && a->nlink == b->nlink && a->uid == b->uid && a->gid == b->gid && a->rdev == b->rdev && a->size == b->size &&
	       !time_cmp(a->mtime, b->mtime) && !time_cmp(a->ctime, b->ctime);
}

#define SAME(f, cond) ck_assert_msg(!HAS(a->type, f) || (cond), "%s: field %d", op_name(a->type), (int)(f))

static void same_op(const struct op *a, const struct op *b)
{
	ck_assert_uint_eq(a->type, b->type);
	SAME(F_STAMP, !time_cmp(a->stamp, b->stamp));
	SAME(F_ID, a->id == b->id);
	SAME(F_ID2, a->id2 == b->id2);
	SAME(F_PARENT, a->parent == b->parent);
	SAME(F_PARENT2, a->parent2 == b->parent2);
	SAME(F_NAME, !strcmp(a->name, b->name));
	SAME(F_NAME2, !strcmp(a->name2, b->name2));
	SAME(F_ATTR, same_attr(&a->attr, &b->attr));
	SAME(F_NLINK, a->attr.nlink == b->attr.nlink);
	SAME(F_SIZE, a->attr.size == b->attr.size);
	SAME(F_SET, a->set == b->set);
	SAME(F_FLAGS, a->flags == b->flags);
	SAME(F_OFF, a->off == b->off);
	SAME(F_OFF2, a->off2 == b->off2);
	SAME(F_LEN, a->len == b->len);
	SAME(F_XATTRS, same_bytes(a->xattrs, a->xattrs_len, b->xattrs, b->xattrs_len));
	SAME(F_BLOB, same_bytes(a->blob, a->blob_len, b->blob, b->blob_len));
	SAME(F_DATA, same_bytes(a->data, a->data_len, b->data, b->data_len));
	SAME(F_EPOCH, epoch_eq(a->epoch, b->epoch));
	SAME(F_LSN, a->lsn == b->lsn);
	ck_assert(same_bytes(a->attach, a->attach_len, b->attach, b->attach_len));
	ck_assert(!a->attach_len || a->attach_kind == b->attach_kind);
}

/* ---- tests ---- */

START_TEST(test_round_trip)
{
	char scratch[512];
	struct enc e = { 0 };
	struct op got;

	if (!op_fields[_i])
		return;
	for (unsigned k = 0; k < ROUNDS; k++) {
		struct made m;
		make(&m, (uint8_t)_i);
		enc_reset(&e);
		ck_assert_int_eq(op_encode(&e, &m.op), 0);
		ck_assert_msg(op_decode(e.p, e.len, m.op.data, m.op.data_len, scratch, &got) == 0, "%s is refused", op_name((unsigned)_i));
		same_op(&m.op, &got);
		unmake(&m);
	}
	enc_free(&e);
}
END_TEST

/* Decodes from memory that is exactly so long. */
static int decode_tight(const unsigned char *p, size_t len, size_t data_len, struct op *got, char scratch[512])
{
	unsigned char *tight = malloc(len ? len : 1);
	static const unsigned char data[8192];

	memcpy(tight, p, len);
	int r = op_decode(tight, len, data, data_len, scratch, got);
	if (!r) {		/* then it is what it says: the same bytes again */
		struct enc e = { 0 };
		ck_assert_int_eq(op_encode(&e, got), 0);
		ck_assert(same_bytes(e.p, e.len, tight, len));
		enc_free(&e);
	}
	free(tight);
	return r;
}

START_TEST(test_truncated_and_changed)
{
	char scratch[512];
	struct enc e = { 0 };
	struct op got;

	if (!op_fields[_i])
		return;
	for (unsigned k = 0; k < 8; k++) {
		struct made m;
		make(&m, (uint8_t)_i);
		enc_reset(&e);
		op_encode(&e, &m.op);
		for (size_t n = 0; n < e.len; n++)
			ck_assert_int_eq(decode_tight(e.p, n, m.op.data_len, &got, scratch), -EBADMSG);
		enc_u8(&e, 0);
		ck_assert_int_eq(decode_tight(e.p, e.len, m.op.data_len, &got, scratch), -EBADMSG);
		e.len--;
		for (size_t n = 0; n < e.len; n++) {
			unsigned char was = e.p[n];
			e.p[n] = (unsigned char)(was ^ (1u << rnd(8)));
			decode_tight(e.p, e.len, m.op.data_len, &got, scratch);
			e.p[n] = (unsigned char)rnd(256);
			decode_tight(e.p, e.len, m.op.data_len, &got, scratch);
			e.p[n] = was;
		}
		if (HAS(_i, F_DATA))
			ck_assert_int_eq(decode_tight(e.p, e.len, m.op.data_len + 1, &got, scratch), -EBADMSG);
		unmake(&m);
	}
	enc_free(&e);
}
END_TEST

START_TEST(test_unknown_types)
{
	unsigned char meta[64] = { 0 };
	char scratch[512];
	struct op got;

	for (unsigned t = 0; t < 256; t++) {
		meta[0] = (unsigned char)t;
		if (t > OP_TYPE_LAST || !op_fields[t])
			for (size_t n = 0; n <= sizeof meta; n++)
				ck_assert_int_eq(op_decode(meta, n, NULL, 0, scratch, &got), -EBADMSG);
		ck_assert_ptr_nonnull(op_name(t));
	}
}
END_TEST

/* ---- impossible ops: each differs from a good one in one thing ---- */

static struct op base(uint8_t type)
{
	struct op op = { .type = type, .id = ID(7), .id2 = type == OP_RENAME ? 0 : ID(8), .parent = HANDLE_ROOT, .parent2 = HANDLE_ROOT, .name = "n",
			 .name2 = "m", .off = 1, .off2 = 2, .len = 3, .attr = { .mode = S_IFREG | 0644 }, .epoch = { .reign = 1, .node = 1 } };

	if (type == OP_R_DATA || type == OP_R_CHECK)
		op.id2 = 0;
	if (type == OP_R_END)
		op.flags = 0;
	return op;
}

static int decoded(const struct op *op)
{
	char scratch[512];
	struct op got;
	struct enc e = { 0 };

	ck_assert_int_eq(op_encode(&e, op), 0);
	int r = op_decode(e.p, e.len, op->data, op->data_len, scratch, &got);
	enc_free(&e);
	return r;
}

#define REFUSED(type, change) do { \
	struct op op = base(type); \
	ck_assert_int_eq(decoded(&op), 0); \
	change; \
	ck_assert_msg(decoded(&op) == -EBADMSG, "%s with %s is accepted", op_name(type), #change); \
} while (0)

START_TEST(test_impossible_names)
{
	static const char *const bad[] = { ".", "..", "a/b", "/" };
	static const uint8_t types[] = { OP_CREATE, OP_UNLINK, OP_RMDIR, OP_RENAME, OP_LINK, OP_R_PLACE };

	for (size_t t = 0; t < ARRAY_LEN(types); t++)
		for (size_t b = 0; b < ARRAY_LEN(bad); b++)
			REFUSED(types[t], op.name = bad[b]);
	for (size_t b = 0; b < ARRAY_LEN(bad); b++)
		REFUSED(OP_RENAME, op.name2 = bad[b]);
	REFUSED(OP_SETXATTR, op.name = "trusted.tandemfs");
	REFUSED(OP_REMOVEXATTR, op.name = "trusted.tandemfs.more");
}
END_TEST

/* Names that no honest encoder can be made to write: by changing bytes. */
START_TEST(test_impossible_name_bytes)
{
	struct op op = base(OP_UNLINK), got;
	char scratch[512];
	struct enc e = { 0 };
	char longest[256];

	memset(longest, 'x', 255);
	longest[255] = 0;
	op.name = longest;
	ck_assert_int_eq(op_encode(&e, &op), 0);
	size_t at = 2 + 12 + 8 + 8;		/* type, bits, stamp, id, parent */
	ck_assert_uint_eq(e.p[at], 255);
	ck_assert_int_eq(op_decode(e.p, e.len, NULL, 0, scratch, &got), 0);
	e.p[at + 100] = 0;
	ck_assert_int_eq(op_decode(e.p, e.len, NULL, 0, scratch, &got), -EBADMSG);
	e.p[at + 100] = 'x';
	enc_u8(&e, 0);				/* one byte more, said and there */
	memmove(e.p + at + 3, e.p + at + 2, e.len - at - 3);
	e.p[at] = 0;
	e.p[at + 1] = 1;
	e.p[at + 2] = 'x';
	ck_assert_int_eq(op_decode(e.p, e.len, NULL, 0, scratch, &got), -EBADMSG);
	op.name = "";				/* only limbo has nameless objects */
	enc_reset(&e);
	op.type = OP_CREATE;
	op.parent = HANDLE_LIMBO;
	ck_assert_int_eq(op_encode(&e, &op), 0);
	ck_assert_int_eq(op_decode(e.p, e.len, NULL, 0, scratch, &got), 0);
	e.p[2 + 12 + 8] = HANDLE_ROOT;
	ck_assert_int_eq(op_decode(e.p, e.len, NULL, 0, scratch, &got), -EBADMSG);
	enc_free(&e);
}
END_TEST

START_TEST(test_impossible_ids)
{
	static const uint64_t bad[] = { 0, HANDLE_LIMBO, 3, 1ull << 32, 16ull << ID_NODE_SHIFT, UINT64_MAX };
	static const uint8_t types[] = { OP_CREATE, OP_UNLINK, OP_RMDIR, OP_RENAME, OP_LINK, OP_SETATTR, OP_WRITE, OP_FALLOCATE, OP_COPY, OP_SETXATTR,
					 OP_REMOVEXATTR, OP_SETFLAGS, OP_PURGE, OP_R_PLACE, OP_R_ATTR, OP_R_XATTR, OP_R_CHECK, OP_R_DATA };

	for (size_t t = 0; t < ARRAY_LEN(types); t++)
		for (size_t b = 0; b < ARRAY_LEN(bad); b++)
			REFUSED(types[t], op.id = bad[b]);
	for (size_t b = 1; b < ARRAY_LEN(bad); b++) {
		REFUSED(OP_UNLINK, op.parent = bad[b]);
		REFUSED(OP_RENAME, op.parent2 = bad[b]);
		REFUSED(OP_RENAME, op.id2 = bad[b]);
		REFUSED(OP_COPY, op.id2 = bad[b]);
		REFUSED(OP_FSYNC, op.id2 = bad[b]);
	}
	REFUSED(OP_CREATE, op.id = HANDLE_ROOT);
	REFUSED(OP_PURGE, op.id = HANDLE_ROOT);
	REFUSED(OP_UNLINK, op.id = HANDLE_ROOT);
	REFUSED(OP_RENAME, op.parent2 = op.id);
	REFUSED(OP_CREATE, (op.parent = HANDLE_LIMBO, op.attr.mode = S_IFDIR | 0755));
}
END_TEST

START_TEST(test_impossible_rest)
{
	REFUSED(OP_WRITE, (op.off = INT64_MAX, op.data = "x", op.data_len = 1));
	REFUSED(OP_WRITE, op.attr.mode = S_IFDIR | 0755);
	REFUSED(OP_FALLOCATE, op.len = INT64_MAX);
	REFUSED(OP_FALLOCATE, op.len = 0);
	REFUSED(OP_FALLOCATE, op.flags = 0x80);
	REFUSED(OP_COPY, op.off2 = UINT64_MAX);
	REFUSED(OP_COPY, op.len = 0);
	REFUSED(OP_SETATTR, op.set = 1u << 20);
	REFUSED(OP_SETATTR, op.attr.mode = 0644);
	REFUSED(OP_SETATTR, op.attr.mode = S_IFREG | 0644 | 1u << 20);
	REFUSED(OP_SETATTR, op.attr.uid = UINT32_MAX);
	REFUSED(OP_SETATTR, op.attr.size = 1ull << 63);
	REFUSED(OP_SETATTR, op.attr.mtime.tv_nsec = 1000000000);
	REFUSED(OP_RENAME, op.flags = RENAME_NOREPLACE | RENAME_EXCHANGE);
	REFUSED(OP_RENAME, op.flags = RENAME_EXCHANGE);
	REFUSED(OP_RENAME, (op.flags = RENAME_NOREPLACE, op.id2 = ID(9)));
	REFUSED(OP_RENAME, op.flags = RENAME_WHITEOUT);
	REFUSED(OP_LINK, op.attr.mode = S_IFDIR | 0755);
	REFUSED(OP_CREATE, op.attr.mode = S_IFLNK | 0777);
	REFUSED(OP_CREATE, (op.blob = "target", op.blob_len = 6));
	REFUSED(OP_CREATE, (op.attr.mode = S_IFLNK | 0777, op.blob = "tar\0get", op.blob_len = 7));
	REFUSED(OP_EPOCH, op.epoch.reign = 0);
	REFUSED(OP_EPOCH, op.epoch.node = 16);
	REFUSED(OP_HANDOVER, op.flags = NODE_MAX + 1);
	REFUSED(OP_R_DIR, op.off2 = 0);
	REFUSED(OP_R_DATA, (op.data = "xy", op.data_len = 2));
	REFUSED(OP_R_END, op.flags = 2);
}
END_TEST

static int with_xattrs(const struct enc *list)
{
	struct op op = base(OP_R_XATTR);

	op.xattrs = list->p;
	op.xattrs_len = list->len;
	return decoded(&op);
}

START_TEST(test_lists)
{
	struct enc e = { 0 };
	char name[256];

	for (unsigned i = 0; i < OP_XATTRS_MAX; i++) {
		snprintf(name, sizeof name, "user.%u", i);
		op_xattrs_add(&e, name, "v", 1);
	}
	ck_assert_int_eq(with_xattrs(&e), 0);
	op_xattrs_add(&e, "user.more", "v", 1);
	ck_assert_int_eq(with_xattrs(&e), -EBADMSG);
	enc_reset(&e);
	op_xattrs_add(&e, "trusted.tandemfs", "v", 1);
	ck_assert_int_eq(with_xattrs(&e), -EBADMSG);
	enc_reset(&e);
	op_xattrs_add(&e, "", "v", 1);
	ck_assert_int_eq(with_xattrs(&e), -EBADMSG);
	enc_reset(&e);
	op_xattrs_add(&e, "user.x", "value", 5);
	e.len--;
	ck_assert_int_eq(with_xattrs(&e), -EBADMSG);

	struct op dir = base(OP_R_DIR);
	static const struct { uint64_t id; uint32_t type; const char *name; } bad[] = {
		{ HANDLE_ROOT, S_IFDIR, "a" }, { 5, S_IFDIR, "a" }, { ID(1), 0, "a" }, { ID(1), 0x3000, "a" }, { ID(1), S_IFREG, "." },
		{ ID(1), S_IFREG, ".." }, { ID(1), S_IFREG, "a/b" },
	};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		enc_reset(&e);
		op_entries_add(&e, ID(1), S_IFREG, "good");
		op_entries_add(&e, bad[i].id, bad[i].type, bad[i].name);
		dir.blob = e.p;
		dir.blob_len = e.len;
		ck_assert_int_eq(decoded(&dir), -EBADMSG);
	}
	enc_free(&e);
}
END_TEST

START_TEST(test_atime_does_not_travel)
{
	struct op op = base(OP_SETATTR), got;
	struct enc e = { 0 };
	char scratch[512];

	op.set = SET_ATIME | SET_ATIME_NOW | SET_MTIME;
	ck_assert_int_eq(op_encode(&e, &op), 0);
	ck_assert_int_eq(op_decode(e.p, e.len, NULL, 0, scratch, &got), 0);
	ck_assert_uint_eq(got.set, SET_MTIME);
	ck_assert_uint_eq(got.attr.id, op.id);
	enc_free(&e);
}
END_TEST

START_TEST(test_too_much)
{
	struct op op = base(OP_SETXATTR);
	struct enc e = { 0 };
	auto_free char *big = calloc(1, OP_BLOB_MAX + 1);

	op.blob = big;
	op.blob_len = OP_BLOB_MAX + 1;
	ck_assert_int_eq(op_encode(&e, &op), -E2BIG);
	op.blob_len = LAYER_XATTR_MAX + 1;
	ck_assert_int_eq(decoded(&op), -EBADMSG);
	op.blob_len = LAYER_XATTR_MAX;
	ck_assert_int_eq(decoded(&op), 0);
	op.attach = big;
	op.attach_len = LAYER_ATTACH_MAX + 1;
	ck_assert_int_eq(op_encode(&e, &op), -E2BIG);
	enc_free(&e);
}
END_TEST

/* The largest op of every type fits into a frame. */
START_TEST(test_maxima_fit)
{
	struct op op = base(OP_CREATE);
	struct enc e = { 0 };
	auto_free char *big = calloc(1, OP_XATTRS_LEN_MAX);
	char name[256];

	memset(name, 'n', 255);
	name[255] = 0;
	op.name = name;
	op.xattrs = op.blob = op.attach = big;
	op.xattrs_len = OP_XATTRS_LEN_MAX;
	op.blob_len = LAYER_SYMLINK_MAX;
	op.attach_len = LAYER_ATTACH_MAX;
	ck_assert_int_eq(op_encode(&e, &op), 0);
	ck_assert_uint_le(e.len, OP_META_MAX);
	enc_free(&e);
}
END_TEST

/* docs/protocol.md shows these bytes. */
START_TEST(test_golden_write)
{
	static const char golden[] =
		"09 01 00f15365000000 0000000000 07000000000003 00 a4810000 01000000 e8030000 64000000 0000000000000000 0510000000000000"
		"00f1536500000000 00000000 00f1536500000000 00000000 0010000000000000 05000000 0300 02000000 6869";
	struct op op = { .type = OP_WRITE, .stamp = { 1700000000, 0 }, .id = ID(7), .off = 4096, .data = "hello", .data_len = 5,
			 .attr = { .mode = S_IFREG | 0644, .nlink = 1, .uid = 1000, .gid = 100, .size = 4101, .mtime = { 1700000000, 0 },
				   .ctime = { 1700000000, 0 } },
			 .attach_kind = 3, .attach = "hi", .attach_len = 2 };
	struct enc e = { 0 };

	ck_assert_int_eq(op_encode(&e, &op), 0);
	golden_same(e.p, e.len, golden);
	enc_free(&e);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("op");
	TCase *c = tcase_create("op");
	const char *seed = getenv("SEED");

	rnd_state = seed ? strtoull(seed, NULL, 0) : (uint64_t)time(NULL);
	printf("# SEED=%llu\n", (unsigned long long)rnd_state);
	fflush(stdout);
	tcase_set_timeout(c, 60);
	suite_add_tcase(s, c);
	tcase_add_loop_test(c, test_round_trip, 0, OP_TYPE_LAST + 1);
	tcase_add_loop_test(c, test_truncated_and_changed, 0, OP_TYPE_LAST + 1);
	tcase_add_test(c, test_unknown_types);
	tcase_add_test(c, test_impossible_names);
	tcase_add_test(c, test_impossible_name_bytes);
	tcase_add_test(c, test_impossible_ids);
	tcase_add_test(c, test_impossible_rest);
	tcase_add_test(c, test_lists);
	tcase_add_test(c, test_atime_does_not_travel);
	tcase_add_test(c, test_too_much);
	tcase_add_test(c, test_maxima_fit);
	tcase_add_test(c, test_golden_write);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed != 0;
}
