/* test_weights.c - loading whole checkpoints, and everything that is wrong with one. */
#include "check.h"

#include "backend/backend.h"
#include "base/file.h"
#include "base/log.h"
#include "base/rng.h"
#include "model/checkpoint.h"
#include "model/load_tensors.h"
#include "model/model.h"
#include "model/tensor_list.h"

#include <omp.h>
#include <string.h>
#include <unistd.h>

static char folder[] = "/tmp/llq_weights.XXXXXX";
static struct backend backend = BACKEND_INIT;
static char last_log[512];

static void listen(enum log_level level, const char *text, void *context)
{
    (void)context;
    if (level == LOG_WARN)
        snprintf(last_log, sizeof last_log, "%s", text);
}

static char *at(const char *name)
{
    static char path[4096];

    snprintf(path, sizeof path, "%s/%s", folder, name);
    return path;
}

static void put(const char *name, const char *text)
{
    struct err e = ERR_INIT;

    CHECK_OK(file_replace(at(name), text, strlen(text), &e), e);
}

static int set_up(void **state)
{
    struct err e = ERR_INIT;

    (void)state;
    log_set_terminal_level(LOG_ERROR);
    log_set_listener(listen, NULL);
    return mkdtemp(folder) && backend_open(&backend, "cpu", 0, NULL, &e) == 0 ? 0 : -1;
}

static int tear_down(void **state)
{
    static const char *const names[] = { "config.json", "model.safetensors",
                                         "model.safetensors.index.json", "a.safetensors",
                                         "b.safetensors" };
    (void)state;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        unlink(at(names[i]));
    CHECK(backend.mem.now[MEM_BASE] == 0, "released models leave no memory behind");
    backend_close(&backend);
    log_set_listener(NULL, NULL);
    return rmdir(folder);
}

/* ---- a small model whose parts the tests change before writing ---- */

#define CONFIG(family, more)                                                      \
    "{\"model_type\":\"" family "\",\"vocab_size\":50,\"hidden_size\":24,"        \
    "\"intermediate_size\":40,\"num_hidden_layers\":2,\"num_attention_heads\":4," \
    "\"num_key_value_heads\":2,\"rms_norm_eps\":1e-5" more "}"

struct made {
    struct tensor_spec *list;
    struct safetensors_out *out; /* in the order of the list; written in any */
    size_t n;
};

static struct made make(const char *config_text, enum dtype t)
{
    struct made m = { 0 };
    struct config c;
    struct err e = ERR_INIT;

    put("config.json", config_text);
    CHECK_OK(config_read(folder, &c, &e), e);
    m.n = tensor_list(&c, &m.list);
    m.out = mem_array(m.n + 2, sizeof *m.out);
    for (size_t i = 0; i < m.n; i++) {
        const struct tensor_spec *s = &m.list[i];
        int64_t count = s->shape[0] * (s->n_dims == 2 ? s->shape[1] : 1);
        float *values = mem_array((size_t)count, sizeof *values);
        for (int64_t k = 0; k < count; k++)
            values[k] = (float)rng_real(i, RNG_TEST, (uint64_t)k) - 0.5f;
        void *data = mem_array((size_t)count, dtype_bytes(t));
        dtype_from_f32(t, values, data, count);
        free(values);
        m.out[i] = (struct safetensors_out){ .name = s->name,
                                             .dtype = t,
                                             .n_dims = s->n_dims,
                                             .shape = { s->shape[0], s->shape[1] },
                                             .data = data };
    }
    return m;
}

static void drop(struct made *m)
{
    for (size_t i = 0; i < m->n; i++)
        free((void *)(uintptr_t)m->out[i].data);
    free(m->out);
    free(m->list);
}

static struct safetensors_out *part(struct made *m, const char *name)
{
    for (size_t i = 0; i < m->n; i++)
        if (strcmp(m->out[i].name, name) == 0)
            return &m->out[i];
    CHECK(false, "the test's model has a tensor %s", name);
    return NULL;
}

/* Writes copies, because writing sorts. */
static void save(const char *name, const struct safetensors_out *out, size_t n)
{
    struct safetensors_out *copy = mem_array(n, sizeof *copy);
    struct err e = ERR_INIT;

    memcpy(copy, out, n * sizeof *copy);
    CHECK_OK(safetensors_write(at(name), copy, n, &e), e);
    free(copy);
}

static void refused(const char *what, const char *word, const char *word2)
{
    struct model m = MODEL_INIT;
    struct err e = ERR_INIT;
    int rc = weights_load(&backend, folder, &m, &e);

    CHECK(rc == -1 && e.code == ERR_INPUT, "%s is refused", what);
    CHECK(strstr(e.text, word) && strstr(e.text, word2), "%s: \"%s\" says \"%s\" and \"%s\"", what,
          e.text, word, word2);
    CHECK(!m.layers && backend.mem.now[MEM_BASE] == 0, "%s leaves nothing behind", what);
}

static bool holds(const void *device, const struct safetensors_out *out)
{
    int64_t count = out->shape[0] * (out->n_dims == 2 ? out->shape[1] : 1);
    size_t n_bytes = (size_t)count * dtype_bytes(out->dtype);
    void *copy = mem_alloc(n_bytes);
    struct err e = ERR_INIT;
    bool same;

    CHECK_OK(backend.ops->download(&backend, copy, device, n_bytes, &e), e);
    same = memcmp(copy, out->data, n_bytes) == 0;
    free(copy);
    return same;
}

/* ---- what loads ---- */

static void check_loaded(struct made *made, enum dtype t)
{
    struct model m = MODEL_INIT;
    struct load_facts facts;
    struct err e = ERR_INIT;
    char name[96];

    CHECK_OK(weights_load_timed(&backend, folder, &m, &facts, &e), e);
    CHECK(m.dtype == t && m.compute == t && m.backend == &backend, "the model is %s",
          dtype_name(t));
    CHECK(m.embed.n_rows == 50 && m.embed.n_cols == 24 &&
              holds(m.embed.data, part(made, "model.embed_tokens.weight")) && m.norm.n_rows == 1 &&
              holds(m.norm.data, part(made, "model.norm.weight")),
          "embedding and last norm are loaded");
    for (int64_t i = 0; i < 2; i++)
        for (int l = 0; l < N_LINEARS; l++) {
            struct layer *layer = &m.layers[i];
            config_linear_module(&m.config, i, (enum linear_name)l, name, sizeof name - 8);
            strcat(name, ".weight");
            CHECK(layer->linear[l].form == WEIGHT_PLAIN && layer->linear[l].plain_dtype == t &&
                      holds(layer->linear[l].codes, part(made, name)),
                  "%s is loaded", name);
            bool bias = config_linear_bias(&m.config, (enum linear_name)l);
            CHECK((layer->bias[l].data != NULL) == bias, "%s has its bias", name);
            strcpy(strstr(name, ".weight"), ".bias");
            CHECK(!bias || holds(layer->bias[l].data, part(made, name)), "%s is loaded", name);
        }
    CHECK(
        holds(m.layers[1].post_norm.data,
              part(made, "model.layers.1.post_attention_layernorm.weight")) &&
            holds(m.layers[0].input_norm.data, part(made, "model.layers.0.input_layernorm.weight")),
        "the norms are loaded");
    CHECK(m.config.tied ? m.head.codes == m.embed.data && !m.head.owned
                        : holds(m.head.codes, part(made, "lm_head.weight")),
          "the head is %s", m.config.tied ? "the embedding" : "its own");
    CHECK(facts.n_bytes == config_n_parameters(&m.config) * (int64_t)dtype_bytes(t) &&
              (int64_t)backend.mem.now[MEM_BASE] == facts.n_bytes && facts.read_s >= 0,
          "%lld bytes are counted", (long long)facts.n_bytes);
    model_release(&m);
    model_release(&m);
    CHECK(backend.mem.now[MEM_BASE] == 0, "release gives everything back");
}

static void test_families_and_dtypes(void **state)
{
    static const struct {
        const char *config;
        enum dtype dtype;
    } rows[] = {
        { CONFIG("llama", ""), DTYPE_BF16 },
        { CONFIG("llama", ",\"tie_word_embeddings\":true"), DTYPE_F16 },
        { CONFIG("llama", ",\"attention_bias\":true,\"mlp_bias\":true"), DTYPE_F32 },
        { CONFIG("mistral", ",\"head_dim\":10"), DTYPE_BF16 },
        { CONFIG("qwen2", ",\"tie_word_embeddings\":true"), DTYPE_BF16 },
    };
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct made made = make(rows[i].config, rows[i].dtype);
        save("model.safetensors", made.out, made.n);
        check_loaded(&made, rows[i].dtype);
        drop(&made);
    }
}

static void test_shards(void **state)
{
    struct made made = make(CONFIG("llama", ""), DTYPE_BF16);
    struct bytes index = BYTES_INIT;
    (void)state;

    unlink(at("model.safetensors"));
    for (size_t i = 0; i < made.n; i++)
        bytes_printf(&index, "%s\"%s\":\"%s\"", i ? "," : "{\"weight_map\":{", made.out[i].name,
                     i < 5 ? "a.safetensors" : "b.safetensors");
    bytes_text(&index, "}}");
    put("model.safetensors.index.json", index.data);
    save("a.safetensors", made.out, 5);
    save("b.safetensors", made.out + 5, made.n - 5);
    check_loaded(&made, DTYPE_BF16);
    save("b.safetensors", made.out + 6, made.n - 6);
    refused("a shard without a tensor mapped to it", made.out[5].name, "b.safetensors");
    unlink(at("b.safetensors"));
    refused("an absent shard", "b.safetensors", "No such file");
    unlink(at("a.safetensors"));
    unlink(at("model.safetensors.index.json"));
    bytes_release(&index);
    drop(&made);
}

static void test_extra_tensors(void **state)
{
    struct made made = make(CONFIG("llama", ",\"tie_word_embeddings\":true"), DTYPE_BF16);
    static const uint16_t zeros[50 * 24];
    struct model m = MODEL_INIT;
    struct err e = ERR_INIT;
    (void)state;

    made.out[made.n] = (struct safetensors_out){ .name = "model.layers.0.rotary_emb.inv_freq",
                                                 .dtype = DTYPE_BF16,
                                                 .n_dims = 1,
                                                 .shape = { 3 },
                                                 .data = zeros };
    made.out[made.n + 1] = (struct safetensors_out){ .name = "lm_head.weight",
                                                     .dtype = DTYPE_BF16,
                                                     .n_dims = 2,
                                                     .shape = { 50, 24 },
                                                     .data = zeros };
    save("model.safetensors", made.out, made.n + 2);
    *last_log = 0;
    CHECK_OK(weights_load(&backend, folder, &m, &e), e);
    CHECK(!*last_log, "old rotary buffers and the head of tied models go unmentioned: %s",
          last_log);
    CHECK(m.head.codes == m.embed.data, "a tied head is the embedding");
    model_release(&m);

    made.out[made.n].name = "model.vision.weight";
    save("model.safetensors", made.out, made.n + 2);
    CHECK_OK(weights_load(&backend, folder, &m, &e), e);
    CHECK(strstr(last_log, "model.vision.weight") && strstr(last_log, "1 tensor "),
          "a tensor of no use is mentioned: %s", last_log);
    model_release(&m);
    drop(&made);
}

static void test_mixed_dtypes(void **state)
{
    struct made made = make(CONFIG("llama", ""), DTYPE_BF16);
    struct safetensors_out *norm = part(&made, "model.norm.weight");
    float wide[24];
    struct model m = MODEL_INIT;
    struct err e = ERR_INIT;
    (void)state;

    for (int i = 0; i < 24; i++)
        wide[i] = 1.0f + (float)i * 0x1p-20f;
    free((void *)(uintptr_t)norm->data);
    norm->data = wide;
    norm->dtype = DTYPE_F32;
    save("model.safetensors", made.out, made.n);
    CHECK_OK(weights_load(&backend, folder, &m, &e), e);
    CHECK(m.dtype == DTYPE_BF16 && m.norm.dtype == DTYPE_F32 && holds(m.norm.data, norm),
          "each tensor keeps its dtype, the model has that of most elements");
    model_release(&m);
    norm->data = NULL;
    drop(&made);
}

/* ---- what does not ---- */

static void test_missing_and_misshapen(void **state)
{
    struct made made = make(CONFIG("qwen2", ""), DTYPE_BF16);
    (void)state;

    for (size_t i = 0; i < made.n; i++) {
        struct safetensors_out kept = made.out[i];
        made.out[i] = made.out[made.n - 1];
        save("model.safetensors", made.out, made.n - 1);
        refused("a missing tensor", kept.name, "missing");
        made.out[i] = kept;
    }
    struct safetensors_out *k = part(&made, "model.layers.1.self_attn.k_proj.weight");
    k->shape[0] = 24;
    k->shape[1] = 12;
    save("model.safetensors", made.out, made.n);
    refused("a transposed tensor", "k_proj.weight has shape [24, 12]", "asks for [12, 24]");
    k->n_dims = 1;
    k->shape[0] = 288;
    save("model.safetensors", made.out, made.n);
    refused("a flat tensor", "k_proj.weight has shape [288]", "asks for [12, 24]");
    k->n_dims = 2;
    k->shape[0] = 12;
    k->shape[1] = 24;
    k->dtype = DTYPE_I16;
    save("model.safetensors", made.out, made.n);
    refused("a tensor of integers", "k_proj.weight is I16", "");
    drop(&made);
}

static void test_broken_files(void **state)
{
    struct made made = make(CONFIG("llama", ""), DTYPE_BF16);
    (void)state;

    save("model.safetensors", made.out, made.n);
    int64_t size = file_size(at("model.safetensors"));
    CHECK(truncate(at("model.safetensors"), size - 1) == 0, "the file can be cut");
    refused("a truncated file", "truncated", "model.safetensors");
    CHECK(truncate(at("model.safetensors"), size + 1) == 0, "the file can be extended");
    refused("a file with a byte too many", "too long", "model.safetensors");
    CHECK(truncate(at("model.safetensors"), 100) == 0, "the file can be cut");
    refused("a cut header", "does not fit", "model.safetensors");
    unlink(at("model.safetensors"));
    refused("a folder without weights", "neither model.safetensors nor", "");
    put("config.json", "{\"model_type\":\"gpt2\"}");
    refused("another architecture", "gpt2", "config.json");
    drop(&made);
}

static void set(enum dtype t, void *data, int64_t i, float x)
{
    dtype_from_f32(t, &x, (char *)data + i * (int64_t)dtype_bytes(t), 1);
}

static void test_values_that_are_not_finite(void **state)
{
    static const enum dtype dtypes[] = { DTYPE_F32, DTYPE_F16, DTYPE_BF16 };
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    (void)state;

    for (size_t t = 0; t < 3; t++) {
        struct made made = make(CONFIG("llama", ""), dtypes[t]);
        struct safetensors_out *up = part(&made, "model.layers.1.mlp.up_proj.weight");
        struct safetensors_out *norm = part(&made, "model.norm.weight");
        struct safetensors_out *embed = part(&made, "model.embed_tokens.weight");
        void *data = (void *)(uintptr_t)up->data, *last = (void *)(uintptr_t)norm->data;
        for (size_t k = 0; k < 3; k++) {
            set(dtypes[t], data, 39 * 24 + 23, bad[k]);
            save("model.safetensors", made.out, made.n);
            refused("a bad last element", "model.layers.1.mlp.up_proj.weight",
                    k ? "infinity at [39, 23], element 959" : "NaN at [39, 23], element 959");
            set(dtypes[t], data, 7, bad[k]);
            save("model.safetensors", made.out, made.n);
            refused("two of them", "up_proj.weight", "at [0, 7], element 7");
            set(dtypes[t], data, 7, 0);
            set(dtypes[t], data, 39 * 24 + 23, 0);
        }
        set(dtypes[t], last, 5, INFINITY);
        save("model.safetensors", made.out, made.n);
        refused("a bad norm", "model.norm.weight", "infinity at element 5");
        set(dtypes[t], (void *)(uintptr_t)embed->data, 24, NAN);
        save("model.safetensors", made.out, made.n);
        refused("the first of two tensors", "model.embed_tokens.weight", "NaN at [1, 0]");
        drop(&made);
    }
}

/* Every place in rows of awkward length, each kind of value, beside the largest finite ones. */
static void test_the_search_for_bad_values(void **state)
{
    static const enum dtype dtypes[] = { DTYPE_F32, DTYPE_F16, DTYPE_BF16 };
    static const float largest[] = { 0x1.fffffep127f, 65504, 0x1.fep127f };
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    char data[4 * 600];
    (void)state;

    for (size_t t = 0; t < 3; t++)
        for (int64_t n = 0; n < 600; n = n < 9 ? n + 1 : n * 2 + 1) {
            for (int64_t i = 0; i < n; i++)
                set(dtypes[t], data, i, i % 2 ? largest[t] : -largest[t]);
            CHECK(first_not_finite(dtypes[t], data, n) == -1, "%lld of the largest %s are finite",
                  (long long)n, dtype_name(dtypes[t]));
            for (int64_t i = 0; i < n; i++) {
                set(dtypes[t], data, i, bad[i % 3]);
                CHECK(first_not_finite(dtypes[t], data, n) == i,
                      "%s: element %lld of %lld is found", dtype_name(dtypes[t]), (long long)i,
                      (long long)n);
                set(dtypes[t], data, i, 0);
            }
        }
}

/* Larger than several pieces: the first bad one is named whatever the threads do. */
static void test_the_first_of_many_pieces(void **state)
{
    enum { V = 20000, H = 64 };
    static const char config[] = "{\"model_type\":\"llama\",\"vocab_size\":20000,"
                                 "\"hidden_size\":64,\"intermediate_size\":8,"
                                 "\"num_hidden_layers\":1,\"num_attention_heads\":4}";
    struct made made = make(config, DTYPE_F32);
    float *embed = (float *)(uintptr_t)part(&made, "model.embed_tokens.weight")->data;
    float *head = (float *)(uintptr_t)part(&made, "lm_head.weight")->data;
    int threads = omp_get_max_threads();
    (void)state;

    save("model.safetensors", made.out, made.n);
    for (int n = 1; n <= 3; n += 2) {
        struct model m = MODEL_INIT;
        struct err e = ERR_INIT;
        omp_set_num_threads(n);
        CHECK_OK(weights_load(&backend, folder, &m, &e), e);
        CHECK(holds(m.embed.data, part(&made, "model.embed_tokens.weight")) &&
                  holds(m.head.codes, part(&made, "lm_head.weight")),
              "all pieces arrive with %d threads", n);
        model_release(&m);
    }
    head[3] = NAN;
    embed[(V - 1) * H + 1] = INFINITY;
    embed[V / 2 * H] = NAN;
    save("model.safetensors", made.out, made.n);
    for (int n = 1; n <= 4; n++) {
        omp_set_num_threads(n);
        refused("three bad values", "model.embed_tokens.weight", "NaN at [10000, 0]");
    }
    omp_set_num_threads(threads);
    drop(&made);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_families_and_dtypes),
        cmocka_unit_test(test_shards),
        cmocka_unit_test(test_extra_tensors),
        cmocka_unit_test(test_mixed_dtypes),
        cmocka_unit_test(test_missing_and_misshapen),
        cmocka_unit_test(test_broken_files),
        cmocka_unit_test(test_values_that_are_not_finite),
        cmocka_unit_test(test_the_search_for_bad_values),
        cmocka_unit_test(test_the_first_of_many_pieces),
    };

    return cmocka_run_group_tests_name("weights", tests, set_up, tear_down);
}
