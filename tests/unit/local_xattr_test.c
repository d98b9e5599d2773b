/* The local layer: xattrs, ACLs, inode flags, ranges, and the volume's limits. */
#include "tests/unit/local_env.h"

#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/xattr.h>

static ssize_t get(struct env *e, uint64_t id, const char *name, void *v, size_t n) { return e->l->ops->getxattr(e->l, CALL, id, name, v, n); }
static int set(struct env *e, uint64_t id, const char *name, const void *v, size_t n, int fl)
{
	return e->l->ops->setxattr(e->l, CALL, id, name, v, n, fl);
}

START_TEST(xattrs)
{
	struct env e;
	char buf[256];
	env_open(&e, _i);
	struct attr f = env_mk(&e, HANDLE_ROOT, "f", S_IFREG | 0644), l = env_mk(&e, HANDLE_ROOT, "l", S_IFLNK), b;
	struct call *c = &(struct call){ .stamp = { .tv_sec = 99 } };
	struct effect ef = { 0 };
	c->effect = &ef;
	ck_assert_int_eq(e.l->ops->setxattr(e.l, c, f.id, "user.a", "123", 3, XATTR_CREATE), 0);
	ck_assert_int_eq(ef.attr.ctime.tv_sec, 99);
	ck_assert_int_eq(env_attr(&e, f.id).ctime.tv_sec, 99);
	ck_assert_int_eq(set(&e, f.id, "user.a", "1", 1, XATTR_CREATE), -EEXIST);
	ck_assert_int_eq(set(&e, f.id, "user.b", "1", 1, XATTR_REPLACE), -ENODATA);
	ck_assert_int_eq(get(&e, f.id, "user.a", NULL, 0), 3);
	ck_assert_int_eq(get(&e, f.id, "user.a", buf, 2), -ERANGE);
	ck_assert_int_eq(get(&e, f.id, "user.a", buf, 3), 3);
	ck_assert_int_eq(get(&e, f.id, "user.none", buf, 3), -ENODATA);
	ck_assert_int_eq(set(&e, l.id, "user.a", "1", 1, 0), -EPERM);	/* as native */
	ck_assert_int_eq(set(&e, l.id, "trusted.a", "1", 1, 0), 0);
	ck_assert_int_eq(get(&e, l.id, "trusted.a", buf, 1), 1);
	ck_assert_int_eq(set(&e, HANDLE_ROOT, "trusted.r", "", 0, 0), 0);
	static const char *const hidden[] = { "trusted.tandemfs", "trusted.tandemfs.ids" };
	for (unsigned i = 0; i < 2; i++) {
		ck_assert_int_eq(get(&e, f.id, hidden[i], buf, sizeof(buf)), -ENODATA);
		ck_assert_int_eq(set(&e, f.id, hidden[i], "1", 1, 0), -EPERM);
		ck_assert_int_eq(e.l->ops->removexattr(e.l, CALL, f.id, hidden[i]), -EPERM);
	}
	ssize_t n = e.l->ops->listxattr(e.l, CALL, f.id, NULL, 0);
	ck_assert_int_eq(n, 7);
	ck_assert_int_eq(e.l->ops->listxattr(e.l, CALL, f.id, buf, 6), -ERANGE);
	ck_assert_int_eq(e.l->ops->listxattr(e.l, CALL, f.id, buf, 7), 7);
	ck_assert_str_eq(buf, "user.a");
	ck_assert_int_eq(e.l->ops->removexattr(e.l, CALL, f.id, "user.a"), 0);
	ck_assert_int_eq(e.l->ops->removexattr(e.l, CALL, f.id, "user.a"), -ENODATA);
	ck_assert_int_eq(e.l->ops->listxattr(e.l, CALL, f.id, buf, 7), 0);
	ck_assert_int_eq(env_lookup(&e, HANDLE_ROOT, "f", &b), 0);
	env_close(&e);
}
END_TEST

/* version, then (tag u16, perm u16, id u32): u::rwx u:1000:rwx g::r-x m::rwx o::--- */
static const unsigned char acl[] = {
	2, 0, 0, 0,
	1, 0, 7, 0, 255, 255, 255, 255,
	2, 0, 7, 0, 232, 3, 0, 0,
	4, 0, 5, 0, 255, 255, 255, 255,
	16, 0, 7, 0, 255, 255, 255, 255,
	32, 0, 0, 0, 255, 255, 255, 255,
};

START_TEST(acls)
{
	struct env e;
	struct attr a;
	struct hentry he;
	env_open(&e, _i);
	struct attr d = env_mk(&e, HANDLE_ROOT, "d", S_IFDIR | 0755), f = env_mk(&e, d.id, "f", S_IFREG | 0644);
	struct effect ef = { 0 };
	struct call c = env_call();
	c.effect = &ef;
	ck_assert_int_eq(e.l->ops->setxattr(e.l, &c, f.id, "system.posix_acl_access", acl, sizeof(acl), 0), 0);
	ck_assert_uint_eq(ef.attr.mode, S_IFREG | 0770);
	ck_assert_int_eq(set(&e, d.id, "system.posix_acl_default", acl, sizeof(acl), 0), 0);
	ck_assert_int_eq(index_get(e.h, d.id, &he), 0);
	ck_assert(he.flags & HENTRY_DEFACL);
	/* inherited: the umask doesn't count, the ACL does */
	c.umask = 077;
	struct create cr = { .mode = S_IFREG | 0666 };
	ck_assert_int_eq(e.l->ops->create(e.l, &c, d.id, "inherits", &cr, 0, &a, NULL), 0);
	ck_assert_uint_eq(a.mode, S_IFREG | 0660);
	ck_assert(ef.acl_inherited);
	ck_assert_int_gt(get(&e, a.id, "system.posix_acl_access", NULL, 0), 0);
	struct create dirs = { .mode = S_IFDIR | 0777 };
	ck_assert_int_eq(e.l->ops->create(e.l, &c, d.id, "sub", &dirs, 0, &a, NULL), 0);
	ck_assert_int_gt(get(&e, a.id, "system.posix_acl_default", NULL, 0), 0);
	ck_assert_int_eq(index_get(e.h, a.id, &he), 0);
	ck_assert(he.flags & HENTRY_DEFACL);
	env_restart(&e, false);
	ck_assert_int_eq(e.l->ops->create(e.l, &c, a.id, "deep", &cr, 0, &a, NULL), 0);
	ck_assert_uint_eq(a.mode, S_IFREG | 0660);
	/* exact: neither */
	cr.exact = dirs.exact = true;
	cr.mode = S_IFREG | 0604;
	ck_assert_int_eq(e.l->ops->create(e.l, &c, d.id, "exact", &cr, 0, &a, NULL), 0);
	ck_assert_uint_eq(a.mode, S_IFREG | 0604);
	ck_assert_int_eq(get(&e, a.id, "system.posix_acl_access", NULL, 0), -ENODATA);
	ck_assert_int_eq(e.l->ops->create(e.l, &c, d.id, "exactd", &dirs, 0, &a, NULL), 0);
	ck_assert_uint_eq(a.mode, S_IFDIR | 0777);
	ck_assert_int_eq(get(&e, a.id, "system.posix_acl_default", NULL, 0), -ENODATA);
	/* nameless files inherit too */
	struct file *tf;
	cr = (struct create){ .mode = S_IFREG | 0666 };
	ck_assert_int_eq(e.l->ops->tmpfile(e.l, &c, d.id, &cr, O_RDWR, &a, &tf), 0);
	ck_assert_uint_eq(a.mode, S_IFREG | 0660);
	env_release(&e, tf);
	ck_assert_int_eq(e.l->ops->removexattr(e.l, CALL, d.id, "system.posix_acl_default"), 0);
	ck_assert_int_eq(index_get(e.h, d.id, &he), 0);
	ck_assert(!(he.flags & HENTRY_DEFACL));
	ck_assert_int_eq(e.l->ops->create(e.l, &c, d.id, "plain", &cr, 0, &a, NULL), 0);
	ck_assert_uint_eq(a.mode, S_IFREG | 0600);
	env_close(&e);
}
END_TEST

START_TEST(flags_in_the_way)
{
	struct env e;
	struct attr a;
	uint32_t fl;
	env_open(&e, _i);
	struct attr d = env_mk(&e, HANDLE_ROOT, "d", S_IFDIR | 0755), f = env_mk(&e, d.id, "f", S_IFREG | 0644);
	struct attr fifo = env_mk(&e, d.id, "p", S_IFIFO | 0644);
	ck_assert_int_eq(e.l->ops->getflags(e.l, CALL, fifo.id, &fl), -ENOTTY);
	ck_assert_int_eq(e.l->ops->getflags(e.l, CALL, f.id, &fl), 0);
	ck_assert_uint_eq(fl, 0);
	ck_assert_int_eq(e.l->ops->setflags(e.l, CALL, f.id, FS_COMPR_FL), -EOPNOTSUPP);
	ck_assert_int_eq(e.l->ops->setflags(e.l, CALL, f.id, FS_IMMUTABLE_FL), 0);
	ck_assert_int_eq(e.l->ops->getflags(e.l, CALL, f.id, &fl), 0);
	ck_assert_uint_eq(fl, FS_IMMUTABLE_FL);
	struct setattr s = { .valid = SET_MODE | SET_UID | SET_MTIME | SET_SIZE, .mode = 0600, .uid = 3, .mtime = { 5, 0 }, .size = 9 };
	struct file *file;
	ck_assert_int_eq(e.l->ops->setattr(e.l, CALL, f.id, NULL, &s, &a), -EPERM);
	ck_assert_int_eq(e.l->ops->unlink(e.l, CALL, d.id, "f"), -EPERM);
	ck_assert_int_eq(e.l->ops->open(e.l, CALL, f.id, O_RDWR, &file), -EPERM);
	/* apply lifts and restores */
	struct call *ap = &(struct call){ .origin = ORIGIN_APPLY };
	ck_assert_int_eq(e.l->ops->setattr(e.l, ap, f.id, NULL, &s, &a), 0);
	ck_assert_uint_eq(a.mode, S_IFREG | 0600);
	ck_assert_uint_eq(a.size, 9);
	ck_assert_int_eq(a.mtime.tv_sec, 5);
	ck_assert_int_eq(e.l->ops->open(e.l, ap, f.id, O_RDWR, &file), 0);
	ck_assert_int_eq(e.l->ops->write(e.l, ap, file, &(struct wdata){ .p = "z", .len = 1 }, 3, 0, &a), 1);
	ck_assert_int_eq(e.l->ops->fallocate(e.l, ap, file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, 2), 0);
	env_release(&e, file);
	ck_assert_int_eq(e.l->ops->setxattr(e.l, ap, f.id, "user.a", "1", 1, 0), 0);
	ck_assert_int_eq(e.l->ops->getflags(e.l, CALL, f.id, &fl), 0);
	ck_assert_uint_eq(fl, FS_IMMUTABLE_FL);
	ck_assert_int_eq(e.l->ops->link(e.l, ap, f.id, HANDLE_ROOT, "l", &a), 0);
	ck_assert_int_eq(e.l->ops->rename(e.l, ap, HANDLE_ROOT, "l", d.id, "l", 0), 0);
	ck_assert_int_eq(e.l->ops->unlink(e.l, ap, d.id, "l"), 0);
	ck_assert_int_eq(e.l->ops->unlink(e.l, ap, d.id, "f"), 0);
	/* append-only: appends by applications, with stamps */
	f = env_mk(&e, d.id, "log", S_IFREG | 0644);
	ck_assert_int_eq(e.l->ops->setflags(e.l, CALL, f.id, FS_APPEND_FL), 0);
	ck_assert_int_eq(e.l->ops->setflags(e.l, CALL, d.id, FS_APPEND_FL), 0);
	ck_assert_int_eq(e.l->ops->open(e.l, CALL, f.id, O_WRONLY, &file), -EPERM);
	ck_assert_int_eq(e.l->ops->open(e.l, CALL, f.id, O_WRONLY | O_APPEND, &file), 0);
	struct call *c = &(struct call){ .stamp = { .tv_sec = 77 } };
	ck_assert_int_eq(e.l->ops->write(e.l, c, file, &(struct wdata){ .p = "line", .len = 4 }, 0, WRITE_APPEND, &a), 4);
	ck_assert_int_eq(a.mtime.tv_sec, 77);
	ck_assert_int_eq(e.l->ops->write(e.l, c, file, &(struct wdata){ .p = "line", .len = 4 }, 0, WRITE_APPEND, &a), 4);
	ck_assert_uint_eq(a.size, 8);
	env_release(&e, file);
	a = env_mk(&e, d.id, "more", S_IFREG | 0644);
	ck_assert_int_eq(e.l->ops->unlink(e.l, CALL, d.id, "more"), -EPERM);
	ck_assert_int_eq(e.l->ops->getflags(e.l, CALL, d.id, &fl), 0);
	ck_assert_uint_eq(fl, FS_APPEND_FL);
	env_close(&e);
}
END_TEST

START_TEST(ranges)
{
	struct env e;
	struct attr a, b;
	char buf[9000], zero[9000] = { 0 };
	env_open(&e, _i);
	a = env_mk(&e, HANDLE_ROOT, "a", S_IFREG | 0644);
	b = env_mk(&e, HANDLE_ROOT, "b", S_IFREG | 0644);
	struct file *f = env_open_file(&e, a.id, O_RDWR), *g = env_open_file(&e, b.id, O_WRONLY);
	memset(buf, 'x', sizeof(buf));
	ck_assert_int_eq(env_write(&e, f, buf, 8192, 1 << 20), 8192);
	ck_assert_int_eq(e.l->ops->lseek(e.l, CALL, f, 0, SEEK_DATA), 1 << 20);
	ck_assert_int_eq(e.l->ops->lseek(e.l, CALL, f, 1 << 20, SEEK_HOLE), (1 << 20) + 8192);
	ck_assert_int_eq(e.l->ops->lseek(e.l, CALL, f, 2 << 20, SEEK_DATA), -ENXIO);
	ck_assert_int_eq(e.l->ops->lseek(e.l, CALL, f, 0, SEEK_SET), -EINVAL);
	struct call *c = &(struct call){ .stamp = { .tv_sec = 50 } };
	struct effect ef = { 0 };
	c->effect = &ef;
	ck_assert_int_eq(e.l->ops->copy_range(e.l, c, f, 1 << 20, g, 100, 1 << 20), 8192);	/* to the end */
	ck_assert_uint_eq(ef.attr.size, 8292);
	ck_assert_uint_eq(ef.attr.id, b.id);
	ck_assert_int_eq(ef.attr.mtime.tv_sec, 50);
	ck_assert_int_eq(e.l->ops->copy_range(e.l, c, f, 4 << 20, g, 0, 10), 0);
	ck_assert_int_eq(e.l->ops->fallocate(e.l, c, f, FALLOC_FL_ZERO_RANGE, 1 << 20, 100), 0);
	ck_assert_int_eq(e.l->ops->read(e.l, CALL, f, buf, 101, 1 << 20), 101);
	ck_assert(!memcmp(buf, zero, 100) && buf[100] == 'x');
	ck_assert_int_eq(e.l->ops->fallocate(e.l, c, f, FALLOC_FL_ZERO_RANGE, 2 << 20, 100), 0);
	ck_assert_uint_eq(ef.attr.size, (2 << 20) + 100);
	ck_assert_int_eq(e.l->ops->fallocate(e.l, c, f, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 1 << 20, 8192), 0);
	ck_assert_int_eq(e.l->ops->read(e.l, CALL, f, buf, 8192, 1 << 20), 8192);
	ck_assert(!memcmp(buf, zero, 8192));
	ck_assert_int_eq(e.l->ops->fallocate(e.l, c, f, FALLOC_FL_KEEP_SIZE, 3 << 20, 4096), 0);
	ck_assert_uint_eq(ef.attr.size, (2 << 20) + 100);
	ck_assert_int_eq(e.l->ops->fallocate(e.l, c, f, 0, 3 << 20, 4096), 0);
	ck_assert_uint_eq(ef.attr.size, (3 << 20) + 4096);
	ck_assert_int_eq(e.l->ops->fallocate(e.l, c, f, 0, 0, 0), -EINVAL);
	env_release(&e, f);
	env_release(&e, g);
	env_close(&e);
}
END_TEST

START_TEST(limits_are_enforced)
{
	struct env e;
	struct attr a;
	struct volume_limits lim = { .time_min = -100, .time_max = 1000, .time_gran_ns = 1000, .xattr_value_max = 100, .xattr_total_max = 200,
				     .symlink_max = 10, .link_max = 3, .size_max = 10000 };
	struct local_config cfg = { .limits = &lim };
	char buf[200] = { 0 };
	env_open_cfg(&e, _i, &cfg);
	struct call *c = &(struct call){ .stamp = { .tv_sec = 500, .tv_nsec = 1234567 } };
	struct create cr = { .mode = S_IFREG | 0644 };
	struct file *f;
	ck_assert_int_eq(e.l->ops->create(e.l, c, HANDLE_ROOT, "f", &cr, O_RDWR, &a, &f), 0);
	ck_assert_int_eq(a.mtime.tv_nsec, 1234000);
	ck_assert_int_eq(a.ctime.tv_nsec, 1234000);
	struct setattr s = { .valid = SET_ATIME | SET_MTIME, .atime = { -200, 5 }, .mtime = { 2000, 5 } };
	ck_assert_int_eq(e.l->ops->setattr(e.l, c, a.id, NULL, &s, &a), 0);
	ck_assert_int_eq(a.atime.tv_sec, -100);
	ck_assert_int_eq(a.atime.tv_nsec, 0);
	ck_assert_int_eq(a.mtime.tv_sec, 1000);
	ck_assert_int_eq(env_write(&e, f, buf, 200, 9900), 100);
	ck_assert_int_eq(env_write(&e, f, buf, 200, 10000), -EFBIG);
	s = (struct setattr){ .valid = SET_SIZE | SET_MODE, .size = 10001, .mode = 0 };
	ck_assert_int_eq(e.l->ops->setattr(e.l, c, a.id, NULL, &s, &a), -EFBIG);
	ck_assert_uint_eq(env_attr(&e, a.id).mode, S_IFREG | 0644);
	ck_assert_int_eq(e.l->ops->fallocate(e.l, c, f, 0, 9000, 2000), -EFBIG);
	ck_assert_int_eq(e.l->ops->copy_range(e.l, c, f, 0, f, 10000, 10), -EFBIG);
	env_release(&e, f);
	ck_assert_int_eq(set(&e, a.id, "user.a", buf, 101, 0), -ENOSPC);
	ck_assert_int_eq(set(&e, a.id, "user.a", buf, 100, 0), 0);
	ck_assert_int_eq(set(&e, a.id, "user.b", buf, 100, 0), -ENOSPC);
	ck_assert_int_eq(set(&e, a.id, "user.a", buf, 99, 0), 0);	/* itself counts once */
	ck_assert_int_eq(set(&e, a.id, "user.b", buf, 40, 0), 0);
	cr = (struct create){ .mode = S_IFLNK | 0777, .target = "01234567890" };
	ck_assert_int_eq(e.l->ops->create(e.l, c, HANDLE_ROOT, "l", &cr, 0, NULL, NULL), -ENAMETOOLONG);
	cr.target++;
	ck_assert_int_eq(e.l->ops->create(e.l, c, HANDLE_ROOT, "l", &cr, 0, NULL, NULL), 0);
	ck_assert_int_eq(e.l->ops->link(e.l, c, a.id, HANDLE_ROOT, "2", NULL), 0);
	ck_assert_int_eq(e.l->ops->link(e.l, c, a.id, HANDLE_ROOT, "3", NULL), 0);
	ck_assert_int_eq(e.l->ops->link(e.l, c, a.id, HANDLE_ROOT, "4", NULL), -EMLINK);
	env_close(&e);
}
END_TEST

/* The table against the real thing: what it allows works, natively. */
START_TEST(limits_of_file_systems)
{
	struct volume_limits m, both = { 0 };
	const char *name;
	char path[300], target[5000], *value = calloc(1, 65537);
	snprintf(path, sizeof(path), "%s/mnt/%s", env_top, env_fs[_i]);
	auto_fd int fd = open(path, O_RDONLY | O_DIRECTORY);
	ck_assert_int_eq(volume_limits_of(fd, &m, &name), 0);
	ck_assert_str_eq(name, env_fs[_i]);
	ck_assert_uint_eq(m.time_gran_ns, 1);
	memset(target, 'x', sizeof(target));
	target[m.symlink_max] = 0;
	unlinkat(fd, "l", 0);
	ck_assert_int_eq(symlinkat(target, fd, "l"), 0);
	unlinkat(fd, "l", 0);
	auto_fd int f = openat(fd, "limit", O_CREAT | O_RDWR, 0600);
	ck_assert_int_eq(fsetxattr(f, "trusted.tandemfs", value, 33, 0), 0);
	ck_assert_int_eq(fsetxattr(f, "user.aaaaaaaaaaa", value, m.xattr_total_max ? m.xattr_value_max - 28 : m.xattr_value_max, 0), 0);
	ck_assert_int_eq(fsetxattr(f, "user.aaaaaaaaaaa", value, 1, 0), 0);
	if (m.xattr_total_max)	/* many small ones */
		for (unsigned i = 0, total = 0; (total += 16 + 4 + 20) <= m.xattr_total_max - 32; i++) {
			char n[16];
			snprintf(n, sizeof(n), "user.%u", i);
			ck_assert_msg(!fsetxattr(f, n, value, 20, 0), "%u", i);
		}
	if (_i < 2) {
		ck_assert_int_eq(ftruncate(f, (off_t)m.size_max), 0);
		struct timespec t[2] = { { .tv_sec = m.time_min }, { .tv_sec = m.time_max } };
		struct stat st;
		ck_assert_int_eq(futimens(f, t), 0);
		ck_assert_int_eq(fstat(f, &st), 0);
		ck_assert_int_eq(st.st_atime, m.time_min);
		ck_assert_int_eq(st.st_mtime, m.time_max);
	}
	unlinkat(fd, "limit", 0);
	volume_limits_intersect(&both, &m);
	ck_assert_uint_eq(both.symlink_max, m.symlink_max);
	struct volume_limits less = { .time_min = 0, .time_max = 9, .xattr_value_max = 7, .size_max = 6, .link_max = 5, .symlink_max = 4 };
	volume_limits_intersect(&both, &less);
	ck_assert_int_eq(both.time_max, 9);
	ck_assert_uint_eq(both.xattr_value_max, 7);
	ck_assert_uint_eq(both.size_max, 6);
	ck_assert_uint_eq(both.link_max, 5);
	free(value);
}
END_TEST

START_TEST(few_descriptors)
{
	struct env e;
	struct rlimit old, few;
	env_open(&e, _i);
	uint64_t ids[300];
	for (unsigned i = 0; i < 300; i++) {
		char name[16];
		snprintf(name, sizeof(name), "f%u", i);
		ids[i] = env_mk(&e, HANDLE_ROOT, name, S_IFREG | 0644).id;
	}
	getrlimit(RLIMIT_NOFILE, &old);
	few = (struct rlimit){ 150, old.rlim_max };
	setrlimit(RLIMIT_NOFILE, &few);
	for (unsigned i = 0; i < 300; i++) {
		env_attr(&e, ids[i]);
		env_release(&e, env_open_file(&e, ids[i], O_RDWR));
	}
	/* started with few, the cache leaves some to others */
	few.rlim_cur = 300;
	setrlimit(RLIMIT_NOFILE, &few);
	env_restart(&e, false);
	for (unsigned i = 0; i < 220; i++)
		env_attr(&e, ids[i]);
	int fds[100], n = 0;
	while (n < 100 && (fds[n] = dup(e.root_fd)) >= 0)
		n++;
	ck_assert_int_eq(n, 100);
	while (n)
		close(fds[--n]);
	setrlimit(RLIMIT_NOFILE, &old);
	env_close(&e);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("local_xattr");
	TCase *t = tcase_create("xattr");
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, xattrs, 0, 2);
	tcase_add_loop_test(t, acls, 0, ENV_FS);
	tcase_add_loop_test(t, flags_in_the_way, 0, 2);
	tcase_add_loop_test(t, ranges, 0, ENV_FS);
	tcase_add_loop_test(t, limits_are_enforced, 0, ENV_FS);
	tcase_add_loop_test(t, limits_of_file_systems, 0, ENV_FS);
	tcase_add_loop_test(t, few_descriptors, 0, ENV_FS);
	suite_add_tcase(s, t);
	return env_setup() ? env_run(s) : EXIT_SUCCESS;
}
