/* show.c - see show.h. */
#include "show.h"

#include "backend/backend.h"
#include "base/file.h"
#include "base/log.h"
#include "dry_run.h"
#include "eval/coqa.h"
#include "export.h"
#include "merge.h"
#include "rebuild.h"
#include "record/recommend.h"
#include "record/report.h"
#include "sched/link_mpi.h"
#include "sched/node.h"
#include "sweep/method.h"
#include "tokenizer/tokenizer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

const char *const *show_versions(void)
{
    static const char *list[16];
    int n = 0;

    list[n++] = "compiler";
    list[n++] = llq_compiler();
    list[n++] = "mpi";
    list[n++] = link_version();
    list[n++] = "cuda";
    list[n++] = backend_compiled("cuda") ? backend_built("cuda") : "none";
    list[n] = NULL;
    return list;
}

static char *version_text(void)
{
    const struct cli_library libraries[] = {
        { "MPI", link_version() },
        { "HDF5", store_h5_version() },
        { "CUDA", backend_compiled("cuda") ? backend_built("cuda") : "not in this build" },
    };

    return cli_version_text(libraries, sizeof libraries / sizeof *libraries);
}

char *show_command_line(int argc, char *const *argv)
{
    struct bytes b = BYTES_INIT;

    for (int i = 0; i < argc; i++)
        bytes_printf(&b, "%s%s", i ? " " : "", argv[i]);
    return b.data;
}

/* Returns the exit status, or -1. */
static int show_report(const struct cli *c, struct err *e)
{
    struct store_report report = { 0 };
    struct recommend what;
    struct err why = ERR_INIT;
    struct winsize w = { 0 };
    int rc = EXIT_ALL_OK;

    if (c->recommend && recommend_parse(c->recommend, &what, e) < 0)
        return -1;
    if (rebuild_results(c->report, &why) < 0)
        log_warn("%s", why.text);
    if (store_h5_read(c->report, &report, e) < 0)
        return -1;
    if (c->recommend)
        rc = recommend_print(stdout, &report, &what, e);
    else
        report_print(stdout, &report, isatty(1) && ioctl(1, TIOCGWINSZ, &w) == 0 ? w.ws_col : 0);
    store_report_release(&report);
    if (c->recommend && rc >= 0)
        return rc ? EXIT_ALL_OK : EXIT_SOME_FAILED;
    return rc;
}

static int merge(const struct cli *c, struct err *e)
{
    if (merge_results(c->merge, c->files, c->n_files, c->force, e) < 0)
        return -1;
    char *path = file_absolute(c->merge);
    printf("%s\n", path);
    free(path);
    return 0;
}

/* As the official script prints it: JSON, a line a number. */
static int score_coqa(const struct cli *c, struct err *e)
{
    struct js_member row = JS_MEMBER_INIT;
    int64_t n_missing;
    struct js *table = coqa_official(c->score_coqa, c->files[0], &n_missing, e);
    size_t n = js_count(table), i = 0;

    if (!table)
        return -1;
    if (n_missing)
        log_warn("%lld turns have no prediction and count 0", (long long)n_missing);
    printf("{\n");
    while (js_next(table, &row))
        printf("  \"%s\": {\n    \"em\": %.1f,\n    \"f1\": %.1f,\n    \"turns\": %lld\n  }%s\n",
               row.key, js_real(js_get(row.value, "em")), js_real(js_get(row.value, "f1")),
               (long long)js_int(js_get(row.value, "turns")), ++i < n ? "," : "");
    printf("}\n");
    js_release(table);
    return 0;
}

static int list_experiments(const struct cli *c, struct err *e)
{
    struct sweep s = SWEEP_INIT;
    int rc = -1;

    if (!c->sweep_path) {
        char *text = method_list_text();
        printf("%s", text);
        free(text);
        return 0;
    }
    if (sweep_read(c->sweep_path, &c->overrides, &s, e) == 0 &&
        sweep_expand(&s, &c->overrides, prepare_check_cell, NULL, e) == 0) {
        for (int i = 0; i < s.n_experiments; i++)
            printf("%s\n", s.experiments[i].name);
        rc = 0;
    }
    sweep_release(&s);
    return rc;
}

/* The ids of a text as the tasks would see them: with the profile's BOS, on one line. */
static int tokenize(const struct cli *c, struct err *e)
{
    struct prepare_options o = { .sweep_path = c->sweep_path, .overrides = c->overrides };
    struct tokenizer *t = NULL;
    struct profile profile;
    struct bytes text = BYTES_INIT;
    struct token_ids ids = TOKEN_IDS_INIT;
    int rc = -1;

    if (prepare_tokenizer(&o, &t, &profile, e) < 0 || file_read(c->tokenize, &text, e) < 0)
        goto out;
    if (tokenizer_encode(t, text.data, text.n, profile.add_bos, &ids, e) < 0) {
        err_in(e, "%s", c->tokenize);
        goto out;
    }
    for (size_t i = 0; i < ids.n; i++)
        printf("%s%d", i ? " " : "", ids.ids[i]);
    printf("\n");
    rc = 0;
out:
    token_ids_release(&ids);
    bytes_release(&text);
    tokenizer_close(t);
    return rc;
}

bool show_wanted(const struct cli *c)
{
    return c->help || c->version || c->report || c->merge || c->export_form || c->score_coqa ||
           c->list_experiments || c->tokenize || c->dry_run;
}

int show(const struct cli *c, struct err *e)
{
    char *text = NULL;

    if (c->help)
        text = cli_help();
    else if (c->version)
        text = version_text();
    if (text) {
        printf("%s", text);
        free(text);
        return 0;
    }
    if (c->report)
        return show_report(c, e);
    if (c->merge)
        return merge(c, e);
    if (c->export_form)
        return export_results(stdout, c->export_form, c->files[0], e);
    if (c->score_coqa)
        return score_coqa(c, e);
    if (c->list_experiments)
        return list_experiments(c, e);
    if (c->tokenize)
        return tokenize(c, e);
    struct prepare_options o = { .sweep_path = c->sweep_path,
                                 .overrides = c->overrides,
                                 .backend = c->backend };
    return dry_run(stdout, o, c->verbose, node_world_size(), e);
}
