/* test_gather.c - what engines of a node tell each other: who is waited for, who hears what. */
#include "check.h"

#include "sched/engine.h"
#include "sched/gather.h"

#include <string.h>

static struct gather g;

static void begin(const char *hosts) /* one letter a rank */
{
    gather_init(&g, (int)strlen(hosts));
    for (int i = 0; hosts[i]; i++)
        gather_host(&g, i, (char[]){ hosts[i], 0 });
}

static void tell(int rank, const char *text)
{
    gather_told(&g, rank, text, strlen(text));
}

/* Exactly these answers are due, each the same text: "0:a 2:b". */
static void answers(const char *ranks, const char *want)
{
    struct bytes out = BYTES_INIT;

    for (int i = 0; ranks[i]; i++) {
        struct bytes text = BYTES_INIT;
        size_t at = 0, n;
        const char *bytes;
        int rank, told = gather_answer(&g, &out);

        CHECK(told == ranks[i] - '0', "rank %c is answered, not %d", ranks[i], told);
        bytes_add(&text, "", 0);
        while (engine_heard(&out, &at, &rank, &bytes, &n))
            bytes_printf(&text, "%s%d:%.*s", text.n ? " " : "", rank, (int)n, bytes);
        CHECK(at == out.n, "the answer is read to its end");
        CHECK(!strcmp(text.data, want), "it hears \"%s\", not \"%s\"", want, text.data);
        bytes_release(&text);
        bytes_release(&out);
    }
    CHECK(gather_answer(&g, &out) < 0, "nobody else is answered");
}

static void everyone_hears_everyone(void **state)
{
    (void)state;
    begin("aaa");
    tell(2, "two");
    tell(0, "zero");
    answers("", "");
    tell(1, "one");
    answers("012", "0:zero 1:one 2:two");
    tell(1, "again");
    tell(2, "second round");
    tell(0, "x");
    answers("012", "0:x 1:again 2:second round");
    gather_release(&g);
}

static void nodes_are_apart(void **state)
{
    (void)state;
    begin("abab");
    tell(0, "p");
    tell(1, "q");
    tell(2, "r");
    answers("02", "0:p 2:r");
    tell(3, "s");
    answers("13", "1:q 3:s");
    gather_release(&g);
}

static void nobody_waits_for_who_left(void **state)
{
    (void)state;
    begin("aaaa");
    gather_left(&g, 3);
    tell(0, "p");
    tell(1, "q");
    answers("", "");
    gather_left(&g, 2);
    gather_left(&g, 2);
    answers("01", "0:p 1:q");
    tell(0, "p");
    gather_left(&g, 0); /* lost while it waits: its word is lost, too */
    tell(1, "alone");
    answers("1", "1:alone");
    tell(0, "back");
    answers("", "");
    tell(1, "still");
    answers("1", "1:still");
    gather_left(&g, 1);
    answers("", "");
    gather_release(&g);
    gather_release(&g);
}

static void one_rank(void **state)
{
    (void)state;
    begin("a");
    tell(0, "to myself");
    answers("0", "0:to myself");
    gather_release(&g);
}

static void bytes_that_are_no_answer(void **state)
{
    (void)state;
    struct bytes b = BYTES_INIT;
    int64_t front[2] = { 0, 5 };
    const char *bytes;
    size_t n, at = 0;
    int rank;

    CHECK(!engine_heard(&b, &at, &rank, &bytes, &n), "nothing holds no word");
    bytes_add(&b, front, sizeof front);
    bytes_add(&b, "abcd", 4);
    CHECK(!engine_heard(&b, &at, &rank, &bytes, &n), "a word that is cut is none");
    at = 0;
    bytes_add(&b, "e", 1);
    CHECK(engine_heard(&b, &at, &rank, &bytes, &n) && n == 5 && !memcmp(bytes, "abcde", 5),
          "a whole one is");
    bytes_release(&b);
}

static void who_begins_again_tells_anew(void **state)
{
    (void)state;
    begin("aa");
    tell(0, "old");
    gather_forget(&g, 0);
    tell(1, "one");
    answers("", "");
    tell(0, "new");
    gather_forget(&g, 1);
    answers("0", "0:new 1:one");
    gather_release(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(who_begins_again_tells_anew),
        cmocka_unit_test(everyone_hears_everyone),
        cmocka_unit_test(nodes_are_apart),
        cmocka_unit_test(nobody_waits_for_who_left),
        cmocka_unit_test(one_rank),
        cmocka_unit_test(bytes_that_are_no_answer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
