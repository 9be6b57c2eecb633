/* test_table.c - tables keep what was put in, and say "nothing known" elsewhere. */
#include "check.h"

#include "record/table.h"

#include <string.h>

static struct table sample(void)
{
    struct table t = TABLE_INIT;

    table_add_column(&t, "name", "", "who", COLUMN_TEXT, -1);
    table_add_column(&t, "f1", "1", "mean F1", COLUMN_REAL, 1);
    table_add_column(&t, "bits", "bit", "code width", COLUMN_COUNT, -1);
    table_add_column(&t, "double_quant", "", "scales quantized too", COLUMN_BOOL, -1);
    return t;
}

static void fresh_cells_know_nothing(void **state)
{
    (void)state;
    struct table t = sample();

    CHECK(table_add_row(&t) == 0 && table_add_row(&t) == 1, "rows count from 0");
    CHECK(!strcmp(table_text(&t, 1, "name"), ""), "a fresh text is empty");
    CHECK(isnan(table_real(&t, 1, "f1")), "a fresh real is NaN");
    CHECK(table_count(&t, 1, "bits") == 0 && table_count(&t, 1, "double_quant") == 0,
          "a fresh count is 0");
    table_release(&t);
}

static void cells_keep_their_values(void **state)
{
    (void)state;
    struct table t = sample();

    for (int i = 0; i < 100; i++) {
        char name[16];
        int row = table_add_row(&t);

        snprintf(name, sizeof name, "x%d", i);
        table_set_text(&t, row, "name", "first thought");
        table_set_text(&t, row, "name", name);
        table_set_real(&t, row, "f1", i / 7.0);
        table_set_count(&t, row, "bits", (int64_t)1 << 40 | i);
        table_set_count(&t, row, "double_quant", i & 1);
    }
    for (int i = 0; i < 100; i++) {
        char name[16];

        snprintf(name, sizeof name, "x%d", i);
        CHECK(!strcmp(table_text(&t, i, "name"), name), "row %d keeps its name", i);
        CHECK(table_real(&t, i, "f1") == i / 7.0, "row %d keeps its real", i);
        CHECK(table_count(&t, i, "bits") == ((int64_t)1 << 40 | i), "row %d keeps its count", i);
        CHECK(table_count(&t, i, "double_quant") == (i & 1), "row %d keeps its switch", i);
    }
    table_release(&t);
}

static void a_text_may_be_set_from_itself(void **state)
{
    (void)state;
    struct table t = sample();

    table_add_row(&t);
    table_set_text(&t, 0, "name", "nf4");
    table_set_text(&t, 0, "name", table_text(&t, 0, "name"));
    CHECK(!strcmp(table_text(&t, 0, "name"), "nf4"), "the text survives");
    table_set_text(&t, 0, "name", NULL);
    CHECK(!strcmp(table_text(&t, 0, "name"), ""), "NULL is the empty text");
    table_release(&t);
}

static void a_late_column_is_as_long_as_the_others(void **state)
{
    (void)state;
    struct table t = sample();

    table_add_row(&t);
    table_add_row(&t);
    CHECK(table_add_column(&t, "note", "", "", COLUMN_TEXT, -1) == 4, "it is the fifth column");
    CHECK(!strcmp(table_text(&t, 1, "note"), ""), "old rows have an empty note");
    table_add_row(&t);
    table_set_text(&t, 2, "note", "here");
    CHECK(!strcmp(table_text(&t, 2, "note"), "here"), "new rows have a cell, too");
    table_release(&t);
}

static void asking_for_what_is_not_there_is_answered(void **state)
{
    (void)state;
    struct table t = sample();

    table_add_row(&t);
    CHECK(table_column(&t, "F1") == -1, "names are compared exactly");
    CHECK(!table_text(&t, 0, "f1") && !table_text(&t, 0, "gone"), "no text: NULL");
    CHECK(isnan(table_real(&t, 0, "name")) && isnan(table_real(&t, 0, "gone")), "no real: NaN");
    CHECK(!table_text(&t, 1, "name") && !table_text(&t, -1, "name"), "no row: NULL");
    CHECK(table_count(&t, 0, "gone") == 0, "no count: 0");
    table_release(&t);
}

static void release_is_safe_on_nothing_and_twice(void **state)
{
    (void)state;
    struct table none = TABLE_INIT, t = sample();

    table_release(&none);
    table_add_row(&t);
    table_release(&t);
    table_release(&t);
    CHECK(t.n_rows == 0 && t.n_columns == 0 && !t.columns, "nothing is left");
}

int main(void)
{
    const struct CMUnitTest all[] = {
        cmocka_unit_test(fresh_cells_know_nothing),
        cmocka_unit_test(cells_keep_their_values),
        cmocka_unit_test(a_text_may_be_set_from_itself),
        cmocka_unit_test(a_late_column_is_as_long_as_the_others),
        cmocka_unit_test(asking_for_what_is_not_there_is_answered),
        cmocka_unit_test(release_is_safe_on_nothing_and_twice),
    };

    return cmocka_run_group_tests(all, NULL, NULL);
}
