/* hash.h - SHA-256 of bytes and files; the key of a job, the identity of a model.
 * The only room that knows the crypto library (OpenSSL's libcrypto) is hash.c. */
#pragma once

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

#define HASH_TEXT_MAX 65 /* 64 lower-case hex digits and the 0 byte */

struct hash {
    void *context; /* inner; NULL: not started */
};

#define HASH_INIT \
    {             \
        0         \
    }

void hash_start(struct hash *h);
void hash_add(struct hash *h, const void *bytes, size_t n_bytes);
void hash_finish(struct hash *h, char out[HASH_TEXT_MAX]); /* also releases */

void hash_bytes(const void *bytes, size_t n_bytes, char out[HASH_TEXT_MAX]);
int hash_file(const char *path, char out[HASH_TEXT_MAX], struct err *e);

/* A short checksum for lines: the first 8 hex digits of the SHA-256. */
#define HASH_LINE_MAX 9
void hash_line(const void *bytes, size_t n_bytes, char out[HASH_LINE_MAX]);
