/*
 * Random operations on a pair's primary: THREADS threads, few names, so that they collide all the time; every call of the contract that changes
 * something. Errors that a file system may give are fine; what counts is that both nodes are equal afterwards.
 */
#ifndef TESTS_UNIT_PAIR_RANDOM_H
#define TESTS_UNIT_PAIR_RANDOM_H

#include <linux/falloc.h>
#include <linux/fs.h>

#include "pair.h"

enum { RANDOM_DIRS = 6, RANDOM_NAMES = 12, RANDOM_IO = 1 << 17 };

/* Collapse and insert: not all file systems have them, and FUSE doesn't forward them. */
static bool random_shifts = true;

struct randomer {
	pthread_t t;
	struct pair *p;
	uint64_t rng;
	unsigned ops;
	_Atomic bool *stop;
	unsigned done, failed, unexpected;
	unsigned char *buf;
};

static uint64_t rnd(struct randomer *r)
{
	uint64_t x = r->rng;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	return r->rng = x;
}

static unsigned pick(struct randomer *r, unsigned n) { return (unsigned)((rnd(r) >> 20) % n); }

static const char *pick_name(struct randomer *r)
{
	static const char *const names[RANDOM_NAMES] = { "a", "b", "c", "d", "e", "f", "g", "h", "i", "j",
							 "a rather long name, so that an entry takes some room in its directory", "\xc3\xa4\xff\x01" };
	return names[pick(r, RANDOM_NAMES)];
}

/* A directory: the root, one below it, or one below that. */
static uint64_t pick_dir(struct randomer *r)
{
	static const char *const names[RANDOM_DIRS] = { "a", "b", "c", "d1", "d2", "d3" };
	uint64_t id = HANDLE_ROOT;

	for (unsigned depth = pick(r, 3); depth; depth--) {
		uint64_t sub = t_find(r->p, id, names[pick(r, RANDOM_DIRS)]);
		id = sub ? sub : id;
	}
	return id;
}

static uint64_t pick_object(struct randomer *r)
{
	uint64_t id = 0;

	for (unsigned tries = 0; !id && tries < 5; tries++)
		id = t_find(r->p, pick_dir(r), pick_name(r));
	return id;
}

static int r_create(struct randomer *r)
{
	static const uint32_t types[] = { S_IFREG, S_IFREG, S_IFREG, S_IFDIR, S_IFDIR, S_IFLNK, S_IFIFO, S_IFCHR };
	struct file *f = NULL;
	uint32_t type = types[pick(r, 8)];
	bool open = type == S_IFREG && pick(r, 2);
	int err = t_make(r->p, pick_dir(r), pick_name(r), type | (type == S_IFLNK ? 0777 : pick(r, 010000) | 0400), NULL, open ? &f : NULL);

	if (!err && f) {
		t_write(r->p, f, r->buf + pick(r, 100), pick(r, 20000), pick(r, 3) ? 0 : pick(r, 100000));
		t_close(r->p, f);
	}
	return err;
}

static int r_remove(struct randomer *r)
{
	uint64_t d = pick_dir(r);
	const char *name = pick_name(r);

	return pick(r, 3) ? t_unlink(r->p, d, name) : t_rmdir(r->p, d, name);
}

static int r_rename(struct randomer *r)
{
	static const unsigned flags[] = { 0, 0, 0, RENAME_NOREPLACE, RENAME_EXCHANGE };

	return t_rename(r->p, pick_dir(r), pick_name(r), pick_dir(r), pick_name(r), flags[pick(r, 5)]);
}

static int r_link(struct randomer *r)
{
	uint64_t id = pick_object(r);

	return id ? t_link(r->p, id, pick_dir(r), pick_name(r)) : -ENOENT;
}

static int r_setattr(struct randomer *r)
{
	uint64_t id = pick_object(r);
	struct setattr s = { .mode = pick(r, 010000) | 0400, .uid = pick(r, 5), .gid = pick(r, 5), .size = pick(r, 200000),
			     .mtime = { .tv_sec = pick(r, 2000000000), .tv_nsec = pick(r, 1000000000) } };
	static const uint32_t valid[] = { SET_MODE, SET_UID, SET_UID | SET_GID, SET_SIZE, SET_MTIME, SET_MTIME_NOW, SET_SIZE | SET_KILL_PRIV,
					  SET_UID | SET_MODE, SET_ATIME_NOW, SET_UID | SET_KILL_PRIV };

	struct call c = user();
	struct attr a;
	s.valid = valid[pick(r, 10)];
	if (id && !r->p->top->ops->getattr(r->p->top, &c, id, NULL, &a) && S_ISLNK(a.mode))
		s.valid = SET_UID;		/* a change of owner that succeeds, then one of mode that can't */
	return id ? t_setattr(r->p, id, &s) : -ENOENT;
}

static int r_xattr(struct randomer *r)
{
	static const char *const names[] = { "user.a", "user.b", "trusted.c", "security.d", "system.posix_acl_access", "system.posix_acl_default" };
	static const unsigned char acl[] = { 2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 7, 0, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255,
					     16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255 };
	struct call c = user();
	uint64_t id = pick_object(r);
	unsigned n = pick(r, 6);

	if (!id)
		return -ENOENT;
	if (pick(r, 3) == 0)
		return r->p->top->ops->removexattr(r->p->top, &c, id, names[n]);
	return n < 4 ? t_setxattr(r->p, id, names[n], r->buf, pick(r, 200)) : t_setxattr(r->p, id, names[n], acl, sizeof acl);
}

static int r_flags(struct randomer *r)
{
	static const uint32_t flags[] = { 0, 0, 0, 0, FS_NODUMP_FL, FS_IMMUTABLE_FL, FS_APPEND_FL };
	/* most calls lift flags, or soon nothing could be changed any more */
	struct call c = user();
	uint64_t id = pick_object(r);
	int err = id ? r->p->top->ops->setflags(r->p->top, &c, id, flags[pick(r, 7)]) : -ENOENT;

	for (unsigned i = 0; i < 40; i++)
		if ((id = pick_object(r)))
			r->p->top->ops->setflags(r->p->top, &c, id, 0);
	return err;
}

static int r_fallocate(struct randomer *r, struct file *f)
{
	static const int modes[] = { 0, FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, FALLOC_FL_ZERO_RANGE,
				     FALLOC_FL_COLLAPSE_RANGE, FALLOC_FL_INSERT_RANGE };
	struct call c = user();
	int mode = modes[pick(r, random_shifts ? 6 : 4)];
	uint64_t unit = mode & (FALLOC_FL_COLLAPSE_RANGE | FALLOC_FL_INSERT_RANGE) ? 4096 : 1;

	return r->p->top->ops->fallocate(r->p->top, &c, f, mode, pick(r, 20) * unit * (unit == 1 ? 3333 : 1), (pick(r, 10) + 1) * unit * (unit == 1 ? 1777 : 1));
}

static int r_copy(struct randomer *r, struct file *f)
{
	uint64_t id = pick_object(r);
	struct file *g = id ? t_open(r->p, id, O_RDONLY) : NULL;
	struct call c = user();

	if (!g)
		return -ENOENT;
	ssize_t n = r->p->top->ops->copy_range(r->p->top, &c, g, pick(r, 50000), f, pick(r, 50000), pick(r, 50000) + 1);
	t_close(r->p, g);
	return n < 0 ? (int)n : 0;
}

static int r_file(struct randomer *r)
{
	uint64_t id = pick_object(r);
	struct file *f = id ? t_open(r->p, id, O_RDWR | (pick(r, 20) ? 0 : O_TRUNC)) : NULL;
	struct call c = user();
	int err = 0;

	if (!f)
		return -ENOENT;
	for (unsigned n = pick(r, 4) + 1; n; n--) {
		const struct wdata d = { .p = r->buf + pick(r, 1000), .len = pick(r, 4) ? pick(r, 9000) : pick(r, 70000) };
		switch (pick(r, 8)) {
		case 0: err = r_fallocate(r, f); break;
		case 1: err = r_copy(r, f); break;
		case 2: err = t_fsync(r->p, f); break;
		case 3: r->p->top->ops->write(r->p->top, &c, f, &d, 0, WRITE_APPEND, NULL); break;
		default: r->p->top->ops->write(r->p->top, &c, f, &d, pick(r, 100000), WRITE_KILL_PRIV, NULL); break;
		}
	}
	t_close(r->p, f);
	return err;
}

static int r_tmpfile(struct randomer *r)
{
	struct call c = user();
	struct create cr = { .mode = S_IFREG | 0640 };
	struct attr a;
	struct file *f;
	int err = r->p->top->ops->tmpfile(r->p->top, &c, pick_dir(r), &cr, O_RDWR, &a, &f);

	if (err)
		return err;
	t_write(r->p, f, r->buf, pick(r, 10000), 0);
	if (pick(r, 2))
		err = t_link(r->p, a.id, pick_dir(r), pick_name(r));
	t_close(r->p, f);
	return err;
}

/* Errors that no file system gives to such calls, unless something is broken. */
static bool unexpected(int err)
{
	return err == -EUCLEAN || err == -EROFS || err == -EBADMSG || err == -EIO || err == -ENOMEM || err == -ESHUTDOWN || err == -EBADF;
}

static int random_op(struct randomer *r)
{
	switch (pick(r, 20)) {
	case 0: case 1: case 2: case 3: case 4: case 5: return r_create(r);
	case 6: return r_remove(r);
	case 7: case 8: case 9: return r_rename(r);
	case 10: case 11: return r_link(r);
	case 12: return r_setattr(r);
	case 13: return r_xattr(r);
	case 14: return pick(r, 10) ? r_file(r) : r_flags(r);
	case 15: return r_tmpfile(r);
	default: return r_file(r);
	}
}

static void *random_main(void *arg)
{
	struct randomer *r = arg;

	for (; r->done < r->ops && !atomic_load(r->stop); r->done++) {
		int err = random_op(r);
		r->failed += err < 0;
		r->unexpected += unexpected(err);
	}
	return NULL;
}

/* Runs THREADS threads with OPS operations each, or until the standby's side has stopped. Returns the number of unexpected errors. */
static unsigned random_run(struct pair *p, unsigned threads, unsigned ops, uint64_t seed)
{
	static _Atomic bool stop;
	struct randomer r[16];
	unsigned bad = 0, done = 0, failed = 0;

	fprintf(stderr, "# seed %llu\n", (unsigned long long)seed);
	atomic_store(&stop, false);
	for (unsigned i = 0; i < threads; i++) {
		r[i] = (struct randomer){ .p = p, .rng = seed * UINT64_C(0x9e3779b97f4a7c15) + i + 1, .ops = ops, .stop = &stop };
		r[i].buf = malloc(RANDOM_IO);
		for (unsigned k = 0; k < RANDOM_IO; k++)
			r[i].buf[k] = (unsigned char)(rnd(&r[i]) >> 30);
		ck_assert_int_eq(pthread_create(&r[i].t, NULL, random_main, &r[i]), 0);
	}
	for (unsigned i = 0; i < threads; i++) {
		pthread_join(r[i].t, NULL);
		bad += r[i].unexpected;
		done += r[i].done;
		failed += r[i].failed;
		free(r[i].buf);
	}
	fprintf(stderr, "# %u operations, %u refused, %u unexpected\n", done, failed, bad);
	return bad;
}

#endif
