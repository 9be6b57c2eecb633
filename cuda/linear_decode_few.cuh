/* linear_decode_few.cuh - the kernel for up to 8 rows of x, where the bytes of W are all that
 * counts.
 *
 * A block takes passes of 16 (or 8) rows of W one after another, its eight warps an eighth of K
 * each. W goes from memory into registers, DEPTH pieces ahead of their use.  The first loads, and
 * decoding the first EARLY pieces, happen while the launch in front still runs: a short product
 * then has all its weights as fragments in registers when its x comes.  x lies in shared memory,
 * rounded (and normed) once a block.  The warps go their own way: each leaves its sums of a pass in
 * a slot of shared memory, and after n_slots passes, which is all of them but for the head, all
 * threads add the eight sums of every output in order.
 *
 * Bytes of W: once.  Operations for two weights: one table lookup of 8 bytes by a byte of codes,
 * two multiplications and a conversion in 4 bits; in 2 and 3 bits permutations of bytes, which pick
 * from the finished values of a group.  */
#pragma once

#include "linear_decode_job.cuh"

/* Fragments of x for one piece, kept: lanes without a row of x hold zeros. */
template <int N> struct few_x {
    uint32_t word[N][4];
};

__device__ inline void load_x(uint32_t (&x)[4], unsigned at, bool there)
{
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %5, 0;\n"
                 "@p ld.shared.v4.u32 {%0,%1,%2,%3}, [%4]; }"
                 : "+r"(x[0]), "+r"(x[1]), "+r"(x[2]), "+r"(x[3])
                 : "r"(at), "r"((uint32_t)there));
}

/* Sums lie in [slot][row of x][part of K][row of the pass]. */
template <int SIDES, typename V>
__device__ inline void store_sums(const struct decode_job &a, V *sums, int slot, int warp, int lane,
                                  const V (&sum)[4])
{
    constexpr int pass_rows = SIDES * UNIT_ROWS, row_sums = K_PARTS * pass_rows;
    const int row = 2 * (lane % 4);
    V *to = sums + (slot * a.n_rows + row) * row_sums + warp * pass_rows + lane / 4;

    if (row < a.n_rows) {
        to[0] = sum[0];
        if (SIDES == 2)
            to[UNIT_ROWS] = sum[2];
    }
    if (row + 1 < a.n_rows) {
        to[row_sums] = sum[1];
        if (SIDES == 2)
            to[row_sums + UNIT_ROWS] = sum[3];
    }
}

template <int SIDES, typename V> __device__ inline V sum_of_parts(const V *sums)
{
    V sum = sums[0];

#pragma unroll
    for (int i = 1; i < K_PARTS; i++)
        sum += sums[i * SIDES * UNIT_ROWS];
    return sum;
}

/* Output i of the slots, whose first pass is `first`. */
struct few_output {
    bool there;
    int row, part, col;
    int sums; /* where its first sum lies */
};

template <int SIDES>
__device__ inline struct few_output output_number(const struct decode_job &a, int i, int first,
                                                  int n_slots)
{
    const int log = a.pair || SIDES == 1 ? 3 : 4, item = i >> log, in_pass = i & ((1 << log) - 1);
    const int slot = (item * a.row_inverse) >> 16;
    struct few_output o;

    o.row = item - slot * a.n_rows;
    o.sums = item * (K_PARTS * SIDES * UNIT_ROWS) + in_pass;
    o.there = slot < n_slots &&
              row_of_pass<SIDES>(a, first + slot * (int)gridDim.x, in_pass, &o.part, &o.col);
    return o;
}

template <int SIDES> __device__ inline int n_outputs(const struct decode_job &a, int n_slots)
{
    return n_slots * a.n_rows * (a.pair ? UNIT_ROWS : SIDES * UNIT_ROWS);
}

/* What the residual holds there. */
__device__ inline float held_at(const struct decode_job &a, const struct few_output &o)
{
    if (a.epilogue != DECODE_ADD || !o.there)
        return 0.0f;
    return load_value(a.model, a.residual, element_at(a.part[o.part], o.row, o.col));
}

/* The logits in the slots; bests: [half warp][row of x], of the half warp that sees it. */
__device__ inline void finish_logits(const struct decode_job &a, const float *sums, int first,
                                     int n_slots, struct decode_best *bests)
{
    struct decode_best *own = bests + threadIdx.x / 16 * a.n_rows;

    for (int i = threadIdx.x; i < (n_outputs<2>(a, n_slots) + 31) / 32 * 32; i += DECODE_THREADS) {
        const struct few_output o = output_number<2>(a, i, first, n_slots);
        struct decode_best best = { 0.0f, DECODE_NONE };

        if (o.there)
            best = with_logit(a, biased(a, a.part[0], o.col, sum_of_parts<2>(sums + o.sums)), o.col,
                              own[o.row]);
#pragma unroll
        for (int half = 8; half; half /= 2) {
            struct decode_best other = { __shfl_xor_sync(0xFFFFFFFFu, best.value, half),
                                         __shfl_xor_sync(0xFFFFFFFFu, best.id, half) };
            best = better_of(best, other);
        }
        if (o.there && threadIdx.x % 16 == 0)
            own[o.row] = best;
        __syncwarp();
    }
}

/* The block's best of every row. */
__device__ inline void store_bests(const struct decode_job &a, const struct decode_best *bests)
{
    __syncthreads();
    if (threadIdx.x < a.n_rows) {
        struct decode_best best = bests[threadIdx.x];

        for (int i = 1; i < DECODE_THREADS / 16; i++)
            best = better_of(best, bests[i * a.n_rows + threadIdx.x]);
        a.best[(int64_t)blockIdx.x * a.n_rows + threadIdx.x] = best;
    }
}

/* The outputs in the slots.  o, held: of output threadIdx.x of the first slots. */
template <int SIDES>
__device__ inline void finish_slots(const struct decode_job &a, const float *sums, int first,
                                    int n_slots, bool first_time, struct few_output o, float held)
{
    for (int i = threadIdx.x; i < n_outputs<SIDES>(a, n_slots); i += DECODE_THREADS) {
        if (!first_time || i >= DECODE_THREADS) {
            o = output_number<SIDES>(a, i, first, n_slots);
            held = held_at(a, o);
        }
        if (!o.there)
            continue;
        const struct decode_part &p = a.part[o.part];
        float sum = sum_of_parts<SIDES>(sums + o.sums);
        if (!a.pair) {
            store_output(a, p, o.row, o.col, sum, held);
            continue;
        }
        float gate = biased(a, p, o.col, sum);
        float up = biased(a, a.part[1], o.col, sum_of_parts<SIDES>(sums + o.sums + UNIT_ROWS));
        store_value(a.model, p.y, swiglu_at(a, p, o.row, o.col), swiglu_value(a.model, gate, up));
    }
}

/* The oldest slot, number n, becomes the first. */
template <class C, int SIDES, int DEPTH>
__device__ inline void turn_slots(struct decode_slot<C, SIDES> *slot, int n)
{
#pragma unroll 1
    for (; n > 0; n--) {
        struct decode_slot<C, SIDES> first = slot[0];

#pragma unroll
        for (int i = 0; i + 1 < DEPTH; i++)
            slot[i] = slot[i + 1];
        slot[DEPTH - 1] = first;
    }
}

/* The pieces a warp has to load, one after another. */
template <class C, int SIDES> struct few_loads {
    struct decode_cursor<SIDES> next;
    int begin, n_pieces, n_left, lane;

    __device__ few_loads(const struct decode_job &a, int first_piece, int n, int n_passes, int l)
        : begin(first_piece), n_pieces(n), n_left(n * n_passes), lane(l)
    {
        next.pass = blockIdx.x;
        next.piece = 0;
        if (n_left)
            open_pass<C, SIDES>(a, begin, lane, &next);
    }
    __device__ void load(const struct decode_job &a, struct decode_slot<C, SIDES> *to)
    {
        if (n_left == 0)
            return;
        n_left--;
        load_piece<C, SIDES>(a, next, (begin + next.piece) * C::PIECE_COLS / CHUNK_COLS, lane, to);
        if (++next.piece < n_pieces || n_left == 0)
            return;
        if (a.even) {
            skip_passes<C, SIDES>(a, gridDim.x, &next);
            return;
        }
        next.pass += gridDim.x;
        next.piece = 0;
        open_pass<C, SIDES>(a, begin, lane, &next);
    }
};

/* SIDES: units of a pass; EARLY: pieces decoded before x is there; DEPTH: pieces on their way. */
template <class C, bool BF16, int SIDES, int EARLY, int DEPTH>
__global__ static void __launch_bounds__(DECODE_THREADS, 2)
    decode_few(const __grid_constant__ struct decode_job a)
{
    extern __shared__ __align__(128) char room[];
    constexpr int steps = C::PIECE_COLS / 32;
    char *lookup = room;
    float *map = (float *)(lookup + C::N_LOOKUP);
    struct decode_best *bests = (struct decode_best *)(map + 256);
    float *sums = (float *)(bests + DECODE_THREADS / 16 * 8);
    uint16_t *xs = (uint16_t *)(sums + a.n_slots * a.n_rows * (K_PARTS * SIDES * UNIT_ROWS));
    const int lane = threadIdx.x % 32, warp = warp_of_block(), n_chunks = a.n_in / CHUNK_COLS;
    const int begin = first_chunk(n_chunks, warp) * (CHUNK_COLS / C::PIECE_COLS);
    const int n_pieces = first_chunk(n_chunks, warp + 1) * (CHUNK_COLS / C::PIECE_COLS) - begin;
    const int n_passes = (a.n_passes - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x;
    const int first_slots = n_passes < a.n_slots ? n_passes : a.n_slots;
    const int n_early = EARLY < first_slots * n_pieces ? EARLY : first_slots * n_pieces;
    struct decode_slot<C, SIDES> slot[DEPTH], early[EARLY ? EARLY : 1];
    uint32_t ready[EARLY ? EARLY : 1][steps][SIDES][4];
    struct decode_numbers numbers;

    let_next_start();
    struct few_loads<C, SIDES> loads(a, begin, n_pieces, n_passes, lane);
#pragma unroll
    for (int i = 0; i < EARLY; i++)
        if (i < n_early)
            loads.load(a, &early[i]);
#pragma unroll
    for (int i = 0; i < DEPTH; i++)
        loads.load(a, &slot[i]);
    if (C::SCALED && a.scale_bytes == 1)
        map[threadIdx.x] = byte_scale(a, threadIdx.x);
    C::fill_lookup(lookup, a.table);
    if (a.epilogue == DECODE_ARGMAX && threadIdx.x < DECODE_THREADS / 16 * 8)
        bests[threadIdx.x] = { 0.0f, DECODE_NONE };
    const uint4 first_weights = norm_weights(a, threadIdx.x);
    const struct few_output own = output_number<SIDES>(a, threadIdx.x, blockIdx.x, first_slots);
    if (EARLY) {
        __syncthreads();
#pragma unroll
        for (int i = 0; i < EARLY; i++)
            if (i < n_early) {
                if (i == 0 || !a.even)
                    numbers =
                        numbers_of_pass<SIDES>(a, blockIdx.x + i / n_pieces * (int)gridDim.x, lane);
                const struct lane_numbers<C, SIDES> n(a, early[i], numbers, map);
                typename C::group_t g[SIDES];
#pragma unroll
                for (int j = 0; j < steps; j++)
                    weights_of<C, BF16, SIDES>(a, early[i], j, n, g, lookup, lane, ready[i][j]);
            }
    }

    wait_for_launch_before();
    const float held = held_at(a, own);
    stage_x<BF16>(a, xs, sums, first_weights);

    const bool there = lane / 4 < a.n_rows;
    const unsigned x_first = (unsigned)__cvta_generic_to_shared(
        xs + (there ? lane / 4 * (a.n_in + X_PAD) : 0) + begin * C::PIECE_COLS + 8 * (lane % 4));
    struct few_x<steps> x = {
    };
    int done = 0, n_here = first_slots;
    int piece = 0, at = 0, n_left = n_here * n_pieces;
    float sum[4] = {};

    auto fetch_x = [&] {
#pragma unroll
        for (int j = 0; j < steps; j++)
            load_x(x.word[j], x_first + 2 * piece * C::PIECE_COLS + 64 * j, there);
    };
    auto end_piece = [&] {
        n_left--;
        if (++piece < n_pieces)
            return;
        store_sums<SIDES>(a, sums, at, warp, lane, sum);
        piece = 0;
        at++;
        sum[0] = sum[1] = sum[2] = sum[3] = 0;
        if (C::SCALED && n_left && !a.even)
            numbers = numbers_of_pass<SIDES>(a, blockIdx.x + (done + at) * (int)gridDim.x, lane);
    };

    if (C::SCALED && n_left)
        numbers = numbers_of_pass<SIDES>(a, blockIdx.x, lane);
#pragma unroll
    for (int i = 0; i < EARLY; i++)
        if (i < n_early) {
            fetch_x();
#pragma unroll
            for (int j = 0; j < steps; j++)
                multiply_32<BF16, SIDES>(sum, ready[i][j], x.word[j][0], x.word[j][1], x.word[j][2],
                                         x.word[j][3]);
            end_piece();
        }
    for (;;) {
        for (; n_pieces == 0 && at < n_here; at++)
            store_sums<SIDES>(a, sums, at, warp, lane, sum);
        while (n_left > 0) {
#pragma unroll
            for (int i = 0; i < DEPTH; i++) {
                if (n_left == 0) {
                    turn_slots<C, SIDES, DEPTH>(slot, i);
                    break;
                }
                fetch_x();
                const struct lane_numbers<C, SIDES> n(a, slot[i], numbers, map);
                typename C::group_t g[SIDES];
#pragma unroll
                for (int j = 0; j < steps; j++) {
                    uint32_t w[SIDES][4];
                    weights_of<C, BF16, SIDES>(a, slot[i], j, n, g, lookup, lane, w);
                    multiply_32<BF16, SIDES>(sum, w, x.word[j][0], x.word[j][1], x.word[j][2],
                                             x.word[j][3]);
                }
                loads.load(a, &slot[i]);
                end_piece();
            }
        }
        __syncthreads();
        if (a.epilogue == DECODE_ARGMAX)
            finish_logits(a, sums, blockIdx.x + done * gridDim.x, n_here, bests);
        else
            finish_slots<SIDES>(a, sums, blockIdx.x + done * gridDim.x, n_here, done == 0, own,
                                held);
        done += n_here;
        if (done == n_passes)
            break;
        __syncthreads();
        n_here = n_passes - done < a.n_slots ? n_passes - done : a.n_slots;
        at = 0;
        n_left = n_here * n_pieces;
        if (C::SCALED && n_left && !a.even)
            numbers = numbers_of_pass<SIDES>(a, blockIdx.x + done * (int)gridDim.x, lane);
    }
    if (a.epilogue == DECODE_ARGMAX)
        store_bests(a, bests);
}

/* A piece of one unit is half the registers of one of two. */
template <class C, int EARLY, int DEPTH> static const void *long_kernel(bool bf16)
{
    return bf16 ? (const void *)decode_few<C, true, 1, EARLY, DEPTH>
                : (const void *)decode_few<C, false, 1, EARLY, DEPTH>;
}

template <class C, int EARLY, int DEPTH> static const void *few_kernel(bool bf16)
{
    return bf16 ? (const void *)decode_few<C, true, 2, EARLY, DEPTH>
                : (const void *)decode_few<C, false, 2, EARLY, DEPTH>;
}

/* Codes that are decoded: pieces of all widths are about as many registers. */
template <class C> static const void *few_coded(enum decode_kind kind, bool bf16)
{
    constexpr int depth = C::BITS <= 4 ? 3 : 2;

    if (kind == DECODE_FEW_LONG)
        return long_kernel<C, 2, 2>(bf16);
    if (kind == DECODE_FEW_SHORT)
        return few_kernel<C, 2, 1>(bf16);
    return few_kernel<C, 0, depth>(bf16);
}
