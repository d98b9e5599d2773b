/*
 * What the daemon answers on its control socket: see cmd.h for requests and the status object.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/clock.h"
#include "fs/base/log.h"
#include "fs/cmd/daemon_int.h"

enum { TEXT_MAX = 2048, PATH_TEXT_MAX = 4096 };

/* 64-bit identities travel as strings. */
static json_t *id_string(uint64_t v)
{
	char buf[24];
	snprintf(buf, sizeof buf, "%" PRIu64, v);
	return json_string(buf);
}

static json_t *hex_string(uint64_t v)
{
	char buf[24];
	snprintf(buf, sizeof buf, "%016" PRIx64, v);
	return json_string(buf);
}

static json_t *uuid_string(const unsigned char u[UUID_LEN])
{
	char buf[37], *p = buf;
	for (int i = 0; i < UUID_LEN; i++) {
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		p += sprintf(p, "%02x", u[i]);
	}
	return json_string(buf);
}

/* ---- status ---- */

static json_t *flags_array(const struct node_status *s)
{
	static const struct { uint32_t bit; const char *name; } names[] = {
		{ NODE_OUTDATED, "outdated" }, { NODE_INCONSISTENT, "inconsistent" }, { NODE_UNKNOWN, "unknown" }, { NODE_NEW, "new" },
		{ NODE_HANDED_OVER, "handed_over" }, { NODE_TAIL, "tail" }, { NODE_LEVEL, "level" },
	};
	json_t *a = json_array();

	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (s->flags & names[i].bit)
			json_array_append_new(a, json_string(names[i].name));
	if (s->frozen)
		json_array_append_new(a, json_string("frozen"));
	return a;
}

static json_t *sync_set_array(const struct volume_conf *c, uint16_t set)
{
	json_t *a = json_array();
	for (unsigned p = 1; p <= NODE_MAX; p++)
		if (set & 1u << p)
			json_array_append_new(a, c->nodes[p].number ? json_string(c->nodes[p].name) : json_sprintf("node-%u", p));
	return a;
}

static json_t *risks_array(const struct volume_conf *c, const struct node_status *s)
{
	json_t *a = json_array();

	if (c->npeers && !c->fence_peer[0])
		json_array_append_new(a, json_string("fence_peer = none: after a broken link both nodes may be promoted by mistake (split brain)"));
	if (c->npeers && c->security == CONF_SECURITY_NONE)
		json_array_append_new(a, json_string("security = none: names and contents cross the network in the clear"));
	if (c->npeers && c->durability == CONF_ASYNC)
		json_array_append_new(a, json_string("durability = async: what fsync acknowledged may be missing on the standby"));
	for (unsigned p = 1; p <= NODE_MAX; p++)
		if (s->peer[p].configured && s->peer[p].dropped == DROPPED_RISK && s->role == CORE_PRIMARY)
			json_array_append_new(a, json_sprintf("%s left the sync set unfenced: don't promote it while this node lives", c->nodes[p].name));
	return a;
}

static const char *peer_word(const struct node_status *s, const struct node_peer_status *p)
{
	if (s->role != CORE_PRIMARY && p->state == PEER_READY)
		return "connected";
	switch (p->state) {
	case PEER_DOWN: return p->outdated && s->role == CORE_PRIMARY ? "outdated" : "down";
	case PEER_READY: case PEER_OPENING: return "connecting";
	case PEER_REFUSED: return "refused";
	case PEER_COMPARING: return "resync";
	case PEER_STREAMING: case PEER_JOINING: return "streaming";
	case PEER_LEVEL: return "level";
	}
	return "down";
}

static json_t *peer_object(struct daemon *d, const struct node_status *s, unsigned n)
{
	const struct node_peer_status *p = &s->peer[n];
	const struct conf_node *c = &d->conf->nodes[n];
	json_t *o = json_pack("{s:s,s:i,s:s,s:b,s:s,s:s,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I,s:I}", "name", c->name, "number", (int)n, "address", c->address,
			      "connected", p->connected, "state", peer_word(s, p), "reason", p->reason, "lag_ops", (json_int_t)p->lag_ops,
			      "lag_bytes", (json_int_t)p->lag_bytes, "lag_ms", (json_int_t)p->lag_ms, "last_heard_ms",
			      (json_int_t)p->last_heard_ms, "rtt_us", (json_int_t)(p->link.rtt_ns / 1000), "bytes_in",
			      (json_int_t)p->link.bytes_in, "bytes_out", (json_int_t)p->link.bytes_out, "refused",
			      (json_int_t)p->link.refused, "malformed", (json_int_t)p->link.malformed);
	json_object_set_new(o, "failure", json_string(p->connected ? "" : p->link.failure));
	json_object_set_new(o, "in_sync_set", json_boolean(p->in_sync_set));
	json_object_set_new(o, "primary", json_boolean(p->connected && (p->flags & NODE_PRIMARY)));
	auto_lock(&d->resync_mu);
	if (d->resync[n]) {
		struct resync_progress r;
		resync_progress(d->resync[n], &r);
		json_object_set_new(o, "resync", json_pack("{s:I,s:I,s:I,s:I,s:b}", "objects", (json_int_t)r.objects, "bytes_checked",
				    (json_int_t)r.bytes_checked, "bytes_sent", (json_int_t)r.bytes_sent, "dirty", (json_int_t)r.dirty,
				    "running", r.running));
	}
	return o;
}

static json_t *nfs_object(struct daemon *d)
{
	json_t *o = json_pack("{s:s,s:i}", "listen", d->conf->nfs_listen, "exports", (int)exports_count(d->exports));
	struct nfsd_status s;

	if (!d->nfsd)
		return o;
	nfsd_status(d->nfsd, &s);
	const struct { const char *name; uint64_t value; } counts[] = {
		{ "port", s.port }, { "clients", s.clients }, { "connections", s.connections }, { "mounts", s.mounts }, { "calls", s.calls },
		{ "files", s.files }, { "locks", s.locks }, { "refused_handles", s.refused_handles }, { "replay_hits", s.replay_hits },
		{ "replay_entries", s.replay_entries }, { "grace_ms", s.grace_ms },
	};
	for (unsigned i = 0; i < ARRAY_LEN(counts); i++)
		json_object_set_new(o, counts[i].name, json_integer((json_int_t)counts[i].value));
	json_object_set_new(o, "state_complete", json_boolean(s.complete));
	return o;
}

/* Who else has a service address is not known here: that it is the primary is what it's for. */
static json_t *service_array(struct daemon *d)
{
	struct address_status all[SERVICE_MAX];
	unsigned n = d->address ? address_status(d->address, all) : 0;
	json_t *a = json_array();

	for (unsigned i = 0; i < n; i++) {
		char text[SERVICE_TEXT_MAX];
		service_format(&all[i].addr, text);
		json_array_append_new(a, json_pack("{s:s,s:b,s:s}", "address", text, "held", all[i].held, "trouble", all[i].trouble));
	}
	return a;
}

static json_t *status_object(struct daemon *d)
{
	const struct volume_conf *c = d->conf;
	struct node_status *s = malloc(sizeof *s);
	struct interpose_stats is;
	uint64_t done = 0;

	if (!s)
		return NULL;
	node_status(d->node, s);
	interpose_stats(d->ip, &is);
	bool rebuilding = handles_rebuilding(d->volume.handles, &done);
	json_t *o = json_pack("{s:s,s:s,s:i,s:s}", "volume", c->name, "node", c->node, "number", (int)c->self, "role",
			      s->role == CORE_PRIMARY ? "primary" : "standby");
	json_object_set_new(o, "uuid", uuid_string(d->volume.state.uuid));
	json_object_set_new(o, "flags", flags_array(s));
	json_t *e = json_object();
	json_object_set_new(e, "reign", id_string(s->epoch.reign));
	json_object_set_new(e, "node", json_integer(s->epoch.node));
	json_object_set_new(e, "tag", hex_string(s->epoch.tag));
	json_object_set_new(o, "epoch", e);
	json_object_set_new(o, "lsn", id_string(s->lsn));
	json_object_set_new(o, "sync_set", sync_set_array(c, s->sync_set));
	json_object_set_new(o, "durability", json_string(c->durability == CONF_ASYNC ? "async" : c->durability == CONF_COMMIT ? "commit" : "sync"));
	json_object_set_new(o, "security", json_string(c->security == CONF_SECURITY_TLS ? "tls" : "none"));
	json_object_set_new(o, "risks", risks_array(c, s));
	json_object_set_new(o, "service", service_array(d));
	if (s->doubt_of)
		json_object_set_new(o, "doubt", json_string(c->nodes[s->doubt_of].name));
	json_object_set_new(o, "mount", json_pack("{s:s,s:I,s:I}", "point", c->mount_point, "open_writers", (json_int_t)interpose_writers(d->ip),
			    "refused_writes", (json_int_t)is.refused));
	json_object_set_new(o, "queue", json_pack("{s:I,s:I}", "bytes", (json_int_t)s->queue_bytes, "max", (json_int_t)c->queue_bytes));
	json_object_set_new(o, "nfs", nfs_object(d));
	json_object_set_new(o, "ops", json_integer((json_int_t)is.ops));
	json_object_set_new(o, "bytes", json_integer((json_int_t)is.bytes));
	json_object_set_new(o, "handles", json_pack("{s:I,s:b}", "count", (json_int_t)index_count(d->volume.handles), "rebuilding", rebuilding));
	json_object_set_new(o, "pid", json_integer(getpid()));
	json_object_set_new(o, "uptime_ms", json_integer((json_int_t)(clock_mono_ms() - d->started_ms)));
	json_object_set_new(o, "strangers", json_pack("{s:I,s:I}", "refused", (json_int_t)s->strangers.refused, "malformed",
			    (json_int_t)s->strangers.malformed));
	json_t *peers = json_array();
	for (unsigned p = 1; p <= NODE_MAX; p++)
		if (s->peer[p].configured)
			json_array_append_new(peers, peer_object(d, s, p));
	json_object_set_new(o, "peers", peers);
	free(s);
	return o;
}

static json_t *on_status(struct daemon *d, const json_t *req)
{
	(void)req;
	json_t *r = control_ok(), *s = status_object(d);
	if (r && s)
		json_object_set_new(r, "status", s);
	return r;
}

/* ---- roles ---- */

static bool flag(const json_t *req, const char *name) { return json_is_true(json_object_get(req, name)); }

static json_t *answer(int err, const char *text)
{
	if (err)
		return control_error(NULL, "%s", text);
	json_t *r = control_ok();
	json_object_set_new(r, "message", json_string(text));
	return r;
}

static json_t *on_promote(struct daemon *d, const json_t *req)
{
	char text[TEXT_MAX];
	return answer(node_promote(d->node, flag(req, "fenced"), flag(req, "force"), text, sizeof text), text);
}

static json_t *on_demote(struct daemon *d, const json_t *req)
{
	char text[TEXT_MAX];
	return answer(node_demote(d->node, flag(req, "force"), text, sizeof text), text);
}

/* The node may be named or left out. */
static json_t *on_switchover(struct daemon *d, const json_t *req)
{
	const char *name = json_string_value(json_object_get(req, "node"));
	const struct conf_node *to = name ? conf_node_by_name(d->conf, name) : NULL;
	char text[TEXT_MAX];

	if (name && !to)
		return control_error("its configuration names the nodes", "there is no [node %s]", name);
	return answer(node_switchover(d->node, to ? to->number : 0, text, sizeof text), text);
}

static json_t *on_resync(struct daemon *d, const json_t *req)
{
	char text[TEXT_MAX];
	return answer(node_resync_local(d->node, flag(req, "discard_local"), text, sizeof text), text);
}

static json_t *on_umount(struct daemon *d, const json_t *req)
{
	bool force = flag(req, "force");
	int r = fuse_front_stop(d->front, force);

	if (r)
		return control_error("end the programs that use it (fuser -vm), or say --force", "%s can't be unmounted: %s", d->conf->mount_point,
				     strerror(-r));
	daemon_end(d, force ? END_FORCE : END_STOP);
	return control_ok();
}

/* ---- exports ---- */

/* The new table, and what else the file has that is not in force. */
static json_t *on_reload(struct daemon *d, const json_t *req)
{
	const char *file = json_string_value(json_object_get(req, "file"));
	char err[CONF_ERR_MAX], diff[CONF_ERR_MAX];
	auto_free struct volume_conf *c = malloc(sizeof *c);

	int r = c ? conf_load(d->conf->name, file, c, err, sizeof err) : -ENOMEM;
	if (r)
		return control_error(NULL, "%s", c ? err : "no memory");
	r = exports_reload(d->exports, c);
	if (r)
		return control_error(NULL, "%s", strerror(-r));
	log_info("nfs: exports: read again: %u in force", c->nexports);
	conf_diff(d->conf, c, diff, sizeof diff);
	const char *note = !c->nexports ? ": NFS clients can't mount anything" : !d->conf->nfs_listen[0] ? ", but this daemon has no NFS server" : "";
	json_t *o = control_ok();
	json_object_set_new(o, "message", json_sprintf("%u exports in force%s%s%s", c->nexports, note, diff[0] ? "; only after a restart: " : "", diff));
	return o;
}

/* ---- handles ---- */

static const char *type_word(uint32_t mode)
{
	switch (mode & S_IFMT) {
	case S_IFDIR: return "directory";
	case S_IFLNK: return "symlink";
	case S_IFIFO: return "fifo";
	case S_IFSOCK: return "socket";
	case S_IFCHR: return "character device";
	case S_IFBLK: return "block device";
	default: return "file";
	}
}

static json_t *on_handle(struct daemon *d, const json_t *req)
{
	const char *s = json_string_value(json_object_get(req, "id"));
	char path[PATH_TEXT_MAX], *end;
	struct call c = { .origin = ORIGIN_INTERNAL };
	struct attr a;

	errno = 0;
	uint64_t id = s ? strtoull(s, &end, 10) : 0;
	if (!s || *end || errno || !id_valid(id))
		return control_error("ids are what `ls -i' shows in the mount", "%s is not an id", s ? s : "(nothing)");
	int r = d->volume.local->ops->getattr(d->volume.local, &c, id, NULL, &a);
	if (r)
		return control_error(NULL, "id %s: %s", s, r == -ESTALE ? "no such object (any more)" : strerror(-r));
	json_t *o = control_ok();
	json_object_set_new(o, "type", json_string(type_word(a.mode)));
	if (!local_path_of(d->volume.local, id, path, sizeof path))
		json_object_set_new(o, "path", json_string(path));
	return o;
}

json_t *daemon_control(void *arg, const json_t *request)
{
	static const struct { const char *cmd; json_t *(*fn)(struct daemon *d, const json_t *req); } table[] = {
		{ "status", on_status }, { "promote", on_promote }, { "demote", on_demote }, { "switchover", on_switchover },
		{ "resync", on_resync }, { "umount", on_umount },   { "handle", on_handle },
		{ "reload", on_reload },
	};
	const char *cmd = json_string_value(json_object_get(request, "cmd"));

	for (size_t i = 0; cmd && i < ARRAY_LEN(table); i++)
		if (!strcmp(cmd, table[i].cmd))
			return table[i].fn(arg, request);
	return control_error("is the command newer than the daemon? restart the daemon", "unknown request %s", cmd ? cmd : "(none)");
}
