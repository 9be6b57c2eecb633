/* method.h - what each quantization method takes: the table of the contract, with its defaults.
 *
 * Rows decide what a cell of a grid may hold; whether a group size fits the model at hand is
 * asked of the right tower (cell_check of sweep_file.h).  */
#pragma once

#include "base/err.h"
#include "sweep/job.h"
#include "sweep/toml_reader.h"

#include <stdbool.h>
#include <stdint.h>

/* Keys of [[experiment]] that can have several values, in the order their parts enter a name;
 * from AXIS_CLIP on alphabetically, as `_key-value`. */
enum axis_id {
    AXIS_BITS,
    AXIS_GROUP_SIZE,
    AXIS_QUANT_TYPE,
    AXIS_DOUBLE_QUANT,
    AXIS_COMPUTE_DTYPE,
    AXIS_CLIP,
    AXIS_DAMP_PERCENT,
    AXIS_DESC_ACT,
    AXIS_DUO_SCALING,
    AXIS_GAR,
    AXIS_GRID,
    AXIS_METHOD,
    AXIS_MSE,
    AXIS_OUTLIER_THRESHOLD,
    AXIS_PRESET,
    AXIS_SCALE_DTYPE,
    AXIS_SKIP_MODULES,
    AXIS_STATIC_GROUPS,
    AXIS_SYM,
    AXIS_TRUE_SEQUENTIAL,
    AXIS_ZERO_POINT,
    N_AXES
};
#define AXIS_BIT(a) (1u << (a))

extern const char *const axis_keys[N_AXES];

struct method_rule {
    const char *name;
    bool data_free;   /* no calibration: a seed cannot change its weights */
    const char *bits; /* allowed, separated by blanks */
    int standard_bits;
    const char *group_sizes; /* allowed; "": any divisor and -1; NULL: the method has none */
    int64_t standard_group_size;
    int64_t least_group, most_group; /* of the divisors; 0: no bound */
    const char *quant_types;         /* allowed, the default first; NULL: none */
    bool has_double_quant, standard_double_quant;
    const char *scale_dtype; /* the default; NULL: no choice */
    unsigned keys;           /* AXIS_BITs of the other keys it takes */
};

extern const struct method_rule method_rules[]; /* ends with name NULL */
const struct method_rule *method_find(const char *name);

/* What each method takes, for --list-experiments without a file; malloc'ed. */
char *method_list_text(void);

/* One cell: a value for each key that was given, else NULL.  method is always given. */
struct cell {
    const struct toml_value *value[N_AXES];
};

/* Why a cell cannot be. */
struct refusal {
    unsigned axes;   /* whose values are at fault; 0: refused whatever the grid */
    enum axis_id at; /* the one to show; N_AXES: none in particular */
    char why[512];
};

/* Fills every setting but name and line; -1 and *why where the table has no such row. */
int method_resolve(const struct cell *c, struct experiment *out, struct refusal *why);

/* Bits of a code that its type fixes ("nf4" is 4), or 0; the same of the group size. */
int quant_type_bits(const char *quant_type);
int64_t quant_type_group_size(const char *quant_type);

/* AXIS_BITs of the other keys that mean something for x: its method's, but those of the integer
 * grid where it has another type. */
unsigned experiment_keys(const struct experiment *x);
