/* divergence.cu - how far two rows of logits are apart; twin of src/cpu/divergence.c.
 *
 * A block has a row.  First the largest logits, then one way over both rows for three sums in
 * double: with P = exp(p - max p) and Z their sum, KL = (sum P (p - q)) / Z - (ln Zp - ln Zq),
 * which needs one exponential a logit where p ln(p / q) needs three.  The order of the sums is
 * fixed by the vocabulary, though not the CPU's.
 *
 * Bytes: 16 V a row, both rows twice.  Operations: two exponentials in double for each id. */
#include "common.cuh"

#define N_THREADS 512
#define N_WARPS   (N_THREADS / 32)

struct top {
    float value;
    int32_t id; /* -1: none yet; IS_NAN: a NaN was seen */
};

#define IS_NAN -2

/* Larger wins, the lower id among equals, NaN over all. */
__device__ static inline struct top higher(struct top a, struct top b)
{
    if (a.id == IS_NAN || b.id == -1)
        return a;
    if (b.id == IS_NAN || a.id == -1)
        return b;
    return b.value > a.value || (b.value == a.value && b.id < a.id) ? b : a;
}

/* Of all threads of the block, in all of them; room [N_WARPS] may be used again behind it. */
__device__ static struct top top_of_block(struct top mine, struct top *room)
{
    for (int half = 16; half; half /= 2) {
        struct top other = { __shfl_xor_sync(0xFFFFFFFFu, mine.value, half),
                             __shfl_xor_sync(0xFFFFFFFFu, mine.id, half) };
        mine = higher(mine, other);
    }
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = mine;
    __syncthreads();
    mine = room[0];
    for (int i = 1; i < N_WARPS; i++)
        mine = higher(mine, room[i]);
    __syncthreads();
    return mine;
}

__device__ static double sum_of_block(double mine, double *room)
{
    for (int half = 16; half; half /= 2)
        mine += __shfl_xor_sync(0xFFFFFFFFu, mine, half);
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = mine;
    __syncthreads();
    mine = room[0];
    for (int i = 1; i < N_WARPS; i++)
        mine += room[i];
    __syncthreads();
    return mine;
}

__device__ static struct top top_of_row(const float *x, int64_t n, struct top *room)
{
    struct top mine = { 0.0f, -1 };

    for (int64_t i = threadIdx.x; i < n; i += N_THREADS) {
        const float v = x[i];
        mine = higher(mine, { v, v == v ? (int32_t)i : IS_NAN });
    }
    return top_of_block(mine, room);
}

__global__ static void __launch_bounds__(N_THREADS)
    divergence_rows(const float *base, const float *logits, int64_t n, const int32_t *targets,
                    struct divergence *out)
{
    __shared__ struct top tops[N_WARPS];
    __shared__ double sums[N_WARPS];
    const float *p = base + (int64_t)blockIdx.x * n, *q = logits + (int64_t)blockIdx.x * n;
    const struct top top_p = top_of_row(p, n, tops), top_q = top_of_row(q, n, tops);
    const double most_p = top_p.id == IS_NAN ? NAN : top_p.value;
    const double most_q = top_q.id == IS_NAN ? NAN : top_q.value;
    double sum_p = 0, sum_q = 0, weighted = 0;

    for (int64_t i = threadIdx.x; i < n; i += N_THREADS) {
        const double own = p[i], other = q[i], share = exp(own - most_p);

        sum_p += share;
        sum_q += exp(other - most_q);
        if (share != 0) /* what has no probability adds nothing, wherever q is */
            weighted += share * (own - other);
    }
    sum_p = sum_of_block(sum_p, sums);
    sum_q = sum_of_block(sum_q, sums);
    weighted = sum_of_block(weighted, sums);
    if (threadIdx.x)
        return;
    const int32_t target = targets[blockIdx.x];
    const double log_p = most_p + log(sum_p), log_q = most_q + log(sum_q);
    const double kl = weighted / sum_p - (log_p - log_q);
    out[blockIdx.x] = { kl < 0 ? 0 : kl, /* only rounding is below 0 */
                        log_p - (double)p[target], log_q - (double)q[target],
                        top_p.id >= 0 && top_p.id == top_q.id };
}

int cuda_divergence(struct backend *b, const struct divergence_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);

    if (!a->n_rows)
        return 0;
    divergence_rows<<<(unsigned)a->n_rows, N_THREADS, 0, s->stream>>>(
        (const float *)a->base->data, (const float *)a->logits->data, a->base->n_cols, a->targets,
        a->out);
    CUDA_LAUNCHED(s, "divergence_rows");
    return 0;
}
