#include "fs/cmd/volume.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "fs/base/cleanup.h"

static int fail(int err, char *out, size_t len, const char *fmt, ...) __attribute__((format(printf, 4, 5)));
static int fail(int err, char *out, size_t len, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(out, len, fmt, ap);
	va_end(ap);
	return err;
}

int volume_check_caps(char *err, size_t errlen)
{
	static const struct { int cap; const char *name; } need[] = {
		{ CAP_SYS_ADMIN, "CAP_SYS_ADMIN" }, { CAP_DAC_READ_SEARCH, "CAP_DAC_READ_SEARCH" }, { CAP_DAC_OVERRIDE, "CAP_DAC_OVERRIDE" },
		{ CAP_CHOWN, "CAP_CHOWN" }, { CAP_FOWNER, "CAP_FOWNER" }, { CAP_FSETID, "CAP_FSETID" }, { CAP_MKNOD, "CAP_MKNOD" },
	};
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[2] = { { 0, 0, 0 } };

	if (syscall(SYS_capget, &h, d))
		return fail(-errno, err, errlen, "can't read this process's capabilities: %s", strerror(errno));
	for (size_t i = 0; i < ARRAY_LEN(need); i++)
		if (!(d[need[i].cap / 32].effective & 1u << need[i].cap % 32))
			return fail(-EPERM, err, errlen, "%s is missing: run as root (in a container: grant it)", need[i].name);
	return 0;
}

/* (stat() may still be answered, from the kernel's cache.) */
bool volume_clear_dead_mount(const char *path)
{
	struct statfs st;
	return statfs(path, &st) && errno == ENOTCONN && !umount2(path, MNT_DETACH);
}

static int make_state_dir(const char *path)
{
	char p[CONF_VALUE_MAX + 1];

	snprintf(p, sizeof p, "%s", path);
	for (char *s = p + 1; (s = strchr(s, '/')); s++) {
		*s = 0;
		if (mkdir(p, 0755) && errno != EEXIST)
			return -errno;
		*s = '/';
	}
	return mkdir(p, 0700) && errno != EEXIST ? -errno : 0;
}

static int lock_state(int state_fd, int *lock_fd)
{
	auto_fd int fd = openat(state_fd, "lock", O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	if (flock(fd, LOCK_EX | LOCK_NB))
		return -errno;
	*lock_fd = steal_fd(&fd);
	return 0;
}

int volume_open_dirs(const struct volume_conf *c, bool make, struct volume *v, char *err, size_t errlen)
{
	memset(v, 0, sizeof *v);
	v->state_fd = v->root_fd = v->lock_fd = -1;
	int r = make ? make_state_dir(c->state_dir) : 0;
	if (r)
		return fail(r, err, errlen, "state directory %s: can't be made: %s", c->state_dir, strerror(-r));
	v->state_fd = open(c->state_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (v->state_fd < 0)
		return fail(-errno, err, errlen, "state directory %s: %s: is the volume made? `tandemfs init %s'", c->state_dir, strerror(errno), c->name);
	r = lock_state(v->state_fd, &v->lock_fd);
	if (r == -EWOULDBLOCK)
		return fail(-EBUSY, err, errlen, "volume %s is in use by another tandemfs process: `tandemfs status %s', `tandemfs umount %s'",
			    c->name, c->name, c->name);
	if (r)
		return fail(r, err, errlen, "%s/lock: %s", c->state_dir, strerror(-r));
	volume_clear_dead_mount(c->mount_point);
	v->root_fd = open(c->backing, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (v->root_fd < 0)
		return fail(-errno, err, errlen, "backing directory %s: %s: is its file system mounted?", c->backing, strerror(errno));
	return 0;
}

static int open_state(const struct volume_conf *c, struct volume *v, char *err, size_t errlen)
{
	int r = state_open(v->state_fd, v->root_fd, &v->state, &v->unknown, &v->state_file);

	switch (r) {
	case 0: break;
	case -ENOENT: return fail(r, err, errlen, "%s holds no volume: `tandemfs init %s' first", c->state_dir, c->name);
	case -EXDEV: return fail(r, err, errlen, "%s belongs to another volume or node than the state in %s: check `backing' and `state_dir'",
				 c->backing, c->state_dir);
	case -EPROTONOSUPPORT: return fail(r, err, errlen, "%s was written by a newer tandemfs: upgrade this node", c->state_dir);
	case -EBADMSG: return fail(r, err, errlen, "%s/state is damaged in both its copies: restore it, or `tandemfs init --join' this node anew",
				   c->state_dir);
	default: return fail(r, err, errlen, "%s/state: %s", c->state_dir, strerror(-r));
	}
	if (v->state.node != c->self)
		return fail(-EXDEV, err, errlen, "%s is the state of node %u, but the configuration says that this is node %s (number %u): correct `node ='",
			    c->state_dir, v->state.node, c->node, c->self);
	return 0;
}

static int open_local(const struct volume_conf *c, const struct volume_hooks *hooks, struct volume *v, char *err, size_t errlen)
{
	struct handles_config hc = { .state_fd = v->state_fd, .root_fd = v->root_fd, .node = v->state.node, .generation = v->state.generation };
	memcpy(hc.uuid, v->state.uuid, UUID_LEN);
	int r = handles_open(&hc, v->unknown, &v->handles);
	if (r)
		return fail(r, err, errlen, "handle table in %s: %s", c->state_dir, strerror(-r));
	r = objlocks_new(&v->locks);
	if (r)
		return fail(r, err, errlen, "%s", strerror(-r));
	struct local_config lc = { .root_fd = v->root_fd, .handles = v->handles, .locks = v->locks, .limits = &v->state.limits };
	memcpy(lc.dir_key, v->state.dir_key, sizeof lc.dir_key);
	if (hooks) {
		lc.may_adopt = hooks->may_adopt;
		lc.adopted = hooks->adopted;
		lc.arg = hooks->arg;
	}
	r = local_new(&lc, &v->local);
	if (r)
		return fail(r, err, errlen, "backing directory %s: %s", c->backing, strerror(-r));
	return 0;
}

int volume_open(const struct volume_conf *c, const struct volume_hooks *hooks, struct volume *v, char *err, size_t errlen)
{
	int r = volume_open_dirs(c, false, v, err, errlen);
	if (!r)
		r = open_state(c, v, err, errlen);
	if (!r)
		r = open_local(c, hooks, v, err, errlen);
	if (r)
		volume_close(v);
	return r;
}

void volume_close(struct volume *v)
{
	if (v->local)
		v->local->ops->destroy(v->local);
	if (v->handles)
		handles_close(v->handles);
	objlocks_free(v->locks);
	state_close(v->state_file);
	if (v->root_fd >= 0)
		close(v->root_fd);
	if (v->lock_fd >= 0)
		close(v->lock_fd);
	if (v->state_fd >= 0)
		close(v->state_fd);
}
