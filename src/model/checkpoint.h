/* checkpoint.h - which files make up a model: a folder, or an id in the offline Hugging Face
 * cache. */
#pragma once

#include "base/err.h"
#include "model/safetensors.h"

#include <stdbool.h>

/* Resolves `path` (an existing folder, else a hub id such as "meta-llama/Llama-3.2-1B") to a
 * folder.  revision NULL or "": "main".  commit receives the 40-hex commit of a cached id, "" for
 * a folder.  The message of a failure lists what is cached and names sweeps/README.md.
 * *folder is malloc'ed. */
int checkpoint_find(const char *path, const char *revision, char **folder, char commit[64],
                    struct err *e);

/* SHA-256 over the names and contents of the files that decide results: config.json, weights
 * (LFS blobs of the cache are named by their SHA-256, which is taken without reading them),
 * tokenizer.json, tokenizer_config.json, generation_config.json; out has 65 bytes. */
int checkpoint_sha256(const char *folder, char *out, struct err *e);

/* Sizes and times of the same files: where they are as they were, the contents are not read again
 * to find that they are. */
int checkpoint_stamp(const char *folder, struct bytes *out, struct err *e);
/* ERR_INPUT where the files are others than those of stamp and SHA-256.  After reading them. */
int checkpoint_check(const char *folder, const char *stamp, const char *sha256, struct err *e);

/* The weights of a folder: model.safetensors, else the shards that model.safetensors.index.json
 * maps tensors to.  Lifetime: while its owner reads. */
struct checkpoint {
    int n_files;
    struct safetensors *file; /* [n_files] */
    size_t n;
    struct checkpoint_tensor {
        const char *name;
        const struct safetensors *file;
        const struct safetensors_tensor *tensor;
    } * tensor; /* [n], by name */
};

#define CHECKPOINT_INIT \
    {                   \
        0               \
    }

/* Refuses file names with folders in them, absent shards, and tensors that are not in the file
 * they are mapped to. */
int checkpoint_open(struct checkpoint *c, const char *folder, struct err *e);
void checkpoint_close(struct checkpoint *c); /* also after a failed open, also twice */
const struct checkpoint_tensor *checkpoint_tensor(const struct checkpoint *c, const char *name);
