/* linear_decode_head_wide.cuh - the head of 16 bits and the best id, for 9 to 64 rows of x on
 * Hopper: sums, logits and ids of linear_decode_wide.cuh, to the bit.
 *
 * A block has a multiprocessor for itself and an even share of the passes, sixteen at a time, one a
 * warp.  As in linear_decode_head.cuh W goes through rings that no register waits for, and what is
 * asked for next is on its way while logits are compared; these stay in registers.  x comes chunk
 * after chunk, anew for every sixteen passes.
 *
 * Bytes: W once; x once for each 256 rows of W, from L2 (64 rows of 2048: 0.25 of W's bytes).
 * Operations: two for each weight and row of x; a warp's instructions are about 130 for 128 columns
 * and 500 for a pass. */
#pragma once

#include "linear_decode_head.cuh"
#include "linear_decode_wide.cuh"

/* ---- W ---- */

/* The pieces of a warp's passes, of 64 columns of 16 rows each. */
template <int PLACES> struct wide_head_ring {
    const uint8_t *next; /* the lane's, in the first unit */
    int64_t unit;
    int piece, n_pieces, n_left;
    uint32_t place, begin;

    __device__ wide_head_ring(const struct decode_job &a, char *rings, int first_pass, int n_passes,
                              int warp, int lane)
        : unit(a.unit_bytes), piece(0), n_pieces(a.n_in / 64), n_left(n_pieces * n_passes)
    {
        next = a.part[0].codes + 2 * (int64_t)first_pass * unit + lane / 4 * (unit / UNIT_ROWS) +
               16 * (lane % 4);
        place = begin = (uint32_t)__cvta_generic_to_shared(rings) +
                        (uint32_t)(warp * PLACES * HEAD_PIECE + 16 * lane);
    }
    /* The next piece into the oldest place; an empty group where none is left. */
    __device__ void fetch(void)
    {
        if (n_left) {
            n_left--;
            head_ring::copy(place, next);
            head_ring::copy(place + 512, next + 64);
            head_ring::copy(place + 1024, next + unit);
            head_ring::copy(place + 1536, next + unit + 64);
            next += 128;
            if (++piece == n_pieces) {
                piece = 0;
                next += 2 * WIDE_HEAD_WARPS * unit - 128 * n_pieces;
            }
        }
        asm volatile("cp.async.commit_group;" ::: "memory");
        place += HEAD_PIECE;
        if (place == begin + PLACES * HEAD_PIECE)
            place = begin;
    }
    /* The oldest piece: [k = 32][unit]; the next one is asked for. */
    __device__ void take(uint32_t (&w)[2][2][4])
    {
        asm volatile("cp.async.wait_group %0;" ::"n"(PLACES - 1) : "memory");
#pragma unroll
        for (int j = 0; j < 2; j++)
#pragma unroll
            for (int r = 0; r < 2; r++)
                head_ring::read(place + 1024 * r + 512 * j, w[j][r]);
        fetch();
    }
};

/* ---- x ---- */

struct wide_head_x {
    uint32_t barriers, xs; /* a stage has two barriers: x is there; every warp has read it */
    int stage;
    uint32_t parity;

    __device__ uint32_t there(void) const
    {
        return barriers + 16 * stage;
    }
    __device__ uint32_t read(void) const
    {
        return barriers + 16 * stage + 8;
    }
    __device__ void next(void)
    {
        if (++stage == WIDE_STAGES) {
            stage = 0;
            parity ^= 1;
        }
    }
};

/* Chunks that the thread which asks for them has still to ask for. */
struct wide_head_asks {
    struct wide_head_x x;
    int chunk, n_left;

    /* Into the stage that was read two chunks ago: nobody is waited for in earnest. */
    template <int NT> __device__ inline void next(const struct decode_job &a)
    {
        if (n_left == 0)
            return;
        n_left--;
        barrier_wait(x.read(), x.parity ^ 1);
        barrier_expect(x.there(), wide_chunk<NT>());
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                     "[%0], [%1], %2, [%3];" ::"r"(x.xs + x.stage * wide_chunk<NT>()),
                     "l"((const char *)a.x + (int64_t)chunk * wide_chunk<NT>()),
                     "r"(wide_chunk<NT>()), "r"(x.there())
                     : "memory");
        x.next();
        if (++chunk == a.n_in / CHUNK_COLS)
            chunk = 0;
    }
};

/* ---- logits ---- */

/* A logit of a row of W: with_logit() without what was before. */
__device__ inline struct decode_best best_of_one(float v, int32_t id, bool forbidden)
{
    return { v, v != v ? DECODE_NAN : forbidden ? DECODE_NONE : id };
}

__device__ inline bool is_forbidden(const struct decode_job &a, int32_t id)
{
    bool found = false;

    for (int i = 0; i < a.n_forbidden; i++)
        found |= a.forbidden[i] == id;
    return found;
}

__device__ inline struct decode_best best_of_lane(struct decode_best b, int mask)
{
    return { __shfl_xor_sync(0xFFFFFFFFu, b.value, mask),
             __shfl_xor_sync(0xFFFFFFFFu, b.id, mask) };
}

/* Of N bests the lane keeps the half that bit `mask` of its number says, better than its partner's.
 */
template <int N> __device__ inline void keep_half(struct decode_best (&b)[N], int mask, int lane)
{
    const bool upper = lane & mask;

#pragma unroll
    for (int i = 0; i < N / 2; i++) {
        const struct decode_best mine = upper ? b[i + N / 2] : b[i];
        const struct decode_best others = upper ? b[i] : b[i + N / 2];

        b[i] = better_of(mine, best_of_lane(others, mask));
    }
}

/* Bests of a pass, whose eight lanes with the same lane % 4 have different rows of W: each keeps
 * NT / 4 rows of x, or (NT 2) two have the same one. */
template <int NT>
__device__ inline void best_of_pass(const struct decode_job &a, int pass, int lane,
                                    const float (&total)[NT][4],
                                    struct decode_best (&kept)[(NT + 3) / 4])
{
    const int col = pass * PASS_ROWS + lane / 4, id = a.first_id + col;
    const bool forbidden[2] = { is_forbidden(a, id), is_forbidden(a, id + UNIT_ROWS) };
    struct decode_best b[2 * NT];

#pragma unroll
    for (int i = 0; i < 2 * NT; i++)
        b[i] =
            better_of(best_of_one(biased(a, a.part[0], col, total[i / 2][i % 2]), id, forbidden[0]),
                      best_of_one(biased(a, a.part[0], col + UNIT_ROWS, total[i / 2][2 + i % 2]),
                                  id + UNIT_ROWS, forbidden[1]));
    keep_half<2 * NT>(b, 16, lane);
    keep_half<NT>((struct decode_best(&)[NT])b, 8, lane);
    if constexpr (NT > 2)
        keep_half<NT / 2>((struct decode_best(&)[NT / 2]) b, 4, lane);
    else
        b[0] = better_of(b[0], best_of_lane(b[0], 4));
#pragma unroll
    for (int i = 0; i < (NT + 3) / 4; i++)
        kept[i] = better_of(kept[i], b[i]);
}

/* The row of x of the i-th that a lane keeps. */
template <int NT> __device__ inline int row_kept(int lane, int i)
{
    const int bits = lane / 16 * 4 + lane / 8 % 2 * 2 + lane / 4 % 2;
    const int at = NT == 8 ? 2 * bits + i : NT == 4 ? bits : bits / 2;

    return at / 2 * 8 + lane % 4 * 2 + at % 2;
}

/* ---- the kernel ---- */

/* total += what a part of K gives; ring: W; x: where it comes. */
template <bool BF16, int NT, int PLACES>
__device__ inline void add_wide_part(const struct decode_job &a, int n_chunks, bool first,
                                     struct wide_head_ring<PLACES> &ring, struct wide_head_x &x,
                                     struct wide_head_asks &asks, int lane, float (&total)[NT][4])
{
    float sum[NT][4];

    clear_sums(sum);
#pragma unroll 1
    for (int chunk = 0; chunk < n_chunks; chunk++) {
        asks.next<NT>(a);
        __syncwarp();
        barrier_wait(x.there(), x.parity);
        const uint32_t at = x.xs + x.stage * wide_chunk<NT>();
#pragma unroll
        for (int k = 0; k < 2; k++) {
            const uint32_t low = piece_descriptor(at + k * (wide_chunk<NT>() / 2));
            uint32_t w[2][2][4];

            ring.take(w);
#pragma unroll
            for (int j = 0; j < 2; j++) {
                copy_late(w[j], a.n_stages >> 16);
                multiply_both<BF16, NT>(sum, true, w[j], low, j);
            }
            fragments_read<0>();
        }
        pin_sums(sum);
        if (lane == 0)
            barrier_arrive(x.read());
        x.next();
    }
#pragma unroll
    for (int i = 0; i < 4 * NT; i++)
        total[i / 4][i % 4] = first ? sum[i / 4][i % 4] : total[i / 4][i % 4] + sum[i / 4][i % 4];
}

/* Shared memory: 128 bytes of barriers, the stages of x, the rings; at the end bests. */
template <bool BF16, int NT, int PLACES>
__global__ static void __launch_bounds__(32 * WIDE_HEAD_WARPS, 1)
    decode_head_wide(const __grid_constant__ struct decode_job a)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ __align__(128) char room[];
    char *xs = room + 128, *rings = xs + WIDE_STAGES * wide_chunk<NT>();
    struct decode_best *bests = (struct decode_best *)rings;
    const int lane = threadIdx.x % 32, warp = warp_of_block(), n_chunks = a.n_in / CHUNK_COLS;
    const int begin = (int)((int64_t)a.n_passes * blockIdx.x / gridDim.x);
    const int n_own = (int)((int64_t)a.n_passes * (blockIdx.x + 1) / gridDim.x) - begin;
    const int n_rounds = (n_own + WIDE_HEAD_WARPS - 1) / WIDE_HEAD_WARPS;
    struct wide_head_x x = { shared_address(room), shared_address(xs), 0, 0 };

    let_next_start();
    if (threadIdx.x == 0) {
#pragma unroll 1
        for (int i = 0; i < WIDE_STAGES; i++) {
            barrier_init(x.barriers + 16 * i, 1);
            barrier_init(x.barriers + 16 * i + 8, WIDE_HEAD_WARPS);
        }
    }
    barriers_made();
    __syncthreads();
    const int n_passes = (n_own - warp + WIDE_HEAD_WARPS - 1) / WIDE_HEAD_WARPS;
    struct wide_head_ring<PLACES> ring(a, rings, begin + warp, n_passes, warp, lane);
    struct decode_best kept[(NT + 3) / 4];

#pragma unroll
    for (int i = 0; i < (NT + 3) / 4; i++)
        kept[i] = { 0.0f, DECODE_NONE };
    for (int i = 0; i < PLACES; i++)
        ring.fetch();
    wait_for_launch_before();
    struct wide_head_asks asks = { x, 0, threadIdx.x == 0 ? n_rounds * n_chunks : 0 };
    for (int i = 0; i < WIDE_STAGES - 2; i++)
        asks.next<NT>(a);
#pragma unroll 1
    for (int round = 0; round < n_rounds; round++) {
        float total[NT][4];

#pragma unroll
        for (int i = 0; i < 4 * NT; i++)
            total[i / 4][i % 4] = 0;
#pragma unroll 1
        for (int part = 0; part < K_PARTS; part++)
            add_wide_part<BF16, NT, PLACES>(
                a, first_chunk(n_chunks, part + 1) - first_chunk(n_chunks, part), part == 0, ring,
                x, asks, lane, total);
        if (round < n_passes) /* of a block's last passes some warps have none */
            best_of_pass<NT>(a, begin + round * WIDE_HEAD_WARPS + warp, lane, total, kept);
    }
    __syncthreads(); /* the rings are read, and empty */
#pragma unroll
    for (int i = 0; i < (NT + 3) / 4; i++)
        bests[warp * (8 * NT) + row_kept<NT>(lane, i)] = kept[i];
    __syncthreads();
    if (threadIdx.x < a.n_rows) {
        struct decode_best best = bests[threadIdx.x];

        for (int i = 1; i < WIDE_HEAD_WARPS; i++)
            best = better_of(best, bests[i * (8 * NT) + threadIdx.x]);
        a.best[(int64_t)blockIdx.x * a.n_rows + threadIdx.x] = best;
    }
#endif
}

template <int NT, int PLACES> static const void *wide_head_tiles(bool bf16)
{
    return bf16 ? (const void *)decode_head_wide<true, NT, PLACES>
                : (const void *)decode_head_wide<false, NT, PLACES>;
}

template <int PLACES> static const void *wide_head_kernel(enum decode_kind kind, bool bf16)
{
    return kind == DECODE_HEAD_16   ? wide_head_tiles<2, PLACES>(bf16)
           : kind == DECODE_HEAD_32 ? wide_head_tiles<4, PLACES>(bf16)
                                    : wide_head_tiles<8, PLACES>(bf16);
}
