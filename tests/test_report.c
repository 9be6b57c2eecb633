/* test_report.c - the report, character by character, and CSV. */
#include "sweep_by_hand.h"

#include "base/memory.h"
#include "record/report.h"

#include <string.h>
#include <unistd.h>

static const char *const columns[] = { "model_mb",
                                       "bits_per_weight",
                                       "gpu_seconds",
                                       "coqa_f1",
                                       "coqa_f1_ci_low",
                                       "coqa_f1_ci_high",
                                       "coqa_em",
                                       "coqa_em_ci_low",
                                       "coqa_em_ci_high",
                                       "perplexity",
                                       "perplexity_ci_low",
                                       "perplexity_ci_high",
                                       "prefill_ms",
                                       "decode_ms_per_token",
                                       "throughput_tok_s_b1",
                                       "throughput_tok_s_b1_ci_low",
                                       "throughput_tok_s_b16" };
enum { N_COLUMNS = sizeof columns / sizeof *columns };

static void add_experiment(struct table *t, const char *name, const char *status, int64_t n_seeds,
                           const double x[N_COLUMNS])
{
    int row = table_add_row(t);

    table_set_text(t, row, "name", name);
    table_set_text(t, row, "status", status);
    table_set_count(t, row, "n_seeds", n_seeds);
    for (int i = 0; i < N_COLUMNS; i++)
        table_set_real(t, row, columns[i], x[i]);
}

static void add_comparison(struct table *t, const char *a, const char *metric, const double x[4],
                           const char *verdict, double items_needed, const char *note)
{
    int row = table_add_row(t);

    table_set_text(t, row, "a", a);
    table_set_text(t, row, "b", "fp16_baseline");
    table_set_text(t, row, "metric", metric);
    table_set_real(t, row, "delta", x[0]);
    table_set_real(t, row, "ci_low", x[1]);
    table_set_real(t, row, "ci_high", x[2]);
    table_set_real(t, row, "p_holm", x[3]);
    table_set_text(t, row, "verdict", verdict);
    table_set_real(t, row, "items_needed", items_needed);
    table_set_text(t, row, "note", note);
}

static struct store_report sample(void)
{
    struct store_report r = { .confidence = 0.95,
                              .complete = true,
                              .jobs_total = 9,
                              .jobs_ok = 7,
                              .jobs_failed = 2,
                              .name = "demo" };

    table_add_column(&r.summary, "name", "", "", COLUMN_TEXT, -1);
    table_add_column(&r.summary, "status", "", "", COLUMN_TEXT, -1);
    table_add_column(&r.summary, "n_seeds", "1", "", COLUMN_COUNT, -1);
    for (int i = 0; i < N_COLUMNS; i++)
        table_add_column(&r.summary, columns[i], "", "", COLUMN_REAL, -1);
    add_experiment(&r.summary, "fp16_baseline", "success", 3,
                   (double[]){ 4.914, 16, 30, 0.8123, 0.7801, 0.8445, 0.7901, 0.7512, 0.829, 6.5231,
                               6.2109, 6.8512, 12.41, 0.8125, 1230.4, 1200, 8123 });
    add_experiment(&r.summary, "bnb_4bit_nf4", "success", 3,
                   (double[]){ 1.512, 4.127, 31.5, 0.8034, 0.76, 0.8468, 0.7802, 0.74, 0.8204, 6.71,
                               6.39, 7.05, 13.9, 0.91, 1098.9, 1000, 7600.2 });
    add_experiment(&r.summary, "rtn_2bit", "partial", 1,
                   (double[]){ 1.1, 2.25, 12, 0, 0, 0.0458, 0, 0, 0.0458, 21345.6, 19800.2, 2.3e6,
                               13.2, 0.9, NAN, NAN, 7610 });
    add_experiment(&r.summary, "broken", "error", 0,
                   (double[]){ NAN, NAN, 2, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN, NAN,
                               NAN, NAN, NAN });

    static const char *const texts[] = { "a", "b", "metric", "verdict", "note" };
    static const char *const reals[] = { "delta", "ci_low", "ci_high", "p_holm", "items_needed" };
    for (int i = 0; i < 5; i++)
        table_add_column(&r.comparisons, texts[i], "", "", COLUMN_TEXT, -1);
    for (int i = 0; i < 5; i++)
        table_add_column(&r.comparisons, reals[i], "", "", COLUMN_REAL, -1);
    add_comparison(&r.comparisons, "bnb_4bit_nf4", "coqa_f1",
                   (double[]){ -0.0089, -0.0201, 0.0023, 0.1234 }, "undecided", 1834, "");
    add_comparison(&r.comparisons, "bnb_4bit_nf4", "perplexity",
                   (double[]){ 0.0281, 0.0203, 0.0359, 0.00001 }, "worse", NAN, "");
    add_comparison(&r.comparisons, "rtn_2bit", "coqa_f1",
                   (double[]){ -0.8123, -0.9, -0.72, 0.0004 }, "worse", NAN, "");
    add_comparison(&r.comparisons, "broken", "coqa_f1", (double[]){ NAN, NAN, NAN, NAN },
                   "undecided", NAN, "no successful run");

    table_add_column(&r.failures, "experiment", "", "", COLUMN_TEXT, -1);
    table_add_column(&r.failures, "seed", "1", "", COLUMN_COUNT, -1);
    table_add_column(&r.failures, "stage", "", "", COLUMN_TEXT, -1);
    table_add_column(&r.failures, "error", "", "", COLUMN_TEXT, -1);
    table_add_row(&r.failures);
    table_set_text(&r.failures, 0, "experiment", "broken");
    table_set_count(&r.failures, 0, "seed", 2);
    table_set_text(&r.failures, 0, "stage", "load");
    table_set_text(&r.failures, 0, "error",
                   "model.embed_tokens.weight holds a NaN at 17;\nagain: ./llq_sweep --experiment "
                   "broken --seeds 2 sweeps/demo.toml");
    return r;
}

static void release(struct store_report *r)
{
    table_release(&r->summary);
    table_release(&r->comparisons);
    table_release(&r->failures);
}

/* Not inlined: the compiler would take what the stream wrote for a pointer to its own frame. */
__attribute__((noinline)) static char *print(const struct store_report *r, int width)
{
    char *text;
    size_t n;
    FILE *f = open_memstream(&text, &n);

    report_print(f, r, width);
    fclose(f);
    return text;
}

static void same(const char *got, const char *want, const char *what)
{
    if (strcmp(got, want))
        printf("---- got\n%s---- want\n%s----\n", got, want);
    CHECK(!strcmp(got, want), "%s", what);
}

static const char head[] = "demo: 9 jobs, 7 succeeded, 2 failed\n\n";

static const char legend[] =
    "± and [ ]: 95 % intervals, across seeds where they matter, else across items\n"
    "device time: 75.5 s (0.021 GPU-hours)\n"
    "\n"
    "compared with fp16_baseline, pair by pair:\n";

static const char failed[] =
    "undecided (~N items): about N pairs would give a verdict with a power of 80 %\n"
    "\n"
    "failed:\n"
    "broken, seed 2, load: model.embed_tokens.weight holds a NaN at 17; again: ./llq_sweep "
    "--experiment broken --seeds 2 sweeps/demo.toml\n";

/* clang-format off */
static const char summary_100[] =
    "experiment     status   seeds   MiB  bits/w  CoQA F1               EM\n"
    "fp16_baseline  success      3  4.91   16.00  0.812 ± 0.032         0.790 ± 0.039\n"
    "bnb_4bit_nf4   success      3  1.51    4.13  0.803 ± 0.043         0.780 ± 0.040\n"
    "rtn_2bit       partial      1  1.10    2.25  0.000 [0.000, 0.046]  0.000 [0.000, 0.046]\n"
    "broken         error        0     -       -      -                     -\n"
    "\n"
    "experiment     perplexity               prefill ms  ms/token  tok/s b1  tok/s b16\n"
    "fp16_baseline  6.523 [6.211, 6.851]           12.4     0.812      1230       8123\n"
    "bnb_4bit_nf4   6.710 [6.390, 7.050]           13.9     0.910      1099       7600\n"
    "rtn_2bit       21346 [19800, 2.30e+06]        13.2     0.900         -       7610\n"
    "broken             -                             -         -         -          -\n";

static const char comparisons_100[] =
    "experiment    metric                   difference  p (Holm)  verdict\n"
    "bnb_4bit_nf4  coqa_f1     -0.009 [-0.020, +0.002]    0.1234  undecided (~1900 items)\n"
    "              perplexity   +2.85 % [+2.05, +3.66]  < 0.0001  worse\n"
    "rtn_2bit      coqa_f1     -0.812 [-0.900, -0.720]    0.0004  worse\n"
    "broken        coqa_f1                           -         -  undecided (no successful run)\n";

static const char summary_80[] =
    "experiment     status   seeds   MiB  bits/w  CoQA F1\n"
    "fp16_baseline  success      3  4.91   16.00  0.812 ± 0.032\n"
    "bnb_4bit_nf4   success      3  1.51    4.13  0.803 ± 0.043\n"
    "rtn_2bit       partial      1  1.10    2.25  0.000 [0.000, 0.046]\n"
    "broken         error        0     -       -      -\n"
    "\n"
    "experiment     EM                    perplexity               prefill ms\n"
    "fp16_baseline  0.790 ± 0.039         6.523 [6.211, 6.851]           12.4\n"
    "bnb_4bit_nf4   0.780 ± 0.040         6.710 [6.390, 7.050]           13.9\n"
    "rtn_2bit       0.000 [0.000, 0.046]  21346 [19800, 2.30e+06]        13.2\n"
    "broken             -                     -                             -\n"
    "\n"
    "experiment     ms/token  tok/s b1  tok/s b16\n"
    "fp16_baseline     0.812      1230       8123\n"
    "bnb_4bit_nf4      0.910      1099       7600\n"
    "rtn_2bit          0.900         -       7610\n"
    "broken                -         -          -\n";

static const char comparisons_80[] = /* the p-values had no room */
    "experiment    metric                   difference  verdict\n"
    "bnb_4bit_nf4  coqa_f1     -0.009 [-0.020, +0.002]  undecided (~1900 items)\n"
    "              perplexity   +2.85 % [+2.05, +3.66]  worse\n"
    "rtn_2bit      coqa_f1     -0.812 [-0.900, -0.720]  worse\n"
    "broken        coqa_f1                           -  undecided (no successful run)\n";
/* clang-format on */

static void looks_like(int width, const char *summary, const char *comparisons)
{
    struct store_report r = sample();
    struct bytes want = BYTES_INIT;
    char what[64], *got = print(&r, width);

    bytes_printf(&want, "%s%s%s%s%s", head, summary, legend, comparisons, failed);
    snprintf(what, sizeof what, "the report at %d places", width);
    same(got, want.data, what);
    bytes_release(&want);
    free(got);
    release(&r);
}

static void character_by_character(void **state)
{
    (void)state;
    looks_like(100, summary_100, comparisons_100);
    looks_like(80, summary_80, comparisons_80);
    looks_like(0, summary_100, comparisons_100); /* a file or a pipe */
}

static int places(const char *line, size_t n)
{
    int count = 0;

    for (size_t i = 0; i < n; i++)
        count += ((unsigned char)line[i] & 0xC0) != 0x80;
    return count;
}

static void every_width_shows_every_number(void **state)
{
    (void)state;
    static const char *const always[] = { "MiB",
                                          "bits/w",
                                          "0.812 ± 0.032",
                                          "0.790 ± 0.039",
                                          "6.710 [6.390, 7.050]",
                                          "13.9",
                                          "ms/token",
                                          "tok/s b16",
                                          "+2.85 %",
                                          "undecided (~1900 items)",
                                          "no successful run" };
    struct store_report r = sample();

    for (int width = 78; width <= 220; width++) {
        char *text = print(&r, width), *tables_end = strstr(text, "\nfailed:");
        CHECK(tables_end, "failures come last");
        for (size_t i = 0; i < sizeof always / sizeof *always; i++)
            CHECK(strstr(text, always[i]), "%d places show %s", width, always[i]);
        for (const char *line = text; line < tables_end;) {
            size_t n = strcspn(line, "\n");
            CHECK(places(line, n) <= width, "%.*s fits %d places", (int)n, line, width);
            CHECK(n == 0 || line[n - 1] != ' ', "no blanks at the end of a line");
            line += n + 1;
        }
        free(text);
    }
    char *narrow = print(&r, 1); /* as 40: it cannot fit, but it ends */
    CHECK(strstr(narrow, "tok/s b16"), "even that shows all columns");
    free(narrow);
    release(&r);
}

static void a_report_of_little(void **state)
{
    (void)state;
    struct store_report r = { .name = "begun", .jobs_total = 1, .confidence = 0.9 };
    char *text = print(&r, 100);

    CHECK(strstr(text, "begun: 1 job, 0 succeeded, not complete\n"),
          "it says that it is not whole");
    CHECK(strstr(text, "90 % intervals"), "and which confidence");
    CHECK(!strstr(text, "compared") && !strstr(text, "failed"), "nothing more to say");
    free(text);

    r = sample();
    table_release(&r.comparisons);
    strcpy(r.no_comparisons, "the baseline fp16 has no results");
    text = print(&r, 100);
    CHECK(strstr(text, "\ncomparisons are missing: the baseline fp16 has no results\n"),
          "missing comparisons are said, and why");
    free(text);
    release(&r);
}

static void two_partners_are_two_tables(void **state)
{
    (void)state;
    struct store_report r = sample();

    table_set_text(&r.comparisons, 1, "b", "bnb_4bit_fp4");
    char *text = print(&r, 120);
    const char *first = strstr(text, "compared with fp16_baseline"),
               *second = strstr(text, "compared with bnb_4bit_fp4");
    CHECK(first && second && first < second, "one heading each, in order");
    CHECK(strstr(second, "bnb_4bit_nf4  perplexity"), "the name stands where its metrics begin");
    free(text);
    release(&r);
}

static void numbers_keep_the_digits_that_count(void **state)
{
    (void)state;
    struct store_report r = sample();
    static const struct {
        double x;
        const char *want;
    } cases[] = { { 0.00049, "0.000" }, { 9.994, "9.99" },    { 99.95, "100.0" },
                  { 999.96, "1000" },   { 123456, "123456" }, { 2.5e7, "2.50e+07" },
                  { INFINITY, "inf" } };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        table_set_real(&r.summary, 0, "prefill_ms", cases[i].x);
        char *text = print(&r, 200);
        char cell[64];
        snprintf(cell, sizeof cell, " %s     0.812 ", cases[i].want);
        CHECK(strstr(text, cell), "%g is shown as %s", cases[i].x, cases[i].want);
        free(text);
    }
    release(&r);
}

/* Records -> summary -> file -> report: nothing is lost on the way. */
static void the_file_gives_the_report_of_the_tables(void **state)
{
    (void)state;
    struct hand h;
    struct summary s = SUMMARY_INIT;
    struct err e = ERR_INIT;
    int document[] = { 0, 1, 2, 3, 4, 5, 6, 7 };
    hand_init(&h, 3, 2, "random");
    h.s.path = h.s.text = (char *)(uintptr_t) "by hand";
    for (int x = 0; x < 2; x++)
        for (int seed = 0; seed < 2; seed++) {
            struct js *r = hand_record(&h, h.x[x].name, seed, "success");
            double f1[8], nll[] = { 2 + 0.2 * x, 2.1 + 0.3 * x, 2.2 };
            for (int i = 0; i < 8; i++)
                f1[i] = hand_score(x, document[i] = (document[i] + 3) % 11);
            hand_coqa(r, 8, document, f1, f1);
            hand_windows(r, 3, nll);
            hand_sizes(r, 8 - 4 * x, 9, 16 - 12 * x);
            if (seed == 0)
                hand_benchmark(r, 10, 1 + x);
        }
    js_set_text(hand_record(&h, "rtn2", 0, "error"), "error", "a worker was lost");
    js_set_text(h.record[4], "error_stage", "process");
    CHECK_OK(summary_make(&h.s, (const struct js *const *)h.record, h.n_records, &s, &e), e);

    struct js *nothing = js_new_object();
    struct store_input in = { .sweep = &h.s,
                              .summary = &s,
                              .records = (const struct js *const *)h.record,
                              .n_records = h.n_records,
                              .provenance = nothing,
                              .command_line = "",
                              .created = "",
                              .finished = "" };
    char path[] = "/tmp/llq-report-XXXXXX";
    int fd = mkstemp(path);
    CHECK(fd >= 0, "a file can be made");
    close(fd);
    CHECK_OK(store_h5_build(path, &in, &e), e);
    struct store_report from_file = { 0 };
    CHECK_OK(store_h5_read(path, &from_file, &e), e);
    unlink(path);

    struct store_report direct = from_file; /* the same head and failures, our tables */
    direct.summary = s.summary;
    direct.comparisons = s.comparisons;
    char *want = print(&direct, 100), *got = print(&from_file, 100);
    same(got, want, "what the file holds is what was made");
    CHECK(strstr(got, "6 jobs, 4 succeeded, 1 failed, not complete") &&
              strstr(got, "compared with fp16") && strstr(got, "rtn2, seed 0, process: a worker"),
          "and it is all there");
    free(want);
    free(got);
    store_report_release(&from_file);
    summary_release(&s);
    js_release(nothing);
    hand_release(&h);
}

static void warnings_are_printed_once(void **state)
{
    (void)state;
    struct store_report r = sample();
    static const char *const text[] = { "coqa_f1: one", "coqa_f1: one", "", "coqa_f1: two" };

    table_add_column(&r.summary, "warnings", "", "", COLUMN_TEXT, -1);
    char *got = print(&r, 100);
    CHECK(!strstr(got, "warning"), "without any none is printed");
    free(got);
    for (int i = 0; i < 4; i++)
        table_set_text(&r.summary, i, "warnings", text[i]);
    got = print(&r, 100);
    CHECK(strstr(got, "\nwarning: fp16_baseline, bnb_4bit_nf4: coqa_f1: one\n"
                      "warning: broken: coqa_f1: two\n"),
          "a line a text, with whom it concerns: %s", got);
    free(got);
    release(&r);
}

static void csv_is_rfc_4180(void **state)
{
    (void)state;
    struct table t = TABLE_INIT;
    char *text;
    size_t n;

    table_add_column(&t, "name", "", "", COLUMN_TEXT, -1);
    table_add_column(&t, "a,b", "", "", COLUMN_REAL, -1);
    table_add_column(&t, "n", "", "", COLUMN_COUNT, -1);
    table_add_column(&t, "double_quant", "", "", COLUMN_BOOL, -1);
    for (int i = 0; i < 4; i++)
        table_add_row(&t);
    table_set_text(&t, 0, "name", "plain");
    table_set_text(&t, 1, "name", "say \"so\", then\nstop");
    table_set_text(&t, 2, "name", "\r");
    table_set_real(&t, 0, "a,b", 0.1);
    table_set_real(&t, 1, "a,b", 1.0 / 3);
    table_set_real(&t, 2, "a,b", -INFINITY);
    table_set_count(&t, 1, "n", -1);
    table_set_count(&t, 1, "double_quant", 1);

    FILE *f = open_memstream(&text, &n);
    report_csv(f, &t);
    fclose(f);
    same(text,
         "name,\"a,b\",n,double_quant\r\n"
         "plain,0.1,0,false\r\n"
         "\"say \"\"so\"\", then\nstop\",0.3333333333333333,-1,true\r\n"
         "\"\r\",-inf,0,false\r\n"
         ",,0,false\r\n",
         "quotes, shortest digits, NaN as nothing");
    free(text);
    table_release(&t);
}

int main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(character_by_character),
        cmocka_unit_test(every_width_shows_every_number),
        cmocka_unit_test(a_report_of_little),
        cmocka_unit_test(two_partners_are_two_tables),
        cmocka_unit_test(numbers_keep_the_digits_that_count),
        cmocka_unit_test(the_file_gives_the_report_of_the_tables),
        cmocka_unit_test(warnings_are_printed_once),
        cmocka_unit_test(csv_is_rfc_4180),
    };

    return cmocka_run_group_tests(all, NULL, NULL);
}
