/* point.c - see point.h. */
#include "bench/point.h"

#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"

#include <math.h>
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

/* Marks around the prompt and the steps: the device's own time, where it tells. */
static int put_mark(const struct point_run *run, int i, struct err *e)
{
    const struct backend_ops *ops = run->model->backend->ops;

    return ops->mark ? ops->mark(run->model->backend, i, e) : 0;
}

static int device_ms(const struct point_run *run, int from, int to, double *out, struct err *e)
{
    struct backend *b = run->model->backend;
    double seconds = NAN;

    if (b->ops->elapsed && b->ops->elapsed(b, from, to, &seconds, e) < 0)
        return -1;
    *out = 1e3 * seconds;
    return 0;
}

static int put_value(const struct point_run *run, const struct point *p, const int64_t at[3],
                     struct point_time *out, struct err *e)
{
    const double prompt_s = (double)(at[1] - at[0]) * 1e-9,
                 steps_s = (double)(at[2] - at[1]) * 1e-9;
    int from = 0, to = 2;

    switch (p->kind) {
    case PREFILL:
        out->seconds = prompt_s;
        out->value = 1e3 * prompt_s;
        to = 1;
        break;
    case DECODE:
        out->seconds = steps_s;
        out->value = 1e3 * steps_s / (double)p->n_steps;
        from = 1;
        break;
    case END_TO_END:
        out->seconds = prompt_s + steps_s;
        out->value = 1e3 * out->seconds;
        break;
    case THROUGHPUT:
        out->seconds = prompt_s + steps_s;
        out->value = (double)p->batch * (double)(p->n_steps + 1) / out->seconds;
        break;
    }
    return device_ms(run, from, to, &out->device_ms, e);
}

/* Fresh lists and an empty cache for p; free l->slots. */
static struct lists lists_of(const struct point_run *run, const struct point *p, int32_t **new_ids)
{
    int32_t *memory = mem_array((size_t)((4 + p->n_steps) * p->batch), sizeof *memory);
    const struct lists l = { memory, memory + p->batch, memory + 2 * p->batch,
                             memory + 3 * p->batch };

    *new_ids = memory + 4 * p->batch;
    for (int s = 0; s < p->batch; s++) {
        l.slots[s] = s;
        l.lengths[s] = (int32_t)p->prompt;
        kv_cache_drop(run->cache, s);
    }
    return l;
}

static int steps(const struct point_run *run, const struct point *p, const struct lists *l,
                 int32_t *new_ids, struct err *e)
{
    if (p->n_steps == 0)
        return 0;
    return forward_decode(run->forward, run->cache, p->batch, l->slots, l->next, (int)p->n_steps,
                          NULL, 0, new_ids, e);
}

int point_measure(const struct point_run *run, const struct point *p, struct point_time *out,
                  struct err *e)
{
    int32_t *ids = point_prompts(p, run->seed, run->model->config.vocab_size), *new_ids;
    const struct lists l = lists_of(run, p, &new_ids);
    int64_t at[3];
    int rc = -1;

    at[0] = clock_ns();
    if (put_mark(run, 0, e) < 0 || prompt_pass(run, p, &l, ids, e) < 0)
        goto out;
    at[1] = clock_ns();
    if (put_mark(run, 1, e) < 0 || steps(run, p, &l, new_ids, e) < 0)
        goto out;
    at[2] = clock_ns();
    if (put_mark(run, 2, e) < 0 || put_value(run, p, at, out, e) < 0)
        goto out;
    rc = 0;
out:
    free(ids);
    free(l.slots);
    return rc;
}

int point_repeat_steps(const struct point_run *run, const struct point *p,
                       bool (*more)(void *context, int64_t n_tokens), void *context, struct err *e)
{
    int32_t *ids = point_prompts(p, run->seed, run->model->config.vocab_size), *new_ids;
    const struct lists l = lists_of(run, p, &new_ids);
    int64_t n_tokens = 0;
    int rc = prompt_pass(run, p, &l, ids, e);

    while (rc == 0 && more(context, n_tokens)) {
        rc = steps(run, p, &l, new_ids, e);
        n_tokens += p->batch * p->n_steps;
        for (int s = 0; s < p->batch; s++)
            run->cache->length[s] = (int32_t)p->prompt;
    }
    free(ids);
    free(l.slots);
    return rc;
}

char *point_name(const struct point *p)
{
    static const char *const kinds[] = { "prefill", "decode", "e2e", "throughput" };
    struct bytes name = BYTES_INIT;

    bytes_printf(&name, "%s %lld", kinds[p->kind],
                 (long long)(p->kind == THROUGHPUT ? p->batch : p->prompt));
    return name.data;
}
