/* bench_points.c - the benchmark's own points for one checkpoint in several formats, one line each:
 *
 *   bench_points FOLDER [cpu|cuda|auto [REPEATS [FILE.csv [FORMAT...]]]]
 *
 * Decode and throughput are of greedy decoding behind prompts of 512 and 16 tokens (128 new ones on
 * a GPU, 32 on a CPU); quantizing is all linears, in GB/s of 16-bit input.  On a GPU also 8 prompts
 * of 2048 ids in one pass; and below, what a token cannot take less than, by the bytes it reads: at
 * the rate of a copy in this run, and on an A100.  FORMAT: those whose name begins so; FILE.csv
 * "-": none.  make_model writes a checkpoint of random weights; the CSV file is what
 * analysis/bench_transformers.py compares with. */
#include "bench/bench.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/stats.h"
#include "model/model.h"
#include "quant/quant.h"

#include "copy_rate.h"
#include "formats.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

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

/* ---- limits by bytes ---- */

#define A100_GB_S 2039 /* of 80 GB, by its data sheet */

struct limit {
    double gb, ms; /* a token */
};

static struct limit limit_of(const struct js *out, int n_steps)
{
    const struct js *work = js_get(out, "roofline");

    for (size_t i = 0; i < js_count(js_get(work, "point")); i++)
        if (!strncmp(js_text(js_at(js_get(work, "point"), i)), "decode", 6))
            return (struct limit){ js_real(js_at(js_get(work, "gbyte"), i)) / n_steps,
                                   1e3 * js_real(js_at(js_get(work, "seconds"), i)) / n_steps };
    return (struct limit){ 0 };
}

static void print_limits(const struct limit *limits, double copy)
{
    printf("\ndevice-to-device copy of 1 GB: %.2f TB/s read and written\n\n", 1e-12 * copy);
    printf("| %-15s | GB a token | decode, ms/tok | at that rate | A100 at %d GB/s |\n"
           "|---|---|---|---|---|\n",
           "format", A100_GB_S);
    for (int i = 0; i < N_FORMATS; i++)
        if (limits[i].gb > 0)
            printf("| %-15s | %10.3f | %14.3f | %12.3f | %17.3f |\n", formats[i].name, limits[i].gb,
                   limits[i].ms, 1e12 * limits[i].gb / copy, 1e3 * limits[i].gb / A100_GB_S);
}

/* ---- long prompts ---- */

#define N_LONG   8
#define LONG_IDS 2048

/* Milliseconds of N_LONG prompts of LONG_IDS ids in one pass. */
static int measure_long(const struct model *m, int repeats, double *ms, struct err *e)
{
    const int64_t rows = N_LONG * LONG_IDS;
    int32_t *ids = mem_array((size_t)rows, sizeof *ids);
    int32_t slot[N_LONG], n_tokens[N_LONG], next[N_LONG];
    double *sample = mem_array((size_t)repeats, sizeof *sample);
    const struct batch batch = {
        .phase = PHASE_PROMPT, .n_seqs = N_LONG, .slot = slot, .n_tokens = n_tokens, .ids = ids
    };
    struct forward_out out = { .next_ids = next };
    struct kv_cache cache = { 0 };
    struct forward *f = NULL;
    int rc = -1;

    for (int64_t i = 0; i < rows; i++)
        ids[i] = (int32_t)rng_below(1, RNG_PROMPTS, (uint64_t)i, (uint64_t)m->config.vocab_size);
    for (int s = 0; s < N_LONG; s++) {
        slot[s] = s;
        n_tokens[s] = LONG_IDS;
    }
    if (kv_cache_open(&cache, m, N_LONG, LONG_IDS, e) < 0 ||
        forward_open(&f, m, rows, N_LONG, e) < 0)
        goto out;
    for (int i = -1; i < repeats; i++) { /* -1 warms up */
        for (int s = 0; s < N_LONG; s++)
            kv_cache_drop(&cache, s);
        double start = clock_seconds();
        if (forward_run(f, &cache, &batch, WANT_LAST_ARGMAX, NULL, 0, &out, e) < 0)
            goto out;
        if (i >= 0)
            sample[i] = 1e3 * (clock_seconds() - start);
    }
    *ms = stats_median(sample, repeats);
    rc = 0;
out:
    forward_close(f);
    kv_cache_close(&cache);
    free(sample);
    free(ids);
    return rc;
}

/* Products of the linears, the head's aside. */
static double long_teraflops(const struct config *c, double ms)
{
    return 2e-9 * (double)config_n_linear_parameters(c) * N_LONG * LONG_IDS / ms;
}

static int measure(const struct model *base, int format, int repeats, FILE *csv,
                   struct limit *limit, struct err *e)
{
    const bool device = strcmp(base->backend->ops->name, "cpu") != 0;
    struct bench_options o = { .warmup = 1,
                               .repeats = repeats,
                               .n_prefill = 1,
                               .prefill_tokens = { 512 },
                               .decode_tokens = device ? 128 : 32,
                               .n_batch = 5,
                               .batch_sizes = { 1, 4, 8, 16, 64 },
                               .seed = 1 };
    double long_ms = 0;
    const struct quant_spec spec = format_spec(format);
    struct quant_report report = { 0 };
    struct model m = MODEL_INIT;
    struct js *out = js_new_object();
    int rc = -1;

    if (quantize_model(base, &spec, formats[format].source, &m, &report, e) == 0 &&
        bench_run(&m, &o, out, e) == 0 &&
        (!device || measure_long(&m, repeats < 5 ? repeats : 5, &long_ms, e) == 0)) {
        double input_gb = 2e-9 * (double)config_n_linear_parameters(&base->config);

        printf("| %-15s", formats[format].name);
        if (strcmp(spec.method, "none"))
            printf(" | %8.1f", input_gb / report.seconds);
        else
            printf(" | %8s", "");
        print_points(out);
        *limit = limit_of(out, o.decode_tokens);
        if (device)
            printf(" | %8.2f | %8.1f", long_ms, long_teraflops(&base->config, long_ms));
        printf(" | %8.1f |\n", (double)report.sizes.model_bytes / 1048576);
        fflush(stdout);
        if (csv) {
            write_csv(csv, formats[format].name, out);
            if (device)
                fprintf(csv, "%s,prefill 8,%d,%.6g,ms\n", formats[format].name, LONG_IDS, long_ms);
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

static void print_head(bool device)
{
    static const char *const columns[][2] = {
        { "format", "" },       { "quantize", "GB/s" }, { "prefill", "512, ms" },
        { "decode", "ms/tok" }, { "b1", "tokens/s" },   { "b4", "tokens/s" },
        { "b8", "tokens/s" },   { "b16", "tokens/s" },  { "b64", "tokens/s" },
        { "8 x 2048", "ms" },   { "", "TFLOP/s" },      { "weights", "MiB" },
    };
    const int n = sizeof columns / sizeof *columns;

    for (int line = 0; line < 3; line++) {
        for (int i = 0; i < n; i++)
            if (i == 9 || i == 10 ? device : true) {
                if (line == 2)
                    printf("|---");
                else
                    printf("| %-*s ", i == 0 ? 15 : i == 3 ? 7 : 8, columns[i][line]);
            }
        printf("|\n");
    }
}

int main(int argc, char **argv)
{
    struct backend b = BACKEND_INIT;
    struct device_facts facts = { 0 };
    struct load_facts load;
    struct model base = MODEL_INIT;
    struct limit limits[N_FORMATS] = { { 0 } };
    struct err e = ERR_INIT;
    int repeats = argc > 3 ? atoi(argv[3]) : 5, rc = -1;
    FILE *csv = NULL;

    if (argc < 2 || repeats < 2 || repeats > 200) {
        fprintf(stderr,
                "usage: bench_points FOLDER [cpu|cuda|auto [REPEATS [FILE.csv [FORMAT...]]]]\n");
        return 2;
    }
    if (argc > 4 && strcmp(argv[4], "-")) {
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
    print_head(strcmp(b.ops->name, "cpu") != 0);
    rc = 0;
    for (int i = 0; i < N_FORMATS && rc == 0; i++)
        if (format_is_asked_for(i, argv + 5, argc > 5 ? argc - 5 : 0))
            rc = measure(&base, i, repeats, csv, &limits[i], &e);
    double copy = rc == 0 ? copy_rate(&b, &e) : 0;
    if (copy > 0)
        print_limits(limits, copy);
    else if (rc == 0 && e.code)
        rc = -1;
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
