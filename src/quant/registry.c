/* registry.c - the methods.  A new one is its file and a line here. */
#include "quant/method.h"

#include <string.h>

const struct quantizer *const quantizers[] = {
    &quantizer_none, &quantizer_bnb_8bit, &quantizer_bnb_4bit, &quantizer_rtn,
    &quantizer_hqq,  &quantizer_gptq,     &quantizer_awq,      NULL,
};

const struct quantizer *quantizer_find(const char *name)
{
    for (int i = 0; quantizers[i]; i++)
        if (!strcmp(quantizers[i]->name, name))
            return quantizers[i];
    return NULL;
}
