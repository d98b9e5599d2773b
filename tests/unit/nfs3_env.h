/*
 * NFS version 3 in one process, without a network: requests are handed to the program's handler, as the RPC server does, and the results looked at. Over the stacks of
 * pair.h: `a` is primary, its ops are applied on `b`; both have an NFS server with its tables. nfs_promote() makes b primary.
 */
#ifndef TESTS_UNIT_NFS3_ENV_H
#define TESTS_UNIT_NFS3_ENV_H

#include "pair.h"

#include <arpa/inet.h>

#include "nfsd-glue/nfs3_int.h"
#include "nfsd-glue/rpc_int.h"

enum { NFS_UNITS_GENERATION = 77, NFS_BUF = 4096 };

struct nfs_side {
	struct layer *top;
	struct interpose *ip;
	struct observers *observers;
	struct queue *q;		/* b: owned; a: the pair's */
	struct exports *exports;
	struct wirefh_codec handles;
	struct replay *replay;
	struct replica *replica;
	struct nfs3 *nfs3;
	struct rpc_program prog;
	unsigned settled, flushed;	/* calls of these callbacks */
};

struct nfs_env {
	struct pair p;
	struct nfs_side a, b;
	uint32_t xid;
	uid_t uid;			/* of the next calls */
	gid_t gid;
	const char *host;
};

/* An exported volume: whole to everybody; "sub" below /sub; "ro". */
static struct volume_conf nfs_conf(void)
{
	static struct volume_conf c;

	c = (struct volume_conf){ .nexports = 3 };
	for (unsigned i = 0; i < c.nexports; i++) {
		struct conf_export *e = &c.exports[i];
		*e = (struct conf_export){ .id = i + 1, .nnets = 1, .access = i == 2 ? CONF_ACCESS_RO : CONF_ACCESS_RW, .squash = CONF_SQUASH_NONE,
					   .anonuid = 65534, .anongid = 65534 };
		strcpy(e->name, i == 0 ? "all" : i == 1 ? "sub" : "ro");
		strcpy(e->path, i == 1 ? "/sub" : "/");
	}
	return c;
}

static void nfs_settle(void *arg) { ((struct nfs_side *)arg)->settled++; }
static void nfs_flush_range(void *arg, uint64_t id, uint64_t off, uint64_t len)
{
	(void)id, (void)off, (void)len;
	((struct nfs_side *)arg)->flushed++;
}

static void nfs_side_start(struct nfs_side *s, const struct volume_limits *limits)
{
	static const unsigned char key[16] = "a secret key....";
	const struct volume_conf conf = nfs_conf();
	struct replica_config rc = { .ip = s->ip, .queue = s->q };

	wirefh_init(&s->handles, (const unsigned char *)"0123456789abcdef", key);
	ck_assert_int_eq(exports_new(&conf, &s->exports), 0);
	ck_assert_int_eq(replay_new(0, &s->replay), 0);
	rc.replay = s->replay;
	ck_assert_int_eq(replica_new(&rc, &s->replica), 0);
	const struct nfs3_config nc = { .top = s->top, .observers = s->observers, .exports = s->exports, .handles = &s->handles, .replay = s->replay,
					.replica = s->replica, .limits = limits, .fsid = 0x1122334455667788, .generation = NFS_UNITS_GENERATION,
					.settle = nfs_settle, .flush_range = nfs_flush_range, .arg = s };
	ck_assert_int_eq(nfs3_new(&nc, &s->nfs3), 0);
	nfs3_program(s->nfs3, &s->prog);
}

static void nfs_side_stop(struct nfs_side *s)
{
	nfs3_free(s->nfs3);
	replica_free(s->replica);
	replay_free(s->replay);
	exports_free(s->exports);
}

static int nfs_open_epoch(void *arg)
{
	struct nfs_env *e = arg;
	struct op op = { .type = OP_EPOCH, .epoch = { .reign = 2, .node = 2, .tag = 8 } };
	uint64_t seq;

	return queue_append(e->b.q, &op, 0xffff, &seq);
}

static void nfs_restate(void *arg, const uint64_t *ids, unsigned n) { (void)arg, (void)ids, (void)n; }
static void nfs_flush_failed(void *arg, uint64_t id, int err) { (void)arg, (void)id, (void)err; }

static void nfs_start(struct nfs_env *e)
{
	*e = (struct nfs_env){ .xid = 1, .host = "10.0.0.1" };
	pair_start(&e->p);
	e->a = (struct nfs_side){ .top = e->p.top, .ip = e->p.ip, .observers = &e->p.oa, .q = e->p.q };
	ck_assert_int_eq(queue_new(8 << 20, &e->b.q), 0);
	const struct interpose_config ic = { .below = e->p.b.local, .locks = e->p.b.locks, .handles = e->p.b.h, .queue = e->b.q, .observers = &e->p.ob,
					     .durability = DURABILITY_COMMIT, .time_gran_ns = e->p.limits.time_gran_ns, .open_epoch = nfs_open_epoch,
					     .restate = nfs_restate, .flush_failed = nfs_flush_failed, .arg = e };
	ck_assert_int_eq(interpose_new(&ic, &e->b.ip), 0);
	e->b.top = interpose_layer(e->b.ip);
	e->b.observers = &e->p.ob;
	nfs_side_start(&e->a, &e->p.limits);
	nfs_side_start(&e->b, &e->p.limits);
	replica_follow(e->b.replica, e->p.ap);
	replica_promoted(e->a.replica);
	nfs3_role(e->a.nfs3, NFSD_PRIMARY);
}

/* a is gone, b has all that it streamed, and is primary. */
static inline void nfs_promote(struct nfs_env *e)
{
	ck_assert_int_eq(pair_settle(&e->p), 0);
	pair_unfollow(&e->p);
	interpose_set_writable(e->p.ip, false);
	nfs3_leaving(e->a.nfs3);
	nfs3_role(e->a.nfs3, NFSD_STANDBY);
	interpose_want_epoch(e->b.ip);
	interpose_set_writable(e->b.ip, true);
	replica_promoted(e->b.replica);
	nfs3_role(e->b.nfs3, NFSD_PRIMARY);
}

static void nfs_stop(struct nfs_env *e)
{
	pair_unfollow(&e->p);
	nfs_side_stop(&e->a);
	nfs_side_stop(&e->b);
	queue_stop(e->b.q);
	interpose_free(e->b.ip);
	queue_free(e->b.q);
	pair_stop(&e->p);
}

/* ---- calls ---- */

/* Arguments in the making, and results being read. */
struct nfs_args {
	unsigned char p[RPC_RECORD_MAX];
	size_t len;
};
struct nfs_res {
	enum rpc_verdict verdict;
	unsigned char p[RPC_RECORD_MAX];
	size_t len;
	struct xdr_in x;
	uint32_t status;
};
static struct nfs_args args;
static struct nfs_res res;

static inline void a_u32(uint32_t v)
{
	xdr_put32(args.p + args.len, v);
	args.len += 4;
}
static inline void a_u64(uint64_t v)
{
	a_u32((uint32_t)(v >> 32));
	a_u32((uint32_t)v);
}
static inline void a_bytes(const void *p, size_t len)
{
	a_u32((uint32_t)len);
	memcpy(args.p + args.len, p, len);
	memset(args.p + args.len + len, 0, xdr_pad(len));
	args.len += len + xdr_pad(len);
}
static inline void a_name(const char *s) { a_bytes(s, strlen(s)); }
/* Begins arguments with the handle of ID through export 1. */
static inline void a_fh_of(struct nfs_env *e, uint64_t id, uint16_t export_id)
{
	unsigned char fh[WIREFH_SIZE];
	const struct wirefh h = { .export_id = export_id, .gen = id == HANDLE_ROOT ? 0 : NFS_UNITS_GENERATION, .id = id };

	wirefh_encode(&e->a.handles, &h, fh);
	a_bytes(fh, sizeof fh);
}
static inline void a_begin(struct nfs_env *e, uint64_t id)
{
	args.len = 0;
	a_fh_of(e, id, 1);
}
/* sattr3 with a mode only; MODE -1: nothing. */
static inline void a_sattr(int mode)
{
	a_u32(mode >= 0);
	if (mode >= 0)
		a_u32((uint32_t)mode);
	for (int i = 0; i < 5; i++)
		a_u32(0);
}

/* One call of PROC, as XID, with what stands in args; results are in res. */
static enum rpc_verdict nfs_call_xid(struct nfs_env *e, struct nfs_side *s, uint32_t xid, uint32_t proc)
{
	static _Alignas(16) unsigned char scratch[RPC_SCRATCH_LEN], out[16 << 10];
	struct sockaddr_storage peer = { .ss_family = AF_INET };
	struct rpc_call c = { .xid = xid, .prog = NFS3_PROGRAM, .vers = NFS3_VERSION, .proc = proc, .peer = &peer, .local = &peer, .scratch = scratch,
			      .cred = { .flavor = RPC_AUTH_SYS, .uid = e->uid, .gid = e->gid } };
	unsigned char *copy = malloc(args.len ? args.len : 1);
	struct rpc_reply r;

	((struct sockaddr_in *)(void *)&peer)->sin_port = htons(700);
	ck_assert_int_eq(inet_pton(AF_INET, e->host, &((struct sockaddr_in *)(void *)&peer)->sin_addr), 1);
	memset(scratch, 0xa5, sizeof scratch);
	memcpy(copy, args.p, args.len);
	c.args = copy;
	c.args_len = args.len;
	rpc_reply_init(&r, out, sizeof out);
	res.verdict = s->prog.handle(s->prog.arg, &c, &r);
	ck_assert(!r.full);
	memcpy(res.p, r.p, r.len);
	res.len = r.len;
	if (r.data) {
		memcpy(res.p + res.len, r.data_p, r.data_len);
		memset(res.p + res.len + r.data_len, 0, xdr_pad(r.data_len));
		res.len += r.data_len + xdr_pad(r.data_len);
	}
	rpc_reply_end(&r);
	free(copy);
	res.x = xdr_in(res.p, res.len);
	res.status = res.verdict == RPC_REPLY && res.len >= 4 ? xdr_u32(&res.x) : UINT32_MAX;
	return res.verdict;
}

/* One call to the primary a, as a new one; its status. */
static uint32_t nfs_call(struct nfs_env *e, uint32_t proc)
{
	nfs_call_xid(e, &e->a, e->xid++, proc);
	return res.status;
}

#endif
