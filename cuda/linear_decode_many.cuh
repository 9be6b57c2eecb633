/* linear_decode_many.cuh - the kernel for 9 to 64 rows of x before Hopper, and what becomes of the
 * sums of many rows on any device.
 *
 * A warp has 16 rows of W for itself and takes them through K, so each code is decoded once; the
 * eight warps of a block share x, which comes from L2 in chunks of 128 columns, three ahead.  The
 * eight parts of K are chains of their own, added in order as they end.
 *
 * Bytes: W once; x once for each 128 rows of W, from L2.  In shared memory, per 16 x 128 weights:
 * 64 reads of 128 bytes for table lookups, 2 for every row of x.  */
#pragma once

#include "linear_decode_job.cuh"

#define MANY_LD (CHUNK_COLS + X_PAD) /* halves */

/* Sums of a warp. */
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

/* A piece on its way.  Lane 16 i + 8 r + row has the scale of that row of unit r in group i of the
 * chunk, groups 2 and 3 in a second register. */
template <class C> struct many_slot {
    C codes[2];
    uint32_t scale[2], zero[2];
    float second;
};

/* The next piece, of chunk number `chunk` of the rows. */
template <class C>
__device__ inline void load_piece(const struct decode_job &a, const struct decode_cursor<2> &c,
                                  int chunk, int lane, struct many_slot<C> *to)
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint8_t *piece = c.codes[r] + c.piece * piece_bytes<C>();
        if constexpr (C::SCALED)
            to->codes[r].load(piece, lane);
        else
            to->codes[r].load(piece);
    }
    if constexpr (C::SCALED) {
        const int group =
            (a.groups_log ? chunk << a.groups_log : chunk >> a.group_shift) + c.own_group;
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (i == 0 || a.groups_log == 2) {
                int at = (group + 2 * i) * UNIT_ROWS;
                to->scale[i] = load_number(c.scales + at * a.scale_bytes, a.scale_bytes);
                if (C::ZERO && a.zero_bytes)
                    to->zero[i] = load_number(c.zeros + at * a.zero_bytes, a.zero_bytes);
            }
        if (c.scales2)
            to->second = __ldg(c.scales2 + (c.first_group + group) / WEIGHT_NESTED_RUN);
    }
}

/* The scales and zero points of a slot, in the lanes that loaded them. */
template <class C> struct many_numbers {
    float scale[2], zero[2];

    __device__ many_numbers(const struct decode_job &a, const struct many_slot<C> &s,
                            const struct decode_numbers &n, const float *map)
    {
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (C::SCALED && (i == 0 || a.groups_log == 2)) {
                scale[i] = decoded_scale(a, n, s.scale[i], s.second, map);
                zero[i] = C::ZERO && a.zero_bytes ? decoded_zero(a, s.zero[i]) : 0.0f;
            }
    }
};

/* Of side r, the number for k = 32 number j of the lane's row. */
__device__ inline float number_of_run(const struct decode_job &a, const float (&numbers)[2], int j,
                                      int r, int lane)
{
    const int group = a.groups_log == 2 ? j : a.groups_log ? j / 2 : 0;
    const float own = a.groups_log == 2 && j >= 2 ? numbers[1] : numbers[0];

    return __shfl_sync(0xFFFFFFFFu, own, group % 2 * 16 + 8 * r + lane / 4);
}

/* sum += scale * run, of 8 rows each. */
template <int NT>
__device__ inline void scale_run(const float (&scale)[2], float (&run)[NT][4], float (&sum)[NT][4])
{
#pragma unroll
    for (int m = 0; m < NT; m++)
#pragma unroll
        for (int i = 0; i < 4; i++)
            sum[m][i] = fmaf(scale[i / 2], run[m][i], sum[m][i]);
}

/* Two or four tiles of x at a time, so that products which wait for each other are apart. */
template <class C, bool BF16, int NT>
__device__ inline void multiply_many(const struct decode_job &a, struct many_slot<C> &s,
                                     const struct decode_numbers &numbers, const uint16_t *xs,
                                     const char *lookup, const float *map, int lane,
                                     typename C::group_t (&g)[2], float (&sum)[NT][4])
{
    constexpr int at_once = NT < 4 ? NT : 4;
    const uint16_t *own = xs + lane / 4 * MANY_LD + 8 * (lane % 4);
    const struct many_numbers<C> n(a, s, numbers, map);
    float run[NT][4] = {};

#pragma unroll
    for (int j = 0; j < C::PIECE_COLS / 32; j++) {
        uint32_t w[2][4];

        if constexpr (C::ZERO)
            if (a.zero_bytes) {
#pragma unroll
                for (int r = 0; r < 2; r++)
                    g[r] = C::template group<BF16>(1.0f, number_of_run(a, n.zero, j, r, lane),
                                                   a.table);
            }
#pragma unroll
        for (int r = 0; r < 2; r++)
            s.codes[r].template pairs<BF16>(j, g[r], lookup, lane, w[r]);
#pragma unroll
        for (int first = 0; first < NT; first += at_once) {
            uint4 x[at_once];
#pragma unroll
            for (int m = 0; m < at_once; m++)
                x[m] = *(const uint4 *)(own + (first + m) * 8 * MANY_LD + 32 * j);
#pragma unroll
            for (int m = 0; m < at_once; m++)
                mma_16<BF16>(C::SCALED ? run[first + m] : sum[first + m], w[0][0], w[1][0], w[0][1],
                             w[1][1], x[m].x, x[m].y);
#pragma unroll
            for (int m = 0; m < at_once; m++)
                mma_16<BF16>(C::SCALED ? run[first + m] : sum[first + m], w[0][2], w[1][2], w[0][3],
                             w[1][3], x[m].z, x[m].w);
        }
        if constexpr (C::SCALED)
            if (j % 2 || a.groups_log == 2) {
                const float scale[2] = { number_of_run(a, n.scale, j, 0, lane),
                                         number_of_run(a, n.scale, j, 1, lane) };
                scale_run<NT>(scale, run, sum);
#pragma unroll
                for (int m = 0; m < 4 * NT; m++)
                    run[m / 4][m % 4] = 0;
            }
    }
}

/* total += sum, or = sum; sum = 0.  The sums of a warp: [n-tile][lane][4]. */
template <int NT> __device__ inline void add_part(float *total, bool first, float (&sum)[NT][4])
{
#pragma unroll
    for (int i = 0; i < NT; i++) {
        float4 *at = (float4 *)total + 32 * i, v = make_float4(0, 0, 0, 0);
        if (!first)
            v = *at;
        *at = first
                  ? make_float4(sum[i][0], sum[i][1], sum[i][2], sum[i][3])
                  : make_float4(v.x + sum[i][0], v.y + sum[i][1], v.z + sum[i][2], v.w + sum[i][3]);
        sum[i][0] = sum[i][1] = sum[i][2] = sum[i][3] = 0;
    }
}

/* Of the sums of a warp, that of a row of x and a row of the pass. */
__device__ inline int place_of_sum(int row, int in_pass)
{
    return row / 8 * 128 + 16 * (in_pass % 8) + row % 8 / 2 * 4 + in_pass / 8 * 2 + row % 2;
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
            store_value(a.model, p.y, swiglu_at(a, p, row, col), sum);
            continue;
        }
        if (a.epilogue == DECODE_ADD)
            held = load_value(a.model, a.residual, element_at(p, row, col));
        store_output(a, 0, p, row, col, sum, held);
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

/* Gates and ups of the block's passes, as 16 bytes of an image each: of four passes that are 32
 * columns the same pair of each. */
template <int NT>
__device__ inline void finish_image(const struct decode_job &a, int first_pass, const float *totals)
{
    const struct decode_part &p = a.part[0];

    for (int i = threadIdx.x; i < a.n_rows * MANY_WARPS; i += blockDim.x) {
        const int row = i / MANY_WARPS, warp = i % MANY_WARPS / 4 * 4, own = i % 4 * 2;
        const int first_col = (first_pass + warp) * UNIT_ROWS + own;
        uint32_t out[4];

        if (first_pass + warp >= a.n_passes)
            continue;
#pragma unroll
        for (int t = 0; t < 4; t++) {
            const float *sums = totals + (warp + t) * many_sums<NT>();
            float v[2];

#pragma unroll
            for (int k = 0; k < 2; k++) {
                const int col = first_col + t * UNIT_ROWS + k, at = place_of_sum(row, own + k);
                const float up = sums[place_of_sum(row, own + k + UNIT_ROWS)];

                v[k] = swiglu_value(a.model, biased(a, p, col, sums[at]),
                                    biased(a, a.part[1], col, up));
            }
            out[t] =
                a.model == DTYPE_BF16 ? pack_pair<true>(v[0], v[1]) : pack_pair<false>(v[0], v[1]);
        }
        *(uint4 *)((uint16_t *)p.y + image_element(a.y_eights, row, first_col)) =
            make_uint4(out[0], out[1], out[2], out[3]);
    }
}

/* What becomes of a block's sums, a pass a warp, or `n` of them, of which this is number `i`;
 * bests: room for one of each warp and row of x.  Behind a barrier. */
template <int NT>
__device__ inline void finish_alone(const struct decode_job &a, int own_pass, int warp, int i,
                                    int n, const float *totals, struct decode_best *bests)
{
    const int lane = threadIdx.x % 32;
    const float *own = totals + warp * many_sums<NT>();

    if (a.y_eights) {
        finish_image<NT>(a, own_pass - warp, totals);
        return;
    }
    if (a.epilogue != DECODE_ARGMAX) {
        if (own_pass < a.n_passes)
            finish_pass(a, own_pass, 32 * i + lane, 32 * n, [&](int place) { return own[place]; });
        return;
    }
    if (i == 0)
        find_best(a, own_pass, own_pass < a.n_passes, lane, own, bests + warp * a.n_rows);
    __syncthreads();
    if (threadIdx.x < a.n_rows) {
        struct decode_best best = bests[threadIdx.x];

        for (int k = 1; k < MANY_WARPS; k++)
            best = better_of(best, bests[k * a.n_rows + threadIdx.x]);
        a.best[(int64_t)blockIdx.x * a.n_rows + threadIdx.x] = best;
    }
}

template <class C, bool BF16, int NT, int DEPTH>
__global__ static void __launch_bounds__(DECODE_THREADS, NT == 8 ? 1 : 2)
    decode_many(const __grid_constant__ struct decode_job a)
{
#if !defined(__CUDA_ARCH_FEAT_SM90_ALL) /* Hopper has another: linear_decode_wide.cuh */
    extern __shared__ __align__(128) char room[];
    constexpr int per_chunk = CHUNK_COLS / C::PIECE_COLS, stage = NT * 8 * MANY_LD;
    char *lookup = room;
    float *map = (float *)(lookup + C::N_LOOKUP);
    float *totals = map + 256;
    uint16_t *xs = (uint16_t *)(totals + MANY_WARPS * many_sums<NT>());
    const int lane = threadIdx.x % 32, warp = warp_of_block(), n_chunks = a.n_in / CHUNK_COLS;
    const int own_pass = blockIdx.x * MANY_WARPS + warp;
    const int pass = own_pass < a.n_passes ? own_pass : a.n_passes - 1;
    const int n_pieces = n_chunks * per_chunk;
    struct decode_cursor<2> next = {
    };
    struct many_slot<C> slot[DEPTH * per_chunk];
    struct decode_numbers numbers = {};
    float *total = totals + warp * many_sums<NT>() + 4 * lane;

    auto load_next = [&](struct many_slot<C> *to) {
        if (next.piece == n_pieces)
            return;
        load_piece<C>(a, next, next.piece / per_chunk, lane, to);
        next.piece++;
    };
    auto copy_next = [&](int chunk) {
        if (chunk < n_chunks)
            copy_chunk<NT>(a, chunk, xs + chunk % MANY_STAGES * stage);
        asm volatile("cp.async.commit_group;" ::: "memory");
    };

    let_next_start();
    next.pass = pass;
    next.piece = 0;
    open_pass<C, 2>(a, 0, lane, &next);
#pragma unroll
    for (int i = 0; i < DEPTH * per_chunk; i++)
        load_next(&slot[i]);
    if (C::SCALED && a.scale_bytes == 1)
        map[threadIdx.x] = byte_scale(a, threadIdx.x);
    C::template fill_lookup<BF16>(lookup, a.table);
    if (C::SCALED)
        numbers = numbers_of_pass<2>(a, pass, lane);
    typename C::group_t g[2];
    open_groups<C, BF16, 2>(a, g);
    wait_for_launch_before();

    float sum[NT][4] = {};
    int part = 0, part_end = first_chunk(n_chunks, 1);

    for (int i = 0; i < MANY_STAGES - 1; i++)
        copy_next(i);
    for (int first = 0; first < n_chunks; first += DEPTH) {
#pragma unroll
        for (int i = 0; i < DEPTH; i++) {
            const int chunk = first + i;

            if (chunk >= n_chunks)
                break;
            while (chunk == part_end) { /* parts of a short K may be empty */
                add_part<NT>(total, part == 0, sum);
                part_end = first_chunk(n_chunks, ++part + 1);
            }
            asm volatile("cp.async.wait_group %0;" ::"n"(MANY_STAGES - 2) : "memory");
            __syncthreads();
            copy_next(chunk + MANY_STAGES - 1);
            const uint16_t *now = xs + chunk % MANY_STAGES * stage;
#pragma unroll
            for (int k = 0; k < per_chunk; k++) {
                multiply_many<C, BF16, NT>(a, slot[i * per_chunk + k], numbers,
                                           now + k * C::PIECE_COLS, lookup, map, lane, g, sum);
                load_next(&slot[i * per_chunk + k]);
            }
        }
    }
    for (; part < K_PARTS; part++)
        add_part<NT>(total, part == 0, sum);

    __syncthreads(); /* x is no longer needed */
    finish_alone<NT>(a, own_pass, warp, 0, 1, totals, (struct decode_best *)xs);
#endif
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
