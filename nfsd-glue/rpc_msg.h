/*
 * ONC RPC version 2 messages (RFC 5531): headers of calls taken apart, answers put together. Pure: no socket, no memory of its own.
 *
 *   call:   xid, CALL=0, rpcvers=2, prog, vers, proc, cred{flavor, opaque<400>}, verf{flavor, opaque<400>}, arguments
 *   reply:  xid, REPLY=1, ACCEPTED=0, verf{NONE, 0}, stat, [low, high | results]
 *           xid, REPLY=1, DENIED=1, RPC_MISMATCH=0, low, high | AUTH_ERROR=1, why
 *
 * What is wrong with a header is answered as the RFC has it as long as there is an xid to answer to; the order of checks is: RPC version, credential,
 * verifier, then (by the server) program, version, procedure.
 */
#ifndef NFSD_GLUE_RPC_MSG_H
#define NFSD_GLUE_RPC_MSG_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

enum {
	RPC_VERSION = 2,
	RPC_AUTH_BODY_MAX = 400,
	RPC_MACHINE_MAX = 255,
	RPC_GROUPS_MAX = 16,
	RPC_MARK_LEN = 4,			/* record mark: bit 31 = last fragment, else length */
	RPC_ACCEPTED_LEN = 24,			/* an accepted reply's header */
	RPC_FAULT_MAX = RPC_ACCEPTED_LEN + 8,	/* the longest answer that says what was wrong */
};

enum rpc_flavor { RPC_AUTH_NONE = 0, RPC_AUTH_SYS = 1 };

enum rpc_accept_stat {
	RPC_ACCEPT_SUCCESS = 0,
	RPC_ACCEPT_PROG_UNAVAIL = 1,
	RPC_ACCEPT_PROG_MISMATCH = 2,
	RPC_ACCEPT_PROC_UNAVAIL = 3,
	RPC_ACCEPT_GARBAGE_ARGS = 4,
	RPC_ACCEPT_SYSTEM_ERR = 5,
};

enum rpc_auth_stat {
	RPC_AUTHSTAT_OK = 0,
	RPC_AUTHSTAT_BADCRED = 1,
	RPC_AUTHSTAT_REJECTEDCRED = 2,
	RPC_AUTHSTAT_BADVERF = 3,
	RPC_AUTHSTAT_REJECTEDVERF = 4,
	RPC_AUTHSTAT_TOOWEAK = 5,
};

struct rpc_cred {
	uint32_t flavor;			/* RPC_AUTH_NONE: all else is zero; RPC_AUTH_SYS */
	uid_t uid;				/* never (uid_t)-1; the same goes for gid and groups */
	gid_t gid;
	unsigned ngroups;
	gid_t groups[RPC_GROUPS_MAX];
	const char *machine;			/* within the record, not terminated, anything may stand in it */
	uint32_t machine_len;
};

struct rpc_header {
	uint32_t xid, prog, vers, proc;
	struct rpc_cred cred;
	uint32_t header_len;			/* the arguments begin here; a multiple of 4 */
};

/* What to answer instead of results. */
struct rpc_fault {
	enum { RPC_FAULT_NONE, RPC_FAULT_RPC_MISMATCH, RPC_FAULT_AUTH, RPC_FAULT_ACCEPT } kind;
	uint32_t stat;				/* FAULT_AUTH: enum rpc_auth_stat; FAULT_ACCEPT: enum rpc_accept_stat, not SUCCESS */
	uint32_t low, high;			/* PROG_MISMATCH */
};

/* Takes apart the header of the call in P[0..LEN). 0 with *FAULT: KIND is NONE when H is whole, else only H->xid is valid and the fault is to be answered.
 * -EBADMSG: not a call at all, nothing can be answered (close the connection). */
int rpc_header_parse(const unsigned char *p, size_t len, struct rpc_header *h, struct rpc_fault *fault);

/* The header of an accepted, successful reply. */
void rpc_accepted_encode(unsigned char out[RPC_ACCEPTED_LEN], uint32_t xid);
/* A whole reply that says what was wrong; returns its length. */
size_t rpc_fault_encode(unsigned char out[RPC_FAULT_MAX], uint32_t xid, const struct rpc_fault *f);

/* ---- the other side: our calls ---- */

/* Writes a call's header to OUT (CAP bytes): AUTH_SYS when CRED's flavor says so. Returns its length, 0 when it doesn't fit. */
size_t rpc_call_encode(unsigned char *out, size_t cap, uint32_t xid, uint32_t prog, uint32_t vers, uint32_t proc, const struct rpc_cred *cred);
/* Takes a reply apart. 0: results begin at *RESULTS; -EBADMSG: no reply to XID, or torn; -EPROTONOSUPPORT: program, version or procedure isn't there;
 * -EACCES: denied; -EIO: the other side failed or didn't understand the arguments. */
int rpc_reply_parse(const unsigned char *p, size_t len, uint32_t xid, size_t *results);

#endif
