/* Process 1 of a small virtual machine: mounts an NFS export (version 3) with the kernel's client and writes 4 KiB + fsync, over and over. On the console:
 *
 *   ready
 *   wait START_MS TOOK_MS      a write and fsync that took longer than 15 ms (START_MS: since the first)
 *   at NOW_MS WRITES           about ten times a second
 *   error TEXT                 what a write or fsync returned; it ends with the first
 *
 * Kernel command line: server=ADDRESS own=ADDRESS/BITS. Modules: /m, loaded in the order of their names. Linked statically. */
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <time.h>
#include <unistd.h>

enum { BYTES = 4096, LONG_MS = 15, TELL_MS = 100, FILE_BLOCKS = 256 };

static void ends(const char *what)
{
	printf("error %s: %s\n", what, strerror(errno));
	fflush(stdout);
	sleep(1);
	reboot(RB_POWER_OFF);
	for (;;)
		pause();
}

static long long now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000LL + t.tv_nsec / 1000000;
}

static void load_modules(void)
{
	struct dirent **names;
	int n = scandir("/m", &names, NULL, alphasort);

	for (int i = 0; i < n; i++) {
		char path[300];
		int fd;

		snprintf(path, sizeof path, "/m/%s", names[i]->d_name);
		if (names[i]->d_name[0] == '.')
			continue;
		fd = open(path, O_RDONLY);
		if (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST)
			ends(path);
		close(fd);
	}
}

/* VALUE of the word NAME=VALUE of the kernel's command line. */
static const char *argument(const char *name, char *buf, size_t size)
{
	static char line[4096];
	size_t len = strlen(name);
	int fd = open("/proc/cmdline", O_RDONLY);
	ssize_t n = read(fd, line, sizeof line - 1);

	close(fd);
	line[n > 0 ? n : 0] = 0;
	for (char *w = strtok(line, " \n"); w; w = strtok(NULL, " \n"))
		if (!strncmp(w, name, len) && w[len] == '=') {
			snprintf(buf, size, "%s", w + len + 1);
			return buf;
		}
	errno = EINVAL;
	ends(name);
	return NULL;
}

static void interface_up(const char *dev, const char *address, unsigned bits)
{
	struct ifreq r = { 0 };
	struct sockaddr_in *a = (struct sockaddr_in *)&r.ifr_addr;
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	snprintf(r.ifr_name, IFNAMSIZ, "%s", dev);
	if (address) {
		a->sin_family = AF_INET;
		inet_pton(AF_INET, address, &a->sin_addr);
		if (ioctl(s, SIOCSIFADDR, &r))
			ends("address");
		a->sin_addr.s_addr = htonl(bits ? ~0u << (32 - bits) : 0);
		if (ioctl(s, SIOCSIFNETMASK, &r))
			ends("netmask");
	}
	memset(&r.ifr_ifru, 0, sizeof r.ifr_ifru);
	if (ioctl(s, SIOCGIFFLAGS, &r))
		ends(dev);
	r.ifr_flags |= IFF_UP | IFF_RUNNING;
	if (ioctl(s, SIOCSIFFLAGS, &r))
		ends(dev);
	close(s);
}

static void mount_export(const char *server)
{
	char source[80], options[256];

	snprintf(source, sizeof source, "%s:/", server);
	snprintf(options, sizeof options, "vers=3,addr=%s,mountaddr=%s,proto=tcp,mountproto=tcp,port=2049,mountport=2049,hard,nolock", server, server);
	mkdir("/mnt", 0755);
	for (int i = 0; mount(source, "/mnt", "nfs", 0, options); i++) {
		if (i == 20)
			ends("mount");
		sleep(1);
	}
}

static void work(void)
{
	static char data[BYTES];
	int fd = open("/mnt/pause", O_RDWR | O_CREAT, 0644);
	long long begun, told = 0;

	if (fd < 0)
		ends("open");
	puts("ready");
	begun = now_ms();
	for (unsigned long n = 1;; n++) {
		long long start = now_ms(), end;

		memset(data, (int)n, sizeof data);
		if (pwrite(fd, data, BYTES, (off_t)(n % FILE_BLOCKS) * BYTES) != BYTES)
			ends("write");
		if (fsync(fd))
			ends("fsync");
		end = now_ms();
		if (end - start > LONG_MS)
			printf("wait %lld %lld\n", start - begun, end - start);
		if (end - told > TELL_MS) {
			printf("at %lld %lu\n", end - begun, n);
			told = end;
		}
		fflush(stdout);
	}
}

int main(void)
{
	char server[64], own[64], *slash;

	mkdir("/proc", 0755);
	mount("proc", "/proc", "proc", 0, NULL);
	load_modules();
	argument("server", server, sizeof server);
	argument("own", own, sizeof own);
	slash = strchr(own, '/');
	if (slash)
		*slash = 0;
	interface_up("lo", NULL, 0);
	interface_up("eth0", own, slash ? (unsigned)atoi(slash + 1) : 24);
	mount_export(server);
	work();
}
