/*
 * Resync, both sides in one process: a primary's stack on ext4 and a standby's on xfs, the queue between them drained by a thread through the codec
 * of ops, reports handed back by a call. The trees are compared by a walk of its own, through both local layers and raw.
 */
#include <check.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "resync/resync_int.h"

enum { PEER = 2, KIB = 1024, MIB = 1024 * 1024, WAIT_MS = 60000 };

/* One node's stack. */
struct node {
	char dir[96], state[96];
	int root_fd, state_fd;
	struct handles *h;
	struct objlocks *locks;
	struct layer *l;		/* the local layer */
	struct observers observers;
	bool primary;
};

static char base[32];
static struct node A, B;
static struct queue *queue;
static struct interpose *ip;
static struct layer *top;		/* the mirroring layer on A */
static struct apply *apply;
static struct resync_sink *sink;
static struct resync *_Atomic engine;
static bool inconsistent;

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t cond;
static int done_err;			/* guarded by mu, as what follows; 1 = not yet */
static int apply_err;
static uint64_t applied;
static uint64_t seen[OP_TYPE_LAST + 1], data_bytes;	/* ops that came, and bytes of OP_R_DATA */
static uint64_t final_seq;		/* of the last final OP_R_END */
static atomic_uint levels;			/* how often one was answered with success */
static unsigned crash_after;		/* the standby stops applying after so many ops; 0 = never */
static atomic_bool never_level;		/* the standby finds the root dirty whatever is said of it */
static atomic_uint ms_behind;		/* the standby applies an op so long after it was made at the earliest, as over a long line */
static struct came { uint64_t seq, id, parent; uint8_t type; } came[32];	/* what came last, by number modulo */
static size_t ncame;
static SRunner *runner;

/* ---- the stacks ---- */

static void run(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static void run(const char *fmt, ...)
{
	char cmd[512];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(cmd, sizeof cmd, fmt, ap);
	va_end(ap);
	ck_assert_msg(system(cmd) == 0, "%s", cmd);
}

static bool may_adopt(void *arg) { return ((struct node *)arg)->primary; }

static void node_up(struct node *n, unsigned number)
{
	struct handles_config hc = { .node = number, .generation = 7, .uuid = { 1, 2, 3 } };
	struct local_config lc = { .may_adopt = may_adopt, .arg = n, .dir_key = { 9, 8, 7 } };

	n->primary = number == 1;
	n->root_fd = open(n->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	n->state_fd = open(n->state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(n->root_fd, 0);
	ck_assert_int_ge(n->state_fd, 0);
	hc.state_fd = n->state_fd;
	hc.root_fd = n->root_fd;
	ck_assert_int_eq(handles_open(&hc, false, &n->h), 0);
	ck_assert_int_eq(objlocks_new(&n->locks), 0);
	lc.root_fd = n->root_fd;
	lc.handles = n->h;
	lc.locks = n->locks;
	ck_assert_int_eq(local_new(&lc, &n->l), 0);
	if (n->primary)
		ck_assert_int_eq(ids_new_range(n->h), 0);
}

static void node_down(struct node *n)
{
	n->l->ops->destroy(n->l);
	objlocks_free(n->locks);
	handles_close(n->h);
	close(n->root_fd);
	close(n->state_fd);
}

static void on_report(void *arg, const struct report *r)
{

	struct resync *e = atomic_load(&engine);

	(void)arg;
	if (r->kind == REPORT_ENDED && r->seq == final_seq && !r->bits)
		levels++;
	if (e && r->kind == REPORT_ENDED && atomic_load(&never_level))
		resync_report(e, &(struct report){ .kind = REPORT_DIRTY, .id = HANDLE_ROOT });
	if (e)
		resync_report(e, r);
}

static void restate(void *arg, const uint64_t *ids, unsigned n)
{
	struct resync *e = atomic_load(&engine);

	(void)arg;
	if (e)
		resync_restate(e, ids, n);
}

/* What the room above says beside the tree, and what of it has come. */
enum { BESIDE_KIND = 77, BESIDE_PARTS = 3 };
static int beside_err;
static atomic_uint beside_asked, beside_came;

static int say_beside(void *arg, unsigned peer)
{
	ck_assert_ptr_eq(arg, &beside_err);
	atomic_fetch_add(&beside_asked, 1);
	for (unsigned i = 0; i < BESIDE_PARTS && !beside_err; i++) {
		struct op op = { .type = OP_ATTACH, .attach = "part", .attach_len = 4, .attach_kind = BESIDE_KIND };
		int err = interpose_emit(ip, &op, (uint16_t)(1u << peer), &(uint64_t){ 0 });
		if (err)
			return err;
	}
	return beside_err;
}

static void beside_comes(void *arg, uint16_t kind, uint64_t seq, const void *data, size_t len)
{
	(void)arg, (void)kind, (void)seq, (void)data;
	ck_assert_uint_eq(len, 4);
	atomic_fetch_add(&beside_came, 1);
}

static int set_inconsistent(void *arg, bool yes)
{
	(void)arg;
	if (!yes)	/* whoever goes on from here by stream must have it already */
		ck_assert_uint_eq(atomic_load(&beside_came), BESIDE_PARTS);
	else
		atomic_store(&beside_came, 0);
	inconsistent = yes;
	return 0;
}

static void ignore_barrier(void *arg, uint64_t seq, int err) { (void)arg, (void)seq, (void)err; }

static void standby_up(void)
{
	struct apply_config ac = { .fsync_workers = 1, .barrier_done = ignore_barrier, .report = on_report };
	struct resync_sink_config sc = { .set_inconsistent = set_inconsistent };

	node_up(&B, 2);
	ac.local = ac.bottom = sc.bottom = B.l;
	ac.locks = B.locks;
	ac.handles = sc.handles = B.h;
	ac.observers = &B.observers;
	ck_assert_int_eq(apply_new(&ac, &apply), 0);
	ck_assert_int_eq(resync_sink_new(&sc, &sink), 0);
	resync_sink_register(sink, apply);
	apply_register_attach(apply, BESIDE_KIND, beside_comes, NULL);
}

static void standby_down(void)
{
	apply_free(apply);
	resync_sink_free(sink);
	node_down(&B);
}

static void up(void)
{
	struct interpose_config ic = { .durability = DURABILITY_ASYNC, .restate = restate };

	umask(0);
	cond_init_mono(&cond);
	log_init("resync_test", LOG_SINK_STDERR, getenv("VERBOSE") ? LOG_LVL_DEBUG : LOG_LVL_ERROR);
	snprintf(base, sizeof base, "/tmp/resync.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(base));
	snprintf(A.dir, sizeof A.dir, "%s/a", base);
	snprintf(B.dir, sizeof B.dir, "%s/b", base);
	snprintf(A.state, sizeof A.state, "%s/sa", base);
	snprintf(B.state, sizeof B.state, "%s/sb", base);
	run("mkdir %s %s %s %s", A.dir, B.dir, A.state, B.state);
	run("truncate -s 400M %s/a.img && mkfs.ext4 -q -N 60000 %s/a.img && mount -o loop %s/a.img %s", base, base, base, A.dir);
	run("truncate -s 600M %s/b.img && mkfs.xfs -q %s/b.img && mount -o loop %s/b.img %s", base, base, base, B.dir);
	node_up(&A, 1);
	ck_assert_int_eq(queue_new(64 * MIB, &queue), 0);
	ic.below = A.l;
	ic.locks = A.locks;
	ic.handles = A.h;
	ic.queue = queue;
	ic.observers = &A.observers;
	ck_assert_int_eq(interpose_new(&ic, &ip), 0);
	interpose_set_writable(ip, true);
	top = interpose_layer(ip);
	standby_up();
}

static void down(void)
{
	standby_down();
	interpose_free(ip);
	node_down(&A);
	queue_free(queue);
	run("umount %s && umount %s && rm -rf %s", A.dir, B.dir, base);
}

/* What a test leaves behind when it fails is no state for another. */
static void stop_after_a_failure(void)
{
	if (!srunner_ntests_failed(runner))
		return;
	srunner_print(runner, CK_ENV);
	fprintf(stderr, "# nothing is tested behind a failure. What came last:\n");
	for (size_t i = ncame < ARRAY_LEN(came) ? 0 : ncame - ARRAY_LEN(came); i < ncame; i++) {
		const struct came *k = &came[i % ARRAY_LEN(came)];
		fprintf(stderr, "#   %llu: %s %llx in %llx\n", (unsigned long long)k->seq, op_name(k->type), (unsigned long long)k->id, (unsigned long long)k->parent);
	}
	fflush(NULL);
	run("umount -l %s; umount -l %s; rm -rf %s", A.dir, B.dir, base);
	_exit(1);
}

static void end(void)
{
	stop_after_a_failure();
	down();
}

/* ---- the stream ---- */

static pthread_t drainer;

static void stay_behind(const struct qentry *e)
{
	for (uint64_t due = e->born_ns + (uint64_t)ms_behind * 1000000; clock_mono_ns() < due && ms_behind;)
		nanosleep(&(struct timespec){ 0, 1000000 }, NULL);
}

static int apply_entry(const struct qentry *e)
{
	char scratch[512];
	struct op op;
	int err = op_decode(e->meta, e->meta_len, e->data, e->data_len, scratch, &op);

	if (err || !(e->peers & 1 << PEER))
		return err;
	if (op.type == OP_R_END && op.flags == R_END_FINAL)
		final_seq = e->seq;
	came[ncame++ % ARRAY_LEN(came)] = (struct came){ e->seq, op.id, op.parent, op.type };
	err = apply_op(apply, &op, e->seq);
	if (err)
		fprintf(stderr, "seq %llu: %s of %llx: %s\n", (unsigned long long)e->seq, op_name(op.type), (unsigned long long)op.id, strerror(-err));
	pthread_mutex_lock(&mu);
	seen[op.type]++;
	if (op.type == OP_R_DATA)
		data_bytes += op.data_len;
	pthread_mutex_unlock(&mu);
	return err;
}

static void *drain(void *arg)
{
	struct qentry *e;
	unsigned n = 0;
	bool dead = false;

	(void)arg;
	while (!queue_next(queue, PEER, true, &e)) {
		stay_behind(e);
		if (crash_after && ++n > crash_after)
			dead = true;
		int err = dead ? 0 : apply_entry(e);
		uint64_t seq = e->seq;
		qentry_unref(e);
		queue_acked(queue, PEER, seq, seq);
		pthread_mutex_lock(&mu);
		applied = seq;
		if (err && !apply_err)
			apply_err = err;
		if (err || dead)
			done_err = err ? err : -ECONNRESET;
		dead |= err != 0;
		pthread_cond_broadcast(&cond);
		pthread_mutex_unlock(&mu);
	}
	return NULL;
}

static void on_done(void *arg, unsigned peer, int err)
{
	(void)arg;
	ck_assert_uint_eq(peer, PEER);
	pthread_mutex_lock(&mu);
	done_err = err;
	pthread_cond_broadcast(&cond);
	pthread_mutex_unlock(&mu);
}

static void round_start(void)
{
	struct resync_config rc = { .peer = PEER, .full = true, .local = A.l, .bottom = A.l, .locks = A.locks, .handles = A.h, .ip = ip, .queue = queue,
				    .done = on_done, .snapshot = say_beside, .snapshot_arg = &beside_err };
	struct resync *r;

	memset(seen, 0, sizeof seen);
	data_bytes = 0;
	done_err = 1;
	apply_err = 0;
	apply_set_tolerant(apply, true);	/* as when a stream is opened for a comparison: ops may come before OP_R_BEGIN */
	ck_assert_int_eq(queue_attach(queue, PEER, queue_last(queue) + 1), 0);
	ck_assert_int_eq(pthread_create(&drainer, NULL, drain, NULL), 0);
	pthread_mutex_lock(&mu);	/* no report before the engine is known */
	ck_assert_int_eq(resync_start(&rc, &r), 0);
	atomic_store(&engine, r);
	pthread_mutex_unlock(&mu);
}

static int round_wait(void)
{
	struct timespec until = clock_mono_after_ms(WAIT_MS);
	int err = 0;

	pthread_mutex_lock(&mu);
	while (done_err == 1 && !err)
		err = pthread_cond_timedwait(&cond, &mu, &until);
	int result = done_err;
	pthread_mutex_unlock(&mu);
	ck_assert_msg(!err, "the round did not end");
	return result;
}

/* Everything that was emitted so far is applied. */
static void settle(void)
{
	struct timespec until = clock_mono_after_ms(WAIT_MS);
	uint64_t last = queue_last(queue);
	int err = 0;

	pthread_mutex_lock(&mu);
	while (applied < last && !err)
		err = pthread_cond_timedwait(&cond, &mu, &until);
	pthread_mutex_unlock(&mu);
	ck_assert_msg(!err, "the standby does not drain");
}

/* The engine has nothing to do any more: what is asked for now is answered. */
static void quiesce(void)
{
	struct timespec until = clock_mono_after_ms(WAIT_MS);
	uint64_t root = HANDLE_ROOT;
	unsigned before = levels;
	int err = 0;

	resync_restate(atomic_load(&engine), &root, 1);
	pthread_mutex_lock(&mu);
	while (levels == before && !apply_err && !err)
		err = pthread_cond_timedwait(&cond, &mu, &until);
	pthread_mutex_unlock(&mu);
	ck_assert_msg(!err, "the engine does not come to rest");
	settle();
}

static void round_stop(void)
{
	struct resync *r = atomic_exchange(&engine, NULL);

	queue_detach(queue, PEER);
	pthread_join(drainer, NULL);
	resync_stop(r);
	ck_assert_int_eq(apply_err, 0);
}

/* ---- calls ---- */

static struct call call(void) { return (struct call){ .origin = ORIGIN_FUSE }; }

static uint64_t id_in(struct layer *l, uint64_t parent, const char *name)
{
	struct call c = call();
	struct attr a;

	return l->ops->lookup(l, &c, parent, name, &a) ? 0 : a.id;
}

/* Of a path relative to the root; 0 = none. */
static uint64_t id_of(struct layer *l, const char *path)
{
	char copy[4096], *save = NULL;
	uint64_t id = HANDLE_ROOT;

	snprintf(copy, sizeof copy, "%s", path);
	for (char *p = strtok_r(copy, "/", &save); p && id; p = strtok_r(NULL, "/", &save))
		id = id_in(l, id, p);
	return id;
}

static uint64_t split(struct layer *l, const char *path, const char **name)
{
	char dir[4096];
	const char *slash = strrchr(path, '/');

	*name = slash ? slash + 1 : path;
	if (!slash)
		return HANDLE_ROOT;
	snprintf(dir, sizeof dir, "%.*s", (int)(slash - path), path);
	return id_of(l, dir);
}

static uint64_t mk(struct layer *l, const char *path, uint32_t mode, const char *target, uint64_t rdev, uint64_t id)
{
	struct call c = call();
	struct create cr = { .mode = mode, .target = target, .rdev = rdev };
	const char *name;
	uint64_t parent = split(l, path, &name);
	struct attr a;

	c.new_id = id;
	int err = l->ops->create(l, &c, parent, name, &cr, 0, &a, NULL);
	ck_assert_msg(!err, "create %s: %s", path, strerror(-err));
	return a.id;
}

static uint64_t mkfile(struct layer *l, const char *path) { return mk(l, path, S_IFREG | 0644, NULL, 0, 0); }
static uint64_t mkd(struct layer *l, const char *path) { return mk(l, path, S_IFDIR | 0755, NULL, 0, 0); }

static void put_id(struct layer *l, uint64_t id, uint64_t off, const void *p, size_t len)
{
	struct call c = call();
	struct file *f;

	ck_assert_int_eq(l->ops->open(l, &c, id, O_RDWR, &f), 0);
	for (size_t at = 0; at < len;) {
		struct wdata d = { .p = (const char *)p + at, .len = len - at < MIB ? len - at : MIB };
		ssize_t n = l->ops->write(l, &c, f, &d, off + at, 0, NULL);
		ck_assert_int_gt(n, 0);
		at += (size_t)n;
	}
	ck_assert_int_eq(l->ops->release(l, &c, f), 0);
}

static void put(struct layer *l, const char *path, uint64_t off, const void *p, size_t len)
{
	put_id(l, id_of(l, path), off, p, len);
}

/* LEN bytes that differ by SEED. */
static void fill(struct layer *l, const char *path, uint64_t off, size_t len, unsigned seed)
{
	unsigned char *p = malloc(len);

	for (size_t i = 0; i < len; i++)
		p[i] = (unsigned char)((i * 2654435761u + seed * 40503u) >> 13);
	put(l, path, off, p, len);
	free(p);
}

static void set(struct layer *l, const char *path, struct setattr s)
{
	struct call c = call();
	struct attr a;

	c.origin = ORIGIN_RESYNC;	/* may set ctime */
	ck_assert_int_eq(l->ops->setattr(l, &c, id_of(l, path), NULL, &s, &a), 0);
}

static void setx(struct layer *l, const char *path, const char *name, const void *value, size_t len)
{
	struct call c = call();

	int err = l->ops->setxattr(l, &c, id_of(l, path), name, value, len, 0);
	ck_assert_msg(!err, "%s: %s: %s", path, name, strerror(-err));
}

static void rm(struct layer *l, const char *path)
{
	struct call c = call();
	const char *name;
	uint64_t parent = split(l, path, &name);

	ck_assert_int_eq(l->ops->unlink(l, &c, parent, name), 0);
}

static void rmd(struct layer *l, const char *path)
{
	struct call c = call();
	const char *name;
	uint64_t parent = split(l, path, &name);

	ck_assert_int_eq(l->ops->rmdir(l, &c, parent, name), 0);
}

static void mv(struct layer *l, const char *from, const char *to, unsigned flags)
{
	struct call c = call();
	const char *n1, *n2;
	uint64_t p1 = split(l, from, &n1), p2 = split(l, to, &n2);

	int err = l->ops->rename(l, &c, p1, n1, p2, n2, flags);
	ck_assert_msg(!err, "%s -> %s: %s", from, to, strerror(-err));
}

static void ln(struct layer *l, const char *from, const char *to)
{
	struct call c = call();
	const char *n;
	uint64_t p = split(l, to, &n), id = id_of(l, from);
	struct attr a;

	ck_assert_int_eq(l->ops->link(l, &c, id, p, n, &a), 0);
}

/* ---- the comparison ---- */

static unsigned diffs;
static void differ(const char *path, const char *what)
{
	if (diffs++ < 20)
		fprintf(stderr, "differs: %s: %s\n", path, what);
}

struct names { char (*name)[256]; uint64_t *id, *pos; size_t n, cap; };

static int add_name(void *arg, const struct dirent_info *e)
{
	struct names *s = arg;

	if (s->n == s->cap) {
		s->cap = s->cap ? s->cap * 2 : 64;
		s->name = realloc(s->name, s->cap * sizeof *s->name);
		s->id = realloc(s->id, s->cap * sizeof *s->id);
		s->pos = realloc(s->pos, s->cap * sizeof *s->pos);
	}
	snprintf(s->name[s->n], 256, "%s", e->name);
	s->id[s->n] = e->id;
	s->pos[s->n++] = e->pos;
	return 0;
}

static void names_of(struct layer *l, uint64_t id, struct names *out)
{
	struct call c = call();
	struct dir *d;

	memset(out, 0, sizeof *out);
	ck_assert_int_eq(l->ops->opendir(l, &c, id, &d), 0);
	ck_assert_int_ge(l->ops->readdir(l, &c, d, 0, add_name, out), 0);
	l->ops->releasedir(l, &c, d);
}

static void names_free(struct names *n)
{
	free(n->name);
	free(n->id);
	free(n->pos);
}

static void same_attr(const char *path, const struct attr *a, const struct attr *b)
{
	if (a->id != b->id) differ(path, "id");
	if (a->gen != b->gen) differ(path, "generation");
	if (a->mode != b->mode) differ(path, "mode");
	if (a->nlink != b->nlink) differ(path, "nlink");
	if (a->uid != b->uid || a->gid != b->gid) differ(path, "owner");
	if (a->rdev != b->rdev) differ(path, "rdev");
	if (a->size != b->size) differ(path, "size");
	if (time_cmp(a->mtime, b->mtime)) differ(path, "mtime");
	if (time_cmp(a->ctime, b->ctime)) differ(path, "ctime");
}

static void same_xattrs(const char *path, uint64_t id)
{
	struct call c = call();
	struct xattr_names x, y;
	static char v[LAYER_XATTR_MAX], w[LAYER_XATTR_MAX];

	ck_assert_int_eq(resync_xattr_names(A.l, &c, id, &x), 0);
	ck_assert_int_eq(resync_xattr_names(B.l, &c, id, &y), 0);
	if (x.n != y.n)
		differ(path, "number of xattrs");
	for (size_t i = 0; i < x.n && i < y.n; i++) {
		ssize_t n = A.l->ops->getxattr(A.l, &c, id, x.name[i], v, sizeof v);
		ssize_t m = B.l->ops->getxattr(B.l, &c, id, y.name[i], w, sizeof w);
		if (strcmp(x.name[i], y.name[i]) || n != m || n < 0 || memcmp(v, w, (size_t)n))
			differ(path, x.name[i]);
	}
	resync_xattr_names_free(&x);
	resync_xattr_names_free(&y);
}

static void same_data(const char *path, uint64_t id, uint64_t size)
{
	static char v[MIB], w[MIB];
	struct call c = call();
	struct file *f, *g;

	ck_assert_int_eq(A.l->ops->open(A.l, &c, id, O_RDONLY, &f), 0);
	ck_assert_int_eq(B.l->ops->open(B.l, &c, id, O_RDONLY, &g), 0);
	for (uint64_t off = 0; off < size; off += MIB) {
		ssize_t n = A.l->ops->read(A.l, &c, f, v, MIB, off), m = B.l->ops->read(B.l, &c, g, w, MIB, off);
		if (n != m || n < 0 || memcmp(v, w, (size_t)n)) {
			differ(path, "contents");
			break;
		}
	}
	A.l->ops->release(A.l, &c, f);
	B.l->ops->release(B.l, &c, g);
}

static void same_object(const char *path, uint64_t id)
{
	struct call c = call();
	char s[4096], t[4096];
	uint32_t fa = 0, fb = 0;
	struct attr a, b;

	if (A.l->ops->getattr(A.l, &c, id, NULL, &a) || B.l->ops->getattr(B.l, &c, id, NULL, &b)) {
		differ(path, "missing");
		return;
	}
	same_attr(path, &a, &b);
	same_xattrs(path, id);
	if (resync_flags(A.l, &c, id, a.mode, &fa) || resync_flags(B.l, &c, id, a.mode, &fb) || fa != fb)
		differ(path, "inode flags");
	if (S_ISREG(a.mode) && S_ISREG(b.mode))
		same_data(path, id, a.size);
	if (!S_ISLNK(a.mode))
		return;
	ssize_t n = A.l->ops->readlink(A.l, &c, id, s, sizeof s), m = B.l->ops->readlink(B.l, &c, id, t, sizeof t);
	if (n != m || n < 0 || memcmp(s, t, (size_t)n))
		differ(path, "target");
}

/* What the standby's backing directory really holds, hidden strangers too. */
static size_t raw_count(const char *path)
{
	char full[4096 + 64];
	struct dirent *e;
	size_t n = 0;

	snprintf(full, sizeof full, "%s/%s", B.dir, path);
	DIR *d = opendir(full);
	ck_assert_msg(d, "%s", full);
	while ((e = readdir(d)))
		n += strcmp(e->d_name, HIDDEN_DIR) != 0;
	closedir(d);
	return n;
}

static void same_tree(const char *path, uint64_t id)
{
	struct names a, b;
	char sub[4096];

	same_object(path, id);
	names_of(A.l, id, &a);
	names_of(B.l, id, &b);
	if (a.n != b.n)
		differ(path, "number of entries");
	if (raw_count(path) != a.n)
		differ(path, "raw number of entries");
	for (size_t i = 0; i < a.n && i < b.n; i++) {
		bool dots = !strcmp(a.name[i], ".") || !strcmp(a.name[i], "..");
		snprintf(sub, sizeof sub, "%s%s%s", path, *path ? "/" : "", a.name[i]);
		if (strcmp(a.name[i], b.name[i]) || a.id[i] != b.id[i] || a.pos[i] != b.pos[i]) {
			differ(sub, "entry");
			break;
		}
		struct hentry e;
		if (dots)
			continue;
		ck_assert_int_eq(index_get(A.h, a.id[i], &e), 0);
		if (S_ISDIR(e.type))
			same_tree(sub, a.id[i]);
		else
			same_object(sub, a.id[i]);
	}
	names_free(&a);
	names_free(&b);
}

static int count_one(void *arg, uint64_t id)
{
	(void)id;
	++*(unsigned *)arg;
	return 0;
}

static unsigned limbo_count(struct node *n)
{
	unsigned k = 0;

	ck_assert_int_ge(local_limbo_each(n->l, count_one, &k), 0);
	return k;
}

static void check_equal(void)
{
	diffs = 0;
	same_tree("", HANDLE_ROOT);
	ck_assert_uint_eq(diffs, 0);
	ck_assert_uint_eq(limbo_count(&A), limbo_count(&B));
}

/* A round ends level, and the trees are equal. */
static void level(void)
{
	round_start();
	int err = round_wait();
	ck_assert_msg(!err, "the round ended with: %s", strerror(-err));
	round_stop();
	ck_assert(!inconsistent);
	ck_assert(!apply_tolerant(apply));
	check_equal();
}

/* ---- a tree with some of everything ---- */

static void plant_everything(const char *top_dir)
{
	char p[256];
#define P(s) (snprintf(p, sizeof p, "%s/" s, top_dir), p)
	char q[256];
#define Q(s) (snprintf(q, sizeof q, "%s/" s, top_dir), q)
	mkd(top, top_dir);
	mkfile(top, P("empty"));
	mkfile(top, P("small"));
	fill(top, P("small"), 0, 1000, 1);
	mkfile(top, P("big"));
	fill(top, P("big"), 0, 9 * MIB + 12345, 2);
	mkfile(top, P("sparse"));
	fill(top, P("sparse"), 20 * MIB, 100, 3);
	fill(top, P("sparse"), 40 * MIB + 7, 70000, 4);
	set(top, P("sparse"), (struct setattr){ .valid = SET_SIZE, .size = 64 * MIB + 3 });
	mk(top, P("symlink"), S_IFLNK | 0777, "where/ever", 0, 0);
	mk(top, P("fifo"), S_IFIFO | 0640, NULL, 0, 0);
	mk(top, P("sock"), S_IFSOCK | 0600, NULL, 0, 0);
	mk(top, P("chr"), S_IFCHR | 0660, NULL, makedev(1, 3), 0);
	mk(top, P("blk"), S_IFBLK | 0660, NULL, makedev(7, 99), 0);
	mkd(top, P("d"));
	mkd(top, P("d/e"));
	mkd(top, P("d/e/f"));
	mkfile(top, P("d/e/f/deep"));
	fill(top, P("d/e/f/deep"), 0, 100, 5);
	ln(top, P("small"), Q("d/hard"));
	ln(top, P("small"), Q("d/e/hard2"));
	setx(top, P("small"), "user.one", "1", 1);
	setx(top, P("small"), "trusted.two", "22", 2);
	setx(top, P("d"), "user.dir", "", 0);
	set(top, P("small"), (struct setattr){ .valid = SET_MODE | SET_UID | SET_GID, .mode = 04751, .uid = 12, .gid = 34 });
	set(top, P("d/e"), (struct setattr){ .valid = SET_MTIME, .mtime = { 1234567890, 123456789 } });
#undef P
#undef Q
}

START_TEST(an_empty_standby_gets_everything)
{
	plant_everything("t");
	level();
	ck_assert_uint_gt(data_bytes, 9 * MIB);
	ck_assert_uint_lt(data_bytes, 12 * MIB);
}
END_TEST

START_TEST(an_equal_standby_gets_no_data)
{
	level();
	ck_assert_uint_eq(seen[OP_R_PLACE] + seen[OP_R_XATTR], 0);
	ck_assert_uint_eq(data_bytes, 0);
	ck_assert_uint_ge(seen[OP_R_END], 2);
}
END_TEST

/* ---- single differences, planted below the standby ---- */

static void keep_times(const char *path, void (*change)(const char *path))
{
	struct call c = call();
	struct attr a;
	uint64_t id = id_of(B.l, path);

	ck_assert_int_eq(B.l->ops->getattr(B.l, &c, id, NULL, &a), 0);
	change(path);
	set(B.l, path, (struct setattr){ .valid = SET_MTIME | SET_CTIME, .mtime = a.mtime, .ctime = a.ctime });
}

static void flip_byte(const char *path) { put(B.l, path, 5 * MIB + 77, "#", 1); }
static void grow(const char *path) { put(B.l, path, 9 * MIB + 12345, "more", 4); }
static void cut(const char *path) { set(B.l, path, (struct setattr){ .valid = SET_SIZE, .size = 5 * MIB + 3 }); }
static void fill_hole(const char *path) { fill(B.l, path, 30 * MIB, 200000, 8); }

START_TEST(a_differing_byte_is_repaired_by_one_block)
{
	keep_times("t/big", flip_byte);
	level();
	ck_assert_uint_eq(data_bytes, 64 * KIB);
}
END_TEST

START_TEST(a_file_that_is_too_long_or_too_short_is_repaired)
{
	keep_times("t/big", grow);
	level();
	ck_assert_uint_eq(data_bytes, 0);
	keep_times("t/big", cut);
	level();
	ck_assert_uint_lt(data_bytes, 5 * MIB);
}
END_TEST

START_TEST(data_in_a_hole_is_punched)
{
	struct stat a, b;
	char p[256];

	keep_times("t/sparse", fill_hole);
	level();
	snprintf(p, sizeof p, "%s/t/sparse", B.dir);
	ck_assert_int_eq(stat(p, &b), 0);
	snprintf(p, sizeof p, "%s/t/sparse", A.dir);
	ck_assert_int_eq(stat(p, &a), 0);
	ck_assert_uint_eq(data_bytes, 0);
	ck_assert_int_lt(b.st_blocks, a.st_blocks + 300);
}
END_TEST

START_TEST(attributes_are_repaired)
{
	static const struct setattr all[] = {
		{ .valid = SET_MODE, .mode = 02777 }, { .valid = SET_UID, .uid = 99 }, { .valid = SET_GID, .gid = 99 },
		{ .valid = SET_MTIME, .mtime = { 5, 5 } }, { .valid = SET_CTIME, .ctime = { 6, 6 } },
	};
	static const char *const paths[] = { "t/small", "t/d", "t/fifo", "t/chr", "t/symlink", "" };

	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		for (size_t k = 0; k < ARRAY_LEN(paths); k++)
			if (!(all[i].valid & SET_MODE) || strcmp(paths[k], "t/symlink"))
				set(B.l, paths[k], all[i]);
		level();
		ck_assert_uint_eq(data_bytes, 0);
	}
}
END_TEST

START_TEST(a_wrong_count_of_sub_directories_is_repaired)
{
	ck_assert_int_eq(index_add_nsub(B.h, id_of(B.l, "t/d"), 3), 0);
	ck_assert_int_eq(index_add_nsub(B.h, HANDLE_ROOT, -1), 0);
	level();
}
END_TEST

START_TEST(xattrs_and_acls_are_repaired)
{
	/* version 2; user:rwx, user 5:r-x, group:r--, mask:rwx, other:--- */
	static const unsigned char acl[] = { 2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 5, 0, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255,
					     16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255 };
	struct call c = call();

	setx(B.l, "t/small", "user.one", "other", 5);
	setx(B.l, "t/small", "user.extra", "x", 1);
	ck_assert_int_eq(B.l->ops->removexattr(B.l, &c, id_of(B.l, "t/small"), "trusted.two"), 0);
	setx(B.l, "t/d", "system.posix_acl_default", acl, sizeof acl);
	setx(B.l, "t/empty", "system.posix_acl_access", acl, sizeof acl);
	level();
	setx(top, "t/d", "system.posix_acl_default", acl, sizeof acl);
	setx(top, "t/empty", "system.posix_acl_access", acl, sizeof acl);
	level();
}
END_TEST

START_TEST(inode_flags_are_repaired)
{
	struct call c = call();

	ck_assert_int_eq(top->ops->setflags(top, &c, id_of(top, "t/small"), FS_IMMUTABLE_FL), 0);
	ck_assert_int_eq(B.l->ops->setflags(B.l, &c, id_of(B.l, "t/big"), FS_APPEND_FL), 0);
	level();
	ck_assert_int_eq(top->ops->setflags(top, &c, id_of(top, "t/small"), 0), 0);
	level();
}
END_TEST

START_TEST(missing_and_extra_objects_are_repaired)
{
	rm(B.l, "t/big");
	rm(B.l, "t/symlink");
	rm(B.l, "t/chr");
	rm(B.l, "t/d/e/f/deep");
	rmd(B.l, "t/d/e/f");
	mk(B.l, "t/extra", S_IFREG | 0600, NULL, 0, ((uint64_t)2 << ID_NODE_SHIFT) + 1001);
	fill(B.l, "t/extra", 0, 5000, 1);
	mk(B.l, "t/xd", S_IFDIR | 0700, NULL, 0, ((uint64_t)2 << ID_NODE_SHIFT) + 1002);
	mk(B.l, "t/xd/y", S_IFDIR | 0700, NULL, 0, ((uint64_t)2 << ID_NODE_SHIFT) + 1003);
	mk(B.l, "t/xd/y/z", S_IFREG | 0700, NULL, 0, ((uint64_t)2 << ID_NODE_SHIFT) + 1004);
	ln(B.l, "t/empty", "t/xd/also-empty");
	mv(B.l, "t/d/e", "t/xd/e", 0);
	level();
}
END_TEST

START_TEST(what_cannot_be_changed_in_place_is_made_again)
{
	uint64_t link = id_of(B.l, "t/symlink"), chr = id_of(B.l, "t/chr"), fifo = id_of(B.l, "t/fifo");

	rm(B.l, "t/symlink");
	mk(B.l, "t/symlink", S_IFLNK | 0777, "elsewhere", 0, link);
	rm(B.l, "t/chr");
	mk(B.l, "t/chr", S_IFCHR | 0660, NULL, makedev(1, 5), chr);
	rm(B.l, "t/fifo");
	mk(B.l, "t/fifo", S_IFDIR | 0700, NULL, 0, fifo);
	level();
}
END_TEST

START_TEST(another_type_under_the_same_name_is_replaced)
{
	rm(B.l, "t/empty");
	mk(B.l, "t/empty", S_IFDIR | 0700, NULL, 0, ((uint64_t)2 << ID_NODE_SHIFT) + 2001);
	mk(B.l, "t/empty/in", S_IFREG | 0700, NULL, 0, ((uint64_t)2 << ID_NODE_SHIFT) + 2002);
	rm(B.l, "t/d/e/f/deep");
	rmd(B.l, "t/d/e/f");
	mk(B.l, "t/d/e/f", S_IFREG | 0700, NULL, 0, ((uint64_t)2 << ID_NODE_SHIFT) + 2003);
	level();
}
END_TEST

START_TEST(hard_links_are_repaired)
{
	rm(B.l, "t/d/hard");
	ln(B.l, "t/small", "t/d/e/other-name");
	rm(B.l, "t/d/e/hard2");
	ln(B.l, "t/big", "t/d/e/hard2");
	level();
}
END_TEST

START_TEST(renamed_and_swapped_names_cost_no_data)
{
	mkfile(top, "t/a");
	fill(top, "t/a", 0, 5000, 21);
	mkfile(top, "t/b");
	fill(top, "t/b", 0, 6000, 22);
	mkd(top, "t/da");
	mkfile(top, "t/da/x");
	fill(top, "t/da/x", 0, MIB, 23);
	mkd(top, "t/db");
	level();
	mv(B.l, "t/a", "t/b", RENAME_EXCHANGE);
	mv(B.l, "t/da", "t/db", RENAME_EXCHANGE);
	mv(B.l, "t/big", "t/d/moved", 0);
	level();
	ck_assert_uint_eq(data_bytes, 0);
	mv(top, "t/da", "t/d/e/renamed", 0);
	mv(B.l, "t/da", "t/d/elsewhere", 0);
	level();
	ck_assert_uint_eq(data_bytes, 0);
}
END_TEST

START_TEST(a_cycle_of_directories_is_broken)
{
	mkd(top, "c");
	mkd(top, "c/a");
	mkd(top, "c/a/b");
	mkd(top, "c/a/b/x");
	mkfile(top, "c/a/b/x/f");
	fill(top, "c/a/b/x/f", 0, 70000, 31);
	level();
	mv(B.l, "c/a/b", "c/b", 0);	/* here a/b/x, there b/x/a */
	mv(B.l, "c/a", "c/b/x/a", 0);
	level();
	ck_assert_uint_eq(data_bytes, 0);
	mv(B.l, "c/a/b/x", "x", 0);	/* and the other way round, by parents with lower and higher ids */
	mv(B.l, "c", "x/c", 0);
	level();
	ck_assert_uint_eq(data_bytes, 0);
}
END_TEST

START_TEST(unmarked_strangers_leave_the_standby)
{
	run("echo s >%s/t/stranger; mkdir %s/t/sd; echo s >%s/t/sd/in", B.dir, B.dir, B.dir);
	rm(B.l, "t/small");
	rm(B.l, "t/d/hard");
	rm(B.l, "t/d/e/hard2");
	run("echo s >%s/t/small", B.dir);
	level();
}
END_TEST

START_TEST(a_huge_directory_is_compared_by_ranges)
{
	char p[64];

	mkd(top, "huge");
	for (unsigned i = 0; i < 20000; i++) {
		snprintf(p, sizeof p, "huge/file-number-%u", i);
		mkfile(top, p);
	}
	level();
	for (unsigned i = 0; i < 20000; i += 997) {
		snprintf(p, sizeof p, "huge/file-number-%u", i);
		rm(i % 2 ? B.l : top, p);
	}
	level();
	ck_assert_uint_lt(seen[OP_R_DIR], 200);
	uint64_t began = clock_mono_ns();
	round_start();
	ck_assert_int_eq(round_wait(), 0);
	fprintf(stderr, "# equal trees, 20,000 files: %llu ms\n", (unsigned long long)((clock_mono_ns() - began) / 1000000));
	round_stop();
}
END_TEST

static uint64_t tmpfile_on(struct layer *l, uint64_t id, struct file **f)
{
	struct call c = call();
	struct create cr = { .mode = S_IFREG | 0600 };
	struct attr a;

	c.new_id = id;
	ck_assert_int_eq(l->ops->tmpfile(l, &c, HANDLE_ROOT, &cr, O_RDWR, &a, f), 0);
	return a.id;
}

START_TEST(live_nameless_files_are_kept_and_dead_ones_go)
{
	struct call c = call();
	struct create cr = { .mode = S_IFREG | 0600, .exact = true };
	struct file *f;
	uint64_t id = tmpfile_on(top, 0, &f);
	struct attr a;
	char name[32];

	put_id(top, id, 0, "nameless", 8);
	c.new_id = ((uint64_t)2 << ID_NODE_SHIFT) + 3001;
	snprintf(name, sizeof name, "%016llx", (unsigned long long)c.new_id);
	ck_assert_int_eq(B.l->ops->create(B.l, &c, HANDLE_LIMBO, name, &cr, 0, &a, NULL), 0);
	level();
	ck_assert_uint_eq(limbo_count(&B), 1);
	ck_assert_int_eq(B.l->ops->getattr(B.l, &c, id, NULL, &a), 0);
	same_data("nameless", id, 8);
	ck_assert_int_eq(top->ops->link(top, &c, id, HANDLE_ROOT, "named-now", &a), 0);
	ck_assert_int_eq(top->ops->release(top, &c, f), 0);
	level();
	ck_assert_uint_eq(limbo_count(&B), 0);
}
END_TEST

/* Op by op, as they may come while a comparison is on: no thread sends them. */
static void apply_now(struct op op)
{
	static uint64_t seq = UINT64_C(1) << 40;

	op.stamp = (struct timespec){ 1000, 0 };
	op.attr.mtime = op.attr.ctime = op.stamp;
	ck_assert_msg(!apply_op(apply, &op, ++seq), "%s", op_name(op.type));
}

/* Its name comes by an ordinary op: it keeps the one in limbo until the end. */
START_TEST(a_file_that_was_made_in_limbo_is_like_others_afterwards)
{
	static const unsigned char digest[RESYNC_SUM_LEN];
	const uint64_t id = ((uint64_t)2 << ID_NODE_SHIFT) + 6001;
	const struct attr a = { .id = id, .mode = S_IFREG | 0644, .nlink = 1 };
	struct attr longer = a;

	longer.size = 4;
	apply_now((struct op){ .type = OP_R_BEGIN });
	apply_now((struct op){ .type = OP_R_ATTR, .id = id, .attr = a, .blob = digest, .blob_len = sizeof digest });
	apply_now((struct op){ .type = OP_LINK, .id = id, .parent = HANDLE_ROOT, .name = "late", .attr = a });
	atomic_store(&beside_came, BESIDE_PARTS);
	apply_now((struct op){ .type = OP_R_END, .flags = R_END_PROBE });
	apply_now((struct op){ .type = OP_R_END, .flags = R_END_FINAL });
	ck_assert(!apply_tolerant(apply));
	apply_now((struct op){ .type = OP_WRITE, .id = id, .attr = longer, .data = "late", .data_len = 4 });
	apply_now((struct op){ .type = OP_UNLINK, .id = id, .parent = HANDLE_ROOT, .name = "late" });
	level();
}
END_TEST

/* ---- while the volume is written to ---- */

static atomic_bool stop_writing;

static void random_op(unsigned *seed)
{
	struct call c = call();
	char name[32], name2[32], dname[16];
	struct attr a;
	struct file *f;

	snprintf(dname, sizeof dname, "w%u", rand_r(seed) % 6);
	uint64_t dir = id_in(top, HANDLE_ROOT, dname), dir2;
	snprintf(dname, sizeof dname, "w%u", rand_r(seed) % 6);
	dir2 = id_in(top, HANDLE_ROOT, dname);
	snprintf(name, sizeof name, "n%u", rand_r(seed) % 40);
	snprintf(name2, sizeof name2, "n%u", rand_r(seed) % 40);
	uint64_t id = id_in(top, dir, name);
	static const char junk[100000] = "junk";
	struct create reg = { .mode = S_IFREG | 0644 }, sub = { .mode = S_IFDIR | 0755 }, sym = { .mode = S_IFLNK | 0777, .target = "t" };
	struct wdata d = { .p = junk, .len = (size_t)rand_r(seed) % sizeof junk };
	struct setattr s = { .valid = SET_SIZE, .size = (uint64_t)rand_r(seed) % 500000 };

	switch (rand_r(seed) % 14) {
	case 0: case 1: top->ops->create(top, &c, dir, name, &reg, 0, &a, NULL); break;
	case 2: top->ops->create(top, &c, dir, name, &sub, 0, &a, NULL); break;
	case 3: top->ops->create(top, &c, dir, name, &sym, 0, &a, NULL); break;
	case 4: top->ops->unlink(top, &c, dir, name); break;
	case 5: top->ops->rmdir(top, &c, dir, name); break;
	case 6: top->ops->rename(top, &c, dir, name, dir2, name2, 0); break;
	case 7: top->ops->rename(top, &c, dir, name, dir2, name2, RENAME_EXCHANGE); break;
	case 8: if (id) top->ops->link(top, &c, id, dir2, name2, &a); break;
	case 9: if (id) top->ops->setxattr(top, &c, id, "user.x", junk, 1 + d.len % 20, 0); break;
	case 10: if (id) top->ops->setattr(top, &c, id, NULL, &s, &a); break;
	case 11: s = (struct setattr){ .valid = rand_r(seed) % 2 ? SET_MODE : SET_UID, .mode = (uint32_t)rand_r(seed) & 07777, .uid = (uint32_t)rand_r(seed) % 9 };
		if (id) top->ops->setattr(top, &c, id, NULL, &s, &a);
		break;
	default:
		if (!id || top->ops->open(top, &c, id, O_RDWR, &f))
			break;
		if (rand_r(seed) % 4)
			top->ops->write(top, &c, f, &d, (uint64_t)rand_r(seed) % 400000, 0, &a);
		else
			top->ops->fallocate(top, &c, f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 65536, 70000);
		top->ops->release(top, &c, f);
	}
}

static void *write_randomly(void *arg)
{
	unsigned seed = (unsigned)(uintptr_t)arg;

	while (!atomic_load(&stop_writing))
		random_op(&seed);
	return NULL;
}

/* Restarted before: what ops had open would live on. */
static void damage_standby(unsigned seed)
{
	char p[64], q[64];

	standby_down();
	standby_up();
	for (unsigned i = 0; i < 60; i++) {
		snprintf(p, sizeof p, "w%u/n%u", rand_r(&seed) % 6, rand_r(&seed) % 40);
		snprintf(q, sizeof q, "w%u/n%u", rand_r(&seed) % 6, rand_r(&seed) % 40);
		struct call c = call();
		const char *n1, *n2;
		uint64_t p1 = split(B.l, p, &n1), p2 = split(B.l, q, &n2), id = id_of(B.l, p);
		if (!p1 || !p2 || !id)
			continue;
		switch (rand_r(&seed) % 4) {
		case 0: B.l->ops->unlink(B.l, &c, p1, n1); break;
		case 1: B.l->ops->rename(B.l, &c, p1, n1, p2, n2, 0); break;
		case 2: B.l->ops->rename(B.l, &c, p1, n1, p2, n2, RENAME_EXCHANGE); break;
		default: B.l->ops->setxattr(B.l, &c, id, "user.damage", "y", 1, 0);
		}
	}
}

static unsigned some_seed(void)
{
	unsigned seed = getenv("SEED") ? (unsigned)atoi(getenv("SEED")) : (unsigned)time(NULL);

	fprintf(stderr, "# seed %u\n", seed);
	return seed;
}

static void round_among_writers(unsigned seed)
{
	pthread_t t[4];

	atomic_store(&stop_writing, false);
	for (uintptr_t i = 0; i < ARRAY_LEN(t); i++)
		pthread_create(&t[i], NULL, write_randomly, (void *)(seed + i));
	round_start();
	int err = round_wait();
	settle();	/* some more, strictly */
	atomic_store(&stop_writing, true);
	for (unsigned i = 0; i < ARRAY_LEN(t); i++)
		pthread_join(t[i], NULL);
	if (!err)
		quiesce();
	round_stop();
	ck_assert_int_eq(err, 0);
	check_equal();
}

START_TEST(a_round_is_exact_while_four_threads_write)
{
	unsigned seed = some_seed();
	char p[16];

	for (unsigned i = 0; i < 6; i++) {
		snprintf(p, sizeof p, "w%u", i);
		mkd(top, p);
	}
	for (unsigned k = 0; k < 4; k++) {
		round_among_writers(seed + 10 * k);
		damage_standby(seed + k);
	}
	level();
}
END_TEST

/* What is spoilt until a report is answered is more than what the answers mend: it ends only when writers wait. */
START_TEST(a_round_ends_while_four_threads_write_far_ahead)
{
	unsigned seed = some_seed();

	damage_standby(seed);
	ms_behind = 200;
	round_among_writers(seed);
	ms_behind = 0;
	level();
}
END_TEST

/* Writers are held, which is no use, and go on. */
START_TEST(a_peer_that_never_becomes_level_keeps_nobody_from_writing)
{
	enum { OTHER = PEER + 1, WRITES = 300 };
	uint64_t until_ms = clock_mono_ms() + WAIT_MS;
	char name[16];

	for (uint64_t ms; (ms = queue_hold(queue, OTHER, 0));)	/* of the test before */
		nanosleep(&(struct timespec){ (time_t)(ms / 1000), (long)(ms % 1000) * 1000000 }, NULL);
	mkd(top, "n");
	atomic_store(&never_level, true);
	round_start();
	while (!queue_hold(queue, OTHER, 0) && clock_mono_ms() < until_ms)
		nanosleep(&(struct timespec){ 0, 1000000 }, NULL);
	ck_assert_uint_gt(queue_hold(queue, OTHER, 0), 0);
	for (unsigned i = 0; i < WRITES; i++) {
		snprintf(name, sizeof name, "n/%u", i);
		mkfile(top, name);
	}
	atomic_store(&never_level, false);
	ck_assert_int_eq(round_wait(), 0);
	round_stop();
	check_equal();
}
END_TEST

/* Once per comparison, before the standby is level: set_inconsistent() asks. */
START_TEST(what_is_said_beside_the_tree_comes_before_level)
{
	atomic_store(&beside_asked, 0);
	round_start();
	ck_assert_int_eq(round_wait(), 0);
	ck_assert_uint_eq(atomic_load(&beside_asked), 1);
	quiesce();
	ck_assert_uint_eq(atomic_load(&beside_asked), 1);
	round_stop();
	beside_err = -ENOMEM;
	round_start();
	ck_assert_int_eq(round_wait(), -ENOMEM);
	round_stop();
	ck_assert(inconsistent);
	beside_err = 0;
	level();
	ck_assert_uint_eq(atomic_load(&beside_asked), 3);
}
END_TEST

START_TEST(single_objects_are_stated_again_on_a_level_standby)
{
	round_start();
	ck_assert_int_eq(round_wait(), 0);
	keep_times("t/big", flip_byte);
	rm(B.l, "t/a");
	mk(B.l, "t/extra2", S_IFREG | 0600, NULL, 0, ((uint64_t)2 << ID_NODE_SHIFT) + 4001);
	uint64_t ids[] = { id_of(A.l, "t"), id_of(A.l, "t/big") };
	unsigned before = levels;
	resync_restate(atomic_load(&engine), ids, 2);
	struct timespec until = clock_mono_after_ms(WAIT_MS);
	pthread_mutex_lock(&mu);
	while (levels == before && !pthread_cond_timedwait(&cond, &mu, &until))
		;
	pthread_mutex_unlock(&mu);
	settle();
	round_stop();
	check_equal();
}
END_TEST

/* ---- lost versions, crashes ---- */

static void expect_lost(const char *session, const char *path, const char *grep)
{
	run("grep -rq '%s' %s/.tandemfs/lost/%s/%s", grep, B.dir, session, path);
}

START_TEST(losing_versions_are_kept_whole)
{
	mkd(top, "k");
	mkd(top, "k/sub");
	mkfile(top, "k/both");
	put(top, "k/both", 0, "the winner's", 12);
	mkfile(top, "k/same");
	put(top, "k/same", 0, "the same", 8);
	level();
	put(B.l, "k/both", 0, "the LOSER with more bytes", 25);
	mk(B.l, "k/only", S_IFREG | 0600, NULL, 0, ((uint64_t)2 << ID_NODE_SHIFT) + 5001);
	put(B.l, "k/only", 0, "only here", 9);
	mk(B.l, "k/sub/od", S_IFDIR | 0700, NULL, 0, ((uint64_t)2 << ID_NODE_SHIFT) + 5002);
	mk(B.l, "k/sub/od/f", S_IFREG | 0600, NULL, 0, ((uint64_t)2 << ID_NODE_SHIFT) + 5003);
	put(B.l, "k/sub/od/f", 0, "in a directory", 14);
	ln(B.l, "k/same", "k/sub/od/shared");	/* with the tree goes a name of what stays */
	resync_sink_keep_lost(sink, "s1");
	level();
	resync_sink_keep_lost(sink, NULL);
	expect_lost("s1", "k/both", "the LOSER with more bytes");
	expect_lost("s1", "k/only", "only here");
	expect_lost("s1", "k/sub/od/f", "in a directory");
	run("! test -e %s/.tandemfs/lost/s1/k/same", B.dir);
	run("! getfattr -R -d -m trusted.tandemfs %s/.tandemfs/lost/s1 2>/dev/null | grep tandemfs=", B.dir);
}
END_TEST

START_TEST(a_standby_that_stops_in_the_middle_stays_inconsistent)
{
	plant_everything("u");
	crash_after = 30;
	round_start();
	ck_assert_int_eq(round_wait(), -ECONNRESET);
	round_stop();
	crash_after = 0;
	ck_assert(inconsistent);
	standby_down();
	standby_up();
	level();
}
END_TEST

START_TEST(many_ids_in_a_set_keep_their_order)
{
	struct idset s;

	ck_assert_int_eq(idset_init(&s, 100), 0);
	for (unsigned r = 0; r < 50; r++) {
		for (uint64_t i = 1; i <= 100; i++)
			ck_assert_int_eq(idset_add(&s, i * 7 + r), 1);
		ck_assert_int_eq(idset_add(&s, 7 + r), 0);
		ck_assert_int_eq(idset_add(&s, 1000000), -ENOSPC);
		for (uint64_t i = 1; i <= 100; i++)
			ck_assert_uint_eq(idset_pop(&s), i * 7 + r);
		ck_assert_uint_eq(idset_pop(&s), 0);
	}
	idset_free(&s);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("resync");
	TCase *t = tcase_create("pair");

	tcase_set_timeout(t, 120);
	tcase_add_unchecked_fixture(t, up, end);
	tcase_add_checked_fixture(t, stop_after_a_failure, NULL);
	tcase_add_test(t, many_ids_in_a_set_keep_their_order);
	tcase_add_test(t, an_empty_standby_gets_everything);
	tcase_add_test(t, an_equal_standby_gets_no_data);
	tcase_add_test(t, a_differing_byte_is_repaired_by_one_block);
	tcase_add_test(t, a_file_that_is_too_long_or_too_short_is_repaired);
	tcase_add_test(t, data_in_a_hole_is_punched);
	tcase_add_test(t, attributes_are_repaired);
	tcase_add_test(t, a_wrong_count_of_sub_directories_is_repaired);
	tcase_add_test(t, xattrs_and_acls_are_repaired);
	tcase_add_test(t, inode_flags_are_repaired);
	tcase_add_test(t, missing_and_extra_objects_are_repaired);
	tcase_add_test(t, what_cannot_be_changed_in_place_is_made_again);
	tcase_add_test(t, another_type_under_the_same_name_is_replaced);
	tcase_add_test(t, hard_links_are_repaired);
	tcase_add_test(t, renamed_and_swapped_names_cost_no_data);
	tcase_add_test(t, a_cycle_of_directories_is_broken);
	tcase_add_test(t, unmarked_strangers_leave_the_standby);
	tcase_add_test(t, live_nameless_files_are_kept_and_dead_ones_go);
	tcase_add_test(t, a_file_that_was_made_in_limbo_is_like_others_afterwards);
	tcase_add_test(t, a_round_is_exact_while_four_threads_write);
	tcase_add_test(t, a_round_ends_while_four_threads_write_far_ahead);
	tcase_add_test(t, a_peer_that_never_becomes_level_keeps_nobody_from_writing);
	tcase_add_test(t, what_is_said_beside_the_tree_comes_before_level);
	tcase_add_test(t, single_objects_are_stated_again_on_a_level_standby);
	tcase_add_test(t, losing_versions_are_kept_whole);
	tcase_add_test(t, a_standby_that_stops_in_the_middle_stays_inconsistent);
	tcase_add_test(t, a_huge_directory_is_compared_by_ranges);
	suite_add_tcase(s, t);
	runner = srunner_create(s);
	srunner_set_fork_status(runner, CK_NOFORK);
	srunner_run_all(runner, CK_ENV);
	int failed = srunner_ntests_failed(runner);
	srunner_free(runner);
	return failed ? 1 : 0;
}
