/*
 * Registration with rpcbind: version 4 of its protocol, because only that says which transport an entry is for (PMAP's UNSET takes the others' entries of a program
 * away, too); PMAP (version 2) where the other side knows nothing newer. Both over loopback TCP from a privileged port, which is what rpcbind trusts.
 */
#include "nfsd-glue/rpcbind.h"

#include <errno.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "nfsd-glue/rpc_client.h"
#include "nfsd-glue/xdr.h"

enum {
	RPCBIND_PORT = 111, RPCBIND_PROG = 100000, PMAP_VERS = 2, RPCB_VERS = 4,
	PROC_SET = 1, PROC_UNSET = 2, PROC_GETADDR = 3,		/* the same numbers in both; GETPORT in PMAP */
	CALL_MS = 1000, AGAIN_MS = 60000,
	UADDR_MAX = 64,
};

struct rpcbind {
	struct rpc_client *client;	/* owned */
	struct rpcbind_entry *entries;	/* owned */
	unsigned n;
	uint16_t port;
	bool quiet;
	bool *done, *said;		/* owned, the thread's: entry stands there; somebody else's was reported */
	bool silent;			/* the thread's: rpcbind's absence was reported */
	pthread_t thread;
	pthread_mutex_t mu;
	pthread_cond_t changed;
	bool stopping, looked;		/* mu */
	unsigned registered;		/* mu */
};

/* ---- calls ---- */

static struct sockaddr_storage loopback(uint16_t port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct sockaddr_storage s = { 0 };

	memcpy(&s, &a, sizeof a);
	return s;
}

/* One call whose result is a number. */
static int ask(const struct rpcbind *b, uint32_t vers, uint32_t proc, const struct xdr_out *args, uint32_t *result)
{
	struct rpc_client_call c = { .to = loopback(b->port), .auth_none = true, .prog = RPCBIND_PROG, .vers = vers, .proc = proc, .args = args->p,
				     .args_len = args->len, .timeout_ms = CALL_MS };
	unsigned char out[UADDR_MAX];
	size_t len;
	int err = rpc_client_call_wait(b->client, &c, out, sizeof out, &len);

	if (err)
		return err;
	if (len < 4)
		return -EBADMSG;
	*result = xdr_get32(out);
	return 0;
}

static void encode_pmap(struct xdr_out *x, const struct rpcbind_entry *e)
{
	xdr_out_u32(x, e->prog);
	xdr_out_u32(x, e->vers);
	xdr_out_u32(x, e->udp ? IPPROTO_UDP : IPPROTO_TCP);
	xdr_out_u32(x, e->port);
}

static void encode_rpcb(struct xdr_out *x, const struct rpcbind_entry *e, bool six)
{
	const char *netid = e->udp ? six ? "udp6" : "udp" : six ? "tcp6" : "tcp", *owner = "superuser";
	char uaddr[UADDR_MAX];

	snprintf(uaddr, sizeof uaddr, "%s.%d.%d", six ? "::" : "0.0.0.0", e->port >> 8, e->port & 255);
	xdr_out_u32(x, e->prog);
	xdr_out_u32(x, e->vers);
	xdr_out_opaque(x, netid, strlen(netid));
	xdr_out_opaque(x, uaddr, strlen(uaddr));
	xdr_out_opaque(x, owner, strlen(owner));
}

/* SET or UNSET for IPv4 or IPv6. 1: done, 0: refused, or -errno. */
static int change(const struct rpcbind *b, uint32_t proc, const struct rpcbind_entry *e, bool six)
{
	unsigned char buf[256];
	struct xdr_out x = xdr_out(buf, sizeof buf);
	uint32_t ok;

	encode_rpcb(&x, e, six);
	int err = ask(b, RPCB_VERS, proc, &x, &ok);
	if (err == -EPROTONOSUPPORT && !six) {
		x = xdr_out(buf, sizeof buf);
		encode_pmap(&x, e);
		err = ask(b, PMAP_VERS, proc, &x, &ok);
	}
	return err ? err : ok != 0;
}

/* The port that is registered for IPv4, 0 = none, or -errno. */
static int registered_port(const struct rpcbind *b, const struct rpcbind_entry *e)
{
	unsigned char buf[16];
	struct xdr_out x = xdr_out(buf, sizeof buf);
	uint32_t port;

	encode_pmap(&x, e);
	int err = ask(b, PMAP_VERS, PROC_GETADDR, &x, &port);
	return err ? err : port <= UINT16_MAX ? (int)port : 0;
}

/* Does anybody listen where the entry points? */
static bool answers(const struct rpcbind *b, const struct rpcbind_entry *e, uint16_t port)
{
	struct rpc_client_call c = { .to = loopback(port), .udp = e->udp, .auth_none = true, .prog = e->prog, .vers = e->vers, .timeout_ms = CALL_MS };
	unsigned char out[16];
	size_t len;

	return rpc_client_call_wait(b->client, &c, out, sizeof out, &len) != -ECONNREFUSED;
}

/* ---- one entry ---- */

/* Takes the place of an entry that leads nowhere any more. 1, 0 or -errno as change(). */
static int replace(struct rpcbind *b, unsigned i)
{
	const struct rpcbind_entry *e = &b->entries[i];
	int port = registered_port(b, e);

	if (port < 0 || port == e->port)
		return port < 0 ? port : 1;
	if (port && answers(b, e, (uint16_t)port)) {
		if (!b->said[i])
			log_warn("nfs: rpcbind: program %u version %u: port %d is registered by another server: clients that ask for it will go there",
				 e->prog, e->vers, port);
		b->said[i] = true;
		return 0;
	}
	change(b, PROC_UNSET, e, false);
	return change(b, PROC_SET, e, false);
}

static int enter(struct rpcbind *b, unsigned i)
{
	const struct rpcbind_entry *e = &b->entries[i];
	int r = change(b, PROC_SET, e, false);

	if (r == 0)
		r = replace(b, i);
	if (r == 1)
		change(b, PROC_SET, e, true);	/* IPv4 is what counts */
	return r;
}

static void say_absent(struct rpcbind *b, int err)
{
	if (!b->silent && !b->quiet)
		log_warn("nfs: rpcbind: %s: clients must be told ports by mount options (port=, mountport=)", strerror(-err));
	b->silent = true;
}

/* ---- the thread ---- */

static bool stopping(struct rpcbind *b)
{
	auto_lock(&b->mu);
	return b->stopping;
}

static void look(struct rpcbind *b)
{
	unsigned n = 0;

	for (unsigned i = 0; i < b->n && !stopping(b); i++) {
		int r = enter(b, i);

		b->done[i] = r == 1;
		n += r == 1;
		if (r < 0) {
			say_absent(b, r);
			break;
		}
		b->silent = false;
	}
	auto_lock(&b->mu);
	b->registered = n;
	b->looked = true;
	pthread_cond_broadcast(&b->changed);
}

static void wait_for_next(struct rpcbind *b)
{
	struct timespec until = clock_mono_after_ms(AGAIN_MS);
	auto_lock(&b->mu);

	while (!b->stopping && pthread_cond_timedwait(&b->changed, &b->mu, &until) != ETIMEDOUT)
		;
}

static void *rpcbind_main(void *arg)
{
	struct rpcbind *b = arg;
	int r = 0;

	while (!stopping(b)) {
		look(b);
		wait_for_next(b);
	}
	for (unsigned i = 0; i < b->n && r >= 0; i++)
		if (b->done[i]) {
			r = change(b, PROC_UNSET, &b->entries[i], false);
			if (r >= 0)
				change(b, PROC_UNSET, &b->entries[i], true);
		}
	return NULL;
}

/* ---- for the others ---- */

static void release(struct rpcbind *b)
{
	rpc_client_free(b->client);
	pthread_mutex_destroy(&b->mu);
	pthread_cond_destroy(&b->changed);
	free(b->entries);
	free(b->done);
	free(b->said);
	free(b);
}

int rpcbind_new(const struct rpcbind_entry *entries, unsigned n, uint16_t port, bool quiet, struct rpcbind **out)
{
	struct rpcbind *b = calloc(1, sizeof *b);
	int err;

	if (!b)
		return -ENOMEM;
	b->n = n;
	b->port = port ? port : RPCBIND_PORT;
	b->quiet = quiet;
	pthread_mutex_init(&b->mu, NULL);
	cond_init_mono(&b->changed);
	b->entries = calloc(n + 1, sizeof *b->entries);
	b->done = calloc(n + 1, sizeof *b->done);
	b->said = calloc(n + 1, sizeof *b->said);
	err = b->entries && b->done && b->said ? rpc_client_new(&b->client) : -ENOMEM;
	if (!err) {
		memcpy(b->entries, entries, n * sizeof *entries);
		err = -pthread_create(&b->thread, NULL, rpcbind_main, b);
	}
	if (err) {
		release(b);
		return err;
	}
	*out = b;
	return 0;
}

unsigned rpcbind_registered(struct rpcbind *b)
{
	auto_lock(&b->mu);
	return b->registered;
}

unsigned rpcbind_wait(struct rpcbind *b, unsigned timeout_ms)
{
	struct timespec until = clock_mono_after_ms(timeout_ms);
	auto_lock(&b->mu);

	while (!b->looked && pthread_cond_timedwait(&b->changed, &b->mu, &until) != ETIMEDOUT)
		;
	return b->registered;
}

void rpcbind_free(struct rpcbind *b)
{
	if (!b)
		return;
	pthread_mutex_lock(&b->mu);
	b->stopping = true;
	pthread_cond_broadcast(&b->changed);
	pthread_mutex_unlock(&b->mu);
	pthread_join(b->thread, NULL);
	release(b);
}
