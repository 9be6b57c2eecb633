/* answers.cuh - what queued calls have to tell the host, which hears it at the next wait: the
 * verdict and the offset of a quantization, the sums of a comparison.
 *
 * A call that owes an answer takes a slot, 16 bytes on the device that hold all ones, and has its
 * kernels write there.  One download brings all slots.  */
#pragma once

#include "common.cuh"

union cuda_answer {
    struct {
        unsigned long long refused_from; /* first weight of a group that cannot be quantized */
        float offset;
    } quantized;
    double sums[2];
};

int cuda_answers_open(struct cuda_state *s, struct err *e);
void cuda_answers_close(struct cuda_state *s);

/* A slot; where all are taken, waits for what is under way. */
int cuda_answer_quantized(struct cuda_state *s, const struct quantize_args *a,
                          const struct weight *w, union cuda_answer **slot, struct err *e);
/* The slot taken last is not needed: its call failed. */
void cuda_answer_withdraw(struct cuda_state *s);
int cuda_answer_sums(struct cuda_state *s, double out[2], union cuda_answer **slot, struct err *e);

/* A failure that nobody waits for yet: the next wait tells the first of them. */
void cuda_fail_later(struct cuda_state *s, const struct err *e);
