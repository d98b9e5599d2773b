/* nfsclient: an NFSv3 client for shell tests, one call at a time, on libnfs's raw interface (its RPC, its XDR).
 *
 *   nfsclient [OPTION]... HOST EXPORT COMMAND [ARG]...        or COMMAND = "-": lines of commands from standard input
 *
 *     -p PORT  of NFS (2049)   -m PORT  of MOUNT, -l PORT  of NLM (both: as NFS)   -u UID  -g GID  -G GID,GID...  -M MACHINE
 *     -s HOST  another server of the same export: listings take their pages from all of them in turn
 *     -H HEX   the handle that paths begin at: MOUNT isn't asked
 *     -r       connects again when a connection breaks, and sends again what wasn't answered
 *     -w       compares the weak cache consistency data of every change with GETATTR before and after it
 *
 * Paths are resolved below the export by LOOKUP, symbolic links are not followed. Status 0: NFS3_OK; 1: the server said no, its name ("NOENT") is on
 * standard output; 2: wrong usage; 3: no connection, or an answer that can't be.
 *
 *   null | stat PATH | fh PATH | access PATH BITS | readlink PATH | cat PATH | read PATH OFFSET COUNT | fsstat | fsinfo | pathconf PATH
 *   create PATH MODE | guarded PATH MODE | exclusive PATH VERIFIER(8 characters) | mkdir PATH MODE | symlink PATH TARGET
 *   mknod PATH p|s|c|b MODE [MAJOR MINOR] | remove PATH | rmdir PATH | rename FROM TO | link OLD NEW | put PATH <data
 *   write PATH OFFSET unstable|data|file TEXT | commit PATH | verf PATH
 *   setattr PATH [mode=OCTAL] [uid=N] [gid=N] [size=N] [mtime=S.NS|server] [atime=...] [guard=S.NS]
 *   ls PATH [COUNT] | lsplus PATH [COUNT | random:SEED:MOST]  pages of COUNT, or of 600...MOST bytes: lines FILEID COOKIE NAME, with lsplus also what stat
 *                                                             prints
 *   exports | mounts | umount | umountall
 *   lock PATH OFFSET LENGTH x|s OWNER [block|reclaim] | cancel (the same) | unlock PATH OFFSET LENGTH OWNER | testlock PATH OFFSET LENGTH x|s OWNER
 *
 * stat prints: TYPE MODE NLINK UID GID SIZE FILEID MTIME CTIME, as `stat -c '%.1A %a %h %u %g %s %i %.9Y %.9Z'` does. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <poll.h>
#include <stdbool.h>
#include <sys/sysmacros.h>
#include <unistd.h>
#include <nfsc/libnfs.h>
#include <nfsc/libnfs-raw.h>
#include <nfsc/libnfs-raw-mount.h>
#include <nfsc/libnfs-raw-nfs.h>
#include <nfsc/libnfs-raw-nlm.h>
#include "tests/tools/tool.h"

enum { MAX_SERVERS = 8, MAX_WORDS = 16, IO_BYTES = 1 << 18, ANSWER_MS = 30000, NLM_VERSION = 4 };

/* Of libnfs, but in none of its headers. */
void rpc_set_autoreconnect(struct rpc_context *rpc, int num_retries);

struct fh {
	u_int len;
	char data[NFS3_FHSIZE];
};

static struct {
	const char *hosts[MAX_SERVERS], *export, *machine;
	int nhosts, port, mount_port, lock_port;
	uint32_t uid, gid, groups[16], ngroups;
	bool wcc, reconnect;
} opt = { .port = 2049, .machine = "client" };

static struct rpc_context *nfs[MAX_SERVERS], *mountd, *nlm; /* connected when first needed */
static struct fh root;

/* What the last answer said, copied by its handler: libnfs frees the answer afterwards. */
static struct {
	uint32_t status;
	bool has_attr, has_fh, eof;
	fattr3 attr;
	struct fh fh;
	wcc_data wcc[2];
	char *text;			 /* owned */
	unsigned char *data;		 /* owned */
	uint32_t count, committed;
	char verf[8];
	uint64_t cookie, entries;
} got;

typedef void (*handler)(void *answer);
struct pending {
	bool done;
	handler take;
};

static void broken(const char *what, const char *why)
{
	fprintf(stderr, "nfsclient: %s: %s\n", what, why);
	exit(3);
}
static void usage(const char *what)
{
	fprintf(stderr, "nfsclient: %s: see the head of tests/tools/nfsclient.c\n", what);
	exit(2);
}

/* ---- one call, waited for ---- */

static void answered(struct rpc_context *rpc, int status, void *answer, void *arg)
{
	struct pending *p = arg;

	(void)rpc;
	if (status != RPC_STATUS_SUCCESS)
		broken("rpc", status == RPC_STATUS_ERROR && answer ? (char *)answer : "cancelled");
	p->done = true;
	if (p->take)
		p->take(answer);
}

static void wait_for(struct rpc_context *rpc, struct pending *p)
{
	double end = now_s() + ANSWER_MS / 1000.0;

	while (!p->done) {
		struct pollfd pfd = { .fd = rpc_get_fd(rpc), .events = (short)rpc_which_events(rpc) };

		if (now_s() > end || poll(&pfd, 1, 1000) < 0)
			broken("rpc", "no answer");
		if (rpc_service(rpc, pfd.revents) < 0)
			broken("rpc", rpc_get_error(rpc));
	}
}

/* CALL(rpc, handler, function, arguments...): makes the call and waits; got.status says what came. */
#define CALL(rpc, taker, function, ...)                                                                                                            \
	do {                                                                                                                                       \
		struct pending pending_ = { .take = (taker) };                                                                                     \
		if (function(rpc, answered, ##__VA_ARGS__, &pending_) != 0)                                                                        \
			broken(#function, rpc_get_error(rpc));                                                                                     \
		wait_for(rpc, &pending_);                                                                                                          \
	} while (0)

static struct rpc_context *connect_to(const char *host, int port, int program, int version)
{
	struct rpc_context *rpc = rpc_init_context();
	struct pending p = { 0 };

	if (!rpc)
		broken("libnfs", "no context");
	rpc_set_auth(rpc, libnfs_authunix_create(opt.machine, opt.uid, opt.gid, opt.ngroups, opt.groups));
	if (rpc_connect_port_async(rpc, host, port, program, version, answered, &p) != 0)
		broken(host, rpc_get_error(rpc));
	wait_for(rpc, &p);
	if (opt.reconnect)
		rpc_set_autoreconnect(rpc, -1);
	return rpc;
}

static struct rpc_context *server(int i)
{
	if (!nfs[i])
		nfs[i] = connect_to(opt.hosts[i], opt.port, NFS_PROGRAM, NFS_V3);
	return nfs[i];
}
static struct rpc_context *lock_manager(void)
{
	if (!nlm)
		nlm = connect_to(opt.hosts[0], opt.lock_port, NLM_PROGRAM, NLM_VERSION);
	return nlm;
}

/* ---- handlers ---- */

static void copy_fh(struct fh *to, const nfs_fh3 *from)
{
	if (from->data.data_len > NFS3_FHSIZE)
		broken("handle", "too long");
	to->len = from->data.data_len;
	memcpy(to->data, from->data.data_val, to->len);
}
static nfs_fh3 ref(struct fh *fh) { return (nfs_fh3){ { fh->len, fh->data } }; }
static void take_attr(const post_op_attr *a)
{
	got.has_attr = a->attributes_follow;
	if (got.has_attr)
		got.attr = a->post_op_attr_u.attributes;
}
static void take_object(const post_op_fh3 *fh, const post_op_attr *a)
{
	take_attr(a);
	got.has_fh = fh->handle_follows;
	if (got.has_fh)
		copy_fh(&got.fh, &fh->post_op_fh3_u.handle);
}
static void take_text(const char *s)
{
	free(got.text);
	got.text = xstrdup(s);
}
static void take_getattr(void *answer)
{
	GETATTR3res *r = answer;

	got.status = r->status;
	got.has_attr = r->status == NFS3_OK;
	if (got.has_attr)
		got.attr = r->GETATTR3res_u.resok.obj_attributes;
}
static void take_lookup(void *answer)
{
	LOOKUP3res *r = answer;

	got.status = r->status;
	if (r->status != NFS3_OK)
		return;
	copy_fh(&got.fh, &r->LOOKUP3res_u.resok.object);
	take_attr(&r->LOOKUP3res_u.resok.obj_attributes);
}
static void take_access(void *answer)
{
	ACCESS3res *r = answer;

	got.status = r->status;
	got.count = r->status == NFS3_OK ? r->ACCESS3res_u.resok.access : 0;
}
static void take_readlink(void *answer)
{
	READLINK3res *r = answer;

	got.status = r->status;
	if (r->status == NFS3_OK)
		take_text(r->READLINK3res_u.resok.data);
}
static void take_read(void *answer)
{
	READ3res *r = answer;
	READ3resok *ok = &r->READ3res_u.resok;

	got.status = r->status;
	if (r->status != NFS3_OK)
		return;
	if (ok->count != ok->data.data_len)
		broken("read", "the count and the data disagree");
	got.count = ok->count;
	got.eof = ok->eof;
	got.data = xrealloc(got.data, ok->count);
	memcpy(got.data, ok->data.data_val, ok->count);
}
static void take_write(void *answer)
{
	WRITE3res *r = answer;

	got.status = r->status;
	got.wcc[0] = r->status == NFS3_OK ? r->WRITE3res_u.resok.file_wcc : r->WRITE3res_u.resfail.file_wcc;
	if (r->status != NFS3_OK)
		return;
	got.count = r->WRITE3res_u.resok.count;
	got.committed = r->WRITE3res_u.resok.committed;
	memcpy(got.verf, r->WRITE3res_u.resok.verf, sizeof got.verf);
}
static void take_commit(void *answer)
{
	COMMIT3res *r = answer;

	got.status = r->status;
	got.wcc[0] = r->status == NFS3_OK ? r->COMMIT3res_u.resok.file_wcc : r->COMMIT3res_u.resfail.file_wcc;
	if (r->status == NFS3_OK)
		memcpy(got.verf, r->COMMIT3res_u.resok.verf, sizeof got.verf);
}
static void take_setattr(void *answer)
{
	SETATTR3res *r = answer;

	got.status = r->status;
	got.wcc[0] = r->status == NFS3_OK ? r->SETATTR3res_u.resok.obj_wcc : r->SETATTR3res_u.resfail.obj_wcc;
}
/* CREATE, MKDIR, SYMLINK, MKNOD: the same shape, four types. */
#define TAKE_MADE(name, type)                                                                                                                      \
	static void name(void *answer)                                                                                                             \
	{                                                                                                                                          \
		type *r = answer;                                                                                                                  \
		got.status = r->status;                                                                                                            \
		got.wcc[0] = r->status == NFS3_OK ? r->type##_u.resok.dir_wcc : r->type##_u.resfail.dir_wcc;                                       \
		if (r->status == NFS3_OK)                                                                                                          \
			take_object(&r->type##_u.resok.obj, &r->type##_u.resok.obj_attributes);                                                    \
	}
TAKE_MADE(take_create, CREATE3res)
TAKE_MADE(take_mkdir, MKDIR3res)
TAKE_MADE(take_symlink, SYMLINK3res)
TAKE_MADE(take_mknod, MKNOD3res)
static void take_remove(void *answer)
{
	REMOVE3res *r = answer;

	got.status = r->status;
	got.wcc[0] = r->status == NFS3_OK ? r->REMOVE3res_u.resok.dir_wcc : r->REMOVE3res_u.resfail.dir_wcc;
}
static void take_rmdir(void *answer)
{
	RMDIR3res *r = answer;

	got.status = r->status;
	got.wcc[0] = r->status == NFS3_OK ? r->RMDIR3res_u.resok.dir_wcc : r->RMDIR3res_u.resfail.dir_wcc;
}
static void take_rename(void *answer)
{
	RENAME3res *r = answer;
	bool ok = r->status == NFS3_OK;

	got.status = r->status;
	got.wcc[0] = ok ? r->RENAME3res_u.resok.fromdir_wcc : r->RENAME3res_u.resfail.fromdir_wcc;
	got.wcc[1] = ok ? r->RENAME3res_u.resok.todir_wcc : r->RENAME3res_u.resfail.todir_wcc;
}
static void take_link(void *answer)
{
	LINK3res *r = answer;
	bool ok = r->status == NFS3_OK;

	got.status = r->status;
	got.wcc[0] = ok ? r->LINK3res_u.resok.linkdir_wcc : r->LINK3res_u.resfail.linkdir_wcc;
	take_attr(ok ? &r->LINK3res_u.resok.file_attributes : &r->LINK3res_u.resfail.file_attributes);
}

/* ---- printing ---- */

static void print_attr(const fattr3 *a)
{
	static const char types[] = "?-dbclsp";

	printf("%c %o %u %u %u %llu %llu %u.%09u %u.%09u", types[a->type < 8 ? a->type : 0], a->mode, a->nlink, a->uid, a->gid, (unsigned long long)a->size,
	       (unsigned long long)a->fileid, a->mtime.seconds, a->mtime.nseconds, a->ctime.seconds, a->ctime.nseconds);
}
static void print_hex(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		printf("%02x", (unsigned char)p[i]);
	putchar('\n');
}

/* ---- paths ---- */

static void lookup(struct fh *dir, const char *name)
{
	LOOKUP3args a = { .what = { ref(dir), (char *)name } };

	CALL(server(0), take_lookup, rpc_nfs3_lookup_async, &a);
}

/* The handle of what `path` names; false: got.status says why not. "" and "/" are the export. */
static bool resolve(const char *path, struct fh *fh)
{
	char *copy = xstrdup(path), *save = NULL;

	*fh = root;
	for (char *name = strtok_r(copy, "/", &save); name; name = strtok_r(NULL, "/", &save)) {
		lookup(fh, name);
		if (got.status != NFS3_OK) {
			free(copy);
			return false;
		}
		*fh = got.fh;
	}
	free(copy);
	return true;
}

/* The handle of the directory and the last name; *name points into path. */
static bool resolve_parent(const char *path, struct fh *dir, const char **name)
{
	const char *slash = strrchr(path, '/');
	char *parent = slash ? xasprintf("%.*s", (int)(slash - path), path) : xstrdup("");
	bool there = resolve(parent, dir);

	*name = slash ? slash + 1 : path;
	free(parent);
	return there;
}

/* ---- weak cache consistency: what the server says of an object around a change must be what GETATTR says ---- */

static fattr3 before[2];

static bool attributes_of(struct fh *fh, fattr3 *a)
{
	GETATTR3args args = { .object = ref(fh) };
	uint32_t status = got.status;
	bool there;

	CALL(server(0), take_getattr, rpc_nfs3_getattr_async, &args);
	there = got.status == NFS3_OK;
	*a = got.attr;
	got.status = status;
	return there;
}
static void wcc_before(int i, struct fh *fh)
{
	if (opt.wcc && !attributes_of(fh, &before[i]))
		broken("wcc", "no attributes before");
}
static bool same_time(const nfstime3 *a, const nfstime3 *b) { return a->seconds == b->seconds && a->nseconds == b->nseconds; }
static void wcc_after(int i, struct fh *fh)
{
	const fattr3 saved = got.attr;
	const pre_op_attr *pre = &got.wcc[i].before;
	const post_op_attr *post = &got.wcc[i].after;
	const wcc_attr *was = &pre->pre_op_attr_u.attributes;
	const fattr3 *is = &post->post_op_attr_u.attributes;
	fattr3 now;

	if (!opt.wcc || !attributes_of(fh, &now))
		return;
	got.attr = saved;
	if (pre->attributes_follow &&
	    (was->size != before[i].size || !same_time(&was->mtime, &before[i].mtime) || !same_time(&was->ctime, &before[i].ctime)))
		broken("wcc", "the attributes before the change are not what they were");
	if (got.status == NFS3_OK && (!pre->attributes_follow || !post->attributes_follow))
		broken("wcc", "a change came without attributes before and after");
	if (post->attributes_follow && (is->size != now.size || is->mode != now.mode || is->uid != now.uid || is->gid != now.gid || is->nlink != now.nlink ||
					is->fileid != now.fileid || !same_time(&is->mtime, &now.mtime) || !same_time(&is->ctime, &now.ctime)))
		broken("wcc", "the attributes after the change are not what they are");
}

/* ---- commands: 0 or 1; the dispatcher prints a status that isn't OK ---- */

typedef char **words;

static sattr3 with_mode(const char *octal)
{
	return (sattr3){ .mode = { .set_it = 1, .set_mode3_u = { .mode = (u_int)strtoul(octal, NULL, 8) } } };
}

static void cmd_null(words w)
{
	(void)w;
	CALL(server(0), NULL, rpc_nfs3_null_async);
	got.status = NFS3_OK;
}
static void cmd_stat(words w)
{
	struct fh fh;
	GETATTR3args a;

	if (!resolve(w[1], &fh))
		return;
	a.object = ref(&fh);
	CALL(server(0), take_getattr, rpc_nfs3_getattr_async, &a);
	if (got.status != NFS3_OK)
		return;
	print_attr(&got.attr);
	putchar('\n');
}
static void cmd_fh(words w)
{
	struct fh fh;

	if (!resolve(w[1], &fh))
		return;
	got.status = NFS3_OK;
	print_hex(fh.data, fh.len);
}
static void cmd_access(words w)
{
	struct fh fh;
	ACCESS3args a;

	if (!resolve(w[1], &fh))
		return;
	a = (ACCESS3args){ .object = ref(&fh), .access = (u_int)strtoul(w[2], NULL, 0) };
	CALL(server(0), take_access, rpc_nfs3_access_async, &a);
	if (got.status == NFS3_OK)
		printf("%u\n", got.count);
}
static void cmd_readlink(words w)
{
	struct fh fh;
	READLINK3args a;

	if (!resolve(w[1], &fh))
		return;
	a.symlink = ref(&fh);
	CALL(server(0), take_readlink, rpc_nfs3_readlink_async, &a);
	if (got.status == NFS3_OK)
		puts(got.text);
}
static void read_at(struct fh *fh, uint64_t offset, uint32_t count)
{
	READ3args a = { .file = ref(fh), .offset = offset, .count = count };

	CALL(server(0), take_read, rpc_nfs3_read_async, &a);
	if (got.status == NFS3_OK)
		fwrite(got.data, 1, got.count, stdout);
}
static void cmd_read(words w)
{
	struct fh fh;

	if (resolve(w[1], &fh))
		read_at(&fh, strtoull(w[2], NULL, 0), (uint32_t)strtoul(w[3], NULL, 0));
}
static void cmd_cat(words w)
{
	uint64_t offset = 0;
	struct fh fh;

	if (!resolve(w[1], &fh))
		return;
	do {
		read_at(&fh, offset, IO_BYTES);
		offset += got.count;
		if (got.status == NFS3_OK && !got.eof && !got.count)
			broken("read", "neither data nor the end");
	} while (got.status == NFS3_OK && !got.eof);
}

/* Only the fields that a test looks at. */
static void take_fsstat(void *answer)
{
	FSSTAT3res *r = answer;

	got.status = r->status;
	if (r->status == NFS3_OK)
		printf("tbytes=%llu fbytes=%llu abytes=%llu tfiles=%llu ffiles=%llu afiles=%llu\n", (unsigned long long)r->FSSTAT3res_u.resok.tbytes,
		       (unsigned long long)r->FSSTAT3res_u.resok.fbytes, (unsigned long long)r->FSSTAT3res_u.resok.abytes,
		       (unsigned long long)r->FSSTAT3res_u.resok.tfiles, (unsigned long long)r->FSSTAT3res_u.resok.ffiles,
		       (unsigned long long)r->FSSTAT3res_u.resok.afiles);
}
static void cmd_fsstat(words w)
{
	FSSTAT3args a = { .fsroot = ref(&root) };

	(void)w;
	CALL(server(0), take_fsstat, rpc_nfs3_fsstat_async, &a);
}
static void take_fsinfo(void *answer)
{
	FSINFO3res *r = answer;

	got.status = r->status;
	if (r->status == NFS3_OK)
		printf("rtmax=%u rtpref=%u wtmax=%u wtpref=%u dtpref=%u maxfilesize=%llu delta=%u.%09u properties=%u\n", r->FSINFO3res_u.resok.rtmax,
		       r->FSINFO3res_u.resok.rtpref, r->FSINFO3res_u.resok.wtmax, r->FSINFO3res_u.resok.wtpref, r->FSINFO3res_u.resok.dtpref,
		       (unsigned long long)r->FSINFO3res_u.resok.maxfilesize, r->FSINFO3res_u.resok.time_delta.seconds,
		       r->FSINFO3res_u.resok.time_delta.nseconds, r->FSINFO3res_u.resok.properties);
}
static void cmd_fsinfo(words w)
{
	FSINFO3args a = { .fsroot = ref(&root) };

	(void)w;
	CALL(server(0), take_fsinfo, rpc_nfs3_fsinfo_async, &a);
}
static void take_pathconf(void *answer)
{
	PATHCONF3res *r = answer;

	got.status = r->status;
	if (r->status == NFS3_OK)
		printf("linkmax=%u name_max=%u no_trunc=%u chown_restricted=%u case_insensitive=%u case_preserving=%u\n",
		       r->PATHCONF3res_u.resok.linkmax, r->PATHCONF3res_u.resok.name_max, r->PATHCONF3res_u.resok.no_trunc,
		       r->PATHCONF3res_u.resok.chown_restricted, r->PATHCONF3res_u.resok.case_insensitive, r->PATHCONF3res_u.resok.case_preserving);
}
static void cmd_pathconf(words w)
{
	struct fh fh;
	PATHCONF3args a;

	if (!resolve(w[1], &fh))
		return;
	a.object = ref(&fh);
	CALL(server(0), take_pathconf, rpc_nfs3_pathconf_async, &a);
}

/* CREATE in its three ways; the new file's handle is in got.fh. */
static void create(const char *path, createhow3 how)
{
	struct fh dir;
	CREATE3args a = { .how = how };
	const char *name;

	if (!resolve_parent(path, &dir, &name))
		return;
	wcc_before(0, &dir);
	a.where = (diropargs3){ ref(&dir), (char *)name };
	CALL(server(0), take_create, rpc_nfs3_create_async, &a);
	wcc_after(0, &dir);
}
static void cmd_create(words w) { create(w[1], (createhow3){ .mode = UNCHECKED, .createhow3_u = { .obj_attributes = with_mode(w[2]) } }); }
static void cmd_guarded(words w) { create(w[1], (createhow3){ .mode = GUARDED, .createhow3_u = { .g_obj_attributes = with_mode(w[2]) } }); }
static void cmd_exclusive(words w)
{
	createhow3 how = { .mode = EXCLUSIVE };

	memcpy(how.createhow3_u.verf, w[2], strnlen(w[2], sizeof how.createhow3_u.verf));
	create(w[1], how);
}
static void cmd_mkdir(words w)
{
	struct fh dir;
	MKDIR3args a = { .attributes = with_mode(w[2]) };
	const char *name;

	if (!resolve_parent(w[1], &dir, &name))
		return;
	wcc_before(0, &dir);
	a.where = (diropargs3){ ref(&dir), (char *)name };
	CALL(server(0), take_mkdir, rpc_nfs3_mkdir_async, &a);
	wcc_after(0, &dir);
}
static void cmd_symlink(words w)
{
	struct fh dir;
	SYMLINK3args a = { .symlink = { .symlink_attributes = with_mode("777"), .symlink_data = w[2] } };
	const char *name;

	if (!resolve_parent(w[1], &dir, &name))
		return;
	wcc_before(0, &dir);
	a.where = (diropargs3){ ref(&dir), (char *)name };
	CALL(server(0), take_symlink, rpc_nfs3_symlink_async, &a);
	wcc_after(0, &dir);
}
static void cmd_mknod(words w)
{
	struct fh dir;
	MKNOD3args a = { .what = { .type = NF3FIFO } };
	devicedata3 dev = { .dev_attributes = with_mode(w[3]) };
	const char *name;

	if (!resolve_parent(w[1], &dir, &name))
		return;
	if (w[4] && w[5])
		dev.spec = (specdata3){ (u_int)strtoul(w[4], NULL, 0), (u_int)strtoul(w[5], NULL, 0) };
	switch (w[2][0]) {
	case 'p': a.what.mknoddata3_u.pipe_attributes = dev.dev_attributes; break;
	case 's': a.what.type = NF3SOCK; a.what.mknoddata3_u.sock_attributes = dev.dev_attributes; break;
	case 'c': a.what.type = NF3CHR; a.what.mknoddata3_u.chr_device = dev; break;
	case 'b': a.what.type = NF3BLK; a.what.mknoddata3_u.blk_device = dev; break;
	default: usage(w[2]);
	}
	wcc_before(0, &dir);
	a.where = (diropargs3){ ref(&dir), (char *)name };
	CALL(server(0), take_mknod, rpc_nfs3_mknod_async, &a);
	wcc_after(0, &dir);
}
static void cmd_remove(words w)
{
	struct fh dir;
	REMOVE3args a;
	const char *name;

	if (!resolve_parent(w[1], &dir, &name))
		return;
	wcc_before(0, &dir);
	a.object = (diropargs3){ ref(&dir), (char *)name };
	CALL(server(0), take_remove, rpc_nfs3_remove_async, &a);
	wcc_after(0, &dir);
}
static void cmd_rmdir(words w)
{
	struct fh dir;
	RMDIR3args a;
	const char *name;

	if (!resolve_parent(w[1], &dir, &name))
		return;
	wcc_before(0, &dir);
	a.object = (diropargs3){ ref(&dir), (char *)name };
	CALL(server(0), take_rmdir, rpc_nfs3_rmdir_async, &a);
	wcc_after(0, &dir);
}
static void cmd_rename(words w)
{
	struct fh from, to;
	RENAME3args a;
	const char *old, *new;

	if (!resolve_parent(w[1], &from, &old) || !resolve_parent(w[2], &to, &new))
		return;
	wcc_before(0, &from);
	wcc_before(1, &to);
	a.from = (diropargs3){ ref(&from), (char *)old };
	a.to = (diropargs3){ ref(&to), (char *)new };
	CALL(server(0), take_rename, rpc_nfs3_rename_async, &a);
	wcc_after(0, &from);
	wcc_after(1, &to);
}
static void cmd_link(words w)
{
	struct fh file, dir;
	LINK3args a;
	const char *name;

	if (!resolve(w[1], &file) || !resolve_parent(w[2], &dir, &name))
		return;
	wcc_before(0, &dir);
	a.file = ref(&file);
	a.link = (diropargs3){ ref(&dir), (char *)name };
	CALL(server(0), take_link, rpc_nfs3_link_async, &a);
	wcc_after(0, &dir);
}
static void write_at(struct fh *fh, uint64_t offset, stable_how stable, char *data, size_t len)
{
	WRITE3args a = { .file = ref(fh), .offset = offset, .count = (u_int)len, .stable = stable, .data = { (u_int)len, data } };

	wcc_before(0, fh);
	CALL(server(0), take_write, rpc_nfs3_write_async, &a);
	wcc_after(0, fh);
}
static void cmd_write(words w)
{
	stable_how stable = *w[3] == 'u' ? UNSTABLE : *w[3] == 'd' ? DATA_SYNC : FILE_SYNC;
	struct fh fh;

	if (!resolve(w[1], &fh))
		return;
	write_at(&fh, strtoull(w[2], NULL, 0), stable, w[4], strlen(w[4]));
	if (got.status == NFS3_OK && (got.count > strlen(w[4]) || got.committed < stable))
		broken("write", "less stable than asked, or more than was sent");
}
static void commit_fh(struct fh *fh)
{
	COMMIT3args a = { .file = ref(fh) };

	wcc_before(0, fh);
	CALL(server(0), take_commit, rpc_nfs3_commit_async, &a);
	wcc_after(0, fh);
}
static void cmd_commit(words w)
{
	struct fh fh;

	if (resolve(w[1], &fh))
		commit_fh(&fh);
}
static void cmd_verf(words w)
{
	cmd_commit(w);
	if (got.status == NFS3_OK)
		print_hex(got.verf, sizeof got.verf);
}
static void cmd_put(words w)
{
	char *data = xmalloc(IO_BYTES), verf[8] = { 0 };
	uint64_t offset = 0;
	struct fh fh;
	size_t n;

	create(w[1], (createhow3){ .mode = UNCHECKED, .createhow3_u = { .obj_attributes = with_mode("644") } });
	if (got.status == NFS3_OK && !got.has_fh)
		broken("create", "no handle");
	fh = got.fh;
	while (got.status == NFS3_OK && (n = fread(data, 1, IO_BYTES, stdin)) > 0) {
		for (size_t sent = 0; got.status == NFS3_OK && sent < n; sent += got.count) {
			write_at(&fh, offset + sent, UNSTABLE, data + sent, n - sent);
			if (got.status == NFS3_OK && (!got.count || (offset + sent && memcmp(verf, got.verf, 8))))
				broken("write", "nothing written, or another verifier");
			memcpy(verf, got.verf, 8);
		}
		offset += n;
	}
	if (got.status == NFS3_OK)
		commit_fh(&fh);
	if (got.status == NFS3_OK && offset && memcmp(verf, got.verf, 8))
		broken("commit", "another verifier than that of the writes");
	free(data);
}

static nfstime3 parse_time(const char *s)
{
	char *end;
	nfstime3 t = { .seconds = (u_int)strtoul(s, &end, 10) };

	if (*end == '.')
		t.nseconds = (u_int)strtoul(end + 1, NULL, 10);
	return t;
}
static void cmd_setattr(words w)
{
	SETATTR3args a = { 0 };
	sattr3 *s = &a.new_attributes;
	struct fh fh;

	if (!resolve(w[1], &fh))
		return;
	a.object = ref(&fh);
	for (char **o = w + 2; *o; o++) {
		const char *v = strchr(*o, '=') ? strchr(*o, '=') + 1 : "";
		bool server_time = !strcmp(v, "server");

		if (!strncmp(*o, "mode=", 5))
			s->mode = with_mode(v).mode;
		else if (!strncmp(*o, "uid=", 4))
			s->uid = (set_uid3){ 1, { (u_int)strtoul(v, NULL, 10) } };
		else if (!strncmp(*o, "gid=", 4))
			s->gid = (set_gid3){ 1, { (u_int)strtoul(v, NULL, 10) } };
		else if (!strncmp(*o, "size=", 5))
			s->size = (set_size3){ 1, { strtoull(v, NULL, 10) } };
		else if (!strncmp(*o, "mtime=", 6))
			s->mtime = (set_mtime){ server_time ? SET_TO_SERVER_TIME : SET_TO_CLIENT_TIME, { parse_time(v) } };
		else if (!strncmp(*o, "atime=", 6))
			s->atime = (set_atime){ server_time ? SET_TO_SERVER_TIME : SET_TO_CLIENT_TIME, { parse_time(v) } };
		else if (!strncmp(*o, "guard=", 6))
			a.guard = (sattrguard3){ 1, { parse_time(v) } };
		else
			usage(*o);
	}
	wcc_before(0, &fh);
	CALL(server(0), take_setattr, rpc_nfs3_setattr_async, &a);
	wcc_after(0, &fh);
}

/* ---- listings ---- */

static void take_readdir(void *answer)
{
	READDIR3res *r = answer;

	got.status = r->status;
	got.entries = 0;
	if (r->status != NFS3_OK)
		return;
	memcpy(got.verf, r->READDIR3res_u.resok.cookieverf, 8);
	got.eof = r->READDIR3res_u.resok.reply.eof;
	for (entry3 *e = r->READDIR3res_u.resok.reply.entries; e; e = e->nextentry, got.entries++) {
		printf("%llu %llu %s\n", (unsigned long long)e->fileid, (unsigned long long)e->cookie, e->name);
		got.cookie = e->cookie;
	}
}
static void take_readdirplus(void *answer)
{
	READDIRPLUS3res *r = answer;

	got.status = r->status;
	got.entries = 0;
	if (r->status != NFS3_OK)
		return;
	memcpy(got.verf, r->READDIRPLUS3res_u.resok.cookieverf, 8);
	got.eof = r->READDIRPLUS3res_u.resok.reply.eof;
	for (entryplus3 *e = r->READDIRPLUS3res_u.resok.reply.entries; e; e = e->nextentry, got.entries++) {
		printf("%llu %llu %s", (unsigned long long)e->fileid, (unsigned long long)e->cookie, e->name);
		if (e->name_attributes.attributes_follow) {
			putchar(' ');
			print_attr(&e->name_attributes.post_op_attr_u.attributes);
		}
		putchar('\n');
		got.cookie = e->cookie;
	}
}
static void one_page(bool plus, int from, struct fh *dir, uint32_t count)
{
	READDIR3args a = { .dir = ref(dir), .cookie = got.cookie, .count = count };
	READDIRPLUS3args p = { .dir = ref(dir), .cookie = got.cookie, .dircount = count, .maxcount = count };

	memcpy(a.cookieverf, got.verf, 8);
	memcpy(p.cookieverf, got.verf, 8);
	if (plus)
		CALL(server(from), take_readdirplus, rpc_nfs3_readdirplus_async, &p);
	else
		CALL(server(from), take_readdir, rpc_nfs3_readdir_async, &a);
}
static void list(words w, bool plus)
{
	bool random = w[2] && !strncmp(w[2], "random:", 7);
	char *most = NULL;
	uint64_t seed = random ? rng_seed(strtoull(w[2] + 7, &most, 10), 0) : 0;
	uint32_t range = most && *most == ':' ? (uint32_t)strtoul(most + 1, NULL, 10) : 12000;
	uint32_t count = w[2] && !random ? (uint32_t)strtoul(w[2], NULL, 0) : 32768;
	struct fh dir;

	if (!resolve(w[1], &dir))
		return;
	got.cookie = 0;
	memset(got.verf, 0, sizeof got.verf);
	for (int i = 0;; i++) {
		one_page(plus, i % opt.nhosts, &dir, random ? 600 + (uint32_t)rng_below(&seed, range) : count);
		if (got.status != NFS3_OK || got.eof)
			return;
		if (!got.entries)
			broken("listing", "neither entries nor the end");
	}
}
static void cmd_ls(words w) { list(w, false); }
static void cmd_lsplus(words w) { list(w, true); }

/* ---- MOUNT ---- */

static void take_mnt(void *answer)
{
	mountres3 *r = answer;

	got.status = (uint32_t)r->fhs_status;
	if (got.status != NFS3_OK)
		return;
	if (r->mountres3_u.mountinfo.fhandle.fhandle3_len > NFS3_FHSIZE)
		broken("mount", "the handle is too long");
	root.len = r->mountres3_u.mountinfo.fhandle.fhandle3_len;
	memcpy(root.data, r->mountres3_u.mountinfo.fhandle.fhandle3_val, root.len);
}
static void take_exports(void *answer)
{
	got.status = NFS3_OK;
	for (exportnode *e = *(exports *)answer; e; e = e->ex_next) {
		printf("%s", e->ex_dir);
		for (groupnode *g = e->ex_groups; g; g = g->gr_next)
			printf(" %s", g->gr_name);
		putchar('\n');
	}
}
static void take_mounts(void *answer)
{
	got.status = NFS3_OK;
	for (mountbody *m = *(mountlist *)answer; m; m = m->ml_next)
		printf("%s %s\n", m->ml_hostname, m->ml_directory);
}
static void cmd_exports(words w)
{
	(void)w;
	CALL(mountd, take_exports, rpc_mount3_export_async);
}
static void cmd_mounts(words w)
{
	(void)w;
	CALL(mountd, take_mounts, rpc_mount3_dump_async);
}
static void cmd_umount(words w)
{
	struct pending p = { 0 };

	(void)w;
	if (rpc_mount3_umnt_async(mountd, answered, (char *)opt.export, &p) != 0)
		broken("umount", rpc_get_error(mountd));
	wait_for(mountd, &p);
	got.status = NFS3_OK;
}
static void cmd_umountall(words w)
{
	(void)w;
	CALL(mountd, NULL, rpc_mount3_umntall_async);
	got.status = NFS3_OK;
}

/* ---- NLM: statuses are printed by name, all but GRANTED are failures ---- */

static void lock_result(uint32_t status)
{
	static const char *const names[] = { "GRANTED", "DENIED", "DENIED_NOLOCKS", "BLOCKED", "DENIED_GRACE_PERIOD", "DEADLCK", "ROFS", "STALE_FH", "FBIG",
					     "FAILED" };

	got.status = NFS3_OK;
	if (status == NLM4_GRANTED)
		return;
	take_text(status < sizeof names / sizeof *names ? names[status] : "an unknown status");
	got.status = UINT32_MAX;
}
static void take_lock(void *answer) { lock_result((uint32_t)((NLM4_LOCKres *)answer)->status); }
static void take_unlock(void *answer) { lock_result((uint32_t)((NLM4_UNLOCKres *)answer)->status); }
static void take_cancel(void *answer) { lock_result((uint32_t)((NLM4_CANCres *)answer)->status); }
static void take_test(void *answer)
{
	nlm4_testreply *r = &((NLM4_TESTres *)answer)->reply;

	lock_result((uint32_t)r->status);
	if (r->status == NLM4_DENIED)
		printf("%s %u %llu %llu\n", r->nlm4_testreply_u.lock.holder.exclusive ? "x" : "s", r->nlm4_testreply_u.lock.holder.svid,
		       (unsigned long long)r->nlm4_testreply_u.lock.holder.l_offset, (unsigned long long)r->nlm4_testreply_u.lock.holder.l_len);
}
static nlm4_lock lock_of(struct fh *fh, words w, char *owner)
{
	return (nlm4_lock){ .caller_name = (char *)opt.machine,
			    .fh = { { fh->len, fh->data } },
			    .oh = owner,
			    .svid = (u_int)strtoul(owner, NULL, 0),
			    .l_offset = strtoull(w[2], NULL, 0),
			    .l_len = strtoull(w[3], NULL, 0) };
}
static char lock_cookie[] = "cook";
static const nlm_cookie cookie = { { 4, lock_cookie } };

static void cmd_lock(words w)
{
	NLM4_LOCKargs a = { .cookie = cookie, .exclusive = *w[4] == 'x' };
	struct fh fh;

	if (!resolve(w[1], &fh))
		return;
	a.lock = lock_of(&fh, w, w[5]);
	a.block = w[6] && !strcmp(w[6], "block");
	a.reclaim = w[6] && !strcmp(w[6], "reclaim");
	CALL(lock_manager(), take_lock, rpc_nlm4_lock_async, &a);
}
static void cmd_cancel(words w)
{
	NLM4_CANCargs a = { .cookie = cookie, .block = 1, .exclusive = *w[4] == 'x' };
	struct fh fh;

	if (!resolve(w[1], &fh))
		return;
	a.lock = lock_of(&fh, w, w[5]);
	CALL(lock_manager(), take_cancel, rpc_nlm4_cancel_async, &a);
}
static void cmd_unlock(words w)
{
	NLM4_UNLOCKargs a = { .cookie = cookie };
	struct fh fh;

	if (!resolve(w[1], &fh))
		return;
	a.lock = lock_of(&fh, w, w[4]);
	CALL(lock_manager(), take_unlock, rpc_nlm4_unlock_async, &a);
}
static void cmd_testlock(words w)
{
	NLM4_TESTargs a = { .cookie = cookie, .exclusive = *w[4] == 'x' };
	struct fh fh;

	if (!resolve(w[1], &fh))
		return;
	a.lock = lock_of(&fh, w, w[5]);
	CALL(lock_manager(), take_test, rpc_nlm4_test_async, &a);
}

/* ---- dispatch ---- */

static const struct command {
	const char *name;
	int args;
	void (*run)(words w);
} commands[] = {
	{ "null", 0, cmd_null },	   { "stat", 1, cmd_stat },	      { "fh", 1, cmd_fh },	   { "access", 2, cmd_access },
	{ "readlink", 1, cmd_readlink },   { "cat", 1, cmd_cat },	      { "read", 3, cmd_read },	   { "fsstat", 0, cmd_fsstat },
	{ "fsinfo", 0, cmd_fsinfo },	   { "pathconf", 1, cmd_pathconf },   { "create", 2, cmd_create }, { "guarded", 2, cmd_guarded },
	{ "exclusive", 2, cmd_exclusive }, { "mkdir", 2, cmd_mkdir },	      { "symlink", 2, cmd_symlink }, { "mknod", 3, cmd_mknod },
	{ "remove", 1, cmd_remove },	   { "rmdir", 1, cmd_rmdir },	      { "rename", 2, cmd_rename }, { "link", 2, cmd_link },
	{ "put", 1, cmd_put },		   { "write", 4, cmd_write },	      { "commit", 1, cmd_commit }, { "verf", 1, cmd_verf },
	{ "setattr", 1, cmd_setattr },	   { "ls", 1, cmd_ls },		      { "lsplus", 1, cmd_lsplus }, { "exports", 0, cmd_exports },
	{ "mounts", 0, cmd_mounts },	   { "umount", 0, cmd_umount },	      { "umountall", 0, cmd_umountall }, { "lock", 5, cmd_lock },
	{ "cancel", 5, cmd_cancel },	   { "unlock", 4, cmd_unlock },	      { "testlock", 5, cmd_testlock },
};

/* Runs one command, prints why it was refused; 0 or 1. */
static int run(words w, int n)
{
	const struct command *c = commands, *end = commands + sizeof commands / sizeof *commands;
	const char *name;

	while (c < end && strcmp(c->name, w[0]))
		c++;
	if (c == end || n - 1 < c->args)
		usage(w[0]);
	c->run(w);
	fflush(stdout);
	if (got.status == NFS3_OK)
		return 0;
	name = got.status == UINT32_MAX ? got.text : nfsstat3_to_str((int)got.status);
	puts(!strncmp(name, "NFS3ERR_", 8) ? name + 8 : name);
	fflush(stdout);
	return 1;
}

static int run_lines(void)
{
	char line[4096], *w[MAX_WORDS + 1], *save;
	int status = 0;

	while (fgets(line, sizeof line, stdin)) {
		int n = 0;

		for (char *p = strtok_r(line, " \n", &save); p && n < MAX_WORDS; p = strtok_r(NULL, " \n", &save))
			w[n++] = p;
		w[n] = NULL;
		if (n && run(w, n))
			status = 1;
	}
	return status;
}

static void parse_groups(char *list_of)
{
	for (char *p = strtok(list_of, ","); p && opt.ngroups < 16; p = strtok(NULL, ","))
		opt.groups[opt.ngroups++] = (uint32_t)strtoul(p, NULL, 0);
}

static void parse_handle(const char *hex)
{
	unsigned byte;

	for (; root.len < NFS3_FHSIZE && sscanf(hex, "%2x", &byte) == 1; hex += 2)
		root.data[root.len++] = (char)byte;
	if (*hex)
		usage("a handle is at most 64 bytes of hex digits");
}

static void options(int argc, char **argv)
{
	int o;

	opt.nhosts = 1;
	while ((o = getopt(argc, argv, "+p:m:l:u:g:G:M:s:H:rw")) != -1) {
		switch (o) {
		case 'p': opt.port = atoi(optarg); break;
		case 'm': opt.mount_port = atoi(optarg); break;
		case 'l': opt.lock_port = atoi(optarg); break;
		case 'u': opt.uid = (uint32_t)strtoul(optarg, NULL, 0); break;
		case 'g': opt.gid = (uint32_t)strtoul(optarg, NULL, 0); break;
		case 'G': parse_groups(optarg); break;
		case 'M': opt.machine = optarg; break;
		case 's':
			if (opt.nhosts == MAX_SERVERS)
				usage("-s");
			opt.hosts[opt.nhosts++] = optarg;
			break;
		case 'H': parse_handle(optarg); break;
		case 'r': opt.reconnect = true; break;
		case 'w': opt.wcc = true; break;
		default: usage("options");
		}
	}
	if (argc - optind < 3)
		usage("too few words");
	opt.mount_port = opt.mount_port ? opt.mount_port : opt.port;
	opt.lock_port = opt.lock_port ? opt.lock_port : opt.port;
	opt.hosts[0] = argv[optind];
	opt.export = argv[optind + 1];
}

int main(int argc, char **argv)
{
	struct pending p = { .take = take_mnt };

	options(argc, argv);
	if (root.len)
		return run(argv + optind + 2, argc - optind - 2);
	mountd = connect_to(opt.hosts[0], opt.mount_port, MOUNT_PROGRAM, MOUNT_V3);
	if (rpc_mount3_mnt_async(mountd, answered, (char *)opt.export, &p) != 0)
		broken("mount", rpc_get_error(mountd));
	wait_for(mountd, &p);
	if (got.status != NFS3_OK) {
		printf("MOUNT: %s\n", mountstat3_to_str((int)got.status));
		return 1;
	}
	if (!strcmp(argv[optind + 2], "-"))
		return run_lines();
	return run(argv + optind + 2, argc - optind - 2);
}
