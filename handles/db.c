/*
 * The LMDB environment of the index: directory `index` of the state directory, four databases:
 *
 *	"id"	id -> entry
 *	"ino"	local inode number -> id (8 bytes)
 *	"tomb"	ids removed while a rebuild runs -> empty: what the walk must not bring back
 *	"meta"	enum db_meta -> u64
 *
 * Keys are MDB_INTEGERKEY (host byte order, as LMDB's own pages), values little-endian. An entry:
 *
 *	u32 type, u32 flags, u32 nsub, u64 ino, i64 ctime seconds, u32 ctime nanoseconds,
 *	i32 handle type, u16 handle length, handle bytes
 *
 * Commits are not synced (MDB_NOSYNC): a killed process loses nothing, and after a crash of the machine
 * the index is rebuilt anyway unless it was closed cleanly.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "handles/internal.h"

enum { DB_FORMAT_VERSION = 1 };

int db_err(int rc)
{
	if (rc == MDB_NOTFOUND)
		return -ENOENT;
	if (rc == MDB_MAP_FULL)
		return -EXFULL;
	if (rc == MDB_MAP_RESIZED || rc == MDB_CORRUPTED || rc == MDB_PAGE_NOTFOUND || rc == MDB_INVALID || rc == MDB_VERSION_MISMATCH)
		return -EUCLEAN;
	return rc < 0 ? -EIO : -rc;
}

static MDB_val val(const void *p, size_t len)
{
	return (MDB_val){ .mv_size = len, .mv_data = (void *)(uintptr_t)p };
}

static int open_databases(struct db *db)
{
	MDB_txn *txn;

	int rc = mdb_txn_begin(db->env, NULL, 0, &txn);
	if (rc)
		return db_err(rc);
	rc = mdb_dbi_open(txn, "id", MDB_CREATE | MDB_INTEGERKEY, &db->by_id);
	if (!rc)
		rc = mdb_dbi_open(txn, "ino", MDB_CREATE | MDB_INTEGERKEY, &db->by_ino);
	if (!rc)
		rc = mdb_dbi_open(txn, "tomb", MDB_CREATE | MDB_INTEGERKEY, &db->tombs);
	if (!rc)
		rc = mdb_dbi_open(txn, "dead", MDB_CREATE | MDB_INTEGERKEY, &db->dead);
	if (!rc)
		rc = mdb_dbi_open(txn, "meta", MDB_CREATE | MDB_INTEGERKEY, &db->meta);
	if (rc) {
		mdb_txn_abort(txn);
		return db_err(rc);
	}
	return db_err(mdb_txn_commit(txn));
}

/* A new environment gets the version; another version is not ours to read. */
static int check_format(struct db *db)
{
	uint64_t version;
	MDB_txn *txn;

	int r = db_meta_get(db, DB_FORMAT, &version);
	if (r)
		return r;
	if (version)
		return version == DB_FORMAT_VERSION ? 0 : -EUCLEAN;
	int rc = mdb_txn_begin(db->env, NULL, 0, &txn);
	if (rc)
		return db_err(rc);
	r = db_meta_put(db, txn, DB_FORMAT, DB_FORMAT_VERSION);
	if (r) {
		mdb_txn_abort(txn);
		return r;
	}
	return db_err(mdb_txn_commit(txn));
}

int db_open(struct db *db, int dir_fd, size_t map_bytes)
{
	char path[64];
	int dead;

	memset(db, 0, sizeof *db);
	int rc = mdb_env_create(&db->env);
	if (rc)
		return db_err(rc);
	snprintf(path, sizeof path, "/proc/self/fd/%d", dir_fd);
	rc = mdb_env_set_maxdbs(db->env, 5);
	if (!rc)
		rc = mdb_env_set_maxreaders(db->env, DB_READERS);
	if (!rc)
		rc = mdb_env_set_mapsize(db->env, map_bytes);
	if (!rc)
		rc = mdb_env_open(db->env, path, MDB_NOSYNC | MDB_NOTLS, 0600);
	if (!rc)
		rc = mdb_reader_check(db->env, &dead);
	int r = rc ? db_err(rc) : open_databases(db);
	if (!r)
		r = check_format(db);
	if (r)
		db_close(db);
	return r;
}

void db_close(struct db *db)
{
	if (db->env)
		mdb_env_close(db->env);
	db->env = NULL;
}

int db_grow(struct db *db, size_t *bytes)
{
	MDB_envinfo info;

	int rc = mdb_env_info(db->env, &info);
	if (rc)
		return db_err(rc);
	*bytes = info.me_mapsize * 2;
	return db_err(mdb_env_set_mapsize(db->env, *bytes));
}

/* ---- entries ---- */

struct entry_bytes {
	unsigned char b[DB_ENTRY_MAX];
	size_t len;
};

static void put_le(struct entry_bytes *e, uint64_t v, unsigned n)
{
	for (unsigned i = 0; i < n; i++)
		e->b[e->len++] = (unsigned char)(v >> 8 * i);
}

static void entry_encode(const struct hentry *e, struct entry_bytes *out)
{
	_Static_assert(4 + 4 + 4 + 8 + 8 + 4 + 4 + 2 + LOCAL_HANDLE_MAX <= DB_ENTRY_MAX, "an entry fits");
	out->len = 0;
	put_le(out, e->type, 4);
	put_le(out, e->flags, 4);
	put_le(out, e->nsub, 4);
	put_le(out, e->ino, 8);
	put_le(out, (uint64_t)e->ctime.tv_sec, 8);
	put_le(out, (uint64_t)e->ctime.tv_nsec, 4);
	put_le(out, (uint32_t)e->lh.type, 4);
	put_le(out, e->lh.len, 2);
	memcpy(out->b + out->len, e->lh.bytes, e->lh.len);
	out->len += e->lh.len;
}

int db_decode(uint64_t id, MDB_val v, struct hentry *out)
{
	struct dec d = dec_init(v.mv_data, v.mv_size);

	out->id = id;
	out->type = dec_u32(&d);
	out->flags = dec_u32(&d);
	out->nsub = dec_u32(&d);
	out->ino = dec_u64(&d);
	out->ctime = dec_time(&d);
	out->lh.type = (int32_t)dec_u32(&d);
	out->lh.len = dec_u16(&d);
	if (out->lh.len > LOCAL_HANDLE_MAX)
		return -EUCLEAN;
	dec_raw(&d, out->lh.bytes, out->lh.len);
	memset(out->lh.bytes + out->lh.len, 0, LOCAL_HANDLE_MAX - (size_t)out->lh.len);
	return dec_end(&d) ? -EUCLEAN : 0;
}

int db_get(struct db *db, MDB_txn *txn, uint64_t id, struct hentry *out)
{
	MDB_val k = val(&id, sizeof id), v;

	int rc = mdb_get(txn, db->by_id, &k, &v);
	return rc ? db_err(rc) : db_decode(id, v, out);
}

int db_get_ino(struct db *db, MDB_txn *txn, uint64_t ino, uint64_t *id)
{
	MDB_val k = val(&ino, sizeof ino), v;

	int rc = mdb_get(txn, db->by_ino, &k, &v);
	if (rc)
		return db_err(rc);
	struct dec d = dec_init(v.mv_data, v.mv_size);
	*id = dec_u64(&d);
	return dec_end(&d) ? -EUCLEAN : 0;
}

/* Removes the mapping of INO when it means ID. */
static int ino_forget(struct db *db, MDB_txn *txn, uint64_t ino, uint64_t id)
{
	MDB_val k = val(&ino, sizeof ino);
	uint64_t now = 0;

	int r = db_get_ino(db, txn, ino, &now);
	if (r || now != id)
		return r == -ENOENT ? 0 : r;
	return db_err(mdb_del(txn, db->by_ino, &k, NULL));
}

static int ino_claim(struct db *db, MDB_txn *txn, uint64_t ino, uint64_t id)
{
	struct entry_bytes b = { .len = 0 };
	MDB_val k = val(&ino, sizeof ino);

	put_le(&b, id, 8);
	MDB_val v = val(b.b, b.len);
	return db_err(mdb_put(txn, db->by_ino, &k, &v, 0));
}

int db_put(struct db *db, MDB_txn *txn, const struct hentry *e, bool claim)
{
	struct entry_bytes b;
	struct hentry old = { 0 };
	MDB_val k = val(&e->id, sizeof e->id);

	entry_encode(e, &b);
	MDB_val v = val(b.b, b.len);
	int rc = mdb_put(txn, db->by_id, &k, &v, MDB_NOOVERWRITE);
	int r = db_err(rc);
	if (rc == MDB_KEYEXIST) {
		r = db_decode(e->id, v, &old);
		if (!r && claim && old.ino != e->ino)
			r = ino_forget(db, txn, old.ino, e->id);
		v = val(b.b, b.len);
		if (!r)
			r = db_err(mdb_put(txn, db->by_id, &k, &v, 0));
	}
	if (!r && claim)
		r = ino_claim(db, txn, e->ino, e->id);
	v = val("", 0);
	return r || !(e->flags & HENTRY_DEAD) ? r : db_err(mdb_put(txn, db->dead, &k, &v, 0));
}

int db_del(struct db *db, MDB_txn *txn, uint64_t id, bool tomb)
{
	MDB_val k = val(&id, sizeof id), none = val("", 0);
	struct hentry old = { 0 };

	int r = db_get(db, txn, id, &old);
	if (!r)
		r = ino_forget(db, txn, old.ino, id);
	if (!r)
		r = db_err(mdb_del(txn, db->by_id, &k, NULL));
	if (!r && old.flags & HENTRY_DEAD)
		r = db_err(mdb_del(txn, db->dead, &k, NULL));
	if (r == -ENOENT)
		r = 0;
	return r || !tomb ? r : db_err(mdb_put(txn, db->tombs, &k, &none, 0));
}

bool db_has_tomb(struct db *db, MDB_txn *txn, uint64_t id)
{
	MDB_val k = val(&id, sizeof id), v;

	return !mdb_get(txn, db->tombs, &k, &v);
}

int db_drop_tombs(struct db *db)
{
	MDB_txn *txn;

	int rc = mdb_txn_begin(db->env, NULL, 0, &txn);
	if (rc)
		return db_err(rc);
	rc = mdb_drop(txn, db->tombs, 0);
	if (rc) {
		mdb_txn_abort(txn);
		return db_err(rc);
	}
	return db_err(mdb_txn_commit(txn));
}

static int bury(struct db *db, MDB_txn *txn)
{
	MDB_val k, v;
	MDB_cursor *cur;
	uint64_t id;

	for (int r = 0; !r;) {
		int rc = mdb_cursor_open(txn, db->dead, &cur);
		if (rc)
			return db_err(rc);
		rc = mdb_cursor_get(cur, &k, &v, MDB_FIRST);
		mdb_cursor_close(cur);
		if (rc)
			return rc == MDB_NOTFOUND ? 0 : db_err(rc);
		memcpy(&id, k.mv_data, sizeof id);
		r = db_del(db, txn, id, false);
		k = val(&id, sizeof id);
		rc = r ? 0 : mdb_del(txn, db->dead, &k, NULL);
		if (r || (rc && rc != MDB_NOTFOUND))
			return r ? r : db_err(rc);
	}
	return 0;
}

int db_bury(struct db *db)
{
	MDB_txn *txn;

	int rc = mdb_txn_begin(db->env, NULL, 0, &txn);
	if (rc)
		return db_err(rc);
	int r = bury(db, txn);
	if (r) {
		mdb_txn_abort(txn);
		return r;
	}
	return db_err(mdb_txn_commit(txn));
}

/* ---- numbers ---- */

int db_meta_get(struct db *db, enum db_meta key, uint64_t *value)
{
	uint64_t n = key;
	MDB_val k = val(&n, sizeof n), v;
	MDB_txn *txn;

	*value = 0;
	int rc = mdb_txn_begin(db->env, NULL, MDB_RDONLY, &txn);
	if (rc)
		return db_err(rc);
	rc = mdb_get(txn, db->meta, &k, &v);
	int r = rc == MDB_NOTFOUND ? 0 : db_err(rc);
	if (!rc) {
		struct dec d = dec_init(v.mv_data, v.mv_size);
		*value = dec_u64(&d);
		r = dec_end(&d) ? -EUCLEAN : 0;
	}
	mdb_txn_abort(txn);
	return r;
}

int db_meta_put(struct db *db, MDB_txn *txn, enum db_meta key, uint64_t value)
{
	struct entry_bytes b = { .len = 0 };
	uint64_t n = key;
	MDB_val k = val(&n, sizeof n);

	put_le(&b, value, 8);
	MDB_val v = val(b.b, b.len);
	return db_err(mdb_put(txn, db->meta, &k, &v, 0));
}
