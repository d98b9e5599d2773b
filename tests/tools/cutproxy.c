/*
 * cutproxy - forwards TCP connections and cuts each after a random number of bytes.
 *
 *   cutproxy [-s SEED] [-n CUTS] [-m MIN] [-M MAX] LISTEN_IP PORT TARGET_IP PORT
 *
 * Both directions count. A cut is a reset (half of the time) or an orderly end, in the middle of whatever is under way. After CUTS cuts (default 10)
 * it only forwards. Prints one line per cut. Runs until it is killed.
 */
#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <sys/socket.h>
#include <unistd.h>

#include "tests/tools/tool.h"

static struct sockaddr_in target;
static atomic_long cuts_left = 10;
static uint64_t rs, least = 100, most = 2000000;

struct pump { int fd[2]; uint64_t budget; bool reset; };

static bool send_all(int fd, const char *p, size_t n)
{
	while (n) {
		ssize_t k = send(fd, p, n, MSG_NOSIGNAL);

		if (k <= 0)
			return false;
		p += k;
		n -= (size_t)k;
	}
	return true;
}

static void cut(struct pump *p, uint64_t seen)
{
	struct linger l = { .l_onoff = 1, .l_linger = 0 };

	if (atomic_fetch_sub(&cuts_left, 1) <= 0) {
		p->budget = UINT64_MAX;
		return;
	}
	printf("cut after %ju bytes by %s\n", (uintmax_t)seen, p->reset ? "reset" : "end");
	fflush(stdout);
	for (int i = 0; i < 2 && p->reset; i++)
		setsockopt(p->fd[i], SOL_SOCKET, SO_LINGER, &l, sizeof l);
}

static void *run_pump(void *arg)
{
	struct pump *p = arg;
	static _Thread_local char buf[65536];
	uint64_t seen = 0;

	for (;;) {
		struct pollfd f[2] = { { .fd = p->fd[0], .events = POLLIN }, { .fd = p->fd[1], .events = POLLIN } };

		if (poll(f, 2, -1) < 0)
			break;
		int i = f[0].revents ? 0 : 1;
		size_t room = p->budget - seen < sizeof buf ? (size_t)(p->budget - seen) : sizeof buf;
		ssize_t n = recv(p->fd[i], buf, room, 0);

		if (n <= 0 || !send_all(p->fd[!i], buf, (size_t)n))
			break;
		seen += (uint64_t)n;
		if (seen >= p->budget) {
			cut(p, seen);
			if (p->budget != UINT64_MAX)
				break;
		}
	}
	close(p->fd[0]);
	close(p->fd[1]);
	free(p);
	return NULL;
}

static void serve(int listener)
{
	for (;;) {
		struct pump *p = xcalloc(1, sizeof *p);
		pthread_t t;

		p->fd[0] = accept(listener, NULL, NULL);
		p->fd[1] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (p->fd[0] < 0 || connect(p->fd[1], (struct sockaddr *)&target, sizeof target)) {
			close(p->fd[0]);
			close(p->fd[1]);
			free(p);
			continue;
		}
		p->budget = atomic_load(&cuts_left) > 0 ? least + rng_below(&rs, most - least) : UINT64_MAX;
		p->reset = rng_below(&rs, 2);
		if (pthread_create(&t, NULL, run_pump, p))
			die("thread");
		pthread_detach(t);
	}
}

int main(int argc, char **argv)
{
	uint64_t seed = 1;
	int c, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	while ((c = getopt(argc, argv, "s:n:m:M:")) != -1)
		switch (c) {
		case 's': seed = strtoull(optarg, NULL, 0); break;
		case 'n': atomic_store(&cuts_left, atol(optarg)); break;
		case 'm': least = strtoull(optarg, NULL, 0); break;
		case 'M': most = strtoull(optarg, NULL, 0); break;
		default: return 2;
		}
	if (argc - optind != 4 || most <= least)
		return fputs("usage: cutproxy [-s SEED] [-n CUTS] [-m MIN] [-M MAX] LISTEN_IP PORT TARGET_IP PORT\n", stderr), 2;
	rs = rng_seed(seed, 3);
	struct sockaddr_in here = { .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[optind + 1])) };

	target = (struct sockaddr_in){ .sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(argv[optind + 3])) };
	if (!inet_aton(argv[optind], &here.sin_addr) || !inet_aton(argv[optind + 2], &target.sin_addr))
		return fputs("cutproxy: not an address\n", stderr), 2;
	signal(SIGPIPE, SIG_IGN);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (fd < 0 || bind(fd, (struct sockaddr *)&here, sizeof here) || listen(fd, 16))
		die("listen");
	serve(fd);
	return 0;
}
