/* test_turn.c - benchmarks of processes that share a device. */
#include "check.h"

#include "base/clock.h"
#include "turn.h"

#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static char device[32]; /* of this test alone */

/* A process that does it, says so, and waits for its end. */
static pid_t other(void (*does)(struct turn *t))
{
    int said[2];
    char c;

    CHECK(pipe(said) == 0, "a pipe");
    pid_t pid = fork();
    if (pid == 0) {
        struct turn t = TURN_INIT;
        turn_open(&t, device);
        does(&t);
        if (write(said[1], "x", 1) == 1)
            for (;;)
                pause();
        _exit(1);
    }
    CHECK(read(said[0], &c, 1) == 1, "the other process is where it should be");
    close(said[0]);
    close(said[1]);
    return pid;
}

static void end(pid_t pid)
{
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void work(struct turn *t)
{
    turn_work(t, true);
}

static void measure(struct turn *t)
{
    turn_work(t, true);
    turn_take(t, 10);
}

static void work_and_end(struct turn *t)
{
    turn_work(t, true);
    turn_work(t, false);
}

static void alone(void **state)
{
    (void)state;
    struct turn t = TURN_INIT;

    turn_open(&t, device);
    turn_work(&t, true);
    turn_take(&t, 10);
    CHECK(!t.disturbed && t.waited_s < 5, "alone, a benchmark begins at once");
    turn_give(&t);
    CHECK(!t.disturbed, "and is not disturbed");
    turn_work(&t, false);
    turn_close(&t);
}

static void beside_others(void **state)
{
    (void)state;
    struct turn t = TURN_INIT;

    turn_open(&t, device);
    turn_work(&t, true);
    pid_t pid = other(work);
    turn_take(&t, 10);
    turn_give(&t);
    CHECK(t.disturbed, "one that works when it begins disturbs it");
    end(pid);
    turn_take(&t, 10);
    turn_give(&t);
    CHECK(!t.disturbed, "one that has died does not");
    turn_take(&t, 10);
    CHECK(!t.disturbed, "nobody works when it begins");
    usleep(20000); /* the clock of files is coarse */
    pid = other(work);
    turn_give(&t);
    CHECK(t.disturbed, "one that begins meanwhile disturbs it");
    end(pid);
    turn_take(&t, 10);
    usleep(20000);
    pid = other(work_and_end);
    turn_give(&t);
    CHECK(t.disturbed, "even if it has ended before");
    end(pid);
    turn_close(&t);
}

static void one_after_the_other(void **state)
{
    (void)state;
    struct turn t = TURN_INIT;

    turn_open(&t, device);
    turn_work(&t, true);
    pid_t pid = other(measure);
    turn_take(&t, 0.2);
    CHECK(t.waited_s >= 0.2 && t.disturbed, "who waits too long measures beside the other");
    turn_give(&t);
    pid_t killer = fork();
    if (killer == 0) {
        usleep(300000);
        kill(pid, SIGKILL);
        _exit(0);
    }
    turn_take(&t, 60);
    CHECK(t.waited_s > 0.1 && t.waited_s < 50 && !t.disturbed,
          "a turn is free when its holder dies, and then nothing disturbs");
    turn_give(&t);
    waitpid(killer, NULL, 0);
    end(pid);
    turn_close(&t);
    turn_take(&t, 1);
    CHECK(!t.disturbed && t.waited_s < 0.5, "without a place for locks nobody waits");
}

static int name_device(void **state)
{
    (void)state;
    snprintf(device, sizeof device, "test-%ld", (long)getpid());
    return 0;
}

static int forget_device(void **state)
{
    char path[64];

    (void)state;
    for (int i = 0; i < 2; i++) {
        snprintf(path, sizeof path, "/dev/shm/llq_sweep-%s-%s", device, i ? "busy" : "turn");
        unlink(path);
    }
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alone),
        cmocka_unit_test(beside_others),
        cmocka_unit_test(one_after_the_other),
    };
    return cmocka_run_group_tests(tests, name_device, forget_device);
}
