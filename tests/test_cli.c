/* test_cli.c - what the command line takes, and the one line for each mistake. */
#include "sweep_help.h"

#include "cli.h"

#define WORDS_MAX 16

/* A command line of blank-separated words. */
static int parse(const char *line, struct cli *c, struct err *e)
{
    static char copy[512];
    char *argv[WORDS_MAX + 2] = { "llq_sweep" };
    int argc = 1;

    err_clear(e);
    snprintf(copy, sizeof copy, "%s", line);
    for (char *word = strtok(copy, " "); word && argc <= WORDS_MAX; word = strtok(NULL, " "))
        argv[argc++] = word;
    return cli_parse(argc, argv, c, e);
}

static void every_option_is_read(void **state)
{
    (void)state;
    struct cli c;
    struct err e = ERR_INIT;

    CHECK_OK(parse("s.toml", &c, &e), e);
    CHECK(!strcmp(c.sweep_path, "s.toml") && !strcmp(c.output, "results.h5"), "the defaults");
    CHECK(!strcmp(c.backend, "auto") && c.isolate && c.engine_fd == -1, "of the contract");
    CHECK(c.overrides.limit == -1 && !c.overrides.has_seeds && c.overrides.n_set == 0 &&
              c.overrides.n_only == 0 && c.time_limit_s == 0,
          "nothing is overridden");
    cli_release(&c);

    CHECK_OK(parse("-o a.h5 --resume --dry-run --experiment r_* --experiment=b --limit 5 "
                   "--seeds 0,7,3 --backend cpu s.toml --set a.b=1",
                   &c, &e),
             e);
    CHECK(!strcmp(c.output, "a.h5") && c.resume && !c.force && c.dry_run, "files and switches");
    CHECK(c.overrides.n_only == 2 && !strcmp(c.overrides.only[0], "r_*") &&
              !strcmp(c.overrides.only[1], "b"),
          "repeatable options gather");
    CHECK(c.overrides.limit == 5 && c.overrides.has_seeds && c.overrides.n_seeds == 3 &&
              c.overrides.seeds[1] == 7 && c.overrides.seeds[2] == 3,
          "numbers and lists");
    CHECK(!strcmp(c.backend, "cpu") && !strcmp(c.overrides.set[0], "a.b=1"),
          "options behind the file count, too");
    cli_release(&c);
    cli_release(&c);

    CHECK_OK(parse("-ob.h5 --force --fail-fast --time-limit 1.5 --no-isolate --set=x.y=z=1 "
                   "--tokenize f.txt -v --limit=0 -- -s.toml",
                   &c, &e),
             e);
    CHECK(!strcmp(c.output, "b.h5") && c.force && c.fail_fast && c.time_limit_s == 1.5, "switches");
    CHECK(!c.isolate && c.verbose && !c.quiet && c.overrides.limit == 0, "more switches");
    CHECK(!strcmp(c.overrides.set[0], "x.y=z=1"), "a value may hold =");
    CHECK(!strcmp(c.tokenize, "f.txt") && !strcmp(c.sweep_path, "-s.toml"), "-- ends the options");
    cli_release(&c);

    CHECK_OK(parse("--report r.h5 -q", &c, &e), e);
    CHECK(!strcmp(c.report, "r.h5") && !c.sweep_path && c.quiet, "--report needs no sweep");
    cli_release(&c);
    CHECK_OK(parse("--list-experiments", &c, &e), e);
    CHECK(c.list_experiments && !c.sweep_path, "--list-experiments needs none");
    cli_release(&c);
    CHECK_OK(parse("--engine-fd 7", &c, &e), e);
    CHECK(c.engine_fd == 7, "nor does the engine");
    cli_release(&c);
    CHECK_OK(parse("--help --nonsense", &c, &e), e);
    CHECK(c.help, "--help wins over what follows");
    cli_release(&c);
    CHECK_OK(parse("s.toml --version --limit x", &c, &e), e);
    CHECK(c.version, "and so does --version");
    cli_release(&c);
}

static void every_mistake_has_its_line(void **state)
{
    (void)state;
    static const struct {
        const char *line, *message;
    } cases[] = {
        { "", "no sweep file is given (see --help)" },
        { "--dry-run", "no sweep file is given (see --help)" },
        { "a.toml b.toml", "one sweep file at a time, not both a.toml and b.toml" },
        { "--resum a.toml", "unknown option --resum; the nearest is --resume (see --help)" },
        { "--dryrun a.toml", "unknown option --dryrun; the nearest is --dry-run (see --help)" },
        { "--seed=3 a.toml", "unknown option --seed; the nearest is --seeds (see --help)" },
        { "--engine a.toml", "unknown option --engine; the nearest is --merge (see --help)" },
        { "-x a.toml", "unknown option -x; the nearest is --set (see --help)" },
        { "-qx a.toml", "unknown option -x; the nearest is --set (see --help)" },
        { "a.toml --output", "--output needs FILE" },
        { "a.toml -o", "--output needs FILE" },
        { "a.toml --output=", "--output: the name is empty" },
        { "a.toml --limit", "--limit needs N" },
        { "a.toml --resume=1", "--resume takes no value" },
        { "a.toml --limit -1", "--limit -1: must be an integer of at least 0 (0 = all)" },
        { "a.toml --limit 5x", "--limit 5x: must be an integer of at least 0 (0 = all)" },
        { "a.toml --limit +5", "--limit +5: must be an integer of at least 0 (0 = all)" },
        { "a.toml --limit=", "--limit : must be an integer of at least 0 (0 = all)" },
        { "a.toml --limit 0.5", "--limit 0.5: must be an integer of at least 0 (0 = all)" },
        { "a.toml --limit 2147483648",
          "--limit 2147483648: must be an integer of at least 0 (0 = all)" },
        { "a.toml --limit 99999999999999999999",
          "--limit 99999999999999999999: must be an integer of at least 0 (0 = all)" },
        { "a.toml --seeds 1,1",
          "--seeds 1,1: must be 1 to 64 different integers from 0 to 2^53, separated by commas" },
        { "a.toml --seeds 1,",
          "--seeds 1,: must be 1 to 64 different integers from 0 to 2^53, separated by commas" },
        { "a.toml --seeds -3",
          "--seeds -3: must be 1 to 64 different integers from 0 to 2^53, separated by commas" },
        { "a.toml --seeds=",
          "--seeds : must be 1 to 64 different integers from 0 to 2^53, separated by commas" },
        { "a.toml --time-limit 0", "--time-limit 0: must be a number of seconds above 0" },
        { "a.toml --time-limit 1h", "--time-limit 1h: must be a number of seconds above 0" },
        { "a.toml --time-limit nan", "--time-limit nan: must be a number of seconds above 0" },
        { "a.toml --time-limit 1e999", "--time-limit 1e999: must be a number of seconds above 0" },
        { "a.toml --backend gpu", "--backend gpu: must be one of auto, cuda, cpu" },
        { "a.toml --engine-fd x", "--engine-fd x: must be an open file" },
        { "a.toml -q -v", "--quiet and --verbose exclude each other" },
        { "a.toml --resume --force", "--resume and --force exclude each other" },
        { "a.toml --resume -o r-%n.h5", "--resume needs the name of a file, not -o r-%n.h5" },
        { "a.toml --report r.h5", "--report r.h5 takes no sweep file, but a.toml is given" },
        { "--report r.h5 --resume",
          "--report goes with --recommend, -q and -v only, not with --resume" },
        { "--report r.h5 --limit 3",
          "--report goes with --recommend, -q and -v only, not with --limit" },
        { "a.toml --shard 0/2",
          "--shard 0/2: must be I/N, the I-th of N parts, I from 1 to N, N at most 100000" },
        { "a.toml --shard 3/2",
          "--shard 3/2: must be I/N, the I-th of N parts, I from 1 to N, N at most 100000" },
        { "a.toml --shard 3",
          "--shard 3: must be I/N, the I-th of N parts, I from 1 to N, N at most 100000" },
        { "a.toml --shard 1/2x",
          "--shard 1/2x: must be I/N, the I-th of N parts, I from 1 to N, N at most 100000" },
        { "--merge a b", "--merge a needs two or more results files to join" },
        { "--merge a b c --resume",
          "--merge goes with --force, -q and -v only, not with --resume" },
        { "--recommend x", "--recommend goes with --report FILE" },
        { "--export csv", "--export csv needs one results file, 0 are given" },
        { "--export csv f g", "--export csv needs one results file, 2 are given" },
        { "--export xls f", "--export xls: must be one of csv, lm-eval" },
        { "--score-coqa p.json", "--score-coqa p.json needs one data file, 0 are given" },
        { "--score-coqa p.json d.json --limit 3",
          "--score-coqa goes with -q and -v only, not with --limit" },
        { "--export csv f --limit 3", "--export goes with -q and -v only, not with --limit" },
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct cli c;
        struct err e = ERR_INIT;

        CHECK(parse(cases[i].line, &c, &e) < 0, "'%s' is refused", cases[i].line);
        CHECK(e.code == ERR_USAGE && !strcmp(e.text, cases[i].message),
              "'%s' says\n  %s\nnot\n  %s", cases[i].line, cases[i].message, e.text);
    }
}

static void the_most_seeds_are_64(void **state)
{
    (void)state;
    struct bytes line = BYTES_INIT;
    struct cli c;
    struct err e = ERR_INIT;

    bytes_text(&line, "s.toml --seeds 0");
    for (int i = 1; i < 64; i++)
        bytes_printf(&line, ",%d", i);
    CHECK_OK(parse(line.data, &c, &e), e);
    CHECK(c.overrides.n_seeds == 64 && c.overrides.seeds[63] == 63, "64 are read");
    cli_release(&c);
    bytes_text(&line, ",64");
    CHECK(parse(line.data, &c, &e) < 0, "65 are refused");
    bytes_release(&line);
}

static void help_shows_what_is_there_and_nothing_else(void **state)
{
    (void)state;
    static const char *const shown[] = { "-o, --output FILE",
                                         "--resume",
                                         "--force",
                                         "--dry-run",
                                         "--experiment NAME",
                                         "--limit N",
                                         "--seeds 0,1",
                                         "--backend auto|cuda|cpu",
                                         "--set KEY=VALUE",
                                         "--fail-fast",
                                         "--time-limit",
                                         "--shard I/N",
                                         "--share-gpu",
                                         "--no-isolate",
                                         "--report FILE",
                                         "--recommend EXPR",
                                         "--merge OUT",
                                         "--export csv|lm-eval",
                                         "--score-coqa PREDICTIONS.json",
                                         "--tokenize FILE",
                                         "-q, --quiet",
                                         "-v, --verbose",
                                         "--help",
                                         "--version",
                                         "--list-experiments" };
    static const char *const hidden[] = { "engine", "gptq", "awq" };
    char *help = cli_help();
    const char *at = help;

    for (size_t i = 0; i < sizeof shown / sizeof *shown; i++) {
        at = strstr(at, shown[i]);
        CHECK(at, "%s stands in --help, in the order of the contract", shown[i]);
    }
    for (size_t i = 0; i < sizeof hidden / sizeof *hidden; i++)
        CHECK(!strstr(help, hidden[i]), "%s does not", hidden[i]);
    for (const char *line = help; *line; line += strcspn(line, "\n") + 1)
        CHECK(strcspn(line, "\n") <= 90, "no line is wider than 90: %.90s", line);
    free(help);
}

static void make_file(const char *path)
{
    FILE *f = fopen(path, "w");

    CHECK(f && fclose(f) == 0, "%s can be made", path);
}

static void results_are_never_overwritten_silently(void **state)
{
    (void)state;
    struct cli c;
    struct err e = ERR_INIT;
    char *path, want[200];
    char *here = file_absolute(".");

    CHECK_OK(parse("s.toml -o r.h5", &c, &e), e);
    CHECK_OK(cli_output(&c, &path, &e), e);
    snprintf(want, sizeof want, "%s/r.h5", here);
    CHECK(!strcmp(path, want) && !file_exists(path), "a new name is free, and not made: %s", path);
    free(path);
    make_file("r.h5");
    CHECK(cli_output(&c, &path, &e) < 0 && e.code == ERR_USAGE, "a file that exists is refused");
    CHECK(!strcmp(e.text, "r.h5 exists: --resume continues it, --force starts it afresh, -o names "
                          "another file (-o results-%n.h5 takes the next free number)"),
          "with the ways out: %s", e.text);
    c.force = true;
    CHECK_OK(cli_output(&c, &path, &e), e);
    free(path);
    c.force = false;
    c.resume = true;
    CHECK_OK(cli_output(&c, &path, &e), e);
    free(path);
    cli_release(&c);
    unlink("r.h5");

    CHECK_OK(parse("s.toml -o r.h5", &c, &e), e);
    make_file("r.h5.journal");
    CHECK(cli_output(&c, &path, &e) < 0, "a journal alone counts as well");
    unlink("r.h5.journal");
    cli_release(&c);

    CHECK_OK(parse("s.toml -o r-%n.h5", &c, &e), e);
    make_file("r-1.h5");
    make_file("r-2.h5.journal");
    CHECK_OK(cli_output(&c, &path, &e), e);
    snprintf(want, sizeof want, "%s/r-3.h5", here);
    CHECK(!strcmp(path, want), "%%n is the next free number: %s", path);
    free(path);
    unlink("r-1.h5");
    unlink("r-2.h5.journal");
    cli_release(&c);

    CHECK_OK(parse("s.toml -o nowhere/r.h5", &c, &e), e);
    CHECK(cli_output(&c, &path, &e) < 0 &&
              !strcmp(e.text, "-o nowhere/r.h5: there is no folder nowhere"),
          "no folder is made: %s", e.text);
    cli_release(&c);
    CHECK_OK(parse("s.toml -o .", &c, &e), e);
    CHECK(cli_output(&c, &path, &e) < 0 && !strcmp(e.text, "-o .: is a folder"), "%s", e.text);
    cli_release(&c);
    CHECK_OK(parse("s.toml -o /proc/r.h5", &c, &e), e);
    CHECK(cli_output(&c, &path, &e) < 0 &&
              !strncmp(e.text, "-o /proc/r.h5: no file can be made in /proc: ", 45),
          "a place where nothing can be written is refused: %s", e.text);
    cli_release(&c);
    free(here);
}

static void version_names_what_it_was_built_from(void **state)
{
    (void)state;
    struct cli_library libraries[] = { { "HDF5", "1.2.3" }, { "CUDA", NULL } };
    char *text = cli_version_text(libraries, 2);
    struct bytes first = BYTES_INIT;

    bytes_printf(&first, "llq_sweep %s (commit %s)\n", llq_version(), llq_commit());
    CHECK(!strncmp(text, first.data, first.n), "version and commit come first: %s", text);
    CHECK(strstr(text, "\ncompiler ") && strstr(text, llq_compiler()), "then the compiler");
    CHECK(strstr(text, "\nHDF5           1.2.3\n") && !strstr(text, "CUDA"),
          "then the libraries that are there");
    bytes_release(&first);
    free(text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_option_is_read),
        cmocka_unit_test(every_mistake_has_its_line),
        cmocka_unit_test(the_most_seeds_are_64),
        cmocka_unit_test(help_shows_what_is_there_and_nothing_else),
        cmocka_unit_test(results_are_never_overwritten_silently),
        cmocka_unit_test(version_names_what_it_was_built_from),
    };

    return cmocka_run_group_tests(tests, sweep_folder_open, sweep_folder_close);
}
