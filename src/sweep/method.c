/* method.c - see method.h. */
#include "sweep/method.h"

#include "sweep/keys.h"
#include "sweep/preset.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const axis_keys[N_AXES] = {
    [AXIS_BITS] = "bits",
    [AXIS_GROUP_SIZE] = "group_size",
    [AXIS_QUANT_TYPE] = "quant_type",
    [AXIS_DOUBLE_QUANT] = "double_quant",
    [AXIS_COMPUTE_DTYPE] = "compute_dtype",
    [AXIS_CLIP] = "clip",
    [AXIS_DAMP_PERCENT] = "damp_percent",
    [AXIS_DESC_ACT] = "desc_act",
    [AXIS_DUO_SCALING] = "duo_scaling",
    [AXIS_GAR] = "gar",
    [AXIS_GRID] = "grid",
    [AXIS_METHOD] = "method",
    [AXIS_MSE] = "mse",
    [AXIS_OUTLIER_THRESHOLD] = "outlier_threshold",
    [AXIS_PRESET] = "preset",
    [AXIS_SCALE_DTYPE] = "scale_dtype",
    [AXIS_SKIP_MODULES] = "skip_modules",
    [AXIS_STATIC_GROUPS] = "static_groups",
    [AXIS_SYM] = "sym",
    [AXIS_TRUE_SEQUENTIAL] = "true_sequential",
    [AXIS_ZERO_POINT] = "zero_point",
};

const struct method_rule method_rules[] = {
    { .name = "none", .data_free = true, .bits = "16 32", .standard_bits = 16 },
    { .name = "bnb_8bit",
      .data_free = true,
      .bits = "8",
      .standard_bits = 8,
      .keys = AXIS_BIT(AXIS_OUTLIER_THRESHOLD) | AXIS_BIT(AXIS_SKIP_MODULES) },
    { .name = "bnb_4bit",
      .data_free = true,
      .bits = "4",
      .standard_bits = 4,
      .group_sizes = "32 64 128 256 512 1024 2048 4096",
      .standard_group_size = 64,
      .quant_types = "nf4 fp4",
      .has_double_quant = true,
      .standard_double_quant = true,
      .keys = AXIS_BIT(AXIS_SKIP_MODULES) },
    { .name = "rtn",
      .data_free = true,
      .bits = "2 3 4 5 6 7 8",
      .standard_bits = 4,
      .group_sizes = "",
      .standard_group_size = 128,
      .quant_types = "int nf2 nf3 nf4 fp4 mxfp4 nvfp4 fp8_e4m3",
      .has_double_quant = true,
      .scale_dtype = "fp32",
      .keys = AXIS_BIT(AXIS_SYM) | AXIS_BIT(AXIS_GRID) | AXIS_BIT(AXIS_SCALE_DTYPE) |
              AXIS_BIT(AXIS_SKIP_MODULES) },
    { .name = "hqq",
      .data_free = true,
      .bits = "2 3 4 5 6 7 8",
      .standard_bits = 4,
      .group_sizes = "",
      .standard_group_size = 64,
      .quant_types = "int",
      .has_double_quant = true,
      .scale_dtype = "fp16",
      .keys = AXIS_BIT(AXIS_SCALE_DTYPE) | AXIS_BIT(AXIS_SKIP_MODULES) },
    { .name = "gptq",
      .bits = "2 3 4 8",
      .standard_bits = 4,
      .group_sizes = "",
      .standard_group_size = 128,
      .least_group = 16,
      .most_group = 1024,
      .quant_types = "int nf2 nf3 nf4 fp4",
      .has_double_quant = true,
      .scale_dtype = "fp16",
      .keys = AXIS_BIT(AXIS_PRESET) | AXIS_BIT(AXIS_DESC_ACT) | AXIS_BIT(AXIS_SYM) |
              AXIS_BIT(AXIS_DAMP_PERCENT) | AXIS_BIT(AXIS_STATIC_GROUPS) | AXIS_BIT(AXIS_GAR) |
              AXIS_BIT(AXIS_TRUE_SEQUENTIAL) | AXIS_BIT(AXIS_MSE) | AXIS_BIT(AXIS_SCALE_DTYPE) |
              AXIS_BIT(AXIS_SKIP_MODULES) },
    { .name = "awq",
      .bits = "3 4 8",
      .standard_bits = 4,
      .group_sizes = "",
      .standard_group_size = 128,
      .least_group = 32,
      .most_group = 1024,
      .quant_types = "int",
      .has_double_quant = true,
      .scale_dtype = "fp16",
      .keys = AXIS_BIT(AXIS_ZERO_POINT) | AXIS_BIT(AXIS_DUO_SCALING) | AXIS_BIT(AXIS_CLIP) |
              AXIS_BIT(AXIS_SCALE_DTYPE) | AXIS_BIT(AXIS_SKIP_MODULES) },
    { 0 },
};

const struct method_rule *method_find(const char *name)
{
    for (const struct method_rule *m = method_rules; m->name; m++)
        if (strcmp(m->name, name) == 0)
            return m;
    return NULL;
}

/* "2 3 4" -> "2, 3, 4" */
static const char *listed(const char *words, char *out, size_t room)
{
    size_t n = 0;

    for (const char *p = words; *p && n + 3 < room; p++) {
        if (*p == ' ')
            out[n++] = ',';
        out[n++] = *p;
    }
    out[n] = 0;
    return out;
}

/* "32, 64, 128 (64)" */
static void add_allowed(struct bytes *text, const char *key, const char *words,
                        const char *standard)
{
    char all[192];

    bytes_printf(text, "  %-18s %s (default %s)\n", key, listed(words, all, sizeof all), standard);
}

char *method_list_text(void)
{
    static const struct {
        enum axis_id key;
        const char *words, *standard;
    } others[] = {
        { AXIS_SYM, "true false", "true" },
        { AXIS_GRID, "absmax gptq awq", "absmax" },
        { AXIS_OUTLIER_THRESHOLD, "0...1000", "6.0" },
        { AXIS_SCALE_DTYPE, "fp32 fp16", NULL },
        { AXIS_PRESET, "reference ist autogptq transformers gptqmodel llm-compressor",
          "reference" },
        { AXIS_DESC_ACT, "true false", "by preset" },
        { AXIS_DAMP_PERCENT, "0...1", "by preset" },
        { AXIS_STATIC_GROUPS, "true false", "by preset" },
        { AXIS_GAR, "true false", "by preset" },
        { AXIS_TRUE_SEQUENTIAL, "true false", "by preset" },
        { AXIS_MSE, "0...16", "0 = off" },
        { AXIS_ZERO_POINT, "true false", "true" },
        { AXIS_DUO_SCALING, "true false", "true" },
        { AXIS_CLIP, "true false", "true" },
    };
    struct bytes text = BYTES_INIT;
    char number[24];

    for (const struct method_rule *m = method_rules; m->name; m++) {
        bytes_printf(&text, "%s%s\n", text.n ? "\n" : "", m->name);
        snprintf(number, sizeof number, "%d", m->standard_bits);
        add_allowed(&text, "bits", m->bits, number);
        snprintf(number, sizeof number, "%lld", (long long)m->standard_group_size);
        if (m->group_sizes && *m->group_sizes)
            add_allowed(&text, "group_size", m->group_sizes, number);
        else if (m->group_sizes)
            bytes_printf(&text, "  %-18s any divisor%s, -1 = one a row (default %s)\n",
                         "group_size",
                         m->least_group == 16 ? " from 16 to 1024"
                         : m->least_group     ? " from 32 to 1024"
                                              : "",
                         number);
        if (m->quant_types) {
            snprintf(number, sizeof number, "%.*s", (int)strcspn(m->quant_types, " "),
                     m->quant_types);
            add_allowed(&text, "quant_type", m->quant_types, number);
        }
        if (m->has_double_quant)
            add_allowed(&text, "double_quant", "true false",
                        m->standard_double_quant ? "true" : "false");
        for (size_t i = 0; i < sizeof others / sizeof *others; i++)
            if (m->keys & AXIS_BIT(others[i].key))
                add_allowed(&text, axis_keys[others[i].key], others[i].words,
                            others[i].standard ? others[i].standard : m->scale_dtype);
    }
    return text.data;
}

static int refuse(struct refusal *r, enum axis_id at, unsigned axes, const char *fmt, ...)
    PRINTF_LIKE(4, 5);

static int refuse(struct refusal *r, enum axis_id at, unsigned axes, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(r->why, sizeof r->why, fmt, args);
    va_end(args);
    r->at = at;
    r->axes = axes;
    return -1;
}

int quant_type_bits(const char *quant_type)
{
    if (word_in(quant_type, "nf4 fp4 mxfp4 nvfp4"))
        return 4;
    return word_in(quant_type, "nf2")        ? 2
           : word_in(quant_type, "nf3")      ? 3
           : word_in(quant_type, "fp8_e4m3") ? 8
                                             : 0;
}

int64_t quant_type_group_size(const char *quant_type)
{
    return word_in(quant_type, "mxfp4") ? 32 : word_in(quant_type, "nvfp4") ? 16 : 0;
}

static bool flag(const struct cell *c, enum axis_id a, bool standard)
{
    return c->value[a] ? c->value[a]->boolean : standard;
}

static double number(const struct toml_value *v, double standard)
{
    return !v ? standard : v->kind == TOML_KIND_INT ? (double)v->integer : v->real;
}

/* The preset's values where no key says otherwise; a desc_act or static_groups that was asked for
 * switches the preset's group-aware order off. */
static int resolve_gptq(const struct method_rule *m, const struct cell *c, struct experiment *x,
                        struct refusal *r)
{
    const struct gptq_preset *p = preset_find(x->preset);
    bool gar = c->value[AXIS_GAR] && c->value[AXIS_GAR]->boolean;

    if (!p || !(m->keys & AXIS_BIT(AXIS_PRESET)))
        return 0;
    /* And a group-aware order that was asked for the preset's other one. */
    x->desc_act = flag(c, AXIS_DESC_ACT, p->desc_act && !gar);
    x->static_groups = flag(c, AXIS_STATIC_GROUPS, p->static_groups && !gar);
    x->gar = flag(c, AXIS_GAR, p->gar && !x->desc_act && !x->static_groups);
    x->true_sequential = flag(c, AXIS_TRUE_SEQUENTIAL, p->true_sequential);
    x->damp_percent = number(c->value[AXIS_DAMP_PERCENT], p->damp_percent);
    x->mse = number(c->value[AXIS_MSE], 0);
    if (strcmp(x->quant_type, "int") == 0)
        x->sym = flag(c, AXIS_SYM, p->sym);
    if (x->gar && (x->desc_act || x->static_groups))
        return refuse(r, AXIS_GAR,
                      AXIS_BIT(AXIS_GAR) | AXIS_BIT(AXIS_DESC_ACT) | AXIS_BIT(AXIS_STATIC_GROUPS),
                      "goes with neither desc_act nor static_groups");
    return 0;
}

static bool is_int(const struct experiment *x)
{
    return strcmp(x->quant_type, "int") == 0;
}

unsigned experiment_keys(const struct experiment *x)
{
    const struct method_rule *m = method_find(x->method);
    unsigned keys = m ? m->keys : 0;

    return is_int(x) ? keys : keys & ~(AXIS_BIT(AXIS_SYM) | AXIS_BIT(AXIS_GRID));
}

static bool number_in(int64_t number, const char *words)
{
    char text[24];

    snprintf(text, sizeof text, "%lld", (long long)number);
    return word_in(text, words);
}

/* Keys the method knows nothing of. */
static int check_keys(const struct method_rule *m, const struct cell *c, struct refusal *r)
{
    unsigned taken =
        m->keys | AXIS_BIT(AXIS_METHOD) | AXIS_BIT(AXIS_BITS) | AXIS_BIT(AXIS_COMPUTE_DTYPE);

    if (m->group_sizes)
        taken |= AXIS_BIT(AXIS_GROUP_SIZE);
    if (m->quant_types)
        taken |= AXIS_BIT(AXIS_QUANT_TYPE);
    if (m->has_double_quant)
        taken |= AXIS_BIT(AXIS_DOUBLE_QUANT);
    for (int a = 0; a < N_AXES; a++)
        if (c->value[a] && !(taken & AXIS_BIT(a)))
            return refuse(r, (enum axis_id)a, AXIS_BIT(a) | AXIS_BIT(AXIS_METHOD),
                          "method %s has no %s", m->name, axis_keys[a]);
    return 0;
}

static void put_text(char *to, size_t room, const struct toml_value *v, const char *standard)
{
    snprintf(to, room, "%s", v ? v->text : standard);
}

static int resolve_quant_type(const struct method_rule *m, const struct toml_value *v,
                              struct experiment *x, struct refusal *r)
{
    char all[128];

    if (!m->quant_types)
        return 0;
    if (v && !word_in(v->text, m->quant_types))
        return refuse(r, AXIS_QUANT_TYPE, AXIS_BIT(AXIS_QUANT_TYPE) | AXIS_BIT(AXIS_METHOD),
                      "%s allows %s", m->name, listed(m->quant_types, all, sizeof all));
    if (v)
        put_text(x->quant_type, sizeof x->quant_type, v, "");
    else
        snprintf(x->quant_type, sizeof x->quant_type, "%.*s", (int)strcspn(m->quant_types, " "),
                 m->quant_types);
    return 0;
}

static int resolve_bits(const struct method_rule *m, const struct toml_value *v,
                        struct experiment *x, struct refusal *r)
{
    bool plain = strcmp(m->name, "none") == 0;
    int fixed =
        plain ? (strcmp(x->compute_dtype, "fp32") == 0 ? 32 : 16) : quant_type_bits(x->quant_type);
    char all[128];

    x->bits = fixed ? fixed : m->standard_bits;
    if (!v)
        return 0;
    if (!number_in(v->integer, m->bits))
        return refuse(r, AXIS_BITS, AXIS_BIT(AXIS_BITS) | AXIS_BIT(AXIS_METHOD), "%s allows %s",
                      m->name, listed(m->bits, all, sizeof all));
    if (fixed && v->integer != fixed)
        return refuse(r, AXIS_BITS,
                      AXIS_BIT(AXIS_BITS) | AXIS_BIT(plain ? AXIS_COMPUTE_DTYPE : AXIS_QUANT_TYPE),
                      "%s has %d bits", plain ? x->compute_dtype : x->quant_type, fixed);
    x->bits = (int)v->integer;
    return 0;
}

static int resolve_group_size(const struct method_rule *m, const struct toml_value *v,
                              struct experiment *x, struct refusal *r)
{
    unsigned axes = AXIS_BIT(AXIS_GROUP_SIZE) | AXIS_BIT(AXIS_METHOD);
    char all[128];

    if (!m->group_sizes)
        return 0;
    int64_t fixed = quant_type_group_size(x->quant_type);
    bool fp8 = strcmp(x->quant_type, "fp8_e4m3") == 0;

    const struct gptq_preset *preset = preset_find(x->preset);

    x->group_size = v        ? v->integer
                    : fixed  ? fixed
                    : fp8    ? -1
                    : preset ? preset->group_size
                             : m->standard_group_size;
    if (m->most_group && x->group_size != -1 &&
        (x->group_size < m->least_group || x->group_size > m->most_group))
        return refuse(r, AXIS_GROUP_SIZE, axes, "%s allows divisors from %lld to %lld, and -1",
                      m->name, (long long)m->least_group, (long long)m->most_group);
    if (fixed && x->group_size != fixed)
        return refuse(r, AXIS_GROUP_SIZE, AXIS_BIT(AXIS_GROUP_SIZE) | AXIS_BIT(AXIS_QUANT_TYPE),
                      "%s has groups of %lld", x->quant_type, (long long)fixed);
    if (fp8 && x->group_size == 0)
        return 0;
    if (*m->group_sizes && !number_in(x->group_size, m->group_sizes))
        return refuse(r, AXIS_GROUP_SIZE, axes, "%s allows %s", m->name,
                      listed(m->group_sizes, all, sizeof all));
    if (!*m->group_sizes && x->group_size != -1 && x->group_size < 1)
        return refuse(r, AXIS_GROUP_SIZE, axes,
                      "%s allows every divisor of the layers' widths, and -1 (one group per row)%s",
                      m->name,
                      word_in("fp8_e4m3", m->quant_types)
                          ? "; 0 (one for the whole matrix) goes with fp8_e4m3"
                          : "");
    return 0;
}

/* Keys that another key's value makes meaningless. */
static int check_pairs(const struct cell *c, const struct experiment *x, struct refusal *r)
{
    static const enum axis_id of_int[] = { AXIS_SYM, AXIS_GRID };
    const struct toml_value *again = c->value[AXIS_DOUBLE_QUANT];

    for (size_t i = 0; i < sizeof of_int / sizeof *of_int; i++)
        if (*x->quant_type && !is_int(x) && c->value[of_int[i]])
            return refuse(r, of_int[i], AXIS_BIT(of_int[i]) | AXIS_BIT(AXIS_QUANT_TYPE),
                          "%s has no %s", x->quant_type, axis_keys[of_int[i]]);
    if (quant_type_group_size(x->quant_type) && again && again->boolean)
        return refuse(r, AXIS_DOUBLE_QUANT, AXIS_BIT(AXIS_DOUBLE_QUANT) | AXIS_BIT(AXIS_QUANT_TYPE),
                      "the scales of %s have 8 bits already", x->quant_type);
    return 0;
}

/* Settings whose every value is right once the method has the key. */
static void resolve_rest(const struct method_rule *m, const struct cell *c, struct experiment *x)
{
    const struct toml_value *v = c->value[AXIS_DOUBLE_QUANT];
    unsigned keys = experiment_keys(x);

    x->double_quant = v ? v->boolean : m->standard_double_quant;
    if (keys & AXIS_BIT(AXIS_ZERO_POINT)) {
        x->zero_point = flag(c, AXIS_ZERO_POINT, true);
        x->duo_scaling = flag(c, AXIS_DUO_SCALING, true);
        x->clip = flag(c, AXIS_CLIP, true);
    }
    if ((keys & AXIS_BIT(AXIS_SYM)) && !(keys & AXIS_BIT(AXIS_PRESET)))
        x->sym = c->value[AXIS_SYM] ? c->value[AXIS_SYM]->boolean : true;
    if (keys & AXIS_BIT(AXIS_GRID))
        put_text(x->grid, sizeof x->grid, c->value[AXIS_GRID], "absmax");
    if (m->keys & AXIS_BIT(AXIS_SCALE_DTYPE))
        put_text(x->scale_dtype, sizeof x->scale_dtype, c->value[AXIS_SCALE_DTYPE], m->scale_dtype);
    if (m->keys & AXIS_BIT(AXIS_OUTLIER_THRESHOLD)) {
        v = c->value[AXIS_OUTLIER_THRESHOLD];
        x->outlier_threshold = !v ? 6.0 : v->kind == TOML_KIND_INT ? (double)v->integer : v->real;
    }
}

static void resolve_skip(const struct method_rule *m, const struct toml_value *v,
                         struct experiment *x)
{
    if (!(m->keys & AXIS_BIT(AXIS_SKIP_MODULES)))
        return;
    x->n_skip = v ? v->n : 1;
    if (!v)
        snprintf(x->skip[0], sizeof x->skip[0], "lm_head");
    for (int i = 0; v && i < v->n; i++)
        snprintf(x->skip[i], sizeof x->skip[i], "%s", v->items[i]->text);
}

int method_resolve(const struct cell *c, struct experiment *out, struct refusal *why)
{
    const struct method_rule *m = method_find(c->value[AXIS_METHOD]->text);

    *out = (struct experiment){ 0 };
    put_text(out->method, sizeof out->method, c->value[AXIS_METHOD], "");
    put_text(out->compute_dtype, sizeof out->compute_dtype, c->value[AXIS_COMPUTE_DTYPE], "fp16");
    if (m->keys & AXIS_BIT(AXIS_PRESET))
        put_text(out->preset, sizeof out->preset, c->value[AXIS_PRESET], gptq_presets[0].name);
    if (check_keys(m, c, why) < 0 ||
        resolve_quant_type(m, c->value[AXIS_QUANT_TYPE], out, why) < 0 ||
        resolve_bits(m, c->value[AXIS_BITS], out, why) < 0 ||
        resolve_group_size(m, c->value[AXIS_GROUP_SIZE], out, why) < 0 ||
        check_pairs(c, out, why) < 0 || resolve_gptq(m, c, out, why) < 0)
        return -1;
    resolve_skip(m, c->value[AXIS_SKIP_MODULES], out);
    resolve_rest(m, c, out);
    return 0;
}
