/* make_model.c - a checkpoint of random weights for any config.json:
 *
 *   make_model CONFIG OUT [--shards N]
 *
 * bf16, linears and embeddings normal(0, 0.02), norms normal(1, 0.1); config.json is copied.
 * Files are cut at 5 GB as Hugging Face does, or into N of about the same size (fewer where one
 * tensor is larger than that).  The same bytes from any number of
 * threads.  The speed of a model does not depend on its values. */
#include "base/clock.h"
#include "base/file.h"
#include "base/js.h"
#include "base/rng.h"
#include "model/safetensors.h"
#include "model/tensor_list.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SHARD_BYTES  5000000000LL
#define PIECE_VALUES ((int64_t)2 << 20)
#define N_DRAWS      65536

struct table {
    uint16_t weight[N_DRAWS], norm[N_DRAWS]; /* bf16 */
};

/* 65,536 normal draws; a weight is one of them, picked by 16 random bits. */
static void fill_table(struct table *t)
{
    const double turn = 6.283185307179586;

    for (int i = 0; i < N_DRAWS; i++) {
        double u = 1 - rng_real(0, RNG_WEIGHTS, (uint64_t)i * 2);
        double v = rng_real(0, RNG_WEIGHTS, (uint64_t)i * 2 + 1);
        double z = sqrt(-2 * log(u)) * cos(turn * v);
        t->weight[i] = dtype_f32_to_bf16((float)(0.02 * z));
        t->norm[i] = dtype_f32_to_bf16((float)(1 + 0.1 * z));
    }
}

static int write_at(int fd, const void *from, size_t n_bytes, int64_t offset, struct err *e)
{
    for (size_t done = 0; done < n_bytes;) {
        ssize_t n =
            pwrite(fd, (const char *)from + done, n_bytes - done, (off_t)(offset + (int64_t)done));
        if (n < 0 && errno != EINTR)
            return err_set(e, ERR_IO, "writing: %s", strerror(errno));
        done += n > 0 ? (size_t)n : 0;
    }
    return 0;
}

/* Values of one tensor, four for each random number of its own stream. */
static int write_tensor(int fd, const struct table *table, const struct safetensors_out *t,
                        uint64_t stream, struct err *e)
{
    const uint16_t *draws =
        t->n_dims == 1 && !strstr(t->name, ".bias") ? table->norm : table->weight;
    const int64_t n = t->n_bytes / 2;
    int failed = 0;

#pragma omp parallel reduction(| : failed)
    {
        uint16_t *piece = mem_array((size_t)PIECE_VALUES, sizeof *piece);
        struct err mine = ERR_INIT;
#pragma omp for schedule(dynamic)
        for (int64_t at = 0; at < n; at += PIECE_VALUES) {
            int64_t count = n - at < PIECE_VALUES ? n - at : PIECE_VALUES;
            for (int64_t i = 0; i < count; i += 4) {
                uint64_t bits = rng_u64(stream, RNG_WEIGHTS, (uint64_t)(at + i) / 4);
                for (int64_t k = 0; k < 4 && i + k < count; k++)
                    piece[i + k] = draws[bits >> 16 * k & 0xFFFF];
            }
            failed |= write_at(fd, piece, (size_t)count * 2, t->offset + at * 2, &mine) < 0;
        }
        free(piece);
    }
    return failed ? err_set(e, ERR_IO, "writing tensor %s", t->name) : 0;
}

static int write_shard(const char *folder, const char *name, const struct table *table,
                       const struct tensor_spec *list, size_t n, size_t first, struct err *e)
{
    struct safetensors_out *out = mem_array(n, sizeof *out);
    struct bytes head = BYTES_INIT;
    char *path = file_join(folder, name);
    int rc = -1;
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

    for (size_t i = 0; i < n; i++)
        out[i] = (struct safetensors_out){ .name = list[i].name,
                                           .dtype = DTYPE_BF16,
                                           .n_dims = list[i].n_dims,
                                           .shape = { list[i].shape[0], list[i].shape[1] } };
    safetensors_layout(out, n, &head);
    if (fd < 0) {
        err_set(e, ERR_IO, "%s: %s", path, strerror(errno));
        goto out;
    }
    if (write_at(fd, head.data, head.n, 0, e) < 0)
        goto out;
    for (size_t i = 0; i < n; i++)
        if (write_tensor(fd, table, &out[i], 1 + first + i, e) < 0)
            goto out;
    rc = 0;
out:
    if (fd >= 0)
        close(fd);
    bytes_release(&head);
    free(path);
    free(out);
    return rc;
}

static int64_t bytes_of(const struct tensor_spec *s)
{
    return 2 * s->shape[0] * (s->n_dims == 2 ? s->shape[1] : 1);
}

/* first[i] .. first[i + 1] - 1 are the tensors of shard i; n_shards 0: as many as 5 GB ask for. */
static int cut(const struct tensor_spec *list, size_t n, int n_shards, int64_t total, size_t *first)
{
    int shards = 0;
    int64_t before = 0, filled = 0; /* in all, in this shard */

    first[0] = 0;
    for (size_t i = 0; i < n; i++) {
        bool full = n_shards ? before >= (shards + 1) * (total / n_shards)
                             : filled + bytes_of(&list[i]) > SHARD_BYTES;
        if (filled > 0 && full) {
            first[++shards] = i;
            filled = 0;
        }
        filled += bytes_of(&list[i]);
        before += bytes_of(&list[i]);
    }
    first[++shards] = n;
    return shards;
}

static int write_index(const char *folder, struct js *map, int64_t total, struct err *e)
{
    struct js *index = js_new_object(), *metadata = js_new_object();
    char *path = file_join(folder, "model.safetensors.index.json");
    size_t n;

    js_set_int(metadata, "total_size", total);
    js_set(index, "metadata", metadata);
    js_set(index, "weight_map", map);
    char *text = js_write(index, &n);
    int rc = file_replace(path, text, n, e);
    free(text);
    free(path);
    js_release(index);
    return rc;
}

static int write_weights(const char *folder, const struct config *c, int n_shards, int64_t *total,
                         struct err *e)
{
    struct tensor_spec *list;
    size_t n = tensor_list(c, &list);
    size_t *first = mem_array(n + 1, sizeof *first);
    struct table *table = mem_alloc(sizeof *table);
    struct js *map = js_new_object();
    char name[64] = "model.safetensors";
    int rc = 0;

    fill_table(table);
    *total = 0;
    for (size_t i = 0; i < n; i++)
        *total += bytes_of(&list[i]);
    int shards = cut(list, n, n_shards, *total, first);
    for (int s = 0; rc == 0 && s < shards; s++) {
        if (shards > 1)
            snprintf(name, sizeof name, "model-%05d-of-%05d.safetensors", s + 1, shards);
        rc =
            write_shard(folder, name, table, list + first[s], first[s + 1] - first[s], first[s], e);
        for (size_t i = first[s]; i < first[s + 1]; i++)
            js_set_text(map, list[i].name, name);
    }
    if (rc == 0 && shards > 1)
        rc = write_index(folder, map, *total, e);
    else
        js_release(map);
    free(table);
    free(first);
    free(list);
    return rc;
}

static int copy_config(const char *from, const char *folder, struct err *e)
{
    struct bytes text = BYTES_INIT;
    char *to = file_join(folder, "config.json");
    int rc = file_read(from, &text, e);

    if (rc == 0)
        rc = file_replace(to, text.data, text.n, e);
    bytes_release(&text);
    free(to);
    return rc;
}

int main(int argc, char **argv)
{
    struct err e = ERR_INIT;
    struct config c;
    int64_t total;
    int shards = 0;
    double start = clock_seconds();

    if ((argc != 3 && argc != 5) ||
        (argc == 5 && (strcmp(argv[3], "--shards") != 0 || (shards = atoi(argv[4])) < 1))) {
        fprintf(stderr, "usage: make_model CONFIG OUT [--shards N]\n");
        return 2;
    }
    if (config_read_file(argv[1], &c, &e) < 0 || file_make_folders(argv[2], &e) < 0 ||
        copy_config(argv[1], argv[2], &e) < 0 ||
        write_weights(argv[2], &c, shards, &total, &e) < 0) {
        fprintf(stderr, "make_model: %s\n", e.text);
        return 1;
    }
    double seconds = clock_seconds() - start;
    printf("%s: %.3f GB of weights in %.1f s\n", argv[2], (double)total * 1e-9, seconds);
    return 0;
}
