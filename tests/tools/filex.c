/*
 * filex - exercises one file against a model in memory, in the manner of fsx.
 *
 *   filex [-s SEED] [-n OPERATIONS] [-t SECONDS] [-l MAXLEN] [-d] FILE
 *
 * Random reads, writes (through descriptors that were opened read-write, write-only, appending and, with -d, O_DIRECT), mapped reads and writes,
 * truncations both ways, preallocation, punched and zeroed ranges, collapse and insert, copies within the file, fsync,
 * reopening. After every read and at the end the file must equal the model; its size must be right after every operation; what
 * SEEK_HOLE calls a hole must be zero in the model. Operations that the file system lacks (EOPNOTSUPP) are left out after the
 * first time. Status 0 right, 1 wrong (with the seed and the last operations), 2 could not run.
 */
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdbool.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/tools/tool.h"

enum { LOG_LINES = 40, LOG_WIDTH = 120, PAGE = 4096, DIRECT_ALIGN = 4096 };

static char lines[LOG_LINES][LOG_WIDTH];
static uint64_t ops, seed = 1, rs;
static const char *path;
static unsigned char *model, *buf;
static size_t size, max_len = 256 << 10;
static int rw = -1, wo = -1, app = -1, direct = -1;
static bool use_direct, lacks[8];

__attribute__((format(printf, 1, 2))) static void record(const char *fmt, ...)
{
	va_list ap;
	int n = snprintf(lines[ops % LOG_LINES], LOG_WIDTH, "%ju: ", (uintmax_t)ops);

	va_start(ap, fmt);
	vsnprintf(lines[ops % LOG_LINES] + n, (size_t)(LOG_WIDTH - n), fmt, ap);
	va_end(ap);
}

__attribute__((format(printf, 1, 2), noreturn)) static void wrong(const char *fmt, ...)
{
	va_list ap;

	printf("filex: %s: seed %ju, operation %ju: ", path, (uintmax_t)seed, (uintmax_t)ops);
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	printf("\nThe last operations:\n");
	for (uint64_t i = ops >= LOG_LINES ? ops - LOG_LINES + 1 : 0; i <= ops; i++)
		printf("  %s\n", lines[i % LOG_LINES]);
	exit(1);
}

static void wrong_errno(const char *what)
{
	wrong("%s: %s", what, strerror(errno));
}

static void reopen(void)
{
	int *fds[] = { &rw, &wo, &app, &direct };
	const int flags[] = { O_RDWR, O_WRONLY, O_WRONLY | O_APPEND, O_RDWR | O_DIRECT };

	record("reopen");
	for (int i = 0; i < 4; i++) {
		if (*fds[i] >= 0 && close(*fds[i]))
			wrong_errno("close");
		*fds[i] = -1;
	}
	for (int i = 0; i < 4; i++) {
		if ((i == 3 && !use_direct) || (i && rng_below(&rs, 3) == 0))
			continue;
		*fds[i] = open(path, flags[i] | O_CLOEXEC);
		if (*fds[i] < 0 && i == 3 && errno == EINVAL)
			use_direct = false;
		else if (*fds[i] < 0)
			wrong_errno("open");
	}
}

/* A random range; half of them short, a quarter aligned to pages. */
static void pick(size_t limit, size_t *off, size_t *len)
{
	bool aligned = rng_below(&rs, 4) == 0;

	*off = rng_below(&rs, limit);
	*len = 1 + rng_below(&rs, rng_below(&rs, 2) ? 3 * PAGE : limit / 4);
	if (aligned) {
		*off = *off / PAGE * PAGE;
		*len = (*len + PAGE - 1) / PAGE * PAGE;
	}
	if (*off + *len > limit)
		*len = limit - *off;
}

static void model_grow(size_t end)
{
	if (end > size) {
		memset(model + size, 0, end - size);
		size = end;
	}
}

static void compare(const unsigned char *got, size_t off, size_t len, const char *what)
{
	for (size_t i = 0; i < len; i++)
		if (got[i] != model[off + i])
			wrong("%s at %zu (+%zu): byte %zu (0x%zx) is %02x, must be %02x", what, off, len, off + i, off + i, got[i],
			      model[off + i]);
}

static void fill(size_t len)
{
	unsigned char c = (unsigned char)(1 + ops % 251);

	for (size_t i = 0; i < len; i++)
		buf[i] = (unsigned char)(c + i / 512);
}

static void op_read(void)
{
	size_t off, len;
	bool dio = direct >= 0 && rng_below(&rs, 2);

	pick(max_len, &off, &len);
	if (dio) {
		off = off / DIRECT_ALIGN * DIRECT_ALIGN;
		len = (len + DIRECT_ALIGN - 1) / DIRECT_ALIGN * DIRECT_ALIGN;
	}
	record("%s %zu +%zu", dio ? "read direct" : "read", off, len);
	ssize_t n = pread(dio ? direct : rw, buf, len, (off_t)off);
	size_t want = off >= size ? 0 : size - off < len ? size - off : len;

	if (n < 0)
		wrong_errno("read");
	if ((size_t)n != want)
		wrong("read at %zu +%zu gave %zd, must give %zu", off, len, n, want);
	compare(buf, off, want, "read");
}

static void put(int fd, size_t off, size_t len, bool append)
{
	ssize_t n = append ? write(fd, buf, len) : pwrite(fd, buf, len, (off_t)off);

	if (n != (ssize_t)len)
		wrong("write at %zu +%zu gave %zd (%s)", off, len, n, strerror(errno));
	model_grow(off + len);
	memcpy(model + off, buf, len);
}

static void op_write(void)
{
	size_t off, len;
	uint64_t which = rng_below(&rs, 4);

	pick(max_len, &off, &len);
	fill(len);
	if (which == 0 && app >= 0 && size < max_len) {
		if (size + len > max_len)
			len = max_len - size;
		record("append %zu +%zu", size, len);
		put(app, size, len, true);
	} else if (which == 1 && direct >= 0) {
		off = off / DIRECT_ALIGN * DIRECT_ALIGN;
		len = (len + DIRECT_ALIGN - 1) / DIRECT_ALIGN * DIRECT_ALIGN;
		fill(len);
		record("write direct %zu +%zu", off, len);
		put(direct, off, len, false);
	} else {
		record("write%s %zu +%zu", which == 2 && wo >= 0 ? " write-only" : "", off, len);
		put(which == 2 && wo >= 0 ? wo : rw, off, len, false);
	}
}

static void op_map(void)
{
	size_t off, len;
	bool writing = rng_below(&rs, 2);

	if (!size)
		return;
	pick(size, &off, &len);
	record("mapped %s %zu +%zu", writing ? "write" : "read", off, len);
	size_t base = off / PAGE * PAGE, span = off + len - base;
	unsigned char *p = mmap(NULL, span, PROT_READ | (writing ? PROT_WRITE : 0), MAP_SHARED, rw, (off_t)base);

	if (p == MAP_FAILED)
		wrong_errno("mmap");
	compare(p + (off - base), off, len, "mapped read");
	if (writing) {
		fill(len);
		memcpy(p + (off - base), buf, len);
		memcpy(model + off, buf, len);
		if (rng_below(&rs, 2) && msync(p, span, MS_SYNC))
			wrong_errno("msync");
	}
	if (munmap(p, span))
		wrong_errno("munmap");
}

static void op_truncate(void)
{
	size_t to = rng_below(&rs, 8) ? rng_below(&rs, max_len) : 0;
	bool by_name = rng_below(&rs, 2);

	record("%s %zu", by_name ? "truncate" : "ftruncate", to);
	if (by_name ? truncate(path, (off_t)to) : ftruncate(rw, (off_t)to))
		wrong_errno("truncate");
	model_grow(to);
	size = to;
}

enum { SHIFT_COLLAPSE = 4, SHIFT_INSERT = 5 };
static const struct { const char *name; int mode; } ranges[] = {
	{ "allocate", 0 },
	{ "allocate, keeping the size,", FALLOC_FL_KEEP_SIZE },
	{ "punch", FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE },
	{ "zero", FALLOC_FL_ZERO_RANGE },
	{ "collapse", FALLOC_FL_COLLAPSE_RANGE },
	{ "insert", FALLOC_FL_INSERT_RANGE },
	{ "zero, keeping the size,", FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE },
};

static void model_range(unsigned k, size_t off, size_t len)
{
	size_t old = size, end = off + len;

	if (k == SHIFT_COLLAPSE) {
		memmove(model + off, model + end, size - end);
		size -= len;
		return;
	}
	if (k == SHIFT_INSERT) {
		size += len;
		memmove(model + end, model + off, old - off);
		memset(model + off, 0, len);
		return;
	}
	if (!(ranges[k].mode & FALLOC_FL_KEEP_SIZE))
		model_grow(end);
	if (ranges[k].mode & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE) && off < size)
		memset(model + off, 0, (end < size ? end : size) - off);
}

static void op_range(void)
{
	unsigned k = (unsigned)rng_below(&rs, sizeof ranges / sizeof *ranges);
	size_t off, len;

	pick(max_len, &off, &len);
	if (k == SHIFT_COLLAPSE || k == SHIFT_INSERT) {
		off = off / PAGE * PAGE;
		len = (len + PAGE - 1) / PAGE * PAGE;
		if (off + len >= size || (k == SHIFT_INSERT && size + len > max_len))
			return;
	}
	record("%s %zu +%zu", ranges[k].name, off, len);
	if (lacks[k])
		return;
	if (fallocate(rw, ranges[k].mode, (off_t)off, (off_t)len)) {
		if (errno != EOPNOTSUPP)
			wrong_errno(ranges[k].name);
		lacks[k] = true;
		return;
	}
	model_range(k, off, len);
}

static void op_copy(void)
{
	size_t off, len, to = rng_below(&rs, max_len), done = 0;

	pick(max_len, &off, &len);
	if (off >= size)
		return;
	if (off + len > size)
		len = size - off;
	if (to + len > max_len)
		len = max_len - to;
	if ((to < off + len && off < to + len) || lacks[7])
		return;
	record("copy %zu +%zu to %zu", off, len, to);
	while (done < len) {
		off_t in = (off_t)(off + done), out = (off_t)(to + done);
		ssize_t n = copy_file_range(rw, &in, wo >= 0 ? wo : rw, &out, len - done, 0);

		if (n < 0 && (errno == EOPNOTSUPP || errno == EXDEV) && !done) {
			lacks[7] = true;
			return;
		}
		if (n <= 0)
			wrong("copy_file_range gave %zd (%s)", n, strerror(errno));
		done += (size_t)n;
	}
	model_grow(to + len);
	memmove(model + to, model + off, len);
}

static void op_holes(void)
{
	record("holes");
	for (off_t at = 0; at < (off_t)size;) {
		off_t hole = lseek(rw, at, SEEK_HOLE), data;

		if (hole < 0)
			wrong_errno("SEEK_HOLE");
		if (hole >= (off_t)size)
			return;
		data = lseek(rw, hole, SEEK_DATA);
		if (data < 0 && errno != ENXIO)
			wrong_errno("SEEK_DATA");
		if (data < 0)
			data = (off_t)size;
		if (data < hole)
			wrong("SEEK_DATA from the hole at %jd gave %jd", (intmax_t)hole, (intmax_t)data);
		if (data == hole)	/* preallocated space whose pages come and go: ext4 does that */
			return;
		for (off_t i = hole; i < data; i++)
			if (model[i])
				wrong("a hole at %jd, but byte %jd is not zero", (intmax_t)hole, (intmax_t)i);
		at = data;
	}
}

static void op_sync(void)
{
	record("fsync");
	if (rng_below(&rs, 2) ? fsync(rw) : fdatasync(wo >= 0 ? wo : rw))
		wrong_errno("fsync");
}

static void check_size(void)
{
	struct stat st;

	if (rng_below(&rs, 2) ? fstat(rw, &st) : stat(path, &st))
		wrong_errno("stat");
	if ((size_t)st.st_size != size)
		wrong("size is %jd, must be %zu", (intmax_t)st.st_size, size);
}

static void check_all(void)
{
	record("the whole file");
	for (size_t off = 0; off < size;) {
		ssize_t n = pread(rw, buf, size - off, (off_t)off);

		if (n <= 0)
			wrong("reading all at %zu gave %zd", off, n);
		compare(buf, off, (size_t)n, "reading all");
		off += (size_t)n;
	}
}

static void (*const menu[])(void) = {
	op_read, op_read, op_read, op_write, op_write, op_write, op_write, op_map, op_map, op_truncate, op_range, op_range, op_copy, op_holes,
	op_sync, reopen,
};

int main(int argc, char **argv)
{
	uint64_t limit = UINT64_MAX;
	double seconds = 0;
	int c;

	while ((c = getopt(argc, argv, "s:n:t:l:d")) != -1)
		switch (c) {
		case 's': seed = strtoull(optarg, NULL, 0); break;
		case 'n': limit = strtoull(optarg, NULL, 0); break;
		case 't': seconds = strtod(optarg, NULL); break;
		case 'l': max_len = strtoull(optarg, NULL, 0) / PAGE * PAGE; break;
		case 'd': use_direct = true; break;
		default: return 2;
		}
	if (argc - optind != 1 || max_len < 4 * PAGE)
		return fputs("usage: filex [-s SEED] [-n OPERATIONS] [-t SECONDS] [-l MAXLEN] [-d] FILE\n", stderr), 2;
	path = argv[optind];
	rs = rng_seed(seed, 0);
	model = xcalloc(max_len + 2 * PAGE, 1);
	buf = aligned_alloc(PAGE, max_len + 2 * PAGE);
	c = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
	if (!buf || c < 0)
		die("%s", path);
	close(c);
	reopen();
	double end = now_s() + seconds;

	if (limit == UINT64_MAX && seconds <= 0)
		limit = 20000;
	while (ops < limit && (seconds <= 0 || now_s() < end)) {
		ops++;
		menu[rng_below(&rs, sizeof menu / sizeof *menu)]();
		check_size();
	}
	check_all();
	printf("filex: %s: seed %ju: %ju operations, all right\n", path, (uintmax_t)seed, (uintmax_t)ops);
	return 0;
}
