/* awq_see.h - inner to src/quant: what AWQ's searches know of the inputs of linears: for each input
 * how large it is on average, and some rows of them all.  In a group each member sees the rows of
 * its own shares, is told of the others', and so knows the same. */
#pragma once

#include "quant/calibrate.h"

/* Of the inputs of one set of linears. */
struct awq_seen {
    struct tensor sizes; /* device, F64 [CALIBRATION_SHARES, inputs]: sums of |x| */
    double *size;        /* host, [inputs]: of all shares */
    struct tensor rows;  /* device, of the model's dtype: the kept ones first */
};

struct awq_eye {
    struct calibration_run *run;
    int64_t stride;            /* a row in so many is kept */
    int64_t n_kept;            /* of all tokens */
    int32_t *chosen;           /* device, [max_rows]: those of a batch */
    const struct tensor *room; /* awq_eye_room() rows of the widest inputs in F32, lent */
};

int awq_eye_open(struct awq_eye *a, struct calibration_run *run, struct err *e);
void awq_eye_close(struct awq_eye *a);
int64_t awq_eye_room(const struct awq_eye *a);

int awq_seen_alloc(const struct awq_eye *a, int64_t width, struct awq_seen *out, struct err *e);
void awq_seen_release(const struct awq_eye *a, struct awq_seen *s);

/* One step of a layer with these weights.  every: also all the inputs, [n_own, inputs], if that has
 * memory.  An input that is not finite is refused. */
int awq_see(const struct awq_eye *a, int64_t layer, enum layer_step step,
            const struct weight *linear, struct awq_seen *seen, const struct tensor *every,
            struct err *e);
