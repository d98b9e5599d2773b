/*
 * RPC by datagrams, for what is small and asked for that way (NSM, MOUNT's and NLM's NULL): a thread per socket takes one after the other. An answer goes back from the
 * address that was asked, which on a host with several (a service address) must be said.
 */
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdlib.h>

#include "fs/base/cleanup.h"
#include "nfsd-glue/rpc_int.h"

enum { DATAGRAM_MAX = 9000, CONTROL_LEN = 256 };

struct datagram {
	struct sockaddr_storage peer;		/* as the socket has it */
	struct sockaddr_storage shown, local;	/* as handlers see it */
	size_t len;
	struct msghdr m;
	struct iovec iov;
	_Alignas(struct cmsghdr) unsigned char control[CONTROL_LEN];
	_Alignas(8) unsigned char in[DATAGRAM_MAX];
	_Alignas(8) unsigned char out[RPC_HEAD_LEN + DATAGRAM_MAX];
	_Alignas(16) unsigned char scratch[RPC_SCRATCH_LEN];
};

static void as_ipv4(struct sockaddr_storage *to, const struct in_addr *ip, in_port_t port)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_port = port, .sin_addr = *ip };

	memset(to, 0, sizeof *to);
	memcpy(to, &a, sizeof a);
}

static void as_ipv6(struct sockaddr_storage *to, const struct in6_addr *ip, in_port_t port)
{
	struct sockaddr_in6 a = { .sin6_family = AF_INET6, .sin6_port = port, .sin6_addr = *ip };
	struct in_addr four;

	memset(to, 0, sizeof *to);
	memcpy(to, &a, sizeof a);
	memcpy(&four, &ip->s6_addr[12], 4);
	if (IN6_IS_ADDR_V4MAPPED(ip))
		as_ipv4(to, &four, port);
}

/* The address that was asked; leaves the control message as it must be for the answer: same address, any interface. */
static void local_of(struct datagram *d)
{
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&d->m); c; c = CMSG_NXTHDR(&d->m, c)) {
		struct in_pktinfo *four = (struct in_pktinfo *)CMSG_DATA(c);
		struct in6_pktinfo *six = (struct in6_pktinfo *)CMSG_DATA(c);

		if (c->cmsg_level == IPPROTO_IP && c->cmsg_type == IP_PKTINFO) {
			as_ipv4(&d->local, &four->ipi_addr, 0);
			four->ipi_spec_dst = four->ipi_addr;
			four->ipi_ifindex = 0;
		} else if (c->cmsg_level == IPPROTO_IPV6 && c->cmsg_type == IPV6_PKTINFO) {
			as_ipv6(&d->local, &six->ipi6_addr, 0);
			if (!IN6_IS_ADDR_LINKLOCAL(&six->ipi6_addr))
				six->ipi6_ifindex = 0;
		}
	}
}

static bool receive(const struct rpc_listener *l, struct datagram *d)
{
	d->iov = (struct iovec){ d->in, sizeof d->in };
	d->m = (struct msghdr){ .msg_name = &d->peer, .msg_namelen = sizeof d->peer, .msg_iov = &d->iov, .msg_iovlen = 1, .msg_control = d->control,
				.msg_controllen = sizeof d->control };
	memset(&d->peer, 0, sizeof d->peer);
	memset(&d->local, 0, sizeof d->local);
	ssize_t n = recvmsg(l->fd, &d->m, MSG_DONTWAIT);
	if (n < 0 || (d->m.msg_flags & MSG_TRUNC))
		return false;
	d->len = (size_t)n;
	local_of(d);
	d->shown = d->peer;
	if (d->peer.ss_family == AF_INET6)
		as_ipv6(&d->shown, &((struct sockaddr_in6 *)&d->peer)->sin6_addr, ((struct sockaddr_in6 *)&d->peer)->sin6_port);
	return true;
}

static void answer(const struct rpc_listener *l, struct datagram *d, void *p, size_t len)
{
	d->iov = (struct iovec){ p, len };
	d->m.msg_flags = 0;
	sendmsg(l->fd, &d->m, MSG_DONTWAIT | MSG_NOSIGNAL);	/* lost ones are asked for again */
}

static void run(const struct rpc_listener *l, struct datagram *d, const struct rpc_program *p, struct rpc_call *c)
{
	struct rpc_reply r;
	struct rpc_out o;
	bool fault;

	rpc_reply_init(&r, d->out, sizeof d->out);
	enum rpc_verdict v = p->handle(p->arg, c, &r);
	if (r.heap || r.data)
		r.full = true;			/* too much for a datagram */
	if (rpc_conclude(&r, c->xid, v, &o, &fault))
		answer(l, d, o.head + RPC_MARK_LEN, o.head_len - RPC_MARK_LEN);
	rpc_reply_end(&r);
}

static void handle(const struct rpc_listener *l, struct datagram *d)
{
	struct rpc_header h;
	struct rpc_fault fault;
	const struct rpc_program *p = NULL;

	if (rpc_header_parse(d->in, d->len, &h, &fault))
		return;
	if (fault.kind == RPC_FAULT_NONE)
		p = rpc_find_program(l->s, &h, &fault);
	if (p && !p->udp) {
		p = NULL;
		fault = (struct rpc_fault){ .kind = RPC_FAULT_ACCEPT, .stat = RPC_ACCEPT_PROG_UNAVAIL };
	}
	if (!p) {
		answer(l, d, d->out, rpc_fault_encode(d->out, h.xid, &fault));
		return;
	}
	struct rpc_call c = { .xid = h.xid, .prog = h.prog, .vers = h.vers, .proc = h.proc, .cred = h.cred, .args = d->in + h.header_len,
			      .args_len = d->len - h.header_len, .peer = &d->shown, .local = &d->local, .scratch = d->scratch };
	run(l, d, p, &c);
}

static void *udp_main(void *arg)
{
	const struct rpc_listener *l = arg;
	struct pollfd p[2] = { { l->fd, POLLIN, 0 }, { l->s->stop_fd, POLLIN, 0 } };
	auto_free struct datagram *d = aligned_alloc(64, (sizeof *d + 63) / 64 * 64);

	while (d && !atomic_load(&l->s->stopping))
		if (poll(p, 2, -1) > 0 && p[0].revents && receive(l, d))
			handle(l, d);
	return NULL;
}

int rpc_udp_start(struct rpc_listener *l)
{
	int err = pthread_create(&l->thread, NULL, udp_main, l);

	l->running = !err;
	return -err;
}
