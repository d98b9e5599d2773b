/*
 * What the kernel grants to a caller: the layer's answer is that of a process which really is that caller, for many modes, owners, groups and ACLs; and the
 * threads that ask stay who they are.
 */
#include "local_env.h"

#include <grp.h>
#include <pthread.h>
#include <sys/fsuid.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <sys/xattr.h>

enum { OWNER = 1000, GROUP = 100, NAMED = 1001, NAMED_GROUP = 300, NGROUPS_ASKED = 3 };

static const struct who { const char *name; uid_t uid; gid_t gid; unsigned n; gid_t groups[NGROUPS_ASKED]; } who[] = {
	{ "root", 0, 0, 0, { 0 } },
	{ "owner", OWNER, 5, 0, { 0 } },
	{ "owner in group", OWNER, GROUP, 1, { GROUP } },
	{ "group", 1004, GROUP, 0, { 0 } },
	{ "supplementary group", 1004, 5, 3, { 7, GROUP, 9 } },
	{ "named user", NAMED, 5, 0, { 0 } },
	{ "named user in group", NAMED, 5, 1, { GROUP } },
	{ "named group", 1004, 5, 2, { 8, NAMED_GROUP } },
	{ "both groups", 1004, GROUP, 1, { NAMED_GROUP } },
	{ "other", 1005, 5, 1, { 6 } },
	{ "group 0 only", 1005, 0, 0, { 0 } },
};

/* ---- ACLs ---- */

enum { ACL_USER_OBJ = 1, ACL_USER = 2, ACL_GROUP_OBJ = 4, ACL_GROUP = 8, ACL_MASK = 16, ACL_OTHER = 32 };
struct acl_entry { uint16_t tag, perm; uint32_t id; };
struct acl { uint32_t version; struct acl_entry e[6]; };

/* MODE's bits, and the named user and group with theirs; MODE's group bits are the owning group's, MASK is the mask. */
static struct acl make_acl(unsigned mode, unsigned user, unsigned group, unsigned mask)
{
	return (struct acl){ .version = 2, .e = {
		{ ACL_USER_OBJ, (uint16_t)(mode >> 6 & 7), UINT32_MAX }, { ACL_USER, (uint16_t)user, NAMED }, { ACL_GROUP_OBJ, (uint16_t)(mode >> 3 & 7), UINT32_MAX },
		{ ACL_GROUP, (uint16_t)group, NAMED_GROUP }, { ACL_MASK, (uint16_t)mask, UINT32_MAX }, { ACL_OTHER, (uint16_t)(mode & 7), UINT32_MAX },
	} };
}

static void set_acl(struct env *e, uint64_t id, const struct acl *a, const char *name)
{
	ck_assert_int_eq(e->l->ops->setxattr(e->l, CALL, id, name, a, sizeof *a, 0), 0);
}

/* ---- the truth ---- */

static int raw_access(int fd, unsigned want)
{
	return (int)syscall(SYS_faccessat2, fd, "", (int)want, AT_EMPTY_PATH | AT_EACCESS);
}

/* What WHO may do with FD, by a process that is WHO. */
static unsigned truth(const struct who *w, int fd)
{
	int status;
	pid_t pid = fork();
	if (!pid) {
		unsigned got = 0;
		if (setgroups(w->n, w->groups) || setresgid(w->gid, w->gid, w->gid) || setresuid(w->uid, w->uid, w->uid))
			_exit(64);
		for (unsigned bit = 1; bit <= 4; bit <<= 1)
			got |= raw_access(fd, bit) ? 0 : bit;
		_exit((int)got);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFEXITED(status) && WEXITSTATUS(status) < 8);
	return (unsigned)WEXITSTATUS(status);
}

static unsigned granted(struct env *e, const struct who *w, uint64_t id, unsigned want)
{
	unsigned got = ~0u;
	struct call c = { .origin = ORIGIN_NFS, .uid = w->uid, .gid = w->gid, .groups = w->groups, .ngroups = w->n };
	ck_assert_int_eq(e->l->ops->access(e->l, &c, id, want, &got), 0);
	return got;
}

static void check_all(struct env *e, uint64_t id, const char *name)
{
	auto_fd int fd = openat(e->root_fd, name, O_PATH | O_NOFOLLOW);
	ck_assert_int_ge(fd, 0);
	for (unsigned i = 0; i < ARRAY_LEN(who); i++) {
		unsigned want = truth(&who[i], fd), all = granted(e, &who[i], id, 7);
		ck_assert_msg(all == want, "%s: %s: %u, not %u", name, who[i].name, all, want);
		for (unsigned ask = 1; ask < 7; ask++)
			ck_assert_uint_eq(granted(e, &who[i], id, ask), want & ask);
	}
}

static uint64_t make(struct env *e, const char *name, uint32_t mode)
{
	struct call c = { .origin = ORIGIN_NFS, .uid = OWNER, .gid = GROUP };
	struct create cr = { .mode = mode, .target = "target" };
	struct attr a;
	ck_assert_int_eq(e->l->ops->create(e->l, &c, HANDLE_ROOT, name, &cr, 0, &a, NULL), 0);
	return a.id;
}

/* ---- tests ---- */

static const uint32_t types[] = { S_IFREG, S_IFDIR };

START_TEST(by_mode)
{
	static const unsigned modes[] = { 0, 0777, 0644, 0755, 0600, 0640, 0070, 0007, 0077, 0604, 0407, 0111, 0010, 0444, 0200, 0531, 01777, 06755 };
	struct env e;
	char name[32];
	env_open(&e, _i);
	for (unsigned t = 0; t < ARRAY_LEN(types); t++)
		for (unsigned m = 0; m < ARRAY_LEN(modes); m++) {
			snprintf(name, sizeof name, "%u.%o", t, modes[m]);
			check_all(&e, make(&e, name, types[t] | modes[m]), name);
		}
	check_all(&e, make(&e, "link", S_IFLNK | 0777), "link");
	check_all(&e, make(&e, "pipe", S_IFIFO | 0640), "pipe");
	env_close(&e);
}
END_TEST

START_TEST(by_acl)
{
	static const struct { unsigned mode, user, group, mask; } acls[] = {
		{ 0644, 7, 0, 7 }, { 0777, 0, 0, 7 }, { 0700, 5, 6, 7 }, { 0770, 7, 7, 4 }, { 0777, 7, 7, 0 }, { 0007, 0, 0, 0 }, { 0707, 0, 7, 2 },
	};
	struct env e;
	char name[32];
	env_open(&e, _i);
	for (unsigned t = 0; t < ARRAY_LEN(types); t++)
		for (unsigned i = 0; i < ARRAY_LEN(acls); i++) {
			snprintf(name, sizeof name, "%u.%u", t, i);
			struct acl a = make_acl(acls[i].mode, acls[i].user, acls[i].group, acls[i].mask);
			uint64_t id = make(&e, name, types[t] | 0640);
			check_all(&e, id, name);	/* known to have none */
			set_acl(&e, id, &a, "system.posix_acl_access");
			check_all(&e, id, name);
			if (i == 0) {
				ck_assert_int_eq(e.l->ops->removexattr(e.l, CALL, id, "system.posix_acl_access"), 0);
				check_all(&e, id, name);
				set_acl(&e, id, &a, "system.posix_acl_access");
			}
		}
	env_restart(&e, false);		/* nothing is known any more */
	struct attr a;
	ck_assert_int_eq(env_lookup(&e, HANDLE_ROOT, "0.0", &a), 0);
	check_all(&e, a.id, "0.0");
	env_close(&e);
}
END_TEST

START_TEST(an_inherited_acl_counts)
{
	struct env e;
	struct acl a = make_acl(0700, 6, 5, 7);
	env_open(&e, _i);
	set_acl(&e, HANDLE_ROOT, &a, "system.posix_acl_default");
	check_all(&e, make(&e, "f", S_IFREG | 0666), "f");
	check_all(&e, make(&e, "d", S_IFDIR | 0777), "d");
	env_close(&e);
}
END_TEST

START_TEST(immutable_is_not_writable)
{
	struct env e;
	env_open(&e, _i);
	uint64_t id = make(&e, "f", S_IFREG | 0666);
	ck_assert_int_eq(e.l->ops->setflags(e.l, &(struct call){ .origin = ORIGIN_FUSE }, id, 0x10), 0);
	check_all(&e, id, "f");
	env_close(&e);
}
END_TEST

START_TEST(nonsense_is_refused)
{
	struct env e;
	struct call c = { .origin = ORIGIN_NFS, .uid = (uid_t)-1 };
	unsigned got = 7;
	env_open(&e, 0);
	ck_assert_int_eq(e.l->ops->access(e.l, &c, HANDLE_ROOT, 4, &got), -EINVAL);
	ck_assert_uint_eq(got, 0);
	c = (struct call){ .origin = ORIGIN_NFS, .uid = 1, .gid = (gid_t)-1 };
	ck_assert_int_eq(e.l->ops->access(e.l, &c, HANDLE_ROOT, 4, &got), -EINVAL);
	c = (struct call){ .origin = ORIGIN_NFS, .uid = 1, .ngroups = LAYER_GROUPS_MAX + 1 };
	ck_assert_int_eq(e.l->ops->access(e.l, &c, HANDLE_ROOT, 4, &got), -EINVAL);
	c = (struct call){ .origin = ORIGIN_NFS, .uid = 1 };
	got = 7;
	ck_assert_int_eq(e.l->ops->access(e.l, &c, UINT64_C(1) << 50, 4, &got), -ESTALE);
	ck_assert_uint_eq(got, 0);
	env_close(&e);
}
END_TEST

/* ---- threads ---- */

struct asker { struct env *e; const struct who *w; uint64_t id; unsigned want; pthread_t t; };

static void check_self(gid_t *groups, int n)
{
	gid_t now[64];
	ck_assert_uint_eq((unsigned)setfsuid((uid_t)-1), 0);
	ck_assert_uint_eq((unsigned)setfsgid((gid_t)-1), 0);
	ck_assert_int_eq((int)syscall(SYS_getgroups, 64, now), n);
	ck_assert(!n || !memcmp(groups, now, (size_t)n * sizeof *now));
}

static void *ask_main(void *arg)
{
	struct asker *a = arg;
	gid_t groups[64];
	int n = (int)syscall(SYS_getgroups, 64, groups);
	ck_assert_int_ge(n, 0);
	for (unsigned i = 0; i < 300; i++)
		ck_assert_uint_eq(granted(a->e, a->w, a->id, 7), a->want);
	check_self(groups, n);
	return NULL;
}

/* While others ask in many callers' places, this thread does what only root can. */
START_TEST(threads_stay_who_they_are)
{
	struct env e;
	struct asker askers[ARRAY_LEN(who)];
	struct acl a = make_acl(0750, 6, 3, 7);
	struct attr got;
	char name[32];
	env_open(&e, 0);
	uint64_t id = make(&e, "f", S_IFREG | 0640), dir = make(&e, "d", S_IFDIR);
	set_acl(&e, id, &a, "system.posix_acl_access");
	auto_fd int fd = openat(e.root_fd, "f", O_PATH);
	for (unsigned i = 0; i < ARRAY_LEN(who); i++) {
		askers[i] = (struct asker){ .e = &e, .w = &who[i], .id = id, .want = truth(&who[i], fd) };
		ck_assert_int_eq(pthread_create(&askers[i].t, NULL, ask_main, &askers[i]), 0);
	}
	for (unsigned i = 0; i < 200; i++) {
		snprintf(name, sizeof name, "%u", i);
		ck_assert_int_eq(e.l->ops->create(e.l, CALL, dir, name, &(struct create){ .mode = S_IFREG }, 0, &got, NULL), 0);
		ck_assert_uint_eq(got.uid, 1000);
	}
	for (unsigned i = 0; i < ARRAY_LEN(who); i++)
		pthread_join(askers[i].t, NULL);
	env_close(&e);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("access");
	TCase *t = tcase_create("access");

	if (!env_setup())
		return EXIT_SUCCESS;
	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, by_mode, 0, ENV_FS);
	tcase_add_loop_test(t, by_acl, 0, ENV_FS);
	tcase_add_loop_test(t, an_inherited_acl_counts, 0, ENV_FS);
	tcase_add_loop_test(t, immutable_is_not_writable, 0, 2);	/* ext4, xfs */
	tcase_add_test(t, nonsense_is_refused);
	tcase_add_test(t, threads_stay_who_they_are);
	suite_add_tcase(s, t);
	return env_run(s);
}
