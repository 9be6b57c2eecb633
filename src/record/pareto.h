/* pareto.h - which experiments no other one dominates in cost and quality, by tests: a difference
 * that may be chance dominates nobody.
 *
 * y dominates x where y costs no more and either its quality is really better (paired test at the
 * sweep's confidence), or it really costs less and its quality is shown to be not worse (the 90 %
 * interval stays above -margin).  Sizes are counted; latencies differ where their intervals are
 * apart.  */
#pragma once

#include "record/runs.h"
#include "record/table.h"

/* out: columns front ("size_quality", "latency_quality"), metric, name; a front's names by rising
 * cost.  summary: the table of the same runs, which has their costs. */
void pareto_all(const struct sweep *s, const struct run_list *runs, const struct table *summary,
                struct table *out);
