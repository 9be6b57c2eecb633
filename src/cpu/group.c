/* group.c - processes on one host that work on one job together: parts of a matrix are brought to
 * all of them through memory that they share. */
#include "backend/group.h"
#include "backend/meeting.h"
#include "cpu/cpu.h"

#include <assert.h>
#include <string.h>

#define ROOM_BYTES GROUP_CPU_ROOM

static struct meeting *meeting_of(const struct backend *b)
{
    return ((const struct cpu_state *)b->state)->meeting;
}

static int group_join(struct backend *b, const struct group_seat *seat, struct err *e)
{
    struct cpu_state *s = b->state;

    if (meeting_open(&s->meeting, seat, ROOM_BYTES, e) < 0)
        return -1;
    backend_adopt(b, MEM_SCRATCH, s->meeting, 2 * ROOM_BYTES);
    return 0;
}

static void group_leave(struct backend *b)
{
    struct cpu_state *s = b->state;

    backend_disown(b, s->meeting);
    meeting_close(s->meeting);
    s->meeting = NULL;
}

/* n_rows rows of n bytes, each that many apart. */
static void copy_block(char *to, size_t to_apart, const char *from, size_t from_apart, size_t n,
                       size_t n_rows)
{
    for (size_t row = 0; row < n_rows; row++)
        memcpy(to + row * to_apart, from + row * from_apart, n);
}

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* In blocks that fit the rooms: whole rows, or pieces of one. */
static int group_collect(struct backend *b, const struct collect_args *a, struct err *e)
{
    struct meeting *m = meeting_of(b);
    const size_t element = dtype_bytes(a->part->dtype), n_members = (size_t)meeting_size(m);
    const size_t part_row = (size_t)a->part->n_cols * element, row = part_row * n_members;
    const size_t width = least(part_row, ROOM_BYTES), height = ROOM_BYTES / width;

    assert(a->out->dtype == a->part->dtype && a->out->n_cols == a->part->n_cols * (int)n_members);
    for (size_t first = 0; first < (size_t)a->n_rows; first += height)
        for (size_t at = 0; at < part_row; at += width) {
            const size_t n = least(width, part_row - at);
            const size_t n_rows = least(height, (size_t)a->n_rows - first);

            copy_block(meeting_own(m), n, (const char *)a->part->data + first * part_row + at,
                       part_row, n, n_rows);
            if (meeting_round(m, e) < 0)
                return -1;
            for (size_t i = 0; i < n_members; i++)
                copy_block((char *)a->out->data + first * row + i * part_row + at, row,
                           meeting_room(m, (int)i), n, n, n_rows);
        }
    return 0;
}

static int group_tell(struct backend *b, int64_t mine, int64_t *all, struct err *e)
{
    return meeting_tell(meeting_of(b), mine, all, e);
}

static void group_give_up(struct backend *b, const struct err *why)
{
    if (meeting_of(b))
        meeting_give_up(meeting_of(b), why);
}

const struct group_ops cpu_group = {
    .join = group_join,
    .leave = group_leave,
    .collect = group_collect,
    .tell = group_tell,
    .give_up = group_give_up,
};
