/* point.c - see point.h. */
#include "bench/point.h"

#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"

#include <stdio.h>
#include <stdlib.h>

int point_list(const struct bench_options *o, struct point points[POINTS_MAX])
{
    int n = 0;

    for (int i = 0; i < o->n_prefill; i++)
        points[n++] = (struct point){
            .kind = PREFILL, .batch = 1, .prompt = o->prefill_tokens[i], .index = i
        };
    points[n++] = (struct point){
        .kind = DECODE, .batch = 1, .prompt = o->prefill_tokens[0], .n_steps = o->decode_tokens
    };
    points[n++] = (struct point){
        .kind = END_TO_END, .batch = 1, .prompt = END_TO_END_PROMPT, .n_steps = END_TO_END_NEW - 1
    };
    for (int i = 0; i < o->n_batch; i++)
        points[n++] = (struct point){ .kind = THROUGHPUT,
                                      .batch = o->batch_sizes[i],
                                      .prompt = THROUGHPUT_PROMPT,
                                      .n_steps = o->decode_tokens - 1,
                                      .index = i };
    return n;
}

int64_t point_capacity(const struct point *p)
{
    return p->prompt + p->n_steps;
}

int64_t point_rows(const struct point *p)
{
    if (p->batch > 1)
        return p->batch * p->prompt;
    return p->prompt < PROMPT_ROWS_MAX ? p->prompt : PROMPT_ROWS_MAX;
}

int point_check(const struct point *p, int64_t max_position, struct err *e)
{
    static const char *const what[] = {
        [PREFILL] = "benchmark.prefill_tokens = %lld",
        [DECODE] = "benchmark.prefill_tokens[0] + decode_tokens = %lld",
        [END_TO_END] = "benchmark: its end-to-end measure takes %lld positions, that",
        [THROUGHPUT] = "benchmark: 16 + decode_tokens - 1 = %lld",
    };
    char text[128];

    if (point_capacity(p) <= max_position)
        return 0;
    snprintf(text, sizeof text, what[p->kind], (long long)point_capacity(p));
    return err_set(e, ERR_USAGE, "%s is beyond the model's %lld positions", text,
                   (long long)max_position);
}

/* ---- one run ---- */

int32_t *point_prompts(const struct point *p, int64_t seed, int64_t vocab_size)
{
    int32_t *ids = mem_array((size_t)(p->batch * p->prompt), sizeof *ids);

    for (int64_t s = 0; s < p->batch; s++)
        for (int64_t i = 0; i < p->prompt; i++) {
            uint64_t index = (uint64_t)p->kind << 60 | (uint64_t)s << 32 | (uint64_t)i;
            ids[s * p->prompt + i] =
                (int32_t)rng_below((uint64_t)seed, RNG_PROMPTS, index, (uint64_t)vocab_size);
        }
    return ids;
}

/* What the passes of one run read and write; lists of p->batch elements. */
struct lists {
    int32_t *slots, *counts, *lengths, *next;
};

/* The prompts, in pieces; l->next receives the ids that come out. */
static int prompt_pass(const struct point_run *run, const struct point *p, const struct lists *l,
                       const int32_t *ids, struct err *e)
{
    int64_t rows = p->batch > 1 ? p->prompt : point_rows(p);
    struct forward_out out = { .next_ids = l->next };

    for (int64_t at = 0; at < p->prompt; at += rows) {
        int64_t n = p->prompt - at < rows ? p->prompt - at : rows;
        struct batch batch = { .phase = PHASE_PROMPT,
                               .n_seqs = p->batch,
                               .slot = l->slots,
                               .n_tokens = l->counts,
                               .ids = ids + at,
                               .length = l->lengths };

        for (int s = 0; s < p->batch; s++)
            l->counts[s] = (int32_t)n;
        if (forward_run(run->forward, run->cache, &batch, WANT_LAST_ARGMAX, NULL, 0, &out, e) < 0)
            return -1;
    }
    /* A model broken by quantization gives no id; its speed is that of any other. */
    for (int s = 0; s < p->batch; s++)
        if (l->next[s] < 0)
            l->next[s] = 0;
    return 0;
}

static void put_value(const struct point *p, const int64_t at[3], double *value, double *seconds)
{
    const double prompt_s = (double)(at[1] - at[0]) * 1e-9,
                 steps_s = (double)(at[2] - at[1]) * 1e-9;

    switch (p->kind) {
    case PREFILL:
        *seconds = prompt_s;
        *value = 1e3 * prompt_s;
        break;
    case DECODE:
        *seconds = steps_s;
        *value = 1e3 * steps_s / (double)p->n_steps;
        break;
    case END_TO_END:
        *seconds = prompt_s + steps_s;
        *value = 1e3 * *seconds;
        break;
    case THROUGHPUT:
        *seconds = prompt_s + steps_s;
        *value = (double)p->batch * (double)(p->n_steps + 1) / *seconds;
        break;
    }
}

int point_measure(const struct point_run *run, const struct point *p, double *value,
                  double *seconds, struct err *e)
{
    int32_t *ids = point_prompts(p, run->seed, run->model->config.vocab_size);
    int32_t *memory = mem_array((size_t)((4 + p->n_steps) * p->batch), sizeof *memory);
    const struct lists l = { memory, memory + p->batch, memory + 2 * p->batch,
                             memory + 3 * p->batch };
    int32_t *new_ids = memory + 4 * p->batch;
    int64_t at[3];
    int rc = -1;

    for (int s = 0; s < p->batch; s++) {
        l.slots[s] = s;
        l.lengths[s] = (int32_t)p->prompt;
        kv_cache_drop(run->cache, s);
    }
    at[0] = clock_ns();
    if (prompt_pass(run, p, &l, ids, e) < 0)
        goto out;
    at[1] = clock_ns();
    if (p->n_steps && forward_decode(run->forward, run->cache, p->batch, l.slots, l.next,
                                     (int)p->n_steps, NULL, 0, new_ids, e) < 0)
        goto out;
    at[2] = clock_ns();
    put_value(p, at, value, seconds);
    rc = 0;
out:
    free(ids);
    free(memory);
    return rc;
}
