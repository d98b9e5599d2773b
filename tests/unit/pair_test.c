/*
 * The mirroring layer and apply together: whatever is done on the primary's stack is on the standby's, exactly; what can't be streamed is asked to be
 * stated again; acknowledgements wait for what they promise.
 */
#include "pair.h"

#include "mirror/interpose_int.h"

#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/syscall.h>

static struct pair p;

static void setup(void) { pair_start(&p); }
static void teardown(void) { pair_stop(&p); }

/* All is applied, without error, and nothing had to be stated again. */
static void check_equal(void)
{
	ck_assert_int_eq(pair_settle(&p), 0);
	ck_assert_uint_eq(atomic_load(&p.nrestated), 0);
	ck_assert_uint_eq(pair_compare(&p, NULL), 0);
}

static uint64_t make(uint64_t parent, const char *name, uint32_t mode)
{
	uint64_t id = 0;

	ck_assert_int_eq(t_make(&p, parent, name, mode, &id, NULL), 0);
	ck_assert_uint_ne(id, 0);
	return id;
}

static struct file *make_open(const char *name, uint64_t *id)
{
	struct file *f = NULL;

	ck_assert_int_eq(t_make(&p, HANDLE_ROOT, name, S_IFREG | 0644, id, &f), 0);
	return f;
}

static void fill(unsigned char *buf, size_t len, unsigned seed)
{
	for (size_t i = 0; i < len; i++)
		buf[i] = (unsigned char)((i * 7 + i / 251 + seed) & 0xff);
}

/* ---- every op ---- */

START_TEST(every_kind_of_object)
{
	uint64_t d = make(HANDLE_ROOT, "dir", S_IFDIR | 0755);

	make(d, "file", S_IFREG | 0644);
	make(d, "suid", S_IFREG | 06755);
	make(d, "link", S_IFLNK | 0777);
	make(d, "fifo", S_IFIFO | 0600);
	make(d, "sock", S_IFSOCK | 0600);
	make(d, "char", S_IFCHR | 0600);
	make(d, "sgid", S_IFDIR | 02775);
	make(t_find(&p, d, "sgid"), "child", S_IFDIR | 0755);
	make(t_find(&p, d, "sgid"), "file", S_IFREG | 0644);
	check_equal();
}
END_TEST

START_TEST(names_come_and_go)
{
	uint64_t d = make(HANDLE_ROOT, "d", S_IFDIR | 0755), e = make(HANDLE_ROOT, "e", S_IFDIR | 0755);
	uint64_t f = make(d, "f", S_IFREG | 0644);

	make(d, "sub", S_IFDIR | 0755);
	ck_assert_int_eq(t_link(&p, f, e, "hard"), 0);
	check_equal();
	ck_assert_int_eq(t_unlink(&p, d, "f"), 0);
	ck_assert_int_eq(t_rename(&p, d, "sub", e, "moved", 0), 0);
	check_equal();
	make(d, "x", S_IFREG | 0600);
	ck_assert_int_eq(t_rename(&p, d, "x", e, "hard", 0), 0);	/* replaces the last name of f */
	ck_assert_int_eq(t_rename(&p, e, "hard", e, "moved", RENAME_EXCHANGE), 0);
	make(d, "y", S_IFDIR | 0755);
	ck_assert_int_eq(t_rename(&p, e, "hard", d, "y", 0), 0);	/* a directory over an empty one */
	make(d, "z", S_IFREG | 0644);
	ck_assert_int_eq(t_rename(&p, d, "z", d, "y", RENAME_NOREPLACE), -EEXIST);
	check_equal();
	ck_assert_int_eq(t_link(&p, t_find(&p, d, "z"), d, "z2"), 0);
	ck_assert_int_eq(t_rename(&p, d, "z", d, "z2", 0), 0);		/* two names of one object: nothing happens */
	ck_assert_int_eq(t_rename(&p, d, "z", e, "z2", 0), 0);
	ck_assert_int_eq(t_rmdir(&p, d, "y"), 0);
	ck_assert_int_eq(t_rmdir(&p, HANDLE_ROOT, "d"), -ENOTEMPTY);
	check_equal();
}
END_TEST

START_TEST(attributes)
{
	uint64_t f = make(HANDLE_ROOT, "f", S_IFREG | 06755), l = make(HANDLE_ROOT, "l", S_IFLNK | 0777);
	const struct timespec old = { .tv_sec = 1000000, .tv_nsec = 123456789 };

	ck_assert_int_eq(t_setattr(&p, f, &(struct setattr){ .valid = SET_UID | SET_GID, .uid = 5, .gid = 6 }), 0);
	check_equal();
	ck_assert_int_eq(t_setattr(&p, f, &(struct setattr){ .valid = SET_MODE, .mode = 04711 }), 0);
	ck_assert_int_eq(t_setattr(&p, f, &(struct setattr){ .valid = SET_SIZE | SET_KILL_PRIV, .size = 100000 }), 0);
	check_equal();
	ck_assert_int_eq(t_setattr(&p, f, &(struct setattr){ .valid = SET_MTIME | SET_ATIME, .mtime = old, .atime = old }), 0);
	ck_assert_int_eq(t_setattr(&p, l, &(struct setattr){ .valid = SET_MTIME | SET_UID, .mtime = old, .uid = 9 }), 0);
	ck_assert_int_eq(t_setattr(&p, HANDLE_ROOT, &(struct setattr){ .valid = SET_MODE, .mode = 01777 }), 0);
	check_equal();
	ck_assert_int_eq(t_setattr(&p, f, &(struct setattr){ .valid = SET_MTIME_NOW | SET_ATIME_NOW }), 0);
	ck_assert_int_eq(t_setattr(&p, f, &(struct setattr){ .valid = SET_SIZE, .size = 10 }), 0);
	check_equal();
}
END_TEST

START_TEST(xattrs_acls_flags)
{
	static const unsigned char acl[] = { 2, 0, 0, 0, 1, 0, 7, 0, 255, 255, 255, 255, 2, 0, 5, 0, 7, 0, 0, 0, 4, 0, 5, 0, 255, 255, 255, 255,
					     16, 0, 4, 0, 255, 255, 255, 255, 32, 0, 0, 0, 255, 255, 255, 255 };
	uint64_t d = make(HANDLE_ROOT, "d", S_IFDIR | 0755), f = make(d, "f", S_IFREG | 0664);
	struct call c = user();

	ck_assert_int_eq(t_setxattr(&p, f, "user.a", "hello", 5), 0);
	ck_assert_int_eq(t_setxattr(&p, f, "trusted.b", "", 0), 0);
	ck_assert_int_eq(t_setxattr(&p, f, "security.c", "x", 1), 0);
	ck_assert_int_eq(t_setxattr(&p, f, "user.a", "changed", 7), 0);
	ck_assert_int_eq(p.top->ops->removexattr(p.top, &c, f, "trusted.b"), 0);
	ck_assert_int_eq(p.top->ops->removexattr(p.top, &c, f, "trusted.b"), -ENODATA);
	check_equal();
	ck_assert_int_eq(t_setxattr(&p, f, "system.posix_acl_access", acl, sizeof acl), 0);
	ck_assert_int_eq(t_setxattr(&p, d, "system.posix_acl_default", acl, sizeof acl), 0);
	check_equal();
	uint64_t inherits = make(d, "inherits", S_IFREG | 0666), sub = make(d, "sub", S_IFDIR | 0777);
	char v[256];
	ck_assert_int_gt(p.top->ops->getxattr(p.top, &c, inherits, "system.posix_acl_access", v, sizeof v), 0);
	ck_assert_int_gt(p.top->ops->getxattr(p.top, &c, sub, "system.posix_acl_default", v, sizeof v), 0);
	make(sub, "deep", S_IFREG | 0666);
	check_equal();
	ck_assert_int_eq(p.top->ops->setflags(p.top, &c, f, FS_IMMUTABLE_FL), 0);
	ck_assert_int_eq(t_setattr(&p, f, &(struct setattr){ .valid = SET_MODE, .mode = 0600 }), -EPERM);
	check_equal();
	ck_assert_int_eq(p.top->ops->setflags(p.top, &c, f, FS_NODUMP_FL | FS_APPEND_FL), 0);
	struct file *o = t_open(&p, f, O_WRONLY | O_APPEND);
	ck_assert_ptr_nonnull(o);
	const struct wdata w = { .p = "appended", .len = 8 };
	ck_assert_int_eq(p.top->ops->write(p.top, &c, o, &w, 0, WRITE_APPEND, NULL), 8);
	t_close(&p, o);
	check_equal();
}
END_TEST

START_TEST(flags_are_not_inherited)
{
	uint64_t d = make(HANDLE_ROOT, "d", S_IFDIR | 0755), id;
	struct call c = user();
	struct create cr = { .mode = S_IFREG | 0600 };
	struct attr a;
	struct file *f;
	uint32_t flags = 1;

	ck_assert_int_eq(p.top->ops->setflags(p.top, &c, d, FS_NODUMP_FL | FS_NOATIME_FL), 0);
	id = make(d, "f", S_IFREG | 0644);
	make(d, "sub", S_IFDIR | 0755);
	ck_assert_int_eq(p.top->ops->tmpfile(p.top, &c, d, &cr, O_RDWR, &a, &f), 0);
	ck_assert_int_eq(t_link(&p, a.id, d, "t"), 0);
	t_close(&p, f);
	ck_assert_int_eq(p.top->ops->getflags(p.top, &c, id, &flags), 0);
	ck_assert_uint_eq(flags, 0);
	check_equal();
}
END_TEST

START_TEST(contents)
{
	static unsigned char buf[300000];
	uint64_t id, id2;
	struct file *f = make_open("f", &id), *g = make_open("g", &id2);
	struct call c = user();

	fill(buf, sizeof buf, 1);
	ck_assert_int_eq(t_write(&p, f, buf, sizeof buf, 0), sizeof buf);
	ck_assert_int_eq(t_write(&p, f, buf, 1, 5000000), 1);
	ck_assert_int_eq(t_write(&p, f, buf, 10, 4095), 10);
	ck_assert_int_eq(t_write(&p, f, buf, 0, 4095), 0);
	check_equal();
	ck_assert_int_eq(p.top->ops->fallocate(p.top, &c, f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 8192, 65536), 0);
	ck_assert_int_eq(p.top->ops->fallocate(p.top, &c, f, 0, 6000000, 1000), 0);
	ck_assert_int_eq(p.top->ops->fallocate(p.top, &c, f, FALLOC_FL_ZERO_RANGE, 100000, 50000), 0);
	check_equal();
	ck_assert_int_eq(p.top->ops->fallocate(p.top, &c, f, FALLOC_FL_COLLAPSE_RANGE, 4096, 8192), 0);
	ck_assert_int_eq(p.top->ops->fallocate(p.top, &c, f, FALLOC_FL_INSERT_RANGE, 4096, 4096), 0);
	check_equal();
	ck_assert_int_eq(p.top->ops->copy_range(p.top, &c, f, 1000, g, 77, 200000), 200000);
	check_equal();
	const struct wdata w = { .p = buf, .len = 1234 };
	ck_assert_int_eq(p.top->ops->write(p.top, &c, g, &w, 3, WRITE_APPEND, NULL), 1234);
	check_equal();
	t_close(&p, f);
	t_close(&p, g);
	f = t_open(&p, id, O_WRONLY | O_TRUNC);
	ck_assert_ptr_nonnull(f);
	t_close(&p, f);
	check_equal();
}
END_TEST

START_TEST(data_that_are_shared_with_the_queue)
{
	struct blk *b = blk_new(128 << 10);
	struct file *f = make_open("f", NULL);
	struct call c = user();

	fill(b->data, 128 << 10, 3);
	const struct wdata d = { .p = b->data + 80, .len = 100000, .owner = b };
	ck_assert_int_eq(p.top->ops->write(p.top, &c, f, &d, 17, 0, NULL), 100000);
	check_equal();
	ck_assert_uint_eq(atomic_load(&b->refs), 1);
	blk_unref(b);
	t_close(&p, f);
}
END_TEST

START_TEST(priv_bits_are_cleared_by_a_write)
{
	uint64_t id = make(HANDLE_ROOT, "f", S_IFREG | 06755);
	struct file *f = t_open(&p, id, O_WRONLY);
	struct call c = user();
	struct attr a;

	ck_assert_int_eq(t_setxattr(&p, id, "security.capability", "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", 20), 0);
	check_equal();
	const struct wdata d = { .p = "x", .len = 1 };
	ck_assert_int_eq(p.top->ops->write(p.top, &c, f, &d, 0, WRITE_KILL_PRIV, &a), 1);
	ck_assert_uint_eq(a.mode & 07777, 0755);
	t_close(&p, f);
	check_equal();
}
END_TEST

/* ---- objects without a name ---- */

static struct file *tmpfile_open(uint64_t *id)
{
	struct call c = user();
	struct create cr = { .mode = S_IFREG | 0600 };
	struct attr a;
	struct file *f = NULL;

	ck_assert_int_eq(p.top->ops->tmpfile(p.top, &c, HANDLE_ROOT, &cr, O_RDWR, &a, &f), 0);
	*id = a.id;
	return f;
}

static bool standby_has(uint64_t id)
{
	struct call c = user();
	struct attr a;

	return !p.b.local->ops->getattr(p.b.local, &c, id, NULL, &a);
}

START_TEST(a_tmpfile_gets_a_name)
{
	uint64_t id;
	struct file *f = tmpfile_open(&id);

	ck_assert_int_eq(t_write(&p, f, "secret", 6, 0), 6);
	ck_assert_int_eq(t_setattr(&p, id, &(struct setattr){ .valid = SET_MODE, .mode = 0640 }), 0);
	ck_assert_int_eq(pair_settle(&p), 0);
	ck_assert(standby_has(id));
	ck_assert_int_eq(t_link(&p, id, HANDLE_ROOT, "named"), 0);
	check_equal();
	ck_assert_int_eq(t_write(&p, f, "more", 4, 6), 4);
	t_close(&p, f);
	check_equal();
	ck_assert_int_eq(t_unlink(&p, HANDLE_ROOT, "named"), 0);
	check_equal();
	ck_assert(!standby_has(id));
}
END_TEST

START_TEST(a_tmpfile_without_a_name_goes)
{
	uint64_t id;
	struct file *f = tmpfile_open(&id), *g;

	ck_assert_int_eq(t_write(&p, f, "secret", 6, 0), 6);
	g = t_open(&p, id, O_RDONLY);
	ck_assert_ptr_nonnull(g);
	t_close(&p, f);
	ck_assert_int_eq(pair_settle(&p), 0);
	ck_assert(standby_has(id));
	t_close(&p, g);
	check_equal();
	ck_assert(!standby_has(id));
}
END_TEST

START_TEST(unlinked_but_open_is_not_streamed)
{
	uint64_t id, before, after;
	struct file *f = make_open("f", &id);
	struct interpose_stats s;
	struct call c = user();

	ck_assert_int_eq(t_unlink(&p, HANDLE_ROOT, "f"), 0);
	interpose_stats(p.ip, &s);
	before = s.ops;
	ck_assert_int_eq(t_write(&p, f, "x", 1, 0), 1);
	ck_assert_int_eq(p.top->ops->setattr(p.top, &c, id, f, &(struct setattr){ .valid = SET_MODE, .mode = 0 }, NULL), 0);
	ck_assert_int_eq(t_fsync(&p, f), 0);
	struct file *g = make_open("g", NULL);
	ck_assert_int_eq(p.top->ops->copy_range(p.top, &c, f, 0, g, 0, 1), -EOPNOTSUPP);
	interpose_stats(p.ip, &s);
	after = s.ops;
	ck_assert_uint_eq(after, before + 1);
	t_close(&p, f);
	t_close(&p, g);
	check_equal();
}
END_TEST

/* ---- acknowledgements ---- */

struct later {
	pthread_t t;
	struct file *f;
	_Atomic int r;
};

static void *fsync_main(void *arg)
{
	struct later *l = arg;

	atomic_store(&l->r, t_fsync(&p, l->f));
	return NULL;
}

static bool joined(struct later *l, unsigned ms)
{
	struct timespec t = clock_wall();

	t.tv_nsec += (long)ms * 1000000;
	t.tv_sec += t.tv_nsec / 1000000000;
	t.tv_nsec %= 1000000000;
	return !pthread_timedjoin_np(l->t, NULL, &t);
}

/* A new reign begins when nobody waits for the old one's confirmations any more. */
START_TEST(who_waits_for_confirmations_is_waited_for)
{
	struct interpose *ip = p.ip;
	struct later l = { .f = t_open(&p, make(HANDLE_ROOT, "w", S_IFREG | 0644), O_RDWR) };

	ck_assert_int_eq(t_write(&p, l.f, "x", 1, 0), 1);
	pair_unfollow(&p);
	queue_set_ackset(p.q, 1 << PEER);
	pthread_create(&l.t, NULL, fsync_main, &l);
	while (!atomic_load(&ip->settling))
		sched_yield();
	queue_stop(p.q);
	interpose_set_writable(ip, false);
	interpose_wait_settled(ip);
	ck_assert_uint_eq(atomic_load(&ip->settling), 0);
	pthread_join(l.t, NULL);
	ck_assert_int_eq(atomic_load(&l.r), -EIO);
	t_close(&p, l.f);
}
END_TEST

START_TEST(fsync_waits_for_the_peer)
{
	struct later l = { .f = make_open("f", NULL) };

	ck_assert_int_eq(t_write(&p, l.f, "x", 1, 0), 1);
	ck_assert_int_eq(t_fsync(&p, l.f), 0);
	atomic_store(&p.hold_barriers, true);
	pthread_create(&l.t, NULL, fsync_main, &l);
	ck_assert(!joined(&l, 50));
	queue_set_ackset(p.q, 0);
	ck_assert(joined(&l, 5000));
	ck_assert_int_eq(l.r, 0);
	t_close(&p, l.f);
}
END_TEST

START_TEST(a_peer_that_comes_back_goes_on)
{
	struct later l = { .f = make_open("f", NULL) };

	ck_assert_int_eq(t_write(&p, l.f, "x", 1, 0), 1);
	ck_assert_int_eq(pair_settle(&p), 0);
	pair_unfollow(&p);
	make(HANDLE_ROOT, "while it was away", S_IFDIR | 0755);
	ck_assert_int_eq(t_write(&p, l.f, "y", 1, 1), 1);
	pair_follow(&p, atomic_load(&p.applied) + 1);
	check_equal();
	/* the answer to a barrier got lost with the connection: it is asked again */
	atomic_store(&p.hold_barriers, true);
	pthread_create(&l.t, NULL, fsync_main, &l);
	ck_assert(!joined(&l, 50));
	queue_detach(p.q, PEER);
	pthread_join(p.drain, NULL);
	ck_assert(!joined(&l, 20));
	atomic_store(&p.hold_barriers, false);
	pair_follow(&p, atomic_load(&p.applied) + 1);
	ck_assert(joined(&l, 5000));
	ck_assert_int_eq(l.r, 0);
	t_close(&p, l.f);
	check_equal();
}
END_TEST

START_TEST(a_stable_change_is_a_barrier)
{
	struct call c = user();
	struct create cr = { .mode = S_IFREG | 0644 };
	struct attr a;
	struct file *f;
	struct interpose_stats s;
	const struct wdata d = { .p = "x", .len = 1 };

	c.stable = true;
	c.origin = ORIGIN_NFS;
	ck_assert_int_eq(p.top->ops->create(p.top, &c, HANDLE_ROOT, "f", &cr, O_RDWR, &a, &f), 0);
	ck_assert_int_eq(p.top->ops->write(p.top, &c, f, &d, 0, 0, NULL), 1);
	ck_assert_int_eq(p.top->ops->rename(p.top, &c, HANDLE_ROOT, "f", HANDLE_ROOT, "g", 0), 0);
	ck_assert_int_eq(p.top->ops->unlink(p.top, &c, HANDLE_ROOT, "g"), 0);
	interpose_stats(p.ip, &s);
	ck_assert_uint_eq(s.by_type[OP_FSYNC], 4);
	p.top->ops->release(p.top, &c, f);
	check_equal();
}
END_TEST

static uint64_t attached_seq, attached_len;
static void on_attach(void *arg, uint16_t kind, uint64_t seq, const void *data, size_t len)
{
	(void)arg, (void)data;
	ck_assert_uint_eq(kind, 9);
	attached_seq = seq;
	attached_len = len;
}

START_TEST(attachments_arrive_with_their_op_or_alone)
{
	struct call c = user();
	struct create cr = { .mode = S_IFDIR | 0755 };
	struct attr a;

	apply_register_attach(p.ap, 9, on_attach, NULL);
	c.attach = "reply";
	c.attach_len = 5;
	c.attach_kind = 9;
	ck_assert_int_eq(p.top->ops->create(p.top, &c, HANDLE_ROOT, "d", &cr, 0, &a, NULL), 0);
	ck_assert_int_eq(pair_settle(&p), 0);
	ck_assert_uint_eq(attached_seq, c.seq);
	ck_assert_uint_eq(attached_len, 5);
	uint64_t first = c.seq;
	ck_assert_int_eq(p.top->ops->create(p.top, &c, HANDLE_ROOT, "d", &cr, 0, &a, NULL), -EEXIST);
	ck_assert_int_eq(pair_settle(&p), 0);
	ck_assert_uint_gt(c.seq, first);
	ck_assert_uint_eq(attached_seq, c.seq);
	check_equal();
}
END_TEST

START_TEST(the_epoch_is_opened_by_the_first_change)
{
	ck_assert_int_eq(p.epoch_calls, 0);
	make(HANDLE_ROOT, "a", S_IFREG | 0644);
	make(HANDLE_ROOT, "b", S_IFREG | 0644);
	ck_assert_int_eq(p.epoch_calls, 1);
	interpose_want_epoch(p.ip);
	ck_assert_int_eq(p.epoch_calls, 1);
	ck_assert_int_eq(t_unlink(&p, HANDLE_ROOT, "a"), 0);
	ck_assert_int_eq(p.epoch_calls, 2);
	check_equal();
}
END_TEST

/* ---- role and room ---- */

START_TEST(a_standby_refuses_changes)
{
	uint64_t id = make(HANDLE_ROOT, "f", S_IFREG | 0644);
	struct file *w = t_open(&p, id, O_RDWR), *r;

	ck_assert_uint_eq(interpose_writers(p.ip), 1);
	interpose_set_writable(p.ip, false);
	ck_assert_int_eq(t_write(&p, w, "x", 1, 0), -EROFS);
	ck_assert_int_eq(t_fsync(&p, w), -EROFS);
	ck_assert_int_eq(t_unlink(&p, HANDLE_ROOT, "f"), -EROFS);
	ck_assert_int_eq(t_make(&p, HANDLE_ROOT, "g", S_IFREG | 0644, NULL, NULL), -EROFS);
	ck_assert_int_eq(t_setxattr(&p, id, "user.a", "a", 1), -EROFS);
	ck_assert_ptr_null(t_open(&p, id, O_WRONLY));
	ck_assert_ptr_null(t_open(&p, id, O_RDONLY | O_TRUNC));
	ck_assert_ptr_nonnull((r = t_open(&p, id, O_RDONLY)));
	ck_assert_int_eq(t_fsync(&p, r), 0);
	t_close(&p, w);
	t_close(&p, r);
	ck_assert_uint_eq(interpose_writers(p.ip), 0);
	check_equal();
}
END_TEST

static _Atomic int reader_tid;

static void *fsync_reader_main(void *arg)
{
	struct file *f = arg;

	atomic_store(&reader_tid, (int)syscall(SYS_gettid));
	return (void *)(intptr_t)t_fsync(&p, f);
}

/* Does thread TID wait for something? */
static bool asleep(int tid)
{
	char path[64], state = 'R';

	snprintf(path, sizeof path, "/proc/self/task/%d/stat", tid);
	FILE *s = tid ? fopen(path, "r") : NULL;
	if (!s)
		return false;
	if (fscanf(s, "%*d (%*[^)]) %c", &state) != 1)
		state = 'R';
	fclose(s);
	return state == 'S';
}

/* It came while this node was primary: what it is about may not be durable on the node that took over. */
START_TEST(an_fsync_that_waited_for_a_role_that_was_lost_is_no_success)
{
	uint64_t id = make(HANDLE_ROOT, "f", S_IFREG | 0644);
	struct file *f = t_open(&p, id, O_RDONLY);
	struct call c = { .origin = ORIGIN_NFS };
	pthread_t t;
	void *r;

	ck_assert(interpose_hold(p.ip));
	pthread_create(&t, NULL, fsync_reader_main, f);
	while (!asleep(atomic_load(&reader_tid)))
		sched_yield();
	interpose_set_writable(p.ip, false);
	pthread_join(t, &r);
	ck_assert_int_eq((intptr_t)r, -EROFS);
	ck_assert_int_eq(p.top->ops->fsync(p.top, &c, id, NULL, true), -EROFS);	/* a COMMIT, whoever has the file open */
	t_close(&p, f);
}
END_TEST

START_TEST(what_nobody_confirmed_is_not_open)
{
	struct file *f = NULL;
	uint64_t id = make(HANDLE_ROOT, "f", S_IFREG | 0644);

	ck_assert_int_eq(pair_settle(&p), 0);
	interpose_want_epoch(p.ip);
	queue_stop(p.q);		/* the role is lost at this moment */
	ck_assert_int_lt(t_make(&p, HANDLE_ROOT, "g", S_IFREG | 0644, NULL, &f), 0);
	ck_assert_ptr_null(f);
	ck_assert_uint_eq(interpose_writers(p.ip), 0);
	interpose_set_writable(p.ip, false);
	f = t_open(&p, id, O_RDONLY);
	ck_assert_int_eq(t_fsync(&p, f), 0);	/* a standby needs no epoch to flush what is here */
	t_close(&p, f);
}
END_TEST

START_TEST(no_room_on_the_standby)
{
	static char big[1 << 20];
	uint64_t id;
	struct file *f = make_open("f", &id);
	struct call c = user();
	struct statvfs s;

	ck_assert_int_eq(t_write(&p, f, big, 5000, 0), 5000);
	atomic_store(&p.room_bytes, 100000);
	ck_assert_int_eq(t_write(&p, f, big, sizeof big, 0), -ENOSPC);
	ck_assert_int_eq(t_write(&p, f, big, 50000, 0), 50000);
	atomic_store(&p.room_bytes, 1000);
	ck_assert_int_eq(t_write(&p, f, "over", 4, 0), 4);
	ck_assert_int_eq(t_write(&p, f, big, 5000, 40000), 5000);	/* within what is there */
	ck_assert_int_eq(t_write(&p, f, big, 5000, 50000), -ENOSPC);
	ck_assert_int_eq(t_make(&p, HANDLE_ROOT, "g", S_IFREG | 0644, NULL, NULL), -ENOSPC);
	ck_assert_int_eq(p.top->ops->fallocate(p.top, &c, f, 0, 0, 1 << 20), -ENOSPC);
	ck_assert_int_eq(p.top->ops->statfs(p.top, &c, &s), 0);
	ck_assert_uint_eq(s.f_bavail, 1000 / s.f_frsize);
	ck_assert_int_eq(t_unlink(&p, HANDLE_ROOT, "f"), 0);
	atomic_store(&p.room_bytes, UINT64_MAX);
	atomic_store(&p.room_inodes, 0);
	ck_assert_int_eq(t_make(&p, HANDLE_ROOT, "g", S_IFREG | 0644, NULL, NULL), -ENOSPC);
	t_close(&p, f);
	check_equal();
}
END_TEST

START_TEST(many_written_files)
{
	char name[32];

	for (unsigned i = 0; i < 2000; i++) {
		struct file *f;
		snprintf(name, sizeof name, "f%u", i);
		ck_assert_int_eq(t_make(&p, HANDLE_ROOT, name, S_IFREG | 0644, NULL, &f), 0);
		ck_assert_int_eq(t_write(&p, f, name, strlen(name), i), (ssize_t)strlen(name));
		t_close(&p, f);
	}
	check_equal();
	for (unsigned i = 0; i < 2000; i += 2) {
		snprintf(name, sizeof name, "f%u", i);
		ck_assert_int_eq(t_unlink(&p, HANDLE_ROOT, name), 0);
	}
	check_equal();
}
END_TEST

START_TEST(the_clock_never_goes_back)
{
	struct timespec t = interpose_stamp(p.ip), ahead = { .tv_sec = t.tv_sec + 1000, .tv_nsec = 5 };

	interpose_clock_seen(p.ip, ahead);
	ck_assert_int_eq(interpose_stamp(p.ip).tv_sec, ahead.tv_sec);
	interpose_clock_seen(p.ip, t);
	ck_assert_int_eq(interpose_stamp(p.ip).tv_sec, ahead.tv_sec);
	make(HANDLE_ROOT, "f", S_IFREG | 0644);
	check_equal();
}
END_TEST

/* ---- divergence ---- */

START_TEST(a_standby_that_differs_is_found_out)
{
	struct call c = { .origin = ORIGIN_INTERNAL };

	make(HANDLE_ROOT, "f", S_IFREG | 0644);
	ck_assert_int_eq(pair_settle(&p), 0);
	ck_assert_int_eq(p.b.local->ops->unlink(p.b.local, &c, HANDLE_ROOT, "f"), 0);
	ck_assert_int_eq(t_unlink(&p, HANDLE_ROOT, "f"), 0);
	ck_assert_int_eq(pair_settle(&p), -EUCLEAN);
}
END_TEST

START_TEST(tolerantly_it_is_reported)
{
	struct call c = { .origin = ORIGIN_INTERNAL };
	uint64_t f = make(HANDLE_ROOT, "f", S_IFREG | 0644), g = make(HANDLE_ROOT, "g", S_IFREG | 0644);

	ck_assert_int_eq(t_link(&p, g, HANDLE_ROOT, "g2"), 0);
	ck_assert_int_eq(pair_settle(&p), 0);
	ck_assert_int_eq(p.b.local->ops->unlink(p.b.local, &c, HANDLE_ROOT, "f"), 0);
	ck_assert_int_eq(p.b.local->ops->unlink(p.b.local, &c, HANDLE_ROOT, "g2"), 0);
	apply_set_tolerant(p.ap, true);
	ck_assert_int_eq(t_setattr(&p, f, &(struct setattr){ .valid = SET_MODE, .mode = 0600 }), 0);
	ck_assert_int_eq(pair_settle(&p), 0);
	ck_assert_uint_eq(atomic_load(&p.nreports), 1);
	ck_assert_int_eq(t_unlink(&p, HANDLE_ROOT, "g"), 0);	/* its last name there, but not here: must not be deleted */
	ck_assert_int_eq(pair_settle(&p), 0);
	ck_assert(standby_has(g));
	ck_assert_uint_eq(atomic_load(&p.nreports), 3);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("pair");
	TCase *t = tcase_create("pair");

	log_init("pair_test", LOG_SINK_STDERR, LOG_LVL_ERROR);
	tcase_add_unchecked_fixture(t, pair_mount, pair_unmount);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, every_kind_of_object);
	tcase_add_test(t, names_come_and_go);
	tcase_add_test(t, attributes);
	tcase_add_test(t, xattrs_acls_flags);
	tcase_add_test(t, flags_are_not_inherited);
	tcase_add_test(t, contents);
	tcase_add_test(t, data_that_are_shared_with_the_queue);
	tcase_add_test(t, priv_bits_are_cleared_by_a_write);
	tcase_add_test(t, a_tmpfile_gets_a_name);
	tcase_add_test(t, a_tmpfile_without_a_name_goes);
	tcase_add_test(t, unlinked_but_open_is_not_streamed);
	tcase_add_test(t, who_waits_for_confirmations_is_waited_for);
	tcase_add_test(t, fsync_waits_for_the_peer);
	tcase_add_test(t, a_peer_that_comes_back_goes_on);
	tcase_add_test(t, a_stable_change_is_a_barrier);
	tcase_add_test(t, attachments_arrive_with_their_op_or_alone);
	tcase_add_test(t, the_epoch_is_opened_by_the_first_change);
	tcase_add_test(t, a_standby_refuses_changes);
	tcase_add_test(t, an_fsync_that_waited_for_a_role_that_was_lost_is_no_success);
	tcase_add_test(t, what_nobody_confirmed_is_not_open);
	tcase_add_test(t, no_room_on_the_standby);
	tcase_add_test(t, many_written_files);
	tcase_add_test(t, the_clock_never_goes_back);
	tcase_add_test(t, a_standby_that_differs_is_found_out);
	tcase_add_test(t, tolerantly_it_is_reported);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
