/* backend.h - everything the program asks of a device, and nothing else.
 *
 * model/, quant/, eval/ and bench/ see this file only.  A backend is one constant table;
 * src/cpu/ and cuda/ each fill one.  The CPU table is the definition of every operation:
 * another backend is right when it agrees with it.
 *
 * Calls queue up in order and may return before the work is done; sync() and download()
 * wait, and report what went wrong since the last wait.
 *
 * Shape letters: B sequences, T tokens (rows), D model width, H query heads, G key/value
 * heads, E width of a head, F MLP width, V vocabulary, N outputs, K inputs.  Matrices are
 * row-major.  Activations are in the model dtype; every operation reads them widened to fp32,
 * accumulates in fp32 and rounds its output once to the model dtype, with the extra rounding
 * points of transformers' Llama named below.  Row r of an output depends on row r of the
 * inputs (and its sequence's cache) alone, bit for bit, whatever else is in the batch; the one
 * exception is WEIGHT_INT8, which looks at all rows of a document's call (struct segments). */
#pragma once

#include "backend/dtype.h"
#include "backend/weight.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct backend;

/* Device memory with a shape; `data` is a device address.  Plain value: copying it copies the
 * view.  Owned by whoever called tensor_alloc(). */
struct tensor {
    void *data;
    enum dtype dtype;
    int64_t n_rows, n_cols;
    int tag; /* enum mem_tag it was allocated under */
};

/* What device memory is for; counted apart, so that a footprint can be printed. */
enum mem_tag { MEM_BASE, MEM_WEIGHTS, MEM_CACHE, MEM_SCRATCH, MEM_N_TAGS };

struct mem_account {
    size_t now[MEM_N_TAGS];
    size_t peak[MEM_N_TAGS];
    /* Largest value of WEIGHTS + CACHE + SCRATCH since mem_account_reset_peak(). */
    size_t job_peak;
};

/* Rows of a batch that belong to one document's call, in order: rows
 * first_row[i] .. first_row[i + 1] - 1.  Host memory. */
struct segments {
    int n;
    const int32_t *first_row; /* [n + 1] */
};

/* What the rows of a pass are: whole or cut prompts, or the newest id of each sequence.  A backend
 * may multiply and attend in another order in each phase; the bits of a row depend on its phase,
 * never on the rows beside it. */
enum phase { PHASE_PROMPT, PHASE_DECODE };

struct embed_args {
    const struct tensor *table; /* [V, D] */
    const int32_t *ids;         /* device, [T]; each in 0 .. V-1 */
    struct tensor *out;         /* [T, D] */
    int64_t n_rows;
};

/* The same from a packed table: value(id, col) of weight.h, rounded once to T. */
struct embed_packed_args {
    const struct weight *table; /* [V, D] */
    const int32_t *ids;
    struct tensor *out;
    int64_t n_rows;
};

struct norm_args {
    /* u = x * rsqrt(mean(x^2) + eps) in fp32, rounded to T; out = weight * u, rounded to T. */
    const struct tensor *x;      /* [T, D] */
    const struct tensor *weight; /* [1, D] */
    struct tensor *out;          /* [T, D]; may be x */
    int64_t n_rows;
    float eps;
    enum phase phase; /* the order of the mean's sum may depend on it */
};

struct linear_args {
    /* y = x W^T + bias: x rounded to compute, W dequantized to compute, fp32 accumulation,
     * bias added in fp32, one rounding to y's dtype (fp32 for logits: none). */
    const struct tensor *x;    /* [T, K] */
    const struct weight *w;    /* [N, K] */
    const struct tensor *bias; /* [1, N] or NULL */
    struct tensor *y;          /* [T, N] model dtype or fp32 */
    int64_t n_rows;
    enum dtype compute;
    enum phase phase;
    struct segments segments; /* WEIGHT_INT8 finds outlier columns per segment; n = 0: one */
};

struct rope_args {
    /* Half-split rotation of q and k in place: cos and sin rounded to T; products and their
     * sum as HF computes them in T.  Then k and v rows go to the cache. */
    struct tensor *q;                           /* [T, H*E] */
    struct tensor *k;                           /* [T, G*E] */
    const struct tensor *v;                     /* [T, G*E] */
    const struct tensor *cos_table, *sin_table; /* fp32 [n_table, E/2], rounded to T already */
    const int32_t
        *table_row;      /* device, [T]: row of the tables, the position unless rope is dynamic */
    const int32_t *slot; /* device, [T]: cache slot of the row's sequence */
    const int32_t *position;          /* device, [T]: place in the slot */
    struct tensor *k_cache, *v_cache; /* [n_slots * capacity, G*E], model dtype */
    int64_t n_rows, capacity;
    int n_heads, n_kv_heads, head_dim;
    int n_rotated; /* first elements of a head that turn, j with j + n_rotated/2; 0: all.  Of the
                      tables' E/2 columns the first n_rotated/2 count. */
};

struct attention_args {
    /* out = softmax(q k^T / sqrt(E)) v; row t of a sequence at position p sees positions
     * max(0, p - window + 1) .. p of its slot (window 0: all).  Scores, softmax and sums fp32,
     * in an order that depends on p alone. */
    const struct tensor *q; /* [T, H*E] */
    const struct tensor *k_cache, *v_cache;
    const int32_t *slot, *position; /* device, [T] */
    struct tensor *out;             /* [T, H*E] */
    int64_t n_rows, capacity, window;
    int64_t max_position; /* largest in `position`, for sizing */
    int n_heads, n_kv_heads, head_dim;
    enum phase phase;
    struct segments segments; /* rows of one sequence: one slot, positions that count up by one */
};

struct add_args {
    struct tensor *x;       /* x = x + y, rounded to T */
    const struct tensor *y; /* [T, D] */
    int64_t n_rows;
};

struct swiglu_args {
    /* out = round(silu(gate)) * up: silu in fp32 rounded to T, product rounded to T. */
    const struct tensor *gate, *up; /* [T, F] */
    struct tensor *out;             /* [T, F]; may be gate */
    int64_t n_rows;
};

struct gather_args {
    const struct tensor *x; /* [*, D] */
    const int32_t *rows;    /* device, [n] */
    struct tensor *out;     /* [n, D] */
    int64_t n_rows;
};

struct argmax_args {
    const struct tensor *logits; /* fp32 [T, V] */
    int64_t n_rows;
    const int32_t *forbidden; /* device, [n_forbidden]: never chosen */
    int n_forbidden;
    int32_t *out; /* device, [T]; ties go to the lowest id; -1 when a logit is NaN */
};

struct nll_args {
    /* out[t] = logsumexp(logits[t]) - logits[t][target[t]], fp32 logits, sum of exponentials in
     * fp64 on the CPU; a backend may use compensated fp32 (<= 1e-6 relative). */
    const struct tensor *logits; /* fp32 [T, V] */
    const int32_t *targets;      /* device, [T] */
    int64_t n_rows;
    float *out; /* device, [T] */
};

/* How far two predictions of one next id are apart, in fp64 from fp32 logits. */
struct divergence {
    double kl;            /* sum p ln(p / q), p of the base model; 0 for equal logits */
    double nll_base, nll; /* of the next id */
    bool same_top;        /* both think the same id most likely (the first of equal ones) */
};

struct divergence_args {
    /* Row by row, in an order of the sums that V alone fixes.  A NaN among the logits of a row
     * makes its kl NaN, and the nll of that model. */
    const struct tensor *base, *logits; /* fp32 [T, V] */
    const int32_t *targets;             /* device, [T] */
    int64_t n_rows;
    struct divergence *out; /* device, [T] */
};

struct convert_args {
    const struct tensor *x; /* F32, F16 or BF16 */
    struct tensor *out;     /* same shape, F32, F16 or BF16: rounded to nearest even */
};

/* Which rule turns plain weights into codes; the exact arithmetic is drawn in src/cpu. */
enum quantize_rule {
    QUANTIZE_BNB_NF4,     /* 1.1-1.5: flat blocks, absmax, strict thresholds       */
    QUANTIZE_BNB_FP4,     /* 1.3                                                   */
    QUANTIZE_INT8_ROW,    /* 4.1: LLM.int8 rows; the input is rounded to fp16      */
    QUANTIZE_GRID_ABSMAX, /* 7.0: sym absmax/(2^(b-1)-1); asym = 5.3               */
    QUANTIZE_GRID_GPTQ,   /* 5.3                                                   */
    QUANTIZE_GRID_AWQ,    /* 6.6                                                   */
    QUANTIZE_TABLE,       /* 7.6: groups of a row, absmax, nearest value of `table` */
    QUANTIZE_MXFP4,       /* 7.3: e2m1, 2^e of 32; FLOOR, elements to nearest even */
    QUANTIZE_NVFP4,       /* 7.4: e2m1, e4m3 of 16 by fp32 of the matrix, torchao's */
    QUANTIZE_E4M3,        /* 7.5: fp8, absmax / 448 a group                        */
    QUANTIZE_HQQ          /* 7.2: half-quadratic, zero points are numbers          */
};

struct quantize_args {
    const struct tensor *w; /* plain [N, K], F32, F16 or BF16 */
    enum dtype source;      /* its values are rounded to this first; F32, OTHER: not */
    enum quantize_rule rule;
    int bits;
    int64_t group_size; /* K for one group a row; a bnb block size may exceed K; fp8: N * K for one
                           group of the whole matrix */
    bool sym;
    bool double_quant;
    enum dtype scale_dtype; /* of scales that are not quantized again: F32, or F16, and then the
                               codes go by the rounded scale; of hqq's zero points, too */
    enum code_table table;  /* QUANTIZE_TABLE */
    bool arranged;   /* *out may come in the order that arrange() gives, without a call of it */
    bool round_zero; /* QUANTIZE_HQQ: starts from whole zero points */
    /* Shape fields, forms and device memory are filled in; owned.  nested_offset, and the refusal
     * of weights that cannot be quantized, may come with the next sync(): until then the structure
     * and the plain weights stay in their places.  Refused that late, *out is still the caller's
     * to release. */
    struct weight *out;
};

/* ---- solvers that look at activations ---- */

struct gram_args {
    /* h = h + x^T x, or (fresh) h = x^T x.  The sum over the rows of a call is rounded once to fp32
     * and added (a backend may accumulate in fp32); both halves are written.  The order of the sum
     * is fixed by the shape. */
    const struct tensor *x; /* [T, K]: F32, F16 or BF16 */
    struct tensor *h;       /* F32 [K, K] */
    int64_t n_rows;
    bool fresh; /* what is in h does not count */
};

/* In which order GPTQ's columns are settled: as they stand, by falling diagonal of H, or sorted
 * inside their groups with the groups by their largest (group-aware reordering). */
enum gptq_order { GPTQ_AS_IT_STANDS, GPTQ_DESC_ACT, GPTQ_GROUP_AWARE };

struct gptq_result {
    double loss;       /* half the sum of (w - q)^2 / U_cc^2 (5.11) */
    double output_mse; /* mean of (x W^T - x Q^T)^2 over the calibration rows: from H */
    double output_ms;  /* mean of (x W^T)^2 */
    double damp;       /* finally used, relative to the mean diagonal */
    double floor;      /* added to the diagonal beyond it, relative to the largest; 0: nothing */
    int n_raised;      /* failed factorisations */
};

struct gptq_args {
    /* Frantar et al., 2022.  H = factor * h, damped; a factorisation that fails is tried again
     * with damp + damp_step while that is below 1, then with floors of 10^-6 ... 10^-1 of the
     * largest diagonal element; then it is an error. */
    const struct tensor *w; /* plain [N, K], F32, F16 or BF16 */
    enum dtype source;      /* its values are rounded to this first; F32, OTHER: not */
    const struct tensor *h; /* F32 [K, K]: sum of x^T x over the calibration rows */
    int64_t n_rows;         /* of the calibration */
    double factor;
    int bits;
    int64_t group_size; /* K for one group a row */
    bool sym;
    enum code_table table; /* TABLE_NONE: integers */
    enum gptq_order order;
    bool static_groups;
    double damp, damp_step;
    double mse; /* exponent of the search for a smaller range; 0: no search */
    bool double_quant;
    enum dtype scale_dtype;
    struct weight *out;         /* as in quantize_args; g_idx where the order leaves the groups */
    struct gptq_result *result; /* host; there on return */
};

/* AWQ's searches (Lin et al., 2023), as AutoAWQ has them.  Tensors, and every array of numbers, are
 * on the device; all of them give the CPU's bits but clip(), whose errors are summed in any fixed
 * order.
 */
struct awq_form {
    int bits;
    int64_t group_size; /* weights; n_in for one group a row */
    bool zero_point;
};

struct awq_sizes_args {
    /* sums[i] = sums[i] + (sum of size(x[t, i]) over the rows of a segment, in order), segment
     * after segment, in fp64.  The size is |x|, or with groups |x| / (largest of its group + 1e-6).
     */
    const struct tensor *x; /* [T, K] */
    struct segments segments;
    int64_t group_size; /* 0: none */
    double *sums;       /* [K] */
};

struct awq_scale_args {
    struct tensor *w; /* in place: fp32 arithmetic, one rounding */
    const float *by;  /* [n_cols], or by_row [n_rows] */
    bool by_row, divides;
};

struct awq_round_args {
    /* out = Q(w diag(s)) diag(1 / s): columns times s, to the AWQ grid and back, columns over s. */
    const struct tensor *w; /* F32 [N, K] */
    const float *s;         /* [K] */
    struct awq_form form;
    struct tensor *out; /* [N, K]: F32, F16 or BF16; may be w */
};

struct awq_errors_args {
    /* sums[t] = sum over row t of (x - y)^2 in fp64: element i to lane i / 8 mod 256, lanes by
     * halves. */
    const struct tensor *x, *y; /* [T, K]; y NULL: zeros */
    int64_t n_rows;
    double *sums; /* [T] */
};

struct awq_clip_args {
    /* Clamps w to the range of each row's groups that leaves the least error on x: the first of
     * max|w| (1 - i / 20), i = 0 .. 9, with the least mean of (x (Q(w') - w))^2 over the rows, if
     * that is below 1e9; else max|w|. */
    struct tensor *w;       /* F32 [N, K] */
    const struct tensor *x; /* F32 [T, K] */
    int64_t n_rows;
    struct awq_form form;
    float *largest; /* [N * K / group_size]: the ranges */
};

struct awq_ops {
    int (*sizes)(struct backend *b, const struct awq_sizes_args *a, struct err *e);
    int (*scale)(struct backend *b, const struct awq_scale_args *a, struct err *e);
    int (*round)(struct backend *b, const struct awq_round_args *a, struct err *e);
    int (*errors)(struct backend *b, const struct awq_errors_args *a, struct err *e);
    int (*clip)(struct backend *b, const struct awq_clip_args *a, struct err *e);
};

struct dequantize_args {
    const struct weight *w;
    struct tensor *out; /* [N, K]: F32, F16 or BF16 (one rounding) */
};

/* How far packed weights are from the plain ones, before any rounding to a compute dtype. */
struct compare_args {
    const struct tensor *w;      /* plain [N, K], as stored */
    enum dtype source;           /* its values are rounded to this first; F32, OTHER: not */
    const struct weight *packed; /* [N, K] */
    double *out;                 /* host, [2]: sums of (W - W')^2 and of W^2, in fp64, in an order
                                    that the shape fixes; there after the next sync() */
};

/* Greedy decoding of several sequences, whole steps at a time: embedding, layers, head, argmax,
 * and the new id into the next step, with the rounding points of the operations above. */
struct decode_layer {
    const struct weight *linear; /* [7]: q, k, v, o, gate, up, down; or each one's part */
    const struct tensor *bias;   /* [7]; data NULL: none */
    const struct tensor *input_norm, *post_norm;
    struct tensor *k_cache, *v_cache;
    int64_t window;
};

struct decode_args {
    int64_t n_layers;
    const struct decode_layer *layers;
    const struct tensor *embed, *norm;
    const struct weight *head;
    const struct tensor *cos_table, *sin_table; /* as in rope_args; row = position */
    enum dtype compute;                         /* of packed weights */
    float eps;
    int n_parts; /* the linears are this member's parts of so many */
    int n_heads, n_kv_heads, head_dim, n_rotated; /* heads: of the part */
    int64_t capacity;                             /* of a slot */
    int n_seqs;
    const int32_t *slot, *position, *ids; /* host, [n_seqs]: place of the first id that is fed */
    const int32_t *forbidden;             /* device, [n_forbidden] */
    int n_forbidden;
    int n_steps;
    int32_t *out; /* host, [n_steps, n_seqs]: there on return; -1 (a NaN) is fed on as id 0 */
    bool done;    /* set: false when this model is none that decode() knows; nothing was run */
};

struct device_facts {
    char name[128];       /* "AMD EPYC 9354" or "NVIDIA H200" */
    char id[64];          /* the same for whoever sees this device; empty: there is one a node */
    char driver[32];      /* "580.159.04"; empty: none */
    char runtime[32];     /* "13.0"; empty: none */
    int64_t memory_bytes; /* of the device (or host) */
    int64_t free_bytes;   /* now */
    int n_threads;        /* CPU: threads used */
};

/* How a device does at this moment.  What it does not tell: NaN, an empty text. */
struct device_health {
    double temperature_c; /* of the chip */
    double clock_mhz;     /* of its processors */
    char limits[128];     /* what holds the clock down: "power cap, heat"; "none" */
};

/* One copy of bytes to the devices of a node, each in another process: index 0 .. n - 1 of them.
 * A device may take part once; who was replaced cannot join again. */
#define SHARE_ID_BYTES 128

struct share_ops {
    /* What does it, e.g. "NCCL 2.28.9"; -1: it is not there, e says why. */
    int (*find)(struct backend *b, char version[32], struct err *e);
    /* Called by index 0; the others get the id by other ways. */
    int (*id)(struct backend *b, char id[SHARE_ID_BYTES], struct err *e);
    /* Begins to join, returns at once; joined() waits until all have, at most timeout_s. */
    int (*join)(struct backend *b, const char id[SHARE_ID_BYTES], int index, int n, struct err *e);
    int (*joined)(struct backend *b, double timeout_s, struct err *e);
    /* What is at[i] on index 0 goes to at[i] of the others; waits for it. */
    int (*broadcast)(struct backend *b, void *const *at, const size_t *n_bytes, size_t n,
                     double timeout_s, struct err *e);
    void (*leave)(struct backend *b); /* after each of the above, failed or not */
};

/* ---- devices that work on one job together ---- */

/* Where a member stands in its group: member 0 .. n - 1, each a process with a device of its own.
 */
struct group_seat {
    int index, n;
    /* Brings n_bytes of each member to all of them: all [n * n_bytes], in the order of members. */
    int (*swap)(void *context, const void *mine, size_t n_bytes, void *all, struct err *e);
    void *context;
};

struct collect_args {
    /* out = the parts of members 0, 1, ... side by side: bits are copied, nothing is computed. */
    const struct tensor *part; /* [T, N / n] */
    struct tensor *out;        /* [T, N] of the same dtype; not where `part` is */
    int64_t n_rows;
};

/* All members make the same calls with the same shapes in the same order. */
struct group_ops {
    int (*join)(struct backend *b, const struct group_seat *seat, struct err *e);
    void (*leave)(struct backend *b); /* also never joined, also twice */
    int (*collect)(struct backend *b, const struct collect_args *a, struct err *e);
    /* A number of each member to all of them: all [n].  Waits for them. */
    int (*tell)(struct backend *b, int64_t mine, int64_t *all, struct err *e);
    /* This member gives up, why: who waits for it now or later fails, too. */
    void (*give_up)(struct backend *b, const struct err *why);
};

#define STAGE_BYTES ((size_t)2 << 20)
#define MARKS_MAX   4

struct backend_ops {
    const char *name;  /* "cpu", "cuda" */
    const char *built; /* what is compiled in, "13.0 for sm_80, sm_90"; NULL: nothing to tell */

    /* Required. */
    int (*open)(struct backend *b, int device, struct err *e);
    void (*close)(struct backend *b);
    int (*facts)(struct backend *b, struct device_facts *out, struct err *e);
    int (*alloc)(struct backend *b, size_t n_bytes, void **out, struct err *e); /* 64-aligned */
    void (*free)(struct backend *b, void *p);
    /* `from` may be reused on return; several threads may upload at once. */
    int (*upload)(struct backend *b, void *to, const void *from, size_t n_bytes, struct err *e);
    int (*download)(struct backend *b, void *to, const void *from, size_t n_bytes, struct err *e);
    int (*sync)(struct backend *b, struct err *e);
    /* On the device; the two do not overlap. */
    int (*copy)(struct backend *b, void *to, const void *from, size_t n_bytes, struct err *e);

    int (*embed)(struct backend *b, const struct embed_args *a, struct err *e);
    int (*norm)(struct backend *b, const struct norm_args *a, struct err *e);
    int (*linear)(struct backend *b, const struct linear_args *a, struct err *e);
    int (*rope)(struct backend *b, const struct rope_args *a, struct err *e);
    int (*attention)(struct backend *b, const struct attention_args *a, struct err *e);
    int (*add)(struct backend *b, const struct add_args *a, struct err *e);
    int (*swiglu)(struct backend *b, const struct swiglu_args *a, struct err *e);
    int (*gather)(struct backend *b, const struct gather_args *a, struct err *e);
    int (*argmax)(struct backend *b, const struct argmax_args *a, struct err *e);
    int (*nll)(struct backend *b, const struct nll_args *a, struct err *e);
    int (*divergence)(struct backend *b, const struct divergence_args *a, struct err *e);
    int (*convert)(struct backend *b, const struct convert_args *a, struct err *e);
    int (*quantize)(struct backend *b, const struct quantize_args *a, struct err *e);
    int (*dequantize)(struct backend *b, const struct dequantize_args *a, struct err *e);

    /* Optional.  NULL: the caller composes them from the operations above. */
    /* n products of one x. */
    int (*linear_many)(struct backend *b, const struct linear_args *a, int n, struct err *e);
    /* x = x + y; a->y is working memory. */
    int (*linear_add)(struct backend *b, const struct linear_args *a, struct tensor *x,
                      struct err *e);
    /* SwiGLU of two products of one x; gate->y and up->y are working memory, out may be either. */
    int (*linear_swiglu)(struct backend *b, const struct linear_args *gate,
                         const struct linear_args *up, struct tensor *out, struct err *e);
    /* nll() of the fp32 logits y = x W^T, which need not stand in memory: a->y is not used. */
    int (*linear_nll)(struct backend *b, const struct linear_args *a, const int32_t *targets,
                      float *out, struct err *e);
    /* Puts codes and scales into the order that this backend multiplies fastest from, in the same
     * bytes (`arrangement`); a weight it has no such order for stays as it is. */
    int (*arrange)(struct backend *b, struct weight *w, struct err *e);
    int (*compare)(struct backend *b, const struct compare_args *a, struct err *e);
    int (*decode)(struct backend *b, struct decode_args *a, struct err *e);
    /* Gives back the working memory that is kept between calls. */
    void (*trim)(struct backend *b);
    /* Optional.  NULL: embeddings cannot be packed on this backend. */
    int (*embed_packed)(struct backend *b, const struct embed_packed_args *a, struct err *e);
    /* Optional.  NULL: there is nothing to tell, or no such way. */
    /* How many devices open() may be asked for; 0: none answers. */
    int (*n_devices)(void);
    int (*health)(struct backend *b, struct device_health *out, struct err *e);
    /* Used so far: differences count.  Takes some milliseconds, so it is not part of health. */
    int (*energy)(struct backend *b, double *joule, struct err *e);
    /* Device time between two places among the queued calls, i 0 .. MARKS_MAX - 1: elapsed() waits
     * for the second. */
    int (*mark)(struct backend *b, int i, struct err *e);
    int (*elapsed)(struct backend *b, int from, int to, double *seconds, struct err *e);
    /* Other processes that have the device open for work; -1: it does not tell.  Takes a while. */
    int (*n_others)(struct backend *b, int *out, struct err *e);
    /* Uploads without a copy on the host: stage() lends STAGE_BYTES of memory, send() takes what
     * was written there to the device and the memory back (n_bytes 0: nothing was).  Several
     * threads at once; who holds none may have to wait for copies under way. */
    int (*stage)(struct backend *b, void **out, struct err *e);
    int (*send)(struct backend *b, void *to, void *staged, size_t n_bytes, struct err *e);
    const struct share_ops *share;
    /* Does quantize() know the rule with these settings?  NULL: all of them.  What it does not
     * know the caller has quantized by the CPU backend. */
    bool (*quantizes)(const struct quantize_args *a);
    /* NULL: the caller has them done by the CPU backend. */
    int (*gram)(struct backend *b, const struct gram_args *a, struct err *e);
    int (*gptq_columns)(struct backend *b, const struct gptq_args *a, struct err *e);
    /* NULL: there is no AWQ on this backend. */
    const struct awq_ops *awq;
    /* NULL: devices cannot work on one job together. */
    const struct group_ops *group;
};

struct backend {
    const struct backend_ops *ops;
    void *state; /* the backend's own */
    /* The group that was joined; n_members 0: none. */
    int member, n_members;
    struct mem_account mem;
    /* Sizes of live allocations, for the account: the backend room's own. */
    void *sizes;
    /* What a reader of the results should know about how this ran: "sentence; sentence". */
    char notes[512];
};

#define BACKEND_INIT \
    {                \
        0            \
    }

/* name "cpu", "cuda" or "auto" (CUDA where a device answers, else CPU).  `why` (may be NULL)
 * receives one sentence for "auto": what was taken and why. */
int backend_open(struct backend *b, const char *name, int device, char why[256], struct err *e);
void backend_close(struct backend *b); /* also never opened, also twice */
bool backend_compiled(const char *name);
const char *backend_built(const char *name); /* backend_ops.built; NULL also for an unknown name */
/* Devices that backend_open() may take by that name, at least 1 (opening says what is wrong). */
int backend_n_devices(const char *name);

/* Adds a sentence to the notes, once; whoever writes a record empties them before. */
void backend_note(struct backend *b, const char *sentence);

/* Joins the seat's group, or leaves it.  While joined, what members decide by a clock or by what
 * memory is free they decide alike: */
int backend_join(struct backend *b, const struct group_seat *seat, struct err *e);
void backend_leave(struct backend *b); /* also where none was joined */
/* Bytes that are free on every member. */
int backend_free_bytes(struct backend *b, int64_t *out, struct err *e);
/* What member 0 thinks; false where the group is broken, as the next call of it will tell. */
bool backend_first_says(struct backend *b, bool own);

/* Tagged allocation; ERR_MEMORY names what was asked for and what is free. */
int backend_alloc(struct backend *b, enum mem_tag tag, size_t n_bytes, void **out, struct err *e);
void backend_free(struct backend *b, void *p); /* NULL is fine */
void mem_account_reset_peak(struct backend *b);

int tensor_alloc(struct backend *b, enum mem_tag tag, enum dtype t, int64_t n_rows, int64_t n_cols,
                 struct tensor *out, struct err *e);
void tensor_free(struct backend *b, struct tensor *t); /* zero state is fine */
size_t tensor_bytes(const struct tensor *t);

/* Allocates the parts of w for its forms and shape fields (set them first). */
int weight_alloc(struct backend *b, enum mem_tag tag, struct weight *w, struct err *e);
void weight_release(struct backend *b, struct weight *w); /* frees what is owned; zero state */
/* A plain weight that borrows t's elements. */
struct weight weight_of_tensor(const struct tensor *t);
