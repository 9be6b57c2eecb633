/* rope.cu - rotary position embedding (Su et al., 2021), half-split, and the way of new keys and
 * values into the cache; twin of src/cpu/rope.c, to the bit.
 *
 * One block makes one row: a thread turns the pairs (j, j + half) of its heads, puts the turned
 * key into the cache as it goes, and copies its part of the value.  Where all of a head turns, in
 * eights of 16 bits, a thread turns eight pairs. */
#include "eight.cuh"
#include "overlap.cuh"

#define N_THREADS 256

struct rope_row {
    enum dtype t;
    void *q, *k, *k_cache, *v_cache;
    const void *v;
    const float *cos_table, *sin_table;
    const int32_t *table_row, *slot, *position;
    int64_t capacity;
    int n_heads, n_kv_heads, head_dim, half;
};

/* The pair at i and i + half of x, turned in place. */
__device__ static void turn(enum dtype t, void *x, int64_t i, int half, float c, float s)
{
    float a = load_value(t, x, i), b = load_value(t, x, i + half);

    store_value(t, x, i, round_value(t, a * c) + round_value(t, -b * s));
    store_value(t, x, i + half, round_value(t, b * c) + round_value(t, a * s));
}

__global__ static void rope(struct rope_row r)
{
    wait_for_launch_before();
    let_next_start();
    const int64_t row = blockIdx.x, n_table = r.head_dim / 2;
    const float *cos_row = r.cos_table + r.table_row[row] * n_table;
    const float *sin_row = r.sin_table + r.table_row[row] * n_table;
    const int64_t kv = (int64_t)r.n_kv_heads * r.head_dim;
    const int64_t place = (r.slot[row] * r.capacity + r.position[row]) * kv;

    for (int i = threadIdx.x; i < (r.n_heads + r.n_kv_heads) * r.half; i += N_THREADS) {
        int head = i / r.half, j = i % r.half;

        if (head < r.n_heads)
            turn(r.t, r.q, (row * r.n_heads + head) * r.head_dim + j, r.half, cos_row[j],
                 sin_row[j]);
        else
            turn(r.t, r.k, row * kv + (head - r.n_heads) * r.head_dim + j, r.half, cos_row[j],
                 sin_row[j]);
    }
    __syncthreads();
    for (int64_t i = threadIdx.x; i < kv; i += N_THREADS) {
        store_value(r.t, r.k_cache, place + i, load_value(r.t, r.k, row * kv + i));
        store_value(r.t, r.v_cache, place + i, load_value(r.t, r.v, row * kv + i));
    }
}

/* Eights i and i + n_half of x, turned in place, and to `copy` if there is one. */
template <enum dtype T>
__device__ static inline void turn_eights(void *x, int64_t i, int n_half, const struct eight &c,
                                          const struct eight &s, void *copy, int64_t to)
{
    const struct eight a = load_eight<T>(x, i), b = load_eight<T>(x, i + n_half);
    struct eight first, second;

#pragma unroll
    for (int k = 0; k < 8; k++) {
        first.x[k] = round_value(T, a.x[k] * c.x[k]) + round_value(T, -b.x[k] * s.x[k]);
        second.x[k] = round_value(T, b.x[k] * c.x[k]) + round_value(T, a.x[k] * s.x[k]);
    }
    store_eight<T>(x, i, first);
    store_eight<T>(x, i + n_half, second);
    if (!copy)
        return;
    store_eight<T>(copy, to, first);
    store_eight<T>(copy, to + n_half, second);
}

template <enum dtype T> __global__ static void rope_eights(struct rope_row r)
{
    const int64_t row = blockIdx.x;
    const int n_half = r.half / 8, n_head = 2 * n_half; /* eights of half a head, of a head */
    const int64_t angles = r.table_row[row] * (int64_t)n_half;
    const int n_pairs = (r.n_heads + r.n_kv_heads) * n_half, n_kv = r.n_kv_heads * n_head;
    const int64_t place = (r.slot[row] * r.capacity + r.position[row]) * n_kv;
    int at = threadIdx.x % n_half; /* of c and s */
    struct eight c = load_eight<DTYPE_F32>(r.cos_table, angles + at);
    struct eight s = load_eight<DTYPE_F32>(r.sin_table, angles + at);

    wait_for_launch_before(); /* no kernel makes places and angles: they are here */
    let_next_start();
    for (int i = threadIdx.x; i < n_pairs + n_kv; i += N_THREADS) {
        const int head = i / n_half, j = i % n_half, kv = (head - r.n_heads) * n_head + j;

        if (i >= n_pairs) {
            store_raw<T>(r.v_cache, place + i - n_pairs,
                         load_raw<T>(r.v, row * n_kv + i - n_pairs));
            continue;
        }
        if (j != at) {
            c = load_eight<DTYPE_F32>(r.cos_table, angles + j);
            s = load_eight<DTYPE_F32>(r.sin_table, angles + j);
            at = j;
        }
        if (head < r.n_heads)
            turn_eights<T>(r.q, (row * r.n_heads + head) * n_head + j, n_half, c, s, NULL, 0);
        else
            turn_eights<T>(r.k, row * n_kv + kv, n_half, c, s, r.k_cache, place + kv);
    }
}

static bool in_eights(const struct rope_row *r)
{
    return dtype_is_16bit(r->t) && r->half % 8 == 0 && 2 * r->half == r->head_dim &&
           aligned_16(r->q) && aligned_16(r->k) && aligned_16(r->v) && aligned_16(r->k_cache) &&
           aligned_16(r->v_cache) && aligned_16(r->cos_table) && aligned_16(r->sin_table);
}

int cuda_rope(struct backend *b, const struct rope_args *a, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);
    struct rope_row r = { .t = a->q->dtype,
                          .q = a->q->data,
                          .k = a->k->data,
                          .k_cache = a->k_cache->data,
                          .v_cache = a->v_cache->data,
                          .v = a->v->data,
                          .cos_table = (const float *)a->cos_table->data,
                          .sin_table = (const float *)a->sin_table->data,
                          .table_row = a->table_row,
                          .slot = a->slot,
                          .position = a->position,
                          .capacity = a->capacity,
                          .n_heads = a->n_heads,
                          .n_kv_heads = a->n_kv_heads,
                          .head_dim = a->head_dim,
                          .half = (a->n_rotated ? a->n_rotated : a->head_dim) / 2 };

    if (!a->n_rows)
        return 0;
    auto *kernel = !in_eights(&r)     ? rope
                   : r.t == DTYPE_F16 ? rope_eights<DTYPE_F16>
                                      : rope_eights<DTYPE_BF16>;
    return start_overlapping(s, "rope", e, kernel, dim3((unsigned)a->n_rows), N_THREADS, 0, r);
}
