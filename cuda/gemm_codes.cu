/* gemm_codes.cu - which products with 4-bit codes take gemm_codes.cuh, in what tiles, and their
 * start. */
#include "gemm_codes.cuh"
#include "gemm_wish.cuh"

/* Beyond, every weight would be made a value more often than four times: once, in memory, is less.
 */
#define CODES_ROWS_MAX 1024

static bool has_codes(const struct weight *w)
{
    return (w->form == WEIGHT_TABLE || w->form == WEIGHT_AFFINE) && w->arrangement == 1 &&
           w->bits == 4 && !w->g_idx && w->group_size % 64 == 0 && w->n_in % CHUNK_COLS == 0 &&
           w->n_out % UNIT_ROWS == 0 && w->n_out * w->n_in < (int64_t)1 << 31;
}

static bool same_kind(const struct weight *a, const struct weight *b)
{
    return a->form == b->form && a->scale_form == b->scale_form && a->zero_form == b->zero_form &&
           a->zero_constant == b->zero_constant && a->group_size == b->group_size &&
           !memcmp(a->table, b->table, sizeof a->table);
}

static bool takes(const struct cuda_state *s, const struct gemm_args *a,
                  const struct weight *const *w)
{
    const enum dtype t = a->operand == GEMM_BF16 ? DTYPE_BF16 : DTYPE_F16;

    if (gemm_wish.plain || !gemm_sm90_runs(s) || a->n_rows > CODES_ROWS_MAX || a->y_t != t ||
        (a->end != GEMM_STORE && a->end != GEMM_SWIGLU) ||
        a->n_k % (CHUNK_COLS * (int64_t)a->n_splits) != 0)
        return false;
    for (int i = 0; i < a->n_parts; i++)
        if (!has_codes(w[i]) || !same_kind(w[0], w[i]) ||
            (a->part[i].bias && a->part[0].bias && a->part[i].bias_t != a->part[0].bias_t))
            return false;
    return true;
}

static enum zero_form zero_form_of(const struct weight *w)
{
    return w->form == WEIGHT_TABLE ? ZERO_CONSTANT : w->zero_form;
}

static struct gemm_kernel kernel_at(const struct gemm_args *a, const struct weight *w, int i)
{
    const bool split = a->n_splits > 1, zero = zero_form_of(w) != ZERO_CONSTANT;

    return a->operand == GEMM_BF16 ? gemm_codes_bf16_kernel(a->end, split, zero, i)
                                   : gemm_codes_f16_kernel(a->end, split, zero, i);
}

/* ---- the start ---- */

struct launch {
    struct gemm_kernel kernel;
    cudaLaunchConfig_t config;
    cudaLaunchAttribute how[2];
    int n_x, cw, n_in_cluster, n_clusters;
};

/* Of kernel k over n_w tiles of W, cw of them in a cluster. */
static void plan(struct cuda_state *s, const struct gemm_args *a, const struct gemm_kernel *k,
                 int cw, struct launch *out)
{
    *out = launch();
    out->kernel = *k;
    out->n_x = (int)ceil_div(a->n_rows, k->rows);
    out->cw = cw;
    out->n_in_cluster = out->cw * a->n_splits;
    out->how[0].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    out->how[0].val.programmaticStreamSerializationAllowed = 1;
    out->how[1].id = cudaLaunchAttributeClusterDimension;
    out->how[1].val.clusterDim.x = (unsigned)out->n_in_cluster;
    out->how[1].val.clusterDim.y = out->how[1].val.clusterDim.z = 1;
    out->config.blockDim = dim3((unsigned)k->n_threads);
    out->config.gridDim = dim3((unsigned)out->n_in_cluster);
    out->config.dynamicSmemBytes = (size_t)k->memory;
    out->config.stream = s->stream;
    out->config.attrs = out->how;
    out->config.numAttrs = 2;
    out->n_clusters = gemm_n_resident(s, &out->config, k, out->n_in_cluster) / out->n_in_cluster;
}

/* Clocks, as measured on an H200.  A step of 64 k takes longer with more rows of x; a turn begins
 * and ends. */
static double time_of(const struct launch *l, int64_t n_steps, int n_w)
{
    const int rows = l->kernel.rows, step = rows == 256 ? 1200 : rows == 128 ? 900 : 750;
    const int turns = (int)ceil_div(l->n_x * (n_w / l->cw), l->n_clusters);

    return turns * ((double)(n_steps * step) * (l->cw > 1 ? 1.02 : 1.0) + 5000);
}

/* The same of making W plain, a launch a part, and multiplying then. */
static double time_of_plain(const struct gemm_args *a, const struct weight *const *w)
{
    double clocks = 5000;

    for (int i = 0; i < a->n_parts; i++) {
        const double n = (double)(w[i]->n_out * w[i]->n_in);
        clocks += 7000 + n / 760 + n * (double)a->n_rows / 171000;
    }
    return clocks;
}

/* out->kernel.start NULL: plain weights are less. */
static void choose(struct cuda_state *s, const struct gemm_args *a, const struct weight *const *w,
                   int n_w, struct launch *out)
{
    const int wish =
        gemm_wish.kernel >= 0 && kernel_at(a, w[0], gemm_wish.kernel).start ? gemm_wish.kernel : -1;
    const int64_t n_steps = a->n_k / 64 / a->n_splits;
    double least = gemm_wish.kernel >= 0 ? INFINITY : time_of_plain(a, w);

    *out = launch();
    for (int i = 0; kernel_at(a, w[0], i).start; i++)
        for (int cw = 1; cw <= 2; cw++) {
            const struct gemm_kernel k = kernel_at(a, w[0], i);
            struct launch l;

            if ((wish >= 0 && i != wish) || (gemm_wish.cm == 1 && cw == 2) || n_w % cw != 0)
                continue;
            plan(s, a, &k, cw, &l);
            if (time_of(&l, n_steps, n_w) < least) {
                least = time_of(&l, n_steps, n_w);
                *out = l;
            }
        }
    out->config.attrs = out->how; /* not those of `l` */
}

/* Tiles of W. */
static int make_parts(const struct gemm_args *a, const struct weight *const *w,
                      struct gemm_codes_job *job)
{
    int n_w = 0;

    for (int i = 0; i < GEMM_PARTS_MAX; i++) {
        job->part[i].begin = i < a->n_parts ? n_w : INT32_MAX;
        if (i >= a->n_parts)
            continue;
        job->part[i] = { .codes = (const uint8_t *)w[i]->codes,
                         .scales = w[i]->scales,
                         .zeros = w[i]->zeros,
                         .scales2 = (const float *)w[i]->scales2,
                         .nested_offset = w[i]->nested_offset,
                         .y = (uint16_t *)a->part[i].y,
                         .bias = a->part[i].bias,
                         .ldy = (int32_t)a->part[i].ldy,
                         .n_out = (int32_t)w[i]->n_out,
                         .begin = n_w };
        if (a->part[i].bias)
            job->bias_t = a->part[i].bias_t;
        if (a->end != GEMM_SWIGLU)
            n_w += (int)ceil_div(w[i]->n_out, CODES_COLS);
    }
    return a->end == GEMM_SWIGLU ? (int)ceil_div(w[0]->n_out, CODES_COLS / 2) : n_w;
}

static int shift_of(const struct weight *w)
{
    int shift = 0;

    if (w->group_size == w->n_in)
        return 30;
    while ((int64_t)64 << shift < w->group_size)
        shift++;
    return shift;
}

int gemm_codes(struct cuda_state *s, const struct gemm_args *a, const struct weight *const *w,
               bool *done, struct err *e)
{
    struct gemm_codes_job job = {};
    void *arguments[] = { &job };
    struct launch l = {};

    *done = false;
    if (!takes(s, a, w))
        return 0;
    job.n_w = make_parts(a, w, &job);
    choose(s, a, w, job.n_w, &l);
    if (!l.kernel.start)
        return 0;
    job.scale_form = w[0]->scale_form;
    job.zero_form = zero_form_of(w[0]);
    job.add = a->add;
    job.map = s->dynamic_map;
    job.n_rows = (int32_t)a->n_rows;
    job.n_all = (int32_t)(a->n_k / CHUNK_COLS);
    job.n_chunks = job.n_all / a->n_splits;
    job.n_groups = (int32_t)(w[0]->n_groups / w[0]->n_out);
    job.shift = shift_of(w[0]);
    for (int i = 0; i < 16; i++)
        job.table[i] = w[0]->form == WEIGHT_TABLE       ? w[0]->table[i]
                       : job.zero_form == ZERO_CONSTANT ? (float)(i - w[0]->zero_constant)
                                                        : (float)i;
    job.n_x = l.n_x;
    job.cw = l.cw;
    if (gemm_map(a, a->x, a->ldx, a->n_rows, 64, l.kernel.rows / l.cw, &job.x, e) < 0)
        return -1;

    /* As in gemm_sm90(): a block whose k is split makes one tile. */
    const int n = l.n_x * (job.n_w / l.cw), most = l.kernel.split ? n : l.n_clusters;
    l.config.gridDim.x = (unsigned)((n < most ? n : most) * l.n_in_cluster);
    CUDA_TRY(cudaFuncSetAttribute(l.kernel.start, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  l.kernel.memory));
    CUDA_TRY(cudaLaunchKernelExC(&l.config, l.kernel.start, arguments));
    s->last_kernel = "gemm_codes";
    *done = true;
    return 0;
}
