/* file.h - whole files, exact reads, durable writes. */
#pragma once

#include "base/err.h"
#include "base/memory.h"

#include <stdbool.h>
#include <stdint.h>

/* The whole file appended to *out. */
int file_read(const char *path, struct bytes *out, struct err *e);

/* Exactly n bytes from offset; a short file is ERR_INPUT naming offset and size. */
int file_pread(int fd, void *to, size_t n_bytes, int64_t offset, struct err *e);

/* All n bytes, retrying short writes and EINTR. */
int file_write_all(int fd, const void *bytes, size_t n_bytes, struct err *e);

/* Temp file in the same folder, fsync, rename, fsync of the folder: after a crash the path
 * holds the old content or the new one, never a part. */
int file_replace(const char *path, const void *bytes, size_t n_bytes, struct err *e);
int file_rename_durable(const char *from, const char *to, struct err *e);
/* fsync of the folder that holds path: a new name is durable only then. */
int file_sync_folder(const char *path, struct err *e);

bool file_exists(const char *path);                     /* of any type */
bool file_is_folder(const char *path);                  /* links followed */
int64_t file_size(const char *path);                    /* -1: cannot be read */
int file_make_folders(const char *path, struct err *e); /* like mkdir -p */

/* malloc'ed.  join("a/b", "c") is "a/b/c"; an absolute name stays as it is. */
char *file_join(const char *folder, const char *name);
char *file_folder(const char *path);   /* "a/b.toml" -> "a", "b.toml" -> "." */
char *file_absolute(const char *path); /* realpath where it exists, else cwd + path */
