/* awq_search.c - see awq_search.h. */
#include "quant/awq_search.h"

#include <math.h>

static float scale_of(const float *x_mean, const float *w_mean, double ratio, int64_t i)
{
    float value = (float)pow((double)x_mean[i], ratio);

    if (w_mean)
        value /= (float)pow((double)w_mean[i], 1.0 - ratio) + 1e-4f;
    return value > 1e-4f ? value : 1e-4f;
}

void awq_scales(const float *x_mean, const float *w_mean, double ratio, int64_t n, float *s)
{
    float least = INFINITY, most = 0.0f;

#pragma omp parallel for schedule(static) if (n > 1024)
    for (int64_t i = 0; i < n; i++)
        s[i] = scale_of(x_mean, w_mean, ratio, i);
    for (int64_t i = 0; i < n; i++) {
        least = s[i] < least ? s[i] : least;
        most = s[i] > most ? s[i] : most;
    }
    float middle = sqrtf(most * least);
    for (int64_t i = 0; i < n; i++) {
        s[i] /= middle;
        if (!isfinite(s[i]))
            s[i] = 1.0f;
    }
}
