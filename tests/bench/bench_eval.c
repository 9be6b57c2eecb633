/* bench_eval.c - the tasks alone on one checkpoint, seconds each:
 *
 *   bench_eval [--prompts FILE] FOLDER COQA.json WIKITEXT.raw [cpu|cuda|auto [REPEATS [FORMAT...]]]
 *
 * CoQA's first 500 stories, last turn, and all turns of all stories, ANSWER new tokens at most;
 * perplexity in windows of 2048 (or all that the model has); KL divergence from the unquantized
 * model on the same windows, and its time as a multiple of perplexity's.  The fastest of REPEATS
 * (2) runs; reading and tokenizing are not in it, as a sweep does them once.  FORMAT: those whose
 * name begins so; default fp16 and NF4 with double quantization.  Behind the table: what generating
 * took.  --prompts: the ids of CoQA's last turns and of the windows go to FILE, for
 * eval_transformers.py. */
#include "base/clock.h"
#include "base/js.h"
#include "eval/coqa.h"
#include "eval/task.h"
#include "eval/windows.h"
#include "model/model.h"
#include "quant/quant.h"
#include "tokenizer/tokenizer.h"

#include "formats.h"

#include <stdio.h>
#include <stdlib.h>

#define ANSWER 16
#define WINDOW 2048

enum { COQA_500, COQA_ALL, PERPLEXITY, DIVERGENCE, N_ITEMS };

static const struct {
    const char *task, *title, *options; /* printf's, of the path and the window */
} items[N_ITEMS] = {
    { "coqa", "CoQA 500", "{\"path\":\"%s\",\"limit\":500}" },
    { "coqa", "all turns", "{\"path\":\"%s\",\"turns\":\"all\"}" },
    { "perplexity", "perplexity", "{\"path\":\"%s\",\"window\":%lld}" },
    { "divergence", "divergence", "{\"path\":\"%s\",\"window\":%lld}" },
};

struct prepared {
    const struct task *task;
    struct js *options;
    struct bytes bytes;
    int64_t n_prompt;
    struct generate_counts counts; /* of the last run */
};

static int prepare(int i, const char *path, const struct tokenizer *t, const struct profile *p,
                   const struct config *c, struct prepared *out, struct err *e)
{
    char text[4096];
    int64_t n_new;

    snprintf(text, sizeof text, items[i].options, path,
             (long long)(c->max_position < WINDOW ? c->max_position : WINDOW));
    out->task = task_find(items[i].task);
    out->options = js_parse(text, strlen(text), e);
    if (!out->options || out->task->prepare(out->options, t, p, c, &out->bytes, e) < 0)
        return -1;
    return out->task->work(out->options, out->bytes.data, out->bytes.n, &out->n_prompt, &n_new, e);
}

/* ---- prompts for another program ---- */

static void write_ids(FILE *f, const char *before, const int32_t *ids, int64_t n)
{
    fputs(before, f);
    for (int64_t i = 0; i < n; i++)
        fprintf(f, "%c%d", i ? ',' : '[', ids[i]);
    fputs("]", f);
}

static int write_prompts(const char *path, const struct prepared *all, struct err *e)
{
    struct coqa_set set = { 0 };
    struct coqa_options o;
    struct windows w = { 0 };
    size_t n;
    FILE *f = fopen(path, "w");

    if (!f)
        return err_set(e, ERR_IO, "%s cannot be written", path);
    int rc = coqa_options(all[COQA_500].options, &o, e);
    if (rc == 0)
        rc = coqa_open(&set, all[COQA_500].bytes.data, all[COQA_500].bytes.n, e);
    if (rc == 0)
        rc = windows_open(&w, "perplexity", all[PERPLEXITY].bytes.data, all[PERPLEXITY].bytes.n, e);
    if (rc == 0) {
        size_t *picked = coqa_pick_turns(&set, &o, 0, &n);
        for (size_t i = 0; i < n; i++)
            write_ids(f, i ? ",\n" : "{\"coqa\":[", set.at[picked[i]].prompt,
                      (int64_t)set.at[picked[i]].n_prompt);
        for (int64_t i = 0; i < w.n; i++)
            write_ids(f, i ? ",\n" : "],\n\"windows\":[", w.at[i].ids, w.at[i].n);
        fputs("]}\n", f);
        free(picked);
    }
    coqa_release(&set);
    windows_release(&w);
    if (fclose(f) && rc == 0)
        rc = err_set(e, ERR_IO, "%s cannot be written", path);
    return rc;
}

/* ---- times ---- */

static int measure(struct task_context c, struct prepared *p, int repeats, double *best,
                   struct err *e)
{
    c.counts = &p->counts;
    *best = 0;
    for (int i = 0; i < repeats; i++) {
        struct js *out = js_new_object();
        double start = clock_seconds();
        int rc = p->task->run(&c, p->options, p->bytes.data, p->bytes.n, out, e);
        double seconds = clock_seconds() - start;

        js_release(out);
        if (rc < 0)
            return -1;
        *best = i == 0 || seconds < *best ? seconds : *best;
    }
    return 0;
}

static void print_counts(const struct prepared *p, const char *title)
{
    const struct generate_counts *n = &p->counts;

    printf("%s: %lld rows in %lld passes, %lld copied; %lld steps in %lld calls, %.1f rows each\n",
           title, (long long)n->n_rows, (long long)n->n_passes, (long long)n->n_copied,
           (long long)n->n_steps, (long long)n->n_looks, (double)n->n_fed / (double)n->n_steps);
}

static int measure_format(struct task_context c, struct prepared *all, int format, int repeats,
                          struct err *e)
{
    struct quant_report report = { 0 };
    struct model m = MODEL_INIT, base = MODEL_INIT;
    const struct quant_spec spec = format_spec(format);
    const struct quant_spec plain = { .method = "none", .bits = 16, .compute = spec.compute };
    double s[N_ITEMS] = { 0 };
    int rc = quantize_model(c.model, &spec, formats[format].source, &m, &report, e);

    quant_report_release(&report);
    if (rc == 0)
        rc = quantize_model(c.model, &plain, formats[format].source, &base, &report, e);
    quant_report_release(&report);
    c.model = &m;
    c.base = &base;
    if (rc == 0)
        printf("| %-15s", formats[format].name);
    for (int i = 0; rc == 0 && i < N_ITEMS; i++) {
        rc = measure(c, &all[i], repeats, &s[i], e);
        if (rc == 0)
            printf(" | %10.3f", s[i]);
        fflush(stdout);
    }
    if (rc == 0)
        printf(" | %8.2f |\n", s[DIVERGENCE] / s[PERPLEXITY]);
    model_release(&base);
    model_release(&m);
    return rc;
}

int main(int argc, char **argv)
{
    static char *usual[] = { "fp16", "nf4 double" };
    const char *prompts = NULL;

    if (argc > 2 && !strcmp(argv[1], "--prompts")) {
        prompts = argv[2];
        argc -= 2;
        argv += 2;
    }
    char **wanted = argc > 6 ? argv + 6 : usual;
    const int n_wanted = argc > 6 ? argc - 6 : 2, repeats = argc > 5 ? atoi(argv[5]) : 2;
    struct backend b = BACKEND_INIT;
    struct device_facts facts = { 0 };
    struct model base = MODEL_INIT;
    struct tokenizer *t = NULL;
    struct profile p;
    struct prepared all[N_ITEMS] = { 0 };
    struct err e = ERR_INIT;
    int rc = -1;

    if (argc < 4 || repeats < 1) {
        fprintf(stderr, "usage: bench_eval [--prompts FILE] FOLDER COQA.json WIKITEXT.raw "
                        "[cpu|cuda|auto [REPEATS [FORMAT...]]]\n");
        return 2;
    }
    if (backend_open(&b, argc > 4 ? argv[4] : "auto", 0, NULL, &e) < 0 ||
        b.ops->facts(&b, &facts, &e) < 0 || weights_load(&b, argv[1], &base, &e) < 0 ||
        tokenizer_open(&t, argv[1], &e) < 0 ||
        profile_find("lm-eval-0.4.12", t, &base.config, &p, &e) < 0)
        goto out;
    p.max_new_tokens = ANSWER;
    printf("%s, %s; seconds, the best of %d\n| %-15s", argv[1], facts.name, repeats, "format");
    for (int i = 0; i < N_ITEMS; i++) {
        const char *path = i < PERPLEXITY ? argv[2] : argv[3];

        if (prepare(i, path, t, &p, &base.config, &all[i], &e) < 0)
            goto out;
        printf(" | %10s", items[i].title);
    }
    printf(" | / perp. |\n| %-15s", "prompt tokens");
    for (int i = 0; i < N_ITEMS; i++)
        printf(" | %10lld", (long long)all[i].n_prompt);
    printf(" |         |\n|---|---|---|---|---|---|\n");
    rc = prompts ? write_prompts(prompts, all, &e) : 0;
    for (int i = 0; i < N_FORMATS && rc == 0; i++)
        if (format_is_asked_for(i, wanted, n_wanted))
            rc = measure_format(
                (struct task_context){ .model = &base, .tokenizer = t, .profile = &p }, all, i,
                repeats, &e);
    for (int i = 0; i < PERPLEXITY && rc == 0; i++)
        if (all[i].counts.n_steps)
            print_counts(&all[i], items[i].title);
out:
    if (rc < 0)
        fprintf(stderr, "bench_eval: %s\n", e.text);
    for (int i = 0; i < N_ITEMS; i++) {
        js_release(all[i].options);
        bytes_release(&all[i].bytes);
    }
    tokenizer_close(t);
    model_release(&base);
    backend_close(&b);
    return rc < 0;
}
