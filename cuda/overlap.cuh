/* overlap.cuh - launches that begin before the one in front has ended, and blocks of a cluster that
 * send numbers to each other.  Nothing of it does anything before sm_90. */
#pragma once

#include "common.cuh"

/* Launches in a row overlap (programmatic dependent launch, sm_90): the next one starts once every
 * block of this one did, and may read what never changes before wait_for_launch_before(), which
 * every block passes.  Elsewhere launches just follow one another. */
__device__ static inline void let_next_start()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ static inline void wait_for_launch_before()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* Starts a kernel that waits itself for the launch before; `name` is for errors. */
template <class... P, class... A>
static int start_overlapping(struct cuda_state *s, const char *name, struct err *e,
                             void (*kernel)(P...), dim3 grid, unsigned n_threads, size_t n_bytes,
                             A... arguments)
{
    cudaLaunchAttribute overlap = {};
    cudaLaunchConfig_t config = {};

    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = grid;
    config.blockDim = dim3(n_threads);
    config.dynamicSmemBytes = n_bytes;
    config.stream = s->stream;
    config.attrs = &overlap;
    config.numAttrs = s->overlaps ? 1 : 0;
    cudaError_t rc = cudaLaunchKernelEx(&config, kernel, P(arguments)...);
    s->last_kernel = name;
    if (rc != cudaSuccess)
        return err_set(e, cuda_err_code(rc), "kernel %s: %s", name, cudaGetErrorString(rc));
    return 0;
}

/* All blocks of the cluster run, and their `bar`, which counts bytes, can be sent to. */
__device__ static inline void join_cluster(uint64_t *bar)
{
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0) {
        uint32_t at = (uint32_t)__cvta_generic_to_shared(bar);

        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(at) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}

__device__ static inline void cluster_joined()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

/* *to = x in the shared memory of block `rank` of the cluster; its bar counts 4 bytes. */
__device__ static inline void send_value(float *to, int rank, float x, uint64_t *bar)
{
#if __CUDA_ARCH__ >= 900
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to), there;
    uint32_t bar_at = (uint32_t)__cvta_generic_to_shared(bar), bar_there;

    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(at), "r"(rank));
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(bar_there) : "r"(bar_at), "r"(rank));
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(
            there),
        "r"(__float_as_uint(x)), "r"(bar_there)
        : "memory");
#else
    (void)to, (void)rank, (void)x, (void)bar;
#endif
}

/* Until n_bytes have come. */
__device__ static inline void wait_for_bytes(uint64_t *bar, int n_bytes)
{
#if __CUDA_ARCH__ >= 900
    uint32_t at = (uint32_t)__cvta_generic_to_shared(bar), done = 0;

    if (threadIdx.x == 0)
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at),
                     "r"(n_bytes)
                     : "memory");
    while (!done)
        asm volatile("{ .reg .pred p;\n"
                     "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], 0;\n"
                     "selp.u32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(at)
                     : "memory");
#else
    (void)bar, (void)n_bytes;
#endif
}

__device__ static inline int32_t load_number(const int32_t *p)
{
    int32_t x;

    asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
    return x;
}
