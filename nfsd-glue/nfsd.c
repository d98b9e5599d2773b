/*
 * The NFS server as a whole (nfsd.h): puts its parts together, registers them with each other, and tells them the role.
 *
 *	RPC server -> NFS3, MOUNT3 -> layers; NLM, NSM -> lock table, RPC client; answers and clients -> replica -> interposing layer; apply -> replica -> tables
 */
#include "nfsd-glue/nfsd.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "fs/base/log.h"
#include "handles/wirefh.h"
#include "nfsd-glue/lockd.h"
#include "nfsd-glue/mount3.h"
#include "nfsd-glue/nfs3.h"
#include "nfsd-glue/replica.h"
#include "nfsd-glue/rpc.h"
#include "nfsd-glue/rpcbind.h"

struct nfsd {
	struct nfsd_config cfg;
	struct wirefh_codec handles;
	struct replay *replay;		/* owned, like all below */
	struct replica *replica;
	struct clients *clients;
	struct nfs3 *nfs3;
	struct mount3 mount3;
	struct rpc_client *rpc_client;
	struct lockd *lockd;
	struct rpcbind *rpcbind;	/* NULL: none */
	struct rpc_server *rpc;
	uint16_t port;
	pthread_mutex_t mu;		/* guards the rest; held while the role changes and while the server stops */
	bool held;			/* primary, or giving that up */
	bool stopped;
};

/* ---- callbacks ---- */

static int emit_client(void *arg, const void *data, size_t len)
{
	struct nfsd *n = arg;
	uint64_t seq;

	return interpose_attach(n->cfg.ip, REPLICA_CLIENT, data, (uint32_t)len, false, &seq);
}

static void connected(void *arg, const struct sockaddr_storage *peer, const struct sockaddr_storage *local)
{
	clients_connected(((struct nfsd *)arg)->clients, peer, local);
}

static void disconnected(void *arg, const struct sockaddr_storage *peer, const struct sockaddr_storage *local)
{
	clients_disconnected(((struct nfsd *)arg)->clients, peer, local);
}

/* ---- building ---- */

static int build_state(struct nfsd *n)
{
	const struct clients_config cc = { .emit = emit_client, .arg = n };
	struct replica_config rc = { .ip = n->cfg.ip, .queue = n->cfg.queue };
	struct replica_part part;
	int r = replay_new(0, &n->replay);

	rc.replay = n->replay;
	if (!r)
		r = replica_new(&rc, &n->replica);
	if (!r)
		r = clients_new(&cc, &n->clients);
	if (r)
		return r;
	clients_part(n->clients, &part);
	replica_register(n->replica, REPLICA_CLIENT, &part);
	replica_follow(n->replica, n->cfg.apply);
	return 0;
}

static int build_locks(struct nfsd *n)
{
	const struct nfsd_config *c = &n->cfg;
	struct lockd_config lc = { .ip = c->ip, .node = c->node, .state_dir_fd = c->state_dir_fd };
	struct replica_part part;
	int r = rpc_client_new(&n->rpc_client);

	if (r)
		return r;
	lc.nlm = (struct nlm4_config){ .top = c->top, .locks = c->locks, .exports = c->exports, .handles = &n->handles, .replay = n->replay,
				       .client = n->rpc_client, .generation = c->generation, .grace_ms = (unsigned)c->conf->nfs_grace_ms };
	r = lockd_new(&lc, &n->lockd);
	if (r)
		return r;
	lockd_part(n->lockd, &part);
	replica_register(n->replica, REPLICA_LOCK, &part);
	return 0;
}

static int build_programs(struct nfsd *n)
{
	const struct nfsd_config *c = &n->cfg;
	struct nfs3_config nc = { .top = c->top, .observers = c->observers, .exports = c->exports, .handles = &n->handles, .replay = n->replay,
				  .replica = n->replica, .limits = c->limits, .generation = c->generation, .settle = c->settle,
				  .flush_range = c->flush_range, .arg = c->arg };

	memcpy(&nc.fsid, c->uuid, sizeof nc.fsid);
	n->mount3 = (struct mount3){ .exports = c->exports, .top = c->top, .fh = &n->handles, .clients = n->clients };
	return nfs3_new(&nc, &n->nfs3);
}

static int build_rpc(struct nfsd *n)
{
	const struct rpc_server_config rc = { .connected = connected, .disconnected = disconnected, .arg = n };
	struct rpc_program p[2 + LOCKD_PROGRAMS];
	int r = rpc_server_new(&rc, &n->rpc);

	nfs3_program(n->nfs3, &p[0]);
	p[1] = mount3_program(&n->mount3);
	lockd_programs(n->lockd, p + 2);
	for (unsigned i = 0; !r && i < ARRAY_LEN(p); i++)
		r = rpc_server_add_program(n->rpc, &p[i]);
	return r;
}

int nfsd_new(const struct nfsd_config *cfg, struct nfsd **out)
{
	struct nfsd *n = calloc(1, sizeof *n);

	if (!n)
		return -ENOMEM;
	n->cfg = *cfg;
	pthread_mutex_init(&n->mu, NULL);
	wirefh_init(&n->handles, cfg->uuid, cfg->mac_key);
	int r = build_state(n);
	if (!r)
		r = build_locks(n);
	if (!r)
		r = build_programs(n);
	if (!r)
		r = build_rpc(n);
	if (r)
		nfsd_free(n);
	else
		*out = n;
	return r;
}

/* ---- life ---- */

/* Clients' monitors tell of their starts by UDP; all else is TCP. */
static void listen_udp(struct nfsd *n)
{
	const char *at = n->cfg.conf->nfs_listen, *colon = strrchr(at, ':');
	char udp[CONF_VALUE_MAX + 16];

	snprintf(udp, sizeof udp, "%.*s:%u", (int)(colon - at), at, n->port);
	int r = rpc_server_listen_udp(n->rpc, udp, NULL);
	if (r)
		log_warn("nfs: can't listen at %s by UDP: %s: clients that start anew can't tell so; their locks go when they lock again", udp, strerror(-r));
}

static int announce(struct nfsd *n)
{
	const struct rpcbind_entry e[] = {
		{ NFS3_PROGRAM, NFS3_VERSION, false, n->port }, { MOUNT3_PROGRAM, 3, false, n->port },
		{ NLM4_PROGRAM, NLM4_VERSION, false, n->port }, { NSM_PROGRAM, NSM_VERSION, false, n->port }, { NSM_PROGRAM, NSM_VERSION, true, n->port },
	};
	int how = n->cfg.conf->nfs_rpcbind;

	return how == CONF_RPCBIND_NO ? 0 : rpcbind_new(e, ARRAY_LEN(e), 0, how == CONF_RPCBIND_AUTO, &n->rpcbind);
}

int nfsd_listen(struct nfsd *n)
{
	const char *at = n->cfg.conf->nfs_listen;
	int r = rpc_server_listen(n->rpc, at, &n->port);

	if (r) {
		log_error("nfs: can't listen at %s: %s%s", at, strerror(-r),
			  r == -EADDRINUSE ? ": end the program that listens there (the kernel's NFS server?), or choose another port" : "");
		return r;
	}
	listen_udp(n);
	return 0;
}

int nfsd_start(struct nfsd *n)
{
	const char *at = n->cfg.conf->nfs_listen;
	int r = rpc_server_start(n->rpc);

	if (!r)
		r = announce(n);
	if (r)
		log_error("nfs: can't start: %s", strerror(-r));
	else
		log_info("nfs: serving at %s (port %u)", at, n->port);
	return r;
}

void nfsd_role(struct nfsd *n, enum nfsd_role role)
{
	auto_lock(&n->mu);
	if (role == NFSD_STANDBY && nfs3_leaving(n->nfs3) && !n->stopped)
		rpc_server_abort_connections(n->rpc, NULL);
	if (role == NFSD_PRIMARY)
		lockd_role(n->lockd, NLM4_PRIMARY, n->held || replica_promoted(n->replica));
	else
		lockd_role(n->lockd, role == NFSD_CHANGING ? NLM4_CHANGING : NLM4_STANDBY, true);
	if (role != NFSD_CHANGING)
		n->held = role == NFSD_PRIMARY;
	nfs3_role(n->nfs3, role);
}

void nfsd_following(struct nfsd *n, unsigned primary) { lockd_following(n->lockd, primary); }
void nfsd_flush_failed(struct nfsd *n) { nfs3_flush_failed(n->nfs3); }
int nfsd_snapshot(struct nfsd *n, unsigned peer) { return replica_snapshot(n->replica, peer); }
struct clients *nfsd_clients(struct nfsd *n) { return n->clients; }
struct replica *nfsd_replica(struct nfsd *n) { return n->replica; }

void nfsd_stop(struct nfsd *n)
{
	pthread_mutex_lock(&n->mu);
	bool first = !n->stopped;
	n->stopped = true;
	pthread_mutex_unlock(&n->mu);
	if (!first)
		return;
	rpcbind_free(n->rpcbind);
	rpc_server_stop(n->rpc);
	lockd_stop(n->lockd);
}

void nfsd_free(struct nfsd *n)
{
	if (!n)
		return;
	if (n->rpc)
		nfsd_stop(n);
	rpc_client_free(n->rpc_client);
	lockd_free(n->lockd);
	rpc_server_free(n->rpc);
	nfs3_free(n->nfs3);
	clients_free(n->clients);
	replica_free(n->replica);
	replay_free(n->replay);
	pthread_mutex_destroy(&n->mu);
	free(n);
}

/* ---- status ---- */

void nfsd_status(struct nfsd *n, struct nfsd_status *out)
{
	struct rpc_server_stats rs;
	struct clients_stats cs;
	struct replay_stats ps;
	struct lockd_stats ls;

	lockd_stats(n->lockd, &ls);
	rpc_server_stats(n->rpc, &rs);
	clients_stats(n->clients, &cs);
	replay_stats(n->replay, &ps);
	*out = (struct nfsd_status){
		.port = n->port, .connections = rs.connections, .files = nfs3_files(n->nfs3), .clients = cs.conns, .mounts = cs.mounts,
		.calls = rs.calls, .replay_hits = ps.hits, .replay_entries = ps.entries, .complete = replica_complete(n->replica), .locks = ls.state.locks, .grace_ms = ls.nlm.grace_left_ms,
		.refused_handles = atomic_load(&n->handles.malformed) + atomic_load(&n->handles.foreign) + atomic_load(&n->handles.forged),
	};
}
