/* attention_decode_block.cuh - inner to attention of a decode step: what a block does with a row
 * and a key/value head.  attention_decode.cu says how sums are ordered.  */
#pragma once

#include "attention_decode_unit.cuh"
#include "decode_image.cuh"
#include "overlap.cuh"

#define CHAINS     8
#define SPLITS_MAX 16
#define SPLIT      256 /* positions: the splits of a row are multiples of it */
#define PAD_OUT    4   /* elements behind an output in shared memory */

template <int E> struct decode_room {
    uint16_t q[HEADS][E + PAD_Q];
    uint16_t k[E], v[E]; /* the row's own, turned */
    float max[HEADS][CHAINS], sum[HEADS][CHAINS], out[CHAINS][HEADS][E + PAD_OUT];
    float got_max[SPLITS_MAX][HEADS], got_sum[SPLITS_MAX][HEADS];
    uint64_t all_got; /* mbarrier */
    uint64_t unused;  /* what follows is 16-aligned: got [SPLITS_MAX][outputs of a block of the
                         cluster], or whole [outputs] */
};

/* ---- where ---- */

template <int E>
__device__ static inline struct decode_place place_of(const struct attend_job &a, int row, int unit,
                                                      int p, int slot)
{
    using shape = struct decode_shape<E>;
    const int part = unit % a.n_parts, kv_head = unit / a.n_parts;
    const int here = a.n_group - part * HEADS;
    struct decode_place w;

    w.row = row;
    w.kv_head = kv_head;
    w.first_head = kv_head * a.n_group + part * HEADS;
    w.n_heads = here < HEADS ? here : HEADS;
    w.p = p;
    w.low = a.window > 0 && p >= a.window ? p - a.window + 1 : 0;
    w.cached = a.appended ? p + 1 : p;
    w.first_unit = w.low / shape::unit;
    w.n_units = p / shape::unit - w.first_unit + 1;
    w.per_split =
        (w.n_units + shape::round * SPLITS_MAX - 1) / (shape::round * SPLITS_MAX) * shape::round;
    w.n_splits = (w.n_units + w.per_split - 1) / w.per_split;
    w.stride = a.n_kv_heads * E;
    const int64_t at = slot * a.capacity * w.stride + kv_head * E;
    w.keys = a.k_cache + at;
    w.values = a.v_cache + at;
    return w;
}

/* ---- the row's own query, key and value ---- */

/* Two elements of each of some heads, queries and then the key, and the two that they turn with;
 * 8 elements of the value: of threads with such. */
template <int E, int WARPS> struct decode_own {
    static const int at_once = 32 * WARPS / (E / 2); /* heads */
    static const int n = (HEADS + at_once) / at_once;
    const uint16_t *from[n], *value; /* NULL: nothing to load */
    int partner;                     /* elements from the two to their partners */
    float2 cosine, sine;             /* of the two; the sign of the turn is in the sine */
    uint32_t x[n], y[n];
    uint4 v;
};

/* The first of 8 elements of the value that a thread takes, if it is one of the last; or < 0. */
template <int E, int WARPS> __device__ static inline int value_element()
{
    return ((int)threadIdx.x - (32 * WARPS - E / 8)) * 8;
}

template <int E, int WARPS>
__device__ static inline void find_own(const struct attend_job &a, const struct decode_place &w,
                                       struct decode_own<E, WARPS> &own)
{
    const int64_t kv = ((int64_t)w.row * a.n_kv_heads + w.kv_head) * E;
    const uint16_t *q = a.q + ((int64_t)w.row * a.n_heads + w.first_head) * E;
    const int e = 2 * ((int)threadIdx.x % (E / 2)), j = e < a.half ? e : e - a.half;
    const int v = value_element<E, WARPS>();

    own.partner = 0;
    if (!a.appended && e < 2 * a.half) {
        const float2 s = *(const float2 *)(a.sin_table + (int64_t)w.p * (E / 2) + j);

        own.partner = e < a.half ? a.half : -a.half;
        own.cosine = *(const float2 *)(a.cos_table + (int64_t)w.p * (E / 2) + j);
        own.sine = e < a.half ? make_float2(-s.x, -s.y) : s;
    }
#pragma unroll
    for (int i = 0; i < own.n; i++) {
        const int head = threadIdx.x / (E / 2) + i * own.at_once;

        own.from[i] = head < w.n_heads                   ? q + head * E + e
                      : head == w.n_heads && !a.appended ? a.k + kv + e
                                                         : NULL;
    }
    own.value = v >= 0 && !a.appended ? a.v + kv + v : NULL;
}

template <int E, int WARPS> __device__ static inline void load_own(struct decode_own<E, WARPS> &own)
{
#pragma unroll
    for (int i = 0; i < own.n; i++)
        if (own.from[i]) {
            own.x[i] = __ldcg((const uint32_t *)own.from[i]);
            own.y[i] = __ldcg((const uint32_t *)(own.from[i] + own.partner));
        }
    if (own.value)
        own.v = __ldcg((const uint4 *)own.value);
}

/* The rounding points of rope_args. */
template <enum dtype T>
__device__ static inline float turned(uint32_t x, uint32_t y, int shift, float c, float s)
{
    return round_value(T, value_of<T>((uint16_t)(x >> shift)) * c) +
           round_value(T, value_of<T>((uint16_t)(y >> shift)) * s);
}

/* To shared memory, turned. */
template <enum dtype T, int E, int WARPS>
__device__ static inline void keep_own(const struct decode_place &w,
                                       const struct decode_own<E, WARPS> &own,
                                       struct decode_room<E> &room)
{
    const int e = 2 * ((int)threadIdx.x % (E / 2));

#pragma unroll
    for (int i = 0; i < own.n; i++) {
        const int head = threadIdx.x / (E / 2) + i * own.at_once;
        uint32_t *to = (uint32_t *)((head < w.n_heads ? room.q[head] : room.k) + e);

        if (own.from[i])
            *to = own.partner
                      ? pair_of<T>(turned<T>(own.x[i], own.y[i], 0, own.cosine.x, own.sine.x),
                                   turned<T>(own.x[i], own.y[i], 16, own.cosine.y, own.sine.y))
                      : own.x[i];
    }
    if (own.value)
        *(uint4 *)&room.v[value_element<E, WARPS>()] = own.v;
}

template <int E, int WARPS>
__device__ static inline void append(const struct decode_place &w,
                                     const struct decode_room<E> &room)
{
    const int64_t at = (int64_t)w.p * w.stride;
    const int e = ((int)threadIdx.x - (32 * WARPS - E / 4)) * 8;

    if (e >= E)
        *(uint4 *)(w.values + at + e - E) = *(const uint4 *)&room.v[e - E];
    else if (e >= 0)
        *(uint4 *)(w.keys + at + e) = *(const uint4 *)&room.k[e];
}

/* ---- sums of chains, of splits ---- */

/* A chain that had no unit leaves zeros under a maximum of -inf: they add nothing. */
template <int E>
__device__ static inline void to_room(const struct decode_sum<E> &s, int n_heads, int chain,
                                      struct decode_room<E> &room)
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;

#pragma unroll
    for (int h = 0; h < 2; h++) {
        float sum = s.sum[h];

#pragma unroll
        for (int far = 4; far < 32; far *= 2)
            sum += __shfl_xor_sync(0xFFFFFFFFu, sum, far);
        if (g == 0) {
            room.max[2 * t + h][chain] = s.max[h];
            room.sum[2 * t + h][chain] = sum;
        }
        if (2 * t + h >= n_heads || !has_values<E>(g))
            continue;
        float *to = &room.out[chain][2 * t + h][8 * g];
#pragma unroll
        for (int j = 0; j < decode_shape<E>::spans; j++) {
            const auto &x = s.out[j];
            *(float4 *)(to + 64 * j) = make_float4(x[0][h], x[0][h + 2], x[1][h], x[1][h + 2]);
            *(float4 *)(to + 64 * j + 4) = make_float4(x[2][h], x[2][h + 2], x[3][h], x[3][h + 2]);
        }
    }
}

/* Sum of exponentials under `max`, and one output. */
struct attend_part {
    float max, sum, out;
};

__device__ static inline struct attend_part join(const struct attend_part &a,
                                                 const struct attend_part &b)
{
    const float most = fmaxf(a.max, b.max);
    const float before = exp2_value(a.max - most), now = exp2_value(b.max - most);

    return { most, fmaf(b.sum, now, a.sum * before), fmaf(b.out, now, a.out * before) };
}

/* Element e of a head over the chains of a split, in order. */
template <int E>
__device__ static inline struct attend_part over_chains(const struct decode_room<E> &room, int head,
                                                        int e)
{
    struct attend_part all = { -INFINITY, 0, 0 };
    float max[CHAINS], sum[CHAINS];

#pragma unroll
    for (int i = 0; i < CHAINS; i += 4) {
        *(float4 *)&max[i] = *(const float4 *)&room.max[head][i];
        *(float4 *)&sum[i] = *(const float4 *)&room.sum[head][i];
    }
#pragma unroll
    for (int i = 0; i < CHAINS; i++)
        all.max = fmaxf(all.max, max[i]);
#pragma unroll
    for (int i = 0; i < CHAINS; i++) {
        const float now = exp2_value(max[i] - all.max);
        all.sum = fmaf(sum[i], now, all.sum);
        all.out = fmaf(room.out[i][head][e], now, all.out);
    }
    return all;
}

/* Output o = (head, e) of a split to block o / 8 % n of the cluster, whose number o / 8 / n * 8 +
 * o % 8 it is; the sums of its head to all. */
template <int E>
__device__ static inline void send(int log_n, int split, int o, const struct attend_part &part,
                                   struct decode_room<E> &room, float *got, int got_stride)
{
    const int n = 1 << log_n, head = o / E;

    send_value(got + split * got_stride + (o >> (3 + log_n)) * 8 + o % 8, o / 8 & (n - 1), part.out,
               &room.all_got);
    if (o % E < n) {
        send_value(&room.got_max[split][head], o % E, part.max, &room.all_got);
        send_value(&room.got_sum[split][head], o % E, part.sum, &room.all_got);
    }
}

/* Adding 0 makes the zero of either sign the same one. */
template <enum dtype T, int E, class Job>
__device__ static inline void finish(const Job &a, uint32_t n_steps, const struct decode_place &w,
                                     int o, const struct attend_part &all)
{
    const int col = w.first_head * E + o;
    const uint16_t bits = bits_of<T>(__fdividef(all.out, all.sum) + 0.0f);

    if constexpr (Job::SHARED)
        send_to_members(a.share, n_steps, (int)w.row, col, bits);
    else
        a.out[a.eights ? image_element(a.eights, (int)w.row, col)
                       : (int64_t)w.row * a.n_heads * E + col] = bits;
}

/* The others' outputs in place of outputs o, o + stride, .. below `end`, once these are sent. */
template <int E>
__device__ static inline void receive(const struct attend_shared_job &a, uint32_t n_steps,
                                      const struct decode_place &w, int o, int stride, int end)
{
    const int first = w.first_head * E;

#pragma unroll 1
    for (; o < end; o += 2 * stride)
        receive_from_members<2>(a.share, n_steps, (int)w.row, first + o, stride, first + end);
}

/* The outputs of this block of the cluster over the splits, in order. */
template <enum dtype T, int E, int WARPS, class Job>
__device__ static inline void add_up_sent(const Job &a, uint32_t n_steps,
                                          const struct decode_place &w, struct decode_room<E> &room,
                                          const float *got, int got_stride)
{
    const int n = 1 << a.log_blocks, rank = blockIdx.x, n_eights = w.n_heads * E / 8;
    const int n_own = ((n_eights >> a.log_blocks) + (rank < (n_eights & (n - 1)))) * 8;

    wait_for_bytes(&room.all_got, w.n_splits * (n_own + 2 * w.n_heads) * (int)sizeof(float));
#pragma unroll 1
    for (int i = threadIdx.x; i < n_own; i += 32 * WARPS) {
        const int o = (i / 8 * n + rank) * 8 + i % 8;
        struct attend_part all = { room.got_max[0][o / E], room.got_sum[0][o / E], got[i] };

#pragma unroll 2
        for (int k = 1; k < w.n_splits; k++) {
            const struct attend_part one = { room.got_max[k][o / E], room.got_sum[k][o / E],
                                             got[k * got_stride + i] };
            all = join(all, one);
        }
        finish<T, E>(a, n_steps, w, o, all);
    }
    if constexpr (Job::SHARED) /* each of n_own is n further than the one before */
        receive<E>(a, n_steps, w, (threadIdx.x / 8 * n + rank) * 8 + threadIdx.x % 8,
                   32 * WARPS * n, w.n_heads * E);
}

/* ---- a chain ---- */

/* The units of a chain in a split.  As soon as half of a unit's registers is free, it takes that
 * half of the warp's next unit: of this chain, else `then`. */
template <enum dtype T, int E>
__device__ static inline void add_chain(const struct attend_job &a, const struct decode_place &w,
                                        const struct decode_room<E> &room, int unit, int end,
                                        int then, struct decode_unit<E> &x, struct decode_sum<E> &s)
{
#pragma unroll 1
    for (; unit < end; unit += CHAINS) {
        const bool last = !a.appended && unit == w.n_units - 1;
        const int next = unit + CHAINS < end ? unit + CHAINS : then;
        float score[decode_shape<E>::tiles][4] = { 0 };

        if (last)
            own_key<E>(w, unit, room.k, x);
        scores_of<T, E>(room.q, x, score);
        if (next < w.n_units)
            load_keys<E>(w, next, x);
        soften<E>(a.scale, w, unit, score, s);
        if (last)
            own_value<E>(w, unit, room.v, x);
        add_values<T, E>(x, score, s);
        if (next < w.n_units)
            load_values<E>(w, next, x);
    }
}
