/*
 * A local layer over ext4, xfs and tmpfs, for tests. The file systems are made once per program, in a mount namespace of its own (so nothing
 * is left behind); every test gets a fresh backing directory and state.
 */
#ifndef TESTS_UNIT_LOCAL_ENV_H
#define TESTS_UNIT_LOCAL_ENV_H

#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/local.h"

static const char *const env_fs[] = { "ext4", "xfs", "tmpfs" };
enum { ENV_FS = 3 };
static char env_top[] = "/tmp/local.XXXXXX";
static atomic_int env_counter;
static pid_t env_owner;

struct env {
	char root[256], state[256];	/* paths */
	int root_fd, state_fd;
	struct handles *h;
	struct objlocks *locks;
	struct layer *l;
	struct volume_limits lim;
	struct local_config cfg;
	unsigned node;
};

static inline int env_sh(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
static inline int env_sh(const char *fmt, ...)
{
	char cmd[2048];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	return system(cmd);
}

static inline void env_cleanup(void)
{
	if (getpid() != env_owner)
		return;
	if (env_sh("cd / && umount -l %s/mnt/* %s 2>/dev/null; rmdir %s", env_top, env_top, env_top))
		fprintf(stderr, "%s: not removed\n", env_top);
}

/* Once per program. False: tests can't run here (said loudly). */
static inline bool env_setup(void)
{
	struct rlimit rl = { 65536, 65536 };
	if (geteuid() || unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL)) {
		fprintf(stderr, "# SKIPPED: local layer: needs root\n");
		return false;
	}
	setrlimit(RLIMIT_NOFILE, &rl);
	umask(0);
	signal(SIGPIPE, SIG_IGN);
	if (!mkdtemp(env_top) || mount("none", env_top, "tmpfs", 0, "size=4g"))
		return false;
	env_owner = getpid();
	atexit(env_cleanup);
	int r = env_sh("cd %s && mkdir -p mnt/ext4 mnt/xfs mnt/tmpfs state && truncate -s 600M ext4.img && truncate -s 600M xfs.img &&"
		       "mkfs.ext4 -q ext4.img && mkfs.xfs -q xfs.img && mount -o loop ext4.img mnt/ext4 && mount -o loop xfs.img mnt/xfs &&"
		       "mount -t tmpfs none mnt/tmpfs", env_top);
	if (r)
		fprintf(stderr, "# SKIPPED: local layer: loop mounts can't be made here\n");
	return !r;
}

static inline void env_start(struct env *e, bool rebuild)
{
	struct handles_config hc = { .state_fd = e->state_fd, .root_fd = e->root_fd, .uuid = "0123456789abcdef", .node = e->node,
				     .generation = 77 };
	ck_assert_int_eq(handles_open(&hc, rebuild, &e->h), 0);
	ck_assert_int_eq(objlocks_new(&e->locks), 0);
	e->cfg.root_fd = e->root_fd;
	e->cfg.handles = e->h;
	e->cfg.locks = e->locks;
	memcpy(e->cfg.dir_key, "abcdefghijklmnop", 16);
	ck_assert_int_eq(local_new(&e->cfg, &e->l), 0);
}

static inline void env_stop(struct env *e)
{
	e->l->ops->destroy(e->l);
	objlocks_free(e->locks);
	handles_close(e->h);
}

static inline void env_open_cfg(struct env *e, int fs, const struct local_config *cfg)
{
	int n = atomic_fetch_add(&env_counter, 1);
	*e = (struct env){ .node = 1 };
	if (cfg)
		e->cfg = *cfg;
	snprintf(e->root, sizeof(e->root), "%s/mnt/%s/%d.%d", env_top, env_fs[fs], (int)getpid(), n);
	snprintf(e->state, sizeof(e->state), "%s/state/%s.%d.%d", env_top, env_fs[fs], (int)getpid(), n);
	ck_assert_int_eq(mkdir(e->root, 0755), 0);
	ck_assert_int_eq(mkdir(e->state, 0700), 0);
	e->root_fd = open(e->root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	e->state_fd = open(e->state, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(e->root_fd, 0);
	ck_assert_int_ge(e->state_fd, 0);
	env_start(e, false);
}

static inline void env_open(struct env *e, int fs) { env_open_cfg(e, fs, NULL); }

static inline void env_close(struct env *e)
{
	env_stop(e);
	close(e->root_fd);
	close(e->state_fd);
	env_sh("chattr -R -ia %s 2>/dev/null; rm -rf %s %s", e->root, e->root, e->state);
}

/* Forgets all descriptors and starts anew over the same tree: every object is cold. */
static inline void env_restart(struct env *e, bool rebuild)
{
	env_stop(e);
	env_start(e, rebuild);
}

/* ---- short forms ---- */

static inline struct call env_call(void)
{
	return (struct call){ .origin = ORIGIN_FUSE, .uid = 1000, .gid = 1000, .umask = 022 };
}
#define CALL (&(struct call){ .origin = ORIGIN_FUSE, .uid = 1000, .gid = 1000, .umask = 022 })

static inline struct attr env_mk(struct env *e, uint64_t parent, const char *name, uint32_t mode)
{
	struct attr a = { 0 };
	struct create cr = { .mode = mode, .target = S_ISLNK(mode) ? "target" : NULL };
	int err = e->l->ops->create(e->l, CALL, parent, name, &cr, 0, &a, NULL);
	ck_assert_msg(!err, "create %s: %s", name, strerror(-err));
	return a;
}

static inline struct attr env_attr(struct env *e, uint64_t id)
{
	struct attr a = { 0 };
	int err = e->l->ops->getattr(e->l, CALL, id, NULL, &a);
	ck_assert_msg(!err, "getattr %llx: %s", (unsigned long long)id, strerror(-err));
	return a;
}

static inline int env_lookup(struct env *e, uint64_t parent, const char *name, struct attr *a)
{
	return e->l->ops->lookup(e->l, CALL, parent, name, a);
}

static inline struct file *env_open_file(struct env *e, uint64_t id, int flags)
{
	struct file *f = NULL;
	int err = e->l->ops->open(e->l, CALL, id, flags, &f);
	ck_assert_msg(!err, "open: %s", strerror(-err));
	return f;
}

static inline ssize_t env_write(struct env *e, struct file *f, const void *p, size_t len, uint64_t off)
{
	return e->l->ops->write(e->l, CALL, f, &(struct wdata){ .p = p, .len = len }, off, 0, NULL);
}

static inline void env_release(struct env *e, struct file *f)
{
	ck_assert_int_eq(e->l->ops->release(e->l, CALL, f), 0);
}

static inline int env_run(Suite *s)
{
	SRunner *sr = srunner_create(s);
	srunner_run_all(sr, CK_ENV);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}

#endif
