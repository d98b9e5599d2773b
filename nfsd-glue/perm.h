/*
 * What an NFS caller may do. The local kernel decides about mode bits, ACLs and what root may (layer access()); the rules that NFS adds, and those
 * that the kernel applies to a process and not to a file, are here, as knfsd has them:
 *
 * - A regular file's owner may READ, WRITE and set its size whatever the mode: his client asked when he opened the file. ACCESS answers strictly.
 * - Who may execute a regular file may READ it: the client pages it in.
 * - What is in a sticky directory is removed and renamed by its owner, the directory's owner, or root.
 * - chmod, and times of one's choice: the owner, or root (-EPERM). Times "now": also who may write (-EACCES). chown: root; the owner may give his
 *   object to a group of his. A change of owner or group takes setuid and setgid away, so do a write and a truncation by anybody but root; chmod
 *   takes setgid away from who isn't in the group.
 * - Devices are made by root.
 *
 * Export rules (read-only, squashing) come before: nfsd-glue/exports.h. All functions return 0 or -errno: -EACCES, -EPERM, or the error of looking.
 * ATTR is the object's, as getattr gave it just now; what it was checked for may change before the operation is applied, as on any server. Cost: none when the
 * attributes decide (root, the owner, no ACL); else what layer access() costs: 1 us, or 25 for an object with an ACL.
 */
#ifndef NFSD_GLUE_PERM_H
#define NFSD_GLUE_PERM_H

#include "fs/layer.h"

enum { NFS_GROUPS_MAX = 16 };

/* Who calls, after squashing. */
struct nfs_cred {
	uid_t uid;
	gid_t gid;
	unsigned ngroups;
	gid_t groups[NFS_GROUPS_MAX];
};

/* A call of CRED, which has to outlive it. */
struct call perm_call(const struct nfs_cred *cred);

/* Rights on an object, to be ORed. */
enum perm_want {
	PERM_READ = 1 << 0,
	PERM_WRITE = 1 << 1,
	PERM_EXEC = 1 << 2,		/* of a directory: search */
	PERM_OWNER = 1 << 3,		/* a regular file's owner needs nothing else */
	PERM_READ_IF_EXEC = 1 << 4,	/* reading a regular file that may be executed is fine */
};
/* READ: PERM_READ | PERM_OWNER | PERM_READ_IF_EXEC; WRITE, set size: PERM_WRITE | PERM_OWNER; LOOKUP: PERM_EXEC; READDIR: PERM_READ; NLM locks:
 * PERM_READ | PERM_OWNER | PERM_READ_IF_EXEC. */
int perm_check(struct layer *top, struct call *c, const struct attr *a, unsigned want);
/* ACCESS: which of the ACCESS3_* bits in ASKED (RFC 1813, 3.3.4) are granted. WRITABLE: of the export (not of the node:
 * a client remembers the answer, and a standby may become primary). */
int perm_access(struct layer *top, struct call *c, const struct attr *a, bool writable, uint32_t asked, uint32_t *granted);

/* A new entry in DIR: CREATE, MKDIR, SYMLINK, LINK, and MKNOD. MODE: type and permissions; device: root only. *MODE loses the bits that the caller
 * may not give. (Uid and gid of a creation that names them: only root's are heeded; see perm_create_owner.) */
int perm_create(struct layer *top, struct call *c, const struct attr *dir, uint32_t *mode);
/* sattr3 of a creation: which owner the new object may get. Bits of SET_UID, SET_GID in *VALID that the caller has no right to are cleared. */
void perm_create_owner(const struct call *c, uint32_t *valid);
/* Removing the entry of DIR that names CHILD: REMOVE, RMDIR, the old name and a replaced one of RENAME. */
int perm_remove(struct layer *top, struct call *c, const struct attr *dir, const struct attr *child);
/* RENAME: FROM in DIR becomes a name in NEWDIR, replacing TO (NULL = nothing is there). */
int perm_rename(struct layer *top, struct call *c, const struct attr *dir, const struct attr *from, const struct attr *newdir,
		const struct attr *to);
/* LINK of an object to a name in DIR. */
int perm_link(struct layer *top, struct call *c, const struct attr *object, const struct attr *dir);
/* SETATTR: S is what is asked; it loses what is to be ignored (mode of a symlink, setgid that the caller may not give) and gets SET_KILL_PRIV where
 * setuid and setgid have to go. */
int perm_setattr(struct layer *top, struct call *c, const struct attr *a, struct setattr *s);
/* Flags for the layer's write(): WRITE_KILL_PRIV unless the caller is root. */
unsigned perm_write_flags(const struct call *c);

#endif
