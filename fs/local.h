/*
 * The local layer: the bottom of the stack, over the backing directory. Objects are reached by handle and relative to
 * descriptors, never by path, so that it is safe against symlink and rename races and works while the volume is mounted over its own
 * backing directory.
 *
 * .tandemfs, and lost+found, in the backing root don't exist for its callers.
 */
#ifndef FS_LOCAL_H
#define FS_LOCAL_H

#include "fs/layer.h"
#include "fs/objlock.h"
#include "handles/handles.h"

struct local_config {
	int root_fd;			/* borrowed; opened before the mount */
	struct handles *handles;	/* borrowed */
	struct objlocks *locks;		/* borrowed */
	unsigned char dir_key[16];	/* the volume's readdir hash key */
	size_t dir_cache_bytes;		/* snapshots of directories kept in memory; 0 = default (64 MiB) */
	unsigned fd_cache;		/* descriptors kept open for objects used lately; 0 = default (2,048); at most a quarter of
					   RLIMIT_NOFILE at the start */
	const struct volume_limits *limits;	/* borrowed, read at every change: whoever owns them may narrow them; NULL = none */
	/* May an unmarked object that turns up under the backing directory be adopted (primary), or is it hidden (standby)? Called
	 * with the parent's id and name before it gets an id; NULL = adopt. */
	bool (*may_adopt)(void *arg);
	/* Told after an adoption. */
	void (*adopted)(void *arg, uint64_t parent, uint64_t id);
	void *arg;
};

/* The limits of the file system behind FD, from a table by f_type; -EOPNOTSUPP when it is none that was tried. */
int volume_limits_of(int fd, struct volume_limits *out, const char **fs_name);
bool volume_limits_eq(const struct volume_limits *a, const struct volume_limits *b);
void volume_limits_intersect(struct volume_limits *a, const struct volume_limits *b);

int local_new(const struct local_config *cfg, struct layer **out);

/* Position of NAME in every directory listing of the volume; ties excluded (see fs/local_dir.c). */
uint64_t local_name_pos(const unsigned char key[16], const char *name);

/* ---- for apply and resync: the same layer with ids that somebody else chose ---- */

/* Moves the object that NAME in PARENT names to limbo (parent HANDLE_LIMBO, name = id in hex); a file with other names just loses this one. What has
 * that name but is hidden from callers (unmarked, foreign or copied, not to be adopted) goes to .tandemfs/lost/strays/. -EXDEV: a mount. */
int local_to_limbo(struct layer *local, struct call *c, uint64_t parent, const char *name);
/* Gives object ID the name NAME in PARENT: out of limbo, or by a hard link (files), or moved from where it is (directories). */
int local_place(struct layer *local, struct call *c, uint64_t id, uint64_t parent, const char *name);
/* Is file ID, which lies in limbo, an O_TMPFILE one (it has no links, for callers), or does it only lack a place yet? A file that is created there is taken for the
 * former. */
int local_set_tmpfile(struct layer *local, uint64_t id, bool tmpfile);
/* Removes whatever ID in limbo is, a directory with all that is in it (which lose their index entries too). */
int local_limbo_purge(struct layer *local, uint64_t id);
int local_limbo_each(struct layer *local, int (*fn)(void *arg, uint64_t id), void *arg);
/* Removes all of limbo. */
int local_limbo_purge_all(struct layer *local);
/* Moves limbo object ID, or copies (reflink where it can) the linked file ID, to .tandemfs/lost/SESSION/PATH, without its mark. */
int local_keep_lost(struct layer *local, uint64_t id, const char *session, const char *path);
/* Path of ID from the root, for reports; best effort. -ENOENT when it has none. */
int local_path_of(struct layer *local, uint64_t id, char *buf, size_t size);
/* A descriptor of object ID (O_PATH), for fsync workers: reopened with FLAGS. Owned by the caller. */
int local_open_fd(struct layer *local, uint64_t id, int flags);
/* syncfs of the backing file system. */
int local_syncfs(struct layer *local);

#endif
