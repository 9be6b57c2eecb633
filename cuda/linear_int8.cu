/* linear_int8.cu - y = x W^T + bias by LLM.int8 (Dettmers et al., 2022), with the arithmetic and
 * the rounding points of bitsandbytes; twin of src/cpu/linear_int8.c,
 * which draws the formulas.
 *
 * The one difference: the scale of a row's codes is __fdividef(127, largest), as bitsandbytes has
 * it; the CPU rounds 127 fl(1 / largest), and a code next to a half may come out one off.
 *
 * Integer sums are exact, the outlier columns are one chain in their order: a row depends on its
 * segment alone.  Products of one x share its codes.  */
#include "gemm.cuh"
#include "tile.cuh"

#define N_THREADS       256
#define PER_127         0x1.020408p-7f
#define SEGMENTS_INLINE 64

/* Rows of segment i are first_row(i) .. first_row(i + 1) - 1. */
struct int8_segments {
    int n;
    const int32_t *more; /* on the device; NULL: here */
    int32_t few[SEGMENTS_INLINE + 1];
};

struct int8_job {
    enum dtype x_t;
    const void *x;
    int64_t n_rows, n_in, ld; /* ld: bytes of a row of codes, as in W */
    float threshold;          /* infinity: no decomposition */
    struct int8_segments segments;
    uint8_t *outlier;             /* [segments, n_in] */
    int32_t *columns, *n_columns; /* [segments, n_in], [segments]: the outliers in order */
    int8_t *codes;                /* [rows, ld] */
    float *stat;                  /* [rows] */
};

__device__ static int32_t first_row_of(const struct int8_segments &s, int i)
{
    return s.more ? s.more[i] : s.few[i];
}

__device__ static int segment_of(const struct int8_segments &s, int64_t row)
{
    int low = 0, high = s.n - 1;

    while (low < high) {
        int middle = (low + high + 1) / 2;

        if (first_row_of(s, middle) <= row)
            low = middle;
        else
            high = middle - 1;
    }
    return low;
}

/* N elements of a row from `col` on, rounded to fp16. */
template <int N>
__device__ static void input_f16(const struct int8_job &a, int64_t row, int64_t col,
                                 float (&out)[N])
{
    if constexpr (N == 8) {
        const uint4 v = *(const uint4 *)((const uint16_t *)a.x + row * a.n_in + col);
        const uint32_t pairs[4] = { v.x, v.y, v.z, v.w };

#pragma unroll
        for (int i = 0; i < 4; i++) {
            float2 p = unpack_pair(a.x_t, pairs[i]);
            out[2 * i] = round_value(DTYPE_F16, p.x);
            out[2 * i + 1] = round_value(DTYPE_F16, p.y);
        }
    } else {
        out[0] = round_value(DTYPE_F16, load_value(a.x_t, a.x, row * a.n_in + col));
    }
}

/* NaN over the larger. */
__device__ static float larger_or_nan(float own, float other)
{
    return own == own && (other > own || !(other == other)) ? other : own;
}

/* One block makes the codes of one row, N elements a thread at a time, and marks columns of
 * outliers (every thread that writes a mark writes 1).  A NaN in the row makes its scale NaN, its
 * codes 0. */
template <int N> __global__ static void int8_rows(const __grid_constant__ struct int8_job a)
{
    __shared__ float of_warp[N_THREADS / 32];
    const int64_t row = blockIdx.x;
    float most = 0, x[N];

    for (int64_t at = threadIdx.x * N; at < a.n_in; at += N_THREADS * N) {
        input_f16<N>(a, row, at, x);
#pragma unroll
        for (int i = 0; i < N; i++) {
            const float size = fabsf(x[i]);

            most = size >= a.threshold ? most : larger_or_nan(most, size);
            if (a.outlier && size >= a.threshold)
                a.outlier[segment_of(a.segments, row) * a.n_in + at + i] = 1;
        }
    }
    for (int away = 16; away; away /= 2)
        most = larger_or_nan(most, __shfl_xor_sync(0xFFFFFFFFu, most, away));
    if (threadIdx.x % 32 == 0)
        of_warp[threadIdx.x / 32] = most;
    __syncthreads();
    most = of_warp[0];
    for (int i = 1; i < N_THREADS / 32; i++)
        most = larger_or_nan(most, of_warp[i]);
    if (threadIdx.x == 0)
        a.stat[row] = most;

    const float scale = __fdividef(127.0f, most);
    for (int64_t at = threadIdx.x * N; at < a.ld; at += N_THREADS * N) {
        union {
            int8_t code[N];
            uint2 all;
        } out;

        if (at < a.n_in)
            input_f16<N>(a, row, at, x);
#pragma unroll
        for (int i = 0; i < N; i++) {
            bool counts = at < a.n_in && most > 0 && fabsf(x[i]) < a.threshold;
            out.code[i] = (int8_t)(counts ? __float2int_rn(x[i] * scale) : 0);
        }
        if constexpr (N == 8)
            *(uint2 *)(a.codes + row * a.ld + at) = out.all;
        else
            a.codes[row * a.ld + at] = out.code[0];
    }
}

/* One block lists the marked columns of one segment, in order. */
__global__ static void int8_columns(const __grid_constant__ struct int8_job a)
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

/* They count for nothing among the codes of their segment (block x). */
__global__ static void int8_clear(const __grid_constant__ struct int8_job a)
{
    const int32_t *columns = a.columns + (int64_t)blockIdx.x * a.n_in;
    const int n = a.n_columns[blockIdx.x];
    const int64_t end = first_row_of(a.segments, blockIdx.x + 1);

    for (int64_t row = first_row_of(a.segments, blockIdx.x) + blockIdx.y; n && row < end;
         row += gridDim.y)
        for (int i = threadIdx.x; i < n; i += N_THREADS)
            a.codes[row * a.ld + columns[i]] = 0;
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

/* y = T(y + sum over the outlier columns of x V), a chain in their order: tiles of 64 rows of one
 * segment by 64 columns.  How many outliers there are, the device alone knows: none, mostly. */
#define OUTLIER_TILE 64
#define OUTLIER_STEP 32

/* Rows of the i-th tile, counted through all segments; -1: there is none. */
__device__ static int outlier_rows(const struct int8_segments &s, int i, int64_t *first,
                                   int64_t *end)
{
    for (int segment = 0; segment < s.n; segment++) {
        const int64_t from = first_row_of(s, segment), to = first_row_of(s, segment + 1);
        const int n_tiles = (int)((to - from + OUTLIER_TILE - 1) / OUTLIER_TILE);

        if (i < n_tiles) {
            *first = from + (int64_t)i * OUTLIER_TILE;
            *end = *first + OUTLIER_TILE < to ? *first + OUTLIER_TILE : to;
            return segment;
        }
        i -= n_tiles;
    }
    return -1;
}

__global__ static void __launch_bounds__(N_THREADS)
    int8_add_outliers(const __grid_constant__ struct int8_job a,
                      const __grid_constant__ struct weight w, enum dtype y_t, void *y)
{
    __shared__ float xs[OUTLIER_STEP][OUTLIER_TILE + 1], ws[OUTLIER_STEP][OUTLIER_TILE + 1];
    const int64_t first_out = (int64_t)blockIdx.y * OUTLIER_TILE;
    const int own_row = threadIdx.x / 16, own_col = threadIdx.x % 16;
    int64_t first_row, end_row;
    const int segment = outlier_rows(a.segments, (int)blockIdx.x, &first_row, &end_row);
    const int n_columns = segment < 0 ? 0 : a.n_columns[segment];
    float sum[4][4] = {};

    for (int first = 0; first < n_columns; first += OUTLIER_STEP) {
        const int n = n_columns - first < OUTLIER_STEP ? n_columns - first : OUTLIER_STEP;
        const int k = threadIdx.x % OUTLIER_STEP;
        const int32_t col = k < n ? a.columns[segment * a.n_in + first + k] : 0;

        for (int i = threadIdx.x / OUTLIER_STEP; i < OUTLIER_TILE; i += N_THREADS / OUTLIER_STEP) {
            const int64_t row = first_row + i, out = first_out + i;
            const bool there = k < n && out < w.n_out;

            xs[k][i] = k < n && row < end_row ? load_value(a.x_t, a.x, row * a.n_in + col) : 0.0f;
            ws[k][i] =
                there ? round_value(a.x_t,
                                    ((float)((const int8_t *)w.codes)[out * w.row_bytes + col] *
                                     ((const float *)w.scales)[out]) *
                                        PER_127)
                      : 0.0f;
        }
        __syncthreads();
        for (int c = 0; c < n; c++)
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    sum[i][j] = fmaf(xs[c][own_row + 16 * i], ws[c][own_col + 16 * j], sum[i][j]);
        __syncthreads();
    }
    if (!n_columns)
        return;
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const int64_t row = first_row + own_row + 16 * i, out = first_out + own_col + 16 * j;
            const int64_t at = row * w.n_out + out;

            if (row < end_row && out < w.n_out)
                store_value(y_t, y, at, round_value(a.x_t, load_value(y_t, y, at) + sum[i][j]));
        }
}

/* Few segments travel with the kernels, many in device memory. */
static int put_segments(struct backend *b, const struct linear_args *a, void *room,
                        struct int8_segments *out, struct err *e)
{
    const int32_t whole[2] = { 0, (int32_t)a->n_rows };
    const int32_t *from = a->segments.n ? a->segments.first_row : whole;

    out->n = a->segments.n ? a->segments.n : 1;
    out->more = NULL;
    if (out->n <= SEGMENTS_INLINE) {
        memcpy(out->few, from, (size_t)(out->n + 1) * sizeof *from);
        return 0;
    }
    out->more = (const int32_t *)room;
    return b->ops->upload(b, room, from, (size_t)(out->n + 1) * sizeof *from, e);
}

static int carve(struct backend *b, const struct linear_args *a, struct int8_job *job,
                 struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    const int64_t n_segments = a->segments.n ? a->segments.n : 1;
    void *rows, *columns, *codes;

    if (cuda_scratch(s, SCRATCH_ROWS, (size_t)(4 * (a->n_rows + n_segments + 1)), &rows, e) < 0 ||
        cuda_scratch(s, SCRATCH_COLUMNS, (size_t)(n_segments * (5 * job->n_in + 4)), &columns, e) <
            0 ||
        cuda_scratch(s, SCRATCH_CODES, (size_t)(a->n_rows * job->ld), &codes, e) < 0)
        return -1;
    job->stat = (float *)rows;
    job->codes = (int8_t *)codes;
    if (job->threshold < INFINITY) {
        job->columns = (int32_t *)columns;
        job->n_columns = job->columns + n_segments * job->n_in;
        job->outlier = (uint8_t *)(job->n_columns + n_segments);
        CUDA_TRY(cudaMemsetAsync(job->outlier, 0, (size_t)(n_segments * job->n_in), s->stream));
    }
    return put_segments(b, a, (int32_t *)rows + a->n_rows, &job->segments, e);
}

/* Codes of x, for every product with it. */
static int make_codes(struct backend *b, const struct linear_args *a, struct int8_job *job,
                      struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    const bool vectors =
        dtype_is_16bit(job->x_t) && job->n_in % 8 == 0 && (uintptr_t)job->x % 16 == 0;

    if (carve(b, a, job, e) < 0)
        return -1;
    if (vectors)
        int8_rows<8><<<(unsigned)job->n_rows, N_THREADS, 0, s->stream>>>(*job);
    else
        int8_rows<1><<<(unsigned)job->n_rows, N_THREADS, 0, s->stream>>>(*job);
    CUDA_LAUNCHED(s, "int8_rows");
    if (!job->outlier)
        return 0;
    int8_columns<<<(unsigned)job->segments.n, N_THREADS, 0, s->stream>>>(*job);
    CUDA_LAUNCHED(s, "int8_columns");
    int8_clear<<<dim3((unsigned)job->segments.n, 64), N_THREADS, 0, s->stream>>>(*job);
    CUDA_LAUNCHED(s, "int8_clear");
    return 0;
}

static bool fits_tensor_cores(const struct cuda_state *s, const struct linear_args *a)
{
    const struct weight *w = a->w;

    return gemm_sm90_runs(s) && w->n_in % 16 == 0 && w->row_bytes == w->n_in && w->n_out % 8 == 0 &&
           w->n_out <= INT32_MAX / 4 && (uintptr_t)w->codes % 16 == 0 &&
           (uintptr_t)a->y->data % 16 == 0;
}

static int on_tensor_cores(struct cuda_state *s, const struct linear_args *a, int n,
                           const struct int8_job *job, struct err *e)
{
    struct gemm_args g = {};

    g.end = GEMM_STORE;
    g.operand = GEMM_INT8;
    g.x = job->codes;
    g.ldx = job->ld;
    g.n_rows = job->n_rows;
    g.n_k = job->n_in;
    g.n_parts = n;
    g.y_t = a->y->dtype;
    g.weights_stay = true;
    g.n_splits = 1;
    g.stat = job->stat;
    g.x_t = job->x_t;
    for (int i = 0; i < n; i++)
        g.part[i] = { .w = a[i].w->codes,
                      .ldw = a[i].w->row_bytes,
                      .n_out = a[i].w->n_out,
                      .y = a[i].y->data,
                      .ldy = a[i].w->n_out,
                      .bias = a[i].bias ? a[i].bias->data : NULL,
                      .bias_t = a[i].bias ? a[i].bias->dtype : DTYPE_F32,
                      .scale = (const float *)a[i].w->scales };
    return gemm_sm90(s, &g, e);
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

    return tile_start(s, &words, out, "tile_product int8", e);
}

static int add_outliers(struct cuda_state *s, const struct linear_args *a,
                        const struct int8_job *job, struct err *e)
{
    int64_t n_tiles = 0;

    for (int i = 0; i < a->segments.n; i++)
        n_tiles += ceil_div(a->segments.first_row[i + 1] - a->segments.first_row[i], OUTLIER_TILE);
    if (!a->segments.n)
        n_tiles = ceil_div(a->n_rows, OUTLIER_TILE);
    int8_add_outliers<<<dim3((unsigned)n_tiles, (unsigned)ceil_div(a->w->n_out, OUTLIER_TILE)),
                        N_THREADS, 0, s->stream>>>(*job, *a->w, a->y->dtype, a->y->data);
    CUDA_LAUNCHED(s, "int8_add_outliers");
    return 0;
}

/* Products of one x, by the same threshold. */
static int products(struct backend *b, const struct linear_args *a, int n, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    const float threshold = a->w->outlier_threshold;
    struct int8_job job = {};
    bool together = n <= GEMM_PARTS_MAX;

    job.x_t = a->x->dtype;
    job.x = a->x->data;
    job.n_rows = a->n_rows;
    job.n_in = a->w->n_in;
    job.ld = a->w->row_bytes;
    job.threshold = threshold > 0 ? threshold : INFINITY;
    if (make_codes(b, a, &job, e) < 0)
        return -1;
    for (int i = 0; i < n; i++)
        together = together && fits_tensor_cores(s, &a[i]) && a[i].y->dtype == a->y->dtype;
    if (together && on_tensor_cores(s, a, n, &job, e) < 0)
        return -1;
    for (int i = 0; i < n; i++)
        if ((!together && multiply(s, &a[i], &job, e) < 0) ||
            (job.outlier && add_outliers(s, &a[i], &job, e) < 0))
            return -1;
    return 0;
}

static int in_product(const struct linear_args *a, struct err *e)
{
    return err_in(e, "an int8 product of %lld x %lld x %lld", (long long)a->n_rows,
                  (long long)a->w->n_out, (long long)a->w->n_in);
}

int cuda_linear_int8(struct backend *b, const struct linear_args *a, struct err *e)
{
    return products(b, a, 1, e) < 0 ? in_product(a, e) : 0;
}

bool cuda_int8_together(const struct linear_args *a, int n)
{
    for (int i = 0; i < n; i++)
        if (a[i].w->form != WEIGHT_INT8 || a[i].x->data != a->x->data ||
            a[i].x->dtype != a->x->dtype || a[i].n_rows != a->n_rows ||
            a[i].w->n_in != a->w->n_in || a[i].w->row_bytes != a->w->row_bytes ||
            a[i].w->outlier_threshold != a->w->outlier_threshold ||
            a[i].segments.n != a->segments.n || a[i].segments.first_row != a->segments.first_row)
            return false;
    return n > 0;
}

int cuda_linear_int8_many(struct backend *b, const struct linear_args *a, int n, struct err *e)
{
    return products(b, a, n, e) < 0 ? in_product(a, e) : 0;
}
