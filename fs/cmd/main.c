/*
 * The tandemfs command: one table of sub-commands. The parser of command lines (cmdline.c) works from it, and its texts are also what
 * `tandemfs help` prints and what docs/tandemfs.8 is made from (help.c).
 *
 * Exit status: 0, 1 failure (one line on stderr says what and what to do), 2 wrong usage; `status --check` has its own.
 */
#include "fs/cmd/cmd.h"

#include <string.h>

const struct subcmd subcmds[] = {
	{ "init", "[--join PEER] NAME", "Makes the backing directory a volume; an existing tree is adopted, the data stay where they are.", 1, 1,
	  true, cmd_init,
	  { { "join", 'j', "PEER", "Become another node of the volume that node PEER has: its identity, secrets and limits are asked for over the network. "
	      "The backing directory must be empty; the data come with the first mount." } } },
	{ "mount", "[-f] [--fault RULES] NAME", "Mounts the volume and serves it; a node starts as standby unless start_as says otherwise.", 1, 1, true,
	  cmd_mount,
	  { { "foreground", 'f', NULL, "Stay in the foreground and log to stderr." },
	    { "fault", 0, "RULES", "Inject faults into the local file system, for tests." } } },
	{ "umount", "[--force] NAME", "Unmounts the volume and ends its daemon, in order; returns when it is gone.", 1, 1, true, cmd_umount,
	  { { "force", 0, NULL, "Even when files are in use: their users get errors." } } },
	{ "status", "[--json | --check] NAME", "Says how the volume is: role, peers, lag, what is at risk.", 1, 1, true, cmd_status,
	  { { "json", 0, NULL, "Everything, as one JSON object; 64-bit identities are strings." },
	    { "check", 0, NULL, "One line, and an exit status for monitoring: 0 healthy, 1 degraded, 2 critical, 3 unknown." } } },
	{ "promote", "[--fenced] [--force] NAME", "Makes this node the primary; needs a reason (see tandemfs(8), PROMOTION). Prints what it knows.", 1, 1,
	  true, cmd_promote,
	  { { "fenced", 0, NULL, "I have made sure that the old primary is dead and stays dead: don't wait for it, don't call the fence program." },
	    { "force", 0, NULL, "Even when this node is outdated or inconsistent: what only others have is lost." } } },
	{ "demote", "[--force] NAME", "Makes this primary a standby, in order: everything is handed to the level peers first.", 1, 1, true, cmd_demote,
	  { { "force", 0, NULL, "Even when files are open for writing: their writers get EROFS." } } },
	{ "switchover", "NAME [NODE]", "Changes roles while both nodes are alive; run it on any node. NODE becomes primary, by default the one level standby.", 1, 2,
	  true, cmd_switchover, { { 0 } } },
	{ "resync", "[--discard-local] NAME", "Compares this node with the primary again and makes it equal.", 1, 1, true, cmd_resync,
	  { { "discard-local", 0, NULL, "After a split: follow the other node; every version that only this one has is moved to .tandemfs/lost/ first." } } },
	{ "reload", "NAME", "Puts the [export] sections of the configuration in force for NFS clients, without a pause; all else needs a restart.", 1, 1, true,
	  cmd_reload, { { 0 } } },
	{ "key", "[--generate] NAME", "Prints the fingerprint of the volume's transport key, for comparing nodes.", 1, 1, true, cmd_key,
	  { { "generate", 'g', NULL, "Write a new key file, mode 0600; an existing one is never overwritten." } } },
	{ "handle", "NAME PATH | ID | BYTES", "Translates between a path of the volume, its id, and the bytes of its exported handle.", 2, 2, true,
	  cmd_handle, { { 0 } } },
	{ "export", "--knfsd [--root] | --ganesha [--write] NAME", "Prints the configuration with which another NFS server, the kernel's or NFS-Ganesha, exports the mount "
	  "so that its clients survive a failover.", 1, 1, true, cmd_export,
	  { { "knfsd", 0, NULL, "For the kernel's server: exports(5), nfs.conf(5) and a state hook." },
	    { "ganesha", 0, NULL, "For NFS-Ganesha (FSAL_VFS): its configuration and a state hook." },
	    { "root", 0, NULL, "With --knfsd: the first export is NFSv4's root (fsid=0): clients mount server:/." },
	    { "write", 0, NULL, "Install the files instead of printing them, and make the recovery directories on the volume." } } },
	{ "check-config", "NAME", "Reads the configuration and the key and says whether they are right; changes nothing.", 1, 1, true,
	  cmd_check_config, { { 0 } } },
	{ "help", "[COMMAND | config]", "Explains a command, or the options of the configuration file.", 0, 1, false, cmd_help, { { 0 } } },
	{ "version", "", "Prints the version.", 0, 0, false, cmd_version, { { 0 } } },
	{ 0 }
};

int main(int argc, char **argv)
{
	struct cmd_line l = { 0 };
	struct volume_conf conf;
	char err[CONF_ERR_MAX];

	int r = cmdline_parse(subcmds, argc, argv, &l);
	if (r)
		return r;
	if (!l.cmd->volume)
		return l.cmd->fn(&l, NULL);
	if (conf_load(l.argv[0], l.conf_file, &conf, err, sizeof err)) {
		cmd_fail("%s", err);
		return !strcmp(l.cmd->name, "status") && cmd_option(&l, "check") ? (int)HEALTH_UNKNOWN : EXIT_FAILED;
	}
	return l.cmd->fn(&l, &conf);
}
