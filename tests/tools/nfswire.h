/* NFSv3, MOUNT and NLM over ONC RPC as the raw test clients speak them: XDR by hand (RFC 4506), RPC calls with AUTH_SYS (RFC 5531), record marking.
 * The caller chooses each xid and holds the encoded call, so that it can send the very same bytes again. Shares nothing with the product, nor with
 * libnfs: what one coder gets wrong, the other does not forgive. Replies are decoded with bounds; a short or odd one sets `bad` and reads as zeros. */
#ifndef TESTS_TOOLS_NFSWIRE_H
#define TESTS_TOOLS_NFSWIRE_H

#include <arpa/inet.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>
#include "tests/tools/tool.h"

enum { NFS_PROG = 100003, MOUNT_PROG = 100005, NLM_PROG = 100021 };
enum { NFS_FHSIZE = 64, NFS_NAME_MAX = 255, RPC_REPLY_MIN = 24 };
enum nfs_proc {
	P_NULL, P_GETATTR, P_SETATTR, P_LOOKUP, P_ACCESS, P_READLINK, P_READ, P_WRITE, P_CREATE, P_MKDIR, P_SYMLINK, P_MKNOD, P_REMOVE, P_RMDIR, P_RENAME,
	P_LINK, P_READDIR, P_READDIRPLUS, P_FSSTAT, P_FSINFO, P_PATHCONF, P_COMMIT
};
enum { MOUNT_MNT = 1, NLM_TEST = 1, NLM_LOCK = 2, NLM_CANCEL = 3, NLM_UNLOCK = 4 };
enum nfs_stat {
	NFS_OK = 0, NFSERR_PERM = 1, NFSERR_NOENT = 2, NFSERR_IO = 5, NFSERR_ACCES = 13, NFSERR_EXIST = 17, NFSERR_NOTDIR = 20, NFSERR_ISDIR = 21,
	NFSERR_ROFS = 30, NFSERR_NOTEMPTY = 66, NFSERR_STALE = 70, NFSERR_JUKEBOX = 10008
};
enum { NLM_GRANTED = 0, NLM_DENIED = 1, NLM_BLOCKED = 3, NLM_GRACE = 4, NLM_ROFS = 6 };
enum { CREATE_UNCHECKED, CREATE_GUARDED, CREATE_EXCLUSIVE };
enum { UNSTABLE, DATA_SYNC, FILE_SYNC };

struct nfs_fh {
	uint32_t len;
	unsigned char data[NFS_FHSIZE];
};
struct nfs_attr {
	uint32_t type, mode, nlink, uid, gid;
	uint64_t size, fileid;
	uint64_t mtime_ns, ctime_ns;
};

/* ---- encoding: a buffer that grows; `data` is owned, free it ---- */
struct xw {
	unsigned char *data;
	size_t len, cap;
};

static inline unsigned char *xw_room(struct xw *w, size_t n)
{
	unsigned char *p;

	if (w->len + n > w->cap) {
		w->cap = (w->len + n) * 2;
		w->data = xrealloc(w->data, w->cap);
	}
	p = w->data + w->len;
	w->len += n;
	return p;
}
static inline void put_u32(unsigned char *p, uint32_t v)
{
	v = htonl(v);
	memcpy(p, &v, 4);
}
static inline uint32_t get_u32(const unsigned char *p)
{
	uint32_t v;

	memcpy(&v, p, 4);
	return ntohl(v);
}
static inline void xw_u32(struct xw *w, uint32_t v) { put_u32(xw_room(w, 4), v); }
static inline void xw_u64(struct xw *w, uint64_t v)
{
	xw_u32(w, (uint32_t)(v >> 32));
	xw_u32(w, (uint32_t)v);
}
static inline void xw_bytes(struct xw *w, const void *p, size_t n) /* opaque of fixed size */
{
	size_t padded = (n + 3) & ~(size_t)3;
	unsigned char *to = xw_room(w, padded);

	memcpy(to, p, n);
	memset(to + n, 0, padded - n);
}
static inline void xw_opaque(struct xw *w, const void *p, size_t n)
{
	xw_u32(w, (uint32_t)n);
	xw_bytes(w, p, n);
}
static inline void xw_str(struct xw *w, const char *s) { xw_opaque(w, s, strlen(s)); }
static inline void xw_fh(struct xw *w, const struct nfs_fh *fh) { xw_opaque(w, fh->data, fh->len); }
static inline void xw_dirop(struct xw *w, const struct nfs_fh *dir, const char *name)
{
	xw_fh(w, dir);
	xw_str(w, name);
}
/* sattr3: the mode and nothing else. */
static inline void xw_sattr_mode(struct xw *w, uint32_t mode)
{
	xw_u32(w, 1);
	xw_u32(w, mode);
	for (int i = 0; i < 5; i++)
		xw_u32(w, 0); /* uid, gid, size, atime, mtime: leave */
}

/* ---- decoding: borrows the bytes of a reply ---- */
struct xr {
	const unsigned char *p, *end;
	bool bad;
};

static inline const unsigned char *xr_take(struct xr *r, size_t n)
{
	static const unsigned char zeros[128];
	const unsigned char *p = r->p;

	if (r->bad || (size_t)(r->end - r->p) < n) {
		r->bad = true;
		r->p = r->end;
		return zeros;
	}
	r->p += n;
	return p;
}
static inline uint32_t xr_u32(struct xr *r) { return get_u32(xr_take(r, 4)); }
static inline uint64_t xr_u64(struct xr *r)
{
	uint64_t high = xr_u32(r);

	return high << 32 | xr_u32(r);
}
/* Opaque of at most `max` bytes: its address and *n. When it is too long the reply is bad, and *n is 0. */
static inline const unsigned char *xr_opaque(struct xr *r, size_t max, size_t *n)
{
	const unsigned char *p;

	*n = xr_u32(r);
	if (*n > max)
		r->bad = true;
	p = xr_take(r, r->bad ? 0 : (*n + 3) & ~(size_t)3);
	if (r->bad)
		*n = 0;
	return p;
}
static inline void xr_fh(struct xr *r, struct nfs_fh *fh)
{
	size_t n;
	const unsigned char *p = xr_opaque(r, NFS_FHSIZE, &n);

	memcpy(fh->data, p, n);
	fh->len = (uint32_t)n;
}
static inline uint64_t xr_time(struct xr *r)
{
	uint64_t s = xr_u32(r);

	return s * 1000000000u + xr_u32(r);
}
static inline void xr_attr(struct xr *r, struct nfs_attr *a)
{
	a->type = xr_u32(r);
	a->mode = xr_u32(r);
	a->nlink = xr_u32(r);
	a->uid = xr_u32(r);
	a->gid = xr_u32(r);
	a->size = xr_u64(r);
	xr_take(r, 8 + 8 + 8); /* used, rdev, fsid */
	a->fileid = xr_u64(r);
	xr_take(r, 8); /* atime */
	a->mtime_ns = xr_time(r);
	a->ctime_ns = xr_time(r);
}
/* post_op_attr; false: there are none. */
static inline bool xr_post_attr(struct xr *r, struct nfs_attr *a)
{
	struct nfs_attr unused;

	if (!xr_u32(r))
		return false;
	xr_attr(r, a ? a : &unused);
	return true;
}
static inline void xr_wcc(struct xr *r)
{
	if (xr_u32(r))
		xr_take(r, 8 + 8 + 8); /* size, mtime, ctime before */
	xr_post_attr(r, NULL);
}
static inline bool xr_post_fh(struct xr *r, struct nfs_fh *fh)
{
	if (!xr_u32(r))
		return false;
	xr_fh(r, fh);
	return true;
}

/* ---- RPC ---- */
struct rpc_who {
	uint32_t uid, gid;
	const char *machine;
};

/* Begins a call in an emptied buffer: record mark (set by rpc_end), header, AUTH_SYS. The xid stands at offset 4. */
static inline void rpc_begin(struct xw *w, const struct rpc_who *who, uint32_t xid, uint32_t prog, uint32_t vers, uint32_t proc)
{
	size_t machine = (strlen(who->machine) + 3) & ~(size_t)3;
	const uint32_t head[] = { 0, xid, 0, 2, prog, vers, proc, 1, (uint32_t)(4 + 4 + machine + 4 + 4 + 4), 0 };

	w->len = 0;
	for (size_t i = 0; i < sizeof head / sizeof *head; i++)
		xw_u32(w, head[i]);
	xw_str(w, who->machine);
	xw_u32(w, who->uid);
	xw_u32(w, who->gid);
	xw_u32(w, 0); /* further groups */
	xw_u64(w, 0); /* verifier: AUTH_NONE */
}
static inline void rpc_end(struct xw *w) { put_u32(w->data, 0x80000000u | (uint32_t)(w->len - 4)); }

/* Opens a reply (without its record mark): *xid, and r at the results. False: it is none, or the call was denied or not understood. */
static inline bool rpc_reply_open(const unsigned char *data, size_t len, uint32_t *xid, struct xr *r)
{
	uint32_t type, denied, status;
	size_t n;

	*r = (struct xr){ .p = data, .end = data + len };
	*xid = xr_u32(r);
	type = xr_u32(r);
	denied = xr_u32(r);
	xr_u32(r);
	xr_opaque(r, 400, &n);
	status = xr_u32(r);
	return !r->bad && type == 1 && !denied && !status;
}

/* ---- transport, one call at a time ---- */

/* Connects within timeout_ms, from source_port when it isn't 0 (a client that comes back is known by it). The descriptor blocks; -errno. */
static inline int tcp_connect(const char *host, int port, int source_port, int timeout_ms)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_NUMERICHOST | AI_NUMERICSERV }, *to = NULL;
	struct sockaddr_in6 from = { .sin6_family = AF_INET6, .sin6_port = htons((uint16_t)source_port) };
	struct sockaddr_in from4 = { .sin_family = AF_INET, .sin_port = htons((uint16_t)source_port) };
	struct pollfd pfd = { .events = POLLOUT };
	socklen_t len = sizeof(int);
	int one = 1, error = 0;
	char service[12];

	snprintf(service, sizeof service, "%d", port);
	if (getaddrinfo(host, service, &hints, &to))
		return -EINVAL;
	pfd.fd = socket(to->ai_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	setsockopt(pfd.fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	setsockopt(pfd.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	if (source_port && bind(pfd.fd, to->ai_family == AF_INET6 ? (struct sockaddr *)&from : (struct sockaddr *)&from4,
				to->ai_family == AF_INET6 ? sizeof from : sizeof from4))
		error = errno;
	else if (connect(pfd.fd, to->ai_addr, to->ai_addrlen) && errno != EINPROGRESS)
		error = errno;
	else if (poll(&pfd, 1, timeout_ms) != 1)
		error = ETIMEDOUT;
	else
		getsockopt(pfd.fd, SOL_SOCKET, SO_ERROR, &error, &len);
	freeaddrinfo(to);
	if (error) {
		close(pfd.fd);
		return -error;
	}
	return pfd.fd;
}

/* All of it, or false: the connection is broken, or nothing moved for timeout_ms. */
static inline bool tcp_move(int fd, void *data, size_t len, bool out, int timeout_ms)
{
	struct pollfd pfd = { .fd = fd, .events = out ? POLLOUT : POLLIN };
	unsigned char *p = data;

	while (len) {
		ssize_t n = out ? send(fd, p, len, MSG_NOSIGNAL | MSG_DONTWAIT) : recv(fd, p, len, MSG_DONTWAIT);

		if (n > 0) {
			p += n;
			len -= (size_t)n;
		} else if (n == 0 || (errno != EAGAIN && errno != EINTR) || poll(&pfd, 1, timeout_ms) != 1) {
			return false;
		}
	}
	return true;
}

/* Reads one record of at most max bytes, whatever its fragments, into an emptied buffer. */
static inline bool record_read(int fd, struct xw *into, size_t max, int timeout_ms)
{
	uint32_t mark = 0;

	into->len = 0;
	while (!(mark & 0x80000000u)) {
		unsigned char head[4];

		if (!tcp_move(fd, head, 4, false, timeout_ms))
			return false;
		mark = get_u32(head);
		if ((mark & 0x7fffffffu) > max - into->len)
			return false;
		if (!tcp_move(fd, xw_room(into, mark & 0x7fffffffu), mark & 0x7fffffffu, false, timeout_ms))
			return false;
	}
	return true;
}

static inline const char *nfs_status_name(uint32_t s)
{
	static const struct {
		uint32_t status;
		const char *name;
	} names[] = { { 0, "OK" }, { 1, "PERM" }, { 2, "NOENT" }, { 5, "IO" }, { 6, "NXIO" }, { 13, "ACCES" }, { 17, "EXIST" }, { 18, "XDEV" },
		      { 19, "NODEV" }, { 20, "NOTDIR" }, { 21, "ISDIR" }, { 22, "INVAL" }, { 27, "FBIG" }, { 28, "NOSPC" }, { 30, "ROFS" },
		      { 31, "MLINK" }, { 63, "NAMETOOLONG" }, { 66, "NOTEMPTY" }, { 69, "DQUOT" }, { 70, "STALE" }, { 71, "REMOTE" },
		      { 10001, "BADHANDLE" }, { 10002, "NOT_SYNC" }, { 10003, "BAD_COOKIE" }, { 10004, "NOTSUPP" }, { 10005, "TOOSMALL" },
		      { 10006, "SERVERFAULT" }, { 10007, "BADTYPE" }, { 10008, "JUKEBOX" } };

	for (size_t i = 0; i < sizeof names / sizeof *names; i++)
		if (names[i].status == s)
			return names[i].name;
	return "an unknown status";
}

#endif
