/* sweep_by_hand.h - a small sweep and its records, without a sweep file and without a model. */
#pragma once

#include "check.h"

#include "base/js.h"
#include "base/rng.h"
#include "record/summary.h"

#include <string.h>

#define HAND_MAX 64

struct hand {
    struct sweep s;
    struct experiment x[8];
    struct job jobs[HAND_MAX];
    struct js *record[HAND_MAX];
    int n_records;
};

/* Experiments 0 ... n - 1: fp16 (the baseline), nf4, rtn2, rtn3; every one under n_seeds seeds.
 * subset: of coqa, "random" or "first". */
static inline void hand_init(struct hand *h, int n, int n_seeds, const char *subset)
{
    static const struct experiment all[] = {
        { .name = "fp16", .method = "none", .bits = 16, .compute_dtype = "fp16" },
        { .name = "nf4",
          .method = "bnb_4bit",
          .bits = 4,
          .group_size = 64,
          .quant_type = "nf4",
          .double_quant = true,
          .compute_dtype = "fp16" },
        { .name = "rtn2",
          .method = "rtn",
          .bits = 2,
          .group_size = 128,
          .quant_type = "int",
          .compute_dtype = "fp16" },
        { .name = "rtn3",
          .method = "rtn",
          .bits = 3,
          .group_size = 128,
          .quant_type = "int",
          .compute_dtype = "fp16" },
    };
    struct js *coqa = js_new_object();

    memset(h, 0, sizeof *h);
    memcpy(h->x, all, sizeof all);
    snprintf(h->s.name, sizeof h->s.name, "by hand");
    snprintf(h->s.baseline, sizeof h->s.baseline, "fp16");
    h->s.confidence = 0.95;
    h->s.experiments = h->x;
    h->s.n_experiments = h->s.n_known = n;
    h->s.jobs = h->jobs;
    for (int i = 0; i < n; i++)
        for (int seed = 0; seed < n_seeds; seed++)
            h->jobs[h->s.n_jobs++] =
                (struct job){ .experiment = &h->x[i], .seed = seed, .quality = true };
    for (h->s.n_seeds = 0; h->s.n_seeds < n_seeds; h->s.n_seeds++)
        h->s.seeds[h->s.n_seeds] = h->s.n_seeds;
    h->s.tasks = js_new_object();
    js_set_text(coqa, "subset", subset);
    js_set(h->s.tasks, "coqa", coqa);
    js_set(h->s.tasks, "perplexity", js_new_object());
}

static inline void hand_release(struct hand *h)
{
    for (int i = 0; i < h->n_records; i++)
        js_release(h->record[i]);
    js_release(h->s.tasks);
    js_release(h->s.benchmark);
}

static inline struct js *hand_record(struct hand *h, const char *experiment, int64_t seed,
                                     const char *status)
{
    struct js *r = js_new_object(), *job = js_new_object(), *seconds = js_new_object();

    js_set_text(job, "experiment", experiment);
    js_set_int(job, "seed", seed);
    js_set(r, "job", job);
    js_set_text(r, "status", status);
    js_set_text(r, "device", "cpu");
    js_set_text(r, "finished", "2026-01-01T00:00:00Z");
    js_set_real(seconds, "total", 1.5);
    js_set(r, "seconds", seconds);
    return h->record[h->n_records++] = r;
}

static inline struct js *hand_reals(const double *x, int n)
{
    struct js *list = js_new_array();

    for (int i = 0; i < n; i++)
        js_append(list, js_new_real(x[i]));
    return list;
}

/* One score a document; documents are called "d7"; the official rule gives half. */
static inline void hand_coqa(struct js *r, int n, const int *document, const double *f1,
                             const double *em)
{
    struct js *c = js_new_object(), *ids = js_new_array(), *turns = js_new_array();
    double sum_f1 = 0, sum_em = 0, *half = malloc((size_t)n * sizeof *half);

    for (int i = 0; i < n; i++) {
        char id[16];
        snprintf(id, sizeof id, "d%d", document[i]);
        js_append(ids, js_new_text(id));
        js_append(turns, js_new_int(5));
        sum_f1 += f1[i];
        sum_em += em[i];
        half[i] = f1[i] / 2;
    }
    js_set_real(c, "f1", sum_f1 / n);
    js_set_real(c, "em", sum_em / n);
    js_set_real(c, "f1_official", sum_f1 / n / 2);
    js_set_real(c, "em_official", sum_em / n);
    js_set_int(c, "n", n);
    js_set(c, "document_id", ids);
    js_set(c, "turn", turns);
    js_set(c, "f1_item", hand_reals(f1, n));
    js_set(c, "em_item", hand_reals(em, n));
    js_set(c, "f1_official_item", hand_reals(half, n));
    js_set(c, "em_official_item", hand_reals(em, n));
    free(half);
    js_set(r, "coqa", c);
}

static inline void hand_windows(struct js *r, int n, const double *nll)
{
    struct js *p = js_new_object();
    double sum = 0;

    for (int i = 0; i < n; i++)
        sum += nll[i];
    js_set_real(p, "perplexity", exp(sum / n));
    js_set(p, "window_nll", hand_reals(nll, n));
    js_set(r, "perplexity", p);
}

static inline void hand_sizes(struct js *r, double mib, double hf_mib, double bits)
{
    struct js *q = js_new_object();

    js_set_int(q, "model_bytes", (int64_t)(mib * 1048576));
    js_set_real(q, "hf_footprint_bytes", hf_mib * 1048576);
    js_set_real(q, "bits_per_weight_linear", bits);
    js_set_real(q, "bits_per_weight_model", bits + 0.5);
    js_set_real(q, "seconds", 0.25);
    js_set(r, "quantization", q);
}

/* Samples 1.0, 1.1, ... of every timing, times `slow`. */
static inline void hand_benchmark(struct js *r, int repeats, double slow)
{
    struct js *l = js_new_object(), *t = js_new_object(), *m = js_new_object();
    struct js *prefill = js_new_array(), *sizes = js_new_array(), *tokens = js_new_array();
    double x[HAND_MAX];

    for (int i = 0; i < repeats; i++)
        x[i] = slow * (1 + 0.1 * i);
    js_append(prefill, hand_reals(x, repeats));
    js_set(l, "prefill_ms", prefill);
    js_set(l, "decode_ms_per_token", hand_reals(x, repeats));
    js_set(l, "e2e_ms", hand_reals(x, repeats));
    js_set(r, "latency", l);
    for (int i = 0; i < 2; i++) {
        js_append(sizes, js_new_int(i ? 16 : 1));
        js_append(tokens, hand_reals(x, repeats));
    }
    js_set(t, "batch_size", sizes);
    js_set(t, "tokens_per_s", tokens);
    js_set(r, "throughput", t);
    js_set_int(m, "peak_bytes", 3 << 20);
    js_set(r, "memory", m);
}

/* A score in (0, 1) that depends on its arguments alone. */
static inline double hand_score(int experiment, int document)
{
    return 0.2 + 0.6 * rng_real(1, RNG_TEST, (uint64_t)document) -
           0.15 * experiment * rng_real((uint64_t)experiment, RNG_TEST, (uint64_t)document);
}
