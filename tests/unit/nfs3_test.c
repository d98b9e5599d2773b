/* NFS version 3: what clients rely on beyond single bytes: repeated calls before and after a failover, verifiers, roles, listings in pages, exports, open files. */
#include "nfs3_env.h"

#include <sys/statvfs.h>

static struct nfs_env e;

static void setup(void) { nfs_start(&e); }
static void teardown(void) { nfs_stop(&e); }

/* ---- short forms: on a, as root ---- */

/* The handle in an answer (post_op_fh3 or nfs_fh3 next in res.x): its id. */
static uint64_t fh_id(void)
{
	uint32_t len;
	const unsigned char *p = xdr_opaque(&res.x, WIREFH_MAX, &len);
	struct wirefh h;

	ck_assert_ptr_nonnull(p);
	ck_assert_int_eq(wirefh_decode(&e.a.handles, p, len, &h), 0);
	return h.id;
}

static struct attr fattr(void)
{
	struct attr a = { 0 };

	xdr_u32(&res.x);
	a.mode = xdr_u32(&res.x);
	a.nlink = xdr_u32(&res.x);
	a.uid = xdr_u32(&res.x);
	a.gid = xdr_u32(&res.x);
	a.size = xdr_u64(&res.x);
	xdr_take(&res.x, 8 + 8 + 8);
	a.id = xdr_u64(&res.x);
	xdr_take(&res.x, 8);
	a.mtime.tv_sec = xdr_u32(&res.x);
	a.mtime.tv_nsec = xdr_u32(&res.x);
	a.ctime.tv_sec = xdr_u32(&res.x);
	a.ctime.tv_nsec = xdr_u32(&res.x);
	return a;
}

static void skip_attr(void)
{
	if (xdr_u32(&res.x))
		xdr_take(&res.x, NFS3_FATTR);
}
static void skip_wcc(void)
{
	if (xdr_u32(&res.x))
		xdr_take(&res.x, 24);
	skip_attr();
}

static uint64_t made(uint32_t status)
{
	ck_assert_uint_eq(status, S_OK);
	ck_assert_uint_eq(xdr_u32(&res.x), 1);
	return fh_id();
}

static void args_create(uint64_t dir, const char *name, uint32_t how, int mode)
{
	a_begin(&e, dir);
	a_name(name);
	a_u32(how);
	a_sattr(mode);
}
static uint64_t create(uint64_t dir, const char *name)
{
	args_create(dir, name, NFS3_GUARDED, 0644);
	return made(nfs_call(&e, P_CREATE));
}
static uint64_t mkdir3(uint64_t dir, const char *name)
{
	a_begin(&e, dir);
	a_name(name);
	a_sattr(0755);
	return made(nfs_call(&e, P_MKDIR));
}
static void args_entry(uint64_t dir, const char *name)
{
	a_begin(&e, dir);
	a_name(name);
}
static void args_write(uint64_t id, uint64_t off, const void *p, size_t len, uint32_t stable)
{
	a_begin(&e, id);
	a_u64(off);
	a_u32((uint32_t)len);
	a_u32(stable);
	a_bytes(p, len);
}
/* The verifier of a WRITE. */
static uint64_t write3(uint64_t id, uint64_t off, const void *p, size_t len, uint32_t stable)
{
	args_write(id, off, p, len, stable);
	ck_assert_uint_eq(nfs_call(&e, P_WRITE), S_OK);
	skip_wcc();
	ck_assert_uint_eq(xdr_u32(&res.x), len);
	ck_assert_uint_eq(xdr_u32(&res.x), stable == NFS3_UNSTABLE ? NFS3_UNSTABLE : NFS3_FILE_SYNC);
	return xdr_u64(&res.x);
}
static void args_commit(uint64_t id)
{
	a_begin(&e, id);
	a_u64(0);
	a_u32(0);
}
static uint64_t commit3(uint64_t id)
{
	args_commit(id);
	ck_assert_uint_eq(nfs_call(&e, P_COMMIT), S_OK);
	skip_wcc();
	return xdr_u64(&res.x);
}
static uint32_t getattr3(struct nfs_side *s, uint64_t id, struct attr *a)
{
	a_begin(&e, id);
	nfs_call_xid(&e, s, e.xid++, P_GETATTR);
	if (!res.status)
		*a = fattr();
	return res.status;
}
static uint32_t read3(uint64_t id, uint64_t off, uint32_t count)
{
	a_begin(&e, id);
	a_u64(off);
	a_u32(count);
	return nfs_call(&e, P_READ);
}
static uint32_t remove3(uint64_t dir, const char *name)
{
	args_entry(dir, name);
	return nfs_call(&e, P_REMOVE);
}

/* ---- repeated calls ---- */

struct repeat {
	uint32_t proc, xid;
	uid_t uid;
	struct nfs_args *args;
	unsigned char first[REPLAY_REPLY_MAX];
	size_t first_len;
	uint32_t status;
};
static struct repeat repeats[64];
static unsigned nrepeats;

/* Makes the call in args on a, and keeps it. */
static void once(uint32_t proc, uint32_t want)
{
	struct repeat *r = &repeats[nrepeats++];

	*r = (struct repeat){ .proc = proc, .xid = 1000 + nrepeats, .uid = e.uid, .args = malloc(sizeof *r->args) };
	*r->args = args;
	nfs_call_xid(&e, &e.a, r->xid, proc);
	ck_assert_int_eq(res.verdict, RPC_REPLY);
	ck_assert_msg(res.status == want, "procedure %u: status %u, not %u", proc, res.status, want);
	ck_assert_uint_le(res.len, sizeof r->first);
	memcpy(r->first, res.p, res.len);
	r->first_len = res.len;
	r->status = res.status;
}

static void all_again(struct nfs_side *s, const char *when)
{
	for (unsigned i = 0; i < nrepeats; i++) {
		struct repeat *r = &repeats[i];
		args = *r->args;
		e.uid = e.gid = r->uid;
		nfs_call_xid(&e, s, r->xid, r->proc);
		ck_assert_msg(res.verdict == RPC_REPLY && res.len == r->first_len && !memcmp(res.p, r->first, res.len),
			      "call %u (procedure %u) %s: status %u, at first %u", i, r->proc, when, res.status, r->status);
	}
	e.uid = e.gid = 0;
}

static void args_exclusive(uint64_t dir, const char *name, uint64_t verf)
{
	args_entry(dir, name);
	a_u32(NFS3_EXCLUSIVE);
	a_u64(verf);
}

static void changes_that_succeed(uint64_t d)
{
	args_create(d, "new", NFS3_GUARDED, 0600), once(P_CREATE, S_OK);
	args_create(d, "any", NFS3_UNCHECKED, 0600), once(P_CREATE, S_OK);
	args_exclusive(d, "mine", 42), once(P_CREATE, S_OK);
	args_entry(d, "sub"), a_sattr(0700), once(P_MKDIR, S_OK);
	args_entry(d, "link"), a_sattr(-1), a_name("target"), once(P_SYMLINK, S_OK);
	args_entry(d, "pipe"), a_u32(NFS3_FIFO), a_sattr(0600), once(P_MKNOD, S_OK);
}

static void changes_of(uint64_t d, uint64_t f)
{
	args_write(f, 3, "some bytes", 10, NFS3_UNSTABLE), once(P_WRITE, S_OK);
	args_write(f, 1, "more", 4, NFS3_FILE_SYNC), once(P_WRITE, S_OK);
	a_begin(&e, f), a_sattr(0640), a_u32(0), once(P_SETATTR, S_OK);
	a_begin(&e, f), a_fh_of(&e, d, 1), a_name("second"), once(P_LINK, S_OK);
	args_entry(d, "second"), a_fh_of(&e, d, 1), a_name("third"), once(P_RENAME, S_OK);
	args_entry(d, "third"), once(P_REMOVE, S_OK);
	args_entry(d, "empty"), once(P_RMDIR, S_OK);
}

static void changes_that_fail(uint64_t d, uint64_t f)
{
	args_create(d, "file", NFS3_GUARDED, 0600), once(P_CREATE, S_EXIST);
	args_entry(d, "file"), a_sattr(0700), once(P_MKDIR, S_EXIST);
	args_entry(d, "gone"), once(P_REMOVE, S_NOENT);
	args_entry(d, "gone"), once(P_RMDIR, S_NOENT);
	args_entry(d, "gone"), a_fh_of(&e, d, 1), a_name("there"), once(P_RENAME, S_NOENT);
	a_begin(&e, f), a_fh_of(&e, d, 1), a_name("file"), once(P_LINK, S_EXIST);
	a_begin(&e, f), a_sattr(0600), a_u32(1), a_u32(1), a_u32(1), once(P_SETATTR, S_NOT_SYNC);
	e.uid = e.gid = 4711;		/* found before the layers are asked */
	args_create(d, "nomine", NFS3_GUARDED, 0600), once(P_CREATE, S_ACCES);
	args_write(f, 0, "x", 1, NFS3_UNSTABLE), once(P_WRITE, S_ACCES);
	a_begin(&e, f), a_sattr(0777), a_u32(0), once(P_SETATTR, S_PERM);
	e.uid = e.gid = 0;
}

/* What the failed calls complained of is different now: executed again they would answer something else. */
static void turn_the_tables(uint64_t d)
{
	ck_assert_uint_eq(remove3(d, "file"), S_OK);
	create(d, "gone");
	a_begin(&e, d);
	a_sattr(0777), a_u32(0);
	ck_assert_uint_eq(nfs_call(&e, P_SETATTR), S_OK);
}

START_TEST(a_repeated_change_gets_its_first_answer)
{
	uint64_t d = mkdir3(HANDLE_ROOT, "d"), f = create(d, "file");
	unsigned succeed;

	nrepeats = 0;
	mkdir3(d, "empty");
	changes_that_succeed(d);
	changes_of(d, f);
	succeed = nrepeats;
	changes_that_fail(d, f);
	all_again(&e.a, "at once");
	turn_the_tables(d);
	all_again(&e.a, "later");
	nfs_promote(&e);
	all_again(&e.b, "after the failover");
	ck_assert_uint_gt(succeed, 10);
	for (unsigned i = 0; i < nrepeats; i++)
		free(repeats[i].args);
}
END_TEST

START_TEST(another_call_with_the_same_xid_is_another_call)
{
	args_create(HANDLE_ROOT, "one", NFS3_GUARDED, 0600);
	nfs_call_xid(&e, &e.a, 7, P_CREATE);
	ck_assert_uint_eq(res.status, S_OK);
	args_create(HANDLE_ROOT, "two", NFS3_GUARDED, 0600);
	nfs_call_xid(&e, &e.a, 7, P_CREATE);
	ck_assert_uint_eq(res.status, S_OK);
	ck_assert_uint_ne(t_find(&e.p, HANDLE_ROOT, "two"), 0);
	args_create(HANDLE_ROOT, "one", NFS3_GUARDED, 0600);
	e.host = "10.0.0.2";
	nfs_call_xid(&e, &e.a, 7, P_CREATE);
	ck_assert_uint_eq(res.status, S_EXIST);
}
END_TEST

START_TEST(an_exclusive_create_can_be_repeated_after_a_failover)
{
	args_exclusive(HANDLE_ROOT, "mine", 0x1234567890abcdef);
	uint64_t id = made(nfs_call(&e, P_CREATE));

	nfs_promote(&e);
	nfs_call_xid(&e, &e.b, e.xid++, P_CREATE);	/* not a retransmission: another xid */
	ck_assert_uint_eq(made(res.status), id);
	args_exclusive(HANDLE_ROOT, "mine", 0x1234567890abcdee);
	nfs_call_xid(&e, &e.b, e.xid++, P_CREATE);
	ck_assert_uint_eq(res.status, S_EXIST);
	/* SETATTR ends it. */
	a_begin(&e, id);
	a_u32(1), a_u32(0644), a_u32(0), a_u32(0), a_u32(0), a_u32(1), a_u32(1), a_u32(0);
	nfs_call_xid(&e, &e.b, e.xid++, P_SETATTR);
	ck_assert_uint_eq(res.status, S_OK);
	args_exclusive(HANDLE_ROOT, "mine", 0x1234567890abcdef);
	nfs_call_xid(&e, &e.b, e.xid++, P_CREATE);
	ck_assert_uint_eq(res.status, S_EXIST);
}
END_TEST

/* ---- verifiers ---- */

START_TEST(the_write_verifier_changes_when_data_may_be_lost)
{
	uint64_t f = create(HANDLE_ROOT, "f");
	uint64_t v = write3(f, 0, "abc", 3, NFS3_UNSTABLE);

	ck_assert_uint_eq(write3(f, 3, "def", 3, NFS3_FILE_SYNC), v);
	ck_assert_uint_eq(commit3(f), v);
	nfs3_flush_failed(e.a.nfs3);
	uint64_t w = commit3(f);
	ck_assert_uint_ne(w, v);
	ck_assert_uint_eq(write3(f, 3, "def", 3, NFS3_UNSTABLE), w);
	nfs_promote(&e);
	args_commit(f);
	nfs_call_xid(&e, &e.b, e.xid++, P_COMMIT);
	ck_assert_uint_eq(res.status, S_OK);
	skip_wcc();
	ck_assert_uint_ne(xdr_u64(&res.x), w);
}
END_TEST

/* ---- roles ---- */

START_TEST(a_standby_reads_and_refuses_changes)
{
	struct attr a;
	uint64_t f = create(HANDLE_ROOT, "f");

	ck_assert_int_eq(pair_settle(&e.p), 0);
	ck_assert_uint_eq(getattr3(&e.b, f, &a), S_OK);
	ck_assert_uint_eq(a.id, f);
	args_create(HANDLE_ROOT, "g", NFS3_GUARDED, 0600);
	nfs_call_xid(&e, &e.b, e.xid++, P_CREATE);
	ck_assert_uint_eq(res.status, S_ROFS);
	args_commit(f);
	nfs_call_xid(&e, &e.b, e.xid++, P_COMMIT);
	ck_assert_uint_eq(res.status, S_ROFS);
}
END_TEST

static void *call_create(void *arg)
{
	nfs_call_xid(&e, &e.a, 99, P_CREATE);
	return arg;
}

/* A CREATE that waits for the outcome of a change of role. */
static pthread_t create_while_changing(void)
{
	struct nfs3 *s = e.a.nfs3;
	pthread_t t;

	nfs3_role(s, NFSD_CHANGING);
	args_create(HANDLE_ROOT, "w", NFS3_GUARDED, 0600);
	ck_assert_int_eq(pthread_create(&t, NULL, call_create, NULL), 0);
	for (bool waits = false; !waits;) {
		auto_lock(&s->role_mu);
		waits = s->waiters == 1;
	}
	return t;
}

START_TEST(a_change_waits_for_a_role_that_is_kept)
{
	pthread_t t = create_while_changing();

	nfs3_role(e.a.nfs3, NFSD_PRIMARY);
	pthread_join(t, NULL);
	ck_assert_int_eq(res.verdict, RPC_REPLY);
	ck_assert_uint_eq(res.status, S_OK);
}
END_TEST

START_TEST(a_change_is_dropped_when_the_role_is_lost)
{
	pthread_t t = create_while_changing();

	ck_assert(nfs3_leaving(e.a.nfs3));
	pthread_join(t, NULL);
	ck_assert_int_eq(res.verdict, RPC_DROP);
	nfs3_role(e.a.nfs3, NFSD_STANDBY);
	ck_assert(!nfs3_leaving(e.a.nfs3));
	ck_assert_uint_eq(t_find(&e.p, HANDLE_ROOT, "w"), 0);
}
END_TEST

START_TEST(a_change_that_waits_too_long_is_told_to_come_again)
{
	pthread_t t = create_while_changing();

	pthread_join(t, NULL);
	ck_assert_uint_eq(res.status, S_JUKEBOX);
	nfs3_role(e.a.nfs3, NFSD_PRIMARY);
	args_create(HANDLE_ROOT, "w", NFS3_GUARDED, 0600);
	nfs_call_xid(&e, &e.a, 99, P_CREATE);
	ck_assert_uint_eq(res.status, S_OK);	/* JUKEBOX was not remembered */
}
END_TEST

/* The layers have become read-only between our look at the role and the change. */
START_TEST(a_change_that_the_layers_refuse_meanwhile_is_no_error)
{
	interpose_set_writable(e.p.ip, false);
	args_create(HANDLE_ROOT, "w", NFS3_GUARDED, 0600);
	nfs_call_xid(&e, &e.a, 99, P_CREATE);
	ck_assert_uint_eq(res.status, S_JUKEBOX);
	interpose_set_writable(e.p.ip, true);
	nfs_call_xid(&e, &e.a, 99, P_CREATE);
	ck_assert_uint_eq(res.status, S_OK);
}
END_TEST

static void *call_remove(void *arg)
{
	nfs_call_xid(&e, &e.a, 99, P_REMOVE);
	return arg;
}

/* A REMOVE that is made on a, and waits for a standby that doesn't confirm. */
static pthread_t remove_unconfirmed(void)
{
	pthread_t t;

	create(HANDLE_ROOT, "r");
	ck_assert_int_eq(pair_settle(&e.p), 0);
	pair_unfollow(&e.p);
	queue_set_ackset(e.p.q, 1 << PEER);
	args_entry(HANDLE_ROOT, "r");
	ck_assert_int_eq(pthread_create(&t, NULL, call_remove, NULL), 0);
	while (t_find(&e.p, HANDLE_ROOT, "r"))
		sched_yield();
	return t;
}

/* The daemon is being stopped and has nobody to hand the role to: whatever is answered now, the client would take it for another answer than the one that is in the stream. */
START_TEST(a_change_that_is_made_and_not_confirmed_when_the_role_is_lost_has_no_answer)
{
	pthread_t t = remove_unconfirmed();

	nfs3_role(e.a.nfs3, NFSD_CHANGING);
	queue_stop(e.p.q);
	pthread_join(t, NULL);
	ck_assert_int_eq(res.verdict, RPC_DROP);
	nfs3_role(e.a.nfs3, NFSD_PRIMARY);	/* kept: it can't be confirmed any more */
	args_entry(HANDLE_ROOT, "r");
	ck_assert_int_eq(nfs_call_xid(&e, &e.a, 99, P_REMOVE), RPC_DROP);
	ck_assert(nfs3_leaving(e.a.nfs3));
	nfs3_role(e.a.nfs3, NFSD_STANDBY);
	nfs3_role(e.a.nfs3, NFSD_PRIMARY);	/* promoted: what is made here counts */
	ck_assert_int_eq(nfs_call_xid(&e, &e.a, 99, P_REMOVE), RPC_REPLY);
	ck_assert_uint_eq(res.status, S_OK);
}
END_TEST

/* The core knows that the role is lost, the server has not been told yet. */
START_TEST(a_change_that_is_made_is_not_answered_by_erofs)
{
	pthread_t t = remove_unconfirmed();

	atomic_store(&e.p.superseded, true);
	interpose_want_epoch(e.p.ip);
	queue_set_ackset(e.p.q, 0);
	pthread_join(t, NULL);
	atomic_store(&e.p.superseded, false);
	ck_assert_int_eq(res.verdict, RPC_DROP);
}
END_TEST

/* Here it stays primary, with a disk that fails: an error, which isn't an order to try again. */
START_TEST(a_change_that_cant_be_made_durable_is_an_error)
{
	pthread_t t = remove_unconfirmed();

	queue_freeze(e.p.q, true);
	pthread_join(t, NULL);
	ck_assert_int_eq(res.verdict, RPC_REPLY);
	ck_assert_uint_eq(res.status, S_IO);
}
END_TEST

/* ---- listings ---- */

enum { ENTRIES = 500 };

struct page {
	uint64_t cookie, verf;
	bool eof;
	unsigned n;
};

/* One page of READDIRPLUS behind P, of at most MAX bytes; counts the names "eNNN" in SEEN. */
static void page(struct nfs_side *s, uint64_t dir, struct page *p, uint32_t dircount, uint32_t max, unsigned *seen)
{
	char name[256];
	uint32_t len;

	a_begin(&e, dir);
	a_u64(p->cookie), a_u64(p->verf), a_u32(dircount), a_u32(max);
	nfs_call_xid(&e, s, e.xid++, P_READDIRPLUS);
	ck_assert_uint_eq(res.status, S_OK);
	ck_assert_uint_le(res.len - 4, max);
	skip_attr();
	p->verf = xdr_u64(&res.x);
	for (p->n = 0; xdr_u32(&res.x) == 1; p->n++) {
		uint64_t id = xdr_u64(&res.x);
		const unsigned char *q = xdr_opaque(&res.x, 255, &len);
		snprintf(name, sizeof name, "%.*s", (int)len, (const char *)q);
		p->cookie = xdr_u64(&res.x);
		ck_assert_uint_eq(xdr_u32(&res.x), 1);
		ck_assert_uint_eq(fattr().id, id);
		ck_assert_uint_eq(xdr_u32(&res.x), 1);
		ck_assert_uint_eq(fh_id(), id);
		if (name[0] == 'e')
			seen[atoi(name + 1)]++;
	}
	p->eof = xdr_bool(&res.x);
	ck_assert(xdr_done(&res.x));
}

START_TEST(a_listing_goes_on_on_another_node_at_any_cookie)
{
	uint64_t d = mkdir3(HANDLE_ROOT, "d");
	unsigned seen[ENTRIES] = { 0 }, pages = 0;
	struct page p = { 0 };

	for (int i = 0; i < ENTRIES; i++) {
		char name[16];
		snprintf(name, sizeof name, "e%d", i);
		create(d, name);
	}
	ck_assert_int_eq(pair_settle(&e.p), 0);
	while (!p.eof) {
		page(pages % 2 ? &e.b : &e.a, d, &p, 300 + 7 * pages, 700 + 31 * pages, seen);
		ck_assert_uint_gt(p.n, 0);
		pages++;
	}
	ck_assert_uint_gt(pages, 20);
	for (int i = 0; i < ENTRIES; i++)
		ck_assert_msg(seen[i] == 1, "e%d: %u times", i, seen[i]);
	/* All at once, in one answer. */
	memset(seen, 0, sizeof seen);
	p = (struct page){ 0 };
	page(&e.a, d, &p, 1 << 20, 1 << 20, seen);
	ck_assert_uint_eq(p.n, ENTRIES + 2);
	ck_assert(p.eof);
}
END_TEST

START_TEST(limits_of_listings_are_kept_to_the_byte)
{
	uint64_t d = mkdir3(HANDLE_ROOT, "d");
	uint32_t fits = 0;

	create(d, "a name of some length");
	for (uint32_t max = 0; max < 1200; max++) {
		a_begin(&e, d);
		a_u64(0), a_u64(0), a_u32(4096), a_u32(max);
		uint32_t st = nfs_call(&e, P_READDIRPLUS);
		ck_assert(st == S_OK || st == S_TOOSMALL);
		ck_assert(st == S_TOOSMALL || res.len - 4 <= max);
		if (st == S_OK && !fits)
			fits = max;
		ck_assert(st == S_OK || !fits);
		a_begin(&e, d);
		a_u64(0), a_u64(0), a_u32(max);
		st = nfs_call(&e, P_READDIR);
		ck_assert(st == S_TOOSMALL || (st == S_OK && res.len - 4 <= max));
	}
	ck_assert_uint_eq(fits, 104 + 4 + 8 + 8 + 8 + 88 + 48);	/* "." */
}
END_TEST

START_TEST(an_entry_that_goes_meanwhile_is_left_out)
{
	uint64_t d = mkdir3(HANDLE_ROOT, "d");
	unsigned seen[16] = { 0 };
	struct page p = { 0 };

	for (int i = 0; i < 16; i++) {
		char name[16];
		snprintf(name, sizeof name, "e%d", i);
		create(d, name);
	}
	page(&e.a, d, &p, 4096, 104 + 3 * 180, seen);
	for (int i = 0; i < 16; i++) {
		char name[16];
		snprintf(name, sizeof name, "e%d", i);
		if (!seen[i])
			ck_assert_uint_eq(remove3(d, name), S_OK);
	}
	page(&e.a, d, &p, 4096, 1 << 16, seen);
	ck_assert(p.eof);
	ck_assert_uint_eq(p.n, 0);
}
END_TEST

/* ---- exports ---- */

START_TEST(the_parent_of_an_exports_root_is_the_root)
{
	uint64_t sub = mkdir3(HANDLE_ROOT, "sub"), below = mkdir3(sub, "below");

	for (int i = 0; i < 2; i++) {
		args.len = 0;
		a_fh_of(&e, i ? below : sub, 2);
		a_name("..");
		ck_assert_uint_eq(nfs_call(&e, P_LOOKUP), S_OK);
		ck_assert_uint_eq(fh_id(), sub);
	}
	args.len = 0;
	a_fh_of(&e, sub, 2);
	a_u64(1), a_u64(0), a_u32(30), a_u32(4096);	/* behind ".": only ".." fits */
	ck_assert_uint_eq(nfs_call(&e, P_READDIRPLUS), S_OK);
	skip_attr();
	xdr_u64(&res.x);
	ck_assert_uint_eq(xdr_u32(&res.x), 1);
	ck_assert_uint_eq(xdr_u64(&res.x), sub);
	args.len = 0;			/* what isn't below it has no parent there */
	a_fh_of(&e, HANDLE_ROOT, 2);
	a_name("..");
	ck_assert_uint_eq(nfs_call(&e, P_LOOKUP), S_STALE);
}
END_TEST

START_TEST(names_do_not_move_between_exports)
{
	uint64_t sub = mkdir3(HANDLE_ROOT, "sub");

	create(HANDLE_ROOT, "f");
	args_entry(HANDLE_ROOT, "f");
	a_fh_of(&e, sub, 2);
	a_name("g");
	ck_assert_uint_eq(nfs_call(&e, P_RENAME), S_XDEV);
	ck_assert_uint_ne(t_find(&e.p, HANDLE_ROOT, "f"), 0);
}
END_TEST

/* ---- files ---- */

START_TEST(what_is_written_is_read_in_all_sizes)
{
	static unsigned char data[1 << 20];
	uint64_t f = create(HANDLE_ROOT, "f");

	for (size_t i = 0; i < sizeof data; i++)
		data[i] = (unsigned char)(i * 2654435761u >> 24);
	for (size_t len = 1; len <= sizeof data; len = len * 7 + 1) {
		write3(f, 5, data, len, NFS3_UNSTABLE);
		ck_assert_uint_eq(read3(f, 5, (uint32_t)len), S_OK);
		skip_attr();
		ck_assert_uint_eq(xdr_u32(&res.x), len);
		ck_assert_uint_eq(xdr_u32(&res.x), true);
		uint32_t got;
		const unsigned char *p = xdr_opaque(&res.x, sizeof data, &got);
		ck_assert_uint_eq(got, len);
		ck_assert(!memcmp(p, data, len));
		ck_assert(xdr_done(&res.x));
	}
	args_write(f, 0, data, sizeof data, NFS3_FILE_SYNC);
	ck_assert_uint_eq(nfs_call(&e, P_WRITE), S_OK);
	ck_assert_uint_eq(read3(f, 0, 0xffffffff), S_OK);	/* no more than rtmax */
	ck_assert_int_eq(pair_settle(&e.p), 0);
	ck_assert_uint_eq(pair_compare(&e.p, NULL), 0);
}
END_TEST

START_TEST(create_of_what_is_there_truncates_when_asked)
{
	uint64_t f = create(HANDLE_ROOT, "f");
	struct attr a;

	write3(f, 0, "contents", 8, NFS3_UNSTABLE);
	args_create(HANDLE_ROOT, "f", NFS3_UNCHECKED, 0600);
	ck_assert_uint_eq(made(nfs_call(&e, P_CREATE)), f);
	ck_assert_uint_eq(getattr3(&e.a, f, &a), S_OK);
	ck_assert_uint_eq(a.size, 8);
	ck_assert_uint_eq(a.mode, 0644);
	args_entry(HANDLE_ROOT, "f");
	a_u32(NFS3_UNCHECKED);
	a_u32(0), a_u32(0), a_u32(0), a_u32(1), a_u64(0), a_u32(0), a_u32(0);
	ck_assert_uint_eq(made(nfs_call(&e, P_CREATE)), f);
	ck_assert_uint_eq(getattr3(&e.a, f, &a), S_OK);
	ck_assert_uint_eq(a.size, 0);
}
END_TEST

START_TEST(a_creation_does_all_of_its_sattr)
{
	struct attr a;

	args_entry(HANDLE_ROOT, "f");
	a_u32(NFS3_GUARDED);
	a_u32(1), a_u32(04751), a_u32(1), a_u32(1000), a_u32(1), a_u32(100), a_u32(1), a_u64(4097);
	a_u32(2), a_u32(111), a_u32(222), a_u32(2), a_u32(333), a_u32(444);
	uint64_t f = made(nfs_call(&e, P_CREATE));
	ck_assert_uint_eq(xdr_u32(&res.x), 1);
	a = fattr();
	ck_assert_uint_eq(a.size, 4097);	/* the answer has seen it all, */
	ck_assert_uint_eq(getattr3(&e.a, f, &a), S_OK);
	ck_assert_uint_eq(a.mode, 04751);
	ck_assert_uint_eq(a.uid, 1000);
	ck_assert_uint_eq(a.gid, 100);
	ck_assert_uint_eq(a.size, 4097);
	ck_assert_int_eq(a.mtime.tv_sec, 333);
	ck_assert_int_eq(a.mtime.tv_nsec, 444);
	a_begin(&e, HANDLE_ROOT);
	a_sattr(0777), a_u32(0);
	ck_assert_uint_eq(nfs_call(&e, P_SETATTR), S_OK);
	e.uid = e.gid = 1000;			/* only root gives things away */
	args_entry(HANDLE_ROOT, "d");
	a_u32(1), a_u32(0700), a_u32(1), a_u32(0), a_u32(1), a_u32(0), a_u32(0), a_u32(0), a_u32(0);
	uint64_t d = made(nfs_call(&e, P_MKDIR));
	ck_assert_uint_eq(getattr3(&e.a, d, &a), S_OK);
	ck_assert_uint_eq(a.uid, 1000);
	ck_assert_uint_eq(a.gid, 1000);
}
END_TEST

static unsigned open_files(void) { return nfs3_files(e.a.nfs3); }

/* Free bytes of the file system below; syncfs, since ext4 frees late. */
static uint64_t free_bytes(void)
{
	struct statvfs v;

	ck_assert_int_eq(syncfs(e.p.a.root_fd), 0);
	ck_assert_int_eq(fstatvfs(e.p.a.root_fd, &v), 0);
	return v.f_bfree * v.f_frsize;
}

START_TEST(removing_an_open_file_frees_its_space)
{
	static unsigned char data[1 << 20];
	uint64_t f = create(HANDLE_ROOT, "f");
	struct attr a;

	memset(data, 'x', sizeof data);
	for (unsigned i = 0; i < 16; i++)
		write3(f, i << 20, data, sizeof data, NFS3_UNSTABLE);
	ck_assert_uint_eq(open_files(), 1);
	uint64_t before = free_bytes();
	ck_assert_uint_eq(remove3(HANDLE_ROOT, "f"), S_OK);
	ck_assert_uint_eq(getattr3(&e.a, f, &a), S_STALE);
	ck_assert_uint_eq(read3(f, 0, 10), S_STALE);
	while (open_files() || free_bytes() < before + (15 << 20))
		sched_yield();
}
END_TEST

START_TEST(a_renamed_file_stays_open)
{
	uint64_t f = create(HANDLE_ROOT, "f");

	write3(f, 0, "abc", 3, NFS3_UNSTABLE);
	args_entry(HANDLE_ROOT, "f");
	a_fh_of(&e, HANDLE_ROOT, 1);
	a_name("g");
	ck_assert_uint_eq(nfs_call(&e, P_RENAME), S_OK);
	ck_assert_uint_eq(read3(f, 0, 3), S_OK);
	ck_assert_uint_eq(open_files(), 1);
}
END_TEST

START_TEST(open_files_are_bounded)
{
	char name[16];

	for (int i = 0; i < 3000; i++) {
		snprintf(name, sizeof name, "f%d", i);
		write3(create(HANDLE_ROOT, name), 0, "abc", 3, NFS3_UNSTABLE);
		ck_assert_uint_le(open_files(), 1024);
	}
}
END_TEST

START_TEST(the_mount_is_told_before_the_answer)
{
	unsigned settled = e.a.settled, flushed = e.a.flushed;
	uint64_t f = create(HANDLE_ROOT, "f");

	ck_assert_uint_gt(e.a.settled, settled);
	settled = e.a.settled;
	write3(f, 0, "abc", 3, NFS3_UNSTABLE);
	ck_assert_uint_gt(e.a.settled, settled);
	ck_assert_uint_gt(e.a.flushed, flushed);
}
END_TEST

/* ---- permissions ---- */

START_TEST(owners_read_and_write_and_execution_implies_reading)
{
	uint64_t f = create(HANDLE_ROOT, "f");

	a_begin(&e, f);			/* 0010, owner 1000, group 100 */
	a_u32(1), a_u32(0010), a_u32(1), a_u32(1000), a_u32(1), a_u32(100), a_u32(0), a_u32(0), a_u32(0), a_u32(0);
	ck_assert_uint_eq(nfs_call(&e, P_SETATTR), S_OK);
	e.uid = 1000, e.gid = 7;
	write3(f, 0, "abc", 3, NFS3_UNSTABLE);
	ck_assert_uint_eq(read3(f, 0, 3), S_OK);
	e.uid = 1001, e.gid = 100;
	ck_assert_uint_eq(read3(f, 0, 3), S_OK);
	args_write(f, 0, "abc", 3, NFS3_UNSTABLE);
	ck_assert_uint_eq(nfs_call(&e, P_WRITE), S_ACCES);
	e.gid = 101;
	ck_assert_uint_eq(read3(f, 0, 3), S_ACCES);
	e.uid = e.gid = 0;
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("nfs3");
	TCase *t = tcase_create("nfs3");

	tcase_add_unchecked_fixture(t, pair_mount, pair_unmount);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 120);
	tcase_add_test(t, a_repeated_change_gets_its_first_answer);
	tcase_add_test(t, another_call_with_the_same_xid_is_another_call);
	tcase_add_test(t, an_exclusive_create_can_be_repeated_after_a_failover);
	tcase_add_test(t, the_write_verifier_changes_when_data_may_be_lost);
	tcase_add_test(t, a_standby_reads_and_refuses_changes);
	tcase_add_test(t, a_change_waits_for_a_role_that_is_kept);
	tcase_add_test(t, a_change_is_dropped_when_the_role_is_lost);
	tcase_add_test(t, a_change_that_is_made_and_not_confirmed_when_the_role_is_lost_has_no_answer);
	tcase_add_test(t, a_change_that_is_made_is_not_answered_by_erofs);
	tcase_add_test(t, a_change_that_cant_be_made_durable_is_an_error);
	tcase_add_test(t, a_change_that_waits_too_long_is_told_to_come_again);
	tcase_add_test(t, a_change_that_the_layers_refuse_meanwhile_is_no_error);
	tcase_add_test(t, a_listing_goes_on_on_another_node_at_any_cookie);
	tcase_add_test(t, limits_of_listings_are_kept_to_the_byte);
	tcase_add_test(t, an_entry_that_goes_meanwhile_is_left_out);
	tcase_add_test(t, the_parent_of_an_exports_root_is_the_root);
	tcase_add_test(t, names_do_not_move_between_exports);
	tcase_add_test(t, what_is_written_is_read_in_all_sizes);
	tcase_add_test(t, create_of_what_is_there_truncates_when_asked);
	tcase_add_test(t, a_creation_does_all_of_its_sattr);
	tcase_add_test(t, removing_an_open_file_frees_its_space);
	tcase_add_test(t, a_renamed_file_stays_open);
	tcase_add_test(t, open_files_are_bounded);
	tcase_add_test(t, the_mount_is_told_before_the_answer);
	tcase_add_test(t, owners_read_and_write_and_execution_implies_reading);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	log_init("nfs3_test", LOG_SINK_STDERR, LOG_LVL_ERROR);
	SRunner *sr = srunner_create(suite());
	srunner_run_all(sr, CK_ENV);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
