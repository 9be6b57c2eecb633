/* bpe_read.c - the "model" of a tokenizer.json: vocabulary and merges -> hash tables, in one pass
 * each: Llama-3 has 280,000 merges. */
#include "tokenizer/bpe.h"

#include <stdio.h>
#include <stdlib.h>

static uint64_t power_of_two_above(size_t n)
{
    uint64_t p = 16;

    while (p < n)
        p *= 2;
    return p;
}

static uint32_t *slot_of(const struct bpe *b, const char *s, size_t n)
{
    uint32_t i = (uint32_t)bpe_hash(s, n) & b->slots_mask;

    for (; b->slots[i]; i = (i + 1) & b->slots_mask) {
        const struct bpe_token *t = &b->tokens[b->slots[i] - 1];
        if (t->n_bytes == n && memcmp(b->text.data + t->at, s, n) == 0)
            break;
    }
    return &b->slots[i];
}

int32_t bpe_id(const struct bpe *b, const char *token, size_t n_bytes)
{
    uint32_t slot = *slot_of(b, token, n_bytes);

    return slot ? b->tokens[slot - 1].id : -1;
}

static int vocab_read(struct bpe *b, const struct js *vocab, struct err *e)
{
    struct js_member m = JS_MEMBER_INIT;
    size_t n = js_count(vocab);

    if (js_kind(vocab) != JS_OBJECT || n == 0)
        return err_set(e, ERR_INPUT, "vocab should be an object with tokens");
    if (n > TOKEN_ID_LIMIT)
        return err_set(e, ERR_INPUT, "a vocab of %zu tokens (at most %d)", n, TOKEN_ID_LIMIT);
    b->slots_mask = (uint32_t)power_of_two_above(2 * n) - 1;
    b->slots = mem_array((size_t)b->slots_mask + 1, sizeof *b->slots);
    b->tokens = mem_array(n, sizeof *b->tokens);
    while (js_next(vocab, &m)) {
        if (js_kind(m.value) != JS_INT || js_int(m.value) < 0 || js_int(m.value) >= TOKEN_ID_LIMIT)
            return err_set(e, ERR_INPUT, "vocab token \"%.64s\": its id should be 0 to %d", m.key,
                           TOKEN_ID_LIMIT - 1);
        if (b->text.n + m.key_bytes >= UINT32_MAX)
            return err_set(e, ERR_INPUT, "the texts of vocab are longer than 4 GiB");
        struct bpe_token *t = &b->tokens[b->n_tokens];
        *t = (struct bpe_token){ (uint32_t)b->text.n, (uint32_t)m.key_bytes,
                                 (int32_t)js_int(m.value) };
        *slot_of(b, m.key, m.key_bytes) = (uint32_t)++b->n_tokens;
        bytes_add(&b->text, m.key, m.key_bytes);
        if ((size_t)t->id >= b->n_ids)
            b->n_ids = (size_t)t->id + 1;
    }
    b->by_id = mem_array(b->n_ids, sizeof *b->by_id);
    for (size_t i = 0; i < b->n_tokens; i++) {
        uint32_t *at = &b->by_id[b->tokens[i].id];
        if (*at)
            return err_set(e, ERR_INPUT, "vocab has two tokens of id %d", b->tokens[i].id);
        *at = (uint32_t)i + 1;
    }
    return 0;
}

/* "a b" or ["a", "b"] -> two texts. */
static int merge_parts(const struct js *j, const char *part[2], size_t n_bytes[2])
{
    if (js_kind(j) == JS_ARRAY) {
        for (size_t i = 0; i < 2; i++) {
            part[i] = js_text(js_at(j, i));
            n_bytes[i] = js_text_bytes(js_at(j, i));
        }
        return js_count(j) == 2 && part[0] && part[1] ? 0 : -1;
    }
    const char *s = js_text(j);
    size_t n = js_text_bytes(j);
    const char *space = s ? memchr(s, ' ', n) : NULL;
    if (!space || memchr(space + 1, ' ', n - (size_t)(space + 1 - s)))
        return -1;
    part[0] = s;
    n_bytes[0] = (size_t)(space - s);
    part[1] = space + 1;
    n_bytes[1] = n - n_bytes[0] - 1;
    return 0;
}

static int merge_add(struct bpe *b, const struct js *j, size_t i, struct bytes *joined,
                     struct err *e)
{
    const char *part[2];
    size_t n[2];
    int32_t id[2];

    if (merge_parts(j, part, n) < 0)
        return err_set(e, ERR_INPUT, "merge %zu should be \"a b\" or [\"a\", \"b\"]", i);
    joined->n = 0;
    for (int k = 0; k < 2; k++) {
        id[k] = bpe_id(b, part[k], n[k]);
        if (id[k] < 0)
            return err_set(e, ERR_INPUT, "merge %zu: \"%.64s\" is not in vocab", i, part[k]);
        bytes_add(joined, part[k], n[k]);
    }
    int32_t whole = bpe_id(b, joined->data, joined->n);
    if (whole < 0)
        return err_set(e, ERR_INPUT, "merge %zu: its result \"%.64s\" is not in vocab", i,
                       joined->data);
    struct pair *p = bpe_pair(b, id[0], id[1]); /* a pair given twice counts where it stands last */
    *p = (struct pair){ (uint64_t)(uint32_t)id[0] << 32 | (uint32_t)id[1], (uint32_t)i, whole };
    return 0;
}

static int merges_read(struct bpe *b, const struct js *merges, struct err *e)
{
    struct bytes joined = BYTES_INIT;
    size_t n = js_count(merges), rank = 0;
    int rc = 0;

    if (js_kind(merges) != JS_ARRAY)
        return err_set(e, ERR_INPUT, "merges should be a list");
    b->pairs_mask = power_of_two_above(2 * n) - 1;
    b->pairs = mem_array(b->pairs_mask + 1, sizeof *b->pairs);
    memset(b->pairs, 0xFF, (b->pairs_mask + 1) * sizeof *b->pairs);
    for (size_t i = 0; i < n && rc == 0; i++) {
        const struct js *j = js_at(merges, i);
        if (js_text(j) && strncmp(js_text(j), "#version", 8) == 0)
            continue;
        rc = merge_add(b, j, rank++, &joined, e);
    }
    bytes_release(&joined);
    return rc;
}

static int refuse_others(const struct js *model, struct err *e)
{
    static const char *const affixes[] = { "continuing_subword_prefix", "end_of_word_suffix" };
    const char *type, *text;
    double dropout;

    if (js_text_or(model, "type", "BPE", &type, e) < 0) /* the oldest files have no type */
        return -1;
    if (strcmp(type, "BPE") != 0)
        return component_unknown("model", type, e);
    if (js_real_or(model, "dropout", 0.0, &dropout, e) < 0)
        return -1;
    if (!(dropout == 0.0))
        return err_set(e, ERR_INPUT, "dropout %g: ids would be random", dropout);
    for (size_t i = 0; i < 2; i++) {
        if (js_text_or(model, affixes[i], "", &text, e) < 0)
            return -1;
        if (*text)
            return err_set(e, ERR_INPUT, "%s \"%.64s\" is not supported", affixes[i], text);
    }
    return 0;
}

static void special_ids(struct bpe *b)
{
    for (int i = 0; i < 256; i++) {
        char name[8];
        snprintf(name, sizeof name, "<0x%02X>", (unsigned)i);
        b->byte_ids[i] = bpe_id(b, name, 6);
    }
    for (int i = 0; i < 128; i++) {
        char c = (char)i;
        b->ascii_ids[i] = bpe_id(b, &c, 1);
    }
}

static int read_into(struct bpe *b, const struct js *model, struct err *e)
{
    const char *unk;

    if (refuse_others(model, e) < 0 || vocab_read(b, js_get(model, "vocab"), e) < 0 ||
        merges_read(b, js_get(model, "merges"), e) < 0)
        return -1;
    if (js_bool_or(model, "byte_fallback", false, &b->byte_fallback, e) < 0 ||
        js_bool_or(model, "fuse_unk", false, &b->fuse_unk, e) < 0 ||
        js_bool_or(model, "ignore_merges", false, &b->ignore_merges, e) < 0 ||
        js_text_or(model, "unk_token", NULL, &unk, e) < 0)
        return -1;
    b->unk_id = unk ? bpe_id(b, unk, strlen(unk)) : -1;
    if (unk && b->unk_id < 0)
        return err_set(e, ERR_INPUT, "unk_token \"%.64s\" is not in vocab", unk);
    special_ids(b);
    return 0;
}

int bpe_read(struct bpe **out, const struct js *model, struct err *e)
{
    *out = NULL;
    if (js_kind(model) != JS_OBJECT)
        return err_set(e, ERR_INPUT, "model should be an object, but is %s",
                       js_kind_name(js_kind(model)));
    struct bpe *b = mem_alloc(sizeof *b);
    bytes_text(&b->text, "");
    if (read_into(b, model, e) < 0) {
        bpe_free(b);
        return err_in(e, "model");
    }
    *out = b;
    return 0;
}

void bpe_free(struct bpe *b)
{
    if (!b)
        return;
    bytes_release(&b->text);
    free(b->tokens);
    free(b->slots);
    free(b->by_id);
    free(b->pairs);
    free(b);
}

const char *bpe_token(const struct bpe *b, int32_t id, size_t *n_bytes)
{
    if (id < 0 || (size_t)id >= b->n_ids || b->by_id[id] == 0)
        return NULL;
    const struct bpe_token *t = &b->tokens[b->by_id[id] - 1];
    *n_bytes = t->n_bytes;
    return b->text.data + t->at;
}

size_t bpe_size(const struct bpe *b)
{
    return b->n_ids;
}
