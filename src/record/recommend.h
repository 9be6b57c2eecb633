/* recommend.h - the best experiment under constraints, and what speaks for it.
 *
 * The expression: conditions on columns of /summary, "model_mb<=1200 and decode_ms_per_token<=1",
 * and, where another than the first quality metric should decide, " by coqa_f1" behind them.
 * Experiments are ranked by the half of the documents that is there for choosing (halves.h).  */
#pragma once

#include "record/store_h5.h"

#include <stdio.h>

#define RECOMMEND_CONDITIONS 16

struct condition {
    char column[64];
    char sign[3]; /* <=, <, >=, >, = */
    double limit;
};

struct recommend {
    int n;
    struct condition all[RECOMMEND_CONDITIONS];
    char by[64]; /* "": the first quality metric of the file */
};

int recommend_parse(const char *text, struct recommend *out, struct err *e);

/* Prints to `to`.  Returns 1 where an experiment fulfils everything, 0 where none does (printed,
 * with the nearest miss), -1 with ERR_USAGE for a column that the file does not have. */
int recommend_print(FILE *to, const struct store_report *r, const struct recommend *what,
                    struct err *e);
