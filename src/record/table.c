/* table.c - see table.h. */
#include "record/table.h"

#include "base/memory.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void column_release(struct table_column *c, int n_rows)
{
    for (int i = 0; c->text && i < n_rows; i++)
        free(c->text[i]);
    free(c->text);
    free(c->real);
    free(c->count);
}

void table_release(struct table *t)
{
    for (int i = 0; i < t->n_columns; i++)
        column_release(&t->columns[i], t->n_rows);
    free(t->columns);
    t->columns = NULL;
    t->n_columns = t->n_rows = 0;
}

/* Makes room for n_rows and fills the cells from n_old on with "nothing known". */
static void column_grow(struct table_column *c, int n_old, int n_rows)
{
    switch (c->kind) {
    case COLUMN_TEXT:
        c->text = mem_grow(c->text, (size_t)n_rows, sizeof *c->text);
        for (int i = n_old; i < n_rows; i++)
            c->text[i] = mem_text("");
        break;
    case COLUMN_REAL:
        c->real = mem_grow(c->real, (size_t)n_rows, sizeof *c->real);
        for (int i = n_old; i < n_rows; i++)
            c->real[i] = NAN;
        break;
    case COLUMN_COUNT:
    case COLUMN_BOOL:
        c->count = mem_grow(c->count, (size_t)n_rows, sizeof *c->count);
        for (int i = n_old; i < n_rows; i++)
            c->count[i] = 0;
        break;
    }
}

/* Units and sentences may come from a file of another version: cut, not refused. */
static void copy_cut(char *to, size_t room, const char *text)
{
    size_t n = text ? strlen(text) : 0;

    if (n >= room)
        n = room - 1;
    if (n)
        memcpy(to, text, n);
    to[n] = 0;
}

int table_add_column(struct table *t, const char *name, const char *unit, const char *what,
                     enum column_kind kind, int higher_is_better)
{
    assert(strlen(name) < sizeof t->columns->name && table_column(t, name) < 0);
    t->columns = mem_grow(t->columns, (size_t)t->n_columns + 1, sizeof *t->columns);
    struct table_column *c = &t->columns[t->n_columns];

    *c = (struct table_column){ .kind = kind, .higher_is_better = higher_is_better };
    copy_cut(c->name, sizeof c->name, name);
    copy_cut(c->unit, sizeof c->unit, unit);
    copy_cut(c->what, sizeof c->what, what);
    if (t->n_rows)
        column_grow(c, 0, t->n_rows);
    return t->n_columns++;
}

int table_add_row(struct table *t)
{
    for (int i = 0; i < t->n_columns; i++)
        column_grow(&t->columns[i], t->n_rows, t->n_rows + 1);
    return t->n_rows++;
}

int table_column(const struct table *t, const char *name)
{
    for (int i = 0; i < t->n_columns; i++)
        if (!strcmp(t->columns[i].name, name))
            return i;
    return -1;
}

/* The column to write to.  A wrong name, kind or row is a mistake of this program. */
static struct table_column *cell(struct table *t, int row, const char *column)
{
    int i = table_column(t, column);

    assert(i >= 0 && row >= 0 && row < t->n_rows);
    return &t->columns[i];
}

void table_set_text(struct table *t, int row, const char *column, const char *value)
{
    struct table_column *c = cell(t, row, column);

    assert(c->kind == COLUMN_TEXT);
    char *copy = mem_text(value ? value : "");
    free(c->text[row]);
    c->text[row] = copy;
}

void table_set_real(struct table *t, int row, const char *column, double value)
{
    struct table_column *c = cell(t, row, column);

    assert(c->kind == COLUMN_REAL);
    c->real[row] = value;
}

void table_set_count(struct table *t, int row, const char *column, int64_t value)
{
    struct table_column *c = cell(t, row, column);

    assert(c->kind == COLUMN_COUNT || c->kind == COLUMN_BOOL);
    c->count[row] = value;
}

/* The column to read from, or NULL: a file of another version may lack it. */
static const struct table_column *find(const struct table *t, int row, const char *column)
{
    int i = table_column(t, column);

    return i < 0 || row < 0 || row >= t->n_rows ? NULL : &t->columns[i];
}

const char *table_text(const struct table *t, int row, const char *column)
{
    const struct table_column *c = find(t, row, column);

    return c && c->kind == COLUMN_TEXT ? c->text[row] : NULL;
}

double table_real(const struct table *t, int row, const char *column)
{
    const struct table_column *c = find(t, row, column);

    return c && c->kind == COLUMN_REAL ? c->real[row] : NAN;
}

int64_t table_count(const struct table *t, int row, const char *column)
{
    const struct table_column *c = find(t, row, column);

    return c && (c->kind == COLUMN_COUNT || c->kind == COLUMN_BOOL) ? c->count[row] : 0;
}
