/*
 * What NFS callers may do: where the rules are those of Linux for a local process, the answer (and what becomes of modes) is compared with what the kernel
 * says to a process that really is the caller; what NFS adds is said by tables.
 */
#include "local_env.h"

#include <grp.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>

#include "nfsd-glue/perm.h"

enum { OWNER = 1000, GROUP = 100 };

static const struct who { const char *name; struct nfs_cred cred; } who[] = {
	{ "root", { 0 } },
	{ "owner", { .uid = OWNER, .gid = 5 } },
	{ "owner in group", { .uid = OWNER, .gid = 5, .ngroups = 2, .groups = { 7, GROUP } } },
	{ "group", { .uid = 1001, .gid = GROUP } },
	{ "supplementary group", { .uid = 1001, .gid = 5, .ngroups = 1, .groups = { GROUP } } },
	{ "other", { .uid = 1002, .gid = 6, .ngroups = 1, .groups = { 7 } } },
};

static struct env e;
static int counter;

static void setup(void) { env_open(&e, 0); }
static void teardown(void) { env_close(&e); }

/* ---- objects and truths ---- */

/* An object of OWNER and GROUP, or of UID; *NAME (in PARENT) is a new one. */
static struct attr make_in(uint64_t parent, uint32_t mode, uid_t uid, char name[16])
{
	struct call c = { .origin = ORIGIN_INTERNAL, .uid = uid, .gid = GROUP };
	struct create cr = { .mode = mode, .target = "target", .rdev = makedev(1, 3), .exact = true };
	struct attr a;

	snprintf(name, 16, "%d", ++counter);
	ck_assert_int_eq(e.l->ops->create(e.l, &c, parent, name, &cr, 0, &a, NULL), 0);
	return a;
}

static int open_dir(uint64_t id)
{
	int fd = local_open_fd(e.l, id, O_RDONLY | O_DIRECTORY);
	ck_assert_int_ge(fd, 0);
	return fd;
}

/* A system call that somebody tries. */
struct attempt {
	enum { A_UNLINK, A_RMDIR, A_RENAME, A_CREATE, A_MKDIR, A_MKNOD, A_CHMOD, A_CHOWN, A_TIMES, A_TOUCH } what;
	int dir, newdir;
	const char *name, *newname;
	mode_t mode;
	uid_t uid;
	gid_t gid;
};

static int try(const struct attempt *a)
{
	static const struct timespec times[2] = { { .tv_sec = 1 }, { .tv_sec = 2 } };

	switch (a->what) {
	case A_UNLINK: return unlinkat(a->dir, a->name, 0);
	case A_RMDIR: return unlinkat(a->dir, a->name, AT_REMOVEDIR);
	case A_RENAME: return renameat(a->dir, a->name, a->newdir, a->newname);
	case A_CREATE: return openat(a->dir, a->name, O_CREAT | O_EXCL | O_WRONLY, a->mode);
	case A_MKDIR: return mkdirat(a->dir, a->name, a->mode);
	case A_MKNOD: return mknodat(a->dir, a->name, a->mode, makedev(1, 3));
	case A_CHMOD: return fchmodat(a->dir, a->name, a->mode, 0);
	case A_CHOWN: return fchownat(a->dir, a->name, a->uid, a->gid, AT_SYMLINK_NOFOLLOW);
	case A_TIMES: return utimensat(a->dir, a->name, times, AT_SYMLINK_NOFOLLOW);
	case A_TOUCH: return utimensat(a->dir, a->name, NULL, AT_SYMLINK_NOFOLLOW);
	}
	return -1;
}

/* How it ends for W: 0 or -errno. */
static int truth(const struct who *w, const struct attempt *a)
{
	int status;
	pid_t pid = fork();

	if (!pid) {
		umask(0);
		if (setgroups(w->cred.ngroups, w->cred.groups) || setresgid(w->cred.gid, w->cred.gid, w->cred.gid) ||
		    setresuid(w->cred.uid, w->cred.uid, w->cred.uid))
			_exit(255);
		_exit(try(a) < 0 ? errno : 0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) < 255);
	return -WEXITSTATUS(status);
}

static mode_t mode_of(int dir, const char *name)
{
	struct stat st;
	ck_assert_int_eq(fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW), 0);
	return st.st_mode;
}

/* ---- entries ---- */

static const uint32_t dir_modes[] = { 0777, 01777, 0755, 0733, 0700, 0770, 01770, 0722, 0711, 03777 };

START_TEST(removing)
{
	char dname[16], name[16];

	for (unsigned m = 0; m < ARRAY_LEN(dir_modes); m++)
		for (unsigned i = 0; i < ARRAY_LEN(who) * 4; i++) {
			const struct who *w = &who[i / 4];
			uid_t dir_owner = i & 1 ? OWNER : 1003, owner = i & 2 ? OWNER : 1003;
			struct attr d = make_in(HANDLE_ROOT, S_IFDIR | dir_modes[m], dir_owner, dname), a = make_in(d.id, S_IFREG, owner, name);
			auto_fd int fd = open_dir(d.id);
			struct call c = perm_call(&w->cred);
			int said = perm_remove(e.l, &c, &d, &a);
			int is = truth(w, &(struct attempt){ .what = A_UNLINK, .dir = fd, .name = name });
			ck_assert_msg(said == is, "%s removes from %o of %u what is %u's: %d, not %d", w->name, dir_modes[m], dir_owner, owner, said, is);
		}
}
END_TEST

/* A file or directory goes from one directory to another (or the same), onto nothing or onto something. */
static void rename_once(const struct who *w, unsigned m1, unsigned m2, unsigned how)
{
	char d1name[16], d2name[16], name[16], newname[16];
	uint32_t type = how & 1 ? S_IFDIR : S_IFREG, mode = how & 8 ? 0755 : 0777;
	struct attr d1 = make_in(HANDLE_ROOT, S_IFDIR | dir_modes[m1], how & 16 ? OWNER : 1003, d1name);
	struct attr d2 = how & 4 ? make_in(HANDLE_ROOT, S_IFDIR | dir_modes[m2], 1003, d2name) : d1;
	struct attr from = make_in(d1.id, type | mode, how & 32 ? OWNER : 1003, name), to = make_in(d2.id, type | mode, 1003, newname);
	auto_fd int fd1 = open_dir(d1.id);
	auto_fd int fd2 = open_dir(d2.id);
	struct call c = perm_call(&w->cred);

	if (!(how & 2))
		ck_assert_int_eq(unlinkat(fd2, newname, how & 1 ? AT_REMOVEDIR : 0), 0);
	int said = perm_rename(e.l, &c, &d1, &from, &d2, how & 2 ? &to : NULL);
	int is = truth(w, &(struct attempt){ .what = A_RENAME, .dir = fd1, .newdir = fd2, .name = name, .newname = newname });
	/* With two reasons to refuse, the one that is found first is told: NFS checks both directories before it looks for sticky bits. */
	ck_assert_msg(!said == !is && (said == is || said == -EACCES), "%s renames (%u) from %o to %o: %d, not %d", w->name, how, dir_modes[m1], dir_modes[m2],
		      said, is);
}

START_TEST(renaming)
{
	const struct who *w = &who[_i];

	for (unsigned how = 0; how < 64; how++)
		for (unsigned m = 0; m < 3; m++)
			rename_once(w, (how + m) % ARRAY_LEN(dir_modes), (how * 3 + m * 7) % ARRAY_LEN(dir_modes), how);
}
END_TEST

START_TEST(creating)
{
	static const uint32_t modes[] = { S_IFREG | 0644, S_IFREG | 06755, S_IFREG | 02745, S_IFDIR | 07777, S_IFIFO | 02777, S_IFCHR | 0666, S_IFBLK, S_IFSOCK | 0600 };
	char dname[16], name[16];

	for (unsigned i = 0; i < ARRAY_LEN(who) * ARRAY_LEN(modes) * 4; i++) {
		const struct who *w = &who[i / 4 % ARRAY_LEN(who)];
		uint32_t mode = modes[i / 4 / ARRAY_LEN(who)];
		static const uint32_t dirs[] = { 0777, 02777, 0755, 02770 };
		struct attr d = make_in(HANDLE_ROOT, S_IFDIR | dirs[i % 4], 1003, dname);
		auto_fd int fd = open_dir(d.id);
		struct attempt at = { .what = S_ISREG(mode) ? A_CREATE : S_ISDIR(mode) ? A_MKDIR : A_MKNOD, .dir = fd, .name = "theirs",
				      .mode = S_ISREG(mode) || S_ISDIR(mode) ? mode & 07777 : mode };
		struct call c = perm_call(&w->cred);
		int said = perm_create(e.l, &c, &d, &mode), is = truth(w, &at);
		snprintf(name, sizeof name, "ours");
		ck_assert_msg(said == is, "%s creates %o in %o: %d, not %d", w->name, modes[i / 4 / ARRAY_LEN(who)], dirs[i % 4], said, is);
		if (said)
			continue;
		struct create cr = { .mode = mode, .rdev = makedev(1, 3) };
		ck_assert_int_eq(e.l->ops->create(e.l, &c, d.id, name, &cr, 0, &(struct attr){ 0 }, NULL), 0);
		ck_assert_msg(mode_of(fd, "ours") == mode_of(fd, "theirs"), "%s created %o, not %o", w->name, mode_of(fd, "ours"), mode_of(fd, "theirs"));
	}
}
END_TEST

START_TEST(owners_of_what_is_created)
{
	uint32_t valid = SET_UID | SET_GID | SET_MODE;
	struct call c = perm_call(&who[1].cred);

	perm_create_owner(&c, &valid);
	ck_assert_uint_eq(valid, SET_MODE);
	valid = SET_UID | SET_GID;
	c = perm_call(&who[0].cred);
	perm_create_owner(&c, &valid);
	ck_assert_uint_eq(valid, SET_UID | SET_GID);
}
END_TEST

START_TEST(linking)
{
	char dname[16], name[16];
	struct attr d = make_in(HANDLE_ROOT, S_IFDIR | 0755, OWNER, dname), f = make_in(d.id, S_IFREG, 1003, name);
	struct call owner = perm_call(&who[1].cred), other = perm_call(&who[5].cred);

	ck_assert_int_eq(perm_link(e.l, &owner, &f, &d), 0);	/* as knfsd: not being able to read it doesn't matter */
	ck_assert_int_eq(perm_link(e.l, &other, &f, &d), -EACCES);
	ck_assert_int_eq(perm_link(e.l, &owner, &d, &d), -EPERM);
}
END_TEST

/* ---- attributes ---- */

static const uint32_t some_modes[] = { S_IFREG | 0644, S_IFREG | 06777, S_IFREG | 02744, S_IFREG | 0222, S_IFDIR | 02755, S_IFDIR | 01777, S_IFLNK | 0777 };

/* What the rules and the layer make of S, and what the kernel makes of the attempt AT, on two equal objects. */
static void set_once(const struct who *w, uint32_t mode, struct setattr s, struct attempt at)
{
	char ours[16], theirs[16];
	struct attr a = make_in(HANDLE_ROOT, mode, OWNER, ours);
	struct call c = perm_call(&w->cred);

	make_in(HANDLE_ROOT, mode, OWNER, theirs);
	at.dir = e.root_fd;
	at.name = theirs;
	int is = truth(w, &at), said = perm_setattr(e.l, &c, &a, &s);
	ck_assert_msg(said == is, "%s sets %x of %o: %d, not %d", w->name, s.valid, mode, said, is);
	if (said)
		return;
	ck_assert_int_eq(e.l->ops->setattr(e.l, &c, a.id, NULL, &s, &a), 0);
	struct stat st;
	ck_assert_int_eq(fstatat(e.root_fd, theirs, &st, AT_SYMLINK_NOFOLLOW), 0);
	ck_assert_msg(a.mode == st.st_mode, "%s set %x of %o: %o, not %o", w->name, s.valid, mode, a.mode, st.st_mode);
	ck_assert_uint_eq(a.uid, st.st_uid);
	ck_assert_uint_eq(a.gid, st.st_gid);
}

START_TEST(changing_the_mode)
{
	static const mode_t to[] = { 0, 0600, 02755, 02744, 04711, 06777, 01777 };

	for (unsigned i = 0; i < ARRAY_LEN(some_modes) - 1; i++)
		for (unsigned j = 0; j < ARRAY_LEN(to); j++)
			set_once(&who[_i], some_modes[i], (struct setattr){ .valid = SET_MODE, .mode = to[j] },
				 (struct attempt){ .what = A_CHMOD, .mode = to[j] });
}
END_TEST

START_TEST(changing_the_owner)
{
	static const struct { uint32_t valid; uid_t uid; gid_t gid; } to[] = {
		{ SET_UID, 1001, (gid_t)-1 }, { SET_UID, OWNER, (gid_t)-1 }, { SET_GID, (uid_t)-1, 7 }, { SET_GID, (uid_t)-1, 5 },
		{ SET_GID, (uid_t)-1, GROUP }, { SET_GID, (uid_t)-1, 0 }, { SET_UID | SET_GID, OWNER, 7 }, { SET_UID | SET_GID, 0, 0 },
	};

	for (unsigned i = 0; i < ARRAY_LEN(some_modes); i++)
		for (unsigned j = 0; j < ARRAY_LEN(to); j++)
			set_once(&who[_i], some_modes[i], (struct setattr){ .valid = to[j].valid, .uid = to[j].uid, .gid = to[j].gid },
				 (struct attempt){ .what = A_CHOWN, .uid = to[j].uid, .gid = to[j].gid });
}
END_TEST

START_TEST(changing_times)
{
	for (unsigned i = 0; i < ARRAY_LEN(some_modes); i++) {
		const struct setattr given = { .valid = SET_ATIME | SET_MTIME, .atime = { .tv_sec = 1 }, .mtime = { .tv_sec = 2 } };
		set_once(&who[_i], some_modes[i], given, (struct attempt){ .what = A_TIMES });
		set_once(&who[_i], some_modes[i], (struct setattr){ .valid = SET_ATIME_NOW | SET_MTIME_NOW }, (struct attempt){ .what = A_TOUCH });
	}
}
END_TEST

static int ask_setattr(unsigned w, const struct attr *a, struct setattr *s)
{
	struct call c = perm_call(&who[w].cred);
	return perm_setattr(e.l, &c, a, s);
}

START_TEST(changing_the_size)
{
	char name[16];
	struct attr a = make_in(HANDLE_ROOT, S_IFREG | 04020, OWNER, name), d = make_in(HANDLE_ROOT, S_IFDIR | 0777, OWNER, name);
	struct setattr s = { .valid = SET_SIZE };

	ck_assert_int_eq(ask_setattr(1, &a, &s), 0);		/* the owner may, whatever the mode */
	ck_assert_uint_eq(s.valid, SET_SIZE | SET_KILL_PRIV);
	s.valid = SET_SIZE;
	ck_assert_int_eq(ask_setattr(3, &a, &s), 0);
	s.valid = SET_SIZE;
	ck_assert_int_eq(ask_setattr(5, &a, &s), -EACCES);
	ck_assert_int_eq(ask_setattr(0, &a, &s), 0);
	ck_assert_uint_eq(s.valid, SET_SIZE);
	ck_assert_int_eq(ask_setattr(0, &d, &s), -EISDIR);
	a = make_in(HANDLE_ROOT, S_IFIFO | 0777, OWNER, name);
	ck_assert_int_eq(ask_setattr(0, &a, &s), -EINVAL);
}
END_TEST

START_TEST(several_at_once)
{
	char name[16];
	struct attr a = make_in(HANDLE_ROOT, S_IFREG | 06755, OWNER, name), l = make_in(HANDLE_ROOT, S_IFLNK | 0777, OWNER, name);
	struct setattr s = { .valid = SET_MODE | SET_GID, .mode = 0106755, .gid = GROUP };

	ck_assert_int_eq(ask_setattr(2, &a, &s), 0);		/* a mode beside a new owner: without the bits that go */
	ck_assert_uint_eq(s.mode, 0755);
	ck_assert_uint_eq(s.valid, SET_MODE | SET_GID);
	s = (struct setattr){ .valid = SET_MODE | SET_GID, .mode = 02644, .gid = 5 };
	ck_assert_int_eq(ask_setattr(1, &a, &s), 0);		/* setgid for the group that it gets */
	ck_assert_uint_eq(s.mode, 02644);
	s = (struct setattr){ .valid = SET_MODE | SET_SIZE, .mode = 04755 };
	ck_assert_int_eq(ask_setattr(5, &a, &s), -EACCES);
	s = (struct setattr){ .valid = SET_MODE | SET_MTIME_NOW, .mode = 0600 };
	ck_assert_int_eq(ask_setattr(1, &l, &s), 0);		/* a symlink's mode is ignored */
	ck_assert_uint_eq(s.valid, SET_MTIME_NOW);
	s = (struct setattr){ .valid = SET_ATIME_NOW | SET_MTIME };
	a = make_in(HANDLE_ROOT, S_IFREG | 0666, OWNER, name);
	ck_assert_int_eq(ask_setattr(5, &a, &s), -EPERM);
	s = (struct setattr){ .valid = SET_ATIME_NOW };
	ck_assert_int_eq(ask_setattr(5, &a, &s), 0);
}
END_TEST

/* ---- rights on an object ---- */

enum { READ = PERM_READ | PERM_OWNER | PERM_READ_IF_EXEC, WRITE = PERM_WRITE | PERM_OWNER };

static const struct { uint32_t mode; unsigned who, want; int r; } checks[] = {
	{ S_IFREG | 0, 1, READ, 0 }, { S_IFREG | 0, 1, WRITE, 0 }, { S_IFREG | 0, 1, PERM_READ, -EACCES }, { S_IFREG | 0, 5, READ, -EACCES },
	{ S_IFREG | 0, 0, READ, 0 }, { S_IFREG | 0, 0, WRITE, 0 }, { S_IFREG | 0, 0, PERM_EXEC, -EACCES }, { S_IFREG | 0001, 0, PERM_EXEC, 0 },
	{ S_IFREG | 0001, 5, READ, 0 }, { S_IFREG | 0001, 5, PERM_READ, -EACCES }, { S_IFREG | 0001, 5, PERM_READ | PERM_WRITE | PERM_READ_IF_EXEC, -EACCES },
	{ S_IFREG | 0010, 4, READ, 0 }, { S_IFREG | 0010, 5, READ, -EACCES }, { S_IFREG | 0002, 5, WRITE, 0 }, { S_IFREG | 0003, 5, WRITE, 0 },
	{ S_IFREG | 0707, 3, READ, -EACCES }, { S_IFREG | 0001, 5, WRITE, -EACCES },
	{ S_IFDIR | 0, 1, READ, -EACCES }, { S_IFDIR | 0111, 5, READ, -EACCES }, { S_IFDIR | 0111, 5, PERM_EXEC, 0 }, { S_IFDIR | 0, 0, PERM_EXEC, 0 },
	{ S_IFDIR | 0444, 5, PERM_READ, 0 }, { S_IFDIR | 0444, 5, PERM_EXEC, -EACCES }, { S_IFIFO | 0, 1, READ, -EACCES },
};

START_TEST(rights)
{
	char name[16];

	for (size_t i = 0; i < ARRAY_LEN(checks); i++) {
		struct attr a = make_in(HANDLE_ROOT, checks[i].mode, OWNER, name);
		struct call c = perm_call(&who[checks[i].who].cred);
		int r = perm_check(e.l, &c, &a, checks[i].want);
		ck_assert_msg(r == checks[i].r, "%zu: %d, not %d", i, r, checks[i].r);
	}
}
END_TEST

/* An ACL (version 2; entries tag, rights, id): user 1002 may do all, user 1003 nothing. */
static const unsigned char acl[] = { 2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 7, 0, 0xea, 3, 0, 0, 2, 0, 0, 0, 0xeb, 3, 0, 0, 4, 0, 0, 0, 255, 255, 255, 255,
				     16, 0, 7, 0, 255, 255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255 };

static int check_now(struct nfs_cred cred, uint64_t id, unsigned want, bool *known)
{
	struct call c = perm_call(&cred);
	struct attr a = env_attr(&e, id);

	*known = a.no_acl;
	return perm_check(e.l, &c, &a, want);
}

START_TEST(acls_count)
{
	static const struct nfs_cred named = { .uid = 1002, .gid = 6 }, denied = { .uid = 1003, .gid = 6 };
	char name[16];
	bool known;
	struct attr a = make_in(HANDLE_ROOT, S_IFREG | 0664, OWNER, name);

	ck_assert_int_eq(check_now(named, a.id, WRITE, &known), -EACCES);
	ck_assert(!known);
	ck_assert_int_eq(check_now(denied, a.id, READ, &known), 0);
	ck_assert(known);		/* the first question found out */
	ck_assert_int_eq(e.l->ops->setxattr(e.l, CALL, a.id, "system.posix_acl_access", acl, sizeof acl, 0), 0);
	ck_assert_int_eq(check_now(named, a.id, WRITE, &known), 0);
	ck_assert(!known);
	ck_assert_int_eq(check_now(denied, a.id, READ, &known), -EACCES);
	ck_assert_int_eq(check_now(who[5].cred, a.id, WRITE, &known), 0);
	ck_assert_int_eq(check_now((struct nfs_cred){ .uid = 1004, .gid = 6 }, a.id, READ, &known), 0);
	ck_assert_int_eq(check_now((struct nfs_cred){ .uid = OWNER, .gid = 6 }, a.id, PERM_READ | PERM_WRITE, &known), 0);
	ck_assert_int_eq(check_now((struct nfs_cred){ .uid = OWNER, .gid = 6 }, a.id, PERM_EXEC, &known), -EACCES);
	/* An empty mask takes everything from all but the owner and others: no need to ask. */
	struct call c = { .origin = ORIGIN_INTERNAL };
	ck_assert_int_eq(e.l->ops->setattr(e.l, &c, a.id, NULL, &(struct setattr){ .valid = SET_MODE, .mode = 0604 }, NULL), 0);
	for (unsigned uid = 1002; uid <= 1004; uid++) {
		unsigned granted;
		struct nfs_cred cred = { .uid = uid, .gid = 6 };
		struct call k = perm_call(&cred);
		ck_assert_int_eq(e.l->ops->access(e.l, &k, a.id, R_OK, &granted), 0);
		ck_assert_int_eq(check_now(cred, a.id, PERM_READ, &known), granted ? 0 : -EACCES);
	}
}
END_TEST

/* READ 1, LOOKUP 2, MODIFY 4, EXTEND 8, DELETE 16, EXECUTE 32 */
static const struct { uint32_t mode; unsigned who; bool writable; uint32_t asked, granted; } accesses[] = {
	{ S_IFREG | 0, 1, true, 0x3f, 0 },			/* strictly: the owner too */
	{ S_IFREG | 0600, 1, true, 0x3f, 1 | 4 | 8 }, { S_IFREG | 0700, 1, true, 0x3f, 1 | 4 | 8 | 32 }, { S_IFREG | 0700, 1, false, 0x3f, 1 | 32 },
	{ S_IFREG | 0700, 1, true, 4, 4 }, { S_IFREG | 0700, 5, true, 0x3f, 0 }, { S_IFREG | 0001, 5, true, 0x3f, 32 },
	{ S_IFREG | 0644, 0, true, 0x3f, 1 | 4 | 8 }, { S_IFREG | 0645, 0, true, 0x3f, 1 | 4 | 8 | 32 },
	{ S_IFDIR | 0755, 5, true, 0x3f, 1 | 2 }, { S_IFDIR | 0777, 5, true, 0x3f, 1 | 2 | 4 | 8 | 16 }, { S_IFDIR | 0777, 5, false, 0x3f, 1 | 2 },
	{ S_IFDIR | 0772, 5, true, 0x3f, 0 },			/* writing without searching is nothing */
	{ S_IFDIR | 0773, 5, true, 0x3f, 2 | 4 | 8 | 16 }, { S_IFDIR | 0777, 5, true, 16, 16 }, { S_IFDIR | 0, 0, true, 0x3f, 1 | 2 | 4 | 8 | 16 },
	{ S_IFLNK | 0777, 5, true, 0x3f, 1 | 4 | 8 | 32 }, { S_IFCHR | 0666, 5, false, 0x3f, 1 | 4 | 8 }, { S_IFREG | 0777, 1, true, 0, 0 },
	{ S_IFREG | 0777, 1, true, 0xffffffc0, 0 },
};

START_TEST(access_answers)
{
	char name[16];

	for (size_t i = 0; i < ARRAY_LEN(accesses); i++) {
		uint32_t granted = ~0u;
		struct attr a = make_in(HANDLE_ROOT, accesses[i].mode, OWNER, name);
		struct call c = perm_call(&who[accesses[i].who].cred);
		ck_assert_int_eq(perm_access(e.l, &c, &a, accesses[i].writable, accesses[i].asked, &granted), 0);
		ck_assert_msg(granted == accesses[i].granted, "%zu: %x, not %x", i, granted, accesses[i].granted);
	}
}
END_TEST

START_TEST(the_call_is_the_callers)
{
	struct call c = perm_call(&who[2].cred);

	ck_assert_int_eq(c.origin, ORIGIN_NFS);
	ck_assert_uint_eq(c.uid, OWNER);
	ck_assert_uint_eq(c.gid, 5);
	ck_assert_uint_eq(c.ngroups, 2);
	ck_assert_uint_eq(c.groups[1], GROUP);
	ck_assert_uint_eq(c.umask, 0);
	ck_assert_uint_eq(perm_write_flags(&c), WRITE_KILL_PRIV);
	c = perm_call(&who[0].cred);
	ck_assert_uint_eq(perm_write_flags(&c), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("perm");
	TCase *t = tcase_create("perm");
	int callers = (int)ARRAY_LEN(who);

	if (!env_setup())
		return EXIT_SUCCESS;
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 240);
	tcase_add_test(t, removing);
	tcase_add_loop_test(t, renaming, 0, callers);
	tcase_add_test(t, creating);
	tcase_add_test(t, owners_of_what_is_created);
	tcase_add_test(t, linking);
	tcase_add_loop_test(t, changing_the_mode, 0, callers);
	tcase_add_loop_test(t, changing_the_owner, 0, callers);
	tcase_add_loop_test(t, changing_times, 0, callers);
	tcase_add_test(t, changing_the_size);
	tcase_add_test(t, several_at_once);
	tcase_add_test(t, rights);
	tcase_add_test(t, acls_count);
	tcase_add_test(t, access_answers);
	tcase_add_test(t, the_call_is_the_callers);
	suite_add_tcase(s, t);
	return env_run(s);
}
