/* test_bench.c - the protocol on a small random model: shapes, counts and bytes, not times. */
#include "check.h"
#include "members.h"

#include "backend/group.h"
#include "base/clock.h"
#include "base/file.h"
#include "base/log.h"
#include "base/rng.h"
#include "bench/bench.h"
#include "bench/work.h"
#include "bench/footprint.h"
#include "bench/point.h"
#include "model/tensor_list.h"

#include <math.h>
#include <string.h>

static struct backend backend = BACKEND_INIT;

static struct config config_of(const char *more)
{
    struct config c;
    struct err e = ERR_INIT;
    struct bytes text = BYTES_INIT;

    bytes_printf(&text,
                 "{\"model_type\":\"llama\",\"vocab_size\":64,\"hidden_size\":32,"
                 "\"intermediate_size\":48,\"num_hidden_layers\":2,\"num_attention_heads\":4,"
                 "\"num_key_value_heads\":2,\"dtype\":\"bfloat16\"%s}",
                 more);
    struct js *j = js_parse(text.data, text.n, &e);
    CHECK(j, "the test's JSON is valid: %s", e.text);
    CHECK_OK(config_parse(j, NULL, &c, &e), e);
    js_release(j);
    bytes_release(&text);
    return c;
}

static void fill(void *device, int64_t n, uint64_t seed, float mean)
{
    uint16_t *values = mem_array((size_t)n, sizeof *values);
    struct err e = ERR_INIT;

    for (int64_t i = 0; i < n; i++)
        values[i] =
            dtype_f32_to_bf16(mean + (float)rng_real(seed, RNG_TEST, (uint64_t)i) * 0.2f - 0.1f);
    CHECK_OK(backend.ops->upload(&backend, device, values, (size_t)n * 2, &e), e);
    free(values);
}

static void fill_tensor(struct tensor *t, int64_t n_cols, float mean)
{
    struct err e = ERR_INIT;

    CHECK_OK(tensor_alloc(&backend, MEM_WEIGHTS, DTYPE_BF16, 1, n_cols, t, &e), e);
    fill(t->data, n_cols, (uint64_t)n_cols, mean);
}

static void fill_weight(struct weight *w, int64_t n_out, int64_t n_in, uint64_t seed)
{
    struct tensor shape = { .dtype = DTYPE_BF16, .n_rows = n_out, .n_cols = n_in };
    struct err e = ERR_INIT;

    *w = weight_of_tensor(&shape);
    CHECK_OK(weight_alloc(&backend, MEM_WEIGHTS, w, &e), e);
    fill(w->codes, n_out * n_in, seed, 0);
}

static struct model random_model(const struct config *c)
{
    struct model m = { .config = *c,
                       .backend = &backend,
                       .dtype = DTYPE_BF16,
                       .compute = DTYPE_BF16,
                       .owns_embed = true,
                       .owns_norms = true };
    struct err e = ERR_INIT;

    CHECK_OK(tensor_alloc(&backend, MEM_WEIGHTS, DTYPE_BF16, c->vocab_size, c->hidden_size,
                          &m.embed, &e),
             e);
    fill(m.embed.data, c->vocab_size * c->hidden_size, 1, 0);
    fill_tensor(&m.norm, c->hidden_size, 1);
    if (c->tied)
        m.head = weight_of_tensor(&m.embed);
    else
        fill_weight(&m.head, c->vocab_size, c->hidden_size, 2);
    m.layers = mem_array((size_t)c->n_layers, sizeof *m.layers);
    for (int64_t i = 0; i < c->n_layers; i++) {
        fill_tensor(&m.layers[i].input_norm, c->hidden_size, 1);
        fill_tensor(&m.layers[i].post_norm, c->hidden_size, 1);
        for (int l = 0; l < N_LINEARS; l++) {
            int64_t n_out, n_in;
            config_linear_shape(c, (enum linear_name)l, &n_out, &n_in);
            fill_weight(&m.layers[i].linear[l], n_out, n_in, (uint64_t)(10 + i * N_LINEARS + l));
        }
    }
    return m;
}

static int set_up(void **state)
{
    struct err e = ERR_INIT;

    (void)state;
    return backend_open(&backend, "cpu", 0, NULL, &e);
}

static int tear_down(void **state)
{
    (void)state;
    backend_close(&backend);
    return 0;
}

static struct bench_options options(void)
{
    return (struct bench_options){
        .warmup = 1,
        .repeats = 6,
        .n_prefill = 2,
        .prefill_tokens = { 5, 17 },
        .decode_tokens = 7,
        .n_batch = 2,
        .batch_sizes = { 1, 3 },
        .seed = 4,
    };
}

/* Every sample finite and positive; the number of samples. */
static size_t samples(const struct js *list, const char *name)
{
    CHECK(js_kind(list) == JS_ARRAY, "%s is a list", name);
    for (size_t i = 0; i < js_count(list); i++) {
        double x = js_real(js_at(list, i));
        CHECK(x > 0 && isfinite(x), "sample %zu of %s is a time or a rate, not %g", i, name, x);
    }
    return js_count(list);
}

static void rectangle(const struct js *lists, size_t n, const char *name)
{
    CHECK(js_count(lists) == n, "%s has %zu rows, not %zu", name, n, js_count(lists));
    size_t columns = samples(js_at(lists, 0), name);
    CHECK(columns >= 6 && columns <= 18, "%s has 6 to 18 repeats, not %zu", name, columns);
    for (size_t i = 1; i < n; i++)
        CHECK(samples(js_at(lists, i), name) == columns, "row %zu of %s is as long as the first", i,
              name);
}

static double scalar(const struct js *group, const char *name, const char *ending)
{
    char key[96];

    snprintf(key, sizeof key, "%s_%s", name, ending);
    CHECK(js_kind(js_get(group, key)) == JS_REAL, "%s is there", key);
    return js_real(js_get(group, key));
}

/* The least and the 90th percentile of list `name`. */
static void extremes(const struct js *group, const char *name)
{
    const struct js *list = js_get(group, name);
    double least = INFINITY, most = 0;

    if (js_kind(js_at(list, 0)) == JS_ARRAY)
        list = js_at(list, 0);
    for (size_t i = 0; i < js_count(list); i++) {
        least = fmin(least, js_real(js_at(list, i)));
        most = fmax(most, js_real(js_at(list, i)));
    }
    CHECK(scalar(group, name, "min") == least, "%s_min is the least", name);
    CHECK(scalar(group, name, "p90") >= least && scalar(group, name, "p90") <= most,
          "%s_p90 lies between the least and the largest", name);
}

static void test_what_comes_out(void **state)
{
    struct config c = config_of(",\"max_position_embeddings\":140");
    struct model m = random_model(&c);
    struct bench_options o = options();
    struct js *out = js_new_object();
    struct err e = ERR_INIT;
    size_t now = backend.mem.now[MEM_SCRATCH] + backend.mem.now[MEM_CACHE];
    (void)state;

    backend.mem.job_peak = (size_t)1 << 40;
    CHECK_OK(bench_run(&m, &o, out, &e), e);
    const struct js *latency = js_get(out, "latency"), *rate = js_get(out, "throughput");
    rectangle(js_get(latency, "prefill_ms"), 2, "prefill_ms");
    CHECK(js_int(js_at(js_get(latency, "prefill_tokens"), 1)) == 17, "lengths stand beside");
    CHECK(samples(js_get(latency, "decode_ms_per_token"), "decode_ms_per_token") >= 6, "decoded");
    CHECK(samples(js_get(latency, "e2e_ms"), "e2e_ms") >= 6, "end to end");
    extremes(latency, "prefill_ms");
    extremes(latency, "decode_ms_per_token");
    extremes(latency, "e2e_ms");
    rectangle(js_get(rate, "tokens_per_s"), 2, "tokens_per_s");
    CHECK(js_int(js_at(js_get(rate, "batch_size"), 1)) == 3, "batch sizes stand beside");
    CHECK(!js_get(out, "energy"), "a CPU has no energy to report");
    const struct js *table = js_get(out, "roofline");
    CHECK(samples(js_get(table, "gbyte_per_s"), "gbyte_per_s") == 6 &&
              samples(js_get(table, "tflop_per_s"), "tflop_per_s") == 6,
          "each of the six points has its work");
    CHECK(check_near(js_real(js_at(js_get(table, "gbyte"), 0)) /
                         js_real(js_at(js_get(table, "seconds"), 0)) /
                         js_real(js_at(js_get(table, "gbyte_per_s"), 0)),
                     1, 1e-12) &&
              strcmp(js_text(js_at(js_get(table, "point"), 0)), "prefill 5") == 0,
          "over its time, by name");
    CHECK(backend.mem.now[MEM_SCRATCH] + backend.mem.now[MEM_CACHE] == now,
          "what it took it gives back");
    CHECK(backend.mem.job_peak == (size_t)1 << 40, "a peak from before is not forgotten");
    js_release(out);
    model_release(&m);
}

/* Counted one by one. */
static struct work counted(const struct model *m, int batch, int from, int to, int n_passes)
{
    const struct config *c = &m->config;
    struct work w = { 0 };

    for (int i = 0; i < n_passes; i++)
        w.bytes += (double)footprint_model_bytes(m) -
                   (m->head.codes == m->embed.data ? 0 : (double)tensor_bytes(&m->embed));
    for (int at = from; at < to; at++)
        for (int64_t l = 0; l < c->n_layers; l++)
            for (int k = 0; k < N_LINEARS; k++) {
                int64_t n_out, n_in;
                config_linear_shape(c, (enum linear_name)k, &n_out, &n_in);
                w.flops += 2.0 * batch * (double)(n_out * n_in);
            }
    for (int at = from; at < to; at++)
        for (int key = 0; key <= at; key++)
            w.flops += 4.0 * batch * (double)(c->n_layers * c->n_heads * c->head_dim);
    w.flops += 2.0 * batch * n_passes * (double)(c->vocab_size * c->hidden_size);
    int passes_from = n_passes == 1 ? to : from + 1;
    for (int n = passes_from; n <= to; n++) /* what is in the cache behind each pass */
        w.bytes += batch * n * 2.0 * (double)(c->n_layers * c->n_kv_heads * c->head_dim) *
                   (double)dtype_bytes(m->dtype);
    return w;
}

static void test_work(void **state)
{
    struct config c = config_of(",\"max_position_embeddings\":140");
    struct model m = random_model(&c);
    const struct point prefill = { .kind = PREFILL, .batch = 1, .prompt = 5 };
    const struct point decode = { .kind = DECODE, .batch = 1, .prompt = 5, .n_steps = 7 };
    const struct point rate = { .kind = THROUGHPUT, .batch = 3, .prompt = 16, .n_steps = 6 };
    struct work got = work_of(&m, &prefill), want = counted(&m, 1, 0, 5, 1);

    (void)state;
    CHECK(got.flops == want.flops && got.bytes == want.bytes,
          "a prompt of 5: %g and %g, not %g, %g", want.bytes, want.flops, got.bytes, got.flops);
    got = work_of(&m, &decode);
    want = counted(&m, 1, 5, 12, 7);
    CHECK(got.flops == want.flops && got.bytes == want.bytes, "7 steps behind it");
    got = work_of(&m, &rate);
    want = counted(&m, 3, 0, 16, 1);
    struct work steps = counted(&m, 3, 16, 22, 6);
    CHECK(got.flops == want.flops + steps.flops && got.bytes == want.bytes + steps.bytes,
          "three prompts of 16 and six steps");
    CHECK(work_seconds(&prefill, 20) == 0.02, "ms of a prompt");
    CHECK(check_near(work_seconds(&decode, 20), 0.14, 1e-15), "ms a token, of 7 tokens");
    CHECK(check_near(work_seconds(&rate, 42), 0.5, 1e-15), "21 new tokens at 42 a second");
    model_release(&m);
}

static void test_minimum_time(void **state)
{
    struct config c = config_of("");
    struct model m = random_model(&c);
    struct bench_options o = options();
    struct js *out = js_new_object();
    struct err e = ERR_INIT;
    double sum = 0;
    (void)state;

    o.min_seconds = 0.02;
    o.repeats = 1;
    CHECK_OK(bench_run(&m, &o, out, &e), e);
    const struct js *list = js_at(js_get(js_get(out, "latency"), "prefill_ms"), 0);
    for (size_t i = 0; i < js_count(list); i++)
        sum += js_real(js_at(list, i));
    CHECK(sum >= 20, "a point is measured for %g ms, at least 20", sum);
    js_release(out);
    model_release(&m);
}

static int64_t member(const struct js *out, const char *name)
{
    return js_int(js_get(js_get(out, "memory"), name));
}

static void memory_agrees(const char *more, struct bench_options o, int batch, int64_t capacity)
{
    struct config c = config_of(more);
    struct model m = random_model(&c);
    struct js *out = js_new_object();
    struct err e = ERR_INIT;
    int64_t weights = footprint_model_bytes(&m);

    CHECK(weights == 2 * config_n_parameters(&c) &&
              weights == (int64_t)backend.mem.now[MEM_WEIGHTS],
          "the model's footprint is %lld bytes", (long long)weights);
    CHECK_OK(bench_run(&m, &o, out, &e), e);
    int64_t cache = member(out, "kv_cache_bytes"), scratch = member(out, "scratch_bytes");
    CHECK(cache == (int64_t)kv_cache_bytes(&m, batch, capacity),
          "the cache of the largest point has %lld bytes, not %lld",
          (long long)kv_cache_bytes(&m, batch, capacity), (long long)cache);
    CHECK(scratch > 0 && member(out, "peak_bytes") == weights + cache + scratch,
          "the peak is weights, cache and scratch");
    CHECK(member(out, "peak_bytes") == bench_peak_bytes(&c, DTYPE_BF16, &o, weights),
          "a dry run knows the peak: %lld, not %lld",
          (long long)bench_peak_bytes(&c, DTYPE_BF16, &o, weights),
          (long long)member(out, "peak_bytes"));
    js_release(out);
    model_release(&m);
}

static void test_memory(void **state)
{
    struct bench_options o = options();
    (void)state;

    o.repeats = 1;
    o.n_prefill = o.n_batch = 1;
    memory_agrees("", o, 1, 4 + 127); /* end to end is the longest */
    o.n_batch = 2;
    o.decode_tokens = 100;
    memory_agrees(",\"tie_word_embeddings\":true", o, 3, 16 + 99);
    o.n_prefill = 2;
    o.prefill_tokens[1] = 500;
    memory_agrees("", o, 1, 500);
}

static void test_points_beyond_the_positions(void **state)
{
    static const struct {
        int64_t max_position, prefill, decode;
        const char *word;
    } rows[] = {
        { 140, 141, 7, "prefill_tokens = 141" },
        { 140, 100, 41, "prefill_tokens[0] + decode_tokens = 141" },
        { 130, 5, 7, "131" },
        { 140, 1, 126, "16 + decode_tokens - 1 = 141" },
    };
    (void)state;

    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct config c = config_of("");
        struct bench_options o = options();
        struct js *out = js_new_object();
        struct err e = ERR_INIT;
        c.max_position = rows[i].max_position;
        /* Refused before anything of the model is touched. */
        struct model m = { .config = c };
        o.n_prefill = 1;
        o.prefill_tokens[0] = rows[i].prefill;
        o.decode_tokens = rows[i].decode;
        CHECK(bench_run(&m, &o, out, &e) < 0 && e.code == ERR_USAGE && strstr(e.text, rows[i].word),
              "\"%s\" says \"%s\"", e.text, rows[i].word);
        js_release(out);
    }
    struct model m = { 0 };
    struct bench_options o = options();
    struct err e = ERR_INIT;
    o.batch_sizes[1] = 0;
    CHECK(bench_run(&m, &o, NULL, &e) < 0 && e.code == ERR_USAGE, "a batch of 0 is refused");
}

static void test_prompts(void **state)
{
    struct bench_options o = options();
    struct point points[POINTS_MAX];
    int n = point_list(&o, points);
    (void)state;

    CHECK(n == 6 && points[5].kind == THROUGHPUT && points[5].batch == 3, "there are six points");
    int32_t *a = point_prompts(&points[5], 4, 1000), *b = point_prompts(&points[5], 4, 1000);
    int32_t *c = point_prompts(&points[5], 5, 1000);
    size_t one = THROUGHPUT_PROMPT * sizeof *a;
    for (int i = 0; i < 3 * THROUGHPUT_PROMPT; i++)
        CHECK(a[i] >= 0 && a[i] < 1000, "id %d is in the vocabulary", i);
    CHECK(memcmp(a, b, 3 * one) == 0, "repeats have the same prompts");
    CHECK(memcmp(a, a + 16, one) != 0 && memcmp(a, a + 32, one) != 0 &&
              memcmp(a + 16, a + 32, one) != 0,
          "sequences have different ones");
    CHECK(memcmp(a, c, one) != 0, "seeds, too");
    free(a);
    free(b);
    free(c);
}

/* A prompt longer than a pass goes through in pieces and gives the same cache. */
static void test_pieces(void **state)
{
    struct config c = config_of(",\"max_position_embeddings\":4096");
    c.n_layers = 1;
    struct model m = random_model(&c);
    struct point p = { .kind = PREFILL, .batch = 1, .prompt = PROMPT_ROWS_MAX + 3 };
    struct kv_cache cache;
    struct point_run run = { .model = &m, .cache = &cache };
    struct point_time t;
    struct err e = ERR_INIT;
    (void)state;

    CHECK(point_rows(&p) == PROMPT_ROWS_MAX && point_capacity(&p) == PROMPT_ROWS_MAX + 3,
          "a pass has %d rows", PROMPT_ROWS_MAX);
    CHECK_OK(kv_cache_open(&cache, &m, 1, point_capacity(&p), &e), e);
    CHECK_OK(forward_open(&run.forward, &m, point_rows(&p), 1, &e), e);
    CHECK_OK(point_measure(&run, &p, &t, &e), e);
    CHECK(cache.length[0] == PROMPT_ROWS_MAX + 3, "the whole prompt is in the cache");
    CHECK_OK(point_measure(&run, &p, &t, &e), e);
    CHECK(cache.length[0] == PROMPT_ROWS_MAX + 3, "a repeat starts afresh");
    forward_close(run.forward);
    kv_cache_close(&cache);
    model_release(&m);
}

/* ---- a device that tells how it does ---- */

static double began_s, clock_of_look, watt_of_counter = 100;
static int n_looks;
static bool has_counter;

/* 100 W, in steps of 50 ms; a clock that falls by a tenth. */
static int pretend_health(struct backend *b, struct device_health *out, struct err *e)
{
    (void)b, (void)e;
    *out = (struct device_health){ .temperature_c = 40 + n_looks };
    out->clock_mhz = clock_of_look * (n_looks++ ? 0.9 : 1);
    snprintf(out->limits, sizeof out->limits, "%s", n_looks > 1 ? "power cap" : "none");
    return 0;
}

static int pretend_energy(struct backend *b, double *joule, struct err *e)
{
    (void)b, (void)e;
    *joule = has_counter ? 0.05 * watt_of_counter * floor((clock_seconds() - began_s) / 0.05) : NAN;
    return 0;
}

static int pretend_others(struct backend *b, int *out, struct err *e)
{
    (void)b, (void)e;
    *out = 2;
    return 0;
}

static void run_watched(struct bench_options *o, struct js *out)
{
    struct backend_ops ops = *backend.ops;
    const struct backend_ops *before = backend.ops;
    struct config c = config_of(",\"max_position_embeddings\":140");
    struct err e = ERR_INIT;

    ops.health = pretend_health;
    ops.energy = pretend_energy;
    ops.n_others = pretend_others;
    began_s = clock_seconds();
    n_looks = 0;
    clock_of_look = 1000;
    backend.notes[0] = 0;
    backend.ops = &ops;
    struct model m = random_model(&c);
    CHECK_OK(bench_run(&m, o, out, &e), e);
    model_release(&m);
    backend.ops = before;
}

static void test_clocks(void **state)
{
    struct bench_options o = options();
    struct js *out = js_new_object();
    (void)state;

    run_watched(&o, out);
    const struct js *clocks = js_get(out, "clocks"), *points = js_get(clocks, "points");
    size_t n = 2 + 1 + 1 + 2;
    struct js_member m = JS_MEMBER_INIT;
    CHECK(js_count(points) == 9, "the table has 9 columns");
    while (js_next(points, &m))
        CHECK(js_count(m.value) == n, "%s has a row a point", m.key);
    CHECK(!strcmp(js_text(js_at(js_get(points, "point"), 0)), "prefill 5") &&
              !strcmp(js_text(js_at(js_get(points, "point"), n - 1)), "throughput 3"),
          "a row is named by its point");
    CHECK(js_real(js_at(js_get(points, "sm_mhz_before"), 0)) == 1000 &&
              js_real(js_at(js_get(points, "sm_mhz_after"), 1)) == 900,
          "clocks before and after");
    CHECK(js_int(js_at(js_get(points, "warmup_runs"), 0)) >= 1, "how much was warm-up");
    CHECK(!strcmp(js_text(js_at(js_get(points, "limits_before"), 0)), "none") &&
              !strcmp(js_text(js_at(js_get(points, "limits"), 1)), "power cap"),
          "what held them down");
    CHECK(js_int(js_get(clocks, "other_processes")) == 2 &&
              strstr(backend.notes, "other processes"),
          "others on the device are noted: %s", backend.notes);
    CHECK(!js_get(out, "energy"), "energy was not asked for");
    js_release(out);
}

static int n_point_lines, n_sum_lines;

static void count_line(enum log_level level, const char *text, void *context)
{
    (void)context;
    if (level != LOG_DEBUG || strncmp(text, "benchmark: ", 11) != 0)
        return;
    if (strstr(text, "seconds: memory"))
        n_sum_lines += strstr(text, " 0 looks") == NULL;
    else
        n_point_lines++;
}

static void test_log_of_time(void **state)
{
    struct bench_options o = options();
    struct js *out = js_new_object();
    (void)state;

    log_set_listener(count_line, NULL);
    run_watched(&o, out);
    log_set_listener(NULL, NULL);
    CHECK(n_point_lines == 2 + 1 + 1 + 2 && n_sum_lines == 1,
          "a line a point and one of all phases, looks counted: %d, %d", n_point_lines,
          n_sum_lines);
    js_release(out);
}

static void test_a_clock_that_moved(void **state)
{
    struct bench_options o = options();
    struct js *out = js_new_object();
    (void)state;

    o.min_seconds = 0.25; /* long enough to be looked at twice */
    o.n_prefill = o.n_batch = 1;
    run_watched(&o, out);
    const struct js *clocks = js_get(out, "clocks"), *points = js_get(clocks, "points");
    CHECK(js_int(js_get(clocks, "moved_points")) == 1 &&
              js_int(js_at(js_get(points, "moved"), 0)) == 1 &&
              js_int(js_at(js_get(points, "moved"), 1)) == 0,
          "the first point alone is flagged");
    js_release(out);
}

static void test_energy(void **state)
{
    struct bench_options o = options();
    struct js *out = js_new_object();
    double idle = NAN;
    (void)state;

    o.energy = true;
    o.idle_watt = &idle;
    has_counter = true;
    run_watched(&o, out);
    has_counter = false;
    const struct js *energy = js_get(out, "energy");
    double watt = js_real(js_get(energy, "watt")), seconds = js_real(js_get(energy, "seconds"));
    CHECK(fabs(watt - 100) < 10, "100 W are seen as %g", watt);
    CHECK(seconds >= 2 && idle == js_real(js_get(energy, "idle_watt")) && fabs(idle - 100) < 10,
          "over %g s, at rest %g W", seconds, idle);
    CHECK(fabs(js_real(js_get(energy, "joule_per_token")) *
                   (double)js_int(js_get(energy, "n_tokens")) -
               watt * seconds) < 1e-6 * watt * seconds,
          "a token's share of it");
    js_release(out);

    out = js_new_object();
    run_watched(&o, out);
    CHECK(!js_get(out, "energy") && strstr(backend.notes, "energy: not told"),
          "without a counter it is said: %s", backend.notes);
    js_release(out);
}

/* Member k draws 100 (k + 1) W; the one that `what` names has no counter. */
static int measure_member(struct member *m, const void *what, struct err *e)
{
    struct bench_options o = options();
    struct js *out = js_new_object();
    double numbers[4] = { NAN };

    (void)e;
    backend = m->backend;
    o.energy = true;
    o.n_prefill = o.n_batch = 1;
    has_counter = m->index != *(const int *)what;
    watt_of_counter = 100 * (m->index + 1);
    run_watched(&o, out);
    const struct js *energy = js_get(out, "energy");
    if (energy) {
        numbers[0] = js_real(js_get(energy, "watt"));
        numbers[1] = js_real(js_get(energy, "idle_watt"));
        numbers[2] = js_real(js_get(energy, "seconds"));
        numbers[3] =
            js_real(js_get(energy, "joule_per_token")) * (double)js_int(js_get(energy, "n_tokens"));
    }
    member_give(m, numbers, sizeof numbers);
    const int64_t bytes[] = { member(out, "scratch_bytes"),
                              strstr(backend.notes, "energy: not told by a device of the group") !=
                                  NULL };
    member_give(m, bytes, sizeof bytes);
    m->backend = backend;
    js_release(out);
    return 0;
}

static void test_groups(void **state)
{
    const int nobody = -1, second = 1;
    double numbers[4];
    int64_t said[2], alone[2];
    (void)state;

    CHECK(members_run(1, measure_member, &nobody), "one measures");
    memcpy(alone, shared->result[0] + sizeof numbers, sizeof alone);
    CHECK(members_run(2, measure_member, &nobody), "two measure together");
    for (int i = 0; i < 2; i++) {
        memcpy(numbers, shared->result[i], sizeof numbers);
        memcpy(said, shared->result[i] + sizeof numbers, sizeof said);
        CHECK(fabs(numbers[0] - 300) < 30 && fabs(numbers[1] - 300) < 30 && numbers[2] >= 2,
              "the energy of both: %g W over %g s, at rest %g W", numbers[0], numbers[2],
              numbers[1]);
        CHECK(fabs(numbers[3] - numbers[0] * numbers[2]) < 1e-6 * numbers[3], "in each token");
        CHECK(said[0] - alone[0] == backend_group_bytes("cpu", 2),
              "%lld bytes of scratch, %lld alone", (long long)said[0], (long long)alone[0]);
    }
    CHECK(members_run(2, measure_member, &second), "one of them without a counter");
    memcpy(numbers, shared->result[0], sizeof numbers);
    memcpy(said, shared->result[0] + sizeof numbers, sizeof said);
    CHECK(isnan(numbers[0]) && said[1], "no number, and why");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_groups), /* before there are threads, which a fork would lose */
        cmocka_unit_test(test_what_comes_out),
        cmocka_unit_test(test_minimum_time),
        cmocka_unit_test(test_work),
        cmocka_unit_test(test_memory),
        cmocka_unit_test(test_points_beyond_the_positions),
        cmocka_unit_test(test_prompts),
        cmocka_unit_test(test_pieces),
        cmocka_unit_test(test_clocks),
        cmocka_unit_test(test_log_of_time),
        cmocka_unit_test(test_a_clock_that_moved),
        cmocka_unit_test(test_energy),
    };

    if (!members_share())
        return 1;
    return cmocka_run_group_tests_name("bench", tests, set_up, tear_down);
}
