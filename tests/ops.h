/* ops.h - what the tests of single operations share: a CPU backend for every instruction set the
 * processor has, random tensors, comparison to the bit. */
#pragma once

#include "check.h"

#include "backend/backend.h"
#include "base/rng.h"
#include "cpu/cpu.h"

#include <omp.h>
#include <string.h>

#define N_ISAS 3

static const char *const isa_names[N_ISAS] = { "generic", "avx2", "avx512" };
static struct backend isas[N_ISAS]; /* ops NULL: not on this processor */

static inline int open_isas(void **state)
{
    (void)state;
    for (int i = 0; i < N_ISAS; i++) {
        struct err e = ERR_INIT;

        setenv("LLQ_CPU_ISA", isa_names[i], 1);
        if (backend_open(&isas[i], "cpu", 0, NULL, &e) < 0)
            printf("SKIP %s: %s\n", isa_names[i], e.text);
    }
    unsetenv("LLQ_CPU_ISA");
    return isas[0].ops ? 0 : -1;
}

static inline int close_isas(void **state)
{
    (void)state;
    for (int i = 0; i < N_ISAS; i++)
        backend_close(&isas[i]);
    return 0;
}

/* Tensors of tests live on the first backend; on a CPU all backends can use them. */
static inline struct tensor new_tensor(enum dtype t, int64_t n_rows, int64_t n_cols)
{
    struct tensor out;
    struct err e = ERR_INIT;

    CHECK_OK(tensor_alloc(&isas[0], MEM_SCRATCH, t, n_rows, n_cols, &out, &e), e);
    memset(out.data, 0xFF, tensor_bytes(&out)); /* NaN: what is not written shows */
    return out;
}

static inline void free_tensor(struct tensor *t)
{
    tensor_free(&isas[0], t);
}

static uint64_t drawn; /* how many numbers were drawn so far */

static inline double draw(void)
{
    return rng_real(7, RNG_TEST, drawn++);
}

/* About normal, variance 1: the sum of four uniform numbers of 16 bits. */
static inline float draw_value(void)
{
    uint64_t u = rng_u64(7, RNG_TEST, drawn++);
    double sum = 0;

    for (int i = 0; i < 64; i += 16)
        sum += (double)(u >> i & 0xFFFF) * 0x1p-16;
    return (float)((sum - 2) * 1.7320508);
}

static inline struct tensor random_tensor(enum dtype t, int64_t n_rows, int64_t n_cols, float scale)
{
    struct tensor out = new_tensor(t, n_rows, n_cols);

    for (int64_t i = 0; i < n_rows * n_cols; i++) {
        float x = scale * draw_value();
        dtype_from_f32(t, &x, (char *)out.data + (size_t)i * dtype_bytes(t), 1);
    }
    return out;
}

static inline float element(const struct tensor *t, int64_t row, int64_t col)
{
    float x;

    dtype_to_f32(t->dtype,
                 (const char *)t->data + (size_t)(row * t->n_cols + col) * dtype_bytes(t->dtype),
                 &x, 1);
    return x;
}

static inline void set_element(struct tensor *t, int64_t row, int64_t col, float x)
{
    dtype_from_f32(t->dtype, &x,
                   (char *)t->data + (size_t)(row * t->n_cols + col) * dtype_bytes(t->dtype), 1);
}

/* Rows first .. first + n - 1 of t, as a tensor. */
static inline struct tensor rows_of(const struct tensor *t, int64_t first, int64_t n)
{
    struct tensor out = *t;

    out.data = (char *)t->data + (size_t)(first * t->n_cols) * dtype_bytes(t->dtype);
    out.n_rows = n;
    return out;
}

static inline float round_to(enum dtype t, double x)
{
    float f = (float)x;

    dtype_round(t, &f, 1);
    return f;
}

/* Half a step of t at x, for "one rounding of the exact value". */
static inline double half_step(enum dtype t, double x)
{
    double relative = t == DTYPE_F32 ? 0x1p-24 : t == DTYPE_F16 ? 0x1p-11 : 0x1p-8;

    return fabs(x) * relative * 1.001 + (t == DTYPE_F16 ? 0x1p-25 : 0x1p-126);
}

static inline bool same_bits(const struct tensor *a, const struct tensor *b)
{
    return a->dtype == b->dtype && tensor_bytes(a) == tensor_bytes(b) &&
           !memcmp(a->data, b->data, tensor_bytes(a));
}

static const int64_t batch_sizes[] = { 1, 7, 64 };
#define N_BATCH_SIZES (sizeof batch_sizes / sizeof *batch_sizes)
static const enum dtype model_dtypes[] = { DTYPE_F32, DTYPE_F16, DTYPE_BF16 };
