/* store_h5_values.c - see store_h5_inner.h: JSON -> values of one kind, ready for the library. */
#include "record/store_h5_inner.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

struct look { /* at the leaves of an array */
    bool ints, reals, bools, texts, others;
    size_t n_arrays, shortest, longest; /* elements that are arrays themselves */
};

static void look_at_leaf(struct look *l, const struct js *j)
{
    switch (js_kind(j)) {
    case JS_INT:
        l->ints = true;
        break;
    case JS_REAL:
    case JS_NULL:
        l->reals = true;
        break;
    case JS_BOOL:
        l->bools = true;
        break;
    case JS_TEXT:
        l->texts = true;
        break;
    default:
        l->others = true;
    }
}

static struct look look_at(const struct js *j)
{
    struct look l = { .shortest = SIZE_MAX };

    if (js_kind(j) != JS_ARRAY) {
        look_at_leaf(&l, j);
        return l;
    }
    for (size_t i = 0; i < js_count(j); i++) {
        const struct js *row = js_at(j, i);
        if (js_kind(row) != JS_ARRAY) {
            look_at_leaf(&l, row);
            continue;
        }
        l.n_arrays++;
        l.shortest = js_count(row) < l.shortest ? js_count(row) : l.shortest;
        l.longest = js_count(row) > l.longest ? js_count(row) : l.longest;
        for (size_t k = 0; k < js_count(row); k++)
            look_at_leaf(&l, js_at(row, k));
    }
    return l;
}

static enum values_kind kind_of(const struct look *l, bool ragged)
{
    if (l->others || l->texts || (l->bools && (l->ints || l->reals)))
        return VALUES_TEXT;
    if (l->bools)
        return ragged ? VALUES_TEXT : VALUES_BOOL;
    return l->ints && !l->reals && !ragged ? VALUES_INT : VALUES_REAL;
}

/* A copy that C's end-of-text cannot cut short. */
static char *copy_text(const char *text, size_t n_bytes)
{
    struct bytes b = BYTES_INIT;

    if (!memchr(text, 0, n_bytes))
        return mem_textn(text, n_bytes);
    for (size_t i = 0; i < n_bytes; i++)
        bytes_add(&b, text[i] ? text + i : "\xE2\x90\x80", text[i] ? 1 : 3);
    return b.data;
}

static char *text_of(const struct js *j)
{
    if (js_kind(j) == JS_TEXT)
        return copy_text(js_text(j), js_text_bytes(j));
    return js_kind(j) == JS_NULL ? mem_text("") : js_write(j, NULL);
}

/* Fills element i of the values with a leaf, or with the gap at the end of a short row. */
static void store(struct values *v, size_t i, const struct js *leaf)
{
    switch (v->kind) {
    case VALUES_INT:
        ((int64_t *)(uintptr_t)v->ints)[i] = js_int(leaf);
        break;
    case VALUES_REAL:
        ((double *)(uintptr_t)v->reals)[i] = js_real(leaf);
        break;
    case VALUES_BOOL:
        ((int8_t *)(uintptr_t)v->bools)[i] = js_bool(leaf);
        break;
    default:
        ((char **)(uintptr_t)v->texts)[i] = text_of(leaf);
    }
}

void values_from_js(const struct js *j, struct values *out)
{
    struct look l = look_at(j);
    bool array = js_kind(j) == JS_ARRAY;
    /* Arrays beside plain values are no table: they become text, each for itself. */
    bool mixed = l.n_arrays > 0 && l.n_arrays < js_count(j);

    *out = (struct values){ .rank = !array ? 0 : l.n_arrays && !mixed ? 2 : 1 };
    out->kind = mixed ? VALUES_TEXT : kind_of(&l, l.n_arrays && l.shortest != l.longest);
    out->dims[0] = array ? js_count(j) : 1;
    out->dims[1] = out->rank == 2 ? l.longest : 1;

    size_t n = values_count(out);
    switch (out->kind) {
    case VALUES_INT:
        out->ints = mem_array(n, sizeof *out->ints);
        break;
    case VALUES_REAL:
        out->reals = mem_array(n, sizeof *out->reals);
        break;
    case VALUES_BOOL:
        out->bools = mem_array(n, sizeof *out->bools);
        break;
    default:
        out->texts = mem_array(n, sizeof *out->texts);
    }
    for (size_t i = 0; i < n; i++) {
        const struct js *leaf = !array ? j : js_at(j, i / out->dims[1]);
        store(out, i, out->rank == 2 ? js_at(leaf, i % out->dims[1]) : leaf);
    }
}

void values_release(struct values *v)
{
    if (v->texts)
        for (size_t i = 0; i < values_count(v); i++)
            free((char *)(uintptr_t)v->texts[i]);
    free((void *)(uintptr_t)v->ints);
    free((void *)(uintptr_t)v->reals);
    free((void *)(uintptr_t)v->bools);
    free((void *)(uintptr_t)v->texts);
    *v = (struct values){ 0 };
}

size_t values_count(const struct values *v)
{
    size_t n = 1;

    for (int d = 0; d < v->rank; d++)
        n *= (size_t)v->dims[d];
    return n;
}
