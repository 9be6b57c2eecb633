/* point.h - inner to src/bench: what is measured, one point at a time.
 *
 *   PREFILL     P tokens, batch 1, launch to the first new token on the host        ms
 *   DECODE      N more tokens with P in the cache, batch 1                          ms a token
 *   END_TO_END  a prompt of 4, then 128 new tokens, batch 1                         ms
 *   THROUGHPUT  B prompts of 16, then N new tokens each: B * N / (launch to last)   tokens/s
 *
 * The first new token comes out of the prompt's pass, so n new tokens take n - 1 steps; DECODE
 * starts behind it and takes N.  End-of-sequence tokens are tokens like any other. */
#pragma once

#include "bench/bench.h"

#define END_TO_END_PROMPT 4
#define END_TO_END_NEW    128
#define THROUGHPUT_PROMPT 16
/* Longer prompts go through in pieces of this many rows. */
#define PROMPT_ROWS_MAX 2048

enum point_kind { PREFILL, DECODE, END_TO_END, THROUGHPUT };

/* The device while a point was measured. */
struct point_watch {
    int n;                                /* times it was looked at; 0: it does not tell */
    double looked_s;                      /* last time */
    double before_mhz, after_mhz;         /* its clock behind the warm-up, at the end */
    double least_mhz, most_mhz;           /* in all of it */
    double temperature_c;                 /* the highest */
    char before_limits[128], limits[128]; /* what held the clock down, before and at the end */
};

struct point {
    enum point_kind kind;
    int batch;
    int64_t prompt;  /* tokens a sequence */
    int64_t n_steps; /* after the prompt's pass */
    int index;       /* in prefill_tokens or batch_sizes */

    /* Measured. */
    double *sample;    /* [n_samples], in the unit above */
    double *device_ms; /* [n_samples]: what the device itself took; NaN: it does not tell */
    int n_samples, room;
    double measured_s, warmup_s;
    int n_warmup;
    struct point_watch watch;
};

#define POINTS_MAX (2 * BENCH_LIST_MAX + 2)

/* The points of o in the order they are measured; their number. */
int point_list(const struct bench_options *o, struct point points[POINTS_MAX]);
/* Refuses a point that is longer than the model's positions, saying which setting to change. */
int point_check(const struct point *p, int64_t max_position, struct err *e);

char *point_name(const struct point *p);       /* "prefill 512", malloc'ed */
int64_t point_rows(const struct point *p);     /* of its largest pass */
int64_t point_capacity(const struct point *p); /* tokens a cache slot holds in the end */

/* Prompts of p: uniform over the vocabulary, another one for each sequence, the same for each
 * repeat.  [batch, prompt], malloc'ed. */
int32_t *point_prompts(const struct point *p, int64_t seed, int64_t vocab_size);

/* Buffers that points share.  Lifetime: one benchmark. */
struct point_run {
    const struct model *model;
    struct forward *forward;
    struct kv_cache *cache; /* at least point's batch and capacity */
    int64_t seed;
};

struct point_time {
    double value;   /* in the point's unit */
    double seconds; /* what was inside the clock */
    double device_ms;
};

/* Runs p once. */
int point_measure(const struct point_run *run, const struct point *p, struct point_time *out,
                  struct err *e);

/* The steps of p again and again behind one prompt, until more() says no; it is told how many
 * tokens there were so far. */
int point_repeat_steps(const struct point_run *run, const struct point *p,
                       bool (*more)(void *context, int64_t n_tokens), void *context, struct err *e);
