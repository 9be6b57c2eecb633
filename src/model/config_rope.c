/* config_rope.c - the part of config.json that says how positions rotate:
 * rope_parameters of transformers 5, else rope_theta and rope_scaling. */
#include "model/config.h"

#include <math.h>
#include <string.h>

static int parse_type(const struct js *scaling, struct rope_config *r, struct err *e)
{
    static const char *const names[] = {
        [ROPE_DEFAULT] = "default", [ROPE_LINEAR] = "linear", [ROPE_DYNAMIC] = "dynamic",
        [ROPE_LLAMA3] = "llama3",   [ROPE_YARN] = "yarn",
    };
    const char *type;

    /* "type" is the older name of "rope_type". */
    if (js_text_or(scaling, "type", "default", &type, e) < 0 ||
        js_text_or(scaling, "rope_type", type, &type, e) < 0)
        return -1;
    for (int i = 0; i < (int)(sizeof names / sizeof *names); i++)
        if (strcmp(type, names[i]) == 0) {
            r->type = (enum rope_type)i;
            return 0;
        }
    return err_set(e, ERR_INPUT,
                   "rope_type \"%s\" is not supported (default, linear, dynamic, llama3, yarn)",
                   type);
}

static int positive(const char *key, double value, struct err *e)
{
    if (!(value > 0 && isfinite(value)))
        return err_set(e, ERR_INPUT, "%s is %g, it must be positive", key, value);
    return 0;
}

static int parse_llama3(const struct js *j, struct rope_config *r, struct err *e)
{
    if (js_want_real(j, "low_freq_factor", &r->low_freq_factor, e) < 0 ||
        js_want_real(j, "high_freq_factor", &r->high_freq_factor, e) < 0 ||
        js_want_int(j, "original_max_position_embeddings", &r->original_max_position, e) < 0 ||
        positive("low_freq_factor", r->low_freq_factor, e) < 0 ||
        positive("original_max_position_embeddings", (double)r->original_max_position, e) < 0)
        return -1;
    if (!(r->high_freq_factor > r->low_freq_factor))
        return err_set(e, ERR_INPUT, "high_freq_factor %g is not above low_freq_factor %g",
                       r->high_freq_factor, r->low_freq_factor);
    return 0;
}

/* transformers 5 measures rotations against the length trained on; 4.x against
 * max_position_embeddings.  original_max_position receives what the file's form asks for. */
static int parse_yarn(const struct js *j, bool new_form, int64_t max_position,
                      struct rope_config *r, struct err *e)
{
    int64_t trained;

    if (js_real_or(j, "beta_fast", 32, &r->beta_fast, e) < 0 ||
        js_real_or(j, "beta_slow", 1, &r->beta_slow, e) < 0 ||
        js_real_or(j, "attention_factor", NAN, &r->attention_factor, e) < 0 ||
        js_real_or(j, "mscale", NAN, &r->mscale, e) < 0 ||
        js_real_or(j, "mscale_all_dim", NAN, &r->mscale_all_dim, e) < 0 ||
        js_bool_or(j, "truncate", true, &r->truncate, e) < 0 ||
        js_int_or(j, "original_max_position_embeddings", max_position, &trained, e) < 0 ||
        positive("beta_fast", r->beta_fast, e) < 0 || positive("beta_slow", r->beta_slow, e) < 0 ||
        positive("original_max_position_embeddings", (double)trained, e) < 0)
        return -1;
    if (js_kind(js_get(j, "attention_factor")) != JS_NULL &&
        positive("attention_factor", r->attention_factor, e) < 0)
        return -1;
    if (r->theta <= 1)
        return err_set(e, ERR_INPUT, "rope_theta %g: yarn needs more than 1", r->theta);
    r->original_max_position = new_form ? trained : max_position;
    if (js_kind(js_get(j, "factor")) == JS_NULL)
        r->factor = (double)max_position / (double)trained;
    return 0;
}

int config_parse_rope(const struct js *config, struct config *c, struct err *e)
{
    const struct js *parameters = js_get(config, "rope_parameters");
    const struct js *scaling = js_get(config, "rope_scaling");
    bool new_form = js_kind(parameters) != JS_NULL;
    const char *where = new_form ? "rope_parameters" : "rope_scaling";
    const struct js *j = new_form ? parameters : scaling;
    struct rope_config *r = &c->rope;

    *r = (struct rope_config){
        .factor = 1, .attention_factor = NAN, .mscale = NAN, .mscale_all_dim = NAN, .truncate = true
    };
    if (js_kind(j) != JS_NULL && js_kind(j) != JS_OBJECT)
        return err_set(e, ERR_INPUT, "%s is %s instead of an object", where,
                       js_kind_name(js_kind(j)));
    struct js_member m = JS_MEMBER_INIT;
    while (js_kind(j) == JS_OBJECT && js_next(j, &m))
        if (js_kind(m.value) == JS_OBJECT)
            return err_set(e, ERR_INPUT, "%s.%s: rotations by kind of layer are not supported",
                           where, m.key);

    if (js_real_or(config, "rope_theta", 10000, &r->theta, e) < 0 ||
        js_real_or(config, "partial_rotary_factor", 1, &r->partial_rotary_factor, e) < 0)
        return -1;
    if (parse_type(j, r, e) < 0 ||
        (new_form && (js_real_or(j, "rope_theta", r->theta, &r->theta, e) < 0 ||
                      js_real_or(j, "partial_rotary_factor", r->partial_rotary_factor,
                                 &r->partial_rotary_factor, e) < 0)) ||
        positive("rope_theta", r->theta, e) < 0)
        return err_in(e, "%s", where);
    int rotated = (int)(c->head_dim * r->partial_rotary_factor);
    if (!(r->partial_rotary_factor > 0 && r->partial_rotary_factor <= 1) || rotated < 2 ||
        rotated % 2 != 0)
        return err_set(e, ERR_INPUT,
                       "partial_rotary_factor %g leaves %d dimensions of %d to rotate",
                       r->partial_rotary_factor, rotated, c->head_dim);
    if (r->type == ROPE_DEFAULT)
        return 0;

    bool needs_factor = r->type != ROPE_YARN || js_kind(js_get(j, "factor")) != JS_NULL;
    if ((needs_factor && js_want_real(j, "factor", &r->factor, e) < 0) ||
        (r->type == ROPE_LLAMA3 && parse_llama3(j, r, e) < 0) ||
        (r->type == ROPE_YARN && parse_yarn(j, new_form, c->max_position, r, e) < 0) ||
        positive("factor", r->factor, e) < 0)
        return err_in(e, "%s", where);
    if (r->type == ROPE_DYNAMIC && (rotated < 4 || r->factor < 1))
        return err_set(e, ERR_INPUT, "%s: dynamic scaling by %g of %d dimensions", where, r->factor,
                       rotated);
    return 0;
}
