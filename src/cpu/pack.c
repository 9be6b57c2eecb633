/* pack.c - codes and scales into the layouts that weight.h draws. */
#include "backend/codebook.h"
#include "backend/dtype.h"
#include "cpu/quantize.h"

#include <math.h>
#include <string.h>

/* Eight codes fill exactly `bits` bytes. */
static void pack_eight(const uint8_t *codes, int bits, uint8_t *out)
{
    uint64_t stream = 0;

    for (int i = 0; i < 8; i++)
        stream |= (uint64_t)codes[i] << (bits * i);
    for (int i = 0; i < bits; i++)
        out[i] = (uint8_t)(stream >> (8 * i));
}

void pack_codes(const uint8_t *codes, int64_t n, int bits, uint8_t *out, int64_t row_bytes)
{
    int64_t whole = n / 8 * 8;
    int64_t written = n / 8 * bits;

    if (bits == 4) {
#pragma omp simd
        for (int64_t i = 0; i < whole / 2; i++)
            out[i] = (uint8_t)(codes[2 * i] | codes[2 * i + 1] << 4);
    } else if (bits == 8) {
        memcpy(out, codes, (size_t)whole);
    } else {
        for (int64_t i = 0; i < whole; i += 8)
            pack_eight(codes + i, bits, out + i / 8 * bits);
    }
    memset(out + written, 0, (size_t)(row_bytes - written));
    if (n > whole) {
        uint8_t last[8] = { 0 }, packed[8];

        memcpy(last, codes + whole, (size_t)(n - whole));
        pack_eight(last, bits, packed);
        memcpy(out + written, packed, (size_t)((n - whole) * bits + 7) / 8);
    }
}

static float largest_magnitude(const float *x, int64_t n)
{
    float largest = 0.0f;

    for (int64_t i = 0; i < n; i++)
        largest = fabsf(x[i]) > largest ? fabsf(x[i]) : largest;
    return largest;
}

static int64_t n_runs(int64_t n_groups)
{
    return (n_groups + WEIGHT_NESTED_RUN - 1) / WEIGHT_NESTED_RUN;
}

static int64_t run_length(int64_t n_groups, int64_t run)
{
    int64_t rest = n_groups - run * WEIGHT_NESTED_RUN;

    return rest < WEIGHT_NESTED_RUN ? rest : WEIGHT_NESTED_RUN;
}

float nested_offset(const float *scales, int64_t n)
{
    double sum = 0.0;

    for (int64_t g = 0; g < n; g++)
        sum += scales[g];
    return (float)(sum / (double)n);
}

/* A run whose scales all equal the offset divides by zero in the original, too: 0 * inf is NaN,
 * which its search answers with index 0. */
void pack_nested(const float *scales, int64_t n_groups, float offset, uint8_t *indices,
                 float *scales2)
{
#pragma omp parallel for schedule(static)
    for (int64_t run = 0; run < n_runs(n_groups); run++) {
        const float *from = scales + run * WEIGHT_NESTED_RUN;
        int64_t n = run_length(n_groups, run);
        float d[WEIGHT_NESTED_RUN];

        for (int64_t i = 0; i < n; i++)
            d[i] = from[i] - offset;
        scales2[run] = largest_magnitude(d, n);
        float inverse = 1.0f / scales2[run];
        for (int64_t i = 0; i < n; i++)
            indices[run * WEIGHT_NESTED_RUN + i] =
                (uint8_t)codebook_nearest(weight_dynamic_map, d[i] * inverse);
    }
}

static void pack_u8(const float *scales, struct weight *w)
{
    float *scales2 = w->scales2;
    uint8_t *codes = w->scales;

#pragma omp parallel for schedule(static)
    for (int64_t run = 0; run < n_runs(w->n_groups); run++) {
        const float *from = scales + run * WEIGHT_NESTED_RUN;
        int64_t n = run_length(w->n_groups, run);
        float meta = largest_magnitude(from, n) / 127.0f;

        if (!(meta > 0.0f))
            meta = 1.0f;
        scales2[run] = meta;
        /* Below 2^-142 meta keeps few bits, and the quotient can pass 127. */
        for (int64_t i = 0; i < n; i++)
            codes[run * WEIGHT_NESTED_RUN + i] = (uint8_t)fminf(rintf(from[i] / meta), 255.0f);
    }
}

void pack_scales(const float *scales, struct weight *w)
{
    switch (w->scale_form) {
    case SCALE_F32:
        memcpy(w->scales, scales, (size_t)w->n_groups * sizeof *scales);
        break;
    case SCALE_F16:
        dtype_from_f32(DTYPE_F16, scales, w->scales, w->n_groups);
        break;
    case SCALE_NESTED:
        w->nested_offset = nested_offset(scales, w->n_groups);
        pack_nested(scales, w->n_groups, w->nested_offset, w->scales, w->scales2);
        break;
    case SCALE_U8:
        pack_u8(scales, w);
        break;
    case SCALE_NONE:
    case SCALE_E8M0:
    case SCALE_E4M3:
        break; /* written by their own rule */
    }
}
