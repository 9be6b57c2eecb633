/* frame.c - see frame.h. */
#include "sched/frame.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

static int send_all(int fd, const void *bytes, size_t n_bytes, struct err *e)
{
    for (size_t done = 0; done < n_bytes;) {
        ssize_t n = send(fd, (const char *)bytes + done, n_bytes - done, MSG_NOSIGNAL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(e, ERR_IO, "engine socket: %s", strerror(errno));
        done += (size_t)n;
    }
    return 0;
}

int frame_send(int fd, enum frame_kind kind, int64_t id, const void *bytes, size_t n_bytes,
               struct err *e)
{
    struct frame_header h = { FRAME_MAGIC, kind, id, n_bytes };

    if (send_all(fd, &h, sizeof h, e) < 0)
        return -1;
    return send_all(fd, bytes, n_bytes, e);
}

/* Reads until partial holds n bytes. */
static int fill(int fd, bool wait, struct bytes *partial, size_t n, enum frame_got *got,
                struct err *e)
{
    char chunk[65536];

    while (partial->n < n) {
        size_t want = n - partial->n < sizeof chunk ? n - partial->n : sizeof chunk;
        ssize_t r = recv(fd, chunk, want, wait ? 0 : MSG_DONTWAIT);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) {
            *got = FRAME_GOT_NOTHING;
            return 0;
        }
        /* A peer that was killed resets the connection: the end, like an orderly close. */
        if (r == 0 || (r < 0 && errno == ECONNRESET)) {
            *got = FRAME_GOT_END;
            return 0;
        }
        if (r < 0)
            return err_set(e, ERR_IO, "engine socket: %s", strerror(errno));
        bytes_add(partial, chunk, (size_t)r);
    }
    *got = FRAME_GOT_ONE;
    return 0;
}

int frame_receive(int fd, bool wait, struct bytes *partial, struct frame_header *header,
                  struct bytes *body, enum frame_got *got, struct err *e)
{
    if (fill(fd, wait, partial, sizeof *header, got, e) < 0)
        return -1;
    if (*got != FRAME_GOT_ONE)
        return 0;
    memcpy(header, partial->data, sizeof *header);
    if (header->magic != FRAME_MAGIC || header->n_bytes > FRAME_BYTES_MAX)
        return err_set(e, ERR_IO, "engine socket: bytes that are no message");
    if (fill(fd, wait, partial, sizeof *header + header->n_bytes, got, e) < 0)
        return -1;
    if (*got != FRAME_GOT_ONE)
        return 0;
    bytes_release(body);
    bytes_add(body, partial->data + sizeof *header, header->n_bytes);
    bytes_release(partial);
    return 0;
}
