/* RPC messages: see the header. The order of fields is RFC 5531's, sections 9 and 8.2; AUTH_SYS is its appendix A. */
#include "nfsd-glue/rpc_msg.h"

#include <errno.h>

#include "nfsd-glue/xdr.h"

enum { MSG_CALL = 0, MSG_REPLY = 1 };
enum { MSG_ACCEPTED = 0, MSG_DENIED = 1 };
enum { DENIED_RPC_MISMATCH = 0, DENIED_AUTH = 1 };
enum { NO_ID = UINT32_MAX };		/* setfsuid() and the like take it for "no change" */

/* ---- calls ---- */

/* The body of an AUTH_SYS credential: stamp, machine<255>, uid, gid, gids<16>. */
static int parse_sys(const unsigned char *p, size_t len, struct rpc_cred *c)
{
	struct xdr_in x = xdr_in(p, len);
	bool no_id;

	xdr_u32(&x);
	c->machine = (const char *)xdr_opaque(&x, RPC_MACHINE_MAX, &c->machine_len);
	c->uid = xdr_u32(&x);
	c->gid = xdr_u32(&x);
	c->ngroups = xdr_u32(&x);
	if (x.bad || c->ngroups > RPC_GROUPS_MAX)
		return -EBADMSG;
	no_id = c->uid == NO_ID || c->gid == NO_ID;
	for (unsigned i = 0; i < c->ngroups; i++) {
		c->groups[i] = xdr_u32(&x);
		no_id |= c->groups[i] == NO_ID;
	}
	return xdr_done(&x) && !no_id ? 0 : -EBADMSG;
}

static enum rpc_auth_stat parse_cred(struct xdr_in *x, struct rpc_cred *c)
{
	const unsigned char *body;
	uint32_t len;

	c->flavor = xdr_u32(x);
	c->uid = c->gid = 0;
	c->ngroups = 0;
	c->machine = NULL;
	c->machine_len = 0;
	body = xdr_opaque(x, RPC_AUTH_BODY_MAX, &len);
	if (!body)
		return RPC_AUTHSTAT_BADCRED;
	if (c->flavor == RPC_AUTH_NONE)
		return len == 0 ? RPC_AUTHSTAT_OK : RPC_AUTHSTAT_BADCRED;
	if (c->flavor == RPC_AUTH_SYS)
		return parse_sys(body, len, c) == 0 ? RPC_AUTHSTAT_OK : RPC_AUTHSTAT_BADCRED;
	return RPC_AUTHSTAT_REJECTEDCRED;
}

static enum rpc_auth_stat parse_verf(struct xdr_in *x)
{
	uint32_t flavor = xdr_u32(x), len;

	if (!xdr_opaque(x, RPC_AUTH_BODY_MAX, &len))
		return RPC_AUTHSTAT_BADVERF;
	return flavor == RPC_AUTH_NONE && len == 0 ? RPC_AUTHSTAT_OK : RPC_AUTHSTAT_BADVERF;
}

int rpc_header_parse(const unsigned char *p, size_t len, struct rpc_header *h, struct rpc_fault *fault)
{
	struct xdr_in x = xdr_in(p, len);
	uint32_t stat;

	fault->kind = RPC_FAULT_NONE;
	h->xid = xdr_u32(&x);
	if (xdr_u32(&x) != MSG_CALL || x.bad)
		return -EBADMSG;
	uint32_t version = xdr_u32(&x);
	if (!x.bad && version != RPC_VERSION) {
		*fault = (struct rpc_fault){ .kind = RPC_FAULT_RPC_MISMATCH };
		return 0;
	}
	h->prog = xdr_u32(&x);
	h->vers = xdr_u32(&x);
	h->proc = xdr_u32(&x);
	if (x.bad) {
		*fault = (struct rpc_fault){ .kind = RPC_FAULT_ACCEPT, .stat = RPC_ACCEPT_GARBAGE_ARGS };
		return 0;
	}
	stat = parse_cred(&x, &h->cred);
	if (stat == RPC_AUTHSTAT_OK)
		stat = parse_verf(&x);
	if (stat != RPC_AUTHSTAT_OK)
		*fault = (struct rpc_fault){ .kind = RPC_FAULT_AUTH, .stat = stat };
	h->header_len = (uint32_t)(len - x.left);
	return 0;
}

/* ---- answers ---- */

void rpc_accepted_encode(unsigned char out[RPC_ACCEPTED_LEN], uint32_t xid)
{
	struct xdr_out x = xdr_out(out, RPC_ACCEPTED_LEN);

	xdr_out_u32(&x, xid);
	xdr_out_u32(&x, MSG_REPLY);
	xdr_out_u32(&x, MSG_ACCEPTED);
	xdr_out_u32(&x, RPC_AUTH_NONE);
	xdr_out_u32(&x, 0);
	xdr_out_u32(&x, RPC_ACCEPT_SUCCESS);
}

static void encode_denied(struct xdr_out *x, const struct rpc_fault *f)
{
	xdr_out_u32(x, MSG_DENIED);
	if (f->kind == RPC_FAULT_AUTH) {
		xdr_out_u32(x, DENIED_AUTH);
		xdr_out_u32(x, f->stat);
	} else {
		xdr_out_u32(x, DENIED_RPC_MISMATCH);
		xdr_out_u32(x, RPC_VERSION);
		xdr_out_u32(x, RPC_VERSION);
	}
}

static void encode_refused(struct xdr_out *x, const struct rpc_fault *f)
{
	xdr_out_u32(x, MSG_ACCEPTED);
	xdr_out_u32(x, RPC_AUTH_NONE);
	xdr_out_u32(x, 0);
	xdr_out_u32(x, f->stat);
	if (f->stat == RPC_ACCEPT_PROG_MISMATCH) {
		xdr_out_u32(x, f->low);
		xdr_out_u32(x, f->high);
	}
}

size_t rpc_fault_encode(unsigned char out[RPC_FAULT_MAX], uint32_t xid, const struct rpc_fault *f)
{
	struct xdr_out x = xdr_out(out, RPC_FAULT_MAX);

	xdr_out_u32(&x, xid);
	xdr_out_u32(&x, MSG_REPLY);
	if (f->kind == RPC_FAULT_ACCEPT)
		encode_refused(&x, f);
	else
		encode_denied(&x, f);
	return x.len;
}

/* ---- our calls ---- */

static void encode_sys(struct xdr_out *x, const struct rpc_cred *c)
{
	uint32_t body = 4 + 4 + c->machine_len + (uint32_t)xdr_pad(c->machine_len) + 4 + 4 + 4 + 4 * c->ngroups;

	xdr_out_u32(x, RPC_AUTH_SYS);
	xdr_out_u32(x, body);
	xdr_out_u32(x, 0);
	xdr_out_opaque(x, c->machine, c->machine_len);
	xdr_out_u32(x, c->uid);
	xdr_out_u32(x, c->gid);
	xdr_out_u32(x, c->ngroups);
	for (unsigned i = 0; i < c->ngroups; i++)
		xdr_out_u32(x, c->groups[i]);
}

size_t rpc_call_encode(unsigned char *out, size_t cap, uint32_t xid, uint32_t prog, uint32_t vers, uint32_t proc, const struct rpc_cred *cred)
{
	struct xdr_out x = xdr_out(out, cap);

	xdr_out_u32(&x, xid);
	xdr_out_u32(&x, MSG_CALL);
	xdr_out_u32(&x, RPC_VERSION);
	xdr_out_u32(&x, prog);
	xdr_out_u32(&x, vers);
	xdr_out_u32(&x, proc);
	if (cred->flavor == RPC_AUTH_SYS) {
		encode_sys(&x, cred);
	} else {
		xdr_out_u32(&x, RPC_AUTH_NONE);
		xdr_out_u32(&x, 0);
	}
	xdr_out_u32(&x, RPC_AUTH_NONE);
	xdr_out_u32(&x, 0);
	return x.full ? 0 : x.len;
}

static int accept_error(uint32_t stat)
{
	switch (stat) {
	case RPC_ACCEPT_SUCCESS: return 0;
	case RPC_ACCEPT_PROG_UNAVAIL:
	case RPC_ACCEPT_PROG_MISMATCH:
	case RPC_ACCEPT_PROC_UNAVAIL: return -EPROTONOSUPPORT;
	default: return -EIO;
	}
}

int rpc_reply_parse(const unsigned char *p, size_t len, uint32_t xid, size_t *results)
{
	struct xdr_in x = xdr_in(p, len);
	uint32_t got = xdr_u32(&x), type = xdr_u32(&x), stat = xdr_u32(&x), verf_len;

	if (x.bad || got != xid || type != MSG_REPLY || stat > MSG_DENIED)
		return -EBADMSG;
	if (stat == MSG_DENIED)
		return -EACCES;
	xdr_u32(&x);
	xdr_opaque(&x, RPC_AUTH_BODY_MAX, &verf_len);
	stat = xdr_u32(&x);
	if (x.bad)
		return -EBADMSG;
	*results = len - x.left;
	return accept_error(stat);
}
