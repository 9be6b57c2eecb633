/* work.c - see work.h. */
#include "bench/work.h"

#include "base/stats.h"
#include "bench/footprint.h"

#include <stdlib.h>

/* n_rows new tokens in each of `batch` sequences that hold `before` tokens. */
static struct work pass(const struct model *m, double batch, double n_rows, double before)
{
    const struct config *c = &m->config;
    double weights = (double)footprint_model_bytes(m) -
                     (footprint_is_tied(m) ? 0 : (double)footprint_embedding_bytes(m));
    double pairs = n_rows * before + n_rows * (n_rows + 1) / 2; /* of a query and a key */
    double width = (double)model_part(m, c->n_heads) * c->head_dim;
    double linears = (double)model_part(m, config_n_linear_parameters(c));
    double head = (double)config_n_embedding(c);
    double cached = (double)model_part(m, config_kv_bytes_per_token(c, m->dtype));

    return (struct work){ .bytes = weights + batch * (before + n_rows) * cached,
                          .flops = 2 * batch * (n_rows * linears + head) +
                                   4 * batch * (double)c->n_layers * width * pairs };
}

struct work work_of(const struct model *m, const struct point *p)
{
    struct work sum = { 0 };

    if (p->kind != DECODE)
        sum = pass(m, p->batch, (double)p->prompt, 0);
    for (int64_t i = 0; i < p->n_steps; i++) {
        struct work step = pass(m, p->batch, 1, (double)(p->prompt + i));
        sum.bytes += step.bytes;
        sum.flops += step.flops;
    }
    return sum;
}

double work_seconds(const struct point *p, double sample)
{
    if (p->kind == THROUGHPUT)
        return p->batch * (double)(p->n_steps + 1) / sample;
    return sample / 1e3 * (p->kind == DECODE ? (double)p->n_steps : 1);
}

struct js *work_table(const struct model *m, const struct point *points, int n)
{
    static const char *const columns[] = { "point",   "gbyte",       "gflop",
                                           "seconds", "gbyte_per_s", "tflop_per_s" };
    enum { N_COLUMNS = sizeof columns / sizeof *columns };
    struct js *out = js_new_object(), *table[N_COLUMNS];

    for (int c = 0; c < N_COLUMNS; c++)
        table[c] = js_new_array();
    for (int i = 0; i < n; i++) {
        const struct point *p = &points[i];
        struct work w = work_of(m, p);
        double s = work_seconds(p, stats_median(p->sample, p->n_samples));
        char *name = point_name(p);

        js_append(table[0], js_new_text(name));
        js_append(table[1], js_new_real(w.bytes * 1e-9));
        js_append(table[2], js_new_real(w.flops * 1e-9));
        js_append(table[3], js_new_real(s));
        js_append(table[4], js_new_real(w.bytes * 1e-9 / s));
        js_append(table[5], js_new_real(w.flops * 1e-12 / s));
        free(name);
    }
    for (int c = 0; c < N_COLUMNS; c++)
        js_set(out, columns[c], table[c]);
    return out;
}
