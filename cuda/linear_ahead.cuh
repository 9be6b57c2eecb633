/* linear_ahead.cuh - inner to cuda/: packed weights of the layer to come, made plain beside the
 * products of this one.
 *
 * Long products keep the tensor cores busy and leave memory and the other units idle: two warps of
 * each of their blocks that have nothing to do make the next layer's weights plain meanwhile.  The
 * caller says what comes next; what was not made in time, or cannot be made so, is made when it is
 * asked for.  */
#pragma once

#include "common.cuh"

struct gemm_args;

struct linear_ahead_entry {
    struct weight w;
    uint16_t *out; /* [n_out, n_in] of type t */
    enum dtype t;
    int64_t n_chunks, done; /* of 8 rows by 128 columns */
};

#define AHEAD_MAX 8

/* Of this layer and of the next, in the two halves of one scratch slot. */
struct linear_ahead {
    struct linear_ahead_entry now[AHEAD_MAX], next[AHEAD_MAX];
    int n_now, n_next, half;
    uint64_t n_taken; /* the state's when `out` was taken */
};

/* A slice of what is next, as long as a product with these weights lets it be made. */
void linear_ahead_take(struct cuda_state *s, struct gemm_args *g);
/* The plain rows of w, all of them; NULL: there are none. */
int linear_ahead_find(struct cuda_state *s, const struct weight *w, enum dtype t, const void **out,
                      struct err *e);
