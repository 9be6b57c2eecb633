/* linear_decode_few.cuh - the kernel for up to 8 rows of x, where the bytes of W are all that
 * counts.
 *
 * A block takes passes of 16 rows of W one after another, its eight warps an eighth of K each.  W
 * goes from memory into registers, DEPTH pieces ahead of their use, the first ones while the launch
 * in front still runs; a piece is a lane's fragment of two units.  x lies in shared memory, rounded
 * (and normed) once a block.  The warps go their own way: each leaves its sums of a pass in a slot
 * of shared memory, and after n_slots passes, which is all of them but for the head, all threads
 * add the eight sums of every output in order.
 *
 * Bytes of W: once.  Operations a weight: a quarter of a table lookup, two multiplications and a
 * conversion for two weights in 4 bits (a pair of floats comes with a byte of codes), or a
 * permutation of bytes for 2 and 3 bits.  */
#pragma once

#include "linear_decode_job.cuh"

/* Four fragments of x, kept: lanes without a row of x hold zeros. */
struct few_x {
    uint32_t word[4][4];
};

__device__ inline void load_x(struct few_x *x, unsigned at, int j, bool there)
{
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %5, 0;\n"
                 "@p ld.shared.v4.u32 {%0,%1,%2,%3}, [%4]; }"
                 : "+r"(x->word[j][0]), "+r"(x->word[j][1]), "+r"(x->word[j][2]),
                   "+r"(x->word[j][3])
                 : "r"(at), "r"((uint32_t)there));
}

template <class C, bool BF16, bool BYTES>
__device__ inline void multiply_piece(const struct decode_job &a, struct decode_slot<C> &s,
                                      const struct decode_numbers &n, unsigned x_at, bool there,
                                      struct few_x *x, const char *lookup, const float *map,
                                      int lane, float (&sum)[4])
{
    float scale[2], zero[2];
    typename C::group_t g[2];

#pragma unroll
    for (int j = 0; j < piece_cols<C>() / 32; j++)
        load_x(x, x_at + 64 * j, j, there);
    if constexpr (C::BITS != 16)
        decode_numbers_of(a, s, n, BYTES, map, scale, zero);
#pragma unroll
    for (int j = 0; j < piece_cols<C>() / 32; j++) {
        uint32_t w[2][4];

        weights_of<C, BF16>(a, s, j, scale, zero, g, lookup, lane, w);
        mma_16<BF16>(sum, w[0][0], w[1][0], w[0][1], w[1][1], x->word[j][0], x->word[j][1]);
        mma_16<BF16>(sum, w[0][2], w[1][2], w[0][3], w[1][3], x->word[j][2], x->word[j][3]);
    }
}

/* Sums lie in [slot][row of x][part of K][row of the pass]. */
__device__ inline void store_sums(const struct decode_job &a, float *sums, int slot, int warp,
                                  int lane, const float (&sum)[4])
{
    float *to = sums + ((slot * a.n_rows + 2 * (lane % 4)) * K_PARTS + warp) * PASS_ROWS + lane / 4;

    if (2 * (lane % 4) < a.n_rows)
        to[0] = sum[0], to[8] = sum[2];
    if (2 * (lane % 4) + 1 < a.n_rows)
        to[K_PARTS * PASS_ROWS] = sum[1], to[K_PARTS * PASS_ROWS + 8] = sum[3];
}

__device__ inline float sum_of_parts(const float *sums)
{
    float sum = sums[0];

#pragma unroll
    for (int i = 1; i < K_PARTS; i++)
        sum += sums[i * PASS_ROWS];
    return sum;
}

/* Number i of the outputs in the slots: its slot, row of x and row of the pass. */
struct few_output {
    int slot, row, in_pass;
};

__device__ inline struct few_output output_number(const struct decode_job &a, int i)
{
    const int in_pass = a.pair ? UNIT_ROWS : PASS_ROWS, item = i / in_pass;

    return { item / a.n_rows, item % a.n_rows, i % in_pass };
}

/* Outputs of n slots whose first pass is `first`.  held: the residual of output threadIdx.x of the
 * first slots.  bests: [half warp][row of x], of the half warp that sees it. */
__device__ inline void finish_slots(const struct decode_job &a, const float *sums, int first, int n,
                                    float held, bool held_here, struct decode_best *bests)
{
    const int n_outputs = n * a.n_rows * (a.pair ? UNIT_ROWS : PASS_ROWS);

    for (int i = threadIdx.x; i < (n_outputs + 31) / 32 * 32; i += DECODE_THREADS) {
        const struct few_output o = output_number(a, i);
        const float *own = sums + (o.slot * a.n_rows + o.row) * (K_PARTS * PASS_ROWS) + o.in_pass;
        const int pass = first + o.slot * gridDim.x;
        int part, col;
        bool there = i < n_outputs && row_of_pass(a, pass, o.in_pass, &part, &col);

        if (a.epilogue == DECODE_ARGMAX) {
            const int half_warp = threadIdx.x / 16;
            struct decode_best best = { 0.0f, DECODE_NONE };

            if (there) {
                float v = biased(a, a.part[0], col, sum_of_parts(own));
                best = with_logit(a, v, col, bests[half_warp * a.n_rows + o.row]);
            }
#pragma unroll
            for (int half = 8; half; half /= 2) {
                struct decode_best other = { __shfl_xor_sync(0xFFFFFFFFu, best.value, half),
                                             __shfl_xor_sync(0xFFFFFFFFu, best.id, half) };
                best = better_of(best, other);
            }
            if (there && threadIdx.x % 16 == 0)
                bests[half_warp * a.n_rows + o.row] = best;
            __syncwarp();
            continue;
        }
        if (!there)
            continue;
        const struct decode_part &p = a.part[part];
        if (a.pair) {
            float gate = biased(a, p, col, sum_of_parts(own));
            float up = biased(a, a.part[1], col, sum_of_parts(own + UNIT_ROWS));
            store_value(a.model, p.y, element_at(p, o.row, col), swiglu_value(a.model, gate, up));
            continue;
        }
        if (a.epilogue == DECODE_ADD && !(held_here && i == threadIdx.x))
            held = load_value(a.model, a.residual, element_at(p, o.row, col));
        store_output(a, p, o.row, col, sum_of_parts(own), held);
    }
}

/* Output threadIdx.x of the first slots: what the residual holds there. */
__device__ inline float held_residual(const struct decode_job &a)
{
    const struct few_output o = output_number(a, threadIdx.x);
    const int pass = blockIdx.x + o.slot * gridDim.x;
    int part, col;

    if (a.epilogue != DECODE_ADD || pass >= a.n_passes ||
        !row_of_pass(a, pass, o.in_pass, &part, &col))
        return 0.0f;
    return load_value(a.model, a.residual, element_at(a.part[part], o.row, col));
}

/* The oldest slot, number n, becomes the first. */
template <class C, int DEPTH> __device__ inline void turn_slots(struct decode_slot<C> *slot, int n)
{
#pragma unroll 1
    for (; n > 0; n--) {
        struct decode_slot<C> first = slot[0];

#pragma unroll
        for (int i = 0; i + 1 < DEPTH; i++)
            slot[i] = slot[i + 1];
        slot[DEPTH - 1] = first;
    }
}

template <class C, bool BF16, bool BYTES, int DEPTH>
__global__ static void __launch_bounds__(DECODE_THREADS, 2)
    decode_few(const __grid_constant__ struct decode_job a)
{
    extern __shared__ __align__(128) char room[];
    constexpr int per_chunk = CHUNK_COLS / piece_cols<C>();
    char *lookup = room;
    float *map = (float *)(lookup + C::N_LOOKUP);
    struct decode_best *bests = (struct decode_best *)(map + 256);
    float *sums = (float *)(bests + 16 * 8);
    uint16_t *xs = (uint16_t *)(sums + a.n_slots * a.n_rows * (K_PARTS * PASS_ROWS));
    const int lane = threadIdx.x % 32, warp = warp_of_block(), n_chunks = a.n_in / CHUNK_COLS;
    const int begin = first_chunk(n_chunks, warp) * per_chunk;
    const int n_pieces = first_chunk(n_chunks, warp + 1) * per_chunk - begin;
    const int n_passes = (a.n_passes - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x;
    struct decode_cursor next = { (int)blockIdx.x, 0, { NULL, NULL }, NULL, NULL, NULL, 0 };
    int n_to_load = n_passes * n_pieces;
    struct decode_slot<C> slot[DEPTH];

    auto load_next = [&](struct decode_slot<C> *to) {
        if (n_to_load == 0)
            return;
        n_to_load--;
        load_piece<C>(a, next, (begin + next.piece) / per_chunk, lane, BYTES, to);
        if (++next.piece < n_pieces || !n_to_load)
            return;
        if (a.even) {
            skip_passes<C>(a, gridDim.x, &next);
            return;
        }
        next.pass += gridDim.x;
        next.piece = 0;
        open_pass<C>(a, begin, lane, &next);
    };

    let_next_start();
    if (n_to_load)
        open_pass<C>(a, begin, lane, &next);
#pragma unroll
    for (int i = 0; i < DEPTH; i++)
        load_next(&slot[i]);
    prefetch_ahead(a);
    if (BYTES)
        map[threadIdx.x] = byte_scale(a, threadIdx.x);
    C::fill_lookup(lookup, a.table);
    if (threadIdx.x < 16 * 8)
        bests[threadIdx.x] = { 0.0f, DECODE_NONE };
    if ((a.model == DTYPE_BF16) == BF16)
        stage_x<BF16, BF16>(a, xs, sums);
    else
        stage_x<!BF16, BF16>(a, xs, sums);
    const float held = held_residual(a);

    const bool there = lane / 4 < a.n_rows;
    const unsigned x_first = (unsigned)__cvta_generic_to_shared(
        xs + (there ? lane / 4 * (a.n_in + X_PAD) : 0) + begin * piece_cols<C>() + 8 * (lane % 4));
    struct few_x x = {};

    for (int done = 0; done < n_passes; done += a.n_slots) {
        const int n_here = n_passes - done < a.n_slots ? n_passes - done : a.n_slots;
        const int first = blockIdx.x + done * gridDim.x;
        int piece = 0, at = 0, n_left = n_here * n_pieces;
        struct decode_numbers numbers;
        float sum[4] = {};

        auto start_pass = [&] { numbers = numbers_of_pass(a, first + at * (int)gridDim.x, lane); };

        for (; n_pieces == 0 && at < n_here; at++)
            store_sums(a, sums, at, warp, lane, sum);
        if (n_left && C::BITS != 16)
            start_pass();
        while (n_left > 0) {
#pragma unroll
            for (int i = 0; i < DEPTH; i++) {
                if (n_left == 0) {
                    turn_slots<C, DEPTH>(slot, i);
                    break;
                }
                multiply_piece<C, BF16, BYTES>(a, slot[i], numbers,
                                               x_first + 2 * piece * piece_cols<C>(), there, &x,
                                               lookup, map, lane, sum);
                load_next(&slot[i]);
                n_left--;
                if (++piece == n_pieces) {
                    store_sums(a, sums, at, warp, lane, sum);
                    piece = 0;
                    at++;
                    sum[0] = sum[1] = sum[2] = sum[3] = 0;
                    if (n_left && C::BITS != 16 && !a.even)
                        start_pass();
                }
            }
        }
        __syncthreads();
        finish_slots(a, sums, first, n_here, held, done == 0, bests);
        if (done + a.n_slots < n_passes)
            __syncthreads();
    }
    if (a.epilogue == DECODE_ARGMAX) {
        __syncthreads();
        if (threadIdx.x < a.n_rows) {
            struct decode_best best = bests[threadIdx.x];

            for (int i = 1; i < 16; i++)
                best = better_of(best, bests[i * a.n_rows + threadIdx.x]);
            a.best[(int64_t)blockIdx.x * a.n_rows + threadIdx.x] = best;
        }
    }
}

template <class C, bool BYTES, int DEPTH> static const void *few_kernel(bool bf16)
{
    return bf16 ? (const void *)decode_few<C, true, BYTES, DEPTH>
                : (const void *)decode_few<C, false, BYTES, DEPTH>;
}
