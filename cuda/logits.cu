/* logits.cu - what is read off a row of logits; twin of src/cpu/logits.c.
 *
 * One block reads one row, or a part of it where there are few rows.  The greedy id is exact.  The
 * sum of exponentials is in double, in an order fixed by the vocabulary, though not the CPU's;
 * rounded to fp32 the two agree but for a last bit where the exact number is next to the middle of
 * two.  */
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

/* The best of a block's threads, in its first. */
__device__ static struct best best_of_block(struct best mine)
{
    __shared__ struct best of_thread[N_THREADS];

    of_thread[threadIdx.x] = mine;
    __syncthreads();
    for (int half = N_THREADS / 2; half; half /= 2) {
        if (threadIdx.x < half)
            of_thread[threadIdx.x] = better(of_thread[threadIdx.x], of_thread[threadIdx.x + half]);
        __syncthreads();
    }
    return of_thread[0];
}

/* Block y reads the y-th part of a row. */
__global__ static void argmax_parts(const float *logits, int64_t n, const int32_t *forbidden,
                                    int n_forbidden, struct best *out)
{
    const float *row = logits + (int64_t)blockIdx.x * n;
    const int64_t each = (n + gridDim.y - 1) / gridDim.y, first = blockIdx.y * each;
    const int64_t end = first + each < n ? first + each : n;
    struct best mine = { 0.0f, -1 };

    for (int64_t i = first + threadIdx.x; i < end; i += N_THREADS) {
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
    mine = best_of_block(mine);
    if (threadIdx.x == 0)
        out[(int64_t)blockIdx.x * gridDim.y + blockIdx.y] = mine;
}

__global__ static void argmax(const struct best *parts, int n_parts, int32_t *out)
{
    struct best mine = { 0.0f, -1 };

    if (threadIdx.x < n_parts)
        mine = parts[(int64_t)blockIdx.x * n_parts + threadIdx.x];
    mine = best_of_block(mine);
    if (threadIdx.x == 0)
        out[blockIdx.x] = mine.id < 0 ? -1 : mine.id;
}

int cuda_argmax(struct backend *b, const struct argmax_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    int64_t n_parts = ceil_div(a->logits->n_cols, 4 * N_THREADS);
    const int64_t most = ceil_div(4 * (int64_t)s->n_multiprocessors, a->n_rows ? a->n_rows : 1);
    void *parts;

    if (!a->n_rows)
        return 0;
    n_parts = n_parts < most ? n_parts : most;
    n_parts = n_parts < N_THREADS ? n_parts : N_THREADS;
    if (cuda_scratch(s, SCRATCH_ROWS, (size_t)(a->n_rows * n_parts) * sizeof(struct best), &parts,
                     e) < 0)
        return -1;
    argmax_parts<<<dim3((unsigned)a->n_rows, (unsigned)n_parts), N_THREADS, 0, s->stream>>>(
        (const float *)a->logits->data, a->logits->n_cols, a->forbidden, a->n_forbidden,
        (struct best *)parts);
    CUDA_LAUNCHED(s, "argmax_parts");
    argmax<<<(unsigned)a->n_rows, N_THREADS, 0, s->stream>>>((const struct best *)parts,
                                                             (int)n_parts, a->out);
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
