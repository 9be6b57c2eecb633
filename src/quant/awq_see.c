/* awq_see.c - see awq_see.h. */
#include "quant/awq_see.h"

#include "base/memory.h"

#include <math.h>
#include <stdlib.h>

#define KEPT_ROWS 512 /* about */

static int64_t larger(int64_t a, int64_t b)
{
    return a > b ? a : b;
}

/* How many rows before the n-th are kept. */
static int64_t kept_before(const struct awq_eye *a, int64_t n)
{
    return (n + a->stride - 1) / a->stride;
}

/* ---- members of a group ---- */

/* The rows of a matrix that a member has to give to the others. */
struct owned {
    int64_t first, n;
};

static void kept_by_members(const struct awq_eye *a, struct owned *of)
{
    const struct calibration_run *run = a->run;

    for (int i = 0; i < run->n_sharing; i++) {
        const int64_t end = calibration_token(run, (i + 1) * run->n_shares);

        of[i].first = kept_before(a, calibration_token(run, i * run->n_shares));
        of[i].n = kept_before(a, end) - of[i].first;
    }
}

static int64_t most_owned(const struct awq_eye *a, const struct owned *of)
{
    int64_t n = 0;

    for (int i = 0; i < a->run->n_sharing; i++)
        n = larger(n, of[i].n);
    return n;
}

/* So many rows does each member give, also where it has fewer; alone: none. */
static int64_t rows_given(const struct awq_eye *a)
{
    struct owned of[CALIBRATION_SHARES];

    kept_by_members(a, of);
    return a->run->n_sharing > 1 ? most_owned(a, of) : 0;
}

/* What is there of the rows that members give is kept. */
static int share_rows(const struct awq_eye *a, struct tensor *all, const struct owned *of,
                      struct err *e)
{
    struct backend *b = a->run->b;
    const int64_t n_cells = most_owned(a, of) * all->n_cols;
    const size_t element = dtype_bytes(all->dtype), row = (size_t)all->n_cols * element;
    struct tensor part = rows_from(all, of[b->member].first, 1), told = *a->room;
    const struct collect_args collect = { .part = &part, .out = &told, .n_rows = 1 };

    part.n_cols = n_cells;
    told.dtype = part.dtype;
    told.n_cols = a->run->n_sharing * n_cells;
    if (b->ops->group->collect(b, &collect, e) < 0)
        return -1;
    for (int i = 0; i < a->run->n_sharing; i++) {
        const void *from = (char *)told.data + (size_t)(i * n_cells) * element;
        void *to = (char *)all->data + (size_t)of[i].first * row;

        if (of[i].n && b->ops->copy(b, to, from, (size_t)of[i].n * row, e) < 0)
            return -1;
    }
    return 0;
}

/* What the other members have seen. */
static int hear_others(const struct awq_eye *a, struct awq_seen *seen, struct err *e)
{
    const struct calibration_run *run = a->run;
    struct owned kept[CALIBRATION_SHARES], sizes[CALIBRATION_SHARES];

    if (run->n_sharing == 1)
        return 0;
    kept_by_members(a, kept);
    for (int i = 0; i < run->n_sharing; i++)
        sizes[i] = (struct owned){ i * run->n_shares, run->n_shares };
    return share_rows(a, &seen->rows, kept, e) < 0 ? -1 : share_rows(a, &seen->sizes, sizes, e);
}

/* ---- memory ---- */

int awq_eye_open(struct awq_eye *a, struct calibration_run *run, struct err *e)
{
    void *chosen;

    *a = (struct awq_eye){ .run = run, .stride = larger(run->n_tokens / KEPT_ROWS, 1) };
    a->n_kept = kept_before(a, run->n_tokens);
    if (backend_alloc(run->b, MEM_SCRATCH, (size_t)run->max_rows * sizeof *a->chosen, &chosen, e) <
        0)
        return -1;
    a->chosen = chosen;
    return 0;
}

void awq_eye_close(struct awq_eye *a)
{
    if (a->run)
        backend_free(a->run->b, a->chosen);
    *a = (struct awq_eye){ 0 };
}

int64_t awq_eye_room(const struct awq_eye *a)
{
    return larger(a->run->n_sharing * rows_given(a), 2 * CALIBRATION_SHARES);
}

int awq_seen_alloc(const struct awq_eye *a, int64_t width, struct awq_seen *out, struct err *e)
{
    struct backend *b = a->run->b;

    out->size = mem_array((size_t)width, sizeof *out->size);
    if (tensor_alloc(b, MEM_SCRATCH, DTYPE_F64, CALIBRATION_SHARES, width, &out->sizes, e) < 0)
        return -1;
    /* Members give rows beyond their own. */
    return tensor_alloc(b, MEM_SCRATCH, a->run->m->dtype, a->n_kept + rows_given(a), width,
                        &out->rows, e);
}

void awq_seen_release(const struct awq_eye *a, struct awq_seen *s)
{
    if (a->run) {
        tensor_free(a->run->b, &s->sizes);
        tensor_free(a->run->b, &s->rows);
    }
    free(s->size);
    *s = (struct awq_seen){ 0 };
}

/* ---- batch after batch ---- */

struct seeing {
    const struct awq_eye *a;
    struct awq_seen *seen;
    const struct tensor *every;
    int64_t row; /* of all tokens */
};

static int keep_rows(const struct seeing *see, const struct tensor *x, int64_t n_rows,
                     struct err *e)
{
    const struct awq_eye *a = see->a;
    struct backend *b = a->run->b;
    int32_t *chosen = mem_array((size_t)n_rows, sizeof *chosen);
    const int64_t first = kept_before(a, see->row), n = kept_before(a, see->row + n_rows) - first;

    for (int64_t i = 0; i < n; i++)
        chosen[i] = (int32_t)((first + i) * a->stride - see->row);
    struct tensor to = rows_from(&see->seen->rows, first, n);
    int rc = b->ops->upload(b, a->chosen, chosen, (size_t)n * sizeof *chosen, e);
    if (rc == 0 && n)
        rc = b->ops->gather(b, &(struct gather_args){ x, a->chosen, &to, n }, e);
    free(chosen);
    return rc;
}

static int see_rows(void *context, const struct tensor *x, const struct segments *s, struct err *e)
{
    struct seeing *see = context;
    const struct calibration_run *run = see->a->run;
    const int64_t n_rows = s->first_row[s->n];
    const struct tensor rows = rows_from(x, 0, n_rows);
    const struct tensor sizes = rows_from(&see->seen->sizes, run->share, 1);
    const struct awq_sizes_args a = { .x = &rows, .segments = *s, .sums = sizes.data };

    if (run->b->ops->awq->sizes(run->b, &a, e) < 0 || keep_rows(see, &rows, n_rows, e) < 0)
        return -1;
    if (see->every->data) {
        struct tensor to = rows_from(see->every, see->row - run->first_token, n_rows);
        const struct convert_args copy = { .x = &rows, .out = &to };

        if (run->b->ops->convert(run->b, &copy, e) < 0)
            return -1;
    }
    see->row += n_rows;
    return 0;
}

/* The sizes of all shares, added in order, on the host. */
static int add_sizes(const struct awq_eye *a, struct awq_seen *seen, struct err *e)
{
    struct backend *b = a->run->b;
    const int64_t width = seen->sizes.n_cols;
    double *of = mem_array((size_t)(CALIBRATION_SHARES * width), sizeof *of);
    int rc = b->ops->download(b, of, seen->sizes.data, tensor_bytes(&seen->sizes), e);

    for (int64_t i = 0; i < width; i++) {
        seen->size[i] = 0;
        for (int share = 0; share < CALIBRATION_SHARES; share++)
            seen->size[i] += of[share * width + i];
        if (rc == 0 && !isfinite(seen->size[i]))
            rc = err_set(e, ERR_INPUT, "the calibration activations of input %lld are not finite",
                         (long long)i);
    }
    free(of);
    return rc;
}

int awq_see(const struct awq_eye *a, int64_t layer, enum layer_step step,
            const struct weight *linear, struct awq_seen *seen, const struct tensor *every,
            struct err *e)
{
    struct calibration_run *run = a->run;
    struct seeing see = { .a = a, .seen = seen, .every = every, .row = run->first_token };
    double *none = mem_array((size_t)(seen->sizes.n_rows * seen->sizes.n_cols), sizeof *none);
    int rc = run->b->ops->upload(run->b, seen->sizes.data, none, tensor_bytes(&seen->sizes), e);

    free(none);
    if (rc < 0 || calibration_step(run, layer, step, linear, see_rows, &see, e) < 0 ||
        hear_others(a, seen, e) < 0)
        return -1;
    return add_sizes(a, seen, e);
}
