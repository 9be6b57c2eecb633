/* attention.c - softmax(q k^T / sqrt(E)) v over the cache, in fp32, block by block of positions
 * (Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018; Dao et al., 2022).
 *
 * The order of every sum of a row is fixed by its position p alone:
 *   score    one chain of fused multiply-adds over e = 0 .. E-1
 *   softmax  blocks of ATTENTION_BLOCK positions counted from 0 of the sequence, in order; sum of
 *            exponentials in 16 lanes (position % 16), added up by halves at the end
 *   output   one chain over the positions in order, rescaled where a block raises the maximum
 * Positions that a row may not see have weight 0, which leaves a chain as it is; values that are
 * not finite would not, so a block that holds one is added for each row apart, over the positions
 * it may see.
 *
 * A task is one key/value head of up to ROWS query rows of one sequence: all query heads of the
 * group share the packed keys and values.  */
#include "cpu/cpu.h"

#include <assert.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#define LINES_AT_ONCE 64 /* query rows x heads of a task, where one row is not more already */
#define BLOCK         ATTENTION_BLOCK

struct shape {
    const struct cpu_kernels *k;
    const struct attention_args *a;
    int n_group;       /* query heads of one key/value head */
    int64_t rows_max;  /* query rows of a task */
    int64_t lines_max; /* rows x heads */
    int64_t width;     /* head_dim rounded up to whole tile columns */
    float scale;
};

/* Lines are (row, head of the group) pairs, row-major. */
struct scratch {
    float *q;       /* panels: [E][m] */
    float *out;     /* [lines, width] */
    float *keys;    /* [BLOCK / tile_cols] panels of [E][tile_cols] */
    float *values;  /* [width / tile_cols] panels of [BLOCK][tile_cols] */
    float *scores;  /* [tile_rows, BLOCK] */
    float *weights; /* [BLOCK][m] */
    float *plain;   /* [max(BLOCK, lines), E] */
    struct softmax_row *soft;
};

struct task {
    int64_t first_row, n_rows;
};

static size_t carve(const struct shape *s, float *from, struct scratch *out)
{
    const int64_t e = s->a->head_dim, lines = s->lines_max;
    struct {
        float **at;
        int64_t n;
    } parts[] = {
        { &out->q, lines * e },
        { &out->out, lines * s->width },
        { &out->keys, BLOCK * e },
        { &out->values, BLOCK * s->width },
        { &out->scores, TILE_ROWS_MAX * BLOCK },
        { &out->weights, TILE_ROWS_MAX * BLOCK },
        { &out->plain, (lines > BLOCK ? lines : BLOCK) * e },
        { (float **)&out->soft, lines * (int64_t)(sizeof(struct softmax_row) / sizeof(float)) },
    };
    int64_t at = 0;

    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++) {
        if (from)
            *parts[i].at = from + at;
        at += (parts[i].n + 15) / 16 * 16;
    }
    return (size_t)at;
}

/* Query rows of one sequence, in order, at most rows_max a task. */
static int64_t cut_tasks(const struct shape *s, struct task *out)
{
    const struct attention_args *a = s->a;
    int64_t n = 0;

    for (int64_t row = 0; row < a->n_rows; row++) {
        struct task *t = n ? &out[n - 1] : NULL;

        if (t && t->n_rows < s->rows_max && a->slot[row] == a->slot[row - 1] &&
            a->position[row] == a->position[row - 1] + 1)
            t->n_rows++;
        else
            out[n++] = (struct task){ row, 1 };
    }
    return n;
}

static void load_queries(const struct shape *s, const struct task *t, int g, struct scratch *w)
{
    const struct attention_args *a = s->a;
    const int64_t e = a->head_dim, lines = t->n_rows * s->n_group;
    const size_t n_bytes = dtype_bytes(a->q->dtype);

    for (int64_t row = 0; row < t->n_rows; row++) {
        int64_t at = ((t->first_row + row) * a->n_heads + (int64_t)g * s->n_group) * e;
        dtype_to_f32(a->q->dtype, (const char *)a->q->data + (size_t)at * n_bytes,
                     w->plain + row * s->n_group * e, s->n_group * e);
    }
    for (int64_t i = 0; i < lines; i += s->k->tile_rows) {
        int64_t m = lines - i < s->k->tile_rows ? lines - i : s->k->tile_rows;
        s->k->transpose(w->plain + i * e, e, m, e, w->q + i * e, m);
    }
}

/* Keys of n positions from `first` on, as panels; the rest of the block is zeros. */
static void load_keys(const struct shape *s, int64_t first, int64_t n, int g, struct scratch *w)
{
    const struct tensor *cache = s->a->k_cache;
    const int64_t e = s->a->head_dim;
    const int cols = s->k->tile_cols;
    const size_t n_bytes = dtype_bytes(cache->dtype);

    for (int64_t i = 0; i < n; i++)
        dtype_to_f32(cache->dtype,
                     (const char *)cache->data +
                         (size_t)((first + i) * cache->n_cols + g * e) * n_bytes,
                     w->plain + i * e, e);
    for (int64_t j = 0; j < BLOCK; j += cols)
        s->k->transpose(w->plain + j * e, e,
                        n - j < 0      ? 0
                        : n - j < cols ? n - j
                                       : cols,
                        e, w->keys + j * e, cols);
}

/* Values of n positions; false when one of them is not finite. */
static bool load_values(const struct shape *s, int64_t first, int64_t n, int g, struct scratch *w)
{
    const struct tensor *cache = s->a->v_cache;
    const int64_t e = s->a->head_dim;
    const int cols = s->k->tile_cols;
    const size_t n_bytes = dtype_bytes(cache->dtype);
    bool finite = true;

    for (int64_t i = 0; i < BLOCK; i++) {
        const char *row =
            (const char *)cache->data + (size_t)((first + i) * cache->n_cols + g * e) * n_bytes;

        for (int64_t j = 0; j < s->width; j += cols) {
            float *to = w->values + j * BLOCK + i * cols;
            int64_t here = i >= n || e - j <= 0 ? 0 : e - j < cols ? e - j : cols;

            if (here)
                dtype_to_f32(cache->dtype, row + (size_t)j * n_bytes, to, here);
            memset(to + here, 0, (size_t)(cols - here) * sizeof *to);
            finite &= s->k->all_finite(to, here);
        }
    }
    return finite;
}

/* Which positions of the block at `first` the row of a line sees: *from .. *to - 1 of it. */
static void seen(const struct shape *s, int64_t row, int64_t first, int *from, int *to)
{
    int64_t p = s->a->position[row], window = s->a->window;
    int64_t low = window > 0 && p - window + 1 > 0 ? p - window + 1 : 0;

    *from = low <= first ? 0 : low - first < BLOCK ? (int)(low - first) : BLOCK;
    *to = p < first ? 0 : p - first + 1 < BLOCK ? (int)(p - first + 1) : BLOCK;
}

/* One block of positions for lines i .. i + m - 1 of a task. */
static void add_block(const struct shape *s, const struct task *t, int64_t i, int m, int64_t first,
                      bool finite, struct scratch *w)
{
    const int64_t e = s->a->head_dim;
    const int cols = s->k->tile_cols;
    int from[TILE_ROWS_MAX], to[TILE_ROWS_MAX];

    for (int64_t j = 0; j < BLOCK; j += cols)
        s->k->tile(m, e, w->q + i * e, w->keys + j * e, w->scores + j, BLOCK, false);
    for (int l = 0; l < m; l++) {
        float *scores = w->scores + l * BLOCK, *out = w->out + (i + l) * s->width;

        seen(s, t->first_row + (i + l) / s->n_group, first, &from[l], &to[l]);
        if (from[l] >= to[l]) {
            memset(scores, 0, BLOCK * sizeof *scores);
            continue;
        }
        float factor = s->k->softmax_block(scores, from[l], to[l], s->scale, &w->soft[i + l]);
        if (factor != 1.0f)
            for (int64_t c = 0; c < s->width; c++)
                out[c] *= factor;
    }
    if (finite) {
        s->k->transpose(w->scores, BLOCK, m, BLOCK, w->weights, m);
        for (int64_t j = 0; j < s->width; j += cols)
            s->k->tile(m, BLOCK, w->weights, w->values + j * BLOCK, w->out + i * s->width + j,
                       s->width, true);
        return;
    }
    for (int l = 0; l < m; l++)
        for (int64_t j = 0; j < s->width && from[l] < to[l]; j += cols)
            s->k->tile(1, to[l] - from[l], w->scores + l * BLOCK + from[l],
                       w->values + j * BLOCK + from[l] * cols, w->out + (i + l) * s->width + j,
                       s->width, true);
}

/* out / sum; adding 0 makes the zero of either sign the same one. */
static void write_out(const struct shape *s, const struct task *t, int g, struct scratch *w)
{
    const struct attention_args *a = s->a;
    const int64_t e = a->head_dim;
    const size_t n_bytes = dtype_bytes(a->out->dtype);

    for (int64_t line = 0; line < t->n_rows * s->n_group; line++) {
        float *sum = w->soft[line].sum, *out = w->out + line * s->width;
        int64_t row = t->first_row + line / s->n_group;
        int64_t head = (int64_t)g * s->n_group + line % s->n_group;

        for (int half = SOFTMAX_LANES / 2; half; half /= 2)
            for (int j = 0; j < half; j++)
                sum[j] += sum[j + half];
        for (int64_t c = 0; c < e; c++)
            out[c] = out[c] / sum[0] + 0.0f;
        dtype_from_f32(a->out->dtype, out,
                       (char *)a->out->data + (size_t)((row * a->n_heads + head) * e) * n_bytes, e);
    }
}

static void attend(const struct shape *s, const struct task *t, int g, struct scratch *w)
{
    const struct attention_args *a = s->a;
    int64_t lines = t->n_rows * s->n_group;
    int64_t low = a->position[t->first_row], last = low + t->n_rows - 1;
    int64_t slot = (int64_t)a->slot[t->first_row] * a->capacity;

    assert(low >= 0 && last < a->capacity);
    low = a->window > 0 && low - a->window + 1 > 0 ? low - a->window + 1 : 0;
    load_queries(s, t, g, w);
    memset(w->out, 0, (size_t)(lines * s->width) * sizeof *w->out);
    for (int64_t line = 0; line < lines; line++)
        w->soft[line] = (struct softmax_row){ .max = -INFINITY };
    for (int64_t first = low / BLOCK * BLOCK; first <= last; first += BLOCK) {
        int64_t n = last - first + 1 < BLOCK ? last - first + 1 : BLOCK;

        load_keys(s, slot + first, n, g, w);
        bool finite = load_values(s, slot + first, n, g, w);
        for (int64_t i = 0; i < lines; i += s->k->tile_rows) {
            int m = (int)(lines - i < s->k->tile_rows ? lines - i : s->k->tile_rows);
            add_block(s, t, i, m, first, finite, w);
        }
    }
    write_out(s, t, g, w);
}

int cpu_attention(struct backend *b, const struct attention_args *a, struct err *e)
{
    struct shape s = { .k = cpu_kernels_of(b), .a = a, .n_group = a->n_heads / a->n_kv_heads };
    struct task *tasks;
    float *scratch;

    assert(a->n_heads % a->n_kv_heads == 0);
    s.rows_max = LINES_AT_ONCE / s.n_group > 1 ? LINES_AT_ONCE / s.n_group : 1;
    s.lines_max = s.rows_max * s.n_group;
    s.width = (a->head_dim + s.k->tile_cols - 1) / s.k->tile_cols * s.k->tile_cols;
    s.scale = (float)(1.0 / sqrt((double)a->head_dim));

    int n_threads = omp_get_max_threads();
    size_t thread_floats = carve(&s, NULL, &(struct scratch){ 0 });
    scratch = cpu_scratch(thread_floats * (size_t)n_threads * sizeof *scratch, e);
    tasks = scratch ? cpu_scratch((size_t)a->n_rows * sizeof *tasks, e) : NULL;
    if (!tasks) {
        free(scratch);
        return err_in(e, "attention");
    }
    int64_t n_tasks = cut_tasks(&s, tasks) * a->n_kv_heads;
#pragma omp parallel num_threads(n_threads) if (a->n_rows * a->max_position > 128)
    {
        struct scratch w;

        carve(&s, scratch + thread_floats * (size_t)omp_get_thread_num(), &w);
        /* The last rows of a sequence see the most positions: they go first. */
#pragma omp for schedule(dynamic)
        for (int64_t i = n_tasks - 1; i >= 0; i--)
            attend(&s, &tasks[i / a->n_kv_heads], (int)(i % a->n_kv_heads), &w);
    }
    free(tasks);
    free(scratch);
    return 0;
}
