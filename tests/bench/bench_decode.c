/* bench_decode.c - decode steps alone, without a prompt pass: milliseconds a step for batches of 1
 * to 64, and what part of a read of all weights and keys at 4.45 TB/s (an H200) that is.
 *
 *   bench_decode FOLDER [cpu|cuda|auto [CONTEXT [LARGEST_BATCH [FORMAT...]]]]
 *
 * CONTEXT: tokens in the cache before the steps. */
#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/stats.h"
#include "model/model.h"

#include "formats.h"

#include <stdio.h>
#include <stdlib.h>

#define READ_BYTES_PER_S 4.45e12
#define N_STEPS          64
#define N_TIMES          7

static const int batches[] = { 1, 2, 4, 8, 16, 32, 64 };
#define N_BATCHES ((int)(sizeof batches / sizeof *batches))

/* Bytes that a step of n sequences reads. */
static double step_bytes(const struct model *m, int n, int64_t context)
{
    double bytes = (double)(m->head.n_out * m->head.row_bytes);

    for (int64_t i = 0; i < m->config.n_layers; i++)
        for (int l = 0; l < N_LINEARS; l++)
            bytes += (double)weight_bytes(&m->layers[i].linear[l]);
    return bytes + (double)kv_cache_bytes(m, n, context);
}

/* Random prompts of `context` ids into all slots; id: what came out. */
static int run_prompts(struct forward *f, struct kv_cache *c, int n, int64_t context, int64_t vocab,
                       int32_t *id, struct err *e)
{
    int32_t *ids = mem_array((size_t)context, sizeof *ids), n_ids = (int32_t)context;
    int rc = 0;

    for (int32_t s = 0; rc == 0 && s < n; s++) {
        struct batch batch = {
            .phase = PHASE_PROMPT, .n_seqs = 1, .slot = &s, .n_tokens = &n_ids, .ids = ids
        };
        struct forward_out out = { .next_ids = &id[s] };

        for (int64_t i = 0; i < context; i++)
            ids[i] =
                (int32_t)rng_below(1, RNG_PROMPTS, (uint64_t)(s * context + i), (uint64_t)vocab);
        rc = forward_run(f, c, &batch, WANT_LAST_ARGMAX, NULL, 0, &out, e);
    }
    free(ids);
    return rc;
}

/* Median milliseconds of a step. */
static int time_steps(const struct model *m, int n, int64_t context, double *ms, struct err *e)
{
    const int64_t capacity = context + (N_TIMES + 1) * N_STEPS;
    int32_t *memory = mem_array((size_t)(n * (N_STEPS + 2)), sizeof *memory);
    int32_t *slot = memory, *id = memory + n, *out = memory + 2 * n;
    double sample[N_TIMES];
    struct kv_cache cache = { 0 };
    struct forward *f = NULL;
    int rc = -1;

    if (kv_cache_open(&cache, m, n, capacity, e) < 0 ||
        forward_open(&f, m, context > n ? context : n, n, e) < 0 ||
        run_prompts(f, &cache, n, context, m->config.vocab_size, id, e) < 0)
        goto out;
    for (int s = 0; s < n; s++)
        slot[s] = s;
    for (int i = -1; i < N_TIMES; i++) { /* -1 warms up */
        double start = clock_seconds();
        if (forward_decode(f, &cache, n, slot, id, N_STEPS, NULL, 0, out, e) < 0)
            goto out;
        if (i >= 0)
            sample[i] = 1e3 * (clock_seconds() - start) / N_STEPS;
    }
    *ms = stats_median(sample, N_TIMES);
    rc = 0;
out:
    forward_close(f);
    kv_cache_close(&cache);
    free(memory);
    return rc;
}

static int measure(const struct model *base, int format, int64_t context, int largest,
                   struct err *e)
{
    const struct quant_spec spec = format_spec(format);
    struct quant_report report = { 0 };
    struct model m = MODEL_INIT;
    int rc = quantize_model(base, &spec, formats[format].source, &m, &report, e);

    if (rc == 0)
        printf("| %-15s", formats[format].name);
    for (int i = 0; rc == 0 && i < N_BATCHES && batches[i] <= largest; i++) {
        double ms = 0;
        rc = time_steps(&m, batches[i], context, &ms, e);
        printf(" | %6.3f %3.0f %%", ms,
               1e5 * step_bytes(&m, batches[i], context) / READ_BYTES_PER_S / ms);
        fflush(stdout);
    }
    if (rc == 0)
        printf(" |%s%s\n", m.backend->notes[0] ? " " : "", m.backend->notes);
    quant_report_release(&report);
    model_release(&m);
    return rc;
}

int main(int argc, char **argv)
{
    struct backend b = BACKEND_INIT;
    struct device_facts facts = { 0 };
    struct model base = MODEL_INIT;
    struct err e = ERR_INIT;
    const int64_t context = argc > 3 ? atoll(argv[3]) : 64;
    const int largest = argc > 4 ? atoi(argv[4]) : 64;
    int rc = -1;

    if (argc < 2 || context < 1) {
        fprintf(
            stderr,
            "usage: bench_decode FOLDER [cpu|cuda|auto [CONTEXT [LARGEST_BATCH [FORMAT...]]]]\n");
        return 2;
    }
    if (backend_open(&b, argc > 2 ? argv[2] : "auto", 0, NULL, &e) < 0 ||
        b.ops->facts(&b, &facts, &e) < 0 || weights_load(&b, argv[1], &base, &e) < 0)
        goto out;
    printf(
        "%s, %s: ms a step, and %% of reading at %.2f TB/s; %lld tokens before\n| format         ",
        argv[1], facts.name, READ_BYTES_PER_S * 1e-12, (long long)context);
    for (int i = 0; i < N_BATCHES && batches[i] <= largest; i++)
        printf(" | b%-11d", batches[i]);
    printf(" |\n");
    rc = 0;
    for (int i = 0; i < N_FORMATS && rc == 0; i++)
        if (format_is_asked_for(i, argv + 5, argc > 5 ? argc - 5 : 0))
            rc = measure(&base, i, context, largest, &e);
out:
    if (rc < 0)
        fprintf(stderr, "bench_decode: %s\n", e.text);
    model_release(&base);
    backend_close(&b);
    return rc < 0;
}
