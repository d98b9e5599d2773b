/*
 * replaced - what a path leads to stays usable until the operation is done, whatever becomes of the name meanwhile.
 *
 *   replaced [-t SECONDS] [-j THREADS] DIR
 *
 * One thread replaces DIR/always by rename again and again, so that the name is always there; another makes and removes DIR/often (a file) and
 * DIR/dir/file. THREADS others (default 6) open, stat, truncate, chmod, utime and ask for xattrs of them by path. On `always` nothing may
 * fail; on the others only ENOENT and ENOTDIR are right: never ESTALE, which no application expects. 0 right, 1 wrong, 2 could not run.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "tests/tools/tool.h"

enum { THREADS_MAX = 64 };
static const char *const paths[] = { "always", "often", "dir/file", "dir" };
enum { USES = 8 };

static double end;
static atomic_ulong done, wrong, replacements;

static int use(unsigned how, const char *path)
{
	char v[64];
	struct stat st;
	int fd;

	switch (how) {
	case 0:
		fd = open(path, O_RDONLY | O_CLOEXEC);
		return fd < 0 ? -1 : close(fd);
	case 1:
		fd = open(path, O_RDWR | O_CLOEXEC);
		return fd < 0 ? errno == EISDIR ? 0 : -1 : close(fd);
	case 2: return stat(path, &st);
	case 3: return truncate(path, 5) && errno != EISDIR ? -1 : 0;
	case 4: return chmod(path, 0755);
	case 5: return utimensat(AT_FDCWD, path, NULL, 0);
	case 6: return getxattr(path, "user.none", v, sizeof v) < 0 && errno != ENODATA ? -1 : 0;
	default: return setxattr(path, "user.some", "v", 1, 0);
	}
}

static void *user(void *arg)
{
	static const char *const names[USES] = { "open", "open to write", "stat", "truncate", "chmod", "utimensat", "getxattr", "setxattr" };
	uint64_t rs = rng_seed(7, (uintptr_t)arg);

	while (now_s() < end) {
		unsigned p = (unsigned)rng_below(&rs, sizeof paths / sizeof *paths), how = (unsigned)rng_below(&rs, USES);
		bool fine = use(how, paths[p]) == 0 || (p > 0 && (errno == ENOENT || errno == ENOTDIR));

		if (!fine && atomic_fetch_add(&wrong, 1) < 20)
			printf("%s of %s: %s\n", names[how], paths[p], strerror(errno));
		atomic_fetch_add(&done, 1);
	}
	return NULL;
}

static void make(const char *name)
{
	int fd = open(name, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

	if (fd < 0 || write(fd, "contents", 8) != 8 || close(fd))
		die("%s", name);
}

static void *replacer(void *arg)
{
	while (now_s() < end) {
		make("new");
		if (rename("new", "always"))
			die("rename");
		atomic_fetch_add(&replacements, 1);
	}
	return arg;
}

static void *remover(void *arg)
{
	while (now_s() < end) {
		make("often");
		if (mkdir("dir", 0755))
			die("mkdir");
		make("dir/file");
		if (unlink("often") || unlink("dir/file") || rmdir("dir"))
			die("removing");
	}
	return arg;
}

int main(int argc, char **argv)
{
	unsigned n = 6;
	double seconds = 5;
	pthread_t t[THREADS_MAX + 2];
	int c;

	while ((c = getopt(argc, argv, "t:j:")) != -1)
		switch (c) {
		case 't': seconds = strtod(optarg, NULL); break;
		case 'j': n = (unsigned)strtoul(optarg, NULL, 0); break;
		default: return 2;
		}
	if (argc - optind != 1 || n > THREADS_MAX)
		return fputs("usage: replaced [-t SECONDS] [-j THREADS] DIR\n", stderr), 2;
	if (chdir(argv[optind]))
		die("%s", argv[optind]);
	make("always");
	end = now_s() + seconds;
	for (unsigned i = 0; i < n + 2; i++)
		if (pthread_create(&t[i], NULL, i < n ? user : i == n ? replacer : remover, (void *)(uintptr_t)i))
			die("thread");
	for (unsigned i = 0; i < n + 2; i++)
		pthread_join(t[i], NULL);
	printf("replaced: %lu operations beside %lu replacements: %lu wrong\n", atomic_load(&done), atomic_load(&replacements), atomic_load(&wrong));
	return atomic_load(&wrong) ? 1 : 0;
}
