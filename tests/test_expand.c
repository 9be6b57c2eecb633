/* test_expand.c - grids: names, removed cells, twins, the baseline, which jobs there are. */
#include "sweep_help.h"

#include "model/config.h"
#include "sweep/method.h"
#include "sweep/nearest.h"

#define RTN "[[experiment]]\nname = 'r'\nmethod = 'rtn'\n"

/* The experiments' names, separated by blanks. */
static char *names_of(const struct sweep *s)
{
    struct bytes names = BYTES_INIT;

    bytes_text(&names, "");
    for (int i = 0; i < s->n_experiments; i++)
        bytes_printf(&names, "%s%s", i ? " " : "", s->experiments[i].name);
    return names.data;
}

static void expect_names(const char *text, const struct sweep_overrides *o, const char *want)
{
    struct sweep s;
    struct err e = ERR_INIT;

    CHECK_OK(expand_of(text, o, &s, &e), e);
    char *names = names_of(&s);
    CHECK(!strcmp(names, want), "the names are\n  %s\nnot\n  %s", want, names);
    free(names);
    sweep_release(&s);
}

static void names_follow_the_rules(void **state)
{
    (void)state;
    static const struct {
        const char *block, *names;
    } cases[] = {
        { RTN, "r" },
        { RTN "bits = [3]\ngroup_size = 32\n", "r" },
        { RTN "bits = [3, 4]\n", "r_3bit r_4bit" },
        { RTN "group_size = [32, -1]\n", "r_g32 r_grow" },
        { RTN "compute_dtype = ['fp16', 'bf16']\ndouble_quant = [true, false]\nbits = 3\n",
          "r_dq_fp16 r_dq_bf16 r_nodq_fp16 r_nodq_bf16" },
        { RTN "compute_dtype = ['fp16', 'bf16']\ngroup_size = [32, 128]\nbits = [3, 4]\n",
          "r_3bit_g32_fp16 r_3bit_g32_bf16 r_3bit_g128_fp16 r_3bit_g128_bf16 r_4bit_g32_fp16 "
          "r_4bit_g32_bf16 r_4bit_g128_fp16 r_4bit_g128_bf16" },
        { RTN "sym = [true, false]\ngrid = ['gptq', 'awq']\n",
          "r_grid-gptq_sym-true r_grid-gptq_sym-false r_grid-awq_sym-true r_grid-awq_sym-false" },
        { RTN "skip_modules = [['lm_head'], ['lm_head', 'down_proj']]\n",
          "r_skip_modules-lm_head r_skip_modules-lm_head.down_proj" },
        { RTN "skip_modules = ['lm_head', 'down_proj']\n", "r" },
        { "[[experiment]]\nname = 'b'\nmethod = 'bnb_4bit'\nquant_type = ['nf4', 'fp4']\n",
          "b_nf4 b_fp4" },
        { "[[experiment]]\nname = 'b'\nmethod = 'bnb_8bit'\noutlier_threshold = [0, 6.5, 1000]\n",
          "b_outlier_threshold-0 b_outlier_threshold-6.5 b_outlier_threshold-1000" },
        { "[[experiment]]\nname = 'm'\nmethod = ['bnb_8bit', 'rtn']\n",
          "m_method-bnb_8bit m_method-rtn" },
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bytes text = BYTES_INIT;
        bytes_printf(&text, SWEEP MODEL "%s", cases[i].block);
        expect_names(text.data, NULL, cases[i].names);
        bytes_release(&text);
    }
}

static void a_name_may_have_64_characters(void **state)
{
    (void)state;
    char text[400], want[400];
    const char *stem = "a23456789_b23456789_c23456789_d23456789_e23456789_f2345678"; /* 58 */

    snprintf(text, sizeof text,
             SWEEP MODEL "[[experiment]]\nname = '%s9'\nmethod = 'rtn'\nbits = [3, 4]\n", stem);
    snprintf(want, sizeof want, "%s9_3bit %s9_4bit", stem, stem);
    CHECK(strlen(want) == 2 * 64 + 1, "the longest names have 64 characters");
    expect_names(text, NULL, want);
    snprintf(text, sizeof text,
             SWEEP MODEL "[[experiment]]\nname = '%s9x'\nmethod = 'rtn'\nbits = [3, 4]\n", stem);
    snprintf(want, sizeof want,
             "t.toml:5: experiment.name: the cell %s9x_3bit gets a name of more than 64 "
             "characters",
             stem);
    expect_refusal(text, NULL, want);
}

static void settings_are_resolved(void **state)
{
    (void)state;
    struct sweep s;
    struct err e = ERR_INIT;

    CHECK_OK(expand_of(SWEEP MODEL "[[experiment]]\nname = 'n'\nmethod = 'none'\n"
                                   "compute_dtype = 'fp32'\n"
                                   "[[experiment]]\nname = 'i'\nmethod = 'bnb_8bit'\n"
                                   "[[experiment]]\nname = 'f'\nmethod = 'bnb_4bit'\n" RTN,
                       NULL, &s, &e),
             e);
    CHECK(s.n_experiments == 4, "four experiments");
    const struct experiment *x = s.experiments;
    CHECK(x[0].bits == 32 && x[0].group_size == 0 && !*x[0].quant_type && x[0].n_skip == 0,
          "none with fp32 has 32 bits, no groups and nothing to skip");
    CHECK(x[1].bits == 8 && x[1].outlier_threshold == 6.0 && x[1].n_skip == 1, "bnb_8bit");
    CHECK(x[2].bits == 4 && x[2].group_size == 64 && !strcmp(x[2].quant_type, "nf4") &&
              x[2].double_quant && !strcmp(x[2].compute_dtype, "fp16"),
          "bnb_4bit: nf4, blocks of 64, double quantization");
    CHECK(x[3].bits == 4 && x[3].group_size == 128 && !strcmp(x[3].quant_type, "int") &&
              !x[3].double_quant && x[3].sym && !strcmp(x[3].grid, "absmax") &&
              !strcmp(x[3].scale_dtype, "fp32") && !strcmp(x[3].skip[0], "lm_head"),
          "rtn: 4 bits in groups of 128, symmetric, absmax, fp32 scales, head left alone");
    CHECK(x[3].line == 15, "an experiment knows its line");
    sweep_release(&s);
}

static void impossible_values_of_a_list_remove_cells(void **state)
{
    (void)state;
    struct sweep s;
    struct err e = ERR_INIT;

    CHECK_OK(expand_of(SWEEP MODEL BASE "[[experiment]]\nname = 'b'\nmethod = 'bnb_4bit'\n"
                                        "group_size = [48, 64, 100]\n",
                       NULL, &s, &e),
             e);
    char *names = names_of(&s);
    CHECK(!strcmp(names, "base b_g64"), "one of three is left: %s", names);
    CHECK(!strcmp(s.removed_cells,
                  "b_g48 (bnb_4bit allows 32, 64, 128, 256, 512, 1024, 2048, 4096), "
                  "b_g100 (bnb_4bit allows 32, 64, 128, 256, 512, 1024, 2048, 4096)"),
          "the others are listed: %s", s.removed_cells);
    free(names);
    sweep_release(&s);

    CHECK_OK(expand_of(SWEEP MODEL "[[experiment]]\nname = 'm'\nmethod = ['none', 'rtn']\n"
                                   "group_size = 32\n",
                       NULL, &s, &e),
             e);
    CHECK(s.n_experiments == 1 && !strcmp(s.experiments[0].name, "m_method-rtn"),
          "a key that one of two methods has not removes that one");
    sweep_release(&s);

    CHECK_OK(expand_of(SWEEP MODEL "[[experiment]]\nname = 'm'\nmethod = 'none'\n"
                                   "bits = [16, 32]\ncompute_dtype = ['fp16', 'fp32']\n",
                       NULL, &s, &e),
             e);
    names = names_of(&s);
    CHECK(!strcmp(names, "m_16bit_fp16 m_32bit_fp32"), "bits that disagree do not exist: %s",
          names);
    free(names);
    sweep_release(&s);

    expect_refusal(SWEEP MODEL "[[experiment]]\nname = 'm'\nmethod = 'bnb_8bit'\n"
                               "bits = [3, 4]\n",
                   NULL,
                   "t.toml: experiment: no cell can run: m_3bit (bnb_8bit allows 8), m_4bit "
                   "(bnb_8bit allows 8)");
}

static void many_removed_cells_are_counted(void **state)
{
    (void)state;
    struct sweep s;
    struct err e = ERR_INIT;

    CHECK_OK(expand_of(SWEEP MODEL RTN "group_size = [32]\nbits = [4, 9, 10, 11, 12, 13, 14, 15, "
                                       "16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29]\n",
                       NULL, &s, &e),
             e);
    CHECK(s.n_experiments == 1, "one cell is left");
    CHECK(strstr(s.removed_cells, "r_28bit (") && !strstr(s.removed_cells, "r_29bit") &&
              strstr(s.removed_cells, ", and 1 more"),
          "20 are named and one counted: %s", s.removed_cells);
    sweep_release(&s);
}

/* A model of widths that 48 does not divide and that wants no asymmetric gptq grid. */
static int pretend_check(const struct experiment *x, void *context, struct err *e)
{
    ++*(int *)context;
    if (x->group_size > 0 && 256 % x->group_size != 0)
        return err_set(e, ERR_USAGE, "%lld does not divide 256", (long long)x->group_size);
    if (!strcmp(x->grid, "gptq") && !x->sym)
        return err_set(e, ERR_USAGE, "no such grid");
    return 0;
}

static int checked(const char *text, struct sweep *s, struct err *e)
{
    int n_calls = 0;

    if (sweep_of(text, NULL, s, e) < 0)
        return -1;
    int rc = sweep_expand(s, NULL, pretend_check, &n_calls, e);
    CHECK(n_calls > 0, "the model is asked");
    if (rc < 0)
        sweep_release(s);
    return rc;
}

static void the_model_has_its_say(void **state)
{
    (void)state;
    struct sweep s;
    struct err e = ERR_INIT;

    CHECK(checked(SWEEP MODEL RTN "bits = [3, 4]\ngroup_size = 48\n", &s, &e) < 0 &&
              !strcmp(e.text, "t.toml:9: experiment.r.group_size = 48: 48 does not divide 256"),
          "an impossible group size alone on its axis is an error: %s", e.text);
    CHECK_OK(checked(SWEEP MODEL RTN "group_size = [48, 64]\n", &s, &e), e);
    CHECK(s.n_experiments == 1 && !strcmp(s.removed_cells, "r_g48 (48 does not divide 256)"),
          "in a list it removes the cell: %s", s.removed_cells);
    sweep_release(&s);
    CHECK(checked(SWEEP MODEL RTN "grid = 'gptq'\nsym = false\n", &s, &e) < 0 &&
              !strcmp(e.text, "t.toml:5: experiment.r: no such grid"),
          "what else it refuses is an error where nothing varies: %s", e.text);
    CHECK_OK(checked(SWEEP MODEL RTN "grid = ['gptq', 'awq']\nsym = false\n", &s, &e), e);
    CHECK(s.n_experiments == 1 && !strcmp(s.removed_cells, "r_grid-gptq (no such grid)"),
          "and removes the cell of a grid: %s", s.removed_cells);
    sweep_release(&s);
}

static void twins_are_errors(void **state)
{
    (void)state;
    expect_refusal(SWEEP MODEL BASE "[[experiment]]\nname = 'base'\nmethod = 'rtn'\n", NULL,
                   "t.toml:8: experiment.base: the experiment of line 5 has the same name");
    expect_refusal(SWEEP MODEL BASE RTN "bits = [3, 4]\n[[experiment]]\nname = 'r_3bit'\n"
                                        "method = 'bnb_8bit'\n",
                   NULL,
                   "t.toml:12: experiment.r_3bit: the experiment of line 8 has the same "
                   "name");
    expect_refusal(SWEEP MODEL BASE RTN "[[experiment]]\nname = 'same'\nmethod = 'rtn'\n"
                                        "bits = 4\ngrid = 'absmax'\n",
                   NULL, "t.toml:11: experiment.same: has the same settings as r of line 8");
    expect_refusal(SWEEP MODEL BASE RTN "outlier_threshold = 6\n", NULL,
                   "t.toml:11: experiment.r.outlier_threshold = 6: method rtn has no "
                   "outlier_threshold");
    expect_refusal(SWEEP MODEL "[[experiment]]\nname = 'b'\nmethod = 'bnb_8bit'\n"
                               "outlier_threshold = [6, 6.0]\n",
                   NULL,
                   "t.toml:8: experiment.b.outlier_threshold = [6, 6.0]: holds the same value "
                   "twice");
}

static void a_baseline_must_exist(void **state)
{
    (void)state;
    struct sweep s;
    struct err e = ERR_INIT;

    expect_refusal(SWEEP "baseline = 'bas'\n" MODEL BASE RTN, NULL,
                   "t.toml:3: sweep.baseline = \"bas\": no experiment has this name; the nearest "
                   "is base");
    CHECK_OK(expand_of(SWEEP MODEL RTN BASE, NULL, &s, &e), e);
    CHECK(!strcmp(s.baseline, "base"), "the first `none`, wherever it stands");
    sweep_release(&s);
    CHECK_OK(expand_of(SWEEP MODEL RTN, NULL, &s, &e), e);
    CHECK(!*s.baseline, "a sweep without `none` has none");
    sweep_release(&s);
    CHECK_OK(
        expand_of(SWEEP "baseline = 'r_3bit'\n" MODEL BASE RTN "bits = [3, 4]\n", NULL, &s, &e), e);
    CHECK(!strcmp(s.baseline, "r_3bit"), "any cell can be the baseline");
    sweep_release(&s);
}

#define PAIR(a, b) "[[comparison]]\na = '" a "'\nb = '" b "'\n"

static void pairs_must_exist(void **state)
{
    (void)state;
    struct sweep s;
    struct err e = ERR_INIT;
    const char *only[] = { "base" };
    struct sweep_overrides o = { .limit = -1, .n_only = 1, .only = only };

    CHECK_OK(expand_of(SWEEP MODEL BASE RTN "bits = [3, 4]\n" PAIR("r_4bit", "r_3bit")
                           PAIR("base", "r_3bit"),
                       &o, &s, &e),
             e);
    CHECK(s.n_comparisons == 2 && !strcmp(s.comparisons[0].a, "r_4bit") &&
              !strcmp(s.comparisons[1].b, "r_3bit"),
          "pairs of cells, also of those that --experiment leaves out");
    char *text = sweep_resolved_text(&s);
    CHECK(strstr(text, "[comparison.1]\na = \"r_4bit\"\nb = \"r_3bit\"\n"), "-v shows them: %s",
          text);
    free(text);
    sweep_release(&s);
    expect_refusal(SWEEP MODEL BASE RTN "bits = [3, 4]\n" PAIR("r", "base"), NULL,
                   "t.toml:12: comparison.a: no experiment is called r; the nearest is base");
    expect_refusal(SWEEP MODEL BASE RTN PAIR("r", "bose"), NULL,
                   "t.toml:11: comparison.b: no experiment is called bose; the nearest is base");
    expect_refusal(SWEEP MODEL BASE RTN PAIR("r", "r"), NULL,
                   "t.toml:11: comparison: r would be compared with itself");
    expect_refusal(SWEEP MODEL BASE RTN PAIR("r", "base") PAIR("base", "r"), NULL,
                   "t.toml:14: comparison: base and r are compared in line 11 already");
}

static void patterns_select(void **state)
{
    (void)state;
    const char *only[] = { "r_*", "other" };
    struct sweep_overrides o = { .limit = -1, .n_only = 1, .only = only };
    const char *text = SWEEP MODEL BASE RTN "bits = [3, 4]\n[[experiment]]\nname = 'other'\n"
                                            "method = 'bnb_8bit'\n";
    struct sweep s;
    struct err e = ERR_INIT;

    expect_names(text, &o, "r_3bit r_4bit");
    o.n_only = 2;
    expect_names(text, &o, "r_3bit r_4bit other");
    CHECK_OK(expand_of(text, &o, &s, &e), e);
    CHECK(!strcmp(s.baseline, "base"), "a baseline that is filtered out keeps its name");
    CHECK(s.n_known == 4 && !strcmp(s.experiments[3].name, "base"),
          "and stands behind those that are run");
    CHECK(s.n_jobs == 3 && s.jobs[2].experiment == &s.experiments[2], "it has no job");
    sweep_release(&s);
    only[1] = "r[";
    expect_refusal(text, &o,
                   "--experiment r[: no experiment of t.toml has this name; known: base r_3bit "
                   "r_4bit other");
}

static void shards_are_parts_of_the_whole(void **state)
{
    (void)state;
    const char *text = SWEEP MODEL BASE RTN "bits = [2, 3, 4, 5, 6]\n";
    struct sweep whole, part;
    struct err e = ERR_INIT;

    CHECK_OK(expand_of(text, NULL, &whole, &e), e);
    for (int n = 1; n <= whole.n_jobs + 2; n++) {
        int seen = 0;
        for (int shard = 1; shard <= n; shard++) {
            struct sweep_overrides o = { .limit = -1, .shard = shard, .n_shards = n };
            CHECK_OK(expand_of(text, &o, &part, &e), e);
            CHECK(part.n_experiments == whole.n_experiments, "every part knows all experiments");
            for (int i = 0; i < part.n_jobs; i++) {
                const struct job *j = &whole.jobs[i * n + shard - 1];
                CHECK(part.jobs[i].id == i && part.jobs[i].seed == j->seed &&
                          !strcmp(part.jobs[i].experiment->name, j->experiment->name),
                      "job %d of part %d of %d is job %d", i, shard, n, i * n + shard - 1);
            }
            seen += part.n_jobs;
            sweep_release(&part);
        }
        CHECK(seen == whole.n_jobs, "%d parts hold every job once", n);
    }
    sweep_release(&whole);
}

/* "name/seed/qb", separated by blanks. */
static void expect_jobs(const char *text, const char *want)
{
    struct sweep s;
    struct err e = ERR_INIT;
    struct bytes got = BYTES_INIT;

    CHECK_OK(expand_of(text, NULL, &s, &e), e);
    for (int i = 0; i < s.n_jobs; i++) {
        CHECK(s.jobs[i].id == i, "ids count the list");
        bytes_printf(&got, "%s%s/%lld/%s%s", i ? " " : "", s.jobs[i].experiment->name,
                     (long long)s.jobs[i].seed, s.jobs[i].quality ? "q" : "",
                     s.jobs[i].benchmark ? "b" : "");
    }
    CHECK(!strcmp(got.data, want), "the jobs are\n  %s\nnot\n  %s", want, got.data);
    bytes_release(&got);
    sweep_release(&s);
}

#define SEEDS        "[sweep]\nseeds = [7, 3, 5]\n"
#define COQA(subset) "[tasks.coqa]\npath = 'c'\nsubset = '" subset "'\n"

static void jobs_are_those_that_can_matter(void **state)
{
    (void)state;
    expect_jobs(SEEDS MODEL BASE RTN, "base/7/q r/7/q");
    expect_jobs(SEEDS MODEL COQA("first") BASE RTN, "base/7/q r/7/q");
    expect_jobs(SEEDS MODEL COQA("random") BASE RTN,
                "base/7/q base/3/q base/5/q r/7/q r/3/q r/5/q");
    expect_jobs(SEEDS MODEL COQA("first") "[benchmark]\n" BASE, "base/7/qb");
    expect_jobs(SEEDS MODEL COQA("random") "[benchmark]\n" BASE, "base/7/qb base/3/q base/5/q");
    expect_jobs(SEEDS MODEL COQA("first") "[benchmark]\nper_seed = true\n" BASE,
                "base/7/qb base/3/b base/5/b");
    expect_jobs(SEEDS MODEL COQA("random") "[benchmark]\nper_seed = true\n" BASE,
                "base/7/qb base/3/qb base/5/qb");
}

static void the_number_of_cells_and_jobs_is_capped(void **state)
{
    (void)state;
    struct bytes text = BYTES_INIT;
    struct sweep s;
    struct err e = ERR_INIT;

    /* 64 seeds x 7 bits x 56 group sizes x 2 x 2 = 100,352 jobs; with 55 98,560. */
    for (int n_groups = 56; n_groups >= 55; n_groups--) {
        bytes_release(&text);
        bytes_text(&text, "[sweep]\nseeds = [0");
        for (int i = 1; i < 64; i++)
            bytes_printf(&text, ", %d", i);
        bytes_text(&text, "]\n" MODEL COQA("random") RTN
                   "bits = [2, 3, 4, 5, 6, 7, 8]\nsym = [true, false]\n"
                   "double_quant = [true, false]\ngroup_size = [1");
        for (int i = 2; i <= n_groups; i++)
            bytes_printf(&text, ", %d", i);
        bytes_text(&text, "]\n");
        if (n_groups == 56) {
            expect_refusal(text.data, NULL,
                           "t.toml: the sweep has 100352 jobs, at most 100000 are allowed");
        } else {
            CHECK_OK(expand_of(text.data, NULL, &s, &e), e);
            CHECK(s.n_jobs == 98560, "98,560 jobs are allowed, there are %d", s.n_jobs);
            sweep_release(&s);
        }
    }
    bytes_text(&text, "grid = ['absmax', 'gptq', 'awq']\noutlier_threshold = [0");
    for (int i = 1; i < 64; i++)
        bytes_printf(&text, ", %d", i);
    bytes_text(&text, "]\n");
    CHECK(expand_of(text.data, NULL, &s, &e) < 0 &&
              strstr(e.text, ": the sweep has more than 100000 cells"),
          "295,680 cells are refused before they are made: %s", e.text);
    bytes_release(&text);
}

static void expanding_again_starts_afresh(void **state)
{
    (void)state;
    struct sweep s;
    struct err e = ERR_INIT;
    const char *only[] = { "r" };
    struct sweep_overrides o = { .limit = -1, .n_only = 1, .only = only };

    CHECK_OK(expand_of(SWEEP MODEL BASE RTN, &o, &s, &e), e);
    CHECK(s.n_experiments == 1 && s.n_jobs == 1, "one of two");
    CHECK_OK(sweep_expand(&s, NULL, NULL, NULL, &e), e);
    CHECK(s.n_experiments == 2 && s.n_known == 2 && s.n_jobs == 2, "and then both");
    sweep_release(&s);
}

static void every_method_is_listed_with_its_defaults(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "none\n  bits               16, 32 (default 16)\n\nbnb_8bit\n",
        "  outlier_threshold  0...1000 (default 6.0)\n",
        "bnb_4bit\n  bits               4 (default 4)\n"
        "  group_size         32, 64, 128, 256, 512, 1024, 2048, 4096 (default 64)\n"
        "  quant_type         nf4, fp4 (default nf4)\n"
        "  double_quant       true, false (default true)\n",
        "  group_size         any divisor, -1 = one a row (default 128)\n"
        "  quant_type         int, nf2, nf3, nf4, fp4, mxfp4, nvfp4, fp8_e4m3 (default int)\n"
        "  double_quant       true, false (default false)\n"
        "  sym                true, false (default true)\n"
        "  grid               absmax, gptq, awq (default absmax)\n"
        "  scale_dtype        fp32, fp16 (default fp32)\n",
        "hqq\n  bits               2, 3, 4, 5, 6, 7, 8 (default 4)\n"
        "  group_size         any divisor, -1 = one a row (default 64)\n",
        "  scale_dtype        fp32, fp16 (default fp16)\n",
    };
    char *text = method_list_text();
    const char *at = text;

    for (size_t i = 0; i < sizeof lines / sizeof *lines; i++) {
        at = strstr(at, lines[i]);
        CHECK(at, "the list has\n%sin\n%s", lines[i], text);
    }
    free(text);
}

static char root[1024]; /* where the test was started */

/* The files that come with the program, and how many experiments each makes. */
static void files_that_come_with_it(void **state)
{
    static const struct {
        const char *path;
        int n_experiments;
    } files[] = {
        { "sweeps/comparison.toml", 5 },   { "sweeps/extended.toml", 10 },
        { "sweeps/gptq.toml", 7 },         { "sweeps/awq.toml", 9 },
        { "sweeps/hyperparam.toml", 130 }, { "sweeps/bits.toml", 31 },
        { "sweeps/choices.toml", 5 },      { "sweeps/quality.toml", 21 },
    };
    static const char *const of_the_study[] = {
        "fp16_baseline",          "bnb_8bit",          "bnb_4bit_nf4",   "bnb_4bit_fp4",
        "bnb_4bit_nf4_no_double", "bnb_4bit_nf4_bf16", "gptq_4bit_g128", "gptq_4bit_g32",
        "gptq_3bit_g128",         "awq_4bit_g128",
    };

    (void)state;
    for (size_t i = 0; i < sizeof files / sizeof *files; i++) {
        struct sweep s;
        struct err e = ERR_INIT;
        char path[8192];

        snprintf(path, sizeof path, "%s/%s", root, files[i].path);
        CHECK_OK(sweep_read(path, NULL, &s, &e), e);
        CHECK_OK(sweep_expand(&s, NULL, NULL, NULL, &e), e);
        CHECK(s.n_experiments == files[i].n_experiments, "%s makes %d experiments", files[i].path,
              s.n_experiments);
        CHECK(!s.removed_cells, "%s: no cell is impossible: %s", files[i].path, s.removed_cells);
        for (int k = 0; i == 1 && k < 10; k++)
            CHECK(!strcmp(s.experiments[k].name, of_the_study[k]), "%s is there", of_the_study[k]);
        sweep_release(&s);
    }
}

static void presets_of_gptq(void **state)
{
    static const struct {
        const char *keys;
        bool desc_act, sym, static_groups, gar, true_sequential;
        double damp;
        int64_t group_size;
    } cases[] = {
        { "", true, true, false, false, true, 0.1, 128 },
        { "preset = 'ist'\n", false, false, false, false, false, 0.01, -1 },
        { "preset = 'autogptq'\n", true, true, false, false, true, 0.01, -1 },
        { "preset = 'transformers'\n", false, true, false, true, true, 0.1, 128 },
        { "preset = 'gptqmodel'\n", false, true, false, true, true, 0.05, 128 },
        { "preset = 'llm-compressor'\n", true, true, true, false, false, 0.01, 128 },
        { "damp_percent = 0.02\nsym = false\ngroup_size = 64\n", true, false, false, false, true,
          0.02, 64 },
        { "preset = 'transformers'\ndesc_act = true\n", true, true, false, false, true, 0.1, 128 },
        { "gar = true\n", false, true, false, true, true, 0.1, 128 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct bytes text = BYTES_INIT;
        struct sweep s;
        struct err e = ERR_INIT;

        bytes_printf(&text, "%s", SWEEP MODEL "[[experiment]]\nname = 'g'\nmethod = 'gptq'\n");
        bytes_text(&text, cases[i].keys);
        CHECK_OK(expand_of(text.data, NULL, &s, &e), e);
        const struct experiment *x = &s.experiments[0];
        CHECK(x->desc_act == cases[i].desc_act && x->sym == cases[i].sym &&
                  x->static_groups == cases[i].static_groups && x->gar == cases[i].gar &&
                  x->true_sequential == cases[i].true_sequential &&
                  x->damp_percent == cases[i].damp && x->group_size == cases[i].group_size &&
                  x->bits == 4 && !strcmp(x->scale_dtype, "fp16"),
              "case %zu: %s", i, cases[i].keys);
        CHECK(sweep_seed_matters(&s, x), "a seed draws its text");
        sweep_release(&s);
        bytes_release(&text);
    }
}

static void distances_are_edits(void **state)
{
    (void)state;
    CHECK(edit_distance("", "") == 0 && edit_distance("abc", "abc") == 0, "equal texts: 0");
    CHECK(edit_distance("", "abc") == 3 && edit_distance("abc", "") == 3, "all put in or left out");
    CHECK(edit_distance("seeds", "sedes") == 1, "a swap is one edit");
    CHECK(edit_distance("kitten", "sitting") == 3, "the textbook's example");
    CHECK(edit_distance("ab", "xyab") == 2 && edit_distance("limit", "limits") == 1, "insertions");
    char long_a[400], long_b[400];
    memset(long_a, 'a', sizeof long_a);
    memset(long_b, 'b', sizeof long_b);
    long_a[399] = long_b[399] = 0;
    CHECK(edit_distance(long_a, long_b) == 128, "long names are compared by their start");
}

/* The files that come with the program, and the names of the reference study. */

static void our_sweeps_are_what_they_should_be(void **state)
{
    (void)state;
    struct sweep s;
    struct err e = ERR_INIT;
    char path[1100];

    snprintf(path, sizeof path, "%s/sweeps/demo.toml", root);
    CHECK_OK(sweep_read(path, NULL, &s, &e), e);
    CHECK_OK(sweep_expand(&s, NULL, NULL, NULL, &e), e);
    char *names = names_of(&s);
    CHECK(!strcmp(names, "fp16_baseline bnb_8bit bnb_4bit_nf4 bnb_4bit_fp4 bnb_4bit_nf4_no_double "
                         "rtn_8bit rtn_4bit rtn_3bit rtn_2bit rtn_3bit_g32"),
          "demo.toml has ten experiments: %s", names);
    CHECK(s.n_seeds == 3 && s.n_jobs == 30, "and 30 jobs");
    CHECK(!strcmp(js_text(js_get(js_get(s.tasks, "coqa"), "subset")), "random") &&
              js_int(js_get(js_get(s.tasks, "coqa"), "limit")) == 80,
          "80 stories drawn by the seed");
    free(names);
    sweep_release(&s);

    snprintf(path, sizeof path, "%s/sweeps/quick.toml", root);
    CHECK_OK(sweep_read(path, NULL, &s, &e), e);
    CHECK_OK(sweep_expand(&s, NULL, NULL, NULL, &e), e);
    names = names_of(&s);
    CHECK(!strcmp(names, "fp16_baseline bnb_4bit_nf4 bnb_4bit_fp4"), "quick.toml: %s", names);
    CHECK(!strcmp(s.model_path, "meta-llama/Llama-3.2-1B") && file_exists(s.model_config) &&
              !strcmp(s.source_dtype, "fp16"),
          "its model is a hub id whose shapes we have");
    CHECK(js_int(js_get(js_get(s.tasks, "coqa"), "limit")) == 50, "50 documents");
    free(names);
    sweep_release(&s);
}

/* config_read_file() refuses what it does not know; the counts are the published ones. */
static void our_shapes_are_those_of_the_models(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        int64_t n_parameters, n_linear;
        double rope_factor;
    } models[] = {
        { "llama-3.2-1b", 1235814400, 973078528, 32 },
        { "llama-3.2-3b", 3212749824, 2818572288, 32 },
        { "llama-3.1-8b", 8030261248, 6979321856, 8 },
        { "llama-3.1-70b", 70553706496, 68451041280, 8 },
    };

    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        struct config c;
        struct err e = ERR_INIT;
        char path[1100];

        snprintf(path, sizeof path, "%s/sweeps/configs/%s.json", root, models[i].name);
        CHECK_OK(config_read_file(path, &c, &e), e);
        CHECK(config_n_parameters(&c) == models[i].n_parameters, "%s has %lld parameters",
              models[i].name, (long long)models[i].n_parameters);
        CHECK(config_n_linear_parameters(&c) == models[i].n_linear, "%s: of its linears",
              models[i].name);
        CHECK(c.rope.type == ROPE_LLAMA3 && c.rope.factor == models[i].rope_factor &&
                  c.rope.original_max_position == 8192 && c.max_position == 131072,
              "%s: its positions", models[i].name);
        CHECK(c.stored_dtype == DTYPE_BF16, "%s is stored in bf16", models[i].name);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(files_that_come_with_it),
        cmocka_unit_test(names_follow_the_rules),
        cmocka_unit_test(a_name_may_have_64_characters),
        cmocka_unit_test(settings_are_resolved),
        cmocka_unit_test(impossible_values_of_a_list_remove_cells),
        cmocka_unit_test(many_removed_cells_are_counted),
        cmocka_unit_test(the_model_has_its_say),
        cmocka_unit_test(twins_are_errors),
        cmocka_unit_test(a_baseline_must_exist),
        cmocka_unit_test(pairs_must_exist),
        cmocka_unit_test(patterns_select),
        cmocka_unit_test(jobs_are_those_that_can_matter),
        cmocka_unit_test(the_number_of_cells_and_jobs_is_capped),
        cmocka_unit_test(shards_are_parts_of_the_whole),
        cmocka_unit_test(expanding_again_starts_afresh),
        cmocka_unit_test(every_method_is_listed_with_its_defaults),
        cmocka_unit_test(presets_of_gptq),
        cmocka_unit_test(distances_are_edits),
        cmocka_unit_test(our_sweeps_are_what_they_should_be),
        cmocka_unit_test(our_shapes_are_those_of_the_models),
    };

    if (!getcwd(root, sizeof root))
        return 1;
    return cmocka_run_group_tests(tests, sweep_folder_open, sweep_folder_close);
}
