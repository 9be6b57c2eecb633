/* frame.h - messages on a byte stream: a header and as many bytes as it says. */
#pragma once

#include "base/err.h"
#include "base/memory.h"

#include <stdbool.h>
#include <stdint.h>

enum frame_kind {
    FRAME_SETUP = 1, /* rank -> engine */
    FRAME_JOB,
    FRAME_STOP,
    FRAME_HEARD, /* what the engines of the node told each other */
    FRAME_READY, /* engine -> rank */
    FRAME_RESULT,
    FRAME_FAILED,
    FRAME_LOG,
    FRAME_TELL, /* for the engines of the node; 0 bytes: takes no further part */
    FRAME_LAST  /* why the engine is about to end */
};

struct frame_header {
    uint32_t magic;
    int32_t kind;
    int64_t id; /* job, or log level */
    uint64_t n_bytes;
};

#define FRAME_MAGIC     0x51514C4Cu
#define FRAME_BYTES_MAX ((uint64_t)1 << 40)

/* Blocks until all is sent; a closed peer is an error, not a signal. */
int frame_send(int fd, enum frame_kind kind, int64_t id, const void *bytes, size_t n_bytes,
               struct err *e);

enum frame_got { FRAME_GOT_ONE, FRAME_GOT_NOTHING, FRAME_GOT_END };

/* One frame, assembled over calls in *partial (start with BYTES_INIT).  wait: block for it.
 * *body receives its bytes (replaced). */
int frame_receive(int fd, bool wait, struct bytes *partial, struct frame_header *header,
                  struct bytes *body, enum frame_got *got, struct err *e);
