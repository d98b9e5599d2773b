/*
 * The control connections.
 *
 * Each configured peer has a thread. It gets a connection (dials it, with a pause that grows from 100 ms to 1 s; or takes what the listener's side hands
 * over), says hello, hears hello, calls up, and runs: read what came, write the outbox, a heartbeat every fifth of peer_timeout, until the connection
 * ends, somebody resets it, or nothing was heard for peer_timeout. Then it calls down and starts again. What was sent while no link was up is refused,
 * what was in the outbox when it went down is lost: the decision core starts over with the hellos.
 *
 * Silence is judged only after reading: a process that was stopped for a while finds the heartbeats in its socket.
 *
 * Lock order: links.mu and peer.mu are never held together, and neither while a callback runs.
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "mirror/link_impl.h"

enum {
	OUTBOX_LOOK_MS = 100,		/* a sender that waits for room looks again */
	VERSION = 1,
	BACKOFF_MIN_MS = 100, BACKOFF_MAX_MS = 1000,
	STEADY_MS = 1000,		/* a link that was up for so long is dialled again at once */
	READ_BATCH = 64, WRITE_BATCH = 64,
	LOG_WINDOW_MS = 10000, LOG_PER_WINDOW = 5,
	CONTROL_PRIORITY = 10,
};

/* ---- hello, strangers ---- */

void link_hello(struct links *l, enum hello_kind kind, uint64_t token, struct msg *m)
{
	memset(m, 0, sizeof *m);
	m->kind = FRAME_HELLO;
	if (kind == HELLO_CONTROL)
		l->cfg.self_hello(l->cfg.arg, &m->hello);
	m->hello.kind = (uint8_t)kind;
	m->hello.token = token;
	m->hello.version_min = m->hello.version_max = VERSION;
	memcpy(m->hello.uuid, l->cfg.uuid, UUID_LEN);
	m->hello.node = (uint8_t)l->cfg.node;
	m->hello.instance = l->cfg.instance;
}

const char *link_hello_wrong(const struct links *l, const struct hello *h)
{
	static const unsigned char none[UUID_LEN];
	bool joins = h->kind == HELLO_JOIN;

	if (h->version_min > VERSION || h->version_max < VERSION)
		return "speaks another version: install the same release on both nodes";
	if (memcmp(h->uuid, l->cfg.uuid, UUID_LEN) != 0 && !(joins && !memcmp(h->uuid, none, UUID_LEN)))
		return "belongs to another volume";
	if (h->node == l->cfg.node)
		return "has this node's number: give each node its own";
	if (!joins && !l->peers[h->node].address)
		return "is a node that the configuration doesn't name";
	return NULL;
}

/* True when a line may be logged; *DROPPED: how many were not since the last. */
static bool may_log(struct links *l, unsigned *dropped)
{
	auto_lock(&l->mu);
	uint64_t now = clock_mono_ms();

	*dropped = 0;
	if (now - l->log_window_ms >= LOG_WINDOW_MS) {
		*dropped = l->log_dropped;
		l->log_window_ms = now;
		l->log_lines = l->log_dropped = 0;
	}
	if (l->log_lines < LOG_PER_WINDOW) {
		l->log_lines++;
		return true;
	}
	l->log_dropped++;
	return false;
}

void link_refuse(struct links *l, unsigned node, bool malformed, const char *from, const char *why)
{
	struct peer *p = &l->peers[node];
	unsigned dropped;

	atomic_fetch_add(malformed ? &p->malformed : &p->refused, 1);
	if (!may_log(l, &dropped))
		return;
	if (dropped)
		log_warn("link: %u more refused connections were not logged", dropped);
	log_warn("link: %s%s%s: refused: %s", from, node ? " " : "", node && p->name ? p->name : "", why);
}

const char *link_error(int err)
{
	switch (err) {
	case -EPROTO: return "the TLS handshake or a record failed (another key or volume, or no TLS there)";
	case -EBADMSG: return "malformed frame";
	case -EPROTONOSUPPORT: return "frame of another version";
	case -ECONNRESET: return "connection closed by the peer";
	case -ECONNREFUSED: return "connection refused: no daemon is listening there";
	case -ECONNABORTED: return "given up";
	case -ETIMEDOUT: return "timed out";
	default: return strerror(-err);
	}
}

/* ---- outbox ---- */

static void wake(struct peer *p)
{
	if (eventfd_write(p->wake_fd, 1) < 0)
		assert(errno == EAGAIN);	/* readable already */
}

/* Under mu. */
static void reset_locked(struct peer *p, const char *why)
{
	if (p->reset)
		return;
	p->reset = true;
	snprintf(p->why, sizeof p->why, "%s", why);
	wake(p);
}

static struct outmsg *outmsg_new(const struct msg *m)
{
	struct enc e = { 0 };
	struct outmsg *o = NULL;

	if (msg_frame(&e, m) == 0 && (o = malloc(sizeof *o + e.len))) {
		o->next = NULL;
		o->len = e.len;
		memcpy(o->bytes, e.p, e.len);
	}
	enc_free(&e);
	return o;
}

/* Takes O over unless it fails. The control thread is woken by whoever finds that nobody writes it at once (write_now). */
static int outbox_add(struct peer *p, struct outmsg *o)
{
	auto_lock(&p->mu);

	if (!p->up || p->reset)
		return -ENOTCONN;
	if (p->nout == LINK_BACKLOG_MAX) {
		reset_locked(p, "too many messages wait to be sent");
		return -ENOTCONN;
	}
	p->nout++;
	*p->tail = o;
	p->tail = &o->next;
	return 0;
}


int link_send_wait(struct links *l, unsigned peer, const struct msg *m)
{
	struct peer *p = &l->peers[peer];

	pthread_mutex_lock(&p->mu);
	while (p->up && !p->reset && p->nout > LINK_BACKLOG_MAX / 2) {
		struct timespec until = clock_mono_after_ms(OUTBOX_LOOK_MS);
		pthread_cond_timedwait(&p->changed, &p->mu, &until);
	}
	pthread_mutex_unlock(&p->mu);
	return link_send(l, peer, m);
}

static struct outmsg *outbox_take(struct peer *p)
{
	auto_lock(&p->mu);
	struct outmsg *list = p->head;

	p->head = NULL;
	p->tail = &p->head;
	if (p->nout > LINK_BACKLOG_MAX / 2)
		pthread_cond_broadcast(&p->changed);
	p->nout = 0;
	return list;
}

static void outbox_free(struct outmsg *o)
{
	while (o) {
		struct outmsg *next = o->next;
		free(o);
		o = next;
	}
}

static int outbox_write(struct peer *p, struct conn *c)
{
	struct outmsg *list = outbox_take(p), *o = list;
	int r = 0;

	while (o && !r) {
		struct iovec v[WRITE_BATCH];
		int n = 0;
		for (; o && n < WRITE_BATCH; o = o->next)
			v[n++] = (struct iovec){ o->bytes, o->len };
		r = conn_writev(c, v, n, p->l->cfg.peer_timeout_ms);
	}
	outbox_free(list);
	return r;
}

/* The sender itself writes the outbox when nobody else does and the socket takes it: an answer to a barrier saves a thread's wake-up. Who holds write_mu
 * took the outbox before this message was in it, perhaps: then the control thread has to look again. */
static void write_now(struct peer *p)
{
	int r = 0;

	if (pthread_mutex_trylock(&p->write_mu)) {
		wake(p);
		return;
	}
	if (p->writable && conn_writable(p->writable))
		r = outbox_write(p, p->writable);
	else
		wake(p);
	pthread_mutex_unlock(&p->write_mu);
	if (r < 0) {
		auto_lock(&p->mu);
		reset_locked(p, link_error(r));
	}
}

int link_send(struct links *l, unsigned peer, const struct msg *m)
{
	assert(peer >= 1 && peer <= NODE_MAX);
	struct outmsg *o = outmsg_new(m);

	if (!o)
		return -ENOMEM;
	int r = outbox_add(&l->peers[peer], o);
	if (r < 0)
		free(o);
	else
		write_now(&l->peers[peer]);
	return r;
}

static void set_writable(struct peer *p, struct conn *c)
{
	auto_lock(&p->write_mu);
	p->writable = c;
}

static int outbox_write_locked(struct peer *p, struct conn *c)
{
	auto_lock(&p->write_mu);
	return outbox_write(p, c);
}

/* ---- heartbeats ---- */

static int heartbeat_send(struct peer *p, struct conn *c)
{
	struct msg m = { .kind = FRAME_HEARTBEAT };
	uint64_t now = clock_mono_ns();

	p->l->cfg.self_heartbeat(p->l->cfg.arg, &m.heartbeat);
	m.heartbeat.sent_ns = now;
	/* Plus the time that it lay here, so that the difference at the peer is the way there and back. */
	m.heartbeat.echo_ns = p->heard_sent_ns ? p->heard_sent_ns + (now - p->heard_at_ns) : 0;
	auto_lock(&p->write_mu);
	return msg_write(c, &m, p->l->cfg.peer_timeout_ms);
}

static void heartbeat_heard(struct peer *p, const struct heartbeat *h)
{
	uint64_t now = clock_mono_ns();

	if (h->echo_ns && h->echo_ns < now)
		atomic_store(&p->rtt_ns, now - h->echo_ns);
	p->heard_sent_ns = h->sent_ns;
	p->heard_at_ns = now;
	p->l->cfg.heartbeat(p->l->cfg.arg, p->node, h);
}

/* ---- one connection's life ---- */

static void handle(struct peer *p, const struct msg *m)
{
	if (m->kind == FRAME_HEARTBEAT)
		heartbeat_heard(p, &m->heartbeat);
	else
		p->l->cfg.message(p->l->cfg.arg, p->node, m);
}

static bool belongs_here(const struct msg *m)
{
	return m->kind != FRAME_HELLO && m->kind != FRAME_JOIN && m->kind != FRAME_JOINED;
}

/* -EAGAIN: all that has come is read; 0: there may be more; else the link's end. */
static int read_batch(struct peer *p, struct conn *c)
{
	struct msg m;
	int r = 0;

	for (unsigned i = 0; i < READ_BATCH && !r; i++) {
		r = msg_try_read(c, &m);
		if (!r && !belongs_here(&m))
			r = -EBADMSG;
		if (r)
			break;
		atomic_store(&p->last_heard_ms, clock_mono_ms());
		handle(p, &m);
	}
	if (r == -EBADMSG || r == -EPROTONOSUPPORT || r == -EPROTO)
		link_refuse(p->l, p->node, true, conn_peer(c), link_error(r));
	return r;
}

/* Has somebody ended it? WHY gets the reason. */
static bool was_reset(struct peer *p, char why[REASON_MAX])
{
	auto_lock(&p->mu);
	if (p->reset)
		memcpy(why, p->why, REASON_MAX);
	return p->reset;
}

static bool is_silent(struct peer *p, char why[REASON_MAX])
{
	uint64_t silent = clock_mono_ms() - atomic_load(&p->last_heard_ms);

	if (silent <= p->l->cfg.peer_timeout_ms)
		return false;
	snprintf(why, REASON_MAX, "nothing heard for %llu ms", (unsigned long long)silent);
	return true;
}

static unsigned ms_until(uint64_t when)
{
	uint64_t now = clock_mono_ms();

	return when > now ? (unsigned)(when - now) : 0;
}

/* Until the next heartbeat or the end of patience, whichever is first. */
static unsigned wait_ms(struct peer *p, uint64_t next_beat)
{
	uint64_t patience = atomic_load(&p->last_heard_ms) + p->l->cfg.peer_timeout_ms + 1;

	return ms_until(patience < next_beat ? patience : next_beat);
}

/* Until the link's end. WHY stays empty when the links are being stopped. */
static void run(struct peer *p, struct conn *c, char why[REASON_MAX])
{
	unsigned interval = p->l->cfg.peer_timeout_ms / 5 ? p->l->cfg.peer_timeout_ms / 5 : 1;
	uint64_t next_beat = 0;
	int more = -EAGAIN, r = 0;
	eventfd_t unused;

	for (;;) {
		if (!ms_until(next_beat)) {
			r = heartbeat_send(p, c);
			next_beat = clock_mono_ms() + interval;
		}
		if (r >= 0)
			r = conn_wait(c, p->wake_fd, more == -EAGAIN ? wait_ms(p, next_beat) : 0);
		if (r > 0 && (r & CONN_WOKEN))
			eventfd_read(p->wake_fd, &unused);
		if (r >= 0)
			r = more = read_batch(p, c);
		if (r == 0 || r == -EAGAIN)
			r = outbox_write_locked(p, c);
		if (r < 0)
			snprintf(why, REASON_MAX, "%s", link_error(r));
		if (r < 0 || was_reset(p, why) || atomic_load(&p->l->stopping) || is_silent(p, why))
			return;
	}
}

static void link_up(struct peer *p, struct conn *c, const struct hello *h)
{
	pthread_mutex_lock(&p->mu);
	p->up = true;
	p->reset = false;
	p->instance = h->instance;
	p->conn = c;
	p->failure[0] = 0;
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->mu);
	p->heard_sent_ns = 0;
	atomic_store(&p->last_heard_ms, clock_mono_ms());
	atomic_store(&p->is_up, true);
	log_info("link: %s: up (%s)", p->name, conn_peer(c));
	p->l->cfg.up(p->l->cfg.arg, p->node, h);
}

static void link_down(struct peer *p, struct conn *c, const char *why)
{
	atomic_store(&p->is_up, false);
	pthread_mutex_lock(&p->mu);
	p->up = false;
	p->conn = NULL;
	p->past_in += conn_bytes_in(c);
	p->past_out += conn_bytes_out(c);
	memset(p->tokens, 0, sizeof p->tokens);
	pthread_cond_broadcast(&p->changed);
	pthread_mutex_unlock(&p->mu);
	outbox_free(outbox_take(p));
	if (!why[0])
		return;
	log_info("link: %s: down: %s", p->name, why);
	p->l->cfg.down(p->l->cfg.arg, p->node, why);
}

/* True when the link was up long enough to be dialled again at once. */
static bool serve(struct peer *p, struct conn *c, const struct hello *h)
{
	char why[REASON_MAX] = "";
	uint64_t since = clock_mono_ms();

	link_up(p, c, h);
	set_writable(p, c);
	run(p, c, why);
	set_writable(p, NULL);
	if (!why[0] && outbox_write(p, c) == 0)
		conn_finish(c, FINISH_MS);
	link_down(p, c, why);
	conn_free(c);
	return clock_mono_ms() - since >= STEADY_MS;
}

/* ---- getting a connection ---- */

/* False: stopping. */
static bool pause_ms(struct links *l, unsigned ms)
{
	struct pollfd fd = { l->stop_fd, POLLIN, 0 };

	poll(&fd, 1, (int)ms);		/* a signal only makes it shorter */
	return !atomic_load(&l->stopping);
}

static int greet(struct peer *p, struct conn *c, struct hello *h, const char **why)
{
	struct msg m;

	link_hello(p->l, HELLO_CONTROL, 0, &m);
	int r = msg_write(c, &m, HANDSHAKE_MS);
	if (!r)
		r = msg_read(c, &m, HANDSHAKE_MS);
	if (!r && m.kind != FRAME_HELLO)
		r = -EBADMSG;
	if (r < 0)
		return r;
	*why = m.hello.kind != HELLO_CONTROL ? "answers with a hello of another kind" : link_hello_wrong(p->l, &m.hello);
	if (!*why && m.hello.node != p->node)
		*why = "is another node than the configuration says";
	*h = m.hello;
	return *why ? -EPROTO : 0;
}

/* For status; false: it is the same as last time. */
static bool note_failure(struct peer *p, const char *why)
{
	auto_lock(&p->mu);
	if (!strncmp(p->failure, why, sizeof p->failure - 1))
		return false;
	snprintf(p->failure, sizeof p->failure, "%s", why);
	return true;
}

static void dial_failed(struct peer *p, const char *why)
{
	if (note_failure(p, why))
		log_info("link: %s: %s: can't connect: %s", p->name, p->address, why);
}

static struct conn *dial(struct peer *p, struct hello *h)
{
	struct links *l = p->l;
	struct conn *c = NULL;
	const char *why = NULL;
	int r = conn_dial_watch(l->cfg.security, p->address, NULL, HANDSHAKE_MS, l->stop_fd, &c);

	if (r == 0 && (r = greet(p, c, h, &why)) == 0) {
		conn_unwatch(c);
		return c;
	}
	if (!why)
		why = link_error(r);
	if (r == -EPROTO || r == -EBADMSG) {
		note_failure(p, why);
		link_refuse(l, p->node, r == -EBADMSG, p->address, why);
	} else if (!atomic_load(&l->stopping)) {
		dial_failed(p, why);
	}
	conn_free(c);
	return NULL;
}

static void dial_loop(struct peer *p)
{
	unsigned backoff = 0;
	struct hello h;

	while (pause_ms(p->l, backoff)) {
		struct conn *c = dial(p, &h);
		bool steady = c && serve(p, c, &h);
		backoff = steady ? 0 : backoff ? backoff * 2 : BACKOFF_MIN_MS;
		backoff = backoff > BACKOFF_MAX_MS ? BACKOFF_MAX_MS : backoff;
	}
}

const char *link_hand_over(struct links *l, struct conn *c, const struct hello *h)
{
	struct peer *p = &l->peers[h->node];

	if (p->dials)
		return "dials, though this node has the higher number";
	auto_lock(&p->mu);
	if (p->up && p->instance != h->instance)
		return "is connected already, with another instance";
	conn_free(p->handed);
	p->handed = c;
	p->handed_hello = *h;
	if (p->up)
		reset_locked(p, "the peer has connected anew");
	wake(p);
	return NULL;
}

static struct conn *handed_take(struct peer *p, struct hello *h)
{
	auto_lock(&p->mu);
	struct conn *c = p->handed;

	p->handed = NULL;
	*h = p->handed_hello;
	return c;
}

static void accept_loop(struct peer *p)
{
	struct pollfd fd[2] = { { p->wake_fd, POLLIN, 0 }, { p->l->stop_fd, POLLIN, 0 } };
	eventfd_t unused;
	struct hello h;
	struct msg m;

	while (!atomic_load(&p->l->stopping)) {
		struct conn *c = handed_take(p, &h);
		if (!c) {
			if (poll(fd, 2, -1) > 0 && fd[0].revents)
				eventfd_read(p->wake_fd, &unused);
			continue;
		}
		link_hello(p->l, HELLO_CONTROL, 0, &m);
		if (msg_write(c, &m, HANDSHAKE_MS) == 0)
			serve(p, c, &h);
		else
			conn_free(c);
	}
}

static void *control_main(void *arg)
{
	struct peer *p = arg;
	struct sched_param prio = { .sched_priority = CONTROL_PRIORITY };

	/* Not permitted: heartbeats then compete with everything else. What callbacks start is ordinary again. */
	if (sched_setscheduler(0, SCHED_RR | SCHED_RESET_ON_FORK, &prio) < 0)
		log_debug("link: %s: no real-time priority: %s", p->name, strerror(errno));
	if (p->dials)
		dial_loop(p);
	else
		accept_loop(p);
	return NULL;
}

/* ---- streams ---- */

bool link_take_token(struct peer *p, uint64_t token, uint64_t instance)
{
	struct timespec until = clock_mono_after_ms(STREAM_HOLD_MS);
	auto_lock(&p->mu);
	int r = 0;

	while (p->up && p->instance == instance && !atomic_load(&p->l->stopping) && !r) {
		for (unsigned i = 0; i < STREAM_TOKENS_MAX; i++)
			if (p->tokens[i] == token) {
				p->tokens[i] = 0;
				return true;
			}
		r = pthread_cond_timedwait(&p->changed, &p->mu, &until);
	}
	return false;
}

static int expect_token(struct peer *p, uint64_t token, uint64_t *instance)
{
	auto_lock(&p->mu);
	if (!p->up || p->reset)
		return -ENOTCONN;
	*instance = p->instance;
	if (p->dials)
		return 0;
	p->tokens[p->next_token++ % STREAM_TOKENS_MAX] = token;
	pthread_cond_broadcast(&p->changed);
	return 0;
}

int link_stream(struct links *l, unsigned peer, uint64_t token)
{
	assert(peer >= 1 && peer <= NODE_MAX && token);
	struct peer *p = &l->peers[peer];
	uint64_t instance;
	int r = expect_token(p, token, &instance);

	return r < 0 || !p->dials ? r : link_dial_stream(p, token, instance);
}

/* ---- the rest of the public calls ---- */

void link_reset(struct links *l, unsigned peer, const char *why)
{
	assert(peer >= 1 && peer <= NODE_MAX);
	struct peer *p = &l->peers[peer];

	auto_lock(&p->mu);
	if (p->up)
		reset_locked(p, why);
}

uint64_t link_last_heard(const struct links *l, unsigned peer)
{
	return atomic_load(&l->peers[peer].last_heard_ms);
}

bool link_is_up(const struct links *l, unsigned peer)
{
	return atomic_load(&l->peers[peer].is_up);
}

void link_stats(const struct links *l, unsigned peer, struct link_stats *out)
{
	struct peer *p = (struct peer *)&l->peers[peer];

	auto_lock(&p->mu);
	out->refused = atomic_load(&p->refused);
	out->malformed = atomic_load(&p->malformed);
	out->rtt_ns = atomic_load(&p->rtt_ns);
	memcpy(out->failure, p->failure, sizeof out->failure);
	out->bytes_in = p->past_in + (p->conn ? conn_bytes_in(p->conn) : 0);
	out->bytes_out = p->past_out + (p->conn ? conn_bytes_out(p->conn) : 0);
}

/* ---- life ---- */

static void mutex_init_pi(pthread_mutex_t *mu)
{
	pthread_mutexattr_t a;

	pthread_mutexattr_init(&a);
	pthread_mutexattr_setprotocol(&a, PTHREAD_PRIO_INHERIT);
	pthread_mutex_init(mu, &a);
	pthread_mutexattr_destroy(&a);
}

static int peer_init(struct links *l, unsigned node)
{
	struct peer *p = &l->peers[node];
	const struct link_peer *cfg = &l->cfg.peers[node];

	p->l = l;
	p->node = node;
	p->tail = &p->head;
	p->dials = l->cfg.node > node;
	mutex_init_pi(&p->mu);
	mutex_init_pi(&p->write_mu);
	cond_init_mono(&p->changed);
	p->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (p->wake_fd < 0)
		return -errno;
	if (!node || node == l->cfg.node || !cfg->name || !cfg->address)
		return 0;
	p->name = strdup(cfg->name);
	p->address = strdup(cfg->address);
	return p->name && p->address ? 0 : -ENOMEM;
}

static void peer_destroy(struct peer *p)
{
	if (p->wake_fd >= 0)
		close(p->wake_fd);
	conn_free(p->handed);
	outbox_free(p->head);
	pthread_cond_destroy(&p->changed);
	pthread_mutex_destroy(&p->mu);
	pthread_mutex_destroy(&p->write_mu);
	free(p->name);
	free(p->address);
}

static void links_free(struct links *l)
{
	for (unsigned n = 0; n <= NODE_MAX; n++)
		peer_destroy(&l->peers[n]);
	if (l->listen_fd >= 0)
		close(l->listen_fd);
	if (l->stop_fd >= 0)
		close(l->stop_fd);
	pthread_cond_destroy(&l->idle);
	pthread_mutex_destroy(&l->mu);
	free(l);
}

static int links_init(struct links *l, const struct links_config *cfg)
{
	int err = 0;

	l->cfg = *cfg;
	l->listen_fd = -1;
	pthread_mutex_init(&l->mu, NULL);
	cond_init_mono(&l->idle);
	l->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (l->stop_fd < 0)
		err = -errno;
	for (unsigned n = 0; n <= NODE_MAX; n++) {
		int r = peer_init(l, n);
		err = err ? err : r;
	}
	if (err)
		return err;
	if (!cfg->listen || !*cfg->listen)
		return 0;			/* a volume of one node: nobody is to come */
	l->listen_fd = conn_listen(cfg->listen);
	return l->listen_fd < 0 ? l->listen_fd : 0;
}

static void threads_stop(struct links *l)
{
	atomic_store(&l->stopping, true);
	eventfd_write(l->stop_fd, 1);
	for (unsigned n = 1; n <= NODE_MAX; n++) {
		struct peer *p = &l->peers[n];
		pthread_mutex_lock(&p->mu);
		pthread_cond_broadcast(&p->changed);
		wake(p);
		pthread_mutex_unlock(&p->mu);
	}
	for (unsigned n = 1; n <= NODE_MAX; n++) {
		if (l->peers[n].started)
			pthread_join(l->peers[n].thread, NULL);
		l->peers[n].started = false;
	}
}

int links_start(const struct links_config *cfg, struct links **out)
{
	assert(cfg->node >= 1 && cfg->node <= NODE_MAX && cfg->peer_timeout_ms);
	struct links *l = calloc(1, sizeof *l);

	if (!l)
		return -ENOMEM;
	int r = links_init(l, cfg);
	if (r) {
		links_free(l);
		return r;
	}
	*out = l;		/* callbacks may come before this returns */
	for (unsigned n = 1; n <= NODE_MAX && !r; n++) {
		struct peer *p = &l->peers[n];
		if (p->address)
			r = -pthread_create(&p->thread, NULL, control_main, p);
		p->started = p->address && !r;
	}
	if (!r && l->listen_fd >= 0) {
		r = -pthread_create(&l->listener, NULL, link_listener, l);
		l->listening = !r;
	}
	if (r) {
		links_stop(l);
		*out = NULL;
	}
	return r;
}

void links_end(struct links *l)
{
	threads_stop(l);
	if (l->listening)
		pthread_join(l->listener, NULL);
	l->listening = false;
	pthread_mutex_lock(&l->mu);
	for (struct worker *w = l->workers; w; w = w->next)
		eventfd_write(w->cancel_fd, 1);
	while (l->nworkers)
		pthread_cond_wait(&l->idle, &l->mu);
	pthread_mutex_unlock(&l->mu);
	link_reap(l, true);
}

void links_stop(struct links *l)
{
	if (!l)
		return;
	links_end(l);
	links_free(l);
}
