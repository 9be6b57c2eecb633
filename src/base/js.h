/* js.h - JSON values: configuration read, jobs and records written.  The only room that
 * knows the JSON library (jansson) is js.c.
 *
 * A tree is owned by who made it (js_release); everything reached from it is borrowed.
 * Reading is strict: duplicate keys, bytes that are not UTF-8 and trailing text are refused,
 * integers beyond 64 bits become reals.  NaN and infinity are written as null and read back
 * as NaN.  Member order on output is insertion order.  */
#pragma once

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct js; /* opaque */

enum js_kind { JS_NULL, JS_BOOL, JS_INT, JS_REAL, JS_TEXT, JS_ARRAY, JS_OBJECT };

/* Reading.  On error NULL; the text says line and column. */
struct js *js_parse(const char *text, size_t n_bytes, struct err *e);
struct js *js_read(const char *path, struct err *e);
void js_release(struct js *j); /* NULL is fine */

enum js_kind js_kind(const struct js *j); /* NULL counts as JS_NULL */
const char *js_kind_name(enum js_kind kind);
size_t js_count(const struct js *j);                            /* elements or members, else 0 */
const struct js *js_at(const struct js *j, size_t i);           /* element i, or NULL */
const struct js *js_get(const struct js *j, const char *key);   /* member, or NULL */
const struct js *js_find(const struct js *j, const char *path); /* by dotted path, or NULL */

struct js_member {
    const char *key;
    size_t key_bytes;
    const struct js *value;
    void *position; /* inner */
};
#define JS_MEMBER_INIT \
    {                  \
        0              \
    }
/* while (js_next(object, &m)) ...: every member, in file order. */
bool js_next(const struct js *object, struct js_member *m);

/* Plain values of a node known to have that kind; a wrong kind gives 0, NaN, false, NULL. */
int64_t js_int(const struct js *j);
double js_real(const struct js *j); /* integers too; null is NaN */
bool js_bool(const struct js *j);
const char *js_text(const struct js *j);
size_t js_text_bytes(const struct js *j);

/* Typed members by dotted path ("rope_scaling.factor").  The _or forms give the standard
 * value when the member is absent or null, and still refuse a wrong type. */
int js_want_int(const struct js *j, const char *path, int64_t *out, struct err *e);
int js_want_real(const struct js *j, const char *path, double *out, struct err *e);
int js_want_bool(const struct js *j, const char *path, bool *out, struct err *e);
int js_want_text(const struct js *j, const char *path, const char **out, struct err *e);
int js_int_or(const struct js *j, const char *path, int64_t standard, int64_t *out, struct err *e);
int js_real_or(const struct js *j, const char *path, double standard, double *out, struct err *e);
int js_bool_or(const struct js *j, const char *path, bool standard, bool *out, struct err *e);
int js_text_or(const struct js *j, const char *path, const char *standard, const char **out,
               struct err *e);

/* Building.  js_set and js_append take ownership of value; keys and texts are copied.
 * A text that is not UTF-8 has each bad byte replaced by U+FFFD. */
struct js *js_new_object(void);
struct js *js_new_array(void);
struct js *js_new_int(int64_t value);
struct js *js_new_real(double value);
struct js *js_new_bool(bool value);
struct js *js_new_text(const char *value); /* NULL gives null */
struct js *js_new_textn(const char *value, size_t n_bytes);
struct js *js_copy(const struct js *j); /* deep */
void js_set(struct js *object, const char *key, struct js *value);
void js_append(struct js *array, struct js *value);
void js_set_int(struct js *object, const char *key, int64_t value);
void js_set_real(struct js *object, const char *key, double value);
void js_set_bool(struct js *object, const char *key, bool value);
void js_set_text(struct js *object, const char *key, const char *value);

/* Compact text on one line; reals with 17 digits, so they come back bit for bit.
 * malloc'ed, ends with a 0 byte that *n_bytes (may be NULL) does not count. */
char *js_write(const struct js *j, size_t *n_bytes);
