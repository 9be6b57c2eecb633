/* choice_tasks.c - the data sets of choice.h: a line of each, its prompt and its choices. */
#include "eval/choice.h"

#include "tokenizer/unicode.h"

#include <stdio.h>
#include <string.h>

/* ---- members ---- */

static int add_member(const struct js *line, const char *path, struct bytes *out, struct err *e)
{
    const char *text;

    if (js_want_text(line, path, &text, e) < 0)
        return -1;
    bytes_add(out, text, js_text_bytes(js_find(line, path)));
    return 0;
}

/* A name may be a text or a number. */
static int add_name(const struct js *j, const char *what, struct bytes *out, struct err *e)
{
    if (js_kind(j) == JS_INT)
        bytes_printf(out, "%lld", (long long)js_int(j));
    else if (js_kind(j) == JS_TEXT && js_text_bytes(j))
        bytes_add(out, js_text(j), js_text_bytes(j));
    else
        return err_set(e, ERR_INPUT, "%s is missing, empty, or neither text nor integer", what);
    return 0;
}

static int own_id(const struct js *line, const char *key, struct question *q, struct err *e)
{
    if (add_name(js_find(line, key), key, &q->id, e) < 0)
        return -1;
    bytes_add(&q->document, q->id.data, q->id.n);
    return 0;
}

/* Labels stand as 3, "3" or true. */
static int read_label(const struct js *line, const char *key, int n, int first, int *out,
                      struct err *e)
{
    const struct js *j = js_find(line, key);
    const char *text = js_text(j);
    int64_t label = -1;

    if (js_kind(j) == JS_INT)
        label = js_int(j);
    else if (js_kind(j) == JS_BOOL)
        label = js_bool(j);
    else if (text && strlen(text) == 1 && text[0] >= '0' && text[0] <= '9')
        label = text[0] - '0';
    else if (!j || (text && !*text))
        return err_set(e, ERR_INPUT,
                       "%s is missing or empty: without the answers nothing can be scored (a test "
                       "file without labels?)",
                       key);
    if (label < first || label >= first + n)
        return err_set(e, ERR_INPUT, "%s should be %d to %d", key, first, first + n - 1);
    *out = (int)label - first;
    return 0;
}

/* The next choice, with the context of all. */
static struct bytes *next_choice(struct question *q, struct err *e)
{
    if (q->n == CHOICES_MAX) {
        err_set(e, ERR_INPUT, "more than %d choices", CHOICES_MAX);
        return NULL;
    }
    if (q->n)
        bytes_add(&q->context[q->n], q->context[0].data, q->context[0].n);
    bytes_add(&q->choice[q->n], "", 0);
    return &q->choice[q->n++];
}

static int add_choice(struct question *q, const char *text, size_t n, struct err *e)
{
    struct bytes *to = next_choice(q, e);

    if (!to)
        return -1;
    if (n == 0)
        return err_set(e, ERR_INPUT, "choice %d is empty", q->n - 1);
    bytes_add(to, text, n);
    return 0;
}

static int add_choices(struct question *q, const struct js *list, const char *what, struct err *e)
{
    if (js_kind(list) != JS_ARRAY || js_count(list) < 2)
        return err_set(e, ERR_INPUT, "%s should be a list of two or more texts", what);
    for (size_t i = 0; i < js_count(list); i++) {
        const struct js *text = js_at(list, i);
        if (!js_text(text))
            return err_set(e, ERR_INPUT, "%s[%zu] should be a text", what, i);
        if (add_choice(q, js_text(text), js_text_bytes(text), e) < 0)
            return -1;
    }
    return 0;
}

/* ---- HellaSwag ---- */

/* From *at on: the next "[...]" that ends on its line; NULL: none. */
static const char *bracket(const char *at, const char *end, const char **behind)
{
    for (const char *open; (open = memchr(at, '[', (size_t)(end - at))); at = open + 1) {
        const char *shut = memchr(open, ']', (size_t)(end - open));
        const char *lf = memchr(open, '\n', (size_t)(end - open));
        if (!shut)
            return NULL;
        if (!lf || shut < lf) {
            *behind = shut + 1;
            return open;
        }
    }
    return NULL;
}

static void replace(struct bytes *text, const char *what, const char *by)
{
    struct bytes out = BYTES_INIT;
    const char *at = text->data, *end = at + text->n, *hit;
    size_t n = strlen(what);

    bytes_add(&out, "", 0);
    for (; (hit = memmem(at, (size_t)(end - at), what, n)); at = hit + n) {
        bytes_add(&out, at, (size_t)(hit - at));
        bytes_text(&out, by);
    }
    bytes_add(&out, at, (size_t)(end - at));
    bytes_release(text);
    *text = out;
}

static void strip(const char **from, const char **to)
{
    for (const char *next = *from; *from < *to; *from = next)
        if (!python_is_space(utf8_next(&next)))
            break;
    for (const char *before = *to; *from < *to; *to = before)
        if (!python_is_space(utf8_before(&before)))
            break;
}

/* What lm-evaluation-harness takes out of WikiHow's texts. */
static void clean(struct bytes *text)
{
    const char *from = text->data, *to = from + text->n, *behind;
    struct bytes out = BYTES_INIT;

    strip(&from, &to);
    bytes_add(&out, from, (size_t)(to - from));
    bytes_release(text);
    *text = out;
    replace(text, " [title]", ". ");
    out = (struct bytes)BYTES_INIT;
    bytes_add(&out, "", 0);
    const char *at = text->data, *end = at + text->n;
    for (const char *open; (open = bracket(at, end, &behind)); at = behind)
        bytes_add(&out, at, (size_t)(open - at));
    bytes_add(&out, at, (size_t)(end - at));
    bytes_release(text);
    *text = out;
    replace(text, "  ", " ");
}

/* str.capitalize */
static void add_capitalized(struct bytes *out, const char *s, size_t n)
{
    const char *at = s;

    if (n == 0)
        return;
    utf8_add(out, unicode_title(utf8_next(&at)));
    /* The rest as it is lowered behind its first letter (final sigma looks back). */
    struct bytes lower = BYTES_INIT;
    uint32_t first[2];
    const char *begin = s;
    int n_first = unicode_lower(utf8_next(&begin), first);
    python_lower(&lower, s, n);
    const char *rest = lower.data;
    for (int i = 0; i < n_first; i++)
        utf8_next(&rest);
    bytes_add(out, rest, (size_t)(lower.data + lower.n - rest));
    bytes_release(&lower);
}

static int read_hellaswag(const struct js *line, struct question *q, struct err *e)
{
    const struct js *endings = js_get(line, "endings"), *source = js_get(line, "source_id");
    const char *b;

    if (add_name(js_get(line, "ind"), "ind", &q->id, e) < 0 ||
        add_member(line, "activity_label", &q->context[0], e) < 0)
        return -1;
    bytes_text(&q->context[0], ": ");
    if (add_member(line, "ctx_a", &q->context[0], e) < 0 || js_want_text(line, "ctx_b", &b, e) < 0)
        return -1;
    bytes_text(&q->context[0], " ");
    add_capitalized(&q->context[0], b, js_text_bytes(js_get(line, "ctx_b")));
    clean(&q->context[0]);
    if (add_choices(q, endings, "endings", e) < 0)
        return -1;
    for (int i = 0; i < q->n; i++)
        clean(&q->choice[i]);
    /* Several questions come from one video or article. */
    if (js_text(source) && js_text_bytes(source))
        bytes_add(&q->document, js_text(source), js_text_bytes(source));
    else
        bytes_add(&q->document, q->id.data, q->id.n);
    return read_label(line, "label", q->n, 0, &q->gold, e);
}

/* ---- ARC, OpenBookQA ---- */

/* The authors' form: choices = [{"text", "label"}, ..]; the Hub's: {"text": [..], "label": [..]}.
 */
static int labelled_choices(const struct js *choices, const struct js *line, struct question *q,
                            struct err *e)
{
    const struct js *texts = js_get(choices, "text"), *labels = js_get(choices, "label");
    const char *key = js_text(js_get(line, "answerKey"));
    bool columns = js_kind(choices) == JS_OBJECT;
    size_t n = columns ? js_count(texts) : js_count(choices);

    if (n < 2 || (columns && js_count(labels) != n))
        return err_set(e, ERR_INPUT,
                       "choices should be a list of objects with text and label, or an object of "
                       "two such lists");
    if (!key || !*key)
        return err_set(e, ERR_INPUT, "answerKey is missing or no text");
    key += strspn(key, " ");
    q->gold = -1;
    for (size_t i = 0; i < n; i++) {
        const struct js *text = columns ? js_at(texts, i) : js_get(js_at(choices, i), "text");
        const struct js *label = columns ? js_at(labels, i) : js_get(js_at(choices, i), "label");
        if (!js_text(text) || !js_text(label))
            return err_set(e, ERR_INPUT, "choice %zu has no text or no label", i);
        if (add_choice(q, js_text(text), js_text_bytes(text), e) < 0)
            return -1;
        if (q->gold < 0 && strcmp(js_text(label), key) == 0)
            q->gold = (int)i;
    }
    if (q->gold < 0)
        return err_set(e, ERR_INPUT, "answerKey \"%.16s\" is the label of no choice", key);
    return 0;
}

static int read_arc(const struct js *line, struct question *q, struct err *e)
{
    bool nested = js_kind(js_get(line, "question")) == JS_OBJECT;

    bytes_text(&q->context[0], "Question: ");
    if (own_id(line, "id", q, e) < 0 ||
        add_member(line, nested ? "question.stem" : "question", &q->context[0], e) < 0)
        return -1;
    bytes_text(&q->context[0], "\nAnswer:");
    return labelled_choices(js_find(line, nested ? "question.choices" : "choices"), line, q, e);
}

static int read_openbookqa(const struct js *line, struct question *q, struct err *e)
{
    bool nested = js_kind(js_get(line, "question")) == JS_OBJECT;

    if (own_id(line, "id", q, e) < 0 ||
        add_member(line, nested ? "question.stem" : "question_stem", &q->context[0], e) < 0)
        return -1;
    return labelled_choices(js_find(line, nested ? "question.choices" : "choices"), line, q, e);
}

/* ---- PIQA, BoolQ ---- */

static int read_piqa(const struct js *line, struct question *q, struct err *e)
{
    bytes_text(&q->context[0], "Question: ");
    if (add_member(line, "goal", &q->context[0], e) < 0)
        return -1;
    bytes_text(&q->context[0], "\nAnswer:");
    for (int i = 0; i < 2; i++) {
        const char *key = i ? "sol2" : "sol1", *text;
        if (js_want_text(line, key, &text, e) < 0 ||
            add_choice(q, text, js_text_bytes(js_get(line, key)), e) < 0)
            return -1;
    }
    return read_label(line, "label", 2, 0, &q->gold, e);
}

static int read_boolq(const struct js *line, struct question *q, struct err *e)
{
    if (js_get(line, "title") && !js_get(line, "label"))
        return err_set(
            e, ERR_INPUT,
            "title and answer instead of label: this is BoolQ's own file, whose passages "
            "lack their titles; SuperGLUE's val.jsonl is wanted");
    if (own_id(line, "idx", q, e) < 0 || add_member(line, "passage", &q->context[0], e) < 0)
        return -1;
    bytes_text(&q->context[0], "\nQuestion: ");
    if (add_member(line, "question", &q->context[0], e) < 0)
        return -1;
    bytes_text(&q->context[0], "?\nAnswer:");
    add_choice(q, "no", 2, e);
    add_choice(q, "yes", 3, e);
    return read_label(line, "label", 2, 0, &q->gold, e);
}

/* ---- WinoGrande ---- */

/* Two contexts, each with an option in the gap, and one continuation. */
static int read_winogrande(const struct js *line, struct question *q, struct err *e)
{
    const char *sentence, *option;

    if (own_id(line, "qID", q, e) < 0 || js_want_text(line, "sentence", &sentence, e) < 0)
        return -1;
    const char *gap = strchr(sentence, '_');
    if (!gap)
        return err_set(e, ERR_INPUT, "sentence has no gap (_)");
    const char *from = gap + 1, *to = sentence + js_text_bytes(js_get(line, "sentence"));
    strip(&from, &to);
    if (from == to)
        return err_set(e, ERR_INPUT, "sentence has nothing behind its gap");
    for (int i = 0; i < 2; i++) {
        const char *key = i ? "option2" : "option1";
        if (js_want_text(line, key, &option, e) < 0)
            return -1;
        bytes_add(&q->context[i], sentence, (size_t)(gap - sentence));
        bytes_add(&q->context[i], option, js_text_bytes(js_get(line, key)));
        bytes_add(&q->choice[i], from, (size_t)(to - from));
    }
    q->n = 2;
    return read_label(line, "answer", 2, 1, &q->gold, e);
}

/* ---- MMLU ---- */

int choice_mmlu_text(const struct js *line, struct bytes *out, struct err *e)
{
    const struct js *choices = js_get(line, "choices");
    const char *text;

    if (js_want_text(line, "question", &text, e) < 0)
        return -1;
    const char *from = text, *to = text + js_text_bytes(js_get(line, "question"));
    strip(&from, &to);
    bytes_add(out, from, (size_t)(to - from));
    if (js_kind(choices) != JS_ARRAY || js_count(choices) != 4)
        return err_set(e, ERR_INPUT, "choices should be a list of four texts");
    for (size_t i = 0; i < 4; i++) {
        const struct js *choice = js_at(choices, i);
        if (!js_text(choice))
            return err_set(e, ERR_INPUT, "choices[%zu] should be a text", i);
        bytes_printf(out, "\n%c. ", (int)('A' + i));
        bytes_add(out, js_text(choice), js_text_bytes(choice));
    }
    bytes_text(out, "\nAnswer:");
    return 0;
}

/* "shots": examples with their answers, made by whoever read the file. */
static int read_mmlu(const struct js *line, struct question *q, struct err *e)
{
    struct bytes *context = &q->context[0];
    const char *subject, *shots;

    if (js_want_text(line, "subject", &subject, e) < 0 ||
        js_text_or(line, "shots", "", &shots, e) < 0)
        return -1;
    bytes_text(&q->subject, subject);
    bytes_text(context, "The following are multiple choice questions (with answers) about ");
    for (const char *s = subject; *s; s++)
        bytes_add(context, *s == '_' ? " " : s, 1);
    bytes_text(context, ".\n\n");
    bytes_text(context, shots);
    if (choice_mmlu_text(line, context, e) < 0)
        return -1;
    for (int i = 0; i < 4; i++)
        add_choice(q, &"ABCD"[i], 1, e);
    return read_label(line, "answer", 4, 0, &q->gold, e);
}

/* ---- LAMBADA ---- */

static int read_lambada(const struct js *line, struct question *q, struct err *e)
{
    const char *text;

    if (js_want_text(line, "text", &text, e) < 0)
        return -1;
    const char *end = text + js_text_bytes(js_get(line, "text"));
    const char *blank = memrchr(text, ' ', (size_t)(end - text));
    if (!blank || blank + 1 == end)
        return err_set(e, ERR_INPUT, "text should be several words and end in one");
    bytes_add(&q->context[0], text, (size_t)(blank - text));
    return add_choice(q, blank + 1, (size_t)(end - blank - 1), e);
}

const struct choice_task choice_tasks[] = {
    { "hellaswag", 1, "hellaswag_val.jsonl", true, false, false, 10042, 190, read_hellaswag },
    { "arc_easy", 1, "ARC-Easy-Test.jsonl", true, false, false, 2376, 60, read_arc },
    { "arc_challenge", 1, "ARC-Challenge-Test.jsonl", true, false, false, 1172, 70, read_arc },
    { "piqa", 1, "valid.jsonl beside valid-labels.lst", true, false, false, 1838, 70, read_piqa },
    { "winogrande", 1, "dev.jsonl", false, false, false, 1267, 50, read_winogrande },
    { "openbookqa", 1, "test.jsonl", true, false, false, 500, 40, read_openbookqa },
    { "boolq", 1, "SuperGLUE's val.jsonl", false, false, false, 3270, 150, read_boolq },
    { "mmlu", 1, "a folder of SUBJECT_test.csv", false, true, false, 14042, 110, read_mmlu },
    { "lambada", 1, "lambada_test.jsonl", false, false, true, 5153, 90, read_lambada },
    { 0 },
};

const struct choice_task *choice_task_find(const char *name)
{
    for (const struct choice_task *t = choice_tasks; t->name; t++)
        if (strcmp(t->name, name) == 0)
            return t;
    return NULL;
}
