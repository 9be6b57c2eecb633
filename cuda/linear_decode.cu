/* linear_decode.cu - which kernel a product of the decode phase takes, and its launch. */
#include "linear_decode_job.cuh"

#define FEW_ROWS      8
#define HEAD_ROWS     4           /* of x, at most, of a head on Hopper that wgmma would not help */
#define SPREAD_ROWS   4           /* of x, at most, where blocks of two launches share */
#define FEW_BYTES     (110 << 10) /* of shared memory a block, so that two fit (sm_80: one) */
#define SLOTS_BYTES   (16 << 10)  /* of them for sums */
#define NUMBERS_BYTES (24 << 10)  /* of them for scales and zero points of all slots but one */
#define BLOCKS_OF_SM  2
#define PASS_FLOATS   (2 * UNIT_ROWS * sizeof(float))
#define ALONE_BYTES   (116 << 10) /* no two blocks fit; one leaves room for another launch's */
/* Of shared memory, for a block that has a multiprocessor for itself, and for one of two. */
#define WIDE_ROOM_ONE (220 << 10)
#define WIDE_ROOM_TWO (112 << 10)
/* Of codes, asked for before a launch's turn: a read that the few pieces on their way to registers
 * would not fill (NF4 of Llama-3.2-1B 0.543 and 0.536 ms a token, 2 bits 0.557 and 0.543).  Of 8 or
 * 16 bits, which read all the time, it is slower. */
#define ASKED_BYTES  (16 << 20)
#define CHUNKS_MAX   4096 /* of a row: wide_order_room() */
#define SHORT_CHUNKS 2    /* of a part of K, at most, in a short row */

/* ---- which weights ---- */

static bool rows_fit(const struct weight *w, int64_t row_bytes)
{
    return w->row_bytes == row_bytes && (uintptr_t)w->codes % 16 == 0;
}

static bool codes_fit(const struct decode_linear *a, const struct weight *w)
{
    if (w->form == WEIGHT_PLAIN)
        return w->plain_dtype == a->compute && rows_fit(w, 2 * w->n_in);
    if (w->form == WEIGHT_INT8)
        return a->epilogue != DECODE_ARGMAX && rows_fit(w, w->n_in) && w->arrangement == 0;
    return w->arrangement == 1 && (uintptr_t)w->scales % 16 == 0 && (uintptr_t)w->zeros % 16 == 0;
}

static bool is_coded(const struct weight *w)
{
    return w->form != WEIGHT_PLAIN && w->form != WEIGHT_INT8;
}

static bool same_form(const struct weight *v, const struct weight *w)
{
    return v->form == w->form && v->bits == w->bits && v->n_in == w->n_in &&
           v->row_bytes == w->row_bytes && v->group_size == w->group_size &&
           v->scale_form == w->scale_form && v->zero_form == w->zero_form &&
           v->zero_constant == w->zero_constant && v->outlier_threshold == w->outlier_threshold &&
           (v->form != WEIGHT_TABLE || !memcmp(v->table, w->table, sizeof v->table));
}

static bool part_fits(const struct decode_linear *a, const struct weight *w)
{
    return codes_fit(a, w) && same_form(w, a->w[0]) && w->n_out % UNIT_ROWS == 0 &&
           w->n_in % CHUNK_COLS == 0 && w->n_out <= INT32_MAX / 64 &&
           w->n_in <= CHUNKS_MAX * CHUNK_COLS;
}

bool cuda_linear_decode_fits(const struct decode_linear *a)
{
    const bool pair = a->epilogue == DECODE_SWIGLU;

    if (!dtype_is_16bit(a->model) || !dtype_is_16bit(a->compute) || (uintptr_t)a->x % 16)
        return false;
    if (pair ? a->n_parts != 2 || a->w[0]->n_out != a->w[1]->n_out
             : a->epilogue != DECODE_STORE && a->n_parts != 1)
        return false;
    if (a->norm_weight &&
        (a->norm_weight->dtype != a->model || (uintptr_t)a->norm_weight->data % 16))
        return false;
    for (int i = 0; i < a->n_parts; i++)
        if (!part_fits(a, a->w[i]) || (a->bias[i] && a->bias[i]->dtype != a->model))
            return false;
    return true;
}

/* ---- how ---- */

struct plan {
    const void *kernel;
    enum decode_kind kind;
    size_t shared_bytes;
    bool spread; /* blocks of two launches share multiprocessors, and none two of one */
    int n_passes, n_slots, n_split, n_streams, n_stages, n_staged, n_blocks, n_threads, order_at;
};

static bool is_many(enum decode_kind kind)
{
    return kind >= DECODE_16;
}

static bool is_wide(enum decode_kind kind)
{
    return kind >= DECODE_WIDE_16;
}

/* Of 8 rows of x, that the kernels for more than 8 know. */
static int tiles_of(int64_t n_rows)
{
    return n_rows <= 16 ? 2 : n_rows <= 32 ? 4 : 8;
}

/* Units of W side by side. */
static int sides_of(enum decode_kind kind)
{
    return kind == DECODE_FEW_LONG ? 1 : 2;
}

static int bytes_of_scale(const struct weight *w)
{
    switch (w->scale_form) {
    case SCALE_F32:
        return 4;
    case SCALE_F16:
        return 2;
    default:
        return 1;
    }
}

static int bytes_of_zero(const struct weight *w)
{
    if (w->form == WEIGHT_TABLE)
        return 0;
    return w->zero_form == ZERO_F32   ? 4
           : w->zero_form == ZERO_F16 ? 2
           : w->zero_form == ZERO_U8  ? 1
                                      : 0;
}

static const void *kernel_of(const struct decode_linear *a, enum decode_kind kind)
{
    const struct weight *w = a->w[0];
    const bool bf16 = a->compute == DTYPE_BF16;
    const bool short_runs = w->group_size < CHUNK_COLS / 2;
    const bool shared = a->share.n > 0;

    if (w->form == WEIGHT_PLAIN)
        return decode_kernel_16(kind, bf16, shared);
    if (w->form == WEIGHT_INT8)
        return decode_kernel_int8(kind, a->model == DTYPE_BF16, shared);
    switch (w->bits) {
    case 2:
        return decode_kernel_2(kind, short_runs, bf16, shared);
    case 3:
        return decode_kernel_3(kind, short_runs, bf16, shared);
    case 4:
        return decode_kernel_4(bytes_of_zero(w), kind, short_runs, bf16, shared);
    case 5:
        return decode_kernel_5(kind, short_runs, bf16, shared);
    case 6:
        return decode_kernel_6(kind, short_runs, bf16, shared);
    default:
        return decode_kernel_8(kind, short_runs, bf16, shared);
    }
}

/* Of the table of codes and of what a scale's byte stands for, in shared memory. */
static size_t tables_bytes(const struct weight *w)
{
    bool looked_up = w->form != WEIGHT_PLAIN && w->bits == 4;

    return 256 * sizeof(float) + (looked_up ? codes_4_bare::N_LOOKUP : 0);
}

/* Of `sides` units each. */
static int passes_of(const struct decode_linear *a, int sides)
{
    int n = 0;

    if (a->epilogue == DECODE_SWIGLU)
        return (int)(a->w[0]->n_out / UNIT_ROWS);
    for (int i = 0; i < a->n_parts; i++)
        n += (int)ceil_div(a->w[i]->n_out, sides * UNIT_ROWS);
    return n;
}

/* Blocks such that the multiprocessor with most to do has least; more blocks where it is the same.
 */
static int blocks_of(int n_passes, int n_multiprocessors)
{
    int best = 1, least = INT32_MAX;

    for (int n = BLOCKS_OF_SM; n > 0; n--) {
        int each = (int)ceil_div(n_passes, n * n_multiprocessors);
        int n_blocks = (int)ceil_div(n_passes, each);
        int most = each * (int)ceil_div(n_blocks, n_multiprocessors);

        if (most < least) {
            least = most;
            best = n_blocks;
        }
    }
    return best;
}

/* Of x in shared memory: values; for LLM.int8 codes, outlier columns and what was found, too. */
static size_t x_bytes(const struct decode_linear *a)
{
    const size_t n_in = (size_t)a->w[0]->n_in, values = (n_in + X_PAD) * 2;

    return (size_t)a->n_rows *
           (a->w[0]->form == WEIGHT_INT8
                ? values + n_in + 64 + n_in / 8 + (n_in + 255) / 256 * 4 + 2 * K_PARTS * 4
                : values);
}

/* Few rows of W as they are, but long ones: a pass of one unit makes twice the blocks. */
static enum decode_kind kind_of_few(const struct cuda_state *s, const struct decode_linear *a)
{
    if (is_coded(a->w[0]) || a->epilogue == DECODE_SWIGLU || a->epilogue == DECODE_ARGMAX ||
        passes_of(a, 2) >= 4 * s->n_multiprocessors ||
        a->w[0]->n_in <= SHORT_CHUNKS * K_PARTS * CHUNK_COLS)
        return DECODE_FEW;
    return DECODE_FEW_LONG;
}

/* One part, or a pair, without an odd unit. */
static bool is_even(const struct decode_linear *a, int sides)
{
    return a->epilogue == DECODE_SWIGLU ||
           (a->n_parts == 1 && a->w[0]->n_out % (sides * UNIT_ROWS) == 0);
}

/* Slots of sums, and of scales and zero points where W has codes. */
static void plan_few(const struct cuda_state *s, const struct decode_linear *a, struct plan *p)
{
    const struct weight *w = a->w[0];

    p->kind = kind_of_few(s, a);
    const int sides = sides_of(p->kind);
    const size_t sums = (size_t)(a->n_rows * K_PARTS * sides * UNIT_ROWS) * 4;
    const size_t numbers = !is_coded(w)
                               ? 0
                               : (size_t)sides * UNIT_ROWS * 4 * (bytes_of_zero(w) ? 2 : 1) *
                                     (size_t)(w->n_groups / w->n_out);

    p->n_passes = passes_of(a, sides);
    p->n_blocks = blocks_of(p->n_passes, s->n_multiprocessors);
    p->n_slots = (int)ceil_div(p->n_passes, p->n_blocks);
    if ((size_t)p->n_slots * sums > SLOTS_BYTES)
        p->n_slots = (int)(SLOTS_BYTES / sums);
    if ((size_t)p->n_slots * numbers > NUMBERS_BYTES)
        p->n_slots = numbers < NUMBERS_BYTES ? (int)(NUMBERS_BYTES / numbers) : 1;
    p->shared_bytes = tables_bytes(w) +
                      DECODE_THREADS / 16 * FEW_ROWS * sizeof(struct decode_best) +
                      (size_t)p->n_slots * (sums + numbers) + x_bytes(a);
}

/* A head of 16 bits is one long read: a block a multiprocessor.  False: not such a head, more rows
 * than it is the faster kernel for, or x has no room beside the rings. */
static bool plan_head(const struct cuda_state *s, const struct decode_linear *a, struct plan *p)
{
    const size_t pass = (size_t)a->n_rows * K_PARTS * PASS_ROWS * 4;
    const size_t rest = HEAD_BESTS * sizeof(struct decode_best) + x_bytes(a) +
                        (size_t)(K_PARTS * HEAD_PLACES * HEAD_PIECE);

    if (a->epilogue != DECODE_ARGMAX || a->w[0]->form != WEIGHT_PLAIN ||
        a->n_rows > (s->overlaps ? HEAD_ROWS : FEW_ROWS) || a->w[0]->n_out % PASS_ROWS ||
        rest + pass > ALONE_BYTES)
        return false;
    p->kind = DECODE_HEAD;
    p->n_passes = passes_of(a, 2);
    p->n_blocks = p->n_passes < s->n_multiprocessors ? p->n_passes : s->n_multiprocessors;
    p->n_slots = (int)ceil_div(p->n_passes, p->n_blocks);
    if ((size_t)p->n_slots * pass > ALONE_BYTES - rest)
        p->n_slots = (int)((ALONE_BYTES - rest) / pass);
    p->shared_bytes = ALONE_BYTES;
    return true;
}

static void plan_many(const struct decode_linear *a, struct plan *p)
{
    const int n_tiles = tiles_of(a->n_rows);

    p->kind = n_tiles == 2 ? DECODE_16 : n_tiles == 4 ? DECODE_32 : DECODE_64;
    p->n_passes = passes_of(a, 2);
    p->n_blocks = (int)ceil_div(p->n_passes, MANY_WARPS);
    p->shared_bytes = tables_bytes(a->w[0]) + MANY_WARPS * (size_t)n_tiles * 512 +
                      MANY_STAGES * (size_t)n_tiles * 8 * (CHUNK_COLS + X_PAD) * 2;
}

/* Scales of all groups that a block sees, where there is room for them. */
static void plan_scales(const struct decode_linear *a, bool split, struct plan *p)
{
    const struct weight *w = a->w[0];
    if (w->form == WEIGHT_PLAIN)
        return;
    const size_t row = PASS_FLOATS * (bytes_of_zero(w) || w->bits != 4 ? 2 : 1);
    const size_t room = p->n_streams > 1 ? WIDE_ROOM_ONE : WIDE_ROOM_TWO;
    int64_t n = w->n_groups / w->n_out;

    if (split) { /* of a part, which may begin and end inside one */
        int64_t most = ceil_div(w->n_in, K_PARTS * CHUNK_COLS) * CHUNK_COLS / w->group_size + 2;
        n = n < most ? n : most;
    }
    p->n_staged = p->shared_bytes + MANY_WARPS * row * (size_t)n <= room ? (int)n : 0;
    p->shared_bytes +=
        row * (p->n_staged ? MANY_WARPS * (size_t)n : (size_t)(p->n_streams * MANY_WARPS) * 4);
}

/* A head of 16 bits: an even share of it for every multiprocessor. */
static bool plan_wide_head(const struct cuda_state *s, const struct decode_linear *a,
                           struct plan *p)
{
    const int n_tiles = tiles_of(a->n_rows);

    if (!s->overlaps || a->epilogue != DECODE_ARGMAX || a->w[0]->form != WEIGHT_PLAIN ||
        a->w[0]->n_out % PASS_ROWS)
        return false;
    p->kind = n_tiles == 2 ? DECODE_HEAD_16 : n_tiles == 4 ? DECODE_HEAD_32 : DECODE_HEAD_64;
    p->n_passes = passes_of(a, 2);
    p->n_blocks = p->n_passes < s->n_multiprocessors ? p->n_passes : s->n_multiprocessors;
    p->n_threads = 32 * WIDE_HEAD_WARPS;
    p->shared_bytes = 128 + WIDE_STAGES * (size_t)n_tiles * 8 * CHUNK_COLS * 2 +
                      WIDE_HEAD_WARPS * WIDE_HEAD_PLACES * HEAD_PIECE;
    return true;
}

/* Eight blocks share K where W has too few rows for the device.  Two streams of warps share it in a
 * block that has a multiprocessor for itself; else two blocks have one. */
static void plan_wide(const struct cuda_state *s, const struct decode_linear *a, struct plan *p)
{
    const int n_tiles = tiles_of(a->n_rows), n_chunks = (int)(a->w[0]->n_in / CHUNK_COLS);
    const size_t chunk = (size_t)n_tiles * 8 * CHUNK_COLS * 2, sums = (size_t)n_tiles * 512;

    p->kind = n_tiles == 2 ? DECODE_WIDE_16 : n_tiles == 4 ? DECODE_WIDE_32 : DECODE_WIDE_64;
    p->n_passes = passes_of(a, 2);
    const int n_groups = (int)ceil_div(p->n_passes, MANY_WARPS);
    const bool split = a->epilogue != DECODE_ARGMAX && 4 * n_groups < 3 * s->n_multiprocessors;
    p->n_split = split ? K_PARTS : 1;
    p->n_streams = !split && n_groups <= s->n_multiprocessors ? 2 : 1;
    p->n_threads = p->n_streams * DECODE_THREADS;
    if (split) /* the sums need two */
        p->n_stages = n_chunks > 3 * K_PARTS ? WIDE_STAGES : n_chunks > 2 * K_PARTS ? 3 : 2;
    else
        p->n_stages = p->n_streams > 1 ? WIDE_STAGES : 3;
    p->n_blocks = n_groups * p->n_split;
    const size_t x = (size_t)(p->n_streams * p->n_stages) * chunk;
    p->shared_bytes =
        tables_bytes(a->w[0]) + WIDE_BARRIERS +
        (split ? (x > MANY_WARPS * sums ? x : MANY_WARPS * sums) + sums : x + MANY_WARPS * sums);
    const size_t order = (size_t)(p->n_streams * wide_order_room(n_chunks)) * 2;
    p->shared_bytes += order;
    plan_scales(a, split, p);
    p->order_at = (int)(p->shared_bytes - order);
}

/* Blocks begin where the launch before leaves room, and then sit on some multiprocessors in pairs,
 * on others not at all, unless no two have room (Llama-3.2-1B in NF4, an H200: 0.567 and 0.540 ms a
 * token).  For that all shared memory has to be there; more rows of x need it themselves. */
static void spread_blocks(const struct cuda_state *s, const struct decode_linear *a, struct plan *p)
{
    p->spread = s->overlaps && is_coded(a->w[0]) && a->n_rows <= SPREAD_ROWS;
    if (p->spread && p->n_blocks <= s->n_multiprocessors && p->shared_bytes < ALONE_BYTES)
        p->shared_bytes = ALONE_BYTES;
}

/* Two blocks a multiprocessor, or one where there are no more of a launch of codes. */
static bool few_fits(const struct cuda_state *s, const struct decode_linear *a,
                     const struct plan *p)
{
    const bool alone = s->overlaps && is_coded(a->w[0]) && p->n_blocks <= s->n_multiprocessors;

    return p->shared_bytes <= (alone ? WIDE_ROOM_ONE : FEW_BYTES);
}

static struct plan plan_of(const struct cuda_state *s, const struct decode_linear *a)
{
    struct plan p;

    memset(&p, 0, sizeof p);
    p.n_slots = p.n_split = p.n_streams = 1;
    p.n_threads = DECODE_THREADS;
    if (!plan_head(s, a, &p) && !plan_wide_head(s, a, &p)) {
        plan_few(s, a, &p);
        if (a->w[0]->form == WEIGHT_INT8 || (a->n_rows <= FEW_ROWS && few_fits(s, a, &p)))
            spread_blocks(s, a, &p);
        else if (s->overlaps)
            plan_wide(s, a, &p);
        else
            plan_many(a, &p);
    }
    p.kernel = kernel_of(a, p.kind);
    return p;
}

/* x normed, converted or in another order; the largest of all kernels. */
size_t cuda_linear_decode_room(const struct decode_linear *a)
{
    if (a->w[0]->form == WEIGHT_INT8)
        return 0;
    return (size_t)tiles_of(a->n_rows) * 8 * (size_t)a->w[0]->n_in * 2;
}

int cuda_linear_decode_eights(struct cuda_state *s, const struct decode_linear *a)
{
    if (a->model != a->compute || !cuda_linear_decode_fits(a) || !is_wide(plan_of(s, a).kind))
        return 0;
    return tiles_of(a->n_rows);
}

static bool leaves_image(const struct decode_linear *a, enum decode_kind kind)
{
    return a->epilogue == DECODE_SWIGLU && a->w[0]->form != WEIGHT_INT8 &&
           (is_wide(kind) || !is_many(kind));
}

bool cuda_linear_decode_leaves_image(struct cuda_state *s, const struct decode_linear *a)
{
    return cuda_linear_decode_fits(a) && leaves_image(a, plan_of(s, a).kind);
}

bool cuda_linear_decode_shares(struct cuda_state *s, const struct decode_linear *a)
{
    const enum decode_kind kind = plan_of(s, a).kind;

    return a->epilogue != DECODE_LOGITS && a->epilogue != DECODE_ARGMAX &&
           (kind == DECODE_FEW || kind == DECODE_FEW_LONG);
}

int cuda_linear_decode_blocks(struct cuda_state *s, const struct decode_linear *a)
{
    return plan_of(s, a).n_blocks;
}

/* ---- x before the product ---- */

__device__ static void store_vector(void *out, int n_tiles, int n_vectors, int row, int vector,
                                    uint4 x)
{
    const uint32_t word[4] = { x.x, x.y, x.z, x.w };

    if (n_tiles == 0) {
        ((uint4 *)out)[(int64_t)row * n_vectors + vector] = x;
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        ((uint32_t *)out)[image_element(n_tiles, row, 8 * vector + 2 * i) / 2] = word[i];
}

/* A block norms or converts one row, with the sums of stage_x().  n_tiles: into the order of the
 * wide kernel, where rows that are not there are zeros; 0: as it was. */
template <bool T, bool BF16>
__global__ static void __launch_bounds__(DECODE_THREADS)
    decode_prepare(const __grid_constant__ struct decode_job a, void *out, int n_tiles)
{
    __shared__ __align__(16) float sums[K_PARTS];
    const int n_vectors = a.n_in / 8, i = threadIdx.x, row = blockIdx.x;
    const uint4 *from = (const uint4 *)a.x + (int64_t)row * n_vectors;
    float factor = 1.0f, sum = 0;

    let_next_start();
    uint4 weight = norm_weights(a, i);
    wait_for_launch_before();
    if (row >= a.n_rows) {
        for (int v = i; v < n_vectors; v += DECODE_THREADS)
            store_vector(out, n_tiles, n_vectors, row, v, make_uint4(0, 0, 0, 0));
        return;
    }
    const uint4 first = i < n_vectors ? __ldcg(from + i) : make_uint4(0, 0, 0, 0);
    if (a.norm) {
        for (int v = i; v < n_vectors; v += DECODE_THREADS)
            sum = add_squares<T>(v == i ? first : __ldcg(from + v), sum);
        sum = sum_of_warp(sum);
        if (i % 32 == 0)
            sums[i / 32] = sum;
        __syncthreads();
        factor = norm_factor(sums, a.n_in, a.eps);
    }
    for (int v = i; v < n_vectors; v += DECODE_THREADS) {
        if (v != i)
            weight = norm_weights(a, v);
        store_vector(
            out, n_tiles, n_vectors, row, v,
            finished_x<T, BF16>(v == i ? first : __ldcg(from + v), a.norm, factor, weight));
    }
}

static const void *prepare_kernel(bool from_bf16, bool to_bf16)
{
    if (from_bf16)
        return to_bf16 ? (const void *)decode_prepare<true, true>
                       : (const void *)decode_prepare<true, false>;
    return to_bf16 ? (const void *)decode_prepare<false, true>
                   : (const void *)decode_prepare<false, false>;
}

/* ---- launches ---- */

/* Code for compute_80 knows nothing of launches that overlap, nor of clusters. */
int cuda_linear_decode_open(struct cuda_state *s, struct err *e)
{
    struct cudaFuncAttributes facts;

    CUDA_TRY(cudaFuncGetAttributes(&facts, prepare_kernel(false, false)));
    s->overlaps = facts.ptxVersion >= 90;
    return 0;
}

static int launch(struct cuda_state *s, const void *kernel, int n_blocks, int n_threads,
                  int n_split, size_t shared_bytes, void **args, const char *name, struct err *e)
{
    cudaLaunchAttribute attributes[2];
    cudaLaunchConfig_t config = {};

    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = (unsigned)n_split;
    attributes[1].val.clusterDim.y = 1;
    attributes[1].val.clusterDim.z = 1;
    config.gridDim = dim3((unsigned)n_blocks);
    config.blockDim = dim3((unsigned)n_threads);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = s->stream;
    config.attrs = attributes;
    config.numAttrs = !s->overlaps ? 0 : n_split > 1 ? 2 : 1;
    if (shared_bytes > 48 * 1024)
        CUDA_TRY(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                      (int)shared_bytes));
    cudaError_t rc = cudaLaunchKernelExC(&config, kernel, args);
    s->last_kernel = name;
    if (rc != cudaSuccess)
        return err_set(e, cuda_err_code(rc), "kernel %s: %s", name, cudaGetErrorString(rc));
    return 0;
}

static int log_2(int64_t n)
{
    int log = 0;

    while (n > 1)
        n /= 2, log++;
    return log;
}

static struct decode_part part_of(const struct decode_linear *a, int i)
{
    const struct weight *w = a->w[i];
    const bool nested = w->scale_form == SCALE_NESTED, e4m3 = w->scale_form == SCALE_E4M3;

    return { .codes = (const uint8_t *)w->codes,
             .scales = (const uint8_t *)w->scales,
             .zeros = (const uint8_t *)w->zeros,
             .scales2 = (const float *)w->scales2,
             .bias = a->bias[i] ? a->bias[i]->data : NULL,
             .y = a->y[i],
             .second = e4m3 ? w->nested_offset : 1.0f,
             .offset = nested ? w->nested_offset : 0.0f,
             .n_units = (int)(w->n_out / UNIT_ROWS) };
}

/* Codes of 4 bits that are looked up have their zero in the table; others subtract it. */
static float table_value(const struct weight *w, int code)
{
    if (w->form == WEIGHT_TABLE)
        return w->table[code];
    return (float)(w->bits == 4 && w->zero_form == ZERO_CONSTANT ? code - w->zero_constant : code);
}

/* The first of what a launch reads: of its parts one after another, of a pair both. */
static void ask_for_codes(const struct decode_linear *a, int n_blocks, struct decode_job *j)
{
    const bool pair = a->epilogue == DECODE_SWIGLU;
    size_t n = ASKED_BYTES;

    for (int i = 0; i < a->n_parts; i++) {
        const struct weight *w = a->w[i];
        const size_t all = (size_t)(w->n_out * w->row_bytes);
        const size_t most = pair && i == 0 ? n / 2 : n, own = all < most ? all : most;
        const size_t each = own / (size_t)n_blocks / 16 * 16;

        n -= own;
        if (each)
            j->asked[j->n_asked++] = { (const uint8_t *)w->codes, (uint32_t)each };
    }
}

static struct decode_job job_of(const struct cuda_state *s, const struct decode_linear *a,
                                const struct plan *p)
{
    const struct weight *w = a->w[0];
    const int sides = sides_of(p->kind);
    struct decode_job j;

    memset(&j, 0, sizeof j);
    for (int i = 0; i < a->n_parts; i++) {
        j.part[i] = part_of(a, i);
        j.last_pass[i] =
            (i ? j.last_pass[i - 1] : 0) + (int)ceil_div(a->w[i]->n_out, sides * UNIT_ROWS);
    }
    j.pair = a->epilogue == DECODE_SWIGLU;
    j.even = is_even(a, sides);
    j.n_rows = (int)a->n_rows;
    j.n_in = (int)w->n_in;
    j.n_passes = p->n_passes;
    j.n_slots = p->n_slots;
    j.n_split = p->n_split;
    j.n_streams = p->n_streams;
    j.n_stages = p->n_stages;
    j.n_staged = p->n_staged;
    j.order_at = p->order_at;
    j.row_inverse = (int)ceil_div(65536, a->n_rows);
    j.unit_bytes = UNIT_ROWS * w->row_bytes;
    j.threshold = w->outlier_threshold > 0 ? w->outlier_threshold : INFINITY;
    if (is_coded(w)) {
        j.n_groups = (int)(w->n_groups / w->n_out);
        j.groups_log = w->group_size < CHUNK_COLS ? log_2(CHUNK_COLS / w->group_size) : 0;
        j.group_shift = j.n_groups == 1 ? 31 : j.groups_log ? 0 : log_2(w->group_size / CHUNK_COLS);
        j.fours_inverse = (unsigned)ceil_div((int64_t)1 << 32, 2 * j.n_groups);
        j.run_shift = j.n_groups == 1 ? 31 : w->group_size > 64 ? log_2(w->group_size / 64) : 0;
        j.scale_bytes = bytes_of_scale(w);
        j.zero_bytes = bytes_of_zero(w);
        j.scale_form = w->scale_form;
        j.zero = w->form == WEIGHT_TABLE || j.zero_bytes ? 0.0f : (float)w->zero_constant;
        j.map = s->dynamic_map;
        for (int i = 0; i < 16; i++)
            j.table[i] = table_value(w, i);
    }
    j.x = a->x;
    j.norm = a->norm_weight ? a->norm_weight->data : NULL;
    j.eps = a->eps;
    j.model = a->model;
    j.epilogue = a->epilogue;
    j.residual = a->residual;
    j.y_eights = a->y_eights;
    j.best = a->best;
    j.first_id = a->first_id;
    j.forbidden = a->forbidden;
    j.n_forbidden = a->n_forbidden;
    if (s->overlaps && is_coded(w) && p->kind < DECODE_HEAD)
        ask_for_codes(a, p->n_blocks, &j);
    return j;
}

/* x normed, converted and, for the wide kernel, in its order: into room. */
static int prepare(struct cuda_state *s, const struct decode_linear *a, const struct plan *p,
                   struct decode_job *job, struct err *e)
{
    int n_tiles = is_wide(p->kind) ? tiles_of(a->n_rows) : 0;
    const void *kernel = prepare_kernel(a->model == DTYPE_BF16, a->compute == DTYPE_BF16);
    void *room = a->room;

    if (!room && cuda_scratch(s, SCRATCH_X, cuda_linear_decode_room(a), &room, e) < 0)
        return -1;
    void *args[] = { job, &room, &n_tiles };
    if (launch(s, kernel, n_tiles ? 8 * n_tiles : (int)a->n_rows, DECODE_THREADS, 1, 0, args,
               "decode_prepare", e) < 0)
        return -1;
    job->x = room;
    job->norm = NULL;
    return 0;
}

/* The kernel for few rows norms x itself, LLM.int8's all that it needs. */
static bool needs_prepare(const struct decode_linear *a, enum decode_kind kind)
{
    if (a->w[0]->form == WEIGHT_INT8)
        return false;
    return (is_wide(kind) && !a->x_eights) || a->model != a->compute ||
           (is_many(kind) && a->norm_weight);
}

static int multiply(struct cuda_state *s, const struct decode_linear *a, struct err *e)
{
    const struct plan p = plan_of(s, a);
    struct decode_shared_job job;

    (struct decode_job &)job = job_of(s, a, &p);
    job.share = a->share;
    void *args[] = { &job };

    if ((a->x_eights && !is_wide(p.kind)) || (a->y_eights && !leaves_image(a, p.kind)))
        return err_set(e, ERR_INPUT, "no kernel for an image of %lld rows", (long long)a->n_rows);
    if (needs_prepare(a, p.kind) && prepare(s, a, &p, &job, e) < 0)
        return -1;
    if (p.kind == DECODE_FEW && is_coded(a->w[0]))
        CUDA_TRY(cudaFuncSetAttribute(p.kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                      p.spread ? cudaSharedmemCarveoutMaxShared
                                               : cudaSharedmemCarveoutDefault));
    return launch(s, p.kernel, p.n_blocks, p.n_threads, p.n_split, p.shared_bytes, args,
                  p.kind >= DECODE_HEAD_16 ? "decode_head_wide"
                  : is_wide(p.kind)        ? "decode_wide"
                  : is_many(p.kind)        ? "decode_many"
                  : p.kind == DECODE_HEAD  ? "decode_head"
                  : job.n_groups           ? "decode_coded"
                                           : "decode_few",
                  e);
}

/* Rows first .. first + n - 1 alone. */
static struct decode_linear rows_alone(const struct decode_linear *a, int64_t first, int64_t n)
{
    const size_t y_bytes = a->epilogue == DECODE_LOGITS ? 4 : 2;
    struct decode_linear b = *a;

    b.n_rows = n;
    b.x = (const char *)a->x + (size_t)(first * a->w[0]->n_in) * 2;
    for (int i = 0; i < a->n_parts; i++)
        if (a->y[i])
            b.y[i] = (char *)a->y[i] + (size_t)(first * a->w[i]->n_out) * y_bytes;
    if (a->residual)
        b.residual = (char *)a->residual + (size_t)(first * a->w[0]->n_out) * 2;
    b.share.first_row += (int)first;
    return b;
}

/* LLM.int8 takes as many rows at a time as have room in shared memory. */
static int multiply_int8(struct cuda_state *s, const struct decode_linear *a, struct err *e)
{
    struct decode_linear b = rows_alone(a, 0, a->n_rows < FEW_ROWS ? a->n_rows : FEW_ROWS);

    while (b.n_rows > 1 && plan_of(s, &b).shared_bytes > FEW_BYTES)
        b.n_rows--;
    const int64_t at_once = b.n_rows;
    for (int64_t at = 0; at < a->n_rows; at += at_once) {
        b = rows_alone(a, at, a->n_rows - at < at_once ? a->n_rows - at : at_once);
        if (multiply(s, &b, e) < 0)
            return -1;
    }
    return 0;
}

int cuda_linear_decode(struct cuda_state *s, const struct decode_linear *a, struct err *e)
{
    int rc = a->w[0]->form == WEIGHT_INT8 ? multiply_int8(s, a, e) : multiply(s, a, e);

    if (rc < 0)
        return err_in(e, "a decode product of %lld x %lld x %lld", (long long)a->n_rows,
                      (long long)a->w[0]->n_out, (long long)a->w[0]->n_in);
    return 0;
}
