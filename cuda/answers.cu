/* answers.cu - see answers.cuh; and the wait that brings them. */
#include "answers.cuh"
#include "quantize.cuh"

#include <stdlib.h>

#define N_SLOTS 1024

/* Whom an answer is for. */
struct asker {
    struct weight *quantized; /* NULL: a comparison */
    struct tensor w;
    enum dtype source;
    enum quantize_rule rule;
    int64_t group_size;
    bool half; /* scales or zero points in fp16 */
    double *sums;
};

struct cuda_answers {
    union cuda_answer *device, *host; /* [N_SLOTS], the host's pinned */
    int n;
    struct asker asker[N_SLOTS];
    struct err late;
};

static int clear(struct cuda_state *s, int n, struct err *e)
{
    CUDA_TRY(cudaMemsetAsync(s->answers->device, 0xFF, (size_t)n * sizeof(union cuda_answer),
                             s->stream));
    s->answers->n = 0;
    return 0;
}

int cuda_answers_open(struct cuda_state *s, struct err *e)
{
    const size_t n_bytes = N_SLOTS * sizeof(union cuda_answer);

    s->answers = (struct cuda_answers *)calloc(1, sizeof *s->answers);
    if (!s->answers)
        return err_set(e, ERR_MEMORY, "the host refused %zu bytes", sizeof *s->answers);
    CUDA_TRY(cudaMalloc((void **)&s->answers->device, n_bytes));
    CUDA_TRY(cudaMallocHost((void **)&s->answers->host, n_bytes));
    return clear(s, N_SLOTS, e);
}

void cuda_answers_close(struct cuda_state *s)
{
    if (s->answers) {
        cudaFree(s->answers->device);
        cudaFreeHost(s->answers->host);
    }
    free(s->answers);
    s->answers = NULL;
}

void cuda_fail_later(struct cuda_state *s, const struct err *e)
{
    if (!s->answers->late.code)
        s->answers->late = *e;
}

static int take_slot(struct cuda_state *s, const struct asker *asker, union cuda_answer **slot,
                     struct err *e)
{
    struct cuda_answers *all = s->answers;
    struct err refused = {};

    if (all->n == N_SLOTS && cuda_wait(s, &refused) < 0) {
        if (refused.code == ERR_DEVICE) {
            *e = refused;
            return -1;
        }
        cuda_fail_later(s, &refused);
    }
    *slot = &all->device[all->n];
    all->asker[all->n++] = *asker;
    return 0;
}

int cuda_answer_quantized(struct cuda_state *s, const struct quantize_args *a,
                          const struct weight *w, union cuda_answer **slot, struct err *e)
{
    const struct asker asker = { .quantized = a->out,
                                 .w = *a->w,
                                 .source = a->source,
                                 .rule = a->rule,
                                 .group_size = w->group_size,
                                 .half = w->scale_form == SCALE_F16 || w->zero_form == ZERO_F16,
                                 .sums = NULL };

    return take_slot(s, &asker, slot, e);
}

int cuda_answer_sums(struct cuda_state *s, double out[2], union cuda_answer **slot, struct err *e)
{
    struct asker asker = {};

    asker.sums = out;
    return take_slot(s, &asker, slot, e);
}

void cuda_answer_withdraw(struct cuda_state *s)
{
    s->answers->n--;
}

/* ---- the wait ---- */

/* The cold path: which element of the refused group is it? */
static int refuse(struct cuda_state *s, const struct asker *a, int64_t first, struct err *e)
{
    const struct tensor *w = &a->w;
    const size_t n_bytes = dtype_bytes(w->dtype);
    const int64_t end = w->n_rows * w->n_cols;
    int64_t n = end - first < a->group_size ? end - first : a->group_size;
    char *group = (char *)malloc((size_t)n * n_bytes);

    if (!group)
        return err_set(e, ERR_MEMORY, "the host refused %zu bytes", (size_t)n * n_bytes);
    err_set(e, ERR_INPUT, "the range of the weights of row %lld is too wide for %s",
            (long long)(first / w->n_cols), a->half ? "fp16" : "fp32");
    cudaError_t rc = cudaMemcpyAsync(group, (const char *)w->data + (size_t)first * n_bytes,
                                     (size_t)n * n_bytes, cudaMemcpyDeviceToHost, s->stream);
    if (rc == cudaSuccess)
        rc = cudaStreamSynchronize(s->stream);
    if (rc != cudaSuccess)
        err_set(e, cuda_err_code(rc), "reading a refused weight: %s", cudaGetErrorString(rc));
    for (int64_t i = 0; rc == cudaSuccess && i < n; i++) {
        float x, seen;

        dtype_to_f32(w->dtype, group + (size_t)i * n_bytes, &x, 1);
        if (dtype_is_16bit(a->source))
            dtype_round(a->source, &x, 1);
        seen = x;
        if (a->rule == QUANTIZE_INT8_ROW)
            dtype_round(DTYPE_F16, &seen, 1);
        if (fabsf(seen) <= quantize_most(a->rule))
            continue;
        err_set(e, ERR_INPUT, "weight [%lld, %lld] is %g, %s", (long long)((first + i) / w->n_cols),
                (long long)((first + i) % w->n_cols), (double)x,
                isfinite(x) ? "beyond the largest fp16 number, 65504"
                            : "only finite weights can be quantized");
        break;
    }
    free(group);
    return -1;
}

/* All askers get what is theirs, then the first refusal is told. */
static int hand_out(struct cuda_state *s, int n, struct err *e)
{
    struct cuda_answers *all = s->answers;
    int refused = -1;

    for (int i = 0; i < n; i++) {
        const struct asker *a = &all->asker[i];
        const union cuda_answer *answer = &all->host[i];

        if (!a->quantized) {
            memcpy(a->sums, answer->sums, sizeof answer->sums);
            continue;
        }
        if (a->quantized->scale_form == SCALE_NESTED || a->quantized->scale_form == SCALE_E4M3)
            a->quantized->nested_offset = answer->quantized.offset;
        if (answer->quantized.refused_from != ~0ull && refused < 0)
            refused = i;
    }
    if (refused < 0)
        return 0;
    return refuse(s, &all->asker[refused], (int64_t)all->host[refused].quantized.refused_from, e);
}

/* What failed may be any kernel since the last wait; the last one is a hint. */
int cuda_wait(struct cuda_state *s, struct err *e)
{
    struct cuda_answers *all = s->answers;
    cudaError_t rc = cudaSuccess;

    cuda_quantize_start(s);
    const int n = all->n;
    if (n)
        rc = cudaMemcpyAsync(all->host, all->device, (size_t)n * sizeof *all->host,
                             cudaMemcpyDeviceToHost, s->stream);
    if (rc == cudaSuccess)
        rc = cudaStreamSynchronize(s->stream);
    if (rc != cudaSuccess) {
        all->n = 0;
        return err_set(e, cuda_err_code(rc),
                       "the GPU stopped: %s (last kernel started: %s; CUDA_LAUNCH_BLOCKING=1 names "
                       "the one that failed)",
                       cudaGetErrorString(rc), s->last_kernel ? s->last_kernel : "none");
    }
    if (n && clear(s, n, e) < 0)
        return -1;
    int told = n ? hand_out(s, n, e) : 0;
    if (all->late.code) {
        *e = all->late;
        err_clear(&all->late);
        told = -1;
    }
    return told < 0 ? told : cuda_group_check(s, e);
}
