/* grid.h - aligned text tables: columns as wide as their widest cell, wrapped into blocks where
 * the page is narrower.  Cells are UTF-8; a code point counts as one place.  */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stdio.h>

struct grid_column {
    char heading[64];
    bool left; /* else numbers: aligned right */
    char **cell;
};

struct grid {
    int n_columns, n_rows, n_keys; /* the first n_keys columns stand in every block */
    struct grid_column *columns;
};

#define GRID_INIT \
    {             \
        0         \
    }

/* Rows first, then columns. */
void grid_add_column(struct grid *g, const char *heading, bool left);
void grid_set(struct grid *g, int row, const char *fmt, ...) PRINTF_LIKE(3, 4); /* newest column */
void grid_print(FILE *to, const struct grid *g, int width);
void grid_release(struct grid *g);
