/*
 * Life of the handle table, and what tells whether the index may be believed.
 *
 * The file `index/valid`, 84 bytes, little-endian, written in place with O_DSYNC (it lies in one sector):
 *
 *	u8  magic[8]	"TFIDX001"
 *	u32 flags	1: closed cleanly; 2: complete (no rebuild was under way)
 *	u8  boot[36]	/proc/sys/kernel/random/boot_id of the last opening
 *	u8  uuid[16]	the volume
 *	u32 node
 *	u64 root	hash of the local handle of the backing root: which file system this index is about
 *	u64 check	XXH3-64 of the bytes before
 *
 * The index is believed when volume, node and root are right, it is complete, and it was closed cleanly or the boot is still the same:
 * then what a killed process stored is in the page cache. Otherwise it is emptied and rebuilt by a walk (walk.c). While
 * the root bears no mark the volume is new: nothing to walk.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

#include "fs/base/cleanup.h"
#include "fs/base/log.h"
#include "handles/internal.h"

enum {
	BOOT_ID_LEN = 36,
	MARKER_BODY = 8 + 4 + BOOT_ID_LEN + UUID_LEN + 4 + 8,
	MARKER_BYTES = MARKER_BODY + 8,
	MARKER_CLEAN = 1,
	MARKER_COMPLETE = 2,
};
static const char marker_magic[8] = { 'T', 'F', 'I', 'D', 'X', '0', '0', '1' };

static int boot_id(char id[BOOT_ID_LEN])
{
	auto_fd int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	return read(fd, id, BOOT_ID_LEN) == BOOT_ID_LEN ? 0 : -EIO;
}

static int marker_write(struct handles *h, uint32_t flags)
{
	char boot[BOOT_ID_LEN];
	struct enc e = { 0 };

	int r = boot_id(boot);
	if (r)
		return r;
	enc_raw(&e, marker_magic, sizeof marker_magic);
	enc_u32(&e, flags);
	enc_raw(&e, boot, sizeof boot);
	enc_raw(&e, h->cfg.uuid, UUID_LEN);
	enc_u32(&e, h->cfg.node);
	enc_u64(&e, h->root_hash);
	if (!e.err)
		enc_u64(&e, XXH3_64bits(e.p, e.len));
	auto_fd int fd = openat(h->index_fd, "valid", O_WRONLY | O_CREAT | O_DSYNC | O_CLOEXEC, 0600);
	if (fd < 0)
		r = -errno;
	else if (e.err)
		r = e.err;
	else if (pwrite(fd, e.p, e.len, 0) != (ssize_t)e.len)
		r = -EIO;
	enc_free(&e);
	return r;
}

/* May the index that the marker speaks of be believed? */
static bool marker_valid(struct handles *h)
{
	unsigned char b[MARKER_BYTES], uuid[UUID_LEN];
	char magic[8], boot[BOOT_ID_LEN], now[BOOT_ID_LEN];

	auto_fd int fd = openat(h->index_fd, "valid", O_RDONLY | O_CLOEXEC);
	if (fd < 0 || pread(fd, b, sizeof b, 0) != (ssize_t)sizeof b)
		return false;
	struct dec d = dec_init(b, sizeof b);
	dec_raw(&d, magic, sizeof magic);
	uint32_t flags = dec_u32(&d);
	dec_raw(&d, boot, sizeof boot);
	dec_raw(&d, uuid, sizeof uuid);
	uint32_t node = dec_u32(&d);
	uint64_t root = dec_u64(&d);
	uint64_t check = dec_u64(&d);
	if (dec_end(&d) || memcmp(magic, marker_magic, sizeof magic) != 0 || check != XXH3_64bits(b, MARKER_BODY))
		return false;
	if (memcmp(uuid, h->cfg.uuid, UUID_LEN) != 0 || node != h->cfg.node || root != h->root_hash)
		return false;
	if (!(flags & MARKER_COMPLETE))
		return false;
	return (flags & MARKER_CLEAN) || (!boot_id(now) && !memcmp(boot, now, sizeof now));
}

/* What the root's mark says: *NEW_VOLUME when it has none. */
static int check_root(struct handles *h, bool *new_volume)
{
	struct local_handle lh = { 0 };
	uint64_t id = 0;

	int r = local_handle_of(h->cfg.root_fd, &lh);
	if (r)
		return r;
	h->root_hash = local_handle_hash(&lh);
	r = mark_get(h, h->cfg.root_fd, &id, NULL);
	*new_volume = r == -ENODATA;
	if (r == -ESTALE)
		log_error("handles: the backing directory is a copy of another one (restored?): the marks in it don't hold");
	if (!r && id != HANDLE_ROOT)
		return -EXDEV;		/* a directory out of the middle of this volume */
	return *new_volume ? 0 : r;
}

static int open_index_dir(struct handles *h)
{
	if (mkdirat(h->cfg.state_fd, "index", 0700) && errno != EEXIST)
		return -errno;
	h->index_fd = openat(h->cfg.state_fd, "index", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return h->index_fd < 0 ? -errno : 0;
}

/* Opens the index as it is or, with *WALK, emptied. The marker is taken back before anything is removed: an empty index must
 * not look like a whole one. */
static int open_or_empty(struct handles *h, bool *walk)
{
	int r = *walk ? 0 : index_open(&h->ix, h->index_fd, true);

	if (r == -EUCLEAN) {
		log_warn("handles: index: damaged");
		*walk = true;
	}
	if (!*walk)
		return r;
	r = marker_write(h, 0);
	return r ? r : index_open(&h->ix, h->index_fd, false);
}

/* Opens the index, and starts the walk when it can't be believed. */
static int open_index(struct handles *h, bool new_volume, bool force_rebuild)
{
	bool walk = force_rebuild || !marker_valid(h);

	int r = open_or_empty(h, &walk);
	if (r)
		return r;
	walk = walk && !new_volume;
	atomic_store(&h->ix.rebuilding, walk);
	r = marker_write(h, walk ? 0 : MARKER_COMPLETE);
	if (!r && walk) {
		log_info("handles: index: not usable or not there: it is rebuilt by walking the backing directory");
		r = walk_start(h, &h->walk);
	}
	if (!r && !walk)
		r = index_settle(h);
	if (r)
		index_close(&h->ix);
	return r;
}

int handles_open(const struct handles_config *cfg, bool force_rebuild, struct handles **out)
{
	bool new_volume;
	struct handles *h;

	assert(cfg->node >= 1 && cfg->node <= NODE_MAX && cfg->generation);
	h = aligned_alloc(64, sizeof *h);
	if (!h)
		return -ENOMEM;
	memset(h, 0, sizeof *h);
	h->cfg = *cfg;
	h->index_fd = -1;
	int r = check_root(h, &new_volume);
	if (!r)
		r = open_index_dir(h);
	if (!r)
		r = ids_open(&h->ids, cfg, new_volume);
	if (!r) {
		r = open_index(h, new_volume, force_rebuild);
		if (r)
			ids_close(&h->ids);
	}
	if (r) {
		if (h->index_fd >= 0)
			close(h->index_fd);
		free(h);
		return r;
	}
	*out = h;
	return 0;
}

void handles_rebuild_done(struct handles *h, bool complete)
{
	int r = index_rebuilt(&h->ix);

	if (!r && complete)
		r = marker_write(h, MARKER_COMPLETE);
	if (r || !complete)
		log_error("handles: rebuild: ended%s%s; the next start walks again", r ? ": " : " with errors", r ? strerror(-r) : "");
	else
		log_info("handles: rebuild: complete");
	atomic_store(&h->incomplete, r || !complete);
}

void handles_close(struct handles *h)
{
	if (!h)
		return;
	if (h->walk)
		walk_stop(h->walk);
	bool complete = !atomic_load(&h->ix.rebuilding) && !atomic_load(&h->incomplete);
	int r = index_close(&h->ix);
	if (!r)
		r = marker_write(h, MARKER_CLEAN | (complete ? MARKER_COMPLETE : 0));
	if (r)
		log_error("handles: index: not closed cleanly: %s; it will be rebuilt after a reboot", strerror(-r));
	ids_close(&h->ids);
	close(h->index_fd);
	free(h);
}

int handles_checkpoint(struct handles *h)
{
	int r = index_fold(&h->ix);

	return r ? r : index_sync(&h->ix);
}

bool handles_rebuilding(struct handles *h, uint64_t *done)
{
	if (done)
		*done = h->walk ? walk_found(h->walk) : 0;
	return atomic_load(&h->ix.rebuilding);
}

uint32_t handles_generation(const struct handles *h)
{
	return h->cfg.generation;
}
