/* bench_quantize.c - how fast each method packs the linears of Llama-3.2-1B, through the engine:
 *
 *   bench_quantize [cpu|cuda [REPEATS [awq]]]
 *
 * On a GPU all 16 layers, on the CPU one.  Weights are bf16, about normal, already in memory; the
 * source dtype is fp16, so they are rounded on the way, or bf16 where a row says so.  One untimed
 * round, then REPEATS (default 5); the median counts.  "packed": quant_report.seconds, in GB/s of
 * 16-bit input; "of it": putting weights into the order that the device multiplies from, where that
 * takes a pass of its own; "errors": the rest of quantize_model(), which measures them; "freed":
 * the job's model given back.  A method that looks at text is run when it is named, on 128 x 512
 * random ids (on the CPU 2 x 128), REPEATS times; the steps of AWQ's searches on one matrix follow.
 * On a GPU the ceiling is a device-to-device copy of 1 GB, bytes read and written, timed in the
 * same run. */
#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "quant/quant.h"

#include "copy_rate.h"
#include "random_model.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define BNB4(type, block, twice)                                                  \
    {                                                                             \
        .method = "bnb_4bit", .bits = 4, .group_size = block, .quant_type = type, \
        .double_quant = twice, .compute = DTYPE_F16, .n_skip = 1, .skip = {       \
            "lm_head"                                                             \
        }                                                                         \
    }
#define RTN(n_bits, group, symmetric, which)                                          \
    {                                                                                 \
        .method = "rtn", .bits = n_bits, .group_size = group, .quant_type = "int",    \
        .sym = symmetric, .grid = which, .compute = DTYPE_F16, .n_skip = 1, .skip = { \
            "lm_head"                                                                 \
        }                                                                             \
    }

#define FLOATS(type, n_bits, group)                                               \
    {                                                                             \
        .method = "rtn", .bits = n_bits, .group_size = group, .quant_type = type, \
        .compute = DTYPE_F16, .n_skip = 1, .skip = {                              \
            "lm_head"                                                             \
        }                                                                         \
    }
#define HQQ(n_bits, group, type)                                                   \
    {                                                                              \
        .method = "hqq", .bits = n_bits, .group_size = group, .quant_type = "int", \
        .scale_dtype = type, .compute = DTYPE_F16, .n_skip = 1, .skip = {          \
            "lm_head"                                                              \
        }                                                                          \
    }

static const struct {
    struct quant_spec spec;
    enum dtype source;
} rows[] = {
    { { .method = "none", .bits = 16, .compute = DTYPE_F16 }, DTYPE_F16 },
    { BNB4("nf4", 64, true), DTYPE_F16 },
    { BNB4("nf4", 64, true), DTYPE_BF16 },
    { BNB4("nf4", 64, false), DTYPE_F16 },
    { BNB4("nf4", 4096, true), DTYPE_F16 },
    { BNB4("fp4", 64, true), DTYPE_F16 },
    { { .method = "bnb_8bit",
        .bits = 8,
        .compute = DTYPE_F16,
        .outlier_threshold = 6,
        .n_skip = 1,
        .skip = { "lm_head" } },
      DTYPE_F16 },
    { RTN(2, 128, true, "absmax"), DTYPE_F16 },
    { RTN(3, 128, true, "absmax"), DTYPE_F16 },
    { RTN(4, 128, true, "absmax"), DTYPE_F16 },
    { RTN(4, 32, false, "gptq"), DTYPE_F16 },
    { RTN(4, -1, false, "awq"), DTYPE_F16 },
    { RTN(8, 128, true, "absmax"), DTYPE_F16 },
    { FLOATS("nf3", 3, 64), DTYPE_F16 },
    { FLOATS("mxfp4", 4, 32), DTYPE_BF16 },
    { FLOATS("nvfp4", 4, 16), DTYPE_BF16 },
    { FLOATS("fp8_e4m3", 8, 0), DTYPE_BF16 },
    { FLOATS("fp8_e4m3", 8, -1), DTYPE_BF16 },
    { HQQ(4, 64, DTYPE_F16), DTYPE_F16 },
    { HQQ(2, 64, DTYPE_F16), DTYPE_F16 },
    { HQQ(8, 128, DTYPE_F32), DTYPE_F16 },
    { HQQ(3, -1, DTYPE_F32), DTYPE_F16 },
};
#define N_ROWS (sizeof rows / sizeof *rows)

static const struct quant_spec calibrated[] = {
    { .method = "awq",
      .bits = 4,
      .group_size = 128,
      .quant_type = "int",
      .scale_dtype = DTYPE_F16,
      .compute = DTYPE_F16,
      .awq = { .zero_point = true, .duo_scaling = true, .clip = true },
      .n_skip = 1,
      .skip = { "lm_head" } },
};
#define N_CALIBRATED (sizeof calibrated / sizeof *calibrated)

static const struct config shapes = { .family = FAMILY_LLAMA,
                                      .vocab_size = 64,
                                      .hidden_size = 2048,
                                      .intermediate_size = 8192,
                                      .n_layers = 16,
                                      .n_heads = 32,
                                      .n_kv_heads = 8,
                                      .head_dim = 64,
                                      .rms_norm_eps = 1e-5,
                                      .rope = { .theta = 500000, .partial_rotary_factor = 1 },
                                      .stored_dtype = DTYPE_BF16,
                                      .tied = true };

static void describe(const struct quant_spec *s, enum dtype source, char *out, size_t room)
{
    int n = snprintf(out, room, "%s", s->method);

    if (s->quant_type[0])
        n += snprintf(out + n, room - (size_t)n, " %s %d bits", s->quant_type, s->bits);
    if (s->group_size)
        n += snprintf(out + n, room - (size_t)n, s->group_size < 0 ? " per row" : " in %lld",
                      (long long)s->group_size);
    if (s->grid[0])
        n += snprintf(out + n, room - (size_t)n, " %s %s", s->grid, s->sym ? "sym" : "asym");
    snprintf(out + n, room - (size_t)n, "%s%s", s->double_quant ? " dq" : "",
             source == DTYPE_BF16 ? ", bf16" : "");
}

/* ---- timing ---- */

struct seconds {
    double packed, arranging, errors, freed;
};

static int one_round(const struct model *base, int row, struct seconds *out, struct err *e)
{
    struct quant_report report;
    struct model m;
    double start = clock_seconds();

    if (quantize_model(base, &rows[row].spec, rows[row].source, &m, &report, e) < 0 ||
        base->backend->ops->sync(base->backend, e) < 0)
        return -1;
    out->packed = report.seconds;
    out->arranging = report.arranging;
    out->errors = clock_seconds() - start - report.seconds;
    quant_report_release(&report);
    start = clock_seconds();
    model_release(&m);
    if (base->backend->ops->sync(base->backend, e) < 0)
        return -1;
    out->freed = clock_seconds() - start;
    return 0;
}

static int by_packed(const void *a, const void *b)
{
    double x = ((const struct seconds *)a)->packed, y = ((const struct seconds *)b)->packed;

    return (x > y) - (x < y);
}

static int bench(const struct model *base, int n_repeats, struct err *e)
{
    struct seconds *round = mem_array((size_t)n_repeats, sizeof *round);
    const double n_weights = (double)config_n_linear_parameters(&base->config);
    const double ceiling = copy_rate(base->backend, e);
    int rc = -1;

    if (ceiling > 0)
        printf("device-to-device copy of 1 GB: %.2f TB/s read and written\n", 1e-12 * ceiling);
    printf("%-34s %10s %8s %8s %9s %10s %9s\n", "method", "packed ms", "of it ms", "GB/s",
           "of copy", "errors ms", "freed ms");
    for (size_t k = 0; k < N_ROWS; k++) {
        char name[96], share[16] = "";

        for (int i = -1; i < n_repeats; i++)
            if (one_round(base, (int)k, &round[i < 0 ? 0 : i], e) < 0)
                goto out;
        qsort(round, (size_t)n_repeats, sizeof *round, by_packed);
        const struct seconds *median = &round[n_repeats / 2];
        describe(&rows[k].spec, rows[k].source, name, sizeof name);
        /* What any way must move: the weights in, the codes out. */
        double moved = n_weights * (2 + rows[k].spec.bits / 8.0);
        if (ceiling > 0)
            snprintf(share, sizeof share, "%.0f %%", 100 * moved / median->packed / ceiling);
        printf("%-34s %10.3f %8.3f %8.1f %9s %10.3f %9.3f\n", name, 1e3 * median->packed,
               1e3 * median->arranging, 2e-9 * n_weights / median->packed, share,
               1e3 * median->errors, 1e3 * median->freed);
        fflush(stdout);
    }
    rc = 0;
out:
    free(round);
    return rc;
}

/* ---- methods that look at text ---- */

static int calibrate(const struct model *base, const struct quant_spec *method,
                     const struct quant_calibration *ids, struct err *e)
{
    struct quant_spec s = *method;
    struct quant_report report;
    struct model m;
    double start = clock_seconds();
    char name[96];

    s.calibration = ids;
    mem_account_reset_peak(base->backend);
    if (quantize_model(base, &s, DTYPE_F16, &m, &report, e) < 0 ||
        base->backend->ops->sync(base->backend, e) < 0)
        return -1;
    describe(&s, DTYPE_F16, name, sizeof name);
    printf("%-34s %10.3f s, %.3f s with errors; %.2f GB beside the base model\n", name,
           report.seconds, clock_seconds() - start, 1e-9 * (double)base->backend->mem.job_peak);
    fflush(stdout);
    quant_report_release(&report);
    model_release(&m);
    return 0;
}

/* ---- the steps of AWQ's searches ---- */

#define STEP_OUT  8192
#define STEP_IN   2048
#define STEP_ROWS 16384
#define CLIP_ROWS 512

struct steps {
    struct backend *b;
    struct tensor w, rounded, x, y, few, s, sums;
};

enum { SIZES, ROUND, ERRORS, CLIP, N_STEPS };

static int take_step(struct steps *k, int step, struct err *e)
{
    int32_t segments[STEP_ROWS / 512 + 1];
    const struct awq_form form = { 4, 128, true };
    const struct awq_ops *ops = k->b->ops->awq;

    for (int i = 0; i <= STEP_ROWS / 512; i++)
        segments[i] = 512 * i;
    switch (step) {
    case SIZES:
        return ops->sizes(
            k->b, &(struct awq_sizes_args){ &k->x, { STEP_ROWS / 512, segments }, 0, k->sums.data },
            e);
    case ROUND:
        return ops->round(k->b, &(struct awq_round_args){ &k->w, k->s.data, form, &k->rounded }, e);
    case ERRORS:
        return ops->errors(k->b, &(struct awq_errors_args){ &k->x, &k->y, STEP_ROWS, k->sums.data },
                           e);
    default:
        return ops->clip(
            k->b, &(struct awq_clip_args){ &k->w, &k->few, CLIP_ROWS, form, k->sums.data }, e);
    }
}

static int make_steps(struct steps *k, struct err *e)
{
    static const struct {
        size_t at;
        enum dtype t;
        int64_t n_rows, n_cols;
    } tensors[] = {
        { offsetof(struct steps, w), DTYPE_F32, STEP_OUT, STEP_IN },
        { offsetof(struct steps, rounded), DTYPE_F16, STEP_OUT, STEP_IN },
        { offsetof(struct steps, x), DTYPE_F16, STEP_ROWS, STEP_IN },
        { offsetof(struct steps, y), DTYPE_F16, STEP_ROWS, STEP_IN },
        { offsetof(struct steps, few), DTYPE_F32, CLIP_ROWS, STEP_IN },
        { offsetof(struct steps, s), DTYPE_F32, 1, STEP_IN },
        { offsetof(struct steps, sums), DTYPE_F64, 1, (int64_t)STEP_OUT * STEP_IN / 128 },
    };
    float *values = mem_array((size_t)STEP_ROWS * STEP_IN, sizeof *values);
    int rc = 0;

    for (int64_t i = 0; i < (int64_t)STEP_ROWS * STEP_IN; i++)
        values[i] = (float)rng_real(3, RNG_WEIGHTS, (uint64_t)i) - 0.49f;
    for (size_t i = 0; i < sizeof tensors / sizeof *tensors && rc == 0; i++) {
        struct tensor *t = (struct tensor *)((char *)k + tensors[i].at);
        const int64_t n = tensors[i].n_rows * tensors[i].n_cols;

        rc = tensor_alloc(k->b, MEM_SCRATCH, tensors[i].t, tensors[i].n_rows, tensors[i].n_cols, t,
                          e);
        if (rc < 0 || tensors[i].t == DTYPE_F64)
            continue;
        void *stored = mem_array((size_t)n, dtype_bytes(tensors[i].t));
        dtype_from_f32(tensors[i].t, values, stored, n);
        rc = k->b->ops->upload(k->b, t->data, stored, tensor_bytes(t), e);
        free(stored);
    }
    free(values);
    return rc;
}

static int bench_steps(struct backend *b, int n_repeats, struct err *e)
{
    static const char *const names[N_STEPS] = { "sizes of 16384 x 2048", "round 8192 x 2048 in 128",
                                                "errors of 16384 x 2048",
                                                "ranges of 8192 x 2048, 512 rows" };
    static const double n_bytes[N_STEPS] = { 2.0 * STEP_ROWS * STEP_IN, 6.0 * STEP_OUT * STEP_IN,
                                             4.0 * STEP_ROWS * STEP_IN, 0 };
    struct steps k = { .b = b };
    int rc = make_steps(&k, e);

    for (int step = 0; step < N_STEPS && rc == 0; step++) {
        double start = 0;

        for (int i = -1; i < n_repeats && rc == 0; i++) {
            if (i == 0 && (rc = b->ops->sync(b, e)) == 0)
                start = clock_seconds();
            if (rc == 0)
                rc = take_step(&k, step, e);
        }
        if (rc < 0 || (rc = b->ops->sync(b, e)) < 0)
            break;
        const double seconds = (clock_seconds() - start) / n_repeats;
        if (n_bytes[step] > 0)
            printf("%-34s %10.3f ms, %.0f GB/s\n", names[step], 1e3 * seconds,
                   1e-9 * n_bytes[step] / seconds);
        else
            printf("%-34s %10.3f ms, %.1f fp32 TFLOP/s\n", names[step], 1e3 * seconds,
                   2e-12 * 10 * CLIP_ROWS * STEP_OUT * STEP_IN / seconds);
    }
    struct tensor *const all[] = { &k.w, &k.rounded, &k.x, &k.y, &k.few, &k.s, &k.sums };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        tensor_free(b, all[i]);
    return rc;
}

static int bench_calibrated(const struct model *base, const char *method, int n_repeats,
                            struct err *e)
{
    const bool cpu = strcmp(base->backend->ops->name, "cuda") != 0;
    struct quant_calibration ids;
    int rc = 0;

    if (make_random_calibration(cpu ? 2 : 128, cpu ? 128 : 512, shapes.vocab_size, &ids, e) < 0)
        return -1;
    printf("%lld sequences, %lld tokens\n", (long long)ids.n_seqs,
           (long long)ids.first[ids.n_seqs]);
    for (size_t k = 0; k < N_CALIBRATED; k++)
        for (int i = 0; i < n_repeats && rc == 0 && !strcmp(calibrated[k].method, method); i++)
            rc = calibrate(base, &calibrated[k], &ids, e);
    quant_calibration_release(&ids);
    return rc == 0 && !cpu && !strcmp(method, "awq") ? bench_steps(base->backend, n_repeats, e)
                                                     : rc;
}

int main(int argc, char **argv)
{
    const char *backend = argc > 1 ? argv[1] : "cpu";
    struct backend b = BACKEND_INIT;
    struct model base = MODEL_INIT;
    struct device_facts facts;
    struct err e = ERR_INIT;
    struct config c = shapes;
    int n_repeats = argc > 2 ? atoi(argv[2]) : 5, rc = 1;

    if (n_repeats < 1 || argc > 4) {
        fprintf(stderr, "usage: bench_quantize [cpu|cuda [REPEATS [awq]]]\n");
        return 2;
    }
    if (backend_open(&b, backend, 0, NULL, &e) < 0 || b.ops->facts(&b, &facts, &e) < 0)
        goto out;
    c.n_layers = strcmp(b.ops->name, "cuda") ? 1 : shapes.n_layers;
    if (make_random_model(&b, &c, &base, &e) < 0)
        goto out;
    printf("%s; %lld layer%s of Llama-3.2-1B, stored as bf16, median of %d\n", facts.name,
           (long long)base.config.n_layers, base.config.n_layers == 1 ? "" : "s", n_repeats);
    if ((argc > 3 ? bench_calibrated(&base, argv[3], n_repeats, &e) : bench(&base, n_repeats, &e)) <
        0)
        goto out;
    rc = 0;
out:
    if (rc)
        fprintf(stderr, "bench_quantize: %s\n", e.text);
    model_release(&base);
    backend_close(&b);
    return rc;
}
