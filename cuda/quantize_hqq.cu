/* quantize_hqq.cu - half-quadratic quantization; twin of src/cpu/quantize_hqq.c, to the bit: the
 * arithmetic of a weight and the order of all sums are those of backend/hqq.h.
 *
 * A block takes a row, a team of threads a group.  A step is one launch over the matrix; the block
 * that ends last adds up the rows' errors and says whether there is a next step, which the launches
 * that follow read: nobody waits for the host.  Bytes of a step: 2 a weight, mostly from the L2
 * (a matrix of Llama-3.2-1B has 33 MB at most).  Operations of a step and weight: about 60 in fp32
 * or integers, two divisions among them, 30 in fp64 (the power), 3 conversions; 0.12 ms on an H200
 * for 2048 x 8192, all of which is arithmetic. */
#include "quantize_rows.cuh"

#include "backend/hqq.h"

static_assert(ROW_THREADS == HQQ_LANES, "a thread is a lane");

struct hqq_state {
    double best;
    unsigned n_ended; /* blocks of this step */
    int done;
};

struct hqq_job {
    struct row_matrix m;
    int bits, row_bytes;
    bool round_zero;
    float most;      /* 2^b - 1 */
    float *s, *z;    /* [n_groups]: multiplies, is added */
    double *row_sum; /* [n_out]: of |E| */
    struct hqq_state *state;
    uint8_t *codes;
    struct row_scales scales, zeros;
    union cuda_answer *answer;
};

__device__ static void refuse(const struct hqq_job &a, int64_t row, int group)
{
    atomicMin(&a.answer->quantized.refused_from,
              (unsigned long long)(row * a.m.n_in + group * a.m.group_size));
}

__global__ static void __launch_bounds__(ROW_THREADS)
    hqq_start(const __grid_constant__ struct hqq_job a)
{
    __shared__ float shared[ROW_THREADS];
    const struct row_matrix &m = a.m;
    const int64_t row = blockIdx.x;

    for (int first = 0; first < m.per_row; first += ROW_THREADS / m.team) {
        const int group = first + threadIdx.x / m.team;
        const int64_t at = row * m.per_row + group;
        const struct row_range r = range_of_group(m, row, group, shared);

        if (group >= m.per_row || threadIdx.x & (m.team - 1))
            continue;
        const float range = r.greatest - r.least, s = hqq_scale(range, a.most);
        a.s[at] = s;
        a.z[at] = a.round_zero ? rintf(-r.least * s) : -r.least * s;
        if (!(absmax_of(r) < INFINITY && range < INFINITY))
            refuse(a, row, group);
    }
    if (row == 0 && threadIdx.x == 0)
        *a.state = { INFINITY, 0, 0 };
}

/* The block that ends last. */
__device__ static void judge(const struct hqq_job &a, double *shared)
{
    double error = 0;

    for (int64_t row = threadIdx.x; row < a.m.n_out; row += HQQ_LANES)
        error += __ldcg(&a.row_sum[row]);
    error = of_team(error, HQQ_LANES, shared, [](double x, double y) { return x + y; });
    if (threadIdx.x)
        return;
    a.state->done = !(error < a.state->best);
    a.state->best = error;
    a.state->n_ended = 0;
}

__constant__ static const double tenths_of_two[10] = HQQ_TENTHS;

template <enum row_kind KIND>
__global__ static void __launch_bounds__(ROW_THREADS)
    hqq_improve(const __grid_constant__ struct hqq_job a)
{
    __shared__ double shared[ROW_THREADS], tenths[10];
    __shared__ bool last;
    const auto add = [](double x, double y) { return x + y; };
    const struct row_matrix &m = a.m;
    const int64_t row = blockIdx.x;
    const int lane = threadIdx.x & (m.team - 1);
    double of_row = 0;

    if (a.state->done)
        return;
    if (threadIdx.x < 10)
        tenths[threadIdx.x] = tenths_of_two[threadIdx.x];
    __syncthreads();
    for (int first = 0; first < m.per_row; first += ROW_THREADS / m.team) {
        const int group = first + threadIdx.x / m.team;
        const bool there = group < m.per_row;
        const int64_t at = row * m.per_row + (there ? group : 0);
        const int begin = group * m.group_size, end = begin + m.group_size;
        const float s = a.s[at], z = a.z[at];
        double errors = 0, zeros = 0;

        for (int col = begin + 8 * lane; there && col < end; col += 8 * m.team) {
            float x[8];
            const int n = load_eight<KIND>(m, row, col, end, x);

#pragma unroll
            for (int i = 0; i < 8; i++) {
                const float q = hqq_code(x[i], s, z, a.most), error = x[i] - (q - z) / s;
                const float zero = q - (x[i] - hqq_shrink(error, tenths)) * s;

                errors += i < n ? (double)fabsf(error) : 0.0;
                zeros += i < n ? (double)zero : 0.0;
            }
        }
        errors = of_team(errors, m.team, shared, add);
        zeros = of_team(zeros, m.team, shared, add);
        if (there && lane == 0) {
            a.z[at] = (float)(zeros / (double)m.group_size);
            of_row += errors;
        }
    }
    of_row = of_team(of_row, HQQ_LANES, shared, add);
    if (threadIdx.x == 0) {
        a.row_sum[row] = of_row;
        __threadfence();
        last = atomicAdd(&a.state->n_ended, 1) + 1 == gridDim.x;
        __threadfence();
    }
    __syncthreads();
    if (last)
        judge(a, shared);
}

struct hqq_coder {
    float s, z, most;

    __device__ unsigned operator()(float x) const
    {
        return (unsigned)hqq_code(x, s, z, most);
    }
};

__global__ static void __launch_bounds__(ROW_THREADS)
    hqq_store(const __grid_constant__ struct hqq_job a)
{
    const int64_t row = blockIdx.x, first = row * a.m.per_row;

    for (int group = threadIdx.x; group < a.m.per_row; group += ROW_THREADS) {
        const float scale = 1.0f / a.s[first + group], zero = a.z[first + group];

        store_value(a.scales.t, a.scales.at, first + group, scale);
        store_value(a.zeros.t, a.zeros.at, first + group, zero);
        /* A group far from zero for its width, or a very wide one. */
        if (!(round_value(a.scales.t, scale) < INFINITY) ||
            !(fabsf(round_value(a.zeros.t, zero)) < INFINITY))
            refuse(a, row, group);
    }
    store_row<ROW_ANY, 0>(a.m, row, a.bits, a.codes + row * a.row_bytes, a.row_bytes,
                          [&](int group) {
                              return hqq_coder{ a.s[first + group], a.z[first + group], a.most };
                          });
}

/* s, z, the rows' sums and the state. */
static int make_room(struct cuda_state *s, const struct weight *w, struct hqq_job *job,
                     struct err *e)
{
    const size_t n_groups = ((size_t)w->n_groups + 1) / 2 * 2, n_rows = (size_t)w->n_out;
    void *room;

    if (cuda_scratch(s, SCRATCH_ROWS,
                     sizeof *job->state + n_rows * sizeof(double) + 2 * n_groups * sizeof(float),
                     &room, e) < 0)
        return -1;
    job->state = (struct hqq_state *)room;
    job->row_sum = (double *)(job->state + 1);
    job->s = (float *)(job->row_sum + n_rows);
    job->z = job->s + n_groups;
    return 0;
}

int cuda_quantize_hqq(struct cuda_state *s, const struct quantize_args *a, const struct weight *w,
                      union cuda_answer *answer, struct err *e)
{
    const unsigned n_blocks = (unsigned)w->n_out;
    struct hqq_job job = { .m = cuda_row_matrix(a),
                           .bits = w->bits,
                           .row_bytes = (int)w->row_bytes,
                           .round_zero = a->round_zero,
                           .most = (float)((1 << w->bits) - 1),
                           .s = NULL,
                           .z = NULL,
                           .row_sum = NULL,
                           .state = NULL,
                           .codes = (uint8_t *)w->codes,
                           .scales = {},
                           .zeros = { w->zeros, w->zero_form == ZERO_F16 ? DTYPE_F16 : DTYPE_F32 },
                           .answer = answer };
    const auto improve = job.m.kind == ROW_F16    ? hqq_improve<ROW_F16>
                         : job.m.kind == ROW_BF16 ? hqq_improve<ROW_BF16>
                                                  : hqq_improve<ROW_ANY>;

    if (make_room(s, w, &job, e) < 0 || cuda_row_scales(s, w, &job.scales, e) < 0)
        return -1;
    hqq_start<<<n_blocks, ROW_THREADS, 0, s->stream>>>(job);
    CUDA_LAUNCHED(s, "hqq_start");
    for (int step = 0; step < HQQ_STEPS; step++) {
        improve<<<n_blocks, ROW_THREADS, 0, s->stream>>>(job);
        CUDA_LAUNCHED(s, "hqq_improve");
    }
    hqq_store<<<n_blocks, ROW_THREADS, 0, s->stream>>>(job);
    CUDA_LAUNCHED(s, "hqq_store");
    return w->scale_form == SCALE_U8
               ? cuda_nest_one(s, (const float *)job.scales.at, NULL, w, answer, e)
               : 0;
}
