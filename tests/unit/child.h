/*
 * Children of a test. Check's macros write to a nameless temporary file that parent and child share: a child that uses them, and is killed in the middle of
 * it, leaves there what Check can't read. test_fork() gives the child /dev/null instead.
 */
#ifndef TESTS_UNIT_CHILD_H
#define TESTS_UNIT_CHILD_H

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static inline void test_leave_check(void)
{
	char link[64], to[256];
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	DIR *d = opendir("/proc/self/fd");

	for (struct dirent *e; d && (e = readdir(d));) {
		int fd = atoi(e->d_name);
		snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
		ssize_t n = readlink(link, to, sizeof to - 1);
		if (n <= 0 || fd <= 2)
			continue;
		to[n] = 0;
		if (!strncmp(to, "/tmp/", 5) && strstr(to, " (deleted)") && (strchr(to, '#') || strstr(to, "check_")))
			dup2(null, fd);
	}
	if (d)
		closedir(d);
}

static inline pid_t test_fork(void)
{
	pid_t pid = fork();
	if (!pid)
		test_leave_check();
	return pid;
}

#endif
