/* The configuration: what is accepted, and that each mistake gets one line that names the place and the remedy. */
#include "fs/base/conf.h"

#include <arpa/inet.h>
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/base/cleanup.h"
#include "fs/base/log.h"

#define NODES \
	"[node alpha]\nnumber = 1\naddress = 10.0.0.1:7400\n" \
	"[node beta]\nnumber = 2\naddress = [fe80::2]:7400\n"
#define MINIMAL "[volume]\nbacking = /srv/home\nfence_peer = none\n" NODES

static struct volume_conf c;
static char err[CONF_ERR_MAX];

static int parse(const char *text)
{
	return conf_parse("home", "home.conf", text, strlen(text), NULL, "alpha", &c, err, sizeof err);
}

START_TEST(minimal_file_gets_the_documented_defaults)
{
	ck_assert_msg(!parse(MINIMAL), "%s", err);
	ck_assert_str_eq(c.name, "home");
	ck_assert_str_eq(c.backing, "/srv/home");
	ck_assert_str_eq(c.mount_point, "/srv/home");
	ck_assert_str_eq(c.state_dir, "/var/lib/tandemfs/home");
	ck_assert_str_eq(c.key_file, "/etc/tandemfs/home.key");
	ck_assert_str_eq(c.control_socket, "/run/tandemfs/home.sock");
	ck_assert_str_eq(c.node, "alpha");
	ck_assert_str_eq(c.fence_peer, "");
	ck_assert_str_eq(c.state_hook, "");
	ck_assert_int_eq(c.security, CONF_SECURITY_TLS);
	ck_assert_int_eq(c.durability, CONF_COMMIT);
	ck_assert_int_eq(c.start_as, CONF_START_STANDBY);
	ck_assert_int_eq(c.log_level, LOG_LVL_INFO);
	ck_assert_uint_eq(c.peer_timeout_ms, 500);
	ck_assert_uint_eq(c.congestion_timeout_ms, 2000);
	ck_assert_uint_eq(c.fence_timeout_ms, 10000);
	ck_assert_uint_eq(c.queue_bytes, 64 << 20);
	ck_assert_uint_eq(c.reserve_bytes, 16 << 20);
	ck_assert_uint_eq(c.self, 1);
	ck_assert_uint_eq(c.npeers, 1);
	ck_assert_str_eq(c.nodes[2].address, "[fe80::2]:7400");
}
END_TEST

START_TEST(every_option_can_be_set)
{
	int r = parse("\xef\xbb\xbf# comment\n[volume]\n  backing = /a/\n\tmount_point=/b\nstate_dir = /c\nnode = beta\nkey_file = /k\r\n"
		      "security = none\ndurability = sync\npeer_timeout = 2s\ncongestion_timeout = 1m\nqueue = 1GiB\n"
		      "fence_peer = /bin/true\nfence_timeout = 1500 ms\nstart_as = last\nstate_hook = /bin/true ; why\nreserve = 0\n"
		      "threads = 8\nattr_timeout = 0\ncompress = yes\nlog_level = debug\ncontrol_socket = /run/x.sock\n" NODES);
	ck_assert_msg(!r, "%s", err);
	ck_assert_str_eq(c.backing, "/a");
	ck_assert_str_eq(c.mount_point, "/b");
	ck_assert_str_eq(c.state_dir, "/c");
	ck_assert_str_eq(c.key_file, "/k");
	ck_assert_str_eq(c.fence_peer, "/bin/true");
	ck_assert_str_eq(c.state_hook, "/bin/true");
	ck_assert_uint_eq(c.self, 2);
	ck_assert_int_eq(c.security, CONF_SECURITY_NONE);
	ck_assert_int_eq(c.durability, CONF_SYNC);
	ck_assert_int_eq(c.start_as, CONF_START_LAST);
	ck_assert_int_eq(c.compress, 1);
	ck_assert_int_eq(c.log_level, LOG_LVL_DEBUG);
	ck_assert_uint_eq(c.peer_timeout_ms, 2000);
	ck_assert_uint_eq(c.congestion_timeout_ms, 60000);
	ck_assert_uint_eq(c.fence_timeout_ms, 1500);
	ck_assert_uint_eq(c.queue_bytes, 1u << 30);
	ck_assert_uint_eq(c.reserve_bytes, 0);
	ck_assert_uint_eq(c.threads, 8);
	ck_assert_uint_eq(c.attr_timeout_ms, 0);
}
END_TEST

/* A text, and what its error must begin with and contain. */
static const struct { const char *text, *begins, *has; } mistakes[] = {
	{ "", "home.conf: ", "no [volume]" },
	{ "backing = /x\n", "home.conf:1: ", "before the first section" },
	{ "[volume]\nbackign = /x\n", "home.conf:2: backign", "no such option" },
	{ "[volume]\nbacking /x\n", "home.conf:2: ", "neither" },
	{ "[volume\nbacking = /x\n", "home.conf:1: ", "neither" },
	{ "[volume]\n\nbacking = x\n", "home.conf:3: backing", "absolute" },
	{ "[volume]\nbacking =\n", "home.conf:2: backing", "no value" },
	{ "[volume]\nbacking = /x\nbacking = /y\n", "home.conf:3: backing", "twice" },
	{ "[volume]\nbacking = /x\n  backing = /y\n", "home.conf:3: backing", "twice" },
	{ "[volume]\nfence_peer = none\n" NODES, "home.conf:1: ", "backing is missing" },
	{ "[volume]\nbacking = /x\n" NODES, "home.conf:1: ", "fence_peer is missing" },
	{ "[volume]\n[volume]\n", "home.conf:2: ", "line 1" },
	{ "[volumes]\n", "home.conf:1: [volumes]", "no such section" },
	{ "[node]\n", "home.conf:1: [node]", "no such section" },
	{ "[node a/b]\n", "home.conf:1: ", "not a node's name" },
	{ "[volume]\npeer_timeout = 500\n", "home.conf:2: peer_timeout", "whole number and ms" },
	{ "[volume]\npeer_timeout = 1.5s\n", "home.conf:2: peer_timeout", "whole number and ms" },
	{ "[volume]\npeer_timeout = -1s\n", "home.conf:2: peer_timeout", "whole number and ms" },
	{ "[volume]\npeer_timeout = 1ms\n", "home.conf:2: peer_timeout", "out of range: 50ms to 60s" },
	{ "[volume]\npeer_timeout = 99999999999999999999s\n", "home.conf:2: peer_timeout", "out of range" },
	{ "[volume]\nqueue = 64MB\n", "home.conf:2: queue", "KiB, MiB" },
	{ "[volume]\nqueue = 1KiB\n", "home.conf:2: queue", "out of range: 1MiB to 16GiB" },
	{ "[volume]\nqueue = 99999999999TiB\n", "home.conf:2: queue", "out of range" },
	{ "[volume]\nqueue = 64MiB # much\n", "home.conf:2: queue", "is no size" },
	{ "[volume]\nthreads = 257\n", "home.conf:2: threads", "0 to 256" },
	{ "[volume]\ndurability = always\n", "home.conf:2: durability", "async, commit, sync" },
	{ "[volume]\nfence_peer = maybe\n", "home.conf:2: fence_peer", "absolute" },
	{ "[volume]\nnode = a b\n", "home.conf:2: node", "can't be a name" },
	{ MINIMAL "[node gamma]\nnumber = 2\naddress = c:1\n", "home.conf:10: [node gamma]", "belongs to node beta" },
	{ MINIMAL "[node gamma]\nnumber = 3\naddress = 10.0.0.1:7400\n", "home.conf:10: [node gamma]", "belongs to node alpha" },
	{ MINIMAL "[node gamma]\nnumber = 16\n", "home.conf:11: number", "1 to 15" },
	{ MINIMAL "[node gamma]\naddress = c:1\n", "home.conf:10: [node gamma]", "number is missing" },
	{ MINIMAL "[node gamma]\nnumber = 3\n", "home.conf:10: [node gamma]", "address is missing" },
	{ MINIMAL "[node beta]\n", "home.conf:10: [node beta]", "line 7" },
	{ MINIMAL "[node gamma]\nnumber = 3\naddress = c\n", "home.conf:12: address", "host:port" },
	{ MINIMAL "[node gamma]\nnumber = 3\naddress = c:0\n", "home.conf:12: address", "host:port" },
	{ MINIMAL "[node gamma]\nnumber = 3\naddress = fe80::1:70\n", "home.conf:12: address", "host:port" },
	{ "[volume]\nbacking = /x\n", "home.conf: ", "no [node NAME]" },
	{ "[volume]\nbacking = /x\nnode = gamma\nfence_peer=none\n" NODES, "home.conf: node is `gamma'", "no [node gamma]" },
	{ "[volume]\nbacking = /x\nstate_dir = /x/s\nfence_peer=none\n" NODES, "home.conf:1: ", "inside the volume" },
	{ "[volume]\nbacking = /x\nmount_point = /x/m\nfence_peer=none\n" NODES, "home.conf:1: ", "inside each other" },
	{ "[volume]\nbacking = /x\npeer_timeout = 3s\nfence_peer=none\n" NODES, "home.conf:1: ", "congestion_timeout" },
	{ MINIMAL "[nfs]\nlisten = 2049\n", "home.conf:11: listen", "host:port" },
	{ MINIMAL "[nfs]\nrpcbind = maybe\n", "home.conf:11: rpcbind", "no, yes, auto" },
	{ MINIMAL "[nfs]\n[export a]\nclients = *\n[nfs]\n", "home.conf:13: [nfs]", "line 10" },
	{ MINIMAL "[export /srv]\n", "home.conf:10: [export /srv]", "path =" },
	{ MINIMAL "[export]\n", "home.conf:10: [export]", "no such section" },
	{ MINIMAL "[export a]\n[export a]\n", "home.conf:11: [export a]", "line 10" },
	{ MINIMAL "[export a]\npath = /x\n", "home.conf:10: [export a]", "clients is missing" },
	{ MINIMAL "[export a]\nclients = ,\n", "home.conf:10: [export a]", "names nobody" },
	{ MINIMAL "[export a]\nclients = 10.0.0.0/33\n", "home.conf:11: clients", "`10.0.0.0/33' is no network" },
	{ MINIMAL "[export a]\nclients = 10.0.0.0/\n", "home.conf:11: clients", "is no network" },
	{ MINIMAL "[export a]\nclients = 10.0.0.256\n", "home.conf:11: clients", "is no network" },
	{ MINIMAL "[export a]\nclients = 2001:db8::/129\n", "home.conf:11: clients", "is no network" },
	{ MINIMAL "[export a]\nclients = *.example.com\n", "home.conf:11: clients", "is no network" },
	{ MINIMAL "[export a]\nclients = 192.0.2.1, 10.0.0.1/8\n", "home.conf:11: clients", "write 10.0.0.0/8 for the network" },
	{ MINIMAL "[export a]\nclients = 2001:db8::1/32\n", "home.conf:11: clients", "write 2001:db8::/32 for the network" },
	{ MINIMAL "[export a]\nclients = 1.1.1.1 1.1.1.2 1.1.1.3 1.1.1.4 1.1.1.5 1.1.1.6 1.1.1.7 1.1.1.8 1.1.1.9\n"
	  "clients = 1.1.2.1 1.1.2.2 1.1.2.3 1.1.2.4 1.1.2.5 1.1.2.6 1.1.2.7 1.1.2.8\n", "home.conf:12: clients", "more than 16" },
	{ MINIMAL "[export a]\npath = srv\n", "home.conf:11: path", "absolute" },
	{ MINIMAL "[export a]\nclients = *\npath = /a/../b\n", "home.conf:10: [export a]", "`..'" },
	{ MINIMAL "[export a]\nclients = *\npath = /a//b\n", "home.conf:10: [export a]", "empty component" },
	{ MINIMAL "[export a]\nclients = *\npath = /./b\n", "home.conf:10: [export a]", "`.'" },
	{ MINIMAL "[export a]\nclients = *\npath = /p/\n[export b]\nclients = *\npath = /p\n", "home.conf:13: [export b]", "by [export a] already" },
	{ MINIMAL "[export a]\nclients = *\n[export b]\nclients = *\n", "home.conf:12: [export b]", "path / is exported by [export a]" },
	{ MINIMAL "[export a]\nclients = *\nid = 7\n[export b]\nclients = *\npath = /b\nid = 7\n", "home.conf:13: [export b]", "its id 7 is that of" },
	{ MINIMAL "[export a]\nid = 0\n", "home.conf:11: id", "1 to 65535" },
	{ MINIMAL "[export a]\nid = 65536\n", "home.conf:11: id", "1 to 65535" },
	{ MINIMAL "[export a]\nanonuid = 4294967295\n", "home.conf:11: anonuid", "0 to 4294967294" },
	{ MINIMAL "[export a]\nanongid = -1\n", "home.conf:11: anongid", "is no number" },
	{ MINIMAL "[export a]\naccess = rw,sync\n", "home.conf:11: access", "ro, rw" },
	{ MINIMAL "[export a]\nsquash = yes\n", "home.conf:11: squash", "root, all, none" },
	{ MINIMAL "[export a]\nsecure = on\n", "home.conf:11: secure", "no, yes" },
	{ MINIMAL "[export a]\nlisten = [::]:2049\n", "home.conf:11: listen", "no such option in [export]" },
	{ "[volume]\nbacking = /x\nfence_peer=none\ncontrol_socket = /0123456789012345678901234567890123456789012345678901234567890123456789"
	  "01234567890123456789012345678901234567890\n" NODES, "home.conf:1: ", "control_socket is longer" },
};

START_TEST(each_mistake_is_named_with_its_line)
{
	int r = parse(mistakes[_i].text);
	ck_assert_int_eq(r, -EINVAL);
	ck_assert_msg(!strncmp(err, mistakes[_i].begins, strlen(mistakes[_i].begins)), "`%s' should begin with `%s'", err, mistakes[_i].begins);
	ck_assert_msg(strstr(err, mistakes[_i].has) != NULL, "`%s' should contain `%s'", err, mistakes[_i].has);
	ck_assert_ptr_null(strchr(err, '\n'));
}
END_TEST

START_TEST(long_lines_and_nul_bytes_are_refused)
{
	char text[1024] = "[volume]\nbacking = /";
	memset(text + strlen(text), 'x', 900);
	ck_assert_int_eq(parse(text), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err, "home.conf:2: line of"));
	static const char nul[] = "[volume]\nbacking = /a\0b\n";
	ck_assert_int_eq(conf_parse("home", "f", nul, sizeof nul - 1, NULL, NULL, &c, err, sizeof err), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err, "NUL"));
}
END_TEST

START_TEST(this_node_is_found_by_environment_then_option_then_host)
{
	ck_assert(!conf_parse("home", "f", MINIMAL, strlen(MINIMAL), "beta", "alpha", &c, err, sizeof err));
	ck_assert_uint_eq(c.self, 2);
	ck_assert_str_eq(c.node, "beta");
	ck_assert(conf_parse("home", "f", MINIMAL, strlen(MINIMAL), NULL, "elsewhere", &c, err, sizeof err));
	ck_assert_ptr_nonnull(strstr(err, "this host's name is `elsewhere'"));
	ck_assert(conf_parse("home", "f", MINIMAL, strlen(MINIMAL), "nobody", "alpha", &c, err, sizeof err));
	ck_assert_ptr_nonnull(strstr(err, "TANDEMFS_NODE"));
}
END_TEST

START_TEST(a_volume_of_one_node_needs_neither_address_nor_fence)
{
	ck_assert_msg(!parse("[volume]\nbacking = /x\n[node alpha]\nnumber = 7\n"), "%s", err);
	ck_assert_uint_eq(c.self, 7);
	ck_assert_uint_eq(c.npeers, 0);
}
END_TEST

START_TEST(exports_and_their_defaults)
{
	ck_assert_msg(!parse(MINIMAL), "%s", err);
	ck_assert_str_eq(c.nfs_listen, "");
	ck_assert_int_eq(c.nfs_rpcbind, CONF_RPCBIND_AUTO);
	ck_assert_uint_eq(c.nexports, 0);
	ck_assert_msg(!parse(MINIMAL "[nfs]\nlisten = [::]:2049\nrpcbind = no\n[export home]\nclients = *\n[export pub]\npath = /a/pub/\n"
			     "clients = 10.0.0.0/8, 192.0.2.7\nclients = 2001:db8::/32\naccess = rw\nsquash = all\nanonuid = 0\nanongid = 4294967294\n"
			     "secure = no\nid = 9\n"), "%s", err);
	ck_assert_str_eq(c.nfs_listen, "[::]:2049");
	ck_assert_int_eq(c.nfs_rpcbind, CONF_RPCBIND_NO);
	ck_assert_uint_eq(c.nexports, 2);
	const struct conf_export *e = &c.exports[0];
	ck_assert_str_eq(e->name, "home");
	ck_assert_str_eq(e->path, "/");
	ck_assert_uint_eq(e->id, 4166);	/* it stands in handles: it may not change */
	ck_assert_int_eq(e->access, CONF_ACCESS_RO);
	ck_assert_int_eq(e->squash, CONF_SQUASH_ROOT);
	ck_assert_uint_eq(e->anonuid, 65534);
	ck_assert_uint_eq(e->anongid, 65534);
	ck_assert_int_eq(e->secure, 1);
	ck_assert_uint_eq(e->nnets, 1);
	e++;
	ck_assert_str_eq(e->path, "/a/pub");
	ck_assert_uint_eq(e->id, 9);
	ck_assert_int_eq(e->access, CONF_ACCESS_RW);
	ck_assert_int_eq(e->squash, CONF_SQUASH_ALL);
	ck_assert_uint_eq(e->anonuid, 0);
	ck_assert_uint_eq(e->anongid, 4294967294u);
	ck_assert_int_eq(e->secure, 0);
	ck_assert_uint_eq(e->nnets, 3);
}
END_TEST

/* A network, as it is shown, and addresses: inside, outside. */
static const struct { const char *net, *shown, *in, *out; } nets[] = {
	{ "*", "*", "::1", NULL }, { "*", "*", "::ffff:1.2.3.4", NULL },
	{ "0.0.0.0/0", "0.0.0.0/0", "::ffff:1.2.3.4", "::1" },
	{ "10.0.0.0/8", "10.0.0.0/8", "::ffff:10.255.0.1", "::ffff:11.0.0.0" },
	{ "10.0.0.0/31", "10.0.0.0/31", "::ffff:10.0.0.1", "::ffff:10.0.0.2" },
	{ "192.0.2.7", "192.0.2.7", "::ffff:192.0.2.7", "::ffff:192.0.2.6" },
	{ "192.0.2.7/32", "192.0.2.7", "::ffff:192.0.2.7", "::192.0.2.7" },
	{ "2001:db8::/33", "2001:db8::/33", "2001:db8:7fff::1", "2001:db8:8000::1" },
	{ "::1", "::1", "::1", "::2" }, { "::ffff:1.2.3.0/120", "1.2.3.0/24", "::ffff:1.2.3.4", "::ffff:1.2.4.4" },
};

START_TEST(networks)
{
	struct conf_net n;
	char text[CONF_NET_TEXT];
	unsigned char a[16];

	ck_assert_int_eq(conf_parse_net(nets[_i].net, &n), 0);
	conf_format_net(&n, text);
	ck_assert_str_eq(text, nets[_i].shown);
	ck_assert_int_eq(inet_pton(AF_INET6, nets[_i].in, a), 1);
	ck_assert(conf_net_has(&n, a));
	if (nets[_i].out) {
		ck_assert_int_eq(inet_pton(AF_INET6, nets[_i].out, a), 1);
		ck_assert(!conf_net_has(&n, a));
	}
}
END_TEST

START_TEST(differences_are_named)
{
	static struct volume_conf a;
	char out[128], small[12];

	ck_assert_msg(!parse(MINIMAL), "%s", err);
	a = c;
	ck_assert_msg(!parse(MINIMAL "[export a]\nclients = *\n"), "%s", err);
	conf_diff(&a, &c, out, sizeof out);
	ck_assert_str_eq(out, "");
	ck_assert_msg(!parse("[volume]\nbacking = /srv/home\nqueue = 1GiB\ndurability = sync\nfence_peer = none\n[nfs]\nlisten = a:1\n" NODES), "%s", err);
	conf_diff(&a, &c, out, sizeof out);
	ck_assert_str_eq(out, "[volume] durability, [volume] queue, [nfs] listen");
	conf_diff(&a, &c, small, sizeof small);
	ck_assert_str_eq(small, "[volume] du");
	ck_assert_msg(!parse("[volume]\nbacking = /srv/home\n[node alpha]\nnumber = 1\n"), "%s", err);
	conf_diff(&a, &c, out, sizeof out);
	ck_assert_str_eq(out, "[node] number, [node] address");
}
END_TEST

START_TEST(names_of_volumes)
{
	ck_assert(conf_name_ok("a") && conf_name_ok("home-2.x_y"));
	ck_assert(!conf_name_ok("") && !conf_name_ok(".x") && !conf_name_ok("-x") && !conf_name_ok("a/b") && !conf_name_ok("a b"));
	ck_assert(!conf_name_ok("x23456789012345678901234567890123"));
	ck_assert_int_eq(conf_parse("a/b", "f", MINIMAL, strlen(MINIMAL), NULL, "alpha", &c, err, sizeof err), -EINVAL);
}
END_TEST

static void write_file(const char *path, const char *text, int times)
{
	FILE *f = fopen(path, "w");
	ck_assert_ptr_nonnull(f);
	for (int i = 0; i < times; i++)
		fputs(text, f);
	fclose(f);
}

START_TEST(a_file_is_found_by_name_and_its_hooks_must_be_executable)
{
	char dir[] = "/tmp/conf_test.XXXXXX", path[128];
	ck_assert_ptr_nonnull(mkdtemp(dir));
	setenv("TANDEMFS_CONF_DIR", dir, 1);
	setenv("TANDEMFS_NODE", "alpha", 1);
	ck_assert_int_eq(conf_load("home", NULL, &c, err, sizeof err), -ENOENT);
	ck_assert_ptr_nonnull(strstr(err, "tandemfs.conf.example"));
	snprintf(path, sizeof path, "%s/home.conf", dir);
	write_file(path, "[volume]\nbacking = /srv/home\nfence_peer = /etc/passwd\n" NODES, 1);
	ck_assert_int_eq(conf_load("home", NULL, &c, err, sizeof err), -EINVAL);
	ck_assert_ptr_nonnull(strstr(err, "chmod +x"));
	write_file(path, MINIMAL, 1);
	ck_assert_msg(!conf_load("home", NULL, &c, err, sizeof err), "%s", err);
	ck_assert_str_eq(c.file, path);
	write_file(path, "#\n", CONF_FILE_MAX);
	ck_assert_int_eq(conf_load("home", path, &c, err, sizeof err), -EFBIG);
	unlink(path);
	rmdir(dir);
}
END_TEST

START_TEST(the_table_is_sound)
{
	size_t n;
	const struct conf_option *o = conf_options(&n);
	for (size_t i = 0; i < n; i++) {
		ck_assert(strstr(" volume node nfs export ", o[i].section));
		ck_assert(strlen(o[i].help) > 20);
		ck_assert(o[i].type != CONF_T_CHOICE || (o[i].choices && o[i].dflt));
		for (size_t j = 0; j < i; j++)
			ck_assert(strcmp(o[i].section, o[j].section) || strcmp(o[i].name, o[j].name));
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("conf");
	TCase *t = tcase_create("conf");
	tcase_add_test(t, minimal_file_gets_the_documented_defaults);
	tcase_add_test(t, every_option_can_be_set);
	tcase_add_loop_test(t, each_mistake_is_named_with_its_line, 0, (int)ARRAY_LEN(mistakes));
	tcase_add_test(t, long_lines_and_nul_bytes_are_refused);
	tcase_add_test(t, this_node_is_found_by_environment_then_option_then_host);
	tcase_add_test(t, a_volume_of_one_node_needs_neither_address_nor_fence);
	tcase_add_test(t, exports_and_their_defaults);
	tcase_add_loop_test(t, networks, 0, (int)ARRAY_LEN(nets));
	tcase_add_test(t, differences_are_named);
	tcase_add_test(t, names_of_volumes);
	tcase_add_test(t, a_file_is_found_by_name_and_its_hooks_must_be_executable);
	tcase_add_test(t, the_table_is_sound);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
