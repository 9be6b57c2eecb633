/* stages.h - the inside of a tokenizer: the stages a text passes through, in order.
 *
 *   added.c        text -> added tokens and what lies between them
 *   normalize.c    rewrites a piece (Unicode normal forms, prefixes, replacements)
 *   pretokenize.c  cuts a piece into words
 *   bpe.c          word -> ids
 *   template.c     puts BOS and its like around the ids
 *   decode.c       ids -> text
 *
 * Each stage reads its own part of tokenizer.json (..._read: NULL or null is "none") and refuses
 * what it does not know, by name.  Stages are constant once read; what a call needs lives in the
 * call.  Rules: those of Hugging Face tokenizers 0.23.  */
#pragma once

#include "base/err.h"
#include "base/js.h"
#include "base/memory.h"
#include "tokenizer/tokenizer.h"
#include "tokenizer/unicode.h"

#define TOKEN_ID_LIMIT     (1 << 24) /* ids from here on are refused: tables are indexed by id */
#define TEXT_BYTES_MAX     ((size_t)1 << 30)
#define SEQUENCE_DEPTH_MAX 16 /* of Sequence inside Sequence */

/* {"type": "Name", ...} -> "Name"; `what` ("normalizer") is for the message. */
int component_type(const struct js *j, const char *what, const char **type, struct err *e);
int component_unknown(const char *what, const char *type, struct err *e);

/* ---- regex.c, shadow.c: the file's own patterns, through PCRE2 ---- */

/* Where PCRE2's Unicode tables disagree with ours, and what to show it instead. */
struct shadow;
struct shadow *shadow_new(void); /* NULL when PCRE2 fails to compile its class patterns */
void shadow_free(struct shadow *s);
/* A text of the same length, in which PCRE2 sees our classes; NULL: the text will do as it is. */
char *shadow_text(const struct shadow *s, const char *text, size_t n_bytes);

struct pattern; /* compiled */
/* From {"String": s} or {"Regex": s}.  shadow is borrowed. */
int pattern_read(struct pattern **out, const struct js *j, const struct shadow *shadow,
                 struct err *e);
int pattern_of_regex(struct pattern **out, const char *regex, size_t n_bytes,
                     const struct shadow *shadow, struct err *e);
void pattern_free(struct pattern *p);
bool pattern_is_plain_line(const struct pattern *p); /* a plain string without line end */

struct cut { /* a match, or what lies between two */
    size_t from, to;
    bool match;
};
struct cuts {
    struct cut *at;
    size_t n, room;
};
void cuts_add(struct cuts *c, size_t from, size_t to, bool match);
void cuts_release(struct cuts *c);

/* Runs a pattern over pieces of one text. */
struct matcher {
    const struct pattern *pattern;
    const char *text;
    char *shadow;                     /* NULL: the text itself */
    void *data, *context, *jit_stack; /* PCRE2's */
};
int matcher_open(struct matcher *m, const struct pattern *p, const char *text, size_t n_bytes,
                 struct err *e);
void matcher_close(struct matcher *m);
/* Appends the cuts of text[from .. to), which cover it without holes. */
int matcher_cut(struct matcher *m, size_t from, size_t to, struct cuts *out, struct err *e);

/* Every match of p in the text replaced by content; appends to *out. */
int pattern_replace(const struct pattern *p, const char *text, size_t n_bytes, const char *content,
                    size_t content_bytes, struct bytes *out, struct err *e);

/* ---- normalize.c ---- */

struct normalizer;
struct normalizers {
    struct normalizer *at;
    size_t n;
};
int normalizers_read(struct normalizers *out, const struct js *j, const struct shadow *shadow,
                     struct err *e);
void normalizers_release(struct normalizers *n);
/* Replaces *text by its normalised form. */
int normalizers_run(const struct normalizers *n, struct bytes *text, struct err *e);

/* ---- pretokenize.c ---- */

struct span {
    size_t from, to;
};
struct pieces { /* of one text; empty ones are never kept */
    struct bytes text;
    struct span *at;
    size_t n, room;
    bool at_start; /* piece 0 begins where the whole text begins */
};
void pieces_add(struct pieces *p, size_t from, size_t to);
void pieces_release(struct pieces *p);

enum prepend_scheme { PREPEND_ALWAYS, PREPEND_FIRST, PREPEND_NEVER };
/* The members that Metaspace has as pre-tokenizer and as decoder. */
struct metaspace {
    char replacement[4];
    size_t replacement_bytes;
    enum prepend_scheme scheme;
    bool split;
};
int metaspace_read(struct metaspace *out, const struct js *j, struct err *e);

struct pretokenizer;
struct pretokenizers {
    struct pretokenizer *at;
    size_t n;
};
int pretokenizers_read(struct pretokenizers *out, const struct js *j, const struct shadow *shadow,
                       struct err *e);
void pretokenizers_release(struct pretokenizers *p);
int pretokenizers_run(const struct pretokenizers *p, struct pieces *pieces, struct err *e);

/* Byte-level alphabet (GPT-2): the code point that stands for a byte, and back (-1: none). */
uint32_t byte_level_char(unsigned char byte);
int byte_level_byte(uint32_t c);
void byte_level_add(struct bytes *out, const char *text, size_t n_bytes);

/* ---- bpe.c ---- */

struct bpe;
int bpe_read(struct bpe **out, const struct js *model, struct err *e);
void bpe_free(struct bpe *b);
int32_t bpe_id(const struct bpe *b, const char *token, size_t n_bytes);  /* -1 */
const char *bpe_token(const struct bpe *b, int32_t id, size_t *n_bytes); /* NULL */
size_t bpe_size(const struct bpe *b);                                    /* 1 + id */

/* Working memory of one encode call: merge heap, and words already seen. */
struct bpe_work;
struct bpe_work *bpe_work_new(void);
void bpe_work_free(struct bpe_work *w);
void bpe_encode(const struct bpe *b, struct bpe_work *w, const char *word, size_t n_bytes,
                struct token_ids *out);

void token_ids_add(struct token_ids *ids, const int32_t *more, size_t n);

/* ---- added.c ---- */

struct added_token {
    char *content;
    size_t content_bytes;
    /* What decoding gives: the content, normalised where it is matched in normalised text (as
     * tokenizers 0.23 does).  skipped: when special tokens are. */
    struct bytes text;
    bool skipped;
    int32_t id;
    bool single_word, lstrip, rstrip, normalized, special;
};
struct trie_node;
struct trie {
    struct trie_node *nodes;
    size_t n, room;
    int32_t first[256]; /* node of each first byte, or -1 */
};
struct added {
    struct added_token *tokens; /* in file order */
    size_t n;
    int32_t *by_id; /* [n_ids] index into tokens, or -1 */
    size_t n_ids;
    struct trie raw, normalized;
};
int added_read(struct added *out, const struct js *list, const struct bpe *bpe,
               const struct normalizers *normalizers, struct err *e);
void added_release(struct added *a);
const struct added_token *added_find_id(const struct added *a, int32_t id);
const struct added_token *added_find(const struct added *a, const char *content, size_t n_bytes);

struct added_cut {
    size_t from, to;
    int32_t id; /* -1: text between added tokens */
};
struct added_cuts {
    struct added_cut *at;
    size_t n, room;
};
/* Appends; an empty text gives nothing. */
void added_cut(const struct added *a, const struct trie *t, const char *text, size_t n_bytes,
               struct added_cuts *out);

/* ---- template.c ---- */

struct template_piece {
    bool is_text; /* the ids of the text itself, not special ones */
    int32_t *ids;
    size_t n;
};
struct template_form {
    struct template_piece *pieces;
    size_t n;
};
struct templates { /* applied one after the other */
    struct template_form *at;
    size_t n;
};
int templates_read(struct templates *out, const struct js *j, struct err *e);
/* BOS? text EOS? instead of what the file says; -1: without. */
void templates_override(struct templates *t, int32_t bos, int32_t eos);
void templates_release(struct templates *t);
void templates_run(const struct templates *t, struct token_ids *ids);
/* The id every encode with specials starts with, or -1. */
int32_t templates_first_id(const struct templates *t);

/* ---- decode.c ---- */

struct decoder;
struct decoders {
    struct decoder *at;
    size_t n;
};
int decoders_read(struct decoders *out, const struct js *j, const struct shadow *shadow,
                  struct err *e);
void decoders_release(struct decoders *d);
/* tokens: one piece each (empty ones count); *out receives the joined text. */
int decoders_run(const struct decoders *d, struct pieces *tokens, struct bytes *out, struct err *e);
void decode_clean_up(struct bytes *text);
/* See tokenizer_settles(); token: the text of the last one, NULL when it is left out. */
bool decoders_settle(const struct decoders *d, const char *token, size_t n_bytes);
