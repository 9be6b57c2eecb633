/* test_gpu_host.c - what of the CUDA backend is no kernel: staged uploads, clocks and energy, a
 * full card, an operation that takes the device down.
 *
 * Each case is a process of its own: a context that is lost or kept by another cannot be tested in
 * one. */
#include "check.h"

#include "backend/backend.h"
#include "base/clock.h"
#include "base/file.h"
#include "model/model.h"

#include <errno.h>
#include <math.h>
#include <omp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB ((size_t)1 << 20)

/* Runs one case in a child: its failed checks are this one's. */
static void in_a_process(void (*act)(void))
{
    fflush(NULL);
    pid_t pid = fork();
    if (pid == 0) {
        act();
        fflush(NULL);
        _exit(0);
    }
    int status = -1;
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0, "the case's process ends well (%d)",
          status);
}

/* A check inside a child: cmocka's own jump belongs to the parent. */
#define NEED(condition, ...)                                   \
    do {                                                       \
        if (!(condition)) {                                    \
            fprintf(stderr, "does not hold: " __VA_ARGS__);    \
            fprintf(stderr, " (%s:%d)\n", __FILE__, __LINE__); \
            _exit(1);                                          \
        }                                                      \
    } while (0)

static void open_gpu(struct backend *b)
{
    struct err e = ERR_INIT;

    NEED(backend_open(b, "cuda", 0, NULL, &e) == 0, "the device opens: %s", e.text);
}

/* ---- uploads ---- */

static uint32_t value_of(size_t i)
{
    return (uint32_t)(i * 2654435761u + (i >> 7));
}

/* Many threads, pieces of every length, some given back unused. */
static void staged_uploads(void)
{
    enum { N = 3000 };
    const size_t total = (size_t)N * STAGE_BYTES / 4;
    struct backend b;
    struct err e = ERR_INIT;
    char *device, *back = malloc(total);
    int failed = 0;

    open_gpu(&b);
    NEED(backend_alloc(&b, MEM_SCRATCH, total, (void **)&device, &e) == 0, "memory: %s", e.text);
#pragma omp parallel for schedule(dynamic, 1) num_threads(24)
    for (int i = 0; i < N; i++) {
        struct err mine = ERR_INIT;
        size_t n = STAGE_BYTES / 4, from = (size_t)i * n;
        uint32_t *piece;
        int rc = b.ops->stage(&b, (void **)&piece, &mine);
        if (rc == 0 && i % 7 == 3) { /* lent for nothing */
            piece[0] = 0xdeadbeef;
            rc = b.ops->send(&b, device + from, piece, 0, &mine) < 0
                     ? -1
                     : b.ops->stage(&b, (void **)&piece, &mine);
        }
        for (size_t k = 0; rc == 0 && k < n / 4; k++)
            piece[k] = value_of(from / 4 + k);
        if (rc == 0)
            rc = b.ops->send(&b, device + from, piece, n, &mine);
        if (rc < 0) {
#pragma omp atomic write
            failed = 1;
        }
    }
    NEED(!failed, "every piece is lent and sent");
    NEED(b.ops->download(&b, back, device, total, &e) == 0, "download: %s", e.text);
    for (size_t i = 0; i < total / 4; i++)
        NEED(((uint32_t *)(void *)back)[i] == value_of(i), "value %zu arrives", i);
    backend_free(&b, device);
    backend_close(&b);
    free(back);
}

/* ---- what the device tells ---- */

static void facts_and_health(void)
{
    struct backend b;
    struct device_facts f;
    struct device_health h;
    struct err e = ERR_INIT;
    double seconds = NAN, joule = NAN;
    int others = -2;

    open_gpu(&b);
    NEED(b.ops->facts(&b, &f, &e) == 0, "facts: %s", e.text);
    printf("%s, %s, driver %s, CUDA %s\n", f.name, f.id, f.driver, f.runtime);
    NEED(strncmp(f.id, "GPU-", 4) == 0 && strlen(f.id) == 40, "an id like a UUID: %s", f.id);
    NEED(f.driver[0] && f.runtime[0], "driver and CUDA have versions");
    NEED(b.ops->health(&b, &h, &e) == 0 && b.ops->energy(&b, &joule, &e) == 0 &&
             b.ops->n_others(&b, &others, &e) == 0,
         "%s", e.text);
    printf("%.0f MHz, %.0f J, %.0f degrees, limits: %s; %d others\n", h.clock_mhz, joule,
           h.temperature_c, h.limits, others);
    NEED(isnan(h.clock_mhz) || (h.clock_mhz > 100 && h.clock_mhz < 10000), "a clock in MHz");
    NEED(isnan(joule) || joule > 0, "an energy in J");
    NEED(others >= -1, "a number of others, or none is told");
    NEED(b.ops->mark(&b, 0, &e) == 0 && b.ops->mark(&b, 1, &e) == 0 &&
             b.ops->elapsed(&b, 0, 1, &seconds, &e) == 0 && seconds >= 0 && seconds < 1,
         "time between two marks: %g", seconds);
    NEED(backend_n_devices("cuda") >= 1 && backend_n_devices("auto") == backend_n_devices("cuda"),
         "devices are counted");
    double start = clock_seconds();
    for (int i = 0; i < 20; i++)
        b.ops->health(&b, &h, &e);
    printf("one look at it takes %.3f ms", 1e3 * (clock_seconds() - start) / 20);
    start = clock_seconds();
    for (int i = 0; i < 20; i++)
        b.ops->energy(&b, &joule, &e);
    printf(", at its energy alone %.3f ms\n", 1e3 * (clock_seconds() - start) / 20);
    backend_close(&b);
}

/* ---- a full card ---- */

/* Another process that leaves `spare` bytes; told to end through *hold. */
static pid_t fill_card(size_t spare, int *hold)
{
    int ready[2], end[2];

    NEED(pipe(ready) == 0 && pipe(end) == 0, "pipes");
    pid_t pid = fork();
    if (pid == 0) {
        struct backend b;
        struct device_facts f;
        struct err e = ERR_INIT;
        char byte = 0;
        void *p = NULL;

        close(end[1]);
        open_gpu(&b);
        NEED(b.ops->facts(&b, &f, &e) == 0, "facts: %s", e.text);
        size_t left = (size_t)f.free_bytes > spare ? (size_t)f.free_bytes - spare : 0;
        NEED(b.ops->alloc(&b, left, &p, &e) == 0, "filling: %s", e.text);
        NEED(write(ready[1], &byte, 1) == 1, "ready");
        if (read(end[0], &byte, 1) < 0)
            _exit(1);
        _exit(0);
    }
    char byte;
    close(end[0]);
    close(ready[1]);
    NEED(read(ready[0], &byte, 1) == 1, "the card is filled");
    *hold = end[1];
    return pid;
}

static void make_folder(char *folder, int64_t vocab)
{
    char path[128];
    struct bytes text = BYTES_INIT;
    struct err e = ERR_INIT;
    struct config c;
    NEED(mkdtemp(folder) != NULL, "a folder");
    bytes_printf(&text,
                 "{\"model_type\":\"llama\",\"vocab_size\":%lld,\"hidden_size\":1024,"
                 "\"intermediate_size\":64,\"num_hidden_layers\":1,\"num_attention_heads\":8,"
                 "\"num_key_value_heads\":2,\"dtype\":\"float32\",\"tie_word_embeddings\":true}",
                 (long long)vocab);
    snprintf(path, sizeof path, "%s/config.json", folder);
    NEED(file_replace(path, text.data, text.n, &e) == 0, "%s", e.text);
    bytes_release(&text);
    NEED(config_read(folder, &c, &e) == 0, "%s", e.text);
}

/* A file of the right size whose values nobody wrote. */
static void make_weights(const char *folder, int64_t vocab)
{
    static const struct {
        const char *name;
        int64_t rows, cols;
    } of_layer[] = { { "self_attn.q_proj", 1024, 1024 },     { "self_attn.k_proj", 256, 1024 },
                     { "self_attn.v_proj", 256, 1024 },      { "self_attn.o_proj", 1024, 1024 },
                     { "mlp.gate_proj", 64, 1024 },          { "mlp.up_proj", 64, 1024 },
                     { "mlp.down_proj", 1024, 64 },          { "input_layernorm", 0, 1024 },
                     { "post_attention_layernorm", 0, 1024 } };
    struct bytes head = BYTES_INIT;
    char path[128];
    int64_t at = 0, n;
    unsigned char length[8];

    bytes_text(&head, "{");
    for (size_t i = 0; i < sizeof of_layer / sizeof *of_layer; i++) {
        n = (of_layer[i].rows ? of_layer[i].rows : 1) * of_layer[i].cols * 4;
        bytes_printf(
            &head, "\"model.layers.0.%s.weight\":{\"dtype\":\"F32\",\"shape\":", of_layer[i].name);
        if (of_layer[i].rows)
            bytes_printf(&head, "[%lld,%lld]", (long long)of_layer[i].rows,
                         (long long)of_layer[i].cols);
        else
            bytes_printf(&head, "[%lld]", (long long)of_layer[i].cols);
        bytes_printf(&head, ",\"data_offsets\":[%lld,%lld]},", (long long)at, (long long)(at + n));
        at += n;
    }
    bytes_printf(&head,
                 "\"model.norm.weight\":{\"dtype\":\"F32\",\"shape\":[1024],\"data_offsets\":[%lld,"
                 "%lld]},",
                 (long long)at, (long long)(at + 4096));
    at += 4096;
    n = vocab * 1024 * 4;
    bytes_printf(&head,
                 "\"model.embed_tokens.weight\":{\"dtype\":\"F32\",\"shape\":[%lld,1024],\"data_"
                 "offsets\":[%lld,%lld]}}",
                 (long long)vocab, (long long)at, (long long)(at + n));
    at += n;
    for (int i = 0; i < 8; i++)
        length[i] = (unsigned char)(head.n >> 8 * i);
    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    FILE *f = fopen(path, "w");
    NEED(f && fwrite(length, 8, 1, f) == 1 && fwrite(head.data, head.n, 1, f) == 1 &&
             fflush(f) == 0 && ftruncate(fileno(f), (off_t)(8 + head.n) + at) == 0 &&
             fclose(f) == 0,
         "a file of zeros");
    bytes_release(&head);
}

static void remove_folder(const char *folder)
{
    char path[128];

    snprintf(path, sizeof path, "%s/model.safetensors", folder);
    unlink(path);
    snprintf(path, sizeof path, "%s/config.json", folder);
    unlink(path);
    rmdir(folder);
}

static void a_model_that_does_not_fit(void)
{
    char folder[] = "/tmp/llq_full.XXXXXX";
    const int64_t vocab = 1 << 19; /* 2 GiB */
    int hold;
    pid_t other = fill_card(2500 * MIB, &hold);
    struct backend b;
    struct model m = MODEL_INIT;
    struct load_facts facts;
    struct load_way way = { .least_job_bytes = (int64_t)4 << 30 };
    struct err e = ERR_INIT;

    make_folder(folder, vocab);
    make_weights(folder, vocab);
    open_gpu(&b);
    int rc = weights_load_by(&b, folder, &way, &m, &facts, &e);
    remove_folder(folder);
    printf("%s\n", e.text);
    NEED(rc < 0 && e.code == ERR_MEMORY && strstr(e.text, "bytes and 4294967296 more for the") &&
             strstr(e.text, "are free on"),
         "it is refused with the numbers");
    NEED(b.mem.peak[MEM_BASE] == 0, "before anything was taken");
    int others;
    if (b.ops->n_others(&b, &others, &e) == 0 && others > 0)
        NEED(strstr(e.text, "other process"), "and who else is on the card is named");
    backend_close(&b);
    close(hold);
    waitpid(other, NULL, 0);
}

static void a_card_without_room_for_a_context(void)
{
    int hold;
    pid_t other = fill_card(64 * MIB, &hold);
    struct backend b = BACKEND_INIT;
    struct err e = ERR_INIT;
    char why[256];
    int rc = backend_open(&b, "cuda", 0, NULL, &e);

    printf("%s\n", rc < 0 ? e.text : "(there was room for a context all the same)");
    if (rc < 0) {
        NEED(e.code == ERR_MEMORY && strstr(e.text, "out of memory"), "memory is what is missing");
        err_clear(&e);
        NEED(backend_open(&b, "auto", 0, why, &e) < 0 && e.code == ERR_MEMORY,
             "auto does not go to the CPU for it");
    }
    backend_close(&b);
    close(hold);
    waitpid(other, NULL, 0);
}

/* ---- a lost device ---- */

static void an_operation_on_no_address(void)
{
    struct backend b;
    struct err e = ERR_INIT;
    struct tensor nowhere = {
        .data = (void *)(uintptr_t)4096, .dtype = DTYPE_F32, .n_rows = 1, .n_cols = 1024
    };
    struct add_args a = { .x = &nowhere, .y = &nowhere, .n_rows = 1 };
    void *p;

    open_gpu(&b);
    int rc = b.ops->add(&b, &a, &e) < 0 ? -1 : b.ops->sync(&b, &e);
    printf("%s\n", e.text);
    NEED(rc < 0 && e.code == ERR_DEVICE && strstr(e.text, "add"), "it names the kernel");
    err_clear(&e);
    NEED(b.ops->alloc(&b, 100, &p, &e) < 0 && e.code == ERR_DEVICE, "and nothing works afterwards");
    backend_close(&b);
}

#define CASE(name)                        \
    static void test_##name(void **state) \
    {                                     \
        (void)state;                      \
        in_a_process(name);               \
    }
CASE(staged_uploads)
CASE(facts_and_health)
CASE(a_model_that_does_not_fit)
CASE(a_card_without_room_for_a_context)
CASE(an_operation_on_no_address)

static void probe(void)
{
    struct backend b;

    open_gpu(&b);
    backend_close(&b);
}

static void test_a_device_is_there(void **state)
{
    (void)state;
    in_a_process(probe);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_a_device_is_there),
        cmocka_unit_test(test_staged_uploads),
        cmocka_unit_test(test_facts_and_health),
        cmocka_unit_test(test_a_model_that_does_not_fit),
        cmocka_unit_test(test_a_card_without_room_for_a_context),
        cmocka_unit_test(test_an_operation_on_no_address),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
