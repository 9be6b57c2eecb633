/* ceiling.cuh - what memory gives, for benchmarks to print beside their own figures. */
#pragma once

#if defined(__CUDACC__)
#include "common.cuh"
#else
#include "backend/backend.h"
#endif

struct cuda_state; /* a backend's `state` */

#if defined(__cplusplus)
extern "C" {
#endif
/* The stream, for programs that capture or time launches. */
void *cuda_stream_of(struct cuda_state *s);
/* Reads n_bytes (a multiple of 16, 16-aligned) once; `to` receives 4 bytes if all are 0xFF. */
int cuda_read_memory(struct cuda_state *s, const void *from, size_t n_bytes, void *to,
                     struct err *e);
#if defined(__cplusplus)
}
#endif
