#include "nfsd-glue/tickle.h"

#include <errno.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "fs/base/cleanup.h"

enum { TCP_LEN = 20, TCP_ACK = 0x10, WINDOW = 1024 };

int tickle_open(sa_family_t family)
{
	static struct sock_filter nothing[] = { BPF_STMT(BPF_RET | BPF_K, 0) };
	struct sock_fprog p = { 1, nothing };
	auto_fd int fd = socket(family, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, IPPROTO_TCP);

	/* every segment that this machine receives would be queued to it */
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p))
		return -errno;
	return steal_fd(&fd);
}

struct end { const unsigned char *ip; size_t len; uint16_t port; };

static struct end end_of(const struct sockaddr_storage *s)
{
	const struct sockaddr_in *in = (const void *)s;
	const struct sockaddr_in6 *in6 = (const void *)s;

	if (s->ss_family == AF_INET)
		return (struct end){ (const unsigned char *)&in->sin_addr, 4, ntohs(in->sin_port) };
	return (struct end){ in6->sin6_addr.s6_addr, 16, ntohs(in6->sin6_port) };
}

static uint32_t add(uint32_t sum, const unsigned char *p, size_t len)
{
	for (size_t i = 0; i < len; i += 2)
		sum += (uint32_t)(p[i] << 8 | p[i + 1]);
	return sum;
}

static void make(unsigned char tcp[TCP_LEN], const struct end *from, const struct end *to)
{
	uint32_t sum = IPPROTO_TCP + TCP_LEN;

	memset(tcp, 0, TCP_LEN);		/* sequence number 0 */
	tcp[0] = (unsigned char)(from->port >> 8);
	tcp[1] = (unsigned char)from->port;
	tcp[2] = (unsigned char)(to->port >> 8);
	tcp[3] = (unsigned char)to->port;
	tcp[12] = TCP_LEN / 4 << 4;
	tcp[13] = TCP_ACK;
	tcp[14] = WINDOW >> 8;
	sum = add(add(add(sum, from->ip, from->len), to->ip, to->len), tcp, TCP_LEN);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	sum = ~sum;
	tcp[16] = (unsigned char)(sum >> 8);
	tcp[17] = (unsigned char)sum;
}

/* The source address goes along as a control message: many addresses, one socket. */
int tickle_send(int fd, const struct sockaddr_storage *from, const struct sockaddr_storage *to)
{
	unsigned char tcp[TCP_LEN];
	struct end f = end_of(from), t = end_of(to);
	struct sockaddr_storage dst = *to;
	struct iovec iov = { tcp, sizeof tcp };
	union { struct cmsghdr h; char space[CMSG_SPACE(sizeof(struct in6_pktinfo))]; } control = { .space = { 0 } };
	struct msghdr m = { .msg_name = &dst, .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control };
	bool v4 = from->ss_family == AF_INET;
	struct in_pktinfo info = { 0 };
	struct in6_pktinfo info6 = { 0 };

	make(tcp, &f, &t);
	if (v4) {
		((struct sockaddr_in *)(void *)&dst)->sin_port = 0;
		memcpy(&info.ipi_spec_dst, f.ip, 4);
	} else {
		((struct sockaddr_in6 *)(void *)&dst)->sin6_port = 0;
		memcpy(&info6.ipi6_addr, f.ip, 16);
	}
	m.msg_namelen = v4 ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
	control.h.cmsg_level = v4 ? IPPROTO_IP : IPPROTO_IPV6;
	control.h.cmsg_type = v4 ? IP_PKTINFO : IPV6_PKTINFO;
	control.h.cmsg_len = CMSG_LEN(v4 ? sizeof info : sizeof info6);
	m.msg_controllen = CMSG_SPACE(v4 ? sizeof info : sizeof info6);
	memcpy(CMSG_DATA(&control.h), v4 ? (const void *)&info : (const void *)&info6, v4 ? sizeof info : sizeof info6);
	return sendmsg(fd, &m, 0) < 0 ? -errno : 0;
}
