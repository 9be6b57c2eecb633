#!/usr/bin/env python3
"""Makes the demo data: stories with question-and-answer conversations.

Standard library only; every output byte follows from the seeds below.

    python3 generate.py [--out DIR]

writes coqa-demo.json (held-out stories in CoQA's official schema), heldout.txt
(held-out text for perplexity) and calibration.txt.  train.py and
train_tokenizer.py draw their training documents from `documents()`.
A document is what lm-eval's CoQA task shows a model: the story, a blank line,
and per turn "Q: ...", blank line, "A: ...", blank line.
"""

import argparse
import json
import os
import random

import words as w
from story import Person, Story, Thing

COQA_SEED, HELDOUT_SEED, CALIBRATION_SEED, TRAIN_SEED = 101, 202, 303, 1000
N_STORIES = 240
HELDOUT_BYTES = 64_000
CALIBRATION_BYTES = 200_000


class Mention:
    """An entity in a question, written {x:case}, as name or as pronoun."""

    def __init__(self, entity, pronoun):
        self.entity, self.pronoun, self.used = entity, pronoun, False

    def __format__(self, case):
        self.used = True
        return self.entity.word(case, self.pronoun)


class Conversation:
    """Puts a story's questions in an order and words them by what was said before."""

    def __init__(self, story, rng):
        self.story, self.rng = story, rng
        self.turns = []              # (Ask, question text, answer text)
        self.focus = {}              # "f", "m", "thing" -> (entity, turn of last mention)
        events = list(story.events)
        if rng.random() < 0.4:
            rng.shuffle(events)
        n_turns = rng.randrange(4, 9)
        for i, event in enumerate(events):
            left = n_turns - len(self.turns)
            share = -(-left // (len(events) - i))
            self.ask_about(event, min(left, share + rng.choice([-1, 0, 0, 1])))
        for event in rng.sample(events, len(events)):       # top up to at least four
            if len(self.turns) >= 4:
                break
            self.ask_about(event, 1)

    def ask_about(self, event, n):
        told, tag = set(), ""
        asked = [turn[0] for turn in self.turns]
        for _ in range(n):
            free = [q for q in event if q.wants not in told and q.wants != "never"
                    and (not q.after or q.after == tag) and not any(q is x for x in asked)]
            followers = [q for q in free if q.after]
            if not free:
                return
            openers = [q for q in free if q.wants == "thing" and not tag and not told]
            if followers and self.rng.random() < 0.5:
                free = followers
            elif openers and self.rng.random() < 0.2:
                free = openers
            ask = self.rng.choice(free)
            self.word(ask)
            asked.append(ask)
            told |= ask.tells
            tag = ask.tag

    @staticmethod
    def slot(entity):
        return entity.sex if isinstance(entity, Person) else "thing"

    def in_focus(self, entity):
        known, turn = self.focus.get(self.slot(entity), (None, -9))
        return known is entity and turn >= len(self.turns) - 1

    def word(self, ask):
        mentions = {k: Mention(e, self.in_focus(e) and self.rng.random() < 0.8)
                    for k, e in ask.who.items()}
        text = self.rng.choice(ask.forms).format(**mentions)
        turn = len(self.turns)
        seen = [m.entity for m in mentions.values() if m.used or isinstance(m.entity, Thing)]
        for entity in seen + ([ask.subject] if ask.subject else []):
            self.focus[self.slot(entity)] = (entity, turn)
        self.turns.append((ask, text, ask.answer))


def variants(ask, rng):
    """How three more people would answer: the same in other words, case or punctuation."""
    answer = ask.answer
    style, _, noun = ask.style.partition(":")
    capital = answer[0].upper() + answer[1:]
    pool = [answer, answer, capital, answer + ".", capital + "."]
    if style == "yes-no":
        pool += [capital, capital]
    elif style == "number":
        pool += [capital] if answer == "one" else [f"{answer} {noun}", capital]
    elif style == "noun":
        bare = answer.split(" ", 1)[1]
        pool += [bare, "the " + bare, capital, "The " + bare, "It was " + answer]
    elif style == "place":
        bare = answer.split(" ", 1)[1] if " " in answer else answer
        pool += [bare, capital, bare]
    elif style == "name":
        pool += [capital, "It was " + answer]
    elif style == "people":
        pool += [" and ".join(reversed(answer.split(" and ")))] * 2
    elif style == "things":
        pool += [capital, "the " + answer]
    return [rng.choice(pool) for _ in range(3)]


def draw(rng):
    source = rng.choice(sorted(w.SOURCES))
    story = Story(source, rng)
    return source, story, Conversation(story, rng)


def document(story, conversation):
    turns = "".join(f"Q: {q}\n\nA: {a}\n\n" for _, q, a in conversation.turns)
    return " ".join(story.sentences) + "\n\n" + turns


def documents(seed, avoid=frozenset()):
    """Endless documents of a seed whose story text is not in `avoid`."""
    rng = random.Random(seed)
    while True:
        _, story, conversation = draw(rng)
        if " ".join(story.sentences) not in avoid:
            yield document(story, conversation)


def coqa_record(number, rng, seen):
    while True:
        source, story, conversation = draw(rng)
        text = " ".join(story.sentences)
        if text not in seen:
            break
    seen.add(text)
    starts, at = [], 0
    for sentence in story.sentences:
        starts.append(at)
        at += len(sentence) + 1
    record = {"source": source, "id": f"demo-{number:04d}",
              "filename": f"{source}-{number:04d}.txt", "story": text, "questions": [],
              "answers": [], "additional_answers": {"0": [], "1": [], "2": []},
              "name": f"{source}-{number:04d}.txt"}
    for turn, (ask, question, answer) in enumerate(conversation.turns, start=1):
        sentence, start = story.sentences[ask.sentence], starts[ask.sentence]
        at = sentence.find(answer)
        spans = [(start, start + len(sentence))]
        if at >= 0:
            spans.append((start + at, start + at + len(answer)))

        def entry(words, span):
            return {"span_start": span[0], "span_end": span[1],
                    "span_text": text[span[0]:span[1]], "input_text": words, "turn_id": turn}

        record["questions"].append({"input_text": question, "turn_id": turn})
        record["answers"].append(entry(answer, spans[0]))
        for key, words in zip("012", variants(ask, rng)):
            record["additional_answers"][key].append(entry(words, rng.choice(spans)))
    return record, [ask.kind for ask, _, _ in conversation.turns]


def held_out():
    """The CoQA records, their story texts, and the kind of every question."""
    rng, seen = random.Random(COQA_SEED), set()
    pairs = [coqa_record(i, rng, seen) for i in range(N_STORIES)]
    return [record for record, _ in pairs], seen, [kinds for _, kinds in pairs]


def text_of(seed, n_bytes, avoid):
    """Documents up to n_bytes, and the story texts in them."""
    parts, size, stories = [], 0, set()
    for doc in documents(seed, avoid):
        if size + len(doc) > n_bytes:
            return "".join(parts), stories
        parts.append(doc)
        stories.add(doc.split("\n\n", 1)[0])
        size += len(doc)


def held_out_stories():
    """Every story text that training must not see."""
    _, stories, _ = held_out()
    return stories | text_of(HELDOUT_SEED, HELDOUT_BYTES, stories)[1]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default=os.path.dirname(os.path.abspath(__file__)))
    out = parser.parse_args().out
    records, stories, _ = held_out()
    with open(os.path.join(out, "coqa-demo.json"), "w") as f:
        lines = ",\n".join(json.dumps(record) for record in records)
        f.write('{"version": "1.0", "data": [\n' + lines + "\n]}\n")
    heldout, more = text_of(HELDOUT_SEED, HELDOUT_BYTES, stories)
    with open(os.path.join(out, "heldout.txt"), "w") as f:
        f.write(heldout)
    with open(os.path.join(out, "calibration.txt"), "w") as f:
        f.write(text_of(CALIBRATION_SEED, CALIBRATION_BYTES, stories | more)[0])


if __name__ == "__main__":
    main()
