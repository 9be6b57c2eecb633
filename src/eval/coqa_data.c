/* coqa_data.c - CoQA's stories as prompts and gold answers.
 *
 * turns = "last": the last question of each story, after all earlier ones with their gold answers
 * (lm-evaluation-harness, task version 3.0).  turns = "all": the same for every question, which is
 * what the official evaluation asks.  */
#include "eval/coqa.h"

#include "base/rng.h"
#include "eval/dataset.h"
#include "eval/profile.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC 0x31514F43u /* "COQ1" */

/* ---- a story ---- */

/* j[name][i].input_text, all of it required. */
static int input_text(const struct js *j, const char *name, size_t i, struct text *out,
                      struct err *e)
{
    const struct js *text = js_get(js_at(js_get(j, name), i), "input_text");

    if (!js_text(text))
        return err_set(e, ERR_INPUT, "%s[%zu].input_text is missing or no string", name, i);
    *out = (struct text){ js_text(text), js_text_bytes(text) };
    return 0;
}

static int list_of(const struct js *j, const char *name, size_t *n, struct err *e)
{
    if (js_kind(js_get(j, name)) != JS_ARRAY || js_count(js_get(j, name)) == 0)
        return err_set(e, ERR_INPUT, "%s is missing, empty or no list", name);
    *n = js_count(js_get(j, name));
    return 0;
}

/* story, then question and answer of every earlier turn, then the question of `turn` (from 0). */
static int prompt_text(const struct js *story, size_t turn, struct bytes *out, struct err *e)
{
    const char *text;
    struct text q, a;

    if (js_want_text(story, "story", &text, e) < 0)
        return -1;
    bytes_add(out, text, js_text_bytes(js_get(story, "story")));
    for (size_t i = 0; i <= turn; i++) {
        if (input_text(story, "questions", i, &q, e) < 0 ||
            input_text(story, "answers", i, &a, e) < 0)
            return -1;
        bytes_text(out, "\n\nQ: ");
        bytes_add(out, q.data, q.n);
        bytes_text(out, i < turn ? "\n\nA: " : "\n\nA:");
        if (i < turn)
            bytes_add(out, a.data, a.n);
    }
    return 0;
}

/* The official file numbers its turns; question and answer must agree on the number. */
static int turn_number(const struct js *story, size_t turn, uint32_t *out, struct err *e)
{
    const struct js *q = js_get(js_at(js_get(story, "questions"), turn), "turn_id");
    const struct js *a = js_get(js_at(js_get(story, "answers"), turn), "turn_id");

    *out = (uint32_t)turn + 1;
    if (q && a && js_int(q) != js_int(a))
        return err_set(e, ERR_INPUT, "questions[%zu] is turn %lld, but answers[%zu] is turn %lld",
                       turn, (long long)js_int(q), turn, (long long)js_int(a));
    return 0;
}

static int golds_of(const struct js *story, size_t turn, struct coqa_document *d, struct err *e)
{
    static const char *const annotators[] = { "0", "1", "2" };
    const struct js *more = js_get(story, "additional_answers");

    if (input_text(story, "answers", turn, &d->golds[0], e) < 0)
        return -1;
    d->n_golds = 1;
    if (js_kind(more) != JS_NULL && js_kind(more) != JS_OBJECT)
        return err_set(e, ERR_INPUT, "additional_answers is no object");
    for (size_t i = 0; i < 3; i++) {
        if (!js_get(more, annotators[i]))
            continue;
        if (input_text(more, annotators[i], turn, &d->golds[d->n_golds++], e) < 0)
            return err_in(e, "additional_answers");
    }
    return 0;
}

static int story_turns(const struct js *story, size_t *n, struct err *e)
{
    size_t n_answers;

    if (js_kind(story) != JS_OBJECT)
        return err_set(e, ERR_INPUT, "a story should be an object");
    const char *id;
    if (js_want_text(story, "id", &id, e) < 0 || list_of(story, "questions", n, e) < 0 ||
        list_of(story, "answers", &n_answers, e) < 0)
        return -1;
    if (*n != n_answers)
        return err_set(e, ERR_INPUT, "%zu questions, but %zu answers", *n, n_answers);
    return 0;
}

int coqa_turn(const struct js *story, size_t turn, struct coqa_document *d, struct err *e)
{
    const char *id, *source;

    if (js_want_text(story, "id", &id, e) < 0 || js_text_or(story, "source", "", &source, e) < 0 ||
        turn_number(story, turn, &d->turn, e) < 0)
        return -1;
    d->id = (struct text){ id, js_text_bytes(js_get(story, "id")) };
    d->source = (struct text){ source, js_text_bytes(js_get(story, "source")) };
    return golds_of(story, turn, d, e);
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

int coqa_stories(const char *path, struct stories *out, size_t **n_turns, struct err *e)
{
    if (dataset_stories(path, out, e) < 0)
        return -1;
    const char **ids = mem_array(out->n, sizeof *ids);
    int rc = 0;

    *n_turns = mem_array(out->n, sizeof **n_turns);
    for (size_t i = 0; i < out->n && rc == 0; i++) {
        if (story_turns(out->at[i], &(*n_turns)[i], e) < 0)
            rc = err_in(e, "%s of %s", out->where[i], path);
        else
            ids[i] = js_text(js_get(out->at[i], "id"));
    }
    if (rc == 0)
        qsort(ids, out->n, sizeof *ids, by_text);
    for (size_t i = 1; i < out->n && rc == 0; i++)
        if (strcmp(ids[i], ids[i - 1]) == 0)
            rc = err_set(e, ERR_INPUT, "%s: two stories have the id \"%.64s\"", path, ids[i]);
    free(ids);
    if (rc < 0) {
        stories_release(out);
        free(*n_turns);
        *n_turns = NULL;
    }
    return rc;
}

/* ---- stories -> bytes ---- */

static void pack_document(const struct coqa_document *d, struct bytes *out)
{
    pack_text(out, d->id.data, d->id.n);
    pack_text(out, d->source.data, d->source.n);
    pack_u32(out, d->turn);
    pack_u32(out, d->truncated);
    pack_ids(out, d->prompt, d->n_prompt);
    pack_u32(out, (uint32_t)d->n_golds);
    for (size_t i = 0; i < d->n_golds; i++)
        pack_text(out, d->golds[i].data, d->golds[i].n);
}

static int add_turn(const struct js *story, size_t turn, const struct tokenizer *t,
                    const struct profile *p, const struct config *c, struct bytes *out,
                    struct err *e)
{
    struct coqa_document d = { 0 };
    struct bytes prompt = BYTES_INIT;
    struct token_ids ids = TOKEN_IDS_INIT;
    int64_t room = p->max_length - p->max_new_tokens;

    int rc = coqa_turn(story, turn, &d, e);
    if (rc == 0)
        rc = prompt_text(story, turn, &prompt, e);
    if (rc == 0)
        rc = profile_encode(p, t, c, prompt.data, prompt.n, &ids, e);
    if (rc == 0 && ids.n == 0)
        rc = err_set(e, ERR_INPUT, "its prompt has no tokens");
    if (rc == 0) {
        d.truncated = (int64_t)ids.n > room;
        d.n_prompt = d.truncated ? (size_t)room : ids.n;
        d.prompt = ids.ids + (ids.n - d.n_prompt); /* the left end is cut, BOS with it */
        pack_document(&d, out);
    }
    bytes_release(&prompt);
    token_ids_release(&ids);
    return rc;
}

int coqa_options(const struct js *options, struct coqa_options *o, struct err *e)
{
    const char *subset, *turns;
    int64_t n_fewshot;

    if (js_int_or(options, "limit", 0, &o->limit, e) < 0 ||
        js_text_or(options, "subset", "first", &subset, e) < 0 ||
        js_text_or(options, "turns", "last", &turns, e) < 0 ||
        js_int_or(options, "num_fewshot", 0, &n_fewshot, e) < 0)
        return -1;
    o->random = strcmp(subset, "random") == 0;
    o->all_turns = strcmp(turns, "all") == 0;
    if (o->limit < 0)
        return err_set(e, ERR_USAGE, "coqa: limit is %lld, should be 0 (all) or more",
                       (long long)o->limit);
    if (!o->random && strcmp(subset, "first") != 0)
        return err_set(e, ERR_USAGE, "coqa: subset \"%.32s\", should be first or random", subset);
    if (!o->all_turns && strcmp(turns, "last") != 0)
        return err_set(e, ERR_USAGE, "coqa: turns \"%.32s\", should be last or all", turns);
    if (n_fewshot != 0)
        return err_set(e, ERR_USAGE, "coqa: num_fewshot %lld, only 0 is allowed",
                       (long long)n_fewshot);
    return 0;
}

/* Some turns of a story. */
struct part {
    struct bytes bytes;
    struct err e;
    int rc;
};

static struct part part_of_story(const struct js *story, size_t first, size_t end,
                                 const struct tokenizer *t, const struct profile *p,
                                 const struct config *c)
{
    struct part part = { .bytes = BYTES_INIT, .e = ERR_INIT };

    for (size_t turn = first; turn < end && part.rc == 0; turn++)
        part.rc = add_turn(story, turn, t, p, c, &part.bytes, &part.e);
    return part;
}

/* All stories, tokenized side by side, in their order; the first error is the one told. */
static int add_stories(const struct stories *stories, const size_t *n_turns, bool all_turns,
                       const struct tokenizer *t, const struct profile *p, const struct config *c,
                       const char *path, struct bytes *out, struct err *e)
{
    struct part *parts = mem_array(stories->n, sizeof *parts);
    int rc = 0;

#pragma omp parallel for schedule(dynamic)
    for (size_t i = 0; i < stories->n; i++)
        parts[i] =
            part_of_story(stories->at[i], all_turns ? 0 : n_turns[i] - 1, n_turns[i], t, p, c);
    for (size_t i = 0; i < stories->n; i++) {
        if (rc == 0 && parts[i].rc < 0) {
            *e = parts[i].e;
            rc = err_in(e, "%s of %s", stories->where[i], path);
        }
        if (rc == 0)
            bytes_add(out, parts[i].bytes.data, parts[i].bytes.n);
        bytes_release(&parts[i].bytes);
    }
    free(parts);
    return rc;
}

int coqa_prepare(const struct js *options, const struct tokenizer *t, const struct profile *p,
                 const struct config *c, struct bytes *out, struct err *e)
{
    struct stories stories;
    struct coqa_options o;
    size_t *n_turns, n = 0;
    const char *path;

    if (coqa_options(options, &o, e) < 0 || js_want_text(options, "path", &path, e) < 0)
        return err_in(e, "[tasks.coqa]");
    if (p->max_length <= p->max_new_tokens)
        return err_set(e, ERR_INPUT,
                       "coqa generates %d tokens, but the model has only %lld positions",
                       p->max_new_tokens, (long long)p->max_length);
    if (coqa_stories(path, &stories, &n_turns, e) < 0)
        return -1;
    for (size_t i = 0; i < stories.n; i++)
        n += o.all_turns ? n_turns[i] : 1;
    pack_u32(out, MAGIC);
    pack_u32(out, (uint32_t)p->max_new_tokens);
    pack_u32(out, (uint32_t)n);
    int rc = add_stories(&stories, n_turns, o.all_turns, t, p, c, path, out, e);
    free(n_turns);
    stories_release(&stories);
    return rc;
}

/* ---- bytes -> documents ---- */

/* The turns of a story stand together, and no two stories have one id. */
static void find_stories(struct coqa_set *s)
{
    s->first = mem_array(s->n + 1, sizeof *s->first);
    for (size_t i = 0; i < s->n; i++) {
        const struct text *id = &s->at[i].id, *before = i ? &s->at[i - 1].id : id;
        if (i == 0 || id->n != before->n || memcmp(id->data, before->data, id->n) != 0)
            s->first[s->n_stories++] = i;
    }
    s->first[s->n_stories] = s->n;
}

int coqa_open(struct coqa_set *s, const void *prepared, size_t n_bytes, struct err *e)
{
    struct unpack u = { prepared, n_bytes, false };

    *s = (struct coqa_set){ 0 };
    if (unpack_u32(&u) != MAGIC)
        return err_set(e, ERR_INPUT, "prepared data of coqa: not what this version writes");
    unpack_u32(&u); /* new tokens: only so that the data's hash covers them */
    s->n = unpack_count(&u, 28);
    s->at = mem_array(s->n, sizeof *s->at);
    for (size_t i = 0; i < s->n && !u.bad; i++) {
        struct coqa_document *d = &s->at[i];
        d->id = unpack_text(&u);
        d->source = unpack_text(&u);
        d->turn = unpack_u32(&u);
        d->truncated = unpack_u32(&u) != 0;
        d->prompt = unpack_ids(&u, &d->n_prompt);
        d->n_golds = unpack_u32(&u);
        if (d->n_golds < 1 || d->n_golds > COQA_GOLDS_MAX || d->n_prompt == 0)
            u.bad = true;
        for (size_t k = 0; k < d->n_golds && !u.bad; k++)
            d->golds[k] = unpack_text(&u);
    }
    if (unpack_end(&u, "coqa", e) < 0) {
        coqa_release(s);
        return -1;
    }
    find_stories(s);
    return 0;
}

void coqa_release(struct coqa_set *s)
{
    for (size_t i = 0; i < s->n && s->at; i++)
        free(s->at[i].prompt);
    free(s->at);
    free(s->first);
    *s = (struct coqa_set){ 0 };
}

static int ascending(const void *a, const void *b)
{
    size_t x = *(const size_t *)a, y = *(const size_t *)b;

    return (x > y) - (x < y);
}

size_t *coqa_pick(size_t n, int64_t limit, bool random, int64_t seed, size_t *n_picked)
{
    size_t *at = mem_array(n, sizeof *at);

    *n_picked = limit > 0 && (uint64_t)limit < n ? (size_t)limit : n;
    for (size_t i = 0; i < n; i++)
        at[i] = i;
    if (!random || *n_picked == n)
        return at;
    for (size_t i = 0; i < *n_picked; i++) { /* the first steps of a Fisher-Yates shuffle */
        size_t k = i + rng_below((uint64_t)seed, RNG_DOCUMENTS, i, n - i), x = at[i];
        at[i] = at[k];
        at[k] = x;
    }
    qsort(at, *n_picked, sizeof *at, ascending);
    return at;
}

size_t *coqa_pick_turns(const struct coqa_set *s, const struct coqa_options *o, int64_t seed,
                        size_t *n_picked)
{
    size_t n_stories, n = 0,
                      *story = coqa_pick(s->n_stories, o->limit, o->random, seed, &n_stories);
    size_t *at = mem_array(s->n, sizeof *at);

    for (size_t i = 0; i < n_stories; i++)
        for (size_t k = s->first[story[i]]; k < s->first[story[i] + 1]; k++)
            at[n++] = k;
    free(story);
    *n_picked = n;
    return at;
}
