/* bench_gemm.c - the products of a prompt pass alone, and whole passes of a checkpoint:
 *
 *   bench_gemm [tiles] [FOLDER [SEQUENCES TOKENS [FORMAT]]]
 *   bench_gemm codes
 *
 * Products of Llama-3.2-1B shapes in bf16 over matrices that rotate (a cache holds none of them for
 * long), in TFLOP/s, beside one of 8192 x 8192 x 8192; with `tiles` in every kernel and cluster.
 * With `codes` the matrices are NF4 with double quantization, made plain first and not.
 * gemm_torch.py times the same products through cuBLAS.  With a folder: prompts of 1 x 512 and
 * 8 x 2048 tokens in several formats, and what part of the large product's rate they reach; or
 * prompts of one size alone, as for a profile. */
#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/stats.h"
#include "model/model.h"
#include "quant/quant.h"

#include "../../cuda/gemm_wish.cuh"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define N_SETS_MAX 16

enum kind { MANY, ADD, SWIGLU, STORE };

struct shape {
    const char *name;
    enum kind kind;
    int64_t n_out[3], n_in; /* n_out: ends at the first 0 */
};

static const struct shape shapes[] = {
    { "q|k|v", MANY, { 2048, 512, 512 }, 2048 }, { "o", ADD, { 2048 }, 2048 },
    { "gate|up", SWIGLU, { 8192, 8192 }, 2048 }, { "down", ADD, { 2048 }, 8192 },
    { "8192 cubed", STORE, { 8192 }, 8192 },
};

struct operands {
    struct tensor x, y[3], stream, w[N_SETS_MAX][3];
    struct weight weights[N_SETS_MAX][3];
    int n_parts, n_sets;
};

static int fill(struct backend *b, struct tensor *t, int64_t n_rows, int64_t n_cols, struct err *e)
{
    const int64_t n = n_rows * n_cols;

    if (tensor_alloc(b, MEM_SCRATCH, DTYPE_BF16, n_rows, n_cols, t, e) < 0)
        return -1;
    uint16_t *values = mem_array((size_t)n, sizeof *values);
    uint64_t u = 88172645463325252u + (uint64_t)n;
    for (int64_t i = 0; i < n; i++) { /* about normal, of size 0.05 */
        u ^= u << 13, u ^= u >> 7, u ^= u << 17;
        float x = (float)((double)(u & 0xFFFF) + (double)(u >> 16 & 0xFFFF) +
                          (double)(u >> 32 & 0xFFFF) + (double)(u >> 48) - 131070) *
                  (0.05f / 37837);
        values[i] = dtype_f32_to_bf16(x);
    }
    int rc = b->ops->upload(b, t->data, values, tensor_bytes(t), e);
    free(values);
    return rc;
}

/* NF4 in the order that products read. */
static int make_codes(struct backend *b, struct tensor *t, struct weight *out, struct err *e)
{
    const struct quantize_args a = { .w = t,
                                     .rule = QUANTIZE_BNB_NF4,
                                     .bits = 4,
                                     .group_size = 64,
                                     .double_quant = true,
                                     .out = out };

    return b->ops->quantize(b, &a, e) < 0 || b->ops->sync(b, e) < 0 ? -1
                                                                    : b->ops->arrange(b, out, e);
}

static int make(struct backend *b, const struct shape *s, int64_t n_rows, bool codes,
                struct operands *o, struct err *e)
{
    int64_t bytes = 0;

    memset(o, 0, sizeof *o);
    while (o->n_parts < 3 && s->n_out[o->n_parts])
        bytes += s->n_out[o->n_parts++] * s->n_in * 2;
    o->n_sets = (int)(((int64_t)160 << 20) / bytes) + 1;
    o->n_sets = o->n_sets > N_SETS_MAX ? N_SETS_MAX : o->n_sets;
    if (fill(b, &o->x, n_rows, s->n_in, e) < 0 || fill(b, &o->stream, n_rows, s->n_out[0], e) < 0)
        return -1;
    for (int p = 0; p < o->n_parts; p++) {
        if (tensor_alloc(b, MEM_SCRATCH, DTYPE_BF16, n_rows, s->n_out[p], &o->y[p], e) < 0)
            return -1;
        for (int i = 0; i < o->n_sets; i++) {
            if (fill(b, &o->w[i][p], s->n_out[p], s->n_in, e) < 0)
                return -1;
            o->weights[i][p] = weight_of_tensor(&o->w[i][p]);
            if (codes && make_codes(b, &o->w[i][p], &o->weights[i][p], e) < 0)
                return -1;
        }
    }
    return 0;
}

static void release(struct backend *b, struct operands *o)
{
    tensor_free(b, &o->x);
    tensor_free(b, &o->stream);
    for (int p = 0; p < 3; p++) {
        tensor_free(b, &o->y[p]);
        for (int i = 0; i < N_SETS_MAX; i++) {
            weight_release(b, &o->weights[i][p]);
            tensor_free(b, &o->w[i][p]);
        }
    }
}

static int multiply(struct backend *b, const struct shape *s, struct operands *o, int set,
                    struct err *e)
{
    struct linear_args a[3];

    for (int p = 0; p < o->n_parts; p++)
        a[p] = (struct linear_args){ .x = &o->x,
                                     .w = &o->weights[set][p],
                                     .y = &o->y[p],
                                     .n_rows = o->x.n_rows,
                                     .compute = DTYPE_BF16,
                                     .phase = PHASE_PROMPT };
    switch (s->kind) {
    case MANY:
        return b->ops->linear_many(b, a, o->n_parts, e);
    case ADD:
        return b->ops->linear_add(b, a, &o->stream, e);
    case SWIGLU:
        return b->ops->linear_swiglu(b, &a[0], &a[1], &o->y[0], e);
    default:
        return b->ops->linear(b, a, e);
    }
}

/* Seconds of one product, in a row of them. */
static int time_product(struct backend *b, const struct shape *s, struct operands *o, double *out,
                        struct err *e)
{
    double samples[5], flop = 0, host = 0;

    for (int p = 0; p < o->n_parts; p++)
        flop += 2.0 * (double)(o->x.n_rows * s->n_out[p] * s->n_in);
    const int n = (int)(4e-3 / (flop / 600e12)) + 2;
    usleep(20000); /* as the clocks are after a pause */
    for (int i = 0; i < 6; i++) {
        if (b->ops->sync(b, e) < 0)
            return -1;
        double start = clock_seconds();
        for (int j = 0; j < n; j++)
            if (multiply(b, s, o, j % o->n_sets, e) < 0)
                return -1;
        host = (clock_seconds() - start) / n;
        if (b->ops->sync(b, e) < 0)
            return -1;
        if (i > 0)
            samples[i - 1] = (clock_seconds() - start) / n;
    }
    *out = stats_median(samples, 5);
    printf(" %9.1f us %6.0f TFLOP/s (%.1f us to start)", *out * 1e6, flop / *out * 1e-12,
           host * 1e6);
    return 0;
}

static int bench_shape(struct backend *b, const struct shape *s, int64_t n_rows, bool all,
                       double *rate, struct err *e)
{
    static const int clusters[][3] = { { 1, 1, 0 }, { 2, 1, 0 }, { 1, 2, 0 }, { 2, 2, 0 },
                                       { 4, 1, 0 }, { 2, 1, 2 }, { 2, 1, 4 }, { 2, 1, 16 } };
    const struct gemm_wish none = GEMM_NO_WISH;
    struct operands o;
    double seconds;
    int rc = make(b, s, n_rows, false, &o, e);

    printf("%-10s %6lld rows        ", s->name, (long long)n_rows);
    if (rc == 0)
        rc = time_product(b, s, &o, &seconds, e);
    printf("\n");
    if (rc == 0)
        *rate = 2e-12 * (double)(n_rows * s->n_out[0] * s->n_in) / seconds;
    for (int kernel = 0; all && kernel < (s->kind == SWIGLU ? 2 : 6); kernel++)
        for (int c = 0; rc == 0 && c < (n_rows > 512 && kernel == 0 ? 8 : 5); c++) {
            const bool split = s->kind == MANY || s->kind == ADD; /* of these k is */
            if (split && (kernel > 4 || c > 0))
                continue;
            gemm_wish =
                (struct gemm_wish){ kernel, clusters[c][0], clusters[c][1], clusters[c][2], 0 };
            printf("  kernel %d cluster %d x %d, %2d beside", kernel, clusters[c][0],
                   clusters[c][1], clusters[c][2]);
            rc = time_product(b, s, &o, &seconds, e);
            printf("\n");
            gemm_wish = none;
        }
    release(b, &o);
    fflush(stdout);
    return rc;
}

/* Codes made plain first, then where they lie: as the product asks for, and in each kernel with and
 * without clusters. */
static int bench_codes(struct backend *b, const struct shape *s, int64_t n_rows, struct err *e)
{
    const struct gemm_wish none = GEMM_NO_WISH;
    struct operands o;
    double seconds;
    int rc = make(b, s, n_rows, true, &o, e);

    for (int way = -1; rc == 0 && way < 7; way++) {
        gemm_wish = none;
        gemm_wish.plain = way == -1;
        gemm_wish.kernel = way > 0 ? (way - 1) / 2 : -1;
        gemm_wish.cm = way > 0 && way % 2 ? 1 : 0;
        printf("%-10s %6lld rows, %-8s kernel %2d cluster %d", s->name, (long long)n_rows,
               way == -1 ? "plain" : "codes", gemm_wish.kernel, gemm_wish.cm);
        rc = time_product(b, s, &o, &seconds, e);
        printf("\n");
    }
    gemm_wish = none;
    release(b, &o);
    fflush(stdout);
    return rc;
}

/* ---- whole passes ---- */

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
    { "LLM.int8",
      { .method = "bnb_8bit", .bits = 8, .compute = DTYPE_F16, .outlier_threshold = 6 },
      DTYPE_F16 },
};

static int time_prompt(const struct model *m, int n_seqs, int n_tokens, double rate, struct err *e)
{
    const struct config *c = &m->config;
    struct kv_cache cache = { 0 };
    struct forward *f = NULL;
    int32_t *ids = mem_array((size_t)(n_seqs * n_tokens), sizeof *ids), slots[8], counts[8],
            next[8];
    struct batch batch = {
        .phase = PHASE_PROMPT, .n_seqs = n_seqs, .slot = slots, .n_tokens = counts, .ids = ids
    };
    struct forward_out out = { .next_ids = next };
    double samples[9], flop;
    int rc = -1;

    for (int i = 0; i < n_seqs * n_tokens; i++)
        ids[i] = (int32_t)rng_below(1, RNG_TEST, (uint64_t)i, (uint64_t)c->vocab_size);
    for (int i = 0; i < n_seqs; i++)
        slots[i] = i, counts[i] = n_tokens;
    if (kv_cache_open(&cache, m, n_seqs, n_tokens, e) < 0 ||
        forward_open(&f, m, (int64_t)n_seqs * n_tokens, n_seqs, e) < 0)
        goto out;
    for (int i = 0; i < 12; i++) {
        for (int s = 0; s < n_seqs; s++)
            kv_cache_drop(&cache, s);
        double start = clock_seconds();
        if (forward_run(f, &cache, &batch, WANT_LAST_ARGMAX, NULL, 0, &out, e) < 0)
            goto out;
        if (i > 2)
            samples[i - 3] = clock_seconds() - start;
    }
    double seconds = stats_median(samples, 9);
    flop =
        2.0 * (double)config_n_linear_parameters(c) * n_seqs * n_tokens +
        2.0 * (double)c->vocab_size * (double)c->hidden_size * n_seqs +
        2.0 * (double)c->n_layers * c->n_heads * c->head_dim * (double)n_tokens * n_tokens * n_seqs;
    printf("prompt %d x %-5d %9.3f ms %6.0f TFLOP/s", n_seqs, n_tokens, seconds * 1e3,
           flop / seconds * 1e-12);
    if (rate > 0)
        printf(", %4.1f %% of the large product", flop / seconds * 1e-10 / rate);
    printf("\n");
    fflush(stdout);
    rc = 0;
out:
    forward_close(f);
    kv_cache_close(&cache);
    free(ids);
    return rc;
}

/* n_seqs 0: of both sizes */
static int bench_passes(struct backend *b, const char *folder, int n_seqs, int n_tokens,
                        const char *format, double rate, struct err *e)
{
    struct model base = MODEL_INIT;
    struct load_facts load;
    int rc = weights_load_timed(b, folder, &base, &load, e);

    for (size_t i = 0; rc == 0 && i < sizeof formats / sizeof *formats; i++) {
        struct quant_spec spec = formats[i].spec;
        struct quant_report report = { 0 };
        struct model m = MODEL_INIT;

        if (format && strcmp(format, formats[i].name))
            continue;
        spec.n_skip = 1;
        strcpy(spec.skip[0], "lm_head");
        printf("%s\n", formats[i].name);
        if (quantize_model(&base, &spec, formats[i].source, &m, &report, e) < 0 ||
            (n_seqs                                 ? time_prompt(&m, n_seqs, n_tokens, rate, e)
             : time_prompt(&m, 1, 512, rate, e) < 0 ? -1
                                                    : time_prompt(&m, 8, 2048, rate, e)) < 0)
            rc = -1;
        quant_report_release(&report);
        model_release(&m);
    }
    model_release(&base);
    return rc;
}

int main(int argc, char **argv)
{
    static const int64_t n_rows[] = { 512, 2048, 16384 };
    struct backend b = BACKEND_INIT;
    struct err e = ERR_INIT;
    bool all = argc > 1 && !strcmp(argv[1], "tiles");
    const char *folder = argc > 1 + all ? argv[1 + all] : NULL;
    double rate = 0, ignored;
    const char *format = argc > 4 + all ? argv[4 + all] : NULL;
    int n_seqs = argc > 3 + all ? atoi(argv[2 + all]) : 0;
    int n_tokens = argc > 3 + all ? atoi(argv[3 + all]) : 0;
    int rc = backend_open(&b, "cuda", 0, NULL, &e);

    if (argc == 2 && !strcmp(argv[1], "codes")) {
        for (int64_t rows = 512; rows <= 1024; rows *= 2)
            for (size_t i = 0; rc == 0 && i < 4; i++)
                rc = bench_codes(&b, &shapes[i], rows, &e);
        if (rc < 0)
            fprintf(stderr, "bench_gemm: %s\n", e.text);
        backend_close(&b);
        return rc < 0;
    }

    if (n_seqs < 0 || n_seqs > 8 || n_tokens < 0) {
        fprintf(stderr, "usage: bench_gemm [tiles] [FOLDER [SEQUENCES TOKENS [FORMAT]]]\n");
        return 2;
    }
    if (rc == 0 && !n_seqs)
        rc = bench_shape(&b, &shapes[4], 8192, all, &rate, &e);
    for (size_t r = 0; r < 3 && !n_seqs; r++)
        for (size_t i = 0; rc == 0 && i < 4; i++)
            rc = bench_shape(&b, &shapes[i], n_rows[r], all, &ignored, &e);
    if (rc == 0 && folder)
        rc = bench_passes(&b, folder, n_seqs, n_tokens, format, rate, &e);
    if (rc < 0)
        fprintf(stderr, "bench_gemm: %s\n", e.text);
    backend_close(&b);
    return rc < 0;
}
