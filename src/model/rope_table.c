/* rope_table.c - the frequencies and tables of the rotary embedding, in the fp32 arithmetic of
 * huggingface/transformers' modeling_rope_utils.  At position 1e5 a
 * frequency rounded to fp32 is off by 1e-2 rad, so the rounding points matter: what PyTorch
 * keeps in a tensor is float here, what Python computes is double. */
#include "model/model.h"

#include "base/memory.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TWO_PI 6.283185307179586

static int rotated_dims(const struct config *c)
{
    return (int)(c->head_dim * c->rope.partial_rotary_factor);
}

/* theta^(2j/d), fp32 as PyTorch's pow of a number and a tensor. */
static float power(double theta, int j, int dims)
{
    float exponent = (float)(2 * j) / (float)dims;

    return (float)pow((double)(float)theta, (double)exponent);
}

static void plain(double theta, int dims, float *f)
{
    for (int j = 0; j < dims / 2; j++)
        f[j] = 1.0f / power(theta, j, dims);
}

static void llama3(const struct rope_config *r, int dims, float *f)
{
    const double low = r->low_freq_factor, high = r->high_freq_factor;
    const double old = (double)r->original_max_position;
    const float factor = (float)r->factor, low_wave = (float)(old / low),
                high_wave = (float)(old / high);

    for (int j = 0; j < dims / 2; j++) {
        float wave = (float)TWO_PI / f[j];
        if (wave > low_wave) {
            f[j] = f[j] / factor;
        } else if (!(wave < high_wave)) {
            float s = ((float)old / wave - (float)low) / (float)(high - low);
            f[j] = (1.0f - s) * f[j] / factor + s * f[j];
        }
    }
}

static double yarn_scale(double factor, double mscale)
{
    return factor <= 1 ? 1 : 0.1 * mscale * log(factor) + 1;
}

static double yarn_attention_factor(const struct rope_config *r)
{
    if (!isnan(r->attention_factor))
        return r->attention_factor;
    /* 0 counts as not given, as in Python. */
    if (!isnan(r->mscale) && !isnan(r->mscale_all_dim) && r->mscale != 0 && r->mscale_all_dim != 0)
        return yarn_scale(r->factor, r->mscale) / yarn_scale(r->factor, r->mscale_all_dim);
    return yarn_scale(r->factor, 1);
}

/* The dimension whose wave turns `rotations` times over the length trained on. */
static double yarn_dimension(const struct rope_config *r, int dims, double rotations)
{
    return dims * log((double)r->original_max_position / (rotations * TWO_PI)) /
           (2 * log(r->theta));
}

static void yarn(const struct rope_config *r, int dims, float *f)
{
    double low = yarn_dimension(r, dims, r->beta_fast),
           high = yarn_dimension(r, dims, r->beta_slow);

    if (r->truncate) {
        low = floor(low);
        high = ceil(high);
    }
    low = fmax(low, 0);
    high = fmin(high, dims - 1);
    if (low == high)
        high += 0.001;
    for (int j = 0; j < dims / 2; j++) {
        float p = power(r->theta, j, dims);
        float ramp = ((float)j - (float)low) / (float)(high - low);
        float kept = 1.0f - fminf(fmaxf(ramp, 0.0f), 1.0f);
        f[j] = 1.0f / ((float)r->factor * p) * (1.0f - kept) + 1.0f / p * kept;
    }
}

int rope_frequencies(const struct config *c, int64_t length, float *out, float *attention_factor,
                     struct err *e)
{
    const struct rope_config *r = &c->rope;
    const int dims = rotated_dims(c);
    const double longest = (double)c->max_position;
    double theta = r->theta;

    *attention_factor = 1;
    memset(out, 0, (size_t)(c->head_dim / 2) * sizeof *out);
    if (r->type == ROPE_DYNAMIC) {
        double now = length > c->max_position ? (double)length : longest;
        theta *= pow(r->factor * now / longest - (r->factor - 1), (double)dims / (dims - 2));
    }
    plain(theta, dims, out);
    if (r->type == ROPE_LINEAR)
        for (int j = 0; j < dims / 2; j++)
            out[j] = out[j] / (float)r->factor;
    if (r->type == ROPE_LLAMA3)
        llama3(r, dims, out);
    if (r->type == ROPE_YARN) {
        yarn(r, dims, out);
        *attention_factor = (float)yarn_attention_factor(r);
    }
    for (int j = 0; j < c->head_dim / 2; j++)
        if (!isfinite(out[j]) || !isfinite(*attention_factor))
            return err_set(e, ERR_INPUT, "rotary frequency %d is not finite (rope_theta %g)", j,
                           r->theta);
    return 0;
}

int rope_rows(const struct config *c, enum dtype t, int64_t first, int64_t n, int64_t length,
              float *cos_out, float *sin_out, struct err *e)
{
    const int64_t half = c->head_dim / 2;
    float *f = mem_array((size_t)half, sizeof *f);
    float scale;
    int rc = rope_frequencies(c, length, f, &scale, e);

    if (rc == 0)
#pragma omp parallel for schedule(static) if (n * half > 1024)
        for (int64_t p = 0; p < n; p++)
            for (int64_t j = 0; j < half; j++) {
                double angle = f[j] * (float)(first + p);
                cos_out[p * half + j] = (float)cos(angle) * scale;
                sin_out[p * half + j] = (float)sin(angle) * scale;
            }
    free(f);
    if (rc == 0) {
        dtype_round(t, cos_out, n * half);
        dtype_round(t, sin_out, n * half);
    }
    return rc;
}

int rope_tables(const struct config *c, enum dtype t, int64_t n_positions, int64_t length,
                float *cos_out, float *sin_out, struct err *e)
{
    return rope_rows(c, t, 0, n_positions, length, cos_out, sin_out, e);
}
