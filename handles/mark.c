/*
 * Marks and local handles.
 *
 * The mark is the xattr MARK_XATTR on the object itself, 33 bytes, little-endian:
 *
 *	u8  version (1)
 *	u8  uuid[16]	the volume
 *	u64 id
 *	u64 hash	XXH3-64 of the object's local handle
 *
 * A copy that took the xattr along (cp -a, a restored backup) has another local handle, so the hash tells it from the
 * original. The hash is taken over the inode number and generation where the handle is one of the two forms that hold just these,
 * because which of them xfs uses depends on a mount option; over type and bytes otherwise.
 *
 * Xattrs of what is open by an O_PATH descriptor are reached through /proc/self/fd: that works for every type of object, symbolic
 * links and FIFOs too, and never follows or blocks. An ordinary descriptor is used itself, which is several times cheaper.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>
#include <xxhash.h>

#include "fs/base/cleanup.h"
#include "handles/internal.h"

enum {
	MARK_VERSION = 1,
	MARK_BYTES = 1 + UUID_LEN + 8 + 8,
	FH_INO32_GEN = 1,		/* u32 ino, u32 generation (ext4, xfs with inode32) */
	FH_INO64_GEN = 0x81,		/* u64 ino, u32 generation (xfs) */
};

struct fd_path { char s[32]; };

static const char *fd_path(struct fd_path *p, int fd)
{
	snprintf(p->s, sizeof p->s, "/proc/self/fd/%d", fd);
	return p->s;
}

bool xattr_hidden(const char *name)
{
	/* xfs shows its ACLs a second time under these names */
	return !strncmp(name, MARK_XATTR, sizeof MARK_XATTR - 1) || !strncmp(name, "trusted.SGI_ACL_", 16);
}

static int handle_at(int dirfd, const char *name, int flags, struct local_handle *lh, int *mount_id)
{
	union {
		struct file_handle fh;
		char room[sizeof(struct file_handle) + LOCAL_HANDLE_MAX];
	} u;

	u.fh.handle_bytes = LOCAL_HANDLE_MAX;
	if (name_to_handle_at(dirfd, name, &u.fh, mount_id, flags))
		return -errno;
	*lh = (struct local_handle){ .len = (uint16_t)u.fh.handle_bytes, .type = u.fh.handle_type };
	memcpy(lh->bytes, u.fh.f_handle, lh->len);
	return 0;
}

int local_handle_and_mount(int fd, struct local_handle *lh, int *mount_id)
{
	return handle_at(fd, "", AT_EMPTY_PATH, lh, mount_id);
}

int local_handle_of(int fd, struct local_handle *lh)
{
	int mount_id;

	return local_handle_and_mount(fd, lh, &mount_id);
}

int local_handle_at(int dirfd, const char *name, struct local_handle *lh)
{
	int mount_id;

	return handle_at(dirfd, name, 0, lh, &mount_id);
}

bool local_handle_same(const struct local_handle *a, const struct local_handle *b)
{
	if (a->type == b->type && a->len == b->len)
		return !memcmp(a->bytes, b->bytes, a->len);
	return local_handle_hash(a) == local_handle_hash(b);
}

int local_handle_open(struct handles *h, const struct local_handle *lh, int flags)
{
	union {
		struct file_handle fh;
		char room[sizeof(struct file_handle) + LOCAL_HANDLE_MAX];
	} u;

	if (lh->len > LOCAL_HANDLE_MAX)
		return -ESTALE;
	u.fh.handle_bytes = lh->len;
	u.fh.handle_type = lh->type;
	memcpy(u.fh.f_handle, lh->bytes, lh->len);
	int fd = open_by_handle_at(h->cfg.root_fd, &u.fh, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

uint64_t local_handle_hash(const struct local_handle *lh)
{
	unsigned char b[4 + LOCAL_HANDLE_MAX] = { 0 };
	uint32_t type = (uint32_t)lh->type;

	if (lh->type == FH_INO32_GEN && lh->len == 8) {
		memcpy(b, lh->bytes, 4);
		memcpy(b + 8, lh->bytes + 4, 4);
		return XXH3_64bits(b, 12);
	}
	if (lh->type == FH_INO64_GEN && lh->len == 12)
		return XXH3_64bits(lh->bytes, 12);
	for (unsigned i = 0; i < 4; i++)
		b[i] = (unsigned char)(type >> 8 * i);
	memcpy(b + 4, lh->bytes, lh->len);
	return XXH3_64bits(b, 4 + (size_t)lh->len);
}

static void put_le64(unsigned char *p, uint64_t v)
{
	for (unsigned i = 0; i < 8; i++)
		p[i] = (unsigned char)(v >> 8 * i);
}

/* Sets the xattr on an object that is immutable or append-only: the flags are lifted for the moment. */
static int set_lifted(const char *path, const void *value, size_t len)
{
	int flags, none, r = 0;

	auto_fd int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOATIME | O_CLOEXEC);
	if (fd < 0 || ioctl(fd, FS_IOC_GETFLAGS, &flags))
		return -EPERM;
	none = flags & ~(FS_IMMUTABLE_FL | FS_APPEND_FL);
	if (none == flags || ioctl(fd, FS_IOC_SETFLAGS, &none))
		return -EPERM;
	if (fsetxattr(fd, MARK_XATTR, value, len, 0))
		r = -errno;
	if (ioctl(fd, FS_IOC_SETFLAGS, &flags) && !r)
		r = -errno;
	return r;
}

int mark_set(struct handles *h, int fd, uint64_t id, struct hentry *out)
{
	unsigned char b[MARK_BYTES] = { MARK_VERSION };
	struct fd_path path;
	struct stat st;

	if (!id_valid(id))
		return -EINVAL;
	int r = local_handle_of(fd, &out->lh);
	if (r)
		return r;
	if (fstat(fd, &st))
		return -errno;
	memcpy(b + 1, h->cfg.uuid, UUID_LEN);
	put_le64(b + 1 + UUID_LEN, id);
	put_le64(b + 1 + UUID_LEN + 8, local_handle_hash(&out->lh));
	r = fsetxattr(fd, MARK_XATTR, b, sizeof b, 0);
	if (r && errno == EBADF)
		r = setxattr(fd_path(&path, fd), MARK_XATTR, b, sizeof b, 0);
	if (r)
		r = errno == EPERM && (S_ISREG(st.st_mode) || S_ISDIR(st.st_mode)) ? set_lifted(fd_path(&path, fd), b, sizeof b) : -errno;
	if (r)
		return r;
	out->id = id;
	out->ino = st.st_ino;
	return 0;
}

int mark_get(struct handles *h, int fd, uint64_t *id, struct local_handle *lh)
{
	unsigned char b[256];
	unsigned char uuid[UUID_LEN];
	struct local_handle own = { 0 };
	struct fd_path path;

	ssize_t n = fgetxattr(fd, MARK_XATTR, b, sizeof b);
	if (n < 0 && errno == EBADF)
		n = getxattr(fd_path(&path, fd), MARK_XATTR, b, sizeof b);
	if (n < 0)
		return errno == EOPNOTSUPP ? -ENODATA : errno == ERANGE ? -EXDEV : -errno;
	struct dec d = dec_init(b, (size_t)n);
	uint8_t version = dec_u8(&d);
	dec_raw(&d, uuid, sizeof uuid);
	uint64_t found = dec_u64(&d);
	uint64_t hash = dec_u64(&d);
	if (dec_end(&d) || version != MARK_VERSION || memcmp(uuid, h->cfg.uuid, UUID_LEN) != 0)
		return -EXDEV;
	int r = local_handle_of(fd, lh ? lh : &own);
	if (r)
		return r;
	if (hash != local_handle_hash(lh ? lh : &own) || !id_valid(found))
		return -ESTALE;
	*id = found;
	return 0;
}

int mark_remove(int fd)
{
	struct fd_path path;

	int r = fremovexattr(fd, MARK_XATTR);
	if (r && errno == EBADF)
		r = removexattr(fd_path(&path, fd), MARK_XATTR);
	if (r)
		return errno == ENODATA ? 0 : -errno;
	return 0;
}
