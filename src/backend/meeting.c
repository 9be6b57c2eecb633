/* meeting.c - see meeting.h.  The memory is a POSIX shared one whose name is gone as soon as all
 * members have opened it: nothing is left behind, however they end. */
#include "backend/meeting.h"

#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define LINE   64  /* bytes that processors pass on together */
#define YIELDS 400 /* looks before a rest: most waits are short */

/* At the start of the memory; then, for each of two rounds, a room for each member. */
struct hall {
    _Atomic uint32_t broken; /* 0, or 1 + the member that gave up */
    uint32_t code;           /* its err_code; written before `broken` */
    char why[ERR_TEXT_MAX];
    struct {
        _Alignas(LINE) _Atomic uint64_t round; /* the last one it has come to */
    } member[];
};

struct meeting {
    struct hall *hall;
    size_t hall_bytes, rooms_at, room_bytes;
    int index, n;
    uint64_t round;
};

/* What the first member tells the others: where. */
struct place {
    char name[64];
};

static size_t lines(size_t n_bytes)
{
    return (n_bytes + LINE - 1) / LINE * LINE;
}

static int refused(const struct place *p, struct err *e)
{
    return err_set(e, ERR_IO, "shared memory %s: %s", p->name, strerror(errno));
}

static int map(struct meeting *m, const struct place *p, int fd, struct err *e)
{
    void *at = mmap(NULL, m->hall_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

    if (at == MAP_FAILED)
        return refused(p, e);
    m->hall = at;
    return 0;
}

/* posix_fallocate: a full /dev/shm shall say so now, not by a signal later. */
static int build(struct meeting *m, struct place *p, struct err *e)
{
    uint64_t chance = 0;

    if (getrandom(&chance, sizeof chance, 0) != sizeof chance)
        return err_set(e, ERR_IO, "getrandom: %s", strerror(errno));
    snprintf(p->name, sizeof p->name, "/llq-%ld-%016llx", (long)getpid(),
             (unsigned long long)chance);
    int fd = shm_open(p->name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return refused(p, e);
    int full = posix_fallocate(fd, 0, (off_t)m->hall_bytes);
    errno = full;
    int rc = full ? refused(p, e) : map(m, p, fd, e);
    close(fd);
    return rc;
}

static int enter(struct meeting *m, const struct place *p, struct err *e)
{
    int fd = shm_open(p->name, O_RDWR | O_CLOEXEC, 0);

    if (fd < 0)
        return refused(p, e);
    int rc = map(m, p, fd, e);
    close(fd);
    return rc;
}

/* Whether all could: who could not is told in its own words. */
static int all_there(const struct group_seat *seat, const struct err *own, struct err *e)
{
    struct err *each = mem_array((size_t)seat->n, sizeof *each);
    int rc = seat->swap(seat->context, own, sizeof *own, each, e);

    for (int i = 0; rc == 0 && i < seat->n; i++)
        if (each[i].code)
            rc = err_set(e, each[i].code, "member %d: %.*s", i, ERR_TEXT_MAX / 2, each[i].text);
    free(each);
    return rc;
}

int meeting_open(struct meeting **out, const struct group_seat *seat, size_t room_bytes,
                 struct err *e)
{
    struct place own = { 0 }, *all = mem_array((size_t)seat->n, sizeof *all);
    struct meeting *m = mem_alloc(sizeof *m);
    struct err why = ERR_INIT;

    *m = (struct meeting){ .index = seat->index, .n = seat->n, .room_bytes = lines(room_bytes) };
    m->rooms_at = lines(sizeof(struct hall) + (size_t)m->n * sizeof m->hall->member[0]);
    m->hall_bytes = m->rooms_at + 2 * (size_t)m->n * m->room_bytes;
    if (m->index == 0)
        build(m, &own, &why);
    int rc = seat->swap(seat->context, &own, sizeof own, all, e);
    if (rc == 0 && m->index > 0 && *all[0].name)
        enter(m, &all[0], &why);
    if (rc == 0)
        rc = all_there(seat, &why, e);
    if (m->index == 0 && *own.name)
        shm_unlink(own.name);
    free(all);
    if (rc < 0) {
        meeting_close(m);
        return -1;
    }
    *out = m;
    return 0;
}

void meeting_close(struct meeting *m)
{
    if (!m)
        return;
    if (m->hall)
        munmap(m->hall, m->hall_bytes);
    free(m);
}

int meeting_member(const struct meeting *m)
{
    return m->index;
}

int meeting_size(const struct meeting *m)
{
    return m->n;
}

static char *room(const struct meeting *m, uint64_t round, int member)
{
    size_t i = (size_t)(round % 2) * (size_t)m->n + (size_t)member;

    return (char *)m->hall + m->rooms_at + i * m->room_bytes;
}

void *meeting_own(struct meeting *m)
{
    return room(m, m->round + 1, m->index);
}

const void *meeting_room(const struct meeting *m, int member)
{
    return room(m, m->round, member);
}

int meeting_check(struct meeting *m, struct err *e)
{
    uint32_t broken = atomic_load_explicit(&m->hall->broken, memory_order_acquire);

    if (!broken)
        return 0;
    return err_set(e, (enum err_code)m->hall->code, "member %u of the group: %.*s", broken - 1,
                   ERR_TEXT_MAX / 2, m->hall->why);
}

const volatile uint32_t *meeting_broken(struct meeting *m)
{
    return (const volatile uint32_t *)(void *)&m->hall->broken;
}

/* Two that give up at once: the words are those of one of them, or of both mixed; `broken` is set
 * once. */
void meeting_give_up(struct meeting *m, const struct err *why)
{
    uint32_t none = 0;

    if (atomic_load(&m->hall->broken))
        return;
    snprintf(m->hall->why, sizeof m->hall->why, "%s", why->text);
    m->hall->code = why->code;
    atomic_compare_exchange_strong_explicit(&m->hall->broken, &none, 1 + (uint32_t)m->index,
                                            memory_order_release, memory_order_relaxed);
}

static int wait_for(struct meeting *m, int member, struct err *e)
{
    for (int looks = 0;; looks++) {
        if (atomic_load_explicit(&m->hall->member[member].round, memory_order_acquire) >= m->round)
            return 0;
        if (meeting_check(m, e) < 0)
            return -1;
        if (looks < YIELDS)
            sched_yield();
        else
            nanosleep(&(struct timespec){ .tv_nsec = 50000 }, NULL);
    }
}

int meeting_round(struct meeting *m, struct err *e)
{
    m->round++;
    atomic_store_explicit(&m->hall->member[m->index].round, m->round, memory_order_release);
    for (int i = 0; i < m->n; i++)
        if (i != m->index && wait_for(m, i, e) < 0)
            return -1;
    return 0;
}

int meeting_tell(struct meeting *m, int64_t mine, int64_t *all, struct err *e)
{
    memcpy(meeting_own(m), &mine, sizeof mine);
    if (meeting_round(m, e) < 0)
        return -1;
    for (int i = 0; i < m->n; i++)
        memcpy(&all[i], meeting_room(m, i), sizeof *all);
    return 0;
}
