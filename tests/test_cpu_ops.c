/* test_cpu_ops.c - the operations that look at one row each, against float64 recomputations, and
 * to the bit between instruction sets, thread counts and batches. */
#include "ops.h"

static const int64_t widths[] = { 1, 15, 16, 17, 64, 172, 1031 };
#define N_WIDTHS (sizeof widths / sizeof *widths)
#define N_ROWS   64
#define N_DTYPES (sizeof model_dtypes / sizeof *model_dtypes)

/* Runs op(backend, first, n_rows, out) on every instruction set with 1 and 2 threads and in
 * batches of 1, 7 and 64 rows; all must give the bytes that `want` holds. */
typedef void row_op(struct backend *b, void *inputs, int64_t first, int64_t n_rows,
                    struct tensor *out);

static void same_everywhere(const char *name, row_op *op, void *inputs, const struct tensor *want)
{
    for (int i = 0; i < N_ISAS; i++)
        for (int threads = 1; threads <= 2 && isas[i].ops; threads++)
            for (size_t k = 0; k < N_BATCH_SIZES; k++) {
                struct tensor out = new_tensor(want->dtype, want->n_rows, want->n_cols);

                omp_set_num_threads(threads);
                for (int64_t at = 0; at < want->n_rows; at += batch_sizes[k]) {
                    int64_t left = want->n_rows - at;
                    int64_t n = left < batch_sizes[k] ? left : batch_sizes[k];
                    struct tensor rows = rows_of(&out, at, n);
                    op(&isas[i], inputs, at, n, &rows);
                }
                CHECK(same_bits(&out, want),
                      "%s, %lld wide %s: the same bits on %s with %d "
                      "threads in batches of %lld",
                      name, (long long)want->n_cols, dtype_name(want->dtype), isa_names[i], threads,
                      (long long)batch_sizes[k]);
                free_tensor(&out);
            }
}

/* ---- RMSNorm ---- */

struct norm_inputs {
    struct tensor x, weight;
};

static void run_norm(struct backend *b, void *inputs, int64_t first, int64_t n_rows,
                     struct tensor *out)
{
    struct norm_inputs *in = inputs;
    struct tensor x = rows_of(&in->x, first, n_rows);
    struct norm_args a = {
        .x = &x, .weight = &in->weight, .out = out, .n_rows = n_rows, .eps = 1e-5f
    };
    struct err e = ERR_INIT;

    CHECK_OK(b->ops->norm(b, &a, &e), e);
}

static void norm(void **state)
{
    (void)state;
    for (size_t d = 0; d < N_DTYPES; d++)
        for (size_t i = 0; i < N_WIDTHS; i++) {
            int64_t n = widths[i];
            enum dtype t = model_dtypes[d];
            struct norm_inputs in = { random_tensor(t, N_ROWS, n, 3), random_tensor(t, 1, n, 1) };
            struct tensor out = new_tensor(t, N_ROWS, n);

            for (int64_t c = 0; c < n; c++)
                set_element(&in.x, 3, c, 0); /* a row of zeros */
            run_norm(&isas[0], &in, 0, N_ROWS, &out);
            for (int64_t r = 0; r < N_ROWS; r++) {
                double sum = 0;

                for (int64_t c = 0; c < n; c++)
                    sum += (double)element(&in.x, r, c) * element(&in.x, r, c);
                for (int64_t c = 0; c < n; c++) {
                    double u = element(&in.x, r, c) / sqrt(sum / (double)n + 1e-5);
                    double want = u * element(&in.weight, 0, c);
                    /* u may fall on the other side of a rounding boundary of T. */
                    double allowed = 3.1 * half_step(t, want) + 4e-6 * fabs(want);

                    CHECK(check_near(element(&out, r, c), want, allowed),
                          "norm %s [%lld, %lld of %lld]: %g, not %g", dtype_name(t), (long long)r,
                          (long long)c, (long long)n, element(&out, r, c), want);
                }
            }
            same_everywhere("norm", run_norm, &in, &out);

            struct norm_args in_place = {
                .x = &in.x, .weight = &in.weight, .out = &in.x, .n_rows = N_ROWS, .eps = 1e-5f
            };
            struct err e = ERR_INIT;
            CHECK_OK(isas[0].ops->norm(&isas[0], &in_place, &e), e);
            CHECK(same_bits(&in.x, &out), "norm may write over its input");
            free_tensor(&in.x);
            free_tensor(&in.weight);
            free_tensor(&out);
        }
}

/* The two rounding points, worked by hand in bf16: mean square 2.5, u = 1 / sqrt(2.5) and
 * 2 / sqrt(2.5), rounded before the weight multiplies. */
static void norm_rounds_twice(void **state)
{
    struct tensor x = new_tensor(DTYPE_BF16, 1, 2), w = new_tensor(DTYPE_BF16, 1, 2),
                  out = new_tensor(DTYPE_BF16, 1, 2);
    struct norm_args a = { .x = &x, .weight = &w, .out = &out, .n_rows = 1, .eps = 0 };
    struct err e = ERR_INIT;

    (void)state;
    for (int c = 0; c < 2; c++) {
        set_element(&x, 0, c, (float)(c + 1));
        set_element(&w, 0, c, 1.2890625f);
    }
    CHECK_OK(isas[0].ops->norm(&isas[0], &a, &e), e);
    for (int c = 0; c < 2; c++) {
        float u = round_to(DTYPE_BF16, (c + 1) / sqrt(2.5));
        CHECK(element(&out, 0, c) == round_to(DTYPE_BF16, u * 1.2890625),
              "u is rounded to bf16 before the weight");
    }
    free_tensor(&x);
    free_tensor(&w);
    free_tensor(&out);
}

/* ---- SwiGLU and addition ---- */

struct pair {
    struct tensor a, b;
};

static void run_swiglu(struct backend *b, void *inputs, int64_t first, int64_t n_rows,
                       struct tensor *out)
{
    struct pair *in = inputs;
    struct tensor gate = rows_of(&in->a, first, n_rows), up = rows_of(&in->b, first, n_rows);
    struct swiglu_args a = { .gate = &gate, .up = &up, .out = out, .n_rows = n_rows };
    struct err e = ERR_INIT;

    CHECK_OK(b->ops->swiglu(b, &a, &e), e);
}

static void swiglu(void **state)
{
    (void)state;
    for (size_t d = 0; d < N_DTYPES; d++)
        for (size_t i = 0; i < N_WIDTHS; i++) {
            int64_t n = widths[i];
            enum dtype t = model_dtypes[d];
            struct pair in = { random_tensor(t, N_ROWS, n, 8), random_tensor(t, N_ROWS, n, 2) };
            struct tensor out = new_tensor(t, N_ROWS, n);

            set_element(&in.a, 0, 0, -100);
            set_element(&in.a, 1, 0, 60000);
            set_element(&in.a, 2, 0, 0);
            run_swiglu(&isas[0], &in, 0, N_ROWS, &out);
            for (int64_t r = 0; r < N_ROWS; r++)
                for (int64_t c = 0; c < n; c++) {
                    double g = element(&in.a, r, c), u = element(&in.b, r, c);
                    double want = g / (1 + exp(-g)) * u;
                    double allowed = 3.1 * half_step(t, want) + 5e-7 * fabs(want);

                    allowed += half_step(t, 0) * fabs(u); /* silu below the normal range */
                    CHECK(check_near(element(&out, r, c), want, allowed) ||
                              (isinf(element(&out, r, c)) && fabs(want) > 65000),
                          "swiglu %s of %g and %g: %g, not %g", dtype_name(t), g, u,
                          element(&out, r, c), want);
                }
            same_everywhere("swiglu", run_swiglu, &in, &out);
            free_tensor(&in.a);
            free_tensor(&in.b);
            free_tensor(&out);
        }
}

static void run_add(struct backend *b, void *inputs, int64_t first, int64_t n_rows,
                    struct tensor *out)
{
    struct pair *in = inputs;
    struct tensor x = rows_of(&in->a, first, n_rows), y = rows_of(&in->b, first, n_rows);
    struct add_args a = { .x = out, .y = &y, .n_rows = n_rows };
    struct err e = ERR_INIT;

    memcpy(out->data, x.data, tensor_bytes(&x));
    CHECK_OK(b->ops->add(b, &a, &e), e);
}

static void add(void **state)
{
    (void)state;
    for (size_t d = 0; d < N_DTYPES; d++)
        for (size_t i = 0; i < N_WIDTHS; i++) {
            int64_t n = widths[i];
            enum dtype t = model_dtypes[d];
            struct pair in = { random_tensor(t, N_ROWS, n, 1), random_tensor(t, N_ROWS, n, 1) };
            struct tensor out = new_tensor(t, N_ROWS, n);

            run_add(&isas[0], &in, 0, N_ROWS, &out);
            for (int64_t r = 0; r < N_ROWS; r++)
                for (int64_t c = 0; c < n; c++)
                    CHECK(element(&out, r, c) ==
                              round_to(t, (double)element(&in.a, r, c) + element(&in.b, r, c)),
                          "a sum is rounded once");
            same_everywhere("add", run_add, &in, &out);
            free_tensor(&in.a);
            free_tensor(&in.b);
            free_tensor(&out);
        }
}

/* ---- rows: embed, gather, convert ---- */

static void rows(void **state)
{
    (void)state;
    for (size_t d = 0; d < N_DTYPES; d++)
        for (size_t i = 0; i < N_WIDTHS; i++)
            for (size_t to = 0; to < N_DTYPES; to++) {
                int32_t ids[] = { 4, 0, 4, 11, 7 };
                struct tensor table = random_tensor(model_dtypes[d], 12, widths[i], 2);
                struct tensor out = new_tensor(model_dtypes[to], 5, widths[i]);
                struct tensor all = new_tensor(model_dtypes[to], 12, widths[i]);
                struct embed_args embed = { .table = &table, .ids = ids, .out = &out, .n_rows = 5 };
                struct gather_args gather = { .x = &all, .rows = ids, .out = &out, .n_rows = 5 };
                struct convert_args convert = { .x = &table, .out = &all };
                struct err e = ERR_INIT;

                CHECK_OK(isas[0].ops->embed(&isas[0], &embed, &e), e);
                for (int r = 0; r < 5; r++)
                    for (int64_t c = 0; c < widths[i]; c++)
                        CHECK(element(&out, r, c) ==
                                  round_to(model_dtypes[to], element(&table, ids[r], c)),
                              "row %d is row %d of the table", r, ids[r]);
                CHECK_OK(isas[0].ops->convert(&isas[0], &convert, &e), e);
                struct tensor embedded = new_tensor(out.dtype, 5, widths[i]);
                memcpy(embedded.data, out.data, tensor_bytes(&out));
                CHECK_OK(isas[0].ops->gather(&isas[0], &gather, &e), e);
                CHECK(same_bits(&out, &embedded), "gathering converted rows gives the same");
                free_tensor(&embedded);
                free_tensor(&table);
                free_tensor(&out);
                free_tensor(&all);
            }
}

/* ---- rope ---- */

static void rope_case(enum dtype t, int n_heads, int n_kv, int head_dim, int n_rotated)
{
    enum { ROWS = 9, CAPACITY = 20, SLOTS = 3 };
    const int half = (n_rotated ? n_rotated : head_dim) / 2;
    struct tensor q = random_tensor(t, ROWS, n_heads * head_dim, 2);
    struct tensor k = random_tensor(t, ROWS, n_kv * head_dim, 2);
    struct tensor v = random_tensor(t, ROWS, n_kv * head_dim, 2);
    struct tensor cos_table = random_tensor(DTYPE_F32, 30, head_dim / 2, 0.5f);
    struct tensor sin_table = random_tensor(DTYPE_F32, 30, head_dim / 2, 0.5f);
    struct tensor kc = new_tensor(t, SLOTS * CAPACITY, n_kv * head_dim);
    struct tensor vc = new_tensor(t, SLOTS * CAPACITY, n_kv * head_dim);
    struct tensor q0 = new_tensor(t, ROWS, q.n_cols), k0 = new_tensor(t, ROWS, k.n_cols);
    int32_t table_row[ROWS], slot[ROWS], position[ROWS];
    struct err e = ERR_INIT;

    dtype_round(t, cos_table.data, 30 * head_dim / 2);
    dtype_round(t, sin_table.data, 30 * head_dim / 2);
    memcpy(q0.data, q.data, tensor_bytes(&q));
    memcpy(k0.data, k.data, tensor_bytes(&k));
    for (int r = 0; r < ROWS; r++) {
        slot[r] = r % SLOTS;
        position[r] = r == 8 ? CAPACITY - 1 : r;
        table_row[r] = 29 - r;
    }
    struct rope_args a = {
        .q = &q,
        .k = &k,
        .v = &v,
        .cos_table = &cos_table,
        .sin_table = &sin_table,
        .table_row = table_row,
        .slot = slot,
        .position = position,
        .k_cache = &kc,
        .v_cache = &vc,
        .n_rows = ROWS,
        .capacity = CAPACITY,
        .n_heads = n_heads,
        .n_kv_heads = n_kv,
        .head_dim = head_dim,
        .n_rotated = n_rotated,
    };
    CHECK_OK(isas[0].ops->rope(&isas[0], &a, &e), e);
    for (int r = 0; r < ROWS; r++) {
        for (int h = 0; h < n_heads + n_kv; h++) {
            const struct tensor *before = h < n_heads ? &q0 : &k0;
            const struct tensor *after = h < n_heads ? &q : &k;
            int64_t base = (h < n_heads ? h : h - n_heads) * head_dim;

            for (int j = 0; j < head_dim; j++) {
                int pair = j % half;
                double c = element(&cos_table, table_row[r], pair);
                double s = element(&sin_table, table_row[r], pair);
                float x = element(before, r, base + j), want = x;

                if (j < 2 * half) {
                    float other = element(before, r, base + (j < half ? j + half : j - half));
                    float with_cos = round_to(t, x * c);
                    float with_sin = round_to(t, (j < half ? -other : other) * s);
                    want = round_to(t, (double)with_cos + with_sin);
                }
                CHECK(element(after, r, base + j) == want,
                      "rope %s of %d: head %d element %d of row %d is %g, not %g", dtype_name(t),
                      head_dim, h, j, r, element(after, r, base + j), want);
            }
        }
        int64_t place = slot[r] * CAPACITY + position[r];
        struct tensor cached = rows_of(&kc, place, 1), rotated = rows_of(&k, r, 1);
        CHECK(same_bits(&cached, &rotated), "row %d's rotated key is in its place", r);
        cached = rows_of(&vc, place, 1);
        rotated = rows_of(&v, r, 1);
        CHECK(same_bits(&cached, &rotated), "row %d's value is in its place", r);
    }
    struct tensor untouched = rows_of(&kc, CAPACITY - 1, 1);
    CHECK(isnan(element(&untouched, 0, 0)), "other places stay as they were");

    struct tensor *all[] = { &q, &k, &v, &cos_table, &sin_table, &kc, &vc, &q0, &k0 };
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        free_tensor(all[i]);
}

static void rope(void **state)
{
    (void)state;
    for (size_t d = 0; d < N_DTYPES; d++) {
        rope_case(model_dtypes[d], 4, 2, 8, 0);
        rope_case(model_dtypes[d], 3, 1, 80, 0);
        rope_case(model_dtypes[d], 1, 1, 2, 0);
        rope_case(model_dtypes[d], 2, 2, 16, 12);
    }
}

/* ---- logits ---- */

static int32_t argmax_of(struct backend *b, struct tensor *logits, const int32_t *forbidden, int n)
{
    int32_t out = -7;
    struct argmax_args a = {
        .logits = logits, .n_rows = 1, .forbidden = forbidden, .n_forbidden = n, .out = &out
    };
    struct err e = ERR_INIT;

    CHECK_OK(b->ops->argmax(b, &a, &e), e);
    return out;
}

static void argmax(void **state)
{
    (void)state;
    for (int i = 0; i < N_ISAS; i++)
        for (int64_t n = 1; n <= 67 && isas[i].ops; n++) {
            struct tensor x = random_tensor(DTYPE_F32, 1, n, 1);
            int32_t best = (int32_t)(n * 2 / 3), also = (int32_t)(n - 1), both[] = { best, also };

            set_element(&x, 0, best, 100);
            set_element(&x, 0, also, 100);
            CHECK(argmax_of(&isas[i], &x, NULL, 0) == best, "of equals the lowest id, %lld wide",
                  (long long)n);
            if (best != also)
                CHECK(argmax_of(&isas[i], &x, both, 1) == also, "a forbidden id is never taken");
            if (n == 1)
                CHECK(argmax_of(&isas[i], &x, both, 1) == -1, "not even when it is the only one");
            if (n > 2) {
                set_element(&x, 0, 0, 50);
                CHECK(argmax_of(&isas[i], &x, both, 2) == 0, "then the best of the rest");
                set_element(&x, 0, 1, -INFINITY);
                CHECK(argmax_of(&isas[i], &x, both, 2) == 0, "an infinite logit does no harm");
            }
            set_element(&x, 0, n / 2, NAN);
            CHECK(argmax_of(&isas[i], &x, NULL, 0) == -1, "a NaN at %lld is found",
                  (long long)(n / 2));
            free_tensor(&x);
        }
}

struct nll_inputs {
    struct tensor logits;
    int32_t *targets;
};

static void run_nll(struct backend *b, void *inputs, int64_t first, int64_t n_rows,
                    struct tensor *out)
{
    struct nll_inputs *in = inputs;
    struct tensor logits = rows_of(&in->logits, first, n_rows);
    struct nll_args a = {
        .logits = &logits, .targets = in->targets + first, .n_rows = n_rows, .out = out->data
    };
    struct err e = ERR_INIT;

    CHECK_OK(b->ops->nll(b, &a, &e), e);
}

static void nll(void **state)
{
    static const float scales[] = { 0.01f, 1, 10, 300 };

    (void)state;
    for (size_t s = 0; s < 4; s++)
        for (size_t i = 0; i < N_WIDTHS; i++) {
            int64_t n = widths[i];
            int32_t targets[N_ROWS];
            struct nll_inputs in = { random_tensor(DTYPE_F32, N_ROWS, n, scales[s]), targets };
            struct tensor out = new_tensor(DTYPE_F32, N_ROWS, 1);

            for (int r = 0; r < N_ROWS; r++)
                targets[r] = (int32_t)(draw() * (double)n);
            run_nll(&isas[0], &in, 0, N_ROWS, &out);
            for (int64_t r = 0; r < N_ROWS; r++) {
                double most = -INFINITY, sum = 0;

                for (int64_t c = 0; c < n; c++)
                    most = fmax(most, element(&in.logits, r, c));
                for (int64_t c = 0; c < n; c++)
                    sum += exp(element(&in.logits, r, c) - most);
                double want = log(sum) + (most - element(&in.logits, r, targets[r]));
                CHECK(check_near(element(&out, r, 0), want, 6.1e-8 * fabs(want) + 1e-14),
                      "nll of %lld logits: %.9g, not %.9g", (long long)n, element(&out, r, 0),
                      want);
            }
            same_everywhere("nll", run_nll, &in, &out);
            set_element(&in.logits, 5, n / 2, NAN);
            run_nll(&isas[0], &in, 0, N_ROWS, &out);
            CHECK(isnan(element(&out, 5, 0)) && !isnan(element(&out, 4, 0)),
                  "a NaN logit gives NaN, to its row alone");
            free_tensor(&in.logits);
            free_tensor(&out);
        }
}

/* ---- the exponential of softmax and silu ---- */

static void exponential(void **state)
{
    const struct cpu_kernels *k[N_ISAS];
    double worst = 0;

    (void)state;
    for (int i = 0; i < N_ISAS; i++)
        k[i] = cpu_kernels_of(isas[i].ops ? &isas[i] : &isas[0]);
    for (double base = -110; base <= 0; base += 0.0371) {
        float x[ATTENTION_BLOCK], y[N_ISAS][ATTENTION_BLOCK];

        for (int j = 0; j < ATTENTION_BLOCK; j++)
            x[j] = (float)(base - 0.0005 * j);
        for (int i = 0; i < N_ISAS; i++) {
            struct softmax_row row = { .max = 0 };
            memcpy(y[i], x, sizeof x);
            float factor = k[i]->softmax_block(y[i], 0, ATTENTION_BLOCK, 1, &row);
            CHECK(factor == 1, "a maximum that does not grow changes nothing");
            CHECK(!memcmp(y[i], y[0], sizeof x), "%s gives the bits of generic", isa_names[i]);
        }
        for (int j = 0; j < ATTENTION_BLOCK; j++) {
            double want = exp((double)x[j]),
                   ulp = want < 0x1p-126 ? 0x1p-149 : ldexp(1, ilogb(want) - 23);
            double off = fabs(y[0][j] - want) / ulp;
            CHECK(off <= 2, "exp(%g) is within 2 ulp, not %g", x[j], off);
            worst = off > worst ? off : worst;
        }
    }
    printf("exponential: largest error %.3f ulp\n", worst);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm),        cmocka_unit_test(norm_rounds_twice),
        cmocka_unit_test(swiglu),      cmocka_unit_test(add),
        cmocka_unit_test(rows),        cmocka_unit_test(rope),
        cmocka_unit_test(argmax),      cmocka_unit_test(nll),
        cmocka_unit_test(exponential),
    };

    return cmocka_run_group_tests(tests, open_isas, close_isas);
}
