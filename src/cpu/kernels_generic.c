/* kernels_generic.c - the inner loops for any processor: 4 lanes, fused multiply-add in software
 * where the target has none. */
#define LANES        4
#define TILE_ROWS    4
#define TILE_VECTORS 2
#define KERNELS      cpu_kernels_generic
#define KERNELS_NAME "generic"

#include "cpu/kernels_body.h"
