/*
 * The sub-commands that are one request to the daemon: promote, demote, switchover, resync, reload, umount; and key and check-config, which only read files.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "fs/base/cleanup.h"
#include "fs/base/key.h"
#include "fs/cmd/cmd.h"
#include "fs/cmd/control.h"
#include "fs/cmd/volume.h"

/* How long a change of role may take: draining a full queue to a slow disk, a fence program. */
enum { ROLE_TIMEOUT_MS = 600000 };

/* Who wants to unmount what a killed daemon left is helped; all others must start one. */
static int no_daemon(const char *what, const struct volume_conf *c)
{
	if (strcmp(what, "umount"))
		return cmd_fail("%s: no daemon of volume %s answers at %s: start it with `tandemfs mount %s'", what, c->name, c->control_socket,
				c->name);
	if (!volume_clear_dead_mount(c->mount_point))
		return cmd_fail("umount: no daemon of volume %s answers at %s: nothing to unmount", c->name, c->control_socket);
	printf("%s: its daemon had died: the mount that it left at %s is removed\n", c->name, c->mount_point);
	return EXIT_OK;
}

/* Sends REQUEST (stolen) and prints the response. */
static int request(const struct cmd_line *l, const struct volume_conf *c, json_t *req, bool wait_end)
{
	json_t *res = NULL;
	const char *what = l->cmd->name;

	int r = control_call(c->control_socket, req, ROLE_TIMEOUT_MS, wait_end, &res);
	if (r == -ENOENT || r == -ECONNREFUSED)
		return no_daemon(what, c);
	if (r == -ECONNRESET)
		return cmd_fail("%s: the daemon ended before it answered: see its log", what);
	if (r == -EACCES || r == -EPERM)
		return cmd_fail("%s: %s: %s: run this as root", what, c->control_socket, strerror(-r));
	if (r)
		return cmd_fail("%s: %s: %s: is the daemon alive? see its log", what, c->control_socket, strerror(-r));
	const char *message = json_string_value(json_object_get(res, "message"));
	const char *error = json_string_value(json_object_get(res, "error"));
	const char *hint = json_string_value(json_object_get(res, "hint"));
	if (json_is_true(json_object_get(res, "ok"))) {
		if (message)
			puts(message);
		r = EXIT_OK;
	} else {
		r = cmd_fail("%s: %s%s%s", what, error ? error : "the daemon refused", hint ? ": " : "", hint ? hint : "");
	}
	json_decref(res);
	return r;
}

int cmd_promote(const struct cmd_line *l, const struct volume_conf *c)
{
	return request(l, c, json_pack("{s:s,s:b,s:b}", "cmd", "promote", "fenced", cmd_option(l, "fenced") != NULL, "force",
				       cmd_option(l, "force") != NULL), false);
}

int cmd_demote(const struct cmd_line *l, const struct volume_conf *c)
{
	return request(l, c, json_pack("{s:s,s:b}", "cmd", "demote", "force", cmd_option(l, "force") != NULL), false);
}

int cmd_switchover(const struct cmd_line *l, const struct volume_conf *c)
{
	if (l->argc > 1 && !conf_node_by_name(c, l->argv[1]))
		return cmd_fail("switchover: there is no [node %s] in %s", l->argv[1], c->file);
	json_t *req = json_pack("{s:s}", "cmd", "switchover");
	if (l->argc > 1)
		json_object_set_new(req, "node", json_string(l->argv[1]));
	return request(l, c, req, false);
}

int cmd_resync(const struct cmd_line *l, const struct volume_conf *c)
{
	return request(l, c, json_pack("{s:s,s:b}", "cmd", "resync", "discard_local", cmd_option(l, "discard-local") != NULL), false);
}

int cmd_umount(const struct cmd_line *l, const struct volume_conf *c)
{
	return request(l, c, json_pack("{s:s,s:b}", "cmd", "umount", "force", cmd_option(l, "force") != NULL), true);
}

/* The daemon reads the file that this command has read, wherever the daemon was started. */
int cmd_reload(const struct cmd_line *l, const struct volume_conf *c)
{
	auto_free char *file = realpath(c->file, NULL);

	if (!file)
		return cmd_fail("reload: %s: %s", c->file, strerror(errno));
	return request(l, c, json_pack("{s:s,s:s}", "cmd", "reload", "file", file), false);
}

int cmd_key(const struct cmd_line *l, const struct volume_conf *c)
{
	unsigned char key[KEY_LEN];
	char err[CONF_ERR_MAX], print[KEY_FINGERPRINT_LEN];

	if (cmd_option(l, "generate") && key_generate(c->key_file, err, sizeof err))
		return cmd_fail("key: %s", err);
	if (key_read(c->key_file, key, err, sizeof err))
		return cmd_fail("key: %s", err);
	key_fingerprint(key, print);
	key_wipe(key);
	printf("%s %s\n", print, c->key_file);
	return EXIT_OK;
}

int cmd_check_config(const struct cmd_line *l, const struct volume_conf *c)
{
	unsigned char key[KEY_LEN];
	char err[CONF_ERR_MAX], print[KEY_FINGERPRINT_LEN];

	(void)l;
	if (c->npeers && c->security == CONF_SECURITY_TLS) {
		if (key_read(c->key_file, key, err, sizeof err))
			return cmd_fail("check-config: %s", err);
		key_fingerprint(key, print);
		key_wipe(key);
		printf("key %s\n", print);
	}
	if (c->nfs_listen[0] && !c->nexports)
		printf("nothing is exported: NFS clients can't mount anything without an [export NAME] section\n");
	printf("%s: volume %s, node %s (number %u) of %u: fine\n", c->file, c->name, c->node, c->self, c->npeers + 1);
	return EXIT_OK;
}
