/* test_backend.c - opening a device by name, and the account of its memory. */
#include "check.h"

#include "backend/backend.h"

#include <string.h>

#define N_LIVE 1000

static void names(void **state)
{
    struct backend b = BACKEND_INIT;
    struct err e = ERR_INIT;
    char why[256];

    (void)state;
    CHECK(backend_compiled("cpu"), "the CPU is always there");
    CHECK_OK(backend_open(&b, "cpu", 0, why, &e), e);
    CHECK(!strcmp(b.ops->name, "cpu") && !why[0], "cpu is cpu, for no other reason");
    backend_close(&b);
    backend_close(&b);

    CHECK_OK(backend_open(&b, "auto", 0, why, &e), e);
    CHECK(strstr(why, "running on"), "auto says what it took: %s", why);
    if (!backend_compiled("cuda"))
        CHECK(!strcmp(b.ops->name, "cpu") && strstr(why, "built without CUDA"), "and why: %s", why);
    backend_close(&b);
    CHECK_OK(backend_open(&b, "auto", 0, NULL, &e), e);
    backend_close(&b);

    CHECK(backend_open(&b, "tpu", 0, NULL, &e) < 0 && strstr(e.text, "\"tpu\""),
          "an unknown device is refused by name: %s", e.text);
    if (!backend_compiled("cuda")) {
        err_clear(&e);
        CHECK(backend_open(&b, "cuda", 0, NULL, &e) < 0 && e.code == ERR_USAGE &&
                  strstr(e.text, "without CUDA") && strstr(e.text, "\"cpu\""),
              "cuda is refused with the way out: %s", e.text);
    }
    backend_close(&b); /* never opened */
    setenv("LLQ_CPU_ISA", "mmx", 1);
    CHECK(backend_open(&b, "cpu", 0, NULL, &e) < 0 && strstr(e.text, "mmx"),
          "an instruction set that is not there is told: %s", e.text);
    unsetenv("LLQ_CPU_ISA");
}

static void facts(void **state)
{
    struct backend b = BACKEND_INIT;
    struct device_facts f;
    struct err e = ERR_INIT;

    (void)state;
    CHECK_OK(backend_open(&b, "cpu", 0, NULL, &e), e);
    CHECK_OK(b.ops->facts(&b, &f, &e), e);
    CHECK(f.name[0] && f.n_threads >= 1, "%s, %d threads", f.name, f.n_threads);
    CHECK(f.free_bytes > 0 && f.free_bytes <= f.memory_bytes, "%lld of %lld bytes are free",
          (long long)f.free_bytes, (long long)f.memory_bytes);
    void *p;
    CHECK(backend_alloc(&b, MEM_WEIGHTS, (size_t)f.memory_bytes + 1, &p, &e) < 0 &&
              e.code == ERR_MEMORY && !p && strstr(e.text, "weights"),
          "more than the host has does not fit: %s", e.text);
    CHECK(backend_alloc(&b, MEM_CACHE, SIZE_MAX - 100, &p, &e) < 0 && e.code == ERR_MEMORY,
          "nor does a size near the end of the address space");
    CHECK(b.mem.now[MEM_WEIGHTS] == 0 && b.mem.peak[MEM_WEIGHTS] == 0, "nothing was booked");
    backend_close(&b);
}

static void account(void **state)
{
    struct backend b = BACKEND_INIT;
    struct err e = ERR_INIT;
    void *live[N_LIVE];
    size_t want[MEM_N_TAGS] = { 0 }, largest = 0;

    (void)state;
    CHECK_OK(backend_open(&b, "cpu", 0, NULL, &e), e);
    backend_free(&b, NULL);
    for (size_t i = 0; i < N_LIVE; i++) {
        enum mem_tag tag = i % MEM_N_TAGS;

        CHECK_OK(backend_alloc(&b, tag, i % 97, &live[i], &e), e);
        CHECK((uintptr_t)live[i] % 64 == 0, "allocations begin at 64 bytes");
        memset(live[i], 1, i % 97);
        want[tag] += i % 97;
    }
    CHECK(!memcmp(want, b.mem.now, sizeof want), "every byte is booked under its tag");
    largest = want[MEM_WEIGHTS] + want[MEM_CACHE] + want[MEM_SCRATCH];
    CHECK(b.mem.job_peak == largest, "the job's peak leaves the base model out");
    /* An order that leaves holes everywhere. */
    for (size_t k = 0; k < N_LIVE; k++) {
        size_t i = k * 389 % N_LIVE;
        backend_free(&b, live[i]);
        want[i % MEM_N_TAGS] -= i % 97;
        CHECK(!memcmp(want, b.mem.now, sizeof want), "freeing number %zu is booked", i);
    }
    CHECK(b.mem.job_peak == largest, "a peak stays");
    mem_account_reset_peak(&b);
    CHECK(b.mem.job_peak == 0 && b.mem.peak[MEM_SCRATCH] == 0, "until it is reset");
    backend_close(&b);
}

static void weights(void **state)
{
    struct backend b = BACKEND_INIT;
    struct err e = ERR_INIT;
    struct weight w = { .form = WEIGHT_TABLE,
                        .n_out = 4,
                        .n_in = 64,
                        .bits = 4,
                        .row_bytes = 32,
                        .group_size = 64,
                        .flat_groups = true,
                        .n_groups = 4,
                        .scale_form = SCALE_NESTED };
    struct tensor t = { 0 };

    (void)state;
    CHECK_OK(backend_open(&b, "cpu", 0, NULL, &e), e);
    CHECK_OK(weight_alloc(&b, MEM_WEIGHTS, &w, &e), e);
    CHECK(w.owned && w.codes && w.scales && w.scales2 && !w.zeros, "the parts it has");
    CHECK(b.mem.now[MEM_WEIGHTS] == 128 + 4 + 4, "and no more");
    weight_release(&b, &w);
    weight_release(&b, &w);
    CHECK(b.mem.now[MEM_WEIGHTS] == 0, "are given back once");
    w = (struct weight){
        .form = WEIGHT_PLAIN, .n_out = 1 << 30, .n_in = 1 << 20, .row_bytes = 1 << 22
    };
    CHECK(weight_alloc(&b, MEM_WEIGHTS, &w, &e) < 0 && e.code == ERR_MEMORY && !w.codes,
          "a weight that does not fit leaves nothing behind: %s", e.text);

    CHECK_OK(tensor_alloc(&b, MEM_BASE, DTYPE_BF16, 3, 5, &t, &e), e);
    struct weight view = weight_of_tensor(&t);
    CHECK(view.n_out == 3 && view.n_in == 5 && view.row_bytes == 10 && view.bits == 16 &&
              view.codes == t.data && !view.owned,
          "a tensor seen as a weight");
    CHECK(weight_bytes(&view) == 30 && weight_bits_per_weight(&view) == 16, "of 16 bits each");
    weight_release(&b, &view);
    CHECK(b.mem.now[MEM_BASE] == 30, "a borrowed part is not freed");
    tensor_free(&b, &t);
    tensor_free(&b, &t);
    CHECK(b.mem.now[MEM_BASE] == 0, "an owned one is, once");
    backend_close(&b);
}

static void notes(void **state)
{
    struct backend b = BACKEND_INIT;
    struct err e = ERR_INIT;
    char sentence[32];

    (void)state;
    CHECK_OK(backend_open(&b, "cpu", 0, NULL, &e), e);
    CHECK(!b.notes[0], "at first there is nothing to say");
    backend_note(&b, "products went slowly");
    backend_note(&b, "went slowly");
    backend_note(&b, "products went slowly");
    backend_note(&b, "products");
    backend_note(&b, "went slowly");
    CHECK(!strcmp(b.notes, "products went slowly; went slowly; products"),
          "a sentence is noted once: %s", b.notes);
    for (int i = 0; i < 1000; i++) {
        snprintf(sentence, sizeof sentence, "sentence %d", i);
        backend_note(&b, sentence);
    }
    CHECK(strlen(b.notes) == sizeof b.notes - 1, "too many are cut");
    backend_close(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),   cmocka_unit_test(facts), cmocka_unit_test(account),
        cmocka_unit_test(weights), cmocka_unit_test(notes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
