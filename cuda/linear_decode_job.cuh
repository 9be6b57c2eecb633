/* linear_decode_job.cuh - inner to the products of the decode phase: what a launch is told, x in
 * shared memory, the tensor-core product, and what becomes of a sum. */
#pragma once

#include "linear_decode.cuh"
#include "unpack.cuh"

#define K_PARTS        8 /* of K: chains whose sums are added in order */
#define DECODE_THREADS 256
#define X_PAD          32 /* halves between rows of x: 64 bytes, so that two rows are all banks */
#define PASS_ROWS      (2 * UNIT_ROWS) /* rows of W side by side: the 16 of a product */

struct decode_part {
    const uint8_t *codes, *scales, *zeros;
    const float *scales2; /* NULL: `second` for all */
    const void *bias;
    void *y;
    float second, offset, zero;
    int n_units;
};

struct decode_job {
    struct decode_part part[3];
    int last_pass[3]; /* passes of this part and of those before */
    bool pair;        /* units of parts 0 and 1 side by side; else two of one part */
    bool even;        /* one part, or a pair, and no odd unit: passes are the same way apart */
    int n_rows, n_in, n_passes;
    int n_slots; /* few: of sums, in shared memory */
    int n_split; /* many: blocks that share K, a cluster; 1 or K_PARTS */
    int64_t unit_bytes;
    int n_groups, group_shift; /* of a row; chunk >> shift where a group is chunks */
    int groups_log;            /* of 2: groups in a chunk */
    int scale_bytes, zero_bytes;
    enum scale_form scale_form;
    const float *map; /* weight_dynamic_map */
    const void *x, *norm;
    float eps;
    enum dtype model;
    enum decode_epilogue epilogue;
    void *residual;
    struct decode_best *best;
    const int32_t *forbidden;
    int n_forbidden;
    float table[16];
    struct decode_ahead ahead[DECODE_N_AHEAD];
};

/* First chunk of part i of K; the last one ends at part K_PARTS. */
__device__ inline int first_chunk(int n_chunks, int i)
{
    return n_chunks * i / K_PARTS;
}

/* The warp's number, known to be the same in all lanes. */
__device__ inline int warp_of_block(void)
{
    return __shfl_sync(0xFFFFFFFFu, (int)(threadIdx.x / 32), 0);
}

/* c += W x: 16 rows of W by 8 rows of x, over 16 of k. */
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

/* ---- W ---- */

/* Plain rows as they lie.  A piece is 64 columns: twice the registers of 128 columns of a byte. */
struct codes_16 {
    static constexpr int N_WORDS = 8, BITS = 16, N_LOOKUP = 0;
    uint32_t word[8];
    struct group_t {
    };

    __device__ static void fill_lookup(char *, const float *)
    {
    }
    __device__ void load(const uint8_t *piece)
    {
#pragma unroll
        for (int j = 0; j < 2; j++) {
            uint4 v = load_16(piece + 64 * j);
            word[4 * j] = v.x, word[4 * j + 1] = v.y, word[4 * j + 2] = v.z, word[4 * j + 3] = v.w;
        }
    }
    template <bool BF16>
    __device__ void pairs(int j, const group_t &, const char *, int, uint32_t out[4])
    {
#pragma unroll
        for (int i = 0; i < 4; i++)
            out[i] = word[4 * j + i];
    }
};

/* Columns of a piece. */
template <class C> __device__ constexpr int piece_cols(void)
{
    return C::BITS == 16 ? 64 : CHUNK_COLS;
}

/* Bytes from one piece of a unit to the next. */
template <class C> __device__ constexpr int piece_bytes(void)
{
    return C::BITS == 16 ? 128 : CHUNK_COLS * C::BITS;
}

/* A piece of two units on its way.  A lane has the scale of one row and group: lane 16 i + 8 r +
 * row that of unit r, group i of the chunk; groups 2 and 3 in a second register. */
template <class C> struct decode_slot {
    C codes[2];
    uint32_t scale[2], zero[2];
    float second;
};

/* Where a warp reads next. */
struct decode_cursor {
    int pass, piece;
    const uint8_t *codes[2];
    /* Of the lane's row: */
    const uint8_t *scales, *zeros;
    const float *scales2;
    int first_group; /* number in the matrix, for the second level */
};

/* Part and unit of side r of a pass; of an odd last unit both sides are the same. */
__device__ inline void unit_of_pass(const struct decode_job &a, int pass, int r, int *part,
                                    int *unit)
{
    int first = 0;

    *part = a.pair ? r : 0;
    *unit = pass;
    if (a.pair)
        return;
    while (pass >= a.last_pass[*part])
        first = a.last_pass[(*part)++];
    *unit = 2 * (pass - first) + r;
    *unit = *unit < a.part[*part].n_units ? *unit : *unit - 1;
}

template <class C>
__device__ inline void open_pass(const struct decode_job &a, int begin, int lane,
                                 struct decode_cursor *c)
{
    const int side = lane / 8 % 2;

#pragma unroll
    for (int r = 0; r < 2; r++) {
        int part, unit;

        unit_of_pass(a, c->pass, r, &part, &unit);
        const struct decode_part &p = a.part[part];
        c->codes[r] = p.codes + unit * a.unit_bytes + (int64_t)begin * piece_bytes<C>();
        if (C::BITS == 16)
            c->codes[r] += lane / 4 * (2 * a.n_in) + 16 * (lane % 4);
        if (C::BITS != 16 && side == r) {
            int64_t at = (int64_t)unit * a.n_groups * UNIT_ROWS + lane % 8;
            c->scales = p.scales + at * a.scale_bytes;
            c->zeros = p.zeros + at * a.zero_bytes;
            c->scales2 = p.scales2;
            c->first_group = (unit * UNIT_ROWS + lane % 8) * a.n_groups;
        }
    }
}

/* From pass c->pass to the one `step` on, where they are evenly apart. */
template <class C>
__device__ inline void skip_passes(const struct decode_job &a, int step, struct decode_cursor *c)
{
    const int n_units = a.pair ? step : 2 * step;

    c->pass += step;
    c->piece = 0;
    c->codes[0] += n_units * a.unit_bytes;
    c->codes[1] += n_units * a.unit_bytes;
    if (C::BITS != 16) {
        const int n_groups = n_units * a.n_groups * UNIT_ROWS;
        c->scales += (int64_t)n_groups * a.scale_bytes;
        c->zeros += (int64_t)n_groups * a.zero_bytes;
        c->first_group += n_groups;
    }
}

/* 1, 2 or 4 bytes. */
__device__ inline uint32_t load_number(const uint8_t *p, int n_bytes)
{
    if (n_bytes == 1)
        return __ldg(p);
    return n_bytes == 2 ? __ldg((const uint16_t *)p) : __ldg((const uint32_t *)p);
}

/* The next piece, of chunk number `chunk` of the rows.  bytes: scales are bytes. */
template <class C>
__device__ inline void load_piece(const struct decode_job &a, const struct decode_cursor &c,
                                  int chunk, int lane, bool bytes, struct decode_slot<C> *to)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint8_t *piece = c.codes[r] + c.piece * piece_bytes<C>();
        if constexpr (C::BITS == 16)
            to->codes[r].load(piece);
        else
            to->codes[r].load(piece, lane);
    }
    if constexpr (C::BITS != 16) {
        int group = a.groups_log ? chunk << a.groups_log : chunk >> a.group_shift;
        group += a.groups_log ? lane / 16 : 0;
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (i == 0 || a.groups_log == 2) {
                int at = (group + 2 * i) * UNIT_ROWS;
                to->scale[i] = bytes ? __ldg(c.scales + at)
                                     : load_number(c.scales + at * a.scale_bytes, a.scale_bytes);
                if (a.zero_bytes)
                    to->zero[i] = load_number(c.zeros + at * a.zero_bytes, a.zero_bytes);
            }
        if (bytes && c.scales2)
            to->second = __ldg(c.scales2 + (c.first_group + group) / WEIGHT_NESTED_RUN);
    }
}

/* What a lane's stored numbers mean in this pass. */
struct decode_numbers {
    float second, offset, zero;
    bool nested;
};

__device__ inline struct decode_numbers numbers_of_pass(const struct decode_job &a, int pass,
                                                        int lane)
{
    int part, unit;

    unit_of_pass(a, pass, lane / 8 % 2, &part, &unit);
    const struct decode_part &p = a.part[part];
    return { p.second, p.offset, p.zero, p.scales2 != NULL };
}

/* The lane's two scales and zero points. */
template <class C>
__device__ inline void decode_numbers_of(const struct decode_job &a, const struct decode_slot<C> &s,
                                         const struct decode_numbers &n, bool bytes,
                                         const float *map, float (&scale)[2], float (&zero)[2])
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        if (bytes)
            scale[i] = map[s.scale[i] & 0xFF] * (n.nested ? s.second : n.second) + n.offset;
        else
            scale[i] =
                a.scale_bytes == 2 ? half_bits_value(s.scale[i]) : __uint_as_float(s.scale[i]);
        zero[i] = a.zero_bytes == 0   ? n.zero
                  : a.zero_bytes == 1 ? (float)s.zero[i]
                  : a.zero_bytes == 2 ? half_bits_value(s.zero[i])
                                      : __uint_as_float(s.zero[i]);
    }
}

/* Fragments of 16 rows of W for k = 32 number j of a piece. */
template <class C, bool BF16>
__device__ inline void weights_of(const struct decode_job &a, struct decode_slot<C> &s, int j,
                                  const float (&scale)[2], const float (&zero)[2],
                                  typename C::group_t (&g)[2], const char *lookup, int lane,
                                  uint32_t (&w)[2][4])
{
    if constexpr (C::BITS != 16)
        if (j == 0 || a.groups_log == 2 || (a.groups_log && j == 2)) {
            const int group = a.groups_log == 2 ? j : a.groups_log ? j / 2 : 0;
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const int from = group % 2 * 16 + 8 * r + lane / 4;
                float own = __shfl_sync(0xFFFFFFFFu, group < 2 ? scale[0] : scale[1], from);
                float own_zero = 0;

                if (C::ZERO)
                    own_zero = __shfl_sync(0xFFFFFFFFu, group < 2 ? zero[0] : zero[1], from);
                g[r] = C::template group<BF16>(own, own_zero, a.table);
            }
        }
#pragma unroll
    for (int r = 0; r < 2; r++)
        s.codes[r].template pairs<BF16>(j, g[r], lookup, lane, w[r]);
}

/* Values of the bytes that scales may be. */
__device__ inline float byte_scale(const struct decode_job &a, int byte)
{
    if (a.scale_form == SCALE_NESTED)
        return __ldg(a.map + byte);
    if (a.scale_form == SCALE_U8)
        return (float)byte;
    return a.scale_form == SCALE_E8M0 ? e8m0_value((uint8_t)byte) : e4m3_value((uint8_t)byte);
}

/* ---- x ---- */

/* The chain of squares of a thread. */
template <bool BF16> __device__ inline float add_squares(uint4 v, float sum)
{
    const uint32_t pair[4] = { v.x, v.y, v.z, v.w };

#pragma unroll
    for (int i = 0; i < 4; i++) {
        float low = low_value<BF16>(pair[i]), high = high_value<BF16>(pair[i]);

        sum = fmaf(low, low, sum);
        sum = fmaf(high, high, sum);
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

/* From the sums of the eight warps, in their order. */
__device__ inline float norm_factor(const float *sums, int n, float eps)
{
    const float4 a = ((const float4 *)sums)[0], b = ((const float4 *)sums)[1];
    float sum = ((((((a.x + a.y) + a.z) + a.w) + b.x) + b.y) + b.z) + b.w;

    return 1.0f / sqrtf(sum / (float)n + eps);
}

template <bool T> __device__ inline float rounded_16(float x)
{
    return T ? __bfloat162float(__float2bfloat16_rn(x)) : __half2float(__float2half_rn(x));
}

/* Eight elements of the model's type T: normed where that is wanted, in the compute dtype. */
template <bool T, bool BF16>
__device__ inline uint4 finished_x(uint4 v, bool norm, float factor, uint4 weight)
{
    const uint32_t pair[4] = { v.x, v.y, v.z, v.w };
    const uint32_t w[4] = { weight.x, weight.y, weight.z, weight.w };
    uint32_t out[4];

#pragma unroll
    for (int i = 0; i < 4; i++) {
        float low = low_value<T>(pair[i]), high = high_value<T>(pair[i]);

        if (norm) {
            low = rounded_16<T>(low * factor) * low_value<T>(w[i]);
            high = rounded_16<T>(high * factor) * high_value<T>(w[i]);
        }
        if (norm && T != BF16) {
            low = rounded_16<T>(low);
            high = rounded_16<T>(high);
        }
        out[i] = pack_pair<BF16>(low, high);
    }
    return make_uint4(out[0], out[1], out[2], out[3]);
}

/* All rows of x to xs, after the launch in front.  Thread i copies and reads vectors i, i + 256,
 * ... of each row; sums: 8 floats a row, 16-aligned. */
template <bool T, bool BF16>
__device__ inline void stage_x(const struct decode_job &a, uint16_t *xs, float *sums)
{
    const int n_vectors = a.n_in / 8, ld = a.n_in + X_PAD, i = threadIdx.x;
    uint4 weight = make_uint4(0, 0, 0, 0);

    if (a.norm && i < n_vectors)
        weight = __ldg((const uint4 *)a.norm + i);
    wait_for_previous();
#pragma unroll 1
    for (int r = 0; r < a.n_rows; r++)
#pragma unroll 1
        for (int v = i; v < n_vectors; v += DECODE_THREADS) {
            unsigned to = (unsigned)__cvta_generic_to_shared(xs + r * ld + 8 * v);
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to),
                         "l"((const uint4 *)a.x + (int64_t)r * n_vectors + v)
                         : "memory");
        }
    asm volatile("cp.async.wait_all;" ::: "memory");
    if (a.norm) {
#pragma unroll 1
        for (int r = 0; r < a.n_rows; r++) {
            float sum = 0;

#pragma unroll 1
            for (int v = i; v < n_vectors; v += DECODE_THREADS)
                sum = add_squares<T>(*(const uint4 *)(xs + r * ld + 8 * v), sum);
            sum = sum_of_warp(sum);
            if (i % 32 == 0)
                sums[r * K_PARTS + i / 32] = sum;
        }
        __syncthreads();
    }
    if (a.norm || T != BF16)
#pragma unroll 1
        for (int r = 0; r < a.n_rows; r++) {
            float factor = a.norm ? norm_factor(sums + r * K_PARTS, a.n_in, a.eps) : 1.0f;

#pragma unroll 1
            for (int v = i; v < n_vectors; v += DECODE_THREADS) {
                uint4 *at = (uint4 *)(xs + r * ld + 8 * v);
                uint4 own = a.norm && v != i ? __ldg((const uint4 *)a.norm + v) : weight;

                *at = finished_x<T, BF16>(*at, a.norm, factor, own);
            }
        }
    __syncthreads();
}

/* ---- sums ---- */

/* Larger wins, the lower id among equals, NaN over all. */
__device__ inline struct decode_best better_of(struct decode_best a, struct decode_best b)
{
    if (a.id == DECODE_NAN || b.id == DECODE_NONE)
        return a;
    if (b.id == DECODE_NAN || a.id == DECODE_NONE)
        return b;
    return b.value > a.value || (b.value == a.value && b.id < a.id) ? b : a;
}

/* `best`, or this logit. */
__device__ inline struct decode_best with_logit(const struct decode_job &a, float v, int32_t id,
                                                struct decode_best best)
{
    struct decode_best own = { v, v == v ? id : DECODE_NAN };

    own = better_of(best, own);
    if (own.id >= 0 && own.id == id)
        for (int i = 0; i < a.n_forbidden; i++)
            if (a.forbidden[i] == id)
                return best;
    return own;
}

/* Which row of W a row of a pass is: of a part; false: none. */
__device__ inline bool row_of_pass(const struct decode_job &a, int pass, int row, int *part,
                                   int *col)
{
    int first = 0;

    *part = 0;
    if (a.pair) {
        *part = row / UNIT_ROWS;
        *col = pass * UNIT_ROWS + row % UNIT_ROWS;
        return true;
    }
    while (pass >= a.last_pass[*part])
        first = a.last_pass[(*part)++];
    *col = (pass - first) * PASS_ROWS + row;
    return *col < a.part[*part].n_units * UNIT_ROWS;
}

__device__ inline float biased(const struct decode_job &a, const struct decode_part &part, int col,
                               float sum)
{
    return part.bias ? sum + load_value(a.model, part.bias, col) : sum;
}

__device__ inline float swiglu_value(enum dtype t, float gate, float up)
{
    gate = round_value(t, gate);
    gate = round_value(t, gate / (1.0f + exp_value(-gate)));
    return gate * round_value(t, up);
}

/* Element of y or of the residual. */
__device__ inline int64_t element_at(const struct decode_part &part, int row, int col)
{
    return (int64_t)row * (part.n_units * UNIT_ROWS) + col;
}

/* One output; held: what the residual held. */
__device__ inline void store_output(const struct decode_job &a, const struct decode_part &part,
                                    int row, int col, float sum, float held)
{
    const int64_t at = element_at(part, row, col);
    float v = biased(a, part, col, sum);

    if (a.epilogue == DECODE_LOGITS)
        ((float *)part.y)[at] = v;
    else if (a.epilogue == DECODE_ADD)
        store_value(a.model, a.residual, at, held + round_value(a.model, v));
    else
        store_value(a.model, part.y, at, v);
}

/* ---- on the host ---- */

/* Which kernel: what x is rounded to, whether scales are bytes, and for more than 8 or 16 rows. */
struct decode_choice {
    bool bf16, bytes, many, more;
};

/* By the kind of codes, each in a file of its own. */
const void *decode_kernel_16(struct decode_choice c);
const void *decode_kernel_4(bool zeros_vary, struct decode_choice c);
const void *decode_kernel_2(struct decode_choice c);
const void *decode_kernel_3(struct decode_choice c);
const void *decode_kernel_5(struct decode_choice c);
const void *decode_kernel_6(struct decode_choice c);
const void *decode_kernel_8(struct decode_choice c);
