/* logits.cu - what is read off a row of logits; twin of src/cpu/logits.c.
 *
 * One block reads one row.  The greedy id is exact.  The sum of exponentials is in double, in an
 * order fixed by the vocabulary, though not the CPU's; rounded to fp32 the two agree but for a
 * last bit where the exact number is next to the middle of two.  */
#include "common.cuh"

#define N_THREADS 512

struct best {
    float value;
    int32_t id; /* -1: none yet; NO_ANSWER: a NaN was seen */
};

#define NO_ANSWER -2

/* Larger wins, the lower id among equals, NaN over all. */
__device__ static struct best better(struct best a, struct best b)
{
    if (a.id == NO_ANSWER || b.id == -1)
        return a;
    if (b.id == NO_ANSWER || a.id == -1)
        return b;
    if (b.value > a.value || (b.value == a.value && b.id < a.id))
        return b;
    return a;
}

__device__ static bool listed(int32_t id, const int32_t *ids, int n)
{
    for (int i = 0; i < n; i++)
        if (ids[i] == id)
            return true;
    return false;
}

__global__ static void argmax(const float *logits, int64_t n, const int32_t *forbidden,
                              int n_forbidden, int32_t *out)
{
    __shared__ struct best of_thread[N_THREADS];
    const float *row = logits + (int64_t)blockIdx.x * n;
    struct best mine = { 0.0f, -1 };

    for (int64_t i = threadIdx.x; i < n; i += N_THREADS) {
        float x = row[i];

        if (!(x == x))
            mine.id = NO_ANSWER;
        if (mine.id == NO_ANSWER)
            break;
        if ((mine.id < 0 || x > mine.value) && !listed((int32_t)i, forbidden, n_forbidden)) {
            mine.value = x;
            mine.id = (int32_t)i;
        }
    }
    of_thread[threadIdx.x] = mine;
    __syncthreads();
    for (int half = N_THREADS / 2; half; half /= 2) {
        if (threadIdx.x < half)
            of_thread[threadIdx.x] = better(of_thread[threadIdx.x], of_thread[threadIdx.x + half]);
        __syncthreads();
    }
    if (threadIdx.x == 0)
        out[blockIdx.x] = of_thread[0].id < 0 ? -1 : of_thread[0].id;
}

int cuda_argmax(struct backend *b, const struct argmax_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);

    if (!a->n_rows)
        return 0;
    argmax<<<(unsigned)a->n_rows, N_THREADS, 0, s->stream>>>(
        (const float *)a->logits->data, a->logits->n_cols, a->forbidden, a->n_forbidden, a->out);
    CUDA_LAUNCHED(s, "argmax");
    return 0;
}

/* ln(sum exp(x - max)) + (max - x[target]), rounded once; NaN where the largest is not finite. */
__global__ static void nll(const float *logits, int64_t n, const int32_t *targets, float *out)
{
    __shared__ double of_thread[N_THREADS];
    __shared__ float largest[N_THREADS];
    const float *row = logits + (int64_t)blockIdx.x * n;
    float most = -INFINITY;
    double sum = 0;

    /* No comparison with a NaN holds, so one that is found stays. */
    for (int64_t i = threadIdx.x; i < n; i += N_THREADS)
        most = row[i] > most || !(row[i] == row[i]) ? row[i] : most;
    largest[threadIdx.x] = most;
    __syncthreads();
    for (int half = N_THREADS / 2; half; half /= 2) {
        if (threadIdx.x < half) {
            float other = largest[threadIdx.x + half], own = largest[threadIdx.x];
            largest[threadIdx.x] = own == own && (other > own || !(other == other)) ? other : own;
        }
        __syncthreads();
    }
    most = largest[0];
    for (int64_t i = threadIdx.x; i < n; i += N_THREADS)
        sum += exp((double)row[i] - (double)most);
    of_thread[threadIdx.x] = sum;
    __syncthreads();
    for (int half = N_THREADS / 2; half; half /= 2) {
        if (threadIdx.x < half)
            of_thread[threadIdx.x] += of_thread[threadIdx.x + half];
        __syncthreads();
    }
    if (threadIdx.x == 0)
        out[blockIdx.x] =
            isfinite(most)
                ? (float)(log(of_thread[0]) + ((double)most - (double)row[targets[blockIdx.x]]))
                : NAN;
}

int cuda_nll(struct backend *b, const struct nll_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);

    if (!a->n_rows)
        return 0;
    nll<<<(unsigned)a->n_rows, N_THREADS, 0, s->stream>>>((const float *)a->logits->data,
                                                          a->logits->n_cols, a->targets, a->out);
    CUDA_LAUNCHED(s, "nll");
    return 0;
}
