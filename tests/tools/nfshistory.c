/* nfshistory: many NFSv3 clients write, rename, remove, lock and list while servers come and go; each answer is held against what must be.
 *
 *   nfshistory [OPTION]... EXPORT HOST...
 *
 *     -p PORT  of NFS and NLM (2049)     -m PORT  of MOUNT (the same)     -c N  clients (8)     -S SEED     -t SECONDS  (until SIGTERM or SIGINT)
 *     -o FILE  the number of operations done so far is kept there, for whoever waits     -L  no locks     -w SECONDS  longest wait for one answer (60)
 *
 * One HOST: the service address; whatever it answers counts. Several: the nodes; a client whose server is gone or says ROFS asks the next one.
 *
 * A client behaves like a kernel's: it never gives up; when its connection breaks or says nothing it connects again from the same port, and sends the
 * same bytes with the same xid. JUKEBOX and the lock manager's grace period make a new call a little later. So every operation is executed once, whatever
 * happens, and since nobody else touches a client's own names, each reply can be foretold: CREATE of a new name is never EXIST, REMOVE, RENAME and
 * RMDIR of a name that is there never NOENT, handles and file numbers stay, what was stable is read back, what was not is rewritten when the verifier
 * changes. Between clients: each of the names "n0", "n1"... is made by exactly one (CREATE guarded), a token that is taken by RENAME is in one hand,
 * exclusive locks have one holder, shared ones none that is exclusive, a lock that is held is denied to others, a counter below a lock counts.
 *
 * At the end every client looks at everything of its own again. Standard output: one line of totals; standard error: violations. Status 1: there are some. */
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include "tests/tools/nfswire.h"

enum {
	MAX_HOSTS = 4, MAX_CLIENTS = 64, SLOTS = 24, BLOCK = 4096, BLOCKS = 8, DIRS = 3, RANGES = 4, RANGE_BYTES = 100,
	ROUNDS = 1 << 20, ROUNDS_KEPT = 512, MAX_VIOLATIONS = 20, NOTES = 12, NOTE_MAX = 120, RECORD_MAX = 1 << 20,
	CONNECT_MS = 500, SILENCE_MS = 2000, AGAIN_US = 20000
};

enum kind { NONE, REG = 1, DIR_ = 2, LNK = 5 }; /* ftype3 */

/* An object of one client; hard links share it. */
struct object {
	enum kind kind;
	struct nfs_fh fh;
	uint64_t fileid;
	uint32_t nlink, mode, blocks;
	uint64_t stamp[BLOCKS];	     /* what block i is filled with; 0 = a hole */
	bool unstable[BLOCKS];	     /* written, not yet known to be on stable storage */
	unsigned char verf[BLOCKS][8]; /* the verifier that such a write was answered with */
};

struct slot {
	struct object *o; /* NULL: the name isn't there */
	int dir;
};

struct client {
	int id;
	pthread_t thread;
	_Atomic uint64_t ops; /* others look at it */
	uint64_t rng, retransmitted, connected, again, forgiven;
	double longest, longest_at;
	char machine[24];
	struct rpc_who who;
	/* the connection */
	int fd, port, source_port, host;
	uint32_t xid;
	uint64_t generation;	 /* of the connection */
	uint64_t primary_at;	 /* the generation on which a change was accepted last */
	struct xw call, reply;
	/* the model */
	struct slot slots[SLOTS];
	struct nfs_fh probe;
	int lock_range, lock_left;	   /* held: how many operations more; range -1: none */
	bool lock_shared, token;
	int token_left;
	atomic_uint round;		   /* whose name it tries to make; UINT_MAX = none */
	char notes[NOTES][NOTE_MAX]; /* the last operations, for a violation's report */
	unsigned noted;
};

static struct {
	const char *export, *hosts[MAX_HOSTS], *progress;
	int nhosts, port, mount_port, nclients, seconds, patience_s;
	uint64_t seed;
	bool locks;
} opt = { .port = 2049, .nclients = 8, .patience_s = 60, .locks = true };

static struct client clients[MAX_CLIENTS];
static struct nfs_fh root, dirs[DIRS], shared, lock_file, counter_file;
static atomic_bool stop;
static atomic_int violations;
static double started;

/* What clients share, and must agree with the server about. */
static atomic_uint round_now, swept;	/* the names of rounds below SWEPT are removed */
static atomic_uchar winners[ROUNDS];
static atomic_int token_holder;		/* client + 1, 0 = nobody knows that he has it */
static atomic_int range_state[RANGES];	/* -1 = one exclusive holder, n = shared holders */
static uint64_t counter;		/* guarded by the lock on range 0 of the lock file, that is: by the server */

__attribute__((format(printf, 2, 3))) static void violation(struct client *c, const char *fmt, ...)
{
	char text[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	flockfile(stderr);
	fprintf(stderr, "VIOLATION after %.3f s: client %d: %s\n", now_s() - started, c->id, text);
	for (unsigned i = c->noted > NOTES ? c->noted - NOTES : 0; i < c->noted; i++)
		fprintf(stderr, "    %s\n", c->notes[i % NOTES]);
	funlockfile(stderr);
	if (atomic_fetch_add(&violations, 1) + 1 >= MAX_VIOLATIONS) {
		fprintf(stderr, "nfshistory: enough\n");
		_exit(1);
	}
}

__attribute__((format(printf, 2, 3))) static void note(struct client *c, const char *fmt, ...)
{
	char *n = c->notes[c->noted++ % NOTES];
	int used = snprintf(n, NOTE_MAX, "%.3f xid %08x: ", now_s() - started, c->xid);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(n + used, (size_t)(NOTE_MAX - used), fmt, ap);
	va_end(ap);
}

/* ---- one call, until it is answered ---- */

static void disconnect(struct client *c)
{
	struct linger now = { 1, 0 }; /* a reset: the port is free for the next connection */

	if (c->fd < 0)
		return;
	setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &now, sizeof now);
	close(c->fd);
	c->fd = -1;
}

static bool connected(struct client *c)
{
	struct sockaddr_storage own;
	socklen_t len = sizeof own;

	if (c->fd >= 0)
		return true;
	c->fd = tcp_connect(opt.hosts[c->host], c->port, c->source_port, CONNECT_MS);
	if (c->fd < 0) {
		if (c->fd == -EADDRINUSE || c->fd == -EADDRNOTAVAIL)
			c->source_port = 0;
		return false;
	}
	if (!c->source_port && !getsockname(c->fd, (struct sockaddr *)&own, &len))
		c->source_port = ntohs(own.ss_family == AF_INET6 ? ((struct sockaddr_in6 *)&own)->sin6_port : ((struct sockaddr_in *)&own)->sin_port);
	c->generation++;
	c->connected++;
	return true;
}

static void next_host(struct client *c)
{
	disconnect(c);
	c->host = (c->host + 1) % opt.nhosts;
	usleep(AGAIN_US);
}

/* Sends the call and waits for its reply; false: not on this connection. */
static bool try_once(struct client *c, struct xr *r)
{
	uint32_t xid;

	if (!connected(c) || !tcp_move(c->fd, c->call.data, c->call.len, true, SILENCE_MS))
		return false;
	do {
		if (!record_read(c->fd, &c->reply, RECORD_MAX, SILENCE_MS))
			return false;
		if (!rpc_reply_open(c->reply.data, c->reply.len, &xid, r))
			violation(c, "the call is refused, or its reply is none");
	} while (xid != c->xid);
	return true;
}

static void new_xid(struct client *c)
{
	c->xid++;
	put_u32(c->call.data + 4, c->xid);
}

/* Makes the call that was encoded behind begin(), as often as it takes; what its reply's first word is. r stands behind that. */
static uint32_t finish(struct client *c, uint32_t rofs, uint32_t later, struct xr *r)
{
	double begun = now_s(), took;
	uint32_t status;

	rpc_end(&c->call);
	for (;;) {
		if (now_s() - begun > opt.patience_s) {
			violation(c, "no answer for %d s", opt.patience_s);
			_exit(1);
		}
		if (!try_once(c, r)) {
			c->retransmitted++;
			next_host(c);
			continue;
		}
		if (later == 4) { /* NLM: the cookie comes first */
			size_t n;

			xr_opaque(r, 1024, &n);
		}
		status = xr_u32(r);
		if (r->bad) {
			violation(c, "a reply too short");
		} else if (status == later) {
			c->again++;
			usleep(AGAIN_US);
			new_xid(c);
		} else if (status == rofs && opt.nhosts > 1) {
			next_host(c);
		} else {
			break;
		}
	}
	took = now_s() - begun;
	if (took > c->longest) {
		c->longest = took;
		c->longest_at = begun - started;
	}
	c->ops++;
	return status;
}

static void begin(struct client *c, uint32_t proc)
{
	c->xid++;
	rpc_begin(&c->call, &c->who, c->xid, NFS_PROG, 3, proc);
}
/* A call that changes something: once it is answered otherwise than ROFS, this connection's server is the primary. */
static uint32_t change(struct client *c, struct xr *r)
{
	uint32_t status = finish(c, NFSERR_ROFS, NFSERR_JUKEBOX, r);

	c->primary_at = c->generation;
	return status;
}
static uint32_t ask(struct client *c, struct xr *r) { return finish(c, UINT32_MAX, NFSERR_JUKEBOX, r); }

/* A standby's answers may be old. Before a client of several nodes believes one it makes sure that it talks to the primary. */
static void find_primary(struct client *c)
{
	struct xr r;

	if (opt.nhosts == 1)
		return;
	begin(c, P_SETATTR);
	xw_fh(&c->call, &c->probe);
	xw_sattr_mode(&c->call, 0600 + (uint32_t)(c->ops & 7));
	xw_u32(&c->call, 0);
	if (change(c, &r) != NFS_OK)
		violation(c, "the probe can't be changed");
}

/* Runs a look at the server that says "" or what is wrong. With one address it is a violation at once. With several it must be wrong on the primary. */
typedef const char *(*look)(struct client *c, void *arg);
static void must_see(struct client *c, look look_at, void *arg)
{
	const char *wrong = "";

	for (int attempt = 0; attempt < 4; attempt++) {
		uint64_t generation;

		if (opt.nhosts > 1 && (attempt || c->primary_at != c->generation))
			find_primary(c);
		generation = c->generation;
		wrong = look_at(c, arg);
		if (!*wrong)
			return;
		if (opt.nhosts == 1)
			break;
		c->forgiven++;
		if (generation != c->generation)
			attempt = 0;
	}
	violation(c, "%s", wrong);
}

static void expect(struct client *c, const char *what, uint32_t got, uint32_t wanted)
{
	if (got != wanted)
		violation(c, "%s: got %s, must be %s", what, nfs_status_name(got), nfs_status_name(wanted));
}

/* ---- names ---- */

static const char *slot_name(struct client *c, int i, char *buf, size_t size)
{
	snprintf(buf, size, "c%d-%d", c->id, i);
	return buf;
}
static void put_slot(struct client *c, int i)
{
	char name[32];

	xw_dirop(&c->call, &dirs[c->slots[i].dir], slot_name(c, i, name, sizeof name));
}
static int any_slot(struct client *c) { return (int)rng_below(&c->rng, SLOTS); }
/* A name that is there (or isn't), of a kind in the mask (1 << kind); -1: there is none. */
static int find_slot(struct client *c, bool there, unsigned kinds)
{
	int from = any_slot(c);

	for (int i = 0; i < SLOTS; i++) {
		struct slot *s = &c->slots[(from + i) % SLOTS];

		if (there ? s->o && (kinds & 1u << s->o->kind) : !s->o)
			return (from + i) % SLOTS;
	}
	return -1;
}
enum { REGS = 1u << REG, FILES = 1u << REG | 1u << LNK, ALL = 1u << REG | 1u << LNK | 1u << DIR_ };

static void drop(struct object *o)
{
	if (o->kind == DIR_ || --o->nlink == 0)
		free(o);
}

/* The object that a reply to CREATE, MKDIR or SYMLINK tells of. */
static struct object *made(struct client *c, enum kind kind, uint32_t mode, struct xr *r)
{
	struct object *o = xcalloc(1, sizeof *o);
	struct nfs_attr a = { 0 };

	if (!xr_post_fh(r, &o->fh) || !xr_post_attr(r, &a) || r->bad)
		violation(c, "a new object without handle or attributes");
	if (a.type != kind || a.size > (kind == REG ? 0u : 1u << 20))
		violation(c, "a new object of type %u and %llu bytes", a.type, (unsigned long long)a.size);
	o->kind = kind;
	o->fileid = a.fileid;
	o->mode = mode;
	o->nlink = 1;
	return o;
}

static void op_create(struct client *c)
{
	bool there = rng_below(&c->rng, 4) == 0;
	int i = find_slot(c, there, ALL);
	struct xr r;
	uint32_t s;

	if (i < 0)
		return;
	if (!there)
		c->slots[i].dir = (int)rng_below(&c->rng, DIRS);
	begin(c, P_CREATE);
	put_slot(c, i);
	xw_u32(&c->call, CREATE_GUARDED);
	xw_sattr_mode(&c->call, 0640);
	note(c, "create slot %d, %s", i, there ? "there" : "new");
	s = change(c, &r);
	expect(c, "CREATE guarded", s, there ? NFSERR_EXIST : NFS_OK);
	if (s == NFS_OK && !there)
		c->slots[i].o = made(c, REG, 0640, &r);
}

/* Made exclusively, and once more by a new call with the same verifier: the same file; with another: EXIST. */
static void op_exclusive(struct client *c)
{
	int i = find_slot(c, false, 0);
	struct nfs_fh again = { 0 };
	uint64_t verf = rng_next(&c->rng);
	struct xr r;

	if (i < 0)
		return;
	c->slots[i].dir = (int)rng_below(&c->rng, DIRS);
	for (int attempt = 0; attempt < 3; attempt++) {
		uint32_t s;

		begin(c, P_CREATE);
		put_slot(c, i);
		xw_u32(&c->call, CREATE_EXCLUSIVE);
		xw_u64(&c->call, attempt == 2 ? verf + 1 : verf);
		note(c, "exclusive create slot %d, attempt %d", i, attempt);
		s = change(c, &r);
		expect(c, "CREATE exclusive", s, attempt == 2 ? NFSERR_EXIST : NFS_OK);
		if (s != NFS_OK)
			break;
		if (attempt == 0)
			c->slots[i].o = made(c, REG, 0600, &r);
		else if (!xr_post_fh(&r, &again) || again.len != c->slots[i].o->fh.len || memcmp(again.data, c->slots[i].o->fh.data, again.len))
			violation(c, "the same exclusive CREATE gives another file");
	}
	if (!c->slots[i].o)
		return;
	begin(c, P_SETATTR); /* as clients do: the verifier leaves the times */
	xw_fh(&c->call, &c->slots[i].o->fh);
	xw_sattr_mode(&c->call, 0600);
	xw_u32(&c->call, 0);
	expect(c, "SETATTR behind an exclusive CREATE", change(c, &r), NFS_OK);
}

static void op_mkdir(struct client *c)
{
	int i = find_slot(c, false, 0);
	struct xr r;
	uint32_t s;

	if (i < 0)
		return;
	c->slots[i].dir = (int)rng_below(&c->rng, DIRS);
	begin(c, P_MKDIR);
	put_slot(c, i);
	xw_sattr_mode(&c->call, 0750);
	note(c, "mkdir slot %d", i);
	s = change(c, &r);
	expect(c, "MKDIR", s, NFS_OK);
	if (s == NFS_OK)
		c->slots[i].o = made(c, DIR_, 0750, &r);
}

static void op_symlink(struct client *c)
{
	int i = find_slot(c, false, 0);
	struct xr r;
	uint32_t s;

	if (i < 0)
		return;
	c->slots[i].dir = (int)rng_below(&c->rng, DIRS);
	begin(c, P_SYMLINK);
	put_slot(c, i);
	xw_sattr_mode(&c->call, 0777);
	xw_str(&c->call, "somewhere/else");
	note(c, "symlink slot %d", i);
	s = change(c, &r);
	expect(c, "SYMLINK", s, NFS_OK);
	if (s == NFS_OK)
		c->slots[i].o = made(c, LNK, 0777, &r);
}

/* REMOVE or RMDIR of a name that is there, sometimes of one that isn't. */
static void op_remove(struct client *c)
{
	bool there = rng_below(&c->rng, 4) != 0;
	int i = find_slot(c, there, ALL);
	struct object *o = i < 0 ? NULL : c->slots[i].o;
	bool dir = o && o->kind == DIR_;
	struct xr r;
	uint32_t s;

	if (i < 0)
		return;
	begin(c, dir ? P_RMDIR : P_REMOVE);
	put_slot(c, i);
	note(c, "%s slot %d, %s", dir ? "rmdir" : "remove", i, there ? "there" : "not there");
	s = change(c, &r);
	expect(c, dir ? "RMDIR" : "REMOVE", s, there ? NFS_OK : NFSERR_NOENT);
	if (s == NFS_OK && o) {
		c->slots[i].o = NULL;
		drop(o);
	}
}

/* RENAME within and between directories: to a new name, over another file, of a name that isn't there. */
static void op_rename(struct client *c)
{
	bool there = rng_below(&c->rng, 5) != 0;
	int from = find_slot(c, there, ALL), to;
	struct object *o = from < 0 ? NULL : c->slots[from].o;
	bool over = o && o->kind != DIR_ && rng_below(&c->rng, 3) == 0;
	struct xr r;
	uint32_t s;

	to = over ? find_slot(c, true, FILES) : find_slot(c, false, 0);
	if (from < 0 || to < 0 || from == to)
		return;
	if (!c->slots[to].o)
		c->slots[to].dir = (int)rng_below(&c->rng, DIRS);
	begin(c, P_RENAME);
	put_slot(c, from);
	put_slot(c, to);
	note(c, "rename slot %d (%s) to %d (%s)", from, there ? "there" : "not there", to, over ? "there" : "new");
	s = change(c, &r);
	expect(c, "RENAME", s, there ? NFS_OK : NFSERR_NOENT);
	if (s != NFS_OK || !there || (over && c->slots[to].o == o)) /* both names of one file: nothing happens */
		return;
	if (c->slots[to].o)
		drop(c->slots[to].o);
	c->slots[to].o = o;
	c->slots[from].o = NULL;
}

static void op_link(struct client *c)
{
	int from = find_slot(c, true, REGS), to = find_slot(c, rng_below(&c->rng, 5) == 0, ALL);
	bool there = to >= 0 && c->slots[to].o;
	struct xr r;
	uint32_t s;

	if (from < 0 || to < 0)
		return;
	if (!there)
		c->slots[to].dir = (int)rng_below(&c->rng, DIRS);
	begin(c, P_LINK);
	xw_fh(&c->call, &c->slots[from].o->fh);
	put_slot(c, to);
	note(c, "link slot %d to %d (%s)", from, to, there ? "there" : "new");
	s = change(c, &r);
	expect(c, "LINK", s, there ? NFSERR_EXIST : NFS_OK);
	if (s != NFS_OK || there)
		return;
	c->slots[to].o = c->slots[from].o;
	c->slots[to].o->nlink++;
}

/* ---- contents ---- */

static void fill(uint64_t stamp, uint32_t block, unsigned char *to)
{
	for (size_t i = 0; i < BLOCK; i += 8) {
		uint64_t v = stamp ? stamp + i + block : 0;

		memcpy(to + i, &v, 8);
	}
}

/* Writes block b as the model has it. */
static void write_block(struct client *c, struct object *o, uint32_t b, uint32_t stable)
{
	unsigned char data[BLOCK];
	uint32_t s, count, committed;
	struct xr r;

	fill(o->stamp[b], b, data);
	begin(c, P_WRITE);
	xw_fh(&c->call, &o->fh);
	xw_u64(&c->call, (uint64_t)b * BLOCK);
	xw_u32(&c->call, BLOCK);
	xw_u32(&c->call, stable);
	xw_opaque(&c->call, data, BLOCK);
	note(c, "write block %u of file %llu, stable %u", b, (unsigned long long)o->fileid, stable);
	s = change(c, &r);
	expect(c, "WRITE", s, NFS_OK);
	if (s != NFS_OK)
		return;
	xr_wcc(&r);
	count = xr_u32(&r);
	committed = xr_u32(&r);
	if (r.bad || count != BLOCK || committed < stable)
		violation(c, "WRITE: %u bytes, stable %u of %u", count, committed, stable);
	memcpy(o->verf[b], xr_take(&r, 8), 8);
	o->unstable[b] = committed == UNSTABLE;
}

static bool is_unstable(const struct object *o)
{
	for (int b = 0; b < BLOCKS; b++)
		if (o->unstable[b])
			return true;
	return false;
}

/* COMMIT until everything is stable; what was written under another verifier is written again. */
static void commit(struct client *c, struct object *o)
{
	while (is_unstable(o)) {
		unsigned char verf[8];
		struct xr r;
		uint32_t s;

		begin(c, P_COMMIT);
		xw_fh(&c->call, &o->fh);
		xw_u64(&c->call, 0);
		xw_u32(&c->call, 0);
		note(c, "commit file %llu", (unsigned long long)o->fileid);
		s = change(c, &r);
		expect(c, "COMMIT", s, NFS_OK);
		if (s != NFS_OK)
			return;
		xr_wcc(&r);
		memcpy(verf, xr_take(&r, 8), 8);
		for (uint32_t b = 0; b < BLOCKS; b++) {
			if (!o->unstable[b])
				continue;
			if (!memcmp(o->verf[b], verf, 8))
				o->unstable[b] = false;
			else
				write_block(c, o, b, UNSTABLE);
		}
	}
}

static void op_write(struct client *c)
{
	int i = find_slot(c, true, REGS);
	uint32_t b = (uint32_t)rng_below(&c->rng, BLOCKS);
	struct object *o;

	if (i < 0)
		return;
	o = c->slots[i].o;
	o->stamp[b] = rng_next(&c->rng) | 1;
	if (o->blocks <= b)
		o->blocks = b + 1;
	write_block(c, o, b, rng_below(&c->rng, 3) ? UNSTABLE : FILE_SYNC);
	if (rng_below(&c->rng, 4) == 0)
		commit(c, o);
}

static void op_truncate(struct client *c)
{
	int i = find_slot(c, true, REGS);
	uint32_t blocks = (uint32_t)rng_below(&c->rng, BLOCKS + 1);
	struct object *o;
	struct xr r;

	if (i < 0)
		return;
	o = c->slots[i].o;
	commit(c, o);
	begin(c, P_SETATTR);
	xw_fh(&c->call, &o->fh);
	for (int k = 0; k < 3; k++)
		xw_u32(&c->call, 0); /* mode, uid, gid */
	xw_u32(&c->call, 1);
	xw_u64(&c->call, (uint64_t)blocks * BLOCK);
	for (int k = 0; k < 3; k++)
		xw_u32(&c->call, 0); /* atime, mtime, guard */
	note(c, "truncate file %llu from %u to %u blocks", (unsigned long long)o->fileid, o->blocks, blocks);
	expect(c, "SETATTR size", change(c, &r), NFS_OK);
	for (uint32_t b = blocks; b < BLOCKS; b++)
		o->stamp[b] = 0;
	o->blocks = blocks;
}

static void op_chmod(struct client *c)
{
	int i = find_slot(c, true, REGS | 1u << DIR_);
	struct object *o;
	struct xr r;

	if (i < 0)
		return;
	o = c->slots[i].o;
	o->mode = 0600 | (uint32_t)rng_below(&c->rng, 0200);
	begin(c, P_SETATTR);
	xw_fh(&c->call, &o->fh);
	xw_sattr_mode(&c->call, o->mode);
	xw_u32(&c->call, 0);
	note(c, "chmod object %llu to %o", (unsigned long long)o->fileid, o->mode);
	expect(c, "SETATTR mode", change(c, &r), NFS_OK);
}

/* ---- looks ---- */

static const char *look_data(struct client *c, void *arg)
{
	static _Thread_local char wrong[160];
	struct object *o = arg;
	unsigned char want[BLOCK];
	const unsigned char *data;
	uint32_t count;
	struct xr r;
	size_t n;

	begin(c, P_READ);
	xw_fh(&c->call, &o->fh);
	xw_u64(&c->call, 0);
	xw_u32(&c->call, BLOCKS * BLOCK);
	note(c, "read file %llu", (unsigned long long)o->fileid);
	if (ask(c, &r) != NFS_OK)
		return "READ of a file that is there fails";
	xr_post_attr(&r, NULL);
	count = xr_u32(&r);
	if (xr_u32(&r) != 1)
		return "READ to the end without eof";
	data = xr_opaque(&r, RECORD_MAX, &n);
	snprintf(wrong, sizeof wrong, "file %llu has %u bytes, must have %u", (unsigned long long)o->fileid, count, o->blocks * BLOCK);
	if (r.bad || count != n || count != o->blocks * BLOCK)
		return wrong;
	for (uint32_t b = 0; b < o->blocks; b++) {
		uint64_t first;

		fill(o->stamp[b], b, want);
		memcpy(&first, data + b * BLOCK, 8);
		snprintf(wrong, sizeof wrong, "block %u of file %llu begins with %llx, must be %llx", b, (unsigned long long)o->fileid,
			 (unsigned long long)first, (unsigned long long)(o->stamp[b] ? o->stamp[b] + b : 0));
		if (memcmp(want, data + b * BLOCK, BLOCK))
			return wrong;
	}
	return "";
}

static const char *look_attributes(struct client *c, void *arg)
{
	static _Thread_local char wrong[200];
	struct object *o = arg;
	struct nfs_attr a;
	struct xr r;

	begin(c, P_GETATTR);
	xw_fh(&c->call, &o->fh);
	note(c, "getattr object %llu", (unsigned long long)o->fileid);
	if (ask(c, &r) != NFS_OK)
		return "GETATTR of an object that is there fails";
	xr_attr(&r, &a);
	snprintf(wrong, sizeof wrong, "object %llu: number %llu, type %u, mode %o, nlink %u, size %llu; must be type %u, mode %o, nlink %u, %u blocks",
		 (unsigned long long)o->fileid, (unsigned long long)a.fileid, a.type, a.mode, a.nlink, (unsigned long long)a.size, o->kind, o->mode,
		 o->nlink, o->blocks);
	if (r.bad || a.fileid != o->fileid || a.type != (uint32_t)o->kind || a.mode != o->mode || (o->kind == REG && a.size != (uint64_t)o->blocks * BLOCK) ||
	    (o->kind != DIR_ && a.nlink != o->nlink))
		return wrong;
	return "";
}

static const char *look_name(struct client *c, void *arg)
{
	static _Thread_local char wrong[120];
	int i = (int)((struct slot *)arg - c->slots);
	struct object *o = c->slots[i].o;
	struct nfs_fh fh;
	struct xr r;
	uint32_t s;

	begin(c, P_LOOKUP);
	put_slot(c, i);
	note(c, "lookup slot %d (%s)", i, o ? "there" : "not there");
	s = ask(c, &r);
	snprintf(wrong, sizeof wrong, "LOOKUP of slot %d: %s", i, nfs_status_name(s));
	if (s != (o ? NFS_OK : NFSERR_NOENT))
		return wrong;
	if (!o)
		return "";
	xr_fh(&r, &fh);
	return fh.len == o->fh.len && !memcmp(fh.data, o->fh.data, fh.len) ? "" : "LOOKUP gives another handle than before";
}

/* The own name that an entry of a listing is, -1 for others'. */
static int own_name(struct client *c, const unsigned char *name, size_t len)
{
	char text[64];
	int id, i;

	if (len >= sizeof text)
		return -1;
	memcpy(text, name, len);
	text[len] = 0;
	return sscanf(text, "c%d-%d", &id, &i) == 2 && id == c->id && i >= 0 && i < SLOTS ? i : -1;
}

/* A directory, listed in pages: every own name that is there once, none that isn't. */
static const char *look_listing(struct client *c, void *arg)
{
	static _Thread_local char wrong[160];
	int d = (int)((struct nfs_fh *)arg - dirs), seen[SLOTS] = { 0 };
	unsigned char verf[8] = { 0 };
	uint64_t cookie = 0;
	struct xr r = { 0 };

	for (uint32_t eof = 0, status; !eof;) {
		unsigned entries = 0;

		begin(c, P_READDIRPLUS);
		xw_fh(&c->call, &dirs[d]);
		xw_u64(&c->call, cookie);
		xw_bytes(&c->call, verf, 8);
		xw_u32(&c->call, 2000);
		xw_u32(&c->call, 2000 + (uint32_t)rng_below(&c->rng, 8000));
		note(c, "list directory %d from %llx", d, (unsigned long long)cookie);
		status = ask(c, &r);
		snprintf(wrong, sizeof wrong, "READDIRPLUS: %s", nfs_status_name(status));
		if (status != NFS_OK)
			return wrong;
		xr_post_attr(&r, NULL);
		memcpy(verf, xr_take(&r, 8), 8);
		for (; xr_u32(&r); entries++) {
			uint64_t fileid = xr_u64(&r);
			struct nfs_fh fh;
			size_t n;
			const unsigned char *name = xr_opaque(&r, NFS_NAME_MAX, &n);
			int i = own_name(c, name, n);

			cookie = xr_u64(&r);
			xr_post_attr(&r, NULL);
			xr_post_fh(&r, &fh);
			if (i < 0)
				continue;
			seen[i]++;
			snprintf(wrong, sizeof wrong, "directory %d lists slot %d as object %llu", d, i, (unsigned long long)fileid);
			if (!c->slots[i].o || c->slots[i].dir != d || c->slots[i].o->fileid != fileid)
				return wrong;
		}
		eof = xr_u32(&r);
		if (r.bad || (!eof && !entries))
			return "READDIRPLUS: malformed, or neither entries nor the end";
	}
	for (int i = 0; i < SLOTS; i++) {
		int wanted = c->slots[i].o && c->slots[i].dir == d;

		snprintf(wrong, sizeof wrong, "directory %d lists slot %d %d times, must be %d", d, i, seen[i], wanted);
		if (seen[i] != wanted)
			return wrong;
	}
	return "";
}

static void check_object(struct client *c, struct object *o)
{
	commit(c, o);
	must_see(c, look_attributes, o);
	if (o->kind == REG)
		must_see(c, look_data, o);
}
static void op_look(struct client *c)
{
	int i = any_slot(c);

	must_see(c, look_name, &c->slots[i]);
	if (c->slots[i].o)
		check_object(c, c->slots[i].o);
}
static void op_list(struct client *c) { must_see(c, look_listing, &dirs[rng_below(&c->rng, DIRS)]); }

/* ---- between clients ---- */

/* The oldest round that a client may still be in. */
static unsigned oldest_round(void)
{
	unsigned oldest = UINT_MAX;

	for (int i = 0; i < opt.nclients; i++)
		if (atomic_load(&clients[i].round) < oldest)
			oldest = atomic_load(&clients[i].round);
	return oldest;
}

/* Names that nobody tries to make any more go, so that a long history doesn't fill the servers' disks. */
static void sweep_round(struct client *c, unsigned now)
{
	unsigned n = atomic_load(&swept);
	char name[32];
	struct xr r;

	if (n + ROUNDS_KEPT > now || n >= oldest_round() || !atomic_compare_exchange_strong(&swept, &n, n + 1))
		return;
	snprintf(name, sizeof name, "n%u", n);
	begin(c, P_REMOVE);
	xw_dirop(&c->call, &shared, name);
	note(c, "remove the name of round %u", n);
	expect(c, "REMOVE of an old round's name", change(c, &r), NFS_OK);
}

/* The current round's number, which the client is in from now on: 0 is noted first, so that no sweep comes between. */
static unsigned enter_round(struct client *c)
{
	atomic_store(&c->round, 0);
	atomic_store(&c->round, atomic_load(&round_now));
	return atomic_load(&c->round);
}

/* Every client tries to make the name of this round; one succeeds, and opens the next round. */
static void op_round(struct client *c)
{
	unsigned n = enter_round(c), now = n;
	char name[32];
	struct xr r;
	uint32_t s;

	if (n >= ROUNDS)
		return;
	snprintf(name, sizeof name, "n%u", n);
	begin(c, P_CREATE);
	xw_dirop(&c->call, &shared, name);
	xw_u32(&c->call, CREATE_GUARDED);
	xw_sattr_mode(&c->call, 0600);
	note(c, "round %u", n);
	s = change(c, &r);
	if (s == NFS_OK && atomic_fetch_add(&winners[n], 1))
		violation(c, "name %s was made twice", name);
	else if (s != NFS_OK)
		expect(c, "CREATE of a contended name", s, NFSERR_EXIST);
	atomic_store(&c->round, UINT_MAX);
	if (s != NFS_OK)
		return;
	atomic_compare_exchange_strong(&round_now, &now, n + 1);
	sweep_round(c, n);
}

static uint32_t rename_shared(struct client *c, const char *from, const char *to)
{
	struct xr r;

	begin(c, P_RENAME);
	xw_dirop(&c->call, &shared, from);
	xw_dirop(&c->call, &shared, to);
	note(c, "rename %s to %s", from, to);
	return change(c, &r);
}
static void token_back(struct client *c, const char *mine)
{
	atomic_store(&token_holder, 0);
	c->token = false;
	expect(c, "RENAME of the token that I hold", rename_shared(c, mine, "token"), NFS_OK);
}
static void op_token(struct client *c)
{
	char mine[32];
	int nobody = 0;
	uint32_t s;

	snprintf(mine, sizeof mine, "token-of-%d", c->id);
	if (c->token) {
		if (--c->token_left <= 0)
			token_back(c, mine);
		return;
	}
	s = rename_shared(c, "token", mine);
	if (s != NFS_OK) {
		expect(c, "RENAME of the token", s, NFSERR_NOENT);
		return;
	}
	c->token = true;
	c->token_left = 1 + (int)rng_below(&c->rng, 3);
	if (!atomic_compare_exchange_strong(&token_holder, &nobody, c->id + 1))
		violation(c, "I have the token, and so has client %d", nobody - 1);
}

/* One call of the lock manager by owner `svid`; its status. */
static uint32_t nlm(struct client *c, uint32_t proc, const struct nfs_fh *fh, bool exclusive, uint32_t svid, uint64_t offset)
{
	char owner[32];
	struct xr r;

	snprintf(owner, sizeof owner, "%u@%s", svid, c->machine);
	c->xid++;
	rpc_begin(&c->call, &c->who, c->xid, NLM_PROG, 4, proc);
	xw_opaque(&c->call, &c->xid, 4);
	if (proc == NLM_LOCK)
		xw_u32(&c->call, 0); /* don't block */
	if (proc != NLM_UNLOCK)
		xw_u32(&c->call, exclusive);
	xw_str(&c->call, c->machine);
	xw_fh(&c->call, fh);
	xw_str(&c->call, owner);
	xw_u32(&c->call, svid);
	xw_u64(&c->call, offset);
	xw_u64(&c->call, RANGE_BYTES);
	if (proc == NLM_LOCK)
		xw_u64(&c->call, 0); /* no reclaim, state 0 */
	note(c, "lock manager's procedure %u, owner %u, offset %llu, %s", proc, svid, (unsigned long long)offset, exclusive ? "exclusive" : "shared");
	return finish(c, NLM_ROFS, NLM_GRACE, &r);
}

static const char *look_counter(struct client *c, void *arg)
{
	uint64_t *value = arg;
	const unsigned char *data;
	struct xr r;
	size_t n;

	begin(c, P_READ);
	xw_fh(&c->call, &counter_file);
	xw_u64(&c->call, 0);
	xw_u32(&c->call, 8);
	note(c, "read the counter");
	if (ask(c, &r) != NFS_OK)
		return "READ of the counter fails";
	xr_post_attr(&r, NULL);
	xr_take(&r, 8);
	data = xr_opaque(&r, 8, &n);
	*value = 0;
	memcpy(value, data, n);
	return *value == counter ? "" : "the counter is not what the last holder of its lock wrote";
}

/* Whoever holds range 0 exclusively reads, adds one, writes. */
static void count_one(struct client *c)
{
	uint64_t value;
	struct xr r;

	must_see(c, look_counter, &value);
	counter++;
	begin(c, P_WRITE);
	xw_fh(&c->call, &counter_file);
	xw_u64(&c->call, 0);
	xw_u32(&c->call, 8);
	xw_u32(&c->call, FILE_SYNC);
	xw_opaque(&c->call, &counter, 8);
	note(c, "write the counter: %llu", (unsigned long long)counter);
	expect(c, "WRITE of the counter", change(c, &r), NFS_OK);
}

static void unlock(struct client *c)
{
	int range = c->lock_range;

	if (c->lock_shared)
		atomic_fetch_sub(&range_state[range], 1);
	else
		atomic_store(&range_state[range], 0);
	c->lock_range = -1;
	if (nlm(c, NLM_UNLOCK, &lock_file, false, (uint32_t)c->id + 1, (uint64_t)range * RANGE_BYTES) != NLM_GRANTED)
		violation(c, "UNLOCK is not granted");
}

static void locked(struct client *c, int range, bool exclusive)
{
	int state = atomic_load(&range_state[range]);

	c->lock_range = range;
	c->lock_shared = !exclusive;
	c->lock_left = (int)rng_below(&c->rng, 6);
	do {
		if (exclusive ? state != 0 : state < 0)
			violation(c, "range %d is granted %s while others hold it (%d)", range, exclusive ? "exclusively" : "shared", state);
	} while (!atomic_compare_exchange_weak(&range_state[range], &state, exclusive ? -1 : state + 1));
	if (exclusive && range == 0)
		count_one(c);
}

static void op_lock(struct client *c)
{
	bool exclusive = rng_below(&c->rng, 3) != 0;
	int range = (int)rng_below(&c->rng, RANGES);
	uint32_t s;

	if (!opt.locks)
		return;
	if (c->lock_range >= 0) {
		s = nlm(c, NLM_TEST, &lock_file, true, 1000 + (uint32_t)c->id, (uint64_t)c->lock_range * RANGE_BYTES);
		if (s != NLM_DENIED)
			violation(c, "the lock that I hold on range %d would be granted to another (%u)", c->lock_range, s);
		if (c->lock_left-- <= 0)
			unlock(c);
		return;
	}
	s = nlm(c, NLM_LOCK, &lock_file, exclusive, (uint32_t)c->id + 1, (uint64_t)range * RANGE_BYTES);
	if (s == NLM_GRANTED)
		locked(c, range, exclusive);
	else if (s != NLM_DENIED)
		violation(c, "LOCK: status %u", s);
}

/* ---- a client's life ---- */

static const struct {
	void (*run)(struct client *c);
	unsigned weight;
} operations[] = { { op_create, 10 }, { op_exclusive, 3 }, { op_mkdir, 4 },	{ op_symlink, 3 }, { op_remove, 12 }, { op_rename, 12 }, { op_link, 5 },
		   { op_write, 12 },  { op_truncate, 3 },  { op_chmod, 4 },	{ op_look, 8 },	   { op_list, 3 },    { op_round, 4 },	 { op_token, 6 },
		   { op_lock, 8 } };

static void one_operation(struct client *c)
{
	unsigned total = 0, at;
	size_t i = 0;

	for (size_t k = 0; k < sizeof operations / sizeof *operations; k++)
		total += operations[k].weight;
	for (at = (unsigned)rng_below(&c->rng, total); at >= operations[i].weight; i++)
		at -= operations[i].weight;
	operations[i].run(c);
}

static void last_look(struct client *c)
{
	char mine[32];

	snprintf(mine, sizeof mine, "token-of-%d", c->id);
	if (c->token)
		token_back(c, mine);
	if (c->lock_range >= 0)
		unlock(c);
	for (int d = 0; d < DIRS; d++)
		must_see(c, look_listing, &dirs[d]);
	for (int i = 0; i < SLOTS; i++) {
		must_see(c, look_name, &c->slots[i]);
		if (c->slots[i].o)
			check_object(c, c->slots[i].o);
	}
}

static void *live(void *arg)
{
	struct client *c = arg;

	while (!atomic_load(&stop) && !atomic_load(&violations))
		one_operation(c);
	last_look(c);
	return NULL;
}

/* ---- beginning and end ---- */

static void make_in(struct client *c, const struct nfs_fh *dir, const char *name, uint32_t proc, struct nfs_fh *fh)
{
	struct xr r;

	begin(c, proc);
	xw_dirop(&c->call, dir, name);
	if (proc == P_CREATE)
		xw_u32(&c->call, CREATE_GUARDED);
	xw_sattr_mode(&c->call, 0700);
	note(c, "make %s", name);
	if (change(c, &r) != NFS_OK || !xr_post_fh(&r, fh)) {
		violation(c, "can't make %s: is it there already?", name);
		_exit(2);
	}
}

static void mount_export(struct client *c)
{
	struct xr r;
	uint32_t s;

	c->xid++;
	c->port = opt.mount_port ? opt.mount_port : opt.port;
	rpc_begin(&c->call, &c->who, c->xid, MOUNT_PROG, 3, MOUNT_MNT);
	xw_str(&c->call, opt.export);
	s = finish(c, UINT32_MAX, UINT32_MAX, &r);
	if (s != NFS_OK) {
		fprintf(stderr, "nfshistory: mount: %s\n", nfs_status_name(s));
		exit(2);
	}
	xr_fh(&r, &root);
	disconnect(c);
	c->port = opt.port;
}

static void set_up(void)
{
	uint64_t fresh = rng_seed((uint64_t)time(NULL), (uint64_t)getpid());
	struct client *c = &clients[0];
	char name[32];

	for (int i = 0; i < opt.nclients; i++) {
		clients[i] = (struct client){ .id = i, .fd = -1, .port = opt.port, .lock_range = -1, .rng = rng_seed(opt.seed, (uint64_t)i), .round = UINT_MAX };
		clients[i].xid = (uint32_t)rng_next(&fresh); /* never those of another run: the server would take its calls for old ones */
		snprintf(clients[i].machine, sizeof clients[i].machine, "history%d", i);
		clients[i].who = (struct rpc_who){ 0, 0, clients[i].machine };
	}
	mount_export(c);
	for (int d = 0; d < DIRS; d++) {
		snprintf(name, sizeof name, "dir%d", d);
		make_in(c, &root, name, P_MKDIR, &dirs[d]);
	}
	make_in(c, &root, "shared", P_MKDIR, &shared);
	make_in(c, &shared, "token", P_CREATE, &lock_file);
	make_in(c, &shared, "lock", P_CREATE, &lock_file);
	make_in(c, &shared, "counter", P_CREATE, &counter_file);
	for (int i = 0; i < opt.nclients; i++) {
		snprintf(name, sizeof name, "probe%d", i);
		make_in(c, &shared, name, P_CREATE, &clients[i].probe);
	}
}

static void check_rounds(void)
{
	for (unsigned n = 0; n < atomic_load(&round_now); n++)
		if (atomic_load(&winners[n]) != 1)
			violation(&clients[0], "name n%u was made by %u clients", n, atomic_load(&winners[n]));
}

static void on_signal(int sig)
{
	(void)sig;
	atomic_store(&stop, true);
}

static void tell_progress(int fd)
{
	uint64_t ops = 0;
	char text[32];

	for (int i = 0; i < opt.nclients; i++)
		ops += clients[i].ops;
	snprintf(text, sizeof text, "%020llu\n", (unsigned long long)ops);
	if (fd >= 0 && pwrite(fd, text, strlen(text), 0) < 0)
		die("%s", opt.progress);
}

static void totals(void)
{
	uint64_t ops = 0, retransmitted = 0, connected_n = 0, again = 0, forgiven = 0;
	double longest = 0, at = 0;

	for (int i = 0; i < opt.nclients; i++) {
		struct client *c = &clients[i];

		ops += c->ops;
		retransmitted += c->retransmitted;
		connected_n += c->connected;
		again += c->again;
		forgiven += c->forgiven;
		if (c->longest > longest) {
			longest = c->longest;
			at = c->longest_at;
		}
	}
	printf("%llu operations of %d clients in %.1f s: %llu sent again, %llu connections, %llu told to come later, %llu old answers of a standby, %u contended names, "
	       "counter %llu; longest wait %.0f ms (at %.1f s); %d violations\n",
	       (unsigned long long)ops, opt.nclients, now_s() - started, (unsigned long long)retransmitted, (unsigned long long)connected_n,
	       (unsigned long long)again, (unsigned long long)forgiven, atomic_load(&round_now), (unsigned long long)counter, longest * 1000, at,
	       atomic_load(&violations));
}

static void options(int argc, char **argv)
{
	int o;

	while ((o = getopt(argc, argv, "p:m:c:S:t:o:Lw:")) != -1) {
		switch (o) {
		case 'p': opt.port = atoi(optarg); break;
		case 'm': opt.mount_port = atoi(optarg); break;
		case 'c': opt.nclients = atoi(optarg); break;
		case 'S': opt.seed = strtoull(optarg, NULL, 0); break;
		case 't': opt.seconds = atoi(optarg); break;
		case 'o': opt.progress = optarg; break;
		case 'L': opt.locks = false; break;
		case 'w': opt.patience_s = atoi(optarg); break;
		default: exit(2);
		}
	}
	opt.nhosts = argc - optind - 1;
	if (opt.nhosts < 1 || opt.nhosts > MAX_HOSTS || opt.nclients < 1 || opt.nclients > MAX_CLIENTS) {
		fprintf(stderr, "usage: nfshistory [-p PORT] [-m PORT] [-c N] [-S SEED] [-t SECONDS] [-o FILE] [-L] [-w SECONDS] EXPORT HOST...\n");
		exit(2);
	}
	opt.export = argv[optind];
	for (int i = 0; i < opt.nhosts; i++)
		opt.hosts[i] = argv[optind + 1 + i];
}

int main(int argc, char **argv)
{
	int progress;

	options(argc, argv);
	progress = opt.progress ? open(opt.progress, O_CREAT | O_WRONLY | O_CLOEXEC, 0644) : -1;
	signal(SIGTERM, on_signal);
	signal(SIGINT, on_signal);
	started = now_s();
	set_up();
	for (int i = 0; i < opt.nclients; i++)
		if (pthread_create(&clients[i].thread, NULL, live, &clients[i]))
			die("thread");
	while (!atomic_load(&stop) && !atomic_load(&violations)) {
		usleep(50000);
		tell_progress(progress);
		if (opt.seconds && now_s() - started > opt.seconds)
			atomic_store(&stop, true);
	}
	for (int i = 0; i < opt.nclients; i++)
		pthread_join(clients[i].thread, NULL);
	check_rounds();
	tell_progress(progress);
	totals();
	return atomic_load(&violations) != 0;
}
