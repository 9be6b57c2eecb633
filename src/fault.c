/* fault.c - see fault.h. */
#include "fault.h"

#include "base/memory.h"

#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static int fail(struct backend *b, const char *experiment, struct err *e)
{
    (void)b;
    return err_set(e, ERR_MEMORY, "does not fit (LLQ_TEST_FAIL=%s)", experiment);
}

static int crash(struct backend *b, const char *experiment, struct err *e)
{
    (void)b, (void)experiment, (void)e;
    return raise(SIGKILL);
}

static int segfault(struct backend *b, const char *experiment, struct err *e)
{
    volatile int *volatile nowhere = (int *)(uintptr_t)16;

    (void)b, (void)experiment, (void)e;
    return *nowhere;
}

static int abort_here(struct backend *b, const char *experiment, struct err *e)
{
    (void)b, (void)experiment, (void)e;
    abort();
}

static int leave(struct backend *b, const char *experiment, struct err *e)
{
    (void)b, (void)experiment, (void)e;
    _exit(7);
}

static int hang(struct backend *b, const char *experiment, struct err *e)
{
    (void)b, (void)experiment, (void)e;
    while (pause() < 0)
        ;
    return 0;
}

static int take_memory(struct backend *b, const char *experiment, struct err *e)
{
    const size_t piece = 16 << 20;

    (void)b, (void)experiment, (void)e;
    for (char *taken; (taken = mem_alloc(piece));) {
        memset(taken, 1, piece);
        __asm__ volatile("" : : "r"(taken) : "memory"); /* or the loop is found to do nothing */
    }
    return 0;
}

/* An operation on an address that is none: on a GPU, the error that no later call recovers from. */
static int lose_device(struct backend *b, const char *experiment, struct err *e)
{
    struct tensor nowhere = {
        .data = (void *)(uintptr_t)4096, .dtype = DTYPE_F32, .n_rows = 1, .n_cols = 1024
    };
    struct add_args a = { .x = &nowhere, .y = &nowhere, .n_rows = 1 };

    (void)experiment;
    return b->ops->add(b, &a, e) < 0 ? -1 : b->ops->sync(b, e);
}

static const struct {
    const char *variable;
    int (*act)(struct backend *b, const char *experiment, struct err *e);
} faults[] = {
    { "LLQ_TEST_FAIL", fail },          { "LLQ_TEST_CRASH", crash },
    { "LLQ_TEST_SEGFAULT", segfault },  { "LLQ_TEST_ABORT", abort_here },
    { "LLQ_TEST_EXIT", leave },         { "LLQ_TEST_HANG", hang },
    { "LLQ_TEST_MEMORY", take_memory }, { "LLQ_TEST_LOSE_DEVICE", lose_device },
};

static bool is_first(void)
{
    const char *mark = getenv("LLQ_TEST_ONCE");

    if (!mark)
        return true;
    int fd = open(mark, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0644);
    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

/* Every job takes this long and hardly any time of a core: for tests of the scheduler. */
static void take_time(void)
{
    const char *seconds = getenv("LLQ_TEST_PAUSE");

    if (seconds)
        usleep((useconds_t)(atof(seconds) * 1e6));
}

int fault_inject(struct backend *b, const char *experiment, struct err *e)
{
    take_time();
    for (size_t i = 0; i < sizeof faults / sizeof *faults; i++) {
        const char *named = getenv(faults[i].variable);
        if (named && strcmp(named, experiment) == 0 && is_first() &&
            faults[i].act(b, experiment, e) < 0)
            return -1;
    }
    return 0;
}

void fault_in_setup(int local_rank)
{
    const char *rank = getenv("LLQ_TEST_CRASH_SETUP");

    if (rank && atoi(rank) == local_rank && is_first())
        raise(SIGKILL);
}
