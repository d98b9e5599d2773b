/*
 * Neighbours on an interface: asking whether anybody has an address (ARP probe of RFC 5227; neighbour solicitation from :: as in RFC 4862), and telling everybody that we
 * have it now (ARP announcement; unsolicited neighbour advertisement with the override flag). Ethernet only; elsewhere nobody is asked and told.
 */
#ifndef NFSD_GLUE_NEIGHBOR_H
#define NFSD_GLUE_NEIGHBOR_H

#include <stdbool.h>

#include "fs/base/service.h"

struct neighbor {
	int fd;				/* packet socket, -1 = closed */
	unsigned index;			/* of the interface */
	bool mute;			/* the interface has no neighbours to ask */
	unsigned char mac[6];		/* ours */
};

/* Opens A's interface, so that what others say of A is heard from now on. 0, -ENODEV, -EPERM... */
int neighbor_open(const struct service_address *a, struct neighbor *out);
void neighbor_close(struct neighbor *n);
int neighbor_probe(const struct neighbor *n, const struct service_address *a);
int neighbor_announce(const struct neighbor *n, const struct service_address *a);
/* Looks through what was heard since the last call, never waits: does anybody else claim to have A? His hardware address. */
bool neighbor_conflict(const struct neighbor *n, const struct service_address *a, unsigned char mac[6]);

#endif
