/*
 * The image is an empty swap area, version 1: its header is the shortest that libblkid finds a UUID in (docs/formats.md). It is never used as one.
 */
#include "fs/fuse_blk.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/loop.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/base/cleanup.h"

enum {
	PAGE = 4096, HEADER_AT = 1024, UUID_AT = HEADER_AT + 12, MAGIC_LEN = 10,
	FREE_LOOP_TRIES = 64,		/* others take loop devices, too */
};

static void make_header(unsigned char page[PAGE], const unsigned char uuid[FUSE_BLK_UUID_LEN])
{
	const uint32_t head[3] = { 1, FUSE_BLK_SIZE / PAGE - 1, 0 };	/* version, last page, bad pages; host byte order */

	memset(page, 0, PAGE);
	memcpy(page + HEADER_AT, head, sizeof head);
	memcpy(page + UUID_AT, uuid, FUSE_BLK_UUID_LEN);
	memcpy(page + PAGE - MAGIC_LEN, "SWAPSPACE2", MAGIC_LEN);
}

/* Opens FILE with the right contents. */
static int image_open(const char *file, const unsigned char uuid[FUSE_BLK_UUID_LEN], int *out)
{
	unsigned char want[PAGE], have[PAGE] = { 0 };
	auto_fd int fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	struct stat st;

	if (fd < 0 || fstat(fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EINVAL;
	make_header(want, uuid);
	ssize_t n = pread(fd, have, PAGE, 0);
	if (n != PAGE || st.st_size != FUSE_BLK_SIZE || memcmp(have, want, PAGE)) {
		if (ftruncate(fd, FUSE_BLK_SIZE))
			return -errno;
		n = pwrite(fd, want, PAGE, 0);
		if (n != PAGE || fsync(fd))
			return n >= 0 && n != PAGE ? -ENOSPC : -errno;
	}
	*out = steal_fd(&fd);
	return 0;
}

/* Attaches IMAGE to loop device NUMBER. -EBUSY: somebody was faster. */
static int loop_attach(int number, int image, const char *file, char *dev, size_t size, int *out)
{
	struct loop_config c = { .fd = (uint32_t)image, .block_size = PAGE, .info = { .lo_flags = LO_FLAGS_AUTOCLEAR } };

	snprintf(dev, size, "/dev/loop%d", number);
	snprintf((char *)c.info.lo_file_name, sizeof c.info.lo_file_name, "%s", file);
	auto_fd int fd = open(dev, O_RDWR | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, LOOP_CONFIGURE, &c))
		return -errno;
	*out = steal_fd(&fd);
	return 0;
}

int fuse_blk_attach(const char *file, const unsigned char uuid[FUSE_BLK_UUID_LEN], char *dev, size_t size, int *fd)
{
	auto_fd int image = -1, control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
	int r = control < 0 ? -errno : image_open(file, uuid, &image);

	for (unsigned i = 0; !r && i < FREE_LOOP_TRIES; i++) {
		int number = ioctl(control, LOOP_CTL_GET_FREE);
		if (number < 0)
			return -errno;
		r = loop_attach(number, image, file, dev, size, fd);
		if (r != -EBUSY)
			return r;
		r = 0;
	}
	return r ? r : -EBUSY;
}
