/* windows.c - see windows.h: from a text to windows of ids. */
#include "eval/windows.h"

#include "base/file.h"
#include "base/rng.h"
#include "eval/dataset.h"
#include "eval/profile.h"

#include <stdlib.h>
#include <string.h>

#define MAGIC 0x324C5050u /* "PPL2" */

static const char *const names[] = { "gptq", "lm_eval", "llama_cpp" };

const char *protocol_name(enum protocol p)
{
    return names[p];
}

static int protocol_find(const char *name, enum protocol *out, struct err *e)
{
    for (int i = 0; i < 3; i++)
        if (strcmp(name, names[i]) == 0) {
            *out = (enum protocol)i;
            return 0;
        }
    return err_set(e, ERR_USAGE, "protocol \"%.32s\", should be gptq, lm_eval or llama_cpp", name);
}

/* ---- what all share ---- */

/* Windows as they are made: each packed at once, their number known at the end. */
struct cutting {
    const struct tokenizer *t;
    const struct profile *p;
    const struct config *c;
    enum protocol protocol;
    int64_t window;
    struct bytes body;
    int64_t n_windows, n_documents, n_words, n_bytes;
};

static void add_window(struct cutting *x, const int32_t *ids, int64_t n, int64_t n_scored,
                       int64_t document)
{
    pack_u32(&x->body, (uint32_t)document);
    pack_u32(&x->body, (uint32_t)n_scored);
    pack_ids(&x->body, ids, (size_t)n);
    x->n_windows++;
}

static int check_window(const struct cutting *x, struct err *e)
{
    int64_t least = x->protocol == PROTOCOL_LLAMA_CPP ? 4 : 2;

    if (x->window < least)
        return err_set(e, ERR_USAGE, "a window of %lld tokens, should be %lld or more",
                       (long long)x->window, (long long)least);
    if (x->window > x->c->max_position)
        return err_set(e, ERR_USAGE, "a window of %lld tokens, but the model has %lld positions",
                       (long long)x->window, (long long)x->c->max_position);
    return 0;
}

/* ---- windows that do not overlap ---- */

/* Text or ids -> one row of ids, or rows that are windows as they stand. */
static int read_ids(const struct cutting *x, const char *path, struct id_table *out, struct err *e)
{
    struct bytes text = BYTES_INIT;
    struct token_ids ids = TOKEN_IDS_INIT;

    *out = (struct id_table){ .n_rows = 1, .n_dims = 1 };
    if (dataset_kind(path) == DATASET_IDS)
        return dataset_ids(path, out, e);
    bytes_text(&text, "");
    int rc = dataset_text(path, &text, e);
    if (rc == 0 && profile_encode(x->p, x->t, x->c, text.data, text.n, &ids, e) < 0)
        rc = err_in(e, "%s", path);
    bytes_release(&text);
    if (rc < 0) {
        token_ids_release(&ids);
        return -1;
    }
    out->ids = ids.ids;
    out->n_cols = (int64_t)ids.n;
    return 0;
}

static bool puts_bos_in_front(const struct cutting *x)
{
    return x->p->add_bos && x->t && tokenizer_adds_bos(x->t) && tokenizer_bos_id(x->t) >= 0;
}

static int cut_plain(struct cutting *x, const char *path, struct err *e)
{
    struct id_table table;
    int64_t least = x->protocol == PROTOCOL_LLAMA_CPP ? 2 : 1;

    if (read_ids(x, path, &table, e) < 0)
        return -1;
    if (table.n_dims == 2)
        x->window = table.n_cols;
    int64_t n = table.n_rows * table.n_cols;
    int rc = check_window(x, e);
    if (rc == 0 && n < least * x->window)
        rc = err_set(e, ERR_INPUT, "%lld tokens, less than %s of %lld", (long long)n,
                     least == 1 ? "one window" : "two windows", (long long)x->window);
    if (rc == 0)
        rc = profile_check_ids(x->c, table.ids, (size_t)n, e);
    for (int64_t i = 0; rc == 0 && i < n / x->window; i++) {
        int32_t *ids = table.ids + i * x->window;
        int64_t n_scored = x->window - 1;
        if (x->protocol == PROTOCOL_LLAMA_CPP) {
            n_scored = x->window - 1 - x->window / 2;
            if (puts_bos_in_front(x) && table.n_dims == 1)
                ids[0] = tokenizer_bos_id(x->t);
        }
        add_window(x, ids, x->window, n_scored, i);
    }
    if (rc < 0)
        err_in(e, "%s", path);
    id_table_release(&table);
    return rc;
}

/* ---- documents, rolling ---- */

/* ids[0] is the prefix, which is not scored. */
static void cut_document(struct cutting *x, const int32_t *ids, int64_t n)
{
    int64_t n_predicted = n - 1, first = n_predicted < x->window ? n_predicted : x->window;

    if (n_predicted < 1)
        return;
    add_window(x, ids, first + 1, first, x->n_documents);
    for (int64_t done = first; done < n_predicted;) {
        int64_t rest = n_predicted - done, take = rest < x->window ? rest : x->window;
        done += take;
        /* The inputs are the `window` ids that end just before the last predicted one. */
        add_window(x, ids + done - x->window, x->window + 1, take, x->n_documents);
    }
}

static int add_document(struct cutting *x, const char *page, size_t n_bytes, struct err *e)
{
    struct bytes text = BYTES_INIT;
    struct token_ids ids = TOKEN_IDS_INIT;
    int32_t prefix = tokenizer_bos_id(x->t) >= 0 ? tokenizer_bos_id(x->t) : tokenizer_eos_id(x->t);

    bytes_text(&text, "");
    wikitext_detokenize(page, n_bytes, &text);
    ids.ids = mem_array(1, sizeof *ids.ids);
    ids.ids[0] = prefix;
    ids.n = ids.room = 1;
    int rc = prefix < 0 ? err_set(e, ERR_INPUT, "the tokenizer has neither BOS nor EOS") : 0;
    if (rc == 0)
        rc = profile_encode(x->p, x->t, x->c, text.data, text.n, &ids, e);
    if (rc == 0) {
        cut_document(x, ids.ids, (int64_t)ids.n);
        x->n_words += wikitext_n_words(page, n_bytes);
        x->n_bytes += (int64_t)n_bytes;
        x->n_documents++;
    }
    token_ids_release(&ids);
    bytes_release(&text);
    return rc;
}

static int cut_pages(struct cutting *x, const char *path, struct err *e)
{
    struct bytes text = BYTES_INIT;
    int rc = file_read(path, &text, e);

    for (size_t at = 0; rc == 0 && at < text.n;) {
        size_t n = wikitext_page(text.data + at, text.n - at);
        rc = add_document(x, text.data + at, n, e);
        at += n;
    }
    bytes_release(&text);
    return rc < 0 ? err_in(e, "%s", path) : 0;
}

static int take_document(void *context, const char *text, size_t n_bytes, struct err *e)
{
    return add_document(context, text, n_bytes, e);
}

static int cut_documents(struct cutting *x, const char *path, struct err *e)
{
    if (check_window(x, e) < 0)
        return err_in(e, "%s", path);
    if (dataset_kind(path) == DATASET_IDS)
        return err_set(e, ERR_USAGE,
                       "%s: protocol lm_eval counts words and bytes, which token ids do not have; "
                       "it needs a text",
                       path);
    int rc = dataset_kind(path) == DATASET_JSONL ? dataset_texts(path, take_document, x, e)
                                                 : cut_pages(x, path, e);
    if (rc == 0 && x->n_windows == 0)
        rc = err_set(e, ERR_INPUT, "%s: no document has a token", path);
    return rc;
}

/* ---- bytes ---- */

static void pack_i64(struct bytes *b, int64_t value)
{
    pack_u32(b, (uint32_t)value);
    pack_u32(b, (uint32_t)((uint64_t)value >> 32));
}

static int64_t unpack_i64(struct unpack *u)
{
    uint64_t low = unpack_u32(u), high = unpack_u32(u);

    return (int64_t)(low | high << 32);
}

static int64_t standard_window(enum protocol p, const struct config *c)
{
    return p == PROTOCOL_LM_EVAL ? c->max_position : p == PROTOCOL_LLAMA_CPP ? 512 : 2048;
}

int windows_prepare(const struct js *options, const struct tokenizer *t, const struct profile *p,
                    const struct config *c, struct bytes *out, struct err *e)
{
    struct cutting x = { .t = t, .p = p, .c = c };
    const char *path, *name;

    if (js_want_text(options, "path", &path, e) < 0 ||
        js_text_or(options, "protocol", "gptq", &name, e) < 0 ||
        js_int_or(options, "window", 0, &x.window, e) < 0 ||
        protocol_find(name, &x.protocol, e) < 0)
        return err_in(e, "[tasks.perplexity]");
    if (x.window == 0)
        x.window = standard_window(x.protocol, c);
    bytes_add(&x.body, "", 0);
    int rc = x.protocol == PROTOCOL_LM_EVAL ? cut_documents(&x, path, e) : cut_plain(&x, path, e);
    if (rc == 0) {
        pack_u32(out, MAGIC);
        pack_u32(out, (uint32_t)x.window);
        pack_u32(out, x.protocol);
        pack_i64(out, x.n_words);
        pack_i64(out, x.n_bytes);
        pack_u32(out, (uint32_t)x.n_documents);
        pack_u32(out, (uint32_t)x.n_windows);
        bytes_add(out, x.body.data, x.body.n);
    }
    bytes_release(&x.body);
    return rc;
}

int windows_open(struct windows *w, const char *task, const void *prepared, size_t n_bytes,
                 struct err *e)
{
    struct unpack u = { prepared, n_bytes, false };

    *w = (struct windows){ 0 };
    if (unpack_u32(&u) != MAGIC)
        return err_set(e, ERR_INPUT, "prepared data of %s: not what this version writes", task);
    w->window = unpack_u32(&u);
    w->protocol = unpack_u32(&u) % 3;
    w->n_words = unpack_i64(&u);
    w->n_bytes = unpack_i64(&u);
    w->n_documents = unpack_u32(&u);
    w->n = (int64_t)unpack_count(&u, 12);
    w->at = mem_array((size_t)w->n, sizeof *w->at);
    for (int64_t i = 0; i < w->n && !u.bad; i++) {
        struct text_window *x = &w->at[i];
        size_t n;
        x->document = unpack_u32(&u);
        x->n_scored = unpack_u32(&u);
        x->ids = unpack_ids(&u, &n);
        x->n = (int64_t)n;
        w->longest = x->n > w->longest ? x->n : w->longest;
        if (x->n_scored < 1 || x->n_scored >= x->n)
            u.bad = true;
    }
    u.bad = u.bad || w->n == 0;
    if (unpack_end(&u, task, e) < 0) {
        windows_release(w);
        return -1;
    }
    return 0;
}

void windows_release(struct windows *w)
{
    for (int64_t i = 0; i < w->n && w->at; i++)
        free(w->at[i].ids);
    free(w->at);
    *w = (struct windows){ 0 };
}

int64_t windows_n_tokens(const struct windows *w)
{
    int64_t n = 0;

    for (int64_t i = 0; i < w->n; i++)
        n += w->at[i].n;
    return n;
}

int64_t windows_n_scored(const struct windows *w)
{
    int64_t n = 0;

    for (int64_t i = 0; i < w->n; i++)
        n += w->at[i].n_scored;
    return n;
}

int64_t *window_order(int64_t n, bool shuffle, int64_t seed)
{
    int64_t *order = mem_array((size_t)n, sizeof *order);

    for (int64_t i = 0; i < n; i++)
        order[i] = i;
    for (int64_t i = 0; shuffle && i + 1 < n; i++) {
        int64_t k =
            i + (int64_t)rng_below((uint64_t)seed, RNG_TEST, (uint64_t)i, (uint64_t)(n - i));
        int64_t x = order[i];
        order[i] = order[k];
        order[k] = x;
    }
    return order;
}
