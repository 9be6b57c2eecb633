/* attention_decode_unit.cuh - inner to attention_decode.cu: what one warp does with UNIT positions.
 *
 * The query heads of the group are columns:
 *   S^T [UNIT, 8 heads] = K q^T,   O^T [E, 8 heads] += V^T P^T
 * so keys and values go from the cache to the tensor cores through registers alone, each read once.
 * Products take the elements e of K, and those of V, in the order in which a lane's 16-byte loads
 * bring them; q and the output follow. */
#pragma once

#include "attention.cuh"

#define HEADS 8  /* query heads of a block, at most */
#define PAD_Q 32 /* elements behind a query in shared memory: fewer bank conflicts */

struct attend_job {
    static constexpr bool SHARED = false; /* whether GPUs exchange what the launch makes */
    const uint16_t *q, *k, *v;
    uint16_t *k_cache, *v_cache, *out;
    const float *cos_table, *sin_table;
    const int32_t *slot, *position;
    int64_t capacity;
    int window;
    int n_heads, n_kv_heads, n_group; /* query heads of one key/value head */
    int half;                         /* pairs of a head that turn */
    int n_parts;                      /* of a group, HEADS heads each but the last */
    int log_blocks;                   /* of a cluster */
    int eights;                       /* out is an image; 0: rows */
    bool appended;
    float scale; /* log2(e) / sqrt(E) */
};

struct attend_shared_job : attend_job {
    static constexpr bool SHARED = true;
    struct step_share share;
};

/* What a block works on, and what its row's position says. */
struct decode_place {
    int row, kv_head;
    int first_head, n_heads; /* query heads first_head .. */
    int p, low;              /* the row sees positions low .. p */
    int cached;              /* cache rows below this one are read */
    int first_unit, n_units, per_split, n_splits;
    uint16_t *keys, *values; /* of the slot, at this head */
    int stride;              /* elements from position to position */
};

/* Positions of a unit: as many as keep registers for 64 bytes of keys and values a position. */
template <int E> struct decode_shape {
    static const int tiles = E <= 64 ? 2 : 1; /* of 16 positions */
    static const int unit = 16 * tiles;
    static const int round = 256 / unit;    /* units of a split: a multiple of this */
    static const int spans = (E + 63) / 64; /* of 64 elements, in a value */
};

template <int E> struct decode_unit {
    uint4 k[decode_shape<E>::tiles][2][E / 32]; /* position g, g + 8; elements 32 j + 8 t .. */
    /* Positions 2t, 2t + 1, 2t + 8, 2t + 9; elements 64 j + 8 g .., zeros beyond the head. */
    uint4 v[decode_shape<E>::tiles][4][decode_shape<E>::spans];
};

/* Running softmax of heads 2t and 2t + 1, and outputs of elements 64 j + 8 g + 2 i + .. */
template <int E> struct decode_sum {
    float max[2], sum[2];
    /* Head 2t, 2t + 1 of element 2i; then of element 2i + 1. */
    float out[decode_shape<E>::spans][4][4];
};

/* N runs of 8 elements of a cached position, `step` elements apart; of a position that is not seen
 * or not there yet, or where the head has no such elements, zeros. */
template <int N>
__device__ static inline void load_cached(const struct decode_place &w, const uint16_t *from,
                                          int pos, int step, bool has, uint4 (&to)[N])
{
    const uint4 *at = (const uint4 *)(from + (int64_t)pos * w.stride);
    const bool seen = has && pos >= w.low && pos < w.cached;

#pragma unroll
    for (int j = 0; j < N; j++) {
        to[j] = make_uint4(0, 0, 0, 0);
        if (seen)
            to[j] = __ldcg(at + j * step / 8);
    }
}

template <int E> __device__ static inline int first_of(const struct decode_place &w, int unit)
{
    return (w.first_unit + unit) * decode_shape<E>::unit;
}

/* Does a head have elements 8 g .. of its spans? */
template <int E> __device__ static inline bool has_values(int g)
{
    return E >= 64 || 8 * g < E;
}

template <int E>
__device__ static inline void load_keys(const struct decode_place &w, int unit,
                                        struct decode_unit<E> &x)
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, pos = first_of<E>(w, unit) + g;

#pragma unroll
    for (int i = 0; i < decode_shape<E>::tiles; i++)
#pragma unroll
        for (int r = 0; r < 2; r++)
            load_cached(w, w.keys + 8 * t, pos + 16 * i + 8 * r, 32, true, x.k[i][r]);
}

template <int E>
__device__ static inline void load_values(const struct decode_place &w, int unit,
                                          struct decode_unit<E> &x)
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, pos = first_of<E>(w, unit) + 2 * t;

#pragma unroll
    for (int i = 0; i < decode_shape<E>::tiles; i++)
#pragma unroll
        for (int r = 0; r < 4; r++)
            load_cached(w, w.values + 8 * g, pos + 16 * i + r % 2 + r / 2 * 8, 64, has_values<E>(g),
                        x.v[i][r]);
}

/* The row's own key or value, which was not in the cache, in the last unit. */
template <int E>
__device__ static inline void own_key(const struct decode_place &w, int unit, const uint16_t *key,
                                      struct decode_unit<E> &x)
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, pos = first_of<E>(w, unit) + g;

#pragma unroll
    for (int i = 0; i < decode_shape<E>::tiles; i++)
#pragma unroll
        for (int r = 0; r < 2; r++)
            if (pos + 16 * i + 8 * r == w.p)
#pragma unroll
                for (int j = 0; j < E / 32; j++)
                    x.k[i][r][j] = *(const uint4 *)&key[32 * j + 8 * t];
}

template <int E>
__device__ static inline void own_value(const struct decode_place &w, int unit,
                                        const uint16_t *value, struct decode_unit<E> &x)
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4, pos = first_of<E>(w, unit) + 2 * t;

#pragma unroll
    for (int i = 0; i < decode_shape<E>::tiles; i++)
#pragma unroll
        for (int r = 0; r < 4; r++)
            if (has_values<E>(g) && pos + 16 * i + r % 2 + r / 2 * 8 == w.p)
#pragma unroll
                for (int j = 0; j < decode_shape<E>::spans; j++)
                    x.v[i][r][j] = *(const uint4 *)&value[64 * j + 8 * g];
}

/* S^T of a tile: positions g and g + 8, heads 2t and 2t + 1 of each. */
template <enum dtype T, int E>
__device__ static inline void scores_of(const uint16_t (&queries)[HEADS][E + PAD_Q],
                                        const struct decode_unit<E> &x,
                                        float (&score)[decode_shape<E>::tiles][4])
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    float odd[decode_shape<E>::tiles][4] = { 0 };

#pragma unroll
    for (int j = 0; j < E / 32; j++) {
        const uint4 q = *(const uint4 *)&queries[g][32 * j + 8 * t];

#pragma unroll
        for (int i = 0; i < decode_shape<E>::tiles; i++) {
            const uint4 a = x.k[i][0][j], b = x.k[i][1][j];
            mma_16x8x16<T>(score[i], a.x, b.x, a.y, b.y, q.x, q.y);
            mma_16x8x16<T>(odd[i], a.z, b.z, a.w, b.w, q.z, q.w);
        }
    }
#pragma unroll
    for (int i = 0; i < decode_shape<E>::tiles; i++)
#pragma unroll
        for (int k = 0; k < 4; k++)
            score[i][k] += odd[i][k];
}

/* Scores become exponentials under the largest score so far; what was summed up shrinks to it. */
template <int E>
__device__ static inline void soften(float scale, const struct decode_place &w, int unit,
                                     float (&score)[decode_shape<E>::tiles][4],
                                     struct decode_sum<E> &s)
{
    const int tiles = decode_shape<E>::tiles;
    const int pos = first_of<E>(w, unit) + (int)threadIdx.x % 32 / 4;

#pragma unroll
    for (int i = 0; i < tiles; i++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const bool seen = (unsigned)(pos + 16 * i + 8 * r - w.low) <= (unsigned)(w.p - w.low);
            score[i][2 * r] = seen ? score[i][2 * r] * scale : -INFINITY;
            score[i][2 * r + 1] = seen ? score[i][2 * r + 1] * scale : -INFINITY;
        }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = fmaxf(score[0][h], score[0][h + 2]), sum = 0;

#pragma unroll
        for (int i = 1; i < tiles; i++)
            most = fmaxf(most, fmaxf(score[i][h], score[i][h + 2]));
#pragma unroll
        for (int far = 4; far < 32; far *= 2)
            most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, far));
        most = fmaxf(most, s.max[h]);
        const float factor = exp2_value(s.max[h] - most);
        s.max[h] = most;
#pragma unroll
        for (int i = 0; i < tiles; i++) {
            score[i][h] = exp2_value(score[i][h] - most);
            score[i][h + 2] = exp2_value(score[i][h + 2] - most);
            sum += score[i][h] + score[i][h + 2];
        }
        s.sum[h] = fmaf(s.sum[h], factor, sum);
#pragma unroll
        for (int j = 0; j < decode_shape<E>::spans; j++)
#pragma unroll
            for (int i = 0; i < 4; i++) {
                s.out[j][i][h] *= factor;
                s.out[j][i][h + 2] *= factor;
            }
    }
}

/* An 8 x 8 matrix of 16-bit elements, turned over. */
__device__ static inline uint32_t transposed(uint32_t x)
{
    uint32_t y;

    asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;" : "=r"(y) : "r"(x));
    return y;
}

/* O^T += V^T P^T; the two elements of a word of V are rows g and g + 8 of one product. */
template <enum dtype T, int E>
__device__ static inline void add_values(const struct decode_unit<E> &x,
                                         const float (&weight)[decode_shape<E>::tiles][4],
                                         struct decode_sum<E> &s)
{
#pragma unroll
    for (int k = 0; k < decode_shape<E>::tiles; k++) {
        const uint32_t b0 = transposed(pair_of<T>(weight[k][0], weight[k][1]));
        const uint32_t b1 = transposed(pair_of<T>(weight[k][2], weight[k][3]));

#pragma unroll
        for (int j = 0; j < decode_shape<E>::spans; j++) {
            const uint32_t *v0 = &x.v[k][0][j].x, *v1 = &x.v[k][1][j].x;
            const uint32_t *v2 = &x.v[k][2][j].x, *v3 = &x.v[k][3][j].x;
#pragma unroll
            for (int i = 0; i < 4; i++)
                mma_16x8x16<T>(s.out[j][i], __byte_perm(v0[i], v1[i], 0x5410),
                               __byte_perm(v0[i], v1[i], 0x7632), __byte_perm(v2[i], v3[i], 0x5410),
                               __byte_perm(v2[i], v3[i], 0x7632), b0, b1);
        }
    }
}
