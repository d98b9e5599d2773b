/*
 * Networks in the configuration: text to bytes and back. IPv4 is kept as IPv6 has it (::ffff:a.b.c.d), so that a client that comes by IPv4 to a
 * socket of both families is the same client.
 */
#include "fs/base/conf.h"

#include <arpa/inet.h>
#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const unsigned char mapped[12] = { [10] = 0xff, [11] = 0xff };
enum { MAPPED_BITS = 96 };

/* Digits only, at most MAX. */
static int parse_prefix(const char *s, unsigned max, unsigned *out)
{
	unsigned v = 0;

	if (!*s || strlen(s) > 3)
		return -EINVAL;
	for (; *s; s++) {
		if (!isdigit((unsigned char)*s))
			return -EINVAL;
		v = v * 10 + (unsigned)(*s - '0');
	}
	*out = v;
	return v > max ? -EINVAL : 0;
}

/* Clears what is behind the prefix; true when something was set there. */
static bool mask(struct conf_net *n)
{
	bool had = false;

	for (unsigned bit = n->prefix; bit < 128; bit++) {
		unsigned char b = (unsigned char)(0x80 >> bit % 8);
		had |= (n->addr[bit / 8] & b) != 0;
		n->addr[bit / 8] &= (unsigned char)~b;
	}
	return had;
}

int conf_parse_net(const char *s, struct conf_net *out)
{
	char text[CONF_NET_TEXT];
	unsigned prefix;

	memset(out, 0, sizeof *out);
	if (!strcmp(s, "*"))
		return 0;
	if (strlen(s) >= sizeof text)
		return -EINVAL;
	strcpy(text, s);
	char *slash = strchr(text, '/');
	if (slash)
		*slash++ = 0;
	bool v4 = inet_pton(AF_INET, text, out->addr + sizeof mapped) == 1;
	if (v4)
		memcpy(out->addr, mapped, sizeof mapped);
	else if (inet_pton(AF_INET6, text, out->addr) != 1)
		return -EINVAL;
	prefix = v4 ? 32 : 128;
	if (slash && parse_prefix(slash, prefix, &prefix))
		return -EINVAL;
	out->prefix = (uint8_t)(prefix + (v4 ? MAPPED_BITS : 0));
	return mask(out) ? -EDOM : 0;
}

void conf_format_net(const struct conf_net *n, char out[CONF_NET_TEXT])
{
	bool v4 = n->prefix >= MAPPED_BITS && !memcmp(n->addr, mapped, sizeof mapped);
	char text[INET6_ADDRSTRLEN];
	unsigned bits = n->prefix - (v4 ? MAPPED_BITS : 0u), all = v4 ? 32 : 128;

	if (!n->prefix) {
		strcpy(out, "*");
		return;
	}
	inet_ntop(v4 ? AF_INET : AF_INET6, n->addr + (v4 ? sizeof mapped : 0), text, sizeof text);
	if (bits == all)
		snprintf(out, CONF_NET_TEXT, "%s", text);
	else
		snprintf(out, CONF_NET_TEXT, "%s/%u", text, bits);
}

bool conf_net_has(const struct conf_net *n, const unsigned char addr[16])
{
	unsigned whole = n->prefix / 8, rest = n->prefix % 8;

	if (memcmp(n->addr, addr, whole))
		return false;
	return !rest || !((n->addr[whole] ^ addr[whole]) >> (8 - rest));
}
