/* statistic.c - see statistic.h. */
#include "record/statistic.h"

#include "base/memory.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- notes ---- */

/* Adds to a text, after "; " where something stands already. */
static void add(char *text, size_t room, const char *fmt, va_list args)
{
    size_t used = strlen(text);

    if (used && used + 3 < room) {
        strcpy(text + used, "; ");
        used += 2;
    }
    vsnprintf(text + used, room - used, fmt, args);
}

static void note(struct statistic *t, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void note(struct statistic *t, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    add(t->note, sizeof t->note, fmt, args);
    va_end(args);
}

static void warn(struct statistic *t, const char *fmt, ...) PRINTF_LIKE(2, 3);
static void warn(struct statistic *t, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    add(t->warning, sizeof t->warning, fmt, args);
    va_end(args);
}

static const char *device_of(const struct run *run)
{
    const char *device = js_text(js_get(run->record, "device"));

    return device ? device : "";
}

/* Timings of unlike machines have no common mean: said, not hidden. */
static void note_devices(struct statistic *t, const struct runs *r, const struct measure *m)
{
    const char *first = NULL;

    for (int i = 0; i < r->n; i++) {
        if (!r->all[i].ok || !measure_is_in(m, r->all[i].record))
            continue;
        const char *device = device_of(&r->all[i]);
        if (first && strcmp(first, device)) {
            note(t, "unlike devices: %.60s, %.60s", first, device);
            return;
        }
        first = device;
    }
}

/* ---- across seeds ---- */

static bool are_equal(const double *x, int n)
{
    for (int i = 1; i < n; i++)
        if (x[i] != x[0])
            return false;
    return n > 0;
}

/* Scores in [0, 1] have limits there, too; times and bytes are not negative. */
static struct interval limits_of(const struct estimate *e, const struct metric *m,
                                 double confidence)
{
    if (m->is_share)
        return stats_bounded(e, 0, 1, confidence);
    /* Positive and skewed: on the log scale, by the delta rule. */
    if (m->compared_as_log && e->mean > 0 && !*e->reason) {
        double t = (e->high - e->mean) / e->mean;
        return (struct interval){ e->mean * exp(-t), e->mean * exp(t) };
    }
    bool cut = m->kind != METRIC_QUALITY && e->low < 0;
    return (struct interval){ cut ? 0 : e->low, e->high };
}

/* Mean, sd and interval of values that differ; a spread of 0 stays NaN. */
static void across_seeds(struct statistic *t, const double *value, int n, const struct metric *m,
                         double confidence)
{
    double *x = mem_array((size_t)n, sizeof *x);

    for (int i = 0; i < n; i++)
        x[i] = m->log_scale ? log(value[i]) : value[i];
    struct estimate e = stats_mean_interval(x, n, confidence);
    struct interval limits = limits_of(&e, m, confidence);
    if (m->log_scale)
        e = stats_exp(e);
    t->mean = are_equal(value, n) ? value[0] : e.mean;
    if (!*e.reason) {
        t->sd = stats_sd(value, n);
        t->seed_low = m->log_scale ? e.low : limits.low;
        t->seed_high = m->log_scale ? e.high : limits.high;
    }
    free(x);
}

/* ---- across items ---- */

static void note_items(struct statistic *t, const struct item_estimate *x, bool windows)
{
    long long n = x->e.n, n_documents = x->e.n_clusters;

    if (windows)
        note(t, "%lld windows", n);
    else if (n == n_documents)
        note(t, "%lld documents", n);
    else
        note(t, "%lld scores of %lld documents", n, n_documents);
    if (x->design == ITEMS_CROSSED)
        note(t, "items x seeds crossed");
    else if (isfinite(x->e.design_effect) && n != n_documents)
        note(t, "design effect %.2f", x->e.design_effect);
}

/* Where fewer than 93 of 100 intervals would hold the mean (tests/bench/coverage): few documents
 * for their skewness (Cochran's 25 g^2), or so few that no skewness can be seen. */
#define DOCUMENTS_FEW 20

static void note_coverage(struct statistic *t, const struct items *items,
                          const struct item_estimate *x, bool is_share)
{
    double *value = mem_array((size_t)items->n, sizeof *value);

    for (int64_t i = 0; i < items->n; i++)
        value[i] = items->all[i].value;
    double g = stats_skewness(value, items->n);
    if (x->e.n_clusters < DOCUMENTS_FEW || (!is_share && (double)x->e.n_clusters < 25 * g * g)) {
        if (isfinite(g))
            note(t, "few documents for their skewness of %.1f: the interval may be too narrow", g);
        else
            note(t, "few documents, all alike: the interval may be too narrow");
        warn(t, "few documents for their skewness: the interval may be too narrow");
    }
    free(value);
}

/* The scores of every run; of runs that no seed can tell apart, of the first alone. */
static void across_items(struct statistic *t, const struct runs *r, const struct metric *m,
                         double confidence, struct item_estimate *x)
{
    struct items items = ITEMS_INIT;

    for (int i = 0; i < r->n; i++)
        if (r->all[i].ok)
            items_add(&items, m, &r->all[i]);
    bool windows = items.n && !items.all[0].document && m->log_scale;
    *x = items_estimate(&items, confidence);
    struct interval limits = limits_of(&x->e, m, confidence);
    const char *reason = x->e.reason;
    /* Nothing is known of the spread of one, whatever its score. */
    if (x->e.n_clusters > 1 && x->is_binary && m->is_share && x->design == ITEMS_ONE_RUN) {
        limits = stats_wilson(round(x->e.mean * (double)x->e.n), (double)x->e.n, confidence);
        reason = "Wilson";
    } else if (x->e.is_constant && m->is_share) {
        limits = stats_constant(x->e.mean, x->e.n_clusters, 0, 1, confidence);
        reason = "all scores alike, Wilson";
    }
    t->item_low = m->log_scale ? exp(limits.low) : limits.low;
    t->item_high = m->log_scale ? exp(limits.high) : limits.high;
    if (items.n)
        note_items(t, x, windows);
    if (*reason)
        note(t, "%s", items.n ? reason : "no scores by item");
    if (isfinite(limits.low))
        note_coverage(t, &items, x, m->is_share);
    else if (items.n)
        warn(t, "no interval: %s", reason);
    items_release(&items);
}

/* Models that answer nothing score 0 without an error anywhere; contexts may have been cut. */
static void note_answers(struct statistic *t, const struct runs *r, const struct metric *m)
{
    int64_t n_empty = 0, n_cut = 0, n = 0;

    for (int i = 0; i < r->n; i++) {
        const struct js *group = js_find(r->all[i].record, m->group);
        n_empty += r->all[i].ok ? js_int(js_get(group, "n_empty")) : 0;
        n_cut += r->all[i].ok ? js_int(js_get(group, "truncated")) : 0;
        n += r->all[i].ok ? js_int(js_get(group, "n")) : 0;
    }
    if (2 * n_empty > n) {
        note(t, "%lld of %lld answers are empty: is this the model's tokenizer?",
             (long long)n_empty, (long long)n);
        warn(t, "%lld of %lld answers are empty: is this the model's tokenizer?",
             (long long)n_empty, (long long)n);
    }
    if (n_cut) {
        note(t, "%lld of %lld contexts lost their left end", (long long)n_cut, (long long)n);
        warn(t, "%lld of %lld contexts lost their left end", (long long)n_cut, (long long)n);
    }
}

/* ---- one metric ---- */

static void quality(struct statistic *t, const struct sweep *s, const struct runs *r,
                    const struct metric *m, const double *value)
{
    const char *subset = js_text(js_get(js_find(s->tasks, m->group), "subset"));
    bool matters = runs_seed_matters(s, r->experiment, m->group);
    bool equal = are_equal(value, t->n_seeds);
    struct statistic items = *t;
    struct item_estimate x;

    across_seeds(t, value, t->n_seeds, m, s->confidence);
    items.note[0] = 0;
    across_items(&items, r, m, s->confidence, &x);
    t->item_low = items.item_low;
    t->item_high = items.item_high;
    if (!isfinite(t->seed_low)) /* else the summary shows the interval across seeds */
        warn(t, "%s", items.warning);

    /* Several runs that agree in every item: whatever the seed drove, it changed nothing. */
    bool same_items = equal && t->n_seeds > 1 && x.design == ITEMS_ONE_RUN;
    t->seed_effective = t->n_seeds > 1 ? !same_items : matters;
    if (!t->seed_effective)
        note(t, "deterministic");
    else if (t->n_seeds == 1)
        note(t, "one seed");
    else if (equal)
        note(t, "equal under all %d seeds", t->n_seeds);
    else if (!matters)
        note(t, "differs between runs that no seed drives");
    if (matters && subset && !strcmp(subset, "random"))
        note(t, "item sampling");
    note(t, "%s", items.note);
    if (m->log_scale)
        note(t, "intervals on the log scale");
    note_answers(t, r, m);
}

static void timing(struct statistic *t, const struct sweep *s, const struct runs *r,
                   const struct measure *m, const double *value)
{
    across_seeds(t, value, t->n_seeds, m->metric, s->confidence);
    t->seed_effective = t->n_seeds > 1 && !are_equal(value, t->n_seeds);
    if (t->n_seeds > 1) {
        note(t, m->metric->shape == SHAPE_SCALAR ? "%d runs" : "medians of %d runs", t->n_seeds);
        note_devices(t, r, m);
        return;
    }
    for (int i = 0; i < r->n; i++) {
        int64_t n;
        double *x = r->all[i].ok ? measure_samples(m, r->all[i].record, &n) : NULL;
        if (!x)
            continue;
        struct interval limits = stats_median_interval(x, n, s->confidence);
        t->item_low = limits.low;
        t->item_high = limits.high;
        note(t,
             isnan(limits.low) ? "one run; median of %lld repeats, too few for an interval"
                               : "one run; median of %lld repeats, interval from ranks",
             (long long)n);
        free(x);
    }
    if (!*t->note)
        note(t, "one run");
}

static void size(struct statistic *t, const struct sweep *s, const struct metric *m,
                 const double *value)
{
    across_seeds(t, value, t->n_seeds, m, s->confidence);
    t->seed_effective = t->n_seeds > 1 && !are_equal(value, t->n_seeds) && !isnan(t->mean);
    if (isnan(t->mean))
        note(t, "not defined for this method");
    else
        note(t, t->seed_effective ? "differs between runs" : "deterministic");
}

struct statistic statistic_make(const struct sweep *s, const struct runs *r,
                                const struct measure *m)
{
    struct statistic t = {
        .mean = NAN, .sd = NAN, .seed_low = NAN, .seed_high = NAN, .item_low = NAN, .item_high = NAN
    };
    double *value = mem_array((size_t)r->n, sizeof *value);

    for (int i = 0; i < r->n; i++)
        if (r->all[i].ok && measure_is_in(m, r->all[i].record))
            value[t.n_seeds++] = measure_value(m, r->all[i].record);
    if (t.n_seeds == 0)
        note(&t, r->n_ok ? "not measured" : "no successful run");
    else if (m->metric->kind == METRIC_QUALITY)
        quality(&t, s, r, m->metric, value);
    else if (m->metric->kind == METRIC_TIMING)
        timing(&t, s, r, m, value);
    else
        size(&t, s, m->metric, value);
    free(value);
    return t;
}

struct interval statistic_interval(const struct statistic *t)
{
    if (isfinite(t->seed_low) && isfinite(t->seed_high))
        return (struct interval){ t->seed_low, t->seed_high };
    return (struct interval){ t->item_low, t->item_high };
}
