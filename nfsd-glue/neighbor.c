#include "nfsd-glue/neighbor.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/filter.h>
#include <linux/if_packet.h>
#include <net/ethernet.h>
#include <net/if_arp.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fs/base/cleanup.h"

enum {
	ETH_LEN = 14, ARP_LEN = 28, IP6_LEN = 40, ND_LEN = 24, ND_OPT_LEN = 8,
	ND_SOLICIT = 135, ND_ADVERT = 136, ND_OPT_TARGET_MAC = 2, ND_OVERRIDE = 0x20,
	PACKETS_MAX = 256,		/* looked at in one call: a flood is no reason to stay */
};
static const unsigned char everybody[6] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

/* ---- opening ---- */

static int look_at(struct neighbor *n, const char *dev)
{
	struct ifreq r = { 0 };
	auto_fd int s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	if (s < 0)
		return -errno;
	memcpy(r.ifr_name, dev, strnlen(dev, sizeof r.ifr_name - 1));
	if (ioctl(s, SIOCGIFINDEX, &r))
		return -errno;
	n->index = (unsigned)r.ifr_ifindex;
	if (ioctl(s, SIOCGIFFLAGS, &r))
		return -errno;
	n->mute = r.ifr_flags & (IFF_LOOPBACK | IFF_NOARP | IFF_POINTOPOINT);
	if (ioctl(s, SIOCGIFHWADDR, &r))
		return -errno;
	n->mute |= r.ifr_hwaddr.sa_family != ARPHRD_ETHER;
	memcpy(n->mac, r.ifr_hwaddr.sa_data, sizeof n->mac);
	return 0;
}

/* Of IPv6 only neighbour advertisements are ours. */
static int filter(int fd)
{
	static struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, ETH_LEN + 6),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, IPPROTO_ICMPV6, 0, 3),
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, ETH_LEN + IP6_LEN),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ND_ADVERT, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 256),
		BPF_STMT(BPF_RET | BPF_K, 0),
	};
	struct sock_fprog p = { ARRAY_LEN(code), code };

	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof p) ? -errno : 0;
}

int neighbor_open(const struct service_address *a, struct neighbor *out)
{
	uint16_t proto = htons(a->family == AF_INET ? ETHERTYPE_ARP : ETHERTYPE_IPV6);

	*out = (struct neighbor){ .fd = -1 };
	int err = look_at(out, a->dev);
	if (err || out->mute)
		return err;
	auto_fd int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);	/* hears nothing before it is bound */
	struct sockaddr_ll ll = { .sll_family = AF_PACKET, .sll_protocol = proto, .sll_ifindex = (int)out->index };
	if (fd < 0 || (a->family == AF_INET6 && filter(fd)) || bind(fd, (struct sockaddr *)&ll, sizeof ll))
		return -errno;
	out->fd = steal_fd(&fd);
	return 0;
}

void neighbor_close(struct neighbor *n)
{
	if (n->fd >= 0)
		close(n->fd);
	n->fd = -1;
}

/* ---- packets ---- */

static int put_out(const struct neighbor *n, const unsigned char *p, size_t len)
{
	return send(n->fd, p, len, 0) < 0 ? -errno : 0;
}

static void eth_header(const struct neighbor *n, unsigned char *p, const unsigned char to[6], uint16_t type)
{
	memcpy(p, to, 6);
	memcpy(p + 6, n->mac, 6);
	p[12] = (unsigned char)(type >> 8);
	p[13] = (unsigned char)type;
}

/* SENDER: our address, or zeros in a probe. */
static int send_arp(const struct neighbor *n, uint16_t op, const unsigned char sender[4], const unsigned char target[4])
{
	static const unsigned char fixed[] = { 0, ARPHRD_ETHER, ETHERTYPE_IP >> 8, ETHERTYPE_IP & 0xff, 6, 4 };
	unsigned char p[ETH_LEN + ARP_LEN] = { 0 }, *arp = p + ETH_LEN;

	eth_header(n, p, everybody, ETHERTYPE_ARP);
	memcpy(arp, fixed, sizeof fixed);
	arp[7] = (unsigned char)op;
	memcpy(arp + 8, n->mac, 6);
	memcpy(arp + 14, sender, 4);
	if (op == ARPOP_REPLY)
		memcpy(arp + 18, everybody, 6);
	memcpy(arp + 24, target, 4);
	return put_out(n, p, sizeof p);
}

static uint16_t icmp6_sum(const unsigned char *ip6, const unsigned char *icmp, size_t len)
{
	uint32_t sum = (uint32_t)len + IPPROTO_ICMPV6;

	for (size_t i = 8; i < IP6_LEN; i += 2)
		sum += (uint32_t)(ip6[i] << 8 | ip6[i + 1]);
	for (size_t i = 0; i < len; i += 2)
		sum += (uint32_t)(icmp[i] << 8 | icmp[i + 1]);
	while (sum >> 16)
		sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t)~sum;
}

/* An ICMPv6 neighbour message of TYPE about TARGET. FROM: zeros in a probe, which has no option. */
static int send_nd(const struct neighbor *n, unsigned char type, const unsigned char from[16], const unsigned char to[16], const unsigned char target[16])
{
	unsigned char p[ETH_LEN + IP6_LEN + ND_LEN + ND_OPT_LEN] = { 0 }, *ip = p + ETH_LEN, *icmp = ip + IP6_LEN;
	size_t len = type == ND_ADVERT ? ND_LEN + ND_OPT_LEN : ND_LEN;
	unsigned char mac[6] = { 0x33, 0x33, to[12], to[13], to[14], to[15] };

	eth_header(n, p, mac, ETHERTYPE_IPV6);
	ip[0] = 0x60;
	ip[5] = (unsigned char)len;
	ip[6] = IPPROTO_ICMPV6;
	ip[7] = 255;
	memcpy(ip + 8, from, 16);
	memcpy(ip + 24, to, 16);
	icmp[0] = type;
	memcpy(icmp + 8, target, 16);
	if (type == ND_ADVERT) {
		icmp[4] = ND_OVERRIDE;
		icmp[ND_LEN] = ND_OPT_TARGET_MAC;
		icmp[ND_LEN + 1] = 1;
		memcpy(icmp + ND_LEN + 2, n->mac, 6);
	}
	uint16_t sum = icmp6_sum(ip, icmp, len);
	icmp[2] = (unsigned char)(sum >> 8);
	icmp[3] = (unsigned char)sum;
	return put_out(n, p, ETH_LEN + IP6_LEN + len);
}

int neighbor_probe(const struct neighbor *n, const struct service_address *a)
{
	static const unsigned char none[16];
	unsigned char group[16] = { 0xff, 0x02, [11] = 1, 0xff, a->ip[13], a->ip[14], a->ip[15] };

	if (n->mute)
		return 0;
	return a->family == AF_INET ? send_arp(n, ARPOP_REQUEST, none, a->ip) : send_nd(n, ND_SOLICIT, none, group, a->ip);
}

int neighbor_announce(const struct neighbor *n, const struct service_address *a)
{
	static const unsigned char all_nodes[16] = { 0xff, 0x02, [15] = 1 };

	if (n->mute)
		return 0;
	if (a->family == AF_INET6)
		return send_nd(n, ND_ADVERT, a->ip, all_nodes, a->ip);
	int err = send_arp(n, ARPOP_REQUEST, a->ip, a->ip);	/* some believe the one, some the other */
	return err ? err : send_arp(n, ARPOP_REPLY, a->ip, a->ip);
}

/* ---- what others say ---- */

static bool arp_claims(const unsigned char *p, size_t len, const struct service_address *a, unsigned char mac[6])
{
	const unsigned char *arp = p + ETH_LEN;

	if (len < ETH_LEN + ARP_LEN || memcmp(arp + 14, a->ip, 4))
		return false;
	memcpy(mac, arp + 8, 6);
	return true;
}

static bool nd_claims(const unsigned char *p, size_t len, const struct service_address *a, unsigned char mac[6])
{
	const unsigned char *icmp = p + ETH_LEN + IP6_LEN;

	if (len < ETH_LEN + IP6_LEN + ND_LEN || icmp[0] != ND_ADVERT || memcmp(icmp + 8, a->ip, 16))
		return false;
	memcpy(mac, p + 6, 6);
	return true;
}

bool neighbor_conflict(const struct neighbor *n, const struct service_address *a, unsigned char mac[6])
{
	unsigned char p[256];

	for (unsigned i = 0; !n->mute && n->fd >= 0 && i < PACKETS_MAX; i++) {
		struct sockaddr_ll from = { 0 };
		socklen_t fromlen = sizeof from;
		ssize_t len = recvfrom(n->fd, p, sizeof p, 0, (struct sockaddr *)&from, &fromlen);
		if (len < 0)
			return false;
		if (from.sll_pkttype == PACKET_OUTGOING)
			continue;
		bool claims = a->family == AF_INET ? arp_claims(p, (size_t)len, a, mac) : nd_claims(p, (size_t)len, a, mac);
		if (claims && memcmp(mac, n->mac, 6))
			return true;
	}
	return false;
}
