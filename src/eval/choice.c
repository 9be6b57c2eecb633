/* choice.c - the task multiple_choice: log likelihoods -> what is chosen -> the record.
 *
 * acc: the choice of the largest log likelihood, the first of equal ones; acc_norm: of the largest
 * by character; lambada: whether greedy decoding gives the word.  */
#include "eval/choice.h"

#include "eval/coqa.h"
#include "eval/profile.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct picked { /* by one sweep file's options */
    size_t *at;
    size_t n;
};

static int pick(const struct choice_set *set, const struct js *options, int64_t seed,
                struct picked *out, struct err *e)
{
    const struct js *own = js_get(options, set->task->name);
    const char *subset;
    int64_t limit;

    if (js_int_or(own, "limit", 0, &limit, e) < 0 ||
        js_text_or(own, "subset", "first", &subset, e) < 0)
        return err_in(e, "%s", set->task->name);
    bool random = strcmp(subset, "random") == 0;
    if (limit < 0 || (!random && strcmp(subset, "first") != 0))
        return err_set(e, ERR_USAGE, "%s: limit should be 0 or more, subset first or random",
                       set->task->name);
    out->at = coqa_pick((size_t)set->n, limit, random, seed, &out->n);
    return 0;
}

/* ---- what is chosen ---- */

static int argmax(const double *x, int n)
{
    int best = 0;

    for (int k = 1; k < n; k++)
        if (x[k] > x[best])
            best = k;
    return best;
}

static int argmax_by_character(const struct choice_item *q, const double *x)
{
    double each[CHOICES_MAX];

    for (int k = 0; k < q->n; k++)
        each[k] = x[k] / (double)q->request[k].n_chars;
    return argmax(each, q->n);
}

/* ---- the record ---- */

static struct js *text_of(struct text t)
{
    return js_new_textn(t.data, t.n);
}

static bool same_text(struct text a, struct text b)
{
    return a.n == b.n && memcmp(a.data, b.data, a.n) == 0;
}

/* Questions of a subject stand together. */
static struct js *by_subject(const struct choice_set *set, const struct picked *p,
                             const struct choice_scores *s)
{
    struct js *table = js_new_object(), *subject = js_new_array(), *count = js_new_array();
    struct js *acc = js_new_array();

    for (size_t i = 0, k; i < p->n; i = k) {
        const struct text name = set->at[p->at[i]].subject;
        int64_t n_right = 0;
        for (k = i; k < p->n && same_text(set->at[p->at[k]].subject, name); k++) {
            const struct choice_item *q = &set->at[p->at[k]];
            n_right += argmax(s->log_likelihood[k], q->n) == q->gold;
        }
        js_append(subject, text_of(name));
        js_append(count, js_new_int((int64_t)(k - i)));
        js_append(acc, js_new_real((double)n_right / (double)(k - i)));
    }
    js_set(table, "subject", subject);
    js_set(table, "n", count);
    js_set(table, "acc", acc);
    return table;
}

static void record_names(const struct choice_set *set, const struct picked *p, struct js *out)
{
    struct js *document = js_new_array(), *id = js_new_array(), *turn = js_new_array();
    bool own = true; /* every question is a document of its own */
    int64_t n_truncated = 0;

    for (size_t i = 0; i < p->n; i++) {
        const struct choice_item *q = &set->at[p->at[i]];
        own = own && same_text(q->document, q->id);
        n_truncated += q->truncated;
        js_append(document, text_of(q->document));
        js_append(id, text_of(q->id));
        js_append(turn, js_new_int((int64_t)p->at[i]));
    }
    js_set_int(out, "n", (int64_t)p->n);
    js_set_int(out, "truncated", n_truncated);
    js_set_int(out, "version", set->task->version);
    js_set(out, "document_id", document);
    if (own) {
        js_release(id);
        js_release(turn);
        return;
    }
    js_set(out, "question_id", id);
    js_set(out, "turn", turn);
}

static void record_choices(const struct choice_set *set, const struct picked *p,
                           const struct choice_scores *s, struct js *out)
{
    struct js *chosen = js_new_array(), *correct = js_new_array(), *gold = js_new_array();
    struct js *chosen_norm = js_new_array(), *correct_norm = js_new_array(), *all = js_new_array();
    int64_t n_right = 0, n_right_norm = 0;

    for (size_t i = 0; i < p->n; i++) {
        const struct choice_item *q = &set->at[p->at[i]];
        const double *x = s->log_likelihood[i];
        int best = argmax(x, q->n), best_norm = argmax_by_character(q, x);
        struct js *row = js_new_array();
        for (int k = 0; k < q->n; k++)
            js_append(row, js_new_real(x[k]));
        js_append(all, row);
        js_append(gold, js_new_int(q->gold));
        js_append(chosen, js_new_int(best));
        js_append(correct, js_new_int(best == q->gold));
        js_append(chosen_norm, js_new_int(best_norm));
        js_append(correct_norm, js_new_int(best_norm == q->gold));
        n_right += best == q->gold;
        n_right_norm += best_norm == q->gold;
    }
    js_set_real(out, "acc", (double)n_right / (double)p->n);
    if (set->task->has_norm)
        js_set_real(out, "acc_norm", (double)n_right_norm / (double)p->n);
    js_set(out, "gold", gold);
    js_set(out, "chosen", chosen);
    js_set(out, "correct", correct);
    if (set->task->has_norm) {
        js_set(out, "chosen_norm", chosen_norm);
        js_set(out, "correct_norm", correct_norm);
    } else {
        js_release(chosen_norm);
        js_release(correct_norm);
    }
    js_set(out, "log_likelihood", all);
}

static void record_words(const struct picked *p, const struct choice_scores *s, struct js *out)
{
    struct js *correct = js_new_array(), *nll = js_new_array();
    int64_t n_right = 0;
    double sum = 0;

    for (size_t i = 0; i < p->n; i++) {
        js_append(correct, js_new_int(s->greedy[i]));
        js_append(nll, js_new_real(-s->log_likelihood[i][0]));
        n_right += s->greedy[i];
        sum -= s->log_likelihood[i][0];
    }
    js_set_real(out, "acc", (double)n_right / (double)p->n);
    js_set_real(out, "perplexity", exp(sum / (double)p->n));
    js_set(out, "correct", correct);
    js_set(out, "nll", nll);
}

static struct js *record(const struct choice_set *set, const struct picked *p,
                         const struct choice_scores *s)
{
    struct js *out = js_new_object();

    if (set->task->is_greedy)
        record_words(p, s, out);
    else
        record_choices(set, p, s, out);
    record_names(set, p, out);
    if (set->at[0].subject.n)
        js_set(out, "by_subject", by_subject(set, p, s));
    return out;
}

/* ---- the task ---- */

static int run_set(const struct task_context *c, const struct choice_set *set,
                   const struct js *options, struct js *out, struct err *e)
{
    struct picked p = { 0 };

    if (pick(set, options, c->seed, &p, e) < 0)
        return -1;
    struct choice_scores s = { .log_likelihood = mem_array(p.n, sizeof *s.log_likelihood),
                               .greedy = set->task->is_greedy ? mem_array(p.n, 1) : NULL };
    int rc = choice_run(c, set, p.at, (int64_t)p.n, &s, e);
    if (rc == 0)
        js_set(out, set->task->name, record(set, &p, &s));
    else
        err_in(e, "%s", set->task->name);
    free(s.log_likelihood);
    free(s.greedy);
    free(p.at);
    return rc;
}

static int multiple_choice_run(const struct task_context *c, const struct js *options,
                               const void *prepared, size_t n_bytes, struct js *out, struct err *e)
{
    struct choice_set *sets;
    int n, rc = choice_open(&sets, &n, prepared, n_bytes, e);

    for (int i = 0; i < n && rc == 0; i++)
        rc = run_set(c, &sets[i], options, out, e);
    choice_release(sets, n);
    return rc;
}

static int64_t tokens_of(const struct choice_item *q)
{
    int64_t n = 0;

    for (int k = 0; k < q->n; k++)
        n += q->request[k].n_ids - q->request[k].n_common;
    return n;
}

static int multiple_choice_work(const struct js *options, const void *prepared, size_t n_bytes,
                                int64_t *prompt_tokens, int64_t *new_tokens, struct err *e)
{
    struct choice_set *sets;
    int n, rc = choice_open(&sets, &n, prepared, n_bytes, e);

    *prompt_tokens = *new_tokens = 0;
    for (int s = 0; s < n && rc == 0; s++) {
        struct picked p = { 0 };
        rc = pick(&sets[s], options, 0, &p, e);
        for (size_t i = 0; i < p.n; i++)
            *prompt_tokens += tokens_of(&sets[s].at[p.at[i]]);
        free(p.at);
    }
    choice_release(sets, n);
    return rc;
}

const struct task task_multiple_choice = {
    .name = "multiple_choice",
    .version = 1,
    .prepare = choice_prepare,
    .run = multiple_choice_run,
    .work = multiple_choice_work,
};
