/*
 * recorder - numbered records in many files, and what must be left of them after a kill.
 *
 *   recorder run [-j THREADS] [-f FILES] [-t SECONDS] [-y EVERY] LOG DIR
 *   recorder check [-p | -a] LOG DIR
 *
 * Writers append fixed-size records to files of their own (one write() each) and create numbered files in DIR/names. Some
 * files are fsynced after every EVERY records, some never. LOG lies outside of DIR, mapped shared, so it survives the death of
 * everybody but the machine. Each record notes there two ticks of one clock common to all writers: one taken before the
 * operation began and one taken after it returned, and whether an fsync that covered it returned.
 *
 * check: DIR (the promoted standby) must hold
 *   prefix   in every file the records 0..k, whole, nothing else;
 *   durable  every record that an fsync acknowledged (-p: not checked, for `async` volumes; -a: every record that returned, for `sync`);
 *   order    with a record that is there, every record (of any file) that had returned before that one began.
 * Prints what is lost (allowed: returned but never fsynced). Status 0 right, 1 wrong, 2 could not run.
 */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/tools/tool.h"

enum { RECORD = 64, MAGIC = 0x72656331, WRONG_MAX = 20 };

struct note {
	_Atomic uint64_t begin, end;	/* ticks; 0 = not yet */
	_Atomic uint32_t synced;
	uint32_t lane, seq;
};
/* The log: this, then notes[CAPACITY]. Lanes 0..files-1 are files, lane FILES is the directory of names. */
struct log {
	uint32_t magic, files, every;
	_Atomic uint64_t clock, used;
	uint64_t capacity;
	struct note notes[];
};

static struct log *book;
static const char *dir;
static unsigned threads = 4;
static double end_at;
static atomic_bool dead;

static void open_log(const char *path, bool create, uint64_t capacity)
{
	size_t size = sizeof *book + capacity * sizeof(struct note);
	int fd = open(path, create ? O_RDWR | O_CREAT | O_TRUNC : O_RDWR, 0644);
	struct stat st;

	if (fd < 0 || (create && ftruncate(fd, (off_t)size)) || fstat(fd, &st))
		die("%s", path);
	book = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (book == MAP_FAILED)
		die("%s: mmap", path);
	close(fd);
}

static uint64_t tick(void)
{
	return atomic_fetch_add(&book->clock, 1) + 1;
}

static void make_record(char *to, uint32_t lane, uint32_t seq)
{
	int n = snprintf(to, RECORD + 1, "file %05u record %010u ", lane, seq);

	for (; n < RECORD - 1; n++)
		to[n] = (char)('a' + (seq + (uint32_t)n) % 26);
	to[RECORD - 1] = '\n';
}

static void file_name(char *to, size_t size, uint32_t lane)
{
	snprintf(to, size, "%s/d%u/records.%u", dir, lane % 8, lane);
}

static struct note *take_note(uint32_t lane, uint32_t seq)
{
	uint64_t i = atomic_fetch_add(&book->used, 1);

	if (i >= book->capacity)
		return NULL;
	struct note *n = &book->notes[i];

	n->lane = lane;
	n->seq = seq;
	atomic_store(&n->begin, tick());
	return n;
}

struct lane { int fd; uint32_t seq; struct note *unsynced[64]; unsigned n; };

static void acknowledge(struct lane *l)
{
	for (unsigned i = 0; i < l->n; i++)
		atomic_store(&l->unsynced[i]->synced, 1);
	l->n = 0;
}

/* One record; false when the file system is gone or the log is full. */
static bool write_record(uint32_t lane, struct lane *l, bool syncing)
{
	char rec[RECORD + 1];
	struct note *n = take_note(lane, l->seq);

	if (!n)
		return false;
	make_record(rec, lane, l->seq);
	if (write(l->fd, rec, RECORD) != RECORD)
		return false;
	atomic_store(&n->end, tick());
	l->seq++;
	if (!syncing)
		return true;
	l->unsynced[l->n++] = n;
	if (l->n < book->every)
		return true;
	if (l->seq / book->every % 2 ? fsync(l->fd) : fdatasync(l->fd))
		return false;
	acknowledge(l);
	return true;
}

/* A name: created under a temporary one, renamed; every eighth with fsync of the directory. */
static bool write_name(struct lane *l, int names)
{
	char tmp[64], name[64];
	struct note *n = take_note(book->files, l->seq);

	if (!n)
		return false;
	snprintf(tmp, sizeof tmp, "tmp.%u", l->seq);
	snprintf(name, sizeof name, "name.%u", l->seq);
	int fd = openat(names, tmp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);

	if (fd < 0 || close(fd) || renameat(names, tmp, names, name))
		return false;
	atomic_store(&n->end, tick());
	l->unsynced[l->n++] = n;
	l->seq++;
	if (l->n < 8)
		return true;
	if (fsync(names))
		return false;
	acknowledge(l);
	return true;
}

static bool going_on(void)
{
	return !atomic_load(&dead) && now_s() < end_at;
}

static void *names_writer(void *arg)
{
	struct lane l = { .fd = -1 };
	char p[4200];

	(void)arg;
	snprintf(p, sizeof p, "%s/names", dir);
	int names = open(p, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	while (going_on())
		if (!write_name(&l, names))
			atomic_store(&dead, true);
	return NULL;
}

static void *writer(void *arg)
{
	uint32_t first = (uint32_t)(uintptr_t)arg, n = 0;
	struct lane *lanes = xcalloc(book->files, sizeof *lanes);
	char p[4200];
	uint64_t rs = rng_seed(first, 7);

	for (uint32_t i = first; i < book->files; i += threads, n++) {
		file_name(p, sizeof p, i);
		lanes[i].fd = open(p, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
		if (lanes[i].fd < 0)
			return atomic_store(&dead, true), NULL;
	}
	while (n && going_on()) {
		uint32_t i = first + threads * (uint32_t)rng_below(&rs, n);

		if (!write_record(i, &lanes[i], i % 3 != 2))
			atomic_store(&dead, true);
	}
	return NULL;
}

static int do_run(const char *log, uint32_t files, uint32_t every, double seconds)
{
	pthread_t t[65];
	char p[4200];

	open_log(log, true, 4 << 20);
	book->files = files;
	book->every = every;
	book->capacity = 4 << 20;
	for (int i = 0; i < 9; i++) {
		snprintf(p, sizeof p, i < 8 ? "%s/d%d" : "%s/names", dir, i);
		if (mkdir(p, 0755) && errno != EEXIST)
			die("%s", p);
	}
	book->magic = MAGIC;
	end_at = now_s() + seconds;
	if (pthread_create(&t[threads], NULL, names_writer, NULL))
		die("thread");
	for (unsigned i = 0; i < threads; i++)
		if (pthread_create(&t[i], NULL, writer, (void *)(uintptr_t)i))
			die("thread");
	for (unsigned i = 0; i <= threads; i++)
		pthread_join(t[i], NULL);
	printf("recorder: %ju records begun%s\n", (uintmax_t)book->used, atomic_load(&dead) ? ", then the file system was gone" : "");
	return 0;
}

/* -- checking -- */

static unsigned wrongs;
static uint32_t *present;	/* per lane: how many records are there; names: unused */
static bool *named;		/* per name */
static uint32_t names_max;

__attribute__((format(printf, 1, 2))) static void wrong(const char *fmt, ...)
{
	va_list ap;

	if (++wrongs > WRONG_MAX)
		return;
	va_start(ap, fmt);
	printf("wrong: ");
	vprintf(fmt, ap);
	putchar('\n');
	va_end(ap);
}

static void check_file(uint32_t lane)
{
	char p[4200], want[RECORD + 1], got[RECORD];
	ssize_t n;

	file_name(p, sizeof p, lane);
	int fd = open(p, O_RDONLY | O_CLOEXEC);

	if (fd < 0 && errno == ENOENT)
		return;
	if (fd < 0)
		die("%s", p);
	while ((n = pread(fd, got, RECORD, (off_t)present[lane] * RECORD)) == RECORD) {
		make_record(want, lane, present[lane]);
		if (memcmp(got, want, RECORD)) {
			wrong("prefix: file %u: record %u is %.*s", lane, present[lane], RECORD - 1, got);
			break;
		}
		present[lane]++;
	}
	if (n < 0)
		die("%s: read", p);
	if (n > 0 && n < RECORD)
		wrong("prefix: file %u ends within record %u (%zd bytes)", lane, present[lane], n);
	close(fd);
}

static void check_names(void)
{
	char p[4200];
	struct dirent *e;
	unsigned seq;

	snprintf(p, sizeof p, "%s/names", dir);
	DIR *d = opendir(p);

	while (d && (e = readdir(d)))
		if (sscanf(e->d_name, "name.%u", &seq) == 1) {
			if (seq < names_max)
				named[seq] = true;
			else
				wrong("prefix: name %u was never made", seq);
		}
	if (d)
		closedir(d);
}

static bool is_there(const struct note *n)
{
	return n->lane == book->files ? named[n->seq] : n->seq < present[n->lane];
}

static void load_present(uint64_t used)
{
	present = xcalloc(book->files, sizeof *present);
	for (uint64_t i = 0; i < used; i++)
		if (book->notes[i].lane == book->files && book->notes[i].seq >= names_max)
			names_max = book->notes[i].seq + 1;
	named = xcalloc(names_max, sizeof *named);
	for (uint32_t i = 0; i < book->files; i++)
		check_file(i);
	check_names();
}

static int do_check(const char *log, bool prefix_only, bool all)
{
	uint64_t newest = 0, lost = 0, synced = 0, there = 0;

	open_log(log, false, 0);
	if (book->magic != MAGIC)
		return fprintf(stderr, "%s: no log of the recorder\n", log), 2;
	uint64_t used = book->used < book->capacity ? book->used : book->capacity;

	load_present(used);
	for (uint64_t i = 0; i < used; i++)
		if (is_there(&book->notes[i]) && book->notes[i].begin > newest)
			newest = book->notes[i].begin;
	for (uint64_t i = 0; i < used; i++) {
		const struct note *n = &book->notes[i];

		synced += n->synced;
		there += is_there(n);
		if (is_there(n))
			continue;
		lost += n->end != 0;
		if (n->synced && !prefix_only)
			wrong("durable: record %u of lane %u was acknowledged by fsync and is not there", n->seq, n->lane);
		if (all && n->end)
			wrong("durable: record %u of lane %u had returned and is not there", n->seq, n->lane);
		if (n->end && n->end < newest)
			wrong("order: record %u of lane %u returned at tick %ju; one that began at tick %ju is there, it is not", n->seq,
			      n->lane, (uintmax_t)n->end, (uintmax_t)newest);
	}
	printf("recorder: %ju records: %ju there, %ju acknowledged by fsync, %ju returned and lost; %u wrong\n", (uintmax_t)used,
	       (uintmax_t)there, (uintmax_t)synced, (uintmax_t)lost, wrongs);
	return wrongs ? 1 : 0;
}

int main(int argc, char **argv)
{
	uint32_t files = 64, every = 4;
	double seconds = 10;
	bool prefix_only = false, all = false;
	int c;
	const char *verb = argc > 1 ? argv[1] : "";

	if (argc > 1) {
		argc--;
		argv++;
	}
	while ((c = getopt(argc, argv, "j:f:t:y:pa")) != -1)
		switch (c) {
		case 'j': threads = (unsigned)strtoul(optarg, NULL, 0); break;
		case 'f': files = (uint32_t)strtoul(optarg, NULL, 0); break;
		case 't': seconds = strtod(optarg, NULL); break;
		case 'y': every = (uint32_t)strtoul(optarg, NULL, 0); break;
		case 'p': prefix_only = true; break;
		case 'a': all = true; break;
		default: return 2;
		}
	if (argc - optind == 2 && threads && threads <= 64 && files && every && every <= 64) {
		dir = argv[optind + 1];
		if (!strcmp(verb, "run"))
			return do_run(argv[optind], files, every, seconds);
		if (!strcmp(verb, "check"))
			return do_check(argv[optind], prefix_only, all);
	}
	fputs("usage: recorder run [-j THREADS] [-f FILES] [-t SECONDS] [-y EVERY] LOG DIR\n       recorder check [-p | -a] LOG DIR\n", stderr);
	return 2;
}
