/*
 * Arguments of NFS version 3: checked by args_check(), then decoded into struct nfs3_args; by libnfs's coders, but for those that clients send all the
 * time (a handle and fixed-size numbers), which are read in place.
 */
#include <errno.h>
#include <nfsc/libnfs-zdr.h>
#include <nfsc/libnfs-raw-nfs.h>
#include <sys/sysmacros.h>

#include "nfsd-glue/nfs3_int.h"

/* ---- in place ---- */

static void get_fh(struct xdr_in *x, struct nfs3_fh *fh) { fh->p = xdr_opaque(x, ARGS_FH_MAX, &fh->len); }

static void get_name(struct xdr_in *x, char name[LAYER_NAME_MAX + 1])
{
	uint32_t len;
	const unsigned char *p = xdr_opaque(x, LAYER_NAME_MAX, &len);

	if (p)
		memcpy(name, p, len);
	name[len] = '\0';
}

static void get_read(struct xdr_in *x, struct nfs3_args *a)
{
	a->offset = xdr_u64(x);
	a->count = xdr_u32(x);
}

static void get_write(struct xdr_in *x, struct nfs3_args *a)
{
	uint32_t len;

	get_read(x, a);
	a->stable = xdr_u32(x);
	a->data = xdr_opaque(x, RPC_PAYLOAD_MAX, &len);
}

static void get_readdir(struct xdr_in *x, struct nfs3_args *a, bool plus)
{
	a->offset = xdr_u64(x);
	a->verf = xdr_u64(x);
	if (plus)
		a->dircount = xdr_u32(x);
	a->count = xdr_u32(x);
}

/* True when the procedure's arguments are read in place. */
static bool in_place(unsigned proc, struct xdr_in *x, struct nfs3_args *a)
{
	switch (proc) {
	case P_GETATTR:
	case P_READLINK:
	case P_FSSTAT:
	case P_FSINFO:
	case P_PATHCONF: get_fh(x, &a->fh); return true;
	case P_LOOKUP: get_fh(x, &a->fh); get_name(x, a->name); return true;
	case P_ACCESS: get_fh(x, &a->fh); a->count = xdr_u32(x); return true;
	case P_READ:
	case P_COMMIT: get_fh(x, &a->fh); get_read(x, a); return true;
	case P_WRITE: get_fh(x, &a->fh); get_write(x, a); return true;
	case P_READDIR:
	case P_READDIRPLUS: get_fh(x, &a->fh); get_readdir(x, a, proc == P_READDIRPLUS); return true;
	default: return proc == P_NULL;
	}
}

/* The handles, which are read in place in any case: they outlive libnfs's decoder. */
static void handles(unsigned proc, struct xdr_in *x, struct nfs3_args *a)
{
	uint32_t len;

	get_fh(x, &a->fh);
	if (proc == P_RENAME)
		xdr_opaque(x, RPC_RECORD_MAX, &len);
	if (proc == P_RENAME || proc == P_LINK)
		get_fh(x, &a->fh2);
}

/* ---- by libnfs ---- */

union zdr_args {
	SETATTR3args setattr;
	CREATE3args create;
	MKDIR3args mkdir;
	SYMLINK3args symlink;
	MKNOD3args mknod;
	diropargs3 dirop;		/* REMOVE, RMDIR */
	RENAME3args rename;
	LINK3args link;
};

/* The check has seen that it is no longer than LAYER_NAME_MAX. */
static void take_name(const diropargs3 *d, char name[LAYER_NAME_MAX + 1]) { memcpy(name, d->name, strlen(d->name) + 1); }

static struct timespec time_of(const nfstime3 *t) { return (struct timespec){ .tv_sec = t->seconds, .tv_nsec = t->nseconds }; }

static void take_sattr(const sattr3 *s, struct setattr *out)
{
	*out = (struct setattr){ .mode = s->mode.set_mode3_u.mode & 07777, .uid = s->uid.set_uid3_u.uid, .gid = s->gid.set_gid3_u.gid,
				 .size = s->size.set_size3_u.size, .atime = time_of(&s->atime.set_atime_u.atime),
				 .mtime = time_of(&s->mtime.set_mtime_u.mtime) };
	out->valid = (s->mode.set_it ? SET_MODE : 0) | (s->uid.set_it ? SET_UID : 0) | (s->gid.set_it ? SET_GID : 0) |
		     (s->size.set_it ? SET_SIZE : 0);
	if (s->atime.set_it != DONT_CHANGE)
		out->valid |= s->atime.set_it == SET_TO_CLIENT_TIME ? SET_ATIME : SET_ATIME_NOW;
	if (s->mtime.set_it != DONT_CHANGE)
		out->valid |= s->mtime.set_it == SET_TO_CLIENT_TIME ? SET_MTIME : SET_MTIME_NOW;
}

static void take_setattr(const union zdr_args *z, struct nfs3_args *a)
{
	take_sattr(&z->setattr.new_attributes, &a->set);
	if (!z->setattr.guard.check)
		return;
	a->set.valid |= SET_GUARD;
	a->set.ctime = time_of(&z->setattr.guard.sattrguard3_u.obj_ctime);
}

static void take_create(const union zdr_args *z, struct nfs3_args *a)
{
	const createhow3 *h = &z->create.how;
	struct xdr_in verf = xdr_in(h->createhow3_u.verf, sizeof h->createhow3_u.verf);

	take_name(&z->create.where, a->name);
	a->how = h->mode;
	if (h->mode == EXCLUSIVE)
		a->verf = xdr_u64(&verf);
	else
		take_sattr(&h->createhow3_u.obj_attributes, &a->set);
}

static void take_mkdir(const union zdr_args *z, struct nfs3_args *a)
{
	take_name(&z->mkdir.where, a->name);
	take_sattr(&z->mkdir.attributes, &a->set);
}

static void take_symlink(const union zdr_args *z, struct nfs3_args *a)
{
	const symlinkdata3 *s = &z->symlink.symlink;

	take_name(&z->symlink.where, a->name);
	take_sattr(&s->symlink_attributes, &a->set);
	memcpy(a->target, s->symlink_data, strlen(s->symlink_data) + 1);	/* checked: LAYER_SYMLINK_MAX */
}

static void take_mknod(const union zdr_args *z, struct nfs3_args *a)
{
	const mknoddata3 *m = &z->mknod.what;
	const devicedata3 *d = m->type == NF3CHR ? &m->mknoddata3_u.chr_device : &m->mknoddata3_u.blk_device;

	take_name(&z->mknod.where, a->name);
	a->type = m->type;
	if (m->type == NF3CHR || m->type == NF3BLK) {
		take_sattr(&d->dev_attributes, &a->set);
		a->rdev = makedev(d->spec.specdata1, d->spec.specdata2);
	} else if (m->type == NF3SOCK) {
		take_sattr(&m->mknoddata3_u.sock_attributes, &a->set);
	} else if (m->type == NF3FIFO) {
		take_sattr(&m->mknoddata3_u.pipe_attributes, &a->set);
	}
}

static void take_remove(const union zdr_args *z, struct nfs3_args *a) { take_name(&z->dirop, a->name); }

static void take_rename(const union zdr_args *z, struct nfs3_args *a)
{
	take_name(&z->rename.from, a->name);
	take_name(&z->rename.to, a->name2);
}

static void take_link(const union zdr_args *z, struct nfs3_args *a)
{
	take_name(&z->link.link, a->name);
}

static uint32_t zdr_by_proc(unsigned proc, ZDR *zdr, union zdr_args *z)
{
	switch (proc) {
	case P_SETATTR: return zdr_SETATTR3args(zdr, &z->setattr);
	case P_CREATE: return zdr_CREATE3args(zdr, &z->create);
	case P_MKDIR: return zdr_MKDIR3args(zdr, &z->mkdir);
	case P_SYMLINK: return zdr_SYMLINK3args(zdr, &z->symlink);
	case P_MKNOD: return zdr_MKNOD3args(zdr, &z->mknod);
	case P_REMOVE:
	case P_RMDIR: return zdr_diropargs3(zdr, &z->dirop);
	case P_RENAME: return zdr_RENAME3args(zdr, &z->rename);
	case P_LINK: return zdr_LINK3args(zdr, &z->link);
	default: return 0;
	}
}

static void (*const take[NFS3_PROCS])(const union zdr_args *z, struct nfs3_args *a) = {
	[P_SETATTR] = take_setattr, [P_CREATE] = take_create, [P_MKDIR] = take_mkdir, [P_SYMLINK] = take_symlink, [P_MKNOD] = take_mknod,
	[P_REMOVE] = take_remove, [P_RMDIR] = take_remove, [P_RENAME] = take_rename, [P_LINK] = take_link,
};

/* libnfs's decoder reads in place where it can (a string whose padding ends it) and writes nothing. */
static int by_libnfs(unsigned proc, const unsigned char *p, size_t len, struct nfs3_args *a)
{
	union zdr_args z;
	ZDR zdr;
	int r = -EBADMSG;

	memset(&z, 0, sizeof z);
	zdrmem_create(&zdr, (char *)(uintptr_t)p, (uint32_t)len, ZDR_DECODE);
	if (zdr_by_proc(proc, &zdr, &z)) {
		take[proc](&z, a);
		r = 0;
	}
	zdr_destroy(&zdr);
	return r;
}

int nfs3_args_decode(unsigned proc, const unsigned char *p, size_t len, struct nfs3_args *a)
{
	struct xdr_in x = xdr_in(p, len);
	int r = args_check(nfs3_procs[proc].shape, p, len);

	memset(a, 0, offsetof(struct nfs3_args, name));
	if (r == -EBADMSG)
		return r;
	if (!r && in_place(proc, &x, a))
		return 0;
	handles(proc, &x, a);
	return r ? r : by_libnfs(proc, p, len, a);
}
