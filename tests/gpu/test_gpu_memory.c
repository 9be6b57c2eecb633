/* test_gpu_memory.c - memory on the GPU: what is freed serves again, what does not fit is said with
 * the numbers, and the account counts working memory. */
#include "twin.h"

#define MIB ((size_t)1 << 20)

static int64_t free_bytes(void)
{
    struct device_facts facts;
    struct err e = ERR_INIT;

    CHECK_OK(gpu.ops->facts(&gpu, &facts, &e), e);
    CHECK(facts.free_bytes > 0 && facts.free_bytes <= facts.memory_bytes, "%lld of %lld free",
          (long long)facts.free_bytes, (long long)facts.memory_bytes);
    return facts.free_bytes;
}

static void what_is_freed_is_free(void **state)
{
    enum { N = 300 };
    static void *p[N];
    static size_t n_bytes[N];
    struct err e = ERR_INIT;
    const int64_t before = free_bytes();

    (void)state;
    for (int round = 0; round < 20; round++) {
        for (int i = 0; i < N; i++) {
            if (p[i] && draw() < 0.5) {
                backend_free(&gpu, p[i]);
                p[i] = NULL;
            }
            if (p[i])
                continue;
            n_bytes[i] = (size_t)(draw() * draw() * draw() * 8 * (double)MIB);
            CHECK_OK(backend_alloc(&gpu, MEM_CACHE, n_bytes[i], &p[i], &e), e);
            CHECK((uintptr_t)p[i] % 64 == 0, "aligned");
        }
        /* Live pieces lie apart. */
        for (int i = 0; i < N; i++)
            for (int k = 0; k < i; k++)
                CHECK((char *)p[i] + n_bytes[i] <= (char *)p[k] ||
                          (char *)p[k] + n_bytes[k] <= (char *)p[i] || !n_bytes[i] || !n_bytes[k],
                      "pieces %d and %d lie apart", i, k);
    }
    CHECK(free_bytes() < before, "some of the memory is in use");
    for (int i = 0; i < N; i++)
        backend_free(&gpu, p[i]);
    CHECK(gpu.mem.now[MEM_CACHE] == 0, "the account is even");
    CHECK(free_bytes() >= before, "and all of it is free again: %lld, before %lld",
          (long long)free_bytes(), (long long)before);
}

/* Memory that was freed while kernels still read it may serve the next call: they come first. */
static void reuse_waits_its_turn(void **state)
{
    struct err e = ERR_INIT;
    struct tensor x = random_tensor(DTYPE_F32, 4096, 1024, 1), dx = device_tensor(&x);
    struct tensor out = device_result(DTYPE_F32, 4096, 1024);

    (void)state;
    for (int i = 0; i < 8; i++) {
        struct tensor copy;
        struct convert_args in = { .x = &dx, .out = &copy }, back = { .x = &copy, .out = &out };

        CHECK_OK(tensor_alloc(&gpu, MEM_CACHE, DTYPE_F32, 4096, 1024, &copy, &e), e);
        CHECK_OK(gpu.ops->convert(&gpu, &in, &e), e);
        CHECK_OK(gpu.ops->convert(&gpu, &back, &e), e);
        tensor_free(&gpu, &copy);
    }
    check_device("through memory that is given back at once", &out, &x);
    device_free(dx.data);
}

static void what_does_not_fit_is_said(void **state)
{
    struct err e = ERR_INIT;
    void *p = NULL, *most = NULL;
    char asked[64];
    const int64_t there = free_bytes();
    const size_t too_much = (size_t)there + (size_t)1024 * MIB;

    (void)state;
    CHECK(backend_alloc(&gpu, MEM_CACHE, too_much, &p, &e) == -1 && !p && e.code == ERR_MEMORY,
          "refused");
    snprintf(asked, sizeof asked, "%zu bytes asked for", too_much);
    CHECK(strstr(e.text, asked) && strstr(e.text, "free on") && strstr(e.text, "the cache"),
          "with the numbers: %s", e.text);
    printf("%s\n", e.text);

    /* Nearly all fits, and then little more does. */
    err_clear(&e);
    CHECK_OK(backend_alloc(&gpu, MEM_CACHE, (size_t)there - 2048 * MIB, &most, &e), e);
    CHECK(backend_alloc(&gpu, MEM_CACHE, 4096 * MIB, &p, &e) == -1 && e.code == ERR_MEMORY,
          "not twice");
    err_clear(&e);
    CHECK_OK(backend_alloc(&gpu, MEM_CACHE, 512 * MIB, &p, &e), e);
    backend_free(&gpu, p);
    backend_free(&gpu, most);

    /* What lies free in small pieces serves a large one. */
    void *pieces[16];
    for (int i = 0; i < 16; i++)
        CHECK_OK(backend_alloc(&gpu, MEM_CACHE, ((size_t)there - 2048 * MIB) / 16, &pieces[i], &e),
                 e);
    for (int i = 0; i < 16; i++)
        backend_free(&gpu, pieces[i]);
    CHECK_OK(backend_alloc(&gpu, MEM_CACHE, (size_t)there - 2048 * MIB, &most, &e), e);
    backend_free(&gpu, most);
    CHECK_OK(gpu.ops->sync(&gpu, &e), e);
    CHECK(gpu.mem.now[MEM_CACHE] == 0, "the account is even");
}

static void working_memory_is_counted(void **state)
{
    struct tensor x = random_tensor(DTYPE_F16, 64, 1024, 1), dx = device_tensor(&x);
    struct quantize_args a = {
        .w = &dx, .rule = QUANTIZE_BNB_NF4, .bits = 4, .group_size = 64, .double_quant = true
    };
    struct weight w;
    struct err e = ERR_INIT;

    (void)state;
    a.out = &w;
    CHECK(gpu.ops->trim != NULL, "working memory can be given back");
    gpu.ops->trim(&gpu);
    const size_t before = gpu.mem.now[MEM_SCRATCH];
    CHECK_OK(gpu.ops->quantize(&gpu, &a, &e), e);
    CHECK_OK(gpu.ops->sync(&gpu, &e), e);
    CHECK(gpu.mem.now[MEM_SCRATCH] >= before + 1024 * sizeof(float),
          "the scales before they are nested: %zu bytes", gpu.mem.now[MEM_SCRATCH] - before);
    gpu.ops->trim(&gpu);
    CHECK(gpu.mem.now[MEM_SCRATCH] == before, "and given back");
    weight_release(&gpu, &w);
    device_free(dx.data);
    free_tensor(&x);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_is_freed_is_free),
        cmocka_unit_test(reuse_waits_its_turn),
        cmocka_unit_test(what_does_not_fit_is_said),
        cmocka_unit_test(working_memory_is_counted),
    };

    return open_device() ? cmocka_run_group_tests(tests, open_twins, close_twins) : 1;
}
