/* tensor_list.h - the tensors a checkpoint of a configuration holds: names and shapes in the
 * order of the model. */
#pragma once

#include "model/config.h"

enum tensor_part {
    PART_EMBED,
    PART_INPUT_NORM, /* this and the next four belong to a layer */
    PART_POST_NORM,
    PART_LINEAR,
    PART_BIAS,
    PART_NORM,
    PART_HEAD /* absent when tied */
};

struct tensor_spec {
    char name[96];
    enum tensor_part part;
    int64_t layer; /* -1 outside the layers */
    enum linear_name linear;
    int n_dims;
    int64_t shape[2]; /* [rows, columns]; [rows] for norms and biases */
};

/* *out is malloc'ed; the number of tensors. */
size_t tensor_list(const struct config *c, struct tensor_spec **out);
