/* compare.cu - how far packed weights are from the plain ones: sums in fp64.
 *
 * A thread takes 8 neighbouring weights of one group, so that place, scale and zero point are
 * found once for them; 2 bytes in a weight and its code.  Blocks sum fixed pieces, one more block
 * adds those in their order: no sum depends on the device.  Weights in other forms (odd widths, an
 * order of columns, another arrangement) are made plain first, a piece at a time.  */
#include "quantize.cuh"

#define N_THREADS  256
#define PER_THREAD 8 /* runs of 8 weights */
#define CHUNK      (8 * PER_THREAD * N_THREADS)
#define PIECE      ((int64_t)4 << 20) /* weights made plain at a time */

struct sums {
    double error, square;
};

struct compare_job {
    enum dtype stored, source;
    const void *x;
    struct weight w;
    const float *map;
    int64_t n;        /* runs of 8 */
    struct sums *out; /* [blocks] */
};

/* ---- values of eight codes ---- */

/* Codes i .. i + 7 of a row are `bits` whole bytes. */
__device__ static uint64_t eight_codes(const struct weight &w, int64_t row, int64_t col)
{
    if (w.arrangement)
        return ((const uint32_t *)
                    w.codes)[arranged_word((unsigned)row, (unsigned)(col / 8), w.n_in / 8)];
    const uint8_t *at = (const uint8_t *)w.codes + row * w.row_bytes + col / 8 * w.bits;
    uint64_t field = 0;

    if (w.bits == 4)
        return *(const uint32_t *)at;
    for (int i = 0; i < w.bits; i++)
        field |= (uint64_t)at[i] << 8 * i;
    return field;
}

__device__ static void values_of(const struct compare_job &a, const float *table, int64_t row,
                                 int64_t col, float (&out)[8])
{
    const struct weight &w = a.w;
    const unsigned per_row = (unsigned)(w.n_in / w.group_size);
    const int64_t group =
        w.arrangement   ? arranged_group((unsigned)row, (unsigned)(col / w.group_size), per_row)
        : w.flat_groups ? (row * w.n_in + col) / w.group_size
                        : row * per_row + col / w.group_size;
    /* Scales of the second level stay in the order of the rows. */
    const int64_t in_order = w.arrangement ? row * per_row + col / w.group_size : group;
    const float second =
        has_second(w.scale_form) ? ((const float *)w.scales2)[in_order / WEIGHT_NESTED_RUN] : 0.0f;
    const float scale = scale_value(w.scale_form, scale_bits(w.scale_form, w.scales, group), second,
                                    w.nested_offset, a.map);
    const float zero =
        zero_value(w.zero_form, zero_bits(w.zero_form, w.zeros, group), (float)w.zero_constant);
    const uint64_t field = eight_codes(w, row, col);

#pragma unroll
    for (int i = 0; i < 8; i++) {
        unsigned code = (unsigned)(field >> w.bits * i) & ((1u << w.bits) - 1);

        if (w.form == WEIGHT_TABLE)
            out[i] = table[code] * scale;
        else if (w.form == WEIGHT_AFFINE)
            out[i] = ((float)code - zero) * scale;
        else if (w.form == WEIGHT_E4M3)
            out[i] = e4m3_value((uint8_t)code) * scale;
        else
            out[i] = (float)(int8_t)code * scale * 0x1.020408p-7f /* fl(1/127) */;
    }
}

/* ---- sums ---- */

__device__ static void add_run(const struct compare_job &a, int64_t run, const float (&got)[8],
                               struct sums *sum)
{
#pragma unroll
    for (int i = 0; i < 8; i++) {
        double x = round_value(a.source, load_value(a.stored, a.x, 8 * run + i));
        double d = x - (double)got[i];

        sum->error = fma(d, d, sum->error);
        sum->square = fma(x, x, sum->square);
    }
}

__device__ static void store_sums(struct sums sum, struct sums *out)
{
    __shared__ struct sums of_warp[N_THREADS / 32];

    for (int half = 16; half; half /= 2) {
        sum.error += __shfl_xor_sync(0xFFFFFFFFu, sum.error, half);
        sum.square += __shfl_xor_sync(0xFFFFFFFFu, sum.square, half);
    }
    if (threadIdx.x % 32 == 0)
        of_warp[threadIdx.x / 32] = sum;
    __syncthreads();
    if (threadIdx.x)
        return;
    for (int i = 1; i < N_THREADS / 32; i++) {
        sum.error += of_warp[i].error;
        sum.square += of_warp[i].square;
    }
    *out = sum;
}

__global__ static void __launch_bounds__(N_THREADS)
    compare_packed(const __grid_constant__ struct compare_job a)
{
    __shared__ float table[16];
    const unsigned runs_per_row = (unsigned)(a.w.n_in / 8);
    struct sums sum = {};

    if (threadIdx.x < 16)
        table[threadIdx.x] = a.w.table[threadIdx.x];
    __syncthreads();
    for (int i = 0; i < PER_THREAD; i++) {
        const int64_t run = ((int64_t)blockIdx.x * PER_THREAD + i) * N_THREADS + threadIdx.x;
        float got[8];

        if (run >= a.n)
            break;
        const int64_t row = run / runs_per_row;
        values_of(a, table, row, (run - row * runs_per_row) * 8, got);
        add_run(a, run, got, &sum);
    }
    store_sums(sum, &a.out[blockIdx.x]);
}

/* got: the values of weights first .. first + n - 1 of the matrix. */
__global__ static void __launch_bounds__(N_THREADS)
    compare_plain(const __grid_constant__ struct compare_job a, const float *got, int64_t first,
                  int64_t n)
{
    struct sums sum = {};

    for (int i = 0; i < 8 * PER_THREAD; i++) {
        const int64_t at = ((int64_t)blockIdx.x * 8 * PER_THREAD + i) * N_THREADS + threadIdx.x;

        if (at >= n)
            break;
        double x = round_value(a.source, load_value(a.stored, a.x, first + at));
        double d = x - (double)got[at];
        sum.error = fma(d, d, sum.error);
        sum.square = fma(x, x, sum.square);
    }
    store_sums(sum, &a.out[blockIdx.x]);
}

__global__ static void add_sums(const struct sums *sums, int64_t n, union cuda_answer *answer)
{
    struct sums sum = {};

    for (int64_t i = threadIdx.x; i < n; i += N_THREADS) {
        sum.error += sums[i].error;
        sum.square += sums[i].square;
    }
    store_sums(sum, (struct sums *)answer->sums);
}

/* ---- entry ---- */

static bool is_packed_in_runs(const struct weight *w)
{
    const bool order = w->arrangement == 0 || (w->arrangement == 1 && w->bits == 4);

    return w->form != WEIGHT_PLAIN && order && !w->g_idx && w->n_in % 8 == 0 &&
           w->group_size % 8 == 0 && w->n_in / 8 < UINT32_MAX;
}

static int start_packed(struct cuda_state *s, const struct compare_job *job, unsigned n_blocks,
                        struct err *e)
{
    compare_packed<<<n_blocks, N_THREADS, 0, s->stream>>>(*job);
    CUDA_LAUNCHED(s, "compare_packed");
    return 0;
}

/* Whole rows at a time. */
static int start_plain(struct cuda_state *s, const struct compare_job *job, int64_t n_rows,
                       struct err *e)
{
    const struct weight *w = &job->w;
    struct compare_job piece = *job;
    void *values;

    if (cuda_scratch(s, SCRATCH_W, (size_t)(n_rows * w->n_in) * sizeof(float), &values, e) < 0)
        return -1;
    for (int64_t row = 0; row < w->n_out; row += n_rows) {
        const int64_t here = w->n_out - row < n_rows ? w->n_out - row : n_rows;
        const unsigned n_blocks = (unsigned)ceil_div(here * w->n_in, CHUNK);

        if (cuda_weight_rows(s, w, row, here, DTYPE_F32, values, w->n_in, e) < 0)
            return -1;
        compare_plain<<<n_blocks, N_THREADS, 0, s->stream>>>(piece, (const float *)values,
                                                             row * w->n_in, here * w->n_in);
        CUDA_LAUNCHED(s, "compare_plain");
        piece.out += n_blocks;
    }
    return 0;
}

extern "C" int cuda_compare(struct backend *b, const struct compare_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    const struct weight *w = a->packed;
    const int64_t n = w->n_out * w->n_in;
    const int64_t piece_rows = PIECE / w->n_in ? PIECE / w->n_in : 1;
    const int64_t n_rows = piece_rows < w->n_out ? piece_rows : w->n_out;
    const bool runs = is_packed_in_runs(w);
    const int64_t n_blocks =
        runs ? ceil_div(n, CHUNK) : ceil_div(w->n_out, n_rows) * ceil_div(n_rows * w->n_in, CHUNK);
    struct compare_job job = { .stored = a->w->dtype,
                               .source = a->source,
                               .x = a->w->data,
                               .w = *w,
                               .map = s->dynamic_map,
                               .n = n / 8,
                               .out = NULL };
    union cuda_answer *answer;
    void *sums;

    if (a->w->n_rows != w->n_out || a->w->n_cols != w->n_in)
        return err_set(e, ERR_INPUT, "compare: %lld x %lld packed weights with %lld x %lld plain",
                       (long long)w->n_out, (long long)w->n_in, (long long)a->w->n_rows,
                       (long long)a->w->n_cols);
    if (cuda_scratch(s, SCRATCH_SCALES, (size_t)n_blocks * sizeof(struct sums), &sums, e) < 0)
        return -1;
    job.out = (struct sums *)sums;
    /* The last piece may be smaller and leave blocks unused. */
    CUDA_TRY(cudaMemsetAsync(sums, 0, (size_t)n_blocks * sizeof(struct sums), s->stream));
    if ((runs ? start_packed(s, &job, (unsigned)n_blocks, e) : start_plain(s, &job, n_rows, e)) < 0)
        return -1;
    if (cuda_answer_sums(s, a->out, &answer, e) < 0)
        return -1;
    add_sums<<<1, N_THREADS, 0, s->stream>>>(job.out, n_blocks, answer);
    CUDA_LAUNCHED(s, "add_sums");
    return 0;
}
