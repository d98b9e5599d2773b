/*
 * Statements about names. OP_R_DIR makes the entries of a range of positions equal:
 *
 *   1. What is here in the range under another id, or isn't listed, loses that name: a file's last name and a directory go to limbo, where
 *      they can still be asked for by their id; other names are unlinked. What the local layer hides (strays) is moved away (sink_stray.c).
 *   2. What is listed and not here: placed, when its id is known (out of limbo, a hard link, a directory moved from where it is); else a
 *      placeholder is made (files, directories) and reported MISSING, so that it is stated whole; other kinds need what only OP_R_PLACE carries.
 *
 * A directory that is to be placed below itself: some link of the chain between the two is wrong. We break the lowest one: the directory that is to receive
 * it goes to limbo, and its parent is reported dirty. Each such step takes one link away, and the right ones come back with their parents' statements.
 *
 * The children's ctime is kept: placing them changes nothing that the primary has not stated or will state for the parent. A directory from
 * which something was moved without having been stated for it is reported dirty.
 *
 * Own entries are read in batches, so that a directory with a million extra entries needs no more memory than one with a thousand.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "fs/base/log.h"
#include "resync/sink_int.h"

enum { OWN_BATCH = 4096 };

struct entry { uint64_t id; uint32_t type; bool matched; const char *name; };

/* Entries and the memory of their names. */
struct list { struct entry *e; size_t n, cap; char *names; size_t len, size; };

static void list_free(struct list *l)
{
	free(l->e);
	free(l->names);
}
#define auto_list __attribute__((cleanup(list_free)))

/* Names are fixed in size from the start, so that pointers into them stay. */
static int list_init(struct list *l, size_t cap, size_t names)
{
	l->e = calloc(cap ? cap : 1, sizeof *l->e);
	l->names = malloc(names ? names : 1);
	l->cap = cap;
	l->size = names;
	return l->e && l->names ? 0 : -ENOMEM;
}

/* 1 when full. */
static int list_add(struct list *l, uint64_t id, uint32_t type, const char *name)
{
	size_t len = strlen(name) + 1;

	if (l->n == l->cap || l->size - l->len < len)
		return 1;
	memcpy(l->names + l->len, name, len);
	l->e[l->n++] = (struct entry){ .id = id, .type = type, .name = l->names + l->len };
	l->len += len;
	return 0;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct entry *)a)->name, ((const struct entry *)b)->name);
}

/* What the op lists, sorted by name. */
static int parse_listed(const struct op *op, struct list *out)
{
	struct dec d = dec_init(op->blob, op->blob_len);
	char name[256];
	uint64_t id;
	uint32_t type;
	int err = list_init(out, op->blob_len / 11 + 1, op->blob_len + 1);

	while (!err && op_entries_next(&d, &id, &type, name))
		if (list_add(out, id, type, name))
			err = -EBADMSG;
	if (!err)
		qsort(out->e, out->n, sizeof *out->e, by_name);
	for (size_t i = 1; !err && i < out->n; i++)
		if (!strcmp(out->e[i - 1].name, out->e[i].name))
			err = -EBADMSG;
	return err;
}

/* ---- taking names away ---- */

/* A change of ID's ctime that the primary knows nothing of is taken back. */
static struct timespec ctime_of(struct resync_sink *s, uint64_t id)
{
	struct hentry he;

	return index_get(s->cfg.handles, id, &he) ? (struct timespec){ 0 } : he.ctime;
}

static void put_ctime(struct resync_sink *s, uint64_t id, struct timespec t)
{
	if (t.tv_sec || t.tv_nsec)
		index_set_ctime(s->cfg.handles, id, t);
}

static int take_name(struct resync_sink *s, uint64_t parent, const char *name, uint64_t id, bool last)
{
	struct call c = sink_call(ctime_of(s, parent));

	if (!last)
		return s->cfg.bottom->ops->unlink(s->cfg.bottom, &c, parent, name);
	s->evicted = true;
	sink_note_path(s, id, parent, name);
	return local_to_limbo(s->cfg.bottom, &c, parent, name);
}

int sink_evict(struct resync_sink *s, uint64_t parent, const char *name, uint64_t id)
{
	struct timespec ctime = ctime_of(s, id);
	struct attr a;
	int err = sink_known(s, id, &a);
	bool last = err || S_ISDIR(a.mode) || a.nlink <= 1;

	s->changed = true;
	err = take_name(s, parent, name, id, last);
	if (err == -ENOENT)
		err = 0;
	if (!err)
		put_ctime(s, id, ctime);
	sink_tell(s, CHANGE_ENTRY, parent, name, id);
	return err;
}

struct own { struct resync_sink *s; struct list *list; uint64_t off2, last; bool full; };

static int add_own(void *arg, const struct dirent_info *d)
{
	struct own *o = arg;

	if (d->pos >= o->off2)
		return 1;
	if (strcmp(d->name, ".") != 0 && strcmp(d->name, "..") != 0 && list_add(o->list, d->id, d->type, d->name)) {
		o->full = true;
		return 1;
	}
	o->last = d->pos;
	return 0;
}

/* Own entries behind *POS and below OFF2, at most a batch. MORE: there are others. */
static int read_own(struct resync_sink *s, uint64_t id, uint64_t *pos, uint64_t off2, struct list *out, bool *more)
{
	struct call c = sink_call((struct timespec){ 0 });
	struct own o = { .s = s, .list = out, .off2 = off2, .last = *pos };
	struct dir *d;
	int err = list_init(out, OWN_BATCH, OWN_BATCH * 256);

	if (!err)
		err = s->cfg.bottom->ops->opendir(s->cfg.bottom, &c, id, &d);
	if (err)
		return err;
	err = s->cfg.bottom->ops->readdir(s->cfg.bottom, &c, d, *pos, add_own, &o);
	s->cfg.bottom->ops->releasedir(s->cfg.bottom, &c, d);
	*pos = o.last;
	*more = o.full;
	return err < 0 ? err : 0;
}

static int match_own(struct resync_sink *s, uint64_t id, const struct list *own, struct list *want)
{
	int err = 0;

	for (size_t i = 0; i < own->n && !err; i++) {
		struct entry *w = bsearch(&own->e[i], want->e, want->n, sizeof *want->e, by_name);
		if (w && w->id == own->e[i].id)
			w->matched = true;
		else
			err = sink_evict(s, id, own->e[i].name, own->e[i].id);
	}
	return err;
}

static int match_range(struct resync_sink *s, const struct op *op, struct list *want)
{
	uint64_t pos = op->off ? op->off - 1 : 0;
	bool more = true;
	int err = 0;

	while (!err && more) {
		auto_list struct list own = { 0 };
		err = read_own(s, op->id, &pos, op->off2, &own, &more);
		if (!err)
			err = match_own(s, op->id, &own, want);
	}
	return err;
}

/* ---- giving names ---- */

static int make(struct resync_sink *s, uint64_t id, uint64_t parent, const char *name, const struct attr *a, const char *target)
{
	struct call c = sink_call(a->ctime);
	struct create cr = { .mode = a->mode, .rdev = a->rdev, .target = S_ISLNK(a->mode) ? target : NULL, .exact = true };
	struct attr made;

	c.new_id = id;
	c.uid = a->uid;
	c.gid = a->gid;
	s->changed = true;
	int err = s->cfg.bottom->ops->create(s->cfg.bottom, &c, parent, name, &cr, 0, &made, NULL);
	if (!err)
		sink_made(s, id);
	return err;
}

int sink_make_in_limbo(struct resync_sink *s, uint64_t id, const struct attr *a, const char *target)
{
	char name[32];

	snprintf(name, sizeof name, "%016llx", (unsigned long long)id);
	s->evicted = true;
	int err = make(s, id, HANDLE_LIMBO, name, a, target);
	if (!err && S_ISREG(a->mode))	/* the local layer takes a file that is made there for an O_TMPFILE one */
		err = local_set_tmpfile(s->cfg.bottom, id, false);
	return err;
}

static uint64_t parent_of(struct resync_sink *s, uint64_t dir)
{
	struct call c = sink_call((struct timespec){ 0 });
	struct attr a;

	return s->cfg.bottom->ops->lookup(s->cfg.bottom, &c, dir, "..", &a) ? 0 : a.id;
}

struct find { uint64_t id; char name[256]; };

static int find_name(void *arg, const struct dirent_info *d)
{
	struct find *f = arg;

	if (d->id != f->id || !strcmp(d->name, ".") || !strcmp(d->name, ".."))
		return 0;
	snprintf(f->name, sizeof f->name, "%s", d->name);
	return 1;
}

/* A name of CHILD in directory PARENT. */
static int name_in(struct resync_sink *s, uint64_t parent, uint64_t child, char name[256])
{
	struct call c = sink_call((struct timespec){ 0 });
	struct find f = { .id = child };
	struct dir *d;
	int err = s->cfg.bottom->ops->opendir(s->cfg.bottom, &c, parent, &d);

	if (err)
		return err;
	err = s->cfg.bottom->ops->readdir(s->cfg.bottom, &c, d, 0, find_name, &f);
	s->cfg.bottom->ops->releasedir(s->cfg.bottom, &c, d);
	if (err >= 0)
		memcpy(name, f.name, sizeof f.name);
	return err < 0 ? err : f.name[0] ? 0 : -ENOENT;
}

/* PARENT lies below what shall be placed in it: it goes to limbo. */
static int break_loop(struct resync_sink *s, uint64_t parent)
{
	uint64_t above = parent_of(s, parent);
	char name[256];

	if (!above || above == parent || above == HANDLE_LIMBO)
		return -ELOOP;
	int err = name_in(s, above, parent, name);
	if (!err)
		err = sink_evict(s, above, name, parent);
	if (!err)
		sink_dirty(s, above);
	return err;
}

static int place_once(struct resync_sink *s, uint64_t id, uint64_t parent, const char *name)
{
	struct call c = sink_call(ctime_of(s, id));

	return local_place(s->cfg.bottom, &c, id, parent, name);
}

/* ID is known here: it gets the name, which is free or a hidden stranger's. */
static int place(struct resync_sink *s, uint64_t id, uint32_t type, uint64_t parent, const char *name)
{
	struct timespec ctime = ctime_of(s, id);
	uint64_t from = S_ISDIR(type) ? parent_of(s, id) : 0;

	s->changed = true;
	int err = place_once(s, id, parent, name);
	if (err == -EINVAL || err == -ELOOP) {
		err = break_loop(s, parent);
		if (!err)
			err = place_once(s, id, parent, name);
	} else if (err == -EEXIST || err == -ENOTEMPTY) {
		err = sink_strays(s, parent);
		if (!err)
			err = place_once(s, id, parent, name);
	}
	if (err)
		return err;
	put_ctime(s, id, ctime);
	if (from && from != parent && from != HANDLE_LIMBO && id_valid(from)) {
		sink_dirty(s, from);
		sink_tell(s, CHANGE_ATTR, from, NULL, 0);
	}
	sink_tell(s, CHANGE_ENTRY, parent, name, 0);
	return 0;
}

static int make_placeholder(struct resync_sink *s, uint64_t parent, const struct entry *e)
{
	struct attr a = { .mode = e->type | (S_ISDIR(e->type) ? 0700 : 0600) };
	int err = make(s, e->id, parent, e->name, &a, NULL);

	if (err == -EEXIST) {
		err = sink_strays(s, parent);
		if (!err)
			err = make(s, e->id, parent, e->name, &a, NULL);
	}
	sink_tell(s, CHANGE_ENTRY, parent, e->name, 0);
	return err;
}

static int give(struct resync_sink *s, uint64_t parent, const struct entry *e)
{
	struct report missing = { .kind = REPORT_MISSING, .id = e->id, .parent = parent, .bits = e->type };
	struct attr a;
	int err = sink_known(s, e->id, &a);

	if (!err && (a.mode & S_IFMT) == e->type)
		return place(s, e->id, e->type, parent, e->name);
	if (!err)
		err = sink_forget(s, e->id);
	if (err && err != -ESTALE)
		return err;
	err = S_ISREG(e->type) || S_ISDIR(e->type) ? make_placeholder(s, parent, e) : 0;
	snprintf(missing.name, sizeof missing.name, "%s", e->name);
	sink_report(s, missing);
	return err;
}

/* ---- the statements ---- */

static int have_dir(struct resync_sink *s, uint64_t id)
{
	struct attr a = { .mode = S_IFDIR | 0700 };
	struct attr cur;
	int err = sink_known(s, id, &cur);

	if (!err && S_ISDIR(cur.mode))
		return 0;
	if (id == HANDLE_ROOT)
		return err ? err : -EUCLEAN;
	if (!err)
		err = sink_forget(s, id);
	return err && err != -ESTALE ? err : sink_make_in_limbo(s, id, &a, NULL);
}

static int give_all(struct resync_sink *s, uint64_t parent, const struct list *want)
{
	int err = 0;

	for (size_t i = 0; i < want->n && !err; i++)
		if (!want->e[i].matched)
			err = give(s, parent, &want->e[i]);
	return err;
}

int sink_dir(struct resync_sink *s, const struct op *op)
{
	auto_list struct list want = { 0 };
	int err = parse_listed(op, &want);

	if (!err)
		err = have_dir(s, op->id);
	if (!err && !op->off)
		err = sink_strays(s, op->id);
	if (!err)
		err = match_range(s, op, &want);
	return err ? err : give_all(s, op->id, &want);
}

/* The name is made free for ID; 1: it has it already. */
static int clear_name(struct resync_sink *s, const struct op *op)
{
	uint64_t now;
	uint32_t type;
	int err = s->cfg.bottom->ops->resolve(s->cfg.bottom, op->parent, op->name, &now, &type);

	if (err)
		return err == -ENOENT ? 0 : err;
	return now == op->id ? 1 : sink_evict(s, op->parent, op->name, now);
}

static int place_named(struct resync_sink *s, const struct op *op, const char *target)
{
	struct attr cur;
	int err = sink_known(s, op->parent, &cur);

	if (err || !S_ISDIR(cur.mode)) {
		sink_dirty(s, op->parent);
		return err == -ESTALE ? 0 : err;
	}
	err = clear_name(s, op);
	if (err)
		return err < 0 ? err : 0;
	struct timespec mtime = cur.mtime, ctime = cur.ctime;
	err = sink_known(s, op->id, &cur);
	if (!err)
		err = place(s, op->id, cur.mode & S_IFMT, op->parent, op->name);
	else if (err == -ESTALE)
		err = make(s, op->id, op->parent, op->name, &op->attr, target);
	if (!err)
		err = sink_known(s, op->parent, &cur);
	struct attr want = cur;
	want.mtime = mtime;
	want.ctime = ctime;
	if (!err)
		err = sink_set_attr(s, op->parent, &cur, &want);
	sink_tell(s, CHANGE_ENTRY, op->parent, op->name, 0);
	return err;
}

/* A file without a name: kept at the end. One that has a name here is no such file. */
static int place_tmpfile(struct resync_sink *s, const struct op *op)
{
	struct hentry he;
	struct attr cur;
	int err = sink_known(s, op->id, &cur);

	if (!err)
		err = index_get(s->cfg.handles, op->id, &he);
	if (!err && !(he.flags & HENTRY_TMPFILE)) {
		err = sink_forget(s, op->id);
		err = err ? err : -ESTALE;
	}
	if (err == -ESTALE)
		err = sink_make_in_limbo(s, op->id, &op->attr, NULL);
	if (!err && s->round)
		idset_add(&s->tmp_live, op->id);
	return err ? err : local_set_tmpfile(s->cfg.bottom, op->id, true);
}

int sink_place(struct resync_sink *s, const struct op *op)
{
	char target[LAYER_SYMLINK_MAX + 1];

	if (op->blob_len > LAYER_SYMLINK_MAX)
		return -EBADMSG;
	memcpy(target, op->blob, op->blob_len);
	target[op->blob_len] = 0;
	return op->parent == HANDLE_LIMBO ? place_tmpfile(s, op) : place_named(s, op, target);
}

/* ---- forgetting ---- */

struct dirs { uint64_t *id; size_t n, cap; int err; };

static int add_dir(void *arg, const struct hentry *e)
{
	struct dirs *d = arg;

	if (!S_ISDIR(e->type))
		return 0;
	if (d->n == d->cap) {
		size_t cap = d->cap ? d->cap * 2 : 1024;
		uint64_t *p = realloc(d->id, cap * sizeof *p);
		if (!p)
			return d->err = -ENOMEM;
		d->id = p;
		d->cap = cap;
	}
	d->id[d->n++] = e->id;
	return 0;
}

/* Rare (damage, or somebody's hands below us), and a file doesn't know its parents: so all directories are searched. */
int sink_forget(struct resync_sink *s, uint64_t id)
{
	struct dirs d = { 0 };
	char name[256];
	int err = index_each(s->cfg.handles, add_dir, &d);

	if (d.err)
		err = d.err;
	for (size_t i = 0; i < d.n && err >= 0; i++) {
		if (d.id[i] == id || d.id[i] == HANDLE_LIMBO || name_in(s, d.id[i], id, name))
			continue;
		err = sink_evict(s, d.id[i], name, id);
		sink_dirty(s, d.id[i]);
		i--;	/* it may have another name there */
	}
	free(d.id);
	return err < 0 ? err : sink_purge(s, id);
}
