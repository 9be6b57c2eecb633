/* common.cuh - inner to cuda/: the entries of the CUDA table and what they share.
 *
 * src/cpu/ defines every operation, and everything here but the matrix products in 16 bits, the
 * approximate quotients of bitsandbytes and the order of two sums in double (nll, the mean of
 * scales) gives its bits: same chains, same rounding points, the same exponential.  That needs
 * -fmad=false (the Makefile sets it): a fused multiply-add stands where fmaf() is written and
 * nowhere else.  No order of a sum depends on the batch.
 *
 * Calls queue up on one stream.  */
#pragma once

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

extern "C" {
#include "backend/backend.h"
#include "backend/codebook.h"
#include "backend/quantized.h"
}

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

/* Memory that a call needs for itself, kept for the next call and counted as MEM_SCRATCH.  A slot
 * is used by one stage of a call at a time; the stream orders the calls. */
enum cuda_scratch_slot {
    SCRATCH_X,
    SCRATCH_W,
    SCRATCH_CODES,
    SCRATCH_ROWS,
    SCRATCH_COLUMNS,
    SCRATCH_SCALES,
    SCRATCH_DECODE,
    SCRATCH_LOGITS,
    SCRATCH_N_SLOTS
};

struct cuda_scratch {
    void *p;
    size_t n_bytes;
};

struct cuda_state {
    struct backend *backend;
    int device, n_multiprocessors;
    int cluster_max;                    /* blocks of a cluster; 1: none; 0: not asked yet */
    char name[128], id[64], driver[32]; /* as in struct device_facts */
    cudaStream_t stream;
    const char *last_kernel; /* for the text of an error that shows up later */
    float *dynamic_map;      /* weight_dynamic_map on the device */
    struct cuda_pool *pool;  /* memory.cu */
    struct cuda_scratch scratch[SCRATCH_N_SLOTS];
    bool scratch_grows;
    cudaEvent_t marks[MARKS_MAX]; /* NULL: not used yet */
    struct cuda_staging *staging; /* staging.cu */
    struct cuda_monitor *monitor; /* device_facts.cu; NULL: not asked yet */
    struct cuda_group *group;     /* share_weights.cu; NULL: none is joined */
    struct cuda_members *members; /* group.cu; NULL: no group was joined yet */
    uint64_t n_taken; /* counts changes of `scratch`: what was launched with another count may hold
                         addresses that are no longer ours */
    struct decode_graphs *graphs; /* decode.cu's own */
    bool overlaps;                /* launches may begin before the one before has ended (sm_90) */
    struct {
        const void *kernel;
        int n_in_cluster, n_blocks; /* that run at the same time */
    } gemm_rooms[64];
    struct cuda_answers *answers; /* answers.cuh */
    struct cuda_queue *queue;     /* quantizations not started yet: n_queued of them */
    int n_queued;
    struct nest_table *nest_table; /* on the device */
};

/* Starts the quantizations that were asked for and wait to be started together. */
void cuda_quantize_start(struct cuda_state *s);

/* Device that cuda_state_here() made the thread's current one; -1: none yet. */
extern thread_local int cuda_current_device;

/* The state, with its device made the calling thread's current one: for calls that start nothing.
 */
static inline struct cuda_state *cuda_state_here(const struct backend *b)
{
    struct cuda_state *s = (struct cuda_state *)b->state;

    if (cuda_current_device != s->device && cudaSetDevice(s->device) == cudaSuccess)
        cuda_current_device = s->device;
    return s;
}

/* The same for all other calls: what was asked for before is in the stream. */
static inline struct cuda_state *cuda_state_of(const struct backend *b)
{
    struct cuda_state *s = cuda_state_here(b);

    if (s->n_queued)
        cuda_quantize_start(s);
    return s;
}

/* Everything but "out of memory" leaves the context unusable until the process ends. */
static inline enum err_code cuda_err_code(cudaError_t rc)
{
    return rc == cudaErrorMemoryAllocation ? ERR_MEMORY : ERR_DEVICE;
}

static inline int cuda_check(cudaError_t rc, const char *what, struct err *e)
{
    return rc == cudaSuccess
               ? 0
               : err_set(e, cuda_err_code(rc), "%s: %s", what, cudaGetErrorString(rc));
}

#define CUDA_TRY(call)                                                                       \
    do {                                                                                     \
        cudaError_t rc_ = (call);                                                            \
        if (rc_ != cudaSuccess)                                                              \
            return err_set(e, cuda_err_code(rc_), "%s: %s", #call, cudaGetErrorString(rc_)); \
    } while (0)

/* Right after a launch: what it refused, under the kernel's name. */
#define CUDA_LAUNCHED(s, kernel)                                           \
    do {                                                                   \
        cudaError_t rc_ = cudaGetLastError();                              \
        (s)->last_kernel = kernel;                                         \
        if (rc_ != cudaSuccess)                                            \
            return err_set(e, cuda_err_code(rc_), "kernel %s: %s", kernel, \
                           cudaGetErrorString(rc_));                       \
    } while (0)

extern "C" {
int cuda_embed(struct backend *b, const struct embed_args *a, struct err *e);
int cuda_norm(struct backend *b, const struct norm_args *a, struct err *e);
int cuda_linear(struct backend *b, const struct linear_args *a, struct err *e);
int cuda_linear_many(struct backend *b, const struct linear_args *a, int n, struct err *e);
int cuda_linear_add(struct backend *b, const struct linear_args *a, struct tensor *x,
                    struct err *e);
int cuda_linear_swiglu(struct backend *b, const struct linear_args *gate,
                       const struct linear_args *up, struct tensor *out, struct err *e);
int cuda_linear_nll(struct backend *b, const struct linear_args *a, const int32_t *targets,
                    float *out, struct err *e);
int cuda_rope(struct backend *b, const struct rope_args *a, struct err *e);
int cuda_attention(struct backend *b, const struct attention_args *a, struct err *e);
int cuda_add(struct backend *b, const struct add_args *a, struct err *e);
int cuda_swiglu(struct backend *b, const struct swiglu_args *a, struct err *e);
int cuda_gather(struct backend *b, const struct gather_args *a, struct err *e);
int cuda_argmax(struct backend *b, const struct argmax_args *a, struct err *e);
int cuda_nll(struct backend *b, const struct nll_args *a, struct err *e);
int cuda_divergence(struct backend *b, const struct divergence_args *a, struct err *e);
int cuda_convert(struct backend *b, const struct convert_args *a, struct err *e);
int cuda_quantize(struct backend *b, const struct quantize_args *a, struct err *e);
int cuda_dequantize(struct backend *b, const struct dequantize_args *a, struct err *e);
int cuda_arrange(struct backend *b, struct weight *w, struct err *e);
int cuda_embed_packed(struct backend *b, const struct embed_packed_args *a, struct err *e);
int cuda_facts(struct backend *b, struct device_facts *out, struct err *e);
int cuda_health(struct backend *b, struct device_health *out, struct err *e);
int cuda_energy(struct backend *b, double *joule, struct err *e);
int cuda_n_others(struct backend *b, int *out, struct err *e);
int cuda_mark(struct backend *b, int i, struct err *e);
int cuda_elapsed(struct backend *b, int from, int to, double *seconds, struct err *e);
int cuda_stage(struct backend *b, void **out, struct err *e);
int cuda_send(struct backend *b, void *to, void *staged, size_t n_bytes, struct err *e);
extern const struct share_ops cuda_share;
extern const struct group_ops cuda_group_ops;
int cuda_decode(struct backend *b, struct decode_args *a, struct err *e);
int cuda_compare(struct backend *b, const struct compare_args *a, struct err *e);
int cuda_gram(struct backend *b, const struct gram_args *a, struct err *e);
int cuda_gptq_columns(struct backend *b, const struct gptq_args *a, struct err *e);
int cuda_alloc(struct backend *b, size_t n_bytes, void **out, struct err *e);
void cuda_free(struct backend *b, void *p);
void cuda_trim(struct backend *b);
}

struct cuda_staging *cuda_staging_open(void);    /* NULL: no memory */
void cuda_staging_close(struct cuda_staging *g); /* NULL is fine */
/* name, id and driver of the state. */
void cuda_name_device(struct cuda_state *s, const struct cudaDeviceProp *facts);
/* Adds to an "out of memory" what is free and how many others use it, without a context; -1. */
int cuda_say_who_fills(struct cuda_state *s, struct err *e);
void cuda_monitor_close(struct cuda_monitor *m); /* NULL is fine */
void cuda_group_leave(struct cuda_state *s);     /* without one, too */
void cuda_decode_close(struct cuda_state *s);    /* without graphs, too */

int cuda_memory_open(struct cuda_state *s, struct err *e);
void cuda_memory_close(struct cuda_state *s);
/* Free is also what lies free in the pool. */
int cuda_memory_facts(struct cuda_state *s, size_t *n_free, size_t *n_all, struct err *e);

int cuda_queue_open(struct cuda_state *s, struct err *e);
void cuda_queue_close(struct cuda_state *s);

/* Where a group is joined: -1 once a member gave up. */
int cuda_group_check(struct cuda_state *s, struct err *e);
void cuda_members_close(struct cuda_state *s);

/* Waits for everything; fills in the answers of calls and tells the first refusal. */
int cuda_wait(struct cuda_state *s, struct err *e);

/* At least n_bytes in the slot, 256-aligned, contents undefined; ERR_MEMORY when refused. */
int cuda_scratch(struct cuda_state *s, enum cuda_scratch_slot slot, size_t n_bytes, void **out,
                 struct err *e);

/* Rows first_row .. first_row + n_rows - 1 of w, rounded once to t: out [n_rows, ld]; columns
 * n_in .. ld-1 become 0. */
int cuda_weight_rows(struct cuda_state *s, const struct weight *w, int64_t first_row,
                     int64_t n_rows, enum dtype t, void *out, int64_t ld, struct err *e);

/* x [n_rows, n_cols] of type from -> out [n_rows, ld] of type to, the rest of a row 0. */
int cuda_copy_rows(struct cuda_state *s, const void *x, enum dtype from, int64_t n_rows,
                   int64_t n_cols, void *out, enum dtype to, int64_t ld, struct err *e);

/* Sets s->overlaps. */
int cuda_linear_decode_open(struct cuda_state *s, struct err *e);

/* The WEIGHT_INT8 case of cuda_linear(); of several products of one x, whose codes are made once.
 */
int cuda_linear_int8(struct backend *b, const struct linear_args *a, struct err *e);
bool cuda_int8_together(const struct linear_args *a, int n);
int cuda_linear_int8_many(struct backend *b, const struct linear_args *a, int n, struct err *e);

static inline int64_t ceil_div(int64_t a, int64_t b)
{
    return (a + b - 1) / b;
}

/* Blocks for n elements that a grid-stride loop goes through. */
static inline unsigned blocks_for(const struct cuda_state *s, int64_t n, int n_threads)
{
    int64_t n_blocks = ceil_div(n, n_threads), most = 32 * (int64_t)s->n_multiprocessors;

    return (unsigned)(n_blocks < most ? n_blocks : most);
}

/* ---- on the device ---- */

#define GRID_STRIDE(i, n)                                                     \
    for (int64_t i = (int64_t)blockIdx.x * blockDim.x + threadIdx.x; i < (n); \
         i += (int64_t)gridDim.x * blockDim.x)

__device__ inline float load_value(enum dtype t, const void *p, int64_t i)
{
    if (t == DTYPE_F16)
        return __half2float(((const __half *)p)[i]);
    if (t == DTYPE_BF16)
        return __bfloat162float(((const __nv_bfloat16 *)p)[i]);
    return ((const float *)p)[i];
}

__device__ inline void store_value(enum dtype t, void *p, int64_t i, float x)
{
    if (t == DTYPE_F16)
        ((__half *)p)[i] = __float2half_rn(x);
    else if (t == DTYPE_BF16)
        ((__nv_bfloat16 *)p)[i] = __float2bfloat16_rn(x);
    else
        ((float *)p)[i] = x;
}

__device__ inline float round_value(enum dtype t, float x)
{
    if (t == DTYPE_F16)
        return __half2float(__float2half_rn(x));
    if (t == DTYPE_BF16)
        return __bfloat162float(__float2bfloat16_rn(x));
    return x;
}

/* e^x as src/cpu/vector.h computes it, step for step. */
__device__ inline float exp_value(float x)
{
    const float shift = 0x1.8p23f;

    x = x < -105.0f ? -105.0f : x;
    x = x > 89.0f ? 89.0f : x;
    float shifted = x * 0x1.715476p0f + shift;
    float n = shifted - shift;
    float r = (x - n * 0x1.62e4p-1f) - n * 0x1.7f7d1cp-20f;
    float p = 0x1.9745c4p-13f;
    p = p * r + 0x1.6d3dd8p-10f;
    p = p * r + 0x1.1116a6p-7f;
    p = p * r + 0x1.5554e6p-5f;
    p = p * r + 0x1.555552p-3f;
    p = p * r + 0.5f;
    p = 1.0f + (r + (r * r) * p);
    int exponent = __float_as_int(shifted) - __float_as_int(shift), half = exponent >> 1;
    float low = __int_as_float((half + 127) << 23);
    float high = __int_as_float((exponent - half + 127) << 23);
    return p * low * high;
}
