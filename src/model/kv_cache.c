/* kv_cache.c - keys and values of several sequences; see model.h. */
#include "model/model.h"

#include "base/memory.h"

#include <stdlib.h>

size_t kv_cache_bytes(const struct model *m, int n_slots, int64_t capacity)
{
    const struct config *c = &m->config;
    size_t row = (size_t)c->n_kv_heads * (size_t)c->head_dim * dtype_bytes(m->dtype);

    return 2 * (size_t)c->n_layers * (size_t)n_slots * (size_t)capacity * row;
}

int kv_cache_open(struct kv_cache *c, const struct model *m, int n_slots, int64_t capacity,
                  struct err *e)
{
    const int64_t n_cols = (int64_t)m->config.n_kv_heads * m->config.head_dim;

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
    free(c->k);
    free(c->v);
    free(c->length);
    *c = (struct kv_cache){ 0 };
}

void kv_cache_drop(struct kv_cache *c, int slot)
{
    c->length[slot] = 0;
}
