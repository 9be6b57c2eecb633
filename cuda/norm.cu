/* norm.cu - RMSNorm (Zhang and Sennrich, 2019); twin of src/cpu/norm.c, to the bit.
 *
 * One block makes one row.  The sum of squares has the CPU's order: element i belongs to sum
 * i % 16, each sum goes through its elements in order, the 16 are added up by halves.  So 16
 * threads add what all have brought to shared memory.  Rows of up to 8192 elements are read once,
 * in pieces of 16 bytes, and wait in registers.
 *
 * In the decode phase products norm their input themselves; norms that stand alone then have the
 * order of theirs (linear_decode_job.cuh), so that a step has the same bits however it is put
 * together.  */
#include "eight.cuh"
#include "linear_decode_job.cuh"
#include "overlap.cuh"

#define N_THREADS 256
#define LANES     16
#define CHUNK     2048 /* a multiple of LANES */

__global__ static void norm(enum dtype t, const void *x, enum dtype weight_t, const void *weight,
                            void *out, int64_t n, float eps)
{
    __shared__ float square[CHUNK];
    __shared__ float factor;
    const int64_t first = (int64_t)blockIdx.x * n;
    float sum = 0;

    for (int64_t at = 0; at < n; at += CHUNK) {
        int here = (int)(n - at < CHUNK ? n - at : CHUNK);

        for (int i = threadIdx.x; i < here; i += N_THREADS) {
            float v = load_value(t, x, first + at + i);
            square[i] = v * v;
        }
        __syncthreads();
        if (threadIdx.x < LANES)
            for (int i = threadIdx.x; i < here; i += LANES)
                sum += square[i];
        __syncthreads();
    }
    if (threadIdx.x < LANES) {
        for (int half = LANES / 2; half; half /= 2)
            sum += __shfl_down_sync(0xFFFFu, sum, half, LANES);
        if (threadIdx.x == 0)
            factor = 1.0f / sqrtf(sum / (float)n + eps);
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < n; i += N_THREADS) {
        float u = round_value(t, load_value(t, x, first + i) * factor);
        store_value(t, out, first + i, u * load_value(weight_t, weight, i));
    }
}

/* 1 / sqrt(mean + eps) of the n squares in shared memory. */
__device__ static inline float factor_of(const float *square, int n, float eps, float *factor)
{
    if (threadIdx.x < LANES) {
        float sum = 0;

#pragma unroll 16
        for (int i = threadIdx.x; i < n; i += LANES)
            sum += square[i];
        for (int half = LANES / 2; half; half /= 2)
            sum += __shfl_down_sync(0xFFFFu, sum, half, LANES);
        if (threadIdx.x == 0)
            *factor = 1.0f / sqrtf(sum / (float)n + eps);
    }
    __syncthreads();
    return *factor;
}

/* N eights a thread at most; n is a multiple of 8. */
template <enum dtype T, int N>
__global__ static void __launch_bounds__(N_THREADS)
    norm_eights(const void *x, const void *weight, void *out, int n, float eps)
{
    extern __shared__ __align__(16) float square[];
    __shared__ float factor;
    const int n_eights = n / 8;
    const int64_t first = (int64_t)blockIdx.x * n_eights;
    struct raw_eight<T> own[N], by[N];

#pragma unroll
    for (int k = 0; k < N; k++) {
        const int i = threadIdx.x + k * N_THREADS;

        if (i < n_eights)
            by[k] = load_raw<T>(weight, i);
    }
    wait_for_launch_before(); /* x comes of it, the weight does not */
    let_next_start();
#pragma unroll
    for (int k = 0; k < N; k++) {
        const int i = threadIdx.x + k * N_THREADS;

        if (i < n_eights)
            own[k] = load_raw<T>(x, first + i);
    }
#pragma unroll
    for (int k = 0; k < N; k++) {
        const int i = threadIdx.x + k * N_THREADS;

        if (i >= n_eights)
            continue;
        struct eight v = values_of(own[k]);
#pragma unroll
        for (int j = 0; j < 8; j++)
            v.x[j] *= v.x[j];
        store_eight<DTYPE_F32>(square, i, v);
    }
    __syncthreads();
    const float by_all = factor_of(square, n, eps, &factor);
#pragma unroll
    for (int k = 0; k < N; k++) {
        const int i = threadIdx.x + k * N_THREADS;

        if (i >= n_eights)
            continue;
        struct eight v = values_of(own[k]), w = values_of(by[k]);
#pragma unroll
        for (int j = 0; j < 8; j++)
            v.x[j] = round_value(T, v.x[j] * by_all) * w.x[j];
        store_eight<T>(out, first + i, v);
    }
}

template <enum dtype T>
static int start_eights(struct cuda_state *s, const struct norm_args *a, struct err *e)
{
    const int n = (int)a->x->n_cols;
    auto *kernel = n <= 8 * N_THREADS    ? norm_eights<T, 1>
                   : n <= 16 * N_THREADS ? norm_eights<T, 2>
                                         : norm_eights<T, 4>;

    return start_overlapping(s, "norm", e, kernel, dim3((unsigned)a->n_rows), N_THREADS,
                             (size_t)n * sizeof(float), a->x->data, a->weight->data, a->out->data,
                             n, a->eps);
}

/* The sums of the products' own norm. */
template <bool BF16>
__global__ static void __launch_bounds__(DECODE_THREADS)
    norm_decode(const uint4 *x, const uint4 *weight, uint4 *out, int n_vectors, float eps)
{
    __shared__ __align__(16) float sums[K_PARTS];
    const int64_t first = (int64_t)blockIdx.x * n_vectors;
    float sum = 0;

    for (int v = threadIdx.x; v < n_vectors; v += DECODE_THREADS)
        sum = add_squares<BF16>(x[first + v], sum);
    sum = sum_of_warp(sum);
    if (threadIdx.x % 32 == 0)
        sums[threadIdx.x / 32] = sum;
    __syncthreads();
    const float factor = norm_factor(sums, 8 * n_vectors, eps);
    for (int v = threadIdx.x; v < n_vectors; v += DECODE_THREADS)
        out[first + v] = finished_x<BF16, BF16>(x[first + v], true, factor, weight[v]);
}

static void start_decode(struct cuda_state *s, const struct norm_args *a)
{
    const auto kernel = a->x->dtype == DTYPE_BF16 ? norm_decode<true> : norm_decode<false>;

    kernel<<<(unsigned)a->n_rows, DECODE_THREADS, 0, s->stream>>>(
        (const uint4 *)a->x->data, (const uint4 *)a->weight->data, (uint4 *)a->out->data,
        (int)(a->x->n_cols / 8), a->eps);
}

int cuda_norm(struct backend *b, const struct norm_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    const bool eights = a->x->n_cols % 8 == 0 && a->weight->dtype == a->x->dtype &&
                        dtype_is_16bit(a->x->dtype) && aligned_16(a->x->data) &&
                        aligned_16(a->weight->data) && aligned_16(a->out->data);

    if (!a->n_rows)
        return 0;
    if (eights && a->phase == PHASE_DECODE) {
        start_decode(s, a);
    } else if (eights && a->x->n_cols <= 32 * N_THREADS) {
        if ((a->x->dtype == DTYPE_F16 ? start_eights<DTYPE_F16>(s, a, e)
                                      : start_eights<DTYPE_BF16>(s, a, e)) < 0)
            return -1;
    } else {
        norm<<<(unsigned)a->n_rows, N_THREADS, 0, s->stream>>>(a->x->dtype, a->x->data,
                                                               a->weight->dtype, a->weight->data,
                                                               a->out->data, a->x->n_cols, a->eps);
    }
    CUDA_LAUNCHED(s, "norm");
    return 0;
}
