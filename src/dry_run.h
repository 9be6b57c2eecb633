/* dry_run.h - --dry-run: the table of jobs with sizes, memory and seconds; runs nothing. */
#pragma once

#include "prepare.h"

#include <stdio.h>

/* verbose: every resolved setting, defaults included, under each experiment. */
int dry_run(FILE *to, struct prepare_options o, bool verbose, int n_ranks, struct err *e);
