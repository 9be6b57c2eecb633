/* key_tables.c - the tables of keys.h. */
#include "sweep/keys.h"

#include <stddef.h>
#include <string.h>

#define INT_MOST 2147483647.0       /* of an int */
#define ID_MOST  9007199254740992.0 /* 2^53: integers every JSON and HDF5 reader keeps exact */

static const struct key_rule root[] = {
    { "sweep", KEY_TABLE, .allowed = "a table" },
    { "model", KEY_TABLE, .allowed = "a table" },
    { "run", KEY_TABLE, .allowed = "a table" },
    { "tasks", KEY_TABLE, .allowed = "a table" },
    { "benchmark", KEY_TABLE, .allowed = "a table" },
    { "experiment", KEY_TABLES, .allowed = "written [[experiment]], once for each block" },
    { "comparison", KEY_TABLES, .allowed = "written [[comparison]], once for each pair" },
    { "calibration", KEY_TABLE, .allowed = "a table" },
    { 0 },
};

static const struct key_rule sweep[] = {
    { "name", KEY_NAME, .allowed = "1 to 64 letters, digits, `_`, `.` or `-`" },
    { "seeds", KEY_INTS, "a list of 1 to 64 different integers, each from 0 to 2^53",
      .required = true, .most = ID_MOST },
    { "baseline", KEY_NAME, .allowed = "the name of an experiment" },
    { "confidence", KEY_REAL, "a number above 0 and below 1", "0.95", .most = 1, .beyond = true },
    { "margin", KEY_TABLE, .allowed = "a table from metric to number" },
    { "job_timeout", KEY_REAL, "a number of seconds above 0, at most 1e9", "3600", .most = 1e9 + 1,
      .beyond = true },
    { 0 },
};

static const struct key_rule sweep_margin[] = {
    { "coqa_f1", KEY_REAL, "a number from 0 to 1", "0.01", .most = 1 },
    { "coqa_em", KEY_REAL, "a number from 0 to 1", "0.01", .most = 1 },
    { "perplexity", KEY_REAL, "a number from 0 to 1", "0.01", .most = 1 },
    { "kl", KEY_REAL, "a number from 0 to 1", "0.01", .most = 1 },
    { "top1_agreement", KEY_REAL, "a number from 0 to 1", "0.01", .most = 1 },
    { "acc", KEY_REAL, "a number from 0 to 1", "0.01", .most = 1 },
    { 0 },
};

static const struct key_rule model[] = {
    { "path", KEY_TEXT, "a folder, or a hub id such as \"meta-llama/Llama-3.2-1B\"",
      .required = true },
    { "config", KEY_TEXT, .allowed = "a config.json file" },
    { "revision", KEY_TEXT, "a branch, tag or commit of the hub id", .standard = "\"main\"" },
    { "source_dtype", KEY_TEXT, "one of stored, fp16, bf16, fp32", "\"stored\"",
      .choices = "stored fp16 bf16 fp32" },
    { "tensor_parallel", KEY_INT, "one of 1, 2, 4, 8", "1", .least = 1, .most = 8,
      .choices = "1 2 4 8" },
    { 0 },
};

static const struct key_rule run[] = {
    { "batch_size", KEY_INT, "an integer from 0 to 4096 (0 = from free memory)", "0",
      .most = 4096 },
    { 0 },
};

static const struct key_rule calibration[] = {
    { "path", KEY_TEXT, "a text file (.txt, .raw, .jsonl) or a .safetensors file of token ids",
      .required = true },
    { "samples", KEY_INT, "an integer of at least 0 (0 = by method)", "0", .most = 1e6 },
    { "sequence_length", KEY_INT, "an integer of at least 0 (0 = by method)", "0",
      .most = 1048576 },
    { 0 },
};

static const struct key_rule tasks[] = {
    { "profile", KEY_TEXT, "one of lm-eval-0.4.12, lm-eval-0.4.9, official-coqa",
      "\"lm-eval-0.4.12\"", .choices = "lm-eval-0.4.12 lm-eval-0.4.9 official-coqa" },
    { "coqa", KEY_TABLE, .allowed = "a table" },
    { "perplexity", KEY_TABLE, .allowed = "a table" },
    { "divergence", KEY_TABLE, .allowed = "a table" },
    { "sanity", KEY_TABLE, .allowed = "a table" },
    { "multiple_choice", KEY_TABLE, .allowed = "a table" },
    { 0 },
};

static const struct key_rule tasks_coqa[] = {
    { "path", KEY_TEXT, "a file in CoQA's JSON form", .required = true },
    { "limit", KEY_INT, "an integer of at least 0 (0 = all)", "0", .most = INT_MOST },
    { "subset", KEY_TEXT, "one of first, random", "\"first\"", .choices = "first random" },
    { "turns", KEY_TEXT, "one of last, all", "\"last\"", .choices = "last all" },
    { "num_fewshot", KEY_INT, "0", .standard = "0" },
    { 0 },
};

static const struct key_rule tasks_perplexity[] = {
    { "path", KEY_TEXT, "a text file (.txt, .raw, .jsonl) or a .safetensors file of token ids",
      .required = true },
    { "protocol", KEY_TEXT, "one of gptq, lm_eval, llama_cpp", "\"gptq\"",
      .choices = "gptq lm_eval llama_cpp" },
    { "window", KEY_INT, "an integer from 2 to 1048576", "2048", .least = 2, .most = 1048576 },
    { 0 },
};

static const struct key_rule tasks_divergence[] = {
    { 0 },
};

/* In the order of eval/choice_tasks.c. */
static const struct key_rule tasks_multiple_choice[] = {
    { "hellaswag", KEY_TABLE, .allowed = "a table" },
    { "arc_easy", KEY_TABLE, .allowed = "a table" },
    { "arc_challenge", KEY_TABLE, .allowed = "a table" },
    { "piqa", KEY_TABLE, .allowed = "a table" },
    { "winogrande", KEY_TABLE, .allowed = "a table" },
    { "openbookqa", KEY_TABLE, .allowed = "a table" },
    { "boolq", KEY_TABLE, .allowed = "a table" },
    { "mmlu", KEY_TABLE, .allowed = "a table" },
    { "lambada", KEY_TABLE, .allowed = "a table" },
    { 0 },
};

static const struct key_rule choice_task[] = {
    /* of each of them */
    { "path", KEY_TEXT, "the data set's own file", .required = true },
    { "limit", KEY_INT, "an integer of at least 0 (0 = all)", "0", .most = INT_MOST },
    { "subset", KEY_TEXT, "one of first, random", "\"first\"", .choices = "first random" },
    { "num_fewshot", KEY_INT, "0", .standard = "0" },
    { 0 },
};

static const struct key_rule tasks_mmlu[] = {
    { "path", KEY_TEXT, "the data set's own file", .required = true },
    { "limit", KEY_INT, "an integer of at least 0 (0 = all)", "0", .most = INT_MOST },
    { "subset", KEY_TEXT, "one of first, random", "\"first\"", .choices = "first random" },
    { "num_fewshot", KEY_INT, "an integer from 0 to 5", "0", .most = 5 },
    { 0 },
};

static const struct key_rule tasks_sanity[] = {
    { "on_broken", KEY_TEXT, "one of warn, skip", "\"warn\"", .choices = "warn skip" },
    { 0 },
};

static const struct key_rule benchmark[] = {
    { "warmup", KEY_INT, "an integer from 0 to 1000000", "3", .most = 1e6 },
    { "repeats", KEY_INT, "an integer from 1 to 1000000", "10", .least = 1, .most = 1e6 },
    { "warmup_seconds", KEY_REAL, "a number from 0 to 86400", "1.0", .most = 86400 },
    { "min_seconds", KEY_REAL, "a number from 0 to 86400", "1.0", .most = 86400 },
    { "prefill_tokens", KEY_INTS, "a list of 1 to 16 different integers, each from 1 to 1048576",
      "[512]", .least = 1, .most = 1048576 },
    { "decode_tokens", KEY_INT, "an integer from 1 to 1048576", "128", .least = 1,
      .most = 1048576 },
    { "batch_sizes", KEY_INTS, "a list of 1 to 16 different integers, each from 1 to 4096",
      "[1, 4, 8]", .least = 1, .most = 4096 },
    { "energy", KEY_BOOL, "true or false", .standard = "true" },
    { "per_seed", KEY_BOOL, "true or false", .standard = "false" },
    { 0 },
};

/* Values of one cell; the reader also takes a list of them, which makes an axis.  What a method
 * allows, and its defaults, stand in method.c. */
static const struct key_rule experiment[] = {
    { "name", KEY_NAME, "1 to 64 letters, digits, `_`, `.` or `-`", .required = true },
    { "method", KEY_TEXT, "one of none, bnb_8bit, bnb_4bit, rtn, hqq, gptq, awq", .required = true,
      .choices = "none bnb_8bit bnb_4bit rtn hqq gptq awq" },
    { "bits", KEY_INT, "an integer from 2 to 32", .least = 2, .most = 32 },
    { "group_size", KEY_INT,
      "an integer of at least 1, -1 (one group per row), or 0 (fp8_e4m3: the matrix)", .least = -1,
      .most = INT_MOST },
    { "quant_type", KEY_TEXT, "one of int, nf2, nf3, nf4, fp4, mxfp4, nvfp4, fp8_e4m3",
      .choices = "int nf2 nf3 nf4 fp4 mxfp4 nvfp4 fp8_e4m3" },
    { "double_quant", KEY_BOOL, .allowed = "true or false" },
    { "compute_dtype", KEY_TEXT, "one of fp16, bf16, fp32", "\"fp16\"",
      .choices = "fp16 bf16 fp32" },
    { "sym", KEY_BOOL, .allowed = "true or false" },
    { "grid", KEY_TEXT, "one of absmax, gptq, awq", .choices = "absmax gptq awq" },
    { "outlier_threshold", KEY_REAL, "a number from 0 to 1000 (0 = no outliers)", .most = 1000 },
    { "scale_dtype", KEY_TEXT, "one of fp32, fp16", .choices = "fp32 fp16" },
    { "skip_modules", KEY_TEXTS,
      .allowed = "a list of at most 8 module names of 1 to 63 bytes "
                 "(for a grid, a list of such lists)" },
    { "preset", KEY_TEXT,
      "one of reference, ist, autogptq, transformers, gptqmodel, llm-compressor",
      .choices = "reference ist autogptq transformers gptqmodel llm-compressor" },
    { "desc_act", KEY_BOOL, .allowed = "true or false" },
    { "damp_percent", KEY_REAL, "a number from 0 to 0.99", .most = 0.99 },
    { "static_groups", KEY_BOOL, .allowed = "true or false" },
    { "gar", KEY_BOOL, .allowed = "true or false" },
    { "true_sequential", KEY_BOOL, .allowed = "true or false" },
    { "mse", KEY_REAL, "a number from 0 to 16 (0 = off)", .most = 16 },
    { "zero_point", KEY_BOOL, .allowed = "true or false" },
    { "duo_scaling", KEY_BOOL, .allowed = "true or false" },
    { "clip", KEY_BOOL, .allowed = "true or false" },
    { 0 },
};

static const struct key_rule comparison[] = {
    { "a", KEY_NAME, .allowed = "the name of an experiment", .required = true },
    { "b", KEY_NAME, .allowed = "the name of an experiment", .required = true },
    { 0 },
};

const struct key_section key_sections[] = {
    { "", root },
    { "sweep", sweep },
    { "sweep.margin", sweep_margin },
    { "model", model },
    { "run", run },
    { "calibration", calibration },
    { "tasks", tasks },
    { "tasks.coqa", tasks_coqa },
    { "tasks.perplexity", tasks_perplexity },
    { "tasks.divergence", tasks_divergence },
    { "tasks.sanity", tasks_sanity },
    { "tasks.multiple_choice", tasks_multiple_choice },
    { "tasks.multiple_choice.hellaswag", choice_task },
    { "tasks.multiple_choice.arc_easy", choice_task },
    { "tasks.multiple_choice.arc_challenge", choice_task },
    { "tasks.multiple_choice.piqa", choice_task },
    { "tasks.multiple_choice.winogrande", choice_task },
    { "tasks.multiple_choice.openbookqa", choice_task },
    { "tasks.multiple_choice.boolq", choice_task },
    { "tasks.multiple_choice.mmlu", tasks_mmlu },
    { "tasks.multiple_choice.lambada", choice_task },
    { "benchmark", benchmark },
    { "experiment", experiment },
    { "comparison", comparison },
    { 0 },
};

const struct key_rule *key_rules(const char *section)
{
    for (const struct key_section *s = key_sections; s->name; s++)
        if (strcmp(s->name, section) == 0)
            return s->rules;
    return NULL;
}

const struct key_rule *key_find(const struct key_rule *rules, const char *name)
{
    for (const struct key_rule *r = rules; r && r->name; r++)
        if (strcmp(r->name, name) == 0)
            return r;
    return NULL;
}
