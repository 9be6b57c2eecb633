/* linear_decode_job.cuh - inner to the products of the decode phase: what a launch is told, x in
 * shared memory, the tensor-core product, and what becomes of a sum. */
#pragma once

#include "decode_image.cuh"
#include "linear_decode.cuh"
#include "mma.cuh"
#include "unpack.cuh"

#define K_PARTS        8 /* of K: chains whose sums are added in order */
#define DECODE_THREADS 256
#define X_PAD          32 /* halves between rows of x: 64 bytes, so that two rows are all banks */

struct decode_part {
    const uint8_t *codes, *scales, *zeros;
    const float *scales2; /* NULL: `second` for all */
    const void *bias;
    void *y;
    float second, offset;
    int n_units;
};

/* What a launch asks for before its turn, into the L2 cache: of each range a block has `each`
 * bytes, of which there are as many as blocks. */
struct decode_asked {
    const uint8_t *from;
    uint32_t each;
};

struct decode_job {
    static constexpr bool SHARED = false; /* whether GPUs exchange what the launch makes */
    struct decode_part part[3];
    int last_pass[3]; /* passes of this part and of those before */
    bool pair;        /* units of parts 0 and 1 side by side; else two of one part */
    bool even;        /* one part, or a pair, and no odd unit: passes are the same way apart */
    int n_rows, n_in, n_passes;
    int n_slots;   /* few: of sums, in shared memory */
    int n_split;   /* wide: blocks that share K, a cluster; 1 or K_PARTS */
    int n_streams; /* wide: warps that share rows of W */
    int n_stages;  /* wide: chunks of x that each has */
    int n_staged;  /* wide: groups of a row whose scales are in shared memory from the beginning */
    int64_t unit_bytes;
    int n_groups, group_shift; /* of a row; chunk >> shift where a group is chunks */
    int groups_log;            /* of 2: groups in a chunk */
    int run_shift;             /* of columns of 64: number >> shift is the group */
    unsigned fours_inverse;    /* (i * this) >> 32 is i / (2 * n_groups), i < 2^16 */
    int scale_bytes, zero_bytes;
    int row_inverse; /* (i * this) >> 16 is i / n_rows */
    float threshold; /* LLM.int8: of outliers */
    enum scale_form scale_form;
    float zero;       /* of all groups, where no zero points are stored */
    const float *map; /* weight_dynamic_map */
    const void *x, *norm;
    float eps;
    enum dtype model;
    enum decode_epilogue epilogue;
    void *residual;
    int y_eights;
    struct decode_best *best;
    int first_id;
    const int32_t *forbidden;
    int n_forbidden;
    float table[16];
    int order_at; /* wide: of chunks, in shared memory */
    struct decode_asked asked[3];
    int n_asked;
};

/* Kernels are compiled for either: who has a GPU for himself carries nothing of the other.  What
 * ADD and SWIGLU leave is exchanged; STORE leaves it here; the rest is not for such a kernel. */
struct decode_shared_job : decode_job {
    static constexpr bool SHARED = true;
    struct step_share share;
};

/* By the last threads of a block; nobody waits for it. */
__device__ inline void ask_ahead(const struct decode_job &a)
{
#if __CUDA_ARCH__ >= 900
    const int i = DECODE_THREADS - 1 - (int)threadIdx.x;

    if (i < a.n_asked)
        asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(
                         a.asked[i].from + (int64_t)blockIdx.x * a.asked[i].each),
                     "r"(a.asked[i].each)
                     : "memory");
#endif
}

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

/* ---- W ---- */

/* Rows as they lie, 128 bytes of a row a piece: 64 weights of 16 bits or 128 of 8. */
template <int N_BITS> struct codes_plain {
    static constexpr bool SCALED = false, ZERO = false;
    static constexpr int N_WORDS = 8, BITS = N_BITS, N_LOOKUP = 0, PIECE_COLS = 1024 / N_BITS;
    uint32_t word[8];
    struct group_t {
    };

    template <bool BF16> __device__ static void fill_lookup(char *, const float *)
    {
    }
    template <bool BF16> __device__ static group_t group(float, float, const float *)
    {
        return {};
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
typedef codes_plain<16> codes_16;
typedef codes_plain<8> codes_s8; /* LLM.int8 */

/* Bytes from one piece of a unit to the next. */
template <class C> __device__ constexpr int piece_bytes(void)
{
    return C::SCALED ? CHUNK_COLS * C::BITS : 128;
}

/* Where a warp reads next. */
template <int SIDES> struct decode_cursor {
    int pass, piece;
    const uint8_t *codes[SIDES];
    /* Of the lane's row: */
    const uint8_t *scales, *zeros;
    const float *scales2;
    int first_group; /* number in the matrix, for the second level */
    int own_group;   /* in the chunk */
};

/* Part and unit of side r of a pass; of an odd last unit both sides are the same. */
template <int SIDES>
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
    *unit = SIDES * (pass - first) + r;
    if (SIDES == 2 && *unit >= a.part[*part].n_units)
        *unit -= 1;
}

/* The side that a lane has a scale of, and the first of its groups. */
template <int SIDES> __device__ inline int side_of(int lane)
{
    return SIDES == 2 ? lane / 8 % 2 : 0;
}

template <class C, int SIDES>
__device__ inline void open_pass(const struct decode_job &a, int begin, int lane,
                                 struct decode_cursor<SIDES> *c)
{
    const int last_group = (1 << a.groups_log) - 1, group = SIDES == 2 ? lane / 16 : lane / 8;

    c->own_group = group < last_group ? group : last_group;
#pragma unroll
    for (int r = 0; r < SIDES; r++) {
        int part, unit;

        unit_of_pass<SIDES>(a, c->pass, r, &part, &unit);
        const struct decode_part &p = a.part[part];
        c->codes[r] = p.codes + unit * a.unit_bytes + (int64_t)begin * piece_bytes<C>();
        if (!C::SCALED)
            c->codes[r] += lane / 4 * (a.unit_bytes / UNIT_ROWS) + 16 * (lane % 4);
        if (C::SCALED && side_of<SIDES>(lane) == r) {
            int64_t at = (int64_t)unit * a.n_groups * UNIT_ROWS + lane % 8;
            c->scales = p.scales + at * a.scale_bytes;
            c->zeros = p.zeros + at * a.zero_bytes;
            c->scales2 = p.scales2;
            c->first_group = (unit * UNIT_ROWS + lane % 8) * a.n_groups;
        }
    }
}

/* 1, 2 or 4 bytes. */
__device__ inline uint32_t load_number(const uint8_t *p, int n_bytes)
{
    if (n_bytes == 1)
        return __ldg(p);
    return n_bytes == 2 ? __ldg((const uint16_t *)p) : __ldg((const uint32_t *)p);
}

/* What a lane's stored numbers mean in this pass. */
struct decode_numbers {
    float second, offset;
    bool nested;
};

template <int SIDES>
__device__ inline struct decode_numbers numbers_of_pass(const struct decode_job &a, int pass,
                                                        int lane)
{
    int part, unit;

    unit_of_pass<SIDES>(a, pass, side_of<SIDES>(lane), &part, &unit);
    const struct decode_part &p = a.part[part];
    return { p.second, p.offset, p.scales2 != NULL };
}

__device__ inline float decoded_scale(const struct decode_job &a, const struct decode_numbers &n,
                                      uint32_t bits, float second, const float *map)
{
    if (a.scale_bytes == 1)
        return map[bits] * (n.nested ? second : n.second) + n.offset;
    return a.scale_bytes == 2 ? half_bits_value(bits) : __uint_as_float(bits);
}

__device__ inline float decoded_zero(const struct decode_job &a, uint32_t bits)
{
    return a.zero_bytes == 1   ? (float)bits
           : a.zero_bytes == 2 ? half_bits_value(bits)
                               : __uint_as_float(bits);
}

/* A run is 64 columns, or 32 where groups are: products take the bare values of codes, which are 16
 * bits as they are, and the sum of a run is multiplied with its scale. */

/* What bare values are made of where all groups have one zero. */
template <class C, bool BF16, int SIDES>
__device__ inline void open_groups(const struct decode_job &a, typename C::group_t (&g)[SIDES])
{
#pragma unroll
    for (int r = 0; r < SIDES; r++)
        g[r] = C::template group<BF16>(1.0f, a.zero, a.table);
}

/* One product of k = 32. */
template <bool BF16, int SIDES>
__device__ inline void multiply_32(float (&sum)[4], const uint32_t (&w)[SIDES][4],
                                   const uint32_t (&x)[4])
{
    if (SIDES == 2) {
        mma_16<BF16>(sum, w[0][0], w[SIDES - 1][0], w[0][1], w[SIDES - 1][1], x[0], x[1]);
        mma_16<BF16>(sum, w[0][2], w[SIDES - 1][2], w[0][3], w[SIDES - 1][3], x[2], x[3]);
    } else {
        mma_16<BF16>(sum, w[0][0], 0, w[0][1], 0, x[0], x[1]);
        mma_16<BF16>(sum, w[0][2], 0, w[0][3], 0, x[2], x[3]);
    }
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

#define STAGE_AT_ONCE 4 /* rows whose chains go side by side */

/* The weights of the norm for vector i of a row. */
__device__ inline uint4 norm_weights(const struct decode_job &a, int i)
{
    return a.norm && i < a.n_in / 8 ? __ldg((const uint4 *)a.norm + i) : make_uint4(0, 0, 0, 0);
}

/* All rows of x to xs, `ld` halves apart.  Thread i copies and reads vectors i, i + 256, ... of
 * each row. */
template <class Meanwhile>
__device__ inline void copy_x(const struct decode_job &a, uint16_t *xs, int ld, Meanwhile meanwhile)
{
    const int n_vectors = a.n_in / 8;

#pragma unroll 1
    for (int v = threadIdx.x; v < n_vectors; v += DECODE_THREADS)
#pragma unroll 1
        for (int r = 0; r < a.n_rows; r++) {
            unsigned to = (unsigned)__cvta_generic_to_shared(xs + r * ld + 8 * v);
            asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to),
                         "l"((const uint4 *)a.x + (int64_t)r * n_vectors + v)
                         : "memory");
        }
    meanwhile();
    asm volatile("cp.async.wait_all;" ::: "memory");
}

/* The sums of squares of all rows, by warp: sums [row][8], 16-aligned.  Ends with a barrier. */
template <bool T>
__device__ inline void sum_squares(const struct decode_job &a, const uint16_t *xs, int ld,
                                   float *sums)
{
#pragma unroll 1
    for (int first = 0; first < a.n_rows; first += STAGE_AT_ONCE) {
        float sum[STAGE_AT_ONCE] = {};

#pragma unroll
        for (int i = 0; i < STAGE_AT_ONCE; i++)
#pragma unroll 1
            for (int v = threadIdx.x; first + i < a.n_rows && v < a.n_in / 8; v += DECODE_THREADS)
                sum[i] = add_squares<T>(*(const uint4 *)(xs + (first + i) * ld + 8 * v), sum[i]);
#pragma unroll
        for (int half = 16; half; half /= 2)
#pragma unroll
            for (int i = 0; i < STAGE_AT_ONCE; i++)
                if (i == 0 || first + i < a.n_rows)
                    sum[i] += __shfl_xor_sync(0xFFFFFFFFu, sum[i], half);
#pragma unroll
        for (int i = 0; i < STAGE_AT_ONCE; i++)
            if (threadIdx.x % 32 == 0 && first + i < a.n_rows)
                sums[(first + i) * K_PARTS + threadIdx.x / 32] = sum[i];
    }
    __syncthreads();
}

/* Lane r has the factor of row r % 8. */
__device__ inline float lane_factor(const struct decode_job &a, const float *sums)
{
    const int row = threadIdx.x % 8;

    return row < a.n_rows ? norm_factor(sums + row * K_PARTS, a.n_in, a.eps) : 0.0f;
}

/* The same from registers, where a thread has one vector of a row: for up to eight rows. */
template <bool BF16, int ROWS, class Meanwhile>
__device__ inline void stage_short_x(const struct decode_job &a, uint16_t *xs, float *sums,
                                     uint4 weights, Meanwhile meanwhile)
{
    const int n_vectors = a.n_in / 8, v = threadIdx.x;
    uint4 x[ROWS];

#pragma unroll
    for (int r = 0; r < ROWS; r++)
        x[r] = r < a.n_rows && v < n_vectors
                   ? __ldcg((const uint4 *)a.x + (int64_t)r * n_vectors + v)
                   : make_uint4(0, 0, 0, 0);
    meanwhile();
    if (a.norm) {
        float sum[ROWS];

#pragma unroll
        for (int r = 0; r < ROWS; r++)
            sum[r] = add_squares<BF16>(x[r], 0.0f);
#pragma unroll
        for (int half = 16; half; half /= 2)
#pragma unroll
            for (int r = 0; r < ROWS; r++)
                sum[r] += __shfl_xor_sync(0xFFFFFFFFu, sum[r], half);
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            if (v % 32 == 0)
                sums[r * K_PARTS + v / 32] = sum[r];
        __syncthreads();
        const float factor = lane_factor(a, sums);
#pragma unroll
        for (int r = 0; r < ROWS; r++)
            x[r] = finished_x<BF16, BF16>(x[r], true, __shfl_sync(0xFFFFFFFFu, factor, r), weights);
    }
#pragma unroll
    for (int r = 0; r < ROWS; r++)
        if (r < a.n_rows && v < n_vectors)
            *(uint4 *)(xs + r * (a.n_in + X_PAD) + 8 * v) = x[r];
    __syncthreads();
}

/* x, which is in the compute dtype, as the product wants it; up to SHORT_ROWS rows from registers
 * where they are short.  first_weights: the thread's norm_weights(); meanwhile: what to do while x
 * is on its way.  Ends with a barrier. */
template <bool BF16, int SHORT_ROWS, class Meanwhile>
__device__ inline void stage_x(const struct decode_job &a, uint16_t *xs, float *sums,
                               uint4 first_weights, Meanwhile meanwhile)
{
    const int n_vectors = a.n_in / 8, ld = a.n_in + X_PAD;

    if (n_vectors <= DECODE_THREADS && a.n_rows <= SHORT_ROWS) {
        if (a.n_rows == 1)
            stage_short_x<BF16, 1>(a, xs, sums, first_weights, meanwhile);
        else
            stage_short_x<BF16, SHORT_ROWS>(a, xs, sums, first_weights, meanwhile);
        return;
    }
    copy_x(a, xs, ld, meanwhile);
    if (a.norm) {
        sum_squares<BF16>(a, xs, ld, sums);
        const float factor = lane_factor(a, sums);
#pragma unroll 1
        for (int r = 0; r < a.n_rows; r++) {
            const float own = __shfl_sync(0xFFFFFFFFu, factor, r);

#pragma unroll 1
            for (int v = threadIdx.x; v < n_vectors; v += DECODE_THREADS) {
                uint4 *at = (uint4 *)(xs + r * ld + 8 * v);
                uint4 weights = v == threadIdx.x ? first_weights : norm_weights(a, v);
                *at = finished_x<BF16, BF16>(*at, true, own, weights);
            }
        }
    }
    __syncthreads();
}

/* ---- sums ---- */

/* `best`, or the logit of this row of W. */
__device__ inline struct decode_best with_logit(const struct decode_job &a, float v, int32_t row,
                                                struct decode_best best)
{
    const int32_t id = a.first_id + row;
    struct decode_best own = { v, v == v ? id : DECODE_NAN };

    own = better_of(best, own);
    if (own.id >= 0 && own.id == id)
        for (int i = 0; i < a.n_forbidden; i++)
            if (a.forbidden[i] == id)
                return best;
    return own;
}

/* Which row of W a row of a pass is: of a part; false: none. */
template <int SIDES>
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
    *col = (pass - first) * (SIDES * UNIT_ROWS) + row;
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

/* Element of what SwiGLU makes. */
__device__ inline int64_t swiglu_at(const struct decode_job &a, const struct decode_part &part,
                                    int row, int col)
{
    return a.y_eights ? image_element(a.y_eights, row, col) : element_at(part, row, col);
}

__device__ inline uint16_t value_bits(enum dtype t, float x)
{
    return t == DTYPE_BF16 ? __bfloat16_as_ushort(__float2bfloat16_rn(x))
                           : __half_as_ushort(__float2half_rn(x));
}

/* For the lines of a launch: to be asked for behind wait_for_launch_before(). */
template <class Job> __device__ inline uint32_t steps_before_launch(const Job &a)
{
    if constexpr (Job::SHARED)
        return steps_before(a.share);
    return 0;
}

/* One of what SwiGLU makes. */
template <class Job>
__device__ inline void store_swiglu(const Job &a, uint32_t n_steps, const struct decode_part &part,
                                    int row, int col, float v)
{
    if constexpr (Job::SHARED)
        send_to_members(a.share, n_steps, row, col, value_bits(a.model, v));
    else
        store_value(a.model, part.y, swiglu_at(a, part, row, col), v);
}

/* What is left in the residual. */
template <class Job>
__device__ inline void store_sum(const Job &a, uint32_t n_steps, int64_t at, int row, int col,
                                 float v)
{
    if constexpr (Job::SHARED) {
        const uint16_t bits = value_bits(a.model, v);

        send_to_members(a.share, n_steps, row, col, bits);
        ((uint16_t *)a.residual)[at] = bits;
    } else {
        store_value(a.model, a.residual, at, v);
    }
}

/* One output; held: what the residual held. */
template <class Job>
__device__ inline void store_output(const Job &a, uint32_t n_steps, const struct decode_part &part,
                                    int row, int col, float sum, float held)
{
    const int64_t at = element_at(part, row, col);
    float v = biased(a, part, col, sum);

    if (!Job::SHARED && a.epilogue == DECODE_LOGITS)
        ((float *)part.y)[at] = v;
    else if (a.epilogue == DECODE_ADD)
        store_sum(a, n_steps, at, row, col, held + round_value(a.model, v));
    else
        store_value(a.model, part.y, at, v);
}

/* ---- kernels: what they and their launch have to agree on ---- */

#define PASS_ROWS        (2 * UNIT_ROWS)
#define MANY_WARPS       (DECODE_THREADS / 32) /* each with a pass */
#define MANY_STAGES      4                     /* chunks of x */
#define WIDE_STAGES      4                     /* at most, of x */
#define WIDE_BARRIERS    256                   /* bytes of them */
#define HEAD_PLACES      2                     /* pieces that a warp of the head has on their way */
#define HEAD_PIECE       (PASS_ROWS * 128)     /* bytes */
#define HEAD_BESTS       (DECODE_THREADS / 16 * 8)
#define WIDE_HEAD_WARPS  16 /* each with a pass */
#define WIDE_HEAD_PLACES 4

/* Numbers of chunks that a stream of the wide kernel has room for: all, and empty parts. */
__host__ __device__ inline int wide_order_room(int n_chunks)
{
    return (n_chunks + K_PARTS + 7) / 8 * 8;
}

enum decode_kind {
    DECODE_FEW,      /* up to 8 rows of x, two units of W a pass, pass after pass */
    DECODE_FEW_LONG, /* few rows of W, but long: one unit a pass, twice the blocks */
    DECODE_HEAD,     /* up to 8 rows of x, the best of all rows of W, which are 16 bits */
    DECODE_16,       /* up to 16 rows of x */
    DECODE_32,
    DECODE_64,
    DECODE_WIDE_16, /* the same on Hopper */
    DECODE_WIDE_32,
    DECODE_WIDE_64,
    DECODE_HEAD_16, /* on Hopper, the best of all rows of W, which are 16 bits: up to 16 rows of x
                     */
    DECODE_HEAD_32,
    DECODE_HEAD_64
};

/* By the kind of codes, each in a file of its own; zero_bytes: of a stored zero point; short_runs:
 * of 32 columns; bf16: what x and W are rounded to; shared: for decode_shared_job, kinds FEW alone.
 */
const void *decode_kernel_16(enum decode_kind kind, bool bf16, bool shared);
const void *decode_kernel_4(int zero_bytes, enum decode_kind kind, bool short_runs, bool bf16,
                            bool shared);
const void *decode_kernel_2(enum decode_kind kind, bool short_runs, bool bf16, bool shared);
const void *decode_kernel_3(enum decode_kind kind, bool short_runs, bool bf16, bool shared);
const void *decode_kernel_5(enum decode_kind kind, bool short_runs, bool bf16, bool shared);
const void *decode_kernel_6(enum decode_kind kind, bool short_runs, bool bf16, bool shared);
const void *decode_kernel_8(enum decode_kind kind, bool short_runs, bool bf16, bool shared);
/* LLM.int8, for up to 8 rows; bf16: the model's type. */
const void *decode_kernel_int8(enum decode_kind kind, bool bf16, bool shared);
