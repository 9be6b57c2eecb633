/* table.h - a table of results: equally long columns with units and directions.  The summary,
 * comparisons, statistics and pareto lists are tables; the results file stores them, the report
 * prints them, CSV exports them. */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum column_kind { COLUMN_TEXT, COLUMN_REAL, COLUMN_COUNT, COLUMN_BOOL };

struct table_column {
    char name[64];
    char unit[16];  /* "", "ms", "MiB", "tokens/s", "bit", "1" */
    char what[128]; /* one sentence */
    enum column_kind kind;
    int higher_is_better; /* 1, 0, or -1: has no direction */
    char **text;          /* COLUMN_TEXT: [n_rows], owned */
    double *real;         /* COLUMN_REAL: NaN where missing */
    int64_t *count;       /* COLUMN_COUNT, COLUMN_BOOL */
};

struct table {
    char name[64];
    int n_columns, n_rows;
    struct table_column *columns;
};

#define TABLE_INIT \
    {              \
        0          \
    }

void table_release(struct table *t);
/* Adds a column filled with empty text, NaN or 0; returns its index.  Rows added later grow it.
 * name: new in this table and shorter than 64 bytes; longer units and sentences are cut. */
int table_add_column(struct table *t, const char *name, const char *unit, const char *what,
                     enum column_kind kind, int higher_is_better);
int table_add_row(struct table *t);                        /* returns its index */
int table_column(const struct table *t, const char *name); /* -1: none */
/* The column must exist and have this kind. */
void table_set_text(struct table *t, int row, const char *column, const char *value);
void table_set_real(struct table *t, int row, const char *column, double value);
void table_set_count(struct table *t, int row, const char *column, int64_t value);
const char *table_text(const struct table *t, int row, const char *column); /* NULL: none */
double table_real(const struct table *t, int row, const char *column);      /* NaN: none */
int64_t table_count(const struct table *t, int row, const char *column);
