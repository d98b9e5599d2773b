/*
 * Who the NFS server's clients are: connections (both addresses and ports: after a takeover the new server sends each a tickle ACK, so that it notices
 * at once that its connection is gone), and the mount list of the MOUNT protocol. (Monitored hosts go with the locks: lockstate.h.)
 *
 * Changes are collected and become records in the stream (replica.h, REPLICA_CLIENT) by a thread of this table, CLIENTS_DELAY_MS after the first at the latest, what
 * cancels itself out meanwhile never; nobody waits for them. On a standby nothing is emitted: what is known there of *other* servers' clients came
 * from the stream; the connections to this server itself (a standby serves reads) are its own and are kept apart.
 *
 * Bounds: CLIENTS_CONNS_MAX connections, CLIENTS_MOUNTS_MAX mounts (CLIENTS_MOUNTS_EACH per client). When full, the oldest connection of another server, and the
 * oldest mount, make room; one more of our own connections is not noted. Connections of the
 * server before are forgotten CLIENTS_AGE_MS after the promotion. Of changes that wait to be told there are CLIENTS_PENDING_MAX; more are not told (a peer then
 * knows a connection that is gone, or doesn't know one: a tickle too many, or one too few).
 *
 * Locks: `order`, held while a record or chunk is emitted (it may wait for room in the queue); below it `mu`, a leaf, for the table. The functions that
 * servers call take mu only and never wait.
 */
#ifndef NFSD_CLIENTS_H
#define NFSD_CLIENTS_H

#include "nfsd-glue/replica.h"

enum {
	CLIENTS_DELAY_MS = 100,
	CLIENTS_CONNS_MAX = 8192,
	CLIENTS_MOUNTS_MAX = 4096,
	CLIENTS_MOUNTS_EACH = 64,
	CLIENTS_PATH_MAX = 1023,	/* a mount's path */
	CLIENTS_AGE_MS = 600000,
	CLIENTS_PENDING_MAX = 16384,
};

/* An address and a port, as records have them. */
struct client_addr {
	unsigned char addr[16];		/* IPv6, or IPv4 mapped into it */
	uint16_t port;			/* host order */
	uint16_t zero;
	uint32_t scope;			/* IPv6 link-local: sin6_scope_id here; does not travel */
};
void client_addr_from(struct client_addr *out, const struct sockaddr_storage *sa);
/* Returns the length of the sockaddr. */
socklen_t client_addr_to(const struct client_addr *a, struct sockaddr_storage *sa);

struct clients;
/* EMIT puts a record of REPLICA_CLIENT into the order without waiting for peers (interpose_attach): 0; an error when this node isn't primary: then
 * it is dropped. */
struct clients_config {
	int (*emit)(void *arg, const void *data, size_t len);
	void *arg;
};
int clients_new(const struct clients_config *cfg, struct clients **out);	/* starts its thread */
void clients_free(struct clients *t);
/* What to register as REPLICA_CLIENT. */
void clients_part(struct clients *t, struct replica_part *out);
/* All collected changes are records when this returns; may wait for room in the queue. */
void clients_flush(struct clients *t);

/* ---- connections ---- */
void clients_connected(struct clients *t, const struct sockaddr_storage *peer, const struct sockaddr_storage *local);
void clients_disconnected(struct clients *t, const struct sockaddr_storage *peer, const struct sockaddr_storage *local);
struct client_conn {
	struct client_addr peer, local;	/* LOCAL: the server's end */
	bool ours;			/* a connection of this daemon's */
};
/* A copy of all: FN without any lock held. */
void clients_each(struct clients *t, void (*fn)(void *arg, const struct client_conn *c), void *arg);

/* ---- mount list ---- */
void clients_mounted(struct clients *t, const struct sockaddr_storage *peer, const char *path);
/* PATH NULL: all of the client's (UMNTALL). */
void clients_unmounted(struct clients *t, const struct sockaddr_storage *peer, const char *path);
void clients_each_mount(struct clients *t, void (*fn)(void *arg, const struct client_addr *peer, const char *path), void *arg);

struct clients_stats { uint64_t conns, ours, mounts; };
void clients_stats(struct clients *t, struct clients_stats *out);

#endif
