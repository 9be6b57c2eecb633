/* message.h - what ranks say to each other: the kinds, and a job number in front of bytes. */
#pragma once

#include "base/memory.h"

#include <stdbool.h>
#include <stdint.h>

enum message_kind {
    MSG_SETUP = 1, /* 0 -> rank: job_timeout in ns (0: none), bytes for the engine */
    MSG_LOG_FILE,  /* 0 -> rank: its number, where it keeps its log, too     */
    MSG_JOB,       /* 0 -> rank: job, bytes                                */
    MSG_END,       /* 0 -> rank: nothing more, drop what runs              */
    MSG_READY,     /* rank -> 0: the engine may be given a job             */
    MSG_RESULT,    /* rank -> 0: job, record                               */
    MSG_LOST,      /* rank -> 0: job, how its engine was lost              */
    MSG_FAILED,    /* rank -> 0: err_code, why the engine cannot be set up */
    MSG_LOG,       /* rank -> 0: log level, a line                         */
    MSG_TELL,      /* rank -> 0: what its engine tells those of its node; no bytes: it takes no
                      further part                                         */
    MSG_HEARD,     /* 0 -> rank: what they told, for the engine            */
    MSG_DROP,      /* 0 -> rank: job, of which another rank of its group was lost */
    MSG_BEAT       /* rank -> 0: the job it works on, BEAT_IDLE or BEAT_SETTING_UP, now and then */
};

enum { BEAT_IDLE = -1, BEAT_SETTING_UP = -2 };
#define BEAT_EVERY_S 5.0 /* or more often, where silence is shorter */

/* A number and bytes in one message, little-endian, 8 bytes in front. */
void message_pack(struct bytes *out, int64_t number, const void *bytes, size_t n_bytes);
/* False for a message too short to hold a number. */
bool message_unpack(const struct bytes *in, int64_t *number, const char **bytes, size_t *n_bytes);
