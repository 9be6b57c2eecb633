/* gptq_columns.cu - GPTQ's solver on the device; src/cpu/gptq_columns.c defines it and numbers its
 * steps.
 *
 *   H           fp64: put into the order of settling, damped, factored, inverted (cholesky.cu):
 *               2/3 K^3 operations, 16 K^2 bytes of working memory; U lies where the factor was
 *   the loop    fp32, the CPU's chains (gptq_settle.cu): of the same U the same codes, to the bit
 *   the errors  tr (W - Q) H (W - Q)^T and W H W^T by the lower half of H, fp64: 2 N K^2
 *
 * U is rounded once to fp32 from sums in another order than the CPU's, so an element may differ by
 * one last bit where H is badly conditioned; then a weight that lies between two codes may go the
 * other way, and the rest of its row with it.  Everything runs in an order that the shape fixes.
 *
 * The host sees the diagonal of H, a verdict for each factorisation, and three sums a row.  */
#include "gptq.cuh"
#include "quantize.cuh"

extern "C" {
#include "backend/gptq_order.h"
#include "base/memory.h"
}

#include <limits.h>
#include <math.h>
#include <stdlib.h>

struct solver {
    struct cuda_state *s;
    const struct gptq_args *a;
    struct gptq_job job;
    struct cholesky h;
    struct weight out;

    /* On the device; read_back: what the host reads at the end, losses | errors | squares. */
    int32_t *perm, *place, *group, *first_bad;
    uint8_t *dead;
    float *u, *diagonal;
    double *of_diagonal, *read_back, *parts;

    struct {
        float *diagonal;
        double *of_diagonal, *sums;
        bool *dead;
        int32_t *perm, *place, *group;
    } host;
};

/* ---- H and U ---- */

/* The first row with an infinity or a NaN, in numbers of type source. */
__global__ static void __launch_bounds__(256)
    gptq_check(const __grid_constant__ struct gptq_job a, float limit, int32_t *first_bad)
{
    const int64_t row = blockIdx.x;
    bool bad = false;

    for (int64_t i = threadIdx.x; i < a.n; i += 256)
        bad = bad || !(fabsf(load_value(a.w_t, a.w, row * a.n + i)) < limit);
    if (bad)
        atomicMin(first_bad, (int32_t)row);
}

__global__ static void gptq_diagonal(const float *h, int64_t n, float *out)
{
    GRID_STRIDE(i, n)
    out[i] = h[i * (n + 1)];
}

/* J H J in the order of settling, damped; behind it a diagonal of ones. */
__global__ static void __launch_bounds__(256)
    gptq_arrange(const __grid_constant__ struct gptq_job a, const float *h, double factor,
                 const double *diagonal, double added, double *out, double *least)
{
    const int64_t i = blockIdx.x;
    const bool there = i < a.n;
    const int64_t row = there ? a.perm[a.n - 1 - i] : 0;

    if (threadIdx.x == 0)
        least[i] = there ? GPTQ_LEAST_PIVOT * (diagonal[row] + added) : 0.0;
    for (int64_t j = threadIdx.x; j <= i; j += 256) {
        double x = j == i ? 1.0 : 0.0;

        if (there)
            x = j == i ? diagonal[row] + added
                       : factor * (double)h[row * a.n + a.perm[a.n - 1 - j]];
        out[i * a.ld + j] = x;
    }
}

__global__ static void __launch_bounds__(256)
    gptq_turn(const __grid_constant__ struct gptq_job a, const double *inverse, float *u)
{
    const int64_t row = blockIdx.x;

    for (int64_t col = threadIdx.x; col < a.ld; col += 256) {
        const bool there = row <= col && col < a.n;

        u[row * a.ld + col] = there ? (float)inverse[(a.n - 1 - row) * a.ld + a.n - 1 - col] : 0.0f;
    }
}

/* gptq_factor_fn */
static int factor_h(void *context, double added, struct err *e)
{
    struct solver *k = (struct solver *)context;
    struct cuda_state *s = k->s;
    int failed = 0;

    gptq_arrange<<<(unsigned)k->job.ld, 256, 0, s->stream>>>(k->job, (const float *)k->a->h->data,
                                                             k->a->factor, k->of_diagonal, added,
                                                             k->h.a, k->h.least);
    CUDA_LAUNCHED(s, "gptq_arrange");
    if (cuda_cholesky(s, &k->h, e) < 0)
        return -1;
    CUDA_TRY(
        cudaMemcpyAsync(&failed, k->h.failed, sizeof failed, cudaMemcpyDeviceToHost, s->stream));
    return cuda_wait(s, e) < 0 ? -1 : !failed;
}

static int make_u(struct solver *k, struct err *e)
{
    struct cuda_state *s = k->s;

    if (gptq_factor(k->a, k->host.of_diagonal, factor_h, k, e) < 0 ||
        cuda_triangle_inverse(s, &k->h, e) < 0)
        return -1;
    gptq_turn<<<(unsigned)k->job.ld, 256, 0, s->stream>>>(k->job, k->h.inverse, k->u);
    CUDA_LAUNCHED(s, "gptq_turn");
    return 0;
}

/* ---- order ---- */

static int to_device(struct cuda_state *s, void *to, const void *from, size_t n_bytes,
                     struct err *e)
{
    CUDA_TRY(cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyHostToDevice, s->stream));
    return 0;
}

static int make_g_idx(struct solver *k, struct err *e)
{
    const size_t n_bytes = (size_t)k->job.n * sizeof(int32_t);
    int32_t *g_idx;
    void *p;

    if (!gptq_scatters_groups(k->a))
        return 0;
    if (backend_alloc(k->s->backend, MEM_WEIGHTS, n_bytes, &p, e) < 0)
        return err_in(e, "the order of groups");
    k->out.g_idx = (int32_t *)p;
    g_idx = (int32_t *)mem_array((size_t)k->job.n, sizeof *g_idx);
    for (int64_t c = 0; c < k->job.n; c++)
        g_idx[k->host.perm[c]] = k->host.group[c];
    int rc = to_device(k->s, p, g_idx, n_bytes, e);
    free(g_idx);
    return rc;
}

/* Looks at weights and diagonal; decides the order. */
static int begin(struct solver *k, struct err *e)
{
    const size_t n = (size_t)k->job.n;
    struct cuda_state *s = k->s;
    int32_t first_bad = INT32_MAX;

    if (to_device(s, k->first_bad, &first_bad, sizeof first_bad, e) < 0)
        return -1;
    gptq_check<<<(unsigned)k->job.n_out, 256, 0, s->stream>>>(k->job, gptq_limit(k->a),
                                                              k->first_bad);
    CUDA_LAUNCHED(s, "gptq_check");
    gptq_diagonal<<<blocks_for(s, k->job.n, 256), 256, 0, s->stream>>>((const float *)k->a->h->data,
                                                                       k->job.n, k->diagonal);
    CUDA_LAUNCHED(s, "gptq_diagonal");
    CUDA_TRY(cudaMemcpyAsync(&first_bad, k->first_bad, sizeof first_bad, cudaMemcpyDeviceToHost,
                             s->stream));
    CUDA_TRY(cudaMemcpyAsync(k->host.diagonal, k->diagonal, n * sizeof(float),
                             cudaMemcpyDeviceToHost, s->stream));
    if (cuda_wait(s, e) < 0 || gptq_check_row(first_bad < INT32_MAX ? first_bad : -1, e) < 0 ||
        gptq_read_diagonal(k->a, k->host.diagonal, k->host.of_diagonal, k->host.dead, e) < 0)
        return -1;
    gptq_order_of(k->a->order, k->host.of_diagonal, k->job.n, k->a->group_size, k->host.perm);
    gptq_groups_of(k->a, k->host.perm, k->host.group);
    for (size_t c = 0; c < n; c++)
        k->host.place[k->host.perm[c]] = (int32_t)c;
    if (to_device(s, k->perm, k->host.perm, n * sizeof(int32_t), e) < 0 ||
        to_device(s, k->place, k->host.place, n * sizeof(int32_t), e) < 0 ||
        to_device(s, k->group, k->host.group, n * sizeof(int32_t), e) < 0 ||
        to_device(s, k->dead, k->host.dead, n, e) < 0 ||
        to_device(s, k->of_diagonal, k->host.of_diagonal, n * sizeof(double), e) < 0)
        return -1;
    return make_g_idx(k, e);
}

/* ---- errors of the outputs ---- */

/* h as given, to doubles; zeros behind. */
__global__ static void __launch_bounds__(256)
    gptq_widen_h(const float *h, int64_t n, int64_t ld, double *out)
{
    const int64_t row = blockIdx.x;

    for (int64_t col = threadIdx.x; col < ld; col += 256)
        out[row * ld + col] = row < n && col < n ? (double)h[row * n + col] : 0.0;
}

/* Rows first .. of W, or of W - Q, in their own columns. */
__global__ static void __launch_bounds__(256)
    gptq_widen_rows(const __grid_constant__ struct gptq_job a, int64_t first, bool errors,
                    double *out)
{
    const int64_t row = first + blockIdx.x;

    for (int64_t col = threadIdx.x; col < a.ld; col += 256) {
        double x = 0.0;

        if (row < a.n_out && col < a.n) {
            x = (double)gptq_plain(a, row, col);
            if (errors)
                x -= (double)a.settled[row * a.ld + a.place[col]];
        }
        out[blockIdx.x * a.ld + col] = x;
    }
}

/* Of each row x of `rows`, what the columns of a tile add to x H x^T: those to the left of the tile
 * count twice.  The longest tiles go first.  parts [tile][row]. */
__global__ static void __launch_bounds__(WIDE_THREADS)
    gptq_quadratic(const double *h, const double *rows, int64_t ld, int64_t n_parts, double *parts)
{
    extern __shared__ double room[];
    const int64_t tile = gridDim.x - 1 - blockIdx.x, row = (int64_t)blockIdx.y * WIDE_TILE;
    const struct wide_operands o = { rows + row * ld, h + tile * WIDE_TILE * ld, ld, ld };
    const double *x = rows + (row + wide_row()) * ld + tile * WIDE_TILE + wide_col();
    double(*of_warp)[WIDE_TILE] = (double(*)[WIDE_TILE])room;
    wide_sums c = {};

    wide_add<false>(o, 0, tile * WIDE_TILE, room, c);
#pragma unroll
    for (int i = 0; i < 8; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            c[i][j][0] *= 2.0;
            c[i][j][1] *= 2.0;
        }
    wide_add<false>(o, tile * WIDE_TILE, (tile + 1) * WIDE_TILE, room, c);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < 8; i++) {
        double sum = 0.0;

#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int k = 0; k < 2; k++)
                sum = fma(c[i][j][k], x[8 * i * ld + 8 * j + k], sum);
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 1);
        sum += __shfl_xor_sync(0xFFFFFFFFu, sum, 2);
        if (threadIdx.x % 4 == 0)
            of_warp[threadIdx.x / 32 % 4][wide_row() + 8 * i] = sum;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < WIDE_TILE; i += WIDE_THREADS)
        parts[tile * n_parts + row + i] =
            (of_warp[0][i] + of_warp[1][i]) + (of_warp[2][i] + of_warp[3][i]);
}

__global__ static void gptq_add_parts(const double *parts, int64_t n_parts, int64_t n_tiles,
                                      int64_t n_rows, double *out)
{
    GRID_STRIDE(row, n_rows)
    {
        double sum = 0.0;

        for (int64_t tile = 0; tile < n_tiles; tile++)
            sum += parts[tile * n_parts + row];
        out[row] = sum;
    }
}

/* H and its rows lie where the factor and its inverse were. */
static int measure(struct solver *k, struct err *e)
{
    const struct gptq_job *job = &k->job;
    const int64_t ld = job->ld, n_tiles = ld / WIDE_TILE;
    struct cuda_state *s = k->s;

    CUDA_TRY(cudaFuncSetAttribute(gptq_quadratic, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                  WIDE_MEMORY));
    gptq_widen_h<<<(unsigned)ld, 256, 0, s->stream>>>((const float *)k->a->h->data, job->n, ld,
                                                      k->h.a);
    CUDA_LAUNCHED(s, "gptq_widen_h");
    for (int what = 0; what < 2; what++)
        for (int64_t first = 0; first < job->n_out; first += ld) {
            const int64_t left = job->n_out - first, n = left < ld ? left : ld;
            const int64_t n_padded = ceil_div(n, WIDE_TILE) * WIDE_TILE;

            gptq_widen_rows<<<(unsigned)n_padded, 256, 0, s->stream>>>(*job, first, what == 0,
                                                                       k->h.inverse);
            CUDA_LAUNCHED(s, "gptq_widen_rows");
            gptq_quadratic<<<dim3((unsigned)n_tiles, (unsigned)(n_padded / WIDE_TILE)),
                             WIDE_THREADS, WIDE_MEMORY, s->stream>>>(k->h.a, k->h.inverse, ld, ld,
                                                                     k->parts);
            CUDA_LAUNCHED(s, "gptq_quadratic");
            gptq_add_parts<<<blocks_for(s, n, 256), 256, 0, s->stream>>>(
                k->parts, ld, n_tiles, n, k->read_back + (1 + what) * job->n_out + first);
            CUDA_LAUNCHED(s, "gptq_add_parts");
        }
    return 0;
}

/* ---- the packed weight ---- */

/* A word of codes, in their own columns. */
__global__ static void __launch_bounds__(256)
    gptq_pack(const __grid_constant__ struct gptq_job a, int n_bits, int64_t row_words,
              uint32_t *out)
{
    GRID_STRIDE(i, a.n_out * row_words)
    {
        const int64_t row = i / row_words, bit = i % row_words * 32;
        uint32_t word = 0;

        for (int64_t col = bit / n_bits; col < a.n && col * n_bits < bit + 32; col++) {
            const int at = (int)(col * n_bits - bit);
            const uint32_t code = a.codes[row * a.ld + a.place[col]];

            word |= at < 0 ? code >> -at : code << at;
        }
        out[i] = word;
    }
}

__global__ static void gptq_store_scales(const float *scales, int64_t n, enum dtype t, void *out)
{
    GRID_STRIDE(i, n)
    store_value(t, out, i, scales[i]);
}

static int pack(struct solver *k, struct err *e)
{
    const struct gptq_job *job = &k->job;
    const struct weight *w = &k->out;
    struct cuda_state *s = k->s;

    gptq_pack<<<blocks_for(s, w->n_out * w->row_bytes / 4, 256), 256, 0, s->stream>>>(
        *job, w->bits, w->row_bytes / 4, (uint32_t *)w->codes);
    CUDA_LAUNCHED(s, "gptq_pack");
    if (w->zero_form == ZERO_U8 && w->form == WEIGHT_AFFINE)
        CUDA_TRY(cudaMemcpyAsync(w->zeros, job->zeros, (size_t)w->n_groups,
                                 cudaMemcpyDeviceToDevice, s->stream));
    if (w->scale_form == SCALE_U8)
        return cuda_nest_one(s, job->scales, NULL, w, NULL, e);
    gptq_store_scales<<<blocks_for(s, w->n_groups, 256), 256, 0, s->stream>>>(
        job->scales, w->n_groups, w->scale_form == SCALE_F16 ? DTYPE_F16 : DTYPE_F32, w->scales);
    CUDA_LAUNCHED(s, "gptq_store_scales");
    return 0;
}

/* ---- memory ---- */

/* The next n_bytes of the room; NULL without one: they are counted only. */
static void *take(char *room, size_t *used, size_t n_bytes)
{
    void *p = room ? room + *used : NULL;

    *used += (n_bytes + 255) / 256 * 256;
    return p;
}

/* Bytes of the working memory on the device. */
static size_t place_all(struct solver *k, char *room)
{
    struct gptq_job *job = &k->job;
    const size_t n = (size_t)job->n, ld = (size_t)job->ld, n_out = (size_t)job->n_out;
    const size_t n_rows = (size_t)job->n_rows, n_groups = n_out * (size_t)job->per_row;
    size_t used = 0;

    k->h.a = (double *)take(room, &used, ld * ld * sizeof(double));
    k->h.inverse = (double *)take(room, &used, ld * ld * sizeof(double));
    k->h.least = (double *)take(room, &used, ld * sizeof(double));
    k->h.failed = (int *)take(room, &used, sizeof(int));
    k->u = (float *)k->h.a; /* M is needed no more when U is made, U no more when errors are */
    job->settled = (float *)take(room, &used, n_rows * ld * sizeof(float));
    job->codes = (uint8_t *)take(room, &used, n_out * ld);
    job->scales = (float *)take(room, &used, n_groups * sizeof(float));
    job->zeros = (uint8_t *)take(room, &used, n_groups);
    job->errors = (float *)take(room, &used, GPTQ_BLOCK * n_rows * sizeof(float));
    k->read_back = (double *)take(room, &used, 3 * n_out * sizeof(double));
    k->parts = (double *)take(room, &used, ld / WIDE_TILE * ld * sizeof(double));
    k->perm = (int32_t *)take(room, &used, n * sizeof(int32_t));
    k->place = (int32_t *)take(room, &used, n * sizeof(int32_t));
    k->group = (int32_t *)take(room, &used, n * sizeof(int32_t));
    k->dead = (uint8_t *)take(room, &used, n);
    k->diagonal = (float *)take(room, &used, n * sizeof(float));
    k->of_diagonal = (double *)take(room, &used, n * sizeof(double));
    k->first_bad = (int32_t *)take(room, &used, sizeof(int32_t));
    job->perm = k->perm;
    job->place = k->place;
    job->group = k->group;
    job->dead = k->dead;
    job->u = k->u;
    job->losses = k->read_back;
    return used;
}

static void describe(struct solver *k)
{
    const struct gptq_args *a = k->a;
    const struct codebook book = codebook_of_table(a->table);
    struct gptq_job *job = &k->job;

    job->w_t = a->w->dtype;
    job->source = a->source;
    job->w = a->w->data;
    job->n_out = a->w->n_rows;
    job->n = a->w->n_cols;
    job->n_rows = ceil_div(job->n_out, 128) * 128;
    job->ld = ceil_div(job->n, 128) * 128;
    job->bits = a->bits;
    job->group_size = (int)a->group_size;
    job->per_row = (int)(job->n / a->group_size);
    job->sym = a->sym;
    job->one_group = job->per_row == 1;
    job->in_advance = job->one_group || a->static_groups;
    job->f16_scales = k->out.scale_form == SCALE_F16;
    job->mse = a->mse;
    job->n_values = a->table == TABLE_NONE ? 0 : book.n;
    for (int i = 0; i < 16; i++) {
        const bool there = job->n_values && i < book.n;

        job->code[i] = there ? book.code[i] : 0;
        job->value[i] = there ? k->out.table[book.code[i]] : 0.0f;
        if (i < 15)
            job->threshold[i] = there && i + 1 < book.n ? book.threshold[i] : INFINITY;
    }
    k->h.n = job->ld;
}

static void open_host(struct solver *k)
{
    const size_t n = (size_t)k->job.n;

    k->host.diagonal = (float *)mem_array(n, sizeof(float));
    k->host.of_diagonal = (double *)mem_array(n, sizeof(double));
    k->host.sums = (double *)mem_array(3 * (size_t)k->job.n_out, sizeof(double));
    k->host.dead = (bool *)mem_array(n, sizeof(bool));
    k->host.perm = (int32_t *)mem_array(3 * n, sizeof(int32_t));
    k->host.place = k->host.perm + n;
    k->host.group = k->host.perm + 2 * n;
}

static void close_host(struct solver *k)
{
    free(k->host.diagonal);
    free(k->host.of_diagonal);
    free(k->host.sums);
    free(k->host.dead);
    free(k->host.perm);
}

/* ---- entry ---- */

static int solve(struct solver *k, struct err *e)
{
    struct cuda_state *s = k->s;
    const int64_t n_out = k->job.n_out;

    if (begin(k, e) < 0 || make_u(k, e) < 0 || cuda_gptq_settle(s, &k->job, e) < 0 ||
        pack(k, e) < 0 || measure(k, e) < 0)
        return -1;
    CUDA_TRY(cudaMemcpyAsync(k->host.sums, k->read_back, 3 * (size_t)n_out * sizeof(double),
                             cudaMemcpyDeviceToHost, s->stream));
    if (cuda_wait(s, e) < 0)
        return -1;
    gptq_sum_up(k->a, k->host.sums, k->host.sums + n_out, k->host.sums + 2 * n_out);
    return 0;
}

extern "C" int cuda_gptq_columns(struct backend *b, const struct gptq_args *a, struct err *e)
{
    const struct quantize_args form = gptq_form(a);
    const int64_t n = a->w->n_cols, n_out = a->w->n_rows;
    struct solver k = {};
    void *room = NULL;
    int rc = -1;

    if (a->h->dtype != DTYPE_F32 || a->h->n_rows != n || a->h->n_cols != n ||
        n % a->group_size != 0)
        return err_set(e, ERR_INPUT,
                       "gptq: weights of %lld inputs in groups of %lld with a Hessian of %lld x "
                       "%lld",
                       (long long)n, (long long)a->group_size, (long long)a->h->n_rows,
                       (long long)a->h->n_cols);
    *a->result = {};
    k.s = cuda_state_of(b);
    k.a = a;
    quantized_shape(&form, n_out, n, &k.out);
    if (weight_alloc(b, MEM_WEIGHTS, &k.out, e) < 0)
        return -1;
    describe(&k);
    open_host(&k);
    if (backend_alloc(b, MEM_SCRATCH, place_all(&k, NULL), &room, e) < 0)
        err_in(e, "the solver's working memory for %lld inputs", (long long)n);
    else {
        place_all(&k, (char *)room);
        rc = solve(&k, e);
    }
    backend_free(b, room);
    close_host(&k);
    if (rc < 0)
        weight_release(b, &k.out);
    else
        *a->out = k.out;
    return rc;
}
