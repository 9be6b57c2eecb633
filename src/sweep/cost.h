/* cost.h - what a job will take, before it runs: seconds and bytes from plain numbers.
 *
 * Good for the order of jobs (longest first), --time-limit and --dry-run; a guess within a factor
 * of a few, by a roofline: a step takes the longer of its arithmetic and its memory traffic.  The
 * caller gives the shapes and counts; nothing here knows a model file.  */
#pragma once

#include "base/js.h"

#include <stdbool.h>
#include <stdint.h>

/* Rates of the device a rank works with. */
struct cost_device {
    double flops_per_s;   /* of matrix products */
    double bytes_per_s;   /* of memory */
    double weights_per_s; /* quantized or dequantized */
};

/* Middling rates, stated in --dry-run: a core of a server, and a data-centre GPU. */
struct cost_device cost_cpu(int n_threads);
struct cost_device cost_gpu(void);

struct cost_input {
    struct cost_device device;

    /* Of the model. */
    int64_t n_linear_parameters; /* the 7 linears of every layer */
    int64_t n_head_parameters;   /* vocabulary x width */
    int64_t kv_bytes_per_token;
    int64_t base_bytes; /* the checkpoint, where it stays on the device; else 0 */

    /* Of the experiment. */
    bool quantized;
    int64_t model_bytes;      /* as quant_sizes_of() counts */
    int64_t scratch_bytes;    /* what a device holds for the group it works in */
    double calibration_flops; /* of methods that look at text: layers, Hessians, searches */

    /* Of the tasks; 0 where not asked for. */
    bool quality;
    int batch_size;          /* sequences at a time; 0: 8 */
    int64_t n_sequences;     /* prompts to continue */
    int64_t prompt_tokens;   /* of all of them */
    int64_t new_tokens;      /* generated for all of them */
    int64_t n_window_tokens; /* scored in windows, every logit row needed */
    int64_t longest_tokens;  /* of one sequence, prompt and new */

    /* The resolved [benchmark] table, or NULL. */
    const struct js *benchmark;
};

struct cost {
    double quantize_s, evaluate_s, benchmark_s, total_s;
    int64_t device_bytes; /* base + model + cache + scratch of the largest point */
};

struct cost cost_estimate(const struct cost_input *in);
