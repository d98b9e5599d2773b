/*
 * The wire: frames, and the messages of the control connection. docs/protocol.md has it byte for byte.
 *
 * Between each pair of nodes there are two TCP connections (TLS 1.3 with a pre-shared key unless `security = none`): *control* (heartbeats,
 * acknowledgements, decisions; always small) and, while one streams to the other, *stream* (ops, one direction). So a
 * heartbeat never queues behind data. The node with the higher number dials both.
 *
 * Frame: 40-byte header, meta, data. Little-endian.
 *   0  u32 magic "TDM1"    4  u8 version (1)   5  u8 kind        6  u16 flags
 *   8  u32 meta length    12  u32 data length  16 u32 raw data length (before compression)
 *  20  u32 zero           24  u64 seq          32 u64 XXH3-64 of header (this field zero), meta, data
 */
#ifndef MIRROR_WIRE_H
#define MIRROR_WIRE_H

#include "fs/base/blk.h"
#include "fs/local.h"
#include "mirror/op.h"

enum {
	FRAME_HEADER_LEN = 40,
	FRAME_MAGIC = 0x314d4454,
	FRAME_VERSION = 1,
	FRAME_CONTROL_META_MAX = 64 << 10,
	FRAME_ZSTD = 1 << 0,		/* flags: the data are one zstd frame */
	LINEAGE_MAX = 64,
	REASON_MAX = 200,
	STATE_PART_MAX = 60 << 10,	/* bytes in a FRAME_STATE */
};

enum frame_kind {
	FRAME_HELLO = 1, FRAME_HEARTBEAT, FRAME_ACK, FRAME_BARRIER, FRAME_OPEN, FRAME_OPENED, FRAME_OUTDATE, FRAME_OUTDATED, FRAME_RECORD, FRAME_RECORDED,
	FRAME_LEVEL, FRAME_LEVELLED, FRAME_GOODBYE, FRAME_REPORT, FRAME_JOIN, FRAME_JOINED, FRAME_SWITCHOVER, FRAME_SWITCHED, FRAME_TAKE_BACK, FRAME_TAKEN_BACK,
	FRAME_STATE_ASK, FRAME_STATE,
	FRAME_CONTROL_LAST = FRAME_STATE,
	FRAME_OP = 64,			/* stream only */
};

struct frame_header {
	uint8_t kind;
	uint16_t flags;
	uint32_t meta_len, data_len, raw_len;
	uint64_t seq, sum;
};
void frame_header_encode(unsigned char out[FRAME_HEADER_LEN], const struct frame_header *h);
/* Checks magic, version, kind and lengths (against the maxima of the kind). -EBADMSG, -EPROTONOSUPPORT. */
int frame_header_decode(const unsigned char in[FRAME_HEADER_LEN], struct frame_header *h);
uint64_t frame_checksum(const struct frame_header *h, const void *meta, const void *data);

/* ---- control messages ---- */

struct lineage_entry { struct epoch epoch; uint64_t last_lsn; };	/* the newest entry's last_lsn grows; UINT64_MAX = open */

enum hello_kind { HELLO_CONTROL = 1, HELLO_STREAM, HELLO_JOIN };
enum node_flags {			/* as a node says of itself */
	NODE_PRIMARY = 1 << 0,
	NODE_OUTDATED = 1 << 1,		/* recorded, or presumed since start */
	NODE_INCONSISTENT = 1 << 2,
	NODE_UNKNOWN = 1 << 3,		/* marks of state and data disagree */
	NODE_HANDED_OVER = 1 << 4,	/* was primary, gave the role up in order */
	NODE_NEW = 1 << 5,		/* has no epoch yet */
	NODE_LEVEL = 1 << 6,		/* was level when it last heard from its primary */
	NODE_TAIL = 1 << 7,		/* was primary and may hold ops that nobody received */
	NODE_DISCARD = 1 << 8,		/* a person said: follow the other, keep my versions in lost/ */
};

enum node_feature {
	FEATURE_STATE = 1 << 0,		/* answers FRAME_STATE_ASK */
};

struct hello {
	uint8_t kind;			/* enum hello_kind */
	uint16_t version_min, version_max;
	uint64_t features;		/* enum node_feature */
	unsigned char uuid[UUID_LEN];
	uint8_t node;
	uint64_t instance;		/* random, one per life of a daemon */
	uint64_t incarnation;		/* of the data */
	uint64_t token;			/* HELLO_STREAM: from FRAME_OPEN */
	uint32_t flags;			/* enum node_flags */
	struct epoch epoch;		/* newest that it knows */
	uint64_t lsn;			/* last applied there */
	uint64_t from_instance;		/* the primary's daemon that it last followed, and */
	uint64_t from_seq;		/* the last seq that it applied from it */
	uint16_t sync_set;		/* recorded: bit n = node n */
	uint64_t counters[NODE_MAX + 1];	/* id ranges */
	struct volume_limits limits;
	uint64_t free_bytes, free_inodes;
	uint32_t nlineage;
	struct lineage_entry lineage[LINEAGE_MAX];	/* oldest first */
};
struct heartbeat {
	uint32_t flags;			/* enum node_flags */
	struct epoch epoch;
	uint64_t lsn, seq;
	uint64_t free_bytes, free_inodes;
	uint64_t sent_ns;		/* sender's clock, echoed in echo_ns of the next heartbeat back */
	uint64_t echo_ns;
};
struct ack { uint64_t recv_seq, applied_seq, bytes; };	/* bytes: received on this stream, for progress */
struct barrier { uint64_t seq; int32_t err; };
enum open_mode { OPEN_STREAM = 1, OPEN_FULL };	/* go on from from_seq, or a full comparison */
struct open_msg {
	uint64_t token, from_seq;
	uint8_t mode;
	struct epoch epoch;
	uint64_t base_seq;
	bool keep_lost;
	uint64_t at_instance, at_seq;	/* OPEN_STREAM: from_seq is that place in this daemon's order; the old primary's, when a handover joins the two */
};
struct opened_msg { uint64_t token; int32_t err; char reason[REASON_MAX]; };
struct record_msg { uint64_t id; uint16_t sync_set; struct epoch epoch; uint64_t prev_lsn; };
struct record_done { uint64_t id; int32_t err; };
struct switchover_msg { uint64_t id; uint8_t node; };		/* to the primary: NODE shall be primary, 0 = the one that is level */
struct switched_msg { uint64_t id; int32_t err; char reason[REASON_MAX]; };	/* its answer */
struct state_msg { uint64_t id; const void *data; size_t len; };	/* DATA: borrowed (decoded: from the frame); nothing: there is none */
struct goodbye { uint8_t handover; char reason[REASON_MAX]; };
enum report_kind { REPORT_DIRTY = 1, REPORT_MISSING, REPORT_BUILT, REPORT_XATTR, REPORT_DATA, REPORT_ENDED };
struct report { uint8_t kind; uint64_t seq, id, parent; char name[256]; uint64_t off, len, bits; };
struct join_msg { uint8_t node; struct volume_limits limits; };
struct joined_msg { int32_t err; char reason[REASON_MAX]; unsigned char uuid[UUID_LEN]; uint32_t generation; unsigned char dir_key[16], mac_key[32];
	struct volume_limits limits; uint16_t members; uint64_t counters[NODE_MAX + 1]; };

/* One control message of any kind. */
struct msg {
	uint8_t kind;			/* enum frame_kind */
	union {
		struct hello hello; struct heartbeat heartbeat; struct ack ack; struct barrier barrier; struct open_msg open; struct opened_msg opened;
		struct record_msg record; struct record_done record_done;	/* FRAME_RECORDED, OUTDATED, LEVELLED, TAKEN_BACK: record_done */
		struct switchover_msg switchover; struct switched_msg switched;
		struct state_msg state; struct goodbye goodbye; struct report report; struct join_msg join; struct joined_msg joined;
		uint64_t id;		/* FRAME_OUTDATE, FRAME_LEVEL, FRAME_STATE_ASK: request number; FRAME_TAKE_BACK: number of the handover */
	};
};
/* Appends the meta of M. 0 or -ENOMEM. */
int msg_encode(struct enc *e, const struct msg *m);
/* Appends a whole frame with M in it. 0 or -ENOMEM. */
int msg_frame(struct enc *e, const struct msg *m);
/* -EBADMSG when malformed in any way; strings are bounded and terminated. */
int msg_decode(uint8_t kind, const void *meta, size_t len, struct msg *m);

#endif
