/* quantize_table.c - floating-point formats in groups inside a row: code tables, MXFP4,
 * NVFP4, FP8 e4m3.  Every fp32 operation below is rounded to
 * nearest.
 *
 *   table   scale = max|x|, code of the value nearest to x / scale, a tie to the lower value
 *   mxfp4   scale = 2^(floor(log2 max|x|) - 2), elements to nearest even, above 6 saturated
 *   nvfp4   p = max|W| / (448 * 6) of the matrix; s = e4m3(clamp(max|x| / 6 / p, 2^-6, 448));
 *           elements x * ((1 / p) / s) to nearest even; value = e2m1 * (s * p)   (torchao)
 *   e4m3    scale = max|x| / 448, x / scale to nearest even
 *
 * A group of zeros keeps its zeros, and their signs, under scale 1 (0 where scales are quantized
 * again).  */
#include "backend/codebook.h"
#include "base/memory.h"
#include "cpu/quantize.h"

#include <float.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define E2M1_MAX  6.0f
#define E4M3_MAX  448.0f
#define E4M3_TINY 0x1p-6f /* the smallest normal number */

/* Codes of one group, and its scale (or the byte that stands for it) under its index; false: the
 * scale is beyond what it is stored in. */
typedef bool group_rule(const struct quantize_work *k, const void *context, const float *x,
                        int64_t group, uint8_t *codes);

static void each_group(struct quantize_work *k, group_rule *rule, const void *context)
{
    struct weight *w = k->out;
    int64_t size = w->flat_groups ? w->n_in : w->group_size, per_row = w->n_in / size;
    int64_t refused = INT64_MAX;

#pragma omp parallel
    {
        float *x = mem_array((size_t)w->n_in, sizeof *x);
        uint8_t *codes = mem_array((size_t)w->n_in, 1);

#pragma omp for schedule(static) reduction(min : refused)
        for (int64_t row = 0; row < w->n_out; row++) {
            if (!(quantize_absmax(k->a->w, row * w->n_in, w->n_in) < INFINITY)) {
                refused = row * w->n_in < refused ? row * w->n_in : refused;
                continue;
            }
            quantize_widen_row(k->a->w, row, x);
            for (int64_t i = 0; i < per_row; i++)
                if (!rule(k, context, x + i * size, w->flat_groups ? 0 : row * per_row + i,
                          codes + i * size))
                    refused = row * w->n_in < refused ? row * w->n_in : refused;
            quantize_store_row(w, row, codes);
        }
        free(codes);
        free(x);
    }
    k->refused_from = refused;
}

static float largest(const float *x, int64_t n)
{
    float least, greatest;

    quantize_range(x, n, &least, &greatest);
    return fmaxf(-least, greatest);
}

static float zero_scale(const struct quantize_work *k)
{
    return k->a->double_quant ? 0.0f : 1.0f;
}

/* ---- code tables ---- */

static bool table_group(const struct quantize_work *k, const void *context, const float *x,
                        int64_t group, uint8_t *codes)
{
    const struct codebook *book = context;
    int64_t n = k->out->group_size;
    float scale = grid_stored_scale(largest(x, n), k->out);
    float divisor = scale > 0.0f ? scale : 1.0f;

    k->scales[group] = scale > 0.0f ? scale : zero_scale(k);
    for (int64_t i = 0; i < n; i++) {
        float y = x[i] / divisor;
        int at = 0;

        for (int t = 0; t + 1 < book->n; t++)
            at += y > book->threshold[t];
        codes[i] = book->code[at];
    }
    return scale < INFINITY;
}

void quantize_table_rows(struct quantize_work *k)
{
    const struct codebook book = codebook_of_table(k->a->table);

    each_group(k, table_group, &book);
}

/* ---- e2m1 ---- */

/* Between two values the threshold is their middle; a tie goes to the even code. */
static uint8_t e2m1_code(float x)
{
    static const float middle[7] = { 0.25f, 0.75f, 1.25f, 1.75f, 2.5f, 3.5f, 5.0f };
    float magnitude = fabsf(x);
    int code = 0;

    for (int i = 0; i < 7; i++)
        code += i % 2 ? magnitude >= middle[i] : magnitude > middle[i];
    return (uint8_t)(code | (signbit(x) ? 8 : 0));
}

static bool mxfp4_group(const struct quantize_work *k, const void *context, const float *x,
                        int64_t group, uint8_t *codes)
{
    float most = largest(x, k->out->group_size);
    int exponent = 0;

    (void)context;
    if (most > 0.0f) {
        frexpf(most, &exponent); /* most = m * 2^exponent, 0.5 <= m < 1 */
        exponent -= 3;
        exponent = exponent < -127 ? -127 : exponent;
    }
    ((uint8_t *)k->out->scales)[group] = (uint8_t)(exponent + 127);
    for (int64_t i = 0; i < k->out->group_size; i++)
        codes[i] = e2m1_code(ldexpf(x[i], -exponent));
    return true;
}

void quantize_mxfp4_rows(struct quantize_work *k)
{
    each_group(k, mxfp4_group, NULL);
}

static bool nvfp4_group(const struct quantize_work *k, const void *context, const float *x,
                        int64_t group, uint8_t *codes)
{
    float p = *(const float *)context;
    float s = largest(x, k->out->group_size) / E2M1_MAX / p;

    s = s > E4M3_TINY ? s : E4M3_TINY;
    s = s < E4M3_MAX ? s : E4M3_MAX;
    uint8_t byte = dtype_f32_to_e4m3(s);
    float inverse = (1.0f / p) / dtype_e4m3_to_f32(byte);
    ((uint8_t *)k->out->scales)[group] = byte;
    for (int64_t i = 0; i < k->out->group_size; i++)
        codes[i] = e2m1_code(x[i] * inverse);
    return true;
}

void quantize_nvfp4_rows(struct quantize_work *k)
{
    const struct tensor *w = k->a->w;
    float p = quantize_absmax(w, 0, w->n_rows * w->n_cols) / (E4M3_MAX * E2M1_MAX);

    /* Zeros, or so near to them that 1 / p has no fp32 number. */
    if (!(p >= FLT_MIN))
        p = FLT_MIN;
    k->out->nested_offset = p;
    each_group(k, nvfp4_group, &p);
}

/* ---- fp8 ---- */

static bool e4m3_group(const struct quantize_work *k, const void *context, const float *x,
                       int64_t group, uint8_t *codes)
{
    const struct weight *w = k->out;
    int64_t n = w->flat_groups ? w->n_in : w->group_size;
    float most = context ? *(const float *)context : largest(x, n);
    float scale = grid_stored_scale(most / E4M3_MAX, w);
    float divisor = scale > 0.0f ? scale : 1.0f;

    if (!w->flat_groups)
        k->scales[group] = scale > 0.0f ? scale : zero_scale(k);
    for (int64_t i = 0; i < n; i++) {
        float y = x[i] / divisor;

        y = y > E4M3_MAX ? E4M3_MAX : y < -E4M3_MAX ? -E4M3_MAX : y;
        codes[i] = dtype_f32_to_e4m3(y);
    }
    return scale < INFINITY;
}

void quantize_e4m3_rows(struct quantize_work *k)
{
    const struct tensor *w = k->a->w;

    if (!k->out->flat_groups) {
        each_group(k, e4m3_group, NULL);
        return;
    }
    float most = quantize_absmax(w, 0, w->n_rows * w->n_cols);
    float scale = grid_stored_scale(most / E4M3_MAX, k->out);
    k->scales[0] = scale > 0.0f ? scale : zero_scale(k);
    each_group(k, e4m3_group, &most);
}
