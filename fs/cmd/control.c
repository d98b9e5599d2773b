/*
 * The control socket: see control.h.
 *
 * One thread accepts; each connection gets a thread of its own, at most CONTROL_CLIENTS_MAX (the acceptor waits for one to end: the
 * kernel's listen queue holds the others). A stop wakes everybody: the listener through a pipe, the
 * connections by shutdown(2) for reading, so that a response under way still goes out.
 *
 * A socket that a dead daemon left behind is told from a live one's by connecting to it. Two daemons can't race there: they hold the lock of the
 * state directory before.
 */
#include "fs/cmd/control.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"

struct control_server {
	struct sockaddr_un addr;
	control_fn fn;
	void *arg;
	int listen_fd, wake[2];
	pthread_t acceptor;
	pthread_mutex_t mu;		/* guards what follows */
	pthread_cond_t ended;		/* a connection ended */
	bool stopping;
	unsigned nclients;
	int clients[CONTROL_CLIENTS_MAX];	/* their fds; -1 = free */
};

struct client { struct control_server *s; int fd; unsigned slot; };

static inline void cleanup_json_(json_t **j) { json_decref(*j); }
#define auto_json __attribute__((cleanup(cleanup_json_)))

static int fill_addr(const char *path, struct sockaddr_un *a)
{
	*a = (struct sockaddr_un){ .sun_family = AF_UNIX };
	if (strlen(path) >= sizeof a->sun_path)
		return -ENAMETOOLONG;
	strcpy(a->sun_path, path);
	return 0;
}

/* ---- lines, both sides ---- */

/* Waits until FD is ready for EVENTS or the time DEADLINE_MS (clock_mono_ms; 0 = never) has come. */
static int wait_for(int fd, short events, uint64_t deadline_ms)
{
	for (;;) {
		uint64_t now = clock_mono_ms();
		if (deadline_ms && now >= deadline_ms)
			return -ETIMEDOUT;
		uint64_t left = deadline_ms ? deadline_ms - now : 0;
		struct pollfd p = { .fd = fd, .events = events };
		int r = poll(&p, 1, !deadline_ms ? -1 : left > INT_MAX ? INT_MAX : (int)left);
		if (r > 0)
			return 0;
		if (r < 0 && errno != EINTR)
			return -errno;
	}
}

static int send_line(int fd, const json_t *j, uint64_t deadline_ms)
{
	auto_free char *text = json_dumps(j, JSON_COMPACT);
	if (!text)
		return -ENOMEM;
	size_t len = strlen(text), done = 0;
	if (len >= CONTROL_LINE_MAX)
		return -EMSGSIZE;
	text[len++] = '\n';		/* in place of the terminator */
	while (done < len) {
		ssize_t n = send(fd, text + done, len - done, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		done += n > 0 ? (size_t)n : 0;
		int r = n < 0 ? wait_for(fd, POLLOUT, deadline_ms) : 0;
		if (r)
			return r;
	}
	return 0;
}

/* A connection's input: what was read beyond the last line is kept. */
struct input { char *buf; size_t len; };

/* Takes the first line out of IN. 1 = got one, 0 = there is none yet, -EPROTO. */
static int take_line(struct input *in, json_t **out)
{
	char *nl = memchr(in->buf, '\n', in->len);

	if (!nl)
		return in->len >= CONTROL_LINE_MAX ? -EPROTO : 0;
	*out = json_loadb(in->buf, (size_t)(nl - in->buf), JSON_REJECT_DUPLICATES, NULL);
	in->len -= (size_t)(nl + 1 - in->buf);
	memmove(in->buf, nl + 1, in->len);
	if (json_is_object(*out))
		return 1;
	json_decref(*out);
	*out = NULL;
	return -EPROTO;
}

/* The next line's object; -ECONNRESET at the end. */
static int recv_line(int fd, struct input *in, uint64_t deadline_ms, json_t **out)
{
	for (;;) {
		int r = take_line(in, out);
		if (r)
			return r < 0 ? r : 0;
		r = wait_for(fd, POLLIN, deadline_ms);
		if (r)
			return r;
		ssize_t n = recv(fd, in->buf + in->len, CONTROL_LINE_MAX - in->len, MSG_DONTWAIT);
		if (n == 0)
			return -ECONNRESET;
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		in->len += n > 0 ? (size_t)n : 0;
	}
}

json_t *control_ok(void)
{
	return json_pack("{s:b}", "ok", 1);
}

json_t *control_error(const char *hint, const char *fmt, ...)
{
	char text[1024];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(text, sizeof text, fmt, ap);
	va_end(ap);
	json_t *msg = json_string(text);
	if (!msg)
		msg = json_string("error message with characters that are no UTF-8");
	return json_pack("{s:b,s:o*,s:s*}", "ok", 0, "error", msg, "hint", hint);
}

/* ---- server ---- */

/* Root and the daemon's own user may command it. */
static bool may_command(int fd)
{
	struct ucred cred;
	socklen_t len = sizeof cred;

	return !getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len) && (cred.uid == 0 || cred.uid == geteuid());
}

static json_t *answer(struct control_server *s, const json_t *request)
{
	if (!json_is_string(json_object_get(request, "cmd")))
		return control_error(NULL, "the request has no \"cmd\"");
	return s->fn(s->arg, request);
}

/* One request and its response. */
static int serve_one(struct control_server *s, int fd, struct input *in)
{
	auto_json json_t *request = NULL;

	int r = recv_line(fd, in, clock_mono_ms() + CONTROL_IDLE_MS, &request);
	if (r && r != -EPROTO)
		return r;
	auto_json json_t *response = r ? control_error(NULL, "the request is no line of JSON with an object of bounded size") :
					 answer(s, request);
	int sent = response ? send_line(fd, response, clock_mono_ms() + CONTROL_IDLE_MS) : -ENOMEM;
	return r ? r : sent;
}

static void serve(struct control_server *s, int fd)
{
	auto_free char *buf = malloc(CONTROL_LINE_MAX);
	struct input in = { .buf = buf };
	int r = buf ? 0 : -ENOMEM;

	while (!r)
		r = serve_one(s, fd, &in);
	if (r != -ECONNRESET && r != -ETIMEDOUT)
		log_warn("control: connection closed: %s", strerror(-r));
}

static void *client_main(void *arg)
{
	struct client c = *(struct client *)arg;

	free(arg);
	if (may_command(c.fd))
		serve(c.s, c.fd);
	else
		log_warn("control: a process of another user was turned away");
	auto_lock(&c.s->mu);
	close(c.fd);
	c.s->clients[c.slot] = -1;
	c.s->nclients--;
	pthread_cond_broadcast(&c.s->ended);
	return NULL;
}

/* A thread for FD (taken over). */
static void start_client(struct control_server *s, int fd)
{
	struct client *c = malloc(sizeof *c);
	pthread_attr_t attr;
	pthread_t t;

	auto_lock(&s->mu);
	while (s->nclients == CONTROL_CLIENTS_MAX && !s->stopping)
		pthread_cond_wait(&s->ended, &s->mu);
	unsigned slot = 0;
	while (slot < CONTROL_CLIENTS_MAX && s->clients[slot] >= 0)
		slot++;
	if (!c || s->stopping || slot == CONTROL_CLIENTS_MAX) {
		close(fd);
		free(c);
		return;
	}
	*c = (struct client){ s, fd, slot };
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	if (pthread_create(&t, &attr, client_main, c)) {
		log_error("control: no thread for a connection: it was closed");
		close(fd);
		free(c);
	} else {
		s->clients[slot] = fd;
		s->nclients++;
	}
	pthread_attr_destroy(&attr);
}

static void *acceptor_main(void *arg)
{
	struct control_server *s = arg;

	for (;;) {
		struct pollfd p[2] = { { .fd = s->listen_fd, .events = POLLIN }, { .fd = s->wake[0], .events = POLLIN } };
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return NULL;
		if (p[1].revents)
			return NULL;
		int fd = p[0].revents ? accept4(s->listen_fd, NULL, NULL, SOCK_CLOEXEC) : -1;
		if (fd >= 0) {
			start_client(s, fd);
		} else if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
			struct pollfd w = { .fd = s->wake[0], .events = POLLIN };
			poll(&w, 1, 100);	/* the request stays queued; try again when something may have been freed */
		}
	}
}

/* Does somebody answer at A? */
static bool alive(const struct sockaddr_un *a)
{
	auto_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	return fd >= 0 && (!connect(fd, (const struct sockaddr *)a, sizeof *a) || errno == EAGAIN);
}

static int make_parent(const char *path)
{
	char dir[PATH_MAX];

	snprintf(dir, sizeof dir, "%s", path);
	char *slash = strrchr(dir, '/');
	if (!slash || slash == dir)
		return 0;
	*slash = 0;
	return mkdir(dir, 0755) && errno != EEXIST ? -errno : 0;
}

static int listen_at(struct control_server *s)
{
	auto_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	int r = fd < 0 ? -errno : make_parent(s->addr.sun_path);

	if (r)
		return r;
	if (alive(&s->addr))
		return -EADDRINUSE;
	if (unlink(s->addr.sun_path) && errno != ENOENT)
		return -errno;
	/* fchmod before bind sets the mode that the file gets: there is no moment in which it is wider. */
	if (fchmod(fd, 0600) || bind(fd, (struct sockaddr *)&s->addr, sizeof s->addr))
		return -errno;
	if (chmod(s->addr.sun_path, 0600) || listen(fd, CONTROL_CLIENTS_MAX))
		return -errno;
	s->listen_fd = steal_fd(&fd);
	return 0;
}

static void server_free(struct control_server *s)
{
	if (s->listen_fd >= 0)
		close(s->listen_fd);
	if (s->wake[0] >= 0) {
		close(s->wake[0]);
		close(s->wake[1]);
	}
	pthread_mutex_destroy(&s->mu);
	pthread_cond_destroy(&s->ended);
	free(s);
}

int control_server_start(const char *path, control_fn fn, void *arg, struct control_server **out)
{
	struct control_server *s = calloc(1, sizeof *s);

	if (!s)
		return -ENOMEM;
	*s = (struct control_server){ .fn = fn, .arg = arg, .listen_fd = -1, .wake = { -1, -1 } };
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++)
		s->clients[i] = -1;
	pthread_mutex_init(&s->mu, NULL);
	pthread_cond_init(&s->ended, NULL);
	int r = fill_addr(path, &s->addr);
	if (!r && pipe2(s->wake, O_CLOEXEC))
		r = -errno;
	if (!r)
		r = listen_at(s);
	if (!r && pthread_create(&s->acceptor, NULL, acceptor_main, s)) {
		unlink(s->addr.sun_path);
		r = -EAGAIN;
	}
	if (r)
		server_free(s);
	else
		*out = s;
	return r;
}

void control_server_stop(struct control_server *s)
{
	if (!s)
		return;
	unlink(s->addr.sun_path);
	pthread_mutex_lock(&s->mu);
	s->stopping = true;
	pthread_cond_broadcast(&s->ended);
	for (unsigned i = 0; i < CONTROL_CLIENTS_MAX; i++)
		if (s->clients[i] >= 0)
			shutdown(s->clients[i], SHUT_RD);
	pthread_mutex_unlock(&s->mu);
	if (write(s->wake[1], "", 1) != 1)
		log_error("control: can't wake the listener: %s", strerror(errno));
	pthread_join(s->acceptor, NULL);
	pthread_mutex_lock(&s->mu);
	while (s->nclients)
		pthread_cond_wait(&s->ended, &s->mu);
	pthread_mutex_unlock(&s->mu);
	server_free(s);
}

/* ---- client ---- */

static int dial(const char *path)
{
	struct sockaddr_un a;
	int r = fill_addr(path, &a);

	if (r)
		return r;
	auto_fd int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof a))
		return -errno;
	return steal_fd(&fd);
}

/* A pidfd of the daemon behind FD, or -errno. */
static int daemon_pidfd(int fd)
{
	struct ucred cred;
	socklen_t len = sizeof cred;

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &cred, &len))
		return -errno;
	int p = (int)syscall(SYS_pidfd_open, cred.pid, 0);
	return p < 0 ? -errno : p;
}

/* Waits until the daemon has closed the connection and, where that can be seen, is gone. */
static int wait_gone(int fd, int pidfd, uint64_t deadline)
{
	char c;
	int r = wait_for(fd, POLLIN, deadline);

	if (!r && recv(fd, &c, 1, MSG_DONTWAIT) > 0)
		return -EPROTO;
	return r || pidfd < 0 ? r : wait_for(pidfd, POLLIN, deadline);
}

int control_call(const char *path, json_t *request, unsigned timeout_ms, int wait_end, json_t **response)
{
	auto_json json_t *req = request;
	uint64_t deadline = timeout_ms ? clock_mono_ms() + timeout_ms : 0;

	auto_fd int fd = dial(path);
	if (fd < 0)
		return fd;
	auto_fd int pidfd = daemon_pidfd(fd);
	auto_free char *buf = malloc(CONTROL_LINE_MAX);
	struct input in = { .buf = buf };
	if (!buf || !req)
		return -ENOMEM;
	int r = send_line(fd, req, deadline);
	if (!r)
		r = recv_line(fd, &in, deadline, response);
	if (r || !wait_end || !json_is_true(json_object_get(*response, "ok")))
		return r;
	r = wait_gone(fd, pidfd, deadline);
	if (r) {
		json_decref(*response);
		*response = NULL;
	}
	return r;
}
