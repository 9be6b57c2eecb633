/* hash.c - see hash.h.  The only file that knows libcrypto. */
#include "base/hash.h"

#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void must(int ok)
{
    if (ok != 1) {
        fprintf(stderr, "llq_sweep: SHA-256 is not available in this libcrypto\n");
        abort();
    }
}

void hash_start(struct hash *h)
{
    EVP_MD_CTX *context = EVP_MD_CTX_new();

    must(context != NULL);
    must(EVP_DigestInit_ex(context, EVP_sha256(), NULL));
    h->context = context;
}

void hash_add(struct hash *h, const void *bytes, size_t n_bytes)
{
    must(EVP_DigestUpdate(h->context, bytes, n_bytes));
}

void hash_finish(struct hash *h, char out[HASH_TEXT_MAX])
{
    unsigned char digest[EVP_MAX_MD_SIZE];
    unsigned n = 0;

    must(EVP_DigestFinal_ex(h->context, digest, &n));
    EVP_MD_CTX_free(h->context);
    h->context = NULL;
    for (unsigned i = 0; i < n; i++)
        snprintf(out + 2 * i, 3, "%02x", digest[i]);
}

void hash_bytes(const void *bytes, size_t n_bytes, char out[HASH_TEXT_MAX])
{
    struct hash h = HASH_INIT;

    hash_start(&h);
    hash_add(&h, bytes, n_bytes);
    hash_finish(&h, out);
}

int hash_file(const char *path, char out[HASH_TEXT_MAX], struct err *e)
{
    enum { CHUNK = 1 << 20 };
    int fd = open(path, O_RDONLY | O_CLOEXEC);

    if (fd < 0)
        return err_set(e, ERR_INPUT, "%s: %s", path, strerror(errno));
    char *chunk = mem_alloc(CHUNK);
    struct hash h = HASH_INIT;
    ssize_t n;

    hash_start(&h);
    while ((n = read(fd, chunk, CHUNK)) > 0 || (n < 0 && errno == EINTR))
        if (n > 0)
            hash_add(&h, chunk, (size_t)n);
    int failure = n < 0 ? errno : 0;
    hash_finish(&h, out);
    free(chunk);
    close(fd);
    return failure ? err_set(e, ERR_IO, "%s: %s", path, strerror(failure)) : 0;
}

void hash_line(const void *bytes, size_t n_bytes, char out[HASH_LINE_MAX])
{
    char full[HASH_TEXT_MAX];

    hash_bytes(bytes, n_bytes, full);
    memcpy(out, full, HASH_LINE_MAX - 1);
    out[HASH_LINE_MAX - 1] = 0;
}
