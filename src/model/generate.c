/* generate.c - see generate.h.
 *
 * One turn of the loop:
 *   1. waiting prompts take free slots, in order;
 *   2. one pass over the next pieces of prompts that are not whole in the cache, longest running
 *      first, as many as fit; a sequence whose prompt is done takes the id that came out;
 *   3. one or more steps of those that have an id to go on from: of the ones that may not end yet,
 *      then of the ones that may;
 *   4. sequences that end free their slot.  What was computed behind an end is thrown away.
 * Ends when no prompt waits and no sequence runs.
 *
 * A prompt is cut every PIECE ids from where it begins to be computed.  Where another prompt, in
 * its slot still, began with the same ids, their keys and values are copied: the bits of a row
 * depend on the ids up to it alone.  Neither holds for LLM.int8, which finds its outlier columns in
 * all rows of a document's call.  */
#include "model/generate.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

#define PIECE       2048 /* ids of a prompt in one pass, where it may be cut */
#define ROWS_WANTED 512  /* of a pass, so that short prompts go together ... */
#define ROWS_DEVICE 2048 /* ... on a device, which is idle with fewer */
#define BATCH_MAX   64   /* when the batch size is ours to choose */
#define MEMORY_PART 4    /* the cache then takes at most this part of what is free */
#define STEPS_MAX   8    /* between two looks at what came out */
#define SHARE_MIN   16   /* ids: copying fewer costs more than computing them */

struct sequence {
    int prompt; /* its index */
    int slot;
    bool
        begun; /* something of the prompt is in the cache, or it has been decided that all is new */
    int32_t n_fed; /* ids of the prompt that are in the cache */
    int32_t next;  /* newest id, not in the cache yet */
};

/* What a slot of the cache begins with, also once its sequence has ended. */
struct slot {
    bool taken;
    int prompt;
    int32_t n; /* ids of that prompt */
};

struct generation {
    const struct model *model;
    const struct generate_prompt *prompts;
    int n_prompts, n_started;
    const struct generate_options *o;
    struct generate_result *results;
    int batch_size;
    int n_steps; /* at most, between two looks */
    int64_t capacity, max_rows;
    int64_t piece; /* ids of a prompt in one pass */
    bool shares;

    struct kv_cache cache;
    struct forward *forward;
    struct sequence *running; /* [batch_size], longest running first */
    int n_running;
    struct slot *slots;     /* [batch_size] */
    int64_t n_ended, n_new; /* sequences so far, and their ids */
    /* A pass. */
    int32_t *slot, *n_tokens, *length, *fed, *ids;
    int32_t *next; /* [n_steps, batch_size] */
    int *member;   /* [batch_size]: which running sequence */
    bool *over;    /* [batch_size]: of the running ones, those that ended */
};

static int64_t least(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

static int64_t most(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* ---- sizes ---- */

/* Does the work queue up on something else than our processor? */
static bool is_device(const struct model *m)
{
    return m->backend->ops->decode != NULL;
}

/* Steps ahead pay where looking at what came out costs more than they do. */
static int steps_ahead(const struct generation *g)
{
    if (g->o->n_steps > 0)
        return g->o->n_steps;
    return is_device(g->model) ? STEPS_MAX : 1;
}

static int measure_prompts(struct generation *g, struct err *e)
{
    int64_t longest_piece = 0, all = 0;

    g->shares = !g->o->share_nothing && !model_looks_at_whole_calls(g->model);
    g->piece = model_looks_at_whole_calls(g->model) ? INT32_MAX : PIECE;
    for (int i = 0; i < g->n_prompts; i++) {
        int64_t n = g->prompts[i].n_ids;

        if (n < 1)
            return err_set(e, ERR_INPUT, "prompt %d has no ids", i);
        all += n;
        longest_piece = most(longest_piece, least(n, g->piece));
        g->capacity = most(g->capacity, n + g->o->max_new_tokens + g->n_steps - 1);
    }
    g->max_rows = most(longest_piece, least(all, is_device(g->model) ? ROWS_DEVICE : ROWS_WANTED));
    return 0;
}

static int choose_batch_size(struct generation *g, struct err *e)
{
    struct backend *b = g->model->backend;
    int64_t n_bytes;

    g->batch_size = g->o->batch_size;
    if (!g->batch_size) {
        if (backend_free_bytes(b, &n_bytes, e) < 0)
            return -1;
        size_t one = kv_cache_bytes(g->model, 1, g->capacity);
        int64_t fit = n_bytes / MEMORY_PART / (int64_t)(one ? one : 1);
        g->batch_size = (int)most(1, least(fit, BATCH_MAX));
    }
    g->batch_size = (int)least(g->batch_size, g->n_prompts);
    return 0;
}

static int open_memory(struct generation *g, struct err *e)
{
    int64_t rows = most(g->max_rows, g->batch_size);

    if (kv_cache_open(&g->cache, g->model, g->batch_size, g->capacity, e) < 0)
        return -1;
    if (forward_open(&g->forward, g->model, rows, g->batch_size, e) < 0) {
        kv_cache_close(&g->cache);
        return -1;
    }
    g->max_rows = rows;
    return 0;
}

static int open_generation(struct generation *g, struct err *e)
{
    g->n_steps = steps_ahead(g);
    if (measure_prompts(g, e) < 0 || choose_batch_size(g, e) < 0)
        return -1;
    while (open_memory(g, e) < 0) {
        /* Our own choice may be too large where memory is torn or shared. */
        if (g->o->batch_size || g->batch_size == 1 || e->code != ERR_MEMORY)
            return -1;
        err_clear(e);
        g->batch_size /= 2;
    }
    size_t n = (size_t)g->batch_size;
    g->running = mem_array(n, sizeof *g->running);
    g->slots = mem_array(n, sizeof *g->slots);
    g->slot = mem_array(n, sizeof *g->slot);
    g->n_tokens = mem_array(n, sizeof *g->n_tokens);
    g->length = mem_array(n, sizeof *g->length);
    g->fed = mem_array(n, sizeof *g->fed);
    g->next = mem_array(n * (size_t)g->n_steps, sizeof *g->next);
    g->member = mem_array(n, sizeof *g->member);
    g->over = mem_array(n, sizeof *g->over);
    g->ids = mem_array((size_t)g->max_rows, sizeof *g->ids);
    return 0;
}

static void close_generation(struct generation *g)
{
    forward_close(g->forward);
    kv_cache_close(&g->cache);
    free(g->running);
    free(g->slots);
    free(g->slot);
    free(g->n_tokens);
    free(g->length);
    free(g->fed);
    free(g->next);
    free(g->member);
    free(g->over);
    free(g->ids);
}

/* ---- beginnings in common ---- */

static bool may_share(const struct generation *g, const struct generate_prompt *p)
{
    const struct config *c = &g->model->config;

    /* The frequencies of a long prompt depend on its length. */
    return c->rope.type != ROPE_DYNAMIC || p->n_ids <= c->max_position;
}

/* How many of the first n ids of prompt `other` prompt `own` begins with.  One is left to compute:
 * the next id comes out of the last row. */
static int32_t in_common(const struct generation *g, int own, int other, int32_t n)
{
    const struct generate_prompt *a = &g->prompts[own], *b = &g->prompts[other];
    int32_t same = 0;

    n = (int32_t)least(n, least(a->n_ids - 1, b->n_ids));
    if (!g->shares || !may_share(g, a) || !may_share(g, b))
        return 0;
    while (same < n && a->ids[same] == b->ids[same])
        same++;
    return same;
}

/* The slot that begins most like the prompt, and the number of ids. */
static int like_slot(const struct generation *g, int prompt, int32_t *n)
{
    int best = 0;

    *n = 0;
    for (int k = 0; k < g->batch_size; k++) {
        int32_t same = in_common(g, prompt, g->slots[k].prompt, g->slots[k].n);
        if (same > *n) {
            *n = same;
            best = k;
        }
    }
    return best;
}

/* Would a sequence before i, once its prompt is in the cache, save more than twice what is there
 * already?  The first of the running ones never waits. */
static bool should_wait(const struct generation *g, int i, int32_t have)
{
    for (int k = 0; k < i; k++) {
        const struct sequence *s = &g->running[k];
        int32_t n = g->prompts[s->prompt].n_ids;
        int32_t same = s->n_fed < n ? in_common(g, g->running[i].prompt, s->prompt, n) : 0;

        if (same >= SHARE_MIN && same / 2 > have)
            return true;
    }
    return false;
}

/* Decides from where on running sequence i is computed; *begun: false when it waits. */
static int begin(struct generation *g, int i, bool *begun, struct err *e)
{
    struct sequence *s = &g->running[i];
    struct slot *own = &g->slots[s->slot];
    int32_t n;
    int from = like_slot(g, s->prompt, &n);

    *begun = s->begun;
    if (s->begun || should_wait(g, i, n))
        return 0;
    *begun = s->begun = true;
    if (from != s->slot && n >= SHARE_MIN) {
        if (kv_cache_copy(&g->cache, from, s->slot, n, e) < 0)
            return -1;
    } else {
        n = from == s->slot ? n : 0;
        g->cache.length[s->slot] = n;
    }
    *own = (struct slot){ .taken = true, .prompt = s->prompt, .n = n };
    s->n_fed = n;
    g->results[s->prompt].n_shared = n;
    return 0;
}

/* ---- a turn ---- */

/* The free slot that begins most like the prompt, the first one if none does; -1: none is free. */
static int free_slot(const struct generation *g, int prompt)
{
    int32_t n, most_n = -1;
    int best = -1;

    for (int k = 0; k < g->batch_size; k++) {
        n = g->slots[k].taken ? -1 : in_common(g, prompt, g->slots[k].prompt, g->slots[k].n);
        if (n > most_n) {
            most_n = n;
            best = k;
        }
    }
    return best;
}

static void start_waiting(struct generation *g)
{
    while (g->n_started < g->n_prompts && g->n_running < g->batch_size) {
        const int prompt = g->n_started++, slot = free_slot(g, prompt);

        g->slots[slot].taken = true;
        g->running[g->n_running++] = (struct sequence){ .prompt = prompt, .slot = slot };
        g->results[prompt].ids =
            mem_array((size_t)g->o->max_new_tokens, sizeof *g->results[prompt].ids);
    }
}

static bool is_eos(const struct generate_options *o, int32_t id)
{
    for (int i = 0; i < o->n_eos; i++)
        if (o->eos_ids[i] == id)
            return true;
    return false;
}

/* Takes a new id; true when the sequence is over. */
static bool take_id(struct generation *g, struct sequence *s, int32_t id)
{
    struct generate_result *r = &g->results[s->prompt];

    if (id < 0) {
        r->broken = true;
        return true;
    }
    if (is_eos(g->o, id))
        return true;
    r->ids[r->n_ids++] = id;
    s->next = id;
    if (r->n_ids == g->o->max_new_tokens)
        return true;
    return g->o->stop && g->o->stop(g->o->context, s->prompt, r->ids, r->n_ids);
}

static void drop_ended(struct generation *g)
{
    int n_left = 0;

    for (int i = 0; i < g->n_running; i++) {
        const struct sequence *s = &g->running[i];

        if (g->over[i]) {
            g->slots[s->slot].taken = false;
            g->n_ended++;
            g->n_new += g->results[s->prompt].n_ids;
        } else {
            g->running[n_left++] = *s;
        }
        g->over[i] = false;
    }
    g->n_running = n_left;
}

/* Is the prompt all in the cache? */
static bool is_fed(const struct generation *g, const struct sequence *s)
{
    return s->n_fed == g->prompts[s->prompt].n_ids;
}

/* The next pieces of prompts, as many as fit; *n members. */
static int gather_pieces(struct generation *g, int *n, struct err *e)
{
    int64_t n_rows = 0;

    *n = 0;
    for (int i = 0; i < g->n_running; i++) {
        const struct sequence *s = &g->running[i];
        const struct generate_prompt *p = &g->prompts[s->prompt];
        bool begun;

        if (is_fed(g, s))
            continue;
        if (begin(g, i, &begun, e) < 0)
            return -1;
        int32_t n_ids = (int32_t)least(p->n_ids - s->n_fed, g->piece);
        if (!begun || n_rows + n_ids > g->max_rows)
            continue;
        memcpy(g->ids + n_rows, p->ids + s->n_fed, (size_t)n_ids * sizeof *g->ids);
        n_rows += n_ids;
        g->slot[*n] = s->slot;
        g->n_tokens[*n] = n_ids;
        g->length[*n] = p->n_ids;
        g->member[(*n)++] = i;
    }
    return 0;
}

static int run_prompts(struct generation *g, struct err *e)
{
    struct forward_out out = { .next_ids = g->next };
    int n;

    if (gather_pieces(g, &n, e) < 0)
        return -1;
    if (!n)
        return 0;
    const struct batch batch = { .phase = PHASE_PROMPT,
                                 .n_seqs = n,
                                 .slot = g->slot,
                                 .n_tokens = g->n_tokens,
                                 .ids = g->ids,
                                 .length = g->length };
    if (forward_run(g->forward, &g->cache, &batch, WANT_LAST_ARGMAX, g->o->eos_ids,
                    g->o->min_new_tokens > 0 ? g->o->n_eos : 0, &out, e) < 0)
        return -1;
    for (int i = 0; i < n; i++) {
        struct sequence *s = &g->running[g->member[i]];

        s->n_fed += g->n_tokens[i];
        g->slots[s->slot].n = s->n_fed;
        if (is_fed(g, s))
            g->over[g->member[i]] = take_id(g, s, g->next[i]);
    }
    drop_ended(g);
    return 0;
}

/* Steps until the next look at n sequences.  The longer answers have been so far, the more: a
 * quarter of an answer may be thrown away. */
static int steps_for(const struct generation *g, bool ending, int n)
{
    int64_t longest = 0, until_ending = INT32_MAX, wanted = g->n_steps;

    for (int i = 0; i < n; i++) {
        int64_t n_new = g->results[g->running[g->member[i]].prompt].n_ids;
        longest = most(longest, g->o->max_new_tokens - n_new);
        until_ending = least(until_ending, g->o->min_new_tokens - n_new);
    }
    if (!g->o->n_steps && (g->o->stop || g->o->n_eos))
        wanted = least(wanted, 1 + (g->n_ended ? g->n_new / g->n_ended / 4 : 3));
    return (int)least(least(wanted, longest), ending ? longest : until_ending);
}

/* Steps of the sequences that may end, or of those that may not yet.  One that takes ids in the
 * second kind's pass may take others in the first kind's: no result depends on it. */
static int run_steps(struct generation *g, bool ending, struct err *e)
{
    int n = 0;

    for (int i = 0; i < g->n_running; i++) {
        const struct sequence *s = &g->running[i];

        if (!is_fed(g, s) || (g->results[s->prompt].n_ids >= g->o->min_new_tokens) != ending)
            continue;
        g->slot[n] = s->slot;
        g->fed[n] = s->next;
        g->member[n++] = i;
    }
    if (!n)
        return 0;
    const int n_steps = steps_for(g, ending, n);
    if (forward_decode(g->forward, &g->cache, n, g->slot, g->fed, n_steps, g->o->eos_ids,
                       ending ? 0 : g->o->n_eos, g->next, e) < 0)
        return -1;
    for (int i = 0; i < n; i++) {
        const int at = g->member[i];
        for (int step = 0; step < n_steps && !g->over[at]; step++)
            g->over[at] = take_id(g, &g->running[at], g->next[step * n + i]);
    }
    drop_ended(g);
    return 0;
}

static int run_turn(struct generation *g, struct err *e)
{
    start_waiting(g);
    if (run_prompts(g, e) < 0 || run_steps(g, false, e) < 0)
        return -1;
    return run_steps(g, true, e);
}

int generate(const struct model *m, const struct generate_prompt *prompts, int n_prompts,
             const struct generate_options *o, struct generate_result *results, struct err *e)
{
    struct generation g = {
        .model = m, .prompts = prompts, .n_prompts = n_prompts, .o = o, .results = results
    };
    int rc = -1;

    memset(results, 0, (size_t)n_prompts * sizeof *results);
    if (!n_prompts || o->max_new_tokens < 1)
        return 0;
    if (open_generation(&g, e) < 0)
        goto out;
    while (g.n_started < n_prompts || g.n_running)
        if (run_turn(&g, e) < 0)
            goto out;
    rc = 0;
out:
    close_generation(&g);
    if (rc < 0) {
        generate_release(results, n_prompts);
        return err_in(e, "generation");
    }
    return 0;
}

void generate_release(struct generate_result *results, int n_prompts)
{
    for (int i = 0; i < n_prompts; i++) {
        free(results[i].ids);
        results[i] = (struct generate_result){ 0 };
    }
}
