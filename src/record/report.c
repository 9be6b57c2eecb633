/* report.c - see report.h. */
#include "record/report.h"

#include "base/memory.h"
#include "record/grid.h"
#include "record/metric.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH_STANDARD = 100, WIDTH_MIN = 40, NUMBER_MAX = 48, CELL_MAX = 160, WARNED_NAMED = 3 };

/* ---- numbers ---- */

enum number_form { FORM_SCORE, FORM_BITS, FORM_SIZE, FORM_TIME, FORM_RATIO, FORM_SMALL };

/* Scores with three digits behind the point, the rest with those that count. */
static const char *number(char text[NUMBER_MAX], double x, enum number_form form)
{
    static const int decimals[][4] = {
        /* below 10, 100, 1000, beyond */
        [FORM_SCORE] = { 3, 3, 3, 3 }, [FORM_BITS] = { 2, 2, 2, 2 },  [FORM_SIZE] = { 2, 2, 1, 0 },
        [FORM_TIME] = { 2, 1, 0, 0 },  [FORM_RATIO] = { 3, 2, 1, 0 }, [FORM_SMALL] = { 4, 2, 1, 0 },
    };
    double a = fabs(x);

    if (isnan(x))
        snprintf(text, NUMBER_MAX, "-");
    else if (isinf(x))
        snprintf(text, NUMBER_MAX, x < 0 ? "-inf" : "inf");
    else if (a >= 1e6)
        snprintf(text, NUMBER_MAX, "%.2e", x);
    else if (form == FORM_SMALL && a < 0.1)
        snprintf(text, NUMBER_MAX, "%.3g", x);
    else if (form == FORM_TIME && a < 1)
        snprintf(text, NUMBER_MAX, "%.3f", x);
    else
        snprintf(text, NUMBER_MAX, "%.*f", decimals[form][(a >= 10) + (a >= 100) + (a >= 1000)], x);
    return text;
}

/* "± 0.031"; limits that lie askew, and those of ratios, as "[6.21, 6.84]"; "" for none. */
static const char *interval(char out[CELL_MAX], double x, double low, double high,
                            enum number_form form)
{
    char from[NUMBER_MAX], to[NUMBER_MAX];
    double up = high - x, down = x - low;

    if (!isfinite(x) || !isfinite(low) || !isfinite(high))
        snprintf(out, CELL_MAX, "%s", "");
    else if (form == FORM_SCORE && fabs(up - down) <= 0.02 * (up + down))
        snprintf(out, CELL_MAX, "± %s", number(from, (up + down) / 2, form));
    else
        snprintf(out, CELL_MAX, "[%s, %s]", number(from, low, form), number(to, high, form));
    return out;
}

/* ---- the summary ---- */

static const struct shown {
    const char *column, *heading;
    enum number_form form;
    bool has_interval;
} shown[] = {
    { "model_mb", "MiB", FORM_SIZE, false },
    { "bits_per_weight", "bits/w", FORM_BITS, false },
    { "coqa_f1", "CoQA F1", FORM_SCORE, true },
    { "coqa_em", "EM", FORM_SCORE, true },
    { "perplexity", "perplexity", FORM_RATIO, true },
    { "kl", "KL", FORM_SMALL, true },
    { "top1_agreement", "top-1", FORM_SCORE, true },
    { "prefill_ms", "prefill ms", FORM_TIME, false },
    { "decode_ms_per_token", "ms/token", FORM_TIME, false },
};

static double with_suffix(const struct table *t, int row, const char *column, const char *suffix)
{
    char name[128];

    snprintf(name, sizeof name, "%s%s", column, suffix);
    return table_real(t, row, name);
}

/* Numbers end and intervals begin at the same place in every row. */
static void add_numbers(struct grid *g, const struct table *t, const struct shown *x)
{
    char value[NUMBER_MAX], limits[CELL_MAX];
    int widest = 0;

    for (int i = 0; i < t->n_rows; i++) {
        int n = (int)strlen(number(value, table_real(t, i, x->column), x->form));
        widest = n > widest ? n : widest;
    }
    grid_add_column(g, x->heading, x->has_interval);
    for (int i = 0; i < t->n_rows; i++) {
        double mean = table_real(t, i, x->column);
        double low = x->has_interval ? with_suffix(t, i, x->column, "_ci_low") : NAN;
        double high = x->has_interval ? with_suffix(t, i, x->column, "_ci_high") : NAN;
        interval(limits, mean, low, high, x->form);
        grid_set(g, i, "%*s%s%s", widest, number(value, mean, x->form), *limits ? " " : "", limits);
    }
}

/* Of the multiple-choice tasks: headings as lm-evaluation-harness names them. */
static void add_choices(struct grid *g, const struct table *t)
{
    for (const struct metric *m = metrics; m->name; m++) {
        char heading[64];
        bool share = m->is_share;
        if (strncmp(m->group, "multiple_choice.", 16) || table_column(t, m->name) < 0)
            continue;
        snprintf(heading, sizeof heading, "%s %s", m->group + 16, m->member);
        add_numbers(g, t,
                    &(struct shown){ m->name, heading, share ? FORM_SCORE : FORM_RATIO, true });
    }
}

static void add_texts(struct grid *g, const struct table *t, const char *column)
{
    grid_add_column(g, column, true);
    for (int i = 0; i < t->n_rows; i++)
        grid_set(g, i, "%s", table_text(t, i, column) ? table_text(t, i, column) : "");
}

static void print_summary(FILE *to, const struct table *t, int width)
{
    struct grid g = { .n_rows = t->n_rows, .n_keys = 1 };
    static const char throughput[] = "throughput_tok_s_b";

    grid_add_column(&g, "experiment", true);
    for (int i = 0; i < t->n_rows; i++)
        grid_set(&g, i, "%s", table_text(t, i, "name") ? table_text(t, i, "name") : "");
    add_texts(&g, t, "status");
    grid_add_column(&g, "seeds", false);
    for (int i = 0; i < t->n_rows; i++)
        grid_set(&g, i, "%" PRId64, table_count(t, i, "n_seeds"));
    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) {
        if (strcmp(shown[i].column, "prefill_ms") == 0)
            add_choices(&g, t);
        if (table_column(t, shown[i].column) >= 0)
            add_numbers(&g, t, &shown[i]);
    }
    for (int i = 0; i < t->n_columns; i++) {
        const char *name = t->columns[i].name, *size = name + strlen(throughput);
        char heading[32];
        if (strncmp(name, throughput, strlen(throughput)) || size[strspn(size, "0123456789")])
            continue;
        snprintf(heading, sizeof heading, "tok/s b%.10s", size);
        add_numbers(&g, t, &(struct shown){ name, heading, FORM_TIME, false });
    }
    grid_print(to, &g, width);
    grid_release(&g);
}

/* ---- comparisons ---- */

/* Differences with their sign; of logarithms as a change in percent. */
static const char *difference(char out[CELL_MAX], const struct table *t, int row)
{
    const char *name = table_text(t, row, "metric");
    const struct metric *m = name ? metric_find(name) : NULL;
    double x[3] = { table_real(t, row, "delta"), table_real(t, row, "ci_low"),
                    table_real(t, row, "ci_high") };
    bool percent = m && (m->log_scale || m->compared_as_log);

    for (int i = 0; i < 3 && percent; i++)
        x[i] = 100 * expm1(x[i]);
    if (isnan(x[0]))
        snprintf(out, CELL_MAX, "-");
    else if (isnan(x[1]) || isnan(x[2]))
        snprintf(out, CELL_MAX, percent ? "%+.2f %%" : "%+.3f", x[0]);
    else
        snprintf(out, CELL_MAX, percent ? "%+.2f %% [%+.2f, %+.2f]" : "%+.3f [%+.3f, %+.3f]", x[0],
                 x[1], x[2]);
    return out;
}

/* 3 significant digits are more than a power calculation knows. */
static double rounded_up(double n)
{
    double unit = pow(10, fmax(0, floor(log10(n)) - 1));

    return ceil(n / unit) * unit;
}

static bool is_against(const struct table *t, int row, const char *b)
{
    const char *own = table_text(t, row, "b");

    return own && !strcmp(own, b);
}

/* All rows against one b. */
static void print_against(FILE *to, const struct table *t, const char *b, int width)
{
    struct grid g = { .n_keys = 2 };
    int *row = mem_array((size_t)t->n_rows, sizeof *row);
    char text[CELL_MAX];

    for (int i = 0; i < t->n_rows; i++)
        if (is_against(t, i, b))
            row[g.n_rows++] = i;
    grid_add_column(&g, "experiment", true);
    for (int i = 0; i < g.n_rows; i++) /* a name once, at its first metric */
        if (i == 0 || strcmp(table_text(t, row[i], "a"), table_text(t, row[i - 1], "a")))
            grid_set(&g, i, "%s", table_text(t, row[i], "a"));
    grid_add_column(&g, "metric", true);
    for (int i = 0; i < g.n_rows; i++)
        grid_set(&g, i, "%s", table_text(t, row[i], "metric"));
    grid_add_column(&g, "difference", false);
    for (int i = 0; i < g.n_rows; i++)
        grid_set(&g, i, "%s", difference(text, t, row[i]));
    grid_add_column(&g, "p (Holm)", false);
    g.columns[g.n_columns - 1].optional = true;
    for (int i = 0; i < g.n_rows; i++) {
        double p = table_real(t, row[i], "p_holm");
        grid_set(&g, i, isnan(p) ? "-" : p < 0.0001 ? "< 0.0001" : "%.4f", p);
    }
    grid_add_column(&g, "verdict", true);
    for (int i = 0; i < g.n_rows; i++) {
        double n = table_real(t, row[i], "items_needed");
        const char *verdict = table_text(t, row[i], "verdict"),
                   *note = table_text(t, row[i], "note");
        if (n > 0)
            grid_set(&g, i, "%s (~%.0f items)", verdict ? verdict : "", rounded_up(n));
        else if (note && *note)
            grid_set(&g, i, "%s (%s)", verdict ? verdict : "", note);
        else
            grid_set(&g, i, "%s", verdict ? verdict : "");
    }
    fprintf(to, "\ncompared with %s, pair by pair:\n", b);
    grid_print(to, &g, width);
    grid_release(&g);
    free(row);
}

static void print_comparisons(FILE *to, const struct store_report *r, int width)
{
    const struct table *t = &r->comparisons;
    bool undecided = false;

    for (int i = 0; i < t->n_rows; i++) {
        const char *b = table_text(t, i, "b");
        bool printed = !b || !table_text(t, i, "a") || !table_text(t, i, "metric");
        for (int k = 0; k < i && !printed; k++)
            printed = is_against(t, k, b);
        if (!printed)
            print_against(to, t, b, width);
        undecided = undecided || table_real(t, i, "items_needed") > 0;
    }
    if (undecided)
        fprintf(to, "undecided (~N items): about N pairs would give a verdict with a power of "
                    "80 %%\n");
    if (*r->no_comparisons)
        fprintf(to, "\ncomparisons are missing: %s\n", r->no_comparisons);
}

/* ---- warnings ---- */

/* A line a text, with the experiments that it concerns; many have the same one. */
static void print_warnings(FILE *to, const struct table *t)
{
    for (int i = 0; i < t->n_rows; i++) {
        const char *text = table_text(t, i, "warnings");
        bool is_new = text && *text;
        int n = 0;

        for (int k = 0; k < i && is_new; k++)
            is_new = strcmp(table_text(t, k, "warnings"), text) != 0;
        for (int k = i; k < t->n_rows && is_new; k++) {
            const char *name = table_text(t, k, "name");
            if (strcmp(table_text(t, k, "warnings"), text) != 0)
                continue;
            if (n++ < WARNED_NAMED)
                fprintf(to, "%s%s", n == 1 ? "warning: " : ", ", name ? name : "?");
        }
        if (n > WARNED_NAMED)
            fprintf(to, " and %d more", n - WARNED_NAMED);
        if (n)
            fprintf(to, ": %s\n", text);
    }
}

/* ---- failures ---- */

/* Not wrapped: the text ends with a command to be copied. */
static void print_failures(FILE *to, const struct table *t)
{
    if (t->n_rows)
        fprintf(to, "\nfailed:\n");
    for (int i = 0; i < t->n_rows; i++) {
        const char *name = table_text(t, i, "experiment"), *stage = table_text(t, i, "stage");
        const char *error = table_text(t, i, "error");
        fprintf(to, "%s, seed %" PRId64 "%s%s: ", name ? name : "?", table_count(t, i, "seed"),
                stage && *stage ? ", " : "", stage ? stage : "");
        for (; error && *error; error++)
            fputc(*error == '\n' || *error == '\r' ? ' ' : *error, to);
        fputc('\n', to);
    }
}

/* ---- the whole ---- */

static void print_head(FILE *to, const struct store_report *r)
{
    fprintf(to, "%s: %" PRId64 " job%s, %" PRId64 " succeeded", r->name, r->jobs_total,
            r->jobs_total == 1 ? "" : "s", r->jobs_ok);
    if (r->jobs_failed)
        fprintf(to, ", %" PRId64 " failed", r->jobs_failed);
    if (!r->complete)
        fprintf(to, ", not complete");
    fprintf(to, "\n\n");
}

static void print_legend(FILE *to, const struct store_report *r)
{
    double seconds = 0;

    for (int i = 0; i < r->summary.n_rows; i++) {
        double s = table_real(&r->summary, i, "gpu_seconds");
        seconds += isfinite(s) ? s : 0;
    }
    fprintf(to, "± and [ ]: %g %% intervals, across seeds where they matter, else across items\n",
            100 * r->confidence);
    fprintf(to, "device time: %.1f s (%.3f GPU-hours)\n", seconds, seconds / 3600);
}

void report_print(FILE *to, const struct store_report *r, int width)
{
    if (width <= 0)
        width = WIDTH_STANDARD;
    if (width < WIDTH_MIN)
        width = WIDTH_MIN;
    print_head(to, r);
    print_summary(to, &r->summary, width);
    print_legend(to, r);
    print_comparisons(to, r, width);
    print_warnings(to, &r->summary);
    print_failures(to, &r->failures);
}
