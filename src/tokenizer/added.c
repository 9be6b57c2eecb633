/* added.c - added tokens: found in text as a whole, leftmost first, the longest at a place.
 *
 * Special tokens are found in ordinary text too ("<|eot_id|>" inside a document is one id): what
 * the reference does, and with it lm-evaluation-harness.  */
#include "tokenizer/stages.h"

#include <stdlib.h>
#include <string.h>

struct trie_node {
    unsigned char byte;
    int32_t token;       /* that ends here, or -1 */
    int32_t child, next; /* first child, next sibling; -1: none */
};

static int32_t trie_node_new(struct trie *t, unsigned char byte, int32_t next)
{
    if (t->n == t->room) {
        t->room = t->room ? 2 * t->room : 64;
        t->nodes = mem_grow(t->nodes, t->room, sizeof *t->nodes);
    }
    t->nodes[t->n] = (struct trie_node){ byte, -1, -1, next };
    return (int32_t)t->n++;
}

static int32_t sibling(const struct trie *t, int32_t node, unsigned char byte)
{
    while (node >= 0 && t->nodes[node].byte != byte)
        node = t->nodes[node].next;
    return node;
}

static void trie_init(struct trie *t)
{
    memset(t->first, 0xFF, sizeof t->first);
}

static void trie_add(struct trie *t, const char *s, size_t n, int32_t token)
{
    int32_t at = -1;

    for (size_t i = 0; i < n; i++) {
        unsigned char byte = (unsigned char)s[i];
        int32_t *first = i == 0 ? &t->first[byte] : &t->nodes[at].child;
        int32_t next = sibling(t, *first, byte);
        if (next < 0) {
            int32_t older = *first;
            next = trie_node_new(t, byte, older); /* may move the nodes */
            *(i == 0 ? &t->first[byte] : &t->nodes[at].child) = next;
        }
        at = next;
    }
    if (at >= 0 && t->nodes[at].token < 0)
        t->nodes[at].token = token;
}

/* The longest token at s, or -1. */
static int32_t trie_match(const struct trie *t, const char *s, size_t n, size_t *length)
{
    int32_t node = t->first[(unsigned char)s[0]], found = -1;

    for (size_t i = 0; node >= 0; node = sibling(t, t->nodes[node].child, (unsigned char)s[i])) {
        i++;
        if (t->nodes[node].token >= 0) {
            found = t->nodes[node].token;
            *length = i;
        }
        if (i == n)
            break;
    }
    return found;
}

/* ---- reading ---- */

static int token_read(struct added_token *t, const struct js *j, const struct bpe *bpe,
                      struct err *e)
{
    const char *content;
    int64_t id;

    if (js_kind(j) != JS_OBJECT)
        return err_set(e, ERR_INPUT, "should be an object");
    if (js_want_text(j, "content", &content, e) < 0 || js_want_int(j, "id", &id, e) < 0 ||
        js_bool_or(j, "special", false, &t->special, e) < 0 ||
        js_bool_or(j, "single_word", false, &t->single_word, e) < 0 ||
        js_bool_or(j, "lstrip", false, &t->lstrip, e) < 0 ||
        js_bool_or(j, "rstrip", false, &t->rstrip, e) < 0 ||
        js_bool_or(j, "normalized", !t->special, &t->normalized, e) < 0)
        return -1;
    if (id < 0 || id >= TOKEN_ID_LIMIT)
        return err_set(e, ERR_INPUT, "id %lld should be 0 to %d", (long long)id,
                       TOKEN_ID_LIMIT - 1);
    t->content_bytes = js_text_bytes(js_get(j, "content"));
    t->content = mem_textn(content, t->content_bytes);
    /* A token that the vocabulary has too keeps its id there. */
    t->id = bpe_id(bpe, content, t->content_bytes);
    if (t->id < 0)
        t->id = (int32_t)id;
    return 0;
}

static int index_tokens(struct added *a, const struct normalizers *normalizers, struct err *e)
{
    for (size_t i = 0; i < a->n; i++)
        if ((size_t)a->tokens[i].id >= a->n_ids)
            a->n_ids = (size_t)a->tokens[i].id + 1;
    a->by_id = mem_array(a->n_ids, sizeof *a->by_id);
    memset(a->by_id, 0xFF, a->n_ids * sizeof *a->by_id);
    for (size_t i = 0; i < a->n; i++) {
        struct added_token *t = &a->tokens[i];
        int32_t *at = &a->by_id[t->id];
        if (*at >= 0 && (a->tokens[*at].content_bytes != t->content_bytes ||
                         memcmp(a->tokens[*at].content, t->content, t->content_bytes) != 0))
            return err_set(e, ERR_INPUT, "\"%.64s\" and \"%.64s\" have the same id %d",
                           a->tokens[*at].content, t->content, t->id);
        if (*at < 0)
            *at = (int32_t)i;
        bytes_add(&t->text, t->content, t->content_bytes);
        if (t->normalized && normalizers_run(normalizers, &t->text, e) < 0)
            return -1;
        trie_add(t->normalized ? &a->normalized : &a->raw, t->text.data, t->text.n, (int32_t)i);
    }
    for (size_t i = 0; i < a->n; i++) {
        struct added_token *t = &a->tokens[i];
        const struct added_token *same = added_find(a, t->text.data, t->text.n);
        t->skipped = same && same->special;
    }
    return 0;
}

int added_read(struct added *out, const struct js *list, const struct bpe *bpe,
               const struct normalizers *normalizers, struct err *e)
{
    trie_init(&out->raw);
    trie_init(&out->normalized);
    if (js_kind(list) != JS_ARRAY && js_kind(list) != JS_NULL)
        return err_set(e, ERR_INPUT, "added_tokens should be a list");
    out->tokens = mem_array(js_count(list), sizeof *out->tokens);
    for (size_t i = 0; i < js_count(list); i++) {
        struct added_token *t = &out->tokens[out->n];
        if (token_read(t, js_at(list, i), bpe, e) < 0)
            return err_in(e, "added_tokens[%zu]", i);
        if (t->content_bytes == 0) { /* the reference drops it */
            free(t->content);
            continue;
        }
        out->n++;
    }
    if (index_tokens(out, normalizers, e) < 0)
        return err_in(e, "added_tokens");
    return 0;
}

void added_release(struct added *a)
{
    for (size_t i = 0; i < a->n; i++) {
        free(a->tokens[i].content);
        bytes_release(&a->tokens[i].text);
    }
    free(a->tokens);
    free(a->by_id);
    free(a->raw.nodes);
    free(a->normalized.nodes);
    *a = (struct added){ 0 };
}

const struct added_token *added_find_id(const struct added *a, int32_t id)
{
    if (id < 0 || (size_t)id >= a->n_ids || a->by_id[id] < 0)
        return NULL;
    return &a->tokens[a->by_id[id]];
}

const struct added_token *added_find(const struct added *a, const char *content, size_t n_bytes)
{
    for (size_t i = 0; i < a->n; i++)
        if (a->tokens[i].content_bytes == n_bytes &&
            memcmp(a->tokens[i].content, content, n_bytes) == 0)
            return &a->tokens[i];
    return NULL;
}

/* ---- cutting ---- */

static void add_cut(struct added_cuts *out, size_t from, size_t to, int32_t id)
{
    if (out->n == out->room) {
        out->room = out->room ? 2 * out->room : 16;
        out->at = mem_grow(out->at, out->room, sizeof *out->at);
    }
    out->at[out->n++] = (struct added_cut){ from, to, id };
}

static bool inside_a_word(const char *text, size_t from, size_t to, size_t n)
{
    const char *before = text + from, *after = text + to;

    return (from > 0 && unicode_is_word(utf8_before(&before))) ||
           (to < n && unicode_is_word(utf8_next(&after)));
}

static size_t spaces_before(const char *text, size_t least, size_t from)
{
    while (from > least) {
        const char *s = text + from;
        if (!unicode_is_white_space(utf8_before(&s)))
            break;
        from = (size_t)(s - text);
    }
    return from < least ? least : from;
}

static size_t spaces_after(const char *text, size_t to, size_t n)
{
    while (to < n) {
        const char *s = text + to;
        if (!unicode_is_white_space(utf8_next(&s)))
            break;
        to = (size_t)(s - text);
    }
    return to;
}

void added_cut(const struct added *a, const struct trie *t, const char *text, size_t n_bytes,
               struct added_cuts *out)
{
    size_t done = 0;

    for (size_t i = 0; i < n_bytes && t->n > 0;) {
        size_t length = 0;
        int32_t found = -1;
        if (t->first[(unsigned char)text[i]] >= 0)
            found = trie_match(t, text + i, n_bytes - i, &length);
        if (found < 0) {
            i++;
            continue;
        }
        const struct added_token *token = &a->tokens[found];
        size_t from = i, to = i + length;
        i = to;
        if (from < done || (token->single_word && inside_a_word(text, from, to, n_bytes)))
            continue;
        if (token->lstrip)
            from = spaces_before(text, done, from);
        if (token->rstrip)
            to = spaces_after(text, to, n_bytes);
        if (from > done)
            add_cut(out, done, from, -1);
        add_cut(out, from, to, token->id);
        done = to;
        i = i < to ? to : i;
    }
    if (done < n_bytes)
        add_cut(out, done, n_bytes, -1);
}
