/*
 * The insides of the local layer, shared by fs/local*.c only.
 *
 *   local.c         life, the operations table, statfs, descriptors
 *   local_obj.c     objects by id: a bounded cache of O_PATH descriptors
 *   local_attr.c    attributes, stamps, setattr, inode flags
 *   local_access.c  what the kernel grants to a caller
 *   local_name.c    what a name is: identification, adoption, lookup
 *   local_make.c    create, tmpfile
 *   local_move.c    unlink, rmdir, rename, link, readlink
 *   local_file.c    open files
 *   local_xattr.c   extended attributes
 *   local_dir.c     listings
 *   local_limbo.c   limbo, lost, for apply and resync
 *   local_limits.c  what file systems can represent
 *
 * Locks, in this order: object locks (fs/objlock.h), local.adopt_lock, local.forgetting, then, never two at once: shard locks, local.creating_lock,
 * the snapshot cache's lock, joint locks. None of the latter four is held across a system call that can block on the disk.
 */
#ifndef FS_LOCAL_INT_H
#define FS_LOCAL_INT_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "fs/base/log.h"
#include "fs/local.h"

enum {
	OBJ_SHARDS = 64,
	OBJ_BUCKETS = 64,		/* of each shard's hash table */
	OBJ_CACHE_DEFAULT = 2048,	/* idle descriptors kept */
	CREATING_STRIPES = 256,
	DIR_VERSIONS = 1024,
	JOINTS = 64,
	DIR_CACHE_DEFAULT = 64 << 20,	/* bytes of snapshots kept */
	LIMBO_NAME_MAX = 17,		/* an id in hex, and NUL */
	LINGER_MAX = 1024,		/* removed objects kept for who may still ask; beyond, the oldest goes */
};
static const uint32_t OBJ_NOCAPS = UINT32_C(1) << 31;	/* beside the HENTRY flags of obj_insert */

/* ---- objects ---- */

/* Has the object an access ACL? NONE is surely no: it was looked for, and nobody has begun to set one since (local_setxattr, the only way to get one after
 * the creation, says MAYBE first). */
enum obj_acl { OBJ_ACL_UNKNOWN, OBJ_ACL_NONE, OBJ_ACL_MAYBE };

/* An object of the volume and an O_PATH descriptor of it. Refs, opens, dead, lingers, entry, hashed and the links are guarded by the shard's lock. */
struct obj {
	struct local *l;
	uint64_t id, ino;
	uint32_t type;			/* S_IFMT bits */
	int fd;				/* O_PATH; owned */
	unsigned refs;			/* users; with none it waits in the shard's list of idle objects */
	unsigned opens;			/* files and directories open; each holds a reference too */
	bool dead;			/* the last name is gone */
	bool lingers;			/* one of the opens is the promise of obj_linger() */
	bool entry;			/* dead, and its index entry goes with the last reference */
	bool hashed;			/* can be found */
	_Atomic bool tmp;		/* HENTRY_TMPFILE */
	_Atomic bool ours;		/* and made by local_tmpfile(): goes with its last open. A replayed one goes by an op */
	_Atomic bool defacl;		/* a directory with a default ACL */
	_Atomic bool nocaps;		/* surely without security.capability: made here, and nobody has tried to set one since */
	_Atomic int acl;		/* enum obj_acl */
	struct obj *next;		/* in its bucket */
	struct obj *prev_idle, *next_idle;
};

struct obj_shard {
	pthread_mutex_t lock;
	struct obj *bucket[OBJ_BUCKETS];
	struct obj idle;		/* ring; the next is the one used last */
	unsigned n_idle;
	uint64_t drops;			/* objects that lost their last name: what was loaded meanwhile is looked at again */
};

/* Creations under way in the directories of one stripe, and how often there were none left. */
struct creating {
	_Atomic unsigned n;
	_Atomic uint64_t rounds;
};

/* Flushes of directories, joined: who comes while one runs waits for the next, and one of them makes it for all. */
struct flush_waiter;
struct joint {
	pthread_mutex_t mu;		/* guards all below; a leaf */
	bool running;			/* a flush, or somebody was asked to make one */
	uint64_t id;			/* of which directory */
	struct flush_waiter *waiters;	/* came since it began */
};

struct snap_cache;

/* Who the daemon is: what its threads become again. */
struct self {
	uid_t uid;
	gid_t gid;
	gid_t *groups;			/* owned */
	int ngroups;
	bool keeps_caps;		/* SECBIT_NO_SETUID_FIXUP: another fsuid would not lose root's rights */
};

struct local {
	struct layer layer;
	struct local_config cfg;	/* as given, defaults filled in */
	const struct volume_limits *lim;	/* never NULL; narrows when a node joins */
	unsigned idle_max;		/* per shard */
	uint32_t gen;
	uint32_t dev_major, dev_minor;	/* of the backing file system */
	int proc_fd;			/* /proc/self/fd */
	int hidden_fd;			/* .tandemfs */
	struct obj *root, *limbo;	/* a reference each */
	struct obj_shard shard[OBJ_SHARDS];
	pthread_mutex_t adopt_lock;	/* marking of objects that turn up; index entries made for them */
	/* Creations under way, by stripe of the parent's id: until one has its mark and index entry nobody may adopt it. */
	struct creating creating[CREATING_STRIPES];
	_Atomic unsigned creating_waiters;
	pthread_mutex_t creating_lock;
	pthread_cond_t creating_done;
	/* By stripe of the directory's id: counts changes of entries (see local_dir.c). */
	_Atomic uint64_t dir_version[DIR_VERSIONS];
	struct snap_cache *snaps;
	struct joint joint[JOINTS];	/* by hash of the directory's id */
	bool one_journal;		/* see local_one_journal() */
	_Atomic uint64_t linger[LINGER_MAX];	/* ids that were made to linger last; 0 = none */
	_Atomic uint64_t linger_next;
	_Atomic unsigned lingering;
	pthread_rwlock_t forgetting;	/* shared while one stops lingering */
	_Atomic bool stranger_logged;
	struct self self;
};

static inline struct local *to_local(struct layer *layer) { return (struct local *)layer; }

int obj_cache_init(struct local *l);
void obj_cache_free(struct local *l);
/* Object ID, with a reference. -ESTALE: gone, or never was. */
int obj_get(struct local *l, uint64_t id, struct obj **out);
/* Is ID, with inode number INO, alive in the cache? (Then its descriptor keeps the number from being used again.) */
bool obj_pinned(struct local *l, uint64_t id, uint64_t ino);
/* As obj_get, and -ENOTDIR when it is no directory. */
int obj_get_dir(struct local *l, uint64_t id, struct obj **out);
void obj_put(struct obj *o);
/* Makes the object behind FD (O_PATH, ownership taken on success) findable; *OUT has a reference. FLAGS: HENTRY_TMPFILE, HENTRY_DEFACL,
 * OBJ_NOCAPS. */
int obj_insert(struct local *l, uint64_t id, int fd, uint64_t ino, uint32_t type, uint32_t flags, struct obj **out);
/* The last name of ID is gone: forgets it and its index entry, unless it is open (then when the last open ends). */
void obj_drop(struct local *l, uint64_t id);
/* One more open; needs a reference of the caller, takes its own. -ESTALE when it lost its last name and nobody has it open. */
int obj_open(struct obj *o);
void obj_close(struct obj *o);
bool obj_is_open(struct obj *o);
/* ID, about to lose its last name, will be usable as if it were open, until obj_forget(): its descriptor, and so its space, are kept. A courtesy: when that
 * fails, or LINGER_MAX others came after it, or the space is wanted, it is just gone. */
void obj_linger(struct local *l, uint64_t id);
void obj_forget(struct local *l, uint64_t id);
/* Nothing lingers any more, and its space is free. False: nothing did. */
bool obj_linger_end(struct local *l);
/* Closes all idle descriptors; true when there was one. */
bool obj_shrink(struct local *l);

static inline void cleanup_obj_(struct obj **o)
{
	if (*o)
		obj_put(*o);
}
#define auto_obj __attribute__((cleanup(cleanup_obj_)))

/* ---- descriptors ---- */

#define TRY(expr) ((expr) < 0 ? -errno : 0)

/* Opens what FD (which may be O_PATH) refers to, again, with FLAGS. An fd or -errno. */
int local_reopen(struct local *l, int fd, int flags);
/* openat2 for one component: no symlink is followed, no mount point crossed. */
int local_openat(struct local *l, int dirfd, const char *name, int flags, mode_t mode);
/* "/proc/self/fd/N" for the calls that only take paths. */
struct fd_path { char s[32]; };
static inline struct fd_path fd_path(int fd)
{
	struct fd_path p;
	snprintf(p.s, sizeof(p.s), "/proc/self/fd/%d", fd);
	return p;
}
/* NAME in DIRFD (or DIRFD itself: ""), nothing followed. */
int local_statx(int dirfd, const char *name, struct statx *stx);

/* ---- what is in the way: inode flags; objects that linger ---- */

static inline bool no_space(int err) { return err == -ENOSPC || err == -EDQUOT; }

/* Immutable and append-only flags of up to four objects, lifted when a change met -EPERM, restored at the end of the scope. */
struct lifted {
	struct local *l;
	bool allowed;
	uint64_t id[4];
	unsigned n;
	bool freed;			/* the space of what lingered was freed for it */
	int fd[4];
	uint32_t flags[4];
};
/* For CALL's origin: apply and resync may change what is immutable here, as it was not there. */
static inline struct lifted lift_init(struct local *l, const struct call *c, uint64_t a, uint64_t b)
{
	return (struct lifted){ .l = l, .allowed = c->origin == ORIGIN_APPLY || c->origin == ORIGIN_RESYNC, .id = { a, b } };
}
bool local_lift(struct lifted *lf);
/* A change failed with ERR: is it worth another try? Then flags were lifted, or space was freed. */
bool local_again(struct lifted *lf, int err);
void local_unlift(struct lifted *lf);
#define auto_lifted __attribute__((cleanup(local_unlift)))
/* EXPR, a system call; once more when flags could be lifted or space be freed. 0 or -errno. */
#define TRY_LIFT(lf, expr) ({ int try_ = TRY(expr); if (try_ && local_again(lf, try_)) try_ = TRY(expr); try_; })

/* ---- attributes and stamps ---- */

struct timespec local_clamp_time(const struct local *l, struct timespec t);
struct timespec local_stamp(const struct local *l, const struct call *c);
void local_attr_fill(const struct local *l, const struct statx *stx, const struct hentry *e, struct attr *out);
/* Attributes of O as they are now. FD: of the open file, or -1. */
int local_attr_of(struct local *l, struct obj *o, int fd, struct attr *out);
int local_set_mtime(struct local *l, struct obj *o, int fd, struct timespec t);
/* ctime in the index; nothing for limbo. */
int local_set_ctime(struct local *l, uint64_t id, struct timespec t);
/* The entries of directory P changed: times, and listings of it are out of date. */
int local_dir_touched(struct local *l, struct obj *p, struct timespec t);
int local_add_nsub(struct local *l, uint64_t dir, int delta);
/* Around a change on disk and what follows from it in the index: at what a killed process leaves the next one looks again. DIR: a directory
 * comes, goes or moves below A and B. X: an object that may lose its last name, or leaves limbo. 0 = none. */
struct unsteady { struct handles *h; unsigned token; };
static inline struct unsteady unsteady_begin(struct local *l, bool dir, uint64_t a, uint64_t b, uint64_t x)
{
	struct handles *h = l->cfg.handles;
	return dir || x ? (struct unsteady){ h, index_unsteady(h, dir ? a : 0, dir ? b : 0, x) } : (struct unsteady){ 0 };
}
static inline void unsteady_end(struct unsteady *u)
{
	if (u->h)
		index_steady(u->h, u->token);
}
#define auto_unsteady __attribute__((cleanup(unsteady_end), unused))
/* Clears setuid, and setgid when the group may execute. MODE: now. */
int local_kill_priv(struct lifted *lf, const struct call *c, struct obj *o, uint32_t mode, uint32_t gid, bool *killed);
/* fchmod for any descriptor, O_PATH too; not for symlinks. */
int local_chmod(struct local *l, int fd, uint32_t mode);

int local_getattr(struct layer *layer, struct call *c, uint64_t id, struct file *f, struct attr *out);
int local_setattr(struct layer *layer, struct call *c, uint64_t id, struct file *f, const struct setattr *s, struct attr *out);
int local_getflags(struct layer *layer, struct call *c, uint64_t id, uint32_t *flags);
/* A new object has none of the flags that nodes share: which it would inherit from its directory differs between file systems. FD: of the
 * file or directory, not O_PATH. */
int local_drop_inherited_flags(int fd);
int local_setflags(struct layer *layer, struct call *c, uint64_t id, uint32_t flags);

/* ---- access ---- */

#define ACL_XATTR "system.posix_acl_access"

int self_init(struct self *s);
void self_free(struct self *s);
/* Is the call's user in group GID? Asks /proc when the call has a pid and no groups. */
bool local_in_group(const struct call *c, uint32_t gid);
int local_access(struct layer *layer, struct call *c, uint64_t id, unsigned want, unsigned *granted);

/* ---- names ---- */

/* .tandemfs and lost+found in the root. */
bool local_hidden(const struct obj *p, const char *name);
/* What NAME in P is: its stat and its index entry, adopted when that is allowed. -ENOENT: nothing that callers may see; -EXDEV: a stranger. */
int local_identify(struct local *l, struct obj *p, const char *name, struct statx *stx, struct hentry *e);
/* Id of the parent of directory O. */
int local_parent_of(struct local *l, struct obj *o, uint64_t *id);
/* Sub-directories of ours (marked) that are there now: unmarked ones are counted when they are adopted. */
int local_count_subdirs(struct local *l, int dirfd, bool root, uint32_t *n);
/* FD: of a directory; O_PATH is fine, others are cheaper. */
bool local_has_defacl(int fd);
void local_creating_begin(struct local *l, uint64_t parent);
void local_creating_end(struct local *l, uint64_t parent);

int local_lookup(struct layer *layer, struct call *c, uint64_t parent, const char *name, struct attr *out);
int local_resolve(struct layer *layer, uint64_t parent, const char *name, uint64_t *id, uint32_t *type);
int local_create(struct layer *layer, struct call *c, uint64_t parent, const char *name, const struct create *cr, int open_flags,
		 struct attr *out, struct file **out_file);
int local_tmpfile(struct layer *layer, struct call *c, uint64_t parent, const struct create *cr, int open_flags, struct attr *out,
		  struct file **out_file);
int local_unlink(struct layer *layer, struct call *c, uint64_t parent, const char *name);
int local_rmdir(struct layer *layer, struct call *c, uint64_t parent, const char *name);
int local_rename(struct layer *layer, struct call *c, uint64_t parent, const char *name, uint64_t newparent, const char *newname,
		 unsigned flags);
int local_link(struct layer *layer, struct call *c, uint64_t id, uint64_t newparent, const char *newname, struct attr *out);
void local_forget(struct layer *layer, uint64_t id);
ssize_t local_readlink(struct layer *layer, struct call *c, uint64_t id, char *buf, size_t size);

/* ---- files ---- */

struct file {
	uint64_t id;
	int fd;				/* owned; O_RDONLY or O_RDWR */
	int flags;			/* as asked for */
	struct obj *o;			/* counted as open */
};
/* FD and one open of O go to the file. */
int file_new(struct obj *o, int fd, int flags, struct file **out);

int local_open(struct layer *layer, struct call *c, uint64_t id, int flags, struct file **out);
int local_release(struct layer *layer, struct call *c, struct file *f);
ssize_t local_read(struct layer *layer, struct call *c, struct file *f, void *buf, size_t size, uint64_t off);
ssize_t local_write(struct layer *layer, struct call *c, struct file *f, const struct wdata *d, uint64_t off, unsigned flags,
		    struct attr *attr);
int local_fsync(struct layer *layer, struct call *c, uint64_t id, struct file *f, bool datasync);
int local_fallocate(struct layer *layer, struct call *c, struct file *f, int mode, uint64_t off, uint64_t len);
ssize_t local_copy_range(struct layer *layer, struct call *c, struct file *in, uint64_t off_in, struct file *out, uint64_t off_out,
			 size_t len);
int64_t local_lseek(struct layer *layer, struct call *c, struct file *f, uint64_t off, int whence);

void joints_init(struct local *l);
void joints_free(struct local *l);

/* ---- xattrs ---- */

ssize_t local_getxattr(struct layer *layer, struct call *c, uint64_t id, const char *name, void *value, size_t size);
ssize_t local_listxattr(struct layer *layer, struct call *c, uint64_t id, char *list, size_t size);
int local_setxattr(struct layer *layer, struct call *c, uint64_t id, const char *name, const void *value, size_t size, int flags);
int local_removexattr(struct layer *layer, struct call *c, uint64_t id, const char *name);

/* ---- directories ---- */

int snap_cache_new(struct local *l);
void snap_cache_free(struct local *l);
/* Entries of DIR have changed. After the change was made. */
void snap_drop(struct local *l, uint64_t dir);
int local_opendir(struct layer *layer, struct call *c, uint64_t id, struct dir **out);
int local_readdir(struct layer *layer, struct call *c, struct dir *d, uint64_t pos, readdir_fn fn, void *arg);
int local_releasedir(struct layer *layer, struct call *c, struct dir *d);

/* Calls FN for every name in the directory behind FD (O_PATH is fine) but "." and ".."; stops at FN's first nonzero. TYPE: DT_*. */
int local_scan(struct local *l, int fd, int (*fn)(void *arg, const char *name, uint64_t ino, unsigned char type), void *arg);

/* ---- limits ---- */

/* Has the file system behind FD one journal for all that isn't contents, so that the flush of a directory makes durable whatever was made in it before? ext4 with a
 * journal and xfs have; of others nothing is known. */
bool local_one_journal(int fd);

/* ---- limbo ---- */

static inline void limbo_name(uint64_t id, char out[LIMBO_NAME_MAX]) { snprintf(out, LIMBO_NAME_MAX, "%016llx", (unsigned long long)id); }

#endif
