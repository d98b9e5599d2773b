/* nfsuser: an ordinary user's work on an NFS server, without mounting anything and without being root: libnfs as applications use it, which
 * reconnects by itself and sends again what was not answered.
 *
 *   nfsuser HOST PORT EXPORT NAME PROGRESS_FILE        until SIGTERM; NAME: of a directory to be made there
 *
 * Round after round: locks a file, copies a file of 256 KiB into the directory (write, fsync), renames it to its name, compares it, unlocks, lists the
 * directory: every file that was copied must be there once; beyond 40 the oldest is removed. The number of rounds done and the longest wait for a single
 * operation so far (ms) are kept in PROGRESS_FILE. At the end: a line of totals. Errors go to standard error, status 1: there were some. */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <unistd.h>
#include <nfsc/libnfs.h>
#include <nfsc/libnfs-raw.h>
#include <nfsc/libnfs-raw-nlm.h>
#include "tests/tools/tool.h"

enum { KEEP = 40, FILE_BYTES = 256 << 10, LOCK_TRIES = 500, NLM_VERSION = 4 };

/* Of libnfs, but in none of its headers. */
void rpc_set_autoreconnect(struct rpc_context *rpc, int num_retries);

static struct {
	const char *host, *export, *name;
	int port, progress;
} opt;
static struct nfs_context *nfs;
static struct rpc_context *nlm;
static struct nfsfh *lock_file;
static volatile sig_atomic_t stop;
static unsigned long long operations, errors, rounds;
static double longest, started, began;

static void op_begins(void) { began = now_s(); }

/* What every operation ends with: the clock, and whether it went wrong. */
static bool op_ended(const char *what, bool good, const char *why)
{
	double took = now_s() - began;

	operations++;
	if (took > longest)
		longest = took;
	if (good)
		return true;
	errors++;
	fprintf(stderr, "nfsuser: after %.2f s: %s: %s\n", now_s() - started, what, why);
	return false;
}

#define DO(what, call) (op_begins(), op_ended(what, (call) >= 0, nfs_get_error(nfs)))

/* ---- locks: libnfs has the calls, but no file to lock ---- */

struct lock_answer {
	bool done;
	uint32_t status;
};

static void lock_answered(struct rpc_context *rpc, int status, void *data, void *arg)
{
	struct lock_answer *a = arg;

	(void)rpc;
	a->done = true;
	a->status = status == RPC_STATUS_SUCCESS ? data ? (uint32_t)((NLM4_LOCKres *)data)->status : 0 : UINT32_MAX;
}

static bool wait_answer(struct lock_answer *a)
{
	while (!a->done) {
		struct pollfd pfd = { .fd = rpc_get_fd(nlm), .events = (short)rpc_which_events(nlm) };

		poll(&pfd, 1, 100);
		if (rpc_service(nlm, pfd.revents) < 0)
			return false;
	}
	return true;
}

static bool connect_lock_manager(void)
{
	struct lock_answer a = { 0 };

	nlm = rpc_init_context();
	if (rpc_connect_port_async(nlm, opt.host, opt.port, NLM_PROGRAM, NLM_VERSION, lock_answered, &a) != 0 || !wait_answer(&a) || a.status)
		return false;
	rpc_set_autoreconnect(nlm, -1); /* connecting has switched it off */
	return true;
}

/* LOCK or UNLOCK of the whole lock file; what the lock manager says. */
static uint32_t lock_call(bool lock)
{
	struct nfs_handle {
		int len;
		char *val;
	} *fh = (void *)nfs_get_fh(lock_file);
	char cookie[] = "user", *owner = (char *)opt.name;
	nlm4_lock what = { .caller_name = owner, .fh = { { (u_int)fh->len, fh->val } }, .oh = owner, .svid = 1 };
	NLM4_LOCKargs l = { .cookie = { { 4, cookie } }, .exclusive = 1, .lock = what };
	NLM4_UNLOCKargs u = { .cookie = { { 4, cookie } }, .lock = what };
	struct lock_answer a = { 0 };

	if ((lock ? rpc_nlm4_lock_async(nlm, lock_answered, &l, &a) : rpc_nlm4_unlock_async(nlm, lock_answered, &u, &a)) != 0 || !wait_answer(&a))
		return UINT32_MAX;
	return a.status;
}

/* A server whose role changes asks to come again (DENIED_GRACE_PERIOD). */
static bool lock_or_unlock(bool lock)
{
	uint32_t s = 0;
	char why[256];

	op_begins();
	for (int i = 0; i < LOCK_TRIES; i++) {
		s = lock_call(lock);
		if (s != NLM4_DENIED_GRACE_PERIOD)
			break;
		usleep(20000);
	}
	snprintf(why, sizeof why, "not granted: status %d, %s", (int)s, rpc_get_error(nlm));
	return op_ended(lock ? "lock" : "unlock", s == NLM4_GRANTED, why);
}

/* ---- the work ---- */

static unsigned char data[FILE_BYTES], read_back[FILE_BYTES];

static void fill(unsigned long long n)
{
	uint64_t rng = rng_seed(n, 0);

	for (size_t i = 0; i < FILE_BYTES; i += 8) {
		uint64_t v = rng_next(&rng);

		memcpy(data + i, &v, 8);
	}
}

static void copy_in(const char *temporary, const char *final)
{
	struct nfsfh *f;

	if (!DO("create", nfs_open2(nfs, temporary, O_CREAT | O_EXCL | O_RDWR, 0644, &f)))
		return;
	for (size_t off = 0; off < FILE_BYTES; off += 65536)
		DO("write", nfs_pwrite(nfs, f, off, 65536, data + off));
	DO("fsync", nfs_fsync(nfs, f));
	DO("rename", nfs_rename(nfs, temporary, final));
	DO("close", nfs_close(nfs, f));
}

static void compare(const char *path)
{
	struct nfsfh *f;
	int n = 0;

	if (!DO("open", nfs_open(nfs, path, O_RDONLY, &f)))
		return;
	for (int off = 0; off < FILE_BYTES && DO("read", n = nfs_pread(nfs, f, (uint64_t)off, 65536, read_back + off)) && n > 0; off += n)
		;
	op_begins();
	op_ended("compare", !memcmp(data, read_back, FILE_BYTES), "the contents are not what was written");
	DO("close", nfs_close(nfs, f));
}

/* The files first...last are there, each once. */
static void list(unsigned long long first, unsigned long long last)
{
	struct nfsdir *d;
	struct nfsdirent *e;
	unsigned long long seen = 0, n;

	if (!DO("list", nfs_opendir(nfs, opt.name, &d)))
		return;
	while ((e = nfs_readdir(nfs, d)))
		if (sscanf(e->name, "file-%llu", &n) == 1 && n >= first && n <= last)
			seen++;
	nfs_closedir(nfs, d);
	op_begins();
	op_ended("list", seen == last - first + 1, "not all files that were copied, or some twice");
}

static void one_round(unsigned long long n)
{
	char *temporary = xasprintf("/%s/copying", opt.name), *final = xasprintf("/%s/file-%llu", opt.name, n), *old = NULL;

	fill(n);
	if (!lock_or_unlock(true))
		usleep(100000);
	copy_in(temporary, final);
	compare(final);
	lock_or_unlock(false);
	if (n >= KEEP) {
		old = xasprintf("/%s/file-%llu", opt.name, n - KEEP);
		DO("remove", nfs_unlink(nfs, old));
	}
	list(n >= KEEP ? n - KEEP + 1 : 0, n);
	free(temporary);
	free(final);
	free(old);
}

static void tell_progress(void)
{
	char text[64];

	snprintf(text, sizeof text, "%10llu %10.0f\n", rounds, longest * 1000);
	if (pwrite(opt.progress, text, strlen(text), 0) < 0)
		die("progress");
}

static void on_signal(int sig)
{
	(void)sig;
	stop = 1;
}

static void begin(void)
{
	char *path = xasprintf("/%s", opt.name), *lock_path = xasprintf("/%s/lock", opt.name);
	char *url = xasprintf("nfs://%s%s?version=3&nfsport=%d&mountport=%d&autoreconnect=-1&dircache=0", opt.host, opt.export, opt.port, opt.port);
	struct nfs_url *u;

	nfs = nfs_init_context();
	u = nfs ? nfs_parse_url_dir(nfs, url) : NULL;
	if (!u || nfs_mount(nfs, u->server, u->path) || nfs_mkdir(nfs, path) || nfs_creat(nfs, lock_path, 0644, &lock_file) || !connect_lock_manager()) {
		fprintf(stderr, "nfsuser: can't begin: %s\n", nfs ? nfs_get_error(nfs) : "no memory");
		exit(2);
	}
	nfs_destroy_url(u);
	free(path);
	free(lock_path);
	free(url);
}

int main(int argc, char **argv)
{
	if (argc != 6) {
		fprintf(stderr, "usage: nfsuser HOST PORT EXPORT NAME PROGRESS_FILE\n");
		return 2;
	}
	opt.host = argv[1];
	opt.port = atoi(argv[2]);
	opt.export = argv[3];
	opt.name = argv[4];
	opt.progress = open(argv[5], O_CREAT | O_WRONLY | O_CLOEXEC, 0644);
	signal(SIGTERM, on_signal);
	started = now_s();
	begin();
	for (; !stop; tell_progress())
		one_round(rounds++);
	printf("%llu operations in %llu rounds, %.1f s; longest wait for one: %.0f ms; %llu errors\n", operations, rounds, now_s() - started, longest * 1000,
	       errors);
	return errors != 0;
}
