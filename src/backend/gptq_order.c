/* gptq_order.c - see gptq_order.h. */
#include "backend/gptq_order.h"

#include "base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

int gptq_read_diagonal(const struct gptq_args *a, const float *h, double *diagonal, bool *dead,
                       struct err *e)
{
    for (int64_t i = 0; i < a->h->n_cols; i++) {
        double d = a->factor * (double)h[i];

        if (!isfinite(d) || d < 0.0)
            return err_set(e, ERR_INPUT,
                           "the calibration activations of input %lld are not finite (sum of "
                           "squares %g)",
                           (long long)i, d / a->factor);
        dead[i] = d == 0.0;
        diagonal[i] = dead[i] ? 1.0 : d;
    }
    return 0;
}

/* ---- order ---- */

struct column {
    double value;
    int32_t at;
};

static int falling(const void *a, const void *b)
{
    const struct column *x = a, *y = b;

    if (x->value != y->value)
        return x->value > y->value ? -1 : 1;
    return x->at - y->at;
}

static void group_aware(struct column *columns, int64_t n, int64_t group_size, int32_t *perm)
{
    int64_t n_groups = n / group_size;
    struct column *groups = mem_array((size_t)n_groups + 1, sizeof *groups);

    for (int64_t g = 0; g < n_groups; g++) {
        qsort(columns + g * group_size, (size_t)group_size, sizeof *columns, falling);
        groups[g] = (struct column){ columns[g * group_size].value, (int32_t)g };
    }
    qsort(groups, (size_t)n_groups, sizeof *groups, falling);
    for (int64_t i = 0; i < n; i++) {
        bool rest = i >= n_groups * group_size;
        int64_t from = rest ? i : groups[i / group_size].at * group_size + i % group_size;

        perm[i] = columns[from].at;
    }
    free(groups);
}

void gptq_order_of(enum gptq_order order, const double *diagonal, int64_t n, int64_t group_size,
                   int32_t *perm)
{
    struct column *columns = mem_array((size_t)n, sizeof *columns);

    for (int64_t i = 0; i < n; i++)
        columns[i] = (struct column){ diagonal[i], (int32_t)i };
    if (order == GPTQ_DESC_ACT)
        qsort(columns, (size_t)n, sizeof *columns, falling);
    if (order == GPTQ_GROUP_AWARE)
        group_aware(columns, n, group_size, perm);
    else
        for (int64_t i = 0; i < n; i++)
            perm[i] = columns[i].at;
    free(columns);
}

void gptq_groups_of(const struct gptq_args *a, const int32_t *perm, int32_t *group)
{
    const int64_t n = a->h->n_cols;
    const bool own = a->static_groups || a->order == GPTQ_GROUP_AWARE;

    for (int64_t c = 0; c < n; c++)
        group[c] = (int32_t)((own ? perm[c] : c) / a->group_size);
}

bool gptq_scatters_groups(const struct gptq_args *a)
{
    return a->order == GPTQ_DESC_ACT && !a->static_groups && a->group_size < a->h->n_cols;
}

/* ---- damping ---- */

int gptq_factor(const struct gptq_args *a, const double *diagonal, gptq_factor_fn *factor,
                void *context, struct err *e)
{
    struct gptq_result *r = a->result;
    const int64_t n = a->h->n_cols;
    double mean = 0.0, largest = 0.0;
    int done;

    for (int64_t i = 0; i < n; i++) {
        mean += diagonal[i] / (double)n;
        largest = fmax(largest, diagonal[i]);
    }
    for (r->damp = a->damp;; r->damp += a->damp_step, r->n_raised++) {
        if ((done = factor(context, r->damp * mean, e)) != 0)
            return done < 0 ? -1 : 0;
        if (!(a->damp_step > 0.0) || r->damp + a->damp_step >= 1.0)
            break;
    }
    for (r->floor = 1e-6; r->floor < 0.5; r->floor *= 10.0) {
        r->n_raised++;
        if ((done = factor(context, r->damp * mean + r->floor * largest, e)) != 0)
            return done < 0 ? -1 : 0;
    }
    return err_set(e, ERR_INPUT,
                   "the Hessian is not positive definite, not with damping up to %g and a "
                   "tenth of its largest diagonal element added",
                   r->damp);
}

/* ---- weights ---- */

int gptq_check_row(int64_t row, struct err *e)
{
    if (row < 0)
        return 0;
    return err_set(e, ERR_INPUT,
                   "row %lld holds what is no number; only finite weights can be quantized",
                   (long long)row);
}

float gptq_limit(const struct gptq_args *a)
{
    return a->source == DTYPE_F16 ? 65520.0f : INFINITY;
}

struct quantize_args gptq_form(const struct gptq_args *a)
{
    return (struct quantize_args){
        .rule = a->table == TABLE_NONE ? QUANTIZE_GRID_GPTQ : QUANTIZE_TABLE,
        .bits = a->bits,
        .group_size = a->group_size,
        .sym = a->sym,
        .double_quant = a->double_quant,
        .scale_dtype = a->scale_dtype,
        .table = a->table,
    };
}

void gptq_sum_up(const struct gptq_args *a, const double *losses, const double *errors,
                 const double *squares)
{
    struct gptq_result *r = a->result;
    double n = (double)a->n_rows * (double)a->w->n_rows;

    for (int64_t row = 0; row < a->w->n_rows; row++) {
        r->loss += losses[row];
        r->output_mse += errors[row] / n;
        r->output_ms += squares[row] / n;
    }
}
