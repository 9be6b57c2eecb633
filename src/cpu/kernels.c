/* kernels.c - which of the compiled inner loops this processor runs. */
#include "cpu/kernels.h"

#include <stdlib.h>
#include <string.h>

static bool runs_here(const struct cpu_kernels *k)
{
#if defined(__x86_64__)
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                __builtin_cpu_supports("f16c");

    if (k == &cpu_kernels_avx2)
        return avx2;
    if (k == &cpu_kernels_avx512)
        return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
               __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
#endif
    return k == &cpu_kernels_generic;
}

const struct cpu_kernels *cpu_kernels_choose(struct err *e)
{
    static const struct cpu_kernels *const all[] = { /* widest first */
#if defined(__x86_64__)
                                                     &cpu_kernels_avx512,
                                                     &cpu_kernels_avx2,
#endif
                                                     &cpu_kernels_generic
    };
    const char *wanted = getenv("LLQ_CPU_ISA");

    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        if ((!wanted || !*wanted || !strcmp(wanted, all[i]->name)) && runs_here(all[i]))
            return all[i];
    err_set(e, ERR_USAGE, "LLQ_CPU_ISA=%s: this processor or build does not have it", wanted);
    return NULL;
}
