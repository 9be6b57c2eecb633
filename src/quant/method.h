/* method.h - inner to src/quant: the methods, and what they share. */
#pragma once

#include "quant/quant.h"

extern const struct quantizer quantizer_none;
extern const struct quantizer quantizer_bnb_8bit;
extern const struct quantizer quantizer_bnb_4bit;
extern const struct quantizer quantizer_rtn;
extern const struct quantizer quantizer_hqq;
extern const struct quantizer quantizer_gptq;
extern const struct quantizer quantizer_awq;

/* One weight by the method's own rule, or its grid alone where it is one that looks at activations:
 * how the head and the embedding are packed. */
int quant_pack_alone(struct backend *b, const struct quant_spec *s, const struct tensor *w,
                     struct weight *out, struct err *e);

/* One call of quantize(), on the host where b does not know it. */
int quant_quantize(struct backend *b, const struct quantize_args *a, struct err *e);

/* run() and shape() of methods that are one call of quantize(), from their args(). */
int quant_run_args(struct backend *b, const struct quant_spec *s, const struct tensor *w,
                   struct weight *out, struct err *e);
int quant_shape_args(const struct quant_spec *s, int64_t n_out, int64_t n_in, struct weight *out,
                     struct err *e);

/* A packed weight in host memory, copied to memory of b. */
int quant_take_up(struct backend *b, const struct weight *from, struct weight *out, struct err *e);

/* Has the CPU backend to do it, because b knows no kernel for the method? */
bool quant_on_host(const struct backend *b, const struct quant_spec *s);

/* Bits of a code that its type fixes ("nf4": 4); 0: "int" and types not known. */
int quant_type_bits_of(const char *quant_type);
/* Group size that the type fixes ("mxfp4": 32), or 0. */
int64_t quant_type_group_of(const char *quant_type);
/* TABLE_NONE where the type is no code table. */
enum code_table quant_type_table(const char *quant_type);

/* ---- models in parts ---- */

/* The whole of a matrix of which each member of the group has some rows, in scratch; each of them
 * calls it. */
int quant_whole(struct backend *b, const struct tensor *part, struct tensor *out, struct err *e);
/* The part of a packed weight (canonical order), copied; refused where n parts cannot be cut. */
int quant_cut(struct backend *b, const struct weight *w, struct split s, struct weight *out,
              struct err *e);
int quant_check_cut(const struct weight *w, int n, struct err *e);

static inline int quant_layer_begin(const struct quant_spec *s, int64_t layer, struct err *e)
{
    return s->layers ? s->layers->begin(s->layers->context, layer, e) : 0;
}

static inline int quant_layer_end(const struct quant_spec *s, int64_t layer, struct err *e)
{
    return s->layers ? s->layers->end(s->layers->context, layer, e) : 0;
}

/* The method does not quantize: its weights are plain, in the compute dtype. */
bool quant_is_plain(const struct quant_spec *s);

/* Does one of the skip names match `module`, as a run of whole dotted parts? */
bool quant_skips(const struct quant_spec *s, const char *module);

/* Is the head packed, and the embedding?  One name in `skip` keeps the one plain; where the head is
 * plain the embedding is, too.  A tied pair is packed once. */
bool quant_packs_head(const struct quant_spec *s);
bool quant_packs_embedding(const struct quant_spec *s);

/* Everything that can be known to be wrong from settings and shapes: settings, group sizes,
 * names in `skip` that match no module. */
int quant_spec_check_model(const struct quant_spec *s, const struct config *c, struct err *e);

/* ---- sizes: the same count over real weights and over shapes alone ---- */

struct size_count {
    const struct quantizer *method;
    enum dtype dtype; /* of the model */
    int64_t n_bytes, n_parameters, n_linear, n_quantized;
    double linear_bits, quantized_bits, hf_bytes;
};

void size_count_start(struct size_count *n, const struct quantizer *method, enum dtype dtype);
void size_count_linear(struct size_count *n, const struct weight *w, bool quantized);
/* A packed head; of a tied pair, which is counted once as parameters, it is a copy. */
void size_count_head(struct size_count *n, const struct weight *w, bool tied);
/* A packed embedding: Hugging Face has no such thing. */
void size_count_embedding(struct size_count *n, const struct weight *w);
void size_count_plain(struct size_count *n, int64_t n_elements, enum dtype t);
void size_count_finish(const struct size_count *n, const struct config *c, struct quant_sizes *out);

/* ---- how far a packed weight is from the plain one ---- */

/* What compare() does, for backends that cannot: sums of (W - W')^2 and of W^2.
 * w: as stored; its values rounded to `source` (DTYPE_OTHER: not) are what was quantized.
 * scratch: fp32, at least w's size, on the device.  Compares the values of the codes themselves,
 * before any rounding to the compute dtype; sums in fp64, in an order that depends on the shape
 * alone. */
int quant_measure(struct backend *b, const struct tensor *w, enum dtype source,
                  const struct weight *packed, const struct tensor *scratch, double sums[2],
                  struct err *e);
/* The sums of n weights as mse and relative_error of *out. */
void quant_errors_of(const double sums[2], int64_t n, struct quant_module *out);
