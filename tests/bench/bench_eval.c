/* bench_eval.c - the tasks alone on one checkpoint, seconds each:
 *
 *   bench_eval FOLDER COQA.json WIKITEXT.raw [cpu|cuda|auto [REPEATS [FORMAT...]]]
 *
 * CoQA's first 500 stories, last turn, and all turns of all stories, ANSWER new tokens at most;
 * perplexity in windows of 2048 (or all that the model has); KL divergence from the unquantized
 * model on the same windows, and its time as a multiple of perplexity's.  The fastest of REPEATS
 * (2) runs; reading and tokenizing are not in it, as a sweep does them once.  FORMAT: those whose
 * name begins so; default fp16 and NF4 with double quantization. */
#include "base/clock.h"
#include "base/js.h"
#include "eval/task.h"
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

static int measure(const struct task_context *c, const struct prepared *p, int repeats,
                   double *best, struct err *e)
{
    *best = 0;
    for (int i = 0; i < repeats; i++) {
        struct js *out = js_new_object();
        double start = clock_seconds();
        int rc = p->task->run(c, p->options, p->bytes.data, p->bytes.n, out, e);
        double seconds = clock_seconds() - start;

        js_release(out);
        if (rc < 0)
            return -1;
        *best = i == 0 || seconds < *best ? seconds : *best;
    }
    return 0;
}

static int measure_format(struct task_context c, const struct prepared *all, int format,
                          int repeats, struct err *e)
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
        rc = measure(&c, &all[i], repeats, &s[i], e);
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
        fprintf(stderr, "usage: bench_eval FOLDER COQA.json WIKITEXT.raw [cpu|cuda|auto [REPEATS "
                        "[FORMAT...]]]\n");
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
    rc = 0;
    for (int i = 0; i < N_FORMATS && rc == 0; i++)
        if (format_is_asked_for(i, wanted, n_wanted))
            rc = measure_format(
                (struct task_context){ .model = &base, .tokenizer = t, .profile = &p }, all, i,
                repeats, &e);
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
