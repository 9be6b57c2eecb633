/* test_gpu_model.c - whole models on a GPU: steps of decode() beside the same steps as forward
 * passes, to the bit of every key and value; both beside the CPU; and whatever the batch, its
 * order, the number of steps at a time, and what ran before in the same memory. */
#include "twin.h"

#include "base/memory.h"
#include "model/generate.h"
#include "model/model.h"
#include "quant/quant.h"

#include <string.h>

/* Root mean square of logits' deviation from the CPU's, or between the phases, to that of the
 * logits: the same rounding points, sums in another order.  A sum that lands on the other side of a
 * rounding point moves an element by a step; a model of a few layers doubles that some times. */
#define LOGITS_F32  1e-5
#define LOGITS_F16  4e-3
#define LOGITS_BF16 3e-2
/* LLM.int8 rounds activations to 8 bits: where one lands differently it is 1/254 of the largest. */
#define LOGITS_INT8 5e-2

#define ROPE .rope = { .theta = 10000, .factor = 1, .partial_rotary_factor = 1 }

static const struct form_of_model {
    const char *name;
    bool known; /* decode() must take it in 16 bits */
    struct config config;
} models[] = {
    { "heads of 64",
      true,
      { .family = FAMILY_LLAMA,
        .vocab_size = 1000,
        .hidden_size = 256,
        .intermediate_size = 640,
        .n_layers = 2,
        .n_heads = 4,
        .n_kv_heads = 2,
        .head_dim = 64,
        .max_position = 512,
        .rms_norm_eps = 1e-5,
        ROPE } },
    { "biases, heads of 128, tied",
      true,
      { .family = FAMILY_QWEN2,
        .vocab_size = 2048,
        .hidden_size = 512,
        .intermediate_size = 1408,
        .n_layers = 3,
        .n_heads = 4,
        .n_kv_heads = 1,
        .head_dim = 128,
        .max_position = 512,
        .rms_norm_eps = 1e-6,
        .tied = true,
        .qkv_bias = true,
        ROPE } },
    { "window, llama3 rope",
      true,
      { .family = FAMILY_MISTRAL,
        .vocab_size = 520,
        .hidden_size = 384,
        .intermediate_size = 512,
        .n_layers = 2,
        .n_heads = 6,
        .n_kv_heads = 6,
        .head_dim = 64,
        .max_position = 512,
        .rms_norm_eps = 1e-5,
        .sliding_window = 21,
        .rope = { .type = ROPE_LLAMA3,
                  .theta = 500000,
                  .factor = 8,
                  .low_freq_factor = 1,
                  .high_freq_factor = 4,
                  .original_max_position = 64,
                  .partial_rotary_factor = 1 } } },
    { "heads of 32, tied",
      true,
      { .family = FAMILY_LLAMA,
        .vocab_size = 1024,
        .hidden_size = 128,
        .intermediate_size = 384,
        .n_layers = 2,
        .n_heads = 4,
        .n_kv_heads = 2,
        .head_dim = 32,
        .max_position = 512,
        .rms_norm_eps = 1e-5,
        .tied = true,
        ROPE } },
    { "nothing fits",
      false,
      { .family = FAMILY_LLAMA,
        .vocab_size = 131,
        .hidden_size = 130,
        .intermediate_size = 259,
        .n_layers = 2,
        .n_heads = 6,
        .n_kv_heads = 2,
        .head_dim = 10,
        .max_position = 512,
        .rms_norm_eps = 1e-5,
        .o_bias = true,
        .mlp_bias = true,
        ROPE } },
};
#define N_MODELS ((int)(sizeof models / sizeof *models))

static const struct method {
    const char *name;
    bool known; /* decode() must take it */
    struct quant_spec spec;
    enum dtype source;
} methods[] = {
    { "fp32", false, { .method = "none", .bits = 32, .compute = DTYPE_F32 }, DTYPE_F32 },
    { "fp16", true, { .method = "none", .bits = 16, .compute = DTYPE_F16 }, DTYPE_F16 },
    { "bf16", true, { .method = "none", .bits = 16, .compute = DTYPE_BF16 }, DTYPE_BF16 },
    { "nf4 double",
      true,
      { .method = "bnb_4bit",
        .bits = 4,
        .group_size = 64,
        .quant_type = "nf4",
        .double_quant = true,
        .compute = DTYPE_F16 },
      DTYPE_F16 },
    { "fp4, computed in bf16",
      true,
      { .method = "bnb_4bit",
        .bits = 4,
        .group_size = 64,
        .quant_type = "fp4",
        .compute = DTYPE_BF16 },
      DTYPE_F16 },
    { "LLM.int8",
      false,
      { .method = "bnb_8bit", .bits = 8, .compute = DTYPE_F16, .outlier_threshold = 3 },
      DTYPE_F16 },
    { "LLM.int8 bf16, no outliers",
      false,
      { .method = "bnb_8bit", .bits = 8, .compute = DTYPE_F16, .outlier_threshold = 0 },
      DTYPE_BF16 },
    { "2 bits",
      true,
      { .method = "rtn",
        .bits = 2,
        .group_size = 64,
        .quant_type = "int",
        .compute = DTYPE_F16,
        .grid = "gptq" },
      DTYPE_F16 },
    { "3 bits",
      true,
      { .method = "rtn",
        .bits = 3,
        .group_size = 128,
        .quant_type = "int",
        .compute = DTYPE_BF16,
        .grid = "gptq" },
      DTYPE_BF16 },
    { "4 bits a row",
      true,
      { .method = "rtn",
        .bits = 4,
        .group_size = -1,
        .quant_type = "int",
        .compute = DTYPE_F16,
        .sym = true,
        .grid = "absmax" },
      DTYPE_F16 },
    { "5 bits",
      true,
      { .method = "rtn",
        .bits = 5,
        .group_size = 32,
        .quant_type = "int",
        .compute = DTYPE_F16,
        .grid = "gptq" },
      DTYPE_F16 },
    { "8 bits",
      true,
      { .method = "rtn",
        .bits = 8,
        .group_size = 128,
        .quant_type = "int",
        .double_quant = true,
        .compute = DTYPE_F16,
        .grid = "gptq" },
      DTYPE_F16 },
    { "3 bits, fp32",
      false,
      { .method = "rtn",
        .bits = 3,
        .group_size = 64,
        .quant_type = "int",
        .compute = DTYPE_F32,
        .grid = "gptq" },
      DTYPE_F32 },
};
#define N_METHODS ((int)(sizeof methods / sizeof *methods))

static double tolerance(const struct model *m)
{
    if (m->layers[0].linear[0].form == WEIGHT_INT8)
        return LOGITS_INT8;
    if (m->dtype == DTYPE_BF16 || m->compute == DTYPE_BF16)
        return LOGITS_BF16;
    return m->dtype == DTYPE_F16 || m->compute == DTYPE_F16 ? LOGITS_F16 : LOGITS_F32;
}

/* Does the method allow the widths of the model? */
static bool allows(const struct method *q, const struct config *c)
{
    const int64_t group = q->spec.group_size > 0 ? q->spec.group_size : 1;

    if (!strcmp(q->spec.method, "bnb_4bit"))
        return true;
    return c->hidden_size % group == 0 && c->intermediate_size % group == 0 &&
           (int64_t)c->n_heads * c->head_dim % group == 0;
}

/* ---- models of random weights, the same on the CPU and on the GPU ---- */

struct pair {
    struct model base[2], model[2]; /* on the CPU, on the GPU */
};

static struct tensor some_values(int64_t n_rows, int64_t n_cols, double mean, double spread)
{
    struct tensor t = new_tensor(DTYPE_F16, n_rows, n_cols);

    for (int64_t i = 0; i < n_rows * n_cols; i++)
        set_element(&t, i / n_cols, i % n_cols, (float)(mean + spread * (double)draw_value()));
    return t;
}

static struct model cpu_model(const struct config *c)
{
    struct model m = { .config = *c,
                       .backend = &isas[0],
                       .dtype = DTYPE_F16,
                       .compute = DTYPE_F16,
                       .owns_embed = true,
                       .owns_norms = true };

    m.embed = some_values(c->vocab_size, c->hidden_size, 0, 1);
    m.norm = some_values(1, c->hidden_size, 1, 0.3);
    struct tensor head = m.embed;
    if (!c->tied)
        head = some_values(c->vocab_size, c->hidden_size, 0, 1);
    m.head = weight_of_tensor(&head);
    m.head.owned = !c->tied;
    m.layers = mem_array((size_t)c->n_layers, sizeof *m.layers);
    for (int64_t i = 0; i < c->n_layers; i++) {
        m.layers[i].input_norm = some_values(1, c->hidden_size, 1, 0.5);
        m.layers[i].post_norm = some_values(1, c->hidden_size, 1, 0.5);
        for (int l = 0; l < N_LINEARS; l++) {
            int64_t n_out, n_in;

            config_linear_shape(c, (enum linear_name)l, &n_out, &n_in);
            struct tensor w = some_values(n_out, n_in, 0, 1 / sqrt((double)n_in));
            m.layers[i].linear[l] = weight_of_tensor(&w);
            m.layers[i].linear[l].owned = true;
            if (config_linear_bias(c, (enum linear_name)l))
                m.layers[i].bias[l] = some_values(1, n_out, 0, 0.5);
        }
    }
    return m;
}

static struct model gpu_model(const struct model *host)
{
    struct model m = *host;

    m.backend = &gpu;
    m.embed = device_tensor(&host->embed);
    m.norm = device_tensor(&host->norm);
    m.head = host->config.tied ? weight_of_tensor(&m.embed) : device_weight(&host->head);
    m.layers = mem_array((size_t)m.config.n_layers, sizeof *m.layers);
    for (int64_t i = 0; i < m.config.n_layers; i++) {
        const struct layer *from = &host->layers[i];

        m.layers[i].input_norm = device_tensor(&from->input_norm);
        m.layers[i].post_norm = device_tensor(&from->post_norm);
        for (int l = 0; l < N_LINEARS; l++) {
            m.layers[i].linear[l] = device_weight(&from->linear[l]);
            if (from->bias[l].data)
                m.layers[i].bias[l] = device_tensor(&from->bias[l]);
        }
    }
    return m;
}

static void open_pair(struct pair *p, const struct config *c, const struct method *q)
{
    struct quant_report report = { 0 };
    struct quant_spec spec = q->spec;
    struct err e = ERR_INIT;

    spec.n_skip = 1;
    strcpy(spec.skip[0], "lm_head");
    p->base[0] = cpu_model(c);
    p->base[1] = gpu_model(&p->base[0]);
    for (int k = 0; k < 2; k++) {
        CHECK_OK(quantize_model(&p->base[k], &spec, q->source, &p->model[k], &report, &e), e);
        quant_report_release(&report);
    }
    p->model[0].backend = cpu; /* the fastest instruction set: the same bits */
}

static void close_pair(struct pair *p)
{
    p->model[0].backend = &isas[0];
    for (int k = 0; k < 2; k++) {
        model_release(&p->model[k]);
        model_release(&p->base[k]);
    }
}

/* ---- decode() on and off, and whether it did it ---- */

static struct backend_ops with, without;
static int (*real_decode)(struct backend *b, struct decode_args *a, struct err *e);
static int n_done;

static int counted_decode(struct backend *b, struct decode_args *a, struct err *e)
{
    int rc = real_decode(b, a, e);

    n_done += rc == 0 && a->done;
    return rc;
}

/* ---- sequences in a cache ---- */

#define N_SEQS   64
#define CAPACITY 96

struct run {
    struct kv_cache cache;
    struct forward *f;
    const struct model *m;
    int n;
    int32_t slot[N_SEQS], last[N_SEQS]; /* of sequence i of the run; the id that came out last */
};

static int32_t prompt_length(int i)
{
    return 1 + (i * 29 + 5) % 60;
}

static int32_t *prompt_ids(int i, int64_t vocab)
{
    int32_t *ids = mem_array(CAPACITY, sizeof *ids);

    for (int k = 0; k < CAPACITY; k++)
        ids[k] = (int32_t)rng_below(3, RNG_TEST, (uint64_t)(i * 1000 + k), (uint64_t)vocab);
    return ids;
}

/* NaN where nothing has been put yet. */
static void poison_cache(const struct kv_cache *c)
{
    struct err e = ERR_INIT;

    for (int64_t i = 0; i < 2 * c->n_layers; i++) {
        const struct tensor *to = i % 2 ? &c->v[i / 2] : &c->k[i / 2];
        struct tensor poison = new_tensor(to->dtype, to->n_rows, to->n_cols);

        CHECK_OK(gpu.ops->upload(&gpu, to->data, poison.data, tensor_bytes(to), &e), e);
        free_tensor(&poison);
    }
}

/* Prompts which[0 .. n-1] whole, in slots in disorder; nll (may be NULL): [n][CAPACITY]. */
static void open_run(struct run *r, const struct model *m, const int *which, int n, float *nll)
{
    int32_t n_tokens[N_SEQS], *ids = mem_array((size_t)(n * CAPACITY), sizeof *ids), total = 0;
    float *losses = mem_array((size_t)(n * CAPACITY), sizeof *losses), *at = losses;
    struct err e = ERR_INIT;

    *r = (struct run){ .m = m, .n = n };
    for (int i = 0; i < n; i++) {
        int32_t *own = prompt_ids(which[i], m->config.vocab_size);
        n_tokens[i] = prompt_length(which[i]);
        memcpy(ids + total, own, (size_t)n_tokens[i] * sizeof *ids);
        total += n_tokens[i];
        r->slot[i] = (i * 37 + 11) % n;
        free(own);
    }
    for (int i = 0; i < n; i++) /* 37 and n may have a divisor in common */
        for (int k = 0; k < i; k++)
            if (r->slot[k] == r->slot[i]) {
                r->slot[i] = (r->slot[i] + 1) % n;
                k = -1;
            }
    struct batch batch = {
        .phase = PHASE_PROMPT, .n_seqs = n, .slot = r->slot, .n_tokens = n_tokens, .ids = ids
    };
    struct forward_out out = { .next_ids = r->last, .nll = losses };

    CHECK_OK(kv_cache_open(&r->cache, m, n, CAPACITY, &e), e);
    poison_cache(&r->cache);
    CHECK_OK(forward_open(&r->f, m, total, n, &e), e);
    if (nll) {
        CHECK_OK(forward_run(r->f, &r->cache, &batch, WANT_NLL, NULL, 0, &out, &e), e);
        for (int i = 0; i < n; i++) {
            memcpy(nll + i * CAPACITY, at, (size_t)n_tokens[i] * sizeof *nll);
            at += n_tokens[i];
            kv_cache_drop(&r->cache, i);
        }
    }
    CHECK_OK(forward_run(r->f, &r->cache, &batch, WANT_LAST_ARGMAX, NULL, 0, &out, &e), e);
    free(losses);
    free(ids);
}

static void close_run(struct run *r)
{
    forward_close(r->f);
    kv_cache_close(&r->cache);
}

/* Steps; out [n_steps, n]. */
static void go_on(struct run *r, int n_steps, int32_t *out)
{
    struct err e = ERR_INIT;

    CHECK_OK(forward_decode(r->f, &r->cache, r->n, r->slot, r->last, n_steps, NULL, 0, out, &e), e);
    for (int i = 0; i < r->n; i++)
        r->last[i] = out[(n_steps - 1) * r->n + i];
}

static void same_caches(const struct run *a, const struct run *b, const char *what)
{
    const size_t row = (size_t)a->cache.k[0].n_cols * dtype_bytes(a->m->dtype);

    for (int64_t i = 0; i < 2 * a->cache.n_layers; i++) {
        struct tensor x = host_tensor(i % 2 ? &a->cache.v[i / 2] : &a->cache.k[i / 2]);
        struct tensor y = host_tensor(i % 2 ? &b->cache.v[i / 2] : &b->cache.k[i / 2]);

        for (int s = 0; s < a->n; s++)
            for (int t = 0; t < a->cache.length[a->slot[s]]; t++)
                CHECK(!memcmp((char *)x.data + (size_t)(a->slot[s] * CAPACITY + t) * row,
                              (char *)y.data + (size_t)(b->slot[s] * CAPACITY + t) * row, row),
                      "%s: %s of layer %lld, sequence %d, position %d", what,
                      i % 2 ? "values" : "keys", (long long)i / 2, s, t);
        free_tensor(&x);
        free_tensor(&y);
    }
}

static double relative_rms(const float *a, const float *b, int64_t n)
{
    double error = 0, square = 0;

    for (int64_t i = 0; i < n; i++) {
        error += ((double)a[i] - (double)b[i]) * ((double)a[i] - (double)b[i]);
        square += (double)b[i] * (double)b[i];
    }
    return error == error ? sqrt(error / square) : INFINITY;
}

/* ---- beside forward passes ---- */

#define N_STEPS 20

static void compare_with_passes(const struct model *m, const char *what, bool known)
{
    const int which[] = { 4, 0, 9, 2, 7 };
    int32_t got[N_STEPS * 5], want[N_STEPS * 5];
    struct run a, b;

    n_done = 0;
    gpu.ops = &with;
    open_run(&a, m, which, 5, NULL);
    go_on(&a, N_STEPS, got);
    CHECK(!known || n_done > 0, "%s: decode() did it", what);
    gpu.ops = &without;
    open_run(&b, m, which, 5, NULL);
    go_on(&b, N_STEPS, want);
    for (int i = 0; i < N_STEPS * 5; i++)
        CHECK(got[i] == want[i], "%s: step %d of sequence %d: %d by decode(), %d by a pass", what,
              i / 5, i % 5, got[i], want[i]);
    same_caches(&a, &b, what);
    close_run(&a);
    close_run(&b);
    gpu.ops = &with;
}

/* ---- beside the CPU, and the phases beside each other ---- */

/* Logits of all rows of ids, whole or one by one. */
static float *logits_of(const struct model *m, const int32_t *ids, int32_t n, enum phase phase)
{
    const int64_t vocab = m->config.vocab_size;
    float *logits = mem_array((size_t)(n * vocab), sizeof *logits);
    int32_t slot = 0, n_tokens = phase == PHASE_PROMPT ? n : 1;
    struct kv_cache cache;
    struct forward *f;
    struct err e = ERR_INIT;

    CHECK_OK(kv_cache_open(&cache, m, 1, CAPACITY, &e), e);
    CHECK_OK(forward_open(&f, m, n_tokens, 1, &e), e);
    for (int32_t at = 0; at < n; at += n_tokens) {
        struct batch batch = {
            .phase = phase, .n_seqs = 1, .slot = &slot, .n_tokens = &n_tokens, .ids = ids + at
        };
        struct forward_out out = { .logits = logits + at * vocab };
        CHECK_OK(forward_run(f, &cache, &batch, WANT_ALL_LOGITS, NULL, 0, &out, &e), e);
    }
    forward_close(f);
    kv_cache_close(&cache);
    return logits;
}

static void compare_with_cpu(const struct pair *p, const char *what)
{
    const int64_t vocab = p->model[1].config.vocab_size;
    const int which = 9;
    const int32_t n_prompt = prompt_length(which), n = n_prompt + N_STEPS;
    int32_t *ids = prompt_ids(which, vocab);
    const double allowed = tolerance(&p->model[1]);
    const bool int8 = p->model[1].layers[0].linear[0].form == WEIGHT_INT8;
    struct run r;

    open_run(&r, &p->model[1], &which, 1, NULL);
    ids[n_prompt] = r.last[0];
    go_on(&r, N_STEPS, ids + n_prompt + 1);
    close_run(&r);

    float *want = logits_of(&p->model[0], ids, n, PHASE_DECODE);
    float *steps = logits_of(&p->model[1], ids, n, PHASE_DECODE);
    double far = relative_rms(steps, want, n * vocab);
    CHECK(far <= allowed, "%s: steps are %g from the CPU's (allowed %g)", what, far, allowed);
    if (!int8) { /* whose outliers are those of a whole prompt */
        float *whole = logits_of(&p->model[1], ids, n, PHASE_PROMPT);
        far = relative_rms(whole, want, n * vocab);
        CHECK(far <= allowed, "%s: a prompt is %g from the CPU's (allowed %g)", what, far, allowed);
        far = relative_rms(whole, steps, n * vocab);
        CHECK(far <= allowed, "%s: a prompt is %g from its steps (allowed %g)", what, far, allowed);
        free(whole);
    }
    for (int32_t t = n_prompt; t < n; t++) { /* ids[t + 1] came out of row t */
        const float *row = want + t * vocab;
        double best = -INFINITY, largest = 0;

        for (int64_t v = 0; v < vocab; v++) {
            best = (double)row[v] > best ? (double)row[v] : best;
            largest = fabs((double)row[v]) > largest ? fabs((double)row[v]) : largest;
        }
        CHECK((double)row[ids[t + 1]] >= best - 10 * allowed * largest,
              "%s: the id of step %d is the CPU's or as good: %g, the best is %g", what,
              t - n_prompt, (double)row[ids[t + 1]], best);
    }
    free(steps);
    free(want);
    free(ids);
}

static void every_model_and_method(void **state)
{
    (void)state;
    for (int k = 0; k < N_MODELS; k++)
        for (int q = 0; q < N_METHODS; q++) {
            struct pair p;
            char what[128];

            if (!allows(&methods[q], &models[k].config) || left_out())
                continue;
            snprintf(what, sizeof what, "%s, %s", models[k].name, methods[q].name);
            open_pair(&p, &models[k].config, &methods[q]);
            compare_with_passes(&p.model[1], what, models[k].known && methods[q].known);
            compare_with_cpu(&p, what);
            close_pair(&p);
        }
}

/* ---- whatever the batch ---- */

static void check_batches(const struct model *m, const char *what)
{
    static const int sizes[] = { 2, 7, 8, 16, 33, 64 };
    const int n_seqs = one_in() > 1 ? 9 : N_SEQS;
    int32_t *want = mem_array(N_SEQS * N_STEPS, sizeof *want),
            *got = mem_array(N_SEQS * N_STEPS, 4);
    float *nll = mem_array(N_SEQS * CAPACITY, sizeof *nll),
          *other = mem_array(N_SEQS * CAPACITY, 4);

    for (int i = 0; i < n_seqs; i++) {
        struct run r;

        open_run(&r, m, &i, 1, nll + i * CAPACITY);
        go_on(&r, N_STEPS, want + i * N_STEPS);
        close_run(&r);
    }
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++)
        for (int first = 0; first < n_seqs; first += sizes[k]) {
            int n = n_seqs - first < sizes[k] ? n_seqs - first : sizes[k], which[N_SEQS];
            struct run r;

            for (int i = 0; i < n; i++) /* every other batch backwards */
                which[i] = k % 2 ? first + n - 1 - i : first + i;
            open_run(&r, m, which, n, other);
            go_on(&r, N_STEPS, got);
            close_run(&r);
            for (int i = 0; i < n; i++) {
                for (int t = 0; t < N_STEPS; t++)
                    CHECK(got[t * n + i] == want[which[i] * N_STEPS + t],
                          "%s: step %d of sequence %d, alone %d, in a batch of %d: %d", what, t,
                          which[i], want[which[i] * N_STEPS + t], n, got[t * n + i]);
                CHECK(!memcmp(other + i * CAPACITY, nll + which[i] * CAPACITY,
                              (size_t)(prompt_length(which[i]) - 1) * sizeof *nll),
                      "%s: the loss of prompt %d is the same in a batch of %d", what, which[i], n);
            }
        }
    free(want);
    free(got);
    free(nll);
    free(other);
}

static void batches_are_the_same(void **state)
{
    static const int of[] = { 1, 3, 4, 5, 8, 9 };

    (void)state;
    for (int k = 0; k < 2; k++)
        for (size_t q = 0; q < sizeof of / sizeof *of; q++) {
            struct pair p;
            char what[128];

            if (left_out())
                continue;
            snprintf(what, sizeof what, "%s, %s", models[k].name, methods[of[q]].name);
            open_pair(&p, &models[k].config, &methods[of[q]]);
            check_batches(&p.model[1], what);
            close_pair(&p);
        }
}

/* ---- steps at a time ---- */

/* From an empty cache of one sequence, with the numbers of steps given. */
static void decode_in(const struct model *m, const int *pieces, int32_t *out)
{
    struct kv_cache cache;
    struct forward *f;
    struct err e = ERR_INIT;
    int32_t slot = 0, id = 5;
    int n = 0;

    for (int i = 0; pieces[i]; i++)
        n += pieces[i];
    CHECK_OK(kv_cache_open(&cache, m, 1, n, &e), e);
    CHECK_OK(forward_open(&f, m, 1, 1, &e), e);
    for (int i = 0; pieces[i]; i++) {
        CHECK_OK(forward_decode(f, &cache, 1, &slot, &id, pieces[i], NULL, 0, out, &e), e);
        out += pieces[i];
        id = out[-1];
    }
    CHECK(cache.length[0] == n, "%d tokens are in the cache, not %d", n, cache.length[0]);
    forward_close(f);
    kv_cache_close(&cache);
}

/* 700 steps pass two bounds of the context (256, 512) and two waits of the host (256, 512). */
static void steps_at_a_time(void **state)
{
    static const int cuts[][8] = { { 1, 1, 1, 250, 8, 439 }, { 255, 1, 1, 255, 188 }, { 9, 691 } };
    int32_t whole[700], got[700], ones[701];
    int n_new = 0;
    struct pair p;

    (void)state;
    if (one_in() > 1)
        return;
    open_pair(&p, &models[0].config, &methods[3]);
    p.model[1].config.max_position = 1000;
    n_done = 0;
    decode_in(&p.model[1], (int[]){ 700, 0 }, whole);
    CHECK(n_done == 1, "one call of decode()");
    for (size_t i = 0; i < sizeof cuts / sizeof *cuts; i++) {
        decode_in(&p.model[1], cuts[i], got);
        CHECK(!memcmp(got, whole, sizeof whole), "cut %zu gives the same ids", i);
    }
    for (int i = 0; i < 700; i++)
        ones[i] = 1;
    ones[700] = 0;
    decode_in(&p.model[1], ones, got);
    CHECK(!memcmp(got, whole, sizeof whole), "one by one gives the same ids");
    gpu.ops = &without;
    decode_in(&p.model[1], (int[]){ 700, 0 }, got);
    gpu.ops = &with;
    CHECK(!memcmp(got, whole, sizeof whole), "forward passes give the same ids");
    for (int i = 1; i < 700; i++)
        n_new += whole[i] != whole[i - 1];
    CHECK(n_new > 100, "the ids change (%d times)", n_new);
    close_pair(&p);
}

/* More sequences than a launch takes: 64 at a time. */
static void many_sequences(void **state)
{
    enum { N = 150 };
    struct err e = ERR_INIT;
    struct kv_cache cache;
    struct forward *f;
    int32_t slot[N], id[N], out[3 * N];
    struct pair p;

    (void)state;
    open_pair(&p, &models[1].config, &methods[8]);
    CHECK_OK(kv_cache_open(&cache, &p.model[1], N, 3, &e), e);
    CHECK_OK(forward_open(&f, &p.model[1], N, N, &e), e);
    for (int i = 0; i < N; i++) {
        slot[i] = N - 1 - i;
        id[i] = i % 40 * 7;
    }
    n_done = 0;
    CHECK_OK(forward_decode(f, &cache, N, slot, id, 3, NULL, 0, out, &e), e);
    CHECK(n_done == 1, "decode() did it");
    for (int i = 40; i < 3 * N; i++)
        if (i % N >= 40)
            CHECK(out[i] == out[i - 40], "the same id gives the same, in row %d too", i % N);
    forward_close(f);
    kv_cache_close(&cache);
    close_pair(&p);
}

/* ---- what may not be chosen, and what is no number ---- */

static void forbidden_ids_are_passed_over(void **state)
{
    struct err e = ERR_INIT;
    struct run a, b;
    struct pair p;
    int32_t first[6 * 3], got[6 * 3], want[6 * 3], forbidden[20];
    const int which[] = { 1, 2, 3 };
    int n = 0;

    (void)state;
    open_pair(&p, &models[0].config, &methods[1]);
    open_run(&a, &p.model[1], which, 3, NULL);
    int32_t fed[3] = { a.last[0], a.last[1], a.last[2] };
    go_on(&a, 6, first);
    close_run(&a);
    for (; n < 18; n++)
        forbidden[n] = first[n];
    open_run(&a, &p.model[1], which, 3, NULL);
    open_run(&b, &p.model[1], which, 3, NULL);
    n_done = 0;
    CHECK_OK(forward_decode(a.f, &a.cache, 3, a.slot, fed, 6, forbidden, n, got, &e), e);
    CHECK(n_done == 1, "decode() did it");
    gpu.ops = &without;
    CHECK_OK(forward_decode(b.f, &b.cache, 3, b.slot, fed, 6, forbidden, n, want, &e), e);
    gpu.ops = &with;
    CHECK(!memcmp(got, want, sizeof got), "as forward passes do");
    for (int i = 0; i < 18; i++)
        for (int k = 0; k < n; k++)
            CHECK(got[i] != forbidden[k], "%d is forbidden", got[i]);
    close_run(&a);
    close_run(&b);
    close_pair(&p);
}

static void a_nan_gives_no_id(void **state)
{
    const uint16_t nan = 0x7E00;
    struct err e = ERR_INIT;
    struct pair p;
    struct run r;
    int32_t out[4 * 2];
    const int which[] = { 1, 2 };

    (void)state;
    open_pair(&p, &models[0].config, &methods[1]);
    open_run(&r, &p.model[1], which, 2, NULL);
    CHECK_OK(gpu.ops->upload(&gpu, (uint16_t *)p.model[1].norm.data + 3, &nan, sizeof nan, &e), e);
    n_done = 0;
    CHECK_OK(forward_decode(r.f, &r.cache, 2, r.slot, r.last, 4, NULL, 0, out, &e), e);
    CHECK(n_done == 1, "decode() did it");
    for (int i = 0; i < 8; i++)
        CHECK(out[i] == -1, "no id where logits are NaN, not %d", out[i]);
    close_run(&r);
    close_pair(&p);
}

/* ---- graphs ---- */

/* Models and caches that come and go take the addresses of those before them. */
static void memory_used_again(void **state)
{
    (void)state;
    for (int round = 0; round < 12; round++) {
        const struct method *q = &methods[round % 3 == 2 ? 4 : 3];
        struct pair p;

        if (left_out())
            continue;
        open_pair(&p, &models[round % 2].config, q);
        compare_with_passes(&p.model[1], "in memory that was another's", true);
        close_pair(&p);
    }
}

/* Where a graph is refused, launches go one by one, and the record says so. */
static void without_graphs(void **state)
{
    const int which[] = { 4, 0, 9 };
    int32_t got[N_STEPS * 3], want[N_STEPS * 3];
    struct backend whole = gpu, other = BACKEND_INIT;
    struct err e = ERR_INIT;
    struct pair p;
    struct run r;

    (void)state;
    open_pair(&p, &models[0].config, &methods[3]);
    gpu.notes[0] = 0;
    open_run(&r, &p.model[1], which, 3, NULL);
    go_on(&r, N_STEPS, want);
    close_run(&r);
    CHECK(!gpu.notes[0], "nothing to note: %s", gpu.notes);

    /* A state that has no graphs yet, in the place of the usual one: the same device. */
    CHECK_OK(backend_open(&other, "cuda", 0, NULL, &e), e);
    setenv("LLQ_TEST_NO_GRAPH", "1", 1);
    gpu.state = other.state;
    n_done = 0;
    open_run(&r, &p.model[1], which, 3, NULL);
    go_on(&r, N_STEPS, got);
    close_run(&r);
    unsetenv("LLQ_TEST_NO_GRAPH");
    gpu.state = whole.state;
    CHECK(n_done == 1 && !memcmp(got, want, sizeof got), "the same ids without graphs");
    CHECK(strstr(other.notes, "without a CUDA graph") && !strchr(other.notes, ';'),
          "and a note, once: %s", other.notes);
    backend_close(&other);
    close_pair(&p);
}

static int64_t free_bytes(void)
{
    struct device_facts facts;
    struct err e = ERR_INIT;

    CHECK_OK(gpu.ops->facts(&gpu, &facts, &e), e);
    return facts.free_bytes;
}

/* Steps of batches of every size, in caches that are opened and closed; the number of steps. */
static int churn(const struct model *m)
{
    int n_steps = 0;

    for (int n = 1; n <= N_SEQS; n++) {
        int which[N_SEQS];
        int32_t *out = mem_array((size_t)(35 * n), sizeof *out);
        struct run r;

        for (int i = 0; i < n; i++)
            which[i] = i;
        open_run(&r, m, which, n, NULL);
        go_on(&r, 31, out);
        go_on(&r, 2, out);
        close_run(&r);
        n_steps += 33;
        free(out);
    }
    return n_steps;
}

static void ten_thousand_steps_leak_nothing(void **state)
{
    struct pair p;
    int n = 0;

    (void)state;
    if (one_in() > 1)
        return;
    gpu.ops->trim(&gpu);
    const size_t held = gpu.mem.now[MEM_SCRATCH] + gpu.mem.now[MEM_CACHE];
    open_pair(&p, &models[0].config, &methods[3]);
    churn(&p.model[1]);
    churn(&p.model[1]);
    const int64_t before = free_bytes();
    while (n < 10000)
        n += churn(&p.model[1]);
    const int64_t after = free_bytes();
    printf("%d steps: %lld bytes free before, %lld after\n", n, (long long)before,
           (long long)after);
    CHECK(before - after < 4 << 20, "%d steps took %lld bytes for good", n,
          (long long)(before - after));
    close_pair(&p);
    gpu.ops->trim(&gpu);
    CHECK(gpu.mem.now[MEM_SCRATCH] + gpu.mem.now[MEM_CACHE] == held, "the account is even");
}

/* Also after a test that failed in between. */
static int start_with_decode(void **state)
{
    (void)state;
    gpu.ops = &with;
    gpu.notes[0] = 0;
    return 0;
}

#define TEST(f) cmocka_unit_test_setup(f, start_with_decode)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(every_model_and_method),
        TEST(batches_are_the_same),
        TEST(steps_at_a_time),
        TEST(many_sequences),
        TEST(forbidden_ids_are_passed_over),
        TEST(a_nan_gives_no_id),
        TEST(memory_used_again),
        TEST(without_graphs),
        TEST(ten_thousand_steps_leak_nothing),
    };

    if (!open_device())
        return 1;
    real_decode = gpu.ops->decode;
    with = without = *gpu.ops;
    with.decode = real_decode ? counted_decode : NULL;
    without.decode = NULL;
    gpu.ops = &with;
    return cmocka_run_group_tests(tests, open_twins, close_twins);
}
