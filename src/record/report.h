/* report.h - the summary for people: a table with intervals, comparisons, failures. */
#pragma once

#include "record/store_h5.h"

#include <stdio.h>

/* The end of a run and --report print the same.  width: of the terminal, 0: not a terminal. */
void report_print(FILE *to, const struct store_report *r, int width);
void report_csv(FILE *to, const struct table *t);
