/* pareto.c - see pareto.h. */
#include "record/pareto.h"

#include "base/memory.h"
#include "record/compare.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct axis {
    const char *front, *column;
    bool has_interval;
} axes[] = {
    { "size_quality", "model_mb", false },
    { "latency_quality", "decode_ms_per_token", true },
};

struct point {
    const struct runs *runs;
    double cost, low, high; /* low and high: of the cost */
    double quality;         /* more is better */
};

static int by_cost(const void *a, const void *b)
{
    const struct point *x = a, *y = b;

    if (x->cost != y->cost)
        return x->cost < y->cost ? -1 : 1;
    if (x->quality != y->quality)
        return x->quality > y->quality ? -1 : 1;
    return strcmp(x->runs->experiment->name, y->runs->experiment->name);
}

static double limit(const struct table *t, int row, const char *column, const char *end)
{
    char name[96];

    snprintf(name, sizeof name, "%s_ci_%s", column, end);
    return table_real(t, row, name);
}

/* Every experiment whose cost and quality are known, by rising cost. */
static struct point *find_points(const struct run_list *runs, const struct table *summary,
                                 const struct axis *axis, const struct metric *m, int *n)
{
    struct point *p = mem_array((size_t)runs->n, sizeof *p);

    *n = 0;
    for (int row = 0; row < summary->n_rows; row++) {
        const struct runs *r = runs_find(runs, table_text(summary, row, "name"));
        double cost = table_real(summary, row, axis->column);
        double quality = table_real(summary, row, m->name) * (m->higher_is_better ? 1 : -1);
        if (!r || !isfinite(cost) || !isfinite(quality))
            continue;
        p[*n] = (struct point){ r, cost, cost, cost, quality };
        if (axis->has_interval) {
            p[*n].low = limit(summary, row, axis->column, "low");
            p[*n].high = limit(summary, row, axis->column, "high");
        }
        ++*n;
    }
    qsort(p, (size_t)*n, sizeof *p, by_cost);
    return p;
}

/* Without intervals any difference of latencies may be chance. */
static bool costs_less(const struct point *y, const struct point *x)
{
    return y->high < x->low;
}

static bool dominates(const struct sweep *s, const struct metric *m, const struct point *y,
                      const struct point *x)
{
    if (y->cost > x->cost)
        return false;
    struct pair p = pair_make(s, m, y->runs, x->runs);
    double sign = m->higher_is_better ? 1 : -1;

    if (sign * p.e.mean > 0 && p.test.p_value <= 1 - s->confidence)
        return true;
    struct interval i = pair_limits(&p, 0.9);
    double worst = sign > 0 ? i.low : -i.high;
    return costs_less(y, x) && worst > -p.margin;
}

/* Rivals are those that no other beats on the means: where they dominate nobody, no one does. */
static void add_front(const struct sweep *s, const struct axis *axis, const struct metric *m,
                      const struct point *p, int n, struct table *out)
{
    bool *rival = mem_array((size_t)n, sizeof *rival);
    double best = -INFINITY;

    for (int i = 0; i < n; i++) {
        rival[i] = p[i].quality > best;
        best = fmax(best, p[i].quality);
    }
    for (int i = 0; i < n; i++) {
        bool dominated = false;
        for (int k = 0; k < n && !dominated; k++)
            dominated = rival[k] && k != i && dominates(s, m, &p[k], &p[i]);
        if (dominated)
            continue;
        int row = table_add_row(out);
        table_set_text(out, row, "front", axis->front);
        table_set_text(out, row, "metric", m->name);
        table_set_text(out, row, "name", p[i].runs->experiment->name);
    }
    free(rival);
}

void pareto_all(const struct sweep *s, const struct run_list *runs, const struct table *summary,
                struct table *out)
{
    snprintf(out->name, sizeof out->name, "pareto");
    table_add_column(out, "front", "", "size_quality or latency_quality", COLUMN_TEXT, -1);
    table_add_column(out, "metric", "", "of quality", COLUMN_TEXT, -1);
    table_add_column(out, "name", "", "experiment that no other dominates", COLUMN_TEXT, -1);
    for (size_t a = 0; a < sizeof axes / sizeof *axes; a++)
        for (const struct metric *m = metrics; m->name; m++) {
            int n;
            if (!m->is_compared || table_column(summary, m->name) < 0 ||
                table_column(summary, axes[a].column) < 0)
                continue;
            struct point *p = find_points(runs, summary, &axes[a], m, &n);
            add_front(s, &axes[a], m, p, n, out);
            free(p);
        }
}
