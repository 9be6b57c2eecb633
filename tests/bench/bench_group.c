/* bench_group.c - one model on one device and on several: milliseconds of a decode step and of a
 * prompt, with random weights made where they are needed.
 *
 *   bench_group CONFIG.json [cpu|cuda [MEMBERS [LAYERS [FORMATS [POINTS]]]]]
 *
 * Prints, beside the times, whether the ids that came out are those of one device. */
#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "base/stats.h"
#include "members.h"
#include "model/model.h"
#include "quant/quant.h"

#define N_STEPS 64
#define N_TIMES 5

enum { BLOCK = 1 << 25 };

static const struct point {
    const char *name;
    int batch;
    int64_t prompt; /* rows of a prompt that is timed; 0: steps are */
} points[] = {
    { "decode b1", 1, 0 },    { "decode b8", 8, 0 },      { "decode b32", 32, 0 },
    { "prompt 512", 1, 512 }, { "prompt 2048", 1, 2048 },
};
#define N_POINTS ((int)(sizeof points / sizeof *points))

static const struct quant_spec formats[] = {
    { .method = "none", .bits = 16, .compute = DTYPE_F16, .n_skip = 1, .skip = { "lm_head" } },
    { .method = "bnb_4bit",
      .bits = 4,
      .group_size = 64,
      .quant_type = "nf4",
      .double_quant = true,
      .compute = DTYPE_F16,
      .n_skip = 1,
      .skip = { "lm_head" } },
};
#define N_FORMATS ((int)(sizeof formats / sizeof *formats))

struct asked {
    struct config config;
    int n_formats, n_points; /* the first of each */
    uint16_t *block;         /* [BLOCK]: random fp16 */
};

struct result {
    double ms[N_FORMATS][N_POINTS];
    int32_t ids[N_FORMATS][N_STEPS];
};

/* Elements first .. first + n - 1 of a long random row. */
static int fill(struct member *m, const struct asked *a, void *to, uint64_t first, int64_t n,
                struct err *e)
{
    char *at = to;

    while (n > 0) {
        const int64_t from = (int64_t)(first % BLOCK), here = n < BLOCK - from ? n : BLOCK - from;
        if (m->backend.ops->upload(&m->backend, at, a->block + from, (size_t)here * 2, e) < 0)
            return -1;
        at += here * 2;
        first += (uint64_t)here;
        n -= here;
    }
    return 0;
}

static int ones(struct member *m, int64_t n, struct tensor *out, struct err *e)
{
    uint16_t *one = mem_array((size_t)n, sizeof *one);

    for (int64_t i = 0; i < n; i++)
        one[i] = 0x3C00;
    int rc = tensor_alloc(&m->backend, MEM_BASE, DTYPE_F16, 1, n, out, e);
    if (rc == 0)
        rc = m->backend.ops->upload(&m->backend, out->data, one, (size_t)n * 2, e);
    free(one);
    return rc;
}

/* The rows that this member has of an n_out x n_in matrix. */
static int random_rows(struct member *m, const struct asked *a, uint64_t salt, int64_t n_out,
                       int64_t n_in, int index, int n, struct tensor *out, struct err *e)
{
    const uint64_t first = salt * 0x9E3779B1u + (uint64_t)(n_out / n * index * n_in);

    if (tensor_alloc(&m->backend, MEM_BASE, DTYPE_F16, n_out / n, n_in, out, e) < 0)
        return -1;
    return fill(m, a, out->data, first, n_out / n * n_in, e);
}

static int make_model(struct member *m, const struct asked *a, struct model *out, struct err *e)
{
    const struct config *c = &a->config;
    struct tensor t;

    *out = (struct model){ .config = *c,
                           .split = { m->index, m->n },
                           .backend = &m->backend,
                           .dtype = DTYPE_F16,
                           .compute = DTYPE_F16,
                           .owns_embed = true,
                           .owns_norms = true };
    out->layers = mem_array((size_t)c->n_layers, sizeof *out->layers);
    if (random_rows(m, a, 1, c->vocab_size, c->hidden_size, 0, 1, &out->embed, e) < 0 ||
        random_rows(m, a, 2, c->vocab_size, c->hidden_size, 0, 1, &t, e) < 0 ||
        ones(m, c->hidden_size, &out->norm, e) < 0)
        return -1;
    out->head = weight_of_tensor(&t);
    out->head.owned = true;
    for (int64_t i = 0; i < c->n_layers; i++) {
        struct layer *layer = &out->layers[i];

        if (ones(m, c->hidden_size, &layer->input_norm, e) < 0 ||
            ones(m, c->hidden_size, &layer->post_norm, e) < 0)
            return -1;
        for (int l = 0; l < N_LINEARS; l++) {
            int64_t n_out, n_in;
            config_linear_shape(c, (enum linear_name)l, &n_out, &n_in);
            if (random_rows(m, a, (uint64_t)(3 + i * N_LINEARS + l), n_out, n_in, m->index, m->n,
                            &t, e) < 0)
                return -1;
            layer->linear[l] = weight_of_tensor(&t);
            layer->linear[l].owned = true;
        }
    }
    return m->backend.ops->sync(&m->backend, e);
}

/* ---- times ---- */

static int prompt_pass(struct forward *f, struct kv_cache *c, int64_t n, int64_t vocab,
                       int32_t slot, int32_t *next, struct err *e)
{
    int32_t *ids = mem_array((size_t)n, sizeof *ids), n_ids = (int32_t)n;
    struct batch batch = {
        .phase = PHASE_PROMPT, .n_seqs = 1, .slot = &slot, .n_tokens = &n_ids, .ids = ids
    };
    struct forward_out out = { .next_ids = next };

    for (int64_t i = 0; i < n; i++)
        ids[i] = (int32_t)rng_below(1, RNG_PROMPTS, (uint64_t)(slot * 4096 + i), (uint64_t)vocab);
    kv_cache_drop(c, slot);
    int rc = forward_run(f, c, &batch, WANT_LAST_ARGMAX, NULL, 0, &out, e);
    free(ids);
    return rc;
}

static int time_point(const struct model *m, const struct point *p, double *ms, int32_t *ids,
                      struct err *e)
{
    const int64_t vocab = m->config.vocab_size, context = p->prompt ? p->prompt : 64;
    int32_t slot[32], next[32], *out = mem_array((size_t)(32 * N_STEPS), sizeof *out);
    double sample[N_TIMES];
    struct kv_cache cache = { 0 };
    struct forward *f = NULL;
    int rc = -1;

    if (kv_cache_open(&cache, m, p->batch, context + (N_TIMES + 2) * N_STEPS, e) < 0 ||
        forward_open(&f, m, context > p->batch ? context : p->batch, p->batch, e) < 0)
        goto out;
    for (int s = 0; s < p->batch; s++) {
        slot[s] = s;
        if (prompt_pass(f, &cache, context, vocab, s, &next[s], e) < 0)
            goto out;
    }
    for (int i = -2; i < N_TIMES; i++) { /* the first two warm up */
        const double start = clock_seconds();
        int done = p->prompt
                       ? prompt_pass(f, &cache, p->prompt, vocab, 0, next, e)
                       : forward_decode(f, &cache, p->batch, slot, next, N_STEPS, NULL, 0, out, e);
        if (done < 0)
            goto out;
        if (i >= 0)
            sample[i] = 1e3 * (clock_seconds() - start) / (p->prompt ? 1 : N_STEPS);
        else if (ids && i == -2)
            memcpy(ids, out, N_STEPS * sizeof *ids);
    }
    *ms = stats_median(sample, N_TIMES);
    rc = 0;
out:
    forward_close(f);
    kv_cache_close(&cache);
    free(out);
    return rc;
}

static int measure(struct member *m, const void *what, struct err *e)
{
    const struct asked *a = what;
    struct model base = MODEL_INIT;
    struct result *r = mem_alloc(sizeof *r);
    int rc = make_model(m, a, &base, e);

    for (int i = 0; rc == 0 && i < a->n_formats; i++) {
        struct quant_report report = { 0 };
        struct model model = MODEL_INIT;

        rc = quantize_model(&base, &formats[i], DTYPE_OTHER, &model, &report, e);
        for (int p = 0; rc == 0 && p < a->n_points; p++)
            rc = time_point(&model, &points[p], &r->ms[i][p], p == 0 ? r->ids[i] : NULL, e);
        quant_report_release(&report);
        model_release(&model);
    }
    if (rc == 0)
        member_give(m, r, sizeof *r);
    model_release(&base);
    free(r);
    return rc;
}

static void print(int n, const struct asked *a, const struct result *r, const struct result *one)
{
    for (int i = 0; i < a->n_formats; i++) {
        printf("| %d | %-8s", n, formats[i].method);
        for (int p = 0; p < a->n_points; p++)
            printf(" | %8.3f %4.2fx", r->ms[i][p], one->ms[i][p] / r->ms[i][p]);
        printf(" | %s ids |\n", r->ids[i][N_STEPS - 1] < 0                         ? "NO"
                                : memcmp(r->ids[i], one->ids[i], sizeof r->ids[i]) ? "OTHER"
                                                                                   : "same");
    }
    fflush(stdout);
}

int main(int argc, char **argv)
{
    const int most = argc > 3 ? atoi(argv[3]) : 2;
    struct asked a;
    struct result one;
    struct err e = ERR_INIT;

    if (argc < 2 || most < 1 || most > MEMBERS_MOST) {
        fprintf(
            stderr,
            "usage: bench_group CONFIG.json [cpu|cuda [MEMBERS [LAYERS [FORMATS [POINTS]]]]]\n");
        return 2;
    }
    if (argc > 2)
        setenv("LLQ_TEST_BACKEND", argv[2], 1);
    if (config_read_file(argv[1], &a.config, &e) < 0 || !members_share()) {
        fprintf(stderr, "%s\n", e.text);
        return 1;
    }
    if (argc > 4)
        a.config.n_layers = atoi(argv[4]);
    a.n_formats = argc > 5 ? atoi(argv[5]) : N_FORMATS;
    a.n_points = argc > 6 ? atoi(argv[6]) : N_POINTS;
    a.block = mem_array(BLOCK, sizeof *a.block);
    /* Uniform signs and mantissas, exponents of 1/32 to 1/128. */
    for (int64_t i = 0; i < BLOCK; i++) {
        uint64_t x = (uint64_t)i * 0x9E3779B97F4A7C15u;
        x ^= x >> 29;
        x *= 0xBF58476D1CE4E5B9u;
        a.block[i] = (uint16_t)((x >> 48 & 0x83FF) | (8 + (x >> 20) % 3) << 10);
    }
    printf("%s, %lld layers: ms, and how many times as fast as one device\n| n | format  ", argv[1],
           (long long)a.config.n_layers);
    for (int p = 0; p < a.n_points; p++)
        printf(" | %s", points[p].name);
    printf(" | |\n");
    for (int n = 1; n <= most; n *= 2) {
        if (!members_run(n, measure, &a))
            return 1;
        if (n == 1)
            memcpy(&one, shared->result[0], sizeof one);
        struct result r;
        memcpy(&r, shared->result[0], sizeof r);
        print(n, &a, &r, &one);
    }
    return 0;
}
