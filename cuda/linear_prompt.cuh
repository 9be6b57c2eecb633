/* linear_prompt.cuh - inner to cuda/: products of the prompt phase by gemm.cuh's kernels. */
#pragma once

#include "common.cuh"

/* Whether linear_prompt() takes it; else it goes the general way. */
bool linear_prompt_fits(const struct cuda_state *s, const struct linear_args *a);
int linear_prompt(struct cuda_state *s, const struct linear_args *a, struct err *e);
