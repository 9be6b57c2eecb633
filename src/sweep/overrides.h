/* overrides.h - --set KEY=VALUE, put into the tree of a sweep file before anything is checked. */
#pragma once

#include "sweep/keys.h"

/* Applies s->set[0 .. n_set).  A KEY is a full key of keys.h, or experiment.NAME.key with the name
 * of a block.  VALUE is TOML; what is no number, boolean, list, table or quoted text is a text as
 * it stands. */
int overrides_apply(const struct source *s, struct toml_value *root, struct err *e);
