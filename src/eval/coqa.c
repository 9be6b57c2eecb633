/* coqa.c - CoQA: generate an answer to each document, score it by two rules.
 *
 * Follows lm-evaluation-harness 0.4 (greedy, at most 256 new tokens, cut at "\nQ:" and at the eos
 * text, first line) and the official script's gold rule.  Generation of a document stops as soon
 * as its score is decided.  */
#include "eval/coqa.h"

#include "base/log.h"
#include "base/rng.h"
#include "eval/profile.h"
#include "eval/score_answer.h"
#include "model/generate.h"

#include <limits.h>
#include <stdlib.h>
#include <string.h>

#define BATCH_MAX 64

struct coqa_item { /* what a document gave */
    struct answer_score score, official;
    char *prediction;
    size_t prediction_bytes;
};

/* ---- stopping early ---- */

struct stopper {
    const struct task_context *c;
    signed char *has_line_end; /* [n_ids] of each token's own text: 0 not looked, 1 yes, -1 no */
    size_t n_ids;
};

static bool token_has_line_end(struct stopper *s, int32_t id)
{
    char *text = NULL;
    size_t n = 0;
    struct err e = ERR_INIT;

    if (id < 0 || (size_t)id >= s->n_ids)
        return false;
    if (s->has_line_end[id] == 0) {
        bool yes = tokenizer_decode(s->c->tokenizer, &id, 1, true, false, &text, &n, &e) == 0 &&
                   memchr(text, '\n', n);
        s->has_line_end[id] = yes ? 1 : -1;
        free(text);
    }
    return s->has_line_end[id] > 0;
}

/* Both ways an answer ends have a line end in them, so most steps need no decoding. */
static bool answer_stops(void *context, int prompt, const int32_t *ids, int n)
{
    struct stopper *s = context;
    char *text = NULL;
    size_t n_bytes = 0;
    struct err e = ERR_INIT;
    bool any = false;

    (void)prompt;
    for (int i = 0; i < n && !any; i++)
        any = token_has_line_end(s, ids[i]);
    if (!any || !tokenizer_settles(s->c->tokenizer, ids[n - 1]))
        return false;
    bool over = tokenizer_decode(s->c->tokenizer, ids, (size_t)n, true, s->c->profile->clean_up,
                                 &text, &n_bytes, &e) == 0 &&
                answer_is_over(text, n_bytes);
    free(text);
    return over;
}

/* ---- running ---- */

static int score_document(const struct task_context *c, const struct coqa_document *d,
                          const struct generate_result *g, struct coqa_item *out, struct err *e)
{
    struct text golds[COQA_GOLDS_MAX];
    char *text = NULL;
    size_t n = 0;

    if (g->broken)
        return err_set(e, ERR_INPUT, "the model gives NaN after %d new tokens, in document %.*s",
                       g->n_ids, (int)d->id.n, d->id.data);
    if (tokenizer_decode(c->tokenizer, g->ids, (size_t)g->n_ids, true, c->profile->clean_up, &text,
                         &n, e) < 0)
        return -1;
    struct text answer = answer_of_generated(text, n, tokenizer_eos_text(c->tokenizer));
    out->official = answer_score_all(d->golds, d->n_golds, answer);
    memcpy(golds, d->golds, sizeof golds);
    size_t n_golds = c->profile->all_golds ? d->n_golds : answer_distinct(golds, d->n_golds);
    out->score = answer_score_all(golds, n_golds, answer);
    out->prediction = mem_textn(answer.data, answer.n);
    out->prediction_bytes = answer.n;
    free(text);
    return 0;
}

/* results[i] belongs to item order[i].  Side by side; of several errors the first item's is told.
 */
static int score_all(const struct task_context *c, const struct coqa_set *set, const size_t *picked,
                     const size_t *order, const struct generate_result *results, size_t n,
                     struct coqa_item *items, struct err *e)
{
    size_t bad = n, which = 0;

#pragma omp parallel for schedule(dynamic, 16)
    for (size_t i = 0; i < n; i++) {
        const size_t item = order[i];
        struct err own = ERR_INIT;

        if (score_document(c, &set->at[picked[item]], &results[i], &items[item], &own) == 0)
            continue;
#pragma omp critical
        if (item < bad) {
            bad = item;
            which = i;
        }
    }
    return bad < n ? score_document(c, &set->at[picked[bad]], &results[which], &items[bad], e) : 0;
}

/* Positions 0 .. n-1, or in a drawn order (tests). */
static size_t *running_order(size_t n, bool shuffle, int64_t seed)
{
    size_t *order = mem_array(n, sizeof *order);

    for (size_t i = 0; i < n; i++)
        order[i] = i;
    for (size_t i = 0; shuffle && i + 1 < n; i++) {
        size_t k = i + rng_below((uint64_t)seed, RNG_TEST, i, n - i), x = order[i];
        order[i] = order[k];
        order[k] = x;
    }
    return order;
}

static int batch_for(const struct task_context *c, const struct generate_prompt *prompts, size_t n)
{
    int64_t longest = 0;

    for (size_t i = 0; i < n; i++)
        longest = prompts[i].n_ids > longest ? prompts[i].n_ids : longest;
    size_t each = kv_cache_bytes(c->model, 1, longest + c->profile->max_new_tokens);
    return profile_batch_size(c->model, c->batch_size, each,
                              c->batch_size > 0 ? INT_MAX : BATCH_MAX);
}

/* items[i] belongs to document picked[i], whatever order they run in. */
static int answer_all(const struct task_context *c, const struct coqa_set *set,
                      const size_t *picked, size_t n, struct coqa_item *items, struct err *e)
{
    size_t *order = running_order(n, c->shuffle, c->seed);
    struct generate_prompt *prompts = mem_array(n, sizeof *prompts);
    struct generate_result *results = mem_array(n, sizeof *results);
    struct stopper stopper = { .c = c, .n_ids = tokenizer_size(c->tokenizer) };
    struct generate_options o = { .max_new_tokens = c->profile->max_new_tokens,
                                  .eos_ids = c->model->config.eos_ids,
                                  .n_eos = c->model->config.n_eos,
                                  .stop = answer_stops,
                                  .context = &stopper,
                                  .counts = c->counts };

    stopper.has_line_end = mem_array(stopper.n_ids, 1);
    for (size_t i = 0; i < n; i++) {
        const struct coqa_document *d = &set->at[picked[order[i]]];
        prompts[i] = (struct generate_prompt){ d->prompt, (int32_t)d->n_prompt };
    }
    o.batch_size = batch_for(c, prompts, n);
    int rc = generate(c->model, prompts, (int)n, &o, results, e);
    if (rc == 0)
        rc = score_all(c, set, picked, order, results, n, items, e);
    generate_release(results, (int)n);
    free(stopper.has_line_end);
    free(results);
    free(prompts);
    free(order);
    return rc;
}

/* ---- the record ---- */

static double value_at(const struct coqa_item *item, size_t offset)
{
    double value;

    memcpy(&value, (const char *)item + offset, sizeof value);
    return value;
}

static struct js *column(const struct coqa_item *items, size_t n, size_t offset, double *mean)
{
    struct js *list = js_new_array();
    double sum = 0;

    for (size_t i = 0; i < n; i++) {
        double value = value_at(&items[i], offset);
        sum += value;
        js_append(list, js_new_real(value));
    }
    *mean = sum / (double)n;
    return list;
}

static int by_name(const void *a, const void *b)
{
    const struct text *x = a, *y = b;
    int order = memcmp(x->data, y->data, x->n < y->n ? x->n : y->n);

    return order ? order : (x->n > y->n) - (x->n < y->n);
}

static struct js *by_source(const struct coqa_set *set, const size_t *picked,
                            const struct coqa_item *items, size_t n)
{
    static const struct {
        const char *name;
        size_t offset;
    } means[] = { { "f1", offsetof(struct coqa_item, score.f1) },
                  { "em", offsetof(struct coqa_item, score.em) },
                  { "f1_official", offsetof(struct coqa_item, official.f1) },
                  { "em_official", offsetof(struct coqa_item, official.em) } };
    enum { N_MEANS = sizeof means / sizeof *means };
    struct text *names = mem_array(n, sizeof *names);
    struct js *table = js_new_object(), *source = js_new_array(), *count = js_new_array();
    struct js *list[N_MEANS];

    for (size_t i = 0; i < n; i++)
        names[i] = set->at[picked[i]].source;
    qsort(names, n, sizeof *names, by_name);
    for (int k = 0; k < N_MEANS; k++)
        list[k] = js_new_array();
    for (size_t k = 0; k < n; k++) {
        double sum[N_MEANS] = { 0 };
        int64_t n_of = 0;
        if (k > 0 && by_name(&names[k], &names[k - 1]) == 0)
            continue;
        for (size_t i = 0; i < n; i++) {
            if (by_name(&set->at[picked[i]].source, &names[k]) != 0)
                continue;
            for (int m = 0; m < N_MEANS; m++)
                sum[m] += value_at(&items[i], means[m].offset);
            n_of++;
        }
        js_append(source, js_new_textn(names[k].data, names[k].n));
        js_append(count, js_new_int(n_of));
        for (int m = 0; m < N_MEANS; m++)
            js_append(list[m], js_new_real(sum[m] / (double)n_of));
    }
    free(names);
    js_set(table, "source", source);
    js_set(table, "n", count);
    for (int m = 0; m < N_MEANS; m++)
        js_set(table, means[m].name, list[m]);
    return table;
}

/* Models that answer nothing score 0 without an error anywhere. */
static void warn_of_empty(const struct coqa_item *items, size_t n, struct js *out)
{
    size_t n_empty = 0;

    for (size_t i = 0; i < n; i++)
        n_empty += items[i].prediction_bytes == 0;
    js_set_int(out, "n_empty", (int64_t)n_empty);
    if (2 * n_empty > n)
        log_warn("coqa: %zu of %zu answers are empty: the model, its prompt format or its "
                 "tokenizer may be wrong",
                 n_empty, n);
}

static void record(const struct coqa_set *set, const size_t *picked, const struct coqa_item *items,
                   size_t n, bool all_turns, struct js *out)
{
    static const struct {
        const char *mean, *items;
        size_t offset;
    } columns[] = {
        { "f1", "f1_item", offsetof(struct coqa_item, score.f1) },
        { "em", "em_item", offsetof(struct coqa_item, score.em) },
        { "f1_official", "f1_official_item", offsetof(struct coqa_item, official.f1) },
        { "em_official", "em_official_item", offsetof(struct coqa_item, official.em) },
        { NULL, "precision_item", offsetof(struct coqa_item, score.precision) },
        { NULL, "recall_item", offsetof(struct coqa_item, score.recall) },
    };
    struct js *id = js_new_array(), *turn = js_new_array(), *source = js_new_array();
    struct js *prediction = js_new_array();
    int64_t n_truncated = 0;

    for (size_t i = 0; i < sizeof columns / sizeof columns[0]; i++) {
        double mean;
        js_set(out, columns[i].items, column(items, n, columns[i].offset, &mean));
        if (columns[i].mean)
            js_set_real(out, columns[i].mean, mean);
    }
    for (size_t i = 0; i < n; i++) {
        const struct coqa_document *d = &set->at[picked[i]];
        n_truncated += d->truncated;
        js_append(id, js_new_textn(d->id.data, d->id.n));
        js_append(turn, js_new_int(d->turn));
        js_append(source, js_new_textn(d->source.data, d->source.n));
        js_append(prediction, js_new_textn(items[i].prediction, items[i].prediction_bytes));
    }
    js_set_int(out, "n", (int64_t)n);
    js_set_text(out, "turns", all_turns ? "all" : "last");
    js_set_int(out, "truncated", n_truncated);
    js_set(out, "document_id", id);
    js_set(out, "turn", turn);
    js_set(out, "source", source);
    js_set(out, "prediction", prediction);
    js_set(out, "by_source", by_source(set, picked, items, n));
    warn_of_empty(items, n, out);
}

static int coqa_run(const struct task_context *c, const struct js *options, const void *prepared,
                    size_t n_bytes, struct js *out, struct err *e)
{
    struct coqa_set set;
    struct coqa_options o;
    size_t n;

    if (coqa_options(options, &o, e) < 0 || coqa_open(&set, prepared, n_bytes, e) < 0)
        return -1;
    size_t *picked = coqa_pick_turns(&set, &o, c->seed, &n);
    struct coqa_item *items = mem_array(n, sizeof *items);
    int rc = answer_all(c, &set, picked, n, items, e);
    if (rc == 0)
        record(&set, picked, items, n, o.all_turns, out);
    for (size_t i = 0; i < n; i++)
        free(items[i].prediction);
    free(items);
    free(picked);
    coqa_release(&set);
    return rc;
}

/* New tokens: answers of a model that can answer are a few tokens long. */
#define ANSWER_TOKENS 8

static int coqa_work(const struct js *options, const void *prepared, size_t n_bytes,
                     int64_t *prompt_tokens, int64_t *new_tokens, struct err *e)
{
    struct coqa_set set;
    struct coqa_options o;
    int64_t sum = 0;
    size_t n;

    if (coqa_options(options, &o, e) < 0 || coqa_open(&set, prepared, n_bytes, e) < 0)
        return -1;
    o.random = false;
    free(coqa_pick_turns(&set, &o, 0, &n));
    for (size_t i = 0; i < set.n; i++)
        sum += (int64_t)set.at[i].n_prompt;
    *prompt_tokens = set.n ? (int64_t)((double)sum * (double)n / (double)set.n) : 0;
    *new_tokens = (int64_t)n * ANSWER_TOKENS;
    coqa_release(&set);
    return 0;
}

const struct task task_coqa = {
    .name = "coqa",
    .version = 1,
    .prepare = coqa_prepare,
    .run = coqa_run,
    .work = coqa_work,
};
