/* bench_layer.c - one layer of Llama-3.2-1B over 512 tokens in fp32, dense, beside the seven
 * matrix products of it alone (cblas_sgemm), on 1 thread and on 2:
 *
 *   bench_layer [RUNS]
 *
 * The layer goes through forward_run() with a vocabulary of 64, so that embedding and head do not
 * count.  The bar is a ratio of 2. */
#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "model/model.h"

#include <cblas.h>
#include <omp.h>
#include <stdio.h>
#include <stdlib.h>

#define N_TOKENS 512
#define VOCAB    64

static int new_weight(struct backend *b, int64_t n_out, int64_t n_in, uint64_t seed,
                      struct weight *w, struct err *e)
{
    struct tensor shape = { .dtype = DTYPE_F32, .n_rows = n_out, .n_cols = n_in };
    float *values = mem_array((size_t)(n_out * n_in), sizeof *values);

    for (int64_t i = 0; i < n_out * n_in; i++)
        values[i] = (float)(rng_real(seed, RNG_TEST, (uint64_t)i) - 0.5) * 0.04f;
    *w = weight_of_tensor(&shape);
    int rc = weight_alloc(b, MEM_WEIGHTS, w, e);
    if (rc == 0)
        rc = b->ops->upload(b, w->codes, values, weight_codes_bytes(w), e);
    free(values);
    return rc;
}

static int new_norm(struct backend *b, int64_t n, struct tensor *t, struct err *e)
{
    float *ones = mem_array((size_t)n, sizeof *ones);

    for (int64_t i = 0; i < n; i++)
        ones[i] = 1;
    int rc = tensor_alloc(b, MEM_WEIGHTS, DTYPE_F32, 1, n, t, e);
    if (rc == 0)
        rc = b->ops->upload(b, t->data, ones, tensor_bytes(t), e);
    free(ones);
    return rc;
}

static int new_model(struct backend *b, struct model *m, struct err *e)
{
    static const char text[] =
        "{\"model_type\":\"llama\",\"vocab_size\":64,\"hidden_size\":2048,"
        "\"intermediate_size\":8192,\"num_hidden_layers\":1,\"num_attention_heads\":32,"
        "\"num_key_value_heads\":8,\"head_dim\":64,\"tie_word_embeddings\":true}";
    struct js *j = js_parse(text, sizeof text - 1, e);
    struct config c;
    int rc = j ? config_parse(j, NULL, &c, e) : -1;

    js_release(j);
    if (rc < 0)
        return -1;
    *m = (struct model){ .config = c,
                         .backend = b,
                         .dtype = DTYPE_F32,
                         .compute = DTYPE_F32,
                         .owns_embed = true,
                         .owns_norms = true };
    m->layers = mem_array(1, sizeof *m->layers);
    struct weight embed;
    if (new_weight(b, VOCAB, c.hidden_size, 1, &embed, e) < 0)
        return -1;
    m->embed = (struct tensor){ .data = embed.codes,
                                .dtype = DTYPE_F32,
                                .n_rows = VOCAB,
                                .n_cols = c.hidden_size,
                                .tag = MEM_WEIGHTS };
    m->head = weight_of_tensor(&m->embed);
    if (new_norm(b, c.hidden_size, &m->norm, e) < 0 ||
        new_norm(b, c.hidden_size, &m->layers[0].input_norm, e) < 0 ||
        new_norm(b, c.hidden_size, &m->layers[0].post_norm, e) < 0)
        return -1;
    for (int l = 0; l < N_LINEARS; l++) {
        int64_t n_out, n_in;
        config_linear_shape(&c, (enum linear_name)l, &n_out, &n_in);
        if (new_weight(b, n_out, n_in, (uint64_t)(2 + l), &m->layers[0].linear[l], e) < 0)
            return -1;
    }
    return 0;
}

/* Best of `runs`, seconds. */
static int time_layer(const struct model *m, struct forward *f, struct kv_cache *cache, int runs,
                      double *best, struct err *e)
{
    int32_t ids[N_TOKENS], slot = 0, count = N_TOKENS, next;
    struct batch batch = { .n_seqs = 1, .slot = &slot, .n_tokens = &count, .ids = ids };
    struct forward_out out = { .next_ids = &next };

    for (int i = 0; i < N_TOKENS; i++)
        ids[i] = (int32_t)rng_below(1, RNG_TEST, (uint64_t)i, VOCAB);
    *best = 1e30;
    for (int i = 0; i < runs; i++) {
        kv_cache_drop(cache, 0);
        double start = clock_seconds();
        if (forward_run(f, cache, &batch, WANT_LAST_ARGMAX, NULL, 0, &out, e) < 0)
            return -1;
        double s = clock_seconds() - start;
        *best = s < *best ? s : *best;
    }
    return m->backend->ops->sync(m->backend, e);
}

static double time_products(const struct model *m, int runs)
{
    const struct config *c = &m->config;
    float *x = mem_array((size_t)(N_TOKENS * c->intermediate_size), sizeof *x);
    float *y = mem_array((size_t)(N_TOKENS * c->intermediate_size), sizeof *y);
    double best = 1e30;

    for (int64_t i = 0; i < N_TOKENS * c->intermediate_size; i++)
        x[i] = (float)rng_real(1, RNG_TEST, (uint64_t)i) - 0.5f;
    for (int i = 0; i < runs; i++) {
        double start = clock_seconds();
        for (int l = 0; l < N_LINEARS; l++) {
            const struct weight *w = &m->layers[0].linear[l];
            cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, N_TOKENS, (int)w->n_out,
                        (int)w->n_in, 1, x, (int)w->n_in, w->codes, (int)w->n_in, 0, y,
                        (int)w->n_out);
        }
        double s = clock_seconds() - start;
        best = s < best ? s : best;
    }
    free(x);
    free(y);
    return best;
}

int main(int argc, char **argv)
{
    struct backend b = BACKEND_INIT;
    struct model m = MODEL_INIT;
    struct kv_cache cache = { 0 };
    struct forward *f = NULL;
    struct err e = ERR_INIT;
    int runs = argc > 1 ? atoi(argv[1]) : 5, rc = 1;

    if (runs < 1) {
        fprintf(stderr, "usage: bench_layer [RUNS]\n");
        return 2;
    }
    if (backend_open(&b, "cpu", 0, NULL, &e) < 0 || new_model(&b, &m, &e) < 0 ||
        kv_cache_open(&cache, &m, 1, N_TOKENS, &e) < 0 || forward_open(&f, &m, N_TOKENS, 1, &e) < 0)
        goto out;
    for (int n = 1; n <= 2; n++) {
        double layer;
        openblas_set_num_threads(1); /* our threads are outside */
        omp_set_num_threads(n);
        if (time_layer(&m, f, &cache, runs, &layer, &e) < 0)
            goto out;
        openblas_set_num_threads(n);
        double products = time_products(&m, runs);
        printf("%d thread%s: layer %.1f ms, its sgemms alone %.1f ms, ratio %.2f\n", n,
               n == 1 ? "" : "s", 1e3 * layer, 1e3 * products, layer / products);
    }
    rc = 0;
out:
    if (rc)
        fprintf(stderr, "bench_layer: %s\n", e.text);
    forward_close(f);
    kv_cache_close(&cache);
    model_release(&m);
    backend_close(&b);
    return rc;
}
