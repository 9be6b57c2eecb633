"""Exact match and F1 of CoQA as lm-evaluation-harness computes them."""

import collections
import re
import string


def normalise(text):
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def exact(gold, prediction):
    return float(normalise(gold) == normalise(prediction))


def f1(gold, prediction):
    g, p = normalise(gold).split(), normalise(prediction).split()
    if not g or not p:
        return float(g == p)
    common = sum((collections.Counter(g) & collections.Counter(p)).values())
    return 2.0 * common / (len(g) + len(p)) if common else 0.0


def golds(record, turn):
    """The main answer, then the others that differ from all before when lower-cased."""
    answers = [record["answers"][turn]["input_text"]]
    for key in "012":
        answer = record["additional_answers"][key][turn]["input_text"]
        if answer.lower() not in [x.lower() for x in answers]:
            answers.append(answer)
    return answers


def score(metric, answers, prediction):
    """Mean over the golds, each left out in turn, of the best of the others."""
    if len(answers) == 1:
        return metric(answers[0], prediction)
    best = [max(metric(g, prediction) for j, g in enumerate(answers) if j != i)
            for i in range(len(answers))]
    return sum(best) / len(best)


def prompt(record, turn):
    """Story, earlier turns with their gold answers, and the question of `turn`."""
    text = record["story"] + "\n\n"
    for q, a in zip(record["questions"][:turn], record["answers"][:turn]):
        text += f"Q: {q['input_text']}\n\nA: {a['input_text']}\n\n"
    return text + f"Q: {record['questions'][turn]['input_text']}\n\nA:"
