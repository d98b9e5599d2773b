/*
 * The daemon: composition root. It builds the stack of a volume from below, registers the rooms' callbacks with each other, and
 * takes it down in the reverse order.
 *
 *	volume (state, handles, local) -> fault (tests) -> queue, node, interpose, apply -> resync -> FUSE front, control socket
 */
#include <errno.h>
#include <linux/capability.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/key.h"
#include "fs/base/log.h"
#include "fs/cmd/daemon_int.h"
#include "fs/fault.h"

enum { FILES_MAX = 1 << 20, LARGE_BLOCK = 256 << 10 };

/* ---- resync, by peer ---- */

static int resync_snapshot(void *arg, unsigned peer)
{
	struct daemon *d = arg;
	return d->nfsd ? nfsd_snapshot(d->nfsd, peer) : 0;
}

static int resync_begin(void *arg, unsigned peer, enum node_compare what)
{
	struct daemon *d = arg;
	struct resync_config c = {
		.peer = peer, .full = what == NODE_COMPARE_ALL, .state = what == NODE_COMPARE_STATE, .local = d->fault ? d->fault : d->volume.local, .bottom = d->volume.local, .locks = d->volume.locks,
		.handles = d->volume.handles, .ip = d->ip, .queue = d->queue, .done = node_compared, .arg = d->node,
		.snapshot = resync_snapshot, .snapshot_arg = d,
	};
	auto_lock(&d->resync_mu);
	if (d->resync[peer])
		return -EBUSY;
	return resync_start(&c, &d->resync[peer]);
}

static void resync_end(void *arg, unsigned peer)
{
	struct daemon *d = arg;
	pthread_mutex_lock(&d->resync_mu);
	struct resync *r = d->resync[peer];
	d->resync[peer] = NULL;
	pthread_mutex_unlock(&d->resync_mu);
	if (r)
		resync_stop(r);
}

static void resync_heard(void *arg, unsigned peer, const struct report *rep)
{
	struct daemon *d = arg;
	auto_lock(&d->resync_mu);
	if (d->resync[peer])
		resync_report(d->resync[peer], rep);
}

static bool resync_again(void *arg, unsigned peer, const uint64_t *ids, unsigned n)
{
	struct daemon *d = arg;
	auto_lock(&d->resync_mu);
	if (d->resync[peer])
		resync_restate(d->resync[peer], ids, n);
	return d->resync[peer];
}

static int resync_keep(void *arg, const char *session)
{
	struct daemon *d = arg;
	return resync_sink_keep_lost(d->sink, session);
}

static bool resync_is_busy(void *arg, unsigned peer)
{
	struct daemon *d = arg;
	auto_lock(&d->resync_mu);
	return d->resync[peer] && resync_busy(d->resync[peer]);
}

/* ---- callbacks that cross rooms ---- */

static bool may_adopt(void *arg)
{
	struct daemon *d = arg;
	return d->node && node_may_adopt(d->node);
}

static void adopted(void *arg, uint64_t parent, uint64_t id)
{
	struct daemon *d = arg;
	const uint64_t ids[2] = { parent, id };
	log_info("local: object %llu: adopted: it turned up in the backing directory unmarked", (unsigned long long)id);
	node_restate(d->node, ids, 2);
}

static void clock_seen(void *arg, struct timespec t)
{
	struct daemon *d = arg;
	interpose_clock_seen(d->ip, t);
}

static void d_barrier_done(void *arg, uint64_t seq, int err) { node_barrier_done(((struct daemon *)arg)->node, seq, err); }
static void d_report(void *arg, const struct report *r) { node_report(((struct daemon *)arg)->node, r); }
static void d_handover(void *arg, unsigned to, uint64_t number, uint64_t seq) { node_handover(((struct daemon *)arg)->node, to, number, seq); }
/* Connections made since the server last told: the next primary can't wake clients that it has never heard of. */
static void d_write_back(void *arg)
{
	struct daemon *d = arg;

	fuse_front_write_back(d->front);
	if (d->nfsd)
		clients_flush(nfsd_clients(d->nfsd));
}
static int d_epoch(void *arg, struct epoch e, uint64_t seq, uint64_t prev)
{
	struct daemon *d = arg;

	if (d->nfsd)
		nfsd_following(d->nfsd, e.node);
	return node_stream_epoch(d->node, e, seq, prev);
}

static int d_open_epoch(void *arg) { return node_open_epoch(((struct daemon *)arg)->node); }
static void d_restate(void *arg, const uint64_t *ids, unsigned n) { node_restate(((struct daemon *)arg)->node, ids, n); }
static void d_room(void *arg, uint64_t *bytes, uint64_t *inodes) { node_room(((struct daemon *)arg)->node, bytes, inodes); }
static void d_flush_failed(void *arg, uint64_t id, int err)
{
	struct daemon *d = arg;
	node_flush_failed(d->node, id, err);
	if (d->nfsd)
		nfsd_flush_failed(d->nfsd);
}

/* The NFS server and the service address follow the role. Going: the address first, so that nobody sees what comes of the rest. Coming: the address last. */
static void d_role(void *arg, enum node_role_event e)
{
	static const struct { enum nfsd_role role; bool release, probe, take, free; } follow[] = {
		[NODE_ROLE_TAKING] = { .role = NFSD_CHANGING, .probe = true },
		[NODE_ROLE_TAKING_OVER] = { .role = NFSD_CHANGING },
		[NODE_ROLE_NOT_TAKEN] = { .role = NFSD_STANDBY },
		[NODE_ROLE_PRIMARY] = { .role = NFSD_PRIMARY, .take = true },
		[NODE_ROLE_CHANGING] = { .role = NFSD_CHANGING, .release = true },
		[NODE_ROLE_KEPT] = { .role = NFSD_PRIMARY, .take = true, .free = true },
		[NODE_ROLE_LEFT] = { .role = NFSD_STANDBY, .release = true },
	};
	struct daemon *d = arg;
	auto_lock(&d->role_mu);
	bool serve = follow[e].take && !d->leaving;

	if (d->address && follow[e].release)
		address_release(d->address);
	if (d->address && follow[e].probe)
		address_probe(d->address);
	if (d->nfsd)
		nfsd_role(d->nfsd, follow[e].take && !serve ? NFSD_CHANGING : follow[e].role);
	if (d->address && serve)
		address_take(d->address, follow[e].free || d->taking_over);
	d->taking_over = e == NODE_ROLE_TAKING_OVER;
}

struct to_tickle { address_client_fn fn; void *arg; };

static void one_client(void *arg, const struct client_conn *c)
{
	const struct to_tickle *t = arg;
	struct sockaddr_storage client, server;

	client_addr_to(&c->peer, &client);
	client_addr_to(&c->local, &server);
	if (!c->ours)
		t->fn(t->arg, &client, &server);
}

static void d_clients(void *arg, address_client_fn fn, void *fn_arg)
{
	struct daemon *d = arg;
	if (d->nfsd)
		clients_each(nfsd_clients(d->nfsd), one_client, &(struct to_tickle){ fn, fn_arg });
}

/* The NFS server's state, between nodes: a node without a server has nothing to ask for and nothing to give. */
static bool state_complete(void *arg)
{
	struct daemon *d = arg;
	return !d->nfsd || replica_complete(nfsd_replica(d->nfsd));
}

static int state_give(void *arg, int (*send)(void *to, const void *data, size_t len), void *to)
{
	struct daemon *d = arg;
	return d->nfsd ? replica_give(nfsd_replica(d->nfsd), send, to) : send(to, NULL, 0);
}

static int state_take(void *arg, const void *data, size_t len)
{
	struct daemon *d = arg;
	return d->nfsd ? replica_take(nfsd_replica(d->nfsd), data, len) : -EBADMSG;
}

static void d_settle(void *front) { fuse_front_settle(front); }
static void d_flush_range(void *front, uint64_t id, uint64_t off, uint64_t len) { fuse_front_flush_range(front, id, off, len); }

static void unmounted(void *arg)
{
	log_info("fuse: unmounted");
	daemon_end(arg, END_STOP);
}

/* ---- building ---- */

static int build_security(struct daemon *d)
{
	const struct volume_conf *c = d->conf;
	unsigned char key[KEY_LEN];
	char err[CONF_ERR_MAX];

	if (!c->npeers)
		return 0;
	if (c->security == CONF_SECURITY_NONE) {
		log_warn("security = none: names and contents cross the network in the clear, and anybody may connect");
		return conn_security_new(NULL, d->volume.state.uuid, &d->security);
	}
	int r = key_read(c->key_file, key, err, sizeof err);
	if (r) {
		log_error("%s", err);
		return r;
	}
	r = conn_security_new(key, d->volume.state.uuid, &d->security);
	key_wipe(key);
	return r;
}

static int build_fault(struct daemon *d)
{
	char err[CONF_ERR_MAX];
	struct fault_rules *rules;

	if (!d->args->fault)
		return 0;
	int r = fault_parse(d->args->fault, &rules, err, sizeof err);
	if (r) {
		log_error("--fault: %s", err);
		return r;
	}
	log_warn("fault: the fault layer is in the stack: %s", d->args->fault);
	return fault_new(d->volume.local, rules, &d->fault);
}

static int build_node(struct daemon *d)
{
	const struct volume_conf *c = d->conf;
	struct node_config n = {
		.core = { .node = c->self, .fence = c->fence_peer[0] ? FENCE_HOOK : FENCE_NONE, .start_last = c->start_as == CONF_START_LAST,
			  .peer_timeout_ms = (unsigned)c->peer_timeout_ms, .congestion_timeout_ms = (unsigned)c->congestion_timeout_ms },
		.volume = c->name, .listen = c->npeers ? c->nodes[c->self].address : "", .security = d->security,
		.compress = c->compress, .prompt_acks = c->durability == (int)DURABILITY_SYNC,
		.fence_hook = c->fence_peer[0] ? c->fence_peer : NULL, .state_hook = c->state_hook[0] ? c->state_hook : NULL,
		.fence_timeout_ms = (unsigned)c->fence_timeout_ms, .reserve_bytes = c->reserve_bytes,
		.queue_bytes = c->queue_bytes, .state_file = d->volume.state_file,
		.state = d->volume.state, .unknown = d->volume.unknown, .limits = &d->volume.state.limits, .handles = d->volume.handles, .bottom = d->volume.local,
		.queue = d->queue, .role = d_role, .write_back = d_write_back, .role_arg = d,
		.above = { state_complete, state_give, state_take, d },
	};
	for (unsigned p = 1; p <= NODE_MAX; p++) {
		if (!c->nodes[p].number)
			continue;
		n.peers[p] = (struct link_peer){ .node = p, .name = c->nodes[p].name, .address = c->nodes[p].address };
		n.core.name[p] = c->nodes[p].name;
		if (p != c->self)
			n.core.peers |= (uint16_t)(1u << p);
	}
	return node_new(&n, &d->node);
}

static int build_mirror(struct daemon *d)
{
	struct volume *v = &d->volume;
	struct layer *below = d->fault ? d->fault : v->local;
	struct interpose_config ic = {
		.below = below, .locks = v->locks, .handles = v->handles, .queue = d->queue, .observers = &d->observers,
		.durability = (enum durability)d->conf->durability, .time_gran_ns = v->state.limits.time_gran_ns, .open_epoch = d_open_epoch,
		.restate = d_restate, .room = d_room, .flush_failed = d_flush_failed, .arg = d,
	};
	struct apply_config ac = {
		.local = below, .bottom = v->local, .locks = v->locks, .handles = v->handles, .observers = &d->observers,
		.barrier_done = d_barrier_done, .report = d_report, .epoch = d_epoch, .handover = d_handover, .clock_seen = clock_seen, .arg = d,
	};
	struct resync_sink_config sc = { .bottom = v->local, .handles = v->handles, .set_inconsistent = node_set_inconsistent, .arg = d->node };

	int r = interpose_new(&ic, &d->ip);
	if (!r)
		r = apply_new(&ac, &d->apply);
	if (!r)
		r = resync_sink_new(&sc, &d->sink);
	if (!r)
		resync_sink_register(d->sink, d->apply);
	return r;
}

static int build_front(struct daemon *d)
{
	const struct volume_conf *c = d->conf;
	double timeout = c->attr_timeout_ms ? (double)c->attr_timeout_ms / 1000 : -1;
	char image[CONF_VALUE_MAX + 16];

	snprintf(image, sizeof image, "%s/identity.img", c->state_dir);
	struct fuse_front_config fc = {
		.top = interpose_layer(d->ip), .locks = d->flocks, .observers = &d->observers, .mount_point = c->mount_point, .volume = c->name,
		.attr_timeout_s = timeout, .entry_timeout_s = timeout, .threads = c->threads, .generation = d->volume.state.generation,
		.blk_image = c->mount_as == CONF_MOUNT_FUSEBLK ? image : NULL, .gone = unmounted, .arg = d,
	};
	memcpy(fc.uuid, d->volume.state.uuid, sizeof fc.uuid);
	return fuse_front_new(&fc, &d->front);
}

static int build_nfsd(struct daemon *d)
{
	const struct state *s = &d->volume.state;
	struct nfsd_config nc = {
		.conf = d->conf, .exports = d->exports, .top = interpose_layer(d->ip), .locks = d->flocks, .observers = &d->observers, .ip = d->ip,
		.apply = d->apply, .queue = d->queue, .limits = &s->limits, .mac_key = s->mac_key, .generation = s->generation,
		.node = d->conf->self, .state_dir_fd = d->volume.state_fd, .settle = d_settle, .flush_range = d_flush_range, .arg = d->front,
	};
	memcpy(nc.uuid, s->uuid, sizeof nc.uuid);
	return d->conf->nfs_listen[0] ? nfsd_new(&nc, &d->nfsd) : 0;
}

static int build_address(struct daemon *d)
{
	struct address_config c = { .clients = d_clients, .arg = d };
	char why[CONF_ERR_MAX];

	if (service_parse(d->conf->service_address, c.addr, &c.n, why, sizeof why) || !c.n)
		return 0;
	int r = address_new(&c, &d->address);
	if (r)
		log_error("service_address: %s", r == -EPERM ? "CAP_NET_ADMIN is missing" : strerror(-r));
	return r;
}

static int build(struct daemon *d)
{
	struct volume_hooks hooks = { may_adopt, adopted, d };
	char err[CONF_ERR_MAX];

	int r = volume_open(d->conf, &hooks, &d->volume, err, sizeof err);
	if (r) {
		log_error("%s", err);
		return r;
	}
	r = build_security(d);
	if (!r)
		r = build_fault(d);
	if (!r)
		r = queue_new(d->conf->queue_bytes, &d->queue);
	if (!r)
		r = build_node(d);
	if (!r)
		r = build_mirror(d);
	if (!r)
		r = lock_table_new(&d->flocks);
	if (!r)
		r = build_front(d);
	if (!r)
		r = exports_new(d->conf, &d->exports);
	if (!r)
		r = build_nfsd(d);
	if (!r)
		r = build_address(d);
	return r;
}

/* ---- life ---- */

void daemon_end(struct daemon *d, int how)
{
	auto_lock(&d->end_mu);
	if (how > d->end)
		d->end = how;
	pthread_cond_broadcast(&d->end_cond);
}

/* The signals that end a daemon are blocked everywhere and taken here. */
static void *signal_thread(void *arg)
{
	sigset_t set;
	int sig;

	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	while (!sigwait(&set, &sig)) {
		if (sig == SIGHUP)
			continue;
		log_info("daemon: signal %d: stopping", sig);
		daemon_end(arg, END_STOP);
	}
	return NULL;
}

static void block_signals(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGHUP);
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
}

/* With CAP_SYS_RESOURCE quotas and reserves would not hold for what users write through us. */
static void drop_sys_resource(void)
{
	struct __user_cap_header_struct h = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct d[2];

	if (syscall(SYS_capget, &h, d))
		return;
	d[CAP_SYS_RESOURCE / 32].effective &= ~(1u << CAP_SYS_RESOURCE % 32);
	if (syscall(SYS_capset, &h, d))
		log_warn("daemon: CAP_SYS_RESOURCE can't be dropped: disk quotas will not hold for writes through the mount: %s", strerror(errno));
}

static void prepare_process(void)
{
	struct rlimit rl = { FILES_MAX, FILES_MAX };

	/* Large blocks go back to the system when they are freed, instead of staying in pieces in the heaps of many threads. */
	mallopt(M_MMAP_THRESHOLD, LARGE_BLOCK);
	umask(0);
	block_signals();
	if (setrlimit(RLIMIT_NOFILE, &rl)) {
		getrlimit(RLIMIT_NOFILE, &rl);
		rl.rlim_cur = rl.rlim_max;
		setrlimit(RLIMIT_NOFILE, &rl);
	}
	drop_sys_resource();
}

/* Waits for the end; an unmount that is refused (EBUSY) is told and the daemon goes on. */
static void serve(struct daemon *d)
{
	for (;;) {
		pthread_mutex_lock(&d->end_mu);
		while (!d->end)
			pthread_cond_wait(&d->end_cond, &d->end_mu);
		int how = d->end;
		d->end = END_NOT;
		pthread_mutex_unlock(&d->end_mu);
		int r = fuse_front_stop(d->front, how == END_FORCE);
		if (!r)
			return;
		log_error("fuse: %s can't be unmounted: %s: end the programs that use it, or `tandemfs umount --force'", d->conf->mount_point,
			  strerror(-r));
	}
}

/* Mounting over the backing directory is the rule; over another file system it is seldom meant. */
static void warn_if_hidden(const struct volume_conf *c)
{
	char up[CONF_VALUE_MAX + 4];
	struct stat st, parent;

	snprintf(up, sizeof up, "%s/..", c->mount_point);
	if (strcmp(c->mount_point, c->backing) && !stat(c->mount_point, &st) && !stat(up, &parent) && st.st_dev != parent.st_dev)
		log_warn("mount point %s: another file system is mounted there, and is hidden now: unmount both if that is not meant", c->mount_point);
}

static int start(struct daemon *d)
{
	struct node_resync nr = { resync_begin, resync_end, resync_heard, resync_again, resync_keep, resync_is_busy, d };
	pthread_t t;

	warn_if_hidden(d->conf);
	if (d->conf->nfs_listen[0] && !d->conf->nexports)
		log_warn("nfs: nothing is exported: add an [export NAME] section to %s, then `tandemfs reload %s'", d->conf->file, d->conf->name);
	int r = fuse_front_mount(d->front);
	if (r) {
		log_error("mount point %s: %s", d->conf->mount_point,
			  r == -EBUSY ? "something is mounted there already: unmount it first" :
			  r == -ENOENT ? "it does not exist: create the directory" : strerror(-r));
		return r;
	}
	if (d->nfsd && (r = nfsd_listen(d->nfsd)))
		return r;
	r = node_start(d->node, d->ip, d->apply, &nr);
	if (r) {
		log_error("node: can't start%s%s: %s%s", d->conf->npeers ? " at " : "", d->conf->npeers ? d->conf->nodes[d->conf->self].address : "",
			  strerror(-r), r == -EADDRINUSE ? ": end the program that listens there, or choose another port" :
			  r == -EADDRNOTAVAIL ? ": this machine hasn't that address: correct `address' of its [node] section" : "");
		return r;
	}
	d->node_started = true;
	r = fuse_front_run(d->front);
	if (!r && d->nfsd && (r = nfsd_start(d->nfsd)))
		return r;
	if (!r)
		r = control_server_start(d->conf->control_socket, daemon_control, d, &d->control);
	if (r) {
		log_error("control socket %s: %s", d->conf->control_socket, strerror(-r));
		return r;
	}
	if (pthread_create(&t, NULL, signal_thread, d))
		return -EAGAIN;
	pthread_detach(t);
	return 0;
}

/* Changes by NFS wait while the role is handed over, and whoever waits for peers that are gone is released with it; then the server stops. Its tables take what is applied
 * to the last, and its open files belong to the layers: it is freed after these. */
static void stop_serving(struct daemon *d)
{
	pthread_mutex_lock(&d->role_mu);
	d->leaving = true;
	if (d->address)
		address_release(d->address);
	if (d->nfsd)
		nfsd_role(d->nfsd, NFSD_CHANGING);
	pthread_mutex_unlock(&d->role_mu);
	if (d->node_started)
		node_stop(d->node);
	if (!d->nfsd)
		return;
	nfsd_role(d->nfsd, NFSD_STANDBY);
	nfsd_stop(d->nfsd);
}

static void take_down(struct daemon *d)
{
	stop_serving(d);
	address_free(d->address);
	if (d->control)
		control_server_stop(d->control);
	for (unsigned p = 1; p <= NODE_MAX; p++)
		resync_end(d, p);
	if (d->sink)
		resync_sink_free(d->sink);
	if (d->apply)
		apply_free(d->apply);
	nfsd_free(d->nfsd);
	if (d->front)			/* what is applied to the last is told to it, and requests ask for it */
		fuse_front_free(d->front);
	if (d->ip)
		interpose_free(d->ip);
	node_free(d->node);
	if (d->queue)
		queue_free(d->queue);
	if (d->flocks)
		lock_table_free(d->flocks);
	exports_free(d->exports);
	if (d->fault)
		d->fault->ops->destroy(d->fault);
	conn_security_free(d->security);
	if (d->volume.local)
		volume_close(&d->volume);
}

/* Before there are threads. */
static int start_guardian(struct daemon *d)
{
	struct service_address addr[SERVICE_MAX];
	char why[CONF_ERR_MAX];
	unsigned n;

	if (service_parse(d->conf->service_address, addr, &n, why, sizeof why) || !n)
		return 0;
	int r = guardian_start(addr, n, &d->guardian);
	if (r)
		log_error("service_address: the guardian can't be started: %s", strerror(-r));
	return r;
}

int daemon_run(const struct volume_conf *c, const struct mount_args *a)
{
	static struct daemon d;		/* the signal thread outlives this function */
	char err[CONF_ERR_MAX];

	d.conf = c;
	d.args = a;
	d.started_ms = clock_mono_ms();
	pthread_mutex_init(&d.resync_mu, NULL);
	pthread_mutex_init(&d.role_mu, NULL);
	pthread_mutex_init(&d.end_mu, NULL);
	pthread_cond_init(&d.end_cond, NULL);
	int r = volume_check_caps(err, sizeof err);
	if (r) {
		log_error("%s", err);
		return r;
	}
	prepare_process();
	r = start_guardian(&d);
	if (!r)
		r = build(&d);
	bool started = false;
	if (!r) {
		r = start(&d);
		started = !r;
	}
	if (!r) {
		log_info("volume %s: node %s (%u): mounted at %s", c->name, c->node, c->self, c->mount_point);
		mount_ready(c, a);
		serve(&d);
	} else if (d.front) {
		fuse_front_stop(d.front, true);
	}
	take_down(&d);
	guardian_stop(d.guardian);
	if (started)
		log_info("volume %s: stopped", c->name);
	return r;
}
