/* linear_decode.cu - which kernel a product of the decode phase takes, and its launch. */
#include "linear_decode_job.cuh"

#define FEW_ROWS     8
#define FEW_BYTES    (110 << 10) /* of shared memory, so that two blocks fit; sm_80: one */
#define SLOTS_BYTES  (16 << 10)  /* of them for sums */
#define BLOCKS_OF_SM 2
#define MANY_PASSES  (DECODE_THREADS / 32) /* of a block: one a warp */

/* ---- which weights ---- */

static bool plain_fits(const struct decode_linear *a, const struct weight *w)
{
    return w->plain_dtype == a->compute && w->row_bytes == 2 * w->n_in &&
           (uintptr_t)w->codes % 16 == 0;
}

static bool same_form(const struct weight *v, const struct weight *w)
{
    return v->form == w->form && v->bits == w->bits && v->n_in == w->n_in &&
           v->row_bytes == w->row_bytes && v->group_size == w->group_size &&
           v->scale_form == w->scale_form && v->zero_form == w->zero_form &&
           (v->form != WEIGHT_TABLE || !memcmp(v->table, w->table, sizeof v->table));
}

static bool part_fits(const struct decode_linear *a, const struct weight *w)
{
    bool codes =
        w->form == WEIGHT_PLAIN ? plain_fits(a, w) : w->form != WEIGHT_INT8 && w->arrangement == 1;

    return codes && same_form(w, a->w[0]) && w->n_out % UNIT_ROWS == 0 &&
           w->n_in % CHUNK_COLS == 0 && w->n_out <= INT32_MAX && w->n_in <= INT32_MAX / 8;
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
    bool many;
    size_t shared_bytes;
    int n_passes, n_slots, n_split, n_blocks;
};

/* Dynamic quantities of a form: bytes of codes' table, of a scale, of a zero point. */
static int bytes_of_scale(enum scale_form form)
{
    return form == SCALE_F32 ? 4 : form == SCALE_F16 ? 2 : form == SCALE_NONE ? 0 : 1;
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

static const void *kernel_of(const struct weight *w, struct decode_choice c)
{
    if (w->form == WEIGHT_PLAIN)
        return decode_kernel_16(c);
    switch (w->bits) {
    case 2:
        return decode_kernel_2(c);
    case 3:
        return decode_kernel_3(c);
    case 4:
        return decode_kernel_4(bytes_of_zero(w) != 0, c);
    case 5:
        return decode_kernel_5(c);
    case 6:
        return decode_kernel_6(c);
    default:
        return decode_kernel_8(c);
    }
}

static size_t lookup_bytes(const struct weight *w)
{
    return w->form != WEIGHT_PLAIN && w->bits == 4 ? codes_4<false>::N_LOOKUP : 0;
}

static int passes_of(const struct decode_linear *a)
{
    int n = 0;

    if (a->epilogue == DECODE_SWIGLU)
        return (int)(a->w[0]->n_out / UNIT_ROWS);
    for (int i = 0; i < a->n_parts; i++)
        n += (int)ceil_div(a->w[i]->n_out, PASS_ROWS);
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

static void plan_few(const struct cuda_state *s, const struct decode_linear *a, struct plan *p)
{
    const size_t slot = (size_t)a->n_rows * K_PARTS * PASS_ROWS * 4;

    p->n_blocks = blocks_of(p->n_passes, s->n_multiprocessors);
    p->n_slots = (int)ceil_div(p->n_passes, p->n_blocks);
    if ((size_t)p->n_slots * slot > SLOTS_BYTES)
        p->n_slots = (int)(SLOTS_BYTES / slot);
    p->shared_bytes = lookup_bytes(a->w[0]) + 1024 + 16 * FEW_ROWS * sizeof(struct decode_best) +
                      (size_t)p->n_slots * slot +
                      (size_t)a->n_rows * (size_t)(a->w[0]->n_in + X_PAD) * 2;
}

static void plan_many(const struct cuda_state *s, const struct decode_linear *a, bool clusters,
                      struct plan *p)
{
    const int n_groups = (int)ceil_div(p->n_passes, MANY_PASSES);
    const size_t n_tiles = a->n_rows <= 16 ? 2 : 8;

    p->n_split = clusters && a->epilogue != DECODE_ARGMAX && 4 * n_groups < 3 * s->n_multiprocessors
                     ? K_PARTS
                     : 1;
    p->n_blocks = n_groups * p->n_split;
    p->shared_bytes = lookup_bytes(a->w[0]) + 1024 + (size_t)MANY_PASSES * n_tiles * 512 +
                      2 * n_tiles * 8 * (CHUNK_COLS + X_PAD) * 2;
}

/* What a kernel was compiled for: code for compute_80 knows no clusters and no dependent launches.
 */
static int compiled_for(const void *kernel, int *out, struct err *e)
{
    struct cudaFuncAttributes facts;

    CUDA_TRY(cudaFuncGetAttributes(&facts, kernel));
    *out = facts.ptxVersion;
    return 0;
}

static int plan_of(const struct cuda_state *s, const struct decode_linear *a, struct plan *p,
                   struct err *e)
{
    struct decode_choice c = { .bf16 = a->compute == DTYPE_BF16,
                               .bytes = bytes_of_scale(a->w[0]->scale_form) == 1,
                               .many = a->n_rows > FEW_ROWS,
                               .more = a->n_rows > 16 };
    int version = 0;

    *p = { .kernel = NULL,
           .many = false,
           .shared_bytes = 0,
           .n_passes = passes_of(a),
           .n_slots = 1,
           .n_split = 1,
           .n_blocks = 1 };
    if (!c.many) {
        plan_few(s, a, p);
        c.many = p->shared_bytes > FEW_BYTES;
    }
    p->many = c.many;
    p->kernel = kernel_of(a->w[0], c);
    if (compiled_for(p->kernel, &version, e) < 0)
        return -1;
    if (p->many)
        plan_many(s, a, version >= 90, p);
    return 0;
}

static bool needs_room(const struct decode_linear *a)
{
    return a->norm_weight || a->model != a->compute;
}

size_t cuda_linear_decode_room(const struct decode_linear *a)
{
    return needs_room(a) ? (size_t)a->n_rows * (size_t)a->w[0]->n_in * 2 : 0;
}

int cuda_linear_decode_blocks(struct cuda_state *s, const struct decode_linear *a)
{
    struct err ignored = {};
    struct plan p;

    return plan_of(s, a, &p, &ignored) < 0 ? 0 : p.n_blocks;
}

/* ---- x before the product ---- */

/* A block norms or converts one row, with the sums of stage_x(). */
template <bool T, bool BF16>
__global__ static void __launch_bounds__(DECODE_THREADS)
    decode_prepare(const __grid_constant__ struct decode_job a, uint4 *out)
{
    __shared__ __align__(16) float sums[K_PARTS];
    const int n_vectors = a.n_in / 8, i = threadIdx.x;
    const uint4 *row = (const uint4 *)a.x + (int64_t)blockIdx.x * n_vectors;
    float factor = 1.0f, sum = 0;

    let_next_start();
    wait_for_previous();
    if (a.norm) {
        for (int v = i; v < n_vectors; v += DECODE_THREADS)
            sum = add_squares<T>(__ldcg(row + v), sum);
        sum = sum_of_warp(sum);
        if (i % 32 == 0)
            sums[i / 32] = sum;
        __syncthreads();
        factor = norm_factor(sums, a.n_in, a.eps);
    }
    for (int v = i; v < n_vectors; v += DECODE_THREADS) {
        uint4 weight = a.norm ? __ldg((const uint4 *)a.norm + v) : make_uint4(0, 0, 0, 0);
        out[(int64_t)blockIdx.x * n_vectors + v] =
            finished_x<T, BF16>(__ldcg(row + v), a.norm, factor, weight);
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

static int launch(struct cuda_state *s, const void *kernel, int n_blocks, int n_split,
                  size_t shared_bytes, void **args, const char *name, struct err *e)
{
    cudaLaunchAttribute attributes[2];
    cudaLaunchConfig_t config = {};
    int version = 0;

    if (compiled_for(kernel, &version, e) < 0)
        return -1;
    attributes[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[0].val.programmaticStreamSerializationAllowed = 1;
    attributes[1].id = cudaLaunchAttributeClusterDimension;
    attributes[1].val.clusterDim.x = (unsigned)n_split;
    attributes[1].val.clusterDim.y = 1;
    attributes[1].val.clusterDim.z = 1;
    config.gridDim = dim3((unsigned)n_blocks);
    config.blockDim = dim3(DECODE_THREADS);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = s->stream;
    config.attrs = attributes;
    config.numAttrs = version < 90 ? 0 : n_split > 1 ? 2 : 1;
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
             .zero = w->form == WEIGHT_TABLE ? 0.0f : (float)w->zero_constant,
             .n_units = (int)(w->n_out / UNIT_ROWS) };
}

/* Codes of 4 bits that are looked up have their zero in the table; others subtract it. */
static float table_value(const struct weight *w, int code)
{
    if (w->form == WEIGHT_TABLE)
        return w->table[code];
    return (float)(w->bits == 4 && w->zero_form == ZERO_CONSTANT ? code - w->zero_constant : code);
}

static struct decode_job job_of(const struct cuda_state *s, const struct decode_linear *a,
                                const struct plan *p)
{
    const struct weight *w = a->w[0];
    struct decode_job j;

    memset(&j, 0, sizeof j);
    for (int i = 0; i < a->n_parts; i++) {
        j.part[i] = part_of(a, i);
        j.last_pass[i] = (i ? j.last_pass[i - 1] : 0) + (int)ceil_div(a->w[i]->n_out, PASS_ROWS);
    }
    j.pair = a->epilogue == DECODE_SWIGLU;
    j.even = j.pair || (a->n_parts == 1 && a->w[0]->n_out % PASS_ROWS == 0);
    j.n_rows = (int)a->n_rows;
    j.n_in = (int)w->n_in;
    j.n_passes = p->n_passes;
    j.n_slots = p->n_slots;
    j.n_split = p->n_split;
    j.unit_bytes = UNIT_ROWS * w->row_bytes;
    if (w->form != WEIGHT_PLAIN) {
        j.n_groups = (int)(w->n_groups / w->n_out);
        j.groups_log = w->group_size < CHUNK_COLS ? log_2(CHUNK_COLS / w->group_size) : 0;
        j.group_shift = j.n_groups == 1 ? 31 : j.groups_log ? 0 : log_2(w->group_size / CHUNK_COLS);
        j.scale_bytes = bytes_of_scale(w->scale_form);
        j.zero_bytes = bytes_of_zero(w);
        j.scale_form = w->scale_form;
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
    j.best = a->best;
    j.forbidden = a->forbidden;
    j.n_forbidden = a->n_forbidden;
    memcpy(j.ahead, a->ahead, sizeof j.ahead);
    return j;
}

/* x normed and converted into room. */
static int prepare(struct cuda_state *s, const struct decode_linear *a, struct decode_job *job,
                   struct err *e)
{
    const void *kernel = prepare_kernel(a->model == DTYPE_BF16, a->compute == DTYPE_BF16);
    void *room = a->room;

    if (!room && cuda_scratch(s, SCRATCH_X, cuda_linear_decode_room(a), &room, e) < 0)
        return -1;
    void *args[] = { job, &room };
    if (launch(s, kernel, (int)a->n_rows, 1, 0, args, "decode_prepare", e) < 0)
        return -1;
    job->x = room;
    job->norm = NULL;
    return 0;
}

static int multiply(struct cuda_state *s, const struct decode_linear *a, struct err *e)
{
    struct plan p;

    if (plan_of(s, a, &p, e) < 0)
        return -1;
    struct decode_job job = job_of(s, a, &p);
    void *args[] = { &job };
    if (p.many && needs_room(a) && prepare(s, a, &job, e) < 0)
        return -1;
    return launch(s, p.kernel, p.n_blocks, p.n_split, p.shared_bytes, args,
                  p.many ? "decode_many" : "decode_few", e);
}

int cuda_linear_decode(struct cuda_state *s, const struct decode_linear *a, struct err *e)
{
    if (multiply(s, a, e) < 0)
        return err_in(e, "a decode product of %lld x %lld x %lld", (long long)a->n_rows,
                      (long long)a->w[0]->n_out, (long long)a->w[0]->n_in);
    return 0;
}
