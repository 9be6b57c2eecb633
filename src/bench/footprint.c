/* footprint.c - see footprint.h. */
#include "bench/footprint.h"

size_t footprint_embedding_bytes(const struct model *m)
{
    return m->embed.data ? tensor_bytes(&m->embed) : weight_bytes(&m->packed_embed);
}

bool footprint_is_tied(const struct model *m)
{
    return m->head.codes == (m->embed.data ? m->embed.data : m->packed_embed.codes);
}

int64_t footprint_model_bytes(const struct model *m)
{
    size_t sum = footprint_embedding_bytes(m) + tensor_bytes(&m->norm);

    if (!footprint_is_tied(m))
        sum += weight_bytes(&m->head);
    for (int64_t i = 0; i < m->config.n_layers; i++) {
        const struct layer *layer = &m->layers[i];
        sum += tensor_bytes(&layer->input_norm) + tensor_bytes(&layer->post_norm);
        for (int l = 0; l < N_LINEARS; l++)
            sum += weight_bytes(&layer->linear[l]) + tensor_bytes(&layer->bias[l]);
    }
    return (int64_t)sum;
}
