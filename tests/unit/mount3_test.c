/*
 * MOUNT version 3: golden bytes of every procedure, what wrong arguments and wrong clients get, and lists that stay within bounds.
 */
#include "local_env.h"

#include <arpa/inet.h>

#include "nfsd-glue/mount3.h"
#include "nfsd-glue/rpc_int.h"

#define HEAD "[volume]\nbacking = /x\n[node alpha]\nnumber = 1\n"

static struct env e;
static struct wirefh_codec fh;
static struct clients *cl;
static struct exports *x;
static struct mount3 m;
static struct rpc_program prog;
static struct attr pub, dir;

static int drop(void *arg, const void *data, size_t len)
{
	(void)arg, (void)data, (void)len;
	return -EROFS;
}

static void export_table(const char *text)
{
	static struct volume_conf conf;
	char err[CONF_ERR_MAX];

	ck_assert_msg(!conf_parse("home", "home.conf", text, strlen(text), NULL, "alpha", &conf, err, sizeof err), "%s", err);
	ck_assert_int_eq(x ? exports_reload(x, &conf) : exports_new(&conf, &x), 0);
}

static void setup(void)
{
	static const unsigned char key[WIREFH_KEY_LEN] = "key of a test...", uuid[UUID_LEN] = "0123456789abcdef";

	env_open(&e, 0);
	pub = env_mk(&e, HANDLE_ROOT, "pub", S_IFDIR | 0755);
	dir = env_mk(&e, pub.id, "dir", S_IFDIR | 0700);
	env_mk(&e, pub.id, "file", S_IFREG | 0644);
	env_mk(&e, pub.id, "link", S_IFLNK | 0777);
	wirefh_init(&fh, uuid, key);
	ck_assert_int_eq(clients_new(&(struct clients_config){ .emit = drop }, &cl), 0);
	x = NULL;
	export_table(HEAD "[export all]\nid = 258\nclients = 10.0.0.0/8\n[export pub]\nid = 2\npath = /pub\nclients = 192.0.2.0/24, 2001:db8::1\nsecure = no\n");
	m = (struct mount3){ .exports = x, .top = e.l, .fh = &fh, .clients = cl };
	prog = mount3_program(&m);
}

static void teardown(void)
{
	clients_free(cl);
	exports_free(x);
	env_close(&e);
}

/* ---- calling ---- */

static unsigned char buf[16 << 10];
static struct rpc_reply r;

static enum rpc_verdict call_raw(uint32_t proc, const char *from, const void *args, size_t len)
{
	struct sockaddr_storage peer = { 0 };
	struct sockaddr_in *v4 = (void *)&peer;
	struct rpc_call c = { .prog = MOUNT3_PROGRAM, .vers = 3, .proc = proc, .args = args, .args_len = len, .peer = &peer };

	v4->sin_family = AF_INET;
	v4->sin_port = htons(900);
	ck_assert_int_eq(inet_pton(AF_INET, from, &v4->sin_addr), 1);
	rpc_reply_end(&r);
	rpc_reply_init(&r, buf, sizeof buf);
	return prog.handle(prog.arg, &c, &r);
}

static void call(uint32_t proc, const char *from, const char *path)
{
	unsigned char args[2048];
	struct xdr_out out = xdr_out(args, sizeof args);

	if (path)
		xdr_out_opaque(&out, path, strlen(path));
	ck_assert_int_eq(call_raw(proc, from, args, out.len), RPC_REPLY);
	ck_assert(!r.full);
}

static void is_bytes(const char *hex)
{
	char *got = calloc(1, 2 * r.len + 1), want[4096], *w = want;

	for (size_t i = 0; i < r.len; i++)
		sprintf(got + 2 * i, "%02x", r.p[i]);
	for (; *hex; hex++)
		if (*hex != ' ')
			*w++ = *hex;
	*w = 0;
	ck_assert_str_eq(got, want);
	free(got);
}

static uint32_t mnt_status(const char *from, const char *path)
{
	call(1, from, path);
	return xdr_get32(r.p);
}

/* The handle in the reply to a successful MNT. */
static struct wirefh given(void)
{
	struct wirefh h;

	ck_assert_uint_eq(r.len, 4 + 4 + WIREFH_SIZE + 8);
	ck_assert_uint_eq(xdr_get32(r.p + 4), WIREFH_SIZE);
	ck_assert_int_eq(wirefh_decode(&fh, r.p + 8, WIREFH_SIZE, &h), 0);
	return h;
}

enum { NULLPROC, MNT, DUMP, UMNT, UMNTALL, EXPORT };

/* ---- tests ---- */

START_TEST(golden_bytes)
{
	unsigned char bytes[WIREFH_SIZE];
	char hex[2 * WIREFH_SIZE + 1], want[512];

	call(NULLPROC, "10.0.0.1", NULL);
	ck_assert_uint_eq(r.len, 0);
	wirefh_encode(&fh, &(struct wirefh){ .export_id = 258, .gen = 0, .id = HANDLE_ROOT }, bytes);
	for (size_t i = 0; i < sizeof bytes; i++)
		sprintf(hex + 2 * i, "%02x", bytes[i]);
	call(MNT, "10.0.0.1", "/");
	snprintf(want, sizeof want, "00000000 00000028 %s 00000001 00000001", hex);
	is_bytes(want);
	call(MNT, "192.0.2.9", "/pub/dir");
	ck_assert_uint_eq(given().id, dir.id);
	/* value follows, "10.0.0.1", "/", value follows, "192.0.2.9", "/pub/dir", end */
	call(DUMP, "203.0.113.1", NULL);
	static const char one[] = "00000001 00000008 31302e302e302e31 00000001 2f000000 ";
	static const char two[] = "00000001 00000009 3139322e302e322e39000000 00000008 2f7075622f646972 ";
	snprintf(want, sizeof want, "%s%s00000000", one, two);
	is_bytes(want);
	call(EXPORT, "203.0.113.1", NULL);
	is_bytes("00000001 00000001 2f000000 00000001 0000000a 31302e302e302e302f380000 00000000 "
		 "00000001 00000004 2f707562 00000001 0000000c 3139322e302e322e302f3234 00000001 0000000b 323030313a6462383a3a3100 00000000 00000000");
	call(UMNT, "192.0.2.9", "/pub/dir");
	ck_assert_uint_eq(r.len, 0);
	call(DUMP, "203.0.113.1", NULL);
	snprintf(want, sizeof want, "%s00000000", one);
	is_bytes(want);
	call(UMNTALL, "10.0.0.1", NULL);
	ck_assert_uint_eq(r.len, 0);
	call(DUMP, "203.0.113.1", NULL);
	is_bytes("00000000");
}
END_TEST

START_TEST(handles_of_what_is_mounted)
{
	ck_assert_uint_eq(mnt_status("10.0.0.1", "/"), 0);
	struct wirefh h = given();
	ck_assert_uint_eq(h.export_id, 258);
	ck_assert_uint_eq(h.id, HANDLE_ROOT);
	ck_assert_uint_eq(h.gen, 0);
	ck_assert_uint_eq(mnt_status("10.0.0.1", "//pub///dir//"), 0);	/* as people type it */
	h = given();
	ck_assert_uint_eq(h.export_id, 258);
	ck_assert_uint_eq(h.id, dir.id);
	ck_assert_uint_eq(h.gen, dir.gen);
	ck_assert_uint_eq(mnt_status("192.0.2.1", "/pub"), 0);
	h = given();
	ck_assert_uint_eq(h.export_id, 2);
	ck_assert_uint_eq(h.id, pub.id);
}
END_TEST

static const struct { const char *from, *path; uint32_t status; } refusals[] = {
	{ "10.0.0.1", "/none", 2 }, { "10.0.0.1", "/pub/file", 20 }, { "10.0.0.1", "/pub/link", 20 }, { "10.0.0.1", "/pub/link/x", 20 },
	{ "10.0.0.1", "/pub/file/x", 20 }, { "10.0.0.1", "/pub/..", 13 }, { "10.0.0.1", "/./pub", 13 }, { "10.0.0.1", "/..", 13 },
	{ "10.0.0.1", "", 13 }, { "10.0.0.1", "pub", 13 }, { "10.0.0.1", "all", 13 }, { "10.0.0.1", "/.tandemfs", 2 },
	{ "192.0.2.1", "/", 13 }, { "192.0.2.1", "/none", 13 }, { "192.0.2.1", "/pub/../", 13 }, { "192.0.2.1", "/pub/none", 2 },
	{ "203.0.113.1", "/", 13 }, { "203.0.113.1", "/pub", 13 }, { "203.0.113.1", "/none", 13 },
};

START_TEST(what_is_refused)
{
	char path[MOUNT3_PATH_MAX + 1] = "/";

	for (size_t i = 0; i < ARRAY_LEN(refusals); i++) {
		uint32_t st = mnt_status(refusals[i].from, refusals[i].path);
		ck_assert_msg(st == refusals[i].status, "%s %s: %u", refusals[i].from, refusals[i].path, st);
		ck_assert_uint_eq(r.len, 4);
	}
	memset(path + 1, 'x', sizeof path - 2);
	ck_assert_uint_eq(mnt_status("10.0.0.1", path), 63);
	call(DUMP, "10.0.0.1", NULL);
	is_bytes("00000000");
	export_table(HEAD);
	ck_assert_uint_eq(mnt_status("10.0.0.1", "/"), 13);
	call(EXPORT, "10.0.0.1", NULL);
	is_bytes("00000000");
}
END_TEST

START_TEST(garbage)
{
	static const unsigned char nul[] = { 0, 0, 0, 4, '/', 0, 'p', 'x' }, lies[] = { 0, 0, 0, 5, '/', 'p', 'u', 'b' }, empty[4] = { 0 };
	static const unsigned char huge[] = { 0x7f, 0xff, 0xff, 0xff, '/', 0, 0, 0 }, more[] = { 0, 0, 0, 1, '/', 0, 0, 0, 0, 0, 0, 0 }, neg[] = { 0xff, 0xff, 0xff, 0xff };
	static unsigned char longer[MOUNT3_PATH_MAX + 8] = { 0, 0, 4, 1, '/' };
	static const uint32_t with_path[] = { MNT, UMNT }, without[] = { NULLPROC, DUMP, UMNTALL, EXPORT };

	for (unsigned i = 0; i < ARRAY_LEN(with_path); i++) {
		ck_assert_int_eq(call_raw(with_path[i], "10.0.0.1", "", 0), RPC_GARBAGE_ARGS);
		ck_assert_int_eq(call_raw(with_path[i], "10.0.0.1", lies, sizeof lies), RPC_GARBAGE_ARGS);
		ck_assert_int_eq(call_raw(with_path[i], "10.0.0.1", lies, 3), RPC_GARBAGE_ARGS);
		ck_assert_int_eq(call_raw(with_path[i], "10.0.0.1", huge, sizeof huge), RPC_GARBAGE_ARGS);
		ck_assert_int_eq(call_raw(with_path[i], "10.0.0.1", neg, sizeof neg), RPC_GARBAGE_ARGS);
		ck_assert_int_eq(call_raw(with_path[i], "10.0.0.1", more, sizeof more), RPC_GARBAGE_ARGS);
		ck_assert_int_eq(call_raw(with_path[i], "10.0.0.1", longer, sizeof longer), RPC_GARBAGE_ARGS);
	}
	for (unsigned i = 0; i < ARRAY_LEN(without); i++)
		ck_assert_int_eq(call_raw(without[i], "10.0.0.1", empty, sizeof empty), RPC_GARBAGE_ARGS);
	ck_assert_int_eq(call_raw(MNT, "10.0.0.1", nul, sizeof nul), RPC_REPLY);
	ck_assert_uint_eq(xdr_get32(r.p), 22);
	ck_assert_int_eq(call_raw(UMNT, "10.0.0.1", nul, sizeof nul), RPC_REPLY);
	ck_assert_int_eq(call_raw(6, "10.0.0.1", "", 0), RPC_PROC_UNAVAIL);
	ck_assert_uint_eq(prog.nprocs, 6);
}
END_TEST

/* Walks a list of pairs of strings. */
static unsigned count_pairs(void)
{
	struct xdr_in in = xdr_in(r.p, r.len);
	unsigned n = 0;
	uint32_t len;

	while (xdr_bool(&in)) {
		xdr_opaque(&in, 255, &len);
		xdr_opaque(&in, 1024, &len);
		n++;
	}
	ck_assert(xdr_done(&in));
	return n;
}

START_TEST(the_list_is_bounded)
{
	char path[900], from[32];

	for (unsigned i = 0; i < 1000; i++) {	/* noted for people, whatever is there now */
		struct sockaddr_storage peer = { 0 };
		struct sockaddr_in *v4 = (void *)&peer;
		memset(path, 'x', sizeof path - 1);
		path[sizeof path - 1] = 0;
		snprintf(from, sizeof from, "10.0.%u.%u", i / 200, i % 200);
		v4->sin_family = AF_INET;
		ck_assert_int_eq(inet_pton(AF_INET, from, &v4->sin_addr), 1);
		clients_mounted(cl, &peer, path);
	}
	call(DUMP, "10.0.0.1", NULL);
	unsigned n = count_pairs();
	ck_assert_uint_gt(n, 400);
	ck_assert_uint_lt(n, 1000);
	ck_assert_uint_lt(r.len, MOUNT3_LIST_MAX + 2048);
}
END_TEST

START_TEST(what_may_wait)
{
	for (uint32_t proc = 0; proc < prog.nprocs; proc++) {
		struct rpc_call c = { .proc = proc };
		ck_assert_int_eq(prog.speed(prog.arg, &c), proc == MNT || proc == DUMP ? RPC_DISK : RPC_FAST);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("mount3");
	TCase *t = tcase_create("mount3");

	if (!env_setup())
		return EXIT_SUCCESS;
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 120);
	tcase_add_test(t, golden_bytes);
	tcase_add_test(t, handles_of_what_is_mounted);
	tcase_add_test(t, what_is_refused);
	tcase_add_test(t, garbage);
	tcase_add_test(t, the_list_is_bounded);
	tcase_add_test(t, what_may_wait);
	suite_add_tcase(s, t);
	return env_run(s);
}
