/* toml_reader.h - a TOML text as a small tree in which every value knows its line.
 *
 * The parser is toml++, seen by toml_reader.cpp alone; no exception leaves it.  Its tables are
 * sorted by name, so members are put back into the order of the file.  Size and depth are capped
 * before the parser sees a byte: a dotted key of 100,000 parts takes it down.  Dates and times are
 * refused, no sweep needs them.  */
#pragma once

#include "base/err.h"
#include "base/memory.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TOML_TEXT_MAX  (1 << 20) /* bytes */
#define TOML_DEPTH_MAX 16        /* parts of a dotted key; brackets inside brackets */

enum toml_kind {
    TOML_KIND_BOOL,
    TOML_KIND_INT,
    TOML_KIND_REAL,
    TOML_KIND_TEXT,
    TOML_KIND_ARRAY,
    TOML_KIND_TABLE
};

struct toml_value {
    enum toml_kind kind;
    int line;  /* counted from 1; negative: not from a file, -n is the caller's n-th --set */
    char *key; /* of a table's member; NULL in an array */
    bool boolean;
    int64_t integer;
    double real;
    char *text; /* UTF-8 without 0 bytes */
    int n, room;
    struct toml_value **items; /* elements or members, in file order */
};

/* The root table, or NULL; the message is "NAME:LINE: reason". */
struct toml_value *toml_parse(const char *name, const char *text, size_t n_bytes, struct err *e);
void toml_release(struct toml_value *v); /* NULL is fine */

struct toml_value *toml_new(enum toml_kind kind, int line);
/* Appends to a table (key copied) or, with key NULL, to an array; takes ownership of item. */
void toml_add(struct toml_value *to, const char *key, struct toml_value *item);
/* The same, but a member of this key is released and its place taken. */
void toml_put(struct toml_value *table, const char *key, struct toml_value *item);
struct toml_value *toml_get(const struct toml_value *table, const char *key); /* or NULL */
void toml_set_line(struct toml_value *v, int line); /* of the whole tree */

/* As TOML on one line, shortened to about 60 bytes: for messages. */
void toml_show(const struct toml_value *v, struct bytes *out);
void toml_show_real(double real, struct bytes *out); /* the shortest that reads back the same */
/* A text with control characters escaped, cut after about `most` bytes. */
void toml_show_text(const char *text, size_t most, struct bytes *out);

/* -1 where a dotted key or the nesting of brackets is deeper than TOML_DEPTH_MAX. */
int toml_check_depth(const char *name, const char *text, size_t n_bytes, struct err *e);
