/* linear_decode_int8.cu - LLM.int8 in the decode phase, for up to 8 rows of x at a time: the
 * arithmetic of linear_int8.cu, to the bit, where every row is a document of its own.
 *
 * Codes of W pass once, as they lie: a lane has 16 columns of its row, four rows' worth of a
 * sector. Each block quantizes x itself: largest value below the threshold, codes, and a mask of
 * the columns at or above it.  Integer sums are exact in any order; the outlier columns are one
 * chain in theirs. */
#include "linear_decode_few.cuh"

#define PER_127 0x1.020408p-7f
#define X8_PAD  64 /* bytes between rows of codes of x */

__device__ static void mma_s8(int (&c)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3,
                              uint32_t b0, uint32_t b1)
{
    asm volatile("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 "
                 "{%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+r"(c[0]), "+r"(c[1]), "+r"(c[2]), "+r"(c[3])
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

/* x of the block in shared memory. */
struct int8_x {
    uint16_t *values;   /* [row][n_in + X_PAD], in the model's type */
    uint8_t *codes;     /* [row][n_in + X8_PAD] */
    uint32_t *mask;     /* [row][n_in / 32]: outlier columns */
    uint32_t *any;      /* [row][n_anys()]: bit 4 i: word i of eight of the mask is not 0 */
    uint32_t *largest;  /* [row][8 warps]: bits of |x|, as unsigned: a NaN is above all */
    uint32_t *outliers; /* [row][8 warps]: whether there are any */
};

template <bool BF16> __device__ static float input_f16(uint16_t bits)
{
    if (BF16)
        return __half2float(__float2half_rn(__uint_as_float((uint32_t)bits << 16)));
    return half_bits_value(bits);
}

/* Bits of eight elements: the largest |x| below the threshold, and whether one is at or above it.
 */
template <bool BF16>
__device__ static void look_at(const uint16_t *x, float threshold, uint32_t *largest,
                               uint32_t *outlier)
{
#pragma unroll
    for (int i = 0; i < 8; i++) {
        float v = fabsf(input_f16<BF16>(x[i]));

        if (v >= threshold)
            *outlier |= threshold < INFINITY;
        else if (v < threshold || !(v == v))
            *largest = max(*largest, __float_as_uint(v));
    }
}

template <bool BF16>
__device__ static void look_at_rows(const struct decode_job &a, struct int8_x x)
{
    const int warp = threadIdx.x / 32;

#pragma unroll 1
    for (int r = 0; r < a.n_rows; r++) {
        uint32_t largest = 0, outlier = 0;

#pragma unroll 1
        for (int v = threadIdx.x; v < a.n_in / 8; v += DECODE_THREADS)
            look_at<BF16>(x.values + r * (a.n_in + X_PAD) + 8 * v, a.threshold, &largest, &outlier);
        largest = __reduce_max_sync(0xFFFFFFFFu, largest);
        outlier = __reduce_max_sync(0xFFFFFFFFu, outlier);
        if (threadIdx.x % 32 == 0) {
            x.largest[r * K_PARTS + warp] = largest;
            x.outliers[r * K_PARTS + warp] = outlier;
        }
    }
    __syncthreads();
}

__device__ static float largest_of(const struct int8_x &x, int row)
{
    uint32_t largest = 0;

#pragma unroll
    for (int i = 0; i < K_PARTS; i++)
        largest = max(largest, x.largest[row * K_PARTS + i]);
    return __uint_as_float(largest);
}

__device__ static bool has_outliers(const struct int8_x &x, int row)
{
    uint32_t any = 0;

#pragma unroll
    for (int i = 0; i < K_PARTS; i++)
        any |= x.outliers[row * K_PARTS + i];
    return any != 0;
}

__device__ static int n_anys(const struct decode_job &a)
{
    return (a.n_in + 255) / 256;
}

/* Codes and outlier columns of vector v of a row, by whole warps: 256 columns, eight words of the
 * mask.  A NaN in a row makes its scale NaN, its codes 0.  1.5 * 2^23 rounds as a conversion would:
 * the code is the low byte of the sum. */
template <bool BF16>
__device__ static void quantize_vector(const struct decode_job &a, const struct int8_x &x, int row,
                                       int v, const uint16_t *values, float largest, float scale)
{
    const bool there = v < a.n_in / 8;
    uint32_t code[8], mask = 0;

#pragma unroll
    for (int i = 0; i < 8; i++) {
        const float own = input_f16<BF16>(values[i]);
        const bool counts = largest > 0 && fabsf(own) < a.threshold;

        code[i] = counts ? __float_as_uint(own * scale + 0x1.8p23f) : 0;
        mask |= (uint32_t)(fabsf(own) >= a.threshold) << i;
    }
    if (there)
        *(uint2 *)(x.codes + row * (a.n_in + X8_PAD) + 8 * v) =
            make_uint2(__byte_perm(__byte_perm(code[0], code[1], 0x40),
                                   __byte_perm(code[2], code[3], 0x40), 0x5410),
                       __byte_perm(__byte_perm(code[4], code[5], 0x40),
                                   __byte_perm(code[6], code[7], 0x40), 0x5410));
    mask = (there ? mask : 0) << 8 * (threadIdx.x % 4);
    mask |= __shfl_xor_sync(0xFFFFFFFFu, mask, 1);
    mask |= __shfl_xor_sync(0xFFFFFFFFu, mask, 2);
    const uint32_t any = __ballot_sync(0xFFFFFFFFu, mask != 0) & 0x11111111u;
    if (threadIdx.x % 4 == 0 && there)
        x.mask[row * (a.n_in / 32) + v / 4] = mask;
    if (threadIdx.x % 32 == 0)
        x.any[row * n_anys(a) + v / 32] = any;
}

/* All rows. */
template <bool BF16>
__device__ static void quantize_rows(const struct decode_job &a, const struct int8_x &x)
{
#pragma unroll 1
    for (int r = 0; r < a.n_rows; r++) {
        const float largest = largest_of(x, r), scale = __fdividef(127.0f, largest);

#pragma unroll 1
        for (int v = threadIdx.x; v - (int)threadIdx.x % 32 < a.n_in / 8; v += DECODE_THREADS) {
            uint4 values = make_uint4(0, 0, 0, 0);

            if (v < a.n_in / 8)
                values = *(const uint4 *)(x.values + r * (a.n_in + X_PAD) + 8 * v);
            quantize_vector<BF16>(a, x, r, v, (const uint16_t *)&values, largest, scale);
        }
    }
    __syncthreads();
}

/* A row alone, a vector of it a thread, stays in registers from the load to its codes. */
template <bool BF16>
__device__ static void stage_row(const struct decode_job &a, const struct int8_x &x, float *sums,
                                 uint4 weights)
{
    const int n_vectors = a.n_in / 8, warp = threadIdx.x / 32, v = threadIdx.x;
    uint32_t largest = 0, outlier = 0;
    uint4 own = v < n_vectors ? __ldcg((const uint4 *)a.x + v) : make_uint4(0, 0, 0, 0);

    if (a.norm) {
        float sum = sum_of_warp(add_squares<BF16>(own, 0.0f));

        if (v % 32 == 0)
            sums[warp] = sum;
        __syncthreads();
        const float factor = norm_factor(sums, a.n_in, a.eps);
        if (v < n_vectors)
            own = finished_x<BF16, BF16>(own, true, factor, weights);
    }
    look_at<BF16>((const uint16_t *)&own, a.threshold, &largest, &outlier);
    if (v < n_vectors)
        *(uint4 *)(x.values + 8 * v) = own;
    largest = __reduce_max_sync(0xFFFFFFFFu, largest);
    outlier = __reduce_max_sync(0xFFFFFFFFu, outlier);
    if (v % 32 == 0) {
        x.largest[warp] = largest;
        x.outliers[warp] = outlier;
    }
    __syncthreads();
    const float most = largest_of(x, 0), scale = __fdividef(127.0f, most);
    if (v - v % 32 < n_vectors)
        quantize_vector<BF16>(a, x, 0, v, (const uint16_t *)&own, most, scale);
    __syncthreads();
}

/* y = T(fp16(sum * stat * SCB / 127^2 [+ bias])), and the outlier columns. */
template <bool BF16>
__device__ static float int8_output(const struct decode_job &a, const struct int8_x &x,
                                    const struct decode_part &part, int row, int col, int sum,
                                    float scb)
{
    const float per_127_squared = 0x1.040c2p-14f;
    float v = ((float)sum * largest_of(x, row)) * scb, y;

    if (part.bias && !BF16) {
        y = rounded_16<false>(fmaf(v, per_127_squared, load_value(a.model, part.bias, col)));
    } else {
        y = rounded_16<false>(v * per_127_squared);
        if (part.bias)
            y = rounded_16<false>(y + load_value(a.model, part.bias, col));
    }
    y = rounded_16<BF16>(y);
    if (!has_outliers(x, row))
        return y;

    const int8_t *codes = (const int8_t *)part.codes + (int64_t)col * a.n_in;
    const uint16_t *values = x.values + row * (a.n_in + X_PAD);
    float added = 0;
    for (int i = 0; i < n_anys(a); i++)
        for (uint32_t any = x.any[row * n_anys(a) + i]; any; any &= any - 1) {
            const int at = 8 * i + (__ffs((int)any) - 1) / 4;

            for (uint32_t word = x.mask[row * (a.n_in / 32) + at]; word; word &= word - 1) {
                int k = 32 * at + __ffs((int)word) - 1;
                float w = rounded_16<BF16>(((float)codes[k] * scb) * PER_127);
                float own =
                    BF16 ? __uint_as_float((uint32_t)values[k] << 16) : half_bits_value(values[k]);
                added = fmaf(own, w, added);
            }
        }
    return rounded_16<BF16>(y + added);
}

/* What an output needs beside its sum. */
struct int8_needs {
    float scb, up_scb, held;
};

/* SCB does not depend on the launch before. */
__device__ static void load_scb(const struct decode_job &a, const struct few_output &o,
                                struct int8_needs *n)
{
    n->scb = n->up_scb = 0;
    if (!o.there)
        return;
    n->scb = __ldg((const float *)a.part[o.part].scales + o.col);
    if (a.pair)
        n->up_scb = __ldg((const float *)a.part[1].scales + o.col);
}

/* o, n: of output threadIdx.x of the first slots. */
template <bool BF16, int SIDES, class Job>
__device__ static void finish_int8(const Job &a, uint32_t n_steps, const struct int8_x &x,
                                   const int *sums, int first, int n_slots, bool first_time,
                                   struct few_output o, struct int8_needs n)
{
    for (int i = threadIdx.x; i < n_outputs<SIDES>(a, n_slots); i += DECODE_THREADS) {
        if (!first_time || i >= DECODE_THREADS) {
            o = output_number<SIDES>(a, i, first, n_slots);
            load_scb(a, o, &n);
            n.held = held_at(a, o);
        }
        if (!o.there)
            continue;
        const struct decode_part &p = a.part[o.part];
        const int64_t at = element_at(p, o.row, o.col);
        float y =
            int8_output<BF16>(a, x, p, o.row, o.col, sum_of_parts<SIDES>(sums + o.sums), n.scb);
        if (a.pair) {
            float up = int8_output<BF16>(a, x, a.part[1], o.row, o.col,
                                         sum_of_parts<SIDES>(sums + o.sums + UNIT_ROWS), n.up_scb);
            store_swiglu(a, n_steps, p, o.row, o.col, swiglu_value(a.model, y, up));
        } else if (a.epilogue == DECODE_ADD) {
            store_sum(a, n_steps, at, o.row, o.col, n.held + y);
        } else {
            store_value(a.epilogue == DECODE_LOGITS ? DTYPE_F32 : a.model, p.y, at, y);
        }
    }
    if constexpr (Job::SHARED)
        if (a.epilogue != DECODE_STORE)
            receive_slots<SIDES>(a, n_steps, first, n_slots, false, {});
}

template <bool BF16, int SIDES, int DEPTH, class Job>
__global__ static void __launch_bounds__(DECODE_THREADS, 2)
    decode_int8(const __grid_constant__ Job a)
{
    extern __shared__ __align__(128) char room[];
    int *sums = (int *)room;
    char *behind = (char *)(sums + a.n_slots * a.n_rows * (K_PARTS * SIDES * UNIT_ROWS));
    struct int8_x x;
    x.values = (uint16_t *)behind;
    x.codes = (uint8_t *)(x.values + a.n_rows * (a.n_in + X_PAD));
    x.mask = (uint32_t *)(x.codes + a.n_rows * (a.n_in + X8_PAD));
    x.any = x.mask + a.n_rows * (a.n_in / 32);
    x.largest = x.any + a.n_rows * n_anys(a);
    x.outliers = x.largest + a.n_rows * K_PARTS;
    const int lane = threadIdx.x % 32, warp = warp_of_block(), n_chunks = a.n_in / CHUNK_COLS;
    const int begin = first_chunk(n_chunks, warp);
    const int n_pieces = first_chunk(n_chunks, warp + 1) - begin;
    const int n_passes = (a.n_passes - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x;
    struct few_slot<codes_s8, SIDES> slot[DEPTH];

    let_next_start();
    struct few_loads<codes_s8, SIDES> loads(a, begin, n_pieces, n_passes, lane);
#pragma unroll
    for (int i = 0; i < DEPTH; i++)
        loads.load(a, &slot[i]);
    const uint4 first_weights = norm_weights(a, threadIdx.x);
    const struct few_output own = output_number<SIDES>(a, threadIdx.x, blockIdx.x,
                                                       n_passes < a.n_slots ? n_passes : a.n_slots);
    struct int8_needs needs;
    load_scb(a, own, &needs);
    wait_for_launch_before();
    const uint32_t n_steps = steps_before_launch(a);
    needs.held = held_at(a, own);
    if (a.n_rows == 1 && a.n_in <= 8 * DECODE_THREADS) {
        stage_row<BF16>(a, x, (float *)sums, first_weights);
    } else {
        stage_x<BF16, 1>(a, x.values, (float *)sums, first_weights, [] {});
        look_at_rows<BF16>(a, x);
        quantize_rows<BF16>(a, x);
    }

    const bool there = lane / 4 < a.n_rows;
    const unsigned x_first =
        (unsigned)__cvta_generic_to_shared(x.codes + (there ? lane / 4 * (a.n_in + X8_PAD) : 0) +
                                           begin * CHUNK_COLS + 16 * (lane % 4));
    struct few_x<2> fragment = {
    };

    for (int done = 0; done < n_passes; done += a.n_slots) {
        const int n_here = n_passes - done < a.n_slots ? n_passes - done : a.n_slots;
        int piece = 0, at = 0, n_left = n_here * n_pieces, sum[4] = {};

        for (; n_pieces == 0 && at < n_here; at++)
            store_sums<SIDES>(a, sums, at, warp, lane, sum);
        while (n_left > 0) {
#pragma unroll
            for (int i = 0; i < DEPTH; i++) {
                if (n_left == 0) {
                    turn_slots<codes_s8, SIDES, DEPTH>(slot, i);
                    break;
                }
                fragment.load(x_first + CHUNK_COLS * piece, there);
#pragma unroll
                for (int j = 0; j < 4; j++) {
                    const uint32_t *lower = slot[i].codes[0].word + 2 * j;
                    const uint32_t *upper = slot[i].codes[SIDES - 1].word + 2 * j;
                    const uint32_t *own = fragment.word[j / 2] + j % 2 * 2;
                    mma_s8(sum, lower[0], SIDES == 2 ? upper[0] : 0, lower[1],
                           SIDES == 2 ? upper[1] : 0, own[0], own[1]);
                }
                loads.load(a, &slot[i]);
                n_left--;
                if (++piece < n_pieces)
                    continue;
                store_sums<SIDES>(a, sums, at, warp, lane, sum);
                piece = 0;
                at++;
                sum[0] = sum[1] = sum[2] = sum[3] = 0;
            }
        }
        __syncthreads();
        finish_int8<BF16, SIDES>(a, n_steps, x, sums, blockIdx.x + done * gridDim.x, n_here,
                                 done == 0, own, needs);
        __syncthreads();
    }
}

template <class Job> static const void *int8_kernel_for(enum decode_kind kind, bool bf16)
{
    if (kind == DECODE_FEW_LONG)
        return bf16 ? (const void *)decode_int8<true, 1, 8, Job>
                    : (const void *)decode_int8<false, 1, 8, Job>;
    return bf16 ? (const void *)decode_int8<true, 2, 4, Job>
                : (const void *)decode_int8<false, 2, 4, Job>;
}

const void *decode_kernel_int8(enum decode_kind kind, bool bf16, bool shared)
{
    return shared ? int8_kernel_for<struct decode_shared_job>(kind, bf16)
                  : int8_kernel_for<struct decode_job>(kind, bf16);
}
