/* calibrate.h - inner to src/quant: the calibration sequences through the model, a layer at a time.
 *
 * What a layer is given and what attention gives stay on the device for all tokens; everything
 * else of a layer lives for one batch of sequences.  A step computes one input of the layer's
 * linears and hands it out, batch after batch in order; weights may be replaced between steps.
 *
 * However many devices there are, the sequences are cut into CALIBRATION_SHARES shares.  What is
 * summed is summed by share, then the shares' sums are added in a fixed order: so a group of
 * devices, each of which runs the sequences of its own shares, comes to the bits of one. */
#pragma once

#include "quant/method.h"

#define CALIBRATION_SHARES 8 /* groups are of 2, 4 or 8 */

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
 * so what is summed is summed by sequence.  All are of one share, run.share.  -1 ends the run. */
typedef int tap_fn(void *context, const struct tensor *x, const struct segments *s, struct err *e);

struct calibration_run {
    struct backend *b;
    const struct model *m; /* config, dtypes, embedding, norms, biases */
    const struct quant_calibration *ids;
    int64_t n_tokens, longest;                 /* of all sequences */
    int64_t share_seq[CALIBRATION_SHARES + 1]; /* the first sequence of each share */
    int n_sharing;                             /* members that have shares of their own; 1: alone */
    int first_share, n_shares;                 /* this member's */
    int64_t first_token, n_own;                /* their tokens */
    int share;                                 /* the one that runs */
    int64_t max_rows;                          /* of a batch */
    struct tensor x, attended, after;          /* [n_own, ..]: in, attention's, after attention */
    bool keeps_attended;                       /* else `after` lies where it was, if that fits */
    struct tensor side, pool, up;              /* a batch's */
    struct tensor cos_table, sin_table, k_cache, v_cache;
    int32_t *numbers;      /* device, [2 * max_rows]: slot, position */
    int32_t *host_numbers; /* the same */
    int32_t *first_row;    /* host, [n_seqs + 1] */
    int n_filled;          /* sequences of which the numbers are there */
    int max_seqs;
};

/* outputs: STEP_O_OUTPUT will be asked for, so what attention gives outlives STEP_MLP. */
int calibration_run_open(struct calibration_run *c, const struct model *m,
                         const struct quant_calibration *ids, bool outputs, struct err *e);
void calibration_run_close(struct calibration_run *c);

/* Rows at .. at + n - 1. */
static inline struct tensor rows_from(const struct tensor *all, int64_t at, int64_t n)
{
    struct tensor out = *all;

    out.data = (char *)all->data + (size_t)(at * all->n_cols) * dtype_bytes(all->dtype);
    out.n_rows = n;
    return out;
}

/* Are there sequences in n shares from `first` on? */
bool calibration_some(const struct calibration_run *c, int first, int n);
/* First token of a share; CALIBRATION_SHARES: n_tokens. */
int64_t calibration_token(const struct calibration_run *c, int share);

/* One step of layer i with these weights [N_LINEARS], for one of this member's shares, begun; for
 * all of them, done.  tap may be NULL. */
int calibration_share(struct calibration_run *c, int share, int64_t i, enum layer_step step,
                      const struct weight *linear, tap_fn *tap, void *context, struct err *e);
int calibration_wait(struct calibration_run *c, int64_t i, struct err *e);
int calibration_step(struct calibration_run *c, int64_t i, enum layer_step step,
                     const struct weight *linear, tap_fn *tap, void *context, struct err *e);

/* The sum of a number of each share, in order: those of the own shares are there, the others'
 * come in. */
int calibration_add_up(struct calibration_run *c, double of[CALIBRATION_SHARES], double *sum,
                       struct err *e);
