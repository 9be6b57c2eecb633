/* attention_decode.cu - attention of one new row a sequence: flash decoding (Dao et al., 2023) on
 * tensor cores, with rotation and cache append in the same launch.
 *
 * A row at position p sees `spans` of 16 positions counted from 0 of the sequence.  They are cut
 * into at most 16 splits of a multiple of 8 spans each; warp w of a block takes every 8th span of a
 * split.  One span of a warp is two small products with the query heads of the group as columns:
 *   S^T [16 positions, 8 heads] = K q^T,   O^T [E, 8 heads] += V^T P^T
 * so keys and values go from the cache to the tensor cores through registers alone, each read
 * once.  K takes its elements e, and V its elements e, in the order in which a lane's 16-byte
 * loads bring them; q and the output follow that order.
 *
 * Every sum has an order that p fixes: chains over the spans of a warp, over the 8 warps of a
 * split, over the splits.  How many blocks share the splits of a row (gridDim.x, one cluster)
 * changes no bit: a block goes through its splits in order, alone it adds them up as they come,
 * with others it sends each to the blocks of its cluster, of which each adds up some of the
 * outputs.
 *
 * Bytes: 4 E G a position, K and V once; operations are few.  At small batches the launch is bound
 * by latency: everything that the kernel before does not write is read before griddepcontrol.wait.
 */
#include "attention_decode.cuh"

#include "attention.cuh"

#define N_WARPS    8
#define N_THREADS  (32 * N_WARPS)
#define SPAN       16 /* positions */
#define SPLITS_MAX 16
#define HEADS      8  /* query heads of a block, at most */
#define PAD_Q      32 /* elements behind a query in shared memory: fewer bank conflicts */
#define PAD_OUT    4

struct decode_job {
    const uint16_t *q, *k, *v;
    uint16_t *k_cache, *v_cache, *out;
    const float *cos_table, *sin_table;
    const int32_t *slot, *position;
    int64_t capacity;
    int window;
    int n_heads, n_kv_heads, n_group; /* query heads of one key/value head */
    int half;                         /* pairs of a head that turn */
    int n_parts;                      /* of a group, HEADS heads each but the last */
    bool appended;
    float scale; /* log2(e) / sqrt(E) */
};

/* What a block works on, and what its row's position says. */
struct decode_place {
    int kv_head, first_head, n_heads; /* query heads first_head .. */
    int p, low;                       /* the row sees positions low .. p */
    int cached;                       /* cache rows below this one are read */
    int first_span, n_spans, per_split, n_splits;
    uint16_t *keys, *values; /* of the slot, at this head */
    int64_t stride;          /* elements from position to position */
};

template <int E> struct decode_room {
    uint16_t q[HEADS][E + PAD_Q];
    uint16_t k[E], v[E]; /* the row's own, turned */
    float max[N_WARPS][HEADS], sum[N_WARPS][HEADS];
    float got_max[SPLITS_MAX][HEADS], got_sum[SPLITS_MAX][HEADS];
    uint64_t all_got; /* mbarrier */
    uint64_t unused;  /* what follows is 16-aligned:
                         out [N_WARPS][n_heads][E + PAD_OUT],
                         got [SPLITS_MAX][outputs of a block of the cluster], or whole [outputs] */
};

template <int E> struct decode_span {
    uint4 k[2][E / 32]; /* position g, g + 8; elements 32 j + 8 t .. */
    uint4 v[E / 64][4]; /* positions 2t, 2t + 1, 2t + 8, 2t + 9; elements 64 j + 8 g .. */
};

/* Running softmax of heads 2t and 2t + 1, and outputs of elements 64 j + 8 g + 2 i + .. */
template <int E> struct decode_sum {
    float max[2], sum[2];
    float out[E / 64][4][4]; /* head 2t, 2t+1 of element 2i; then of element 2i + 1 */
};

/* ---- launches that overlap, clusters ---- */

__device__ static inline void let_next_start()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

__device__ static inline void wait_for_launch_before()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

/* All blocks of the cluster run, and their `bar`, which counts bytes, can be sent to. */
__device__ static inline void join_cluster(uint64_t *bar)
{
#if __CUDA_ARCH__ >= 900
    if (threadIdx.x == 0) {
        uint32_t at = (uint32_t)__cvta_generic_to_shared(bar);

        asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(at) : "memory");
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    __syncwarp();
    asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
#endif
}

__device__ static inline void cluster_joined()
{
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

/* *to = x in the shared memory of block `rank` of the cluster; its bar counts 4 bytes. */
__device__ static inline void send_value(float *to, int rank, float x, uint64_t *bar)
{
#if __CUDA_ARCH__ >= 900
    uint32_t at = (uint32_t)__cvta_generic_to_shared(to), there;
    uint32_t bar_at = (uint32_t)__cvta_generic_to_shared(bar), bar_there;

    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(at), "r"(rank));
    asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(bar_there) : "r"(bar_at), "r"(rank));
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(
            there),
        "r"(__float_as_uint(x)), "r"(bar_there)
        : "memory");
#else
    (void)to, (void)rank, (void)x, (void)bar;
#endif
}

/* Until n_bytes have come. */
__device__ static inline void wait_for_bytes(uint64_t *bar, int n_bytes)
{
#if __CUDA_ARCH__ >= 900
    uint32_t at = (uint32_t)__cvta_generic_to_shared(bar), done = 0;

    if (threadIdx.x == 0)
        asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(at),
                     "r"(n_bytes)
                     : "memory");
    while (!done)
        asm volatile("{ .reg .pred p;\n"
                     "mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 p, [%1], 0;\n"
                     "selp.u32 %0, 1, 0, p; }"
                     : "=r"(done)
                     : "r"(at)
                     : "memory");
#else
    (void)bar, (void)n_bytes;
#endif
}

__device__ static inline int32_t load_number(const int32_t *p)
{
    int32_t x;

    asm volatile("ld.relaxed.gpu.global.s32 %0, [%1];" : "=r"(x) : "l"(p) : "memory");
    return x;
}

/* ---- where ---- */

template <int E>
__device__ static inline struct decode_place place_of(const struct decode_job &a, int p, int slot)
{
    const int part = (int)blockIdx.y % a.n_parts, kv_head = (int)blockIdx.y / a.n_parts;
    const int here = a.n_group - part * HEADS;
    struct decode_place w = { .kv_head = kv_head,
                              .first_head = kv_head * a.n_group + part * HEADS,
                              .n_heads = here < HEADS ? here : HEADS,
                              .p = p };

    w.low = a.window > 0 && p >= a.window ? p - a.window + 1 : 0;
    w.cached = a.appended ? p + 1 : p;
    w.first_span = w.low / SPAN;
    w.n_spans = p / SPAN - w.first_span + 1;
    w.per_split = (w.n_spans + N_WARPS * SPLITS_MAX - 1) / (N_WARPS * SPLITS_MAX) * N_WARPS;
    w.n_splits = (w.n_spans + w.per_split - 1) / w.per_split;
    w.stride = (int64_t)a.n_kv_heads * E;
    const int64_t at = slot * a.capacity * w.stride + (int64_t)kv_head * E;
    w.keys = a.k_cache + at;
    w.values = a.v_cache + at;
    return w;
}

/* ---- a span ---- */

/* N runs of 8 elements of a cached position, `step` elements apart; of a position that is not seen
 * or not there yet, zeros. */
template <int N>
__device__ static inline void load_cached(const struct decode_place &w, const uint16_t *from,
                                          int pos, int step, uint4 *to, int to_step)
{
    const uint4 *at = (const uint4 *)(from + pos * w.stride);
    const bool seen = pos >= w.low && pos < w.cached;

#pragma unroll
    for (int j = 0; j < N; j++) {
        to[j * to_step] = make_uint4(0, 0, 0, 0);
        if (seen)
            to[j * to_step] = __ldcg(at + j * step / 8);
    }
}

template <int E>
__device__ static inline void load_keys(const struct decode_place &w, int span,
                                        struct decode_span<E> &x)
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int pos = (w.first_span + span) * SPAN + g;

#pragma unroll
    for (int r = 0; r < 2; r++)
        load_cached<E / 32>(w, w.keys + 8 * t, pos + 8 * r, 32, x.k[r], 1);
}

template <int E>
__device__ static inline void load_values(const struct decode_place &w, int span,
                                          struct decode_span<E> &x)
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int pos = (w.first_span + span) * SPAN + 2 * t;

#pragma unroll
    for (int i = 0; i < 4; i++)
        load_cached<E / 64>(w, w.values + 8 * g, pos + i % 2 + i / 2 * 8, 64, &x.v[0][i], 4);
}

/* The row's own key and value, which were not in the cache, in the last span. */
template <int E>
__device__ static inline void own_key(const struct decode_place &w, int span,
                                      const struct decode_room<E> &room, struct decode_span<E> &x)
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int pos = (w.first_span + span) * SPAN + g;

#pragma unroll
    for (int r = 0; r < 2; r++)
        if (pos + 8 * r == w.p)
#pragma unroll
            for (int j = 0; j < E / 32; j++)
                x.k[r][j] = *(const uint4 *)&room.k[32 * j + 8 * t];
}

template <int E>
__device__ static inline void own_value(const struct decode_place &w, int span,
                                        const struct decode_room<E> &room, struct decode_span<E> &x)
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int pos = (w.first_span + span) * SPAN + 2 * t;

#pragma unroll
    for (int i = 0; i < 4; i++)
        if (pos + i % 2 + i / 2 * 8 == w.p)
#pragma unroll
            for (int j = 0; j < E / 64; j++)
                x.v[j][i] = *(const uint4 *)&room.v[64 * j + 8 * g];
}

/* S^T: positions g and g + 8, heads 2t and 2t + 1 of each. */
template <enum dtype T, int E>
__device__ static inline void scores_of(const struct decode_room<E> &room,
                                        const struct decode_span<E> &x, float (&score)[4])
{
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    float even[4] = { 0 }, odd[4] = { 0 };

#pragma unroll
    for (int j = 0; j < E / 32; j++) {
        const uint4 q = *(const uint4 *)&room.q[g][32 * j + 8 * t], a = x.k[0][j], b = x.k[1][j];
        mma_16x8x16<T>(even, a.x, b.x, a.y, b.y, q.x, q.y);
        mma_16x8x16<T>(odd, a.z, b.z, a.w, b.w, q.z, q.w);
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        score[i] = even[i] + odd[i];
}

/* Scores become exponentials under the largest score so far; what was summed up shrinks to it. */
template <int E>
__device__ static inline void soften(const struct decode_job &a, const struct decode_place &w,
                                     int span, float (&score)[4], struct decode_sum<E> &s)
{
    const int pos = (w.first_span + span) * SPAN + threadIdx.x % 32 / 4;

#pragma unroll
    for (int i = 0; i < 4; i++) {
        int at = pos + i / 2 * 8;
        score[i] = at >= w.low && at <= w.p ? score[i] * a.scale : -INFINITY;
    }
#pragma unroll
    for (int h = 0; h < 2; h++) {
        float most = fmaxf(score[h], score[h + 2]);

#pragma unroll
        for (int far = 4; far < 32; far *= 2)
            most = fmaxf(most, __shfl_xor_sync(0xFFFFFFFFu, most, far));
        most = fmaxf(most, s.max[h]);
        const float factor = exp2_value(s.max[h] - most);
        s.max[h] = most;
        score[h] = exp2_value(score[h] - most);
        score[h + 2] = exp2_value(score[h + 2] - most);
        s.sum[h] = fmaf(s.sum[h], factor, score[h] + score[h + 2]);
#pragma unroll
        for (int j = 0; j < E / 64; j++)
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
__device__ static inline void add_values(const struct decode_span<E> &x, const float (&weight)[4],
                                         struct decode_sum<E> &s)
{
    const uint32_t b0 = transposed(pair_of<T>(weight[0], weight[1]));
    const uint32_t b1 = transposed(pair_of<T>(weight[2], weight[3]));

#pragma unroll
    for (int j = 0; j < E / 64; j++) {
        const uint32_t *v0 = &x.v[j][0].x, *v1 = &x.v[j][1].x;
        const uint32_t *v2 = &x.v[j][2].x, *v3 = &x.v[j][3].x;
#pragma unroll
        for (int i = 0; i < 4; i++)
            mma_16x8x16<T>(s.out[j][i], __byte_perm(v0[i], v1[i], 0x5410),
                           __byte_perm(v0[i], v1[i], 0x7632), __byte_perm(v2[i], v3[i], 0x5410),
                           __byte_perm(v2[i], v3[i], 0x7632), b0, b1);
    }
}

/* ---- the row's own query, key and value ---- */

/* Cosines and sines of elements e, e + 1 = 2 (threadIdx.x % (E / 2)) + .. of a head. */
template <int E>
__device__ static inline void load_turn(const struct decode_job &a, int p, float2 *cosine,
                                        float2 *sine)
{
    const int e = 2 * ((int)threadIdx.x % (E / 2)), j = e < a.half ? e : e - a.half;

    if (a.appended || j >= a.half)
        return;
    *cosine = *(const float2 *)(a.cos_table + (int64_t)p * (E / 2) + j);
    *sine = *(const float2 *)(a.sin_table + (int64_t)p * (E / 2) + j);
}

/* The row's own queries and key, two elements of each of some heads and the two that they turn
 * with, and 8 elements of its value: of threads with such. */
template <int E> struct decode_own {
    static const int heads_at_once = N_THREADS / (E / 2);
    static const int n = (HEADS + heads_at_once) / heads_at_once;
    uint32_t x[n], y[n];
    uint4 v;
};

/* Where element e of a head finds the other of its pair; itself where it does not turn. */
__device__ static inline int partner(const struct decode_job &a, int e)
{
    return a.appended || e >= 2 * a.half ? e : e < a.half ? e + a.half : e - a.half;
}

template <int E>
__device__ static inline void load_own(const struct decode_job &a, const struct decode_place &w,
                                       struct decode_own<E> &own)
{
    const int64_t row = blockIdx.z, kv = (row * a.n_kv_heads + w.kv_head) * E;
    const uint16_t *q = a.q + (row * a.n_heads + w.first_head) * E;
    const int e = 2 * ((int)threadIdx.x % (E / 2)), other = partner(a, e);

#pragma unroll
    for (int i = 0; i < own.n; i++) {
        const int head = threadIdx.x / (E / 2) + i * own.heads_at_once;
        const uint16_t *from = head < w.n_heads ? q + head * E : a.k + kv;

        if (head >= w.n_heads + !a.appended)
            continue;
        own.x[i] = __ldcg((const uint32_t *)(from + e));
        own.y[i] = __ldcg((const uint32_t *)(from + other));
    }
    if (!a.appended && threadIdx.x >= N_THREADS - E / 8)
        own.v = __ldcg((const uint4 *)(a.v + kv) + ((int)threadIdx.x - (N_THREADS - E / 8)));
}

/* x turned by the angle; y: its partner with the sign of the turn.  Rounding points of rope_args.
 */
template <enum dtype T>
__device__ static inline float turned(uint32_t x, uint32_t y, int shift, float sign, float c,
                                      float s)
{
    return round_value(T, value_of<T>((uint16_t)(x >> shift)) * c) +
           round_value(T, sign * value_of<T>((uint16_t)(y >> shift)) * s);
}

/* To shared memory: queries and key turned, the value as it is; where that was done before, the
 * queries alone, as they are. */
template <enum dtype T, int E>
__device__ static inline void keep_own(const struct decode_job &a, const struct decode_place &w,
                                       const struct decode_own<E> &own, float2 c, float2 s,
                                       struct decode_room<E> &room)
{
    const int e = 2 * ((int)threadIdx.x % (E / 2));
    const bool turns = !a.appended && e < 2 * a.half;
    const float sign = e < a.half ? -1.0f : 1.0f;

#pragma unroll
    for (int i = 0; i < own.n; i++) {
        const int head = threadIdx.x / (E / 2) + i * own.heads_at_once;
        uint32_t *to = (uint32_t *)((head < w.n_heads ? room.q[head] : room.k) + e);

        if (head >= w.n_heads + !a.appended)
            continue;
        *to = turns ? pair_of<T>(turned<T>(own.x[i], own.y[i], 0, sign, c.x, s.x),
                                 turned<T>(own.x[i], own.y[i], 16, sign, c.y, s.y))
                    : own.x[i];
    }
    if (!a.appended && threadIdx.x >= N_THREADS - E / 8)
        *(uint4 *)&room.v[((int)threadIdx.x - (N_THREADS - E / 8)) * 8] = own.v;
}

template <int E>
__device__ static inline void append(const struct decode_place &w,
                                     const struct decode_room<E> &room)
{
    const int64_t at = w.p * w.stride;
    const int e = threadIdx.x % (E / 8) * 8;

    if (threadIdx.x < E / 8)
        *(uint4 *)(w.keys + at + e) = *(const uint4 *)&room.k[e];
    else if (threadIdx.x < 2 * (E / 8))
        *(uint4 *)(w.values + at + e) = *(const uint4 *)&room.v[e];
}

/* ---- sums of several warps, of several splits ---- */

/* A warp that had no span leaves zeros under a maximum of -inf: they add nothing. */
template <int E>
__device__ static inline void to_room(const struct decode_sum<E> &s, int n_heads,
                                      struct decode_room<E> &room, float *out)
{
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;

#pragma unroll
    for (int h = 0; h < 2; h++) {
        float sum = s.sum[h];

#pragma unroll
        for (int far = 4; far < 32; far *= 2)
            sum += __shfl_xor_sync(0xFFFFFFFFu, sum, far);
        if (g == 0) {
            room.max[warp][2 * t + h] = s.max[h];
            room.sum[warp][2 * t + h] = sum;
        }
        if (2 * t + h >= n_heads)
            continue;
        float *to = out + (warp * n_heads + 2 * t + h) * (E + PAD_OUT) + 8 * g;
#pragma unroll
        for (int j = 0; j < E / 64; j++) {
            const auto &x = s.out[j];
            *(float4 *)(to + 64 * j) = make_float4(x[0][h], x[0][h + 2], x[1][h], x[1][h + 2]);
            *(float4 *)(to + 64 * j + 4) = make_float4(x[2][h], x[2][h + 2], x[3][h], x[3][h + 2]);
        }
    }
}

/* Sum of exponentials under `max`, and one output. */
struct decode_part {
    float max, sum, out;
};

__device__ static inline struct decode_part join(const struct decode_part &a,
                                                 const struct decode_part &b)
{
    const float most = fmaxf(a.max, b.max);
    const float before = exp2_value(a.max - most), now = exp2_value(b.max - most);

    return { most, fmaf(b.sum, now, a.sum * before), fmaf(b.out, now, a.out * before) };
}

/* Element e of a head over the warps of a split, in order. */
template <int E>
__device__ static inline struct decode_part
over_warps(const struct decode_room<E> &room, const float *out, int n_heads, int head, int e)
{
    struct decode_part all = { -INFINITY, 0, 0 };

#pragma unroll
    for (int i = 0; i < N_WARPS; i++)
        all.max = fmaxf(all.max, room.max[i][head]);
#pragma unroll
    for (int i = 0; i < N_WARPS; i++) {
        const float now = exp2_value(room.max[i][head] - all.max);
        all.sum = fmaf(room.sum[i][head], now, all.sum);
        all.out = fmaf(out[(i * n_heads + head) * (E + PAD_OUT) + e], now, all.out);
    }
    return all;
}

/* Output o = (head, e) of a split to block o / 8 % n of the cluster, whose number o / 8 / n * 8 +
 * o % 8 it is; the sums of its head to all. */
template <int E>
__device__ static inline void send(const struct decode_place &w, int split, int o,
                                   const struct decode_part &part, struct decode_room<E> &room,
                                   float *got, int got_stride)
{
    const int n = gridDim.x, head = o / E;

    send_value(got + split * got_stride + o / 8 / n * 8 + o % 8, o / 8 % n, part.out,
               &room.all_got);
    if (o % E < n) {
        send_value(&room.got_max[split][head], o % E, part.max, &room.all_got);
        send_value(&room.got_sum[split][head], o % E, part.sum, &room.all_got);
    }
}

/* Adding 0 makes the zero of either sign the same one. */
template <enum dtype T, int E>
__device__ static inline void finish(const struct decode_job &a, const struct decode_place &w,
                                     int o, const struct decode_part &all)
{
    a.out[((int64_t)blockIdx.z * a.n_heads + w.first_head) * E + o] =
        bits_of<T>(all.out / all.sum + 0.0f);
}

/* The outputs of this block of the cluster over the splits, in order. */
template <enum dtype T, int E>
__device__ static inline void add_up_sent(const struct decode_job &a, const struct decode_place &w,
                                          struct decode_room<E> &room, const float *got,
                                          int got_stride)
{
    const int n = gridDim.x, rank = blockIdx.x, n_eights = w.n_heads * E / 8;
    const int n_own = (n_eights / n + (rank < n_eights % n)) * 8;

    wait_for_bytes(&room.all_got, w.n_splits * (n_own + 2 * w.n_heads) * (int)sizeof(float));
#pragma unroll 1
    for (int i = threadIdx.x; i < n_own; i += N_THREADS) {
        const int o = (i / 8 * n + rank) * 8 + i % 8;
        struct decode_part all = { room.got_max[0][o / E], room.got_sum[0][o / E], got[i] };

#pragma unroll 4
        for (int k = 1; k < w.n_splits; k++) {
            const struct decode_part one = { room.got_max[k][o / E], room.got_sum[k][o / E],
                                             got[k * got_stride + i] };
            all = join(all, one);
        }
        finish<T, E>(a, w, o, all);
    }
}

/* ---- the kernel ---- */

template <enum dtype T, int E>
__global__ void __launch_bounds__(N_THREADS, E == 64 ? 2 : 1)
    attend_decode(const struct decode_job a)
{
    extern __shared__ __align__(16) unsigned char bytes[];
    struct decode_room<E> &room = *(struct decode_room<E> *)bytes;
    const int warp = threadIdx.x / 32, n_blocks = gridDim.x, rank = blockIdx.x;
    float *out = (float *)(bytes + sizeof room);
    struct decode_place w;
    struct decode_span<E> x;
    struct decode_own<E> own;
    float2 c = { 0, 0 }, sn = { 0, 0 };

    let_next_start();
    if (n_blocks > 1)
        join_cluster(&room.all_got);
    /* Ahead of time with what slot and position hold now; again when that was of a step before. */
    int p = load_number(a.position + blockIdx.z), slot = load_number(a.slot + blockIdx.z);
#pragma unroll 1
    for (bool again = false;; again = true) {
        w = place_of<E>(a, p, slot);
        load_turn<E>(a, p, &c, &sn);
        if (rank * w.per_split + warp < w.n_spans) {
            load_keys<E>(w, rank * w.per_split + warp, x);
            load_values<E>(w, rank * w.per_split + warp, x);
        }
        if (again)
            break;
        /* Queries that are not there. */
        for (int i = w.n_heads * (E / 8) + threadIdx.x; i < HEADS * (E / 8); i += N_THREADS)
            *(uint4 *)&room.q[i / (E / 8)][i % (E / 8) * 8] = make_uint4(0, 0, 0, 0);
        if (n_blocks > 1)
            cluster_joined();
        wait_for_launch_before();
        load_own<E>(a, w, own);
        const int new_p = load_number(a.position + blockIdx.z);
        const int new_slot = load_number(a.slot + blockIdx.z);
        if (new_p == p && new_slot == slot)
            break;
        p = new_p;
        slot = new_slot;
    }

    const bool alone = n_blocks == 1 || w.n_splits == 1;
    const int got_stride = (w.n_heads * E / 8 + n_blocks - 1) / n_blocks * 8;
    float *got = out + N_WARPS * w.n_heads * (E + PAD_OUT);
    struct decode_part *whole = (struct decode_part *)got;

    if (rank < w.n_splits) {
        keep_own<T, E>(a, w, own, c, sn, room);
        __syncthreads();
        if (!a.appended && rank == (w.n_splits - 1) % n_blocks && blockIdx.y % a.n_parts == 0)
            append<E>(w, room);
    }
#pragma unroll 1
    for (int split = rank; split < w.n_splits; split += n_blocks) {
        const int end = min((split + 1) * w.per_split, w.n_spans);
        struct decode_sum<E> s = {
            { -INFINITY, -INFINITY }, { 0, 0 },
            {
                0
            }
        };

#pragma unroll 1
        for (int span = split * w.per_split + warp; span < end; span += N_WARPS) {
            const bool last = !a.appended && span == w.n_spans - 1;
            const int next =
                span + N_WARPS < end ? span + N_WARPS : (split + n_blocks) * w.per_split + warp;
            float score[4];

            if (last)
                own_key<E>(w, span, room, x);
            scores_of<T, E>(room, x, score);
            if (next < w.n_spans)
                load_keys<E>(w, next, x);
            soften<E>(a, w, span, score, s);
            if (last)
                own_value<E>(w, span, room, x);
            add_values<T, E>(x, score, s);
            if (next < w.n_spans)
                load_values<E>(w, next, x);
        }
        to_room<E>(s, w.n_heads, room, out);
        __syncthreads();
#pragma unroll 1
        for (int o = threadIdx.x; o < w.n_heads * E; o += N_THREADS) {
            struct decode_part part = over_warps<E>(room, out, w.n_heads, o / E, o % E);

            if (!alone) {
                send<E>(w, split, o, part, room, got, got_stride);
                continue;
            }
            if (split > 0)
                part = join(whole[o], part);
            if (split + 1 < w.n_splits)
                whole[o] = part;
            else
                finish<T, E>(a, w, o, part);
        }
        if (split + n_blocks < w.n_splits)
            __syncthreads(); /* before the next split's sums take the room */
    }
    if (!alone)
        add_up_sent<T, E>(a, w, room, got, got_stride);
}

/* ---- the launch ---- */

typedef void (*decode_kernel)(struct decode_job);

static decode_kernel kernel_of(enum dtype t, int head_dim)
{
    const bool half = t == DTYPE_F16;

    switch (head_dim) {
    case 64:
        return half ? attend_decode<DTYPE_F16, 64> : attend_decode<DTYPE_BF16, 64>;
    case 128:
        return half ? attend_decode<DTYPE_F16, 128> : attend_decode<DTYPE_BF16, 128>;
    case 256:
        return half ? attend_decode<DTYPE_F16, 256> : attend_decode<DTYPE_BF16, 256>;
    default:
        return NULL;
    }
}

bool cuda_attention_decode_fits(enum dtype t, int n_heads, int n_kv_heads, int head_dim,
                                int n_rotated)
{
    return n_rotated % 4 == 0 && (t == DTYPE_F16 || t == DTYPE_BF16) && n_heads % n_kv_heads == 0 &&
           kernel_of(t, head_dim) != NULL;
}

/* Blocks of a row and key/value head: enough to fill the device, no more than there is to do. */
static int blocks_of(const struct cuda_state *s, const struct decode_attention *a, int64_t n_units)
{
    int64_t seen = a->window > 0 && a->window < a->bound ? a->window + SPAN : a->bound + 1;
    int64_t n_splits = ceil_div(seen, SPAN * N_WARPS);
    int n = 1;

    if (a->n_blocks)
        return a->n_blocks < s->cluster_max ? a->n_blocks : s->cluster_max;
    while (n < s->cluster_max && n < n_splits && n_units * n < s->n_multiprocessors)
        n *= 2;
    return n;
}

static size_t shared_bytes(int head_dim, int n_heads, int n_blocks)
{
    const size_t outputs = (size_t)n_heads * (size_t)head_dim;
    const size_t room = head_dim == 64    ? sizeof(struct decode_room<64>)
                        : head_dim == 128 ? sizeof(struct decode_room<128>)
                                          : sizeof(struct decode_room<256>);
    const size_t whole = outputs * sizeof(struct decode_part);
    size_t got = (outputs / 8 + (size_t)n_blocks - 1) / (size_t)n_blocks * 8 * SPLITS_MAX;

    got *= sizeof(float);
    return room + sizeof(float) * N_WARPS * (outputs + (size_t)n_heads * PAD_OUT) +
           (n_blocks > 1 && got > whole ? got : whole);
}

static cudaLaunchAttribute cluster_of(int n_blocks)
{
    cudaLaunchAttribute cluster;

    cluster.id = cudaLaunchAttributeClusterDimension;
    cluster.val.clusterDim.x = (unsigned)n_blocks;
    cluster.val.clusterDim.y = cluster.val.clusterDim.z = 1;
    return cluster;
}

/* The largest cluster that the device runs; 1 where the code is for devices that know none. */
static int ask_cluster_max(struct cuda_state *s, struct err *e)
{
    const decode_kernel kernel = attend_decode<DTYPE_F16, 64>;
    struct cudaFuncAttributes facts;

    CUDA_TRY(cudaFuncGetAttributes(&facts, kernel));
    s->cluster_max = 1;
    if (facts.ptxVersion < 90)
        return 0;
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    for (int n = 16; n > 1 && s->cluster_max == 1; n /= 2) {
        cudaLaunchAttribute cluster = cluster_of(n);
        cudaLaunchConfig_t config = { .gridDim = dim3((unsigned)n),
                                      .blockDim = dim3(N_THREADS),
                                      .dynamicSmemBytes = shared_bytes(64, HEADS, n),
                                      .stream = s->stream,
                                      .attrs = &cluster,
                                      .numAttrs = 1 };
        int n_clusters = 0;

        if (cudaOccupancyMaxActiveClusters(&n_clusters, kernel, &config) == cudaSuccess &&
            n_clusters > 0)
            s->cluster_max = n;
        cudaGetLastError();
    }
    return 0;
}

int cuda_attention_decode(struct cuda_state *s, const struct decode_attention *a, struct err *e)
{
    const decode_kernel kernel = kernel_of(a->t, a->head_dim);
    const int n_group = a->n_heads / a->n_kv_heads, n_parts = (n_group + HEADS - 1) / HEADS;
    const struct decode_job job = { .q = (const uint16_t *)a->q,
                                    .k = (const uint16_t *)a->k,
                                    .v = (const uint16_t *)a->v,
                                    .k_cache = (uint16_t *)a->k_cache,
                                    .v_cache = (uint16_t *)a->v_cache,
                                    .out = (uint16_t *)a->out,
                                    .cos_table = (const float *)a->cos_table,
                                    .sin_table = (const float *)a->sin_table,
                                    .slot = a->slot,
                                    .position = a->position,
                                    .capacity = a->capacity,
                                    .window = (int)(a->window < INT32_MAX ? a->window : 0),
                                    .n_heads = a->n_heads,
                                    .n_kv_heads = a->n_kv_heads,
                                    .n_group = n_group,
                                    .half = (a->n_rotated ? a->n_rotated : a->head_dim) / 2,
                                    .n_parts = n_parts,
                                    .appended = a->appended,
                                    .scale = (float)(LOG2_E / sqrt((double)a->head_dim)) };
    cudaLaunchAttribute attrs[2];
    unsigned n_attrs = 0;

    if (!a->n_rows)
        return 0;
    if (!s->cluster_max && ask_cluster_max(s, e) < 0)
        return err_in(e, "attention of a decode step");

    const int64_t n_units = a->n_rows * a->n_kv_heads * n_parts;
    const int n_blocks = blocks_of(s, a, n_units);
    const size_t n_bytes = shared_bytes(a->head_dim, n_group < HEADS ? n_group : HEADS, n_blocks);

    if (n_bytes > 48 * 1024)
        CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)n_bytes));
    if (n_blocks > 8)
        CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    if (n_blocks > 1)
        attrs[n_attrs++] = cluster_of(n_blocks);
    if (a->overlap && !a->appended && s->cluster_max > 1) {
        attrs[n_attrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attrs[n_attrs].val.programmaticStreamSerializationAllowed = 1;
        n_attrs++;
    }
    const cudaLaunchConfig_t config = { .gridDim = dim3((unsigned)n_blocks,
                                                        (unsigned)(a->n_kv_heads * n_parts),
                                                        (unsigned)a->n_rows),
                                        .blockDim = dim3(N_THREADS),
                                        .dynamicSmemBytes = n_bytes,
                                        .stream = s->stream,
                                        .attrs = attrs,
                                        .numAttrs = n_attrs };
    cudaError_t rc = cudaLaunchKernelEx(&config, kernel, job);
    if (rc != cudaSuccess)
        return err_set(e, cuda_err_code(rc), "kernel attend_decode: %s", cudaGetErrorString(rc));
    CUDA_LAUNCHED(s, "attend_decode");
    return 0;
}
