/* calibrate.h - inner to src/quant: the calibration sequences through the model, a layer at a time.
 *
 * What a layer is given and what attention gives stay on the device for all tokens; everything
 * else of a layer lives for one batch of sequences.  A step computes one input of the layer's
 * linears and hands it out, batch after batch in order; weights may be replaced between steps.  */
#pragma once

#include "quant/method.h"

enum layer_step {
    STEP_QKV,  /* input of q, k, v: the normed stream         */
    STEP_O,    /* of o: what attention gives; kept            */
    STEP_MLP,  /* of gate and up: after the first residual    */
    STEP_DOWN, /* of down: silu(gate) * up                    */
    STEP_OUT,  /* the stream after the layer; its last product's input is seen */
    /* Outputs of modules on what the steps above have left; nothing is kept. */
    STEP_ATTENTION_OUTPUT, /* o(attention(q, k, v))          */
    STEP_O_OUTPUT,         /* o, on attention's kept output   */
    STEP_MLP_OUTPUT        /* down(silu(gate) * up)           */
};

/* The rows of some sequences of an input of linears; how many come together depends on the memory,
 * so what is summed is summed by sequence.  -1 ends the run. */
typedef int tap_fn(void *context, const struct tensor *x, const struct segments *s, struct err *e);

struct calibration_run {
    struct backend *b;
    const struct model *m; /* config, dtypes, embedding, norms, biases */
    const struct quant_calibration *ids;
    int64_t n_tokens, longest, max_rows;
    struct tensor x, attended, after; /* [n_tokens, ..]: in, attention's, after attention */
    struct tensor side, pool, up;     /* a batch's */
    struct tensor cos_table, sin_table, k_cache, v_cache;
    int32_t *numbers;      /* device, [2 * max_rows]: slot, position */
    int32_t *host_numbers; /* the same */
    int32_t *first_row;    /* host, [n_seqs + 1] */
    int max_seqs;
};

int calibration_run_open(struct calibration_run *c, const struct model *m,
                         const struct quant_calibration *ids, struct err *e);
void calibration_run_close(struct calibration_run *c);

/* One step of layer i with these weights [N_LINEARS].  tap may be NULL. */
int calibration_step(struct calibration_run *c, int64_t i, enum layer_step step,
                     const struct weight *linear, tap_fn *tap, void *context, struct err *e);
