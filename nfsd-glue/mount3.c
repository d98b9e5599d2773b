/*
 * The procedures of MOUNT version 3. A path is cleaned (doubled and trailing slashes) before it is compared with exports and noted in the list, so
 * that UMNT finds what MNT noted.
 */
#include "nfsd-glue/mount3.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <string.h>

enum { MNT_NULL, MNT_MNT, MNT_DUMP, MNT_UMNT, MNT_UMNTALL, MNT_EXPORT, MNT_PROCS };
enum { AUTH_FLAVOR_SYS = 1 };

enum mountstat3 {
	MNT3_OK = 0, MNT3ERR_PERM = 1, MNT3ERR_NOENT = 2, MNT3ERR_IO = 5, MNT3ERR_ACCES = 13, MNT3ERR_NOTDIR = 20, MNT3ERR_INVAL = 22,
	MNT3ERR_NAMETOOLONG = 63, MNT3ERR_SERVERFAULT = 10006,
};

static enum mountstat3 status_of(int err)
{
	switch (err) {
	case 0: return MNT3_OK;
	case -EPERM: return MNT3ERR_PERM;
	case -ENOENT:
	case -ESTALE: return MNT3ERR_NOENT;
	case -EACCES: return MNT3ERR_ACCES;
	case -ENOTDIR: return MNT3ERR_NOTDIR;
	case -EINVAL: return MNT3ERR_INVAL;
	case -ENAMETOOLONG: return MNT3ERR_NAMETOOLONG;
	case -EIO: return MNT3ERR_IO;
	default: return MNT3ERR_SERVERFAULT;
	}
}

/* ---- arguments ---- */

/* "//a///b/" -> "/a/b". OUT has room for LEN + 2 bytes. -EINVAL: a NUL in it; -EACCES: not absolute. */
static int clean_path(const unsigned char *p, size_t len, char *out)
{
	size_t n = 0;

	if (memchr(p, 0, len))
		return -EINVAL;
	if (!len || p[0] != '/')
		return -EACCES;
	for (size_t i = 0; i < len; i++)
		if (p[i] != '/' || !n || out[n - 1] != '/')
			out[n++] = (char)p[i];
	if (n > 1 && out[n - 1] == '/')
		n--;
	out[n] = 0;
	return 0;
}

/* The path that is a procedure's only argument. False: garbage. */
static bool path_arg(const struct rpc_call *c, char out[MOUNT3_PATH_MAX + 2], int *err)
{
	struct xdr_in in = xdr_in(c->args, c->args_len);
	uint32_t len;
	const unsigned char *p = xdr_opaque(&in, MOUNT3_PATH_MAX, &len);

	if (!xdr_done(&in))
		return false;
	*err = clean_path(p, len, out);
	return true;
}

/* ---- MNT ---- */

/* The directory that PATH names for this client. */
static int find_root(struct mount3 *m, const struct rpc_call *c, const char *path, struct wirefh *fh)
{
	struct export_rights rights;
	struct attr root, a;
	size_t below;
	int err = exports_by_path(m->exports, path, c->peer, &rights, &below);

	if (err)	/* what isn't exported isn't there for anybody to know */
		return -EACCES;
	err = exports_root(m->exports, rights.id, m->top, &root);
	if (!err)
		err = exports_walk(m->top, root.id, path + below, &a);
	if (!err && !S_ISDIR(a.mode))
		err = -ENOTDIR;
	if (!err)
		*fh = (struct wirefh){ .export_id = rights.id, .gen = a.gen, .id = a.id };
	return err;
}

static enum rpc_verdict mnt(struct mount3 *m, struct rpc_call *c, struct rpc_reply *r)
{
	char path[MOUNT3_PATH_MAX + 2];
	unsigned char bytes[WIREFH_SIZE];
	struct wirefh fh;
	int err;

	if (!path_arg(c, path, &err))
		return RPC_GARBAGE_ARGS;
	if (!err)
		err = find_root(m, c, path, &fh);
	rpc_reply_u32(r, status_of(err));
	if (err)
		return RPC_REPLY;
	wirefh_encode(m->fh, &fh, bytes);
	rpc_reply_opaque(r, bytes, sizeof bytes);
	rpc_reply_u32(r, 1);
	rpc_reply_u32(r, AUTH_FLAVOR_SYS);
	clients_mounted(m->clients, c->peer, path);
	return RPC_REPLY;
}

/* ---- the list ---- */

static enum rpc_verdict umnt(struct mount3 *m, struct rpc_call *c)
{
	char path[MOUNT3_PATH_MAX + 2];
	int err;

	if (!path_arg(c, path, &err))
		return RPC_GARBAGE_ARGS;
	if (!err)
		clients_unmounted(m->clients, c->peer, path);
	return RPC_REPLY;
}

static void address_text(const struct client_addr *a, char out[INET6_ADDRSTRLEN])
{
	const struct in6_addr *v6 = (const void *)a->addr;

	if (IN6_IS_ADDR_V4MAPPED(v6))
		inet_ntop(AF_INET, a->addr + 12, out, INET6_ADDRSTRLEN);
	else
		inet_ntop(AF_INET6, v6, out, INET6_ADDRSTRLEN);
}

static void dump_one(void *arg, const struct client_addr *peer, const char *path)
{
	struct rpc_reply *r = arg;
	char host[INET6_ADDRSTRLEN];

	if (r->len > MOUNT3_LIST_MAX)
		return;
	address_text(peer, host);
	rpc_reply_u32(r, 1);
	rpc_reply_opaque(r, host, strlen(host));
	rpc_reply_opaque(r, path, strlen(path));
}

static int export_one(void *arg, const struct conf_export *e)
{
	struct rpc_reply *r = arg;
	char net[CONF_NET_TEXT];

	rpc_reply_u32(r, 1);
	rpc_reply_opaque(r, e->path, strlen(e->path));
	for (unsigned i = 0; i < e->nnets; i++) {
		conf_format_net(&e->nets[i], net);
		rpc_reply_u32(r, 1);
		rpc_reply_opaque(r, net, strlen(net));
	}
	rpc_reply_u32(r, 0);
	return r->len > MOUNT3_LIST_MAX;
}

/* ---- the program ---- */

static enum rpc_verdict handle(void *arg, struct rpc_call *c, struct rpc_reply *r)
{
	struct mount3 *m = arg;

	if (c->proc != MNT_MNT && c->proc != MNT_UMNT && c->args_len)
		return RPC_GARBAGE_ARGS;
	switch (c->proc) {
	case MNT_NULL:
		return RPC_REPLY;
	case MNT_MNT:
		return mnt(m, c, r);
	case MNT_DUMP:
		clients_each_mount(m->clients, dump_one, r);
		rpc_reply_u32(r, 0);
		return RPC_REPLY;
	case MNT_UMNT:
		return umnt(m, c);
	case MNT_UMNTALL:
		clients_unmounted(m->clients, c->peer, NULL);
		return RPC_REPLY;
	case MNT_EXPORT:
		exports_each(m->exports, export_one, r);
		rpc_reply_u32(r, 0);
		return RPC_REPLY;
	default:
		return RPC_PROC_UNAVAIL;
	}
}

static enum rpc_speed speed(void *arg, const struct rpc_call *c)
{
	(void)arg;
	return c->proc == MNT_MNT || c->proc == MNT_DUMP ? RPC_DISK : RPC_FAST;
}

struct rpc_program mount3_program(struct mount3 *m)
{
	return (struct rpc_program){ .prog = MOUNT3_PROGRAM, .vers_low = 3, .vers_high = 3, .nprocs = MNT_PROCS, .handle = handle, .speed = speed,
				     .arg = m };
}
