/* safetensors.h - tensors in a file, by name.
 *
 *   bytes 0..7    N, unsigned, little-endian
 *   next N bytes  JSON: name -> { "dtype", "shape", "data_offsets": [begin, end) }
 *   rest          data, row-major, little-endian, in any order, possibly unaligned
 *
 * open() makes every check of the reference parser (huggingface/safetensors), so what comes
 * after may trust offsets and sizes: the tensors tile the data without hole or overlap, up to
 * the last byte of the file.  Stricter than the reference: a name may stand there only once,
 * and the header may not nest deeper than SAFETENSORS_DEPTH_MAX.
 *
 * Reading uses pread, never a mapping: a file that shrinks on a network file system is then an
 * error instead of a signal.  Any number of threads may read at once. */
#pragma once

#include "backend/dtype.h"
#include "base/err.h"
#include "base/memory.h"

#include <stddef.h>
#include <stdint.h>

#define SAFETENSORS_HEADER_MAX 100000000 /* bytes; this many are still accepted */
#define SAFETENSORS_DEPTH_MAX  16

struct safetensors_tensor {
    char *name;
    enum dtype dtype;       /* DTYPE_OTHER: valid in the format, of no use here */
    const char *dtype_text; /* "BF16" */
    int n_dims;
    uint64_t *shape; /* [n_dims] */
    int64_t n_elements;
    int64_t offset, n_bytes; /* in the file */
};

/* Lifetime: while its owner reads.  Strings and shapes belong to it. */
struct safetensors {
    char *path;
    int fd; /* -1: not open */
    int64_t file_bytes;
    size_t n;
    struct safetensors_tensor *tensor; /* [n], by name */
};

#define SAFETENSORS_INIT \
    {                    \
        .fd = -1         \
    }

/* ERR_INPUT names the file, the tensor and the rule that is broken. */
int safetensors_open(struct safetensors *s, const char *path, struct err *e);
void safetensors_close(struct safetensors *s); /* also after a failed open, also twice */

/* The tensor called name, or NULL. */
const struct safetensors_tensor *safetensors_find(const struct safetensors *s, const char *name);

/* n_bytes of t from first_byte on; `to` needs no alignment. */
int safetensors_read(const struct safetensors *s, const struct safetensors_tensor *t,
                     int64_t first_byte, int64_t n_bytes, void *to, struct err *e);

/* "[2, 3]"; text is returned. */
#define SAFETENSORS_SHAPE_MAX 128
const char *safetensors_shape_text(const struct safetensors_tensor *t,
                                   char text[SAFETENSORS_SHAPE_MAX]);

/* ---- writing ---- */

struct safetensors_out {
    const char *name;
    enum dtype dtype;
    int n_dims;
    int64_t shape[4];
    const void *data;        /* NULL where the caller writes the data itself */
    int64_t offset, n_bytes; /* set by safetensors_layout() */
};

/* Sorts t as the reference writer does (alignment of the dtype descending, then name), sets
 * offsets and sizes, and appends the 8 + N bytes before the data (N a multiple of 8). */
void safetensors_layout(struct safetensors_out *t, size_t n, struct bytes *head);

/* Writes the whole file; t is sorted on the way. */
int safetensors_write(const char *path, struct safetensors_out *t, size_t n, struct err *e);
