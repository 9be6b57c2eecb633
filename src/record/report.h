/* report.h - the summary for people: a table with intervals, comparisons, failures. */
#pragma once

#include "record/store_h5.h"

#include <stdio.h>

/* The end of a run and --report print the same, from the tables alone.  width: of the terminal,
 * columns that do not fit go to a further block; 0: not a terminal, 100 places. */
void report_print(FILE *to, const struct store_report *r, int width);

/* RFC 4180: a header line, CR LF; reals with the fewest digits that read back bit for bit, NaN as
 * an empty field, switches as true and false. */
void report_csv(FILE *to, const struct table *t);
