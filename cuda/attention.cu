/* attention.cu - softmax(q k^T / sqrt(E)) v over the cache, block by block of 64 positions counted
 * from 0 of the sequence (Milakov and Gimelshein, 2018); twin of src/cpu/attention.c, to the bit.
 *
 * One block of threads makes one (row, head) and goes through the blocks of positions in order:
 *   1. score of each position: one chain of fused multiply-adds over e, a thread a position;
 *   2. exponentials, with the largest score so far taken off; sums in 16 lanes, position % 16;
 *   3. out, a thread an element: rescaled where the maximum grew, then one chain over positions.
 * Ends behind the row's own position.  Only positions that the row sees are added: the CPU adds
 * the others with weight 0, which leaves a chain as it is.  */
#include "attention_decode.cuh"
#include "attention_prompt.cuh"
#include "common.cuh"

#define N_THREADS 128
#define BLOCK     64
#define LANES     16
#define E_CHUNK   64  /* elements of the keys in shared memory at a time */
#define E_MAX     256 /* of a head */

struct attention_job {
    enum dtype t;
    const void *q, *k_cache, *v_cache;
    void *out;
    const int32_t *slot, *position;
    int64_t capacity, window;
    int n_heads, n_kv_heads, head_dim;
    float scale;
};

struct attention_shared {
    float q[E_MAX];
    float keys[BLOCK][E_CHUNK + 1];
    float score[BLOCK];
    float max, factor, sum;
};

/* score[i] = q . key of position first + i, i < n. */
__device__ static void block_scores(const struct attention_job &a, struct attention_shared &s,
                                    int64_t first, int n, int kv_head)
{
    const int64_t width = (int64_t)a.n_kv_heads * a.head_dim;
    float sum = 0;

    for (int e = 0; e < a.head_dim; e += E_CHUNK) {
        int n_e = a.head_dim - e < E_CHUNK ? a.head_dim - e : E_CHUNK;

        for (int i = threadIdx.x; i < n * n_e; i += N_THREADS)
            s.keys[i / n_e][i % n_e] =
                load_value(a.t, a.k_cache,
                           (first + i / n_e) * width + (int64_t)kv_head * a.head_dim + e + i % n_e);
        __syncthreads();
        if (threadIdx.x < n)
            for (int j = 0; j < n_e; j++)
                sum = fmaf(s.q[e + j], s.keys[threadIdx.x][j], sum);
        __syncthreads();
    }
    if (threadIdx.x < n)
        s.score[threadIdx.x] = sum;
    __syncthreads();
}

/* Scores from .. to-1 become exponentials, the others 0; lane sums in the first 16 threads. */
__device__ static void block_softmax(const struct attention_job &a, struct attention_shared &s,
                                     int from, int to, float *lane_sum)
{
    const int i = threadIdx.x;

    if (i < 32) {
        float old = s.max, most = old;

        for (int j = i; j < BLOCK; j += 32) {
            float x = j >= from && j < to ? s.score[j] * a.scale : -INFINITY;
            s.score[j] = x;
            most = x > most ? x : most;
        }
        for (int half = 16; half; half /= 2) {
            float other = __shfl_xor_sync(0xFFFFFFFFu, most, half);
            most = other > most ? other : most;
        }
        for (int j = i; j < BLOCK; j += 32)
            s.score[j] = exp_value(s.score[j] - most);
        __syncwarp();
        float before = exp_value(old - most);
        if (i < LANES) {
            *lane_sum *= before;
            for (int j = i; j < BLOCK; j += LANES)
                *lane_sum += s.score[j];
        }
        if (i == 0) {
            s.max = most;
            s.factor = before;
        }
    }
    __syncthreads();
}

__global__ static void __launch_bounds__(N_THREADS) attention(struct attention_job a)
{
    __shared__ struct attention_shared s;
    const int head = blockIdx.y, kv_head = head / (a.n_heads / a.n_kv_heads);
    const int64_t row = blockIdx.x, p = a.position[row], slot = a.slot[row] * a.capacity;
    const int64_t low = a.window > 0 && p - a.window + 1 > 0 ? p - a.window + 1 : 0;
    const int64_t width = (int64_t)a.n_kv_heads * a.head_dim, line = row * a.n_heads + head;
    float out[E_MAX / N_THREADS] = { 0 }, lane_sum = 0;

    for (int i = threadIdx.x; i < a.head_dim; i += N_THREADS)
        s.q[i] = load_value(a.t, a.q, line * a.head_dim + i);
    if (threadIdx.x == 0)
        s.max = -INFINITY;
    __syncthreads();

    for (int64_t first = low / BLOCK * BLOCK; first <= p; first += BLOCK) {
        int from = (int)(low > first ? low - first : 0);
        int to = (int)(p - first + 1 < BLOCK ? p - first + 1 : BLOCK);

        block_scores(a, s, slot + first, to, kv_head);
        block_softmax(a, s, from, to, &lane_sum);
        for (int k = 0; k < E_MAX / N_THREADS; k++) {
            int c = threadIdx.x + k * N_THREADS;

            if (c >= a.head_dim)
                break;
            const int64_t at = (slot + first) * width + (int64_t)kv_head * a.head_dim + c;
            out[k] *= s.factor;
#pragma unroll 8
            for (int j = from; j < to; j++)
                out[k] = fmaf(s.score[j], load_value(a.t, a.v_cache, at + j * width), out[k]);
        }
        __syncthreads();
    }
    if (threadIdx.x < LANES) {
        for (int half = LANES / 2; half; half /= 2)
            lane_sum += __shfl_down_sync(0xFFFFu, lane_sum, half, LANES);
        if (threadIdx.x == 0)
            s.sum = lane_sum;
    }
    __syncthreads();
    for (int k = 0; k < E_MAX / N_THREADS; k++) {
        int c = threadIdx.x + k * N_THREADS;

        if (c < a.head_dim)
            store_value(a.t, a.out, line * a.head_dim + c, out[k] / s.sum + 0.0f);
    }
}

/* As in a launch of its own that rotates and appends, too: the same bits. */
static int decode(struct cuda_state *s, const struct attention_args *a, struct err *e)
{
    struct decode_attention d = {};

    d.t = a->q->dtype;
    d.q = a->q->data;
    d.k_cache = a->k_cache->data;
    d.v_cache = a->v_cache->data;
    d.slot = a->slot;
    d.position = a->position;
    d.out = a->out->data;
    d.n_rows = a->n_rows;
    d.capacity = a->capacity;
    d.window = a->window;
    d.bound = a->max_position;
    d.n_heads = a->n_heads;
    d.n_kv_heads = a->n_kv_heads;
    d.head_dim = a->head_dim;
    d.appended = true;
    return cuda_attention_decode(s, &d, e);
}

static int general(struct cuda_state *s, const struct attention_args *a, struct err *e)
{
    struct attention_job job = { .t = a->q->dtype,
                                 .q = a->q->data,
                                 .k_cache = a->k_cache->data,
                                 .v_cache = a->v_cache->data,
                                 .out = a->out->data,
                                 .slot = a->slot,
                                 .position = a->position,
                                 .capacity = a->capacity,
                                 .window = a->window,
                                 .n_heads = a->n_heads,
                                 .n_kv_heads = a->n_kv_heads,
                                 .head_dim = a->head_dim,
                                 .scale = (float)(1.0 / sqrt((double)a->head_dim)) };

    if (a->head_dim > E_MAX)
        return err_set(e, ERR_INPUT, "heads of %d elements: on CUDA up to %d", a->head_dim, E_MAX);
    /* Rows on x: y ends at 65535. */
    attention<<<dim3((unsigned)a->n_rows, (unsigned)a->n_heads), N_THREADS, 0, s->stream>>>(job);
    CUDA_LAUNCHED(s, "attention");
    return 0;
}

int cuda_attention(struct backend *b, const struct attention_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);

    if (!a->n_rows)
        return 0;
    if (a->phase == PHASE_DECODE &&
        cuda_attention_decode_fits(a->q->dtype, a->n_heads, a->n_kv_heads, a->head_dim, 0))
        return decode(s, a, e);
    if (a->phase == PHASE_PROMPT && cuda_attention_prompt_fits(s, a))
        return cuda_attention_prompt(s, a, e);
    return general(s, a, e);
}
