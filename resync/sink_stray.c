/*
 * What is below a directory of the standby without being part of the volume:
 *
 *   strays   objects without a valid mark, which the local layer hides (put there by hand, or by a crash between a creation and its mark).
 *            They would be adopted when this node is promoted, so they go to .tandemfs/lost/strays/. Found by counting: only where
 *            there are more names than the local layer shows is each looked at
 *   links    names, within a tree that is about to be kept in lost/, of files that have other names too: taken away, since the tree loses its marks
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/log.h"
#include "resync/sink_int.h"

enum { STRAY_TRIES = 10000 };

static bool skipped(uint64_t dir, const char *name)
{
	if (!strcmp(name, ".") || !strcmp(name, ".."))
		return true;
	return dir == HANDLE_ROOT && (!strcmp(name, HIDDEN_DIR) || !strcmp(name, "lost+found"));
}

static int open_subdir(int at, const char *name)
{
	if (mkdirat(at, name, 0700) < 0 && errno != EEXIST)
		return -errno;
	int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int open_strays(struct resync_sink *s)
{
	auto_fd int root = local_open_fd(s->cfg.bottom, HANDLE_ROOT, O_RDONLY | O_DIRECTORY);
	if (root < 0)
		return root;
	auto_fd int hidden = open_subdir(root, HIDDEN_DIR);
	if (hidden < 0)
		return hidden;
	auto_fd int lost = open_subdir(hidden, "lost");
	return lost < 0 ? lost : open_subdir(lost, "strays");
}

static int move_stray(struct resync_sink *s, int dirfd, const char *name)
{
	char to[300];
	auto_fd int strays = open_strays(s);
	if (strays < 0)
		return strays;
	auto_fd int fd = openat(dirfd, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd >= 0)
		mark_remove(fd);
	for (unsigned i = 0; i < STRAY_TRIES; i++) {
		snprintf(to, sizeof to, i ? "%.240s.%u" : "%.240s", name, i);
		if (!renameat2(dirfd, name, strays, to, RENAME_NOREPLACE)) {
			log_warn("resync: stray %s: is not part of the volume: moved to %s/lost/strays/%s", name, HIDDEN_DIR, to);
			s->changed = true;
			return 0;
		}
		if (errno != EEXIST)
			return -errno;
	}
	return -EEXIST;
}

static int count_shown(void *arg, const struct dirent_info *d)
{
	*(size_t *)arg += strcmp(d->name, ".") != 0 && strcmp(d->name, "..") != 0;
	return 0;
}

static int shown(struct resync_sink *s, uint64_t id, size_t *n)
{
	struct call c = sink_call((struct timespec){ 0 });
	struct dir *d;
	int err = s->cfg.bottom->ops->opendir(s->cfg.bottom, &c, id, &d);

	*n = 0;
	if (err)
		return err;
	err = s->cfg.bottom->ops->readdir(s->cfg.bottom, &c, d, 0, count_shown, n);
	s->cfg.bottom->ops->releasedir(s->cfg.bottom, &c, d);
	return err < 0 ? err : 0;
}

static int look_at(struct resync_sink *s, uint64_t id, DIR *d)
{
	struct dirent *e;
	uint64_t child;
	uint32_t type;
	int err = 0;

	rewinddir(d);
	while (!err && (e = readdir(d)))
		if (!skipped(id, e->d_name) && s->cfg.bottom->ops->resolve(s->cfg.bottom, id, e->d_name, &child, &type) == -ENOENT)
			err = move_stray(s, dirfd(d), e->d_name);
	return err == -ENOENT ? 0 : err;
}

int sink_strays(struct resync_sink *s, uint64_t id)
{
	size_t raw = 0, mine;
	struct dirent *e;
	int fd = local_open_fd(s->cfg.bottom, id, O_RDONLY | O_DIRECTORY);

	if (fd < 0)
		return fd;
	DIR *d = fdopendir(fd);
	if (!d) {
		close(fd);
		return -ENOMEM;
	}
	while ((e = readdir(d)))
		raw += !skipped(id, e->d_name);
	int err = shown(s, id, &mine);
	if (!err && raw > mine)
		err = look_at(s, id, d);
	closedir(d);
	return err;
}

/* ---- links ---- */

struct todo { uint64_t *id; size_t n, cap; };

static int todo_push(struct todo *t, uint64_t id)
{
	if (t->n == t->cap) {
		size_t cap = t->cap ? t->cap * 2 : 64;
		uint64_t *p = realloc(t->id, cap * sizeof *p);
		if (!p)
			return -ENOMEM;
		t->id = p;
		t->cap = cap;
	}
	t->id[t->n++] = id;
	return 0;
}

struct linked { struct resync_sink *s; struct todo *dirs; uint64_t id; char name[256]; };

/* Sub-directories are noted; stops at a file with other names. */
static int find_linked(void *arg, const struct dirent_info *d)
{
	struct linked *k = arg;
	struct attr a;

	if (!strcmp(d->name, ".") || !strcmp(d->name, ".."))
		return 0;
	if (S_ISDIR(d->type))
		return k->dirs ? todo_push(k->dirs, d->id) : 0;
	if (sink_known(k->s, d->id, &a) || a.nlink < 2)
		return 0;
	k->id = d->id;
	snprintf(k->name, sizeof k->name, "%s", d->name);
	return 1;
}

static int unlink_linked(struct resync_sink *s, uint64_t dir, struct todo *dirs)
{
	for (;;) {
		struct call c = sink_call((struct timespec){ 0 });
		struct linked k = { .s = s, .dirs = dirs };
		struct dir *d;
		size_t had = dirs->n;
		int err = s->cfg.bottom->ops->opendir(s->cfg.bottom, &c, dir, &d);
		if (err)
			return err;
		err = s->cfg.bottom->ops->readdir(s->cfg.bottom, &c, d, 0, find_linked, &k);
		s->cfg.bottom->ops->releasedir(s->cfg.bottom, &c, d);
		if (err < 0 || !k.id)
			return err < 0 ? err : 0;
		dirs->n = had;	/* read again from the start */
		err = sink_evict(s, dir, k.name, k.id);
		if (err)
			return err;
	}
}

int sink_unlink_shared(struct resync_sink *s, uint64_t root)
{
	struct todo t = { 0 };
	int err = todo_push(&t, root);

	while (!err && t.n)
		err = unlink_linked(s, t.id[--t.n], &t);
	free(t.id);
	return err;
}
