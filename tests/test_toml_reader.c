/* test_toml_reader.c - lines, order, and what is refused before the parser sees it. */
#include "check.h"

#include "sweep/toml_reader.h"

#include <string.h>

static struct toml_value *parse(const char *text, struct err *e)
{
    return toml_parse("t.toml", text, strlen(text), e);
}

/* The text is refused with exactly this message. */
static void refused(const char *text, size_t n_bytes, const char *message)
{
    struct err e = ERR_INIT;
    struct toml_value *root = toml_parse("t.toml", text, n_bytes, &e);

    CHECK(!root, "'%.60s' is refused", text);
    CHECK(e.code == ERR_USAGE, "the reason is the file");
    CHECK(strcmp(e.text, message) == 0, "the message is '%s', not '%s'", message, e.text);
}

static void values_know_their_lines_and_order(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct toml_value *root =
        parse("z = 1\na = [ 'x',\n 2.5, true ]\n\n[m]\nq.r = \"\"\"\n\n\"\"\"\n"
              "\n[[e]]\nn = 1\n[[e]]\nn = 2\n",
              &e);

    CHECK(root, "the text is read: %s", e.text);
    CHECK(root->n == 4, "four members");
    CHECK(strcmp(root->items[0]->key, "z") == 0, "members keep the order of the file");
    const struct toml_value *a = toml_get(root, "a");
    CHECK(a && a->kind == TOML_KIND_ARRAY && a->n == 3 && a->line == 2, "a is a list on line 2");
    CHECK(a->items[0]->kind == TOML_KIND_TEXT && strcmp(a->items[0]->text, "x") == 0, "a text");
    CHECK(a->items[1]->line == 3 && a->items[1]->real == 2.5, "an element knows its own line");
    CHECK(a->items[2]->kind == TOML_KIND_BOOL && a->items[2]->boolean, "a boolean");
    const struct toml_value *q = toml_get(toml_get(root, "m"), "q");
    CHECK(q && toml_get(q, "r") && toml_get(q, "r")->line == 6, "a dotted key is two tables");
    const struct toml_value *list = toml_get(root, "e");
    CHECK(list && list->n == 2 && list->items[1]->line == 12, "tables of an array know theirs");
    CHECK(toml_get(list->items[1], "n")->integer == 2, "and their values");
    CHECK(!toml_get(root, "b"), "an absent member is NULL");
    toml_release(root);
}

static void faults_are_refused_with_a_line(void **state)
{
    (void)state;
    struct err e = ERR_INIT;

    CHECK(!parse("a = 1\nb = \n", &e), "a missing value is refused");
    CHECK(strncmp(e.text, "t.toml:2: ", 10) == 0, "with its line: %s", e.text);
    CHECK(!parse("a = 1\n\na = 2\n", &e), "a key given twice is refused");
    CHECK(strncmp(e.text, "t.toml:3: ", 10) == 0, "with its line: %s", e.text);
    CHECK(!parse("a = '\xff'\n", &e), "bytes that are not UTF-8 are refused");
    CHECK(strncmp(e.text, "t.toml:1: ", 10) == 0, "with its line: %s", e.text);
    CHECK(!strchr(e.text, '\n'), "every message is one line");
    refused("a = 1\nb = 2024-05-06\n", 21,
            "t.toml:2: dates and times have no place in a sweep file");
    refused("a = \"x\\u0000\"", 13, "t.toml:1: a string or key may not hold a 0 byte");
}

static char *repeated(const char *head, const char *part, int n, const char *tail)
{
    struct bytes b = BYTES_INIT;

    bytes_text(&b, head);
    for (int i = 0; i < n; i++)
        bytes_text(&b, part);
    bytes_text(&b, tail);
    return b.data;
}

static void depth_is_capped_on_both_sides(void **state)
{
    (void)state;
    static const struct {
        const char *head, *part, *tail;
        int most; /* repetitions that are still read */
        const char *message;
    } cases[] = {
        { "a", ".b", " = 1\n", 15, "t.toml:1: a dotted key may have 16 parts" },
        { "\n[a", " . 'b.c'", "]\n", 15, "t.toml:2: a dotted key may have 16 parts" },
        { "x = '''\n'''\na", ".\"b\"", " = 1\n", 15, "t.toml:3: a dotted key may have 16 parts" },
        { "a = ", "[", "", -1, "t.toml:1: brackets may be nested 16 deep" },
        { "a = ", "{b=", "1", -1, "t.toml:1: brackets may be nested 16 deep" },
    };

    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct err e = ERR_INIT;
        if (cases[i].most > 0) {
            char *fits = repeated(cases[i].head, cases[i].part, cases[i].most, cases[i].tail);
            struct toml_value *root = parse(fits, &e);
            CHECK(root, "%d parts are read: %s", cases[i].most + 1, e.text);
            toml_release(root);
            free(fits);
            char *past = repeated(cases[i].head, cases[i].part, cases[i].most + 1, cases[i].tail);
            refused(past, strlen(past), cases[i].message);
            free(past);
        }
        char *huge = repeated(cases[i].head, cases[i].part, 100000, cases[i].tail);
        refused(huge, strlen(huge), cases[i].message);
        free(huge);
    }
    struct err e = ERR_INIT;
    char *nested = repeated("a = ", "[", 16, "]]]]]]]]]]]]]]]]");
    struct toml_value *root = parse(nested, &e);
    CHECK(root, "lists nested 16 deep are read: %s", e.text);
    toml_release(root);
    free(nested);
    root = parse(
        "a = 'x.y.z.a.b.c.d.e.f.g.h.i.j.k.l.m.n.o.p.q' # .................[[[[[[[[[[[[[[[[[[[\n"
        "b = \"\\\"[[[[[[[[[[[[[[[[[[[[[[[[[[\"\n",
        &e);
    CHECK(root, "dots and brackets in strings and comments do not count: %s", e.text);
    toml_release(root);
}

static void size_is_capped_on_both_sides(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    char *text = mem_alloc(TOML_TEXT_MAX + 2);

    memset(text, '\n', TOML_TEXT_MAX + 1);
    struct toml_value *root = toml_parse("t.toml", text, TOML_TEXT_MAX, &e);
    CHECK(root, "1 MiB is read: %s", e.text);
    toml_release(root);
    refused(text, TOML_TEXT_MAX + 1, "t.toml: has 1048577 bytes, a sweep file may have 1048576");
    free(text);
}

static void values_are_shown_on_one_short_line(void **state)
{
    (void)state;
    struct err e = ERR_INIT;
    struct toml_value *root = parse("a = [1, 2.0, 0.1, -0.0, 'b\\n', \"c\\nd\", {x = true}, []]\n"
                                    "b = '01234567890123456789012345678901234567890123456789"
                                    "01234567890123456789'\n",
                                    &e);
    struct bytes shown = BYTES_INIT;

    CHECK(root, "the text is read: %s", e.text);
    toml_show(toml_get(root, "a"), &shown);
    CHECK(!strcmp(shown.data, "[1, 2.0, 0.1, -0.0, \"b\\n\", \"c\\nd\", {x = true}, []]"),
          "a list is shown as TOML: %s", shown.data);
    bytes_release(&shown);
    toml_show(toml_get(root, "b"), &shown);
    CHECK(strlen(shown.data) < 70 && strstr(shown.data, "...\""), "a long text is cut: %s",
          shown.data);
    bytes_release(&shown);
    toml_release(root);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(values_know_their_lines_and_order),
        cmocka_unit_test(faults_are_refused_with_a_line),
        cmocka_unit_test(depth_is_capped_on_both_sides),
        cmocka_unit_test(size_is_capped_on_both_sides),
        cmocka_unit_test(values_are_shown_on_one_short_line),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
