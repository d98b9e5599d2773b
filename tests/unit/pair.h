/*
 * A pair in one process, for tests: a primary's stack (local and mirroring layer over an ext4 image), whose queue is drained by a thread that
 * encodes and decodes each op and applies it to a standby's local layer (over an xfs image). No network, no FUSE.
 *
 * And a comparer of both trees through the layer contract: names, order and positions of entries, attributes but atime and
 * blocks, xattrs, flags, targets, contents.
 */
#ifndef TESTS_UNIT_PAIR_H
#define TESTS_UNIT_PAIR_H

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "fs/local.h"
#include "mirror/apply.h"
#include "mirror/interpose.h"

enum { PEER = 2, RESTATED_MAX = 1 << 16 };

struct side {
	char dir[160], state[160];
	int root_fd, state_fd;
	struct handles *h;
	struct objlocks *locks;
	struct layer *local;
};

struct pair {
	struct side a, b;
	struct volume_limits limits;
	struct queue *q;
	struct interpose *ip;
	struct layer *top;
	struct observers oa, ob;
	struct apply *ap;
	pthread_t drain;
	bool draining;
	_Atomic int apply_err;
	_Atomic uint64_t applied, nrestated, nreports, changes_b;
	_Atomic int epoch_calls, flush_failures;
	_Atomic bool superseded;	/* the core knows that another node reigns: no epoch is opened */
	_Atomic uint64_t room_bytes, room_inodes;
	_Atomic bool hold_barriers;	/* barriers are not answered */
	pthread_mutex_t mu;
	uint64_t restated[RESTATED_MAX], nids;	/* objects restated or reported dirty; guarded by mu */
};

/* What is put between the mirroring and the local layer, and between apply and the local layer; NULL = nothing. */
static struct layer *(*pair_below_a)(struct layer *), *(*pair_below_b)(struct layer *);
static enum durability pair_durability = DURABILITY_COMMIT;

/* ---- two file systems, once per program ---- */

static char pair_base[64];
static const char *pair_mkfs_a = "mkfs.ext4 -q -F", *pair_mkfs_b = "mkfs.xfs -q -f";
static pid_t pair_owner;

static void pair_sh(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void pair_sh(const char *fmt, ...)
{
	char cmd[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof cmd, fmt, ap);
	va_end(ap);
	ck_assert_msg(system(cmd) == 0, "%s", cmd);
}

static void pair_unmount(void)
{
	if (!pair_base[0] || getpid() != pair_owner)
		return;
	pair_sh("cd / && umount %s/a && umount %s/b && rm -rf %s", pair_base, pair_base, pair_base);
	pair_base[0] = 0;
}

static void pair_mount(void)
{
	snprintf(pair_base, sizeof pair_base, "%s", "/tmp/mirror.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(pair_base));
	pair_sh("cd %s && mkdir a b && truncate -s 512M a.img b.img && %s a.img && %s b.img && "
		"mount -o loop a.img a && mount -o loop b.img b", pair_base, pair_mkfs_a, pair_mkfs_b);
	umask(0);
	pair_owner = getpid();
	atexit(pair_unmount);
}

/* ---- callbacks ---- */

static int pair_open_epoch(void *arg)
{
	struct pair *p = arg;
	struct op op = { .type = OP_EPOCH, .epoch = { .reign = 1, .node = 1, .tag = 7 } };
	uint64_t seq;

	atomic_fetch_add(&p->epoch_calls, 1);
	if (atomic_load(&p->superseded))
		return -EROFS;
	return queue_append(p->q, &op, 0xffff, &seq);
}

static void pair_restate(void *arg, const uint64_t *ids, unsigned n)
{
	struct pair *p = arg;

	auto_lock(&p->mu);
	atomic_fetch_add(&p->nrestated, n);
	for (unsigned i = 0; i < n && p->nids < RESTATED_MAX; i++)
		p->restated[p->nids++] = ids[i];
}

static void pair_room(void *arg, uint64_t *bytes, uint64_t *inodes)
{
	struct pair *p = arg;

	*bytes = atomic_load(&p->room_bytes);
	*inodes = atomic_load(&p->room_inodes);
}

static void pair_flush_failed(void *arg, uint64_t id, int err)
{
	struct pair *p = arg;

	(void)id, (void)err;
	atomic_fetch_add(&p->flush_failures, 1);
	queue_freeze(p->q, true);
}

static void pair_barrier_done(void *arg, uint64_t seq, int err)
{
	struct pair *p = arg;

	if (!atomic_load(&p->hold_barriers))
		queue_barrier_done(p->q, PEER, seq, err);
}

static void pair_report(void *arg, const struct report *r)
{
	struct pair *p = arg;

	auto_lock(&p->mu);
	atomic_fetch_add(&p->nreports, 1);
	if (p->nids < RESTATED_MAX)
		p->restated[p->nids++] = r->id;
}

static void pair_changed(void *arg, const struct change *c)
{
	struct pair *p = arg;

	ck_assert(c->kind != CHANGE_ENTRY || c->name);
	atomic_fetch_add(&p->changes_b, 1);
}

/* ---- the stream ---- */

static int pair_apply(struct pair *p, const struct qentry *e)
{
	char scratch[512];
	struct op op;
	int err = op_decode(e->meta, e->meta_len, e->data, e->data_len, scratch, &op);

	return err ? err : apply_op(p->ap, &op, e->seq);
}

static void *pair_drain_main(void *arg)
{
	struct pair *p = arg;
	struct qentry *e;

	while (!queue_next(p->q, PEER, true, &e)) {
		int err = pair_apply(p, e);
		uint64_t seq = e->seq;
		qentry_unref(e);
		if (err) {
			atomic_store(&p->apply_err, err);
			queue_detach(p->q, PEER);
			queue_set_ackset(p->q, 0);
			break;
		}
		atomic_store(&p->applied, seq);
		queue_acked(p->q, PEER, seq, seq);
	}
	return NULL;
}

static void pair_follow(struct pair *p, uint64_t from)
{
	ck_assert_int_eq(queue_attach(p->q, PEER, from), 0);
	ck_assert_int_eq(pthread_create(&p->drain, NULL, pair_drain_main, p), 0);
	p->draining = true;
	queue_set_ackset(p->q, 1 << PEER);
}

static void pair_unfollow(struct pair *p)
{
	if (!p->draining)
		return;
	queue_set_ackset(p->q, 0);
	queue_detach(p->q, PEER);
	pthread_join(p->drain, NULL);
	p->draining = false;
}

/* Waits until the standby has applied all; the error with which it stopped, or 0. */
static int pair_settle(struct pair *p)
{
	struct op op = { .type = OP_NOP };
	uint64_t seq;

	ck_assert_int_eq(queue_append(p->q, &op, 0xffff, &seq), 0);
	ck_assert_int_eq(queue_wait(p->q, seq, CONFIRM_APPLIED), 0);
	return atomic_load(&p->apply_err);
}

/* ---- life ---- */

static void side_start(struct side *s, const char *which, unsigned node, struct volume_limits *limits)
{
	static int n;
	const char *fs_name;
	struct volume_limits l = { 0 };

	snprintf(s->dir, sizeof s->dir, "%s/%s/%d.%d", pair_base, which, (int)getpid(), ++n);
	snprintf(s->state, sizeof s->state, "%s/state.%s.%d.%d", pair_base, which, (int)getpid(), n);
	ck_assert_int_eq(mkdir(s->dir, 0755), 0);
	ck_assert_int_eq(mkdir(s->state, 0700), 0);
	s->root_fd = open(s->dir, O_RDONLY | O_DIRECTORY);
	s->state_fd = open(s->state, O_RDONLY | O_DIRECTORY);
	const struct handles_config hc = { .state_fd = s->state_fd, .root_fd = s->root_fd, .uuid = "pair of a test.", .node = node,
					   .generation = 77 };
	ck_assert_int_eq(handles_open(&hc, false, &s->h), 0);
	ck_assert_int_eq(ids_new_range(s->h), 0);
	ck_assert_int_eq(objlocks_new(&s->locks), 0);
	ck_assert_int_eq(volume_limits_of(s->root_fd, &l, &fs_name), 0);
	volume_limits_intersect(limits, &l);
}

static void side_layer(struct side *s, struct volume_limits *limits)
{
	const struct local_config lc = { .root_fd = s->root_fd, .handles = s->h, .locks = s->locks, .dir_key = "key of a test..", .limits = limits };

	ck_assert_int_eq(local_new(&lc, &s->local), 0);
}

static void side_stop(struct side *s)
{
	s->local->ops->destroy(s->local);
	handles_close(s->h);
	objlocks_free(s->locks);
	close(s->root_fd);
	close(s->state_fd);
}

static void pair_start_primary(struct pair *p)
{
	const struct interpose_config ic = {
		.below = pair_below_a ? pair_below_a(p->a.local) : p->a.local, .locks = p->a.locks, .handles = p->a.h, .queue = p->q,
		.observers = &p->oa, .durability = pair_durability, .time_gran_ns = p->limits.time_gran_ns, .open_epoch = pair_open_epoch,
		.restate = pair_restate, .room = pair_room, .flush_failed = pair_flush_failed, .arg = p,
	};
	ck_assert_int_eq(interpose_new(&ic, &p->ip), 0);
	p->top = interpose_layer(p->ip);
}

/* Both roots begin equal. */
static void pair_equal_roots(struct pair *p)
{
	struct call c = { .origin = ORIGIN_RESYNC };
	struct attr a;
	ck_assert_int_eq(p->a.local->ops->getattr(p->a.local, &c, HANDLE_ROOT, NULL, &a), 0);
	const struct setattr s = { .valid = SET_MODE | SET_UID | SET_GID | SET_MTIME | SET_CTIME, .mode = a.mode & 07777, .uid = a.uid,
				   .gid = a.gid, .mtime = a.mtime, .ctime = a.ctime };
	ck_assert_int_eq(p->a.local->ops->setattr(p->a.local, &c, HANDLE_ROOT, NULL, &s, NULL), 0);
	ck_assert_int_eq(p->b.local->ops->setattr(p->b.local, &c, HANDLE_ROOT, NULL, &s, NULL), 0);
}

static void pair_start(struct pair *p)
{
	*p = (struct pair){ .room_bytes = UINT64_MAX, .room_inodes = UINT64_MAX };
	pthread_mutex_init(&p->mu, NULL);
	side_start(&p->a, "a", 1, &p->limits);
	side_start(&p->b, "b", 2, &p->limits);
	side_layer(&p->a, &p->limits);
	side_layer(&p->b, &p->limits);
	ck_assert_int_eq(queue_new(8 << 20, &p->q), 0);
	pair_start_primary(p);
	observers_add(&p->ob, pair_changed, p);
	const struct apply_config ac = { .local = pair_below_b ? pair_below_b(p->b.local) : p->b.local, .bottom = p->b.local,
					 .locks = p->b.locks, .handles = p->b.h, .observers = &p->ob, .barrier_done = pair_barrier_done,
					 .report = pair_report, .arg = p };
	ck_assert_int_eq(apply_new(&ac, &p->ap), 0);
	pair_equal_roots(p);
	interpose_want_epoch(p->ip);
	interpose_set_writable(p->ip, true);
	pair_follow(p, 1);
}

static void pair_stop(struct pair *p)
{
	pair_unfollow(p);
	queue_stop(p->q);
	apply_free(p->ap);
	interpose_free(p->ip);
	queue_free(p->q);
	side_stop(&p->a);
	side_stop(&p->b);
	pthread_mutex_destroy(&p->mu);
}

/* ---- comparing ---- */

struct listed { char name[256]; uint64_t id, pos; uint32_t type; };
struct listing { struct listed *e; size_t n, cap; };

static int listing_add(void *arg, const struct dirent_info *d)
{
	struct listing *l = arg;

	if (l->n == l->cap) {
		l->cap = l->cap ? l->cap * 2 : 64;
		l->e = realloc(l->e, l->cap * sizeof *l->e);
		ck_assert_ptr_nonnull(l->e);
	}
	struct listed *e = &l->e[l->n++];
	snprintf(e->name, sizeof e->name, "%s", d->name);
	e->id = d->id;
	e->pos = d->pos;
	e->type = d->type;
	return 0;
}

static struct listing list_dir(struct layer *l, uint64_t id)
{
	struct call c = { .origin = ORIGIN_INTERNAL };
	struct listing out = { 0 };
	struct dir *d;

	ck_assert_int_eq(l->ops->opendir(l, &c, id, &d), 0);
	ck_assert_int_ge(l->ops->readdir(l, &c, d, 0, listing_add, &out), 0);
	l->ops->releasedir(l, &c, d);
	return out;
}

struct comparing {
	struct layer *a, *b;
	const struct pair *excuses;	/* objects restated or reported there may differ; NULL = none may */
	uint64_t id;			/* being compared */
	unsigned differences, excused;
	size_t objects;
};

static bool excused(const struct pair *p, uint64_t id)
{
	for (uint64_t i = 0; p && i < p->nids; i++)
		if (p->restated[i] == id)
			return true;
	return false;
}

static void differs(struct comparing *cmp, const char *path, const char *what, long long a, long long b)
{
	if (excused(cmp->excuses, cmp->id)) {
		cmp->excused++;
		return;
	}
	if (cmp->differences++ < 20)
		fprintf(stderr, "differs: %s: %s: %lld %lld\n", path, what, a, b);
}

#define SAME(field) do { if (x.field != y.field) differs(cmp, path, #field, (long long)x.field, (long long)y.field); } while (0)

static struct attr compare_attr(struct comparing *cmp, const char *path, uint64_t id)
{
	struct call c = { .origin = ORIGIN_INTERNAL };
	struct attr x = { 0 }, y = { 0 };
	int ra = cmp->a->ops->getattr(cmp->a, &c, id, NULL, &x), rb = cmp->b->ops->getattr(cmp->b, &c, id, NULL, &y);

	if (ra || rb)
		differs(cmp, path, "getattr", ra, rb);
	SAME(id);
	SAME(gen);
	SAME(mode);
	SAME(nlink);
	SAME(uid);
	SAME(gid);
	SAME(rdev);
	SAME(size);
	SAME(mtime.tv_sec);
	SAME(mtime.tv_nsec);
	SAME(ctime.tv_sec);
	SAME(ctime.tv_nsec);
	return x;
}

static int cmp_names(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }

/* All xattrs as text: sorted names with lengths and sums of values. */
static char *xattrs_text(struct layer *l, uint64_t id)
{
	struct call c = { .origin = ORIGIN_INTERNAL };
	static __thread char list[65536], value[65536];
	const char *names[512] = { NULL };
	size_t n = 0, len = 0;
	char *text = calloc(1, 1 << 16);
	ssize_t got = l->ops->listxattr(l, &c, id, list, sizeof list);

	for (ssize_t at = 0; at < got && n < ARRAY_LEN(names); at += (ssize_t)strlen(list + at) + 1)
		names[n++] = list + at;
	qsort(names, n, sizeof *names, cmp_names);
	for (size_t i = 0; i < n; i++) {
		ssize_t v = l->ops->getxattr(l, &c, id, names[i], value, sizeof value);
		uint32_t sum = 0;
		for (ssize_t k = 0; k < v; k++)
			sum = sum * 31 + (unsigned char)value[k];
		len += (size_t)snprintf(text + len, (1 << 16) - len, "%s=%zd/%08x ", names[i], v, sum);
	}
	return text;
}

static void compare_xattrs(struct comparing *cmp, const char *path, uint64_t id)
{
	auto_free char *x = xattrs_text(cmp->a, id), *y = xattrs_text(cmp->b, id);

	if (strcmp(x, y))
		differs(cmp, path, "xattrs", (long long)strlen(x), (long long)strlen(y));
}

static void compare_data(struct comparing *cmp, const char *path, uint64_t id, uint64_t size)
{
	struct call c = { .origin = ORIGIN_INTERNAL };
	static __thread char x[1 << 18], y[1 << 18];
	struct file *f = NULL, *g = NULL;

	if (cmp->a->ops->open(cmp->a, &c, id, O_RDONLY, &f) || cmp->b->ops->open(cmp->b, &c, id, O_RDONLY, &g)) {
		differs(cmp, path, "open", f != NULL, g != NULL);
		return;
	}
	for (uint64_t off = 0; off < size; off += sizeof x) {
		ssize_t n = cmp->a->ops->read(cmp->a, &c, f, x, sizeof x, off), m = cmp->b->ops->read(cmp->b, &c, g, y, sizeof y, off);
		if (n != m || (n > 0 && memcmp(x, y, (size_t)n))) {
			differs(cmp, path, "data", n, m);
			for (ssize_t i = 0; i < n && n == m; i++)
				if (x[i] != y[i]) {
					differs(cmp, path, "first byte at", (long long)off + i, (unsigned char)x[i] << 8 | (unsigned char)y[i]);
					break;
				}
			break;
		}
	}
	cmp->a->ops->release(cmp->a, &c, f);
	cmp->b->ops->release(cmp->b, &c, g);
}

static void compare_rest(struct comparing *cmp, const char *path, uint64_t id, const struct attr *a)
{
	struct call c = { .origin = ORIGIN_INTERNAL };
	char x[4096] = "", y[4096] = "";
	uint32_t f = 0, g = 0;

	if (S_ISREG(a->mode))
		compare_data(cmp, path, id, a->size);
	if (S_ISREG(a->mode) || S_ISDIR(a->mode)) {
		cmp->a->ops->getflags(cmp->a, &c, id, &f);
		cmp->b->ops->getflags(cmp->b, &c, id, &g);
		if (f != g)
			differs(cmp, path, "flags", f, g);
	}
	if (S_ISLNK(a->mode)) {
		cmp->a->ops->readlink(cmp->a, &c, id, x, sizeof x);
		cmp->b->ops->readlink(cmp->b, &c, id, y, sizeof y);
		if (memcmp(x, y, sizeof x))
			differs(cmp, path, "target", 0, 0);
	}
}

static void compare_tree(struct comparing *cmp, const char *path, uint64_t id)
{
	struct listing x = { 0 }, y = { 0 };

	cmp->id = id;
	struct attr a = compare_attr(cmp, path, id);

	cmp->objects++;
	cmp->id = id;
	compare_xattrs(cmp, path, id);
	compare_rest(cmp, path, id, &a);
	if (!S_ISDIR(a.mode))
		return;
	x = list_dir(cmp->a, id);
	y = list_dir(cmp->b, id);
	if (x.n != y.n)
		differs(cmp, path, "entries", (long long)x.n, (long long)y.n);
	for (size_t i = 0, k = 0; i < x.n; i++) {
		struct listed *e = &x.e[i], none = { 0 };
		while (k < y.n && y.e[k].pos < e->pos)
			k++;
		struct listed *f = k < y.n ? &y.e[k] : &none;
		char sub[512];
		snprintf(sub, sizeof sub, "%.250s/%.250s", path, e->name);
		cmp->id = id;
		if (strcmp(e->name, f->name) || e->id != f->id || e->pos != f->pos || e->type != f->type)
			differs(cmp, sub, f->name, (long long)e->id, (long long)f->id);
		else if (strcmp(e->name, ".") && strcmp(e->name, ".."))
			compare_tree(cmp, sub, e->id);
	}
	free(x.e);
	free(y.e);
}

/* Differences between the two trees; OBJECTS (may be NULL): how many objects were compared. */
static inline unsigned pair_compare(struct pair *p, size_t *objects)
{
	struct comparing cmp = { .a = p->a.local, .b = p->b.local };

	compare_tree(&cmp, "", HANDLE_ROOT);
	if (objects)
		*objects = cmp.objects;
	return cmp.differences;
}

/* The same, but what was restated or reported dirty may differ. */
static inline unsigned pair_compare_excused(struct pair *p, unsigned *excuses)
{
	struct comparing cmp = { .a = p->a.local, .b = p->b.local, .excuses = p };

	compare_tree(&cmp, "", HANDLE_ROOT);
	*excuses = cmp.excused;
	return cmp.differences;
}

/* ---- convenience on the primary's top layer; parents are ids ---- */

static inline struct call user(void) { return (struct call){ .origin = ORIGIN_FUSE, .uid = 1000, .gid = 100, .umask = 022 }; }

static inline uint64_t t_find(struct pair *p, uint64_t parent, const char *name)
{
	struct call c = user();
	struct attr a;

	return p->top->ops->lookup(p->top, &c, parent, name, &a) ? 0 : a.id;
}

static inline int t_make(struct pair *p, uint64_t parent, const char *name, uint32_t mode, uint64_t *id, struct file **f)
{
	struct call c = user();
	struct create cr = { .mode = mode, .target = S_ISLNK(mode) ? "some/where" : NULL, .rdev = S_ISCHR(mode) ? 0x103 : 0 };
	struct attr a = { 0 };
	int r = p->top->ops->create(p->top, &c, parent, name, &cr, O_RDWR, &a, f);

	if (id)
		*id = a.id;
	return r;
}

static inline struct file *t_open(struct pair *p, uint64_t id, int flags)
{
	struct call c = user();
	struct file *f = NULL;

	return p->top->ops->open(p->top, &c, id, flags, &f) ? NULL : f;
}

static inline void t_close(struct pair *p, struct file *f)
{
	struct call c = user();

	p->top->ops->release(p->top, &c, f);
}

static inline ssize_t t_write(struct pair *p, struct file *f, const void *data, size_t len, uint64_t off)
{
	struct call c = user();
	const struct wdata d = { .p = data, .len = len };

	return p->top->ops->write(p->top, &c, f, &d, off, 0, NULL);
}

static inline int t_fsync(struct pair *p, struct file *f)
{
	struct call c = user();

	return p->top->ops->fsync(p->top, &c, file_id(f), f, false);
}

static inline int t_unlink(struct pair *p, uint64_t parent, const char *name)
{
	struct call c = user();

	return p->top->ops->unlink(p->top, &c, parent, name);
}

static inline int t_rmdir(struct pair *p, uint64_t parent, const char *name)
{
	struct call c = user();

	return p->top->ops->rmdir(p->top, &c, parent, name);
}

static inline int t_rename(struct pair *p, uint64_t p1, const char *n1, uint64_t p2, const char *n2, unsigned flags)
{
	struct call c = user();

	return p->top->ops->rename(p->top, &c, p1, n1, p2, n2, flags);
}

static inline int t_link(struct pair *p, uint64_t id, uint64_t parent, const char *name)
{
	struct call c = user();
	struct attr a;

	return p->top->ops->link(p->top, &c, id, parent, name, &a);
}

static inline int t_setattr(struct pair *p, uint64_t id, const struct setattr *s)
{
	struct call c = user();
	struct attr a;

	return p->top->ops->setattr(p->top, &c, id, NULL, s, &a);
}

static inline int t_setxattr(struct pair *p, uint64_t id, const char *name, const void *v, size_t len)
{
	struct call c = user();

	return p->top->ops->setxattr(p->top, &c, id, name, v, len, 0);
}

#endif
