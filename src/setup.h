/* setup.h - what all jobs of a sweep share, as bytes: resolved settings and the prepared data of
 * the tasks.  Rank 0 makes it once; it travels to every rank's engine as it is.
 *
 *   8 bytes "llqsetup", then parts, each: 8 bytes name length, name, 8 bytes length, bytes
 *   (little-endian).  Part "settings" is JSON: what sweep_setup_js() gives, plus
 *     "folder"   of the model, resolved      "backend"  "auto" | "cpu" | "cuda"
 *     "model_sha256", "model_stamp"  of its files (checkpoint.h)
 *     "profile"  { "name", "add_bos", "clean_up", "max_new_tokens", "max_length" }
 *   every other part is the prepared data of the task of that name.  */
#pragma once

#include "base/js.h"
#include "base/memory.h"
#include "eval/task.h"

#define SETUP_TASKS_MAX 8

struct setup_data {
    char task[32];
    const char *bytes; /* points into the setup's own copy */
    size_t n_bytes;
};

struct setup {
    struct bytes all;    /* owned copy */
    struct js *settings; /* owned */
    int n_data;
    struct setup_data data[SETUP_TASKS_MAX];
};

#define SETUP_INIT \
    {              \
        0          \
    }

void setup_begin(struct bytes *out);
void setup_add(struct bytes *out, const char *name, const void *bytes, size_t n_bytes);

int setup_open(struct setup *s, const void *bytes, size_t n_bytes, struct err *e);
void setup_release(struct setup *s);
const struct setup_data *setup_find(const struct setup *s, const char *task); /* NULL: none */

struct js *profile_to_js(const struct profile *p);
int profile_from_js(const struct js *j, struct profile *out, struct err *e);
