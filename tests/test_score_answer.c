/* test_score_answer.c - CoQA's scores: the reference's table, Python's ideas of text.
 */
#include "check.h"

#include "base/rng.h"
#include "eval/score_answer.h"

#include <string.h>

#define T(s) ((struct text){ s, sizeof(s) - 1 })

/* Answers and their scores by the official rule. */
static void the_table(void **state)
{
    static const struct {
        const char *golds[4], *prediction;
        double em, f1, em_official, f1_official;
    } rows[] = {
        { { "white", "white", "White", "It was white" }, "white", 0.5, 0.75, 1, 1 },
        { { "white", "white", "white", "white" }, "white", 1, 1, 1, 1 },
        { { "white" }, "The white.", 1, 1, 1, 1 },
        { { "a barn", "in a barn", "the barn" }, "barn", 1, 1, 1, 1 },
        { { "red and blue", "blue and red", "red, blue" }, "blue and red", 2.0 / 3, 1, 2.0 / 3, 1 },
        { { "the" }, "a", 1, 1, 1, 1 },
        { { "" }, "the", 1, 1, 1, 1 },
        { { "unknown" }, "", 0, 0, 0, 0 },
        { { "U.S.A." }, "usa", 1, 1, 1, 1 },
        { { "the-end" }, "the end", 0, 0, 0, 0 },
        { { "42" }, "42.0", 0, 0, 0, 0 },
        { { "It\xE2\x80\x99s red" }, "its red", 0, 0.5, 0, 0.5 },
        { { "an apple a day" }, "apple day apple", 0, 0.8, 0, 0.8 },
        { { "two  spaces" }, "two\xC2\xA0\xC2\xA0spaces", 1, 1, 1, 1 },
        { { "a\xCC\x81" }, "\xCC\x81", 1, 1, 1, 1 },
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        struct text golds[4], p = { rows[i].prediction, strlen(rows[i].prediction) };
        size_t n = 0;
        while (n < 4 && rows[i].golds[n]) {
            golds[n] = (struct text){ rows[i].golds[n], strlen(rows[i].golds[n]) };
            n++;
        }
        struct answer_score official = answer_score_all(golds, n, p);
        struct answer_score s = answer_score_all(golds, answer_distinct(golds, n), p);
        CHECK(check_near(s.em, rows[i].em, 1e-12) && check_near(s.f1, rows[i].f1, 1e-12),
              "row %zu scores %g / %g", i, s.em, s.f1);
        CHECK(check_near(official.em, rows[i].em_official, 1e-12) &&
                  check_near(official.f1, rows[i].f1_official, 1e-12),
              "row %zu scores officially %g / %g", i, official.em, official.f1);
    }
}

static void normalised(const char *s, const char *want)
{
    struct bytes out = BYTES_INIT;

    bytes_text(&out, "");
    answer_normalise(s, strlen(s), &out);
    CHECK(strcmp(out.data, want) == 0, "\"%s\" becomes \"%s\", not \"%s\"", s, want, out.data);
    bytes_release(&out);
}

static void python_decides_what_a_word_is(void **state)
{
    (void)state;
    normalised("", "");
    normalised(" The  Cat,\tan\nowl ", "cat owl");
    normalised("A_B the", "ab");                    /* _ is punctuation and goes first */
    normalised("x\x1C\x1Fy", "x y");                /* white space to Python alone */
    normalised("x\xE2\x80\x8By", "x\xE2\x80\x8By"); /* zero width space is none */
    normalised("a\xC2\xB2 a\xE2\x84\xA2", "a\xC2\xB2 \xE2\x84\xA2"); /* 2 is a word's, TM is not */
    normalised("\xC4\xB0stanbul", "i\xCC\x87stanbul");               /* two code points */
    normalised("\xCE\xA3\xCE\x91\xCE\xA3 \xCE\xA3.", "\xCF\x83\xCE\xB1\xCF\x82 \xCF\x83");
    normalised("\xC3\x89T\xC3\x89 \xD0\x96", "\xC3\xA9t\xC3\xA9 \xD0\xB6");
    normalised("the\xE2\x80\x99s", "\xE2\x80\x99s"); /* the curly apostrophe ends the word */
}

static void the_answer_of_a_text(void **state)
{
    static const struct {
        const char *generated, *eos, *answer;
        bool over;
    } rows[] = {
        { "", NULL, "", false },
        { " white", NULL, "white", false },
        { " white\n", NULL, "white", true },
        { "\n\n", NULL, "", false },
        { "\n white \nmore", NULL, "white ", true },
        { " white\nQ: what?", NULL, "white", true },
        { "\nQ: what?", NULL, "", true },
        { "\nQ", NULL, "Q", false },
        { " Q: no line end before", NULL, "Q: no line end before", false },
        { " white</s> more", "</s>", "white", false },
        { "white\r\nred", NULL, "white\r", true }, /* only LF parts lines, as in lm-eval */
        { "\xC2\xA0white\xE3\x80\x80", NULL, "white", false },
    };

    (void)state;
    for (size_t i = 0; i < sizeof rows / sizeof rows[0]; i++) {
        size_t n = strlen(rows[i].generated);
        struct text a = answer_of_generated(rows[i].generated, n, rows[i].eos);
        CHECK(a.n == strlen(rows[i].answer) && memcmp(a.data, rows[i].answer, a.n) == 0,
              "row %zu gives \"%s\", not \"%.*s\"", i, rows[i].answer, (int)a.n, a.data);
        CHECK(answer_is_over(rows[i].generated, n) == rows[i].over, "row %zu is over: %d", i,
              rows[i].over);
    }
}

/* Stopping when the answer is over never changes a score: any continuation scores the same. */
static void stopping_early_is_safe(void **state)
{
    static const char *const parts[] = { "white", " ",     "\n",   "Q:", "\nQ:", "the",
                                         "\t",    "a red", "</s>", ".",  "A:" };
    struct text golds[] = { T("white"), T("red"), T("a white one") };
    uint64_t at = 0;
    long n_over = 0;

    (void)state;
    for (int round = 0; round < 3000; round++) {
        struct bytes text = BYTES_INIT;
        size_t n_stop = 0;
        bytes_text(&text, "");
        for (int i = 0; i < 8; i++) {
            bytes_text(&text, parts[rng_below(3, RNG_TEST, at++, sizeof parts / sizeof *parts)]);
            if (n_stop == 0 && answer_is_over(text.data, text.n))
                n_stop = text.n;
        }
        if (n_stop) {
            n_over++;
            struct answer_score early =
                answer_score_all(golds, 3, answer_of_generated(text.data, n_stop, "</s>"));
            struct answer_score late =
                answer_score_all(golds, 3, answer_of_generated(text.data, text.n, "</s>"));
            CHECK(early.em == late.em && early.f1 == late.f1, "\"%s\" at %zu", text.data, n_stop);
        }
        bytes_release(&text);
    }
    CHECK(n_over > 1000, "many answers were over: %ld", n_over);
}

static void precision_and_recall(void **state)
{
    struct answer_score s = answer_score_one(T("red and blue"), T("blue"));

    (void)state;
    CHECK(check_near(s.precision, 1, 1e-12) && check_near(s.recall, 1.0 / 3, 1e-12) &&
              check_near(s.f1, 0.5, 1e-12),
          "one of three words, all of them right");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_table),
        cmocka_unit_test(python_decides_what_a_word_is),
        cmocka_unit_test(the_answer_of_a_text),
        cmocka_unit_test(stopping_early_is_safe),
        cmocka_unit_test(precision_and_recall),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
