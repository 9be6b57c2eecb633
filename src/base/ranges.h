/* ranges.h - which parts of a span are taken: the least part that suffices, neighbours joined.
 *
 * For memory that this process does not touch itself: it knows places alone.  Taking looks at the
 * free parts, giving back takes a few steps.  Not for use from two threads.  */
#pragma once

#include <stdbool.h>
#include <stddef.h>

struct ranges;

/* A span of n_units, at most 2^31, none of them taken. */
struct ranges *ranges_open(size_t n_units);
void ranges_close(struct ranges *r); /* NULL is fine */

/* The first of n >= 1 units in a row that are taken from now on; false: there are not as many. */
bool ranges_take(struct ranges *r, size_t n, size_t *at);
/* What began at `at` is free again. */
void ranges_give(struct ranges *r, size_t at);

size_t ranges_n_free(const struct ranges *r);
