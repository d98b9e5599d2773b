/*
 * init: makes a directory a volume, or (--join) this machine another node of one.
 *
 * Order: everything that can be checked is checked first, and the peer is asked, before anything is written. Then: the state directory, the state
 * record and the root's mark (state_create), and, for a new volume, an id for every object that is in the tree already (adopt). When one of
 * these steps fails, what was made is removed again (undo): the state directory's files, the root's marks, .tandemfs. Marks that some objects have got by then stay:
 * they name a volume that doesn't exist, so that they mean nothing, and a new init replaces them.
 *
 * Adoption is a walk by id through the local layer, which gives an id to whatever it lists: directories wait in a stack of ids (8 bytes
 * each); hard links are met several times and get one id.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/key.h"
#include "fs/cmd/cmd.h"
#include "fs/cmd/volume.h"
#include "mirror/link.h"

enum { FUSE_MAGIC = 0x65735546, PROGRESS_MS = 1000 };

struct init {
	const struct volume_conf *c;
	struct state state;		/* as it will be written */
	uint64_t counters[NODE_MAX + 1];	/* --join: what the peer said */
	bool made_dir;			/* the state directory did not exist before */
	bool joins;
};

/* ---- checks ---- */

/* Does the directory hold anything but what a fresh file system has? */
static int check_empty(const struct volume_conf *c, int root_fd)
{
	auto_fd int fd = openat(root_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *e;
	int r = 0;

	if (!d)
		return cmd_fail("init: %s: %s", c->backing, strerror(errno));
	fd = -1;			/* D owns it */
	while (!r && (e = readdir(d)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && strcmp(e->d_name, "lost+found"))
			r = cmd_fail("init: %s is not empty: a joining node gets its data from its peer: move `%s' and whatever else is there away",
				     c->backing, e->d_name);
	closedir(d);
	return r;
}

/* Can objects of the file system be opened by handle? */
static int check_handles(const struct volume_conf *c, int root_fd, const char *fs_name)
{
	struct { struct file_handle h; unsigned char room[LOCAL_HANDLE_MAX]; } u = { .h = { .handle_bytes = LOCAL_HANDLE_MAX } };
	int mount_id;

	if (name_to_handle_at(root_fd, "", &u.h, &mount_id, AT_EMPTY_PATH))
		return cmd_fail("init: %s (%s): its file system has no file handles (%s): use ext4, xfs, btrfs or tmpfs", c->backing, fs_name, strerror(errno));
	auto_fd int fd = open_by_handle_at(root_fd, &u.h, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return cmd_fail("init: %s (%s): can't open by file handle (%s): run as root, outside of containers that forbid it", c->backing,
				fs_name, strerror(errno));
	return 0;
}

/* Does the file system take trusted xattrs? Asked by writing one, which is removed again. */
static int check_xattrs(const struct volume_conf *c, int root_fd, const char *fs_name)
{
	if (fsetxattr(root_fd, MARK_XATTR ".probe", "1", 1, 0))
		return cmd_fail("init: %s (%s): can't set trusted xattrs (%s): use ext4, xfs, btrfs or tmpfs, mounted read-write", c->backing, fs_name,
				strerror(errno));
	fremovexattr(root_fd, MARK_XATTR ".probe");
	return 0;
}

/* Whose is the directory? */
static int check_owner(const struct volume_conf *c, int root_fd)
{
	unsigned char uuid[UUID_LEN];
	unsigned node;
	char hex[2 * UUID_LEN + 1];

	int r = state_root_owner(root_fd, uuid, &node);
	if (r == -ENODATA)
		return 0;
	if (r)
		return cmd_fail("init: %s: its mark can't be read: %s", c->backing, strerror(-r));
	for (size_t i = 0; i < UUID_LEN; i++)
		snprintf(hex + 2 * i, 3, "%02x", uuid[i]);
	return cmd_fail("init: backing directory %s belongs to volume %s as its node %u already: nothing need be made; if that volume is gone for good, "
			"remove its marks with `setfattr -x trusted.tandemfs.volume %s' and the directory .tandemfs", c->backing, hex, node, c->backing);
}

static int check_state_dir(struct init *in)
{
	auto_fd int fd = open(in->c->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	in->made_dir = fd < 0 && errno == ENOENT;
	if (fd < 0 && errno != ENOENT)
		return cmd_fail("init: state directory %s: %s", in->c->state_dir, strerror(errno));
	if (fd >= 0 && !faccessat(fd, "state", F_OK, 0))
		return cmd_fail("init: %s holds the state of a volume already: nothing need be made; if that volume is gone for good, move the directory away",
				in->c->state_dir);
	return 0;
}

static int check_backing(struct init *in)
{
	const struct volume_conf *c = in->c;
	const char *fs_name = "unknown file system";
	struct statfs fs;

	auto_fd int root = open(c->backing, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (root < 0)
		return cmd_fail("init: backing directory %s: %s: create it first", c->backing, strerror(errno));
	if (fstatfs(root, &fs))
		return cmd_fail("init: %s: %s", c->backing, strerror(errno));
	if (fs.f_type == FUSE_MAGIC)
		return cmd_fail("init: %s is a mounted FUSE file system, perhaps this volume: unmount it first", c->backing);
	int r = volume_limits_of(root, &in->state.limits, &fs_name);
	if (r)
		return cmd_fail("init: %s: its file system (type 0x%lx) is none that was tried: use ext4, xfs, btrfs or tmpfs", c->backing, (unsigned long)fs.f_type);
	r = check_handles(c, root, fs_name);
	if (!r)
		r = check_owner(c, root);
	if (!r)
		r = check_xattrs(c, root, fs_name);
	if (!r && in->joins)
		r = check_empty(c, root);
	return r;
}

/* ---- asking the peer ---- */

static int make_security(const struct volume_conf *c, struct conn_security **out)
{
	static const unsigned char any[UUID_LEN];	/* who joins doesn't know the volume's UUID yet */
	unsigned char key[KEY_LEN];
	char err[CONF_ERR_MAX];

	bool tls = c->security == CONF_SECURITY_TLS;
	if (tls && key_read(c->key_file, key, err, sizeof err))
		return cmd_fail("init: %s", err);
	int r = conn_security_new(tls ? key : NULL, any, out);
	key_wipe(key);
	return r ? cmd_fail("init: %s", strerror(-r)) : 0;
}

static void take_answer(struct init *in, const struct joined_msg *j)
{
	struct state *s = &in->state;

	memcpy(s->uuid, j->uuid, UUID_LEN);
	s->generation = j->generation;
	memcpy(s->dir_key, j->dir_key, sizeof s->dir_key);
	memcpy(s->mac_key, j->mac_key, sizeof s->mac_key);
	volume_limits_intersect(&s->limits, &j->limits);
	memcpy(in->counters, j->counters, sizeof in->counters);
	s->inconsistent = true;			/* until its first comparison ends */
}

static int ask_peer(struct init *in, const char *name)
{
	const struct volume_conf *c = in->c;
	const struct conf_node *peer = conf_node_by_name(c, name);
	struct conn_security *sec;

	if (make_security(c, &sec))
		return EXIT_FAILED;
	struct hello h = { .kind = HELLO_JOIN, .version_min = FRAME_VERSION, .version_max = FRAME_VERSION, .node = (uint8_t)c->self,
			   .instance = state_random(), .limits = in->state.limits };
	struct join_msg j = { .node = (uint8_t)c->self, .limits = in->state.limits };
	auto_free struct joined_msg *answer = calloc(1, sizeof *answer);
	int r = answer ? link_join(sec, peer->address, &h, &j, answer) : -ENOMEM;
	conn_security_free(sec);
	if (r)
		return cmd_fail("init: node %s at %s: %s: is the volume mounted there, and is the key the same (`tandemfs key %s')?", name, peer->address,
				strerror(-r), c->name);
	if (answer->err)
		return cmd_fail("init: node %s refused: %s", name, answer->reason);
	take_answer(in, answer);
	return 0;
}

/* ---- adoption ---- */

struct walk {
	struct layer *local;
	uint64_t *stack;		/* owned; directories that wait */
	size_t n, cap;
	uint64_t objects, told_ms;
	int err;
};

static int push_dir(struct walk *w, uint64_t id)
{
	if (w->n == w->cap) {
		size_t cap = w->cap ? 2 * w->cap : 1024;
		uint64_t *p = reallocarray(w->stack, cap, sizeof *p);
		if (!p)
			return -ENOMEM;
		w->stack = p;
		w->cap = cap;
	}
	w->stack[w->n++] = id;
	return 0;
}

static int on_entry(void *arg, const struct dirent_info *e)
{
	struct walk *w = arg;

	if (!strcmp(e->name, ".") || !strcmp(e->name, ".."))
		return 0;
	w->objects++;
	if (S_ISDIR(e->type))
		w->err = push_dir(w, e->id);
	return w->err;
}

static void progress(struct walk *w, bool last)
{
	uint64_t now = clock_mono_ms();

	if (!last && now - w->told_ms < PROGRESS_MS)
		return;
	if (isatty(STDOUT_FILENO))
		printf("\radopted %" PRIu64 " names, %zu directories to go   %s", w->objects, w->n, last ? "\n" : "");
	else if (last && w->objects)
		printf("adopted %" PRIu64 " names\n", w->objects);
	fflush(stdout);
	w->told_ms = now;
}

static int adopt_dir(struct walk *w, uint64_t id)
{
	struct call c = { .origin = ORIGIN_INTERNAL };
	struct dir *d;

	int r = w->local->ops->opendir(w->local, &c, id, &d);
	if (r)
		return r;
	r = w->local->ops->readdir(w->local, &c, d, 0, on_entry, w);
	w->local->ops->releasedir(w->local, &c, d);
	return w->err ? w->err : r;
}

static int adopt_all(struct layer *local, uint64_t *objects)
{
	struct walk w = { .local = local, .told_ms = clock_mono_ms() };

	int r = push_dir(&w, HANDLE_ROOT);
	while (!r && w.n) {
		r = adopt_dir(&w, w.stack[--w.n]);
		progress(&w, false);
	}
	if (!r)
		progress(&w, true);
	free(w.stack);
	*objects = w.objects;
	return r;
}

/* Opens the new volume as a daemon would, and gives ids to all that is there; or notes what the peer said of ids. */
static int fill(struct init *in)
{
	struct volume v;
	char err[CONF_ERR_MAX];
	uint64_t objects = 0;

	int r = volume_open(in->c, NULL, &v, err, sizeof err);
	if (r) {
		cmd_fail("init: %s", err);
		return r;
	}
	r = in->joins ? ids_learn(v.handles, in->counters) : adopt_all(v.local, &objects);
	if (!r)
		r = handles_checkpoint(v.handles);
	if (r)
		cmd_fail("init: %s: adopting the tree failed after %" PRIu64 " names: %s: nothing was made", in->c->backing, objects, strerror(-r));
	volume_close(&v);
	return r;
}

/* ---- making it ---- */

/* Empties directory DIR_FD; what it holds is two levels deep at most. */
static void remove_files(int dir_fd, int depth)
{
	auto_fd int fd = openat(dir_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
	struct dirent *e;

	if (!d)
		return;
	fd = -1;
	while ((e = readdir(d))) {
		if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..") || !unlinkat(dirfd(d), e->d_name, 0) || depth == 0)
			continue;
		auto_fd int sub = openat(dirfd(d), e->d_name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
		if (sub >= 0)
			remove_files(sub, depth - 1);
		unlinkat(dirfd(d), e->d_name, AT_REMOVEDIR);
	}
	closedir(d);
}

static void undo(const struct init *in)
{
	auto_fd int root = open(in->c->backing, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	auto_fd int state = open(in->c->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (root >= 0) {
		static const char *const dirs[] = { HIDDEN_DIR "/limbo", HIDDEN_DIR "/lost", HIDDEN_DIR };
		for (size_t i = 0; i < ARRAY_LEN(dirs); i++)
			unlinkat(root, dirs[i], AT_REMOVEDIR);
		char names[4096];
		ssize_t len = flistxattr(root, names, sizeof names);
		for (ssize_t i = 0; i < len; i += (ssize_t)strlen(names + i) + 1)
			if (xattr_hidden(names + i))
				fremovexattr(root, names + i);
	}
	if (state >= 0 && in->made_dir) {
		remove_files(state, 2);
		rmdir(in->c->state_dir);
	} else if (state >= 0) {
		unlinkat(state, "state", 0);
	}
}

static int make(struct init *in)
{
	struct volume dirs;
	char err[CONF_ERR_MAX];

	int r = volume_open_dirs(in->c, true, &dirs, err, sizeof err);
	if (r) {
		volume_close(&dirs);
		if (in->made_dir)
			rmdir(in->c->state_dir);
		return cmd_fail("init: %s", err);
	}
	r = state_create(dirs.state_fd, dirs.root_fd, &in->state);
	volume_close(&dirs);
	if (r == -EEXIST)		/* somebody else was quicker: what is there is theirs */
		return cmd_fail("init: %s or %s belongs to a volume already", in->c->state_dir, in->c->backing);
	if (r)
		cmd_fail("init: %s: %s", in->c->state_dir, strerror(-r));
	else
		r = fill(in);
	if (r)
		undo(in);
	return r ? EXIT_FAILED : EXIT_OK;
}

int cmd_init(const struct cmd_line *l, const struct volume_conf *c)
{
	const char *peer = cmd_option(l, "join");
	struct init in = { .c = c, .joins = peer, .state = { .node = (uint8_t)c->self } };
	char err[CONF_ERR_MAX];

	const struct conf_node *other = peer ? conf_node_by_name(c, peer) : NULL;
	if (peer && (!other || other->number == c->self))
		return cmd_fail("init: --join %s: there is no other node of that name in %s: name one of its [node] sections", peer, c->file);
	if (volume_check_caps(err, sizeof err))
		return cmd_fail("init: %s", err);
	int r = check_state_dir(&in);
	if (!r)
		r = check_backing(&in);
	if (!r && peer)
		r = ask_peer(&in, peer);
	if (!r)
		r = make(&in);
	if (r)
		return r;
	if (peer)
		printf("%s: node %s joined: `tandemfs mount %s' begins to fetch the data\n", c->name, c->node, c->name);
	else
		printf("%s: made on node %s: `tandemfs mount %s', then `tandemfs promote %s'\n", c->name, c->node, c->name, c->name);
	return EXIT_OK;
}
