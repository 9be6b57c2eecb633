#!/usr/bin/env python3
"""Makes choices.json and the files of choices/: multiple choice on the demo model, independently.

    pip install numpy tokenizers jinja2 pyyaml; pip download --no-deps lm_eval==0.4.9.2; unzip it
    python3 make_choices.py LM_EVAL_FOLDER [PIQA_FOLDER]

Prompts, choices and gold answers come from lm-evaluation-harness's own task files: its templates
through jinja2, its Python functions as they are; requests are split as its _encode_pair does.  Ids
are those of `tokenizers`.  The model is a plain Llama in numpy, float64, written for this file.
With PIQA_FOLDER (valid.jsonl, valid-labels.lst) the first questions of the real file come too, by
number alone.
"""

import ast
import importlib.util
import json
import math
import os
import struct
import sys
import types

import jinja2
import numpy as np
import yaml
from tokenizers import Tokenizer

HERE = os.path.dirname(os.path.abspath(__file__))
DEMO = os.path.join(HERE, "../../sweeps/demo")
N_PIQA = 60

# ---- data, in each set's own form ----

HELLASWAG = [
    ("Kite flying", "Nora ran up the hill with a red kite.", "the wind", "c1",
     ["took the kite high into the sky.", "packed five pink flowers.", "is a small brown dog.",
      "was asleep in the kitchen."], 0),
    ("Kite flying", "Karl holds the string.", "nora Laughs AND he", "c1",
     ["lets go of the kite.", "eats the hill.", "is a windy Tuesday.", "cooks the string."], 0),
    ("Baking", "How to bake bread [header] How to bake bread [title] Take flour. [step] Mix it with "
     "water.", "", "c2",
     ["Put it into the oven. [substeps] Wait for an hour.", "Fly it [title] on the hill.",
      "Ask the dog for  rice.", "Read it to the flowers."], 0),
    ("Home and Garden", " How to pack flowers [header]  Choose a box", "élan is ΣΟΦΟΣ and", "c3",
     ["put paper in the box.", "paint the wall pink.", "sing to the market.", "buy a windy day."],
     1),
    ("Walking a dog", "A man walks a dog.", "they", "c4",
     ["meet another dog.", "are six years old cakes [step] twice.", "fly away.", "x"], 3),
    ("Cooking", "Rice is in the pot.", "the cook [", "c2",
     ["adds water.", "adds a kite.", "] adds salt.", "is tired of Tuesday"], 2),
]
ARC = [
    ("Q_1", "Which animal can fly?", ["a dog", "a bird", "a fish", "a cow"], "ABCD", "B"),
    ("Q_2", "What do plants need to grow?", ["sand", "light and water", "cake"], "ABC", "B"),
    ("Q_3", "How many legs has a spider?", ["two", "four", "six", "eight"], "1234", "4"),
    ("Q_4", "Which is hot?", ["ice", "snow", "fire", "rain", "milk"], "ABCDE", "C"),
    ("Q_5", "A windy day moves a kite because of the", ["air", "sun", "moon", "salt"], "ABCD", "A"),
    ("Q_6", "The colour of grass is \"most often\"", ["green", "pink", "red", "blue"], "ABCD", "A"),
]
OPENBOOKQA = [
    ("7-1", "A dog is", ["a plant", "an animal", "a stone", "a cake"], "B"),
    ("7-2", "Nora packed flowers because she wanted to", ["sell them", "eat the box", "fly",
                                                          "sleep"], " A"),
    ("7-3", "When it rains, the ground gets ", ["wet", "hot", "loud", "old"], "A"),
    ("7-4", "Rice is", ["a food", "a colour", "a day", "a man"], "A"),
]
BOOLQ = [
    (0, "Market day -- Karl and Nora were at the market on Tuesday. Karl was six years old.",
     "was karl at the market", True),
    (1, "Kite -- A kite is a toy that flies in the wind.", "is a kite a kind of bread", False),
    (5, "Rice -- Rice is a food. It is white or brown.", "is all rice white", False),
    (9, "Dog (animal) -- A dog is an animal.\nIt barks.", "does a dog bark", True),
]
WINOGRANDE = [
    ("W1-1", "Karl gave the cake to Nora because _ was hungry.", "Karl", "Nora", "2"),
    ("W1-2", "Karl gave the cake to Nora because _ was full.", "Karl", "Nora", "1"),
    ("W2", "The kite did not fit in the box because the _ was too small .", "kite", "box", "2"),
    ("W3", "_ went home, since Nora was not tired and Karl was.", "Nora", "Karl", "2"),
]
MMLU = {
    "anatomy": [("Which is part of the hand?", "the knee", "the thumb", "the ear", "the nose", "B"),
                ("  The heart pumps\nblood. ", "yes", "no", 'he said "no", twice', "never", "A")],
    "high_school_world_history": [
        ("The first market was", "old", "new, and big", "pink", "", "A"),
        ("Which year came last?", "1492", "1789", "1914", "1969", "D"),
        ("Who was tired?", "Nora", "Karl", "the dog", "the kite", "C")],
}
MMLU_DEV = {  # two of them go in front of each question of their subject
    "anatomy": [("Which is an animal?", "a dog", "a stone", "a cake", "a day", "A"),
                ("Which is red? ", "grass", "snow", "blood", "salt", "C"), ("x", "", "", "", "", "D")],
    "high_school_world_history": [("Which was first?", "1492", "1066", "1789", "1914", "B"),
                                  ("Who sold\ncake?", "Karl", "Nora", "a dog", "a kite", "B")],
}
LAMBADA = [
    "It was a windy Tuesday, and Karl and Nora were at the market. Nora was tired, so she went home.",
    "Karl asked for cake, and Nora for rice. After that Nora packed five pink flowers",
    "They talked for a while. It was a windy day, and they were at the market",
    "Karl was six years old. Nora was seven years old",
    "Nora was tired, so she went to the beach",
    "one  word",
    " Karl",
]


def lines(name, rows):
    with open(os.path.join(HERE, "choices", name), "w", encoding="utf-8") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")


def csv_file(name, rows):
    with open(os.path.join(HERE, "choices", name), "w", encoding="utf-8", newline="") as f:
        for row in rows:
            f.write(",".join('"' + x.replace('"', '""') + '"' if any(c in x for c in ',"\n')
                             else x for x in row) + "\n")


def mmlu_doc(subject, row):
    return {"subject": subject, "question": row[0], "choices": list(row[1:5]),
            "answer": "ABCD".index(row[5])}


def write_data():
    """Also what lm-evaluation-harness's tasks get: the same in the form of the Hub."""
    docs = {}
    rows = [{"ind": 10 + i, "activity_label": a, "ctx_a": b, "ctx_b": c, "ctx": f"{b} {c}",
             "split": "val", "split_type": "indomain", "label": label, "endings": e,
             "source_id": f"activitynet~{s}"} for i, (a, b, c, s, e, label) in enumerate(HELLASWAG)]
    lines("hellaswag_val.jsonl", rows)
    docs["hellaswag"] = rows
    for name, data in (("arc_easy", ARC), ("arc_challenge", ARC[::-1])):
        nested = [{"id": i, "question": {"stem": q, "choices": [
            {"text": t, "label": k} for t, k in zip(texts, labels)]}, "answerKey": key}
            for i, q, texts, labels, key in data]
        flat = [{"id": i, "question": q, "choices": {"text": texts, "label": list(labels)},
                 "answerKey": key} for i, q, texts, labels, key in data]
        lines(name + ".jsonl", nested if name == "arc_easy" else flat)
        docs[name] = flat
    nested = [{"id": i, "question": {"stem": q, "choices": [
        {"text": t, "label": k} for t, k in zip(texts, "ABCD")]}, "answerKey": key}
        for i, q, texts, key in OPENBOOKQA]
    lines("openbookqa.jsonl", nested)
    docs["openbookqa"] = [{"id": i, "question_stem": q, "choices": {
        "text": texts, "label": list("ABCD")}, "answerKey": key} for i, q, texts, key in OPENBOOKQA]
    rows = [{"question": q, "passage": p, "idx": i, "label": a} for i, p, q, a in BOOLQ]
    lines("boolq.jsonl", rows)
    docs["boolq"] = [dict(r, label=int(r["label"])) for r in rows]
    rows = [{"qID": i, "sentence": s, "option1": a, "option2": b, "answer": k}
            for i, s, a, b, k in WINOGRANDE]
    lines("winogrande.jsonl", rows)
    docs["winogrande"] = rows
    os.makedirs(os.path.join(HERE, "choices/mmlu/test"), exist_ok=True)
    docs["mmlu"] = []
    for subject, rows in MMLU.items():
        csv_file(os.path.join("mmlu/test", subject + "_test.csv"), rows)
        docs["mmlu"] += [mmlu_doc(subject, r) for r in rows]
    os.makedirs(os.path.join(HERE, "choices/mmlu/dev"), exist_ok=True)
    for subject, rows in MMLU_DEV.items():
        csv_file(os.path.join("mmlu/dev", subject + "_dev.csv"), rows)
    docs["mmlu_2"] = docs["mmlu"]
    rows = [{"text": t} for t in LAMBADA]
    lines("lambada_test.jsonl", rows)
    docs["lambada"] = rows
    return docs


# ---- lm-evaluation-harness's prompts ----

FILES = {
    "hellaswag": "hellaswag/hellaswag.yaml", "arc_easy": "arc/arc_easy.yaml",
    "arc_challenge": "arc/arc_challenge.yaml", "piqa": "piqa/piqa.yaml",
    "winogrande": "winogrande/default.yaml", "openbookqa": "openbookqa/openbookqa.yaml",
    "boolq": "super_glue/boolq/default.yaml", "mmlu": "mmlu/default/_default_template_yaml",
    "mmlu_2": "mmlu/default/_default_template_yaml",
    "lambada": "lambada/lambada_openai.yaml",
}


class DataSet(list):
    def map(self, f):
        return DataSet(dict(d, **f(d)) for d in self)


def load_task(folder, path):
    base = os.path.join(folder, "tasks", os.path.dirname(path))

    def function(loader, node):
        module, name = node.value.rsplit(".", 1)
        sys.modules.setdefault("datasets", types.SimpleNamespace(Dataset=DataSet))
        spec = importlib.util.spec_from_file_location(module, os.path.join(base, module + ".py"))
        loaded = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(loaded)
        return getattr(loaded, name)

    class Loader(yaml.SafeLoader):
        pass

    Loader.add_constructor("!function", function)
    with open(os.path.join(folder, "tasks", path), encoding="utf-8") as f:
        task = yaml.load(f, Loader)
    if "include" in task:
        task = {**load_task(folder, os.path.join(os.path.dirname(path), task["include"])), **task}
    return task


ENVIRONMENT = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)


def applied(what, doc):
    if callable(what):
        return what(doc)
    if isinstance(what, list):
        return what
    if what in doc:
        return doc[what]
    return ENVIRONMENT.from_string(what).render(**doc)


def requests_of(folder, name, docs):
    """[(requests, lengths of the choices, gold)] of each document."""
    task = load_task(folder, FILES[name])
    if "process_docs" in task:
        docs = task["process_docs"](DataSet(docs))
    out = []
    for doc in docs:
        if name == "lambada":
            out.append(([(applied(task["doc_to_text"], doc), applied(task["doc_to_target"], doc))],
                        [1], 0))
            continue
        text = applied(task["doc_to_text"], doc)
        target = applied(task["doc_to_target"], doc)
        choices = applied(task["doc_to_choice"], doc)
        if isinstance(choices, str):
            choices = ast.literal_eval(choices)
        if isinstance(text, int):  # several contexts, one continuation
            out.append(([(c, " " + target) for c in choices], [len(c) for c in choices], text))
            continue
        if name.startswith("mmlu"):
            subject = doc["subject"].replace("_", " ")
            # api/samplers.py: text, a blank, the letter, two line ends.
            shots = "".join(applied(task["doc_to_text"], d) + " " + choices[d["answer"]] + "\n\n"
                            for d in (mmlu_doc(doc["subject"], r) for r in
                                      MMLU_DEV[doc["subject"]][:2]) if name == "mmlu_2")
            text = ("The following are multiple choice questions (with answers) about "
                    f"{subject}.\n\n{shots}{text}")
        out.append(([(text, " " + c) for c in choices], [len(c) for c in choices], int(target)))
    return out


# ---- ids ----

def encoded(tokenizer, context, continuation, bos):
    if context == "":
        prefix = tokenizer.token_to_id("<|begin_of_text|>")
        return [prefix], tokenizer.encode(continuation, add_special_tokens=False).ids
    n = len(context) - len(context.rstrip())
    if n:
        continuation, context = context[-n:] + continuation, context[:-n]
    whole = tokenizer.encode(context + continuation, add_special_tokens=bos).ids
    return (whole[:len(tokenizer.encode(context, add_special_tokens=bos).ids)],
            whole[len(tokenizer.encode(context, add_special_tokens=bos).ids):])


# ---- the model ----

def load_weights(folder):
    with open(os.path.join(folder, "model.safetensors"), "rb") as f:
        n = struct.unpack("<Q", f.read(8))[0]
        header = json.loads(f.read(n))
        data = f.read()
    out = {}
    for name, t in header.items():
        if name != "__metadata__":
            a, b = t["data_offsets"]
            assert t["dtype"] == "BF16"
            bits = np.frombuffer(data[a:b], "<u2").astype(np.uint32) << 16
            out[name] = bits.view(np.float32).astype(np.float64).reshape(t["shape"])
    return out


class Llama:
    def __init__(self, folder):
        with open(os.path.join(folder, "config.json"), encoding="utf-8") as f:
            self.c = json.load(f)
        self.w = load_weights(folder)

    def norm(self, x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + self.c["rms_norm_eps"]) * self.w[name]

    def log_probabilities(self, ids):
        c, w, n = self.c, self.w, len(ids)
        heads, groups, e = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        inverse = c["rope_theta"] ** (-np.arange(0, e, 2) / e)
        angle = np.arange(n)[:, None] * inverse
        cos, sin = np.cos(np.hstack([angle, angle])), np.sin(np.hstack([angle, angle]))

        def turn(x):
            half = np.concatenate([-x[..., e // 2:], x[..., :e // 2]], -1)
            return x * cos[:, None] + half * sin[:, None]

        x = w["model.embed_tokens.weight"][ids]
        mask = np.triu(np.full((n, n), -np.inf), 1)
        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            u = self.norm(x, p + "input_layernorm.weight")
            q, k, v = (u @ w[p + f"self_attn.{a}_proj.weight"].T for a in "qkv")
            q, k = turn(q.reshape(n, heads, e)), turn(k.reshape(n, groups, e))
            k, v = (np.repeat(a.reshape(n, groups, e), heads // groups, 1) for a in (k, v))
            s = np.einsum("the,she->hts", q, k) / math.sqrt(e) + mask
            s = np.exp(s - s.max(-1, keepdims=True))
            a = np.einsum("hts,she->the", s / s.sum(-1, keepdims=True), v).reshape(n, heads * e)
            x = x + a @ w[p + "self_attn.o_proj.weight"].T
            u = self.norm(x, p + "post_attention_layernorm.weight")
            gate = u @ w[p + "mlp.gate_proj.weight"].T
            up = u @ w[p + "mlp.up_proj.weight"].T
            x = x + (gate / (1 + np.exp(-gate)) * up) @ w[p + "mlp.down_proj.weight"].T
        logits = self.norm(x, "model.norm.weight") @ w["model.embed_tokens.weight"].T
        logits = logits - logits.max(-1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def scores(model, tokenizer, requests, bos):
    sums, greedy = [], True
    for context, continuation in requests:
        a, b = encoded(tokenizer, context, continuation, bos)
        assert a and b
        rows = model.log_probabilities((a + b)[:-1])[-len(b):]
        sums.append(float(rows[np.arange(len(b)), b].sum()))
        greedy = greedy and bool((rows.argmax(-1) == b).all())
        top = np.sort(rows, -1)
        assert (top[:, -1] - top[:, -2]).min() > 1e-5, "a greedy choice hangs on rounding"
    return sums, greedy


def first_largest(x):
    top = np.sort(x)
    assert len(x) == 1 or top[-1] - top[-2] > 1e-4 or top[-1] == top[-2], "hangs on rounding"
    return int(np.argmax(x))


def result(folder, name, docs, model, tokenizer, bos):
    out = {"log_likelihood": [], "gold": [], "chosen": [], "chosen_norm": [], "greedy": []}
    for requests, lengths, gold in requests_of(folder, name, docs):
        sums, greedy = scores(model, tokenizer, requests, bos)
        out["log_likelihood"].append(sums)
        out["gold"].append(gold)
        out["chosen"].append(first_largest(np.array(sums)))
        out["chosen_norm"].append(first_largest(np.array(sums) / np.array(lengths, float)))
        out["greedy"].append(greedy)
    if name != "lambada":
        del out["greedy"]
    return out


def main():
    folder = sys.argv[1]
    docs = write_data()
    if len(sys.argv) > 2:
        with open(os.path.join(sys.argv[2], "valid.jsonl"), encoding="utf-8") as f:
            docs["piqa"] = [json.loads(line) for line in f][:N_PIQA]
        with open(os.path.join(sys.argv[2], "valid-labels.lst"), encoding="utf-8") as f:
            for doc, label in zip(docs["piqa"], f):
                doc["label"] = int(label)
    model = Llama(DEMO)
    tokenizer = Tokenizer.from_file(os.path.join(DEMO, "tokenizer.json"))
    out = {"made_by": "lm-evaluation-harness 0.4.9.2's task files, tokenizers, numpy in float64"}
    for profile, bos in (("lm-eval-0.4.12", True), ("lm-eval-0.4.9", False)):
        out[profile] = {n: result(folder, n, d, model, tokenizer, bos)
                        for n, d in docs.items() if n != "piqa" or bos}
    with open(os.path.join(HERE, "choices.json"), "w", encoding="utf-8") as f:
        json.dump(out, f, indent=None, separators=(",", ":"))
        f.write("\n")


if __name__ == "__main__":
    main()
