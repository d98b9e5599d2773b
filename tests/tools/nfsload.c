/* nfsload: how fast does an NFSv3 server answer, and what does it cost it?
 *
 *   nfsload [OPTION]... HOST EXPORT OP COUNT [OP COUNT]...
 *
 *     -c N      connections (1), each one client         -p PORT   of NFS (2049)       -m PORT   of MOUNT (the same)
 *     -k N      calls in flight on each (1)              -b BYTES  of one READ or WRITE (1048576)
 *     -s PID    the server: its CPU time is measured     -n NAME   put before the names of the measures
 *
 *   getattr N, lookup N, create N, remove N    so many calls over all connections; each connection works in a directory of its own below /load-NAME,
 *                                              lookup and remove on what create made there before
 *   readdirplus N                              so many times all entries of the first directory are listed, on one connection
 *   write MIB, read MIB                        one file, sequentially, on the first connection; write ends with COMMIT; read looks at what it gets
 *   idle N                                     N more connections, each having mounted and asked once; then the server's memory
 *
 * Prints lines NAME<TAB>VALUE<TAB>UNIT: the rate of each OP, and its CPU time on the server as OP_cpu. One thread drives all connections with
 * poll: calls are encoded once, and replies looked at no further than needed, so that the server is what is measured. Any error ends it, status 2. */
#include <fcntl.h>
#include <getopt.h>
#include <stddef.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include "tests/tools/nfswire.h"

enum { MAX_INFLIGHT = 64, HEAD_MAX = 512, IN_BYTES = 16 << 20, RECORD_MAX = (1 << 20) + 65536, STALL_MS = 30000 };

/* A call on its way out: `head`, then `tail_len` bytes of the shared payload. */
struct out {
	unsigned char head[HEAD_MAX];
	size_t head_len, tail_len;
};

struct conn {
	int fd;
	struct nfs_fh dir;			   /* what create, lookup and remove work in */
	struct out out[MAX_INFLIGHT];		   /* ring */
	unsigned out_first, out_count;
	size_t out_sent;			   /* of the first one */
	unsigned char *in;			   /* IN_BYTES, owned; allocated at the first reply */
	size_t in_start, in_end;		   /* the unread part; it begins with a record mark */
	unsigned inflight;
	uint64_t next, last;			   /* the connection's own numbers of calls */
};

static struct {
	const char *host, *export, *name;
	int port, mount_port, nconns, inflight;
	uint32_t io_bytes;
	pid_t server;
} opt = { .name = "", .port = 2049, .nconns = 1, .inflight = 1, .io_bytes = 1 << 20 };

static struct conn *conns;
static const struct rpc_who who = { 0, 0, "load" };
static struct xw scratch, reply;
static struct nfs_fh root, top, file;
static unsigned char *payload;
static uint32_t xid;	/* begins anew in each run, or servers would take its calls for repeated ones */
static uint64_t made; /* files by each connection, for lookup and remove */

/* What an OP is: how to make call i of a connection, and what to do with a reply. */
struct load_op {
	const char *name;
	void (*call)(struct conn *c, uint64_t i);
	void (*done)(struct conn *c, struct xr *r, size_t record_len);
	const char *unit;
};

static void fail(const char *what, const char *why)
{
	fprintf(stderr, "nfsload: %s: %s\n", what, why);
	exit(2);
}

/* One call at a time, for what isn't measured. The program's arguments were put behind rpc_begin(); r is at the results. */
static void call_wait(int fd, struct xr *r)
{
	uint32_t got;

	rpc_end(&scratch);
	if (!tcp_move(fd, scratch.data, scratch.len, true, STALL_MS) || !record_read(fd, &reply, RECORD_MAX, STALL_MS))
		fail("call", "no answer");
	if (!rpc_reply_open(reply.data, reply.len, &got, r))
		fail("call", "the server refuses it");
}

static void expect_ok(struct xr *r, const char *what)
{
	uint32_t s = xr_u32(r);

	if (r->bad || s)
		fail(what, r->bad ? "malformed reply" : nfs_status_name(s));
}

static int connect_to(int port)
{
	int fd = tcp_connect(opt.host, port, 0, STALL_MS);

	if (fd < 0)
		fail("connect", strerror(-fd));
	return fd;
}

static void mount_export(struct nfs_fh *fh)
{
	int fd = connect_to(opt.mount_port);
	struct xr r;

	rpc_begin(&scratch, &who, xid++, MOUNT_PROG, 3, MOUNT_MNT);
	xw_str(&scratch, opt.export);
	call_wait(fd, &r);
	expect_ok(&r, "mount");
	xr_fh(&r, fh);
	close(fd);
}

/* The object's handle; it is made with `proc` when it isn't there. */
static void find_or_make(int fd, const struct nfs_fh *dir, const char *name, uint32_t proc, struct nfs_fh *fh)
{
	struct xr r;

	for (int attempt = 0;; attempt++) {
		uint32_t s;

		rpc_begin(&scratch, &who, xid++, NFS_PROG, 3, P_LOOKUP);
		xw_dirop(&scratch, dir, name);
		call_wait(fd, &r);
		s = xr_u32(&r);
		if (!s) {
			xr_fh(&r, fh);
			return;
		}
		if (attempt || s != NFSERR_NOENT)
			fail("lookup", nfs_status_name(s));
		rpc_begin(&scratch, &who, xid++, NFS_PROG, 3, proc);
		xw_dirop(&scratch, dir, name);
		if (proc == P_CREATE)
			xw_u32(&scratch, CREATE_GUARDED);
		xw_sattr_mode(&scratch, proc == P_CREATE ? 0644 : 0755);
		call_wait(fd, &r);
		expect_ok(&r, "create");
	}
}

/* ---- the calls ---- */

static struct out *out_new(struct conn *c)
{
	struct out *o = &c->out[(c->out_first + c->out_count++) % MAX_INFLIGHT];

	if (scratch.len > HEAD_MAX)
		fail("call", "too long");
	memcpy(o->head, scratch.data, scratch.len);
	o->head_len = scratch.len;
	o->tail_len = 0;
	return o;
}

static void begin(uint32_t proc) { rpc_begin(&scratch, &who, xid++, NFS_PROG, 3, proc); }
static void finish(struct conn *c)
{
	rpc_end(&scratch);
	out_new(c);
}

static void getattr_call(struct conn *c, uint64_t i)
{
	(void)i;
	begin(P_GETATTR);
	xw_fh(&scratch, &c->dir);
	finish(c);
}
static void name_call(struct conn *c, uint32_t proc, uint64_t i)
{
	char name[32];

	snprintf(name, sizeof name, "file-%08llu", (unsigned long long)i);
	begin(proc);
	xw_dirop(&scratch, &c->dir, name);
}
static void lookup_call(struct conn *c, uint64_t i)
{
	name_call(c, P_LOOKUP, i % (made ? made : 1));
	finish(c);
}
static void create_call(struct conn *c, uint64_t i)
{
	name_call(c, P_CREATE, i);
	xw_u32(&scratch, CREATE_GUARDED);
	xw_sattr_mode(&scratch, 0644);
	finish(c);
}
static void remove_call(struct conn *c, uint64_t i)
{
	name_call(c, P_REMOVE, i);
	finish(c);
}
static void read_call(struct conn *c, uint64_t i)
{
	begin(P_READ);
	xw_fh(&scratch, &file);
	xw_u64(&scratch, i * opt.io_bytes);
	xw_u32(&scratch, opt.io_bytes);
	finish(c);
}
static void write_call(struct conn *c, uint64_t i)
{
	struct out *o;

	begin(P_WRITE);
	xw_fh(&scratch, &file);
	xw_u64(&scratch, i * opt.io_bytes);
	xw_u32(&scratch, opt.io_bytes);
	xw_u32(&scratch, UNSTABLE);
	xw_u32(&scratch, opt.io_bytes);
	xw_u64(&scratch, i * opt.io_bytes); /* each block begins with its offset, the rest is the same in all */
	put_u32(scratch.data, 0x80000000u | (uint32_t)(scratch.len - 4 + opt.io_bytes - 8));
	o = out_new(c);
	o->tail_len = opt.io_bytes - 8;
}

static unsigned char write_verf[8];
static bool have_verf;

static void status_done(struct conn *c, struct xr *r, size_t len)
{
	(void)c, (void)len;
	expect_ok(r, "call");
}
static void read_done(struct conn *c, struct xr *r, size_t len)
{
	uint32_t count, eof, data_len;
	uint64_t offset;

	(void)c, (void)len;
	expect_ok(r, "read");
	xr_post_attr(r, NULL);
	count = xr_u32(r);
	eof = xr_u32(r);
	data_len = xr_u32(r);
	offset = xr_u64(r);
	if (r->bad || count != opt.io_bytes || data_len != count || eof > 1 || offset % opt.io_bytes ||
	    (size_t)(r->end - r->p) < opt.io_bytes - 8 || memcmp(r->end - 8, payload, 8))
		fail("read", "not what was written");
}
static void write_done(struct conn *c, struct xr *r, size_t len)
{
	uint32_t count, stable;
	const unsigned char *verf;

	(void)c, (void)len;
	expect_ok(r, "write");
	xr_wcc(r);
	count = xr_u32(r);
	stable = xr_u32(r);
	verf = xr_take(r, 8);
	if (r->bad || count != opt.io_bytes || stable > FILE_SYNC || (have_verf && memcmp(verf, write_verf, 8)))
		fail("write", "short, or another verifier");
	memcpy(write_verf, verf, 8);
	have_verf = true;
}

/* ---- the loop ---- */

static void send_some(struct conn *c)
{
	struct iovec v[2 * MAX_INFLIGHT];
	size_t skip = c->out_sent;
	ssize_t n;
	int count = 0;

	for (unsigned i = 0; i < c->out_count; i++) {
		struct out *o = &c->out[(c->out_first + i) % MAX_INFLIGHT];

		if (skip < o->head_len)
			v[count++] = (struct iovec){ o->head + skip, o->head_len - skip };
		skip = skip < o->head_len ? 0 : skip - o->head_len;
		if (o->tail_len > skip)
			v[count++] = (struct iovec){ payload, o->tail_len - skip };
		skip = 0;
	}
	if (!count)
		return;
	n = writev(c->fd, v, count);
	if (n < 0 && errno != EAGAIN)
		fail("send", strerror(errno));
	for (c->out_sent += n > 0 ? (size_t)n : 0; c->out_count;) {
		struct out *o = &c->out[c->out_first];

		if (c->out_sent < o->head_len + o->tail_len)
			break;
		c->out_sent -= o->head_len + o->tail_len;
		c->out_first = (c->out_first + 1) % MAX_INFLIGHT;
		c->out_count--;
	}
}

/* The next whole record's bytes, or NULL. A record of several fragments is joined in place. */
static unsigned char *next_record(struct conn *c, size_t *len)
{
	unsigned char *base = c->in + c->in_start;
	size_t have = c->in_end - c->in_start, at = 4;

	for (;;) {
		uint32_t mark;

		if (have < 4)
			return NULL;
		mark = get_u32(base);
		if ((mark & 0x7fffffffu) > RECORD_MAX)
			fail("receive", "a record beyond all bounds");
		at = 4 + (mark & 0x7fffffffu);
		if (mark & 0x80000000u)
			break;
		if (have < at + 4)
			return NULL;
		mark = get_u32(base + at); /* joined: the sum of both, last if the second one is */
		put_u32(base, (uint32_t)(at - 4) + mark);
		memmove(base + at, base + at + 4, have - at - 4);
		have -= 4;
		c->in_end -= 4;
	}
	if (have < at)
		return NULL;
	*len = at - 4;
	c->in_start += at;
	return base + 4;
}

static void issue(struct conn *c, const struct load_op *op)
{
	while (c->inflight < (unsigned)opt.inflight && c->next < c->last) {
		op->call(c, c->next++);
		c->inflight++;
	}
}

static uint64_t receive_some(struct conn *c, const struct load_op *op)
{
	unsigned char *record;
	uint64_t done = 0;
	size_t len;
	ssize_t n;

	if (!c->in)
		c->in = xmalloc(IN_BYTES);
	n = recv(c->fd, c->in + c->in_end, IN_BYTES - c->in_end, MSG_DONTWAIT);
	if (n <= 0 && !(n < 0 && errno == EAGAIN))
		fail("receive", n ? strerror(errno) : "the server has closed the connection");
	c->in_end += n > 0 ? (size_t)n : 0;
	while ((record = next_record(c, &len))) {
		uint32_t got;
		struct xr r;

		if (!rpc_reply_open(record, len, &got, &r))
			fail("call", "the server refuses it");
		op->done(c, &r, len);
		c->inflight--;
		done++;
	}
	if (c->in_start == c->in_end) {
		c->in_start = c->in_end = 0;
	} else if (IN_BYTES - c->in_end < RECORD_MAX) {
		memmove(c->in, c->in + c->in_start, c->in_end - c->in_start);
		c->in_end -= c->in_start;
		c->in_start = 0;
	}
	return done;
}

/* n calls, spread over `used` connections. */
static void run(const struct load_op *op, uint64_t n, int used)
{
	struct pollfd *pfd = xcalloc((size_t)used, sizeof *pfd);
	uint64_t done = 0;

	for (int i = 0; i < used; i++) {
		conns[i].next = 0;
		conns[i].last = n / (uint64_t)used;
		pfd[i].fd = conns[i].fd;
		issue(&conns[i], op);
		send_some(&conns[i]);
	}
	n -= n % (uint64_t)used;
	while (done < n) {
		for (int i = 0; i < used; i++)
			pfd[i].events = (short)(POLLIN | (conns[i].out_count ? POLLOUT : 0));
		if (poll(pfd, (nfds_t)used, STALL_MS) <= 0)
			fail(op->name, "no answer");
		for (int i = 0; i < used; i++) {
			if (!pfd[i].revents)
				continue;
			done += receive_some(&conns[i], op);
			issue(&conns[i], op);
			send_some(&conns[i]);
		}
	}
	free(pfd);
}

/* ---- measures ---- */

/* CPU seconds of the server so far, 0 when none was named. */
static double server_cpu(void)
{
	char *path = xasprintf("/proc/%d/stat", (int)opt.server), line[1024] = "", *p;
	unsigned long user = 0, sys = 0;
	FILE *f = opt.server ? fopen(path, "re") : NULL;

	free(path);
	if (!f)
		return 0;
	if (!fgets(line, sizeof line, f) || !(p = strrchr(line, ')')) ||
	    sscanf(p + 2, "%*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &user, &sys) != 2)
		fail("server", "can't read its CPU time");
	fclose(f);
	return (double)(user + sys) / (double)sysconf(_SC_CLK_TCK);
}

static void print_rate(const char *op, double value, const char *unit, double cpu_s, double per, const char *cpu_unit)
{
	printf("%s%s\t%.5g\t%s\n", opt.name, op, value, unit);
	if (opt.server)
		printf("%s%s_cpu\t%.4g\t%s\n", opt.name, op, cpu_s / per, cpu_unit);
	fflush(stdout);
}

static const struct load_op call_ops[] = {
	{ "getattr", getattr_call, status_done, "ops/s" },
	{ "lookup", lookup_call, status_done, "ops/s" },
	{ "create", create_call, status_done, "ops/s" },
	{ "remove", remove_call, status_done, "ops/s" },
};
static const struct load_op read_op = { "read", read_call, read_done, "MiB/s" };
static const struct load_op write_op = { "write", write_call, write_done, "MiB/s" };

static void measure_calls(const struct load_op *op, uint64_t n)
{
	double t = now_s(), cpu = server_cpu();

	run(op, n, opt.nconns);
	t = now_s() - t;
	cpu = server_cpu() - cpu;
	if (!strcmp(op->name, "create"))
		made = n / (uint64_t)opt.nconns;
	print_rate(op->name, (double)n / t, op->unit, cpu * 1e6, (double)n, "us");
}

static void commit(void)
{
	struct xr r;

	begin(P_COMMIT);
	xw_fh(&scratch, &file);
	xw_u64(&scratch, 0);
	xw_u32(&scratch, 0);
	call_wait(conns[0].fd, &r);
	expect_ok(&r, "commit");
	xr_wcc(&r);
	if (memcmp(xr_take(&r, 8), write_verf, 8) || r.bad)
		fail("commit", "another verifier than that of the writes");
}

static void measure_data(const struct load_op *op, uint64_t mib)
{
	bool writing = op == &write_op;
	uint64_t n = mib * (1 << 20) / opt.io_bytes;
	double t, cpu;

	find_or_make(conns[0].fd, &top, "data", P_CREATE, &file);
	t = now_s();
	cpu = server_cpu();
	run(op, n, 1);
	if (writing)
		commit();
	t = now_s() - t;
	cpu = server_cpu() - cpu;
	print_rate(op->name, (double)mib / t, op->unit, cpu * 1e3, (double)mib / 1024, "ms/GiB");
}

/* One pass over the first directory: how many entries. */
static uint64_t list_once(void)
{
	unsigned char verf[8] = { 0 };
	uint64_t cookie = 0, entries = 0;
	uint32_t eof = 0;
	struct xr r;
	size_t n;

	while (!eof) {
		uint64_t before = entries;

		begin(P_READDIRPLUS);
		xw_fh(&scratch, &conns[0].dir);
		xw_u64(&scratch, cookie);
		xw_bytes(&scratch, verf, 8);
		xw_u32(&scratch, 65536);
		xw_u32(&scratch, 65536);
		call_wait(conns[0].fd, &r);
		expect_ok(&r, "readdirplus");
		xr_post_attr(&r, NULL);
		memcpy(verf, xr_take(&r, 8), 8);
		for (; xr_u32(&r); entries++) {
			struct nfs_fh fh;

			xr_u64(&r);
			xr_opaque(&r, NFS_NAME_MAX, &n);
			cookie = xr_u64(&r);
			xr_post_attr(&r, NULL);
			xr_post_fh(&r, &fh);
		}
		eof = xr_u32(&r);
		if (r.bad || (!eof && entries == before))
			fail("readdirplus", "malformed reply");
	}
	return entries;
}

static void measure_listing(uint64_t passes)
{
	double t = now_s(), cpu = server_cpu();
	uint64_t entries = 0;

	for (uint64_t i = 0; i < passes; i++)
		entries += list_once();
	t = now_s() - t;
	cpu = server_cpu() - cpu;
	if (made && entries < passes * made)
		fail("readdirplus", "entries are missing");
	print_rate("readdirplus", (double)entries / t, "entries/s", cpu * 1e6, (double)entries, "us");
}

/* Resident memory of the server, MiB. */
static double server_rss(void)
{
	char *path = xasprintf("/proc/%d/status", (int)opt.server), line[256];
	unsigned long kib = 0;
	FILE *f = fopen(path, "re");

	free(path);
	while (f && fgets(line, sizeof line, f))
		if (sscanf(line, "VmRSS: %lu", &kib) == 1)
			break;
	if (f)
		fclose(f);
	return (double)kib / 1024;
}

static void measure_idle(uint64_t n)
{
	double before = server_rss();
	struct xr r;

	for (uint64_t i = 0; i < n; i++) {
		int fd = connect_to(opt.port);

		rpc_begin(&scratch, &who, xid++, NFS_PROG, 3, P_GETATTR);
		xw_fh(&scratch, &root);
		call_wait(fd, &r);
		expect_ok(&r, "getattr");
	} /* left open on purpose until the end */
	printf("%smemory_before\t%.5g\tMiB\n%smemory\t%.5g\tMiB\n", opt.name, before, opt.name, server_rss());
}

static void measure(const char *op, uint64_t n)
{
	for (size_t i = 0; i < sizeof call_ops / sizeof *call_ops; i++)
		if (!strcmp(op, call_ops[i].name)) {
			measure_calls(&call_ops[i], n);
			return;
		}
	if (!strcmp(op, "read") || !strcmp(op, "write"))
		measure_data(*op == 'r' ? &read_op : &write_op, n);
	else if (!strcmp(op, "readdirplus"))
		measure_listing(n);
	else if (!strcmp(op, "idle"))
		measure_idle(n);
	else
		fail(op, "no such measure");
}

static void set_up(void)
{
	char *name = xasprintf("load-%s", opt.name);
	struct rlimit files;

	if (!getrlimit(RLIMIT_NOFILE, &files)) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	payload = xmalloc(opt.io_bytes);
	memset(payload, 'x', opt.io_bytes);
	mount_export(&root);
	conns = xcalloc((size_t)opt.nconns, sizeof *conns);
	for (int i = 0; i < opt.nconns; i++) {
		char sub[24];

		conns[i].fd = connect_to(opt.port);
		snprintf(sub, sizeof sub, "%d", i);
		find_or_make(conns[i].fd, &root, name, P_MKDIR, &top);
		find_or_make(conns[i].fd, &top, sub, P_MKDIR, &conns[i].dir);
	}
	free(name);
}

int main(int argc, char **argv)
{
	struct timespec now;
	int o;

	clock_gettime(CLOCK_REALTIME, &now);
	xid = (uint32_t)(now.tv_sec << 20) ^ (uint32_t)(now.tv_nsec >> 10);
	while ((o = getopt(argc, argv, "c:k:p:m:b:s:n:")) != -1) {
		switch (o) {
		case 'c': opt.nconns = atoi(optarg); break;
		case 'k': opt.inflight = atoi(optarg); break;
		case 'p': opt.port = atoi(optarg); break;
		case 'm': opt.mount_port = atoi(optarg); break;
		case 'b': opt.io_bytes = (uint32_t)atoi(optarg); break;
		case 's': opt.server = atoi(optarg); break;
		case 'n': opt.name = optarg; break;
		default: return 2;
		}
	}
	if (argc - optind < 4 || (argc - optind) % 2 || opt.nconns < 1 || opt.inflight < 1 || opt.inflight > MAX_INFLIGHT || opt.io_bytes < 16)
		fail("usage", "nfsload [-c N] [-k N] [-p PORT] [-m PORT] [-b BYTES] [-s PID] [-n NAME] HOST EXPORT OP COUNT...");
	if (!opt.mount_port)
		opt.mount_port = opt.port;
	opt.host = argv[optind++];
	opt.export = argv[optind++];
	set_up();
	for (; optind < argc; optind += 2)
		measure(argv[optind], strtoull(argv[optind + 1], NULL, 0));
	return 0;
}
