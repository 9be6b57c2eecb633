/* gptq_columns.c - GPTQ's solver (Frantar, Ashkboos, Hoefler, Alistarh 2022), as their code and
 * its descendants compute it.
 *
 *   1. one group a row: its grid from the row as it stands
 *   2. dead columns (H_ii = 0): H_ii = 1, weights 0
 *   3. static groups: their grids now
 *   4. the order of columns; H and W permuted
 *   5. H_ii += damp * mean(diagonal);  U upper triangular with U^T U = H^-1
 *   6. blocks of 128 columns; column c: code of w, e = (w - q) / U_cc, the columns of the block
 *      to the right -= e U_c; after the block all columns to the right of it
 *      A group's grid comes, when its first column is reached, from weights that hold the
 *      feedback of earlier blocks alone.
 *   7. codes back to their own columns
 *
 * U comes from one factorisation: with J the reversal, J H J = M M^T gives U = J M^-1 J.  H, M and
 * U are fp64, the loop is fp32 on U rounded once.  Rows of W do not depend on one another, so any
 * number of threads gives the same bits.  */
#include "backend/codebook.h"
#include "backend/gptq_order.h"
#include "backend/quantized.h"
#include "base/memory.h"
#include "cpu/cholesky.h"
#include "cpu/cpu.h"
#include "cpu/quantize.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define BLOCK        128 /* columns; part of the definition */
#define ROWS_AT_ONCE 8   /* rows that share a pass over U */
#define TILE         64  /* columns right of a block at a time */

struct solver {
    const struct gptq_args *a;
    int64_t n, per_row; /* columns, groups a row */
    bool one_group;     /* a row */
    double *h;          /* [n, n]: factor * h, dead columns mended */
    double *diagonal;   /* [n] */
    bool *dead;         /* [n] */
    int32_t *perm;      /* [n]: the column at each place */
    int32_t *group;     /* [n]: the group whose grid it takes */
    double *work;       /* [n, n] */
    float *u;           /* [n, n] */
    struct codebook book;
    struct weight *out;
    float *scales;            /* [n_out * per_row] */
    double *losses;           /* [n_out] */
    double *errors, *squares; /* [n_out]: tr of (W - Q) H (W - Q)^T and W H W^T by rows */
};

/* Weights of a few rows while they are settled. */
struct rows {
    float *w;           /* [n]: in the order of settling */
    float *plain;       /* [n]: as given, dead columns included */
    uint8_t *codes;     /* [n] in their own columns */
    float *values;      /* [n] what the codes stand for, in their own columns */
    struct grid *grids; /* [per_row]; zero unused by tables */
    float block[BLOCK], errors[BLOCK];
};

/* ---- H and U ---- */

static int read_h(struct solver *s, struct err *e)
{
    const float *from = s->a->h->data;
    float *diagonal = mem_array((size_t)s->n, sizeof *diagonal);

    for (int64_t i = 0; i < s->n; i++)
        diagonal[i] = from[i * s->n + i];
    int rc = gptq_read_diagonal(s->a, diagonal, s->diagonal, s->dead, e);
    free(diagonal);
    for (int64_t i = 0; rc == 0 && i < s->n * s->n; i++)
        s->h[i] = s->a->factor * (double)from[i];
    return rc;
}

/* J H J in the order of settling, damped, into work. */
static void arrange_h(struct solver *s, double added)
{
    int64_t n = s->n;

#pragma omp parallel for schedule(static)
    for (int64_t i = 0; i < n; i++) {
        int32_t row = s->perm[n - 1 - i];

        for (int64_t j = 0; j < i; j++)
            s->work[i * n + j] = s->h[row * n + s->perm[n - 1 - j]];
        s->work[i * n + i] = s->diagonal[row] + added;
    }
}

static int factor_h(void *context, double added, struct err *e)
{
    struct solver *s = context;

    (void)e;
    arrange_h(s, added);
    return cholesky(s->work, s->n, GPTQ_LEAST_PIVOT);
}

static int make_u(struct solver *s, struct err *e)
{
    int64_t n = s->n;

    if (gptq_factor(s->a, s->diagonal, factor_h, s, e) < 0)
        return -1;
    double *column = s->h; /* has been used up */
    triangle_inverse(s->work, n, column);
#pragma omp parallel for schedule(static)
    for (int64_t r = 0; r < n; r++)
        for (int64_t c = 0; c < n; c++)
            s->u[r * n + c] = (float)(c < r ? 0.0 : column[(n - 1 - c) * n + n - 1 - r]);
    return 0;
}

/* ---- codes ---- */

static struct grid group_grid(const struct solver *s, const float *x, int64_t n)
{
    struct grid g;

    if (s->a->table == TABLE_NONE) {
        g = grid_of_weights(s->a->bits, s->a->sym, s->a->mse, x, n);
    } else {
        float least, greatest;

        quantize_range(x, n, &least, &greatest);
        g = (struct grid){ .scale = fmaxf(-least, greatest) };
    }
    g.scale = grid_stored_scale(g.scale, s->out);
    if (!(g.scale > 0.0f)) /* a table's group of zeros, or below fp16's numbers */
        g.scale = s->out->scale_form == SCALE_F16 ? 0x1p-24f : 1.0f;
    return g;
}

static uint8_t code_of(const struct solver *s, struct grid g, float x, float *value)
{
    float y = x / g.scale;

    if (s->a->table == TABLE_NONE) {
        float most = (float)((1 << s->a->bits) - 1), q = rintf(y) + (float)g.zero;

        q = q < 0.0f ? 0.0f : q > most ? most : q;
        *value = g.scale * (q - (float)g.zero);
        return (uint8_t)q;
    }
    int at = 0;
    for (int t = 0; t + 1 < s->book.n; t++)
        at += y > s->book.threshold[t];
    *value = s->out->table[s->book.code[at]] * g.scale;
    return s->book.code[at];
}

/* ---- the loop ---- */

static void start_row(const struct solver *s, int64_t row, struct rows *r)
{
    quantize_widen_row(s->a->w, row, r->plain);
    if (dtype_is_16bit(s->a->source))
        dtype_round(s->a->source, r->plain, s->n);
    if (s->one_group)
        r->grids[0] = group_grid(s, r->plain, s->n);
    memcpy(r->w, r->plain, (size_t)s->n * sizeof *r->w);
    for (int64_t i = 0; i < s->n; i++)
        r->w[i] = s->dead[i] ? 0.0f : r->w[i];
    for (int64_t g = 0; s->a->static_groups && !s->one_group && g < s->per_row; g++)
        r->grids[g] = group_grid(s, r->w + g * s->a->group_size, s->a->group_size);
    /* `values` is free until the first code is there. */
    memcpy(r->values, r->w, (size_t)s->n * sizeof *r->w);
    for (int64_t i = 0; i < s->n; i++)
        r->w[i] = r->values[s->perm[i]];
}

/* Columns first .. end-1 of one row; its losses are added in order. */
static void settle_block(const struct solver *s, struct rows *r, int64_t first, int64_t end,
                         double *loss)
{
    int64_t n = end - first;

    memcpy(r->block, r->w + first, (size_t)n * sizeof *r->block);
    for (int64_t i = 0; i < n; i++) {
        int64_t c = first + i, group = s->group[c], own = s->perm[c];
        const float *u = s->u + c * s->n + first;
        float w = r->block[i], q;

        if (!s->one_group && !s->a->static_groups && c % s->a->group_size == 0)
            r->grids[group] = group_grid(s, r->w + c, s->a->group_size);
        r->codes[own] = code_of(s, r->grids[group], w, &q);
        r->values[own] = q;
        float e = (w - q) / u[i];
        *loss += 0.5 * (double)((w - q) * (w - q) / (u[i] * u[i]));
        r->errors[i] = e;
#pragma omp simd
        for (int64_t j = i; j < n; j++)
            r->block[j] -= e * u[j];
    }
}

/* What the block's errors do to the columns right of it. */
static void feed_back(const struct solver *s, struct rows *rows, int64_t n_rows, int64_t first,
                      int64_t end)
{
    for (int64_t at = end; at < s->n; at += TILE) {
        int64_t n = s->n - at < TILE ? s->n - at : TILE;
        float sum[ROWS_AT_ONCE][TILE] = { { 0 } };

        for (int64_t k = first; k < end; k++) {
            const float *u = s->u + k * s->n + at;

            for (int64_t r = 0; r < n_rows; r++) {
                float e = rows[r].errors[k - first];

#pragma omp simd
                for (int64_t j = 0; j < n; j++)
                    sum[r][j] += e * u[j];
            }
        }
        for (int64_t r = 0; r < n_rows; r++)
            for (int64_t j = 0; j < n; j++)
                rows[r].w[at + j] -= sum[r][j];
    }
}

/* d H d^T of one row, H = h as given; in double, in order. */
static double quadratic(const struct solver *s, const float *x, const float *y)
{
    const float *h = s->a->h->data;
    double total = 0.0;

    for (int64_t i = 0; i < s->n; i++) {
        double d = (double)x[i] - (y ? (double)y[i] : 0.0), sum = 0.0;

        if (d == 0.0)
            continue;
        for (int64_t j = 0; j < s->n; j++)
            sum += (double)h[i * s->n + j] * ((double)x[j] - (y ? (double)y[j] : 0.0));
        total += d * sum;
    }
    return total;
}

static void finish_row(const struct solver *s, int64_t row, const struct rows *r)
{
    struct weight *w = s->out;

    quantize_store_row(w, row, r->codes);
    for (int64_t g = 0; g < s->per_row; g++) {
        s->scales[row * s->per_row + g] = r->grids[g].scale;
        if (w->zero_form == ZERO_U8 && w->form == WEIGHT_AFFINE)
            ((uint8_t *)w->zeros)[row * s->per_row + g] = (uint8_t)r->grids[g].zero;
    }
    s->errors[row] = quadratic(s, r->plain, r->values);
    s->squares[row] = quadratic(s, r->plain, NULL);
}

static void settle(struct solver *s)
{
    int64_t n_out = s->out->n_out, n_batches = (n_out + ROWS_AT_ONCE - 1) / ROWS_AT_ONCE;

#pragma omp parallel
    {
        struct rows rows[ROWS_AT_ONCE];

        for (int i = 0; i < ROWS_AT_ONCE; i++)
            rows[i] = (struct rows){
                .w = mem_array((size_t)s->n, sizeof(float)),
                .plain = mem_array((size_t)s->n, sizeof(float)),
                .codes = mem_array((size_t)s->n, 1),
                .values = mem_array((size_t)s->n, sizeof(float)),
                .grids = mem_array((size_t)s->per_row, sizeof(struct grid)),
            };
#pragma omp for schedule(dynamic)
        for (int64_t batch = 0; batch < n_batches; batch++) {
            int64_t row = batch * ROWS_AT_ONCE;
            int64_t n = n_out - row < ROWS_AT_ONCE ? n_out - row : ROWS_AT_ONCE;

            for (int64_t r = 0; r < n; r++) {
                start_row(s, row + r, &rows[r]);
                s->losses[row + r] = 0.0;
            }
            for (int64_t c = 0; c < s->n; c += BLOCK) {
                int64_t end = c + BLOCK < s->n ? c + BLOCK : s->n;

                for (int64_t r = 0; r < n; r++)
                    settle_block(s, &rows[r], c, end, &s->losses[row + r]);
                feed_back(s, rows, n, c, end);
            }
            for (int64_t r = 0; r < n; r++)
                finish_row(s, row + r, &rows[r]);
        }
        for (int i = 0; i < ROWS_AT_ONCE; i++) {
            free(rows[i].w);
            free(rows[i].plain);
            free(rows[i].codes);
            free(rows[i].values);
            free(rows[i].grids);
        }
    }
}

/* ---- entry ---- */

static int make_g_idx(struct backend *b, const struct solver *s, struct err *e)
{
    void *p;

    if (!gptq_scatters_groups(s->a))
        return 0;
    if (backend_alloc(b, MEM_WEIGHTS, (size_t)s->n * sizeof *s->out->g_idx, &p, e) < 0)
        return err_in(e, "the order of groups");
    s->out->g_idx = p;
    for (int64_t c = 0; c < s->n; c++)
        s->out->g_idx[s->perm[c]] = s->group[c];
    return 0;
}

static int check_weights(const struct gptq_args *a, struct err *e)
{
    const struct tensor *w = a->w;
    float limit = gptq_limit(a);

    for (int64_t row = 0; row < w->n_rows; row++)
        if (!(quantize_absmax(w, row * w->n_cols, w->n_cols) < limit))
            return gptq_check_row(row, e);
    return 0;
}

static int solve(struct backend *b, struct solver *s, struct err *e)
{
    if (check_weights(s->a, e) < 0 || read_h(s, e) < 0)
        return -1;
    gptq_order_of(s->a->order, s->diagonal, s->n, s->a->group_size, s->perm);
    gptq_groups_of(s->a, s->perm, s->group);
    if (make_u(s, e) < 0 || make_g_idx(b, s, e) < 0)
        return -1;
    settle(s);
    pack_scales(s->scales, s->out);
    gptq_sum_up(s->a, s->losses, s->errors, s->squares);
    return 0;
}

int cpu_gptq_columns(struct backend *b, const struct gptq_args *a, struct err *e)
{
    const struct quantize_args form = gptq_form(a);
    int64_t n = a->w->n_cols, n_out = a->w->n_rows;
    size_t square_bytes = (size_t)(n * n) * sizeof(double);
    struct weight w;
    struct solver s = { .a = a, .n = n, .out = &w, .per_row = n / a->group_size };
    int rc = -1;

    assert(a->h->n_rows == n && a->h->n_cols == n && n % a->group_size == 0);
    *a->result = (struct gptq_result){ 0 };
    s.one_group = s.per_row == 1;
    s.book = codebook_of_table(a->table);
    quantized_shape(&form, n_out, n, &w);
    if (weight_alloc(b, MEM_WEIGHTS, &w, e) < 0)
        return -1;
    s.h = cpu_scratch(2 * square_bytes + square_bytes / 2, e);
    if (!s.h)
        goto out;
    s.work = s.h + n * n;
    s.u = (float *)(s.work + n * n);
    s.diagonal = mem_array((size_t)n, sizeof *s.diagonal);
    s.dead = mem_array((size_t)n, sizeof *s.dead);
    s.perm = mem_array((size_t)(2 * n), sizeof *s.perm);
    s.group = s.perm + n;
    s.scales = mem_array((size_t)w.n_groups, sizeof *s.scales);
    s.losses = mem_array((size_t)(3 * n_out), sizeof *s.losses);
    s.errors = s.losses + n_out;
    s.squares = s.errors + n_out;
    rc = solve(b, &s, e);
out:
    free(s.losses);
    free(s.scales);
    free(s.perm);
    free(s.dead);
    free(s.diagonal);
    free(s.h);
    if (rc < 0)
        weight_release(b, &w);
    else
        *a->out = w;
    return rc;
}
