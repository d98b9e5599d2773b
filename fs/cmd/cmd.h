/*
 * What the files of the tandemfs command share: the sub-commands' table, the daemon's entry point, and what goes over the
 * control socket.
 *
 * Requests are one JSON object with "cmd"; responses have "ok": true, or "ok": false with "error" (what is wrong) and
 * perhaps "hint" (what to do). 64-bit numbers that are identities (ids, LSNs, tags) travel as strings; counters as integers.
 *
 *   {"cmd":"status"}                                   -> {"ok":true, "status": STATUS}
 *   {"cmd":"promote", "fenced":bool, "force":bool}     -> {"ok":true, "message": "what it knew: last contact, LSN, what may be missing"}
 *   {"cmd":"demote", "force":bool}                     -> {"ok":true, "message":...}
 *   {"cmd":"switchover", "node":"beta"}                -> {"ok":true, "message":...}   node: who shall be primary; absent: the one that is level
 *   {"cmd":"resync", "discard_local":bool}             -> {"ok":true, "message":...}
 *   {"cmd":"umount", "force":bool}                     -> {"ok":true}; then the daemon ends and with it the connection, for which the
 *                                                         client waits: stop the control server last
 *   {"cmd":"handle", "id":"18014398509481984"}         -> {"ok":true, "path":"a/b", "type":"file"}   (path is relative to the mount; absent = no name)
 *
 *   {"cmd":"reload", "file":"/etc/tandemfs/home.conf"} -> {"ok":true, "message":...}; "file" may be absent
 *
 * STATUS = {
 *   "volume":"home", "uuid":"…", "node":"alpha", "number":1, "role":"primary"|"standby",
 *   "flags":["outdated","inconsistent","unknown","new","handed_over","tail","level","frozen"],    those that are set
 *   "epoch":{"reign":"3","node":1,"tag":"1f2e…"}, "lsn":"4711",
 *   "sync_set":["alpha","beta"], "durability":"commit", "security":"tls",
 *   "risks":["fence_peer = none: …"],
 *   "doubt":"beta",                                                               only after a switchover was cut off: beta may have accepted the role
 *   "service":[{"address":"10.0.0.100/24 dev eth0","held":true,"trouble":"in use elsewhere, by …"}],     service addresses: is it here? why not, or who else claims it
 *   "mount":{"point":"/srv/home","open_writers":3,"refused_writes":0},       refused: came when the role had gone
 *   "nfs":{"listen":"[::]:2049","exports":2,                                   listen: "" = no NFS server, and nothing but these two
 *          "port":2049,"clients":3,"connections":3,"mounts":2,"calls":123,"files":4,"locks":0,"refused_handles":0,
 *          "replay_hits":0,"replay_entries":17,"state_complete":true},           clients: of all nodes; files: kept open
 *   "queue":{"bytes":0,"max":67108864}, "ops":123, "bytes":456,
 *   "handles":{"count":100,"rebuilding":false}, "pid":4711, "uptime_ms":1,
 *   "peers":[{"name":"beta","number":2,"address":"10.0.0.2:7400","connected":true, "primary":false, "in_sync_set":true,
 *             "state":"down"|"connecting"|"connected"|"streaming"|"resync"|"level"|"outdated"|"refused", "reason":"…", "failure":"…",      failure: why it can't be dialled
 *             "lag_ops":0,"lag_bytes":0,"lag_ms":0,"last_heard_ms":100,"rtt_us":50,
 *             "resync":{"objects":1,"bytes_checked":2,"bytes_sent":3},             while state is resync
 *             "refused":0,"malformed":0}],
 *   "strangers":{"refused":0,"malformed":0}                                  connections that belong to no peer
 * }
 * last_heard_ms: how long ago; -1 = never. Health: see status_health().
 */
#ifndef FS_CMD_CMD_H
#define FS_CMD_CMD_H

#include <jansson.h>
#include <stdbool.h>
#include <stdio.h>

#include "fs/base/conf.h"

enum { EXIT_OK = 0, EXIT_FAILED = 1, EXIT_USAGE = 2 };
/* Exit status of `status --check`, as monitoring plugins want it. */
enum health { HEALTH_OK, HEALTH_WARNING, HEALTH_CRITICAL, HEALTH_UNKNOWN };

/* ---- the daemon (daemon.c) ---- */

struct mount_args {
	bool foreground;
	const char *fault;		/* rules for the fault layer, or NULL */
	int ready_fd;			/* mount_ready() writes to it; -1 = nobody waits */
};
/* Mounts and serves volume C until it is unmounted or a signal ends it. 0 or -errno; on an error one line was logged. When it is called
 * in the background, the process is a session leader already, its working directory is /, and stderr still is the caller's. */
int daemon_run(const struct volume_conf *c, const struct mount_args *a);
/* The volume is mounted and the control socket answers: tells whoever waits for that (the parent process, systemd) and, in the background,
 * moves logging to syslog and lets go of the terminal. Once. */
void mount_ready(const struct volume_conf *c, const struct mount_args *a);

/* ---- sub-commands ---- */

enum { OPTIONS_MAX = 8 };

/* An option of a sub-command. */
struct cmd_option {
	const char *name;		/* long name without "--" */
	char letter;			/* short form, or 0 */
	const char *value;		/* what its value is called, or NULL: a flag */
	const char *help;
};
/* A command line, taken apart. */
struct cmd_line {
	const struct subcmd *cmd;
	const char *conf_file;		/* -c FILE, or NULL */
	const char *option[OPTIONS_MAX];	/* by place in cmd->options: value, "" for a flag that was given, NULL = not given */
	int argc;			/* what is left */
	char **argv;
};
struct subcmd {
	const char *name, *synopsis, *help;
	int min_args, max_args;
	bool volume;			/* the first argument is a volume's name and its configuration is wanted */
	int (*fn)(const struct cmd_line *l, const struct volume_conf *c);	/* exit status; C is NULL unless VOLUME */
	struct cmd_option options[OPTIONS_MAX];		/* ends with a NULL name */
};
extern const struct subcmd subcmds[];	/* ends with a NULL name */
/* Takes ARGV apart (it is reordered; L borrows from it). 0, or EXIT_USAGE after one line on stderr. `COMMAND --help` becomes `help
 * COMMAND`. */
int cmdline_parse(const struct subcmd *table, int argc, char **argv, struct cmd_line *l);
/* Was option NAME given? Its value, "" for a flag, else NULL. NAME must be in the table. */
const char *cmd_option(const struct cmd_line *l, const char *name);

int cmd_init(const struct cmd_line *l, const struct volume_conf *c);
int cmd_mount(const struct cmd_line *l, const struct volume_conf *c);
int cmd_umount(const struct cmd_line *l, const struct volume_conf *c);
int cmd_status(const struct cmd_line *l, const struct volume_conf *c);
int cmd_promote(const struct cmd_line *l, const struct volume_conf *c);
int cmd_demote(const struct cmd_line *l, const struct volume_conf *c);
int cmd_switchover(const struct cmd_line *l, const struct volume_conf *c);
int cmd_resync(const struct cmd_line *l, const struct volume_conf *c);
int cmd_reload(const struct cmd_line *l, const struct volume_conf *c);
int cmd_key(const struct cmd_line *l, const struct volume_conf *c);
int cmd_handle(const struct cmd_line *l, const struct volume_conf *c);
int cmd_export(const struct cmd_line *l, const struct volume_conf *c);
int cmd_check_config(const struct cmd_line *l, const struct volume_conf *c);
int cmd_help(const struct cmd_line *l, const struct volume_conf *c);
int cmd_version(const struct cmd_line *l, const struct volume_conf *c);

/* `tandemfs: ...` on stderr; returns EXIT_FAILED. */
int cmd_fail(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

/* ---- status (status.c) ---- */

/* What STATUS means for monitoring; WHY gets one line. */
enum health status_health(const json_t *status, char *why, size_t size);
/* The human form; the first line is the verdict. */
void status_print(const json_t *status, FILE *out);

#endif
