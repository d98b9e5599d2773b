/*
 * Files that NFS clients read and write, kept open between calls: NFS has no open and close, and opening costs more than reading a page.
 *
 * By id; one that is open for writing serves readers, too. Idle ones are closed after FILES_IDLE_MS, or, the one idle for longest first, when there are too
 * many. One that was written and not synced since is flushed before it is closed: closing would lose the error that its writeback may meet.
 *
 * An open file keeps its object's space; so when an object loses a name (an observer tells) its open files are looked at at once, and closed when
 * that was the last.
 *
 * Locks: each shard has a mutex, a leaf: nothing is called under it. The observer, which is called under the objects' locks, only marks.
 */
#ifndef NFSD_GLUE_FILES_H
#define NFSD_GLUE_FILES_H

#include "fs/observe.h"

enum { FILES_MAX_DEFAULT = 1024, FILES_IDLE_MS = 5000 };

struct files;
struct nfile;

/* MAX 0 = FILES_MAX_DEFAULT. Starts a thread. */
int files_new(struct layer *top, unsigned max, struct files **out);
/* Closes everything; nobody uses one any more. */
void files_free(struct files *t);
/* File ID, open for reading, or (WRITE) for both: *OUT has a reference. Errors are those of open(). */
int files_get(struct files *t, uint64_t id, bool write, struct nfile **out);
/* Only if it is open for writing now; else NULL. */
struct nfile *files_find_written(struct files *t, uint64_t id);
void files_put(struct files *t, struct nfile *n);
struct file *nfile_file(const struct nfile *n);
/* It was written without a sync; it was synced (call before: what is written meanwhile counts as written). */
void nfile_wrote(struct nfile *n);
void nfile_syncing(struct nfile *n);
/* An observer. */
void files_observe(void *files, const struct change *c);
/* Everything that nobody uses is closed soon, by the thread: closing means fsync, and that waits while a role is being handed over. */
void files_close_idle(struct files *t);
unsigned files_count(struct files *t);

#endif
