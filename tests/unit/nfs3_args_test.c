/*
 * Arguments of procedures (nfsd-glue/args.h): what is well-formed passes, everything that lies about a length is GARBAGE_ARGS, names that can't be are told apart.
 * Every prefix of valid arguments, and valid arguments with something behind them, are refused; whatever is flipped in them, nothing outside them is read
 * (the sanitizers' build sees to that: they lie at the end of a heap block of exactly their size).
 */
#include <check.h>
#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "nfsd-glue/args.h"
#include "nfsd-glue/nfs3_int.h"

struct buf {
	unsigned char p[8192];
	size_t len;
};

static void u32(struct buf *b, uint32_t v)
{
	xdr_put32(b->p + b->len, v);
	b->len += 4;
}

static void u64(struct buf *b, uint64_t v)
{
	u32(b, (uint32_t)(v >> 32));
	u32(b, (uint32_t)v);
}

static void bytes(struct buf *b, const void *p, size_t len)
{
	u32(b, (uint32_t)len);
	memcpy(b->p + b->len, p, len);
	memset(b->p + b->len + len, 0, xdr_pad(len));
	b->len += len + xdr_pad(len);
}

static void fh(struct buf *b) { bytes(b, "0123456789abcdef0123456789abcdef01234567", 40); }
static void name(struct buf *b, const char *s) { bytes(b, s, strlen(s)); }

/* All fields set. */
static void sattr(struct buf *b)
{
	u32(b, 1), u32(b, 0100644);
	u32(b, 1), u32(b, 1000);
	u32(b, 1), u32(b, 100);
	u32(b, 1), u64(b, 1 << 20);
	u32(b, 2), u32(b, 1000000), u32(b, 999999999);
	u32(b, 1);
}

/* On a heap block of its own, so that a look behind it is noticed. */
static int check_copy(const char *shape, const void *p, size_t len)
{
	unsigned char *copy = calloc(1, len ? len : 1);

	memcpy(copy, p, len);
	int r = args_check(shape, copy, len);
	free(copy);
	return r;
}

static int checked(const char *shape, const struct buf *b) { return check_copy(shape, b->p, b->len); }

/* Valid arguments of every procedure. */
static void valid(unsigned proc, struct buf *b)
{
	b->len = 0;
	if (proc == P_NULL)
		return;
	fh(b);
	switch (proc) {
	case P_SETATTR: sattr(b), u32(b, 1), u32(b, 7), u32(b, 8); break;
	case P_LOOKUP:
	case P_REMOVE:
	case P_RMDIR: name(b, "a name"); break;
	case P_ACCESS: u32(b, 0x3f); break;
	case P_READ:
	case P_COMMIT: u64(b, 1 << 30), u32(b, 4096); break;
	case P_WRITE: u64(b, 5), u32(b, 11), u32(b, 2), bytes(b, "hello world", 11); break;
	case P_CREATE: name(b, "f"), u32(b, 1), sattr(b); break;
	case P_MKDIR: name(b, "dir"), sattr(b); break;
	case P_SYMLINK: name(b, "link"), sattr(b), name(b, "/some/where"); break;
	case P_MKNOD: name(b, "null"), u32(b, NFS3_CHR), sattr(b), u32(b, 1), u32(b, 3); break;
	case P_RENAME: name(b, "from"), fh(b), name(b, "to"); break;
	case P_LINK: fh(b), name(b, "again"); break;
	case P_READDIR: u64(b, 0), u64(b, 0), u32(b, 4096); break;
	case P_READDIRPLUS: u64(b, 0), u64(b, 0), u32(b, 1024), u32(b, 4096); break;
	default: break;
	}
}

START_TEST(whole_arguments_pass_and_torn_ones_do_not)
{
	struct buf b;

	valid((unsigned)_i, &b);
	const char *shape = nfs3_procs[_i].shape;
	ck_assert_int_eq(checked(shape, &b), 0);
	for (size_t len = 0; len < b.len; len++)
		ck_assert_msg(check_copy(shape, b.p, len) == -EBADMSG, "procedure %d: %zu of %zu bytes", _i, len, b.len);
	u32(&b, 0);
	ck_assert_int_eq(checked(shape, &b), -EBADMSG);
}
END_TEST

/* Every word replaced by every nasty value: an answer, whatever it is, and nothing read that isn't there. */
START_TEST(no_word_of_them_is_believed)
{
	static const uint32_t nasty[] = { 0, 1, 2, 3, 4, 7, 8, 64, 65, 255, 256, 4095, 4096, 1 << 20, (1 << 20) + 1, 0x7ffffffc, 0x7fffffff, 0x80000000,
					  0xfffffffc, 0xfffffffd, 0xffffffff };
	struct buf b, n;
	static struct nfs3_args a;

	valid((unsigned)_i, &b);
	for (size_t at = 0; at + 4 <= b.len; at += 4)
		for (unsigned v = 0; v < sizeof nasty / sizeof nasty[0]; v++) {
			n = b;
			xdr_put32(n.p + at, nasty[v]);
			int r = checked(nfs3_procs[_i].shape, &n);
			ck_assert(!r || r == -EBADMSG || r == -EINVAL || r == -ENAMETOOLONG);
			unsigned char *copy = malloc(n.len);
			memcpy(copy, n.p, n.len);
			ck_assert_int_eq(nfs3_args_decode((unsigned)_i, copy, n.len, &a), r);
			free(copy);
		}
}
END_TEST

START_TEST(handles_have_at_most_64_bytes)
{
	struct buf b = { 0 };
	char big[68] = "";

	bytes(&b, big, 64);
	ck_assert_int_eq(checked("f", &b), 0);
	b.len = 0;
	bytes(&b, big, 65);
	ck_assert_int_eq(checked("f", &b), -EBADMSG);
	b.len = 0;
	bytes(&b, big, 0);
	ck_assert_int_eq(checked("f", &b), 0);	/* a short one is a BADHANDLE, not garbage */
}
END_TEST

static int name_of(const void *p, size_t len)
{
	struct buf b = { 0 };

	bytes(&b, p, len);
	return checked("n", &b);
}

START_TEST(names_that_cannot_be_are_told_apart)
{
	char big[4096];

	memset(big, 'x', sizeof big);
	ck_assert_int_eq(name_of(big, 255), 0);
	ck_assert_int_eq(name_of(big, 256), -ENAMETOOLONG);
	ck_assert_int_eq(name_of(big, 4096), -ENAMETOOLONG);
	ck_assert_int_eq(name_of("", 0), -EINVAL);
	ck_assert_int_eq(name_of("a/b", 3), -EINVAL);
	ck_assert_int_eq(name_of("a\0b", 3), -EINVAL);
	ck_assert_int_eq(name_of("\0", 1), -EINVAL);
	ck_assert_int_eq(name_of("..", 2), 0);
}
END_TEST

START_TEST(targets_of_links_are_paths)
{
	struct buf b = { 0 };
	char big[4096];

	memset(big, '/', sizeof big);
	bytes(&b, big, 4095);
	ck_assert_int_eq(checked("p", &b), 0);
	b.len = 0;
	bytes(&b, big, 4096);
	ck_assert_int_eq(checked("p", &b), -ENAMETOOLONG);
	b.len = 0;
	bytes(&b, "a\0b", 3);
	ck_assert_int_eq(checked("p", &b), -EINVAL);
}
END_TEST

START_TEST(the_first_wrong_name_counts_and_garbage_beats_it)
{
	struct buf b = { 0 };

	name(&b, "");
	name(&b, "fine");
	ck_assert_int_eq(checked("nn", &b), -EINVAL);
	u32(&b, 1);
	ck_assert_int_eq(checked("nn", &b), -EBADMSG);
}
END_TEST

START_TEST(booleans_and_choices_are_what_they_may_be)
{
	struct buf b = { 0 };

	u32(&b, 2);
	ck_assert_int_eq(checked("b", &b), -EBADMSG);
	b.len = 0;
	fh(&b), name(&b, "f"), u32(&b, 3), u64(&b, 0);
	ck_assert_int_eq(checked("fnc", &b), -EBADMSG);
	b.len = 0;
	fh(&b), name(&b, "f"), u32(&b, NFS3_EXCLUSIVE), u64(&b, 42);
	ck_assert_int_eq(checked("fnc", &b), 0);
	b.len = 0;
	u32(&b, NFS3_REG);			/* a type that MKNOD refuses, with nothing behind it */
	ck_assert_int_eq(checked("k", &b), 0);
	b.len = 0;
	u32(&b, 8);
	ck_assert_int_eq(checked("k", &b), -EBADMSG);
	b.len = 0;
	u32(&b, 1), u32(&b, 5), u32(&b, 1000000000);
	ck_assert_int_eq(checked("g", &b), -EINVAL);
}
END_TEST

START_TEST(a_write_has_as_many_bytes_as_it_says)
{
	struct buf b = { 0 };

	fh(&b), u64(&b, 0), u32(&b, 12), u32(&b, 0), bytes(&b, "hello world", 11);
	ck_assert_int_eq(checked("fUw", &b), -EBADMSG);
	b.len = 0;
	fh(&b), u64(&b, 0), u32(&b, 11), u32(&b, 3), bytes(&b, "hello world", 11);
	ck_assert_int_eq(checked("fUw", &b), -EBADMSG);
	b.len = 0;
	fh(&b), u64(&b, 0), u32(&b, 0x80000000), u32(&b, 0), u32(&b, 0x80000000);
	ck_assert_int_eq(checked("fUw", &b), -EBADMSG);
}
END_TEST

static struct nfs3_args decoded(unsigned proc)
{
	static struct nfs3_args a;
	struct buf b;

	valid(proc, &b);
	ck_assert_int_eq(nfs3_args_decode(proc, b.p, b.len, &a), 0);
	a.fh.p = a.fh2.p = NULL;	/* of a buffer that is gone */
	return a;
}

START_TEST(decoding_gives_what_was_sent)
{
	struct nfs3_args a = decoded(P_SETATTR);

	ck_assert_uint_eq(a.set.valid, SET_MODE | SET_UID | SET_GID | SET_SIZE | SET_ATIME | SET_MTIME_NOW | SET_GUARD);
	ck_assert_uint_eq(a.set.mode, 0644);
	ck_assert_uint_eq(a.set.uid, 1000);
	ck_assert_uint_eq(a.set.gid, 100);
	ck_assert_uint_eq(a.set.size, 1 << 20);
	ck_assert_int_eq(a.set.atime.tv_nsec, 999999999);
	ck_assert_int_eq(a.set.ctime.tv_sec, 7);
	ck_assert_int_eq(a.set.ctime.tv_nsec, 8);
	a = decoded(P_WRITE);
	ck_assert_uint_eq(a.offset, 5);
	ck_assert_uint_eq(a.count, 11);
	ck_assert_uint_eq(a.stable, NFS3_FILE_SYNC);
	a = decoded(P_RENAME);
	ck_assert_str_eq(a.name, "from");
	ck_assert_str_eq(a.name2, "to");
	ck_assert_uint_eq(a.fh2.len, 40);
	a = decoded(P_LINK);
	ck_assert_str_eq(a.name, "again");
	ck_assert_uint_eq(a.fh2.len, 40);
	a = decoded(P_SYMLINK);
	ck_assert_str_eq(a.name, "link");
	ck_assert_str_eq(a.target, "/some/where");
	a = decoded(P_MKNOD);
	ck_assert_uint_eq(a.type, NFS3_CHR);
	ck_assert_uint_eq(a.rdev, 0x103);
	a = decoded(P_CREATE);
	ck_assert_uint_eq(a.how, NFS3_GUARDED);
	ck_assert_str_eq(a.name, "f");
	a = decoded(P_LOOKUP);
	ck_assert_str_eq(a.name, "a name");
	a = decoded(P_READDIRPLUS);
	ck_assert_uint_eq(a.dircount, 1024);
	ck_assert_uint_eq(a.count, 4096);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("nfs3_args");
	TCase *t = tcase_create("args");

	tcase_add_loop_test(t, whole_arguments_pass_and_torn_ones_do_not, 0, NFS3_PROCS);
	tcase_add_loop_test(t, no_word_of_them_is_believed, 0, NFS3_PROCS);
	tcase_add_test(t, handles_have_at_most_64_bytes);
	tcase_add_test(t, names_that_cannot_be_are_told_apart);
	tcase_add_test(t, targets_of_links_are_paths);
	tcase_add_test(t, the_first_wrong_name_counts_and_garbage_beats_it);
	tcase_add_test(t, booleans_and_choices_are_what_they_may_be);
	tcase_add_test(t, a_write_has_as_many_bytes_as_it_says);
	tcase_add_test(t, decoding_gives_what_was_sent);
	suite_add_tcase(s, t);
	SRunner *sr = srunner_create(s);
	srunner_run_all(sr, CK_ENV);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
