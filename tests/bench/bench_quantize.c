/* bench_quantize.c - how fast each method packs the linears of one layer of Llama-3.2-1B.
 *
 *   build/cpu/bench/bench_quantize [REPEATS]
 *
 * Protocol: bf16 weights, about normal, already in memory; one untimed round, then REPEATS
 * (default 5) rounds over the seven matrices; the median round counts.  GB/s are bytes of the
 * bf16 weights; the last column scales the layer's time to the 973 M weights of the model. */
#include "backend/backend.h"
#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "quant/quant.h"

#include <stdio.h>
#include <stdlib.h>

#define N_LAYERS 16

static const int64_t shapes[][2] = {
    { 2048, 2048 }, { 512, 2048 },  { 512, 2048 },  { 2048, 2048 },
    { 8192, 2048 }, { 8192, 2048 }, { 2048, 8192 },
};
#define N_MATRICES ((int)(sizeof shapes / sizeof *shapes))

#define BNB4(type, block, twice)                                                  \
    {                                                                             \
        .method = "bnb_4bit", .bits = 4, .group_size = block, .quant_type = type, \
        .double_quant = twice, .compute = DTYPE_BF16, .n_skip = 1, .skip = {      \
            "lm_head"                                                             \
        }                                                                         \
    }
#define RTN(n_bits, group, symmetric, which)                                           \
    {                                                                                  \
        .method = "rtn", .bits = n_bits, .group_size = group, .quant_type = "int",     \
        .sym = symmetric, .grid = which, .compute = DTYPE_BF16, .n_skip = 1, .skip = { \
            "lm_head"                                                                  \
        }                                                                              \
    }

static const struct quant_spec specs[] = {
    { .method = "none", .bits = 16, .compute = DTYPE_F16 },
    { .method = "bnb_8bit", .bits = 8, .compute = DTYPE_F16, .outlier_threshold = 6 },
    BNB4("nf4", 64, false),
    BNB4("nf4", 64, true),
    BNB4("fp4", 64, false),
    RTN(2, 128, true, "absmax"),
    RTN(3, 128, true, "absmax"),
    RTN(4, 128, true, "absmax"),
    RTN(4, 32, false, "gptq"),
    RTN(4, -1, false, "awq"),
    RTN(8, 128, true, "absmax"),
};

static void describe(const struct quant_spec *s, char *out, size_t room)
{
    int n = snprintf(out, room, "%s", s->method);

    if (s->quant_type[0])
        n += snprintf(out + n, room - (size_t)n, " %s %d bits", s->quant_type, s->bits);
    if (s->group_size)
        n += snprintf(out + n, room - (size_t)n, s->group_size < 0 ? " per row" : " in %lld",
                      (long long)s->group_size);
    if (s->grid[0])
        n += snprintf(out + n, room - (size_t)n, " %s %s", s->grid, s->sym ? "sym" : "asym");
    if (s->double_quant)
        snprintf(out + n, room - (size_t)n, " dq");
}

static int make_weights(struct backend *b, struct tensor *w, struct err *e)
{
    for (int i = 0; i < N_MATRICES; i++) {
        int64_t n = shapes[i][0] * shapes[i][1];

        if (tensor_alloc(b, MEM_BASE, DTYPE_BF16, shapes[i][0], shapes[i][1], &w[i], e) < 0)
            return -1;
        uint16_t *to = w[i].data; /* the CPU backend's memory is the host's */
#pragma omp parallel for
        for (int64_t j = 0; j < n; j++) {
            double sum = -2;
            for (uint64_t k = 0; k < 4; k++)
                sum += rng_real((uint64_t)i, RNG_WEIGHTS, 4 * (uint64_t)j + k);
            to[j] = dtype_f32_to_bf16((float)(0.02 * sum));
        }
    }
    return 0;
}

/* Seconds for all seven matrices. */
static int one_round(struct backend *b, const struct quant_spec *s, const struct tensor *w,
                     double *seconds, struct err *e)
{
    const struct quantizer *z = quantizer_find(s->method);

    *seconds = 0;
    for (int i = 0; i < N_MATRICES; i++) {
        struct weight packed;
        double start = clock_seconds();

        if (z->run(b, s, &w[i], &packed, e) < 0 || b->ops->sync(b, e) < 0)
            return -1;
        *seconds += clock_seconds() - start;
        weight_release(b, &packed);
    }
    return 0;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static int bench(struct backend *b, const struct tensor *w, int n_repeats, struct err *e)
{
    double *round = mem_array((size_t)n_repeats, sizeof *round), n_weights = 0;
    int rc = -1;

    for (int i = 0; i < N_MATRICES; i++)
        n_weights += (double)shapes[i][0] * (double)shapes[i][1];
    printf("%-36s %9s %8s %10s %9s\n", "method", "ms/layer", "GB/s", "Mweights/s", "s/model");
    for (size_t k = 0; k < sizeof specs / sizeof *specs; k++) {
        char name[96];

        for (int i = -1; i < n_repeats; i++)
            if (one_round(b, &specs[k], w, &round[i < 0 ? 0 : i], e) < 0)
                goto out;
        qsort(round, (size_t)n_repeats, sizeof *round, compare);
        double median = (round[(n_repeats - 1) / 2] + round[n_repeats / 2]) / 2;
        describe(&specs[k], name, sizeof name);
        printf("%-36s %9.1f %8.2f %10.0f %9.2f\n", name, 1e3 * median, 2e-9 * n_weights / median,
               1e-6 * n_weights / median, N_LAYERS * median);
    }
    rc = 0;
out:
    free(round);
    return rc;
}

int main(int argc, char **argv)
{
    struct backend b = BACKEND_INIT;
    struct tensor w[N_MATRICES] = { 0 };
    struct device_facts facts;
    struct err e = ERR_INIT;
    int n_repeats = argc > 1 ? atoi(argv[1]) : 5, rc = 1;

    if (n_repeats < 1 || argc > 2) {
        fprintf(stderr, "usage: bench_quantize [REPEATS]\n");
        return 2;
    }
    if (backend_open(&b, "cpu", 0, NULL, &e) < 0 || b.ops->facts(&b, &facts, &e) < 0 ||
        make_weights(&b, w, &e) < 0)
        goto out;
    printf("%s, %d threads; one layer of Llama-3.2-1B, bf16, median of %d\n", facts.name,
           facts.n_threads, n_repeats);
    if (bench(&b, w, n_repeats, &e) < 0)
        goto out;
    rc = 0;
out:
    if (rc)
        fprintf(stderr, "bench_quantize: %s\n", e.text);
    for (int i = 0; i < N_MATRICES; i++)
        tensor_free(&b, &w[i]);
    backend_close(&b);
    return rc;
}
