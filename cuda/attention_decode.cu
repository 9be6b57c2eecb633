/* attention_decode.cu - attention of one new row a sequence: flash decoding (Dao et al., 2023) on
 * tensor cores, with rotation and cache append in the same launch.
 *
 * A row sees units of 16 or 32 positions counted from 0 of the sequence.  They are cut into at most
 * 16 splits of a multiple of 256 positions; the units of a split belong to 8 chains in turn.  Every
 * sum has an order that the row's position fixes: over the units of a chain, over the 8 chains of a
 * split, over the splits.  Who makes them changes no bit: a block has a warp for each chain or for
 * every second one, and the splits of a row belong to one block or, in turn, to the blocks of a
 * cluster.  Alone a block adds splits up as they come; with others it sends each to all of them,
 * and each adds up some of the outputs.
 *
 * Bytes: 4 E G a position, K and V once; operations are few.  At small batches the launch is bound
 * by latency: everything that the launch before does not write is read before the wait for it, and
 * what comes after the wait is kept short.  At large ones the loads of the next unit are under way
 * while one is worked on. */
#include "attention_decode.cuh"

#include "attention_decode_unit.cuh"
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
__device__ static inline struct decode_place place_of(const struct decode_job &a, int p, int slot)
{
    using shape = struct decode_shape<E>;
    const int part = (int)blockIdx.y % a.n_parts, kv_head = (int)blockIdx.y / a.n_parts;
    const int here = a.n_group - part * HEADS;
    struct decode_place w;

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
__device__ static inline void find_own(const struct decode_job &a, const struct decode_place &w,
                                       struct decode_own<E, WARPS> &own)
{
    const int64_t row = blockIdx.z, kv = (row * a.n_kv_heads + blockIdx.y / a.n_parts) * E;
    const uint16_t *q = a.q + (row * a.n_heads + w.first_head) * E;
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
        if (2 * t + h >= n_heads)
            continue;
        float *to = &room.out[chain][2 * t + h][8 * g];
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

/* Element e of a head over the chains of a split, in order. */
template <int E>
__device__ static inline struct decode_part over_chains(const struct decode_room<E> &room, int head,
                                                        int e)
{
    struct decode_part all = { -INFINITY, 0, 0 };
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
__device__ static inline void send(int log_n, int split, int o, const struct decode_part &part,
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
template <enum dtype T, int E>
__device__ static inline void finish(const struct decode_job &a, const struct decode_place &w,
                                     int o, const struct decode_part &all)
{
    a.out[((int64_t)blockIdx.z * a.n_heads + w.first_head) * E + o] =
        bits_of<T>(__fdividef(all.out, all.sum) + 0.0f);
}

/* The outputs of this block of the cluster over the splits, in order. */
template <enum dtype T, int E, int WARPS>
__device__ static inline void add_up_sent(const struct decode_job &a, const struct decode_place &w,
                                          struct decode_room<E> &room, const float *got,
                                          int got_stride)
{
    const int n = 1 << a.log_blocks, rank = blockIdx.x, n_eights = w.n_heads * E / 8;
    const int n_own = ((n_eights >> a.log_blocks) + (rank < (n_eights & (n - 1)))) * 8;

    wait_for_bytes(&room.all_got, w.n_splits * (n_own + 2 * w.n_heads) * (int)sizeof(float));
#pragma unroll 1
    for (int i = threadIdx.x; i < n_own; i += 32 * WARPS) {
        const int o = (i / 8 * n + rank) * 8 + i % 8;
        struct decode_part all = { room.got_max[0][o / E], room.got_sum[0][o / E], got[i] };

#pragma unroll 2
        for (int k = 1; k < w.n_splits; k++) {
            const struct decode_part one = { room.got_max[k][o / E], room.got_sum[k][o / E],
                                             got[k * got_stride + i] };
            all = join(all, one);
        }
        finish<T, E>(a, w, o, all);
    }
}

/* ---- the kernel ---- */

/* The units of a chain in a split.  As soon as half of a unit's registers is free, it takes that
 * half of the warp's next unit: of this chain, else `then`. */
template <enum dtype T, int E>
__device__ static inline void add_chain(const struct decode_job &a, const struct decode_place &w,
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

template <enum dtype T, int E, int WARPS>
__global__ void __launch_bounds__(32 * WARPS, E == 64      ? 16 / WARPS
                                              : WARPS == 4 ? 3
                                                           : 1)
    attend_decode(const struct decode_job a)
{
    extern __shared__ __align__(16) unsigned char bytes[];
    struct decode_room<E> &room = *(struct decode_room<E> *)bytes;
    const int warp = threadIdx.x / 32, rank = blockIdx.x, n_blocks = 1 << a.log_blocks;
    float *got = (float *)(bytes + sizeof room);
    struct decode_part *whole = (struct decode_part *)got;
    struct decode_place w;
    struct decode_unit<E> x;
    struct decode_own<E, WARPS> own;

    let_next_start();
    if (n_blocks > 1)
        join_cluster(&room.all_got);

    /* Ahead of time with what slot and position hold now; again when that was of a step before. */
    int p = load_number(a.position + blockIdx.z), slot = load_number(a.slot + blockIdx.z);
#pragma unroll 1
    for (bool again = false;; again = true) {
        w = place_of<E>(a, p, slot);
        find_own<E, WARPS>(a, w, own);
        if (rank * w.per_split + warp < w.n_units) {
            load_keys<E>(w, rank * w.per_split + warp, x);
            load_values<E>(w, rank * w.per_split + warp, x);
        }
        if (again)
            break;
            /* Queries that are not there. */
#pragma unroll 1
        for (int i = w.n_heads * (E / 8) + threadIdx.x; i < HEADS * (E / 8); i += 32 * WARPS)
            *(uint4 *)&room.q[i / (E / 8)][i % (E / 8) * 8] = make_uint4(0, 0, 0, 0);
        if (n_blocks > 1)
            cluster_joined();
        wait_for_launch_before();
        load_own<E, WARPS>(own);
        const int new_p = load_number(a.position + blockIdx.z);
        const int new_slot = load_number(a.slot + blockIdx.z);
        if (new_p == p && new_slot == slot)
            break;
        p = new_p;
        slot = new_slot;
    }

    const bool alone = n_blocks == 1 || w.n_splits == 1;
    const int got_stride = ((w.n_heads * E / 8 + n_blocks - 1) >> a.log_blocks) * 8;

    if (rank < w.n_splits) {
        keep_own<T, E, WARPS>(w, own, room);
        __syncthreads();
    }
#pragma unroll 1
    for (int split = rank; split < w.n_splits; split += n_blocks) {
        const int first = split * w.per_split, end = min(first + w.per_split, w.n_units);

#pragma unroll 1
        for (int chain = warp; chain < CHAINS; chain += WARPS) {
            const int then = chain + WARPS < CHAINS ? first + chain + WARPS
                                                    : first + n_blocks * w.per_split + warp;
            struct decode_sum<E> s = {
                { -INFINITY, -INFINITY }, { 0, 0 },
                {
                    0
                }
            };

            add_chain<T, E>(a, w, room, first + chain, end, then, x, s);
            to_room<E>(s, w.n_heads, chain, room);
        }
        __syncthreads();
#pragma unroll 1
        for (int o = threadIdx.x; o < w.n_heads * E; o += 32 * WARPS) {
            struct decode_part part = over_chains<E>(room, o / E, o % E);

            if (!alone) {
                send<E>(a.log_blocks, split, o, part, room, got, got_stride);
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
        else if (!a.appended && split + 1 == w.n_splits && blockIdx.y % a.n_parts == 0)
            append<E, WARPS>(w, room);
    }
    if (!alone)
        add_up_sent<T, E, WARPS>(a, w, room, got, got_stride);
}

/* ---- the launch ---- */

typedef void (*decode_kernel)(struct decode_job);

struct decode_choice {
    decode_kernel kernel;
    int n_warps;
};

/* few: no more blocks than run at once. */
template <enum dtype T> static struct decode_choice kernel_for(int head_dim, bool few)
{
    if (head_dim == 256)
        return { attend_decode<T, 256, 8>, 8 };
    if (head_dim == 128)
        return few ? decode_choice{ attend_decode<T, 128, 8>, 8 }
                   : decode_choice{ attend_decode<T, 128, 4>, 4 };
    if (head_dim == 64)
        return few ? decode_choice{ attend_decode<T, 64, 8>, 8 }
                   : decode_choice{ attend_decode<T, 64, 4>, 4 };
    return { NULL, 0 };
}

static struct decode_choice kernel_of(enum dtype t, int head_dim, bool few)
{
    return t == DTYPE_F16    ? kernel_for<DTYPE_F16>(head_dim, few)
           : t == DTYPE_BF16 ? kernel_for<DTYPE_BF16>(head_dim, few)
                             : decode_choice{ NULL, 0 };
}

bool cuda_attention_decode_fits(enum dtype t, int n_heads, int n_kv_heads, int head_dim,
                                int n_rotated)
{
    return n_rotated % 4 == 0 && n_heads % n_kv_heads == 0 && kernel_of(t, head_dim, false).kernel;
}

/* Blocks of a row and key/value head: as many as splits, with at most one on a multiprocessor (for
 * clusters start slowly); the largest clusters for long contexts alone. */
static int blocks_of(const struct cuda_state *s, const struct decode_attention *a, int64_t n_units)
{
    const int64_t seen = a->window > 0 && a->window < a->bound ? a->window + 32 : a->bound + 1;
    const int64_t n_splits = ceil_div(seen, SPLIT);
    const int most = n_splits < SPLITS_MAX && s->cluster_max > 8 ? 8 : s->cluster_max;
    int n = 1;

    if (a->n_blocks)
        return a->n_blocks < s->cluster_max ? a->n_blocks : s->cluster_max;
    while (n < most && n < n_splits && n_units * n * 2 <= s->n_multiprocessors)
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
    const size_t got = (outputs / 8 + (size_t)n_blocks - 1) / (size_t)n_blocks * 8 * SPLITS_MAX;

    return room + (n_blocks > 1 && got * sizeof(float) > whole ? got * sizeof(float) : whole);
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
    const decode_kernel kernel = attend_decode<DTYPE_F16, 64, 8>;
    struct cudaFuncAttributes facts;

    CUDA_TRY(cudaFuncGetAttributes(&facts, kernel));
    s->cluster_max = 1;
    if (facts.ptxVersion < 90)
        return 0;
    CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
    for (int n = 16; n > 1 && s->cluster_max == 1; n /= 2) {
        cudaLaunchAttribute cluster = cluster_of(n);
        cudaLaunchConfig_t config = { .gridDim = dim3((unsigned)n),
                                      .blockDim = dim3(32 * 8),
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
    const int n_group = a->n_heads / a->n_kv_heads, n_parts = (n_group + HEADS - 1) / HEADS;
    struct decode_job job = { .q = (const uint16_t *)a->q,
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
                              .log_blocks = 0,
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
    const int at_once = (a->head_dim == 64 ? 2 : 1) * s->n_multiprocessors;
    const struct decode_choice choice = kernel_of(a->t, a->head_dim, n_units * n_blocks <= at_once);
    const size_t n_bytes = shared_bytes(a->head_dim, n_group < HEADS ? n_group : HEADS, n_blocks);

    while (1 << job.log_blocks < n_blocks)
        job.log_blocks++;
    if (n_bytes > 48 * 1024)
        CUDA_TRY(cudaFuncSetAttribute(choice.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)n_bytes));
    if (n_blocks > 8)
        CUDA_TRY(
            cudaFuncSetAttribute(choice.kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1));
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
                                        .blockDim = dim3(32 * (unsigned)choice.n_warps),
                                        .dynamicSmemBytes = n_bytes,
                                        .stream = s->stream,
                                        .attrs = attrs,
                                        .numAttrs = n_attrs };
    cudaError_t rc = cudaLaunchKernelEx(&config, choice.kernel, job);
    if (rc != cudaSuccess)
        return err_set(e, cuda_err_code(rc), "kernel attend_decode: %s", cudaGetErrorString(rc));
    CUDA_LAUNCHED(s, "attend_decode");
    return 0;
}
