/* cost.c - see cost.h. */
#include "sweep/cost.h"

#include <math.h>

#define THROUGHPUT_PROMPT 16 /* tokens; the contract's throughput and e2e measures */
#define E2E_PROMPT        4
#define E2E_NEW           128
#define BATCH_GUESS       8

struct cost_device cost_cpu(int n_threads)
{
    /* Cores share the memory: its rate stops growing at four.  One core of an EPYC 9004 on the
     * demo sweep: 60 GFLOP/s in prefill, packed weights decoded at about 1.5 G/s. */
    return (struct cost_device){ .flops_per_s = 50e9 * n_threads,
                                 .bytes_per_s = 8e9 * fmin(n_threads, 4),
                                 .weights_per_s = 1.2e9 * n_threads };
}

struct cost_device cost_gpu(void)
{
    return (
        struct cost_device){ .flops_per_s = 1e14, .bytes_per_s = 1.5e12, .weights_per_s = 5e10 };
}

/* One forward call: n_rows tokens through the layers, n_logits of them through the head. */
static double call_s(const struct cost_input *in, double n_rows, double n_logits)
{
    double flops =
        2 * (n_rows * (double)in->n_linear_parameters + n_logits * (double)in->n_head_parameters);
    double s =
        fmax(flops / in->device.flops_per_s, (double)in->model_bytes / in->device.bytes_per_s);

    return in->quantized ? s + (double)in->n_linear_parameters / in->device.weights_per_s : s;
}

static double evaluate_s(const struct cost_input *in)
{
    double batch = in->batch_size > 0 ? in->batch_size : BATCH_GUESS;
    double s = 0;

    if (in->n_sequences > 0) {
        double n_calls = ceil((double)in->n_sequences / batch);
        s += n_calls * call_s(in, (double)in->prompt_tokens / n_calls, batch);
        s += (double)in->new_tokens / batch * call_s(in, batch, batch);
    }
    if (in->n_window_tokens > 0) {
        double n_calls = ceil((double)in->n_window_tokens / 2048);
        double n_rows = (double)in->n_window_tokens / n_calls;
        s += n_calls * call_s(in, n_rows, n_rows);
    }
    return s;
}

/* A phase of one-run time t: warm-up and repeats are minima, and so are their seconds. */
static double phase_s(const struct js *b, double t)
{
    return fmax(js_real(js_get(b, "warmup")) * t, js_real(js_get(b, "warmup_seconds"))) +
           fmax(js_real(js_get(b, "repeats")) * t, js_real(js_get(b, "min_seconds")));
}

static double generate_s(const struct cost_input *in, double batch, double prompt, double n_new)
{
    return call_s(in, batch * prompt, batch) + n_new * call_s(in, batch, batch);
}

static double benchmark_s(const struct cost_input *in)
{
    const struct js *b = in->benchmark;
    const struct js *prefill = js_get(b, "prefill_tokens"), *batches = js_get(b, "batch_sizes");
    double n_new = js_real(js_get(b, "decode_tokens")), s = 0;

    for (size_t i = 0; i < js_count(prefill); i++)
        s += phase_s(b, call_s(in, js_real(js_at(prefill, i)), 1));
    s += phase_s(b, generate_s(in, 1, js_real(js_at(prefill, 0)), n_new));
    s += phase_s(b, generate_s(in, 1, E2E_PROMPT, E2E_NEW));
    for (size_t i = 0; i < js_count(batches); i++)
        s += phase_s(b, generate_s(in, js_real(js_at(batches, i)), THROUGHPUT_PROMPT, n_new));
    return s;
}

/* Tokens in the cache at the largest point of tasks and benchmark. */
static double cached_tokens(const struct cost_input *in)
{
    const struct js *b = in->benchmark;
    const struct js *prefill = js_get(b, "prefill_tokens"), *batches = js_get(b, "batch_sizes");
    double n_new = b ? js_real(js_get(b, "decode_tokens")) : 0, most = 0;

    if (in->quality)
        most = (double)in->longest_tokens * (in->batch_size > 0 ? in->batch_size : BATCH_GUESS);
    if (b)
        most = fmax(most, E2E_PROMPT + E2E_NEW);
    for (size_t i = 0; i < js_count(prefill); i++)
        most = fmax(most, js_real(js_at(prefill, i)) + (i == 0 ? n_new : 0));
    for (size_t i = 0; i < js_count(batches); i++)
        most = fmax(most, js_real(js_at(batches, i)) * (THROUGHPUT_PROMPT + n_new));
    return most;
}

struct cost cost_estimate(const struct cost_input *in)
{
    struct cost out = { 0 };

    /* Each job makes its model, also one that only measures speed. */
    out.quantize_s = in->quantized ? (double)in->n_linear_parameters / in->device.weights_per_s
                                   : (double)in->model_bytes / in->device.bytes_per_s;
    out.quantize_s += in->calibration_flops / in->device.flops_per_s;
    if (in->quality)
        out.evaluate_s = evaluate_s(in);
    if (in->benchmark)
        out.benchmark_s = benchmark_s(in);
    out.total_s = out.quantize_s + out.evaluate_s + out.benchmark_s;
    out.device_bytes = in->base_bytes + in->model_bytes + in->scratch_bytes +
                       (int64_t)(cached_tokens(in) * (double)in->kv_bytes_per_token);
    return out;
}
