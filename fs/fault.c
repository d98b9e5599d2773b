/*
 * The fault layer. Each operation asks what its rules have in store (struct hit), and either fails, or calls the layer
 * below and then perhaps fails nevertheless. What was opened by an operation that "failed after" is closed again; release and releasedir
 * always reach the layer below, whatever they return.
 *
 * Random rules are deterministic: whether the Nth call is hit depends on the seed and N alone.
 */
#include "fs/fault.h"

#include <ctype.h>
#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "fs/base/cleanup.h"

#define FAULT_OPS(X) \
	X(lookup) X(resolve) X(create) X(tmpfile) X(unlink) X(rmdir) X(rename) X(link) X(readlink) X(getattr) X(setattr) X(access) \
	X(getxattr) X(listxattr) X(setxattr) X(removexattr) X(getflags) X(setflags) X(open) X(release) X(read) X(write) X(fsync) \
	X(fallocate) X(copy_range) X(lseek) X(opendir) X(readdir) X(releasedir) X(statfs)

#define AS_ENUM(n) F_##n,
enum fault_op { FAULT_OPS(AS_ENUM) F_COUNT };
#define AS_NAME(n) #n,
static const char *const op_names[F_COUNT] = { FAULT_OPS(AS_NAME) };

struct rule {
	uint64_t ops;			/* bitmap of enum fault_op */
	uint64_t nth, every, limit, seed;
	double prob;			/* 0 = not at random */
	uint64_t delay_us;
	uint64_t short_bytes;		/* 0 = no */
	int error;			/* negative; 0 = none */
	bool after, crash;
	_Atomic uint64_t calls, fired;
};

struct fault_rules {
	unsigned n;
	struct rule r[FAULT_RULES_MAX];
};

struct fault {
	struct layer layer;
	struct fault_rules *rules;	/* owned */
	_Atomic uint64_t calls, fired;
};

/* ---- parsing ---- */

static const struct { const char *name; int err; } errors[] = {
	{ "EPERM", EPERM }, { "ENOENT", ENOENT }, { "EINTR", EINTR }, { "EIO", EIO }, { "EAGAIN", EAGAIN }, { "ENOMEM", ENOMEM },
	{ "EACCES", EACCES }, { "EBUSY", EBUSY }, { "EEXIST", EEXIST }, { "EINVAL", EINVAL }, { "ENFILE", ENFILE }, { "EMFILE", EMFILE },
	{ "EFBIG", EFBIG }, { "ENOSPC", ENOSPC }, { "EROFS", EROFS }, { "EMLINK", EMLINK }, { "EDQUOT", EDQUOT }, { "ESTALE", ESTALE },
	{ "EOPNOTSUPP", EOPNOTSUPP }, { "EUCLEAN", EUCLEAN }, { "ETIMEDOUT", ETIMEDOUT }, { "ERANGE", ERANGE },
	{ "ENAMETOOLONG", ENAMETOOLONG }, { "EXDEV", EXDEV }, { "ENOTEMPTY", ENOTEMPTY },
};

struct parse {
	struct rule *r;
	char *err;
	size_t err_size;
};

__attribute__((format(printf, 2, 3)))
static int bad(struct parse *p, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(p->err, p->err_size, fmt, ap);
	va_end(ap);
	return -EINVAL;
}

static int parse_number(struct parse *p, const char *key, const char *v, uint64_t *out)
{
	char *end;
	errno = 0;
	unsigned long long n = strtoull(v, &end, 10);
	if (!isdigit((unsigned char)*v) || *end || errno || !n)
		return bad(p, "%s=%s: a number from 1 is wanted", key, v);
	*out = n;
	return 0;
}

static int parse_ops(struct parse *p, char *v)
{
	char *save = NULL;
	for (char *s = strtok_r(v, "|", &save); s; s = strtok_r(NULL, "|", &save)) {
		unsigned i = 0;
		while (i < F_COUNT && strcmp(op_names[i], s))
			i++;
		if (i == F_COUNT)
			return bad(p, "op=%s: no such operation", s);
		p->r->ops |= UINT64_C(1) << i;
	}
	return p->r->ops ? 0 : bad(p, "op=: an operation is wanted");
}

static int parse_error(struct parse *p, const char *v)
{
	uint64_t n;
	for (unsigned i = 0; i < ARRAY_LEN(errors); i++)
		if (!strcmp(errors[i].name, v)) {
			p->r->error = -errors[i].err;
			return 0;
		}
	if (!isdigit((unsigned char)*v))
		return bad(p, "error=%s: not a known error name (use its number)", v);
	int err = parse_number(p, "error", v, &n);
	if (err)
		return err;
	if (n > 4095)
		return bad(p, "error=%s: not an error number", v);
	p->r->error = -(int)n;
	return 0;
}

static int parse_delay(struct parse *p, const char *v)
{
	char *end;
	double n = strtod(v, &end);
	double unit = !strcmp(end, "us") ? 1 : !strcmp(end, "ms") ? 1e3 : !strcmp(end, "s") ? 1e6 : 0;
	if (end == v || unit == 0 || !(n > 0) || n * unit > 60e6)
		return bad(p, "delay=%s: a time such as 200us, 50ms or 2s is wanted, at most 60s", v);
	p->r->delay_us = (uint64_t)(n * unit);
	return 0;
}

static int parse_prob(struct parse *p, const char *v)
{
	char *end;
	p->r->prob = strtod(v, &end);
	if (end == v || *end || !(p->r->prob > 0) || p->r->prob > 1)
		return bad(p, "prob=%s: a number above 0 and up to 1 is wanted", v);
	return 0;
}

static int parse_item(struct parse *p, const char *key, char *v)
{
	if (!v) {
		if (!strcmp(key, "crash"))
			p->r->crash = true;
		else if (!strcmp(key, "after"))
			p->r->after = true;
		else
			return bad(p, "%s: not an item of a rule (op, nth, every, prob, seed, limit, delay, error, after, short, crash)", key);
		return 0;
	}
	if (!strcmp(key, "op"))
		return parse_ops(p, v);
	if (!strcmp(key, "error"))
		return parse_error(p, v);
	if (!strcmp(key, "delay"))
		return parse_delay(p, v);
	if (!strcmp(key, "prob"))
		return parse_prob(p, v);
	struct { const char *name; uint64_t *to; } numbers[] = {
		{ "nth", &p->r->nth }, { "every", &p->r->every }, { "limit", &p->r->limit }, { "seed", &p->r->seed },
		{ "short", &p->r->short_bytes },
	};
	for (unsigned i = 0; i < ARRAY_LEN(numbers); i++)
		if (!strcmp(numbers[i].name, key))
			return parse_number(p, key, v, numbers[i].to);
	return bad(p, "%s=: not an item of a rule (op, nth, every, prob, seed, limit, delay, error, after, short, crash)", key);
}

static char *trim(char *s)
{
	while (isspace((unsigned char)*s))
		s++;
	for (size_t n = strlen(s); n && isspace((unsigned char)s[n - 1]); n--)
		s[n - 1] = '\0';
	return s;
}

static int check_rule(struct parse *p)
{
	struct rule *r = p->r;
	const uint64_t sized = UINT64_C(1) << F_read | UINT64_C(1) << F_write | UINT64_C(1) << F_copy_range;
	if ((r->nth != 0) + (r->every != 0) + (r->prob > 0) > 1)
		return bad(p, "only one of nth, every, prob can be in a rule");
	if (!r->delay_us && !r->error && !r->short_bytes && !r->crash)
		return bad(p, "a rule without delay, error, short or crash does nothing");
	if (r->after && !r->error && !r->crash)
		return bad(p, "after: only with error or crash");
	if (r->short_bytes && r->ops & ~sized)
		return bad(p, "short: only with op=read, write or copy_range");
	if (!r->ops)
		r->ops = r->short_bytes ? sized : UINT64_MAX;
	return 0;
}

static int parse_rule(struct parse *p, char *text)
{
	char *save = NULL;
	for (char *s = strtok_r(text, ",", &save); s; s = strtok_r(NULL, ",", &save)) {
		char *v = strchr(s, '=');
		if (v)
			*v++ = '\0';
		int err = parse_item(p, trim(s), v ? trim(v) : NULL);
		if (err)
			return err;
	}
	return check_rule(p);
}

int fault_parse(const char *text, struct fault_rules **out, char *err, size_t err_size)
{
	auto_free char *copy = strdup(text);
	auto_free struct fault_rules *rules = calloc(1, sizeof(*rules));
	char *save = NULL;
	if (!copy || !rules)
		return -ENOMEM;
	for (char *s = strtok_r(copy, ";", &save); s; s = strtok_r(NULL, ";", &save)) {
		struct parse p = { .r = &rules->r[rules->n], .err = err, .err_size = err_size };
		if (!*trim(s))
			continue;
		if (rules->n == FAULT_RULES_MAX)
			return bad(&p, "more than %d rules", FAULT_RULES_MAX);
		int r = parse_rule(&p, trim(s));
		if (r)
			return r;
		rules->n++;
	}
	if (!rules->n)
		return bad(&(struct parse){ .err = err, .err_size = err_size }, "no rule: e.g. op=write,nth=100,error=EIO");
	*out = steal_ptr(&rules);
	return 0;
}

void fault_rules_free(struct fault_rules *r) { free(r); }

/* ---- acting ---- */

/* What awaits a call. */
struct hit {
	int error;
	bool after, crash_after;
	size_t max;			/* bytes */
};

static uint64_t mix(uint64_t x)
{
	x += 0x9e3779b97f4a7c15u;
	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
	x = (x ^ x >> 27) * 0x94d049bb133111ebu;
	return x ^ x >> 31;
}

static bool fires(struct rule *r, enum fault_op op)
{
	if (!(r->ops >> op & 1))
		return false;
	uint64_t n = atomic_fetch_add(&r->calls, 1) + 1;
	if ((r->nth && n != r->nth) || (r->every && n % r->every))
		return false;
	if (r->prob > 0 && (double)(mix(mix(r->seed) + n) >> 11) * 0x1p-53 >= r->prob)
		return false;
	uint64_t fired = atomic_fetch_add(&r->fired, 1);
	return !r->limit || fired < r->limit;
}

static void delay(uint64_t us)
{
	struct timespec t = { .tv_sec = (time_t)(us / 1000000), .tv_nsec = (long)(us % 1000000) * 1000 };
	while (nanosleep(&t, &t) < 0 && errno == EINTR)
		;
}

static struct hit fault_hit(struct fault *f, enum fault_op op)
{
	struct hit h = { .max = SIZE_MAX };
	atomic_fetch_add(&f->calls, 1);
	for (unsigned i = 0; i < f->rules->n; i++) {
		struct rule *r = &f->rules->r[i];
		if (!fires(r, op))
			continue;
		atomic_fetch_add(&f->fired, 1);
		if (r->delay_us)
			delay(r->delay_us);
		if (r->crash && !r->after)
			kill(getpid(), SIGKILL);
		h.crash_after |= r->crash;
		if (r->error && !h.error) {
			h.error = r->error;
			h.after = r->after;
		}
		if (r->short_bytes && r->short_bytes < h.max)
			h.max = r->short_bytes;
	}
	return h;
}

/* After the call below: does it fail nevertheless? */
static bool fails_after(const struct hit *h, struct call *c, bool ok)
{
	if (h->crash_after)
		kill(getpid(), SIGKILL);
	if (!h->error || !h->after || !ok)
		return false;
	if (c && c->effect)
		c->effect->changed = true;
	return true;
}

static struct fault *to_fault(struct layer *l) { return (struct fault *)l; }

/* Operation OP of layer L with call C (or NULL): EXPR calls the layer below; UNDO, when that succeeded and OP is to fail. H is visible in
 * EXPR. */
#define RUN(op, c, expr, undo) ({ \
	struct hit h = fault_hit(to_fault(l), F_##op); \
	__typeof__(expr) r_ = h.error; \
	if (!h.error || h.after) \
		r_ = (expr); \
	if ((!h.error || h.after) && fails_after(&h, c, r_ >= 0)) { \
		undo; \
		r_ = h.error; \
	} \
	r_; })
#define NEXT(op, ...) l->below->ops->op(l->below, __VA_ARGS__)
#define NOTHING (void)0
static size_t least(size_t a, size_t b) { return a < b ? a : b; }

static int f_lookup(struct layer *l, struct call *c, uint64_t parent, const char *name, struct attr *out)
{
	return RUN(lookup, c, NEXT(lookup, c, parent, name, out), NOTHING);
}

static int f_resolve(struct layer *l, uint64_t parent, const char *name, uint64_t *id, uint32_t *type)
{
	return RUN(resolve, NULL, NEXT(resolve, parent, name, id, type), NOTHING);
}

static int f_create(struct layer *l, struct call *c, uint64_t parent, const char *name, const struct create *cr, int flags, struct attr *out,
		    struct file **file)
{
	return RUN(create, c, NEXT(create, c, parent, name, cr, flags, out, file), if (file) NEXT(release, c, *file));
}

static int f_tmpfile(struct layer *l, struct call *c, uint64_t parent, const struct create *cr, int flags, struct attr *out,
		     struct file **file)
{
	return RUN(tmpfile, c, NEXT(tmpfile, c, parent, cr, flags, out, file), if (file) NEXT(release, c, *file));
}

static int f_unlink(struct layer *l, struct call *c, uint64_t parent, const char *name)
{
	return RUN(unlink, c, NEXT(unlink, c, parent, name), NOTHING);
}

static int f_rmdir(struct layer *l, struct call *c, uint64_t parent, const char *name)
{
	return RUN(rmdir, c, NEXT(rmdir, c, parent, name), NOTHING);
}

static int f_rename(struct layer *l, struct call *c, uint64_t parent, const char *name, uint64_t newparent, const char *newname,
		    unsigned flags)
{
	return RUN(rename, c, NEXT(rename, c, parent, name, newparent, newname, flags), NOTHING);
}

static int f_link(struct layer *l, struct call *c, uint64_t id, uint64_t newparent, const char *newname, struct attr *out)
{
	return RUN(link, c, NEXT(link, c, id, newparent, newname, out), NOTHING);
}

static ssize_t f_readlink(struct layer *l, struct call *c, uint64_t id, char *buf, size_t size)
{
	return RUN(readlink, c, NEXT(readlink, c, id, buf, size), NOTHING);
}

static int f_getattr(struct layer *l, struct call *c, uint64_t id, struct file *f, struct attr *out)
{
	return RUN(getattr, c, NEXT(getattr, c, id, f, out), NOTHING);
}

static int f_setattr(struct layer *l, struct call *c, uint64_t id, struct file *f, const struct setattr *s, struct attr *out)
{
	return RUN(setattr, c, NEXT(setattr, c, id, f, s, out), NOTHING);
}

static int f_access(struct layer *l, struct call *c, uint64_t id, unsigned want, unsigned *granted)
{
	*granted = 0;
	return RUN(access, c, NEXT(access, c, id, want, granted), *granted = 0);
}

static ssize_t f_getxattr(struct layer *l, struct call *c, uint64_t id, const char *name, void *value, size_t size)
{
	return RUN(getxattr, c, NEXT(getxattr, c, id, name, value, size), NOTHING);
}

static ssize_t f_listxattr(struct layer *l, struct call *c, uint64_t id, char *list, size_t size)
{
	return RUN(listxattr, c, NEXT(listxattr, c, id, list, size), NOTHING);
}

static int f_setxattr(struct layer *l, struct call *c, uint64_t id, const char *name, const void *value, size_t size, int flags)
{
	return RUN(setxattr, c, NEXT(setxattr, c, id, name, value, size, flags), NOTHING);
}

static int f_removexattr(struct layer *l, struct call *c, uint64_t id, const char *name)
{
	return RUN(removexattr, c, NEXT(removexattr, c, id, name), NOTHING);
}

static int f_getflags(struct layer *l, struct call *c, uint64_t id, uint32_t *flags)
{
	return RUN(getflags, c, NEXT(getflags, c, id, flags), NOTHING);
}

static int f_setflags(struct layer *l, struct call *c, uint64_t id, uint32_t flags)
{
	return RUN(setflags, c, NEXT(setflags, c, id, flags), NOTHING);
}

static int f_open(struct layer *l, struct call *c, uint64_t id, int flags, struct file **out)
{
	return RUN(open, c, NEXT(open, c, id, flags, out), NEXT(release, c, *out));
}

static int f_release(struct layer *l, struct call *c, struct file *f)
{
	struct hit h = fault_hit(to_fault(l), F_release);
	int err = NEXT(release, c, f);
	fails_after(&h, c, true);
	return h.error ? h.error : err;
}

static ssize_t f_read(struct layer *l, struct call *c, struct file *f, void *buf, size_t size, uint64_t off)
{
	return RUN(read, c, NEXT(read, c, f, buf, least(size, h.max), off), NOTHING);
}

static ssize_t f_write(struct layer *l, struct call *c, struct file *f, const struct wdata *d, uint64_t off, unsigned flags,
		       struct attr *attr)
{
	struct wdata part = *d;
	return RUN(write, c, (part.len = least(d->len, h.max), NEXT(write, c, f, &part, off, flags, attr)), NOTHING);
}

static int f_fsync(struct layer *l, struct call *c, uint64_t id, struct file *f, bool datasync)
{
	return RUN(fsync, c, NEXT(fsync, c, id, f, datasync), NOTHING);
}

static int f_fallocate(struct layer *l, struct call *c, struct file *f, int mode, uint64_t off, uint64_t len)
{
	return RUN(fallocate, c, NEXT(fallocate, c, f, mode, off, len), NOTHING);
}

static ssize_t f_copy_range(struct layer *l, struct call *c, struct file *in, uint64_t off_in, struct file *out, uint64_t off_out,
			    size_t len)
{
	return RUN(copy_range, c, NEXT(copy_range, c, in, off_in, out, off_out, least(len, h.max)), NOTHING);
}

static int64_t f_lseek(struct layer *l, struct call *c, struct file *f, uint64_t off, int whence)
{
	return RUN(lseek, c, NEXT(lseek, c, f, off, whence), NOTHING);
}

static int f_opendir(struct layer *l, struct call *c, uint64_t id, struct dir **out)
{
	return RUN(opendir, c, NEXT(opendir, c, id, out), NEXT(releasedir, c, *out));
}

static int f_readdir(struct layer *l, struct call *c, struct dir *d, uint64_t pos, readdir_fn fn, void *arg)
{
	return RUN(readdir, c, NEXT(readdir, c, d, pos, fn, arg), NOTHING);
}

static int f_releasedir(struct layer *l, struct call *c, struct dir *d)
{
	struct hit h = fault_hit(to_fault(l), F_releasedir);
	int err = NEXT(releasedir, c, d);
	fails_after(&h, c, true);
	return h.error ? h.error : err;
}

static int f_statfs(struct layer *l, struct call *c, struct statvfs *out)
{
	return RUN(statfs, c, NEXT(statfs, c, out), NOTHING);
}

static void f_forget(struct layer *l, uint64_t id) { l->below->ops->forget(l->below, id); }

static void f_destroy(struct layer *l)
{
	fault_rules_free(to_fault(l)->rules);
	free(l);
}

#define AS_OP(n) .n = f_##n,
static const struct layer_ops fault_ops = { .destroy = f_destroy, .forget = f_forget, FAULT_OPS(AS_OP) };

int fault_new(struct layer *below, struct fault_rules *rules, struct layer **out)
{
	struct fault *f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	f->layer = (struct layer){ .ops = &fault_ops, .below = below, .name = "fault" };
	f->rules = rules;
	*out = &f->layer;
	return 0;
}

uint64_t fault_fired(struct layer *fault) { return atomic_load(&to_fault(fault)->fired); }
uint64_t fault_calls(struct layer *fault) { return atomic_load(&to_fault(fault)->calls); }
