/* metric.c - see metric.h. */
#include "record/metric.h"

#include "base/memory.h"
#include "base/stats.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MIB (1.0 / 1048576)

/* acc of a choice task, which is compared, and acc_norm, which is told. */
#define CHOICE(task, title)                                                                \
    {                                                                                      \
        .name = task "_acc", .unit = "1",                                                  \
        .what = title ": share of right choices, lm-evaluation-harness's acc",             \
        .higher_is_better = 1, .kind = METRIC_QUALITY, .group = "multiple_choice." task,   \
        .member = "acc", .item = "correct", .margin = "acc", .scale = 1, .is_share = true, \
        .in_summary = true, .is_compared = true                                            \
    }
#define CHOICE_NORM(task, title)                                                         \
    {                                                                                    \
        .name = task "_acc_norm", .unit = "1",                                           \
        .what = title ": likewise by the characters of each choice, acc_norm",           \
        .higher_is_better = 1, .kind = METRIC_QUALITY, .group = "multiple_choice." task, \
        .member = "acc_norm", .item = "correct_norm", .margin = "acc", .scale = 1,       \
        .is_share = true, .in_summary = true                                             \
    }

const struct metric metrics[] = {
    { .name = "coqa_f1",
      .unit = "1",
      .what = "CoQA F1 by the rule of lm-evaluation-harness",
      .higher_is_better = 1,
      .kind = METRIC_QUALITY,
      .group = "coqa",
      .member = "f1",
      .item = "f1_item",
      .scale = 1,
      .is_share = true,
      .in_summary = true,
      .is_compared = true },
    { .name = "coqa_em",
      .unit = "1",
      .what = "CoQA exact match by the rule of lm-evaluation-harness",
      .higher_is_better = 1,
      .kind = METRIC_QUALITY,
      .group = "coqa",
      .member = "em",
      .item = "em_item",
      .scale = 1,
      .is_share = true,
      .in_summary = true,
      .is_compared = true },
    { .name = "coqa_f1_official",
      .unit = "1",
      .what = "CoQA F1 by the rule of the official evaluator",
      .higher_is_better = 1,
      .kind = METRIC_QUALITY,
      .group = "coqa",
      .member = "f1_official",
      .item = "f1_official_item",
      .scale = 1,
      .is_share = true },
    { .name = "coqa_em_official",
      .unit = "1",
      .what = "CoQA exact match by the rule of the official evaluator",
      .higher_is_better = 1,
      .kind = METRIC_QUALITY,
      .group = "coqa",
      .member = "em_official",
      .item = "em_official_item",
      .scale = 1,
      .is_share = true },
    { .name = "perplexity",
      .unit = "1",
      .what = "exp of the mean negative log likelihood of a token; means and intervals on the log",
      .higher_is_better = 0,
      .kind = METRIC_QUALITY,
      .group = "perplexity",
      .member = "perplexity",
      .item = "window_nll",
      .weights = "window_tokens",
      .scale = 1,
      .log_scale = true,
      .in_summary = true,
      .is_compared = true },
    { .name = "word_perplexity",
      .unit = "1",
      .what = "by words of the text, as lm-evaluation-harness counts them",
      .higher_is_better = 0,
      .kind = METRIC_QUALITY,
      .group = "perplexity",
      .member = "word_perplexity",
      .scale = 1,
      .log_scale = true },
    { .name = "byte_perplexity",
      .unit = "1",
      .what = "by bytes of the text",
      .higher_is_better = 0,
      .kind = METRIC_QUALITY,
      .group = "perplexity",
      .member = "byte_perplexity",
      .scale = 1,
      .log_scale = true },
    { .name = "bits_per_byte",
      .unit = "bit",
      .what = "of the text",
      .higher_is_better = 0,
      .kind = METRIC_QUALITY,
      .group = "perplexity",
      .member = "bits_per_byte",
      .scale = 1 },
    { .name = "kl",
      .unit = "nat",
      .what = "KL divergence from the unquantized model, mean over scored tokens",
      .higher_is_better = 0,
      .kind = METRIC_QUALITY,
      .group = "divergence",
      .member = "kl_mean",
      .item = "window_kl",
      .weights = "window_tokens",
      .scale = 1,
      .compared_as_log = true,
      .in_summary = true,
      .is_compared = true },
    { .name = "top1_agreement",
      .unit = "1",
      .what = "share of tokens where the unquantized model thinks the same id most likely",
      .higher_is_better = 1,
      .kind = METRIC_QUALITY,
      .group = "divergence",
      .member = "top1_agreement",
      .item = "window_top1_agreement",
      .weights = "window_tokens",
      .scale = 1,
      .is_share = true,
      .in_summary = true,
      .is_compared = true },
    CHOICE("hellaswag", "HellaSwag"),
    CHOICE_NORM("hellaswag", "HellaSwag"),
    CHOICE("arc_easy", "ARC easy"),
    CHOICE_NORM("arc_easy", "ARC easy"),
    CHOICE("arc_challenge", "ARC challenge"),
    CHOICE_NORM("arc_challenge", "ARC challenge"),
    CHOICE("piqa", "PIQA"),
    CHOICE_NORM("piqa", "PIQA"),
    CHOICE("winogrande", "WinoGrande"),
    CHOICE("openbookqa", "OpenBookQA"),
    CHOICE_NORM("openbookqa", "OpenBookQA"),
    CHOICE("boolq", "BoolQ"),
    CHOICE("mmlu", "MMLU"),
    CHOICE("lambada", "LAMBADA"),
    { .name = "lambada_perplexity",
      .unit = "1",
      .what = "LAMBADA: exp of the mean negative log likelihood of the last word",
      .higher_is_better = 0,
      .kind = METRIC_QUALITY,
      .group = "multiple_choice.lambada",
      .member = "perplexity",
      .item = "nll",
      .scale = 1,
      .log_scale = true,
      .in_summary = true },
    { .name = "prefill_ms",
      .unit = "ms",
      .what = "prompt of prefill_tokens[0] to the first token on the host, batch 1, median",
      .higher_is_better = 0,
      .kind = METRIC_TIMING,
      .group = "latency",
      .member = "prefill_ms",
      .shape = SHAPE_FIRST,
      .scale = 1,
      .in_summary = true },
    { .name = "decode_ms_per_token",
      .unit = "ms",
      .what = "one further token, batch 1, at context prefill_tokens[0], median",
      .higher_is_better = 0,
      .kind = METRIC_TIMING,
      .group = "latency",
      .member = "decode_ms_per_token",
      .shape = SHAPE_SAMPLES,
      .scale = 1,
      .in_summary = true },
    { .name = "e2e_ms",
      .unit = "ms",
      .what = "prefill of a 4-token prompt and 128 tokens, batch 1, median",
      .higher_is_better = 0,
      .kind = METRIC_TIMING,
      .group = "latency",
      .member = "e2e_ms",
      .shape = SHAPE_SAMPLES,
      .scale = 1 },
    { .name = "throughput_tok_s_b",
      .unit = "tokens/s",
      .what = "generated tokens a second at this batch size, launch to last token, median",
      .higher_is_better = 1,
      .kind = METRIC_TIMING,
      .group = "throughput",
      .member = "tokens_per_s",
      .shape = SHAPE_BATCHES,
      .scale = 1,
      .in_summary = true },
    { .name = "peak_mb",
      .unit = "MiB",
      .what = "packed weights, cache and scratch of the largest benchmark point",
      .higher_is_better = 0,
      .kind = METRIC_SIZE,
      .group = "memory",
      .member = "peak_bytes",
      .scale = MIB,
      .in_summary = true },
    { .name = "quantize_s",
      .unit = "s",
      .what = "quantization alone, without loading and without measuring its errors",
      .higher_is_better = 0,
      .kind = METRIC_TIMING,
      .group = "quantization",
      .member = "seconds",
      .scale = 1,
      .in_summary = true },
    { .name = "joule_per_token",
      .unit = "J",
      .what = "energy of one further token, batch 1, at context prefill_tokens[0]",
      .higher_is_better = 0,
      .kind = METRIC_TIMING,
      .group = "energy",
      .member = "joule_per_token",
      .scale = 1,
      .in_summary = true },
    { .name = "model_mb",
      .unit = "MiB",
      .what = "true bytes of the whole resident model",
      .higher_is_better = 0,
      .kind = METRIC_SIZE,
      .group = "quantization",
      .member = "model_bytes",
      .scale = MIB },
    { .name = "model_size_mb",
      .unit = "MiB",
      .what = "as Hugging Face get_memory_footprint counts; NaN without a Hugging Face form",
      .higher_is_better = 0,
      .kind = METRIC_SIZE,
      .group = "quantization",
      .member = "hf_footprint_bytes",
      .scale = MIB },
    { .name = "bits_per_weight",
      .unit = "bit",
      .what = "of the quantized linears, scales and zero points included",
      .higher_is_better = 0,
      .kind = METRIC_SIZE,
      .group = "quantization",
      .member = "bits_per_weight_linear",
      .scale = 1 },
    { .name = "bits_per_weight_model",
      .unit = "bit",
      .what = "of the whole model, embedding and norms included",
      .higher_is_better = 0,
      .kind = METRIC_SIZE,
      .group = "quantization",
      .member = "bits_per_weight_model",
      .scale = 1 },
    { 0 },
};

const struct metric *metric_find(const char *name)
{
    for (const struct metric *m = metrics; m->name; m++) {
        size_t n = strlen(m->name);
        if (!strcmp(m->name, name))
            return m;
        if (m->shape == SHAPE_BATCHES && !strncmp(m->name, name, n) && name[n] &&
            name[n + strspn(name + n, "0123456789")] == 0)
            return m;
    }
    return NULL;
}

struct measure measure_of(const struct metric *m, int64_t batch_size)
{
    struct measure out = { .metric = m, .batch_size = batch_size };

    if (m->shape == SHAPE_BATCHES)
        snprintf(out.name, sizeof out.name, "%s%lld", m->name, (long long)batch_size);
    else
        snprintf(out.name, sizeof out.name, "%s", m->name);
    return out;
}

/* The node that holds the value or its samples; NULL where there is none. */
static const struct js *find(const struct measure *m, const struct js *record)
{
    const struct js *group = js_find(record, m->metric->group);
    const struct js *member = js_get(group, m->metric->member);

    if (m->metric->shape == SHAPE_FIRST)
        return js_at(member, 0);
    if (m->metric->shape != SHAPE_BATCHES)
        return member;
    const struct js *sizes = js_get(group, "batch_size");
    for (size_t i = 0; i < js_count(sizes); i++)
        if (js_int(js_at(sizes, i)) == m->batch_size)
            return js_at(member, i);
    return NULL;
}

bool measure_is_in(const struct measure *m, const struct js *record)
{
    const struct js *at = find(m, record);

    return at && (m->metric->shape == SHAPE_SCALAR || js_count(at) > 0);
}

double *measure_samples(const struct measure *m, const struct js *record, int64_t *n)
{
    const struct js *at = m->metric->shape == SHAPE_SCALAR ? NULL : find(m, record);

    *n = (int64_t)js_count(at);
    if (*n == 0)
        return NULL;
    double *x = mem_array((size_t)*n, sizeof *x);
    for (int64_t i = 0; i < *n; i++)
        x[i] = js_real(js_at(at, (size_t)i)) * m->metric->scale;
    return x;
}

double measure_value(const struct measure *m, const struct js *record)
{
    int64_t n;

    if (m->metric->shape == SHAPE_SCALAR)
        return js_real(find(m, record)) * m->metric->scale;
    double *x = measure_samples(m, record, &n);
    double median = stats_median(x, n);
    free(x);
    return median;
}
