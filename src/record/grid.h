/* grid.h - aligned text tables: columns as wide as their widest cell.  Where the page is narrower,
 * optional columns are left out first, then the rest is wrapped into blocks.  Cells are UTF-8; a
 * code point counts as one place.  */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stdio.h>

struct grid_column {
    char heading[64];
    bool left;     /* else aligned right, as numbers are */
    bool optional; /* left out where the table is too wide */
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
