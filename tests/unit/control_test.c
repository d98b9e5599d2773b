/* The control socket: requests and answers, many clients, bad input, a dead daemon's socket, an orderly end. */
#include "fs/cmd/control.h"

#include <check.h>
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char dir[64], path[128];
static struct control_server *server;

static json_t *handler(void *arg, const json_t *request)
{
	const char *cmd = json_string_value(json_object_get(request, "cmd"));

	ck_assert_ptr_eq(arg, dir);
	if (!strcmp(cmd, "fail"))
		return control_error("try harder", "it %s", "failed");
	if (!strcmp(cmd, "none"))
		return NULL;
	json_t *r = control_ok();
	json_object_set_new(r, "echo", json_deep_copy(request));
	return r;
}

static void setup(void)
{
	strcpy(dir, "/tmp/control_test.XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(path, sizeof path, "%s/run/sock", dir);
	ck_assert_int_eq(control_server_start(path, handler, dir, &server), 0);
}

static void teardown(void)
{
	control_server_stop(server);
	server = NULL;
	unlink(path);
	*strrchr(path, '/') = 0;
	rmdir(path);
	rmdir(dir);
}

static int call(const char *cmd, json_t **res)
{
	return control_call(path, json_pack("{s:s,s:I}", "cmd", cmd, "n", (json_int_t)5), 5000, 0, res);
}

START_TEST(a_request_gets_its_answer)
{
	json_t *res;
	struct stat st;
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0600);
	ck_assert_int_eq(call("x", &res), 0);
	ck_assert(json_is_true(json_object_get(res, "ok")));
	ck_assert_int_eq(json_integer_value(json_object_get(json_object_get(res, "echo"), "n")), 5);
	json_decref(res);
	ck_assert_int_eq(call("fail", &res), 0);
	ck_assert(json_is_false(json_object_get(res, "ok")));
	ck_assert_str_eq(json_string_value(json_object_get(res, "error")), "it failed");
	ck_assert_str_eq(json_string_value(json_object_get(res, "hint")), "try harder");
	json_decref(res);
	ck_assert_int_eq(call("none", &res), -ECONNRESET);
}
END_TEST

static void *caller(void *arg)
{
	(void)arg;
	for (int i = 0; i < 20; i++) {
		json_t *res;
		ck_assert_int_eq(call("x", &res), 0);
		json_decref(res);
	}
	return NULL;
}

START_TEST(more_clients_than_slots_are_all_served)
{
	pthread_t t[2 * CONTROL_CLIENTS_MAX];
	for (size_t i = 0; i < sizeof t / sizeof t[0]; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, caller, NULL), 0);
	for (size_t i = 0; i < sizeof t / sizeof t[0]; i++)
		pthread_join(t[i], NULL);
}
END_TEST

static int raw_dial(void)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	strcpy(a.sun_path, path);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	ck_assert_int_eq(connect(fd, (struct sockaddr *)&a, sizeof a), 0);
	return fd;
}

START_TEST(bad_input_gets_an_error_and_the_end)
{
	static const char *const bad[] = { "nonsense\n", "[1]\n", "{\"cmd\":1}\n", "{}\n", "{\"cmd\":\"x\",\"cmd\":\"y\"}\n", "\xff\xfe\n" };
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		char buf[512] = "";
		int fd = raw_dial();
		ck_assert(send(fd, bad[i], strlen(bad[i]), MSG_NOSIGNAL) > 0);
		shutdown(fd, SHUT_WR);
		ssize_t n = recv(fd, buf, sizeof buf - 1, MSG_WAITALL);
		ck_assert(n > 0);
		ck_assert_ptr_nonnull(strstr(buf, "\"ok\":false"));
		close(fd);
	}
}
END_TEST

START_TEST(an_endless_line_is_cut_off)
{
	static char junk[65536];
	memset(junk, 'x', sizeof junk);
	int fd = raw_dial();
	size_t sent = 0;
	ssize_t n;
	while (sent < 64u << 20 && (n = send(fd, junk, sizeof junk, MSG_NOSIGNAL)) > 0)
		sent += (size_t)n;
	ck_assert_msg(sent < 4u << 20, "the server took %zu bytes", sent);
	close(fd);
	json_t *res;
	ck_assert_int_eq(call("x", &res), 0);
	json_decref(res);
}
END_TEST

START_TEST(two_requests_on_one_connection)
{
	char buf[512] = "";
	int fd = raw_dial();
	static const char two[] = "{\"cmd\":\"a\"}\n{\"cmd\":\"b\"}\n";
	ck_assert(send(fd, two, sizeof two - 1, 0) == (ssize_t)sizeof two - 1);
	shutdown(fd, SHUT_WR);
	ck_assert(recv(fd, buf, sizeof buf - 1, MSG_WAITALL) > 0);
	ck_assert_ptr_nonnull(strstr(buf, "\"a\""));
	ck_assert_ptr_nonnull(strstr(buf, "\"b\""));
	close(fd);
}
END_TEST

START_TEST(a_live_socket_is_not_taken_and_a_dead_one_is)
{
	struct control_server *second;
	ck_assert_int_eq(control_server_start(path, handler, dir, &second), -EADDRINUSE);
	control_server_stop(server);
	json_t *res;
	ck_assert_int_eq(call("x", &res), -ENOENT);
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	strcpy(a.sun_path, path);
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	ck_assert_int_eq(bind(fd, (struct sockaddr *)&a, sizeof a), 0);
	close(fd);		/* as a killed daemon leaves it */
	ck_assert_int_eq(call("x", &res), -ECONNREFUSED);
	ck_assert_int_eq(control_server_start(path, handler, dir, &server), 0);
	ck_assert_int_eq(call("x", &res), 0);
	json_decref(res);
}
END_TEST

static json_t *end_handler(void *arg, const json_t *request)
{
	(void)request;
	if (write(*(int *)arg, "e", 1) != 1)
		return NULL;
	return control_ok();
}

START_TEST(a_client_can_wait_for_the_daemons_end)
{
	char own[160], c;
	int p[2], ready[2];
	snprintf(own, sizeof own, "%s/own", dir);
	ck_assert(!pipe(p) && !pipe(ready));
	pid_t pid = fork();
	if (!pid) {
		struct control_server *s;
		if (control_server_start(own, end_handler, &p[1], &s) || write(ready[1], "r", 1) != 1 || read(p[0], &c, 1) != 1)
			_exit(1);
		control_server_stop(s);
		_exit(0);
	}
	ck_assert(read(ready[0], &c, 1) == 1);
	json_t *res;
	ck_assert_int_eq(control_call(own, json_pack("{s:s}", "cmd", "umount"), 20000, 1, &res), 0);
	json_decref(res);
	int status;
	ck_assert_int_eq(waitpid(pid, &status, WNOHANG), pid);
	ck_assert_int_eq(status, 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("control");
	TCase *t = tcase_create("control");
	tcase_set_timeout(t, 30);
	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, a_request_gets_its_answer);
	tcase_add_test(t, more_clients_than_slots_are_all_served);
	tcase_add_test(t, bad_input_gets_an_error_and_the_end);
	tcase_add_test(t, an_endless_line_is_cut_off);
	tcase_add_test(t, two_requests_on_one_connection);
	tcase_add_test(t, a_live_socket_is_not_taken_and_a_dead_one_is);
	tcase_add_test(t, a_client_can_wait_for_the_daemons_end);
	suite_add_tcase(s, t);
	SRunner *r = srunner_create(s);
	srunner_run_all(r, CK_ENV);
	int failed = srunner_ntests_failed(r);
	srunner_free(r);
	return failed ? 1 : 0;
}
