/* log.c - see log.h. */
#include "base/log.h"

#include "base/clock.h"
#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The one place with process-wide state: a log has no owner to pass it around. */
static struct {
    pthread_mutex_t lock;
    int fd;
    char who[32];
    enum log_level terminal_level;
    void (*listener)(enum log_level level, const char *text, void *context);
    void *context;
    struct bytes early; /* lines for a file that is not open yet */
} state = { .lock = PTHREAD_MUTEX_INITIALIZER, .fd = -1, .terminal_level = LOG_WARN };

static const char *const names[] = { "error", "warning", "info", "debug" };

/* What is said before a file is open, while models are loaded, belongs into it. */
#define EARLY_BYTES_MAX 65536

/* One write: lines of several processes on one file do not mix.  A full disk must not stop the
 * sweep because of its log. */
static void write_line(struct bytes *line)
{
    ssize_t ignored = write(state.fd, line->data, line->n);

    (void)ignored;
    bytes_release(line);
}

int log_open(const char *path, const char *who, enum log_level terminal_level, struct err *e)
{
    snprintf(state.who, sizeof state.who, "%s", who);
    state.terminal_level = terminal_level;
    if (!path)
        return 0;
    int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0)
        return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    pthread_mutex_lock(&state.lock);
    if (state.fd >= 0)
        close(state.fd);
    state.fd = fd;
    write_line(&state.early);
    pthread_mutex_unlock(&state.lock);
    return 0;
}

void log_close(void)
{
    if (state.fd >= 0)
        close(state.fd);
    state.fd = -1;
    bytes_release(&state.early);
}

void log_set_terminal_level(enum log_level level)
{
    state.terminal_level = level;
}

void log_set_listener(void (*listener)(enum log_level level, const char *text, void *context),
                      void *context)
{
    state.listener = listener;
    state.context = context;
}

/* who: NULL for this process. */
static void put(const char *who, enum log_level level, const char *text)
{
    char date[CLOCK_DATE_MAX];

    pthread_mutex_lock(&state.lock);
    if (state.listener)
        state.listener(level, text, state.context);
    else if (level <= state.terminal_level)
        fprintf(stderr, "llq_sweep: %s%s%s%s%s\n", level <= LOG_WARN ? names[level] : "",
                level <= LOG_WARN ? ": " : "", who ? who : "", who ? ": " : "", text);
    /* An engine has its rank to listen and never a file. */
    if (state.fd >= 0 || (!state.listener && state.early.n < EARLY_BYTES_MAX)) {
        struct bytes line = BYTES_INIT;
        bytes_printf(&line, "%s %-7s %s: %s\n", clock_date(date), names[level],
                     who          ? who
                     : *state.who ? state.who
                                  : "rank 0",
                     text);
        if (state.fd < 0)
            bytes_add(&state.early, line.data, line.n);
        else
            write_line(&line);
        bytes_release(&line);
    }
    pthread_mutex_unlock(&state.lock);
}

void log_line(enum log_level level, const char *fmt, ...)
{
    char text[ERR_TEXT_MAX + 256];
    va_list args;

    va_start(args, fmt);
    vsnprintf(text, sizeof text, fmt, args);
    va_end(args);
    put(NULL, level, text);
}

void log_line_of(const char *who, enum log_level level, const char *text)
{
    put(who, level, text);
}
