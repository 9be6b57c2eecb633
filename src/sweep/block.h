/* block.h - one [[experiment]] as written: a name, and one or several values for each key. */
#pragma once

#include "sweep/keys.h"
#include "sweep/method.h"

struct axis {
    int n;                            /* 0: the key is not given */
    struct toml_value *const *values; /* borrowed from the tree of the file */
    const struct toml_value *given;   /* the value or the list, for messages */
};

struct experiment_block {
    char name[NAME_MAX_BYTES];
    int line;
    const struct toml_value *table;
    struct axis axes[N_AXES];
};

/* Checks keys and values one by one; which of them go together is method_resolve()'s question. */
int block_read(const struct source *s, const struct toml_value *table, struct experiment_block *out,
               struct err *e);

/* Cells of the grid: the product of the axes' lengths, at most SWEEP_MAX_JOBS + 1. */
int64_t block_n_cells(const struct experiment_block *b);

/* Cell i in [0, n_cells): the last axis given varies fastest. */
void block_cell(const struct experiment_block *b, int64_t i, struct cell *out);

/* NAME plus the part of every axis with several values. */
void block_cell_name(const struct experiment_block *b, const struct cell *c, struct bytes *out);
