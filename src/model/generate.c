/* generate.c - see generate.h.
 *
 * One turn of the loop:
 *   1. waiting prompts take the free slots;
 *   2. one pass over the next pieces of prompts that are not whole in the cache, longest running
 *      first, as many as fit; a sequence whose prompt is done takes the id that came out;
 *   3. where there is no such prompt, or so few that they wait for others: one or more steps of
 *      those that may not end yet, then of the ones that may, each shared by as many as there are;
 *   4. sequences that end free their slot.  What was computed behind an end is thrown away.
 * Ends when no prompt waits and no sequence runs.
 *
 * A prompt is cut every PIECE ids from where it begins to be computed.  Where a slot begins with
 * the same ids, their keys and values stay in it or are copied from it: the bits of a row depend on
 * the ids up to it alone.  So prompts that begin alike form a family, longest first, which a slot
 * goes through; a slot for which no family is left takes half of what waits for another.  A prompt
 * that another one goes on from is not computed at all: the other's pass is asked for the id that
 * comes out where it ends.  None of that holds for LLM.int8, which finds its outlier columns in all
 * rows of a document's call.  */
#include "model/generate.h"

#include "base/memory.h"

#include <stdlib.h>
#include <string.h>

#define PIECE       2048 /* ids of a prompt in one pass, where it may be cut */
#define ROWS_WANTED 512  /* of a pass, so that short prompts go together ... */
#define ROWS_DEVICE 4096 /* ... on a device, which is idle with fewer */
#define BATCH_MAX   64   /* when the batch size is ours to choose */
#define MEMORY_PART 4    /* the cache then takes at most this part of what is free */
#define STEPS_MAX   8    /* between two looks at what came out */
#define SHARE_MIN   16   /* ids: copying fewer costs more than computing them */
#define TOLD_MAX    32   /* prompts that a prompt may tell the first id of */
#define HELD_PART   16   /* fewer sequences than this part may wait for a pass while others step */

enum { NOT_TOLD = -2 }; /* -1: a NaN came out */

struct sequence {
    int prompt; /* its index */
    int slot;
    bool begun;    /* it has been decided what of the prompt is new, and the rest is in the cache */
    int32_t n_fed; /* ids of the prompt that are in the cache */
    int32_t next;  /* newest id, not in the cache yet */
};

/* What a slot of the cache begins with, also once its sequence has ended; and what waits for it. */
struct slot {
    bool taken;
    int prompt;
    int32_t n;     /* ids of that prompt */
    int next, end; /* of `order` */
};

/* What a pass is asked beside the next ids of its members: those behind prompts it goes on from. */
struct ask {
    int prompt;
    int64_t row;
};

struct generation {
    const struct model *model;
    const struct generate_prompt *prompts;
    int n_prompts, n_started;
    int *order;    /* [n_prompts]: families side by side */
    int *place;    /* [n_prompts]: of each prompt in `order` */
    int32_t *told; /* [n_prompts]: first new ids, as far as other prompts' passes have told */
    int n_handed;  /* of them, to slots */
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
    struct generate_counts counts;
    /* A pass. */
    int32_t *slot, *n_tokens, *length, *fed;
    int32_t *ids, *asked, *found; /* [max_rows] */
    int64_t n_rows;
    struct ask *asks; /* [batch_size * TOLD_MAX] */
    int n_asks;
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

/* Steps ahead pay where looking at what came out costs more than they do. */
static int steps_ahead(const struct generation *g)
{
    if (g->o->n_steps > 0)
        return g->o->n_steps;
    return model_is_on_device(g->model) ? STEPS_MAX : 1;
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
    g->max_rows =
        most(longest_piece, least(all, model_is_on_device(g->model) ? ROWS_DEVICE : ROWS_WANTED));
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
    g->asked = mem_array((size_t)g->max_rows, sizeof *g->asked);
    g->found = mem_array((size_t)g->max_rows, sizeof *g->found);
    g->asks = mem_array(n * TOLD_MAX, sizeof *g->asks);
    return 0;
}

static void close_generation(struct generation *g)
{
    forward_close(g->forward);
    kv_cache_close(&g->cache);
    free(g->order);
    free(g->place);
    free(g->told);
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
    free(g->asked);
    free(g->found);
    free(g->asks);
}

/* ---- beginnings in common ---- */

static bool may_share(const struct generation *g, const struct generate_prompt *p)
{
    const struct config *c = &g->model->config;

    /* The frequencies of a long prompt depend on its length. */
    return c->rope.type != ROPE_DYNAMIC || p->n_ids <= c->max_position;
}

/* How many of the first n ids of prompt `other` prompt `own` begins with.  One is left to compute
 * unless the next id, which comes out of the last row, is known. */
static int32_t in_common(const struct generation *g, int own, int other, int32_t n)
{
    const struct generate_prompt *a = &g->prompts[own], *b = &g->prompts[other];
    int32_t same = 0;

    n = (int32_t)least(n, least(a->n_ids - (g->told[own] == NOT_TOLD), b->n_ids));
    if (!g->shares || !may_share(g, a) || !may_share(g, b))
        return 0;
    while (same < n && a->ids[same] == b->ids[same])
        same++;
    return same;
}

/* The slot that begins most like the prompt, its own among equals, and the number of ids. */
static int like_slot(const struct generation *g, int prompt, int own, int32_t *n)
{
    int best = own;

    *n = in_common(g, prompt, g->slots[own].prompt, g->slots[own].n);
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

/* Decides from where on running sequence i is computed, or that it waits. */
static int begin(struct generation *g, int i, struct err *e)
{
    struct sequence *s = &g->running[i];
    struct slot *own = &g->slots[s->slot];
    int32_t n;
    int from = like_slot(g, s->prompt, s->slot, &n);

    if (should_wait(g, i, n))
        return 0;
    s->begun = true;
    if (from != s->slot && n >= SHARE_MIN) {
        if (kv_cache_copy(&g->cache, from, s->slot, n, e) < 0)
            return -1;
        g->counts.n_copied += n;
    } else {
        n = from == s->slot ? n : 0;
        g->cache.length[s->slot] = n;
    }
    own->prompt = s->prompt;
    own->n = n;
    s->n_fed = n;
    g->results[s->prompt].n_shared = n;
    return 0;
}

/* By the bytes of what can be shared, all ids but the last; what others begin with is behind them.
 */
static int by_beginning(const void *a, const void *b, void *context)
{
    const struct generate_prompt *prompts = context;
    const int i = *(const int *)a, k = *(const int *)b;
    const int32_t n = prompts[i].n_ids, m = prompts[k].n_ids;
    const size_t n_bytes = (size_t)(least(n, m) - 1) * sizeof(int32_t);
    const int order = memcmp(prompts[k].ids, prompts[i].ids, n_bytes);

    if (order)
        return order;
    return n == m ? i - k : n > m ? -1 : 1;
}

static void order_prompts(struct generation *g)
{
    g->order = mem_array((size_t)g->n_prompts, sizeof *g->order);
    g->place = mem_array((size_t)g->n_prompts, sizeof *g->place);
    g->told = mem_array((size_t)g->n_prompts, sizeof *g->told);
    for (int i = 0; i < g->n_prompts; i++) {
        g->order[i] = i;
        g->told[i] = NOT_TOLD;
    }
    if (g->shares)
        qsort_r(g->order, (size_t)g->n_prompts, sizeof *g->order, by_beginning, (void *)g->prompts);
    for (int i = 0; i < g->n_prompts; i++)
        g->place[g->order[i]] = i;
}

/* ---- a turn ---- */

/* Hands the next family to a slot that nothing waits for: those that begin like the one before. */
static void hand_family(struct generation *g, struct slot *to)
{
    to->next = g->n_handed++;
    while (g->n_handed < g->n_prompts) {
        const int before = g->order[g->n_handed - 1], prompt = g->order[g->n_handed];

        if (in_common(g, prompt, before, g->prompts[before].n_ids) < SHARE_MIN)
            break;
        g->n_handed++;
    }
    to->end = g->n_handed;
}

/* The second half of what waits for the slot that most waits for; nothing, where nothing does. */
static void take_half(struct generation *g, struct slot *to)
{
    struct slot *from = &g->slots[0];

    for (int k = 1; k < g->batch_size; k++)
        if (g->slots[k].end - g->slots[k].next > from->end - from->next)
            from = &g->slots[k];
    to->next = from->next + (from->end - from->next) / 2;
    to->end = from->end;
    from->end = to->next;
}

static void start_waiting(struct generation *g)
{
    for (int k = 0; k < g->batch_size && g->n_started < g->n_prompts; k++) {
        struct slot *slot = &g->slots[k];

        if (slot->taken)
            continue;
        if (slot->next == slot->end && g->n_handed < g->n_prompts)
            hand_family(g, slot);
        else if (slot->next == slot->end)
            take_half(g, slot);
        const int prompt = g->order[slot->next++];
        slot->taken = true;
        g->n_started++;
        g->running[g->n_running++] = (struct sequence){ .prompt = prompt, .slot = k };
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

/* Are there slots free now? */
static bool drop_ended(struct generation *g)
{
    const int n_before = g->n_running;
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
    return n_left < n_before;
}

/* Is the prompt all in the cache? */
static bool is_fed(const struct generation *g, const struct sequence *s)
{
    return s->n_fed == g->prompts[s->prompt].n_ids;
}

static int begin_all(struct generation *g, struct err *e)
{
    for (int i = 0; i < g->n_running; i++) {
        struct sequence *s = &g->running[i];

        if (s->begun)
            continue;
        if (begin(g, i, e) < 0)
            return -1;
        if (is_fed(g, s))
            g->over[i] = take_id(g, s, g->told[s->prompt]);
    }
    return 0;
}

/* Steps may go on while few wait for a pass, which costs as much for one as for some hundred rows.
 */
static bool needs_pass(const struct generation *g)
{
    int n = 0;

    for (int i = 0; i < g->n_running; i++)
        n += !is_fed(g, &g->running[i]);
    return n > 0 && n >= g->n_running / HELD_PART;
}

static bool is_beginning(const struct generation *g, int prompt, int of)
{
    const struct generate_prompt *a = &g->prompts[prompt], *b = &g->prompts[of];

    return a->n_ids <= b->n_ids && may_share(g, a) && may_share(g, b) &&
           !memcmp(a->ids, b->ids, (size_t)a->n_ids * sizeof *a->ids);
}

/* Which of the piece's rows are asked: the prompt's last, and those where others end. */
static void ask_rows(struct generation *g, const struct sequence *s, int32_t n_ids)
{
    const int32_t end = s->n_fed + n_ids;

    for (int32_t i = 0; i < n_ids; i++)
        g->asked[g->n_rows + i] = s->n_fed + i + 1 == g->prompts[s->prompt].n_ids ? 0 : -1;
    for (int k = 1; k <= TOLD_MAX && g->shares; k++) {
        const int at = g->place[s->prompt] + k, other = at < g->n_prompts ? g->order[at] : -1;
        const int32_t n = other < 0 ? 0 : g->prompts[other].n_ids;

        if (n <= s->n_fed || n > end || !is_beginning(g, other, s->prompt))
            continue;
        g->asks[g->n_asks] = (struct ask){ other, g->n_rows + n - 1 - s->n_fed };
        g->asked[g->asks[g->n_asks++].row] = 0;
    }
}

/* The next pieces of prompts, as many as fit; the number of members. */
static int gather_pieces(struct generation *g)
{
    int n = 0;

    g->n_rows = 0;
    g->n_asks = 0;
    for (int i = 0; i < g->n_running; i++) {
        const struct sequence *s = &g->running[i];
        const struct generate_prompt *p = &g->prompts[s->prompt];
        int32_t n_ids = (int32_t)least(p->n_ids - s->n_fed, g->piece);

        if (is_fed(g, s) || !s->begun || g->n_rows + n_ids > g->max_rows)
            continue;
        memcpy(g->ids + g->n_rows, p->ids + s->n_fed, (size_t)n_ids * sizeof *g->ids);
        ask_rows(g, s, n_ids);
        g->n_rows += n_ids;
        g->slot[n] = s->slot;
        g->n_tokens[n] = n_ids;
        g->length[n] = p->n_ids;
        g->member[n++] = i;
    }
    return n;
}

/* What a pass of n members gave. */
static void take_found(struct generation *g, int n)
{
    int64_t row = 0;

    for (int i = 0; i < g->n_asks; i++)
        g->told[g->asks[i].prompt] = g->found[g->asks[i].row];
    for (int i = 0; i < n; i++) {
        struct sequence *s = &g->running[g->member[i]];

        row += g->n_tokens[i];
        s->n_fed += g->n_tokens[i];
        g->slots[s->slot].n = s->n_fed;
        if (is_fed(g, s))
            g->over[g->member[i]] = take_id(g, s, g->found[row - 1]);
    }
}

static int run_pass(struct generation *g, struct err *e)
{
    struct forward_out out = { .next_ids = g->found };
    const int n = gather_pieces(g);
    const struct batch batch = { .phase = PHASE_PROMPT,
                                 .n_seqs = n,
                                 .slot = g->slot,
                                 .n_tokens = g->n_tokens,
                                 .ids = g->ids,
                                 .length = g->length,
                                 .targets = g->asked };

    if (forward_run(g->forward, &g->cache, &batch, WANT_ARGMAX, g->o->eos_ids,
                    g->o->min_new_tokens > 0 ? g->o->n_eos : 0, &out, e) < 0)
        return -1;
    take_found(g, n);
    drop_ended(g);
    g->counts.n_passes++;
    g->counts.n_rows += g->n_rows;
    return 0;
}

/* The longer answers have been so far, the more: a third of an answer may be thrown away.  But no
 * part of one that goes on to the end: its steps come in equal parts. */
static int64_t steps_until_look(const struct generation *g)
{
    const int64_t full = most(1, g->o->max_new_tokens - 1);
    const int64_t wanted =
        least(g->n_steps, 1 + (g->n_ended ? g->n_new / g->n_ended / 3 : g->n_steps / 2));
    const int64_t n_looks = (full + wanted - 1) / wanted;

    return (full + n_looks - 1) / n_looks;
}

/* Steps until the next look at n sequences. */
static int steps_for(const struct generation *g, bool ending, int n)
{
    int64_t longest = 0, until_ending = INT32_MAX, wanted = g->n_steps;

    for (int i = 0; i < n; i++) {
        int64_t n_new = g->results[g->running[g->member[i]].prompt].n_ids;
        longest = most(longest, g->o->max_new_tokens - n_new);
        until_ending = least(until_ending, g->o->min_new_tokens - n_new);
    }
    if (!g->o->n_steps && (g->o->stop || g->o->n_eos))
        wanted = steps_until_look(g);
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
    g->counts.n_looks++;
    g->counts.n_steps += n_steps;
    g->counts.n_fed += (int64_t)n_steps * n;
    return 0;
}

static int run_turn(struct generation *g, struct err *e)
{
    start_waiting(g);
    if (begin_all(g, e) < 0)
        return -1;
    if (drop_ended(g))
        return 0;
    if (needs_pass(g))
        return run_pass(g, e);
    return run_steps(g, false, e) < 0 ? -1 : run_steps(g, true, e);
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
    order_prompts(&g);
    while (g.n_started < n_prompts || g.n_running)
        if (run_turn(&g, e) < 0)
            goto out;
    rc = 0;
    if (o->counts)
        *o->counts = g.counts;
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
