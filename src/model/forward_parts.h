/* forward_parts.h - inner to the forward pass: its working memory, and the parts that have a
 * file of their own. */
#pragma once

#include "model/model.h"

/* Working memory.  The attention half and the MLP half of a layer take turns in one pool:
 *
 *   pool   q | k | v                then   gate | up
 *          (o_proj's output in q's place)
 *   side   normed rows, then attention's output, then down_proj's output
 *
 * Where the model is a part of one, what an operation gives is that part, in `part`, until the
 * parts are brought together; the pool holds gate | up | the whole of their product.  */
#define HEAD_ROWS_MAX 256 /* rows of logits at a time, at most */

struct forward {
    const struct model *model;
    int64_t max_rows;
    int max_seqs;
    int64_t head_rows; /* rows of logits at a time */

    struct tensor x;           /* [R, D]: the residual stream */
    void *side, *pool, *part;  /* device; part: NULL where the model is whole */
    struct tensor last;        /* [head_rows, D] */
    struct tensor logits;      /* fp32 [head_rows, V] */
    float *nll;                /* device, [R] */
    int32_t *numbers;          /* device, [N_NUMBERS * R] */
    int32_t *next, *forbidden; /* device, [max_seqs or head_rows], [n_forbidden_max] */
    int n_forbidden_max;

    struct tensor cos_table, sin_table; /* fp32 [n_table + n_extra, E/2] */
    int64_t n_table;                    /* positions 0 .. n_table-1 of the common frequencies */
    int64_t n_extra;                    /* rows behind them, ROPE_DYNAMIC alone: [R] */

    int32_t *host_numbers; /* [N_NUMBERS * R]: filled for a batch, then uploaded in one piece */
    int32_t *first_row;    /* host, [max_seqs + 1] */
};

/* What a batch says about each of its rows. */
enum number { NUMBER_ID, NUMBER_SLOT, NUMBER_POSITION, NUMBER_TABLE_ROW, N_ROW_NUMBERS };
/* Behind them: the rows that the head looks at, and their targets. */
enum { NUMBER_WANTED = N_ROW_NUMBERS, NUMBER_TARGET, N_NUMBERS };

size_t rope_part_bytes(const struct model *m, int64_t max_rows);
int rope_part_open(struct forward *f, struct err *e);
/* Table rows of the batch's rows into host_numbers; makes and uploads what is missing. */
int rope_part_prepare(struct forward *f, const struct kv_cache *c, const struct batch *batch,
                      struct err *e);

/* Tables of at least n common rows. */
int rope_part_extend(struct forward *f, int64_t n, struct err *e);

/* Slots and their room, and how many rows that makes; then the ids of so many rows. */
int forward_check(const struct forward *f, const struct kv_cache *c, const struct batch *batch,
                  int64_t *n_rows, struct err *e);
int forward_check_ids(const struct forward *f, const int32_t *ids, int64_t n_rows, struct err *e);

/* The list to f->forbidden. */
int head_upload_forbidden(struct forward *f, const int32_t *ids, int n, struct err *e);
/* After a pass: lists every row that has a next id, as WANT_NLL does, on the device, too; how many.
 * Then the logits of the listed rows first .. first + n - 1 into `logits`, by way of `last`, where
 * they stand normed.  Both: room for n rows; n <= head_rows where the head is LLM.int8's. */
int64_t head_list_rows(struct forward *f, const struct batch *batch, struct err *e);
int head_logits(struct forward *f, enum phase phase, int64_t first, int64_t n, struct tensor *last,
                struct tensor *logits, struct err *e);
/* From the residual stream of n_rows rows to what is wanted. */
int head_run(struct forward *f, const struct batch *batch, int64_t n_rows, enum want want,
             const int32_t *forbidden, int n_forbidden, struct forward_out *out, struct err *e);
