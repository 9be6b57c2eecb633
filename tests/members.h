/* members.h - processes that stand in for the ranks of a group: forked, with memory they share. */
#pragma once

#include "backend/backend.h"

#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

enum { MEMBERS_MOST = 8, SWAP_ROOM = 8192, RESULT_BYTES = 8 << 20 };

/* What the processes share. */
static struct shared {
    _Atomic int n_swaps[MEMBERS_MOST];
    char swapped[2][MEMBERS_MOST][SWAP_ROOM];
    size_t n_result[MEMBERS_MOST];
    char result[MEMBERS_MOST][RESULT_BYTES];
} * shared;

struct member {
    int index, n;
    struct backend backend;
};

static inline const char *members_backend(void)
{
    const char *name = getenv("LLQ_TEST_BACKEND");

    return name && *name ? name : "cpu";
}

/* Asked of a process of its own: who has opened a device cannot fork. */
static inline int members_devices(void)
{
    int status = 0;
    pid_t pid;

    if (strcmp(members_backend(), "cpu") == 0)
        return MEMBERS_MOST;
    fflush(NULL);
    pid = fork();
    if (pid == 0)
        _exit(backend_n_devices(members_backend()));
    return waitpid(pid, &status, 0) == pid && WIFEXITED(status) ? WEXITSTATUS(status) : 0;
}

static int member_swap(void *context, const void *mine, size_t n_bytes, void *all, struct err *e)
{
    const struct member *m = context;
    const int round = shared->n_swaps[m->index] + 1;

    (void)e;
    if (n_bytes > SWAP_ROOM)
        abort();
    memcpy(shared->swapped[round % 2][m->index], mine, n_bytes);
    shared->n_swaps[m->index] = round;
    for (int i = 0; i < m->n; i++) {
        while (shared->n_swaps[i] < round)
            sched_yield();
        memcpy((char *)all + (size_t)i * n_bytes, shared->swapped[round % 2][i], n_bytes);
    }
    return 0;
}

static inline void member_give(const struct member *m, const void *bytes, size_t n_bytes)
{
    size_t *n = &shared->n_result[m->index];

    if (*n + n_bytes > RESULT_BYTES)
        abort();
    memcpy(shared->result[m->index] + *n, bytes, n_bytes);
    *n += n_bytes;
}

static int member_join(struct member *m, struct err *e)
{
    struct group_seat seat = { m->index, m->n, member_swap, m };

    if (backend_open(&m->backend, members_backend(), m->index, NULL, e) < 0)
        return -1;
    return m->n > 1 ? backend_join(&m->backend, &seat, e) : 0;
}

/* n processes, a device each; false where one of them says that it failed.  What a record would say
 * of how they ran is printed. */
static bool members_run(int n, int (*act)(struct member *m, const void *what, struct err *e),
                        const void *what)
{
    pid_t pids[MEMBERS_MOST];
    bool good = true;

    memset(shared->n_swaps, 0, sizeof shared->n_swaps);
    memset(shared->n_result, 0, sizeof shared->n_result);
    fflush(NULL);
    for (int i = 0; i < n; i++) {
        pids[i] = fork();
        if (pids[i] != 0)
            continue;
        struct member m = { .index = i, .n = n };
        struct err e = ERR_INIT;
        int rc = member_join(&m, &e);

        if (rc == 0)
            rc = act(&m, what, &e);
        if (m.backend.notes[0])
            fprintf(stderr, "member %d of %d notes: %s\n", i, n, m.backend.notes);
        backend_close(&m.backend);
        if (rc < 0)
            fprintf(stderr, "member %d of %d: %s\n", i, n, e.text);
        fflush(stderr);
        _exit(rc < 0);
    }
    for (int i = 0; i < n; i++) {
        int status = 0;
        if (waitpid(pids[i], &status, 0) != pids[i] || status != 0)
            good = false;
    }
    return good;
}

static bool members_share(void)
{
    shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    return shared != MAP_FAILED;
}
