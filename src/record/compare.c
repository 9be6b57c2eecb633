/* compare.c - see compare.h. */
#include "record/compare.h"

#include "base/memory.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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
        if (!strcmp(s->margins[i].metric, m->margin ? m->margin : m->name))
            margin = s->margins[i].value;
    return m->log_scale || m->compared_as_log ? log1p(margin) : margin;
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

/* Largest difference of a document, where each counts as its share of the mean; 0 where no more
 * than half of the documents have none: then they spread enough to be judged by it. */
static double largest_if_sparse(const struct items *x, int64_t n_documents)
{
    double largest = 0, sum = 0;
    int64_t n_equal = 0;

    for (int64_t i = 0; i < x->n; i++) {
        bool first = i == 0 || !items_same_document(&x->all[i - 1], &x->all[i]);
        bool last = i + 1 == x->n || !items_same_document(&x->all[i], &x->all[i + 1]);
        sum = first ? x->all[i].value : sum + x->all[i].value;
        largest = fmax(largest, last ? fabs(sum) : 0);
        n_equal += last && sum == 0;
    }
    if (2 * n_equal <= n_documents)
        return 0;
    return largest * (double)n_documents / (double)x->n;
}

struct pair pair_make(const struct sweep *s, const struct metric *m, const struct runs *a,
                      const struct runs *b)
{
    struct pair p = { .a = a, .b = b, .metric = m, .margin = margin_of(s, m), .note = "" };
    struct items items = ITEMS_INIT;

    collect_pairs(s, m, a, b, &items);
    struct item_estimate e = items_estimate(&items, s->confidence);
    p.e = e.e;
    p.test = items_test(&items, &e);
    p.largest = largest_if_sparse(&items, e.e.n_clusters);
    if (items.n == 0)
        p.note = a->n_ok == 0 || b->n_ok == 0 ? "no successful run" : "no common items";
    else if (p.e.is_constant && m->is_share)
        p.note = p.e.mean == 0 ? "identical on every item" : "the same difference on every item";
    else if (p.e.is_constant && p.e.mean == 0)
        p.note = "identical on every window";
    else
        p.note = p.e.reason;
    items_release(&items);
    return p;
}

struct interval pair_limits(const struct pair *p, double confidence)
{
    struct interval i;
    struct estimate e = p->metric->is_share ? stats_two_more(&p->e, p->largest) : p->e;

    /* Equal differences of scores in [0, 1]: what so many equal ones leave open. */
    if (p->e.is_constant && p->metric->is_share)
        return stats_constant(p->e.mean, p->e.n_clusters, -1, 1, confidence);
    /* Equal to the last bit in every window: the same function of the text, no sample. */
    if (p->e.is_constant && p->e.mean == 0)
        return (struct interval){ 0, 0 };
    stats_limits(&e, confidence, &i.low, &i.high);
    if (p->metric->is_share && !isnan(i.low)) {
        i.low = fmax(-1, i.low); /* no difference of shares is larger */
        i.high = fmin(1, i.high);
    }
    return i;
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
    table_add_column(t, "p_value", "1", "paired by item, documents as units, two-sided; see test",
                     COLUMN_REAL, -1);
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
    table_add_column(t, "family_low", "1", "lower end of intervals that hold for this whole table",
                     COLUMN_REAL, -1);
    table_add_column(t, "family_high", "1", "upper end of intervals that hold for this whole table",
                     COLUMN_REAL, -1);
    table_add_column(t, "margin", "1", "largest difference that does not matter, on delta's scale",
                     COLUMN_REAL, -1);
    table_add_column(t, "p_equivalence", "1", "of a difference beyond the margin: TOST",
                     COLUMN_REAL, -1);
    table_add_column(t, "p_non_inferior", "1", "of a loss of the margin or more: one-sided",
                     COLUMN_REAL, -1);
    table_add_column(t, "flip_rate", "1", "share of pairs whose scores differ", COLUMN_REAL, -1);
    table_add_column(t, "detectable", "1", "smallest true delta found at 80 % power, 5 % two-sided",
                     COLUMN_REAL, -1);
    table_add_column(t, "design_effect", "1", "clustered variance over that of independent items",
                     COLUMN_REAL, -1);
    table_add_column(t, "test", "", "that gave p_value: paired t, sign flips, McNemar", COLUMN_TEXT,
                     -1);
    table_add_column(t, "note", "", "what is special about this pair", COLUMN_TEXT, -1);
}

static void set_interval(struct table *t, int row, const char *low, const char *high,
                         struct interval i)
{
    table_set_real(t, row, low, i.low);
    table_set_real(t, row, high, i.high);
}

/* Beyond the margin counts by intervals that hold for all tests at once: of 20 differences that
 * are none, one in 20 leaves its own 95 % interval. */
static void add_row(struct table *t, const struct pair *p, double confidence, int n_tests)
{
    double alpha = 1 - confidence;
    struct interval ci = pair_limits(p, confidence), ci90 = pair_limits(p, 0.9);
    struct interval all = pair_limits(p, 1 - alpha / (n_tests > 1 ? n_tests : 1));
    struct verdict_case c = { .delta = p->e.mean,
                              .low = all.low,
                              .high = all.high,
                              .low90 = ci90.low,
                              .high90 = ci90.high,
                              .p_holm = p->p_holm,
                              .alpha = alpha,
                              .margin = p->margin,
                              .higher_is_better = p->metric->higher_is_better };
    const char *verdict = verdict_of(&c);
    struct estimate shown = p->metric->is_share ? stats_two_more(&p->e, p->largest) : p->e;
    int row = table_add_row(t);

    table_set_text(t, row, "a", p->a->experiment->name);
    table_set_text(t, row, "b", p->b->experiment->name);
    table_set_text(t, row, "metric", p->metric->name);
    table_set_real(t, row, "delta", p->e.mean);
    set_interval(t, row, "ci_low", "ci_high", ci);
    table_set_real(t, row, "p_value", p->test.p_value);
    table_set_real(t, row, "p_holm", p->p_holm);
    table_set_text(t, row, "verdict", verdict);
    if (!strcmp(verdict, "undecided"))
        table_set_real(t, row, "items_needed", items_needed(p, alpha, n_tests));
    table_set_count(t, row, "n_items", p->e.n);
    table_set_count(t, row, "n_documents", p->e.n_clusters);
    set_interval(t, row, "ci90_low", "ci90_high", ci90);
    set_interval(t, row, "family_low", "family_high", all);
    table_set_real(t, row, "margin", p->margin);
    table_set_real(t, row, "p_equivalence", stats_equivalence(&shown, p->margin));
    shown.mean *= p->metric->higher_is_better ? 1 : -1;
    table_set_real(t, row, "p_non_inferior", stats_above(&shown, -p->margin));
    table_set_real(t, row, "flip_rate", p->test.flip_rate);
    table_set_real(t, row, "detectable", stats_detectable(&p->e, 0.05, POWER));
    table_set_real(t, row, "design_effect", p->e.design_effect);
    table_set_text(t, row, "test", p->test.name);
    table_set_text(t, row, "note", p->note);
}

static int adjust(struct pair *p, int n)
{
    double *raw = mem_array((size_t)n, sizeof *raw), *adjusted = mem_array((size_t)n, sizeof *raw);
    int n_tests = 0;

    for (int i = 0; i < n; i++)
        raw[i] = p[i].test.p_value;
    stats_holm(raw, n, adjusted);
    for (int i = 0; i < n; i++) {
        p[i].p_holm = adjusted[i];
        n_tests += !isnan(adjusted[i]);
    }
    free(raw);
    free(adjusted);
    return n_tests;
}

/* Has a successful run the scores of this metric?  Ratios need some above 0: the unquantized
 * model's divergence from itself has none. */
static bool has_items(const struct runs *r, const struct metric *m)
{
    for (int i = 0; i < r->n; i++) {
        const struct js *items = js_get(js_find(r->all[i].record, m->group), m->item);
        bool positive = !m->compared_as_log;
        for (size_t k = 0; k < js_count(items) && !positive; k++)
            positive = js_real(js_at(items, k)) > 0;
        if (r->all[i].ok && js_count(items) > 0 && positive)
            return true;
    }
    return false;
}

struct pairs {
    int n;
    struct pair *all;
};

/* Every compared metric that b has. */
static void add_pairs(const struct sweep *s, const struct runs *a, const struct runs *b,
                      struct pairs *out)
{
    for (const struct metric *m = metrics; m->name; m++)
        if (m->is_compared && has_items(b, m) && (!m->compared_as_log || has_items(a, m))) {
            out->all = mem_grow(out->all, (size_t)out->n + 1, sizeof *out->all);
            out->all[out->n++] = pair_make(s, m, a, b);
        }
}

/* [[comparison]], but for those that the baseline's rows are already. */
static void add_asked_for(const struct sweep *s, const struct run_list *runs, const struct runs *b,
                          struct pairs *out)
{
    for (int i = 0; i < s->n_comparisons; i++) {
        const struct runs *x = runs_find(runs, s->comparisons[i].a);
        const struct runs *y = runs_find(runs, s->comparisons[i].b);
        if (x && y && !(b && (x == b || y == b)))
            add_pairs(s, x, y, out);
    }
}

void compare_all(const struct sweep *s, const struct run_list *runs, struct table *out, char *why,
                 size_t n_why)
{
    const struct runs *b = *s->baseline ? runs_find(runs, s->baseline) : NULL;
    struct pairs pairs = { 0 };

    add_columns(out);
    *why = 0;
    if (!*s->baseline)
        snprintf(why, n_why, "the sweep has no baseline");
    else if (!b || b->n_ok == 0)
        snprintf(why, n_why, "the baseline %s has no results", s->baseline);
    for (int i = 0; i < runs->n && !*why; i++)
        if (&runs->all[i] != b)
            add_pairs(s, &runs->all[i], b, &pairs);
    if (!*why && pairs.n == 0 && runs->n > 1)
        snprintf(why, n_why, "the baseline %s has no scores by item", s->baseline);
    add_asked_for(s, runs, b, &pairs);
    int n_tests = adjust(pairs.all, pairs.n);
    for (int i = 0; i < pairs.n; i++)
        add_row(out, &pairs.all[i], s->confidence, n_tests);
    free(pairs.all);
}
