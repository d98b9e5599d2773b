/*
 * What an NFS client sends to NFS version 3. Input: u8 procedure, u8 circumstances, the arguments. Wherever 40 bytes could be a handle they are made one (else nothing
 * would get past the MAC), of an export and an object that the bytes choose. Below is a tree that is made up, which sees to it that the contract of the layers is kept, runs the hooks of changes,
 * and fails as the circumstances say. Every answer must be one that libnfs, a client, understands to its last byte.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <nfsc/libnfs-zdr.h>
#include <nfsc/libnfs-raw-nfs.h>

#include "fs/base/log.h"
#include "nfsd-glue/nfs3_int.h"
#include "nfsd-glue/rpc_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t size);

enum { GENERATION = 9, ENTRIES = 40 };
static const uint64_t IDS = UINT64_C(1) << 48;

static void want(bool condition)
{
	if (!condition)
		abort();
}

/* ---- a tree ---- */

static unsigned mood;		/* of the layers: what fails */

static int fails(unsigned what)
{
	static const int errs[] = { -ENOENT, -EEXIST, -EROFS, -EIO, -ESTALE, -ENOSPC, -EACCES, -ENOTEMPTY, -ECANCELED, -ENOMEM, -EXDEV, -EDQUOT };

	return (mood + what) % 5 ? 0 : errs[(mood / 5 + what) % (sizeof errs / sizeof errs[0])];
}

static uint32_t type_of(uint64_t id)
{
	static const uint32_t types[] = { S_IFDIR, S_IFDIR, S_IFREG, S_IFREG, S_IFLNK, S_IFIFO, S_IFCHR };

	return id == HANDLE_ROOT ? S_IFDIR : types[id % 7];
}

static void attr_of(uint64_t id, struct attr *a)
{
	want(id_valid(id));
	*a = (struct attr){ .id = id, .gen = id == HANDLE_ROOT ? 0 : GENERATION, .mode = type_of(id) | (uint32_t)(id * 0x9e37 & 07777), .nlink = id % 31 == 30 ? 0 : 1,
			    .uid = id % 3 ? 0 : 1000, .size = id * 1000, .rdev = 0x103, .mtime = { .tv_sec = -5, .tv_nsec = 999999999 } };
}

static void name_ok(const char *name)
{
	size_t n = strlen(name);

	want(n && n <= LAYER_NAME_MAX && !strchr(name, '/'));
}

static void new_name_ok(const char *name)
{
	name_ok(name);
	want(strcmp(name, ".") != 0 && strcmp(name, "..") != 0);
}

static uint64_t child_of(uint64_t parent, const char *name) { return IDS + (parent * 31 + (unsigned char)*name) % 1000; }

static int t_lookup(struct layer *l, struct call *c, uint64_t parent, const char *name, struct attr *out)
{
	(void)l, (void)c;
	name_ok(name);
	if (fails(1))
		return fails(1);
	attr_of(!strcmp(name, "..") ? HANDLE_ROOT : child_of(parent, name), out);
	return 0;
}

static int t_resolve(struct layer *l, uint64_t parent, const char *name, uint64_t *id, uint32_t *type)
{
	(void)l;
	name_ok(name);
	*id = child_of(parent, name);
	*type = type_of(*id);
	return fails(2);
}

static int t_getattr(struct layer *l, struct call *c, uint64_t id, struct file *f, struct attr *out)
{
	(void)l, (void)c, (void)f;
	attr_of(id, out);
	return fails(3);
}

static int t_access(struct layer *l, struct call *c, uint64_t id, unsigned wanted, unsigned *granted)
{
	(void)l, (void)c, (void)id;
	want(wanted && wanted < 8);
	*granted = wanted & (mood | 1);
	return fails(4);
}

/* As the mirroring layer runs the hooks. */
static ssize_t changed(struct call *c, uint64_t id, unsigned what, ssize_t r)
{
	struct effect e = { 0 };

	want(c->origin == ORIGIN_NFS);
	if (fails(what) == -EROFS)
		return -EROFS;
	if (c->before)
		c->before(c);
	attr_of(id, &e.attr);
	e.attr.nlink = 1;
	if (fails(what))
		r = fails(what);
	if (c->after)
		c->after(c, r, r < 0 ? NULL : &e);
	want(c->attach_len <= LAYER_ATTACH_MAX);
	return (mood & 0x80) && r >= 0 ? -EIO : r;	/* made, but not confirmed */
}

static int t_create(struct layer *l, struct call *c, uint64_t parent, const char *name, const struct create *cr, int flags, struct attr *out,
		    struct file **file)
{
	(void)l, (void)flags, (void)out;
	new_name_ok(name);
	want(!file && (!S_ISLNK(cr->mode) == !cr->target) && (!cr->target || strlen(cr->target) <= LAYER_SYMLINK_MAX));
	want(!(cr->mode & ~(uint32_t)(S_IFMT | 07777)) && (!cr->mtime || (cr->mtime->tv_nsec >= 0 && cr->mtime->tv_nsec < 1000000000)));
	return (int)changed(c, child_of(parent, name), 5, 0);
}

static int t_unlink(struct layer *l, struct call *c, uint64_t parent, const char *name)
{
	(void)l;
	new_name_ok(name);
	return (int)changed(c, child_of(parent, name), 6, 0);
}

static int t_rename(struct layer *l, struct call *c, uint64_t p1, const char *n1, uint64_t p2, const char *n2, unsigned flags)
{
	(void)l, (void)p2;
	new_name_ok(n1);
	new_name_ok(n2);
	want(!flags);
	return (int)changed(c, p1, 7, 0);
}

static int t_link(struct layer *l, struct call *c, uint64_t id, uint64_t parent, const char *name, struct attr *out)
{
	(void)l, (void)parent, (void)out;
	new_name_ok(name);
	return (int)changed(c, id, 8, 0);
}

static ssize_t t_readlink(struct layer *l, struct call *c, uint64_t id, char *buf, size_t size)
{
	(void)l, (void)c;
	want(S_ISLNK(type_of(id)) && size == LAYER_SYMLINK_MAX);
	size_t n = id * 77 % (LAYER_SYMLINK_MAX + 1);
	memset(buf, 'x', n);
	return fails(9) ? fails(9) : (ssize_t)n;
}

static int t_setattr(struct layer *l, struct call *c, uint64_t id, struct file *f, const struct setattr *s, struct attr *out)
{
	(void)l, (void)f, (void)out;
	want(!(s->valid & SET_CTIME) && s->mode <= 07777 && s->atime.tv_nsec < 1000000000 && s->mtime.tv_nsec < 1000000000);
	return (int)changed(c, id, 10, 0);
}

static int t_open(struct layer *l, struct call *c, uint64_t id, int flags, struct file **out)
{
	(void)l, (void)c, (void)flags;
	*out = malloc(1);
	int r = !S_ISREG(type_of(id)) ? (S_ISDIR(type_of(id)) ? -EISDIR : -ENXIO) : fails(11);
	if (r)
		free(*out);
	return r;
}

static int t_release(struct layer *l, struct call *c, struct file *f)
{
	(void)l, (void)c;
	free(f);
	return 0;
}

static ssize_t t_read(struct layer *l, struct call *c, struct file *f, void *buf, size_t size, uint64_t off)
{
	(void)l, (void)c, (void)f;
	want(size <= LAYER_IO_MAX && off <= INT64_MAX);
	memset(buf, 'r', size);
	return fails(12) ? fails(12) : (ssize_t)(mood & 1 ? size : size / 2);
}

static ssize_t t_write(struct layer *l, struct call *c, struct file *f, const struct wdata *d, uint64_t off, unsigned flags, struct attr *attr)
{
	static volatile unsigned char sum;

	(void)l, (void)f, (void)flags, (void)attr;
	want(d->len <= LAYER_IO_MAX && off <= INT64_MAX - d->len);
	for (size_t i = 0; i < d->len; i++)	/* all of it is there */
		sum += ((const unsigned char *)d->p)[i];
	return changed(c, IDS + 2, 13, (ssize_t)d->len);
}

static int t_fsync(struct layer *l, struct call *c, uint64_t id, struct file *f, bool datasync)
{
	(void)l, (void)c, (void)id, (void)f, (void)datasync;
	return fails(14);
}

static int t_opendir(struct layer *l, struct call *c, uint64_t id, struct dir **out)
{
	(void)l, (void)c;
	*out = malloc(1);
	int r = S_ISDIR(type_of(id)) ? fails(15) : -ENOTDIR;
	if (r)
		free(*out);
	return r;
}

static int t_readdir(struct layer *l, struct call *c, struct dir *d, uint64_t pos, readdir_fn fn, void *arg)
{
	static char names[ENTRIES][LAYER_NAME_MAX + 1];

	(void)l, (void)c, (void)d;
	want(pos <= INT64_MAX);
	for (unsigned i = 0; i < ENTRIES; i++) {
		size_t len = i * 53 % LAYER_NAME_MAX + 1;
		memset(names[i], 'a' + (int)(i % 26), len);
		const char *name = i == 0 ? "." : i == 1 ? ".." : names[i];
		const struct dirent_info e = { name, i < 2 ? HANDLE_ROOT : IDS + i, type_of(IDS + i), i + 1 };
		if (e.pos > pos && fn(arg, &e))
			break;
	}
	return fails(16);
}

static int t_releasedir(struct layer *l, struct call *c, struct dir *d)
{
	(void)l, (void)c;
	free(d);
	return 0;
}

static int t_statfs(struct layer *l, struct call *c, struct statvfs *out)
{
	(void)l, (void)c;
	*out = (struct statvfs){ .f_frsize = 4096, .f_blocks = 1000 };
	return fails(17);
}

static const struct layer_ops ops = {
	.lookup = t_lookup, .resolve = t_resolve, .getattr = t_getattr, .access = t_access, .create = t_create, .unlink = t_unlink, .rmdir = t_unlink,
	.rename = t_rename, .link = t_link, .readlink = t_readlink, .setattr = t_setattr, .open = t_open, .release = t_release, .read = t_read,
	.write = t_write, .fsync = t_fsync, .opendir = t_opendir, .readdir = t_readdir, .releasedir = t_releasedir, .statfs = t_statfs,
};
static struct layer tree = { .ops = &ops, .name = "tree" };

/* ---- the server ---- */

static struct wirefh_codec codec;
static struct nfs3 *server;
static struct rpc_program program;

static void server_make(void)
{
	static const char text[] = "[volume]\nbacking = /x\n[node alpha]\nnumber = 1\n[export all]\nid = 1\nclients = *\naccess = rw\nsquash = none\nsecure = no\n"
				   "[export pub]\nid = 2\npath = /pub\nclients = *\naccess = rw\nsecure = no\n[export ro]\nid = 3\npath = /ro\nclients = *\nsecure = no\n";
	static const struct volume_limits limits;
	static struct volume_conf conf;
	struct exports *exports;
	char err[CONF_ERR_MAX];

	log_init("fuzz", LOG_SINK_STDERR, LOG_LVL_ERROR);
	wirefh_init(&codec, (const unsigned char *)"uuid of a volume", (const unsigned char *)"key of a volume.");
	if (conf_parse("home", "f", text, sizeof text - 1, NULL, "alpha", &conf, err, sizeof err)) {
		fprintf(stderr, "%s\n", err);
		abort();
	}
	want(!exports_new(&conf, &exports));
	const struct nfs3_config nc = { .top = &tree, .exports = exports, .handles = &codec, .limits = &limits, .generation = GENERATION };
	want(!nfs3_new(&nc, &server));
	nfs3_role(server, NFSD_PRIMARY);
	nfs3_program(server, &program);
}

/* Every 40 bytes behind a length of 40 become a handle that this server has given out. */
static void make_handles(unsigned char *p, size_t len)
{
	for (size_t at = 0; at + 4 + WIREFH_SIZE <= len; at += 4) {
		unsigned char *fh = p + at + 4;
		struct wirefh h = { .export_id = (uint16_t)(1 + fh[2] % 4), .gen = GENERATION, .id = IDS + fh[8] };
		if (xdr_get32(p + at) != WIREFH_SIZE)
			continue;
		if (fh[8] < 32) {
			h.id = HANDLE_ROOT;
			h.gen = 0;
		}
		wirefh_encode(&codec, &h, fh);
		at += WIREFH_SIZE;
	}
}

/* ---- answers ---- */

union result {
	GETATTR3res getattr;
	SETATTR3res setattr;
	LOOKUP3res lookup;
	ACCESS3res access;
	READLINK3res readlink;
	READ3res read;
	WRITE3res write;
	CREATE3res create;
	MKDIR3res mkdir;
	SYMLINK3res symlink;
	MKNOD3res mknod;
	REMOVE3res remove;
	RMDIR3res rmdir;
	RENAME3res rename;
	LINK3res link;
	READDIR3res readdir;
	READDIRPLUS3res readdirplus;
	FSSTAT3res fsstat;
	FSINFO3res fsinfo;
	PATHCONF3res pathconf;
	COMMIT3res commit;
};

static bool zdr_null(ZDR *z, union result *r)
{
	(void)z, (void)r;
	return true;
}

#define DECODER(name, NAME) static bool zdr_ ## name(ZDR *z, union result *r) { return zdr_ ## NAME ## 3res(z, &r->name); }
DECODER(getattr, GETATTR)
DECODER(setattr, SETATTR)
DECODER(lookup, LOOKUP)
DECODER(access, ACCESS)
DECODER(readlink, READLINK)
DECODER(read, READ)
DECODER(write, WRITE)
DECODER(create, CREATE)
DECODER(mkdir, MKDIR)
DECODER(symlink, SYMLINK)
DECODER(mknod, MKNOD)
DECODER(remove, REMOVE)
DECODER(rmdir, RMDIR)
DECODER(rename, RENAME)
DECODER(link, LINK)
DECODER(readdir, READDIR)
DECODER(readdirplus, READDIRPLUS)
DECODER(fsstat, FSSTAT)
DECODER(fsinfo, FSINFO)
DECODER(pathconf, PATHCONF)
DECODER(commit, COMMIT)
static bool (*const decoders[NFS3_PROCS])(ZDR *z, union result *r) = {
	zdr_null, zdr_getattr, zdr_setattr, zdr_lookup, zdr_access, zdr_readlink, zdr_read, zdr_write, zdr_create, zdr_mkdir, zdr_symlink, zdr_mknod, zdr_remove,
	zdr_rmdir, zdr_rename, zdr_link, zdr_readdir, zdr_readdirplus, zdr_fsstat, zdr_fsinfo, zdr_pathconf, zdr_commit,
};

static void check_answer(unsigned proc, const struct rpc_reply *r)
{
	size_t len = r->len + (r->data ? r->data_len + xdr_pad(r->data_len) : 0);
	unsigned char *all = calloc(1, len + 1);
	union result res;
	ZDR z;

	want(!r->full && len % 4 == 0);
	memcpy(all, r->p, r->len);
	if (r->data)
		memcpy(all + r->len, r->data_p, r->data_len);
	memset(&res, 0, sizeof res);
	zdrmem_create(&z, (char *)all, (uint32_t)len, ZDR_DECODE);
	want(decoders[proc](&z, &res));
	want(zdr_getpos(&z) == len);
	zdr_destroy(&z);
	free(all);
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t size)
{
	static _Alignas(16) unsigned char buf[16 << 10], scratch[RPC_SCRATCH_LEN];
	struct sockaddr_storage peer = { .ss_family = AF_INET };
	struct rpc_reply r;

	if (!server)
		server_make();
	if (size < 2)
		return 0;
	mood = in[1];
	unsigned char *tight = malloc(size - 2);	/* of exactly that length: reading on is caught */
	memcpy(tight, in + 2, size - 2);
	make_handles(tight, size - 2);
	struct rpc_call c = { .prog = NFS3_PROGRAM, .vers = 3, .proc = in[0] % NFS3_PROCS, .args = tight, .args_len = size - 2, .peer = &peer, .scratch = scratch,
			      .cred = { .flavor = in[0] & 0x40 ? RPC_AUTH_NONE : RPC_AUTH_SYS, .uid = in[0] & 0x80 ? 1000 : 0 } };
	rpc_reply_init(&r, buf, sizeof buf);
	enum rpc_verdict v = program.handle(program.arg, &c, &r);
	want(v == RPC_REPLY || v == RPC_GARBAGE_ARGS);
	if (v == RPC_REPLY)
		check_answer(c.proc, &r);
	rpc_reply_end(&r);
	free(tight);
	return 0;
}
