/* file.c - see file.h. */
#include "base/file.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int file_read(const char *path, struct bytes *out, struct err *e)
{
    int rc = -1;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;

    if (fd < 0)
        return err_set(e, ERR_INPUT, "%s: %s", path, strerror(errno));
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode)) {
        err_set(e, ERR_INPUT, "%s: is a folder", path);
        goto out;
    }
    /* Read until the end rather than st_size bytes: pipes and /proc have no size. */
    bytes_add(out, "", 0);
    for (;;) {
        size_t chunk = st.st_size > (off_t)out->n ? (size_t)st.st_size - out->n + 1 : 65536;
        if (out->room - out->n < chunk + 1) {
            out->room = out->n + chunk + 1;
            out->data = mem_grow(out->data, out->room, 1);
        }
        ssize_t n = read(fd, out->data + out->n, chunk);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0) {
            err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
            goto out;
        }
        if (n == 0)
            break;
        out->n += (size_t)n;
    }
    out->data[out->n] = 0;
    rc = 0;
out:
    close(fd);
    return rc;
}

int file_pread(int fd, void *to, size_t n_bytes, int64_t offset, struct err *e)
{
    size_t done = 0;

    while (done < n_bytes) {
        ssize_t n = pread(fd, (char *)to + done, n_bytes - done, (off_t)(offset + (int64_t)done));
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(e, ERR_IO, "reading %zu bytes at %lld: %s", n_bytes, (long long)offset,
                           strerror(errno));
        if (n == 0)
            return err_set(e, ERR_INPUT,
                           "the file ends at byte %lld, %zu bytes were expected at %lld",
                           (long long)(offset + (int64_t)done), n_bytes, (long long)offset);
        done += (size_t)n;
    }
    return 0;
}

int file_write_all(int fd, const void *bytes, size_t n_bytes, struct err *e)
{
    for (size_t done = 0; done < n_bytes;) {
        ssize_t n = write(fd, (const char *)bytes + done, n_bytes - done);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return err_set(e, ERR_IO, "writing %zu bytes: %s", n_bytes, strerror(errno));
        done += (size_t)n;
    }
    return 0;
}

int file_sync_folder(const char *path, struct err *e)
{
    char *folder = file_folder(path);
    int rc = -1;
    int fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    /* Some network file systems cannot sync a folder (EINVAL); they order renames themselves. */
    if (fd < 0 || (fsync(fd) < 0 && errno != EINVAL))
        err_set(e, ERR_IO, "%s: %s", folder, strerror(errno));
    else
        rc = 0;
    if (fd >= 0)
        close(fd);
    free(folder);
    return rc;
}

int file_rename_durable(const char *from, const char *to, struct err *e)
{
    if (rename(from, to) < 0)
        return err_set(e, ERR_IO, "%s: %s", to, strerror(errno));
    return file_sync_folder(to, e);
}

int file_replace(const char *path, const void *bytes, size_t n_bytes, struct err *e)
{
    char temp[PATH_MAX];
    int rc = -1;

    if (snprintf(temp, sizeof temp, "%s.tmp.%ld", path, (long)getpid()) >= (int)sizeof temp)
        return err_set(e, ERR_USAGE, "path of %zu characters", strlen(path));
    int fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return err_set(e, ERR_IO, "%s: %s", temp, strerror(errno));

    if (file_write_all(fd, bytes, n_bytes, e) < 0) {
        err_in(e, "%s", temp);
        goto out;
    }
    if (fsync(fd) < 0) {
        err_set(e, ERR_IO, "%s: %s", temp, strerror(errno));
        goto out;
    }
    if (file_rename_durable(temp, path, e) < 0)
        goto out;
    rc = 0;
out:
    close(fd);
    if (rc < 0)
        unlink(temp);
    return rc;
}

bool file_exists(const char *path)
{
    struct stat st;

    return lstat(path, &st) == 0;
}

bool file_is_folder(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 && S_ISDIR(st.st_mode);
}

int64_t file_size(const char *path)
{
    struct stat st;

    return stat(path, &st) == 0 ? (int64_t)st.st_size : -1;
}

int file_make_folders(const char *path, struct err *e)
{
    char *copy = mem_text(path);
    int rc = 0;

    for (char *p = copy + 1; rc == 0; p++) {
        if (*p != '/' && *p != 0)
            continue;
        char kept = *p;
        *p = 0;
        if (mkdir(copy, 0755) < 0 && errno != EEXIST)
            rc = err_set(e, ERR_IO, "%s: %s", copy, strerror(errno));
        *p = kept;
        if (kept == 0)
            break;
    }
    free(copy);
    return rc;
}

char *file_join(const char *folder, const char *name)
{
    struct bytes b = BYTES_INIT;

    if (name[0] != '/' && strcmp(folder, ".") != 0) {
        bytes_text(&b, folder);
        if (b.n && b.data[b.n - 1] != '/')
            bytes_text(&b, "/");
    }
    bytes_text(&b, name);
    return b.data;
}

char *file_folder(const char *path)
{
    const char *slash = strrchr(path, '/');

    if (!slash)
        return mem_text(".");
    return slash == path ? mem_text("/") : mem_textn(path, (size_t)(slash - path));
}

char *file_absolute(const char *path)
{
    char *real = realpath(path, NULL);
    char here[PATH_MAX];

    if (real)
        return real;
    if (path[0] == '/' || !getcwd(here, sizeof here))
        return mem_text(path);
    return file_join(here, path);
}
