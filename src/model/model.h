/* model.h - the model on one screen: config, weights with shapes, cache, one forward pass. */
#pragma once

#include "backend/backend.h"
#include "model/config.h"

/* One decoder layer.  Lifetime: its struct model. */
struct layer {
    struct weight linear[N_LINEARS]; /* [N, K], see config_linear_shape() */
    struct tensor bias[N_LINEARS];   /* [1, N]; data NULL where the family has none */
    struct tensor input_norm;        /* [1, D] */
    struct tensor post_norm;         /* [1, D] */
};

/* Which part of a model this is: every linear of the layers is cut by its outputs into n equal
 * parts, of which this one is held, with its heads' keys and values; the rest is whole.  What the
 * linears give is brought together before anything else looks at it, so each number is computed as
 * it is without parts.  n of 0 or 1: the whole. */
struct split {
    int index, n;
};

/* A model ready to run.  The base model (weights_load) holds every tensor in its stored dtype
 * (or rounded to the source dtype); a job's model (quantize_model) holds packed linears, and
 * everything else in the model dtype, borrowed from the base where the dtype is the same. */
struct model {
    struct config config; /* of the whole model */
    struct split split;
    struct backend *backend;
    enum dtype dtype;           /* of activations, norms, residual, cache */
    enum dtype compute;         /* what linears multiply in */
    struct tensor embed;        /* [V, D]; no data where the embedding is packed */
    struct weight packed_embed; /* [V, D], then; borrows head when tied */
    struct tensor norm;         /* [1, D] */
    struct weight head;         /* [V, D]; borrows embed when tied and plain */
    struct layer *layers;
    bool owns_embed, owns_norms; /* false: borrowed from the base */
};

#define MODEL_INIT \
    {              \
        0          \
    }

/* Of n heads or outputs: how many this part has. */
static inline int64_t model_part(const struct model *m, int64_t n)
{
    return m->split.n > 1 ? n / m->split.n : n;
}

/* Does the work queue up on something else than our processor? */
static inline bool model_is_on_device(const struct model *m)
{
    return m->backend->ops->decode != NULL;
}

void model_release(struct model *m); /* zero state and twice are fine */
/* Rows of the embedding, plain or packed: ids on the device, out [>= n_rows, D] of the model dtype.
 */
int model_embed(const struct model *m, const int32_t *ids, int64_t n_rows, struct tensor *out,
                struct err *e);
/* Does a product of this model look at more than a row at a time?  LLM.int8 finds its outlier
 * columns in all rows of a call. */
bool model_looks_at_whole_calls(const struct model *m);

/* Loads folder's checkpoint to the device, tagged MEM_BASE, every tensor in its stored dtype.
 * Refuses missing tensors, wrong shapes, and NaN or infinite values, naming the tensor.
 * dtype and compute are set to the stored dtype of the weights. */
int weights_load(struct backend *b, const char *folder, struct model *out, struct err *e);
/* Bytes and seconds of the last load, for the record. */
struct load_facts {
    double read_s;
    int64_t n_bytes;
};
int weights_load_timed(struct backend *b, const char *folder, struct model *out,
                       struct load_facts *facts, struct err *e);

/* Device memory that a load fills. */
struct load_parts {
    void *const *at;
    const size_t *n_bytes;
    size_t n;
};

/* How weights may come, where not simply from the file. */
struct load_way {
    struct split split; /* which part is loaded */
    /* Beside the weights this much must fit, or nothing is loaded. */
    int64_t least_job_bytes;
    /* Fills the parts; read(reading) does so from the file.  NULL: that is what is done. */
    int (*fill)(void *context, const struct load_parts *parts,
                int (*read)(void *reading, struct err *e), void *reading, struct err *e);
    void *context;
};
int weights_load_by(struct backend *b, const char *folder, const struct load_way *way,
                    struct model *out, struct load_facts *facts, struct err *e);

/* ---- one forward pass ---- */

/* Keys and values of n_slots sequences, `capacity` tokens each, of the heads that a part has.
 * Lifetime: the job. */
struct kv_cache {
    int n_slots;
    int64_t capacity;
    int32_t *length;      /* host, [n_slots]: tokens in each slot */
    struct tensor *k, *v; /* [L] of [n_slots * capacity, G*E]; G: of this part */
    int64_t n_layers;
    int32_t *counted; /* device, [capacity]: 0, 1, 2, ...; made by the first copy */
    struct backend *backend;
};

int kv_cache_open(struct kv_cache *c, const struct model *m, int n_slots, int64_t capacity,
                  struct err *e);
void kv_cache_close(struct kv_cache *c);
void kv_cache_drop(struct kv_cache *c, int slot); /* forgets the tokens of a slot */
/* Slot `to` holds the first n tokens of slot `from`, and nothing else. */
int kv_cache_copy(struct kv_cache *c, int from, int to, int32_t n, struct err *e);
size_t kv_cache_bytes(const struct model *m, int n_slots, int64_t capacity);

/* A batch: n_seqs sequences, each the next n_tokens[i] ids of cache slot slot[i]. */
struct batch {
    enum phase phase;
    int n_seqs;
    const int32_t *slot;     /* [n_seqs] */
    const int32_t *n_tokens; /* [n_seqs], each >= 1 */
    const int32_t *ids;      /* concatenated */
    /* ROPE_DYNAMIC: length of each whole sequence when these are a piece of its prompt; NULL:
     * what is in the slot once these are. */
    const int32_t *length; /* [n_seqs] */
    /* WANT_NLL, WANT_NLL_GREEDY: the id that each row predicts, -1: the row is not scored.  NULL:
     * the next id of its sequence.  WANT_ARGMAX: -1: the row is not asked. */
    const int32_t *targets; /* [T] */
};

enum want {
    WANT_LAST_ARGMAX, /* greedy next id of each sequence: next_ids [n_seqs] */
    WANT_ARGMAX,      /* greedy next id of each row that is asked: next_ids [T] */
    WANT_LAST_LOGITS, /* logits of each sequence's last row: logits [n_seqs, V] */
    WANT_ALL_LOGITS,  /* logits of every row: logits [T, V]; small models and tests */
    WANT_NLL,         /* nll of ids[t + 1] at every row t but each sequence's last: nll [T],
                         rows without a target get NaN.  Streams the head in row chunks. */
    WANT_NLL_GREEDY   /* the same, and the likeliest id of each of these rows: next_ids [T] */
};

/* Working memory of forward passes, sized once for at most max_rows rows a call; longer
 * prompts are run in pieces by the caller.  Lifetime: the job. */
struct forward;

int forward_open(struct forward **f, const struct model *m, int64_t max_rows, int max_seqs,
                 struct err *e);
void forward_close(struct forward *f);
/* Bytes forward_open would take. */
size_t forward_bytes(const struct model *m, int64_t max_rows, int max_seqs);

struct forward_out {
    int32_t *next_ids; /* host, [n_seqs]; WANT_ARGMAX, WANT_NLL_GREEDY: [T] */
    float *logits;     /* host */
    float *nll;        /* host, [T] */
};

/* Runs the batch, appends its keys and values to the cache.  Bit-identical per sequence
 * whatever else is in the batch.  forbidden (may be NULL): ids argmax never takes. */
int forward_run(struct forward *f, struct kv_cache *c, const struct batch *batch, enum want want,
                const int32_t *forbidden, int n_forbidden, struct forward_out *out, struct err *e);

/* n_steps greedy steps of n_seqs <= max_seqs sequences: ids[s] is fed to slot[s] first, then each
 * id that comes out (0 where none does).  out: host, [n_steps, n_seqs], -1 where a logit was NaN.
 */
int forward_decode(struct forward *f, struct kv_cache *c, int n_seqs, const int32_t *slot,
                   const int32_t *ids, int n_steps, const int32_t *forbidden, int n_forbidden,
                   int32_t *out, struct err *e);

/* cos and sin tables for positions 0 .. n_positions-1 as Hugging Face computes them (2.4), values
 * rounded to `t`.  `length`: ROPE_DYNAMIC scales by the length of the sequence (its prompt plus
 * what was generated so far); others ignore it.  cos, sin: host fp32 [n_positions, E/2]. */
int rope_tables(const struct config *c, enum dtype t, int64_t n_positions, int64_t length,
                float *cos_out, float *sin_out, struct err *e);
/* The same for positions first .. first + n - 1 alone. */
int rope_rows(const struct config *c, enum dtype t, int64_t first, int64_t n, int64_t length,
              float *cos_out, float *sin_out, struct err *e);
/* The E/2 frequencies (before multiplying by the position), fp32; *attention_factor multiplies
 * cos and sin. */
int rope_frequencies(const struct config *c, int64_t length, float *out, float *attention_factor,
                     struct err *e);
