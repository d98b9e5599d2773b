/*
 * Inside NFS version 3: what its files share. The only header, with nfs3_args.c, that knows what the arguments look like.
 *
 *	nfs3.c		life, roles, dispatch, errors, the duplicate request cache around changes
 *	nfs3_args.c	arguments: checked (args.h), then decoded, by libnfs's coders but for the hot ones
 *	nfs3_xdr.c	parts of results
 *	nfs3_read.c	GETATTR LOOKUP ACCESS READLINK READ FSSTAT FSINFO PATHCONF
 *	nfs3_dir.c	READDIR READDIRPLUS
 *	nfs3_write.c	SETATTR WRITE COMMIT
 *	nfs3_make.c	CREATE MKDIR SYMLINK MKNOD
 *	nfs3_names.c	REMOVE RMDIR RENAME LINK
 *
 * A procedure gets a request (struct nfs3_req), fills in what its answer needs and returns a status; its encoder (struct nfs3_proc) makes
 * bytes of that. Of a change the encoder is called in call.after already.
 */
#ifndef NFSD_GLUE_NFS3_INT_H
#define NFSD_GLUE_NFS3_INT_H

#include <pthread.h>
#include <stdatomic.h>

#include "nfsd-glue/args.h"
#include "nfsd-glue/files.h"
#include "nfsd-glue/nfs3.h"

enum nfs3_procedure {
	P_NULL, P_GETATTR, P_SETATTR, P_LOOKUP, P_ACCESS, P_READLINK, P_READ, P_WRITE, P_CREATE, P_MKDIR, P_SYMLINK, P_MKNOD, P_REMOVE, P_RMDIR,
	P_RENAME, P_LINK, P_READDIR, P_READDIRPLUS, P_FSSTAT, P_FSINFO, P_PATHCONF, P_COMMIT,
};

/* Statuses, as the RFC numbers them. */
enum nfs3_status {
	S_OK = 0, S_PERM = 1, S_NOENT = 2, S_IO = 5, S_NXIO = 6, S_ACCES = 13, S_EXIST = 17, S_XDEV = 18, S_NODEV = 19, S_NOTDIR = 20, S_ISDIR = 21,
	S_INVAL = 22, S_FBIG = 27, S_NOSPC = 28, S_ROFS = 30, S_MLINK = 31, S_NAMETOOLONG = 63, S_NOTEMPTY = 66, S_DQUOT = 69, S_STALE = 70,
	S_REMOTE = 71, S_BADHANDLE = 10001, S_NOT_SYNC = 10002, S_BAD_COOKIE = 10003, S_NOTSUPP = 10004, S_TOOSMALL = 10005, S_SERVERFAULT = 10006,
	S_BADTYPE = 10007, S_JUKEBOX = 10008,
	S_DROP = -1,			/* no answer at all */
};
enum { NFS3_UNCHECKED, NFS3_GUARDED, NFS3_EXCLUSIVE };
enum { NFS3_UNSTABLE, NFS3_DATA_SYNC, NFS3_FILE_SYNC };
enum { NFS3_REG = 1, NFS3_DIR, NFS3_BLK, NFS3_CHR, NFS3_LNK, NFS3_SOCK, NFS3_FIFO };

enum {
	NFS3_RESULT_MAX = 512,		/* bytes of a change's answer */
	NFS3_FATTR = 84,		/* bytes of a fattr3 */
	NFS3_ROLE_WAIT_MS = 1000,	/* a change waits so long for the outcome of a change of role */
	NFS3_ROLE_WAITERS = 32,		/* so many do; more are answered JUKEBOX at once */
};

/* A handle as it came. */
struct nfs3_fh {
	const unsigned char *p;		/* borrowed from the call's arguments */
	uint32_t len;
};

/* The arguments of all procedures. Strings are copies. */
struct nfs3_args {
	struct nfs3_fh fh, fh2;		/* the object or directory; RENAME's second directory, LINK's directory */
	uint64_t offset;		/* READ, WRITE, COMMIT; READDIR*: the cookie */
	uint64_t verf;			/* CREATE; READDIR*: as they came, big-endian */
	uint32_t count;			/* READ, WRITE, COMMIT; READDIR: count; READDIRPLUS: maxcount; ACCESS: the bits */
	uint32_t dircount;
	uint32_t stable;		/* WRITE */
	uint32_t how;			/* CREATE */
	uint32_t type;			/* MKNOD: ftype3 */
	const unsigned char *data;	/* WRITE */
	struct setattr set;		/* SETATTR and creations; SET_GUARD: the guard's ctime */
	uint64_t rdev;			/* MKNOD: dev_t */
	char name[LAYER_NAME_MAX + 1], name2[LAYER_NAME_MAX + 1];
	char target[LAYER_SYMLINK_MAX + 1];
};
/* 0; -EBADMSG: GARBAGE_ARGS; -EINVAL, -ENAMETOOLONG: as args_check (then only the handles are decoded). */
int nfs3_args_decode(unsigned proc, const unsigned char *p, size_t len, struct nfs3_args *a);

struct nfs3 {
	struct nfs3_config cfg;
	struct files *files;		/* owned */
	_Atomic uint64_t verf;		/* the write verifier */
	uint64_t cookie_verf;
	pthread_mutex_t role_mu;	/* guards waiters, and changes of the role; a leaf */
	pthread_cond_t role_changed;
	_Atomic int role;		/* enum nfsd_role */
	bool held;			/* primary, or giving that up */
	_Atomic uint64_t reign;		/* counts the times that the role was lost */
	unsigned waiters;
};

/* An object that a request is about. */
struct nfs3_obj {
	uint64_t id;
	uint16_t export_id;
};
/* Attributes that may be there. */
struct nfs3_attr {
	bool set;
	struct attr a;
};

struct nfs3_req {
	struct nfs3 *s;
	struct rpc_call *rc;
	struct rpc_reply *rr;
	const struct nfs3_proc *proc;
	struct export_rights rights;
	struct nfs_cred cred;
	struct call c;			/* of the caller */
	struct nfs3_obj obj, dir2;	/* what fh and fh2 are */

	/* for the answer */
	struct nfs3_attr attr;		/* of the object: of obj, or of the one that was found or made */
	struct nfs3_attr pre[2], post[2];	/* wcc_data: of obj (or the one directory), of dir2 */
	uint32_t count;			/* WRITE; ACCESS: what is granted */
	uint64_t verf;			/* WRITE, COMMIT */

	/* of a change */
	uint64_t reign;			/* when it was accepted */
	struct replay_key key;
	uint64_t watch[2];		/* the objects whose pre and post are wanted; 0 = none */
	bool after_sets_post;		/* effect.attr is that of watch[0] */
	struct file *file;		/* of watch[0], or NULL */
	bool retries_exist;		/* -EEXIST isn't the answer yet */
	bool answered;			/* call.after ran: results stand in OUT */
	bool applied;			/* something of it has been done */
	bool unsure;			/* ... and can't be confirmed: no answer is remembered */
	uint32_t after_status;		/* as it saw it */
	struct xdr_out out;
	unsigned char result[NFS3_RESULT_MAX];
	unsigned char record[REPLICA_REPLY_RECORD_MAX];
	struct nfs3_args a;		/* last: decoding fills what is needed */
};

enum nfs3_kind {
	KIND_READ,
	KIND_SYNC,			/* needs the role */
	KIND_CHANGE,			/* and goes through the duplicate request cache */
	KIND_CHANGE_LAZY,		/* the same; nobody waits for its answer in the stream */
};
struct nfs3_proc {
	int (*fn)(struct nfs3_req *q);				/* a status, or S_DROP */
	void (*encode)(struct nfs3_req *q, uint32_t status);	/* into q->out: status and what belongs to it */
	const char *shape;		/* of the arguments: args.h */
	enum rpc_speed speed;
	enum nfs3_kind kind;
	bool direct;			/* fn writes the answer of success into the reply itself */
};
extern const struct nfs3_proc nfs3_procs[NFS3_PROCS];

/* ---- nfs3.c ---- */
/* -errno of a layer (or 0 and counts) as a status. */
uint32_t nfs3_status_of(int64_t r);
/* What FH is: a status. Fills rights, cred and c too; those of a second handle have to be of the same export (S_XDEV). */
int nfs3_object(struct nfs3_req *q, const struct nfs3_fh *fh, struct nfs3_obj *out);
/* Attributes of ID, NULL or with file F, into OUT; a status. */
int nfs3_getattr(struct nfs3_req *q, uint64_t id, struct file *f, struct nfs3_attr *out);
static inline struct layer *nfs3_top(const struct nfs3_req *q) { return q->s->cfg.top; }
/* The write verifier as the client gets it. */
uint64_t nfs3_verf(struct nfs3 *s);
/* Arms q->c: stable, and hooks that fill pre, post and attr and make the answer. W0, W1: see watch. */
void nfs3_arm(struct nfs3_req *q, uint64_t w0, uint64_t w1);
/* After the layers: R's status. Waits until the kernel behind FUSE has dropped what the change made stale. */
int nfs3_changed(struct nfs3_req *q, int64_t r);
void nfs3_flush_range(struct nfs3_req *q, uint64_t id, uint64_t off, uint64_t len);
/* May the caller do that? A status. PERM_*: see perm.h. Fills q->attr of ID when it isn't set. */
int nfs3_may(struct nfs3_req *q, uint64_t id, struct file *f, struct nfs3_attr *a, unsigned want);
/* The directory ID with rights to search and what else is in WANT; fills *A. A status; S_NOTDIR. */
int nfs3_dir(struct nfs3_req *q, uint64_t id, struct nfs3_attr *a, unsigned want);
static inline bool nfs3_dots(const char *name) { return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2])); }

/* ---- nfs3_xdr.c ---- */
void nfs3_out_fattr(struct nfs3 *s, struct xdr_out *x, const struct attr *a);
void nfs3_out_attr(struct nfs3 *s, struct xdr_out *x, const struct nfs3_attr *a);		/* post_op_attr */
void nfs3_out_wcc(struct nfs3 *s, struct xdr_out *x, const struct nfs3_attr *pre, const struct nfs3_attr *post);
void nfs3_out_fh(struct nfs3 *s, struct xdr_out *x, uint16_t export_id, const struct attr *a);	/* nfs_fh3 */

/* ---- the procedures ---- */
int nfs3_null(struct nfs3_req *q);
int nfs3_getattr_proc(struct nfs3_req *q);
int nfs3_lookup(struct nfs3_req *q);
int nfs3_access(struct nfs3_req *q);
int nfs3_readlink(struct nfs3_req *q);
int nfs3_read(struct nfs3_req *q);
int nfs3_fsstat(struct nfs3_req *q);
int nfs3_fsinfo(struct nfs3_req *q);
int nfs3_pathconf(struct nfs3_req *q);
int nfs3_readdir(struct nfs3_req *q);
int nfs3_readdirplus(struct nfs3_req *q);
int nfs3_setattr(struct nfs3_req *q);
int nfs3_write(struct nfs3_req *q);
int nfs3_commit(struct nfs3_req *q);
int nfs3_create(struct nfs3_req *q);
int nfs3_mkdir(struct nfs3_req *q);
int nfs3_symlink(struct nfs3_req *q);
int nfs3_mknod(struct nfs3_req *q);
int nfs3_remove(struct nfs3_req *q);
int nfs3_rmdir(struct nfs3_req *q);
int nfs3_rename(struct nfs3_req *q);
int nfs3_link(struct nfs3_req *q);

#endif
