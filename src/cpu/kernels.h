/* kernels.h - the inner loops that are compiled once per instruction set.
 *
 * kernels_generic.c, kernels_avx2.c and kernels_avx512.c hold the same functions
 * (kernels_body.h) for other vector widths.  All give the same bits: an output is one chain of
 * fused multiply-adds in the order of k, or an integer, or lane-wise arithmetic.  The choice is
 * made when the backend opens: the widest the processor has, or what LLQ_CPU_ISA names
 * ("generic", "avx2", "avx512"), for tests.  */
#pragma once

#include "backend/dtype.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

#define TILE_ROWS_MAX   14 /* of any instruction set */
#define TILE_COLS_MAX   32
#define ATTENTION_BLOCK 64 /* positions, counted from 0 */
#define SOFTMAX_LANES   16 /* partial sums of a softmax; lane = position % 16 */

/* Running state of one row's softmax. */
struct softmax_row {
    float max;
    float sum[SOFTMAX_LANES];
};

/* Unpacked codes of consecutive groups. */
struct code_run {
    const uint8_t *codes; /* [n] */
    int64_t n;
    int64_t first_end; /* codes of the first group; group_size of each after it */
    int64_t group_size;
    const float *scale, *zero; /* one a group */
    const float *base;         /* [16]: what a code stands for; NULL: itself */
    enum dtype compute;
};

struct cpu_kernels {
    const char *name;
    int tile_rows, tile_cols;

    /* c [m, tile_cols] (row stride ldc) = or += a b: a [k, m], b [k, tile_cols], 1 <= m <=
     * tile_rows.  Every c is one chain over k in order, from 0 or from what is there. */
    void (*tile)(int m, int64_t k, const float *a, const float *b, float *c, int64_t ldc, bool add);
    /* to [n_cols, width] = transpose of from [n_rows, n_cols] (row stride ld), n_rows <= width;
     * columns n_rows .. width-1 are zeros.  Elements of 4 bytes: floats, pairs of int16. */
    void (*transpose)(const void *from, int64_t ld, int64_t n_rows, int64_t n_cols, void *to,
                      int64_t width);

    /* Codes first .. first + n - 1 of a little-endian stream of `bits`-bit codes, a byte each.
     * Reads no byte behind those that hold them. */
    void (*unpack)(int bits, const uint8_t *packed, int64_t first, int64_t n, uint8_t *codes);
    /* out[i] = (value of code i - zero) * scale, each operation rounded, then rounded to compute;
     * zero and scale of code i's group, or (scattered) zero[i] and scale[i]. */
    void (*grouped)(const struct code_run *r, float *out);
    void (*scattered)(const struct code_run *r, float *out);
    /* out[i] = (codes[i] * scale) * factor, each operation rounded, then rounded to compute. */
    void (*signed8)(const int8_t *codes, int64_t n, float scale, float factor, enum dtype compute,
                    float *out);

    /* values[i] = silu(values[i]) */
    void (*silu)(float *values, int64_t n);
    /* One block of ATTENTION_BLOCK raw scores of a row, of which first .. last-1 count: turned
     * into exp(score * scale - max) in place, 0 elsewhere.  Returns what sums so far are to be
     * multiplied with (1 unless the maximum grew). */
    float (*softmax_block)(float *scores, int first, int last, float scale, struct softmax_row *s);
    /* Sum of exp(x[i] - max) in double, in 8 fixed lanes. */
    double (*sum_exp)(const float *x, int64_t n, float max);
    /* Largest of x, NaN when one of them is NaN. */
    float (*maximum)(const float *x, int64_t n);

    bool (*all_finite)(const float *x, int64_t n);

    /* LLM.int8.  Marks the columns with |x| >= threshold in `outlier` (adds to
     * what is there; several threads may) and returns the largest |x| below threshold, NaN when an
     * element is NaN. */
    float (*int8_scan)(const float *x, int64_t n, float threshold, uint8_t *outlier);
    /* codes[i] = round(x[i] * scale), 0 where skip[i] or not |x[i]| < threshold. */
    void (*int8_codes)(const float *x, int64_t n, float threshold, float scale, const uint8_t *skip,
                       int16_t *codes);
    void (*widen8)(const int8_t *from, int16_t *to, int64_t n);
    /* tile() of integers, exact: c [m, tile_cols] = or += a b with a [n_pairs, m] and
     * b [n_pairs, tile_cols], whose elements are pairs of int16 at k = 2p and 2p + 1. */
    void (*tile16)(int m, int64_t n_pairs, const int16_t *a, const int16_t *b, int32_t *c,
                   int64_t ldc, bool add);
    /* y[i] = ((sums[i] * stat) * scb[i]) * factor, each operation rounded; with a bias the last one
     * is fused: fma(.., factor, bias[i]). */
    void (*int8_scale)(const int32_t *sums, int64_t n, float stat, const float *scb, float factor,
                       const float *bias, float *y);
};

extern const struct cpu_kernels cpu_kernels_generic;
#if defined(__x86_64__)
extern const struct cpu_kernels cpu_kernels_avx2, cpu_kernels_avx512;
#endif

/* The kernels for this process; ERR_USAGE when LLQ_CPU_ISA names what is not there. */
const struct cpu_kernels *cpu_kernels_choose(struct err *e);
