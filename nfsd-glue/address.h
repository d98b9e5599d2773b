/*
 * The service address: one or more IP addresses that clients know, and that only the primary has. Taken and given up through rtnetlink, announced by gratuitous
 * ARP and unsolicited neighbour advertisements, so that it moves between nodes within milliseconds.
 *
 * Order at a promotion:    address_probe (drain ...) -> server listens -> address_take: add, announce, tickle every known client
 * Order at giving it up:   address_release -> the server aborts its connections
 *
 *	AWAY --probe--> PROBING --take--> HELD --release--> AWAY
 *	                   \--somebody answers: REFUSED until the next probe
 *
 * A client whose reply was lost at the move has nothing to send and would wait for its RPC timer. The tickle is a TCP segment with a sequence number that can't be
 * right, from the service address: the client's stack answers it, the new server knows no such connection and resets it, and the client connects anew at once.
 *
 * Addresses that are there already are not added twice; those that a killed daemon left are removed by address_new.
 */
#ifndef NFSD_GLUE_ADDRESS_H
#define NFSD_GLUE_ADDRESS_H

#include <net/if.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

enum { ADDRESS_MAX = 8, ADDRESS_TEXT_MAX = 96 };

/* One service address. */
struct service_address {
	sa_family_t family;			/* AF_INET, AF_INET6 */
	unsigned char ip[16];			/* network order; the first 4 bytes of an IPv4 one */
	unsigned prefix;
	char dev[IF_NAMESIZE];
};
/* Parses `10.0.0.100/24 dev eth0', or several, separated by commas, into OUT; *N = how many. Nothing but syntax is checked. 0, or -EINVAL with what is wrong in
 * WHY. */
int address_parse(const char *text, struct service_address out[ADDRESS_MAX], unsigned *n, char *why, size_t size);
/* `10.0.0.100/24 dev eth0' */
void address_format(const struct service_address *a, char out[ADDRESS_TEXT_MAX]);

/* A known client's end of a connection, and our port of it. */
typedef void (*address_client_fn)(void *arg, const struct sockaddr_storage *client, uint16_t local_port);

struct address_config {
	struct service_address addr[ADDRESS_MAX];
	unsigned n;
	/* Calls FN with every client that may have a connection; from a thread of the address, must not block long. NULL = none are known. */
	void (*clients)(void *arg, address_client_fn fn, void *fn_arg);
	void *arg;
};

struct address;
/* Removes what a killed daemon left. 0, -ENODEV: there is no such interface (said in the log), -EPERM: CAP_NET_ADMIN is missing. */
int address_new(const struct address_config *cfg, struct address **out);
/* Releases. */
void address_free(struct address *a);
/* Begins to look whether somebody else has an address; returns at once. */
void address_probe(struct address *a);
/* Takes all addresses: waits for the end of a probe that is under way (tens of milliseconds), adds, announces (and goes on announcing in the background),
 * tickles the clients. FREE: who held them has just let them go: no probe is waited for; who answers for them nevertheless is noticed afterwards, and told.
 * 0; -EADDRINUSE: somebody else has one (said in the log, with his hardware address): that one is not taken; other: the first error, the rest was tried. */
int address_take(struct address *a, bool free);
/* All addresses away, at once; fine when they aren't here. */
void address_release(struct address *a);

struct address_status { struct service_address addr; bool held; char trouble[128]; /* why not; empty */ };
/* Fills OUT; how many. */
unsigned address_status(struct address *a, struct address_status out[ADDRESS_MAX]);

#endif
