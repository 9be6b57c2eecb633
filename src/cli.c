/* cli.c - see cli.h. */
#include "cli.h"

#include "base/file.h"
#include "base/memory.h"
#include "sweep/nearest.h"

#include <errno.h>
#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum option_type {
    OPTION_TEXT,
    OPTION_SET,     /* appends to cli.set */
    OPTION_ONLY,    /* appends to cli.only */
    OPTION_LIMIT,   /* an integer of at least 0 */
    OPTION_SECONDS, /* a number above 0 */
    OPTION_SEEDS,
    OPTION_SHARD,
    OPTION_BACKEND,
    OPTION_EXPORT,
    OPTION_FD,
    OPTION_YES, /* sets a bool */
    OPTION_NO   /* clears a bool */
};

struct option_rule {
    char letter;
    const char *name, *argument; /* argument NULL: takes none */
    enum option_type type;
    size_t offset;
    const char *help; /* NULL: not in --help; a line end starts a new line */
};

#define AT(member) offsetof(struct cli, member)

static const struct option_rule rules[] = {
    { 'o', "output", "FILE", OPTION_TEXT, AT(output),
      "results file (default results.h5); %n in its name becomes\nthe next free number" },
    { 0, "resume", NULL, OPTION_YES, AT(resume),
      "re-use the finished jobs of FILE whose settings, model,\ndata and version still match, run "
      "the rest" },
    { 0, "force", NULL, OPTION_YES, AT(force), "start FILE afresh" },
    { 0, "dry-run", NULL, OPTION_YES, AT(dry_run),
      "print the jobs with their size and cost, run none;\nwith -v every resolved setting" },
    { 0, "experiment", "NAME", OPTION_ONLY, 0, "only these (repeatable; shell patterns: 'rtn_*')" },
    { 0, "limit", "N", OPTION_LIMIT, 0, "at most N documents per task and seed; 0 = all" },
    { 0, "seeds", "0,1,2", OPTION_SEEDS, 0, "replace the sweep file's seeds" },
    { 0, "backend", "auto|cuda|cpu", OPTION_BACKEND, AT(backend),
      "where models run (default auto)" },
    { 0, "set", "KEY=VALUE", OPTION_SET, 0,
      "override one key of the sweep file (repeatable):\n--set model.path=DIR, --set "
      "experiment.NAME.bits=3" },
    { 0, "fail-fast", NULL, OPTION_YES, AT(fail_fast),
      "hand out no job after the first failed one" },
    { 0, "time-limit", "SEC", OPTION_SECONDS, AT(time_limit_s),
      "hand out no job that is not expected to end in time;\nleave cleanly, exit 75" },
    { 0, "shard", "I/N", OPTION_SHARD, 0,
      "only every N-th job, from the I-th (1 to N), for job\narrays; --merge joins the parts" },
    { 0, "share-gpu", NULL, OPTION_YES, AT(share_gpu),
      "allow several ranks on one GPU (without it surplus\nranks idle, and say so)" },
    { 0, "no-isolate", NULL, OPTION_NO, AT(isolate),
      "run jobs in the rank's own process (debuggers,\nprofilers)" },
    { 0, "report", "FILE", OPTION_TEXT, AT(report),
      "print the summary, comparisons and failures of a\nresults file again" },
    { 0, "recommend", "EXPR", OPTION_TEXT, AT(recommend),
      "with --report: the best experiment under constraints\n(\"model_mb<=1200 and "
      "decode_ms_per_token<=1\"), and what\nspeaks for it; \" by coqa_f1\" chooses the metric" },
    { 0, "merge", "OUT", OPTION_TEXT, AT(merge),
      "join the results files that follow, of one sweep; refuses\ndifferent models, data or "
      "settings" },
    { 0, "export", "csv|lm-eval", OPTION_EXPORT, AT(export_form),
      "the results file that follows as CSV tables, or as\nlm-eval's results JSON, beside it" },
    { 0, "score-coqa", "PREDICTIONS.json", OPTION_TEXT, AT(score_coqa),
      "score predictions ([{\"id\", \"turn_id\", \"answer\"}, ...])\nagainst the data file that "
      "follows, by CoQA's official\nrule; prints its table of domains" },
    { 0, "tokenize", "FILE", OPTION_TEXT, AT(tokenize),
      "print the token ids of FILE as the tasks would see\nthem (one line) and exit" },
    { 'q', "quiet", NULL, OPTION_YES, AT(quiet),
      "warnings, errors and the path of the results only" },
    { 'v', "verbose", NULL, OPTION_YES, AT(verbose), "say more" },
    { 0, "help", NULL, OPTION_YES, AT(help), "this text" },
    { 0, "version", NULL, OPTION_YES, AT(version), "version, commit, compiler and libraries" },
    { 0, "list-experiments", NULL, OPTION_YES, AT(list_experiments),
      "the names of the sweep file's experiments; without a\nfile, the methods" },
    { 0, "engine-fd", "N", OPTION_FD, AT(engine_fd), NULL },
};
#define N_RULES (int)(sizeof rules / sizeof *rules)

/* ---- values ---- */

static int read_whole(const char *text, int64_t *out)
{
    char *end;

    errno = 0;
    long long value = strtoll(text, &end, 10);
    /* strtoll skips blanks and takes a plus sign; neither is a number's first character here. */
    if (end == text || *end || errno || !strchr("-0123456789", *text))
        return -1;
    *out = value;
    return 0;
}

static int read_limit(const char *text, struct cli *c, struct err *e)
{
    int64_t *limit = &c->overrides.limit;

    if (read_whole(text, limit) < 0 || *limit < 0 || *limit > INT32_MAX)
        return err_set(e, ERR_USAGE, "--limit %s: must be an integer of at least 0 (0 = all)",
                       text);
    return 0;
}

static int read_seconds(const char *text, struct cli *c, struct err *e)
{
    char *end;
    double value = strtod(text, &end);

    if (end == text || *end || !strchr(".0123456789", *text) || !(value > 0 && isfinite(value)))
        return err_set(e, ERR_USAGE, "--time-limit %s: must be a number of seconds above 0", text);
    c->time_limit_s = value;
    return 0;
}

static int read_seeds(const char *text, struct cli *c, struct err *e)
{
    struct sweep_overrides *o = &c->overrides;
    char *copy = mem_text(text);
    bool good = true;

    o->has_seeds = true;
    o->n_seeds = 0;
    for (char *part = copy, *comma; good && part; part = comma ? comma + 1 : NULL) {
        int64_t seed = -1;

        comma = strchr(part, ',');
        if (comma)
            *comma = 0;
        good = o->n_seeds < SWEEP_LIST_MAX && read_whole(part, &seed) == 0 && seed >= 0 &&
               seed <= INT64_C(1) << 53;
        for (int i = 0; good && i < o->n_seeds; i++)
            good = o->seeds[i] != seed;
        if (good)
            o->seeds[o->n_seeds++] = seed;
    }
    free(copy);
    if (!good)
        return err_set(e, ERR_USAGE,
                       "--seeds %s: must be 1 to %d different integers from 0 to 2^53, separated "
                       "by commas",
                       text, SWEEP_LIST_MAX);
    return 0;
}

static int read_shard(const char *text, struct cli *c, struct err *e)
{
    char *copy = mem_text(text), *slash = strchr(copy, '/');
    int64_t i = 0, n = 0;

    if (slash)
        *slash = 0;
    bool good = slash && read_whole(copy, &i) == 0 && read_whole(slash + 1, &n) == 0 && i >= 1 &&
                i <= n && n <= SWEEP_MAX_JOBS;
    free(copy);
    if (!good)
        return err_set(e, ERR_USAGE,
                       "--shard %s: must be I/N, the I-th of N parts, I from 1 to N, N at most %d",
                       text, SWEEP_MAX_JOBS);
    c->overrides.shard = (int)i;
    c->overrides.n_shards = (int)n;
    return 0;
}

static void append(const char ***list, int *n, const char *text)
{
    *list = mem_grow(*list, (size_t)*n + 1, sizeof **list);
    (*list)[(*n)++] = text;
}

static int apply(const struct option_rule *r, const char *value, struct cli *c, struct err *e)
{
    char *member = (char *)c + r->offset;
    int64_t fd;

    switch (r->type) {
    case OPTION_TEXT:
        if (!*value)
            return err_set(e, ERR_USAGE, "--%s: the name is empty", r->name);
        *(const char **)(void *)member = value;
        return 0;
    case OPTION_SET:
        append(&c->set, &c->overrides.n_set, value);
        c->overrides.set = c->set;
        return 0;
    case OPTION_ONLY:
        append(&c->only, &c->overrides.n_only, value);
        c->overrides.only = c->only;
        return 0;
    case OPTION_LIMIT:
        return read_limit(value, c, e);
    case OPTION_SECONDS:
        return read_seconds(value, c, e);
    case OPTION_SEEDS:
        return read_seeds(value, c, e);
    case OPTION_SHARD:
        return read_shard(value, c, e);
    case OPTION_BACKEND:
        if (strcmp(value, "auto") && strcmp(value, "cuda") && strcmp(value, "cpu"))
            return err_set(e, ERR_USAGE, "--backend %s: must be one of auto, cuda, cpu", value);
        c->backend = value;
        return 0;
    case OPTION_EXPORT:
        if (strcmp(value, "csv") && strcmp(value, "lm-eval"))
            return err_set(e, ERR_USAGE, "--export %s: must be one of csv, lm-eval", value);
        c->export_form = value;
        return 0;
    case OPTION_FD:
        if (read_whole(value, &fd) < 0 || fd < 0 || fd > 1 << 20)
            return err_set(e, ERR_USAGE, "--engine-fd %s: must be an open file", value);
        c->engine_fd = (int)fd;
        return 0;
    case OPTION_YES:
    case OPTION_NO:
        *(bool *)(void *)member = r->type == OPTION_YES;
        return 0;
    }
    return 0;
}

/* ---- the line ---- */

static int unknown_option(const char *name, const char *shown, struct err *e)
{
    struct nearest near = { .wanted = name };

    for (int i = 0; i < N_RULES; i++)
        if (rules[i].help)
            nearest_offer(&near, rules[i].name);
    return err_set(e, ERR_USAGE, "unknown option %s; the nearest is --%s (see --help)", shown,
                   near.best);
}

struct reading {
    int argc, at;
    char *const *argv;
    bool given[sizeof rules / sizeof *rules];
    struct cli *cli;
};

/* attached: what stood behind "=" or the letter, or NULL. */
static int take(struct reading *line, int i, const char *attached, struct err *e)
{
    const struct option_rule *r = &rules[i];
    const char *value = attached;

    if (r->argument && !value) {
        if (line->at + 1 >= line->argc)
            return err_set(e, ERR_USAGE, "--%s needs %s", r->name, r->argument);
        value = line->argv[++line->at];
    }
    line->given[i] = true;
    return apply(r, value, line->cli, e);
}

static int take_long(struct reading *line, const char *text, struct err *e)
{
    const char *equals = strchr(text, '=');
    size_t n = equals ? (size_t)(equals - text) : strlen(text);

    for (int i = 0; i < N_RULES; i++) {
        if (strlen(rules[i].name) != n || memcmp(rules[i].name, text, n) != 0)
            continue;
        if (equals && !rules[i].argument)
            return err_set(e, ERR_USAGE, "--%s takes no value", rules[i].name);
        return take(line, i, equals ? equals + 1 : NULL, e);
    }
    struct bytes shown = BYTES_INIT;
    bytes_printf(&shown, "--%.*s", (int)n, text);
    unknown_option(shown.data + 2, shown.data, e);
    bytes_release(&shown);
    return -1;
}

/* "-q", "-qv", "-oFILE", "-o FILE" */
static int take_letters(struct reading *line, const char *letters, struct err *e)
{
    for (const char *p = letters; *p; p++) {
        int i = 0;
        while (i < N_RULES && rules[i].letter != *p)
            i++;
        if (i == N_RULES) {
            char shown[] = { '-', *p, 0 };
            return unknown_option(shown + 1, shown, e);
        }
        bool has_value = rules[i].argument != NULL;
        if (take(line, i, has_value && p[1] ? p + 1 : NULL, e) < 0)
            return -1;
        if (has_value)
            break;
    }
    return 0;
}

/* What they are is known when the line has been read. */
static void take_file(struct reading *line, const char *path)
{
    append(&line->cli->files, &line->cli->n_files, path);
}

/* Results files alone: nothing of a sweep goes with --report, --merge and --export. */
static int check_alone(const struct reading *line, const char *name, const char *also,
                       struct err *e)
{
    for (int i = 0; i < N_RULES; i++)
        if (line->given[i] && strcmp(rules[i].name, name) && strcmp(rules[i].name, also) &&
            rules[i].offset != AT(quiet) && rules[i].offset != AT(verbose))
            return err_set(e, ERR_USAGE, "--%s goes with %s%s%s-q and -v only, not with --%s", name,
                           *also ? "--" : "", also, *also ? ", " : "", rules[i].name);
    return 0;
}

static int check_report(const struct reading *line, struct err *e)
{
    const struct cli *c = line->cli;

    if (c->n_files)
        return err_set(e, ERR_USAGE, "--report %s takes no sweep file, but %s is given", c->report,
                       c->files[0]);
    return check_alone(line, "report", "recommend", e);
}

static int check_merge(const struct reading *line, struct err *e)
{
    const struct cli *c = line->cli;

    if (c->n_files < 2)
        return err_set(e, ERR_USAGE, "--merge %s needs two or more results files to join",
                       c->merge);
    return check_alone(line, "merge", "force", e);
}

static int check_export(const struct reading *line, struct err *e)
{
    const struct cli *c = line->cli;

    if (c->n_files != 1)
        return err_set(e, ERR_USAGE, "--export %s needs one results file, %d are given",
                       c->export_form, c->n_files);
    return check_alone(line, "export", "", e);
}

static int check_score(const struct reading *line, struct err *e)
{
    const struct cli *c = line->cli;

    if (c->n_files != 1)
        return err_set(e, ERR_USAGE, "--score-coqa %s needs one data file, %d are given",
                       c->score_coqa, c->n_files);
    return check_alone(line, "score-coqa", "", e);
}

static int check_together(const struct reading *line, struct err *e)
{
    const struct cli *c = line->cli;

    if (c->quiet && c->verbose)
        return err_set(e, ERR_USAGE, "--quiet and --verbose exclude each other");
    if (c->report)
        return check_report(line, e);
    if (c->recommend)
        return err_set(e, ERR_USAGE, "--recommend goes with --report FILE");
    if (c->merge)
        return check_merge(line, e);
    if (c->export_form)
        return check_export(line, e);
    if (c->score_coqa)
        return check_score(line, e);
    if (c->n_files > 1)
        return err_set(e, ERR_USAGE, "one sweep file at a time, not both %s and %s", c->files[0],
                       c->files[1]);
    line->cli->sweep_path = c->n_files ? c->files[0] : NULL;
    if (c->resume && c->force)
        return err_set(e, ERR_USAGE, "--resume and --force exclude each other");
    if (c->resume && strstr(c->output, "%n"))
        return err_set(e, ERR_USAGE, "--resume needs the name of a file, not -o %s", c->output);
    if (!c->sweep_path && !c->list_experiments && c->engine_fd < 0)
        return err_set(e, ERR_USAGE, "no sweep file is given (see --help)");
    return 0;
}

int cli_parse(int argc, char *const *argv, struct cli *out, struct err *e)
{
    struct reading line = { .argc = argc, .argv = argv, .cli = out };
    bool only_files = false;
    int rc = 0;

    *out = (struct cli){ .output = "results.h5",
                         .backend = "auto",
                         .isolate = true,
                         .engine_fd = -1,
                         .overrides = SWEEP_OVERRIDES_INIT };
    for (line.at = 1; rc == 0 && line.at < argc; line.at++) {
        const char *text = argv[line.at];

        if (only_files || text[0] != '-' || !text[1])
            take_file(&line, text);
        else if (strcmp(text, "--") == 0)
            only_files = true;
        else if (text[1] == '-')
            rc = take_long(&line, text + 2, e);
        else
            rc = take_letters(&line, text + 1, e);
        if (rc == 0 && (out->help || out->version))
            return 0;
    }
    if (rc == 0)
        rc = check_together(&line, e);
    if (rc < 0)
        cli_release(out);
    return rc;
}

void cli_release(struct cli *c)
{
    free(c->set);
    free(c->only);
    free(c->files);
    *c = (struct cli){ .engine_fd = -1 };
}

/* ---- --help ---- */

#define HELP_COLUMN 29

static void add_rule(const struct option_rule *r, struct bytes *text)
{
    struct bytes left = BYTES_INIT;

    bytes_text(&left, "  ");
    if (r->letter)
        bytes_printf(&left, "-%c, ", r->letter);
    else
        bytes_text(&left, "    ");
    bytes_printf(&left, "--%s%s%s", r->name, r->argument ? " " : "",
                 r->argument ? r->argument : "");
    /* A long name has its line for itself. */
    if (left.n >= HELP_COLUMN)
        bytes_printf(text, "%s\n%*s", left.data, HELP_COLUMN, "");
    else
        bytes_printf(text, "%-*s", HELP_COLUMN, left.data);
    for (const char *p = r->help; *p; p++)
        if (*p == '\n')
            bytes_printf(text, "\n%*s", HELP_COLUMN, "");
        else
            bytes_add(text, p, 1);
    bytes_text(text, "\n");
    bytes_release(&left);
}

char *cli_help(void)
{
    struct bytes text = BYTES_INIT;

    bytes_text(&text, "usage: mpirun -np N ./llq_sweep [options] SWEEP.toml\n"
                      "       ./llq_sweep --report RESULTS.h5 [--recommend EXPR]\n"
                      "       ./llq_sweep --merge OUT.h5 A.h5 B.h5 ...\n"
                      "       ./llq_sweep --export csv|lm-eval RESULTS.h5\n"
                      "       ./llq_sweep --score-coqa PREDICTIONS.json COQA.json\n\n"
                      "Quantizes, evaluates and benchmarks a language model in every configuration "
                      "of a sweep\nfile, and writes one HDF5 file with confidence intervals.\n\n");
    for (int i = 0; i < N_RULES; i++)
        if (rules[i].help)
            add_rule(&rules[i], &text);
    bytes_text(&text, "\nexit status: 0 every job succeeded; 1 some jobs failed (they are in the "
                      "file with their\nerror); 2 the command line, the sweep file or an input is "
                      "wrong (nothing ran);\n75 stopped early, continue with --resume.\n"
                      "sweeps/README.md explains every key of a sweep file.\n");
    return text.data;
}

/* ---- the results file ---- */

/* A journal alone is a sweep that was killed early; it is worth as much as a file. */
static bool is_taken(const char *path)
{
    char *journal = mem_alloc(strlen(path) + sizeof ".journal");

    sprintf(journal, "%s.journal", path);
    bool taken = file_exists(path) || file_exists(journal);
    free(journal);
    return taken;
}

static char *numbered(const char *pattern)
{
    const char *mark = strstr(pattern, "%n");

    if (!mark)
        return mem_text(pattern);
    for (int i = 1;; i++) {
        struct bytes path = BYTES_INIT;
        bytes_add(&path, pattern, (size_t)(mark - pattern));
        bytes_printf(&path, "%d%s", i, mark + 2);
        if (!is_taken(path.data))
            return path.data;
        bytes_release(&path);
    }
}

/* Tried out: permissions say nothing to root, nor on a read-only or foreign file system. */
static bool can_make_file(const char *folder)
{
    char *temp = file_join(folder, ".llq_sweep_XXXXXX");
    int fd = mkstemp(temp), failure = errno;

    if (fd >= 0) {
        close(fd);
        unlink(temp);
    }
    free(temp);
    errno = failure;
    return fd >= 0;
}

int cli_output(const struct cli *c, char **path, struct err *e)
{
    char *name = numbered(c->output), *folder = file_folder(name);
    int rc = -1;

    if (file_is_folder(name))
        err_set(e, ERR_USAGE, "-o %s: is a folder", name);
    else if (!file_is_folder(folder))
        err_set(e, ERR_USAGE, "-o %s: there is no folder %s", name, folder);
    else if (!can_make_file(folder))
        err_set(e, ERR_USAGE, "-o %s: no file can be made in %s: %s", name, folder,
                strerror(errno));
    else if (is_taken(name) && !c->resume && !c->force)
        err_set(e, ERR_USAGE,
                "%s exists: --resume continues it, --force starts it afresh, -o names another file "
                "(-o results-%%n.h5 takes the next free number)",
                name);
    else
        rc = 0;
    if (rc == 0) {
        char *real = file_absolute(folder);
        const char *slash = strrchr(name, '/');
        *path = file_join(real, slash ? slash + 1 : name);
        free(real);
    }
    free(folder);
    free(name);
    return rc;
}
