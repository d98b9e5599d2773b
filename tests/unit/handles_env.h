/* Places for the tests of handles/: a state directory and a backing directory that are removed afterwards. */
#ifndef TESTS_UNIT_HANDLES_ENV_H
#define TESTS_UNIT_HANDLES_ENV_H

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "handles/internal.h"

struct place {
	char dir[128];
	struct handles_config cfg;
};

static inline int place_rm_one(const char *p, const struct stat *st, int flag, struct FTW *f)
{
	(void)st, (void)flag, (void)f;
	return remove(p);
}

static inline void place_rm(const char *dir)
{
	nftw(dir, place_rm_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

/* Memory where there is some: these tests open and close, with its flushes, hundreds of times. */
static inline const char *place_base(void)
{
	return access("/dev/shm", W_OK) ? "/tmp" : "/dev/shm";
}

/* STATE and ROOT below a fresh directory in BASE; or in ROOT when that is given. */
static inline void place_make(struct place *p, const char *base, const char *root)
{
	char path[160];

	memset(p, 0, sizeof *p);
	snprintf(p->dir, sizeof p->dir, "%s/handles.XXXXXX", base);
	ck_assert_ptr_nonnull(mkdtemp(p->dir));
	snprintf(path, sizeof path, "%s/state", p->dir);
	ck_assert_int_eq(mkdir(path, 0700), 0);
	p->cfg.state_fd = open(path, O_RDONLY | O_DIRECTORY);
	snprintf(path, sizeof path, "%s/root", p->dir);
	ck_assert_int_eq(mkdir(path, 0755), 0);
	p->cfg.root_fd = open(root ? root : path, O_RDONLY | O_DIRECTORY);
	ck_assert_int_ge(p->cfg.state_fd, 0);
	ck_assert_int_ge(p->cfg.root_fd, 0);
	memcpy(p->cfg.uuid, "0123456789abcdef", UUID_LEN);
	p->cfg.node = 1;
	p->cfg.generation = 77;
}

static inline void place_drop(struct place *p)
{
	close(p->cfg.state_fd);
	close(p->cfg.root_fd);
	place_rm(p->dir);
}

static inline struct handles *must_open(const struct place *p, bool force_rebuild)
{
	struct handles *h = NULL;

	ck_assert_int_eq(handles_open(&p->cfg, force_rebuild, &h), 0);
	return h;
}

/* The root gets its mark and entry, as init does. */
static inline void make_root(struct handles *h)
{
	struct hentry e = { .type = S_IFDIR };

	ck_assert_int_eq(mark_set(h, h->cfg.root_fd, HANDLE_ROOT, &e), 0);
	ck_assert_int_eq(index_put(h, &e), 0);
}

/* xorshift64*: the tests print their seed. */
static inline uint64_t rnd(uint64_t *s)
{
	*s ^= *s >> 12;
	*s ^= *s << 25;
	*s ^= *s >> 27;
	return *s * UINT64_C(0x2545f4914f6cdd1d);
}

#endif
