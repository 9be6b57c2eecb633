/* tokenizer.c - see tokenizer.h: opening a tokenizer, and the pipeline through its stages. */
#include "tokenizer/stages.h"

#include "base/file.h"

#include <stdlib.h>
#include <string.h>

struct tokenizer {
    struct shadow *shadow;
    struct normalizers normalizers;
    struct pretokenizers pretokenizers;
    struct bpe *bpe;
    struct added added;
    struct templates templates;
    struct decoders decoders;
    char *bos_text, *eos_text; /* NULL: none */
    int32_t bos_id, eos_id;
    bool adds_bos, cleans_up;
};

/* ---- opening ---- */

/* "bos_token": a string, or an object with "content"; NULL: absent or not a known token. */
static int config_token(const struct tokenizer *t, const struct js *config, const char *name,
                        char **text, int32_t *id, struct err *e)
{
    const struct js *j = js_get(config, name);
    const char *content;

    if (js_kind(j) == JS_NULL)
        return 0;
    if (js_kind(j) == JS_OBJECT) {
        if (js_want_text(j, "content", &content, e) < 0)
            return err_in(e, "%s", name);
    } else if (js_want_text(config, name, &content, e) < 0) {
        return -1;
    }
    *id = tokenizer_id_of(t, content);
    if (*id >= 0)
        *text = mem_text(content);
    return 0;
}

/* add_bos_token and add_eos_token, where written out, replace the post-processor (transformers 5
 * rebuilds it from them). */
static int config_template(struct tokenizer *t, const struct js *config, struct err *e)
{
    bool add_bos, add_eos;

    if (js_bool_or(config, "add_bos_token", false, &add_bos, e) < 0 ||
        js_bool_or(config, "add_eos_token", false, &add_eos, e) < 0)
        return -1;
    if (js_kind(js_get(config, "add_bos_token")) == JS_NULL &&
        js_kind(js_get(config, "add_eos_token")) == JS_NULL)
        return 0;
    if ((add_bos && t->bos_id < 0) || (add_eos && t->eos_id < 0))
        return err_set(e, ERR_INPUT, "add_%s_token is true, but there is no such token",
                       add_bos && t->bos_id < 0 ? "bos" : "eos");
    templates_override(&t->templates, add_bos ? t->bos_id : -1, add_eos ? t->eos_id : -1);
    return 0;
}

static int config_read_into(struct tokenizer *t, const struct js *config, struct err *e)
{
    if (config && js_kind(config) != JS_OBJECT)
        return err_set(e, ERR_INPUT, "should be an object");
    if (js_bool_or(config, "clean_up_tokenization_spaces", false, &t->cleans_up, e) < 0 ||
        config_token(t, config, "bos_token", &t->bos_text, &t->bos_id, e) < 0 ||
        config_token(t, config, "eos_token", &t->eos_text, &t->eos_id, e) < 0 ||
        config_template(t, config, e) < 0)
        return -1;
    int32_t first = templates_first_id(&t->templates);
    if (t->bos_id < 0 && first >= 0) { /* not named: what stands first is it */
        const struct added_token *token = added_find_id(&t->added, first);
        t->bos_id = first;
        t->bos_text = token ? mem_textn(token->content, token->content_bytes) : NULL;
    }
    t->adds_bos = first >= 0 && first == t->bos_id;
    return 0;
}

static int read_into(struct tokenizer *t, const struct js *j, struct err *e)
{
    const char *version;

    if (js_kind(j) != JS_OBJECT)
        return err_set(e, ERR_INPUT, "should be an object");
    if (js_text_or(j, "version", "1.0", &version, e) < 0)
        return -1;
    if (strcmp(version, "1.0") != 0)
        return err_set(e, ERR_INPUT, "version \"%.16s\" (known: \"1.0\")", version);
    t->shadow = shadow_new();
    if (normalizers_read(&t->normalizers, js_get(j, "normalizer"), t->shadow, e) < 0 ||
        pretokenizers_read(&t->pretokenizers, js_get(j, "pre_tokenizer"), t->shadow, e) < 0 ||
        bpe_read(&t->bpe, js_get(j, "model"), e) < 0 ||
        added_read(&t->added, js_get(j, "added_tokens"), t->bpe, &t->normalizers, e) < 0 ||
        templates_read(&t->templates, js_get(j, "post_processor"), e) < 0 ||
        decoders_read(&t->decoders, js_get(j, "decoder"), t->shadow, e) < 0)
        return -1;
    return 0;
}

int tokenizer_open_text(struct tokenizer **out, const char *json, size_t json_bytes,
                        const char *config, size_t config_bytes, struct err *e)
{
    struct tokenizer *t = mem_alloc(sizeof *t);
    struct js *j = NULL, *c = NULL;
    int rc = -1;

    *out = NULL;
    t->bos_id = t->eos_id = -1;
    j = js_parse(json, json_bytes, e);
    if (!j || read_into(t, j, e) < 0) {
        err_in(e, "tokenizer.json");
        goto out;
    }
    if (config && !(c = js_parse(config, config_bytes, e))) {
        err_in(e, "tokenizer_config.json");
        goto out;
    }
    if (config_read_into(t, c, e) < 0) {
        err_in(e, "tokenizer_config.json");
        goto out;
    }
    *out = t;
    t = NULL;
    rc = 0;
out:
    js_release(j);
    js_release(c);
    tokenizer_close(t);
    return rc;
}

int tokenizer_open_files(struct tokenizer **out, const char *tokenizer_json,
                         const char *tokenizer_config_json, struct err *e)
{
    struct bytes json = BYTES_INIT, config = BYTES_INIT;
    int rc = -1;

    *out = NULL;
    if (file_read(tokenizer_json, &json, e) < 0)
        return -1;
    if (!tokenizer_config_json || file_read(tokenizer_config_json, &config, e) == 0) {
        rc = tokenizer_open_text(out, json.data ? json.data : "", json.n,
                                 tokenizer_config_json ? (config.data ? config.data : "") : NULL,
                                 config.n, e);
        if (rc < 0) /* the text already says which of the two */
            err_in(e, "%s", tokenizer_json);
    }
    bytes_release(&json);
    bytes_release(&config);
    return rc;
}

int tokenizer_open(struct tokenizer **out, const char *folder, struct err *e)
{
    char *json = file_join(folder, "tokenizer.json");
    char *config = file_join(folder, "tokenizer_config.json");
    int rc = tokenizer_open_files(out, json, file_exists(config) ? config : NULL, e);

    free(json);
    free(config);
    return rc;
}

void tokenizer_close(struct tokenizer *t)
{
    if (!t)
        return;
    normalizers_release(&t->normalizers);
    pretokenizers_release(&t->pretokenizers);
    bpe_free(t->bpe);
    added_release(&t->added);
    templates_release(&t->templates);
    decoders_release(&t->decoders);
    shadow_free(t->shadow);
    free(t->bos_text);
    free(t->eos_text);
    free(t);
}

void token_ids_release(struct token_ids *ids)
{
    free(ids->ids);
    *ids = (struct token_ids)TOKEN_IDS_INIT;
}

/* ---- encoding ---- */

/* A stretch of normalised text without added tokens -> words -> ids. */
static int encode_words(const struct tokenizer *t, struct bpe_work *work, const char *text,
                        size_t n_bytes, bool at_start, struct token_ids *out, struct err *e)
{
    struct pieces p = { .at_start = at_start };

    bytes_add(&p.text, text, n_bytes);
    pieces_add(&p, 0, n_bytes);
    int rc = pretokenizers_run(&t->pretokenizers, &p, e);
    for (size_t i = 0; i < p.n && rc == 0; i++)
        bpe_encode(t->bpe, work, p.text.data + p.at[i].from, p.at[i].to - p.at[i].from, out);
    pieces_release(&p);
    return rc;
}

/* A stretch of raw text: normalised, then cut at the added tokens of normalised text. */
static int encode_piece(const struct tokenizer *t, struct bpe_work *work, const char *text,
                        size_t n_bytes, bool at_start, struct token_ids *out, struct err *e)
{
    struct bytes normal = BYTES_INIT;
    struct added_cuts cuts = { 0 };

    bytes_add(&normal, text, n_bytes);
    int rc = normalizers_run(&t->normalizers, &normal, e);
    if (rc == 0 && normal.n > 0)
        added_cut(&t->added, &t->added.normalized, normal.data, normal.n, &cuts);
    for (size_t i = 0; i < cuts.n && rc == 0; i++) {
        const struct added_cut *c = &cuts.at[i];
        if (c->id >= 0)
            token_ids_add(out, &c->id, 1);
        else
            rc = encode_words(t, work, normal.data + c->from, c->to - c->from,
                              at_start && c->from == 0, out, e);
    }
    free(cuts.at);
    bytes_release(&normal);
    return rc;
}

int tokenizer_encode(const struct tokenizer *t, const char *text, size_t n_bytes, bool add_special,
                     struct token_ids *out, struct err *e)
{
    struct token_ids ids = TOKEN_IDS_INIT;
    struct added_cuts cuts = { 0 };
    size_t bad = utf8_bad_at(text, n_bytes);
    int rc = 0;

    if (bad < n_bytes)
        return err_set(e, ERR_INPUT, "text is not UTF-8 at byte %zu (0x%02X)", bad,
                       (unsigned char)text[bad]);
    if (n_bytes > TEXT_BYTES_MAX)
        return err_set(e, ERR_INPUT, "a text of %zu bytes (at most %zu)", n_bytes, TEXT_BYTES_MAX);
    struct bpe_work *work = bpe_work_new();
    added_cut(&t->added, &t->added.raw, text, n_bytes, &cuts);
    for (size_t i = 0; i < cuts.n && rc == 0; i++) {
        const struct added_cut *c = &cuts.at[i];
        if (c->id >= 0)
            token_ids_add(&ids, &c->id, 1);
        else
            rc = encode_piece(t, work, text + c->from, c->to - c->from, c->from == 0, &ids, e);
    }
    if (rc == 0 && add_special)
        templates_run(&t->templates, &ids);
    if (rc == 0)
        token_ids_add(out, ids.ids, ids.n);
    free(cuts.at);
    bpe_work_free(work);
    token_ids_release(&ids);
    return rc;
}

/* ---- decoding ---- */

int tokenizer_decode(const struct tokenizer *t, const int32_t *ids, size_t n_ids, bool skip_special,
                     bool clean_up, char **out, size_t *n_bytes, struct err *e)
{
    struct pieces tokens = { 0 };
    struct bytes text = BYTES_INIT;

    tokens.at = mem_array(n_ids, sizeof *tokens.at);
    tokens.room = n_ids;
    for (size_t i = 0; i < n_ids; i++) {
        const struct added_token *added = added_find_id(&t->added, ids[i]);
        size_t n = added ? added->text.n : 0;
        const char *s = added ? added->text.data : bpe_token(t->bpe, ids[i], &n);
        if (!s || (added && added->skipped && skip_special))
            continue;
        size_t from = tokens.text.n;
        bytes_add(&tokens.text, s, n);
        tokens.at[tokens.n++] = (struct span){ from, tokens.text.n };
    }
    int rc = decoders_run(&t->decoders, &tokens, &text, e);
    pieces_release(&tokens);
    if (rc < 0) {
        bytes_release(&text);
        return -1;
    }
    if (clean_up && t->cleans_up)
        decode_clean_up(&text);
    *out = text.data;
    if (n_bytes)
        *n_bytes = text.n;
    return 0;
}

bool tokenizer_settles(const struct tokenizer *t, int32_t last_id)
{
    const struct added_token *added = added_find_id(&t->added, last_id);
    size_t n = added ? added->text.n : 0;
    const char *s = added ? added->text.data : bpe_token(t->bpe, last_id, &n);

    if (added && added->skipped) /* may stand inside a run of byte tokens */
        s = NULL;
    return decoders_settle(&t->decoders, s, n);
}

/* ---- facts ---- */

int32_t tokenizer_bos_id(const struct tokenizer *t)
{
    return t->bos_id;
}

int32_t tokenizer_eos_id(const struct tokenizer *t)
{
    return t->eos_id;
}

const char *tokenizer_bos_text(const struct tokenizer *t)
{
    return t->bos_text;
}

const char *tokenizer_eos_text(const struct tokenizer *t)
{
    return t->eos_text;
}

bool tokenizer_adds_bos(const struct tokenizer *t)
{
    return t->adds_bos;
}

bool tokenizer_cleans_up(const struct tokenizer *t)
{
    return t->cleans_up;
}

int32_t tokenizer_id_of(const struct tokenizer *t, const char *token)
{
    const struct added_token *added = added_find(&t->added, token, strlen(token));

    return added ? added->id : bpe_id(t->bpe, token, strlen(token));
}

size_t tokenizer_size(const struct tokenizer *t)
{
    size_t added = t->added.n_ids, base = bpe_size(t->bpe);

    return added > base ? added : base;
}
