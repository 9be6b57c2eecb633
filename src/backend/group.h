/* group.h - what the members of a group decide, add up and hold together. */
#pragma once

#include "backend/backend.h"

/* What any of them thinks; false where the group is broken, as its next call will tell. */
bool backend_any_says(struct backend *b, bool own);
/* The sum of a number of each, in order; NaN where one's is, or the group is broken. */
double backend_sum(struct backend *b, double own);

/* ---- memory ---- */

/* What a member holds of its device.  CPU: its rooms of two rounds.  GPU: an inbox of two halves,
 * with flags, lines and large parts of each of the most members, and a room for decode steps. */
#define GROUP_CPU_ROOM    ((size_t)1 << 20)
#define INBOX_MEMBERS     8
#define INBOX_FLAGS       64                /* blocks of a large call */
#define INBOX_LINES       16384             /* of 16 bytes, of a small call */
#define INBOX_LARGE_BYTES ((size_t)8 << 20) /* of a large call */
#define INBOX_STEP_BYTES  ((size_t)6 << 20) /* of launches of a decode step */
#define INBOX_BYTES                                                                 \
    (2 * INBOX_MEMBERS * (4 * INBOX_FLAGS + 16 * INBOX_LINES + INBOX_LARGE_BYTES) + \
     INBOX_STEP_BYTES)

/* That, of a backend by its name, which need not be compiled in; 0 where n are no group. */
int64_t backend_group_bytes(const char *name, int n);

/* For backends: memory that alloc() did not give is in the account from here on; is no longer. */
void backend_adopt(struct backend *b, enum mem_tag tag, void *p, size_t n_bytes);
void backend_disown(struct backend *b, void *p); /* NULL is fine */
