/* linear_int8.cu - y = x W^T + bias by LLM.int8 (Dettmers et al., 2022), with the arithmetic and
 * the rounding points of bitsandbytes (quantizers.md 4.2, 4.3); twin of src/cpu/linear_int8.c,
 * which draws the formulas.
 *
 * The one difference: the scale of a row's codes is __fdividef(127, largest), as bitsandbytes has
 * it; the CPU rounds 127 fl(1 / largest), and a code next to a half may come out one off.
 *
 * Integer sums are exact, the outlier columns are one chain in their order: a row depends on its
 * segment alone.  */
#include "tile.cuh"

#include <stdlib.h>

#define N_THREADS 256
#define PER_127   0x1.020408p-7f

struct int8_job {
    enum dtype x_t;
    const void *x;
    int64_t n_rows, n_in, ld;     /* ld: bytes of a row of codes, as in W */
    float threshold;              /* infinity: no decomposition */
    const int32_t *segment;       /* [rows] */
    uint8_t *outlier;             /* [segments, n_in] */
    int32_t *columns, *n_columns; /* [segments, n_in], [segments]: the outliers in order */
    int8_t *codes;                /* [rows, ld] */
    float *stat;                  /* [rows] */
};

__device__ static float input_f16(const struct int8_job &a, int64_t row, int64_t col)
{
    return round_value(DTYPE_F16, load_value(a.x_t, a.x, row * a.n_in + col));
}

/* Every thread that writes a flag writes 1. */
__global__ static void int8_mark(struct int8_job a)
{
    GRID_STRIDE(i, a.n_rows * a.n_in)
    {
        int64_t row = i / a.n_in, col = i % a.n_in;

        if (fabsf(input_f16(a, row, col)) >= a.threshold)
            a.outlier[a.segment[row] * a.n_in + col] = 1;
    }
}

/* One block lists the marked columns of one segment, in order. */
__global__ static void int8_list(struct int8_job a)
{
    __shared__ int n_before[N_THREADS / 32], n_listed;
    const int64_t first = (int64_t)blockIdx.x * a.n_in;
    const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;

    if (threadIdx.x == 0)
        n_listed = 0;
    __syncthreads();
    for (int64_t at = 0; at < a.n_in; at += N_THREADS) {
        int64_t col = at + threadIdx.x;
        bool marked = col < a.n_in && a.outlier[first + col];
        unsigned in_warp = __ballot_sync(0xFFFFFFFFu, marked);

        if (lane == 0)
            n_before[warp] = __popc(in_warp);
        __syncthreads();
        int place = n_listed + __popc(in_warp & ((1u << lane) - 1)), n = 0;
        for (int i = 0; i < N_THREADS / 32; i++) {
            place += i < warp ? n_before[i] : 0;
            n += n_before[i];
        }
        if (marked)
            a.columns[first + place] = (int32_t)col;
        __syncthreads();
        if (threadIdx.x == 0)
            n_listed += n;
        __syncthreads();
    }
    if (threadIdx.x == 0)
        a.n_columns[blockIdx.x] = n_listed;
}

/* One block makes the codes of one row.  A NaN in the row makes its scale NaN, its codes 0. */
__global__ static void int8_codes(struct int8_job a)
{
    __shared__ float largest[N_THREADS];
    const int64_t row = blockIdx.x;
    const uint8_t *skip = a.outlier + a.segment[row] * a.n_in;
    float most = 0;

    for (int64_t i = threadIdx.x; i < a.n_in; i += N_THREADS) {
        float x = fabsf(input_f16(a, row, i));
        most = (x < a.threshold && x > most) || !(x == x) ? x : most;
    }
    largest[threadIdx.x] = most;
    __syncthreads();
    for (int half = N_THREADS / 2; half; half /= 2) {
        if (threadIdx.x < half) {
            float own = largest[threadIdx.x], other = largest[threadIdx.x + half];
            largest[threadIdx.x] = own == own && (other > own || !(other == other)) ? other : own;
        }
        __syncthreads();
    }
    most = largest[0];
    if (threadIdx.x == 0)
        a.stat[row] = most;
    float scale = __fdividef(127.0f, most);
    for (int64_t i = threadIdx.x; i < a.ld; i += N_THREADS) {
        float x = i < a.n_in ? input_f16(a, row, i) : 0.0f;
        bool counts = i < a.n_in && most > 0 && fabsf(x) < a.threshold && !skip[i];

        a.codes[row * a.ld + i] = (int8_t)(counts ? __float2int_rn(x * scale) : 0);
    }
}

/* y = T(fp16(sum * stat * SCB / 127^2 [+ bias])) */
struct int8_output {
    void *out;
    const void *bias;
    const float *stat, *scb;
    enum dtype x_t, y_t, bias_t;
    int64_t n_out;
    __device__ void operator()(int64_t row, int64_t col, int sum) const
    {
        const float per_127_squared = 0x1.040c2p-14f;
        float v = ((float)sum * stat[row]) * scb[col], y;

        if (bias && x_t == DTYPE_F16) {
            y = round_value(DTYPE_F16, fmaf(v, per_127_squared, load_value(bias_t, bias, col)));
        } else {
            y = round_value(DTYPE_F16, v * per_127_squared);
            if (bias)
                y = round_value(DTYPE_F16, y + load_value(bias_t, bias, col));
        }
        store_value(y_t, out, row * n_out + col, round_value(x_t, y));
    }
};

/* y = T(y + sum over the outlier columns of x V), a chain in their order. */
__global__ static void int8_add_outliers(struct int8_job a, struct weight w, enum dtype y_t,
                                         void *y)
{
    GRID_STRIDE(i, a.n_rows * w.n_out)
    {
        int64_t row = i / w.n_out, n = i % w.n_out, segment = a.segment[row];
        const int32_t *columns = a.columns + segment * a.n_in;
        const int8_t *codes = (const int8_t *)w.codes + n * w.row_bytes;
        float scb = ((const float *)w.scales)[n], sum = 0;
        int n_columns = a.n_columns[segment];

        for (int c = 0; c < n_columns; c++) {
            int32_t col = columns[c];
            float v = round_value(a.x_t, ((float)codes[col] * scb) * PER_127);
            sum = fmaf(load_value(a.x_t, a.x, row * a.n_in + col), v, sum);
        }
        if (n_columns)
            store_value(y_t, y, i, round_value(a.x_t, load_value(y_t, y, i) + sum));
    }
}

/* Which segment each row is in, to the device. */
static int upload_segments(struct backend *b, const struct linear_args *a, int32_t *to,
                           struct err *e)
{
    int32_t *segment = (int32_t *)malloc((size_t)a->n_rows * sizeof *segment);

    if (!segment)
        return err_set(e, ERR_MEMORY, "the host refused %zu bytes",
                       (size_t)a->n_rows * sizeof *segment);
    int at = 0;
    for (int64_t row = 0; row < a->n_rows; row++) {
        while (a->segments.n && row >= a->segments.first_row[at + 1])
            at++;
        segment[row] = at;
    }
    int rc = b->ops->upload(b, to, segment, (size_t)a->n_rows * sizeof *segment, e);
    free(segment);
    return rc;
}

static int carve(struct backend *b, const struct linear_args *a, struct int8_job *job,
                 struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    const int64_t n_segments = a->segments.n ? a->segments.n : 1;
    void *rows, *columns, *codes;

    if (cuda_scratch(s, SCRATCH_ROWS, (size_t)(8 * a->n_rows), &rows, e) < 0 ||
        cuda_scratch(s, SCRATCH_COLUMNS, (size_t)(n_segments * (5 * job->n_in + 4)), &columns, e) <
            0 ||
        cuda_scratch(s, SCRATCH_CODES, (size_t)(a->n_rows * job->ld), &codes, e) < 0)
        return -1;
    job->stat = (float *)rows;
    job->segment = (int32_t *)rows + a->n_rows;
    job->columns = (int32_t *)columns;
    job->n_columns = job->columns + n_segments * job->n_in;
    job->outlier = (uint8_t *)(job->n_columns + n_segments);
    job->codes = (int8_t *)codes;
    CUDA_TRY(cudaMemsetAsync(job->outlier, 0, (size_t)(n_segments * job->n_in), s->stream));
    return upload_segments(b, a, (int32_t *)rows + a->n_rows, e);
}

static int find_outliers(struct cuda_state *s, const struct linear_args *a,
                         const struct int8_job *job, struct err *e)
{
    unsigned n_segments = (unsigned)(a->segments.n ? a->segments.n : 1);

    int8_mark<<<blocks_for(s, job->n_rows * job->n_in, N_THREADS), N_THREADS, 0, s->stream>>>(*job);
    CUDA_LAUNCHED(s, "int8_mark");
    int8_list<<<n_segments, N_THREADS, 0, s->stream>>>(*job);
    CUDA_LAUNCHED(s, "int8_list");
    return 0;
}

static int multiply(struct cuda_state *s, const struct linear_args *a, const struct int8_job *job,
                    struct err *e)
{
    const struct weight *w = a->w;
    struct tile_job<int> words = {
        (const int *)job->codes,
            (const int *)w->codes, job->ld / 4, w->row_bytes / 4, a->n_rows, w->n_out, job->ld / 4
    };
    struct int8_output out = { .out = a->y->data,
                               .bias = a->bias ? a->bias->data : NULL,
                               .stat = job->stat,
                               .scb = (const float *)w->scales,
                               .x_t = a->x->dtype,
                               .y_t = a->y->dtype,
                               .bias_t = a->bias ? a->bias->dtype : DTYPE_F32,
                               .n_out = w->n_out };

    int8_codes<<<(unsigned)a->n_rows, N_THREADS, 0, s->stream>>>(*job);
    CUDA_LAUNCHED(s, "int8_codes");
    return tile_start(s, &words, out, "tile_product int8", e);
}

int cuda_linear_int8(struct backend *b, const struct linear_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    const bool split = a->w->outlier_threshold > 0;
    struct int8_job job = { .x_t = a->x->dtype,
                            .x = a->x->data,
                            .n_rows = a->n_rows,
                            .n_in = a->w->n_in,
                            .ld = a->w->row_bytes,
                            .threshold = split ? a->w->outlier_threshold : INFINITY,
                            .segment = NULL,
                            .outlier = NULL,
                            .columns = NULL,
                            .n_columns = NULL,
                            .codes = NULL,
                            .stat = NULL };

    if (carve(b, a, &job, e) < 0 || (split && find_outliers(s, a, &job, e) < 0) ||
        multiply(s, a, &job, e) < 0)
        return err_in(e, "an int8 product of %lld x %lld x %lld", (long long)a->n_rows,
                      (long long)a->w->n_out, (long long)a->w->n_in);
    if (!split)
        return 0;
    int8_add_outliers<<<blocks_for(s, a->n_rows * a->w->n_out, N_THREADS), N_THREADS, 0,
                        s->stream>>>(job, *a->w, a->y->dtype, a->y->data);
    CUDA_LAUNCHED(s, "int8_add_outliers");
    return 0;
}
