/* group.cuh - inner to cuda/: what decode.cu and the state ask of a group (group.cu). */
#pragma once

#include "common.cuh"
#include "step_share.cuh"

/* backend.h's collect(), on the stream; may be captured where the members reach each other. */
int cuda_collect(struct cuda_state *s, const struct collect_args *a, struct err *e);
bool cuda_group_reaches(const struct cuda_state *s);
int cuda_group_index(const struct cuda_state *s);
/* Its rooms for lines, where its members reach each other. */
struct step_share cuda_group_share(const struct cuda_state *s, size_t *room_bytes);
/* Of the group that is joined: with another number addresses are others. */
int cuda_group_number(const struct cuda_state *s);
