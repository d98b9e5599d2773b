/* Fuzz: any bytes as a configuration file. No crash; an error is one line; an accepted volume keeps what the header promises. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "fs/base/conf.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void want(int condition)
{
	if (!condition)
		abort();
}

/* What is shown of a network is read as the same. */
static void check_export(const struct volume_conf *c, unsigned i)
{
	const struct conf_export *e = &c->exports[i];
	char text[CONF_NET_TEXT];
	struct conf_net n;

	want(i < CONF_EXPORTS_MAX && e->id >= 1 && e->id <= 65535 && e->path[0] == '/' && conf_name_ok(e->name));
	want(!strstr(e->path, "//") && !strstr(e->path, "/../") && e->nnets >= 1 && e->nnets <= CONF_NETS_MAX);
	for (unsigned j = 0; j < e->nnets; j++) {
		conf_format_net(&e->nets[j], text);
		want(!conf_parse_net(text, &n) && n.prefix == e->nets[j].prefix && !memcmp(n.addr, e->nets[j].addr, sizeof n.addr));
		want(conf_net_has(&n, n.addr));
	}
	for (unsigned j = 0; j < i; j++)
		want(c->exports[j].id != e->id && strcmp(c->exports[j].path, e->path) != 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct volume_conf c;
	char err[CONF_ERR_MAX];

	if (size > CONF_FILE_MAX)
		return 0;
	int r = conf_parse("home", "f", (const char *)data, size, NULL, "alpha", &c, err, sizeof err);
	if (r) {
		want(err[0] && !strchr(err, '\n'));
		return 0;
	}
	want(!err[0] && c.backing[0] == '/' && c.mount_point[0] == '/' && c.state_dir[0] == '/' && c.control_socket[0] == '/');
	want(c.self >= 1 && c.self <= CONF_NODE_MAX && c.npeers < CONF_NODE_MAX);
	want(!strcmp(c.nodes[c.self].name, c.node) && conf_node_by_name(&c, c.node) == &c.nodes[c.self]);
	for (unsigned i = 0; i < c.nexports; i++)
		check_export(&c, i);
	want(c.peer_timeout_ms >= 50 && c.congestion_timeout_ms >= c.peer_timeout_ms && c.queue_bytes >= 1 << 20 && c.threads <= 256);
	return 0;
}
