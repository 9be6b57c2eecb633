/* choice_read.c - see choice.h: a data file as questions, one after the other, checked. */
#include "eval/choice.h"

#include "base/file.h"
#include "eval/dataset.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void question_release(struct question *q)
{
    bytes_release(&q->document);
    bytes_release(&q->id);
    bytes_release(&q->subject);
    for (int i = 0; i < CHOICES_MAX; i++) {
        bytes_release(&q->context[i]);
        bytes_release(&q->choice[i]);
    }
    *q = (struct question){ 0 };
}

struct reading {
    const struct choice_task *task;
    int (*take)(void *context, const struct question *q, struct err *e);
    void *context;
    char **ids; /* those that the file gives */
    size_t n_ids;
    long n;
    char subject[128]; /* mmlu: of the file at hand */
    long row;          /* mmlu: in that file, from 0 */
    int n_shots;
    struct bytes shots; /* mmlu: of that subject */
};

static int take_line(struct reading *r, const struct js *line, struct err *e)
{
    struct question q = { 0 };
    int rc = r->task->read(line, &q, e);

    if (rc == 0 && q.id.n) {
        if ((r->n_ids & (r->n_ids + 1)) == 0)
            r->ids = mem_grow(r->ids, 2 * (r->n_ids + 1), sizeof *r->ids);
        r->ids[r->n_ids++] = mem_textn(q.id.data, q.id.n);
    }
    if (rc == 0 && !q.id.n) {
        if (*r->subject)
            bytes_printf(&q.id, "%s/%ld", r->subject, r->row);
        else
            bytes_printf(&q.id, "%ld", r->n);
        bytes_add(&q.document, q.id.data, q.id.n);
    }
    if (rc == 0)
        rc = r->take(r->context, &q, e);
    question_release(&q);
    r->n++;
    r->row++;
    return rc;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static int no_id_twice(const struct reading *r, const char *path, struct err *e)
{
    if (r->n_ids)
        qsort(r->ids, r->n_ids, sizeof *r->ids, by_text);
    for (size_t i = 1; i < r->n_ids; i++)
        if (strcmp(r->ids[i], r->ids[i - 1]) == 0)
            return err_set(e, ERR_INPUT, "%s: two questions have the id \"%.64s\"", path,
                           r->ids[i]);
    return 0;
}

/* ---- lines ---- */

/* "valid.jsonl" -> "valid-labels.lst"; malloc'ed, NULL: the name has another end. */
static char *labels_beside(const char *path)
{
    static const char end[] = ".jsonl";
    struct bytes name = BYTES_INIT;
    size_t n = strlen(path), m = sizeof end - 1;

    if (n < m || strcmp(path + n - m, end) != 0)
        return NULL;
    bytes_add(&name, path, n - m);
    bytes_text(&name, "-labels.lst");
    return name.data;
}

/* One label a line, for lines that have none of their own. */
static int add_labels(struct stories *lines, const char *path, struct err *e)
{
    char *beside = labels_beside(path);
    struct bytes text = BYTES_INIT;
    size_t i = 0;
    int rc = 0;

    if (js_get(lines->at[0], "label") || !beside || !file_exists(beside)) {
        free(beside);
        return 0;
    }
    bytes_text(&text, "");
    rc = file_read(beside, &text, e);
    for (char *at = text.data, *save = NULL, *label;
         rc == 0 && (label = strtok_r(at, "\r\n", &save)); at = NULL, i++)
        if (i < lines->n)
            js_set_text(lines->owned[i], "label", label);
    if (rc == 0 && i != lines->n)
        rc = err_set(e, ERR_INPUT, "%s has %zu labels, but %s has %zu lines", beside, i, path,
                     lines->n);
    bytes_release(&text);
    free(beside);
    return rc;
}

static int read_lines(struct reading *r, const char *path, struct err *e)
{
    struct stories lines;

    if (dataset_lines(path, "questions", &lines, e) < 0)
        return -1;
    int rc = add_labels(&lines, path, e);
    for (size_t i = 0; i < lines.n && rc == 0; i++)
        if ((rc = take_line(r, lines.at[i], e)) < 0)
            err_in(e, "%s of %s (wanted is %s's %s)", lines.where[i], path, r->task->name,
                   r->task->file);
    stories_release(&lines);
    return rc;
}

/* ---- MMLU's folder ---- */

/* question, A, B, C, D, letter of the answer */
static struct js *line_of_row(const struct reading *r, char *const *fields, struct err *e)
{
    struct js *line = js_new_object(), *choices = js_new_array();
    const char *letter = fields[5];

    js_set_text(line, "subject", r->subject);
    js_set_text(line, "question", fields[0]);
    for (int i = 1; i <= 4; i++)
        js_append(choices, js_new_text(fields[i]));
    js_set(line, "choices", choices);
    js_set_int(line, "answer", *letter - 'A');
    if (strlen(letter) == 1 && *letter >= 'A' && *letter <= 'D')
        return line;
    err_set(e, ERR_INPUT, "the answer is \"%.16s\", should be A, B, C or D", letter);
    js_release(line);
    return NULL;
}

static int take_row(void *context, char *const *fields, struct err *e)
{
    struct reading *r = context;
    struct js *line = line_of_row(r, fields, e);

    if (!line)
        return -1;
    js_set(line, "shots", js_new_textn(r->shots.data, r->shots.n));
    int rc = take_line(r, line, e);
    js_release(line);
    return rc;
}

/* An example in front of a subject's questions. */
static int take_shot(void *context, char *const *fields, struct err *e)
{
    struct reading *r = context;
    struct js *line = r->row < r->n_shots ? line_of_row(r, fields, e) : NULL;
    int rc = 0;

    if (r->row < r->n_shots)
        rc = line ? choice_mmlu_text(line, &r->shots, e) : -1;
    if (line)
        bytes_printf(&r->shots, " %s\n\n", fields[5]);
    js_release(line);
    r->row++;
    return rc;
}

static bool is_subject(const char *name, size_t *n_stem)
{
    static const char end[] = "_test.csv";
    size_t n = strlen(name), m = sizeof end - 1;

    *n_stem = n > m ? n - m : 0;
    return n > m && strcmp(name + n - m, end) == 0;
}

static int list_subjects(const char *folder, char ***names, size_t *n, struct err *e)
{
    DIR *d = opendir(folder);
    size_t n_stem;

    *names = NULL;
    *n = 0;
    if (!d)
        return err_set(e, ERR_IO, "%s: %s", folder, strerror(errno));
    for (struct dirent *x; (x = readdir(d));)
        if (is_subject(x->d_name, &n_stem)) {
            *names = mem_grow(*names, *n + 1, sizeof **names);
            (*names)[(*n)++] = mem_text(x->d_name);
        }
    closedir(d);
    if (*n)
        qsort(*names, *n, sizeof **names, by_text);
    return *n ? 0 : err_set(e, ERR_INPUT, "%s: no file SUBJECT_test.csv in this folder", folder);
}

/* SUBJECT_dev.csv in folder dev beside the one of the questions. */
static int read_shots(struct reading *r, const char *folder, struct err *e)
{
    struct bytes path = BYTES_INIT;

    bytes_release(&r->shots);
    bytes_text(&r->shots, "");
    if (r->n_shots == 0)
        return 0;
    bytes_printf(&path, "%s/../dev/%s_dev.csv", folder, r->subject);
    r->row = 0;
    int rc = dataset_rows(path.data, 6, take_shot, r, e);
    if (rc == 0 && r->row < r->n_shots)
        rc = err_set(e, ERR_INPUT, "%s has %ld examples, num_fewshot asks for %d", path.data,
                     r->row, r->n_shots);
    bytes_release(&path);
    return rc;
}

static int read_subject(struct reading *r, const char *folder, const char *name, struct err *e)
{
    char *file = file_join(folder, name);
    size_t n_stem;

    is_subject(name, &n_stem);
    snprintf(r->subject, sizeof r->subject, "%.*s", (int)n_stem, name);
    int rc = read_shots(r, folder, e);
    r->row = 0;
    if (rc == 0)
        rc = dataset_rows(file, 6, take_row, r, e);
    free(file);
    return rc;
}

static int read_folder(struct reading *r, const char *path, struct err *e)
{
    char **names, *folder = file_join(path, "test");
    size_t n;

    if (!file_is_folder(folder)) {
        free(folder);
        folder = mem_text(path);
    }
    int rc = list_subjects(folder, &names, &n, e);
    for (size_t i = 0; i < n && rc == 0; i++)
        rc = read_subject(r, folder, names[i], e);
    for (size_t i = 0; i < n; i++)
        free(names[i]);
    free(names);
    free(folder);
    return rc;
}

int choice_read(const struct choice_task *t, const char *path, int n_shots,
                int (*take)(void *context, const struct question *q, struct err *e), void *context,
                struct err *e)
{
    struct reading r = { .task = t, .take = take, .context = context, .n_shots = n_shots };
    bool folder = file_is_folder(path);
    int rc;

    if (folder && strcmp(t->name, "mmlu") != 0)
        return err_set(e, ERR_INPUT, "%s is a folder; wanted is %s's %s", path, t->name, t->file);
    if (n_shots && !folder)
        return err_set(e, ERR_USAGE, "%s: num_fewshot needs %s's folder, with its folder dev", path,
                       t->name);
    rc = folder ? read_folder(&r, path, e) : read_lines(&r, path, e);
    if (rc == 0)
        rc = no_id_twice(&r, path, e);
    for (size_t i = 0; i < r.n_ids; i++)
        free(r.ids[i]);
    free(r.ids);
    bytes_release(&r.shots);
    return rc;
}
