/* test_store_h5.c - the results file: what goes in comes out, and it opens at every moment. */
#include "check.h"

#include "base/file.h"
#include "base/memory.h"
#include "record/provenance.h"
#include "record/store_h5.h"
#include "sweep/sweep_file.h"

#include <glob.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <utime.h>

#define LLAMA "\xF0\x9F\xA6\x99"

static char folder[64], path[96], other[96];

static int make_folder(void **state)
{
    (void)state;
    strcpy(folder, "/tmp/llq_store_XXXXXX");
    if (!mkdtemp(folder))
        return -1;
    snprintf(path, sizeof path, "%s/r.h5", folder);
    snprintf(other, sizeof other, "%s/s.h5", folder);
    return 0;
}

static int remove_folder(void **state)
{
    char pattern[128];
    glob_t left;

    (void)state;
    snprintf(pattern, sizeof pattern, "%s/*", folder);
    if (glob(pattern, 0, NULL, &left) == 0) {
        for (size_t i = 0; i < left.gl_pathc; i++)
            unlink(left.gl_pathv[i]);
        globfree(&left);
    }
    return rmdir(folder);
}

/* ---- a sweep of three experiments, made by hand ---- */

enum { N_EXPERIMENTS = 3, N_RECORDS = 6, SEAL_BYTES = 76 /* store_h5_seal.c */ };

struct world {
    struct experiment experiments[N_EXPERIMENTS];
    struct experiment_results results[N_EXPERIMENTS];
    struct sweep sweep;
    struct summary summary;
    struct js *records[N_RECORDS];
    struct js *provenance;
    struct store_input in;
};

static void make_statistics(struct table *t, int experiment)
{
    table_add_column(t, "metric", "", "what was measured", COLUMN_TEXT, -1);
    table_add_column(t, "n_seeds", "1", "seeds with a value", COLUMN_COUNT, -1);
    table_add_column(t, "mean", "", "over seeds", COLUMN_REAL, -1);
    table_add_column(t, "item_ci_low", "", "interval across items", COLUMN_REAL, -1);
    table_add_column(t, "item_ci_high", "", "interval across items", COLUMN_REAL, -1);
    int row = table_add_row(t);
    table_set_text(t, row, "metric", "coqa_f1");
    table_set_count(t, row, "n_seeds", 3);
    table_set_real(t, row, "mean", 0.8125 - 0.25 * experiment);
    table_set_real(t, row, "item_ci_low", 0.78125);
    table_set_real(t, row, "item_ci_high", 0.84375);
}

static void make_tables(struct world *w)
{
    struct table *s = &w->summary.summary, *c = &w->summary.comparisons;

    table_add_column(s, "name", "", "of the experiment", COLUMN_TEXT, -1);
    table_add_column(s, "bits", "bit", "of a code", COLUMN_COUNT, -1);
    table_add_column(s, "double_quant", "", "scales quantized as well", COLUMN_BOOL, -1);
    table_add_column(s, "coqa_f1", "1", "mean F1", COLUMN_REAL, 1);
    table_add_column(s, "decode_ms_per_token", "ms", "median", COLUMN_REAL, 0);
    for (int i = 0; i < N_EXPERIMENTS; i++) {
        int row = table_add_row(s);
        table_set_text(s, row, "name", w->experiments[i].name);
        table_set_count(s, row, "bits", 16 >> i);
        table_set_count(s, row, "double_quant", i == 1);
        table_set_real(s, row, "coqa_f1", i == 2 ? NAN : 0.1 + 0.2 * i);
        table_set_real(s, row, "decode_ms_per_token", 1.0 / 3.0);
    }
    table_add_column(c, "a", "", "experiment", COLUMN_TEXT, -1);
    table_add_column(c, "delta", "", "a - b", COLUMN_REAL, -1); /* and no row */
}

static void append_text(struct js *array, const char *text)
{
    js_append(array, js_new_text(text));
}

static struct js *reals(int n, double first, double step)
{
    struct js *a = js_new_array();

    for (int i = 0; i < n; i++)
        js_append(a, js_new_real(first + step * i));
    return a;
}

static struct js *make_coqa(int64_t seed)
{
    struct js *c = js_new_object(), *ids = js_new_array(), *said = js_new_array();

    js_set_real(c, "f1", 0.5 + (double)seed / 8.0);
    js_set_int(c, "n", 3);
    js_set_real(c, "em", NAN);
    append_text(ids, "3dr23u6we5exclen4th8uq9rb42tel");
    append_text(ids, "");
    append_text(ids, "story " LLAMA);
    js_append(said, js_new_textn("a\0b", 3));
    append_text(said, "two\nlines \"quoted\"");
    append_text(said, "caf\xC3\xA9");
    js_set(c, "document_id", ids);
    js_set(c, "f1_item", reals(3, 0.25, 0.25));
    js_set(c, "prediction", said);
    js_set(c, "empty", js_new_array());
    return c;
}

static struct js *make_quantization(void)
{
    struct js *q = js_new_object(), *modules = js_new_object(), *names = js_new_array();

    js_set_int(q, "model_bytes", 5000000000);
    append_text(names, "model.layers.0.self_attn.q_proj");
    append_text(names, "model.layers.0.self_attn.k_proj");
    js_set(modules, "name", names);
    js_set(modules, "bits_per_weight", reals(2, 4.125, 0.0));
    js_set(q, "modules", modules);
    return q;
}

static struct js *make_benchmark(struct js *record)
{
    struct js *latency = js_new_object(), *throughput = js_new_object();
    struct js *prefill = js_new_array(), *tokens = js_new_array(), *speed = js_new_array();
    struct js *sizes = js_new_array();

    js_append(prefill, reals(4, 10.0, 0.5)); /* one list a length, with more repeats in the first */
    js_append(prefill, reals(2, 20.0, 0.5));
    js_append(tokens, js_new_int(64));
    js_append(tokens, js_new_int(128));
    js_set(latency, "prefill_tokens", tokens);
    js_set(latency, "prefill_ms", prefill);
    for (int i = 0; i < 3; i++) {
        js_append(sizes, js_new_int(1 << i));
        js_append(speed, reals(4, 100.0 * (i + 1), 1.0));
    }
    js_set(throughput, "batch_size", sizes);
    js_set(throughput, "tokens_per_s", speed);
    js_set(record, "latency", latency);
    js_set(record, "throughput", throughput);
    return record;
}

static struct js *make_record(const char *experiment, int64_t seed, bool failed)
{
    struct js *r = js_new_object(), *job = js_new_object(), *seconds = js_new_object();
    struct js *messages = js_new_array(), *quant = js_new_object();
    char *long_text = mem_alloc(70001);

    js_set_text(quant, "method", "rtn");
    js_set_text(job, "experiment", experiment);
    js_set_int(job, "seed", seed);
    js_set_text(job, "key", "0123abcd");
    js_set_bool(job, "quality", true);
    js_set_bool(job, "benchmark", seed == 0);
    js_set(job, "quant", quant);
    js_set(r, "job", job);
    js_set_text(r, "status", failed ? "error" : "success");
    if (failed) {
        js_set_text(r, "error", "tensor model.norm.weight holds NaN, in " LLAMA ".safetensors");
        js_set_text(r, "error_code", "input");
        js_set_text(r, "error_stage", "load");
    }
    js_set_int(r, "rank", 1);
    js_set_text(r, "hostname", "node07");
    js_set_text(r, "device", "cpu");
    js_set_text(r, "started", "2026-01-31T08:05:09Z");
    js_set_real(seconds, "load", 0.5);
    js_set_real(seconds, "total", 2.5);
    js_set(r, "seconds", seconds);
    append_text(messages, "one warning");
    js_set(r, "messages", messages);
    if (!failed) {
        js_set(r, "quantization", make_quantization());
        js_set(r, "coqa", make_coqa(seed));
        make_benchmark(r);
        memset(long_text, 'x', 70000);
        js_set_text(r, "long", long_text);
    }
    free(long_text);
    return r;
}

static void make_world(struct world *w)
{
    static const char *const names[] = { "fp16_baseline", "bnb_4bit_nf4", "rtn_2bit" };
    static const char *const text = "[sweep]\nname = \"t\" # " LLAMA "\n";
    static const struct provenance_rank ranks[] = { { "node07", "cpu" }, { "node08", "cpu" } };
    struct provenance_input p = { .llq_version = "0.1.0",
                                  .git_commit = "abc",
                                  .n_ranks = 2,
                                  .ranks = ranks,
                                  .backend = "cpu",
                                  .model_path = "/models/m" };

    memset(w, 0, sizeof *w);
    for (int i = 0; i < N_EXPERIMENTS; i++) {
        struct experiment *x = &w->experiments[i];
        strcpy(x->name, names[i]);
        strcpy(x->method, i ? "bnb_4bit" : "none");
        strcpy(x->compute_dtype, "fp16");
        x->bits = 16 >> i;
        w->results[i].experiment = x;
        strcpy(w->results[i].status, i == 2 ? "partial" : "success");
        make_statistics(&w->results[i].statistics, i);
    }
    strcpy(w->sweep.name, "t");
    strcpy(w->sweep.baseline, names[0]);
    w->sweep.confidence = 0.95;
    w->sweep.text = (char *)(uintptr_t)text;
    w->sweep.text_bytes = strlen(text);
    w->sweep.n_experiments = w->summary.n_experiments = N_EXPERIMENTS;
    w->sweep.experiments = w->experiments;
    w->summary.experiments = w->results;
    w->summary.jobs_total = 7;
    w->summary.jobs_ok = 5;
    w->summary.jobs_failed = 1;
    make_tables(w);
    w->records[0] = make_record(names[1], 10, false);
    w->records[1] = make_record(names[1], 9, false);
    w->records[2] = make_record(names[0], 0, false);
    w->records[3] = make_record(names[2], 0, true);
    w->records[4] = make_record(names[2], 1, false);
    w->records[5] = make_record("of_an_earlier_run", 0, false);
    w->provenance = provenance_make(&p);
    w->in = (struct store_input){
        .sweep = &w->sweep,
        .summary = &w->summary,
        .records = (const struct js *const *)w->records,
        .n_records = N_RECORDS,
        .provenance = w->provenance,
        .command_line = "llq_sweep t.toml",
        .created = "2026-01-31T08:00:00Z",
        .finished = "",
        .complete = true,
    };
}

static void release_world(struct world *w)
{
    for (int i = 0; i < N_RECORDS; i++)
        js_release(w->records[i]);
    for (int i = 0; i < N_EXPERIMENTS; i++)
        table_release(&w->results[i].statistics);
    table_release(&w->summary.summary);
    table_release(&w->summary.comparisons);
    js_release(w->provenance);
}

static void build(const struct world *w, const char *to)
{
    struct err e = ERR_INIT;

    CHECK_OK(store_h5_build(to, &w->in, &e), e);
}

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

static struct bytes whole_file(const char *name)
{
    struct bytes b = BYTES_INIT;
    struct err e = ERR_INIT;

    CHECK_OK(file_read(name, &b, &e), e);
    return b;
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

static void what_cannot_be_written(void **state)
{
    struct world w;
    struct err e = ERR_INIT;
    struct store_report r;
    struct rlimit old, small;
    char deep[160];

    (void)state;
    make_world(&w);
    snprintf(deep, sizeof deep, "%s/none/r.h5", folder);
    CHECK(store_h5_build(deep, &w.in, &e) < 0 && e.code == ERR_IO && strstr(e.text, deep),
          "a missing folder is named: %s", e.text);

    build(&w, path);
    getrlimit(RLIMIT_FSIZE, &old);
    small = old;
    small.rlim_cur = 10000;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    int rc = store_h5_build(path, &w.in, &e);
    setrlimit(RLIMIT_FSIZE, &old);
    CHECK(rc < 0 && e.code == ERR_IO && strstr(e.text, path), "a full disk is an error: %s",
          e.text);
    CHECK_OK(store_h5_read(path, &r, &e), e); /* and the file of before stays */
    store_report_release(&r);

    js_release(w.records[0]);
    w.records[0] = js_new_object();
    CHECK(store_h5_build(path, &w.in, &e) < 0 && strstr(e.text, "record 0"),
          "a record of nobody is named: %s", e.text);
    release_world(&w);
}

static void old_temps_go(void **state)
{
    struct world w;
    struct err e = ERR_INIT;
    char old[160], fresh[160], foreign[160];
    struct utimbuf an_hour_ago = { time(NULL) - 3600, time(NULL) - 3600 };

    (void)state;
    make_world(&w);
    snprintf(old, sizeof old, "%s.tmp.1", path);
    snprintf(fresh, sizeof fresh, "%s.tmp.2", path);
    snprintf(foreign, sizeof foreign, "%s.tmp.3x", path);
    CHECK_OK(file_replace(old, "x", 1, &e), e);
    CHECK_OK(file_replace(fresh, "x", 1, &e), e);
    CHECK_OK(file_replace(foreign, "x", 1, &e), e);
    utime(old, &an_hour_ago);
    utime(foreign, &an_hour_ago);
    build(&w, path);
    CHECK(!file_exists(old), "what a killed program left an hour ago is removed");
    CHECK(file_exists(fresh), "what another may still write is not");
    CHECK(file_exists(foreign), "nor a file that only looks like it");
    release_world(&w);
}

/* Reading must end, in an error or in tables; a crash ends the test program. */
static bool reads(const char *bytes, size_t n)
{
    struct err e = ERR_INIT;
    struct store_report r;
    FILE *f = fopen(other, "wb");

    CHECK(f && fwrite(bytes, 1, n, f) == n && fclose(f) == 0, "a damaged copy is written");
    if (store_h5_read(other, &r, &e) < 0) {
        CHECK(e.code == ERR_INPUT && strstr(e.text, other), "the error names the file: %s", e.text);
        CHECK(!strchr(e.text, '\n'), "in one line: %s", e.text);
        return false;
    }
    store_report_release(&r);
    return true;
}

static void files_that_are_not_ours(void **state)
{
    struct world w;
    struct bytes b;
    struct err e = ERR_INIT;
    struct store_report r;
    uint32_t x = 7;

    (void)state;
    make_world(&w);
    build(&w, path);
    b = whole_file(path);
    CHECK(reads(b.data, b.n), "a copy is as good");
    for (size_t n = 0; n < b.n - SEAL_BYTES; n += n < 600 ? 7 : b.n / 150 + 1)
        CHECK(!reads(b.data, n), "cut at byte %zu of %zu: refused", n, b.n);
    CHECK(!reads(b.data, b.n - SEAL_BYTES - 1), "one byte short: refused");

    for (int i = 0; i < 400; i++) {
        x = x * 1664525 + 1013904223;
        size_t at = (x >> 8) % (b.n - SEAL_BYTES);
        char kept = b.data[at];
        b.data[at] ^= (char)(1 + (x & 0x7f));
        CHECK(!reads(b.data, b.n), "one wrong byte at %zu: refused", at);
        b.data[at] = kept;
    }
    CHECK(reads(b.data, b.n - SEAL_BYTES), "without its checksum, as other programs leave it, the "
                                           "file is read");
    b.n -= SEAL_BYTES;

    char *format = memmem(b.data, b.n, "llq-results", 11);
    CHECK(format, "the format stands in the file");
    format[0] = 'x';
    CHECK(!reads(b.data, b.n), "an HDF5 file of somebody else is refused");
    CHECK(store_h5_read(other, &r, &e) < 0 && strstr(e.text, "not a results file"), "by name: %s",
          e.text);
    CHECK(!reads("garbage, garbage", 16) && !reads("", 0), "so is what is no HDF5 file");
    CHECK(store_h5_read("/nowhere/r.h5", &r, &e) < 0 && strstr(e.text, "/nowhere/r.h5"), "missing");
    CHECK(store_h5_read(folder, &r, &e) < 0, "a folder");
    bytes_release(&b);
    release_world(&w);
}

static void killed_while_it_writes(void **state)
{
    enum { KILLS = 30 };
    struct world w;
    uint32_t x = 3;
    int builds = 0;

    (void)state;
    make_world(&w);
    build(&w, path);
    for (int k = 0; k < KILLS; k++) {
        int told[2];
        char tick;
        CHECK(pipe(told) == 0, "a pipe");
        pid_t child = fork();
        if (child == 0) {
            struct err e = ERR_INIT;
            while (store_h5_build(path, &w.in, &e) == 0 && write(told[1], "x", 1) == 1)
                ;
            _exit(1);
        }
        close(told[1]);
        CHECK(read(told[0], &tick, 1) == 1, "the writer builds");
        x = x * 1664525 + 1013904223;
        usleep((x >> 16) % 12000);
        kill(child, SIGKILL);
        while (read(told[0], &tick, 1) == 1)
            builds++;
        close(told[0]);
        int how;
        waitpid(child, &how, 0);
        CHECK(WIFSIGNALED(how), "writer %d was killed while it wrote", k);

        struct store_report r;
        struct err e = ERR_INIT;
        CHECK_OK(store_h5_read(path, &r, &e), e);
        CHECK(r.summary.n_rows == N_EXPERIMENTS, "after kill %d the file is whole", k);
        store_report_release(&r);
    }
    printf("%d kills among %d rebuilds: the file opened every time\n", KILLS, builds + KILLS);
    release_world(&w);
}

#define STORE_TEST(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(tables_come_back),
        STORE_TEST(h5dump_shows_experiments),
        STORE_TEST(h5dump_shows_provenance),
        STORE_TEST(same_input_same_bytes),
        STORE_TEST(nothing_yet),
        STORE_TEST(what_cannot_be_written),
        STORE_TEST(old_temps_go),
        STORE_TEST(files_that_are_not_ours),
        STORE_TEST(killed_while_it_writes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
