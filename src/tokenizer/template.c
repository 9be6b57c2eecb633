/* template.c - post-processors: which special ids stand around a text's own.
 *
 * TemplateProcessing emits its pieces in order; ByteLevel and others move offsets only.  */
#include "tokenizer/stages.h"

#include <stdlib.h>
#include <string.h>

static struct template_form *form_new(struct templates *t)
{
    t->at = mem_grow(t->at, t->n + 1, sizeof *t->at);
    t->at[t->n] = (struct template_form){ 0 };
    return &t->at[t->n++];
}

static struct template_piece *piece_new(struct template_form *f)
{
    f->pieces = mem_grow(f->pieces, f->n + 1, sizeof *f->pieces);
    f->pieces[f->n] = (struct template_piece){ 0 };
    return &f->pieces[f->n++];
}

static int special_read(struct template_piece *p, const struct js *special_tokens, const char *name,
                        struct err *e)
{
    const struct js *ids = js_get(js_get(special_tokens, name), "ids");

    if (js_kind(ids) != JS_ARRAY)
        return err_set(e, ERR_INPUT, "special token \"%.64s\" has no ids", name);
    p->n = js_count(ids);
    p->ids = mem_array(p->n, sizeof *p->ids);
    for (size_t i = 0; i < p->n; i++) {
        int64_t id = js_int(js_at(ids, i));
        if (js_kind(js_at(ids, i)) != JS_INT || id < 0 || id >= TOKEN_ID_LIMIT)
            return err_set(e, ERR_INPUT, "special token \"%.64s\" has a wrong id", name);
        p->ids[i] = (int32_t)id;
    }
    return 0;
}

static int template_read(struct template_form *f, const struct js *j, struct err *e)
{
    const struct js *single = js_get(j, "single");

    if (js_kind(single) != JS_ARRAY)
        return err_set(e, ERR_INPUT, "single should be a list");
    for (size_t i = 0; i < js_count(single); i++) {
        const struct js *at = js_at(single, i);
        struct template_piece *p = piece_new(f);
        const char *name;

        if (js_get(at, "SpecialToken")) {
            if (js_want_text(at, "SpecialToken.id", &name, e) < 0 ||
                special_read(p, js_get(j, "special_tokens"), name, e) < 0)
                return -1;
            continue;
        }
        if (js_want_text(at, "Sequence.id", &name, e) < 0)
            return -1;
        if (strcmp(name, "A") != 0)
            return err_set(e, ERR_INPUT, "single uses sequence \"%.64s\"", name);
        p->is_text = true;
    }
    return 0;
}

static int read_all(struct templates *out, const struct js *j, int depth, struct err *e)
{
    const char *type;

    if (component_type(j, "post_processor", &type, e) < 0)
        return -1;
    if (strcmp(type, "Sequence") == 0) {
        const struct js *list = js_get(j, "processors");
        if (js_kind(list) != JS_ARRAY || depth == SEQUENCE_DEPTH_MAX)
            return err_set(e, ERR_INPUT, "post_processor Sequence: no list, or nested too deeply");
        for (size_t i = 0; i < js_count(list); i++)
            if (read_all(out, js_at(list, i), depth + 1, e) < 0)
                return -1;
        return 0;
    }
    if (strcmp(type, "ByteLevel") == 0)
        return 0;
    if (strcmp(type, "TemplateProcessing") != 0)
        return component_unknown("post_processor", type, e);
    if (template_read(form_new(out), j, e) < 0)
        return err_in(e, "post_processor %s", type);
    return 0;
}

int templates_read(struct templates *out, const struct js *j, struct err *e)
{
    return js_kind(j) == JS_NULL ? 0 : read_all(out, j, 0, e);
}

void templates_override(struct templates *t, int32_t bos, int32_t eos)
{
    templates_release(t);
    struct template_form *f = form_new(t);
    for (int i = 0; i < 3; i++) {
        int32_t id = i == 0 ? bos : eos;
        if (i != 1 && id < 0)
            continue;
        struct template_piece *p = piece_new(f);
        p->is_text = i == 1;
        if (p->is_text)
            continue;
        p->n = 1;
        p->ids = mem_array(1, sizeof *p->ids);
        p->ids[0] = id;
    }
}

void templates_release(struct templates *t)
{
    for (size_t i = 0; i < t->n; i++) {
        for (size_t k = 0; k < t->at[i].n; k++)
            free(t->at[i].pieces[k].ids);
        free(t->at[i].pieces);
    }
    free(t->at);
    *t = (struct templates){ 0 };
}

void templates_run(const struct templates *t, struct token_ids *ids)
{
    for (size_t i = 0; i < t->n; i++) {
        struct token_ids out = TOKEN_IDS_INIT;
        for (size_t k = 0; k < t->at[i].n; k++) {
            const struct template_piece *p = &t->at[i].pieces[k];
            token_ids_add(&out, p->is_text ? ids->ids : p->ids, p->is_text ? ids->n : p->n);
        }
        token_ids_release(ids);
        *ids = out;
    }
}

int32_t templates_first_id(const struct templates *t)
{
    for (size_t i = t->n; i-- > 0;) /* the last one stands outermost */
        for (size_t k = 0; k < t->at[i].n; k++) {
            if (t->at[i].pieces[k].is_text)
                break;
            if (t->at[i].pieces[k].n > 0)
                return t->at[i].pieces[k].ids[0];
        }
    return -1;
}
