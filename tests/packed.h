/* packed.h - all that a quantizer leaves in a model, as bytes. */
#pragma once

#include "base/memory.h"
#include "model/model.h"

#include <stdlib.h>

static inline int packed_part(struct backend *b, const void *at, size_t n, struct bytes *to,
                              struct err *e)
{
    char *bytes = mem_array(n + 1, 1);
    int rc = n ? b->ops->download(b, bytes, at, n, e) : 0;

    if (rc == 0)
        bytes_add(to, bytes, n);
    free(bytes);
    return rc;
}

/* Codes, scales, zero points and orders of the linears, and the norms, behind what is in *to. */
static inline int packed_bytes(const struct model *m, struct bytes *to, struct err *e)
{
    struct backend *b = m->backend;

    for (int64_t i = 0; i < m->config.n_layers; i++) {
        const struct layer *layer = &m->layers[i];

        for (int l = 0; l < N_LINEARS; l++) {
            const struct weight *w = &layer->linear[l];
            const size_t order = w->g_idx ? (size_t)w->n_in * sizeof *w->g_idx : 0;

            if (packed_part(b, w->codes, weight_codes_bytes(w), to, e) < 0 ||
                packed_part(b, w->scales, weight_scales_bytes(w), to, e) < 0 ||
                packed_part(b, w->scales2, weight_scales2_bytes(w), to, e) < 0 ||
                packed_part(b, w->zeros, weight_zeros_bytes(w), to, e) < 0 ||
                packed_part(b, w->g_idx, order, to, e) < 0)
                return -1;
            bytes_add(to, &w->nested_offset, sizeof w->nested_offset);
        }
        if (packed_part(b, layer->input_norm.data, tensor_bytes(&layer->input_norm), to, e) < 0 ||
            packed_part(b, layer->post_norm.data, tensor_bytes(&layer->post_norm), to, e) < 0)
            return -1;
    }
    return 0;
}
