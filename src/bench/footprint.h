/* footprint.h - bytes of a model by the definition of a deployment: everything that must stay
 * resident to compute with it, each tensor once, whoever owns it. */
#pragma once

#include "model/model.h"

/* Packed linears, embedding, head (unless it is the embedding), norms and biases. */
int64_t footprint_model_bytes(const struct model *m);
