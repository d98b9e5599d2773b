/*
 * status: asks the daemon and shows the answer: for people (the first line is the verdict), as JSON, or for a monitoring system.
 *
 * Health is decided here and nowhere else, from what the daemon says (status_health):
 *   critical  acknowledgements wait; the node's data can't be trusted and nobody makes them equal; a peer refuses us (split, wrong volume)
 *   degraded  a peer isn't level, or a standby hears no primary, is outdated, may hold what nobody else has, or is being made equal
 *   healthy   otherwise. Risks that a person took (fence_peer = none) are shown, but are no fault.
 */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "fs/cmd/cmd.h"
#include "fs/cmd/control.h"

enum { STATUS_TIMEOUT_MS = 10000 };

static const char *text_of(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : "-";
}

static long long number_of(const json_t *o, const char *key)
{
	return (long long)json_integer_value(json_object_get(o, key));
}

static bool list_has(const json_t *list, const char *what)
{
	size_t i;
	json_t *v;

	json_array_foreach(list, i, v)
		if (json_is_string(v) && !strcmp(json_string_value(v), what))
			return true;
	return false;
}

/* ---- health ---- */

struct verdict { enum health health; char *why; size_t size; };

/* Notes a finding; the worst one is told. */
static void __attribute__((format(printf, 3, 4))) find(struct verdict *v, enum health h, const char *fmt, ...)
{
	va_list ap;

	if (h <= v->health)
		return;
	v->health = h;
	va_start(ap, fmt);
	vsnprintf(v->why, v->size, fmt, ap);
	va_end(ap);
}

static void judge_peer(struct verdict *v, const json_t *peer, bool primary)
{
	const char *state = text_of(peer, "state"), *name = text_of(peer, "name"), *why = json_string_value(json_object_get(peer, "reason"));

	if (!strcmp(state, "refused"))
		find(v, HEALTH_CRITICAL, "%s and this node don't follow each other: %s", name, why ? why : "-");
	else if (primary && strcmp(state, "level"))
		find(v, HEALTH_WARNING, "%s is not level: %s%s%s", name, state, why && *why ? ", " : "", why ? why : "");
}

/* Without its addresses a primary serves no client. */
static void judge_service(struct verdict *v, const json_t *service, bool primary)
{
	size_t i;
	json_t *a;

	json_array_foreach(service, i, a) {
		bool held = json_is_true(json_object_get(a, "held"));
		if (primary && (!held || *text_of(a, "trouble")))
			find(v, held ? HEALTH_WARNING : HEALTH_CRITICAL, "service address %s: %s", text_of(a, "address"),
			     *text_of(a, "trouble") ? text_of(a, "trouble") : "not taken yet");
	}
}

static void judge_standby(struct verdict *v, const json_t *flags, bool connected, bool primary_heard, bool has_peers)
{
	if (list_has(flags, "unknown"))
		find(v, HEALTH_CRITICAL, "state and data don't belong together: resync it from the primary");
	if (list_has(flags, "inconsistent"))
		find(v, connected ? HEALTH_WARNING : HEALTH_CRITICAL, "the data are inconsistent%s",
		     connected ? ": they are being made equal" : " and no peer is connected");
	if (list_has(flags, "tail") && primary_heard)
		find(v, HEALTH_WARNING, "was primary and may hold changes that nobody else has: `tandemfs resync --discard-local' sets them aside");
	if (list_has(flags, "outdated"))
		find(v, HEALTH_WARNING, "outdated: others may have newer data");
	if (!primary_heard && has_peers && list_has(flags, "new"))
		find(v, HEALTH_WARNING, "the volume is new: `tandemfs promote' on the node whose data it shall have");
	if (!connected && has_peers)
		find(v, HEALTH_WARNING, "no peer is connected");
	if (!primary_heard && has_peers)
		find(v, HEALTH_WARNING, "no node is primary: `tandemfs promote' one of them");
}

enum health status_health(const json_t *status, char *why, size_t size)
{
	struct verdict v = { HEALTH_OK, why, size };
	const json_t *flags = json_object_get(status, "flags"), *peers = json_object_get(status, "peers");
	bool primary = !strcmp(text_of(status, "role"), "primary"), connected = false, primary_heard = false;
	size_t i;
	json_t *peer;

	snprintf(why, size, !json_array_size(peers) ? "has no peers" : primary ? "all peers are level" : "follows its primary");
	if (list_has(flags, "frozen"))
		find(&v, HEALTH_CRITICAL, "acknowledgements wait: a flush or a fence program failed");
	json_array_foreach(peers, i, peer) {
		judge_peer(&v, peer, primary);
		connected = connected || json_is_true(json_object_get(peer, "connected"));
		primary_heard = primary_heard || json_is_true(json_object_get(peer, "primary"));
	}
	judge_service(&v, json_object_get(status, "service"), primary);
	if (json_object_get(status, "doubt"))
		find(&v, HEALTH_CRITICAL, "%s was lost while it took over and may be primary: look there; this node goes on by itself when it is back and is not",
		     text_of(status, "doubt"));
	if (!primary)
		judge_standby(&v, flags, connected, primary_heard, json_array_size(peers) > 0);
	return v.health;
}

static const char *health_word(enum health h)
{
	static const char *const words[] = { "OK", "DEGRADED", "CRITICAL", "UNKNOWN" };
	return words[h];
}

/* ---- for people ---- */

/* BYTES in the largest unit that keeps it above 1. */
static const char *human_bytes(long long bytes, char out[32])
{
	static const char *const units[] = { "B", "KiB", "MiB", "GiB", "TiB", "PiB" };
	double v = (double)bytes;
	size_t u = 0;

	while (v >= 1024 && u + 1 < sizeof units / sizeof units[0]) {
		v /= 1024;
		u++;
	}
	snprintf(out, 32, u ? "%.1f %s" : "%.0f %s", v, units[u]);
	return out;
}

/* Milliseconds ago; negative: never. */
static const char *human_ago(long long ms, char out[32])
{
	if (ms < 0)
		return strcpy(out, "never");
	if (ms < 10000)
		snprintf(out, 32, "%lld ms ago", ms);
	else if (ms < 600000)
		snprintf(out, 32, "%lld s ago", ms / 1000);
	else
		snprintf(out, 32, "%lld min ago", ms / 60000);
	return out;
}

static void print_list(const json_t *list, const char *sep, FILE *out)
{
	size_t i;
	json_t *v;

	json_array_foreach(list, i, v)
		fprintf(out, "%s%s", i ? sep : "", json_string_value(v) ? json_string_value(v) : "?");
}

static void print_peer(const json_t *p, FILE *out)
{
	char bytes[32], checked[32], ago[32];
	const json_t *resync = json_object_get(p, "resync");
	const char *reason = text_of(p, "reason"), *failure = text_of(p, "failure");

	fprintf(out, "  %-12s %-10s %-24s", text_of(p, "name"), text_of(p, "state"), text_of(p, "address"));
	if (json_is_true(json_object_get(p, "connected")))
		fprintf(out, " lag %lld ops, %s, %lld ms; round trip %lld us", number_of(p, "lag_ops"), human_bytes(number_of(p, "lag_bytes"), bytes),
			number_of(p, "lag_ms"), number_of(p, "rtt_us"));
	else
		fprintf(out, " last heard %s", human_ago(number_of(p, "last_heard_ms"), ago));
	fputc('\n', out);
	if (strcmp(reason, "-") && *reason)
		fprintf(out, "  %-12s %s\n", "", reason);
	if (strcmp(failure, "-") && *failure)
		fprintf(out, "  %-12s can't connect: %s\n", "", failure);
	if (json_is_object(resync))
		fprintf(out, "  %-12s compared %lld objects, %s; sent %s\n", "", number_of(resync, "objects"),
			human_bytes(number_of(resync, "bytes_checked"), checked), human_bytes(number_of(resync, "bytes_sent"), bytes));
	if (number_of(p, "refused") || number_of(p, "malformed"))
		fprintf(out, "  %-12s %lld connections refused, %lld malformed frames\n", "", number_of(p, "refused"), number_of(p, "malformed"));
}

/* What NUMBER is called: this node, a peer, or a node that the configuration no longer has. */
static const char *node_name(const json_t *s, long long number, char out[32])
{
	const json_t *peers = json_object_get(s, "peers");
	size_t i;
	json_t *p;

	if (number_of(s, "number") == number)
		return text_of(s, "node");
	json_array_foreach(peers, i, p)
		if (number_of(p, "number") == number)
			return text_of(p, "name");
	snprintf(out, 32, "node-%lld", number);
	return out;
}

/* The reign, and how far its changes have come here: an LSN means something only while a primary makes them. */
static void print_position(const json_t *s, FILE *out)
{
	const json_t *epoch = json_object_get(s, "epoch"), *peers = json_object_get(s, "peers");
	bool reigns = !strcmp(text_of(s, "role"), "primary");
	char name[32];
	size_t i;
	json_t *p;

	json_array_foreach(peers, i, p)
		reigns = reigns || json_is_true(json_object_get(p, "primary"));
	if (!strcmp(text_of(epoch, "reign"), "0"))
		fputs("  position     nobody has been primary yet", out);
	else
		fprintf(out, "  position     reign %s, of %s", text_of(epoch, "reign"), node_name(s, number_of(epoch, "node"), name));
	if (reigns)
		fprintf(out, ", LSN %s", text_of(s, "lsn"));
	fputc('\n', out);
}

void status_print(const json_t *s, FILE *out)
{
	char why[256], bytes[32], max[32];
	const json_t *mount = json_object_get(s, "mount"), *queue = json_object_get(s, "queue");
	const json_t *handles = json_object_get(s, "handles"), *flags = json_object_get(s, "flags"), *risks = json_object_get(s, "risks");
	const json_t *peers = json_object_get(s, "peers");
	size_t i;
	json_t *v;

	enum health h = status_health(s, why, sizeof why);
	fprintf(out, "%s: %s: %s on %s: %s\n", health_word(h), text_of(s, "volume"), text_of(s, "role"), text_of(s, "node"), why);
	if (number_of(s, "pid"))
		fprintf(out, "  daemon       process %lld, started %s\n", number_of(s, "pid"), human_ago(number_of(s, "uptime_ms"), max));
	fprintf(out, "  uuid         %s\n  mounted at   %s, %lld open for writing\n", text_of(s, "uuid"), text_of(mount, "point"),
		number_of(mount, "open_writers"));
	if (number_of(mount, "refused_writes"))
		fprintf(out, "               %lld writes came after the role had gone and were refused\n", number_of(mount, "refused_writes"));
	print_position(s, out);
	fputs("  sync set     ", out);
	print_list(json_object_get(s, "sync_set"), ", ", out);
	if (!json_array_size(json_object_get(s, "sync_set")))
		fputs("nobody", out);
	fprintf(out, "\n  promises     durability %s, security %s\n", text_of(s, "durability"), text_of(s, "security"));
	fprintf(out, "  since start  %lld ops, %s; queue %s of %s\n", number_of(s, "ops"), human_bytes(number_of(s, "bytes"), bytes),
		human_bytes(number_of(queue, "bytes"), max), human_bytes(number_of(queue, "max"), why));
	const json_t *nfs = json_object_get(s, "nfs");
	if (json_string_length(json_object_get(nfs, "listen")))
		fprintf(out, number_of(nfs, "exports") ? "  nfs          at %s, %lld exports\n" :
			"  nfs          at %s, nothing is exported: add an [export] section, then `tandemfs reload'\n", text_of(nfs, "listen"),
			number_of(nfs, "exports"));
	if (json_object_get(nfs, "calls"))
		fprintf(out, "               %lld clients on %lld connections, %lld calls, %lld locks, %lld retransmissions answered, %lld handles refused\n",
			number_of(nfs, "clients"), number_of(nfs, "connections"), number_of(nfs, "calls"), number_of(nfs, "locks"),
			number_of(nfs, "replay_hits"), number_of(nfs, "refused_handles"));
	if (number_of(nfs, "grace_ms"))
		fprintf(out, "               network locks are only given back to who held them, for %lld s still: they were not known here\n",
			(number_of(nfs, "grace_ms") + 999) / 1000);
	const json_t *service = json_object_get(s, "service");
	json_array_foreach(service, i, v)
		fprintf(out, "  service      %s: %s%s%s\n", text_of(v, "address"), json_is_true(json_object_get(v, "held")) ? "here" : "not here",
			*text_of(v, "trouble") ? ": " : "", text_of(v, "trouble"));
	fprintf(out, "  handles      %lld%s\n", number_of(handles, "count"),
		json_is_true(json_object_get(handles, "rebuilding")) ? ", the index is being rebuilt" : "");
	if (json_array_size(flags)) {
		fputs("  flags        ", out);
		print_list(flags, ", ", out);
		fputc('\n', out);
	}
	json_array_foreach(risks, i, v)
		fprintf(out, "  risk         %s\n", json_string_value(v) ? json_string_value(v) : "?");
	const json_t *strangers = json_object_get(s, "strangers");
	if (number_of(strangers, "refused") || number_of(strangers, "malformed"))
		fprintf(out, "  strangers    %lld connections refused, %lld malformed frames: see the log\n", number_of(strangers, "refused"),
			number_of(strangers, "malformed"));
	if (json_array_size(peers))
		fputs("peers:\n", out);
	json_array_foreach(peers, i, v)
		print_peer(v, out);
}

/* ---- the sub-command ---- */

static int print_check(const struct volume_conf *c, int err, const json_t *status)
{
	char why[256];
	enum health h;

	if (err == -ENOENT || err == -ECONNREFUSED || err == -ETIMEDOUT || err == -ECONNRESET) {
		printf("CRITICAL: %s: no daemon answers at %s: %s: `tandemfs mount %s'\n", c->name, c->control_socket, strerror(-err), c->name);
		return HEALTH_CRITICAL;
	}
	if (err == -EACCES || err == -EPERM) {
		printf("UNKNOWN: %s: %s: %s: run this as root\n", c->name, c->control_socket, strerror(-err));
		return HEALTH_UNKNOWN;
	}
	if (err || !json_is_object(status)) {
		printf("UNKNOWN: %s: %s: %s\n", c->name, c->control_socket, strerror(err ? -err : EPROTO));
		return HEALTH_UNKNOWN;
	}
	h = status_health(status, why, sizeof why);
	printf("%s: %s: %s on %s: %s\n", health_word(h), c->name, text_of(status, "role"), text_of(status, "node"), why);
	return (int)h;
}

static int print_status(const struct cmd_line *l, const struct volume_conf *c, int err, const json_t *status)
{
	if (err == -ENOENT || err == -ECONNREFUSED)
		return cmd_fail("status: no daemon of volume %s answers at %s: start it with `tandemfs mount %s'", c->name, c->control_socket, c->name);
	if (err == -EACCES || err == -EPERM)
		return cmd_fail("status: %s: %s: run this as root", c->control_socket, strerror(-err));
	if (err || !json_is_object(status))
		return cmd_fail("status: %s: %s: is the daemon alive? see its log", c->control_socket, strerror(err ? -err : EPROTO));
	if (!cmd_option(l, "json")) {
		status_print(status, stdout);
		return EXIT_OK;
	}
	json_dumpf(status, stdout, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
	putchar('\n');
	return EXIT_OK;
}

int cmd_status(const struct cmd_line *l, const struct volume_conf *c)
{
	json_t *res = NULL;
	int err = control_call(c->control_socket, json_pack("{s:s}", "cmd", "status"), STATUS_TIMEOUT_MS, false, &res);
	const json_t *status = json_object_get(res, "status");

	int r = cmd_option(l, "check") ? print_check(c, err, status) : print_status(l, c, err, status);
	json_decref(res);
	return r;
}
