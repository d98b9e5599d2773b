/*
 * dirwalk - listings of one directory that are stopped and go on elsewhere.
 *
 *   dirwalk list DIR                   NAME<TAB>D_OFF per entry
 *   dirwalk every A B                  for every k: what B lists from the position of A's k-th entry on is what A lists there
 *   dirwalk switch [-s SEED] [-n] A B  lists in pieces of random size, each on the other node; -n: meanwhile names come and go in A
 *   dirwalk from DIR POSITION          as list, from POSITION on
 *
 * Raw getdents64 and lseek, so that positions are what the kernel gives. In `switch` every name beginning with "keep" must come exactly
 * once, any other at most once. Status 0 right, 1 wrong, 2 could not run.
 */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "tests/tools/tool.h"

struct raw_entry { uint64_t ino; int64_t off; unsigned short reclen; unsigned char type; char name[]; };
struct item { char *name; int64_t off; };
struct items { struct item *i; size_t n, cap; };

static void items_add(struct items *l, const char *name, int64_t off)
{
	if (l->n == l->cap) {
		l->cap = l->cap ? l->cap * 2 : 256;
		l->i = xrealloc(l->i, l->cap * sizeof *l->i);
	}
	l->i[l->n++] = (struct item){ xstrdup(name), off };
}

static void items_free(struct items *l)
{
	for (size_t i = 0; i < l->n; i++)
		free(l->i[i].name);
	free(l->i);
	*l = (struct items){ 0 };
}

static int open_dir(const char *path)
{
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		die("%s", path);
	return fd;
}

/* Lists from POS until MAX entries or the end; one buffer of SIZE at a time. False at the end. */
static bool list_some(int fd, int64_t pos, size_t size, size_t max, struct items *to)
{
	static _Thread_local char buf[65536] __attribute__((aligned(16)));
	size_t got = 0;

	if (lseek(fd, pos, SEEK_SET) != pos)
		die("lseek to %jd", (intmax_t)pos);
	while (got < max) {
		long n = syscall(SYS_getdents64, fd, buf, size);

		if (n < 0)
			die("getdents64");
		if (!n)
			return false;
		for (char *p = buf; p < buf + n && got < max; got++) {
			struct raw_entry *e = (struct raw_entry *)(void *)p;

			items_add(to, e->name, e->off);
			p += e->reclen;
		}
	}
	return true;
}

static int do_list(const char *path, int64_t pos)
{
	struct items l = { 0 };
	int fd = open_dir(path);

	list_some(fd, pos, 32768, SIZE_MAX, &l);
	for (size_t i = 0; i < l.n; i++)
		printf("%s\t%jd\n", l.i[i].name, (intmax_t)l.i[i].off);
	items_free(&l);
	close(fd);
	return 0;
}

static int do_every(const char *a, const char *b)
{
	struct items all = { 0 };
	unsigned long wrong = 0;
	int fa = open_dir(a), fb = open_dir(b);

	list_some(fa, 0, 32768, SIZE_MAX, &all);
	for (size_t k = 0; k < all.n && wrong < 20; k++) {
		struct items rest = { 0 };

		list_some(fb, all.i[k].off, 512, 4, &rest);
		size_t want = all.n - k - 1 < 4 ? all.n - k - 1 : 4;

		if (rest.n != want)
			wrong++, printf("after entry %zu (%s): %zu entries, must be %zu\n", k, all.i[k].name, rest.n, want);
		for (size_t i = 0; i < rest.n && i < want; i++)
			if (strcmp(rest.i[i].name, all.i[k + 1 + i].name)) {
				wrong++, printf("after entry %zu (%s): %s, must be %s\n", k, all.i[k].name, rest.i[i].name,
						all.i[k + 1 + i].name);
				break;
			}
		items_free(&rest);
	}
	printf("dirwalk: every: %zu positions, %lu wrong\n", all.n, wrong);
	items_free(&all);
	close(fa);
	close(fb);
	return wrong != 0;
}

/* -- names that come and go -- */

static atomic_bool stop;
static atomic_ulong comings;

static void *noise(void *arg)
{
	const char *path = arg;
	uint64_t rs = rng_seed(99, 1);
	int fd = open_dir(path);
	char name[64], other[64];

	while (!atomic_load(&stop)) {
		snprintf(name, sizeof name, "noise%u", (unsigned)rng_below(&rs, 400));
		snprintf(other, sizeof other, "noise%u", (unsigned)rng_below(&rs, 400));
		int f = openat(fd, name, O_CREAT | O_WRONLY | O_CLOEXEC, 0644);

		if (f >= 0)
			close(f);
		if (rng_below(&rs, 3) == 0)
			renameat(fd, name, fd, other);
		else
			unlinkat(fd, other, 0);
		atomic_fetch_add(&comings, 1);
	}
	close(fd);
	return NULL;
}

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct item *)a)->name, ((const struct item *)b)->name);
}

/* GOT: every name at most once and all of MUST's that begin with "keep". */
static unsigned long judge(struct items *got, struct items *must)
{
	unsigned long wrong = 0;
	size_t g = 0;

	qsort(got->i, got->n, sizeof *got->i, by_name);
	qsort(must->i, must->n, sizeof *must->i, by_name);
	for (size_t i = 1; i < got->n; i++)
		if (!strcmp(got->i[i].name, got->i[i - 1].name))
			wrong++, printf("twice: %s\n", got->i[i].name);
	for (size_t m = 0; m < must->n; m++) {
		if (strncmp(must->i[m].name, "keep", 4))
			continue;
		while (g < got->n && strcmp(got->i[g].name, must->i[m].name) < 0)
			g++;
		if (g == got->n || strcmp(got->i[g].name, must->i[m].name))
			wrong++, printf("missed: %s\n", must->i[m].name);
	}
	return wrong;
}

static int do_switch(const char *a, const char *b, uint64_t seed, bool noisy)
{
	const char *dirs[2] = { a, b };
	struct items must = { 0 }, got = { 0 };
	uint64_t rs = rng_seed(seed, 0), pieces = 0;
	int64_t pos = 0;
	int fd = open_dir(a);
	pthread_t t;

	list_some(fd, 0, 32768, SIZE_MAX, &must);
	close(fd);
	if (noisy && pthread_create(&t, NULL, noise, (void *)(uintptr_t)a))
		die("thread");
	for (bool more = true; more; pieces++) {
		fd = open_dir(dirs[pieces % 2]);	/* a listing that knows nothing but the position */
		more = list_some(fd, pos, 512 + rng_below(&rs, 8) * 512, 1 + rng_below(&rs, 40), &got);
		pos = got.n ? got.i[got.n - 1].off : 0;
		close(fd);
	}
	atomic_store(&stop, true);
	if (noisy)
		pthread_join(t, NULL);
	size_t entries = got.n;
	unsigned long wrong = judge(&got, &must);

	printf("dirwalk: switch: seed %ju: %zu entries in %ju pieces, %lu names came or went, %lu wrong\n", (uintmax_t)seed, entries,
	       (uintmax_t)pieces, atomic_load(&comings), wrong);
	items_free(&must);
	items_free(&got);
	return wrong != 0;
}

static int usage(void)
{
	fputs("usage: dirwalk list DIR | from DIR POSITION | every A B | switch [-s SEED] [-n] A B\n", stderr);
	return 2;
}

int main(int argc, char **argv)
{
	uint64_t seed = 1;
	bool noisy = false;
	const char *verb = argc > 1 ? argv[1] : "";
	int c;

	if (argc < 3)
		return usage();
	argc--;
	argv++;
	while ((c = getopt(argc, argv, "s:n")) != -1)
		switch (c) {
		case 's': seed = strtoull(optarg, NULL, 0); break;
		case 'n': noisy = true; break;
		default: return usage();
		}
	argc -= optind;
	argv += optind;
	if (!strcmp(verb, "list") && argc == 1)
		return do_list(argv[0], 0);
	if (!strcmp(verb, "from") && argc == 2)
		return do_list(argv[0], strtoll(argv[1], NULL, 10));
	if (!strcmp(verb, "every") && argc == 2)
		return do_every(argv[0], argv[1]);
	if (!strcmp(verb, "switch") && argc == 2)
		return do_switch(argv[0], argv[1], seed, noisy);
	return usage();
}
