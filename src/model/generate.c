/* generate.c - see generate.h.
 *
 * One turn of the loop:
 *   1. waiting prompts take free slots, in order;
 *   2. every running sequence gives its next rows: a piece of its prompt or its newest id,
 *      longest running first, as many as fit;
 *   3. one forward pass (two while some sequences may not end yet and others may);
 *   4. sequences whose prompt is done take the id that came out; those that end free their slot.
 * Ends when no prompt waits and no sequence runs.
 *
 * A prompt is cut every PIECE ids from its beginning, but not for LLM.int8, which finds its
 * outlier columns in all rows of a document's call.  */
#include "model/generate.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

#define PIECE       2048 /* ids of a prompt in one pass, where it may be cut */
#define ROWS_WANTED 512  /* of a pass, so that short prompts go together */
#define BATCH_MAX   64   /* when the batch size is ours to choose */
#define MEMORY_PART 4    /* the cache then takes at most this part of what is free */

struct sequence {
    int prompt; /* its index */
    int slot;
    int32_t n_fed; /* ids of the prompt that are in the cache */
    int32_t next;  /* newest id, not in the cache yet */
};

struct generation {
    const struct model *model;
    const struct generate_prompt *prompts;
    int n_prompts, n_started;
    const struct generate_options *o;
    struct generate_result *results;
    int batch_size;
    int64_t capacity, max_rows;
    int64_t piece; /* ids of a prompt in one pass */

    struct kv_cache cache;
    struct forward *forward;
    struct sequence *running; /* [batch_size], longest running first */
    int n_running;
    bool *slot_taken; /* [batch_size] */
    /* A pass. */
    int32_t *slot, *n_tokens, *length, *next, *ids;
    int *member; /* [batch_size]: which running sequence */
    bool *over;  /* [batch_size]: of the running ones, those that ended */
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

/* Does a product of this model look at more than a row at a time? */
static bool looks_at_whole_calls(const struct model *m)
{
    for (int64_t i = 0; i < m->config.n_layers; i++)
        for (int l = 0; l < N_LINEARS; l++) {
            const struct weight *w = &m->layers[i].linear[l];
            if (w->form == WEIGHT_INT8 && w->outlier_threshold > 0)
                return true;
        }
    return false;
}

static int measure_prompts(struct generation *g, struct err *e)
{
    int64_t longest_piece = 0, all = 0;

    g->piece = looks_at_whole_calls(g->model) ? INT32_MAX : PIECE;
    for (int i = 0; i < g->n_prompts; i++) {
        int64_t n = g->prompts[i].n_ids;

        if (n < 1)
            return err_set(e, ERR_INPUT, "prompt %d has no ids", i);
        all += n;
        longest_piece = most(longest_piece, least(n, g->piece));
        g->capacity = most(g->capacity, n + g->o->max_new_tokens);
    }
    g->max_rows = most(longest_piece, least(all, ROWS_WANTED));
    return 0;
}

static int choose_batch_size(struct generation *g, struct err *e)
{
    struct backend *b = g->model->backend;
    struct device_facts facts;

    g->batch_size = g->o->batch_size;
    if (!g->batch_size) {
        if (b->ops->facts(b, &facts, e) < 0)
            return -1;
        size_t one = kv_cache_bytes(g->model, 1, g->capacity);
        int64_t fit = facts.free_bytes / MEMORY_PART / (int64_t)(one ? one : 1);
        g->batch_size = (int)most(1, least(fit, BATCH_MAX));
    }
    g->batch_size = (int)least(g->batch_size, g->n_prompts);
    return 0;
}

static int open_memory(struct generation *g, struct err *e)
{
    /* Beside a whole piece there is always room for the newest ids of all others. */
    int64_t rows = g->max_rows + g->batch_size;

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
    g->slot_taken = mem_array(n, sizeof *g->slot_taken);
    g->slot = mem_array(n, sizeof *g->slot);
    g->n_tokens = mem_array(n, sizeof *g->n_tokens);
    g->length = mem_array(n, sizeof *g->length);
    g->next = mem_array(n, sizeof *g->next);
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
    free(g->slot_taken);
    free(g->slot);
    free(g->n_tokens);
    free(g->length);
    free(g->next);
    free(g->member);
    free(g->over);
    free(g->ids);
}

/* ---- a turn ---- */

static void start_waiting(struct generation *g)
{
    for (int slot = 0; slot < g->batch_size && g->n_started < g->n_prompts; slot++) {
        if (g->slot_taken[slot])
            continue;
        g->slot_taken[slot] = true;
        kv_cache_drop(&g->cache, slot);
        int prompt = g->n_started++;
        g->running[g->n_running++] = (struct sequence){ .prompt = prompt, .slot = slot };
        g->results[prompt].ids =
            mem_array((size_t)g->o->max_new_tokens, sizeof *g->results[prompt].ids);
    }
}

static bool may_end(const struct generation *g, const struct sequence *s)
{
    return g->results[s->prompt].n_ids >= g->o->min_new_tokens;
}

/* The rows of the sequences that may end, or of those that may not yet; the number of members. */
static int gather_rows(struct generation *g, bool ending, struct batch *out)
{
    int64_t n_rows = 0;
    int n = 0;

    for (int i = 0; i < g->n_running; i++) {
        const struct sequence *s = &g->running[i];
        const struct generate_prompt *p = &g->prompts[s->prompt];
        int32_t left = p->n_ids - s->n_fed;
        int32_t n_ids = left ? (int32_t)least(left, g->piece) : 1;
        /* Room is kept for the ids of those behind, so that nobody's next id has to wait. */
        int64_t behind = g->n_running - i - 1;

        if (may_end(g, s) != ending || n_rows + n_ids + behind > g->max_rows)
            continue;
        memcpy(g->ids + n_rows, left ? p->ids + s->n_fed : &s->next,
               (size_t)n_ids * sizeof *g->ids);
        n_rows += n_ids;
        g->slot[n] = s->slot;
        g->n_tokens[n] = n_ids;
        g->length[n] = p->n_ids; /* the whole prompt; beyond it, what is in the slot counts */
        g->member[n++] = i;
    }
    *out = (struct batch){
        .n_seqs = n, .slot = g->slot, .n_tokens = g->n_tokens, .ids = g->ids, .length = g->length
    };
    return n;
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

    for (int i = 0; i < g->n_running; i++)
        if (g->over[i])
            g->slot_taken[g->running[i].slot] = false;
        else
            g->running[n_left++] = g->running[i];
    g->n_running = n_left;
}

/* A pass over the sequences that may end (or over those that may not yet). */
static int run_pass(struct generation *g, bool ending, struct err *e)
{
    struct batch batch;
    struct forward_out out = { .next_ids = g->next };
    int n = gather_rows(g, ending, &batch);

    if (!n)
        return 0;
    if (forward_run(g->forward, &g->cache, &batch, WANT_LAST_ARGMAX, g->o->eos_ids,
                    ending ? 0 : g->o->n_eos, &out, e) < 0)
        return -1;
    memset(g->over, 0, (size_t)g->batch_size * sizeof *g->over);
    for (int i = 0; i < n; i++) {
        struct sequence *s = &g->running[g->member[i]];
        const int32_t n_ids = g->prompts[s->prompt].n_ids;

        if (s->n_fed < n_ids)
            s->n_fed += g->n_tokens[i];
        if (s->n_fed == n_ids)
            g->over[g->member[i]] = take_id(g, s, g->next[i]);
    }
    drop_ended(g);
    return 0;
}

/* A sequence that takes an id in the first pass may change sides and take another in the second:
 * it is one id ahead then, which no result depends on. */
static int run_turn(struct generation *g, struct err *e)
{
    start_waiting(g);
    return run_pass(g, false, e) < 0 ? -1 : run_pass(g, true, e);
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
