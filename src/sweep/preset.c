/* preset.c - see preset.h.  `reference` is the study whose experiments this program repeats. */
#include "sweep/preset.h"

#include <string.h>

const struct gptq_preset gptq_presets[] = {
    { "reference", .desc_act = true, .sym = true, .true_sequential = true, .damp_percent = 0.1,
      .damp_step = 0.01, .group_size = 128, .samples = 128, .length = 2048 },
    { "ist", .damp_percent = 0.01, .damp_step = 0.01, .group_size = -1, .samples = 128,
      .length = 2048 },
    { "autogptq", .desc_act = true, .sym = true, .true_sequential = true, .damp_percent = 0.01,
      .damp_step = 0.01, .group_size = -1, .samples = 128, .length = 2048 },
    { "transformers", .sym = true, .gar = true, .true_sequential = true, .damp_percent = 0.1,
      .damp_step = 0.0015, .group_size = 128, .samples = 128, .length = 4028 },
    { "gptqmodel", .sym = true, .gar = true, .true_sequential = true, .damp_percent = 0.05,
      .damp_step = 0.01, .group_size = 128, .samples = 1024, .length = 1 << 20, .documents = true },
    { "llm-compressor", .desc_act = true, .sym = true, .static_groups = true, .damp_percent = 0.01,
      .damp_step = 0.01, .group_size = 128, .samples = 512, .length = 2048 },
    { 0 },
};

const struct gptq_preset *preset_find(const char *name)
{
    for (const struct gptq_preset *p = gptq_presets; p->name; p++)
        if (strcmp(p->name, name) == 0)
            return p;
    return 0;
}
