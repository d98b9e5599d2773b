/*
 * A block device that lends the mount its identity. NFS-Ganesha (FSAL_VFS) names a file system in its handles by the UUID of the block device it is
 * mounted from, and by the device number when there is none: a plain FUSE mount has another one on each node, and every handle would be stale after a
 * failover. So a volume can be mounted as `fuseblk` from a loop device over a small image that carries the volume's UUID, the same on all nodes.
 * Nothing is ever read from or written to the device.
 */
#ifndef FS_FUSE_BLK_H
#define FS_FUSE_BLK_H

#include <stddef.h>
#include <stdint.h>

enum { FUSE_BLK_SIZE = 1 << 20, FUSE_BLK_UUID_LEN = 16 };

/* Makes the image FILE (or takes it as it is when it has the same UUID) and attaches it to a free loop device, read-write, whose path goes to DEV. *FD holds
 * the device until the mount does; when the mount has gone, too, the kernel detaches it. 0; -ENOENT, -ENXIO: no loop devices here; errors of
 * open(2), write(2). */
int fuse_blk_attach(const char *file, const unsigned char uuid[FUSE_BLK_UUID_LEN], char *dev, size_t size, int *fd);

#endif
