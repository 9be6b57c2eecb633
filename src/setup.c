/* setup.c - see setup.h. */
#include "setup.h"

#include <stdio.h>
#include <string.h>

static const char magic[8] = { 'l', 'l', 'q', 's', 'e', 't', 'u', 'p' };

static void add_number(struct bytes *out, uint64_t n)
{
    unsigned char b[8];

    for (int i = 0; i < 8; i++)
        b[i] = (unsigned char)(n >> (8 * i));
    bytes_add(out, b, sizeof b);
}

void setup_begin(struct bytes *out)
{
    bytes_add(out, magic, sizeof magic);
}

void setup_add(struct bytes *out, const char *name, const void *bytes, size_t n_bytes)
{
    add_number(out, strlen(name));
    bytes_text(out, name);
    add_number(out, n_bytes);
    bytes_add(out, bytes, n_bytes);
}

/* A length and that many bytes at *at. */
static int take(const struct bytes *all, size_t *at, const char **bytes, size_t *n, struct err *e)
{
    uint64_t length = 0;

    if (all->n - *at < 8)
        return err_set(e, ERR_IO, "the setup ends inside a length");
    for (int i = 0; i < 8; i++)
        length |= (uint64_t)(unsigned char)all->data[*at + (size_t)i] << (8 * i);
    *at += 8;
    if (length > all->n - *at)
        return err_set(e, ERR_IO, "the setup ends inside a part");
    *bytes = all->data + *at;
    *n = length;
    *at += length;
    return 0;
}

static int take_part(struct setup *s, size_t *at, struct err *e)
{
    const char *name, *bytes;
    size_t n_name, n_bytes;

    if (take(&s->all, at, &name, &n_name, e) < 0 || take(&s->all, at, &bytes, &n_bytes, e) < 0)
        return -1;
    if (n_name == 8 && memcmp(name, "settings", 8) == 0) {
        js_release(s->settings);
        s->settings = js_parse(bytes, n_bytes, e);
        return s->settings ? 0 : err_in(e, "the setup");
    }
    struct setup_data *d = &s->data[s->n_data];
    if (s->n_data == SETUP_TASKS_MAX || n_name >= sizeof d->task)
        return err_set(e, ERR_IO, "the setup has a part too many or with too long a name");
    memcpy(d->task, name, n_name);
    d->bytes = bytes;
    d->n_bytes = n_bytes;
    s->n_data++;
    return 0;
}

int setup_open(struct setup *s, const void *bytes, size_t n_bytes, struct err *e)
{
    size_t at = sizeof magic;

    *s = (struct setup)SETUP_INIT;
    bytes_add(&s->all, bytes, n_bytes);
    if (n_bytes < sizeof magic || memcmp(bytes, magic, sizeof magic) != 0)
        return err_set(e, ERR_IO, "the setup does not start as one");
    while (at < n_bytes)
        if (take_part(s, &at, e) < 0)
            return -1;
    if (!s->settings)
        return err_set(e, ERR_IO, "the setup has no settings");
    return 0;
}

void setup_release(struct setup *s)
{
    bytes_release(&s->all);
    js_release(s->settings);
    *s = (struct setup)SETUP_INIT;
}

const struct setup_data *setup_find(const struct setup *s, const char *task)
{
    for (int i = 0; i < s->n_data; i++)
        if (strcmp(s->data[i].task, task) == 0)
            return &s->data[i];
    return NULL;
}

struct js *profile_to_js(const struct profile *p)
{
    struct js *j = js_new_object();

    js_set_text(j, "name", p->name);
    js_set_bool(j, "add_bos", p->add_bos);
    js_set_bool(j, "clean_up", p->clean_up);
    js_set_bool(j, "all_golds", p->all_golds);
    js_set_int(j, "max_new_tokens", p->max_new_tokens);
    js_set_int(j, "max_length", p->max_length);
    return j;
}

int profile_from_js(const struct js *j, struct profile *out, struct err *e)
{
    const char *name;
    int64_t max_new_tokens;

    if (js_want_text(j, "name", &name, e) < 0 || js_want_bool(j, "add_bos", &out->add_bos, e) < 0 ||
        js_want_bool(j, "clean_up", &out->clean_up, e) < 0 ||
        js_bool_or(j, "all_golds", false, &out->all_golds, e) < 0 ||
        js_want_int(j, "max_new_tokens", &max_new_tokens, e) < 0 ||
        js_want_int(j, "max_length", &out->max_length, e) < 0)
        return err_in(e, "the profile");
    snprintf(out->name, sizeof out->name, "%s", name);
    out->max_new_tokens = (int)max_new_tokens;
    return 0;
}
