/*
 * One thread does what waits: it writes the list (after changes; callers of nsm1_sync wait for it), frees the locks of hosts that notified us, and hands notifications to the
 * RPC client as fast as that takes them.
 *
 * The list is written whole to nsm.new, flushed, and renamed; it is small and changes when a host locks for the first time.
 *
 * Our number: odd, greater than the one before, and taken from the clock (2 s units don't repeat), so that another node of the volume, which hasn't our list's number,
 * doesn't choose one that clients have seen already.
 */
#include "nfsd-glue/nsm1.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "nfsd-glue/clients.h"

#define NSM_FILE "nsm"
#define NSM_FILE_NEW "nsm.new"

enum {
	NSM_MAGIC = 0x314d534e,		/* "NSM1" */
	NSM_FILE_VERSION = 1,
	NSM_FILE_MAX = 4 << 20,
	NSM_RETRY_MS = 100,
	NSM_NAME_LOCAL_MAX = 64,	/* HOST_NAME_MAX */
	PROC_STAT = 1, PROC_MON, PROC_UNMON, PROC_UNMON_ALL, PROC_SIMU_CRASH, PROC_NOTIFY,
	STAT_SUCC = 0, STAT_FAIL = 1,
};
static const time_t NUMBER_SINCE = 1577836800;	/* 2020: fits into 31 bits for long */

/* A notification that came in. */
struct heard {
	char name[LOCK_NAME_MAX + 1];
	struct sockaddr_storage peer;
	int32_t state;
};

/* One that goes out. */
struct telling {
	char host[LOCK_NAME_MAX + 1];	/* for the log */
};

struct nsm1 {
	struct nsm1_config cfg;
	struct lockstate *state;
	pthread_t thread;
	bool started;
	pthread_mutex_t mu;		/* guards all below; a leaf */
	pthread_cond_t work, written_cond;
	bool stop, primary, list_lost;
	int32_t number;
	uint64_t changed, written;	/* counts of changes: of the table, and in the file */
	int write_err;
	struct heard heard[NSM_QUEUE_MAX];
	unsigned nheard;
	struct lock_host *tell;		/* owned; hosts that are still to be told */
	unsigned ntell, next_tell, tell_list;	/* TELL_LIST: which list it is */
};

/* ---- the durable list ---- */

static void put_host(void *arg, const struct lock_host *h)
{
	struct enc *e = arg;

	enc_raw(e, h->addr, sizeof h->addr);
	enc_raw(e, h->local, sizeof h->local);
	enc_u32(e, (uint32_t)h->state);
	enc_bytes16(e, h->name, strlen(h->name));
}

static int encode_list(struct nsm1 *n, int32_t number, struct enc *e)
{
	enc_u32(e, NSM_MAGIC);
	enc_u16(e, NSM_FILE_VERSION);
	enc_u16(e, 0);
	enc_u32(e, (uint32_t)number);
	int err = lockstate_each_host(n->state, put_host, e);
	if (!err && !e->err)
		enc_u64(e, XXH3_64bits(e->p, e->len));
	return err ? err : e->err;
}

static int write_all(int fd, const unsigned char *p, size_t len)
{
	while (len) {
		ssize_t w = write(fd, p, len);
		if (w < 0 && errno != EINTR)
			return -errno;
		if (w > 0) {
			p += w;
			len -= (size_t)w;
		}
	}
	return 0;
}

static int write_list(struct nsm1 *n, int32_t number)
{
	struct enc e = { 0 };
	int dir = n->cfg.state_dir_fd, err = encode_list(n, number, &e);
	auto_fd int fd = err ? -1 : openat(dir, NSM_FILE_NEW, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (!err && fd < 0)
		err = -errno;
	if (!err)
		err = write_all(fd, e.p, e.len);
	if (!err && (fsync(fd) || renameat(dir, NSM_FILE_NEW, dir, NSM_FILE) || fsync(dir)))
		err = -errno;
	enc_free(&e);
	return err;
}

static bool get_host(struct dec *d, struct lock_host *h)
{
	size_t len;

	memset(h, 0, sizeof *h);
	dec_raw(d, h->addr, sizeof h->addr);
	dec_raw(d, h->local, sizeof h->local);
	h->state = (int32_t)dec_u32(d);
	const char *name = dec_bytes16(d, LOCK_NAME_MAX, &len);
	if (d->err || !len || memchr(name, 0, len))
		return false;
	memcpy(h->name, name, len);
	return true;
}

static int decode_list(struct nsm1 *n, const unsigned char *p, size_t len)
{
	struct dec d = dec_init(p, len < 8 ? 0 : len - 8), sum = dec_init(p + (len < 8 ? 0 : len - 8), len < 8 ? 0 : 8);
	struct lock_host h;

	if (dec_u64(&sum) != XXH3_64bits(p, d.left) || sum.err || dec_u32(&d) != NSM_MAGIC || dec_u16(&d) != NSM_FILE_VERSION || dec_u16(&d))
		return -EBADMSG;
	n->number = (int32_t)dec_u32(&d);
	while (!d.err && d.left) {
		if (!get_host(&d, &h))
			return -EBADMSG;
		if (lockstate_restore_host(n->state, &h))
			return -ENOMEM;
	}
	return d.err;
}

static int read_list(struct nsm1 *n)
{
	auto_fd int fd = openat(n->cfg.state_dir_fd, NSM_FILE, O_RDONLY | O_CLOEXEC);
	auto_free unsigned char *buf = NULL;
	struct stat st;

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	if (fstat(fd, &st))
		return -errno;
	if (st.st_size > NSM_FILE_MAX || !(buf = malloc((size_t)st.st_size + 1)))
		return st.st_size > NSM_FILE_MAX ? -EFBIG : -ENOMEM;
	ssize_t r = read(fd, buf, (size_t)st.st_size);
	return r < 0 ? -errno : decode_list(n, buf, (size_t)r);
}

void nsm1_hosts_changed(void *arg)
{
	struct nsm1 *n = arg;

	auto_lock(&n->mu);
	n->changed++;
	pthread_cond_broadcast(&n->work);
}

void nsm1_sync(struct nsm1 *n)
{
	auto_lock(&n->mu);
	uint64_t want = n->changed;

	while (n->written < want && !n->stop)
		pthread_cond_wait(&n->written_cond, &n->mu);
}

bool nsm1_list_lost(struct nsm1 *n)
{
	auto_lock(&n->mu);
	return n->list_lost;
}

/* Under mu, which is dropped meanwhile. */
static void save(struct nsm1 *n)
{
	uint64_t upto = n->changed;
	int32_t number = n->number;

	pthread_mutex_unlock(&n->mu);
	int err = write_list(n, number);
	pthread_mutex_lock(&n->mu);
	if (err && err != n->write_err)
		log_error("nsm: the list of hosts can't be written: %s: a crash would leave lock holders untold: see to the state directory's file system",
			  strerror(-err));
	n->write_err = err;
	n->written = upto;		/* after an error: tried again at the next change */
	pthread_cond_broadcast(&n->written_cond);
}

/* ---- to clients ---- */

static void told(void *arg, int err, const unsigned char *results, size_t len)
{
	struct telling *t = arg;

	(void)results;
	(void)len;
	if (err && err != -ECANCELED)
		log_warn("nsm: host %s can't be told that its locks were lost: %s: programs there may believe that they hold them", t->host, strerror(-err));
	free(t);
}

/* The address may have stayed with another node. */
static bool is_ours(const struct sockaddr_storage *sa, socklen_t len)
{
	auto_fd int fd = socket(sa->ss_family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	return fd >= 0 && !bind(fd, (const struct sockaddr *)sa, len);
}

static int tell_as(struct nsm1 *n, const struct lock_host *h, const char *mon_name, int32_t number)
{
	unsigned char args[8 + NSM_NAME_LOCAL_MAX + INET6_ADDRSTRLEN];
	struct xdr_out x = xdr_out(args, sizeof args);
	struct client_addr to = { .port = n->cfg.port }, from = { 0 };
	struct rpc_client_call c = { .udp = true, .prog = NSM_PROGRAM, .vers = NSM_VERSION, .proc = PROC_NOTIFY, .args = args, .tries = NSM_TRIES,
				     .timeout_ms = n->cfg.try_ms, .done = told };
	struct telling *t = malloc(sizeof *t);
	static const unsigned char none[16];

	if (!t)
		return -ENOMEM;
	memcpy(t->host, h->name, sizeof t->host);
	xdr_out_opaque(&x, mon_name, strlen(mon_name));
	xdr_out_u32(&x, (uint32_t)number);
	c.args_len = x.len;
	c.arg = t;
	memcpy(to.addr, h->addr, sizeof to.addr);
	client_addr_to(&to, &c.to);
	memcpy(from.addr, h->local, sizeof from.addr);
	if (!memcmp(h->local, none, sizeof none) || !is_ours(&c.from, client_addr_to(&from, &c.from)))
		c.from.ss_family = AF_UNSPEC;
	int err = rpc_client_call(n->cfg.client, &c);
	if (err)
		free(t);
	return err;
}

static void address_text(const unsigned char addr[16], char out[INET6_ADDRSTRLEN])
{
	static const unsigned char mapped[12] = { [10] = 0xff, [11] = 0xff };

	if (!memcmp(addr, mapped, sizeof mapped))
		inet_ntop(AF_INET, addr + sizeof mapped, out, INET6_ADDRSTRLEN);
	else
		inet_ntop(AF_INET6, addr, out, INET6_ADDRSTRLEN);
}

static int tell_host(struct nsm1 *n, const struct lock_host *h, int32_t number)
{
	char address[INET6_ADDRSTRLEN], name[NSM_NAME_LOCAL_MAX + 1] = "";
	static const unsigned char none[16];
	int err = 0;

	if (memcmp(h->local, none, sizeof none)) {
		address_text(h->local, address);
		err = tell_as(n, h, address, number);
	}
	if (!err && !gethostname(name, sizeof name - 1) && name[0])
		err = tell_as(n, h, name, number);
	return err;
}

struct list { struct lock_host *h; unsigned n, cap; };	/* h owned */

static void collect(void *arg, const struct lock_host *h)
{
	struct list *l = arg;

	if (l->n == l->cap) {
		unsigned cap = l->cap ? 2 * l->cap : 64;
		struct lock_host *more = realloc(l->h, cap * sizeof *more);
		if (!more)
			return;
		l->h = more;
		l->cap = cap;
	}
	l->h[l->n++] = *h;
}

void nsm1_notify(struct nsm1 *n)
{
	time_t now = (clock_wall().tv_sec - NUMBER_SINCE) | 1;
	struct list l = { 0 };

	lockstate_each_host(n->state, collect, &l);	/* not under mu: its mutex comes first */
	if (l.n)
		log_warn("nsm: %u hosts are told that their locks were lost", l.n);
	auto_lock(&n->mu);
	n->number = now > n->number ? (int32_t)now : (n->number | 1) + 2;
	n->changed++;
	free(n->tell);
	n->tell = l.h;
	n->tell_list++;
	n->ntell = l.n;
	n->next_tell = 0;
	pthread_cond_broadcast(&n->work);
}

/* Under mu, which is dropped meanwhile. False: the RPC client is full. */
static bool tell_next(struct nsm1 *n)
{
	unsigned at = n->next_tell++, list = n->tell_list;
	struct lock_host h = n->tell[at];
	int32_t number = n->number;

	pthread_mutex_unlock(&n->mu);
	int err = tell_host(n, &h, number);
	pthread_mutex_lock(&n->mu);
	if (err == -EAGAIN && list == n->tell_list)
		n->next_tell = at;
	return err != -EAGAIN;
}

/* ---- from clients ---- */

static bool queue_heard(struct nsm1 *n, const struct heard *h)
{
	auto_lock(&n->mu);
	if (!n->primary || n->nheard == NSM_QUEUE_MAX)
		return false;
	n->heard[n->nheard++] = *h;
	pthread_cond_broadcast(&n->work);
	return true;
}

/* Under mu, which is dropped meanwhile. */
static void free_locks(struct nsm1 *n)
{
	struct heard h = n->heard[0];

	memmove(n->heard, n->heard + 1, --n->nheard * sizeof h);
	pthread_mutex_unlock(&n->mu);
	int r = lockstate_host_gone(n->state, h.name, &h.peer, h.state);
	if (r < 0)
		log_warn("nsm: host %s has started anew, but its locks can't be freed now: %s: they go when it locks again", h.name, strerror(-r));
	pthread_mutex_lock(&n->mu);
}

static enum rpc_verdict do_notify(struct nsm1 *n, struct rpc_call *c, struct xdr_in *x)
{
	struct heard h = { .peer = *c->peer };
	uint32_t len;
	const unsigned char *name = xdr_opaque(x, NSM_NAME_MAX, &len);

	h.state = (int32_t)xdr_u32(x);
	if (!xdr_done(x) || (name && memchr(name, 0, len)))
		return RPC_GARBAGE_ARGS;
	if (!len || len > LOCK_NAME_MAX)
		return RPC_REPLY;
	memcpy(h.name, name, len);
	if (!exports_speaks_for_host(n->cfg.exports, c->peer) || !lockstate_knows(n->state, h.name, c->peer))	/* a stranger, or one without locks */
		return RPC_REPLY;
	return queue_heard(n, &h) ? RPC_REPLY : RPC_DROP;	/* it tries again */
}

static void skip_my_id(struct xdr_in *x)
{
	uint32_t len;

	xdr_opaque(x, NSM_NAME_MAX, &len);
	for (unsigned i = 0; i < 3; i++)
		xdr_u32(x);
}

static int32_t number_of(struct nsm1 *n)
{
	auto_lock(&n->mu);
	return n->number;
}

static bool from_our_root(const struct rpc_call *c)
{
	unsigned char peer[16], local[16];
	struct client_addr a;

	client_addr_from(&a, c->peer);
	replay_addr(peer, c->peer);
	replay_addr(local, c->local);
	return !memcmp(peer, local, sizeof peer) && a.port < IPPORT_RESERVED;
}

static enum rpc_verdict handle(void *arg, struct rpc_call *c, struct rpc_reply *r)
{
	struct xdr_in x = xdr_in(c->args, c->args_len);
	struct nsm1 *n = arg;
	uint32_t len;

	switch (c->proc) {
	case PROC_STAT:
		xdr_opaque(&x, NSM_NAME_MAX, &len);
		rpc_reply_u32(r, STAT_SUCC);
		break;
	case PROC_MON:
		xdr_opaque(&x, NSM_NAME_MAX, &len);
		skip_my_id(&x);
		xdr_take(&x, 16);
		rpc_reply_u32(r, STAT_FAIL);
		break;
	case PROC_UNMON:
		xdr_opaque(&x, NSM_NAME_MAX, &len);
		skip_my_id(&x);
		break;
	case PROC_UNMON_ALL:
		skip_my_id(&x);
		break;
	case PROC_SIMU_CRASH:
		if (xdr_done(&x) && from_our_root(c))
			nsm1_notify(n);
		return xdr_done(&x) ? RPC_REPLY : RPC_GARBAGE_ARGS;
	case PROC_NOTIFY:
		return do_notify(n, c, &x);
	default:		/* NULL */
		return xdr_done(&x) ? RPC_REPLY : RPC_GARBAGE_ARGS;
	}
	if (!xdr_done(&x))
		return RPC_GARBAGE_ARGS;
	rpc_reply_u32(r, (uint32_t)number_of(n));
	return RPC_REPLY;
}

void nsm1_program(struct nsm1 *n, struct rpc_program *out)
{
	*out = (struct rpc_program){ .prog = NSM_PROGRAM, .vers_low = NSM_VERSION, .vers_high = NSM_VERSION, .nprocs = NSM_PROCS, .udp = true, .handle = handle,
				     .arg = n };
}

void nsm1_set_primary(struct nsm1 *n, bool primary)
{
	auto_lock(&n->mu);
	n->primary = primary;
}

/* ---- life ---- */

static void wait_for_work(struct nsm1 *n, bool full)
{
	struct timespec until = clock_mono_after_ms(NSM_RETRY_MS);

	if (full)
		pthread_cond_timedwait(&n->work, &n->mu, &until);
	else
		pthread_cond_wait(&n->work, &n->mu);
}

static void *worker(void *arg)
{
	struct nsm1 *n = arg;
	bool full = false;

	auto_lock(&n->mu);
	while (!n->stop) {
		if (n->written != n->changed)
			save(n);
		else if (n->nheard)
			free_locks(n);
		else if (n->next_tell < n->ntell && !full)
			full = !tell_next(n);
		else {
			wait_for_work(n, full);
			full = false;
		}
	}
	if (n->written != n->changed)
		save(n);
	return NULL;
}

int nsm1_new(const struct nsm1_config *cfg, struct nsm1 **out)
{
	struct nsm1 *n = calloc(1, sizeof *n);

	if (!n)
		return -ENOMEM;
	n->cfg = *cfg;
	pthread_mutex_init(&n->mu, NULL);
	cond_init_mono(&n->work);
	cond_init_mono(&n->written_cond);
	*out = n;
	return 0;
}

int nsm1_start(struct nsm1 *n, struct lockstate *s)
{
	n->state = s;
	int err = read_list(n);
	if (err == -ENOMEM)
		return err;
	n->list_lost = err;
	if (err)
		log_warn("nsm: the list of hosts that hold locks can't be read: %s: if locks were lost, hosts aren't told", strerror(-err));
	if (!n->number)
		n->number = 1;
	if (pthread_create(&n->thread, NULL, worker, n))
		return -EAGAIN;
	n->started = true;
	return 0;
}

void nsm1_stop(struct nsm1 *n)
{
	if (!n->started)
		return;
	pthread_mutex_lock(&n->mu);
	n->stop = true;
	pthread_cond_broadcast(&n->work);
	pthread_cond_broadcast(&n->written_cond);
	pthread_mutex_unlock(&n->mu);
	pthread_join(n->thread, NULL);
	n->started = false;
}

void nsm1_free(struct nsm1 *n)
{
	if (!n)
		return;
	nsm1_stop(n);
	free(n->tell);
	pthread_cond_destroy(&n->work);
	pthread_cond_destroy(&n->written_cond);
	pthread_mutex_destroy(&n->mu);
	free(n);
}
