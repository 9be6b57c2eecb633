/* quantized.h - weights packed on the device, looked at on the host. */
#pragma once

#include "twin.h"

/* The parts of a weight on the host; weight_release(&isas[0], ...). */
static inline struct weight host_weight(const struct weight *w)
{
    struct weight out = *w;
    struct err e = ERR_INIT;

    CHECK_OK(weight_alloc(&isas[0], MEM_SCRATCH, &out, &e), e);
    CHECK_OK(gpu.ops->download(&gpu, out.codes, w->codes, weight_codes_bytes(w), &e), e);
    CHECK_OK(gpu.ops->download(&gpu, out.scales, w->scales, weight_scales_bytes(w), &e), e);
    CHECK_OK(gpu.ops->download(&gpu, out.scales2, w->scales2, weight_scales2_bytes(w), &e), e);
    CHECK_OK(gpu.ops->download(&gpu, out.zeros, w->zeros, weight_zeros_bytes(w), &e), e);
    return out;
}

/* Quantized on the device, brought back; `values` (may be NULL): what it stands for in type t. */
static inline struct weight quantized(const struct tensor *x, struct quantize_args a, enum dtype t,
                                      struct tensor *values)
{
    struct tensor dx = device_tensor(x);
    struct weight w;
    struct err e = ERR_INIT;

    a.w = &dx;
    a.out = &w;
    CHECK_OK(gpu.ops->quantize(&gpu, &a, &e), e);
    CHECK_OK(gpu.ops->sync(&gpu, &e), e);
    if (values) {
        struct tensor out = device_result(t, w.n_out, w.n_in);
        struct dequantize_args d = { &w, &out };
        CHECK_OK(gpu.ops->dequantize(&gpu, &d, &e), e);
        *values = host_tensor(&out);
        device_free(out.data);
    }
    struct weight out = host_weight(&w);
    weight_release(&gpu, &w);
    device_free(dx.data);
    return out;
}

/* Of two on the device. */
static inline void check_same_weights(const char *name, const struct weight *a,
                                      const struct weight *b)
{
    struct weight x = host_weight(a), y = host_weight(b);

    CHECK(!memcmp(x.codes, y.codes, weight_codes_bytes(&x)), "%s: the same codes", name);
    CHECK(!memcmp(x.scales, y.scales, weight_scales_bytes(&x)), "%s: the same scales", name);
    CHECK(!x.scales2 || !memcmp(x.scales2, y.scales2, weight_scales2_bytes(&x)),
          "%s: the same second scales", name);
    CHECK(!x.zeros || !memcmp(x.zeros, y.zeros, weight_zeros_bytes(&x)), "%s: the same zero points",
          name);
    CHECK(a->nested_offset == b->nested_offset, "%s: the same offset", name);
    weight_release(&isas[0], &x);
    weight_release(&isas[0], &y);
}
