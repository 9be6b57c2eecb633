/* memory.cu - device memory, given and taken in the order of the stream: what is freed serves the
 * next call at once and nobody waits.  And working memory of calls.
 *
 * Large parts come from a pool of the driver, which moves pages between sizes and keeps what was
 * freed until memory runs short; a call costs it 3 us.  A model has hundreds of small parts, a
 * launch costs no more than that: they are cut from arenas, large parts themselves, in 0.1 us. What
 * lies free in pool and arenas counts as free.  LLQ_TEST_PLAIN_MEMORY=1 makes each part one of the
 * driver's own, so that compute-sanitizer sees where it ends.  */
#include "common.cuh"

extern "C" {
#include "base/memory.h"
#include "base/ranges.h"
}

#include <stdlib.h>

#define ARENA_BYTES ((size_t)128 << 20)
#define SMALL_BYTES ((size_t)16 << 20) /* from here on a part is large */
#define UNIT_BYTES  ((size_t)512)

struct arena {
    char *memory;
    struct ranges *ranges; /* in units */
};

struct cuda_pool {
    cudaMemPool_t pool; /* NULL: none; every call is the driver's then, and waits */
    struct arena *arenas;
    int n_arenas;
};

int cuda_memory_open(struct cuda_state *s, struct err *e)
{
    struct cudaMemPoolProps what = {};
    uint64_t keep = UINT64_MAX;
    const char *plain = getenv("LLQ_TEST_PLAIN_MEMORY");
    int has_pools = 0;

    s->pool = (struct cuda_pool *)mem_alloc(sizeof *s->pool);
    CUDA_TRY(cudaDeviceGetAttribute(&has_pools, cudaDevAttrMemoryPoolsSupported, s->device));
    if (!has_pools || (plain && *plain == '1')) /* some virtual devices have none */
        return 0;
    what.allocType = cudaMemAllocationTypePinned;
    what.location.type = cudaMemLocationTypeDevice;
    what.location.id = s->device;
    CUDA_TRY(cudaMemPoolCreate(&s->pool->pool, &what));
    CUDA_TRY(cudaMemPoolSetAttribute(s->pool->pool, cudaMemPoolAttrReleaseThreshold, &keep));
    return 0;
}

/* Bytes that the pool has from the device, and of these the ones in use. */
static int pool_bytes(const struct cuda_state *s, uint64_t *reserved, uint64_t *used, struct err *e)
{
    const struct cuda_pool *p = s->pool;

    *reserved = *used = 0;
    if (!p->pool)
        return 0;
    CUDA_TRY(cudaMemPoolGetAttribute(p->pool, cudaMemPoolAttrReservedMemCurrent, reserved));
    CUDA_TRY(cudaMemPoolGetAttribute(p->pool, cudaMemPoolAttrUsedMemCurrent, used));
    for (int i = 0; i < p->n_arenas; i++)
        *used -= ranges_n_free(p->arenas[i].ranges) * UNIT_BYTES;
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

/* ---- large parts ---- */

static cudaError_t take_large(struct cuda_state *s, size_t n_bytes, void **out)
{
    cudaError_t rc = s->pool->pool ? cudaMallocFromPoolAsync(out, n_bytes, s->pool->pool, s->stream)
                                   : cudaMalloc(out, n_bytes);

    if (rc != cudaSuccess) {
        *out = NULL;
        cudaGetLastError();
    }
    return rc;
}

static void give_large(struct cuda_state *s, void *p)
{
    if (s->pool->pool)
        cudaFreeAsync(p, s->stream);
    else
        cudaFree(p);
}

/* ---- small parts ---- */

static struct arena *arena_of(const struct cuda_pool *p, const void *at)
{
    for (int i = 0; i < p->n_arenas; i++)
        if ((const char *)at >= p->arenas[i].memory &&
            (const char *)at < p->arenas[i].memory + ARENA_BYTES)
            return &p->arenas[i];
    return NULL;
}

static cudaError_t add_arena(struct cuda_state *s)
{
    struct cuda_pool *p = s->pool;
    void *memory;
    cudaError_t rc = take_large(s, ARENA_BYTES, &memory);

    if (rc != cudaSuccess)
        return rc;
    p->arenas = (struct arena *)mem_grow(p->arenas, (size_t)p->n_arenas + 1, sizeof *p->arenas);
    p->arenas[p->n_arenas++] = { (char *)memory, ranges_open(ARENA_BYTES / UNIT_BYTES) };
    return cudaSuccess;
}

/* From the first arena that has room, so that the last ones empty. */
static bool take_from_arenas(const struct cuda_pool *p, size_t n_bytes, void **out)
{
    const size_t n = (n_bytes + UNIT_BYTES - 1) / UNIT_BYTES;
    size_t at;

    for (int i = 0; i < p->n_arenas; i++)
        if (ranges_take(p->arenas[i].ranges, n, &at)) {
            *out = p->arenas[i].memory + at * UNIT_BYTES;
            return true;
        }
    return false;
}

static void drop_empty_arenas(struct cuda_state *s)
{
    struct cuda_pool *p = s->pool;
    int n_left = 0;

    for (int i = 0; i < p->n_arenas; i++) {
        struct arena *a = &p->arenas[i];

        if (ranges_n_free(a->ranges) == ARENA_BYTES / UNIT_BYTES) {
            give_large(s, a->memory);
            ranges_close(a->ranges);
        } else {
            p->arenas[n_left++] = *a;
        }
    }
    p->n_arenas = n_left;
}

/* ---- parts ---- */

static cudaError_t take(struct cuda_state *s, size_t n_bytes, void **out)
{
    n_bytes = n_bytes ? n_bytes : 1;
    if (!s->pool->pool || n_bytes >= SMALL_BYTES)
        return take_large(s, n_bytes, out);
    if (take_from_arenas(s->pool, n_bytes, out))
        return cudaSuccess;
    /* Where an arena does not fit the part itself may. */
    if (add_arena(s) != cudaSuccess)
        return take_large(s, n_bytes, out);
    return take_from_arenas(s->pool, n_bytes, out) ? cudaSuccess : cudaErrorMemoryAllocation;
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
        drop_empty_arenas(s);
        if (s->pool->pool) {
            CUDA_TRY(cudaStreamSynchronize(s->stream));
            CUDA_TRY(cudaMemPoolTrimTo(s->pool->pool, 0));
        }
        rc = take(s, n_bytes, out);
    }
    return rc == cudaSuccess ? 0 : refuse(s, n_bytes, rc, e);
}

void cuda_free(struct backend *b, void *p)
{
    struct cuda_state *s = cuda_state_of(b);
    struct arena *a = arena_of(s->pool, p);

    if (a)
        ranges_give(a->ranges, (size_t)((char *)p - a->memory) / UNIT_BYTES);
    else
        give_large(s, p);
}

void cuda_memory_close(struct cuda_state *s)
{
    struct cuda_pool *p = s->pool;

    if (!p)
        return;
    for (int i = 0; i < p->n_arenas; i++) {
        give_large(s, p->arenas[i].memory);
        ranges_close(p->arenas[i].ranges);
    }
    if (p->pool)
        cudaMemPoolDestroy(p->pool);
    free(p->arenas);
    free(p);
    s->pool = NULL;
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
