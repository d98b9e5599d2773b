/*
 * What conn.c needs of OpenSSL, set up: TLS 1.3 with an external pre-shared key, and nothing else. Only conn.c includes this.
 */
#ifndef MIRROR_TLS_H
#define MIRROR_TLS_H

#include <openssl/ssl.h>
#include <stdbool.h>

#include "mirror/conn.h"

enum { TLS_RECORD_MAX = 16 << 10 };

/* False: this volume goes without TLS. */
bool tls_wanted(const struct conn_security *s);
/* An SSL over FD (borrowed), ready for SSL_do_handshake; NULL = no memory. Its I/O never blocks and never raises SIGPIPE. */
SSL *tls_new(struct conn_security *s, int fd, bool server);
/* After the handshake: was it our key that made it? */
bool tls_trusted(SSL *ssl);

#endif
