/* grid.c - see grid.h. */
#include "record/grid.h"

#include "base/memory.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

enum { GAP = 2 };

void grid_add_column(struct grid *g, const char *heading, bool left)
{
    g->columns = mem_grow(g->columns, (size_t)g->n_columns + 1, sizeof *g->columns);
    struct grid_column *c = &g->columns[g->n_columns++];

    *c = (struct grid_column){ .left = left };
    snprintf(c->heading, sizeof c->heading, "%s", heading);
    c->cell = mem_array((size_t)g->n_rows, sizeof *c->cell);
}

void grid_set(struct grid *g, int row, const char *fmt, ...)
{
    struct bytes text = BYTES_INIT;
    char part[512];
    va_list args;

    va_start(args, fmt);
    vsnprintf(part, sizeof part, fmt, args);
    va_end(args);
    bytes_text(&text, part);
    free(g->columns[g->n_columns - 1].cell[row]);
    g->columns[g->n_columns - 1].cell[row] = text.data;
}

static int places(const char *text)
{
    int n = 0;

    for (; *text; text++)
        n += ((unsigned char)*text & 0xC0) != 0x80; /* not a continuation byte */
    return n;
}

static const char *cell(const struct grid_column *c, int row)
{
    return c->cell[row] ? c->cell[row] : "";
}

static int column_width(const struct grid *g, int column)
{
    const struct grid_column *c = &g->columns[column];
    int width = places(c->heading);

    for (int i = 0; i < g->n_rows; i++) {
        int n = places(cell(c, i));
        width = n > width ? n : width;
    }
    return width;
}

static bool is_shown(const struct grid *g, int column, bool with_optional)
{
    return with_optional || !g->columns[column].optional;
}

/* One line of a block: the keys, then columns from ... until - 1.  row -1: the headings. */
static void print_line(FILE *to, const struct grid *g, int from, int until, bool with_optional,
                       int row)
{
    struct bytes line = BYTES_INIT;

    for (int i = 0; i < until; i++) {
        const struct grid_column *c = &g->columns[i];
        const char *text = row < 0 ? c->heading : cell(c, row);
        int pad = column_width(g, i) - places(text);
        if ((i >= g->n_keys && i < from) || !is_shown(g, i, with_optional))
            continue;
        bytes_printf(&line, "%*s%*s%s%*s", i > 0 ? GAP : 0, "", c->left ? 0 : pad, "", text,
                     c->left ? pad : 0, "");
    }
    while (line.n && line.data[line.n - 1] == ' ')
        line.data[--line.n] = 0;
    fprintf(to, "%s\n", line.n ? line.data : "");
    bytes_release(&line);
}

/* Places of columns from ... until - 1 and the gaps before them. */
static int width_of(const struct grid *g, int from, int until, bool with_optional)
{
    int width = 0;

    for (int i = from; i < until; i++)
        if (is_shown(g, i, with_optional))
            width += column_width(g, i) + (i > 0 ? GAP : 0);
    return width;
}

void grid_print(FILE *to, const struct grid *g, int width)
{
    bool all = width_of(g, 0, g->n_columns, true) <= width;
    int keys = width_of(g, 0, g->n_keys, all), next;

    for (int from = g->n_keys; from < g->n_columns; from = next) {
        /* As many as fit; one at least, or this would never end. */
        for (next = from + 1; next < g->n_columns; next++)
            if (keys + width_of(g, from, next + 1, all) > width)
                break;
        if (from > g->n_keys)
            fputc('\n', to);
        for (int row = -1; row < g->n_rows; row++)
            print_line(to, g, from, next, all, row);
    }
}

void grid_release(struct grid *g)
{
    for (int i = 0; i < g->n_columns; i++) {
        for (int row = 0; row < g->n_rows; row++)
            free(g->columns[i].cell[row]);
        free(g->columns[i].cell);
    }
    free(g->columns);
    *g = (struct grid)GRID_INIT;
}
