#include "nfsd-glue/guardian.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#include "nfsd-glue/netlink.h"

struct shared { pthread_mutex_t alive; };	/* held while the daemon lives */
struct guardian { pid_t pid; struct shared *shared; };

/* A dying thread of the daemon may just be adding one. */
static const long pauses_ns[] = { 0, 500000, 5000000, 50000000, 200000000 };

/* ---- the guardian's own process ---- */

/* Nothing of the daemon's is kept open, and what is sent to its group or terminal doesn't end us. */
static void be_alone(void)
{
	struct sched_param rt = { .sched_priority = 1 };

	setsid();
	for (int sig = 1; sig < NSIG; sig++)
		signal(sig, SIG_IGN);
	signal(SIGCHLD, SIG_DFL);
	int null = open("/dev/null", O_RDWR);
	for (int fd = 0; fd <= STDERR_FILENO && null >= 0; fd++)
		dup2(null, fd);
	close_range(STDERR_FILENO + 1, ~0u, 0);
	if (chdir("/"))
		syslog(LOG_WARNING, "guardian: can't go to /: %s", strerror(errno));
	prctl(PR_SET_NAME, "tandemfs-guard");
	sched_setscheduler(0, SCHED_RR, &rt);	/* where it is allowed */
}

static void take_away(int fd, const struct service_address *addr, unsigned n)
{
	char name[SERVICE_TEXT_MAX];

	for (size_t k = 0; k < sizeof pauses_ns / sizeof pauses_ns[0]; k++) {
		struct timespec t = { .tv_nsec = pauses_ns[k] };
		nanosleep(&t, NULL);
		for (unsigned i = 0; i < n; i++) {
			if (netlink_address(fd, &addr[i], false))
				continue;
			service_format(&addr[i], name);
			syslog(LOG_WARNING, "guardian: the daemon died: %s was taken away", name);
		}
	}
}

static void __attribute__((noreturn)) guard(struct shared *s, const struct service_address *addr, unsigned n)
{
	be_alone();
	openlog("tandemfs", LOG_PID | LOG_NDELAY, LOG_DAEMON);
	int fd = netlink_open();
	if (fd >= 0 && pthread_mutex_lock(&s->alive) == EOWNERDEAD)
		take_away(fd, addr, n);
	_exit(0);
}

/* ---- the daemon's side ---- */

static struct shared *shared_new(void)
{
	struct shared *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	pthread_mutexattr_t a;

	if (s == MAP_FAILED)
		return NULL;
	pthread_mutexattr_init(&a);
	pthread_mutexattr_setpshared(&a, PTHREAD_PROCESS_SHARED);
	pthread_mutexattr_setrobust(&a, PTHREAD_MUTEX_ROBUST);
	pthread_mutex_init(&s->alive, &a);
	pthread_mutexattr_destroy(&a);
	pthread_mutex_lock(&s->alive);
	return s;
}

static void shared_free(struct shared *s) { munmap(s, sizeof *s); }

int guardian_start(const struct service_address *addr, unsigned n, struct guardian **out)
{
	struct guardian *g = calloc(1, sizeof *g);

	if (!g || !(g->shared = shared_new())) {
		free(g);
		return -ENOMEM;
	}
	g->pid = fork();
	if (!g->pid)
		guard(g->shared, addr, n);
	if (g->pid < 0) {
		int err = -errno;
		pthread_mutex_unlock(&g->shared->alive);
		shared_free(g->shared);
		free(g);
		return err;
	}
	*out = g;
	return 0;
}

void guardian_stop(struct guardian *g)
{
	if (!g)
		return;
	pthread_mutex_unlock(&g->shared->alive);
	while (waitpid(g->pid, NULL, 0) < 0 && errno == EINTR)
		;
	shared_free(g->shared);
	free(g);
}
