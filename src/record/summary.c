/* summary.c - see summary.h. */
#include "record/summary.h"

#include "base/memory.h"
#include "record/compare.h"
#include "record/halves.h"
#include "record/metric.h"
#include "record/pareto.h"
#include "record/runs.h"
#include "record/statistic.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what is measured in this sweep ---- */

struct measures {
    int n;
    struct measure *all; /* in the order of the table of metrics, then of batch sizes */
};

static bool is_recorded(const struct run_list *runs, const struct measure *m)
{
    for (int i = 0; i < runs->n; i++)
        for (int k = 0; k < runs->all[i].n; k++)
            if (measure_is_in(m, runs->all[i].all[k].record))
                return true;
    return false;
}

/* Asked for by the sweep file, so that the columns stand before the first job has ended. */
static bool is_asked_for(const struct sweep *s, const struct metric *m)
{
    if (m->kind == METRIC_QUALITY)
        return js_find(s->tasks, m->group) != NULL;
    return !strcmp(m->group, "quantization") || s->benchmark != NULL;
}

static void add_measure(struct measures *to, const struct metric *m, int64_t batch_size)
{
    to->all = mem_grow(to->all, (size_t)to->n + 1, sizeof *to->all);
    to->all[to->n++] = measure_of(m, batch_size);
}

static int by_size(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;

    return (x > y) - (x < y);
}

static void append_sizes(const struct js *list, int64_t **sizes, int *n)
{
    for (size_t i = 0; i < js_count(list); i++) {
        *sizes = mem_grow(*sizes, (size_t)*n + 1, sizeof **sizes);
        (*sizes)[(*n)++] = js_int(js_at(list, i));
    }
}

/* Every batch size that the sweep asks for or a record has, once. */
static void add_batches(struct measures *to, const struct sweep *s, const struct run_list *runs,
                        const struct metric *m)
{
    int64_t *sizes = NULL;
    int n = 0;

    append_sizes(js_get(s->benchmark, "batch_sizes"), &sizes, &n);
    for (int i = 0; i < runs->n; i++)
        for (int k = 0; k < runs->all[i].n; k++)
            append_sizes(js_get(js_get(runs->all[i].all[k].record, m->group), "batch_size"), &sizes,
                         &n);
    if (n)
        qsort(sizes, (size_t)n, sizeof *sizes, by_size);
    for (int i = 0; i < n; i++)
        if (sizes[i] > 0 && (i == 0 || sizes[i] != sizes[i - 1]))
            add_measure(to, m, sizes[i]);
    free(sizes);
}

static struct measures find_measures(const struct sweep *s, const struct run_list *runs)
{
    struct measures out = { 0 };

    for (const struct metric *m = metrics; m->name; m++) {
        struct measure one = measure_of(m, 0);
        if (m->shape == SHAPE_BATCHES)
            add_batches(&out, s, runs, m);
        else if (is_asked_for(s, m) || is_recorded(runs, &one))
            add_measure(&out, m, 0);
    }
    return out;
}

/* ---- /experiments/NAME/statistics ---- */

static void add_statistics_columns(struct table *t)
{
    snprintf(t->name, sizeof t->name, "statistics");
    table_add_column(t, "metric", "", "of /summary; its unit stands there", COLUMN_TEXT, -1);
    table_add_column(t, "n_seeds", "1", "runs with a value", COLUMN_COUNT, -1);
    table_add_column(t, "mean", "", "over seeds; perplexity: exp of the mean logarithm",
                     COLUMN_REAL, -1);
    table_add_column(t, "sd", "", "standard deviation over seeds; NaN where they do not differ",
                     COLUMN_REAL, -1);
    table_add_column(t, "seed_ci_low", "", "across seeds, Student t", COLUMN_REAL, -1);
    table_add_column(t, "seed_ci_high", "", "across seeds, Student t", COLUMN_REAL, -1);
    table_add_column(t, "item_ci_low", "", "across items, t clustered by document; see note",
                     COLUMN_REAL, -1);
    table_add_column(t, "item_ci_high", "", "across items, t clustered by document; see note",
                     COLUMN_REAL, -1);
    table_add_column(t, "seed_effective", "", "a seed changes this metric", COLUMN_BOOL, -1);
    table_add_column(t, "note", "", "how the intervals were made, or why there is none",
                     COLUMN_TEXT, -1);
}

static void add_statistic(struct table *t, const char *metric, const struct statistic *x)
{
    int row = table_add_row(t);

    table_set_text(t, row, "metric", metric);
    table_set_count(t, row, "n_seeds", x->n_seeds);
    table_set_real(t, row, "mean", x->mean);
    table_set_real(t, row, "sd", x->sd);
    table_set_real(t, row, "seed_ci_low", x->seed_low);
    table_set_real(t, row, "seed_ci_high", x->seed_high);
    table_set_real(t, row, "item_ci_low", x->item_low);
    table_set_real(t, row, "item_ci_high", x->item_high);
    table_set_count(t, row, "seed_effective", x->seed_effective);
    table_set_text(t, row, "note", x->note);
}

/* ---- /summary ---- */

static void add_summary_columns(struct table *t, const struct measures *m)
{
    snprintf(t->name, sizeof t->name, "summary");
    table_add_column(t, "name", "", "experiment", COLUMN_TEXT, -1);
    table_add_column(t, "method", "", "of quantization", COLUMN_TEXT, -1);
    table_add_column(t, "bits", "bit", "code width", COLUMN_COUNT, -1);
    table_add_column(t, "group_size", "1", "weights that share a scale; -1: a row, 0: not grouped",
                     COLUMN_COUNT, -1);
    table_add_column(t, "quant_type", "", "what a code stands for", COLUMN_TEXT, -1);
    table_add_column(t, "double_quant", "", "scales are quantized, too", COLUMN_BOOL, -1);
    table_add_column(t, "compute_dtype", "", "of the linears", COLUMN_TEXT, -1);
    table_add_column(t, "n_seeds", "1", "successful jobs", COLUMN_COUNT, -1);
    table_add_column(t, "status", "", "success, partial or error", COLUMN_TEXT, -1);
    for (int i = 0; i < 3; i++) {
        const struct metric *size =
            metric_find((const char *[]){ "model_size_mb", "model_mb", "bits_per_weight" }[i]);
        table_add_column(t, size->name, size->unit, size->what, COLUMN_REAL, 0);
    }
    table_add_column(t, "compression", "1", "true bytes of the baseline / true bytes", COLUMN_REAL,
                     1);
    table_add_column(t, "compression_hf", "1", "model_size_mb of the baseline / model_size_mb",
                     COLUMN_REAL, 1);
    table_add_column(t, "gpu_seconds", "s", "device time of all its jobs, failed ones too",
                     COLUMN_REAL, 0);
    for (int i = 0; i < m->n; i++) {
        const struct metric *x = m->all[i].metric;
        char name[96];
        if (!x->in_summary)
            continue;
        table_add_column(t, m->all[i].name, x->unit, x->what, COLUMN_REAL, x->higher_is_better);
        snprintf(name, sizeof name, "%s_ci_low", m->all[i].name);
        table_add_column(t, name, x->unit, "across seeds where they matter, else across items",
                         COLUMN_REAL, -1);
        snprintf(name, sizeof name, "%s_ci_high", m->all[i].name);
        table_add_column(t, name, x->unit, "across seeds where they matter, else across items",
                         COLUMN_REAL, -1);
    }
    table_add_column(t, "warnings", "", "of its metrics: what their numbers do not say",
                     COLUMN_TEXT, -1);
}

/* "coqa_f1, coqa_em: few documents ..."; a text that several metrics share stands there once. */
static void add_warnings(struct table *t, int row, const struct measures *m,
                         const struct statistic *x)
{
    struct bytes all = BYTES_INIT;

    for (int i = 0; i < m->n; i++) {
        bool is_new = *x[i].warning && m->all[i].metric->in_summary;
        for (int k = 0; k < i && is_new; k++)
            is_new = !m->all[k].metric->in_summary || strcmp(x[k].warning, x[i].warning) != 0;
        if (!is_new)
            continue;
        bytes_printf(&all, "%s%s", all.n ? "; " : "", m->all[i].name);
        for (int k = i + 1; k < m->n; k++)
            if (m->all[k].metric->in_summary && !strcmp(x[k].warning, x[i].warning))
                bytes_printf(&all, ", %s", m->all[k].name);
        bytes_printf(&all, ": %s", x[i].warning);
    }
    table_set_text(t, row, "warnings", all.n ? all.data : "");
    bytes_release(&all);
}

static const char *status_of(const struct runs *r)
{
    if (r->n && r->n_ok == r->n && r->n >= r->n_jobs)
        return "success";
    return r->n && r->n_ok == 0 ? "error" : "partial";
}

static double device_seconds(const struct runs *r)
{
    double sum = 0;

    for (int i = 0; i < r->n; i++)
        sum += run_device_seconds(r->all[i].record);
    return sum;
}

static void add_metric(struct table *t, int row, const char *name, const struct statistic *x)
{
    struct interval ci = statistic_interval(x);
    char limit[96];

    table_set_real(t, row, name, x->mean);
    snprintf(limit, sizeof limit, "%s_ci_low", name);
    table_set_real(t, row, limit, ci.low);
    snprintf(limit, sizeof limit, "%s_ci_high", name);
    table_set_real(t, row, limit, ci.high);
}

static void add_experiment(const struct sweep *s, const struct runs *r, const struct measures *m,
                           struct table *t, struct experiment_results *out)
{
    const struct experiment *x = r->experiment;
    int row = table_add_row(t);

    out->experiment = x;
    snprintf(out->status, sizeof out->status, "%s", status_of(r));
    table_set_text(t, row, "name", x->name);
    table_set_text(t, row, "method", x->method);
    table_set_count(t, row, "bits", x->bits);
    table_set_count(t, row, "group_size", x->group_size);
    table_set_text(t, row, "quant_type", x->quant_type);
    table_set_count(t, row, "double_quant", x->double_quant);
    table_set_text(t, row, "compute_dtype", x->compute_dtype);
    table_set_count(t, row, "n_seeds", r->n_ok);
    table_set_text(t, row, "status", out->status);
    table_set_real(t, row, "gpu_seconds", device_seconds(r));

    add_statistics_columns(&out->statistics);
    struct statistic *one = mem_array((size_t)m->n, sizeof *one);
    for (int i = 0; i < m->n; i++) {
        one[i] = statistic_make(s, r, &m->all[i]);
        add_statistic(&out->statistics, m->all[i].name, &one[i]);
        if (m->all[i].metric->in_summary)
            add_metric(t, row, m->all[i].name, &one[i]);
        else if (table_column(t, m->all[i].name) >= 0)
            table_set_real(t, row, m->all[i].name, one[i].mean);
    }
    add_warnings(t, row, m, one);
    free(one);
}

static void add_compression(struct table *t, const char *baseline)
{
    static const char *const pairs[][2] = { { "compression", "model_mb" },
                                            { "compression_hf", "model_size_mb" } };
    int base = -1;

    for (int i = 0; i < t->n_rows; i++)
        if (!strcmp(table_text(t, i, "name"), baseline))
            base = i;
    for (int k = 0; k < 2 && base >= 0; k++)
        for (int i = 0; i < t->n_rows; i++)
            table_set_real(t, i, pairs[k][0],
                           table_real(t, base, pairs[k][1]) / table_real(t, i, pairs[k][1]));
}

int summary_make(const struct sweep *s, const struct js *const *records, int n_records,
                 struct summary *out, struct err *e)
{
    struct run_list runs = RUN_LIST_INIT;

    *out = (struct summary)SUMMARY_INIT;
    if (runs_collect(s, records, n_records, &runs, e) < 0)
        return -1;
    struct measures m = find_measures(s, &runs);
    out->jobs_total = runs.jobs_total;
    out->jobs_ok = runs.jobs_ok;
    out->jobs_failed = runs.jobs_failed;
    out->n_experiments = runs.n;
    out->experiments = mem_array((size_t)runs.n, sizeof *out->experiments);

    add_summary_columns(&out->summary, &m);
    for (int i = 0; i < runs.n; i++)
        add_experiment(s, &runs.all[i], &m, &out->summary, &out->experiments[i]);
    add_compression(&out->summary, s->baseline);
    snprintf(out->comparisons.name, sizeof out->comparisons.name, "comparisons");
    compare_all(s, &runs, &out->comparisons, out->no_comparisons, sizeof out->no_comparisons);
    halves_all(s, &runs, &out->halves);
    pareto_all(s, &runs, &out->summary, &out->pareto);

    free(m.all);
    runs_release(&runs);
    return 0;
}

void summary_release(struct summary *s)
{
    for (int i = 0; i < s->n_experiments; i++)
        table_release(&s->experiments[i].statistics);
    free(s->experiments);
    table_release(&s->summary);
    table_release(&s->comparisons);
    table_release(&s->pareto);
    table_release(&s->halves);
    *s = (struct summary)SUMMARY_INIT;
}
