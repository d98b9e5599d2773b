/*
 * mount: starts the daemon, in the foreground or in the background.
 *
 * In the background the caller's process waits at a pipe: the child writes one byte when the volume is mounted and the control socket
 * answers (mount_ready), and until then its messages go to the caller's terminal. So `tandemfs mount` succeeds only when
 * there is a mount, and what is wrong is told where somebody reads it.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/log.h"
#include "fs/cmd/cmd.h"

static char ident[CONF_NAME_MAX + 16];	/* syslog borrows it for ever */

/* Tells systemd (Type=notify). */
static void notify_manager(void)
{
	const char *path = getenv("NOTIFY_SOCKET");
	struct sockaddr_un a = { .sun_family = AF_UNIX };

	if (!path || !*path || strlen(path) >= sizeof a.sun_path)
		return;
	strcpy(a.sun_path, path);
	if (path[0] == '@')
		a.sun_path[0] = 0;
	auto_fd int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
	if (fd < 0 || sendto(fd, "READY=1", 7, MSG_NOSIGNAL, (struct sockaddr *)&a, len) < 0)
		log_warn("mount: can't tell the service manager that we are ready: %s", strerror(errno));
}

/* Standard input, output and error to /dev/null. */
static void leave_terminal(void)
{
	auto_fd int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	for (int i = 0; fd >= 0 && i <= 2; i++)
		if (dup2(fd, i) < 0)
			log_warn("mount: can't leave the terminal: %s", strerror(errno));
}

void mount_ready(const struct volume_conf *c, const struct mount_args *a)
{
	notify_manager();
	if (a->foreground)
		return;
	log_init(ident, LOG_SINK_SYSLOG, (enum log_level)c->log_level);
	leave_terminal();
	if (a->ready_fd >= 0) {
		if (write(a->ready_fd, "R", 1) != 1)
			log_warn("mount: nobody waits for us any more");
		close(a->ready_fd);
	}
}

/* The caller's side: waits for the byte, or the child's end. */
static int wait_ready(int fd, pid_t child)
{
	char c;
	int status;
	ssize_t n;

	do
		n = read(fd, &c, 1);
	while (n < 0 && errno == EINTR);
	if (n == 1)
		return EXIT_OK;
	while (waitpid(child, &status, 0) < 0 && errno == EINTR)
		continue;
	if (WIFSIGNALED(status))
		return cmd_fail("mount: the daemon was killed by signal %d while it started", WTERMSIG(status));
	return EXIT_FAILED;
}

static int run_background(const struct volume_conf *c, struct mount_args *a)
{
	int p[2];

	if (pipe2(p, O_CLOEXEC))
		return cmd_fail("mount: pipe: %s", strerror(errno));
	pid_t child = fork();
	if (child < 0)
		return cmd_fail("mount: fork: %s", strerror(errno));
	if (child) {
		close(p[1]);
		return wait_ready(p[0], child);
	}
	close(p[0]);
	a->ready_fd = p[1];
	setsid();
	if (chdir("/"))
		_exit(EXIT_FAILED);
	return daemon_run(c, a) ? EXIT_FAILED : EXIT_OK;
}

int cmd_mount(const struct cmd_line *l, const struct volume_conf *c)
{
	struct mount_args a = { .foreground = cmd_option(l, "foreground"), .fault = cmd_option(l, "fault"), .ready_fd = -1 };

	snprintf(ident, sizeof ident, "tandemfs[%s]", c->name);
	log_init(ident, LOG_SINK_STDERR, (enum log_level)c->log_level);
	signal(SIGPIPE, SIG_IGN);
	if (a.foreground)
		return daemon_run(c, &a) ? EXIT_FAILED : EXIT_OK;
	return run_background(c, &a);
}
