/*
 * What a file system can represent: a table by type, checked against the mounted one where that varies (inodes of 128 bytes, xfs without
 * bigtime): a nameless file's time is set and read back.
 *
 * ext4's numbers follow its block size: xattrs of one object must fit into one block beside our mark, so that the order in which they were set
 * doesn't matter; a file has at most 2^32 blocks.
 */
#include "fs/local_int.h"

#include <linux/magic.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#ifndef XFS_SUPER_MAGIC
#define XFS_SUPER_MAGIC 0x58465342
#endif

enum {
	EXT4_XATTR_OVERHEAD = 136,	/* header and end of the block, our mark's entry */
	BTRFS_XATTR_VALUE_MAX = 15900,	/* a leaf of 16 KiB, a name of 255 bytes */
};

static struct volume_limits limits_ext4(uint64_t bsize)
{
	return (struct volume_limits){
		.time_min = INT32_MIN, .time_max = 0x37fffffff, .time_gran_ns = 1,
		.xattr_value_max = (uint32_t)bsize - EXT4_XATTR_OVERHEAD, .xattr_total_max = (uint32_t)bsize - EXT4_XATTR_OVERHEAD,
		.symlink_max = bsize < 4096 ? (uint32_t)bsize - 1 : LAYER_SYMLINK_MAX,
		.link_max = 65000,
		.size_max = (bsize << 32) - bsize,
	};
}

static struct volume_limits limits_xfs(void)
{
	return (struct volume_limits){
		.time_min = INT32_MIN, .time_max = 16299260424, .time_gran_ns = 1,
		.xattr_value_max = LAYER_XATTR_MAX, .symlink_max = 1023, .link_max = INT32_MAX, .size_max = INT64_MAX,
	};
}

static struct volume_limits limits_btrfs(void)
{
	return (struct volume_limits){
		.time_gran_ns = 1,
		.xattr_value_max = BTRFS_XATTR_VALUE_MAX, .symlink_max = LAYER_SYMLINK_MAX, .link_max = 65535, .size_max = INT64_MAX,
	};
}

static struct volume_limits limits_tmpfs(void)
{
	return (struct volume_limits){
		.time_gran_ns = 1,
		.xattr_value_max = LAYER_XATTR_MAX, .symlink_max = LAYER_SYMLINK_MAX, .size_max = INT64_MAX,
	};
}

/* Has the ext4 of device DEV a journal? "ext4" without one can't say who commits what. */
static bool ext4_has_journal(dev_t dev)
{
	char path[128], link[256], task[16];
	snprintf(path, sizeof(path), "/sys/dev/block/%u:%u", major(dev), minor(dev));
	ssize_t n = readlink(path, link, sizeof(link) - 1);
	if (n < 0)
		return false;
	link[n] = '\0';
	const char *name = strrchr(link, '/');
	if (!name || (size_t)snprintf(path, sizeof(path), "/sys/fs/ext4%s/journal_task", name) >= sizeof(path))
		return false;
	auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, task, sizeof(task));
	return n > 0 && task[0] >= '1' && task[0] <= '9';
}

bool local_one_journal(int fd)
{
	struct statfs sf;
	struct stat st;
	if (fstatfs(fd, &sf) < 0 || fstat(fd, &st) < 0)
		return false;
	switch ((unsigned long)sf.f_type) {
	case EXT4_SUPER_MAGIC: return ext4_has_journal(st.st_dev);
	case XFS_SUPER_MAGIC: return true;
	default: return false;
	}
}

/* What time T becomes on a nameless file below FD; false when that can't be tried. */
static bool probe_time(int fd, struct timespec t, struct timespec *got)
{
	struct stat st;
	const struct timespec ts[2] = { t, t };
	auto_fd int tmp = openat(fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	if (tmp < 0 || futimens(tmp, ts) < 0 || fstat(tmp, &st) < 0)
		return false;
	*got = st.st_mtim;
	return true;
}

static void probe(int fd, struct volume_limits *m)
{
	struct timespec got;
	if (probe_time(fd, (struct timespec){ .tv_sec = 1000000000, .tv_nsec = 123456789 }, &got) && got.tv_nsec != 123456789)
		m->time_gran_ns = got.tv_nsec ? 1000 : 1000000000;
	if (m->time_max && probe_time(fd, (struct timespec){ .tv_sec = m->time_max }, &got) && got.tv_sec < m->time_max)
		m->time_max = got.tv_sec;
}

int volume_limits_of(int fd, struct volume_limits *out, const char **fs_name)
{
	struct statfs sf;
	if (fstatfs(fd, &sf) < 0)
		return -errno;
	const char *name;
	switch ((unsigned long)sf.f_type) {
	case EXT4_SUPER_MAGIC: *out = limits_ext4((uint64_t)sf.f_bsize); name = "ext4"; break;
	case XFS_SUPER_MAGIC: *out = limits_xfs(); name = "xfs"; break;
	case BTRFS_SUPER_MAGIC: *out = limits_btrfs(); name = "btrfs"; break;
	case TMPFS_MAGIC: *out = limits_tmpfs(); name = "tmpfs"; break;
	default: return -EOPNOTSUPP;
	}
	if (fs_name)
		*fs_name = name;
	probe(fd, out);
	return 0;
}

static uint32_t least32(uint32_t a, uint32_t b) { return !a ? b : !b || a < b ? a : b; }

void volume_limits_intersect(struct volume_limits *a, const struct volume_limits *b)
{
	if (a->time_min == a->time_max) {
		a->time_min = b->time_min;
		a->time_max = b->time_max;
	} else if (b->time_min != b->time_max) {
		a->time_min = a->time_min > b->time_min ? a->time_min : b->time_min;
		a->time_max = a->time_max < b->time_max ? a->time_max : b->time_max;
	}
	if (b->time_gran_ns > a->time_gran_ns)
		a->time_gran_ns = b->time_gran_ns;
	a->xattr_value_max = least32(a->xattr_value_max, b->xattr_value_max);
	a->xattr_total_max = least32(a->xattr_total_max, b->xattr_total_max);
	a->symlink_max = least32(a->symlink_max, b->symlink_max);
	a->link_max = least32(a->link_max, b->link_max);
	if (!a->size_max || (b->size_max && b->size_max < a->size_max))
		a->size_max = b->size_max;
}

bool volume_limits_eq(const struct volume_limits *a, const struct volume_limits *b)
{
	return a->time_min == b->time_min && a->time_max == b->time_max && a->time_gran_ns == b->time_gran_ns &&
	       a->xattr_value_max == b->xattr_value_max && a->xattr_total_max == b->xattr_total_max && a->symlink_max == b->symlink_max &&
	       a->link_max == b->link_max && a->size_max == b->size_max;
}
