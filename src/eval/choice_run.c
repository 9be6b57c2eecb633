/* choice_run.c - see choice.h: requests through the model.
 *
 * A few questions at a time, each in a slot of the cache: their first requests in one pass, then
 * their second ones, and so on.  What a request begins like the one before it, of the same question
 * or of another, stays in the cache: the bits of a row depend on the ids up to it alone.  That does
 * not hold for LLM.int8, which finds its outlier columns in all rows of a call, and for frequencies
 * that depend on a text's length; there every request runs from its first id.  The head sees the
 * rows that predict a continuation.
 */
#include "eval/choice.h"

#include "eval/profile.h"
#include "eval/windows.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define QUESTIONS_MAX 64
#define PIECE         2048 /* ids of a request in one pass */
#define ROWS          2048 /* of a pass, about */

struct runner {
    const struct choice_set *set;
    struct kv_cache cache;
    struct forward *forward;
    int size;       /* questions at a time */
    bool shares;    /* requests of a question */
    int64_t piece;  /* ids of a request in one pass */
    int64_t n_rows; /* of a pass, at most */
    int64_t longest;
    /* A pass. */
    int32_t *ids, *targets, *next; /* [n_rows] */
    float *nll;                    /* [n_rows] */
    int32_t *slot, *n_tokens, *length;
    int32_t *fed;                       /* [size]: ids of each question's request that have run */
    const struct choice_request **held; /* [size]: whose ids are in each slot; NULL: nobody's */
};

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* The last id of a request is predicted, never seen. */
static int32_t inputs_of(const struct choice_request *q)
{
    return q->n_ids - 1;
}

/* ---- memory ---- */

static int64_t rows_for(const struct runner *r, int size)
{
    return most(r->piece, least(ROWS, size * r->longest));
}

static int size_for(const struct runner *r, const struct model *m, int64_t n)
{
    int64_t room = profile_batch_bytes(m);
    int size = (int)least(n, QUESTIONS_MAX);

    while (size > 1 && (int64_t)(forward_bytes(m, rows_for(r, size), size) +
                                 kv_cache_bytes(m, size, r->longest)) > room)
        size--;
    return size;
}

static int open_with(struct runner *r, const struct model *m, int size, struct err *e)
{
    r->size = size;
    r->n_rows = rows_for(r, size);
    if (kv_cache_open(&r->cache, m, size, r->longest, e) < 0)
        return -1;
    if (forward_open(&r->forward, m, r->n_rows, size, e) == 0)
        return 0;
    kv_cache_close(&r->cache);
    return -1;
}

static int open_runner(struct runner *r, const struct task_context *c, const size_t *picked,
                       int64_t n, struct err *e)
{
    const struct model *m = c->model;
    bool whole = model_looks_at_whole_calls(m);

    for (int64_t i = 0; i < n; i++)
        for (int k = 0; k < r->set->at[picked[i]].n; k++)
            r->longest = most(r->longest, inputs_of(&r->set->at[picked[i]].request[k]));
    r->piece = whole ? r->longest : least(r->longest, PIECE);
    r->shares = !whole && m->config.rope.type != ROPE_DYNAMIC;
    int size = c->batch_size > 0 ? (int)least(c->batch_size, n) : size_for(r, m, n);
    while (open_with(r, m, size, e) < 0) {
        /* Our own choice may be too large where memory is torn or shared. */
        if (c->batch_size > 0 || size == 1 || e->code != ERR_MEMORY)
            return -1;
        err_clear(e);
        size /= 2;
    }
    size_t rows = (size_t)r->n_rows, seqs = (size_t)r->size;
    r->ids = mem_array(rows, sizeof *r->ids);
    r->targets = mem_array(rows, sizeof *r->targets);
    r->next = mem_array(rows, sizeof *r->next);
    r->nll = mem_array(rows, sizeof *r->nll);
    r->slot = mem_array(seqs, sizeof *r->slot);
    r->n_tokens = mem_array(seqs, sizeof *r->n_tokens);
    r->length = mem_array(seqs, sizeof *r->length);
    r->fed = mem_array(seqs, sizeof *r->fed);
    r->held = mem_array(seqs, sizeof *r->held);
    return 0;
}

static void close_runner(struct runner *r)
{
    forward_close(r->forward);
    kv_cache_close(&r->cache);
    free(r->ids);
    free(r->targets);
    free(r->next);
    free(r->nll);
    free(r->slot);
    free(r->n_tokens);
    free(r->length);
    free(r->fed);
    free(r->held);
}

/* ---- passes ---- */

/* How much of a request is in its slot, from the one before.  The row that predicts the first id of
 * the continuation does not count: it has to be scored. */
static int32_t kept(const struct runner *r, int slot, const struct choice_request *now)
{
    const struct choice_request *before = r->held[slot];
    int32_t n = 0;

    if (!before || !r->shares)
        return 0;
    int64_t n_most = least(inputs_of(before), now->n_ids - now->n_scored - 1);
    while (n < n_most && before->ids[n] == now->ids[n])
        n++;
    return n;
}

/* The next rows of request k of the questions at picked[0 .. n - 1] that are not through; how many
 * sequences that makes. */
static int fill(struct runner *r, const size_t *picked, int n, int k, int64_t *n_rows)
{
    int n_seqs = 0;

    *n_rows = 0;
    for (int i = 0; i < n; i++) {
        const struct choice_item *q = &r->set->at[picked[i]];
        const struct choice_request *x = &q->request[k];
        int64_t take = k < q->n ? least(inputs_of(x) - r->fed[i], r->piece) : 0;
        if (take == 0 || *n_rows + take > r->n_rows)
            continue;
        for (int32_t at = r->fed[i]; at < r->fed[i] + take; at++) {
            r->ids[*n_rows] = x->ids[at];
            r->targets[(*n_rows)++] = at >= x->n_ids - x->n_scored - 1 ? x->ids[at + 1] : -1;
        }
        r->slot[n_seqs] = i;
        r->n_tokens[n_seqs] = (int32_t)take;
        r->length[n_seqs++] = inputs_of(x);
    }
    return n_seqs;
}

/* Adds what came out to the scores of the questions at picked[]. */
static int take_rows(struct runner *r, const size_t *picked, int n_seqs, int k,
                     struct choice_scores *out, const int64_t *place, struct err *e)
{
    int64_t row = 0;

    for (int s = 0; s < n_seqs; s++) {
        int i = r->slot[s];
        const struct choice_item *q = &r->set->at[picked[i]];
        for (int32_t t = 0; t < r->n_tokens[s]; t++, row++) {
            if (r->targets[row] < 0)
                continue;
            if (!isfinite(r->nll[row]))
                return err_set(e, ERR_INPUT, "the loss of choice %d of question %.*s is %g", k,
                               (int)q->id.n, q->id.data, (double)r->nll[row]);
            out->log_likelihood[place[i]][k] -= (double)r->nll[row];
            if (out->greedy && r->next[row] != r->targets[row])
                out->greedy[place[i]] = false;
        }
        r->fed[i] += r->n_tokens[s];
    }
    return 0;
}

/* Request k of the questions at picked[0 .. n - 1]. */
static int run_requests(struct runner *r, const size_t *picked, int n, int k,
                        struct choice_scores *out, const int64_t *place, struct err *e)
{
    struct forward_out result = { .nll = r->nll, .next_ids = r->next };
    enum want want = out->greedy ? WANT_NLL_GREEDY : WANT_NLL;
    int64_t n_rows;

    for (int i = 0; i < n; i++) {
        const struct choice_item *q = &r->set->at[picked[i]];
        if (k >= q->n)
            continue;
        r->fed[i] = kept(r, i, &q->request[k]);
        r->held[i] = &q->request[k];
        if (r->fed[i] == 0)
            kv_cache_drop(&r->cache, i);
        r->cache.length[i] = r->fed[i];
    }
    for (int n_seqs; (n_seqs = fill(r, picked, n, k, &n_rows)) > 0;) {
        const struct batch batch = { .phase = PHASE_PROMPT,
                                     .n_seqs = n_seqs,
                                     .slot = r->slot,
                                     .n_tokens = r->n_tokens,
                                     .ids = r->ids,
                                     .length = r->length,
                                     .targets = r->targets };
        if (forward_run(r->forward, &r->cache, &batch, want, NULL, 0, &result, e) < 0 ||
            take_rows(r, picked, n_seqs, k, out, place, e) < 0)
            return -1;
    }
    return 0;
}

static int run_all(struct runner *r, const size_t *picked, const int64_t *place, int64_t n,
                   struct choice_scores *out, struct err *e)
{
    for (int64_t i = 0; i < n; i += r->size) {
        int now = (int)least(n - i, r->size), n_requests = 0;
        for (int q = 0; q < now; q++)
            n_requests = (int)most(n_requests, r->set->at[picked[i + q]].n);
        for (int k = 0; k < n_requests; k++)
            if (run_requests(r, picked + i, now, k, out, place + i, e) < 0)
                return -1;
    }
    return 0;
}

int choice_run(const struct task_context *c, const struct choice_set *set, const size_t *picked,
               int64_t n, struct choice_scores *out, struct err *e)
{
    struct runner r = { .set = set };
    int64_t *place = window_order(n, c->shuffle, c->seed);
    size_t *at = mem_array((size_t)n, sizeof *at);

    for (int64_t i = 0; i < n; i++) {
        at[i] = picked[place[i]];
        memset(out->log_likelihood[i], 0, sizeof *out->log_likelihood);
        if (out->greedy)
            out->greedy[i] = true;
    }
    int rc = open_runner(&r, c, picked, n, e);
    if (rc == 0)
        rc = run_all(&r, at, place, n, out, e);
    close_runner(&r);
    free(at);
    free(place);
    return rc;
}
