/*
 * Permissions of NFS callers; the rules are in the header. They follow Linux: fs/nfsd/vfs.c (nfsd_permission, nfsd_access, nfsd_setattr), fs/attr.c
 * (setattr_prepare, setattr_should_drop_sgid), fs/namei.c (may_delete, vfs_rename, mode_strip_sgid).
 */
#include "nfsd-glue/perm.h"

#include <errno.h>
#include <unistd.h>

enum { RIGHTS = PERM_READ | PERM_WRITE | PERM_EXEC };

/* RFC 1813, 3.3.4 */
enum {
	ACCESS3_READ = 0x01, ACCESS3_LOOKUP = 0x02, ACCESS3_MODIFY = 0x04, ACCESS3_EXTEND = 0x08, ACCESS3_DELETE = 0x10, ACCESS3_EXECUTE = 0x20,
};

struct call perm_call(const struct nfs_cred *cred)
{
	return (struct call){ .origin = ORIGIN_NFS, .uid = cred->uid, .gid = cred->gid, .groups = cred->groups, .ngroups = cred->ngroups };
}

static bool is_root(const struct call *c) { return !c->uid; }

static bool in_group(const struct call *c, uint32_t gid)
{
	bool in = c->gid == gid;

	for (unsigned i = 0; !in && i < c->ngroups; i++)
		in = c->groups[i] == gid;
	return in;
}

/* ---- on an object ---- */

static unsigned to_kernel(unsigned want)
{
	return (want & PERM_READ ? R_OK : 0u) | (want & PERM_WRITE ? W_OK : 0u) | (want & PERM_EXEC ? X_OK : 0u);
}

/* Do the mode bits, which we have, decide? The kernel doesn't look at an ACL for the owner, nor when the group bits (its mask) are empty. */
static bool by_mode(const struct call *c, const struct attr *a)
{
	return a->no_acl || c->uid == a->uid || !(a->mode & S_IRWXG);
}

static unsigned mode_grants(const struct call *c, const struct attr *a)
{
	return c->uid == a->uid ? a->mode >> 6 : in_group(c, a->gid) ? a->mode >> 3 : a->mode;
}

static int kernel_grants(struct layer *top, struct call *c, const struct attr *a, unsigned want)
{
	unsigned granted, ask = to_kernel(want);

	if (!ask)
		return 0;
	if (!is_root(c) && by_mode(c, a))
		return ask & ~mode_grants(c, a) ? -EACCES : 0;
	int err = top->ops->access(top, c, a->id, ask, &granted);
	return err ? err : granted == ask ? 0 : -EACCES;
}

int perm_check(struct layer *top, struct call *c, const struct attr *a, unsigned want)
{
	bool regular = S_ISREG(a->mode);

	/* Root may all but execute what nobody may. That something is immutable the operation itself will say. */
	if (is_root(c) && (!(want & PERM_EXEC) || S_ISDIR(a->mode)))
		return 0;
	if (want & PERM_OWNER && regular && a->uid == c->uid)
		return 0;
	int err = kernel_grants(top, c, a, want);
	if (err == -EACCES && regular && want & PERM_READ_IF_EXEC && (want & RIGHTS) == PERM_READ)
		err = kernel_grants(top, c, a, PERM_EXEC);
	return err;
}

/* ---- ACCESS ---- */

struct access_bit { uint32_t bit; unsigned want; };
enum { ACCESS_BITS = 5 };

static const struct access_bit access_regular[ACCESS_BITS] = {
	{ ACCESS3_READ, PERM_READ }, { ACCESS3_EXECUTE, PERM_EXEC }, { ACCESS3_MODIFY, PERM_WRITE }, { ACCESS3_EXTEND, PERM_WRITE },
};
static const struct access_bit access_directory[ACCESS_BITS] = {
	{ ACCESS3_READ, PERM_READ }, { ACCESS3_LOOKUP, PERM_EXEC }, { ACCESS3_MODIFY, PERM_EXEC | PERM_WRITE },
	{ ACCESS3_EXTEND, PERM_EXEC | PERM_WRITE }, { ACCESS3_DELETE, PERM_EXEC | PERM_WRITE },
};

int perm_access(struct layer *top, struct call *c, const struct attr *a, bool writable, uint32_t asked, uint32_t *granted)
{
	bool dir = S_ISDIR(a->mode), special = !dir && !S_ISREG(a->mode);
	const struct access_bit *bits = dir ? access_directory : access_regular;
	unsigned want = 0, kernel = 0;

	*granted = 0;
	for (unsigned i = 0; i < ACCESS_BITS; i++)
		if (asked & bits[i].bit)
			want |= bits[i].want;
	if (!writable && !special)	/* what is written to a device or a pipe doesn't go to the volume */
		want &= ~(unsigned)PERM_WRITE;
	int err = want ? top->ops->access(top, c, a->id, to_kernel(want), &kernel) : 0;
	for (unsigned i = 0; !err && i < ACCESS_BITS; i++)
		if (asked & bits[i].bit && !(to_kernel(bits[i].want) & ~kernel))
			*granted |= bits[i].bit;
	return err;
}

/* ---- entries ---- */

static int may_change_entries(struct layer *top, struct call *c, const struct attr *dir)
{
	return perm_check(top, c, dir, PERM_WRITE | PERM_EXEC);
}

int perm_create(struct layer *top, struct call *c, const struct attr *dir, uint32_t *mode)
{
	int err = may_change_entries(top, c, dir);

	if (err)
		return err;
	if ((S_ISCHR(*mode) || S_ISBLK(*mode)) && !is_root(c))
		return -EPERM;
	if (S_ISDIR(*mode))	/* setgid of a directory is inherited, or set afterwards */
		*mode &= ~(uint32_t)(S_ISUID | S_ISGID);
	else if ((*mode & (S_ISGID | S_IXGRP)) == (S_ISGID | S_IXGRP) && dir->mode & S_ISGID && !is_root(c) && !in_group(c, dir->gid))
		*mode &= ~(uint32_t)S_ISGID;
	return 0;
}

void perm_create_owner(const struct call *c, uint32_t *valid)
{
	if (!is_root(c))
		*valid &= ~(uint32_t)(SET_UID | SET_GID);
}

/* -EPERM: DIR is sticky and CHILD isn't the caller's. */
static int sticky(const struct call *c, const struct attr *dir, const struct attr *child)
{
	return dir->mode & S_ISVTX && !is_root(c) && c->uid != child->uid && c->uid != dir->uid ? -EPERM : 0;
}

int perm_remove(struct layer *top, struct call *c, const struct attr *dir, const struct attr *child)
{
	int err = may_change_entries(top, c, dir);

	return err ? err : sticky(c, dir, child);
}

int perm_rename(struct layer *top, struct call *c, const struct attr *dir, const struct attr *from, const struct attr *newdir, const struct attr *to)
{
	int err = may_change_entries(top, c, dir);

	if (!err && newdir->id != dir->id)
		err = may_change_entries(top, c, newdir);
	if (!err)
		err = sticky(c, dir, from);
	if (!err && to)
		err = sticky(c, newdir, to);
	if (!err && newdir->id != dir->id && S_ISDIR(from->mode))	/* its `..' changes */
		err = perm_check(top, c, from, PERM_WRITE);
	return err;
}

int perm_link(struct layer *top, struct call *c, const struct attr *object, const struct attr *dir)
{
	int err = may_change_entries(top, c, dir);

	return err ? err : S_ISDIR(object->mode) ? -EPERM : 0;
}

/* ---- attributes ---- */

static int may_set_size(struct layer *top, struct call *c, const struct attr *a)
{
	if (!S_ISREG(a->mode))
		return S_ISDIR(a->mode) ? -EISDIR : -EINVAL;
	return perm_check(top, c, a, PERM_WRITE | PERM_OWNER);
}

static int may_set_times(struct layer *top, struct call *c, const struct attr *a, uint32_t valid)
{
	if (is_root(c) || c->uid == a->uid)
		return 0;
	return valid & (SET_ATIME | SET_MTIME) ? -EPERM : kernel_grants(top, c, a, PERM_WRITE);
}

static bool may_set_owner(const struct call *c, const struct attr *a, const struct setattr *s)
{
	bool owner = c->uid == a->uid;

	if (is_root(c))
		return true;
	if (s->valid & SET_UID && !(owner && s->uid == a->uid))
		return false;
	return !(s->valid & SET_GID) || (owner && (s->gid == a->gid || in_group(c, s->gid)));
}

/* Which setuid and setgid bits go. */
static void drop_privileges(const struct call *c, const struct attr *a, struct setattr *s)
{
	bool owner_changes = s->valid & (SET_UID | SET_GID) && !S_ISDIR(a->mode);

	if (s->valid & SET_MODE && !is_root(c) && !in_group(c, s->valid & SET_GID ? s->gid : a->gid))
		s->mode &= ~(uint32_t)S_ISGID;
	if (owner_changes && s->valid & SET_MODE)
		s->mode &= ~(uint32_t)(S_ISUID | (s->mode & S_IXGRP ? S_ISGID : 0));
	else if (owner_changes || (s->valid & SET_SIZE && !is_root(c)))
		s->valid |= SET_KILL_PRIV;
}

int perm_setattr(struct layer *top, struct call *c, const struct attr *a, struct setattr *s)
{
	int err = 0;

	if (S_ISLNK(a->mode))
		s->valid &= ~(uint32_t)SET_MODE;
	s->mode &= 07777;
	if (s->valid & SET_SIZE)
		err = may_set_size(top, c, a);
	if (!err && s->valid & (SET_ATIME | SET_MTIME | SET_ATIME_NOW | SET_MTIME_NOW))
		err = may_set_times(top, c, a, s->valid);
	if (!err && !may_set_owner(c, a, s))
		err = -EPERM;
	if (!err && s->valid & SET_MODE && !is_root(c) && c->uid != a->uid)
		err = -EPERM;
	if (!err)
		drop_privileges(c, a, s);
	return err;
}

unsigned perm_write_flags(const struct call *c) { return is_root(c) ? 0 : WRITE_KILL_PRIV; }
