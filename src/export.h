/* export.h - a results file in other programs' forms, beside it. */
#pragma once

#include "base/err.h"

#include <stdio.h>

/* form "csv": FILE.summary.csv, FILE.comparisons.csv, FILE.halves.csv; "lm-eval": for each
 * experiment FILE.NAME.json, as lm-evaluation-harness writes its results.  An ending .h5 of FILE
 * goes.  Prints what was written, a path a line. */
int export_results(FILE *to, const char *form, const char *path, struct err *e);
