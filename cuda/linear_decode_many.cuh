/* linear_decode_many.cuh - the kernel for 9 to 64 rows of x.
 *
 * A warp has 16 rows of W for itself and takes them through K, so each code is decoded once; the
 * eight warps of a block share x, which comes from L2 in chunks of 128 columns, three ahead.  The
 * eight parts of K are chains of their own, added in order as they end.  Where W has too few rows
 * to fill the device that way, a cluster of eight blocks takes a part of K each (sm_90), and the
 * sums meet in the shared memory of the cluster.
 *
 * Bytes: W once; x once for each 128 rows of W, from L2.  In shared memory, per 16 x 128 weights:
 * 64 reads of 128 bytes for table lookups, 2 for every row of x.  */
#pragma once

#include "linear_decode_job.cuh"

#include <cooperative_groups.h>

#define MANY_WARPS  (DECODE_THREADS / 32)
#define MANY_STAGES 4
#define PASS_ROWS   (2 * UNIT_ROWS)
#define MANY_LD     (CHUNK_COLS + X_PAD) /* halves */

/* Sums of a warp: [4 n-tiles][lane]. */
template <int NT> __device__ constexpr int many_sums(void)
{
    return 4 * NT * 32;
}

/* Chunk `chunk` of all rows of x to shared memory; rows that are not there are zeros. */
template <int NT>
__device__ inline void copy_chunk(const struct decode_job &a, int chunk, uint16_t *xs)
{
#pragma unroll
    for (int i = 0; i < NT * 8 * (CHUNK_COLS / 8) / DECODE_THREADS; i++) {
        const int at = i * DECODE_THREADS + threadIdx.x;
        const int row = at / (CHUNK_COLS / 8), col = at % (CHUNK_COLS / 8) * 8;
        const bool there = row < a.n_rows;
        const uint16_t *from = (const uint16_t *)a.x;
        unsigned to = (unsigned)__cvta_generic_to_shared(xs + row * MANY_LD + col);

        if (there)
            from += (int64_t)row * a.n_in + chunk * CHUNK_COLS + col;
        asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from),
                     "r"(there ? 16 : 0)
                     : "memory");
    }
}

/* Two or four tiles of x at a time, so that products which wait for each other are apart. */
template <class C, bool BF16, int NT>
__device__ inline void multiply_many(const struct decode_job &a, struct decode_slot<C, 2> &s,
                                     const struct decode_numbers &numbers, const uint16_t *xs,
                                     const char *lookup, const float *map, int lane,
                                     float (&sum)[NT][4])
{
    constexpr int at_once = NT < 4 ? NT : 4;
    const uint16_t *own = xs + lane / 4 * MANY_LD + 8 * (lane % 4);
    const struct lane_numbers<C, 2> n(a, s, numbers, map);
    typename C::group_t g[2];

#pragma unroll
    for (int j = 0; j < C::PIECE_COLS / 32; j++) {
        uint32_t w[2][4];

        weights_of<C, BF16, 2>(a, s, j, n, g, lookup, lane, w);
#pragma unroll
        for (int first = 0; first < NT; first += at_once) {
            uint4 x[at_once];
#pragma unroll
            for (int m = 0; m < at_once; m++)
                x[m] = *(const uint4 *)(own + (first + m) * 8 * MANY_LD + 32 * j);
#pragma unroll
            for (int m = 0; m < at_once; m++)
                mma_16<BF16>(sum[first + m], w[0][0], w[1][0], w[0][1], w[1][1], x[m].x, x[m].y);
#pragma unroll
            for (int m = 0; m < at_once; m++)
                mma_16<BF16>(sum[first + m], w[0][2], w[1][2], w[0][3], w[1][3], x[m].z, x[m].w);
        }
    }
}

/* total += sum, or = sum; sum = 0 */
template <int NT> __device__ inline void add_part(float *total, bool first, float (&sum)[NT][4])
{
#pragma unroll
    for (int i = 0; i < 4 * NT; i++) {
        float *at = total + 32 * i;
        *at = first ? sum[i / 4][i % 4] : *at + sum[i / 4][i % 4];
        sum[i / 4][i % 4] = 0;
    }
}

/* Of the sums of a warp, that of a row of x and a row of the pass. */
__device__ inline int place_of_sum(int row, int in_pass)
{
    int i = row / 8 * 4 + in_pass / 8 * 2 + row % 2;

    return 32 * i + 4 * (in_pass % 8) + row % 8 / 2;
}

/* Outputs i, i + stride, ... of a pass; sum_at(place) gives a sum. */
template <class Sums>
__device__ inline void finish_pass(const struct decode_job &a, int pass, int i, int stride,
                                   Sums sum_at)
{
    const int in_pass = a.pair ? UNIT_ROWS : PASS_ROWS;

    for (; i < a.n_rows * in_pass; i += stride) {
        const int row = i / in_pass, own = i % in_pass;
        int part, col;

        if (!row_of_pass<2>(a, pass, own, &part, &col))
            continue;
        const struct decode_part &p = a.part[part];
        float sum = sum_at(place_of_sum(row, own)), held = 0;
        if (a.pair) {
            float up = biased(a, a.part[1], col, sum_at(place_of_sum(row, own + UNIT_ROWS)));
            sum = swiglu_value(a.model, biased(a, p, col, sum), up);
            store_value(a.model, p.y, element_at(p, row, col), sum);
            continue;
        }
        if (a.epilogue == DECODE_ADD)
            held = load_value(a.model, a.residual, element_at(p, row, col));
        store_output(a, p, row, col, sum, held);
    }
}

/* Best of the 16 logits of a row of x, for each; bests: of the warp, by row. */
__device__ inline void find_best(const struct decode_job &a, int pass, bool there, int lane,
                                 const float *sums, struct decode_best *bests)
{
    for (int row = lane / 16; row < (a.n_rows + 1) / 2 * 2; row += 2) {
        struct decode_best best = { 0.0f, DECODE_NONE };
        int part, col;

        if (there && row < a.n_rows && row_of_pass<2>(a, pass, lane % 16, &part, &col))
            best = with_logit(a, biased(a, a.part[0], col, sums[place_of_sum(row, lane % 16)]), col,
                              best);
#pragma unroll
        for (int half = 8; half; half /= 2) {
            struct decode_best other = { __shfl_xor_sync(0xFFFFFFFFu, best.value, half),
                                         __shfl_xor_sync(0xFFFFFFFFu, best.id, half) };
            best = better_of(best, other);
        }
        if (lane % 16 == 0 && row < a.n_rows)
            bests[row] = best;
    }
}

/* The eight blocks' sums of pass number `rank` of this cluster, added in order.  A thread's outputs
 * side by side: what is far away is asked for at once. */
template <int NT>
__device__ inline void finish_cluster(const struct decode_job &a, float *totals, int first_pass)
{
#if __CUDA_ARCH__ >= 900
    namespace cg = cooperative_groups;
    constexpr int each = NT * 8 * PASS_ROWS / DECODE_THREADS;
    cg::cluster_group cluster = cg::this_cluster();
    const int rank = (int)cluster.block_rank(), pass = first_pass + rank;
    const int in_pass = a.pair ? UNIT_ROWS : PASS_ROWS;
    const float *of[K_PARTS];
    float held[each] = {}, v[each][K_PARTS] = {}, up[each] = {};
    int row[each], own[each], part[each], col[each];
    bool there[each];

#pragma unroll
    for (int k = 0; k < each; k++) {
        const int i = threadIdx.x + k * DECODE_THREADS;

        row[k] = i / in_pass, own[k] = i % in_pass;
        there[k] = pass < a.n_passes && row[k] < a.n_rows &&
                   row_of_pass<2>(a, pass, own[k], &part[k], &col[k]);
        if (there[k] && a.epilogue == DECODE_ADD)
            held[k] = load_value(a.model, a.residual, element_at(a.part[part[k]], row[k], col[k]));
    }
    cluster.sync();
#pragma unroll
    for (int i = 0; i < K_PARTS; i++)
        of[i] = cluster.map_shared_rank(totals, i) + rank * many_sums<NT>();
#pragma unroll
    for (int k = 0; k < each; k++)
        if (there[k]) {
            const int place = place_of_sum(row[k], own[k]);
#pragma unroll
            for (int i = 0; i < K_PARTS; i++)
                v[k][i] = of[i][place];
        }
    for (int k = 0; k < each && a.pair; k++)
        if (there[k]) {
            const int place = place_of_sum(row[k], own[k] + UNIT_ROWS);
            up[k] = of[0][place];
#pragma unroll
            for (int i = 1; i < K_PARTS; i++)
                up[k] += of[i][place];
        }
    cluster.sync(); /* nobody reads from here any more */
#pragma unroll
    for (int k = 0; k < each; k++) {
        float sum = v[k][0];
#pragma unroll
        for (int i = 1; i < K_PARTS; i++)
            sum += v[k][i];
        if (!there[k])
            continue;
        const struct decode_part &p = a.part[part[k]];
        if (a.pair)
            store_value(a.model, p.y, element_at(p, row[k], col[k]),
                        swiglu_value(a.model, biased(a, p, col[k], sum),
                                     biased(a, a.part[1], col[k], up[k])));
        else
            store_output(a, p, row[k], col[k], sum, held[k]);
    }
#endif
}

template <class C, bool BF16, int NT, int DEPTH>
__global__ static void __launch_bounds__(DECODE_THREADS, NT == 8 ? 1 : 2)
    decode_many(const __grid_constant__ struct decode_job a)
{
    extern __shared__ __align__(128) char room[];
    constexpr int per_chunk = CHUNK_COLS / C::PIECE_COLS, stage = NT * 8 * MANY_LD;
    char *lookup = room;
    float *map = (float *)(lookup + C::N_LOOKUP);
    float *totals = map + 256;
    uint16_t *xs = (uint16_t *)(totals + MANY_WARPS * many_sums<NT>());
    const int lane = threadIdx.x % 32, warp = warp_of_block(), n_chunks = a.n_in / CHUNK_COLS;
    const int rank = blockIdx.x % a.n_split, group = blockIdx.x / a.n_split;
    const int first_part = rank, last_part = a.n_split == 1 ? K_PARTS : rank + 1;
    const int begin = first_chunk(n_chunks, first_part), end = first_chunk(n_chunks, last_part);
    const int own_pass = group * MANY_WARPS + warp;
    const int pass = own_pass < a.n_passes ? own_pass : a.n_passes - 1;
    const int n_pieces = (end - begin) * per_chunk;
    struct decode_cursor<2> next = {
    };
    struct decode_slot<C, 2> slot[DEPTH * per_chunk];
    struct decode_numbers numbers = {};
    float *total = totals + warp * many_sums<NT>() + lane;

    auto load_next = [&](struct decode_slot<C, 2> *to) {
        if (next.piece == n_pieces)
            return;
        load_piece<C, 2>(a, next, begin + next.piece / per_chunk, lane, to);
        next.piece++;
    };
    auto copy_next = [&](int chunk) {
        if (chunk < end)
            copy_chunk<NT>(a, chunk, xs + (chunk - begin) % MANY_STAGES * stage);
        asm volatile("cp.async.commit_group;" ::: "memory");
    };

    let_next_start();
    next.pass = pass;
    next.piece = 0;
    open_pass<C, 2>(a, begin * per_chunk, lane, &next);
#pragma unroll
    for (int i = 0; i < DEPTH * per_chunk; i++)
        load_next(&slot[i]);
    prefetch_ahead(a);
    if (C::SCALED && a.scale_bytes == 1)
        map[threadIdx.x] = byte_scale(a, threadIdx.x);
    C::fill_lookup(lookup, a.table);
    if (C::SCALED)
        numbers = numbers_of_pass<2>(a, pass, lane);
    wait_for_launch_before();

    float sum[NT][4] = {};
    int part = first_part, part_end = first_chunk(n_chunks, part + 1);

    for (int i = 0; i < MANY_STAGES - 1; i++)
        copy_next(begin + i);
    for (int first = begin; first < end; first += DEPTH) {
#pragma unroll
        for (int i = 0; i < DEPTH; i++) {
            const int chunk = first + i;

            if (chunk >= end)
                break;
            while (chunk == part_end) { /* parts of a short K may be empty */
                add_part<NT>(total, part == first_part, sum);
                part_end = first_chunk(n_chunks, ++part + 1);
            }
            asm volatile("cp.async.wait_group %0;" ::"n"(MANY_STAGES - 2) : "memory");
            __syncthreads();
            copy_next(chunk + MANY_STAGES - 1);
            const uint16_t *now = xs + (chunk - begin) % MANY_STAGES * stage;
#pragma unroll
            for (int k = 0; k < per_chunk; k++) {
                multiply_many<C, BF16, NT>(a, slot[i * per_chunk + k], numbers,
                                           now + k * C::PIECE_COLS, lookup, map, lane, sum);
                load_next(&slot[i * per_chunk + k]);
            }
        }
    }
    for (; part < last_part; part++)
        add_part<NT>(total, part == first_part, sum);

    if (a.n_split > 1) {
        finish_cluster<NT>(a, totals, group * MANY_WARPS);
        return;
    }
    const float *own = totals + warp * many_sums<NT>();
    __syncwarp();
    if (a.epilogue != DECODE_ARGMAX) {
        if (own_pass < a.n_passes)
            finish_pass(a, pass, lane, 32, [&](int place) { return own[place]; });
        return;
    }
    struct decode_best *bests = (struct decode_best *)xs;
    __syncthreads(); /* x is no longer needed */
    find_best(a, pass, own_pass < a.n_passes, lane, own, bests + warp * a.n_rows);
    __syncthreads();
    if (threadIdx.x < a.n_rows) {
        struct decode_best best = bests[threadIdx.x];

        for (int i = 1; i < MANY_WARPS; i++)
            best = better_of(best, bests[i * a.n_rows + threadIdx.x]);
        a.best[(int64_t)blockIdx.x * a.n_rows + threadIdx.x] = best;
    }
}

template <class C, int DEPTH> static const void *many_kernel(enum decode_kind kind, bool bf16)
{
    if (kind == DECODE_16)
        return bf16 ? (const void *)decode_many<C, true, 2, DEPTH>
                    : (const void *)decode_many<C, false, 2, DEPTH>;
    if (kind == DECODE_32)
        return bf16 ? (const void *)decode_many<C, true, 4, DEPTH>
                    : (const void *)decode_many<C, false, 4, DEPTH>;
    return bf16 ? (const void *)decode_many<C, true, 8, DEPTH>
                : (const void *)decode_many<C, false, 8, DEPTH>;
}
