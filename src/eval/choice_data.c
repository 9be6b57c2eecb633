/* choice_data.c - see choice.h: questions as ids, and the bytes between prepare() and run().
 *
 * lm-evaluation-harness's rule: white space at the end of a context moves to the front of its
 * continuation; the continuation's ids are what encode(context + continuation) has behind as many
 * ids as encode(context) gives; of both together the last max_length + 1 stay.  */
#include "eval/choice.h"

#include "eval/profile.h"
#include "tokenizer/unicode.h"

#include <stdlib.h>
#include <string.h>

#define MAGIC 0x31504C4Du /* "MLP1" */

struct encoder {
    const struct tokenizer *t;
    const struct profile *p;
    const struct config *c;
    struct bytes body;
    uint32_t n;
    /* The last context and its ids: those of one question are mostly the same. */
    struct bytes context;
    struct token_ids context_ids;
};

/* ---- text -> ids ---- */

/* Bytes of s without the white space at its end. */
static size_t stripped(const struct bytes *s)
{
    const char *end = s->data + s->n;

    while (end > s->data) {
        const char *before = end;
        if (!python_is_space(utf8_before(&before)))
            break;
        end = before;
    }
    return (size_t)(end - s->data);
}

static int encode_context(struct encoder *x, const char *text, size_t n, struct err *e)
{
    if (x->context.data && x->context.n == n && memcmp(x->context.data, text, n) == 0)
        return 0;
    bytes_release(&x->context);
    token_ids_release(&x->context_ids);
    bytes_add(&x->context, text, n);
    return profile_encode(x->p, x->t, x->c, text, n, &x->context_ids, e);
}

/* Without a context the model is shown the prefix id alone. */
static int encode_alone(struct encoder *x, const struct bytes *text, struct token_ids *out,
                        size_t *n_context, struct err *e)
{
    struct profile bare = *x->p;
    int32_t bos = tokenizer_bos_id(x->t), prefix = bos >= 0 ? bos : tokenizer_eos_id(x->t);
    struct token_ids ids = TOKEN_IDS_INIT;

    bare.add_bos = false;
    if (prefix < 0)
        return err_set(e, ERR_INPUT, "no context, and the tokenizer has neither BOS nor EOS");
    int rc = profile_encode(&bare, x->t, x->c, text->data, text->n, &ids, e);
    size_t skip = ids.n && ids.ids[0] == prefix;
    out->ids = mem_array(ids.n + 1, sizeof *out->ids);
    out->n = out->room = ids.n + 1 - skip;
    out->ids[0] = prefix;
    for (size_t i = skip; i < ids.n; i++)
        out->ids[i + 1 - skip] = ids.ids[i];
    *n_context = 1;
    token_ids_release(&ids);
    return rc;
}

static int encode_pair(struct encoder *x, const struct bytes *context, const struct bytes *choice,
                       struct token_ids *out, size_t *n_context, struct err *e)
{
    size_t n = stripped(context);
    struct bytes all = BYTES_INIT;
    int rc;

    if (context->n == 0) {
        bytes_text(&all, " ");
        bytes_add(&all, choice->data, choice->n);
        rc = encode_alone(x, &all, out, n_context, e);
        bytes_release(&all);
        return rc;
    }
    bytes_add(&all, context->data, context->n);
    bytes_text(&all, " ");
    bytes_add(&all, choice->data, choice->n);
    rc = encode_context(x, all.data, n, e);
    if (rc == 0)
        rc = profile_encode(x->p, x->t, x->c, all.data, all.n, out, e);
    *n_context = x->context_ids.n;
    bytes_release(&all);
    return rc;
}

static int32_t count_chars(const struct bytes *text)
{
    int32_t n = 0;

    for (const char *s = text->data; s < text->data + text->n; n++)
        utf8_next(&s);
    return n;
}

/* ---- questions -> bytes ---- */

/* What is kept of a request, in the order it is packed. */
static int add_request(struct encoder *x, const struct question *q, int k, struct token_ids *last,
                       bool *truncated, struct bytes *out, struct err *e)
{
    struct token_ids ids = TOKEN_IDS_INIT;
    size_t n_context = 0, n_common = 0, room = (size_t)x->p->max_length + 1;
    int rc = encode_pair(x, &q->context[k], &q->choice[k], &ids, &n_context, e);

    if (rc == 0 && n_context >= ids.n)
        rc = err_set(e, ERR_INPUT, "choice %d has no token of its own", k);
    if (rc == 0 && n_context == 0)
        rc = err_set(e, ERR_INPUT, "the context of choice %d has no token", k);
    if (rc == 0 && ids.n - n_context >= room)
        rc = err_set(e, ERR_INPUT, "choice %d has %zu tokens, but the model has %lld positions", k,
                     ids.n - n_context, (long long)x->p->max_length);
    if (rc == 0) {
        size_t cut = ids.n > room ? ids.n - room : 0, n = ids.n - cut;
        const int32_t *from = ids.ids + cut;
        while (n_common < n && n_common < last->n && last->ids[n_common] == from[n_common])
            n_common++;
        *truncated = *truncated || cut;
        pack_u32(out, (uint32_t)n_common);
        pack_u32(out, (uint32_t)(ids.n - n_context));
        pack_u32(out, (uint32_t)count_chars(&q->choice[k]));
        pack_ids(out, from + n_common, n - n_common);
        memmove(ids.ids, from, n * sizeof *ids.ids);
        ids.n = n;
    }
    token_ids_release(last);
    *last = ids;
    return rc;
}

static int take_question(void *context, const struct question *q, struct err *e)
{
    struct encoder *x = context;
    struct bytes requests = BYTES_INIT;
    struct token_ids last = TOKEN_IDS_INIT;
    bool truncated = false;
    int rc = 0;

    bytes_add(&requests, "", 0);
    for (int k = 0; k < q->n && rc == 0; k++)
        rc = add_request(x, q, k, &last, &truncated, &requests, e);
    token_ids_release(&last);
    if (rc == 0) {
        pack_text(&x->body, q->document.data, q->document.n);
        pack_text(&x->body, q->id.data, q->id.n);
        pack_text(&x->body, q->subject.data, q->subject.n);
        pack_u32(&x->body, truncated);
        pack_u32(&x->body, (uint32_t)q->gold);
        pack_u32(&x->body, (uint32_t)q->n);
        bytes_add(&x->body, requests.data, requests.n);
        x->n++;
    } else {
        err_in(e, "question %.*s", (int)q->id.n, q->id.data);
    }
    bytes_release(&requests);
    return rc;
}

static int prepare_one(const struct choice_task *task, const struct js *options,
                       const struct tokenizer *t, const struct profile *p, const struct config *c,
                       struct bytes *out, struct err *e)
{
    struct encoder x = { .t = t, .p = p, .c = c };
    const char *path;
    int64_t n_shots = 0;

    bytes_add(&x.body, "", 0);
    int rc = js_want_text(options, "path", &path, e) < 0 ||
                     js_int_or(options, "num_fewshot", 0, &n_shots, e) < 0
                 ? -1
                 : 0;
    if (rc == 0 && (n_shots < 0 || n_shots > (task->has_subjects ? SHOTS_MAX : 0)))
        rc = err_set(e, ERR_USAGE, "num_fewshot %lld, at most %d is allowed", (long long)n_shots,
                     task->has_subjects ? SHOTS_MAX : 0);
    if (rc == 0)
        rc = choice_read(task, path, (int)n_shots, take_question, &x, e);
    if (rc == 0) {
        pack_text(out, task->name, strlen(task->name));
        pack_u32(out, (uint32_t)task->version);
        pack_u32(out, x.n);
        bytes_add(out, x.body.data, x.body.n);
    }
    bytes_release(&x.body);
    bytes_release(&x.context);
    token_ids_release(&x.context_ids);
    return rc < 0 ? err_in(e, "[tasks.multiple_choice.%s]", task->name) : 0;
}

int choice_prepare(const struct js *options, const struct tokenizer *t, const struct profile *p,
                   const struct config *c, struct bytes *out, struct err *e)
{
    pack_u32(out, MAGIC);
    pack_u32(out, (uint32_t)js_count(options));
    for (const struct choice_task *task = choice_tasks; task->name; task++)
        if (js_get(options, task->name) &&
            prepare_one(task, js_get(options, task->name), t, p, c, out, e) < 0)
            return -1;
    return 0;
}

/* ---- bytes -> questions ---- */

static void read_request(struct unpack *u, const struct choice_request *before,
                         struct choice_request *r)
{
    size_t n = 0;

    r->n_common = (int32_t)unpack_u32(u);
    r->n_scored = (int32_t)unpack_u32(u);
    r->n_chars = (int32_t)unpack_u32(u);
    int32_t *rest = unpack_ids(u, &n);
    if (r->n_common < 0 || r->n_common > (before ? before->n_ids : 0))
        u->bad = true;
    if (!u->bad) {
        r->n_ids = r->n_common + (int32_t)n;
        r->ids = mem_array((size_t)r->n_ids, sizeof *r->ids);
        if (before)
            memcpy(r->ids, before->ids, (size_t)r->n_common * sizeof *r->ids);
        if (n)
            memcpy(r->ids + r->n_common, rest, n * sizeof *r->ids);
        if (r->n_scored < 1 || r->n_scored >= r->n_ids)
            u->bad = true;
    }
    free(rest);
}

static void read_item(struct unpack *u, struct choice_item *item)
{
    item->document = unpack_text(u);
    item->id = unpack_text(u);
    item->subject = unpack_text(u);
    item->truncated = unpack_u32(u) != 0;
    item->gold = (int)unpack_u32(u);
    int n = (int)unpack_u32(u);
    if (n < 1 || n > CHOICES_MAX || item->gold < 0 || item->gold >= n)
        u->bad = true;
    for (int k = 0; k < n && !u->bad; k++) {
        item->n = k + 1;
        read_request(u, k ? &item->request[k - 1] : NULL, &item->request[k]);
    }
}

static void read_set(struct unpack *u, struct choice_set *s)
{
    struct text name = unpack_text(u);
    uint32_t version = unpack_u32(u);

    for (const struct choice_task *t = choice_tasks; t->name; t++)
        if (strlen(t->name) == name.n && memcmp(t->name, name.data, name.n) == 0)
            s->task = t;
    if (!s->task || (uint32_t)s->task->version != version) {
        u->bad = true;
        return;
    }
    s->n = (int64_t)unpack_count(u, 40);
    s->at = mem_array((size_t)s->n, sizeof *s->at);
    for (int64_t i = 0; i < s->n && !u->bad; i++)
        read_item(u, &s->at[i]);
    u->bad = u->bad || s->n == 0;
}

int choice_open(struct choice_set **sets, int *n_sets, const void *prepared, size_t n_bytes,
                struct err *e)
{
    struct unpack u = { prepared, n_bytes, false };

    *sets = NULL;
    *n_sets = 0;
    if (unpack_u32(&u) != MAGIC)
        return err_set(e, ERR_INPUT,
                       "prepared data of multiple_choice: not what this version "
                       "writes");
    *n_sets = (int)unpack_count(&u, 12);
    *sets = mem_array((size_t)*n_sets, sizeof **sets);
    for (int i = 0; i < *n_sets && !u.bad; i++)
        read_set(&u, &(*sets)[i]);
    if (unpack_end(&u, "multiple_choice", e) < 0) {
        choice_release(*sets, *n_sets);
        *sets = NULL;
        *n_sets = 0;
        return -1;
    }
    return 0;
}

void choice_release(struct choice_set *sets, int n_sets)
{
    for (int s = 0; s < n_sets; s++) {
        for (int64_t i = 0; i < sets[s].n && sets[s].at; i++)
            for (int k = 0; k < sets[s].at[i].n; k++)
                free(sets[s].at[i].request[k].ids);
        free(sets[s].at);
    }
    free(sets);
}
