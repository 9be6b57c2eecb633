/* attention_prompt.cu - attention of prompts: FlashAttention-2 (Dao, 2023) on tensor cores, over
 * the cache, from any position on.
 *
 * A tile is as many rows of one sequence, times the query heads of one key/value head, as give 64
 * or 128 lines; its four warps own 16 or 32 lines each.  Tiles go through the keys in blocks that
 * are counted from position 0, two blocks in shared memory at a time:
 *   S = Q K^T;  exponentials under the largest score of the line so far;  O = O shrunk + P V
 * with P rounded to the model's type.  Blocks or positions that a line does not see leave its sums
 * as they are, to the bit; so a line depends on its position alone, not on the tile, the size of
 * tiles, or how a prompt was cut.  The last tiles, which see most, start first.
 *
 * Operations: 4 E for each line and position; a tile of 128 lines reads 16 E bytes of the cache a
 * position for 512 E of them, so arithmetic is what limits: products, and one exponential for each
 * 4 E of them. */
#include "attention_prompt.cuh"

#include "attention.cuh"

#define N_WARPS   4
#define N_THREADS (32 * N_WARPS)
#define TILES_MAX 480 /* of a launch: they travel among its arguments, of 4096 bytes */

struct prompt_tile {
    int32_t first_row, n_rows;
};

struct prompt_job {
    const uint16_t *q, *k_cache, *v_cache;
    uint16_t *out;
    const int32_t *slot, *position;
    int64_t capacity;
    int window;
    int n_heads, n_kv_heads, n_group;
    float scale; /* log2(e) / sqrt(E) */
    struct prompt_tile tile[TILES_MAX];
};

static_assert(sizeof(struct prompt_job) <= 4096, "arguments of a launch");

/* Rows in shared memory are 16 bytes longer than E elements: an odd number of 16-byte pieces, so
 * that eight rows of a matrix lie in different banks. */
template <int E, int M> struct prompt_shape {
    static const int lines = 16 * M * N_WARPS;
    static const int keys = E <= 128 ? 64 : 32; /* of a block */
    static const int stride = E + 8;
    static const int n_bytes = (lines + 4 * keys) * stride * 2;
};

/* What a block of threads works on. */
struct prompt_place {
    int64_t first_row, kv; /* kv: elements in front of the slot's keys at this head */
    int n_lines, n_group, kv_head;
    int p_first, p_last, low; /* positions of the rows; the first position that any sees */
};

/* Sums of a warp's lines: tile m, row g and row g + 8. */
template <int E, int M> struct prompt_sum {
    float max[M][2]; /* times scale */
    float sum[M][2];
    float out[M][E / 8][4];
};

__device__ static inline void load_matrices(uint32_t (&x)[4], const uint16_t *from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(from)));
}

__device__ static inline void load_transposed(uint32_t (&x)[4], const uint16_t *from)
{
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
                 : "r"((uint32_t)__cvta_generic_to_shared(from)));
}

/* 16 bytes to shared memory, on their way on return; zeros where `there` is false. */
__device__ static inline void copy_16(uint16_t *to, const uint16_t *from, bool there)
{
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(
                     (uint32_t)__cvta_generic_to_shared(to)),
                 "l"(from), "r"(there ? 16 : 0)
                 : "memory");
}

/* Queries of the tile; lines are rows times heads of the group, row-major. */
template <int E, int M>
__device__ static inline void copy_queries(const struct prompt_job &a, const struct prompt_place &w,
                                           uint16_t *to)
{
    using shape = struct prompt_shape<E, M>;

    for (int i = threadIdx.x; i < shape::lines * (E / 8); i += N_THREADS) {
        const int line = i / (E / 8), at = i % (E / 8) * 8;
        const int row = line / w.n_group, head = w.kv_head * w.n_group + line % w.n_group;
        const bool there = line < w.n_lines;

        copy_16(to + line * shape::stride + at,
                there ? a.q + ((w.first_row + row) * a.n_heads + head) * E + at : a.q, there);
    }
}

/* Keys and values of a block; of positions behind the tile's last row, zeros. */
template <int E, int M>
__device__ static inline void copy_block(const struct prompt_job &a, const struct prompt_place &w,
                                         int block, uint16_t *keys, uint16_t *values)
{
    using shape = struct prompt_shape<E, M>;
    const int64_t stride = (int64_t)a.n_kv_heads * E;

#pragma unroll
    for (int i = 0; i < shape::keys * (E / 8) / N_THREADS; i++) {
        const int piece = threadIdx.x + i * N_THREADS, key = piece / (E / 8);
        const int e = piece % (E / 8) * 8, pos = block * shape::keys + key;
        const bool there = pos <= w.p_last;
        const int64_t from = w.kv + (there ? pos : 0) * stride + e;

        copy_16(keys + key * shape::stride + e, a.k_cache + from, there);
        copy_16(values + key * shape::stride + e, a.v_cache + from, there);
    }
}

/* Scores of the warp's lines and all keys of a block. */
template <enum dtype T, int E, int M>
__device__ static inline void block_scores(const uint16_t *queries, const uint16_t *keys,
                                           float (&score)[M][prompt_shape<E, M>::keys / 8][4])
{
    using shape = struct prompt_shape<E, M>;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const uint16_t *q =
        queries + (warp * 16 * M + lane / 8 % 2 * 8 + lane % 8) * shape::stride + lane / 16 * 8;
    const uint16_t *k = keys + (lane / 16 * 8 + lane % 8) * shape::stride + lane / 8 % 2 * 8;

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
            load_matrices(x[m], q + m * 16 * shape::stride + e);
#pragma unroll
        for (int n = 0; n < shape::keys / 8; n += 2) {
            load_matrices(y, k + n * 8 * shape::stride + e);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_16x8x16<T>(score[m][n], x[m][0], x[m][1], x[m][2], x[m][3], y[0], y[1]);
                mma_16x8x16<T>(score[m][n + 1], x[m][0], x[m][1], x[m][2], x[m][3], y[2], y[3]);
            }
        }
    }
}

/* What a line does not see gets -inf. */
template <int N, int M>
__device__ static inline void hide(const struct prompt_job &a, const struct prompt_place &w,
                                   int first, float (&score)[M][N][4])
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, warp = threadIdx.x / 32;

#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int p = w.p_first + (warp * 16 * M + m * 16 + r * 8 + g) / w.n_group;
            const int low = a.window > 0 ? p - a.window + 1 : 0;

#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    const int pos = first + n * 8 + 2 * t + i;
                    if (pos > p || pos < low)
                        score[m][n][2 * r + i] = -INFINITY;
                }
        }
}

/* Scores become exponentials under the largest score so far; what was summed up shrinks to it.
 * Where a line has seen nothing yet, 0 stands for its largest. */
template <int E, int N, int M>
__device__ static inline void soften(float scale, float (&score)[M][N][4],
                                     struct prompt_sum<E, M> &s)
{
    float factor[M][2];
    bool grew = false;

#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float most = score[m][0][2 * r], sum = 0;

#pragma unroll
            for (int n = 0; n < N; n++)
                most = fmaxf(most, fmaxf(score[m][n][2 * r], score[m][n][2 * r + 1]));
            most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, 1));
            most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, 2));
            most = fmaxf(s.max[m][r], most * scale);
            const float under = most == -INFINITY ? 0.0f : most;

            grew |= most > s.max[m][r];
            factor[m][r] = exp2_value(s.max[m][r] - under);
            s.max[m][r] = most;
#pragma unroll
            for (int n = 0; n < N; n++)
#pragma unroll
                for (int i = 2 * r; i < 2 * r + 2; i++) {
                    score[m][n][i] = exp2_value(fmaf(score[m][n][i], scale, -under));
                    sum += score[m][n][i];
                }
            s.sum[m][r] = fmaf(s.sum[m][r], factor[m][r], sum);
        }
    if (!__any_sync(0xFFFFFFFFu, grew))
        return; /* every factor is 1, or of sums that are 0 */
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int n = 0; n < E / 8; n++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                s.out[m][n][i] *= factor[m][i / 2];
}

/* O += P V */
template <enum dtype T, int E, int M>
__device__ static inline void add_values(const uint16_t *values,
                                         const float (&weight)[M][prompt_shape<E, M>::keys / 8][4],
                                         struct prompt_sum<E, M> &s)
{
    using shape = struct prompt_shape<E, M>;
    const int lane = threadIdx.x % 32;
    const uint16_t *v = values + (lane / 8 % 2 * 8 + lane % 8) * shape::stride + lane / 16 * 8;

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
            load_transposed(y, v + k * 16 * shape::stride + n * 8);
#pragma unroll
            for (int m = 0; m < M; m++) {
                mma_16x8x16<T>(s.out[m][n], x[m][0], x[m][1], x[m][2], x[m][3], y[0], y[1]);
                mma_16x8x16<T>(s.out[m][n + 1], x[m][0], x[m][1], x[m][2], x[m][3], y[2], y[3]);
            }
        }
    }
}

/* The warp's lines, over its own part of the queries, to `out` in pieces of 16 bytes.  Adding 0
 * makes the zero of either sign the same one. */
template <enum dtype T, int E, int M>
__device__ static inline void finish(const struct prompt_job &a, const struct prompt_place &w,
                                     const struct prompt_sum<E, M> &s, uint16_t *queries)
{
    using shape = struct prompt_shape<E, M>;
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int first = threadIdx.x / 32 * 16 * M;
    uint16_t *room = queries + first * shape::stride;

    __syncwarp();
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float sum = s.sum[m][r];

            sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
            sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
            const float factor = 1.0f / sum;
            uint16_t *to = room + (m * 16 + r * 8 + g) * shape::stride + 2 * t;
#pragma unroll
            for (int n = 0; n < E / 8; n++)
                *(uint32_t *)(to + n * 8) = pair_of<T>(s.out[m][n][2 * r] * factor + 0.0f,
                                                       s.out[m][n][2 * r + 1] * factor + 0.0f);
        }
    __syncwarp();
    for (int i = lane; i < 16 * M * (E / 8); i += 32) {
        const int line = first + i / (E / 8), at = i % (E / 8) * 8;
        const int row = line / w.n_group, head = w.kv_head * w.n_group + line % w.n_group;

        if (line < w.n_lines)
            *(uint4 *)(a.out + ((w.first_row + row) * a.n_heads + head) * E + at) =
                *(const uint4 *)(room + i / (E / 8) * shape::stride + at);
    }
}

template <int E> __device__ static inline struct prompt_place place_of(const struct prompt_job &a)
{
    const struct prompt_tile tile = a.tile[blockIdx.y];
    struct prompt_place w = { .first_row = tile.first_row,
                              .kv = 0,
                              .n_lines = tile.n_rows * a.n_group,
                              .n_group = a.n_group,
                              .kv_head = (int)blockIdx.x,
                              .p_first = a.position[tile.first_row],
                              .p_last = 0,
                              .low = 0 };

    w.p_last = w.p_first + tile.n_rows - 1;
    w.low = a.window > 0 && w.p_first >= a.window ? w.p_first - a.window + 1 : 0;
    w.kv = (a.slot[tile.first_row] * a.capacity * a.n_kv_heads + w.kv_head) * E;
    return w;
}

/* M tiles of 16 lines a warp. */
template <enum dtype T, int E, int M>
__global__ void __launch_bounds__(N_THREADS, 2)
    attend_prompt(const __grid_constant__ struct prompt_job a)
{
    using shape = struct prompt_shape<E, M>;
    extern __shared__ __align__(16) uint16_t room[];
    uint16_t *const keys = room + shape::lines * shape::stride;
    const int part = shape::keys * shape::stride; /* keys or values of a block */
    const struct prompt_place w = place_of<E>(a);
    const int last = w.p_last / shape::keys;
    struct prompt_sum<E, M> s;

#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            s.max[m][r] = -INFINITY;
            s.sum[m][r] = 0;
#pragma unroll
            for (int n = 0; n < E / 8; n++)
                s.out[m][n][2 * r] = s.out[m][n][2 * r + 1] = 0;
        }
    copy_queries<E, M>(a, w, room);
    copy_block<E, M>(a, w, w.low / shape::keys, keys, keys + part);
    asm volatile("cp.async.commit_group;" ::: "memory");
    for (int block = w.low / shape::keys, turn = 0; block <= last; block++, turn ^= 1) {
        const uint16_t *here = keys + turn * 2 * part;
        const int first = block * shape::keys;
        float score[M][shape::keys / 8][4];

        asm volatile("cp.async.wait_group 0;" ::: "memory");
        __syncthreads(); /* the block is there, and all are through with the one before */
        if (block < last) {
            uint16_t *next = keys + (turn ^ 1) * 2 * part;
            copy_block<E, M>(a, w, block + 1, next, next + part);
            asm volatile("cp.async.commit_group;" ::: "memory");
        }
        block_scores<T, E, M>(room, here, score);
        if (first + shape::keys - 1 > w.p_first || (a.window > 0 && first <= w.p_last - a.window))
            hide<shape::keys / 8, M>(a, w, first, score);
        soften<E, shape::keys / 8, M>(a.scale, score, s);
        add_values<T, E, M>(here + part, score, s);
    }
    finish<T, E, M>(a, w, s, room);
}

/* ---- the launch ---- */

struct prompt_kernel {
    void (*start)(struct prompt_job);
    int n_lines, n_bytes;
};

template <enum dtype T, int E, int M> static struct prompt_kernel kernel_with()
{
    return { attend_prompt<T, E, M>, prompt_shape<E, M>::lines, prompt_shape<E, M>::n_bytes };
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
        return { NULL, 0, 0 };
    }
}

static struct prompt_kernel kernel_of(const struct attention_args *a, bool wide)
{
    const enum dtype t = a->q->dtype;

    return t == DTYPE_F16    ? kernel_for<DTYPE_F16>(a->head_dim, wide)
           : t == DTYPE_BF16 ? kernel_for<DTYPE_BF16>(a->head_dim, wide)
                             : prompt_kernel{ NULL, 0, 0 };
}

bool cuda_attention_prompt_fits(const struct attention_args *a)
{
    const struct prompt_kernel kernel = kernel_of(a, false);
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
    kernel->start<<<dim3((unsigned)job->n_kv_heads, (unsigned)n_tiles), N_THREADS,
                    (size_t)kernel->n_bytes, s->stream>>>(*job);
    CUDA_LAUNCHED(s, "attend_prompt");
    return 0;
}

int cuda_attention_prompt(struct cuda_state *s, const struct attention_args *a, struct err *e)
{
    const int n_group = a->n_heads / a->n_kv_heads;
    struct prompt_kernel kernel = kernel_of(a, true);
    struct prompt_job job;
    int64_t n_tiles = 0, most = 0;
    int n = 0;

    for (int i = 0; i < a->segments.n; i++)
        n_tiles += tiles_of(&a->segments, i, kernel.n_lines / n_group);
    if (n_tiles * a->n_kv_heads < 2 * s->n_multiprocessors)
        kernel = kernel_of(a, false);
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
