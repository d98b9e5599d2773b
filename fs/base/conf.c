/*
 * The configuration's parser.
 *
 * The file is read whole (CONF_FILE_MAX), split into lines by our own reader, and each line is given to libinih, which
 * knows the INI grammar and calls on_option() for each `name = value`. The reader does what libinih can't:
 * it counts lines, refuses lines that libinih would cut, strips indentation (libinih would take an indented option for the
 * continuation of the one before) and notes each [section], so that an empty, unknown or repeated one is seen.
 *
 * The first error wins: an error line is written once (fail()), what follows is read but ignored. After the last line: missing
 * options, defaults, and what options demand of each other (finish()).
 */
#include "fs/base/conf.h"

#include <assert.h>
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <ini.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/log.h"
#include "fs/base/service.h"

static const char *const choices_security[] = { "tls", "none", NULL };
static const char *const choices_durability[] = { "async", "commit", "sync", NULL };
static const char *const choices_start_as[] = { "standby", "last", NULL };
static const char *const choices_mount_as[] = { "fuse", "fuseblk", NULL };
static const char *const choices_yesno[] = { "no", "yes", NULL };
static const char *const choices_rpcbind[] = { "no", "yes", "auto", NULL };
static const char *const choices_access[] = { "ro", "rw", NULL };
static const char *const choices_squash[] = { "root", "all", "none", NULL };
static const char *const choices_log[] = { "error", "warn", "info", "debug", NULL };

#define V(field) offsetof(struct volume_conf, field)
#define N(field) offsetof(struct conf_node, field)
#define E(field) offsetof(struct conf_export, field)
#define BIT(n) (UINT64_C(1) << (n))
#define KIB 1024ULL
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

static const struct conf_option options[] = {
	{ "volume", "backing", CONF_T_PATH, V(backing), NULL, 0, 0, NULL,
	  "The local directory that holds the data: plain files on ext4, xfs, btrfs or tmpfs." },
	{ "volume", "mount_point", CONF_T_PATH, V(mount_point), "the backing directory", 0, 0, NULL,
	  "Where the volume is mounted; by default over the backing directory itself, so that nothing can bypass it." },
	{ "volume", "mount_as", CONF_T_CHOICE, V(mount_as), "fuse", 0, 0, choices_mount_as,
	  "fuseblk: mount from a loop device over a small image with the volume's UUID, so that NFS-Ganesha's handles are the same on all nodes." },
	{ "volume", "state_dir", CONF_T_PATH, V(state_dir), "/var/lib/tandemfs/NAME", 0, 0, NULL,
	  "Where this node keeps its index, lineage and role; on a disk that survives a reboot, outside the backing directory." },
	{ "volume", "node", CONF_T_NAME, V(node), "the host's name", 0, 0, NULL,
	  "Which of the [node] sections this machine is; the environment variable TANDEMFS_NODE overrides it." },
	{ "volume", "key_file", CONF_T_PATH, V(key_file), "/etc/tandemfs/NAME.key", 0, 0, NULL,
	  "The volume's transport key, the same on all nodes, owned by root and mode 0600; `tandemfs key --generate' makes one." },
	{ "volume", "security", CONF_T_CHOICE, V(security), "tls", 0, 0, choices_security,
	  "tls: connections are TLS 1.3 with the key; none: anybody who reaches the port can read and change the data." },
	{ "volume", "durability", CONF_T_CHOICE, V(durability), "commit", 0, 0, choices_durability,
	  "What an acknowledgement promises: async: fsync is durable here; commit: on all level nodes; sync: every operation was received there." },
	{ "volume", "peer_timeout", CONF_T_DURATION, V(peer_timeout_ms), "500ms", 50, 60000, NULL,
	  "A peer that is silent for so long is given up." },
	{ "volume", "congestion_timeout", CONF_T_DURATION, V(congestion_timeout_ms), "2s", 100, 600000, NULL,
	  "A peer that has work and makes no progress for so long is given up, although it answers." },
	{ "volume", "queue", CONF_T_SIZE, V(queue_bytes), "64MiB", 1 * MIB, 16 * GIB, NULL,
	  "Bytes of changes kept in memory for the peers; when it is full writers wait." },
	{ "volume", "fence_peer", CONF_T_PATH_OR_NONE, V(fence_peer), "", 0, 0, NULL,
	  "Program called as `HOOK outdate NODE' before going on without a peer and `HOOK stop NODE' before a promotion; "
	  "none: a person takes the risk. Must be given when there are peers." },
	{ "volume", "fence_timeout", CONF_T_DURATION, V(fence_timeout_ms), "10s", 100, 600000, NULL,
	  "The fence_peer program is killed, and has failed, after so long." },
	{ "volume", "start_as", CONF_T_CHOICE, V(start_as), "standby", 0, 0, choices_start_as,
	  "standby: a starting node waits for `promote'; last: the last primary resumes by itself when that is safe." },
	{ "volume", "state_hook", CONF_T_PATH_OR_NONE, V(state_hook), "none", 0, 0, NULL,
	  "Program called as `HOOK VOLUME WHAT NODE' at every change of state; its failure is logged and changes nothing." },
	{ "volume", "service_address", CONF_T_SERVICES, V(service_address), "none", 0, 0, NULL,
	  "ADDRESS/PREFIX dev INTERFACE, several with commas between: IP addresses that the primary takes and a standby does not have, for NFS clients; "
	  "none: nobody does, or a cluster manager." },
	{ "volume", "reserve", CONF_T_SIZE, V(reserve_bytes), "16MiB", 0, 1024 * GIB, NULL,
	  "Bytes kept free on standbys: the primary's callers get ENOSPC before a standby does." },
	{ "volume", "threads", CONF_T_NUMBER, V(threads), "0", 0, 256, NULL,
	  "Threads that serve the mount; 0: chosen by the number of CPUs." },
	{ "volume", "attr_timeout", CONF_T_DURATION, V(attr_timeout_ms), "60s", 0, 3600000, NULL,
	  "How long the kernel may keep names and attributes; changes that come from elsewhere invalidate them at once anyway." },
	{ "volume", "compress", CONF_T_CHOICE, V(compress), "no", 0, 0, choices_yesno,
	  "Compress data on the wire with zstd where it pays." },
	{ "volume", "log_level", CONF_T_CHOICE, V(log_level), "info", 0, 0, choices_log,
	  "Least important messages that are logged." },
	{ "volume", "control_socket", CONF_T_PATH, V(control_socket), "/run/tandemfs/NAME.sock", 0, 0, NULL,
	  "Where the daemon listens for the tandemfs command; mode 0600." },
	{ "node", "number", CONF_T_NUMBER, N(number), NULL, 1, CONF_NODE_MAX, NULL,
	  "The node's number, part of every handle that it hands out: unique, and never given to another node." },
	{ "node", "address", CONF_T_ADDRESS, N(address), "", 0, 0, NULL,
	  "host:port or [IPv6]:port where the node listens for its peers; must be given when there are peers." },
	{ "nfs", "listen", CONF_T_ADDRESS_OR_NONE, V(nfs_listen), "none", 0, 0, NULL,
	  "host:port or [IPv6]:port where the NFS server listens, all its programs on one port, 2049 by custom; [::]:2049 is every address; none: no "
	  "NFS server. What clients may mount is said by [export] sections: without one, nothing." },
	{ "nfs", "rpcbind", CONF_T_CHOICE, V(nfs_rpcbind), "auto", 0, 0, choices_rpcbind,
	  "Whether the NFS server's programs are registered with the rpcbind of this machine: yes: a failure is logged; auto: where one runs; no: clients have to be told the "
	  "ports (mount options port and mountport)." },
	{ "nfs", "grace", CONF_T_DURATION, V(nfs_grace_ms), "60s", 1000, 600000, NULL,
	  "When a node becomes primary without knowing the locks of NFS clients (there was no level standby): for how long locks are only given back to clients that held "
	  "them. Where they are known there is no such time." },
	{ "export", "path", CONF_T_PATH, E(path), "/", 0, 0, NULL,
	  "The directory that is exported, as seen from the volume's root: `/' is the whole volume. Clients mount HOST:PATH, or a directory below." },
	{ "export", "clients", CONF_T_NETS, E(nets), NULL, 0, 0, NULL,
	  "Who may mount it: addresses and networks such as 192.0.2.7, 10.0.0.0/24 or 2001:db8::/32, separated by commas; `*' is everybody. May be given several "
	  "times." },
	{ "export", "access", CONF_T_CHOICE, E(access), "ro", 0, 0, choices_access,
	  "ro: clients can read; rw: they can change, on the primary." },
	{ "export", "squash", CONF_T_CHOICE, E(squash), "root", 0, 0, choices_squash,
	  "Who becomes the anonymous user: root: the clients' root; all: everybody; none: nobody but callers without credentials." },
	{ "export", "anonuid", CONF_T_NUMBER, E(anonuid), "65534", 0, 4294967294, NULL, "The anonymous user's number (uid)." },
	{ "export", "anongid", CONF_T_NUMBER, E(anongid), "65534", 0, 4294967294, NULL, "The anonymous user's group (gid)." },
	{ "export", "secure", CONF_T_CHOICE, E(secure), "yes", 0, 0, choices_yesno,
	  "yes: clients must call from a port below 1024, which only root can; no: any port is fine." },
	{ "export", "id", CONF_T_NUMBER, E(id), "made from NAME", 1, 65535, NULL,
	  "The export's number in the file handles of its clients: unique, the same on all nodes; when it changes, clients have to mount again. By default it follows from the section's name." },
};

const struct conf_option *conf_options(size_t *n)
{
	*n = ARRAY_LEN(options);
	return options;
}

const char *conf_type_name(enum conf_type t)
{
	static const char *const names[] = {
		[CONF_T_NAME] = "name", [CONF_T_PATH] = "absolute path", [CONF_T_PATH_OR_NONE] = "absolute path or none",
		[CONF_T_ADDRESS] = "host:port", [CONF_T_ADDRESS_OR_NONE] = "host:port or none", [CONF_T_NETS] = "networks", [CONF_T_SERVICES] = "service addresses", [CONF_T_DURATION] = "duration", [CONF_T_SIZE] = "size",
		[CONF_T_NUMBER] = "number", [CONF_T_CHOICE] = "choice",
	};
	assert((size_t)t < ARRAY_LEN(names));
	return names[t];
}

/* A section of the file: where its options go. */
struct section {
	const char *kind;		/* as in the table of options */
	void *base;			/* what the options' offsets count from */
	uint64_t *seen;			/* bit n: options[n] was given */
};

struct parser {
	const char *label;
	const char *p, *end;		/* what the reader has not read yet */
	int line;			/* the last line read */
	struct section section;		/* where we are; kind NULL = before the first one */
	int volume_line, nfs_line;	/* of [volume] and [nfs], 0 = not seen */
	unsigned nnodes;
	struct { struct conf_node node; int line; uint64_t seen; } nodes[CONF_NODE_MAX];	/* in the file's order */
	struct { int line; uint64_t seen; } exports[CONF_EXPORTS_MAX];	/* as out->exports */
	uint64_t seen;			/* of [volume] and [nfs] */
	struct volume_conf *out;
	char *err;
	size_t errlen;
	int err_line;			/* 0 = no error yet */
};

/* Notes the first error; AT 0 = it belongs to no line. */
static void __attribute__((format(printf, 3, 4))) fail(struct parser *ps, int at, const char *fmt, ...)
{
	va_list ap;

	if (ps->err_line)
		return;
	ps->err_line = at ? at : -1;
	int n = at ? snprintf(ps->err, ps->errlen, "%s:%d: ", ps->label, at) : snprintf(ps->err, ps->errlen, "%s: ", ps->label);
	va_start(ap, fmt);
	if (n >= 0 && (size_t)n < ps->errlen)
		vsnprintf(ps->err + n, ps->errlen - (size_t)n, fmt, ap);
	va_end(ap);
}

/* ---- values ---- */

bool conf_name_ok(const char *name)
{
	size_t len = strlen(name);

	if (!len || len > CONF_NAME_MAX || name[0] == '.' || name[0] == '-')
		return false;
	for (const char *p = name; *p; p++)
		if (!isalnum((unsigned char)*p) && !strchr("._-", *p))
			return false;
	return true;
}

struct unit { const char *name; uint64_t factor; };

/* Digits, then one of UNITS. */
static int parse_units(const char *s, const struct unit *units, size_t n, uint64_t *out)
{
	uint64_t v = 0;
	const char *p = s;

	for (; isdigit((unsigned char)*p); p++)
		if (__builtin_mul_overflow(v, 10, &v) || __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
			return -ERANGE;
	if (p == s)
		return -EINVAL;
	while (*p == ' ')
		p++;
	for (size_t i = 0; i < n; i++)
		if (!strcmp(p, units[i].name))
			return __builtin_mul_overflow(v, units[i].factor, out) ? -ERANGE : 0;
	return -EINVAL;
}

int conf_parse_duration(const char *s, uint64_t *ms)
{
	static const struct unit units[] = { { "ms", 1 }, { "s", 1000 }, { "m", 60000 }, { "h", 3600000 } };

	if (!strcmp(s, "0")) {
		*ms = 0;
		return 0;
	}
	return parse_units(s, units, ARRAY_LEN(units), ms);
}

int conf_parse_size(const char *s, uint64_t *bytes)
{
	static const struct unit units[] = { { "", 1 }, { "KiB", KIB }, { "MiB", MIB }, { "GiB", GIB }, { "TiB", 1024 * GIB } };

	return parse_units(s, units, ARRAY_LEN(units), bytes);
}

static void set_string(char *field, const char *value)
{
	snprintf(field, CONF_VALUE_MAX + 1, "%s", value);
}

static void set_path(struct parser *ps, const struct conf_option *o, char *field, const char *value)
{
	if (o->type == CONF_T_PATH_OR_NONE && !strcmp(value, "none")) {
		field[0] = 0;
		return;
	}
	if (value[0] != '/') {
		fail(ps, ps->line, "%s: `%s' is not an absolute path: begin it with /", o->name, value);
		return;
	}
	size_t len = strlen(value);
	if (len > CONF_VALUE_MAX) {
		fail(ps, ps->line, "%s: path of %zu bytes: at most %d are possible", o->name, len, CONF_VALUE_MAX);
		return;
	}
	set_string(field, value);
	for (; len > 1 && field[len - 1] == '/'; len--)
		field[len - 1] = 0;
}

static void set_name(struct parser *ps, const struct conf_option *o, char *field, const char *value)
{
	if (conf_name_ok(value))
		snprintf(field, CONF_NAME_MAX + 1, "%s", value);
	else
		fail(ps, ps->line, "%s: `%s' can't be a name: use 1 to %d letters, digits, '.', '_' or '-', beginning with a letter or digit",
		     o->name, value, CONF_NAME_MAX);
}

static void set_address(struct parser *ps, const struct conf_option *o, char *field, const char *value)
{
	if (o->type == CONF_T_ADDRESS_OR_NONE && !strcmp(value, "none")) {
		field[0] = 0;
		return;
	}
	const char *colon = strrchr(value, ':');
	char *end;

	unsigned long port = colon ? strtoul(colon + 1, &end, 10) : 0;
	bool v6 = value[0] == '[';
	bool ok = colon && colon > value && isdigit((unsigned char)colon[1]) && !*end && port >= 1 && port <= 65535 &&
		  strlen(value) <= CONF_VALUE_MAX && !strpbrk(value, " \t/@") &&
		  (v6 ? colon[-1] == ']' && colon - value > 2 : strchr(value, ':') == colon);
	if (ok)
		set_string(field, value);
	else
		fail(ps, ps->line, "%s: `%s' is no address: write host:port or [IPv6]:port, port 1 to 65535", o->name, value);
}

/* Adds VALUE's networks to the export's. */
static void set_nets(struct parser *ps, const struct conf_option *o, struct conf_export *e, const char *value)
{
	char word[CONF_NET_TEXT], right[CONF_NET_TEXT];
	struct conf_net n;

	for (const char *p = value; *(p += strspn(p, ", \t")); p += strcspn(p, ", \t")) {
		int len = snprintf(word, sizeof word, "%.*s", (int)strcspn(p, ", \t"), p);
		int err = (size_t)len < sizeof word ? conf_parse_net(word, &n) : -EINVAL;
		if (err == -EDOM) {
			conf_format_net(&n, right);
			fail(ps, ps->line, "%s: `%s' has bits set behind the prefix: write %s for the network, or leave the prefix out for one address",
			     o->name, word, right);
		} else if (err) {
			fail(ps, ps->line, "%s: `%s' is no network: write addresses such as 192.0.2.7, 10.0.0.0/24 or 2001:db8::/32, or *", o->name, word);
		} else if (e->nnets == CONF_NETS_MAX) {
			fail(ps, ps->line, "%s: more than %d networks: combine some", o->name, CONF_NETS_MAX);
		} else {
			e->nets[e->nnets++] = n;
			continue;
		}
		return;
	}
}

static void set_choice(struct parser *ps, const struct conf_option *o, int *field, const char *value)
{
	char list[128] = "";

	for (int i = 0; o->choices[i]; i++) {
		if (!strcmp(o->choices[i], value)) {
			*field = i;
			return;
		}
		size_t len = strlen(list);
		snprintf(list + len, sizeof list - len, "%s%s", i ? ", " : "", o->choices[i]);
	}
	fail(ps, ps->line, "%s: `%s' is not possible: choose one of %s", o->name, value, list);
}

void conf_format_number(const struct conf_option *o, uint64_t v, char out[32])
{
	static const struct unit sizes[] = { { "TiB", 1024 * GIB }, { "GiB", GIB }, { "MiB", MIB }, { "KiB", KIB } };
	const char *unit = "";

	if (o->type == CONF_T_SIZE)
		for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
			if (v >= sizes[i].factor && v % sizes[i].factor == 0) {
				unit = sizes[i].name;
				v /= sizes[i].factor;
				break;
			}
	if (o->type == CONF_T_DURATION) {
		unit = v % 1000 || !v ? "ms" : "s";
		v = v % 1000 ? v : v / 1000;
	}
	snprintf(out, 32, "%llu%s", (unsigned long long)v, unit);
}

static const struct unit plain_units[] = { { "", 1 } };

static void set_number(struct parser *ps, const struct conf_option *o, void *field, const char *value)
{
	uint64_t v = 0;
	char min[32], max[32];
	int err = o->type == CONF_T_DURATION ? conf_parse_duration(value, &v) :
		  o->type == CONF_T_SIZE ? conf_parse_size(value, &v) : parse_units(value, plain_units, 1, &v);

	if (err == -EINVAL) {
		fail(ps, ps->line, "%s: `%s' is no %s: write %s", o->name, value, conf_type_name(o->type),
		     o->type == CONF_T_DURATION ? "a whole number and ms, s, m or h" :
		     o->type == CONF_T_SIZE ? "a whole number and KiB, MiB, GiB or TiB" : "a whole number");
		return;
	}
	if (err || v < o->min || v > o->max) {
		conf_format_number(o, o->min, min);
		conf_format_number(o, o->max, max);
		fail(ps, ps->line, "%s: `%s' is out of range: %s to %s are possible", o->name, value, min, max);
		return;
	}
	if (o->type == CONF_T_NUMBER)
		*(unsigned *)field = (unsigned)v;
	else
		*(uint64_t *)field = v;
}

static void set_services(struct parser *ps, const struct conf_option *o, char *field, const char *value)
{
	struct service_address all[SERVICE_MAX];
	char why[256];
	unsigned n;

	field[0] = 0;
	if (!strcmp(value, "none"))
		return;
	if (strlen(value) > CONF_VALUE_MAX)
		fail(ps, ps->line, "%s: more than %d bytes", o->name, CONF_VALUE_MAX);
	else if (service_parse(value, all, &n, why, sizeof why))
		fail(ps, ps->line, "%s: %s", o->name, why);
	else
		set_string(field, value);
}

/* BASE: the struct that O's offset counts from. */
static void set_option(struct parser *ps, const struct conf_option *o, void *base, const char *value)
{
	void *field = (char *)base + o->offset;

	if (!*value) {
		fail(ps, ps->line, "%s: no value: write `%s = ...', or leave the line out", o->name, o->name);
		return;
	}
	switch (o->type) {
	case CONF_T_NAME: set_name(ps, o, field, value); break;
	case CONF_T_PATH:
	case CONF_T_PATH_OR_NONE: set_path(ps, o, field, value); break;
	case CONF_T_ADDRESS:
	case CONF_T_ADDRESS_OR_NONE: set_address(ps, o, field, value); break;
	case CONF_T_NETS: set_nets(ps, o, base, value); break;
	case CONF_T_SERVICES: set_services(ps, o, field, value); break;
	case CONF_T_CHOICE: set_choice(ps, o, field, value); break;
	case CONF_T_DURATION:
	case CONF_T_SIZE:
	case CONF_T_NUMBER: set_number(ps, o, field, value); break;
	}
}

/* ---- lines ---- */

static int find_option(const char *section, const char *name)
{
	for (size_t i = 0; i < ARRAY_LEN(options); i++)
		if (!strcmp(options[i].section, section) && !strcmp(options[i].name, name))
			return (int)i;
	return -1;
}

/* libinih's callback: 1 = fine, 0 = error. */
static int on_option(void *arg, const char *section, const char *name, const char *value)
{
	struct parser *ps = arg;
	const struct section *at = &ps->section;

	(void)section;		/* cut at 49 bytes; the reader has seen all of it */
	if (ps->err_line)
		return 0;
	if (!at->kind) {
		fail(ps, ps->line, "%s: stands before the first section: begin the file with [volume]", name);
		return 0;
	}
	int i = find_option(at->kind, name);
	if (i < 0) {
		fail(ps, ps->line, "%s: no such option in [%s]: see tandemfs.conf(5)", name, at->kind);
		return 0;
	}
	if (*at->seen & BIT(i) && options[i].type != CONF_T_NETS) {
		fail(ps, ps->line, "%s: given twice: keep one of the two lines", name);
		return 0;
	}
	*at->seen |= BIT(i);
	set_option(ps, &options[i], at->base, value);
	return !ps->err_line;
}

static void begin_node(struct parser *ps, const char *name)
{
	if (!conf_name_ok(name)) {
		fail(ps, ps->line, "[node %.40s]: not a node's name: use 1 to %d letters, digits, '.', '_' or '-'", name, CONF_NAME_MAX);
		return;
	}
	for (unsigned i = 0; i < ps->nnodes; i++)
		if (!strcmp(ps->nodes[i].node.name, name)) {
			fail(ps, ps->line, "[node %s]: second section of this name, the first is in line %d: keep one", name,
			     ps->nodes[i].line);
			return;
		}
	if (ps->nnodes == CONF_NODE_MAX) {
		fail(ps, ps->line, "[node %s]: more than %d nodes: remove one", name, CONF_NODE_MAX);
		return;
	}
	ps->nodes[ps->nnodes].line = ps->line;
	snprintf(ps->nodes[ps->nnodes].node.name, CONF_NAME_MAX + 1, "%s", name);
	ps->section = (struct section){ "node", &ps->nodes[ps->nnodes].node, &ps->nodes[ps->nnodes].seen };
	ps->nnodes++;
}

static void begin_export(struct parser *ps, const char *name)
{
	struct volume_conf *c = ps->out;

	if (!conf_name_ok(name)) {
		fail(ps, ps->line, "[export %.40s]: not an export's name: use 1 to %d letters, digits, '.', '_' or '-'; its directory is said by `path ='", name,
		     CONF_NAME_MAX);
		return;
	}
	for (unsigned i = 0; i < c->nexports; i++)
		if (!strcmp(c->exports[i].name, name)) {
			fail(ps, ps->line, "[export %s]: second section of this name, the first is in line %d: keep one", name, ps->exports[i].line);
			return;
		}
	if (c->nexports == CONF_EXPORTS_MAX) {
		fail(ps, ps->line, "[export %s]: more than %d exports: remove one", name, CONF_EXPORTS_MAX);
		return;
	}
	unsigned i = c->nexports++;
	ps->exports[i].line = ps->line;
	snprintf(c->exports[i].name, sizeof c->exports[i].name, "%s", name);
	ps->section = (struct section){ "export", &c->exports[i], &ps->exports[i].seen };
}

/* [volume] or [nfs]: once. */
static void begin_single(struct parser *ps, const char *kind, int *line)
{
	if (*line)
		fail(ps, ps->line, "[%s]: second section of this name, the first is in line %d: keep one", kind, *line);
	*line = ps->line;
	ps->section = (struct section){ kind, ps->out, &ps->seen };
}

/* LINE begins with '['. */
static void begin_section(struct parser *ps, const char *line)
{
	char title[64];
	size_t len = strcspn(line + 1, "]");

	if (!line[1 + len])
		return;			/* libinih will complain */
	if (len >= sizeof title) {
		fail(ps, ps->line, "section's name is longer than %zu bytes: see tandemfs.conf(5)", sizeof title - 1);
		return;
	}
	memcpy(title, line + 1, len);
	title[len] = 0;
	if (!strcmp(title, "volume"))
		begin_single(ps, "volume", &ps->volume_line);
	else if (!strcmp(title, "nfs"))
		begin_single(ps, "nfs", &ps->nfs_line);
	else if (!strncmp(title, "node ", 5))
		begin_node(ps, title + 5 + strspn(title + 5, " \t"));
	else if (!strncmp(title, "export ", 7))
		begin_export(ps, title + 7 + strspn(title + 7, " \t"));
	else
		fail(ps, ps->line, "[%s]: no such section: there are [volume], [node NAME], [nfs] and [export NAME]", title);
}

/* libinih's reader, like fgets. */
static char *read_line(char *buf, int size, void *arg)
{
	struct parser *ps = arg;

	if (ps->p == ps->end || size < 2)
		return NULL;
	const char *nl = memchr(ps->p, '\n', (size_t)(ps->end - ps->p));
	const char *stop = nl ? nl : ps->end;
	const char *p = ps->p;
	ps->p = nl ? nl + 1 : ps->end;
	ps->line++;
	while (p < stop && (*p == ' ' || *p == '\t'))
		p++;
	size_t len = (size_t)(stop - p);
	if (len > (size_t)size - 2) {
		fail(ps, ps->line, "line of %zu bytes: at most %d are possible", len, size - 2);
		len = 0;
	}
	if (memchr(p, 0, len)) {
		fail(ps, ps->line, "the line has a NUL byte in it: remove it");
		len = 0;
	}
	memcpy(buf, p, len);
	buf[len] = '\n';
	buf[len + 1] = 0;
	if (buf[0] == '[' && !ps->err_line)
		begin_section(ps, buf);
	return buf;
}

/* ---- the whole ---- */

static bool is_option(const struct conf_option *o, const char *section, size_t offset)
{
	return o->offset == offset && !strcmp(o->section, section);
}

static void default_of(const struct conf_option *o, const char *volume, char out[CONF_VALUE_MAX + 1])
{
	const char *at = strstr(o->dflt, "NAME");

	if (at)
		snprintf(out, CONF_VALUE_MAX + 1, "%.*s%s%s", (int)(at - o->dflt), o->dflt, volume, at + 4);
	else
		snprintf(out, CONF_VALUE_MAX + 1, "%s", o->dflt);
}

/* Fills what a section left out; what has no fixed default is left to finish(). */
static void apply_section_defaults(struct parser *ps, const struct section *at, int line, const char *title)
{
	char value[CONF_VALUE_MAX + 1];

	for (size_t i = 0; i < ARRAY_LEN(options); i++) {
		const struct conf_option *o = &options[i];
		if (strcmp(o->section, at->kind) || *at->seen & BIT(i))
			continue;
		if (!o->dflt) {
			fail(ps, line, "[%s]: %s is missing: add `%s = ...'", title, o->name, o->name);
			return;
		}
		if (!*o->dflt || is_option(o, "volume", V(node)) || is_option(o, "volume", V(mount_point)) || is_option(o, "export", E(id)))
			continue;
		default_of(o, ps->out->name, value);
		set_option(ps, o, at->base, value);
	}
}

static void apply_defaults(struct parser *ps)
{
	struct volume_conf *c = ps->out;
	char title[CONF_NAME_MAX + 10];

	apply_section_defaults(ps, &(struct section){ "volume", c, &ps->seen }, ps->volume_line, "volume");
	apply_section_defaults(ps, &(struct section){ "nfs", c, &ps->seen }, ps->nfs_line, "nfs");
	for (unsigned i = 0; i < c->nexports && !ps->err_line; i++) {
		snprintf(title, sizeof title, "export %s", c->exports[i].name);
		apply_section_defaults(ps, &(struct section){ "export", &c->exports[i], &ps->exports[i].seen }, ps->exports[i].line, title);
	}
	if (!c->mount_point[0])
		set_string(c->mount_point, c->backing);
}

static void check_nodes(struct parser *ps)
{
	struct volume_conf *c = ps->out;

	for (unsigned i = 0; i < ps->nnodes; i++) {
		const struct conf_node *n = &ps->nodes[i].node;
		if (!n->number) {
			fail(ps, ps->nodes[i].line, "[node %s]: number is missing: add `number = ...' (1 to %d, unique)", n->name, CONF_NODE_MAX);
			return;
		}
		if (c->nodes[n->number].number) {
			fail(ps, ps->nodes[i].line, "[node %s]: number %u belongs to node %s already: choose another", n->name, n->number,
			     c->nodes[n->number].name);
			return;
		}
		if (!n->address[0] && ps->nnodes > 1) {
			fail(ps, ps->nodes[i].line, "[node %s]: address is missing: add `address = host:port'", n->name);
			return;
		}
		for (unsigned j = 1; j <= CONF_NODE_MAX; j++)
			if (n->address[0] && !strcmp(c->nodes[j].address, n->address))
				fail(ps, ps->nodes[i].line, "[node %s]: address %s belongs to node %s already: choose another", n->name,
				     n->address, c->nodes[j].name);
		c->nodes[n->number] = *n;
	}
	c->npeers = ps->nnodes ? ps->nnodes - 1 : 0;
}

/* Which node are we? */
static void check_self(struct parser *ps, const char *self, const char *host)
{
	struct volume_conf *c = ps->out;
	const char *why = self ? "TANDEMFS_NODE" : c->node[0] ? "node" : "this host's name";
	const char *name = self ? self : c->node[0] ? c->node : host ? host : "";

	const struct conf_node *n = conf_node_by_name(c, name);
	if (!ps->nnodes)
		fail(ps, 0, "no [node NAME] section: add one for each node, this one too");
	else if (!n)
		fail(ps, 0, "%s is `%.64s', and there is no [node %.64s]: set `node =' in [volume] to the name of one of the sections", why, name,
		     name);
	else {
		snprintf(c->node, sizeof c->node, "%s", n->name);
		c->self = n->number;
	}
}

/* Is PATH inside directory DIR, or DIR itself? */
static bool inside(const char *path, const char *dir)
{
	size_t len = strlen(dir);
	return !strncmp(path, dir, len) && (!path[len] || path[len] == '/' || !strcmp(dir, "/"));
}

static void check_together(struct parser *ps)
{
	struct volume_conf *c = ps->out;

	if (c->npeers && !(ps->seen & BIT(find_option("volume", "fence_peer"))))
		fail(ps, ps->volume_line, "[volume]: fence_peer is missing: give a program that can stop or outdate a peer, or `fence_peer = none' "
		     "and take the risk yourself");
	if (c->congestion_timeout_ms < c->peer_timeout_ms)
		fail(ps, ps->volume_line, "[volume]: congestion_timeout is shorter than peer_timeout: make it longer");
	if (inside(c->state_dir, c->backing) || inside(c->state_dir, c->mount_point))
		fail(ps, ps->volume_line, "[volume]: state_dir %s lies inside the volume: choose a directory outside", c->state_dir);
	if (inside(c->control_socket, c->backing) || inside(c->control_socket, c->mount_point))
		fail(ps, ps->volume_line, "[volume]: control_socket lies inside the volume: choose a path outside");
	if (strcmp(c->mount_point, c->backing) && (inside(c->mount_point, c->backing) || inside(c->backing, c->mount_point)))
		fail(ps, ps->volume_line, "[volume]: mount_point and backing lie inside each other: make them equal or separate");
	if (strlen(c->control_socket) >= sizeof ((struct sockaddr_un *)0)->sun_path)
		fail(ps, ps->volume_line, "[volume]: control_socket is longer than the %zu bytes that a socket's path may have: shorten it",
		     sizeof ((struct sockaddr_un *)0)->sun_path - 1);
}

/* An export's number when none is given: 1..65535, from its name (FNV-1a). */
static unsigned export_id(const char *name)
{
	uint32_t h = 2166136261u;

	for (; *name; name++)
		h = (h ^ (unsigned char)*name) * 16777619u;
	h = (h ^ h >> 16) & 0xffff;
	return h ? h : 1;
}

/* Has PATH a component that is empty, `.` or `..`? */
static bool path_wanders(const char *path)
{
	for (const char *p = path; *p; p += strcspn(p, "/")) {
		size_t len = strcspn(++p, "/");
		if (path[1] && (!len || (len <= 2 && !strncmp(p, "..", len))))
			return true;
	}
	return false;
}

static void check_exports(struct parser *ps)
{
	struct volume_conf *c = ps->out;

	for (unsigned i = 0; i < c->nexports; i++) {
		struct conf_export *e = &c->exports[i];
		if (!e->id)
			e->id = export_id(e->name);
		if (!e->nnets)
			fail(ps, ps->exports[i].line, "[export %s]: clients names nobody: give addresses or networks, or * for everybody", e->name);
		if (path_wanders(e->path))
			fail(ps, ps->exports[i].line, "[export %s]: path %s has an empty component, `.' or `..' in it: write it without", e->name, e->path);
		for (unsigned j = 0; j < i; j++) {
			if (!strcmp(c->exports[j].path, e->path))
				fail(ps, ps->exports[i].line, "[export %s]: path %s is exported by [export %s] already: keep one, with the clients of both",
				     e->name, e->path, c->exports[j].name);
			if (c->exports[j].id == e->id)
				fail(ps, ps->exports[i].line, "[export %s]: its id %u is that of [export %s] too: add `id = ...' to one of them", e->name,
				     e->id, c->exports[j].name);
		}
	}
}

const struct conf_node *conf_node_by_name(const struct volume_conf *c, const char *name)
{
	for (unsigned i = 1; i <= CONF_NODE_MAX; i++)
		if (c->nodes[i].number && !strcmp(c->nodes[i].name, name))
			return &c->nodes[i];
	return NULL;
}

static void finish(struct parser *ps, const char *self, const char *host)
{
	if (!ps->volume_line)
		fail(ps, 0, "no [volume] section: see tandemfs.conf(5) and tandemfs.conf.example");
	if (!ps->err_line)
		apply_defaults(ps);
	if (!ps->err_line)
		check_nodes(ps);
	if (!ps->err_line)
		check_self(ps, self, host);
	if (!ps->err_line)
		check_together(ps);
	if (!ps->err_line)
		check_exports(ps);
}

int conf_parse(const char *name, const char *label, const char *text, size_t len, const char *self, const char *host,
	       struct volume_conf *out, char *err, size_t errlen)
{
	assert(errlen > 0 && ARRAY_LEN(options) <= 64);
	memset(out, 0, sizeof *out);
	err[0] = 0;
	auto_free struct parser *ps = calloc(1, sizeof *ps);
	if (!ps) {
		snprintf(err, errlen, "%s: no memory", label);
		return -ENOMEM;
	}
	*ps = (struct parser){ .label = label, .p = text, .end = text + len, .out = out, .err = err, .errlen = errlen };
	if (!conf_name_ok(name))
		fail(ps, 0, "`%.64s' can't be a volume's name: use 1 to %d letters, digits, '.', '_' or '-', beginning with a letter or digit", name,
		     CONF_NAME_MAX);
	snprintf(out->name, sizeof out->name, "%s", name);
	snprintf(out->file, sizeof out->file, "%s", label);
	if (len >= 3 && !memcmp(text, "\xef\xbb\xbf", 3))
		ps->p += 3;		/* a byte order mark */
	int line = ini_parse_stream(read_line, ps, on_option, ps);
	if (line == -2 || line == -1) {
		snprintf(err, errlen, "%s: no memory", label);
		return -ENOMEM;
	}
	if (line > 0 && (!ps->err_line || line < ps->err_line)) {
		ps->err_line = 0;	/* what libinih stumbled over came first */
		fail(ps, line, "the line is neither `name = value' nor `[section]' nor a comment: see tandemfs.conf(5)");
	}
	finish(ps, self, host);
	return ps->err_line ? -EINVAL : 0;
}

/* ---- comparing ---- */

static bool same_value(const struct conf_option *o, const void *a, const void *b)
{
	const char *x = (const char *)a + o->offset, *y = (const char *)b + o->offset;

	switch (o->type) {
	case CONF_T_CHOICE: return *(const int *)(const void *)x == *(const int *)(const void *)y;
	case CONF_T_NUMBER: return *(const unsigned *)(const void *)x == *(const unsigned *)(const void *)y;
	case CONF_T_DURATION:
	case CONF_T_SIZE: return *(const uint64_t *)(const void *)x == *(const uint64_t *)(const void *)y;
	default: return !strcmp(x, y);
	}
}

static bool same_nodes(const struct conf_option *o, const struct volume_conf *a, const struct volume_conf *b)
{
	for (unsigned i = 1; i <= CONF_NODE_MAX; i++)
		if (!same_value(o, &a->nodes[i], &b->nodes[i]))
			return false;
	return true;
}

void conf_diff(const struct volume_conf *a, const struct volume_conf *b, char *out, size_t size)
{
	size_t len = 0;

	out[0] = 0;
	for (size_t i = 0; i < ARRAY_LEN(options) && len < size; i++) {
		const struct conf_option *o = &options[i];
		bool same = !strcmp(o->section, "export") || (!strcmp(o->section, "node") ? same_nodes(o, a, b) : same_value(o, a, b));
		if (!same)
			len += (size_t)snprintf(out + len, size - len, "%s[%s] %s", len ? ", " : "", o->section, o->name);
	}
}

/* ---- the file ---- */

int conf_path(const char *name, char *out, size_t size)
{
	const char *dir = getenv("TANDEMFS_CONF_DIR");
	int n = snprintf(out, size, "%s/%s.conf", dir && *dir ? dir : "/etc/tandemfs", name);

	return n < 0 || (size_t)n >= size ? -ENAMETOOLONG : 0;
}

static int check_hook(const char *what, const char *path, const char *label, char *err, size_t errlen)
{
	struct stat st;

	if (!*path)
		return 0;
	if (stat(path, &st) || !S_ISREG(st.st_mode) || access(path, X_OK)) {
		snprintf(err, errlen, "%s: %s: %s is no executable file: create it, or chmod +x it", label, what, path);
		return -EINVAL;
	}
	return 0;
}

/* Reads all of PATH: at most CONF_FILE_MAX bytes. */
static ssize_t slurp(const char *path, char *buf)
{
	auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	size_t len = 0;

	if (fd < 0 || fcntl(fd, F_SETFL, 0))	/* non-blocking for the open only: a pipe without a writer */
		return -errno;
	while (len <= CONF_FILE_MAX) {
		ssize_t n = read(fd, buf + len, CONF_FILE_MAX + 1 - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : (ssize_t)len;
		len += (size_t)n;
	}
	return -EFBIG;
}

int conf_load(const char *name, const char *file, struct volume_conf *out, char *err, size_t errlen)
{
	char path[CONF_VALUE_MAX + 1], host[CONF_NAME_MAX + 1] = "";

	if (!conf_name_ok(name)) {
		snprintf(err, errlen, "`%.64s' can't be a volume's name: use 1 to %d letters, digits, '.', '_' or '-', beginning with a letter or digit",
			 name, CONF_NAME_MAX);
		return -EINVAL;
	}
	int n = file ? snprintf(path, sizeof path, "%s", file) : 0;
	if (n < 0 || (size_t)n >= sizeof path || (!file && conf_path(name, path, sizeof path))) {
		snprintf(err, errlen, "path of the configuration file is longer than %d bytes: shorten it", CONF_VALUE_MAX);
		return -ENAMETOOLONG;
	}
	auto_free char *text = malloc(CONF_FILE_MAX + 1);
	ssize_t len = text ? slurp(path, text) : -ENOMEM;
	if (len < 0) {
		snprintf(err, errlen, "%s: %s: %s", path, strerror((int)-len),
			 len == -ENOENT ? "copy tandemfs.conf.example there and edit it, or give another file with -c" :
			 len == -EFBIG ? "is this the right file?" : "make it readable, or give another file with -c");
		return (int)len;
	}
	const char *self = getenv("TANDEMFS_NODE");
	gethostname(host, sizeof host - 1);
	host[strcspn(host, ".")] = 0;
	int r = conf_parse(name, path, text, (size_t)len, self && *self ? self : NULL, host, out, err, errlen);
	if (!r)
		r = check_hook("fence_peer", out->fence_peer, path, err, errlen);
	if (!r)
		r = check_hook("state_hook", out->state_hook, path, err, errlen);
	return r;
}
