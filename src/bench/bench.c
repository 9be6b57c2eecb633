/* bench.c - the protocol: memory of each point alone, warm-up, then rounds in which every point
 * is measured once, so that a drifting clock rate does not look like a difference between them. */
#include "bench/bench.h"

#include "backend/group.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/memory.h"
#include "base/stats.h"
#include "bench/footprint.h"
#include "bench/point.h"
#include "bench/work.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* A median that still moves by more than this wants more samples ... */
#define STABLE 0.02
/* ... but no more than this many times the minima: a noisy host never gets there. */
#define PATIENCE 3
/* A clock that moves by more changes the times themselves. */
#define CLOCK_MOVED  0.03
#define LOOK_EVERY_S 0.1

/* Where the time of a benchmark goes, for the log. */
struct spent {
    double memory_s, buffers_s, warm_up_s, rounds_s, looks_s, energy_s;
    int n_rounds, n_looks;
};

/* Seconds since *from, which becomes now. */
static double lap(double *from)
{
    const double before = *from;

    *from = clock_seconds();
    return *from - before;
}

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
    struct mem_account *account = &m->backend->mem, before;
    struct kv_cache cache = { 0 };
    struct point_run run = { .model = m, .cache = &cache, .seed = seed };
    struct point_time ignored;
    int rc = -1;

    /* What the backend kept from larger work is not this point's. */
    if (m->backend->ops->trim)
        m->backend->ops->trim(m->backend);
    before = *account;
    mem_account_reset_peak(m->backend);
    if (kv_cache_open(&cache, m, p->batch, point_capacity(p), e) < 0 ||
        forward_open(&run.forward, m, point_rows(p), p->batch, e) < 0 ||
        point_measure(&run, p, &ignored, e) < 0)
        goto out;
    out->cache_bytes = (int64_t)(account->peak[MEM_CACHE] - before.now[MEM_CACHE]);
    out->scratch_bytes = (int64_t)(account->peak[MEM_SCRATCH] - before.now[MEM_SCRATCH]) +
                         backend_group_bytes(m->backend->ops->name, m->backend->n_members);
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

static struct point_run run_of(const struct model *m, struct buffers *b,
                               const struct bench_options *o, const struct point *p)
{
    return (struct point_run){ .model = m,
                               .forward = b->forward,
                               .seed = o->seed,
                               .cache = p->kind == THROUGHPUT ? &b->batched : &b->single };
}

static int measure(const struct model *m, struct buffers *b, const struct bench_options *o,
                   const struct point *p, struct point_time *out, struct err *e)
{
    struct point_run run = run_of(m, b, o, p);

    return point_measure(&run, p, out, e);
}

/* Do the medians of the last two thirds agree? */
static bool has_settled(const double *x, int n)
{
    int third = n / 3;

    if (third < 1)
        return false;
    double before = stats_median(x + n - 2 * third, third),
           now = stats_median(x + n - third, third);
    return fabs(now - before) <= STABLE * now;
}

/* At least as often and as long as asked for, then until it is stable, within PATIENCE. */
static int warm_up(const struct model *m, struct buffers *b, const struct bench_options *o,
                   struct point *p, struct err *e)
{
    double spent = 0, *x = NULL;
    int n = 0, rc = 0;

    while (backend_first_says(m->backend, n < o->warmup || spent < o->warmup_seconds ||
                                              (!has_settled(x, n) && n < PATIENCE * o->warmup &&
                                               spent < PATIENCE * o->warmup_seconds))) {
        struct point_time t;
        rc = measure(m, b, o, p, &t, e);
        if (rc < 0)
            break;
        x = mem_grow(x, (size_t)n + 1, sizeof *x);
        x[n++] = t.seconds;
        spent += t.seconds;
    }
    p->n_warmup = n;
    p->warmup_s = spent;
    free(x);
    return rc;
}

static void keep(struct point *p, const struct point_time *t)
{
    if (p->n_samples == p->room) {
        p->room = p->room ? 2 * p->room : 64;
        p->sample = mem_grow(p->sample, (size_t)p->room, sizeof *p->sample);
        p->device_ms = mem_grow(p->device_ms, (size_t)p->room, sizeof *p->device_ms);
    }
    p->sample[p->n_samples] = t->value;
    p->device_ms[p->n_samples++] = t->device_ms;
    p->measured_s += t->seconds;
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

/* Looks at the device right behind a run, before it can rest: often enough to see its clock move,
 * seldom enough not to be seen in the time. */
static void watch(struct backend *b, struct point_watch *w, struct spent *spent)
{
    struct device_health now;
    struct err ignored = ERR_INIT;
    double s = clock_seconds();

    if (!b->ops->health || (w->n && s - w->looked_s < LOOK_EVERY_S))
        return;
    int rc = b->ops->health(b, &now, &ignored);
    spent->looks_s += clock_seconds() - s;
    spent->n_looks++;
    if (rc < 0 || !(now.clock_mhz > 0))
        return;
    if (w->n++ == 0) {
        w->before_mhz = w->least_mhz = w->most_mhz = now.clock_mhz;
        w->temperature_c = now.temperature_c;
        snprintf(w->before_limits, sizeof w->before_limits, "%s", now.limits);
    }
    w->looked_s = s;
    w->after_mhz = now.clock_mhz;
    w->least_mhz = fmin(w->least_mhz, now.clock_mhz);
    w->most_mhz = fmax(w->most_mhz, now.clock_mhz);
    w->temperature_c = fmax(w->temperature_c, now.temperature_c);
    snprintf(w->limits, sizeof w->limits, "%s", now.limits);
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
                       struct point *points, int n, struct spent *spent, struct err *e)
{
    double at = clock_seconds();

    for (int i = 0; i < n; i++) {
        if (warm_up(m, b, o, &points[i], e) < 0)
            return -1;
        watch(m->backend, &points[i].watch, spent);
    }
    spent->warm_up_s = lap(&at);
    for (bool more = true; more; spent->n_rounds += more) {
        bool going[THROUGHPUT + 1];
        more = false;
        for (int kind = PREFILL; kind <= THROUGHPUT; kind++)
            going[kind] =
                backend_first_says(m->backend, !kind_is_done(points, n, (enum point_kind)kind, o));
        for (int i = 0; i < n; i++) {
            struct point_time t;
            if (!going[points[i].kind])
                continue;
            if (measure(m, b, o, &points[i], &t, e) < 0)
                return -1;
            keep(&points[i], &t);
            watch(m->backend, &points[i].watch, spent);
            more = true;
        }
    }
    spent->rounds_s = lap(&at);
    return 0;
}

/* ---- energy ---- */

/* The counter moves every 20 to 100 ms and takes a while to be read: a region begins and ends where
 * it has just moved, and is not looked at in between.
 *
 * In a group each device has its own counter, which moves at its own moments: each member takes its
 * power over a region that they run together, but for a step of the counter at both ends, and the
 * powers are added. */
#define ENERGY_S 2.0

struct meter {
    struct backend *backend;
    double start_s, last_j;
    double from_j, from_s, to_j, to_s;
    int64_t from_tokens, n_tokens; /* n_tokens 0: not measured */
    bool begun;
};

static double energy_now(struct backend *b)
{
    struct err ignored = ERR_INIT;
    double joule = NAN;

    return b->ops->energy && b->ops->energy(b, &joule, &ignored) == 0 ? joule : NAN;
}

static bool wants_more(struct meter *m, int64_t n_tokens)
{
    double s = clock_seconds();

    if (m->n_tokens)
        return false;
    if (m->begun && s - m->from_s < ENERGY_S)
        return true;
    double j = energy_now(m->backend);
    bool moved = m->last_j != j;
    m->last_j = j;
    if (moved && !m->begun) {
        m->begun = true;
        m->from_j = j;
        m->from_s = clock_seconds();
        m->from_tokens = n_tokens;
    } else if (moved && m->to_s > 0) {
        m->to_j = j;
        m->to_s = s;
        m->n_tokens = n_tokens - m->from_tokens;
        return false;
    } else if (m->begun) {
        m->to_s = s; /* the first look behind the region only tells where the counter stands */
    }
    return s - m->start_s < (m->begun ? 5 : 1) * ENERGY_S;
}

/* point_repeat_steps() asks before each round of steps. */
static bool meter_goes_on(void *context, int64_t n_tokens)
{
    struct meter *m = context;

    return backend_any_says(m->backend, wants_more(m, n_tokens));
}

/* The device at rest, its context open. */
static double idle_watt(struct backend *b)
{
    double from_j = energy_now(b), from_s = clock_seconds();

    nanosleep(&(struct timespec){ .tv_sec = (time_t)ENERGY_S }, NULL);
    return (energy_now(b) - from_j) / (clock_seconds() - from_s);
}

static int measure_energy(const struct model *m, struct buffers *b, const struct bench_options *o,
                          const struct point *points, int n, double idle, struct js *out,
                          struct err *e)
{
    struct meter meter = { .backend = m->backend,
                           .start_s = clock_seconds(),
                           .last_j = energy_now(m->backend) };
    const struct point *decode = NULL;

    for (int i = 0; i < n; i++)
        if (points[i].kind == DECODE)
            decode = &points[i];
    struct point_run run = run_of(m, b, o, decode);
    if (point_repeat_steps(&run, decode, meter_goes_on, &meter, e) < 0)
        return err_in(e, "the region whose energy is measured");
    const double seconds = meter.to_s - meter.from_s;
    const double own = meter.n_tokens ? (meter.to_j - meter.from_j) / seconds : NAN;
    const double watt = backend_sum(m->backend, own), idle_all = backend_sum(m->backend, idle);
    if (isnan(watt)) {
        backend_note(m->backend, m->backend->n_members
                                     ? "energy: the counter of a device of the group did not move"
                                     : "energy: the device's counter did not move");
        return 0;
    }
    struct js *energy = js_new_object();
    js_set_real(energy, "joule_per_token", watt * seconds / (double)meter.n_tokens);
    js_set_real(energy, "watt", watt);
    js_set_real(energy, "idle_watt", idle_all);
    js_set_int(energy, "n_tokens", meter.n_tokens);
    js_set_real(energy, "seconds", seconds);
    js_set(out, "energy", energy);
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

static bool moved(const struct point_watch *w)
{
    return w->n && w->most_mhz - w->least_mhz > CLOCK_MOVED * w->most_mhz;
}

/* A table, one row a point; nothing where the device tells nothing. */
static void put_clocks(struct backend *b, const struct point *points, int n, struct js *out)
{
    static const char *const columns[] = { "point",        "warmup_runs",   "sm_mhz_before",
                                           "sm_mhz_after", "moved",         "limits_before",
                                           "limits",       "temperature_c", "device_ms" };
    enum { N_COLUMNS = sizeof columns / sizeof *columns };
    struct js *clocks = js_new_object(), *table[N_COLUMNS], *rows = js_new_object();
    struct err ignored = ERR_INIT;
    int n_moved = 0, n_others = -1;

    for (int c = 0; c < N_COLUMNS; c++)
        table[c] = js_new_array();
    for (int i = 0; i < n; i++) {
        const struct point *p = &points[i];
        const struct point_watch *w = &p->watch;
        char *name = point_name(p);
        js_append(table[0], js_new_text(name));
        js_append(table[1], js_new_int(p->n_warmup));
        js_append(table[2], js_new_real(w->n ? w->before_mhz : NAN));
        js_append(table[3], js_new_real(w->n ? w->after_mhz : NAN));
        js_append(table[4], js_new_int(moved(w)));
        js_append(table[5], js_new_text(w->before_limits));
        js_append(table[6], js_new_text(w->limits));
        js_append(table[7], js_new_real(w->n ? w->temperature_c : NAN));
        js_append(table[8], js_new_real(stats_median(p->device_ms, p->n_samples)));
        n_moved += moved(w);
        free(name);
    }
    for (int c = 0; c < N_COLUMNS; c++)
        js_set(rows, columns[c], table[c]);
    js_set(clocks, "points", rows);
    js_set_int(clocks, "moved_points", n_moved);
    if (b->ops->n_others && b->ops->n_others(b, &n_others, &ignored) == 0 && n_others >= 0)
        js_set_int(clocks, "other_processes", n_others);
    if (n_others > 0)
        backend_note(b, "benchmark: other processes worked on the device");
    js_set(out, "clocks", clocks);
    if (n_moved)
        log_info("at %d point%s of the benchmark the clock moved by more than %g %%", n_moved,
                 n_moved == 1 ? "" : "s", 100 * CLOCK_MOVED);
}

/* In the log alone.  What is spent beyond the points' runs and the looks is the protocol's own. */
static void log_spent(const struct point *points, int n, const struct spent *spent, double total_s)
{
    for (int i = 0; i < n; i++) {
        const struct point *p = &points[i];
        char *name = point_name(p);

        log_debug("benchmark: %s: warm-up %d runs %.4f s, %d samples %.4f s, %s", name, p->n_warmup,
                  p->warmup_s, p->n_samples, p->measured_s,
                  is_stable(p) ? "settled" : "not settled");
        free(name);
    }
    log_debug("benchmark: seconds: memory %.4f, buffers %.4f, warm-up %.4f, %d rounds %.4f, "
              "energy %.4f, total %.4f; %d looks at the device %.4f",
              spent->memory_s, spent->buffers_s, spent->warm_up_s, spent->n_rounds, spent->rounds_s,
              spent->energy_s, total_s, spent->n_looks, spent->looks_s);
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

/* Idle power of the device, measured once while it has not worked yet for this benchmark; NaN where
 * it has no counter. */
static double idle_of(struct backend *b, const struct bench_options *o)
{
    double idle = o->idle_watt ? *o->idle_watt : NAN;

    if (isnan(idle) && !isnan(energy_now(b)))
        idle = idle_watt(b);
    if (o->idle_watt)
        *o->idle_watt = idle;
    return idle;
}

int bench_run(const struct model *m, const struct bench_options *o, struct js *out, struct err *e)
{
    struct point points[POINTS_MAX];
    struct buffers buffers = { 0 };
    struct spent spent = { 0 };
    struct backend *b = m->backend;
    int rc = -1, n = 0;

    if (bench_check(&m->config, o, e) < 0)
        return -1;
    double start = clock_seconds(), at = start;
    bool energy = o->energy && !isnan(backend_sum(b, energy_now(b)));
    double idle = energy ? idle_of(b, o) : NAN;
    if (o->energy && !energy && b->ops->health)
        backend_note(b, b->n_members ? "energy: not told by a device of the group"
                                     : "energy: not told by this device");
    n = point_list(o, points);
    spent.energy_s = lap(&at);
    if (memory_of_largest(m, o, points, n, out, e) < 0)
        goto out;
    spent.memory_s = lap(&at);
    if (open_buffers(m, points, n, &buffers, e) < 0)
        goto out;
    spent.buffers_s = lap(&at);
    if (measure_all(m, &buffers, o, points, n, &spent, e) < 0)
        goto out;
    lap(&at);
    if (energy && measure_energy(m, &buffers, o, points, n, idle, out, e) < 0)
        goto out;
    spent.energy_s += lap(&at);
    struct js *slow = latency(points, n), *fast = throughput(points, n);
    put_stability(points, n, slow, false);
    put_stability(points, n, fast, true);
    js_set(out, "latency", slow);
    js_set(out, "throughput", fast);
    js_set(out, "roofline", work_table(m, points, n));
    if (b->ops->health)
        put_clocks(b, points, n, out);
    log_spent(points, n, &spent, clock_seconds() - start);
    rc = 0;
out:
    close_buffers(&buffers);
    for (int i = 0; i < n; i++) {
        free(points[i].sample);
        free(points[i].device_ms);
    }
    return rc;
}
