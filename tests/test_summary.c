/* test_summary.c - from records made by hand to statistics, summary and comparisons. */
#include "sweep_by_hand.h"

#include "base/resample.h"
#include "record/compare.h"
#include "record/report.h"

#define T2 (0.95 * sqrt(2 / (1 - 0.95 * 0.95))) /* Student, two degrees of freedom, 97.5 % */

static struct summary make(const struct hand *h)
{
    struct summary out = SUMMARY_INIT;
    struct err e = ERR_INIT;

    CHECK_OK(summary_make(&h->s, (const struct js *const *)h->record, h->n_records, &out, &e), e);
    return out;
}

static int row_of(const struct table *t, const char *column, const char *name)
{
    for (int i = 0; i < t->n_rows; i++)
        if (!strcmp(table_text(t, i, column), name))
            return i;
    CHECK(false, "there is a row %s", name);
    return -1;
}

static double of(const struct summary *s, int experiment, const char *metric, const char *column)
{
    const struct table *t = &s->experiments[experiment].statistics;

    return table_real(t, row_of(t, "metric", metric), column);
}

static const char *note(const struct summary *s, int experiment, const char *metric)
{
    const struct table *t = &s->experiments[experiment].statistics;

    return table_text(t, row_of(t, "metric", metric), "note");
}

static bool effective(const struct summary *s, int experiment, const char *metric)
{
    const struct table *t = &s->experiments[experiment].statistics;

    return table_count(t, row_of(t, "metric", metric), "seed_effective");
}

static int n_seeds(const struct summary *s, int experiment, const char *metric)
{
    const struct table *t = &s->experiments[experiment].statistics;

    return (int)table_count(t, row_of(t, "metric", metric), "n_seeds");
}

/* The row of /comparisons. */
static int pair(const struct summary *s, const char *a, const char *metric)
{
    const struct table *t = &s->comparisons;

    for (int i = 0; i < t->n_rows; i++)
        if (!strcmp(table_text(t, i, "a"), a) && !strcmp(table_text(t, i, "metric"), metric))
            return i;
    CHECK(false, "%s is compared by %s", a, metric);
    return -1;
}

/* Documents that seed s draws: overlapping, never the same. */
static void draw(int seed, int n, int *document)
{
    for (int i = 0; i < n; i++)
        document[i] = (i * (seed + 2) + seed) % 31;
}

enum { N = 20, WINDOWS = 7 };

static void add_quality(struct hand *h, int experiment, int seed)
{
    struct js *r = hand_record(h, h->x[experiment].name, seed, "success");
    int document[N];
    double f1[N], em[N], nll[WINDOWS];

    draw(seed, N, document);
    for (int i = 0; i < N; i++) {
        f1[i] = hand_score(experiment, document[i]);
        em[i] = f1[i] > 0.5;
    }
    for (int i = 0; i < WINDOWS; i++)
        nll[i] = 2 + 0.1 * experiment + 0.3 * hand_score(experiment, 100 + i);
    hand_coqa(r, N, document, f1, em);
    hand_windows(r, WINDOWS, nll);
    hand_sizes(r, 8.0 / (1 + experiment), experiment ? NAN : 4, 16.0 / (1 + experiment));
}

/* Three experiments, three seeds, random documents. */
static void random_sweep(struct hand *h)
{
    hand_init(h, 3, 3, "random");
    for (int x = 0; x < 3; x++)
        for (int seed = 0; seed < 3; seed++)
            add_quality(h, x, seed);
    hand_benchmark(h->record[0], 10, 1);
    hand_benchmark(h->record[3], 5, 2);
}

/* The tables' columns, in this order; more may follow. */
static void columns_are(const struct table *t, const char *names)
{
    char name[64];
    int n = 0, used;

    for (; sscanf(names, "%63s%n", name, &used) == 1; names += used, n++)
        CHECK(n < t->n_columns && !strcmp(t->columns[n].name, name), "column %d is %s, got %s", n,
              name, n < t->n_columns ? t->columns[n].name : "none");
    CHECK(n > 0, "there are columns");
}

static void columns_are_those_of_the_contract(void **state)
{
    (void)state;
    struct hand h;
    random_sweep(&h);
    struct summary s = make(&h);

    columns_are(&s.summary,
                "name method bits group_size quant_type double_quant compute_dtype n_seeds status "
                "model_size_mb model_mb bits_per_weight compression compression_hf gpu_seconds "
                "coqa_f1 coqa_f1_ci_low coqa_f1_ci_high coqa_em coqa_em_ci_low coqa_em_ci_high "
                "perplexity perplexity_ci_low perplexity_ci_high prefill_ms prefill_ms_ci_low "
                "prefill_ms_ci_high decode_ms_per_token decode_ms_per_token_ci_low "
                "decode_ms_per_token_ci_high throughput_tok_s_b1 throughput_tok_s_b1_ci_low "
                "throughput_tok_s_b1_ci_high throughput_tok_s_b16 throughput_tok_s_b16_ci_low "
                "throughput_tok_s_b16_ci_high peak_mb peak_mb_ci_low peak_mb_ci_high quantize_s "
                "quantize_s_ci_low quantize_s_ci_high");
    columns_are(&s.comparisons, "a b metric delta ci_low ci_high p_value p_holm verdict "
                                "items_needed");
    for (int i = 0; i < s.n_experiments; i++)
        columns_are(&s.experiments[i].statistics,
                    "metric n_seeds mean sd seed_ci_low seed_ci_high item_ci_low item_ci_high "
                    "seed_effective note");
    int f1 = table_column(&s.summary, "coqa_f1"), ppl = table_column(&s.summary, "perplexity");
    CHECK(s.summary.columns[f1].higher_is_better == 1 &&
              s.summary.columns[ppl].higher_is_better == 0 &&
              !strcmp(s.summary.columns[table_column(&s.summary, "model_mb")].unit, "MiB"),
          "columns carry direction and unit");
    summary_release(&s);
    hand_release(&h);
}

static void seeds_give_a_t_interval(void **state)
{
    (void)state;
    struct hand h;
    random_sweep(&h);
    struct summary s = make(&h);

    for (int x = 0; x < 3; x++) {
        double f1[3];
        for (int seed = 0; seed < 3; seed++)
            f1[seed] = js_real(js_get(js_get(h.record[3 * x + seed], "coqa"), "f1"));
        double mean = (f1[0] + f1[1] + f1[2]) / 3;
        double sd = sqrt((pow(f1[0] - mean, 2) + pow(f1[1] - mean, 2) + pow(f1[2] - mean, 2)) / 2);
        /* Wilson's interval for as many 0/1 scores as would have this error. */
        double u = T2 * sd / sqrt(3), u2 = u * u / (mean * (1 - mean));
        double centre = (mean + u2 / 2) / (1 + u2), half = sqrt(u * u + u2 * u2 / 4) / (1 + u2);

        CHECK(n_seeds(&s, x, "coqa_f1") == 3, "three seeds count");
        CHECK(check_near(of(&s, x, "coqa_f1", "mean"), mean, 1e-13), "the mean over seeds");
        CHECK(check_near(of(&s, x, "coqa_f1", "sd"), sd, 1e-13), "their spread");
        CHECK(check_near(of(&s, x, "coqa_f1", "seed_ci_low"), centre - half, 1e-12) &&
                  check_near(of(&s, x, "coqa_f1", "seed_ci_high"), centre + half, 1e-12),
              "Student's quantile of three values, inside [0, 1]");
        CHECK(effective(&s, x, "coqa_f1"), "a seed draws the documents");
        CHECK(strstr(note(&s, x, "coqa_f1"), "item sampling"), "the note says so: %s",
              note(&s, x, "coqa_f1"));
        CHECK(table_real(&s.summary, x, "coqa_f1_ci_low") == of(&s, x, "coqa_f1", "seed_ci_low"),
              "the summary shows the seed interval");
    }
    summary_release(&s);
    hand_release(&h);
}

static void pooled_items_are_clustered_by_document(void **state)
{
    (void)state;
    struct hand h;
    random_sweep(&h);
    struct summary s = make(&h);
    double value[3 * N];
    int64_t cluster[3 * N];
    int document[N];

    for (int seed = 0; seed < 3; seed++) {
        draw(seed, N, document);
        for (int i = 0; i < N; i++) {
            value[seed * N + i] = hand_score(1, document[i]);
            cluster[seed * N + i] = document[i];
        }
    }
    struct estimate all = stats_clustered(value, cluster, 3 * N, 0.95);
    struct interval want = stats_bounded(&all, 0, 1, 0.95);
    CHECK(all.n_clusters < 3 * N, "some documents stand under several seeds");
    CHECK(check_near(of(&s, 1, "coqa_f1", "item_ci_low"), want.low, 1e-12) &&
              check_near(of(&s, 1, "coqa_f1", "item_ci_high"), want.high, 1e-12),
          "60 scores, as many clusters as documents");
    char text[64];
    snprintf(text, sizeof text, "60 scores of %d documents", (int)all.n_clusters);
    CHECK(strstr(note(&s, 1, "coqa_f1"), text), "the note counts them: %s", note(&s, 1, "coqa_f1"));
    summary_release(&s);
    hand_release(&h);
}

static void what_no_seed_changes_is_deterministic(void **state)
{
    (void)state;
    struct hand h;
    random_sweep(&h);
    struct summary s = make(&h);
    double nll[WINDOWS];
    int64_t own[WINDOWS];

    for (int i = 0; i < WINDOWS; i++) {
        nll[i] = 2.1 + 0.3 * hand_score(1, 100 + i);
        own[i] = i;
    }
    struct estimate want = stats_exp(stats_clustered(nll, own, WINDOWS, 0.95));
    CHECK(!effective(&s, 1, "perplexity"), "three equal runs: the seed has no effect");
    CHECK(!strncmp(note(&s, 1, "perplexity"), "deterministic", 13), "the note begins with it: %s",
          note(&s, 1, "perplexity"));
    CHECK(isnan(of(&s, 1, "perplexity", "sd")) && isnan(of(&s, 1, "perplexity", "seed_ci_low")),
          "no spread of 0, no interval of width 0");
    CHECK(of(&s, 1, "perplexity", "mean") ==
              js_real(js_get(js_get(h.record[3], "perplexity"), "perplexity")),
          "the mean is the value, bit for bit");
    CHECK(check_near(of(&s, 1, "perplexity", "item_ci_low"), want.low, 1e-12) &&
              check_near(of(&s, 1, "perplexity", "item_ci_high"), want.high, 1e-12),
          "the windows of one run give the interval, not three times as many");
    CHECK(table_real(&s.summary, 1, "perplexity_ci_high") ==
              of(&s, 1, "perplexity", "item_ci_high"),
          "the summary shows the item interval");
    CHECK(!strcmp(note(&s, 1, "model_mb"), "deterministic"), "sizes are counted, not sampled");
    CHECK(!strncmp(note(&s, 1, "model_size_mb"), "not defined", 11), "no Hugging Face form");
    summary_release(&s);
    hand_release(&h);
}

/* subset "first": data-free methods run once, under the first seed. */
static void one_quality_run_keeps_its_items(void **state)
{
    (void)state;
    struct hand h;
    hand_init(&h, 2, 1, "first");
    add_quality(&h, 0, 0);
    add_quality(&h, 1, 0);
    struct summary s = make(&h);
    double f1[N], hits = 0;
    int document[N];
    int64_t own[N];

    draw(0, N, document);
    for (int i = 0; i < N; i++) {
        f1[i] = hand_score(1, document[i]);
        hits += f1[i] > 0.5;
        own[i] = document[i];
    }
    struct estimate all = stats_clustered(f1, own, N, 0.95);
    struct interval want = stats_bounded(&all, 0, 1, 0.95);
    struct interval wilson = stats_wilson(hits, N, 0.95);
    CHECK(all.n_clusters == N, "every document once");
    CHECK(!effective(&s, 1, "coqa_f1") && !strncmp(note(&s, 1, "coqa_f1"), "deterministic", 13),
          "no seed can matter: %s", note(&s, 1, "coqa_f1"));
    CHECK(isnan(of(&s, 1, "coqa_f1", "seed_ci_high")), "one run has no interval across seeds");
    CHECK(check_near(of(&s, 1, "coqa_f1", "item_ci_low"), want.low, 1e-12), "t over its items");
    CHECK(check_near(of(&s, 1, "coqa_em", "item_ci_low"), wilson.low, 1e-12) &&
              check_near(of(&s, 1, "coqa_em", "item_ci_high"), wilson.high, 1e-12),
          "Wilson where every score is 0 or 1");
    CHECK(strstr(note(&s, 1, "coqa_em"), "Wilson"), "and the note says so: %s",
          note(&s, 1, "coqa_em"));
    CHECK(table_real(&s.summary, 1, "coqa_f1_ci_low") == of(&s, 1, "coqa_f1", "item_ci_low"),
          "the summary shows the item interval");
    summary_release(&s);
    hand_release(&h);
}

/* A calibrated method: the same documents under every seed, other scores. */
static void the_same_items_under_several_seeds_are_crossed(void **state)
{
    (void)state;
    struct hand h;
    hand_init(&h, 1, 3, "first");
    snprintf(h.x[0].method, sizeof h.x[0].method, "calibrated");
    double table[N * 3], em[N] = { 0 }, column[N];
    int64_t own[N];
    int document[N];

    for (int i = 0; i < N; i++)
        document[i] = (int)(own[i] = i);
    for (int seed = 0; seed < 3; seed++) {
        for (int i = 0; i < N; i++)
            column[i] = table[i * 3 + seed] = hand_score(seed, i);
        hand_coqa(hand_record(&h, "fp16", seed, "success"), N, document, column, em);
    }
    struct summary s = make(&h);
    struct estimate all = stats_crossed(table, own, N, 3, 0.95);
    struct interval want = stats_bounded(&all, 0, 1, 0.95);
    CHECK(check_near(of(&s, 0, "coqa_f1", "item_ci_low"), want.low, 1e-12) &&
              check_near(of(&s, 0, "coqa_f1", "item_ci_high"), want.high, 1e-12),
          "items and seeds vary");
    CHECK(strstr(note(&s, 0, "coqa_f1"), "crossed"), "the note says so: %s",
          note(&s, 0, "coqa_f1"));
    CHECK(!effective(&s, 0, "coqa_em") && strstr(note(&s, 0, "coqa_em"), "deterministic"),
          "scores of 0 for the same documents under every seed are one result");
    struct interval zero = stats_wilson(0, N, 0.95);
    CHECK(check_near(of(&s, 0, "coqa_em", "item_ci_high"), zero.high, 1e-12) &&
              of(&s, 0, "coqa_em", "item_ci_low") == 0,
          "none of 20 right is no interval of width 0");
    summary_release(&s);
    hand_release(&h);
}

static void equal_by_chance_is_not_deterministic(void **state)
{
    (void)state;
    struct hand h;
    hand_init(&h, 1, 3, "random");
    double f1[N] = { 0 };
    int document[N];

    for (int seed = 0; seed < 3; seed++) {
        draw(seed, N, document);
        hand_coqa(hand_record(&h, "fp16", seed, "success"), N, document, f1, f1);
    }
    struct summary s = make(&h);
    CHECK(effective(&s, 0, "coqa_f1") && strstr(note(&s, 0, "coqa_f1"), "equal under all 3 seeds"),
          "other documents, the same score: %s", note(&s, 0, "coqa_f1"));
    CHECK(isnan(of(&s, 0, "coqa_f1", "seed_ci_low")) && isnan(of(&s, 0, "coqa_f1", "sd")),
          "that is no spread of 0");
    CHECK(of(&s, 0, "coqa_f1", "item_ci_high") > 0.01, "the items leave something open");
    CHECK(table_real(&s.summary, 0, "coqa_f1_ci_high") == of(&s, 0, "coqa_f1", "item_ci_high"),
          "and the summary shows that");
    summary_release(&s);
    hand_release(&h);
}

static void timings_are_medians_with_rank_intervals(void **state)
{
    (void)state;
    struct hand h;
    random_sweep(&h);
    struct summary s = make(&h);

    CHECK(check_near(of(&s, 0, "prefill_ms", "mean"), 1.45, 1e-12), "median of 1.0 ... 1.9");
    CHECK(check_near(of(&s, 0, "prefill_ms", "item_ci_low"), 1.1, 1e-12) &&
              check_near(of(&s, 0, "prefill_ms", "item_ci_high"), 1.8, 1e-12),
          "ranks 2 and 9 of 10");
    CHECK(n_seeds(&s, 0, "prefill_ms") == 1, "the benchmark ran once");
    CHECK(table_real(&s.summary, 0, "throughput_tok_s_b16_ci_low") ==
              of(&s, 0, "throughput_tok_s_b16", "item_ci_low"),
          "every batch size has columns");
    CHECK(isnan(of(&s, 1, "decode_ms_per_token", "item_ci_low")) &&
              strstr(note(&s, 1, "decode_ms_per_token"), "too few"),
          "5 repeats have no 95 %% interval: %s", note(&s, 1, "decode_ms_per_token"));
    CHECK(!strcmp(note(&s, 2, "e2e_ms"), "not measured"), "what did not run is said");
    CHECK(of(&s, 0, "peak_mb", "mean") == 3, "bytes become MiB");
    CHECK(n_seeds(&s, 0, "quantize_s") == 3 && isnan(of(&s, 0, "quantize_s", "sd")),
          "equal seconds have no spread");

    /* per_seed: medians of several runs, and a word on unlike devices. */
    hand_benchmark(h.record[1], 10, 1.5);
    hand_benchmark(h.record[2], 10, 1.1);
    js_set_text(h.record[2], "device", "another");
    summary_release(&s);
    s = make(&h);
    double x[] = { 1.45, 1.45 * 1.5, 1.45 * 1.1 };
    struct estimate want = stats_mean_interval(x, 3, 0.95);
    CHECK(check_near(of(&s, 0, "prefill_ms", "seed_ci_high"), want.high, 1e-12),
          "Student's interval of three medians");
    CHECK(strstr(note(&s, 0, "prefill_ms"), "unlike devices: cpu, another"), "and why not: %s",
          note(&s, 0, "prefill_ms"));
    summary_release(&s);
    hand_release(&h);
}

static void sizes_and_compression(void **state)
{
    (void)state;
    struct hand h;
    random_sweep(&h);
    struct summary s = make(&h);

    CHECK(table_real(&s.summary, 0, "compression") == 1, "the baseline is its own size");
    CHECK(table_real(&s.summary, 1, "compression") == 2 &&
              table_real(&s.summary, 1, "model_mb") == 4,
          "half the bytes");
    CHECK(isnan(table_real(&s.summary, 1, "compression_hf")), "no Hugging Face form, no ratio");
    CHECK(table_real(&s.summary, 2, "bits_per_weight") == 16.0 / 3, "bits of the linears");
    CHECK(table_real(&s.summary, 2, "gpu_seconds") == 4.5, "three jobs of 1.5 s");
    CHECK(table_count(&s.summary, 1, "double_quant") == 1 &&
              table_count(&s.summary, 2, "double_quant") == 0 &&
              table_count(&s.summary, 1, "group_size") == 64 &&
              !strcmp(table_text(&s.summary, 1, "quant_type"), "nf4"),
          "settings stand beside");
    summary_release(&s);
    hand_release(&h);
}

static void failures_leave_the_rest(void **state)
{
    (void)state;
    struct hand h;
    hand_init(&h, 4, 3, "random");
    for (int seed = 0; seed < 3; seed++)
        add_quality(&h, 0, seed);
    add_quality(&h, 1, 0);
    hand_record(&h, "nf4", 1, "error");
    add_quality(&h, 1, 2);
    for (int seed = 0; seed < 3; seed++)
        hand_record(&h, "rtn2", seed, "error");
    add_quality(&h, 3, 1); /* the others have not run yet */
    struct summary s = make(&h);

    CHECK(!strcmp(s.experiments[0].status, "success"), "all ran");
    CHECK(!strcmp(s.experiments[1].status, "partial"), "one of three failed");
    CHECK(!strcmp(s.experiments[2].status, "error"), "all failed");
    CHECK(!strcmp(s.experiments[3].status, "partial"), "two are still to come");
    CHECK(s.jobs_total == 12 && s.jobs_ok == 6 && s.jobs_failed == 4, "12 jobs, %d ok, %d failed",
          s.jobs_ok, s.jobs_failed);
    CHECK(n_seeds(&s, 1, "coqa_f1") == 2 && table_count(&s.summary, 1, "n_seeds") == 2,
          "two seeds remain");
    CHECK(isfinite(of(&s, 1, "coqa_f1", "seed_ci_low")), "and have an interval");
    CHECK(n_seeds(&s, 2, "coqa_f1") == 0 && isnan(of(&s, 2, "coqa_f1", "mean")) &&
              !strcmp(note(&s, 2, "coqa_f1"), "no successful run"),
          "no run: NaN and a reason, never 0");
    CHECK(n_seeds(&s, 3, "coqa_f1") == 1 && isnan(of(&s, 3, "coqa_f1", "seed_ci_low")) &&
              strstr(note(&s, 3, "coqa_f1"), "one seed"),
          "one seed: %s", note(&s, 3, "coqa_f1"));
    CHECK(table_real(&s.summary, 1, "gpu_seconds") == 4.5, "a failed job took time, too");

    int none = pair(&s, "rtn2", "coqa_f1"), two = pair(&s, "nf4", "coqa_f1");
    CHECK(table_count(&s.comparisons, none, "n_items") == 0 &&
              isnan(table_real(&s.comparisons, none, "delta")) &&
              !strcmp(table_text(&s.comparisons, none, "verdict"), "undecided") &&
              !strcmp(table_text(&s.comparisons, none, "note"), "no successful run"),
          "without pairs nothing is decided, and the row says why");
    CHECK(table_count(&s.comparisons, two, "n_items") == 2 * N, "pairs of the two common seeds");
    summary_release(&s);
    hand_release(&h);
}

static void csv_of(const struct summary *s, char **text)
{
    size_t n;
    FILE *f = open_memstream(text, &n);

    report_csv(f, &s->summary);
    report_csv(f, &s->comparisons);
    for (int i = 0; i < s->n_experiments; i++)
        report_csv(f, &s->experiments[i].statistics);
    fclose(f);
}

static void the_order_of_records_is_nothing(void **state)
{
    (void)state;
    struct hand h;
    random_sweep(&h);
    /* The same job twice: once failed, once finished later with other numbers. */
    hand_record(&h, "rtn2", 1, "error");
    add_quality(&h, 2, 1);
    js_set_text(h.record[h.n_records - 1], "finished", "2026-01-02T00:00:00Z");
    js_set_real((struct js *)(uintptr_t)js_get(h.record[h.n_records - 1], "coqa"), "f1", 0.625);
    struct summary s = make(&h);
    char *want, *got;

    csv_of(&s, &want);
    CHECK(s.jobs_ok == 9 && s.jobs_failed == 0, "a success replaces a failure");
    CHECK(strlen(want) > 4000, "there is something to compare (%zu bytes)", strlen(want));
    double f1[2] = { js_real(js_get(js_get(h.record[6], "coqa"), "f1")),
                     js_real(js_get(js_get(h.record[8], "coqa"), "f1")) };
    CHECK(check_near(of(&s, 2, "coqa_f1", "mean"), (f1[0] + f1[1] + 0.625) / 3, 1e-13),
          "of two successes the later one counts");
    summary_release(&s);
    for (uint64_t turn = 1; turn <= 20; turn++) {
        for (int i = h.n_records - 1; i > 0; i--) {
            int k = (int)rng_below(turn, RNG_TEST, (uint64_t)i, (uint64_t)i + 1);
            struct js *swap = h.record[i];
            h.record[i] = h.record[k];
            h.record[k] = swap;
        }
        s = make(&h);
        csv_of(&s, &got);
        CHECK(!strcmp(got, want), "shuffle %d gives the same bytes", (int)turn);
        free(got);
        summary_release(&s);
    }
    free(want);
    hand_release(&h);
}

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
        cmocka_unit_test(columns_are_those_of_the_contract),
        cmocka_unit_test(seeds_give_a_t_interval),
        cmocka_unit_test(pooled_items_are_clustered_by_document),
        cmocka_unit_test(what_no_seed_changes_is_deterministic),
        cmocka_unit_test(one_quality_run_keeps_its_items),
        cmocka_unit_test(the_same_items_under_several_seeds_are_crossed),
        cmocka_unit_test(equal_by_chance_is_not_deterministic),
        cmocka_unit_test(timings_are_medians_with_rank_intervals),
        cmocka_unit_test(sizes_and_compression),
        cmocka_unit_test(failures_leave_the_rest),
        cmocka_unit_test(the_order_of_records_is_nothing),
        cmocka_unit_test(pairs_are_the_same_document_and_seed),
        cmocka_unit_test(only_common_items_are_paired),
        cmocka_unit_test(pairs_of_the_sweep_join_the_family),
        cmocka_unit_test(right_and_wrong_is_tested_by_mcnemar),
        cmocka_unit_test(intervals_stay_in_their_range),
        cmocka_unit_test(fifty_items_cannot_decide_what_five_hundred_can),
        cmocka_unit_test(one_flip_does_not_prove_equivalence),
        cmocka_unit_test(empty_answers_are_said),
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
