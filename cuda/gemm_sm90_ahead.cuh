/* gemm_sm90_ahead.cuh - inner to gemm_sm90.cuh: two warps of a block make 4-bit weights of a later
 * product plain (linear_ahead.cuh), dequantize()'s values.
 *
 * A warp takes a chunk of 8 rows by 128 columns at a time, the next one on its way to registers and
 * later ones to the L2: 16 bytes in and 64 out a lane.  Codes are looked up in a table that every
 * lane has for itself, so that they meet no bank twice.  */
#pragma once

#include "gemm.cuh"
#include "unpack.cuh"

#define AHEAD_WARPS 2

struct gemm_ahead_room {
    float table[16][32]; /* [code][lane] */
    float map[256];
};

struct gemm_ahead_chunk {
    uint4 codes;
    uint32_t scale[2], zero[2]; /* of columns 0 .. 63 and 64 .. 127, as stored */
    float second;
};

__device__ inline void load_ahead(const struct gemm_ahead &a, const struct gemm_ahead_piece &p,
                                  int i, struct gemm_ahead_chunk &out)
{
    const int lane = threadIdx.x % 32, unit = i / p.n_chunks, chunk = i % p.n_chunks;
    const int group = chunk * CHUNK_COLS / p.group_size;
    const int64_t at = ((int64_t)unit * p.n_groups + group) * UNIT_ROWS + lane / 4;
    const int further = p.group_size < CHUNK_COLS ? UNIT_ROWS : 0;

    out.codes = load_16(p.codes + (int64_t)i * (CHUNK_COLS * 4) + 16 * lane);
    out.scale[0] = scale_bits(a.scale_form, p.scales, at);
    out.scale[1] = scale_bits(a.scale_form, p.scales, at + further);
    out.zero[0] = zero_bits(a.zero_form, p.zeros, at);
    out.zero[1] = zero_bits(a.zero_form, p.zeros, at + further);
    out.second = 0;
    if (has_second(a.scale_form)) {
        const int64_t row = (int64_t)unit * UNIT_ROWS + lane / 4;
        out.second = __ldg(p.scales2 + (row * p.n_groups + group) / WEIGHT_NESTED_RUN);
    }
}

template <bool ZERO, bool BF16>
__device__ inline void store_ahead(const struct gemm_ahead &a, const struct gemm_ahead_piece &p,
                                   int i, const struct gemm_ahead_chunk &c,
                                   const struct gemm_ahead_room &room)
{
    const int lane = threadIdx.x % 32, unit = i / p.n_chunks, chunk = i % p.n_chunks;
    const int64_t row = (int64_t)unit * UNIT_ROWS + lane / 4;
    uint4 *out = (uint4 *)(p.out + (row * p.n_chunks + chunk) * CHUNK_COLS) + lane % 4;
    const uint32_t words[4] = { c.codes.x, c.codes.y, c.codes.z, c.codes.w };

#pragma unroll
    for (int half = 0; half < 2; half++) {
        const float scale =
            scale_value(a.scale_form, c.scale[half], c.second, p.nested_offset, room.map);
        const float zero = ZERO ? zero_value(a.zero_form, c.zero[half], 0.0f) : 0.0f;

#pragma unroll
        for (int j = 2 * half; j < 2 * half + 2; j++) {
            uint32_t pair[4];
#pragma unroll
            for (int k = 0; k < 4; k++) {
                float v = room.table[words[j] >> 8 * k & 15][lane];
                float w = room.table[words[j] >> (8 * k + 4) & 15][lane];

                if (ZERO) {
                    v -= zero;
                    w -= zero;
                }
                pair[k] = pack_pair<BF16>(v * scale, w * scale);
            }
            out[4 * j] = make_uint4(pair[0], pair[1], pair[2], pair[3]);
        }
    }
}

#define AHEAD_FAR 4 /* turns */

template <bool ZERO, bool BF16>
__device__ inline void make_ahead(const struct gemm_ahead &a, int warp, int n_warps,
                                  const struct gemm_ahead_room &room)
{
    for (int piece = 0; piece < a.n; piece++) {
        const struct gemm_ahead_piece &p = a.piece[piece];
        struct gemm_ahead_chunk now, next;

        if (p.first + warp < p.end)
            load_ahead(a, p, p.first + warp, next);
        for (int i = p.first + warp; i < p.end; i += n_warps) {
            now = next;
            if (i + n_warps < p.end)
                load_ahead(a, p, i + n_warps, next);
            if (i + AHEAD_FAR * n_warps < p.end)
                asm volatile("prefetch.global.L2 [%0];" ::"l"(
                    p.codes + (int64_t)(i + AHEAD_FAR * n_warps) * (CHUNK_COLS * 4) +
                    threadIdx.x % 32 * 16));
            store_ahead<ZERO, BF16>(a, p, i, now, room);
        }
    }
}

/* By AHEAD_WARPS whole warps of every block; warp: which of them. */
__device__ inline void make_weights_ahead(const struct gemm_ahead &a, int warp,
                                          struct gemm_ahead_room &room)
{
    const int thread = warp * 32 + threadIdx.x % 32;
    const int of_all = blockIdx.x * AHEAD_WARPS + warp, n_all = gridDim.x * AHEAD_WARPS;

    if (!a.n)
        return;
    for (int i = thread; i < 16 * 32; i += 32 * AHEAD_WARPS)
        room.table[i / 32][i % 32] = a.table[i / 32];
    for (int i = thread; i < 256; i += 32 * AHEAD_WARPS)
        room.map[i] = a.map[i];
    asm volatile("bar.sync 1, %0;" ::"n"(32 * AHEAD_WARPS) : "memory");
    if (a.zero_form != ZERO_CONSTANT)
        a.bf16 ? make_ahead<true, true>(a, of_all, n_all, room)
               : make_ahead<true, false>(a, of_all, n_all, room);
    else
        a.bf16 ? make_ahead<false, true>(a, of_all, n_all, room)
               : make_ahead<false, false>(a, of_all, n_all, room);
}
