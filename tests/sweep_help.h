/* sweep_help.h - sweep files from texts, for the tests of src/sweep/. */
#pragma once

#include "check.h"

#include "base/file.h"
#include "base/memory.h"
#include "sweep/sweep_file.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The smallest sweep: these four in this order are 9 lines. */
#define SWEEP "[sweep]\nseeds = [0]\n"
#define MODEL "[model]\npath = 'org/model'\n"
#define BASE  "[[experiment]]\nname = 'base'\nmethod = 'none'\n"

static char sweep_folder[64];

/* All sweeps of a test are "t.toml" in a folder of its own, which becomes the working one. */
static inline int sweep_folder_open(void **state)
{
    (void)state;
    snprintf(sweep_folder, sizeof sweep_folder, "/tmp/test_sweep_XXXXXX");
    return mkdtemp(sweep_folder) && chdir(sweep_folder) == 0 ? 0 : -1;
}

static inline int sweep_folder_close(void **state)
{
    (void)state;
    unlink("t.toml");
    return chdir("/") == 0 && rmdir(sweep_folder) == 0 ? 0 : -1;
}

static inline int sweep_of(const char *text, const struct sweep_overrides *o, struct sweep *out,
                           struct err *e)
{
    FILE *f = fopen("t.toml", "w");

    err_clear(e);
    CHECK(f && fwrite(text, 1, strlen(text), f) == strlen(text) && fclose(f) == 0,
          "the sweep file can be written");
    return sweep_read("t.toml", o, out, e);
}

/* Read and expanded without a model. */
static inline int expand_of(const char *text, const struct sweep_overrides *o, struct sweep *out,
                            struct err *e)
{
    if (sweep_of(text, o, out, e) < 0)
        return -1;
    int rc = sweep_expand(out, o, NULL, NULL, e);
    if (rc < 0)
        sweep_release(out);
    return rc;
}

/* Refused with exactly this message. */
static inline void expect_refusal(const char *text, const struct sweep_overrides *o,
                                  const char *message)
{
    struct sweep s;
    struct err e = ERR_INIT;

    CHECK(expand_of(text, o, &s, &e) < 0, "refused: %s", message);
    CHECK(e.code == ERR_USAGE, "the fault is the user's: %s", e.text);
    CHECK(strcmp(e.text, message) == 0, "the message is\n  %s\nnot\n  %s", message, e.text);
}
