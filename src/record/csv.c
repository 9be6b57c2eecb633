/* csv.c - see report.h: a table as comma-separated values. */
#include "record/report.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* RFC 4180: a field with a comma, a quote or a line end stands in quotes, quotes are doubled. */
static void csv_text(FILE *to, const char *text)
{
    if (!text[strcspn(text, ",\"\r\n")]) {
        fputs(text, to);
        return;
    }
    fputc('"', to);
    for (; *text; text++) {
        if (*text == '"')
            fputc('"', to);
        fputc(*text, to);
    }
    fputc('"', to);
}

/* The shortest digits that read back as the same number; nothing for NaN. */
static void csv_real(FILE *to, double x)
{
    char text[48];

    if (isnan(x))
        return;
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, x);
        if (strtod(text, NULL) == x)
            break;
    }
    fputs(text, to);
}

void report_csv(FILE *to, const struct table *t)
{
    for (int c = 0; c < t->n_columns; c++) {
        fputs(c ? "," : "", to);
        csv_text(to, t->columns[c].name);
    }
    fputs("\r\n", to);
    for (int i = 0; i < t->n_rows; i++) {
        for (int c = 0; c < t->n_columns; c++) {
            const struct table_column *x = &t->columns[c];
            fputs(c ? "," : "", to);
            if (x->kind == COLUMN_TEXT)
                csv_text(to, x->text[i]);
            else if (x->kind == COLUMN_REAL)
                csv_real(to, x->real[i]);
            else if (x->kind == COLUMN_BOOL)
                fputs(x->count[i] ? "true" : "false", to);
            else
                fprintf(to, "%" PRId64, x->count[i]);
        }
        fputs("\r\n", to);
    }
}
