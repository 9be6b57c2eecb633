/* kv_cache.c - keys and values of several sequences; see model.h. */
#include "model/model.h"

#include "base/memory.h"

#include <stdlib.h>

size_t kv_cache_bytes(const struct model *m, int n_slots, int64_t capacity)
{
    const struct config *c = &m->config;
    size_t row = (size_t)model_part(m, c->n_kv_heads) * (size_t)c->head_dim * dtype_bytes(m->dtype);

    return 2 * (size_t)c->n_layers * (size_t)n_slots * (size_t)capacity * row;
}

int kv_cache_open(struct kv_cache *c, const struct model *m, int n_slots, int64_t capacity,
                  struct err *e)
{
    const int64_t n_cols = model_part(m, m->config.n_kv_heads) * m->config.head_dim;

    *c = (struct kv_cache){
        .n_slots = n_slots,
        .capacity = capacity,
        .length = mem_array((size_t)n_slots, sizeof *c->length),
        .k = mem_array((size_t)m->config.n_layers, sizeof *c->k),
        .v = mem_array((size_t)m->config.n_layers, sizeof *c->v),
        .n_layers = m->config.n_layers,
        .backend = m->backend,
    };
    for (int64_t i = 0; i < c->n_layers; i++)
        if (tensor_alloc(m->backend, MEM_CACHE, m->dtype, n_slots * capacity, n_cols, &c->k[i], e) <
                0 ||
            tensor_alloc(m->backend, MEM_CACHE, m->dtype, n_slots * capacity, n_cols, &c->v[i], e) <
                0) {
            kv_cache_close(c);
            return err_in(e, "a cache of %d sequences of %lld tokens", n_slots,
                          (long long)capacity);
        }
    return 0;
}

void kv_cache_close(struct kv_cache *c)
{
    for (int64_t i = 0; i < c->n_layers; i++) {
        tensor_free(c->backend, &c->k[i]);
        tensor_free(c->backend, &c->v[i]);
    }
    backend_free(c->backend, c->counted);
    free(c->k);
    free(c->v);
    free(c->length);
    *c = (struct kv_cache){ 0 };
}

void kv_cache_drop(struct kv_cache *c, int slot)
{
    c->length[slot] = 0;
}

/* 0, 1, 2, ... on the device, once; so gather() copies rows that lie together. */
static int count_rows(struct kv_cache *c, struct err *e)
{
    if (c->counted)
        return 0;
    int32_t *rows = mem_array((size_t)c->capacity, sizeof *rows);
    void *room;

    for (int64_t i = 0; i < c->capacity; i++)
        rows[i] = (int32_t)i;
    int rc = backend_alloc(c->backend, MEM_SCRATCH, (size_t)c->capacity * sizeof *rows, &room, e);
    if (rc == 0) {
        c->counted = room;
        rc = c->backend->ops->upload(c->backend, room, rows, (size_t)c->capacity * sizeof *rows, e);
    }
    free(rows);
    return rc;
}

/* The rows of a slot. */
static struct tensor slot_of(const struct kv_cache *c, const struct tensor *all, int slot)
{
    struct tensor t = *all;

    t.data = (char *)t.data + (size_t)(slot * c->capacity * t.n_cols) * dtype_bytes(t.dtype);
    t.n_rows = c->capacity;
    return t;
}

int kv_cache_copy(struct kv_cache *c, int from, int to, int32_t n, struct err *e)
{
    struct backend *b = c->backend;

    if (from < 0 || from >= c->n_slots || to < 0 || to >= c->n_slots || from == to || n < 0 ||
        n > c->capacity)
        return err_set(e, ERR_USAGE, "%d tokens of slot %d to slot %d of %d", n, from, to,
                       c->n_slots);
    if (count_rows(c, e) < 0)
        return -1;
    for (int64_t i = 0; i < 2 * c->n_layers; i++) {
        const struct tensor *all = i % 2 ? &c->v[i / 2] : &c->k[i / 2];
        struct tensor x = slot_of(c, all, from), out = slot_of(c, all, to);
        const struct gather_args a = { .x = &x, .rows = c->counted, .out = &out, .n_rows = n };

        if (b->ops->gather(b, &a, e) < 0)
            return err_in(e, "copying keys and values");
    }
    c->length[to] = n;
    return 0;
}
