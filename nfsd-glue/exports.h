/*
 * What is exported to whom: the [export] sections of the configuration, asked once per request.
 *
 * An export is a directory of the volume and everything below it. Its id (1..65535) is in every handle given out through it, under the handle's MAC:
 * a client that may use export B only gets -EACCES for a handle of export A, whatever it shows.
 *
 * A sub-directory export can't be escaped: handles are given out for what lies below its root only, by LOOKUP and READDIRPLUS from there; `..` of the root
 * is the root (exports_dotdot), also in listings; RENAME and LINK between exports are refused (different export ids: XDEV). What is renamed out of the
 * export, by somebody who may, stays reachable for clients that hold its handle, and below it what is there: as with every server that has no subtree check.
 * `..` from there is -ESTALE: never anything outside.
 *
 * The table is immutable; exports_reload puts another one in its place. Readers take no lock: they announce themselves in one of two counters (striped by
 * thread), and the writer waits until those who might see the old table are gone.
 */
#ifndef NFSD_GLUE_EXPORTS_H
#define NFSD_GLUE_EXPORTS_H

#include <sys/socket.h>

#include "fs/base/conf.h"
#include "fs/layer.h"
#include "nfsd-glue/perm.h"

struct exports;

/* CONF is copied. */
int exports_new(const struct volume_conf *conf, struct exports **out);
void exports_free(struct exports *x);
/* Puts the exports of CONF in force, for requests that begin from now on; waits for those that look at the old ones (microseconds). -ENOMEM: nothing
 * happened. */
int exports_reload(struct exports *x, const struct volume_conf *conf);

/* What one client may do through one export. */
struct export_rights {
	uint16_t id;
	bool writable;
	bool whole;			/* the export is the volume's root */
	uint8_t squash;			/* enum conf_squash */
	uid_t anonuid;
	gid_t anongid;
};
/* Rights of CLIENT (address and port) by export ID. -ESTALE: there is no such export (any more); -EACCES: not for this address, or not from this
 * port. */
int exports_rights(struct exports *x, uint16_t id, const struct sockaddr_storage *client, struct export_rights *out);
/* May what comes from CLIENT's port be about all that its host has (locks of any of its programs)? From a privileged port it may; from others only where an export
 * that the address may use takes calls from those, too. */
bool exports_speaks_for_host(struct exports *x, const struct sockaddr_storage *client);
/* For MOUNT: the innermost export that PATH (absolute, in the volume, with no `.`, `..` or empty components) lies in and CLIENT may use. *BELOW: where in PATH the
 * part below the export begins. -ENOENT: PATH is in no export; -EACCES: in none that CLIENT may use. */
int exports_by_path(struct exports *x, const char *path, const struct sockaddr_storage *client, struct export_rights *out, size_t *below);

/* Who CRED is behind this export: all_squash, and an anonymous caller (AUTH_NONE), become anonuid and anongid; root_squash does that to uid 0, gid 0
 * and each group 0. */
void exports_squash(const struct export_rights *r, bool anonymous, struct nfs_cred *cred);

/* The object that PATH, relative to directory DIR, names now: "" is DIR. No symlink is followed: -ENOTDIR; `.`, `..` and empty components: -EACCES. */
int exports_walk(struct layer *top, uint64_t dir, const char *path, struct attr *out);
/* The root of export ID: its path is walked, with no symlink followed. -ESTALE: no such export; -ENOENT, -ENOTDIR: its directory is missing. */
int exports_root(struct exports *x, uint16_t id, struct layer *top, struct attr *out);
/* LOOKUP of `..` in DIR through the export: never outside; the root's is the root. -ESTALE: DIR is not below the export. */
int exports_dotdot(struct exports *x, const struct export_rights *r, struct layer *top, struct call *c, uint64_t dir, struct attr *out);

/* For MOUNT's list and status: calls FN for each; *E lives during the call. FN must not wait. Stops at FN's first nonzero, which it returns. */
int exports_each(struct exports *x, int (*fn)(void *arg, const struct conf_export *e), void *arg);
unsigned exports_count(struct exports *x);
#endif
