/* store_h5_seal.c - a checksum past the end of the HDF5 data, so that damage is noticed by us.
 *
 * The HDF5 library checks only a part of what it reads and crashes on some damaged files
 * (1.10.8: a single wrong byte is enough).  It ignores what stands behind its own end, and cuts it
 * off when another program changes the file: such a file has no seal and is read as it is.
 *
 *   HDF5 data | "llq-sha256 " | 64 hex digits of the data's SHA-256 | line end  */
#include "record/store_h5_inner.h"

#include "base/file.h"
#include "base/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const char mark[] = "llq-sha256 ";

enum { MARK_BYTES = sizeof mark - 1, SEAL_BYTES = MARK_BYTES + HASH_TEXT_MAX - 1 + 1 };

void h5_seal(struct bytes *image)
{
    char sum[HASH_TEXT_MAX];

    hash_bytes(image->data, image->n, sum);
    bytes_text(image, mark);
    bytes_text(image, sum);
    bytes_text(image, "\n");
}

static int check_sum(int fd, int64_t n_bytes, const char *wanted, struct err *e)
{
    enum { CHUNK = 1 << 20 };
    struct hash h = HASH_INIT;
    char sum[HASH_TEXT_MAX], *chunk = mem_alloc(CHUNK);
    int rc = 0;

    hash_start(&h);
    for (int64_t at = 0; rc == 0 && at < n_bytes; at += CHUNK) {
        size_t n = n_bytes - at < CHUNK ? (size_t)(n_bytes - at) : CHUNK;
        rc = file_pread(fd, chunk, n, at, e);
        if (rc == 0)
            hash_add(&h, chunk, n);
    }
    hash_finish(&h, sum);
    free(chunk);
    if (rc == 0 && memcmp(sum, wanted, HASH_TEXT_MAX - 1) != 0)
        rc = err_set(e, ERR_INPUT, "damaged: its content does not match its checksum");
    return rc;
}

int h5_check_seal(const char *path, struct err *e)
{
    char seal[SEAL_BYTES];
    int64_t size = file_size(path);
    int fd = open(path, O_RDONLY | O_CLOEXEC), rc = 0;

    if (fd < 0)
        return err_set(e, ERR_INPUT, "%s", strerror(errno));
    if (size > SEAL_BYTES) {
        rc = file_pread(fd, seal, SEAL_BYTES, size - SEAL_BYTES, e);
        if (rc == 0 && memcmp(seal, mark, MARK_BYTES) == 0)
            rc = check_sum(fd, size - SEAL_BYTES, seal + MARK_BYTES, e);
    }
    close(fd);
    return rc;
}
