/* bench_dequantize.c - how fast packed weights become values on one core, in 10^9 weights a second,
 * for each instruction set of this processor:
 *
 *   bench_dequantize [MEGAWEIGHTS]
 *
 * One matrix of 2048 columns, in blocks of 32 rows by 256 columns as linear() takes them,
 * rounded to fp16. */
#include "base/clock.h"
#include "base/memory.h"
#include "base/rng.h"
#include "cpu/cpu.h"

#include <stdio.h>
#include <stdlib.h>

#define N_IN   2048
#define COLS   256
#define ROWS   32
#define N_RUNS 3

struct form {
    const char *name;
    enum weight_form form;
    enum scale_form scale;
    enum zero_form zero;
    bool flat;
};

static const struct form forms[] = {
    { "affine f16 u8 zero", WEIGHT_AFFINE, SCALE_F16, ZERO_U8, false },
    { "affine f32 constant", WEIGHT_AFFINE, SCALE_F32, ZERO_CONSTANT, false },
    { "affine u8 f16 zero", WEIGHT_AFFINE, SCALE_U8, ZERO_F16, false },
    { "table nested flat", WEIGHT_TABLE, SCALE_NESTED, ZERO_CONSTANT, true },
    { "table e8m0", WEIGHT_TABLE, SCALE_E8M0, ZERO_CONSTANT, false },
    { "table e4m3", WEIGHT_TABLE, SCALE_E4M3, ZERO_CONSTANT, false },
};

static void *random_bytes(size_t n, uint64_t seed)
{
    uint8_t *p = mem_alloc(n + 64);

    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)rng_below(seed, RNG_TEST, i, 120);
    return p;
}

/* 10^9 weights a second, the best of N_RUNS. */
static double speed(const struct cpu_kernels *k, const struct weight *w)
{
    static float out[ROWS * (COLS + 16)];
    double best = 0;

    for (int run = 0; run < N_RUNS; run++) {
        double start = clock_seconds();
        for (int64_t row = 0; row < w->n_out; row += ROWS)
            for (int64_t col = 0; col < N_IN; col += COLS)
                cpu_weight_block(k, w, row, ROWS, col, COLS, DTYPE_F16, out, COLS + 16);
        double s = clock_seconds() - start, rate = 1e-9 * (double)(w->n_out * w->n_in) / s;
        best = rate > best ? rate : best;
    }
    return best;
}

static void print_form(const struct cpu_kernels *k, const struct form *f, int bits, int64_t n_out)
{
    static const int64_t group_sizes[] = { 16, 32, 64, 128, 1024, N_IN };

    printf("%-8s %-20s %d bits  ", k->name, f->name, bits);
    for (size_t i = 0; i < sizeof group_sizes / sizeof *group_sizes; i++) {
        struct weight w = { .form = f->form,
                            .n_out = n_out,
                            .n_in = N_IN,
                            .bits = bits,
                            .row_bytes = N_IN * bits / 8,
                            .group_size = group_sizes[i],
                            .flat_groups = f->flat,
                            .n_groups = n_out * N_IN / group_sizes[i],
                            .scale_form = f->scale,
                            .nested_offset = 1,
                            .zero_form = f->zero,
                            .zero_constant = 1 << (bits - 1) };

        weight_code_table(TABLE_NF4, w.table);
        w.codes = random_bytes((size_t)(n_out * w.row_bytes), 1);
        w.scales = random_bytes((size_t)w.n_groups * 4, 2);
        w.scales2 = random_bytes((size_t)w.n_groups * 4, 3);
        w.zeros = random_bytes((size_t)w.n_groups * 4, 4);
        printf(" %5.2f", speed(k, &w));
        free(w.codes);
        free(w.scales);
        free(w.scales2);
        free(w.zeros);
    }
    printf("\n");
}

static void print_int8(const struct cpu_kernels *k, int64_t n_out)
{
    struct weight w = { .form = WEIGHT_INT8,
                        .n_out = n_out,
                        .n_in = N_IN,
                        .bits = 8,
                        .row_bytes = N_IN,
                        .group_size = N_IN,
                        .n_groups = n_out,
                        .scale_form = SCALE_F32 };

    w.codes = random_bytes((size_t)(n_out * w.row_bytes), 1);
    w.scales = random_bytes((size_t)n_out * 4, 2);
    printf("%-8s %-20s 8 bits   %35.2f\n", k->name, "int8", speed(k, &w));
    free(w.codes);
    free(w.scales);
}

int main(int argc, char **argv)
{
    static const char *const names[] = { "avx512", "avx2", "generic" };
    int64_t n_out = (argc > 1 ? atoll(argv[1]) : 2) * (1000000 / N_IN) / ROWS * ROWS;

    if (n_out < ROWS) {
        fprintf(stderr, "usage: bench_dequantize [MEGAWEIGHTS]\n");
        return 2;
    }
    printf("10^9 weights a second, one core; groups of 16 32 64 128 1024 and a row\n");
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct err e = ERR_INIT;
        setenv("LLQ_CPU_ISA", names[i], 1);
        const struct cpu_kernels *k = cpu_kernels_choose(&e);

        for (size_t f = 0; k && f < sizeof forms / sizeof *forms; f++)
            for (int bits = 2; bits <= (forms[f].form == WEIGHT_TABLE ? 4 : 8); bits++)
                if (f == 0 || bits == 4 || (bits == 8 && f < 2))
                    print_form(k, &forms[f], bits, n_out);
        if (k)
            print_int8(k, n_out);
    }
    return 0;
}
