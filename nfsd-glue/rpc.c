/*
 * The server as a whole: programs, listeners, accepting and whom to close when there are too many, connections' lifetime, stopping. See rpc.h for the design and rpc_int.h for
 * who owns what.
 */
#include "nfsd-glue/rpc.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "nfsd-glue/rpc_int.h"

enum {
	BACKLOG = 1024,
	ADDRESS_BUCKETS = 1024,
	RECORD_TIMEOUT_MS = 30000, STALL_TIMEOUT_MS = 60000,
	KEEPALIVE_IDLE_S = 60, KEEPALIVE_INTERVAL_S = 10, KEEPALIVE_COUNT = 4,
	PORT_LEN = 8,
	FDS_KEPT = 512,			/* descriptors left to the rest of the daemon, at least half of all */
};

struct rpc_address {
	struct rpc_address *next;
	struct in6_addr ip;			/* IPv4 as mapped */
	unsigned conns;
};

/* ---- programs ---- */

int rpc_server_add_program(struct rpc_server *s, const struct rpc_program *p)
{
	assert(!s->started);
	if (s->nprograms == RPC_PROGRAMS_MAX)
		return -ENOSPC;
	s->programs[s->nprograms++] = *p;
	return 0;
}

const struct rpc_program *rpc_find_program(const struct rpc_server *s, const struct rpc_header *h, struct rpc_fault *fault)
{
	*fault = (struct rpc_fault){ .kind = RPC_FAULT_ACCEPT, .stat = RPC_ACCEPT_PROG_UNAVAIL };
	for (unsigned i = 0; i < s->nprograms; i++) {
		const struct rpc_program *p = &s->programs[i];

		if (p->prog != h->prog)
			continue;
		if (h->vers >= p->vers_low && h->vers <= p->vers_high) {
			fault->stat = RPC_ACCEPT_PROC_UNAVAIL;
			return h->proc < p->nprocs ? p : NULL;
		}
		if (fault->stat != RPC_ACCEPT_PROG_MISMATCH || p->vers_low < fault->low)
			fault->low = p->vers_low;
		if (p->vers_high > fault->high)
			fault->high = p->vers_high;
		fault->stat = RPC_ACCEPT_PROG_MISMATCH;
	}
	return NULL;
}

/* ---- clients' addresses; all under accept_mu ---- */

static struct in6_addr ip_of(const struct sockaddr_storage *a)
{
	struct in6_addr ip = { 0 };

	if (a->ss_family == AF_INET6)
		return ((const struct sockaddr_in6 *)a)->sin6_addr;
	ip.s6_addr[10] = ip.s6_addr[11] = 0xff;
	memcpy(&ip.s6_addr[12], &((const struct sockaddr_in *)a)->sin_addr, 4);
	return ip;
}

static struct rpc_address **address_slot(struct rpc_server *s, const struct in6_addr *ip)
{
	uint32_t hash = 0, word;
	struct rpc_address **at;

	for (unsigned i = 0; i < 4; i++) {
		memcpy(&word, &ip->s6_addr[4 * i], 4);
		hash = (hash ^ word) * UINT32_C(2654435761);
	}
	for (at = &s->addresses[hash >> 22]; *at && memcmp(&(*at)->ip, ip, sizeof *ip) != 0; at = &(*at)->next)
		;
	return at;
}

static struct rpc_address *address_get(struct rpc_server *s, const struct sockaddr_storage *peer)
{
	struct in6_addr ip = ip_of(peer);
	struct rpc_address **at = address_slot(s, &ip);

	if (!*at) {
		*at = calloc(1, sizeof **at);
		if (!*at)
			return NULL;
		(*at)->ip = ip;
	}
	(*at)->conns++;
	return *at;
}

static void address_put(struct rpc_server *s, struct rpc_address *a)
{
	if (--a->conns)
		return;
	struct rpc_address **at = address_slot(s, &a->ip);
	*at = a->next;
	free(a);
}

/* ---- who has to go ---- */

void rpc_conn_abort(struct rpc_conn *c)
{
	struct sockaddr nowhere = { .sa_family = AF_UNSPEC };

	/* By its number: the thread sanitizer takes every connect() for the making of a descriptor. */
	syscall(SYS_connect, c->fd, &nowhere, sizeof nowhere);
}

/* Calls BETTER for every connection; the last one for which it said true is reset. */
static bool evict(struct rpc_server *s, bool (*better)(const struct rpc_conn *c, void *arg), void *arg)
{
	struct rpc_conn *victim = NULL;

	for (unsigned i = 0; i < s->nloops; i++) {
		auto_lock(&s->loops[i].mu);
		for (struct rpc_conn *c = s->loops[i].conns; c; c = c->next)
			if (!atomic_load(&c->doomed) && better(c, arg)) {
				rpc_conn_put(victim);
				victim = rpc_conn_get(c);
			}
	}
	if (!victim)
		return false;
	atomic_store(&victim->doomed, true);
	rpc_conn_abort(victim);
	rpc_conn_put(victim);
	atomic_fetch_add_explicit(&s->closed_slow, 1, memory_order_relaxed);
	return true;
}

struct oldest { uint64_t before_ms; };

static bool older(uint64_t since, struct oldest *o)
{
	if (!since || since > o->before_ms)
		return false;
	o->before_ms = since - 1;
	return true;
}

static bool partial_older(const struct rpc_conn *c, void *arg)
{
	return older(atomic_load(&c->since_ms), arg);
}

static bool output_older(const struct rpc_conn *c, void *arg)
{
	return older(atomic_load(&c->stalled_ms), arg);
}

void rpc_evict_partial(struct rpc_server *s, uint64_t now_ms, uint64_t min_ms)
{
	evict(s, partial_older, &(struct oldest){ min_ms ? now_ms - min_ms : UINT64_MAX });
}

void rpc_evict_output(struct rpc_server *s, uint64_t now_ms, uint64_t min_ms)
{
	evict(s, output_older, &(struct oldest){ min_ms ? now_ms - min_ms : UINT64_MAX });
}

/* Of the address with the most connections the one that has been idle for the longest; first of all one that never said anything. Being busy protects, but for
 * addresses with more than CROWD connections: a crowd doesn't keep others out by talking. */
struct idlest { uint64_t busy_ms; unsigned crowd; unsigned conns; bool spoke; uint64_t last_ms; };

static bool idler(const struct rpc_conn *c, void *arg)
{
	struct idlest *best = arg;
	uint64_t last = atomic_load(&c->last_ms);
	bool spoke = atomic_load(&c->spoke);
	bool busy = atomic_load(&c->calls) || (spoke && last > best->busy_ms);

	if ((busy && c->address->conns <= best->crowd) || c->address->conns < best->conns)
		return false;
	if (c->address->conns == best->conns && (spoke > best->spoke || (spoke == best->spoke && last >= best->last_ms)))
		return false;
	*best = (struct idlest){ best->busy_ms, best->crowd, c->address->conns, spoke, last };
	return true;
}

/* CROWD: UINT_MAX = there is none. */
static bool evict_idle(struct rpc_server *s, unsigned crowd)
{
	struct idlest best = { .busy_ms = clock_mono_ms() - RPC_BUSY_MS, .crowd = crowd, .spoke = true, .last_ms = UINT64_MAX };

	return evict(s, idler, &best);
}

/* ---- connections ---- */

struct rpc_conn *rpc_conn_get(struct rpc_conn *c)
{
	atomic_fetch_add_explicit(&c->refs, 1, memory_order_relaxed);
	return c;
}

void rpc_conn_put(struct rpc_conn *c)
{
	if (!c || atomic_fetch_sub_explicit(&c->refs, 1, memory_order_acq_rel) != 1)
		return;
	close(c->fd);
	pthread_mutex_destroy(&c->out_mu);
	free(c);
}

void rpc_conn_gone(struct rpc_conn *c)
{
	struct rpc_server *s = c->s;

	pthread_mutex_lock(&s->accept_mu);
	address_put(s, c->address);
	pthread_mutex_unlock(&s->accept_mu);
	atomic_fetch_sub(&s->nconns, 1);
	if (s->config.disconnected)
		s->config.disconnected(s->config.arg, &c->peer, &c->local);
	rpc_conn_put(c);
}

/* An IPv4 address as such, whatever socket it came by. */
static void unmap(struct sockaddr_storage *a)
{
	struct sockaddr_in6 six = *(struct sockaddr_in6 *)a;
	struct sockaddr_in four = { .sin_family = AF_INET, .sin_port = six.sin6_port };

	if (a->ss_family != AF_INET6 || !IN6_IS_ADDR_V4MAPPED(&six.sin6_addr))
		return;
	memcpy(&four.sin_addr, &six.sin6_addr.s6_addr[12], 4);
	memset(a, 0, sizeof *a);
	memcpy(a, &four, sizeof four);
}

/* When the daemon is killed its connections must end as if reset: by then the service address is gone, an orderly end would never be acknowledged, and its
 * socket, still there minutes later when the address comes back, would answer the new connection of a client that uses its old port. */
void rpc_conn_linger(struct rpc_conn *c, bool orderly)
{
	const struct linger reset = { .l_onoff = !orderly };

	setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &reset, sizeof reset);
}

static void set_options(int fd)
{
	const int one = 1, idle = KEEPALIVE_IDLE_S, interval = KEEPALIVE_INTERVAL_S, number = KEEPALIVE_COUNT;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof one);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof idle);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof interval);
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &number, sizeof number);
}

/* Takes FD over, also when it fails. Under accept_mu. */
static struct rpc_conn *conn_new(struct rpc_server *s, int fd, const struct sockaddr_storage *peer)
{
	struct rpc_conn *c = calloc(1, sizeof *c);
	socklen_t len = sizeof c->local;

	if (!c || getsockname(fd, (struct sockaddr *)&c->local, &len)) {
		free(c);
		close(fd);
		return NULL;
	}
	c->source.kind = SOURCE_CONN;
	atomic_init(&c->refs, 1);
	c->fd = fd;
	c->s = s;
	c->loop = &s->loops[s->next_loop++ % s->nloops];
	c->peer = *peer;
	unmap(&c->peer);
	unmap(&c->local);
	atomic_init(&c->last_ms, clock_mono_ms());
	for (unsigned i = 0; i < RUN_CLASSES; i++)
		c->run[i] = (struct rpc_run){ .c = c, .last = &c->run[i].first };
	c->out_last = &c->out;
	pthread_mutex_init(&c->out_mu, NULL);
	c->address = address_get(s, &c->peer);
	if (!c->address) {
		rpc_conn_put(c);
		return NULL;
	}
	set_options(fd);
	rpc_conn_linger(c, false);
	return c;
}

/* ---- accepting ---- */

/* Whoever comes from PEER takes the place of one of a quarter of all from one address, if he has less than half as many. */
static unsigned crowd_for(struct rpc_server *s, const struct sockaddr_storage *peer)
{
	struct sockaddr_storage plain = *peer;

	unmap(&plain);
	struct in6_addr ip = ip_of(&plain);
	const struct rpc_address *a = *address_slot(s, &ip);
	unsigned twice = a ? 2 * a->conns : 0;
	return twice > s->max_connections / 4 ? twice : s->max_connections / 4;
}

/* Takes FD over. Under accept_mu. */
static void admit(struct rpc_server *s, int fd, const struct sockaddr_storage *peer)
{
	struct rpc_conn *c;

	if (atomic_load(&s->nconns) >= s->max_connections && !evict_idle(s, crowd_for(s, peer))) {
		atomic_fetch_add(&s->refused, 1);
		close(fd);
		return;
	}
	c = conn_new(s, fd, peer);
	if (!c)
		return;
	atomic_fetch_add(&s->nconns, 1);
	atomic_fetch_add(&s->accepted, 1);
	if (s->config.connected)
		s->config.connected(s->config.arg, &c->peer, &c->local);
	if (rpc_loop_add(c->loop, c)) {
		address_put(s, c->address);
		atomic_fetch_sub(&s->nconns, 1);
		if (s->config.disconnected)
			s->config.disconnected(s->config.arg, &c->peer, &c->local);
		rpc_conn_put(c);
	}
}

static void listener_events(struct rpc_server *s, struct rpc_listener *l, uint32_t events)
{
	struct epoll_event e = { .events = events, .data.ptr = &l->source };

	if (!l->udp)
		epoll_ctl(s->loops[0].ep, EPOLL_CTL_MOD, l->fd, &e);
}

/* No descriptors or no memory: rests until the next tick, instead of turning round and round. Under accept_mu. */
static void accept_later(struct rpc_server *s)
{
	evict_idle(s, UINT_MAX);
	atomic_store(&s->full, true);
	for (unsigned i = 0; i < s->nlisteners; i++)
		listener_events(s, &s->listeners[i], 0);
}

void rpc_listeners_resume(struct rpc_server *s)
{
	if (!atomic_load(&s->full))
		return;
	auto_lock(&s->accept_mu);
	atomic_store(&s->full, false);
	for (unsigned i = 0; i < s->nlisteners; i++)
		listener_events(s, &s->listeners[i], EPOLLIN);
}

/* Those who were closed to make room go as soon as their loops look: there may be a few too many for a moment, the next ones wait in the backlog. */
static bool crowded(const struct rpc_server *s)
{
	return atomic_load(&s->nconns) > s->max_connections + s->max_connections / 16;
}

/* Under accept_mu. */
static void accept_all(struct rpc_server *s, const struct rpc_listener *l)
{
	for (int i = 0; i < BACKLOG && !crowded(s); i++) {
		struct sockaddr_storage peer = { 0 };
		socklen_t len = sizeof peer;
		int fd = accept4(l->fd, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC | SOCK_NONBLOCK);

		if (fd >= 0) {
			admit(s, fd, &peer);
			continue;
		}
		if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM)
			accept_later(s);
		if (errno != EINTR && errno != ECONNABORTED)
			return;
	}
}

void rpc_accept(struct rpc_server *s, struct rpc_listener *l)
{
	auto_lock(&s->accept_mu);

	if (!atomic_load(&s->stopping))
		accept_all(s, l);
}

/* ---- listening ---- */

/* "host:port", "[v6]:port", ":port", "port". HOST "" = any. */
static int split(const char *address, char host[256], char port[PORT_LEN])
{
	const char *colon = strrchr(address, ':'), *h = address;
	size_t len = colon ? (size_t)(colon - address) : 0;

	if (len >= 2 && h[0] == '[' && h[len - 1] == ']') {
		h++;
		len -= 2;
	}
	const char *number = colon ? colon + 1 : address;
	char *end;
	unsigned long n = strtoul(number, &end, 10);
	if (len >= 256 || end == number || *end || n > UINT16_MAX)
		return -EINVAL;
	memcpy(host, h, len);
	host[len] = 0;
	snprintf(port, PORT_LEN, "%lu", n);
	return 0;
}

static int open_listener(const struct addrinfo *ai, bool udp, bool dual)
{
	const int one = 1, v6only = !dual;
	auto_fd int fd = socket(ai->ai_family, (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	setsockopt(fd, IPPROTO_IP, IP_FREEBIND, &one, sizeof one);
	if (!udp)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (ai->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v6only, sizeof v6only);
	if (udp && ai->ai_family == AF_INET6)
		setsockopt(fd, IPPROTO_IPV6, IPV6_RECVPKTINFO, &one, sizeof one);
	if (udp)
		setsockopt(fd, IPPROTO_IP, IP_PKTINFO, &one, sizeof one);
	if (bind(fd, ai->ai_addr, ai->ai_addrlen) || (!udp && listen(fd, BACKLOG)))
		return -errno;
	return steal_fd(&fd);
}

/* Any address: one socket for IPv6 and IPv4 where the kernel has IPv6. */
static int open_address(const char *address, bool udp)
{
	struct addrinfo hints = { .ai_flags = AI_PASSIVE | AI_NUMERICSERV, .ai_socktype = udp ? SOCK_DGRAM : SOCK_STREAM }, *list;
	char host[256], port[PORT_LEN];
	int fd = split(address, host, port);

	if (fd)
		return fd;
	if (!strcmp(host, "::"))	/* every address, as with most servers */
		*host = '\0';
	if (getaddrinfo(*host ? host : NULL, port, &hints, &list))
		return -EINVAL;
	fd = -EADDRNOTAVAIL;
	for (int want6 = 1; want6 >= 0 && fd < 0; want6--)
		for (const struct addrinfo *ai = list; ai && fd < 0; ai = ai->ai_next)
			if ((ai->ai_family == AF_INET6) == want6)
				fd = open_listener(ai, udp, !*host);
	freeaddrinfo(list);
	return fd;
}

static int listen_at(struct rpc_server *s, const char *address, bool udp, uint16_t *port)
{
	auto_lock(&s->accept_mu);
	struct sockaddr_storage a;
	socklen_t len = sizeof a;
	int err = 0;

	if (s->nlisteners == RPC_LISTENERS_MAX || s->stopping)
		return -ENOSPC;
	struct rpc_listener *l = &s->listeners[s->nlisteners];
	*l = (struct rpc_listener){ .source.kind = SOURCE_LISTENER, .fd = open_address(address, udp), .udp = udp, .s = s };
	if (l->fd < 0)
		return l->fd;
	struct epoll_event e = { .events = EPOLLIN, .data.ptr = &l->source };
	if (getsockname(l->fd, (struct sockaddr *)&a, &len) || (!udp && epoll_ctl(s->loops[0].ep, EPOLL_CTL_ADD, l->fd, &e)))
		err = -errno;
	else if (udp && s->started)
		err = rpc_udp_start(l);
	if (err) {
		close(l->fd);
		return err;
	}
	if (port)
		*port = ntohs(((struct sockaddr_in *)&a)->sin_port);	/* the same place in sockaddr_in6 */
	s->nlisteners++;
	return 0;
}

int rpc_server_listen(struct rpc_server *s, const char *address, uint16_t *port)
{
	return listen_at(s, address, false, port);
}

int rpc_server_listen_udp(struct rpc_server *s, const char *address, uint16_t *port)
{
	return listen_at(s, address, true, port);
}

/* ---- giving an address up ---- */

static bool same_ip(const struct sockaddr_storage *a, const struct sockaddr *b)
{
	struct sockaddr_storage copy = { 0 };
	struct in6_addr x, y;

	memcpy(&copy, b, b->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in));
	x = ip_of(a);
	y = ip_of(&copy);
	return memcmp(&x, &y, sizeof x) == 0;
}

void rpc_server_abort_connections(struct rpc_server *s, const struct sockaddr *local)
{
	auto_lock(&s->accept_mu);

	/* Connections that wait in the backlog are among those meant. */
	for (unsigned i = 0; i < s->nlisteners && s->started && !s->stopping; i++)
		if (!s->listeners[i].udp)
			accept_all(s, &s->listeners[i]);
	for (unsigned i = 0; i < s->nloops; i++) {
		auto_lock(&s->loops[i].mu);
		for (struct rpc_conn *c = s->loops[i].conns; c; c = c->next)
			if (!local || same_ip(&c->local, local))
				rpc_conn_abort(c);
	}
}

/* ---- the server's life ---- */

static unsigned connections_allowed(unsigned want)
{
	struct rlimit rl;

	if (!want)
		want = RPC_CONNECTIONS_DEFAULT;
	if (getrlimit(RLIMIT_NOFILE, &rl) || rl.rlim_cur == RLIM_INFINITY)
		return want;
	rlim_t keep = rl.rlim_cur / 2 > FDS_KEPT ? FDS_KEPT : rl.rlim_cur / 2;
	return rl.rlim_cur - keep < want ? (unsigned)(rl.rlim_cur - keep) : want;
}

static unsigned loops_wanted(unsigned want)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	if (!want)
		want = cpus > 0 ? (unsigned)cpus : 1;
	return want < RPC_LOOPS_MAX ? want : RPC_LOOPS_MAX;
}

static int init_loops(struct rpc_server *s)
{
	s->nloops = loops_wanted(s->config.loops);
	for (unsigned i = 0; i < s->nloops; i++)
		s->loops[i].ep = s->loops[i].wake_fd = -1;
	for (unsigned i = 0; i < s->nloops; i++) {
		int err = rpc_loop_init(&s->loops[i], s);
		if (err)
			return err;
	}
	return 0;
}

int rpc_server_new(const struct rpc_server_config *config, struct rpc_server **out)
{
	struct rpc_server *s = calloc(1, sizeof *s);
	int err;

	if (!s)
		return -ENOMEM;
	s->config = *config;
	if (!s->config.record_timeout_ms)
		s->config.record_timeout_ms = RECORD_TIMEOUT_MS;
	if (!s->config.stall_timeout_ms)
		s->config.stall_timeout_ms = STALL_TIMEOUT_MS;
	s->max_connections = connections_allowed(config->max_connections);
	pthread_mutex_init(&s->accept_mu, NULL);
	pthread_mutex_init(&s->later_mu, NULL);
	pthread_cond_init(&s->later_none, NULL);
	rpc_pool_init(&s->pool);
	s->addresses = calloc(ADDRESS_BUCKETS, sizeof *s->addresses);
	s->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	err = s->stop_fd < 0 ? -errno : init_loops(s);
	if (err || !s->addresses) {
		rpc_server_free(s);
		return err ? err : -ENOMEM;
	}
	*out = s;
	return 0;
}

int rpc_server_start(struct rpc_server *s)
{
	int err = rpc_pool_start(s);

	for (unsigned i = 0; i < s->nloops && !err; i++)
		err = rpc_loop_start(&s->loops[i]);
	auto_lock(&s->accept_mu);
	for (unsigned i = 0; i < s->nlisteners && !err; i++)
		if (s->listeners[i].udp)
			err = rpc_udp_start(&s->listeners[i]);
	s->started = true;
	return err;
}

static void say_stop(struct rpc_server *s)
{
	uint64_t one = 1;
	auto_lock(&s->accept_mu);

	atomic_store(&s->stopping, true);
	if (write(s->stop_fd, &one, sizeof one) < 0)
		assert(errno == EAGAIN);
}

void rpc_server_stop(struct rpc_server *s)
{
	if (s->stopped)
		return;
	s->stopped = true;
	say_stop(s);
	for (unsigned i = 0; i < s->nloops; i++)
		if (s->loops[i].running) {
			rpc_loop_wake(&s->loops[i]);
			pthread_join(s->loops[i].thread, NULL);
		}
	for (unsigned i = 0; i < s->nlisteners; i++) {
		if (s->listeners[i].running)
			pthread_join(s->listeners[i].thread, NULL);
		close(s->listeners[i].fd);
	}
	rpc_pool_stop(s);
	for (unsigned i = 0; i < s->nloops; i++)
		rpc_loop_close(&s->loops[i]);
}

void rpc_server_free(struct rpc_server *s)
{
	if (!s)
		return;
	if (s->stop_fd >= 0)
		rpc_server_stop(s);
	pthread_mutex_lock(&s->later_mu);
	while (s->laters)
		pthread_cond_wait(&s->later_none, &s->later_mu);
	pthread_mutex_unlock(&s->later_mu);
	for (unsigned i = 0; i < s->nloops; i++)
		rpc_loop_free(&s->loops[i]);
	rpc_pool_free(&s->pool);
	pthread_mutex_destroy(&s->accept_mu);
	pthread_mutex_destroy(&s->later_mu);
	pthread_cond_destroy(&s->later_none);
	if (s->stop_fd >= 0)
		close(s->stop_fd);
	free(s->addresses);
	free(s);
}

void rpc_server_stats(struct rpc_server *s, struct rpc_server_stats *out)
{
	*out = (struct rpc_server_stats){
		.accepted = atomic_load(&s->accepted), .refused = atomic_load(&s->refused), .closed_bad = atomic_load(&s->closed_bad),
		.closed_slow = atomic_load(&s->closed_slow), .connections = atomic_load(&s->nconns), .partial_bytes = atomic_load(&s->partial),
		.inflight_bytes = atomic_load(&s->inflight), .output_bytes = atomic_load(&s->output),
	};
	for (unsigned i = 0; i < s->nloops; i++) {
		out->calls += atomic_load(&s->loops[i].calls);
		out->faults += atomic_load(&s->loops[i].faults);
	}
	auto_lock(&s->pool.mu);
	out->slow_calls = s->pool.calls;
	out->faults += s->pool.faults;
	out->pool_threads = s->pool.threads;
}
