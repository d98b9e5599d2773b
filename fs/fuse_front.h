/* Inside the FUSE front: what its files share. The only headers that see libfuse. */
#ifndef FS_FUSE_FRONT_H
#define FS_FUSE_FRONT_H

#define FUSE_USE_VERSION 314
#include <fuse_lowlevel.h>
#include <pthread.h>
#include <stdatomic.h>

#include "fs/base/blk.h"
#include "fs/fuse.h"

enum {
	FUSE_BUF_HEADER = 4096,					/* room for the headers before the data of a WRITE */
	FUSE_BUF_SIZE = LAYER_IO_MAX + FUSE_BUF_HEADER,		/* what one read of /dev/fuse takes at most */
	/* A WRITE at least this long is handed down with its receive block as owner, so that a queue may keep it without a copy. A short one
	 * would pin a whole block for a few bytes. */
	FUSE_SHARE_MIN = 256 << 10,
	FUSE_WRITERS = 1024,
	FUSE_KNOWN = 16384,
};

struct inval;

struct fuse_front {
	struct fuse_front_config cfg;	/* strings owned */
	double attr_timeout, entry_timeout;
	struct fuse_session *se;	/* owned; owns the descriptor of /dev/fuse from fuse_front_new on */
	int dev_fd;
	bool mounted;
	struct inval *inval;		/* owned */

	/* What the kernel offered and got in INIT; written once, before any other request. */
	uint32_t proto_minor;
	bool setxattr_ext;

	pthread_mutex_t mu;		/* guards the fields up to the blank line */
	bool stopping;
	bool told_gone;
	unsigned nthreads, live;	/* started; not ended yet */
	pthread_cond_t all_ended;	/* live became 0 */
	pthread_t thread[FUSE_FRONT_THREADS_MAX];

	_Atomic bool cut;		/* threads end when a signal interrupts their read */
	_Atomic unsigned idle;		/* threads waiting for a request */
	/* Held while a blocking lock request is queued, so that its grant cannot answer it before its interrupt function stands; recursive, because
	 * queueing one may grant others. */
	pthread_mutex_t wait_mu;
	pthread_mutex_t open_mu;	/* guards the list of what is open, and fh.owners of all files */
	struct fh *open;
	_Atomic unsigned writers[FUSE_WRITERS];		/* files open for writing, by hash of the id: 0 = certainly none */
	_Atomic unsigned giving;			/* requests under way that may make an object known to the kernel */
	_Atomic uint64_t known[FUSE_KNOWN];		/* what the kernel knows, by hash of the id: entries given and not forgotten; 0 = certainly nothing */
};

/* One thread: the request that it works on. */
struct fuse_worker {
	struct fuse_front *f;
	struct blk *blk;		/* owned; holds the request */
	unsigned char *out;		/* owned; LAYER_IO_MAX bytes for replies, allocated at first use */
	/* Of the request, from what libfuse does not hand on: */
	uint32_t opcode;		/* as the kernel sent it */
	bool tmpfile;			/* a CREATE without a name */
	uint32_t init_flags;		/* INIT: the kernel's flags */
	bool kill_priv;
	bool registering;		/* lock requests: see fuse_lock.c */
	bool interrupted;
};
extern _Thread_local struct fuse_worker *fuse_self;

/* An open file or directory: what fi->fh points to. All hang in a list, because an aborted mount releases nothing. */
struct fh {
	struct fh *next, **prev;	/* of fuse_front.open */
	struct file *file;		/* one of the two; owned */
	struct dir *dir;
	uint64_t *owners;		/* owned; fcntl lock owners that locked through this file and have not flushed since */
	unsigned nowners;
};
static inline struct fh *fh_of(const struct fuse_file_info *fi) { return (struct fh *)(uintptr_t)fi->fh; }

static inline struct fuse_front *front_of(fuse_req_t req) { return fuse_req_userdata(req); }
/* Answers with 0 or -errno. */
void fuse_reply(fuse_req_t req, int err);
void fuse_call_of(fuse_req_t req, struct call *c);
/* The worker's reply buffer, or NULL (no memory). */
unsigned char *fuse_out(void);

/* How many files whose ids have the hash of ID are open for writing. */
static inline _Atomic unsigned *fuse_writers(struct fuse_front *f, uint64_t id) { return &f->writers[(id ^ id >> 20) % FUSE_WRITERS]; }

/* The kernel is given an entry of object ID (before the answer), or has forgotten N. */
static inline _Atomic uint64_t *fuse_known(struct fuse_front *f, uint64_t id) { return &f->known[(id * 0x9e3779b97f4a7c15u) >> 50]; }
static inline void fuse_know(struct fuse_front *f, uint64_t id) { atomic_fetch_add(fuse_known(f, id), 1); }
static inline void fuse_unknow(struct fuse_front *f, uint64_t id, uint64_t n) { atomic_fetch_sub(fuse_known(f, id), n); }

/* ---- fuse_ops.c ---- */
extern const struct fuse_lowlevel_ops fuse_ops;
/* Closes everything that the kernel left open; no thread runs any more. */
void fuse_close_all(struct fuse_front *f);

/* ---- fuse_lock.c ---- */
void fuse_op_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lk);
void fuse_op_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lk, int sleep);
void fuse_op_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int op);
/* A close (FLUSH) by FI's lock owner. */
void fuse_locks_flush(struct fuse_front *f, uint64_t id, struct fuse_file_info *fi);
/* The last close of an open file: flock locks, and fcntl locks that belong to the open file itself. */
void fuse_locks_release(struct fuse_front *f, uint64_t id, struct fuse_file_info *fi);

/* ---- fuse_raw.c ---- */
/* Looks at a request before libfuse does: fills the worker's fields, rewrites what libfuse doesn't know into what it does. 1: it was
 * answered here; 0: hand it on; -EBADMSG: no request. */
int fuse_raw_request(struct fuse_worker *w, size_t len);
/* May the answer to W's request make objects known to the kernel? */
bool fuse_raw_gives_entries(const struct fuse_worker *w);
/* The writer of replies: adds to INIT's what libfuse 3.14 cannot say. */
ssize_t fuse_raw_writev(int fd, struct iovec *iov, int count, void *front);
/* All entries that the kernel knows must be looked up again. -EOPNOTSUPP before protocol 7.44. */
int fuse_raw_inc_epoch(struct fuse_front *f);

/* ---- fuse_inval.c ---- */
int inval_new(struct fuse_front *f, struct inval **out);
int inval_start(struct inval *v);
void inval_stop(struct inval *v);	/* drops what is queued */
void inval_free(struct inval *v);
void inval_settle(struct inval *v);
void inval_observe(void *inval, const struct change *c);

#endif
