#include "nfsd-glue/netlink.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_addr.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

struct request {
	struct nlmsghdr h;
	struct ifaddrmsg a;
	unsigned char attrs[128];
};

int netlink_open(void)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	return fd < 0 ? -errno : fd;
}

static void put(struct request *r, unsigned short type, const void *p, size_t len)
{
	struct rtattr *at = (struct rtattr *)(void *)((char *)r + NLMSG_ALIGN(r->h.nlmsg_len));

	at->rta_type = type;
	at->rta_len = (unsigned short)RTA_LENGTH(len);
	memcpy(RTA_DATA(at), p, len);
	r->h.nlmsg_len = NLMSG_ALIGN(r->h.nlmsg_len) + (uint32_t)RTA_ALIGN(at->rta_len);
}

/* The kernel's answer to request SEQ. */
static int answer(int fd, uint32_t seq)
{
	_Alignas(struct nlmsghdr) char buf[4096];

	for (;;) {
		ssize_t n = recv(fd, buf, sizeof buf, 0);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		size_t left = (size_t)n;
		for (struct nlmsghdr *h = (struct nlmsghdr *)(void *)buf; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left))
			if (h->nlmsg_type == NLMSG_ERROR && h->nlmsg_seq == seq)
				return ((struct nlmsgerr *)NLMSG_DATA(h))->error;
	}
}

static void broadcast_of(const struct service_address *a, unsigned char out[4])
{
	uint32_t ip, host = a->prefix < 32 ? htonl(UINT32_MAX >> a->prefix) : 0;

	memcpy(&ip, a->ip, 4);
	ip |= host;
	memcpy(out, &ip, 4);
}

int netlink_address(int fd, const struct service_address *a, bool add)
{
	static uint32_t seq;
	size_t len = a->family == AF_INET ? 4 : 16;
	unsigned index = if_nametoindex(a->dev);
	uint32_t flags = IFA_F_NODAD;
	unsigned char bcast[4];
	struct request r = {
		.h = { .nlmsg_len = NLMSG_LENGTH(sizeof r.a), .nlmsg_type = add ? RTM_NEWADDR : RTM_DELADDR,
		       .nlmsg_flags = (unsigned short)(NLM_F_REQUEST | NLM_F_ACK | (add ? NLM_F_CREATE | NLM_F_REPLACE : 0)), .nlmsg_seq = ++seq },
		.a = { .ifa_family = (unsigned char)a->family, .ifa_prefixlen = (unsigned char)a->prefix, .ifa_index = index },
	};

	if (!index)
		return -ENODEV;
	put(&r, IFA_LOCAL, a->ip, len);
	put(&r, IFA_ADDRESS, a->ip, len);
	if (add && a->family == AF_INET && a->prefix < 31) {
		broadcast_of(a, bcast);
		put(&r, IFA_BROADCAST, bcast, sizeof bcast);
	}
	if (add && a->family == AF_INET6)
		put(&r, IFA_FLAGS, &flags, sizeof flags);
	if (send(fd, &r, r.h.nlmsg_len, 0) < 0)
		return -errno;
	return answer(fd, r.h.nlmsg_seq);
}
