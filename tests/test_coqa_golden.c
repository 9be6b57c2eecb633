/* coqa_scores.json of the golden folder: what lm-evaluation-harness scores. */
#include "check.h"

#include "base/js.h"
#include "base/memory.h"
#include "eval/score_answer.h"

static struct text text_of(const struct js *j)
{
    CHECK(js_text(j), "a case has its texts");
    return (struct text){ js_text(j), js_text_bytes(j) };
}

/* The larger deviation of em and f1 of one case. */
static double off_by(const struct js *c, size_t i)
{
    const struct js *gold = js_get(c, "gold");
    struct text generated = text_of(js_get(c, "generated"));
    size_t n_golds = js_count(gold);
    struct text *golds = mem_array(n_golds, sizeof *golds);

    CHECK(n_golds >= 1, "case %zu has golds", i);
    for (size_t k = 0; k < n_golds; k++)
        golds[k] = text_of(js_at(gold, k));
    struct text answer = answer_of_generated(generated.data, generated.n, NULL);
    n_golds = answer_distinct(golds, n_golds);
    struct answer_score s = answer_score_all(golds, n_golds, answer);
    double em = fabs(s.em - js_real(js_get(c, "em"))), f1 = fabs(s.f1 - js_real(js_get(c, "f1")));
    CHECK(em <= 1e-9 && f1 <= 1e-9, "case %zu: \"%.60s\" em %g f1 %g", i, generated.data, s.em,
          s.f1);
    free(golds);
    return fmax(em, f1);
}

static void the_harness_scores(void **state)
{
    char path[4096];
    struct err e = ERR_INIT;
    double largest = 0;

    (void)state;
    snprintf(path, sizeof path, "%s/coqa_scores.json", check_golden());
    struct js *cases = js_read(path, &e);
    CHECK(cases, "the vectors can be read: %s", e.text);
    for (size_t i = 0; i < js_count(cases); i++)
        largest = fmax(largest, off_by(js_at(cases, i), i));
    check_report("coqa_scores.json", 2 * (long)js_count(cases), largest, 1e-9);
    js_release(cases);
}

int main(void)
{
    const struct CMUnitTest tests[] = { cmocka_unit_test(the_harness_scores) };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
