/* backend_cpu.c - the table of the CPU backend, and its memory, which is the host's.
 *
 * Calls finish before they return, so sync() has nothing to wait for.  */
#include "cpu/cpu.h"

#include "base/memory.h"

#include <omp.h>
#include <stdlib.h>
#include <string.h>

/* Below this size the free memory is not asked for: reading /proc costs 20 microseconds. */
#define ASK_FROM_BYTES ((size_t)16 << 20)

static int cpu_open(struct backend *b, int device, struct err *e)
{
    const struct cpu_kernels *kernels = cpu_kernels_choose(e);
    struct cpu_state *s;

    (void)device;
    if (!kernels)
        return -1;
    b->state = s = mem_alloc(sizeof *s);
    s->kernels = kernels;
    return 0;
}

static void cpu_close(struct backend *b)
{
    free(b->state);
    b->state = NULL;
}

static int cpu_facts(struct backend *b, struct device_facts *out, struct err *e)
{
    (void)b, (void)e;
    cpu_host_facts(out);
    out->n_threads = omp_get_max_threads();
    return 0;
}

/* Linux grants more than it has and kills later; a sweep wants to hear "does not fit" now. */
static int cpu_alloc(struct backend *b, size_t n_bytes, void **out, struct err *e)
{
    struct device_facts facts = { 0 };
    size_t room = (n_bytes + 64) / 64 * 64;

    (void)b;
    *out = NULL;
    if (n_bytes >= ASK_FROM_BYTES) {
        cpu_host_facts(&facts);
        if (n_bytes > SIZE_MAX / 2 || (int64_t)n_bytes > facts.free_bytes)
            return err_set(e, ERR_MEMORY,
                           "does not fit: %zu bytes asked for, %lld free on the host", n_bytes,
                           (long long)facts.free_bytes);
    }
    *out = aligned_alloc(64, room);
    if (!*out)
        return err_set(e, ERR_MEMORY, "does not fit: the host refused %zu bytes", n_bytes);
    return 0;
}

void *cpu_scratch(size_t n_bytes, struct err *e)
{
    void *p = aligned_alloc(64, (n_bytes + 64) / 64 * 64);

    if (!p)
        err_set(e, ERR_MEMORY, "does not fit: the host refused %zu bytes of scratch", n_bytes);
    return p;
}

static void cpu_free(struct backend *b, void *p)
{
    (void)b;
    free(p);
}

static int copy(struct backend *b, void *to, const void *from, size_t n_bytes, struct err *e)
{
    (void)b, (void)e;
    if (n_bytes)
        memcpy(to, from, n_bytes);
    return 0;
}

static int cpu_sync(struct backend *b, struct err *e)
{
    (void)b, (void)e;
    return 0;
}

const struct backend_ops backend_cpu = {
    .name = "cpu",
    .open = cpu_open,
    .close = cpu_close,
    .facts = cpu_facts,
    .alloc = cpu_alloc,
    .free = cpu_free,
    .upload = copy,
    .download = copy,
    .sync = cpu_sync,
    .copy = copy,
    .embed = cpu_embed,
    .embed_packed = cpu_embed_packed,
    .norm = cpu_norm,
    .linear = cpu_linear,
    .rope = cpu_rope,
    .attention = cpu_attention,
    .add = cpu_add,
    .swiglu = cpu_swiglu,
    .gather = cpu_gather,
    .argmax = cpu_argmax,
    .nll = cpu_nll,
    .divergence = cpu_divergence,
    .convert = cpu_convert,
    .quantize = cpu_quantize,
    .dequantize = cpu_dequantize,
    .gram = cpu_gram,
    .gptq_columns = cpu_gptq_columns,
    .awq = &cpu_awq,
    .group = &cpu_group,
};
