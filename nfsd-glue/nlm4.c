/*
 * Procedures: whose (host, owner), which file (handle, export, rights), which range; then the lock table. Locks are granted and released through lockstate's journal:
 * when a call of the lock table has returned, the peers have the record.
 *
 * A result is encoded into a buffer of the handler's. It becomes the reply, or, of a *_MSG, the argument of the *_RES that is sent to the client's NLM.
 *
 * Retransmissions of what changes something are answered from the duplicate request cache, of this node only: who retransmits to another node waits for his first answer, so nothing
 * that he asked for later can have been done.
 */
#include "nfsd-glue/nlm4.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "nfsd-glue/clients.h"
#include "nfsd-glue/nlm4_int.h"
#include "nfsd-glue/replay_call.h"

/* What a request comes to: a status, and for TEST who is in the way. */
struct outcome {
	enum nlm4_stat stat;
	struct nlm4_holder holder;
	struct lock_owner by;		/* a reference that holder.oh lies in */
};

enum nlm4_stat nlm4_stat_of(int err)
{
	switch (err) {
	case 0: return NLM4_GRANTED;
	case -EAGAIN: return NLM4_DENIED;
	case -ENOLCK: case -ENOMEM: return NLM4_DENIED_NOLOCKS;
	case -EDEADLK: return NLM4_DEADLCK;
	case -EFBIG: return NLM4_FBIG;
	case -ESTALE: return NLM4_STALE_FH;
	case -EROFS: case -EIO: case -ESHUTDOWN: case -ECANCELED: return NLM4_DENIED_GRACE_PERIOD;	/* not now, not here: ask again */
	default: return NLM4_FAILED;
	}
}

/* ---- which file ---- */

static int file_of_handle(struct nlm4_request *q, struct wirefh *h)
{
	struct nlm4 *n = q->n;
	int r = wirefh_decode(n->cfg.handles, q->a.fh.p, q->a.fh.len, h);

	if (r)
		return -ESTALE;
	if (!id_valid(h->id) || h->gen != (h->id == HANDLE_ROOT ? 0 : n->cfg.generation))
		return -ESTALE;
	q->id = h->id;
	return 0;
}

static int check_rights(struct nlm4_request *q, const struct export_rights *rights)
{
	const struct rpc_cred *rc = &q->c->cred;
	struct nfs_cred cred = { .uid = rc->uid, .gid = rc->gid, .ngroups = rc->ngroups < NFS_GROUPS_MAX ? rc->ngroups : NFS_GROUPS_MAX };
	struct layer *top = q->n->cfg.top;
	struct call c;
	struct attr a;

	memcpy(cred.groups, rc->groups, cred.ngroups * sizeof cred.groups[0]);
	exports_squash(rights, rc->flavor == RPC_AUTH_NONE, &cred);
	c = perm_call(&cred);
	int r = top->ops->getattr(top, &c, q->id, NULL, &a);
	if (r)
		return r;
	if (!a.nlink)
		return -ESTALE;
	if (!S_ISREG(a.mode))
		return -EINVAL;
	r = perm_check(top, &c, &a, PERM_READ | PERM_OWNER | PERM_READ_IF_EXEC);
	if (r == -EACCES && q->a.exclusive)
		r = perm_check(top, &c, &a, PERM_WRITE | PERM_OWNER);
	return r;
}

/* The file, which the caller may lock. */
static int find_file(struct nlm4_request *q)
{
	struct export_rights rights;
	struct wirefh h;
	int r = file_of_handle(q, &h);

	if (!r)
		r = exports_rights(q->n->cfg.exports, h.export_id, q->c->peer, &rights);
	return r ? r : check_rights(q, &rights);
}

/* ---- whose ---- */

static int caller_name(const struct nlm4_request *q, char name[LOCK_NAME_MAX + 1])
{
	const struct nlm4_bytes *c = &q->a.caller;

	if (!c->len || c->len > LOCK_NAME_MAX || memchr(c->p, 0, c->len))
		return -EINVAL;
	memcpy(name, c->p, c->len);
	name[c->len] = 0;
	return 0;
}

/* The owner, as one who gets something: his host is in the durable list then. */
static int make_owner(struct nlm4_request *q, uint32_t svid)
{
	struct nlm4 *n = q->n;
	char name[LOCK_NAME_MAX + 1];
	int r = caller_name(q, name);

	if (!r)
		r = lockstate_host(n->cfg.state, name, q->c->peer, q->c->local, q->a.state, &q->host);
	if (!r)
		nsm1_sync(n->cfg.nsm);
	return r ? r : lockstate_owner(n->cfg.state, q->host, svid, q->a.oh.p, q->a.oh.len, true, &q->o);
}

/* The owner if he is known: -ENOENT: then he has nothing. */
static int find_owner(struct nlm4_request *q, uint32_t svid)
{
	char name[LOCK_NAME_MAX + 1];
	int r = caller_name(q, name);

	if (!r)
		r = lockstate_find_host(q->n->cfg.state, name, q->c->peer, &q->host);
	return r ? r : lockstate_owner(q->n->cfg.state, q->host, svid, q->a.oh.p, q->a.oh.len, false, &q->o);
}

static void request_end(struct nlm4_request *q)
{
	lock_who_put(q->o.who);
	if (q->host)
		lockstate_host_put(q->n->cfg.state, q->host);
}

/* ---- the procedures ---- */

static bool in_grace(struct nlm4 *n)
{
	auto_lock(&n->mu);
	return n->grace_until_ms && clock_mono_ms() < n->grace_until_ms;
}

static void count(struct nlm4 *n, enum nlm4_stat st)
{
	auto_lock(&n->mu);
	if (st == NLM4_GRANTED)
		n->stats.locks_granted++;
	else if (st != NLM4_BLOCKED)
		n->stats.locks_denied++;
}

/* The owner, the file and the range are known. */
static enum nlm4_stat lock_range(struct nlm4_request *q)
{
	struct nlm4 *n = q->n;
	bool grace = in_grace(n);
	enum nlm4_stat st;

	if (grace != q->a.reclaim)
		return !grace && lock_covers(n->cfg.locks, q->id, q->o, &q->r) ? NLM4_GRANTED : NLM4_DENIED_GRACE_PERIOD;
	block_settle(q, false);
	if (q->a.block && !grace && block_waits(q))
		return NLM4_BLOCKED;
	do {
		st = nlm4_stat_of(lock_set(n->cfg.locks, q->id, q->o, &q->r));
		if (st == NLM4_DENIED && q->a.block && !grace)
			st = block_lock(q);
	} while (st == NLM4_GRANTED && (!block_told(q) || !lock_covers(n->cfg.locks, q->id, q->o, &q->r)));	/* a grant that was refused may have been undone in between */
	return st;
}

static void do_lock(struct nlm4_request *q, struct outcome *out)
{
	int r = nlm4_range(&q->a, &q->r);

	q->r.pid = (pid_t)q->a.svid;
	if (!r)
		r = find_file(q);
	if (!r)
		r = make_owner(q, q->a.svid);
	out->stat = r ? nlm4_stat_of(r) : lock_range(q);
	count(q->n, out->stat);
}

static void do_unlock(struct nlm4_request *q, struct outcome *out)
{
	struct wirefh h;
	int r = nlm4_range(&q->a, &q->r);

	if (!r)
		r = file_of_handle(q, &h);	/* it may be removed, or not exported any more */
	if (!r)
		r = find_owner(q, q->a.svid);
	if (!r) {
		block_settle(q, true);
		r = lock_clear(q->n->cfg.locks, q->id, q->o, &q->r);
	}
	out->stat = r == -ENOENT ? NLM4_GRANTED : nlm4_stat_of(r);
}

static void do_cancel(struct nlm4_request *q, struct outcome *out)
{
	struct wirefh h;
	int r = nlm4_range(&q->a, &q->r);

	if (!r)
		r = file_of_handle(q, &h);
	if (!r)
		r = find_owner(q, q->a.svid);
	out->stat = r && r != -ENOENT ? nlm4_stat_of(r) : !r && block_cancel(q) ? NLM4_GRANTED : NLM4_DENIED;
}

static void tell_holder(struct outcome *out, const struct lock_range *r)
{
	const struct lock_ident *i = lock_ident_of(&out->by);

	out->stat = NLM4_DENIED;
	out->holder.exclusive = r->mode == LOCK_EXCLUSIVE;
	out->holder.svid = i ? i->svid : (uint32_t)r->pid;
	if (i)
		out->holder.oh = (struct nlm4_bytes){ i->oh, i->oh_len };
	nlm4_range_out(r, &out->holder.offset, &out->holder.len);
}

static void do_test(struct nlm4_request *q, struct outcome *out)
{
	struct lock_range found;
	int r = nlm4_range(&q->a, &q->r);

	if (!r)
		r = find_file(q);
	if (!r)
		r = find_owner(q, q->a.svid);
	if (r == -ENOENT) {		/* who has nothing is nobody */
		q->o = (struct lock_owner){ .front = ORIGIN_NFS, .node = LOCK_NODE_VOLUME };
		r = 0;
	}
	if (r)
		out->stat = nlm4_stat_of(r);
	else if (in_grace(q->n))
		out->stat = NLM4_DENIED_GRACE_PERIOD;
	else if (!lock_test(q->n->cfg.locks, q->id, q->o, &q->r, &found, &out->by))
		tell_holder(out, &found);
}

static void do_share(struct nlm4_request *q, struct outcome *out)
{
	struct share s = { .access = (uint8_t)q->a.access, .deny = (uint8_t)q->a.mode };
	bool grace = in_grace(q->n);
	int r = find_file(q);

	if (!r)
		r = make_owner(q, 0);
	if (!r && grace != q->a.reclaim) {
		out->stat = NLM4_DENIED_GRACE_PERIOD;
		return;
	}
	s.id = q->id;
	s.key = q->o.key;
	s.who = q->o.who;
	out->stat = nlm4_stat_of(r ? r : lockstate_share(q->n->cfg.state, &s, true));
}

static void do_unshare(struct nlm4_request *q, struct outcome *out)
{
	struct wirefh h;
	int r = file_of_handle(q, &h);

	if (!r)
		r = find_owner(q, 0);
	if (!r)
		r = lockstate_share(q->n->cfg.state, &(struct share){ .id = q->id, .key = q->o.key }, false);
	out->stat = r == -ENOENT ? NLM4_GRANTED : nlm4_stat_of(r);
}

static void do_free_all(struct nlm4_request *q, struct outcome *out)
{
	char name[LOCK_NAME_MAX + 1];
	int r = caller_name(q, name);

	if (!r)
		r = lockstate_host_gone(q->n->cfg.state, name, q->c->peer, 0);
	out->stat = r < 0 ? nlm4_stat_of(r) : NLM4_GRANTED;
}

/* ---- roles and parking ---- */

static enum nlm4_role role_of(struct nlm4 *n)
{
	auto_lock(&n->mu);
	return n->role;
}

/* The call waits for the outcome of the change of role. */
static bool park(struct nlm4 *n, struct rpc_call *c)
{
	struct parked *p = malloc(sizeof *p);

	auto_lock(&n->mu);
	if (p && n->nparked < NLM4_PARK_MAX && !n->stop && (p->later = rpc_later_new(c))) {
		p->next = NULL;
		p->until_ms = clock_mono_ms() + NLM4_PARK_MS;
		*n->parked_end = p;
		n->parked_end = &p->next;
		n->nparked++;
		n->stats.parked++;
		pthread_cond_signal(&n->work);
		return true;
	}
	free(p);
	return false;
}

bool nlm4_parked_due(const struct nlm4 *n, uint64_t now_ms)
{
	return n->parked && (n->role != NLM4_CHANGING || n->parked->until_ms <= now_ms);
}

/* TEST looks only. */
static bool only_looks(uint32_t proc) { return proc == NLM4_TEST; }

static void carry_out(struct nlm4_request *q, struct outcome *out)
{
	enum nlm4_role role = role_of(q->n);

	*out = (struct outcome){ .stat = NLM4_GRANTED };
	if (role == NLM4_CHANGING || (role == NLM4_STANDBY && !only_looks(q->proc))) {
		out->stat = NLM4_DENIED_GRACE_PERIOD;
		return;
	}
	if (!exports_speaks_for_host(q->n->cfg.exports, q->c->peer)) {
		out->stat = NLM4_FAILED;
		return;
	}
	switch (q->proc) {
	case NLM4_TEST: do_test(q, out); break;
	case NLM4_LOCK: case NLM4_NM_LOCK: do_lock(q, out); break;
	case NLM4_CANCEL: do_cancel(q, out); break;
	case NLM4_UNLOCK: do_unlock(q, out); break;
	case NLM4_SHARE: do_share(q, out); break;
	case NLM4_UNSHARE: do_unshare(q, out); break;
	case NLM4_FREE_ALL: do_free_all(q, out); break;
	default: out->stat = NLM4_DENIED;	/* GRANTED: we asked nobody for locks */
	}
}

static void encode(const struct nlm4_request *q, const struct outcome *out, struct xdr_out *x)
{
	if (q->proc == NLM4_TEST)
		nlm4_test_encode(x, q->a.cookie, out->stat, &out->holder);
	else if (q->proc == NLM4_SHARE || q->proc == NLM4_UNSHARE)
		nlm4_share_encode(x, q->a.cookie, out->stat);
	else if (q->proc != NLM4_FREE_ALL)
		nlm4_stat_encode(x, q->a.cookie, out->stat);
}

/* The results of PROC (synchronous form) for the call's arguments; its status. -EBADMSG. */
static int serve(struct nlm4 *n, struct rpc_call *c, uint32_t proc, struct xdr_out *x)
{
	struct nlm4_request q = { .n = n, .c = c, .proc = proc };
	struct outcome out;
	int r = nlm4_args_decode(proc, c->args, c->args_len, &q.a);

	if (r)
		return r;
	carry_out(&q, &out);
	encode(&q, &out, x);
	lock_who_put(out.by.who);
	request_end(&q);
	return (int)out.stat;
}

/* ---- the asynchronous forms ---- */

static void send_result(struct nlm4 *n, const struct rpc_call *c, uint32_t proc, const struct xdr_out *x)
{
	struct rpc_client_call call = { .from = *c->local, .udp = !c->conn, .prog = NLM4_PROGRAM, .vers = NLM4_VERSION, .proc = proc, .args = x->p, .args_len = x->len };
	struct client_addr to;

	client_addr_from(&to, c->peer);
	to.port = n->cfg.client_port;
	client_addr_to(&to, &call.to);
	int err = rpc_client_call(n->cfg.client, &call);	/* lost ones are asked for again */
	if (err)
		log_debug("nlm: a result can't be sent: %s", strerror(-err));
}

static enum rpc_verdict handle_msg(struct nlm4 *n, struct rpc_call *c)
{
	unsigned char buf[NLM4_RES_MAX];
	struct xdr_out x = xdr_out(buf, sizeof buf);

	if (serve(n, c, c->proc - NLM4_TEST_MSG + NLM4_TEST, &x) < 0)
		return RPC_GARBAGE_ARGS;
	send_result(n, c, c->proc - NLM4_TEST_MSG + NLM4_TEST_RES, &x);
	return RPC_REPLY;
}

static enum rpc_verdict handle_res(struct nlm4 *n, struct rpc_call *c)
{
	struct nlm4_bytes cookie;
	uint32_t stat;

	if (nlm4_res_decode(c->proc, c->args, c->args_len, &cookie, &stat))
		return RPC_GARBAGE_ARGS;
	if (c->proc == NLM4_GRANTED_RES)
		block_answered(n, cookie, c->peer, stat);
	return RPC_REPLY;
}

/* ---- the program ---- */

/* Nothing may be repeated that depends on the moment. */
static bool lasting(int stat) { return stat >= 0 && stat != NLM4_DENIED_GRACE_PERIOD; }

static enum rpc_verdict answer(struct nlm4 *n, struct rpc_call *c, struct rpc_reply *r, const struct replay_key *k, bool may_park)
{
	unsigned char buf[NLM4_RES_MAX];
	struct xdr_out x = xdr_out(buf, sizeof buf);
	int stat = serve(n, c, c->proc, &x);

	if (k && lasting(stat)) {
		replay_done(n->cfg.replay, k, x.p, x.len);
		replay_sent(n->cfg.replay, k);
	} else if (k) {
		replay_forget(n->cfg.replay, k);
	}
	if (stat < 0)
		return RPC_GARBAGE_ARGS;
	if (stat == NLM4_DENIED_GRACE_PERIOD && may_park && role_of(n) == NLM4_CHANGING && park(n, c))
		return RPC_LATER;
	if (stat == NLM4_DENIED_GRACE_PERIOD && c->proc == NLM4_FREE_ALL)
		return RPC_DROP;	/* its answer can't say so */
	rpc_reply_raw(r, x.p, x.len);
	return RPC_REPLY;
}

static enum rpc_verdict handle_sync(struct nlm4 *n, struct rpc_call *c, struct rpc_reply *r, bool may_park)
{
	struct replay_key k;
	enum rpc_verdict v;

	if (only_looks(c->proc) || !n->cfg.replay)
		return answer(n, c, r, NULL, may_park);
	return replay_call(n->cfg.replay, c, r, &k, &v) ? v : answer(n, c, r, &k, may_park);
}

static enum rpc_verdict handle(void *arg, struct rpc_call *c, struct rpc_reply *r)
{
	if (c->proc == NLM4_NULL)
		return c->args_len ? RPC_GARBAGE_ARGS : RPC_REPLY;
	if (c->proc > NLM4_GRANTED_RES && c->proc < NLM4_SHARE)
		return RPC_PROC_UNAVAIL;
	if (c->proc >= NLM4_TEST_RES && c->proc <= NLM4_GRANTED_RES)
		return handle_res(arg, c);
	if (c->proc >= NLM4_TEST_MSG && c->proc <= NLM4_GRANTED_MSG)
		return handle_msg(arg, c);
	return handle_sync(arg, c, r, true);
}

void nlm4_resume(struct nlm4 *n, struct parked *p)
{
	enum rpc_verdict v = handle_sync(n, rpc_later_call(p->later), rpc_later_reply(p->later), false);

	rpc_later_send(p->later, v == RPC_LATER ? RPC_DROP : v);	/* that waits on its own */
	free(p);
}

static enum rpc_speed speed(void *arg, const struct rpc_call *c)
{
	(void)arg;
	if (c->proc == NLM4_NULL || (c->proc >= NLM4_TEST_RES && c->proc < NLM4_SHARE))
		return RPC_FAST;
	return only_looks(c->proc) || c->proc == NLM4_TEST_MSG ? RPC_DISK : RPC_PEER;
}

void nlm4_program(struct nlm4 *n, struct rpc_program *out)
{
	*out = (struct rpc_program){ .prog = NLM4_PROGRAM, .vers_low = NLM4_VERSION, .vers_high = NLM4_VERSION, .nprocs = NLM4_PROCS, .handle = handle, .speed = speed,
				     .arg = n };
}

/* ---- roles ---- */

static void begin_grace(struct nlm4 *n)
{
	struct lockstate_stats st;

	lockstate_stats(n->cfg.state, &st);
	if (!st.hosts && !nsm1_list_lost(n->cfg.nsm))
		return;			/* nobody has anything to claim back */
	log_warn("nlm: the locks of NFS clients are not known here: for %u s they are only given back to who held them", n->cfg.grace_ms / 1000);
	nsm1_notify(n->cfg.nsm);
	auto_lock(&n->mu);
	n->grace_until_ms = clock_mono_ms() + n->cfg.grace_ms;
}

static void set_role(struct nlm4 *n, enum nlm4_role role)
{
	auto_lock(&n->mu);
	if (role == NLM4_PRIMARY && n->role == NLM4_STANDBY)
		n->promoted_ms = clock_mono_ms();
	if (role == NLM4_STANDBY)
		n->grace_until_ms = n->promoted_ms = 0;
	n->role = role;
	pthread_cond_signal(&n->work);
}

void nlm4_role(struct nlm4 *n, enum nlm4_role role, bool kept)
{
	if (role == NLM4_PRIMARY) {
		lockstate_promoted(n->cfg.state);
		if (!kept)
			begin_grace(n);
	}
	nsm1_set_primary(n->cfg.nsm, role == NLM4_PRIMARY);
	set_role(n, role);
	if (role == NLM4_STANDBY)
		block_forget_all(n);
}

/* ---- life ---- */

int nlm4_new(const struct nlm4_config *cfg, struct nlm4 **out)
{
	struct nlm4 *n = calloc(1, sizeof *n);

	if (!n)
		return -ENOMEM;
	n->cfg = *cfg;
	n->parked_end = &n->parked;
	n->next_due_ms = UINT64_MAX;
	/* Two lives' numbers differ: an answer to the former life's call settles nothing. */
	n->next_number = clock_mono_ns();
	pthread_mutex_init(&n->mu, NULL);
	cond_init_mono(&n->work);
	cond_init_mono(&n->undone);
	if (pthread_create(&n->thread, NULL, nlm4_thread, n)) {
		nlm4_free(n);
		return -EAGAIN;
	}
	n->started = true;
	*out = n;
	return 0;
}

static void end_thread(struct nlm4 *n)
{
	pthread_mutex_lock(&n->mu);
	n->stop = true;
	pthread_cond_signal(&n->work);
	pthread_mutex_unlock(&n->mu);
	if (n->started)
		pthread_join(n->thread, NULL);
}

void nlm4_free(struct nlm4 *n)
{
	struct parked *p;

	if (!n)
		return;
	end_thread(n);
	while ((p = n->parked)) {
		n->parked = p->next;
		rpc_later_send(p->later, RPC_DROP);
		free(p);
	}
	block_forget_all(n);
	pthread_cond_destroy(&n->undone);
	pthread_cond_destroy(&n->work);
	pthread_mutex_destroy(&n->mu);
	free(n);
}

void nlm4_stats(struct nlm4 *n, struct nlm4_stats *out)
{
	uint64_t now = clock_mono_ms();

	auto_lock(&n->mu);
	*out = n->stats;
	out->grace_left_ms = n->grace_until_ms > now ? n->grace_until_ms - now : 0;
}
