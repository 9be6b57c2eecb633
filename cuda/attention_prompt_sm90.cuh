/* attention_prompt_sm90.cuh - attention of prompts with Hopper's products: the kernel;
 * attention_prompt_sm90_*.cu compile it for one type each.
 *
 * One or two warpgroups of 64 lines each multiply straight from shared memory: rows of 128 bytes,
 * eights of them swizzled, one such panel for each 64 elements of a head.  P stays in registers, as
 * the left operand of P V.  Registers and shared memory are few enough that several blocks share a
 * multiprocessor: while one takes exponentials, another multiplies. */
#pragma once

#include "attention_prompt_tile.cuh"

#define KEYS 64 /* of a block */

template <int E, int WGS> struct prompt_sm90_shape {
    static const int lines = 64 * WGS;
    static const int threads = 128 * WGS;
    static const int panels = E / 64;
    static const int panel = KEYS * 128;    /* bytes of 64 elements of a block's keys */
    static const int part = panels * panel; /* of its keys, or values */
    static const int queries = panels * lines * 128;
    static const int n_bytes = 1024 + queries + 4 * part;
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* A tile whose 64 rows of 128 bytes are steps of k: the other operand's columns lie along a row. */
__device__ inline uint64_t turned_descriptor(uint32_t at)
{
    return (uint64_t)(at >> 4 & 0x3FFF) | (uint64_t)((KEYS * 128) >> 4) << 16 |
           (uint64_t)(1024 >> 4) << 32 | (uint64_t)1 << 62;
}

/* c += A B, 64 x 16 and 16 x 64; A in registers, as of mma.m16n8k16 for each warp. */
template <enum dtype T>
__device__ inline void multiply_registers(float (&c)[32], const uint32_t (&x)[4], uint64_t b)
{
    if constexpr (T == DTYPE_F16)
        asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.f16.f16 {" NAMES_N32 "}, "
                     "{%32, %33, %34, %35}, %36, 1, 1, 1, 1;\n"
                     : SUMS_N32(AS_FLOAT)
                     : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "l"(b));
    else
        asm volatile("wgmma.mma_async.sync.aligned.m64n64k16.f32.bf16.bf16 {" NAMES_N32 "}, "
                     "{%32, %33, %34, %35}, %36, 1, 1, 1, 1;\n"
                     : SUMS_N32(AS_FLOAT)
                     : "r"(x[0]), "r"(x[1]), "r"(x[2]), "r"(x[3]), "l"(b));
}

/* Where 16-byte piece `piece` of a row lies, in bytes. */
__device__ inline uint32_t swizzled(int row, int piece)
{
    return row * 128 + ((piece ^ row % 8) << 4);
}

template <int E, int WGS>
__device__ inline void copy_queries(const struct prompt_job &a, const struct prompt_place &w,
                                    uint32_t to)
{
    using shape = struct prompt_sm90_shape<E, WGS>;
    const int piece = threadIdx.x % 8;

    for (int line = threadIdx.x / 8; line < shape::lines; line += shape::threads / 8) {
        const bool there = line < w.n_lines;
        const uint16_t *from = a.q + (there ? line_at<E>(a, w, line) : 0) + piece * 8;

#pragma unroll
        for (int p = 0; p < shape::panels; p++)
            copy_16(to + p * shape::lines * 128 + swizzled(line, piece), from + p * 64, there);
    }
}

/* Keys and values of a block; of positions behind the tile's last row, zeros. */
template <int E, int WGS>
__device__ inline void copy_block(const struct prompt_place &w, int first, uint32_t to)
{
    using shape = struct prompt_sm90_shape<E, WGS>;
    const int piece = threadIdx.x % 8, key = threadIdx.x / 8;
    const uint32_t at = to + swizzled(key, piece);
    const int64_t from = (int64_t)(first + key) * w.stride + piece * 8;

#pragma unroll
    for (int i = 0; i < KEYS; i += shape::threads / 8) {
        const bool there = first + key + i <= w.p_last;
        const int64_t here = there ? from + (int64_t)i * w.stride : 0;

#pragma unroll
        for (int p = 0; p < shape::panels; p++) {
            copy_16(at + p * shape::panel + i * 128, w.keys + here + p * 64, there);
            copy_16(at + shape::part + p * shape::panel + i * 128, w.values + here + p * 64, there);
        }
    }
}

template <enum dtype T, int E, int WGS>
__device__ inline bool clean_block(unsigned char *values, struct prompt_bad *bad)
{
    using shape = struct prompt_sm90_shape<E, WGS>;
    bool any = false;

#pragma unroll 1
    for (int i = threadIdx.x; i < shape::part / 16; i += shape::threads) {
        const int key = i / 8 % KEYS;

        if (clean<T>((uint4 *)(values + i / (8 * KEYS) * shape::panel + swizzled(key, i % 8)))) {
            atomicOr(&bad->key[key / 32], 1u << key % 32);
            any = true;
        }
    }
    return any;
}

/* Scores of a warpgroup's 64 lines. */
template <enum dtype T, int E, int WGS>
__device__ inline void block_scores(uint32_t queries, uint32_t keys, float (&score)[32])
{
    using shape = struct prompt_sm90_shape<E, WGS>;

    products_begin();
#pragma unroll
    for (int e = 0; e < E; e += 16)
        multiply<T == DTYPE_BF16, 32>(
            score, tile_descriptor(queries + e / 64 * shape::lines * 128) + e % 64 / 8,
            tile_descriptor(keys + e / 64 * shape::panel) + e % 64 / 8, e > 0);
    products_commit();
    products_wait<0>();
    products_done(score);
}

/* O += P V */
template <enum dtype T, int E, int WGS>
__device__ inline void add_values(uint32_t values, const float (&weight)[8][4],
                                  float (&out)[E / 64][32])
{
    using shape = struct prompt_sm90_shape<E, WGS>;
    uint32_t x[KEYS / 16][4];

#pragma unroll
    for (int k = 0; k < KEYS / 16; k++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            x[k][i] =
                pair_of<T>(weight[2 * k + i / 2][i % 2 * 2], weight[2 * k + i / 2][i % 2 * 2 + 1]);
#pragma unroll
    for (int p = 0; p < shape::panels; p++)
        products_done(out[p]);
    products_begin();
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++)
#pragma unroll
        for (int p = 0; p < shape::panels; p++)
            multiply_registers<T>(out[p], x[k],
                                  turned_descriptor(values + p * shape::panel + k * 2048));
    products_commit();
    products_wait<0>();
#pragma unroll
    for (int p = 0; p < shape::panels; p++)
        products_done(out[p]);
}

template <enum dtype T, int E, int WGS>
__device__ inline void attend(const struct prompt_job &a, unsigned char *room,
                              struct prompt_bad *bad)
{
    using shape = struct prompt_sm90_shape<E, WGS>;
    const struct prompt_place w = place_of<E>(a);
    const int last = w.p_last / KEYS;
    const uint32_t all_queries = shared_address(room), keys = all_queries + shape::queries;
    const uint32_t queries = all_queries + threadIdx.x / 128 * 64 * 128;
    struct prompt_sum<E, 1> s;

    begin(s);
    bad->key[0] = bad->key[1] = 0;
    wait_for_earlier_kernels();
    let_next_kernel_start();
    copy_queries<E, WGS>(a, w, all_queries);
    copy_block<E, WGS>(w, w.low / KEYS * KEYS, keys);
    asm volatile("cp.async.commit_group;" ::: "memory");
    for (int block = w.low / KEYS, at = 0; block <= last; block++, at = 2 * shape::part - at) {
        const int first = block * KEYS;
        const bool edge = is_edge(a, w, first, KEYS);
        bool spoilt = false;
        float score[1][8][4];

        asm volatile("cp.async.wait_group 0;" ::: "memory");
        if (edge)
            spoilt = clean_block<T, E, WGS>(room + shape::queries + at + shape::part, bad);
        /* What threads wrote the products will see.  The block is there, and all are through with
         * the one before. */
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
        spoilt = __syncthreads_or(spoilt);
        if (block < last) {
            copy_block<E, WGS>(w, first + KEYS, keys + 2 * shape::part - at);
            asm volatile("cp.async.commit_group;" ::: "memory");
        }
        block_scores<T, E, WGS>(queries, keys + at, *(float(*)[32]) & score[0]);
        if (edge)
            hide<8, 1>(a, w, first, score);
        soften<E, 8, 1>(a.scale, score, s);
        add_values<T, E, WGS>(keys + at + shape::part, score[0], *(float(*)[E / 64][32]) & s.out);
        if (spoilt)
            spoil(a, w, first, bad, s);
    }
    __syncthreads(); /* the queries and the last block have been read */
    finish<T, E, 1>(a, w, s, (uint16_t *)room + threadIdx.x / 32 * 16 * (E + 8));
}

#endif

template <enum dtype T, int E, int WGS>
__global__ static void __launch_bounds__(128 * WGS, (E == 64 ? 4 : 2) / WGS)
    attend_prompt_sm90(const __grid_constant__ struct prompt_job a)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    extern __shared__ unsigned char memory[];
    __shared__ struct prompt_bad bad;

    attend<T, E, WGS>(a, memory + (-shared_address(memory) & 1023), &bad);
#endif
}

template <enum dtype T, int E, int WGS> static struct prompt_kernel prompt_sm90_with()
{
    using shape = struct prompt_sm90_shape<E, WGS>;

    return { attend_prompt_sm90<T, E, WGS>, shape::lines, shape::threads, shape::n_bytes };
}

template <enum dtype T> static struct prompt_kernel prompt_sm90_for(int head_dim, bool wide)
{
    if (head_dim == 64)
        return wide ? prompt_sm90_with<T, 64, 2>() : prompt_sm90_with<T, 64, 1>();
    if (head_dim == 128)
        return wide ? prompt_sm90_with<T, 128, 2>() : prompt_sm90_with<T, 128, 1>();
    return { NULL, 0, 0, 0 };
}
