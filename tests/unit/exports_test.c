/*
 * The export table: who may do what through which export, who is who behind it, and that nobody gets out of one; exchanging the table under many readers.
 */
#include "local_env.h"

#include <arpa/inet.h>
#include <pthread.h>

#include "nfsd-glue/exports.h"

static struct exports *x;
static struct volume_conf conf;

#define HEAD "[volume]\nbacking = /x\n[node alpha]\nnumber = 1\n"

static void parse(const char *text)
{
	char err[CONF_ERR_MAX];
	ck_assert_msg(!conf_parse("home", "home.conf", text, strlen(text), NULL, "alpha", &conf, err, sizeof err), "%s", err);
}

static const char table[] = HEAD
	"[export all]\nid = 1\nclients = 10.0.0.0/8, 2001:db8::/32\naccess = rw\nsquash = none\n"
	"[export pub]\nid = 2\npath = /pub\nclients = *\nsquash = all\nanonuid = 70\nanongid = 71\nsecure = no\n"
	"[export deep]\nid = 3\npath = /pub/deep\nclients = 10.1.0.0/16\naccess = rw\nanonuid = 80\nanongid = 81\n";

static void setup(void)
{
	parse(table);
	ck_assert_int_eq(exports_new(&conf, &x), 0);
}

static void teardown(void) { exports_free(x); }

static struct sockaddr_storage client(const char *addr, uint16_t port)
{
	struct sockaddr_storage ss = { 0 };
	struct sockaddr_in *v4 = (void *)&ss;
	struct sockaddr_in6 *v6 = (void *)&ss;

	if (inet_pton(AF_INET, addr, &v4->sin_addr) == 1) {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(port);
	} else {
		memset(&ss, 0, sizeof ss);
		ck_assert_int_eq(inet_pton(AF_INET6, addr, &v6->sin6_addr), 1);
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(port);
	}
	return ss;
}

static int rights(uint16_t id, const char *addr, uint16_t port, struct export_rights *r)
{
	struct sockaddr_storage ss = client(addr, port);
	return exports_rights(x, id, &ss, r);
}

START_TEST(rights_follow_from_address_and_port)
{
	struct export_rights r;

	ck_assert_int_eq(rights(1, "10.2.3.4", 1023, &r), 0);
	ck_assert(r.writable && r.whole);
	ck_assert_uint_eq(r.id, 1);
	ck_assert_int_eq(rights(1, "10.2.3.4", 1024, &r), -EACCES);
	ck_assert_int_eq(rights(1, "11.2.3.4", 1000, &r), -EACCES);
	ck_assert_int_eq(rights(1, "::ffff:10.2.3.4", 1000, &r), 0);
	ck_assert_int_eq(rights(1, "2001:db8::7", 1000, &r), 0);
	ck_assert_int_eq(rights(1, "2001:db9::7", 1000, &r), -EACCES);
	ck_assert_int_eq(rights(2, "203.0.113.9", 40000, &r), 0);
	ck_assert(!r.writable && !r.whole);
	ck_assert_uint_eq(r.anonuid, 70);
	ck_assert_int_eq(rights(3, "10.2.0.0", 1000, &r), -EACCES);
	ck_assert_int_eq(rights(4, "10.1.0.0", 1000, &r), -ESTALE);
	ck_assert_int_eq(rights(0, "10.1.0.0", 1000, &r), -ESTALE);
	struct sockaddr_storage unix_ = { .ss_family = AF_UNIX };
	ck_assert_int_eq(exports_rights(x, 2, &unix_, &r), -EACCES);
}
END_TEST

/* Path, client -> result, export, what is left. */
static const struct { const char *path, *addr; int r; uint16_t id; const char *rest; } paths[] = {
	{ "/", "10.1.0.1", 0, 1, "" }, { "/a/b", "10.1.0.1", 0, 1, "a/b" }, { "/pub", "10.1.0.1", 0, 2, "" }, { "/pub/x", "10.1.0.1", 0, 2, "x" },
	{ "/public", "10.1.0.1", 0, 1, "public" }, { "/pub/deep", "10.1.0.1", 0, 3, "" }, { "/pub/deep/er", "10.1.0.1", 0, 3, "er" },
	{ "/pub/deep/er", "10.2.0.1", 0, 2, "deep/er" }, { "/pub/deeper", "10.1.0.1", 0, 2, "deeper" },
	{ "/", "192.0.2.1", -EACCES, 0, NULL }, { "/a", "192.0.2.1", -EACCES, 0, NULL }, { "/pub/a", "192.0.2.1", 0, 2, "a" },
};

START_TEST(the_innermost_export_that_lists_the_client)
{
	struct export_rights r;
	size_t below;

	for (size_t i = 0; i < ARRAY_LEN(paths); i++) {
		struct sockaddr_storage ss = client(paths[i].addr, 700);
		ck_assert_int_eq(exports_by_path(x, paths[i].path, &ss, &r, &below), paths[i].r);
		if (paths[i].r)
			continue;
		ck_assert_uint_eq(r.id, paths[i].id);
		ck_assert_str_eq(paths[i].path + below, paths[i].rest);
	}
	struct sockaddr_storage ss = client("10.1.0.1", 700);
	parse(HEAD "[export pub]\npath = /pub\nclients = *\n");
	ck_assert_int_eq(exports_reload(x, &conf), 0);
	ck_assert_int_eq(exports_by_path(x, "/public", &ss, &r, &below), -ENOENT);
	ck_assert_int_eq(exports_by_path(x, "/", &ss, &r, &below), -ENOENT);
}
END_TEST

static struct nfs_cred squashed(enum conf_squash s, bool anonymous, struct nfs_cred c)
{
	const struct export_rights r = { .squash = (uint8_t)s, .anonuid = 80, .anongid = 81 };
	exports_squash(&r, anonymous, &c);
	return c;
}

static void is_cred(struct nfs_cred c, uid_t uid, gid_t gid, unsigned n, gid_t g0, gid_t g1)
{
	ck_assert_uint_eq(c.uid, uid);
	ck_assert_uint_eq(c.gid, gid);
	ck_assert_uint_eq(c.ngroups, n);
	ck_assert(n < 1 || c.groups[0] == g0);
	ck_assert(n < 2 || c.groups[1] == g1);
}

START_TEST(who_is_who)
{
	const struct nfs_cred user = { 1000, 100, 2, { 0, 7 } }, root = { 0, 0, 2, { 0, 7 } }, mixed = { 1000, 0, 1, { 5 } };
	const struct nfs_cred nobody = { (uid_t)-1, (gid_t)-1, 2, { (gid_t)-1, 0 } };

	is_cred(squashed(CONF_SQUASH_ROOT, false, user), 1000, 100, 2, 81, 7);
	is_cred(squashed(CONF_SQUASH_ROOT, false, root), 80, 81, 2, 81, 7);
	is_cred(squashed(CONF_SQUASH_ROOT, false, mixed), 1000, 81, 1, 5, 0);
	is_cred(squashed(CONF_SQUASH_ALL, false, user), 80, 81, 0, 0, 0);
	is_cred(squashed(CONF_SQUASH_NONE, false, root), 0, 0, 2, 0, 7);
	is_cred(squashed(CONF_SQUASH_NONE, true, root), 80, 81, 0, 0, 0);
	is_cred(squashed(CONF_SQUASH_ROOT, true, user), 80, 81, 0, 0, 0);
	is_cred(squashed(CONF_SQUASH_NONE, false, nobody), 80, 81, 2, 81, 0);	/* -1 means "leave it" to the kernel: nobody's id */
}
END_TEST

/* ---- the tree ---- */

/* /pub/deep/er, /pub/link -> target, /other, /pub/file */
struct tree { struct env e; struct attr pub, deep, er, other; };

static void tree_make(struct tree *t)
{
	env_open(&t->e, 0);
	t->pub = env_mk(&t->e, HANDLE_ROOT, "pub", S_IFDIR | 0755);
	t->deep = env_mk(&t->e, t->pub.id, "deep", S_IFDIR | 0755);
	t->er = env_mk(&t->e, t->deep.id, "er", S_IFDIR | 0755);
	t->other = env_mk(&t->e, HANDLE_ROOT, "other", S_IFDIR | 0755);
	env_mk(&t->e, t->pub.id, "link", S_IFLNK | 0777);
	env_mk(&t->e, t->pub.id, "file", S_IFREG | 0644);
}

START_TEST(paths_are_walked_and_nothing_is_followed)
{
	struct tree t;
	struct attr a;
	char name[LAYER_NAME_MAX + 2];

	tree_make(&t);
	struct layer *l = t.e.l;
	ck_assert_int_eq(exports_walk(l, HANDLE_ROOT, "", &a), 0);
	ck_assert_uint_eq(a.id, HANDLE_ROOT);
	ck_assert_int_eq(exports_walk(l, HANDLE_ROOT, "pub/deep/er", &a), 0);
	ck_assert_uint_eq(a.id, t.er.id);
	ck_assert_int_eq(exports_walk(l, t.pub.id, "deep", &a), 0);
	ck_assert_uint_eq(a.id, t.deep.id);
	ck_assert_int_eq(exports_walk(l, t.pub.id, "link", &a), 0);
	ck_assert(S_ISLNK(a.mode));
	ck_assert_int_eq(exports_walk(l, t.pub.id, "link/x", &a), -ENOTDIR);
	ck_assert_int_eq(exports_walk(l, t.pub.id, "file/x", &a), -ENOTDIR);
	ck_assert_int_eq(exports_walk(l, t.pub.id, "none/x", &a), -ENOENT);
	static const char *const wandering[] = { "..", ".", "deep/..", "deep/../../other", "./deep", "deep//er", "/deep" };
	for (size_t i = 0; i < ARRAY_LEN(wandering); i++)
		ck_assert_int_eq(exports_walk(l, t.pub.id, wandering[i], &a), -EACCES);
	ck_assert_int_eq(exports_walk(l, t.pub.id, "...", &a), -ENOENT);
	memset(name, 'x', sizeof name - 1);
	name[sizeof name - 1] = 0;
	ck_assert_int_eq(exports_walk(l, t.pub.id, name, &a), -ENAMETOOLONG);
	ck_assert_int_eq(exports_walk(l, HANDLE_ROOT, ".tandemfs", &a), -ENOENT);
	env_close(&t.e);
}
END_TEST

static int dotdot(struct tree *t, uint16_t id, uint64_t dir, struct attr *a)
{
	struct export_rights r;
	ck_assert_int_eq(rights(id, "10.1.0.1", 700, &r), 0);
	return exports_dotdot(x, &r, t->e.l, CALL, dir, a);
}

START_TEST(dotdot_never_leaves)
{
	struct tree t;
	struct attr a;

	tree_make(&t);
	ck_assert_int_eq(exports_root(x, 1, t.e.l, &a), 0);
	ck_assert_uint_eq(a.id, HANDLE_ROOT);
	ck_assert_int_eq(exports_root(x, 3, t.e.l, &a), 0);
	ck_assert_uint_eq(a.id, t.deep.id);
	ck_assert_int_eq(exports_root(x, 9, t.e.l, &a), -ESTALE);
	/* the whole volume */
	ck_assert_int_eq(dotdot(&t, 1, HANDLE_ROOT, &a), 0);
	ck_assert_uint_eq(a.id, HANDLE_ROOT);
	ck_assert_int_eq(dotdot(&t, 1, t.deep.id, &a), 0);
	ck_assert_uint_eq(a.id, t.pub.id);
	/* a sub-directory */
	ck_assert_int_eq(dotdot(&t, 2, t.pub.id, &a), 0);
	ck_assert_uint_eq(a.id, t.pub.id);
	ck_assert_int_eq(dotdot(&t, 2, t.deep.id, &a), 0);
	ck_assert_uint_eq(a.id, t.pub.id);
	ck_assert_int_eq(dotdot(&t, 2, t.er.id, &a), 0);
	ck_assert_uint_eq(a.id, t.deep.id);
	ck_assert_int_eq(dotdot(&t, 2, HANDLE_ROOT, &a), -ESTALE);
	ck_assert_int_eq(dotdot(&t, 2, t.other.id, &a), -ESTALE);
	ck_assert_int_eq(dotdot(&t, 3, t.pub.id, &a), -ESTALE);
	/* what is renamed out of the export has no way up */
	ck_assert_int_eq(t.e.l->ops->rename(t.e.l, CALL, t.deep.id, "er", t.other.id, "er", 0), 0);
	ck_assert_int_eq(dotdot(&t, 2, t.er.id, &a), -ESTALE);
	/* and without its directory an export has no root */
	ck_assert_int_eq(t.e.l->ops->rename(t.e.l, CALL, HANDLE_ROOT, "pub", HANDLE_ROOT, "gone", 0), 0);
	ck_assert_int_eq(exports_root(x, 2, t.e.l, &a), -ENOENT);
	ck_assert_int_eq(dotdot(&t, 2, t.pub.id, &a), -ESTALE);
	env_mk(&t.e, HANDLE_ROOT, "pub", S_IFREG | 0644);
	ck_assert_int_eq(exports_root(x, 2, t.e.l, &a), -ENOTDIR);
	env_close(&t.e);
}
END_TEST

/* ---- exchanging ---- */

static int list_one(void *arg, const struct conf_export *e)
{
	char *p = arg;
	strcat(strcat(p, e->name), " ");
	return !strcmp(e->name, "deep") ? 7 : 0;
}

START_TEST(a_reload_replaces_all)
{
	char text[128] = "";
	struct export_rights r;

	ck_assert_uint_eq(exports_count(x), 3);
	ck_assert_int_eq(exports_each(x, list_one, text), 7);
	ck_assert_str_eq(text, "all pub deep ");
	parse(HEAD "[export all]\nid = 1\nclients = 192.0.2.0/24\n");
	ck_assert_int_eq(exports_reload(x, &conf), 0);
	ck_assert_uint_eq(exports_count(x), 1);
	ck_assert_int_eq(rights(1, "10.2.3.4", 1000, &r), -EACCES);
	ck_assert_int_eq(rights(1, "192.0.2.4", 1000, &r), 0);
	ck_assert(!r.writable);
	ck_assert_int_eq(rights(2, "192.0.2.4", 1000, &r), -ESTALE);
	parse(HEAD);
	ck_assert_int_eq(exports_reload(x, &conf), 0);
	ck_assert_int_eq(rights(1, "192.0.2.4", 1000, &r), -ESTALE);
}
END_TEST

enum { READERS = 6, RELOADS = 300 };
static _Atomic bool stop;
static _Atomic uint64_t looked;

/* Uid and gid belong together, in every table: what is seen is one table or the other, whole. */
static void *reader_main(void *arg)
{
	struct sockaddr_storage ss = client("10.0.0.1", 700);
	struct export_rights r;

	(void)arg;
	while (!atomic_load(&stop)) {
		if (exports_rights(x, 1, &ss, &r) || r.anonuid != r.anongid)
			return (void *)1;
		atomic_fetch_add(&looked, 1);
	}
	return NULL;
}

START_TEST(readers_see_one_table_or_the_other)
{
	static struct volume_conf other;
	pthread_t t[READERS];
	void *bad;

	parse(HEAD "[export a]\nid = 1\nclients = *\nanonuid = 1\nanongid = 1\n");
	other = conf;
	parse(HEAD "[export b]\npath = /b\nclients = *\n[export a]\nid = 1\nclients = *\nanonuid = 2\nanongid = 2\n");
	ck_assert_int_eq(exports_reload(x, &conf), 0);
	for (unsigned i = 0; i < READERS; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, reader_main, NULL), 0);
	for (unsigned i = 0; i < RELOADS; i++)
		ck_assert_int_eq(exports_reload(x, i & 1 ? &conf : &other), 0);
	uint64_t before = atomic_load(&looked);
	while (atomic_load(&looked) < before + READERS)
		sched_yield();
	atomic_store(&stop, true);
	for (unsigned i = 0; i < READERS; i++) {
		pthread_join(t[i], &bad);
		ck_assert_ptr_null(bad);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("exports");
	TCase *t = tcase_create("exports");

	if (!env_setup())
		return EXIT_SUCCESS;
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 120);
	tcase_add_test(t, rights_follow_from_address_and_port);
	tcase_add_test(t, the_innermost_export_that_lists_the_client);
	tcase_add_test(t, who_is_who);
	tcase_add_test(t, paths_are_walked_and_nothing_is_followed);
	tcase_add_test(t, dotdot_never_leaves);
	tcase_add_test(t, a_reload_replaces_all);
	tcase_add_test(t, readers_see_one_table_or_the_other);
	suite_add_tcase(s, t);
	return env_run(s);
}
