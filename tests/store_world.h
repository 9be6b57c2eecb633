/* store_world.h - a sweep of three experiments and its results, made by hand, for the tests of the
 * results file; a folder of its own for each test. */
#pragma once

#include "check.h"

#include "base/file.h"
#include "base/memory.h"
#include "record/provenance.h"
#include "record/store_h5.h"
#include "sweep/sweep_file.h"

#include <glob.h>
#include <string.h>
#include <unistd.h>

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
    table_add_column(s, "coqa_f1_ci_low", "1", "of its interval", COLUMN_REAL, -1);
    table_add_column(s, "coqa_f1_ci_high", "1", "of its interval", COLUMN_REAL, -1);
    table_add_column(s, "decode_ms_per_token", "ms", "median", COLUMN_REAL, 0);
    table_add_column(s, "model_mb", "MiB", "everything of the model", COLUMN_REAL, 0);
    table_add_column(s, "method", "", "of quantization", COLUMN_TEXT, -1);
    table_add_column(s, "decode_ms_per_token_ci_low", "ms", "of its interval", COLUMN_REAL, -1);
    table_add_column(s, "decode_ms_per_token_ci_high", "ms", "of its interval", COLUMN_REAL, -1);
    table_add_column(s, "warnings", "", "of its metrics", COLUMN_TEXT, -1);
    for (int i = 0; i < N_EXPERIMENTS; i++) {
        int row = table_add_row(s);
        table_set_text(s, row, "name", w->experiments[i].name);
        table_set_count(s, row, "bits", 16 >> i);
        table_set_count(s, row, "double_quant", i == 1);
        table_set_real(s, row, "coqa_f1", i == 2 ? NAN : 0.1 + 0.2 * i);
        table_set_real(s, row, "coqa_f1_ci_low", i == 2 ? NAN : 0.0875 + 0.2 * i);
        table_set_real(s, row, "coqa_f1_ci_high", i == 2 ? NAN : 0.1125 + 0.2 * i);
        table_set_real(s, row, "model_mb", 4.5 / (i + 1));
        table_set_text(s, row, "method", w->experiments[i].method);
        table_set_real(s, row, "decode_ms_per_token", 1.0 / 3.0);
        table_set_real(s, row, "decode_ms_per_token_ci_low", 0.25);
        table_set_real(s, row, "decode_ms_per_token_ci_high", 0.5);
        table_set_text(s, row, "warnings", i ? "coqa_f1: few & skewed" : "");
    }
    table_add_column(c, "a", "", "experiment", COLUMN_TEXT, -1);
    table_add_column(c, "delta", "", "a - b", COLUMN_REAL, -1);
    static const char *const texts[] = { "b", "metric", "verdict" };
    static const char *const reals[] = { "ci_low", "ci_high", "margin" };
    for (int k = 0; k < 3; k++) {
        table_add_column(c, texts[k], "", "", COLUMN_TEXT, -1);
        table_add_column(c, reals[k], "", "", COLUMN_REAL, -1);
    }
    table_add_row(c);
    table_set_text(c, 0, "a", "bnb_4bit_nf4");
    table_set_text(c, 0, "b", "fp16_baseline");
    table_set_text(c, 0, "metric", "coqa_f1");
    table_set_text(c, 0, "verdict", "better");
    table_set_real(c, 0, "delta", 0.2);
    table_set_real(c, 0, "ci_low", 0.15);
    table_set_real(c, 0, "ci_high", 0.25);
    table_set_real(c, 0, "margin", 0.01);

    static const char *const front[][3] = { { "size_quality", "coqa_f1", "bnb_4bit_nf4" },
                                            { "size_quality", "coqa_f1", "fp16_baseline" },
                                            { "size_quality", "perplexity", "fp16_baseline" },
                                            { "latency_quality", "coqa_f1", "fp16_baseline" } };
    struct table *f = &w->summary.pareto;
    for (int k = 0; k < 3; k++)
        table_add_column(f, (const char *[]){ "front", "metric", "name" }[k], "", "", COLUMN_TEXT,
                         -1);
    for (int i = 0; i < 4; i++) {
        int row = table_add_row(f);
        for (int k = 0; k < 3; k++)
            table_set_text(f, row, f->columns[k].name, front[i][k]);
    }
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
    js_set(latency, "decode_ms_per_token", reals(9, 1.0, 0.25));
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
    table_release(&w->summary.pareto);
    js_release(w->provenance);
}

static void build(const struct world *w, const char *to)
{
    struct err e = ERR_INIT;

    CHECK_OK(store_h5_build(to, &w->in, &e), e);
}

static struct bytes whole_file(const char *name)
{
    struct bytes b = BYTES_INIT;
    struct err e = ERR_INIT;

    CHECK_OK(file_read(name, &b, &e), e);
    return b;
}

#define STORE_TEST(f) cmocka_unit_test_setup_teardown(f, make_folder, remove_folder)
