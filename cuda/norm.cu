/* norm.cu - RMSNorm (Zhang and Sennrich, 2019); twin of src/cpu/norm.c, to the bit.
 *
 * One block makes one row.  The sum of squares has the CPU's order: element i belongs to sum
 * i % 16, each sum goes through its elements in order, the 16 are added up by halves.  So 16
 * threads add what all have brought to shared memory.  */
#include "common.cuh"

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

int cuda_norm(struct backend *b, const struct norm_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);

    if (!a->n_rows)
        return 0;
    norm<<<(unsigned)a->n_rows, N_THREADS, 0, s->stream>>>(a->x->dtype, a->x->data,
                                                           a->weight->dtype, a->weight->data,
                                                           a->out->data, a->x->n_cols, a->eps);
    CUDA_LAUNCHED(s, "norm");
    return 0;
}
