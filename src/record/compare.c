/* compare.c - see compare.h. */
#include "record/compare.h"

#include "base/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* One pair and metric, before Holm. */
struct pair {
    const struct runs *a;
    const struct metric *metric;
    struct estimate e;
    struct interval ci, ci90;
    double p_holm, margin;
    const char *note;
};

const char *verdict_of(const struct verdict_case *c)
{
    /* In the direction in which more is better. */
    double sign = c->higher_is_better ? 1 : -1;
    double low = sign > 0 ? c->low : -c->high, high = sign > 0 ? c->high : -c->low;
    double low90 = sign > 0 ? c->low90 : -c->high90, high90 = sign > 0 ? c->high90 : -c->low90;

    if (low > c->margin)
        return "better";
    if (high < -c->margin)
        return "worse";
    if (low90 > -c->margin && high90 < c->margin)
        return "equivalent";
    if (c->p_holm <= c->alpha && c->delta != 0)
        return sign * c->delta > 0 ? "better" : "worse";
    if (low90 > -c->margin)
        return "non_inferior";
    return "undecided";
}

double margin_of(const struct sweep *s, const struct metric *m)
{
    double margin = MARGIN_STANDARD;

    for (int i = 0; i < s->n_margins; i++)
        if (!strcmp(s->margins[i].metric, m->name))
            margin = s->margins[i].value;
    return m->log_scale ? log1p(margin) : margin;
}

/* ---- pairs ---- */

static const struct run *first_ok(const struct runs *r)
{
    for (int i = 0; i < r->n; i++)
        if (r->all[i].ok)
            return &r->all[i];
    return NULL;
}

/* The same seeds draw the same items for every experiment.  One whose scores no seed can change
 * has run once, and that run stands for every seed of the other. */
static void collect_pairs(const struct sweep *s, const struct metric *m, const struct runs *a,
                          const struct runs *b, struct items *out)
{
    bool a_varies = runs_seed_matters(s, a->experiment, m->group);
    bool b_varies = runs_seed_matters(s, b->experiment, m->group);

    for (int i = 0; i < a->n; i++) {
        const struct run *x = a_varies ? &a->all[i] : first_ok(a);
        for (int k = 0; k < b->n; k++) {
            const struct run *y = b_varies ? &b->all[k] : first_ok(b);
            if (!x || !y || !x->ok || !y->ok || (a_varies && b_varies && x->seed != y->seed))
                continue;
            items_add_pairs(out, m, x, y, a_varies ? x->seed : y->seed);
            if (!b_varies)
                break;
        }
        if (!a_varies)
            break;
    }
}

static struct pair make_pair(const struct sweep *s, const struct metric *m, const struct runs *a,
                             const struct runs *b)
{
    struct pair p = { .a = a, .metric = m, .margin = margin_of(s, m), .note = "" };
    struct items items = ITEMS_INIT;

    collect_pairs(s, m, a, b, &items);
    p.e = items_estimate(&items, s->confidence).e;
    p.ci = (struct interval){ p.e.low, p.e.high };
    stats_limits(&p.e, 0.9, &p.ci90.low, &p.ci90.high);
    if (items.n == 0) {
        p.note = a->n_ok == 0 ? "no successful run" : "no common items";
    } else if (p.e.is_constant && !m->log_scale) {
        /* Equal differences of scores in [0, 1]: what so many equal ones leave open. */
        p.ci = stats_constant(p.e.mean, p.e.n_clusters, -1, 1, s->confidence);
        p.ci90 = stats_constant(p.e.mean, p.e.n_clusters, -1, 1, 0.9);
        p.note = p.e.mean == 0 ? "identical on every item" : "the same difference on every item";
    } else if (p.e.is_constant && p.e.mean == 0) {
        /* Equal to the last bit in every window: the same function of the text, no sample. */
        p.ci = p.ci90 = (struct interval){ 0, 0 };
        p.note = "identical on every window";
    } else {
        p.note = p.e.reason;
    }
    items_release(&items);
    return p;
}

/* ---- how many items it would take ---- */

/* Items for 80 % power, where the standard error falls with the square root: to tell the observed
 * difference from 0 (Bonferroni stands for Holm, whose order a larger sample may change), or to
 * show that it is not worse than the margin, whichever takes fewer. */
static double items_needed(const struct pair *p, double alpha, int n_tests)
{
    double sign = p->metric->higher_is_better ? 1 : -1, power = normal_quantile(POWER);
    double to_zero = fabs(p->e.mean), to_margin = p->margin + sign * p->e.mean;
    double z = power - normal_quantile(alpha / (2 * n_tests)), z90 = power - normal_quantile(0.05);

    if (p->e.is_constant && p->e.mean == 0) {
        /* Shares of differing items are bounded by z^2 / (n + z^2); see stats_constant. */
        double z2 = normal_quantile(0.05) * normal_quantile(0.05);
        double documents = z2 * (1 / p->margin - 1);
        double items = ceil(documents * (double)p->e.n / (double)p->e.n_clusters);
        return isfinite(items) && items > 0 ? items : NAN;
    }
    double ratio = INFINITY; /* of the standard error that is wanted to the one at hand */
    if (to_zero > 0)
        ratio = fmin(ratio, z * p->e.se / to_zero);
    if (to_margin > 0)
        ratio = fmin(ratio, z90 * p->e.se / to_margin);
    double n = ceil((double)p->e.n * ratio * ratio);
    return isfinite(n) && n > 0 ? n : NAN;
}

/* ---- the table ---- */

static void add_columns(struct table *t)
{
    table_add_column(t, "a", "", "experiment", COLUMN_TEXT, -1);
    table_add_column(t, "b", "", "what it is compared with", COLUMN_TEXT, -1);
    table_add_column(t, "metric", "", "of /summary", COLUMN_TEXT, -1);
    table_add_column(t, "delta", "1", "mean of a - b over pairs; perplexity: of log perplexity",
                     COLUMN_REAL, -1);
    table_add_column(t, "ci_low", "1", "lower end of the interval of delta", COLUMN_REAL, -1);
    table_add_column(t, "ci_high", "1", "upper end of the interval of delta", COLUMN_REAL, -1);
    table_add_column(t, "p_value", "1", "paired, clustered by document, two-sided", COLUMN_REAL,
                     -1);
    table_add_column(t, "p_holm", "1", "p_value adjusted by Holm over this table", COLUMN_REAL, -1);
    table_add_column(t, "verdict", "", "better, worse, equivalent, non_inferior or undecided",
                     COLUMN_TEXT, -1);
    table_add_column(t, "items_needed", "1", "pairs for a verdict at 80 % power, where undecided",
                     COLUMN_REAL, -1);
    table_add_column(t, "n_items", "1", "pairs compared", COLUMN_COUNT, -1);
    table_add_column(t, "n_documents", "1", "independent documents or windows among them",
                     COLUMN_COUNT, -1);
    table_add_column(t, "ci90_low", "1", "lower end of the 90 % interval of delta", COLUMN_REAL,
                     -1);
    table_add_column(t, "ci90_high", "1", "upper end of the 90 % interval of delta", COLUMN_REAL,
                     -1);
    table_add_column(t, "margin", "1", "largest difference that does not matter, on delta's scale",
                     COLUMN_REAL, -1);
    table_add_column(t, "note", "", "what is special about this pair", COLUMN_TEXT, -1);
}

static void add_row(struct table *t, const struct pair *p, const char *baseline, double alpha,
                    int n_tests)
{
    struct verdict_case c = { .delta = p->e.mean,
                              .low = p->ci.low,
                              .high = p->ci.high,
                              .low90 = p->ci90.low,
                              .high90 = p->ci90.high,
                              .p_holm = p->p_holm,
                              .alpha = alpha,
                              .margin = p->margin,
                              .higher_is_better = p->metric->higher_is_better };
    const char *verdict = verdict_of(&c);
    int row = table_add_row(t);

    table_set_text(t, row, "a", p->a->experiment->name);
    table_set_text(t, row, "b", baseline);
    table_set_text(t, row, "metric", p->metric->name);
    table_set_real(t, row, "delta", p->e.mean);
    table_set_real(t, row, "ci_low", p->ci.low);
    table_set_real(t, row, "ci_high", p->ci.high);
    table_set_real(t, row, "p_value", p->e.p_value);
    table_set_real(t, row, "p_holm", p->p_holm);
    table_set_text(t, row, "verdict", verdict);
    if (!strcmp(verdict, "undecided"))
        table_set_real(t, row, "items_needed", items_needed(p, alpha, n_tests));
    table_set_count(t, row, "n_items", p->e.n);
    table_set_count(t, row, "n_documents", p->e.n_clusters);
    table_set_real(t, row, "ci90_low", p->ci90.low);
    table_set_real(t, row, "ci90_high", p->ci90.high);
    table_set_real(t, row, "margin", p->margin);
    table_set_text(t, row, "note", p->note);
}

static int adjust(struct pair *p, int n)
{
    double *raw = mem_array((size_t)n, sizeof *raw), *adjusted = mem_array((size_t)n, sizeof *raw);
    int n_tests = 0;

    for (int i = 0; i < n; i++)
        raw[i] = p[i].e.p_value;
    stats_holm(raw, n, adjusted);
    for (int i = 0; i < n; i++) {
        p[i].p_holm = adjusted[i];
        n_tests += !isnan(adjusted[i]);
    }
    free(raw);
    free(adjusted);
    return n_tests;
}

/* Has a successful run of b the scores of this metric? */
static bool has_items(const struct runs *b, const struct metric *m)
{
    for (int i = 0; i < b->n; i++)
        if (b->all[i].ok && js_count(js_get(js_get(b->all[i].record, m->group), m->item)) > 0)
            return true;
    return false;
}

void compare_all(const struct sweep *s, const struct run_list *runs, struct table *out, char *why,
                 size_t n_why)
{
    const struct runs *b = *s->baseline ? runs_find(runs, s->baseline) : NULL;
    struct pair *pairs = NULL;
    int n = 0;

    add_columns(out);
    *why = 0;
    if (!*s->baseline)
        snprintf(why, n_why, "the sweep has no baseline");
    else if (!b || b->n_ok == 0)
        snprintf(why, n_why, "the baseline %s has no results", s->baseline);
    if (*why)
        return;
    for (int i = 0; i < runs->n; i++)
        for (const struct metric *m = metrics; m->name; m++)
            if (&runs->all[i] != b && m->is_compared && has_items(b, m)) {
                pairs = mem_grow(pairs, (size_t)n + 1, sizeof *pairs);
                pairs[n++] = make_pair(s, m, &runs->all[i], b);
            }
    int n_tests = adjust(pairs, n);
    for (int i = 0; i < n; i++)
        add_row(out, &pairs[i], s->baseline, 1 - s->confidence, n_tests);
    if (n == 0 && runs->n > 1)
        snprintf(why, n_why, "the baseline %s has no scores by item", s->baseline);
    free(pairs);
}
