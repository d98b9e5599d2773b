#include "fs/base/service.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ONE_MAX = 128 };

static int wrong(char *why, size_t size, const char *what, const char *one)
{
	snprintf(why, size, "`%s': %s: wanted is ADDRESS/PREFIX dev INTERFACE", one, what);
	return -EINVAL;
}

static int parse_prefix(const char *s, unsigned max, unsigned *out)
{
	char *end;

	if (!isdigit((unsigned char)*s))
		return -EINVAL;
	unsigned long v = strtoul(s, &end, 10);
	if (*end || v < 1 || v > max)
		return -EINVAL;
	*out = (unsigned)v;
	return 0;
}

/* An address that a host may have for itself alone. */
static int unicast(const struct service_address *a)
{
	static const unsigned char none[16];

	if (a->family == AF_INET)
		return a->ip[0] && a->ip[0] != 127 && a->ip[0] < 224;
	return memcmp(a->ip, none, 15) && a->ip[0] != 0xff;
}

static int parse_one(const char *one, struct service_address *a, char *why, size_t size)
{
	char addr[ONE_MAX], dev[ONE_MAX], more[2];
	char *slash;

	memset(a, 0, sizeof *a);
	if (strlen(one) >= ONE_MAX || sscanf(one, "%127s dev %127s %1s", addr, dev, more) != 2)
		return wrong(why, size, "not understood", one);
	slash = strchr(addr, '/');
	if (!slash)
		return wrong(why, size, "there is no prefix length", one);
	*slash = 0;
	a->family = strchr(addr, ':') ? AF_INET6 : AF_INET;
	if (inet_pton(a->family, addr, a->ip) != 1 || !unicast(a))
		return wrong(why, size, "no address that a host can have", one);
	if (parse_prefix(slash + 1, a->family == AF_INET ? 32 : 128, &a->prefix))
		return wrong(why, size, "no prefix length", one);
	if (strlen(dev) >= IF_NAMESIZE || strchr(dev, '/'))
		return wrong(why, size, "no name of an interface", one);
	memcpy(a->dev, dev, strlen(dev) + 1);
	return 0;
}

int service_parse(const char *text, struct service_address out[SERVICE_MAX], unsigned *n, char *why, size_t size)
{
	char one[2 * ONE_MAX];

	for (*n = 0; *text; (*n)++) {
		size_t len = strcspn(text, ",");
		if (*n == SERVICE_MAX) {
			snprintf(why, size, "more than %d service addresses", SERVICE_MAX);
			return -EINVAL;
		}
		snprintf(one, sizeof one, "%.*s", (int)(len < sizeof one ? len : sizeof one - 1), text);
		int err = parse_one(one + strspn(one, " \t"), &out[*n], why, size);
		if (err)
			return err;
		for (unsigned i = 0; i < *n; i++)
			if (out[i].family == out[*n].family && !memcmp(out[i].ip, out[*n].ip, sizeof out[i].ip))
				return wrong(why, size, "it is there twice", one);
		text += len;
		if (*text && !*++text)
			return wrong(why, size, "a comma and nothing behind it", one);
	}
	return 0;
}

void service_format(const struct service_address *a, char out[SERVICE_TEXT_MAX])
{
	char ip[INET6_ADDRSTRLEN] = "?";

	inet_ntop(a->family, a->ip, ip, sizeof ip);
	snprintf(out, SERVICE_TEXT_MAX, "%s/%u dev %s", ip, a->prefix, a->dev);
}
