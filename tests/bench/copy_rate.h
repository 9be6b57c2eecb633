/* copy_rate.h - what a device's memory gives, for benchmarks to print beside their own figures. */
#pragma once

#include "backend/backend.h"
#include "base/clock.h"

#include <string.h>

#if defined(WITH_CUDA)
int cudaMemcpyAsync(void *to, const void *from, size_t n_bytes, int kind, void *stream);
int cudaDeviceSynchronize(void);
#define DEVICE_TO_DEVICE 3
#endif

/* Bytes read and written a second by a copy of 1 GB; 0: not known. */
static inline double copy_rate(struct backend *b, struct err *e)
{
    double best = 0;
#if defined(WITH_CUDA)
    const int64_t n = 1 << 14;
    struct tensor from, to;

    if (strcmp(b->ops->name, "cuda") != 0)
        return 0;
    if (tensor_alloc(b, MEM_BASE, DTYPE_BF16, n, 2 * n, &from, e) < 0 ||
        tensor_alloc(b, MEM_BASE, DTYPE_BF16, n, 2 * n, &to, e) < 0 || b->ops->sync(b, e) < 0)
        return 0;
    for (int round = 0; round < 8; round++) {
        double start = clock_seconds();
        cudaMemcpyAsync(to.data, from.data, tensor_bytes(&to), DEVICE_TO_DEVICE, NULL);
        cudaDeviceSynchronize();
        double rate = 2.0 * (double)tensor_bytes(&to) / (clock_seconds() - start);
        best = rate > best ? rate : best;
    }
    tensor_free(b, &from);
    tensor_free(b, &to);
#else
    (void)b, (void)e;
#endif
    return best;
}
