/* config.c - see config.h.  Standard values of absent keys are those of the families' own
 * configuration classes in transformers. */
#include "model/config.h"

#include "base/file.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What a family's configuration class takes where config.json is silent. */
static const struct family_facts {
    const char *name, *architecture;
    int64_t vocab_size, intermediate_size, n_kv_heads; /* n_kv_heads 0: as many as heads */
    int64_t max_position;
    int64_t bos_id, eos_id; /* -1: none */
} families[] = {
    [FAMILY_LLAMA] = { "llama", "LlamaForCausalLM", 32000, 11008, 0, 2048, 1, 2 },
    [FAMILY_MISTRAL] = { "mistral", "MistralForCausalLM", 32000, 14336, 8, 131072, 1, 2 },
    [FAMILY_QWEN2] = { "qwen2", "Qwen2ForCausalLM", 151936, 22016, 32, 32768, -1, -1 },
};

#define N_FAMILIES (int)(sizeof families / sizeof *families)

const char *family_name(enum family f)
{
    return families[f].name;
}

static int unsupported(struct err *e, const char *what)
{
    return err_set(e, ERR_INPUT,
                   "%s is not supported (LlamaForCausalLM, MistralForCausalLM and "
                   "Qwen2ForCausalLM are)",
                   what);
}

static int parse_family(const struct js *j, struct config *c, struct err *e)
{
    const struct js *list = js_get(j, "architectures");
    const char *architecture = js_text(js_at(list, 0));
    const char *type;
    char text[128];

    if (js_text_or(j, "model_type", NULL, &type, e) < 0)
        return -1;
    if (js_count(list) > 1)
        return err_set(e, ERR_INPUT, "architectures names %zu, one is needed", js_count(list));
    if (!architecture && !type)
        return err_set(e, ERR_INPUT, "architectures and model_type are missing");
    int by_architecture = -1, by_type = -1;
    for (int i = 0; i < N_FAMILIES; i++) {
        if (architecture && strcmp(architecture, families[i].architecture) == 0)
            by_architecture = i;
        if (type && strcmp(type, families[i].name) == 0)
            by_type = i;
    }
    snprintf(text, sizeof text, "%s \"%.64s\"", architecture ? "architecture" : "model_type",
             architecture ? architecture : type);
    if (architecture ? by_architecture < 0 : by_type < 0)
        return unsupported(e, text);
    if (architecture && type && by_type != by_architecture)
        return err_set(e, ERR_INPUT, "architecture %.64s and model_type %.64s do not agree",
                       architecture, type);
    c->family = (enum family)(architecture ? by_architecture : by_type);
    return 0;
}

/* What would change results if it were passed over. */
static int refuse_variants(const struct js *j, struct err *e)
{
    const struct js *q = js_get(j, "quantization_config");
    const char *act, *method;

    if (js_kind(q) != JS_NULL) {
        if (js_text_or(q, "quant_method", "an unnamed method", &method, e) < 0)
            return err_in(e, "quantization_config");
        return err_set(e, ERR_INPUT,
                       "quantization_config: the checkpoint is quantized already (%s); an "
                       "unquantized one is needed",
                       method);
    }
    if (js_text_or(j, "hidden_act", "silu", &act, e) < 0)
        return -1;
    if (strcmp(act, "silu") != 0)
        return err_set(e, ERR_INPUT, "hidden_act \"%s\" is not supported (silu is)", act);
    return 0;
}

/* ---- shapes ---- */

static int size_or(const struct js *j, const char *key, int64_t standard, int64_t most,
                   int64_t *out, struct err *e)
{
    if (js_int_or(j, key, standard, out, e) < 0)
        return -1;
    if (*out < 1 || *out > most)
        return err_set(e, ERR_INPUT, "%s is %lld, it must lie in 1 .. %lld", key, (long long)*out,
                       (long long)most);
    return 0;
}

#define HEAD_DIM_MAX 1024 /* what backends keep of a head at a time */

static int parse_heads(const struct js *j, struct config *c, struct err *e)
{
    int64_t heads, kv_heads, width, standard = families[c->family].n_kv_heads;
    const struct js *kv = js_get(j, "num_key_value_heads");

    if (size_or(j, "num_attention_heads", 32, 1 << 14, &heads, e) < 0)
        return -1;
    /* An explicit null means "as many as heads" in every family. */
    if (size_or(j, "num_key_value_heads", kv || standard == 0 ? heads : standard, 1 << 14,
                &kv_heads, e) < 0)
        return -1;
    if (heads % kv_heads != 0)
        return err_set(e, ERR_INPUT,
                       "num_attention_heads %lld is no multiple of num_key_value_heads %lld",
                       (long long)heads, (long long)kv_heads);
    if (js_kind(js_get(j, "head_dim")) == JS_NULL && c->hidden_size % heads != 0)
        return err_set(e, ERR_INPUT,
                       "hidden_size %lld is no multiple of num_attention_heads %lld, and head_dim "
                       "is not given",
                       (long long)c->hidden_size, (long long)heads);
    if (size_or(j, "head_dim", c->hidden_size / heads, HEAD_DIM_MAX, &width, e) < 0)
        return -1;
    if (width % 2 != 0)
        return err_set(e, ERR_INPUT, "head_dim %lld is odd", (long long)width);
    c->n_heads = (int)heads;
    c->n_kv_heads = (int)kv_heads;
    c->head_dim = (int)width;
    return 0;
}

static int parse_shapes(const struct js *j, struct config *c, struct err *e)
{
    const struct family_facts *f = &families[c->family];

    if (size_or(j, "vocab_size", f->vocab_size, 1 << 24, &c->vocab_size, e) < 0 ||
        size_or(j, "hidden_size", 4096, 1 << 20, &c->hidden_size, e) < 0 ||
        size_or(j, "intermediate_size", f->intermediate_size, 1 << 22, &c->intermediate_size, e) <
            0 ||
        size_or(j, "num_hidden_layers", 32, 1 << 12, &c->n_layers, e) < 0 ||
        size_or(j, "max_position_embeddings", f->max_position, 1 << 24, &c->max_position, e) < 0 ||
        parse_heads(j, c, e) < 0 || js_real_or(j, "rms_norm_eps", 1e-6, &c->rms_norm_eps, e) < 0 ||
        js_bool_or(j, "tie_word_embeddings", false, &c->tied, e) < 0)
        return -1;
    if (!(c->rms_norm_eps >= 0 && c->rms_norm_eps < 1))
        return err_set(e, ERR_INPUT, "rms_norm_eps is %g, it must lie in [0, 1)", c->rms_norm_eps);
    return 0;
}

static int parse_biases(const struct js *j, struct config *c, struct err *e)
{
    bool attention = false, mlp = false;

    if (c->family == FAMILY_LLAMA && (js_bool_or(j, "attention_bias", false, &attention, e) < 0 ||
                                      js_bool_or(j, "mlp_bias", false, &mlp, e) < 0))
        return -1;
    c->qkv_bias = attention || c->family == FAMILY_QWEN2;
    c->o_bias = attention;
    c->mlp_bias = mlp;
    return 0;
}

static int parse_dtype(const struct js *j, struct config *c, struct err *e)
{
    const char *name;

    if (js_text_or(j, "torch_dtype", "float32", &name, e) < 0 ||
        js_text_or(j, "dtype", name, &name, e) < 0)
        return -1;
    int t = dtype_from_name(name);
    if (t != DTYPE_F32 && t != DTYPE_F16 && t != DTYPE_BF16)
        return err_set(e, ERR_INPUT, "dtype \"%s\" is not supported (float32, float16, bfloat16)",
                       name);
    c->stored_dtype = (enum dtype)t;
    return 0;
}

/* ---- attention windows ---- */

/* layer_types (transformers 4.53 and later) says of each layer whether it has the window. */
static int parse_layer_types(const struct js *list, struct config *c, struct err *e)
{
    if (js_kind(list) != JS_ARRAY || (int64_t)js_count(list) != c->n_layers)
        return err_set(e, ERR_INPUT, "layer_types names %zu layers, the model has %lld",
                       js_count(list), (long long)c->n_layers);
    int64_t first = c->n_layers;
    for (int64_t i = 0; i < c->n_layers; i++) {
        const char *type = js_text(js_at(list, (size_t)i));
        bool full = type && strcmp(type, "full_attention") == 0;
        if (!full && !(type && strcmp(type, "sliding_attention") == 0))
            return err_set(e, ERR_INPUT, "layer_types[%lld] \"%.40s\" is not supported",
                           (long long)i, type ? type : "(no string)");
        if (!full && first == c->n_layers)
            first = i;
        if (full && first < c->n_layers)
            return err_set(e, ERR_INPUT,
                           "layer_types: full attention in layer %lld above a sliding one is not "
                           "supported",
                           (long long)i);
    }
    c->window_first_layer = first;
    if (first == c->n_layers)
        c->sliding_window = 0;
    return 0;
}

static int parse_window(const struct js *j, struct config *c, struct err *e)
{
    const struct js *window = js_get(j, "sliding_window"), *types = js_get(j, "layer_types");
    bool used = c->family == FAMILY_MISTRAL;

    if (c->family == FAMILY_QWEN2 &&
        (js_bool_or(j, "use_sliding_window", false, &used, e) < 0 ||
         js_int_or(j, "max_window_layers", 28, &c->window_first_layer, e) < 0))
        return -1;
    /* Absent means 4096, null means off. */
    if (used && window == NULL)
        c->sliding_window = 4096;
    else if (used && js_kind(window) != JS_NULL &&
             size_or(j, "sliding_window", 0, INT64_MAX / 2, &c->sliding_window, e) < 0)
        return -1;
    if (c->sliding_window > 0 && js_kind(types) != JS_NULL && parse_layer_types(types, c, e) < 0)
        return -1;
    if (c->sliding_window == 0 || c->window_first_layer < 0)
        c->window_first_layer = 0;
    return 0;
}

/* ---- special ids ---- */

static int add_eos(const struct js *id, struct config *c, struct err *e)
{
    if (js_kind(id) != JS_INT || js_int(id) < 0 || js_int(id) > INT32_MAX)
        return err_set(e, ERR_INPUT, "eos_token_id holds what is not a token id");
    if (c->n_eos == CONFIG_EOS_MAX)
        return err_set(e, ERR_INPUT, "eos_token_id lists more than %d ids", CONFIG_EOS_MAX);
    c->eos_ids[c->n_eos++] = (int32_t)js_int(id);
    return 0;
}

/* The ids that one file names; absent keys leave what was there. */
static int parse_special_ids(const struct js *j, struct config *c, struct err *e)
{
    const struct js *eos = js_get(j, "eos_token_id"), *bos = js_get(j, "bos_token_id");

    if (js_kind(bos) != JS_NULL && (js_want_int(j, "bos_token_id", &c->bos_id, e) < 0))
        return -1;
    if (js_kind(eos) == JS_NULL)
        return 0;
    c->n_eos = 0;
    if (js_kind(eos) != JS_ARRAY)
        return add_eos(eos, c, e);
    for (size_t i = 0; i < js_count(eos); i++)
        if (add_eos(js_at(eos, i), c, e) < 0)
            return -1;
    return 0;
}

static int parse_ids(const struct js *j, const struct js *generation, struct config *c,
                     struct err *e)
{
    const struct family_facts *f = &families[c->family];

    c->bos_id = js_get(j, "bos_token_id") ? -1 : f->bos_id;
    if (f->eos_id >= 0 && !js_get(j, "eos_token_id"))
        c->eos_ids[c->n_eos++] = (int32_t)f->eos_id;
    if (parse_special_ids(j, c, e) < 0)
        return -1;
    c->repetition_penalty = 1;
    if (generation &&
        (parse_special_ids(generation, c, e) < 0 ||
         js_real_or(generation, "repetition_penalty", 1, &c->repetition_penalty, e) < 0))
        return err_in(e, "generation_config.json");
    return 0;
}

/* ---- the whole ---- */

int config_parse(const struct js *j, const struct js *generation, struct config *out, struct err *e)
{
    struct config c = { 0 };

    if (js_kind(j) != JS_OBJECT)
        return err_set(e, ERR_INPUT, "the configuration is %s instead of an object",
                       js_kind_name(js_kind(j)));
    if (parse_family(j, &c, e) < 0 || refuse_variants(j, e) < 0 || parse_shapes(j, &c, e) < 0 ||
        parse_biases(j, &c, e) < 0 || parse_dtype(j, &c, e) < 0 || parse_window(j, &c, e) < 0 ||
        parse_ids(j, generation, &c, e) < 0 || config_parse_rope(j, &c, e) < 0)
        return -1;
    *out = c;
    return 0;
}

int config_read_file(const char *path, struct config *out, struct err *e)
{
    struct js *j = js_read(path, e);
    int rc = j ? config_parse(j, NULL, out, e) : -1;

    if (j && rc < 0)
        err_in(e, "%s", path);
    js_release(j);
    return rc;
}

int config_read(const char *folder, struct config *out, struct err *e)
{
    int rc = -1;
    char *path = file_join(folder, "config.json");
    char *generation_path = file_join(folder, "generation_config.json");
    struct js *j = NULL, *generation = NULL;

    if (!file_exists(path)) {
        err_set(e, ERR_INPUT, "%s is missing; sweeps/README.md says how to fetch a model", path);
        goto out;
    }
    if (!(j = js_read(path, e)))
        goto out;
    if (file_exists(generation_path) && !(generation = js_read(generation_path, e)))
        goto out;
    if (config_parse(j, generation, out, e) < 0) {
        err_in(e, "%s", path);
        goto out;
    }
    rc = 0;
out:
    js_release(j);
    js_release(generation);
    free(path);
    free(generation_path);
    return rc;
}

/* ---- counts ---- */

void config_linear_shape(const struct config *c, enum linear_name l, int64_t *n_out, int64_t *n_in)
{
    int64_t h = c->hidden_size, f = c->intermediate_size;
    int64_t q = (int64_t)c->n_heads * c->head_dim, kv = (int64_t)c->n_kv_heads * c->head_dim;
    const int64_t shape[N_LINEARS][2] = {
        [LINEAR_Q] = { q, h },    [LINEAR_K] = { kv, h },   [LINEAR_V] = { kv, h },
        [LINEAR_O] = { h, q },    [LINEAR_GATE] = { f, h }, [LINEAR_UP] = { f, h },
        [LINEAR_DOWN] = { h, f },
    };

    *n_out = shape[l][0];
    *n_in = shape[l][1];
}

bool config_linear_bias(const struct config *c, enum linear_name l)
{
    return l == LINEAR_O ? c->o_bias : l < LINEAR_O ? c->qkv_bias : c->mlp_bias;
}

void config_linear_module(const struct config *c, int64_t layer, enum linear_name l, char *out,
                          size_t room)
{
    static const char *const names[N_LINEARS] = {
        "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj",    "mlp.up_proj",      "mlp.down_proj",
    };

    (void)c; /* the same in the three families */
    snprintf(out, room, "model.layers.%lld.%s", (long long)layer, names[l]);
}

int config_check_split(const struct config *c, int n, struct err *e)
{
    const struct {
        const char *what;
        int64_t n;
    } parts[] = {
        { "query heads", c->n_heads },
        { "key and value heads", c->n_kv_heads },
        { "columns of the model", c->hidden_size },
        { "columns of the MLP", c->intermediate_size },
    };

    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (parts[i].n % n != 0)
            return err_set(e, ERR_USAGE, "%d devices cannot share the model's %lld %s evenly", n,
                           (long long)parts[i].n, parts[i].what);
    return 0;
}

int64_t config_n_linear_parameters(const struct config *c)
{
    int64_t sum = 0;

    for (int l = 0; l < N_LINEARS; l++) {
        int64_t n_out, n_in;
        config_linear_shape(c, (enum linear_name)l, &n_out, &n_in);
        sum += n_out * n_in;
    }
    return sum * c->n_layers;
}

int64_t config_n_embedding(const struct config *c)
{
    return c->vocab_size * c->hidden_size;
}

int64_t config_n_parameters(const struct config *c)
{
    int64_t biases = 0;

    for (int l = 0; l < N_LINEARS; l++) {
        int64_t n_out, n_in;
        config_linear_shape(c, (enum linear_name)l, &n_out, &n_in);
        if (config_linear_bias(c, (enum linear_name)l))
            biases += n_out;
    }
    return config_n_embedding(c) * (c->tied ? 1 : 2) + config_n_linear_parameters(c) +
           c->n_layers * (2 * c->hidden_size + biases) + c->hidden_size;
}

int64_t config_kv_bytes_per_token(const struct config *c, enum dtype t)
{
    return 2 * c->n_layers * c->n_kv_heads * c->head_dim * (int64_t)dtype_bytes(t);
}
