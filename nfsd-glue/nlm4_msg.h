/*
 * Arguments and results of NLM version 4 (X/Open XNFS, chapter 14, with RFC 1813's 64-bit changes), in XDR. Pure and bounded: a message that is decoded
 * is whole, has nothing behind it, and every length in it is within its maximum.
 *
 * Coders of our own: libnfs takes an owner's opaque name for a C string, so that names that differ behind a NUL would be one owner; it has no SHARE.
 */
#ifndef NFSD_GLUE_NLM4_MSG_H
#define NFSD_GLUE_NLM4_MSG_H

#include "fs/lock.h"
#include "nfsd-glue/lockrec.h"
#include "nfsd-glue/xdr.h"

enum { NLM4_OPAQUE_MAX = 1024 /* netobj<1024> */, NLM4_CALLER_MAX = 1024 /* LM_MAXSTRLEN */, NLM4_FH_MAX = 64 };

enum nlm4_stat {
	NLM4_GRANTED, NLM4_DENIED, NLM4_DENIED_NOLOCKS, NLM4_BLOCKED, NLM4_DENIED_GRACE_PERIOD, NLM4_DEADLCK, NLM4_ROFS, NLM4_STALE_FH, NLM4_FBIG, NLM4_FAILED,
};

enum nlm4_proc {
	NLM4_NULL, NLM4_TEST, NLM4_LOCK, NLM4_CANCEL, NLM4_UNLOCK, NLM4_GRANTED_CALL,
	NLM4_TEST_MSG, NLM4_LOCK_MSG, NLM4_CANCEL_MSG, NLM4_UNLOCK_MSG, NLM4_GRANTED_MSG,
	NLM4_TEST_RES, NLM4_LOCK_RES, NLM4_CANCEL_RES, NLM4_UNLOCK_RES, NLM4_GRANTED_RES,
	NLM4_SHARE = 20, NLM4_UNSHARE, NLM4_NM_LOCK, NLM4_FREE_ALL,
};

/* netobj; borrowed from the message. */
struct nlm4_bytes { const unsigned char *p; uint32_t len; };

/* Arguments of all procedures; those that a procedure hasn't are zero. */
struct nlm4_args {
	struct nlm4_bytes cookie;
	bool block, exclusive, reclaim;
	int32_t state;
	struct nlm4_bytes caller, fh, oh;
	uint32_t svid;
	uint64_t offset, len;
	uint32_t mode, access;		/* SHARE: what is denied, what is wanted */
};
/* PROC is a request's, or FREE_ALL (caller and state). -EBADMSG. */
int nlm4_args_decode(uint32_t proc, const void *p, size_t len, struct nlm4_args *out);
/* A *_RES: only cookie and status matter to a server. */
int nlm4_res_decode(uint32_t proc, const void *p, size_t len, struct nlm4_bytes *cookie, uint32_t *stat);

/* OFFSET, LEN of an exclusive or shared lock; LEN 0 = to the end. -EFBIG: beyond 2^64 - 1. */
int nlm4_range(const struct nlm4_args *a, struct lock_range *out);
/* The same backwards. */
void nlm4_range_out(const struct lock_range *r, uint64_t *offset, uint64_t *len);

/* Results. HOLDER NULL: none; OH NULL: empty. */
struct nlm4_holder { bool exclusive; uint32_t svid; struct nlm4_bytes oh; uint64_t offset, len; };
void nlm4_stat_encode(struct xdr_out *x, struct nlm4_bytes cookie, enum nlm4_stat s);
void nlm4_test_encode(struct xdr_out *x, struct nlm4_bytes cookie, enum nlm4_stat s, const struct nlm4_holder *h);	/* H: when DENIED */
void nlm4_share_encode(struct xdr_out *x, struct nlm4_bytes cookie, enum nlm4_stat s);
enum { NLM4_RES_MAX = 2 * (4 + NLM4_OPAQUE_MAX) + 64 };

/* GRANTED's arguments. */
void nlm4_granted_encode(struct xdr_out *x, struct nlm4_bytes cookie, const struct nlm4_args *a);
enum { NLM4_GRANTED_MAX = 3 * (4 + NLM4_OPAQUE_MAX) + NLM4_FH_MAX + 64 };

#endif
