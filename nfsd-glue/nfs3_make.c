/*
 * NFS version 3: CREATE, MKDIR, SYMLINK, MKNOD.
 *
 * Owner and mode are given to the creation itself, the rest of a sattr3 (size, times: rare) follows in a second operation, whose answer takes the place of
 * the first.
 *
 * The verifier of an exclusive CREATE becomes the new file's mtime, in the same op: so it is as durable as the file, on all nodes, and the SETATTR by which
 * the client ends the dance takes it away. A repeated CREATE finds an empty file with just that mtime, and succeeds.
 */
#include <errno.h>

#include "nfsd-glue/nfs3_int.h"

enum { NS_PER_S = 1000000000, TRIES = 16 };

/* The mtime that stands for a verifier: within every file system's range, and as the volume would round it. */
static struct timespec verf_time(const struct nfs3_req *q)
{
	uint32_t gran = q->s->cfg.limits->time_gran_ns ? q->s->cfg.limits->time_gran_ns : 1;
	uint32_t high = (uint32_t)(q->a.verf >> 32), low = (uint32_t)q->a.verf;
	uint32_t ns = low % NS_PER_S;

	return (struct timespec){ .tv_sec = (high ^ low) & INT32_MAX, .tv_nsec = ns - ns % gran };
}

/* The owner that was asked for, as far as the caller may give it: becomes the caller of the creation. */
static void owner(struct nfs3_req *q)
{
	struct setattr *s = &q->a.set;

	perm_create_owner(&q->c, &s->valid);
	if (s->valid & SET_UID)
		q->c.uid = s->uid;
	if (s->valid & SET_GID)
		q->c.gid = s->gid;
}

/* What of a sattr3 the creation didn't do. */
static int finish(struct nfs3_req *q)
{
	struct layer *l = nfs3_top(q);
	struct setattr s = q->a.set;
	const struct attr made = q->attr.a;

	s.valid &= SET_GID | SET_SIZE | SET_ATIME | SET_MTIME | SET_ATIME_NOW | SET_MTIME_NOW;
	if (!S_ISREG(made.mode) || !s.size)
		s.valid &= ~(uint32_t)SET_SIZE;
	if (made.gid == s.gid)		/* it differs below a directory with setgid */
		s.valid &= ~(uint32_t)SET_GID;
	if (!(s.valid & ~(uint32_t)(SET_ATIME_NOW | SET_MTIME_NOW)))
		return S_OK;
	nfs3_arm(q, q->obj.id, 0);
	q->retries_exist = false;
	return nfs3_changed(q, l->ops->setattr(l, &q->c, made.id, NULL, &s, NULL));
}

/* The directory, and MODE cut to what the caller may give. A status. */
static int may_make(struct nfs3_req *q, uint32_t *mode)
{
	struct nfs3_attr dir;
	int st = nfs3_dir(q, q->obj.id, &dir, 0);

	if (st)
		return st;
	*mode |= q->a.set.valid & SET_MODE ? q->a.set.mode : 0;
	return (int)nfs3_status_of(perm_create(nfs3_top(q), &q->c, &dir.a, mode));
}

static int make(struct nfs3_req *q, const struct create *cr)
{
	struct layer *l = nfs3_top(q);

	owner(q);
	nfs3_arm(q, q->obj.id, 0);
	int st = nfs3_changed(q, l->ops->create(l, &q->c, q->obj.id, q->a.name, cr, 0, NULL, NULL));
	return st ? st : finish(q);
}

/* ---- CREATE ---- */

static int truncate_found(struct nfs3_req *q)
{
	struct layer *l = nfs3_top(q);
	struct setattr s = { .valid = SET_SIZE, .size = q->a.set.size };
	int r = perm_setattr(l, &q->c, &q->attr.a, &s);

	if (r)
		return (int)nfs3_status_of(r);
	nfs3_flush_range(q, q->attr.a.id, s.size, 0);
	nfs3_arm(q, q->obj.id, 0);
	return nfs3_changed(q, l->ops->setattr(l, &q->c, q->attr.a.id, NULL, &s, NULL));
}

static bool is_replay(const struct nfs3_req *q)
{
	struct timespec t = verf_time(q);
	const struct attr *a = &q->attr.a;

	return S_ISREG(a->mode) && !a->size && a->mtime.tv_sec == t.tv_sec && a->mtime.tv_nsec == t.tv_nsec;
}

/* The name is there, perhaps: what CREATE that isn't GUARDED makes of it. S_NOENT: it isn't (any more). */
static int found(struct nfs3_req *q)
{
	struct layer *l = nfs3_top(q);
	struct nfs3_attr dir;
	int st = nfs3_dir(q, q->obj.id, &dir, PERM_EXEC);
	int r = st ? 0 : l->ops->lookup(l, &q->c, q->obj.id, q->a.name, &q->attr.a);

	if (st || r)
		return st ? st : (int)nfs3_status_of(r);
	q->attr.set = true;
	q->post[0] = dir;
	if (q->a.how == NFS3_EXCLUSIVE)
		return is_replay(q) ? S_OK : S_EXIST;
	if (!S_ISREG(q->attr.a.mode))
		return S_EXIST;
	return q->a.set.valid & SET_SIZE ? truncate_found(q) : S_OK;
}

int nfs3_create(struct nfs3_req *q)
{
	struct timespec verf = verf_time(q);
	uint32_t mode = S_IFREG;
	int st = may_make(q, &mode);
	const struct create cr = { .mode = mode, .mtime = q->a.how == NFS3_EXCLUSIVE ? &verf : NULL };

	if (nfs3_dots(q->a.name))
		return S_EXIST;
	if (q->a.how == NFS3_GUARDED)
		return st ? st : make(q, &cr);
	const struct call caller = q->c;
	for (int i = 0; i < TRIES; i++) {
		q->retries_exist = true;
		int made = st ? st : make(q, &cr);
		if (made != S_EXIST && made != S_ACCES)
			return made;
		q->c = caller;
		q->retries_exist = false;
		int there = found(q);
		if (there != S_NOENT)
			return there;
		if (made == S_ACCES)
			return made;
	}
	return S_JUKEBOX;		/* it comes and goes */
}

/* ---- the others ---- */

static int make_kind(struct nfs3_req *q, uint32_t type, const char *target, uint64_t rdev)
{
	uint32_t mode = type;
	int st = may_make(q, &mode);

	if (st)
		return st;
	if (nfs3_dots(q->a.name))
		return S_EXIST;
	return make(q, &(struct create){ .mode = type == S_IFLNK ? S_IFLNK | 0777 : mode, .target = target, .rdev = rdev });
}

int nfs3_mkdir(struct nfs3_req *q) { return make_kind(q, S_IFDIR, NULL, 0); }
int nfs3_symlink(struct nfs3_req *q) { return make_kind(q, S_IFLNK, q->a.target, 0); }

int nfs3_mknod(struct nfs3_req *q)
{
	switch (q->a.type) {
	case NFS3_CHR: return make_kind(q, S_IFCHR, NULL, q->a.rdev);
	case NFS3_BLK: return make_kind(q, S_IFBLK, NULL, q->a.rdev);
	case NFS3_SOCK: return make_kind(q, S_IFSOCK, NULL, 0);
	case NFS3_FIFO: return make_kind(q, S_IFIFO, NULL, 0);
	default: return S_BADTYPE;
	}
}
