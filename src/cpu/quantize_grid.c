/* quantize_grid.c - affine grids: from the range of a group to scale and zero point, from
 * values to codes.  Facts 5.3 (the GPTQ family), 6.6 (AWQ), 7.0 (absmax). */
#include "cpu/quantize.h"

#include <math.h>

static float clamp(float x, float low, float high)
{
    return x < low ? low : x > high ? high : x;
}

/* scale = max|x| / (2^(b-1) - 1), codes around 2^(b-1). */
static struct grid absmax_grid(int bits, float least, float greatest)
{
    float largest = fmaxf(fabsf(least), fabsf(greatest));

    return (struct grid){ largest / (float)((1 << (bits - 1)) - 1), 1 << (bits - 1) };
}

/* Zero is always inside the range.  Symmetric, the range is mirrored only where a value is
 * negative: of a group without one, the upper half is clipped.  That is what the reference
 * solvers do, so it is copied. */
static struct grid gptq_grid(int bits, bool sym, float least, float greatest)
{
    float most = (float)((1 << bits) - 1);
    float low = fminf(least, 0.0f), high = fmaxf(greatest, 0.0f);

    if (sym) {
        high = fmaxf(-low, high);
        if (low < 0.0f)
            low = -high;
    }
    struct grid g = { (high - low) / most, 1 << (bits - 1) };
    if (!sym && g.scale > 0.0f)
        g.zero = (int)clamp(rintf(-low / g.scale), 0.0f, most);
    else if (!sym)
        g.zero = (int)rintf(1.0f / (2.0f / most)); /* all zero: the range is taken as -1 .. 1 */
    return g;
}

/* Zero need not be inside the range; a group narrower than 1e-5 gets that range. */
static struct grid awq_grid(int bits, bool sym, float least, float greatest)
{
    float most = (float)((1 << bits) - 1);

    if (sym) {
        float largest = fmaxf(fabsf(least), fabsf(greatest));

        return (struct grid){ fmaxf(largest, 1e-5f) / (float)((1 << (bits - 1)) - 1),
                              1 << (bits - 1) };
    }
    float scale = fmaxf(greatest - least, 1e-5f) / most;

    return (struct grid){ scale, (int)clamp(-rintf(least / scale), 0.0f, most) };
}

struct grid grid_of(enum quantize_rule rule, int bits, bool sym, float least, float greatest)
{
    if (rule == QUANTIZE_GRID_AWQ)
        return awq_grid(bits, sym, least, greatest);
    if (rule == QUANTIZE_GRID_ABSMAX && sym)
        return absmax_grid(bits, least, greatest);
    return gptq_grid(bits, sym, least, greatest);
}

static double shrink_error(struct grid g, float most, double mse, const float *x, int64_t n)
{
    double sum = 0.0;

    for (int64_t i = 0; i < n; i++) {
        float q = clamp(rintf(x[i] / g.scale) + (float)g.zero, 0.0f, most);

        sum += pow(fabs((double)(g.scale * (q - (float)g.zero) - x[i])), mse);
    }
    return sum;
}

/* 5.3: the first of the ranges p * (low, high), p = 1, 0.99 ... 0.21, with the least error. */
static struct grid shrunk_grid(struct grid g, int bits, bool sym, double mse, const float *x,
                               int64_t n, float low, float high)
{
    float most = (float)((1 << bits) - 1);
    double best = INFINITY;
    struct grid found = g;

    for (int i = 0; i < 80; i++) {
        float p = (float)(1.0 - (double)i / 100.0);
        struct grid tried = { (p * high - p * low) / most, g.zero };

        if (!(tried.scale > 0.0f))
            break;
        if (!sym)
            tried.zero = (int)clamp(rintf(-(p * low) / tried.scale), 0.0f, most);
        double error = shrink_error(tried, most, mse, x, n);
        if (error < best) {
            best = error;
            found = tried;
        }
    }
    return found;
}

struct grid grid_of_weights(int bits, bool sym, double mse, const float *x, int64_t n)
{
    float least, greatest, most = (float)((1 << bits) - 1);

    quantize_range(x, n, &least, &greatest);
    struct grid g = gptq_grid(bits, sym, least, greatest);
    if (!(g.scale > 0.0f)) {
        g.scale = 2.0f / most;
        return g;
    }
    if (mse > 0.0) {
        float low = fminf(least, 0.0f), high = fmaxf(greatest, 0.0f);

        if (sym) {
            high = fmaxf(-low, high);
            low = low < 0.0f ? -high : low;
        }
        g = shrunk_grid(g, bits, sym, mse, x, n, low, high);
    }
    return g;
}

float grid_stored_scale(float scale, const struct weight *w)
{
    if (w->scale_form == SCALE_F16)
        dtype_round(DTYPE_F16, &scale, 1);
    return scale;
}

float grid_zero_scale(enum quantize_rule rule, int bits, bool double_quant)
{
    if (double_quant)
        return 0.0f;
    return rule == QUANTIZE_GRID_ABSMAX ? 1.0f : 2.0f / (float)((1 << bits) - 1);
}

/* Adding and taking away 1.5 * 2^23 rounds a small number to the nearest integer, ties to even,
 * in two instructions of any vector unit.  Clamping first changes nothing, because the bounds
 * are integers, and makes every number small. */
void grid_codes(struct grid g, int bits, const float *x, int64_t n, uint8_t *codes)
{
    const float shift = 12582912.0f;
    float low = (float)-g.zero, high = (float)((1 << bits) - 1 - g.zero);
    float zero = (float)g.zero;

    if (!(g.scale > 0.0f)) {
        for (int64_t i = 0; i < n; i++)
            codes[i] = (uint8_t)g.zero;
        return;
    }
#pragma omp simd
    for (int64_t i = 0; i < n; i++) {
        float y = x[i] / g.scale;

        y = y < low ? low : y;
        y = y > high ? high : y;
        codes[i] = (uint8_t)(int)((y + shift) - shift + zero);
    }
}
