/* memory.cu - device memory: a pool that gives and takes in the order of the stream, so that freed
 * memory serves the next call at once and nobody waits; and working memory of calls.
 *
 * The pool belongs to the driver, which moves pages between sizes; it keeps what was freed until
 * memory runs short.  What lies there free counts as free.  */
#include "common.cuh"

int cuda_memory_open(struct cuda_state *s, struct err *e)
{
    struct cudaMemPoolProps what = {};
    uint64_t keep = UINT64_MAX;
    int has_pools = 0;

    CUDA_TRY(cudaDeviceGetAttribute(&has_pools, cudaDevAttrMemoryPoolsSupported, s->device));
    if (!has_pools)
        return 0; /* some virtual devices: every call is the driver's then, and waits */
    what.allocType = cudaMemAllocationTypePinned;
    what.location.type = cudaMemLocationTypeDevice;
    what.location.id = s->device;
    CUDA_TRY(cudaMemPoolCreate(&s->pool, &what));
    CUDA_TRY(cudaMemPoolSetAttribute(s->pool, cudaMemPoolAttrReleaseThreshold, &keep));
    return 0;
}

void cuda_memory_close(struct cuda_state *s)
{
    if (s->pool)
        cudaMemPoolDestroy(s->pool);
    s->pool = NULL;
}

/* Bytes that the pool has from the device, and of these the ones in use. */
static int pool_bytes(const struct cuda_state *s, uint64_t *reserved, uint64_t *used, struct err *e)
{
    *reserved = *used = 0;
    if (!s->pool)
        return 0;
    CUDA_TRY(cudaMemPoolGetAttribute(s->pool, cudaMemPoolAttrReservedMemCurrent, reserved));
    CUDA_TRY(cudaMemPoolGetAttribute(s->pool, cudaMemPoolAttrUsedMemCurrent, used));
    return 0;
}

int cuda_memory_facts(struct cuda_state *s, size_t *n_free, size_t *n_all, struct err *e)
{
    uint64_t reserved, used;

    CUDA_TRY(cudaStreamSynchronize(s->stream)); /* what was freed counts from here on */
    CUDA_TRY(cudaMemGetInfo(n_free, n_all));
    if (pool_bytes(s, &reserved, &used, e) < 0)
        return -1;
    *n_free += reserved - used;
    return 0;
}

static cudaError_t take(struct cuda_state *s, size_t n_bytes, void **out)
{
    size_t n = n_bytes ? n_bytes : 1;
    cudaError_t rc =
        s->pool ? cudaMallocFromPoolAsync(out, n, s->pool, s->stream) : cudaMalloc(out, n);

    if (rc != cudaSuccess) {
        *out = NULL;
        cudaGetLastError();
    }
    return rc;
}

static int refuse(struct cuda_state *s, size_t n_bytes, cudaError_t rc, struct err *e)
{
    uint64_t reserved = 0, used = 0;
    size_t n_free = 0, n_all = 0;

    if (rc != cudaErrorMemoryAllocation || cudaMemGetInfo(&n_free, &n_all) != cudaSuccess ||
        pool_bytes(s, &reserved, &used, e) < 0)
        return err_set(e, cuda_err_code(rc), "taking %zu bytes of device memory: %s", n_bytes,
                       cudaGetErrorString(rc));
    return err_set(
        e, ERR_MEMORY,
        "does not fit: %zu bytes asked for, %zu of %zu free on %s (%zu held here, %zu by "
        "the driver and other programs)",
        n_bytes, n_free + (size_t)(reserved - used), n_all, s->name, (size_t)used,
        n_all - n_free - (size_t)reserved);
}

/* When refused, once more without what is kept for later. */
int cuda_alloc(struct backend *b, size_t n_bytes, void **out, struct err *e)
{
    struct cuda_state *s = cuda_state_here(b);
    cudaError_t rc = take(s, n_bytes, out);

    if (rc == cudaErrorMemoryAllocation) {
        if (!s->scratch_grows)
            cuda_trim(b);
        cuda_quantize_start(s);
        CUDA_TRY(cudaStreamSynchronize(s->stream));
        if (s->pool)
            CUDA_TRY(cudaMemPoolTrimTo(s->pool, 0));
        rc = take(s, n_bytes, out);
    }
    return rc == cudaSuccess ? 0 : refuse(s, n_bytes, rc, e);
}

void cuda_free(struct backend *b, void *p)
{
    struct cuda_state *s = cuda_state_of(b);

    if (s->pool)
        cudaFreeAsync(p, s->stream);
    else
        cudaFree(p);
}

/* ---- working memory of calls ---- */

/* Frees what does not suffice first: a slot need not be there twice. */
int cuda_scratch(struct cuda_state *s, enum cuda_scratch_slot slot, size_t n_bytes, void **out,
                 struct err *e)
{
    struct cuda_scratch *room = &s->scratch[slot];
    enum cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;

    *out = room->p;
    if (room->n_bytes >= n_bytes)
        return 0;
    CUDA_TRY(cudaStreamIsCapturing(s->stream, &capture));
    if (capture != cudaStreamCaptureStatusNone)
        return err_set(e, ERR_DEVICE, "working memory may not grow while a graph is captured");
    s->n_taken++;
    backend_free(s->backend, room->p);
    room->p = NULL;
    room->n_bytes = 0;
    /* Giving back other slots would pull them from under the call that asks. */
    s->scratch_grows = true;
    int rc = backend_alloc(s->backend, MEM_SCRATCH, n_bytes, &room->p, e);
    s->scratch_grows = false;
    if (rc == 0)
        room->n_bytes = n_bytes;
    *out = room->p;
    return rc;
}

void cuda_trim(struct backend *b)
{
    struct cuda_state *s = cuda_state_of(b);

    s->n_taken++;
    for (int i = 0; i < SCRATCH_N_SLOTS; i++) {
        backend_free(b, s->scratch[i].p);
        s->scratch[i].p = NULL;
        s->scratch[i].n_bytes = 0;
    }
}
