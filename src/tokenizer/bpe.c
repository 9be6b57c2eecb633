/* bpe.c - byte-pair encoding: a word to ids by merging, lowest rank first, leftmost among equals
 * (Sennrich et al. 2016; the order of Hugging Face tokenizers' models/bpe/word.rs).
 *
 * A heap over a linked list: n log n, because a model without pre-tokenizer (Llama-2) makes one
 * word of a whole document.  Words seen before in the same call come from a cache.  */
#include "tokenizer/bpe.h"

#include <stdlib.h>

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
    const struct pair *p = bpe_pair(b, w->symbols[at].id, w->symbols[next].id);
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
        const struct pair *p = bpe_pair(b, left->id, right->id);
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
    uint64_t hash = short_word ? bpe_hash(word, n_bytes) : 0;
    size_t n_before = out->n;

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
        cache_keep(w, hash, word, n_bytes, out->ids + n_before, out->n - n_before);
}
