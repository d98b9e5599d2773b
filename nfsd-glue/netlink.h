/*
 * Addresses of interfaces through rtnetlink. Small enough for the guardian (guardian.h), which has nothing else.
 */
#ifndef NFSD_GLUE_NETLINK_H
#define NFSD_GLUE_NETLINK_H

#include <stdbool.h>

#include "fs/base/service.h"

/* A socket, or -errno. */
int netlink_open(void);
/* Adds A (which may be there already), without duplicate address detection, or removes it. 0; -ENODEV; -EADDRNOTAVAIL: it is not there; -EPERM: CAP_NET_ADMIN is
 * missing. One caller at a time. */
int netlink_address(int fd, const struct service_address *a, bool add);

#endif
