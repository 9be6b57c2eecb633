/* twin.h - what the tests of the CUDA backend share: it beside the CPU backend, which defines every
 * operation, over fresh random inputs and poisoned outputs.
 *
 * Without a device a test program says so and ends with status 1: it must not look passed. */
#pragma once

#include "forms.h"

#include "base/clock.h"

static struct backend gpu = BACKEND_INIT;
static struct backend *cpu; /* the fastest of isas[]; all give the same bits */

/* Same numbers again: LLQ_TEST_SEED. */
static inline int open_twins(void **state)
{
    const char *seed = getenv("LLQ_TEST_SEED");

    if (open_isas(state) < 0)
        return -1;
    for (int i = 0; i < N_ISAS; i++)
        cpu = isas[i].ops ? &isas[i] : cpu;
    drawn = seed ? strtoull(seed, NULL, 10) << 32 : (uint64_t)clock_ns() << 32;
    printf("random inputs: LLQ_TEST_SEED=%llu\n", (unsigned long long)(drawn >> 32));
    return 0;
}

static inline int close_twins(void **state)
{
    backend_close(&gpu);
    return close_isas(state);
}

/* LLQ_TEST_ONE_IN=7 asks for one case in seven, as for a checker under which all take a hundred
 * times as long.  Is this one of the others? */
static inline int one_in(void)
{
    const char *n = getenv("LLQ_TEST_ONE_IN");

    return n && atoi(n) > 1 ? atoi(n) : 1;
}

static inline bool left_out(void)
{
    static int n;

    return n++ % one_in() != 0;
}

/* The device of a test program's main().  LLQ_TEST_ONLY='batches*' asks for the tests of such
 * names, as for a checker that runs beside others. */
static inline bool open_device(void)
{
    const char *only = getenv("LLQ_TEST_ONLY");
    struct err e = ERR_INIT;
    struct device_facts facts = { 0 };

    if (only && *only)
        cmocka_set_test_filter(only);
    if (backend_open(&gpu, "cuda", 0, NULL, &e) < 0 || gpu.ops->facts(&gpu, &facts, &e) < 0) {
        fprintf(stderr, "FAIL no test ran: %s\n", e.text);
        return false;
    }
    printf("on %s, %.1f of %.1f GB free\n", facts.name, (double)facts.free_bytes * 1e-9,
           (double)facts.memory_bytes * 1e-9);
    return true;
}

/* n_bytes of host memory to the device; device_free(). */
static inline void *to_device(const void *from, size_t n_bytes)
{
    struct err e = ERR_INIT;
    void *p;

    CHECK_OK(backend_alloc(&gpu, MEM_SCRATCH, n_bytes, &p, &e), e);
    CHECK_OK(gpu.ops->upload(&gpu, p, from, n_bytes, &e), e);
    return p;
}

static inline void device_free(void *p)
{
    backend_free(&gpu, p);
}

/* A copy on the device; device_free(.data). */
static inline struct tensor device_tensor(const struct tensor *t)
{
    struct tensor out = *t;

    out.data = to_device(t->data, tensor_bytes(t));
    return out;
}

/* Poisoned memory for a result. */
static inline struct tensor device_result(enum dtype t, int64_t n_rows, int64_t n_cols)
{
    struct tensor host = new_tensor(t, n_rows, n_cols), out = device_tensor(&host);

    free_tensor(&host);
    return out;
}

/* Back to the host; free_tensor(). */
static inline struct tensor host_tensor(const struct tensor *t)
{
    struct tensor out = new_tensor(t->dtype, t->n_rows, t->n_cols);
    struct err e = ERR_INIT;

    CHECK_OK(gpu.ops->download(&gpu, out.data, t->data, tensor_bytes(t), &e), e);
    return out;
}

/* The parts of a weight copied to the device; weight_release(&gpu, ...). */
static inline struct weight device_weight(const struct weight *w)
{
    struct weight out = *w;

    out.codes = to_device(w->codes, weight_codes_bytes(w));
    out.scales = w->scales ? to_device(w->scales, weight_scales_bytes(w)) : NULL;
    out.scales2 = w->scales2 ? to_device(w->scales2, weight_scales2_bytes(w)) : NULL;
    out.zeros = w->zeros ? to_device(w->zeros, weight_zeros_bytes(w)) : NULL;
    out.g_idx = w->g_idx ? to_device(w->g_idx, (size_t)w->n_in * sizeof *w->g_idx) : NULL;
    out.owned = true;
    return out;
}

/* Equal to the bit, but for the payload of a NaN. */
static inline void check_same(const char *what, const struct tensor *got, const struct tensor *want)
{
    CHECK(got->n_rows == want->n_rows && got->n_cols == want->n_cols, "%s: same shape", what);
    for (int64_t r = 0; r < want->n_rows; r++)
        for (int64_t c = 0; c < want->n_cols; c++) {
            float a = element(got, r, c), b = element(want, r, c);
            CHECK(!memcmp(&a, &b, sizeof a) || (isnan(a) && isnan(b)),
                  "%s %s [%lld, %lld of %lld]: %a on the GPU, %a on the CPU", what,
                  dtype_name(want->dtype), (long long)r, (long long)c, (long long)want->n_cols,
                  (double)a, (double)b);
        }
}

/* Frees both. */
static inline void check_device(const char *what, struct tensor *device, struct tensor *want)
{
    struct tensor got = host_tensor(device);

    check_same(what, &got, want);
    free_tensor(&got);
    device_free(device->data);
    free_tensor(want);
}
