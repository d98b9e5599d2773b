/*
 * Service addresses in text: what the configuration says and status shows. Pure.
 */
#ifndef FS_BASE_SERVICE_H
#define FS_BASE_SERVICE_H

#include <net/if.h>
#include <stddef.h>
#include <sys/socket.h>

enum { SERVICE_MAX = 8, SERVICE_TEXT_MAX = 96 };

struct service_address {
	sa_family_t family;		/* AF_INET, AF_INET6 */
	unsigned char ip[16];		/* network order; an IPv4 one has 4 bytes */
	unsigned prefix;		/* bits */
	char dev[IF_NAMESIZE];		/* the interface */
};

/* `10.0.0.100/24 dev eth0', or several, separated by commas, into OUT; *N = how many. Only the form is checked. 0, or -EINVAL with what is wrong in WHY. */
int service_parse(const char *text, struct service_address out[SERVICE_MAX], unsigned *n, char *why, size_t size);
/* `10.0.0.100/24 dev eth0' */
void service_format(const struct service_address *a, char out[SERVICE_TEXT_MAX]);

#endif
