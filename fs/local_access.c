/*
 * What the local kernel grants to a caller: it is asked on the object's O_PATH descriptor, by the thread in the caller's place.
 *
 * faccessat2(AT_EMPTY_PATH | AT_EACCESS) checks mode bits, ACLs, immutable flags and capabilities with the thread's fsuid, fsgid and groups. These three
 * belong to each thread (raw system calls: glibc's setgroups() would change all threads). Leaving fsuid 0 takes the file capabilities out of
 * the thread's effective set, and coming back restores them: setgroups first, fsuid last, and the other way round on the way back.
 *
 * A failed switch must never let a caller be judged as root: both ids are read back before the kernel is asked. A thread that can't
 * become itself again must not serve anybody: that is tried for a second (the kernel may lack memory), then the process ends.
 *
 * Root is asked about without a switch: its groups don't matter to it.
 */
#include "fs/local_int.h"

#include <grp.h>
#include <linux/securebits.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
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

int local_access(struct layer *layer, struct call *c, uint64_t id, unsigned want, unsigned *granted)
{
	struct local *l = to_local(layer);
	auto_obj struct obj *o = NULL;
	*granted = 0;
	if (c->ngroups > LAYER_GROUPS_MAX || c->uid == (uid_t)-1 || c->gid == (gid_t)-1)
		return -EINVAL;
	int err = obj_get(l, id, &o);
	if (err)
		return err;
	if (!c->uid && !l->self.uid)
		return ask_each(o->fd, want, granted);
	if (l->self.keeps_caps)
		return -EPERM;
	err = set_groups((int)c->ngroups, c->groups);
	if (err)	/* nothing was changed */
		return err;
	err = become(c) ? ask_each(o->fd, want, granted) : -EPERM;
	become_self(&l->self);
	if (err)
		*granted = 0;
	return err;
}
