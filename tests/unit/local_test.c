/* The local layer, operation by operation, on ext4, xfs and tmpfs: what each changes, and what each refuses. */
#include "tests/unit/local_env.h"

#include <sys/sysmacros.h>
#include <sys/xattr.h>

static struct timespec ts(time_t s) { return (struct timespec){ .tv_sec = s }; }
#define AT(s) (&(struct call){ .origin = ORIGIN_FUSE, .uid = 1000, .gid = 1000, .umask = 022, .stamp = { .tv_sec = (s), .tv_nsec = 7 } })

START_TEST(create_sets_owner_mode_times_and_mark)
{
	struct env e;
	env_open(&e, _i);
	static const uint32_t types[] = { S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFSOCK, S_IFCHR, S_IFBLK };
	for (unsigned i = 0; i < 7; i++) {
		char name[16];
		struct attr a, b;
		struct effect ef = { 0 };
		struct call *c = AT(1000);
		c->effect = &ef;
		struct create cr = { .mode = types[i] | 0666, .rdev = i > 4 ? makedev(4, 9) : 0, .target = i == 2 ? "some/where" : NULL };
		snprintf(name, sizeof(name), "n%u", i);
		ck_assert_int_eq(e.l->ops->create(e.l, c, HANDLE_ROOT, name, &cr, 0, &a, NULL), 0);
		ck_assert_uint_eq(a.mode, types[i] | (i == 2 ? 0777 : 0644));
		ck_assert_uint_eq(a.uid, 1000);
		ck_assert_uint_eq(a.gid, 1000);
		ck_assert_uint_eq(a.gen, 77);
		ck_assert_uint_eq(a.rdev, cr.rdev);
		ck_assert_uint_eq(a.nlink, i == 1 ? 2 : 1);
		ck_assert_uint_eq(a.size, i == 1 ? LAYER_DIR_SIZE : i == 2 ? 10 : 0);
		ck_assert_int_eq(a.mtime.tv_sec, 1000);
		ck_assert_int_eq(a.ctime.tv_nsec, 7);
		ck_assert_uint_eq(ef.attr.id, a.id);
		ck_assert_int_eq(env_lookup(&e, HANDLE_ROOT, name, &b), 0);
		ck_assert_uint_eq(a.id, b.id);
		ck_assert_int_eq(b.ctime.tv_sec, 1000);
		ck_assert_int_eq(e.l->ops->create(e.l, c, HANDLE_ROOT, name, &cr, 0, &a, NULL), -EEXIST);
	}
	struct attr r = env_attr(&e, HANDLE_ROOT);
	ck_assert_uint_eq(r.nlink, 3);
	ck_assert_uint_eq(r.gen, 0);
	ck_assert_int_eq(r.mtime.tv_sec, 1000);
	ck_assert_int_eq(r.ctime.tv_sec, 1000);
	env_close(&e);
}
END_TEST

START_TEST(setgid_directory_gives_its_group)
{
	struct env e;
	env_open(&e, _i);
	struct attr d = env_mk(&e, HANDLE_ROOT, "d", S_IFDIR | 0755);
	struct setattr s = { .valid = SET_MODE | SET_GID, .mode = 02775, .gid = 55 };
	ck_assert_int_eq(e.l->ops->setattr(e.l, CALL, d.id, NULL, &s, &d), 0);
	ck_assert_uint_eq(d.mode, S_IFDIR | 02775);
	struct attr f = env_mk(&e, d.id, "f", S_IFREG | 0644), s2 = env_mk(&e, d.id, "s", S_IFDIR | 0755);
	ck_assert_uint_eq(f.gid, 55);
	ck_assert_uint_eq(s2.gid, 55);
	ck_assert_uint_eq(s2.mode, S_IFDIR | 02755);
	struct attr x = env_mk(&e, d.id, "x", S_IFREG | 04755);
	ck_assert_uint_eq(x.mode, S_IFREG | 04755);
	env_close(&e);
}
END_TEST

START_TEST(write_read_truncate)
{
	struct env e;
	char buf[64];
	env_open(&e, _i);
	struct attr a;
	struct file *f;
	struct create cr = { .mode = S_IFREG | 0644 };
	ck_assert_int_eq(e.l->ops->create(e.l, AT(1), HANDLE_ROOT, "f", &cr, O_RDWR, &a, &f), 0);
	struct wdata d = { .p = "hello world", .len = 11 };
	ck_assert_int_eq(e.l->ops->write(e.l, AT(2), f, &d, 0, 0, &a), 11);
	ck_assert_uint_eq(a.size, 11);
	ck_assert_int_eq(a.mtime.tv_sec, 2);
	ck_assert_int_eq(a.ctime.tv_sec, 2);
	ck_assert_int_eq(e.l->ops->write(e.l, AT(3), f, &d, 0, WRITE_APPEND, &a), 11);
	ck_assert_uint_eq(a.size, 22);
	ck_assert_int_eq(e.l->ops->read(e.l, CALL, f, buf, sizeof(buf), 6), 16);
	ck_assert(!memcmp(buf, "worldhello world", 16));
	struct setattr s = { .valid = SET_SIZE, .size = 5 };
	ck_assert_int_eq(e.l->ops->setattr(e.l, AT(4), a.id, NULL, &s, &a), 0);
	ck_assert_uint_eq(a.size, 5);
	ck_assert_int_eq(a.mtime.tv_sec, 4);
	ck_assert_int_eq(e.l->ops->setattr(e.l, AT(5), a.id, NULL, &s, &a), 0);
	ck_assert_int_eq(a.mtime.tv_sec, 4);	/* same size */
	ck_assert_int_eq(a.ctime.tv_sec, 4);
	ck_assert_int_eq(e.l->ops->setattr(e.l, AT(6), a.id, f, &s, &a), 0);
	ck_assert_int_eq(a.mtime.tv_sec, 6);	/* ftruncate */
	ck_assert_int_eq(e.l->ops->fsync(e.l, CALL, a.id, f, false), 0);
	ck_assert_int_eq(e.l->ops->fsync(e.l, CALL, HANDLE_ROOT, NULL, false), 0);
	env_release(&e, f);
	f = env_open_file(&e, a.id, O_WRONLY | O_TRUNC);
	ck_assert_uint_eq(env_attr(&e, a.id).size, 0);
	env_release(&e, f);
	ck_assert_int_eq(e.l->ops->open(e.l, CALL, HANDLE_ROOT, O_RDONLY, &f), -EISDIR);
	ck_assert_int_eq(e.l->ops->open(e.l, CALL, 12345, O_RDONLY, &f), -ESTALE);
	ck_assert_int_eq(e.l->ops->open(e.l, CALL, a.id + 1000, O_RDONLY, &f), -ESTALE);
	env_close(&e);
}
END_TEST

START_TEST(privileges_are_killed)
{
	struct env e;
	env_open(&e, _i);
	struct attr a = env_mk(&e, HANDLE_ROOT, "f", S_IFREG | 06755);
	ck_assert_uint_eq(a.mode & 07777, 06755);
	struct file *f = env_open_file(&e, a.id, O_WRONLY);
	struct wdata d = { .p = "x", .len = 1 };
	ck_assert_int_eq(e.l->ops->write(e.l, CALL, f, &d, 0, 0, &a), 1);
	ck_assert_uint_eq(a.mode & 07777, 06755);
	ck_assert_int_eq(e.l->ops->write(e.l, CALL, f, &d, 0, WRITE_KILL_PRIV, &a), 1);
	ck_assert_uint_eq(a.mode & 07777, 0755);
	env_release(&e, f);
	struct setattr s = { .valid = SET_MODE, .mode = 06744 };
	ck_assert_int_eq(e.l->ops->setattr(e.l, CALL, a.id, NULL, &s, &a), 0);
	ck_assert_uint_eq(a.mode & 07777, 06744);
	s = (struct setattr){ .valid = SET_SIZE | SET_KILL_PRIV, .size = 0 };
	ck_assert_int_eq(e.l->ops->setattr(e.l, CALL, a.id, NULL, &s, &a), 0);
	ck_assert_uint_eq(a.mode & 07777, 02744);
	s = (struct setattr){ .valid = SET_MODE, .mode = 06755 };
	ck_assert_int_eq(e.l->ops->setattr(e.l, CALL, a.id, NULL, &s, &a), 0);
	s = (struct setattr){ .valid = SET_UID, .uid = 7 };
	ck_assert_int_eq(e.l->ops->setattr(e.l, CALL, a.id, NULL, &s, &a), 0);
	ck_assert_uint_eq(a.mode & 07777, 0755);
	ck_assert_uint_eq(a.uid, 7);
	s = (struct setattr){ .valid = SET_UID | SET_MODE, .uid = 8, .mode = 06755 };
	ck_assert_int_eq(e.l->ops->setattr(e.l, CALL, a.id, NULL, &s, &a), 0);
	ck_assert_uint_eq(a.mode & 07777, 06755);
	env_close(&e);
}
END_TEST

START_TEST(times_are_set)
{
	struct env e;
	env_open(&e, _i);
	static const uint32_t types[] = { S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO };
	for (unsigned i = 0; i < 4; i++) {
		char name[8] = { (char)('a' + (char)i) };
		struct attr a = env_mk(&e, HANDLE_ROOT, name, types[i] | 0644);
		struct setattr s = { .valid = SET_ATIME | SET_MTIME, .atime = ts(11), .mtime = ts(22) };
		ck_assert_int_eq(e.l->ops->setattr(e.l, AT(33), a.id, NULL, &s, &a), 0);
		ck_assert_int_eq(a.atime.tv_sec, 11);
		ck_assert_int_eq(a.mtime.tv_sec, 22);
		ck_assert_int_eq(a.ctime.tv_sec, 33);
		s = (struct setattr){ .valid = SET_MTIME_NOW };
		ck_assert_int_eq(e.l->ops->setattr(e.l, AT(44), a.id, NULL, &s, &a), 0);
		ck_assert_int_eq(a.atime.tv_sec, 11);
		ck_assert_int_eq(a.mtime.tv_sec, 44);
		ck_assert_int_eq(a.mtime.tv_nsec, 7);
		struct call *c = AT(1);
		c->origin = ORIGIN_APPLY;
		s = (struct setattr){ .valid = SET_CTIME, .ctime = ts(55) };
		ck_assert_int_eq(e.l->ops->setattr(e.l, c, a.id, NULL, &s, &a), 0);
		ck_assert_int_eq(a.ctime.tv_sec, 55);
	}
	env_close(&e);
}
END_TEST

START_TEST(unlink_and_hard_links)
{
	struct env e;
	struct attr b;
	env_open(&e, _i);
	struct attr a = env_mk(&e, HANDLE_ROOT, "a", S_IFREG | 0644), d = env_mk(&e, HANDLE_ROOT, "d", S_IFDIR | 0755);
	ck_assert_int_eq(e.l->ops->link(e.l, AT(5), a.id, d.id, "b", &b), 0);
	ck_assert_uint_eq(b.nlink, 2);
	ck_assert_int_eq(b.ctime.tv_sec, 5);
	ck_assert_int_eq(env_attr(&e, d.id).mtime.tv_sec, 5);
	ck_assert_int_eq(e.l->ops->link(e.l, CALL, a.id, d.id, "b", &b), -EEXIST);
	ck_assert_int_eq(e.l->ops->link(e.l, CALL, d.id, d.id, "c", &b), -EPERM);
	struct effect ef = { 0 };
	struct call *c = AT(6);
	c->effect = &ef;
	ck_assert_int_eq(e.l->ops->unlink(e.l, c, HANDLE_ROOT, "a"), 0);
	ck_assert_uint_eq(ef.attr.nlink, 1);
	ck_assert_uint_eq(ef.attr.id, a.id);
	ck_assert_int_eq(env_lookup(&e, HANDLE_ROOT, "a", &b), -ENOENT);
	ck_assert_int_eq(env_lookup(&e, d.id, "b", &b), 0);
	ck_assert_uint_eq(b.id, a.id);
	ck_assert_uint_eq(b.nlink, 1);
	ck_assert_int_eq(b.ctime.tv_sec, 6);
	ck_assert_int_eq(e.l->ops->unlink(e.l, c, HANDLE_ROOT, "d"), -EISDIR);
	ck_assert_int_eq(e.l->ops->rmdir(e.l, c, d.id, "b"), -ENOTDIR);
	ck_assert_int_eq(e.l->ops->rmdir(e.l, c, HANDLE_ROOT, "d"), -ENOTEMPTY);
	ck_assert_int_eq(e.l->ops->unlink(e.l, c, d.id, "b"), 0);
	ck_assert_uint_eq(ef.attr.nlink, 0);
	ck_assert_int_eq(e.l->ops->getattr(e.l, CALL, a.id, NULL, &b), -ESTALE);
	ck_assert_int_eq(env_lookup(&e, a.id, ".", &b), -ESTALE);
	ck_assert_int_eq(e.l->ops->rmdir(e.l, c, HANDLE_ROOT, "d"), 0);
	ck_assert_int_eq(env_lookup(&e, d.id, "x", &b), -ESTALE);
	ck_assert_uint_eq(env_attr(&e, HANDLE_ROOT).nlink, 2);
	ck_assert_int_eq(e.l->ops->unlink(e.l, c, HANDLE_ROOT, "nope"), -ENOENT);
	env_close(&e);
}
END_TEST

START_TEST(unlinked_but_open)
{
	struct env e;
	struct attr b;
	char buf[8];
	env_open(&e, _i);
	struct attr a = env_mk(&e, HANDLE_ROOT, "a", S_IFREG | 0644);
	struct file *f = env_open_file(&e, a.id, O_RDWR), *g = env_open_file(&e, a.id, O_RDONLY);
	ck_assert_int_eq(e.l->ops->unlink(e.l, CALL, HANDLE_ROOT, "a"), 0);
	ck_assert_int_eq(env_write(&e, f, "data", 4, 0), 4);
	ck_assert_int_eq(e.l->ops->getattr(e.l, CALL, a.id, NULL, &b), 0);
	ck_assert_uint_eq(b.nlink, 0);
	ck_assert_uint_eq(b.size, 4);
	struct setattr s = { .valid = SET_MODE, .mode = 0600 };
	ck_assert_int_eq(e.l->ops->setattr(e.l, CALL, a.id, NULL, &s, &b), 0);
	ck_assert_uint_eq(b.mode, S_IFREG | 0600);
	ck_assert_int_eq(env_lookup(&e, a.id, ".", &b), -ESTALE);
	ck_assert_int_eq(e.l->ops->link(e.l, CALL, a.id, HANDLE_ROOT, "again", NULL), -ENOENT);
	env_release(&e, f);
	ck_assert_int_eq(e.l->ops->read(e.l, CALL, g, buf, 8, 0), 4);
	struct file *h = env_open_file(&e, a.id, O_RDONLY);
	env_release(&e, h);
	env_release(&e, g);
	ck_assert_int_eq(e.l->ops->getattr(e.l, CALL, a.id, NULL, &b), -ESTALE);
	struct hentry he;
	ck_assert_int_eq(index_get(e.h, a.id, &he), -ESTALE);
	env_close(&e);
}
END_TEST

#define LINGER (&(struct call){ .origin = ORIGIN_FUSE, .linger = true })

/* Removed objects whose caller wants that are usable by id until forgotten, and nobody else finds them. */
START_TEST(removed_objects_linger)
{
	struct env e;
	struct attr b;
	struct hentry he;
	char buf[8];
	env_open(&e, _i);
	struct attr f = env_mk(&e, HANDLE_ROOT, "f", S_IFREG | 0666), g = env_mk(&e, HANDLE_ROOT, "g", S_IFREG | 0644),
		    s = env_mk(&e, HANDLE_ROOT, "s", S_IFLNK | 0777), d = env_mk(&e, HANDLE_ROOT, "d", S_IFDIR | 0755);
	env_restart(&e, false);		/* cold objects, too */
	ck_assert_int_eq(e.l->ops->unlink(e.l, LINGER, HANDLE_ROOT, "f"), 0);
	ck_assert_int_eq(e.l->ops->unlink(e.l, LINGER, HANDLE_ROOT, "s"), 0);
	ck_assert_int_eq(e.l->ops->rmdir(e.l, LINGER, HANDLE_ROOT, "d"), 0);
	struct file *file = env_open_file(&e, f.id, O_RDWR);
	ck_assert_int_eq(env_write(&e, file, "data", 4, 0), 4);
	env_release(&e, file);
	ck_assert_int_eq(e.l->ops->setattr(e.l, CALL, f.id, NULL, &(struct setattr){ .valid = SET_SIZE, .size = 3 }, &b), 0);
	ck_assert_uint_eq(b.nlink, 0);
	ck_assert_uint_eq(env_attr(&e, f.id).size, 3);
	ck_assert_int_eq(e.l->ops->getxattr(e.l, CALL, f.id, "user.a", buf, 8), -ENODATA);
	ck_assert_int_eq(e.l->ops->readlink(e.l, CALL, s.id, buf, 8), 6);
	ck_assert_int_eq(env_lookup(&e, d.id, "name", &b), -ENOENT);
	ck_assert_int_eq(e.l->ops->create(e.l, CALL, d.id, "name", &(struct create){ .mode = S_IFREG | 0644 }, 0, &b, NULL), -ENOENT);
	for (unsigned i = 0; i < 3; i++)
		ck_assert_int_eq(env_lookup(&e, i == 0 ? f.id : i == 1 ? s.id : d.id, ".", &b), -ESTALE);
	/* a replaced file */
	ck_assert_int_eq(e.l->ops->rename(e.l, LINGER, HANDLE_ROOT, "g", HANDLE_ROOT, "h", 0), 0);
	struct attr h = env_mk(&e, HANDLE_ROOT, "i", S_IFREG | 0644);
	ck_assert_int_eq(e.l->ops->rename(e.l, LINGER, HANDLE_ROOT, "i", HANDLE_ROOT, "h", 0), 0);
	ck_assert_uint_eq(env_attr(&e, g.id).nlink, 0);
	ck_assert_uint_eq(env_attr(&e, h.id).nlink, 1);
	const uint64_t ids[] = { f.id, s.id, d.id, g.id };
	for (unsigned i = 0; i < 4; i++) {
		e.l->ops->forget(e.l, ids[i]);
		ck_assert_int_eq(e.l->ops->getattr(e.l, CALL, ids[i], NULL, &b), -ESTALE);
		ck_assert_int_eq(index_get(e.h, ids[i], &he), -ESTALE);
	}
	e.l->ops->forget(e.l, h.id);
	ck_assert_uint_eq(env_attr(&e, h.id).nlink, 1);
	ck_assert_int_eq(e.l->ops->unlink(e.l, LINGER, HANDLE_ROOT, "h"), 0);
	env_close(&e);
}
END_TEST

/* What was not removed after all does not linger when it is; nor does it beyond a number, or after a restart. */
START_TEST(lingering_has_an_end)
{
	enum { MANY = 1100 };
	struct env e;
	struct attr a, b;
	uint64_t first = 0;
	env_open(&e, _i);
	struct attr d = env_mk(&e, HANDLE_ROOT, "d", S_IFDIR | 0755), f = env_mk(&e, d.id, "f", S_IFREG | 0644);
	ck_assert_int_eq(e.l->ops->rmdir(e.l, LINGER, HANDLE_ROOT, "d"), -ENOTEMPTY);
	ck_assert_int_eq(e.l->ops->unlink(e.l, CALL, d.id, "f"), 0);
	ck_assert_int_eq(e.l->ops->getattr(e.l, CALL, f.id, NULL, &b), -ESTALE);
	ck_assert_int_eq(e.l->ops->rmdir(e.l, CALL, HANDLE_ROOT, "d"), 0);
	ck_assert_int_eq(e.l->ops->getattr(e.l, CALL, d.id, NULL, &b), -ESTALE);
	for (unsigned i = 0; i < MANY; i++) {
		a = env_mk(&e, HANDLE_ROOT, "f", S_IFREG | 0644);
		first = first ? first : a.id;
		ck_assert_int_eq(e.l->ops->unlink(e.l, LINGER, HANDLE_ROOT, "f"), 0);
		ck_assert_uint_eq(env_attr(&e, a.id).nlink, 0);
	}
	ck_assert_int_eq(e.l->ops->getattr(e.l, CALL, first, NULL, &b), -ESTALE);
	env_restart(&e, false);
	ck_assert_int_eq(e.l->ops->getattr(e.l, CALL, a.id, NULL, &b), -ESTALE);
	ck_assert_uint_eq(index_count(e.h), 1);
	env_close(&e);
}
END_TEST

/* The space of what lingers is free for who wants it. */
START_TEST(lingering_costs_no_space)
{
	enum { BIG = 400 << 20 };
	struct env e;
	struct statvfs before, st;
	env_open(&e, _i);
	if (_i == 2)
		ck_assert_int_eq(env_sh("mount -o remount,size=600m,nr_inodes=$(($(df --output=iused %s | tail -n 1) + 3)) %s/mnt/tmpfs", e.root, env_top), 0);
	ck_assert_int_eq(e.l->ops->statfs(e.l, CALL, &before), 0);
	for (unsigned i = 0; i < 4; i++) {
		struct attr a = env_mk(&e, HANDLE_ROOT, "big", S_IFREG | 0644);
		struct file *f = env_open_file(&e, a.id, O_RDWR);
		ck_assert_int_eq(e.l->ops->fallocate(e.l, CALL, f, 0, 0, BIG), 0);
		env_release(&e, f);
		ck_assert_int_eq(e.l->ops->unlink(e.l, LINGER, HANDLE_ROOT, "big"), 0);
	}
	for (unsigned i = 0; i < 10; i++) {	/* tmpfs: more than there are inodes */
		env_mk(&e, HANDLE_ROOT, "f", S_IFREG | 0644);
		ck_assert_int_eq(e.l->ops->unlink(e.l, LINGER, HANDLE_ROOT, "f"), 0);
	}
	env_mk(&e, HANDLE_ROOT, "big", S_IFREG | 0644);
	ck_assert_int_eq(e.l->ops->unlink(e.l, LINGER, HANDLE_ROOT, "big"), 0);
	ck_assert_int_eq(e.l->ops->statfs(e.l, CALL, &st), 0);
	if (_i != 1)	/* xfs itself is late to say so */
		ck_assert_uint_ge(st.f_bfree + (1 << 20) / st.f_frsize, before.f_bfree);
	if (_i == 2)
		ck_assert_int_eq(env_sh("mount -o remount,size=4g,nr_inodes=1000000 %s/mnt/tmpfs", env_top), 0);
	env_close(&e);
}
END_TEST

START_TEST(tmpfile_and_link)
{
	struct env e;
	struct attr a, b;
	struct file *f;
	char buf[8];
	env_open(&e, _i);
	struct create cr = { .mode = S_IFREG | 0666 };
	ck_assert_int_eq(e.l->ops->tmpfile(e.l, CALL, HANDLE_ROOT, &cr, O_RDWR, &a, &f), 0);
	ck_assert_uint_eq(a.nlink, 0);
	ck_assert_uint_eq(a.mode, S_IFREG | 0644);
	ck_assert_int_eq(env_write(&e, f, "data", 4, 0), 4);
	ck_assert_int_eq(e.l->ops->getattr(e.l, CALL, a.id, NULL, &b), 0);
	ck_assert_uint_eq(b.nlink, 0);
	ck_assert_int_eq(e.l->ops->link(e.l, CALL, a.id, HANDLE_ROOT, "named", &b), 0);
	ck_assert_uint_eq(b.nlink, 1);
	ck_assert_int_eq(e.l->ops->link(e.l, CALL, a.id, HANDLE_ROOT, "twice", &b), 0);
	ck_assert_uint_eq(b.nlink, 2);
	env_release(&e, f);
	f = env_open_file(&e, a.id, O_RDONLY);
	ck_assert_int_eq(e.l->ops->read(e.l, CALL, f, buf, 8, 0), 4);
	env_release(&e, f);
	/* one that stays nameless */
	ck_assert_int_eq(e.l->ops->tmpfile(e.l, CALL, HANDLE_ROOT, &cr, O_RDWR, &a, &f), 0);
	env_release(&e, f);
	ck_assert_int_eq(e.l->ops->getattr(e.l, CALL, a.id, NULL, &b), -ESTALE);
	char path[300];
	snprintf(path, sizeof(path), "%s/.tandemfs/limbo", e.root);
	ck_assert_int_eq(rmdir(path), 0);	/* empty */
	env_close(&e);
}
END_TEST

static int count_fn(void *arg, const struct dirent_info *d)
{
	(void)d;
	++*(unsigned *)arg;
	return 0;
}

START_TEST(rename_moves_replaces_and_exchanges)
{
	struct env e;
	struct attr b;
	env_open(&e, _i);
	struct attr d1 = env_mk(&e, HANDLE_ROOT, "d1", S_IFDIR | 0755), d2 = env_mk(&e, HANDLE_ROOT, "d2", S_IFDIR | 0755);
	struct attr s = env_mk(&e, d1.id, "s", S_IFDIR | 0755), f = env_mk(&e, d1.id, "f", S_IFREG | 0644);
	struct attr g = env_mk(&e, d2.id, "g", S_IFREG | 0644);
	struct effect ef = { 0 };
	struct call *c = AT(9);
	c->effect = &ef;
	ck_assert_int_eq(e.l->ops->rename(e.l, c, d1.id, "s", d2.id, "s2", 0), 0);
	ck_assert_uint_eq(env_attr(&e, d1.id).nlink, 2);
	ck_assert_uint_eq(env_attr(&e, d2.id).nlink, 3);
	ck_assert_int_eq(env_attr(&e, s.id).ctime.tv_sec, 9);
	ck_assert_int_eq(env_attr(&e, d1.id).mtime.tv_sec, 9);
	ck_assert_int_eq(env_lookup(&e, s.id, "..", &b), 0);
	ck_assert_uint_eq(b.id, d2.id);
	ck_assert_int_eq(e.l->ops->rename(e.l, c, d1.id, "f", d2.id, "g", RENAME_NOREPLACE), -EEXIST);
	ck_assert_int_eq(e.l->ops->rename(e.l, c, d1.id, "f", d2.id, "g", RENAME_EXCHANGE), 0);
	ck_assert_uint_eq(ef.replaced, g.id);
	ck_assert_uint_eq(ef.replaced_nlink, 1);
	ck_assert_int_eq(env_lookup(&e, d2.id, "g", &b), 0);
	ck_assert_uint_eq(b.id, f.id);
	/* a file against a directory */
	ck_assert_int_eq(e.l->ops->rename(e.l, c, d1.id, "f", d2.id, "s2", RENAME_EXCHANGE), 0);
	ck_assert_uint_eq(env_attr(&e, d1.id).nlink, 3);
	ck_assert_uint_eq(env_attr(&e, d2.id).nlink, 2);
	/* replace */
	ck_assert_int_eq(e.l->ops->rename(e.l, c, d2.id, "g", d2.id, "s2", 0), 0);
	ck_assert_uint_eq(ef.replaced, g.id);
	ck_assert_uint_eq(ef.replaced_nlink, 0);
	ck_assert_int_eq(e.l->ops->getattr(e.l, CALL, g.id, NULL, &b), -ESTALE);
	/* an empty directory in the place of another */
	struct attr t = env_mk(&e, HANDLE_ROOT, "t", S_IFDIR | 0755);
	ck_assert_int_eq(e.l->ops->rename(e.l, c, HANDLE_ROOT, "t", d1.id, "f", 0), 0);
	ck_assert_uint_eq(ef.replaced, s.id);
	ck_assert_uint_eq(env_attr(&e, HANDLE_ROOT).nlink, 4);
	ck_assert_uint_eq(env_attr(&e, d1.id).nlink, 3);
	ck_assert_uint_eq(env_attr(&e, t.id).nlink, 2);
	/* loops and hidden names */
	ck_assert_int_eq(e.l->ops->rename(e.l, c, HANDLE_ROOT, "d1", t.id, "x", 0), -EINVAL);
	ck_assert_int_eq(e.l->ops->rename(e.l, c, HANDLE_ROOT, "d2", HANDLE_ROOT, ".tandemfs", 0), -EPERM);
	ck_assert_int_eq(e.l->ops->rename(e.l, c, HANDLE_ROOT, ".tandemfs", HANDLE_ROOT, "x", 0), -ENOENT);
	ck_assert_int_eq(e.l->ops->rename(e.l, c, HANDLE_ROOT, "nope", HANDLE_ROOT, "x", 0), -ENOENT);
	env_close(&e);
}
END_TEST

START_TEST(hidden_names)
{
	struct env e;
	struct attr a;
	struct dir *d;
	unsigned n = 0;
	env_open(&e, _i);
	struct create dirs = { .mode = S_IFDIR | 0755 };
	static const char *const names[] = { ".tandemfs", "lost+found" };
	for (unsigned i = 0; i < 2; i++) {
		ck_assert_int_eq(env_lookup(&e, HANDLE_ROOT, names[i], &a), -ENOENT);
		ck_assert_int_eq(e.l->ops->create(e.l, CALL, HANDLE_ROOT, names[i], &dirs, 0, &a, NULL), -EPERM);
		ck_assert_int_eq(e.l->ops->rmdir(e.l, CALL, HANDLE_ROOT, names[i]), -ENOENT);
	}
	ck_assert_int_eq(e.l->ops->opendir(e.l, CALL, HANDLE_ROOT, &d), 0);
	ck_assert_int_eq(e.l->ops->readdir(e.l, CALL, d, 0, count_fn, &n), 0);
	ck_assert_uint_eq(n, 2);
	ck_assert_int_eq(e.l->ops->releasedir(e.l, CALL, d), 0);
	a = env_mk(&e, HANDLE_ROOT, "sub", S_IFDIR | 0755);
	env_mk(&e, a.id, ".tandemfs", S_IFDIR | 0755);	/* elsewhere it is a name like others */
	env_close(&e);
}
END_TEST

START_TEST(objects_are_found_cold)
{
	struct env e;
	struct attr a[5], b;
	env_open(&e, _i);
	struct attr d = env_mk(&e, HANDLE_ROOT, "d", S_IFDIR | 0755);
	static const uint32_t types[] = { S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO, S_IFSOCK };
	for (unsigned i = 0; i < 5; i++) {
		char name[8] = { (char)('a' + (char)i) };
		a[i] = env_mk(&e, d.id, name, types[i] | 0644);
	}
	for (int rebuild = 0; rebuild < 2; rebuild++) {
		env_restart(&e, rebuild);
		for (unsigned i = 0; i < 5; i++) {
			ck_assert_int_eq(env_lookup(&e, a[i].id, ".", &b), 0);
			ck_assert_uint_eq(b.id, a[i].id);
			ck_assert_uint_eq(b.mode, a[i].mode);
			ck_assert_int_eq(env_lookup(&e, a[i].id, "..", &b), i == 1 ? 0 : -ENOTDIR);
		}
		ck_assert_int_eq(env_lookup(&e, d.id, "..", &b), 0);
		ck_assert_uint_eq(b.id, HANDLE_ROOT);
		ck_assert_uint_eq(b.nlink, 3);
		ck_assert_int_eq(env_lookup(&e, HANDLE_ROOT, "..", &b), 0);
		ck_assert_uint_eq(b.id, HANDLE_ROOT);
		ck_assert_uint_eq(env_attr(&e, d.id).nlink, 3);
		char buf[32];
		ck_assert_int_eq(e.l->ops->readlink(e.l, CALL, a[2].id, buf, sizeof(buf)), 6);
		ck_assert(!memcmp(buf, "target", 6));
		ck_assert_int_eq(e.l->ops->readlink(e.l, CALL, a[0].id, buf, sizeof(buf)), -EINVAL);
	}
	/* copied with its mark: another object */
	ck_assert_int_eq(env_sh("cp -a --preserve=all %s/d/a %s/copy", e.root, e.root), 0);
	ck_assert_int_eq(env_lookup(&e, HANDLE_ROOT, "copy", &b), 0);
	ck_assert_uint_ne(b.id, a[0].id);
	env_close(&e);
}
END_TEST

/* An entry that was left of an object that is gone claims the inode number of another one. */
START_TEST(inode_numbers_are_used_again)
{
	struct env e;
	struct hentry he;
	struct attr a;
	env_open(&e, _i);
	struct attr f = env_mk(&e, HANDLE_ROOT, "f", S_IFREG | 0644);
	ck_assert_int_eq(index_get(e.h, f.id, &he), 0);
	he.lh.bytes[7] ^= 1;
	ck_assert_int_eq(ids_next(e.h, &he.id), 0);
	env_restart(&e, false);
	ck_assert_int_eq(index_put(e.h, &he), 0);
	ck_assert_int_eq(env_lookup(&e, HANDLE_ROOT, "f", &a), 0);
	ck_assert_uint_eq(a.id, f.id);
	ck_assert_int_eq(index_get(e.h, he.id, &he), -ESTALE);
	/* one that somebody made while nobody looked */
	ck_assert_int_eq(env_sh("touch %s/new", e.root), 0);
	struct stat st;
	char path[300];
	snprintf(path, sizeof(path), "%s/new", e.root);
	ck_assert_int_eq(stat(path, &st), 0);
	he.ino = st.st_ino;
	ck_assert_int_eq(index_put(e.h, &he), 0);
	ck_assert_int_eq(env_lookup(&e, HANDLE_ROOT, "new", &a), 0);
	ck_assert_uint_ne(a.id, he.id);
	env_release(&e, env_open_file(&e, a.id, O_RDONLY));
	env_close(&e);
}
END_TEST

static Suite *suite(void)
{
	Suite *s = suite_create("local");
	TCase *t = tcase_create("ops");
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, create_sets_owner_mode_times_and_mark, 0, ENV_FS);
	tcase_add_loop_test(t, setgid_directory_gives_its_group, 0, ENV_FS);
	tcase_add_loop_test(t, write_read_truncate, 0, ENV_FS);
	tcase_add_loop_test(t, privileges_are_killed, 0, ENV_FS);
	tcase_add_loop_test(t, times_are_set, 0, ENV_FS);
	tcase_add_loop_test(t, unlink_and_hard_links, 0, ENV_FS);
	tcase_add_loop_test(t, unlinked_but_open, 0, ENV_FS);
	tcase_add_loop_test(t, removed_objects_linger, 0, ENV_FS);
	tcase_add_loop_test(t, lingering_has_an_end, 0, ENV_FS);
	tcase_add_loop_test(t, lingering_costs_no_space, 0, ENV_FS);
	tcase_add_loop_test(t, tmpfile_and_link, 0, ENV_FS);
	tcase_add_loop_test(t, rename_moves_replaces_and_exchanges, 0, ENV_FS);
	tcase_add_loop_test(t, hidden_names, 0, ENV_FS);
	tcase_add_loop_test(t, objects_are_found_cold, 0, ENV_FS);
	tcase_add_loop_test(t, inode_numbers_are_used_again, 0, ENV_FS);
	suite_add_tcase(s, t);
	return s;
}

int main(void)
{
	return env_setup() ? env_run(suite()) : EXIT_SUCCESS;
}
