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

#include "attention_decode_block.cuh"

/* ---- the kernel ---- */

template <enum dtype T, int E, int WARPS, class Job>
__device__ static inline void attend(const Job &a)
{
    extern __shared__ __align__(16) unsigned char bytes[];
    struct decode_room<E> &room = *(struct decode_room<E> *)bytes;
    const int warp = threadIdx.x / 32, rank = blockIdx.x, n_blocks = 1 << a.log_blocks;
    float *got = (float *)(bytes + sizeof room);
    struct attend_part *whole = (struct attend_part *)got;
    struct decode_place w;
    struct decode_unit<E> x;
    struct decode_own<E, WARPS> own;
    uint32_t n_steps = 0;

    let_next_start();
    if (n_blocks > 1)
        join_cluster(&room.all_got);

    /* Ahead of time with what slot and position hold now; again when that was of a step before. */
    int p = load_number(a.position + blockIdx.z), slot = load_number(a.slot + blockIdx.z);
#pragma unroll 1
    for (bool again = false;; again = true) {
        w = place_of<E>(a, (int)blockIdx.z, (int)blockIdx.y, p, slot);
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
        if constexpr (Job::SHARED)
            n_steps = steps_before(a.share);
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
            struct attend_part part = over_chains<E>(room, o / E, o % E);

            if (!alone) {
                send<E>(a.log_blocks, split, o, part, room, got, got_stride);
                continue;
            }
            if (split > 0)
                part = join(whole[o], part);
            if (split + 1 < w.n_splits)
                whole[o] = part;
            else
                finish<T, E>(a, n_steps, w, o, part);
        }
        if (split + n_blocks < w.n_splits)
            __syncthreads(); /* before the next split's sums take the room */
        else if (!a.appended && split + 1 == w.n_splits && blockIdx.y % a.n_parts == 0)
            append<E, WARPS>(w, room);
    }
    if (!alone)
        add_up_sent<T, E, WARPS>(a, n_steps, w, room, got, got_stride);
    if constexpr (Job::SHARED)
        if (alone && rank == 0)
            receive<E>(a, n_steps, w, threadIdx.x, 32 * WARPS, w.n_heads * E);
}

template <int E, int WARPS>
constexpr int blocks_at_once = E <= 64      ? 16 / WARPS
                               : WARPS == 4 ? 3
                                            : 1;

template <enum dtype T, int E, int WARPS>
__global__ void __launch_bounds__(32 * WARPS, blocks_at_once<E, WARPS>)
    attend_decode(const struct attend_job a)
{
    attend<T, E, WARPS>(a);
}

/* With what it makes on all GPUs, whose addresses it takes by number. */
template <enum dtype T, int E, int WARPS>
__global__ void __launch_bounds__(32 * WARPS, blocks_at_once<E, WARPS>)
    attend_decode_shared(const __grid_constant__ struct attend_shared_job a)
{
    attend<T, E, WARPS>(a);
}

/* ---- the launch ---- */

struct decode_choice {
    const void *kernel;
    int n_warps;
};

template <enum dtype T, int E, int WARPS> static struct decode_choice choice_of(bool shared)
{
    return { shared ? (const void *)attend_decode_shared<T, E, WARPS>
                    : (const void *)attend_decode<T, E, WARPS>,
             WARPS };
}

/* few: no more blocks than run at once. */
template <enum dtype T> static struct decode_choice kernel_for(int head_dim, bool few, bool shared)
{
    if (head_dim == 256)
        return choice_of<T, 256, 8>(shared);
    if (head_dim == 128)
        return few ? choice_of<T, 128, 8>(shared) : choice_of<T, 128, 4>(shared);
    if (head_dim == 64)
        return few ? choice_of<T, 64, 8>(shared) : choice_of<T, 64, 4>(shared);
    if (head_dim == 32)
        return few ? choice_of<T, 32, 8>(shared) : choice_of<T, 32, 4>(shared);
    return { NULL, 0 };
}

static struct decode_choice kernel_of(enum dtype t, int head_dim, bool few, bool shared)
{
    return t == DTYPE_F16    ? kernel_for<DTYPE_F16>(head_dim, few, shared)
           : t == DTYPE_BF16 ? kernel_for<DTYPE_BF16>(head_dim, few, shared)
                             : decode_choice{ NULL, 0 };
}

bool cuda_attention_decode_fits(enum dtype t, int n_heads, int n_kv_heads, int head_dim,
                                int n_rotated)
{
    return n_rotated % 4 == 0 && n_heads % n_kv_heads == 0 &&
           kernel_of(t, head_dim, false, false).kernel;
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
    const size_t room = head_dim == 32    ? sizeof(struct decode_room<32>)
                        : head_dim == 64  ? sizeof(struct decode_room<64>)
                        : head_dim == 128 ? sizeof(struct decode_room<128>)
                                          : sizeof(struct decode_room<256>);
    const size_t whole = outputs * sizeof(struct attend_part);
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
    const void *kernel = kernel_of(DTYPE_F16, 64, true, false).kernel;
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
    struct attend_shared_job job;

    (struct attend_job &)job = { .q = (const uint16_t *)a->q,
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
                                 .eights = a->eights,
                                 .appended = a->appended,
                                 .scale = (float)(LOG2_E / sqrt((double)a->head_dim)) };
    job.share = a->share;
    cudaLaunchAttribute attrs[2];
    unsigned n_attrs = 0;
    void *args[] = { &job };

    if (!a->n_rows)
        return 0;
    if (!s->cluster_max && ask_cluster_max(s, e) < 0)
        return err_in(e, "attention of a decode step");

    const int64_t n_units = a->n_rows * a->n_kv_heads * n_parts;
    const int n_blocks = blocks_of(s, a, n_units);
    const int at_once = (a->head_dim <= 64 ? 2 : 1) * s->n_multiprocessors;
    const struct decode_choice choice =
        kernel_of(a->t, a->head_dim, n_units * n_blocks <= at_once, a->share.n > 0);
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
    cudaError_t rc = cudaLaunchKernelExC(&config, choice.kernel, args);
    if (rc != cudaSuccess)
        return err_set(e, cuda_err_code(rc), "kernel attend_decode: %s", cudaGetErrorString(rc));
    CUDA_LAUNCHED(s, "attend_decode");
    return 0;
}
