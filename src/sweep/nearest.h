/* nearest.h - "did you mean": the known name that is closest to a misspelt one. */
#pragma once

#include <stdbool.h>

/* Edits (insert, delete, replace, swap of neighbours) from a to b, in bytes. */
int edit_distance(const char *a, const char *b);

/* The caller offers names one after the other; best is the first with the smallest distance. */
struct nearest {
    const char *wanted;
    const char *best; /* NULL: none was offered */
    int distance;
};

/* True where name is the best so far. */
bool nearest_offer(struct nearest *n, const char *name);
