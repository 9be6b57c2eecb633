/* coqa_official.c - the official evaluation of predictions (stanfordnlp/coqa-baselines,
 * evaluate-v1.0.py): every turn of every story, all gold answers, means over turns by domain.  */
#include "eval/coqa.h"

#include "eval/score_answer.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static const struct domain {
    const char *source, *name;
    bool in_domain;
} domains[] = {
    { "mctest", "children_stories", true }, { "gutenberg", "literature", true },
    { "race", "mid-high_school", true },    { "cnn", "news", true },
    { "wikipedia", "wikipedia", true },     { "reddit", "reddit", false },
    { "science", "science", false },
};
enum { N_DOMAINS = sizeof domains / sizeof *domains };

/* ---- predictions ---- */

struct prediction {
    struct text id;
    int64_t turn;
    struct text answer;
};

static int compare_text(struct text a, struct text b)
{
    int order = memcmp(a.data, b.data, a.n < b.n ? a.n : b.n);

    return order ? order : (a.n > b.n) - (a.n < b.n);
}

static int by_id_and_turn(const void *a, const void *b)
{
    const struct prediction *x = a, *y = b;
    int order = compare_text(x->id, y->id);

    return order ? order : (x->turn > y->turn) - (x->turn < y->turn);
}

static int read_prediction(const struct js *j, struct prediction *p, struct err *e)
{
    const char *id, *answer;

    if (js_kind(j) != JS_OBJECT)
        return err_set(e, ERR_INPUT, "should be an object with id, turn_id and answer");
    if (js_want_text(j, "id", &id, e) < 0 || js_want_int(j, "turn_id", &p->turn, e) < 0 ||
        js_want_text(j, "answer", &answer, e) < 0)
        return -1;
    p->id = (struct text){ id, js_text_bytes(js_get(j, "id")) };
    p->answer = (struct text){ answer, js_text_bytes(js_get(j, "answer")) };
    return 0;
}

/* Sorted; texts are borrowed from the parsed file. */
static struct prediction *read_predictions(const struct js *j, size_t *n, struct err *e)
{
    struct prediction *out = mem_array(js_count(j), sizeof *out);

    *n = js_count(j);
    if (js_kind(j) != JS_ARRAY) {
        err_set(e, ERR_INPUT, "should be a list of objects with id, turn_id and answer");
        goto failed;
    }
    for (size_t i = 0; i < *n; i++)
        if (read_prediction(js_at(j, i), &out[i], e) < 0) {
            err_in(e, "[%zu]", i);
            goto failed;
        }
    qsort(out, *n, sizeof *out, by_id_and_turn);
    for (size_t i = 1; i < *n; i++)
        if (by_id_and_turn(&out[i - 1], &out[i]) == 0) {
            err_set(e, ERR_INPUT, "story \"%.64s\" has two predictions for turn %lld",
                    out[i].id.data, (long long)out[i].turn);
            goto failed;
        }
    return out;
failed:
    free(out);
    return NULL;
}

/* ---- scores ---- */

struct sums {
    double em, f1;
    int64_t n;
};

static void add(struct sums *to, struct answer_score s)
{
    to->em += s.em;
    to->f1 += s.f1;
    to->n++;
}

/* A mean as a percentage with one decimal, as Python's round() gives it (ties to even). */
static double percent(double sum, int64_t n)
{
    return n ? rint(sum / (double)n * 1000) / 10 : 0;
}

static void put(struct js *out, const char *name, struct sums s)
{
    struct js *row = js_new_object();

    js_set_real(row, "em", percent(s.em, s.n));
    js_set_real(row, "f1", percent(s.f1, s.n));
    js_set_int(row, "turns", s.n);
    js_set(out, name, row);
}

static struct js *table_of(const struct sums *sum)
{
    struct js *out = js_new_object();
    struct sums part[2] = { 0 }, all = { 0 };

    for (int i = 0; i < N_DOMAINS; i++) {
        struct sums *to = &part[domains[i].in_domain];
        put(out, domains[i].name, sum[i]);
        *to = (struct sums){ to->em + sum[i].em, to->f1 + sum[i].f1, to->n + sum[i].n };
    }
    all = (struct sums){ part[0].em + part[1].em, part[0].f1 + part[1].f1, part[0].n + part[1].n };
    put(out, "in_domain", part[1]);
    put(out, "out_domain", part[0]);
    put(out, "overall", all);
    return out;
}

static int domain_of(const struct coqa_document *d, struct err *e)
{
    for (int i = 0; i < N_DOMAINS; i++)
        if (strlen(domains[i].source) == d->source.n &&
            memcmp(domains[i].source, d->source.data, d->source.n) == 0)
            return i;
    return err_set(e, ERR_INPUT, "source \"%.*s\" belongs to no domain of CoQA",
                   (int)(d->source.n < 64 ? d->source.n : 64), d->source.data);
}

static int score_story(const struct js *story, size_t n_turns, const struct prediction *p, size_t n,
                       struct sums *sum, int64_t *n_missing, struct err *e)
{
    for (size_t turn = 0; turn < n_turns; turn++) {
        struct coqa_document d = { 0 };
        struct answer_score s = { 0 };
        if (coqa_turn(story, turn, &d, e) < 0)
            return -1;
        int at = domain_of(&d, e);
        if (at < 0)
            return -1;
        struct prediction key = { .id = d.id, .turn = d.turn };
        const struct prediction *found = bsearch(&key, p, n, sizeof *p, by_id_and_turn);
        if (found)
            s = answer_score_all(d.golds, d.n_golds, found->answer);
        *n_missing += !found;
        add(&sum[at], s);
    }
    return 0;
}

struct js *coqa_official(const char *predictions, const char *data, int64_t *n_missing,
                         struct err *e)
{
    struct stories stories;
    struct sums sum[N_DOMAINS] = { 0 };
    size_t n, *n_turns;
    struct js *said = js_read(predictions, e), *out = NULL;
    struct prediction *p = said ? read_predictions(said, &n, e) : NULL;

    *n_missing = 0;
    if (said && !p)
        err_in(e, "%s", predictions);
    if (!p || coqa_stories(data, &stories, &n_turns, e) < 0)
        goto out;
    int rc = 0;
    for (size_t i = 0; i < stories.n && rc == 0; i++)
        if (score_story(stories.at[i], n_turns[i], p, n, sum, n_missing, e) < 0)
            rc = err_in(e, "%s of %s", stories.where[i], data);
    if (rc == 0)
        out = table_of(sum);
    stories_release(&stories);
    free(n_turns);
out:
    free(p);
    js_release(said);
    return out;
}
