/* rebuild.h - the results file, made again from its journal. */
#pragma once

#include "base/err.h"

/* Where a run was killed, FILE is behind FILE.journal, or not there at all: then it is built from
 * it.  Nothing is done to a file that is complete, has no journal, or whose sweep still runs. */
int rebuild_results(const char *file, struct err *e);
