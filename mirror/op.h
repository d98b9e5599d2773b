/*
 * Replication operations: a change as it crosses the wire. One in-memory form, one table-driven codec.
 *
 * An op says what happened, not what was asked: the bytes that were written, the attributes afterwards. Ops of kind R_* are
 * *statements* of what is there now; resync sends them in the same ordered stream, under the same locks.
 *
 * Each type has a fixed set of fields (op_fields[]), encoded in the order of enum op_field. docs/protocol.md has the bytes.
 * The decoder checks everything that can be checked without the volume: lengths, names (not empty, ".", "..", no '/', no NUL, at most 255
 * bytes), ids, ranges that don't overflow, known types and flags. It borrows from the frame's memory: no copies.
 *
 * Conventions: an object without a name (a tmpfile, limbo) has the parent HANDLE_LIMBO, and its name may be empty ("", or NULL for the
 * encoder). A symlink's target is the blob, without a NUL. attr.id of a decoded op is the object that the attributes are of (COPY: id2).
 */
#ifndef MIRROR_OP_H
#define MIRROR_OP_H

#include <stdbool.h>
#include <stdint.h>

#include "fs/base/blk.h"
#include "fs/base/codec.h"
#include "fs/layer.h"
#include "handles/handles.h"

/* (reign number, node number, random tag), compared whole: one uninterrupted stretch of one primary with one sync set. */
struct epoch {
	uint64_t reign;			/* 0 = none */
	uint64_t tag;
	uint8_t node;
};
static inline bool epoch_eq(struct epoch a, struct epoch b) { return a.reign == b.reign && a.tag == b.tag && a.node == b.node; }

enum op_type {
	OP_NOP = 1,			/* holds a place in the order (an op that went to other peers only) */
	OP_EPOCH,			/* a new epoch begins: this op is its LSN 0 */
	OP_CREATE,			/* id, parent, name, attr, target/xattrs (inherited ACLs) */
	OP_UNLINK, OP_RMDIR,		/* id, parent, name; attr.nlink = links left */
	OP_RENAME,			/* id, parent, name -> parent2, name2; id2 = replaced or exchanged; flags = renameat2's;
					   attr.nlink = links that the replaced object has left */
	OP_LINK,			/* id, parent, name; attr. out of limbo when the object is a tmpfile */
	OP_SETATTR,			/* id, attr, set: which (atime never: op_encode leaves it out) */
	OP_WRITE,			/* id, off, data, attr */
	OP_FALLOCATE,			/* id, mode, off, len, attr */
	OP_COPY,			/* id (source), id2 (target), off, off2, len = bytes copied, attr of the target */
	OP_SETXATTR, OP_REMOVEXATTR,	/* id, name, value, attr */
	OP_SETFLAGS,			/* id, flags, attr */
	OP_FSYNC,			/* id, id2 and parent (0 = unused): a barrier; the standby makes these objects durable and answers (flags: OP_FSYNC_DATA) */
	OP_PURGE,			/* id: a limbo object's last user is gone */
	OP_ATTACH,			/* nothing but an attachment */
	OP_HANDOVER,			/* the primary gave up its role; all before this is complete. flags: the node that shall take it, 0 = whoever is promoted; lsn: random
					   number of this handover */
	/* resync: statements */
	OP_R_BEGIN = 64,		/* to follow: a comparison of everything; the receiver becomes inconsistent */
	OP_R_DIR,			/* id; off, off2: range of positions (off <= pos < off2); blob: its entries there */
	OP_R_PLACE,			/* as OP_CREATE, but an object of that id which exists anywhere is moved there */
	OP_R_ATTR,			/* id, attr: all of them; flags: inode flags; blob: digest of the xattrs */
	OP_R_XATTR,			/* id, xattrs: all of them */
	OP_R_CHECK,			/* id, off, len, attr.size, blob: checksums of the range's blocks */
	OP_R_DATA,			/* id, off, len, data (none = a hole), attr.size */
	OP_R_END,			/* flags 0: answer; 1: complete: clean up, make durable, answer */
	OP_TYPE_LAST = OP_R_END,
};

enum op_field {
	F_STAMP, F_ID, F_ID2, F_PARENT, F_PARENT2, F_NAME, F_NAME2, F_ATTR,
	F_NLINK,			/* attr.nlink alone */
	F_SIZE,				/* attr.size alone */
	F_SET, F_FLAGS, F_OFF, F_OFF2, F_LEN, F_XATTRS, F_BLOB, F_DATA, F_EPOCH, F_LSN, F_COUNT
};
/* Bitmap of fields per type; 0 = no such type. A known type has OP_KNOWN too. */
#define OP_KNOWN (1u << 31)
extern const uint32_t op_fields[OP_TYPE_LAST + 1];
const char *op_name(unsigned type);

enum {
	OP_FSYNC_DATA = 1,		/* flags of OP_FSYNC: as fdatasync(2): no times */
	OP_META_MAX = 1 << 20,		/* encoded op without data */
	OP_DATA_MAX = 4 << 20,
	OP_XATTRS_MAX = 1024,		/* xattrs in a list, and */
	OP_XATTRS_LEN_MAX = 896 << 10,	/* its encoded bytes */
	OP_BLOB_MAX = 512 << 10,
};

struct op {
	uint8_t type;			/* enum op_type */
	uint16_t attach_kind;		/* an attachment may ride on every op */
	uint32_t flags;			/* renameat2 flags, fallocate mode, inode flags */
	uint32_t set;			/* OP_SETATTR: enum setattr_valid */
	struct timespec stamp;
	uint64_t id, id2, parent, parent2;
	const char *name, *name2;	/* NUL-terminated; borrowed (see op_decode) */
	struct attr attr;		/* atime and blocks don't travel */
	uint64_t off, off2, len;
	const void *xattrs;		/* encoded list: see op_xattrs_next; borrowed */
	size_t xattrs_len;
	const void *blob;		/* borrowed: symlink target, xattr value, entries, digests */
	size_t blob_len;
	const void *data;		/* travels beside the meta data, not copied */
	size_t data_len;
	struct blk *data_owner;		/* borrowed; NULL: append copies */
	struct epoch epoch;
	uint64_t lsn;			/* OP_EPOCH: last LSN of the epoch before; OP_HANDOVER: its number */
	const void *attach;
	uint32_t attach_len;
};

/* Appends everything but the data. 0; -ENOMEM; -E2BIG: xattrs, blob or attachment are over their maxima. An op that its type can't carry is
 * an assert. */
int op_encode(struct enc *e, const struct op *op);
/* Is whoever emitted the op META likely to wait for the news that it arrived? Not for a plain change. META need not be well-formed. */
bool op_is_awaited(const void *meta, size_t meta_len);
/* META stays borrowed by OP; DATA too. SCRATCH (2 * 256 bytes, the caller's) takes the names. -EBADMSG when malformed. */
int op_decode(const void *meta, size_t meta_len, const void *data, size_t data_len, char scratch[512], struct op *op);

/* Lists of xattrs: encoded as u16 name length, name, u32 value length, value. */
void op_xattrs_add(struct enc *e, const char *name, const void *value, size_t len);
/* Steps through LIST: 1 = got one (name is copied into NAME), 0 = end. The decoder has checked the list. */
int op_xattrs_next(struct dec *list, char name[256], const void **value, size_t *len);
/* Entries of OP_R_DIR: u64 id, u8 type (S_IFMT >> 12), u8 name length, name. */
void op_entries_add(struct enc *e, uint64_t id, uint32_t type, const char *name);
int op_entries_next(struct dec *list, uint64_t *id, uint32_t *type, char name[256]);

#endif
