/* Listings of the local layer: order, positions and resuming; what is not listed; adoption. */
#include "tests/unit/local_env.h"

#include <dirent.h>
#include <pthread.h>
#include <sys/xattr.h>

/* ---- gathering ---- */

struct listed {
	uint64_t id, pos;
	char name[32];
	uint32_t type;
};
struct listing {
	struct listed *e;
	size_t n, cap, stop;	/* stop before entry number STOP (0 = never) */
};

static int gather(void *arg, const struct dirent_info *d)
{
	struct listing *g = arg;
	if (g->stop && g->n == g->stop)
		return 1;
	if (g->n == g->cap) {
		g->cap = g->cap ? g->cap * 2 : 64;
		g->e = realloc(g->e, g->cap * sizeof(*g->e));
	}
	struct listed *e = &g->e[g->n++];
	*e = (struct listed){ .id = d->id, .pos = d->pos, .type = d->type };
	snprintf(e->name, sizeof(e->name), "%s", d->name);
	return 0;
}

static struct listing list(struct env *e, uint64_t dir)
{
	struct listing g = { 0 };
	struct dir *d;
	ck_assert_int_eq(e->l->ops->opendir(e->l, CALL, dir, &d), 0);
	ck_assert_int_eq(e->l->ops->readdir(e->l, CALL, d, 0, gather, &g), 0);
	ck_assert_int_eq(e->l->ops->releasedir(e->l, CALL, d), 0);
	return g;
}

static bool has(const struct listing *g, const char *name)
{
	for (size_t i = 0; i < g->n; i++)
		if (!strcmp(g->e[i].name, name))
			return true;
	return false;
}

enum { MANY = 10000 };

static void make_many(struct env *e, uint64_t dir, unsigned from, unsigned to)
{
	for (unsigned i = from; i < to; i++) {
		char name[16];
		snprintf(name, sizeof(name), "f%u", i);
		env_mk(e, dir, name, S_IFREG | 0600);
	}
}

START_TEST(positions_are_the_same_everywhere)
{
	struct env e[ENV_FS];
	struct listing g[ENV_FS];
	for (int i = 0; i < ENV_FS; i++) {
		env_open(&e[i], i);
		struct attr d = env_mk(&e[i], HANDLE_ROOT, "d", S_IFDIR | 0755);
		make_many(&e[i], d.id, 0, 2000);
		g[i] = list(&e[i], d.id);
		ck_assert_uint_eq(g[i].n, 2002);
		ck_assert_str_eq(g[i].e[0].name, ".");
		ck_assert_uint_eq(g[i].e[0].id, d.id);
		ck_assert_str_eq(g[i].e[1].name, "..");
		ck_assert_uint_eq(g[i].e[1].id, HANDLE_ROOT);
		for (size_t k = 0; k < g[i].n; k++) {
			ck_assert_str_eq(g[i].e[k].name, g[0].e[k].name);
			ck_assert_uint_eq(g[i].e[k].pos, g[0].e[k].pos);
			ck_assert(!k || g[i].e[k].pos > g[i].e[k - 1].pos);
			ck_assert(g[i].e[k].pos <= INT64_MAX);
			ck_assert(k < 2 || g[i].e[k].pos == local_name_pos(e[i].cfg.dir_key, g[i].e[k].name));
		}
		struct attr a;
		ck_assert_int_eq(env_lookup(&e[i], d.id, g[i].e[100].name, &a), 0);
		ck_assert_uint_eq(a.id, g[i].e[100].id);
		ck_assert_uint_eq(S_IFREG, g[i].e[100].type);
	}
	for (int i = 0; i < ENV_FS; i++) {
		free(g[i].e);
		env_close(&e[i]);
	}
}
END_TEST

/* Clients hold positions as cookies: they must never change. Computed once by the formula in docs/formats.md with another program. */
START_TEST(positions_are_for_ever)
{
	static const struct { const char *name; uint64_t pos; } known[] = {
		{ "hello", 0x680cb29e99604100 }, { "a", 0x33a80d4b23e03c00 },
		{ "a name that is longer than sixteen bytes", 0x7519a5179dc0fa00 },
	};
	for (unsigned i = 0; i < 3; i++)
		ck_assert_uint_eq(local_name_pos((const unsigned char *)"abcdefghijklmnop", known[i].name), known[i].pos);
}
END_TEST

struct churn {
	struct env *e;
	uint64_t dir;
	atomic_bool stop;
};

static void *churn(void *arg)
{
	struct churn *c = arg;
	for (unsigned i = 0; !c->stop; i++) {
		char name[16];
		struct attr a;
		struct create cr = { .mode = S_IFREG | 0600 };
		snprintf(name, sizeof(name), "x%u", i % 500);
		if (c->e->l->ops->create(c->e->l, CALL, c->dir, name, &cr, 0, &a, NULL) == -EEXIST)
			c->e->l->ops->unlink(c->e->l, CALL, c->dir, name);
	}
	return NULL;
}

/* A listing stopped at every k-th entry, resumed by a fresh open directory, while other entries come and go. */
START_TEST(resume_at_every_position)
{
	struct env e;
	pthread_t t;
	env_open(&e, _i);
	struct attr d = env_mk(&e, HANDLE_ROOT, "d", S_IFDIR | 0755);
	make_many(&e, d.id, 0, MANY);
	struct churn c = { .e = &e, .dir = d.id };
	pthread_create(&t, NULL, churn, &c);
	static const size_t steps[] = { 7777, 1000, 333, 97 };
	for (unsigned s = 0; s < 4; s++) {
		unsigned char *seen = calloc(1, MANY);
		uint64_t pos = 0;
		for (bool end = false; !end;) {
			struct listing g = { .stop = steps[s] };
			struct dir *dir;
			ck_assert_int_eq(e.l->ops->opendir(e.l, CALL, d.id, &dir), 0);
			ck_assert_int_eq(e.l->ops->readdir(e.l, CALL, dir, pos, gather, &g), 0);
			ck_assert_int_eq(e.l->ops->releasedir(e.l, CALL, dir), 0);
			for (size_t i = 0; i < g.n; i++)
				if (g.e[i].name[0] == 'f')
					ck_assert_msg(!seen[atoi(g.e[i].name + 1)]++, "%s twice", g.e[i].name);
			end = g.n < steps[s];
			pos = g.n ? g.e[g.n - 1].pos : pos;
			free(g.e);
		}
		for (unsigned i = 0; i < MANY; i++)
			ck_assert_msg(seen[i] == 1, "f%u missing", i);
		free(seen);
	}
	c.stop = true;
	pthread_join(t, NULL);
	/* every single position, also of entries that are gone */
	struct listing all = list(&e, d.id);
	struct dir *dir;
	ck_assert_int_eq(e.l->ops->opendir(e.l, CALL, d.id, &dir), 0);
	for (size_t i = 0; i + 1 < all.n; i++) {
		struct listing g = { .stop = 1 };
		ck_assert_int_eq(e.l->ops->readdir(e.l, CALL, dir, all.e[i].pos, gather, &g), 0);
		ck_assert_uint_eq(g.n, 1);
		ck_assert_str_eq(g.e[0].name, all.e[i + 1].name);
		free(g.e);
	}
	ck_assert_int_eq(e.l->ops->unlink(e.l, CALL, d.id, all.e[50].name), 0);
	struct listing g = { .stop = 1 };
	ck_assert_int_eq(e.l->ops->readdir(e.l, CALL, dir, 0, gather, &g), 0);	/* rewinds */
	g.n = 0;
	ck_assert_int_eq(e.l->ops->readdir(e.l, CALL, dir, all.e[50].pos, gather, &g), 0);
	ck_assert_str_eq(g.e[0].name, all.e[51].name);
	free(g.e);
	ck_assert_int_eq(e.l->ops->releasedir(e.l, CALL, dir), 0);
	free(all.e);
	env_close(&e);
}
END_TEST

START_TEST(large_snapshots_are_spilled)
{
	struct env e;
	struct local_config cfg = { .dir_cache_bytes = 64 << 10 };
	env_open_cfg(&e, _i, &cfg);
	struct attr d = env_mk(&e, HANDLE_ROOT, "d", S_IFDIR | 0755);
	make_many(&e, d.id, 0, 5000);
	for (int i = 0; i < 2; i++) {
		struct listing g = list(&e, d.id);
		ck_assert_uint_eq(g.n, 5002);
		free(g.e);
	}
	env_close(&e);
}
END_TEST

START_TEST(own_snapshot_until_rewound)
{
	struct env e;
	struct dir *d;
	env_open(&e, _i);
	make_many(&e, HANDLE_ROOT, 0, 10);
	struct listing g = { .stop = 4 }, rest = { 0 }, again = { 0 };
	ck_assert_int_eq(e.l->ops->opendir(e.l, CALL, HANDLE_ROOT, &d), 0);
	ck_assert_int_eq(e.l->ops->readdir(e.l, CALL, d, 0, gather, &g), 0);
	for (unsigned i = 0; i < 10; i++) {
		char name[8];
		snprintf(name, sizeof(name), "f%u", i);
		ck_assert_int_eq(e.l->ops->unlink(e.l, CALL, HANDLE_ROOT, name), 0);
	}
	ck_assert_int_eq(e.l->ops->readdir(e.l, CALL, d, g.e[3].pos, gather, &rest), 0);
	ck_assert_uint_eq(rest.n, 8);
	ck_assert_int_eq(e.l->ops->readdir(e.l, CALL, d, 0, gather, &again), 0);
	ck_assert_uint_eq(again.n, 2);
	free(g.e);
	free(rest.e);
	free(again.e);
	ck_assert_int_eq(e.l->ops->releasedir(e.l, CALL, d), 0);
	/* a removed directory that is open */
	struct attr s = env_mk(&e, HANDLE_ROOT, "s", S_IFDIR | 0755);
	struct listing none = { 0 };
	ck_assert_int_eq(e.l->ops->opendir(e.l, CALL, s.id, &d), 0);
	ck_assert_int_eq(e.l->ops->rmdir(e.l, CALL, HANDLE_ROOT, "s"), 0);
	ck_assert_uint_eq(env_attr(&e, s.id).nlink, 0);
	ck_assert_int_eq(e.l->ops->readdir(e.l, CALL, d, 0, gather, &none), 0);
	ck_assert_uint_le(none.n, 2);
	free(none.e);
	ck_assert_int_eq(e.l->ops->create(e.l, CALL, s.id, "x", &(struct create){ .mode = S_IFREG | 0600 }, 0, NULL, NULL), -ENOENT);
	ck_assert_int_eq(e.l->ops->releasedir(e.l, CALL, d), 0);
	env_close(&e);
}
END_TEST

START_TEST(strangers_are_refused)
{
	struct env e;
	struct attr a;
	char path[300];
	env_open(&e, _i);
	env_mk(&e, HANDLE_ROOT, "m", S_IFDIR | 0755);
	struct attr b = env_mk(&e, HANDLE_ROOT, "b", S_IFDIR | 0755);
	env_mk(&e, b.id, "in", S_IFREG | 0644);
	snprintf(path, sizeof(path), "%s/m", e.root);
	ck_assert_int_eq(mount("none", path, "tmpfs", 0, NULL), 0);
	ck_assert_int_eq(env_lookup(&e, HANDLE_ROOT, "m", &a), -EXDEV);
	struct listing g = list(&e, HANDLE_ROOT);
	ck_assert(!has(&g, "m") && has(&g, "b"));
	free(g.e);
	umount2(path, MNT_DETACH);
	ck_assert_int_eq(env_lookup(&e, HANDLE_ROOT, "m", &a), 0);
	/* the same file system, bound */
	char from[300];
	snprintf(from, sizeof(from), "%s/b", e.root);
	ck_assert_int_eq(mount(from, path, NULL, MS_BIND, NULL), 0);
	ck_assert_int_eq(env_lookup(&e, HANDLE_ROOT, "m", &a), -EXDEV);
	umount2(path, MNT_DETACH);
	/* mounted over the volume's own root: children still find their parent */
	ck_assert_int_eq(mount("none", e.root, "tmpfs", 0, NULL), 0);
	ck_assert_int_eq(env_lookup(&e, b.id, "..", &a), 0);
	ck_assert_uint_eq(a.id, HANDLE_ROOT);
	ck_assert_int_eq(env_lookup(&e, HANDLE_ROOT, "b", &a), 0);
	env_mk(&e, b.id, "in2", S_IFREG | 0644);
	umount2(e.root, MNT_DETACH);
	env_close(&e);
}
END_TEST

static bool no_adoption(void *arg) { (void)arg; return false; }
static uint64_t told_parent, told_id;
static void adopted(void *arg, uint64_t parent, uint64_t id) { (void)arg; told_parent = parent; told_id = id; }

START_TEST(adoption)
{
	struct env e;
	struct attr a, b, f;
	struct local_config cfg = { .adopted = adopted };
	env_open_cfg(&e, _i, &cfg);
	env_sh("mkdir -p %s/new/sub && echo hi > %s/new/sub/file && chown 5:6 %s/new/sub/file", e.root, e.root, e.root);
	ck_assert_int_eq(env_lookup(&e, HANDLE_ROOT, "new", &a), 0);
	ck_assert_uint_eq(told_parent, HANDLE_ROOT);
	ck_assert_uint_eq(told_id, a.id);
	ck_assert_uint_eq(env_attr(&e, HANDLE_ROOT).nlink, 3);
	struct listing g = list(&e, a.id);
	ck_assert(has(&g, "sub"));
	free(g.e);
	ck_assert_int_eq(env_lookup(&e, a.id, "sub", &b), 0);
	ck_assert_uint_eq(env_attr(&e, a.id).nlink, 3);
	ck_assert_int_eq(env_lookup(&e, b.id, "file", &f), 0);
	ck_assert_uint_eq(f.uid, 5);
	ck_assert_uint_eq(f.size, 3);
	/* where it isn't allowed it doesn't exist */
	env_sh("mkdir %s/other; touch %s/other2", e.root, e.root);
	e.cfg.may_adopt = no_adoption;
	env_restart(&e, false);
	ck_assert_int_eq(env_lookup(&e, HANDLE_ROOT, "other", &a), -ENOENT);
	g = list(&e, HANDLE_ROOT);
	ck_assert(!has(&g, "other") && !has(&g, "other2") && has(&g, "new"));
	free(g.e);
	/* a repeated creation accepts what a crash left, of the same type only */
	struct call c = env_call();
	ck_assert_int_eq(ids_next(e.h, &c.new_id), 0);
	struct create cr = { .mode = S_IFDIR | 0711, .exact = true };
	ck_assert_int_eq(e.l->ops->create(e.l, &c, HANDLE_ROOT, "other2", &cr, 0, &a, NULL), -EEXIST);
	ck_assert_int_eq(e.l->ops->create(e.l, &c, HANDLE_ROOT, "other", &cr, 0, &a, NULL), 0);
	ck_assert_uint_eq(a.id, c.new_id);
	ck_assert_uint_eq(a.mode, S_IFDIR | 0711);
	ck_assert_uint_eq(a.uid, 1000);
	ck_assert_uint_eq(env_attr(&e, HANDLE_ROOT).nlink, 4);
	ck_assert_int_eq(e.l->ops->create(e.l, &c, HANDLE_ROOT, "third", &cr, 0, &a, NULL), -EEXIST);	/* the id is in use */
	/* what has contents, another name or an xattr was not left by a creation */
	struct create cf = { .mode = S_IFREG | 0600, .exact = true }, cl = { .mode = S_IFLNK | 0777, .target = "x", .exact = true };
	ck_assert_int_eq(env_sh("cd %s && echo x >full && touch two x && ln two two2 && ln -s y link && ln -s x same && mkdir used && touch used/f &&"
				"setfattr -n trusted.a -v 1 x && touch empty", e.root), 0);
	static const char *const theirs[] = { "full", "two", "x" };
	for (unsigned i = 0; i < 3; i++)
		ck_assert_int_eq((ids_next(e.h, &c.new_id), e.l->ops->create(e.l, &c, HANDLE_ROOT, theirs[i], &cf, 0, &a, NULL)), -EEXIST);
	ck_assert_int_eq(e.l->ops->create(e.l, &c, HANDLE_ROOT, "used", &cr, 0, &a, NULL), -EEXIST);
	ck_assert_int_eq(e.l->ops->create(e.l, &c, HANDLE_ROOT, "link", &cl, 0, &a, NULL), -EEXIST);
	ck_assert_int_eq(e.l->ops->create(e.l, &c, HANDLE_ROOT, "same", &cl, 0, &a, NULL), 0);
	ids_next(e.h, &c.new_id);
	ck_assert_int_eq(e.l->ops->create(e.l, &c, HANDLE_ROOT, "empty", &cf, 0, &a, NULL), 0);
	/* in the way: moved aside, twice */
	struct call ap = { .origin = ORIGIN_RESYNC };
	ck_assert_int_eq(local_to_limbo(e.l, &ap, HANDLE_ROOT, "other2"), 0);
	env_sh("touch %s/other2", e.root);
	ck_assert_int_eq(local_to_limbo(e.l, &ap, HANDLE_ROOT, "other2"), 0);
	ck_assert_int_eq(local_to_limbo(e.l, &ap, HANDLE_ROOT, "other2"), -ENOENT);
	ck_assert_int_eq(env_sh("test -e %s/.tandemfs/lost/strays/other2 -a -e %s/.tandemfs/lost/strays/other2.1", e.root, e.root), 0);
	env_close(&e);
}
END_TEST

struct racer {
	struct env *e;
	uint64_t dir, found[2000];
	atomic_uint made;
};

static void *look_up(void *arg)
{
	struct racer *r = arg;
	struct attr a;
	char name[16];
	for (unsigned i = 0; i < 2000; i++) {
		snprintf(name, sizeof(name), "r%u", i);
		while (env_lookup(r->e, r->dir, name, &a) == -ENOENT)
			;
		r->found[i] = a.id;
	}
	return NULL;
}

/* Who meets an object in the making must not adopt it. */
START_TEST(creation_against_lookup)
{
	struct env e;
	pthread_t t;
	env_open(&e, _i);
	struct racer r = { .e = &e, .dir = HANDLE_ROOT };
	pthread_create(&t, NULL, look_up, &r);
	uint64_t ids[2000];
	for (unsigned i = 0; i < 2000; i++) {
		char name[16];
		snprintf(name, sizeof(name), "r%u", i);
		ids[i] = env_mk(&e, HANDLE_ROOT, name, i % 2 ? S_IFREG | 0644 : S_IFDIR | 0755).id;
	}
	pthread_join(t, NULL);
	for (unsigned i = 0; i < 2000; i++)
		ck_assert_uint_eq(r.found[i], ids[i]);
	ck_assert_uint_eq(env_attr(&e, HANDLE_ROOT).nlink, 2 + 1000);
	env_close(&e);
}
END_TEST

/* Somebody exchanges entries of the backing directory for symlinks, behind our back: nothing outside is reached. */
START_TEST(symlink_swapped_in)
{
	struct env e;
	struct attr a, d;
	struct file *f;
	char out[300];
	env_open(&e, _i);
	snprintf(out, sizeof(out), "%s/outside", e.state);
	env_sh("mkdir %s; echo secret > %s/victim; chmod 600 %s/victim", out, out, out);
	d = env_mk(&e, HANDLE_ROOT, "d", S_IFDIR | 0755);
	a = env_mk(&e, d.id, "victim", S_IFREG | 0644);
	env_sh("mv %s/d %s/moved; ln -s %s %s/d; rm %s/moved/victim; ln -s %s/victim %s/moved/victim", e.root, e.root, out, e.root, e.root, out,
	       e.root);
	struct attr l;
	ck_assert_int_eq(env_lookup(&e, HANDLE_ROOT, "d", &l), 0);
	ck_assert_uint_eq(l.mode & S_IFMT, S_IFLNK);
	ck_assert_int_eq(e.l->ops->create(e.l, CALL, l.id, "new", &(struct create){ .mode = S_IFREG | 0644 }, 0, NULL, NULL), -ENOTDIR);
	ck_assert_int_eq(env_lookup(&e, d.id, "victim", &l), 0);
	ck_assert_uint_eq(l.mode & S_IFMT, S_IFLNK);
	ck_assert_uint_ne(l.id, a.id);
	struct setattr s = { .valid = SET_MODE | SET_UID, .mode = 0666, .uid = 5 };
	e.l->ops->setattr(e.l, CALL, l.id, NULL, &s, NULL);
	ck_assert_int_eq(e.l->ops->open(e.l, CALL, l.id, O_RDWR, &f), -ELOOP);
	s = (struct setattr){ .valid = SET_SIZE, .size = 0 };
	ck_assert_int_eq(e.l->ops->setattr(e.l, CALL, l.id, NULL, &s, NULL), -EINVAL);
	e.l->ops->setxattr(e.l, CALL, l.id, "trusted.x", "1", 1, 0);
	ck_assert_int_eq(env_sh("test $(stat -c %%a:%%u:%%s %s/victim) = 600:0:7", out), 0);
	ck_assert_int_eq(env_sh("getfattr -d -m - %s/victim 2>/dev/null | grep -q trusted", out) == 0, 0);
	env_close(&e);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("local_dir");
	TCase *t = tcase_create("dir");
	tcase_set_timeout(t, 120);
	tcase_add_test(t, positions_are_for_ever);
	tcase_add_test(t, positions_are_the_same_everywhere);
	tcase_add_loop_test(t, resume_at_every_position, 0, 2);
	tcase_add_loop_test(t, large_snapshots_are_spilled, 0, ENV_FS);
	tcase_add_loop_test(t, own_snapshot_until_rewound, 0, ENV_FS);
	tcase_add_loop_test(t, strangers_are_refused, 0, ENV_FS);
	tcase_add_loop_test(t, adoption, 0, ENV_FS);
	tcase_add_loop_test(t, creation_against_lookup, 0, ENV_FS);
	tcase_add_loop_test(t, symlink_swapped_in, 0, ENV_FS);
	suite_add_tcase(s, t);
	return env_setup() ? env_run(s) : EXIT_SUCCESS;
}
