/* halves.h - every score once on each half of the documents.  The best of many looks better than
 * it is on the items it was chosen by; --recommend chooses on one half, and says what the other
 * half, which had no part in it, confirms. */
#pragma once

#include "record/runs.h"
#include "record/table.h"

/* Columns name, metric, select (mean), confirm (mean), confirm_ci_low, confirm_ci_high, n_select,
 * n_confirm: rows of every compared metric. */
void halves_all(const struct sweep *s, const struct run_list *runs, struct table *out);
