/* test_gpu_ops.c - operations that look at one row each, on the GPU beside the CPU: to the bit, but
 * for the loss, whose sum in double has another order. */
#include "twin.h"

static const int64_t widths[] = { 1, 15, 64, 172, 1031, 2048, 4100 };
#define N_WIDTHS (sizeof widths / sizeof *widths)
#define N_ROWS   67
#define N_DTYPES (sizeof model_dtypes / sizeof *model_dtypes)

static void norm(void **state)
{
    (void)state;
    for (size_t d = 0; d < N_DTYPES; d++)
        for (size_t i = 0; i < N_WIDTHS; i++) {
            enum dtype t = model_dtypes[d];
            struct tensor x = random_tensor(t, N_ROWS, widths[i], 3);
            struct tensor weight = random_tensor(t, 1, widths[i], 1);
            struct tensor want = new_tensor(t, N_ROWS, widths[i]);
            struct tensor dx = device_tensor(&x), dw = device_tensor(&weight);
            struct tensor out = device_result(t, N_ROWS, widths[i]);
            struct norm_args a = { &x, &weight, &want, N_ROWS, 1e-5f, PHASE_PROMPT };
            struct norm_args on_gpu = { &dx, &dw, &out, N_ROWS, 1e-5f, PHASE_PROMPT };
            struct norm_args in_place = { &dx, &dw, &dx, N_ROWS, 1e-5f, PHASE_PROMPT };
            struct err e = ERR_INIT;

            set_element(&x, 3, 0, 0);
            CHECK_OK(gpu.ops->upload(&gpu, dx.data, x.data, tensor_bytes(&x), &e), e);
            CHECK_OK(cpu->ops->norm(cpu, &a, &e), e);
            CHECK_OK(gpu.ops->norm(&gpu, &on_gpu, &e), e);
            CHECK_OK(gpu.ops->norm(&gpu, &in_place, &e), e);
            struct tensor again = host_tensor(&dx);
            check_same("norm in place", &again, &want);
            check_device("norm", &out, &want);
            free_tensor(&again);
            free_tensor(&x);
            free_tensor(&weight);
            device_free(dx.data);
            device_free(dw.data);
        }
}

static void elements(void **state)
{
    (void)state;
    for (size_t d = 0; d < N_DTYPES; d++)
        for (size_t i = 0; i < N_WIDTHS; i++) {
            enum dtype t = model_dtypes[d];
            struct tensor x = random_tensor(t, N_ROWS, widths[i], 8);
            struct tensor y = random_tensor(t, N_ROWS, widths[i], 2);
            struct tensor want = new_tensor(t, N_ROWS, widths[i]);
            struct err e = ERR_INIT;

            set_element(&x, 0, 0, -100);
            set_element(&x, 1, 0, 60000);
            set_element(&x, 2, 0, NAN);
            set_element(&x, 4, 0, -INFINITY);
            struct tensor dx = device_tensor(&x), dy = device_tensor(&y);
            struct tensor out = device_result(t, N_ROWS, widths[i]);
            struct swiglu_args swiglu = { &x, &y, &want, N_ROWS };
            struct swiglu_args on_gpu = { &dx, &dy, &out, N_ROWS };
            CHECK_OK(cpu->ops->swiglu(cpu, &swiglu, &e), e);
            CHECK_OK(gpu.ops->swiglu(&gpu, &on_gpu, &e), e);
            check_device("swiglu", &out, &want);

            struct add_args add = { &x, &y, N_ROWS }, gpu_add = { &dx, &dy, N_ROWS };
            CHECK_OK(cpu->ops->add(cpu, &add, &e), e);
            CHECK_OK(gpu.ops->add(&gpu, &gpu_add, &e), e);
            check_device("add", &dx, &x);
            free_tensor(&y);
            device_free(dy.data);
        }
}

static void rows(void **state)
{
    static const int32_t ids[] = { 4, 0, 4, 11, 7 };

    (void)state;
    for (size_t d = 0; d < N_DTYPES; d++)
        for (size_t to = 0; to < N_DTYPES; to++)
            for (size_t i = 0; i < N_WIDTHS; i++) {
                struct tensor table = random_tensor(model_dtypes[d], 12, widths[i], 2);
                struct tensor want = new_tensor(model_dtypes[to], 5, widths[i]);
                struct tensor all = new_tensor(model_dtypes[to], 12, widths[i]);
                struct err e = ERR_INIT;

                set_element(&table, 4, 0, 1e6f);
                set_element(&table, 0, 0, 1e-6f);
                struct tensor dt = device_tensor(&table);
                struct tensor d1 = device_result(model_dtypes[to], 5, widths[i]);
                struct tensor d2 = device_result(model_dtypes[to], 5, widths[i]);
                struct tensor d3 = device_result(model_dtypes[to], 12, widths[i]);
                int32_t *on_device = to_device(ids, sizeof ids);
                struct embed_args embed = { &table, ids, &want, 5 };
                struct embed_args gpu_embed = { &dt, on_device, &d1, 5 };
                struct gather_args gather = { &dt, on_device, &d2, 5 };
                struct convert_args convert = { &table, &all }, gpu_convert = { &dt, &d3 };
                CHECK_OK(cpu->ops->embed(cpu, &embed, &e), e);
                CHECK_OK(cpu->ops->convert(cpu, &convert, &e), e);
                CHECK_OK(gpu.ops->embed(&gpu, &gpu_embed, &e), e);
                CHECK_OK(gpu.ops->gather(&gpu, &gather, &e), e);
                CHECK_OK(gpu.ops->convert(&gpu, &gpu_convert, &e), e);
                struct tensor gathered = host_tensor(&d2);
                check_same("gather", &gathered, &want);
                check_device("embed", &d1, &want);
                check_device("convert", &d3, &all);
                free_tensor(&gathered);
                free_tensor(&table);
                device_free(d2.data);
                device_free(dt.data);
                device_free(on_device);
            }
}

/* ---- rope ---- */

static void rope_case(enum dtype t, int n_heads, int n_kv, int head_dim, int n_rotated)
{
    if (left_out())
        return;
    enum { ROWS = 9, CAPACITY = 20, SLOTS = 3 };
    int64_t kv = (int64_t)n_kv * head_dim;
    struct tensor q = random_tensor(t, ROWS, (int64_t)n_heads * head_dim, 2);
    struct tensor k = random_tensor(t, ROWS, kv, 2), v = random_tensor(t, ROWS, kv, 2);
    struct tensor cos_table = random_tensor(DTYPE_F32, 30, head_dim / 2, 0.5f);
    struct tensor sin_table = random_tensor(DTYPE_F32, 30, head_dim / 2, 0.5f);
    struct tensor kc = random_tensor(t, SLOTS * CAPACITY, kv, 1);
    struct tensor vc = random_tensor(t, SLOTS * CAPACITY, kv, 1);
    int32_t numbers[3][ROWS];
    struct err e = ERR_INIT;

    for (int r = 0; r < ROWS; r++) {
        numbers[0][r] = 29 - r;
        numbers[1][r] = r % SLOTS;
        numbers[2][r] = r == 8 ? CAPACITY - 1 : r;
    }
    struct tensor dq = device_tensor(&q), dk = device_tensor(&k), dv = device_tensor(&v);
    struct tensor dc = device_tensor(&cos_table), ds = device_tensor(&sin_table);
    struct tensor dkc = device_tensor(&kc), dvc = device_tensor(&vc);
    int32_t *dn = to_device(numbers, sizeof numbers);
    struct rope_args a = { .q = &q,
                           .k = &k,
                           .v = &v,
                           .cos_table = &cos_table,
                           .sin_table = &sin_table,
                           .table_row = numbers[0],
                           .slot = numbers[1],
                           .position = numbers[2],
                           .k_cache = &kc,
                           .v_cache = &vc,
                           .n_rows = ROWS,
                           .capacity = CAPACITY,
                           .n_heads = n_heads,
                           .n_kv_heads = n_kv,
                           .head_dim = head_dim,
                           .n_rotated = n_rotated };
    struct rope_args g = a;
    g.q = &dq, g.k = &dk, g.v = &dv, g.cos_table = &dc, g.sin_table = &ds;
    g.table_row = dn, g.slot = dn + ROWS, g.position = dn + 2 * ROWS;
    g.k_cache = &dkc, g.v_cache = &dvc;
    CHECK_OK(cpu->ops->rope(cpu, &a, &e), e);
    CHECK_OK(gpu.ops->rope(&gpu, &g, &e), e);
    check_device("rope q", &dq, &q);
    check_device("rope k", &dk, &k);
    check_device("rope key cache", &dkc, &kc);
    check_device("rope value cache", &dvc, &vc);
    struct tensor *rest[] = { &v, &cos_table, &sin_table };
    void *on_device[] = { dv.data, dc.data, ds.data, dn };
    for (size_t i = 0; i < 3; i++)
        free_tensor(rest[i]);
    for (size_t i = 0; i < 4; i++)
        device_free(on_device[i]);
}

static void rope(void **state)
{
    (void)state;
    for (size_t d = 0; d < N_DTYPES; d++) {
        rope_case(model_dtypes[d], 4, 2, 8, 0);
        rope_case(model_dtypes[d], 3, 1, 80, 0);
        rope_case(model_dtypes[d], 1, 1, 2, 0);
        rope_case(model_dtypes[d], 2, 2, 16, 12);
        rope_case(model_dtypes[d], 32, 8, 64, 0);
    }
}

/* ---- attention ---- */

/* Two sequences of positions 0 .. n-1 in one batch, and each row alone. */
static void attention_case(enum dtype t, int n_heads, int n_kv, int head_dim, int n, int64_t window,
                           float bad)
{
    if (left_out())
        return;
    const int64_t capacity = n + 3, n_rows = 2 * n, kv = (int64_t)n_kv * head_dim;
    struct tensor q = random_tensor(t, n_rows, (int64_t)n_heads * head_dim, 2);
    struct tensor kc = random_tensor(t, 3 * capacity, kv, 2);
    struct tensor vc = random_tensor(t, 3 * capacity, kv, 2);
    struct tensor want = new_tensor(t, n_rows, q.n_cols);
    int32_t *numbers = malloc((size_t)n_rows * 2 * sizeof *numbers);
    struct err e = ERR_INIT;

    set_element(&vc, capacity * 2 + n / 2, 0, bad);
    for (int i = 0; i < n_rows; i++) {
        numbers[i] = i < n ? 2 : 0;
        numbers[n_rows + i] = i % n;
    }
    struct tensor dq = device_tensor(&q), dk = device_tensor(&kc), dv = device_tensor(&vc);
    struct tensor out = device_result(t, n_rows, q.n_cols), alone = device_result(t, 1, q.n_cols);
    int32_t *dn = to_device(numbers, (size_t)n_rows * 2 * sizeof *numbers);
    struct attention_args a = { .q = &q,
                                .k_cache = &kc,
                                .v_cache = &vc,
                                .slot = numbers,
                                .position = numbers + n_rows,
                                .out = &want,
                                .n_rows = n_rows,
                                .capacity = capacity,
                                .window = window,
                                .max_position = n - 1,
                                .n_heads = n_heads,
                                .n_kv_heads = n_kv,
                                .head_dim = head_dim };
    struct attention_args g = a;
    g.q = &dq, g.k_cache = &dk, g.v_cache = &dv, g.out = &out;
    g.slot = dn, g.position = dn + n_rows;
    CHECK_OK(cpu->ops->attention(cpu, &a, &e), e);
    CHECK_OK(gpu.ops->attention(&gpu, &g, &e), e);
    for (int64_t row = 0; row < n_rows; row += 1 + n_rows / 7) {
        struct tensor one = rows_of(&dq, row, 1), expected = rows_of(&want, row, 1);
        struct attention_args h = g;

        h.q = &one, h.out = &alone, h.n_rows = 1;
        h.slot = dn + row, h.position = dn + n_rows + row;
        CHECK_OK(gpu.ops->attention(&gpu, &h, &e), e);
        struct tensor got = host_tensor(&alone);
        check_same("attention of a row alone", &got, &expected);
        free_tensor(&got);
    }
    check_device("attention", &out, &want);
    free_tensor(&q);
    free_tensor(&kc);
    free_tensor(&vc);
    device_free(alone.data);
    device_free(dq.data);
    device_free(dk.data);
    device_free(dv.data);
    device_free(dn);
    free(numbers);
}

static void attention(void **state)
{
    (void)state;
    for (size_t d = 0; d < N_DTYPES; d++) {
        enum dtype t = model_dtypes[d];

        attention_case(t, 1, 1, 2, 1, 0, 1);
        attention_case(t, 4, 2, 8, 63, 0, 1);
        attention_case(t, 3, 1, 80, 64, 0, 1);
        attention_case(t, 4, 4, 64, 65, 5, 1);
        attention_case(t, 8, 2, 128, 130, 64, 1);
        attention_case(t, 2, 1, 256, 70, 0, 1);
        attention_case(t, 6, 2, 130, 66, 1, 1);
        attention_case(t, 4, 2, 16, 90, 0, INFINITY);
        attention_case(t, 4, 2, 16, 90, 20, NAN);
    }
}

static void wide_heads_are_refused(void **state)
{
    struct tensor q = { .dtype = DTYPE_F32, .n_rows = 1, .n_cols = 258 };
    struct attention_args a = { .q = &q,
                                .k_cache = &q,
                                .v_cache = &q,
                                .out = &q,
                                .n_rows = 1,
                                .n_heads = 1,
                                .n_kv_heads = 1,
                                .head_dim = 258 };
    struct err e = ERR_INIT;

    (void)state;
    CHECK(gpu.ops->attention(&gpu, &a, &e) < 0 && strstr(e.text, "258"),
          "heads of 258 elements are refused with a reason: %s", e.text);
}

/* ---- logits ---- */

static void argmax_case(struct tensor *x, const int32_t *forbidden, int n)
{
    int32_t want[N_ROWS], got[N_ROWS];
    struct tensor dx = device_tensor(x);
    int32_t *df = n ? to_device(forbidden, (size_t)n * sizeof *df) : NULL;
    struct argmax_args a = { x, x->n_rows, forbidden, n, want },
                       g = { &dx, x->n_rows, df, n, NULL };
    struct err e = ERR_INIT;

    memset(got, 0x55, sizeof got);
    g.out = to_device(got, sizeof got);
    CHECK_OK(cpu->ops->argmax(cpu, &a, &e), e);
    CHECK_OK(gpu.ops->argmax(&gpu, &g, &e), e);
    CHECK_OK(gpu.ops->download(&gpu, got, g.out, sizeof got, &e), e);
    for (int64_t r = 0; r < x->n_rows; r++)
        CHECK(got[r] == want[r], "argmax of %lld, row %lld: %d, not %d", (long long)x->n_cols,
              (long long)r, got[r], want[r]);
    device_free(g.out);
    device_free(df);
    device_free(dx.data);
}

static void argmax(void **state)
{
    static const int64_t vocab[] = { 1, 2, 511, 512, 513, 4099 };

    (void)state;
    for (size_t i = 0; i < sizeof vocab / sizeof *vocab; i++) {
        int64_t n = vocab[i];
        struct tensor x = random_tensor(DTYPE_F32, N_ROWS, n, 1);
        int32_t forbidden[] = { (int32_t)(n - 1), (int32_t)(n / 2), 0 };

        for (int64_t c = 0; c < n; c++) {
            set_element(&x, 1, c, -INFINITY);
            set_element(&x, 2, c, 7); /* ties */
        }
        set_element(&x, 3, n / 2, NAN);
        set_element(&x, 4, n / 2, INFINITY);
        set_element(&x, 5, n - 1, 50);
        set_element(&x, 5, n / 3, 50);
        for (int k = 0; k <= 3; k++)
            argmax_case(&x, forbidden, k);
        free_tensor(&x);
    }
}

static void nll(void **state)
{
    static const int64_t vocab[] = { 1, 2, 511, 513, 32003 };

    (void)state;
    for (size_t i = 0; i < sizeof vocab / sizeof *vocab; i++) {
        int64_t n = vocab[i];
        struct tensor x = random_tensor(DTYPE_F32, N_ROWS, n, 9);
        int32_t targets[N_ROWS];
        float want[N_ROWS], got[N_ROWS];
        struct err e = ERR_INIT;

        for (int r = 0; r < N_ROWS; r++)
            targets[r] = (int32_t)(draw() * (double)n);
        set_element(&x, 3, n / 2, NAN);
        set_element(&x, 4, n / 2, INFINITY);
        set_element(&x, 5, 0, NAN);
        set_element(&x, 6, n - 1, -INFINITY);
        struct tensor dx = device_tensor(&x);
        memset(got, 0x55, sizeof got);
        struct nll_args a = { &x, targets, N_ROWS, want };
        struct nll_args g = { &dx, to_device(targets, sizeof targets), N_ROWS,
                              to_device(got, sizeof got) };
        CHECK_OK(cpu->ops->nll(cpu, &a, &e), e);
        CHECK_OK(gpu.ops->nll(&gpu, &g, &e), e);
        CHECK_OK(gpu.ops->download(&gpu, got, g.out, sizeof got, &e), e);
        for (int r = 0; r < N_ROWS; r++) /* both are a double rounded once */
            CHECK(got[r] == want[r] || (isnan(got[r]) && isnan(want[r])) ||
                      check_near(got[r], want[r], fabs((double)want[r]) * 0x1.01p-23),
                  "nll of %lld, row %d: %a, not %a", (long long)n, r, got[r], want[r]);
        device_free((void *)(uintptr_t)g.targets);
        device_free(g.out);
        device_free(dx.data);
        free_tensor(&x);
    }
}

static bool near_or_nan(double x, double y, double off)
{
    return (isnan(x) && isnan(y)) || x == y || check_near(x, y, off);
}

/* Beside the CPU's order of the same sums. */
static void divergence(void **state)
{
    static const int64_t vocab[] = { 1, 2, 511, 513, 32003 };

    (void)state;
    for (size_t i = 0; i < sizeof vocab / sizeof *vocab; i++) {
        const int64_t n = vocab[i];
        struct tensor p = random_tensor(DTYPE_F32, N_ROWS, n, 9);
        struct tensor q = random_tensor(DTYPE_F32, N_ROWS, n, 9);
        struct divergence want[N_ROWS], got[N_ROWS];
        int32_t targets[N_ROWS];
        struct err e = ERR_INIT;

        for (int r = 0; r < N_ROWS; r++)
            targets[r] = (int32_t)(draw() * (double)n);
        for (int64_t c = 0; c < n; c++)
            set_element(&q, 2, c, element(&p, 2, c)); /* not apart */
        set_element(&p, 3, n / 2, NAN);
        set_element(&q, 4, n / 2, NAN);
        set_element(&p, 5, n - 1, -INFINITY);
        set_element(&q, 6, 0, -INFINITY);
        set_element(&p, 1, n / 2, element(&p, 1, n - 1)); /* perhaps two largest */
        memset(got, 0x55, sizeof got);
        struct tensor dp = device_tensor(&p), dq = device_tensor(&q);
        struct divergence_args a = { &p, &q, targets, N_ROWS, want };
        struct divergence_args g = { &dp, &dq, to_device(targets, sizeof targets), N_ROWS,
                                     to_device(got, sizeof got) };
        CHECK_OK(cpu->ops->divergence(cpu, &a, &e), e);
        CHECK_OK(gpu.ops->divergence(&gpu, &g, &e), e);
        CHECK_OK(gpu.ops->download(&gpu, got, g.out, sizeof got, &e), e);
        for (int r = 0; r < N_ROWS; r++)
            CHECK(near_or_nan(got[r].kl, want[r].kl, 1e-11) &&
                      near_or_nan(got[r].nll_base, want[r].nll_base, 1e-11) &&
                      near_or_nan(got[r].nll, want[r].nll, 1e-11) &&
                      got[r].same_top == want[r].same_top,
                  "%lld ids, row %d: %.17g %.17g %.17g %d, not %.17g %.17g %.17g %d", (long long)n,
                  r, got[r].kl, got[r].nll_base, got[r].nll, got[r].same_top, want[r].kl,
                  want[r].nll_base, want[r].nll, want[r].same_top);
        device_free((void *)(uintptr_t)g.targets);
        device_free(g.out);
        device_free(dp.data);
        device_free(dq.data);
        free_tensor(&p);
        free_tensor(&q);
    }
}

/* ---- memory ---- */

static void too_much_is_refused_with_both_numbers(void **state)
{
    struct device_facts facts;
    struct err e = ERR_INIT;
    char asked[32];
    void *p;

    (void)state;
    CHECK_OK(gpu.ops->facts(&gpu, &facts, &e), e);
    size_t n_bytes = (size_t)facts.memory_bytes * 2;
    snprintf(asked, sizeof asked, "%zu", n_bytes);
    CHECK(backend_alloc(&gpu, MEM_WEIGHTS, n_bytes, &p, &e) < 0 && e.code == ERR_MEMORY,
          "twice the card does not fit");
    CHECK(strstr(e.text, asked) && strstr(e.text, "free"), "asked and free are said: %s", e.text);
    e = (struct err)ERR_INIT;
    CHECK_OK(gpu.ops->sync(&gpu, &e), e);
    CHECK_OK(backend_alloc(&gpu, MEM_WEIGHTS, 100, &p, &e), e);
    CHECK((uintptr_t)p % 64 == 0, "memory is 64-aligned");
    backend_free(&gpu, p);
}

static void another_device_is_refused(void **state)
{
    struct backend other;
    struct err e = ERR_INIT;

    (void)state;
    CHECK(backend_open(&other, "cuda", 99, NULL, &e) < 0 && e.code == ERR_USAGE,
          "device 99 is not there");
    CHECK(strstr(e.text, "99"), "and the text says so: %s", e.text);
}

static void nothing_is_left(void **state)
{
    (void)state;
    for (int i = 0; i < MEM_N_TAGS; i++)
        CHECK(gpu.mem.now[i] == 0, "%zu bytes of kind %d were not freed", gpu.mem.now[i], i);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(norm),
        cmocka_unit_test(elements),
        cmocka_unit_test(rows),
        cmocka_unit_test(rope),
        cmocka_unit_test(attention),
        cmocka_unit_test(wide_heads_are_refused),
        cmocka_unit_test(argmax),
        cmocka_unit_test(nll),
        cmocka_unit_test(divergence),
        cmocka_unit_test(too_much_is_refused_with_both_numbers),
        cmocka_unit_test(another_device_is_refused),
        cmocka_unit_test(nothing_is_left),
    };

    return open_device() ? cmocka_run_group_tests(tests, open_twins, close_twins) : 1;
}
