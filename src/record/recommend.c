/* recommend.c - see recommend.h. */
#include "record/recommend.h"

#include "base/memory.h"
#include "record/metric.h"
#include "sweep/nearest.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define NAME_LETTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"

/* ---- the expression ---- */

static const char *skip(const char *p)
{
    return p + strspn(p, " \t\n");
}

static int take_name(const char **p, char out[64])
{
    size_t n = strspn(*p, NAME_LETTERS);

    if (n == 0 || n > 63)
        return -1;
    memcpy(out, *p, n);
    out[n] = 0;
    *p = skip(*p + n);
    return 0;
}

static int take_condition(const char **p, struct condition *c)
{
    size_t n = strspn(*p + 0, "<>=");
    char *end;

    if (take_name(p, c->column) < 0)
        return -1;
    n = strspn(*p, "<>=");
    if (n == 0 || n > 2)
        return -1;
    memcpy(c->sign, *p, n);
    c->sign[n] = 0;
    if (strcmp(c->sign, "==") == 0)
        c->sign[1] = 0;
    if (strcmp(c->sign, "<") && strcmp(c->sign, "<=") && strcmp(c->sign, ">") &&
        strcmp(c->sign, ">=") && strcmp(c->sign, "="))
        return -1;
    *p = skip(*p + n);
    c->limit = strtod(*p, &end);
    if (end == *p || !isfinite(c->limit))
        return -1;
    *p = skip(end);
    return 0;
}

static bool take_word(const char **p, const char *word)
{
    size_t n = strlen(word);

    if (strncmp(*p, word, n) != 0 || strspn(*p, NAME_LETTERS) != n)
        return false;
    *p = skip(*p + n);
    return true;
}

int recommend_parse(const char *text, struct recommend *out, struct err *e)
{
    const char *p = skip(text);

    *out = (struct recommend){ 0 };
    if (!take_word(&p, "by")) {
        do {
            if (out->n == RECOMMEND_CONDITIONS)
                return err_set(e, ERR_USAGE, "--recommend: more than %d conditions",
                               RECOMMEND_CONDITIONS);
            const char *from = p;
            if (take_condition(&p, &out->all[out->n++]) < 0)
                return err_set(e, ERR_USAGE,
                               "--recommend: \"%.60s\" should be COLUMN<=NUMBER (<=, <, >=, >, =)",
                               from);
        } while (take_word(&p, "and"));
        if (!*p)
            return 0;
        if (!take_word(&p, "by"))
            return err_set(e, ERR_USAGE,
                           "--recommend: \"%.60s\" should be \"and CONDITION\" or \"by METRIC\"",
                           p);
    }
    if (take_name(&p, out->by) < 0 || *p)
        return err_set(e, ERR_USAGE, "--recommend: \"by\" is followed by the name of one metric");
    return 0;
}

/* ---- choosing ---- */

static int check_columns(const struct table *t, const struct recommend *what, struct err *e)
{
    for (int i = 0; i < what->n; i++) {
        struct nearest near = { .wanted = what->all[i].column };
        int c = table_column(t, what->all[i].column);
        if (c >= 0 && t->columns[c].kind != COLUMN_TEXT)
            continue;
        for (int k = 0; k < t->n_columns; k++)
            if (t->columns[k].kind != COLUMN_TEXT)
                nearest_offer(&near, t->columns[k].name);
        return err_set(e, ERR_USAGE,
                       "--recommend: the summary has no column of numbers called %s; the nearest "
                       "is %s",
                       what->all[i].column, near.best ? near.best : "none");
    }
    return 0;
}

static double value_of(const struct table *t, int row, const char *column)
{
    int c = table_column(t, column);

    return t->columns[c].kind == COLUMN_REAL ? t->columns[c].real[row]
                                             : (double)t->columns[c].count[row];
}

/* How far a value is from fulfilling: 0 and below it does; NaN never does. */
static double excess(const struct condition *c, double value)
{
    double d = c->sign[0] == '<'   ? value - c->limit
               : c->sign[0] == '>' ? c->limit - value
                                   : fabs(value - c->limit);
    double size = fmax(fabs(c->limit), 1e-300);

    if (isnan(d))
        return INFINITY;
    if (d == 0 && !c->sign[1] && c->sign[0] != '=')
        return 1e-300; /* on the limit of a strict condition */
    return d / size;
}

static double worst_excess(const struct table *t, int row, const struct recommend *what, int *which)
{
    double worst = -INFINITY;

    *which = 0;
    for (int i = 0; i < what->n; i++) {
        double x = excess(&what->all[i], value_of(t, row, what->all[i].column));
        if (x > worst) {
            worst = x;
            *which = i;
        }
    }
    return worst;
}

static int half_row(const struct table *halves, const char *name, const char *metric)
{
    for (int i = 0; i < halves->n_rows; i++)
        if (!strcmp(table_text(halves, i, "name"), name) &&
            !strcmp(table_text(halves, i, "metric"), metric))
            return i;
    return -1;
}

/* Perplexity first: it says more with fewer documents than a score of answers. */
static const struct metric *deciding(const struct store_report *r, const struct recommend *what,
                                     struct err *e)
{
    static const char *const order[] = { "perplexity", "kl" };
    struct nearest near = { .wanted = what->by };

    for (size_t i = 0; !*what->by && i < sizeof order / sizeof *order; i++)
        for (int k = 0; k < r->halves.n_rows; k++)
            if (!strcmp(table_text(&r->halves, k, "metric"), order[i]))
                return metric_find(order[i]);
    for (int k = 0; k < r->halves.n_rows; k++) {
        const char *name = table_text(&r->halves, k, "metric");
        if (!*what->by || !strcmp(name, what->by))
            return metric_find(name);
        nearest_offer(&near, name);
    }
    if (!near.best)
        err_set(e, ERR_USAGE, "--recommend: the file holds no scores by document to choose by");
    else
        err_set(e, ERR_USAGE, "--recommend: no experiment was scored by %s; the nearest is %s",
                what->by, near.best);
    return NULL;
}

struct ranking {
    int *row; /* of the summary, best first */
    int n;
};

static double choice_of(const struct store_report *r, int row, const struct metric *m)
{
    int h = half_row(&r->halves, table_text(&r->summary, row, "name"), m->name);
    double x = h < 0 ? NAN : table_real(&r->halves, h, "select");

    return m->higher_is_better ? x : -x;
}

/* Insertion keeps the order of the file among equals; there are hundreds at most. */
static struct ranking rank(const struct store_report *r, const struct recommend *what,
                           const struct metric *m)
{
    struct ranking out = { mem_array((size_t)r->summary.n_rows, sizeof(int)), 0 };
    int which;

    for (int i = 0; i < r->summary.n_rows; i++) {
        double x = choice_of(r, i, m);
        int at = out.n;
        if (isnan(x) || (what->n && worst_excess(&r->summary, i, what, &which) > 0))
            continue;
        for (; at > 0 && choice_of(r, out.row[at - 1], m) < x; at--)
            out.row[at] = out.row[at - 1];
        out.row[at] = i;
        out.n++;
    }
    return out;
}

/* ---- the answer ---- */

static void print_conditions(FILE *to, const struct recommend *what)
{
    for (int i = 0; i < what->n; i++)
        fprintf(to, "%s%s %s %g", i ? " and " : "", what->all[i].column, what->all[i].sign,
                what->all[i].limit);
    if (!what->n)
        fprintf(to, "no constraint");
}

static void print_nearest(FILE *to, const struct store_report *r, const struct recommend *what)
{
    double least = INFINITY;
    int best = -1, which = 0;

    for (int i = 0; i < r->summary.n_rows; i++) {
        int k;
        double x = worst_excess(&r->summary, i, what, &k);
        if (x < least) {
            least = x;
            best = i;
            which = k;
        }
    }
    fprintf(to, "no experiment fulfils ");
    print_conditions(to, what);
    if (best >= 0 && isfinite(least) && least > 0)
        fprintf(to, "; the nearest is %s with %s = %g", table_text(&r->summary, best, "name"),
                what->all[which].column, value_of(&r->summary, best, what->all[which].column));
    fprintf(to, "\n");
}

static void print_value(FILE *to, const struct table *t, int row, const char *column)
{
    char name[96];
    int c = table_column(t, column);

    if (c < 0 || t->columns[c].kind != COLUMN_REAL || isnan(t->columns[c].real[row]))
        return;
    fprintf(to, "  %-20s %.4g", column, t->columns[c].real[row]);
    snprintf(name, sizeof name, "%s_ci_low", column);
    double low = table_real(t, row, name);
    snprintf(name, sizeof name, "%s_ci_high", column);
    double high = table_real(t, row, name);
    if (isfinite(low) && isfinite(high))
        fprintf(to, " [%.4g, %.4g]", low, high);
    fprintf(to, "%s%s\n", strcmp(t->columns[c].unit, "1") ? " " : "",
            strcmp(t->columns[c].unit, "1") ? t->columns[c].unit : "");
}

static void print_verdicts(FILE *to, const struct store_report *r, const char *name)
{
    const struct table *t = &r->comparisons;

    for (int i = 0; i < t->n_rows; i++) {
        const char *a = table_text(t, i, "a"), *b = table_text(t, i, "b");
        const char *verdict = table_text(t, i, "verdict");
        if (!a || !b || !verdict || (strcmp(a, name) && strcmp(b, name)))
            continue;
        double needed = table_real(t, i, "items_needed");
        fprintf(to, "  %s against %s by %s: %s", a, b, table_text(t, i, "metric"), verdict);
        if (needed > 0)
            fprintf(to, " (about %.0f items would decide)", needed);
        fprintf(to, "\n");
    }
}

static const char *verdict_between(const struct table *t, const char *a, const char *b,
                                   const char *metric)
{
    for (int i = 0; i < t->n_rows; i++) {
        const char *x = table_text(t, i, "a"), *y = table_text(t, i, "b");
        if (!strcmp(table_text(t, i, "metric"), metric) &&
            ((!strcmp(x, a) && !strcmp(y, b)) || (!strcmp(x, b) && !strcmp(y, a))))
            return table_text(t, i, "verdict");
    }
    return NULL;
}

static void print_rivals(FILE *to, const struct store_report *r, const struct metric *m,
                         const struct ranking *ranks)
{
    const char *best = table_text(&r->summary, ranks->row[0], "name");

    for (int i = 1; i < ranks->n && i <= 3; i++) {
        const char *name = table_text(&r->summary, ranks->row[i], "name");
        const char *verdict = verdict_between(&r->comparisons, best, name, m->name);
        int h = half_row(&r->halves, name, m->name);
        fprintf(to, "  next: %s, %.4g on the same half; ", name,
                table_real(&r->halves, h, "select"));
        if (verdict)
            fprintf(to, "the two are compared: %s\n", verdict);
        else
            fprintf(to, "not tested against it ([[comparison]] a = \"%s\", b = \"%s\")\n", best,
                    name);
    }
}

int recommend_print(FILE *to, const struct store_report *r, const struct recommend *what,
                    struct err *e)
{
    const struct metric *m;

    if (check_columns(&r->summary, what, e) < 0 || !(m = deciding(r, what, e)))
        return -1;
    struct ranking ranks = rank(r, what, m);
    if (ranks.n == 0) {
        print_nearest(to, r, what);
        free(ranks.row);
        return 0;
    }
    int row = ranks.row[0];
    const char *name = table_text(&r->summary, row, "name");
    int h = half_row(&r->halves, name, m->name);

    fprintf(to, "recommended: %s (", name);
    print_conditions(to, what);
    fprintf(to, "; by %s)\n", m->name);
    fprintf(to, "  best of %d on the half of the documents that choices are made by (%lld): %.4g\n",
            ranks.n, (long long)table_count(&r->halves, h, "n_select"),
            table_real(&r->halves, h, "select"));
    fprintf(to, "  the other half (%lld), which had no part in it, confirms %.4g [%.4g, %.4g]\n",
            (long long)table_count(&r->halves, h, "n_confirm"),
            table_real(&r->halves, h, "confirm"), table_real(&r->halves, h, "confirm_ci_low"),
            table_real(&r->halves, h, "confirm_ci_high"));
    print_value(to, &r->summary, row, "model_mb");
    print_value(to, &r->summary, row, "bits_per_weight");
    for (int i = 0; i < r->summary.n_columns; i++)
        if (metric_find(r->summary.columns[i].name) &&
            metric_find(r->summary.columns[i].name)->in_summary)
            print_value(to, &r->summary, row, r->summary.columns[i].name);
    print_verdicts(to, r, name);
    print_rivals(to, r, m, &ranks);
    free(ranks.row);
    return 1;
}
