/*
 * Hooks: programs that the administrator names. The fence hook is called `HOOK outdate NODE` or `HOOK stop NODE`, killed after fence_timeout, and
 * answers by its exit status; the state hook is called `HOOK VOLUME WHAT [NODE]` and nobody waits for it. Each runs from a thread of its own.
 */
#include <errno.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "mirror/node_int.h"

extern char **environ;

enum { HOOK_ARGS_MAX = 4, STATE_HOOK_TIMEOUT_MS = 30000, HOOK_POLL_US = 2000 };

struct hook {
	struct node *n;
	unsigned peer;			/* fence: answer for this one; 0 = nobody waits */
	unsigned timeout_ms;
	const char *path;		/* borrowed from the configuration */
	char arg[HOOK_ARGS_MAX][64];
};

/* Waits for PID, kills it when the time is over. Its exit status, or -errno. */
static int wait_child(pid_t pid, unsigned timeout_ms)
{
	uint64_t end = clock_mono_ms() + timeout_ms;
	int status;

	for (;;) {
		pid_t r = waitpid(pid, &status, WNOHANG);
		if (r == pid)
			return WIFEXITED(status) ? WEXITSTATUS(status) : -ECHILD;
		if (r < 0)
			return -errno;
		if (clock_mono_ms() >= end) {
			kill(-pid, SIGKILL);
			waitpid(pid, &status, 0);
			return -ETIMEDOUT;
		}
		usleep(HOOK_POLL_US);
	}
}

static int run_hook(const struct hook *h)
{
	char *argv[HOOK_ARGS_MAX + 2] = { (char *)(uintptr_t)h->path };
	posix_spawnattr_t attr;
	pid_t pid;

	for (int i = 0; i < HOOK_ARGS_MAX && h->arg[i][0]; i++)
		argv[i + 1] = (char *)(uintptr_t)h->arg[i];
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGDEF | POSIX_SPAWN_SETSIGMASK);
	sigset_t none, all;
	sigemptyset(&none);
	sigfillset(&all);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	int err = posix_spawn(&pid, h->path, NULL, &attr, argv, environ);
	posix_spawnattr_destroy(&attr);
	return err ? -err : wait_child(pid, h->timeout_ms);
}

static void *hook_thread(void *arg)
{
	struct hook *h = arg;
	int r = run_hook(h);

	if (r < 0)
		log_error("hook: %s %s %s: %s", h->path, h->arg[0], h->arg[1], r == -ETIMEDOUT ? "killed: it took too long" : strerror(-r));
	else if (r)
		log_error("hook: %s %s %s: exit status %d", h->path, h->arg[0], h->arg[1], r);
	if (h->peer) {
		struct core_event e = { .type = EV_FENCED, .peer = h->peer, .ok = r == 0 };
		node_event(h->n, &e);
	}
	free(h);
	return NULL;
}

static int start(struct hook *h)
{
	pthread_t t;
	int err = pthread_create(&t, NULL, hook_thread, h);
	if (err) {
		free(h);
		return -err;
	}
	pthread_detach(t);
	return 0;
}

void hook_fence(struct node *n, unsigned peer, bool stop)
{
	struct core_event failed = { .type = EV_FENCED, .peer = peer };
	struct hook *h = calloc(1, sizeof *h);

	if (h && n->cfg.fence_hook) {
		*h = (struct hook){ .n = n, .peer = peer, .timeout_ms = n->cfg.fence_timeout_ms, .path = n->cfg.fence_hook };
		snprintf(h->arg[0], sizeof h->arg[0], "%s", stop ? "stop" : "outdate");
		snprintf(h->arg[1], sizeof h->arg[1], "%s", n->cfg.peers[peer].name ? n->cfg.peers[peer].name : "?");
		log_warn("fence: %s %s %s", h->path, h->arg[0], h->arg[1]);
		if (!start(h))
			return;
	} else {
		free(h);
	}
	node_event(n, &failed);
}

void hook_state(struct node *n, const char *what, const char *which)
{
	if (!n->cfg.state_hook)
		return;
	struct hook *h = calloc(1, sizeof *h);
	if (!h)
		return;
	*h = (struct hook){ .n = n, .timeout_ms = STATE_HOOK_TIMEOUT_MS, .path = n->cfg.state_hook };
	snprintf(h->arg[0], sizeof h->arg[0], "%s", n->cfg.volume);
	snprintf(h->arg[1], sizeof h->arg[1], "%s", what);
	snprintf(h->arg[2], sizeof h->arg[2], "%s", which);
	start(h);
}
