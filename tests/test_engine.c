/* test_engine.c - the engine process: bytes in, bytes out, and what happens when it dies.
 * The program starts itself as the engine, with a pretend body that obeys its job's text. */
#include "check.h"

#include "base/clock.h"
#include "base/log.h"
#include "sched/hand.h"

#include <signal.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static int pretend_setup(void *context, const struct engine_site *site, const void *setup,
                         size_t n_bytes, struct err *e)
{
    (void)context, (void)site;
    if (n_bytes == 3 && memcmp(setup, "bad", 3) == 0)
        return err_set(e, ERR_INPUT, "the model is bad");
    if (n_bytes == 5 && memcmp(setup, "stand", 5) == 0)
        for (;;)
            pause();
    if (n_bytes == 3 && memcmp(setup, "die", 3) == 0)
        signal(SIGSEGV, SIG_DFL), raise(SIGSEGV);
    return 0;
}

static int pretend_run(void *context, const void *job, size_t n_bytes, struct bytes *record,
                       struct err *e)
{
    char text[64] = "";

    (void)context;
    memcpy(text, job, n_bytes < sizeof text ? n_bytes : sizeof text - 1);
    if (strcmp(text, "crash") == 0)
        signal(SIGSEGV, SIG_DFL), raise(SIGSEGV);
    if (strcmp(text, "exit") == 0)
        _exit(7);
    if (strcmp(text, "hang") == 0)
        for (;;)
            pause();
    if (strcmp(text, "unusable") == 0)
        return err_set(e, ERR_DEVICE, "the device context is lost");
    if (strcmp(text, "big") == 0) {
        char *megabyte = mem_alloc(1 << 20);
        memset(megabyte, 'x', 1 << 20);
        for (int i = 0; i < 20; i++)
            bytes_add(record, megabyte, 1 << 20);
        free(megabyte);
        return 0;
    }
    log_warn("working on %s", text);
    bytes_printf(record, "done: %s", text);
    return 0;
}

static const struct engine_body pretend = { .setup = pretend_setup, .run = pretend_run };

/* The next news, at most 20 s. */
static struct hand_news next(struct hand *h)
{
    struct err e = ERR_INIT;
    struct hand_news news = { 0 };
    double end = clock_seconds() + 20;

    while (!news.kind && clock_seconds() < end) {
        CHECK_OK(hand_poll(h, &news, &e), e);
        if (!news.kind)
            nanosleep(&(struct timespec){ .tv_nsec = 1000000 }, NULL);
    }
    CHECK(news.kind, "the engine says something within 20 s");
    return news;
}

static struct hand started(bool isolate, const char *setup)
{
    struct err e = ERR_INIT;
    struct hand h = HAND_INIT;

    CHECK_OK(engine_start(&h.engine, isolate, &pretend, &e), e);
    hand_setup(&h, setup, strlen(setup));
    return h;
}

static void expect(struct hand *h, int kind, int64_t number, const char *text)
{
    struct hand_news news = next(h);

    CHECK(news.kind == kind, "news of kind %d comes, not %d", kind, news.kind);
    CHECK(kind == MSG_READY || news.number == number, "it is about %d", (int)number);
    CHECK(!text || (news.bytes.data && strstr(news.bytes.data, text)), "it says \"%s\", not \"%s\"",
          text, news.bytes.data ? news.bytes.data : "");
    bytes_release(&news.bytes);
}

static void give(struct hand *h, int64_t job, const char *text)
{
    struct err e = ERR_INIT;

    CHECK_OK(hand_give(h, job, text, strlen(text), &e), e);
}

static void works(void **state)
{
    struct hand h = started(*state != NULL, "good");

    expect(&h, MSG_READY, 0, NULL);
    give(&h, 41, "one");
    expect(&h, MSG_RESULT, 41, "done: one");
    give(&h, 42, "two");
    expect(&h, MSG_RESULT, 42, "done: two");
    give(&h, 43, "big");
    struct hand_news news = next(&h);
    CHECK(news.kind == MSG_RESULT && news.bytes.n == 20u << 20, "20 MiB come back whole");
    CHECK(news.bytes.data[0] == 'x' && news.bytes.data[news.bytes.n - 1] == 'x', "both ends right");
    bytes_release(&news.bytes);
    engine_stop(h.engine);
}

static void bad_setup(void **state)
{
    struct hand h = started(*state != NULL, "bad");

    expect(&h, MSG_FAILED, ERR_INPUT, "the model is bad");
    engine_stop(h.engine);
}

static void crash_costs_one_job(void **state)
{
    (void)state;
    struct hand h = started(true, "good");

    expect(&h, MSG_READY, 0, NULL);
    pid_t before = engine_pid(h.engine);
    give(&h, 5, "crash");
    expect(&h, MSG_LOST, 5, "signal 11");
    expect(&h, MSG_READY, 0, NULL);
    CHECK(engine_pid(h.engine) != before && engine_pid(h.engine) > 0, "a new process took over");
    give(&h, 6, "three");
    expect(&h, MSG_RESULT, 6, "done: three");
    give(&h, 7, "exit");
    expect(&h, MSG_LOST, 7, "status 7");
    expect(&h, MSG_READY, 0, NULL);
    give(&h, 8, "unusable");
    expect(&h, MSG_LOST, 8, "the device context is lost; the engine process ended with status 1");
    expect(&h, MSG_READY, 0, NULL);
    engine_stop(h.engine);
}

static void crash_while_idle(void **state)
{
    (void)state;
    struct hand h = started(true, "good");

    expect(&h, MSG_READY, 0, NULL);
    kill(engine_pid(h.engine), SIGKILL);
    expect(&h, MSG_READY, 0, NULL);
    give(&h, 11, "five");
    expect(&h, MSG_RESULT, 11, "done: five");
    /* Dead, but not yet noticed when it is given a job. */
    kill(engine_pid(h.engine), SIGKILL);
    nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
    give(&h, 12, "six");
    expect(&h, MSG_LOST, 12, "signal 9");
    expect(&h, MSG_READY, 0, NULL);
    engine_stop(h.engine);
}

static void time_out(void **state)
{
    (void)state;
    struct hand h = started(true, "good");

    expect(&h, MSG_READY, 0, NULL);
    h.job_timeout_s = 0.2;
    give(&h, 9, "hang");
    expect(&h, MSG_LOST, 9, "timed out after 0.2 s");
    expect(&h, MSG_READY, 0, NULL);
    give(&h, 10, "four");
    expect(&h, MSG_RESULT, 10, "done: four");
    engine_stop(h.engine);
}

static void dies_while_setting_up(void **state)
{
    (void)state;
    struct hand h = started(true, "die");

    expect(&h, MSG_TELL, 0, NULL);
    expect(&h, MSG_FAILED, ERR_DEVICE, "signal 11");
    engine_stop(h.engine);

    h = started(true, "stand");
    h.setup_timeout_s = 0.2;
    pid_t first = engine_pid(h.engine);
    kill(first, SIGKILL);
    expect(&h, MSG_TELL, 0, NULL);
    CHECK(engine_pid(h.engine) != first, "one that is killed while it is set up is replaced");
    expect(&h, MSG_FAILED, ERR_DEVICE, "was not set up after 0.2 s");
    engine_stop(h.engine);
}

static void dies_before_it_is_told_anything(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct hand h = HAND_INIT;
    struct hand_news none;

    CHECK_OK(engine_start(&h.engine, true, &pretend, &e), e);
    pid_t before = engine_pid(h.engine);
    kill(before, SIGKILL);
    while (engine_pid(h.engine) == before) {
        CHECK_OK(hand_poll(&h, &none, &e), e);
        CHECK(!none.kind, "nobody waits for it yet");
    }
    kill(engine_pid(h.engine), SIGKILL);
    nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
    hand_setup(&h, "good", 4);
    expect(&h, MSG_FAILED, ERR_DEVICE, "signal 9");
    engine_stop(h.engine);

    h = (struct hand)HAND_INIT;
    CHECK_OK(engine_start(&h.engine, true, &pretend, &e), e);
    kill(engine_pid(h.engine), SIGKILL);
    nanosleep(&(struct timespec){ .tv_nsec = 50000000 }, NULL);
    hand_setup(&h, "good", 4);
    expect(&h, MSG_TELL, 0, NULL);
    expect(&h, MSG_READY, 0, NULL);
    give(&h, 14, "seven");
    expect(&h, MSG_RESULT, 14, "done: seven");
    engine_stop(h.engine);
}

/* The job's time begins when the engine that replaces an idle one is set up. */
static void times_out_after_an_idle_one(void **state)
{
    (void)state;
    struct hand h = started(true, "good");

    expect(&h, MSG_READY, 0, NULL);
    h.job_timeout_s = 0.3;
    kill(engine_pid(h.engine), SIGKILL);
    struct hand_news none;
    struct err e = ERR_INIT;
    for (pid_t before = engine_pid(h.engine); engine_pid(h.engine) == before;) {
        CHECK_OK(hand_poll(&h, &none, &e), e);
        CHECK(!none.kind, "nobody is told of an idle engine that is replaced");
    }
    give(&h, 13, "hang");
    expect(&h, MSG_READY, 0, NULL);
    expect(&h, MSG_LOST, 13, "timed out after 0.3 s");
    engine_stop(h.engine);
}

static void stops_while_busy(void **state)
{
    (void)state;
    struct hand h = started(true, "good");

    expect(&h, MSG_READY, 0, NULL);
    give(&h, 1, "hang");
    double before = clock_seconds();
    engine_stop(h.engine);
    CHECK(clock_seconds() - before < 5, "a busy engine does not keep the rank from ending");
    engine_stop(NULL);
}

static void numbers_in_messages(void **state)
{
    (void)state;
    static const int64_t numbers[] = { 0, 1, -1, INT64_MAX, INT64_MIN, 0x0102030405060708 };

    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        struct bytes m = BYTES_INIT;
        int64_t number = 99;
        const char *bytes;
        size_t n;
        message_pack(&m, numbers[i], "ab", i % 3);
        CHECK(message_unpack(&m, &number, &bytes, &n) && number == numbers[i] && n == i % 3,
              "number %zu comes back", i);
        m.n = 7;
        CHECK(!message_unpack(&m, &number, &bytes, &n), "7 bytes hold no number");
        bytes_release(&m);
    }
}

int main(int argc, char **argv)
{
    static int isolated;

    if (argc == 3 && strcmp(argv[1], "--engine-fd") == 0)
        return engine_serve(atoi(argv[2]), &pretend);
    log_set_terminal_level(LOG_ERROR);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_prestate(works, &isolated),
        cmocka_unit_test_prestate(works, NULL),
        cmocka_unit_test_prestate(bad_setup, &isolated),
        cmocka_unit_test_prestate(bad_setup, NULL),
        cmocka_unit_test(crash_while_idle),
        cmocka_unit_test(crash_costs_one_job),
        cmocka_unit_test(time_out),
        cmocka_unit_test(dies_while_setting_up),
        cmocka_unit_test(dies_before_it_is_told_anything),
        cmocka_unit_test(times_out_after_an_idle_one),
        cmocka_unit_test(stops_while_busy),
        cmocka_unit_test(numbers_in_messages),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
