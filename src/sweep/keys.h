/* keys.h - every key of a sweep file: type, default, what is allowed.
 *
 * One table; the reader, its messages, --set and the tables of sweeps/README.md (a test compares
 * them) all come from it.  */
#pragma once

#include "base/err.h"
#include "base/js.h"
#include "sweep/toml_reader.h"

#include <stdbool.h>

enum key_type {
    KEY_TEXT,
    KEY_NAME, /* [A-Za-z0-9_.-]{1,64} */
    KEY_INT,
    KEY_REAL,
    KEY_BOOL,
    KEY_INTS,  /* list of different integers */
    KEY_TEXTS, /* list of texts, may be empty */
    KEY_TABLE, /* a section of its own */
    KEY_TABLES /* [[...]] */
};

struct key_rule {
    const char *name;
    enum key_type type;
    const char *allowed;  /* ends the sentence "must be ..." */
    const char *standard; /* JSON text; NULL: none */
    bool required;
    double least, most;  /* KEY_INT, KEY_REAL, each of KEY_INTS */
    bool beyond;         /* KEY_REAL: the bounds themselves are not allowed */
    const char *choices; /* KEY_TEXT, KEY_INT: what is allowed, separated by blanks */
    const char *later;   /* KEY_TEXT: words of the contract this version does not have */
};

struct key_section {
    const char *name; /* "tasks.coqa" */
    const struct key_rule *rules;
};

extern const struct key_section key_sections[]; /* the root, "", first; ends with name NULL */
const struct key_rule *key_rules(const char *section);
const struct key_rule *key_find(const struct key_rule *rules, const char *name);
/* The known key closest to a wrong one, in full ("sweep.seeds"): of the section where it stood, or
 * a key of that very name in another section.  section "": any key, by its last part. */
void key_nearest(const char *section, const char *name, struct bytes *out);
bool word_in(const char *word, const char *words); /* words separated by blanks; NULL: none */
bool name_is_valid(const char *name);

/* Where values come from, for messages: a file, or the n-th --set. */
struct source {
    const char *path;
    int n_set;
    const char *const *set;
};

/* "PATH:LINE: KEY = VALUE: text" or "--set ...: text"; returns -1. */
int source_error(struct err *e, const struct source *s, const struct toml_value *v, const char *key,
                 const char *fmt, ...) PRINTF_LIKE(5, 6);

/* Is this one value as the rule says?  `key` in full, for the message. */
int key_check(const struct source *s, const struct key_rule *rule, const char *key,
              const struct toml_value *v, struct err *e);

/* Does every member of the table have a rule (with its nearest name in the message) and a right
 * value?  KEY_TABLE and KEY_TABLES members are only checked for being tables. */
int section_check(const struct source *s, const struct toml_value *table, const char *section,
                  struct err *e);

/* A checked table as JSON, members in the order of the rules, defaults filled in; table NULL:
 * nothing but defaults.  root: names the file where a required key has no table to miss in. */
int section_read(const struct source *s, const struct toml_value *root,
                 const struct toml_value *table, const char *section, struct js **out,
                 struct err *e);

struct js *js_from_toml(const struct toml_value *v);
