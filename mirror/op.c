/*
 * The codec of ops: two tables.
 *
 *   op_fields[type]   which fields an op of that type has; they are encoded in the order of enum op_field
 *   codecs[field]     how one field is encoded, and where it stands in struct op
 *
 * Encoded op:   u8 type   u8 bits (1 = an attachment follows the fields; others 0)   fields…   [u16 attach kind   u32 length   bytes]
 *
 * The data of a write are not in it: they travel beside it in the frame; F_DATA is their length once more, so that an op and data that don't
 * belong together are noticed.
 *
 * The decoder has three steps: fields (lengths), checks by field (names, ids, attributes, lists), checks by type (checks[]). What passes can't
 * make an honest apply leave its bounds; whether it fits the volume is for apply to say.
 */
#include "mirror/op.h"

#include <assert.h>
#include <errno.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <string.h>

#include "fs/base/cleanup.h"

enum { OP_BIT_ATTACH = 1 << 0, OP_SCRATCH_NAME = 256 };

#define B(f) (1u << (f))
#define NAMED (OP_KNOWN | B(F_STAMP) | B(F_ID) | B(F_PARENT) | B(F_NAME))
#define MADE (NAMED | B(F_ATTR) | B(F_XATTRS) | B(F_BLOB))
#define CHANGED (OP_KNOWN | B(F_STAMP) | B(F_ID) | B(F_ATTR))
#define STATED (OP_KNOWN | B(F_ID))

const uint32_t op_fields[OP_TYPE_LAST + 1] = {
	[OP_NOP] = OP_KNOWN,
	[OP_EPOCH] = OP_KNOWN | B(F_EPOCH) | B(F_LSN),
	[OP_CREATE] = MADE,
	[OP_UNLINK] = NAMED | B(F_NLINK),
	[OP_RMDIR] = NAMED | B(F_NLINK),
	[OP_RENAME] = NAMED | B(F_ID2) | B(F_PARENT2) | B(F_NAME2) | B(F_NLINK) | B(F_FLAGS),
	[OP_LINK] = NAMED | B(F_ATTR),
	[OP_SETATTR] = CHANGED | B(F_SET),
	[OP_WRITE] = CHANGED | B(F_OFF) | B(F_DATA),
	[OP_FALLOCATE] = CHANGED | B(F_FLAGS) | B(F_OFF) | B(F_LEN),
	[OP_COPY] = CHANGED | B(F_ID2) | B(F_OFF) | B(F_OFF2) | B(F_LEN),
	[OP_SETXATTR] = CHANGED | B(F_NAME) | B(F_BLOB),
	[OP_REMOVEXATTR] = CHANGED | B(F_NAME),
	[OP_SETFLAGS] = CHANGED | B(F_FLAGS),
	[OP_FSYNC] = OP_KNOWN | B(F_ID) | B(F_ID2) | B(F_PARENT) | B(F_FLAGS),
	[OP_PURGE] = OP_KNOWN | B(F_ID),
	[OP_ATTACH] = OP_KNOWN,
	[OP_HANDOVER] = OP_KNOWN | B(F_FLAGS) | B(F_LSN),
	[OP_R_BEGIN] = OP_KNOWN,
	[OP_R_DIR] = STATED | B(F_OFF) | B(F_OFF2) | B(F_BLOB),
	[OP_R_PLACE] = MADE,
	[OP_R_ATTR] = STATED | B(F_ATTR) | B(F_FLAGS) | B(F_BLOB),
	[OP_R_XATTR] = STATED | B(F_XATTRS),
	[OP_R_CHECK] = STATED | B(F_SIZE) | B(F_OFF) | B(F_LEN) | B(F_BLOB),
	[OP_R_DATA] = STATED | B(F_SIZE) | B(F_OFF) | B(F_LEN) | B(F_DATA),
	[OP_R_END] = OP_KNOWN | B(F_FLAGS),
};

static const char *const op_names[OP_TYPE_LAST + 1] = {
	[OP_NOP] = "nop", [OP_EPOCH] = "epoch", [OP_CREATE] = "create", [OP_UNLINK] = "unlink", [OP_RMDIR] = "rmdir",
	[OP_RENAME] = "rename", [OP_LINK] = "link", [OP_SETATTR] = "setattr", [OP_WRITE] = "write", [OP_FALLOCATE] = "fallocate",
	[OP_COPY] = "copy", [OP_SETXATTR] = "setxattr", [OP_REMOVEXATTR] = "removexattr", [OP_SETFLAGS] = "setflags",
	[OP_FSYNC] = "fsync", [OP_PURGE] = "purge", [OP_ATTACH] = "attach", [OP_HANDOVER] = "handover", [OP_R_BEGIN] = "r-begin",
	[OP_R_DIR] = "r-dir", [OP_R_PLACE] = "r-place", [OP_R_ATTR] = "r-attr", [OP_R_XATTR] = "r-xattr", [OP_R_CHECK] = "r-check",
	[OP_R_DATA] = "r-data", [OP_R_END] = "r-end",
};

const char *op_name(unsigned type)
{
	return type <= OP_TYPE_LAST && op_names[type] ? op_names[type] : "unknown";
}

/* ---- one field ---- */

enum shape { S_U32, S_U64, S_TIME, S_NAME, S_ATTR, S_LIST, S_DATA, S_EPOCH };

static const struct { enum shape shape; size_t at, at_len; } codecs[F_COUNT] = {
	[F_STAMP] = { S_TIME, offsetof(struct op, stamp), 0 },
	[F_ID] = { S_U64, offsetof(struct op, id), 0 },
	[F_ID2] = { S_U64, offsetof(struct op, id2), 0 },
	[F_PARENT] = { S_U64, offsetof(struct op, parent), 0 },
	[F_PARENT2] = { S_U64, offsetof(struct op, parent2), 0 },
	[F_NAME] = { S_NAME, offsetof(struct op, name), 0 },
	[F_NAME2] = { S_NAME, offsetof(struct op, name2), 0 },
	[F_ATTR] = { S_ATTR, offsetof(struct op, attr), 0 },
	[F_NLINK] = { S_U32, offsetof(struct op, attr.nlink), 0 },
	[F_SIZE] = { S_U64, offsetof(struct op, attr.size), 0 },
	[F_SET] = { S_U32, offsetof(struct op, set), 0 },
	[F_FLAGS] = { S_U32, offsetof(struct op, flags), 0 },
	[F_OFF] = { S_U64, offsetof(struct op, off), 0 },
	[F_OFF2] = { S_U64, offsetof(struct op, off2), 0 },
	[F_LEN] = { S_U64, offsetof(struct op, len), 0 },
	[F_XATTRS] = { S_LIST, offsetof(struct op, xattrs), offsetof(struct op, xattrs_len) },
	[F_BLOB] = { S_LIST, offsetof(struct op, blob), offsetof(struct op, blob_len) },
	[F_DATA] = { S_DATA, offsetof(struct op, data_len), 0 },
	[F_EPOCH] = { S_EPOCH, offsetof(struct op, epoch), 0 },
	[F_LSN] = { S_U64, offsetof(struct op, lsn), 0 },
};

static void put_attr(struct enc *e, const struct attr *a)
{
	enc_u32(e, a->mode);
	enc_u32(e, a->nlink);
	enc_u32(e, a->uid);
	enc_u32(e, a->gid);
	enc_u64(e, a->rdev);
	enc_u64(e, a->size);
	enc_time(e, a->mtime);
	enc_time(e, a->ctime);
}

static void get_attr(struct dec *d, struct attr *a)
{
	a->mode = dec_u32(d);
	a->nlink = dec_u32(d);
	a->uid = dec_u32(d);
	a->gid = dec_u32(d);
	a->rdev = dec_u64(d);
	a->size = dec_u64(d);
	a->mtime = dec_time(d);
	a->ctime = dec_time(d);
}

static void put_field(struct enc *e, const struct op *op, unsigned f)
{
	const void *at = (const char *)op + codecs[f].at;
	const char *name;

	switch (codecs[f].shape) {
	case S_U32: enc_u32(e, *(const uint32_t *)at); break;
	case S_U64: enc_u64(e, *(const uint64_t *)at); break;
	case S_TIME: enc_time(e, *(const struct timespec *)at); break;
	case S_ATTR: put_attr(e, at); break;
	case S_DATA: enc_u32(e, (uint32_t)*(const size_t *)at); break;
	case S_NAME:
		name = *(const char *const *)at;
		enc_bytes16(e, name, name ? strlen(name) : 0);
		break;
	case S_LIST:
		enc_bytes32(e, *(const void *const *)at, *(const size_t *)((const char *)op + codecs[f].at_len));
		break;
	case S_EPOCH:
		enc_u64(e, ((const struct epoch *)at)->reign);
		enc_u64(e, ((const struct epoch *)at)->tag);
		enc_u8(e, ((const struct epoch *)at)->node);
		break;
	}
}

/* A name of at most 255 bytes without NUL, copied into AT (256 bytes). */
static const char *get_name(struct dec *d, char at[OP_SCRATCH_NAME])
{
	size_t len;
	const void *p = dec_bytes16(d, LAYER_NAME_MAX, &len);

	if (len && memchr(p, 0, len)) {
		d->err = -EBADMSG;
		len = 0;
	}
	if (len)
		memcpy(at, p, len);
	at[len] = 0;
	return at;
}

static void get_field(struct dec *d, struct op *op, unsigned f, char *scratch)
{
	void *at = (char *)op + codecs[f].at;
	size_t *len = (size_t *)(void *)((char *)op + codecs[f].at_len);

	switch (codecs[f].shape) {
	case S_U32: *(uint32_t *)at = dec_u32(d); break;
	case S_U64: *(uint64_t *)at = dec_u64(d); break;
	case S_TIME: *(struct timespec *)at = dec_time(d); break;
	case S_ATTR: get_attr(d, at); break;
	case S_NAME: *(const char **)at = get_name(d, scratch + (f == F_NAME2 ? OP_SCRATCH_NAME : 0)); break;
	case S_LIST: *(const void **)at = dec_bytes32(d, f == F_BLOB ? OP_BLOB_MAX : OP_XATTRS_LEN_MAX, len); break;
	case S_DATA:
		if (dec_u32(d) != *(const size_t *)at)
			d->err = -EBADMSG;
		break;
	case S_EPOCH:
		((struct epoch *)at)->reign = dec_u64(d);
		((struct epoch *)at)->tag = dec_u64(d);
		((struct epoch *)at)->node = dec_u8(d);
		break;
	}
}

/* ---- encode ---- */

static bool has(uint8_t type, enum op_field f)
{
	return op_fields[type] & B(f);
}

static bool name_fits(const char *name, uint64_t parent)
{
	return name && name[0] ? strlen(name) <= LAYER_NAME_MAX : parent == HANDLE_LIMBO;
}

static void assert_carries(const struct op *op)
{
	assert(op->type <= OP_TYPE_LAST && (op_fields[op->type] & OP_KNOWN));
	assert(!op->data_len || has(op->type, F_DATA));
	assert(!op->xattrs_len || has(op->type, F_XATTRS));
	assert(!op->blob_len || has(op->type, F_BLOB));
	assert(op->data_len <= OP_DATA_MAX);
	assert(!has(op->type, F_NAME) || name_fits(op->name, op->parent));
	assert(!has(op->type, F_NAME2) || name_fits(op->name2, op->parent2));
}

int op_encode(struct enc *e, const struct op *op)
{
	assert_carries(op);
	if (op->xattrs_len > OP_XATTRS_LEN_MAX || op->blob_len > OP_BLOB_MAX || op->attach_len > LAYER_ATTACH_MAX)
		return -E2BIG;
	struct op local;
	if (op->set & (SET_ATIME | SET_ATIME_NOW)) {
		local = *op;
		local.set &= ~(uint32_t)(SET_ATIME | SET_ATIME_NOW);
		op = &local;
	}
	enc_u8(e, op->type);
	enc_u8(e, op->attach_len ? OP_BIT_ATTACH : 0);
	for (unsigned f = 0; f < F_COUNT; f++)
		if (has(op->type, f))
			put_field(e, op, f);
	if (op->attach_len) {
		enc_u16(e, op->attach_kind);
		enc_bytes32(e, op->attach, op->attach_len);
	}
	return e->err;
}

bool op_is_awaited(const void *meta, size_t meta_len)
{
	const unsigned char *p = meta;

	return meta_len < 2 || p[1] & OP_BIT_ATTACH || p[0] == OP_EPOCH || p[0] > OP_FSYNC;
}

/* ---- lists ---- */

void op_xattrs_add(struct enc *e, const char *name, const void *value, size_t len)
{
	enc_bytes16(e, name, strlen(name));
	enc_bytes32(e, value, len);
}

int op_xattrs_next(struct dec *list, char name[256], const void **value, size_t *len)
{
	if (list->err || !list->left)
		return 0;
	get_name(list, name);
	*value = dec_bytes32(list, LAYER_XATTR_MAX, len);
	return list->err ? 0 : 1;
}

void op_entries_add(struct enc *e, uint64_t id, uint32_t type, const char *name)
{
	size_t len = strlen(name);

	assert(len >= 1 && len <= LAYER_NAME_MAX);
	enc_u64(e, id);
	enc_u8(e, (uint8_t)(type >> 12));
	enc_u8(e, (uint8_t)len);
	enc_raw(e, name, len);
}

int op_entries_next(struct dec *list, uint64_t *id, uint32_t *type, char name[256])
{
	if (list->err || !list->left)
		return 0;
	*id = dec_u64(list);
	*type = (uint32_t)dec_u8(list) << 12;
	size_t len = dec_u8(list);
	dec_raw(list, name, len);
	name[len] = 0;
	if (memchr(name, 0, len))
		list->err = -EBADMSG;
	return list->err ? 0 : 1;
}

/* ---- checks by field ---- */

static bool type_ok(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFREG: case S_IFDIR: case S_IFLNK: case S_IFIFO: case S_IFSOCK: case S_IFCHR: case S_IFBLK:
		return true;
	default:
		return false;
	}
}

static bool attr_ok(const struct attr *a)
{
	return type_ok(a->mode) && !(a->mode & ~(uint32_t)(S_IFMT | 07777)) && a->size <= INT64_MAX && a->uid != UINT32_MAX &&
	       a->gid != UINT32_MAX;
}

static bool entry_name_ok(const char *name)
{
	return name[0] && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && !strchr(name, '/');
}

static bool xattr_name_ok(const char *name)
{
	return name[0] && strncmp(name, MARK_XATTR, sizeof MARK_XATTR - 1) != 0;
}

static bool xattrs_ok(const struct op *op)
{
	struct dec d = dec_init(op->xattrs, op->xattrs_len);
	char name[OP_SCRATCH_NAME];
	const void *value;
	size_t len;
	unsigned n = 0;

	while (op_xattrs_next(&d, name, &value, &len))
		if (++n > OP_XATTRS_MAX || !xattr_name_ok(name))
			return false;
	return !dec_end(&d);
}

static bool entries_ok(const struct op *op)
{
	struct dec d = dec_init(op->blob, op->blob_len);
	char name[OP_SCRATCH_NAME];
	uint64_t id;
	uint32_t type;

	while (op_entries_next(&d, &id, &type, name))
		if (!id_valid(id) || id == HANDLE_ROOT || !type_ok(type) || (type & ~(uint32_t)S_IFMT) || !entry_name_ok(name))
			return false;
	return !dec_end(&d);
}

/* An object that can lose or get a name. */
static bool movable(uint64_t id)
{
	return id_valid(id) && id != HANDLE_ROOT;
}

static bool id_or_none(uint64_t id)
{
	return !id || id_valid(id);
}

static bool range_ok(uint64_t off, uint64_t len)
{
	return off <= INT64_MAX && len <= INT64_MAX - off;
}

static bool place_ok(uint64_t parent, const char *name, bool limbo)
{
	if (parent == HANDLE_LIMBO)
		return limbo && (!name[0] || entry_name_ok(name));
	return id_valid(parent) && entry_name_ok(name);
}

/* ---- checks by type ---- */

static bool nothing_ok(const struct op *op) { return op->type != OP_ATTACH || op->attach_len; }

static bool epoch_ok(const struct op *op)
{
	return op->epoch.reign && op->epoch.node >= 1 && op->epoch.node <= NODE_MAX;
}

static bool made_ok(const struct op *op)
{
	bool link = S_ISLNK(op->attr.mode);
	bool limbo = op->type == OP_R_PLACE || S_ISREG(op->attr.mode);

	if (!movable(op->id) || op->parent == op->id || !place_ok(op->parent, op->name, limbo))
		return false;
	if (!link)
		return !op->blob_len;
	return op->blob_len && op->blob_len <= LAYER_SYMLINK_MAX && !memchr(op->blob, 0, op->blob_len);
}

static bool unnamed_ok(const struct op *op)
{
	return movable(op->id) && op->parent != op->id && place_ok(op->parent, op->name, false);
}

static bool rename_ok(const struct op *op)
{
	if (!unnamed_ok(op) || !place_ok(op->parent2, op->name2, false) || op->parent2 == op->id)
		return false;
	switch (op->flags) {
	case 0: return !op->id2 || movable(op->id2);
	case RENAME_NOREPLACE: return !op->id2;
	case RENAME_EXCHANGE: return movable(op->id2);
	default: return false;
	}
}

static bool link_ok(const struct op *op) { return unnamed_ok(op) && !S_ISDIR(op->attr.mode); }
static bool object_ok(const struct op *op) { return id_valid(op->id); }
static bool file_ok(const struct op *op) { return movable(op->id) && S_ISREG(op->attr.mode); }

static bool setattr_ok(const struct op *op)
{
	const uint32_t known = SET_MODE | SET_UID | SET_GID | SET_SIZE | SET_MTIME | SET_MTIME_NOW | SET_CTIME | SET_KILL_PRIV;

	return object_ok(op) && !(op->set & ~known) && (!(op->set & SET_SIZE) || S_ISREG(op->attr.mode));
}

static bool write_ok(const struct op *op) { return file_ok(op) && range_ok(op->off, op->data_len); }

static bool fallocate_ok(const struct op *op)
{
	const uint32_t known = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_ZERO_RANGE |
			       FALLOC_FL_INSERT_RANGE | FALLOC_FL_UNSHARE_RANGE;

	return file_ok(op) && !(op->flags & ~known) && op->len && range_ok(op->off, op->len);
}

static bool copy_ok(const struct op *op)
{
	return file_ok(op) && movable(op->id2) && op->len && range_ok(op->off, op->len) && range_ok(op->off2, op->len);
}

static bool setxattr_ok(const struct op *op)
{
	return object_ok(op) && xattr_name_ok(op->name) && op->blob_len <= LAYER_XATTR_MAX;
}

static bool fsync_ok(const struct op *op)
{
	return id_or_none(op->id) && id_or_none(op->id2) && id_or_none(op->parent) && !(op->flags & ~(uint32_t)OP_FSYNC_DATA);
}
static bool purge_ok(const struct op *op) { return movable(op->id); }
static bool dir_ok(const struct op *op) { return object_ok(op) && op->off <= op->off2 && entries_ok(op); }

static bool check_ok(const struct op *op)
{
	return movable(op->id) && op->attr.size <= INT64_MAX && range_ok(op->off, op->len);
}

static bool handover_ok(const struct op *op) { return op->flags <= NODE_MAX; }
static bool end_ok(const struct op *op) { return op->flags <= 1; }
static bool data_ok(const struct op *op) { return check_ok(op) && (!op->data_len || op->data_len == op->len); }

static bool (*const checks[OP_TYPE_LAST + 1])(const struct op *) = {
	[OP_NOP] = nothing_ok, [OP_EPOCH] = epoch_ok, [OP_CREATE] = made_ok, [OP_UNLINK] = unnamed_ok, [OP_RMDIR] = unnamed_ok,
	[OP_RENAME] = rename_ok, [OP_LINK] = link_ok, [OP_SETATTR] = setattr_ok, [OP_WRITE] = write_ok, [OP_FALLOCATE] = fallocate_ok,
	[OP_COPY] = copy_ok, [OP_SETXATTR] = setxattr_ok, [OP_REMOVEXATTR] = setxattr_ok, [OP_SETFLAGS] = object_ok,
	[OP_FSYNC] = fsync_ok, [OP_PURGE] = purge_ok, [OP_ATTACH] = nothing_ok, [OP_HANDOVER] = handover_ok, [OP_R_BEGIN] = nothing_ok,
	[OP_R_DIR] = dir_ok, [OP_R_PLACE] = made_ok, [OP_R_ATTR] = object_ok, [OP_R_XATTR] = object_ok, [OP_R_CHECK] = check_ok,
	[OP_R_DATA] = data_ok, [OP_R_END] = end_ok,
};

/* ---- decode ---- */

static void get_attachment(struct dec *d, struct op *op)
{
	size_t len;

	op->attach_kind = dec_u16(d);
	op->attach = dec_bytes32(d, LAYER_ATTACH_MAX, &len);
	op->attach_len = (uint32_t)len;
	if (!len)
		d->err = -EBADMSG;
}

static int check(const struct op *op)
{
	if (has(op->type, F_ATTR) && !attr_ok(&op->attr))
		return -EBADMSG;
	if (has(op->type, F_XATTRS) && !xattrs_ok(op))
		return -EBADMSG;
	return checks[op->type](op) ? 0 : -EBADMSG;
}

int op_decode(const void *meta, size_t meta_len, const void *data, size_t data_len, char scratch[512], struct op *op)
{
	struct dec d = dec_init(meta, meta_len);

	memset(op, 0, sizeof *op);
	scratch[0] = scratch[OP_SCRATCH_NAME] = 0;
	op->name = scratch;
	op->name2 = scratch + OP_SCRATCH_NAME;
	op->type = dec_u8(&d);
	uint8_t bits = dec_u8(&d);
	if (meta_len > OP_META_MAX || d.err || (bits & ~OP_BIT_ATTACH) || op->type > OP_TYPE_LAST || !(op_fields[op->type] & OP_KNOWN))
		return -EBADMSG;
	if (data_len > OP_DATA_MAX || (data_len && !has(op->type, F_DATA)))
		return -EBADMSG;
	op->data = data_len ? data : NULL;
	op->data_len = data_len;
	for (unsigned f = 0; f < F_COUNT; f++)
		if (has(op->type, f))
			get_field(&d, op, f, scratch);
	if (bits & OP_BIT_ATTACH)
		get_attachment(&d, op);
	op->attr.id = op->type == OP_COPY ? op->id2 : op->id;
	return dec_end(&d) ? -EBADMSG : check(op);
}
