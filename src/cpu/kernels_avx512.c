/* kernels_avx512.c - the inner loops for x86-64 with AVX-512: 16 lanes, 14 x 32 tiles (28 of 32
 * registers accumulate). */
#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")
#define LANES        16
#define TILE_ROWS    14
#define TILE_VECTORS 2
#define KERNELS      cpu_kernels_avx512
#define KERNELS_NAME "avx512"

#include "cpu/kernels_body.h"
#else
typedef int no_avx512_here;
#endif
