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
 * What is held and taken away by somebody else (the guardian of a daemon that has just died, a network manager) is taken again.
 * Addresses that are there already are not added twice; those that a killed daemon left are removed by address_new.
 */
#ifndef NFSD_GLUE_ADDRESS_H
#define NFSD_GLUE_ADDRESS_H

#include <stdbool.h>
#include <sys/socket.h>

#include "fs/base/service.h"

/* A known client's end of a connection, and the server's. */
typedef void (*address_client_fn)(void *arg, const struct sockaddr_storage *client, const struct sockaddr_storage *server);

struct address_config {
	struct service_address addr[SERVICE_MAX];
	unsigned n;
	/* Calls FN with every connection that clients may take for alive; from a thread of the address. NULL = none are known. */
	void (*clients)(void *arg, address_client_fn fn, void *fn_arg);
	void *arg;
};

struct address;
/* Removes what a killed daemon left. 0; -EPERM: CAP_NET_ADMIN is missing; other errors of sockets and threads. An interface that isn't there is told in the log,
 * and is an error when the address is taken. */
int address_new(const struct address_config *cfg, struct address **out);
/* Releases. */
void address_free(struct address *a);
/* Begins to look whether somebody else has an address; returns at once. */
void address_probe(struct address *a);
/* Takes all addresses: waits for the end of the probe (tens of milliseconds after it began), adds, announces; further announcements and the clients' tickles
 * follow from a thread. FREE: who held them has just let them go: there is no probe; who answers for them nevertheless is noticed afterwards, and told.
 * An address that somebody else has, or that can't be added, is not taken: it is said in the log, and tried again every second until address_release. */
void address_take(struct address *a, bool free);
/* All addresses away, at once; fine when they aren't here. */
void address_release(struct address *a);

struct address_status {
	struct service_address addr;
	bool held;
	char trouble[128];			/* why it can't be taken, or who else claims it; empty */
};
/* Fills OUT; how many. */
unsigned address_status(struct address *a, struct address_status out[SERVICE_MAX]);

#endif
