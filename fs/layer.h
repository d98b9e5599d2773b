/*
 * The layer contract: one function per file-system operation, objects named by handle (id), never by path.
 *
 * A volume is a stack of layers with this one contract: front ends (FUSE, the NFS server) call the top
 * one; the mirroring layer calls the one below and emits ops; the fault layer can stand anywhere; the local layer works on
 * the backing directory. All functions return 0 (or a count) or -errno and may block on the disk. They are called from many
 * threads at once.
 *
 * Locking: a call that changes something holds the locks (fs/objlock.h) of all objects that it touches while it is applied.
 * The mirroring layer takes them and says so in call.locked; the local layer takes them itself when that is not set.
 *
 * Time: a changing call stamps what POSIX says with call.stamp (mtime and/or ctime of all objects that it changes); a zero stamp
 * means "now" by the local clock. So an op on the wire needs one time.
 *
 * Names are NUL-terminated, 1..255 bytes, without '/'; "." and ".." are allowed for lookup only. Front ends check; so does the
 * decoder of ops.
 */
#ifndef FS_LAYER_H
#define FS_LAYER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/types.h>
#include <time.h>

#include "fs/base/blk.h"

enum {
	LAYER_NAME_MAX = 255,
	LAYER_SYMLINK_MAX = 4095,
	LAYER_XATTR_MAX = 65536,	/* bytes of one value */
	LAYER_IO_MAX = 1 << 20,		/* bytes of one read or write */
	LAYER_DIR_SIZE = 4096,		/* st_size of every directory */
	LAYER_ATTACH_MAX = 64 << 10,
	LAYER_ATTACH_RESERVE = 1024,	/* bytes that an attachment set by call.after is counted with beforehand */
	LAYER_GROUPS_MAX = 64,		/* supplementary groups of a caller */
};

/* Attributes, as the identity contract wants them: the same on every node but for atime and blocks. */
struct attr {
	uint64_t id;
	uint32_t gen;
	uint32_t mode;			/* type and permission bits */
	uint32_t nlink;			/* directories: 2 + sub-directories */
	uint32_t uid, gid;
	uint64_t rdev;			/* dev_t */
	uint64_t size;
	uint64_t blocks;		/* 512-byte units, this node's */
	struct timespec atime, mtime, ctime;
	bool no_acl;			/* getattr only: surely without an access ACL, so that mode bits decide; false = unknown */
};

enum call_origin { ORIGIN_FUSE, ORIGIN_NFS, ORIGIN_APPLY, ORIGIN_RESYNC, ORIGIN_INTERNAL };

/* What an op did beyond its reply, for the layer that streams it and for call.after. Filled by the bottom layer when call.effect is set. */
struct effect {
	struct attr attr;		/* the object changed, made or linked, afterwards; of unlink and rmdir what lost its name; not of rename */
	uint64_t replaced;		/* rename: id that lost its name to this one (or the exchange partner); 0 = none */
	uint32_t replaced_nlink;	/* and its link count afterwards */
	bool acl_inherited;		/* a create took ACLs from the parent's default ACL */
	bool with_parent;		/* what was made is durable, as it is now, as soon as a flush of its parent, begun from now on, has succeeded */
	bool changed;			/* on an error: something may have been changed nevertheless */
};

/*
 * Call context. A front end zeroes it and fills the first block.
 *
 * Hooks: the layer that takes the locks and streams runs them, around each change (create .. link, setattr .. setflags, write, fallocate,
 * copy_range; not open, release, fsync) of a call that has them. Layers below never see them; without such a layer they don't run.
 * `before`: the locks of the operation are held and nothing is done yet. `after`: it is done, or has failed, with R (0, a count, -errno) and what it
 * did; the locks are held still, and its op isn't in the stream yet, so that an attachment which `after` sets (call.attach*, LAYER_ATTACH_MAX) travels
 * with it; a failed operation's goes out alone. Both may read through the layers, with a call of their own (getattr of any object works); they must
 * not change anything, wait, or take object locks. `before` runs at most once, and only when the locks were got; `after` runs exactly once for every
 * change that this node was ready to make, as the last thing before its order is final (when the change failed before its locks were got: without
 * locks and without `before`); neither runs when the change was refused because this node isn't primary (-EROFS) or has no epoch.
 * What the operation returns in the end can be an error although `after` saw success: the change is made, but could not be confirmed.
 */
struct call {
	enum call_origin origin;
	uid_t uid;			/* the caller's; owner of what is created */
	gid_t gid;
	const gid_t *groups;		/* supplementary ones; borrowed for the call. Given (or not) by front ends that know them: PID is asked else */
	unsigned ngroups;		/* at most LAYER_GROUPS_MAX */
	pid_t pid;
	mode_t umask;			/* applied to creations unless the parent has a default ACL */
	bool stable;			/* the caller wants this operation durable when it returns (O_SYNC, NFS) */
	const void *attach;		/* opaque to all layers; travels with the op and is delivered on standbys to */
	uint32_t attach_len;		/* whoever registered for attach_kind; borrowed for the call; 0 = none */
	uint16_t attach_kind;
	bool attach_lazy;		/* `commit` doesn't wait until the peers have received an attachment: it is lost only with its op */
	void (*before)(struct call *c);	/* hooks, see above; may be NULL */
	void (*after)(struct call *c, ssize_t r, const struct effect *e);
	void *hook_arg;			/* theirs */
	bool linger;			/* removals: what loses its last name can be used by its id until forget() */

	/* set by the layer above the local one */
	bool locked;
	struct timespec stamp;
	uint64_t new_id;		/* creations: the id of the new object; 0 = allocate */
	struct effect *effect;		/* may be NULL */

	/* out: place in the stream of the op that this call emitted; 0 = none */
	uint64_t seq;
};

/* setattr: which fields; *_NOW take call.stamp. */
enum setattr_valid {
	SET_MODE = 1 << 0, SET_UID = 1 << 1, SET_GID = 1 << 2, SET_SIZE = 1 << 3, SET_ATIME = 1 << 4, SET_MTIME = 1 << 5,
	SET_ATIME_NOW = 1 << 6, SET_MTIME_NOW = 1 << 7,
	SET_CTIME = 1 << 8,		/* ORIGIN_APPLY and ORIGIN_RESYNC only */
	SET_KILL_PRIV = 1 << 9,		/* clear setuid/setgid as truncate and chown do for the unprivileged */
	SET_GUARD = 1 << 10,		/* front ends: only if the object's ctime is still CTIME, else -ECANCELED and nothing changes */
};
struct setattr {
	uint32_t valid;
	uint32_t mode, uid, gid;
	uint64_t size;
	struct timespec atime, mtime, ctime;
};

/* What to create. */
struct create {
	uint32_t mode;			/* S_IFMT type and permission bits */
	uint64_t rdev;
	const char *target;		/* symlinks */
	bool exact;			/* apply: mode as given, no umask, no ACL inheritance */
	const struct timespec *mtime;	/* NULL = call.stamp */
};

/* What every node of a volume can represent: the intersection over all nodes, agreed when a node joins; enforced by the bottom layer, before
 * anything is changed. Zero = no limit of its own. */
struct volume_limits {
	int64_t time_min, time_max;	/* seconds; times outside are clamped, as local file systems do */
	uint32_t time_gran_ns;		/* stamps and times are rounded down to it; 0 = 1 */
	uint32_t xattr_value_max;	/* -E2BIG... as the local file systems: -ENOSPC */
	uint32_t xattr_total_max;	/* of all xattrs of one object, as ext4 counts them */
	uint32_t symlink_max;		/* bytes of a target: -ENAMETOOLONG */
	uint32_t link_max;		/* -EMLINK */
	uint64_t size_max;		/* -EFBIG */
};

struct file;				/* an open file of the bottom layer; passed through unchanged */
struct dir;				/* an open directory of the bottom layer */

/* Bytes to be written. When OWNER is set, they lie within it and a layer may keep a reference instead of a copy. */
struct wdata {
	const void *p;
	size_t len;
	struct blk *owner;		/* borrowed, or NULL */
};

enum write_flags { WRITE_KILL_PRIV = 1 << 0, WRITE_APPEND = 1 << 1 };

/* A directory entry. POS is where a listing goes on behind it. Return nonzero to stop *before* this entry. */
struct dirent_info {
	const char *name;
	uint64_t id;
	uint32_t type;			/* S_IFMT bits */
	uint64_t pos;
};
typedef int (*readdir_fn)(void *arg, const struct dirent_info *e);

struct layer;

/* CALL is never NULL; FILE may be NULL where said. */
struct layer_ops {
	void (*destroy)(struct layer *l);

	/* -- names -- */
	/* "." of any live object and ".." of a directory are answered too (cold handles). */
	int (*lookup)(struct layer *l, struct call *c, uint64_t parent, const char *name, struct attr *out);
	/* As lookup, but only id and type; cheaper. */
	int (*resolve)(struct layer *l, uint64_t parent, const char *name, uint64_t *id, uint32_t *type);
	/* Exclusive: -EEXIST when the name is there. OUT_FILE: when not NULL a regular file is opened too, with OPEN_FLAGS. */
	int (*create)(struct layer *l, struct call *c, uint64_t parent, const char *name, const struct create *cr, int open_flags,
		      struct attr *out, struct file **out_file);
	/* A regular file without a name (O_TMPFILE) on the file system of PARENT. */
	int (*tmpfile)(struct layer *l, struct call *c, uint64_t parent, const struct create *cr, int open_flags, struct attr *out,
		       struct file **out_file);
	int (*unlink)(struct layer *l, struct call *c, uint64_t parent, const char *name);
	int (*rmdir)(struct layer *l, struct call *c, uint64_t parent, const char *name);
	/* FLAGS: 0, RENAME_NOREPLACE, RENAME_EXCHANGE. */
	int (*rename)(struct layer *l, struct call *c, uint64_t parent, const char *name, uint64_t newparent, const char *newname,
		      unsigned flags);
	int (*link)(struct layer *l, struct call *c, uint64_t id, uint64_t newparent, const char *newname, struct attr *out);
	/* Nobody who was promised that ID lingers (call.linger) uses it any more. Others may be named: nothing happens. */
	void (*forget)(struct layer *l, uint64_t id);
	/* Returns the length (not NUL-terminated), at most SIZE. */
	ssize_t (*readlink)(struct layer *l, struct call *c, uint64_t id, char *buf, size_t size);

	/* -- attributes -- */
	int (*getattr)(struct layer *l, struct call *c, uint64_t id, struct file *f, struct attr *out);	/* f may be NULL */
	int (*setattr)(struct layer *l, struct call *c, uint64_t id, struct file *f, const struct setattr *s, struct attr *out);
	/* Which of WANT (R_OK | W_OK | X_OK; not 0) the local kernel grants to uid, gid and groups of the call, by mode, ACL, flags and what root may:
	 * *GRANTED. 0, or the error of looking (then nothing is granted). The way to the object is not asked about. */
	int (*access)(struct layer *l, struct call *c, uint64_t id, unsigned want, unsigned *granted);
	/* size 0 asks for the length; -ERANGE when it doesn't fit. */
	ssize_t (*getxattr)(struct layer *l, struct call *c, uint64_t id, const char *name, void *value, size_t size);
	ssize_t (*listxattr)(struct layer *l, struct call *c, uint64_t id, char *list, size_t size);
	int (*setxattr)(struct layer *l, struct call *c, uint64_t id, const char *name, const void *value, size_t size, int flags);
	int (*removexattr)(struct layer *l, struct call *c, uint64_t id, const char *name);
	/* FS_IOC_GETFLAGS / SETFLAGS. */
	int (*getflags)(struct layer *l, struct call *c, uint64_t id, uint32_t *flags);
	int (*setflags)(struct layer *l, struct call *c, uint64_t id, uint32_t flags);

	/* -- files -- */
	int (*open)(struct layer *l, struct call *c, uint64_t id, int flags, struct file **out);
	int (*release)(struct layer *l, struct call *c, struct file *f);
	ssize_t (*read)(struct layer *l, struct call *c, struct file *f, void *buf, size_t size, uint64_t off);
	/* Returns the bytes written, which may be fewer (then the next call would tell why). ATTR (may be NULL): afterwards. */
	ssize_t (*write)(struct layer *l, struct call *c, struct file *f, const struct wdata *d, uint64_t off, unsigned flags,
			 struct attr *attr);
	/* Files (f) and, with f NULL, the directory or other object ID. */
	int (*fsync)(struct layer *l, struct call *c, uint64_t id, struct file *f, bool datasync);
	int (*fallocate)(struct layer *l, struct call *c, struct file *f, int mode, uint64_t off, uint64_t len);
	/* Bytes copied. -EOPNOTSUPP, -EXDEV as copy_file_range(2). */
	ssize_t (*copy_range)(struct layer *l, struct call *c, struct file *in, uint64_t off_in, struct file *out, uint64_t off_out,
			      size_t len);
	int64_t (*lseek)(struct layer *l, struct call *c, struct file *f, uint64_t off, int whence);	/* SEEK_DATA, SEEK_HOLE */

	/* -- directories -- */
	int (*opendir)(struct layer *l, struct call *c, uint64_t id, struct dir **out);
	/* Entries behind position POS (0 = from the start), "." and ".." first; order and positions are the same on all nodes. */
	int (*readdir)(struct layer *l, struct call *c, struct dir *d, uint64_t pos, readdir_fn fn, void *arg);
	int (*releasedir)(struct layer *l, struct call *c, struct dir *d);

	int (*statfs)(struct layer *l, struct call *c, struct statvfs *out);
};

struct layer {
	const struct layer_ops *ops;
	struct layer *below;		/* NULL for the bottom layer; borrowed */
	const char *name;		/* for logs */
};

/* Of an open file, whatever layers are above. */
uint64_t file_id(const struct file *f);
int file_flags(const struct file *f);
uint64_t dir_id(const struct dir *d);

#endif
