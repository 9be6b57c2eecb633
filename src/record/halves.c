/* halves.c - see halves.h. */
#include "record/halves.h"

#include "base/memory.h"
#include "base/resample.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Windows have no names; their numbers serve. */
static bool confirms(const struct item *i)
{
    char number[32];

    if (i->document)
        return half_is_confirm(i->document);
    snprintf(number, sizeof number, "%lld", (long long)i->number);
    return half_is_confirm(number);
}

static struct items half_of(const struct items *x, bool confirm)
{
    struct items out = ITEMS_INIT;

    out.all = mem_array((size_t)x->n, sizeof *out.all);
    for (int64_t i = 0; i < x->n; i++)
        if (confirms(&x->all[i]) == confirm)
            out.all[out.n++] = x->all[i];
    return out;
}

static void add_row(const struct sweep *s, const struct runs *r, const struct metric *m,
                    const struct items *x, struct table *out)
{
    struct items select = half_of(x, false), confirm = half_of(x, true);
    struct estimate a = items_estimate(&select, s->confidence).e;
    struct estimate b = items_estimate(&confirm, s->confidence).e;
    struct interval i = { b.low, b.high };
    int row = table_add_row(out);

    if (m->is_share)
        i = b.is_constant ? stats_constant(b.mean, b.n_clusters, 0, 1, s->confidence)
                          : stats_bounded(&b, 0, 1, s->confidence);
    table_set_text(out, row, "name", r->experiment->name);
    table_set_text(out, row, "metric", m->name);
    table_set_real(out, row, "select", m->log_scale ? exp(a.mean) : a.mean);
    table_set_real(out, row, "confirm", m->log_scale ? exp(b.mean) : b.mean);
    table_set_real(out, row, "confirm_ci_low", m->log_scale ? exp(i.low) : i.low);
    table_set_real(out, row, "confirm_ci_high", m->log_scale ? exp(i.high) : i.high);
    table_set_count(out, row, "n_select", a.n_clusters);
    table_set_count(out, row, "n_confirm", b.n_clusters);
    items_release(&select);
    items_release(&confirm);
}

void halves_all(const struct sweep *s, const struct run_list *runs, struct table *out)
{
    static const char *const reals[][2] = {
        { "select", "mean over the documents that a choice is made by" },
        { "confirm", "mean over the other documents" },
        { "confirm_ci_low", "across documents" },
        { "confirm_ci_high", "across documents" },
    };

    snprintf(out->name, sizeof out->name, "halves");
    table_add_column(out, "name", "", "experiment", COLUMN_TEXT, -1);
    table_add_column(out, "metric", "", "of /summary; its unit stands there", COLUMN_TEXT, -1);
    for (size_t i = 0; i < sizeof reals / sizeof *reals; i++)
        table_add_column(out, reals[i][0], "", reals[i][1], COLUMN_REAL, -1);
    table_add_column(out, "n_select", "1", "documents or windows", COLUMN_COUNT, -1);
    table_add_column(out, "n_confirm", "1", "documents or windows", COLUMN_COUNT, -1);
    for (int k = 0; k < runs->n; k++)
        for (const struct metric *m = metrics; m->name; m++) {
            struct items x = ITEMS_INIT;
            for (int i = 0; m->is_compared && i < runs->all[k].n; i++)
                if (runs->all[k].all[i].ok)
                    items_add(&x, m, &runs->all[k].all[i]);
            if (x.n)
                add_row(s, &runs->all[k], m, &x, out);
            items_release(&x);
        }
}
