/* bench.h - timings and bytes of one model, by the definitions of sweeps/README.md:
 * prefill_ms, decode_ms_per_token, e2e_ms, throughput; memory of what a deployment
 * holds (packed weights + cache + scratch of the largest point).  Of a model in parts: the times of
 * the group, the energy of all its devices, the bytes of this one. */
#pragma once

#include "base/js.h"
#include "model/model.h"

#define BENCH_LIST_MAX 16

struct bench_options {
    int warmup, repeats;
    double warmup_seconds, min_seconds;
    int n_prefill, n_batch;
    int64_t prefill_tokens[BENCH_LIST_MAX];
    int64_t decode_tokens;
    int batch_sizes[BENCH_LIST_MAX];
    bool energy;
    double *idle_watt; /* kept between benchmarks of one device: NaN until measured; may be NULL */
    int64_t seed;      /* prompt ids */
};

/* Can it run on a model of this config?  ERR_USAGE names the setting that is beyond its positions.
 */
int bench_check(const struct config *c, const struct bench_options *o, struct err *e);

/* Fills out with members "memory", "latency", "throughput", "roofline" (and "clocks", "energy"
 * where the device tells), shaped like the groups of the results file. */
int bench_run(const struct model *m, const struct bench_options *o, struct js *out, struct err *e);

/* Bytes of cache and scratch at the largest point, for --dry-run. */
int64_t bench_peak_bytes(const struct config *c, enum dtype t, const struct bench_options *o,
                         int64_t model_bytes);
