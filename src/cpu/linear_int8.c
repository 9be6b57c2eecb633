/* linear_int8.c - y = x W^T + bias by LLM.int8 (Dettmers et al., 2022), with the arithmetic and the
 * rounding points of bitsandbytes on CUDA (quantizers.md 4.2, 4.3).
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

#define K_BLOCK       2048 /* codes of W in 16 bits at a time */
#define N_BLOCK       32   /* outputs a task; every tile_cols divides it */
#define ROWS_AT_ONCE  256
#define OUTLIER_BLOCK 256 /* columns */

static const float per_127 = 0x1.020408p-7f, per_127_squared = 0x1.040c2p-14f;

/* Rows of one segment. */
struct piece {
    int64_t first_row, n_rows;
    const uint8_t *outlier; /* [K] */
};

struct int8_product {
    const struct cpu_kernels *k;
    const struct linear_args *a;
    float threshold; /* infinity: no decomposition */
    int64_t padded;  /* K rounded up for dot16 */
    int64_t n_pieces;
    struct piece *pieces;
    /* Of ROWS_AT_ONCE rows: */
    int64_t first_row, n_rows;
    int16_t *codes; /* [rows, padded] */
    float *stat;    /* [rows] */
};

struct int8_scratch {
    int16_t codes[N_BLOCK * K_BLOCK];
    int32_t sums[ROWS_AT_ONCE * N_BLOCK];
    float y[ROWS_AT_ONCE * N_BLOCK];
    float plain[N_BLOCK * OUTLIER_BLOCK];  /* V, row by row */
    float panels[N_BLOCK * OUTLIER_BLOCK]; /* V as tile() wants it */
    float x[TILE_ROWS_MAX * OUTLIER_BLOCK];
    float added[ROWS_AT_ONCE * N_BLOCK];
    int32_t columns[OUTLIER_BLOCK];
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

static void find_outliers(const struct int8_product *p, struct piece *piece, uint8_t *outlier,
                          float *values)
{
    memset(outlier, 0, (size_t)p->a->x->n_cols);
    for (int64_t i = 0; i < piece->n_rows && p->threshold < INFINITY; i++) {
        load_row(p, piece->first_row + i, values);
        p->k->int8_scan(values, p->a->x->n_cols, p->threshold, outlier);
    }
    piece->outlier = outlier;
}

static const struct piece *piece_of(const struct int8_product *p, int64_t row)
{
    int64_t i = 0;

    while (row >= p->pieces[i].first_row + p->pieces[i].n_rows)
        i++;
    return &p->pieces[i];
}

static void quantize_row(const struct int8_product *p, int64_t i, float *values, uint8_t *unused)
{
    int64_t n = p->a->x->n_cols;
    int16_t *codes = p->codes + i * p->padded;

    load_row(p, p->first_row + i, values);
    p->stat[i] = p->k->int8_scan(values, n, p->threshold, unused);
    memset(codes, 0, (size_t)p->padded * sizeof *codes);
    if (p->stat[i] > 0)
        p->k->int8_codes(values, n, p->threshold, 127.0f * (1.0f / p->stat[i]),
                         piece_of(p, p->first_row + i)->outlier, codes);
}

/* sums [rows, N_BLOCK] = codes of x times codes of W; outputs past n_out are zeros. */
static void multiply_codes(const struct int8_product *p, int64_t first_out, int64_t n_out,
                           struct int8_scratch *s)
{
    const struct weight *w = p->a->w;

    memset(s->sums, 0, (size_t)p->n_rows * N_BLOCK * sizeof *s->sums);
    for (int64_t col = 0; col < w->n_in; col += K_BLOCK) {
        int64_t n = w->n_in - col < K_BLOCK ? w->n_in - col : K_BLOCK, whole = (n + 31) / 32 * 32;

        for (int64_t j = 0; j < (n_out + 3) / 4 * 4; j++) {
            const int8_t *row = (const int8_t *)w->codes + (first_out + j) * w->row_bytes + col;
            int64_t there = j < n_out ? n : 0;

            if (there)
                p->k->widen8(row, s->codes + j * K_BLOCK, n);
            memset(s->codes + j * K_BLOCK + there, 0, (size_t)(whole - there) * sizeof *s->codes);
        }
        for (int64_t i = 0; i < p->n_rows; i += 4)
            for (int64_t j = 0; j < n_out; j += 4)
                p->k->dot16(whole, (int)(p->n_rows - i < 4 ? p->n_rows - i : 4),
                            p->codes + i * p->padded + col, p->padded, s->codes + j * K_BLOCK,
                            K_BLOCK, s->sums + i * N_BLOCK + j, N_BLOCK);
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

        for (int64_t j = 0; j < n_out; j++) {
            float v = ((float)sums[j] * p->stat[i]) * scb[j];
            y[j] =
                a->bias && t == DTYPE_F16 ? fmaf(v, per_127_squared, bias[j]) : v * per_127_squared;
        }
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
                                 int64_t n, struct int8_scratch *s)
{
    const struct weight *w = p->a->w;
    const int cols = p->k->tile_cols;

    for (int64_t j = 0; j < n_out; j++) {
        const int8_t *row = (const int8_t *)w->codes + (first_out + j) * w->row_bytes;
        float scb = ((const float *)w->scales)[first_out + j], *v = s->plain + j * OUTLIER_BLOCK;

        for (int64_t c = 0; c < n; c++)
            v[c] = ((float)row[s->columns[c]] * scb) * per_127;
        dtype_round(p->a->x->dtype, v, n);
    }
    for (int64_t j = 0; j < N_BLOCK; j += cols)
        p->k->transpose(s->plain + j * OUTLIER_BLOCK, OUTLIER_BLOCK,
                        n_out - j < 0      ? 0
                        : n_out - j < cols ? n_out - j
                                           : cols,
                        n, s->panels + j * OUTLIER_BLOCK, cols);
}

static void load_outlier_inputs(const struct int8_product *p, int64_t row, int m, int64_t n,
                                struct int8_scratch *s)
{
    const struct tensor *x = p->a->x;
    size_t n_bytes = dtype_bytes(x->dtype);

    for (int64_t c = 0; c < n; c++)
        for (int i = 0; i < m; i++) {
            size_t at = (size_t)((row + i) * x->n_cols + s->columns[c]) * n_bytes;
            dtype_to_f32(x->dtype, (const char *)x->data + at, &s->x[c * m + i], 1);
        }
}

/* y = T(y + sum of outlier columns) for rows first .. last-1 (of these rows), all of one piece. */
static void add_outliers(const struct int8_product *p, const struct piece *piece, int64_t first,
                         int64_t last, int64_t first_out, int64_t n_out, struct int8_scratch *s)
{
    const int rows = p->k->tile_rows, cols = p->k->tile_cols;
    bool any = false;

    for (int64_t at = 0; at < p->a->w->n_in;) {
        int64_t n = 0;

        for (; at < p->a->w->n_in && n < OUTLIER_BLOCK; at++)
            if (piece->outlier[at])
                s->columns[n++] = (int32_t)at;
        if (!n)
            break;
        load_outlier_weights(p, first_out, n_out, n, s);
        for (int64_t i = first; i < last; i += rows) {
            int m = (int)(last - i < rows ? last - i : rows);

            load_outlier_inputs(p, p->first_row + i, m, n, s);
            for (int64_t j = 0; j < N_BLOCK; j += cols)
                p->k->tile(m, n, s->x, s->panels + j * OUTLIER_BLOCK, s->added + i * N_BLOCK + j,
                           N_BLOCK, any);
        }
        any = true;
    }
    for (int64_t i = first; i < last && any; i++) {
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

static void multiply_rows(struct int8_product *p, float *values, uint8_t *unused,
                          struct int8_scratch *scratch, int n_threads)
{
    int64_t n_in = p->a->w->n_in;

#pragma omp parallel num_threads(n_threads)
    {
        int me = omp_get_thread_num();

#pragma omp for schedule(static)
        for (int64_t i = 0; i < p->n_rows; i++)
            quantize_row(p, i, values + me * n_in, unused + me * n_in);
#pragma omp for schedule(dynamic)
        for (int64_t first_out = 0; first_out < p->a->w->n_out; first_out += N_BLOCK)
            multiply(p, first_out, &scratch[me]);
    }
}

static void cut_pieces(const struct linear_args *a, struct piece *out)
{
    for (int64_t i = 0; i < a->segments.n; i++)
        out[i] = (struct piece){
            .first_row = a->segments.first_row[i],
            .n_rows = a->segments.first_row[i + 1] - a->segments.first_row[i],
        };
    if (!a->segments.n)
        out[0] = (struct piece){ .first_row = 0, .n_rows = a->n_rows };
}

int cpu_linear_int8(struct backend *b, const struct linear_args *a, struct err *e)
{
    struct int8_product p = { .k = cpu_kernels_of(b), .a = a };
    const int64_t n_in = a->w->n_in;
    const int n_threads = omp_get_max_threads();
    const int64_t rows = a->n_rows < ROWS_AT_ONCE ? a->n_rows : ROWS_AT_ONCE;
    int rc = -1;

    assert(a->w->scale_form == SCALE_F32 && a->w->n_groups == a->w->n_out);
    assert(n_in <= INT32_MAX / (127 * 127)); /* or the integer sums could overflow */
    p.threshold = a->w->outlier_threshold > 0 ? a->w->outlier_threshold : INFINITY;
    p.padded = (n_in + 31) / 32 * 32;
    p.n_pieces = a->segments.n ? a->segments.n : 1;

    size_t pieces_bytes = (size_t)p.n_pieces * (sizeof(struct piece) + (size_t)n_in);
    size_t values_bytes = (size_t)(n_threads * n_in) * (sizeof(float) + 1);
    size_t codes_bytes = (size_t)rows * ((size_t)p.padded * sizeof(int16_t) + sizeof(float));
    p.pieces = cpu_scratch(pieces_bytes, e);
    float *values = p.pieces ? cpu_scratch(values_bytes, e) : NULL;
    p.codes = values ? cpu_scratch(codes_bytes, e) : NULL;
    struct int8_scratch *scratch =
        p.codes ? cpu_scratch((size_t)n_threads * sizeof *scratch, e) : NULL;
    if (!scratch) {
        err_in(e, "an int8 product of %lld x %lld x %lld", (long long)a->n_rows,
               (long long)a->w->n_out, (long long)n_in);
        goto out;
    }
    uint8_t *outlier = (uint8_t *)(p.pieces + p.n_pieces);
    p.stat = (float *)(p.codes + rows * p.padded);

    cut_pieces(a, p.pieces);
#pragma omp parallel for schedule(dynamic) num_threads(n_threads)
    for (int64_t i = 0; i < p.n_pieces; i++)
        find_outliers(&p, &p.pieces[i], outlier + i * n_in, values + omp_get_thread_num() * n_in);
    for (p.first_row = 0; p.first_row < a->n_rows; p.first_row += ROWS_AT_ONCE) {
        int64_t left = a->n_rows - p.first_row;
        p.n_rows = left < ROWS_AT_ONCE ? left : ROWS_AT_ONCE;
        multiply_rows(&p, values, (uint8_t *)(values + n_threads * n_in), scratch, n_threads);
    }
    rc = 0;
out:
    free(scratch);
    free(p.codes);
    free(values);
    free(p.pieces);
    return rc;
}
