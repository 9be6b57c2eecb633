/* attention_prompt.cu - attention of prompts: FlashAttention-2 (Dao, 2023), over the cache, from
 * any position on; which kernel, in what tiles, and the one for every device.  The last tiles of
 * each sequence, which see most, start first.
 *
 * Operations: 4 E for each line and position; a tile of 128 lines reads 4 E bytes of the cache a
 * position for 512 E of them, so arithmetic is what limits: products, and one exponential for each
 * 4 E of them. */
#include "attention_prompt.cuh"

#include "attention_prompt_tile.cuh"
#include "gemm.cuh"
#include "overlap.cuh"

#define N_WARPS   4
#define N_THREADS (32 * N_WARPS)

/* Rows in shared memory are 16 bytes longer than E elements: an odd number of 16-byte pieces, so
 * that eight rows of a matrix lie in different banks. */
template <int E, int M> struct prompt_shape {
    static const int lines = 16 * M * N_WARPS;
    static const int keys = E <= 128 ? 64 : 32; /* of a block */
    static const int stride = E + 8;
    static const int n_bytes = (lines + 4 * keys) * stride * 2;
};

/* Queries of the tile. */
template <int E, int M>
__device__ static inline void copy_queries(const struct prompt_job &a, const struct prompt_place &w,
                                           uint32_t to)
{
    using shape = struct prompt_shape<E, M>;

    for (int i = threadIdx.x; i < shape::lines * (E / 8); i += N_THREADS) {
        const int line = i / (E / 8), at = i % (E / 8) * 8;
        const bool there = line < w.n_lines;

        copy_16(to + 2 * (line * shape::stride + at),
                there ? a.q + line_at<E>(a, w, line) + at : a.q, there);
    }
}

/* Keys and values of a block; of positions behind the tile's last row, zeros. */
template <int E, int M>
__device__ static inline void copy_block(const struct prompt_place &w, int first, uint32_t keys,
                                         uint32_t values)
{
    using shape = struct prompt_shape<E, M>;

#pragma unroll
    for (int i = 0; i < shape::keys * (E / 8) / N_THREADS; i++) {
        const int piece = threadIdx.x + i * N_THREADS, key = piece / (E / 8);
        const int e = piece % (E / 8) * 8;
        const bool there = first + key <= w.p_last;
        const int64_t from = (there ? (int64_t)(first + key) : 0) * w.stride + e;

        copy_16(keys + 2 * (key * shape::stride + e), w.keys + from, there);
        copy_16(values + 2 * (key * shape::stride + e), w.values + from, there);
    }
}

/* The values that this thread copied. */
template <enum dtype T, int E, int M>
__device__ static inline bool clean_block(uint16_t *values, struct prompt_bad *bad)
{
    using shape = struct prompt_shape<E, M>;
    bool any = false;

#pragma unroll 1
    for (int i = threadIdx.x; i < shape::keys * (E / 8); i += N_THREADS) {
        const int key = i / (E / 8);

        if (clean<T>((uint4 *)(values + key * shape::stride + i % (E / 8) * 8))) {
            atomicOr(&bad->key[key / 32], 1u << key % 32);
            any = true;
        }
    }
    return any;
}

/* Scores of the warp's lines and all keys of a block. */
template <enum dtype T, int E, int M>
__device__ static inline void block_scores(uint32_t queries, uint32_t keys,
                                           float (&score)[M][prompt_shape<E, M>::keys / 8][4])
{
    using shape = struct prompt_shape<E, M>;
    const int lane = threadIdx.x % 32,
              line = threadIdx.x / 32 * 16 * M + lane / 8 % 2 * 8 + lane % 8;
    const uint32_t q = queries + 2 * (line * shape::stride + lane / 16 * 8);
    const uint32_t k = keys + 2 * ((lane / 16 * 8 + lane % 8) * shape::stride + lane / 8 % 2 * 8);

#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < shape::keys / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                score[m][n][i] = 0;
#pragma unroll
    for (int e = 0; e < E; e += 16) {
        uint32_t x[M][4], y[4];

#pragma unroll
        for (int m = 0; m < M; m++)
            load_matrices(x[m], q + 2 * (m * 16 * shape::stride + e));
#pragma unroll
        for (int n = 0; n < shape::keys / 8; n += 2) {
            load_matrices(y, k + 2 * (n * 8 * shape::stride + e));
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_16x8x16<T>(score[m][n], x[m][0], x[m][1], x[m][2], x[m][3], y[0], y[1]);
                mma_16x8x16<T>(score[m][n + 1], x[m][0], x[m][1], x[m][2], x[m][3], y[2], y[3]);
            }
        }
    }
}

/* O += P V */
template <enum dtype T, int E, int M>
__device__ static inline void add_values(uint32_t values,
                                         const float (&weight)[M][prompt_shape<E, M>::keys / 8][4],
                                         struct prompt_sum<E, M> &s)
{
    using shape = struct prompt_shape<E, M>;
    const int lane = threadIdx.x % 32;
    const uint32_t v = values + 2 * ((lane / 8 % 2 * 8 + lane % 8) * shape::stride + lane / 16 * 8);

#pragma unroll
    for (int k = 0; k < shape::keys / 16; k++) {
        uint32_t x[M][4], y[4];

#pragma unroll
        for (int m = 0; m < M; m++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                x[m][i] = pair_of<T>(weight[m][2 * k + i / 2][i % 2 * 2],
                                     weight[m][2 * k + i / 2][i % 2 * 2 + 1]);
#pragma unroll
        for (int n = 0; n < E / 8; n += 2) {
            load_transposed(y, v + 2 * (k * 16 * shape::stride + n * 8));
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_16x8x16<T>(s.out[m][n], x[m][0], x[m][1], x[m][2], x[m][3], y[0], y[1]);
                mma_16x8x16<T>(s.out[m][n + 1], x[m][0], x[m][1], x[m][2], x[m][3], y[2], y[3]);
            }
        }
    }
}

/* M tiles of 16 lines a warp. */
template <enum dtype T, int E, int M>
__global__ void __launch_bounds__(N_THREADS, 2)
    attend_prompt(const __grid_constant__ struct prompt_job a)
{
    using shape = struct prompt_shape<E, M>;
    extern __shared__ __align__(16) uint16_t room[];
    __shared__ struct prompt_bad bad;
    uint16_t *const keys = room + shape::lines * shape::stride;
    const int part = shape::keys * shape::stride; /* keys or values of a block */
    const struct prompt_place w = place_of<E>(a);
    const int last = w.p_last / shape::keys;
    const uint32_t queries_at = shared_address(room), keys_at = shared_address(keys);
    struct prompt_sum<E, M> s;

    begin(s);
    bad.key[0] = bad.key[1] = 0;
    wait_for_launch_before();
    let_next_start();
    copy_queries<E, M>(a, w, queries_at);
    copy_block<E, M>(w, w.low / shape::keys * shape::keys, keys_at, keys_at + 2 * part);
    asm volatile("cp.async.commit_group;" ::: "memory");
    for (int block = w.low / shape::keys, at = 0; block <= last; block++, at = 2 * part - at) {
        const int first = block * shape::keys;
        const bool edge = is_edge(a, w, first, shape::keys);
        bool spoilt = false;
        float score[M][shape::keys / 8][4];

        asm volatile("cp.async.wait_group 0;" ::: "memory");
        if (edge)
            spoilt = clean_block<T, E, M>(keys + at + part, &bad);
        /* The block is there, and all are through with the one before. */
        spoilt = __syncthreads_or(spoilt);
        if (block < last) {
            const uint32_t next = keys_at + 2 * (2 * part - at);
            copy_block<E, M>(w, first + shape::keys, next, next + 2 * part);
            asm volatile("cp.async.commit_group;" ::: "memory");
        }
        block_scores<T, E, M>(queries_at, keys_at + 2 * at, score);
        if (edge)
            hide<shape::keys / 8, M>(a, w, first, score);
        soften<E, shape::keys / 8, M>(a.scale, score, s);
        add_values<T, E, M>(keys_at + 2 * (at + part), score, s);
        if (spoilt)
            spoil(a, w, first, &bad, s);
    }
    finish<T, E, M>(a, w, s, room + threadIdx.x / 32 * 16 * M * shape::stride);
}

/* ---- the launch ---- */

template <enum dtype T, int E, int M> static struct prompt_kernel kernel_with()
{
    return { attend_prompt<T, E, M>, prompt_shape<E, M>::lines, N_THREADS,
             prompt_shape<E, M>::n_bytes };
}

/* wide: tiles of 128 lines, where there are enough to fill the device. */
template <enum dtype T> static struct prompt_kernel kernel_for(int head_dim, bool wide)
{
    switch (head_dim) {
    case 64:
        return wide ? kernel_with<T, 64, 2>() : kernel_with<T, 64, 1>();
    case 96:
        return wide ? kernel_with<T, 96, 2>() : kernel_with<T, 96, 1>();
    case 128:
        return wide ? kernel_with<T, 128, 2>() : kernel_with<T, 128, 1>();
    case 256:
        return kernel_with<T, 256, 1>();
    default:
        return { NULL, 0, 0, 0 };
    }
}

static struct prompt_kernel kernel_of(const struct cuda_state *s, const struct attention_args *a,
                                      bool wide)
{
    const enum dtype t = a->q->dtype;
    struct prompt_kernel kernel = { NULL, 0, 0, 0 };

    if (t != DTYPE_F16 && t != DTYPE_BF16)
        return kernel;
    if (gemm_sm90_runs(s))
        kernel = t == DTYPE_F16 ? prompt_sm90_f16(a->head_dim, wide)
                                : prompt_sm90_bf16(a->head_dim, wide);
    if (kernel.start)
        return kernel;
    return t == DTYPE_F16 ? kernel_for<DTYPE_F16>(a->head_dim, wide)
                          : kernel_for<DTYPE_BF16>(a->head_dim, wide);
}

bool cuda_attention_prompt_fits(const struct cuda_state *s, const struct attention_args *a)
{
    const struct prompt_kernel kernel = kernel_of(s, a, false);
    const int32_t *first_row = a->segments.first_row;

    if (!kernel.start || a->n_heads % a->n_kv_heads != 0 ||
        a->n_heads / a->n_kv_heads > kernel.n_lines || a->segments.n < 1 || first_row[0] != 0 ||
        first_row[a->segments.n] != a->n_rows)
        return false;
    for (int i = 0; i < a->segments.n; i++)
        if (first_row[i] > first_row[i + 1])
            return false;
    return true;
}

static int64_t tiles_of(const struct segments *s, int i, int n_rows)
{
    return ceil_div(s->first_row[i + 1] - s->first_row[i], n_rows);
}

static int start(struct cuda_state *s, const struct prompt_kernel *kernel,
                 const struct prompt_job *job, int n_tiles, struct err *e)
{
    if (!n_tiles)
        return 0;
    return start_overlapping(s, "attend_prompt", e, kernel->start,
                             dim3((unsigned)job->n_kv_heads, (unsigned)n_tiles),
                             (unsigned)kernel->n_threads, (size_t)kernel->n_bytes, *job);
}

int cuda_attention_prompt(struct cuda_state *s, const struct attention_args *a, struct err *e)
{
    const int n_group = a->n_heads / a->n_kv_heads;
    struct prompt_kernel kernel = kernel_of(s, a, true);
    struct prompt_job job;
    int64_t n_tiles = 0, most = 0;
    int n = 0;

    for (int i = 0; i < a->segments.n; i++)
        n_tiles += tiles_of(&a->segments, i, kernel.n_lines / n_group);
    if (n_tiles * a->n_kv_heads < 2 * s->n_multiprocessors)
        kernel = kernel_of(s, a, false);
    CUDA_TRY(cudaFuncSetAttribute(kernel.start, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  kernel.n_bytes));
    job.q = (const uint16_t *)a->q->data;
    job.k_cache = (const uint16_t *)a->k_cache->data;
    job.v_cache = (const uint16_t *)a->v_cache->data;
    job.out = (uint16_t *)a->out->data;
    job.slot = a->slot;
    job.position = a->position;
    job.capacity = a->capacity;
    job.window = (int)(a->window < INT32_MAX ? a->window : 0);
    job.n_heads = a->n_heads;
    job.n_kv_heads = a->n_kv_heads;
    job.n_group = n_group;
    job.reciprocal = 65536 / n_group + 1;
    job.scale = (float)(LOG2_E / sqrt((double)a->head_dim));

    const int n_rows = kernel.n_lines / n_group;
    for (int i = 0; i < a->segments.n; i++)
        if (tiles_of(&a->segments, i, n_rows) > most)
            most = tiles_of(&a->segments, i, n_rows);
    for (int64_t tile = most - 1; tile >= 0; tile--)
        for (int i = 0; i < a->segments.n; i++) {
            const int64_t first = a->segments.first_row[i] + tile * n_rows;
            const int64_t rest = a->segments.first_row[i + 1] - first;

            if (rest <= 0)
                continue;
            if (n == TILES_MAX) {
                if (start(s, &kernel, &job, n, e) < 0)
                    return -1;
                n = 0;
            }
            job.tile[n++] = { (int32_t)first, (int32_t)(rest < n_rows ? rest : n_rows) };
        }
    return start(s, &kernel, &job, n, e);
}
