/* bpe.c - byte-pair encoding: a word to ids by merging, lowest rank first, leftmost among equals
 * (Sennrich et al. 2016; the order of Hugging Face tokenizers' models/bpe/word.rs).
 *
 * A heap over a linked list: n log n, because a model without pre-tokenizer (Llama-2) makes one
 * word of a whole document.  Words seen before in the same call come from a cache.  */
#include "tokenizer/stages.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct bpe_token {
    uint32_t at, n_bytes; /* in bpe.text */
    int32_t id;
};

struct pair { /* left and right id -> the id they merge into */
    uint64_t key;
    uint32_t rank;
    int32_t id;
};

struct bpe {
    struct bytes text;
    struct bpe_token *tokens;
    size_t n_tokens;
    uint32_t *slots; /* open addressing: 1 + index into tokens, 0 empty */
    uint32_t slots_mask;
    uint32_t *by_id; /* [n_ids] 1 + index into tokens, 0: no such id */
    size_t n_ids;
    struct pair *pairs; /* open addressing; key NO_PAIR: empty */
    uint64_t pairs_mask;
    int32_t byte_ids[256]; /* of <0x00> ... <0xFF>; -1: absent */
    int32_t ascii_ids[128];
    int32_t unk_id; /* -1: none */
    bool byte_fallback, fuse_unk, ignore_merges;
};

#define NO_PAIR UINT64_MAX

static uint64_t hash_text(const char *s, size_t n)
{
    uint64_t h = 0x9E3779B97F4A7C15u ^ n;

    for (; n >= 8; s += 8, n -= 8) {
        uint64_t word;
        memcpy(&word, s, 8);
        h = (h ^ word) * 0xD6E8FEB86659FD93u;
        h ^= h >> 32;
    }
    uint64_t rest = 0;
    if (n)
        memcpy(&rest, s, n);
    h = (h ^ rest) * 0xD6E8FEB86659FD93u;
    h ^= h >> 32;
    return h * 0xD6E8FEB86659FD93u >> 16;
}

static uint64_t hash_pair(uint64_t key)
{
    key = (key ^ key >> 32) * 0xD6E8FEB86659FD93u;
    return key ^ key >> 32;
}

static uint64_t power_of_two_above(size_t n)
{
    uint64_t p = 16;

    while (p < n)
        p *= 2;
    return p;
}

/* ---- reading ---- */

static uint32_t *slot_of(const struct bpe *b, const char *s, size_t n)
{
    uint32_t i = (uint32_t)hash_text(s, n) & b->slots_mask;

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

static struct pair *pair_of(const struct bpe *b, int32_t left, int32_t right)
{
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    uint64_t i = hash_pair(key) & b->pairs_mask;

    while (b->pairs[i].key != NO_PAIR && b->pairs[i].key != key)
        i = (i + 1) & b->pairs_mask;
    return &b->pairs[i];
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
    struct pair *p = pair_of(b, id[0], id[1]); /* a pair given twice counts where it stands last */
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

/* ---- one word ---- */

#define CACHE_WORD_MAX    64 /* bytes of a word worth keeping */
#define CACHE_ENTRIES_MAX (1u << 17)

struct symbol {
    int32_t id;         /* -1: merged into its left neighbour */
    int32_t prev, next; /* -1: none */
};

struct merge { /* a candidate: the pair that starts at symbol `at` */
    uint32_t rank, at;
    int32_t id; /* of the result */
};

struct cached {
    uint64_t hash;
    uint32_t key, key_bytes; /* in keys; key_bytes 0: empty */
    uint32_t ids, n_ids;
};

struct bpe_work {
    struct symbol *symbols;
    size_t n_symbols, symbols_room;
    struct merge *heap;
    size_t n_heap, heap_room;
    struct cached *cache; /* open addressing, a power of two */
    size_t n_cached, cache_room;
    struct bytes keys;
    struct token_ids ids;
};

struct bpe_work *bpe_work_new(void)
{
    struct bpe_work *w = mem_alloc(sizeof *w);

    w->cache_room = 256;
    w->cache = mem_array(w->cache_room, sizeof *w->cache);
    return w;
}

void bpe_work_free(struct bpe_work *w)
{
    if (!w)
        return;
    free(w->symbols);
    free(w->heap);
    free(w->cache);
    bytes_release(&w->keys);
    token_ids_release(&w->ids);
    free(w);
}

void token_ids_add(struct token_ids *ids, const int32_t *more, size_t n)
{
    if (ids->n + n > ids->room) {
        ids->room = (ids->n + n) * 2 < 64 ? 64 : (ids->n + n) * 2;
        ids->ids = mem_grow(ids->ids, ids->room, sizeof *ids->ids);
    }
    if (n)
        memcpy(ids->ids + ids->n, more, n * sizeof *more);
    ids->n += n;
}

static void symbol_add(struct bpe_work *w, int32_t id)
{
    if (w->n_symbols == w->symbols_room) {
        w->symbols_room = w->symbols_room ? 2 * w->symbols_room : 64;
        w->symbols = mem_grow(w->symbols, w->symbols_room, sizeof *w->symbols);
    }
    int32_t at = (int32_t)w->n_symbols++;
    w->symbols[at] = (struct symbol){ id, at - 1, -1 };
    if (at > 0)
        w->symbols[at - 1].next = at;
}

static bool before(const struct merge *a, const struct merge *b)
{
    return a->rank != b->rank ? a->rank < b->rank : a->at < b->at;
}

static void heap_push(struct bpe_work *w, struct merge m)
{
    if (w->n_heap == w->heap_room) {
        w->heap_room = w->heap_room ? 2 * w->heap_room : 64;
        w->heap = mem_grow(w->heap, w->heap_room, sizeof *w->heap);
    }
    size_t i = w->n_heap++;
    for (; i > 0 && before(&m, &w->heap[(i - 1) / 2]); i = (i - 1) / 2)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = m;
}

static struct merge heap_pop(struct bpe_work *w)
{
    struct merge top = w->heap[0], last = w->heap[--w->n_heap];
    size_t i = 0;

    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= w->n_heap)
            break;
        if (child + 1 < w->n_heap && before(&w->heap[child + 1], &w->heap[child]))
            child++;
        if (!before(&w->heap[child], &last))
            break;
        w->heap[i] = w->heap[child];
        i = child;
    }
    w->heap[i] = last;
    return top;
}

static void offer(const struct bpe *b, struct bpe_work *w, int32_t at)
{
    int32_t next = w->symbols[at].next;

    if (next < 0)
        return;
    const struct pair *p = pair_of(b, w->symbols[at].id, w->symbols[next].id);
    if (p->key != NO_PAIR)
        heap_push(w, (struct merge){ p->rank, (uint32_t)at, p->id });
}

static void merge_all(const struct bpe *b, struct bpe_work *w)
{
    w->n_heap = 0;
    for (size_t i = 0; i + 1 < w->n_symbols; i++)
        offer(b, w, (int32_t)i);
    while (w->n_heap > 0) {
        struct merge m = heap_pop(w);
        struct symbol *left = &w->symbols[m.at];
        if (left->id < 0 || left->next < 0)
            continue;
        struct symbol *right = &w->symbols[left->next];
        const struct pair *p = pair_of(b, left->id, right->id);
        if (p->key == NO_PAIR || p->id != m.id) /* its pair has changed since */
            continue;
        left->id = m.id;
        left->next = right->next;
        right->id = -1;
        if (left->next >= 0)
            w->symbols[left->next].prev = (int32_t)m.at;
        if (left->prev >= 0)
            offer(b, w, left->prev);
        offer(b, w, (int32_t)m.at);
    }
}

/* A character without an id: its bytes' tokens, when all exist. */
static bool add_bytes(const struct bpe *b, struct bpe_work *w, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (b->byte_ids[(unsigned char)s[i]] < 0)
            return false;
    for (size_t i = 0; i < n; i++)
        symbol_add(w, b->byte_ids[(unsigned char)s[i]]);
    return true;
}

/* Characters -> symbols.  An unknown character waits, because more may be fused to it; the
 * reference lets byte tokens overtake it, and so do we. */
static void add_characters(const struct bpe *b, struct bpe_work *w, const char *word, size_t n)
{
    bool unknown = false;

    w->n_symbols = 0;
    for (size_t i = 0; i < n;) {
        size_t length = utf8_length(word + i, n - i);
        if (length == 0)
            length = 1;
        unsigned char c = (unsigned char)word[i];
        int32_t id = length == 1 && c < 128 ? b->ascii_ids[c] : bpe_id(b, word + i, length);
        if (id >= 0) {
            if (unknown)
                symbol_add(w, b->unk_id);
            unknown = false;
            symbol_add(w, id);
        } else if (!(b->byte_fallback && add_bytes(b, w, word + i, length)) && b->unk_id >= 0) {
            if (unknown && !b->fuse_unk)
                symbol_add(w, b->unk_id);
            unknown = true;
        }
        i += length;
    }
    if (unknown)
        symbol_add(w, b->unk_id);
}

static void cache_grow(struct bpe_work *w)
{
    struct cached *old = w->cache;
    size_t old_room = w->cache_room;

    w->cache_room *= 2;
    w->cache = mem_array(w->cache_room, sizeof *w->cache);
    for (size_t i = 0; i < old_room; i++) {
        if (old[i].key_bytes == 0)
            continue;
        size_t at = old[i].hash & (w->cache_room - 1);
        while (w->cache[at].key_bytes)
            at = (at + 1) & (w->cache_room - 1);
        w->cache[at] = old[i];
    }
    free(old);
}

/* The entry of a word, or the empty one it would take. */
static struct cached *cache_find(struct bpe_work *w, uint64_t hash, const char *word, size_t n)
{
    size_t at = hash & (w->cache_room - 1);

    for (; w->cache[at].key_bytes; at = (at + 1) & (w->cache_room - 1)) {
        const struct cached *c = &w->cache[at];
        if (c->hash == hash && c->key_bytes == n && memcmp(w->keys.data + c->key, word, n) == 0)
            break;
    }
    return &w->cache[at];
}

static void cache_keep(struct bpe_work *w, uint64_t hash, const char *word, size_t n,
                       const int32_t *ids, size_t n_ids)
{
    if (w->n_cached >= CACHE_ENTRIES_MAX)
        return;
    if (2 * ++w->n_cached > w->cache_room)
        cache_grow(w);
    *cache_find(w, hash, word, n) = (struct cached){ hash, (uint32_t)w->keys.n, (uint32_t)n,
                                                     (uint32_t)w->ids.n, (uint32_t)n_ids };
    bytes_add(&w->keys, word, n);
    token_ids_add(&w->ids, ids, n_ids);
}

void bpe_encode(const struct bpe *b, struct bpe_work *w, const char *word, size_t n_bytes,
                struct token_ids *out)
{
    bool short_word = n_bytes <= CACHE_WORD_MAX;
    uint64_t hash = short_word ? hash_text(word, n_bytes) : 0;
    size_t before_ids = out->n;

    if (n_bytes == 0)
        return;
    if (short_word) {
        const struct cached *c = cache_find(w, hash, word, n_bytes);
        if (c->key_bytes) {
            token_ids_add(out, w->ids.ids + c->ids, c->n_ids);
            return;
        }
    }
    int32_t whole = b->ignore_merges ? bpe_id(b, word, n_bytes) : -1;
    if (whole >= 0) {
        token_ids_add(out, &whole, 1);
    } else {
        add_characters(b, w, word, n_bytes);
        merge_all(b, w);
        for (size_t i = 0; i < w->n_symbols; i++)
            if (w->symbols[i].id >= 0)
                token_ids_add(out, &w->symbols[i].id, 1);
    }
    if (short_word)
        cache_keep(w, hash, word, n_bytes, out->ids + before_ids, out->n - before_ids);
}
