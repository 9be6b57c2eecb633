/* journal.h - what has happened, kept safe against kill -9 at any instant.
 *
 * One record a line: checksum, space, JSON, line end.  Lines are on disk when journal_sync()
 * returns: nothing is told of a result before that.  A torn last line is recognised by its checksum
 * and left out; a damaged line in the middle is named and left out.  The first line describes the
 * sweep.  Rank 0 alone writes; a lock keeps a second program off the same file.  */
#pragma once

#include "base/err.h"
#include "base/js.h"

#include <stdbool.h>
#include <stdint.h>

struct journal {
    int fd; /* -1: not open */
    char *path;
    int64_t n_lines;
    int n_unsynced; /* lines that are not on disk yet */
    double synced_s, sync_took_s;
};

#define JOURNAL_INIT \
    {                \
        .fd = -1     \
    }

/* Opens for appending, creating it.  ERR_USAGE when another process has it open. */
int journal_open(struct journal *j, const char *path, struct err *e);
int journal_append(struct journal *j, const struct js *record, struct err *e);
int journal_sync(struct journal *j, struct err *e);
/* Whether it is time: lines wait, and since the last sync 50 ms are gone, or where a sync takes
 * long, so much that at most 2 % of the time goes into them, but no more than 2 s. */
bool journal_sync_due(const struct journal *j, double now_s);
/* Empties it, for --force; the lock stays, where removing the file would let two writers in. */
int journal_clear(struct journal *j, struct err *e);
void journal_close(struct journal *j); /* also after a failed open, also twice */

/* Every valid line of a file, in order.  *warnings (may be NULL) receives a malloc'ed text that
 * names damaged lines, or NULL.  A missing file gives 0 lines. */
int journal_read(const char *path, struct js ***lines, int *n_lines, char **warnings,
                 struct err *e);
void journal_release(struct js **lines, int n_lines);
