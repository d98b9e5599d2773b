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
	want(c.peer_timeout_ms >= 50 && c.congestion_timeout_ms >= c.peer_timeout_ms && c.queue_bytes >= 1 << 20 && c.threads <= 256);
	return 0;
}
