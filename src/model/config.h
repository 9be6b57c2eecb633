/* config.h - config.json of a Llama-family model, both the old form (rope_theta, rope_scaling,
 * torch_dtype) and transformers 5's (rope_parameters, dtype). */
#pragma once

#include "backend/dtype.h"
#include "base/err.h"
#include "base/js.h"

#include <stdbool.h>
#include <stdint.h>

enum family { FAMILY_LLAMA, FAMILY_MISTRAL, FAMILY_QWEN2 };
enum rope_type { ROPE_DEFAULT, ROPE_LINEAR, ROPE_DYNAMIC, ROPE_LLAMA3, ROPE_YARN };

#define CONFIG_EOS_MAX 16

struct rope_config {
    enum rope_type type;
    double theta, factor;
    double low_freq_factor, high_freq_factor;      /* llama3 */
    double beta_fast, beta_slow, attention_factor; /* yarn; attention_factor NaN: by the formula */
    double mscale, mscale_all_dim;                 /* yarn; NaN: absent */
    bool truncate;                                 /* yarn */
    int64_t original_max_position;                 /* llama3, yarn: what lengths are measured by */
    double partial_rotary_factor;                  /* 1: the whole head */
};

struct config {
    enum family family;
    int64_t vocab_size, hidden_size, intermediate_size, n_layers;
    int n_heads, n_kv_heads, head_dim;
    int64_t max_position;
    double rms_norm_eps;
    bool tied; /* head = embedding */
    bool qkv_bias, o_bias, mlp_bias;
    int64_t sliding_window;     /* 0: off */
    int64_t window_first_layer; /* layers below it attend to everything (Qwen2) */
    int64_t bos_id;             /* -1: none */
    int n_eos;
    int32_t eos_ids[CONFIG_EOS_MAX]; /* generation_config.json, else config.json */
    double repetition_penalty;       /* of generation_config.json; 1: none.  Only warned about */
    enum dtype stored_dtype;         /* torch_dtype / dtype; F32 where the file is silent */
    struct rope_config rope;
};

/* From parsed config.json; generation (generation_config.json) may be NULL.  Anything unknown
 * that would change results is refused by name. */
int config_parse(const struct js *config, const struct js *generation, struct config *out,
                 struct err *e);
/* Reads folder/config.json and, if present, folder/generation_config.json. */
int config_read(const char *folder, struct config *out, struct err *e);
/* A config.json alone (--dry-run of [model] config). */
int config_read_file(const char *path, struct config *out, struct err *e);

/* The rotation alone, for config_parse(): shapes and max_position of c are set already. */
int config_parse_rope(const struct js *config, struct config *c, struct err *e);

const char *family_name(enum family f); /* "llama", "mistral", "qwen2" */

/* Can n devices share the heads, widths and MLP of this model evenly?  ERR_USAGE says what not. */
int config_check_split(const struct config *c, int n, struct err *e);

/* Counts from the shapes; tied tensors once. */
int64_t config_n_parameters(const struct config *c);
int64_t config_n_linear_parameters(const struct config *c); /* the 7 linears of every layer */
int64_t config_n_embedding(const struct config *c);         /* vocab_size * hidden_size */
/* Bytes of keys and values of one token in a 16-bit cache. */
int64_t config_kv_bytes_per_token(const struct config *c, enum dtype t);

/* The 7 linears of a layer in module order. */
enum linear_name {
    LINEAR_Q,
    LINEAR_K,
    LINEAR_V,
    LINEAR_O,
    LINEAR_GATE,
    LINEAR_UP,
    LINEAR_DOWN,
    N_LINEARS
};
void config_linear_shape(const struct config *c, enum linear_name l, int64_t *n_out, int64_t *n_in);
bool config_linear_bias(const struct config *c, enum linear_name l); /* does it have one? */
/* "model.layers.3.self_attn.q_proj" */
void config_linear_module(const struct config *c, int64_t layer, enum linear_name l, char *out,
                          size_t room);
