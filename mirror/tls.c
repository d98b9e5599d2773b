/*
 * TLS 1.3 with an external pre-shared key (RFC 8446, 4.2.11).
 *
 * The identity is the volume's UUID, the key 32 random bytes, the hash SHA-256, and the key exchange always psk_dhe_ke, so that a key that
 * leaks later doesn't open what was recorded before. No certificates, no tickets, no early data, no renegotiation, no older version.
 *
 * A server that finds no key for an identity goes on as if for a certificate, has none, and ends with an alert. A client must not be
 * talked into a certificate: it verifies against an empty store, and tls_trusted() asks whether the key was used.
 *
 * AES-128-GCM where the CPU has AES, else ChaCha20-Poly1305; both hash with SHA-256, so one session serves either.
 */
#include "mirror/tls.h"

#include <errno.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/socket.h>

#include "fs/base/cleanup.h"

enum { TLS_READ_BUFFER = 128 << 10 };

struct conn_security {
	SSL_CTX *ctx;			/* owned; NULL: no TLS */
	BIO_METHOD *bio;		/* owned */
	unsigned char key[CONN_KEY_LEN];
	unsigned char uuid[UUID_LEN];
};

static const unsigned char id_aes128_gcm_sha256[2] = { 0x13, 0x01 };
static const unsigned char zero_uuid[UUID_LEN];

static bool cpu_has_aes(void)
{
#if defined(__x86_64__)
	return __builtin_cpu_supports("aes");
#elif defined(__aarch64__)
	return getauxval(AT_HWCAP) & (1 << 3);
#else
	return false;
#endif
}

/* ---- the key ---- */

static SSL_SESSION *psk_session(SSL *ssl, const struct conn_security *s)
{
	const SSL_CIPHER *cipher = SSL_CIPHER_find(ssl, id_aes128_gcm_sha256);
	SSL_SESSION *sess = SSL_SESSION_new();

	if (sess && cipher && SSL_SESSION_set1_master_key(sess, s->key, sizeof s->key) && SSL_SESSION_set_cipher(sess, cipher) &&
	    SSL_SESSION_set_protocol_version(sess, TLS1_3_VERSION))
		return sess;
	SSL_SESSION_free(sess);
	return NULL;
}

static int client_key(SSL *ssl, const EVP_MD *md, const unsigned char **id, size_t *id_len, SSL_SESSION **sess)
{
	const struct conn_security *s = SSL_get_app_data(ssl);

	*sess = NULL;
	*id = NULL;
	*id_len = 0;
	if (md && !EVP_MD_is_a(md, "SHA256"))
		return 1;		/* the server wants a hash that the key isn't for: no key */
	*sess = psk_session(ssl, s);
	if (!*sess)
		return 0;
	*id = s->uuid;
	*id_len = UUID_LEN;
	return 1;
}

static int server_key(SSL *ssl, const unsigned char *id, size_t id_len, SSL_SESSION **sess)
{
	const struct conn_security *s = SSL_get_app_data(ssl);

	*sess = NULL;
	if (id_len != UUID_LEN || (memcmp(id, s->uuid, UUID_LEN) != 0 && memcmp(id, zero_uuid, UUID_LEN) != 0))
		return 1;		/* unknown: the handshake ends with an alert */
	*sess = psk_session(ssl, s);
	return *sess != NULL;
}

/* ---- a BIO that never raises SIGPIPE ---- */

static int sock_result(BIO *b, ssize_t n)
{
	BIO_clear_retry_flags(b);
	if (n >= 0)
		return (int)n;
	if (errno == EAGAIN || errno == EINTR)
		return -1;
	return -2;
}

static int sock_write(BIO *b, const char *p, int len)
{
	ssize_t n = send((int)(intptr_t)BIO_get_data(b), p, (size_t)len, MSG_NOSIGNAL | MSG_DONTWAIT);
	int r = sock_result(b, n);

	if (r == -1)
		BIO_set_retry_write(b);
	return r < 0 ? -1 : r;
}

static int sock_read(BIO *b, char *p, int len)
{
	ssize_t n = recv((int)(intptr_t)BIO_get_data(b), p, (size_t)len, MSG_DONTWAIT);
	int r = sock_result(b, n);

	if (r == -1)
		BIO_set_retry_read(b);
	return r < 0 ? -1 : r;
}

static long sock_ctrl(BIO *b, int cmd, long num, void *p)
{
	(void)b; (void)num; (void)p;
	return cmd == BIO_CTRL_FLUSH;
}

static BIO_METHOD *sock_method(void)
{
	BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "tandemfs socket");

	if (m && BIO_meth_set_write(m, sock_write) && BIO_meth_set_read(m, sock_read) && BIO_meth_set_ctrl(m, sock_ctrl))
		return m;
	BIO_meth_free(m);
	return NULL;
}

/* ---- life ---- */

static int ctx_setup(SSL_CTX *ctx)
{
	const char *suites = cpu_has_aes() ? "TLS_AES_128_GCM_SHA256:TLS_CHACHA20_POLY1305_SHA256" :
					     "TLS_CHACHA20_POLY1305_SHA256:TLS_AES_128_GCM_SHA256";

	SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
	SSL_CTX_set_mode(ctx, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER);
	SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_read_ahead(ctx, 1);
	SSL_CTX_set_default_read_buffer_len(ctx, TLS_READ_BUFFER);
	SSL_CTX_set_psk_use_session_callback(ctx, client_key);
	SSL_CTX_set_psk_find_session_callback(ctx, server_key);
	return SSL_CTX_set_min_proto_version(ctx, TLS1_3_VERSION) && SSL_CTX_set_max_proto_version(ctx, TLS1_3_VERSION) &&
	       SSL_CTX_set_ciphersuites(ctx, suites) && SSL_CTX_set1_groups_list(ctx, "X25519:P-256") &&
	       SSL_CTX_set_num_tickets(ctx, 0) && SSL_CTX_set_max_early_data(ctx, 0);
}

int conn_security_new(const unsigned char key[CONN_KEY_LEN], const unsigned char uuid[UUID_LEN], struct conn_security **out)
{
	struct conn_security *s = calloc(1, sizeof *s);

	if (!s)
		return -ENOMEM;
	memcpy(s->uuid, uuid, UUID_LEN);
	if (key) {
		memcpy(s->key, key, CONN_KEY_LEN);
		s->ctx = SSL_CTX_new(TLS_method());
		s->bio = sock_method();
		if (!s->ctx || !s->bio || !ctx_setup(s->ctx)) {
			conn_security_free(s);
			return -ENOMEM;
		}
	}
	*out = s;
	return 0;
}

void conn_security_free(struct conn_security *s)
{
	if (!s)
		return;
	SSL_CTX_free(s->ctx);
	BIO_meth_free(s->bio);
	OPENSSL_cleanse(s->key, sizeof s->key);
	free(s);
}

bool tls_wanted(const struct conn_security *s)
{
	return s->ctx != NULL;
}

SSL *tls_new(struct conn_security *s, int fd, bool server)
{
	SSL *ssl = SSL_new(s->ctx);
	BIO *b = BIO_new(s->bio);

	if (!ssl || !b) {
		SSL_free(ssl);
		BIO_free(b);
		ERR_clear_error();
		return NULL;
	}
	BIO_set_data(b, (void *)(intptr_t)fd);
	BIO_set_init(b, 1);
	SSL_set_bio(ssl, b, b);
	SSL_set_app_data(ssl, s);
	if (server) {
		SSL_set_accept_state(ssl);
	} else {
		SSL_set_verify(ssl, SSL_VERIFY_PEER, NULL);
		SSL_set_connect_state(ssl);
	}
	return ssl;
}

bool tls_trusted(SSL *ssl)
{
	return SSL_version(ssl) == TLS1_3_VERSION && SSL_session_reused(ssl) == 1;
}
