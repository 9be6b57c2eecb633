/* store_h5_facts.c - see store_h5_inner.h: unit, direction and meaning of a record's members. */
#include "record/store_h5_inner.h"

#include <string.h>

static const struct {
    const char *key;
    struct h5_facts facts;
} known[] = {
    { "f1", { "1", "word overlap with the gold answers, mean over documents", 1 } },
    { "em", { "1", "exact match with a gold answer, mean over documents", 1 } },
    { "f1_official", { "1", "F1 by the gold rule of CoQA's own evaluation", 1 } },
    { "em_official", { "1", "exact match by the gold rule of CoQA's own evaluation", 1 } },
    { "precision", { "1", "precision of the words of the answer", 1 } },
    { "recall", { "1", "recall of the words of the answer", 1 } },
    { "n", { "documents", "documents that were scored", -1 } },
    { "truncated", { "documents", "documents whose context had to be cut", -1 } },
    { "acc", { "1", "share of right choices, by log likelihood", 1 } },
    { "acc_norm", { "1", "the same by log likelihood over characters of the choice", 1 } },
    { "chosen", { "", "number of the choice with the largest log likelihood", -1 } },
    { "chosen_norm", { "", "the same by character", -1 } },
    { "correct", { "1", "1 where that is the right one", 1 } },
    { "correct_norm", { "1", "1 where that is the right one", 1 } },
    { "gold", { "", "number of the right choice", -1 } },
    { "log_likelihood", { "nat", "of each choice behind its context", -1 } },
    { "nll", { "nat", "negative log-likelihood of the last word", 0 } },
    { "perplexity", { "1", "exp of the mean negative log-likelihood of a token", 0 } },
    { "nll_sum", { "nat", "negative log-likelihood of all predicted tokens", 0 } },
    { "n_tokens", { "tokens", "predicted tokens", -1 } },
    { "window", { "tokens", "length of a window", -1 } },
    { "window_nll", { "nat/token", "mean negative log-likelihood of each window", 0 } },
    { "word_perplexity", { "1", "exp of the loss a word", 0 } },
    { "byte_perplexity", { "1", "exp of the loss a byte", 0 } },
    { "bits_per_byte", { "bit", "of the text", 0 } },
    { "kl_mean", { "nat", "KL divergence from the unquantized model, mean over tokens", 0 } },
    { "window_kl", { "nat", "mean KL divergence of each window", 0 } },
    { "top1_agreement", { "1", "tokens with the same likeliest id as unquantized", 1 } },
    { "window_top1_agreement", { "1", "the same of each window", 1 } },
    { "flips", { "tokens", "tokens whose likeliest id changed", 0 } },
    { "delta_p_mean", { "%", "change of the probability of the right token", -1 } },
    { "delta_p_rms", { "%", "root mean square of that change", 0 } },
    { "log_perplexity_ratio", { "1", "log of perplexity / unquantized perplexity", 0 } },
    { "bits_per_weight", { "bit", "stored bits a weight, scales counted", 0 } },
    { "bits_per_weight_linear", { "bit", "stored bits a weight of the quantized linears", 0 } },
    { "bits_per_weight_model", { "bit", "stored bits a weight of the whole model", 0 } },
    { "mse", { "1", "mean squared error of the weights", 0 } },
    { "relative_error", { "1", "norm of the error over the norm of the weights", 0 } },
    { "loss", { "1", "half the sum of squared errors over the squared pivots of the solver", 0 } },
    { "output_error",
      { "1", "norm of the output's error over the output's norm, calibration", 0 } },
    { "ratio", { "1", "exponent of the activations in AWQ's scales", -1 } },
    { "ratio_loss", { "1", "mean squared error of the module's output with these scales", 0 } },
    { "damp", { "1", "added to the Hessian's diagonal, over its mean", -1 } },
    { "damp_floor", { "1", "added beyond that, over the largest element", -1 } },
    { "damp_raised", { "times", "failed factorisations", -1 } },
    { "solver_seconds", { "s", "time of the solver", 0 } },
    { "model_size_mb", { "MiB", "size as Hugging Face's get_memory_footprint counts it", 0 } },
    { "model_bytes", { "byte", "everything of the model that stays in memory", 0 } },
    { "peak_bytes", { "byte", "weights, cache and scratch of the largest point", 0 } },
    { "kv_cache_bytes", { "byte", "key and value cache of the largest point", 0 } },
    { "scratch_bytes", { "byte", "scratch of the largest point", 0 } },
    { "prefill_ms", { "ms", "time to process a prompt, one value a repeat", 0 } },
    { "decode_ms_per_token", { "ms", "time for one more token at batch 1", 0 } },
    { "e2e_ms", { "ms", "prompt of 4 tokens and 128 tokens more", 0 } },
    { "tokens_per_s", { "tokens/s", "new tokens in a second, all sequences together", 1 } },
    { "batch_size", { "sequences", "sequences decoded together", -1 } },
    { "prefill_tokens", { "tokens", "length of the prompt", -1 } },
    { "joule_per_token", { "J", "energy of one token", 0 } },
    { "idle_watt", { "W", "power of the device at rest", -1 } },
    { "watt", { "W", "power of the device while it decoded", -1 } },
    { "sm_mhz_before", { "MHz", "clock of the processors behind the warm-up", -1 } },
    { "sm_mhz_after", { "MHz", "clock of the processors at the end", -1 } },
    { "moved", { "1", "1 where that clock moved by more than 3 % meanwhile", -1 } },
    { "limits", { "", "what held the clock down", -1 } },
    { "temperature_c", { "degree Celsius", "of the chip, the highest seen", -1 } },
    { "gbyte", { "GB", "that must be read: weights once a pass, keys and values", -1 } },
    { "gflop", { "GFLOP", "that must be done", -1 } },
    { "gbyte_per_s", { "GB/s", "of these, in the median run", 1 } },
    { "tflop_per_s", { "TFLOP/s", "of these, in the median run", 1 } },
    { "device_ms", { "ms", "time of the whole run on the device itself, median", 0 } },
};

/* Names say their unit at the end; this is for members that the table above does not know. */
static const struct {
    const char *ending;
    struct h5_facts facts;
} endings[] = {
    { "_bytes", { "byte", "", -1 } },    { "_ms", { "ms", "", -1 } },
    { "_mb", { "MiB", "", -1 } },        { "seconds", { "s", "", -1 } },
    { "_tokens", { "tokens", "", -1 } },
};

const struct h5_facts *h5_facts_of(const char *key)
{
    static const struct h5_facts nothing = { "", "", -1 };
    size_t n = strlen(key);

    for (size_t i = 0; i < sizeof known / sizeof *known; i++)
        if (strcmp(known[i].key, key) == 0)
            return &known[i].facts;
    for (size_t i = 0; i < sizeof endings / sizeof *endings; i++) {
        size_t m = strlen(endings[i].ending);
        if (n >= m && strcmp(key + n - m, endings[i].ending) == 0)
            return &endings[i].facts;
    }
    return &nothing;
}
