/* GPTQ's solver without any reference: where it must agree with rounding, that it beats it, what
 * it stores, what it refuses. */
#include "solving.h"

#include "base/rng.h"

#include <omp.h>

#define N_OUT  24
#define N_IN   192
#define N_ROWS 400

static struct world {
    float w[N_OUT * N_IN], x[N_ROWS * N_IN], h[N_IN * N_IN];
    struct tensor weights, rows, gram;
} world;

/* Weights about normal; activations whose inputs depend on one another, two of them dead. */
static void make_world(void)
{
    for (int64_t i = 0; i < N_OUT * N_IN; i++)
        world.w[i] =
            (float)(rng_real(1, RNG_TEST, (uint64_t)i) + rng_real(2, RNG_TEST, (uint64_t)i) +
                    rng_real(3, RNG_TEST, (uint64_t)i) - 1.5);
    for (int64_t t = 0; t < N_ROWS; t++)
        for (int64_t i = 0; i < N_IN; i++) {
            float before = i ? world.x[t * N_IN + i - 1] : 0;
            float own = (float)rng_real(4, RNG_TEST, (uint64_t)(t * N_IN + i)) - 0.5f;
            world.x[t * N_IN + i] = 0.7f * before + own * (float)(1 + i % 5);
        }
    for (int64_t t = 0; t < N_ROWS; t++)
        world.x[t * N_IN + 17] = world.x[t * N_IN + 130] = 0;
    world.weights = tensor_over(world.w, DTYPE_F32, N_OUT, N_IN);
    world.rows = tensor_over(world.x, DTYPE_F32, N_ROWS, N_IN);
    world.gram = tensor_over(world.h, DTYPE_F32, N_IN, N_IN);
    memset(world.h, 0, sizeof world.h);
    solving_gram((struct gram_args){ &world.rows, &world.gram, N_ROWS, false });
}

static struct gptq_args plain_args(void)
{
    return (struct gptq_args){ .w = &world.weights,
                               .h = &world.gram,
                               .n_rows = N_ROWS,
                               .factor = 2.0 / N_ROWS,
                               .bits = 4,
                               .group_size = 64,
                               .damp = 0.01,
                               .damp_step = 0.01 };
}

static struct weight solved(struct gptq_args a, struct gptq_result *result)
{
    struct weight out;
    struct err e = ERR_INIT;

    a.result = result;
    CHECK_OK(solving_gptq(a, &out, &e), e);
    return out;
}

static double output_error(const struct weight *w)
{
    struct tensor values = vector_values(&host, w, DTYPE_F32);
    double error = vector_output_mse(world.x, N_ROWS, &world.weights, values.data);

    free(values.data);
    return error;
}

static void grams(void **state)
{
    double largest = 0;
    float *twice = mem_array(N_IN * N_IN, sizeof *twice), one[N_IN * 3];
    struct tensor h = tensor_over(twice, DTYPE_F32, N_IN, N_IN);

    (void)state;
    for (int64_t i = 0; i < N_IN; i++)
        for (int64_t j = 0; j < N_IN; j++) {
            double sum = 0;

            for (int64_t t = 0; t < N_ROWS; t++)
                sum += (double)world.x[t * N_IN + i] * (double)world.x[t * N_IN + j];
            largest = fmax(largest, fabs(sum - (double)world.h[i * N_IN + j]) /
                                        (fabs(sum) * 0x1p-24 + 1e-30));
            CHECK(world.h[i * N_IN + j] == world.h[j * N_IN + i], "symmetric");
        }
    CHECK(largest <= 1.0001, "every element is rounded once, %g", largest);
    /* Fewer rows than the tensor has, and added to what is there. */
    memcpy(one, world.x, sizeof one);
    struct tensor three = tensor_over(one, DTYPE_F32, 3, N_IN);
    for (int k = 0; k < 2; k++)
        solving_gram((struct gram_args){ &three, &h, 2, false });
    CHECK(check_near(
              (double)twice[5 * N_IN + 9],
              2 * ((double)one[5] * (double)one[9] + (double)one[N_IN + 5] * (double)one[N_IN + 9]),
              1e-5),
          "two rows, twice");
    solving_gram((struct gram_args){ &three, &h, 2, true });
    CHECK(
        check_near((double)twice[5 * N_IN + 9],
                   (double)one[5] * (double)one[9] + (double)one[N_IN + 5] * (double)one[N_IN + 9],
                   1e-5),
        "and afresh");
    free(twice);
}

/* Independent inputs have nothing to make up for. */
static void a_diagonal_gives_rounding(void **state)
{
    float *unit = mem_array(N_IN * N_IN, sizeof *unit);
    struct tensor h = tensor_over(unit, DTYPE_F32, N_IN, N_IN);

    (void)state;
    for (int64_t i = 0; i < N_IN; i++)
        unit[i * N_IN + i] = (float)(1 + i % 7);
    for (int bits = 2; bits <= 8; bits++)
        for (int sym = 0; sym < 2; sym++) {
            struct gptq_args a = plain_args();
            struct gptq_result result;

            a.h = &h;
            a.bits = bits;
            a.sym = sym;
            struct weight got = solved(a, &result);
            struct weight want = vector_weight(
                &host, &world.weights,
                (struct quantize_args){
                    .rule = QUANTIZE_GRID_GPTQ, .bits = bits, .group_size = 64, .sym = sym });
            CHECK(!memcmp(got.codes, want.codes, weight_codes_bytes(&want)) &&
                      !memcmp(got.scales, want.scales, weight_scales_bytes(&want)),
                  "%d bits, %s: the codes of rtn", bits, sym ? "sym" : "asym");
            weight_release(&host, &got);
            weight_release(&host, &want);
        }
    free(unit);
}

static void better_than_rounding(void **state)
{
    static const struct {
        enum code_table table;
        int bits;
    } tables[] = {
        { TABLE_NONE, 3 }, { TABLE_NF2, 2 }, { TABLE_NF3, 3 }, { TABLE_NF4, 4 }, { TABLE_FP4, 4 }
    };

    (void)state;
    for (size_t k = 0; k < sizeof tables / sizeof *tables; k++)
        for (int order = 0; order < 3; order++) {
            struct gptq_args a = plain_args();
            struct gptq_result result;

            a.table = tables[k].table;
            a.bits = tables[k].bits;
            a.order = (enum gptq_order)order;
            struct weight got = solved(a, &result);
            struct weight rtn = vector_weight(
                &host, &world.weights,
                (struct quantize_args){ .rule = k ? QUANTIZE_TABLE : QUANTIZE_GRID_GPTQ,
                                        .bits = a.bits,
                                        .group_size = 64,
                                        .table = a.table });
            double own = output_error(&got), plain = output_error(&rtn);
            CHECK(own < 0.8 * plain, "table %zu, order %d: %g, rounding %g", k, order, own, plain);
            CHECK(fabs(result.output_mse / own - 1) < 1e-4, "the Hessian says so, too: %g",
                  result.output_mse);
            CHECK((got.g_idx != NULL) == (order == GPTQ_DESC_ACT), "an order is kept where needed");
            weight_release(&host, &got);
            weight_release(&host, &rtn);
        }
}

static void forms_that_are_stored(void **state)
{
    struct gptq_args a = plain_args();
    struct gptq_result result;
    double plain, again;

    (void)state;
    struct weight w = solved(a, &result);
    CHECK(w.form == WEIGHT_AFFINE && w.scale_form == SCALE_F32 && w.zero_form == ZERO_U8, "asym");
    plain = output_error(&w);
    weight_release(&host, &w);

    a.scale_dtype = DTYPE_F16;
    w = solved(a, &result);
    CHECK(w.scale_form == SCALE_F16 && fabs(output_error(&w) / plain - 1) < 0.1, "fp16 scales");
    CHECK(fabs(result.output_mse / output_error(&w) - 1) < 1e-4, "counted with the stored scale");
    weight_release(&host, &w);

    a.double_quant = true;
    a.sym = true;
    w = solved(a, &result);
    CHECK(w.scale_form == SCALE_U8 && w.zero_form == ZERO_CONSTANT && w.zero_constant == 8, "sym");
    again = output_error(&w);
    CHECK(again < 4 * plain, "scales quantized again: %g, before %g", again, plain);
    weight_release(&host, &w);

    a = plain_args();
    a.group_size = N_IN;
    a.order = GPTQ_DESC_ACT;
    w = solved(a, &result);
    CHECK(w.n_groups == N_OUT && !w.g_idx, "one group a row needs no order");
    weight_release(&host, &w);

    a.group_size = 64;
    a.static_groups = true;
    w = solved(a, &result);
    CHECK(!w.g_idx, "nor do static groups");
    weight_release(&host, &w);
}

static void a_smaller_range_may_be_better(void **state)
{
    struct gptq_args a = plain_args();
    struct gptq_result with, without;

    (void)state;
    a.bits = 3;
    a.sym = true;
    struct weight w = solved(a, &without);
    weight_release(&host, &w);
    a.mse = 2.4;
    w = solved(a, &with);
    weight_release(&host, &w);
    CHECK(with.output_mse < without.output_mse, "searched %g, not %g", with.output_mse,
          without.output_mse);
}

static void any_number_of_threads(void **state)
{
    int n_threads = omp_get_max_threads();
    struct gptq_args a = plain_args();
    struct gptq_result first, second;

    (void)state;
    a.order = GPTQ_DESC_ACT;
    omp_set_num_threads(1);
    struct weight one = solved(a, &first);
    omp_set_num_threads(3);
    struct weight three = solved(a, &second);
    omp_set_num_threads(n_threads);
    CHECK(!memcmp(one.codes, three.codes, weight_codes_bytes(&one)) &&
              !memcmp(one.scales, three.scales, weight_scales_bytes(&one)) &&
              !memcmp(one.zeros, three.zeros, weight_zeros_bytes(&one)) &&
              !memcmp(one.g_idx, three.g_idx, N_IN * sizeof *one.g_idx) &&
              !memcmp(&first, &second, sizeof first),
          "the same bytes, losses included");
    weight_release(&host, &one);
    weight_release(&host, &three);
}

/* ---- damping, and what it cannot help ---- */

/* Two inputs that are one. */
static void damping_is_raised(void **state)
{
    float *h = mem_array(N_IN * N_IN, sizeof *h);
    struct tensor gram = tensor_over(h, DTYPE_F32, N_IN, N_IN);
    struct gptq_args a = plain_args();
    struct gptq_result result;

    (void)state;
    for (int64_t i = 0; i < N_IN; i++)
        h[i * N_IN + i] = 1;
    h[3 * N_IN + 7] = h[7 * N_IN + 3] = 1;
    a.h = &gram;
    a.damp = 0;
    struct weight w = solved(a, &result);
    CHECK(result.n_raised == 1 && check_near(result.damp, 0.01, 1e-12) && result.floor == 0,
          "raised once, to %g", result.damp);
    weight_release(&host, &w);
    h[3 * N_IN + 7] = h[7 * N_IN + 3] = 1.5f;
    w = solved(a, &result);
    CHECK(result.damp > 0.49 && result.damp < 0.52, "raised until it works: %g", result.damp);
    weight_release(&host, &w);
    a.damp_step = 0;
    h[3 * N_IN + 7] = h[7 * N_IN + 3] = 1;
    w = solved(a, &result);
    CHECK(result.damp == 0 && check_near(result.floor, 1e-6, 1e-12), "or a floor: %g",
          result.floor);
    weight_release(&host, &w);
    free(h);
}

static void refused(const struct tensor *h, const struct tensor *w, const char *sentence)
{
    struct gptq_args a = plain_args();
    struct gptq_result result;
    struct weight out = { 0 };
    struct err e = ERR_INIT;
    size_t before = tested.mem.now[MEM_WEIGHTS];

    a.h = h;
    a.w = w;
    a.result = &result;
    CHECK(solving_gptq(a, &out, &e) == -1, "refused: %s", sentence);
    CHECK(e.code == ERR_INPUT && strstr(e.text, sentence), "\"%s\" says \"%s\"", e.text, sentence);
    CHECK(tested.mem.now[MEM_WEIGHTS] == before, "nothing stays behind");
}

static void what_is_refused(void **state)
{
    float *h = mem_array(N_IN * N_IN, sizeof *h), *bad = mem_array(N_OUT * N_IN, sizeof *bad);
    struct tensor gram = tensor_over(h, DTYPE_F32, N_IN, N_IN);
    struct tensor w = tensor_over(bad, DTYPE_F32, N_OUT, N_IN);

    (void)state;
    for (int64_t i = 0; i < N_IN; i++)
        h[i * N_IN + i] = 1;
    h[3 * N_IN + 7] = h[7 * N_IN + 3] = 40;
    refused(&gram, &world.weights,
            "the Hessian is not positive definite, not with damping up to 0.99");
    h[3 * N_IN + 7] = h[7 * N_IN + 3] = 0;
    h[9 * N_IN + 9] = NAN;
    refused(&gram, &world.weights, "the calibration activations of input 9 are not finite");
    h[9 * N_IN + 9] = INFINITY;
    refused(&gram, &world.weights, "activations of input 9 are not finite (sum of squares inf)");
    memcpy(bad, world.w, sizeof world.w);
    bad[5 * N_IN + 2] = NAN;
    refused(&world.gram, &w, "row 5 holds what is no number");
    free(bad);
    free(h);
}

static int open_backend(void **state)
{
    (void)state;
    if (open_solving() < 0)
        return -1;
    make_world();
    return 0;
}

static int close_backend(void **state)
{
    (void)state;
    close_solving();
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(grams),
        cmocka_unit_test(a_diagonal_gives_rounding),
        cmocka_unit_test(better_than_rounding),
        cmocka_unit_test(forms_that_are_stored),
        cmocka_unit_test(a_smaller_range_may_be_better),
        cmocka_unit_test(any_number_of_threads),
        cmocka_unit_test(damping_is_raised),
        cmocka_unit_test(what_is_refused),
    };
    return cmocka_run_group_tests(tests, open_backend, close_backend);
}
