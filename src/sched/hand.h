/* hand.h - a rank's hold on its engine: gives it jobs, watches its time, replaces it when it is
 * lost.  What happens is told as messages (message.h), by the same names whether the manager is
 * on this rank or on another. */
#pragma once

#include "sched/engine.h"
#include "sched/message.h"

struct hand {
    struct engine *engine;
    double job_timeout_s;   /* 0: none */
    double setup_timeout_s; /* 0: none */
    int64_t kill_at_ns;     /* of what it does now; 0: never */
    bool timed_out, dropped;
    bool told;         /* it was given its setup */
    int64_t job;       /* it was given; -1: none */
    int n_setups_lost; /* one after the other */
    bool ready;        /* the engine is set up */
    bool failed;       /* it could not be, and ends */
};

#define HAND_INIT \
    {             \
        .job = -1 \
    }

/* Reading the weights of a large model from a slow file system may take longer than a job. */
#define HAND_SETUP_TIMEOUT_S 3600.0

struct hand_news {
    int kind;       /* MSG_READY, _RESULT, _LOST, _FAILED, _TELL, or 0: nothing */
    int64_t number; /* job, or err_code of MSG_FAILED */
    struct bytes bytes;
};

void hand_setup(struct hand *h, const void *setup, size_t n_bytes);
int hand_give(struct hand *h, int64_t job, const void *bytes, size_t n_bytes, struct err *e);
/* Ends its engine where it works on this job: another one that the job needs was lost.  MSG_LOST
 * follows. */
void hand_drop(struct hand *h, int64_t job);
/* Never blocks; news->bytes is owned by the caller. */
int hand_poll(struct hand *h, struct hand_news *news, struct err *e);
