/* gemm_wish.cuh - for tests and benchmarks of cuda/ alone: tiles other than those that the
 * product's size asks for.  The bits of a product do not depend on them. */
#pragma once

struct gemm_wish {
    int kernel;   /* -1: as the product asks for */
    int cm, cn;   /* tiles of a cluster, down and across; 0: likewise */
    int together; /* tiles of one column that go side by side; 0: likewise */
    int plain;    /* 1: codes are made plain first */
};

#define GEMM_NO_WISH   \
    {                  \
        -1, 0, 0, 0, 0 \
    }

#ifdef __cplusplus
extern "C" {
#endif
extern struct gemm_wish gemm_wish;
extern int gram_wish; /* 1: x^T x as on devices before Hopper */
#ifdef __cplusplus
}
#endif
