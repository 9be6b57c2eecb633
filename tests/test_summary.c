/* test_summary.c - from records made by hand to statistics and the summary. */
#include "summary_by_hand.h"

#include "base/stats.h"
#include "record/report.h"

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
    };

    return cmocka_run_group_tests(all, NULL, NULL);
}
