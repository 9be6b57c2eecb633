/* gemm_codes.cuh - y = x W^T of some hundred rows on Hopper where W is 4-bit codes in arrangement
 * 1: the kernel; gemm_codes_*.cu compile it for one type each, gemm_codes.cu starts it.
 *
 * W made plain in memory first is 2 bytes a weight to write and to read again: for 512 rows half
 * as much time as the product itself.  Here W is the operand that the tensor cores take from
 * registers: y^T = W x^T.  A tile is 128 rows of W ("columns" of y, 64 of each of two warpgroups)
 * by N rows of x, which the copy engine brings in steps of 64 k to a ring in shared memory.  Lanes
 * read their codes from memory, a chunk ahead, and make their part of the operand:
 *
 *   codes      a lane has 8 columns side by side in a word, the operand wants pairs of columns of 4
 *              words: four lanes exchange bytes
 *   values     pairs of them from a table in shared memory, times the scale, rounded
 *
 * A chunk of 128 k and 256 rows is 2048 clocks of the tensor cores, 64 KB of x and 8 KB of codes; a
 * warp makes its operand in some 480 instructions, all at once, for each is long under way, and a
 * warp stays where it issues products whose operand is in registers: that of a warpgroup is made
 * while the other multiplies.  A sum is the same chain over k as in gemm_sm90.cuh, so its bits are,
 * too; so is the split of a long k over two blocks.  */
#pragma once

#include "gemm_sm90.cuh"
#include "unpack.cuh"

#define CODES_COLS  128 /* of a tile: rows of W */
#define CODES_UNITS (CODES_COLS / UNIT_ROWS)

struct gemm_codes_part {
    const uint8_t *codes;
    const void *scales, *zeros;
    const float *scales2;
    float nested_offset;
    uint16_t *y;
    const void *bias; /* or NULL */
    int32_t ldy, n_out;
    int32_t begin; /* tile of W that the part begins with */
};

struct gemm_codes_job {
    CUtensorMap x;
    struct gemm_codes_part part[GEMM_PARTS_MAX];
    enum scale_form scale_form;
    enum zero_form zero_form; /* CONSTANT: `table` has it in */
    enum dtype bias_t;
    bool add;
    float table[16]; /* of a code */
    const float *map;
    int32_t n_rows, n_x, n_w; /* of x; tiles of x; of W */
    int32_t n_chunks, n_all;  /* of 128 k: of a block, of a row */
    int32_t n_groups, shift;  /* of a row; 64 << shift columns a group */
    int32_t cw;               /* tiles of W side by side in a cluster, of the same rows of x */
};

template <bool BF16_, int ROWS_> struct codes_shape {
    static constexpr bool BF16 = BF16_;
    static constexpr enum dtype T = BF16_ ? DTYPE_BF16 : DTYPE_F16;
    static constexpr int ROWS = ROWS_, N_SUMS = ROWS_ / 2; /* of x; sums of a thread */
    static constexpr int PLACE_BYTES = ROWS_ * STEP_BYTES;
    static constexpr int N_STAGES = ROWS_ == 256 ? 5 : 8;
    static constexpr int MEMORY = N_STAGES * PLACE_BYTES + 1024; /* to be aligned to 1024 */
    static constexpr int N_WARPS = 8, N_THREADS = 384;
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

/* ---- codes to values ---- */

/* A lane's part of a chunk of two units, as it lies in memory: codes of row lane / 4 of both; of
 * the four scales of those rows, one for each half of 64 columns, one: of unit lane % 2, half lane
 * / 2 % 2. */
struct codes_raw {
    uint4 codes[2];
    uint32_t scale, zero;
    float second;
};

/* Where a warp's two units are, whose rows are 0 .. 7 and 8 .. 15 of its 16. */
template <enum gemm_end END> struct codes_place {
    int own_part, unit[2];
    uint32_t codes[2]; /* a lane's first byte */
    /* of its scale */
    const void *scales, *zeros;
    const float *scales2;
    float nested_offset;
    int32_t number, group; /* the row's first scale, as they lie; first group */

    __device__ int part(int u) const
    {
        return END == GEMM_SWIGLU ? u : own_part;
    }
};

template <enum gemm_end END>
__device__ inline void load_chunk(const struct gemm_codes_job &job,
                                  const struct codes_place<END> &p, int chunk,
                                  struct codes_raw &out)
{
    const int group = (2 * chunk + (threadIdx.x / 2 & 1)) >> job.shift;
    const int at = p.number + group * UNIT_ROWS;

#pragma unroll
    for (int u = 0; u < 2; u++)
        out.codes[u] =
            load_16(job.part[p.part(u)].codes + (p.codes[u] + (uint32_t)chunk * (CHUNK_COLS * 4)));
    out.scale = scale_bits(job.scale_form, p.scales, at);
    if (has_second(job.scale_form))
        out.second = __ldg(p.scales2 + (p.group + group) / WEIGHT_NESTED_RUN);
    if (job.zero_form != ZERO_CONSTANT)
        out.zero = zero_bits(job.zero_form, p.zeros, at);
}

/* So that they are on their way from memory; the kernel before may still write them. */
template <enum gemm_end END>
__device__ inline void fetch_chunk(const struct gemm_codes_job &job,
                                   const struct codes_place<END> &p, int chunk)
{
#pragma unroll
    for (int u = 0; u < 2; u++)
        asm volatile("prefetch.global.L2 [%0];" ::"l"(
            job.part[p.part(u)].codes + (p.codes[u] + (uint32_t)chunk * (CHUNK_COLS * 4))));
}

/* Four bytes of words that four lanes have become byte t of each of the four: two words at once. */
__device__ inline void exchange_bytes(uint32_t &a, uint32_t &b)
{
    const bool odd = threadIdx.x & 1, upper = threadIdx.x & 2;
    uint32_t other;

    other = __shfl_xor_sync(0xFFFFFFFFu, pick_bytes(a, b, odd ? 0x6420 : 0x7531), 1);
    a = pick_bytes(a, other, odd ? 0x3514 : 0x5240);
    b = pick_bytes(b, other, odd ? 0x3716 : 0x7260);
    other = __shfl_xor_sync(0xFFFFFFFFu, pick_bytes(a, b, upper ? 0x5410 : 0x7632), 2);
    a = pick_bytes(a, other, upper ? 0x3254 : 0x5410);
    b = pick_bytes(b, other, upper ? 0x3276 : 0x7610);
}

__device__ inline void fill_lookup(char *lookup, const float (&table)[16], int thread)
{
    for (int i = thread; i < 256 * TABLE_COPIES / 2; i += 256) {
        const int byte = i / (TABLE_COPIES / 2);
        const float low = table[byte & 15], high = table[byte >> 4];

        ((float4 *)lookup)[i] = make_float4(low, high, low, high);
    }
}

/* Values of eight codes from a table of all pairs, as codes_4 in unpack.cuh has it. */
template <bool BF16, bool ZERO>
__device__ inline void values_at(const char *lookup, uint32_t codes, struct scale_zero g,
                                 uint32_t (&out)[4])
{
    const uint32_t own = threadIdx.x % TABLE_COPIES * 8;

#pragma unroll
    for (int i = 0; i < 4; i++) {
        float2 v = *(const float2 *)(lookup + __dp4a(codes, 128u << 8 * i, own));

        if (ZERO) {
            v.x -= g.zero;
            v.y -= g.zero;
        }
        out[i] = pack_pair<BF16>(v.x * g.scale, v.y * g.scale);
    }
}

/* The operand of a chunk, eight products of 16 k. */
template <class S, bool ZERO>
__device__ inline void make_operand(const struct gemm_codes_job &job, const uint32_t (&word)[2][4],
                                    struct scale_zero own, const char *lookup,
                                    uint32_t (&out)[8][4])
{
#pragma unroll
    for (int from = 0; from < 4; from++) {
        struct scale_zero g = { __shfl_sync(0xFFFFFFFFu, own.scale, from, 4), 0.0f };
        const int u = from % 2;

        if (ZERO)
            g.zero = __shfl_sync(0xFFFFFFFFu, own.zero, from, 4);
#pragma unroll
        for (int i = from / 2 * 2; i < from / 2 * 2 + 2; i++) {
            uint32_t pair[4];

            values_at<S::BF16, ZERO>(lookup, word[u][i], g, pair);
            out[2 * i][u] = pair[0];
            out[2 * i][2 + u] = pair[1];
            out[2 * i + 1][u] = pair[2];
            out[2 * i + 1][2 + u] = pair[3];
        }
    }
}

/* ---- the ring ---- */

/* The tile of this block in the i-th cluster of tiles: rows of x go first, for codes come from far
 * and x stays near. */
struct codes_tile {
    int x, w;
};

__device__ inline struct codes_tile codes_tile_at(const struct gemm_codes_job &job, int i, int rank)
{
    return { i % job.n_x, i / job.n_x * job.cw + rank };
}

__device__ inline int n_codes_tiles(const struct gemm_codes_job &job)
{
    return job.n_x * ((job.n_w + job.cw - 1) / job.cw);
}

template <class S>
__device__ inline void fill_with_x(const struct gemm_codes_job &job, struct gemm_ring r,
                                   int first_step, int rank, int rank_w, int cluster,
                                   int n_clusters)
{
    const int rows = S::ROWS / job.cw, n_tiles = n_codes_tiles(job);
    const uint16_t blocks = (uint16_t)(job.cw > 1 ? 3u << (rank - rank_w) : 0);

    fetch_map(&job.x);
    wait_for_earlier_kernels();
    for (int i = cluster; i < n_tiles; i += n_clusters) {
        const struct codes_tile tile = codes_tile_at(job, i, rank_w);

        for (int step = first_step; step < first_step + 2 * job.n_chunks; step++) {
            barrier_wait(r.empty + 8 * r.stage, r.parity ^ 1);
            barrier_expect(r.full + 8 * r.stage, S::PLACE_BYTES);
            bring(&job.x, step * 64, tile.x * S::ROWS + rank_w * rows,
                  r.data + r.stage * S::PLACE_BYTES + rank_w * rows * STEP_BYTES,
                  r.full + 8 * r.stage, blocks);
            advance<S::N_STAGES>(r);
        }
    }
}

template <enum gemm_end END>
__device__ inline codes_place<END> place_of(const struct gemm_codes_job &job,
                                            struct codes_tile tile, int warp)
{
    const int lane = threadIdx.x % 32;
    codes_place<END> p = {};
    int first = tile.w * (CODES_UNITS / 2) + warp;

    if (END != GEMM_SWIGLU) {
        p.own_part = (tile.w >= job.part[1].begin) + (tile.w >= job.part[2].begin);
        first = (tile.w - job.part[p.own_part].begin) * CODES_UNITS + 2 * warp;
    }
#pragma unroll
    for (int u = 0; u < 2; u++) { /* what is outside is not stored */
        const int n = job.part[p.part(u)].n_out / UNIT_ROWS;
        const int at = first + (END == GEMM_SWIGLU ? 0 : u);

        p.unit[u] = at < n ? at : n - 1;
        p.codes[u] = (uint32_t)(p.unit[u] * job.n_all) * (CHUNK_COLS * 4) + 16 * lane;
    }
    const struct gemm_codes_part &own = job.part[p.part(lane % 2)];
    const int unit = lane % 2 ? p.unit[1] : p.unit[0];
    p.scales = own.scales;
    p.zeros = own.zeros;
    p.scales2 = own.scales2;
    p.nested_offset = own.nested_offset;
    p.number = unit * job.n_groups * UNIT_ROWS + lane / 4;
    p.group = (unit * UNIT_ROWS + lane / 4) * job.n_groups;
    return p;
}

/* `raw` has the first chunk.  A warp stays where it issues products with an operand in registers
 * until most of them are through, and a value is long under way: so the operand of a whole chunk is
 * made at once, while the other warpgroup multiplies. */
template <class S, enum gemm_end END, bool ZERO>
__device__ inline void sum_codes(const struct gemm_codes_job &job, struct gemm_ring &r,
                                 const struct codes_place<END> &place, int first_chunk,
                                 const char *lookup, struct codes_raw &raw, float (&c)[S::N_SUMS])
{
    int last[2] = {};

    for (int chunk = 0; chunk < job.n_chunks; chunk++) {
        const struct scale_zero own = { scale_value(job.scale_form, raw.scale, raw.second,
                                                    place.nested_offset, job.map),
                                        ZERO ? zero_value(job.zero_form, raw.zero, 0.0f) : 0.0f };
        uint32_t word[2][4], a[8][4];

#pragma unroll
        for (int u = 0; u < 2; u++) {
            word[u][0] = raw.codes[u].x, word[u][1] = raw.codes[u].y;
            word[u][2] = raw.codes[u].z, word[u][3] = raw.codes[u].w;
        }
        if (chunk + 1 < job.n_chunks)
            load_chunk(job, place, first_chunk + chunk + 1, raw);
        if (chunk + 4 < job.n_chunks)
            fetch_chunk(job, place, first_chunk + chunk + 4);
#pragma unroll
        for (int u = 0; u < 2; u++) {
            exchange_bytes(word[u][0], word[u][1]);
            exchange_bytes(word[u][2], word[u][3]);
        }
        if (chunk) { /* nobody reads the operand before this one any more */
            products_wait<0>();
            give_back(r, last[0]);
            give_back(r, last[1]);
        }
#pragma unroll
        for (int u = 0; u < 2; u++)
#pragma unroll
            for (int i = 0; i < 4; i++)
                asm volatile("" : "+r"(word[u][i])::"memory");
        make_operand<S, ZERO>(job, word, own, lookup, a);
        const int next = r.stage + 1 < S::N_STAGES ? r.stage + 1 : 0;
        const uint32_t at[2] = { r.data + r.stage * S::PLACE_BYTES,
                                 r.data + next * S::PLACE_BYTES };

        last[0] = r.stage;
        last[1] = next;
#pragma unroll
        for (int half = 0; half < 2; half++) {
            barrier_wait(r.full + 8 * r.stage, r.parity);
            advance<S::N_STAGES>(r);
        }
        products_begin();
#pragma unroll
        for (int k = 0; k < 8; k++)
            multiply_registers<S::BF16>(c, a[k], tile_descriptor(at[k / 4]) + 2 * (k % 4),
                                        chunk | k);
        products_commit();
    }
    products_wait<0>();
    products_done(c);
    give_back(r, last[0]);
    give_back(r, last[1]);
}

/* ---- ends ---- */

template <enum gemm_end END, int N>
__device__ inline void add_bias(const struct gemm_codes_job &job, const struct codes_place<END> &p,
                                float (&c)[N])
{
    float b[2] = {};

    if (!job.part[p.part(0)].bias && !job.part[p.part(1)].bias)
        return;
#pragma unroll
    for (int u = 0; u < 2; u++)
        if (job.part[p.part(u)].bias)
            b[u] = load_value(job.bias_t, job.part[p.part(u)].bias,
                              p.unit[u] * UNIT_ROWS + threadIdx.x % 32 / 4);
#pragma unroll
    for (int i = 0; i < N; i += 4) {
        c[i] += b[0];
        c[i + 1] += b[0];
        c[i + 2] += b[1];
        c[i + 3] += b[1];
    }
}

__device__ inline void warpgroup_meet(int warpgroup)
{
    if (warpgroup)
        asm volatile("bar.sync 2, 128;" ::: "memory");
    else
        asm volatile("bar.sync 1, 128;" ::: "memory");
}

/* A warpgroup's columns of 2 N rows of y, from `row` on: transposed in its room, 64 rows at a time
 * in turns of two. */
template <enum dtype T, enum gemm_end END, int N>
__device__ inline void store_transposed(const struct gemm_codes_job &job,
                                        const struct gemm_codes_part &part, int row, int col,
                                        int warpgroup, const float (&c)[N], uint4 (&room)[2][512])
{
    constexpr int N_VECTORS = END == GEMM_SWIGLU ? 4 : 8, N_LOADS = 64 * N_VECTORS / 128;
    const int thread = threadIdx.x % 128, warp = thread / 32, lane = thread % 32;

#pragma unroll
    for (int first = 0; first < N; first += 32) { /* 8 blocks of 8 rows */
        uint4 *here = room[first / 32 % 2], old[N_LOADS] = {};
        uint4 *to[N_LOADS];

#pragma unroll
        for (int i = 0; i < N_LOADS; i++) {
            const int at = i * 128 + thread, r = row + 2 * first + at / N_VECTORS;
            const int column = col + at % N_VECTORS * 8;

            to[i] = r < job.n_rows && column < part.n_out
                        ? (uint4 *)(part.y + (int64_t)r * part.ldy + column)
                        : NULL;
            if (END == GEMM_STORE && job.add && to[i])
                old[i] = *to[i];
        }
        if constexpr (END == GEMM_SWIGLU) {
            float gate[16], up[16];
            uint32_t p[8];

#pragma unroll
            for (int i = 0; i < 16; i++) {
                gate[i] = c[first + i / 2 * 4 + i % 2];
                up[i] = c[first + i / 2 * 4 + 2 + i % 2];
            }
            swiglu_pairs<8>(T, gate, up, p);
#pragma unroll
            for (int j = 0; j < 2; j++) {
                const int r = 32 * j + lane;
                store_matrices(here + r * 4 + (warp ^ (r >> 1 & 3)), p[4 * j], p[4 * j + 1],
                               p[4 * j + 2], p[4 * j + 3]);
            }
        } else {
#pragma unroll
            for (int j = 0; j < 4; j++) {
                const int r = 16 * j + lane / 16 * 8 + lane % 8, v = 2 * warp + lane / 8 % 2;
                const float *s = c + first + 8 * j;
                store_matrices(here + r * 8 + (v ^ (r & 7)), pack_pair(T, s[0], s[1]),
                               pack_pair(T, s[2], s[3]), pack_pair(T, s[4], s[5]),
                               pack_pair(T, s[6], s[7]));
            }
        }
        warpgroup_meet(warpgroup); /* whoever read the other room is through, too */
#pragma unroll
        for (int i = 0; i < N_LOADS; i++) {
            const int at = i * 128 + thread, r = at / N_VECTORS, v = at % N_VECTORS;
            uint4 y = here[r * N_VECTORS + (v ^ (N_VECTORS == 4 ? r >> 1 & 3 : r & 7))];

            if (END == GEMM_STORE && job.add)
                y = make_uint4(add_pairs(T, old[i].x, y.x), add_pairs(T, old[i].y, y.y),
                               add_pairs(T, old[i].z, y.z), add_pairs(T, old[i].w, y.w));
            if (to[i])
                *to[i] = y;
        }
    }
    warpgroup_meet(warpgroup);
}

template <class S, enum gemm_end END, int N>
__device__ inline void end_codes(const struct gemm_codes_job &job, struct codes_tile tile,
                                 const struct codes_place<END> &p, int row, int warpgroup,
                                 float (&c)[N], uint4 (&room)[2][512])
{
    constexpr int COLS = END == GEMM_SWIGLU ? CODES_COLS / 2 : CODES_COLS;
    const int col = (tile.w - (END == GEMM_SWIGLU ? 0 : job.part[p.part(0)].begin)) * COLS;

    add_bias(job, p, c);
    store_transposed<S::T, END>(job, job.part[p.part(0)], row, col + warpgroup * (COLS / 2),
                                warpgroup, c, room);
}

/* ---- the kernel ---- */

struct codes_block {
    int rank, rank_k, rank_w; /* in the cluster; of the parts of k, of the tiles of W */
    int cluster, n_clusters, first_chunk;
    uint32_t sums_there;
};

/* Two blocks have half of k each: as exchange_sums() in gemm_sm90.cuh. */
template <class S>
__device__ inline void exchange_halves(const struct codes_block &b, const struct gemm_ring &r,
                                       const uint8_t *data, int other, float (&c)[S::N_SUMS])
{
    constexpr int N = S::N_SUMS / 2;
    const int thread = threadIdx.x - 128;
    const uint32_t room = shared_of(r.data, other), counter = shared_of(b.sums_there, other);

#pragma unroll
    for (int i = 0; i < N; i++) {
        const float first = c[i], second = c[N + i];

        c[i] = b.rank_k ? second : first;
        c[N + i] = b.rank_k ? first : second;
    }
    cluster_meet(); /* nobody multiplies from the ring any more */
#pragma unroll
    for (int i = 0; i < N; i += 4)
        store_there(room + (i / 4 * 256 + thread) * 16, counter, c[N + i], c[N + i + 1],
                    c[N + i + 2], c[N + i + 3]);
    barrier_wait_cluster(b.sums_there, 0);
#pragma unroll
    for (int i = 0; i < N; i += 4) {
        const float4 v = ((const float4 *)data)[i / 4 * 256 + thread];

        c[i] += v.x;
        c[i + 1] += v.y;
        c[i + 2] += v.z;
        c[i + 3] += v.w;
    }
}

template <class S, enum gemm_end END, bool SPLIT, bool ZERO>
__device__ inline void multiply_codes(const struct gemm_codes_job &job, const struct codes_block &b,
                                      struct gemm_ring r, const uint8_t *data, char *lookup,
                                      uint4 (&room)[2][512])
{
    const int warp = (int)threadIdx.x / 32 - 4, warpgroup = warp / 4;
    const int n_tiles = n_codes_tiles(job);
    struct codes_tile tile = codes_tile_at(job, b.cluster, b.rank_w);
    struct codes_place<END> place = place_of<END>(job, tile, warp);
    struct codes_raw raw = {};
    float c[S::N_SUMS];

    for (int i = 0; i < 4 && i < job.n_chunks; i++)
        fetch_chunk(job, place, b.first_chunk + i);
    fill_lookup(lookup, job.table, threadIdx.x - 128);
    asm volatile("bar.sync 3, 256;" ::: "memory");
    wait_for_earlier_kernels();
    let_next_kernel_start();
    load_chunk(job, place, b.first_chunk, raw);
    for (int i = b.cluster; i < n_tiles; i += b.n_clusters) {
        const struct codes_tile here = tile;
        const struct codes_place<END> its = place;

        sum_codes<S, END, ZERO>(job, r, its, b.first_chunk, lookup, raw, c);
        if (i + b.n_clusters < n_tiles) { /* on its way while this one ends */
            tile = codes_tile_at(job, i + b.n_clusters, b.rank_w);
            place = place_of<END>(job, tile, warp);
            load_chunk(job, place, b.first_chunk, raw);
        }
        if constexpr (SPLIT) {
            exchange_halves<S>(b, r, data, b.rank ^ job.cw, c);
            end_codes<S, END>(job, here, its, here.x * S::ROWS + b.rank_k * (S::ROWS / 2),
                              warpgroup, (float(&)[S::N_SUMS / 2]) c, room);
        } else {
            end_codes<S, END>(job, here, its, here.x * S::ROWS, warpgroup, c, room);
        }
    }
}

template <class S, enum gemm_end END, bool SPLIT, bool ZERO>
__device__ inline void codes_kernel(const struct gemm_codes_job &job, uint8_t *data,
                                    uint64_t *barriers, char *lookup, uint4 (*room)[2][512])
{
    const int n_in_cluster = (SPLIT ? GEMM_SPLITS : 1) * job.cw, rank = (int)cluster_rank();
    const uint32_t full = shared_address(barriers), empty = full + 8 * S::N_STAGES;
    const int rank_k = SPLIT ? rank / job.cw : 0;
    const struct codes_block b = { .rank = rank,
                                   .rank_k = rank_k,
                                   .rank_w = rank - rank_k * job.cw,
                                   .cluster = (int)blockIdx.x / n_in_cluster,
                                   .n_clusters = (int)gridDim.x / n_in_cluster,
                                   .first_chunk = rank_k * job.n_chunks,
                                   .sums_there = empty + 8 * S::N_STAGES };
    const int lane = threadIdx.x % 32;
    const struct gemm_ring r = { .data = shared_address(data),
                                 .full = full,
                                 .empty = empty,
                                 .give =
                                     lane < job.cw ? shared_of(empty, rank - b.rank_w + lane) : 0,
                                 .stage = 0,
                                 .parity = 0,
                                 .alone = job.cw == 1 };

    if (threadIdx.x == 0) {
        for (int i = 0; i < S::N_STAGES; i++) {
            barrier_init(full + 8 * i, 1);
            barrier_init(empty + 8 * i, S::N_WARPS * job.cw);
        }
        barrier_init(b.sums_there, 1);
        barriers_made();
        if (SPLIT)
            barrier_expect(b.sums_there, S::N_SUMS / 2 * 4 * 256);
    }
    __syncthreads();
    if (n_in_cluster > 1)
        cluster_meet();
    if (threadIdx.x < 128) {
        asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
        if (threadIdx.x == 0)
            fill_with_x<S>(job, r, 2 * b.first_chunk, rank, b.rank_w, b.cluster, b.n_clusters);
        __syncwarp();
        if (SPLIT)
            cluster_meet();
    } else {
        asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
        multiply_codes<S, END, SPLIT, ZERO>(job, b, r, data, lookup, room[threadIdx.x / 128 - 1]);
    }
    if (n_in_cluster > 1) /* others may still write here */
        cluster_meet();
}

#endif

/* ZERO: groups have a zero point that is stored.  A kernel is compiled for each case: where the
 * loop over k asks at run time, it holds both ways of making an operand (256 rows of x, k split:
 * 815 instructions instead of 489), and ptxas lets no part of one be made while x is waited for. */
template <bool BF16, int ROWS, enum gemm_end END, bool SPLIT, bool ZERO>
__global__ static void __launch_bounds__(384, 1)
    gemm_codes(const __grid_constant__ struct gemm_codes_job job)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    typedef struct codes_shape<BF16, ROWS> S;
    extern __shared__ uint8_t memory[];
    __shared__ uint64_t barriers[2 * S::N_STAGES + 1];
    __shared__ uint4 room[2][2][512];
    __shared__ __align__(16) char lookup[256 * TABLE_COPIES * 8];
    uint8_t *data = memory + (-shared_address(memory) & 1023);

    codes_kernel<S, END, SPLIT, ZERO>(job, data, barriers, lookup, room);
#endif
}

template <bool BF16, int ROWS, enum gemm_end END, bool SPLIT, bool ZERO>
static struct gemm_kernel gemm_codes_kernel_of()
{
    typedef struct codes_shape<BF16, ROWS> S;

    return { (const void *)gemm_codes<BF16, ROWS, END, SPLIT, ZERO>,
             ROWS,
             CODES_COLS,
             S::N_THREADS,
             S::MEMORY,
             64,
             SPLIT };
}

/* Kernel i for this end, as gemm_16bit_kernel() has it. */
template <bool BF16, enum gemm_end END, bool SPLIT, bool ZERO>
static struct gemm_kernel gemm_codes_end_kernel(int i)
{
    if constexpr (!SPLIT)
        if (i == 2)
            return gemm_codes_kernel_of<BF16, 64, END, false, ZERO>();
    return i == 0   ? gemm_codes_kernel_of<BF16, 256, END, SPLIT, ZERO>()
           : i == 1 ? gemm_codes_kernel_of<BF16, 128, END, SPLIT, ZERO>()
                    : gemm_kernel{};
}

template <bool BF16, bool ZERO>
static struct gemm_kernel gemm_codes_zero_kernel(enum gemm_end end, bool split, int i)
{
    if (end == GEMM_SWIGLU)
        return gemm_codes_end_kernel<BF16, GEMM_SWIGLU, false, ZERO>(i);
    return split ? gemm_codes_end_kernel<BF16, GEMM_STORE, true, ZERO>(i)
                 : gemm_codes_end_kernel<BF16, GEMM_STORE, false, ZERO>(i);
}

template <bool BF16>
static struct gemm_kernel gemm_codes_16bit(enum gemm_end end, bool split, bool zero, int i)
{
    return zero ? gemm_codes_zero_kernel<BF16, true>(end, split, i)
                : gemm_codes_zero_kernel<BF16, false>(end, split, i);
}

/* zero: groups have a zero point that is stored. */
struct gemm_kernel gemm_codes_f16_kernel(enum gemm_end end, bool split, bool zero, int i);
struct gemm_kernel gemm_codes_bf16_kernel(enum gemm_end end, bool split, bool zero, int i);
