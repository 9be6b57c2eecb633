/* divergence.cu - how far two rows of logits are apart; twin of src/cpu/divergence.c.
 *
 * A block has a row, and goes over both models' logits once.  Each thread keeps, for either row,
 * its largest logit so far and the sum Z of exp(x - largest) in double, which shrinks when a larger
 * one comes, and of both the sum W of P (p - q), P = exp(p - largest p).  At the end all of them
 * are taken to the largest of the row: KL = W / Zp - (ln Zp - ln Zq), which needs one exponential
 * a logit where p ln(p / q) needs three.  Which thread looks at which ids, in which order, is fixed
 * by the vocabulary, though not the CPU's order.
 *
 * Bytes: 8 V a row.  Operations: two exponentials in double for each id, a sixth more for new
 * largest ones. */
#include "common.cuh"

#define N_THREADS  256
#define N_WARPS    (N_THREADS / 32)
#define N_VECTORS  2 /* of 4 ids, that a thread looks at together */
#define N_TOGETHER (4 * N_VECTORS)

/* The largest logit and its id, the first of equal ones; -1: none yet, or none above -infinity. */
struct top {
    float value;
    int32_t id;
};

__device__ static inline struct top higher(struct top a, struct top b)
{
    return b.value > a.value || (b.value == a.value && (unsigned)b.id < (unsigned)a.id) ? b : a;
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

/* Four logits from id `first` on; -infinity, which changes nothing, behind the last. */
__device__ static inline void load_four(const float *row, int64_t n, int64_t first, bool whole,
                                        float *out)
{
    if (whole && first + 4 <= n) {
        const float4 x = __ldcs((const float4 *)(row + first));
        out[0] = x.x;
        out[1] = x.y;
        out[2] = x.z;
        out[3] = x.w;
        return;
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
        out[i] = first + i < n ? row[first + i] : -INFINITY;
}

/* What x is measured from: where all are -infinity, so that they add 0, anything else. */
__device__ static inline double base_of(float largest)
{
    return largest == -INFINITY ? 0 : (double)largest;
}

/* Takes the thread's largest to these; the factor that its sums shrink by, or 1. */
__device__ static inline double raise_top(const float *x, int64_t first, struct top *top)
{
    const float before = top->value;

#pragma unroll
    for (int i = 0; i < N_TOGETHER; i++)
        if (x[i] > top->value)
            *top = { x[i], (int32_t)(first + i / 4 * 4 * N_THREADS + i % 4) };
    return top->value > before ? exp((double)before - (double)top->value) : 1;
}

struct sums {
    double p, q, weighted;
    float excluded; /* largest p that q says is impossible */
};

__device__ static inline void add_ids(const float *p, const float *q, double base_p, double base_q,
                                      struct sums *s)
{
#pragma unroll
    for (int i = 0; i < N_TOGETHER; i++) {
        const double own = p[i], other = q[i], share = exp(own - base_p);

        s->p += share;
        s->q += exp(other - base_q);
        if (other == -INFINITY)
            s->excluded = fmaxf(s->excluded, p[i]);
        else if (share != 0) /* what has no probability adds nothing, wherever q is */
            s->weighted += share * (own - other);
    }
}

__global__ static void __launch_bounds__(N_THREADS, 3)
    divergence_rows(const float *base, const float *logits, int64_t n, bool whole,
                    const int32_t *targets, struct divergence *out)
{
    __shared__ struct top tops[N_WARPS];
    __shared__ double rooms[N_WARPS];
    const float *row_p = base + (int64_t)blockIdx.x * n, *row_q = logits + (int64_t)blockIdx.x * n;
    struct top top_p = { -INFINITY, -1 }, top_q = top_p;
    struct sums s = { 0, 0, 0, -INFINITY };

    for (int64_t i = 4 * threadIdx.x; i < n; i += N_TOGETHER * N_THREADS) {
        float p[N_TOGETHER], q[N_TOGETHER];
#pragma unroll
        for (int v = 0; v < N_VECTORS; v++) {
            load_four(row_p, n, i + 4 * v * N_THREADS, whole, p + 4 * v);
            load_four(row_q, n, i + 4 * v * N_THREADS, whole, q + 4 * v);
        }
        const double less_p = raise_top(p, i, &top_p);
        s.p *= less_p;
        s.weighted *= less_p;
        s.q *= raise_top(q, i, &top_q);
        add_ids(p, q, base_of(top_p.value), base_of(top_q.value), &s);
    }

    const double own_p = top_p.value, own_q = top_q.value;
    top_p = top_of_block(top_p, tops);
    top_q = top_of_block(top_q, tops);
    const double less_p = exp(own_p - base_of(top_p.value));
    const double sum_p = sum_of_block(s.p * less_p, rooms);
    const double weighted = sum_of_block(s.weighted * less_p, rooms);
    const double sum_q = sum_of_block(s.q * exp(own_q - base_of(top_q.value)), rooms);
    const struct top excluded = top_of_block({ s.excluded, 0 }, tops);
    if (threadIdx.x)
        return;
    const int32_t target = targets[blockIdx.x];
    /* Of a row of -infinity no sum is defined, as none is with a NaN or +infinity. */
    const double log_p = top_p.id < 0 ? NAN : top_p.value + log(sum_p);
    const double log_q = top_q.id < 0 ? NAN : top_q.value + log(sum_q);
    const bool known = log_p == log_p && log_q == log_q;
    double kl = weighted / sum_p - (log_p - log_q);

    kl = kl < 0 ? 0 : kl; /* only rounding is below 0 */
    if (exp(excluded.value - log_p) > 0)
        kl = INFINITY;
    out[blockIdx.x] = { known ? kl : NAN, log_p - (double)row_p[target],
                        log_q - (double)row_q[target], known && top_p.id == top_q.id };
}

int cuda_divergence(struct backend *b, const struct divergence_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    const int64_t n = a->base->n_cols;
    const uintptr_t at = (uintptr_t)a->base->data | (uintptr_t)a->logits->data;

    if (!a->n_rows)
        return 0;
    divergence_rows<<<(unsigned)a->n_rows, N_THREADS, 0, s->stream>>>(
        (const float *)a->base->data, (const float *)a->logits->data, n, n % 4 == 0 && at % 16 == 0,
        a->targets, a->out);
    CUDA_LAUNCHED(s, "divergence_rows");
    return 0;
}
