/*
 * NFS version 3, byte for byte: the requests of tests/unit/nfs3_golden.txt, in their order, against the answers that stand there.
 *
 *	# remark
 *	PROCEDURE [uid UID]
 *	> arguments in hex
 *	< results in hex; `..' is any byte
 *
 * Ids, positions and handles are what they are on every node; the clock stands still (the volume clock never goes back: it has seen GOLDEN_TIME). What is each node's
 * own (atime, free space) or random (the write verifier) is `..'. NFS3_GOLDEN_WRITE=FILE writes the file anew, to be looked at.
 */
#include "nfs3_env.h"

#include <ctype.h>

enum { GOLDEN_TIME = 2000000000, LINE_MAX_ = 1 << 17 };

static const char *const procs[NFS3_PROCS] = {
	"NULL", "GETATTR", "SETATTR", "LOOKUP", "ACCESS", "READLINK", "READ", "WRITE", "CREATE", "MKDIR", "SYMLINK", "MKNOD", "REMOVE", "RMDIR",
	"RENAME", "LINK", "READDIR", "READDIRPLUS", "FSSTAT", "FSINFO", "PATHCONF", "COMMIT",
};

static unsigned proc_by_name(const char *line, uid_t *uid)
{
	char name[32] = "";

	*uid = 0;
	sscanf(line, "%31s uid %u", name, uid);
	for (unsigned i = 0; i < NFS3_PROCS; i++)
		if (!strcmp(name, procs[i]))
			return i;
	ck_abort_msg("no procedure: %s", line);
	return 0;
}

static void read_args(const char *hex)
{
	args.len = 0;
	for (; *hex; hex++) {
		unsigned v;
		if (isspace((unsigned char)*hex))
			continue;
		ck_assert_int_eq(sscanf(hex, "%2x", &v), 1);
		args.p[args.len++] = (unsigned char)v;
		hex++;
	}
}

/* Like WANT, with the bytes that are `..' there left open. */
static char *result_like(const char *want)
{
	char *out = calloc(1, 3 * res.len + 2), *w = out;
	const char *p = want;

	for (size_t i = 0; i < res.len; i++) {
		while (*p == ' ')
			p++;
		bool open = p[0] == '.' && p[1] == '.';
		w += sprintf(w, open ? ".." : "%02x", res.p[i]);
		if (i % 4 == 3 && i + 1 < res.len)
			*w++ = ' ';
		p += *p && p[1] ? 2 : 0;
	}
	return out;
}

static void trim(char *s)
{
	size_t n = strlen(s);

	while (n && isspace((unsigned char)s[n - 1]))
		s[--n] = '\0';
}

START_TEST(every_procedure_answers_with_these_bytes)
{
	static struct nfs_env e;
	static char line[LINE_MAX_], what[256], remark[256];
	FILE *f = fopen("tests/unit/nfs3_golden.txt", "r"), *out = NULL;
	const char *write = getenv("NFS3_GOLDEN_WRITE");
	unsigned proc = 0, calls = 0, seen = 0;

	ck_assert_msg(f != NULL, "tests are run from the top folder");
	if (write)
		ck_assert_ptr_nonnull(out = fopen(write, "w"));
	nfs_start(&e);
	interpose_clock_seen(e.p.ip, (struct timespec){ .tv_sec = GOLDEN_TIME, .tv_nsec = 123456789 });
	while (fgets(line, sizeof line, f)) {
		trim(line);
		if (out && line[0] != '<')
			fprintf(out, "%s\n", line);
		if (line[0] == '#' || !line[0]) {
			snprintf(remark, sizeof remark, "%.250s", line);
		} else if (line[0] == '>') {
			read_args(line + 1);
			nfs_call(&e, proc);
			calls++;
			seen |= 1u << proc;
		} else if (line[0] == '<') {
			char *got = result_like(line + 2);
			if (out)
				fprintf(out, "< %s\n", got);
			else
				ck_assert_msg(!strcmp(got, line + 2), "%s: %s\n got %s\nwant %s", what, remark, got, line + 2);
			free(got);
		} else {
			snprintf(what, sizeof what, "%.250s", line);
			proc = proc_by_name(line, &e.uid);
		}
	}
	fclose(f);
	if (out)
		fclose(out);
	ck_assert_msg(seen == (1u << NFS3_PROCS) - 1, "not all procedures: %x", seen);
	ck_assert_uint_gt(calls, NFS3_PROCS);
	ck_assert_int_eq(pair_settle(&e.p), 0);
	ck_assert_uint_eq(pair_compare(&e.p, NULL), 0);
	nfs_stop(&e);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("nfs3_golden");
	TCase *t = tcase_create("bytes");

	log_init("nfs3_golden_test", LOG_SINK_STDERR, LOG_LVL_ERROR);
	tcase_add_unchecked_fixture(t, pair_mount, pair_unmount);
	tcase_set_timeout(t, 120);
	tcase_add_test(t, every_procedure_answers_with_these_bytes);
	suite_add_tcase(s, t);
	SRunner *sr = srunner_create(s);
	srunner_run_all(sr, CK_ENV);
	int failed = srunner_ntests_failed(sr);
	srunner_free(sr);
	return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
