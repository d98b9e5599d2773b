/*
 * NLM and NSM with everything around them but files: a layer that has a few, exports, the lock table, a state directory, and a client host on loopback, whose own NLM and
 * monitor are scripted. Calls come in by the programs' handlers.
 */
#ifndef TESTS_UNIT_NLM_ENV_H
#define TESTS_UNIT_NLM_ENV_H

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "nfsd-glue/lockd.h"
#include "nfsd-glue/nlm4_msg.h"
#include "nfsd-glue/rpc_int.h"

enum { FILE_A = 7, FILE_B, FILE_DIR, FILE_GONE, FILE_PRIVATE };
static const uint64_t ID = UINT64_C(1) << ID_NODE_SHIFT;
static const unsigned char UUID[UUID_LEN] = "0123456789abcdef";

/* ---- the volume ---- */

static int v_getattr(struct layer *l, struct call *c, uint64_t id, struct file *f, struct attr *out)
{
	(void)l, (void)c, (void)f;
	if (id == ID + FILE_GONE)
		return -ESTALE;
	*out = (struct attr){ .id = id, .gen = 9, .mode = id == ID + FILE_DIR ? S_IFDIR | 0755 : S_IFREG | 0600, .nlink = 1 };
	return 0;
}

static int v_access(struct layer *l, struct call *c, uint64_t id, unsigned want, unsigned *granted)
{
	(void)l, (void)c;
	*granted = id == ID + FILE_PRIVATE ? 0 : want;
	return 0;
}

static const struct layer_ops volume_ops = { .getattr = v_getattr, .access = v_access };
static struct layer volume = { .ops = &volume_ops, .name = "volume" };

/* ---- the client host: what it is told, and what it says ---- */

struct host {
	pthread_mutex_t mu;
	pthread_cond_t heard;
	struct rpc_server *s;
	uint16_t port;
	unsigned calls, notifies;
	unsigned ignore;			/* so many GRANTED stay unanswered */
	uint32_t answer;			/* to the others */
	struct nlm4_args last;			/* its pointers into last_args */
	unsigned char last_args[4096];
	unsigned res;				/* *_RES that came */
	uint32_t res_proc, res_stat;
	char mon_name[1025];
	int32_t number;
};
static struct host host;

static enum rpc_verdict host_nlm(void *arg, struct rpc_call *c, struct rpc_reply *r)
{
	struct host *h = arg;
	struct nlm4_bytes cookie;

	auto_lock(&h->mu);
	pthread_cond_broadcast(&h->heard);
	if (c->proc >= NLM4_TEST_RES && c->proc <= NLM4_GRANTED_RES) {
		ck_assert_int_eq(nlm4_res_decode(c->proc, c->args, c->args_len, &cookie, &h->res_stat), 0);
		h->res_proc = c->proc;
		h->res++;
		return RPC_REPLY;
	}
	ck_assert_uint_eq(c->proc, NLM4_GRANTED_CALL);
	ck_assert_uint_le(c->args_len, sizeof h->last_args);
	memcpy(h->last_args, c->args, c->args_len);
	ck_assert_int_eq(nlm4_args_decode(c->proc, h->last_args, c->args_len, &h->last), 0);
	h->calls++;
	if (h->ignore) {
		h->ignore--;
		return RPC_DROP;
	}
	rpc_reply_opaque(r, h->last.cookie.p, h->last.cookie.len);
	rpc_reply_u32(r, h->answer);
	return RPC_REPLY;
}

static enum rpc_verdict host_nsm(void *arg, struct rpc_call *c, struct rpc_reply *r)
{
	struct host *h = arg;
	struct xdr_in x = xdr_in(c->args, c->args_len);
	uint32_t len;

	(void)r;
	auto_lock(&h->mu);
	const unsigned char *name = xdr_opaque(&x, 1024, &len);
	h->number = (int32_t)xdr_u32(&x);
	ck_assert(xdr_done(&x) && c->proc == 6);
	memcpy(h->mon_name, name, len);
	h->mon_name[len] = 0;
	h->notifies++;
	pthread_cond_broadcast(&h->heard);
	return RPC_REPLY;
}

static void host_start(void)
{
	struct rpc_program p[] = {
		{ .prog = NLM4_PROGRAM, .vers_low = 4, .vers_high = 4, .nprocs = 24, .handle = host_nlm, .arg = &host },
		{ .prog = NSM_PROGRAM, .vers_low = 1, .vers_high = 1, .nprocs = 7, .udp = true, .handle = host_nsm, .arg = &host },
	};
	const struct rpc_server_config rc = { .loops = 1 };
	char udp[32];

	host = (struct host){ .mu = PTHREAD_MUTEX_INITIALIZER };
	cond_init_mono(&host.heard);
	ck_assert_int_eq(rpc_server_new(&rc, &host.s), 0);
	for (unsigned i = 0; i < ARRAY_LEN(p); i++)
		ck_assert_int_eq(rpc_server_add_program(host.s, &p[i]), 0);
	ck_assert_int_eq(rpc_server_listen(host.s, "127.0.0.1:0", &host.port), 0);
	snprintf(udp, sizeof udp, "127.0.0.1:%u", host.port);
	ck_assert_int_eq(rpc_server_listen_udp(host.s, udp, NULL), 0);
	ck_assert_int_eq(rpc_server_start(host.s), 0);
}

/* Waits until *COUNT, which the host's mutex guards, is N at least; fails when that takes half a minute. */
static inline void host_wait(const unsigned *count, unsigned n)
{
	struct timespec until = clock_mono_after_ms(30000);

	auto_lock(&host.mu);
	while (*count < n)
		ck_assert_msg(!pthread_cond_timedwait(&host.heard, &host.mu, &until), "the client host has heard %u of %u", *count, n);
}

static inline unsigned host_count(const unsigned *count)
{
	auto_lock(&host.mu);
	return *count;
}

/* ---- the server ---- */

static char dir_path[] = "/dev/shm/nlm.XXXXXX";
static int dir_fd;
static struct wirefh_codec handles;
static struct exports *exports;
static struct lock_table *locks;
static struct replay *replay;
static struct rpc_client *client;
static struct lockd *lockd;
static struct rpc_program program[LOCKD_PROGRAMS];
static unsigned grace_ms = 60000, call_ms = 200;

/* SECURE: only privileged ports may use the export. */
static void exports_make(bool secure)
{
	static struct volume_conf conf;
	char err[CONF_ERR_MAX], text[256];

	snprintf(text, sizeof text, "[volume]\nbacking = /x\n[node alpha]\nnumber = 1\n[export all]\nid = 1\nclients = 127.0.0.0/8, 10.0.0.0/8\nsecure = %s\nsquash = none\n",
		 secure ? "yes" : "no");
	ck_assert_msg(!conf_parse("home", "home.conf", text, strlen(text), NULL, "alpha", &conf, err, sizeof err), "%s", err);
	ck_assert_int_eq(exports ? exports_reload(exports, &conf) : exports_new(&conf, &exports), 0);
}

static void server_start(void)
{
	struct lockd_config c = { .node = 1, .state_dir_fd = dir_fd, .nsm = { .try_ms = 200, .port = host.port } };

	ck_assert_int_eq(lock_table_new(&locks), 0);
	ck_assert_int_eq(replay_new(0, &replay), 0);
	ck_assert_int_eq(rpc_client_new(&client), 0);
	c.nlm = (struct nlm4_config){ .top = &volume, .locks = locks, .exports = exports, .handles = &handles, .replay = replay, .client = client, .generation = 9,
				      .grace_ms = grace_ms, .call_ms = call_ms, .client_port = host.port };
	ck_assert_int_eq(lockd_new(&c, &lockd), 0);
	lockd_programs(lockd, program);
}

static void server_end(void)
{
	lockd_stop(lockd);
	rpc_client_free(client);
	lockd_free(lockd);
	ck_assert_uint_eq(lock_count(locks), 0);
	lock_table_free(locks);
	replay_free(replay);
}

static void nlm_setup(void)
{
	static const unsigned char key[WIREFH_KEY_LEN] = "key of a test...";

	ck_assert_ptr_nonnull(mkdtemp(dir_path));
	dir_fd = open(dir_path, O_RDONLY | O_DIRECTORY);
	wirefh_init(&handles, UUID, key);
	exports_make(false);
	host_start();
	server_start();
	lockd_role(lockd, NLM4_PRIMARY, true);
}

static void nlm_teardown(void)
{
	char cmd[64];

	server_end();
	rpc_server_free(host.s);
	exports_free(steal_ptr(&exports));
	close(dir_fd);
	snprintf(cmd, sizeof cmd, "rm -rf %s", dir_path);
	ck_assert_int_eq(system(cmd), 0);
	memcpy(dir_path + sizeof dir_path - 7, "XXXXXX", 6);
}

/* ---- calling ---- */

static unsigned char reply_buf[16 << 10];
static struct rpc_reply reply;
static uint32_t next_xid = 100;
static uint16_t from_port = 900;

static inline struct sockaddr_storage address(const char *text, uint16_t port)
{
	struct sockaddr_storage a = { 0 };
	struct sockaddr_in *v4 = (struct sockaddr_in *)(void *)&a;

	v4->sin_family = AF_INET;
	v4->sin_port = htons(port);
	ck_assert_int_eq(inet_pton(AF_INET, text, &v4->sin_addr), 1);
	return a;
}

static inline enum rpc_verdict call_from(const char *from, struct rpc_program *p, uint32_t proc, const void *args, size_t len)
{
	struct sockaddr_storage peer = address(from, from_port), local = address("127.0.0.1", 2049);
	struct rpc_call c = { .xid = next_xid, .prog = p->prog, .vers = p->vers_low, .proc = proc, .args = args, .args_len = len, .peer = &peer, .local = &local,
			      .cred = { .flavor = RPC_AUTH_SYS }, .conn = (struct rpc_conn *)(void *)&peer };

	next_xid++;
	rpc_reply_end(&reply);
	rpc_reply_init(&reply, reply_buf, sizeof reply_buf);
	return p->handle(p->arg, &c, &reply);
}

/* Who asks for what. */
struct ask {
	const char *from;		/* NULL = 127.0.0.1 */
	const char *name;		/* NULL = "client" */
	const char *oh;			/* NULL = "oh" */
	uint32_t svid;
	unsigned file;			/* 0 = FILE_A */
	uint64_t off, len;
	bool shared, block, reclaim;
	int32_t state;
	uint32_t mode, access;
};

static inline size_t ask_encode(uint32_t proc, const struct ask *a, unsigned char out[4096])
{
	struct xdr_out x = xdr_out(out, 4096);
	struct wirefh h = { .export_id = 1, .gen = 9, .id = ID + (a->file ? a->file : FILE_A) };
	const char *name = a->name ? a->name : "client", *oh = a->oh ? a->oh : "oh";
	bool lock = proc == NLM4_LOCK || proc == NLM4_NM_LOCK || proc == NLM4_LOCK_MSG, cancel = proc == NLM4_CANCEL;
	bool share = proc == NLM4_SHARE || proc == NLM4_UNSHARE;
	unsigned char fh[WIREFH_SIZE];

	wirefh_encode(&handles, &h, fh);
	xdr_out_opaque(&x, "cookie", 6);
	if (lock || cancel)
		xdr_out_u32(&x, a->block);
	if (lock || cancel || proc == NLM4_TEST || proc == NLM4_TEST_MSG)
		xdr_out_u32(&x, !a->shared);
	xdr_out_opaque(&x, name, strlen(name));
	xdr_out_opaque(&x, fh, sizeof fh);
	xdr_out_opaque(&x, oh, strlen(oh));
	if (share) {
		xdr_out_u32(&x, a->mode);
		xdr_out_u32(&x, a->access);
		xdr_out_u32(&x, a->reclaim);
		return x.len;
	}
	xdr_out_u32(&x, a->svid);
	xdr_out_u64(&x, a->off);
	xdr_out_u64(&x, a->len);
	if (lock) {
		xdr_out_u32(&x, a->reclaim);
		xdr_out_u32(&x, (uint32_t)a->state);
	}
	return x.len;
}

/* The status in the answer. */
static inline uint32_t ask(uint32_t proc, struct ask a)
{
	unsigned char args[4096];
	size_t len = ask_encode(proc, &a, args);

	ck_assert_int_eq(call_from(a.from ? a.from : "127.0.0.1", &program[0], proc, args, len), RPC_REPLY);
	ck_assert_uint_ge(reply.len, 4 + 8 + 4);
	ck_assert_int_eq(memcmp(reply.p, "\0\0\0\6cookie\0\0", 12), 0);
	return xdr_get32(reply.p + 12);
}
#define LOCK(...) ask(NLM4_LOCK, (struct ask){ __VA_ARGS__ })
#define UNLOCK(...) ask(NLM4_UNLOCK, (struct ask){ __VA_ARGS__ })
#define CANCEL(...) ask(NLM4_CANCEL, (struct ask){ __VA_ARGS__ })
#define TEST_LOCK(...) ask(NLM4_TEST, (struct ask){ __VA_ARGS__ })
#define SHARE(...) ask(NLM4_SHARE, (struct ask){ __VA_ARGS__ })
#define UNSHARE(...) ask(NLM4_UNSHARE, (struct ask){ __VA_ARGS__ })

static inline struct lockd_stats stats(void)
{
	struct lockd_stats s;

	lockd_stats(lockd, &s);
	return s;
}

/* Waits until what CONDITION says, of what another thread does. */
#define EVENTUALLY(condition) \
	do { \
		uint64_t until_ = clock_mono_ms() + 30000; \
		while (!(condition)) { \
			ck_assert_msg(clock_mono_ms() < until_, "never: %s", #condition); \
			usleep(1000); \
		} \
	} while (0)

#endif
