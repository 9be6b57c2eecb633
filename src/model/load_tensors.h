/* load_tensors.h - many tensors from files to the device at the speed of memory: several threads
 * read pieces, look for NaN and infinity while a piece is in the cache, and upload it.  Where the
 * device lends memory for that (backend_ops.stage), a piece is copied while the next is read. */
#pragma once

#include "backend/backend.h"
#include "model/checkpoint.h"

struct load_item {
    const struct checkpoint_tensor *from;
    int64_t first_byte, n_bytes; /* of the tensor: all of it, or some rows */
    void *to;                    /* device memory of n_bytes */
};

/* ERR_INPUT names the first element, in the order of items, that is not finite. */
int load_tensors(struct backend *b, const struct load_item *items, size_t n, struct err *e);

/* Index of the first NaN or infinity among n elements of t (F32, F16, BF16), or -1. */
int64_t first_not_finite(enum dtype t, const void *elements, int64_t n);
