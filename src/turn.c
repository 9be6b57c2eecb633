/* turn.c - see turn.h. */
#include "turn.h"

#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOOK_EVERY_US 20000

/* For locks alone it is enough to read: so those of other users count, too. */
static int open_lock(const char *device, const char *what)
{
    char path[256];
    const char *folder = access("/dev/shm", W_OK) == 0 ? "/dev/shm" : "/tmp";

    snprintf(path, sizeof path, "%s/llq_sweep-%s-%s", folder, *device ? device : "cpu", what);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    if (fd < 0 && errno == ENOENT)
        fd = open(path, O_RDONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0644);
    return fd;
}

void turn_open(struct turn *t, const char *device)
{
    turn_close(t);
    t->busy_fd = open_lock(device, "busy");
    t->turn_fd = open_lock(device, "turn");
}

void turn_close(struct turn *t)
{
    if (t->busy_fd >= 0)
        close(t->busy_fd);
    if (t->turn_fd >= 0)
        close(t->turn_fd);
    *t = (struct turn)TURN_INIT;
}

void turn_work(struct turn *t, bool begins)
{
    if (t->busy_fd < 0)
        return;
    if (!begins) {
        flock(t->busy_fd, LOCK_UN);
        return;
    }
    flock(t->busy_fd, LOCK_SH);
    /* A benchmark that runs sees that somebody began, even if he has ended before it does. */
    futimens(t->busy_fd, NULL);
}

static int64_t touched_ns(const struct turn *t)
{
    struct stat st;

    if (t->busy_fd < 0 || fstat(t->busy_fd, &st) < 0)
        return 0;
    return (int64_t)st.st_mtim.tv_sec * 1000000000 + st.st_mtim.tv_nsec;
}

static bool others_work(const struct turn *t)
{
    if (t->busy_fd < 0)
        return false;
    if (flock(t->busy_fd, LOCK_EX | LOCK_NB) < 0)
        return true;
    flock(t->busy_fd, LOCK_UN);
    return false;
}

void turn_take(struct turn *t, double wait_s)
{
    double start = clock_seconds();
    bool mine = t->turn_fd < 0;

    turn_work(t, false); /* who waits disturbs nobody */
    while (!mine && !(mine = flock(t->turn_fd, LOCK_EX | LOCK_NB) == 0) &&
           clock_seconds() - start < wait_s)
        usleep(LOOK_EVERY_US);
    t->waited_s = clock_seconds() - start;
    t->began_ns = touched_ns(t);
    t->disturbed = !mine || others_work(t);
}

void turn_give(struct turn *t)
{
    t->disturbed = t->disturbed || others_work(t) || touched_ns(t) != t->began_ns;
    if (t->turn_fd >= 0)
        flock(t->turn_fd, LOCK_UN);
    turn_work(t, true);
}
