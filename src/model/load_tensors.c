/* load_tensors.c - see load_tensors.h. */
#include "model/load_tensors.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Small enough to stay in a core's second-level cache between read, check and copy. */
#define PIECE_BYTES ((int64_t)512 << 10)

/* ---- NaN and infinity ---- */

/* The exponent of a value that is not finite is all ones: adding its lowest bit then carries into
 * the sign's place, in every lane of a 64-bit word at once. */
struct lanes {
    uint64_t exponent, lowest, sign;
};

static struct lanes lanes_of(enum dtype t)
{
    switch (t) {
    case DTYPE_F32:
        return (struct lanes){ UINT64_C(0x7F8000007F800000), UINT64_C(0x0080000000800000),
                               UINT64_C(0x8000000080000000) };
    case DTYPE_F16:
        return (struct lanes){ UINT64_C(0x7C007C007C007C00), UINT64_C(0x0400040004000400),
                               UINT64_C(0x8000800080008000) };
    default: /* DTYPE_BF16 */
        return (struct lanes){ UINT64_C(0x7F807F807F807F80), UINT64_C(0x0080008000800080),
                               UINT64_C(0x8000800080008000) };
    }
}

/* Words in one go: a constant count is what lets the compiler use vectors. */
#define RUN 64

static inline __attribute__((always_inline)) bool any_bad_body(const struct lanes *l,
                                                               const char *bytes, int64_t n_words)
{
    uint64_t bad = 0, words[RUN];

    for (; n_words >= RUN; n_words -= RUN, bytes += sizeof words) {
        memcpy(words, bytes, sizeof words);
        for (int i = 0; i < RUN; i++)
            bad |= (words[i] & l->exponent) + l->lowest;
    }
    memcpy(words, bytes, (size_t)n_words * sizeof *words);
    for (int i = 0; i < n_words; i++)
        bad |= (words[i] & l->exponent) + l->lowest;
    return (bad & l->sign) != 0;
}

static bool any_bad_anywhere(const struct lanes *l, const char *bytes, int64_t n_words)
{
    return any_bad_body(l, bytes, n_words);
}

#if defined(__x86_64__)
__attribute__((target("avx2"))) static bool any_bad_avx2(const struct lanes *l, const char *bytes,
                                                         int64_t n_words)
{
    return any_bad_body(l, bytes, n_words);
}
#endif

static bool any_bad(const struct lanes *l, const char *bytes, int64_t n_words)
{
#if defined(__x86_64__)
    if (__builtin_cpu_supports("avx2"))
        return any_bad_avx2(l, bytes, n_words);
#endif
    return any_bad_anywhere(l, bytes, n_words);
}

static bool element_is_finite(enum dtype t, const char *at)
{
    float x;

    dtype_to_f32(t, at, &x, 1);
    return isfinite(x);
}

int64_t first_not_finite(enum dtype t, const void *elements, int64_t n)
{
    const struct lanes l = lanes_of(t);
    const int64_t size = (int64_t)dtype_bytes(t), per_word = 8 / size;
    const char *bytes = elements;
    int64_t whole = n / per_word;

    /* Only where a word is bad, or in the last elements that fill none, look at each. */
    int64_t from = any_bad(&l, bytes, whole) ? 0 : whole * per_word;
    for (int64_t i = from; i < n; i++)
        if (!element_is_finite(t, bytes + i * size))
            return i;
    return -1;
}

/* ---- pieces ---- */

struct piece {
    const struct load_item *item;
    int64_t first_byte, n_bytes;
};

static struct piece *cut(const struct load_item *items, size_t n, int64_t piece_bytes,
                         int64_t *n_pieces)
{
    struct piece *list;
    int64_t count = 0;

    for (size_t i = 0; i < n; i++)
        count += (items[i].n_bytes + piece_bytes - 1) / piece_bytes;
    list = mem_array((size_t)count, sizeof *list);
    *n_pieces = 0;
    for (size_t i = 0; i < n; i++) {
        int64_t total = items[i].n_bytes;
        for (int64_t at = 0; at < total; at += piece_bytes)
            list[(*n_pieces)++] =
                (struct piece){ &items[i], items[i].first_byte + at,
                                total - at < piece_bytes ? total - at : piece_bytes };
    }
    return list;
}

static int not_finite(const struct piece *p, const void *bytes, int64_t i, struct err *e)
{
    const struct safetensors_tensor *t = p->item->from->tensor;
    const int64_t size = (int64_t)dtype_bytes(t->dtype), flat = p->first_byte / size + i;
    const int64_t width = t->n_dims == 2 ? (int64_t)t->shape[1] : t->n_elements;
    float x;

    dtype_to_f32(t->dtype, (const char *)bytes + i * size, &x, 1);
    if (t->n_dims == 2)
        return err_set(e, ERR_INPUT,
                       "tensor %s holds %s at [%" PRId64 ", %" PRId64 "], element %" PRId64
                       " of %s",
                       t->name, isnan(x) ? "NaN" : "infinity", flat / width, flat % width, flat,
                       p->item->from->file->path);
    return err_set(e, ERR_INPUT, "tensor %s holds %s at element %" PRId64 " of %s", t->name,
                   isnan(x) ? "NaN" : "infinity", flat, p->item->from->file->path);
}

/* Part by part, so that it is still in the cache when it is checked. */
static int read_piece(const struct piece *p, void *to, struct err *e)
{
    const struct safetensors_tensor *t = p->item->from->tensor;
    const int64_t size = (int64_t)dtype_bytes(t->dtype);

    for (int64_t at = 0; at < p->n_bytes; at += PIECE_BYTES) {
        int64_t n = p->n_bytes - at < PIECE_BYTES ? p->n_bytes - at : PIECE_BYTES;
        char *part = (char *)to + at;
        if (safetensors_read(p->item->from->file, t, p->first_byte + at, n, part, e) < 0)
            return -1;
        int64_t bad = first_not_finite(t->dtype, part, n / size);
        if (bad >= 0)
            return not_finite(p, to, at / size + bad, e);
    }
    return 0;
}

/* own: memory of this thread, for devices that lend none. */
static int load_piece(struct backend *b, const struct piece *p, void *own, struct err *e)
{
    char *to = (char *)p->item->to + (p->first_byte - p->item->first_byte);
    struct err ignored = ERR_INIT;
    void *staged = NULL;

    if (!b->ops->stage)
        return read_piece(p, own, e) < 0 ? -1 : b->ops->upload(b, to, own, (size_t)p->n_bytes, e);
    if (b->ops->stage(b, &staged, e) < 0)
        return -1;
    if (read_piece(p, staged, e) == 0)
        return b->ops->send(b, to, staged, (size_t)p->n_bytes, e);
    b->ops->send(b, to, staged, 0, &ignored);
    return -1;
}

int load_tensors(struct backend *b, const struct load_item *items, size_t n, struct err *e)
{
    int64_t n_pieces, worst = INT64_MAX; /* the first piece that failed */
    struct piece *pieces =
        cut(items, n, b->ops->stage ? (int64_t)STAGE_BYTES : PIECE_BYTES, &n_pieces);

#pragma omp parallel
    {
        void *own = b->ops->stage ? NULL : mem_alloc((size_t)PIECE_BYTES);

        /* Pieces behind a failed one are skipped and those before it are not, so that the
         * message does not depend on the threads. */
#pragma omp for schedule(dynamic, 4)
        for (int64_t i = 0; i < n_pieces; i++) {
            struct err mine = ERR_INIT;
            int64_t known;
#pragma omp atomic read
            known = worst;
            if (i > known || load_piece(b, &pieces[i], own, &mine) == 0)
                continue;
#pragma omp critical(load_tensors_failed)
            if (i < worst) {
#pragma omp atomic write
                worst = i;
                *e = mine;
            }
        }
        free(own);
    }
    free(pieces);
    if (worst != INT64_MAX)
        return -1;
    return b->ops->sync(b, e);
}
