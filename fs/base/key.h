/*
 * The volume's transport key: 32 random bytes, in a file of 64 hexadecimal digits and a newline, owned by root (or the user
 * that runs us) and inaccessible to everybody else.
 */
#ifndef FS_BASE_KEY_H
#define FS_BASE_KEY_H

#include <stddef.h>

enum { KEY_LEN = 32, KEY_FINGERPRINT_LEN = 24 };

/* Reads PATH. 0, or -errno and one line in ERR that says what to do: -ENOENT, -EPERM (group or others may access it, a
 * stranger owns it, not a regular file), -EINVAL (contents). */
int key_read(const char *path, unsigned char key[KEY_LEN], char *err, size_t errlen);
/* Writes a new random key to PATH, mode 0600, durably. -EEXIST: there is one already; it is never overwritten. */
int key_generate(const char *path, char *err, size_t errlen);
/* A short text by which people compare keys; it says nothing about the key. OUT: KEY_FINGERPRINT_LEN bytes. */
void key_fingerprint(const unsigned char key[KEY_LEN], char out[KEY_FINGERPRINT_LEN]);
/* Overwrites the key in memory. */
void key_wipe(unsigned char key[KEY_LEN]);

#endif
