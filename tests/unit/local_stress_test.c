/*
 * Eight threads, each with a directory of its own and a model of it, beside a directory that all of them share; then the same tree after a
 * cold start and after a rebuild of the index. And: the layer with a fault layer above it, each operation failing once.
 */
#include "tests/unit/local_env.h"

#include <pthread.h>

#include "fs/base/clock.h"
#include "fs/fault.h"

enum { THREADS = 8, NAMES = 24, SHARED_NAMES = 12, RUN_MS = 2500 };

struct entry {
	bool there;
	uint64_t id;
	uint32_t mode;		/* type and bits */
	uint64_t size;
	unsigned inode;		/* entries with the same number are one file */
	unsigned nlink;
};

struct worker {
	struct env *e;
	uint64_t dir, shared[2];
	unsigned seed, next_inode, ops;
	struct entry m[NAMES];
};

static unsigned rnd(struct worker *w, unsigned n)
{
	w->seed = w->seed * 1664525 + 1013904223;
	return (w->seed >> 8) % n;
}

static void name_of(unsigned i, char out[16]) { snprintf(out, 16, "n%u", i); }

static void relink(struct worker *w, unsigned inode, int delta)
{
	for (unsigned i = 0; i < NAMES; i++)
		if (w->m[i].there && w->m[i].inode == inode)
			w->m[i].nlink += (unsigned)delta;
}

static void w_create(struct worker *w, unsigned i, const char *n)
{
	static const uint32_t types[] = { S_IFREG, S_IFREG, S_IFREG, S_IFDIR, S_IFLNK, S_IFIFO };
	struct attr a;
	struct create cr = { .mode = types[rnd(w, 6)] | rnd(w, 01000), .target = "t" };
	int err = w->e->l->ops->create(w->e->l, CALL, w->dir, n, &cr, 0, &a, NULL);
	ck_assert_int_eq(err, w->m[i].there ? -EEXIST : 0);
	if (err)
		return;
	uint32_t bits = S_ISLNK(cr.mode) ? 0777 : cr.mode & 0755 & 07777;
	w->m[i] = (struct entry){ .there = true, .id = a.id, .mode = (cr.mode & S_IFMT) | bits, .inode = ++w->next_inode,
				  .size = S_ISDIR(cr.mode) ? 4096 : S_ISLNK(cr.mode) ? 1 : 0, .nlink = S_ISDIR(cr.mode) ? 2 : 1 };
}

static void w_remove(struct worker *w, unsigned i, const char *n)
{
	bool dir = rnd(w, 4) == 0;
	struct entry *m = &w->m[i];
	int want = !m->there ? -ENOENT : dir == !!S_ISDIR(m->mode) ? 0 : dir ? -ENOTDIR : -EISDIR;
	int err = dir ? w->e->l->ops->rmdir(w->e->l, CALL, w->dir, n) : w->e->l->ops->unlink(w->e->l, CALL, w->dir, n);
	ck_assert_int_eq(err, want);
	if (err)
		return;
	struct attr a;
	uint64_t id = m->id;
	m->there = false;
	relink(w, m->inode, -1);
	if (S_ISDIR(m->mode) || m->nlink == 1)
		ck_assert_int_eq(w->e->l->ops->getattr(w->e->l, CALL, id, NULL, &a), -ESTALE);
}

static void w_rename(struct worker *w, unsigned i, const char *n)
{
	unsigned k = rnd(w, NAMES);
	static const unsigned all[] = { 0, RENAME_NOREPLACE, RENAME_EXCHANGE };
	unsigned flags = all[rnd(w, 3)];
	char n2[16];
	struct entry *a = &w->m[i], *b = &w->m[k], t;
	name_of(k, n2);
	int err = w->e->l->ops->rename(w->e->l, CALL, w->dir, n, w->dir, n2, flags);
	if (!a->there || (flags == RENAME_EXCHANGE && !b->there)) {
		ck_assert_int_eq(err, -ENOENT);
		return;
	}
	if (b->there && flags == RENAME_NOREPLACE) {
		ck_assert_int_eq(err, -EEXIST);
		return;
	}
	bool same = b->there && a->inode == b->inode;
	if (b->there && !flags && !same && S_ISDIR(a->mode) != S_ISDIR(b->mode)) {
		ck_assert_int_eq(err, S_ISDIR(a->mode) ? -ENOTDIR : -EISDIR);
		return;
	}
	ck_assert_int_eq(err, 0);
	if (same)
		return;
	if (flags == RENAME_EXCHANGE) {
		t = *a;
		*a = *b;
		*b = t;
		return;
	}
	if (b->there) {
		b->there = false;
		relink(w, b->inode, -1);
	}
	*b = *a;
	a->there = false;
}

static void w_link(struct worker *w, unsigned i)
{
	unsigned k = rnd(w, NAMES);
	char n2[16];
	struct entry *a = &w->m[i], *b = &w->m[k];
	struct attr at;
	if (!a->there)
		return;
	name_of(k, n2);
	int err = w->e->l->ops->link(w->e->l, CALL, a->id, w->dir, n2, &at);
	ck_assert_int_eq(err, S_ISDIR(a->mode) ? -EPERM : b->there ? -EEXIST : 0);
	if (err)
		return;
	*b = *a;
	relink(w, a->inode, 1);
}

static void w_write(struct worker *w, unsigned i)
{
	struct entry *m = &w->m[i];
	char buf[5000];
	if (!m->there || !S_ISREG(m->mode))
		return;
	struct file *f = env_open_file(w->e, m->id, O_RDWR);
	unsigned off = rnd(w, 20000), len = 1 + rnd(w, 4999);
	memset(buf, 'a', len);
	ck_assert_int_eq(env_write(w->e, f, buf, len, off), len);
	uint64_t size = off + len > m->size ? off + len : m->size;
	for (unsigned k = 0; k < NAMES; k++)
		if (w->m[k].there && w->m[k].inode == m->inode)
			w->m[k].size = size;
	env_release(w->e, f);
}

static void w_attr(struct worker *w, unsigned i, const char *n)
{
	struct entry *m = &w->m[i];
	struct attr a;
	int err = env_lookup(w->e, w->dir, n, &a);
	ck_assert_int_eq(err, m->there ? 0 : -ENOENT);
	if (err)
		return;
	ck_assert_uint_eq(a.id, m->id);
	ck_assert_uint_eq(a.mode, m->mode);
	ck_assert_uint_eq(a.nlink, m->nlink);
	ck_assert_uint_eq(a.size, m->size);
	ck_assert_uint_eq(env_attr(w->e, a.id).size, m->size);
}

/* Anything may happen to what is shared, but only what can. */
static void w_shared(struct worker *w)
{
	char a[16], b[16];
	struct layer *l = w->e->l;
	uint64_t p = w->shared[rnd(w, 2)], q = w->shared[rnd(w, 2)];
	struct create dir = { .mode = S_IFDIR | 0755 }, reg = { .mode = S_IFREG | 0644 };
	struct attr at;
	int err = 0;
	name_of(rnd(w, SHARED_NAMES), a);
	name_of(rnd(w, SHARED_NAMES), b);
	switch (rnd(w, 7)) {
	case 0: err = l->ops->create(l, CALL, p, a, rnd(w, 2) ? &dir : &reg, 0, NULL, NULL); break;
	case 1: err = l->ops->unlink(l, CALL, p, a); break;
	case 2: err = l->ops->rmdir(l, CALL, p, a); break;
	case 3: err = l->ops->rename(l, CALL, p, a, q, b, 0); break;
	case 4: err = l->ops->rename(l, CALL, p, a, q, b, RENAME_EXCHANGE); break;
	case 5:
		if (!env_lookup(w->e, p, a, &at))
			err = l->ops->link(l, CALL, at.id, q, b, NULL);
		break;
	default:
		if (!env_lookup(w->e, p, a, &at) && S_ISDIR(at.mode))
			err = l->ops->rename(l, CALL, q, b, at.id, "moved", 0);
	}
	ck_assert_msg(!err || err == -EEXIST || err == -ENOENT || err == -EISDIR || err == -ENOTDIR || err == -ENOTEMPTY || err == -EPERM ||
		      err == -EINVAL || err == -ESTALE, "%d", err);
}

static void *work(void *arg)
{
	struct worker *w = arg;
	for (uint64_t end = clock_mono_ms() + RUN_MS; clock_mono_ms() < end; w->ops++) {
		unsigned i = rnd(w, NAMES);
		char n[16];
		name_of(i, n);
		switch (rnd(w, 9)) {
		case 0: case 1: w_create(w, i, n); break;
		case 2: w_remove(w, i, n); break;
		case 3: w_rename(w, i, n); break;
		case 4: w_link(w, i); break;
		case 5: w_write(w, i); break;
		case 6: w_attr(w, i, n); break;
		default: w_shared(w); break;
		}
	}
	return NULL;
}

/* ---- the tree as text, without ctime ---- */

struct text {
	struct env *e;
	char *s;
	size_t n, cap;
};

static int text_entry(void *arg, const struct dirent_info *d)
{
	struct text *t = arg;
	if (!strcmp(d->name, ".") || !strcmp(d->name, ".."))
		return 0;
	struct attr a = env_attr(t->e, d->id);
	t->n += (size_t)snprintf(t->s + t->n, t->cap - t->n, "%s %llx %o %u %llu %ld.%ld\n", d->name, (unsigned long long)a.id, a.mode, a.nlink,
				 (unsigned long long)a.size, a.mtime.tv_sec, a.mtime.tv_nsec);
	ck_assert_uint_lt(t->n, t->cap - 300);
	ck_assert_uint_eq(a.mode & S_IFMT, d->type);
	if (!S_ISDIR(a.mode))
		return 0;
	struct dir *dir;
	ck_assert_int_eq(t->e->l->ops->opendir(t->e->l, CALL, d->id, &dir), 0);
	ck_assert_int_eq(t->e->l->ops->readdir(t->e->l, CALL, dir, 0, text_entry, t), 0);
	ck_assert_int_eq(t->e->l->ops->releasedir(t->e->l, CALL, dir), 0);
	return 0;
}

static char *text(struct env *e)
{
	struct text t = { .e = e, .cap = 1 << 20 };
	t.s = calloc(1, t.cap);
	text_entry(&t, &(struct dirent_info){ .name = "/", .id = HANDLE_ROOT, .type = S_IFDIR });
	return t.s;
}

START_TEST(eight_threads_and_a_model)
{
	struct env e;
	pthread_t t[THREADS];
	struct local_config cfg = { .fd_cache = 64 };
	static struct worker w[THREADS];
	env_open_cfg(&e, _i, &cfg);
	uint64_t s0 = env_mk(&e, HANDLE_ROOT, "shared0", S_IFDIR | 0755).id, s1 = env_mk(&e, HANDLE_ROOT, "shared1", S_IFDIR | 0755).id;
	unsigned seed = (unsigned)time(NULL), ops = 0;
	fprintf(stderr, "# %s: seed %u\n", env_fs[_i], seed);
	for (unsigned i = 0; i < THREADS; i++) {
		char n[16];
		snprintf(n, sizeof(n), "own%u", i);
		w[i] = (struct worker){ .e = &e, .dir = env_mk(&e, HANDLE_ROOT, n, S_IFDIR | 0755).id, .shared = { s0, s1 }, .seed = seed + i };
	}
	for (unsigned i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, work, &w[i]);
	for (unsigned i = 0; i < THREADS; i++) {
		pthread_join(t[i], NULL);
		ops += w[i].ops;
		for (unsigned k = 0; k < NAMES; k++) {
			char n[16];
			name_of(k, n);
			w_attr(&w[i], k, n);
		}
	}
	fprintf(stderr, "# %s: %u operations\n", env_fs[_i], ops);
	char *hot = text(&e);
	env_restart(&e, false);
	char *cold = text(&e);
	ck_assert_str_eq(hot, cold);
	env_restart(&e, true);
	char *rebuilt = text(&e);
	ck_assert_str_eq(hot, rebuilt);
	free(hot);
	free(cold);
	free(rebuilt);
	env_close(&e);
}
END_TEST

/* ---- readers, adoption, files that lose their names while they are open, limbo: all in the same two directories ---- */

static int read_entry(void *arg, const struct dirent_info *d)
{
	struct worker *w = arg;
	struct attr a;
	int err = strcmp(d->name, ".") && strcmp(d->name, "..") ? env_lookup(w->e, w->shared[0], d->name, &a) : 0;
	ck_assert_msg(!err || err == -ENOENT || err == -ESTALE, "%s: %d", d->name, err);
	return 0;
}

static void r_list(struct worker *w)
{
	struct dir *dir;
	struct layer *l = w->e->l;
	ck_assert_int_eq(l->ops->opendir(l, CALL, w->shared[0], &dir), 0);
	ck_assert_int_eq(l->ops->readdir(l, CALL, dir, 0, read_entry, w), 0);
	ck_assert_int_eq(l->ops->releasedir(l, CALL, dir), 0);
}

/* Somebody makes files and directories below us, and they are used as soon as they are there. */
static void r_outsider(struct worker *w)
{
	char name[32], path[400];
	struct layer *l = w->e->l;
	snprintf(name, sizeof(name), "out%u", rnd(w, 6));
	snprintf(path, sizeof(path), "%s/shared0/%s", w->e->root, name);
	if (rnd(w, 2)) {
		int fd = open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
		if (fd >= 0)
			close(fd);
	} else {
		mkdir(path, 0755);
	}
	if (rnd(w, 2))
		l->ops->unlink(l, CALL, w->shared[0], name);
	else
		l->ops->rmdir(l, CALL, w->shared[0], name);
}

static void r_open_unlinked(struct worker *w)
{
	char name[16];
	struct layer *l = w->e->l;
	struct create reg = { .mode = S_IFREG | 0644 };
	struct file *f = NULL;
	struct attr a;
	name_of(rnd(w, SHARED_NAMES), name);
	if (l->ops->create(l, CALL, w->shared[0], name, &reg, O_RDWR, &a, &f))
		return;
	l->ops->unlink(l, CALL, w->shared[0], name);
	ck_assert_int_eq(env_write(w->e, f, "x", 1, 0), 1);
	ck_assert_int_eq(l->ops->getattr(l, CALL, a.id, f, &a), 0);
	env_release(w->e, f);
}

static void r_limbo(struct worker *w)
{
	char name[16];
	struct layer *l = w->e->l;
	struct call c = { .origin = ORIGIN_RESYNC };
	struct attr a;
	name_of(rnd(w, SHARED_NAMES), name);
	if (env_lookup(w->e, w->shared[0], name, &a) || local_to_limbo(l, &c, w->shared[0], name))
		return;
	name_of(rnd(w, SHARED_NAMES), name);
	local_place(l, &c, a.id, w->shared[1], name);
}

static void *mingle(void *arg)
{
	struct worker *w = arg;
	for (uint64_t end = clock_mono_ms() + RUN_MS; clock_mono_ms() < end; w->ops++) {
		switch (rnd(w, 7)) {
		case 0: r_list(w); break;
		case 1: r_outsider(w); break;
		case 2: r_open_unlinked(w); break;
		case 3: r_limbo(w); break;
		default: w_shared(w); break;
		}
	}
	return NULL;
}

struct census { struct env *e; uint64_t dir; unsigned dirs; uint64_t objects; };

static int census_entry(void *arg, const struct dirent_info *d)
{
	struct census *k = arg;
	struct dir *dir;
	if (!strcmp(d->name, ".") || !strcmp(d->name, ".."))
		return 0;
	k->objects++;
	struct attr a = env_attr(k->e, d->id);
	ck_assert_uint_gt(a.nlink, 0);
	if (!S_ISDIR(a.mode)) {
		if (a.nlink > 1)	/* counted at one of its names */
			k->objects--;
		return 0;
	}
	struct census in = { .e = k->e };
	ck_assert_int_eq(k->e->l->ops->opendir(k->e->l, CALL, d->id, &dir), 0);
	ck_assert_int_eq(k->e->l->ops->readdir(k->e->l, CALL, dir, 0, census_entry, &in), 0);
	ck_assert_int_eq(k->e->l->ops->releasedir(k->e->l, CALL, dir), 0);
	ck_assert_msg(a.nlink == 2 + in.dirs, "%s: %u links, %u sub-directories", d->name, a.nlink, in.dirs);
	k->dirs++;
	k->objects += in.objects;
	return 0;
}

static int entry_has_object(void *arg, const struct hentry *h)
{
	struct env *e = arg;
	uint64_t id = 0;
	auto_fd int fd = local_handle_open(e->h, &h->lh, O_PATH | O_NOFOLLOW);
	ck_assert_msg(fd >= 0 && !mark_get(e->h, fd, &id, NULL) && id == h->id, "entry %llx has no object", (unsigned long long)h->id);
	return 0;
}

START_TEST(readers_adoption_limbo_and_open_files)
{
	struct env e;
	pthread_t t[THREADS];
	struct local_config cfg = { .fd_cache = 64 };
	static struct worker w[THREADS];
	env_open_cfg(&e, _i, &cfg);
	uint64_t s0 = env_mk(&e, HANDLE_ROOT, "shared0", S_IFDIR | 0755).id, s1 = env_mk(&e, HANDLE_ROOT, "shared1", S_IFDIR | 0755).id;
	unsigned seed = (unsigned)time(NULL);
	fprintf(stderr, "# %s: seed %u\n", env_fs[_i], seed);
	for (unsigned i = 0; i < THREADS; i++)
		w[i] = (struct worker){ .e = &e, .shared = { s0, s1 }, .seed = seed + i };
	for (unsigned i = 0; i < THREADS; i++)
		pthread_create(&t[i], NULL, mingle, &w[i]);
	for (unsigned i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	ck_assert_int_eq(local_limbo_purge_all(e.l), 0);
	char *hot = text(&e);
	ck_assert_int_eq(index_each(e.h, entry_has_object, &e), 0);
	struct census k = { .e = &e };
	census_entry(&k, &(struct dirent_info){ .name = "/", .id = HANDLE_ROOT, .type = S_IFDIR });
	ck_assert_uint_le(k.objects, index_count(e.h));
	env_restart(&e, false);
	char *cold = text(&e);
	ck_assert_str_eq(hot, cold);
	env_restart(&e, true);
	char *rebuilt = text(&e);
	ck_assert_str_eq(hot, rebuilt);
	free(hot);
	free(cold);
	free(rebuilt);
	env_close(&e);
}
END_TEST

/* ---- with faults above ---- */

static int script(struct layer *l, unsigned *reached)
{
	struct create reg = { .mode = S_IFREG | 0644 }, dir = { .mode = S_IFDIR | 0755 };
	struct attr d, f;
	struct file *file;
	int err, err2;
	*reached = 0;
	if ((err = l->ops->create(l, CALL, HANDLE_ROOT, "d", &dir, 0, &d, NULL)))
		return err;
	if ((err = l->ops->create(l, CALL, d.id, "f", &reg, O_RDWR, &f, &file)))
		return err;
	ssize_t n = l->ops->write(l, CALL, file, &(struct wdata){ .p = "x", .len = 1 }, 0, 0, NULL);
	err = n < 0 ? (int)n : l->ops->fsync(l, CALL, f.id, file, false);
	err2 = l->ops->release(l, CALL, file);
	if (err || err2)
		return err ? err : err2;
	if ((err = l->ops->rename(l, CALL, d.id, "f", HANDLE_ROOT, "g", 0)))
		return err;
	if ((err = l->ops->unlink(l, CALL, HANDLE_ROOT, "g")))
		return err;
	if ((err = l->ops->rmdir(l, CALL, HANDLE_ROOT, "d")))
		return err;
	*reached = 1;
	return 0;
}

START_TEST(each_call_fails_once)
{
	static const char *const how[] = { "", ",after" };
	for (unsigned h = 0; h < 2; h++) {
		bool more = true;
		for (unsigned n = 1; more; n++) {
			struct env e;
			struct layer *l;
			struct fault_rules *r;
			char rule[64], err[100];
			unsigned reached;
			env_open(&e, _i);
			snprintf(rule, sizeof(rule), "nth=%u,error=EIO%s", n, how[h]);
			ck_assert_int_eq(fault_parse(rule, &r, err, sizeof(err)), 0);
			ck_assert_int_eq(fault_new(e.l, r, &l), 0);
			int res = script(l, &reached);
			more = fault_fired(l) > 0;
			ck_assert_int_eq(res, more ? -EIO : 0);
			l->ops->destroy(l);
			/* whatever happened, the tree is whole: the same cold and rebuilt */
			char *hot = text(&e);
			env_restart(&e, true);
			char *cold = text(&e);
			ck_assert_str_eq(hot, cold);
			free(hot);
			free(cold);
			env_close(&e);
			ck_assert_uint_lt(n, 20);
		}
	}
}
END_TEST

/* ---- the last close of a removed file, while others change it by its id ---- */

struct late {
	struct env *e;
	uint64_t id;
	atomic_int ready;
	unsigned done;
};

static void *late_main(void *arg)
{
	struct late *w = arg;
	struct effect eff = { 0 };
	struct call c = env_call();
	int err = 0;
	c.effect = &eff;
	while (!err) {
		err = w->done % 2 ? w->e->l->ops->setxattr(w->e->l, &c, w->id, "trusted.x", "v", 1, 0)
				  : w->e->l->ops->setattr(w->e->l, &c, w->id, NULL, &(struct setattr){ .valid = SET_UID, .uid = w->done }, NULL);
		w->done++;
		atomic_store(&w->ready, 1);
	}
	ck_assert_int_eq(err, -ESTALE);
	ck_assert(!eff.changed);
	return NULL;
}

START_TEST(changes_of_what_goes_succeed_or_do_nothing)
{
	struct env e;
	env_open(&e, _i);
	for (unsigned n = 0; n < 1500; n++) {
		struct attr a = env_mk(&e, HANDLE_ROOT, "f", S_IFREG | 0644);
		struct late w = { .e = &e, .id = a.id };
		struct file *f = env_open_file(&e, a.id, O_RDWR);
		pthread_t t;
		ck_assert_int_eq(e.l->ops->unlink(e.l, CALL, HANDLE_ROOT, "f"), 0);
		ck_assert_int_eq(pthread_create(&t, NULL, late_main, &w), 0);
		while (!atomic_load(&w.ready))
			sched_yield();
		env_release(&e, f);
		pthread_join(t, NULL);
	}
	ck_assert_uint_eq(index_count(e.h), 1);
	env_close(&e);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("local_stress");
	TCase *t = tcase_create("stress");
	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, eight_threads_and_a_model, 0, ENV_FS);
	tcase_add_loop_test(t, readers_adoption_limbo_and_open_files, 0, ENV_FS);
	tcase_add_loop_test(t, each_call_fails_once, 0, ENV_FS);
	tcase_add_loop_test(t, changes_of_what_goes_succeed_or_do_nothing, 0, ENV_FS);
	suite_add_tcase(s, t);
	return env_setup() ? env_run(s) : EXIT_SUCCESS;
}
