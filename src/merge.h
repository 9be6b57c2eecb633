/* merge.h - the parts of one sweep (job arrays, machines) as one results file. */
#pragma once

#include "base/err.h"

#include <stdbool.h>

/* Writes OUT.journal of every part's journal, and builds OUT from it.  Refuses parts of different
 * sweeps, settings, models or data, saying what differs; a part without its journal; an OUT that
 * exists (but for `force`) or is one of the parts. */
int merge_results(const char *out, const char *const *parts, int n_parts, bool force,
                  struct err *e);
