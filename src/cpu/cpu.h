/* cpu.h - inner to src/cpu: the entries of the CPU table and what they share.
 *
 * The CPU table is the definition of every operation.  Its results are the same bits on every
 * processor, with any number of threads and in any batch: every sum has an order fixed by the
 * shape of one row, every product-and-add is one fused operation (done in software where the
 * processor has none), and exponentials are our own.  */
#pragma once

#include "backend/backend.h"
#include "cpu/kernels.h"

struct meeting;

struct cpu_state {
    const struct cpu_kernels *kernels; /* the inner loops chosen when the backend was opened */
    struct meeting *meeting;           /* with the other members of a group; NULL: none */
};

static inline const struct cpu_kernels *cpu_kernels_of(const struct backend *b)
{
    return ((const struct cpu_state *)b->state)->kernels;
}

extern const struct group_ops cpu_group;

int cpu_embed(struct backend *b, const struct embed_args *a, struct err *e);
int cpu_embed_packed(struct backend *b, const struct embed_packed_args *a, struct err *e);
int cpu_norm(struct backend *b, const struct norm_args *a, struct err *e);
int cpu_linear(struct backend *b, const struct linear_args *a, struct err *e);
int cpu_rope(struct backend *b, const struct rope_args *a, struct err *e);
int cpu_attention(struct backend *b, const struct attention_args *a, struct err *e);
int cpu_add(struct backend *b, const struct add_args *a, struct err *e);
int cpu_swiglu(struct backend *b, const struct swiglu_args *a, struct err *e);
int cpu_gather(struct backend *b, const struct gather_args *a, struct err *e);
int cpu_argmax(struct backend *b, const struct argmax_args *a, struct err *e);
int cpu_nll(struct backend *b, const struct nll_args *a, struct err *e);
int cpu_divergence(struct backend *b, const struct divergence_args *a, struct err *e);
struct divergence divergence_of(const float *p, const float *q, int64_t n, int32_t target);
int cpu_convert(struct backend *b, const struct convert_args *a, struct err *e);
int cpu_quantize(struct backend *b, const struct quantize_args *a, struct err *e);
int cpu_gram(struct backend *b, const struct gram_args *a, struct err *e);
int cpu_gptq_columns(struct backend *b, const struct gptq_args *a, struct err *e);
extern const struct awq_ops cpu_awq;
int cpu_dequantize(struct backend *b, const struct dequantize_args *a, struct err *e);

/* Rows first_row .. first_row + n_rows - 1 of w, as weight.h defines their values, rounded once
 * to `compute` and widened again: out [n_rows, n_in].  Any thread. */
void cpu_weight_rows(const struct weight *w, int64_t first_row, int64_t n_rows, enum dtype compute,
                     float *out);
/* The same of columns first_col .. first_col + n_cols - 1 alone: out [n_rows, ld], ld >= n_cols. */
void cpu_weight_block(const struct cpu_kernels *k, const struct weight *w, int64_t first_row,
                      int64_t n_rows, int64_t first_col, int64_t n_cols, enum dtype compute,
                      float *out, int64_t ld);

/* The WEIGHT_INT8 case of cpu_linear(). */
int cpu_linear_int8(struct backend *b, const struct linear_args *a, struct err *e);

/* Scratch of one call, 64-aligned; free() releases.  ERR_MEMORY when refused. */
void *cpu_scratch(size_t n_bytes, struct err *e);

/* Name, memory and free memory of this host, limits of control groups included. */
void cpu_host_facts(struct device_facts *out);
