/* solving.h - quantizers, x^T x and GPTQ's solver on the engine that LLQ_TEST_BACKEND names, from
 * host memory and back to it. */
#pragma once

#include "vectors.h"

static struct backend tested = BACKEND_INIT;
static struct backend host = BACKEND_INIT; /* the CPU's: what comes back lives there */

static inline int open_solving(void)
{
    struct err e = ERR_INIT;

    if (backend_open(&host, "cpu", 0, NULL, &e) == 0 &&
        backend_open(&tested, check_backend(), 0, NULL, &e) == 0)
        return 0;
    print_error("%s\n", e.text);
    return -1;
}

static inline void close_solving(void)
{
    backend_close(&tested);
    backend_close(&host);
}

/* A copy on the tested engine; tensor_free(&tested, ..). */
static inline struct tensor tested_copy(const struct tensor *t)
{
    struct tensor out;
    struct err e = ERR_INIT;

    CHECK_OK(tensor_alloc(&tested, MEM_SCRATCH, t->dtype, t->n_rows, t->n_cols, &out, &e), e);
    CHECK_OK(tested.ops->upload(&tested, out.data, t->data, tensor_bytes(t), &e), e);
    return out;
}

static inline void *part_down(const void *from, size_t n_bytes)
{
    struct err e = ERR_INIT;
    void *p;

    if (!from)
        return NULL;
    CHECK_OK(backend_alloc(&host, MEM_WEIGHTS, n_bytes, &p, &e), e);
    CHECK_OK(tested.ops->download(&tested, p, from, n_bytes, &e), e);
    return p;
}

/* The weight on the host; the tested engine's is released.  weight_release(&host, ..). */
static inline struct weight weight_down(struct weight *w)
{
    struct weight out = *w;

    out.codes = part_down(w->codes, weight_codes_bytes(w));
    out.scales = part_down(w->scales, weight_scales_bytes(w));
    out.scales2 = part_down(w->scales2, weight_scales2_bytes(w));
    out.zeros = part_down(w->zeros, weight_zeros_bytes(w));
    out.g_idx = part_down(w->g_idx, (size_t)w->n_in * sizeof *w->g_idx);
    weight_release(&tested, w);
    return out;
}

static inline void *part_up(const void *from, size_t n_bytes)
{
    struct err e = ERR_INIT;
    void *p;

    if (!from)
        return NULL;
    CHECK_OK(backend_alloc(&tested, MEM_WEIGHTS, n_bytes, &p, &e), e);
    CHECK_OK(tested.ops->upload(&tested, p, from, n_bytes, &e), e);
    return p;
}

/* The other way, a copy; weight_release(&tested, ..). */
static inline struct weight weight_up(const struct weight *w)
{
    struct weight out = *w;

    out.codes = part_up(w->codes, weight_codes_bytes(w));
    out.scales = part_up(w->scales, weight_scales_bytes(w));
    out.scales2 = part_up(w->scales2, weight_scales2_bytes(w));
    out.zeros = part_up(w->zeros, weight_zeros_bytes(w));
    out.g_idx = part_up(w->g_idx, (size_t)w->n_in * sizeof *w->g_idx);
    return out;
}

/* quantize() of host memory. */
static inline struct weight solving_quantize(const struct tensor *w, struct quantize_args a)
{
    struct tensor copy = tested_copy(w);
    struct weight packed;
    struct err e = ERR_INIT;

    a.w = &copy;
    a.out = &packed;
    CHECK_OK(tested.ops->quantize(&tested, &a, &e), e);
    CHECK_OK(tested.ops->sync(&tested, &e), e);
    struct weight out = weight_down(&packed);
    tensor_free(&tested, &copy);
    return out;
}

/* The values of a weight in type t; free(tensor.data). */
static inline struct tensor solving_values(const struct weight *w, enum dtype t)
{
    struct weight copy = weight_up(w);
    struct tensor values, out = tensor_over(NULL, t, w->n_out, w->n_in);
    struct err e = ERR_INIT;

    CHECK_OK(tensor_alloc(&tested, MEM_SCRATCH, t, w->n_out, w->n_in, &values, &e), e);
    const struct dequantize_args a = { .w = &copy, .out = &values };
    CHECK_OK(tested.ops->dequantize(&tested, &a, &e), e);
    out.data = mem_array((size_t)(w->n_out * w->n_in), dtype_bytes(t));
    CHECK_OK(tested.ops->download(&tested, out.data, values.data, tensor_bytes(&out), &e), e);
    tensor_free(&tested, &values);
    weight_release(&tested, &copy);
    return out;
}

/* Bitsandbytes' own GPU answers are met to the bit by a GPU alone. */
static inline bool solving_on_gpu(void)
{
    return strcmp(tested.ops->name, "cuda") == 0;
}

/* gram() of host memory. */
static inline void solving_gram(struct gram_args a)
{
    struct tensor x = tested_copy(a.x), h = tested_copy(a.h);
    void *to = a.h->data;
    struct err e = ERR_INIT;

    a.x = &x;
    a.h = &h;
    CHECK_OK(tested.ops->gram(&tested, &a, &e), e);
    CHECK_OK(tested.ops->download(&tested, to, h.data, tensor_bytes(&h), &e), e);
    tensor_free(&tested, &x);
    tensor_free(&tested, &h);
}

/* gptq_columns() of host memory. */
static inline int solving_gptq(struct gptq_args a, struct weight *out, struct err *e)
{
    struct tensor w = tested_copy(a.w), h = tested_copy(a.h);
    struct weight packed = { 0 };

    a.w = &w;
    a.h = &h;
    a.out = &packed;
    int rc = tested.ops->gptq_columns(&tested, &a, e);
    if (rc == 0)
        *out = weight_down(&packed);
    tensor_free(&tested, &w);
    tensor_free(&tested, &h);
    return rc;
}
