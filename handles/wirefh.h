/*
 * The file handle that NFS clients get: the same bytes on every node of the volume.
 *
 *	0	u8	version, 1
 *	1	u8	0
 *	2	u16	export id
 *	4	u32	generation
 *	8	u64	id
 *	16	16	volume UUID
 *	32	u64	MAC: SipHash-2-4 over the bytes before it, keyed with the first 16 bytes of the volume's MAC key
 *
 * Little-endian. A client can't make a handle for an object, or an export, that it was not given; one of another volume is told apart from a
 * forged one, and both are counted.
 */
#ifndef HANDLES_WIREFH_H
#define HANDLES_WIREFH_H

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "handles/handles.h"

enum { WIREFH_SIZE = 40, WIREFH_MAX = 64 /* NFS3_FHSIZE */, WIREFH_KEY_LEN = 16, WIREFH_VERSION = 1 };

struct wirefh {
	uint16_t export_id;		/* never 0 */
	uint32_t gen;			/* of the object: compare it with attr.gen, -ESTALE when they differ */
	uint64_t id;
};

/* How handles of one volume are made and checked. */
struct wirefh_codec {
	unsigned char uuid[UUID_LEN];
	uint64_t key[2];
	_Atomic uint64_t malformed;	/* wrong length, version or padding */
	_Atomic uint64_t foreign;	/* of another volume */
	_Atomic uint64_t forged;	/* wrong MAC */
};

/* MAC_KEY: at least WIREFH_KEY_LEN bytes (struct state). */
void wirefh_init(struct wirefh_codec *w, const unsigned char uuid[UUID_LEN], const unsigned char *mac_key);
void wirefh_encode(const struct wirefh_codec *w, const struct wirefh *h, unsigned char out[WIREFH_SIZE]);
/* 0; -EINVAL: none of ours (malformed); -ESTALE: of another volume; -EBADMSG: forged. NFS says BADHANDLE, STALE, BADHANDLE. Takes the same time
 * wherever the MAC differs. */
int wirefh_decode(struct wirefh_codec *w, const void *p, size_t len, struct wirefh *out);

#endif
