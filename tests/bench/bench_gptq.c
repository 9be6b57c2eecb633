/* bench_gptq.c - what GPTQ costs on Llama's shapes, through the engine:
 *
 *   bench_gptq [cpu|cuda [1b|8b [LAYERS [SEQUENCES [METHOD ...]]]]]
 *
 * Random bf16 weights, random ids, sequences of 2048 tokens.  First x^T x of one sequence and the
 * solver alone, shape by shape, the second round of two; "few outputs" is the solver with 128
 * rows: the part that H costs.  Then quantize_model() with the study's settings (4 bits in groups
 * of 128, sym, desc_act, true_sequential, damp 0.1), once: all of it, of it the solver's calls, and
 * the largest use of memory beside the base model, of which the packed linears are a part.
 *
 * METHOD gptq, awq (4 bits in groups of 128, search and clipping, sequences of 512 tokens), hqq (4
 * bits in groups of 64): quantize_model() with these instead, one after another.
 *
 * "floor": operations over an H200's nominal rates: 989 T/s for sums of 16-bit products (half of
 * x^T x is enough), 67 T/s in fp64 for H and the errors, 67 T/s for the loop's fp32 (a fused
 * multiplication and addition counted as two), and bytes at 4.8 TB/s where they take longer.  */
#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "quant/quant.h"

#include "random_model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LENGTH 2048
#define VOCAB  16384

struct shapes {
    const char *name;
    int64_t hidden, inner;
    int n_layers, n_heads, n_kv_heads, head_dim;
};

static const struct shapes llama[] = {
    { "1b", 2048, 8192, 16, 32, 8, 64 },
    { "8b", 4096, 14336, 32, 32, 8, 128 },
};

static struct config config_of(const struct shapes *s, int n_layers)
{
    return (struct config){ .family = FAMILY_LLAMA,
                            .vocab_size = VOCAB,
                            .hidden_size = s->hidden,
                            .intermediate_size = s->inner,
                            .n_layers = n_layers,
                            .n_heads = s->n_heads,
                            .n_kv_heads = s->n_kv_heads,
                            .head_dim = s->head_dim,
                            .max_position = 131072,
                            .rms_norm_eps = 1e-5,
                            .rope = { .theta = 500000, .partial_rotary_factor = 1 },
                            .stored_dtype = DTYPE_BF16,
                            .tied = true };
}

/* ---- parts ---- */

/* H of a sequence of random rows; its time. */
static int time_gram(struct backend *b, int64_t n, struct tensor *h, double *seconds, struct err *e)
{
    struct maker k = { .b = b,
                       .values = mem_array((size_t)(LENGTH * n), 2),
                       .draws = mem_array(65536, 2),
                       .stream = 77 };
    const int n_calls = strcmp(b->ops->name, "cuda") ? 1 : 20;
    struct tensor x = { 0 };
    int rc = -1;

    for (int i = 0; i < 65536; i++)
        k.draws[i] = dtype_f32_to_bf16((float)(rng_real(3, RNG_WEIGHTS, (uint64_t)i) - 0.5));
    if (random_matrix(&k, LENGTH, n, &x, e) < 0)
        goto out;
    struct gram_args a = { .x = &x, .h = h, .n_rows = LENGTH, .fresh = true };
    for (int round = 0; round < 2; round++) {
        double start;

        if (b->ops->gram(b, &a, e) < 0 || b->ops->sync(b, e) < 0)
            goto out;
        start = clock_seconds();
        a.fresh = false;
        for (int i = 0; i < n_calls; i++)
            if (b->ops->gram(b, &a, e) < 0)
                goto out;
        if (b->ops->sync(b, e) < 0)
            goto out;
        *seconds = (clock_seconds() - start) / n_calls;
    }
    rc = 0;
out:
    tensor_free(b, &x);
    free(k.values);
    free(k.draws);
    return rc;
}

static int time_solver(struct backend *b, const struct tensor *w, const struct tensor *h,
                       double *seconds, struct err *e)
{
    for (int round = 0; round < 2; round++) {
        struct gptq_result result;
        struct weight out;
        struct gptq_args a = { .w = w,
                               .source = DTYPE_OTHER,
                               .h = h,
                               .n_rows = LENGTH,
                               .factor = 2.0 / LENGTH,
                               .bits = 4,
                               .group_size = 128,
                               .sym = true,
                               .order = GPTQ_DESC_ACT,
                               .damp = 0.1,
                               .damp_step = 0.01,
                               .scale_dtype = DTYPE_F16,
                               .out = &out,
                               .result = &result };
        double start = clock_seconds();

        if (b->ops->gptq_columns(b, &a, e) < 0)
            return -1;
        *seconds = clock_seconds() - start;
        weight_release(b, &out);
    }
    return 0;
}

static int time_parts(const struct model *base, struct err *e)
{
    struct backend *b = base->backend;
    const int linears[] = { LINEAR_K, LINEAR_Q, LINEAR_GATE, LINEAR_DOWN };
    struct tensor h = { 0 };
    int rc = -1;

    for (size_t i = 0; i < sizeof linears / sizeof *linears; i++) {
        const struct weight *plain = &base->layers[0].linear[linears[i]];
        const int64_t n = plain->n_in, n_out = plain->n_out;
        struct tensor w = { plain->codes, DTYPE_BF16, n_out, n, MEM_BASE }, few = w;
        double seconds, cubed = (double)n * (double)n * (double)n;
        double loop = 2 * (double)n_out * (double)n * (double)n;

        few.n_rows = 128;
        if (!h.data || h.n_rows != n) {
            tensor_free(b, &h);
            if (tensor_alloc(b, MEM_SCRATCH, DTYPE_F32, n, n, &h, e) < 0 ||
                time_gram(b, n, &h, &seconds, e) < 0)
                goto out;
            double operations = (double)LENGTH * (double)n * (double)n;
            double floor = fmax(operations / 989e12, 12.0 * (double)n * (double)n / 4.8e12);
            printf("x^T x, %d rows of %lld: %.3f ms, floor %.3f ms, %.0f T operations/s\n", LENGTH,
                   (long long)n, 1e3 * seconds, 1e3 * floor, 1e-12 * operations / seconds);
            if (time_solver(b, &few, &h, &seconds, e) < 0)
                goto out;
            printf("solver, few outputs, %lld inputs: %.3f ms, floor %.3f ms\n", (long long)n,
                   1e3 * seconds, 1e3 * 2 / 3 * cubed / 67e12);
        }
        if (time_solver(b, &w, &h, &seconds, e) < 0)
            goto out;
        printf("solver, %lld x %lld: %.3f ms, floor %.3f ms\n", (long long)n_out, (long long)n,
               1e3 * seconds, 1e3 * (2.0 / 3 * cubed + loop + loop) / 67e12);
        fflush(stdout);
    }
    rc = 0;
out:
    tensor_free(b, &h);
    return rc;
}

/* ---- all of it ---- */

static const struct way {
    struct quant_spec spec;
    int length; /* of a sequence; 0: looks at none */
} ways[] = {
    { { .method = "gptq",
        .bits = 4,
        .group_size = 128,
        .quant_type = "int",
        .compute = DTYPE_BF16,
        .scale_dtype = DTYPE_F16,
        .sym = true,
        .gptq = { .desc_act = true, .true_sequential = true, .damp = 0.1, .damp_step = 0.01 },
        .n_skip = 1,
        .skip = { "lm_head" } },
      LENGTH },
    { { .method = "awq",
        .bits = 4,
        .group_size = 128,
        .quant_type = "int",
        .compute = DTYPE_BF16,
        .scale_dtype = DTYPE_F16,
        .awq = { .zero_point = true, .duo_scaling = true, .clip = true },
        .n_skip = 1,
        .skip = { "lm_head" } },
      512 },
    { { .method = "hqq",
        .bits = 4,
        .group_size = 64,
        .quant_type = "int",
        .compute = DTYPE_BF16,
        .scale_dtype = DTYPE_F16,
        .n_skip = 1,
        .skip = { "lm_head" } },
      0 },
};
#define N_WAYS (sizeof ways / sizeof *ways)

static const struct way *way_of(const char *method)
{
    for (size_t i = 0; i < N_WAYS; i++)
        if (!strcmp(ways[i].spec.method, method))
            return &ways[i];
    return NULL;
}

static double packed_gb(const struct model *m)
{
    size_t n = 0;

    for (int64_t i = 0; i < m->config.n_layers * N_LINEARS; i++)
        n += weight_bytes(&m->layers[i / N_LINEARS].linear[i % N_LINEARS]);
    return 1e-9 * (double)n;
}

static int time_model(const struct model *base, const struct way *way, int n_seqs, struct err *e)
{
    struct backend *b = base->backend;
    struct quant_calibration ids = { 0 };
    struct quant_report report = { 0 };
    struct model packed = MODEL_INIT;
    struct quant_spec spec = way->spec;
    double solver = 0, largest = 0;
    int rc = -1;

    spec.calibration = way->length ? &ids : NULL;
    if (way->length && make_random_calibration(n_seqs, way->length, VOCAB, &ids, e) < 0)
        return -1;
    mem_account_reset_peak(b);
    double start = clock_seconds();
    if (quantize_model(base, &spec, DTYPE_BF16, &packed, &report, e) < 0 || b->ops->sync(b, e) < 0)
        goto out;
    double all = clock_seconds() - start;
    for (int i = 0; i < report.n_modules; i++) {
        solver += report.modules[i].solved.seconds;
        largest = fmax(largest, report.modules[i].solved.output_error);
    }
    printf("%s, %lld layers%s: %.2f s", spec.method, (long long)base->config.n_layers,
           report.on_host ? " ON THE HOST" : "", all);
    if (way->length)
        printf(", %d sequences of %d tokens", n_seqs, way->length);
    if (solver > 0)
        printf(", of it the solver %.2f s, output errors up to %.3f", solver, largest);
    printf("; %.2f GB beside the base model, of them %.2f GB packed linears\n",
           1e-9 * (double)b->mem.job_peak, packed_gb(&packed));
    fflush(stdout);
    rc = 0;
out:
    model_release(&packed);
    quant_report_release(&report);
    quant_calibration_release(&ids);
    return rc;
}

static int run(const struct model *base, int n_seqs, char **methods, struct err *e)
{
    if (!*methods)
        return time_parts(base, e) < 0 ? -1 : time_model(base, &ways[0], n_seqs, e);
    for (; *methods; methods++) {
        if (!way_of(*methods))
            return err_set(e, ERR_USAGE, "%s is not among gptq, awq and hqq", *methods);
        if (time_model(base, way_of(*methods), n_seqs, e) < 0)
            return -1;
    }
    return 0;
}

int main(int argc, char **argv)
{
    const char *backend = argc > 1 ? argv[1] : "cpu", *size = argc > 2 ? argv[2] : "1b";
    const struct shapes *s = !strcmp(size, "1b")   ? &llama[0]
                             : !strcmp(size, "8b") ? &llama[1]
                                                   : NULL;
    struct backend b = BACKEND_INIT;
    struct model base = MODEL_INIT;
    struct device_facts facts;
    struct err e = ERR_INIT;
    int rc = 1;

    if (!s) {
        fprintf(stderr, "usage: bench_gptq [cpu|cuda [1b|8b [LAYERS [SEQUENCES [METHOD ...]]]]]\n");
        return 2;
    }
    int n_layers = argc > 3 ? atoi(argv[3]) : s->n_layers, n_seqs = argc > 4 ? atoi(argv[4]) : 128;
    const struct config c = config_of(s, n_layers > 0 ? n_layers : 1);
    const double start = clock_seconds();
    if (backend_open(&b, backend, 0, NULL, &e) < 0 || b.ops->facts(&b, &facts, &e) < 0 ||
        make_random_model(&b, &c, &base, &e) < 0)
        goto out;
    printf("%s; %lld layers of Llama %s, made in %.1f s\n", facts.name, (long long)c.n_layers,
           s->name, clock_seconds() - start);
    fflush(stdout);
    if (run(&base, n_seqs > 0 ? n_seqs : 1, argc > 5 ? argv + 5 : argv + argc, &e) < 0)
        goto out;
    rc = 0;
out:
    if (rc)
        fprintf(stderr, "bench_gptq: %s\n", e.text);
    model_release(&base);
    backend_close(&b);
    return rc;
}
