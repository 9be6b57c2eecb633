/* hand.h - a rank's hold on its engine: gives it jobs, watches its time, replaces it when it is
 * lost.  What happens is told as messages (message.h), by the same names whether the manager is
 * on this rank or on another. */
#pragma once

#include "sched/engine.h"
#include "sched/message.h"

struct hand {
    struct engine *engine;
    double job_timeout_s; /* 0: none */
    int64_t kill_at_ns;   /* of the running job; 0: none runs */
    bool timed_out;
    bool ready;  /* the engine is set up */
    bool failed; /* it could not be, and ends */
};

struct hand_news {
    int kind;       /* MSG_READY, _RESULT, _LOST, _TIMED_OUT, _FAILED, _TELL, or 0: nothing */
    int64_t number; /* job, or err_code of MSG_FAILED */
    struct bytes bytes;
};

int hand_give(struct hand *h, int64_t job, const void *bytes, size_t n_bytes, struct err *e);
/* Never blocks; news->bytes is owned by the caller. */
int hand_poll(struct hand *h, struct hand_news *news, struct err *e);
