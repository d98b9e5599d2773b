/*
 * fhandle - file handles as a process sees them that never looked up the path.
 *
 *   fhandle get PATH...            the handle of each: HEX (type, then bytes)
 *   fhandle dump DIR               every object below: HEX INO MODE SIZE HASH PATH, one a line
 *   fhandle verify MOUNT           reads such lines, opens each handle under MOUNT and compares; status 1 when one differs
 *   fhandle open MOUNT HEX...      opens each; prints INO MODE SIZE or the errno's name
 *
 * HASH is of what the object says: a file's bytes, a symlink's target, a directory's names. verify prints what is wrong.
 * Opening for reading proves more than O_PATH: so it does that with files and directories.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/tools/tool.h"

union any_handle { struct file_handle h; unsigned char room[sizeof(struct file_handle) + MAX_HANDLE_SZ]; };

static unsigned char *handle_bytes(union any_handle *a)
{
	return a->room + offsetof(struct file_handle, f_handle);
}

static uint64_t mix(uint64_t h, const void *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		h = (h ^ ((const unsigned char *)p)[i]) * 1099511628211ull;
	return h;
}

static bool get_handle(int dirfd, const char *path, union any_handle *a, int flags)
{
	int mount_id;

	a->h.handle_bytes = MAX_HANDLE_SZ;
	return !name_to_handle_at(dirfd, path, &a->h, &mount_id, flags);
}

static void to_hex(union any_handle *a, char *hex)
{
	int n = sprintf(hex, "%02x:", (unsigned)a->h.handle_type & 0xff);

	for (unsigned i = 0; i < a->h.handle_bytes; i++)
		n += sprintf(hex + n, "%02x", handle_bytes(a)[i]);
}

static bool from_hex(const char *hex, union any_handle *a)
{
	unsigned type, byte, n = 0;
	int used = 0;

	if (sscanf(hex, "%2x:%n", &type, &used) != 1 || !used)
		return false;
	for (hex += used; n < MAX_HANDLE_SZ && sscanf(hex, "%2x", &byte) == 1; hex += 2)
		handle_bytes(a)[n++] = (unsigned char)byte;
	a->h.handle_type = (int)type;
	a->h.handle_bytes = n;
	return n > 0;
}

static uint64_t hash_names(int fd)
{
	DIR *d = fdopendir(dup(fd));
	uint64_t sum = 0;
	struct dirent *e;

	if (!d)
		die("fdopendir");
	rewinddir(d);
	while ((e = readdir(d)))	/* in no order: the sum of the names' hashes */
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			sum += mix(14695981039346656037ull, e->d_name, strlen(e->d_name));
	closedir(d);
	return sum;
}

/* FD is open for reading for files and directories, O_PATH otherwise. */
static uint64_t hash_object(int fd, const struct stat *st)
{
	static char buf[1 << 16];
	uint64_t h = 14695981039346656037ull;
	ssize_t n;

	if (S_ISDIR(st->st_mode))
		return hash_names(fd);
	if (S_ISLNK(st->st_mode)) {
		n = readlinkat(fd, "", buf, sizeof buf);
		return n < 0 ? 0 : mix(h, buf, (size_t)n);
	}
	for (off_t at = 0; S_ISREG(st->st_mode) && (n = pread(fd, buf, sizeof buf, at)) > 0; at += n)
		h = mix(h, buf, (size_t)n);
	return h;
}

static void dump(int dirfd, const char *name, const char *path)
{
	union any_handle a;
	struct stat st;
	char hex[2 * MAX_HANDLE_SZ + 8];

	if (fstatat(dirfd, name, &st, AT_SYMLINK_NOFOLLOW) || !get_handle(dirfd, name, &a, 0))
		die("%s: handle", path);
	bool opened = S_ISREG(st.st_mode) || S_ISDIR(st.st_mode);
	int fd = openat(dirfd, name, O_CLOEXEC | O_NOFOLLOW | (opened ? O_RDONLY : O_PATH));

	if (fd < 0)
		die("%s: open", path);
	to_hex(&a, hex);
	printf("%s %ju %o %jd %jx %s\n", hex, (uintmax_t)st.st_ino, st.st_mode, S_ISDIR(st.st_mode) ? 0 : (intmax_t)st.st_size,
	       (uintmax_t)hash_object(fd, &st), path);
	if (S_ISDIR(st.st_mode)) {
		DIR *d = fdopendir(fd);
		struct dirent *e;

		if (d)
			rewinddir(d);
		while (d && (e = readdir(d))) {
			char *sub = xasprintf("%s/%s", path, e->d_name);

			if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && strcmp(sub, "./lost+found"))
				dump(fd, e->d_name, sub);
			free(sub);
		}
		closedir(d);
		return;
	}
	close(fd);
}

/* Opens by handle: first O_PATH to learn the type, then for reading. -errno. */
static int open_any(int mount, union any_handle *a, struct stat *st)
{
	int fd = open_by_handle_at(mount, &a->h, O_PATH | O_CLOEXEC), rd;

	if (fd < 0)
		return -errno;
	if (fstat(fd, st)) {
		rd = -errno;
		close(fd);
		return rd;
	}
	if (!S_ISREG(st->st_mode) && !S_ISDIR(st->st_mode))
		return fd;
	rd = open_by_handle_at(mount, &a->h, O_RDONLY | O_CLOEXEC);
	if (rd < 0)
		rd = -errno;
	close(fd);
	return rd;
}

static bool verify_line(int mount, const char *line)
{
	char hex[2 * MAX_HANDLE_SZ + 8];
	uintmax_t ino, hash;
	intmax_t size;
	unsigned mode;
	int used = 0;
	union any_handle a;
	struct stat st;

	if (sscanf(line, "%263s %ju %o %jd %jx %n", hex, &ino, &mode, &size, &hash, &used) != 5 || !from_hex(hex, &a))
		return fprintf(stderr, "fhandle: not a line of dump: %s\n", line), exit(2), false;
	int fd = open_any(mount, &a, &st);

	if (fd < 0)
		return printf("%s: %s\n", line + used, strerrorname_np(-fd)), false;
	uintmax_t now = hash_object(fd, &st);
	intmax_t len = S_ISDIR(st.st_mode) ? 0 : (intmax_t)st.st_size;
	bool same = st.st_ino == ino && st.st_mode == mode && len == size && now == hash;

	if (!same)
		printf("%s: ino %ju mode %o size %jd hash %jx, was %ju %o %jd %jx\n", line + used, (uintmax_t)st.st_ino, st.st_mode, len, now,
		       ino, mode, size, hash);
	close(fd);
	return same;
}

static int verify(int mount)
{
	char *line = NULL;
	size_t cap = 0;
	ssize_t n;
	unsigned long lines = 0, bad = 0;

	while ((n = getline(&line, &cap, stdin)) > 0) {
		if (line[n - 1] == '\n')
			line[n - 1] = 0;
		lines++;
		bad += !verify_line(mount, line);
	}
	fprintf(stderr, "fhandle: %lu handles, %lu wrong\n", lines, bad);
	return bad || !lines ? 1 : 0;
}

static void open_hex(int mount, const char *hex)
{
	union any_handle a;
	struct stat st;

	if (!from_hex(hex, &a)) {
		fprintf(stderr, "fhandle: not a handle: %s\n", hex);
		exit(2);
	}
	int fd = open_any(mount, &a, &st);

	if (fd < 0)
		puts(strerrorname_np(-fd));
	else
		printf("%ju %o %jd\n", (uintmax_t)st.st_ino, st.st_mode, (intmax_t)st.st_size);
	if (fd >= 0)
		close(fd);
}

int main(int argc, char **argv)
{
	union any_handle a;
	char hex[2 * MAX_HANDLE_SZ + 8];

	if (argc < 3)
		return fputs("usage: fhandle get PATH... | dump DIR | verify MOUNT | open MOUNT HEX...\n", stderr), 2;
	if (!strcmp(argv[1], "get")) {
		for (int i = 2; i < argc; i++) {
			if (!get_handle(AT_FDCWD, argv[i], &a, 0))
				die("%s", argv[i]);
			to_hex(&a, hex);
			puts(hex);
		}
		return 0;
	}
	int fd = open(argv[2], O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		die("%s", argv[2]);
	if (!strcmp(argv[1], "dump"))
		return dump(fd, ".", "."), 0;
	if (!strcmp(argv[1], "verify"))
		return verify(fd);
	for (int i = 3; i < argc; i++)
		open_hex(fd, argv[i]);
	return 0;
}
