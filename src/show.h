/* show.h - what the program answers without running a sweep: help, versions, lists, a report. */
#pragma once

#include "cli.h"

bool show_wanted(const struct cli *c);
/* The exit status, or -1. */
int show(const struct cli *c, struct err *e);

/* Name, version, ..., NULL: the program's and its libraries'. */
const char *const *show_versions(void);
char *show_command_line(int argc, char *const *argv); /* malloc'ed */
