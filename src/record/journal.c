/* journal.c - see journal.h. */
#include "record/journal.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/hash.h"
#include "base/log.h"
#include "base/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    CHECKSUM_BYTES = HASH_LINE_MAX - 1,
    LINE_BYTES_MIN = CHECKSUM_BYTES + 2, /* checksum, space, one character of JSON */
    NAMED_LINES_MAX = 8                  /* damaged lines named in one warning; the rest counted */
};

#define SYNC_SHARE       0.02
#define SYNC_PAUSE_MIN_S 0.05
#define SYNC_PAUSE_MAX_S 2.0

/* ---- writing ---- */

static int lock(int fd, const char *path, struct err *e)
{
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return 0;
    if (errno == EWOULDBLOCK)
        return err_set(e, ERR_USAGE,
                       "%s: another llq_sweep is writing it; wait until it has ended, or choose "
                       "another results file with -o",
                       path);
    /* Lustre mounted without its flock option: there the user alone can keep two sweeps apart. */
    if (errno == ENOSYS || errno == EOPNOTSUPP || errno == ENOLCK) {
        log_warn("%s: this file system has no locks (%s); nothing keeps a second llq_sweep from "
                 "writing the same file",
                 path, strerror(errno));
        return 0;
    }
    return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
}

int journal_open(struct journal *j, const char *path, struct err *e)
{
    struct stat st;

    *j = (struct journal)JOURNAL_INIT;
    j->fd = open(path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NONBLOCK, 0644);
    if (j->fd < 0)
        return err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
    if (fstat(j->fd, &st) < 0) {
        err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
        goto out;
    }
    if (!S_ISREG(st.st_mode)) {
        err_set(e, ERR_USAGE, "%s: not a plain file", path);
        goto out;
    }
    if (lock(j->fd, path, e) < 0)
        goto out;
    /* Empty: just made, perhaps by a program that died before this line. */
    if (st.st_size == 0) {
        if (fsync(j->fd) < 0) {
            err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
            goto out;
        }
        if (file_sync_folder(path, e) < 0)
            goto out;
    }
    j->path = mem_text(path);
    return 0;
out:
    journal_close(j);
    return -1;
}

/* Size of the file, and whether its last byte ends a line. */
static int look_at_end(int fd, int64_t *size, bool *at_line_start, struct err *e)
{
    struct stat st;
    char last = '\n';

    if (fstat(fd, &st) < 0)
        return err_set(e, ERR_IO, "%s", strerror(errno));
    if (st.st_size > 0 && file_pread(fd, &last, 1, (int64_t)st.st_size - 1, e) < 0)
        return -1;
    *size = (int64_t)st.st_size;
    *at_line_start = last == '\n';
    return 0;
}

int journal_append(struct journal *j, const struct js *record, struct err *e)
{
    struct bytes line = BYTES_INIT;
    char checksum[HASH_LINE_MAX];
    size_t json_bytes;
    int64_t size = 0;
    bool at_line_start = true;
    int rc = -1;

    if (j->fd < 0)
        return err_set(e, ERR_IO, "the journal is not open");
    char *json = js_write(record, &json_bytes);
    if (look_at_end(j->fd, &size, &at_line_start, e) < 0)
        goto out;

    /* The newline goes first: whatever a crash left behind stays a line of its own. */
    if (!at_line_start)
        bytes_text(&line, "\n");
    hash_line(json, json_bytes, checksum);
    bytes_text(&line, checksum);
    bytes_text(&line, " ");
    bytes_add(&line, json, json_bytes);
    bytes_text(&line, "\n");

    if (file_write_all(j->fd, line.data, line.n, e) < 0) {
        /* A full disk took a part.  Give it back; where even that fails, the next append or the
         * next reader deals with it as with any torn line. */
        if (ftruncate(j->fd, (off_t)size) < 0)
            log_debug("%s: a torn line stays at byte %lld", j->path, (long long)size);
        goto out;
    }
    j->n_lines++;
    j->n_unsynced++;
    rc = 0;
out:
    if (rc < 0)
        err_in(e, "%s", j->path);
    bytes_release(&line);
    free(json);
    return rc;
}

int journal_sync(struct journal *j, struct err *e)
{
    double start = clock_seconds();

    if (j->n_unsynced && fsync(j->fd) < 0)
        return err_set(e, ERR_IO, "%s: %s", j->path, strerror(errno));
    j->n_unsynced = 0;
    j->synced_s = clock_seconds();
    j->sync_took_s = j->synced_s - start;
    return 0;
}

bool journal_sync_due(const struct journal *j, double now_s)
{
    double pause = j->sync_took_s / SYNC_SHARE;

    pause = pause < SYNC_PAUSE_MIN_S ? SYNC_PAUSE_MIN_S : pause;
    pause = pause > SYNC_PAUSE_MAX_S ? SYNC_PAUSE_MAX_S : pause;
    return j->n_unsynced && now_s - j->synced_s >= pause;
}

int journal_clear(struct journal *j, struct err *e)
{
    if (ftruncate(j->fd, 0) < 0 || fsync(j->fd) < 0)
        return err_set(e, ERR_IO, "%s: %s", j->path ? j->path : "journal", strerror(errno));
    return 0;
}

void journal_close(struct journal *j)
{
    if (j->fd >= 0)
        close(j->fd); /* the lock goes with it */
    free(j->path);
    *j = (struct journal)JOURNAL_INIT;
}

/* ---- reading ---- */

struct damage {
    int64_t n;
    struct bytes text;
};

static void note_damage(struct damage *d, const char *path, int64_t line, int64_t offset, size_t n,
                        const char *why)
{
    if (d->n++ >= NAMED_LINES_MAX)
        return;
    if (d->n > 1)
        bytes_text(&d->text, "\n");
    bytes_printf(&d->text, "%s: line %lld (%zu bytes at %lld) is left out: %s", path,
                 (long long)line, n, (long long)offset, why);
}

/* NULL with *why set when the line is not what journal_append() writes. */
static struct js *parse_line(const char *line, size_t n, const char **why, struct err *scratch)
{
    char checksum[HASH_LINE_MAX];
    const char *json = line + CHECKSUM_BYTES + 1;

    *why = "it is cut short or damaged (the checksum does not match)";
    if (n < LINE_BYTES_MIN || line[CHECKSUM_BYTES] != ' ')
        return NULL;
    hash_line(json, n - CHECKSUM_BYTES - 1, checksum);
    if (memcmp(line, checksum, CHECKSUM_BYTES) != 0)
        return NULL;
    struct js *j = js_parse(json, n - CHECKSUM_BYTES - 1, scratch);
    if (!j)
        *why = scratch->text;
    return j;
}

int journal_read(const char *path, struct js ***lines, int *n_lines, char **warnings, struct err *e)
{
    struct bytes text = BYTES_INIT;
    struct damage damage = { 0 };
    struct err scratch = ERR_INIT;
    int room = 0;

    *lines = NULL;
    *n_lines = 0;
    if (warnings)
        *warnings = NULL;
    if (!file_exists(path))
        return 0;
    if (file_read(path, &text, e) < 0) {
        bytes_release(&text);
        return -1;
    }

    int64_t line = 0;
    for (size_t at = 0; at < text.n;) {
        const char *start = text.data + at, *why;
        const char *end = memchr(start, '\n', text.n - at);
        size_t n = end ? (size_t)(end - start) : text.n - at;

        line++;
        if (n > 0) {
            struct js *j = parse_line(start, n, &why, &scratch);
            if (j) {
                if (*n_lines == room) {
                    room = room ? 2 * room : 64;
                    *lines = mem_grow(*lines, (size_t)room, sizeof **lines);
                }
                (*lines)[(*n_lines)++] = j;
            } else if (end) { /* the last line, without its end, is what a crash always leaves */
                note_damage(&damage, path, line, (int64_t)at, n, why);
            }
        }
        at += n + (end != NULL);
    }

    if (damage.n > NAMED_LINES_MAX)
        bytes_printf(&damage.text, "\n%s: %lld more damaged lines are left out", path,
                     (long long)(damage.n - NAMED_LINES_MAX));
    if (warnings)
        *warnings = damage.text.data;
    else
        bytes_release(&damage.text);
    bytes_release(&text);
    return 0;
}

void journal_release(struct js **lines, int n_lines)
{
    for (int i = 0; i < n_lines; i++)
        js_release(lines[i]);
    free(lines);
}
