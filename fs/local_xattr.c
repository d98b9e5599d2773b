/*
 * Extended attributes, all namespaces of the backing file system, but for the mark (trusted.tandemfs*), which does not exist for callers.
 *
 * A POSIX ACL is an xattr that may change the mode (the kernel does that on the backing object) and, as a directory's default ACL, how
 * children are created: local_make.c asks the flag that is kept here.
 */
#include "fs/local_int.h"

#include <sys/xattr.h>

#define DEFACL_XATTR "system.posix_acl_default"
#define CAPS_XATTR "security.capability"	/* the kernel asks for it before the first write to a file */

ssize_t local_getxattr(struct layer *layer, struct call *c, uint64_t id, const char *name, void *value, size_t size)
{
	auto_obj struct obj *o = NULL;
	(void)c;
	if (xattr_hidden(name))
		return -ENODATA;
	int err = obj_get(to_local(layer), id, &o);
	if (err)
		return err;
	if (o->nocaps && !strcmp(name, CAPS_XATTR))
		return -ENODATA;
	struct fd_path p = fd_path(o->fd);
	ssize_t n = getxattr(p.s, name, value, size);
	return n < 0 ? -errno : n;
}

/* Drops hidden names from LIST (LEN bytes); the length left. */
static size_t filter(char *list, size_t len)
{
	size_t out = 0;
	for (size_t at = 0; at < len;) {
		size_t n = strnlen(list + at, len - at - 1) + 1;
		if (!xattr_hidden(list + at)) {
			memmove(list + out, list + at, n);
			out += n;
		}
		at += n;
	}
	return out;
}

/* The whole list, filtered. *LIST is the caller's to free. */
static ssize_t list_all(const struct obj *o, char **list)
{
	struct fd_path p = fd_path(o->fd);
	*list = malloc(LAYER_XATTR_MAX);
	if (!*list)
		return -ENOMEM;
	ssize_t n = listxattr(p.s, *list, LAYER_XATTR_MAX);
	return n < 0 ? -errno : (ssize_t)filter(*list, (size_t)n);
}

ssize_t local_listxattr(struct layer *layer, struct call *c, uint64_t id, char *list, size_t size)
{
	auto_obj struct obj *o = NULL;
	auto_free char *all = NULL;
	(void)c;
	ssize_t n = obj_get(to_local(layer), id, &o);
	if (!n)
		n = list_all(o, &all);
	if (n <= 0 || !size)
		return n;
	if ((size_t)n > size)
		return -ERANGE;
	memcpy(list, all, (size_t)n);
	return n;
}

/* ---- limits ---- */

/* One entry as ext4 counts it: a header, the name without its prefix, the value; the latter two padded to 4. */
static size_t entry_bytes(const char *name, size_t value)
{
	const char *dot = strchr(name, '.');
	return 16 + ((strlen(dot ? dot + 1 : name) + 3) & ~(size_t)3) + ((value + 3) & ~(size_t)3);
}

static int check_limits(struct local *l, const struct obj *o, const char *name, size_t size)
{
	auto_free char *list = NULL;
	if (size > LAYER_XATTR_MAX)
		return -E2BIG;
	if (l->lim->xattr_value_max && size > l->lim->xattr_value_max)
		return -ENOSPC;
	if (!l->lim->xattr_total_max)
		return 0;
	size_t total = entry_bytes(name, size);
	ssize_t len = list_all(o, &list);
	if (len < 0)
		return len == -EOPNOTSUPP ? 0 : (int)len;
	struct fd_path p = fd_path(o->fd);
	for (ssize_t at = 0; at < len; at += (ssize_t)strlen(list + at) + 1) {
		ssize_t n = strcmp(list + at, name) ? getxattr(p.s, list + at, NULL, 0) : -1;
		if (n >= 0)
			total += entry_bytes(list + at, (size_t)n);
	}
	return total > l->lim->xattr_total_max ? -ENOSPC : 0;
}

/* ---- changes ---- */

static int keep_defacl_flag(struct local *l, struct obj *o, const char *name)
{
	if (strcmp(name, DEFACL_XATTR) || o->type != S_IFDIR)
		return 0;
	bool has = local_has_defacl(o->fd);
	o->defacl = has;
	return index_set_flags(l->cfg.handles, o->id, has ? HENTRY_DEFACL : 0, has ? 0 : HENTRY_DEFACL);
}

static int xattr_changed(struct local *l, struct call *c, struct obj *o, const char *name)
{
	int err = keep_defacl_flag(l, o, name);
	int err2 = local_set_ctime(l, o->id, local_stamp(l, c));
	if (!err && !err2 && c->effect)
		err = local_attr_of(l, o, -1, &c->effect->attr);
	if ((err || err2) && c->effect)
		c->effect->changed = true;
	return err ? err : err2;
}

int local_setxattr(struct layer *layer, struct call *c, uint64_t id, const char *name, const void *value, size_t size, int flags)
{
	struct local *l = to_local(layer);
	auto_objguard struct objguard g = { 0 };
	auto_obj struct obj *o = NULL;
	if (xattr_hidden(name))
		return -EPERM;
	if (!c->locked)
		objlock_ids(l->cfg.locks, &g, &id, 1);
	int err = obj_get(l, id, &o);
	if (!err)
		err = check_limits(l, o, name, size);
	if (err)
		return err;
	if (!strcmp(name, CAPS_XATTR))
		o->nocaps = false;
	if (!strcmp(name, ACL_XATTR))
		o->acl = OBJ_ACL_MAYBE;
	struct fd_path p = fd_path(o->fd);
	auto_lifted struct lifted lf = lift_init(l, c, id, 0);
	err = TRY_LIFT(&lf, setxattr(p.s, name, value, size, flags));
	return err ? err : xattr_changed(l, c, o, name);
}

int local_removexattr(struct layer *layer, struct call *c, uint64_t id, const char *name)
{
	struct local *l = to_local(layer);
	auto_objguard struct objguard g = { 0 };
	auto_obj struct obj *o = NULL;
	if (xattr_hidden(name))
		return -EPERM;
	if (!c->locked)
		objlock_ids(l->cfg.locks, &g, &id, 1);
	int err = obj_get(l, id, &o);
	if (err)
		return err;
	struct fd_path p = fd_path(o->fd);
	auto_lifted struct lifted lf = lift_init(l, c, id, 0);
	err = TRY_LIFT(&lf, removexattr(p.s, name));
	return err ? err : xattr_changed(l, c, o, name);
}
