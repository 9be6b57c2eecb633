/* tensor_list.c - see tensor_list.h. */
#include "model/tensor_list.h"

#include "base/memory.h"

#include <stdio.h>

static void add_layer(const struct config *c, int64_t layer, struct tensor_spec *list, size_t *n)
{
    const int64_t h = c->hidden_size;
    char module[80];
    struct tensor_spec *s = &list[(*n)++];

    *s = (struct tensor_spec){
        .part = PART_INPUT_NORM, .layer = layer, .n_dims = 1, .shape = { h }
    };
    snprintf(s->name, sizeof s->name, "model.layers.%lld.input_layernorm.weight", (long long)layer);
    s = &list[(*n)++];
    *s =
        (struct tensor_spec){ .part = PART_POST_NORM, .layer = layer, .n_dims = 1, .shape = { h } };
    snprintf(s->name, sizeof s->name, "model.layers.%lld.post_attention_layernorm.weight",
             (long long)layer);
    for (int i = 0; i < N_LINEARS; i++) {
        enum linear_name l = (enum linear_name)i;
        int64_t n_out, n_in;
        config_linear_shape(c, l, &n_out, &n_in);
        config_linear_module(c, layer, l, module, sizeof module);
        s = &list[(*n)++];
        *s = (struct tensor_spec){
            .part = PART_LINEAR, .layer = layer, .linear = l, .n_dims = 2, .shape = { n_out, n_in }
        };
        snprintf(s->name, sizeof s->name, "%s.weight", module);
        if (!config_linear_bias(c, l))
            continue;
        s = &list[(*n)++];
        *s = (struct tensor_spec){
            .part = PART_BIAS, .layer = layer, .linear = l, .n_dims = 1, .shape = { n_out }
        };
        snprintf(s->name, sizeof s->name, "%s.bias", module);
    }
}

size_t tensor_list(const struct config *c, struct tensor_spec **out)
{
    const int64_t v = c->vocab_size, h = c->hidden_size;
    struct tensor_spec *list =
        mem_array((size_t)c->n_layers * (2 + 2 * N_LINEARS) + 3, sizeof *list);
    size_t n = 0;

    list[n++] = (struct tensor_spec){ .name = "model.embed_tokens.weight",
                                      .part = PART_EMBED,
                                      .layer = -1,
                                      .n_dims = 2,
                                      .shape = { v, h } };
    for (int64_t layer = 0; layer < c->n_layers; layer++)
        add_layer(c, layer, list, &n);
    list[n++] = (struct tensor_spec){
        .name = "model.norm.weight", .part = PART_NORM, .layer = -1, .n_dims = 1, .shape = { h }
    };
    if (!c->tied)
        list[n++] = (struct tensor_spec){
            .name = "lm_head.weight", .part = PART_HEAD, .layer = -1, .n_dims = 2, .shape = { v, h }
        };
    *out = list;
    return n;
}
