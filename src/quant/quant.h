/* quant.h - from a loaded model to a packed one.
 *
 * A method is one file that ends in one constant; registry.c lists them.  The sweep's checks,
 * --list-experiments, the run and the tests all read the same rows. */
#pragma once

#include "base/hash.h"
#include "base/js.h"
#include "model/model.h"

/* The token ids that calibrated methods look at.  Host memory, owned. */
struct quant_calibration {
    int64_t n_seqs;
    int64_t *first; /* [n_seqs + 1]: where each sequence begins in ids */
    int32_t *ids;
    char sha256[HASH_TEXT_MAX]; /* of lengths and ids */
};
/* Copies what it is given; lengths: [n_seqs]. */
int quant_calibration_make(struct quant_calibration *out, const int32_t *ids, size_t n_ids,
                           const int32_t *lengths, size_t n_seqs, struct err *e);
void quant_calibration_release(struct quant_calibration *c); /* zero state is fine */

/* How a method that runs the model on text gets at the layers of a model in parts: between begin
 * and end a layer's linears and biases are whole, in the models that the method is given. */
struct quant_layers {
    int (*begin)(void *context, int64_t layer, struct err *e);
    int (*end)(void *context, int64_t layer, struct err *e);
    void *context;
};

/* What a job asks for, resolved (no defaults left). */
struct quant_spec {
    char method[16]; /* "none", "bnb_8bit", "bnb_4bit", "rtn", "hqq" */
    int bits;
    int64_t group_size;  /* -1: one group a row; bnb_4bit: block size; 0: the method has none, or
                            fp8_e4m3: one scale for the matrix */
    char quant_type[16]; /* "nf4", "fp4", "int", "mxfp4", ..., "" */
    bool double_quant;
    enum dtype compute;
    enum dtype scale_dtype; /* F32 or F16, where scales are not quantized again */
    bool sym;
    const struct quant_calibration *calibration; /* methods that want one; borrowed */
    struct {
        bool desc_act, static_groups, gar, true_sequential;
        double damp, damp_step;
        double mse; /* exponent; 0: no search */
    } gptq;
    struct {
        bool zero_point, duo_scaling, clip;
    } awq;
    char grid[16]; /* rtn with "int": "absmax", "gptq", "awq" */
    double outlier_threshold;
    enum dtype source; /* one weight's values are rounded to it first (quantize_args.source); set by
                          quantize_model(), as are the next two */
    bool in_parts;     /* what is packed will be cut: in the canonical order */
    const struct quant_layers *layers; /* NULL: they are whole at all times */
    int n_skip;
    char skip[8][64]; /* module names left plain: a name matches a whole dotted part or suffix,
                         e.g. "lm_head", "down_proj", "model.layers.0.mlp.gate_proj" */
};

#define QUANT_RATIOS 20 /* that AWQ tries */

/* What a solver says of one linear. */
struct quant_solved {
    bool there;
    double loss;         /* the solver's own, H = (2 / tokens) X^T X */
    double output_error; /* |X W^T - X W'^T|_F / |X W^T|_F on the calibration rows */
    double damp, floor;  /* of the diagonal, finally */
    int n_raised;
    double seconds;
    /* Methods that change the weights before they pack them: their sums of (W - W')^2, W^2. */
    bool measured;
    double sums[2];
    double ratio; /* awq: of the scales that were chosen; NaN: not scaled */
    /* awq: mean squared error of the module that is looked at, for ratios 0, 1/20, ..., with this
     * linear's set alone rounded. */
    double ratio_loss[QUANT_RATIOS];
};

/* Which settings a method allows; messages and --list-experiments are made from it. */
struct quant_allowed {
    int bits[8];                     /* ends with 0 */
    int64_t group_sizes[12];         /* ends with 0; empty: no group size, or any_group */
    bool any_group;                  /* any divisor of the inputs, or -1: one group a row */
    int64_t least_group, most_group; /* of those divisors; 0: no bound */
    const char *quant_types[9];      /* ends with NULL; empty: the method has none */
    bool double_quant;               /* may be true */
    bool grid;                       /* sym and grid mean something, with "int" */
};

struct quantizer {
    const char *name;
    const char *agrees_with; /* whose numbers it reproduces; printed in the report */
    bool wants_calibration, changes_norms;
    struct quant_allowed allowed;
    /* One weight, on the device: plain [N, K] -> packed.  As with backend_ops.quantize, a refusal
     * may come with the next sync(), and w and *out stay in their places until then. */
    int (*run)(struct backend *b, const struct quant_spec *s, const struct tensor *w,
               struct weight *out, struct err *e);
    /* Methods that look at activations, instead of run(): packs every linear of out->layers that
     * is not skipped, and fills solved [n_layers * N_LINEARS].  The rest of *out is there. */
    int (*run_model)(const struct model *base, const struct quant_spec *s, struct model *out,
                     struct quant_solved *solved, bool *on_host, struct err *e);
    /* Bits a weight and bytes of a [N, K] matrix without making it: for --dry-run. */
    int (*shape)(const struct quant_spec *s, int64_t n_out, int64_t n_in, struct weight *out,
                 struct err *e);
    /* What quantize() is asked for, where that is all the method does; else NULL. */
    struct quantize_args (*args)(const struct quant_spec *s, int64_t n_out, int64_t n_in);
    /* Bytes of a weight in Hugging Face's get_memory_footprint; NULL: it has no such form. */
    double (*hf_bytes)(const struct weight *w);
};

extern const struct quantizer *const quantizers[]; /* ends with NULL */
const struct quantizer *quantizer_find(const char *name);

/* Does the method allow these settings for a matrix of n_in inputs?  The message says what is
 * allowed ("gptq allows 2, 3, 4, 8"). n_in 0: not known. */
int quant_spec_check(const struct quant_spec *s, int64_t n_in, struct err *e);

/* Can a packed matrix of this shape be cut by its outputs into n parts? */
int quant_check_parts(const struct quant_spec *s, int64_t n_out, int64_t n_in, int n,
                      struct err *e);

/* source: what weights are rounded to before quantization; DTYPE_OTHER: as stored.
 * The model dtype: source if that is 16 bit, else compute. */
enum dtype quant_model_dtype(const struct quant_spec *s, enum dtype source);

/* Per-module result, for /quantization/modules. */
struct quant_module {
    char name[96];
    double bits_per_weight, mse, relative_error; /* relative: |W - W'|_F / |W|_F */
    struct quant_solved solved;
};

struct quant_sizes {
    int64_t model_bytes;           /* everything resident: packed, plain, norms, embedding */
    double bits_per_weight_linear; /* of the quantized linears */
    double bits_per_weight_model;  /* 8 * model_bytes / parameters */
    double hf_footprint_bytes;     /* as get_memory_footprint counts; NaN: no Hugging Face form */
};

struct quant_report {
    int n_modules;
    struct quant_module *modules; /* malloc'ed */
    struct quant_sizes sizes;
    double seconds;   /* quantization alone, without measuring the errors */
    double arranging; /* of these, putting weights into the order that the device multiplies from */
    bool on_host;     /* quantized by the CPU backend, because the device has no kernel for it */
};
void quant_report_release(struct quant_report *r);

/* The job's model from the base model (which must outlive it), and what it cost. */
int quantize_model(const struct model *base, const struct quant_spec *s, enum dtype source,
                   struct model *out, struct quant_report *report, struct err *e);

/* Sizes from shapes alone (--dry-run): same numbers as quantize_model gives. */
int quant_sizes_of(const struct config *c, const struct quant_spec *s, enum dtype source,
                   struct quant_sizes *out, struct err *e);
