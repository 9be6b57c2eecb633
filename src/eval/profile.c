/* profile.c - see profile.h and task.h. */
#include "eval/profile.h"

#include <string.h>

#define BATCH_BYTES_MAX ((int64_t)256 << 20)
#define BATCH_PART      8 /* of what is free */

static const struct {
    const char *name;
    bool add_bos, all_golds;
} profiles[] = {
    { "lm-eval-0.4.12", true, false },
    { "lm-eval-0.4.9", false, false }, /* and older: no BOS for causal models unless asked for */
    { "official-coqa", true, true },   /* and [tasks.coqa] turns = "all" unless said otherwise */
};

int profile_find(const char *name, const struct tokenizer *t, const struct config *c,
                 struct profile *out, struct err *e)
{
    for (size_t i = 0; i < sizeof profiles / sizeof profiles[0]; i++) {
        if (strcmp(name, profiles[i].name) != 0)
            continue;
        *out = (struct profile){ .add_bos = profiles[i].add_bos,
                                 .clean_up = !t || tokenizer_cleans_up(t),
                                 .all_golds = profiles[i].all_golds,
                                 .max_new_tokens = 256,
                                 .max_length = c->max_position };
        memcpy(out->name, name, strlen(name) + 1);
        return 0;
    }
    return err_set(e, ERR_USAGE,
                   "profile \"%.64s\": known are lm-eval-0.4.12, lm-eval-0.4.9, official-coqa",
                   name);
}

int profile_check_ids(const struct config *c, const int32_t *ids, size_t n, struct err *e)
{
    for (size_t i = 0; i < n; i++)
        if (ids[i] < 0 || ids[i] >= c->vocab_size)
            return err_set(e, ERR_INPUT,
                           "token id %d at position %zu, but the model has ids 0 to %lld", ids[i],
                           i, (long long)c->vocab_size - 1);
    return 0;
}

int profile_encode(const struct profile *p, const struct tokenizer *t, const struct config *c,
                   const char *text, size_t n_bytes, struct token_ids *out, struct err *e)
{
    const char *bos = tokenizer_bos_text(t);
    size_t before = out->n;
    bool has_bos = bos && *bos && n_bytes >= strlen(bos) && memcmp(text, bos, strlen(bos)) == 0;

    if (tokenizer_encode(t, text, n_bytes, p->add_bos && !has_bos, out, e) < 0)
        return -1;
    return profile_check_ids(c, out->ids + before, out->n - before, e);
}

/* Ranks share a host and take little; a device is ours. */
int64_t profile_batch_bytes(const struct model *m)
{
    struct err e = ERR_INIT;
    int64_t n_bytes;

    if (backend_free_bytes(m->backend, &n_bytes, &e) < 0 || n_bytes <= 0)
        return BATCH_BYTES_MAX / 4; /* a device that does not say: little */
    int64_t part = n_bytes / BATCH_PART;
    return part < BATCH_BYTES_MAX || model_is_on_device(m) ? part : BATCH_BYTES_MAX;
}

int profile_batch_size(const struct model *m, int asked, size_t bytes_each, int most)
{
    if (asked > 0)
        return asked < most ? asked : most;
    int64_t fit = profile_batch_bytes(m) / (int64_t)(bytes_each ? bytes_each : 1);

    return fit < 1 ? 1 : fit < most ? (int)fit : most;
}
