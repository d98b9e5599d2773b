/*
 * handle: what an object of the volume is called in which language. PATH, ID and BYTES name the same thing:
 *   PATH   what begins with '/' or '.', inside the mount
 *   ID     decimal, as st_ino shows it
 *   BYTES  TYPE:HEX, as name_to_handle_at(2) gives them and NFS servers export them: here 0x81:, the id's two halves and the
 *          generation in host byte order
 * The path comes from the daemon, which alone knows where an id is; the bytes come from the kernel, so that they are what is exported.
 */
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "fs/base/cleanup.h"
#include "fs/cmd/cmd.h"
#include "fs/cmd/control.h"

enum { HANDLE_TIMEOUT_MS = 30000, FUSE_MAGIC = 0x65735546, FUSE_HANDLE_TYPE = 0x81, FUSE_HANDLE_LEN = 12 };

struct named { uint64_t id; char path[4096]; };

/* The id of PATH, which must lie inside the mount. */
static int from_path(const struct volume_conf *c, const char *path, struct named *n)
{
	struct stat st, root;
	struct statfs fs;

	if (lstat(path, &st))
		return cmd_fail("handle: %s: %s", path, strerror(errno));
	if (stat(c->mount_point, &root) || statfs(c->mount_point, &fs) || fs.f_type != FUSE_MAGIC)
		return cmd_fail("handle: %s is not mounted: start the volume with `tandemfs mount %s'", c->mount_point, c->name);
	if (st.st_dev != root.st_dev)
		return cmd_fail("handle: %s lies outside the volume, which is mounted at %s", path, c->mount_point);
	n->id = st.st_ino;
	snprintf(n->path, sizeof n->path, "%s", path);
	return 0;
}

/* PATH: from the volume's root, with or without a slash before it. */
static void join_path(const char *mount_point, const char *path, struct named *n)
{
	path += strspn(path, "/");
	snprintf(n->path, sizeof n->path, "%s%s%s", mount_point, *path ? "/" : "", path);
}

/* The path of n->id, from the daemon; "" when it has none. */
static int ask_path(const struct volume_conf *c, struct named *n)
{
	char id[24];
	json_t *res = NULL;
	int r = 0;

	snprintf(id, sizeof id, "%" PRIu64, n->id);
	int err = control_call(c->control_socket, json_pack("{s:s,s:s}", "cmd", "handle", "id", id), HANDLE_TIMEOUT_MS, false, &res);
	const char *path = json_string_value(json_object_get(res, "path"));
	const char *error = json_string_value(json_object_get(res, "error"));
	if (err)
		r = cmd_fail("handle: no daemon of volume %s answers at %s: %s", c->name, c->control_socket, strerror(-err));
	else if (!json_is_true(json_object_get(res, "ok")))
		r = cmd_fail("handle: %s: %s", id, error ? error : "unknown id");
	else if (path)
		join_path(c->mount_point, path, n);
	else
		n->path[0] = 0;
	json_decref(res);
	return r;
}

static int from_bytes(const char *text, uint64_t *id)
{
	unsigned char b[FUSE_HANDLE_LEN];
	uint32_t half[2];

	char *end;
	unsigned long type = strtoul(text, &end, 16);
	if (type != FUSE_HANDLE_TYPE || *end != ':' || strlen(end + 1) != 2 * sizeof b)
		return -EINVAL;
	for (size_t i = 0; i < sizeof b; i++) {
		char two[3] = { end[1 + 2 * i], end[2 + 2 * i], 0 };
		if (!isxdigit((unsigned char)two[0]) || !isxdigit((unsigned char)two[1]))
			return -EINVAL;
		b[i] = (unsigned char)strtoul(two, NULL, 16);
	}
	memcpy(half, b, sizeof half);
	*id = (uint64_t)half[0] << 32 | half[1];
	return 0;
}

static int print_bytes(const char *path)
{
	union { struct file_handle h; unsigned char room[sizeof(struct file_handle) + MAX_HANDLE_SZ]; } u;
	int mount_id;

	u.h.handle_bytes = MAX_HANDLE_SZ;
	if (name_to_handle_at(AT_FDCWD, path, &u.h, &mount_id, 0))
		return cmd_fail("handle: %s: name_to_handle_at: %s", path, strerror(errno));
	printf("bytes 0x%x:", (unsigned)u.h.handle_type);
	for (unsigned i = 0; i < u.h.handle_bytes; i++)
		printf("%02x", u.h.f_handle[i]);
	putchar('\n');
	return EXIT_OK;
}

int cmd_handle(const struct cmd_line *l, const struct volume_conf *c)
{
	const char *what = l->argv[1];
	struct named n = { 0 };
	int r;

	if (*what == '/' || *what == '.') {
		r = from_path(c, what, &n);
	} else if (strchr(what, ':')) {
		r = from_bytes(what, &n.id) ? cmd_fail("handle: `%s' is no handle of a mounted volume: 0x81: and %d hexadecimal digits are wanted", what,
						       2 * FUSE_HANDLE_LEN) : ask_path(c, &n);
	} else {
		char *end;
		errno = 0;
		n.id = strtoull(what, &end, 10);
		r = !isdigit((unsigned char)*what) || *end || errno ?
			cmd_fail("handle: `%s' is neither a path (begin it with / or .) nor an id nor bytes", what) : ask_path(c, &n);
	}
	if (r)
		return r;
	printf("id %" PRIu64 "\n", n.id);
	if (!n.path[0]) {
		puts("path -");
		return EXIT_OK;
	}
	printf("path %s\n", n.path);
	return print_bytes(n.path);
}
