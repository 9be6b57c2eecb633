/* ceiling.cu - see ceiling.cuh. */
#include "ceiling.cuh"

#define N_THREADS 512
#define AT_ONCE   8 /* loads of 16 bytes a thread */

void *cuda_stream_of(struct cuda_state *s)
{
    return s->stream;
}

__global__ static void __launch_bounds__(N_THREADS)
    read_memory(const uint4 *from, int64_t n, uint32_t *to)
{
    const int64_t stride = (int64_t)gridDim.x * N_THREADS;
    uint32_t all = 0xFFFFFFFFu;

    for (int64_t at = (int64_t)blockIdx.x * N_THREADS + threadIdx.x; at < n;
         at += AT_ONCE * stride) {
        uint4 v[AT_ONCE];

#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            v[i] = at + i * stride < n ? __ldcs(from + at + i * stride)
                                       : make_uint4(~0u, ~0u, ~0u, ~0u);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++)
            all &= v[i].x & v[i].y & v[i].z & v[i].w;
    }
    if (all == 0xFFFFFFFFu)
        *to = all;
}

int cuda_read_memory(struct cuda_state *s, const void *from, size_t n_bytes, void *to,
                     struct err *e)
{
    read_memory<<<4 * s->n_multiprocessors, N_THREADS, 0, s->stream>>>(
        (const uint4 *)from, (int64_t)(n_bytes / 16), (uint32_t *)to);
    CUDA_LAUNCHED(s, "read_memory");
    return 0;
}
