/*
 * fbench - what an application sees of a file system, one result per line: NAME<TAB>VALUE<TAB>UNIT
 *
 *   fbench [-s MIB] [-n FILES] [-w NAME] [-k] DIR  the measures whose group contains NAME (default all):
 *       meta1, meta4   create (4 KiB each), stat, read, rename and unlink FILES files from 1 and from 4 threads
 *       data           1 MiB writes + fsync, reads, random 4 KiB writes without and with fsync, of a file of MIB (-k keeps it)
 *   fbench -w lag DIR BACKING                      creates 1,000 files, then ms until the last is in BACKING (another node's)
 *   fbench -w stall -t SECONDS DIR                 4 KiB write + fsync, again and again; the longest one, ms
 *
 * Times cover what an application waits for. Cold results drop the caches (root).
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/tools/tool.h"

enum { PER_DIR = 500, BLOCK = 4096, MIB = 1 << 20, THREADS_MAX = 16, BURST = 1000 };

static const char *dir, *only = "";
static long size_mib = 256, files = 5000;
static bool keep;
static char block[MIB] __attribute__((aligned(4096)));

static void out(const char *name, double v, const char *unit)
{
	printf("%s\t%.5g\t%s\n", name, v, unit);
	fflush(stdout);
}

static void drop_caches(void)
{
	int fd = open("/proc/sys/vm/drop_caches", O_WRONLY | O_CLOEXEC), d = open(dir, O_RDONLY | O_CLOEXEC);

	if (d >= 0) {
		syncfs(d);
		close(d);
	}
	if (fd >= 0 && write(fd, "3", 1) != 1)
		die("drop_caches");
	if (fd >= 0)
		close(fd);
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

/* -- metadata -- */

enum phase { CREATE, STAT, READ, RENAME, UNLINK, PHASES };
static const char *const phase_names[PHASES] = { "create", "stat", "open_read", "rename", "unlink" };
struct job { pthread_t thread; enum phase phase; int lane, lanes; };

static void one(enum phase phase, const char *p)
{
	char q[4300], b[BLOCK];
	struct stat st;
	int fd;

	switch (phase) {
	case CREATE:
		fd = open(p, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
		if (fd < 0 || write(fd, block, BLOCK) != BLOCK || close(fd))
			die("create %s", p);
		break;
	case STAT:
		if (lstat(p, &st))
			die("stat %s", p);
		break;
	case READ:
		fd = open(p, O_RDONLY | O_CLOEXEC);
		if (fd < 0 || read(fd, b, BLOCK) != BLOCK || close(fd))
			die("read %s", p);
		break;
	case RENAME:
		snprintf(q, sizeof q, "%s.r", p);
		if (rename(p, q) || rename(q, p))
			die("rename %s", p);
		break;
	case UNLINK:
		if (unlink(p))
			die("unlink %s", p);
		break;
	case PHASES:
		break;
	}
}

static void *run_job(void *arg)
{
	const struct job *j = arg;
	char p[4200];

	for (long i = 0; i < files / j->lanes; i++) {
		snprintf(p, sizeof p, "%s/m/t%d_%ld/f%ld", dir, j->lane, i / PER_DIR, i);
		one(j->phase, p);
	}
	return NULL;
}

static double run_phase(enum phase phase, int lanes)
{
	struct job j[THREADS_MAX];
	double t = now_s();

	for (int i = 0; i < lanes; i++) {
		j[i] = (struct job){ .phase = phase, .lane = i, .lanes = lanes };
		if (pthread_create(&j[i].thread, NULL, run_job, &j[i]))
			die("thread");
	}
	for (int i = 0; i < lanes; i++)
		pthread_join(j[i].thread, NULL);
	return (double)(files / lanes * lanes) / (now_s() - t);
}

static void make_dirs(int lanes, bool make)
{
	char p[4200];

	snprintf(p, sizeof p, "%s/m", dir);
	if (make && mkdir(p, 0755))
		die("%s", p);
	for (int t = 0; t < lanes; t++)
		for (long d = 0; d * PER_DIR < files / lanes; d++) {
			snprintf(p, sizeof p, "%s/m/t%d_%ld", dir, t, d);
			if (make ? mkdir(p, 0755) : rmdir(p))
				die("%s", p);
		}
	snprintf(p, sizeof p, "%s/m", dir);
	if (!make && rmdir(p))
		die("%s", p);
}

static void meta(int lanes)
{
	char name[64];

	make_dirs(lanes, true);
	for (enum phase ph = CREATE; ph < PHASES; ph++) {
		snprintf(name, sizeof name, "%s_%d", phase_names[ph], lanes);
		out(name, run_phase(ph, lanes) * (ph == RENAME ? 2 : 1), "ops/s");
		if (ph == STAT) {
			drop_caches();
			snprintf(name, sizeof name, "stat_cold_%d", lanes);
			out(name, run_phase(STAT, lanes), "ops/s");
		}
	}
	make_dirs(lanes, false);
}

/* -- data -- */

static int open_file(const char *name, int flags)
{
	char *p = xasprintf("%s/%s", dir, name);
	int fd = open(p, flags | O_CLOEXEC, 0644);

	if (fd < 0)
		die("%s", p);
	free(p);
	return fd;
}

static void write_big(void)
{
	double t = now_s();
	int fd = open_file("big", O_CREAT | O_TRUNC | O_WRONLY);

	for (long i = 0; i < size_mib; i++)
		if (write(fd, block, MIB) != MIB)
			die("write");
	if (fsync(fd))
		die("fsync");
	out("write_1m_fsync", (double)size_mib / (now_s() - t), "MiB/s");
	close(fd);
}

static void read_big(const char *name)
{
	double t = now_s();
	int fd = open_file("big", O_RDONLY);
	ssize_t n;

	while ((n = read(fd, block, 128 << 10)) > 0)
		;
	if (n < 0)
		die("read");
	out(name, (double)size_mib / (now_s() - t), "MiB/s");
	close(fd);
}

static void random_writes(const char *name, long n, bool sync)
{
	double *lat = xcalloc((size_t)n, sizeof *lat), start = now_s();
	int fd = open_file("big", O_WRONLY);
	uint64_t rs = rng_seed(1, 1);
	char median[64];

	for (long i = 0; i < n; i++) {
		double t = now_s();

		if (pwrite(fd, block, BLOCK, (off_t)rng_below(&rs, (uint64_t)size_mib * 256) * BLOCK) != BLOCK || (sync && fsync(fd)))
			die("write");
		lat[i] = now_s() - t;
	}
	out(name, (double)n / (now_s() - start), "ops/s");
	if (sync) {
		qsort(lat, (size_t)n, sizeof *lat, by_value);
		snprintf(median, sizeof median, "%s_p50", name);
		out(median, lat[n / 2] * 1e6, "us");
	}
	free(lat);
	close(fd);
}

static void data(void)
{
	write_big();
	drop_caches();
	read_big("read_cold");
	read_big("read_warm");
	random_writes("write_4k", 10000, false);
	random_writes("write_4k_fsync", 500, true);
	char *p = xasprintf("%s/big", dir);

	if (!keep && unlink(p))
		die("%s", p);
	free(p);
}

/* -- the pair -- */

static void lag(const char *backing)
{
	char p[4200];
	double t = 0;

	for (int i = 0; i < BURST; i++) {
		snprintf(p, sizeof p, "%s/burst.%d", dir, i);
		int fd = open(p, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);

		if (fd < 0 || close(fd))
			die("%s", p);
	}
	t = now_s();
	snprintf(p, sizeof p, "%s/burst.%d", backing, BURST - 1);
	while (access(p, F_OK) && now_s() < t + 60)
		;
	out("lag_after_1000_creates", (now_s() - t) * 1e3, "ms");
	for (int i = 0; i < BURST; i++) {
		snprintf(p, sizeof p, "%s/burst.%d", dir, i);
		unlink(p);
	}
}

static void stall(double seconds)
{
	double end = now_s() + seconds, longest = 0;
	int fd = open_file("stall", O_CREAT | O_WRONLY);

	while (now_s() < end) {
		double t = now_s();

		if (pwrite(fd, block, BLOCK, 0) != BLOCK || fsync(fd))
			die("stall");
		if (now_s() - t > longest)
			longest = now_s() - t;
	}
	out("longest_stall", longest * 1e3, "ms");
	close(fd);
}

int main(int argc, char **argv)
{
	double seconds = 5;
	int c;

	while ((c = getopt(argc, argv, "s:n:w:t:k")) != -1)
		switch (c) {
		case 's': size_mib = atol(optarg); break;
		case 'n': files = atol(optarg); break;
		case 'w': only = optarg; break;
		case 'k': keep = true; break;
		case 't': seconds = atof(optarg); break;
		default: return 2;
		}
	if (optind >= argc)
		return fputs("usage: fbench [-s MIB] [-n FILES] [-w GROUP] [-t SECONDS] [-k] DIR [BACKING]\n", stderr), 2;
	dir = argv[optind];
	for (size_t i = 0; i < sizeof block; i++)
		block[i] = (char)(i * 2654435761u >> 24);
	if (!strcmp(only, "lag"))
		return lag(argv[optind + 1]), 0;
	if (!strcmp(only, "stall"))
		return stall(seconds), 0;
	if (strstr("data", only))
		data();
	if (strstr("meta1", only))
		meta(1);
	if (strstr("meta4", only))
		meta(4);
	return 0;
}
