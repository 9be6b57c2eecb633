/* ranges.c - see ranges.h.
 *
 * Parts, free and taken, are a list in the order of their places; free ones are in a second list.
 * A table has the part that begins at a unit.  */
#include "base/ranges.h"

#include "base/memory.h"

#include <assert.h>
#include <stdint.h>
#include <stdlib.h>

#define NONE 0 /* part 0 is the head of both lists */

struct part {
    uint32_t at, n;                    /* units */
    uint32_t before, behind;           /* in order; NONE at the ends */
    uint32_t free_before, free_behind; /* of a free part */
    bool free;
};

struct ranges {
    struct part *parts;
    uint32_t n_parts, room, spare; /* spare: parts that stand for nothing, by `behind` */
    uint32_t *begins;              /* [n_units]: the part, or NONE */
    size_t n_units, n_free;
};

static uint32_t new_part(struct ranges *r)
{
    uint32_t i = r->spare;

    if (i != NONE) {
        r->spare = r->parts[i].behind;
        return i;
    }
    if (r->n_parts == r->room) {
        r->room = r->room ? 2 * r->room : 64;
        r->parts = mem_grow(r->parts, r->room, sizeof *r->parts);
    }
    return r->n_parts++;
}

static void add_free(struct ranges *r, uint32_t i)
{
    struct part *p = &r->parts[i], *head = &r->parts[NONE];

    p->free = true;
    p->free_before = NONE;
    p->free_behind = head->free_behind;
    r->parts[head->free_behind].free_before = i;
    head->free_behind = i;
}

static void drop_free(struct ranges *r, uint32_t i)
{
    struct part *p = &r->parts[i];

    p->free = false;
    r->parts[p->free_before].free_behind = p->free_behind;
    r->parts[p->free_behind].free_before = p->free_before;
}

struct ranges *ranges_open(size_t n_units)
{
    struct ranges *r = mem_alloc(sizeof *r);

    assert(n_units >= 1 && n_units <= (size_t)1 << 31);
    r->n_units = r->n_free = n_units;
    r->begins = mem_array(n_units, sizeof *r->begins);
    uint32_t head = new_part(r), all = new_part(r);
    r->parts[head] = (struct part){ .before = all, .behind = all };
    r->parts[all] = (struct part){ .n = (uint32_t)n_units };
    add_free(r, all);
    r->begins[0] = all;
    return r;
}

void ranges_close(struct ranges *r)
{
    if (!r)
        return;
    free(r->parts);
    free(r->begins);
    free(r);
}

/* The rest of a part behind its first n units becomes a part of its own. */
static void split(struct ranges *r, uint32_t i, uint32_t n)
{
    uint32_t rest = new_part(r);
    struct part *p = &r->parts[i], *q = &r->parts[rest];

    *q = (struct part){ .at = p->at + n, .n = p->n - n, .before = i, .behind = p->behind };
    r->parts[p->behind].before = rest;
    p->behind = rest;
    p->n = n;
    r->begins[q->at] = rest;
    add_free(r, rest);
}

bool ranges_take(struct ranges *r, size_t n, size_t *at)
{
    uint32_t best = NONE;

    assert(n >= 1);
    if (n > r->n_free)
        return false;
    for (uint32_t i = r->parts[NONE].free_behind; i != NONE; i = r->parts[i].free_behind)
        if (r->parts[i].n >= n && (best == NONE || r->parts[i].n < r->parts[best].n))
            best = i;
    if (best == NONE)
        return false;
    drop_free(r, best);
    if (r->parts[best].n > n)
        split(r, best, (uint32_t)n);
    r->n_free -= n;
    *at = r->parts[best].at;
    return true;
}

/* The part behind i becomes part of it; neither is in the list of free ones. */
static void join(struct ranges *r, uint32_t i)
{
    struct part *p = &r->parts[i];
    uint32_t gone = p->behind;

    r->begins[r->parts[gone].at] = NONE;
    p->n += r->parts[gone].n;
    p->behind = r->parts[gone].behind;
    r->parts[p->behind].before = i;
    r->parts[gone].behind = r->spare;
    r->spare = gone;
}

void ranges_give(struct ranges *r, size_t at)
{
    assert(at < r->n_units && r->begins[at] != NONE);
    uint32_t i = r->begins[at];
    assert(!r->parts[i].free);

    r->n_free += r->parts[i].n;
    uint32_t before = r->parts[i].before, behind = r->parts[i].behind;
    if (behind != NONE && r->parts[behind].free) {
        drop_free(r, behind);
        join(r, i);
    }
    if (before != NONE && r->parts[before].free) {
        drop_free(r, before);
        join(r, before);
        i = before;
    }
    add_free(r, i);
}

size_t ranges_n_free(const struct ranges *r)
{
    return r->n_free;
}
