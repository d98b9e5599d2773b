/*
 * Locks through the mount. fcntl locks belong to the kernel's lock owner (a process, or an open file for F_OFD_*), flock locks to the open file.
 *
 * A process's fcntl locks end at any of its closes of the file: FLUSH, which is always sent and names the owner. Those of an open file
 * (F_OFD_SETLK) are never flushed and the kernel doesn't say which kind it asks for. So each open file remembers the owners that locked through it;
 * a FLUSH strikes its owner off; who is left when it is released can only be the open file itself.
 *
 * A blocking request keeps its fuse_req_t in the lock table and no thread. It is answered once, by who takes it out of the table:
 * the grant (granted) or the interrupt (lock_cancel returned 0). wait_mu keeps a grant back until the interrupt function has been registered; libfuse may
 * call that function from within the registration, where the request must not be answered (it still holds the request's mutex): then it
 * only leaves a note.
 */
#include "fs/fuse_front.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/file.h>

#include "fs/base/cleanup.h"

static struct lock_owner owner(uint64_t key)
{
	return (struct lock_owner){ .front = ORIGIN_FUSE, .key = key };
}

/* l_len 0 means to the end of file. */
static int range_of(const struct flock *lk, struct lock_range *r)
{
	if (lk->l_start < 0 || lk->l_len < 0)
		return -EINVAL;
	*r = (struct lock_range){ .kind = LOCK_POSIX_RANGE, .mode = lk->l_type == F_WRLCK ? LOCK_EXCLUSIVE : LOCK_SHARED,
				  .start = (uint64_t)lk->l_start, .end = UINT64_MAX, .pid = lk->l_pid };
	if (lk->l_len)
		r->end = r->start + (uint64_t)lk->l_len - 1;
	return 0;
}

void fuse_op_getlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lk)
{
	struct lock_range want, found;
	int r = range_of(lk, &want);

	if (r) {
		fuse_reply(req, r);
		return;
	}
	lk->l_type = F_UNLCK;
	if (!lock_test(front_of(req)->cfg.locks, ino, owner(fi->lock_owner), &want, &found, NULL)) {
		lk->l_type = found.mode == LOCK_EXCLUSIVE ? F_WRLCK : F_RDLCK;
		lk->l_start = (off_t)(found.start > INT64_MAX ? INT64_MAX : found.start);	/* an NFS client's may begin where no off_t reaches */
		lk->l_len = found.end >= INT64_MAX ? 0 : (off_t)(found.end - found.start + 1);
		lk->l_pid = found.pid;
	}
	fuse_reply_lock(req, lk);
}

/* ---- who locked through which open file ---- */

static int owners_add(struct fuse_front *f, struct fh *h, uint64_t key)
{
	auto_lock(&f->open_mu);
	uint64_t *grown;

	for (unsigned i = 0; i < h->nowners; i++)
		if (h->owners[i] == key)
			return 0;
	grown = realloc(h->owners, (h->nowners + 1) * sizeof *grown);
	if (!grown)
		return -ENOLCK;
	h->owners = grown;
	h->owners[h->nowners++] = key;
	return 0;
}

static void owners_remove(struct fuse_front *f, struct fh *h, uint64_t key)
{
	auto_lock(&f->open_mu);
	for (unsigned i = 0; i < h->nowners; i++)
		if (h->owners[i] == key) {
			h->owners[i] = h->owners[--h->nowners];
			return;
		}
}

void fuse_locks_flush(struct fuse_front *f, uint64_t id, struct fuse_file_info *fi)
{
	lock_drop_owner(f->cfg.locks, id, owner(fi->lock_owner), LOCK_POSIX_RANGE);
	if (fh_of(fi)->owners)
		owners_remove(f, fh_of(fi), fi->lock_owner);
}

void fuse_locks_release(struct fuse_front *f, uint64_t id, struct fuse_file_info *fi)
{
	struct fh *h = fh_of(fi);

	if (fi->flock_release)
		lock_drop_owner(f->cfg.locks, id, owner(fi->lock_owner), LOCK_WHOLE);
	for (unsigned i = 0; i < h->nowners; i++)
		lock_drop_owner(f->cfg.locks, id, owner(h->owners[i]), LOCK_POSIX_RANGE);
	free(h->owners);
	h->owners = NULL;
}

/* ---- waiting ---- */

static void granted(void *arg, int err)
{
	fuse_req_t req = arg;
	struct fuse_front *f = front_of(req);

	auto_lock(&f->wait_mu);
	fuse_reply(req, err);
}

static void interrupted(fuse_req_t req, void *ticket)
{
	if (fuse_self && fuse_self->registering)
		fuse_self->interrupted = true;
	else if (!lock_cancel(front_of(req)->cfg.locks, (uint64_t)(uintptr_t)ticket))
		fuse_reply(req, -EINTR);
}

static void lock_blocking(fuse_req_t req, uint64_t id, struct lock_owner o, const struct lock_range *want)
{
	struct fuse_front *f = front_of(req);
	uint64_t ticket;
	int r;

	auto_lock(&f->wait_mu);
	r = lock_set_wait(f->cfg.locks, id, o, want, granted, req, &ticket);
	if (r != -EINPROGRESS) {
		fuse_reply(req, r);
		return;
	}
	fuse_self->interrupted = false;
	fuse_self->registering = true;
	fuse_req_interrupt_func(req, interrupted, (void *)(uintptr_t)ticket);
	fuse_self->registering = false;
	/* A grant on its way takes the request out of the table first: then it answers. */
	if (fuse_self->interrupted && !lock_cancel(f->cfg.locks, ticket))
		fuse_reply(req, -EINTR);
}

void fuse_op_setlk(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, struct flock *lk, int sleep)
{
	struct fuse_front *f = front_of(req);
	struct lock_owner o = owner(fi->lock_owner);
	struct lock_range want;
	int r = range_of(lk, &want);

	if (!r && lk->l_type == F_UNLCK)
		fuse_reply(req, lock_clear(f->cfg.locks, ino, o, &want));
	else if (r || (r = owners_add(f, fh_of(fi), fi->lock_owner)))
		fuse_reply(req, r);
	else if (sleep)
		lock_blocking(req, ino, o, &want);
	else
		fuse_reply(req, lock_set(f->cfg.locks, ino, o, &want));
}

void fuse_op_flock(fuse_req_t req, fuse_ino_t ino, struct fuse_file_info *fi, int op)
{
	struct fuse_front *f = front_of(req);
	struct lock_owner o = owner(fi->lock_owner);
	struct lock_range want = { .kind = LOCK_WHOLE, .mode = op & LOCK_EX ? LOCK_EXCLUSIVE : LOCK_SHARED, .end = UINT64_MAX,
				   .pid = fuse_req_ctx(req)->pid };

	if (op & LOCK_UN) {
		lock_drop_owner(f->cfg.locks, ino, o, LOCK_WHOLE);
		fuse_reply(req, 0);
	} else if (op & LOCK_NB) {
		fuse_reply(req, lock_set(f->cfg.locks, ino, o, &want));
	} else {
		lock_blocking(req, ino, o, &want);
	}
}
