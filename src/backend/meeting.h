/* meeting.h - memory of a host that the members of a group share: they wait for each other there,
 * pass bytes on, and say when one of them gives up.
 *
 * Members make the same rounds in the same order.  In a round each writes its own room, then waits
 * until all have, then reads the others'.  Rooms alternate, so who is late still reads what it
 * came for: a member is at most one round ahead. */
#pragma once

#include "backend/backend.h"

struct meeting;

/* room_bytes: of each member, in a round. */
int meeting_open(struct meeting **m, const struct group_seat *seat, size_t room_bytes,
                 struct err *e);
void meeting_close(struct meeting *m); /* NULL is fine */
int meeting_member(const struct meeting *m);
int meeting_size(const struct meeting *m);

void *meeting_own(struct meeting *m); /* to be written before the next round */
/* Fails where a member has given up, by that one's words. */
int meeting_round(struct meeting *m, struct err *e);
const void *meeting_room(const struct meeting *m, int member); /* of the round that was made */

/* Numbers of all members, by a round. */
int meeting_tell(struct meeting *m, int64_t mine, int64_t *all, struct err *e);

void meeting_give_up(struct meeting *m, const struct err *why);
/* 0, or -1 with the words of the member that gave up. */
int meeting_check(struct meeting *m, struct err *e);
/* Not 0 once one did; for who cannot call. */
const volatile uint32_t *meeting_broken(struct meeting *m);
