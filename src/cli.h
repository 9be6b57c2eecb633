/* cli.h - the command line: one table of options, from which parser and --help come.
 *
 * Long options are written out ("--resume", "--limit 50", "--limit=50"), never abbreviated, so
 * that a script does not change its meaning when an option is added.  Numbers are read to the last
 * character.  Every refusal is one ERR_USAGE line (exit status 2) and names the nearest option.  */
#pragma once

#include "base/err.h"
#include "sweep/sweep_file.h"

#include <stdbool.h>

enum cli_exit { EXIT_ALL_OK = 0, EXIT_SOME_FAILED = 1, EXIT_USAGE = 2, EXIT_RESUMABLE = 75 };

struct cli {
    const char *sweep_path; /* NULL: --report, --engine-fd, --help, --version and, if none was
                               given, --list-experiments */
    const char *output;     /* "results.h5", or as given; may hold %n, see cli_output() */
    bool resume, force, dry_run, fail_fast;
    bool isolate; /* false: --no-isolate */
    bool share_gpu;
    const char *backend; /* "auto", "cpu", "cuda" */
    double time_limit_s; /* 0: none */
    const char *report, *tokenize;
    const char *recommend;   /* with report */
    const char *merge;       /* the file to make of `files` */
    const char *export_form; /* "csv", "lm-eval" of files[0] */
    const char *score_coqa;  /* predictions for the data of files[0] */
    bool list_experiments, quiet, verbose, help, version;
    int engine_fd; /* >= 0: this process is the engine of a rank */

    struct sweep_overrides overrides; /* --set, --seeds, --limit, --experiment */
    const char **set, **only;         /* inner: what overrides points to */
    const char **files;               /* what is no option: a sweep file, or results files */
    int n_files;
};

/* Texts point into argv.  Stops reading at --help and --version. */
int cli_parse(int argc, char *const *argv, struct cli *out, struct err *e);
void cli_release(struct cli *c);

char *cli_help(void); /* malloc'ed */

/* The absolute path of the results file, malloc'ed: %n replaced by the first number from 1 that
 * is free.  Refuses a file (or its journal) that exists where neither --resume nor --force is
 * given, a folder, and a place where no file can be made; leaves nothing
 * behind. */
int cli_output(const struct cli *c, char **path, struct err *e);

/* ---- cli_version.c ---- */

struct cli_library {
    const char *name, *version; /* "Open MPI", "4.1.4"; version NULL: left out */
};

const char *llq_version(void);  /* "0.1.0" */
const char *llq_commit(void);   /* 12 hex digits, or "unknown" */
const char *llq_compiler(void); /* "gcc 12.2.0" */
char *cli_version_text(const struct cli_library *libraries, int n); /* malloc'ed */
