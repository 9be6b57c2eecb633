/* linear_decode_coded.cuh - the kernel for up to 8 rows of x and weights of 2 to 8 bits.
 *
 * Passes, slots and sums are those of linear_decode_few.cuh.  What a weight costs decides here, so
 * that everything else is out of the loop: scales and zero points of a block's rows are decoded to
 * fp32 in shared memory before x is there, and the product takes the bare values of codes; a scale
 * meets the sum of its run.
 *
 * Operations for two weights of 4 bits: a multiplication that makes the address, and a lookup.  For
 * 16 rows by 128 columns, a warp: 64 of these, 8 products, 4 reads of x, and 6 for each run.  */
#pragma once

#include "linear_decode_few.cuh"

/* Numbers of four rows on their way. */
struct coded_four {
    uint4 scales, zeros; /* as they are stored */
    float second[4];
    float offset;
};

/* Four numbers of n_bytes each, from number `at` on. */
__device__ inline uint4 load_four(const uint8_t *numbers, int at, int n_bytes)
{
    const uint8_t *from = numbers + (int64_t)at * n_bytes;

    if (n_bytes == 1)
        return make_uint4(__ldg((const uint32_t *)from), 0, 0, 0);
    if (n_bytes == 2) {
        const uint2 both = __ldg((const uint2 *)from);
        return make_uint4(both.x, both.y, 0, 0);
    }
    return __ldg((const uint4 *)from);
}

/* Value i of four; byte: what a byte stands for. */
template <class Byte>
__device__ inline float value_of_four(const uint4 &v, int n_bytes, int i, Byte byte)
{
    const uint32_t word[4] = { v.x, v.y, v.z, v.w };

    if (n_bytes == 1)
        return byte(v.x >> 8 * i & 0xFF);
    if (n_bytes == 2)
        return half_bits_value(word[i / 2] >> 16 * (i % 2) & 0xFFFF);
    return __uint_as_float(word[i]);
}

/* The scales and zero points of some passes: [pass][side][group][8 rows]. */
template <int SIDES> struct coded_stage {
    int fours, n; /* of a unit; of all passes */

    __device__ coded_stage(const struct decode_job &a, int n_passes)
        : fours(2 * a.n_groups), n(n_passes * SIDES * fours)
    {
    }
    /* Number i, of passes from `first` on: rows 4 k .. 4 k + 3 of a group. */
    __device__ void load(const struct decode_job &a, int first, int i, struct coded_four *to) const
    {
        const int side = (int)__umulhi((unsigned)i, a.fours_inverse), own = i - side * fours;
        int part, unit;

        if (i >= n)
            return;
        unit_of_pass<SIDES>(a, first + side / SIDES * (int)gridDim.x, side % SIDES, &part, &unit);
        const struct decode_part &p = a.part[part];
        const int at = unit * a.n_groups * UNIT_ROWS + 4 * own;
        const int group = (unit * UNIT_ROWS + own % 2 * 4) * a.n_groups + own / 2;

        to->scales = load_four(p.scales, at, a.scale_bytes);
        if (a.zero_bytes)
            to->zeros = load_four(p.zeros, at, a.zero_bytes);
        to->offset = p.offset;
#pragma unroll
        for (int k = 0; k < 4; k++)
            to->second[k] = p.scales2
                                ? __ldg(p.scales2 + (group + k * a.n_groups) / WEIGHT_NESTED_RUN)
                                : p.second;
    }
    __device__ void store(const struct decode_job &a, int i, const struct coded_four &f,
                          const float *map, float *scales, float *zeros) const
    {
        float v[4];

        if (i >= n)
            return;
#pragma unroll
        for (int k = 0; k < 4; k++)
            v[k] = value_of_four(f.scales, a.scale_bytes, k,
                                 [&](uint32_t byte) { return map[byte] * f.second[k] + f.offset; });
        ((float4 *)scales)[i] = make_float4(v[0], v[1], v[2], v[3]);
        if (a.zero_bytes == 0)
            return;
#pragma unroll
        for (int k = 0; k < 4; k++)
            v[k] =
                value_of_four(f.zeros, a.zero_bytes, k, [](uint32_t byte) { return (float)byte; });
        ((float4 *)zeros)[i] = make_float4(v[0], v[1], v[2], v[3]);
    }
};

#define STAGE_EARLY 2 /* of a thread, whose loads are on their way together */

template <int SIDES>
__device__ inline void stage_rest(const struct decode_job &a,
                                  const struct coded_stage<SIDES> &stage, int first, int from,
                                  const float *map, float *scales, float *zeros)
{
    for (int i = from + threadIdx.x; i < stage.n; i += DECODE_THREADS) {
        struct coded_four four;

        stage.load(a, first, i, &four);
        stage.store(a, i, four, map, scales, zeros);
    }
}

/* The lane's row in the numbers of a pass, or of its first unit. */
struct coded_numbers {
    const float *scale, *zero;
};

/* Group of run i of a chunk. */
template <int RUNS> __device__ inline int group_of_run(const struct decode_job &a, int chunk, int i)
{
    return RUNS == 4 ? 4 * chunk + i : (2 * chunk + i) >> a.run_shift;
}

/* A piece, run by run. */
template <class C, bool BF16, int SIDES, int RUNS>
__device__ inline void multiply_coded(const struct decode_job &a, struct few_slot<C, SIDES> &s,
                                      int chunk, const struct coded_numbers &n,
                                      typename C::group_t (&g)[SIDES], const char *lookup, int lane,
                                      const struct few_x<4> &x, float (&sum)[4])
{
#pragma unroll
    for (int i = 0; i < RUNS; i++) {
        const int at = group_of_run<RUNS>(a, chunk, i) * UNIT_ROWS, side = a.n_groups * UNIT_ROWS;
        float run[4] = {};

        if constexpr (C::ZERO)
            if (a.zero_bytes) {
#pragma unroll
                for (int r = 0; r < SIDES; r++)
                    g[r] = C::template group<BF16>(1.0f, n.zero[at + r * side], a.table);
            }
#pragma unroll
        for (int j = 4 / RUNS * i; j < 4 / RUNS * (i + 1); j++) {
            uint32_t w[SIDES][4];

#pragma unroll
            for (int r = 0; r < SIDES; r++)
                s.codes[r].template pairs<BF16>(j, g[r], lookup, lane, w[r]);
            multiply_32<BF16, SIDES>(run, w, x.word[j]);
        }
#pragma unroll
        for (int k = 0; k < 2 * SIDES; k++)
            sum[k] = fmaf(n.scale[at + k / 2 * side], run[k], sum[k]);
    }
}

/* RUNS: of a chunk.  The loop is short on purpose, and products of all shapes share this kernel:
 * between two launches of it others run, and what has to come back into the instruction cache is
 * waited for.  More pieces on their way, or some decoded early, are slower by that. */
template <class C, bool BF16, int RUNS, class Job>
__global__ static void __launch_bounds__(DECODE_THREADS, 2)
    decode_coded(const __grid_constant__ Job a)
{
    extern __shared__ __align__(128) char room[];
    constexpr int SIDES = 2, DEPTH = 2;                 /* units of a pass; pieces on their way */
    const int numbers = SIDES * a.n_groups * UNIT_ROWS; /* of a pass */
    char *lookup = room;
    float *map = (float *)(lookup + C::N_LOOKUP);
    struct decode_best *bests = (struct decode_best *)(map + 256);
    float *scales = (float *)(bests + DECODE_THREADS / 16 * 8);
    float *zeros = scales + a.n_slots * numbers;
    float *sums = zeros + (a.zero_bytes ? a.n_slots * numbers : 0);
    uint16_t *xs = (uint16_t *)(sums + a.n_slots * a.n_rows * (K_PARTS * SIDES * UNIT_ROWS));
    const int lane = threadIdx.x % 32, warp = warp_of_block(), n_chunks = a.n_in / CHUNK_COLS;
    const int begin = first_chunk(n_chunks, warp);
    const int n_pieces = first_chunk(n_chunks, warp + 1) - begin;
    const int n_passes = (a.n_passes - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x;
    const int first_slots = n_passes < a.n_slots ? n_passes : a.n_slots;
    struct few_slot<C, SIDES> slot[DEPTH];
    typename C::group_t g[SIDES];

    let_next_start();
    const struct coded_stage<SIDES> stage(a, first_slots);
    struct coded_four four[STAGE_EARLY];
#pragma unroll
    for (int i = 0; i < STAGE_EARLY; i++)
        stage.load(a, blockIdx.x, threadIdx.x + i * DECODE_THREADS, &four[i]);
    const float byte = a.scale_bytes == 1 ? byte_scale(a, threadIdx.x) : 0.0f;
    struct few_loads<C, SIDES> loads(a, begin, n_pieces, n_passes, lane);
#pragma unroll
    for (int i = 0; i < DEPTH; i++)
        loads.load(a, &slot[i]);
    C::template fill_lookup<BF16>(lookup, a.table);
    map[threadIdx.x] = byte;
    if (!Job::SHARED && a.epilogue == DECODE_ARGMAX && threadIdx.x < DECODE_THREADS / 16 * 8)
        bests[threadIdx.x] = { 0.0f, DECODE_NONE };
    const uint4 first_weights = norm_weights(a, threadIdx.x);
    const struct few_output own = output_number<SIDES>(a, threadIdx.x, blockIdx.x, first_slots);

    open_groups<C, BF16, SIDES>(a, g);
    __syncthreads();
    ask_ahead(a);
    wait_for_launch_before();
    const float held = held_at(a, own);
    const uint32_t n_steps = steps_before_launch(a);
    stage_x<BF16, 8>(a, xs, sums, first_weights, [&] {
#pragma unroll
        for (int i = 0; i < STAGE_EARLY; i++)
            stage.store(a, threadIdx.x + i * DECODE_THREADS, four[i], map, scales, zeros);
        stage_rest(a, stage, blockIdx.x, STAGE_EARLY * DECODE_THREADS, map, scales, zeros);
    });

    const bool there = lane / 4 < a.n_rows;
    const unsigned x_first = few_x_at(a, xs, lane) + 2 * begin * CHUNK_COLS;
    struct few_x<4> x = {
    };
    float sum[4] = {};

    for (int done = 0;;) {
        const int n_here = n_passes - done < a.n_slots ? n_passes - done : a.n_slots;
        struct coded_numbers n = { scales + lane / 4, zeros + lane / 4 };
        int piece = 0, at = 0, n_left = n_here * n_pieces;

        for (; n_pieces == 0 && at < n_here; at++)
            store_sums<SIDES>(a, sums, at, warp, lane, sum);
        while (n_left > 0) {
#pragma unroll
            for (int i = 0; i < DEPTH; i++) {
                if (n_left == 0) {
                    if (done + n_here < n_passes)
                        turn_slots<C, SIDES, DEPTH>(slot, i);
                    break;
                }
                x.load(x_first + 2 * piece * CHUNK_COLS, there);
                multiply_coded<C, BF16, SIDES, RUNS>(a, slot[i], begin + piece, n, g, lookup, lane,
                                                     x, sum);
                loads.load(a, &slot[i]);
                n_left--;
                if (++piece < n_pieces)
                    continue;
                store_sums<SIDES>(a, sums, at, warp, lane, sum);
                piece = 0;
                at++;
                n.scale += numbers;
                n.zero += numbers;
                sum[0] = sum[1] = sum[2] = sum[3] = 0;
            }
        }
        __syncthreads();
        if (!Job::SHARED && a.epilogue == DECODE_ARGMAX)
            finish_logits(a, sums, blockIdx.x + done * gridDim.x, n_here, bests);
        else
            finish_slots<SIDES>(a, n_steps, sums, blockIdx.x + done * gridDim.x, n_here, done == 0,
                                own, held);
        done += n_here;
        if (done == n_passes)
            break;
        stage_rest(a,
                   coded_stage<SIDES>(a, n_passes - done < a.n_slots ? n_passes - done : a.n_slots),
                   blockIdx.x + done * gridDim.x, 0, map, scales, zeros);
        __syncthreads();
    }
    if (!Job::SHARED && a.epilogue == DECODE_ARGMAX)
        store_bests(a, bests);
}

template <class C, class Job> static const void *coded_kernel_for(bool short_runs, bool bf16)
{
    if (short_runs)
        return bf16 ? (const void *)decode_coded<C, true, 4, Job>
                    : (const void *)decode_coded<C, false, 4, Job>;
    return bf16 ? (const void *)decode_coded<C, true, 2, Job>
                : (const void *)decode_coded<C, false, 2, Job>;
}

template <class C> static const void *coded_kernel(bool short_runs, bool bf16, bool shared)
{
    return shared ? coded_kernel_for<C, struct decode_shared_job>(short_runs, bf16)
                  : coded_kernel_for<C, struct decode_job>(short_runs, bf16);
}
