/* spec.c - which settings make sense, before any weight is touched. */
#include "base/memory.h"
#include "quant/method.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

static bool listed(const char *const *names, const char *name)
{
    for (int i = 0; names[i]; i++)
        if (!strcmp(names[i], name))
            return true;
    return false;
}

/* "2, 3, 4, 8" */
static void list_numbers(struct bytes *text, const int64_t *numbers)
{
    for (int i = 0; numbers[i]; i++)
        bytes_printf(text, "%s%lld", i ? ", " : "", (long long)numbers[i]);
}

static int unknown_method(const struct quant_spec *s, struct err *e)
{
    struct bytes known = BYTES_INIT;

    for (int i = 0; quantizers[i]; i++)
        bytes_printf(&known, "%s%s", i ? ", " : "", quantizers[i]->name);
    err_set(e, ERR_USAGE, "method \"%s\" is not known; known are %s", s->method, known.data);
    bytes_release(&known);
    return -1;
}

static int check_bits(const struct quantizer *z, const struct quant_spec *s, struct err *e)
{
    struct bytes allowed = BYTES_INIT;
    int64_t numbers[8] = { 0 };

    for (int i = 0; z->allowed.bits[i]; i++) {
        if (z->allowed.bits[i] == s->bits)
            return 0;
        numbers[i] = z->allowed.bits[i];
    }
    list_numbers(&allowed, numbers);
    err_set(e, ERR_USAGE, "bits = %d: %s allows %s", s->bits, z->name, allowed.data);
    bytes_release(&allowed);
    return -1;
}

/* Types that carry their bits and their groups. */
static int check_fixed(const struct quant_spec *s, struct err *e)
{
    int bits = quant_type_bits_of(s->quant_type);
    int64_t group = quant_type_group_of(s->quant_type);

    if (bits && s->bits != bits)
        return err_set(e, ERR_USAGE, "bits = %d: %s has %d", s->bits, s->quant_type, bits);
    if (group && s->group_size != group)
        return err_set(e, ERR_USAGE, "group_size = %lld: %s has groups of %lld",
                       (long long)s->group_size, s->quant_type, (long long)group);
    if (group && s->double_quant)
        return err_set(e, ERR_USAGE, "double_quant = true: the scales of %s have 8 bits already",
                       s->quant_type);
    return 0;
}

static int check_group(const struct quantizer *z, const struct quant_spec *s, int64_t n_in,
                       struct err *e)
{
    const struct quant_allowed *a = &z->allowed;
    long long size = s->group_size;
    struct bytes allowed = BYTES_INIT;

    if (size == 0 && !strcmp(s->quant_type, "fp8_e4m3"))
        return 0;
    if (a->most_group && size != -1 && (size < a->least_group || size > a->most_group))
        return err_set(e, ERR_USAGE,
                       "group_size = %lld: %s allows %lld to %lld, or -1 for one group a row", size,
                       z->name, (long long)a->least_group, (long long)a->most_group);
    if (a->any_group) {
        if (size == -1 || (size > 0 && (n_in == 0 || n_in % size == 0)))
            return 0;
        if (size > 0)
            return err_set(e, ERR_USAGE,
                           "group_size = %lld does not divide %lld inputs: %s allows a divisor, "
                           "or -1 for one group a row",
                           size, (long long)n_in, z->name);
        return err_set(e, ERR_USAGE,
                       "group_size = %lld: %s allows a divisor of the inputs, or -1 for one "
                       "group a row",
                       size, z->name);
    }
    if (!a->group_sizes[0])
        return size == 0
                   ? 0
                   : err_set(e, ERR_USAGE, "group_size = %lld: %s has no groups", size, z->name);
    for (int i = 0; a->group_sizes[i]; i++)
        if (a->group_sizes[i] == size)
            return 0;
    list_numbers(&allowed, a->group_sizes);
    err_set(e, ERR_USAGE, "group_size = %lld: %s allows %s", size, z->name, allowed.data);
    bytes_release(&allowed);
    return -1;
}

static int check_type(const struct quantizer *z, const struct quant_spec *s, struct err *e)
{
    const struct quant_allowed *a = &z->allowed;
    struct bytes allowed = BYTES_INIT;

    if (!a->quant_types[0])
        return !s->quant_type[0] ? 0
                                 : err_set(e, ERR_USAGE, "quant_type = \"%s\": %s has no types",
                                           s->quant_type, z->name);
    if (listed(a->quant_types, s->quant_type))
        return 0;
    for (int i = 0; a->quant_types[i]; i++)
        bytes_printf(&allowed, "%s%s", i ? ", " : "", a->quant_types[i]);
    err_set(e, ERR_USAGE, "quant_type = \"%s\": %s allows %s", s->quant_type, z->name,
            allowed.data);
    bytes_release(&allowed);
    return -1;
}

static int check_gptq(const struct quant_spec *s, struct err *e)
{
    if (!(s->gptq.damp >= 0.0 && s->gptq.damp < 1.0))
        return err_set(e, ERR_USAGE, "damp_percent = %g: 0 to less than 1 is allowed",
                       s->gptq.damp);
    if (!(s->gptq.mse >= 0.0 && s->gptq.mse <= 16.0))
        return err_set(e, ERR_USAGE, "mse = %g: an exponent of at most 16, or 0 (off) is allowed",
                       s->gptq.mse);
    if (s->gptq.gar && (s->gptq.desc_act || s->gptq.static_groups))
        return err_set(e, ERR_USAGE, "gar = true goes with neither desc_act nor static_groups");
    return 0;
}

static int check_rest(const struct quantizer *z, const struct quant_spec *s, struct err *e)
{
    static const char *const grids[] = { "absmax", "gptq", "awq", NULL };

    if (s->double_quant && !z->allowed.double_quant)
        return err_set(e, ERR_USAGE, "double_quant = true: %s has no scales to quantize again",
                       z->name);
    if (z->allowed.grid && !strcmp(s->quant_type, "int") && !listed(grids, s->grid))
        return err_set(e, ERR_USAGE, "grid = \"%s\": %s allows absmax, gptq, awq", s->grid,
                       z->name);
    if (s->scale_dtype != DTYPE_F32 && s->scale_dtype != DTYPE_F16)
        return err_set(e, ERR_USAGE, "scale_dtype = \"%s\": fp32 and fp16 are allowed",
                       dtype_name(s->scale_dtype));
    if (s->compute != DTYPE_F32 && !dtype_is_16bit(s->compute))
        return err_set(e, ERR_USAGE, "compute_dtype = \"%s\": fp16, bf16 and fp32 are allowed",
                       dtype_name(s->compute));
    if (z == &quantizer_bnb_8bit && !(s->outlier_threshold >= 0 && isfinite(s->outlier_threshold)))
        return err_set(e, ERR_USAGE, "outlier_threshold = %g: 0 (off) or more is allowed",
                       s->outlier_threshold);
    if (quant_is_plain(s) && s->bits != 8 * (int)dtype_bytes(s->compute))
        return err_set(e, ERR_USAGE, "bits = %d: none with compute_dtype %s has %d", s->bits,
                       dtype_name(s->compute), 8 * (int)dtype_bytes(s->compute));
    if (z == &quantizer_gptq && check_gptq(s, e) < 0)
        return -1;
    return 0;
}

int quant_spec_check(const struct quant_spec *s, int64_t n_in, struct err *e)
{
    const struct quantizer *z = quantizer_find(s->method);

    if (!z)
        return unknown_method(s, e);
    if (check_bits(z, s, e) < 0 || check_group(z, s, n_in, e) < 0 || check_type(z, s, e) < 0 ||
        check_fixed(s, e) < 0)
        return -1;
    return check_rest(z, s, e);
}

enum dtype quant_model_dtype(const struct quant_spec *s, enum dtype source)
{
    return dtype_is_16bit(source) ? source : s->compute;
}

bool quant_is_plain(const struct quant_spec *s)
{
    return quantizer_find(s->method) == &quantizer_none;
}

static bool is_run_of_parts(const char *module, const char *name)
{
    size_t n = strlen(name);

    for (const char *at = module; n && (at = strstr(at, name)); at++)
        if ((at == module || at[-1] == '.') && (at[n] == 0 || at[n] == '.'))
            return true;
    return false;
}

bool quant_skips(const struct quant_spec *s, const char *module)
{
    for (int i = 0; i < s->n_skip; i++)
        if (is_run_of_parts(module, s->skip[i]))
            return true;
    return false;
}

bool quant_packs_head(const struct quant_spec *s)
{
    return !quant_is_plain(s) && !quant_skips(s, "lm_head");
}

bool quant_packs_embedding(const struct quant_spec *s)
{
    return quant_packs_head(s) && !quant_skips(s, "model.embed_tokens");
}

static bool names_a_module(const struct config *c, const char *name)
{
    char module[96];

    if (is_run_of_parts("lm_head", name) || is_run_of_parts("model.embed_tokens", name))
        return true;
    for (int64_t layer = 0; layer < c->n_layers; layer++)
        for (int l = 0; l < N_LINEARS; l++) {
            config_linear_module(c, layer, l, module, sizeof module);
            if (is_run_of_parts(module, name))
                return true;
        }
    return false;
}

int quant_spec_check_model(const struct quant_spec *s, const struct config *c, struct err *e)
{
    for (int i = 0; i < s->n_skip; i++)
        if (!names_a_module(c, s->skip[i]))
            return err_set(e, ERR_USAGE, "skip_modules: this model has no module \"%s\"",
                           s->skip[i]);
    if (quant_spec_check(s, 0, e) < 0)
        return -1;
    if (quant_packs_head(s) && quant_spec_check(s, c->hidden_size, e) < 0)
        return err_in(e, "lm_head");
    for (int64_t layer = 0; layer < c->n_layers; layer++)
        for (int l = 0; l < N_LINEARS; l++) {
            char module[96];
            int64_t n_out, n_in;

            config_linear_module(c, layer, l, module, sizeof module);
            config_linear_shape(c, l, &n_out, &n_in);
            if (!quant_skips(s, module) && quant_spec_check(s, n_in, e) < 0)
                return err_in(e, "%s", module);
        }
    return 0;
}
