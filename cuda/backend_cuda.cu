/* backend_cuda.cu - the table of the CUDA backend: opening a device, copies.
 *
 * Nothing here runs before open(): a build with CUDA starts, dry-runs and reports on a machine
 * that has neither driver nor device.  */
#include "answers.cuh"
#include "awq.cuh"

#include <stdio.h>
#include <stdlib.h>

#define TEXT(macro)  TEXT_(macro)
#define TEXT_(value) #value

#define CAPABILITY_MIN 8 /* bf16 arithmetic and asynchronous copies to shared memory */

/* Why there is no device to open; not ERR_DEVICE, for nothing was lost. */
static int no_device(cudaError_t rc, struct err *e)
{
    cudaGetLastError(); /* else the next call would report it again */
    if (rc == cudaErrorInsufficientDriver)
        return err_set(e, ERR_USAGE, "no NVIDIA driver, or one older than this program's CUDA %d",
                       CUDART_VERSION / 1000);
    if (rc == cudaErrorNoDevice || rc == cudaSuccess)
        return err_set(e, ERR_USAGE, "no CUDA device on this machine");
    return err_set(e, ERR_USAGE, "no CUDA device answers: %s", cudaGetErrorString(rc));
}

thread_local int cuda_current_device = -1;

/* Asked for its attributes, it tells whether there is code for a device. */
static __global__ void any_kernel()
{
}

static int check_code(const struct cudaDeviceProp *facts, int device, struct err *e)
{
    struct cudaFuncAttributes ignored;
    cudaError_t rc = cudaFuncGetAttributes(&ignored, any_kernel);

    if (rc != cudaErrorNoKernelImageForDevice && rc != cudaErrorInvalidDeviceFunction)
        return cuda_check(rc, "looking for code", e);
    cudaGetLastError();
    return err_set(e, ERR_USAGE,
                   "CUDA device %d, %s, has compute capability %d.%d: this program was compiled "
                   "for " LLQ_CUDA_ARCH " (make CUDA_ARCH=...)",
                   device, facts->name, facts->major, facts->minor);
}

/* The first calls that take memory of the device. */
static int begin(struct cuda_state *s, const struct cudaDeviceProp *facts, struct err *e)
{
    CUDA_TRY(cudaSetDevice(s->device));
    cuda_current_device = s->device;
    CUDA_TRY(cudaStreamCreateWithFlags(&s->stream, cudaStreamNonBlocking));
    if (check_code(facts, s->device, e) < 0 || cuda_memory_open(s, e) < 0 ||
        cuda_answers_open(s, e) < 0 || cuda_queue_open(s, e) < 0)
        return -1;
    CUDA_TRY(cudaMalloc((void **)&s->dynamic_map, sizeof weight_dynamic_map));
    CUDA_TRY(cudaMemcpyAsync(s->dynamic_map, weight_dynamic_map, sizeof weight_dynamic_map,
                             cudaMemcpyHostToDevice, s->stream));
    CUDA_TRY(cudaStreamSynchronize(s->stream));
    return cuda_linear_decode_open(s, e);
}

static int open_state(struct cuda_state *s, int device, struct err *e)
{
    struct cudaDeviceProp facts;
    int n = 0;

    cudaError_t rc = cudaGetDeviceCount(&n);
    if (rc != cudaSuccess || n == 0)
        return no_device(rc, e);
    if (device < 0 || device >= n)
        return err_set(e, ERR_USAGE, "there is no CUDA device %d: %d answer%s", device, n,
                       n == 1 ? "s" : "");
    CUDA_TRY(cudaGetDeviceProperties(&facts, device));
    if (facts.major < CAPABILITY_MIN)
        return err_set(e, ERR_USAGE,
                       "CUDA device %d, %s, has compute capability %d.%d: %d.0 is needed", device,
                       facts.name, facts.major, facts.minor, CAPABILITY_MIN);
    s->device = device;
    s->n_multiprocessors = facts.multiProcessorCount;
    cuda_name_device(s, &facts);
    s->staging = cuda_staging_open();
    if (!s->staging)
        return err_set(e, ERR_MEMORY, "the host has no memory left");
    if (begin(s, &facts, e) == 0)
        return 0;
    return e->code == ERR_MEMORY ? cuda_say_who_fills(s, e) : -1;
}

static int n_devices(void)
{
    int n = 0;

    if (cudaGetDeviceCount(&n) != cudaSuccess)
        n = 0;
    cudaGetLastError();
    return n;
}

/* Also of a state that is half open. */
static void release_state(struct cuda_state *s)
{
    if (s->stream) {
        cudaStreamSynchronize(s->stream);
        cuda_decode_close(s);
        cuda_trim(s->backend);
    }
    cuda_group_leave(s);
    cuda_members_close(s);
    for (int i = 0; i < MARKS_MAX; i++)
        if (s->marks[i])
            cudaEventDestroy(s->marks[i]);
    cuda_staging_close(s->staging);
    cuda_monitor_close(s->monitor);
    cuda_queue_close(s);
    cuda_answers_close(s);
    cudaFree(s->dynamic_map);
    cuda_memory_close(s);
    if (s->stream)
        cudaStreamDestroy(s->stream);
    cudaGetLastError();
    free(s);
}

static int cuda_open(struct backend *b, int device, struct err *e)
{
    struct cuda_state *s = (struct cuda_state *)calloc(1, sizeof *s);

    if (!s)
        return err_set(e, ERR_MEMORY, "the host refused %zu bytes", sizeof *s);
    s->backend = b;
    b->state = s;
    if (open_state(s, device, e) < 0) {
        release_state(s);
        b->state = NULL;
        return -1;
    }
    return 0;
}

static void cuda_close(struct backend *b)
{
    release_state(cuda_state_of(b));
    b->state = NULL;
}

/* From pageable memory the call returns once everything is in the driver's own buffer, so `from`
 * may change; pinned memory goes through cuda_send(). */
static int cuda_upload(struct backend *b, void *to, const void *from, size_t n_bytes, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);

    if (n_bytes)
        CUDA_TRY(cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyHostToDevice, s->stream));
    return 0;
}

static int cuda_download(struct backend *b, void *to, const void *from, size_t n_bytes,
                         struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);

    if (n_bytes)
        CUDA_TRY(cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyDeviceToHost, s->stream));
    return cuda_wait(s, e);
}

static int cuda_copy(struct backend *b, void *to, const void *from, size_t n_bytes, struct err *e)
{
    struct cuda_state *s = cuda_state_of(b);

    if (n_bytes)
        CUDA_TRY(cudaMemcpyAsync(to, from, n_bytes, cudaMemcpyDeviceToDevice, s->stream));
    return 0;
}

static int cuda_sync(struct backend *b, struct err *e)
{
    return cuda_wait(cuda_state_here(b), e);
}

extern "C" {
extern const struct backend_ops backend_cuda;
const struct backend_ops backend_cuda = {
    .name = "cuda",
    .built = TEXT(__CUDACC_VER_MAJOR__) "." TEXT(__CUDACC_VER_MINOR__) " for " LLQ_CUDA_ARCH,
    .open = cuda_open,
    .close = cuda_close,
    .facts = cuda_facts,
    .alloc = cuda_alloc,
    .free = cuda_free,
    .upload = cuda_upload,
    .download = cuda_download,
    .sync = cuda_sync,
    .copy = cuda_copy,
    .embed = cuda_embed,
    .norm = cuda_norm,
    .linear = cuda_linear,
    .rope = cuda_rope,
    .attention = cuda_attention,
    .add = cuda_add,
    .swiglu = cuda_swiglu,
    .gather = cuda_gather,
    .argmax = cuda_argmax,
    .nll = cuda_nll,
    .divergence = cuda_divergence,
    .convert = cuda_convert,
    .quantize = cuda_quantize,
    .dequantize = cuda_dequantize,
    .linear_many = cuda_linear_many,
    .linear_add = cuda_linear_add,
    .linear_swiglu = cuda_linear_swiglu,
    .linear_nll = cuda_linear_nll,
    .arrange = cuda_arrange,
    .compare = cuda_compare,
    .decode = cuda_decode,
    .trim = cuda_trim,
    .embed_packed = cuda_embed_packed,
    .n_devices = n_devices,
    .health = cuda_health,
    .energy = cuda_energy,
    .mark = cuda_mark,
    .elapsed = cuda_elapsed,
    .n_others = cuda_n_others,
    .stage = cuda_stage,
    .send = cuda_send,
    .share = &cuda_share,
    .quantizes = NULL, /* all */
    .gram = cuda_gram,
    .gptq_columns = cuda_gptq_columns,
    .awq = &cuda_awq,
    .group = &cuda_group_ops,
};
}
