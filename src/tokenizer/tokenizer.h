/* tokenizer.h - text to ids and back, by a model's tokenizer.json (Hugging Face tokenizers).
 *
 * Byte-level BPE (GPT-2, Llama-3, Qwen2) and byte-fallback BPE (Llama-2, Mistral, TinyLlama):
 * normalizers, Split patterns, added tokens, post-processors, decoders, clean-up.  A component
 * it does not know is refused, never skipped.  A loaded tokenizer is constant: any number of
 * threads may use it.  */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tokenizer;

/* Loads folder/tokenizer.json and, if present, folder/tokenizer_config.json. */
int tokenizer_open(struct tokenizer **out, const char *folder, struct err *e);
/* A tokenizer.json (a .gz is not read here) and, where not NULL, a tokenizer_config.json. */
int tokenizer_open_files(struct tokenizer **out, const char *tokenizer_json,
                         const char *tokenizer_config_json, struct err *e);
/* From memory; config may be NULL. */
int tokenizer_open_text(struct tokenizer **out, const char *json, size_t json_bytes,
                        const char *config, size_t config_bytes, struct err *e);
void tokenizer_close(struct tokenizer *t);

struct token_ids {
    int32_t *ids; /* malloc'ed */
    size_t n, room;
};
#define TOKEN_IDS_INIT \
    {                  \
        0              \
    }
void token_ids_release(struct token_ids *ids);

/* text: UTF-8 (a bad byte is an error naming its offset).  add_special: the post-processor's
 * tokens (BOS) too.  Appends to *out. */
int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n_bytes, bool add_special,
                     struct token_ids *out, struct err *e);

/* ids -> text through the decoder chain.  clean_up: apply clean_up_tokenization_spaces as
 * tokenizer_config.json says (false: never).  *out is malloc'ed, 0-terminated. */
int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n_ids, bool skip_special,
                     bool clean_up, char **out, size_t *n_bytes, struct err *e);

/* True when line ends in what ids decode to stay as they are, whatever ids follow a last one of
 * last_id.  False inside a run of byte tokens (ByteFallback turns it to U+FFFD as a whole), and
 * always for decoders whose effect cannot be told. */
bool tokenizer_settles(const struct tokenizer *t, int32_t last_id);

int32_t tokenizer_bos_id(const struct tokenizer *t); /* -1: none */
int32_t tokenizer_eos_id(const struct tokenizer *t);
const char *tokenizer_bos_text(const struct tokenizer *t); /* NULL: none */
const char *tokenizer_eos_text(const struct tokenizer *t);
bool tokenizer_adds_bos(const struct tokenizer *t);  /* an encode with specials starts with BOS */
bool tokenizer_cleans_up(const struct tokenizer *t); /* clean_up_tokenization_spaces */
int32_t tokenizer_id_of(const struct tokenizer *t, const char *token); /* -1: unknown */
size_t tokenizer_size(const struct tokenizer *t);                      /* 1 + largest id */
