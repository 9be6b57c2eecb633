/* rope.c - rotary position embedding (Su et al., 2021) in Hugging Face's half-split layout, and
 * the way of new keys and values into the cache.
 *
 * In T, the model dtype, with x1 the first half of a head and x2 the second:
 *   out1 = T(T(x1 cos) + T(-x2 sin)),  out2 = T(T(x2 cos) + T(x1 sin))
 * as q * cos + rotate_half(q) * sin gives it there.  */
#include "cpu/cpu.h"

#include <assert.h>
#include <string.h>

#define HEAD_MAX 1024 /* elements of a head */

static void rotate(enum dtype t, void *head, const float *cos_row, const float *sin_row, int half)
{
    float x[HEAD_MAX], with_cos[HEAD_MAX], with_sin[HEAD_MAX];

    dtype_to_f32(t, head, x, 2 * half);
    for (int j = 0; j < half; j++) {
        with_cos[j] = x[j] * cos_row[j];
        with_cos[half + j] = x[half + j] * cos_row[j];
        with_sin[j] = -x[half + j] * sin_row[j];
        with_sin[half + j] = x[j] * sin_row[j];
    }
    dtype_round(t, with_cos, 2 * half);
    dtype_round(t, with_sin, 2 * half);
    for (int j = 0; j < 2 * half; j++)
        x[j] = with_cos[j] + with_sin[j];
    dtype_from_f32(t, x, head, 2 * half);
}

/* Rows are independent: each has its own position, table row and place in the cache. */
int cpu_rope(struct backend *b, const struct rope_args *a, struct err *e)
{
    const int half = (a->n_rotated ? a->n_rotated : a->head_dim) / 2;
    const int n_table = a->head_dim / 2; /* columns */
    const enum dtype t = a->q->dtype;
    const size_t head_bytes = (size_t)a->head_dim * dtype_bytes(t);
    const size_t row_bytes = head_bytes * (size_t)a->n_kv_heads;

    (void)b, (void)e;
    assert(a->head_dim <= HEAD_MAX && a->head_dim % 2 == 0);
    assert(a->k->dtype == t && a->v->dtype == t && a->k_cache->dtype == t &&
           a->v_cache->dtype == t);
#pragma omp parallel for schedule(static) if (a->n_rows > 16)
    for (int64_t row = 0; row < a->n_rows; row++) {
        const float *cos_row =
            (const float *)a->cos_table->data + (int64_t)a->table_row[row] * n_table;
        const float *sin_row =
            (const float *)a->sin_table->data + (int64_t)a->table_row[row] * n_table;
        char *q = (char *)a->q->data + (size_t)row * head_bytes * (size_t)a->n_heads;
        char *k = (char *)a->k->data + (size_t)row * row_bytes;
        const char *v = (const char *)a->v->data + (size_t)row * row_bytes;
        size_t place = (size_t)(a->slot[row] * a->capacity + a->position[row]) * row_bytes;

        assert(a->table_row[row] >= 0 && a->table_row[row] < a->cos_table->n_rows);
        assert(a->position[row] >= 0 && a->position[row] < a->capacity);
        for (int h = 0; h < a->n_heads; h++)
            rotate(t, q + (size_t)h * head_bytes, cos_row, sin_row, half);
        for (int h = 0; h < a->n_kv_heads; h++)
            rotate(t, k + (size_t)h * head_bytes, cos_row, sin_row, half);
        memcpy((char *)a->k_cache->data + place, k, row_bytes);
        memcpy((char *)a->v_cache->data + place, v, row_bytes);
    }
    return 0;
}
