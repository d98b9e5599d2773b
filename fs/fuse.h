/*
 * The FUSE front: a mount whose requests are calls of the top layer, with object ids as node ids. It keeps nothing per object that the kernel
 * knows: any 64-bit value may arrive as a node id and goes down to the layers, which answer -ESTALE for what isn't there. Only open files and
 * directories cost memory.
 *
 * Life: new -> mount -> run -> (stop | the kernel unmounted it: gone is called) -> free.
 */
#ifndef FS_FUSE_H
#define FS_FUSE_H

#include <stdbool.h>
#include <stdint.h>

#include "fs/layer.h"
#include "fs/lock.h"
#include "fs/observe.h"

enum { FUSE_FRONT_THREADS = 16, FUSE_FRONT_THREADS_MAX = 64, FUSE_FRONT_TIMEOUT_S = 3600 };

struct fuse_front_config {
	struct layer *top;			/* borrowed */
	struct lock_table *locks;		/* borrowed; shared with other front ends */
	struct observers *observers;		/* the front registers here, in fuse_front_new; borrowed; NULL = nobody else changes anything */
	const char *mount_point;		/* copied; absolute */
	const char *volume;			/* copied; the device name that mount(8) shows */
	const char *blk_image;			/* copied; not NULL: mount as fuseblk from a loop device over this file (fs/fuse_blk.h), */
	unsigned char uuid[16];			/* which has this UUID */
	double attr_timeout_s, entry_timeout_s;	/* how long the kernel may believe us; 0 = FUSE_FRONT_TIMEOUT_S, negative = not at all */
	unsigned threads;			/* upper bound; 0 = FUSE_FRONT_THREADS */
	uint32_t generation;			/* of every node but the root */
	void (*gone)(void *arg);		/* the mount ended without fuse_front_stop (umount(8)); from a thread of the front, once;
						   must not call fuse_front_stop or _free itself. May be NULL */
	void *arg;
};

struct fuse_front;

/* 0, -ENOMEM, -EINVAL. */
int fuse_front_new(const struct fuse_front_config *cfg, struct fuse_front **out);
/* Mounts. A dead mount of ours (its daemon was killed) is lazily unmounted first. -EBUSY: a living TandemFS is mounted there; -ENODEV, -ENOENT: no
 * /dev/fuse; -ENOTDIR, -ENOENT...: the mount point. The mount answers nobody before fuse_front_run. */
int fuse_front_mount(struct fuse_front *f);
/* Starts the threads and returns; when it fails, nothing is mounted any more. */
int fuse_front_run(struct fuse_front *f);
/* Unmounts and waits until all threads have ended. -EBUSY: in use (goes on serving), unless FORCE, which aborts what is under way. Fine when
 * it is unmounted already. */
int fuse_front_stop(struct fuse_front *f, bool force);
/* After a stop, or when it was never run; and when no change will be told to the observers any more. */
void fuse_front_free(struct fuse_front *f);

/* Waits until the kernel has dropped what the changes told so far made stale. Hold no lock: the kernel may wait for a request of ours. Changes of ORIGIN_NFS the kernel hears of
 * only by this, called by the thread that made them. */
void fuse_front_settle(struct fuse_front *f);
/* Before somebody else changes bytes [OFF, OFF+LEN) of object ID (LEN 0: to the end): when it is open for writing here, what programs have written into mappings of that
 * range goes down to the layers first. Hold no lock: it comes as ordinary writes. Cheap when nothing is open for writing. */
void fuse_front_flush_range(struct fuse_front *f, uint64_t id, uint64_t off, uint64_t len);

/* Writes back what programs have dirtied through mappings of files that are open for writing, and waits for it: those are writes like all others. Hold no lock;
 * not from a thread of the front. */
void fuse_front_write_back(struct fuse_front *f);

#endif
