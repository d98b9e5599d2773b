/*
 * Connections that come in, and stream connections that go out: a thread for each (struct worker), until it is handed over or its callback returns.
 *
 *   in:  TLS handshake -> hello -> control: handed over to the peer's control thread, which answers
 *                               -> stream:  waits for its token, answers with a hello, stream callback
 *                               -> join:    the join message -> the answer -> end
 *   out: dial -> hello with the token -> hello back -> stream callback
 *
 * Until its hello was found right nobody is believed: at most HANDSHAKES_MAX are under way, and one more ends the oldest, so that who opens
 * connections and says nothing keeps nobody else out. Not a byte is sent before the key (TLS) or the hello (without) was right.
 */
#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "mirror/link_impl.h"

enum { NO_FD_PAUSE_MS = 100, STREAM_ANSWER_MS = STREAM_HOLD_MS + 1000 };

/* ---- workers ---- */

static void worker_shaken(struct worker *w)
{
	auto_lock(&w->l->mu);
	if (w->shaking) {
		w->shaking = false;
		w->l->nshaking--;
		pthread_cond_broadcast(&w->l->idle);
	}
}

/* Under links.mu. */
static void worker_unlist(struct worker *w)
{
	struct worker **at = &w->l->workers;

	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	w->l->nworkers--;
}

/* The thread's last act. */
static void worker_end(struct worker *w)
{
	struct links *l = w->l;

	worker_shaken(w);
	if (w->fd >= 0)
		close(w->fd);
	auto_lock(&l->mu);
	worker_unlist(w);
	w->next = l->ended;
	l->ended = w;
	pthread_cond_broadcast(&l->idle);
}

static void worker_free(struct worker *w)
{
	if (w->cancel_fd >= 0)
		close(w->cancel_fd);
	free(w);
}

static struct worker *ended_take(struct links *l)
{
	auto_lock(&l->mu);
	return steal_ptr(&l->ended);
}

static void ended_give_back(struct links *l, struct worker *w)
{
	auto_lock(&l->mu);
	w->next = l->ended;
	l->ended = w;
}

void link_reap(struct links *l, bool wait)
{
	struct worker *w = ended_take(l), *next;

	for (; w; w = next) {
		next = w->next;
		if ((wait ? pthread_join(w->thread, NULL) : pthread_tryjoin_np(w->thread, NULL)) == EBUSY)
			ended_give_back(l, w);
		else
			worker_free(w);
	}
}

/* Under the lock, so that the thread can't end before W knows it. */
static int worker_run(struct worker *w, void *(*run)(void *))
{
	struct links *l = w->l;
	auto_lock(&l->mu);
	int r = -pthread_create(&w->thread, NULL, run, w);

	if (r)
		return r;
	w->next = l->workers;
	l->workers = w;
	l->nworkers++;
	l->nshaking += w->shaking;
	return 0;
}

/* Takes FD over, also on error. */
static int worker_start(struct worker want, void *(*run)(void *))
{
	struct worker *w = malloc(sizeof *w);
	auto_fd int fd = want.fd;

	link_reap(want.l, false);
	if (!w)
		return -ENOMEM;
	*w = want;
	w->cancel_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	int r = w->cancel_fd < 0 ? -EMFILE : worker_run(w, run);
	if (r)
		worker_free(w);
	else
		steal_fd(&fd);
	return r;
}

/* ---- in ---- */

static void in_refuse(struct worker *w, struct conn *c, unsigned node, const char *why)
{
	link_refuse(w->l, node, false, conn_peer(c), why);
	conn_free(c);
}

static void in_control(struct worker *w, struct conn *c, const struct hello *h)
{
	conn_unwatch(c);
	const char *why = link_hand_over(w->l, c, h);
	if (why)
		in_refuse(w, c, h->node, why);
}

static void in_stream(struct worker *w, struct conn *c, const struct hello *h)
{
	struct links *l = w->l;
	struct msg m;

	if (!link_take_token(&l->peers[h->node], h->token, h->instance)) {
		in_refuse(w, c, h->node, "a stream that nobody here expects");
		return;
	}
	link_hello(l, HELLO_STREAM, h->token, &m);
	int r = msg_write(c, &m, HANDSHAKE_MS);
	if (r < 0) {
		in_refuse(w, c, h->node, link_error(r));
		return;
	}
	conn_unwatch(c);
	conn_set_compress(c, l->cfg.compress);
	l->cfg.stream(l->cfg.arg, h->node, h->token, c);
}

static void in_join(struct worker *w, struct conn *c, const struct hello *h)
{
	struct msg m, answer = { .kind = FRAME_JOINED };
	int r = msg_read(c, &m, HANDSHAKE_MS);

	if (r < 0 || m.kind != FRAME_JOIN || m.join.node != h->node || !w->l->cfg.join) {
		in_refuse(w, c, 0, r < 0 ? link_error(r) : "asks to join in a wrong way");
		return;
	}
	w->l->cfg.join(w->l->cfg.arg, &m.join, &answer.joined);
	if (msg_write(c, &answer, HANDSHAKE_MS) == 0)
		conn_finish(c, HANDSHAKE_MS);
	conn_free(c);
}

static void in_hello(struct worker *w, struct conn *c, const struct hello *h)
{
	static void (*const by_kind[])(struct worker *, struct conn *, const struct hello *) = {
		[HELLO_CONTROL] = in_control, [HELLO_STREAM] = in_stream, [HELLO_JOIN] = in_join,
	};
	const char *why = link_hello_wrong(w->l, h);

	if (why) {
		in_refuse(w, c, 0, why);
		return;
	}
	if (h->kind != HELLO_JOIN)
		worker_shaken(w);
	by_kind[h->kind](w, c, h);
}

static void *in_main(void *arg)
{
	struct worker *w = arg;
	struct conn *c = NULL;
	struct msg m;
	char from[CONN_NAME_MAX];

	conn_name(w->fd, from);
	int r = conn_accept_watch(w->l->cfg.security, steal_fd(&w->fd), HANDSHAKE_MS, w->cancel_fd, &c);

	if (!r)
		r = msg_read(c, &m, HANDSHAKE_MS);
	if (!r && m.kind != FRAME_HELLO)
		r = -EBADMSG;
	if (!r)
		in_hello(w, c, &m.hello);
	else {
		link_refuse(w->l, 0, r == -EBADMSG, from, link_error(r));
		conn_free(c);
	}
	worker_end(w);
	return NULL;
}

/* ---- listening ---- */

/* Waits until there is room for one more handshake, ending the oldest when there is none. */
static void make_room(struct links *l)
{
	auto_lock(&l->mu);
	while (l->nshaking >= HANDSHAKES_MAX && !atomic_load(&l->stopping)) {
		struct worker *oldest = NULL;
		for (struct worker *w = l->workers; w; w = w->next)
			if (w->shaking)
				oldest = w;
		assert(oldest);
		eventfd_write(oldest->cancel_fd, 1);
		struct timespec until = clock_mono_after_ms(NO_FD_PAUSE_MS);
		pthread_cond_timedwait(&l->idle, &l->mu, &until);
	}
}

static void accept_one(struct links *l)
{
	struct pollfd stop = { l->stop_fd, POLLIN, 0 };

	make_room(l);
	int fd = accept4(l->listen_fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0) {
		int r = worker_start((struct worker){ .l = l, .fd = fd, .shaking = true }, in_main);
		if (r < 0)
			link_refuse(l, 0, false, "a connection", strerror(-r));
	} else if (errno != EAGAIN && errno != EINTR && errno != ECONNABORTED) {
		link_refuse(l, 0, false, "a connection", strerror(errno));
		poll(&stop, 1, NO_FD_PAUSE_MS);		/* out of descriptors: it would be there again at once */
	}
}

void *link_listener(void *links)
{
	struct links *l = links;
	struct pollfd fd[2] = { { l->listen_fd, POLLIN, 0 }, { l->stop_fd, POLLIN, 0 } };

	while (!atomic_load(&l->stopping))
		if (poll(fd, 2, -1) > 0 && fd[0].revents && !fd[1].revents)
			accept_one(l);
	return NULL;
}

/* ---- out ---- */

static int out_stream(struct worker *w, struct conn **c)
{
	struct links *l = w->l;
	struct msg m;
	int r = conn_dial_watch(l->cfg.security, w->peer->address, NULL, STREAM_HOLD_MS, w->cancel_fd, c);

	if (r < 0)
		return r;
	link_hello(l, HELLO_STREAM, w->token, &m);
	r = msg_write(*c, &m, HANDSHAKE_MS);
	if (!r)
		r = msg_read(*c, &m, STREAM_ANSWER_MS);
	if (r < 0)
		return r;
	if (m.kind != FRAME_HELLO || m.hello.kind != HELLO_STREAM || m.hello.token != w->token || m.hello.node != w->peer->node ||
	    m.hello.instance != w->instance || link_hello_wrong(l, &m.hello))
		return -EBADMSG;
	return 0;
}

/* Only if it is still the link that asked for the stream. */
static void out_failed(struct worker *w, int err)
{
	struct peer *p = w->peer;
	pthread_mutex_lock(&p->mu);
	bool same = p->up && p->instance == w->instance;
	pthread_mutex_unlock(&p->mu);

	if (err == -EBADMSG)
		link_refuse(w->l, p->node, true, p->address, "a wrong answer to a stream's hello");
	log_warn("link: %s: no stream connection: %s", p->name, link_error(err));
	if (same)
		link_reset(w->l, p->node, "the stream connection could not be made");
}

static void *out_main(void *arg)
{
	struct worker *w = arg;
	struct conn *c = NULL;
	int r = out_stream(w, &c);

	if (!r) {
		conn_unwatch(c);
		conn_set_compress(c, w->l->cfg.compress);
		w->l->cfg.stream(w->l->cfg.arg, w->peer->node, w->token, c);
	} else {
		conn_free(c);
		if (!atomic_load(&w->l->stopping))
			out_failed(w, r);
	}
	worker_end(w);
	return NULL;
}

int link_dial_stream(struct peer *p, uint64_t token, uint64_t instance)
{
	return worker_start((struct worker){ .l = p->l, .fd = -1, .peer = p, .token = token, .instance = instance }, out_main);
}

/* ---- joining, from the other side ---- */

static int ask(struct conn *c, const struct hello *h, const struct join_msg *j, struct joined_msg *out)
{
	struct msg m = { .kind = FRAME_HELLO, .hello = *h };

	m.hello.kind = HELLO_JOIN;
	m.hello.token = 0;
	int r = msg_write(c, &m, HANDSHAKE_MS);
	m = (struct msg){ .kind = FRAME_JOIN, .join = *j };
	if (!r)
		r = msg_write(c, &m, HANDSHAKE_MS);
	if (!r)
		r = msg_read(c, &m, HANDSHAKE_MS);
	if (!r && m.kind != FRAME_JOINED)
		r = -EBADMSG;
	if (!r)
		*out = m.joined;
	return r;
}

int link_join(struct conn_security *s, const char *address, const struct hello *h, const struct join_msg *j, struct joined_msg *out)
{
	struct conn *c = NULL;
	int r = conn_dial(s, address, NULL, HANDSHAKE_MS, &c);

	if (!r)
		r = ask(c, h, j, out);
	conn_free(c);
	return r;
}
