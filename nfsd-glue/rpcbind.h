/*
 * Telling the local rpcbind (RFC 1833) on which port our programs are, so that clients find them that aren't told by mount options. A thread of its own
 * does it, looks again every minute (rpcbind may come later, or start anew and have forgotten), and takes it back in the end.
 *
 * An entry of somebody else's that still answers is left alone and reported (another NFS server runs here); one behind which nobody listens is replaced.
 */
#ifndef NFSD_GLUE_RPCBIND_H
#define NFSD_GLUE_RPCBIND_H

#include <stdbool.h>
#include <stdint.h>

struct rpcbind;

struct rpcbind_entry {
	uint32_t prog, vers;
	bool udp;			/* else TCP */
	uint16_t port;
};

/* Registers the N entries (copied) for IPv4 and, where rpcbind speaks version 4, IPv6. PORT: rpcbind's, 0 for the usual 111 (tests have their own). QUIET: say nothing when no
 * rpcbind runs (`auto`). 0 or -errno for lack of memory or threads: what rpcbind says is logged. */
int rpcbind_new(const struct rpcbind_entry *entries, unsigned n, uint16_t port, bool quiet, struct rpcbind **out);
/* How many of the entries stand there now, as far as known. */
unsigned rpcbind_registered(struct rpcbind *b);
/* Waits until the first round of registrations is over, TIMEOUT_MS at most; the same number. */
unsigned rpcbind_wait(struct rpcbind *b, unsigned timeout_ms);
/* Takes back what was registered (a second at most). NULL is allowed. */
void rpcbind_free(struct rpcbind *b);

#endif
