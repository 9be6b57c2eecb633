/* fault.h - faults on command, so that tests can see what becomes of them. */
#pragma once

#include "backend/backend.h"

/* In a job of the experiment that an environment variable names: LLQ_TEST_FAIL makes it fail,
 * LLQ_TEST_CRASH, _SEGFAULT, _ABORT and _EXIT end its process, LLQ_TEST_HANG lets it stand still,
 * LLQ_TEST_MEMORY takes memory until something stops it, LLQ_TEST_LOSE_DEVICE takes its device
 * down.  With LLQ_TEST_ONCE=FILE only where FILE can be made: once.  LLQ_TEST_PAUSE=SECONDS makes
 * every job last longer. */
int fault_inject(struct backend *b, const char *experiment, struct err *e);
/* LLQ_TEST_CRASH_SETUP=N ends the process of local rank N while it is set up. */
void fault_in_setup(int local_rank);
