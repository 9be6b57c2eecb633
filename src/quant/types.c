/* types.c - what the name of a quantization type says. */
#include "quant/method.h"

#include <string.h>

static const struct {
    const char *name;
    int bits;
    int64_t group_size;
    enum code_table table;
} types[] = {
    { "nf2", 2, 0, TABLE_NF2 },       { "nf3", 3, 0, TABLE_NF3 },
    { "nf4", 4, 0, TABLE_NF4 },       { "fp4", 4, 0, TABLE_FP4 },
    { "mxfp4", 4, 32, TABLE_NONE },   { "nvfp4", 4, 16, TABLE_NONE },
    { "fp8_e4m3", 8, 0, TABLE_NONE },
};

static int type_at(const char *name)
{
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (!strcmp(types[i].name, name))
            return (int)i;
    return -1;
}

int quant_type_bits_of(const char *quant_type)
{
    int i = type_at(quant_type);

    return i < 0 ? 0 : types[i].bits;
}

int64_t quant_type_group_of(const char *quant_type)
{
    int i = type_at(quant_type);

    return i < 0 ? 0 : types[i].group_size;
}

enum code_table quant_type_table(const char *quant_type)
{
    int i = type_at(quant_type);

    return i < 0 ? TABLE_NONE : types[i].table;
}
