/*
 * Configuration of a volume: one INI file, /etc/tandemfs/NAME.conf, the same on every node if one likes
 * (a node recognises itself by TANDEMFS_NODE, `node =`, or the host's name).
 *
 * There is one table of options, conf_options(): names, types, defaults, ranges and help. The parser, `tandemfs help
 * config`, tandemfs.conf(5) and its check all come from it.
 *
 * A struct volume_conf owns nothing: strings are stored in it, it may be copied and needs no freeing.
 * Errors are one line `FILE:LINE: what is wrong: what to do`.
 */
#ifndef FS_BASE_CONF_H
#define FS_BASE_CONF_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
	CONF_NAME_MAX = 31,		/* bytes of a volume's or node's name: letters, digits, '.', '_', '-' */
	CONF_VALUE_MAX = 255,
	CONF_NODE_MAX = 15,		/* node numbers are 1..CONF_NODE_MAX */
	CONF_FILE_MAX = 64 << 10,	/* bytes of a configuration file */
	CONF_ERR_MAX = 512,
	CONF_EXPORTS_MAX = 32,
	CONF_NETS_MAX = 16,		/* networks of one export */
	CONF_NET_TEXT = 56,		/* of a network as text, with its NUL */
};

enum conf_security { CONF_SECURITY_TLS, CONF_SECURITY_NONE };
/* Same order as enum durability of mirror/interpose.h. */
enum conf_durability { CONF_ASYNC, CONF_COMMIT, CONF_SYNC };
enum conf_mount_as { CONF_MOUNT_FUSE, CONF_MOUNT_FUSEBLK };
enum conf_start_as { CONF_START_STANDBY, CONF_START_LAST };

enum conf_rpcbind { CONF_RPCBIND_NO, CONF_RPCBIND_YES, CONF_RPCBIND_AUTO };
enum conf_access { CONF_ACCESS_RO, CONF_ACCESS_RW };
enum conf_squash { CONF_SQUASH_ROOT, CONF_SQUASH_ALL, CONF_SQUASH_NONE };

/* A network, or one address: IPv4 as ::ffff:a.b.c.d. Bits behind the prefix are zero. */
struct conf_net {
	unsigned char addr[16];
	uint8_t prefix;			/* bits, 0..128; of IPv4 96..128; 0 = everybody, IPv4 too */
};

/* An [export NAME]. */
struct conf_export {
	char name[CONF_NAME_MAX + 1];
	unsigned id;			/* 1..65535, unique; in every handle of the export, so it must not change: given, or made from the name */
	char path[CONF_VALUE_MAX + 1];	/* in the volume: "/" is its root; no `.`, `..`, or empty components */
	unsigned nnets;
	struct conf_net nets[CONF_NETS_MAX];	/* who may use it */
	int access;			/* enum conf_access */
	int squash;			/* enum conf_squash */
	unsigned anonuid, anongid;
	int secure;			/* 0, 1: only from ports below 1024 */
};

struct conf_node {
	unsigned number;		/* 0 = no such node */
	char name[CONF_NAME_MAX + 1];
	char address[CONF_VALUE_MAX + 1];	/* host:port or [v6]:port; "" only in a volume of one node */
};

struct volume_conf {
	char name[CONF_NAME_MAX + 1];		/* of the volume */
	char file[CONF_VALUE_MAX + 1];		/* where it was read from */

	/* [volume] */
	char backing[CONF_VALUE_MAX + 1];	/* absolute */
	char mount_point[CONF_VALUE_MAX + 1];
	char state_dir[CONF_VALUE_MAX + 1];
	int mount_as;				/* enum conf_mount_as */
	char node[CONF_NAME_MAX + 1];		/* this node's name */
	char key_file[CONF_VALUE_MAX + 1];
	char control_socket[CONF_VALUE_MAX + 1];
	char fence_peer[CONF_VALUE_MAX + 1];	/* "" = none; only then a person takes the risk */
	char state_hook[CONF_VALUE_MAX + 1];	/* "" = none */
	char service_address[CONF_VALUE_MAX + 1];	/* "" = none; service_parse() takes it */
	int security;				/* enum conf_security */
	int durability;				/* enum conf_durability */
	int start_as;				/* enum conf_start_as */
	int compress;				/* 0, 1 */
	int log_level;				/* enum log_level */
	uint64_t peer_timeout_ms, congestion_timeout_ms, fence_timeout_ms, attr_timeout_ms;
	uint64_t queue_bytes, reserve_bytes;
	unsigned threads;			/* of the FUSE front; 0 = chosen by the number of CPUs */

	/* [nfs] */
	char nfs_listen[CONF_VALUE_MAX + 1];	/* host:port; "" = no NFS server */
	int nfs_rpcbind;			/* enum conf_rpcbind */
	uint64_t nfs_grace_ms;

	/* [export NAME] */
	unsigned nexports;			/* 0 = nobody can mount anything */
	struct conf_export exports[CONF_EXPORTS_MAX];	/* in the file's order */

	/* [node NAME] */
	unsigned self;				/* this node's number, 1..CONF_NODE_MAX */
	unsigned npeers;			/* how many other nodes there are */
	struct conf_node nodes[CONF_NODE_MAX + 1];	/* by number */
};

enum conf_type { CONF_T_NAME, CONF_T_PATH, CONF_T_PATH_OR_NONE, CONF_T_ADDRESS, CONF_T_ADDRESS_OR_NONE, CONF_T_DURATION, CONF_T_SIZE, CONF_T_NUMBER, CONF_T_CHOICE,
		 CONF_T_NETS, CONF_T_SERVICES };

struct conf_option {
	const char *section;		/* "volume", "node", "nfs" or "export" */
	const char *name;
	enum conf_type type;
	size_t offset;			/* in struct volume_conf, struct conf_node, or struct conf_export */
	const char *dflt;		/* as one would write it; NULL = must be given; NAME stands for the volume's name */
	uint64_t min, max;		/* of a number; milliseconds of a duration; bytes of a size */
	const char *const *choices;	/* NULL-terminated; the value is the place in this list */
	const char *help;		/* one sentence */
};
/* The table; *N = how many. */
const struct conf_option *conf_options(size_t *n);
/* A type's word in help texts ("duration", "size", ...). */
const char *conf_type_name(enum conf_type t);

/* V in the notation of option O: "64MiB", "500ms". */
void conf_format_number(const struct conf_option *o, uint64_t v, char out[32]);

/* May NAME name a volume or node? */
bool conf_name_ok(const char *name);
/* Where the configuration of volume NAME is: TANDEMFS_CONF_DIR or /etc/tandemfs, NAME.conf. -ENAMETOOLONG. */
int conf_path(const char *name, char *out, size_t size);
/* Reads FILE (NULL: conf_path) into OUT and checks everything that can be checked without touching anything else than
 * the hooks' existence. 0, or -errno with one line in ERR (CONF_ERR_MAX bytes). */
int conf_load(const char *name, const char *file, struct volume_conf *out, char *err, size_t errlen);
/* The pure part: parses TEXT (LEN bytes); LABEL names it in errors; SELF (may be NULL) overrides `node =`, HOST (may be NULL) is
 * the last resort. 0 or -EINVAL. */
int conf_parse(const char *name, const char *label, const char *text, size_t len, const char *self, const char *host,
	       struct volume_conf *out, char *err, size_t errlen);
/* "500ms", "2s", "10m", "1h" -> milliseconds; "64MiB", "4KiB", "1GiB", "2TiB", "100" -> bytes. 0 or -EINVAL, -ERANGE. */
int conf_parse_duration(const char *s, uint64_t *ms);
int conf_parse_size(const char *s, uint64_t *bytes);
/* Which options differ between A and B, but for exports: "[volume] queue, [nfs] listen" in OUT, cut to SIZE; "" = none. */
void conf_diff(const struct volume_conf *a, const struct volume_conf *b, char *out, size_t size);
/* "10.0.0.0/24", "2001:db8::/32", an address, or `*` -> a network. 0; -EINVAL: none; -EDOM: bits behind the prefix are set. */
int conf_parse_net(const char *s, struct conf_net *out);
void conf_format_net(const struct conf_net *n, char out[CONF_NET_TEXT]);
/* Does ADDR, IPv4 as ::ffff:a.b.c.d, lie in N? */
bool conf_net_has(const struct conf_net *n, const unsigned char addr[16]);
/* The node called NAME, or NULL. */
const struct conf_node *conf_node_by_name(const struct volume_conf *c, const char *name);

#endif
