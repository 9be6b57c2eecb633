/* bench_points.c - the benchmark's own points for one checkpoint in several formats, one line each:
 *
 *   bench_points FOLDER [cpu|cuda|auto [REPEATS [FILE.csv]]]
 *
 * Decode and throughput are of greedy decoding behind prompts of 512 and 16 tokens; quantizing is
 * all linears, in GB/s of 16-bit input.  make_model writes a checkpoint of random weights; the CSV
 * file is what analysis/bench_transformers.py compares with. */
#include "bench/bench.h"
#include "base/stats.h"
#include "model/model.h"
#include "quant/quant.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *name;
    struct quant_spec spec;
    enum dtype source;
} formats[] = {
    { "bf16", { .method = "none", .bits = 16, .compute = DTYPE_BF16 }, DTYPE_BF16 },
    { "fp16", { .method = "none", .bits = 16, .compute = DTYPE_F16 }, DTYPE_F16 },
    { "nf4 double",
      { .method = "bnb_4bit",
        .bits = 4,
        .group_size = 64,
        .quant_type = "nf4",
        .double_quant = true,
        .compute = DTYPE_F16 },
      DTYPE_F16 },
    { "fp4 double",
      { .method = "bnb_4bit",
        .bits = 4,
        .group_size = 64,
        .quant_type = "fp4",
        .double_quant = true,
        .compute = DTYPE_F16 },
      DTYPE_F16 },
    { "LLM.int8",
      { .method = "bnb_8bit", .bits = 8, .compute = DTYPE_F16, .outlier_threshold = 6 },
      DTYPE_F16 },
    { "rtn 3 bits g128",
      { .method = "rtn",
        .bits = 3,
        .group_size = 128,
        .quant_type = "int",
        .compute = DTYPE_F16,
        .grid = "gptq" },
      DTYPE_F16 },
};
#define N_FORMATS ((int)(sizeof formats / sizeof *formats))

static double median_of(const struct js *list)
{
    double x[256];
    int n = 0;

    for (size_t i = 0; i < js_count(list) && n < 256; i++)
        x[n++] = js_real(js_at(list, i));
    return n ? stats_median(x, n) : 0.0 / 0.0;
}

static void print_points(const struct js *out)
{
    const struct js *latency = js_get(out, "latency"), *rates = js_get(out, "throughput");

    printf(" | %8.2f | %7.3f", median_of(js_at(js_get(latency, "prefill_ms"), 0)),
           median_of(js_get(latency, "decode_ms_per_token")));
    for (size_t i = 0; i < js_count(js_get(rates, "tokens_per_s")); i++)
        printf(" | %8.0f", median_of(js_at(js_get(rates, "tokens_per_s"), i)));
}

/* One line a figure: format, what, at which length or batch size, median, unit. */
static void write_csv(FILE *csv, const char *format, const struct js *out)
{
    const struct js *latency = js_get(out, "latency"), *rates = js_get(out, "throughput");
    const struct js *lengths = js_get(latency, "prefill_tokens"),
                    *sizes = js_get(rates, "batch_size");

    for (size_t i = 0; i < js_count(lengths); i++)
        fprintf(csv, "%s,prefill,%lld,%.6g,ms\n", format, (long long)js_int(js_at(lengths, i)),
                median_of(js_at(js_get(latency, "prefill_ms"), i)));
    fprintf(csv, "%s,decode,%lld,%.6g,ms/token\n", format, (long long)js_int(js_at(lengths, 0)),
            median_of(js_get(latency, "decode_ms_per_token")));
    for (size_t i = 0; i < js_count(sizes); i++)
        fprintf(csv, "%s,throughput,%lld,%.6g,tokens/s\n", format,
                (long long)js_int(js_at(sizes, i)),
                median_of(js_at(js_get(rates, "tokens_per_s"), i)));
    fflush(csv);
}

static int measure(const struct model *base, int format, int repeats, FILE *csv, struct err *e)
{
    struct bench_options o = { .warmup = 1,
                               .repeats = repeats,
                               .n_prefill = 1,
                               .prefill_tokens = { 512 },
                               .decode_tokens = 32,
                               .n_batch = 4,
                               .batch_sizes = { 1, 4, 8, 64 },
                               .seed = 1 };
    struct quant_spec spec = formats[format].spec;
    struct quant_report report = { 0 };
    struct model m = MODEL_INIT;
    struct js *out = js_new_object();
    int rc = -1;

    spec.n_skip = 1;
    strcpy(spec.skip[0], "lm_head");
    if (quantize_model(base, &spec, formats[format].source, &m, &report, e) == 0 &&
        bench_run(&m, &o, out, e) == 0) {
        double input_gb = 2e-9 * (double)config_n_linear_parameters(&base->config);

        printf("| %-15s", formats[format].name);
        if (strcmp(spec.method, "none"))
            printf(" | %8.1f", input_gb / report.seconds);
        else
            printf(" | %8s", "");
        print_points(out);
        printf(" | %8.1f |\n", (double)report.sizes.model_bytes / 1048576);
        fflush(stdout);
        if (csv) {
            write_csv(csv, formats[format].name, out);
            fprintf(csv, "%s,weights,0,%.6g,MiB\n", formats[format].name,
                    (double)report.sizes.model_bytes / 1048576);
        }
        rc = 0;
    }
    js_release(out);
    quant_report_release(&report);
    model_release(&m);
    return rc;
}

int main(int argc, char **argv)
{
    struct backend b = BACKEND_INIT;
    struct device_facts facts = { 0 };
    struct load_facts load;
    struct model base = MODEL_INIT;
    struct err e = ERR_INIT;
    int repeats = argc > 3 ? atoi(argv[3]) : 5, rc = -1;
    FILE *csv = NULL;

    if (argc < 2 || repeats < 2 || repeats > 200) {
        fprintf(stderr, "usage: bench_points FOLDER [cpu|cuda|auto [REPEATS [FILE.csv]]]\n");
        return 2;
    }
    if (argc > 4) {
        csv = fopen(argv[4], "w");
        if (!csv) {
            perror(argv[4]);
            return 2;
        }
        fprintf(csv, "format,what,at,median,unit\n");
    }
    if (backend_open(&b, argc > 2 ? argv[2] : "auto", 0, NULL, &e) < 0 ||
        b.ops->facts(&b, &facts, &e) < 0 || weights_load_timed(&b, argv[1], &base, &load, &e) < 0)
        goto out;
    printf("%s, %s; loaded %.2f GB at %.2f GB/s; medians of %d or more\n", argv[1], facts.name,
           (double)load.n_bytes * 1e-9, (double)load.n_bytes * 1e-9 / load.read_s, repeats);
    printf(
        "| format          | quantize | prefill  | decode  | b1       | b4       | b8       | b64 "
        "     | weights  |\n|                 | GB/s     | 512, ms  | ms/tok  | tokens/s | "
        "tokens/s | tokens/s | tokens/s | MiB      |\n|---|---|---|---|---|---|---|---|---|\n");
    rc = 0;
    for (int i = 0; i < N_FORMATS && rc == 0; i++)
        rc = measure(&base, i, repeats, csv, &e);
out:
    if (rc < 0)
        fprintf(stderr, "bench_points: %s\n", e.text);
    model_release(&base);
    backend_close(&b);
    if (csv && fclose(csv) != 0 && rc == 0) {
        perror(argv[4]);
        rc = -1;
    }
    return rc < 0;
}
