/* test_comparisons.c - from records made by hand to pairs, fronts and verdicts. */
#include "summary_by_hand.h"

#include "base/resample.h"
#include "record/compare.h"

static void pairs_are_the_same_document_and_seed(void **state)
{
    (void)state;
    struct hand h;
    random_sweep(&h);
    struct summary s = make(&h);
    double d[3 * N], log_ratio[WINDOWS];
    int64_t cluster[3 * N], own[WINDOWS];
    int document[N];

    for (int seed = 0; seed < 3; seed++) {
        draw(seed, N, document);
        for (int i = 0; i < N; i++) {
            d[seed * N + i] = hand_score(2, document[i]) - hand_score(0, document[i]);
            cluster[seed * N + i] = document[i];
        }
    }
    for (int i = 0; i < WINDOWS; i++) {
        log_ratio[i] = 0.2 + 0.3 * (hand_score(2, 100 + i) - hand_score(0, 100 + i));
        own[i] = i;
    }
    struct estimate f1 = stats_clustered(d, cluster, 3 * N, 0.95);
    struct estimate ppl = stats_clustered(log_ratio, own, WINDOWS, 0.95);
    const struct table *t = &s.comparisons;
    int row = pair(&s, "rtn2", "coqa_f1");

    CHECK(t->n_rows == 6, "two experiments, three metrics; the baseline is not its own rival");
    CHECK(check_near(table_real(t, row, "delta"), f1.mean, 1e-13) &&
              check_near(table_real(t, row, "ci_low"), f1.low, 1e-12) &&
              check_near(table_real(t, row, "ci_high"), f1.high, 1e-12) &&
              check_near(table_real(t, row, "p_value"),
                         resample_sign_flip(d, cluster, 3 * N, 100000, 1), 1e-15),
          "paired by document and seed, clustered by document");
    CHECK(!strcmp(table_text(t, row, "test"), "sign flips") && f1.n_clusters < 50,
          "of few documents signs are flipped");
    CHECK(table_count(t, row, "n_items") == 3 * N &&
              table_count(t, row, "n_documents") == f1.n_clusters,
          "both are counted");
    row = pair(&s, "rtn2", "perplexity");
    CHECK(check_near(table_real(t, row, "delta"), ppl.mean, 1e-12) &&
              check_near(table_real(t, row, "ci_high"), ppl.high, 1e-12),
          "the difference of mean logarithms over windows");
    CHECK(table_count(t, row, "n_items") == WINDOWS, "equal seeds are no new windows");
    CHECK(!strcmp(table_text(t, row, "verdict"), "worse"), "higher perplexity is worse");
    CHECK(check_near(table_real(t, row, "margin"), log(1.01), 1e-15),
          "one percent, as a logarithm");

    double p[6], holm[6];
    for (int i = 0; i < 6; i++)
        p[i] = table_real(t, i, "p_value");
    stats_holm(p, 6, holm);
    for (int i = 0; i < 6; i++)
        CHECK(holm[i] == table_real(t, i, "p_holm"), "one Holm family: row %d", i);
    CHECK(!*s.no_comparisons, "there are comparisons");
    summary_release(&s);
    hand_release(&h);
}

static void only_common_items_are_paired(void **state)
{
    (void)state;
    struct hand h;
    hand_init(&h, 2, 1, "first");
    int a[] = { 1, 2, 3, 4, 5, 6 }, b[] = { 9, 6, 5, 4, 3, 2, 8 };
    double fa[] = { 0.1, 0.2, 0.3, 0.4, 0.5, 0.6 }, fb[] = { 0, 0.5, 0.4, 0.4, 0.3, 0.1, 1 };
    hand_coqa(hand_record(&h, "nf4", 0, "success"), 6, a, fa, fa);
    hand_coqa(hand_record(&h, "fp16", 0, "success"), 7, b, fb, fb);
    struct summary s = make(&h);
    int row = pair(&s, "nf4", "coqa_f1");

    CHECK(table_count(&s.comparisons, row, "n_items") == 5, "documents 2 to 6 are common");
    CHECK(check_near(table_real(&s.comparisons, row, "delta"), 0.3 / 5, 1e-15),
          "0.1 + 0 + 0 + 0.1 + 0.1 over five, got %g", table_real(&s.comparisons, row, "delta"));
    CHECK(s.comparisons.n_rows == 2, "no perplexity, no row for it");
    summary_release(&s);
    hand_release(&h);
}

/* ---- pairs of the sweep, tests, families ---- */

static void pairs_of_the_sweep_join_the_family(void **state)
{
    (void)state;
    struct hand h;
    random_sweep(&h);
    struct comparison own[] = { { .a = "rtn2", .b = "nf4" }, { .a = "fp16", .b = "nf4" } };
    h.s.comparisons = own;
    h.s.n_comparisons = 2;
    struct summary s = make(&h);
    const struct table *t = &s.comparisons;
    double p[9], holm[9];

    CHECK(t->n_rows == 9, "six rows against the baseline, three of rtn2 against nf4, none twice");
    for (int i = 6; i < 9; i++)
        CHECK(!strcmp(table_text(t, i, "a"), "rtn2") && !strcmp(table_text(t, i, "b"), "nf4"),
              "row %d is the sweep's own pair", i);
    CHECK(check_near(table_real(t, 6, "delta"),
                     table_real(t, 3, "delta") - table_real(t, 0, "delta"), 1e-13),
          "the same documents: differences add up");
    for (int i = 0; i < 9; i++)
        p[i] = table_real(t, i, "p_value");
    stats_holm(p, 9, holm);
    for (int i = 0; i < 9; i++) {
        CHECK(holm[i] == table_real(t, i, "p_holm"), "one Holm family of nine: row %d", i);
        CHECK(table_real(t, i, "family_low") < table_real(t, i, "ci_low") &&
                  table_real(t, i, "family_high") > table_real(t, i, "ci_high"),
              "an interval that holds for nine tests is wider");
    }
    summary_release(&s);

    h.s.baseline[0] = 0;
    s = make(&h);
    CHECK(s.comparisons.n_rows == 6 && strstr(s.no_comparisons, "no baseline"),
          "own pairs need no baseline");
    summary_release(&s);
    hand_release(&h);
}

/* n documents; `a` is right and b wrong on the first up, the other way on the next down. */
static struct summary of_flips(struct hand *h, int n, int up, int down)
{
    double *a = malloc((size_t)n * sizeof *a), *b = malloc((size_t)n * sizeof *b);
    int *document = malloc((size_t)n * sizeof *document);

    hand_init(h, 2, 1, "first");
    for (int i = 0; i < n; i++) {
        document[i] = i;
        a[i] = b[i] = i % 3 == 0;
        if (i < up + down) {
            a[i] = i < up;
            b[i] = 1 - a[i];
        }
    }
    hand_coqa(hand_record(h, "fp16", 0, "success"), n, document, b, b);
    hand_coqa(hand_record(h, "nf4", 0, "success"), n, document, a, a);
    free(a);
    free(b);
    free(document);
    return make(h);
}

static void right_and_wrong_is_tested_by_mcnemar(void **state)
{
    (void)state;
    struct hand h;
    struct summary s = of_flips(&h, 400, 9, 31);
    int row = pair(&s, "nf4", "coqa_em");

    CHECK(check_near(table_real(&s.comparisons, row, "p_value"), stats_mcnemar(9, 31, 400).p_exact,
                     1e-15) &&
              !strcmp(table_text(&s.comparisons, row, "test"), "McNemar"),
          "the exact test of 9 against 31");
    CHECK(table_real(&s.comparisons, row, "flip_rate") == 0.1, "one answer in ten flipped");
    /* 95 % by Bonett and Price: one more each way. */
    double t = -student_quantile(0.025, 399), d = 22.0 / 402;
    double se = sqrt((40.0 - 22.0 * 22 / 400) / 399 / 400 * 400 * 400 + 2) / 402;
    CHECK(check_near(table_real(&s.comparisons, row, "ci_low"), -d - t * se, 1e-12) &&
              check_near(table_real(&s.comparisons, row, "ci_high"), -d + t * se, 1e-12),
          "few flips: two more");
    CHECK(check_near(table_real(&s.comparisons, row, "delta"), -22.0 / 400, 1e-15), "net -5.5 %%");
    CHECK(!strcmp(table_text(&s.comparisons, row, "verdict"), "worse"), "and worse");
    summary_release(&s);
    hand_release(&h);
}

static void intervals_stay_in_their_range(void **state)
{
    (void)state;
    struct hand h;
    struct summary s = of_flips(&h, 3, 3, 0);
    int row = pair(&s, "nf4", "coqa_f1");

    CHECK(table_real(&s.comparisons, row, "ci_high") <= 1 &&
              table_real(&s.comparisons, row, "ci_low") >= -1,
          "three differences of 1");
    summary_release(&s);
    hand_release(&h);
    s = of_flips(&h, 3, 2, 1);
    row = pair(&s, "nf4", "coqa_f1");
    CHECK(table_real(&s.comparisons, row, "ci_high") == 1 &&
              table_real(&s.comparisons, row, "ci_low") == -1,
          "1, 1 and -1 say nothing, but no more than that");
    for (int x = 0; x < 2; x++)
        CHECK(of(&s, x, "coqa_f1", "item_ci_low") >= 0 && of(&s, x, "coqa_f1", "item_ci_high") <= 1,
              "no score is below 0 or above 1");
    summary_release(&s);
    hand_release(&h);
}

/* The reference study's mistake: a difference of scores on 50 documents, without an interval.  Here
 * `a` loses an answer of b's in one document of ten, and wins one in twenty: 5 points of F1. */
static void fifty_items_cannot_decide_what_five_hundred_can(void **state)
{
    (void)state;
    const char *verdict[2];
    double needed[2];

    for (int k = 0; k < 2; k++) {
        struct hand h;
        int n = k ? 500 : 50;
        struct summary s = of_flips(&h, n, n / 20, n / 10);
        int row = pair(&s, "nf4", "coqa_f1");
        const struct table *t = &s.comparisons;

        CHECK(check_near(table_real(t, row, "delta"), k ? -0.05 : (2 - 5) / 50.0, 1e-12),
              "about five points are lost on %d documents", n);
        verdict[k] = strdup(table_text(t, row, "verdict"));
        needed[k] = table_real(t, row, "items_needed");
        summary_release(&s);
        hand_release(&h);
    }
    CHECK(!strcmp(verdict[0], "undecided"), "50 documents decide nothing, not \"%s\"", verdict[0]);
    CHECK(needed[0] > 50 && needed[0] <= 1000, "but say how many would: %g", needed[0]);
    CHECK(!strcmp(verdict[1], "worse"), "500 decide: \"%s\"", verdict[1]);
    CHECK(isnan(needed[1]), "and need no more");
    free((char *)(uintptr_t)verdict[0]);
    free((char *)(uintptr_t)verdict[1]);
}

/* Of 150 answers one was lost: three may well be.  By t the 90 % interval would end at
 * 1.8 %. */
static void empty_answers_are_said(void **state)
{
    (void)state;
    struct hand h;
    struct summary s = of_flips(&h, 50, 1, 2);

    CHECK(!strstr(note(&s, 1, "coqa_f1"), "empty"), "of none nothing is said");
    summary_release(&s);
    for (int i = 0; i < h.n_records; i++)
        js_set_int((struct js *)(uintptr_t)js_get(h.record[i], "coqa"), "n_empty", 26),
            js_set_int((struct js *)(uintptr_t)js_get(h.record[i], "coqa"), "truncated", 3);
    s = make(&h);
    CHECK(strstr(note(&s, 1, "coqa_f1"), "26 of 50 answers are empty"), "of most: \"%s\"",
          note(&s, 1, "coqa_f1"));
    CHECK(strstr(note(&s, 1, "coqa_f1"), "3 of 50 contexts lost their left end"),
          "and what was cut");
    CHECK(!strcmp(
              table_text(&s.summary, 1, "warnings"),
              "coqa_f1, coqa_em: 26 of 50 answers are empty: is this the model's tokenizer?; 3 of "
              "50 contexts lost their left end"),
          "the summary has it, too: \"%s\"", table_text(&s.summary, 1, "warnings"));
    summary_release(&s);
    hand_release(&h);
}

static void one_document_has_no_interval(void **state)
{
    (void)state;
    struct hand h;
    struct summary s = of_flips(&h, 1, 0, 0);

    CHECK(of(&s, 1, "coqa_em", "mean") == 1, "one right answer");
    CHECK(isnan(of(&s, 1, "coqa_em", "item_ci_low")) &&
              isnan(of(&s, 1, "coqa_em", "item_ci_high")) &&
              isnan(table_real(&s.summary, 1, "coqa_f1_ci_low")),
          "is no interval");
    CHECK(strstr(note(&s, 1, "coqa_em"), "fewer than two values") &&
              !strstr(note(&s, 1, "coqa_em"), "nan"),
          "with the reason: \"%s\"", note(&s, 1, "coqa_em"));
    CHECK(strstr(table_text(&s.summary, 1, "warnings"), "no interval: fewer than two values"),
          "which the summary says: \"%s\"", table_text(&s.summary, 1, "warnings"));
    summary_release(&s);
    hand_release(&h);
}

static void few_documents_are_said(void **state)
{
    (void)state;
    struct hand h;
    struct summary s = of_flips(&h, 12, 1, 2);

    CHECK(strstr(note(&s, 1, "coqa_em"), "few documents for their skewness"), "in the note");
    CHECK(strstr(table_text(&s.summary, 1, "warnings"),
                 "few documents for their skewness: the interval may be too narrow"),
          "and in the summary: \"%s\"", table_text(&s.summary, 1, "warnings"));
    summary_release(&s);
    hand_release(&h);
    s = of_flips(&h, 60, 1, 2);
    CHECK(!*table_text(&s.summary, 1, "warnings"), "enough are not: \"%s\"",
          table_text(&s.summary, 1, "warnings"));
    summary_release(&s);
    hand_release(&h);
}

static void one_flip_does_not_prove_equivalence(void **state)
{
    (void)state;
    struct hand h;
    struct summary s;
    int row;

    s = of_flips(&h, 150, 0, 1);
    h.s.n_margins = 1;
    h.s.margins[0] = (struct margin){ "coqa_em", 0.018 };
    summary_release(&s);
    s = make(&h);
    row = pair(&s, "nf4", "coqa_em");
    double low = table_real(&s.comparisons, row, "ci90_low");
    double p = table_real(&s.comparisons, row, "p_non_inferior");
    CHECK(low < -0.02, "the 90 %% interval reaches two");
    CHECK(p > 0.05 && p < 0.5, "p_non_inferior goes with it: %g", p);
    CHECK(!strcmp(table_text(&s.comparisons, row, "verdict"), "undecided"), "not \"%s\"",
          table_text(&s.comparisons, row, "verdict"));
    summary_release(&s);
    hand_release(&h);
}

/* ---- fronts ---- */

/* Three experiments of 16, 4 and 2 MiB; every document costs nf4 `nf4` and rtn2 `rtn2` points, up
 * to a noise that the means do not show. */
static struct summary of_losses(struct hand *h, double nf4, double rtn2, double noise)
{
    enum { N_DOCUMENTS = 60 };
    double f1[N_DOCUMENTS];
    int document[N_DOCUMENTS];
    const double mib[] = { 16, 4, 2 }, loss[] = { 0, nf4, rtn2 };

    hand_init(h, 3, 1, "first");
    for (int x = 0; x < 3; x++) {
        struct js *r = hand_record(h, h->x[x].name, 0, "success");
        for (int i = 0; i < N_DOCUMENTS; i++) {
            document[i] = i;
            f1[i] = 0.5 + 0.3 * sin(i) - loss[x] + (x ? noise * ((i + x) % 2 ? 1 : -1) : 0);
        }
        hand_coqa(r, N_DOCUMENTS, document, f1, f1);
        hand_sizes(r, mib[x], mib[x], 16);
    }
    return make(h);
}

static void front_is(const struct summary *s, const char *front, const char *metric,
                     const char *want)
{
    char got[256] = "";

    for (int i = 0; i < s->pareto.n_rows; i++)
        if (!strcmp(table_text(&s->pareto, i, "front"), front) &&
            !strcmp(table_text(&s->pareto, i, "metric"), metric))
            snprintf(got + strlen(got), sizeof got - strlen(got), "%s ",
                     table_text(&s->pareto, i, "name"));
    CHECK(!strcmp(got, want), "%s by %s: \"%s\", not \"%s\"", front, metric, want, got);
}

static void only_a_real_difference_dominates(void **state)
{
    (void)state;
    struct hand h;
    struct summary s = of_losses(&h, 0.1, 0.2, 0.02);

    front_is(&s, "size_quality", "coqa_f1", "rtn2 nf4 fp16 ");
    front_is(&s, "latency_quality", "coqa_f1", "");
    summary_release(&s);
    hand_release(&h);
    s = of_losses(&h, 0.2, 0.1, 0.02); /* the smaller one is the better one, too */
    front_is(&s, "size_quality", "coqa_f1", "rtn2 fp16 ");
    summary_release(&s);
    hand_release(&h);
    s = of_losses(&h, 0.03, 0.02, 0.2); /* seemingly; the noise is ten times as large */
    front_is(&s, "size_quality", "coqa_f1", "rtn2 nf4 fp16 ");
    summary_release(&s);
    hand_release(&h);
    s = of_losses(&h, 0.001, 0.002, 0.001); /* both lie well inside the margin */
    front_is(&s, "size_quality", "coqa_f1", "rtn2 ");
    summary_release(&s);
    hand_release(&h);
}

/* A data-free baseline on subset "first" has one run, a calibrated rival has three. */
static void one_run_stands_for_every_seed(void **state)
{
    (void)state;
    struct hand h;
    hand_init(&h, 2, 3, "first");
    snprintf(h.x[1].method, sizeof h.x[1].method, "calibrated");
    double base[N], other[N], d[N * 3];
    int document[N];
    int64_t own[N];

    for (int i = 0; i < N; i++) {
        document[i] = (int)(own[i] = i);
        base[i] = hand_score(0, i);
    }
    hand_coqa(hand_record(&h, "fp16", 0, "success"), N, document, base, base);
    for (int seed = 0; seed < 3; seed++) {
        for (int i = 0; i < N; i++) {
            other[i] = hand_score(1 + seed, i);
            d[i * 3 + seed] = other[i] - base[i];
        }
        hand_coqa(hand_record(&h, "nf4", seed, "success"), N, document, other, other);
    }
    struct summary s = make(&h);
    struct estimate want = stats_crossed(d, own, N, 3, 0.95);
    int row = pair(&s, "nf4", "coqa_f1");

    CHECK(table_count(&s.comparisons, row, "n_items") == 3 * N, "three seeds against the one run");
    CHECK(check_near(table_real(&s.comparisons, row, "ci_low"), want.low, 1e-12), "crossed");
    summary_release(&s);
    hand_release(&h);
}

static void identical_scores_are_no_proof_but_identical_windows_are(void **state)
{
    (void)state;
    struct hand h;
    hand_init(&h, 2, 1, "first");
    add_quality(&h, 0, 0);
    add_quality(&h, 0, 0);
    js_set_text((struct js *)(uintptr_t)js_get(h.record[1], "job"), "experiment", "nf4");
    struct summary s = make(&h);
    const struct table *t = &s.comparisons;
    int f1 = pair(&s, "nf4", "coqa_f1"), ppl = pair(&s, "nf4", "perplexity");
    struct interval open = stats_constant(0, N, -1, 1, 0.95);

    CHECK(table_real(t, f1, "delta") == 0 && table_real(t, f1, "p_value") == 1, "no difference");
    CHECK(table_real(t, f1, "ci_high") == open.high && open.high > 0.1,
          "20 equal answers leave %g open", open.high);
    CHECK(!strcmp(table_text(t, f1, "verdict"), "undecided") &&
              !strcmp(table_text(t, f1, "note"), "identical on every item"),
          "20 are too few for a margin of 0.01");
    double z2 = pow(normal_quantile(0.05), 2), needed = table_real(t, f1, "items_needed");
    CHECK(needed == ceil(z2 * 99), "but %g would do", needed);
    CHECK(z2 / (needed + z2) <= 0.01, "their 90 %% interval lies inside the margin");
    CHECK(table_real(t, ppl, "ci_low") == 0 && table_real(t, ppl, "ci_high") == 0 &&
              !strcmp(table_text(t, ppl, "verdict"), "equivalent"),
          "equal to the last bit on every window is the same model");
    summary_release(&s);
    hand_release(&h);
}

static void a_missing_baseline_is_said(void **state)
{
    (void)state;
    struct hand h;
    random_sweep(&h);
    h.s.baseline[0] = 0;
    struct summary s = make(&h);
    CHECK(s.comparisons.n_rows == 0 && strstr(s.no_comparisons, "no baseline"), "%s",
          s.no_comparisons);
    CHECK(table_column(&s.comparisons, "verdict") >= 0, "the columns stand there");
    CHECK(isnan(table_real(&s.summary, 1, "compression")), "no compression without a baseline");
    summary_release(&s);

    snprintf(h.s.baseline, sizeof h.s.baseline, "fp16");
    for (int i = 0; i < 3; i++)
        js_set_text(h.record[i], "status", "error");
    s = make(&h);
    CHECK(s.comparisons.n_rows == 0 && strstr(s.no_comparisons, "fp16 has no results"), "%s",
          s.no_comparisons);
    summary_release(&s);
    hand_release(&h);
}

/* --experiment nf4 on a resumed file: the baseline is known, not asked for, and has records. */
static void a_filtered_baseline_comes_from_the_records(void **state)
{
    (void)state;
    struct hand h;
    hand_init(&h, 3, 3, "random");
    h.s.n_experiments = 1; /* nf4 first, as sweep_expand puts it; fp16 and rtn2 are known */
    struct experiment first = h.x[0];
    h.x[0] = h.x[1];
    h.x[1] = first;
    h.s.n_jobs = 3;
    for (int seed = 0; seed < 3; seed++) {
        add_quality(&h, 0, seed);
        add_quality(&h, 1, seed);
    }
    struct summary s = make(&h);
    CHECK(s.n_experiments == 2 && s.summary.n_rows == 2, "rtn2 has no records and no row");
    CHECK(s.comparisons.n_rows == 3 && !strcmp(table_text(&s.comparisons, 0, "b"), "fp16"),
          "nf4 is compared with the filtered baseline");
    CHECK(s.jobs_total == 6 && s.jobs_ok == 6, "its jobs count");
    summary_release(&s);
    hand_release(&h);
}

static void before_the_first_record(void **state)
{
    (void)state;
    struct hand h;
    struct err e = ERR_INIT;
    hand_init(&h, 2, 3, "random");
    struct summary s = make(&h);
    CHECK(s.jobs_total == 6 && s.jobs_ok == 0 && s.jobs_failed == 0, "six to come");
    CHECK(s.summary.n_rows == 2 && isnan(table_real(&s.summary, 0, "coqa_f1")) &&
              table_column(&s.summary, "perplexity_ci_low") >= 0,
          "the rows and the columns of the tasks stand there");
    CHECK(*s.no_comparisons, "no comparisons yet");
    summary_release(&s);

    hand_record(&h, "nobody knows me", 0, "success");
    s = make(&h);
    CHECK(s.jobs_total == 6 && s.summary.n_rows == 2, "a strange experiment has no row");
    summary_release(&s);
    js_set(h.record[0], "job", js_new_object());
    CHECK(summary_make(&h.s, (const struct js *const *)h.record, 1, &s, &e) < 0 &&
              e.code == ERR_INPUT,
          "a record without experiment and seed is refused");
    summary_release(&s);
    hand_release(&h);
}

static void nan_scores_decide_nothing(void **state)
{
    (void)state;
    struct hand h;
    hand_init(&h, 2, 1, "first");
    add_quality(&h, 0, 0);
    double nll[] = { 2, NAN, 2.1 };
    hand_windows(hand_record(&h, "nf4", 0, "success"), 3, nll);
    struct summary s = make(&h);
    int row = pair(&s, "nf4", "perplexity");
    CHECK(isnan(of(&s, 1, "perplexity", "mean")) &&
              strstr(note(&s, 1, "perplexity"), "a value is not finite"),
          "a NaN shows: %s", note(&s, 1, "perplexity"));
    CHECK(!strcmp(table_text(&s.comparisons, row, "verdict"), "undecided") &&
              !strcmp(table_text(&s.comparisons, row, "note"), "a value is not finite") &&
              isnan(table_real(&s.comparisons, row, "items_needed")),
          "and no number of items helps");
    summary_release(&s);
    hand_release(&h);
}

/* ---- verdicts ---- */

/* A difference far from every rule: wide, not significant. */
static struct verdict_case unclear(void)
{
    return (struct verdict_case){ .delta = -0.02,
                                  .low = -0.06,
                                  .high = 0.02,
                                  .low90 = -0.05,
                                  .high90 = 0.015,
                                  .p_holm = 0.3,
                                  .alpha = 0.05,
                                  .margin = 0.01,
                                  .higher_is_better = true };
}

/* The same case seen from a metric where lower is better. */
static struct verdict_case mirrored(struct verdict_case c)
{
    struct verdict_case m = c;

    m.delta = -c.delta;
    m.low = -c.high;
    m.high = -c.low;
    m.low90 = -c.high90;
    m.high90 = -c.low90;
    m.higher_is_better = false;
    return m;
}

static void expect(struct verdict_case c, const char *want, const char *why)
{
    CHECK(!strcmp(verdict_of(&c), want), "%s: %s, not %s", why, want, verdict_of(&c));
    c = mirrored(c);
    CHECK(!strcmp(verdict_of(&c), want), "%s, lower is better: %s, not %s", why, want,
          verdict_of(&c));
}

static void verdicts_change_at_their_limits(void **state)
{
    (void)state;
    struct verdict_case c = unclear();

    expect(c, "undecided", "nothing holds");
    c.low = 0.01, c.high = 0.05, c.low90 = 0.012, c.high90 = 0.04, c.delta = 0.03;
    expect(c, "non_inferior", "an interval that touches the margin is not beyond it");
    c.low = nextafter(0.01, 1);
    expect(c, "better", "one step further it is");

    c = unclear();
    c.high = -0.01, c.high90 = -0.012;
    expect(c, "undecided", "touching from below");
    c.high = nextafter(-0.01, -1);
    expect(c, "worse", "beyond the margin below");

    c = unclear();
    c.low90 = nextafter(-0.01, 1), c.high90 = nextafter(0.01, 0);
    expect(c, "equivalent", "the 90 % interval inside the margin");
    c.p_holm = 0.01;
    expect(c, "equivalent", "equivalence comes before significance");
    c.p_holm = 0.3, c.high90 = 0.01;
    expect(c, "non_inferior", "touching the upper margin is not inside");
    c.high90 = 0.005, c.low90 = -0.01;
    expect(c, "undecided", "touching the lower margin is neither");

    c = unclear();
    c.p_holm = 0.05;
    expect(c, "worse", "a p-value on the limit is significant");
    c.p_holm = nextafter(0.05, 1);
    expect(c, "undecided", "one above is not");
    c.delta = 0.02, c.p_holm = 0.05;
    expect(c, "better", "the sign of the difference decides");

    c = unclear();
    c.low = c.high = c.low90 = c.high90 = c.p_holm = c.delta = NAN;
    expect(c, "undecided", "NaN decides nothing");
}

static void margins_come_from_the_sweep(void **state)
{
    (void)state;
    struct sweep s = SWEEP_INIT;

    CHECK(margin_of(&s, metric_find("coqa_em")) == 0.01, "the standard one");
    s.n_margins = 2;
    s.margins[0] = (struct margin){ "coqa_em", 0.03 };
    s.margins[1] = (struct margin){ "perplexity", 0.1 };
    CHECK(margin_of(&s, metric_find("coqa_em")) == 0.03, "absolute for scores");
    CHECK(margin_of(&s, metric_find("coqa_f1")) == 0.01, "each metric its own");
    s.margins[1] = (struct margin){ "acc", 0.04 };
    CHECK(margin_of(&s, metric_find("piqa_acc")) == 0.04 &&
              margin_of(&s, metric_find("mmlu_acc")) == 0.04,
          "but one for all multiple-choice tasks");
    s.margins[1] = (struct margin){ "perplexity", 0.1 };
    CHECK(check_near(margin_of(&s, metric_find("perplexity")), log(1.1), 1e-15),
          "relative for perplexity");
}

/* With that many items the same difference and spread are decided, with one item in four not. */
static void items_needed_would_be_enough(void **state)
{
    (void)state;
    struct hand h;
    hand_init(&h, 2, 1, "first");
    double base[N], other[N];
    int document[N];

    for (int i = 0; i < N; i++) {
        document[i] = i;
        base[i] = 0.5;
        other[i] = 0.5 + (i % 2 ? 0.3 : -0.34); /* mean -0.02, sd 0.328 */
    }
    hand_coqa(hand_record(&h, "fp16", 0, "success"), N, document, base, base);
    hand_coqa(hand_record(&h, "nf4", 0, "success"), N, document, other, base);
    struct summary s = make(&h);
    int row = pair(&s, "nf4", "coqa_f1");
    double needed = table_real(&s.comparisons, row, "items_needed");
    double sd = sqrt(0.32 * 0.32 * N / (N - 1));
    /* Two tests in the table; the margin lies on the wrong side of the difference. */
    double z = -normal_quantile(0.05 / 4) + normal_quantile(0.8);

    CHECK(!strcmp(table_text(&s.comparisons, row, "verdict"), "undecided"), "20 do not decide");
    CHECK(check_near(needed, ceil(pow(z * sd / 0.02, 2)), 1.01), "%g for a difference of 0.02",
          needed);
    CHECK(needed > N, "more than there are");
    summary_release(&s);

    h.s.n_margins = 1;
    h.s.margins[0] = (struct margin){ "coqa_f1", 0.1 };
    s = make(&h);
    double z90 = -normal_quantile(0.05) + normal_quantile(0.8);
    needed = table_real(&s.comparisons, row, "items_needed");
    CHECK(check_near(needed, ceil(pow(z90 * sd / 0.08, 2)), 1.01),
          "%g to stay above a margin 0.08 away", needed);
    summary_release(&s);
    hand_release(&h);
}

int main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(pairs_are_the_same_document_and_seed),
        cmocka_unit_test(only_common_items_are_paired),
        cmocka_unit_test(pairs_of_the_sweep_join_the_family),
        cmocka_unit_test(right_and_wrong_is_tested_by_mcnemar),
        cmocka_unit_test(intervals_stay_in_their_range),
        cmocka_unit_test(fifty_items_cannot_decide_what_five_hundred_can),
        cmocka_unit_test(one_flip_does_not_prove_equivalence),
        cmocka_unit_test(empty_answers_are_said),
        cmocka_unit_test(one_document_has_no_interval),
        cmocka_unit_test(few_documents_are_said),
        cmocka_unit_test(only_a_real_difference_dominates),
        cmocka_unit_test(one_run_stands_for_every_seed),
        cmocka_unit_test(identical_scores_are_no_proof_but_identical_windows_are),
        cmocka_unit_test(a_missing_baseline_is_said),
        cmocka_unit_test(a_filtered_baseline_comes_from_the_records),
        cmocka_unit_test(before_the_first_record),
        cmocka_unit_test(nan_scores_decide_nothing),
        cmocka_unit_test(verdicts_change_at_their_limits),
        cmocka_unit_test(margins_come_from_the_sweep),
        cmocka_unit_test(items_needed_would_be_enough),
    };

    return cmocka_run_group_tests(all, NULL, NULL);
}
