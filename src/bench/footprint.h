/* footprint.h - bytes of a model by the definition of a deployment: everything that must stay
 * resident to compute with it, each tensor once, whoever owns it. */
#pragma once

#include "model/model.h"

/* The head is the embedding, in the same bytes. */
bool footprint_is_tied(const struct model *m);
size_t footprint_embedding_bytes(const struct model *m);
/* Packed linears, embedding, head (unless it is the embedding), norms and biases. */
int64_t footprint_model_bytes(const struct model *m);
