/* nlmraw: a client host that locks over NLM version 4, with its own lock manager, status monitor and rpcbind, as a kernel has them; shares nothing with the product.
 *
 *   nlmraw contend ADDRESS HOST[,HOST] PORT EXPORT FILE NAME GUARD SECONDS   locks all of FILE again and again, waiting for it. While it holds the lock it makes
 *                                                                         the file GUARD, which nobody else may have made, and removes it before it unlocks
 *   nlmraw hold ADDRESS HOST[,HOST] PORT EXPORT FILE NAME COUNT           locks COUNT single bytes (2 apart), says "holding", and then does what it reads:
 *                                                                         check: how many another owner could take, or whose holder isn't told right
 *                                                                         notified: waits until the server says that it has lost locks;  reclaim: claims all back
 *                                                                         other: what another owner gets for a free byte;  end: unlocks all, says what is left, and ends
 *
 * ADDRESS is where it calls from and listens (rpcbind: port 111, TCP and UDP). It talks to one HOST, and to the next when the connection breaks or the server
 * asks for patience, and sends again, byte by byte, what got no answer. Status 0: nothing was wrong. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include "tests/tools/nfswire.h"

enum { NSM_PROG = 100024, PMAP_PROG = 100000, PEERS = 16, MAX_RECORD = 1 << 16, MAX_HOSTS = 4, POLL_MS = 1500, ANSWER_MS = 4000, NLM_GRANTED_CALL = 5 };
enum { L_RPCBIND, L_NLM, L_UDP_RPCBIND, L_NSM, LISTENERS };

static struct {
	const char *address, *hosts[MAX_HOSTS], *export, *file, *name;
	int nhosts, port;
} opt;
static struct nfs_fh fh;
static int listener[LISTENERS], peer[PEERS], server = -1, at;
static uint16_t nlm_port, nsm_port;
static uint32_t next_xid;

/* What we wait for, and what came. */
static struct {
	bool active, granted;
	uint32_t svid;
	uint64_t off, len;
} waiting;
static unsigned callbacks, refused, notified, broken;

static struct sockaddr_in here(uint16_t port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port) };

	if (inet_pton(AF_INET, opt.address, &a.sin_addr) != 1)
		die("%s: no address", opt.address);
	return a;
}

static int listen_at(int type, uint16_t port, uint16_t *got)
{
	struct sockaddr_in a = here(port);
	socklen_t len = sizeof a;
	int one = 1, fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(fd, (struct sockaddr *)&a, sizeof a) || (type == SOCK_STREAM && listen(fd, PEERS)) || getsockname(fd, (struct sockaddr *)&a, &len))
		die("%s:%u: %s", opt.address, port, strerror(errno));
	if (got)
		*got = ntohs(a.sin_port);
	return fd;
}

/* ---- being called ---- */

static uint32_t granted(struct xr *r)
{
	size_t n;
	uint64_t off, len;

	xr_u32(r);			/* exclusive */
	for (int i = 0; i < 3; i++)	/* caller, file, owner */
		xr_opaque(r, 1024, &n);
	uint32_t svid = xr_u32(r);
	off = xr_u64(r);
	len = xr_u64(r);
	callbacks++;
	if (r->bad || !waiting.active || waiting.granted || svid != waiting.svid || off != waiting.off || len != waiting.len) {
		refused++;
		return NLM_DENIED;
	}
	waiting.granted = true;
	return NLM_GRANTED;
}

/* Puts the answer to the call into OUT. */
static bool answer(const unsigned char *data, size_t len, bool udp, struct xw *out)
{
	struct xr r = { .p = data, .end = data + len };
	uint32_t xid = xr_u32(&r), type = xr_u32(&r), vers = xr_u32(&r), prog = xr_u32(&r);
	size_t n;

	xr_u32(&r);
	uint32_t proc = xr_u32(&r);
	for (int i = 0; i < 2; i++) {
		xr_u32(&r);
		xr_opaque(&r, 400, &n);
	}
	if (r.bad || type || vers != 2)
		return false;
	out->len = 0;
	if (!udp)
		xw_u32(out, 0);
	const uint32_t head[] = { xid, 1, 0, 0, 0, 0 };
	for (size_t i = 0; i < sizeof head / sizeof *head; i++)
		xw_u32(out, head[i]);
	if (prog == PMAP_PROG && proc == 3) {
		xw_u32(out, xr_u32(&r) == NLM_PROG ? nlm_port : nsm_port);
	} else if (prog == NLM_PROG && proc == NLM_GRANTED_CALL) {
		const unsigned char *cookie = xr_opaque(&r, 1024, &n);
		xw_opaque(out, cookie, n);
		xw_u32(out, granted(&r));
	} else if (prog == NSM_PROG && proc == 6) {
		notified++;
	} else if (proc) {
		return false;
	}
	if (!udp)
		rpc_end(out);
	return true;
}

static void udp_call(int fd)
{
	static struct xw out;
	unsigned char buf[2048];
	struct sockaddr_in from;
	socklen_t len = sizeof from;
	ssize_t n = recvfrom(fd, buf, sizeof buf, MSG_DONTWAIT, (struct sockaddr *)&from, &len);

	if (n > 0 && answer(buf, (size_t)n, true, &out))
		sendto(fd, out.data, out.len, 0, (struct sockaddr *)&from, len);
}

static void peer_call(int *fd)
{
	static struct xw in, out;

	if (!record_read(*fd, &in, MAX_RECORD, ANSWER_MS) || !answer(in.data, in.len, false, &out) || !tcp_move(*fd, out.data, out.len, true, ANSWER_MS)) {
		close(*fd);
		*fd = -1;
	}
}

static void peer_new(int fd)
{
	int i = 0;

	while (i < PEERS && peer[i] >= 0)
		i++;
	if (i == PEERS)
		close(peer[i = rand() % PEERS]);
	peer[i] = accept4(fd, NULL, NULL, SOCK_CLOEXEC);
}

/* Serves who calls us until FD (-1: none) can be read, STOP (may be NULL) becomes true, or MS are over. True: FD can be read. */
static bool serve(int fd, const bool *stop, int ms)
{
	double until = now_s() + ms / 1000.0;

	while (!(stop && *stop)) {
		struct pollfd p[LISTENERS + PEERS + 1] = { [LISTENERS + PEERS] = { .fd = fd, .events = POLLIN } };
		double left = until - now_s();

		for (int i = 0; i < LISTENERS + PEERS; i++)
			p[i] = (struct pollfd){ .fd = i < LISTENERS ? listener[i] : peer[i - LISTENERS], .events = POLLIN };
		if (left <= 0 || poll(p, LISTENERS + PEERS + 1, 1 + (int)(left * 1000)) <= 0)
			return false;
		for (int i = 0; i < LISTENERS; i++)
			if (p[i].revents)
				i < L_UDP_RPCBIND ? peer_new(listener[i]) : udp_call(listener[i]);
		for (int i = 0; i < PEERS; i++)
			if (p[LISTENERS + i].revents && peer[i] == p[LISTENERS + i].fd)
				peer_call(&peer[i]);
		if (p[LISTENERS + PEERS].revents)
			return true;
	}
	return false;
}

/* ---- calling ---- */

static int server_connect(const char *host)
{
	struct sockaddr_in a = here(0), to = { .sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port) };
	struct timeval limit = { .tv_sec = 2 };
	int one = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	inet_pton(AF_INET, host, &to.sin_addr);
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (bind(fd, (struct sockaddr *)&a, sizeof a) || connect(fd, (struct sockaddr *)&to, sizeof to)) {
		close(fd);
		return -1;
	}
	return fd;
}

static void next_host(void)
{
	if (server >= 0)
		close(server);
	server = -1;
	at = (at + 1) % opt.nhosts;
}

/* The answer to the call in W, wherever it comes from, in the end. */
static struct xr call(struct xw *w, struct xw *in, uint32_t xid)
{
	double until = now_s() + 120;
	struct xr r;
	uint32_t got;

	while (now_s() < until) {
		if (server < 0 && (server = server_connect(opt.hosts[at])) < 0) {
			next_host();
			serve(-1, NULL, 30);
			continue;
		}
		if (tcp_move(server, w->data, w->len, true, ANSWER_MS) && serve(server, NULL, ANSWER_MS) && record_read(server, in, MAX_RECORD, ANSWER_MS)) {
			if (!rpc_reply_open(in->data, in->len, &got, &r) || got != xid)
				die("an answer that can't be");
			return r;
		}
		broken++;
		next_host();
	}
	die("no answer for two minutes");
}

static uint32_t begin(struct xw *w, uint32_t prog, uint32_t vers, uint32_t proc)
{
	const struct rpc_who root = { 0, 0, opt.name };

	rpc_begin(w, &root, ++next_xid, prog, vers, proc);
	return next_xid;
}

static uint32_t nlm_once(uint32_t proc, uint32_t svid, uint64_t off, uint64_t len, bool block, bool reclaim, uint32_t *holder)
{
	static struct xw w, in;
	char oh[64];
	size_t n;
	uint32_t xid = begin(&w, NLM_PROG, 4, proc);

	snprintf(oh, sizeof oh, "%u@%s", svid, opt.name);
	xw_str(&w, "cook");
	if (proc == NLM_LOCK || proc == NLM_CANCEL)
		xw_u32(&w, block);
	if (proc != NLM_UNLOCK)
		xw_u32(&w, 1);
	xw_str(&w, opt.name);
	xw_fh(&w, &fh);
	xw_str(&w, oh);
	xw_u32(&w, svid);
	xw_u64(&w, off);
	xw_u64(&w, len);
	if (proc == NLM_LOCK) {
		xw_u32(&w, reclaim);
		xw_u32(&w, 1);
	}
	rpc_end(&w);
	struct xr r = call(&w, &in, xid);
	xr_opaque(&r, 64, &n);
	uint32_t st = xr_u32(&r);
	if (holder && st == NLM_DENIED) {
		xr_u32(&r);
		*holder = xr_u32(&r);
	}
	if (r.bad)
		die("a short answer");
	return st;
}

/* As long as the server asks for patience it is asked, or the next one is. */
static uint32_t nlm(uint32_t proc, uint32_t svid, uint64_t off, uint64_t len, bool block, bool reclaim, uint32_t *holder)
{
	double until = now_s() + 120;
	uint32_t st;

	while ((st = nlm_once(proc, svid, off, len, block, reclaim, holder)) == NLM_GRACE && now_s() < until) {
		next_host();
		serve(-1, NULL, 50);
	}
	return st;
}

static void find_file(void)
{
	static struct xw w, in;
	struct nfs_fh root;

	uint32_t xid = begin(&w, MOUNT_PROG, 3, MOUNT_MNT);
	xw_str(&w, opt.export);
	rpc_end(&w);
	struct xr r = call(&w, &in, xid);
	if (xr_u32(&r))
		die("%s can't be mounted", opt.export);
	xr_fh(&r, &root);
	xid = begin(&w, NFS_PROG, 3, P_LOOKUP);
	xw_dirop(&w, &root, opt.file);
	rpc_end(&w);
	r = call(&w, &in, xid);
	if (xr_u32(&r))
		die("%s isn't there", opt.file);
	xr_fh(&r, &fh);
}

/* ---- contend ---- */

static unsigned long rounds, polled, cancelled, wrong;

/* True: we have it. False: we have changed our mind. */
static bool lock_all(uint32_t svid)
{
	waiting.active = true;
	waiting.granted = false;
	waiting.svid = svid;
	waiting.off = waiting.len = 0;
	for (;;) {
		uint32_t st = nlm(NLM_LOCK, svid, 0, 0, true, false, NULL);

		if (st == NLM_GRANTED || waiting.granted)
			break;
		if (st != NLM_BLOCKED)
			die("LOCK: status %u", st);
		serve(-1, &waiting.granted, rand() % 8 ? POLL_MS : 3);
		if (waiting.granted)
			break;
		if (rand() % 2) {
			polled++;
			continue;
		}
		waiting.active = false;		/* what is granted from now on is refused */
		nlm(NLM_CANCEL, svid, 0, 0, true, false, NULL);
		cancelled++;
		return false;
	}
	waiting.active = false;
	return true;
}

static void hold_guard(const char *guard)
{
	int fd = open(guard, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600);

	if (fd < 0) {
		wrong++;
		printf("held by two: %s\n", strerror(errno));
		return;
	}
	close(fd);
	serve(-1, NULL, 1 + rand() % 4);
	unlink(guard);
}

static int contend(const char *guard, double seconds)
{
	double until = now_s() + seconds;
	uint32_t svid = 1;

	printf("contending\n");
	fflush(stdout);
	for (; now_s() < until; svid = svid % 3 + 1) {
		if (!lock_all(svid))
			continue;
		hold_guard(guard);
		if (nlm(NLM_UNLOCK, svid, 0, 0, false, false, NULL) != NLM_GRANTED)
			die("UNLOCK failed");
		rounds++;
		if (rounds % 50 == 0) {
			printf("rounds %lu\n", rounds);
			fflush(stdout);
		}
	}
	printf("rounds %lu callbacks %u refused %u polled %lu cancelled %lu broken %u wrong %lu\n", rounds, callbacks, refused, polled, cancelled, broken, wrong);
	return wrong || !rounds;
}

/* ---- hold ---- */

static unsigned check_held(unsigned count)
{
	unsigned bad = 0;

	for (unsigned i = 0; i < count; i++) {
		uint32_t holder = 0;
		bad += nlm(NLM_TEST, 999, 2 * i, 1, false, false, &holder) != NLM_DENIED || holder != 7;
		bad += nlm(NLM_LOCK, 999, 2 * i, 1, false, false, NULL) != NLM_DENIED;
		bad += nlm(NLM_LOCK, 7, 2 * i, 1, false, false, NULL) != NLM_GRANTED;
	}
	return bad;
}

static unsigned reclaim(unsigned count)
{
	unsigned bad = 0;

	for (unsigned i = 0; i < count; i++)
		bad += nlm_once(NLM_LOCK, 7, 2 * i, 1, false, true, NULL) != NLM_GRANTED;
	return bad;
}

static unsigned release(unsigned count)
{
	unsigned bad = 0;

	for (unsigned i = 0; i < count; i++)
		bad += nlm(NLM_UNLOCK, 7, 2 * i, 1, false, false, NULL) != NLM_GRANTED;
	bad += nlm(NLM_LOCK, 999, 0, 2 * count, false, false, NULL) != NLM_GRANTED;
	return bad + (nlm(NLM_UNLOCK, 999, 0, 0, false, false, NULL) != NLM_GRANTED);
}

static int obey(const char *word, unsigned count)
{
	if (!strcmp(word, "check"))
		printf("lost %u of %u\n", check_held(count), count);
	else if (!strcmp(word, "reclaim"))
		printf("not reclaimed %u\n", reclaim(count));
	else if (!strcmp(word, "other"))
		printf("status %u\n", nlm_once(NLM_LOCK, 999, 2 * count + 10, 1, false, false, NULL));
	else if (!strcmp(word, "notified"))
		printf("notified %u\n", notified > 0);
	else if (!strcmp(word, "end"))
		printf("left %u\n", release(count));
	else
		return -1;
	return fflush(stdout);
}

static int hold(unsigned count)
{
	char word[32];

	for (unsigned i = 0; i < count; i++)
		if (nlm(NLM_LOCK, 7, 2 * i, 1, false, false, NULL) != NLM_GRANTED)
			die("byte %u can't be locked", 2 * i);
	printf("holding\n");
	fflush(stdout);
	for (;;) {
		while (!serve(STDIN_FILENO, NULL, 1000))
			;
		if (scanf("%31s", word) != 1)
			return 0;
		for (double until = now_s() + 60; !strcmp(word, "notified") && !notified && now_s() < until;)
			serve(-1, NULL, 20);
		if (obey(word, count))
			die("%s: what?", word);
		if (!strcmp(word, "end"))
			return 0;
	}
}

int main(int argc, char **argv)
{
	if (argc < 9 || (strcmp(argv[1], "contend") && strcmp(argv[1], "hold")))
		die("usage: see the top of nlmraw.c");
	opt.address = argv[2];
	for (char *h = strtok(argv[3], ","); h && opt.nhosts < MAX_HOSTS; h = strtok(NULL, ","))
		opt.hosts[opt.nhosts++] = h;
	opt.port = atoi(argv[4]);
	opt.export = argv[5];
	opt.file = argv[6];
	opt.name = argv[7];
	srand((unsigned)getpid());
	setvbuf(stdin, NULL, _IONBF, 0);	/* poll sees all that is left */
	next_xid = (uint32_t)getpid() << 12;
	memset(peer, -1, sizeof peer);
	listener[L_RPCBIND] = listen_at(SOCK_STREAM, 111, NULL);
	listener[L_UDP_RPCBIND] = listen_at(SOCK_DGRAM, 111, NULL);
	listener[L_NLM] = listen_at(SOCK_STREAM, 0, &nlm_port);
	listener[L_NSM] = listen_at(SOCK_DGRAM, 0, &nsm_port);
	find_file();
	return !strcmp(argv[1], "hold") ? hold((unsigned)atoi(argv[8])) : contend(argv[8], argc > 9 ? atof(argv[9]) : 5);
}
