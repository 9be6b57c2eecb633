/* gemm_sm90.cuh - y = x W^T of many rows on Hopper: the kernel; gemm_sm90_*.cu compile it for one
 * type of operands each, gemm_sm90.cu starts it.
 *
 * A tile is 64 WGS rows of x by BN rows of W ("columns").  Two threads of a block keep the copy
 * engine busy: tiles of x and of W, 128 bytes of k each ("a step"), go round a ring of N_STAGES
 * places in shared memory.  WGS warpgroups multiply what is there, 64 rows each, with the sums in
 * registers, and give each place back.  Blocks stay and take one tile after the other.
 *
 * A step of a 128 x 256 tile keeps the tensor cores busy for 512 clocks and brings 48 KB: 96 of the
 * bytes a clock that an SM takes from L2.  A cluster of cm x cn tiles shares what it reads: each
 * block brings 1 / cn of the x and 1 / cm of the W it needs and the engine delivers it to all.
 *
 * Long k over few outputs: the two blocks of a cluster make one tile, half of k each; then each
 * gets the other's sums of half the columns, adds them and ends there.  With many rows there are
 * tiles enough: one block makes both halves, one after the other, and adds them.  */
#pragma once

#include "gemm.cuh"
#include "wgmma.cuh"

#include <cuda.h>
#include <cudaTypedefs.h>

#define STEP_BYTES 128

/* The sums of a tile: one chain over k; of two halves of k, by the two blocks of a cluster; the
 * same by one block. */
enum gemm_k { K_WHOLE, K_SHARED, K_HALVES };

struct gemm_sm90_job {
    CUtensorMap x, w[GEMM_PARTS_MAX];
    struct gemm_args a;
    int32_t begin[GEMM_PARTS_MAX];  /* where a part begins in the row of all columns */
    int32_t box;                    /* rows of W in a copy */
    int32_t n_steps;                /* of a tile of a block: of a half, if two share it */
    int32_t n_blocks_m, n_blocks_n; /* clusters of tiles, down and across */
    int32_t n_together;             /* that many of one column go side by side */
    int32_t cm, cn;
};

template <enum gemm_operand OP, int WGS, int BN> struct gemm_shape {
    static constexpr int ROWS = 64 * WGS, COLS = BN, N_SUMS = BN / 2; /* sums: of a thread */
    static constexpr int N_WARPS = 4 * WGS, N_THREADS = 128 * (WGS + 1);
    static constexpr int X_BYTES = ROWS * STEP_BYTES, PLACE_BYTES = X_BYTES + COLS * STEP_BYTES;
    static constexpr int N_STAGES = (192 << 10) / PLACE_BYTES;
    static constexpr int STEP = OP == GEMM_INT8 ? STEP_BYTES : STEP_BYTES / 2; /* elements */
    static constexpr int MEMORY = N_STAGES * PLACE_BYTES + 1024; /* to be aligned to 1024 */
    static constexpr bool BF16 = OP == GEMM_BF16, INT8 = OP == GEMM_INT8;
    typedef std::conditional_t<OP == GEMM_INT8, int, float> sum;
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

struct gemm_tile {
    int m, n;
};

/* The tile of this block in the i-th cluster of tiles. */
__device__ inline struct gemm_tile tile_at(const struct gemm_sm90_job &job, int i, int rank)
{
    const int n_group = job.n_together * job.n_blocks_n, first = i / n_group * job.n_together;
    const int left = job.n_blocks_m - first, rows = left < job.n_together ? left : job.n_together;
    const int at = i % n_group;

    return { (first + at % rows) * job.cm + rank % job.cm, at / rows * job.cn + rank / job.cm };
}

/* Which part a column of the row of all columns is in. */
__device__ inline int part_of(const struct gemm_sm90_job &job, int col)
{
    return (col >= job.begin[1]) + (col >= job.begin[2]);
}

struct gemm_ring {
    uint32_t data, full, empty; /* places; their barriers, 8 bytes each */
    uint32_t give;              /* `empty` in another block, where this lane gives places back */
    int stage, parity;
    bool alone; /* no cluster, or one that splits k */
};

template <int N_STAGES> __device__ inline void advance(struct gemm_ring &r)
{
    if (++r.stage == N_STAGES) {
        r.stage = 0;
        r.parity ^= 1;
    }
}

/* ---- the threads that fill the ring ---- */

/* What this block brings of a tile's rows, and to which blocks of the cluster.  Made once: a thread
 * that divides at each step falls behind the tensor cores. */
struct gemm_share {
    int x_first, w_first, w_end;
    uint16_t x_blocks, w_blocks; /* 0: this one alone */
};

template <class S>
__device__ inline struct gemm_share share_of(const struct gemm_sm90_job &job, int rank)
{
    const int m = rank % job.cm, n = rank / job.cm, w_rows = S::COLS / job.cm;
    uint32_t row = 0;

    for (int i = 0; i < job.cn; i++)
        row |= 1u << (i * job.cm + m);
    return { .x_first = n * (S::ROWS / job.cn),
             .w_first = m * w_rows,
             .w_end = (m + 1) * w_rows,
             .x_blocks = (uint16_t)(job.cn > 1 ? row : 0),
             .w_blocks = (uint16_t)(job.cm > 1 ? ((1u << job.cm) - 1) << (n * job.cm) : 0) };
}

__device__ inline void bring(const void *map, int k, int row, uint32_t to, uint32_t full,
                             uint16_t blocks)
{
    if (blocks)
        copy_box_to(map, k, row, to, full, blocks);
    else
        copy_box(map, k, row, to, full);
}

template <class S, enum gemm_end END>
__device__ inline void bring_w(const struct gemm_sm90_job &job, const struct gemm_ring &r,
                               const struct gemm_share &share, struct gemm_tile tile, int step)
{
    const uint32_t at = r.data + r.stage * S::PLACE_BYTES + S::X_BYTES;

    for (int i = share.w_first; i < share.w_end; i += job.box) {
        int part, row;

        if (END == GEMM_SWIGLU) {
            part = i >= S::COLS / 2;
            row = tile.n * (S::COLS / 2) + i % (S::COLS / 2);
        } else {
            part = part_of(job, tile.n * S::COLS + i);
            row = tile.n * S::COLS + i - job.begin[part];
        }
        bring(&job.w[part], step * S::STEP, row, at + i * STEP_BYTES, r.full + 8 * r.stage,
              share.w_blocks);
    }
}

template <class S>
__device__ inline void bring_x(const struct gemm_sm90_job &job, const struct gemm_ring &r,
                               const struct gemm_share &share, struct gemm_tile tile, int step)
{
    bring(&job.x, step * S::STEP, tile.m * S::ROWS + share.x_first,
          r.data + r.stage * S::PLACE_BYTES + share.x_first * STEP_BYTES, r.full + 8 * r.stage,
          share.x_blocks);
}

/* One thread brings all W, and may begin while the kernel before this one still writes x; another
 * brings all x. */
template <class S, enum gemm_end END, bool W>
__device__ inline void fill_ring(const struct gemm_sm90_job &job, struct gemm_ring r,
                                 int first_step, int rank, int cluster, int n_clusters)
{
    const struct gemm_share share = share_of<S>(job, rank);
    const int n_tiles = job.n_blocks_m * job.n_blocks_n;

    if (W)
        for (int i = 0; i < job.a.n_parts; i++)
            fetch_map(&job.w[i]);
    else
        fetch_map(&job.x);
    if (!W || !job.a.weights_stay)
        wait_for_earlier_kernels();
    for (int i = cluster; i < n_tiles; i += n_clusters) {
        const struct gemm_tile tile = tile_at(job, i, rank);

        for (int step = first_step; step < first_step + job.n_steps; step++) {
            barrier_wait(r.empty + 8 * r.stage, r.parity ^ 1);
            barrier_expect(r.full + 8 * r.stage, W ? S::PLACE_BYTES - S::X_BYTES : S::X_BYTES);
            if (W)
                bring_w<S, END>(job, r, share, tile, step);
            else
                bring_x<S>(job, r, share, tile, step);
            advance<S::N_STAGES>(r);
        }
    }
}

/* ---- the warps that empty it ---- */

/* Where a lane tells that a place is free: lane i < cm in the blocks of this one's column of the
 * cluster, the next cn - 1 in the others of its row, which fill a part of the place, or wait to. 0:
 * nowhere. */
__device__ inline uint32_t where_to_give(const struct gemm_sm90_job &job, uint32_t empty, int rank)
{
    const int lane = threadIdx.x % 32, column = rank / job.cm, other = lane - job.cm;

    if (lane < job.cm)
        return shared_of(empty, column * job.cm + lane);
    if (other < job.cn - 1)
        return shared_of(empty, (other + (other >= column)) * job.cm + rank % job.cm);
    return 0;
}

__device__ inline void give_back(const struct gemm_ring &r, int stage)
{
    if (r.alone) {
        if (threadIdx.x % 32 == 0)
            barrier_arrive(r.empty + 8 * stage);
    } else if (r.give) {
        barrier_arrive_there(r.give + 8 * stage);
    }
}

template <class S>
__device__ inline void make_sums(struct gemm_ring &r, int n_steps, int warpgroup,
                                 typename S::sum (&c)[S::N_SUMS])
{
    int last = 0;

    for (int step = 0; step < n_steps; step++) {
        const uint32_t at = r.data + r.stage * S::PLACE_BYTES;

        barrier_wait(r.full + 8 * r.stage, r.parity);
        products_begin();
#pragma unroll
        for (int k = 0; k < 4; k++)
            multiply<S::BF16>(c, tile_descriptor(at + warpgroup * 64 * STEP_BYTES) + 2 * k,
                              tile_descriptor(at + S::X_BYTES) + 2 * k, step | k);
        products_commit();
        if (step > 0) { /* those of the step before are through */
            products_wait<1>();
            give_back(r, last);
        }
        last = r.stage;
        advance<S::N_STAGES>(r);
    }
    products_wait<0>();
    products_done(c);
    give_back(r, last);
}

/* ---- ends ---- */

/* Four blocks of columns, from c[first] on. */
template <int N>
__device__ inline void take(const struct gemm_args &, const struct gemm_strip &s,
                            const float (&c)[N], int first, float (&v)[16])
{
#pragma unroll
    for (int i = 0; i < 16; i++)
        v[i] = c[first + i];
    strip_add_bias<4>(s, v);
}

template <int N>
__device__ inline void take(const struct gemm_args &a, const struct gemm_strip &s,
                            const int (&c)[N], int first, float (&v)[16])
{
    int sums[16];

#pragma unroll
    for (int i = 0; i < 16; i++)
        sums[i] = c[first + i];
    strip_of_int8<4>(a, s, sums, v);
}

/* The strip at column `col` of the row of all columns. */
__device__ inline struct gemm_strip strip_at(const struct gemm_sm90_job &job, int row, int col)
{
    const int part = part_of(job, col);

    return { &job.a.part[part], job.a.y_t, job.a.n_rows, row, col - job.begin[part] };
}

/* 16 rows of N / 2 * 4 columns. */
template <typename V, int N>
__device__ inline void end_store(const struct gemm_sm90_job &job, int row, int col, const V (&c)[N],
                                 uint4 *room)
{
    constexpr int N_STRIPS = N / 16, AT_ONCE = N_STRIPS % 4 ? N_STRIPS : 4;

#pragma unroll
    for (int first = 0; first < N_STRIPS; first += AT_ONCE) {
        uint4 old[AT_ONCE][2] = {}; /* on its way while strips before it end */

        if (job.a.add)
#pragma unroll
            for (int i = 0; i < AT_ONCE; i++)
                strip_load<4>(strip_at(job, row, col + 32 * (first + i)), old[i]);
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const struct gemm_strip s = strip_at(job, row, col + 32 * (first + i));
            float v[16];

            take(job.a, s, c, 16 * (first + i), v);
            strip_store<4>(s, v, room, job.a.add, old[i]);
        }
    }
}

/* The first half of the columns is of gate, the other of up. */
template <int N>
__device__ inline void end_swiglu(const struct gemm_sm90_job &job, int row, int col,
                                  const float (&c)[N], uint4 *room)
{
    const enum dtype t = job.a.y_t;

#pragma unroll
    for (int i = 0; i < N / 32; i++) {
        const struct gemm_strip gate = { &job.a.part[0], t, job.a.n_rows, row, col + 32 * i };
        const struct gemm_strip up = { &job.a.part[1], t, job.a.n_rows, row, col + 32 * i };
        float v[16], u[16];

        take(job.a, gate, c, 16 * i, v);
        take(job.a, up, c, N / 2 + 16 * i, u);
        strip_store_swiglu<4>(gate, v, u, room);
    }
}

/* ---- the same where nothing is special: no bias, the operands' type, whole columns of one part.
 * A warp's instructions count here: no tensor core works meanwhile. ---- */

/* Two rows' vectors of a lane, 8 rows apart, as strip_vector() has them; where their values pass
 * through shared memory, in turns of two rooms. */
struct gemm_lane {
    uint4 *to[2]; /* NULL: outside */
    uint32_t put[2];
    const uint4 *get[2];
};

__device__ inline struct gemm_lane lane_of(const struct gemm_part &part, int64_t n_rows, int row,
                                           int col, uint4 *room)
{
    const int lane = threadIdx.x % 32;
    struct gemm_lane out;

#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int64_t r = row + 8 * i + lane / 4;

        out.to[i] =
            r < n_rows ? (uint4 *)((uint16_t *)part.y + r * part.ldy + col) + lane % 4 : NULL;
        out.put[i] = shared_address(room + strip_place<4>(lane % 16, 2 * i + lane / 16));
        out.get[i] = room + strip_place<4>(8 * i + lane / 4, lane % 4);
    }
    return out;
}

__device__ inline uint32_t add_pairs(enum dtype t, uint32_t a, uint32_t b)
{
    uint32_t sum; /* rounded once; so is the sum in fp32 and its rounding, 24 bits being enough */

    if (t == DTYPE_F16)
        asm("add.rn.f16x2 %0, %1, %2;" : "=r"(sum) : "r"(a), "r"(b));
    else
        asm("add.rn.bf16x2 %0, %1, %2;" : "=r"(sum) : "r"(a), "r"(b));
    return sum;
}

/* 32 columns, the i-th of a tile: pairs as strip_store_pairs() takes them. */
template <enum dtype T>
__device__ inline void store_quickly(const struct gemm_lane &l, int i, const uint32_t (&p)[8],
                                     bool add, const uint4 (&old)[2])
{
#pragma unroll
    for (int j = 0; j < 2; j++)
        asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(
                         l.put[j] + i % 2 * 1024),
                     "r"(p[4 * j]), "r"(p[4 * j + 1]), "r"(p[4 * j + 2]), "r"(p[4 * j + 3])
                     : "memory");
    __syncwarp(); /* also: nobody reads the other room any more */
#pragma unroll
    for (int j = 0; j < 2; j++) {
        uint4 y = l.get[j][i % 2 * 64];

        if (add)
            y = make_uint4(add_pairs(T, old[j].x, y.x), add_pairs(T, old[j].y, y.y),
                           add_pairs(T, old[j].z, y.z), add_pairs(T, old[j].w, y.w));
        if (l.to[j])
            l.to[j][4 * i] = y;
    }
}

template <enum dtype T, bool ADD, int N>
__device__ inline void end_store_quickly(const struct gemm_lane &l, const float (&c)[N])
{
    constexpr int N_STRIPS = N / 16, AT_ONCE = N_STRIPS % 4 ? N_STRIPS : 4;

#pragma unroll
    for (int first = 0; first < N_STRIPS; first += AT_ONCE) {
        uint4 old[AT_ONCE][2] = {};

        if (ADD)
#pragma unroll
            for (int i = 0; i < 2 * AT_ONCE; i++)
                if (l.to[i % 2])
                    old[i / 2][i % 2] = l.to[i % 2][4 * (first + i / 2)];
#pragma unroll
        for (int i = 0; i < AT_ONCE; i++) {
            const int at = first + i;
            uint32_t p[8];

#pragma unroll
            for (int j = 0; j < 8; j++)
                p[j] = pack_pair(T, c[16 * at + 2 * j], c[16 * at + 2 * j + 1]);
            store_quickly<T>(l, at, p, ADD, old[i]);
        }
    }
    __syncwarp();
}

template <enum dtype T, int N>
__device__ inline void end_swiglu_quickly(const struct gemm_lane &l, const float (&c)[N])
{
    const uint4 none[2] = {};

#pragma unroll
    for (int i = 0; i < N / 32; i++) {
        float v[16], u[16];
        uint32_t p[8];

#pragma unroll
        for (int j = 0; j < 16; j++) {
            v[j] = c[16 * i + j];
            u[j] = c[N / 2 + 16 * i + j];
        }
        swiglu_pairs<8>(T, v, u, p);
        store_quickly<T>(l, i, p, false, none);
    }
    __syncwarp();
}

/* Whether the next n_cols columns are so, in the part of the first; in the row of all columns, or
 * of part 0 for SwiGLU. */
template <enum dtype T, enum gemm_end END>
__device__ inline bool is_quick(const struct gemm_sm90_job &job, int col, int n_cols)
{
    const int part = END == GEMM_SWIGLU ? 0 : part_of(job, col);
    const struct gemm_part &p = job.a.part[part];

    if (END == GEMM_SWIGLU && job.a.part[1].bias)
        return false;
    return job.a.y_t == T && !p.bias &&
           col - (END == GEMM_SWIGLU ? 0 : job.begin[part]) + n_cols <= p.n_out;
}

/* e^x for x <= 0, within 2^-21. */
__device__ inline float exp_of_negative(float x)
{
    x = x < -120.0f ? -120.0f : x;
    const float t = x * 0x1.715476p0f; /* fl(log2 e), and what t lacks: */
    const float rest = fmaf(x, 0x1.715476p0f, -t) + x * 0x1.4ae0cp-26f;
    float e;

    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(e) : "f"(t));
    return fmaf(e, rest * 0x1.62e430p-1f, e);
}

/* What remains of the logits of rows row + lane / 4 and 8 below. */
template <int N>
__device__ inline void end_nll(const struct gemm_sm90_job &job, int row, int tile,
                               const float (&c)[N])
{
    const int lane = threadIdx.x % 32, t = lane % 4, col = tile * 2 * N;
    const int n_cols = (int)job.a.part[0].n_out - col; /* that exist */

    if (n_cols <= 0)
        return;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int64_t r = row + lane / 4 + 8 * half;
        float most = -INFINITY;
        double sum = 0;

        /* No comparison with a NaN holds, so one that is found stays. */
#pragma unroll
        for (int i = 0; i < N / 2; i++) {
            float x = c[i / 2 * 4 + 2 * half + i % 2];
            if (i / 2 * 8 < n_cols)
                most = x > most || !(x == x) ? x : most;
        }
        for (int away = 1; away < 4; away *= 2) {
            float other = __shfl_xor_sync(0xFFFFFFFFu, most, away);
            most = most == most && (other > most || !(other == other)) ? other : most;
        }
        if (most > -INFINITY)
#pragma unroll
            for (int i = 0; i < N / 2; i++)
                if (i / 2 * 8 < n_cols)
                    sum += (double)exp_of_negative(c[i / 2 * 4 + 2 * half + i % 2] - most);
        for (int away = 1; away < 4; away *= 2)
            sum += __shfl_xor_sync(0xFFFFFFFFu, sum, away);
        if (r >= job.a.n_rows)
            continue;
        if (t == 0)
            job.a.nll.out[(job.a.nll.first_col / (2 * N) + tile) * job.a.n_rows + r] = { sum,
                                                                                         most };
        const int64_t at = job.a.nll.targets[r] - job.a.nll.first_col - col;
        if (at >= 0 && at < n_cols && at < 2 * N)
#pragma unroll
            for (int i = 0; i < N / 2; i++)
                if (i / 2 * 8 + 2 * t + i % 2 == at)
                    job.a.nll.target_logit[r] = c[i / 2 * 4 + 2 * half + i % 2];
    }
}

/* Two blocks have the sums of half of k each: the first block's half of the columns goes to it and
 * the other half to the other, through the ring ([sum / 4][thread]), which is free by then.  What a
 * block ends with is in the first half of c. */
template <class S>
__device__ inline void exchange_sums(const struct gemm_ring &r, const uint8_t *data,
                                     uint32_t sums_there, int rank, float (&c)[S::N_SUMS])
{
    static_assert(GEMM_SPLITS == 2, "two sums are the same in either order");
    constexpr int N = S::N_SUMS / 2;
    const int thread = threadIdx.x - 128;
    const uint32_t room = shared_of(r.data, rank ^ 1), counter = shared_of(sums_there, rank ^ 1);

#pragma unroll
    for (int i = 0; i < N; i++) {
        const float first = c[i], second = c[N + i];

        c[i] = rank ? second : first;
        c[N + i] = rank ? first : second;
    }
    cluster_meet(); /* nobody multiplies from the ring any more */
#pragma unroll
    for (int i = 0; i < N; i += 4)
        store_there(room + (i / 4 * 32 * S::N_WARPS + thread) * 16, counter, c[N + i], c[N + i + 1],
                    c[N + i + 2], c[N + i + 3]);
    barrier_wait_cluster(sums_there, 0);
#pragma unroll
    for (int i = 0; i < N; i += 4) {
        const float4 v = ((const float4 *)data)[i / 4 * 32 * S::N_WARPS + thread];

        c[i] += v.x;
        c[i + 1] += v.y;
        c[i + 2] += v.z;
        c[i + 3] += v.w;
    }
}

/* The sums of n_cols columns from `col` on (of the row of all columns; SwiGLU: of gate). */
template <class S, enum gemm_end END, typename V, int N>
__device__ inline void end_columns(const struct gemm_sm90_job &job, int row, int col, int n_cols,
                                   const V (&c)[N], uint4 *room)
{
    constexpr enum dtype T = S::BF16 ? DTYPE_BF16 : DTYPE_F16;

    if constexpr (!S::INT8) {
        if (is_quick<T, END>(job, col, n_cols)) {
            const int part = END == GEMM_SWIGLU ? 0 : part_of(job, col);
            const struct gemm_lane l =
                lane_of(job.a.part[part], job.a.n_rows, row,
                        col - (END == GEMM_SWIGLU ? 0 : job.begin[part]), room);

            if constexpr (END == GEMM_SWIGLU)
                end_swiglu_quickly<T>(l, c);
            else if (job.a.add)
                end_store_quickly<T, true>(l, c);
            else
                end_store_quickly<T, false>(l, c);
            return;
        }
    }
    if constexpr (END == GEMM_SWIGLU)
        end_swiglu(job, row, col, c, room);
    else
        end_store(job, row, col, c, room);
}

template <class S, enum gemm_end END>
__device__ inline void end_tile(const struct gemm_sm90_job &job, struct gemm_tile tile,
                                int warpgroup, const typename S::sum (&c)[S::N_SUMS], uint4 *room)
{
    const int row = tile.m * S::ROWS + warpgroup * 64 + threadIdx.x % 128 / 32 * 16;
    constexpr int COLS = END == GEMM_SWIGLU ? S::COLS / 2 : S::COLS;

    if constexpr (END == GEMM_NLL)
        end_nll(job, row, tile.n, c);
    else
        end_columns<S, END>(job, row, tile.n * COLS, COLS, c, room);
}

/* ---- the kernel ---- */

template <class S, enum gemm_end END, enum gemm_k K>
__device__ inline void empty_ring(const struct gemm_sm90_job &job, struct gemm_ring r,
                                  uint32_t sums_there, int rank, int cluster, int n_clusters,
                                  const uint8_t *data, uint4 *room)
{
    const int warpgroup = (int)threadIdx.x / 128 - 1, n_tiles = job.n_blocks_m * job.n_blocks_n;
    typename S::sum c[S::N_SUMS];

    wait_for_earlier_kernels();
    let_next_kernel_start();
    for (int i = cluster; i < n_tiles; i += n_clusters) {
        const struct gemm_tile tile = tile_at(job, i, K == K_SHARED ? 0 : rank);

        if constexpr (K == K_HALVES) {
            typename S::sum second[S::N_SUMS];

            make_sums<S>(r, job.n_steps / 2, warpgroup, c);
            make_sums<S>(r, job.n_steps / 2, warpgroup, second);
#pragma unroll
            for (int j = 0; j < S::N_SUMS; j++)
                c[j] += second[j];
        } else {
            make_sums<S>(r, job.n_steps, warpgroup, c);
        }
        if constexpr (K == K_SHARED) {
            constexpr int COLS = S::COLS / GEMM_SPLITS;
            const int row = tile.m * S::ROWS + warpgroup * 64 + threadIdx.x % 128 / 32 * 16;

            exchange_sums<S>(r, data, sums_there, rank, c);
            end_columns<S, END>(job, row, tile.n * S::COLS + rank * COLS, COLS,
                                (const float(&)[S::N_SUMS / GEMM_SPLITS]) c, room);
        } else {
            end_tile<S, END>(job, tile, warpgroup, c, room);
        }
    }
}

template <class S, enum gemm_end END, enum gemm_k K>
__device__ inline void gemm_block(const struct gemm_sm90_job &job, uint8_t *data,
                                  uint64_t *barriers, uint4 (*room)[128])
{
    const int n_in_cluster = K == K_SHARED ? GEMM_SPLITS : job.cm * job.cn;
    const int rank = (int)cluster_rank();
    const int cluster = blockIdx.x / n_in_cluster, n_clusters = gridDim.x / n_in_cluster;
    const int place = K == K_SHARED ? 0 : rank;
    const int first_step = K == K_SHARED ? rank * job.n_steps : 0;
    const uint32_t full = shared_address(barriers), empty = full + 8 * S::N_STAGES;
    const uint32_t sums_there = empty + 8 * S::N_STAGES;
    const struct gemm_ring r = { .data = shared_address(data),
                                 .full = full,
                                 .empty = empty,
                                 .give = where_to_give(job, empty, place),
                                 .stage = 0,
                                 .parity = 0,
                                 .alone = job.cm * job.cn == 1 };

    if (threadIdx.x == 0) {
        for (int i = 0; i < S::N_STAGES; i++) {
            barrier_init(full + 8 * i, 2);
            barrier_init(empty + 8 * i, S::N_WARPS * (job.cm + job.cn - 1));
        }
        barrier_init(sums_there, 1);
        barriers_made();
        if (K == K_SHARED)
            barrier_expect(sums_there,
                           (GEMM_SPLITS - 1) * (S::N_SUMS / GEMM_SPLITS) * 4 * 32 * S::N_WARPS);
    }
    __syncthreads();
    if (n_in_cluster > 1)
        cluster_meet();
    if (threadIdx.x < 128) {
        if (S::N_WARPS == 8)
            asm volatile("setmaxnreg.dec.sync.aligned.u32 56;");
        if (threadIdx.x >= 64) { /* nobody need wait for these two warps where blocks meet */
            if (n_in_cluster > 1)
                cluster_arrive();
            if (n_in_cluster > 1)
                cluster_wait();
            return;
        }
        if (threadIdx.x == 0)
            fill_ring<S, END, true>(job, r, first_step, place, cluster, n_clusters);
        else if (threadIdx.x == 32)
            fill_ring<S, END, false>(job, r, first_step, place, cluster, n_clusters);
        __syncwarp();
        if (K == K_SHARED)
            cluster_meet();
    } else {
        if (S::N_WARPS == 8)
            asm volatile("setmaxnreg.inc.sync.aligned.u32 224;");
        empty_ring<S, END, K>(job, r, sums_there, rank, cluster, n_clusters, data,
                              room[threadIdx.x / 32 - 4]);
    }
    if (K != K_SHARED && n_in_cluster > 1) /* others may still write here */
        cluster_meet();
}

#endif

template <enum gemm_operand OP, int WGS, int BN, enum gemm_end END, enum gemm_k K>
__global__ static void __launch_bounds__(128 * (WGS + 1), 1)
    gemm(const __grid_constant__ struct gemm_sm90_job job)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    typedef struct gemm_shape<OP, WGS, BN> S;
    extern __shared__ uint8_t memory[];
    __shared__ uint64_t barriers[2 * S::N_STAGES + 1]; /* gemm_sm90_runs() looks for these */
    __shared__ uint4 room[S::N_WARPS][128];
    uint8_t *data = memory + (-shared_address(memory) & 1023);

    gemm_block<S, END, K>(job, data, barriers, room);
#endif
}

/* One of the kernels, and what its start needs to know. */
struct gemm_kernel {
    const void *start;
    int rows, cols, n_threads, memory, step;
    bool split; /* K_SHARED */
};

template <enum gemm_operand OP, int WGS, int BN, enum gemm_end END, enum gemm_k K = K_WHOLE>
static struct gemm_kernel gemm_kernel_of()
{
    typedef struct gemm_shape<OP, WGS, BN> S;

    return { (const void *)gemm<OP, WGS, BN, END, K>,
             S::ROWS,
             S::COLS,
             S::N_THREADS,
             S::MEMORY,
             S::STEP,
             K == K_SHARED };
}

/* Kernel i with this end, for products whose k is split or not; start NULL: there is none. */
template <enum gemm_operand OP>
static struct gemm_kernel gemm_16bit_kernel(enum gemm_end end, bool split, int i)
{
    if (end == GEMM_NLL)
        return i == 0 ? gemm_kernel_of<OP, 2, GEMM_NLL_COLS, GEMM_NLL>() : gemm_kernel{};
    if (end == GEMM_SWIGLU)
        return i == 0   ? gemm_kernel_of<OP, 2, 256, GEMM_SWIGLU>()
               : i == 1 ? gemm_kernel_of<OP, 1, 128, GEMM_SWIGLU>()
                        : gemm_kernel{};
    if (split)
        return i == 0   ? gemm_kernel_of<OP, 2, 256, GEMM_STORE, K_SHARED>()
               : i == 1 ? gemm_kernel_of<OP, 2, 192, GEMM_STORE, K_SHARED>()
               : i == 2 ? gemm_kernel_of<OP, 2, 128, GEMM_STORE, K_SHARED>()
               : i == 3 ? gemm_kernel_of<OP, 1, 128, GEMM_STORE, K_SHARED>()
               : i == 4 ? gemm_kernel_of<OP, 2, 128, GEMM_STORE, K_HALVES>()
                        : gemm_kernel{};
    return i == 0   ? gemm_kernel_of<OP, 2, 256, GEMM_STORE>()
           : i == 1 ? gemm_kernel_of<OP, 2, 128, GEMM_STORE>()
           : i == 2 ? gemm_kernel_of<OP, 2, 96, GEMM_STORE>()
           : i == 3 ? gemm_kernel_of<OP, 1, 192, GEMM_STORE>()
           : i == 4 ? gemm_kernel_of<OP, 1, 128, GEMM_STORE>()
           : i == 5 ? gemm_kernel_of<OP, 1, 64, GEMM_STORE>()
                    : gemm_kernel{};
}

/* What makes maps for the copy engine, of the driver. */
int gemm_sm90_encoder(PFN_cuTensorMapEncodeTiled_v12000 *out, struct err *e);

struct gemm_kernel gemm_f16_kernel(enum gemm_end end, bool split, int i);
struct gemm_kernel gemm_bf16_kernel(enum gemm_end end, bool split, int i);
struct gemm_kernel gemm_int8_kernel(enum gemm_end end, bool split, int i);

/* A map of [n_rows, n_k] with rows ld bytes apart, in boxes of 128 bytes by box_rows. */
int gemm_map(const struct gemm_args *a, const void *data, int64_t ld, int64_t n_rows, int step,
             int box_rows, CUtensorMap *out, struct err *e);
/* How many blocks, in clusters, find room at the same time; remembered. */
int gemm_n_resident(struct cuda_state *s, const cudaLaunchConfig_t *config,
                    const struct gemm_kernel *k, int n_in_cluster);
