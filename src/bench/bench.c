/* bench.c - the protocol: memory of each point alone, warm-up, then rounds in which every point
 * is measured once, so that a drifting clock rate does not look like a difference between them
 * (eval-and-model facts 7.3). */
#include "bench/bench.h"

#include "base/log.h"
#include "base/memory.h"
#include "base/stats.h"
#include "bench/footprint.h"
#include "bench/point.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* A median that still moves by more than this wants more samples ... */
#define STABLE 0.02
/* ... but no more than this many times the minima: a noisy host never gets there. */
#define PATIENCE 3

/* ---- memory ---- */

struct memory {
    int64_t cache_bytes, scratch_bytes;
};

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* Runs p with buffers of its own and reads from the account what that took. */
static int measure_memory(const struct model *m, const struct point *p, int64_t seed,
                          struct memory *out, struct err *e)
{
    struct mem_account *account = &m->backend->mem, before = *account;
    struct kv_cache cache = { 0 };
    struct point_run run = { .model = m, .cache = &cache, .seed = seed };
    double value, seconds;
    int rc = -1;

    mem_account_reset_peak(m->backend);
    if (kv_cache_open(&cache, m, p->batch, point_capacity(p), e) < 0 ||
        forward_open(&run.forward, m, point_rows(p), p->batch, e) < 0 ||
        point_measure(&run, p, &value, &seconds, e) < 0)
        goto out;
    out->cache_bytes = (int64_t)(account->peak[MEM_CACHE] - before.now[MEM_CACHE]);
    out->scratch_bytes = (int64_t)(account->peak[MEM_SCRATCH] - before.now[MEM_SCRATCH]);
    rc = 0;
out:
    forward_close(run.forward);
    kv_cache_close(&cache);
    for (int tag = 0; tag < MEM_N_TAGS; tag++)
        account->peak[tag] = larger(account->peak[tag], before.peak[tag]);
    account->job_peak = larger(account->job_peak, before.job_peak);
    return rc;
}

static bool needs_more(const struct memory *a, const struct memory *b)
{
    return a->cache_bytes + a->scratch_bytes > b->cache_bytes + b->scratch_bytes;
}

static int memory_of_largest(const struct model *m, const struct bench_options *o,
                             const struct point *points, int n, struct js *out, struct err *e)
{
    struct memory most = { 0 };

    for (int i = 0; i < n; i++) {
        struct memory one;
        if (measure_memory(m, &points[i], o->seed, &one, e) < 0)
            return -1;
        if (needs_more(&one, &most))
            most = one;
    }
    struct js *memory = js_new_object();
    js_set_int(memory, "kv_cache_bytes", most.cache_bytes);
    js_set_int(memory, "scratch_bytes", most.scratch_bytes);
    js_set_int(memory, "peak_bytes",
               footprint_model_bytes(m) + most.cache_bytes + most.scratch_bytes);
    js_set(out, "memory", memory);
    return 0;
}

int64_t bench_peak_bytes(const struct config *c, enum dtype t, const struct bench_options *o,
                         int64_t model_bytes)
{
    struct model shape = { .config = *c, .dtype = t, .compute = t };
    struct point points[POINTS_MAX];
    struct memory most = { 0 };
    int n = point_list(o, points);

    for (int i = 0; i < n; i++) {
        const struct point *p = &points[i];
        struct memory one = {
            .cache_bytes = (int64_t)kv_cache_bytes(&shape, p->batch, point_capacity(p)),
            .scratch_bytes = (int64_t)forward_bytes(&shape, point_rows(p), p->batch),
        };
        if (needs_more(&one, &most))
            most = one;
    }
    return model_bytes + most.cache_bytes + most.scratch_bytes;
}

/* ---- buffers of the timed runs ---- */

/* Points of batch 1 share one cache, the batched ones another; all share one forward pass. */
struct buffers {
    struct kv_cache single, batched;
    struct forward *forward;
};

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

static int open_buffers(const struct model *m, const struct point *points, int n,
                        struct buffers *out, struct err *e)
{
    int64_t rows = 1, single = 1, batched = 1, batch = 1;

    *out = (struct buffers){ 0 };
    for (int i = 0; i < n; i++) {
        const struct point *p = &points[i];
        rows = most(rows, point_rows(p));
        batch = most(batch, p->batch);
        if (p->kind == THROUGHPUT)
            batched = most(batched, point_capacity(p));
        else
            single = most(single, point_capacity(p));
    }
    if (kv_cache_open(&out->single, m, 1, single, e) < 0 ||
        kv_cache_open(&out->batched, m, (int)batch, batched, e) < 0)
        return -1;
    return forward_open(&out->forward, m, rows, (int)batch, e);
}

static void close_buffers(struct buffers *b)
{
    forward_close(b->forward);
    kv_cache_close(&b->single);
    kv_cache_close(&b->batched);
}

/* ---- time ---- */

static int measure(const struct model *m, struct buffers *b, const struct bench_options *o,
                   const struct point *p, double *value, double *seconds, struct err *e)
{
    struct point_run run = { .model = m,
                             .forward = b->forward,
                             .seed = o->seed,
                             .cache = p->kind == THROUGHPUT ? &b->batched : &b->single };

    return point_measure(&run, p, value, seconds, e);
}

static int warm_up(const struct model *m, struct buffers *b, const struct bench_options *o,
                   const struct point *p, struct err *e)
{
    double spent = 0, value, seconds;

    for (int i = 0; i < o->warmup || spent < o->warmup_seconds; i++) {
        if (measure(m, b, o, p, &value, &seconds, e) < 0)
            return -1;
        spent += seconds;
    }
    return 0;
}

static void keep(struct point *p, double value, double seconds)
{
    if (p->n_samples == p->room) {
        p->room = p->room ? 2 * p->room : 64;
        p->sample = mem_grow(p->sample, (size_t)p->room, sizeof *p->sample);
    }
    p->sample[p->n_samples++] = value;
    p->measured_s += seconds;
}

/* Did the last quarter of the samples leave the median where it was? */
static bool is_stable(const struct point *p)
{
    int before = p->n_samples - (p->n_samples + 3) / 4;
    double now = stats_median(p->sample, p->n_samples);

    return before > 0 && fabs(now - stats_median(p->sample, before)) <= STABLE * now;
}

static bool has(const struct point *p, const struct bench_options *o, int times)
{
    return p->n_samples >= times * o->repeats && p->measured_s >= times * o->min_seconds;
}

static bool is_done(const struct point *p, const struct bench_options *o)
{
    return has(p, o, 1) && (is_stable(p) || has(p, o, PATIENCE));
}

/* Points of a kind go on together, so that their samples fill a rectangle. */
static bool kind_is_done(const struct point *points, int n, enum point_kind kind,
                         const struct bench_options *o)
{
    for (int i = 0; i < n; i++)
        if (points[i].kind == kind && !is_done(&points[i], o))
            return false;
    return true;
}

static int measure_all(const struct model *m, struct buffers *b, const struct bench_options *o,
                       struct point *points, int n, struct err *e)
{
    for (int i = 0; i < n; i++)
        if (warm_up(m, b, o, &points[i], e) < 0)
            return -1;
    for (bool more = true; more;) {
        bool going[THROUGHPUT + 1];
        more = false;
        for (int kind = PREFILL; kind <= THROUGHPUT; kind++)
            going[kind] = !kind_is_done(points, n, (enum point_kind)kind, o);
        for (int i = 0; i < n; i++) {
            double value, seconds;
            if (!going[points[i].kind])
                continue;
            if (measure(m, b, o, &points[i], &value, &seconds, e) < 0)
                return -1;
            keep(&points[i], value, seconds);
            more = true;
        }
    }
    return 0;
}

/* ---- what came out ---- */

static struct js *list_of(const double *x, int n)
{
    struct js *list = js_new_array();

    for (int i = 0; i < n; i++)
        js_append(list, js_new_real(x[i]));
    return list;
}

static void set(struct js *out, const char *name, const char *ending, double value)
{
    struct bytes key = BYTES_INIT;

    bytes_printf(&key, "%s_%s", name, ending);
    js_set_real(out, key.data, value);
    bytes_release(&key);
}

/* Median, its interval, mean and sd are made where the results file is; here is the rest. */
static void put_extremes(const struct point *p, const char *name, struct js *out)
{
    set(out, name, "min", stats_quantile(p->sample, p->n_samples, 0));
    set(out, name, "p90", stats_quantile(p->sample, p->n_samples, 0.9));
}

static struct js *latency(const struct point *points, int n)
{
    struct js *out = js_new_object(), *lengths = js_new_array(), *prefill = js_new_array();

    for (int i = 0; i < n; i++) {
        const struct point *p = &points[i];
        if (p->kind == PREFILL) {
            js_append(lengths, js_new_int(p->prompt));
            js_append(prefill, list_of(p->sample, p->n_samples));
        }
        if (p->kind == PREFILL && p->index == 0)
            put_extremes(p, "prefill_ms", out);
        if (p->kind == DECODE) {
            js_set(out, "decode_ms_per_token", list_of(p->sample, p->n_samples));
            put_extremes(p, "decode_ms_per_token", out);
        }
        if (p->kind == END_TO_END) {
            js_set(out, "e2e_ms", list_of(p->sample, p->n_samples));
            put_extremes(p, "e2e_ms", out);
        }
    }
    js_set(out, "prefill_tokens", lengths);
    js_set(out, "prefill_ms", prefill);
    return out;
}

static struct js *throughput(const struct point *points, int n)
{
    struct js *out = js_new_object(), *sizes = js_new_array(), *rates = js_new_array();

    for (int i = 0; i < n; i++)
        if (points[i].kind == THROUGHPUT) {
            js_append(sizes, js_new_int(points[i].batch));
            js_append(rates, list_of(points[i].sample, points[i].n_samples));
        }
    js_set(out, "batch_size", sizes);
    js_set(out, "tokens_per_s", rates);
    return out;
}

static void put_stability(const struct point *points, int n, struct js *group, bool batched)
{
    int unstable = 0;

    for (int i = 0; i < n; i++)
        if ((points[i].kind == THROUGHPUT) == batched && !is_stable(&points[i]))
            unstable++;
    js_set_int(group, "unstable_points", unstable);
    if (unstable)
        log_info("%d %s point%s of the benchmark did not settle to %g %%", unstable,
                 batched ? "throughput" : "latency", unstable == 1 ? "" : "s", 100 * STABLE);
}

static int check_options(const struct bench_options *o, struct err *e)
{
    bool good = o->n_prefill >= 1 && o->n_prefill <= BENCH_LIST_MAX && o->n_batch >= 1 &&
                o->n_batch <= BENCH_LIST_MAX && o->decode_tokens >= 1 && o->repeats >= 1 &&
                o->warmup >= 0 && o->warmup_seconds >= 0 && o->min_seconds >= 0;

    for (int i = 0; good && i < o->n_prefill; i++)
        good = o->prefill_tokens[i] >= 1;
    for (int i = 0; good && i < o->n_batch; i++)
        good = o->batch_sizes[i] >= 1;
    return good ? 0 : err_set(e, ERR_USAGE, "benchmark: counts and sizes must be positive");
}

int bench_check(const struct config *c, const struct bench_options *o, struct err *e)
{
    struct point points[POINTS_MAX];

    if (check_options(o, e) < 0)
        return -1;
    int n = point_list(o, points);
    for (int i = 0; i < n; i++)
        if (point_check(&points[i], c->max_position, e) < 0)
            return -1;
    return 0;
}

int bench_run(const struct model *m, const struct bench_options *o, struct js *out, struct err *e)
{
    struct point points[POINTS_MAX];
    struct buffers buffers = { 0 };
    int rc = -1, n = 0;

    if (bench_check(&m->config, o, e) < 0)
        return -1;
    n = point_list(o, points);
    if (memory_of_largest(m, o, points, n, out, e) < 0 ||
        open_buffers(m, points, n, &buffers, e) < 0 ||
        measure_all(m, &buffers, o, points, n, e) < 0)
        goto out;
    struct js *slow = latency(points, n), *fast = throughput(points, n);
    put_stability(points, n, slow, false);
    put_stability(points, n, fast, true);
    js_set(out, "latency", slow);
    js_set(out, "throughput", fast);
    rc = 0;
out:
    close_buffers(&buffers);
    for (int i = 0; i < n; i++)
        free(points[i].sample);
    return rc;
}
