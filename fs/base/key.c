/*
 * The key file. The digits are turned into bytes here and nowhere else; buffers that held them are wiped. A new key is written to a
 * file made with O_EXCL, so that an old key, which all other nodes use, is never lost to a second `key --generate`.
 */
#include "fs/base/key.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/sha.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/base/cleanup.h"

enum { KEY_TEXT_LEN = 2 * KEY_LEN };

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/* Is the file behind FD as private as a key must be? */
static int check_private(int fd, const char *path, char *err, size_t errlen)
{
	struct stat st;

	if (fstat(fd, &st))
		return -errno;
	if (!S_ISREG(st.st_mode)) {
		snprintf(err, errlen, "%s: is no regular file: make a key with `tandemfs key --generate NAME'", path);
		return -EPERM;
	}
	if (st.st_uid != 0 && st.st_uid != geteuid()) {
		snprintf(err, errlen, "%s: is owned by user %u, who could change it: chown root it", path, (unsigned)st.st_uid);
		return -EPERM;
	}
	if (st.st_mode & 077) {
		snprintf(err, errlen, "%s: others than its owner may access it (mode %04o): chmod 0600 it", path, (unsigned)st.st_mode & 07777);
		return -EPERM;
	}
	return 0;
}

/* TEXT: LEN bytes. */
static int parse(const char *text, size_t len, unsigned char key[KEY_LEN])
{
	if (len && text[len - 1] == '\n')
		len--;
	if (len != KEY_TEXT_LEN)
		return -EINVAL;
	for (size_t i = 0; i < KEY_LEN; i++) {
		int hi = hex_digit(text[2 * i]), lo = hex_digit(text[2 * i + 1]);
		if (hi < 0 || lo < 0)
			return -EINVAL;
		key[i] = (unsigned char)(hi << 4 | lo);
	}
	return 0;
}

int key_read(const char *path, unsigned char key[KEY_LEN], char *err, size_t errlen)
{
	char text[KEY_TEXT_LEN + 8];

	auto_fd int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0) {
		int e = errno;
		snprintf(err, errlen, "%s: %s: %s", path, strerror(e),
			 e == ENOENT ? "copy the key from another node, or make one with `tandemfs key --generate NAME'" : "make it readable for root");
		return -e;
	}
	int r = check_private(fd, path, err, errlen);
	if (r)
		return r;
	ssize_t n = read(fd, text, sizeof text);
	if (n < 0) {
		r = -errno;
		snprintf(err, errlen, "%s: %s: make it readable for root", path, strerror(-r));
		return r;
	}
	r = parse(text, (size_t)n, key);
	OPENSSL_cleanse(text, sizeof text);
	if (r) {
		key_wipe(key);
		snprintf(err, errlen, "%s: is no key: it must hold %d hexadecimal digits and a newline; copy it from another node again", path,
			 KEY_TEXT_LEN);
	}
	return r;
}

/* All of TEXT into the new file behind FD, durably. */
static int write_durably(int fd, const char *text, size_t len)
{
	for (size_t done = 0; done < len;) {
		ssize_t n = write(fd, text + done, len - done);
		if (n < 0 && errno != EINTR)
			return -errno;
		done += n > 0 ? (size_t)n : 0;
	}
	return fsync(fd) ? -errno : 0;
}

int key_generate(const char *path, char *err, size_t errlen)
{
	static const char digits[] = "0123456789abcdef";
	unsigned char key[KEY_LEN];
	char text[KEY_TEXT_LEN + 2];

	auto_fd int fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0) {
		int e = errno;
		snprintf(err, errlen, "%s: %s: %s", path, strerror(e),
			 e == EEXIST ? "the volume's nodes may be using that key; move it away first if you mean it" :
			 e == ENOENT ? "create the directory first" : "run this as root");
		return -e;
	}
	int r = fchmod(fd, 0600) ? -errno : 0;
	if (!r && getrandom(key, sizeof key, 0) != (ssize_t)sizeof key)
		r = -EIO;
	for (size_t i = 0; !r && i < KEY_LEN; i++) {
		text[2 * i] = digits[key[i] >> 4];
		text[2 * i + 1] = digits[key[i] & 15];
	}
	text[KEY_TEXT_LEN] = '\n';
	if (!r)
		r = write_durably(fd, text, KEY_TEXT_LEN + 1);
	key_wipe(key);
	OPENSSL_cleanse(text, sizeof text);
	if (r) {
		unlink(path);
		snprintf(err, errlen, "%s: %s: nothing was written", path, strerror(-r));
	}
	return r;
}

void key_fingerprint(const unsigned char key[KEY_LEN], char out[KEY_FINGERPRINT_LEN])
{
	static const char label[] = "tandemfs key fingerprint";
	unsigned char text[sizeof label + KEY_LEN], sum[SHA256_DIGEST_LENGTH];

	memcpy(text, label, sizeof label);
	memcpy(text + sizeof label, key, KEY_LEN);
	SHA256(text, sizeof text, sum);
	OPENSSL_cleanse(text, sizeof text);
	snprintf(out, KEY_FINGERPRINT_LEN, "%02x%02x-%02x%02x-%02x%02x-%02x%02x", sum[0], sum[1], sum[2], sum[3], sum[4], sum[5], sum[6],
		 sum[7]);
}

void key_wipe(unsigned char key[KEY_LEN])
{
	OPENSSL_cleanse(key, KEY_LEN);
}
