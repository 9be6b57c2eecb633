/* awq.cu - AWQ's searches on the device but for the ranges (awq_clip.cu); twin of src/cpu/awq.c, to
 * the bit.
 *
 *   sizes    a thread a column and segment, down its rows in fp64: 2 bytes and 3 operations a
 *            number; then the segments of a column in their order
 *   round    a block a row, a team of threads a group: range, grid, and back; 4 bytes in and 2 out
 * a weight, the second reading from the caches; 40 operations errors   a block a row, a thread the
 * lane of its eights: 4 bytes and 5 operations in fp64 scale    a number a thread: 8 bytes
 *
 * For 65536 tokens of Llama-3.2-1B these are 3 % of a ratio; its products are the rest. */
#include "awq.cuh"

#include "backend/hqq.h"

#define N_THREADS 256

static_assert(HQQ_LANES == ROW_THREADS, "a thread is a lane");

/* ---- sizes ---- */

__global__ static void __launch_bounds__(ROW_THREADS)
    largest_of_groups(const __grid_constant__ struct row_matrix m, float *out)
{
    __shared__ float shared[ROW_THREADS];
    const int64_t row = blockIdx.x;

    for (int first = 0; first < m.per_row; first += ROW_THREADS / m.team) {
        const int group = first + threadIdx.x / m.team;
        const struct row_range r = range_of_group(m, row, group, shared);

        if (group < m.per_row && !(threadIdx.x & (m.team - 1)))
            out[row * m.per_row + group] = absmax_of(r) + 1e-6f;
    }
}

/* partial [segments, n_cols]; largest NULL: plain sizes. */
__global__ static void __launch_bounds__(N_THREADS)
    sum_segments(enum dtype t, const void *x, int n_cols, const int32_t *first_row,
                 const float *largest, int group_size, double *partial)
{
    const int col = blockIdx.x * N_THREADS + threadIdx.x, segment = blockIdx.y;
    const int end = first_row[segment + 1], per_row = n_cols / group_size;
    double sum = 0;

    if (col >= n_cols)
        return;
#pragma unroll 8
    for (int row = first_row[segment]; row < end; row++) {
        float size = fabsf(load_value(t, x, (int64_t)row * n_cols + col));

        if (largest)
            size /= largest[(int64_t)row * per_row + col / group_size];
        sum += (double)size;
    }
    partial[(int64_t)segment * n_cols + col] = sum;
}

__global__ static void __launch_bounds__(N_THREADS)
    add_segments(const double *partial, int n_segments, int n_cols, double *sums)
{
    const int col = blockIdx.x * N_THREADS + threadIdx.x;

    if (col >= n_cols)
        return;
    double sum = sums[col];
    for (int i = 0; i < n_segments; i++)
        sum += partial[(int64_t)i * n_cols + col];
    sums[col] = sum;
}

/* Grids have at most 65535 blocks that way. */
#define SEGMENTS_MOST 32768

static int add_sizes(struct cuda_state *s, const struct awq_sizes_args *a, const float *largest,
                     double *partial, int32_t *first_row, struct err *e)
{
    const int n_cols = (int)a->x->n_cols, size = a->group_size ? (int)a->group_size : n_cols;
    const unsigned n_blocks = (unsigned)ceil_div(n_cols, N_THREADS);

    for (int at = 0; at < a->segments.n; at += SEGMENTS_MOST) {
        const int n = a->segments.n - at < SEGMENTS_MOST ? a->segments.n - at : SEGMENTS_MOST;

        CUDA_TRY(cudaMemcpyAsync(first_row, a->segments.first_row + at,
                                 (size_t)(n + 1) * sizeof *first_row, cudaMemcpyHostToDevice,
                                 s->stream));
        sum_segments<<<dim3(n_blocks, (unsigned)n), N_THREADS, 0, s->stream>>>(
            a->x->dtype, a->x->data, n_cols, first_row, largest, size, partial);
        CUDA_LAUNCHED(s, "sum_segments");
        add_segments<<<n_blocks, N_THREADS, 0, s->stream>>>(partial, n, n_cols, a->sums);
        CUDA_LAUNCHED(s, "add_segments");
    }
    return 0;
}

static size_t whole(size_t n_bytes)
{
    return (n_bytes + 255) / 256 * 256;
}

static int sizes(struct backend *b, const struct awq_sizes_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    const size_t n = (size_t)(a->segments.n < SEGMENTS_MOST ? a->segments.n : SEGMENTS_MOST);
    const size_t partial_bytes = whole(n * (size_t)a->x->n_cols * sizeof(double));
    const size_t first_bytes = whole((n + 1) * sizeof(int32_t));
    const size_t n_groups =
        a->group_size ? (size_t)(a->x->n_rows * (a->x->n_cols / a->group_size)) : 0;
    float *largest = NULL;
    void *room;

    if (!n)
        return 0;
    if (cuda_scratch(s, SCRATCH_ROWS, partial_bytes + first_bytes + n_groups * sizeof(float), &room,
                     e) < 0)
        return -1;
    if (a->group_size) {
        largest = (float *)((char *)room + partial_bytes + first_bytes);
        largest_of_groups<<<(unsigned)a->x->n_rows, ROW_THREADS, 0, s->stream>>>(
            awq_matrix(a->x, a->group_size), largest);
        CUDA_LAUNCHED(s, "largest_of_groups");
    }
    return add_sizes(s, a, largest, (double *)room, (int32_t *)((char *)room + partial_bytes), e);
}

/* ---- scales ---- */

__global__ static void scale_values(enum dtype t, void *w, int64_t n, int64_t n_cols,
                                    const float *by, bool by_row, bool divides)
{
    GRID_STRIDE(i, n)
    {
        const int64_t row = i / n_cols;
        const float x = load_value(t, w, i), f = by[by_row ? row : i - row * n_cols];

        store_value(t, w, i, divides ? x / f : x * f);
    }
}

static int scale(struct backend *b, const struct awq_scale_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    const int64_t n = a->w->n_rows * a->w->n_cols;

    if (!n)
        return 0;
    scale_values<<<blocks_for(s, n, N_THREADS), N_THREADS, 0, s->stream>>>(
        a->w->dtype, a->w->data, n, a->w->n_cols, a->by, a->by_row, a->divides);
    CUDA_LAUNCHED(s, "scale_values");
    return 0;
}

/* ---- rounding with scales ---- */

struct round_job {
    struct row_matrix m;
    const float *s;
    int bits;
    bool sym;
    struct tensor out;
};

/* The eight columns times the scales. */
__device__ static int load_scaled(const struct round_job &a, int64_t row, int col, int end,
                                  float (&x)[8], float (&s)[8])
{
    const int n = load_eight(a.m, row, col, end, x);

#pragma unroll
    for (int i = 0; i < 8; i++) {
        s[i] = i < n ? a.s[col + i] : 1.0f;
        x[i] *= s[i];
    }
    return n;
}

__device__ static void store_eight(const struct round_job &a, int64_t row, int col, int n,
                                   const float (&x)[8])
{
    const int64_t at = row * a.m.n_in + col;

    if (a.m.eights && a.out.dtype == DTYPE_F16)
        ((uint4 *)a.out.data)[at / 8] =
            make_uint4(pack_pair<false>(x[0], x[1]), pack_pair<false>(x[2], x[3]),
                       pack_pair<false>(x[4], x[5]), pack_pair<false>(x[6], x[7]));
    else if (a.m.eights && a.out.dtype == DTYPE_BF16)
        ((uint4 *)a.out.data)[at / 8] =
            make_uint4(pack_pair<true>(x[0], x[1]), pack_pair<true>(x[2], x[3]),
                       pack_pair<true>(x[4], x[5]), pack_pair<true>(x[6], x[7]));
    else
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (i < n)
                store_value(a.out.dtype, a.out.data, at + i, x[i]);
}

__device__ static void round_group(const struct round_job &a, int64_t row, int begin, int end,
                                   const struct grid &g)
{
    const float zero = (float)g.zero, high = (float)((1 << a.bits) - 1);

    for (int col = begin + 8 * (threadIdx.x & (a.m.team - 1)); col < end; col += 8 * a.m.team) {
        float x[8], s[8];
        const int n = load_scaled(a, row, col, end, x, s);

#pragma unroll
        for (int i = 0; i < 8; i++)
            x[i] = awq_code(x[i], g.scale, zero, high) * g.scale / s[i];
        store_eight(a, row, col, n, x);
    }
}

__global__ static void __launch_bounds__(ROW_THREADS)
    round_scaled(const __grid_constant__ struct round_job a)
{
    __shared__ float shared[ROW_THREADS];
    const struct row_matrix &m = a.m;
    const int64_t row = blockIdx.x;

    for (int first = 0; first < m.per_row; first += ROW_THREADS / m.team) {
        const int group = first + threadIdx.x / m.team;
        const int begin = group * m.group_size, end = begin + m.group_size;
        struct row_range r = NO_RANGE;
        float x[8], s[8];

        if (group < m.per_row)
            for (int col = begin + 8 * (threadIdx.x & (m.team - 1)); col < end; col += 8 * m.team) {
                const int n = load_scaled(a, row, col, end, x, s);
                add_to_range<true>(r, x, n);
            }
        add_teams_range<true>(r, m.team, shared);
        if (group < m.per_row)
            round_group(a, row, begin, end,
                        grid_of(QUANTIZE_GRID_AWQ, a.bits, a.sym, r.least, r.greatest));
    }
}

static int round_with_scales(struct backend *b, const struct awq_round_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    struct round_job job = { .m = awq_matrix(a->w, a->form.group_size),
                             .s = a->s,
                             .bits = a->form.bits,
                             .sym = !a->form.zero_point,
                             .out = *a->out };

    job.m.eights = job.m.eights && (uintptr_t)a->out->data % 16 == 0;
    round_scaled<<<(unsigned)a->w->n_rows, ROW_THREADS, 0, s->stream>>>(job);
    CUDA_LAUNCHED(s, "round_scaled");
    return 0;
}

/* ---- errors ---- */

__global__ static void __launch_bounds__(ROW_THREADS)
    row_errors(const __grid_constant__ struct row_matrix x,
               const __grid_constant__ struct row_matrix y, double *sums)
{
    __shared__ double shared[ROW_THREADS];
    const int64_t row = blockIdx.x;
    double sum = 0;

    for (int col = 8 * threadIdx.x; col < x.n_in; col += 8 * ROW_THREADS) {
        float u[8], v[8] = {};
        const int n = load_eight(x, row, col, x.n_in, u);

        if (y.x)
            load_eight(y, row, col, x.n_in, v);
#pragma unroll
        for (int i = 0; i < 8; i++) {
            const double d = (double)u[i] - (double)v[i];

            if (i < n)
                sum += d * d;
        }
    }
    sum = of_team(sum, ROW_THREADS, shared, [](double p, double q) { return p + q; });
    if (threadIdx.x == 0)
        sums[row] = sum;
}

static int errors(struct backend *b, const struct awq_errors_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    const struct row_matrix x = awq_matrix(a->x, a->x->n_cols);
    const struct row_matrix y = a->y ? awq_matrix(a->y, a->x->n_cols) : row_matrix{};

    if (!a->n_rows)
        return 0;
    row_errors<<<(unsigned)a->n_rows, ROW_THREADS, 0, s->stream>>>(x, y, a->sums);
    CUDA_LAUNCHED(s, "row_errors");
    return 0;
}

extern "C" {
const struct awq_ops cuda_awq = {
    .sizes = sizes,
    .scale = scale,
    .round = round_with_scales,
    .errors = errors,
    .clip = cuda_awq_clip,
};
}
