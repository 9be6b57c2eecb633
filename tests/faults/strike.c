/* strike.c - kill -9 at a chosen moment, for the scripts beside it.
 *
 *   strike ROOT all|rank|engine after SECONDS
 *   strike ROOT all rebuild FILE N SECONDS
 *
 * ROOT is the pid of mpirun.  all: it and every process below it, with nothing in between, as when
 * a node dies; rank, engine: one drawn among those below it.  after: that long from now.  rebuild:
 * SECONDS after the N-th time that a file FILE.tmp.* appears, in the middle of a rebuild of FILE.
 * Prints how many processes were killed; status 1: there was nothing left to kill.  */
#include <dirent.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

enum { PIDS_MAX = 4096 };

struct process {
    pid_t pid, parent;
    bool below, engine, rank;
};

static void rest(double seconds)
{
    struct timespec t = { .tv_sec = (time_t)seconds };

    t.tv_nsec = (long)((seconds - (double)t.tv_sec) * 1e9);
    nanosleep(&t, NULL);
}

static pid_t parent_of(pid_t pid)
{
    char path[64], text[512] = "";
    int parent = 0;

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *f = fopen(path, "r");
    if (!f)
        return 0;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    text[n] = 0;
    const char *end = strrchr(text, ')'); /* a name may hold anything */
    char state = 'Z';
    if (!end || sscanf(end + 1, " %c %d", &state, &parent) != 2 || state == 'Z')
        return 0;
    return parent;
}

static void look_at_words(struct process *p)
{
    char path[64], text[8192] = "";

    snprintf(path, sizeof path, "/proc/%d/cmdline", (int)p->pid);
    FILE *f = fopen(path, "r");
    if (!f)
        return;
    size_t n = fread(text, 1, sizeof text - 1, f);
    fclose(f);
    p->engine =
        n >= 24 && memcmp(text, "llq_sweep", 10) == 0 && memcmp(text + 10, "--engine-fd", 12) == 0;
    const char *slash = strrchr(text, '/');
    p->rank = !p->engine && strcmp(slash ? slash + 1 : text, "llq_sweep") == 0;
}

/* Everything below root; a process comes after its parent only by chance, so until nothing new. */
static int find_below(pid_t root, struct process *all)
{
    DIR *d = opendir("/proc");
    int n = 0;

    for (struct dirent *entry; d && n < PIDS_MAX && (entry = readdir(d));)
        if (atoi(entry->d_name) > 0) {
            all[n] = (struct process){ .pid = atoi(entry->d_name) };
            all[n].parent = parent_of(all[n].pid);
            n += all[n].parent != 0;
        }
    if (d)
        closedir(d);
    for (bool more = true; more;) {
        more = false;
        for (int i = 0; i < n; i++)
            for (int k = 0; k < n && !all[i].below; k++)
                if (all[i].parent == root || (all[k].below && all[k].pid == all[i].parent))
                    all[i].below = more = true;
    }
    return n;
}

static unsigned draw(unsigned below)
{
    unsigned x = 0;

    return getrandom(&x, sizeof x, 0) == sizeof x ? x % below : 0;
}

static int strike(pid_t root, const char *whom)
{
    static struct process all[PIDS_MAX];
    int n = find_below(root, all), chosen[PIDS_MAX], n_chosen = 0, n_killed = 0;
    bool whole = strcmp(whom, "all") == 0;

    for (int i = 0; i < n; i++) {
        if (!all[i].below)
            continue;
        if (!whole)
            look_at_words(&all[i]);
        if (whole || (strcmp(whom, "engine") == 0 ? all[i].engine : all[i].rank))
            chosen[n_chosen++] = i;
    }
    if (whole) {
        n_killed += kill(root, SIGKILL) == 0;
        for (int i = 0; i < n_chosen; i++)
            n_killed += kill(all[chosen[i]].pid, SIGKILL) == 0;
    } else if (n_chosen) {
        n_killed += kill(all[chosen[draw((unsigned)n_chosen)]].pid, SIGKILL) == 0;
    }
    return n_killed;
}

/* False: root ended before. */
static bool wait_for_rebuild(pid_t root, const char *file, int nth)
{
    char folder[4096], name[4096],
        buffer[65536] __attribute__((aligned(__alignof__(struct inotify_event))));
    const char *slash = strrchr(file, '/');
    int fd = inotify_init1(IN_CLOEXEC);

    snprintf(folder, sizeof folder, "%.*s", slash ? (int)(slash - file) : 1, slash ? file : ".");
    snprintf(name, sizeof name, "%s.tmp.", slash ? slash + 1 : file);
    if (fd < 0 || inotify_add_watch(fd, folder, IN_CREATE) < 0) {
        perror(folder);
        exit(2);
    }
    while (nth > 0 && kill(root, 0) == 0) {
        if (poll(&(struct pollfd){ fd, POLLIN, 0 }, 1, 20) <= 0)
            continue;
        ssize_t n = read(fd, buffer, sizeof buffer);
        for (ssize_t at = 0; nth > 0 && at < n;) {
            const struct inotify_event *event = (void *)(buffer + at);
            nth -= event->len && strncmp(event->name, name, strlen(name)) == 0;
            at += (ssize_t)(sizeof *event + event->len);
        }
    }
    close(fd);
    return nth == 0;
}

int main(int argc, char **argv)
{
    if (argc < 5 || atoi(argv[1]) <= 0)
        return 2;
    pid_t root = (pid_t)atoi(argv[1]);

    if (strcmp(argv[3], "rebuild") == 0) {
        if (argc < 7 || !wait_for_rebuild(root, argv[4], atoi(argv[5])))
            return argc < 7 ? 2 : 1;
        rest(atof(argv[6]));
    } else {
        rest(atof(argv[4]));
    }
    int n = kill(root, 0) == 0 ? strike(root, argv[2]) : 0;
    printf("%d\n", n);
    return n ? 0 : 1;
}
