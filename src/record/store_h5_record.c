/* store_h5_record.c - see store_h5_inner.h: JSON of a record -> attributes, datasets, groups. */
#include "record/store_h5_inner.h"

#include <stdlib.h>
#include <string.h>

enum {
    DEPTH_MAX = 16,              /* groups in groups; what is deeper becomes its JSON text */
    ATTRIBUTE_BYTES_MAX = 60000, /* longer texts become datasets: attributes end at 64 KiB */
};

/* Which dataset's rows are labelled by which other dataset of its group. */
static const struct {
    const char *of, *scale;
} scales[] = {
    { "tokens_per_s", "batch_size" },
    { "prefill_ms", "prefill_tokens" },
};

/* Lists of repeats, one value a measurement. */
static const char *const timings[] = { "prefill_ms", "decode_ms_per_token", "e2e_ms",
                                       "tokens_per_s" };

static int put_scalar(const struct h5_build *b, hid_t group, const char *key,
                      const struct js *value, struct err *e)
{
    struct values v;
    int rc;

    values_from_js(value, &v);
    if (v.kind == VALUES_TEXT && strlen(v.texts[0]) > ATTRIBUTE_BYTES_MAX)
        rc = h5_put_dataset(b, group, key, &v, h5_facts_of(key), e);
    else
        rc = h5_put_attribute(b, group, key, &v, e);
    values_release(&v);
    return rc;
}

static int put_array(const struct h5_build *b, hid_t group, const char *key, const struct js *array,
                     const struct h5_facts *facts, struct err *e)
{
    struct values v;

    values_from_js(array, &v);
    int rc = h5_put_dataset(b, group, key, &v, facts, e);
    values_release(&v);
    return rc;
}

static int put_object_at(const struct h5_build *b, hid_t group, const struct js *object, int depth,
                         struct err *e);

static int put_member_at(const struct h5_build *b, hid_t group, const char *key,
                         const struct js *value, int depth, struct err *e)
{
    hid_t inner;

    if (js_kind(value) == JS_ARRAY)
        return put_array(b, group, key, value, h5_facts_of(key), e);
    if (js_kind(value) != JS_OBJECT || depth >= DEPTH_MAX)
        return put_scalar(b, group, key, value, e);
    if (h5_put_group(b, group, key, &inner, e) < 0)
        return -1;
    int rc = put_object_at(b, inner, value, depth + 1, e);
    h5_close(inner);
    return rc < 0 ? err_in(e, "%s", key) : 0;
}

/* "f1_item" -> "f1"; NULL where the key is no per-item array, or "f1" is an array itself. */
static char *item_name(const struct js *object, const char *key)
{
    const char ending[] = "_item";
    size_t n = strlen(key), m = sizeof ending - 1;

    if (n <= m || strcmp(key + n - m, ending) != 0)
        return NULL;
    char *name = mem_textn(key, n - m);
    enum js_kind other = js_kind(js_get(object, name));
    if (other != JS_ARRAY && other != JS_OBJECT)
        return name;
    free(name);
    return NULL;
}

static int put_items(const struct h5_build *b, hid_t group, const char *name,
                     const struct js *array, struct err *e)
{
    struct h5_facts facts = *h5_facts_of(name);

    facts.what = "one value an item, in the order of the other datasets here";
    return put_array(b, group, name, array, &facts, e);
}

static void add_word(struct bytes *list, const char *separator, const char *word)
{
    if (list->n)
        bytes_text(list, separator);
    bytes_text(list, word);
}

/* An attribute cannot carry attributes, so its unit and direction stand in lists beside it. */
static int put_attribute_facts(const struct h5_build *b, hid_t group, const struct js *object,
                               struct err *e)
{
    struct bytes units = BYTES_INIT, higher = BYTES_INIT, lower = BYTES_INIT;
    struct js_member m = JS_MEMBER_INIT;
    int rc = -1;

    while (js_next(object, &m)) {
        if (js_kind(m.value) != JS_INT && js_kind(m.value) != JS_REAL)
            continue;
        const struct h5_facts *f = h5_facts_of(m.key);
        if (*f->unit && strcmp(f->unit, "1") != 0) {
            add_word(&units, ", ", m.key);
            bytes_printf(&units, ": %s", f->unit);
        }
        if (f->higher_is_better == 1)
            add_word(&higher, ", ", m.key);
        if (f->higher_is_better == 0)
            add_word(&lower, ", ", m.key);
    }
    if ((units.n && h5_put_text(b, group, "units", units.data, e) < 0) ||
        (higher.n && h5_put_text(b, group, "higher_is_better", higher.data, e) < 0) ||
        (lower.n && h5_put_text(b, group, "lower_is_better", lower.data, e) < 0))
        goto out;
    rc = 0;
out:
    bytes_release(&units);
    bytes_release(&higher);
    bytes_release(&lower);
    return rc;
}

static int put_scales(hid_t group, const struct js *object, struct err *e)
{
    for (size_t i = 0; i < sizeof scales / sizeof *scales; i++) {
        const struct js *of = js_get(object, scales[i].of);
        const struct js *scale = js_get(object, scales[i].scale);
        bool fits = js_kind(of) == JS_ARRAY && js_kind(scale) == JS_ARRAY && js_count(of) > 0 &&
                    js_count(of) == js_count(scale);
        if (fits && h5_put_scale(group, scales[i].of, scales[i].scale, e) < 0)
            return -1;
    }
    return 0;
}

static int put_timings(const struct h5_build *b, hid_t group, const struct js *object,
                       struct err *e)
{
    for (size_t i = 0; i < sizeof timings / sizeof *timings; i++) {
        const struct js *repeats = js_get(object, timings[i]);
        if (js_kind(repeats) == JS_ARRAY && h5_put_timing(b, group, timings[i], repeats, e) < 0)
            return -1;
    }
    return 0;
}

static int put_object_at(const struct h5_build *b, hid_t group, const struct js *object, int depth,
                         struct err *e)
{
    struct js_member m = JS_MEMBER_INIT;
    int rc = 0;

    while (rc == 0 && js_next(object, &m)) {
        char *item = js_kind(m.value) == JS_ARRAY ? item_name(object, m.key) : NULL;
        rc = item ? put_items(b, group, item, m.value, e)
                  : put_member_at(b, group, m.key, m.value, depth, e);
        free(item);
    }
    if (rc < 0 || put_attribute_facts(b, group, object, e) < 0 ||
        put_timings(b, group, object, e) < 0)
        return -1;
    return put_scales(group, object, e);
}

int h5_put_object(const struct h5_build *b, hid_t group, const struct js *object, struct err *e)
{
    return put_object_at(b, group, object, 0, e);
}

int h5_put_member(const struct h5_build *b, hid_t group, const char *key, const struct js *value,
                  struct err *e)
{
    return put_member_at(b, group, key, value, 0, e);
}
