/* dataset.h - the files that tasks read.  Every message names the file and the item. */
#pragma once

#include "base/err.h"
#include "base/js.h"
#include "base/memory.h"

#include <stddef.h>
#include <stdint.h>

enum dataset_kind { DATASET_TEXT, DATASET_JSONL, DATASET_IDS };

/* By the name's end: .jsonl, .safetensors (token ids), else text. */
enum dataset_kind dataset_kind(const char *path);

/* CoQA: the official JSON ({"data": [story, ...]}) or, for .jsonl, a story a line.  A file without
 * stories is an error. */
struct stories {
    struct js **owned; /* the parsed file, or each line */
    size_t n_owned;
    const struct js **at; /* [n] objects */
    char **where;         /* [n] "data[3]" or "line 4", for messages */
    size_t n;
};
int dataset_stories(const char *path, struct stories *out, struct err *e);
void stories_release(struct stories *s);

/* The same of any file with a JSON object a line; `what` they are, for messages. */
int dataset_lines(const char *path, const char *what, struct stories *out, struct err *e);

/* Rows of a CSV file (RFC 4180: fields may be quoted, quoted ones hold line ends): n_fields fields
 * each, given 0-terminated.  Bytes that are not UTF-8 are refused. */
int dataset_rows(const char *path, int n_fields,
                 int (*take)(void *context, char *const *fields, struct err *e), void *context,
                 struct err *e);

/* A text byte for byte; .jsonl: member "text" of each line, joined by two line feeds. */
int dataset_text(const char *path, struct bytes *out, struct err *e);

/* The same of a .jsonl file one line at a time, in their order. */
int dataset_texts(const char *path,
                  int (*take)(void *context, const char *text, size_t n_bytes, struct err *e),
                  void *context, struct err *e);

/* The integer tensor "input_ids" of a .safetensors file: [n_rows, n_cols]; 1-D: one row. */
struct id_table {
    int32_t *ids;
    int64_t n_rows, n_cols;
    int n_dims;
};
int dataset_ids(const char *path, struct id_table *out, struct err *e);
void id_table_release(struct id_table *t);
