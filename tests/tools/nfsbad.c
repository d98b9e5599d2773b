/* nfsbad: clients that behave as badly as a network allows, against a server that is up; nothing is mounted. Shares nothing with the product.
 *
 *   nfsbad SOURCE HOST PORT calls EXPORT      every kind of call that is wrong, one after the other: each must get its error, or a closed connection, and another
 *                                             connection must be served as before. A line for each that isn't so
 *   nfsbad SOURCE HOST PORT silent N          N connections that say nothing
 *   nfsbad SOURCE HOST PORT busy N            N connections, each with a NULL every half second
 *   nfsbad SOURCE HOST PORT torn N            N connections with a part of a record: of its mark, of a megabyte, of a fragment, byte after byte
 *   nfsbad SOURCE HOST PORT deaf N EXPORT FILE   N connections that ask for FILE, a megabyte at a time, and never read
 *
 * The last four say "ready" when all that the server lets in are there, and open again what it closes, until SIGTERM. SOURCE: the address to call from. */
#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include "tests/tools/nfswire.h"

enum { TIMEOUT_MS = 20000, CONNECT_MS = 3000, RECORD_MAX = 2 << 20, BUSY_MS = 500, AGAIN_MS = 1000, TEXT_LEN = 100, MARGIN = 64, READS = 16 };
enum { MISMATCH = 1 << 16, DENIED = 1 << 17, ACCEPTED = 1 << 18, CLOSED = 1 << 19, NOTHING = 1 << 20 };	/* else: a status of the program */
enum { BADCRED = 1, REJECTED = 2, BADVERF = 3 };
enum { PROG_UNAVAIL = 1, PROG_MISMATCH = 2, PROC_UNAVAIL = 3, GARBAGE = 4 };
enum { INVAL = 22, FBIG = 27, NAMETOOLONG = 63, BADHANDLE = 10001, NLM_FBIG = 8 };

static struct {
	const char *source, *host;
	int port;
} opt;
static const struct rpc_who me = { 0, 0, "bad" };
static uint32_t xid = 0x0bad0000;
static unsigned wrong, done;
static struct nfs_fh root;
static volatile sig_atomic_t stop;

/* ---- connections ---- */

static int dial(void)
{
	struct sockaddr_in from = { .sin_family = AF_INET }, to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port) };
	struct pollfd p = { .events = POLLOUT };
	socklen_t len = sizeof(int);
	int one = 1, error = 0;

	inet_pton(AF_INET, opt.source, &from.sin_addr);
	inet_pton(AF_INET, opt.host, &to.sin_addr);
	p.fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	setsockopt(p.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	setsockopt(p.fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
	if (p.fd < 0 || bind(p.fd, (struct sockaddr *)&from, sizeof from))
		die("socket");
	if (connect(p.fd, (struct sockaddr *)&to, sizeof to) && errno != EINPROGRESS)
		error = errno;
	else if (poll(&p, 1, CONNECT_MS) != 1 || getsockopt(p.fd, SOL_SOCKET, SO_ERROR, &error, &len) || error)
		error = 1;
	if (!error)
		return p.fd;
	close(p.fd);
	return -1;
}

static int dial_or_die(void)
{
	int fd = dial();

	if (fd < 0)
		die("%s port %d", opt.host, opt.port);
	return fd;
}

static bool is_closed(int fd)
{
	char c;
	ssize_t n = recv(fd, &c, 1, MSG_DONTWAIT | MSG_PEEK);

	return n == 0 || (n < 0 && errno != EAGAIN);
}

/* What the server says to call ID: a status, or one of the above with its number. */
static uint32_t answer(int fd, uint32_t id)
{
	static struct xw in;
	struct xr r;
	uint32_t got, verdict;
	size_t n;

	if (!record_read(fd, &in, RECORD_MAX, TIMEOUT_MS))
		return is_closed(fd) ? CLOSED : NOTHING;
	if (rpc_reply_open(in.data, in.len, &got, &r))
		return got == id ? xr_u32(&r) : NOTHING;
	r = (struct xr){ .p = in.data, .end = in.data + in.len };
	got = xr_u32(&r);
	xr_u32(&r);
	if (got != id)
		return NOTHING;
	if (xr_u32(&r)) {
		verdict = xr_u32(&r);
		return verdict ? DENIED | xr_u32(&r) : MISMATCH;
	}
	xr_u32(&r);
	xr_opaque(&r, 400, &n);
	return ACCEPTED | xr_u32(&r);
}

static bool served(void)
{
	struct xw w = { 0 };
	int fd = dial();
	bool good;

	rpc_begin(&w, &me, ++xid, NFS_PROG, 3, P_NULL);
	rpc_end(&w);
	good = fd >= 0 && tcp_move(fd, w.data, w.len, true, TIMEOUT_MS) && !(answer(fd, xid) & (CLOSED | NOTHING | DENIED));
	close(fd);
	free(w.data);
	return good;
}

static void judge(const char *name, uint32_t got, uint32_t want)
{
	done++;
	if (got != want)
		printf("%s: %#x instead of %#x\n", name, got, want);
	wrong += got != want;
	if (served())
		return;
	printf("%s: afterwards nobody is served\n", name);
	wrong++;
}

static void send_raw(const char *name, void *p, size_t len, uint32_t want)
{
	int fd = dial_or_die();

	tcp_move(fd, p, len, true, TIMEOUT_MS);
	judge(name, answer(fd, xid), want);
	close(fd);
}

static void send_call(const char *name, struct xw *w, uint32_t want)
{
	rpc_end(w);
	send_raw(name, w->data, w->len, want);
}

/* ---- the header ---- */

static void header(const char *name, const uint32_t *words, size_t n, uint32_t want)
{
	struct xw w = { 0 };

	xw_u32(&w, 0);
	xw_u32(&w, ++xid);
	for (size_t i = 0; i < n; i++)
		xw_u32(&w, words[i]);
	send_call(name, &w, want);
	free(w.data);
}
#define HEADER(name, want, ...) header(name, (uint32_t[]){ __VA_ARGS__ }, sizeof((uint32_t[]){ __VA_ARGS__ }) / 4, want)

static void headers(void)
{
	HEADER("RPC version 3", MISMATCH, 0, 3, NFS_PROG, 3, 0, 0, 0, 0, 0);
	HEADER("a program that isn't there", ACCEPTED | PROG_UNAVAIL, 0, 2, 0x7fffffff, 3, 0, 0, 0, 0, 0);
	HEADER("NFS version 2", ACCEPTED | PROG_MISMATCH, 0, 2, NFS_PROG, 2, 0, 0, 0, 0, 0);
	HEADER("NFS version 4", ACCEPTED | PROG_MISMATCH, 0, 2, NFS_PROG, 4, 0, 0, 0, 0, 0);
	HEADER("procedure 22", ACCEPTED | PROC_UNAVAIL, 0, 2, NFS_PROG, 3, 22, 0, 0, 0, 0);
	HEADER("procedure 2^32 - 1", ACCEPTED | PROC_UNAVAIL, 0, 2, NFS_PROG, 3, UINT32_MAX, 0, 0, 0, 0);
	HEADER("RPCSEC_GSS", DENIED | REJECTED, 0, 2, NFS_PROG, 3, 0, 6, 0, 0, 0);
	HEADER("flavour 2^32 - 1", DENIED | REJECTED, 0, 2, NFS_PROG, 3, 0, UINT32_MAX, 0, 0, 0);
	HEADER("a credential of 2^31 bytes", DENIED | BADCRED, 0, 2, NFS_PROG, 3, 0, 1, 0x80000000u, 0, 0);
	HEADER("a credential of 2^32 - 1 bytes", DENIED | BADCRED, 0, 2, NFS_PROG, 3, 0, 1, UINT32_MAX, 0, 0);
	HEADER("a credential of 404 bytes, which aren't there", DENIED | BADCRED, 0, 2, NFS_PROG, 3, 0, 1, 404, 0, 0);
	HEADER("a machine's name of 2^31 - 1 bytes", DENIED | BADCRED, 0, 2, NFS_PROG, 3, 0, 1, 20, 0, 0x7fffffff, 0, 0, 0, 0, 0);
	HEADER("2^31 groups", DENIED | BADCRED, 0, 2, NFS_PROG, 3, 0, 1, 20, 0, 0, 0, 0, 0x80000000u, 0, 0);
	HEADER("17 groups", DENIED | BADCRED, 0, 2, NFS_PROG, 3, 0, 1, 88, 0, 0, 0, 0, 17, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 0, 0);
	HEADER("uid 2^32 - 1", DENIED | BADCRED, 0, 2, NFS_PROG, 3, 0, 1, 20, 0, 0, UINT32_MAX, 0, 0, 0, 0);
	HEADER("a verifier of 2^31 - 1 bytes", DENIED | BADVERF, 0, 2, NFS_PROG, 3, 0, 0, 0, 0, 0x7fffffff);
	HEADER("an answer instead of a call", CLOSED, 1, 0, 0, 0, 0);
	HEADER("message type 2^32 - 1", CLOSED, UINT32_MAX, 2, NFS_PROG, 3, 0, 0, 0, 0, 0);
	HEADER("a header that ends in its middle", ACCEPTED | GARBAGE, 0, 2, NFS_PROG);
}

/* ---- record marks ---- */

static void marks(void)
{
	static const uint32_t bad[] = { 0x80000000u, 0, 0x7fffffff, UINT32_MAX, 0x80000000u + (4 << 20), 4 << 20 };
	unsigned char raw[MARGIN] = { 0 };
	struct xw w = { 0 };
	char name[TEXT_LEN];

	for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
		put_u32(raw, bad[i]);
		snprintf(name, sizeof name, "record mark %#x", bad[i]);
		send_raw(name, raw, sizeof raw, CLOSED);
	}
	for (uint32_t i = 0; i < 200000; i++) {		/* never the last one */
		xw_u32(&w, 4);
		xw_u32(&w, i);
	}
	send_raw("a record of fragments without end", w.data, w.len, CLOSED);
	w.len = 0;
	for (uint32_t i = 0; i < 40; i++) {
		xw_u32(&w, 64 << 10);
		memset(xw_room(&w, 64 << 10), 1, 64 << 10);
	}
	send_raw("a record over the limit, by fragments", w.data, w.len, CLOSED);
	free(w.data);
}

/* ---- arguments ---- */

static struct xw *nfs(uint32_t proc)
{
	static struct xw w;

	rpc_begin(&w, &me, ++xid, NFS_PROG, 3, proc);
	return &w;
}

static struct xw *nfs_root(uint32_t proc)
{
	struct xw *w = nfs(proc);

	xw_fh(w, &root);
	return w;
}

static void handle(const char *name, size_t byte, unsigned char flip, uint32_t want)
{
	struct nfs_fh fh = root;
	struct xw *w = nfs(P_GETATTR);

	fh.data[byte] ^= flip;
	xw_fh(w, &fh);
	send_call(name, w, want);
}

static void handles(void)
{
	struct nfs_fh zeros = { .len = NFS_FHSIZE };
	struct xw *w;

	handle("a handle with another version", 0, 0xff, BADHANDLE);
	handle("a handle with another export", 2, 1, BADHANDLE);
	handle("a handle with another id", 8, 1, BADHANDLE);
	handle("a handle of another volume", 16, 1, NFSERR_STALE);
	handle("a handle with another MAC", root.len - 1, 1, BADHANDLE);
	w = nfs(P_GETATTR);
	xw_fh(w, &zeros);
	send_call("64 zeros as a handle", w, BADHANDLE);
	w = nfs(P_GETATTR);
	xw_u32(w, 0);
	send_call("no bytes as a handle", w, BADHANDLE);
	for (uint32_t len = 65; len; len = len == 65 ? 0x80000000u : len == 0x80000000u ? UINT32_MAX - 3 : 0) {
		w = nfs(P_GETATTR);
		xw_u32(w, len);
		memset(xw_room(w, 68), 0, 68);
		send_call("a handle too long", w, ACCEPTED | GARBAGE);
	}
}

static void name_of(const char *what, const void *name, size_t len, uint32_t want)
{
	struct xw *w = nfs_root(P_LOOKUP);

	xw_opaque(w, name, len);
	send_call(what, w, want);
	w = nfs_root(P_REMOVE);
	xw_opaque(w, name, len);
	send_call(what, w, want);
	w = nfs_root(P_MKDIR);
	xw_opaque(w, name, len);
	xw_sattr_mode(w, 0755);
	send_call(what, w, want);
}

static void names(void)
{
	char longest[300];
	struct xw *w;

	memset(longest, 'x', sizeof longest);
	name_of("a name with a NUL", "a\0b", 3, INVAL);
	name_of("a name with a slash", "a/b", 3, INVAL);
	name_of("../..", "../..", 5, INVAL);
	name_of("no name", "", 0, INVAL);
	name_of("256 bytes as a name", longest, 256, NAMETOOLONG);
	w = nfs_root(P_LOOKUP);
	xw_u32(w, 0x80000000u);
	send_call("a name of 2^31 bytes", w, ACCEPTED | GARBAGE);
	w = nfs_root(P_LOOKUP);
	xw_u32(w, UINT32_MAX);
	send_call("a name of 2^32 - 1 bytes", w, ACCEPTED | GARBAGE);
}

static void sizes(void)
{
	struct xw *w = nfs(P_GETATTR);

	send_call("GETATTR without arguments", w, ACCEPTED | GARBAGE);
	w = nfs_root(P_GETATTR);
	xw_u32(w, 0);
	send_call("GETATTR with too many", w, ACCEPTED | GARBAGE);
	w = nfs(P_NULL);
	xw_u32(w, 0);
	send_call("NULL with some", w, ACCEPTED | GARBAGE);
	for (uint32_t lie = 5; lie; lie = lie == 5 ? 0x7ffffff0 : lie == 0x7ffffff0 ? UINT32_MAX : 0) {
		w = nfs_root(P_WRITE);
		xw_u64(w, 0);
		xw_u32(w, 4);
		xw_u32(w, FILE_SYNC);
		xw_u32(w, lie);
		memset(xw_room(w, 4), 'x', 4);
		send_call("a WRITE whose length lies", w, ACCEPTED | GARBAGE);
	}
	w = nfs_root(P_CREATE);
	xw_str(w, "never");
	xw_u32(w, 3);
	send_call("CREATE, mode 3", w, ACCEPTED | GARBAGE);
	w = nfs_root(P_MKNOD);
	xw_str(w, "never");
	xw_u32(w, UINT32_MAX);
	send_call("MKNOD, type 2^32 - 1", w, ACCEPTED | GARBAGE);
}

/* ---- numbers near their ends; FH is a file's ---- */

static uint32_t call_status(struct xw *w, struct xr *r)
{
	static struct xw in;
	int fd = dial_or_die();
	uint32_t got;
	bool good;

	rpc_end(w);
	good = tcp_move(fd, w->data, w->len, true, TIMEOUT_MS) && record_read(fd, &in, RECORD_MAX, TIMEOUT_MS);
	close(fd);
	if (!good || !rpc_reply_open(in.data, in.len, &got, r))
		die("no answer");
	return xr_u32(r);
}

static void make_file(struct nfs_fh *fh)
{
	struct xw *w = nfs_root(P_CREATE);
	struct xr r;

	xw_str(w, "nfsbad");
	xw_u32(w, CREATE_UNCHECKED);
	xw_sattr_mode(w, 0644);
	if (call_status(w, &r) || !xr_post_fh(&r, fh))
		die("CREATE");
}

static void offsets(const struct nfs_fh *fh)
{
	static const uint64_t at[] = { UINT64_MAX, INT64_MAX, (uint64_t)INT64_MAX + 1, UINT64_MAX - UINT32_MAX };
	struct xw *w;

	for (size_t i = 0; i < sizeof at / sizeof *at; i++) {
		w = nfs(P_READ);
		xw_fh(w, fh);
		xw_u64(w, at[i]);
		xw_u32(w, UINT32_MAX);
		send_call("READ near the end of all numbers", w, NFS_OK);
		w = nfs(P_WRITE);
		xw_fh(w, fh);
		xw_u64(w, at[i]);
		xw_u32(w, 4);
		xw_u32(w, FILE_SYNC);
		xw_opaque(w, "abcd", 4);
		send_call("WRITE there", w, FBIG);
		w = nfs(P_COMMIT);
		xw_fh(w, fh);
		xw_u64(w, at[i]);
		xw_u32(w, UINT32_MAX);
		send_call("COMMIT there", w, NFS_OK);
		w = nfs_root(P_READDIR);
		xw_u64(w, at[i]);
		xw_u64(w, 0);
		xw_u32(w, UINT32_MAX);
		send_call("READDIR from there", w, NFS_OK);
		w = nfs_root(P_READDIRPLUS);
		xw_u64(w, at[i]);
		xw_u64(w, 0);
		xw_u32(w, UINT32_MAX);
		xw_u32(w, UINT32_MAX);
		send_call("READDIRPLUS from there", w, NFS_OK);
	}
}

static void setattr(const char *name, const struct nfs_fh *fh, bool uid, uint64_t size, uint32_t want)
{
	struct xw *w = nfs(P_SETATTR);

	xw_fh(w, fh);
	xw_u32(w, 0);
	xw_u32(w, uid);
	if (uid)
		xw_u32(w, UINT32_MAX);
	xw_u32(w, 0);
	xw_u32(w, !uid);
	if (!uid)
		xw_u64(w, size);
	xw_u32(w, 0);
	xw_u32(w, 0);
	xw_u32(w, 0);
	send_call(name, w, want);
}

static void lock(const char *name, const struct nfs_fh *fh, uint64_t offset, uint64_t len, uint32_t want)
{
	static struct xw w;
	struct xr r;
	size_t n;
	static struct xw in;
	int fd = dial_or_die();
	uint32_t got;

	rpc_begin(&w, &me, ++xid, NLM_PROG, 4, NLM_LOCK);
	xw_str(&w, "cook");
	xw_u32(&w, 0);
	xw_u32(&w, 1);
	xw_str(&w, "bad");
	xw_fh(&w, fh);
	xw_str(&w, "owner");
	xw_u32(&w, 1);
	xw_u64(&w, offset);
	xw_u64(&w, len);
	xw_u32(&w, 0);
	xw_u32(&w, 0);
	rpc_end(&w);
	if (!tcp_move(fd, w.data, w.len, true, TIMEOUT_MS) || !record_read(fd, &in, RECORD_MAX, TIMEOUT_MS) || !rpc_reply_open(in.data, in.len, &got, &r))
		die("%s: no answer", name);
	xr_opaque(&r, 1024, &n);
	judge(name, xr_u32(&r), want);
	close(fd);
}

static void numbers(void)
{
	struct nfs_fh fh;

	make_file(&fh);
	offsets(&fh);
	setattr("a size of 2^64 - 1", &fh, false, UINT64_MAX, FBIG);
	setattr("a size of 2^63", &fh, false, (uint64_t)INT64_MAX + 1, FBIG);
	setattr("the owner 2^32 - 1, which is nobody: no change", &fh, true, 0, NFS_OK);
	lock("a lock beyond all numbers", &fh, UINT64_MAX, UINT64_MAX, NLM_FBIG);
	lock("a lock one beyond", &fh, UINT64_MAX, 2, NLM_FBIG);
	lock("a lock of the last byte", &fh, UINT64_MAX, 1, NLM_GRANTED);
}

/* ---- */

static void mount_root(const char *export)
{
	static struct xw w;
	struct xr r;

	rpc_begin(&w, &me, ++xid, MOUNT_PROG, 3, MOUNT_MNT);
	xw_str(&w, export);
	if (call_status(&w, &r))
		die("MNT %s", export);
	xr_fh(&r, &root);
}

static int calls(const char *export)
{
	mount_root(export);
	headers();
	marks();
	handles();
	names();
	sizes();
	numbers();
	printf("%u calls, %u wrong\n", done, wrong);
	return wrong ? 1 : 0;
}

/* ---- many ---- */

static struct xw request;		/* what a connection begins with */
static size_t part;			/* so many bytes of it; torn: another number for each */

static void find_file(const char *export, const char *name, struct nfs_fh *fh)
{
	struct xw *w;
	struct xr r;

	mount_root(export);
	w = nfs_root(P_LOOKUP);
	xw_str(w, name);
	if (call_status(w, &r))
		die("LOOKUP %s", name);
	xr_fh(&r, fh);
}

static void ask_for(const char *export, const char *name)
{
	struct nfs_fh fh;
	struct xw one = { 0 };

	find_file(export, name, &fh);
	for (unsigned i = 0; i < READS; i++) {
		rpc_begin(&one, &me, ++xid, NFS_PROG, 3, P_READ);
		xw_fh(&one, &fh);
		xw_u64(&one, 0);
		xw_u32(&one, 1 << 20);
		rpc_end(&one);
		memcpy(xw_room(&request, one.len), one.data, one.len);
	}
	free(one.data);
	part = request.len;
}

/* I of the torn ones. */
static size_t torn_part(unsigned i)
{
	static const size_t parts[] = { 1, 3, 4, 5, 44, 64 << 10, 512 << 10, 1 << 20 };

	return parts[i % (sizeof parts / sizeof *parts)];
}

static void open_one(int *fd, unsigned i, const char *kind)
{
	if (*fd >= 0)
		close(*fd);
	*fd = dial();
	if (*fd < 0)
		return;
	size_t n = !strcmp(kind, "torn") ? torn_part(i) : part;
	if (n && send(*fd, request.data, n < request.len ? n : request.len, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno != EAGAIN) {
		close(*fd);
		*fd = -1;
	}
}

/* Ended by the server? Busy ones' answers are taken, the deaf don't read. */
static bool is_ended(int fd, bool deaf)
{
	char buf[4096];
	struct pollfd p = { .fd = fd, .events = POLLRDHUP };
	ssize_t n;

	if (fd < 0)
		return true;
	if (poll(&p, 1, 0) == 1)
		return true;
	if (deaf)
		return false;
	while ((n = recv(fd, buf, sizeof buf, MSG_DONTWAIT)) > 0)
		;
	return n == 0 || errno != EAGAIN;
}

static void on_term(int sig)
{
	(void)sig;
	stop = 1;
}

static void crowd(const char *kind, unsigned n)
{
	bool busy = !strcmp(kind, "busy"), torn = !strcmp(kind, "torn"), deaf = !strcmp(kind, "deaf");
	int *fd = xmalloc(n * sizeof *fd);
	unsigned round = 0;

	for (unsigned i = 0; i < n && !stop; i++) {
		fd[i] = -1;
		open_one(&fd[i], i, kind);
	}
	puts("ready");
	fflush(stdout);
	for (; !stop; round++) {
		poll(NULL, 0, busy ? BUSY_MS : AGAIN_MS);
		for (unsigned i = 0; i < n && !stop; i++)
			if (is_ended(fd[i], deaf))
				open_one(&fd[i], i, kind);
			else if (busy || (torn && round % 4 == 0 && torn_part(i) + round < request.len))	/* a byte more, now and then */
				send(fd[i], request.data + (torn ? torn_part(i) + round / 4 : 0), torn ? 1 : part, MSG_NOSIGNAL | MSG_DONTWAIT);
	}
	free(fd);
}

static void prepare(const char *kind, char **arg)
{
	if (!strcmp(kind, "deaf")) {
		ask_for(arg[0], arg[1]);
	} else if (strcmp(kind, "silent")) {
		rpc_begin(&request, &me, ++xid, NFS_PROG, 3, P_NULL);
		if (!strcmp(kind, "torn"))
			memset(xw_room(&request, 1 << 20), 'x', 1 << 20);
		rpc_end(&request);
		part = request.len;
	}
}

int main(int argc, char **argv)
{
	struct rlimit many = { 65536, 65536 };
	const char *kind = argc > 4 ? argv[4] : "";

	if (argc < 6) {
		fprintf(stderr, "usage: nfsbad SOURCE HOST PORT calls EXPORT | silent N | busy N | torn N | deaf N EXPORT FILE\n");
		return 2;
	}
	opt.source = argv[1];
	opt.host = argv[2];
	opt.port = atoi(argv[3]);
	if (!strcmp(kind, "calls"))
		return calls(argv[5]);
	setrlimit(RLIMIT_NOFILE, &many);
	signal(SIGTERM, on_term);
	prepare(kind, argv + 6);
	crowd(kind, (unsigned)atoi(argv[5]));
	return 0;
}
