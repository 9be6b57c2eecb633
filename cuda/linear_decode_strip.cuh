/* linear_decode_strip.cuh - the kernel for few rows of x: a block takes units of 8 rows of W
 * (strips) one after another, its eight warps an eighth of K each.
 *
 * The bytes of W pass once, from memory into registers: chunks are on their way DEPTH ahead of
 * their use, the first ones before the launch in front has ended.  x lies in shared memory, rounded
 * (and normed) once a block; where it does not fit there, fragments come from L2.  A lane has 16
 * bytes of x and 8 of 32 columns of its row of W at a time: fragments of two mma.m16n8k16, since K
 * may be permuted inside a step if both operands are.  */
#pragma once

#include "linear_decode.cuh"
#include "unpack.cuh"

#define STRIP_WARPS   8
#define STRIP_THREADS (32 * STRIP_WARPS)
#define STRIP_X_PAD   32 /* halves between rows of x: 64 bytes, so that two rows are all banks */

struct decode_part {
    const uint8_t *codes;
    const void *scales, *zeros;
    const float *scales2;
    const void *bias;
    void *y;
    float offset, zero;
    int n_units;
};

struct decode_job {
    struct decode_part part[3];
    int n_parts, n_rows, n_in, n_passes;
    int64_t row_bytes;
    int n_groups, group_shift; /* of a row; chunk >> shift where a group is chunks */
    int groups_log;            /* of 2: groups in a chunk */
    enum scale_form scale_form;
    enum zero_form zero_form;
    const void *x;
    const void *norm;
    float eps;
    enum dtype model, bias_t;
    enum decode_epilogue epilogue;
    void *residual;
    struct decode_best *best;
    const int32_t *forbidden;
    int n_forbidden;
    const float *map;
    float table[16];
    struct decode_ahead ahead[DECODE_N_AHEAD];
};

/* Plain rows as they lie: fragments need no work. */
struct codes_16 {
    static constexpr int N_WORDS = 16, BITS = 16, N_LOOKUP = 0;
    uint32_t word[16];
    struct group_t {
    };

    __device__ static void fill_lookup(char *, const float *)
    {
    }
    template <bool BF16> __device__ static group_t group(float, float)
    {
        return {};
    }
    template <bool BF16>
    __device__ void pairs(int j, const group_t &, const char *, int, uint32_t out[4])
    {
#pragma unroll
        for (int i = 0; i < 4; i++)
            out[i] = word[4 * j + i];
    }
};

template <bool BF16>
__device__ inline void mma_16(float (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                              uint32_t b0, uint32_t b1)
{
    if (BF16)
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                     "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
    else
        asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
                     "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                     : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
                     : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* First chunk of part i of K; the last ends at part STRIP_WARPS. */
__device__ inline int first_chunk(int n_chunks, int i)
{
    return n_chunks * i / STRIP_WARPS;
}

__device__ inline void prefetch_l2(const void *p, int64_t n_bytes)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"((uint32_t)n_bytes)
                 : "memory");
#endif
}

/* This block's share of what comes behind. */
__device__ inline void prefetch_ahead(const struct decode_job &a)
{
    const int64_t piece = 8192;

    if (threadIdx.x >= 32)
        return;
    for (int i = 0; i < DECODE_N_AHEAD; i++)
        for (int64_t at = (blockIdx.x + (int64_t)gridDim.x * threadIdx.x) * piece;
             at < a.ahead[i].n_bytes; at += 32 * piece * gridDim.x) {
            int64_t left = a.ahead[i].n_bytes - at;
            prefetch_l2((const char *)a.ahead[i].p + at, left < piece ? left & -16 : piece);
        }
}

/* ---- x ---- */

__device__ inline float pair_value(enum dtype t, uint32_t pair, int which)
{
    if (t == DTYPE_BF16)
        return which ? high_value<true>(pair) : low_value<true>(pair);
    return which ? high_value<false>(pair) : low_value<false>(pair);
}

/* The chain of squares of a thread. */
__device__ inline float add_squares(enum dtype t, uint4 v, float sum)
{
    const uint32_t pair[4] = { v.x, v.y, v.z, v.w };

#pragma unroll
    for (int i = 0; i < 8; i++) {
        float x = pair_value(t, pair[i / 2], i % 2);
        sum = fmaf(x, x, sum);
    }
    return sum;
}

/* By halves within a warp. */
__device__ inline float sum_of_warp(float sum)
{
#pragma unroll
    for (int half = 16; half; half /= 2)
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, half);
    return sum;
}

/* From the sums of the warps, in their order. */
__device__ inline float norm_factor(const float *sums, int n, float eps)
{
    float sum = sums[0];

#pragma unroll
    for (int i = 1; i < STRIP_WARPS; i++)
        sum += sums[i];
    return 1.0f / sqrtf(sum / (float)n + eps);
}

/* Eight elements in the model's type t: normed where there are weights, in the compute dtype. */
template <bool BF16>
__device__ inline uint4 finished_x(enum dtype t, uint4 v, bool norm, float factor, uint4 weight)
{
    const uint32_t pair[4] = { v.x, v.y, v.z, v.w };
    const uint32_t w[4] = { weight.x, weight.y, weight.z, weight.w };
    uint32_t out[4];

#pragma unroll
    for (int i = 0; i < 4; i++) {
        float x[2];

#pragma unroll
        for (int k = 0; k < 2; k++) {
            x[k] = pair_value(t, pair[i], k);
            if (norm)
                x[k] = round_value(t, round_value(t, x[k] * factor) * pair_value(t, w[i], k));
        }
        out[i] = pack_pair<BF16>(x[0], x[1]);
    }
    return make_uint4(out[0], out[1], out[2], out[3]);
}

/* All rows of x into xs.  Thread i copies and reads vectors i, i + 256, ... of each row. */
template <bool BF16>
__device__ inline void stage_x(const struct decode_job &a, uint16_t *xs, float *sums)
{
    const int n_vectors = a.n_in / 8, ld = a.n_in + STRIP_X_PAD;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    const bool convert = (a.model == DTYPE_BF16) != BF16;
    uint4 weight = make_uint4(0, 0, 0, 0);

    if (a.norm && threadIdx.x < n_vectors)
        weight = __ldg((const uint4 *)a.norm + threadIdx.x);
    wait_for_previous();
    for (int r = 0; r < a.n_rows; r++)
        for (int v = threadIdx.x; v < n_vectors; v += STRIP_THREADS) {
            unsigned to = (unsigned)__cvta_generic_to_shared(xs + r * ld + 8 * v);
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to),
                         "l"((const uint16_t *)a.x + (int64_t)r * a.n_in + 8 * v)
                         : "memory");
        }
    asm volatile("cp.async.wait_all;" ::: "memory");
    if (a.norm) {
        for (int r = 0; r < a.n_rows; r++) {
            float sum = 0;

            for (int v = threadIdx.x; v < n_vectors; v += STRIP_THREADS)
                sum = add_squares(a.model, *(const uint4 *)(xs + r * ld + 8 * v), sum);
            sum = sum_of_warp(sum);
            if (lane == 0)
                sums[r * STRIP_WARPS + warp] = sum;
        }
        __syncthreads();
    }
    if (a.norm || convert)
        for (int r = 0; r < a.n_rows; r++) {
            float factor = a.norm ? norm_factor(sums + r * STRIP_WARPS, a.n_in, a.eps) : 1.0f;

            for (int v = threadIdx.x; v < n_vectors; v += STRIP_THREADS) {
                uint4 *at = (uint4 *)(xs + r * ld + 8 * v);
                if (a.norm && v >= STRIP_THREADS)
                    weight = __ldg((const uint4 *)a.norm + v);
                *at = finished_x<BF16>(a.model, *at, a.norm, factor, weight);
            }
            if (n_vectors > STRIP_THREADS && a.norm)
                weight = __ldg((const uint4 *)a.norm + threadIdx.x);
        }
    __syncthreads();
}

/* ---- results ---- */

__device__ inline bool is_forbidden(const struct decode_job &a, int32_t id)
{
    for (int i = 0; i < a.n_forbidden; i++)
        if (a.forbidden[i] == id)
            return true;
    return false;
}

/* Larger wins, the lower id among equals, NaN over all. */
__device__ inline struct decode_best better_of(struct decode_best a, struct decode_best b)
{
    if (a.id == DECODE_NAN || b.id == DECODE_NONE)
        return a;
    if (b.id == DECODE_NAN || a.id == DECODE_NONE)
        return b;
    return b.value > a.value || (b.value == a.value && b.id < a.id) ? b : a;
}

__device__ inline void see_logit(const struct decode_job &a, float v, int32_t id,
                                 struct decode_best *best)
{
    if (!(v == v))
        best->id = DECODE_NAN;
    else if (best->id == DECODE_NONE || (best->id >= 0 && v > best->value))
        if (!is_forbidden(a, id))
            *best = { v, id };
}

/* The best of eight neighbouring lanes, to memory by the first of them. */
__device__ inline void store_best(const struct decode_job &a, int row, struct decode_best best)
{
#pragma unroll
    for (int half = 4; half; half /= 2) {
        struct decode_best other = { __shfl_xor_sync(0xFFFFFFFFu, best.value, half),
                                     __shfl_xor_sync(0xFFFFFFFFu, best.id, half) };
        best = better_of(best, other);
    }
    if (threadIdx.x % 8 == 0 && row < a.n_rows)
        a.best[(int64_t)blockIdx.x * a.n_rows + row] = best;
}

__device__ inline float biased(const struct decode_job &a, const struct decode_part &part, int col,
                               float sum)
{
    return part.bias ? sum + load_value(a.bias_t, part.bias, col) : sum;
}

__device__ inline float swiglu_value(enum dtype t, float gate, float up)
{
    gate = round_value(t, gate);
    return round_value(t, gate / (1.0f + exp_value(-gate))) * round_value(t, up);
}

/* One output of a part; held: the residual's value. */
__device__ inline void finish(const struct decode_job &a, const struct decode_part &part, int row,
                              int col, float sum, float held, struct decode_best *best)
{
    const int64_t at = (int64_t)row * part.n_units * UNIT_ROWS + col;
    float v = biased(a, part, col, sum);

    if (a.epilogue == DECODE_STORE)
        store_value(a.model, part.y, at, v);
    else if (a.epilogue == DECODE_ADD)
        store_value(a.model, a.residual, at, held + round_value(a.model, v));
    else if (a.epilogue == DECODE_LOGITS)
        ((float *)part.y)[at] = v;
    else
        see_logit(a, v, col, best);
}

/* ---- the kernel ---- */

/* A chunk of R units on its way. */
template <class C, int R> struct strip_slot {
    C codes[R];
    uint32_t scale[R], zero[R];
    float second[R];
};

/* Units of a pass: two parts side by side, or one unit of the parts one after another. */
template <int R>
__device__ inline void unit_of_pass(const struct decode_job &a, int pass, int r, int *part,
                                    int *unit)
{
    *part = R == 2 ? r : 0;
    *unit = pass;
    if (R == 1)
        while (*part + 1 < a.n_parts && *unit >= a.part[*part].n_units)
            *unit -= a.part[(*part)++].n_units;
}

template <class C, int R>
__device__ inline void load_slot(const struct decode_job &a, int pass, int chunk, int lane,
                                 struct strip_slot<C, R> *to)
{
#pragma unroll
    for (int r = 0; r < R; r++) {
        int part, unit;

        unit_of_pass<R>(a, pass, r, &part, &unit);
        const struct decode_part &p = a.part[part];
        const uint8_t *codes = p.codes + (int64_t)unit * UNIT_ROWS * a.row_bytes;
        if constexpr (C::BITS == 16) {
            codes += lane / 4 * a.row_bytes + chunk * (2 * CHUNK_COLS) + 16 * (lane % 4);
#pragma unroll
            for (int j = 0; j < 4; j++) {
                uint4 v = load_16(codes + 64 * j);
                uint32_t *word = to->codes[r].word + 4 * j;
                word[0] = v.x, word[1] = v.y, word[2] = v.z, word[3] = v.w;
            }
        } else {
            to->codes[r].load(codes + chunk * (CHUNK_COLS / 8 * C::BITS * UNIT_ROWS), lane);
            /* Lane 8 i + row has the scale of group i of the chunk. */
            int in_chunk = lane / 8 < (1 << a.groups_log) ? lane / 8 : (1 << a.groups_log) - 1;
            int group = a.groups_log ? (chunk << a.groups_log) + in_chunk : chunk >> a.group_shift;
            int64_t at = ((int64_t)unit * a.n_groups + group) * UNIT_ROWS + lane % 8;
            to->scale[r] = scale_bits(a.scale_form, p.scales, at);
            to->zero[r] = zero_bits(a.zero_form, p.zeros, at);
            to->second[r] =
                has_second(a.scale_form)
                    ? __ldg(p.scales2 +
                            (((int64_t)unit * UNIT_ROWS + lane % 8) * a.n_groups + group) /
                                WEIGHT_NESTED_RUN)
                    : 0.0f;
        }
    }
}

/* Fragments of 16 rows of x for k = 32 number j of a chunk: rows g and g + 8. */
struct x_fragment {
    uint4 upper, lower;
};

template <int MT>
__device__ inline void load_x(const struct decode_job &a, const uint16_t *xs, int col, int lane,
                              struct x_fragment (&x)[MT ? MT : 1])
{
    const uint4 none = make_uint4(0, 0, 0, 0);
    const int g = lane / 4;

    col += 8 * (lane % 4);
    const uint16_t *from = (const uint16_t *)a.x + col;
#pragma unroll
    for (int m = 0; m < (MT ? MT : 1); m++) {
        int row = 16 * m + g;

        if (MT == 0) {
            x[m].upper =
                row < a.n_rows ? *(const uint4 *)(xs + row * (a.n_in + STRIP_X_PAD) + col) : none;
            continue;
        }
        x[m].upper = row < a.n_rows ? __ldcg((const uint4 *)(from + (int64_t)row * a.n_in)) : none;
        row += 8;
        x[m].lower = row < a.n_rows ? __ldcg((const uint4 *)(from + (int64_t)row * a.n_in)) : none;
    }
}

template <bool BF16, int MT, int R>
__device__ inline void multiply_32(const struct decode_job &a,
                                   const struct x_fragment (&x)[MT ? MT : 1],
                                   const uint32_t (&w)[4], float (&sum)[MT ? MT : 1][R][4], int r)
{
#pragma unroll
    for (int m = 0; m < (MT ? MT : 1); m++)
        if (MT == 0) {
            mma_16<BF16>(sum[m][r], x[m].upper.x, 0, x[m].upper.y, 0, w[0], w[1]);
            mma_16<BF16>(sum[m][r], x[m].upper.z, 0, x[m].upper.w, 0, w[2], w[3]);
        } else if (16 * m < a.n_rows) {
            mma_16<BF16>(sum[m][r], x[m].upper.x, x[m].lower.x, x[m].upper.y, x[m].lower.y, w[0],
                         w[1]);
            mma_16<BF16>(sum[m][r], x[m].upper.z, x[m].lower.z, x[m].upper.w, x[m].lower.w, w[2],
                         w[3]);
        }
}

template <class C, bool BF16, int MT, int R>
__device__ inline void multiply_chunk(const struct decode_job &a, struct strip_slot<C, R> &s,
                                      int pass, int chunk, const uint16_t *xs, const char *lookup,
                                      const float *map, float (&sum)[MT ? MT : 1][R][4])
{
    const int lane = threadIdx.x % 32;
    float scale[R], zero[R];
    typename C::group_t g[R];

    if constexpr (C::BITS != 16) {
#pragma unroll
        for (int r = 0; r < R; r++) {
            int part, unit;

            unit_of_pass<R>(a, pass, r, &part, &unit);
            scale[r] = scale_value(a.scale_form, s.scale[r], s.second[r], a.part[part].offset, map);
            zero[r] = zero_value(a.zero_form, s.zero[r], a.part[part].zero);
        }
    }
#pragma unroll
    for (int j = 0; j < 4; j++) {
        struct x_fragment x[MT ? MT : 1];

        load_x<MT>(a, xs, chunk * CHUNK_COLS + 32 * j, lane, x);
#pragma unroll
        for (int r = 0; r < R; r++) {
            uint32_t w[4];

            if constexpr (C::BITS != 16)
                if (j == 0 || a.groups_log == 2 || (a.groups_log && j == 2)) {
                    int from = (j << a.groups_log) / 4 * 8 + lane / 4;
                    g[r] = C::template group<BF16>(__shfl_sync(0xFFFFFFFFu, scale[r], from),
                                                   __shfl_sync(0xFFFFFFFFu, zero[r], from));
                }
            s.codes[r].template pairs<BF16>(j, g[r], lookup, lane, w);
            multiply_32<BF16, MT, R>(a, x, w, sum, r);
        }
    }
}

/* Rows of x that a warp's sums have room for. */
template <int MT> __device__ constexpr int sum_rows(void)
{
    return MT ? 16 * MT : 8;
}

/* [warp][unit][row][column of the unit] */
template <int MT, int R>
__device__ inline void store_sums(float *to, const float (&sum)[MT ? MT : 1][R][4])
{
    constexpr int rows = sum_rows<MT>();
    const int lane = threadIdx.x % 32;
    float *own = to + threadIdx.x / 32 * (R * rows * UNIT_ROWS) + 2 * (lane % 4);

#pragma unroll
    for (int m = 0; m < (MT ? MT : 1); m++)
#pragma unroll
        for (int r = 0; r < R; r++) {
            float *at = own + (r * rows + 16 * m + lane / 4) * UNIT_ROWS;
            *(float2 *)at = make_float2(sum[m][r][0], sum[m][r][1]);
            if (MT)
                *(float2 *)(at + 8 * UNIT_ROWS) = make_float2(sum[m][r][2], sum[m][r][3]);
        }
}

/* The eight sums of one output, in order. */
template <int MT, int R>
__device__ inline float sum_of_parts(const float *sums, int r, int row, int col)
{
    constexpr int rows = sum_rows<MT>();
    const float *at = sums + (r * rows + row) * UNIT_ROWS + col;
    float sum = at[0];

#pragma unroll
    for (int i = 1; i < STRIP_WARPS; i++)
        sum += at[i * R * rows * UNIT_ROWS];
    return sum;
}

/* MT 0: up to 8 rows of x, in shared memory; else up to 16 MT, in L2. */
template <class C, bool BF16, int MT, int R, int DEPTH>
__global__ static void __launch_bounds__(STRIP_THREADS, MT ? 1 : 2)
    decode_strip(const __grid_constant__ struct decode_job a)
{
    extern __shared__ __align__(16) char room[];
    constexpr int n_sums = STRIP_WARPS * R * sum_rows<MT>() * UNIT_ROWS;
    constexpr int per_thread = (sum_rows<MT>() * UNIT_ROWS + STRIP_THREADS - 1) / STRIP_THREADS;
    float *sums = (float *)room; /* two of them, in turn */
    float *map = sums + 2 * n_sums;
    char *lookup = (char *)(map + 256);
    uint16_t *xs = (uint16_t *)(lookup + C::N_LOOKUP);
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, n_chunks = a.n_in / CHUNK_COLS;
    const int begin = first_chunk(n_chunks, warp), end = first_chunk(n_chunks, warp + 1);
    struct strip_slot<C, R> slot[DEPTH];
    int next_pass = blockIdx.x, next_chunk = begin;
    struct decode_best best[per_thread];

    let_next_start();
#pragma unroll
    for (int i = 0; i < DEPTH; i++)
        if (begin < end && next_pass < a.n_passes) {
            load_slot<C, R>(a, next_pass, next_chunk, lane, &slot[i]);
            if (++next_chunk == end)
                next_chunk = begin, next_pass += gridDim.x;
        }
    prefetch_ahead(a);
    if (a.scale_form == SCALE_NESTED)
        map[threadIdx.x] = __ldg(a.map + threadIdx.x);
    C::fill_lookup(lookup, a.table);
    if (MT == 0) {
        stage_x<BF16>(a, xs, sums);
    } else {
        wait_for_previous();
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < per_thread; i++)
        best[i] = { 0.0f, DECODE_NONE };

    for (int pass = blockIdx.x, turn = 0; pass < a.n_passes; pass += gridDim.x, turn ^= 1) {
        float sum[MT ? MT : 1][R][4] = {};
        int part, unit;

        for (int chunk = begin; chunk < end; chunk++) {
            struct strip_slot<C, R> now = slot[0];

#pragma unroll
            for (int i = 0; i + 1 < DEPTH; i++)
                slot[i] = slot[i + 1];
            if (next_pass < a.n_passes) {
                load_slot<C, R>(a, next_pass, next_chunk, lane, &slot[DEPTH - 1]);
                if (++next_chunk == end)
                    next_chunk = begin, next_pass += gridDim.x;
            }
            multiply_chunk<C, BF16, MT, R>(a, now, pass, chunk, xs, lookup, map, sum);
        }
        unit_of_pass<R>(a, pass, 0, &part, &unit);
        const struct decode_part &p = a.part[part];
        float *parts = sums + turn * n_sums;

        store_sums<MT, R>(parts, sum);
        __syncthreads();
#pragma unroll
        for (int i = 0; i < per_thread; i++) {
            int at = i * STRIP_THREADS + threadIdx.x, row = at / UNIT_ROWS, c = at % UNIT_ROWS;
            int col = unit * UNIT_ROWS + c;
            float held = 0;

            if (row >= a.n_rows)
                continue;
            if (a.epilogue == DECODE_ADD)
                held = load_value(a.model, a.residual, (int64_t)row * p.n_units * UNIT_ROWS + col);
            float v = sum_of_parts<MT, R>(parts, 0, row, c);
            if (R == 1) {
                finish(a, p, row, col, v, held, &best[i]);
            } else {
                float up = sum_of_parts<MT, R>(parts, R - 1, row, c);
                v = swiglu_value(a.model, biased(a, p, col, v), biased(a, a.part[1], col, up));
                store_value(a.model, p.y, (int64_t)row * p.n_units * UNIT_ROWS + col, v);
            }
        }
    }
    if (a.epilogue == DECODE_ARGMAX)
#pragma unroll
        for (int i = 0; i < per_thread; i++)
            store_best(a, (i * STRIP_THREADS + threadIdx.x) / UNIT_ROWS, best[i]);
}

/* Kernels of one kind of codes: [bf16][x in L2][two units]. */
struct strip_kernels {
    const void *at[2][2][2];
    int n_lookup;
};

template <class C, int DEPTH> static struct strip_kernels strip_kernels_of(void)
{
    return { { { { (const void *)decode_strip<C, false, 0, 1, DEPTH>,
                   (const void *)decode_strip<C, false, 0, 2, DEPTH> },
                 { (const void *)decode_strip<C, false, 4, 1, 1>,
                   (const void *)decode_strip<C, false, 4, 2, 1> } },
               { { (const void *)decode_strip<C, true, 0, 1, DEPTH>,
                   (const void *)decode_strip<C, true, 0, 2, DEPTH> },
                 { (const void *)decode_strip<C, true, 4, 1, 1>,
                   (const void *)decode_strip<C, true, 4, 2, 1> } } },
             C::N_LOOKUP };
}

/* By the kind of codes; each in a file of its own. */
struct strip_kernels strip_kernels_16(void);
struct strip_kernels strip_kernels_4(bool zeros);
struct strip_kernels strip_kernels_low(int bits);
struct strip_kernels strip_kernels_high(int bits);
