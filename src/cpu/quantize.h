/* quantize.h - the parts that quantizers on the host share: grids, and writing codes, scales
 * and zeros into a packed weight.  Used by cpu_quantize() and whatever solves for better codes. */
#pragma once

#include "backend/backend.h"

/* One call of cpu_quantize(). */
struct quantize_work {
    const struct quantize_args *a;
    struct weight *out;
    float *scales;        /* [n_groups] */
    int64_t refused_from; /* first element of a block that cannot be quantized; INT64_MAX: none */
};

/* max|x| of n consecutive elements; infinity when one of them is infinite or NaN. */
float quantize_absmax(const struct tensor *w, int64_t first, int64_t n);
void quantize_widen_row(const struct tensor *w, int64_t row, float *out);
void quantize_store_row(struct weight *w, int64_t row, const uint8_t *codes);
/* Least and greatest of n >= 1 numbers. */
void quantize_range(const float *x, int64_t n, float *least, float *greatest);

/* The rules that have a file of their own: codes and k->scales (or the scale bytes). */
void quantize_table_rows(struct quantize_work *k);
void quantize_mxfp4_rows(struct quantize_work *k);
void quantize_nvfp4_rows(struct quantize_work *k);
void quantize_e4m3_rows(struct quantize_work *k);
void quantize_hqq_rows(struct quantize_work *k);

/* An affine grid of 2^b codes: value = (code - zero) * scale. */
struct grid {
    float scale; /* 0: every value of the group is zero */
    int zero;
};

/* The grid of a group whose least and greatest value are given. */
struct grid grid_of(enum quantize_rule rule, int bits, bool sym, float least, float greatest);

/* The GPTQ grid of n weights: a group of zeros has the range -1 .. 1.  mse > 0: of 80 ranges that
 * shrink by a hundredth each, the one with the least sum of |error|^mse (5.3). */
struct grid grid_of_weights(int bits, bool sym, double mse, const float *x, int64_t n);

/* codes[i] = clamp(rn(x[i] / scale) + zero, 0, 2^bits - 1); `zero` where scale is 0. */
void grid_codes(struct grid g, int bits, const float *x, int64_t n, uint8_t *codes);

/* A scale as it will be stored: rounded to fp16 where that is its form. */
float grid_stored_scale(float scale, const struct weight *w);

/* The number stored as the scale of an all-zero group.  Its codes all say zero, so any number
 * gives the same values; 0 keeps it from shrinking its neighbours in a double quantization. */
float grid_zero_scale(enum quantize_rule rule, int bits, bool double_quant);

/* n codes of `bits` bits as a little-endian bit stream of row_bytes bytes, rest 0. */
void pack_codes(const uint8_t *codes, int64_t n, int bits, uint8_t *out, int64_t row_bytes);

/* w->n_groups scales into w's memory, in w's scale form: as they are, or quantized again, in
 * bitsandbytes' way (SCALE_NESTED, 2.1-2.3) or everybody else's (SCALE_U8, 7.0). */
void pack_scales(const float *scales, struct weight *w);

/* The two halves of SCALE_NESTED.  The offset is the mean, summed in fp64 and rounded once (the
 * sum of bitsandbytes in fp32 may differ by an ulp).  Then every scale less the offset goes to
 * the nearest value of the dynamic map, in runs of 256 with their largest magnitude in
 * scales2 [ceil(n / 256)]. */
float nested_offset(const float *scales, int64_t n);
void pack_nested(const float *scales, int64_t n, float offset, uint8_t *indices, float *scales2);
