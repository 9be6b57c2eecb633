/* share.h - the ranks of a node with a GPU each: one of them reads the weights, its device sends
 * them to the others.
 *
 * Once, at the first start.  Whatever is in the way (no library for it, ranks on one GPU, an engine
 * that replaces a lost one, a device that does not answer in time), each rank reads the file and
 * says why.  All talk goes through engine_tell(), so no rank waits for one that is gone; before a
 * byte is sent every rank has said that it can take it.  */
#pragma once

#include "model/model.h"
#include "sched/engine.h"

struct sharing {
    const struct engine_site *site;
    struct backend *backend;
    int index, n;     /* of this device among those that share; n < 2: nobody does */
    char version[32]; /* of what sends */
    bool talks;       /* the other engines wait for what this one tells */
    bool joining;
    bool arrived; /* the weights came from another device, or went there */
    double start_s;
    struct err cannot; /* why this device could not join */
};

#define SHARING_INIT \
    {                \
        0            \
    }

/* Fewer bytes are read sooner than joining takes: 0.6 s between two H200s.  LLQ_TEST_SHARE_ALL in
 * the environment: any number is shared. */
#define SHARE_BYTES_MIN ((int64_t)1 << 30)

/* Finds who shares n_bytes (0: nobody, but devices are looked at) and begins to join them.  Fails
 * where another rank has taken this device (unless share_device) and where the rank is gone. */
int sharing_begin(struct sharing *s, const struct engine_site *site, struct backend *b,
                  int64_t n_bytes, bool share_device, struct err *e);
/* load_way.fill, with the sharing as its context. */
int sharing_fill(void *sharing, const struct load_parts *parts,
                 int (*read)(void *reading, struct err *e), void *reading, struct err *e);
void sharing_end(struct sharing *s); /* zero state and twice are fine */
