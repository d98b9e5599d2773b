/*
 * Hooks: programs that the administrator names. The fence hook is called `HOOK outdate NODE` or `HOOK stop NODE`, killed after fence_timeout, and
 * answers by its exit status; the state hook is called `HOOK VOLUME WHAT [NODE]` and nobody waits for it. Each runs from a thread of its own.
 */
#include <errno.h>
#include <limits.h>
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
	unsigned peer;			/* fence: answer for this one; 0 = nobody waits, and N may be gone */
	uint64_t number;		/* of the ACT_FENCE */
	unsigned timeout_ms;
	char path[PATH_MAX];
	char arg[HOOK_ARGS_MAX][64];
};

/* Waits for PID, kills it when the time is over or nobody is left to answer to. Its exit status, or -errno. */
static int wait_child(const struct hook *h, pid_t pid)
{
	uint64_t end = clock_mono_ms() + h->timeout_ms;
	int status;

	for (;;) {
		pid_t r = waitpid(pid, &status, WNOHANG);
		if (r == pid)
			return WIFEXITED(status) ? WEXITSTATUS(status) : -ECHILD;
		if (r < 0)
			return -errno;
		bool stopped = h->peer && atomic_load(&h->n->stopping);
		if (stopped || clock_mono_ms() >= end) {
			kill(-pid, SIGKILL);
			waitpid(pid, &status, 0);
			return stopped ? -ECANCELED : -ETIMEDOUT;
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
	return err ? -err : wait_child(h, pid);
}

static void fence_hooks_add(struct node *n, int more)
{
	auto_lock(&n->job_mu);
	n->fence_hooks += (unsigned)more;
	pthread_cond_broadcast(&n->hook_cond);
}

void hooks_stop(struct node *n)
{
	auto_lock(&n->job_mu);
	while (n->fence_hooks)
		pthread_cond_wait(&n->hook_cond, &n->job_mu);
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
		struct core_event e = { .type = EV_FENCED, .peer = h->peer, .seq = h->number, .ok = r == 0 };
		node_event(h->n, &e);
		fence_hooks_add(h->n, -1);
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

void hook_fence(struct node *n, unsigned peer, uint64_t number, bool stop)
{
	struct core_event failed = { .type = EV_FENCED, .peer = peer, .seq = number };
	struct hook *h = calloc(1, sizeof *h);

	if (h && n->cfg.fence_hook) {
		*h = (struct hook){ .n = n, .peer = peer, .number = number, .timeout_ms = n->cfg.fence_timeout_ms };
		snprintf(h->path, sizeof h->path, "%s", n->cfg.fence_hook);
		snprintf(h->arg[0], sizeof h->arg[0], "%s", stop ? "stop" : "outdate");
		snprintf(h->arg[1], sizeof h->arg[1], "%s", n->cfg.peers[peer].name ? n->cfg.peers[peer].name : "?");
		log_warn("fence: %s %s %s", h->path, h->arg[0], h->arg[1]);
		fence_hooks_add(n, 1);
		if (!start(h))
			return;
		fence_hooks_add(n, -1);
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
	*h = (struct hook){ .timeout_ms = STATE_HOOK_TIMEOUT_MS };
	snprintf(h->path, sizeof h->path, "%s", n->cfg.state_hook);
	snprintf(h->arg[0], sizeof h->arg[0], "%s", n->cfg.volume);
	snprintf(h->arg[1], sizeof h->arg[1], "%s", what);
	snprintf(h->arg[2], sizeof h->arg[2], "%s", which);
	start(h);
}
