/* attention_prompt.cuh - attention of rows that come in runs of one sequence, on tensor cores. */
#pragma once

#include "common.cuh"

/* Type, heads and segments that the kernel knows. */
bool cuda_attention_prompt_fits(const struct cuda_state *s, const struct attention_args *a);
int cuda_attention_prompt(struct cuda_state *s, const struct attention_args *a, struct err *e);
