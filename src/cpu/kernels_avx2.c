/* kernels_avx2.c - the inner loops for x86-64 with AVX2 and FMA: 8 lanes, 6 x 16 tiles (12 of 16
 * registers accumulate). */
#if defined(__x86_64__)
#pragma GCC target("avx2,fma,f16c")
#define LANES        8
#define TILE_ROWS    6
#define TILE_VECTORS 2
#define KERNELS      cpu_kernels_avx2
#define KERNELS_NAME "avx2"

#include "cpu/kernels_body.h"
#else
typedef int no_avx2_here;
#endif
