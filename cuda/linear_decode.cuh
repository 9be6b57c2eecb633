/* linear_decode.cuh - products of the decode phase: y = x W^T + bias for 1 to 64 rows of x, with
 * what comes before (the norm) and after (residual, SwiGLU, the greedy id) in the same launch.
 *
 * A row has the same bits in any batch, in any of these epilogues and whichever kernel runs:
 * K is cut into eight parts of whole chunks, each part is one chain of m16n8k16 products over
 * k = 0, 32, 64, ... (in each step elements 8 t .. 8 t + 3 of t = 0 .. 3, then 8 t + 4 .. 8 t + 7),
 * and the eight sums are added in order.
 *
 * Weights in codes are multiplied without their scale, as table[code] or code - zero point rounded
 * to the compute dtype (exact but for tables and zero points that are no integers).  A chain then
 * is a run, 64 columns or 32 where groups are, from zero; the part's sum is fma(scale, run, sum),
 * run after run, with the scale in fp32.  */
#pragma once

#if defined(__CUDACC__)
#include "overlap.cuh"
#else
#include "backend/backend.h"
#endif
#include "step_share.cuh"

#define DECODE_ROWS_MAX 64

enum decode_epilogue {
    DECODE_STORE,  /* y = T(sum + bias) */
    DECODE_ADD,    /* residual = T(residual + T(sum + bias)) */
    DECODE_SWIGLU, /* y[0] = T(T(silu(gate)) * up) of parts gate and up */
    DECODE_LOGITS, /* y = sum + bias in fp32 */
    DECODE_ARGMAX  /* the best of the logits that a block has seen */
};

/* Ids of decode_best that are none. */
#define DECODE_NONE -1 /* nothing was allowed */
#define DECODE_NAN  -2 /* a NaN was seen */

struct decode_best {
    float value;
    int32_t id;
};

struct decode_linear {
    enum decode_epilogue epilogue;
    int n_parts; /* products of one x: q, k, v: 3; gate, up: 2 */
    const struct weight *w[3];
    const struct tensor *bias[3];     /* NULL: none */
    void *y[3];                       /* [n_rows, n_out of the part], model dtype; LOGITS: fp32 */
    const void *x;                    /* [n_rows, K], model dtype, 16-aligned */
    const struct tensor *norm_weight; /* not NULL: x is normed first */
    float eps;
    void *residual;           /* ADD: [n_rows, n_out], model dtype, in place */
    struct decode_best *best; /* ARGMAX: [cuda_linear_decode_blocks()][n_rows] */
    int first_id;             /* ARGMAX: of row 0 of w */
    const int32_t *forbidden; /* device */
    int n_forbidden;
    enum dtype model, compute;
    int64_t n_rows;
    void *room; /* cuda_linear_decode_room() bytes, 16-aligned; NULL: the state's scratch, which may
                   move: not for a launch that is captured */
    int x_eights; /* x is an image (decode_image.cuh) of as many eights of rows; 0: rows */
    int y_eights; /* SWIGLU: y[0] is to be one, 16-aligned */
    struct step_share share; /* n > 0: what ADD leaves goes there, beside the residual, or what
                                SWIGLU does, instead of y[0]; where cuda_linear_decode_shares().
                                STORE exchanges nothing, and takes the kernel of those that do */
};

struct cuda_state; /* a backend's `state` */

#if defined(__cplusplus)
extern "C" {
#endif
/* Whether the kernels know these weights and shapes (n_rows of 1 to 64 does not matter); else the
 * general path. */
bool cuda_linear_decode_fits(const struct decode_linear *a);
/* Of working memory; may be 0. */
size_t cuda_linear_decode_room(const struct decode_linear *a);
/* Of rows, if x can be an image: neither normed nor converted then; else 0. */
int cuda_linear_decode_eights(struct cuda_state *s, const struct decode_linear *a);
/* Whether SwiGLU can be made one. */
bool cuda_linear_decode_leaves_image(struct cuda_state *s, const struct decode_linear *a);
/* Whether the launch has a kernel for a step that GPUs share. */
bool cuda_linear_decode_shares(struct cuda_state *s, const struct decode_linear *a);
/* Of the grid: how many candidates a row has after ARGMAX. */
int cuda_linear_decode_blocks(struct cuda_state *s, const struct decode_linear *a);
/* On s->stream; may be captured. */
int cuda_linear_decode(struct cuda_state *s, const struct decode_linear *a, struct err *e);
#if defined(__cplusplus)
}
#endif

#if defined(__CUDACC__)
/* Larger wins, the lower id among equals, NaN over all. */
__device__ inline struct decode_best better_of(struct decode_best a, struct decode_best b)
{
    if (a.id == DECODE_NAN || b.id == DECODE_NONE)
        return a;
    if (b.id == DECODE_NAN || a.id == DECODE_NONE)
        return b;
    return b.value > a.value || (b.value == a.value && b.id < a.id) ? b : a;
}
#endif
