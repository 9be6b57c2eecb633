/* calibration.h - the token ids that GPTQ and AWQ look at: from [calibration] of the sweep file,
 * drawn by a job's seed, the same on every rank.
 *
 * Rank 0 draws for every (way, seed) that a job of the sweep asks for; the ids travel in the setup,
 * part "calibration".  Ways, by the tool that is followed:
 *
 *   windows    of `length` tokens.  .jsonl: a document drawn until it has enough tokens, then the
 *              start (IST's C4 loader); text, 1-D ids: a start in the whole, at most as many as it
 *              could be cut into; 2-D ids: rows as they stand
 *   blocks     AWQ: `samples` documents of at most `length` tokens one after the other, cut into
 *              blocks of `length`, the rest dropped; of one text: windows
 *   documents  GPTQModel: each document a sequence, cut at `length`, those of 10 tokens or less
 *              dropped, longest first; of one text: windows
 *
 * Drawn as CPython's random does, so that the same file and seed give IST's samples.  */
#pragma once

#include "base/memory.h"
#include "model/config.h"
#include "quant/quant.h"
#include "sweep/sweep_file.h"
#include "tokenizer/tokenizer.h"

enum calibration_way { CALIBRATION_WINDOWS, CALIBRATION_BLOCKS, CALIBRATION_DOCUMENTS };

struct calibration_plan {
    enum calibration_way way;
    int64_t samples, length;
};

/* Does the experiment look at activations at all?  Then *out is how. */
bool calibration_plan_of(const struct experiment *x, const struct js *calibration,
                         int64_t max_position, struct calibration_plan *out);

/* Everything the sweep's jobs need, packed; nothing is written where no job needs any.  notes (may
 * be NULL) gets a line where fewer samples than asked for could be drawn. */
int calibration_prepare(const struct sweep *s, const struct tokenizer *t, const struct config *c,
                        struct bytes *out, struct bytes *notes, struct err *e);

/* The ids of a job, from the setup's part.  Release with quant_calibration_release(). */
int calibration_find(const void *bytes, size_t n_bytes, const struct calibration_plan *plan,
                     int64_t seed, struct quant_calibration *out, struct err *e);
