/*
 * The guardian: a small process beside the daemon that takes the service addresses away when the daemon dies, by SIGKILL too. An address that still answers
 * after its server is gone refuses connections, and a Linux NFS client that was refused waits for seconds, while the address may be up elsewhere by then.
 *
 * It waits for a robust mutex in shared memory which the daemon's main thread holds: the kernel hands that over while the main thread dies, that is before the last
 * thread's death closes the process's sockets. (The end of a pipe, or a pidfd, would tell it afterwards.) So what the kernel says on behalf of those sockets finds no
 * source address any more and never leaves. docs/decisions/ has what was measured.
 */
#ifndef NFSD_GLUE_GUARDIAN_H
#define NFSD_GLUE_GUARDIAN_H

#include "fs/base/service.h"

struct guardian;
/* Forks. From the thread that lives as long as the daemon, before there are others; that thread calls guardian_stop too. 0 or -errno. */
int guardian_start(const struct service_address *addr, unsigned n, struct guardian **out);
/* Ends it, in order: it takes nothing away. NULL is fine. */
void guardian_stop(struct guardian *g);

#endif
