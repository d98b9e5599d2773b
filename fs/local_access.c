/*
 * What the local kernel grants to a caller.
 *
 * An object without an access ACL is judged here, by owner, group and mode bits, as the kernel does it (fs/namei.c, acl_permission_check): one statx.
 * Whether it has an ACL is looked up once and then known (struct obj).
 *
 * All others the kernel is asked about, on the object's O_PATH descriptor, by the thread in the caller's place: faccessat2(AT_EMPTY_PATH | AT_EACCESS) checks
 * with the thread's fsuid, fsgid, groups and capabilities. These belong to each thread (raw system calls: glibc's setgroups() would change all
 * threads). Leaving fsuid 0 takes the file capabilities out of the thread's effective set, and coming back restores them: setgroups first, fsuid
 * last, and the other way round on the way back. Seven system calls, each of which makes new credentials: 25 us where a statx takes 0.5.
 *
 * A failed switch must never let a caller be judged as root: both ids are read back before the kernel is asked. A thread that can't
 * become itself again must not serve anybody: that is tried for a second (the kernel may lack memory), then the process ends.
 */
#include "fs/local_int.h"

#include <grp.h>
#include <linux/securebits.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/xattr.h>
#include <time.h>

#ifdef SYS_setgroups32
#define SYS_SETGROUPS SYS_setgroups32
#else
#define SYS_SETGROUPS SYS_setgroups
#endif

enum { RETURN_TRIES = 1000, RETURN_PAUSE_NS = 1000000 };

int self_init(struct self *s)
{
	int bits = prctl(PR_GET_SECUREBITS);
	*s = (struct self){ .uid = geteuid(), .gid = getegid(), .keeps_caps = bits >= 0 && bits & SECBIT_NO_SETUID_FIXUP };
	int n = getgroups(0, NULL);
	if (n <= 0)
		return TRY(n);
	s->groups = calloc((size_t)n, sizeof(*s->groups));
	if (!s->groups)
		return -ENOMEM;
	s->ngroups = getgroups(n, s->groups);
	return TRY(s->ngroups);
}

void self_free(struct self *s)
{
	free(s->groups);
	*s = (struct self){ 0 };
}

/* ---- groups by pid ---- */

/* Supplementary groups of a process, as /proc says: asked for seldom. */
static bool pid_in_group(pid_t pid, uint32_t gid)
{
	char path[32], line[4096], *p, *end;
	bool in = false;
	snprintf(path, sizeof(path), "/proc/%d/status", (int)pid);
	FILE *fp = fopen(path, "re");
	while (fp && !in && fgets(line, sizeof(line), fp)) {
		if (strncmp(line, "Groups:", 7))
			continue;
		for (p = line + 7; !in; p = end) {
			unsigned long g = strtoul(p, &end, 10);
			if (end == p)
				break;
			in = g == gid;
		}
	}
	if (fp)
		fclose(fp);
	return in;
}

bool local_in_group(const struct call *c, uint32_t gid)
{
	if (c->gid == gid)
		return true;
	for (unsigned i = 0; i < c->ngroups; i++)
		if (c->groups[i] == gid)
			return true;
	return !c->groups && c->pid > 0 && pid_in_group(c->pid, gid);
}

/* ---- in the caller's place ---- */

static int set_groups(int n, const gid_t *groups)
{
	return TRY(syscall(SYS_SETGROUPS, n, groups));
}

/* The thread's file system ids are these. (An id that nobody can have changes nothing and tells what is.) */
static bool are_ids(uid_t uid, gid_t gid)
{
	return (uid_t)setfsuid((uid_t)-1) == uid && (gid_t)setfsgid((gid_t)-1) == gid;
}

static bool become(const struct call *c)
{
	setfsgid(c->gid);
	setfsuid(c->uid);
	return are_ids(c->uid, c->gid);
}

static void become_self(const struct self *s)
{
	const struct timespec pause = { .tv_nsec = RETURN_PAUSE_NS };
	for (unsigned i = 0; i < RETURN_TRIES; i++) {
		setfsuid(s->uid);
		setfsgid(s->gid);
		if (!set_groups(s->ngroups, s->groups) && are_ids(s->uid, s->gid))
			return;
		nanosleep(&pause, NULL);
	}
	log_error("local: a thread can't become user %u again: ending, before it does harm: start the daemon again", (unsigned)s->uid);
	abort();
}

/* ---- asking ---- */

static int ask(int fd, unsigned want)
{
	return TRY(syscall(SYS_faccessat2, fd, "", (int)want, AT_EMPTY_PATH | AT_EACCESS | AT_SYMLINK_NOFOLLOW));
}

static bool denied(int err) { return err == -EACCES || err == -EPERM || err == -EROFS; }

/* The kernel says yes or no to the whole: all at once first, then one by one. */
static int ask_each(int fd, unsigned want, unsigned *granted)
{
	int err = ask(fd, want);
	if (!err)
		*granted = want;
	if (!denied(err) || !(want & (want - 1)))
		return denied(err) ? 0 : err;
	for (unsigned bit = 1; bit <= R_OK; bit <<= 1) {
		err = want & bit ? ask(fd, bit) : -EACCES;
		if (err && !denied(err))
			return err;
		if (!err)
			*granted |= bit;
	}
	return 0;
}

static int ask_as(const struct self *self, const struct call *c, int fd, unsigned want, unsigned *granted)
{
	if (self->keeps_caps)
		return -EPERM;
	int err = set_groups((int)c->ngroups, c->groups);
	if (err)	/* nothing was changed */
		return err;
	err = become(c) ? ask_each(fd, want, granted) : -EPERM;
	become_self(self);
	return err;
}

/* ---- without asking ---- */

static bool has_no_acl(struct obj *o)
{
	int unknown = OBJ_ACL_UNKNOWN;
	if (o->acl == OBJ_ACL_UNKNOWN) {
		struct fd_path p = fd_path(o->fd);
		bool none = getxattr(p.s, ACL_XATTR, NULL, 0) < 0 && (errno == ENODATA || errno == EOPNOTSUPP);
		atomic_compare_exchange_strong(&o->acl, &unknown, none ? OBJ_ACL_NONE : OBJ_ACL_MAYBE);
	}
	return o->acl == OBJ_ACL_NONE;
}

/* Do mode bits decide? The kernel doesn't look at the ACL for the owner, nor when the group bits, which are the ACL's mask, are empty. */
static bool by_mode(struct obj *o, const struct call *c, const struct statx *stx)
{
	return !c->uid || c->uid == stx->stx_uid || !(stx->stx_mode & S_IRWXG) || o->type == S_IFLNK || has_no_acl(o);
}

/* R_OK, W_OK and X_OK are the bits of rwx. */
static unsigned mode_grants(const struct call *c, const struct statx *stx)
{
	unsigned mode = stx->stx_mode;
	if (!c->uid)	/* root may all but execute what nobody may */
		return R_OK | W_OK | (S_ISDIR(mode) || mode & 0111 ? X_OK : 0u);
	return c->uid == stx->stx_uid ? mode >> 6 : local_in_group(c, stx->stx_gid) ? mode >> 3 : mode;
}

int local_access(struct layer *layer, struct call *c, uint64_t id, unsigned want, unsigned *granted)
{
	struct local *l = to_local(layer);
	auto_obj struct obj *o = NULL;
	struct statx stx;
	*granted = 0;
	if (c->ngroups > LAYER_GROUPS_MAX || c->uid == (uid_t)-1 || c->gid == (gid_t)-1)
		return -EINVAL;
	int err = obj_get(l, id, &o);
	if (!err)
		err = local_statx(o->fd, "", &stx);
	if (err)
		return err;
	if (by_mode(o, c, &stx)) {
		*granted = want & mode_grants(c, &stx);
		if (stx.stx_attributes & STATX_ATTR_IMMUTABLE)
			*granted &= ~(unsigned)W_OK;
		return 0;
	}
	err = ask_as(&l->self, c, o->fd, want, granted);
	if (err)
		*granted = 0;
	return err;
}
