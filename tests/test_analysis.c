/* test_analysis.c - analysis/report.py reads what the program writes. */
#include "store_world.h"

#include <sys/wait.h>

/* A Python with the three packages, as the Makefile looks for it; NULL where there is none. */
static const char *python(void)
{
    static const char *const names[] = { "python3", "/usr/bin/python3" };
    const char *named = getenv("PYTHON");
    char command[256];

    if (named && *named)
        return named;
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(command, sizeof command, "%s -c 'import h5py, numpy, matplotlib' 2>/dev/null",
                 names[i]);
        if (system(command) == 0)
            return names[i];
    }
    return NULL;
}

/* Exit status of report.py FILE -o FOLDER/report; what it says goes to FOLDER/said. */
static int report(const char *file)
{
    char command[512];
    const char *program = python();

    if (!program) {
        print_message("SKIP: no Python with h5py, numpy and matplotlib here\n");
        skip();
    }
    snprintf(command, sizeof command, "%s analysis/report.py %s -o %s/report > %s/said 2>&1",
             program, file, folder, folder);
    int how = system(command);
    return WIFEXITED(how) ? WEXITSTATUS(how) : -1;
}

static struct bytes whole(const char *name)
{
    char *file = file_join(folder, name);
    struct bytes b = whole_file(file);

    free(file);
    return b;
}

static void remove_report(void)
{
    static const char *const names[] = {
        "report.html",         "summary.md",       "summary.csv",      "comparisons.md",
        "comparisons.csv",     "size_quality.png", "size_quality.pdf", "latency_quality.png",
        "latency_quality.pdf", "differences.png",  "differences.pdf",  ""
    };
    char file[160];

    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(file, sizeof file, "%s/report/%s", folder, names[i]);
        remove(file);
    }
}

static void report_of_results(void **state)
{
    struct world w;

    (void)state;
    make_world(&w);
    build(&w, path);
    int status = report(path);
    struct bytes said = whole("said");
    CHECK(status == 0, "report.py succeeds; it says %s", said.data);

    struct bytes csv = whole("report/summary.csv"), md = whole("report/summary.md");
    struct bytes png = whole("report/size_quality.png"), pdf = whole("report/size_quality.pdf");
    CHECK(
        strstr(csv.data,
               "fp16_baseline,16,False,0.1,0.0875,0.1125,0.3333333333333333,4.5,none,0.25,0.5,\n"),
        "the CSV has every digit: %s", csv.data);
    CHECK(strstr(csv.data, ",,,,0.3333333333333333,1.5,"), "what is not known is empty: %s",
          csv.data);
    CHECK(strstr(md.data, "| 0.100 [0.087, 0.113] |") ||
              strstr(md.data, "| 0.100 [0.088, 0.112] |"),
          "the Markdown has as many digits as the interval allows: %s", md.data);
    CHECK(strstr(md.data, "5 of 7 jobs succeeded, 1 failed"), "and says how the sweep ended");
    struct bytes html = whole("report/report.html");
    CHECK(strncmp(html.data, "<!doctype html>", 15) == 0 && strstr(html.data, "bnb_4bit_nf4") &&
              strstr(html.data, "Size against quality") && strstr(html.data, "</html>"),
          "a page with the experiments and the front");
    CHECK(strstr(html.data, "bnb_4bit_nf4, rtn_2bit: coqa_f1: few &amp; skewed"),
          "and its warnings, once for all that have them");
    const char *latency = strstr(html.data, "<h2 id=\"latency\">");
    const char *across = strstr(html.data, "class=\"across\"");
    CHECK(latency && across > latency && strstr(across + 1, "class=\"across\""),
          "both points of the latency front have its interval, sizes have none");
    CHECK(strstr(md.data, "Warning: bnb_4bit_nf4, rtn_2bit: coqa_f1: few & skewed"),
          "the Markdown has the warnings, too: %s", md.data);
    CHECK(!strstr(html.data, "src=") && !strstr(html.data, "http:") && !strstr(html.data, "https:"),
          "that loads nothing from anywhere");
    bytes_release(&html);
    CHECK(png.n > 10000 && memcmp(png.data, "\x89PNG", 4) == 0, "a plot as PNG");
    CHECK(pdf.n > 5000 && memcmp(pdf.data, "%PDF", 4) == 0, "and as PDF");
    static const char *const others[] = { "latency_quality", "differences" };
    for (int i = 0; i < 2; i++) {
        char name[64];
        snprintf(name, sizeof name, "report/%s.png", others[i]);
        struct bytes one = whole(name);
        CHECK(one.n > 5000 && memcmp(one.data, "\x89PNG", 4) == 0, "%s as PNG", others[i]);
        bytes_release(&one);
        snprintf(name, sizeof name, "report/%s.pdf", others[i]);
        one = whole(name);
        CHECK(one.n > 2000 && memcmp(one.data, "%PDF", 4) == 0, "%s as PDF", others[i]);
        bytes_release(&one);
    }
    bytes_release(&said);
    bytes_release(&csv);
    bytes_release(&md);
    bytes_release(&png);
    bytes_release(&pdf);
    remove_report();
    release_world(&w);
}

static void report_of_something_else(void **state)
{
    struct err e = ERR_INIT;

    (void)state;
    CHECK_OK(file_replace(path, "garbage", 7, &e), e);
    CHECK(report(path) == 2, "a file that is no results file: exit status 2");
    struct bytes said = whole("said");
    CHECK(strstr(said.data, path) && strchr(said.data, '\n') == said.data + said.n - 1,
          "and one line: %s", said.data);
    bytes_release(&said);
    CHECK(report("/nowhere/r.h5") == 2, "so for a file that is not there");
    remove_report();
}

/* beside.py: a file beside a copy of itself, in which one thing is another. */
static void one_file_beside_another(void **state)
{
    const char *program = python();
    char command[2048];
    struct world w;

    (void)state;
    if (!program) {
        print_message("SKIP: no Python with h5py, numpy and matplotlib here\n");
        skip();
    }
    make_world(&w);
    build(&w, path);
    snprintf(command, sizeof command,
             "%s -B -c \"import h5py, shutil, subprocess, sys\n"
             "a, b = '%s', '%s'\n"
             "def beside(change, at='fp16_baseline/seeds/0'):\n"
             "    shutil.copy(a, b)\n"
             "    with h5py.File(b, 'r+') as f: change(f['experiments'], f['experiments/' + at])\n"
             "    x = subprocess.run([sys.executable, '-B', 'analysis/beside.py', a, b],\n"
             "                       capture_output=True, text=True)\n"
             "    return x.returncode, x.stdout + x.stderr\n"
             "def says(change, status, what):\n"
             "    got = beside(change)\n"
             "    assert got[0] == status and what in got[1], got\n"
             "def text(e, job): job['coqa/prediction'][1] = 'another'\n"
             "def score(e, job): job['coqa/f1'][2] = .5\n"
             "def lost(e, job): del e['bnb_4bit_nf4/seeds/9']\n"
             "says(lambda e, job: None, 1, 'rtn_2bit seed 0: error in')\n"
             "with h5py.File(a, 'r+') as f: del f['experiments/rtn_2bit/seeds/0']\n"
             "says(lambda e, job: None, 0, 'the same: every text and score')\n"
             "says(text, 1, 'fp16_baseline: 1 of 3 texts and 0 scores differ')\n"
             "says(score, 1, 'fp16_baseline: 0 of 3 texts and 1 scores differ')\n"
             "says(lost, 1, 'bnb_4bit_nf4 seed 9: in one file only')\n\"",
             program, path, other);
    CHECK(system(command) == 0, "beside.py finds what differs");
    release_world(&w);
}

/* Max's table of 1960: mean squared errors for the normal distribution; and levels that fit. */
static void least_errors(void **state)
{
    const char *program = python();
    char command[1024];

    (void)state;
    if (!program) {
        print_message("SKIP: no Python with h5py, numpy and matplotlib here\n");
        skip();
    }
    snprintf(
        command, sizeof command,
        "cd analysis && %s -B -c \"import lloyd_max as l\n"
        "for levels, mse in (2, .3634), (4, .1175), (8, .03454), (16, .009497), (32, .002499):\n"
        "    assert abs(l.normal(levels) ** 2 / mse - 1) < .01, levels\n"
        "assert l.least_error([1, 2, 3, 3, 1], 4) == 0 and l.least_error([0, 0], 2) == 0\n"
        "assert abs(l.least_error([-1.5, -.5, .5, 1.5], 2) ** 2 - .2) < 1e-9\n"
        "w = l.of_model('../sweeps/demo', ['model.layers.0.mlp.up_proj', 'none'], (2, 4))\n"
        "assert len(w) == 2 and all(.9 < v / l.normal(1 << k[1]) < 1.3 for k, v in w.items())\n"
        "assert l.of_model('/nowhere', ['a'], (2,)) is None\n\"",
        program);
    CHECK(system(command) == 0, "lloyd_max.py gives the known errors");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        STORE_TEST(report_of_results),
        STORE_TEST(report_of_something_else),
        STORE_TEST(one_file_beside_another),
        cmocka_unit_test(least_errors),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
