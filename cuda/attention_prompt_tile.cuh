/* attention_prompt_tile.cuh - what the kernels for prompts share; inner to attention_prompt*.cu.
 *
 * A tile is as many rows of one sequence, times the query heads of one key/value head, as give 64
 * or 128 lines; a warp owns 16 or 32 of them.  Tiles go through the keys in blocks that are counted
 * from position 0, two blocks in shared memory at a time:
 *   S = Q K^T;  exponentials under the largest score of the line so far;  O = O shrunk + P V
 * with P rounded to the model's type.  Blocks or positions that a line does not see leave its sums
 * as they are, to the bit; so a line depends on its position alone, not on the tile, the size of
 * tiles, or how a prompt was cut.
 *
 * A position that a line does not see has weight 0, which hides every value but those that are not
 * finite.  Where a block is not seen by all lines such values become 0, and the lines that see one
 * become NaN. */
#pragma once

#include "attention.cuh"

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
    int reciprocal; /* line / n_group is line * reciprocal >> 16 */
    float scale;    /* log2(e) / sqrt(E) */
    struct prompt_tile tile[TILES_MAX];
};

static_assert(sizeof(struct prompt_job) <= 4096, "arguments of a launch");

struct prompt_kernel {
    void (*start)(struct prompt_job); /* NULL: none */
    int n_lines, n_threads, n_bytes;
};

/* The kernel for Hopper, of one warpgroup or two (wide). */
struct prompt_kernel prompt_sm90_f16(int head_dim, bool wide);
struct prompt_kernel prompt_sm90_bf16(int head_dim, bool wide);

/* ---- on the device ---- */

/* What a block of threads works on. */
struct prompt_place {
    int64_t first_row;
    const uint16_t *keys, *values; /* of the slot, at this head */
    int stride;                    /* elements from position to position */
    int n_lines, kv_head;
    int p_first, p_last, low; /* positions of the rows; the first position that any sees */
};

/* Sums of a warp's lines: tile m, row g and row g + 8. */
template <int E, int M> struct prompt_sum {
    float max[M][2]; /* times scale */
    float sum[M][2];
    float out[M][E / 8][4];
};

template <int E> __device__ inline struct prompt_place place_of(const struct prompt_job &a)
{
    const struct prompt_tile tile = a.tile[blockIdx.y];
    struct prompt_place w;

    w.first_row = tile.first_row;
    w.stride = a.n_kv_heads * E;
    w.n_lines = tile.n_rows * a.n_group;
    w.kv_head = blockIdx.x;
    w.p_first = a.position[tile.first_row];
    w.p_last = w.p_first + tile.n_rows - 1;
    w.low = a.window > 0 && w.p_first >= a.window ? w.p_first - a.window + 1 : 0;
    const int64_t at = a.slot[tile.first_row] * a.capacity * w.stride + w.kv_head * E;
    w.keys = a.k_cache + at;
    w.values = a.v_cache + at;
    return w;
}

/* Which row of the tile a line belongs to. */
__device__ inline int row_of(const struct prompt_job &a, int line)
{
    return line * a.reciprocal >> 16;
}

/* Element 0 of a line, in q or out; lines are rows times heads of the group, row-major. */
template <int E>
__device__ inline int64_t line_at(const struct prompt_job &a, const struct prompt_place &w,
                                  int line)
{
    const int row = row_of(a, line);
    const int head = w.kv_head * a.n_group + line - row * a.n_group;

    return ((w.first_row + row) * a.n_heads + head) * E;
}

template <int E, int M> __device__ inline void begin(struct prompt_sum<E, M> &s)
{
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
}

/* A block that some line does not see all of. */
__device__ inline bool is_edge(const struct prompt_job &a, const struct prompt_place &w, int first,
                               int n_keys)
{
    return first + n_keys - 1 > w.p_first || (a.window > 0 && first <= w.p_last - a.window);
}

/* What a line does not see gets -inf. */
template <int N, int M>
__device__ inline void hide(const struct prompt_job &a, const struct prompt_place &w, int first,
                            float (&score)[M][N][4])
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, warp = threadIdx.x / 32;

#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int p = w.p_first + row_of(a, warp * 16 * M + m * 16 + r * 8 + g);
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
__device__ inline void soften(float scale, float (&score)[M][N][4], struct prompt_sum<E, M> &s)
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

/* ---- values that are not finite, in blocks that some line does not see all of ---- */

/* In shared memory: positions of the block that hold one. */
struct prompt_bad {
    uint32_t key[2];
};

/* Eight values: those that are not finite become 0; says whether there was one. */
template <enum dtype T> __device__ inline bool clean(uint4 *piece)
{
    const uint32_t exponent = T == DTYPE_F16 ? 0x7C007C00 : 0x7F807F80;
    uint4 x = *piece;
    uint32_t bad = 0;

#pragma unroll
    for (int i = 0; i < 4; i++) {
        uint32_t *word = &(&x.x)[i], here = __vcmpeq2(*word & exponent, exponent);

        *word &= ~here;
        bad |= here;
    }
    if (bad)
        *piece = x;
    return bad;
}

/* NaN for the lines that see one; all threads. */
template <int E, int M>
__device__ inline void spoil(const struct prompt_job &a, const struct prompt_place &w, int first,
                             struct prompt_bad *bad, struct prompt_sum<E, M> &s)
{
    const uint64_t keys = (uint64_t)bad->key[1] << 32 | bad->key[0];
    const int g = threadIdx.x % 32 / 4, warp = threadIdx.x / 32;

#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const int p = w.p_first + row_of(a, warp * 16 * M + m * 16 + r * 8 + g);
            const int low = a.window > 0 ? p - a.window + 1 : 0;

#pragma unroll 1
            for (int i = 0; i < 64; i++)
                if (keys >> i & 1 && first + i >= low && first + i <= p)
                    s.sum[m][r] = NAN;
        }
    __syncthreads();
    if (threadIdx.x == 0)
        bad->key[0] = bad->key[1] = 0;
    __syncthreads();
}

/* ---- the end ---- */

/* The warp's lines, over a part of shared memory that is its own, in rows of E + 8 elements, to
 * `out` in pieces of 16 bytes.  Adding 0 makes the zero of either sign the same one. */
template <enum dtype T, int E, int M>
__device__ inline void finish(const struct prompt_job &a, const struct prompt_place &w,
                              const struct prompt_sum<E, M> &s, uint16_t *room)
{
    const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    const int first = threadIdx.x / 32 * 16 * M;

    __syncwarp();
#pragma unroll
    for (int m = 0; m < M; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            float sum = s.sum[m][r];

            sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
            sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
            const float factor = 1.0f / sum;
            uint16_t *to = room + (m * 16 + r * 8 + g) * (E + 8) + 2 * t;
#pragma unroll
            for (int n = 0; n < E / 8; n++)
                *(uint32_t *)(to + n * 8) = pair_of<T>(s.out[m][n][2 * r] * factor + 0.0f,
                                                       s.out[m][n][2 * r + 1] * factor + 0.0f);
        }
    __syncwarp();
    for (int i = lane; i < 16 * M * (E / 8); i += 32) {
        const int line = first + i / (E / 8), at = i % (E / 8) * 8;

        if (line < w.n_lines)
            *(uint4 *)(a.out + line_at<E>(a, w, line) + at) =
                *(const uint4 *)(room + i / (E / 8) * (E + 8) + at);
    }
}
