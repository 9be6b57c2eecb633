/* linear_decode_wide.cuh - the kernel for 9 to 64 rows of x on Hopper.
 *
 * As in linear_decode_many.cuh a warp has 16 rows of W and decodes them into registers; here they
 * are the left side of a product of a whole warpgroup, 64 rows of W by all rows of x, whose right
 * side the tensor cores read from shared memory.  A chain of these has the bits of a chain of
 * m16n8k16 products (the tests compare them).  The launch in front brings x into the order that
 * this wants: see decode_image.cuh.  A chunk of 128 columns is then one run of memory, which the
 * copy engine fetches, some chunks ahead.  Where W has too few rows to fill the device, a cluster
 * of eight blocks takes a part of K each, and the sums meet in the shared memory of the cluster.
 *
 * Bytes: W once; x once for each 128 rows of W, from L2.  In shared memory, per 128 x 128 weights:
 * 512 reads of 128 bytes for table lookups (4 bits), 4 for every row of x.  */
#pragma once

#include "linear_decode_many.cuh"
#include "wgmma.cuh"

#include <cooperative_groups.h>

#define SCALES_AT_ONCE 8 /* of a lane */

/* A chunk of x: [8 steps of k = 16][n-tile][half of the step][8 rows][8 elements]. */
template <int NT> __device__ constexpr int wide_chunk(void)
{
    return NT * 8 * CHUNK_COLS * 2;
}

/* ---- products ---- */

/* The right side of a step, from the low half of its descriptor: the address / 16 and from half to
 * half; from n-tile to n-tile. */
__device__ inline uint64_t step_descriptor(uint32_t low)
{
    return (uint64_t)(256 >> 4) << 32 | low;
}

/* Registers are written before a product reads them.  No word of memory: the next table lookups may
 * come before it. */
__device__ inline void fragments_ready(uint32_t (&w)[2][4])
{
    asm volatile("wgmma.fence.sync.aligned;"
                 : "+r"(w[0][0]), "+r"(w[0][1]), "+r"(w[0][2]), "+r"(w[0][3]), "+r"(w[1][0]),
                   "+r"(w[1][1]), "+r"(w[1][2]), "+r"(w[1][3]));
}

/* Until at most N products of k = 32 still read theirs. */
template <int N> __device__ inline void fragments_read(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N));
}

/* What a product on its way reads stays where it is until here. */
__device__ inline void pin_fragments(uint32_t (&w)[2][4])
{
#pragma unroll
    for (int i = 0; i < 8; i++)
        asm volatile("" : "+r"(w[i / 4][i % 4]));
}

template <int NT> __device__ inline void pin_sums(float (&sum)[NT][4])
{
#pragma unroll
    for (int i = 0; i < 4 * NT; i++)
        asm volatile("" : "+f"(sum[i / 4][i % 4]));
}

template <int NT> __device__ inline void clear_sums(float (&sum)[NT][4])
{
#pragma unroll
    for (int i = 0; i < 4 * NT; i++)
        asm volatile("mov.b32 %0, 0f00000000;" : "=f"(sum[i / 4][i % 4]));
}

/* clang-format off */
#define TILE_SUMS(i)    "+f"(c[i][0]), "+f"(c[i][1]), "+f"(c[i][2]), "+f"(c[i][3])
#define TILE_SUMS_2(i)  TILE_SUMS(i), TILE_SUMS(i + 1)
#define TILE_SUMS_4(i)  TILE_SUMS_2(i), TILE_SUMS_2(i + 2)
#define TILE_SUMS_8(i)  TILE_SUMS_4(i), TILE_SUMS_4(i + 4)
#define NAMES_N8        "%0,%1,%2,%3,%4,%5,%6,%7"
#define NAMES_N16       NAMES_N8 ",%8,%9,%10,%11,%12,%13,%14,%15"
/* clang-format on */

#define WIDE_PRODUCT(what, names, left, right, adds, sums)                               \
    asm volatile("{ .reg .pred adds; setp.ne.u32 adds, " adds ", 0;\n"                   \
                 "wgmma.mma_async.sync.aligned." what " {" names "}, {" left "}, " right \
                 ", adds, 1, 1, 0; }"                                                    \
                 : sums                                                                  \
                 : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "l"(x), "r"((uint32_t)add))

#define WIDE_PRODUCTS(type)                                                                 \
    do {                                                                                    \
        if constexpr (NT == 2)                                                              \
            WIDE_PRODUCT("m64n16k16.f32." type, NAMES_N8, "%8,%9,%10,%11", "%12", "%13",    \
                         TILE_SUMS_2(0));                                                   \
        else if constexpr (NT == 4)                                                         \
            WIDE_PRODUCT("m64n32k16.f32." type, NAMES_N16, "%16,%17,%18,%19", "%20", "%21", \
                         TILE_SUMS_4(0));                                                   \
        else                                                                                \
            WIDE_PRODUCT("m64n64k16.f32." type, NAMES_N32, "%32,%33,%34,%35", "%36", "%37", \
                         TILE_SUMS_8(0));                                                   \
    } while (0)

/* c += W x, or (add is false) c = W x, over 16 of k: 16 rows of W of each warp, the tiles of x. */
template <bool BF16, int NT>
__device__ inline void multiply_step(float (&c)[NT][4], bool add, uint32_t a0, uint32_t a1,
                                     uint32_t a2, uint32_t a3, uint64_t x)
{
    if constexpr (BF16)
        WIDE_PRODUCTS("bf16.bf16");
    else
        WIDE_PRODUCTS("f16.f16");
}

/* The product wants words of both units side by side.  Where they come from memory as they are, the
 * compiler would copy them as soon as they come, and wait for that; zero, which it does not know,
 * keeps it from that. */
__device__ inline void copy_late(uint32_t (&w)[2][4], uint32_t zero)
{
#pragma unroll
    for (int i = 0; i < 8; i++)
        asm volatile("xor.b32 %0, %0, %1;" : "+r"(w[i / 4][i % 4]) : "r"(zero));
}

/* Scales, and zero points, of the warp's rows as they are multiplied with: [group][16 rows]. */
struct wide_scales {
    float *scale, *zero;
    int first; /* group of a row, which is the first one here */
    int later; /* numbers from one run of a chunk to the next */
};

__device__ inline int first_group(const struct decode_job &a, int chunk)
{
    return a.groups_log ? chunk << a.groups_log : chunk >> a.group_shift;
}

/* Stored numbers of N groups of a lane's row. */
template <class C, int N> struct wide_numbers {
    uint32_t scale[N], zero[C::ZERO ? N : 1];
    float second[N];
};

template <int N>
__device__ inline void load_numbers(const uint8_t *from, const int (&at)[N], int n_bytes,
                                    uint32_t (&to)[N])
{
    if (n_bytes == 1) {
#pragma unroll
        for (int i = 0; i < N; i++)
            to[i] = __ldg(from + at[i]);
    } else if (n_bytes == 2) {
#pragma unroll
        for (int i = 0; i < N; i++)
            to[i] = __ldg((const uint16_t *)from + at[i]);
    } else {
#pragma unroll
        for (int i = 0; i < N; i++)
            to[i] = __ldg((const uint32_t *)from + at[i]);
    }
}

/* Of groups first, first + step, .. below `to`, all on their way at once. */
template <class C, int N>
__device__ inline void load_groups(const struct decode_job &a, const struct decode_cursor<2> &c,
                                   int first, int to, int step, struct wide_numbers<C, N> &n)
{
    int at[N];

#pragma unroll
    for (int i = 0; i < N; i++) {
        const int g = first + i * step < to ? first + i * step : to - 1;

        n.second[i] = c.scales2 ? __ldg(c.scales2 + (c.first_group + g) / WEIGHT_NESTED_RUN) : 0;
        at[i] = g * UNIT_ROWS;
    }
    load_numbers<N>(c.scales, at, a.scale_bytes, n.scale);
    if constexpr (C::ZERO)
        if (a.zero_bytes)
            load_numbers<N>(c.zeros, at, a.zero_bytes, n.zero);
}

template <class C, int N>
__device__ inline void store_groups(const struct decode_job &a,
                                    const struct decode_numbers &numbers, const float *map,
                                    int first, int to, int step, const struct wide_numbers<C, N> &n,
                                    int lane, const struct wide_scales &s)
{
#pragma unroll
    for (int i = 0; i < N; i++) {
        const int g = first + i * step, own = (g - s.first) * PASS_ROWS + lane % PASS_ROWS;

        if (g >= to)
            continue;
        s.scale[own] = decoded_scale(a, numbers, n.scale[i], n.second[i], map);
        if constexpr (C::ZERO)
            if (a.zero_bytes)
                s.zero[own] = decoded_zero(a, n.zero[i]);
    }
}

/* Fragments for k = 32 number j of a piece; own: where the numbers of its group lie, of the lane's
 * row.  g is kept from one j to the next. */
template <class C, bool BF16>
__device__ inline void fragments_of(const struct decode_job &a, C (&codes)[2], int j,
                                    const struct wide_scales &s, int own, bool begins,
                                    typename C::group_t (&g)[2], const char *lookup, int lane,
                                    uint32_t (&w)[2][4])
{
    if constexpr (C::ZERO)
        if (a.zero_bytes && begins) {
#pragma unroll
            for (int r = 0; r < 2; r++)
                g[r] = C::template group<BF16>(1.0f, s.zero[own + UNIT_ROWS * r], a.table);
        }
#pragma unroll
    for (int r = 0; r < 2; r++)
        codes[r].template pairs<BF16>(j, g[r], lookup, lane, w[r]);
}

/* In a cluster addresses have the block's number in their highest byte.  The same in all lanes:
 * said so that the compiler knows it, too. */
__device__ inline uint32_t piece_descriptor(uint32_t x_at)
{
    return __reduce_or_sync(0xFFFFFFFFu, (x_at >> 4 & 0x3FFF) | 128 >> 4 << 16);
}

/* k = 32 number j: two steps. */
template <bool BF16, int NT>
__device__ inline void multiply_both(float (&c)[NT][4], bool add, uint32_t (&w)[2][4], uint32_t low,
                                     int j)
{
    fragments_ready(w);
    multiply_step<BF16, NT>(c, add, w[0][0], w[1][0], w[0][1], w[1][1],
                            step_descriptor(low + 2 * j * NT * 16));
    multiply_step<BF16, NT>(c, true, w[0][2], w[1][2], w[0][3], w[1][3],
                            step_descriptor(low + (2 * j + 1) * NT * 16));
    asm volatile("wgmma.commit_group.sync.aligned;");
}

/* A piece as it is, whose x is at x_at. */
template <class C, bool BF16, int NT>
__device__ inline void multiply_plain(C (&codes)[2], uint32_t x_at, uint32_t zero,
                                      float (&sum)[NT][4])
{
    const uint32_t low = piece_descriptor(x_at);
    const typename C::group_t none = {};
    uint32_t w[2][4];

#pragma unroll
    for (int j = 0; j < C::PIECE_COLS / 32; j++) {
        if (j)
            fragments_read<0>();
#pragma unroll
        for (int r = 0; r < 2; r++)
            codes[r].template pairs<BF16>(j, none, NULL, 0, w[r]);
        copy_late(w, zero);
        multiply_both<BF16, NT>(sum, true, w, low, j);
    }
    fragments_read<0>();
}

/* A run on its way, with what its sums are multiplied with. */
template <int NT> struct wide_run {
    uint32_t w[2][2][4];
    float sum[NT][4], scale[2];

    __device__ inline void open(void)
    {
        clear_sums(sum);
        scale[0] = scale[1] = 0;
    }
    /* into: the sum of a part. */
    __device__ inline void end(float (&into)[NT][4])
    {
        fragments_read<0>();
        pin_fragments(w[0]);
        pin_fragments(w[1]);
        pin_sums(sum);
        scale_run<NT>(scale, sum, into);
    }
};

/* A chunk of RUNS runs: each is a chain of products from zero, which is added to the sum when the
 * next one begins, that of the chunk before, too.  Two sets of fragments take turns: one is decoded
 * while the other is multiplied.  between(): what there is to do while nothing is multiplied, and
 * at its end the wait for x. */
template <class C, bool BF16, int NT, int RUNS, class Between>
__device__ inline void multiply_runs(const struct decode_job &a, C (&codes)[2],
                                     const struct wide_scales &s, int scales_at, uint32_t x_at,
                                     const char *lookup, int lane, typename C::group_t (&g)[2],
                                     struct wide_run<NT> &run, float (&sum)[NT][4], Between between)
{
    const uint32_t low = piece_descriptor(x_at);
    constexpr int steps = 4 / RUNS; /* products of k = 32 a run */

#pragma unroll
    for (int j = 0; j < 4; j++) {
        const int own = scales_at + j / steps * s.later;
        const bool begins = j % steps == 0;

        fragments_read<1>();
        pin_fragments(run.w[j % 2]);
        fragments_of<C, BF16>(a, codes, j, s, own, begins, g, lookup, lane, run.w[j % 2]);
        if (begins) {
            run.end(sum);
            if (j == 0)
                between();
            run.scale[0] = s.scale[own];
            run.scale[1] = s.scale[own + UNIT_ROWS];
        }
        multiply_both<BF16, NT>(run.sum, !begins, run.w[j % 2], low, j);
    }
}

/* ---- the end of a cluster ---- */

template <int N> struct alignas(4 * N) wide_sums {
    float v[N];
};

/* The eight blocks' sums of pass number `rank` of this cluster, added in order; together: room for
 * them.  A thread has a few outputs side by side. */
template <int NT>
__device__ inline void finish_cluster(const struct decode_job &a, float *totals, float *together,
                                      int first_pass)
{
    namespace cg = cooperative_groups;
    constexpr int each = NT * 8 * PASS_ROWS / DECODE_THREADS, threads = PASS_ROWS / each;
    typedef struct wide_sums<each> sums;
    cg::cluster_group cluster = cg::this_cluster();
    const int rank = (int)cluster.block_rank(), pass = first_pass + rank;
    const int row = threadIdx.x / threads, own = threadIdx.x % threads * each;
    int part = 0, col = 0;
    const bool there = pass < a.n_passes && row < a.n_rows && !(a.pair && own >= UNIT_ROWS) &&
                       row_of_pass<2>(a, pass, own, &part, &col);
    const struct decode_part &p = a.part[part];
    sums of[K_PARTS];
    float held[each] = {};

    if (there && a.epilogue == DECODE_ADD)
#pragma unroll
        for (int k = 0; k < each; k++)
            held[k] = load_value(a.model, a.residual, element_at(p, row, col + k));
    cluster.sync();
#pragma unroll
    for (int i = 0; i < K_PARTS; i++)
        of[i] = ((const sums *)(cluster.map_shared_rank(totals, i) +
                                rank * many_sums<NT>()))[threadIdx.x];
#pragma unroll
    for (int i = 1; i < K_PARTS; i++)
#pragma unroll
        for (int k = 0; k < each; k++)
            of[0].v[k] += of[i].v[k];
    ((sums *)together)[threadIdx.x] = of[0];
    cluster_arrive(); /* what was read from the others is here */
    __syncthreads();
    if (there)
#pragma unroll
        for (int k = 0; k < each; k++) {
            const float sum = together[place_of_sum(row, own + k)];

            if (a.pair) {
                const float up = together[place_of_sum(row, own + k + UNIT_ROWS)];
                store_value(a.model, p.y, swiglu_at(a, p, row, col + k),
                            swiglu_value(a.model, biased(a, p, col + k, sum),
                                         biased(a, a.part[1], col + k, up)));
            } else {
                store_output(a, 0, p, row, col + k, sum, held[k]);
            }
        }
    cluster_wait();
}

/* ---- the kernel ---- */

/* The chunks of a stream in the order in which it takes them: numbers, with what else there is to
 * say.  An empty part of a short K has a chunk whose sums count for nothing. */
#define WIDE_NUMBER 0x3FFF
#define WIDE_EMPTY  0x4000
#define WIDE_LAST   0x8000 /* of its part */

/* Of every step-th part below `last`; how many they are.  All threads of the stream. */
__device__ inline int put_in_order(int n_chunks, int first_part, int step, int last,
                                   uint16_t *order)
{
    int n = 0;

#pragma unroll 1
    for (int part = first_part; part < last; part += step) {
        const int begin = first_chunk(n_chunks, part);
        const int here = first_chunk(n_chunks, part + 1) - begin, n_here = here ? here : 1;

        for (int i = threadIdx.x % DECODE_THREADS; i < n_here; i += DECODE_THREADS)
            order[n + i] =
                (uint16_t)(begin + i | (here ? 0 : WIDE_EMPTY) | (i + 1 == n_here ? WIDE_LAST : 0));
        n += n_here;
    }
    return n;
}

/* Chunks of x on their way through a ring of stages.  One thread asks for them. */
template <int NT> struct wide_ring {
    uint32_t barriers, xs; /* a stage has two barriers: x is there; every warp has read it */
    int n_stages, stage;
    uint32_t parity;

    __device__ uint32_t there(int i) const
    {
        return barriers + 16 * i;
    }
    __device__ uint32_t read(int i) const
    {
        return barriers + 16 * i + 8;
    }
    __device__ void open() const
    {
#pragma unroll 1
        for (int i = 0; i < n_stages; i++) {
            barrier_init(there(i), 1);
            barrier_init(read(i), MANY_WARPS);
        }
    }
    __device__ void ask(const struct decode_job &a, int chunk, int i) const
    {
        barrier_expect(there(i), wide_chunk<NT>());
        asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                     "[%0], [%1], %2, [%3];" ::"r"(xs + i * wide_chunk<NT>()),
                     "l"((const char *)a.x + (int64_t)chunk * wide_chunk<NT>()),
                     "r"(wide_chunk<NT>()), "r"(there(i))
                     : "memory");
    }
    /* Into the stage of the chunk `lag` before the present one. */
    __device__ void ask_again(const struct decode_job &a, int chunk, int lag) const
    {
        const int i = stage >= lag ? stage - lag : stage - lag + n_stages;

        barrier_wait(read(i), stage >= lag ? parity : parity ^ 1);
        ask(a, chunk, i);
    }
    __device__ void next()
    {
        if (++stage == n_stages) {
            stage = 0;
            parity ^= 1;
        }
    }
};

/* The warps of two streams with the same rows of W add their parts in turn: the barrier that one
 * waits at, the other's. */
struct wide_turn {
    uint32_t own, other;
    uint32_t parity;

    __device__ void wait(bool first)
    {
        if (first)
            return;
        barrier_wait(own, parity);
        parity ^= 1;
    }
    __device__ void pass_on(int lane) const
    {
        __syncwarp();
        if (lane == 0)
            barrier_arrive(other);
    }
};

template <class C>
__device__ inline void load_codes(const uint8_t *const (&rows)[2], int piece, int lane, C (&to)[2])
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const uint8_t *from = rows[r] + piece * piece_bytes<C>();
        if constexpr (C::SCALED)
            to[r].load(from, lane);
        else
            to[r].load(from);
    }
}

/* 256 threads are a stream.  Two of them share the rows of W: one has parts 0, 2, .. of K, the
 * other 1, 3, ..  SHORT: runs of 32 columns.
 *
 * Shared memory: tables; WIDE_BARRIERS bytes; x of each stream; totals, which lie on x where a
 * cluster shares K, and there NT * 512 bytes more; scales of a.n_staged groups for each of 8 warps,
 * or (0) of the groups of a chunk for every warp; the order of chunks of each stream. */
template <class C, bool BF16, int NT, int DEPTH, bool SHORT>
__global__ static void __launch_bounds__(2 * DECODE_THREADS, 1)
    decode_wide(const __grid_constant__ struct decode_job a)
{
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
    extern __shared__ __align__(128) char room[];
    constexpr int per_chunk = CHUNK_COLS / C::PIECE_COLS;
    constexpr int piece_x = wide_chunk<NT>() / per_chunk;
    char *lookup = room;
    float *map = (float *)(lookup + C::N_LOOKUP);
    char *barriers = (char *)(map + 256), *xs = barriers + WIDE_BARRIERS;
    float *totals =
        (float *)(a.n_split > 1 ? xs : xs + a.n_streams * a.n_stages * wide_chunk<NT>());
    const int lane = threadIdx.x % 32,
              block_warp = (int)__reduce_or_sync(0xFFFFFFFFu, threadIdx.x / 32);
    const int warp = block_warp % MANY_WARPS, stream = block_warp / MANY_WARPS;
    const int n_chunks = a.n_in / CHUNK_COLS;
    const int rank = blockIdx.x % a.n_split, group = blockIdx.x / a.n_split;
    const int first_part = a.n_split > 1 ? rank : stream;
    const int last_part = a.n_split > 1 ? rank + 1 : K_PARTS;
    const int own_pass = group * MANY_WARPS + warp;
    const int pass = own_pass < a.n_passes ? own_pass : a.n_passes - 1;
    const bool asks = threadIdx.x % DECODE_THREADS == 0;
    const uint32_t turns = shared_address(barriers) + 16 * (2 * WIDE_STAGES + warp);
    struct wide_turn turn = { turns + 8 * stream, turns + 8 - 8 * stream, 0 };
    struct wide_ring<NT> ring = {
        shared_address(barriers) + 16 * WIDE_STAGES *stream,
            shared_address(xs) + stream *a.n_stages *wide_chunk<NT>(), a.n_stages, 0, 0
    };
    uint16_t *order = (uint16_t *)(room + a.order_at) + stream * wide_order_room(n_chunks);
    struct decode_cursor<2> rows = {
    };
    C codes[DEPTH][per_chunk][2];
    struct decode_numbers numbers = {};
    float *total = totals + warp * many_sums<NT>() + 4 * lane;

    let_next_start();
    rows.pass = pass;
    open_pass<C, 2>(a, 0, lane, &rows);
    for (int r = 0; r < 2; r++)
        asm volatile("" : "+l"(rows.codes[r])); /* else the compiler makes it anew at every use */
    const int own_first = first_chunk(n_chunks, first_part);
    const int second_chunk = own_first + 1 < first_chunk(n_chunks, first_part + 1)
                                 ? own_first + 1
                                 : first_chunk(n_chunks, first_part + a.n_streams);
    static_assert(DEPTH <= 2, "the first chunks are known without the order");
    auto load_next = [&](int chunk, C(&to)[per_chunk][2]) {
#pragma unroll
        for (int k = 0; k < per_chunk; k++)
            load_codes<C>(rows.codes, chunk * per_chunk + k, lane, to[k]);
    };
    load_next(own_first, codes[0]);
    if constexpr (DEPTH > 1)
        if (second_chunk < n_chunks)
            load_next(second_chunk, codes[1]);
    const int n_own = put_in_order(n_chunks, first_part, a.n_streams, last_part, order);
    if (asks)
        ring.open();
    if (a.n_streams > 1 && stream == 0 && lane == 0) {
        barrier_init(turn.own, 1);
        barrier_init(turn.other, 1);
    }
    barriers_made();

    struct wide_scales scales = {};
    if constexpr (C::SCALED) {
        const int begin = first_chunk(n_chunks, a.n_split > 1 ? rank : 0);
        const int end = first_chunk(n_chunks, last_part);
        const int n_each = a.n_staged ? a.n_staged * PASS_ROWS : 4 * PASS_ROWS;
        float *all = totals + (MANY_WARPS + (a.n_split > 1)) * many_sums<NT>();
        const int step = 2 * a.n_streams;
        const int to = begin < end ? first_group(a, end - 1) + (1 << a.groups_log) : 0;
        int from = first_group(a, begin) + 2 * stream + lane / PASS_ROWS;
        struct wide_numbers<C, SCALES_AT_ONCE> n;

        if (a.n_split > 1 && a.n_stages * wide_chunk<NT>() > MANY_WARPS * many_sums<NT>() * 4)
            all = (float *)(xs + a.n_stages * wide_chunk<NT>()) + many_sums<NT>();
        scales.scale = all + (a.n_staged ? warp : block_warp) * n_each * (1 + C::ZERO);
        scales.zero = scales.scale + n_each;
        scales.first = first_group(a, begin);
        scales.later = a.groups_log ? PASS_ROWS : 0;
        numbers = numbers_of_pass<2>(a, pass, lane);
        if (a.n_staged && from < to)
            load_groups<C, SCALES_AT_ONCE>(a, rows, from, to, step, n);
        if (a.scale_bytes == 1 && threadIdx.x < 256)
            map[threadIdx.x] = byte_scale(a, threadIdx.x);
        C::template fill_lookup<BF16>(lookup, a.table);
        __syncthreads(); /* the map is there */
#pragma unroll 1
        while (a.n_staged && from < to) {
            store_groups<C, SCALES_AT_ONCE>(a, numbers, map, from, to, step, n, lane, scales);
            from += SCALES_AT_ONCE * step;
            if (from < to)
                load_groups<C, SCALES_AT_ONCE>(a, rows, from, to, step, n);
        }
    }
    __syncthreads();
    wait_for_launch_before();

    typename C::group_t g[2];
    float sum[NT][4];
    struct wide_run<NT> run;
    const int lag = a.n_stages > 3 ? 2 : 1;
    bool first_of_all = stream == 0;
    int now = 0, before = 0; /* the chunk before: its entry */

    open_groups<C, BF16, 2>(a, g);
    if (asks)
#pragma unroll 1
        for (int i = 0; i < a.n_stages && i < n_own; i++)
            ring.ask(a, order[i] & WIDE_NUMBER, i);
    clear_sums(sum);
    if constexpr (C::SCALED)
        run.open();
    auto end_part = [&](int entry) {
        if (entry & WIDE_EMPTY)
            clear_sums(sum);
        if (a.n_streams > 1)
            turn.wait(first_of_all);
        add_part<NT>(total, first_of_all, sum);
        first_of_all = false;
        if constexpr (!C::SCALED)
            clear_sums(sum);
        if (a.n_streams > 1)
            turn.pass_on(lane);
    };
    auto end_chunk = [&](int entry, int stage) {
        if (lane == 0)
            barrier_arrive(ring.read(stage));
        if (a.n_split == 1 && entry & WIDE_LAST)
            end_part(entry);
    };
    /* What is not tied to registers of codes is in the program once: short launches wait for their
     * instructions. */
#pragma unroll 1
    for (int i = 0; i < n_own; i++) {
        const int entry = order[i], chunk = entry & WIDE_NUMBER;
        const bool loads = i + DEPTH < n_own;
        const int to_load = loads ? order[i + DEPTH] & WIDE_NUMBER : 0;
        const uint32_t x_at = ring.xs + ring.stage * wide_chunk<NT>();
        int scales_at = lane / 4;

        if (C::SCALED && !a.n_staged) {
            scales.first = first_group(a, chunk);
            __syncwarp();
            const int first = scales.first + lane / PASS_ROWS;
            const int to = scales.first + (1 << a.groups_log);
            struct wide_numbers<C, 2> two;

            load_groups<C, 2>(a, rows, first, to, 2, two);
            store_groups<C, 2>(a, numbers, map, first, to, 2, two, lane, scales);
        }
        if (C::SCALED)
            scales_at += (first_group(a, chunk) - scales.first) * PASS_ROWS;
        __syncwarp();
        auto between = [&] {
            if (C::SCALED && i)
                end_chunk(before, ring.stage ? ring.stage - 1 : a.n_stages - 1);
            if (asks && i >= lag && i - lag + a.n_stages < n_own)
                ring.ask_again(a, order[i - lag + a.n_stages] & WIDE_NUMBER, lag);
            __syncwarp();
            barrier_wait(ring.there(ring.stage), ring.parity);
        };
        if constexpr (!C::SCALED)
            between();
#pragma unroll
        for (int d = 0; d < DEPTH; d++)
            if (now == d) {
                if constexpr (C::SCALED) {
                    multiply_runs<C, BF16, NT, SHORT ? 4 : 2>(a, codes[d][0], scales, scales_at,
                                                              x_at, lookup, lane, g, run, sum,
                                                              between);
                    if (loads)
                        load_next(to_load, codes[d]);
                } else {
#pragma unroll
                    for (int k = 0; k < per_chunk; k++) {
                        multiply_plain<C, BF16, NT>(codes[d][k], x_at + k * piece_x,
                                                    a.n_stages >> 16, sum);
                        if (loads)
                            load_codes<C>(rows.codes, to_load * per_chunk + k, lane, codes[d][k]);
                    }
                }
            }
        now = now + 1 == DEPTH ? 0 : now + 1;
        before = entry;
        if constexpr (!C::SCALED) {
            pin_sums(sum);
            end_chunk(entry, ring.stage);
        }
        ring.next();
    }
    if constexpr (C::SCALED)
        run.end(sum);
    if (a.n_split > 1)
        __syncthreads(); /* the totals take the place of x */
    if (C::SCALED || a.n_split > 1)
        end_part(before);
    if (a.n_split > 1) {
        finish_cluster<NT>(a, totals, totals + MANY_WARPS * many_sums<NT>(), group * MANY_WARPS);
        return;
    }
    __syncthreads();
    finish_alone<NT>(a, own_pass, warp, stream, a.n_streams, totals, (struct decode_best *)xs);
#endif
}

template <class C, int DEPTH, bool SHORT>
static const void *wide_kernel(enum decode_kind kind, bool bf16)
{
    if (kind == DECODE_WIDE_16)
        return bf16 ? (const void *)decode_wide<C, true, 2, DEPTH, SHORT>
                    : (const void *)decode_wide<C, false, 2, DEPTH, SHORT>;
    if (kind == DECODE_WIDE_32)
        return bf16 ? (const void *)decode_wide<C, true, 4, DEPTH, SHORT>
                    : (const void *)decode_wide<C, false, 4, DEPTH, SHORT>;
    return bf16 ? (const void *)decode_wide<C, true, 8, DEPTH, SHORT>
                : (const void *)decode_wide<C, false, 8, DEPTH, SHORT>;
}

/* Either for more than 8 rows; short_runs: of 32 columns. */
template <class C, int MANY_DEPTH, int WIDE_DEPTH>
static const void *large_kernel(enum decode_kind kind, bool short_runs, bool bf16)
{
    if (kind < DECODE_WIDE_16)
        return many_kernel<C, MANY_DEPTH>(kind, bf16);
    if constexpr (C::SCALED)
        if (short_runs)
            return wide_kernel<C, WIDE_DEPTH, true>(kind, bf16);
    return wide_kernel<C, WIDE_DEPTH, false>(kind, bf16);
}
