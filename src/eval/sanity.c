/* sanity.c - three prompts, 32 greedy tokens each: does the model say anything at all?
 *
 * A prompt's flag: "ok", "empty" (nothing but white space), "repeating" (all 32 tokens, and the
 * last 24 are a cycle of at most 4) or "nan" (a logit was NaN).  The model is broken when any
 * prompt gives NaN, or when every prompt is flagged.  */
#include "eval/pack.h"
#include "eval/profile.h"
#include "eval/task.h"

#include "model/generate.h"
#include "tokenizer/unicode.h"

#include <stdlib.h>
#include <string.h>

#define MAGIC        0x314E4153u /* "SAN1" */
#define N_NEW        32
#define CYCLE_TOKENS 24
#define CYCLE_MAX    4
#define N_PROMPTS    3

static const char *const prompts[N_PROMPTS] = {
    "The capital of France is",
    "def fibonacci(n):\n    '''",
    "Question: What is 2 + 2?\nAnswer:",
};

static int sanity_prepare(const struct js *options, const struct tokenizer *t,
                          const struct profile *p, const struct config *c, struct bytes *out,
                          struct err *e)
{
    const char *on_broken;

    if (js_text_or(options, "on_broken", "warn", &on_broken, e) < 0)
        return err_in(e, "[tasks.sanity]");
    if (strcmp(on_broken, "warn") != 0 && strcmp(on_broken, "skip") != 0)
        return err_set(e, ERR_USAGE, "sanity: on_broken \"%.32s\", should be warn or skip",
                       on_broken);
    pack_u32(out, MAGIC);
    for (int i = 0; i < N_PROMPTS; i++) {
        struct token_ids ids = TOKEN_IDS_INIT;
        int rc = profile_encode(p, t, c, prompts[i], strlen(prompts[i]), &ids, e);
        if (rc == 0 && ids.n == 0)
            rc = err_set(e, ERR_INPUT, "the tokenizer gives no tokens for it");
        if (rc == 0 && (int64_t)ids.n + N_NEW > c->max_position)
            rc = err_set(e, ERR_INPUT, "%zu + %d tokens, but the model has %lld positions", ids.n,
                         N_NEW, (long long)c->max_position);
        pack_ids(out, ids.ids, ids.n);
        token_ids_release(&ids);
        if (rc < 0)
            return err_in(e, "sanity prompt \"%s\"", prompts[i]);
    }
    return 0;
}

static void release(struct generate_prompt *p)
{
    for (int i = 0; i < N_PROMPTS; i++)
        free((void *)p[i].ids);
}

static int open_prompts(struct generate_prompt *p, const void *prepared, size_t n_bytes,
                        struct err *e)
{
    struct unpack u = { prepared, n_bytes, false };

    memset(p, 0, N_PROMPTS * sizeof *p);
    if (unpack_u32(&u) != MAGIC)
        return err_set(e, ERR_INPUT, "prepared data of sanity: not what this version writes");
    for (int i = 0; i < N_PROMPTS; i++) {
        size_t n;
        p[i].ids = unpack_ids(&u, &n);
        p[i].n_ids = (int32_t)n;
        u.bad = u.bad || n == 0;
    }
    if (unpack_end(&u, "sanity", e) < 0) {
        release(p);
        return -1;
    }
    return 0;
}

static bool repeats(const int32_t *ids, int n)
{
    for (int period = 1; period <= CYCLE_MAX && n >= N_NEW; period++) {
        int i = n - CYCLE_TOKENS + period;
        while (i < n && ids[i] == ids[i - period])
            i++;
        if (i == n)
            return true;
    }
    return false;
}

static bool is_blank(const char *s, const char *end)
{
    while (s < end)
        if (!python_is_space(utf8_next(&s)))
            return false;
    return true;
}

static const char *flag_of(const struct generate_result *g, const char *text, size_t n)
{
    if (g->broken)
        return "nan";
    if (is_blank(text, text + n))
        return "empty";
    return repeats(g->ids, g->n_ids) ? "repeating" : "ok";
}

static int record(const struct task_context *c, const struct generate_result *results,
                  struct js *out, struct err *e)
{
    struct js *prompt = js_new_array(), *generated = js_new_array(), *flags = js_new_array();
    int n_flagged = 0, rc = 0;
    bool nan = false;

    for (int i = 0; i < N_PROMPTS && rc == 0; i++) {
        char *text = NULL;
        size_t n = 0;
        rc = tokenizer_decode(c->tokenizer, results[i].ids, (size_t)results[i].n_ids, true,
                              c->profile->clean_up, &text, &n, e);
        if (rc < 0)
            break;
        const char *flag = flag_of(&results[i], text, n);
        nan = nan || results[i].broken;
        n_flagged += strcmp(flag, "ok") != 0;
        js_append(prompt, js_new_text(prompts[i]));
        js_append(generated, js_new_textn(text, n));
        js_append(flags, js_new_text(flag));
        free(text);
    }
    js_set(out, "prompt", prompt);
    js_set(out, "generated", generated);
    js_set(out, "flags", flags);
    js_set_bool(out, "broken", nan || n_flagged == N_PROMPTS);
    return rc;
}

static int sanity_run(const struct task_context *c, const struct js *options, const void *prepared,
                      size_t n_bytes, struct js *out, struct err *e)
{
    struct generate_prompt p[N_PROMPTS];
    struct generate_result results[N_PROMPTS] = { 0 };
    struct generate_options o = { .batch_size = N_PROMPTS,
                                  .max_new_tokens = N_NEW,
                                  .eos_ids = c->model->config.eos_ids,
                                  .n_eos = c->model->config.n_eos };

    (void)options;
    if (open_prompts(p, prepared, n_bytes, e) < 0)
        return -1;
    if (c->batch_size > 0 && c->batch_size < N_PROMPTS)
        o.batch_size = c->batch_size;
    int rc = generate(c->model, p, N_PROMPTS, &o, results, e);
    if (rc == 0)
        rc = record(c, results, out, e);
    generate_release(results, N_PROMPTS);
    release(p);
    return rc;
}

static int sanity_work(const struct js *options, const void *prepared, size_t n_bytes,
                       int64_t *prompt_tokens, int64_t *new_tokens, struct err *e)
{
    struct generate_prompt p[N_PROMPTS];

    (void)options;
    if (open_prompts(p, prepared, n_bytes, e) < 0)
        return -1;
    *prompt_tokens = 0;
    for (int i = 0; i < N_PROMPTS; i++)
        *prompt_tokens += p[i].n_ids;
    *new_tokens = N_PROMPTS * N_NEW;
    release(p);
    return 0;
}

const struct task task_sanity = {
    .name = "sanity",
    .version = 1,
    .prepare = sanity_prepare,
    .run = sanity_run,
    .work = sanity_work,
};
