/* linear_decode_few.cuh - the kernel for up to 8 rows of x and weights of 16 bits, where the bytes
 * of W are all that counts; and what it has in common with those for codes.
 *
 * A block takes passes of 16 (or 8) rows of W one after another, its eight warps an eighth of K
 * each. W goes from memory into registers, DEPTH pieces ahead of their use; the first loads happen
 * while the launch in front still runs.  x lies in shared memory, rounded (and normed) once a
 * block.  The warps go their own way: each leaves its sums of a pass in a slot of shared memory,
 * and after n_slots passes, which is all of them but for the head, all threads add the eight sums
 * of every output in order.
 *
 * Bytes of W: once.  */
#pragma once

#include "linear_decode_job.cuh"

__device__ inline void load_x(uint32_t (&x)[4], unsigned at, bool there)
{
    asm volatile("{ .reg .pred p; setp.ne.u32 p, %5, 0;\n"
                 "@p ld.shared.v4.u32 {%0,%1,%2,%3}, [%4]; }"
                 : "+r"(x[0]), "+r"(x[1]), "+r"(x[2]), "+r"(x[3])
                 : "r"(at), "r"((uint32_t)there));
}

/* Fragments of x for one piece, kept: lanes without a row of x hold zeros. */
template <int N> struct few_x {
    uint32_t word[N][4];

    __device__ void load(unsigned at, bool there)
    {
#pragma unroll
        for (int j = 0; j < N; j++)
            load_x(word[j], at + 64 * j, there);
    }
};

/* Where a lane's row of x begins in shared memory. */
__device__ inline unsigned few_x_at(const struct decode_job &a, const uint16_t *xs, int lane)
{
    const int row = lane / 4 < a.n_rows ? lane / 4 : 0;

    return (unsigned)__cvta_generic_to_shared(xs + row * (a.n_in + X_PAD) + 8 * (lane % 4));
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

/* What the others have in place of the outputs in the slots; o as it is given to finish_slots(). */
template <int SIDES>
__device__ inline void receive_slots(const struct decode_shared_job &a, uint32_t n_steps, int first,
                                     int n_slots, bool first_time, struct few_output o)
{
#pragma unroll 1
    for (int i = threadIdx.x; i < n_outputs<SIDES>(a, n_slots); i += DECODE_THREADS) {
        if (!first_time || i >= DECODE_THREADS)
            o = output_number<SIDES>(a, i, first, n_slots);
        if (o.there)
            receive_from_members<1>(a.share, n_steps, o.row, o.col, 0, 0);
    }
}

/* The outputs in the slots.  own, held: of output threadIdx.x of the first slots. */
template <int SIDES, class Job>
__device__ inline void finish_slots(const Job &a, uint32_t n_steps, const float *sums, int first,
                                    int n_slots, bool first_time, const struct few_output &own,
                                    float held)
{
    struct few_output o = own;

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
            store_output(a, n_steps, p, o.row, o.col, sum, held);
            continue;
        }
        float gate = biased(a, p, o.col, sum);
        float up = biased(a, a.part[1], o.col, sum_of_parts<SIDES>(sums + o.sums + UNIT_ROWS));
        store_swiglu(a, n_steps, p, o.row, o.col, swiglu_value(a.model, gate, up));
    }
    if constexpr (Job::SHARED)
        if (a.epilogue != DECODE_STORE)
            receive_slots<SIDES>(a, n_steps, first, n_slots, first_time, own);
}

/* A piece of one or two units on its way. */
template <class C, int SIDES> struct few_slot {
    C codes[SIDES];
};

/* The oldest slot, number n, becomes the first. */
template <class C, int SIDES, int DEPTH>
__device__ inline void turn_slots(struct few_slot<C, SIDES> *slot, int n)
{
#pragma unroll 1
    for (; n > 0; n--) {
        struct few_slot<C, SIDES> first = slot[0];

#pragma unroll
        for (int i = 0; i + 1 < DEPTH; i++)
            slot[i] = slot[i + 1];
        slot[DEPTH - 1] = first;
    }
}

/* The pieces a warp has to load, one after another. */
template <class C, int SIDES> struct few_loads {
    const uint8_t *next[SIDES];
    int64_t skip; /* bytes from the end of a pass to the next one, where they are evenly apart */
    int pass, piece, begin, n_pieces, n_left, lane;

    __device__ few_loads(const struct decode_job &a, int first_piece, int n, int n_passes, int l)
        : pass(blockIdx.x), piece(0), begin(first_piece), n_pieces(n), n_left(n * n_passes), lane(l)
    {
        skip = (a.pair ? 1 : SIDES) * (int)gridDim.x * a.unit_bytes - n * piece_bytes<C>();
        if (n_left)
            open(a);
    }
    __device__ void open(const struct decode_job &a)
    {
#pragma unroll
        for (int r = 0; r < SIDES; r++) {
            int part, unit;

            unit_of_pass<SIDES>(a, pass, r, &part, &unit);
            next[r] = a.part[part].codes + unit * a.unit_bytes + (int64_t)begin * piece_bytes<C>();
            if (!C::SCALED)
                next[r] += lane / 4 * (a.unit_bytes / UNIT_ROWS) + 16 * (lane % 4);
        }
    }
    __device__ void load(const struct decode_job &a, struct few_slot<C, SIDES> *to)
    {
        if (n_left == 0)
            return;
        n_left--;
#pragma unroll
        for (int r = 0; r < SIDES; r++) {
            if constexpr (C::SCALED)
                to->codes[r].load(next[r], lane);
            else
                to->codes[r].load(next[r]);
            next[r] += piece_bytes<C>();
        }
        if (++piece < n_pieces || n_left == 0)
            return;
        piece = 0;
        pass += gridDim.x;
        if (!a.even) {
            open(a);
            return;
        }
#pragma unroll
        for (int r = 0; r < SIDES; r++)
            next[r] += skip;
    }
};

/* SIDES: units of a pass; DEPTH: pieces on their way. */
template <bool BF16, int SIDES, int DEPTH, class Job>
__global__ static void __launch_bounds__(DECODE_THREADS, 2)
    decode_few(const __grid_constant__ Job a)
{
    extern __shared__ __align__(128) char room[];
    constexpr int steps = codes_16::PIECE_COLS / 32;
    struct decode_best *bests = (struct decode_best *)room;
    float *sums = (float *)(bests + DECODE_THREADS / 16 * 8);
    uint16_t *xs = (uint16_t *)(sums + a.n_slots * a.n_rows * (K_PARTS * SIDES * UNIT_ROWS));
    const int lane = threadIdx.x % 32, warp = warp_of_block(), n_chunks = a.n_in / CHUNK_COLS;
    const int begin = first_chunk(n_chunks, warp) * (CHUNK_COLS / codes_16::PIECE_COLS);
    const int n_pieces =
        first_chunk(n_chunks, warp + 1) * (CHUNK_COLS / codes_16::PIECE_COLS) - begin;
    const int n_passes = (a.n_passes - (int)blockIdx.x + (int)gridDim.x - 1) / (int)gridDim.x;
    const int first_slots = n_passes < a.n_slots ? n_passes : a.n_slots;
    struct few_slot<codes_16, SIDES> slot[DEPTH];

    let_next_start();
    struct few_loads<codes_16, SIDES> loads(a, begin, n_pieces, n_passes, lane);
#pragma unroll
    for (int i = 0; i < DEPTH; i++)
        loads.load(a, &slot[i]);
    if (!Job::SHARED && a.epilogue == DECODE_ARGMAX && threadIdx.x < DECODE_THREADS / 16 * 8)
        bests[threadIdx.x] = { 0.0f, DECODE_NONE };
    const uint4 first_weights = norm_weights(a, threadIdx.x);
    const struct few_output own = output_number<SIDES>(a, threadIdx.x, blockIdx.x, first_slots);

    wait_for_launch_before();
    const float held = held_at(a, own);
    const uint32_t n_steps = steps_before_launch(a);
    stage_x<BF16, 1>(a, xs, sums, first_weights, [] {});

    const bool there = lane / 4 < a.n_rows;
    const unsigned x_first = few_x_at(a, xs, lane) + 2 * begin * codes_16::PIECE_COLS;
    struct few_x<steps> x = {
    };
    float sum[4] = {};

    for (int done = 0; done < n_passes; done += a.n_slots) {
        const int n_here = n_passes - done < a.n_slots ? n_passes - done : a.n_slots;
        int piece = 0, at = 0, n_left = n_here * n_pieces;

        for (; n_pieces == 0 && at < n_here; at++)
            store_sums<SIDES>(a, sums, at, warp, lane, sum);
        while (n_left > 0) {
#pragma unroll
            for (int i = 0; i < DEPTH; i++) {
                if (n_left == 0) {
                    turn_slots<codes_16, SIDES, DEPTH>(slot, i);
                    break;
                }
                x.load(x_first + 2 * piece * codes_16::PIECE_COLS, there);
#pragma unroll
                for (int j = 0; j < steps; j++) {
                    uint32_t w[SIDES][4];

#pragma unroll
                    for (int r = 0; r < SIDES; r++)
                        slot[i].codes[r].template pairs<BF16>(j, {}, NULL, lane, w[r]);
                    multiply_32<BF16, SIDES>(sum, w, x.word[j]);
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
        if (!Job::SHARED && a.epilogue == DECODE_ARGMAX)
            finish_logits(a, sums, blockIdx.x + done * gridDim.x, n_here, bests);
        else
            finish_slots<SIDES>(a, n_steps, sums, blockIdx.x + done * gridDim.x, n_here, done == 0,
                                own, held);
        __syncthreads();
    }
    if (!Job::SHARED && a.epilogue == DECODE_ARGMAX)
        store_bests(a, bests);
}
