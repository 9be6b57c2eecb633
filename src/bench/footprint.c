/* footprint.c - see footprint.h. */
#include "bench/footprint.h"

int64_t footprint_model_bytes(const struct model *m)
{
    size_t sum = tensor_bytes(&m->embed) + tensor_bytes(&m->norm);

    if (m->head.codes != m->embed.data)
        sum += weight_bytes(&m->head);
    for (int64_t i = 0; i < m->config.n_layers; i++) {
        const struct layer *layer = &m->layers[i];
        sum += tensor_bytes(&layer->input_norm) + tensor_bytes(&layer->post_norm);
        for (int l = 0; l < N_LINEARS; l++)
            sum += weight_bytes(&layer->linear[l]) + tensor_bytes(&layer->bias[l]);
    }
    return (int64_t)sum;
}
