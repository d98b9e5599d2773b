/*
 * Records of REPLICA_LOCK: the bytes of a lock, a share, or a host on their way to other nodes (docs/protocol.md). Pure.
 *
 *	u8 REPLICA_VERSION   u8 kind   u8 set (1: there is now; 0: gone)   then
 *	LOCK     u8 lock kind   u8 mode   u16 node (0xffff: of the volume)   u64 id   u64 start   u64 end   u32 pid
 *	             of the volume: identity;   else: u64 key
 *	SHARE    u8 access   u8 deny   u64 id   identity
 *	HOST     16 local address   i32 state   16 address   u16 length, name
 *	identity = u32 svid   16 address   u16 length, name   u16 length, oh
 */
#ifndef NFSD_GLUE_LOCKREC_H
#define NFSD_GLUE_LOCKREC_H

#include "fs/base/codec.h"
#include "fs/lock.h"

enum {
	LOCK_NAME_MAX = 255,		/* bytes of a host's name, without NUL */
	LOCK_OH_MAX = 1024,		/* of an owner's opaque name: XDR netobj<1024> */
	LOCKREC_MAX = 1536,		/* of a record */
};
enum lockrec_kind { LOCKREC_LOCK = 1, LOCKREC_SHARE, LOCKREC_HOST };

struct lockrec {
	enum lockrec_kind kind;
	bool set;
	/* LOCK */
	uint32_t node;			/* 1..15, or LOCK_NODE_VOLUME */
	struct lock_range r;
	uint64_t key;			/* of a local program */
	/* LOCK, SHARE */
	uint64_t id;
	uint8_t access, deny;
	/* the volume's LOCK, SHARE */
	uint32_t svid;
	const void *oh;			/* borrowed */
	uint16_t oh_len;
	/* the same, HOST */
	unsigned char addr[16];		/* IPv6, or IPv4 mapped */
	char name[LOCK_NAME_MAX + 1];	/* 1..LOCK_NAME_MAX bytes */
	/* HOST */
	unsigned char local[16];
	int32_t state;
};

/* E's error tells whether it worked. */
void lockrec_encode(struct enc *e, const struct lockrec *r);
/* 0; -EBADMSG: no node would write that. OUT->oh points into P. */
int lockrec_decode(const void *p, size_t len, struct lockrec *out);

#endif
