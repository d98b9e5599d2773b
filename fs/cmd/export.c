/*
 * export: the configuration of another NFS server for this volume (nfsd-glue/foreign.h): printed, or with --write put where that server reads it, with the
 * directories that it needs on the volume.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/cmd/cmd.h"
#include "fs/cmd/control.h"
#include "nfsd-glue/foreign.h"

enum { STATUS_TIMEOUT_MS = 30000 };

static int hex(int c) { return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1; }

static int parse_uuid(const char *s, unsigned char out[UUID_LEN])
{
	for (unsigned i = 0; i < UUID_LEN; i++) {
		s += *s == '-';
		int high = hex(s[0]), low = high < 0 ? -1 : hex(s[1]);
		if (low < 0)
			return -EPROTO;
		out[i] = (unsigned char)(high << 4 | low);
		s += 2;
	}
	return *s ? -EPROTO : 0;
}

/* The volume's UUID and this node's role, from the daemon. */
static int ask(const struct volume_conf *c, unsigned char uuid[UUID_LEN], bool *primary)
{
	json_t *res = NULL;

	int r = control_call(c->control_socket, json_pack("{s:s}", "cmd", "status"), STATUS_TIMEOUT_MS, false, &res);
	if (r)
		return cmd_fail("export: no daemon of volume %s answers at %s: start it with `tandemfs mount %s'", c->name, c->control_socket, c->name);
	json_t *st = json_object_get(res, "status");
	const char *u = json_string_value(json_object_get(st, "uuid")), *role = json_string_value(json_object_get(st, "role"));
	r = u && role ? parse_uuid(u, uuid) : -EPROTO;
	*primary = role && !strcmp(role, "primary");
	json_decref(res);
	return r ? cmd_fail("export: the daemon answers nothing that this command understands: are both of one version?") : EXIT_OK;
}

static void print_all(const struct foreign *f)
{
	struct foreign_file files[FOREIGN_FILES_MAX];
	unsigned n = foreign_files(f, files);

	for (unsigned i = 0; i < n; i++) {
		printf("%s# ---- %s\n", i ? "\n" : "", files[i].path);
		files[i].print(f, stdout);
	}
	putchar('\n');
	foreign_print_steps(f, stdout);
}

/* The whole file or nothing: written beside, then renamed. */
static int write_file(const struct foreign *f, const struct foreign_file *file)
{
	char tmp[sizeof file->path + 8], dir[sizeof file->path];

	snprintf(dir, sizeof dir, "%.*s", (int)(strrchr(file->path, '/') - file->path), file->path);
	if (mkdir(dir, 0755) && errno != EEXIST)
		return cmd_fail("export: %s: %s", dir, strerror(errno));
	snprintf(tmp, sizeof tmp, "%s.XXXXXX", file->path);
	auto_fd int fd = mkstemp(tmp);
	FILE *out = fd < 0 ? NULL : fdopen(dup(fd), "w");
	if (!out)
		return cmd_fail("export: %s: %s", tmp, strerror(errno));
	file->print(f, out);
	bool bad = ferror(out) || fflush(out) || fsync(fd) || fchmod(fd, (mode_t)file->mode);
	bad = fclose(out) || bad || rename(tmp, file->path);
	if (bad) {
		unlink(tmp);
		return cmd_fail("export: %s can't be written: %s", file->path, strerror(errno));
	}
	printf("written: %s\n", file->path);
	return EXIT_OK;
}

/* Who may write on the volume could have put a symlink there, to have the server's state elsewhere. */
static bool is_roots_directory(const char *path)
{
	struct stat st;

	return !lstat(path, &st) && S_ISDIR(st.st_mode) && !st.st_uid && !(st.st_mode & (S_IWGRP | S_IWOTH));
}

/* The directories on the volume; on a standby they are there when they are on the primary. */
static int make_dirs(const struct foreign *f, bool primary)
{
	char path[2 * CONF_VALUE_MAX];

	for (const char *const *d = foreign_dirs(f); *d; d++) {
		snprintf(path, sizeof path, "%s/%s", f->conf->mount_point, *d);
		if (!primary && access(path, F_OK))
			return cmd_fail("export: %s is missing on the volume: run this on the primary first", path);
		if (primary && mkdir(path, 0700) && errno != EEXIST)
			return cmd_fail("export: %s: %s", path, strerror(errno));
		if (!is_roots_directory(path))
			return cmd_fail("export: %s is not a directory of root's: somebody else made it: look at it, and remove it", path);
	}
	return EXIT_OK;
}

static int write_all(const struct foreign *f, bool primary)
{
	struct foreign_file files[FOREIGN_FILES_MAX];
	unsigned n = foreign_files(f, files);
	int r = make_dirs(f, primary);

	for (unsigned i = 0; !r && i < n; i++)
		r = write_file(f, &files[i]);
	if (!r)
		foreign_print_steps(f, stdout);
	return r;
}

int cmd_export(const struct cmd_line *l, const struct volume_conf *c)
{
	bool knfsd = cmd_option(l, "knfsd"), ganesha = cmd_option(l, "ganesha"), primary = false;
	struct foreign f = { .server = ganesha ? FOREIGN_GANESHA : FOREIGN_KNFSD, .conf = c, .v4root = cmd_option(l, "root") };
	char why[CONF_ERR_MAX];

	if (knfsd == ganesha)
		return cmd_fail("export: for which server? --knfsd or --ganesha"), EXIT_USAGE;
	if (f.v4root && !knfsd)
		return cmd_fail("export: --root is for --knfsd only"), EXIT_USAGE;
	if (foreign_check(&f, why, sizeof why))
		return cmd_fail("export: %s", why);
	int r = ask(c, f.uuid, &primary);
	if (r)
		return r;
	if (cmd_option(l, "write"))
		return write_all(&f, primary);
	print_all(&f);
	return EXIT_OK;
}
