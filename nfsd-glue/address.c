/*
 * One thread does what takes time: the probe, further announcements, tickles, looking for others who claim an address that we hold, trying again. The caller's
 * thread (the node's worker) does what must be done at once: adding, the first announcement, removing.
 *
 * `mu` guards everything; it is held over netlink requests and single packets (microseconds), never over a wait or the list of clients.
 */
#include "nfsd-glue/address.h"

#include <errno.h>
#include <net/if.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "nfsd-glue/neighbor.h"
#include "nfsd-glue/netlink.h"
#include "nfsd-glue/tickle.h"

enum {
	PROBES = 3, PROBE_GAP_MS = 15,	/* an answer on a local network takes less than one gap */
	PROBE_WAIT_MS = 500,		/* for the thread to have probed */
	LOOK_MS = 20,			/* between two looks for others, for */
	WATCH_MS = 3000,		/* so long after an address was taken */
	RETRY_MS = 1000,
	CHECK_MS = 100,			/* between two looks whether what we hold is here */
};
/* When to announce and tickle again, after the address was taken: a switch or a client may have missed it. */
static const unsigned again_ms[] = { 0, 30, 150, 500, 1500, 4000 };

enum entry_state { AWAY, HELD, REFUSED };
enum probe_state { PROBE_NONE, PROBE_WANTED, PROBE_RUNS, PROBE_DONE };

struct entry {
	struct service_address a;
	char name[SERVICE_TEXT_MAX];
	enum entry_state state;
	bool conflict;				/* somebody answered the probe, */
	unsigned char mac[6];			/* with this hardware address */
	char trouble[128];
	struct neighbor nb;			/* HELD, while others are watched for; or fd -1 */
	uint64_t taken_ms;
	unsigned said;				/* announcements made, of again_ms */
	uint64_t retry_ms;			/* REFUSED: when to try again */
	uint64_t checked_ms;			/* HELD: when it was seen here */
};

struct address {
	struct address_config cfg;
	pthread_t thread;
	bool started;
	pthread_mutex_t mu;			/* guards all below */
	pthread_cond_t cond;			/* the thread has something to do, or has probed */
	bool stop, wanted;			/* wanted: taken, and not released */
	enum probe_state probe;
	unsigned n;
	struct entry e[SERVICE_MAX];
	int netlink;				/* owned */
	int tickle4, tickle6;			/* owned, of the thread; -1 = not opened */
};

/* ---- one address; with mu ---- */

static void trouble(struct entry *e, const char *what)
{
	if (strcmp(e->trouble, what))
		log_error("address: %s: %s", e->name, what);
	snprintf(e->trouble, sizeof e->trouble, "%s", what);
}

static void conflict(struct entry *e, const unsigned char m[6])
{
	char text[sizeof e->trouble];

	snprintf(text, sizeof text, "in use elsewhere, by %02x:%02x:%02x:%02x:%02x:%02x%s", m[0], m[1], m[2], m[3], m[4], m[5],
		 e->state == HELD ? ", while this node has it" : ": not taken; it is tried again");
	trouble(e, text);
}

static void refuse(struct entry *e)
{
	e->state = REFUSED;
	e->retry_ms = clock_mono_ms() + RETRY_MS;
}

static void take_one(struct address *a, struct entry *e)
{
	char text[sizeof e->trouble];
	int err = neighbor_open(&e->a, &e->nb);

	if (!err)
		err = netlink_address(a->netlink, &e->a, true);
	if (err) {
		snprintf(text, sizeof text, "can't be taken: %s", err == -ENODEV ? "there is no such interface" : strerror(-err));
		trouble(e, text);
		neighbor_close(&e->nb);
		refuse(e);
		return;
	}
	e->state = HELD;
	e->trouble[0] = 0;
	e->taken_ms = e->checked_ms = clock_mono_ms();
	e->said = 0;
	neighbor_announce(&e->nb, &e->a);
	log_info("address: %s: taken", e->name);
}

static void release_one(struct address *a, struct entry *e)
{
	int err = netlink_address(a->netlink, &e->a, false);

	if (e->state == HELD && !err)
		log_info("address: %s: released", e->name);
	else if (err && err != -EADDRNOTAVAIL && err != -ENODEV)
		log_error("address: %s: can't be released: %s", e->name, strerror(-err));
	neighbor_close(&e->nb);
	e->state = AWAY;
	e->trouble[0] = 0;
}

/* ---- the probe; without mu: entries' addresses don't change ---- */

static void probe_once(struct neighbor nb[], struct address *a, const bool which[])
{
	for (unsigned i = 0; i < a->n; i++)
		if (which[i] && nb[i].fd >= 0)
			neighbor_probe(&nb[i], &a->e[i].a);
}

static void nap(unsigned ms)
{
	struct timespec t = { .tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000 };
	while (nanosleep(&t, &t) && errno == EINTR)
		;
}

/* Asks on the wire about the addresses WHICH. Takes PROBES * PROBE_GAP_MS, or less when all are answered for. */
static void ask(struct address *a, const bool which[], bool found[], unsigned char mac[][6])
{
	struct neighbor nb[SERVICE_MAX];
	unsigned open = 0;

	for (unsigned i = 0; i < a->n; i++) {
		found[i] = false;
		nb[i].fd = -1;
		if (which[i] && !neighbor_open(&a->e[i].a, &nb[i]) && !nb[i].mute)
			open++;
	}
	for (unsigned k = 0; k < PROBES && open; k++) {
		probe_once(nb, a, which);
		nap(PROBE_GAP_MS);
		for (unsigned i = 0; i < a->n; i++)
			if (nb[i].fd >= 0 && !found[i] && neighbor_conflict(&nb[i], &a->e[i].a, mac[i])) {
				found[i] = true;
				open--;
			}
	}
	for (unsigned i = 0; i < a->n; i++)
		neighbor_close(&nb[i]);
}

/* With mu, which is dropped meanwhile. */
static void run_probe(struct address *a)
{
	unsigned char mac[SERVICE_MAX][6] = { { 0 } };
	bool all[SERVICE_MAX], found[SERVICE_MAX];

	memset(all, true, sizeof all);
	a->probe = PROBE_RUNS;
	pthread_mutex_unlock(&a->mu);
	ask(a, all, found, mac);
	pthread_mutex_lock(&a->mu);
	for (unsigned i = 0; i < a->n; i++) {
		a->e[i].conflict = found[i];
		memcpy(a->e[i].mac, mac[i], sizeof mac[i]);
	}
	if (a->probe == PROBE_RUNS)		/* else it was wanted again */
		a->probe = PROBE_DONE;
	pthread_cond_broadcast(&a->cond);
}

static void retry(struct address *a)
{
	unsigned char mac[SERVICE_MAX][6] = { { 0 } };
	bool which[SERVICE_MAX] = { false }, found[SERVICE_MAX];
	uint64_t now = clock_mono_ms();

	for (unsigned i = 0; i < a->n; i++)
		which[i] = a->e[i].state == REFUSED && a->e[i].retry_ms <= now;
	pthread_mutex_unlock(&a->mu);
	ask(a, which, found, mac);
	pthread_mutex_lock(&a->mu);
	for (unsigned i = 0; i < a->n; i++) {
		struct entry *e = &a->e[i];
		if (!which[i] || !a->wanted || e->state != REFUSED)
			continue;
		refuse(e);
		if (found[i])
			conflict(e, mac[i]);
		else
			take_one(a, e);
	}
}

/* ---- announcing ---- */

static bool same_ip(const struct sockaddr_storage *s, const struct service_address *a)
{
	const struct sockaddr_in *in = (const void *)s;
	const struct sockaddr_in6 *in6 = (const void *)s;

	if (s->ss_family != a->family)
		return false;
	return a->family == AF_INET ? !memcmp(&in->sin_addr, a->ip, 4) : !memcmp(&in6->sin6_addr, a->ip, 16);
}

struct tickling { struct address *a; bool held[SERVICE_MAX]; unsigned sent; };

static void tickle(void *arg, const struct sockaddr_storage *client, const struct sockaddr_storage *server)
{
	struct tickling *t = arg;
	int *fd = server->ss_family == AF_INET ? &t->a->tickle4 : &t->a->tickle6;

	for (unsigned i = 0; i < t->a->n; i++) {
		if (!t->held[i] || !same_ip(server, &t->a->e[i].a) || client->ss_family != server->ss_family)
			continue;
		if (*fd < 0)
			*fd = tickle_open(server->ss_family);
		if (*fd >= 0 && !tickle_send(*fd, server, client))
			t->sent++;
	}
}

/* With mu, which is dropped meanwhile. */
static void tickle_all(struct address *a)
{
	struct tickling t = { .a = a };

	for (unsigned i = 0; i < a->n; i++)
		t.held[i] = a->e[i].state == HELD;
	pthread_mutex_unlock(&a->mu);
	if (a->cfg.clients)
		a->cfg.clients(a->cfg.arg, tickle, &t);
	if (t.sent)
		log_debug("address: %u connections tickled", t.sent);
	pthread_mutex_lock(&a->mu);
}

/* True: something was announced (again). */
static bool announce_due(struct address *a)
{
	uint64_t now = clock_mono_ms();
	bool any = false;

	for (unsigned i = 0; i < a->n; i++) {
		struct entry *e = &a->e[i];
		if (e->state != HELD || e->said >= ARRAY_LEN(again_ms) || now < e->taken_ms + again_ms[e->said])
			continue;
		if (e->said++ && e->nb.fd >= 0)
			neighbor_announce(&e->nb, &e->a);
		any = true;
	}
	return any;
}

/* Is the address one of this machine's? Also when nobody can say. */
static bool is_here(const struct service_address *s)
{
	struct sockaddr_in in = { .sin_family = AF_INET };
	struct sockaddr_in6 in6 = { .sin6_family = AF_INET6 };
	bool v4 = s->family == AF_INET;
	auto_fd int fd = socket(s->family, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	memcpy(&in.sin_addr, s->ip, 4);
	memcpy(&in6.sin6_addr, s->ip, 16);
	if (!v4 && IN6_IS_ADDR_LINKLOCAL(&in6.sin6_addr))
		in6.sin6_scope_id = if_nametoindex(s->dev);
	return fd < 0 || !bind(fd, v4 ? (const void *)&in : (const void *)&in6, v4 ? sizeof in : sizeof in6) || errno != EADDRNOTAVAIL;
}

/* What we hold may be taken away: by the guardian of a daemon that died just before this one began, by a network manager, with its interface. */
static void keep(struct address *a)
{
	uint64_t now = clock_mono_ms();

	for (unsigned i = 0; i < a->n; i++) {
		struct entry *e = &a->e[i];
		if (e->state != HELD || now < e->checked_ms + CHECK_MS)
			continue;
		e->checked_ms = now;
		if (is_here(&e->a))
			continue;
		log_warn("address: %s: somebody has taken it away from this machine: it is taken again", e->name);
		neighbor_close(&e->nb);
		take_one(a, e);
		e->checked_ms += RETRY_MS;	/* whoever does it again shan't fill the log */
	}
}

static void watch(struct address *a)
{
	unsigned char mac[6];

	for (unsigned i = 0; i < a->n; i++) {
		struct entry *e = &a->e[i];
		if (e->state != HELD || e->nb.fd < 0)
			continue;
		if (neighbor_conflict(&e->nb, &e->a, mac))
			conflict(e, mac);
		if (e->said >= ARRAY_LEN(again_ms) && clock_mono_ms() > e->taken_ms + WATCH_MS)
			neighbor_close(&e->nb);
	}
}

/* ---- the thread ---- */

/* Milliseconds until something is due; with mu. */
static unsigned idle_ms(const struct address *a)
{
	unsigned wait = RETRY_MS;

	for (unsigned i = 0; i < a->n; i++)
		if ((a->e[i].state == HELD && (a->e[i].nb.fd >= 0 || a->e[i].said < ARRAY_LEN(again_ms))) || a->e[i].state == REFUSED)
			wait = LOOK_MS;
	return wait;
}

static bool retry_due(const struct address *a)
{
	for (unsigned i = 0; i < a->n; i++)
		if (a->wanted && a->e[i].state == REFUSED && a->e[i].retry_ms <= clock_mono_ms())
			return true;
	return false;
}

static void *run(void *arg)
{
	struct address *a = arg;

	pthread_mutex_lock(&a->mu);
	while (!a->stop) {
		if (a->probe == PROBE_WANTED)
			run_probe(a);
		else if (announce_due(a))
			tickle_all(a);
		else if (retry_due(a))
			retry(a);
		else {
			struct timespec until = clock_mono_after_ms(idle_ms(a));
			watch(a);
			keep(a);
			pthread_cond_timedwait(&a->cond, &a->mu, &until);
		}
	}
	pthread_mutex_unlock(&a->mu);
	return NULL;
}

/* ---- what the node asks for ---- */

void address_probe(struct address *a)
{
	auto_lock(&a->mu);
	a->probe = PROBE_WANTED;
	pthread_cond_broadcast(&a->cond);
}

static void wait_probed(struct address *a)
{
	struct timespec until = clock_mono_after_ms(PROBE_WAIT_MS);

	if (a->probe == PROBE_NONE)
		a->probe = PROBE_WANTED;
	pthread_cond_broadcast(&a->cond);
	while (a->probe != PROBE_DONE)
		if (pthread_cond_timedwait(&a->cond, &a->mu, &until) == ETIMEDOUT)
			return;
}

void address_take(struct address *a, bool free)
{
	auto_lock(&a->mu);

	if (!free)
		wait_probed(a);
	bool known = a->probe == PROBE_DONE;
	a->probe = PROBE_NONE;
	a->wanted = true;
	for (unsigned i = 0; i < a->n; i++) {
		struct entry *e = &a->e[i];
		if (e->state == HELD)
			continue;
		if (!free && known && e->conflict) {
			refuse(e);
			conflict(e, e->mac);
		} else {
			take_one(a, e);
		}
	}
	pthread_cond_broadcast(&a->cond);
}

void address_release(struct address *a)
{
	auto_lock(&a->mu);
	a->wanted = false;
	a->probe = PROBE_NONE;
	for (unsigned i = 0; i < a->n; i++)
		release_one(a, &a->e[i]);
}

unsigned address_status(struct address *a, struct address_status out[SERVICE_MAX])
{
	auto_lock(&a->mu);
	for (unsigned i = 0; i < a->n; i++) {
		out[i].addr = a->e[i].a;
		out[i].held = a->e[i].state == HELD;
		memcpy(out[i].trouble, a->e[i].trouble, sizeof out[i].trouble);
	}
	return a->n;
}

/* ---- life ---- */

static int remove_leftovers(struct address *a)
{
	for (unsigned i = 0; i < a->n; i++) {
		struct entry *e = &a->e[i];
		int err = netlink_address(a->netlink, &e->a, false);
		if (!err)
			log_warn("address: %s: was here, left by a daemon that died: removed", e->name);
		else if (err == -ENODEV)
			log_warn("address: %s: there is no such interface", e->name);
		else if (err != -EADDRNOTAVAIL)
			return err;
	}
	return 0;
}

int address_new(const struct address_config *cfg, struct address **out)
{
	struct address *a = calloc(1, sizeof *a);

	if (!a)
		return -ENOMEM;
	a->cfg = *cfg;
	a->n = cfg->n;
	a->tickle4 = a->tickle6 = -1;
	pthread_mutex_init(&a->mu, NULL);
	cond_init_mono(&a->cond);
	for (unsigned i = 0; i < a->n; i++) {
		a->e[i].a = cfg->addr[i];
		a->e[i].nb.fd = -1;
		service_format(&cfg->addr[i], a->e[i].name);
	}
	int err = a->netlink = netlink_open();
	if (err >= 0)
		err = remove_leftovers(a);
	if (!err) {
		err = -pthread_create(&a->thread, NULL, run, a);
		a->started = !err;
	}
	if (err) {
		address_free(a);
		return err;
	}
	*out = a;
	return 0;
}

static void close_if_open(int fd)
{
	if (fd >= 0)
		close(fd);
}

void address_free(struct address *a)
{
	if (!a)
		return;
	if (a->started) {
		address_release(a);
		pthread_mutex_lock(&a->mu);
		a->stop = true;
		pthread_cond_broadcast(&a->cond);
		pthread_mutex_unlock(&a->mu);
		pthread_join(a->thread, NULL);
	}
	close_if_open(a->netlink);
	close_if_open(a->tickle4);
	close_if_open(a->tickle6);
	pthread_mutex_destroy(&a->mu);
	pthread_cond_destroy(&a->cond);
	free(a);
}
