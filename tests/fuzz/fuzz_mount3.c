/*
 * What an NFS client sends to MOUNT, and what it shows as a handle. Input: u8 procedure, u8 which client, the arguments; all of it is tried as a handle,
 * too. The tree below is made up: a name's first letter says what it is. A handle is given only to who is listed, for a directory; nothing else is a handle.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/log.h"
#include "nfsd-glue/mount3.h"
#include "nfsd-glue/rpc_int.h"

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t size);

static void want(bool condition)
{
	if (!condition)
		abort();
}

/* ---- a tree ---- */

static int resolve(struct layer *l, uint64_t parent, const char *name, uint64_t *id, uint32_t *type)
{
	(void)l;
	want(*name && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0 && strlen(name) <= LAYER_NAME_MAX);
	*type = *name == 'f' ? S_IFREG : *name == 'l' ? S_IFLNK : S_IFDIR;
	*id = parent * 31 + (unsigned char)*name;
	return *name == 'n' ? -ENOENT : *name == 's' ? -ESTALE : 0;
}

static int getattr(struct layer *l, struct call *c, uint64_t id, struct file *f, struct attr *out)
{
	(void)l, (void)c, (void)f;
	*out = (struct attr){ .id = id, .gen = 9, .mode = id % 3 ? S_IFDIR : S_IFREG };
	return 0;
}

static const struct layer_ops ops = { .resolve = resolve, .getattr = getattr };
static struct layer tree = { .ops = &ops, .name = "tree" };

/* ---- the server ---- */

static struct wirefh_codec fh;
static struct mount3 m = { .top = &tree, .fh = &fh };

static int no_emit(void *arg, const void *data, size_t len)
{
	(void)arg, (void)data, (void)len;
	return -EROFS;
}

static void server_make(void)
{
	static const char text[] = "[volume]\nbacking = /x\n[node alpha]\nnumber = 1\n[export all]\nclients = 10.0.0.0/8\n"
				   "[export pub]\npath = /pub\nclients = 2001:db8::/32\nsecure = no\n";
	static struct volume_conf conf;
	char err[CONF_ERR_MAX];

	log_init("fuzz", LOG_SINK_STDERR, LOG_LVL_ERROR);
	wirefh_init(&fh, (const unsigned char *)"uuid of a volume", (const unsigned char *)"key of a volume.");
	want(!conf_parse("home", "f", text, sizeof text - 1, NULL, "alpha", &conf, err, sizeof err));
	want(!exports_new(&conf, &m.exports) && !clients_new(&(struct clients_config){ .emit = no_emit }, &m.clients));
}

static struct sockaddr_storage client(unsigned which)
{
	struct sockaddr_storage ss = { 0 };
	struct sockaddr_in *v4 = (void *)&ss;
	struct sockaddr_in6 *v6 = (void *)&ss;

	if (which % 3 == 2) {
		v6->sin6_family = AF_INET6;
		v6->sin6_port = htons(40000);
		inet_pton(AF_INET6, "2001:db8::1", &v6->sin6_addr);
	} else {
		v4->sin_family = AF_INET;
		v4->sin_port = htons(900);
		inet_pton(AF_INET, which % 3 ? "10.0.0.1" : "192.0.2.1", &v4->sin_addr);
	}
	return ss;
}

static void check_given(const struct rpc_reply *r, unsigned which)
{
	struct wirefh h;

	want(r->len >= 4);
	if (xdr_get32(r->p)) {
		want(r->len == 4);
		return;
	}
	want(which % 3 != 0 && r->len == 16 + WIREFH_SIZE && !wirefh_decode(&fh, r->p + 8, WIREFH_SIZE, &h));
	want(h.gen == 9 && h.id % 3 && h.export_id);
}

int LLVMFuzzerTestOneInput(const uint8_t *in, size_t size)
{
	static unsigned char buf[16 << 10];
	struct rpc_reply r;
	struct wirefh h;

	if (!m.exports)
		server_make();
	want(wirefh_decode(&fh, in, size, &h) != 0);
	if (size < 2)
		return 0;
	struct rpc_program p = mount3_program(&m);
	struct sockaddr_storage peer = client(in[1]);
	unsigned char *tight = malloc(size);	/* of exactly that length: reading on is caught */
	memcpy(tight, in + 2, size - 2);
	struct rpc_call c = { .prog = MOUNT3_PROGRAM, .vers = 3, .proc = in[0] % p.nprocs, .args = tight, .args_len = size - 2, .peer = &peer };
	rpc_reply_init(&r, buf, sizeof buf);
	enum rpc_verdict v = p.handle(p.arg, &c, &r);
	want(v == RPC_REPLY || v == RPC_GARBAGE_ARGS);
	if (v == RPC_REPLY && c.proc == 1)
		check_given(&r, in[1]);
	rpc_reply_end(&r);
	free(tight);
	return 0;
}
