/*
 * What is compared: one digest over all xattrs of an object, one sum per block of a file.
 *
 * The digest runs over (name length, name, value length, value) in the order of the names, so that it doesn't depend on how a local file
 * system lists them. Left out: our own marks, and names under which a local file system shows something a second time (xfs lists ACLs as
 * trusted.SGI_ACL_* too).
 */
#include <errno.h>
#include <linux/fs.h>
#include <stdlib.h>
#include <string.h>
#include <xxhash.h>

#include "fs/base/cleanup.h"
#include "resync/resync_int.h"

static bool compared(const char *name)
{
	return !xattr_hidden(name) && strncmp(name, "trusted.SGI_ACL_", 16) != 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* All names, each with its NUL. No object has more than fit: it is the kernel's limit too. */
static ssize_t read_list(struct layer *l, struct call *c, uint64_t id, char **out)
{
	char *list = malloc(LAYER_XATTR_MAX + 1);

	if (!list)
		return -ENOMEM;
	ssize_t n = l->ops->listxattr(l, c, id, list, LAYER_XATTR_MAX);
	if (n <= 0) {
		free(list);
		return n;
	}
	list[n] = 0;
	*out = list;
	return n;
}

int resync_xattr_names(struct layer *l, struct call *c, uint64_t id, struct xattr_names *out)
{
	memset(out, 0, sizeof *out);
	ssize_t len = read_list(l, c, id, &out->names);
	if (len <= 0)
		return len == -EOPNOTSUPP ? 0 : (int)len;
	size_t n = 0;
	for (ssize_t i = 0; i < len; i += (ssize_t)strlen(out->names + i) + 1)
		n++;
	out->name = calloc(n, sizeof *out->name);
	if (!out->name) {
		resync_xattr_names_free(out);
		return -ENOMEM;
	}
	for (ssize_t i = 0; i < len; i += (ssize_t)strlen(out->names + i) + 1)
		if (compared(out->names + i))
			out->name[out->n++] = out->names + i;
	qsort(out->name, out->n, sizeof *out->name, by_name);
	return 0;
}

void resync_xattr_names_free(struct xattr_names *x)
{
	free(x->names);
	free(x->name);
	memset(x, 0, sizeof *x);
}

static void add_len(XXH3_state_t *h, size_t n)
{
	unsigned char b[4] = { (unsigned char)n, (unsigned char)(n >> 8), (unsigned char)(n >> 16), (unsigned char)(n >> 24) };

	XXH3_128bits_update(h, b, sizeof b);
}

static void canonical(XXH128_hash_t h, unsigned char out[RESYNC_SUM_LEN])
{
	XXH128_canonical_t k;

	XXH128_canonicalFromHash(&k, h);
	memcpy(out, k.digest, RESYNC_SUM_LEN);
}

static int add_xattr(XXH3_state_t *h, struct layer *l, struct call *c, uint64_t id, const char *name, void *value)
{
	ssize_t n = l->ops->getxattr(l, c, id, name, value, LAYER_XATTR_MAX);

	if (n == -ENODATA)
		return 0;
	if (n < 0)
		return (int)n;
	add_len(h, strlen(name));
	XXH3_128bits_update(h, name, strlen(name));
	add_len(h, (size_t)n);
	XXH3_128bits_update(h, value, (size_t)n);
	return 0;
}

int resync_xattr_digest(struct layer *l, struct call *c, uint64_t id, unsigned char out[RESYNC_SUM_LEN])
{
	auto_xattr_names struct xattr_names x;
	int err = resync_xattr_names(l, c, id, &x);

	if (err)
		return err;
	if (!x.n) {
		canonical(XXH3_128bits(NULL, 0), out);
		return 0;
	}
	auto_free void *value = malloc(LAYER_XATTR_MAX);
	XXH3_state_t *h = XXH3_createState();
	if (!value || !h) {
		XXH3_freeState(h);
		return -ENOMEM;
	}
	XXH3_128bits_reset(h);
	for (size_t i = 0; i < x.n && !err; i++)
		err = add_xattr(h, l, c, id, x.name[i], value);
	canonical(XXH3_128bits_digest(h), out);
	XXH3_freeState(h);
	return err;
}

int resync_flags(struct layer *l, struct call *c, uint64_t id, uint32_t mode, uint32_t *flags)
{
	*flags = 0;
	if (!S_ISREG(mode) && !S_ISDIR(mode))
		return 0;
	int err = l->ops->getflags(l, c, id, flags);
	*flags &= FS_APPEND_FL | FS_IMMUTABLE_FL | FS_NODUMP_FL | FS_NOATIME_FL | FS_SYNC_FL;
	return err == -ENOTTY || err == -EOPNOTSUPP || err == -ENOSYS ? 0 : err;
}

unsigned resync_sums(const void *p, size_t len, unsigned char out[RESYNC_CHUNK_BLOCKS * RESYNC_SUM_LEN])
{
	unsigned n = 0;

	for (size_t at = 0; at < len; at += RESYNC_BLOCK, n++) {
		size_t k = len - at < RESYNC_BLOCK ? len - at : RESYNC_BLOCK;
		canonical(XXH3_128bits((const char *)p + at, k), out + n * RESYNC_SUM_LEN);
	}
	return n;
}

ssize_t resync_read(struct layer *l, struct call *c, struct file *f, void *buf, size_t len, uint64_t off)
{
	size_t done = 0;

	while (done < len) {
		size_t want = len - done < LAYER_IO_MAX ? len - done : LAYER_IO_MAX;
		ssize_t n = l->ops->read(l, c, f, (char *)buf + done, want, off + done);
		if (n < 0)
			return n;
		if (!n)
			break;
		done += (size_t)n;
	}
	return (ssize_t)done;
}
