#!/usr/bin/env python3
"""What the demo model reaches, unquantized and quantized: CoQA's last turn and perplexity.

    python3 evaluate.py [--model DIR] [--device cuda] [--reference FILE]

One row per configuration; 95% intervals by Student's t, over stories for F1 and over
windows for perplexity.  --reference writes the numbers, and some greedy answers, as JSON.
"""

import argparse
import collections
import json
import math
import os
import statistics

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch.nn.attention import SDPBackend, sdpa_kernel

import coqa_score
import fake_quantize
import generate
import llama

HERE = os.path.dirname(os.path.abspath(__file__))
MAX_NEW_TOKENS = 256
WINDOWS = (256, 512)
CONFIGS = [("none", "float32"), ("none", "bfloat16"), ("nf4", "float32"), ("rtn8", "float32"),
           ("rtn4", "float32"), ("rtn3", "float32"), ("rtn2", "float32")]


def t_quantile(df):
    """97.5% point of Student's t (Cornish-Fisher; four digits for df >= 20)."""
    z = statistics.NormalDist().inv_cdf(0.975)
    return (z + (z**3 + z) / (4 * df) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * df**2)
            + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * df**3))


def interval(values):
    mean = statistics.fmean(values)
    half = t_quantile(len(values) - 1) * statistics.stdev(values) / math.sqrt(len(values))
    return mean, mean - half, mean + half


@torch.no_grad()
def greedy(model, tokenizer, prompts, device, max_new=MAX_NEW_TOKENS):
    """Answers (up to "\\nQ:" or the end token, stripped, first line) and their token counts."""
    eos = model.config["eos_token_id"]
    rows = [tokenizer.encode(p).ids for p in prompts]
    starts = [len(r) for r in rows]
    live = list(range(len(rows)))
    for _ in range(max_new):
        length = max(len(rows[i]) for i in live)
        ids = torch.full((len(live), length), eos, device=device)
        for k, i in enumerate(live):
            ids[k, :len(rows[i])] = torch.tensor(rows[i], device=device)
        last = torch.tensor([len(rows[i]) - 1 for i in live], device=device)
        logits = model(ids)[torch.arange(len(live), device=device), last]
        still = []
        for i, token in zip(live, logits.argmax(-1).tolist()):
            if token == eos:
                continue
            rows[i].append(token)
            if "\n" not in tokenizer.decode(rows[i][starts[i]:]).lstrip():
                still.append(i)
        live = still
        if not live:
            break
    texts = [tokenizer.decode(r[s:]).split("\nQ:")[0].strip().split("\n")[0]
             for r, s in zip(rows, starts)]
    return texts, [len(r) - s for r, s in zip(rows, starts)]


@torch.no_grad()
def window_nll(model, tokenizer, text, length, device):
    """Mean negative log-likelihood of each window of `length` tokens (GPTQ's protocol)."""
    ids = tokenizer.encode(text).ids
    n = len(ids) // length
    windows = torch.tensor(ids[:n * length], device=device).view(n, length)
    means = []
    for chunk in windows.split(16):
        logits = model(chunk)[:, :-1].float()
        nll = F.cross_entropy(logits.transpose(1, 2), chunk[:, 1:], reduction="none")
        means += nll.double().mean(dim=1).tolist()
    return means


def last_turn(model, tokenizer, records, device, max_new=MAX_NEW_TOKENS):
    """Per story: prediction, F1, exact match, tokens generated."""
    turns = [len(r["questions"]) - 1 for r in records]
    texts, counts = greedy(model, tokenizer,
                           [coqa_score.prompt(r, t) for r, t in zip(records, turns)],
                           device, max_new)
    golds = [coqa_score.golds(r, t) for r, t in zip(records, turns)]
    return (texts, [coqa_score.score(coqa_score.f1, g, p) for g, p in zip(golds, texts)],
            [coqa_score.score(coqa_score.exact, g, p) for g, p in zip(golds, texts)], counts)


def ceiling(records):
    """What someone who gives the main answer every time would score."""
    return statistics.fmean(
        coqa_score.score(coqa_score.f1, coqa_score.golds(r, len(r["answers"]) - 1),
                         r["answers"][-1]["input_text"]) for r in records)


def by_key(keys, values):
    groups = collections.defaultdict(list)
    for key, value in zip(keys, values):
        groups[key].append(value)
    return {k: {"n": len(v), "f1": statistics.fmean(v)} for k, v in sorted(groups.items())}


def evaluate(folder, method, dtype, tokenizer, records, text, device):
    model = llama.load(folder, device)
    fake_quantize.apply(model, method)
    model = model.to(getattr(torch, dtype))
    texts, f1, em, counts = last_turn(model, tokenizer, records, device)
    row = {"method": method, "dtype": dtype, "f1": interval(f1), "em": interval(em),
           "tokens_per_answer": statistics.fmean(counts), "per_item_f1": f1, "predictions": texts}
    for length in WINDOWS:
        nll = window_nll(model, tokenizer, text, length, device)
        row[f"nll_{length}"] = nll
        row[f"perplexity_{length}"] = [math.exp(x) for x in interval(nll)]
    return row


def table(rows):
    base = rows[0]
    lines = ["| method | compute | F1 (95%) | EM | F1 - base (95%) | perplexity, window 256 (95%) "
             "| window 512 (95%) | ratio to base (95%) | tokens/answer |",
             "|---|---|---|---|---|---|---|---|---|"]
    for r in rows:
        diff = interval([a - b for a, b in zip(r["per_item_f1"], base["per_item_f1"])])
        ratio = [math.exp(x) for x in
                 interval([a - b for a, b in zip(r["nll_256"], base["nll_256"])])]

        def cell(x, digits=3):
            return f"{x[0]:.{digits}f} ({x[1]:.{digits}f}–{x[2]:.{digits}f})"

        lines.append(f"| {r['method']} | {r['dtype']} | {cell(r['f1'])} | {r['em'][0]:.3f} | "
                     f"{diff[0]:+.3f} ({diff[1]:+.3f} to {diff[2]:+.3f}) | "
                     f"{cell(r['perplexity_256'])} | {cell(r['perplexity_512'])} | "
                     f"{cell(ratio, 4)} | {r['tokens_per_answer']:.1f} |")
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=HERE)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--reference")
    args = parser.parse_args()
    torch.backends.cuda.matmul.allow_tf32 = False
    tokenizer = Tokenizer.from_file(os.path.join(HERE, "tokenizer.json"))
    with open(os.path.join(HERE, "coqa-demo.json")) as f:
        records = json.load(f)["data"]
    with open(os.path.join(HERE, "heldout.txt")) as f:
        text = f.read()
    with sdpa_kernel(SDPBackend.MATH):       # plain fp32 sums, nothing in TF32
        rows = [evaluate(args.model, m, d, tokenizer, records, text, args.device)
                for m, d in CONFIGS]
    kinds = [k[-1] for k in generate.held_out()[2]]
    whole = [coqa_score.prompt(r, len(r["questions"]) - 1) for r in records]
    longest = max(len(tokenizer.encode(p).ids) for p in whole)
    print(table(rows))
    print(f"\nmain annotator's own F1 {ceiling(records):.3f}; longest prompt {longest} tokens; "
          f"{len(records)} stories")
    for r in rows:
        r["by_kind"] = by_key(kinds, r["per_item_f1"])
        r["by_source"] = by_key([x["source"] for x in records], r["per_item_f1"])
        for key in ("by_kind", "by_source"):
            print(f"{r['method']:5s} {r['dtype']:8s}", ", ".join(
                f"{k} {v['f1']:.3f} (n={v['n']})" for k, v in r[key].items()))
    if args.reference:
        keep = {"f1": "f1", "em": "em", "tokens_per_answer": "tokens_per_answer",
                "by_kind": "by_kind", "by_source": "by_source"}
        keep |= {f"perplexity_{n}": f"perplexity_{n}" for n in WINDOWS}
        content = {
            "what": "PyTorch, bf16 weights computed in the given dtype; triples are value and "
                    "95% limits; coqa last turn over all stories, perplexity in GPTQ windows",
            "configs": [{"method": r["method"], "dtype": r["dtype"]} | {k: r[k] for k in keep}
                        for r in rows],
            "predictions_float32": [
                {"id": x["id"], "prediction": p} for x, p in zip(records, rows[0]["predictions"])],
            "nll_256_float32": rows[0]["nll_256"],
        }
        with open(args.reference, "w") as f:
            json.dump(content, f, indent=1)
            f.write("\n")


if __name__ == "__main__":
    main()
