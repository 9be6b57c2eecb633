/* bench_load.c - how fast a checkpoint gets onto the device, NaN check included:
 *
 *   bench_load FOLDER [RUNS [cpu|cuda|auto]]
 *
 * The first run may read from the disk and, in a virtual machine, waits for the host to hand out
 * memory it has not touched yet; the median of the others is the figure to quote.  Beside it, what
 * bounds it: reading and checking alone, and on a GPU copies from pinned memory alone. */
#include "backend/backend.h"
#include "base/clock.h"
#include "model/checkpoint.h"
#include "model/load_tensors.h"
#include "model/model.h"

#include <omp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#if defined(WITH_CUDA)
#include <cuda_runtime_api.h>
#endif

static int ascending(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Every tensor, as load_tensors() cuts them, to nowhere. */
static int read_alone(const char *folder, double *rate, struct err *e)
{
    struct checkpoint from = CHECKPOINT_INIT;
    int64_t n_bytes = 0;
    int failed = 0;

    if (checkpoint_open(&from, folder, e) < 0)
        return -1;
    double start = clock_seconds();
#pragma omp parallel reduction(+ : n_bytes)
    {
        char *piece = aligned_alloc(4096, STAGE_BYTES);
        struct err mine = ERR_INIT;

        for (size_t i = 0; piece && i < from.n; i++) {
            const struct safetensors_tensor *t = from.tensor[i].tensor;
#pragma omp for schedule(dynamic, 4) nowait
            for (int64_t at = 0; at < t->n_bytes; at += (int64_t)STAGE_BYTES) {
                int64_t n =
                    t->n_bytes - at < (int64_t)STAGE_BYTES ? t->n_bytes - at : (int64_t)STAGE_BYTES;
                if (safetensors_read(from.tensor[i].file, t, at, n, piece, &mine) < 0 ||
                    first_not_finite(t->dtype, piece, n / (int64_t)dtype_bytes(t->dtype)) >= 0) {
#pragma omp atomic write
                    failed = 1;
                }
                n_bytes += n;
            }
        }
        free(piece);
    }
    *rate = (double)n_bytes * 1e-9 / (clock_seconds() - start);
    checkpoint_close(&from);
    return failed ? err_set(e, ERR_INPUT, "reading failed") : 0;
}

#if defined(WITH_CUDA)
/* Copies of n_bytes from pinned memory, one behind the other, 4 GB in all. */
static int copies_alone(size_t n_bytes, double *rate)
{
    const size_t total = (size_t)4 << 30, room = (size_t)256 << 20;
    char *host = NULL, *device = NULL;
    cudaStream_t stream = NULL;
    double start = 0;
    int rc = -1;

    if (cudaHostAlloc((void **)&host, room, cudaHostAllocDefault) != cudaSuccess ||
        cudaMalloc((void **)&device, room) != cudaSuccess ||
        cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking) != cudaSuccess)
        goto out;
    for (size_t i = 0; i < room; i++) /* nothing compresses */
        host[i] = (char)(i * 2654435761u >> 13);
    for (int warm = 1; warm >= 0; warm--) {
        start = clock_seconds();
        for (size_t done = 0; done < total; done += n_bytes)
            if (cudaMemcpyAsync(device + done % room, host + done % room, n_bytes,
                                cudaMemcpyHostToDevice, stream) != cudaSuccess)
                goto out;
        if (cudaStreamSynchronize(stream) != cudaSuccess)
            goto out;
    }
    *rate = (double)total * 1e-9 / (clock_seconds() - start);
    rc = 0;
out:
    cudaStreamDestroy(stream);
    cudaFree(device);
    cudaFreeHost(host);
    return rc;
}

static void print_ceiling(double loaded)
{
    double large = 0, small = 0;

    if (copies_alone((size_t)256 << 20, &large) < 0 || copies_alone(STAGE_BYTES, &small) < 0) {
        printf("copies alone failed\n");
        return;
    }
    printf("copies from pinned memory alone: 256 MiB each %.2f GB/s, %zu KiB each %.2f GB/s; "
           "loading reaches %.0f %% of the first\n",
           large, STAGE_BYTES >> 10, small, 100 * loaded / large);
}
#endif

int main(int argc, char **argv)
{
    struct backend b = BACKEND_INIT;
    struct err e = ERR_INIT;
    double rate[100], reading = 0;
    int runs = argc > 2 ? atoi(argv[2]) : 5, rc = 1;

    if (argc < 2 || runs < 2 || runs > 100) {
        fprintf(stderr, "usage: bench_load FOLDER [RUNS [cpu|cuda|auto]]\n");
        return 2;
    }
    if (backend_open(&b, argc > 3 ? argv[3] : "auto", 0, NULL, &e) < 0)
        goto out;
    for (int i = 0; i < runs; i++) {
        struct model m = MODEL_INIT;
        struct load_facts facts;
        if (weights_load_timed(&b, argv[1], &m, &facts, &e) < 0)
            goto out;
        rate[i] = (double)facts.n_bytes * 1e-9 / facts.read_s;
        printf("run %d: %.3f GB in %.3f s: %.2f GB/s on %s\n", i + 1, (double)facts.n_bytes * 1e-9,
               facts.read_s, rate[i], b.ops->name);
        model_release(&m);
    }
    qsort(rate + 1, (size_t)runs - 1, sizeof *rate, ascending);
    double loaded = rate[1 + (runs - 1) / 2];
    printf("first %.2f GB/s, median of the others %.2f GB/s\n", rate[0], loaded);
    for (int i = 0; i < 2; i++)
        if (read_alone(argv[1], &reading, &e) < 0)
            goto out;
    printf("reading and checking alone: %.2f GB/s on %d threads\n", reading, omp_get_max_threads());
#if defined(WITH_CUDA)
    if (strcmp(b.ops->name, "cuda") == 0)
        print_ceiling(loaded);
#endif
    rc = 0;
out:
    if (rc)
        fprintf(stderr, "bench_load: %s\n", e.text);
    backend_close(&b);
    return rc;
}
