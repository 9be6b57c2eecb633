/* formats.h - the formats that the benchmark programs go through; the head stays plain. */
#pragma once

#include "quant/quant.h"

#include <stdbool.h>
#include <string.h>

static const struct {
    const char *name;
    struct quant_spec spec;
    enum dtype source;
} formats[] = {
    { "bf16", { .method = "none", .bits = 16, .compute = DTYPE_BF16 }, DTYPE_BF16 },
    { "fp16", { .method = "none", .bits = 16, .compute = DTYPE_F16 }, DTYPE_F16 },
    { "nf4 double",
      { .method = "bnb_4bit",
        .bits = 4,
        .group_size = 64,
        .quant_type = "nf4",
        .double_quant = true,
        .compute = DTYPE_F16 },
      DTYPE_F16 },
    { "nf4",
      { .method = "bnb_4bit",
        .bits = 4,
        .group_size = 64,
        .quant_type = "nf4",
        .compute = DTYPE_F16 },
      DTYPE_F16 },
    { "fp4 double",
      { .method = "bnb_4bit",
        .bits = 4,
        .group_size = 64,
        .quant_type = "fp4",
        .double_quant = true,
        .compute = DTYPE_F16 },
      DTYPE_F16 },
    { "LLM.int8",
      { .method = "bnb_8bit", .bits = 8, .compute = DTYPE_F16, .outlier_threshold = 6 },
      DTYPE_F16 },
    { "rtn 8 bits g128",
      { .method = "rtn",
        .bits = 8,
        .group_size = 128,
        .quant_type = "int",
        .compute = DTYPE_F16,
        .grid = "gptq" },
      DTYPE_F16 },
    { "rtn 4 bits g128",
      { .method = "rtn",
        .bits = 4,
        .group_size = 128,
        .quant_type = "int",
        .compute = DTYPE_F16,
        .grid = "gptq" },
      DTYPE_F16 },
    { "rtn 3 bits g128",
      { .method = "rtn",
        .bits = 3,
        .group_size = 128,
        .quant_type = "int",
        .compute = DTYPE_F16,
        .grid = "gptq" },
      DTYPE_F16 },
    { "rtn 2 bits g128",
      { .method = "rtn",
        .bits = 2,
        .group_size = 128,
        .quant_type = "int",
        .compute = DTYPE_F16,
        .grid = "gptq" },
      DTYPE_F16 },
};
#define N_FORMATS ((int)(sizeof formats / sizeof *formats))

static inline struct quant_spec format_spec(int format)
{
    struct quant_spec spec = formats[format].spec;

    spec.n_skip = 1;
    strcpy(spec.skip[0], "lm_head");
    return spec;
}

/* Names are beginnings of formats; none: all. */
static inline bool format_is_asked_for(int format, char **names, int n)
{
    for (int i = 0; i < n; i++)
        if (!strncmp(formats[format].name, names[i], strlen(names[i])))
            return true;
    return n <= 0;
}
