/*
 * The control socket: how the tandemfs command talks to a running daemon. A unix stream socket, mode 0600; JSON objects, one per line, of at most
 * CONTROL_LINE_MAX bytes; a connection carries any number of requests, one after the other. Only root and the daemon's own user are
 * listened to (SO_PEERCRED), whatever the file's mode became.
 */
#ifndef FS_CMD_CONTROL_H
#define FS_CMD_CONTROL_H

#include <jansson.h>

enum {
	CONTROL_LINE_MAX = 256 << 10,	/* bytes of a request or response */
	CONTROL_CLIENTS_MAX = 16,	/* connections served at once; more wait in the listen queue */
	CONTROL_IDLE_MS = 30000,	/* a connection that is silent for so long is closed */
};

/* ---- server ---- */

/* Answers REQUEST (borrowed; an object with a string "cmd"): a new object, see control_ok() and control_error(). NULL: no memory. Called
 * from several threads at once; may block. */
typedef json_t *(*control_fn)(void *arg, const json_t *request);

struct control_server;
/* Listens at PATH (its directory is made when it is missing; what a dead daemon left there is replaced; -EADDRINUSE when a live
 * one answers). */
int control_server_start(const char *path, control_fn fn, void *arg, struct control_server **out);
/* Removes the socket, closes all connections, waits for the handlers. */
void control_server_stop(struct control_server *s);

/* {"ok":true}; add to it. */
json_t *control_ok(void);
/* {"ok":false, "error":..., "hint":...}; HINT may be NULL. */
json_t *control_error(const char *hint, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* ---- client ---- */

/* Sends REQUEST (stolen) and waits up to TIMEOUT_MS (0 = for ever) for the response, a new reference in *RESPONSE.
 * -ENOENT, -ECONNREFUSED: no daemon; -ETIMEDOUT; -EPROTO: not our protocol. WAIT_END: then waits until the daemon is gone. */
int control_call(const char *path, json_t *request, unsigned timeout_ms, int wait_end, json_t **response);

#endif
