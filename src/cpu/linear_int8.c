/* linear_int8.c - y = x W^T + bias by LLM.int8 (Dettmers et al., 2022), with the arithmetic and the
 * rounding points of bitsandbytes on CUDA.
 *
 *   a        = x rounded to fp16
 *   outliers   columns with |a| >= threshold in any row of the segment
 *   stat_r   = largest |a| below threshold in row r
 *   q        = round(a * fl(127 fl(1 / stat_r))), 0 for outliers
 *   y        = fp16(fma(fl(fl(float(q . w) stat_r) SCB_n), fl(1/127^2), bias)): the bias inside
 *              for an fp16 model, else added to the fp16 value with another rounding
 *   y        = T(T(y) + sum over outlier columns of x V), V = T(fl(fl(w SCB_n) fl(1/127))): a
 *              chain of fused multiply-adds over the columns in order
 *
 * Integer sums are exact, so a row depends on nothing but its segment: the rows of one
 * document's call, never the rest of the batch.  A row that holds a NaN gives NaN.  */
#include "cpu/cpu.h"

#include <assert.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>

#define K_BLOCK       512            /* codes of W in 16 bits at a time */
#define LD            (K_BLOCK + 32) /* of their rows: not all in one cache set */
#define N_BLOCK       32             /* outputs a task; every tile_cols divides it */
#define ROWS_AT_ONCE  256
#define OUTLIER_BLOCK 256       /* columns */
#define SMALL_WORK    (1 << 17) /* multiply-adds that are not worth waking threads for */

static const float per_127 = 0x1.020408p-7f, per_127_squared = 0x1.040c2p-14f;

/* Rows of one segment. */
struct piece {
    int64_t first_row, n_rows;
    uint8_t *outlier; /* [K] */
    int32_t *columns; /* the outliers, in order */
    int64_t n_outliers;
};

struct int8_product {
    const struct cpu_kernels *k;
    const struct linear_args *a;
    float threshold; /* infinity: no decomposition */
    int64_t n_pairs; /* of columns; the last one of an odd K is half empty */
    int64_t n_pieces;
    struct piece *pieces;
    float *stat; /* of every row */
    /* Of ROWS_AT_ONCE rows: */
    int64_t first_row, n_rows;
    int16_t *codes; /* panels of m <= tile_rows rows: [n_pairs][m][2] */
};

struct int8_scratch {
    int16_t plain[N_BLOCK * LD];       /* codes row by row, of W or of a panel of x */
    int16_t panels[N_BLOCK * K_BLOCK]; /* as tile16() wants them */
    int32_t sums[ROWS_AT_ONCE * N_BLOCK];
    float y[ROWS_AT_ONCE * N_BLOCK];
    float added[ROWS_AT_ONCE * N_BLOCK];
    float values[N_BLOCK * OUTLIER_BLOCK];       /* V, row by row */
    float value_panels[N_BLOCK * OUTLIER_BLOCK]; /* V as tile() wants it */
    float x[TILE_ROWS_MAX * OUTLIER_BLOCK];
};

/* x of a row, rounded to fp16. */
static void load_row(const struct int8_product *p, int64_t row, float *out)
{
    const struct tensor *x = p->a->x;
    size_t at = (size_t)(row * x->n_cols) * dtype_bytes(x->dtype);

    dtype_to_f32(x->dtype, (const char *)x->data + at, out, x->n_cols);
    if (x->dtype != DTYPE_F16)
        dtype_round(DTYPE_F16, out, x->n_cols);
}

static struct piece *piece_of(const struct int8_product *p, int64_t row)
{
    int64_t low = 0, high = p->n_pieces - 1;

    while (low < high) {
        int64_t middle = (low + high + 1) / 2;
        if (p->pieces[middle].first_row <= row)
            low = middle;
        else
            high = middle - 1;
    }
    return &p->pieces[low];
}

static void list_outliers(const struct int8_product *p, struct piece *piece)
{
    for (int64_t col = 0; col < p->a->w->n_in; col++)
        if (piece->outlier[col])
            piece->columns[piece->n_outliers++] = (int32_t)col;
}

/* Codes of one panel of these rows. */
static void quantize_rows(const struct int8_product *p, int64_t first, float *values,
                          struct int8_scratch *s)
{
    const int64_t rows = p->k->tile_rows, n_in = p->a->w->n_in;
    const int64_t m = p->n_rows - first < rows ? p->n_rows - first : rows;
    int16_t *to = p->codes + first * 2 * p->n_pairs;

    for (int64_t i = 0; i < m; i++)
        load_row(p, p->first_row + first + i, values + i * n_in);
    for (int64_t col = 0; col < n_in; col += K_BLOCK) {
        int64_t n = n_in - col < K_BLOCK ? n_in - col : K_BLOCK, n_pairs = (n + 1) / 2;

        for (int64_t i = 0; i < m; i++) {
            int64_t row = p->first_row + first + i;
            int16_t *codes = s->plain + i * LD;

            codes[2 * n_pairs - 1] = 0;
            if (p->stat[row] > 0)
                p->k->int8_codes(values + i * n_in + col, n, p->threshold,
                                 127.0f * (1.0f / p->stat[row]), piece_of(p, row)->outlier + col,
                                 codes);
            else
                memset(codes, 0, (size_t)n * sizeof *codes);
        }
        p->k->transpose(s->plain, LD / 2, m, n_pairs, to + col * m, m);
    }
}

/* sums [rows, N_BLOCK] = codes of x times codes of W; outputs past n_out are zeros. */
static void multiply_codes(const struct int8_product *p, int64_t first_out, int64_t n_out,
                           struct int8_scratch *s)
{
    const struct weight *w = p->a->w;
    const int rows = p->k->tile_rows, cols = p->k->tile_cols;

    for (int64_t col = 0; col < w->n_in; col += K_BLOCK) {
        int64_t n = w->n_in - col < K_BLOCK ? w->n_in - col : K_BLOCK, n_pairs = (n + 1) / 2;

        for (int64_t j = 0; j < n_out; j++) {
            const int8_t *row = (const int8_t *)w->codes + (first_out + j) * w->row_bytes + col;
            s->plain[j * LD + 2 * n_pairs - 1] = 0;
            p->k->widen8(row, s->plain + j * LD, n);
        }
        for (int64_t j = 0; j < n_out; j += cols)
            p->k->transpose(s->plain + j * LD, LD / 2, n_out - j < cols ? n_out - j : cols, n_pairs,
                            s->panels + j * K_BLOCK, cols);
        for (int64_t i = 0; i < p->n_rows; i += rows) {
            int m = (int)(p->n_rows - i < rows ? p->n_rows - i : rows);

            for (int64_t j = 0; j < n_out; j += cols)
                p->k->tile16(m, n_pairs, p->codes + i * 2 * p->n_pairs + col * m,
                             s->panels + j * K_BLOCK, s->sums + i * N_BLOCK + j, N_BLOCK, col > 0);
        }
    }
}

/* y = T(fp16(sums * stat * SCB / 127^2 [+ bias])) */
static void scale_sums(const struct int8_product *p, int64_t first_out, int64_t n_out,
                       struct int8_scratch *s)
{
    const struct linear_args *a = p->a;
    const float *scb = (const float *)a->w->scales + first_out;
    const enum dtype t = a->x->dtype;
    float bias[N_BLOCK];

    if (a->bias)
        dtype_to_f32(a->bias->dtype,
                     (const char *)a->bias->data + (size_t)first_out * dtype_bytes(a->bias->dtype),
                     bias, n_out);
    for (int64_t i = 0; i < p->n_rows; i++) {
        const int32_t *sums = s->sums + i * N_BLOCK;
        float *y = s->y + i * N_BLOCK;

        p->k->int8_scale(sums, n_out, p->stat[p->first_row + i], scb, per_127_squared,
                         a->bias && t == DTYPE_F16 ? bias : NULL, y);
        dtype_round(DTYPE_F16, y, n_out);
        if (a->bias && t != DTYPE_F16) {
            for (int64_t j = 0; j < n_out; j++)
                y[j] += bias[j];
            dtype_round(DTYPE_F16, y, n_out);
        }
        if (t != DTYPE_F16)
            dtype_round(t, y, n_out);
    }
}

/* V of n columns for the outputs of a task, as panels of tile_cols. */
static void load_outlier_weights(const struct int8_product *p, int64_t first_out, int64_t n_out,
                                 const int32_t *columns, int64_t n, struct int8_scratch *s)
{
    const struct weight *w = p->a->w;
    const int cols = p->k->tile_cols;

    for (int64_t j = 0; j < n_out; j++) {
        const int8_t *row = (const int8_t *)w->codes + (first_out + j) * w->row_bytes;
        float scb = ((const float *)w->scales)[first_out + j], *v = s->values + j * OUTLIER_BLOCK;

        for (int64_t c = 0; c < n; c++)
            v[c] = ((float)row[columns[c]] * scb) * per_127;
        dtype_round(p->a->x->dtype, v, n);
    }
    for (int64_t j = 0; j < n_out; j += cols)
        p->k->transpose(s->values + j * OUTLIER_BLOCK, OUTLIER_BLOCK,
                        n_out - j < cols ? n_out - j : cols, n, s->value_panels + j * OUTLIER_BLOCK,
                        cols);
}

static void load_outlier_inputs(const struct int8_product *p, int64_t row, int m,
                                const int32_t *columns, int64_t n, float *out)
{
    const struct tensor *x = p->a->x;
    size_t n_bytes = dtype_bytes(x->dtype);

    for (int64_t c = 0; c < n; c++)
        for (int i = 0; i < m; i++) {
            size_t at = (size_t)((row + i) * x->n_cols + columns[c]) * n_bytes;
            dtype_to_f32(x->dtype, (const char *)x->data + at, &out[c * m + i], 1);
        }
}

/* y = T(y + sum of outlier columns) for rows first .. last-1 (of these rows), all of one piece. */
static void add_outliers(const struct int8_product *p, const struct piece *piece, int64_t first,
                         int64_t last, int64_t first_out, int64_t n_out, struct int8_scratch *s)
{
    const int rows = p->k->tile_rows, cols = p->k->tile_cols;

    for (int64_t at = 0; at < piece->n_outliers; at += OUTLIER_BLOCK) {
        const int32_t *columns = piece->columns + at;
        int64_t left = piece->n_outliers - at, n = left < OUTLIER_BLOCK ? left : OUTLIER_BLOCK;

        load_outlier_weights(p, first_out, n_out, columns, n, s);
        for (int64_t i = first; i < last; i += rows) {
            int m = (int)(last - i < rows ? last - i : rows);

            load_outlier_inputs(p, p->first_row + i, m, columns, n, s->x);
            for (int64_t j = 0; j < n_out; j += cols)
                p->k->tile(m, n, s->x, s->value_panels + j * OUTLIER_BLOCK,
                           s->added + i * N_BLOCK + j, N_BLOCK, at > 0);
        }
    }
    for (int64_t i = first; i < last && piece->n_outliers; i++) {
        float *y = s->y + i * N_BLOCK;

        for (int64_t j = 0; j < n_out; j++)
            y[j] += s->added[i * N_BLOCK + j];
        dtype_round(p->a->x->dtype, y, n_out);
    }
}

static void multiply(const struct int8_product *p, int64_t first_out, struct int8_scratch *s)
{
    const struct tensor *y = p->a->y;
    int64_t left = p->a->w->n_out - first_out, n_out = left < N_BLOCK ? left : N_BLOCK;
    size_t n_bytes = dtype_bytes(y->dtype);

    multiply_codes(p, first_out, n_out, s);
    scale_sums(p, first_out, n_out, s);
    for (int64_t i = 0, last; i < p->n_rows; i = last) {
        const struct piece *piece = piece_of(p, p->first_row + i);

        last = piece->first_row + piece->n_rows - p->first_row;
        last = last < p->n_rows ? last : p->n_rows;
        add_outliers(p, piece, i, last, first_out, n_out, s);
    }
    for (int64_t i = 0; i < p->n_rows; i++) {
        size_t at = (size_t)((p->first_row + i) * p->a->w->n_out + first_out);
        dtype_from_f32(y->dtype, s->y + i * N_BLOCK, (char *)y->data + at * n_bytes, n_out);
    }
}

/* Statistics of every row, outliers of every piece. */
static void look_at_rows(struct int8_product *p, float *values, int n_threads)
{
    const int64_t n_in = p->a->w->n_in;

#pragma omp parallel num_threads(n_threads) if (n_threads > 1)
    {
        float *row_values = values + omp_get_thread_num() * p->k->tile_rows * n_in;

#pragma omp for schedule(static)
        for (int64_t row = 0; row < p->a->n_rows; row++) {
            load_row(p, row, row_values);
            p->stat[row] =
                p->k->int8_scan(row_values, n_in, p->threshold, piece_of(p, row)->outlier);
        }
#pragma omp for schedule(static)
        for (int64_t i = 0; i < p->n_pieces; i++)
            list_outliers(p, &p->pieces[i]);
    }
}

static void multiply_rows(struct int8_product *p, float *values, struct int8_scratch *scratch,
                          int n_threads)
{
#pragma omp parallel num_threads(n_threads) if (n_threads > 1)
    {
        int me = omp_get_thread_num();

#pragma omp for schedule(static)
        for (int64_t i = 0; i < p->n_rows; i += p->k->tile_rows)
            quantize_rows(p, i, values + me * p->k->tile_rows * p->a->w->n_in, &scratch[me]);
#pragma omp for schedule(dynamic)
        for (int64_t first_out = 0; first_out < p->a->w->n_out; first_out += N_BLOCK)
            multiply(p, first_out, &scratch[me]);
    }
}

static void cut_pieces(const struct linear_args *a, struct piece *out, uint8_t *outlier,
                       int32_t *columns)
{
    const int64_t n_in = a->w->n_in;
    const int64_t n = a->segments.n ? a->segments.n : 1;

    memset(outlier, 0, (size_t)(n * n_in));
    for (int64_t i = 0; i < n; i++) {
        int64_t first = a->segments.n ? a->segments.first_row[i] : 0;
        int64_t last = a->segments.n ? a->segments.first_row[i + 1] : a->n_rows;

        out[i] = (struct piece){ .first_row = first,
                                 .n_rows = last - first,
                                 .outlier = outlier + i * n_in,
                                 .columns = columns + i * n_in };
    }
}

static size_t round_up(size_t n_bytes)
{
    return (n_bytes + 63) / 64 * 64;
}

int cpu_linear_int8(struct backend *b, const struct linear_args *a, struct err *e)
{
    struct int8_product p = { .k = cpu_kernels_of(b), .a = a };
    const int64_t n_in = a->w->n_in;
    const int n_threads = a->n_rows * a->w->n_out * n_in < SMALL_WORK ? 1 : omp_get_max_threads();
    const int64_t rows = a->n_rows < ROWS_AT_ONCE ? a->n_rows : ROWS_AT_ONCE;

    assert(a->w->scale_form == SCALE_F32 && a->w->n_groups == a->w->n_out);
    assert(n_in <= INT32_MAX / (127 * 127)); /* or the integer sums could overflow */
    p.threshold = a->w->outlier_threshold > 0 ? a->w->outlier_threshold : INFINITY;
    p.n_pairs = (n_in + 1) / 2;
    p.n_pieces = a->segments.n ? a->segments.n : 1;

    size_t pieces_bytes = round_up((size_t)p.n_pieces * sizeof(struct piece));
    size_t columns_bytes = round_up((size_t)(p.n_pieces * n_in) * sizeof(int32_t));
    size_t outlier_bytes = round_up((size_t)(p.n_pieces * n_in));
    size_t stat_bytes = round_up((size_t)a->n_rows * sizeof(float));
    size_t codes_bytes = round_up((size_t)(rows * 2 * p.n_pairs) * sizeof(int16_t));
    size_t values_bytes = round_up((size_t)(n_threads * p.k->tile_rows * n_in) * sizeof(float));
    char *room =
        cpu_scratch(pieces_bytes + columns_bytes + outlier_bytes + stat_bytes + codes_bytes +
                        values_bytes + (size_t)n_threads * sizeof(struct int8_scratch),
                    e);
    if (!room)
        return err_in(e, "an int8 product of %lld x %lld x %lld", (long long)a->n_rows,
                      (long long)a->w->n_out, (long long)n_in);
    p.pieces = (struct piece *)room;
    int32_t *columns = (int32_t *)(room + pieces_bytes);
    uint8_t *outlier = (uint8_t *)columns + columns_bytes;
    p.stat = (float *)(outlier + outlier_bytes);
    p.codes = (int16_t *)((char *)p.stat + stat_bytes);
    float *values = (float *)((char *)p.codes + codes_bytes);
    struct int8_scratch *scratch = (struct int8_scratch *)((char *)values + values_bytes);

    cut_pieces(a, p.pieces, outlier, columns);
    look_at_rows(&p, values, n_threads);
    for (p.first_row = 0; p.first_row < a->n_rows; p.first_row += ROWS_AT_ONCE) {
        int64_t left = a->n_rows - p.first_row;
        p.n_rows = left < ROWS_AT_ONCE ? left : ROWS_AT_ONCE;
        multiply_rows(&p, values, scratch, n_threads);
    }
    free(room);
    return 0;
}
