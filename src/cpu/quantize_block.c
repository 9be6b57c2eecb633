/* quantize_block.c - plain weights to codes, block by block: the definition of quantize().
 *
 * Every code depends on its own block alone, so any split among threads gives the same bytes.
 * Weights are widened to fp32, and every fp32 operation below is rounded to nearest.
 *
 * Differs from bitsandbytes on a GPU: there 1 / absmax is rcp.approx, here it is correctly
 * rounded.  For NF4 no pair of 16-bit weight and absmax makes a difference; an FP4 code can
 * differ where the scaled value is within 2 ulp of a threshold, an int8 code where it is that
 * near to a half.  (test_quantizers_golden.c holds both to that.)  */
#include "backend/codebook.h"
#include "backend/quantized.h"
#include "base/memory.h"
#include "cpu/cpu.h"
#include "cpu/quantize.h"

#include <assert.h>
#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define F16_MAX 65504.0f

/* max|x| of n consecutive elements; infinity when one of them is infinite or NaN.  Magnitudes
 * order like their bits, so 16-bit elements need no widening. */
float quantize_absmax(const struct tensor *w, int64_t first, int64_t n)
{
    if (w->dtype == DTYPE_F32) {
        const uint32_t *x = (const uint32_t *)w->data + first;
        int32_t largest = 0;
        float value;
#pragma omp simd reduction(max : largest)
        for (int64_t i = 0; i < n; i++) {
            int32_t magnitude = (int32_t)(x[i] & 0x7FFFFFFF);
            largest = magnitude > largest ? magnitude : largest;
        }
        memcpy(&value, &largest, sizeof value);
        return largest < 0x7F800000 ? value : INFINITY;
    }
    const uint16_t *x = (const uint16_t *)w->data + first;
    int16_t largest = 0;
#pragma omp simd reduction(max : largest)
    for (int64_t i = 0; i < n; i++) {
        int16_t magnitude = (int16_t)(x[i] & 0x7FFF);
        largest = magnitude > largest ? magnitude : largest;
    }
    if (w->dtype == DTYPE_F16)
        return largest < 0x7C00 ? dtype_f16_to_f32((uint16_t)largest) : INFINITY;
    return largest < 0x7F80 ? dtype_bf16_to_f32((uint16_t)largest) : INFINITY;
}

void quantize_widen_row(const struct tensor *w, int64_t row, float *out)
{
    const char *from = w->data;

    dtype_to_f32(w->dtype, from + (size_t)(row * w->n_cols) * dtype_bytes(w->dtype), out,
                 w->n_cols);
}

void quantize_store_row(struct weight *w, int64_t row, const uint8_t *codes)
{
    pack_codes(codes, w->n_in, w->bits, (uint8_t *)w->codes + row * w->row_bytes, w->row_bytes);
}

/* ---- bitsandbytes 4 bit: blocks of the flattened matrix ---- */

/* An all-zero block has r = infinity: 0 * r is NaN, above no threshold, hence code 0, which is
 * what the GPU gives (and -0 for NF4). */
static void nf4_codes(const float *x, int64_t n, float r, uint8_t *codes)
{
    const float *t = codebook_nf4_threshold;

#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float y = x[i] * r;
        int code = 0;
#pragma GCC unroll 15
        for (int k = 0; k < 15; k++)
            code += y > t[k];
        codes[i] = (uint8_t)code;
    }
}

/* The sign is that of y as the GPU sees it, whose arithmetic takes subnormal numbers for 0. */
static void fp4_codes(const float *x, int64_t n, float r, uint8_t *codes)
{
    const float *t = codebook_fp4_threshold;

#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float y = x[i] * r, magnitude = fabsf(y);
        int n_below = 0;
#pragma GCC unroll 7
        for (int k = 0; k < 7; k++)
            n_below += magnitude > t[k];
        codes[i] = (uint8_t)(n_below + (y <= -FLT_MIN ? 8 : 0));
    }
    for (int64_t i = 0; i < n; i++)
        codes[i] = (uint8_t)((codes[i] & 8) | codebook_fp4_code[codes[i] & 7]);
}

static void block_scales(struct quantize_work *k)
{
    const struct tensor *w = k->a->w;
    int64_t n = w->n_rows * w->n_cols, size = k->out->group_size, refused = INT64_MAX;

#pragma omp parallel for schedule(static) reduction(min : refused)
    for (int64_t g = 0; g < k->out->n_groups; g++) {
        int64_t first = g * size;

        k->scales[g] = quantize_absmax(w, first, n - first < size ? n - first : size);
        if (!(k->scales[g] < INFINITY) && first < refused)
            refused = first;
    }
    k->refused_from = refused;
}

/* A row at a time, so that no two threads write one byte; blocks may begin in the row above. */
static void block_codes(const struct quantize_work *k)
{
    struct weight *w = k->out;
    int64_t size = w->group_size;

#pragma omp parallel
    {
        float *x = mem_array((size_t)w->n_in, sizeof *x);
        uint8_t *codes = mem_array((size_t)w->n_in, 1);

#pragma omp for schedule(static)
        for (int64_t row = 0; row < w->n_out; row++) {
            quantize_widen_row(k->a->w, row, x);
            for (int64_t col = 0, n; col < w->n_in; col += n) {
                int64_t at = row * w->n_in + col, block = at / size;
                float r = 1.0f / k->scales[block];

                n = (block + 1) * size - at;
                n = n < w->n_in - col ? n : w->n_in - col;
                if (k->a->rule == QUANTIZE_BNB_NF4)
                    nf4_codes(x + col, n, r, codes + col);
                else
                    fp4_codes(x + col, n, r, codes + col);
            }
            quantize_store_row(w, row, codes);
        }
        free(codes);
        free(x);
    }
}

/* ---- LLM.int8 rows ---- */

/* s = fl(127 * fl(1 / absmax)), code = rn(fl(w * s)) on weights rounded to fp16; absmax is the
 * stored scale.  A row of zeros has codes 0. */
static void int8_rows(struct quantize_work *k)
{
    struct weight *w = k->out;
    int64_t refused = INT64_MAX;

#pragma omp parallel
    {
        float *x = mem_array((size_t)w->n_in, sizeof *x);
        uint8_t *codes = mem_array((size_t)w->n_in, 1);

#pragma omp for schedule(static) reduction(min : refused)
        for (int64_t row = 0; row < w->n_out; row++) {
            float largest = quantize_absmax(k->a->w, row * w->n_in, w->n_in);

            dtype_round(DTYPE_F16, &largest, 1);
            if (!(largest <= F16_MAX)) {
                refused = row * w->n_in < refused ? row * w->n_in : refused;
                continue;
            }
            k->scales[row] = largest;
            quantize_widen_row(k->a->w, row, x);
            dtype_round(DTYPE_F16, x, w->n_in);
            float s = largest > 0.0f ? 127.0f * (1.0f / largest) : 0.0f;
#pragma omp simd
            for (int64_t i = 0; i < w->n_in; i++)
                x[i] *= s;
            /* Rounding and range of a grid of step 1; + 128 mod 256 is the signed byte. */
            grid_codes((struct grid){ 1.0f, 128 }, 8, x, w->n_in, codes);
#pragma omp simd
            for (int64_t i = 0; i < w->n_in; i++)
                codes[i] ^= 0x80;
            quantize_store_row(w, row, codes);
        }
        free(codes);
        free(x);
    }
    k->refused_from = refused;
}

/* ---- affine grids: groups inside a row ---- */

void quantize_range(const float *x, int64_t n, float *least, float *greatest)
{
    float low = x[0], high = x[0];

#pragma omp simd reduction(min : low) reduction(max : high)
    for (int64_t i = 0; i < n; i++) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
    }
    *least = low;
    *greatest = high;
}

static void grid_rows(struct quantize_work *k)
{
    const struct quantize_args *a = k->a;
    struct weight *w = k->out;
    int64_t per_row = w->n_in / w->group_size, refused = INT64_MAX;

#pragma omp parallel
    {
        float *x = mem_array((size_t)w->n_in, sizeof *x);
        uint8_t *codes = mem_array((size_t)w->n_in, 1);

#pragma omp for schedule(static) reduction(min : refused)
        for (int64_t row = 0; row < w->n_out; row++) {
            bool finite = quantize_absmax(a->w, row * w->n_in, w->n_in) < INFINITY;

            if (!finite) {
                refused = row * w->n_in < refused ? row * w->n_in : refused;
                continue;
            }
            quantize_widen_row(a->w, row, x);
            for (int64_t i = 0; i < per_row; i++) {
                int64_t group = row * per_row + i, first = i * w->group_size;
                float least, greatest;

                quantize_range(x + first, w->group_size, &least, &greatest);
                struct grid g = grid_of(a->rule, a->bits, a->sym, least, greatest);
                g.scale = grid_stored_scale(g.scale, w);
                finite = finite && g.scale < INFINITY;
                grid_codes(g, a->bits, x + first, w->group_size, codes + first);
                if (!(g.scale > 0.0f))
                    g.scale = grid_zero_scale(a->rule, a->bits, a->double_quant);
                k->scales[group] = g.scale;
                if (w->zero_form == ZERO_U8)
                    ((uint8_t *)w->zeros)[group] = (uint8_t)g.zero;
            }
            quantize_store_row(w, row, codes);
            if (!finite && row * w->n_in < refused)
                refused = row * w->n_in;
        }
        free(codes);
        free(x);
    }
    k->refused_from = refused;
}

/* ---- entry ---- */

/* The cold path: which element of the refused block is it? */
static int refuse(const struct quantize_work *k, struct err *e)
{
    const struct tensor *w = k->a->w;
    int64_t n = w->n_rows * w->n_cols;
    const char *data = w->data;
    float limit = k->a->rule == QUANTIZE_INT8_ROW ? F16_MAX : FLT_MAX;

    for (int64_t i = k->refused_from; i < n; i++) {
        float x, rounded;

        dtype_to_f32(w->dtype, data + (size_t)i * dtype_bytes(w->dtype), &x, 1);
        rounded = x;
        if (k->a->rule == QUANTIZE_INT8_ROW)
            dtype_round(DTYPE_F16, &rounded, 1);
        if (!(fabsf(rounded) <= limit))
            return err_set(e, ERR_INPUT, "weight [%lld, %lld] is %g, %s",
                           (long long)(i / w->n_cols), (long long)(i % w->n_cols), (double)x,
                           isfinite(x) ? "beyond the largest fp16 number, 65504"
                                       : "only finite weights can be quantized");
    }
    bool half = k->out->scale_form == SCALE_F16 || k->out->zero_form == ZERO_F16;

    return err_set(e, ERR_INPUT, "the range of the weights of row %lld is too wide for %s",
                   (long long)(k->refused_from / w->n_cols), half ? "fp16" : "fp32");
}

/* Weights in their source dtype. */
static int quantize_rounded(struct backend *b, const struct quantize_args *a, struct err *e)
{
    struct quantize_args next = *a;
    struct tensor rounded;

    if (tensor_alloc(b, MEM_SCRATCH, a->source, a->w->n_rows, a->w->n_cols, &rounded, e) < 0)
        return -1;
    next.w = &rounded;
    int rc = cpu_convert(b, &(struct convert_args){ .x = a->w, .out = &rounded }, e);
    if (rc == 0)
        rc = cpu_quantize(b, &next, e);
    tensor_free(b, &rounded);
    return rc;
}

int cpu_quantize(struct backend *b, const struct quantize_args *a, struct err *e)
{
    struct weight w;
    struct quantize_work k = { .a = a, .out = &w, .refused_from = INT64_MAX };
    int rc = -1;

    assert(a->w->dtype == DTYPE_F32 || dtype_is_16bit(a->w->dtype));
    if (dtype_is_16bit(a->source) && a->source != a->w->dtype)
        return quantize_rounded(b, a, e);
    quantized_shape(a, a->w->n_rows, a->w->n_cols, &w);
    if (weight_alloc(b, MEM_WEIGHTS, &w, e) < 0)
        return -1;
    k.scales = mem_array((size_t)w.n_groups, sizeof *k.scales);

    switch (a->rule) {
    case QUANTIZE_BNB_NF4:
    case QUANTIZE_BNB_FP4:
        block_scales(&k);
        if (k.refused_from == INT64_MAX)
            block_codes(&k);
        break;
    case QUANTIZE_INT8_ROW:
        int8_rows(&k);
        break;
    case QUANTIZE_GRID_ABSMAX:
    case QUANTIZE_GRID_GPTQ:
    case QUANTIZE_GRID_AWQ:
        grid_rows(&k);
        break;
    case QUANTIZE_TABLE:
        quantize_table_rows(&k);
        break;
    case QUANTIZE_MXFP4:
        quantize_mxfp4_rows(&k);
        break;
    case QUANTIZE_NVFP4:
        quantize_nvfp4_rows(&k);
        break;
    case QUANTIZE_E4M3:
        quantize_e4m3_rows(&k);
        break;
    case QUANTIZE_HQQ:
        quantize_hqq_rows(&k);
        break;
    }
    if (k.refused_from != INT64_MAX) {
        refuse(&k, e);
        goto out;
    }
    pack_scales(k.scales, &w);
    *a->out = w;
    rc = 0;
out:
    free(k.scales);
    if (rc < 0)
        weight_release(b, &w);
    return rc;
}
