/*
 * NFS version 3: life, roles, errors, dispatch, and what all changes share.
 *
 * A change: handle -> role -> duplicate request cache -> the procedure -> the layers, which call before() and after() under the objects' locks; after()
 * makes the answer. What fails before the layers were asked is answered, too, and (where asking again could give another answer) remembered by an
 * attachment of its own. A change that was made but could not be confirmed because this node lost the role gets no answer here: the connection is cut, and
 * the client asks the new primary, which has the answer if it has the change.
 *
 * The write verifier of an unstable WRITE is taken before it is written, that of a COMMIT after it is flushed: whatever is lost between, they differ.
 */
#include "nfsd-glue/nfs3_int.h"

#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/random.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "nfsd-glue/replay_call.h"

/* Changes when positions of entries mean something else: then cookies of before are refused. */
static const uint64_t COOKIE_VERF = 0x74616e64656d3031;

/* ---- errors ---- */

static const struct { int err; uint32_t status; } statuses[] = {
	{ EPERM, S_PERM },	    { ENOENT, S_NOENT },     { EIO, S_IO },		  { ENXIO, S_NXIO },	     { EACCES, S_ACCES },
	{ EEXIST, S_EXIST },	    { EXDEV, S_XDEV },	     { ENODEV, S_NODEV },	  { ENOTDIR, S_NOTDIR },     { EISDIR, S_ISDIR },
	{ EINVAL, S_INVAL },	    { EFBIG, S_FBIG },	     { ENOSPC, S_NOSPC },	  { EROFS, S_ROFS },	     { EMLINK, S_MLINK },
	{ ENAMETOOLONG, S_NAMETOOLONG }, { ENOTEMPTY, S_NOTEMPTY }, { EDQUOT, S_DQUOT },  { ESTALE, S_STALE },	     { EBADMSG, S_BADHANDLE },
	{ ECANCELED, S_NOT_SYNC },  { EOPNOTSUPP, S_NOTSUPP }, { ELOOP, S_INVAL },	  { EAGAIN, S_JUKEBOX },     { ENOMEM, S_JUKEBOX },
	{ EMFILE, S_JUKEBOX },	    { ENFILE, S_JUKEBOX },   { EBUSY, S_JUKEBOX },	  { ETXTBSY, S_ACCES },	     { EOVERFLOW, S_SERVERFAULT },
	{ ETIMEDOUT, S_JUKEBOX },   { ESHUTDOWN, S_JUKEBOX },
};

uint32_t nfs3_status_of(int64_t r)
{
	if (r >= 0)
		return S_OK;
	for (size_t i = 0; i < ARRAY_LEN(statuses); i++)
		if (statuses[i].err == -r)
			return statuses[i].status;
	return S_IO;
}

/* Would the same call get the same answer whenever it is made? Then nobody has to remember it. */
static bool timeless(uint32_t status)
{
	switch (status) {
	case S_OK:
	case S_INVAL:
	case S_NAMETOOLONG:
	case S_BADHANDLE:
	case S_STALE:
	case S_NOTSUPP:
	case S_BADTYPE:
	case S_ROFS:
	case S_JUKEBOX:
	case S_SERVERFAULT:
		return true;
	default:
		return false;
	}
}

/* ---- the role ---- */

static void new_verifier(struct nfs3 *s)
{
	uint64_t v;

	if (getrandom(&v, sizeof v, 0) != sizeof v)
		v = clock_mono_ns() ^ atomic_load(&s->verf) * 0x9e3779b97f4a7c15u;
	atomic_store(&s->verf, v);
}

uint64_t nfs3_verf(struct nfs3 *s) { return atomic_load(&s->verf); }
void nfs3_flush_failed(struct nfs3 *s) { new_verifier(s); }

bool nfs3_leaving(struct nfs3 *s)
{
	auto_lock(&s->role_mu);
	if (!s->held)
		return false;
	atomic_store(&s->role, NFSD_CHANGING);
	atomic_fetch_add(&s->reign, 1);
	pthread_cond_broadcast(&s->role_changed);
	return true;
}

void nfs3_role(struct nfs3 *s, enum nfsd_role role)
{
	pthread_mutex_lock(&s->role_mu);
	if (role == NFSD_PRIMARY && !s->held) {
		new_verifier(s);
		if (s->cfg.replay)
			replay_reveal(s->cfg.replay);
	}
	if (role != NFSD_CHANGING)
		s->held = role == NFSD_PRIMARY;
	atomic_store(&s->role, role);
	pthread_cond_broadcast(&s->role_changed);
	pthread_mutex_unlock(&s->role_mu);
	if (role == NFSD_STANDBY)
		files_close_idle(s->files);
}

/* Waits a moment for the end of a change of role; it isn't over when that returns CHANGING. */
static int settled_role(struct nfs3 *s, uint64_t reign)
{
	struct timespec until = clock_mono_after_ms(NFS3_ROLE_WAIT_MS);
	int r = 0;

	auto_lock(&s->role_mu);
	if (s->waiters >= NFS3_ROLE_WAITERS)
		return atomic_load(&s->role);
	s->waiters++;
	while (!r && atomic_load(&s->role) == NFSD_CHANGING && atomic_load(&s->reign) == reign)
		r = pthread_cond_timedwait(&s->role_changed, &s->role_mu, &until);
	s->waiters--;
	return atomic_load(&s->role);
}

static int gate(struct nfs3_req *q)
{
	struct nfs3 *s = q->s;
	int role = atomic_load(&s->role);

	if (role == NFSD_CHANGING)
		role = settled_role(s, q->reign);
	if (atomic_load(&s->reign) != q->reign)
		return S_DROP;		/* the connection is being cut */
	return role == NFSD_PRIMARY ? S_OK : role == NFSD_CHANGING ? S_JUKEBOX : S_ROFS;
}

/* A change was refused. */
static int role_lost(struct nfs3_req *q, int status)
{
	int st = gate(q);

	return st == S_OK ? status : st;
}

/* ---- what a request is about ---- */

static void caller(struct nfs3_req *q)
{
	const struct rpc_cred *c = &q->rc->cred;

	q->cred.uid = c->uid;
	q->cred.gid = c->gid;
	q->cred.ngroups = c->ngroups < NFS_GROUPS_MAX ? c->ngroups : NFS_GROUPS_MAX;
	memcpy(q->cred.groups, c->groups, q->cred.ngroups * sizeof c->groups[0]);
	exports_squash(&q->rights, c->flavor == RPC_AUTH_NONE, &q->cred);
	q->c = perm_call(&q->cred);
}

int nfs3_object(struct nfs3_req *q, const struct nfs3_fh *fh, struct nfs3_obj *out)
{
	struct nfs3 *s = q->s;
	struct wirefh h;
	int r = wirefh_decode(s->cfg.handles, fh->p, fh->len, &h);

	if (r)
		return r == -ESTALE ? S_STALE : S_BADHANDLE;
	if (h.gen != (h.id == HANDLE_ROOT ? 0 : s->cfg.generation) || !id_valid(h.id))
		return S_STALE;
	*out = (struct nfs3_obj){ h.id, h.export_id };
	if (out != &q->obj)
		return h.export_id == q->obj.export_id ? S_OK : S_XDEV;
	r = exports_rights(s->cfg.exports, h.export_id, q->rc->peer, &q->rights);
	if (r)
		return (int)nfs3_status_of(r);
	caller(q);
	return S_OK;
}

int nfs3_getattr(struct nfs3_req *q, uint64_t id, struct file *f, struct nfs3_attr *out)
{
	struct layer *l = nfs3_top(q);
	struct call c = { .origin = ORIGIN_NFS };
	int r = l->ops->getattr(l, &c, id, f, &out->a);

	if (!r && !out->a.nlink)
		r = -ESTALE;
	out->set = !r;
	return (int)nfs3_status_of(r);
}

int nfs3_may(struct nfs3_req *q, uint64_t id, struct file *f, struct nfs3_attr *a, unsigned want)
{
	int st = a->set ? S_OK : nfs3_getattr(q, id, f, a);

	return st ? st : (int)nfs3_status_of(perm_check(nfs3_top(q), &q->c, &a->a, want));
}

int nfs3_dir(struct nfs3_req *q, uint64_t id, struct nfs3_attr *a, unsigned want)
{
	int st = nfs3_getattr(q, id, NULL, a);

	if (st)
		return st;
	if (!S_ISDIR(a->a.mode))
		return S_NOTDIR;
	return want ? (int)nfs3_status_of(perm_check(nfs3_top(q), &q->c, &a->a, want)) : S_OK;
}

void nfs3_flush_range(struct nfs3_req *q, uint64_t id, uint64_t off, uint64_t len)
{
	const struct nfs3_config *c = &q->s->cfg;

	if (c->flush_range)
		c->flush_range(c->arg, id, off, len);
}

/* ---- a change ---- */

static void before(struct call *c)
{
	struct nfs3_req *q = c->hook_arg;

	for (unsigned i = 0; i < ARRAY_LEN(q->watch); i++)
		if (q->watch[i] && !q->pre[i].set)
			nfs3_getattr(q, q->watch[i], i ? NULL : q->file, &q->pre[i]);
}

static void make_result(struct nfs3_req *q, uint32_t status)
{
	q->out = xdr_out(q->result, sizeof q->result);
	q->proc->encode(q, status);
}

static bool lazy(const struct nfs3_req *q) { return q->proc->kind == KIND_CHANGE_LAZY; }

static void after(struct call *c, ssize_t r, const struct effect *e)
{
	struct nfs3_req *q = c->hook_arg;
	bool done = r >= 0 && e;

	if (q->retries_exist && r == -EEXIST)
		return;
	if (done)
		q->attr = (struct nfs3_attr){ true, e->attr };
	for (unsigned i = 0; i < ARRAY_LEN(q->watch); i++) {
		if (!q->watch[i])
			continue;
		if (done && q->after_sets_post && !i)
			q->post[i] = q->attr;
		else
			nfs3_getattr(q, q->watch[i], i ? NULL : q->file, &q->post[i]);
	}
	q->count = r >= 0 ? (uint32_t)r : 0;
	q->after_status = nfs3_status_of(r);
	q->applied |= r >= 0;
	q->answered = true;
	make_result(q, q->after_status);
	if (q->s->cfg.replica && (q->after_status == S_OK || !timeless(q->after_status)))
		replica_reply_attach(q->s->cfg.replica, c, &q->key, q->result, q->out.len, lazy(q), q->record);
}

void nfs3_arm(struct nfs3_req *q, uint64_t w0, uint64_t w1)
{
	q->watch[0] = w0;
	q->watch[1] = w1;
	q->c.stable = true;
	q->c.before = before;
	q->c.after = after;
	q->c.hook_arg = q;
	q->c.attach_len = 0;
	q->answered = false;
}

/*
 * The change is made here, in part at least, and nobody can say whether it stays: the role was lost before it was confirmed, or the disk failed. An answer that
 * made the client try again as something new (JUKEBOX, ROFS) would do it twice. So a client of a node that isn't primary any more hears nothing; it repeats the
 * call, as the same, where either the change and its answer are, or neither. On a node that stays primary it is an error, and no answer is remembered.
 */
static int unsure(struct nfs3_req *q, int64_t r)
{
	struct nfs3 *s = q->s;
	bool primary = r != -EROFS && atomic_load(&s->role) == NFSD_PRIMARY && atomic_load(&s->reign) == q->reign;

	new_verifier(s);
	q->answered = false;
	q->unsure = true;
	return primary ? (int)nfs3_status_of(r) : S_DROP;
}

int nfs3_changed(struct nfs3_req *q, int64_t r)
{
	const struct nfs3_config *c = &q->s->cfg;
	bool refused = r < 0 && !q->answered;

	if (c->settle)
		c->settle(c->arg);
	if (refused && (r != -EROFS || !q->applied))
		return r == -EROFS ? role_lost(q, S_JUKEBOX) : (int)nfs3_status_of(r);
	return refused || (r < 0 && q->after_status == S_OK) ? unsure(q, r) : (int)q->after_status;
}

/* ---- dispatch ---- */

static const struct nfs3_fh *second(const struct nfs3_req *q) { return q->a.fh2.p ? &q->a.fh2 : NULL; }

/* Failures tell what is there now, as far as it can be had. */
static void fill_for_failure(struct nfs3_req *q)
{
	if (q->obj.id && !q->post[0].set)
		nfs3_getattr(q, q->obj.id, NULL, &q->post[0]);
	if (q->dir2.id && !q->post[1].set)
		nfs3_getattr(q, q->dir2.id, NULL, &q->post[1]);
	q->attr = q->post[0];
}

static enum rpc_verdict answer(struct nfs3_req *q, int st)
{
	if (st == S_DROP)
		return RPC_DROP;
	if (q->proc->direct && st == S_OK)
		return RPC_REPLY;
	if (!q->answered) {
		if (st)
			fill_for_failure(q);
		make_result(q, (uint32_t)st);
	}
	rpc_reply_clear(q->rr);
	rpc_reply_raw(q->rr, q->result, q->out.len);
	return RPC_REPLY;
}

/* After a change: its answer is in force, or the call leaves no trace. */
static int remember(struct nfs3_req *q, int st)
{
	struct nfs3 *s = q->s;

	if (!s->cfg.replay)
		return st;
	if (q->unsure) {
		replay_withhold(s->cfg.replay, &q->key);
		return st;
	}
	if (st >= 0 && !q->answered && !timeless((uint32_t)st)) {
		fill_for_failure(q);
		make_result(q, (uint32_t)st);
		q->answered = true;
		if (replica_reply_alone(s->cfg.replica, &q->key, q->result, q->out.len, lazy(q))) {
			q->answered = false;	/* not primary: forgotten already */
			return role_lost(q, S_JUKEBOX);
		}
	}
	if ((st >= 0 && q->answered) || st == S_DROP)	/* dropped: made perhaps, and in the order; then its answer is known and stays */
		replay_sent(s->cfg.replay, &q->key);
	else
		replay_forget(s->cfg.replay, &q->key);
	return st;
}

static enum rpc_verdict change(struct nfs3_req *q)
{
	enum rpc_verdict v;

	if (q->s->cfg.replay && replay_call(q->s->cfg.replay, q->rc, q->rr, &q->key, &v))
		return v;
	return answer(q, remember(q, q->rights.writable ? q->proc->fn(q) : S_ROFS));
}

static int objects(struct nfs3_req *q)
{
	int st = nfs3_object(q, &q->a.fh, &q->obj);

	return st || !second(q) ? st : nfs3_object(q, second(q), &q->dir2);
}

static enum rpc_verdict serve(struct nfs3_req *q)
{
	int r = nfs3_args_decode(q->rc->proc, q->rc->args, q->rc->args_len, &q->a);
	int st;

	if (r == -EBADMSG)
		return RPC_GARBAGE_ARGS;
	if (!q->proc->shape[0])
		return answer(q, q->proc->fn(q));
	st = objects(q);
	if (!st && r)
		st = (int)nfs3_status_of(r);
	if (!st && q->proc->kind != KIND_READ)
		st = gate(q);
	if (st)
		return answer(q, st);
	return q->proc->kind >= KIND_CHANGE ? change(q) : answer(q, q->proc->fn(q));
}

static enum rpc_verdict handle(void *arg, struct rpc_call *c, struct rpc_reply *r)
{
	struct nfs3_req *q = c->scratch;

	_Static_assert(sizeof *q <= RPC_SCRATCH_LEN, "a request fits into the scratch memory");
	memset(q, 0, offsetof(struct nfs3_req, result));
	q->s = arg;
	q->rc = c;
	q->rr = r;
	q->proc = &nfs3_procs[c->proc];
	q->reign = atomic_load(&q->s->reign);
	return serve(q);
}

static enum rpc_speed speed(void *arg, const struct rpc_call *c)
{
	(void)arg;
	return nfs3_procs[c->proc].speed;
}

void nfs3_program(struct nfs3 *s, struct rpc_program *out)
{
	*out = (struct rpc_program){ .prog = NFS3_PROGRAM, .vers_low = NFS3_VERSION, .vers_high = NFS3_VERSION, .nprocs = NFS3_PROCS,
				     .handle = handle, .speed = speed, .arg = s };
}

/* ---- answers ---- */

static void encode_status(struct nfs3_req *q, uint32_t st) { xdr_out_u32(&q->out, st); }

static void encode_null(struct nfs3_req *q, uint32_t st)
{
	(void)q, (void)st;
}

static void encode_getattr(struct nfs3_req *q, uint32_t st)
{
	encode_status(q, st);
	if (!st)
		nfs3_out_fattr(q->s, &q->out, &q->attr.a);
}

static void encode_lookup(struct nfs3_req *q, uint32_t st)
{
	encode_status(q, st);
	if (!st) {
		nfs3_out_fh(q->s, &q->out, q->obj.export_id, &q->attr.a);
		nfs3_out_attr(q->s, &q->out, &q->attr);
	}
	nfs3_out_attr(q->s, &q->out, &q->post[0]);
}

static void encode_access(struct nfs3_req *q, uint32_t st)
{
	encode_status(q, st);
	nfs3_out_attr(q->s, &q->out, &q->attr);
	if (!st)
		xdr_out_u32(&q->out, q->count);
}

/* A failure of a procedure that answers with one object's attributes. */
static void encode_attr(struct nfs3_req *q, uint32_t st)
{
	encode_status(q, st);
	nfs3_out_attr(q->s, &q->out, &q->attr);
}

static void encode_wcc(struct nfs3_req *q, uint32_t st)
{
	encode_status(q, st);
	nfs3_out_wcc(q->s, &q->out, &q->pre[0], &q->post[0]);
}

static void encode_write(struct nfs3_req *q, uint32_t st)
{
	encode_wcc(q, st);
	if (st)
		return;
	xdr_out_u32(&q->out, q->count);
	xdr_out_u32(&q->out, q->a.stable == NFS3_UNSTABLE ? NFS3_UNSTABLE : NFS3_FILE_SYNC);
	xdr_out_u64(&q->out, q->verf);
}

static void encode_commit(struct nfs3_req *q, uint32_t st)
{
	encode_wcc(q, st);
	if (!st)
		xdr_out_u64(&q->out, q->verf);
}

static void encode_made(struct nfs3_req *q, uint32_t st)
{
	encode_status(q, st);
	if (!st) {
		xdr_out_u32(&q->out, 1);
		nfs3_out_fh(q->s, &q->out, q->obj.export_id, &q->attr.a);
		nfs3_out_attr(q->s, &q->out, &q->attr);
	}
	nfs3_out_wcc(q->s, &q->out, &q->pre[0], &q->post[0]);
}

static void encode_rename(struct nfs3_req *q, uint32_t st)
{
	encode_wcc(q, st);
	nfs3_out_wcc(q->s, &q->out, &q->pre[1], &q->post[1]);
}

static void encode_link(struct nfs3_req *q, uint32_t st)
{
	encode_attr(q, st);
	nfs3_out_wcc(q->s, &q->out, &q->pre[1], &q->post[1]);
}

const struct nfs3_proc nfs3_procs[NFS3_PROCS] = {
	[P_NULL] = { nfs3_null, encode_null, "", RPC_FAST, KIND_READ, false },
	[P_GETATTR] = { nfs3_getattr_proc, encode_getattr, "f", RPC_FAST, KIND_READ, false },
	[P_SETATTR] = { nfs3_setattr, encode_wcc, "fsg", RPC_PEER, KIND_CHANGE, false },
	[P_LOOKUP] = { nfs3_lookup, encode_lookup, "fn", RPC_FAST, KIND_READ, false },
	[P_ACCESS] = { nfs3_access, encode_access, "fu", RPC_FAST, KIND_READ, false },
	[P_READLINK] = { nfs3_readlink, encode_attr, "f", RPC_FAST, KIND_READ, true },
	[P_READ] = { nfs3_read, encode_attr, "fUu", RPC_DISK, KIND_READ, true },
	[P_WRITE] = { nfs3_write, encode_write, "fUw", RPC_PEER, KIND_CHANGE_LAZY, false },
	[P_CREATE] = { nfs3_create, encode_made, "fnc", RPC_PEER, KIND_CHANGE, false },
	[P_MKDIR] = { nfs3_mkdir, encode_made, "fns", RPC_PEER, KIND_CHANGE, false },
	[P_SYMLINK] = { nfs3_symlink, encode_made, "fnsp", RPC_PEER, KIND_CHANGE, false },
	[P_MKNOD] = { nfs3_mknod, encode_made, "fnk", RPC_PEER, KIND_CHANGE, false },
	[P_REMOVE] = { nfs3_remove, encode_wcc, "fn", RPC_PEER, KIND_CHANGE, false },
	[P_RMDIR] = { nfs3_rmdir, encode_wcc, "fn", RPC_PEER, KIND_CHANGE, false },
	[P_RENAME] = { nfs3_rename, encode_rename, "fnfn", RPC_PEER, KIND_CHANGE, false },
	[P_LINK] = { nfs3_link, encode_link, "ffn", RPC_PEER, KIND_CHANGE, false },
	[P_READDIR] = { nfs3_readdir, encode_attr, "fU8u", RPC_DISK, KIND_READ, true },
	[P_READDIRPLUS] = { nfs3_readdirplus, encode_attr, "fU8uu", RPC_DISK, KIND_READ, true },
	[P_FSSTAT] = { nfs3_fsstat, encode_attr, "f", RPC_DISK, KIND_READ, true },
	[P_FSINFO] = { nfs3_fsinfo, encode_attr, "f", RPC_FAST, KIND_READ, true },
	[P_PATHCONF] = { nfs3_pathconf, encode_attr, "f", RPC_FAST, KIND_READ, true },
	[P_COMMIT] = { nfs3_commit, encode_commit, "fUu", RPC_PEER, KIND_SYNC, false },
};

/* ---- life ---- */

int nfs3_new(const struct nfs3_config *cfg, struct nfs3 **out)
{
	struct nfs3 *s = calloc(1, sizeof *s);

	if (!s)
		return -ENOMEM;
	s->cfg = *cfg;
	s->cookie_verf = COOKIE_VERF;
	int r = files_new(cfg->top, cfg->files, &s->files);
	if (r) {
		free(s);
		return r;
	}
	pthread_mutex_init(&s->role_mu, NULL);
	cond_init_mono(&s->role_changed);
	new_verifier(s);
	if (cfg->observers)
		observers_add(cfg->observers, files_observe, s->files);
	*out = s;
	return 0;
}

void nfs3_free(struct nfs3 *s)
{
	if (!s)
		return;
	files_free(s->files);
	pthread_cond_destroy(&s->role_changed);
	pthread_mutex_destroy(&s->role_mu);
	free(s);
}

unsigned nfs3_files(struct nfs3 *s) { return files_count(s->files); }
