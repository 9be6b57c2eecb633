/* linear_decode.cu - which kernel a product of the decode phase takes, and its launch. */
#include "linear_decode_strip.cuh"

#define STAGED_ROWS  8      /* of x in shared memory */
#define STAGED_BYTES 102400 /* of shared memory a block may then use: sm_80 has 163 KB */

/* ---- which weights ---- */

static bool plain_fits(const struct decode_linear *a, const struct weight *w)
{
    return w->plain_dtype == a->compute && w->row_bytes % 16 == 0 && (uintptr_t)w->codes % 16 == 0;
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
    bool staged; /* x in shared memory; else prepared in `room` where it must be */
    size_t shared_bytes;
    int n_passes, n_blocks;
};

static struct strip_kernels kernels_of(const struct weight *w)
{
    if (w->form == WEIGHT_PLAIN)
        return strip_kernels_16();
    if (w->bits == 4)
        return strip_kernels_4(w->form == WEIGHT_AFFINE && w->zero_form != ZERO_CONSTANT);
    return w->bits < 4 ? strip_kernels_low(w->bits) : strip_kernels_high(w->bits);
}

static struct plan plan_of(const struct cuda_state *s, const struct decode_linear *a)
{
    const struct strip_kernels kernels = kernels_of(a->w[0]);
    const int pair = a->epilogue == DECODE_SWIGLU, units = pair ? 2 : 1;
    struct plan p = {
        .kernel = NULL, .staged = false, .shared_bytes = 0, .n_passes = 0, .n_blocks = 0
    };
    size_t x_bytes = (size_t)a->n_rows * (size_t)(a->w[0]->n_in + STRIP_X_PAD) * 2;
    size_t fixed = (size_t)kernels.n_lookup + 1024;

    for (int i = 0; i < (pair ? 1 : a->n_parts); i++)
        p.n_passes += (int)(a->w[i]->n_out / UNIT_ROWS);
    p.shared_bytes =
        fixed + (size_t)(2 * STRIP_WARPS * units * STAGED_ROWS * UNIT_ROWS) * 4 + x_bytes;
    p.staged = a->n_rows <= STAGED_ROWS && p.shared_bytes <= STAGED_BYTES;
    if (!p.staged)
        p.shared_bytes =
            fixed + (size_t)(2 * STRIP_WARPS * units * DECODE_ROWS_MAX * UNIT_ROWS) * 4;
    p.kernel = kernels.at[a->compute == DTYPE_BF16][!p.staged][pair];

    int per_block = (int)ceil_div(p.n_passes, (p.staged ? 2 : 1) * s->n_multiprocessors);
    p.n_blocks = (int)ceil_div(p.n_passes, per_block);
    return p;
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
    return plan_of(s, a).n_blocks;
}

/* ---- x before the product ---- */

/* A block norms or converts one row, with the sums of stage_x(). */
template <bool BF16>
__global__ static void __launch_bounds__(STRIP_THREADS)
    decode_prepare(const __grid_constant__ struct decode_job a, uint4 *out)
{
    __shared__ float sums[STRIP_WARPS];
    const int n_vectors = a.n_in / 8;
    const uint4 *row = (const uint4 *)a.x + (int64_t)blockIdx.x * n_vectors;
    float factor = 1.0f, sum = 0;

    let_next_start();
    wait_for_previous();
    if (a.norm) {
        for (int v = threadIdx.x; v < n_vectors; v += STRIP_THREADS)
            sum = add_squares(a.model, __ldcg(row + v), sum);
        sum = sum_of_warp(sum);
        if (threadIdx.x % 32 == 0)
            sums[threadIdx.x / 32] = sum;
        __syncthreads();
        factor = norm_factor(sums, a.n_in, a.eps);
    }
    for (int v = threadIdx.x; v < n_vectors; v += STRIP_THREADS) {
        uint4 weight = a.norm ? __ldg((const uint4 *)a.norm + v) : make_uint4(0, 0, 0, 0);
        out[(int64_t)blockIdx.x * n_vectors + v] =
            finished_x<BF16>(a.model, __ldcg(row + v), a.norm, factor, weight);
    }
}

/* ---- launches ---- */

/* Code for compute_80 knows nothing of dependent launches: whoever follows it must wait. */
static int overlaps(const void *kernel, bool *out, struct err *e)
{
    struct cudaFuncAttributes facts;

    CUDA_TRY(cudaFuncGetAttributes(&facts, kernel));
    *out = facts.ptxVersion >= 90;
    return 0;
}

static int launch(struct cuda_state *s, const void *kernel, int n_blocks, size_t shared_bytes,
                  void **args, const char *name, struct err *e)
{
    cudaLaunchAttribute overlap;
    cudaLaunchConfig_t config = {};
    bool may = false;

    if (overlaps(kernel, &may, e) < 0)
        return -1;
    overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
    overlap.val.programmaticStreamSerializationAllowed = 1;
    config.gridDim = dim3((unsigned)n_blocks);
    config.blockDim = dim3(STRIP_THREADS);
    config.dynamicSmemBytes = shared_bytes;
    config.stream = s->stream;
    config.attrs = &overlap;
    config.numAttrs = may ? 1 : 0;
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

static struct decode_job job_of(const struct decode_linear *a)
{
    const struct weight *w = a->w[0];
    struct decode_job j;

    memset(&j, 0, sizeof j);
    j.n_parts = a->n_parts;
    j.n_rows = (int)a->n_rows;
    j.n_in = (int)w->n_in;
    j.row_bytes = w->row_bytes;
    j.scale_form = w->scale_form;
    j.zero_form = w->zero_form;
    j.x = a->x;
    j.norm = a->norm_weight ? a->norm_weight->data : NULL;
    j.eps = a->eps;
    j.model = a->model;
    j.bias_t = a->model;
    j.epilogue = a->epilogue;
    j.residual = a->residual;
    j.best = a->best;
    j.forbidden = a->forbidden;
    j.n_forbidden = a->n_forbidden;
    for (int i = 0; i < a->n_parts; i++) {
        const struct weight *v = a->w[i];

        j.part[i] = { .codes = (const uint8_t *)v->codes,
                      .scales = v->scales,
                      .zeros = v->zeros,
                      .scales2 = (const float *)v->scales2,
                      .bias = a->bias[i] ? a->bias[i]->data : NULL,
                      .y = a->y[i],
                      .offset = v->nested_offset,
                      .zero = (float)v->zero_constant,
                      .n_units = (int)(v->n_out / UNIT_ROWS) };
    }
    if (w->form != WEIGHT_PLAIN) {
        j.n_groups = (int)(w->n_groups / w->n_out);
        j.groups_log = w->group_size < CHUNK_COLS ? log_2(CHUNK_COLS / w->group_size) : 0;
        j.group_shift = j.n_groups == 1 ? 31 : j.groups_log ? 0 : log_2(w->group_size / CHUNK_COLS);
    }
    for (int i = 0; i < 16; i++)
        j.table[i] = w->form == WEIGHT_TABLE         ? w->table[i]
                     : w->zero_form == ZERO_CONSTANT ? (float)(i - w->zero_constant)
                                                     : (float)i;
    memcpy(j.ahead, a->ahead, sizeof j.ahead);
    return j;
}

/* x normed and converted into room. */
static int prepare(struct cuda_state *s, const struct decode_linear *a, struct decode_job *job,
                   struct err *e)
{
    const void *kernel = a->compute == DTYPE_BF16 ? (const void *)decode_prepare<true>
                                                  : (const void *)decode_prepare<false>;
    void *room = a->room;

    if (!room && cuda_scratch(s, SCRATCH_X, cuda_linear_decode_room(a), &room, e) < 0)
        return -1;
    void *args[] = { job, &room };
    if (launch(s, kernel, (int)a->n_rows, 0, args, "decode_prepare", e) < 0)
        return -1;
    job->x = room;
    job->norm = NULL;
    return 0;
}

int cuda_linear_decode(struct cuda_state *s, const struct decode_linear *a, struct err *e)
{
    const struct plan p = plan_of(s, a);
    struct decode_job job = job_of(a);
    void *args[] = { &job };

    job.map = s->dynamic_map;
    job.n_passes = p.n_passes;
    if ((!p.staged && needs_room(a) && prepare(s, a, &job, e) < 0) ||
        launch(s, p.kernel, p.n_blocks, p.shared_bytes, args, "decode_strip", e) < 0)
        return err_in(e, "a decode product of %lld x %lld x %lld", (long long)a->n_rows,
                      (long long)a->w[0]->n_out, (long long)a->w[0]->n_in);
    return 0;
}

void *cuda_stream_of(struct cuda_state *s)
{
    return s->stream;
}
