/* run_job.h - one job, from settings to record.  With run_sweep.c the only place that sees both
 * towers: what to run and what came out, and how one job is done. */
#pragma once

#include "base/js.h"
#include "bench/bench.h"
#include "quant/quant.h"
#include "sched/engine.h"
#include "sweep/job.h"

struct runner; /* an engine's state: device, base model, tokenizer, data.  Lifetime: the engine */

struct runner *runner_new(void);
/* The engine's three verbs; engine_body.context is the runner. */
int runner_setup(void *runner, const struct engine_site *site, const void *setup, size_t n_bytes,
                 struct err *e);
int runner_run(void *runner, const void *job, size_t n_bytes, struct bytes *record, struct err *e);
void runner_close(void *runner);

/* An experiment's settings in the words of the quantizers. */
int spec_of_experiment(const struct experiment *x, struct quant_spec *out, struct err *e);
/* "stored" -> DTYPE_OTHER, as quantize_model() wants it. */
enum dtype source_of_name(const char *name);
/* The resolved [benchmark] table. */
int bench_options_of(const struct js *j, int64_t seed, struct bench_options *o, struct err *e);
