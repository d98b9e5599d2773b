/*
 * Other NFS servers on the mount: configuration for the kernel's (knfsd) and for NFS-Ganesha, so that their clients survive a failover. What both need:
 *
 *	the same handles on every node	knfsd: fsid = a UUID made of the volume's and the export's; Ganesha: Export_Id, Filesystem_id, and `mount_as = fuseblk`
 *	the state of NFSv4 clients	recovery directories on the volume itself, below FOREIGN_DIR, so that the next primary's server has them
 *	a fresh start at a promotion	a state hook: the server runs on the primary only, and is started anew there (a write verifier that outlived a
 *					failover would confirm data that are gone; recovery directories are read at the start)
 *	`durability = sync`		neither says which operations must be durable
 *
 * The texts are functions of the configuration and the volume's UUID: the same on every node.
 */
#ifndef NFSD_GLUE_FOREIGN_H
#define NFSD_GLUE_FOREIGN_H

#include <stdio.h>

#include "fs/base/conf.h"
#include "handles/handles.h"

#define FOREIGN_DIR ".nfs-state"	/* in the volume's root; root's, mode 0700 */

enum foreign_server { FOREIGN_KNFSD, FOREIGN_GANESHA };

struct foreign {
	enum foreign_server server;
	const struct volume_conf *conf;		/* borrowed */
	unsigned char uuid[UUID_LEN];
	bool v4root;				/* knfsd: the first export is NFSv4's root (fsid=0): clients mount server:/ */
};

/* Can it be right at all? 0, or -EINVAL with what to change in WHY. */
int foreign_check(const struct foreign *f, char *why, size_t size);

/* The files: name, contents, mode. */
enum { FOREIGN_FILES_MAX = 3 };
struct foreign_file {
	char path[CONF_VALUE_MAX + 64];
	unsigned mode;
	void (*print)(const struct foreign *f, FILE *out);
};
/* Fills OUT; how many. */
unsigned foreign_files(const struct foreign *f, struct foreign_file out[FOREIGN_FILES_MAX]);
/* The directories that must be on the volume, relative to its root, parents first; ends with NULL. */
const char *const *foreign_dirs(const struct foreign *f);
/* What remains to be done by hand. */
void foreign_print_steps(const struct foreign *f, FILE *out);

/* The identity of export E: what knfsd has as fsid. */
void foreign_fsid(const struct foreign *f, const struct conf_export *e, unsigned char out[UUID_LEN]);

#endif
