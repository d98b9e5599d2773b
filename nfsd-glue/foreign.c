/*
 * The texts are plain printf: they are short, and whoever reads this should see what the servers will read.
 */
#include "nfsd-glue/foreign.h"

#include <errno.h>
#include <string.h>
#include <xxhash.h>

static const char *server_name(const struct foreign *f) { return f->server == FOREIGN_KNFSD ? "--knfsd" : "--ganesha"; }

/* An export's directory below the mount, without a slash at its end. */
static void export_path(const struct foreign *f, const struct conf_export *e, char *out, size_t size)
{
	snprintf(out, size, "%s%s", f->conf->mount_point, strcmp(e->path, "/") ? e->path : "");
}

static void print_head(const struct foreign *f, FILE *out)
{
	fprintf(out, "# Volume %s: made by `tandemfs export %s'; the same on every node. Make it again when the configuration changes.\n", f->conf->name,
		server_name(f));
}

void foreign_fsid(const struct foreign *f, const struct conf_export *e, unsigned char out[UUID_LEN])
{
	unsigned char text[UUID_LEN + CONF_VALUE_MAX + 1];
	size_t len = strlen(e->path);

	memcpy(out, f->uuid, UUID_LEN);
	if (!strcmp(e->path, "/"))
		return;
	memcpy(text, f->uuid, UUID_LEN);
	memcpy(text + UUID_LEN, e->path, len);
	XXH128_canonicalFromHash((XXH128_canonical_t *)out, XXH3_128bits(text, UUID_LEN + len));
}

/* ---- checks ---- */

/* Words in these files are not quoted. */
static bool plain(const char *path)
{
	return !strpbrk(path, " \t\"'\\#;(){}$`*?&|<>");
}

int foreign_check(const struct foreign *f, char *why, size_t size)
{
	const struct volume_conf *c = f->conf;

	if (c->durability != CONF_SYNC)
		snprintf(why, size, "durability is not `sync': this server doesn't say what must be durable, and clients would lose acknowledged changes at a failover: "
			 "set `durability = sync'");
	else if (f->server == FOREIGN_GANESHA && c->mount_as != CONF_MOUNT_FUSEBLK)
		snprintf(why, size, "mount_as is not `fuseblk': the handles would be stale after a failover: set `mount_as = fuseblk' on every node and mount again");
	else if (!c->nexports)
		snprintf(why, size, "nothing is exported: add an [export NAME] section with `path' and `clients'");
	else if (c->nfs_listen[0])
		snprintf(why, size, "the volume's own NFS server is on: remove `listen' from [nfs]: only one can have the port, and their locks don't know of each other");
	else if (!plain(c->mount_point))
		snprintf(why, size, "mount_point %s has blanks or signs that mean something in the server's files: choose a plainer path", c->mount_point);
	else
		why[0] = '\0';
	for (unsigned i = 0; !why[0] && i < c->nexports; i++)
		if (!plain(c->exports[i].path))
			snprintf(why, size, "[export %s]: path %s has blanks or signs that mean something in the server's files", c->exports[i].name, c->exports[i].path);
	return why[0] ? -EINVAL : 0;
}

/* ---- the kernel's server ---- */

static void print_uuid(const unsigned char u[UUID_LEN], FILE *out)
{
	for (unsigned i = 0; i < UUID_LEN; i++)
		fprintf(out, "%s%02x", i == 4 || i == 6 || i == 8 || i == 10 ? "-" : "", u[i]);
}

/* One network as exports(5) wants it. */
static void print_net(const struct conf_net *n, FILE *out)
{
	char text[CONF_NET_TEXT];

	conf_format_net(n, text);
	fputs(n->prefix ? text : "*", out);
}

static void print_knfsd_export(const struct foreign *f, unsigned i, FILE *out)
{
	static const char *const squash[] = { [CONF_SQUASH_ROOT] = "root_squash", [CONF_SQUASH_ALL] = "all_squash", [CONF_SQUASH_NONE] = "no_root_squash" };
	const struct conf_export *e = &f->conf->exports[i];
	unsigned char fsid[UUID_LEN];
	char path[2 * CONF_VALUE_MAX + 2];

	export_path(f, e, path, sizeof path);
	foreign_fsid(f, e, fsid);
	for (unsigned n = 0; n < e->nnets; n++) {
		fprintf(out, "%s ", path);
		print_net(&e->nets[n], out);
		fprintf(out, "(%s,sync,no_subtree_check,%s,%s,anonuid=%u,anongid=%u,fsid=", e->access == CONF_ACCESS_RW ? "rw" : "ro", squash[e->squash],
			e->secure ? "secure" : "insecure", e->anonuid, e->anongid);
		if (f->v4root && !i)
			fputc('0', out);
		else
			print_uuid(fsid, out);
		fputs(")\n", out);
	}
}

static void print_knfsd_exports(const struct foreign *f, FILE *out)
{
	print_head(f, out);
	for (unsigned i = 0; i < f->conf->nexports; i++)
		print_knfsd_export(f, i, out);
}

static void print_knfsd_conf(const struct foreign *f, FILE *out)
{
	const char *m = f->conf->mount_point;

	print_head(f, out);
	fprintf(out, "[nfsd]\nlease-time = 15\ngrace-time = 15\n\n[nfsdcld]\nstoragedir = %s/%s/nfsdcld\n\n[nfsdcltrack]\nstoragedir = %s/%s/nfsdcltrack\n\n"
		"[statd]\nstate-directory-path = %s/%s/statd\n", m, FOREIGN_DIR, m, FOREIGN_DIR, m, FOREIGN_DIR);
}

static const char *const knfsd_dirs[] = {
	FOREIGN_DIR, FOREIGN_DIR "/nfsdcld", FOREIGN_DIR "/nfsdcltrack", FOREIGN_DIR "/v4recovery", FOREIGN_DIR "/statd", FOREIGN_DIR "/statd/sm",
	FOREIGN_DIR "/statd/sm.bak", NULL
};

/* ---- NFS-Ganesha ---- */

static void print_ganesha_clients(const struct conf_export *e, FILE *out)
{
	fputs("\tCLIENT { Clients = ", out);
	for (unsigned n = 0; n < e->nnets; n++) {
		fputs(n ? ", " : "", out);
		print_net(&e->nets[n], out);
	}
	fprintf(out, "; Access_Type = %s; }\n", e->access == CONF_ACCESS_RW ? "RW" : "RO");
}

static void print_ganesha_export(const struct foreign *f, const struct conf_export *e, FILE *out)
{
	static const char *const squash[] = { [CONF_SQUASH_ROOT] = "Root_Squash", [CONF_SQUASH_ALL] = "All_Squash", [CONF_SQUASH_NONE] = "No_Root_Squash" };
	char path[2 * CONF_VALUE_MAX + 2];

	export_path(f, e, path, sizeof path);
	fprintf(out, "\nEXPORT {\n\tExport_Id = %u;\n\tFilesystem_id = %u.%u;\n\tPath = %s;\n\tPseudo = /%s;\n\tAccess_Type = None;\n\tSquash = %s;\n\tAnonymous_Uid = %u;\n"
		"\tAnonymous_Gid = %u;\n\tPrivilegedPort = %s;\n\tSecType = sys;\n\tProtocols = 3, 4;\n\tTransports = TCP;\n\tFSAL { Name = VFS; }\n", e->id, e->id, e->id,
		path, e->name, squash[e->squash], e->anonuid, e->anongid, e->secure ? "true" : "false");
	print_ganesha_clients(e, out);
	fputs("}\n", out);
}

static void print_ganesha(const struct foreign *f, FILE *out)
{
	print_head(f, out);
	fprintf(out, "NFS_CORE_PARAM {\n\tProtocols = 3, 4;\n\tmount_path_pseudo = true;\n}\n\nNFSv4 {\n\tRecoveryBackend = fs;\n\tRecoveryRoot = %s/%s/ganesha;\n"
		"\tLease_Lifetime = 15;\n\tGrace_Period = 15;\n\tMinor_Versions = 0, 1, 2;\n}\n", f->conf->mount_point, FOREIGN_DIR);
	for (unsigned i = 0; i < f->conf->nexports; i++)
		print_ganesha_export(f, &f->conf->exports[i], out);
}

static const char *const ganesha_dirs[] = { FOREIGN_DIR, FOREIGN_DIR "/ganesha", NULL };

/* ---- the hook ---- */

/* Under systemd the units are told; elsewhere the programs themselves. */
static void print_hook(const struct foreign *f, FILE *out)
{
	bool knfsd = f->server == FOREIGN_KNFSD;

	fputs("#!/bin/sh\n", out);
	print_head(f, out);
	fprintf(out, "# Called as `HOOK VOLUME WHAT NODE': the NFS server runs on the primary only, and starts anew when this node becomes it.\n"
		"[ \"$1\" = %s ] || exit 0\nif [ -d /run/systemd/system ]; then\n", f->conf->name);
	if (knfsd)
		fputs("\tstart() { systemctl restart rpc-statd.service nfsdcld.service nfs-server.service; }\n\tstop() { systemctl stop nfs-server.service nfsdcld.service rpc-statd.service; }\n"
		      "else\n\tstart() {\n\t\tstop\n\t\tmountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd\n\t\texportfs -ra\n\t\trpc.nfsd 8\n\t\tpidof rpc.mountd >/dev/null || rpc.mountd\n\t}\n"
		      "\tstop() { rpc.nfsd 0; }\n", out);
	else
		fprintf(out, "\tstart() { systemctl restart nfs-ganesha.service; }\n\tstop() { systemctl stop nfs-ganesha.service; }\nelse\n"
			"\tpid=/run/tandemfs/%s-ganesha.pid\n\tstop() {\n\t\t[ ! -e $pid ] || kill -9 \"$(cat $pid)\" 2>/dev/null\n\t\trm -f $pid\n\t}\n"
			"\tstart() {\n\t\tstop\n\t\tganesha.nfsd -f /etc/ganesha/tandemfs-%s.conf -p $pid\n\t}\n", f->conf->name, f->conf->name);
	fputs("fi\ncase $2 in\nserving) start ;;\nstandby) stop ;;\nesac\n", out);
}

/* ---- the list of files ---- */

static void add(struct foreign_file *f, const char *dir, const char *name, const char *suffix, unsigned mode, void (*print)(const struct foreign *, FILE *))
{
	snprintf(f->path, sizeof f->path, "%s/tandemfs-%s%s", dir, name, suffix);
	f->mode = mode;
	f->print = print;
}

unsigned foreign_files(const struct foreign *f, struct foreign_file out[FOREIGN_FILES_MAX])
{
	const char *name = f->conf->name;
	unsigned n = 0;

	if (f->server == FOREIGN_KNFSD) {
		add(&out[n++], "/etc/exports.d", name, ".exports", 0644, print_knfsd_exports);
		add(&out[n++], "/etc/nfs.conf.d", name, ".conf", 0644, print_knfsd_conf);
	} else {
		add(&out[n++], "/etc/ganesha", name, ".conf", 0644, print_ganesha);
	}
	snprintf(out[n].path, sizeof out[n].path, "/etc/tandemfs/%s.nfs-hook", name);
	out[n].mode = 0755;
	out[n++].print = print_hook;
	return n;
}

const char *const *foreign_dirs(const struct foreign *f) { return f->server == FOREIGN_KNFSD ? knfsd_dirs : ganesha_dirs; }

void foreign_print_steps(const struct foreign *f, FILE *out)
{
	const char *name = f->conf->name;

	fprintf(out, "# On every node:\n#   set `state_hook = /etc/tandemfs/%s.nfs-hook' and mount the volume again\n", name);
	if (f->server == FOREIGN_KNFSD)
		fprintf(out, "#   systemctl disable --now nfs-server nfsdcld rpc-statd: the hook starts them on the primary\n");
	else
		fprintf(out, "#   add `%%include \"/etc/ganesha/tandemfs-%s.conf\"' to /etc/ganesha/ganesha.conf\n#   systemctl disable --now nfs-ganesha: the hook starts it on the primary\n",
			name);
}
