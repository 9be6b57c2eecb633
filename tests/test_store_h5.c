/* test_store_h5.c - the results file: what goes in comes out. */
#include "store_world.h"

/* What h5dump prints for its arguments, spaces and line ends squeezed to one space; NULL where
 * there is no h5dump. */
static char *h5dump(const char *arguments)
{
    char command[512], chunk[4096];
    struct bytes out = BYTES_INIT;
    size_t n, kept = 0;

    if (system("command -v h5dump > /dev/null 2>&1") != 0)
        return NULL;
    snprintf(command, sizeof command, "h5dump %s %s 2>&1", arguments, path);
    FILE *f = popen(command, "r");
    while (f && (n = fread(chunk, 1, sizeof chunk, f)) > 0)
        bytes_add(&out, chunk, n);
    CHECK(f && pclose(f) == 0, "%s works", command);
    for (size_t i = 0; i < out.n; i++) {
        bool space = out.data[i] == ' ' || out.data[i] == '\n';
        if (!space || (kept && out.data[kept - 1] != ' '))
            out.data[kept++] = space ? ' ' : out.data[i];
    }
    out.data[kept] = 0;
    return out.data;
}

static void holds(const char *arguments, const char *const *wanted)
{
    char *text = h5dump(arguments);

    if (!text) {
        print_message("SKIP: no h5dump here\n");
        skip();
    }
    for (; *wanted; wanted++)
        CHECK(strstr(text, *wanted), "h5dump %s shows %s; it shows %.1500s", arguments, *wanted,
              text);
    free(text);
}

/* ---- tests ---- */

static void same_table(const struct table *got, const struct table *want)
{
    CHECK(got->n_columns == want->n_columns && got->n_rows == want->n_rows, "%s: its size",
          want->name);
    for (int c = 0; c < want->n_columns; c++) {
        const struct table_column *a = &got->columns[c], *b = &want->columns[c];
        CHECK(strcmp(a->name, b->name) == 0, "column %d is %s", c, b->name);
        CHECK(strcmp(a->unit, b->unit) == 0 && strcmp(a->what, b->what) == 0 &&
                  a->kind == b->kind && a->higher_is_better == b->higher_is_better,
              "column %s has its unit, sentence, kind and direction", b->name);
        for (int r = 0; r < want->n_rows; r++)
            CHECK(a->kind == COLUMN_TEXT   ? strcmp(a->text[r], b->text[r]) == 0
                  : a->kind == COLUMN_REAL ? memcmp(&a->real[r], &b->real[r], sizeof(double)) == 0
                                           : a->count[r] == b->count[r],
                  "column %s, row %d", b->name, r);
    }
}

static void tables_come_back(void **state)
{
    struct world w;
    struct store_report r;
    struct err e = ERR_INIT;

    (void)state;
    make_world(&w);
    build(&w, path);
    CHECK_OK(store_h5_read(path, &r, &e), e);
    same_table(&r.summary, &w.summary.summary);
    same_table(&r.comparisons, &w.summary.comparisons);
    CHECK(strcmp(r.name, "t") == 0 && check_near(r.confidence, 0.95, 0.0), "name and confidence");
    CHECK(r.complete && r.jobs_total == 7 && r.jobs_ok == 5 && r.jobs_failed == 1, "counts");
    CHECK(r.failures.n_rows == 1, "one job failed");
    CHECK(strcmp(table_text(&r.failures, 0, "experiment"), "rtn_2bit") == 0 &&
              table_count(&r.failures, 0, "seed") == 0 &&
              strcmp(table_text(&r.failures, 0, "stage"), "load") == 0 &&
              strstr(table_text(&r.failures, 0, "error"), "NaN, in " LLAMA),
          "and is listed with experiment, seed, stage and message");
    store_report_release(&r);
    store_report_release(&r);
    release_world(&w);
}

static void h5dump_shows_fronts(void **state)
{
    struct world w;

    (void)state;
    make_world(&w);
    build(&w, path);
    holds("-g /pareto",
          (const char *const[]){ "GROUP \"size_quality\"", "DATASET \"coqa_f1\"",
                                 "\"bnb_4bit_nf4\", \"fp16_baseline\"", "DATASET \"perplexity\"",
                                 "GROUP \"latency_quality\"", NULL });
    release_world(&w);
}

static void h5dump_shows_experiments(void **state)
{
    struct world w;

    (void)state;
    make_world(&w);
    build(&w, path);
    holds("-g /experiments/bnb_4bit_nf4",
          (const char *const[]){ "ATTRIBUTE \"method\"",
                                 "\"bnb_4bit\"",
                                 "GROUP \"statistics\"",
                                 "DATASET \"item_ci_low\"",
                                 "(0): 0.78125",
                                 "(0): 0.84375",
                                 "(0): \"coqa_f1\"",
                                 "GROUP \"9\"",
                                 "GROUP \"10\"",
                                 "ATTRIBUTE \"seconds_load\"",
                                 "(0): 0.5",
                                 "ATTRIBUTE \"hostname\"",
                                 "\"node07\"",
                                 "ATTRIBUTE \"gpu\"",
                                 "(0): 0.25, 0.5, 0.75", /* f1 of each item */
                                 "\"story ",
                                 "caf",
                                 "DATASET \"long\"",
                                 "(0): 4.125, 4.125",
                                 "\"one warning\"",
                                 "(0,0): 10, 10.5, 11, 11.5, (1,0): 20, 20.5, nan, nan",
                                 "(0,0): 100, 101, 102, 103, (1,0): 200",
                                 "\"DIMENSION_SCALE\"",
                                 NULL });
    holds("-a /experiments/bnb_4bit_nf4/seeds/9/quantization/model_bytes",
          (const char *const[]){ "H5T_STD_I64LE", "(0): 5000000000", NULL });
    holds("-a /experiments/bnb_4bit_nf4/seeds/9/quantization/units",
          (const char *const[]){ "model_bytes: byte", NULL });
    holds("-a /experiments/bnb_4bit_nf4/seeds/9/coqa/em",
          (const char *const[]){ "H5T_IEEE_F64LE", "(0): nan", NULL });
    holds("-d /experiments/bnb_4bit_nf4/seeds/9/coqa/empty",
          (const char *const[]){ "( 0 ) / ( 0 )", NULL });
    holds("-d /experiments/bnb_4bit_nf4/seeds/9/coqa/f1",
          (const char *const[]){ "ATTRIBUTE \"unit\"", "\"1\"", "ATTRIBUTE \"higher_is_better\"",
                                 "TRUE", NULL });
    holds("-a /experiments/rtn_2bit/seeds/0/error_stage",
          (const char *const[]){ "\"load\"", NULL });
    holds("-d /experiments/bnb_4bit_nf4/seeds/9/latency/decode_ms_per_token",
          (const char *const[]){ "ATTRIBUTE \"median\" { DATATYPE H5T_IEEE_F64LE DATASPACE SCALAR "
                                 "DATA { (0): 2 }",
                                 "ATTRIBUTE \"mean\"", "ATTRIBUTE \"sd\"", "0.684653",
                                 "ATTRIBUTE \"median_ci_low\"", "ATTRIBUTE \"median_ci_high\"",
                                 NULL });
    holds("-a /experiments/bnb_4bit_nf4/seeds/9/latency/prefill_ms/median",
          (const char *const[]){ "(0): 10.75, 20.25", NULL }); /* without the gaps of the 2nd row */
    holds("-a /experiments/bnb_4bit_nf4/seeds/9/latency/prefill_ms/median_ci_low",
          (const char *const[]){ "(0): nan, nan", NULL }); /* 4 and 2 repeats say too little */
    holds("-g /experiments/of_an_earlier_run",
          (const char *const[]){ "ATTRIBUTE \"method\"", "\"rtn\"", "GROUP \"0\"", NULL });
    release_world(&w);
}

static void h5dump_shows_provenance(void **state)
{
    struct world w;

    (void)state;
    make_world(&w);
    build(&w, path);
    holds("-A", (const char *const[]){ "\"llq-results\"", "\"llq_sweep t.toml\"",
                                       "\"2026-01-31T08:00:00Z\"", "\"0.1.0\"", "\"abc\"", NULL });
    holds("-g /provenance",
          (const char *const[]){ "ATTRIBUTE \"mpi_ranks\"", "(0): 2", "DATASET \"hostnames\"",
                                 "\"node07\", \"node08\"", "ATTRIBUTE \"hdf5_version\"",
                                 "DATASET \"sweep_toml\"", "name = \"t\" #", NULL });
    release_world(&w);
}

static bool same_files(void)
{
    struct bytes a = whole_file(path), b = whole_file(other);
    bool same = a.n == b.n && memcmp(a.data, b.data, a.n) == 0;

    bytes_release(&a);
    bytes_release(&b);
    return same;
}

static void same_input_same_bytes(void **state)
{
    struct world w;
    struct js *again;

    (void)state;
    make_world(&w);
    build(&w, path);
    sleep(1); /* past the next whole second, in case a time is stored */
    build(&w, other);
    CHECK(same_files(), "two builds give the same bytes");

    for (int i = 0; i < N_RECORDS / 2; i++) {
        struct js *kept = w.records[i];
        w.records[i] = w.records[N_RECORDS - 1 - i];
        w.records[N_RECORDS - 1 - i] = kept;
    }
    build(&w, other);
    CHECK(same_files(), "the order of the records does not show");

    again = make_record("bnb_4bit_nf4", 9, true);
    const struct js *twice[] = { again,        w.records[0], w.records[1], w.records[2],
                                 w.records[3], w.records[4], w.records[5] };
    w.in.records = twice;
    w.in.n_records = 7;
    build(&w, other);
    CHECK(same_files(), "a job done again after it failed counts as done");

    js_set_real((struct js *)(uintptr_t)js_get(w.records[1], "coqa"), "f1", 0.123);
    build(&w, other);
    CHECK(!same_files(), "another value gives other bytes");
    js_release(again);
    release_world(&w);
}

static void nothing_yet(void **state)
{
    struct world w;
    struct store_report r;
    struct err e = ERR_INIT;

    (void)state;
    make_world(&w);
    w.in.n_records = 0;
    w.in.complete = false;
    w.summary.n_experiments = 0;
    build(&w, path);
    CHECK_OK(store_h5_read(path, &r, &e), e);
    CHECK(!r.complete && r.failures.n_rows == 0, "a file without any job can be read");
    store_report_release(&r);
    release_world(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(tables_come_back),         STORE_TEST(h5dump_shows_fronts),
        STORE_TEST(h5dump_shows_experiments), STORE_TEST(h5dump_shows_provenance),
        STORE_TEST(same_input_same_bytes),    STORE_TEST(nothing_yet),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
