/* preset.h - what "GPTQ's defaults" are, by the tool that is followed: there is no single answer.
 * Keys given beside `preset` win. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

struct gptq_preset {
    const char *name;
    bool desc_act, sym, static_groups, gar, true_sequential;
    double damp_percent;
    double damp_step; /* added where the factorisation fails */
    int64_t group_size;
    int64_t samples, length; /* of the calibration, in tokens; at most what the model has */
    bool documents;          /* whole documents, not windows */
};

extern const struct gptq_preset gptq_presets[]; /* the default first; ends with name NULL */
const struct gptq_preset *preset_find(const char *name);
